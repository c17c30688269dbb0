//! The numbers that one may want to change, with the values that are right for most clusters.

use std::time::Duration;

/// Intervals and limits of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// The leader tells the other controllers this often that it is there.
    pub heartbeat: Duration,
    /// A controller that hears of no leader for `election_max` and then a random time from here ...
    pub election_min: Duration,
    /// ... to here asks to be elected. With the defaults a killed leader is replaced 0.55 to 0.7 s after its last word.
    pub election_max: Duration,
    /// A snapshot is made after so many entries.
    pub snapshot_after: u64,
    /// A log of more bytes than this is cut: a snapshot is made, and what it covers is removed.
    pub log_bytes: u64,
    /// The log's size is looked at this often.
    pub log_look: Duration,
    /// So many entries before a snapshot are kept for controllers that lag.
    pub keep_log: u64,
    /// Sending a snapshot to another controller may take this long.
    pub snapshot_timeout: Duration,
    /// Agents send a heartbeat this often.
    pub node_heartbeat: Duration,
    /// A node that is silent for this long is down.
    pub node_timeout: Duration,
    /// A new leader declares no node down before this time has passed.
    pub leader_grace: Duration,
    /// Reports of nodes are gathered for this long before they are proposed as one.
    pub report_delay: Duration,
    /// How long a node's certificate is valid; it is renewed between 50 and 80 % of that.
    pub certificate_life: Duration,
    /// A proposal or a read waits at most this long for a leader.
    pub patience: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(200),
            election_max: Duration::from_millis(350),
            snapshot_after: 10_000,
            log_bytes: 128 * 1024 * 1024,
            log_look: Duration::from_secs(5),
            keep_log: 500,
            snapshot_timeout: Duration::from_secs(60),
            node_heartbeat: Duration::from_millis(500),
            node_timeout: Duration::from_millis(2500),
            leader_grace: Duration::from_secs(3),
            report_delay: Duration::from_millis(20),
            certificate_life: Duration::from_secs(90 * 24 * 3600),
            patience: Duration::from_secs(5),
        }
    }
}

//! Pure. One host of the cluster.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::name::RequestId;
use crate::time::Timestamp;

/// What a node may do in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// Runs tasks and holds a copy of the cluster's state.
    Controller,
    /// Runs tasks.
    Worker,
}

impl NodeRole {
    /// As people write it and as `node.role` matches it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Worker => "worker",
        }
    }
}

/// Whether new tasks may be placed on a node. Written by the user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// Takes tasks.
    #[default]
    Active,
    /// Takes no new tasks; those that it has are moved away.
    Drain,
}

/// Whether the leader hears from a node. Written by the leader's liveness watch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// It reports in time.
    Ready,
    /// It joined and was not heard yet, or is not heard any more.
    #[default]
    Down,
}

/// What a node says of itself when it registers. Written by its agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescription {
    /// The host's own name.
    pub hostname: String,
    /// `linux`.
    pub operating_system: String,
    /// As OCI images name it: `amd64`, `arm64`.
    pub architecture: String,
    /// The kernel's release.
    pub kernel: String,
    /// The version of `stackd`.
    pub version: String,
    /// Processors, in thousandths of one.
    pub cpu_millis: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// What the host reaches otherwise than by the networks between hosts: its own subnets and routes, but no default
    /// route. A network's subnet must not meet one.
    #[serde(default)]
    pub routes: Vec<IpNet>,
    /// Labels from the host's own configuration file (`engine.labels.*`).
    #[serde(default)]
    pub engine_labels: BTreeMap<String, String>,
    /// How it takes part in encrypted networks; `None`: it has not said so yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<NodeEncryption>,
}

/// How a host takes part in encrypted networks, as it says itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEncryption {
    /// Grows with every change of the keys.
    pub announcement: u64,
    /// The keys by which others may send to it, at most two: the first is the one to use. The other one is going, or coming.
    pub keys: Vec<TunnelKey>,
    /// Why it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unable: Option<String>,
}

/// A key by which others send to a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelKey {
    /// Of WireGuard: 32 bytes in base64.
    pub public_key: String,
    /// The UDP port that it is listened for on.
    pub port: u16,
}

/// One host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Drawn by the node when it joined.
    pub id: NodeId,
    /// Unique among the nodes; the hostname, with a number where that is taken.
    pub name: String,
    /// Where its `stackd` listens. Data, not identity: it may change.
    pub address: SocketAddr,
    /// Fixed at join.
    pub role: NodeRole,
    /// Written by the user.
    #[serde(default)]
    pub availability: Availability,
    /// Written by the leader.
    #[serde(default)]
    pub readiness: Readiness,
    /// When `readiness` last changed.
    pub readiness_since: Timestamp,
    /// Written by the user (`node.labels.*`).
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Written by the agent.
    pub description: NodeDescription,
    /// The revision as of which everything that its networks' documents say is in force on it. Written by the agent.
    #[serde(default)]
    pub networks_applied: u64,
    /// The revision at which it last announced keys for encrypted networks.
    #[serde(default)]
    pub encryption_since: u64,
    /// When it joined.
    pub joined_at: Timestamp,
    /// The user's request that last changed its availability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
}

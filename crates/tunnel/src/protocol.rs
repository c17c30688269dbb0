//! What `stackd` and `stack-tunnel` say to each other by a socket of the host: one JSON value a line, an answer to each
//! question.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::key::{PrivateKey, PublicKey};

/// The longest line that is read, in bytes: some 20,000 peers.
pub const LONGEST_LINE: u64 = 4 * 1024 * 1024;

/// To the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Be like this, and say what is so.
    Set(Settings),
    /// Say what is so.
    Show,
    /// End.
    Stop,
}

/// What an interface should be: whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Whose interface it is. An interface keeps its key for life.
    pub private_key: PrivateKey,
    /// The UDP port that it listens on.
    pub port: u16,
    /// Of the interface, in bytes.
    pub mtu: u16,
    /// Everybody whom it speaks to.
    pub peers: Vec<Peer>,
}

/// Somebody at the other end. Packets for [`PublicKey::address`] go there, and only packets from it are taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Who.
    pub public_key: PublicKey,
    /// Where its interface listens.
    pub endpoint: SocketAddr,
}

/// From the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Response {
    /// What is so.
    State(State),
    /// It ends.
    Stopping,
    /// It could not.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What an interface is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Of its key; `None`: it has none yet.
    pub public_key: Option<PublicKey>,
    /// The UDP port that it listens on.
    pub port: u16,
    /// In the order of their keys.
    pub peers: Vec<PeerState>,
}

/// What is known of somebody at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerState {
    /// Who.
    pub public_key: PublicKey,
    /// Where it was heard last, or is expected.
    pub endpoint: Option<SocketAddr>,
    /// Since both last agreed on keys for packets; `None`: they never did.
    pub handshake_seconds: Option<u64>,
    /// Bytes that came from there.
    pub received: u64,
    /// Bytes that went there.
    pub sent: u64,
}

//! What a node and the leader say to each other. Only for the node whose certificate it is.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use stack_model::{Assignment, GuestAnswer, GuestWishes, NetworkDocument, NodeDescription, NodeId};

/// `POST /v1/node/register`: a member says what and where it is now. Repeated after every start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// Checked against the certificate.
    pub node: NodeId,
    /// Where its `stackd` listens.
    pub address: SocketAddr,
    /// What it says of itself.
    pub description: NodeDescription,
}

/// The answer to a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterResponse {
    /// How often to send a heartbeat.
    pub heartbeat_milliseconds: u64,
    /// Where the controllers listen now.
    pub controllers: Vec<SocketAddr>,
}

/// `POST /v1/node/heartbeat`. Served by the leader; never enters the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatRequest {
    /// Checked against the certificate.
    pub node: NodeId,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatResponse {
    /// Where the controllers listen now.
    pub controllers: Vec<SocketAddr>,
    /// The announcement of the node's keys that everybody who sends to it has put into force; 0: not the last one yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub keys_in_force: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// `GET /v1/node/assignment?node=ID&after=GENERATION`: answered when there is a newer one, or after 30 s with none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssignmentQuery {
    /// Checked against the certificate.
    pub node: NodeId,
    /// The generation that the node has; 0 for none.
    pub after: u64,
}

/// The answer to an assignment query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssignmentResponse {
    /// `None`: nothing newer in time; ask again.
    pub assignment: Option<Assignment>,
}

/// `POST /v1/node/networks`: answered when the node is on other networks than it knows of, when one of their documents
/// has changed, or after 30 s with nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworksRequest {
    /// Checked against the certificate.
    pub node: NodeId,
    /// The generations of the documents that the node has, by network.
    pub known: BTreeMap<String, u64>,
    /// The revision as of which everything that it was told is in force on it; 0: nothing yet.
    pub applied: u64,
}

/// `POST /v1/node/guests`: which of its containers that belong to no stack are, or shall be, on networks between hosts. Always
/// all of them: whoever is not named any more gives its addresses back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestsRequest {
    /// Checked against the certificate.
    pub node: NodeId,
    /// Drawn by each start of the node's daemon.
    pub life: u64,
    /// Grows with each word of that life: an older one that comes late is not listened to.
    pub sequence: u64,
    /// By network and container.
    pub guests: GuestWishes,
}

/// The answer to a guests request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestsResponse {
    /// By network and container, for each that was named.
    pub guests: BTreeMap<String, BTreeMap<String, GuestAnswer>>,
}

/// `GET /v1/node/all-networks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllNetworksQuery {
    /// Checked against the certificate.
    pub node: NodeId,
}

/// The answer to a networks request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworksResponse {
    /// `None`: nothing new in time; ask again.
    pub news: Option<NetworksNews>,
}

/// What a node is told of its networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworksNews {
    /// Of the state that this was read from: what the node acknowledges.
    pub revision: u64,
    /// The generations of all networks that the node is on; one that is not here it has left.
    pub networks: BTreeMap<String, u64>,
    /// The documents that differ from what the node has.
    pub documents: Vec<NetworkDocument>,
}

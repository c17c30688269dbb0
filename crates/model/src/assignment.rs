//! Pure. What one host shall do: whole, with a generation. Derived from the state by the planner.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::files::Contents;
use crate::id::{NodeId, TaskId};
use crate::name::{RequestId, ServiceKey};
use crate::network::AssignedNetwork;
use crate::task::{Slot, TaskSpec};

/// Whether a task should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesiredState {
    /// It should.
    Running,
    /// It should end, and what it left (its log above all) is kept until the task leaves the assignment.
    Stopped,
}

/// One task of an assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssignedTask {
    /// Whose replica it is.
    pub service: ServiceKey,
    /// Which replica.
    pub slot: Slot,
    /// What runs.
    pub spec: Arc<TaskSpec>,
    /// Whether it should run now.
    pub desired: DesiredState,
    /// Its addresses on each of its networks, by the network's full name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    /// The user's request that this comes of, for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
}

/// A name and a password for a registry, for the hosts that need it. Not printed by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryCredential {
    /// The name.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl std::fmt::Debug for RegistryCredential {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RegistryCredential").field("username", &self.username).finish_non_exhaustive()
    }
}

/// All that one host shall do. A task that is not in it is removed from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// For whom.
    pub node: NodeId,
    /// Grows with every change to this document; an older one is refused.
    pub generation: u64,
    /// By id.
    pub tasks: BTreeMap<TaskId, AssignedTask>,
    /// By the registry's host and port, only for those that the tasks' images come from.
    #[serde(default)]
    pub registry_credentials: BTreeMap<String, RegistryCredential>,
    /// The networks that the host is on, by full name.
    #[serde(default)]
    pub networks: BTreeMap<String, AssignedNetwork>,
    /// What the secrets and configs of the tasks hold. Never written to the host's disk.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contents: Contents,
}

//! Pure. Tasks: what the leader decided. Written by the leader's plan through `apply`; `status` is the agent's.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::assignment::DesiredState;
use crate::files::TaskFile;
use crate::id::{NodeId, TaskId};
use crate::name::{RequestId, ServiceKey};
use crate::network::Draining;
use crate::report::TaskStatus;
use crate::spec::{ContainerSpec, NetworkAttachment, PublishedPort, Resources, RestartPolicy, VolumeSpec};
use crate::time::Timestamp;

/// Which replica of its service a task is. A slot outlives its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// Of a replicated service, counted from 1.
    Replica(u32),
    /// Of a global service: its node.
    Node(NodeId),
}

impl fmt::Display for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(number) => formatter.pad(&number.to_string()),
            Self::Node(node) => formatter.pad(&node.short()),
        }
    }
}

/// How far a task has come. It only moves forward; restarts of the container inside a task do not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Decided by the leader; its node has not answered yet.
    Assigned,
    /// The node fetches the image and makes volumes and networks.
    Preparing,
    /// The container is being started for the first time.
    Starting,
    /// It ran at least once. Whether it serves now is [`TaskStatus::ready`].
    Running,
    /// It was asked to end.
    Stopping,
    /// Ended as wanted: asked to stop, or exit code 0 where its restart policy lets that stand.
    Complete,
    /// Ended in failure and its restart policy is spent.
    Failed,
    /// Its node cannot run it, now or later: the status says why.
    Rejected,
    /// Its node was lost with it, or removed from the cluster. Written by the leader.
    Lost,
}

impl Phase {
    /// Nothing runs any more, and nothing will.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Failed | Self::Rejected | Self::Lost)
    }

    /// As printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// All that a host must know to run a task. It never changes; a changed service gets new tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// What runs.
    pub container: ContainerSpec,
    /// What it may use.
    #[serde(default)]
    pub resources: Resources,
    /// What the agent does when it ends.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// What its host publishes; every `published` is filled in.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// The networks it is on, by full name; among its names there is its service's own.
    #[serde(default)]
    pub networks: BTreeMap<String, NetworkAttachment>,
    /// The volumes that its mounts name, by the key that the mounts use.
    #[serde(default)]
    pub volumes: BTreeMap<String, VolumeSpec>,
    /// The secrets and configs that its container sees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<TaskFile>,
    /// The revision of the last deploy that replaced its service's tasks for the sake of another service. Written by `apply`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub round: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Task {
    /// It should run, and nothing says yet that it never will again.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(self.desired, DesiredState::Running) && !self.status.phase.is_terminal()
    }

    /// Something of it may still run on its node.
    #[must_use]
    pub const fn holds_its_node(&self) -> bool {
        !self.status.phase.is_terminal()
    }
}

/// One replica placed on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Drawn by the leader's plan.
    pub id: TaskId,
    /// Whose replica it is.
    pub service: ServiceKey,
    /// Which replica.
    pub slot: Slot,
    /// Where.
    pub node: NodeId,
    /// What. Shared with the service's other tasks.
    pub spec: Arc<TaskSpec>,
    /// The version of the service's spec that it was made from.
    pub spec_version: u64,
    /// Whether it should run. Written by the leader's plan.
    pub desired: DesiredState,
    /// Its addresses on each of its networks, by full name. Written by `apply`.
    #[serde(default)]
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    /// It shall end, and goes on until no host sends it anything new. Written by `apply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Draining>,
    /// The user's request that `desired` comes of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// When it was decided.
    pub created_at: Timestamp,
    /// The revision that made it: orders the tasks of a slot even while the cluster's time stands still.
    #[serde(default)]
    pub revision: u64,
    /// The last that its node said of it, or [`Phase::Lost`] by the leader.
    pub status: TaskStatus,
    /// Since when it is ready without a break, by the cluster's time. Written by `apply`.
    #[serde(default)]
    pub ready_since: Option<Timestamp>,
    /// When it came to a terminal phase, by the cluster's time. Written by `apply`.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
}

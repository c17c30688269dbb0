//! Pure. What a host saw. Written by its agent alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{NodeId, TaskId};
use crate::task::Phase;
use crate::time::Timestamp;

/// The verdict of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// In its start period, or no probe has ended yet.
    Starting,
    /// The last probe succeeded.
    Healthy,
    /// `retries` probes in a row failed.
    Unhealthy,
}

/// What a host saw of one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Only moves forward.
    pub phase: Phase,
    /// The container runs, and is healthy where it has a health check.
    pub ready: bool,
    /// `None`: no health check, or not running.
    #[serde(default)]
    pub health: Option<Health>,
    /// How often the container was started again within this task.
    #[serde(default)]
    pub restarts: u32,
    /// Why it is not further: the last failure, what is waited for, when it is tried again. For people.
    #[serde(default)]
    pub message: Option<String>,
    /// Of the container's last end; 128 + signal where a signal ended it.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// The last end was the kernel's out-of-memory killer's doing.
    #[serde(default)]
    pub out_of_memory: bool,
    /// The engine's id of its container.
    #[serde(default)]
    pub container: Option<String>,
    /// The container's first process, in the host's process namespace.
    #[serde(default)]
    pub pid: Option<u32>,
    /// When `phase` or `ready` last changed, by the host's clock.
    pub since: Timestamp,
}

impl TaskStatus {
    /// What a task has before its node has said anything.
    #[must_use]
    pub const fn assigned(now: Timestamp) -> Self {
        Self {
            phase: Phase::Assigned,
            ready: false,
            health: None,
            restarts: 0,
            message: None,
            exit_code: None,
            out_of_memory: false,
            container: None,
            pid: None,
            since: now,
        }
    }
}

/// What a host says of all its tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Who says it; checked against the certificate.
    pub node: NodeId,
    /// The assignment that it speaks of.
    pub generation: u64,
    /// Every task that it has, or only those that changed since its last accepted report.
    pub tasks: BTreeMap<TaskId, TaskStatus>,
}

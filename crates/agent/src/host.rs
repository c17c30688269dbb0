//! What the agent needs of a host: to look at it, and to carry out one step. The engine is one; the simulation's fake is
//! another, and both pass the same conformance test.

use std::collections::BTreeMap;
use std::future::Future;

use serde::{Deserialize, Serialize};
use stack_model::{Health, TaskId, Timestamp};

use crate::networks::HostNetworks;
use crate::plan::Step;

/// What a host has that belongs to the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The containers, by the task that each was made for.
    pub containers: BTreeMap<TaskId, ObservedContainer>,
}

/// One container of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedContainer {
    /// The engine's id.
    pub id: String,
    /// How it is.
    pub state: ObservedState,
    /// Host ports that it holds while it runs: number and protocol's name.
    pub ports: Vec<(u16, &'static str)>,
}

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObservedState {
    /// Made, never started.
    Created,
    /// Its first process runs.
    Running {
        /// Of its first process.
        pid: u32,
        /// When it was started.
        since: Timestamp,
        /// `None`: no health check.
        health: Option<Health>,
    },
    /// Its first process has ended.
    Exited {
        /// 128 + signal where a signal ended it.
        code: i32,
        /// The kernel killed it for want of memory.
        out_of_memory: bool,
        /// When it was started.
        started: Timestamp,
        /// When it ended.
        finished: Timestamp,
    },
}

/// Why a step could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct StepFailure {
    /// For people: what is wrong, where, and what to do.
    pub message: String,
    /// The same step may work later: the registry is down, the disk full, a port taken.
    pub may_heal: bool,
}

/// A host, to the agent.
pub trait Host: Send + Sync + 'static {
    /// Everything on the host that belongs to a task, from the host itself and not from memory.
    fn observe(&self) -> impl Future<Output = Observed> + Send;

    /// Carries out one step. Doing a step twice does no harm.
    fn execute(&self, step: &Step) -> impl Future<Output = Result<(), StepFailure>> + Send;

    /// Makes the host's networks be as they are told: all of them, as a whole. What is so already is not touched.
    fn apply_networks(&self, networks: &HostNetworks) -> impl Future<Output = Result<(), StepFailure>> + Send;
}

//! The planner's state as Raft's machine: commands are JSON, `planner::apply` is what they do.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use stack_model::{RequestId, Timestamp};
use stack_planner::{Applied, Command, Entry, Rejected, State};
use tokio::sync::watch;

use crate::raft::machine::{ApplyEntryError, Machine, WriteSnapshot};

/// What is replicated.
#[derive(Debug, Serialize, Deserialize)]
struct Proposal {
    /// By the proposer's clock.
    time: Timestamp,
    /// The user's request that caused it.
    #[serde(default)]
    request: Option<RequestId>,
    command: Command,
}

/// Writes a command as it is replicated.
pub(super) fn encode(
    time: Timestamp,
    request: Option<&RequestId>,
    command: &Command,
) -> Result<Bytes, serde_json::Error> {
    #[derive(Serialize)]
    struct Borrowed<'command> {
        time: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        request: Option<&'command RequestId>,
        command: &'command Command,
    }
    serde_json::to_vec(&Borrowed { time, request, command }).map(Bytes::from)
}

/// Reads what the machine answered.
pub(super) fn decode_outcome(bytes: &[u8]) -> Result<Result<Applied, Rejected>, serde_json::Error> {
    serde_json::from_slice(bytes)
}

/// The state, and those who watch it.
pub(super) struct StateMachine {
    state: State,
    published: watch::Sender<Arc<State>>,
}

impl StateMachine {
    pub(super) fn new() -> (Self, watch::Receiver<Arc<State>>) {
        let (published, receiver) = watch::channel(Arc::default());
        (Self { state: State::default(), published }, receiver)
    }
}

impl Machine for StateMachine {
    fn apply(&mut self, index: u64, payload: &[u8]) -> Result<Bytes, ApplyEntryError> {
        let unreadable = |source| ApplyEntryError { index, source };
        let Proposal { time, request, command } = serde_json::from_slice(payload).map_err(unreadable)?;
        let kind = command.kind();
        let outcome = stack_planner::apply(&mut self.state, Entry { revision: index, time, request }, command);
        match &outcome {
            Ok(applied) => tracing::debug!(index, kind, changed = applied.changed, "applied"),
            Err(rejected) => tracing::debug!(index, kind, reason = %rejected, "refused"),
        }
        serde_json::to_vec(&outcome).map(Bytes::from).map_err(unreadable)
    }

    fn publish(&mut self) {
        if self.published.borrow().revision != self.state.revision {
            self.published.send_replace(Arc::new(self.state.clone()));
        }
    }

    fn snapshot(&self) -> WriteSnapshot {
        let state = self.state.clone();
        Box::new(move || serde_json::to_vec(&state))
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), serde_json::Error> {
        self.state = serde_json::from_slice(bytes)?;
        Ok(())
    }
}

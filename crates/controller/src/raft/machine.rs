//! The replicated state machine as Raft sees it: entries applied in order, snapshots as files.
//!
//! What the entries mean is a [`Machine`]'s business. Its state lives in memory; on disk are the log and the last snapshot.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::RaftSnapshotBuilder;
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};

use super::snapshot::{self, SnapshotFile};
use super::types::{LogId, Outcome, SnapshotMeta, StoredMembership, Types};

/// Why an entry cannot be applied. It was committed by others, so this controller must stop rather than skip it.
#[derive(Debug, thiserror::Error)]
#[error("entry {index} cannot be read: was it written by a newer version?")]
pub struct ApplyEntryError {
    /// Which.
    pub index: u64,
    /// Why.
    #[source]
    pub source: serde_json::Error,
}

/// Writes the state that was current when it was made.
pub type WriteSnapshot = Box<dyn FnOnce() -> Result<Vec<u8>, serde_json::Error> + Send + Sync>;

/// What is replicated. The same entries in the same order must make the same state everywhere.
pub trait Machine: Send + Sync + 'static {
    /// Applies one entry and answers its proposer.
    ///
    /// # Errors
    /// When this version cannot read the entry.
    fn apply(&mut self, index: u64, payload: &[u8]) -> Result<Bytes, ApplyEntryError>;

    /// Called after a run of entries, for whoever watches.
    fn publish(&mut self);

    /// The state as of now. Called between entries and must be cheap; what it returns is called on another thread.
    fn snapshot(&self) -> WriteSnapshot;

    /// Replaces the state by that of a snapshot.
    ///
    /// # Errors
    /// When the snapshot cannot be read.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), serde_json::Error>;
}

/// The machine with what Raft must know about it.
pub struct MachineStore {
    machine: Box<dyn Machine>,
    directory: Arc<PathBuf>,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl fmt::Debug for MachineStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MachineStore").field("applied", &self.applied).finish_non_exhaustive()
    }
}

/// Why the last snapshot cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum OpenMachineError {
    /// The file cannot be read, or is damaged.
    #[error("cannot read the last snapshot in {}", directory.display())]
    Snapshot {
        /// Where.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is whole, but this version does not understand its content.
    #[error("cannot understand the snapshot {}: was it written by a newer version?", path.display())]
    Restore {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl MachineStore {
    /// Takes up the last snapshot of a directory, which is made where it is missing.
    ///
    /// # Errors
    /// See [`OpenMachineError`].
    pub fn open(directory: &Path, mut machine: Box<dyn Machine>) -> Result<Self, OpenMachineError> {
        let refused = |source| OpenMachineError::Snapshot { directory: directory.to_owned(), source };
        let (mut applied, mut membership) = (None, StoredMembership::default());
        snapshot::prepare(directory).map_err(refused)?;
        if let Some(file) = snapshot::latest(directory).map_err(refused)? {
            let (meta, body) = file.read().map_err(refused)?;
            machine
                .restore(&body)
                .map_err(|source| OpenMachineError::Restore { path: file.path().to_owned(), source })?;
            (applied, membership) = (meta.last_log_id, meta.last_membership);
            machine.publish();
        }
        Ok(Self { machine, directory: Arc::new(directory.to_owned()), applied, membership })
    }
}

/// One snapshot being made, while entries go on being applied.
pub struct SnapshotBuilder {
    meta: SnapshotMeta,
    write: Option<WriteSnapshot>,
    directory: Arc<PathBuf>,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<super::types::Snapshot, io::Error> {
        let write = self.write.take().ok_or_else(|| io::Error::other("a snapshot builder builds once"))?;
        let (meta, directory) = (self.meta.clone(), Arc::clone(&self.directory));
        let file = tokio::task::spawn_blocking(move || {
            let body = write().map_err(io::Error::other)?;
            snapshot::write(&directory, &meta, &body)
        })
        .await
        .map_err(io::Error::other)??;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: file })
    }
}

impl RaftStateMachine<Types> for MachineStore {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + openraft::OptionalSend,
    {
        let mut answers = Vec::new();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let outcome = match entry.payload {
                EntryPayload::Blank => Bytes::new(),
                EntryPayload::Normal(payload) => {
                    self.machine.apply(entry.log_id.index, &payload.0).map_err(io::Error::other)?
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Bytes::new()
                }
            };
            self.applied = Some(entry.log_id);
            answers.extend(responder.map(|responder| (responder, outcome)));
        }
        // Whoever gets an answer must see its effect in what is published.
        self.machine.publish();
        for (responder, outcome) in answers {
            responder.send(Outcome(outcome));
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        SnapshotBuilder {
            meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
            write: Some(self.machine.snapshot()),
            directory: Arc::clone(&self.directory),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let (meta, directory) = (meta.clone(), Arc::clone(&self.directory));
        let (meta, body) = tokio::task::spawn_blocking(move || {
            let (_, body) = snapshot.read()?;
            snapshot::keep(&directory, &meta, &snapshot)?;
            Ok::<_, io::Error>((meta, body))
        })
        .await
        .map_err(io::Error::other)??;
        self.machine.restore(&body).map_err(io::Error::other)?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership;
        self.machine.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<super::types::Snapshot>, io::Error> {
        let directory = Arc::clone(&self.directory);
        tokio::task::spawn_blocking(move || {
            let Some(file) = snapshot::latest(&directory)? else { return Ok(None) };
            let meta = file.read_meta()?;
            Ok(Some(Snapshot { meta, snapshot: file }))
        })
        .await
        .map_err(io::Error::other)?
    }
}

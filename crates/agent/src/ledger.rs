//! The assignment and the memory on disk: what the host goes on with when no controller can be reached.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stack_model::{Assignment, NodeId};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::memory::Memory;
use crate::networks::HostNetworks;

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read`, `write`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is damaged: {source}; remove it, and the host will ask the controllers anew", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A controller sent an assignment that is older than the one here, or different at the same generation.
    #[error("refused an assignment of generation {offered}: generation {present} is here already")]
    Stale {
        /// What came.
        offered: u64,
        /// What is here.
        present: u64,
    },
    /// A controller sent somebody else's assignment.
    #[error("refused an assignment for node {offered}: this is node {present}")]
    ForeignNode {
        /// For whom it was.
        offered: NodeId,
        /// Who this is.
        present: NodeId,
    },
}

/// Whether `offered` takes the place of `present`. False: it is the same.
///
/// # Errors
/// It is older, different at the same generation, or somebody else's.
pub fn is_news(present: &Assignment, offered: &Assignment) -> Result<bool, LedgerError> {
    if offered.node != present.node {
        return Err(LedgerError::ForeignNode { offered: offered.node, present: present.node });
    }
    if offered == present {
        return Ok(false);
    }
    if offered.generation <= present.generation {
        return Err(LedgerError::Stale { offered: offered.generation, present: present.generation });
    }
    Ok(true)
}

/// The three documents of one host.
#[derive(Debug)]
pub struct Ledger {
    directory: PathBuf,
    assignment: Assignment,
    memory: Memory,
    networks: HostNetworks,
    /// What is in force and not on disk.
    unsaved: Unsaved,
    /// It was said that the disk does not take it.
    complained: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Unsaved {
    assignment: bool,
    memory: bool,
    networks: bool,
}

impl Ledger {
    /// Opens what is in `directory`, or begins with nothing.
    ///
    /// # Errors
    /// A file cannot be read or is damaged.
    pub fn open(directory: &Path, node: NodeId) -> Result<Self, LedgerError> {
        std::fs::create_dir_all(directory).map_err(|source| LedgerError::File {
            action: "write",
            path: directory.to_owned(),
            source,
        })?;
        let empty = Assignment {
            node,
            generation: 0,
            tasks: Default::default(),
            registry_credentials: Default::default(),
            networks: Default::default(),
            contents: Default::default(),
        };
        let assignment: Assignment = read(&directory.join("assignment.json"))?.unwrap_or(empty);
        if assignment.node != node {
            return Err(LedgerError::ForeignNode { offered: assignment.node, present: node });
        }
        let memory = read(&directory.join("memory.json"))?.unwrap_or_default();
        let mut networks: HostNetworks = read(&directory.join("networks.json"))?.unwrap_or_default();
        networks.assigned.clone_from(&assignment.networks);
        let directory = directory.to_owned();
        Ok(Self { directory, assignment, memory, networks, unsaved: Unsaved::default(), complained: false })
    }

    /// What the host shall do.
    #[must_use]
    pub const fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// What the agent remembers.
    #[must_use]
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether everything that is in force is on disk.
    #[must_use]
    pub const fn is_saved(&self) -> bool {
        !(self.unsaved.assignment || self.unsaved.memory || self.unsaved.networks)
    }

    /// What was last heard of the host's networks.
    #[must_use]
    pub const fn networks(&self) -> &HostNetworks {
        &self.networks
    }

    /// Replaces what is known of the networks, on disk where it differs; where the disk does not take it, as
    /// [`accept`](Self::accept).
    pub fn set_networks(&mut self, networks: HostNetworks) {
        if networks != self.networks {
            self.networks = networks;
            self.unsaved.networks = true;
        }
        self.save();
    }

    /// Takes a newer assignment, on disk before anybody can act on it. A disk that does not take it, being full perhaps,
    /// is no reason not to do as asked, which may be what makes room: it is in force all the same, and written by the next
    /// [`save`](Self::save). False: it is the one that is here.
    ///
    /// # Errors
    /// It is older, different at the same generation, or somebody else's.
    pub fn accept(&mut self, mut offered: Assignment) -> Result<bool, LedgerError> {
        // What secrets hold is on no disk.
        offered.contents.clear();
        if !is_news(&self.assignment, &offered)? {
            return Ok(false);
        }
        self.assignment = offered;
        self.unsaved.assignment = true;
        self.save();
        Ok(true)
    }

    /// Replaces the memory, on disk where it differs; where the disk does not take it, as [`accept`](Self::accept).
    pub fn set_memory(&mut self, memory: Memory) {
        self.remember(memory);
        self.save();
    }

    /// Replaces the memory, in force at once and on disk with whatever is saved next.
    pub fn remember(&mut self, memory: Memory) {
        if memory != self.memory {
            self.memory = memory;
            self.unsaved.memory = true;
        }
    }

    /// Writes what is not on disk. Answers whether everything is; the log says when that changes.
    pub fn save(&mut self) -> bool {
        let outcome = self.write_unsaved();
        match &outcome {
            Ok(()) if self.complained => {
                tracing::info!("the assignment and the agent's memory are on disk again");
                self.complained = false;
            }
            Err(error) if !self.complained => {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                tracing::error!(%error, cause, "if this host restarts now, it starts from older knowledge");
                self.complained = true;
            }
            Ok(()) | Err(_) => {}
        }
        outcome.is_ok()
    }

    fn write_unsaved(&mut self) -> Result<(), LedgerError> {
        if self.unsaved.assignment {
            write(&self.directory.join("assignment.json"), &self.assignment)?;
            self.unsaved.assignment = false;
        }
        if self.unsaved.memory {
            write(&self.directory.join("memory.json"), &self.memory)?;
            self.unsaved.memory = false;
        }
        if self.unsaved.networks {
            write(&self.directory.join("networks.json"), &self.networks)?;
            self.unsaved.networks = false;
        }
        Ok(())
    }
}

/// The ledger, shared by the session that fills it and the loop that works from it. A disk may take its time: neither
/// waits for it on a thread that others need.
#[derive(Debug, Clone)]
pub struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// Shares a ledger.
    #[must_use]
    pub fn new(ledger: Ledger) -> Self {
        Self(Arc::new(Mutex::new(ledger)))
    }

    /// To look at it, when whoever changes it is done.
    pub async fn lock(&self) -> OwnedMutexGuard<Ledger> {
        Arc::clone(&self.0).lock_owned().await
    }

    /// Changes it on a thread that may wait for the disk.
    pub async fn change<R: Send + 'static>(&self, change: impl FnOnce(&mut Ledger) -> R + Send + 'static) -> R {
        let mut ledger = self.lock().await;
        let changed = tokio::task::spawn_blocking(move || change(&mut ledger)).await;
        changed.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only when the whole runtime ends, which nobody here outlives.
            Err(_cancelled) => std::panic::resume_unwind(Box::new("the runtime ends")),
        })
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, LedgerError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| LedgerError::Damaged { path: path.to_owned(), source }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LedgerError::File { action: "read", path: path.to_owned(), source }),
    }
}

/// Writes beside the old file, syncs, and renames over it: a crash leaves the old or the new one, whole. Readable by
/// its owner alone, as assignments carry credentials.
fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), LedgerError> {
    use std::os::unix::fs::OpenOptionsExt;

    let fail = |source| LedgerError::File { action: "write", path: path.to_owned(), source };
    let temporary = path.with_extension("new");
    let bytes = serde_json::to_vec(value).map_err(|error| fail(std::io::Error::other(error)))?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(fail)?;
    file.write_all(&bytes).map_err(fail)?;
    file.sync_data().map_err(fail)?;
    std::fs::rename(&temporary, path).map_err(fail)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(generation: u64) -> Assignment {
        Assignment {
            node: NodeId::from_bits(1),
            generation,
            tasks: Default::default(),
            registry_credentials: Default::default(),
            networks: Default::default(),
            contents: Default::default(),
        }
    }

    #[test]
    fn what_secrets_hold_is_not_on_disk() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut ledger = Ledger::open(directory.path(), NodeId::from_bits(1)).expect("opens");
        let id = stack_model::ContentId::of_bytes([7; 32]);
        let told = Assignment { contents: [(id, stack_model::Content(b"hunter2".to_vec()))].into(), ..assignment(7) };
        assert!(ledger.accept(told.clone()).expect("newer"));
        assert!(ledger.assignment().contents.is_empty());
        let written = std::fs::read_to_string(directory.path().join("assignment.json")).expect("a file");
        assert!(!written.contains("contents"), "{written}");
        assert!(!ledger.accept(told).expect("the same"), "it is refused as another one of the same generation");
    }

    #[test]
    fn an_older_assignment_is_refused_and_a_newer_one_survives() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let node = NodeId::from_bits(1);
        let mut ledger = Ledger::open(directory.path(), node).expect("opens");
        assert!(ledger.accept(assignment(7)).expect("newer"));
        assert!(!ledger.accept(assignment(7)).expect("the same"));
        assert!(matches!(ledger.accept(assignment(6)), Err(LedgerError::Stale { offered: 6, present: 7 })));
        drop(ledger);
        let mut ledger = Ledger::open(directory.path(), node).expect("opens again");
        assert_eq!(ledger.assignment().generation, 7);
        let foreign = Assignment { node: NodeId::from_bits(2), ..assignment(9) };
        assert!(matches!(ledger.accept(foreign), Err(LedgerError::ForeignNode { .. })));
    }

    #[tokio::test]
    async fn while_the_disk_takes_its_time_everything_else_goes_on() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let ledger = SharedLedger::new(Ledger::open(directory.path(), NodeId::from_bits(1)).expect("opens"));
        let (slow, disk) = std::sync::mpsc::channel();
        let change = ledger.change(move |ledger| {
            disk.recv().expect("the disk answers");
            ledger.accept(assignment(7))
        });
        // One thread runs both: had the first waited on it, the second would never come to speak.
        let (accepted, ()) = tokio::join!(change, async move { slow.send(()).expect("somebody waits") });
        assert!(accepted.expect("newer"));
        assert_eq!(ledger.lock().await.assignment().generation, 7);
    }

    #[test]
    fn what_is_remembered_is_in_force_and_on_disk_with_what_is_saved_next() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let node = NodeId::from_bits(1);
        let mut ledger = Ledger::open(directory.path(), node).expect("opens");
        ledger.remember(Memory::default());
        assert!(ledger.is_saved(), "nothing is new");
        let mut other = Memory::default();
        other.end_with_host([stack_model::TaskId::from_bits(3)]);
        ledger.remember(other.clone());
        assert_eq!((ledger.memory(), ledger.is_saved()), (&other, false));
        let on_disk = |directory: &Path| Ledger::open(directory, node).expect("opens again").memory().clone();
        assert_eq!(on_disk(directory.path()), Memory::default());
        assert!(ledger.save());
        assert_eq!(on_disk(directory.path()), other);
    }

    #[test]
    fn what_the_disk_does_not_take_is_in_force_and_written_later() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let directory = parent.path().join("agent");
        let node = NodeId::from_bits(1);
        let mut ledger = Ledger::open(&directory, node).expect("opens");
        std::fs::remove_dir(&directory).expect("removed");
        assert!(ledger.accept(assignment(7)).expect("newer"));
        assert_eq!(ledger.assignment().generation, 7);
        assert!(!ledger.save(), "there is no directory");
        std::fs::create_dir(&directory).expect("made");
        assert!(ledger.save());
        assert_eq!(Ledger::open(&directory, node).expect("opens again").assignment().generation, 7);
    }
}

//! What Raft asks of a log, on top of the journal: readable at once, durable when the callback comes.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::{oneshot, watch};

use super::disk::{Disk, HostDisk};
use super::index::{Index, Slot, Ticket};
use super::journal::{Journal, OpenLogError, SEGMENT_BYTES};
use super::record::{self, Record};
use crate::raft::types::{Entry, LogId, RaftId, Types, Vote};

/// Encoded entries are kept in memory up to this many bytes, the newest ones.
const CACHE_BYTES: usize = 4 * 1024 * 1024;
/// One write to the disk takes at most about so much.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Who is told when records are on the disk.
enum Done {
    Raft(IOFlushed<Types>),
    Waiter(oneshot::Sender<io::Result<()>>),
    Nobody,
}

enum Work {
    Write { records: Vec<Record>, tickets: Vec<Ticket>, done: Done },
    Close,
}

struct Shared<D> {
    disk: Arc<D>,
    inner: Mutex<Inner>,
    /// Set once, when the disk failed: nothing that is written afterwards would be known to be kept.
    failed: watch::Sender<Option<Arc<str>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    index: Index,
    /// Under the same lock as the index, so that the journal sees changes in the order in which the index did.
    work: mpsc::Sender<Work>,
}

impl<D> Shared<D> {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log of this controller. Clones are the same log.
pub struct LogStore<D: Disk = HostDisk> {
    shared: Arc<Shared<D>>,
}

impl<D: Disk> Clone for LogStore<D> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<D: Disk> fmt::Debug for LogStore<D> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LogStore").finish_non_exhaustive()
    }
}

impl LogStore {
    /// Opens the log in a directory, which is made where it is missing. One process at a time has it.
    ///
    /// # Errors
    /// See [`OpenLogError`].
    pub fn open(directory: &Path) -> Result<Self, OpenLogError> {
        let refused = |action: &str| {
            let action = format!("{action} {}", directory.display());
            move |source| OpenLogError::Disk { action, source }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(refused("make the directory"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(directory.join("lock"))
            .map_err(refused("open the lock file in"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let source = io::Error::new(io::ErrorKind::WouldBlock, "another process uses it");
                return Err(refused("take the lock")(source));
            }
            Err(TryLockError::Error(source)) => return Err(refused("take the lock")(source)),
        }
        Self::open_on(Arc::new(HostDisk::new(directory)), Some(lock))
    }
}

impl<D: Disk> LogStore<D> {
    /// Opens the log on a disk. The lock is held until the log is closed.
    ///
    /// # Errors
    /// See [`OpenLogError`].
    pub fn open_on(disk: Arc<D>, lock: Option<File>) -> Result<Self, OpenLogError> {
        let (journal, index) = Journal::open(Arc::clone(&disk))?;
        let (work, receiver) = mpsc::channel();
        let shared = Arc::new(Shared {
            disk,
            inner: Mutex::new(Inner { index, work }),
            failed: watch::Sender::new(None),
            writer: Mutex::new(None),
        });
        let weak = Arc::downgrade(&shared);
        let writer = std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || {
                write_until_closed(journal, &receiver, &weak);
                drop(lock);
            })
            .map_err(|source| OpenLogError::Disk { action: "start the writer".to_owned(), source })?;
        *shared.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
        Ok(Self { shared })
    }

    /// What is kept says that `own` was elected; a process that has just started forgets it, and keeps only that it voted
    /// for itself. Raft would otherwise go on leading where it was, and serve reads before it knows which of its last
    /// entries were acknowledged. Elected anew, it commits an entry of its own first, and with it all that came before.
    pub fn forget_leadership(&self, own: RaftId) {
        let mut inner = self.shared.lock();
        if let Some(vote) = inner.index.vote()
            && vote.committed
            && vote.leader_id.node_id == own
        {
            inner.index.set_vote(Vote { committed: false, ..vote });
        }
    }

    /// Tells when the disk failed, and how. The log must be closed then; it may be opened anew.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.shared.failed.subscribe()
    }

    /// About how many bytes the log has on the disk: whole segments are counted.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn size(&self) -> io::Result<u64> {
        let disk = Arc::clone(&self.shared.disk);
        let segments = tokio::task::spawn_blocking(move || disk.list()).await.map_err(io::Error::other)??;
        Ok(SEGMENT_BYTES.saturating_mul(segments.len() as u64))
    }

    /// Writes what is waiting and lets go of the directory. Later writes fail.
    pub async fn close(&self) {
        // A writer that is gone already has nothing left to write.
        let _ = self.shared.lock().work.send(Work::Close);
        let writer = self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let joined = tokio::task::spawn_blocking(move || writer.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the writer of the raft log ended in a panic");
            }
        }
    }

    /// Changes the index and sends what changed to the journal, as one step.
    fn submit(
        &self,
        done: Done,
        change: impl FnOnce(&mut Index) -> io::Result<(Vec<Record>, Vec<Ticket>)>,
    ) -> io::Result<()> {
        let mut inner = self.shared.lock();
        let (records, tickets) = change(&mut inner.index)?;
        inner.work.send(Work::Write { records, tickets, done }).map_err(|_closed| closed())?;
        drop(inner);
        Ok(())
    }

    async fn submit_and_wait(&self, record: Record, change: impl FnOnce(&mut Index)) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.submit(Done::Waiter(sender), |index| {
            change(index);
            Ok((vec![record], Vec::new()))
        })?;
        receiver.await.unwrap_or_else(|_dropped| Err(closed()))
    }
}

fn closed() -> io::Error {
    io::Error::other("the raft log is closed")
}

/// The writer: takes everything that waits, writes it, syncs once, and tells everybody.
fn write_until_closed<D: Disk>(
    mut journal: Journal<D>,
    receiver: &mpsc::Receiver<Work>,
    shared: &std::sync::Weak<Shared<D>>,
) {
    let mut failure: Option<Arc<str>> = None;
    let mut open = true;
    // A commit mark is worth no write of its own: it goes out with the next one.
    let mut committed = None;
    while open && let Ok(first) = receiver.recv() {
        let mut batch = Batch::default();
        open = batch.take(first, &mut committed);
        while open
            && batch.bytes < BATCH_BYTES
            && let Ok(more) = receiver.try_recv()
        {
            open = batch.take(more, &mut committed);
        }
        if batch.records.is_empty() && open {
            continue;
        }
        batch.records.extend(committed.take());
        let result = match &failure {
            Some(reason) => Err(io::Error::other(reason.to_string())),
            None => batch.write(&mut journal, shared),
        };
        if let Err(error) = &result
            && failure.is_none()
        {
            let reason: Arc<str> = format!("the disk of the raft log failed: {error}").into();
            tracing::error!(%reason, "this controller must stop: what it acknowledges next might not be kept");
            if let Some(shared) = shared.upgrade() {
                shared.failed.send_replace(Some(Arc::clone(&reason)));
            }
            failure = Some(reason);
        }
        for done in batch.done {
            let copy = match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            match done {
                Done::Raft(callback) => callback.io_completed(copy),
                Done::Waiter(sender) => {
                    // Whoever does not wait any more does not want to know.
                    let _ = sender.send(copy);
                }
                Done::Nobody => {}
            }
        }
    }
}

#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    tickets: Vec<Ticket>,
    done: Vec<Done>,
    bytes: usize,
    purged: Option<u64>,
}

impl Batch {
    /// Answers false when there is nothing to come.
    fn take(&mut self, work: Work, committed: &mut Option<Record>) -> bool {
        let Work::Write { records, tickets, done } = work else {
            return false;
        };
        for record in records {
            match &record {
                Record::Entry { encoded, .. } => self.bytes += encoded.len(),
                Record::Purge(through) => self.purged = self.purged.max(Some(through.index)),
                Record::Committed(_) => {
                    *committed = Some(record);
                    continue;
                }
                Record::Vote(_) | Record::Truncate(_) => {}
            }
            self.records.push(record);
        }
        self.tickets.extend(tickets);
        self.done.push(done);
        true
    }

    fn write<D: Disk>(&self, journal: &mut Journal<D>, shared: &std::sync::Weak<Shared<D>>) -> io::Result<()> {
        let locations = journal.write(&self.records)?;
        journal.sync()?;
        if let Some(shared) = shared.upgrade() {
            let index = &mut shared.lock().index;
            let entries = self.records.iter().zip(locations).filter_map(|(record, location)| match record {
                Record::Entry { log_id, .. } => Some((log_id.index, location)),
                Record::Vote(_) | Record::Truncate(_) | Record::Purge(_) | Record::Committed(_) => None,
            });
            for ((number, location), &ticket) in entries.zip(&self.tickets) {
                index.written(number, ticket, location);
            }
            index.evict(CACHE_BYTES);
        }
        match self.purged {
            Some(purged) => journal.remove_through(purged),
            None => Ok(()),
        }
    }
}

fn load<D: Disk>(disk: &D, slots: Vec<Slot>) -> io::Result<Vec<Entry>> {
    slots
        .into_iter()
        .map(|slot| {
            let encoded = match (slot.encoded, slot.location) {
                (Some(encoded), _) => encoded,
                (None, Some(location)) => {
                    let mut buffer = vec![0; location.length];
                    disk.read_at(location.segment, location.offset, &mut buffer)?;
                    Bytes::from(buffer)
                }
                (None, None) => return Err(io::Error::other(format!("entry {} is nowhere", slot.log_id.index))),
            };
            let entry = record::decode_entry(&encoded).map_err(io::Error::other)?;
            if entry.log_id == slot.log_id {
                Ok(entry)
            } else {
                Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "the raft log holds entry {} where entry {} was written",
                        entry.log_id.index, slot.log_id.index
                    ),
                ))
            }
        })
        .collect()
}

impl<D: Disk> RaftLogReader<Types> for LogStore<D> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + fmt::Debug + openraft::OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let slots = self.shared.lock().index.range(range.start_bound(), range.end_bound());
        if slots.iter().all(|slot| slot.encoded.is_some()) {
            return load(&*self.shared.disk, slots);
        }
        let disk = Arc::clone(&self.shared.disk);
        let loaded = tokio::task::spawn_blocking(move || load(&*disk, slots)).await.map_err(io::Error::other)?;
        match loaded {
            // The segment may have been removed between the look at the index and the reading of the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let purged = self.shared.lock().index.purged();
                let start = Bound::Excluded(purged.map_or(0, |purged| purged.index));
                let slots = self.shared.lock().index.range(start.as_ref(), range.end_bound());
                load(&*self.shared.disk, slots)
            }
            loaded => loaded,
        }
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.lock().index.vote())
    }
}

impl<D: Disk> RaftLogStorage<Types> for LogStore<D> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let inner = self.shared.lock();
        Ok(LogState { last_purged_log_id: inner.index.purged(), last_log_id: inner.index.last() })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        self.submit_and_wait(Record::Vote(vote), |index| index.set_vote(vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.submit(Done::Nobody, |index| {
            index.set_committed(committed);
            Ok((vec![Record::Committed(committed)], Vec::new()))
        })
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.lock().index.committed())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + openraft::OptionalSend,
        I::IntoIter: openraft::OptionalSend,
    {
        let encoded = entries
            .into_iter()
            .map(|entry| Ok((entry.log_id, record::encode_entry(&entry).map_err(io::Error::other)?)))
            .collect::<io::Result<Vec<_>>>()?;
        self.submit(Done::Raft(callback), |index| {
            let mut records = Vec::with_capacity(encoded.len());
            let mut tickets = Vec::with_capacity(encoded.len());
            for (log_id, encoded) in encoded {
                tickets.push(index.append(log_id, Some(encoded.clone()), None).map_err(io::Error::other)?);
                records.push(Record::Entry { log_id, encoded });
            }
            Ok((records, tickets))
        })
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.submit_and_wait(Record::Truncate(last_log_id), |index| index.truncate(last_log_id)).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.submit(Done::Nobody, |index| {
            index.purge(log_id);
            Ok((vec![Record::Purge(log_id)], Vec::new()))
        })
    }
}

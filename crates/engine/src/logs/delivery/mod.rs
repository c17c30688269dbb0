//! Sends a container's log to whoever its driver names. What is sent is read from the log's files, which the shim writes
//! whether this process lives or not; how far it is is on disk. So nothing is lost while nobody sends or nobody takes it, until
//! the files are rotated away; what was sent shortly before a crash is sent again.

mod connection;
mod cursor;
mod tls;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use stack_shim::log_record::{HEAD, TAIL};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use self::connection::Connection;
pub use self::connection::SendError;
pub use self::cursor::Lost;
use self::cursor::{Cursor, CursorFile};
use super::endpoint::Endpoint;
use super::message::{Batch, Encoder, Line, text};
use super::options::Remote;
use super::reader::{Reader, numbers};
use super::{LogRecord, NamesGuard};

/// How soon what is written is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// How seldom, where little is written.
const LOOK_SELDOM: Duration = Duration::from_millis(500);
/// The longest pause between two attempts.
const PAUSE: Duration = Duration::from_secs(30);
/// How often the cursor is written while much is sent.
const SAVE: Duration = Duration::from_secs(1);
/// How long what a container has left is offered after its removal.
const AFTER_REMOVAL: Duration = Duration::from_secs(60);

/// What there is to say of a container's delivery.
#[derive(Debug, Clone, Default)]
pub struct Status(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    trouble: Option<String>,
    lost: Lost,
}

impl Status {
    fn change(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What is wrong, in words for people; nothing when all is well.
    pub fn troubles(&self) -> Vec<String> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<String> = told.trouble.iter().cloned().collect();
        if told.lost.files > 0 {
            all.push(format!(
                "{} files of the log were rotated away before they were sent: raise cache-max-size or cache-max-file",
                told.lost.files
            ));
        }
        if told.lost.lines > 0 {
            all.push(format!("{} lines of the log could not be sent and were given up", told.lost.lines));
        }
        all
    }
}

/// What is counted of all deliveries of an engine.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Records that were sent.
    pub sent: Counter,
    /// Attempts that failed.
    pub failures: Counter,
    /// Lines that were given up.
    pub lost_lines: Counter,
    /// Files that were rotated away before they were sent.
    pub lost_files: Counter,
}

/// One delivery.
pub struct Delivery {
    /// The container, for messages.
    pub id: String,
    /// Its directory, which has the cursor.
    pub directory: PathBuf,
    /// Where its log is.
    pub logs: PathBuf,
    /// Where to.
    pub remote: Remote,
    /// In which form.
    pub encoder: Encoder,
    /// Whether the log may still grow; gone with the container.
    pub writing: watch::Receiver<bool>,
    /// Lends the names of the log's files.
    pub names: Arc<tokio::sync::RwLock<()>>,
    /// Says how it goes.
    pub status: Status,
    /// Counts.
    pub counters: Counters,
}

/// Whether somebody is there.
///
/// # Errors
/// When nobody is.
pub async fn reach(remote: &Remote) -> Result<(), SendError> {
    Connection::open(&remote.endpoint, remote.timeout).await.map(drop)
}

/// Why a delivery is over.
enum Over {
    /// The container is gone, and what it left is sent or given up.
    Removed,
}

struct Open {
    connection: Connection,
    since: Instant,
}

struct Sender {
    delivery: Delivery,
    file: CursorFile,
    cursor: Cursor,
    saved: Cursor,
    saved_at: Instant,
    reader: Reader,
    names: Option<NamesGuard>,
    open: Option<Open>,
    /// The container is gone: until then what it left is offered.
    deadline: Option<Instant>,
}

impl Delivery {
    /// Sends until the container is gone.
    pub async fn run(self) {
        let file = CursorFile::new(&self.directory);
        let loaded = match file.load() {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::warn!(container = %self.id, %error, "how far its log was sent cannot be read: all of it is sent again");
                None
            }
        };
        let first = numbers(&self.logs).ok().and_then(|all| all.first().copied()).unwrap_or(1);
        let cursor = loaded.unwrap_or_else(|| Cursor { file: first, ..Cursor::default() });
        let mut reader = Reader::at(&self.logs, cursor.file, cursor.offset);
        reader.chunk = self.remote.chunk;
        self.status.change(|told| told.lost = cursor.lost);
        let mut sender = Sender {
            file,
            saved: cursor.clone(),
            saved_at: Instant::now(),
            cursor,
            reader,
            names: None,
            open: None,
            deadline: None,
            delivery: self,
        };
        let Over::Removed = sender.run().await;
    }
}

impl Sender {
    async fn run(&mut self) -> Over {
        let mut look = LOOK;
        loop {
            // Asked before reading: what was written before the end is read after it was known.
            let writing = *self.delivery.writing.borrow_and_update();
            self.take_names(writing);
            let mut records = VecDeque::new();
            let found = match self.reader.read(&mut records) {
                Ok(found) => found,
                Err(error) => {
                    // What comes behind the damage is read next; a disk that fails is asked again.
                    tracing::warn!(
                        container = %self.delivery.id,
                        error = crate::container::text_of(&error),
                        "its log cannot be read to be sent"
                    );
                    sleep(LOOK_SELDOM).await;
                    if self.delivery.writing.has_changed().is_err() {
                        return Over::Removed;
                    }
                    true
                }
            };
            self.count_missed();
            if !records.is_empty() {
                look = LOOK;
                if let Err(over) = self.send(records.make_contiguous()).await {
                    return over;
                }
                self.save(SAVE);
                continue;
            }
            if found {
                continue;
            }
            self.save(Duration::ZERO);
            if self.deadline.is_some() {
                return Over::Removed;
            }
            if !writing {
                // Nothing comes until it is started again.
                self.open = None;
                match self.delivery.writing.changed().await {
                    Ok(()) => {}
                    Err(_removed) => return Over::Removed,
                }
                continue;
            }
            let next = look;
            look = (look * 2).min(LOOK_SELDOM);
            tokio::select! {
                () = sleep(next) => {}
                changed = self.delivery.writing.changed() => self.note_removal(changed.is_err()),
            }
        }
    }

    /// Holds the names of the files while the log grows, and the files themselves once it does not.
    fn take_names(&mut self, writing: bool) {
        if writing && self.deadline.is_none() {
            if self.names.is_none() {
                self.names = Arc::clone(&self.delivery.names).try_read_owned().ok();
                self.reader.release();
            }
            return;
        }
        if !self.reader.holds()
            && let Err(error) = self.reader.hold()
        {
            tracing::warn!(
                container = %self.delivery.id,
                error = crate::container::text_of(&error),
                "its log cannot be opened to be sent"
            );
        }
        self.names = None;
    }

    fn note_removal(&mut self, removed: bool) {
        if removed && self.deadline.is_none() {
            self.deadline = Some(Instant::now() + AFTER_REMOVAL);
        }
    }

    fn count_missed(&mut self) {
        let missed = std::mem::take(&mut self.reader.missed);
        if missed == 0 {
            return;
        }
        self.cursor.lost.files = self.cursor.lost.files.saturating_add(missed);
        self.delivery.counters.lost_files.inc_by(missed);
        let lost = self.cursor.lost;
        self.delivery.status.change(|told| told.lost = lost);
        tracing::warn!(
            container = %self.delivery.id,
            files = missed,
            endpoint = %self.delivery.remote.endpoint,
            "its log was rotated away before it was sent"
        );
    }

    fn count_lost(&mut self, lines: u64) {
        if lines == 0 {
            return;
        }
        self.cursor.lost.lines = self.cursor.lost.lines.saturating_add(lines);
        self.delivery.counters.lost_lines.inc_by(lines);
        let lost = self.cursor.lost;
        self.delivery.status.change(|told| told.lost = lost);
        tracing::warn!(
            container = %self.delivery.id,
            lines,
            endpoint = %self.delivery.remote.endpoint,
            "lines of its log could not be sent and were given up"
        );
    }

    /// Sends records, trying again for as long as it takes, or as often as it may.
    async fn send(&mut self, records: &[LogRecord]) -> Result<(), Over> {
        let mut under_way = self.cursor.under_way.clone();
        let id = &self.delivery.id;
        // They are of one file, and end where the reader goes on.
        let (file, end) = self.reader.position();
        let mut place = end.saturating_sub(records.iter().map(size_on_disk).sum());
        let lines: Vec<Line<'_>> = records
            .iter()
            .map(|record| {
                // The same when it is sent again, and never another line's.
                let part = under_way.part(record, || line_id(id, file, place));
                place += size_on_disk(record);
                Line { time: record.time, source: record.source, text: text(record), part }
            })
            .collect();
        let batch = self.delivery.encoder.encode(&lines, rand::random);
        let count = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        drop(lines);
        match self.deliver(&batch).await? {
            Some(unfit) => {
                self.delivery.counters.sent.inc_by(count.saturating_sub(unfit));
                self.count_lost(unfit.saturating_add(batch.unfit));
            }
            None => self.count_lost(count),
        }
        (self.cursor.file, self.cursor.offset) = self.reader.position();
        self.cursor.under_way = under_way;
        Ok(())
    }

    /// How many messages were too long; `None` when the batch is given up.
    async fn deliver(&mut self, batch: &Batch) -> Result<Option<u64>, Over> {
        let mut pause = self.delivery.remote.retry_wait;
        let mut attempts = 0u32;
        loop {
            match self.attempt(batch).await {
                Ok(unfit) => {
                    self.well();
                    return Ok(Some(unfit));
                }
                Err(error) => {
                    self.open = None;
                    self.delivery.counters.failures.inc();
                    self.unwell(&error);
                }
            }
            if self.delivery.remote.max_retries.is_some_and(|most| attempts >= most) {
                return Ok(None);
            }
            attempts = attempts.saturating_add(1);
            self.wait(pause).await?;
            pause = (pause * 2).clamp(Duration::from_millis(10), PAUSE);
        }
    }

    async fn attempt(&mut self, batch: &Batch) -> Result<u64, SendError> {
        let remote = &self.delivery.remote;
        let is_old = |open: &Open| remote.reconnect_after.is_some_and(|most| open.since.elapsed() >= most);
        let mut open = match self.open.take().filter(|open| !is_old(open)) {
            Some(open) => open,
            None => {
                Open { connection: Connection::open(&remote.endpoint, remote.timeout).await?, since: Instant::now() }
            }
        };
        let sent = open.connection.send(batch).await?;
        self.open = Some(open);
        Ok(sent)
    }

    /// Waits before the next attempt. The files are held meanwhile when the container ends.
    async fn wait(&mut self, pause: Duration) -> Result<(), Over> {
        self.save(SAVE);
        let until = Instant::now() + pause;
        loop {
            let writing = *self.delivery.writing.borrow_and_update();
            if !writing {
                self.take_names(false);
            }
            let end = self.deadline.map_or(until, |deadline| deadline.min(until));
            tokio::select! {
                () = sleep_until(end) => {
                    if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        tracing::warn!(
                            container = %self.delivery.id,
                            endpoint = %self.delivery.remote.endpoint,
                            "it was removed, and the end of its log could not be sent"
                        );
                        return Err(Over::Removed);
                    }
                    return Ok(());
                }
                changed = self.delivery.writing.changed(), if self.deadline.is_none() => {
                    self.note_removal(changed.is_err());
                }
            }
        }
    }

    fn unwell(&self, error: &SendError) {
        let text = error.text();
        let mut begins = false;
        self.delivery.status.change(|told| {
            begins = told.trouble.is_none();
            told.trouble = Some(format!("the log is not sent: {text}"));
        });
        if begins {
            tracing::warn!(container = %self.delivery.id, error = text, "its log is not sent; it is kept and tried again");
        }
    }

    fn well(&self) {
        let mut ends = false;
        self.delivery.status.change(|told| ends = told.trouble.take().is_some());
        if ends {
            let endpoint: &Endpoint = &self.delivery.remote.endpoint;
            tracing::info!(container = %self.delivery.id, %endpoint, "its log is sent again");
        }
    }

    /// Writes the cursor if it has changed, unless it was written less than `age` ago.
    fn save(&mut self, age: Duration) {
        // The directory goes with the container.
        if self.deadline.is_some() || self.cursor == self.saved || self.saved_at.elapsed() < age {
            return;
        }
        match self.file.save(&self.cursor) {
            Ok(()) => self.saved = self.cursor.clone(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(container = %self.delivery.id, %error, "how far its log was sent cannot be written down");
            }
        }
        self.saved_at = Instant::now();
    }
}

fn size_on_disk(record: &LogRecord) -> u64 {
    u64::try_from(HEAD + record.output.len() + TAIL).unwrap_or(u64::MAX)
}

/// The name of a long line: the place where it begins.
fn line_id(container: &str, file: u64, place: u64) -> String {
    use sha2::Digest as _;
    let sum = sha2::Sha256::digest(format!("{container}/{file}/{place}"));
    hex::encode(sum).chars().take(32).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

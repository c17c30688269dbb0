//! Reading containers' logs: from the beginning or the end, up to a time, and on as they are written.

pub(crate) mod delivery;
mod endpoint;
pub(crate) mod message;
pub(crate) mod options;
mod reader;
pub(crate) mod subject;
mod values;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
pub use stack_shim::log_record::{LONGEST_OUTPUT, Stream as Source};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

pub use self::options::DRIVERS;
use self::reader::{Reader, numbers, tail};

/// How often a followed log is looked at. The shim writes lines as they come and tells nobody.
const LOOK: Duration = Duration::from_millis(50);

/// Which part of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Go on until the container ends.
    pub follow: bool,
    /// Not before, in nanoseconds since the Unix epoch.
    pub since: Option<u64>,
    /// Not after, in nanoseconds since the Unix epoch.
    pub until: Option<u64>,
    /// So many records from the end of what is there; all unless said otherwise.
    pub tail: Option<usize>,
}

/// One record: a line, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Nanoseconds since the Unix epoch.
    pub time: u64,
    /// Where it came from.
    pub source: Source,
    /// As it was written, with its line end.
    pub output: Bytes,
    /// The line goes on in the next record of the source.
    pub partial: bool,
}

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no such container.
    #[error("there is no container {id}")]
    Missing {
        /// Which.
        id: String,
    },
    /// Its driver keeps it for itself.
    #[error("the log of container {id} cannot be read here: its option cache-disabled says so")]
    NotReadable {
        /// Which.
        id: String,
    },
    /// The disk.
    #[error("could not read the log {path}")]
    Disk {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is damaged; what comes after it is still given.
    #[error("the log {path} is damaged from byte {offset} on")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
}

/// A stream of records.
pub type LogStream = ReceiverStream<Result<LogRecord, LogError>>;

/// A stream that has one error to tell.
pub(crate) fn refused(error: LogError) -> LogStream {
    let (sender, receiver) = mpsc::channel(1);
    // There is room for one, and the receiver is here.
    let _ = sender.try_send(Err(error));
    ReceiverStream::new(receiver)
}

/// Held while a reader needs the names of a log's files.
pub(crate) type NamesGuard = tokio::sync::OwnedRwLockReadGuard<()>;

/// Reads the log in `directory`. `running` says whether the container still runs; a followed log ends with it. `names` is given
/// back once the log can be read to its end without the names of its files, which is soon after the end.
pub(crate) fn read(
    directory: PathBuf,
    query: LogQuery,
    mut running: watch::Receiver<bool>,
    mut names: Option<NamesGuard>,
) -> LogStream {
    let (sender, receiver) = mpsc::channel(256);
    tokio::spawn(async move {
        let start = match query.tail {
            Some(count) => tail(&directory, count),
            None => numbers(&directory)
                .map(|all| (VecDeque::new(), Reader::at(&directory, all.first().copied().unwrap_or(1), 0))),
        };
        let (mut batch, mut reader) = match start {
            Ok(start) => start,
            Err(error) => {
                // A reader that has gone needs no answer.
                let _ = sender.send(Err(error)).await;
                return;
            }
        };
        loop {
            for record in batch.drain(..) {
                if query.since.is_some_and(|since| record.time < since) {
                    continue;
                }
                if query.until.is_some_and(|until| record.time > until) {
                    return;
                }
                let permit = loop {
                    tokio::select! {
                        permit = sender.reserve() => break permit,
                        // Whoever takes the log may stall; its files are there for as long as they are held.
                        changed = running.changed(), if names.is_some() => {
                            if changed.is_err() || !*running.borrow() {
                                // What does not work is told when these records are gone.
                                let _ = reader.hold();
                                names = None;
                            }
                        }
                    }
                };
                let Ok(permit) = permit else { return };
                permit.send(Ok(record));
            }
            // Asked before reading: what was written before the end is read after it was known.
            let goes_on = *running.borrow_and_update();
            if !goes_on && !reader.holds() {
                if let Err(error) = reader.hold() {
                    let _ = sender.send(Err(error)).await;
                    return;
                }
                names = None;
            }
            match reader.read(&mut batch) {
                Ok(true) => continue,
                Ok(false) if !query.follow || !goes_on => return,
                Ok(false) => {}
                Err(error) => {
                    let goes_on = matches!(error, LogError::Damaged { .. });
                    if sender.send(Err(error)).await.is_err() || !goes_on {
                        return;
                    }
                    continue;
                }
            }
            let until = query.until.map(|until| {
                let now = jiff::Timestamp::now().as_nanosecond();
                u64::try_from(i128::from(until) - now).unwrap_or(0)
            });
            if until == Some(0) {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                changed = running.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    });
    ReceiverStream::new(receiver)
}

#[cfg(test)]
#[path = "reading_tests.rs"]
mod tests;

//! Reading containers' logs: from the beginning or the end, up to a time, and on as they are written.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
pub use stack_shim::log_record::Stream as Source;
use stack_shim::log_record::{Broken, decode, file_name, file_number};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

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

fn numbers(directory: &Path) -> Result<Vec<u64>, LogError> {
    let disk = |source| LogError::Disk { path: directory.to_owned(), source };
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(disk(error)),
        Ok(entries) => {
            let mut all = Vec::new();
            for entry in entries {
                all.extend(entry.map_err(disk)?.file_name().to_str().and_then(file_number));
            }
            all.sort_unstable();
            Ok(all)
        }
    }
}

/// Reads one file after another, from wherever it is.
struct Reader {
    directory: PathBuf,
    number: u64,
    file: Option<File>,
    offset: u64,
    pending: Vec<u8>,
    /// All later files, once nothing more is written: they are read also when their names are gone.
    held: Option<VecDeque<(u64, File)>>,
}

/// Held while a reader needs the names of a log's files.
pub(crate) type NamesGuard = tokio::sync::OwnedRwLockReadGuard<()>;

impl Reader {
    fn at(directory: &Path, number: u64, offset: u64) -> Self {
        Self { directory: directory.to_owned(), number, file: None, offset, pending: Vec::new(), held: None }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(file_name(self.number))
    }

    /// Opens everything that there is, of a log that does not grow any more.
    fn hold(&mut self) -> Result<(), LogError> {
        let mut held = VecDeque::new();
        for number in numbers(&self.directory)? {
            if number < self.number || (number == self.number && self.file.is_some()) {
                continue;
            }
            let path = self.directory.join(file_name(number));
            let disk = |source| LogError::Disk { path: path.clone(), source };
            match File::open(&path) {
                Ok(mut file) if number == self.number => {
                    file.seek(SeekFrom::Start(self.offset)).map_err(disk)?;
                    self.file = Some(file);
                }
                Ok(file) => held.push_back((number, file)),
                // Rotated away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(disk(error)),
            }
        }
        self.held = Some(held);
        Ok(())
    }

    /// Goes on to the next of the files that are held.
    fn next_held(&mut self) -> bool {
        let next = self.held.as_mut().and_then(VecDeque::pop_front);
        let Some((number, file)) = next else { return false };
        (self.number, self.file, self.offset) = (number, Some(file), 0);
        self.pending.clear();
        true
    }

    /// Appends what there is now, up to about a megabyte, to `to`. False when there was nothing.
    fn read(&mut self, to: &mut VecDeque<LogRecord>) -> Result<bool, LogError> {
        while self.held.is_some() {
            if self.read_file(to)? {
                return Ok(true);
            }
            if !self.next_held() {
                return Ok(false);
            }
        }
        loop {
            // Looked at before the file is read to its end: nothing is added to a file once the next one is there.
            let later = numbers(&self.directory)?.into_iter().find(|&number| number > self.number);
            if self.read_file(to)? {
                return Ok(true);
            }
            match later {
                Some(number) => *self = Self::at(&self.directory, number, 0),
                None => return Ok(false),
            }
        }
    }

    fn read_file(&mut self, to: &mut VecDeque<LogRecord>) -> Result<bool, LogError> {
        let path = self.path();
        let disk = |source| LogError::Disk { path: path.clone(), source };
        if self.file.is_none() && self.held.is_none() {
            match File::open(&path) {
                Ok(mut file) => {
                    file.seek(SeekFrom::Start(self.offset)).map_err(disk)?;
                    self.file = Some(file);
                }
                // Not there yet, or rotated away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(disk(error)),
            }
        }
        let Some(file) = &mut self.file else { return Ok(false) };
        file.take(1 << 20).read_to_end(&mut self.pending).map_err(disk)?;
        let mut at = 0;
        let result = loop {
            match decode(&self.pending[at..]) {
                Ok((record, length)) => {
                    at += length;
                    to.push_back(LogRecord {
                        time: record.time,
                        source: record.stream,
                        output: Bytes::copy_from_slice(record.output),
                        partial: !record.output.ends_with(b"\n"),
                    });
                }
                Err(Broken::Short) => break Ok(at > 0),
                Err(Broken::Damaged) => {
                    let offset = self.offset + u64::try_from(at).unwrap_or(0);
                    // The rest of this file is given up; the next one is not.
                    self.number += 1;
                    self.file = None;
                    self.offset = 0;
                    self.pending.clear();
                    self.next_held();
                    return Err(LogError::Damaged { path: path.clone(), offset });
                }
            }
        };
        self.pending.drain(..at);
        self.offset += u64::try_from(at).unwrap_or(0);
        result
    }
}

/// The last `count` records of what is there, and the reader that goes on behind them.
fn tail(directory: &Path, count: usize) -> Result<(VecDeque<LogRecord>, Reader), LogError> {
    let all = numbers(directory)?;
    let newest = all.last().copied().unwrap_or(1);
    let mut found: VecDeque<LogRecord> = VecDeque::new();
    let mut reader = Reader::at(directory, newest, 0);
    for &number in all.iter().rev() {
        let mut records = VecDeque::new();
        let mut file = Reader::at(directory, number, 0);
        while file.read_file(&mut records)? {}
        if number == newest {
            reader = file;
        }
        while let Some(record) = records.pop_back() {
            if found.len() == count {
                break;
            }
            found.push_front(record);
        }
        if found.len() >= count {
            break;
        }
    }
    Ok((found, reader))
}

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
            if !goes_on && reader.held.is_none() {
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
                    if sender.send(Err(error)).await.is_err() {
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
mod tests {
    use std::io::Write;

    use stack_shim::log_record::{Record, encode};
    use tokio_stream::StreamExt;

    use super::*;

    fn write(directory: &Path, number: u64, lines: std::ops::Range<u64>) {
        let mut bytes = Vec::new();
        for line in lines {
            let text = format!("line {line}\n");
            encode(&Record { time: line, stream: Source::Stdout, output: text.as_bytes() }, &mut bytes);
        }
        let path = directory.join(file_name(number));
        fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(&bytes).unwrap();
    }

    async fn times(directory: &Path, query: LogQuery) -> Vec<u64> {
        let (_sender, running) = watch::channel(false);
        read(directory.to_owned(), query, running, None).map(|record| record.unwrap().time).collect().await
    }

    #[tokio::test]
    async fn all_the_end_and_spans_of_time() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(times(&place.path().join("absent"), LogQuery::default()).await, Vec::<u64>::new());
        write(place.path(), 3, 0..10);
        write(place.path(), 4, 10..20);
        let query = LogQuery::default();
        assert_eq!(times(place.path(), query.clone()).await, (0..20).collect::<Vec<_>>());
        assert_eq!(
            times(place.path(), LogQuery { tail: Some(12), ..query.clone() }).await,
            (8..20).collect::<Vec<_>>()
        );
        assert_eq!(times(place.path(), LogQuery { tail: Some(0), ..query.clone() }).await, Vec::<u64>::new());
        let span = LogQuery { since: Some(5), until: Some(11), ..query };
        assert_eq!(times(place.path(), span).await, (5..12).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn following_loses_nothing_when_files_are_rotated_and_ends_with_the_container() {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), 1, 0..5);
        let (sender, running) = watch::channel(true);
        let query = LogQuery { follow: true, tail: Some(2), ..LogQuery::default() };
        let mut stream = read(place.path().to_owned(), query, running, None);
        let mut seen = vec![stream.next().await.unwrap().unwrap().time];
        write(place.path(), 1, 5..7);
        write(place.path(), 2, 7..9);
        write(place.path(), 3, 9..12);
        while seen.last() != Some(&11) {
            seen.push(stream.next().await.unwrap().unwrap().time);
        }
        write(place.path(), 3, 12..13);
        sender.send(false).unwrap();
        while let Some(record) = stream.next().await {
            seen.push(record.unwrap().time);
        }
        assert_eq!(seen, (3..13).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_log_that_is_being_read_outlives_its_names() {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), 1, 0..600);
        let (sender, running) = watch::channel(true);
        let lock = std::sync::Arc::new(tokio::sync::RwLock::new(()));
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let guard = std::sync::Arc::clone(&lock).try_read_owned().unwrap();
        let mut stream = read(place.path().to_owned(), query, running, Some(guard));
        assert_eq!(stream.next().await.unwrap().unwrap().time, 0);
        write(place.path(), 2, 600..601);
        write(place.path(), 3, 601..700);
        // Nobody takes more of it than was taken already.
        sender.send(false).unwrap();
        drop(lock.write().await);
        fs::remove_dir_all(place.path()).unwrap();
        let rest: Vec<u64> = stream.map(|record| record.unwrap().time).collect().await;
        assert_eq!(rest, (1..700).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_damaged_file_is_told_and_the_next_one_read() {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), 1, 0..3);
        let path = place.path().join(file_name(1));
        let mut bytes = fs::read(&path).unwrap();
        bytes[12] = 0;
        fs::write(&path, bytes).unwrap();
        write(place.path(), 2, 3..4);
        let (_sender, running) = watch::channel(false);
        let all: Vec<_> = read(place.path().to_owned(), LogQuery::default(), running, None).collect().await;
        assert!(matches!(all[0], Err(LogError::Damaged { offset: 0, .. })));
        assert_eq!(all[1].as_ref().unwrap().time, 3);
    }
}

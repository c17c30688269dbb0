//! Reads the files of a log one after another, from wherever it is, compressed or not.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::read::GzDecoder;
use stack_shim::log_record::{Broken, compressed_name, decode, file_name, file_number};

use super::{LogError, LogRecord};

/// What is read at a time by those who want all of it.
pub(super) const CHUNK: u64 = 1 << 20;

/// The numbers of the files that there are, in order.
pub(super) fn numbers(directory: &Path) -> Result<Vec<u64>, LogError> {
    let disk = |source| LogError::Disk { path: directory.to_owned(), source };
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(disk(error)),
        Ok(entries) => {
            // A file has two names for a moment when it has just been compressed.
            let mut all = BTreeSet::new();
            for entry in entries {
                all.extend(entry.map_err(disk)?.file_name().to_str().and_then(file_number));
            }
            Ok(all.into_iter().collect())
        }
    }
}

/// An open file of a log.
enum Content {
    Plain(File),
    Compressed(Box<GzDecoder<File>>),
}

impl Content {
    /// Opens a file at a place in what was written to it. `None` when it is not there, under either name.
    fn open(directory: &Path, number: u64, offset: u64) -> Result<Option<Self>, LogError> {
        // A compressed file is there before the plain one goes, so that in this order one of them is found.
        for (name, compressed) in [(file_name(number), false), (compressed_name(number), true)] {
            let path = directory.join(name);
            let opened = File::open(&path).and_then(|mut file| {
                if compressed {
                    let mut content = GzDecoder::new(file);
                    io::copy(&mut (&mut content).take(offset), &mut io::sink())?;
                    Ok(Self::Compressed(Box::new(content)))
                } else {
                    file.seek(SeekFrom::Start(offset))?;
                    Ok(Self::Plain(file))
                }
            });
            match opened {
                Ok(content) => return Ok(Some(content)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if compressed && is_damage(&error) => return Err(LogError::Damaged { path, offset }),
                Err(source) => return Err(LogError::Disk { path, source }),
            }
        }
        Ok(None)
    }

    fn read(&mut self, most: u64, to: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.take(most).read_to_end(to),
            Self::Compressed(content) => content.take(most).read_to_end(to),
        }
    }
}

/// Whether a decompressor says that what it was given is not whole.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Reads one file after another, from wherever it is.
pub(super) struct Reader {
    directory: PathBuf,
    number: u64,
    content: Option<Content>,
    offset: u64,
    pending: Vec<u8>,
    /// All later files, once nothing more is written: they are read also when their names are gone.
    held: Option<VecDeque<(u64, Content)>>,
    /// Files that were taken away before they were read, or before it was known that they were read to their end.
    pub missed: u64,
    /// So much is read at a time.
    pub chunk: u64,
    /// What it is in cannot be decompressed further.
    damaged: bool,
}

impl Reader {
    pub fn at(directory: &Path, number: u64, offset: u64) -> Self {
        Self {
            directory: directory.to_owned(),
            number,
            content: None,
            offset,
            pending: Vec::new(),
            held: None,
            missed: 0,
            chunk: CHUNK,
            damaged: false,
        }
    }

    /// The number of the file, and the place in it, that comes next.
    pub fn position(&self) -> (u64, u64) {
        (self.number, self.offset)
    }

    fn path(&self) -> PathBuf {
        self.directory.join(file_name(self.number))
    }

    /// Whether all files that will ever be read are open.
    pub fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Opens everything that there is, of a log that does not grow any more.
    pub fn hold(&mut self) -> Result<(), LogError> {
        let mut held = VecDeque::new();
        for number in numbers(&self.directory)? {
            if number < self.number || (number == self.number && self.content.is_some()) {
                continue;
            }
            let offset = if number == self.number { self.offset } else { 0 };
            // One that is not there was rotated away; one that is damaged is told as it is come to.
            match Content::open(&self.directory, number, offset) {
                Ok(Some(content)) if number == self.number => self.content = Some(content),
                Ok(Some(content)) => held.push_back((number, content)),
                Ok(None) => {}
                Err(LogError::Damaged { path, offset }) => {
                    tracing::warn!(path = %path.display(), offset, "a log is damaged")
                }
                Err(error) => return Err(error),
            }
        }
        self.held = Some(held);
        Ok(())
    }

    /// Goes on by the names of the files: what was held may grow again.
    pub fn release(&mut self) {
        self.held = None;
        self.content = None;
        self.pending.clear();
    }

    fn go_to(&mut self, number: u64, content: Option<Content>) {
        // Those in between, and this one if it was never there.
        let here = u64::from(self.content.is_none());
        self.missed = self.missed.saturating_add(number.saturating_sub(self.number + 1)).saturating_add(here);
        (self.number, self.content, self.offset) = (number, content, 0);
        self.pending.clear();
        self.damaged = false;
    }

    /// Goes on to the next of the files that are held.
    fn next_held(&mut self) -> bool {
        let next = self.held.as_mut().and_then(VecDeque::pop_front);
        let Some((number, content)) = next else { return false };
        self.go_to(number, Some(content));
        true
    }

    /// Appends what there is now, up to about [`chunk`](Self::chunk), to `to`. False when there was nothing.
    pub fn read(&mut self, to: &mut VecDeque<LogRecord>) -> Result<bool, LogError> {
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
                Some(number) => self.go_to(number, None),
                None => return Ok(false),
            }
        }
    }

    /// Gives up the rest of this file; the next one is not.
    fn give_up(&mut self) {
        self.number += 1;
        self.content = None;
        self.offset = 0;
        self.pending.clear();
        self.damaged = false;
        let missed = self.missed;
        self.next_held();
        self.missed = missed;
    }

    /// The same, of the file that it is in alone.
    pub fn read_file(&mut self, to: &mut VecDeque<LogRecord>) -> Result<bool, LogError> {
        if self.content.is_none() && self.held.is_none() {
            match Content::open(&self.directory, self.number, self.offset) {
                Ok(content) => self.content = content,
                Err(error) => {
                    if matches!(error, LogError::Damaged { .. }) {
                        self.give_up();
                    }
                    return Err(error);
                }
            }
        }
        let path = self.path();
        // Not there yet, or rotated away.
        let Some(content) = &mut self.content else { return Ok(false) };
        if !self.damaged {
            match content.read(self.chunk, &mut self.pending) {
                Ok(_) => {}
                Err(error) if matches!(content, Content::Compressed(_)) && is_damage(&error) => self.damaged = true,
                Err(source) => return Err(LogError::Disk { path, source }),
            }
        }
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
                // What was whole is given first; the next call finds the damage again.
                Err(_) if at > 0 => break Ok(true),
                Err(Broken::Short) if !self.damaged => break Ok(false),
                Err(Broken::Short | Broken::Damaged) => {
                    let offset = self.offset + u64::try_from(at).unwrap_or(0);
                    self.give_up();
                    return Err(LogError::Damaged { path, offset });
                }
            }
        };
        self.pending.drain(..at);
        self.offset += u64::try_from(at).unwrap_or(0);
        result
    }
}

/// The last `count` records of what is there, and the reader that goes on behind them.
pub(super) fn tail(directory: &Path, count: usize) -> Result<(VecDeque<LogRecord>, Reader), LogError> {
    let all = numbers(directory)?;
    let newest = all.last().copied().unwrap_or(1);
    let mut found: VecDeque<LogRecord> = VecDeque::new();
    let mut reader = Reader::at(directory, newest, 0);
    for &number in all.iter().rev() {
        let wanted = count - found.len();
        let (mut records, mut file) = (VecDeque::new(), Reader::at(directory, number, 0));
        loop {
            match file.read_file(&mut records) {
                Ok(true) => {}
                Ok(false) => break,
                Err(LogError::Damaged { path, offset }) => {
                    tracing::warn!(path = %path.display(), offset, "a log is damaged");
                    break;
                }
                Err(error) => return Err(error),
            }
            // No more of a file is kept than can be of use.
            records.drain(..records.len().saturating_sub(wanted));
        }
        if number == newest {
            reader = file;
        }
        records.append(&mut found);
        found = records;
        if found.len() >= count {
            break;
        }
    }
    Ok((found, reader))
}

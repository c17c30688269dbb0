//! Records to segment files and back.
//!
//! A segment starts with a header (magic, its number, CRC) and continues with records; the rest of it is zeros, written
//! ahead so that a sync has no metadata to write. When a segment is full it is synced, and a new one is made that begins
//! with what is still true of all before it (vote, purge, commit mark): thus the oldest segments can be removed as soon
//! as all their entries are covered by a snapshot.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::disk::Disk;
use super::index::{Hole, Index, Location};
use super::record::{self, DecodeRecordError, Record};

const MAGIC: [u8; 8] = *b"STKRAFT1";
const SEGMENT_HEADER: usize = 24;
/// A segment with more is closed and the next one begun.
pub(super) const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Zeros are written ahead in pieces of this size.
const EXTENT_BYTES: u64 = 1024 * 1024;

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    /// The disk refused.
    #[error("cannot {action} of the raft log")]
    Disk {
        /// What was tried.
        action: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something that was acknowledged cannot be read.
    #[error(
        "the raft log is damaged: segment {segment:020}.log, offset {offset}: {reason}. Restore this controller's state \
         directory from a backup, or remove the node from the cluster and let it join again"
    )]
    Damaged {
        /// Which file.
        segment: u64,
        /// Where in it.
        offset: usize,
        /// What is wrong there.
        reason: &'static str,
    },
    /// A whole record that this version does not understand.
    #[error("the raft log cannot be read: segment {segment:020}.log, offset {offset}")]
    Record {
        /// Which file.
        segment: u64,
        /// Where in it.
        offset: usize,
        /// Why.
        #[source]
        source: DecodeRecordError,
    },
    /// The entries are not consecutive.
    #[error("the raft log has a hole: segment {segment:020}.log, offset {offset}")]
    Hole {
        /// Which file.
        segment: u64,
        /// Where in it.
        offset: usize,
        /// Between which.
        #[source]
        source: Hole,
    },
}

#[derive(Debug)]
struct Segment {
    number: u64,
    /// The highest entry that was ever written to it, also if truncated later.
    highest: Option<u64>,
}

/// What must be written again at the start of every segment.
#[derive(Debug, Default, Clone)]
struct Anchor {
    vote: Option<Record>,
    purge: Option<Record>,
    committed: Option<Record>,
}

impl Anchor {
    fn note(&mut self, record: &Record) {
        match record {
            Record::Entry { .. } | Record::Truncate(_) => {}
            Record::Vote(_) => self.vote = Some(record.clone()),
            Record::Purge(_) => self.purge = Some(record.clone()),
            Record::Committed(_) => self.committed = Some(record.clone()),
        }
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        [&self.vote, &self.purge, &self.committed].into_iter().flatten()
    }
}

/// The open journal. Owned by the one thread that writes.
#[derive(Debug)]
pub struct Journal<D> {
    disk: Arc<D>,
    /// Oldest first; the last one is written to.
    segments: VecDeque<Segment>,
    /// Where the next record goes.
    position: u64,
    /// Zeros are written up to here.
    allocated: u64,
    next_sequence: u64,
    synced: u64,
    anchor: Anchor,
    segment_bytes: u64,
}

fn refused(action: impl Into<String>) -> impl FnOnce(io::Error) -> OpenLogError {
    let action = action.into();
    move |source| OpenLogError::Disk { action, source }
}

fn segment_header(number: u64) -> [u8; SEGMENT_HEADER] {
    let mut header = [0; SEGMENT_HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&number.to_le_bytes());
    let sum = u64::from(crc32fast::hash(&header[..16]));
    header[16..].copy_from_slice(&sum.to_le_bytes());
    header
}

/// Whether a whole record starts anywhere in these bytes, and what the best-informed of them knew to be on the disk.
fn highest_synced(bytes: &[u8]) -> Option<u64> {
    (0..bytes.len()).step_by(8).filter_map(|at| record::unframe(&bytes[at..])).map(|framed| framed.synced).max()
}

impl<D: Disk> Journal<D> {
    /// Reads what there is, cuts a torn tail, and is ready to write.
    ///
    /// # Errors
    /// When something that was acknowledged cannot be read, or the disk refuses.
    pub fn open(disk: Arc<D>) -> Result<(Self, Index), OpenLogError> {
        Self::open_with(disk, SEGMENT_BYTES)
    }

    /// The same with another size of segments.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_with(disk: Arc<D>, segment_bytes: u64) -> Result<(Self, Index), OpenLogError> {
        let mut journal = Self {
            disk,
            segments: VecDeque::new(),
            position: 0,
            allocated: 0,
            next_sequence: 1,
            synced: 0,
            anchor: Anchor::default(),
            segment_bytes,
        };
        let mut index = Index::default();
        journal.replay(&mut index)?;
        if journal.segments.is_empty() {
            journal.create_segment(1).map_err(refused("make the first segment"))?;
        } else {
            let anchor = journal.anchor.clone();
            journal.write_here(anchor.records()).map_err(refused("write to the last segment"))?;
            journal.sync().map_err(refused("sync the last segment"))?;
        }
        Ok((journal, index))
    }

    fn replay(&mut self, index: &mut Index) -> Result<(), OpenLogError> {
        let mut numbers = self.disk.list().map_err(refused("list the segments"))?;
        if let Some(&last) = numbers.last() {
            let bytes = self.disk.read(last).map_err(refused(format!("read segment {last}")))?;
            if !bytes.starts_with(&segment_header(last)) && highest_synced(&bytes).is_none() {
                tracing::warn!(segment = last, "a segment of the raft log was not finished before a crash: removed");
                self.disk.remove(last).map_err(refused(format!("remove segment {last}")))?;
                self.disk.sync_directory().map_err(refused("sync the directory"))?;
                numbers.pop();
            }
        }
        let mut expected = None;
        for (at, &number) in numbers.iter().enumerate() {
            let is_last = at + 1 == numbers.len();
            expected = Some(self.replay_segment(number, is_last, expected, index)?);
        }
        self.next_sequence = expected.unwrap_or(1);
        self.synced = self.next_sequence - 1;
        Ok(())
    }

    /// Answers the sequence number that the next record must have.
    fn replay_segment(
        &mut self,
        number: u64,
        is_last: bool,
        mut expected: Option<u64>,
        index: &mut Index,
    ) -> Result<u64, OpenLogError> {
        let damaged = |offset, reason| OpenLogError::Damaged { segment: number, offset, reason };
        if self.segments.back().is_some_and(|before| before.number + 1 != number) {
            return Err(damaged(0, "the segment before it is missing"));
        }
        let bytes = self.disk.read(number).map_err(refused(format!("read segment {number}")))?;
        if !bytes.starts_with(&segment_header(number)) {
            return Err(damaged(0, "its header is unreadable"));
        }
        let mut segment = Segment { number, highest: None };
        let mut offset = SEGMENT_HEADER;
        while let Some(framed) = record::unframe(&bytes[offset.min(bytes.len())..]) {
            if expected.is_some_and(|expected| framed.sequence != expected) {
                return Err(damaged(offset, "records are missing before it"));
            }
            let record = Record::decode(framed.body).map_err(|source| OpenLogError::Record {
                segment: number,
                offset,
                source,
            })?;
            if let Record::Entry { log_id, .. } = &record {
                segment.highest = segment.highest.max(Some(log_id.index));
            }
            self.anchor.note(&record);
            let location = location(number, offset, framed.body.len());
            index.replay(record, location).map_err(|source| OpenLogError::Hole { segment: number, offset, source })?;
            expected = Some(framed.sequence + 1);
            offset += framed.size;
        }
        let rest = bytes.get(offset..).unwrap_or_default();
        let torn = rest.iter().any(|&byte| byte != 0);
        let next = expected.unwrap_or(1);
        if torn && !is_last {
            return Err(damaged(offset, "a record is unreadable"));
        }
        if torn && highest_synced(rest).is_some_and(|synced| synced >= next) {
            return Err(damaged(offset, "an acknowledged record is unreadable, and records after it are whole"));
        }
        if torn {
            tracing::warn!(segment = number, offset, bytes = rest.len(), "the raft log ends in a torn record: cut off");
            let zeros = vec![0; rest.len()];
            self.disk.write_at(number, offset as u64, &zeros).map_err(refused("cut the torn tail"))?;
            self.disk.sync(number).map_err(refused("sync the last segment"))?;
        }
        self.segments.push_back(segment);
        self.position = offset as u64;
        self.allocated = bytes.len() as u64;
        Ok(next)
    }

    /// Writes records; they are kept once [`Journal::sync`] has returned. Answers where the bodies are.
    ///
    /// # Errors
    /// The disk refused: the caller must stop.
    pub fn write(&mut self, records: &[Record]) -> io::Result<Vec<Location>> {
        if self.position > self.segment_bytes {
            self.sync()?;
            let next = self.segments.back().map_or(1, |segment| segment.number + 1);
            self.create_segment(next)?;
        }
        self.write_here(records.iter())
    }

    fn write_here<'records>(&mut self, records: impl Iterator<Item = &'records Record>) -> io::Result<Vec<Location>> {
        let Some(segment) = self.segments.back_mut() else {
            return Err(io::Error::other("the journal has no segment"));
        };
        let mut buffer = Vec::new();
        let mut locations = Vec::new();
        let base = usize::try_from(self.position).map_err(io::Error::other)?;
        for record in records {
            let start = buffer.len();
            record::frame(&mut buffer, record, self.next_sequence, self.synced).map_err(io::Error::other)?;
            self.next_sequence += 1;
            let body = u32::from_le_bytes([buffer[start], buffer[start + 1], buffer[start + 2], buffer[start + 3]]);
            locations.push(location(segment.number, base + start, body as usize));
            self.anchor.note(record);
            if let Record::Entry { log_id, .. } = record {
                segment.highest = segment.highest.max(Some(log_id.index));
            }
        }
        let end = self.position + buffer.len() as u64;
        if end > self.allocated {
            let allocated = end.next_multiple_of(EXTENT_BYTES.min(self.segment_bytes.next_multiple_of(4096)));
            let zeros = vec![0; usize::try_from(allocated - end).map_err(io::Error::other)?];
            self.disk.write_at(segment.number, end, &zeros)?;
            self.allocated = allocated;
        }
        self.disk.write_at(segment.number, self.position, &buffer)?;
        self.position = end;
        Ok(locations)
    }

    /// Returns when everything written is on the disk.
    ///
    /// # Errors
    /// It is not known what is on the disk: the caller must stop.
    pub fn sync(&mut self) -> io::Result<()> {
        if let Some(segment) = self.segments.back() {
            self.disk.sync(segment.number)?;
        }
        self.synced = self.next_sequence - 1;
        Ok(())
    }

    fn create_segment(&mut self, number: u64) -> io::Result<()> {
        self.disk.create(number)?;
        self.disk.write_at(number, 0, &segment_header(number))?;
        self.segments.push_back(Segment { number, highest: None });
        self.position = SEGMENT_HEADER as u64;
        self.allocated = self.position;
        let anchor = self.anchor.clone();
        self.write_here(anchor.records())?;
        self.sync()?;
        self.disk.sync_directory()
    }

    /// Removes the oldest segments that hold no entry after this one. What they say must be synced in a later segment,
    /// which every segment's beginning sees to.
    ///
    /// # Errors
    /// The disk refused.
    pub fn remove_through(&mut self, purged: u64) -> io::Result<()> {
        let mut removed = false;
        while self.segments.len() > 1
            && let Some(segment) = self.segments.front()
            && segment.highest.is_none_or(|highest| highest <= purged)
        {
            self.disk.remove(segment.number)?;
            self.segments.pop_front();
            removed = true;
        }
        if removed { self.disk.sync_directory() } else { Ok(()) }
    }
}

/// Of an encoded entry, given where its record starts and how long the record's body is.
const fn location(segment: u64, record_offset: usize, body: usize) -> Location {
    Location { segment, offset: (record_offset + record::HEADER + 1) as u64, length: body.saturating_sub(1) }
}

#[cfg(test)]
mod tests;

//! Pure. What is in the log now: the entries from the first kept to the last, where each one is, and the marks.

use std::collections::VecDeque;
use std::ops::Bound;

use bytes::Bytes;

use super::record::Record;
use crate::raft::types::{LogId, Vote};

/// Where an encoded entry is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// In which segment.
    pub segment: u64,
    /// Of the encoded entry, not of its record.
    pub offset: u64,
    /// In bytes.
    pub length: usize,
}

/// Tells an entry from another one that had the same index before it was truncated.
pub type Ticket = u64;

/// One entry of the log.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Its position.
    pub log_id: LogId,
    /// Which of the entries that ever had this index.
    pub ticket: Ticket,
    /// `None`: not written yet.
    pub location: Option<Location>,
    /// `None`: only on the disk.
    pub encoded: Option<Bytes>,
}

/// An entry that would leave a hole in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("entry {found} does not follow entry {last}")]
pub struct Hole {
    /// The last one that there is.
    pub last: u64,
    /// The one that was to be appended.
    pub found: u64,
}

/// The log as it is now.
#[derive(Debug, Default)]
pub struct Index {
    slots: VecDeque<Slot>,
    next_ticket: Ticket,
    cached_bytes: usize,
    /// The first index whose slot may still have its bytes.
    cached_from: u64,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

impl Index {
    /// The vote last saved.
    #[must_use]
    pub const fn vote(&self) -> Option<Vote> {
        self.vote
    }

    /// The last purged entry.
    #[must_use]
    pub const fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// How far entries are known to be committed; never past the last entry.
    #[must_use]
    pub fn committed(&self) -> Option<LogId> {
        self.committed.min(self.last())
    }

    /// The last entry, or what was purged last where there is none.
    #[must_use]
    pub fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.log_id).or(self.purged)
    }

    /// Remembers a vote.
    pub const fn set_vote(&mut self, vote: Vote) {
        self.vote = Some(vote);
    }

    /// Remembers how far entries are committed.
    pub const fn set_committed(&mut self, committed: Option<LogId>) {
        self.committed = committed;
    }

    /// Appends an entry; answers its ticket.
    ///
    /// # Errors
    /// When it would leave a hole.
    pub fn append(
        &mut self,
        log_id: LogId,
        encoded: Option<Bytes>,
        location: Option<Location>,
    ) -> Result<Ticket, Hole> {
        if let Some(back) = self.slots.back()
            && log_id.index != back.log_id.index + 1
        {
            return Err(Hole { last: back.log_id.index, found: log_id.index });
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if self.slots.is_empty() {
            self.cached_from = log_id.index;
        }
        self.cached_bytes += encoded.as_ref().map_or(0, Bytes::len);
        self.slots.push_back(Slot { log_id, ticket, location, encoded });
        Ok(ticket)
    }

    /// Removes all entries after this one.
    pub fn truncate(&mut self, after: Option<LogId>) {
        let keep_through = after.map(|after| after.index);
        while self.slots.back().is_some_and(|slot| keep_through.is_none_or(|keep| slot.log_id.index > keep)) {
            if let Some(slot) = self.slots.pop_back() {
                self.forget(&slot);
            }
        }
    }

    /// Removes all entries up to and with this one.
    pub fn purge(&mut self, through: LogId) {
        self.purged = self.purged.max(Some(through));
        while self.slots.front().is_some_and(|slot| slot.log_id.index <= through.index) {
            if let Some(slot) = self.slots.pop_front() {
                self.forget(&slot);
            }
        }
    }

    fn forget(&mut self, slot: &Slot) {
        self.cached_bytes -= slot.encoded.as_ref().map_or(0, Bytes::len);
    }

    /// Notes where an entry was written, unless it was truncated or purged meanwhile.
    pub fn written(&mut self, index: u64, ticket: Ticket, location: Location) {
        if let Some(position) = self.position(index)
            && let Some(slot) = self.slots.get_mut(position)
            && slot.ticket == ticket
        {
            slot.location = Some(location);
        }
    }

    /// Forgets the bytes of the oldest written entries until at most `budget` bytes are kept in memory.
    pub fn evict(&mut self, budget: usize) {
        while self.cached_bytes > budget {
            let first = self.slots.front().map_or(0, |slot| slot.log_id.index);
            self.cached_from = self.cached_from.max(first);
            let Some(slot) = self.position(self.cached_from).and_then(|position| self.slots.get_mut(position)) else {
                return;
            };
            if slot.location.is_none() {
                return;
            }
            self.cached_bytes -= slot.encoded.take().map_or(0, |encoded| encoded.len());
            self.cached_from += 1;
        }
    }

    fn position(&self, index: u64) -> Option<usize> {
        let first = self.slots.front()?.log_id.index;
        usize::try_from(index.checked_sub(first)?).ok()
    }

    /// The entries of a range, as far as there are any.
    #[must_use]
    pub fn range(&self, start: Bound<&u64>, end: Bound<&u64>) -> Vec<Slot> {
        let Some(first) = self.slots.front().map(|slot| slot.log_id.index) else {
            return Vec::new();
        };
        let start = match start {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start.saturating_add(1),
            Bound::Unbounded => first,
        };
        let end = match end {
            Bound::Included(&end) => end.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => u64::MAX,
        };
        let offset =
            |index: u64| usize::try_from(index.saturating_sub(first)).unwrap_or(usize::MAX).min(self.slots.len());
        let (start, end) = (offset(start), offset(end));
        if start >= end { Vec::new() } else { self.slots.range(start..end).cloned().collect() }
    }

    /// Takes in a record that was read back from the disk.
    ///
    /// # Errors
    /// When it would leave a hole.
    pub fn replay(&mut self, record: Record, location: Location) -> Result<(), Hole> {
        match record {
            Record::Entry { log_id, .. } => {
                self.append(log_id, None, Some(location))?;
            }
            Record::Vote(vote) => self.set_vote(vote),
            Record::Truncate(after) => self.truncate(after),
            Record::Purge(through) => self.purge(through),
            Record::Committed(committed) => self.set_committed(committed),
        }
        Ok(())
    }
}

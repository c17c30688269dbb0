//! Pure. The records of the log file, as bytes.
//!
//! A record on disk, little-endian, padded with zeros to a multiple of 8 bytes:
//! ```text
//! 0   u32  length of the body
//! 4   u32  CRC-32 of everything after it up to the end of the body
//! 8   u64  sequence number: one more than its predecessor's, never 0
//! 16  u64  every record up to this sequence number was on the disk when this one was written
//! 24  ...  body: one byte of kind, then what the kind says
//! ```
//! The third word tells a torn tail from a damaged disk. A crash may tear records that were never acknowledged, in any
//! order; when a record that was acknowledged is unreadable, a later record knows that it once was on the disk.

use bytes::{BufMut, Bytes, BytesMut};
use openraft::EntryPayload;

use crate::raft::types::{Entry, LogId, Payload, Vote};

/// Before the body.
pub const HEADER: usize = 24;
/// Larger bodies are refused at the door, so that a length read from a damaged disk cannot ask for all memory.
pub const MAX_BODY: usize = 64 * 1024 * 1024;

const KIND_ENTRY: u8 = 1;
const KIND_VOTE: u8 = 2;
const KIND_TRUNCATE: u8 = 3;
const KIND_PURGE: u8 = 4;
const KIND_COMMITTED: u8 = 5;

const PAYLOAD_BLANK: u8 = 0;
const PAYLOAD_NORMAL: u8 = 1;
const PAYLOAD_MEMBERSHIP: u8 = 2;

/// Term, leader, index and the kind of the payload.
const ENTRY_HEADER: usize = 25;

/// Why bytes are no record.
#[derive(Debug, thiserror::Error)]
pub enum DecodeRecordError {
    /// Fewer bytes than the format needs.
    #[error("{what} is {length} bytes long, which is too short")]
    Short {
        /// Of what.
        what: &'static str,
        /// How many there are.
        length: usize,
    },
    /// A kind that this version does not know.
    #[error("{what} is of the kind {kind}, which this version does not know: was it written by a newer one?")]
    UnknownKind {
        /// Of what.
        what: &'static str,
        /// The number.
        kind: u8,
    },
    /// The JSON part cannot be read.
    #[error("{what} cannot be read")]
    Json {
        /// Of what.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// One thing that the log remembers.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// An entry, as [`encode_entry`] wrote it: decoded only when somebody asks for it.
    Entry {
        /// Its position.
        log_id: LogId,
        /// All of it, encoded.
        encoded: Bytes,
    },
    /// The vote.
    Vote(Vote),
    /// Entries after this one are no longer part of the log; `None`: all.
    Truncate(Option<LogId>),
    /// Entries up to and with this one are covered by a snapshot.
    Purge(LogId),
    /// How far entries are known to be committed.
    Committed(Option<LogId>),
}

/// An entry as it stands on disk and goes over the wire.
///
/// # Errors
/// When the membership cannot be written as JSON, which its types exclude.
pub fn encode_entry(entry: &Entry) -> Result<Bytes, DecodeRecordError> {
    let leader = entry.log_id.leader_id;
    let (kind, tail) = match &entry.payload {
        EntryPayload::Blank => (PAYLOAD_BLANK, Bytes::new()),
        EntryPayload::Normal(payload) => (PAYLOAD_NORMAL, payload.0.clone()),
        EntryPayload::Membership(membership) => (PAYLOAD_MEMBERSHIP, json("a membership", membership)?),
    };
    let mut bytes = BytesMut::with_capacity(ENTRY_HEADER + tail.len());
    bytes.put_u64_le(leader.term);
    bytes.put_u64_le(leader.node_id);
    bytes.put_u64_le(entry.log_id.index);
    bytes.put_u8(kind);
    bytes.extend_from_slice(&tail);
    Ok(bytes.freeze())
}

/// The position alone.
///
/// # Errors
/// When there are fewer bytes than an entry has at least.
pub fn decode_log_id(bytes: &[u8]) -> Result<LogId, DecodeRecordError> {
    let short = || DecodeRecordError::Short { what: "an entry", length: bytes.len() };
    let word = |at: usize| {
        bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes).ok_or_else(short)
    };
    if bytes.len() < ENTRY_HEADER {
        return Err(short());
    }
    Ok(LogId {
        leader_id: openraft::impls::leader_id_adv::LeaderId { term: word(0)?, node_id: word(8)? },
        index: word(16)?,
    })
}

/// Reverses [`encode_entry`]; a normal payload shares the bytes.
///
/// # Errors
/// When the bytes are not an entry.
pub fn decode_entry(bytes: &Bytes) -> Result<Entry, DecodeRecordError> {
    let log_id = decode_log_id(bytes)?;
    let tail = bytes.slice(ENTRY_HEADER..);
    let payload = match bytes[ENTRY_HEADER - 1] {
        PAYLOAD_BLANK => EntryPayload::Blank,
        PAYLOAD_NORMAL => EntryPayload::Normal(Payload(tail)),
        PAYLOAD_MEMBERSHIP => EntryPayload::Membership(from_json("a membership", &tail)?),
        kind => return Err(DecodeRecordError::UnknownKind { what: "an entry's payload", kind }),
    };
    Ok(Entry { log_id, payload })
}

fn json<T: serde::Serialize>(what: &'static str, value: &T) -> Result<Bytes, DecodeRecordError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|source| DecodeRecordError::Json { what, source })
}

fn from_json<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeRecordError> {
    serde_json::from_slice(bytes).map_err(|source| DecodeRecordError::Json { what, source })
}

impl Record {
    /// The kind and the rest of the body.
    fn parts(&self) -> Result<(u8, Bytes), DecodeRecordError> {
        Ok(match self {
            Self::Entry { encoded, .. } => (KIND_ENTRY, encoded.clone()),
            Self::Vote(vote) => (KIND_VOTE, json("a vote", vote)?),
            Self::Truncate(after) => (KIND_TRUNCATE, json("a truncation", after)?),
            Self::Purge(through) => (KIND_PURGE, json("a purge", through)?),
            Self::Committed(through) => (KIND_COMMITTED, json("a commit mark", through)?),
        })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is none of the kinds or its content cannot be read.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeRecordError> {
        let Some((&kind, rest)) = body.split_first() else {
            return Err(DecodeRecordError::Short { what: "a record", length: 0 });
        };
        Ok(match kind {
            KIND_ENTRY => Self::Entry { log_id: decode_log_id(rest)?, encoded: Bytes::copy_from_slice(rest) },
            KIND_VOTE => Self::Vote(from_json("a vote", rest)?),
            KIND_TRUNCATE => Self::Truncate(from_json("a truncation", rest)?),
            KIND_PURGE => Self::Purge(from_json("a purge", rest)?),
            KIND_COMMITTED => Self::Committed(from_json("a commit mark", rest)?),
            kind => return Err(DecodeRecordError::UnknownKind { what: "a record", kind }),
        })
    }
}

/// Appends a record to `buffer`, framed.
///
/// # Errors
/// When its content cannot be written as JSON, which its types exclude.
pub fn frame(buffer: &mut Vec<u8>, record: &Record, sequence: u64, synced: u64) -> Result<(), DecodeRecordError> {
    let (kind, rest) = record.parts()?;
    let start = buffer.len();
    let length = u32::try_from(rest.len() + 1).unwrap_or(u32::MAX);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&sequence.to_le_bytes());
    buffer.extend_from_slice(&synced.to_le_bytes());
    buffer.push(kind);
    buffer.extend_from_slice(&rest);
    let sum = crc32fast::hash(&buffer[start + 8..]);
    buffer[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
    buffer.resize(start + padded(HEADER + 1 + rest.len()), 0);
    Ok(())
}

/// The size on disk.
const fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}

/// A record found in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framed<'bytes> {
    /// Its number.
    pub sequence: u64,
    /// What was known to be on the disk when it was written.
    pub synced: u64,
    /// The body.
    pub body: &'bytes [u8],
    /// How many bytes it takes, with its header and padding.
    pub size: usize,
}

/// The record that starts at the beginning of `bytes`, if a whole and undamaged one does.
#[must_use]
pub fn unframe(bytes: &[u8]) -> Option<Framed<'_>> {
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let long = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let length = usize::try_from(word(0)?).ok()?;
    if length == 0 || length > MAX_BODY + ENTRY_HEADER + 1 {
        return None;
    }
    let body = bytes.get(HEADER..HEADER + length)?;
    if crc32fast::hash(&bytes[8..HEADER + length]) != word(4)? {
        return None;
    }
    Some(Framed { sequence: long(8)?, synced: long(16)?, body, size: padded(HEADER + length) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log_id(term: u64, node_id: u64, index: u64) -> LogId {
        LogId { leader_id: openraft::impls::leader_id_adv::LeaderId { term, node_id }, index }
    }

    proptest! {
        #[test]
        fn every_entry_reads_back(term: u64, node: u64, index: u64, payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let entry = Entry { log_id: log_id(term, node, index), payload: EntryPayload::Normal(Payload(payload.into())) };
            let encoded = encode_entry(&entry).unwrap();
            prop_assert_eq!(decode_entry(&encoded).unwrap(), entry.clone());
            let record = Record::Entry { log_id: entry.log_id, encoded };
            let mut bytes = Vec::new();
            frame(&mut bytes, &record, 7, 5).unwrap();
            let framed = unframe(&bytes).unwrap();
            prop_assert_eq!((framed.sequence, framed.synced, framed.size), (7, 5, bytes.len()));
            prop_assert_eq!(Record::decode(framed.body).unwrap(), record);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unframe(&bytes);
            let _ = Record::decode(&bytes);
            let _ = decode_entry(&Bytes::from(bytes));
        }

        #[test]
        fn a_flipped_bit_is_noticed(payload in proptest::collection::vec(any::<u8>(), 1..100), bit in 0usize..800) {
            let record = Record::Entry {
                log_id: log_id(1, 2, 3),
                encoded: encode_entry(&Entry { log_id: log_id(1, 2, 3), payload: EntryPayload::Normal(Payload(payload.into())) }).unwrap(),
            };
            let mut bytes = Vec::new();
            frame(&mut bytes, &record, 1, 0).unwrap();
            let used = HEADER + usize::try_from(u32::from_le_bytes(bytes[..4].try_into().unwrap())).unwrap();
            let bit = bit % (used * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(unframe(&bytes).is_none());
        }
    }

    #[test]
    fn zeros_are_no_record() {
        assert_eq!(unframe(&[0; 64]), None);
    }
}

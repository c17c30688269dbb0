//! Pure. The bytes of an append request between controllers.
//!
//! `u32` length of a header, the header as JSON (vote, predecessor, commit mark), then for each entry a `u32` length and
//! the entry as the log file has it. Numbers are little-endian.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use openraft::raft::AppendEntriesRequest;
use serde::{Deserialize, Serialize};

use super::log::record::{self, DecodeRecordError};
use super::types::{LogId, Types, Vote};

/// A request takes at most about so many bytes; the rest of its entries goes with the next one.
const BUDGET: usize = 8 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Header {
    vote: Vote,
    prev_log_id: Option<LogId>,
    leader_commit: Option<LogId>,
}

/// Writes a request. When its entries are too many for one, answers the last one that went in, too.
///
/// # Errors
/// When something cannot be written as JSON, which the types exclude.
pub fn encode(request: &AppendEntriesRequest<Types>) -> Result<(Bytes, Option<LogId>), DecodeRecordError> {
    let header = Header { vote: request.vote, prev_log_id: request.prev_log_id, leader_commit: request.leader_commit };
    let header =
        serde_json::to_vec(&header).map_err(|source| DecodeRecordError::Json { what: "an append request", source })?;
    let mut bytes = BytesMut::new();
    put(&mut bytes, &header);
    let mut last = None;
    for entry in &request.entries {
        let encoded = record::encode_entry(entry)?;
        if last.is_some() && bytes.len() + encoded.len() > BUDGET {
            return Ok((bytes.freeze(), last));
        }
        put(&mut bytes, &encoded);
        last = Some(entry.log_id);
    }
    Ok((bytes.freeze(), None))
}

fn put(bytes: &mut BytesMut, part: &[u8]) {
    bytes.put_u32_le(u32::try_from(part.len()).unwrap_or(u32::MAX));
    bytes.extend_from_slice(part);
}

fn take(bytes: &mut Bytes) -> Result<Bytes, DecodeRecordError> {
    let short = |length| DecodeRecordError::Short { what: "an append request", length };
    if bytes.len() < 4 {
        return Err(short(bytes.len()));
    }
    let length = usize::try_from(bytes.get_u32_le()).unwrap_or(usize::MAX);
    if bytes.len() < length {
        return Err(short(bytes.len()));
    }
    Ok(bytes.split_to(length))
}

/// Reverses [`encode`].
///
/// # Errors
/// When the bytes are not a request.
pub fn decode(mut bytes: Bytes) -> Result<AppendEntriesRequest<Types>, DecodeRecordError> {
    let header: Header = serde_json::from_slice(&take(&mut bytes)?)
        .map_err(|source| DecodeRecordError::Json { what: "an append request", source })?;
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        entries.push(record::decode_entry(&take(&mut bytes)?)?);
    }
    Ok(AppendEntriesRequest {
        vote: header.vote,
        prev_log_id: header.prev_log_id,
        entries,
        leader_commit: header.leader_commit,
    })
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;
    use openraft::impls::leader_id_adv::LeaderId;
    use proptest::prelude::*;

    use super::*;
    use crate::raft::types::{Entry, Payload};

    fn request(sizes: &[usize]) -> AppendEntriesRequest<Types> {
        let leader_id = LeaderId { term: 4, node_id: u64::MAX };
        let id = |index| LogId { leader_id, index };
        let entries = sizes
            .iter()
            .enumerate()
            .map(|(at, &size)| Entry {
                log_id: id(at as u64 + 1),
                payload: EntryPayload::Normal(Payload(vec![7; size].into())),
            })
            .collect();
        AppendEntriesRequest {
            vote: Vote { leader_id, committed: true },
            prev_log_id: Some(id(0)),
            entries,
            leader_commit: None,
        }
    }

    proptest! {
        #[test]
        fn every_request_reads_back(sizes in proptest::collection::vec(0usize..500, 0..20)) {
            let request = request(&sizes);
            let (bytes, cut) = encode(&request).unwrap();
            prop_assert_eq!(cut, None);
            let back = decode(bytes).unwrap();
            prop_assert_eq!((back.vote, back.prev_log_id, back.entries), (request.vote, request.prev_log_id, request.entries));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = decode(bytes.into());
        }
    }

    #[test]
    fn what_is_too_much_for_one_request_is_cut() {
        let request = request(&[BUDGET / 2, BUDGET / 2, 10]);
        let (bytes, cut) = encode(&request).unwrap();
        assert_eq!(cut, Some(request.entries[0].log_id));
        assert_eq!(decode(bytes).unwrap().entries, request.entries[..1]);
    }
}

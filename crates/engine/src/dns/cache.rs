//! Pure. What upstream servers said, for as long as they said that it holds. Time is an argument.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};

use super::message::{Asked, Reply};

/// An answer is kept no longer than this, whatever its records say.
const LONGEST: Duration = Duration::from_secs(300);
/// That there is no such name or record is kept no longer than this.
const LONGEST_NEGATIVE: Duration = Duration::from_secs(30);
/// Answers with more records are not kept.
const MOST_RECORDS: usize = 128;

/// What was asked of whom. Names are compared without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The servers and the place from where they are asked.
    pub scope: u64,
    name: Name,
    record_type: RecordType,
    class: DNSClass,
    dnssec: bool,
    checking_disabled: bool,
}

impl Key {
    pub fn new(scope: u64, asked: &Asked) -> Self {
        Self {
            scope,
            name: asked.name.clone(),
            record_type: asked.record_type,
            class: asked.class,
            dnssec: asked.extended.is_some_and(|extended| extended.dnssec),
            checking_disabled: asked.checking_disabled,
        }
    }
}

#[derive(Debug)]
struct Kept {
    reply: Arc<Reply>,
    since: Instant,
    until: Instant,
}

/// The replies that are kept; the oldest goes when there are too many.
#[derive(Debug)]
pub(crate) struct Cache {
    capacity: usize,
    kept: HashMap<Key, Kept>,
    /// Keys in the order in which they came. A key that was replaced is in it once.
    order: VecDeque<Key>,
}

impl Cache {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, kept: HashMap::new(), order: VecDeque::new() }
    }

    /// A reply that still holds, with what is left of its records' time.
    pub fn get(&self, key: &Key, now: Instant) -> Option<Reply> {
        let kept = self.kept.get(key).filter(|kept| now < kept.until)?;
        let age = u32::try_from(now.saturating_duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        let mut reply = Reply::clone(&kept.reply);
        for record in [&mut reply.answers, &mut reply.authorities, &mut reply.additionals].into_iter().flatten() {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(reply)
    }

    /// Keeps a reply, if it says that it may be kept.
    pub fn put(&mut self, key: Key, reply: &Arc<Reply>, now: Instant) {
        let Some(lifetime) = lifetime(reply) else { return };
        let kept = Kept { reply: Arc::clone(reply), since: now, until: now + lifetime };
        if self.kept.insert(key.clone(), kept).is_none() {
            self.order.push_back(key);
        }
        while self.kept.len() > self.capacity {
            let Some(oldest) = self.order.pop_front() else { break };
            self.kept.remove(&oldest);
        }
    }

    /// How many are kept.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.kept.len()
    }
}

/// How long a reply may be kept (RFC 2308 for those that say that there is nothing).
fn lifetime(reply: &Reply) -> Option<Duration> {
    if reply.answers.len() + reply.authorities.len() + reply.additionals.len() > MOST_RECORDS {
        return None;
    }
    let seconds = match reply.code {
        ResponseCode::NoError if !reply.answers.is_empty() => {
            let shortest = reply.answers.iter().map(|record| record.ttl).min()?;
            Duration::from_secs(shortest.into()).min(LONGEST)
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let shortest = reply.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(authority) => Some(record.ttl.min(authority.minimum)),
                _ => None,
            })?;
            Duration::from_secs(shortest.into()).min(LONGEST_NEGATIVE)
        }
        _ => return None,
    };
    (!seconds.is_zero()).then_some(seconds)
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;

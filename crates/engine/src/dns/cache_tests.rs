use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::{A, SOA};
use proptest::prelude::*;

use super::*;

fn asked(name: &str) -> Asked {
    Asked {
        id: 0,
        name: Name::from_ascii(name).unwrap(),
        key: None,
        record_type: RecordType::A,
        class: DNSClass::IN,
        recursion_desired: true,
        checking_disabled: false,
        extended: None,
    }
}

fn key(name: &str) -> Key {
    Key::new(1, &asked(name))
}

fn address(ttl: u32) -> Record {
    Record::from_rdata(Name::root(), ttl, RData::A(A::new(10, 0, 0, 1)))
}

fn positive(ttls: &[u32]) -> Arc<Reply> {
    let answers = ttls.iter().map(|&ttl| address(ttl)).collect();
    Arc::new(Reply { answers, ..Reply::empty(ResponseCode::NoError) })
}

fn negative(code: ResponseCode, ttl: u32, minimum: u32) -> Arc<Reply> {
    let authority = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
    let authorities = vec![Record::from_rdata(Name::root(), ttl, RData::SOA(authority))];
    Arc::new(Reply { authorities, ..Reply::empty(code) })
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn an_answer_holds_as_long_as_its_shortest_record_and_grows_older() {
    let (mut cache, start) = (Cache::new(10), Instant::now());
    cache.put(key("a."), &positive(&[60, 20]), start);
    let kept = cache.get(&key("A."), start + seconds(19)).unwrap();
    assert_eq!(kept.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [41, 1]);
    assert!(cache.get(&key("a."), start + seconds(20)).is_none());
    assert!(cache.get(&key("b."), start).is_none());
}

#[test]
fn lifetimes_are_bounded() {
    assert_eq!(lifetime(&positive(&[86400])), Some(LONGEST));
    assert_eq!(lifetime(&positive(&[0])), None);
    assert_eq!(lifetime(&negative(ResponseCode::NXDomain, 3600, 3600)), Some(LONGEST_NEGATIVE));
    assert_eq!(lifetime(&negative(ResponseCode::NoError, 3600, 5)), Some(seconds(5)));
    assert_eq!(lifetime(&negative(ResponseCode::NXDomain, 4, 3600)), Some(seconds(4)));
    assert_eq!(lifetime(&Reply::empty(ResponseCode::NXDomain)), None, "without the authority's word");
    assert_eq!(lifetime(&negative(ResponseCode::ServFail, 60, 60)), None);
    assert_eq!(lifetime(&positive(&vec![60; MOST_RECORDS + 1])), None);
}

#[test]
fn questions_that_differ_have_answers_of_their_own() {
    let (mut cache, start) = (Cache::new(10), Instant::now());
    cache.put(key("a."), &positive(&[60]), start);
    let mut other = asked("a.");
    other.checking_disabled = true;
    assert!(cache.get(&Key::new(1, &other), start).is_none());
    assert!(cache.get(&Key::new(2, &asked("a.")), start).is_none());
}

proptest! {
    /// It never grows beyond its capacity, and uses all of it.
    #[test]
    fn the_oldest_goes(names in prop::collection::vec(0u8..30, 1..120), capacity in 1usize..12) {
        let (mut cache, start) = (Cache::new(capacity), Instant::now());
        for name in &names {
            cache.put(key(&format!("{name}.")), &positive(&[60]), start);
            prop_assert!(cache.len() <= capacity);
            prop_assert!(cache.order.len() == cache.len());
        }
        let distinct: std::collections::BTreeSet<&u8> = names.iter().collect();
        prop_assert_eq!(cache.len(), capacity.min(distinct.len()));
    }
}

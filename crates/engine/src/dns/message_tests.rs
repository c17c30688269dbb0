use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn asked(name: &str, record_type: RecordType, largest: Option<u16>) -> Asked {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(hickory_proto::op::Query::query(Name::from_ascii(name).unwrap(), record_type));
    if let Some(largest) = largest {
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(largest);
        message.edns = Some(edns);
    }
    match read(&message.to_vec().unwrap()) {
        Received::Query(asked) => *asked,
        other => panic!("{other:?}"),
    }
}

fn many(count: usize) -> Vec<Data> {
    (0..count).map(|index| Data::Address(IpAddr::from([10, 0, (index / 256) as u8, (index % 256) as u8]))).collect()
}

#[test]
fn a_question_is_read_as_it_was_asked_and_known_in_lower_case() {
    let asked = asked("WeB.Shop.", RecordType::AAAA, Some(1400));
    assert_eq!(asked.name.to_ascii(), "WeB.Shop.");
    assert_eq!(asked.key.as_deref(), Some("web.shop"));
    assert_eq!(asked.kind(), Kind::Address6);
    assert_eq!(asked.extended, Some(Extended { largest: 1400, dnssec: false }));
    assert!(asked.recursion_desired);
}

#[test]
fn a_dot_within_a_label_is_no_separator() {
    assert_eq!(asked(r"web\.shop.", RecordType::A, None).key, None);
}

#[test]
fn what_is_found_is_told() {
    let question = asked("_http._tcp.Web.", RecordType::SRV, Some(1232));
    let data = vec![Data::Service {
        port: 80,
        target: "web.1.front".to_owned(),
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
    }];
    let written = write(&question, &Reply::found(&question, data, 5), Transport::Udp);
    assert!(!written.truncated);
    let read = Message::from_vec(&written.bytes).unwrap();
    insta::assert_snapshot!(read.to_string());
    assert_eq!(read.queries[0].name.to_ascii(), "_http._tcp.Web.");
}

#[test]
fn a_name_that_dns_cannot_carry_is_left_out() {
    let question = asked("1.0.0.10.in-addr.arpa.", RecordType::PTR, None);
    let data = vec![Data::Pointer("x".repeat(64)), Data::Pointer("web.front".to_owned())];
    assert_eq!(Reply::found(&question, data, 5).answers.len(), 1);
}

#[test]
fn an_answer_that_is_too_large_is_cut_and_says_so() {
    for (largest, transport, limit) in [
        (None, Transport::Udp, 512),
        (Some(0), Transport::Udp, 512),
        (Some(1232), Transport::Udp, 1232),
        (Some(65535), Transport::Udp, 4096),
        (None, Transport::Tcp, 65535),
        (Some(512), Transport::Tcp, 65535),
    ] {
        let question = asked("web.", RecordType::A, largest);
        let written = write(&question, &Reply::found(&question, many(300), 5), transport);
        assert!(written.bytes.len() <= limit, "{largest:?} {transport:?}: {}", written.bytes.len());
        let read = Message::from_vec(&written.bytes).unwrap();
        assert_eq!(read.metadata.truncation, written.truncated);
        assert_eq!(written.truncated, transport == Transport::Udp && limit < 4000 || limit == 4096);
        assert_eq!(read.edns.is_some(), largest.is_some());
        if written.truncated {
            // As many as fit, for clients that do not ask again.
            assert!(written.bytes.len() + 16 + OPT > limit, "{largest:?}: {}", written.bytes.len());
        } else {
            assert_eq!(read.answers.len(), 300);
        }
    }
}

#[test]
fn what_only_comes_in_addition_is_left_out_without_a_word() {
    let question = asked("_http._tcp.web.", RecordType::SRV, None);
    let addresses: Vec<IpAddr> = (0..100).map(|index| IpAddr::from([10, 0, 0, index])).collect();
    let data = vec![Data::Service { port: 80, target: "web.1.front".to_owned(), addresses }];
    let written = write(&question, &Reply::found(&question, data, 5), Transport::Udp);
    assert!(!written.truncated);
    let read = Message::from_vec(&written.bytes).unwrap();
    assert_eq!(read.answers.len(), 1);
    assert!((1..100).contains(&read.additionals.len()));
}

#[test]
fn what_is_no_question_is_told_so_or_not_answered() {
    let code = |bytes: &[u8]| match read(bytes) {
        Received::Rejected(bytes) => Some(Message::from_vec(&bytes).unwrap().metadata.response_code),
        Received::Silence => None,
        Received::Query(asked) => panic!("{asked:?}"),
    };
    let good = question(&asked("web.", RecordType::A, None), 1, false).unwrap();
    assert_eq!(code(&good[..11]), None, "a cut header");
    assert_eq!(code(&good[..14]), Some(ResponseCode::FormErr), "a cut question");
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    assert_eq!(code(&changed(2, 0x81)), None, "an answer");
    assert_eq!(code(&changed(2, 0x28)), Some(ResponseCode::NotImp), "an update");
    assert_eq!(code(&changed(5, 2)), Some(ResponseCode::FormErr), "two questions");
    assert_eq!(code(&changed(4, 0xff)), Some(ResponseCode::FormErr), "65281 questions");
    assert_eq!(code(&changed(12, 0xc0)), Some(ResponseCode::FormErr), "a name that points to itself");
    let mut newer = Message::new(9, MessageType::Query, OpCode::Query);
    newer.queries.push(hickory_proto::op::Query::query(Name::from_ascii("web.").unwrap(), RecordType::A));
    let mut edns = hickory_proto::op::Edns::new();
    edns.set_version(1);
    newer.edns = Some(edns);
    // 16 is BADSIG to the library, and BADVERS where there is no signature (RFC 6895, section 2.3).
    assert_eq!(code(&newer.to_vec().unwrap()).map(u16::from), Some(u16::from(ResponseCode::BADVERS)));
}

#[test]
fn only_the_answer_to_the_question_is_heard() {
    let question_asked = asked("example.org.", RecordType::A, None);
    let mut answer = Message::new(5, MessageType::Response, OpCode::Query);
    answer.queries.push(hickory_proto::op::Query::query(Name::from_ascii("EXAMPLE.org.").unwrap(), RecordType::A));
    let hear_it = |answer: &Message, id| hear(&answer.to_vec().unwrap(), &question_asked, id);
    assert!(matches!(hear_it(&answer, 5), Heard::Reply(_)));
    assert!(matches!(hear_it(&answer, 6), Heard::Other));
    answer.metadata.truncation = true;
    assert!(matches!(hear_it(&answer, 5), Heard::Truncated));
    answer.queries[0].set_query_type(RecordType::AAAA);
    assert!(matches!(hear_it(&answer, 5), Heard::Other));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Received::Query(asked) = read(&bytes) {
            let _ = write(&asked, &Reply::found(&asked, many(3), 5), Transport::Udp);
        }
        let _ = hear(&bytes, &asked("web.", RecordType::A, None), 7);
    }

    /// Damage to real messages gets further than chance does.
    #[test]
    fn no_damage_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), cut in any::<prop::sample::Index>()) {
        let question_asked = asked("_http._tcp.web.", RecordType::SRV, Some(1232));
        let data = vec![
            Data::Service { port: 80, target: "web.1.front".to_owned(), addresses: vec!["10.0.0.1".parse().unwrap()] },
            Data::Pointer("web.front".to_owned()),
            Data::Address("fd00::1".parse().unwrap()),
        ];
        let answer = write(&question_asked, &Reply::found(&question_asked, data, 5), Transport::Udp).bytes;
        for mut bytes in [question(&question_asked, 7, true).unwrap(), answer] {
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            bytes.truncate(cut.index(bytes.len()) + 1);
            if let Received::Query(asked) = read(&bytes) {
                let written = write(&asked, &Reply::found(&asked, many(9), 5), Transport::Udp);
                prop_assert!(written.bytes.len() <= LARGEST_UDP);
            }
            if let Heard::Reply(reply) = hear(&bytes, &question_asked, 7) {
                let _ = write(&question_asked, &reply, Transport::Udp);
            }
        }
    }

    /// Whatever is answered can be read again, is within the limit and has the question's id and name.
    #[test]
    fn what_is_written_is_read(labels in prop::collection::vec("[A-Za-z0-9_]{1,20}", 1..6), count in 0usize..400, largest in prop::option::of(any::<u16>())) {
        let name = format!("{}.", labels.join("."));
        let question_asked = asked(&name, RecordType::A, largest);
        let written = write(&question_asked, &Reply::found(&question_asked, many(count), 5), Transport::Udp);
        let read = Message::from_vec(&written.bytes).unwrap();
        prop_assert!(written.bytes.len() <= question_asked.largest_answer(Transport::Udp));
        prop_assert_eq!(read.metadata.id, 7);
        prop_assert_eq!(read.queries[0].name.to_ascii(), name);
        prop_assert_eq!(read.answers.len() < count, written.truncated);
    }
}

//! Tests of the drivers' forms, byte by byte.

use std::io::Read as _;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::options::decide;
use super::super::subject::example;
use super::*;
use crate::container::Logging;

const TIME: u64 = 1_700_000_000_123_456_789;

fn line(text: &[u8]) -> Line<'_> {
    Line { time: TIME, source: Source::Stdout, text, part: None }
}

fn encoder_in(zone: TimeZone, driver: &str, options: &[(&str, &str)]) -> Encoder {
    let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let plan = decide(&Logging { driver: Some(driver.to_owned()), options, image_name: None }).unwrap();
    Encoder::new(&plan, &example(), Sender { pid: 42, zone }).unwrap()
}

fn encoder(driver: &str, options: &[(&str, &str)]) -> Encoder {
    encoder_in(TimeZone::UTC, driver, options)
}

fn messages(encoder: &Encoder, lines: &[Line<'_>]) -> Vec<Vec<u8>> {
    let batch = encoder.encode(lines, || *b"12345678");
    assert_eq!(batch.unfit, 0);
    batch.messages
}

fn texts(encoder: &Encoder, lines: &[Line<'_>]) -> Vec<String> {
    messages(encoder, lines).into_iter().map(|message| String::from_utf8(message).unwrap()).collect()
}

#[test]
fn syslog_lines_are_as_the_standards_have_them() {
    let error = Line { source: Source::Stderr, ..line(b"went wrong") };
    let lines = [line(b"hello"), error];
    let of = |options: &[(&str, &str)]| texts(&encoder("syslog", options), &lines);
    assert_eq!(
        of(&[]),
        ["<30>Nov 14 22:13:20 0123456789ab[42]: hello\n", "<27>Nov 14 22:13:20 0123456789ab[42]: went wrong\n"]
    );
    let options = [("syslog-format", "rfc3164"), ("syslog-facility", "local0"), ("tag", "{{.Name}}")];
    assert_eq!(of(&options)[0], "<134>Nov 14 22:13:20 host-1 web[42]: hello\n");
    assert_eq!(
        of(&[("syslog-format", "rfc5424")])[1],
        "<27>1 2023-11-14T22:13:20Z host-1 0123456789ab 42 0123456789ab - went wrong\n"
    );
    let berlin = TimeZone::fixed(jiff::tz::offset(1));
    let options = [("syslog-format", "rfc5424micro"), ("syslog-address", "tcp+tls://h"), ("tag", "t")];
    let text = texts(&encoder_in(berlin.clone(), "syslog", &options), &lines[..1]);
    assert_eq!(text, ["61 <30>1 2023-11-14T23:13:20.123456+01:00 host-1 t 42 t - hello\n"]);
    // A day of one digit, in the host's zone.
    let day = Line { time: 1_699_050_000_000_000_000, ..line(b"x") };
    assert_eq!(texts(&encoder_in(berlin, "syslog", &[("tag", "t")]), &[day]), ["<30>Nov  3 23:20:00 t[42]: x\n"]);
    // Bytes are as they were written.
    let message = messages(&encoder("syslog", &[("tag", "t")]), &[line(b"\xff\0")]);
    assert!(message[0].ends_with(b"]: \xff\0\n"));
}

#[test]
fn journal_entries_have_the_fields_of_dockers() {
    let options = [("labels", "team"), ("labels-regex", "^com"), ("env", "LANG")];
    let part = Part { id: "abc".to_owned(), ordinal: 2, last: false };
    let long = Line { part: Some(part), source: Source::Stderr, ..line(b"part") };
    let text = texts(&encoder("journald", &options), &[long]);
    let expected = "MESSAGE=part\nPRIORITY=3\nSYSLOG_TIMESTAMP=2023-11-14T22:13:20.123456789Z\n\
        CONTAINER_PARTIAL_ID=abc\nCONTAINER_PARTIAL_ORDINAL=2\nCONTAINER_PARTIAL_LAST=false\n\
        CONTAINER_PARTIAL_MESSAGE=true\nCONTAINER_ID=0123456789ab\nCONTAINER_ID_FULL=0123456789abcdef0123\n\
        CONTAINER_NAME=web\nCONTAINER_TAG=0123456789ab\nIMAGE_NAME=nginx:1\nSYSLOG_IDENTIFIER=0123456789ab\n\
        COM_EXAMPLE_A=1\nCOM_EXAMPLE_B=2\nLANG=C\nTEAM=blue\n";
    assert_eq!(text, [expected]);
    // What has a line end of its own is told with its length.
    let mut subject = example();
    subject.environment.push("_1 two=a\nb".to_owned());
    let options = [("env-regex", "two")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let fields = journald::fields(&subject, "t", &Attributes::parse(&options).unwrap());
    assert!(fields.ends_with(b"X1_TWO\n\x03\0\0\0\0\0\0\0a\nb\n"), "{}", String::from_utf8_lossy(&fields));
}

#[test]
fn forward_messages_are_messagepack() {
    let mut expected = vec![0x93, 0xa1, b't', 0x92];
    let record = |text: &str| {
        let mut bytes = vec![0x84];
        for (key, value) in
            [("container_id", "0123456789abcdef0123"), ("container_name", "web"), ("source", "stdout"), ("log", text)]
        {
            for word in [key, value] {
                bytes.push(0xa0 | u8::try_from(word.len()).unwrap());
                bytes.extend(word.as_bytes());
            }
        }
        bytes
    };
    for text in ["one", "two"] {
        expected.extend([0x92, 0xce, 0x65, 0x53, 0xf1, 0x00]);
        expected.extend(record(text));
    }
    expected.extend([0x81, 0xa4]);
    expected.extend(b"size\x02");
    let options = [("tag", "t")];
    assert_eq!(messages(&encoder("fluentd", &options), &[line(b"one"), line(b"two")]), [expected]);

    let options = [("tag", "t"), ("fluentd-sub-second-precision", "true"), ("fluentd-request-ack", "true")];
    let batch = encoder("fluentd", &options).encode(&[line(b"one")], || [7; 8]);
    let event_time = [0xd7, 0x00, 0x65, 0x53, 0xf1, 0x00, 0x07, 0x5b, 0xcd, 0x15];
    assert_eq!(batch.messages[0][5..15], event_time);
    let chunk = batch.acknowledgement.unwrap();
    assert_eq!(chunk, "BwcHBwcHBwcHBwcHBwcHBw==");
    let mut answer = vec![0x81, 0xa3];
    answer.extend(b"ack");
    answer.push(0xa0 | 24);
    answer.extend(chunk.as_bytes());
    assert!(acknowledges(&answer, &chunk));
    assert!(!acknowledges(&answer[..20], &chunk) && !acknowledges(&answer, "other") && !acknowledges(b"", &chunk));
}

#[test]
fn numbers_and_lengths_have_the_shortest_form() {
    let of = |write: fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        write(&mut bytes);
        bytes.truncate(5);
        bytes
    };
    assert_eq!(of(|to| msgpack::number(to, 0x7f)), [0x7f]);
    assert_eq!(of(|to| msgpack::number(to, 0x80)), [0xcc, 0x80]);
    assert_eq!(of(|to| msgpack::number(to, 0x100)), [0xcd, 1, 0]);
    assert_eq!(of(|to| msgpack::number(to, 1 << 32)), [0xcf, 0, 0, 0, 1]);
    assert_eq!(of(|to| msgpack::text(to, &[b'x'; 40])), [0xd9, 40, b'x', b'x', b'x']);
    assert_eq!(of(|to| msgpack::text(to, &[b'x'; 300])), [0xda, 1, 44, b'x', b'x']);
    assert_eq!(of(|to| msgpack::text(to, &[b'x'; 70_000])), [0xdb, 0, 1, 0x11, 0x70]);
    assert_eq!(of(|to| msgpack::array(to, 16)), [0xdc, 0, 16]);
    assert_eq!(of(|to| msgpack::map(to, 70_000)), [0xdf, 0, 1, 0x11, 0x70]);
}

#[test]
fn gelf_messages_are_json() {
    let options = [("gelf-address", "tcp://host:12201"), ("labels", "team"), ("env", "LANG")];
    let text = texts(&encoder("gelf", &options), &[Line { source: Source::Stderr, ..line(b"x\xff\"") }]);
    let expected = concat!(
        r#"{"version":"1.1","host":"host-1","short_message":"x"#,
        "\u{fffd}",
        r#"\"","timestamp":1700000000.123,"level":3,"_command":"nginx -g","_container_id":"0123456789abcdef0123","#,
        r#""_container_name":"web","_created":"2023-11-14T22:13:20.123Z","_image_id":"sha256:fedcba9876543210","#,
        r#""_image_name":"nginx:1","_tag":"0123456789ab","_LANG":"C","_team":"blue"}"#,
        "\0"
    );
    assert_eq!(text, [expected]);
}

/// Puts the datagrams of one message together, as a receiver does.
fn together(datagrams: &[Vec<u8>]) -> Vec<u8> {
    let bytes = if datagrams.len() == 1 && !datagrams[0].starts_with(&[0x1e, 0x0f]) {
        datagrams[0].clone()
    } else {
        let count = u8::try_from(datagrams.len()).unwrap();
        let mut bytes = Vec::new();
        for (number, datagram) in (0..).zip(datagrams) {
            assert!(datagram.len() <= 1420);
            assert_eq!(datagram[..12], [&[0x1e, 0x0f][..], b"12345678", &[number, count]].concat());
            bytes.extend(&datagram[12..]);
        }
        bytes
    };
    let mut message = Vec::new();
    match bytes[..2] {
        [0x1f, 0x8b] => flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut message).unwrap(),
        [0x78, _] => flate2::read::ZlibDecoder::new(&bytes[..]).read_to_end(&mut message).unwrap(),
        _ => (&bytes[..]).read_to_end(&mut message).unwrap(),
    };
    message
}

proptest! {
    #[test]
    fn gelf_datagrams_hold_the_message(
        text in proptest::collection::vec(any::<u8>(), 0..LONGEST_OUTPUT),
        kind in prop_oneof!["gzip", "zlib", "none"],
    ) {
        let options = [("gelf-address", "udp://host:12201"), ("gelf-compression-type", kind.as_str())];
        let datagrams = messages(&encoder("gelf", &options), &[line(&text)]);
        let message: serde_json::Value = serde_json::from_slice(&together(&datagrams)).unwrap();
        prop_assert_eq!(message["short_message"].as_str().unwrap(), String::from_utf8_lossy(&text));
    }
}

#[test]
fn a_message_of_too_many_datagrams_is_counted() {
    let options = [("gelf-address", "udp://host:12201"), ("gelf-compression-type", "none")];
    let long = vec![b'x'; 200_000];
    let batch = encoder("gelf", &options).encode(&[line(&long), line(b"short")], || [0; 8]);
    assert_eq!((batch.messages.len(), batch.unfit), (1, 1));
}

#[test]
fn parts_of_a_long_line_are_told() {
    let record =
        |source, length, partial| LogRecord { time: 1, source, output: Bytes::from(vec![b'x'; length]), partial };
    let mut lines = UnderWay::default();
    let mut part = |record: &LogRecord, id: &str| {
        lines.part(record, || id.to_owned()).map(|part| (part.id, part.ordinal, part.last))
    };
    let whole = |id: &str, ordinal, last| Some((id.to_owned(), ordinal, last));
    assert_eq!(part(&record(Source::Stdout, 10, false), "a"), None);
    assert_eq!(part(&record(Source::Stdout, LONGEST_OUTPUT, true), "b"), whole("b", 1, false));
    assert_eq!(part(&record(Source::Stderr, 10, false), "c"), None);
    assert_eq!(part(&record(Source::Stdout, LONGEST_OUTPUT, true), "d"), whole("b", 2, false));
    assert_eq!(part(&record(Source::Stdout, 1, false), "e"), whole("b", 3, true));
    // The end of all output without a line end.
    assert_eq!(part(&record(Source::Stdout, 5, true), "f"), None);
}

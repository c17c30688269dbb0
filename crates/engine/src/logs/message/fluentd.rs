//! Pure. The forward protocol of fluentd, version 1: one message with many entries.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::Line;
use super::msgpack::{array, map, number, read_text, text};
use crate::logs::Source;

const SECOND: u64 = 1_000_000_000;

/// The name of one message, which the other side repeats when it has it.
pub(super) fn chunk(id: [[u8; 8]; 2]) -> String {
    BASE64_STANDARD.encode(id.concat())
}

/// `[tag, [[time, record], …], options]`.
pub(super) fn forward(
    tag: &str,
    pairs: &[(String, String)],
    lines: &[Line<'_>],
    sub_second: bool,
    chunk: Option<&str>,
) -> Vec<u8> {
    let mut message = Vec::new();
    array(&mut message, 3);
    text(&mut message, tag.as_bytes());
    array(&mut message, lines.len());
    for line in lines {
        array(&mut message, 2);
        time(&mut message, line.time, sub_second);
        record(&mut message, pairs, line);
    }
    map(&mut message, 1 + usize::from(chunk.is_some()));
    text(&mut message, b"size");
    number(&mut message, u64::try_from(lines.len()).unwrap_or(u64::MAX));
    if let Some(chunk) = chunk {
        text(&mut message, b"chunk");
        text(&mut message, chunk.as_bytes());
    }
    message
}

/// Seconds, or an EventTime: seconds and nanoseconds.
fn time(to: &mut Vec<u8>, time: u64, sub_second: bool) {
    let seconds = time / SECOND;
    if !sub_second {
        return number(to, seconds);
    }
    to.extend([0xd7, 0x00]);
    to.extend(u32::try_from(seconds).unwrap_or(u32::MAX).to_be_bytes());
    to.extend(u32::try_from(time % SECOND).unwrap_or(0).to_be_bytes());
}

fn record(to: &mut Vec<u8>, pairs: &[(String, String)], line: &Line<'_>) {
    map(to, pairs.len() + 2 + if line.part.is_some() { 4 } else { 0 });
    let mut pair = |key: &str, value: &[u8]| {
        text(to, key.as_bytes());
        text(to, value);
    };
    for (key, value) in pairs {
        pair(key, value.as_bytes());
    }
    pair(
        "source",
        match line.source {
            Source::Stdout => b"stdout",
            Source::Stderr => b"stderr",
        },
    );
    pair("log", line.text);
    if let Some(part) = &line.part {
        pair("partial_message", b"true");
        pair("partial_id", part.id.as_bytes());
        pair("partial_ordinal", part.ordinal.to_string().as_bytes());
        pair("partial_last", part.last.to_string().as_bytes());
    }
}

/// Whether it is the map `{"ack": wanted}`.
pub(super) fn acknowledges(answer: &[u8], wanted: &str) -> bool {
    let found = || {
        let (&0x81, rest) = answer.split_first()? else { return None };
        let (key, rest) = read_text(rest)?;
        let (value, rest) = read_text(rest)?;
        Some(key == b"ack" && value == wanted.as_bytes() && rest.is_empty())
    };
    found().unwrap_or(false)
}

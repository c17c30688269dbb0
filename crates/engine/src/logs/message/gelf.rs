//! Pure. Graylog's extended log format, version 1.1, and its datagrams.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::Line;
use super::syslog::severity;
use crate::logs::options::GelfCompression;
use crate::logs::subject::{Attributes, Subject};

/// A datagram is no longer, so that networks do not split it.
const DATAGRAM: usize = 1420;
/// Two bytes that say so, the message's eight, the number of the part and of all parts.
const HEAD: usize = 12;
/// No message has more parts.
const MOST: usize = 128;

/// What is the same in every message.
#[derive(Debug, Clone)]
pub(super) struct Fixed {
    host: String,
    further: Map<String, Value>,
}

impl Fixed {
    pub fn new(subject: &Subject, tag: &str, attributes: &Attributes) -> Self {
        let created = i64::try_from(subject.created_at).ok().and_then(|time| Timestamp::from_millisecond(time).ok());
        let mut further: Map<String, Value> = [
            ("_command", subject.command.join(" ")),
            ("_container_id", subject.id.clone()),
            ("_container_name", subject.name.clone()),
            ("_created", created.unwrap_or(Timestamp::UNIX_EPOCH).to_string()),
            ("_image_id", subject.image_id.clone()),
            ("_image_name", subject.image_name.clone()),
            ("_tag", tag.to_owned()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
        let name = |key: &str| if key.starts_with('_') { key.to_owned() } else { format!("_{key}") };
        further.extend(attributes.of(subject, name).into_iter().map(|(key, value)| (key, value.into())));
        Self { host: subject.host.clone(), further }
    }

    pub fn message(&self, line: &Line<'_>) -> Vec<u8> {
        let mut message = Map::new();
        message.insert("version".to_owned(), "1.1".into());
        message.insert("host".to_owned(), self.host.as_str().into());
        message.insert("short_message".to_owned(), String::from_utf8_lossy(line.text).into());
        // A number of milliseconds as a decimal fraction, without what a floating point number adds to it.
        let milliseconds = line.time / 1_000_000;
        let time: Value = serde_json::from_str(&format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000))
            .unwrap_or_else(|_| 0.into());
        message.insert("timestamp".to_owned(), time);
        message.insert("level".to_owned(), severity(line.source).into());
        message.extend(self.further.clone());
        Value::Object(message).to_string().into_bytes()
    }
}

fn compressed(message: &[u8], compression: GelfCompression, level: u32) -> Vec<u8> {
    // Nothing that writes to memory fails.
    let made = match compression {
        GelfCompression::None => return message.to_vec(),
        GelfCompression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
            encoder.write_all(message).and_then(|()| encoder.finish())
        }
        GelfCompression::Zlib => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(level));
            encoder.write_all(message).and_then(|()| encoder.finish())
        }
    };
    made.unwrap_or_else(|_| message.to_vec())
}

/// A message in one datagram, or in several; `None` when it is too long.
pub(super) fn datagrams(message: &[u8], compression: GelfCompression, level: u32, id: [u8; 8]) -> Option<Vec<Vec<u8>>> {
    let bytes = compressed(message, compression, level);
    if bytes.len() <= DATAGRAM {
        return Some(vec![bytes]);
    }
    let chunks = bytes.chunks(DATAGRAM - HEAD);
    let count = u8::try_from(chunks.len()).ok().filter(|count| usize::from(*count) <= MOST)?;
    let datagrams = (0..).zip(chunks).map(|(number, chunk)| {
        let mut datagram = vec![0x1e, 0x0f];
        datagram.extend(id);
        datagram.extend([number, count]);
        datagram.extend(chunk);
        datagram
    });
    Some(datagrams.collect())
}

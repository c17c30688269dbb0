//! Pure. Entries of systemd's journal in its native protocol: fields, one a line, or with their length where they have more than one.

use jiff::Timestamp;

use super::Line;
use super::syslog::severity;
use crate::logs::subject::{Attributes, Subject};

fn field(to: &mut Vec<u8>, name: &str, value: &[u8]) {
    to.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        to.push(b'\n');
        to.extend_from_slice(&u64::try_from(value.len()).unwrap_or(0).to_le_bytes());
    } else {
        to.push(b'=');
    }
    to.extend_from_slice(value);
    to.push(b'\n');
}

/// A name that the journal takes: upper case, digits and underscores, none of them at the beginning; at most 64 characters.
fn name(key: &str) -> String {
    let name: String = key
        .chars()
        .map(|character| match character.to_ascii_uppercase() {
            fitting @ ('A'..='Z' | '0'..='9') => fitting,
            _ => '_',
        })
        .skip_while(|character| *character == '_')
        .take(64)
        .collect();
    // The journal drops names that begin with a digit.
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        format!("X{name}").chars().take(64).collect()
    } else {
        name
    }
}

/// What is the same in every entry of a container.
pub(super) fn fields(subject: &Subject, tag: &str, attributes: &Attributes) -> Vec<u8> {
    let mut fields = Vec::new();
    for (name, value) in [
        ("CONTAINER_ID", subject.short_id()),
        ("CONTAINER_ID_FULL", &subject.id),
        ("CONTAINER_NAME", &subject.name),
        ("CONTAINER_TAG", tag),
        ("IMAGE_NAME", &subject.image_name),
        ("SYSLOG_IDENTIFIER", tag),
    ] {
        field(&mut fields, name, value.as_bytes());
    }
    for (name, value) in attributes.of(subject, name) {
        if !name.is_empty() {
            field(&mut fields, &name, value.as_bytes());
        }
    }
    fields
}

/// One entry.
pub(super) fn entry(fields: &[u8], line: &Line<'_>) -> Vec<u8> {
    let mut entry = Vec::with_capacity(fields.len() + line.text.len() + 256);
    field(&mut entry, "MESSAGE", line.text);
    field(&mut entry, "PRIORITY", severity(line.source).to_string().as_bytes());
    let time = Timestamp::from_nanosecond(i128::from(line.time)).unwrap_or(Timestamp::UNIX_EPOCH);
    field(&mut entry, "SYSLOG_TIMESTAMP", time.to_string().as_bytes());
    if let Some(part) = &line.part {
        field(&mut entry, "CONTAINER_PARTIAL_ID", part.id.as_bytes());
        field(&mut entry, "CONTAINER_PARTIAL_ORDINAL", part.ordinal.to_string().as_bytes());
        field(&mut entry, "CONTAINER_PARTIAL_LAST", part.last.to_string().as_bytes());
        if !part.last {
            field(&mut entry, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
    }
    entry.extend_from_slice(fields);
    entry
}

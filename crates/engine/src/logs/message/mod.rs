//! Pure. Output as the other side of a log driver takes it.

mod fluentd;
mod gelf;
mod journald;
mod msgpack;
mod syslog;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::options::{Format, Plan};
use super::subject::{Attributes, Subject};
use super::{LogRecord, Source};
use stack_shim::log_record::LONGEST_OUTPUT;

/// A line, or a part of one, without its line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    /// Nanoseconds since the Unix epoch.
    pub time: u64,
    /// Where it came from.
    pub source: Source,
    /// As it was written.
    pub text: &'a [u8],
    /// `None` when it is whole.
    pub part: Option<Part>,
}

/// Which part of a line that is too long for one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The same for all parts of the line, and no other.
    pub id: String,
    /// From 1 on.
    pub ordinal: u64,
    /// No other one follows.
    pub last: bool,
}

/// The long lines that are under way: part of what is remembered of how far a log was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderWay {
    #[serde(default)]
    output: Option<(String, u64)>,
    #[serde(default)]
    error: Option<(String, u64)>,
}

impl UnderWay {
    /// Which part of its line a record is. `begins` names the line, if it begins here.
    pub fn part(&mut self, record: &LogRecord, begins: impl FnOnce() -> String) -> Option<Part> {
        // A shorter one that has no line end is the end of all output.
        let goes_on = record.partial && record.output.len() >= LONGEST_OUTPUT;
        let state = match record.source {
            Source::Stdout => &mut self.output,
            Source::Stderr => &mut self.error,
        };
        let (id, ordinal) = match state.take() {
            Some((id, ordinal)) => (id, ordinal + 1),
            None if goes_on => (begins(), 1),
            None => return None,
        };
        if goes_on {
            *state = Some((id.clone(), ordinal));
        }
        Some(Part { id, ordinal, last: !goes_on })
    }
}

/// A record's text.
pub fn text(record: &LogRecord) -> &[u8] {
    record.output.strip_suffix(b"\n").unwrap_or(&record.output)
}

/// Messages that were made of some lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Each is a datagram, or what comes next in a connection.
    pub messages: Vec<Vec<u8>>,
    /// What the other side says when it has them.
    pub acknowledgement: Option<String>,
    /// Lines that cannot be told in the driver's form.
    pub unfit: u64,
}

/// Makes messages of one container's lines.
#[derive(Debug, Clone)]
pub struct Encoder {
    format: Format,
    tag: String,
    kind: Kind,
    /// Messages are datagrams.
    datagrams: bool,
}

#[derive(Debug, Clone)]
enum Kind {
    Syslog(syslog::Header),
    /// All fields that are the same in every entry.
    Journald(Vec<u8>),
    /// The pairs that are the same in every record.
    Fluentd(Vec<(String, String)>),
    Gelf(gelf::Fixed),
}

/// What the messages of this host have in common.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Of the process that sends.
    pub pid: u32,
    /// Of times that have no zone.
    pub zone: TimeZone,
}

impl Encoder {
    /// For the output of `subject`; `None` where it is not sent.
    pub fn new(plan: &Plan, subject: &Subject, sender: Sender) -> Option<Self> {
        let remote = plan.remote.as_ref()?;
        let tag = plan.tag.clone().unwrap_or_default().of(subject);
        let attributes: &Attributes = &plan.attributes;
        let datagrams = remote.endpoint.is_datagram();
        let kind = match remote.format {
            Format::Syslog { facility, layout } => Kind::Syslog(syslog::Header {
                facility,
                layout,
                framed: matches!(remote.endpoint, super::endpoint::Endpoint::Tls(..)),
                tag: tag.clone(),
                host: subject.host.clone(),
                sender,
            }),
            Format::Journald => Kind::Journald(journald::fields(subject, &tag, attributes)),
            Format::Fluentd { .. } => {
                let mut pairs = vec![
                    ("container_id".to_owned(), subject.id.clone()),
                    ("container_name".to_owned(), subject.name.clone()),
                ];
                pairs.extend(attributes.of(subject, str::to_owned));
                Kind::Fluentd(pairs)
            }
            Format::Gelf { .. } => Kind::Gelf(gelf::Fixed::new(subject, &tag, attributes)),
        };
        Some(Self { format: remote.format, tag, kind, datagrams })
    }

    /// The messages of some lines. `id` is another one each time that it is asked.
    pub fn encode(&self, lines: &[Line<'_>], mut id: impl FnMut() -> [u8; 8]) -> Batch {
        let mut batch = Batch::default();
        match (&self.kind, self.format) {
            (Kind::Syslog(header), _) => batch.messages.extend(lines.iter().map(|line| header.message(line))),
            (Kind::Journald(fields), _) => {
                batch.messages.extend(lines.iter().map(|line| journald::entry(fields, line)));
            }
            (Kind::Fluentd(pairs), Format::Fluentd { sub_second, acknowledged }) => {
                let chunk = acknowledged.then(|| fluentd::chunk([id(), id()]));
                batch.messages.push(fluentd::forward(&self.tag, pairs, lines, sub_second, chunk.as_deref()));
                batch.acknowledgement = chunk;
            }
            (Kind::Gelf(fixed), Format::Gelf { compression, level }) if self.datagrams => {
                for line in lines {
                    match gelf::datagrams(&fixed.message(line), compression, level, id()) {
                        Some(datagrams) => batch.messages.extend(datagrams),
                        None => batch.unfit += 1,
                    }
                }
            }
            (Kind::Gelf(fixed), _) => batch.messages.extend(lines.iter().map(|line| {
                let mut message = fixed.message(line);
                message.push(0);
                message
            })),
            // A driver has one form, made of the same options.
            (Kind::Fluentd(_), _) => {}
        }
        batch
    }
}

/// Whether an answer of fluentd confirms what was sent.
pub fn acknowledges(answer: &[u8], wanted: &str) -> bool {
    fluentd::acknowledges(answer, wanted)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

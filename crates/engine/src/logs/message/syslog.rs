//! Pure. Lines of syslog: RFC 3164 and 5424, and as local programs write them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Line, Sender};
use crate::logs::Source;
use crate::logs::options::SyslogLayout;

/// What is the same in every line.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub facility: u8,
    pub layout: SyslogLayout,
    /// Each message says how long it is, as RFC 5425 wants it within TLS.
    pub framed: bool,
    pub tag: String,
    pub host: String,
    pub sender: Sender,
}

/// Output is of the level `info`, errors are of `err`.
pub(super) fn severity(source: Source) -> u8 {
    match source {
        Source::Stdout => 6,
        Source::Stderr => 3,
    }
}

fn at(time: u64, zone: &TimeZone, format: &str) -> String {
    let time = Timestamp::from_nanosecond(i128::from(time)).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(zone.clone());
    time.strftime(format).to_string()
}

/// As RFC 3339 has it: no offset is `Z`.
fn zoned(time: u64, zone: &TimeZone, format: &str) -> String {
    let text = at(time, zone, format);
    text.strip_suffix("+00:00").map(|text| format!("{text}Z")).unwrap_or(text)
}

impl Header {
    pub fn message(&self, line: &Line<'_>) -> Vec<u8> {
        let Self { tag, host, sender, .. } = self;
        let (pid, zone) = (sender.pid, &sender.zone);
        let priority = u32::from(self.facility) * 8 + u32::from(severity(line.source));
        let five = |format| format!("<{priority}>1 {} {host} {tag} {pid} {tag} - ", zoned(line.time, zone, format));
        let three = || at(line.time, zone, "%b %e %H:%M:%S");
        let mut message = match self.layout {
            SyslogLayout::Local => format!("<{priority}>{} {tag}[{pid}]: ", three()),
            SyslogLayout::Rfc3164 => format!("<{priority}>{} {host} {tag}[{pid}]: ", three()),
            SyslogLayout::Rfc5424 => five("%Y-%m-%dT%H:%M:%S%:z"),
            SyslogLayout::Rfc5424Micro => five("%Y-%m-%dT%H:%M:%S.%6f%:z"),
        }
        .into_bytes();
        message.extend_from_slice(line.text);
        message.push(b'\n');
        if self.framed && matches!(self.layout, SyslogLayout::Rfc5424 | SyslogLayout::Rfc5424Micro) {
            let mut framed = format!("{} ", message.len()).into_bytes();
            framed.append(&mut message);
            return framed;
        }
        message
    }
}

//! Pure. What a log driver and its options mean. The texts of refusals are Docker's where it has one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::endpoint::{self, Endpoint, TlsFiles};
use super::subject::{Attributes, Tag};
use super::values;
use crate::container::Logging;

/// The drivers that there are.
pub const DRIVERS: [&str; 7] = ["fluentd", "gelf", "journald", "json-file", "local", "none", "syslog"];

/// A file that is full is followed by the next one.
const MAX_BYTES: u64 = 20 << 20;
/// So many files.
const MAX_FILES: u32 = 5;
/// Output that waits for the disk where the container does not.
const BUFFER: u64 = 1 << 20;

/// What is done with a container's output.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `None`: output is discarded.
    pub files: Option<Files>,
    /// Whether the files are for everybody, or only for what sends them.
    pub readable: bool,
    /// Labels and variables that are told with the output.
    pub attributes: Attributes,
    /// The tag, where one is asked for.
    pub tag: Option<Tag>,
    /// Where it is sent, beside the files.
    pub remote: Option<Remote>,
}

/// The files on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Files {
    /// A file that has so many bytes is full.
    pub max_bytes: u64,
    /// So many are kept.
    pub max_files: u32,
    /// Full ones are compressed.
    pub compress: bool,
    /// In place of the container, so many bytes wait for a slow disk.
    pub buffer_bytes: Option<u64>,
}

/// Where output is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// To whom.
    pub endpoint: Endpoint,
    /// In which form.
    pub format: Format,
    /// Whoever starts a container by hand is told when nobody is there.
    pub must_answer: bool,
    /// The pause after the first attempt that failed.
    pub retry_wait: Duration,
    /// After so many attempts more, output is given up; never where there is none.
    pub max_retries: Option<u32>,
    /// So much is sent at a time.
    pub chunk: u64,
    /// A connection is made anew after that time.
    pub reconnect_after: Option<Duration>,
    /// Whoever takes nothing, or confirms nothing, for so long is given up.
    pub timeout: Duration,
}

/// The form in which output is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lines of syslog.
    Syslog {
        /// From 0 to 23.
        facility: u8,
        /// How a line looks.
        layout: SyslogLayout,
    },
    /// The native protocol of systemd's journal.
    Journald,
    /// The forward protocol of fluentd.
    Fluentd {
        /// Times have nanoseconds.
        sub_second: bool,
        /// The other side confirms what it has.
        acknowledged: bool,
    },
    /// Graylog's extended log format.
    Gelf {
        /// Of datagrams.
        compression: GelfCompression,
        /// From 0 to 9.
        level: u32,
    },
}

/// How a line of syslog looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyslogLayout {
    /// As local programs write it: without the host.
    Local,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424, with seconds.
    Rfc5424,
    /// RFC 5424, with microseconds.
    Rfc5424Micro,
}

/// How a datagram is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GelfCompression {
    /// RFC 1952.
    Gzip,
    /// RFC 1950.
    Zlib,
    /// Not.
    None,
}

type Options = BTreeMap<String, String>;

const ATTRIBUTES: [&str; 5] = ["env", "env-regex", "labels", "labels-regex", "tag"];
const EVERYBODYS: [&str; 2] = ["mode", "max-buffer-size"];
const CACHE: [&str; 4] = ["cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"];
const SYSLOG: [&str; 7] = [
    "syslog-address",
    "syslog-facility",
    "syslog-format",
    "syslog-tls-ca-cert",
    "syslog-tls-cert",
    "syslog-tls-key",
    "syslog-tls-skip-verify",
];
const GELF: [&str; 5] = [
    "gelf-address",
    "gelf-compression-level",
    "gelf-compression-type",
    "gelf-tcp-max-reconnect",
    "gelf-tcp-reconnect-delay",
];
const FLUENTD: [&str; 11] = [
    "fluentd-address",
    "fluentd-async",
    "fluentd-async-connect",
    "fluentd-async-reconnect-interval",
    "fluentd-buffer-limit",
    "fluentd-max-retries",
    "fluentd-read-timeout",
    "fluentd-request-ack",
    "fluentd-retry-wait",
    "fluentd-sub-second-precision",
    "fluentd-write-timeout",
];

/// Where systemd's journal takes entries.
const JOURNAL: &str = "/run/systemd/journal/socket";

fn unknown(driver: &str, key: &str) -> String {
    match driver {
        "local" => format!("unknown log opt '{key}' for log driver local"),
        "gelf" => format!("unknown log opt \"{key}\" for gelf log driver"),
        driver => format!("unknown log opt '{key}' for {driver} log driver"),
    }
}

fn known(driver: &str, key: &str) -> bool {
    let sent = |own: &[&str]| own.contains(&key) || ATTRIBUTES.contains(&key) || CACHE.contains(&key);
    EVERYBODYS.contains(&key)
        || match driver {
            "json-file" => ["max-size", "max-file", "compress"].contains(&key) || ATTRIBUTES.contains(&key),
            "local" => ["max-size", "max-file", "compress"].contains(&key),
            "syslog" => sent(&SYSLOG),
            "journald" => sent(&[]),
            "fluentd" => sent(&FLUENTD),
            "gelf" => sent(&GELF),
            _ => false,
        }
}

/// What is to be done with the output.
///
/// # Errors
/// What is wrong with the driver or its options.
pub fn decide(logging: &Logging) -> Result<Plan, String> {
    let options = &logging.options;
    let driver = logging.driver.as_deref().filter(|driver| !driver.is_empty());
    // What nobody has chosen takes what Docker's own default does.
    let named = driver.unwrap_or("json-file");
    if !DRIVERS.contains(&named) {
        return Err(format!("logger: no log driver named '{named}' is registered: there are {}", DRIVERS.join(", ")));
    }
    if named == "none" {
        // As Docker, which has nobody to give them to.
        let (attributes, tag) = (Attributes::default(), None);
        return Ok(Plan { files: None, readable: false, attributes, tag, remote: None });
    }
    let buffer_bytes = buffer(options)?;
    if let Some(key) = options.keys().find(|key| !known(named, key)) {
        return Err(unknown(named, key));
    }
    let tag = options.get("tag").filter(|text| !text.is_empty()).map(|text| Tag::parse(text)).transpose()?;
    let attributes = Attributes::parse(options)?;
    let (files, remote) = match named {
        "json-file" => (json_files(options, driver.is_none())?, None),
        "local" => (local_files(options, "")?, None),
        "syslog" => (local_files(options, "cache-")?, Some(syslog(options)?)),
        "journald" => (local_files(options, "cache-")?, Some(journald())),
        "fluentd" => (local_files(options, "cache-")?, Some(fluentd(options)?)),
        _ => (local_files(options, "cache-")?, Some(gelf(options)?)),
    };
    let readable = match text(options, "cache-disabled") {
        None => true,
        Some(value) => {
            !values::boolean(value).map_err(|_| format!("invalid value for option cache-disabled: {value}"))?
        }
    };
    Ok(Plan { files: Some(Files { buffer_bytes, ..files }), readable, attributes, tag, remote })
}

fn text<'a>(options: &'a Options, key: &str) -> Option<&'a str> {
    options.get(key).map(String::as_str).filter(|value| !value.is_empty())
}

/// A value that is not as it should be, as Go's parsers have it.
fn parsed<T>(options: &Options, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    let value = text(options, key);
    value.map(|value| read(value).map_err(|reason| format!("invalid value for log opt '{key}': {reason}"))).transpose()
}

fn buffer(options: &Options) -> Result<Option<u64>, String> {
    let waits = match options.get("mode").map(String::as_str) {
        None | Some("" | "blocking") => true,
        Some("non-blocking") => false,
        Some(other) => return Err(format!("logger: logging mode not supported: {other}")),
    };
    match options.get("max-buffer-size") {
        Some(_) if waits => Err("logger: max-buffer-size option is only supported with 'mode=non-blocking'".to_owned()),
        Some(size) => values::memory_size(size)
            .map(Some)
            .map_err(|reason| format!("error parsing option max-buffer-size: {reason}")),
        None => Ok((!waits).then_some(BUFFER)),
    }
}

fn json_files(options: &Options, by_default: bool) -> Result<Files, String> {
    let size = options
        .get("max-size")
        .map(|size| values::human_size(size).map_err(|reason| format!("invalid value for max-size: {size}: {reason}")));
    let size = size.transpose()?;
    if size == Some(0) {
        return Err("max-size must be a positive number".to_owned());
    }
    let count = options.get("max-file").map(|count| {
        count.parse::<i64>().map_err(|_| format!("invalid value for log opt 'max-file': \"{count}\" is no number"))
    });
    let count = match count.transpose()? {
        Some(count) if count < 1 => return Err("max-file cannot be less than 1".to_owned()),
        Some(count) => Some(u32::try_from(count).unwrap_or(u32::MAX)),
        None => None,
    };
    let compress = parsed(options, "compress", values::boolean)?;
    // A log without bounds fills the disk of its host, so what is not said is bounded; what Docker derives from what is
    // said is as there.
    let max_files = count.unwrap_or(if size.is_some() && !by_default { 1 } else { MAX_FILES });
    if compress == Some(true) && (max_files == 1 || (size.is_none() && count.is_some())) {
        return Err("compress cannot be true when max-file is less than 2 or max-size is not set".to_owned());
    }
    let compress = compress.unwrap_or(by_default && max_files > 1);
    Ok(Files { max_bytes: size.unwrap_or(MAX_BYTES), max_files, compress, buffer_bytes: None })
}

/// The files as the driver `local` keeps them, or as it keeps them for those that send.
fn local_files(options: &Options, prefix: &str) -> Result<Files, String> {
    let key = |name: &str| format!("{prefix}{name}");
    let max_bytes = match options.get(&key("max-size")) {
        None => MAX_BYTES,
        Some(value) => values::human_size(value)
            .map_err(|reason| format!("invalid value for {prefix}max-size: {value}: {reason}"))?,
    };
    if max_bytes == 0 {
        return Err("max size should be a positive number".to_owned());
    }
    let max_files = match options.get(&key("max-file")) {
        None => MAX_FILES,
        Some(value) => match value.parse::<i64>() {
            Ok(count) if count >= 1 => u32::try_from(count).unwrap_or(u32::MAX),
            Ok(count) => return Err(format!("{prefix}max-file cannot be less than 1, got {count}")),
            Err(_) => return Err(format!("invalid value for {prefix}max-file: {value}")),
        },
    };
    let compress = match options.get(&key("compress")) {
        None => max_files > 1,
        Some(value) => {
            values::boolean(value).map_err(|reason| format!("error reading {prefix}compress log option: {reason}"))?
        }
    };
    if compress && max_files == 1 {
        return Err("compression cannot be enabled when max file count is 1".to_owned());
    }
    Ok(Files { max_bytes, max_files, compress, buffer_bytes: None })
}

fn remote(endpoint: Endpoint, format: Format, must_answer: bool) -> Remote {
    Remote {
        endpoint,
        format,
        must_answer,
        retry_wait: Duration::from_millis(500),
        max_retries: None,
        chunk: 64 * 1024,
        reconnect_after: None,
        timeout: Duration::from_secs(30),
    }
}

fn syslog(options: &Options) -> Result<Remote, String> {
    let address = text(options, "syslog-address");
    let endpoint = match address {
        None => Endpoint::LocalSyslog,
        Some(address) => {
            let (scheme, rest) = endpoint::scheme(address)
                .ok_or_else(|| format!("syslog-address should be in form proto://address, got {address}"))?;
            let host = || endpoint::address(rest, Some(514));
            match scheme {
                "udp" => Endpoint::Udp(host()?),
                "tcp" => Endpoint::Tcp(host()?),
                "tcp+tls" => Endpoint::Tls(host()?, syslog_tls(options)?),
                "unix" => Endpoint::Unix(socket("syslog-address", rest)?),
                "unixgram" => Endpoint::UnixDatagram(socket("syslog-address", rest)?),
                other => return Err(format!("unsupported scheme: '{other}'")),
            }
        }
    };
    if !matches!(endpoint, Endpoint::Tls(..))
        && let Some(key) = options.keys().find(|key| key.starts_with("syslog-tls-"))
    {
        return Err(format!("log opt '{key}' needs a syslog-address that begins with tcp+tls://"));
    }
    let facility = match text(options, "syslog-facility") {
        None => 3,
        Some(name) => FACILITIES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, number)| *number)
            .or_else(|| name.parse().ok().filter(|number| *number <= 23))
            .ok_or("invalid syslog facility")?,
    };
    let layout = match text(options, "syslog-format") {
        None => SyslogLayout::Local,
        Some("rfc3164") => SyslogLayout::Rfc3164,
        Some("rfc5424") => SyslogLayout::Rfc5424,
        Some("rfc5424micro") => SyslogLayout::Rfc5424Micro,
        Some(_) => return Err("Invalid syslog format".to_owned()),
    };
    let must_answer = !matches!(endpoint, Endpoint::Udp(_));
    Ok(remote(endpoint, Format::Syslog { facility, layout }, must_answer))
}

const FACILITIES: [(&str, u8); 20] = [
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

fn socket(key: &str, path: &str) -> Result<PathBuf, String> {
    if path.starts_with('/') {
        Ok(path.into())
    } else {
        Err(format!("{key}: `{path}` is no absolute path of a socket"))
    }
}

fn syslog_tls(options: &Options) -> Result<TlsFiles, String> {
    let file = |key: &str| match text(options, key) {
        Some(path) if !path.starts_with('/') => Err(format!("log opt '{key}': `{path}` is no absolute path")),
        path => Ok(path.map(PathBuf::from)),
    };
    let identity = match (file("syslog-tls-cert")?, file("syslog-tls-key")?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("log opts 'syslog-tls-cert' and 'syslog-tls-key' belong together".to_owned()),
    };
    let trusts_anybody = match options.get("syslog-tls-skip-verify").map(String::as_str) {
        None => false,
        Some("") => true,
        Some(value) => values::boolean(value).map_err(|why| format!("log opt 'syslog-tls-skip-verify': {why}"))?,
    };
    Ok(TlsFiles { authorities: file("syslog-tls-ca-cert")?, identity, trusts_anybody })
}

fn journald() -> Remote {
    remote(Endpoint::Journal(JOURNAL.into()), Format::Journald, true)
}

fn fluentd(options: &Options) -> Result<Remote, String> {
    let given = text(options, "fluentd-address").unwrap_or("tcp://127.0.0.1:24224");
    let wrong = |reason: String| format!("invalid fluentd-address {given}: {reason}");
    let (scheme, rest) = endpoint::scheme(given).unwrap_or(("tcp", given));
    let host = || endpoint::address(rest, Some(24224)).map_err(wrong);
    let endpoint = match scheme {
        "tcp" => Endpoint::Tcp(host()?),
        "tls" => Endpoint::Tls(host()?, TlsFiles::default()),
        "unix" => Endpoint::Unix(socket("fluentd-address", rest)?),
        other => return Err(wrong(format!("unsupported scheme: '{other}'"))),
    };
    let boolean = |key: &str| parsed(options, key, values::boolean);
    let span = |key: &str| parsed(options, key, values::duration);
    let asynchronous = match (boolean("fluentd-async")?, boolean("fluentd-async-connect")?) {
        (Some(_), Some(_)) => {
            return Err(
                "conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect'".to_owned()
            );
        }
        (one, other) => one.or(other).unwrap_or(false),
    };
    let reconnect_after = span("fluentd-async-reconnect-interval")?.filter(|span| !span.is_zero());
    let bounds = Duration::from_millis(100)..=Duration::from_secs(10);
    if reconnect_after.is_some_and(|interval| !bounds.contains(&interval)) {
        return Err(
            "invalid value for fluentd-async-reconnect-interval: value must be between 100ms and 10s".to_owned()
        );
    }
    let format = Format::Fluentd {
        sub_second: boolean("fluentd-sub-second-precision")?.unwrap_or(false),
        acknowledged: boolean("fluentd-request-ack")?.unwrap_or(false),
    };
    let number = |value: &str| value.parse::<u32>().map_err(|_| format!("\"{value}\" is no number"));
    let mut remote = remote(endpoint, format, !asynchronous);
    remote.retry_wait = span("fluentd-retry-wait")?.unwrap_or(Duration::from_secs(1));
    remote.max_retries = parsed(options, "fluentd-max-retries", number)?;
    if let Some(limit) = parsed(options, "fluentd-buffer-limit", values::memory_size)? {
        // No record is longer than 16 KiB, and one is always sent.
        remote.chunk = limit.clamp(16 * 1024, 1 << 20);
    }
    remote.reconnect_after = reconnect_after;
    let timeouts = [span("fluentd-write-timeout")?, span("fluentd-read-timeout")?];
    if let Some(timeout) = timeouts.into_iter().flatten().filter(|timeout| !timeout.is_zero()).min() {
        remote.timeout = timeout;
    }
    Ok(remote)
}

fn gelf(options: &Options) -> Result<Remote, String> {
    let Some(given) = text(options, "gelf-address") else {
        return Err("gelf-address is a required parameter".to_owned());
    };
    let (scheme, rest) = endpoint::scheme(given)
        .ok_or_else(|| format!("gelf-address should be in form proto://address, got {given}"))?;
    let host = || {
        endpoint::address(rest, None).map_err(|_| "gelf: please provide gelf-address as proto://host:port".to_owned())
    };
    let endpoint = match scheme {
        "udp" => Endpoint::Udp(host()?),
        "tcp" => Endpoint::Tcp(host()?),
        _ => return Err("gelf: endpoint needs to be TCP or UDP".to_owned()),
    };
    let datagrams = endpoint.is_datagram();
    for key in GELF.iter().filter(|key| options.contains_key(**key)) {
        if !datagrams && key.starts_with("gelf-compression") {
            return Err("compression is only supported on UDP".to_owned());
        }
        if datagrams && key.starts_with("gelf-tcp") {
            return Err(format!("{key} is only valid for TCP"));
        }
    }
    let value = |key: &str| options.get(key).map(String::as_str);
    let strange =
        |key: &str, value: &str| format!("unknown value \"{value}\" for log opt \"{key}\" for gelf log driver");
    let level = match value("gelf-compression-level") {
        None => 1,
        Some("-1") => 6,
        Some(level) => level
            .parse::<u32>()
            .ok()
            .filter(|level| *level <= 9)
            .ok_or_else(|| strange("gelf-compression-level", level))?,
    };
    let compression = match value("gelf-compression-type") {
        None | Some("gzip") => GelfCompression::Gzip,
        Some("zlib") => GelfCompression::Zlib,
        Some("none") => GelfCompression::None,
        Some(other) => return Err(strange("gelf-compression-type", other)),
    };
    let positive = |key: &str| {
        let number =
            value(key).map(|text| text.parse::<u32>().map_err(|_| format!("{key} must be a positive integer")));
        number.transpose()
    };
    let mut remote = remote(endpoint, Format::Gelf { compression, level }, !datagrams);
    remote.max_retries = positive("gelf-tcp-max-reconnect")?;
    if let Some(seconds) = positive("gelf-tcp-reconnect-delay")? {
        remote.retry_wait = Duration::from_secs(u64::from(seconds));
    }
    Ok(remote)
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;

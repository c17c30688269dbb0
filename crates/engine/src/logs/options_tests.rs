//! Tests of log options.

use super::*;

fn plan(driver: &str, options: &[(&str, &str)]) -> Result<Plan, String> {
    let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    decide(&Logging { driver: (!driver.is_empty()).then(|| driver.to_owned()), options, image_name: None })
}

fn files(driver: &str, options: &[(&str, &str)]) -> (u64, u32, bool, Option<u64>) {
    let files = plan(driver, options).unwrap().files.unwrap();
    (files.max_bytes, files.max_files, files.compress, files.buffer_bytes)
}

fn sent(driver: &str, options: &[(&str, &str)]) -> Remote {
    plan(driver, options).unwrap().remote.unwrap()
}

#[test]
fn files_are_bounded_and_compressed() {
    assert_eq!(files("", &[]), (20 << 20, 5, true, None));
    assert_eq!(files("", &[("max-size", "10m")]), (10_000_000, 5, true, None));
    assert_eq!(files("", &[("max-file", "1")]), (20 << 20, 1, false, None));
    assert_eq!(files("local", &[]), (20 << 20, 5, true, None));
    assert_eq!(files("local", &[("max-size", "1k"), ("max-file", "2"), ("compress", "false")]), (1000, 2, false, None));
    assert_eq!(files("local", &[("max-file", "1")]), (20 << 20, 1, false, None));
    assert_eq!(files("json-file", &[]), (20 << 20, 5, false, None));
    assert_eq!(files("json-file", &[("max-size", "10m")]), (10_000_000, 1, false, None));
    let rotated = [("max-size", "10m"), ("max-file", "3"), ("compress", "true")];
    assert_eq!(files("json-file", &rotated), (10_000_000, 3, true, None));
    let cache = [("cache-max-size", "1m"), ("cache-max-file", "2"), ("cache-compress", "false")];
    assert_eq!(files("journald", &cache), (1_000_000, 2, false, None));
    assert_eq!(files("local", &[("mode", "non-blocking")]).3, Some(1 << 20));
    assert_eq!(files("local", &[("mode", "non-blocking"), ("max-buffer-size", "4m")]).3, Some(4 << 20));
    assert_eq!(files("local", &[("mode", "blocking")]).3, None);
    assert!(plan("none", &[("anything", "goes")]).unwrap().files.is_none());
    assert!(plan("syslog", &[]).unwrap().readable);
    assert!(!plan("syslog", &[("cache-disabled", "true")]).unwrap().readable);
}

#[test]
fn what_is_wrong_is_refused_in_dockers_words() {
    for (driver, option, text) in [
        ("", ("colour", "red"), "unknown log opt 'colour' for json-file log driver"),
        ("json-file", ("colour", "red"), "unknown log opt 'colour' for json-file log driver"),
        ("local", ("labels", "a"), "unknown log opt 'labels' for log driver local"),
        ("syslog", ("max-size", "1m"), "unknown log opt 'max-size' for syslog log driver"),
        ("journald", ("syslog-format", "rfc5424"), "unknown log opt 'syslog-format' for journald log driver"),
        ("fluentd", ("gelf-address", "x"), "unknown log opt 'gelf-address' for fluentd log driver"),
        ("gelf", ("colour", "red"), "unknown log opt \"colour\" for gelf log driver"),
        ("json-file", ("max-size", "-3"), "invalid value for max-size: -3: invalid size: '-3'"),
        ("json-file", ("max-size", "0"), "max-size must be a positive number"),
        ("json-file", ("max-file", "0"), "max-file cannot be less than 1"),
        (
            "json-file",
            ("compress", "maybe"),
            "invalid value for log opt 'compress': \"maybe\" is neither true nor false",
        ),
        ("local", ("max-size", "x"), "invalid value for max-size: x: invalid size: 'x'"),
        ("local", ("mode", "sometimes"), "logger: logging mode not supported: sometimes"),
        (
            "local",
            ("max-buffer-size", "1m"),
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        ("syslog", ("cache-disabled", "x"), "invalid value for option cache-disabled: x"),
        ("syslog", ("syslog-address", "host:514"), "syslog-address should be in form proto://address, got host:514"),
        ("syslog", ("syslog-address", "http://host"), "unsupported scheme: 'http'"),
        ("syslog", ("syslog-facility", "24"), "invalid syslog facility"),
        ("syslog", ("syslog-format", "rfc1"), "Invalid syslog format"),
        (
            "syslog",
            ("syslog-tls-ca-cert", "/ca.pem"),
            "log opt 'syslog-tls-ca-cert' needs a syslog-address that begins with tcp+tls://",
        ),
        ("gelf", ("tag", "x"), "gelf-address is a required parameter"),
        ("gelf", ("gelf-address", "http://host:1"), "gelf: endpoint needs to be TCP or UDP"),
        ("gelf", ("gelf-address", "udp://host"), "gelf: please provide gelf-address as proto://host:port"),
        ("fluentd", ("fluentd-address", "udp://x"), "invalid fluentd-address udp://x: unsupported scheme: 'udp'"),
        (
            "fluentd",
            ("fluentd-async-reconnect-interval", "50ms"),
            "invalid value for fluentd-async-reconnect-interval: value must be between 100ms and 10s",
        ),
    ] {
        assert_eq!(plan(driver, &[option]).unwrap_err(), text, "{driver} {option:?}");
    }
    let text = plan("splunk", &[]).unwrap_err();
    assert!(text.starts_with("logger: no log driver named 'splunk' is registered"), "{text}");
    assert_eq!(
        plan("json-file", &[("compress", "true")]).unwrap().files.unwrap().max_files,
        5,
        "the files are bounded, so that they can be compressed"
    );
    let text = "compress cannot be true when max-file is less than 2 or max-size is not set";
    assert_eq!(plan("json-file", &[("compress", "true"), ("max-size", "1m")]).unwrap_err(), text);
    assert_eq!(plan("json-file", &[("compress", "true"), ("max-file", "3")]).unwrap_err(), text);
    let text = "compression cannot be enabled when max file count is 1";
    assert_eq!(plan("local", &[("compress", "true"), ("max-file", "1")]).unwrap_err(), text);
    for (option, text) in [
        (
            ("gelf-compression-level", "10"),
            "unknown value \"10\" for log opt \"gelf-compression-level\" for gelf log driver",
        ),
        (
            ("gelf-compression-type", "xz"),
            "unknown value \"xz\" for log opt \"gelf-compression-type\" for gelf log driver",
        ),
        (("gelf-tcp-max-reconnect", "3"), "gelf-tcp-max-reconnect is only valid for TCP"),
    ] {
        assert_eq!(plan("gelf", &[("gelf-address", "udp://host:1"), option]).unwrap_err(), text);
    }
    for (option, text) in [
        (("gelf-compression-type", "gzip"), "compression is only supported on UDP"),
        (("gelf-tcp-max-reconnect", "-3"), "gelf-tcp-max-reconnect must be a positive integer"),
    ] {
        assert_eq!(plan("gelf", &[("gelf-address", "tcp://host:1"), option]).unwrap_err(), text);
    }
    let both = [("fluentd-async", "true"), ("fluentd-async-connect", "true")];
    assert!(plan("fluentd", &both).unwrap_err().starts_with("conflicting options"));
}

#[test]
fn senders_know_where_to_and_in_which_form() {
    let local = sent("syslog", &[]);
    assert_eq!(local.endpoint, Endpoint::LocalSyslog);
    assert_eq!(local.format, Format::Syslog { facility: 3, layout: SyslogLayout::Local });
    let tls = sent(
        "syslog",
        &[
            ("syslog-address", "tcp+tls://log.example"),
            ("syslog-facility", "local7"),
            ("syslog-format", "rfc5424micro"),
            ("syslog-tls-skip-verify", "true"),
            ("syslog-tls-cert", "/c.pem"),
            ("syslog-tls-key", "/k.pem"),
        ],
    );
    let Endpoint::Tls(address, files) = &tls.endpoint else { panic!("{:?}", tls.endpoint) };
    assert_eq!(address.to_string(), "log.example:514");
    assert!(files.trusts_anybody && files.identity.is_some() && files.authorities.is_none());
    assert_eq!(tls.format, Format::Syslog { facility: 23, layout: SyslogLayout::Rfc5424Micro });
    assert!(tls.must_answer);
    assert!(!sent("syslog", &[("syslog-address", "udp://h:1")]).must_answer);
    let fluentd = sent("fluentd", &[]);
    assert_eq!(fluentd.endpoint.to_string(), "tcp://127.0.0.1:24224");
    assert!(fluentd.must_answer && fluentd.max_retries.is_none());
    let fluentd = sent(
        "fluentd",
        &[
            ("fluentd-address", "host"),
            ("fluentd-async", "true"),
            ("fluentd-retry-wait", "200ms"),
            ("fluentd-max-retries", "4"),
            ("fluentd-buffer-limit", "128k"),
            ("fluentd-sub-second-precision", "true"),
            ("fluentd-request-ack", "true"),
            ("fluentd-write-timeout", "5s"),
            ("fluentd-async-reconnect-interval", "1s"),
        ],
    );
    assert_eq!(fluentd.endpoint.to_string(), "tcp://host:24224");
    assert_eq!(fluentd.format, Format::Fluentd { sub_second: true, acknowledged: true });
    assert_eq!((fluentd.must_answer, fluentd.max_retries, fluentd.chunk), (false, Some(4), 128 * 1024));
    assert_eq!((fluentd.retry_wait, fluentd.timeout), (Duration::from_millis(200), Duration::from_secs(5)));
    assert_eq!(fluentd.reconnect_after, Some(Duration::from_secs(1)));
    let gelf = sent("gelf", &[("gelf-address", "udp://host:12201"), ("gelf-compression-level", "-1")]);
    assert_eq!(gelf.format, Format::Gelf { compression: GelfCompression::Gzip, level: 6 });
    let gelf = sent("gelf", &[("gelf-address", "tcp://host:12201"), ("gelf-tcp-reconnect-delay", "3")]);
    assert_eq!((gelf.retry_wait, gelf.must_answer), (Duration::from_secs(3), true));
    assert_eq!(sent("journald", &[]).endpoint.to_string(), "unixgram:///run/systemd/journal/socket");
}

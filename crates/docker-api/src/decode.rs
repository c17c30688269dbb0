//! Pure. The parameters of a query, by Docker's rules. Names that nobody asks for are passed over, as Docker does.

pub mod create;
pub mod image;
pub mod network;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

/// Why a query cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The address of the request.
    #[error("the address of the request cannot be understood: {problem}")]
    Address {
        /// What is wrong.
        problem: String,
    },
    /// A parameter's value.
    #[error("invalid value `{value}` for parameter `{name}`: expected {expected}")]
    Parameter {
        /// Which.
        name: &'static str,
        /// What was given, at most 80 characters of it.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// No signal has this name or number.
    #[error("Invalid signal: {value}")]
    Signal {
        /// What was given, at most 80 characters of it.
        value: String,
    },
    /// A parameter that there must be.
    #[error("bad parameter: {name} cannot be empty")]
    Missing {
        /// Which.
        name: &'static str,
    },
    /// A filter that there is not.
    #[error("invalid filter '{name}'")]
    Filter {
        /// Which.
        name: String,
    },
    /// A value that a filter cannot have.
    #[error("invalid filter '{name}={value}'")]
    FilterValue {
        /// Which.
        name: &'static str,
        /// What was given.
        value: String,
    },
    /// A name that no container can have.
    #[error("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    ContainerName {
        /// What was given, at most 80 characters of it.
        name: String,
    },
    /// Neither output nor error was asked for.
    #[error("Bad parameters: you must choose at least one stream")]
    NoStream,
}

/// The parameters of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// From the pairs of a query.
    pub fn new(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// The first value of a parameter; `None` also where it is empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// All values of a parameter that are not empty.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.clone()).collect()
    }

    /// Whether something is asked for. Docker takes every word but a few for yes.
    pub fn flag(&self, name: &str) -> bool {
        let no = |value: &str| matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none");
        self.text(name).is_some_and(|value| !no(value))
    }

    /// A whole number.
    pub fn number(&self, name: &'static str) -> Result<Option<i64>, DecodeError> {
        let number = |value: &str| {
            value.parse().map_err(|_| DecodeError::Parameter { name, value: short(value), expected: "a whole number" })
        };
        self.text(name).map(number).transpose()
    }

    /// A time as seconds since the Unix epoch with up to nine decimals; in nanoseconds. Zero is none.
    pub fn time(&self, name: &'static str) -> Result<Option<u64>, DecodeError> {
        let wrong = |value: &str| DecodeError::Parameter {
            name,
            value: short(value),
            expected: "seconds since 1970 with up to nine decimals",
        };
        let Some(value) = self.text(name) else { return Ok(None) };
        let (seconds, decimals) = value.split_once('.').unwrap_or((value, ""));
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if seconds.is_empty() || !plain(seconds) || !plain(decimals) || decimals.len() > 9 {
            return Err(wrong(value));
        }
        let seconds: u64 = seconds.parse().map_err(|_| wrong(value))?;
        let nanoseconds: u64 = format!("{decimals:0<9}").parse().map_err(|_| wrong(value))?;
        // Times beyond what 64 bits hold are all "never reached".
        let time = seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
        Ok(Some(time).filter(|&time| time > 0))
    }

    /// A moment, in nanoseconds since the Unix epoch: a time (RFC 3339, or seconds with decimals), or a span before now.
    pub fn moment(&self, name: &'static str, now: jiff::Timestamp) -> Result<Option<u64>, DecodeError> {
        let Some(value) = self.text(name) else { return Ok(None) };
        let nanoseconds = |time: jiff::Timestamp| u64::try_from(time.as_nanosecond()).ok();
        let time = || value.parse::<jiff::Timestamp>().ok().and_then(nanoseconds);
        let span = || {
            let span = value.parse::<jiff::SignedDuration>().ok()?;
            now.checked_sub(span).ok().and_then(nanoseconds)
        };
        match self.time(name) {
            Ok(Some(time)) => Ok(Some(time)),
            Ok(None) => Ok(Some(0)),
            Err(wrong) => time().or_else(span).map(Some).ok_or(wrong),
        }
    }

    /// The signal that is named, by its name or number.
    pub fn signal(&self, name: &'static str) -> Result<Option<i32>, DecodeError> {
        let number = |value: &str| {
            stack_engine::container::signal_number(value).ok_or_else(|| DecodeError::Signal { value: short(value) })
        };
        self.text(name).map(number).transpose()
    }

    /// How long a container may take to end: `t`. Negative is for ever.
    pub fn grace(&self) -> Result<Option<Duration>, DecodeError> {
        let span = |seconds: i64| {
            u64::try_from(seconds).map_or(Duration::from_secs(u64::from(u32::MAX)), |seconds| {
                Duration::from_secs(seconds.min(u64::from(u32::MAX)))
            })
        };
        Ok(self.number("t")?.map(span))
    }

    /// The filters: JSON of lists, or of maps to `true` as old clients send it.
    pub fn filters(&self) -> Result<Filters, DecodeError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Values {
            List(Vec<String>),
            Map(BTreeMap<String, bool>),
        }
        let Some(text) = self.text("filters") else { return Ok(Filters::default()) };
        let parsed: BTreeMap<String, Values> = serde_json::from_str(text).map_err(|_| DecodeError::Parameter {
            name: "filters",
            value: short(text),
            expected: "JSON such as {\"label\":[\"a=b\"]}",
        })?;
        let values = |values| match values {
            Values::List(list) => list,
            Values::Map(map) => map.into_iter().filter(|(_, wanted)| *wanted).map(|(value, _)| value).collect(),
        };
        Ok(Filters(parsed.into_iter().map(|(name, found)| (name, values(found))).collect()))
    }
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// What a list is filtered by: each name with its values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// The values of a filter.
    pub fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether labels satisfy every value of the filter `label`, and none of `label!`: `key`, or `key=value`.
    pub fn match_labels<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            None => label(wanted).is_some(),
            Some((key, value)) => label(key) == Some(value),
        };
        self.values("label").iter().all(has) && !self.values("label!").iter().any(has)
    }

    /// The filter `until`, in seconds since the Unix epoch: a time (RFC 3339 or seconds), or a span before now such as `24h`.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn until(&self) -> Result<Option<i64>, DecodeError> {
        let Some(text) = self.values("until").first() else { return Ok(None) };
        let seconds = text.parse::<i64>().ok();
        let time = || text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second);
        let span = || {
            let span = text.parse::<jiff::SignedDuration>().ok()?;
            jiff::Timestamp::now().checked_sub(span).ok().map(jiff::Timestamp::as_second)
        };
        let found = seconds.or_else(time).or_else(span);
        found.map(Some).ok_or_else(|| DecodeError::FilterValue { name: "until", value: short(text) })
    }
}

/// Which part of a container's log, and how it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogsRequest {
    /// Standard output is asked for.
    pub output: bool,
    /// Standard error is asked for.
    pub error: bool,
    /// Each line starts with its time.
    pub timestamps: bool,
    /// What the engine is asked.
    pub query: stack_engine::logs::LogQuery,
}

impl LogsRequest {
    /// Reads the parameters of `/containers/{id}/logs`.
    pub fn decode(parameters: &Parameters) -> Result<Self, DecodeError> {
        let (output, error) = (parameters.flag("stdout"), parameters.flag("stderr"));
        if !output && !error {
            return Err(DecodeError::NoStream);
        }
        // Docker takes everything that is no number for all.
        let tail = parameters.text("tail").and_then(|value| value.parse().ok());
        let query = stack_engine::logs::LogQuery {
            follow: parameters.flag("follow"),
            since: parameters.time("since")?,
            until: parameters.time("until")?,
            tail,
        };
        Ok(Self { output, error, timestamps: parameters.flag("timestamps"), query })
    }
}

/// Until when a container is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// It does not run.
    NotRunning,
    /// It ends the next time.
    NextExit,
    /// It is removed.
    Removed,
}

impl WaitCondition {
    /// Reads the parameter `condition`.
    pub fn decode(parameters: &Parameters) -> Result<Self, DecodeError> {
        match parameters.text("condition") {
            None | Some("not-running") => Ok(Self::NotRunning),
            Some("next-exit") => Ok(Self::NextExit),
            Some("removed") => Ok(Self::Removed),
            Some(other) => Err(DecodeError::Parameter {
                name: "condition",
                value: short(other),
                expected: "`not-running`, `next-exit` or `removed`",
            }),
        }
    }
}

/// The signal of `kill`: SIGKILL unless said otherwise.
pub fn signal(parameters: &Parameters) -> Result<i32, DecodeError> {
    let value = parameters.text("signal").unwrap_or("KILL");
    stack_engine::container::signal_number(value).ok_or_else(|| DecodeError::Signal { value: short(value) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        Parameters::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn flags_as_docker_reads_them() {
        for (value, expected) in
            [("1", true), ("true", true), ("yes", true), ("0", false), ("False", false), ("", false), ("none", false)]
        {
            assert_eq!(parameters(&[("all", value)]).flag("all"), expected, "{value}");
        }
        assert!(!parameters(&[]).flag("all"));
    }

    #[test]
    fn times_and_numbers() {
        let time = |value| parameters(&[("since", value)]).time("since");
        assert_eq!(time("12.5"), Ok(Some(12_500_000_000)));
        assert_eq!(time("12.000000001"), Ok(Some(12_000_000_001)));
        assert_eq!((time("0"), time("")), (Ok(None), Ok(None)));
        for wrong in ["x", "-1", "1.2.3", "1.0000000001", "2026-01-01", "99999999999999999999999"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        let grace = |value| parameters(&[("t", value)]).grace();
        assert_eq!(grace("3"), Ok(Some(Duration::from_secs(3))));
        assert!(grace("-1").unwrap().unwrap() > Duration::from_secs(1 << 30));
        assert_eq!(
            grace("ten").unwrap_err().to_string(),
            "invalid value `ten` for parameter `t`: expected a whole number"
        );
    }

    #[test]
    fn filters_in_both_forms() {
        let filters = |text| parameters(&[("filters", text)]).filters();
        let old = filters(r#"{"label":{"a=b":true,"c":true,"d":false}}"#).unwrap();
        assert_eq!(old, filters(r#"{"label":["a=b","c"]}"#).unwrap());
        let labels = BTreeMap::from([("a", "b"), ("c", "x")]);
        assert!(old.match_labels(|key| labels.get(key).copied()));
        assert!(!old.match_labels(|key| (key == "a").then_some("b")));
        assert!(filters("[]").is_err() && filters("{\"a\":1}").is_err());
        assert_eq!(parameters(&[]).filters(), Ok(Filters::default()));
    }

    #[test]
    fn logs_want_a_stream() {
        assert_eq!(LogsRequest::decode(&parameters(&[("follow", "1")])), Err(DecodeError::NoStream));
        let request = LogsRequest::decode(&parameters(&[("stdout", "1"), ("tail", "all")])).unwrap();
        assert_eq!((request.output, request.error, request.query.tail), (true, false, None));
        let request = LogsRequest::decode(&parameters(&[("stderr", "1"), ("tail", "5"), ("timestamps", "1")])).unwrap();
        assert_eq!((request.timestamps, request.query.tail), (true, Some(5)));
    }

    #[test]
    fn conditions_and_signals() {
        assert_eq!(WaitCondition::decode(&parameters(&[])), Ok(WaitCondition::NotRunning));
        assert!(WaitCondition::decode(&parameters(&[("condition", "never")])).is_err());
        assert_eq!((signal(&parameters(&[])), signal(&parameters(&[("signal", "SIGHUP")]))), (Ok(9), Ok(1)));
        assert!(signal(&parameters(&[("signal", "NOPE")])).is_err());
    }
}

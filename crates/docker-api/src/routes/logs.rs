//! `/containers/{id}/logs`.

use std::collections::BTreeMap;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use stack_engine::logs::{LogError, LogRecord, Source};

use super::Name;
use crate::Daemon;
use crate::decode::{LogsRequest, Parameters};
use crate::encode::text::nanoseconds;
use crate::error::{ApiError, full_text};
use crate::frame::{Channel, Framing, frame};
use crate::version::ApiVersion;

/// From this version on the content type says whether a stream is in frames.
const FRAMES_ARE_SAID: ApiVersion = ApiVersion { major: 1, minor: 42 };

/// Which lines are under way in another record.
#[derive(Debug, Default)]
struct Lines {
    output: bool,
    error: bool,
    /// What stands before each line, behind its time.
    details: String,
}

/// Labels and variables as Docker writes them: `a=1,b=2 `; a blank where there are none.
fn details_text(details: &BTreeMap<String, String>, wanted: bool) -> String {
    if !wanted {
        return String::new();
    }
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b' ' => "+".to_owned(),
                b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
                _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            })
            .collect()
    };
    let pairs: Vec<String> = details.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value))).collect();
    format!("{} ", pairs.join(","))
}

impl Lines {
    /// One record as the client gets it; nothing when it is of a stream that was not asked for.
    fn write(&mut self, request: &LogsRequest, framing: Framing, record: &LogRecord) -> Option<Bytes> {
        let (wanted, under_way, channel) = match record.source {
            Source::Stdout => (request.output, &mut self.output, Channel::Output),
            Source::Stderr => (request.error, &mut self.error, Channel::Error),
        };
        let begins = !std::mem::replace(under_way, record.partial);
        let stamp = if request.timestamps && begins { format!("{} ", nanoseconds(record.time)) } else { String::new() };
        let details = if begins { self.details.as_bytes() } else { &[] };
        wanted.then(|| frame(framing, channel, &[stamp.as_bytes(), details, &record.output]))
    }
}

/// `GET /containers/{id}/logs`.
pub async fn logs(
    State(daemon): State<Daemon>,
    Extension(version): Extension<ApiVersion>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let request = LogsRequest::decode(&parameters)?;
    let container = daemon.container(&name)?;
    let logging = &container.config.logging;
    if logging.driver.as_deref() == Some("none") || !logging.is_readable() {
        return Err(ApiError::LogNotReadable);
    }
    let details = if parameters.flag("details") { daemon.engine.log_details(&container.id) } else { BTreeMap::new() };
    let framing = if container.config.tty { Framing::Raw } else { Framing::Multiplexed };
    let mut lines = Lines { details: details_text(&details, parameters.flag("details")), ..Lines::default() };
    let records = daemon.engine.logs(&container.id, request.query.clone());
    let chunks = records.filter_map(move |record| {
        let chunk = match record {
            Ok(record) => lines.write(&request, framing, &record),
            Err(error) => Some(trouble(framing, &error)),
        };
        async move { chunk.map(Ok::<_, std::convert::Infallible>) }
    });
    let content = match framing {
        Framing::Multiplexed if version >= FRAMES_ARE_SAID => "application/vnd.docker.multiplexed-stream",
        Framing::Multiplexed | Framing::Raw => "application/vnd.docker.raw-stream",
    };
    Ok(([(header::CONTENT_TYPE, content)], Body::from_stream(chunks)).into_response())
}

/// The answer has begun, so that a failure is a part of it.
fn trouble(framing: Framing, error: &LogError) -> Bytes {
    let text = full_text(error);
    tracing::warn!(text, "a log could not be read to its end");
    frame(framing, Channel::Daemon, &[format!("Error grabbing logs: {text}\n").as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_one_time_however_many_records_it_is_in() {
        let pairs = ["stdout", "timestamps"].map(|name| (name.to_owned(), "1".to_owned()));
        let request = LogsRequest::decode(&Parameters::new(pairs.to_vec())).unwrap();
        let record = |source, text: &'static str| LogRecord {
            time: 1_700_000_000_000_000_000,
            source,
            output: Bytes::from_static(text.as_bytes()),
            partial: !text.ends_with('\n'),
        };
        let mut lines = Lines::default();
        let mut write = |record| lines.write(&request, Framing::Raw, &record);
        let stamp = "2023-11-14T22:13:20.000000000Z ";
        assert_eq!(write(record(Source::Stdout, "half ")), Some(Bytes::from(format!("{stamp}half "))));
        assert_eq!(write(record(Source::Stderr, "not asked for\n")), None);
        assert_eq!(write(record(Source::Stdout, "a line\n")), Some(Bytes::from("a line\n")));
        assert_eq!(write(record(Source::Stdout, "next\n")), Some(Bytes::from(format!("{stamp}next\n"))));
        let details =
            [("team", "a b"), ("com.example/x", "1,2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        lines.details = details_text(&details.into(), true);
        let mut write = |record| lines.write(&request, Framing::Raw, &record);
        let expected = format!("{stamp}com.example%2Fx=1%2C2,team=a+b a line\n");
        assert_eq!(write(record(Source::Stdout, "a line\n")), Some(Bytes::from(expected)));
        assert_eq!(details_text(&BTreeMap::new(), true), " ");
    }
}

//! Pure. Times, spans and names as Docker writes them.

use jiff::Timestamp;

/// Docker's word for "never": the zero of Go's time.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// Nanoseconds since the Unix epoch as RFC 3339 with all nine decimals.
pub fn nanoseconds(time: u64) -> String {
    Timestamp::from_nanosecond(i128::from(time)).map_or_else(|_| NEVER.to_owned(), |time| format!("{time:.9}"))
}

/// Milliseconds since the Unix epoch as RFC 3339.
pub fn milliseconds(time: u64) -> String {
    nanoseconds(time.saturating_mul(1_000_000))
}

/// Milliseconds as whole seconds.
pub fn seconds(milliseconds: u64) -> i64 {
    i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX)
}

/// A span as people say it, in Docker's words: `About a minute`, `3 hours`.
pub fn span(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// A full name of an image as people write it: without Docker Hub and its library.
pub fn familiar(reference: &str) -> String {
    let rest = reference.strip_prefix("docker.io/").unwrap_or(reference);
    match rest.strip_prefix("library/") {
        // Only Docker Hub has that library.
        Some(short) if rest.len() != reference.len() => short.to_owned(),
        _ => rest.to_owned(),
    }
}

/// A name as it is written in place of an identifier that the engine does not have: 64 hexadecimal digits.
pub fn identifier(kind: &str, name: &str) -> String {
    use sha2::{Digest as _, Sha256};
    hex::encode(Sha256::digest(format!("{kind}\0{name}")))
}

/// A number that Docker counts with a sign.
pub fn signed(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_in_dockers_words() {
        let expected = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86_400 * 2, "2 days"),
            (86_400 * 20, "2 weeks"),
            (86_400 * 100, "3 months"),
            (86_400 * 1000, "2 years"),
        ];
        for (seconds, text) in expected {
            assert_eq!(span(seconds), text);
        }
        assert!(!span(u64::MAX / 2).is_empty());
    }

    #[test]
    fn times_and_names() {
        assert_eq!(nanoseconds(1_700_000_000_000_000_001), "2023-11-14T22:13:20.000000001Z");
        assert_eq!(milliseconds(1_700_000_000_120), "2023-11-14T22:13:20.120000000Z");
        assert_eq!(milliseconds(u64::MAX), nanoseconds(u64::MAX));
        assert_eq!(familiar("docker.io/library/busybox:1"), "busybox:1");
        assert_eq!(familiar("docker.io/someone/web:1"), "someone/web:1");
        assert_eq!(familiar("registry.example/library/web:1"), "registry.example/library/web:1");
        assert_eq!(familiar("library/web:1"), "library/web:1");
        assert_eq!(identifier("network", "bridge").len(), 64);
    }
}

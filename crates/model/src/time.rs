//! Pure. Points and spans of time. Nothing here reads a clock: time is an argument of pure code.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// A span of time in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Milliseconds(pub u64);

impl Timestamp {
    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Milliseconds {
        Milliseconds(self.0.saturating_sub(earlier.0))
    }
}

impl Milliseconds {
    /// So many whole seconds.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// The same span for the standard library and timers.
    #[must_use]
    pub const fn to_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl Add<Milliseconds> for Timestamp {
    type Output = Self;

    fn add(self, span: Milliseconds) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub<Milliseconds> for Timestamp {
    type Output = Self;

    fn sub(self, span: Milliseconds) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

impl From<Duration> for Milliseconds {
    fn from(span: Duration) -> Self {
        Self(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Milliseconds {
    /// The largest unit that is exact enough to read: `250ms`, `5s`, `3m20s`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, rest) = (self.0 / 1000, self.0 % 1000);
        let text = match (seconds, rest) {
            (0, rest) => format!("{rest}ms"),
            (1..=9, 1..) => format!("{seconds}.{}s", rest / 100),
            (..60, _) => format!("{seconds}s"),
            (60..3600, _) if seconds % 60 == 0 => format!("{}m", seconds / 60),
            (60..3600, _) => format!("{}m{}s", seconds / 60, seconds % 60),
            _ => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        };
        formatter.pad(&text)
    }
}

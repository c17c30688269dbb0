//! Where the time of a start goes: told by the daemon's log at the level `debug`, a line for each start.

use std::fmt;
use std::time::{Duration, Instant};

/// The phases of one start until now, in order.
#[derive(Debug)]
pub(crate) struct Phases {
    last: Instant,
    spans: Vec<(&'static str, Duration)>,
}

impl Phases {
    pub fn begin() -> Self {
        Self { last: Instant::now(), spans: Vec::new() }
    }

    /// What was done since the phase before has this name.
    pub fn done(&mut self, name: &'static str) {
        let now = Instant::now();
        self.spans.push((name, now.saturating_duration_since(self.last)));
        self.last = now;
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, span)) in self.spans.iter().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(formatter, "{separator}{name}={}", span.as_micros())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_its_microseconds() {
        let mut phases = Phases::begin();
        phases.spans = vec![("record", Duration::from_micros(1500)), ("shim", Duration::from_millis(2))];
        assert_eq!(phases.to_string(), "record=1500 shim=2000");
    }
}

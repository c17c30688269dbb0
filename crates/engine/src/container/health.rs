//! Pure. Health from the outcomes of probes, by Docker's rules.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::{ContainerConfig, Healthcheck, ImageDefaults};

/// How a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// No probe has succeeded yet, and too few have failed.
    Starting,
    /// The newest probe succeeded, or too few have failed since one did.
    Healthy,
    /// Too many probes in a row have failed.
    Unhealthy,
}

/// What is known of a container's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthState {
    /// The verdict.
    pub health: Health,
    /// Failed probes in a row.
    pub failing_streak: u32,
    /// What the newest probe said, at most 4096 bytes of it.
    pub last_output: String,
    /// The newest probes, the last one last.
    #[serde(default)]
    pub log: Vec<ProbeOutcome>,
}

/// How one probe ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeOutcome {
    /// Nanoseconds since the Unix epoch.
    pub started_at: u64,
    /// Nanoseconds since the Unix epoch.
    pub finished_at: u64,
    /// The exit code; -1 when it took too long or could not be run.
    pub code: i32,
    /// What it said, at most 4096 bytes of it.
    pub output: String,
}

/// So many probes are remembered.
const REMEMBERED: usize = 5;

/// How a container is probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    pub arguments: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    pub retries: u32,
    pub start_period: Duration,
    pub start_interval: Duration,
}

/// The probe of a container; `None` when it has none. Fields that the container leaves open are the image's.
pub(crate) fn probe(config: &ContainerConfig, image: &ImageDefaults) -> Option<Probe> {
    let empty = Healthcheck::default();
    let own = config.healthcheck.as_ref().unwrap_or(&empty);
    let inherited = image.healthcheck.as_ref().unwrap_or(&empty);
    let test = if own.test.is_empty() { &inherited.test } else { &own.test };
    let arguments = match test.first().map(String::as_str) {
        None | Some("NONE") => return None,
        Some("CMD") => test[1..].to_vec(),
        Some("CMD-SHELL") => vec!["/bin/sh".to_owned(), "-c".to_owned(), test[1..].join(" ")],
        // The oldest images say the arguments alone.
        Some(_) => test.clone(),
    };
    if arguments.is_empty() {
        return None;
    }
    let pick = |of: fn(&Healthcheck) -> Option<Duration>, default: Duration| {
        [of(own), of(inherited)].into_iter().flatten().find(|span| !span.is_zero()).unwrap_or(default)
    };
    let retries = [own.retries, inherited.retries].into_iter().flatten().find(|&count| count > 0).unwrap_or(3);
    Some(Probe {
        arguments,
        interval: pick(|check| check.interval, Duration::from_secs(30)),
        timeout: pick(|check| check.timeout, Duration::from_secs(30)),
        retries,
        start_period: pick(|check| check.start_period, Duration::ZERO),
        start_interval: pick(|check| check.start_interval, Duration::from_secs(5)),
    })
}

impl HealthState {
    pub(crate) const fn starting_now() -> Self {
        Self { health: Health::Starting, failing_streak: 0, last_output: String::new(), log: Vec::new() }
    }

    /// After a probe that began `since_start` after the container.
    pub(crate) fn after(&self, probe: &Probe, since_start: Duration, outcome: ProbeOutcome) -> Self {
        let succeeded = outcome.code == 0;
        let last_output = outcome.output.clone();
        let mut log = self.log.clone();
        log.push(outcome);
        log.drain(..log.len().saturating_sub(REMEMBERED));
        if succeeded {
            return Self { health: Health::Healthy, failing_streak: 0, last_output, log };
        }
        // Until the first success, failures in the start period do not count.
        if self.health == Health::Starting && since_start < probe.start_period {
            return Self { last_output, log, ..self.clone() };
        }
        let failing_streak = self.failing_streak.saturating_add(1);
        let health = if failing_streak >= probe.retries { Health::Unhealthy } else { self.health };
        Self { health, failing_streak, last_output, log }
    }

    /// How long to wait before the next probe.
    pub(crate) fn pause(&self, probe: &Probe, since_start: Duration) -> Duration {
        if self.health == Health::Starting && since_start < probe.start_period {
            probe.start_interval.min(probe.interval)
        } else {
            probe.interval
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_of(words: &[&str]) -> Healthcheck {
        Healthcheck { test: words.iter().map(|word| (*word).to_owned()).collect(), ..Healthcheck::default() }
    }

    #[test]
    fn the_containers_own_settings_come_first() {
        let image = ImageDefaults {
            healthcheck: Some(Healthcheck { retries: Some(7), ..test_of(&["CMD-SHELL", "wget -q localhost"]) }),
            ..ImageDefaults::default()
        };
        let mut config = ContainerConfig::default();
        let inherited = probe(&config, &image).unwrap();
        assert_eq!(inherited.arguments, ["/bin/sh", "-c", "wget -q localhost"]);
        assert_eq!((inherited.retries, inherited.interval), (7, Duration::from_secs(30)));
        config.healthcheck = Some(Healthcheck { interval: Some(Duration::from_secs(1)), ..Healthcheck::default() });
        assert_eq!(probe(&config, &image).unwrap().interval, Duration::from_secs(1));
        config.healthcheck = Some(test_of(&["NONE"]));
        assert_eq!(probe(&config, &image), None);
        assert_eq!(probe(&ContainerConfig::default(), &ImageDefaults::default()), None);
    }

    #[test]
    fn failures_in_the_start_period_do_not_count_and_enough_later_ones_do() {
        let config = ContainerConfig {
            healthcheck: Some(Healthcheck {
                retries: Some(2),
                start_period: Some(Duration::from_secs(10)),
                ..test_of(&["CMD", "true"])
            }),
            ..ContainerConfig::default()
        };
        let probe = probe(&config, &ImageDefaults::default()).unwrap();
        let at = Duration::from_secs;
        let ended = |code| ProbeOutcome { started_at: 1, finished_at: 2, code, output: format!("ended with {code}") };
        let fail = |state: &HealthState, seconds| state.after(&probe, at(seconds), ended(1));
        let mut state = HealthState::starting_now();
        assert_eq!(state.pause(&probe, at(1)), at(5));
        for second in 0..10 {
            state = fail(&state, second);
        }
        assert_eq!((state.health, state.failing_streak), (Health::Starting, 0));
        state = state.after(&probe, at(3), ended(0));
        assert_eq!(state.health, Health::Healthy);
        // A success ends the start period.
        state = fail(&state, 4);
        assert_eq!((state.health, state.failing_streak), (Health::Healthy, 1));
        state = fail(&state, 5);
        assert_eq!(state.health, Health::Unhealthy);
        let state = state.after(&probe, at(6), ended(0));
        assert_eq!(state.health, Health::Healthy);
        // The last ones are remembered.
        assert_eq!(state.log.iter().map(|one| one.code).collect::<Vec<_>>(), [1, 0, 1, 1, 0]);
        assert_eq!(state.last_output, "ended with 0");
    }
}

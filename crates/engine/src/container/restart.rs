//! Pure. Whether and when a container that has ended is started again, by the policy that it was made with.
//!
//! Only containers that nobody else looks after have a policy: those of tasks are started again by who runs the tasks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ExitStatus;

/// The first pause before a container is started again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A container that ran so long begins with the first pause again.
const RECOVERED: Duration = Duration::from_secs(10);

/// What happens when a container ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It is started again if it failed.
    OnFailure {
        /// So often at most; 0: without an end.
        most: u32,
    },
    /// It is started again, also when the daemon starts, whoever stopped it.
    Always,
    /// It is started again unless somebody stopped it, also before the daemon ended.
    UnlessStopped,
}

impl RestartPolicy {
    /// Whether a container is started again after this end. `restarts` is how often that was done since somebody started
    /// it, `stopped` whether somebody stopped it.
    #[must_use]
    pub const fn restarts_after(self, status: &ExitStatus, restarts: u32, stopped: bool) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure { most } => !stopped && status.code != 0 && (most == 0 || restarts < most),
            Self::Always | Self::UnlessStopped => !stopped,
        }
    }

    /// Whether a container that had ended before the daemon did is started with it.
    #[must_use]
    pub const fn starts_with_daemon(self, stopped: bool) -> bool {
        match self {
            Self::No | Self::OnFailure { .. } => false,
            Self::Always => true,
            Self::UnlessStopped => !stopped,
        }
    }
}

/// How long to wait, after the pause before and a run of this length.
#[must_use]
pub fn pause_after(before: Option<Duration>, ran: Duration) -> Duration {
    match before {
        Some(before) if ran < RECOVERED => (before * 2).min(LONGEST_PAUSE),
        _ => FIRST_PAUSE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32) -> ExitStatus {
        ExitStatus { code, signal: None, oom: false, started_at: None, finished_at: 0, error: None }
    }

    #[test]
    fn each_policy_does_what_docker_says() {
        let limited = RestartPolicy::OnFailure { most: 2 };
        assert!(!RestartPolicy::No.restarts_after(&ended(1), 0, false));
        assert!(!limited.restarts_after(&ended(0), 0, false));
        assert!(limited.restarts_after(&ended(1), 1, false) && !limited.restarts_after(&ended(1), 2, false));
        assert!(RestartPolicy::OnFailure { most: 0 }.restarts_after(&ended(1), 99, false));
        for policy in [RestartPolicy::Always, RestartPolicy::UnlessStopped] {
            assert!(policy.restarts_after(&ended(0), 99, false) && !policy.restarts_after(&ended(0), 0, true));
        }
        assert!(RestartPolicy::Always.starts_with_daemon(true));
        assert!(!RestartPolicy::UnlessStopped.starts_with_daemon(true));
        assert!(RestartPolicy::UnlessStopped.starts_with_daemon(false) && !limited.starts_with_daemon(false));
    }

    #[test]
    fn pauses_double_to_a_minute_and_begin_anew_after_a_good_run() {
        let mut pause = None;
        let mut all = Vec::new();
        for _ in 0..12 {
            let next = pause_after(pause, Duration::from_secs(1));
            all.push(next.as_millis());
            pause = Some(next);
        }
        assert_eq!(all[..4], [100, 200, 400, 800]);
        assert_eq!(all[11], 60_000);
        assert_eq!(pause_after(pause, Duration::from_secs(10)), FIRST_PAUSE);
    }
}

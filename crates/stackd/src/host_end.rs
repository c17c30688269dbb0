//! Whether the daemon is told to end because the whole host goes down. Then its containers end with it, in order: otherwise
//! the system would signal them all at once, by a signal that may not be theirs, and wait for those that do not hear it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// So long does the host wait for a container's `pre_stop` commands, and then for its end, at most.
pub const LONGEST_GRACE: Duration = Duration::from_secs(90);
/// What all of that may take beyond its parts.
const MARGIN: Duration = Duration::from_secs(30);
/// systemd answers in this time, or is not asked further.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether systemd shuts the host down now. False where there is no systemd.
pub async fn is_under_way() -> bool {
    // As sd_booted(3) tells it.
    if !Path::new("/run/systemd/system").is_dir() {
        return false;
    }
    let asked = Command::new("systemctl")
        .arg("is-system-running")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PATIENCE, asked).await {
        // Its exit code is a failure for every state but `running`.
        Ok(Ok(output)) => output.stdout.trim_ascii() == b"stopping",
        Ok(Err(error)) => {
            tracing::warn!(%error, "systemd cannot be asked whether the host goes down");
            false
        }
        Err(_) => {
            tracing::warn!("systemd does not say whether the host goes down");
            false
        }
    }
}

/// Asks systemd to wait for the daemon for as long as its containers may take.
pub fn ask_for_time() {
    let micros = u32::try_from((LONGEST_GRACE * 2 + MARGIN).as_micros()).unwrap_or(u32::MAX);
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(micros)]) {
        tracing::debug!(%error, "nobody grants more time");
    }
}

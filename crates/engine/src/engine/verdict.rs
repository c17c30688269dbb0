//! The last verdict of a health check, kept over the engine's death.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::container::HealthState;

/// The last verdict on a running container, in its run directory: lost with a reboot, kept over the engine's death.
pub(super) struct VerdictFile {
    pub path: PathBuf,
    /// Which start of the container it speaks of.
    pub start: u64,
}

impl VerdictFile {
    pub fn read(&self) -> Option<HealthState> {
        let (start, state): (u64, HealthState) = serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        (start == self.start).then_some(state)
    }

    pub fn write(&self, state: &HealthState) {
        let text = serde_json::to_vec(&(self.start, state)).map_err(io::Error::from);
        // A verdict that is not kept is found again by the next probe.
        if let Err(error) = text.and_then(|text| fs::write(&self.path, text)) {
            tracing::debug!(%error, path = %self.path.display(), "a verdict is not kept");
        }
    }
}

//! Which process is meant: an id and when it started, because ids are used again.

use std::fs;
use std::io;
use std::path::Path;

/// A process, as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its id.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did (field 22 of proc_pid_stat(5)).
    pub started: u64,
}

impl Identity {
    /// The process that has this id now.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(pid: i32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let started = started(&text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood")))?;
        Ok(Self { pid, started })
    }

    /// Writes it to a file, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("new");
        fs::write(&temporary, format!("{} {}\n", self.pid, self.started))?;
        fs::rename(&temporary, path)
    }

    /// The process that a file names, if it lives.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let named = Self { pid: pid.parse().ok()?, started: started.parse().ok()? };
        Some(named).filter(|named| named.is_alive())
    }

    /// Whether it lives; a zombie does not.
    #[must_use]
    pub fn is_alive(self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .is_ok_and(|text| started(&text) == Some(self.started) && !matches!(state(&text), Some("Z" | "X")))
    }
}

/// The fields after the command, which is in parentheses and may itself have any character.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace()
}

fn state(stat: &str) -> Option<&str> {
    fields(stat).next()
}

fn started(stat: &str) -> Option<u64> {
    // The state is field 3, the start field 22.
    fields(stat).nth(19).and_then(|field| field.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.is_alive());
        assert!(!Identity { started: own.started + 1, ..own }.is_alive());
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        own.write(&file).unwrap();
        assert_eq!(Identity::read(&file), Some(own));
        fs::write(&file, "1 not-a-number").unwrap();
        assert_eq!(Identity::read(&file), None);
    }

    #[test]
    fn a_command_may_look_like_fields() {
        let stat = "7 (a) S 1) Z 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!((state(stat), started(stat)), (Some("Z"), Some(4242)));
    }
}

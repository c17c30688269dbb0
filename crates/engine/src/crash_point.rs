//! Points at which a test ends this process, as the kernel's or a person's `kill -9` would: between two steps that the next
//! engine must be able to tell apart. `tests/tests/crashes` reads their names from the sources, and fails when it does not
//! come by one of them.
//!
//! In a release build [`crash_point!`] is nothing. In others it is asleep unless `STACK_CRASH_POINTS` names a directory,
//! in which there may be two files: what is come by is added to `reached`, a line each, where that is there; the process
//! ends when it comes by the point that `armed` names, for as many times as it says: `start.spawned 1`.

/// A step of what changes this host has just been taken.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(debug_assertions)]
        $crate::crash_point::reached($name);
    };
}

pub(crate) use crash_point;

#[cfg(debug_assertions)]
pub(crate) use debug::reached;

#[cfg(debug_assertions)]
mod debug {
    use std::fs;
    use std::io::Write as _;
    use std::path::{Path, PathBuf};
    use std::sync::{LazyLock, Mutex, PoisonError};

    /// Where a test says what shall happen; nowhere in the life of a daemon.
    static PLACE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("STACK_CRASH_POINTS").map(PathBuf::from));

    /// What is armed, and how often it was come by since.
    static ARMED: Mutex<(String, u32)> = Mutex::new((String::new(), 0));

    pub(crate) fn reached(name: &str) {
        if let Some(place) = PLACE.as_deref() {
            note(place, name);
            if is_armed(place, name) {
                // Nothing of this process runs after it, on any thread.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
                loop {
                    std::thread::park();
                }
            }
        }
    }

    fn note(place: &Path, name: &str) {
        if let Ok(mut file) = fs::OpenOptions::new().append(true).open(place.join("reached")) {
            let _ = file.write_all(format!("{name}\n").as_bytes());
        }
    }

    fn is_armed(place: &Path, name: &str) -> bool {
        let text = fs::read_to_string(place.join("armed")).unwrap_or_default();
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        if armed.0 != text {
            *armed = (text, 0);
        }
        let mut words = armed.0.split_whitespace();
        if words.next() != Some(name) {
            return false;
        }
        let times = words.next().and_then(|count| count.parse().ok()).unwrap_or(1);
        armed.1 += 1;
        armed.1 == times
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_is_armed_is_met_when_it_was_come_by_so_often() {
            let place = tempfile::tempdir().unwrap();
            note(place.path(), "a.b");
            assert!(!place.path().join("reached").exists(), "nobody asked");
            fs::write(place.path().join("reached"), "").unwrap();
            note(place.path(), "a.b");
            assert_eq!(fs::read_to_string(place.path().join("reached")).unwrap(), "a.b\n");
            assert!(!is_armed(place.path(), "a.b"));
            fs::write(place.path().join("armed"), "a.b 2").unwrap();
            assert!(!is_armed(place.path(), "a.c"));
            assert_eq!([is_armed(place.path(), "a.b"), is_armed(place.path(), "a.b")], [false, true]);
            fs::write(place.path().join("armed"), "a.b 1").unwrap();
            assert!(is_armed(place.path(), "a.b"));
        }
    }
}

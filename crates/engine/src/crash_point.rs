//! Points at which a test ends this process, as the kernel's or a person's `kill -9` would: between two steps that the next
//! engine must be able to tell apart. `tests/tests/crashes` reads their names from the sources, and fails when it does not
//! come by one of them.
//!
//! In a release build [`crash_point!`] is nothing. In others it is asleep unless `STACK_CRASH_POINTS` names a directory,
//! in which there may be files: what is come by is added to `reached`, a line each, where that is there; the process
//! ends when it comes by the point that `armed` names, for as many times as it says: `start.spawned 1`. At the point that `held` names
//! in the same way it stands still, and says so in `holding`, until `held` is gone: somebody kills another process meanwhile.

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
    use std::time::{Duration, Instant};

    /// Where a test says what shall happen; nowhere in the life of a daemon.
    static PLACE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("STACK_CRASH_POINTS").map(PathBuf::from));

    /// What a file names, and how often it was come by since.
    type Meant = Mutex<(String, u32)>;

    static ARMED: Meant = Mutex::new((String::new(), 0));
    static HELD: Meant = Mutex::new((String::new(), 0));

    /// Nobody who holds this process takes longer.
    const LONGEST_HOLD: Duration = Duration::from_secs(60);

    pub(crate) fn reached(name: &str) {
        if let Some(place) = PLACE.as_deref() {
            note(place, name);
            if is_meant(place, "held", &HELD, name) {
                hold(place, name);
            }
            if is_meant(place, "armed", &ARMED, name) {
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

    fn hold(place: &Path, name: &str) {
        let until = Instant::now() + LONGEST_HOLD;
        let told = fs::write(place.join("holding"), name);
        while told.is_ok() && place.join("held").exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_meant(place: &Path, file: &str, meant: &Meant, name: &str) -> bool {
        let text = fs::read_to_string(place.join(file)).unwrap_or_default();
        let mut armed = meant.lock().unwrap_or_else(PoisonError::into_inner);
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
            assert!(!is_meant(place.path(), "armed", &ARMED, "a.b"));
            fs::write(place.path().join("armed"), "a.b 2").unwrap();
            assert!(!is_meant(place.path(), "armed", &ARMED, "a.c"));
            assert_eq!(
                [is_meant(place.path(), "armed", &ARMED, "a.b"), is_meant(place.path(), "armed", &ARMED, "a.b")],
                [false, true]
            );
            fs::write(place.path().join("armed"), "a.b 1").unwrap();
            assert!(is_meant(place.path(), "armed", &ARMED, "a.b"));
        }
    }
}

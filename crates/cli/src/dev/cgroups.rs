//! The cgroups of a host: the same path in every hierarchy, v1 and v2, so that what runs on the host can be counted,
//! stopped and killed as one.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::process::Identity;

/// How long processes may take to stop or to die once they are told to.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at what the kernel does by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A cgroup that could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// There is no hierarchy at all.
    #[error("no cgroup hierarchy is mounted on this machine")]
    NoHierarchy,
    /// A file or directory.
    #[error("could not {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Processes that do not go.
    #[error("{count} processes of {} do not {what}; one is {example}", cgroup.display())]
    Stubborn {
        /// The cgroup.
        cgroup: PathBuf,
        /// `die`, `stop`.
        what: &'static str,
        /// How many.
        count: usize,
        /// One of their ids.
        example: i32,
    },
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    unified: bool,
    /// The v1 controllers, from the mount's options.
    options: Vec<String>,
}

/// Every hierarchy of this machine.
#[derive(Debug, Clone)]
pub struct Hierarchies(Vec<Hierarchy>);

impl Hierarchies {
    /// Those that are mounted, from `/proc/self/mounts`.
    ///
    /// # Errors
    /// When there is none or they cannot be read.
    pub fn find() -> Result<Self, CgroupError> {
        let path = PathBuf::from("/proc/self/mounts");
        let mounts = fs::read_to_string(&path).map_err(|source| CgroupError::File { what: "read", path, source })?;
        let found = hierarchies(&mounts);
        if found.is_empty() { Err(CgroupError::NoHierarchy) } else { Ok(Self(found)) }
    }

    fn each(&self, cgroup: &Path) -> impl Iterator<Item = (&Hierarchy, PathBuf)> {
        self.0.iter().map(move |hierarchy| (hierarchy, hierarchy.mount.join(cgroup)))
    }

    /// Makes a cgroup in each hierarchy, and those above it.
    ///
    /// # Errors
    /// The first that cannot be made.
    pub fn make(&self, cgroup: &Path) -> Result<(), CgroupError> {
        for (hierarchy, _) in self.each(cgroup) {
            let mut path = hierarchy.mount.clone();
            for part in cgroup {
                let above = path.clone();
                path.push(part);
                match fs::create_dir(&path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(source) => return Err(CgroupError::File { what: "make", path, source }),
                }
                if hierarchy.unified {
                    hand_down_controllers(&above);
                } else if hierarchy.options.iter().any(|option| option == "cpuset") {
                    inherit_processors(&above, &path)?;
                }
            }
        }
        Ok(())
    }

    /// The files to write a process id to so that it is in the cgroup.
    #[must_use]
    pub fn member_files(&self, cgroup: &Path) -> Vec<PathBuf> {
        self.each(cgroup).map(|(_, path)| path.join("cgroup.procs")).collect()
    }

    /// Every process in the cgroup and below it, in any hierarchy.
    #[must_use]
    pub fn processes(&self, cgroup: &Path) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        for (_, path) in self.each(cgroup) {
            for directory in with_below(&path) {
                // A cgroup may go between the listing and the look into it.
                let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
                // A process of another pid namespace is listed as 0.
                found.extend(listed.lines().filter_map(|line| line.parse().ok()).filter(|&pid: &i32| pid > 0));
            }
        }
        found
    }

    /// The hierarchy that stops processes: the freezer of v1 where there is one, or v2. Not both: processes that the one
    /// has stopped do not come to where the other would stop them.
    fn freezer(&self) -> Option<&Hierarchy> {
        let is_freezer = |hierarchy: &&Hierarchy| hierarchy.options.iter().any(|option| option == "freezer");
        self.0.iter().find(is_freezer).or_else(|| self.0.iter().find(|hierarchy| hierarchy.unified))
    }

    /// Whether the processes of a cgroup are stopped, or are told to be.
    #[must_use]
    pub fn is_frozen(&self, cgroup: &Path) -> bool {
        let Some(hierarchy) = self.freezer() else { return false };
        let path = hierarchy.mount.join(cgroup);
        if hierarchy.unified {
            fs::read_to_string(path.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
        } else {
            fs::read_to_string(path.join("freezer.state")).is_ok_and(|text| text.trim() != "THAWED")
        }
    }

    /// Stops the processes of a cgroup where they are, or lets them go on. Returns when they have stopped. A cgroup that
    /// does not exist has none.
    ///
    /// # Errors
    /// When the kernel refuses or they do not stop.
    pub fn freeze(&self, cgroup: &Path, frozen: bool) -> Result<(), CgroupError> {
        let Some(hierarchy) = self.freezer() else { return Ok(()) };
        let directory = hierarchy.mount.join(cgroup);
        let (file, value) = match (hierarchy.unified, frozen) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        let path = directory.join(file);
        match put(&path, value) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(CgroupError::File { what: "write", path, source }),
        }
        let stopped = || {
            if hierarchy.unified {
                let events = fs::read_to_string(directory.join("cgroup.events")).unwrap_or_default();
                !events.contains("frozen 0") || !events.contains("populated 1")
            } else {
                fs::read_to_string(&path).map_or(true, |text| text.trim() == "FROZEN")
            }
        };
        if !frozen || wait_until(stopped) { Ok(()) } else { Err(self.stubborn(cgroup, "stop")) }
    }

    fn stubborn(&self, cgroup: &Path, what: &'static str) -> CgroupError {
        let left = self.processes(cgroup);
        let example = left.first().copied().unwrap_or(0);
        CgroupError::Stubborn { cgroup: cgroup.to_owned(), what, count: left.len(), example }
    }

    /// Lets everything in and below a cgroup go on, also what a daemon on the host had stopped by itself: on cgroup v1 what
    /// is stopped does not die.
    fn thaw_below(&self, cgroup: &Path) {
        let Some(hierarchy) = self.freezer() else { return };
        let (file, value) = if hierarchy.unified { ("cgroup.freeze", "0") } else { ("freezer.state", "THAWED") };
        for directory in with_below(&hierarchy.mount.join(cgroup)) {
            // Whether it helped is seen by who waits for the processes to be gone.
            let _ = put(&directory.join(file), value);
        }
    }

    /// Kills every process of a cgroup at once, as a power cut does: they are stopped first, so that none can start
    /// another or see another go. Returns when they are gone.
    ///
    /// # Errors
    /// When they do not die.
    pub fn kill(&self, cgroup: &Path) -> Result<(), CgroupError> {
        // A process in an uninterruptible sleep cannot be stopped, but it can be killed all the same.
        let _ = self.freeze(cgroup, true);
        for (hierarchy, path) in self.each(cgroup) {
            if hierarchy.unified {
                // Since Linux 5.14; the loop below does without.
                let _ = put(&path.join("cgroup.kill"), "1");
            }
        }
        let mut killed: Vec<Identity> = Vec::new();
        let mut kill_all = || {
            let found = self.processes(cgroup);
            for pid in &found {
                killed.extend(Identity::of(*pid).ok().filter(|process| !killed.contains(process)));
                // Stopped processes do not end by themselves, so the id is still theirs.
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            // The kernel lists a process no more as soon as it begins to end.
            killed.retain(|process| process.is_alive());
            found.is_empty() && killed.is_empty()
        };
        kill_all();
        self.thaw_below(cgroup);
        let gone = kill_all;
        if wait_until(gone) { Ok(()) } else { Err(self.stubborn(cgroup, "die")) }
    }

    /// Removes a cgroup in each hierarchy with all below it. One that is gone is no error.
    ///
    /// # Errors
    /// The first that cannot be removed.
    pub fn remove(&self, cgroup: &Path) -> Result<(), CgroupError> {
        for (_, path) in self.each(cgroup) {
            let mut below = with_below(&path);
            below.sort_by_key(|directory| std::cmp::Reverse(directory.components().count()));
            for directory in below {
                // The kernel needs a moment after the last process for it to count as empty.
                let mut last = None;
                let removed = wait_until(|| match fs::remove_dir(&directory) {
                    Ok(()) => true,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                    Err(error) => {
                        last = Some(error);
                        false
                    }
                });
                if let (false, Some(source)) = (removed, last) {
                    return Err(CgroupError::File { what: "remove", path: directory, source });
                }
            }
        }
        Ok(())
    }

    /// Removes a cgroup in each hierarchy where nothing is in or below it.
    pub fn remove_if_empty(&self, cgroup: &Path) {
        for (_, path) in self.each(cgroup) {
            // Another cluster's cgroup in it is the expected reason not to.
            let _ = fs::remove_dir(path);
        }
    }
}

/// Looks again and again until something holds, or time is up.
pub fn wait_until(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Writes to a file of the kernel's; one that does not exist is not made, which a cgroup file system would refuse with
/// another error than that it does not exist.
fn put(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn hierarchies(mounts: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(mount), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let unified = match kind {
            "cgroup2" => true,
            "cgroup" => false,
            _ => continue,
        };
        let hierarchy = Hierarchy {
            mount: PathBuf::from(mount),
            unified,
            options: options.split(',').map(str::to_owned).collect(),
        };
        // The same hierarchy may be mounted twice; one place is enough.
        if !found.iter().any(|other| other.unified == unified && other.options == hierarchy.options) {
            found.push(hierarchy);
        }
    }
    found
}

/// A directory and all below it.
fn with_below(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![top.to_owned()];
    while let Some(directory) = left.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        left.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
        found.push(directory);
    }
    found
}

/// On cgroup v2, what is above hands its controllers down, or limits could not be set below.
fn hand_down_controllers(above: &Path) {
    let available = fs::read_to_string(above.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        // Some cannot be handed down, e.g. while real-time processes run; containers then go without that limit.
        let _ = put(&above.join("cgroup.subtree_control"), &format!("+{controller}"));
    }
}

/// On cgroup v1 a new cpuset has no processor and no memory, and takes no process before it has.
fn inherit_processors(above: &Path, path: &Path) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let failed = |what, path: PathBuf| move |source| CgroupError::File { what, path, source };
        let own = path.join(file);
        let present = fs::read_to_string(&own).map_err(failed("read", own.clone()))?;
        if present.trim().is_empty() {
            let inherited = fs::read_to_string(above.join(file)).map_err(failed("read", above.join(file)))?;
            put(&own, inherited.trim()).map_err(failed("write", own.clone()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_from_the_mounts() {
        let mounts = "proc /proc proc rw 0 0\ntmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\ncgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\n\
            cgroup /elsewhere/freezer cgroup rw,freezer 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = hierarchies(mounts);
        let places: Vec<String> = found.iter().map(|found| found.mount.display().to_string()).collect();
        assert_eq!(places, ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/freezer", "/sys/fs/cgroup/unified"]);
        assert_eq!(found.iter().filter(|found| found.unified).count(), 1);
    }
}

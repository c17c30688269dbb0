//! Pure. Which cgroup hierarchies a host has: version 2, version 1, or both at once (hybrid). From /proc/self/mountinfo
//! (proc(5)) and /proc/self/cgroup (cgroups(7)).

use std::path::{Component, Path, PathBuf};

/// One version 1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Legacy {
    /// The controllers on it: `cpu`, `memory`, …
    pub controllers: Vec<String>,
    /// The directory that containers' groups go below, parents included.
    pub parent: PathBuf,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
}

/// The version 2 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unified {
    /// The directory that containers' groups go below, parents included.
    pub parent: PathBuf,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Version 1 hierarchies have the controllers; this one only groups processes.
    pub bare: bool,
}

/// The hierarchies of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// By their order in mountinfo.
    pub legacy: Vec<Legacy>,
    /// At most one.
    pub unified: Option<Unified>,
}

/// Version 1 controllers that a container is accounted by. The others stay with the engine's own group.
const USED: [&str; 8] = ["cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio"];

fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// The group of this process in the hierarchy with `controller`, or in version 2 when `None`.
fn own_group<'a>(own: &'a str, controller: Option<&str>) -> &'a str {
    own.lines()
        .find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let found = match controller {
                None => controllers.is_empty(),
                Some(controller) => controllers.split(',').any(|name| name == controller),
            };
            found.then_some(path)
        })
        .unwrap_or("/")
}

/// Where containers' groups go in one hierarchy.
fn place(mountpoint: &Path, root: &str, own: &str, parent: &Path, below_own: bool) -> PathBuf {
    // A bind mount of a part of the hierarchy shows paths without that part.
    let own = own.strip_prefix(root.trim_end_matches('/')).unwrap_or(own);
    let mut directory = mountpoint.to_owned();
    if parent.is_relative() || below_own {
        directory.push(own.trim_start_matches('/'));
    }
    // Nothing above the hierarchy can be named.
    directory.extend(parent.components().filter(|component| matches!(component, Component::Normal(_))));
    directory
}

/// Reads what the two files say. A relative `parent` is below the groups of this process; an absolute one is below the
/// hierarchy's root, except in a hybrid host's version 2 hierarchy, where it is always below the group of this process,
/// so that killing that group reaches the containers too.
#[must_use]
pub fn read(mountinfo: &str, own: &str, parent: &Path) -> Hierarchies {
    let mut found = Hierarchies::default();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let fields: Vec<&str> = before.split(' ').collect();
        let after: Vec<&str> = after.split(' ').collect();
        let (Some(root), Some(mountpoint), Some(kind)) = (fields.get(3), fields.get(4), after.first()) else {
            continue;
        };
        let (root, mountpoint) = (unescape(root), PathBuf::from(unescape(mountpoint)));
        match *kind {
            "cgroup" => {
                let options = after.get(2).copied().unwrap_or("");
                let controllers: Vec<String> =
                    options.split(',').filter(|option| USED.contains(option)).map(str::to_owned).collect();
                let Some(first) = controllers.first() else { continue };
                if found.legacy.iter().any(|other| other.controllers.contains(first)) {
                    continue;
                }
                let parent = place(&mountpoint, &root, own_group(own, Some(first)), parent, false);
                found.legacy.push(Legacy { controllers, parent, mountpoint });
            }
            "cgroup2" if found.unified.is_none() => {
                found.unified = Some(Unified {
                    parent: place(&mountpoint, &root, own_group(own, None), parent, false),
                    mountpoint,
                    bare: false,
                });
            }
            _ => {}
        }
    }
    if !found.legacy.is_empty()
        && let Some(unified) = &mut found.unified
    {
        unified.bare = true;
        unified.parent = place(&unified.mountpoint, "/", own_group(own, None), parent, true);
    }
    found
}

impl Hierarchies {
    /// The same with containers' groups below another parent. `is_managed`: systemd keeps the hierarchies, and what is not below
    /// a group of the daemon's own is not ours to make.
    #[must_use]
    pub fn below(&self, parent: Option<&str>, is_managed: bool) -> Self {
        let mut found = self.clone();
        let Some(parent) = parent.map(Path::new) else { return found };
        // Nothing above the place can be named.
        let names = || parent.components().filter(|component| matches!(component, Component::Normal(_)));
        let is_absolute = parent.is_absolute() && !is_managed;
        for legacy in &mut found.legacy {
            if is_absolute {
                legacy.parent.clone_from(&legacy.mountpoint);
            }
            legacy.parent.extend(names());
        }
        if let Some(unified) = &mut found.unified {
            if is_absolute && !unified.bare {
                unified.parent.clone_from(&unified.mountpoint);
            }
            unified.parent.extend(names());
        }
        found
    }

    /// The version 1 hierarchy that has `controller`.
    #[must_use]
    pub fn legacy_with(&self, controller: &str) -> Option<&Legacy> {
        self.legacy.iter().find(|legacy| legacy.controllers.iter().any(|name| name == controller))
    }

    /// The path of a container's groups within the hierarchies that have controllers, e.g. `/stack/web`, where it is the
    /// same in all of them.
    #[must_use]
    pub fn common_path(&self, cgroups: &stack_shim::launch::Cgroups) -> Option<String> {
        let unified = self.unified.as_ref().filter(|unified| !unified.bare).map(|unified| &unified.mountpoint);
        let mountpoints: Vec<&PathBuf> = self.legacy.iter().map(|legacy| &legacy.mountpoint).chain(unified).collect();
        let unified = cgroups.unified.iter().filter(|_| unified.is_some());
        let mut all = cgroups.joined.iter().chain(unified).map(|directory| {
            mountpoints
                .iter()
                .filter_map(|mountpoint| directory.strip_prefix(mountpoint).ok())
                .min_by_key(|path| path.components().count())
        });
        let first = all.next()??;
        let is_same = all.all(|other| other == Some(first));
        is_same.then(|| format!("/{}", first.display()))
    }

    /// For people: `v1`, `v2`, `hybrid` or `none`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match (self.legacy.is_empty(), &self.unified) {
            (false, Some(_)) => "hybrid",
            (false, None) => "v1",
            (true, Some(_)) => "v2",
            (true, None) => "none",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 20 0:26 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate
31 20 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
32 20 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 20 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 20 0:29 / /elsewhere/memory rw - cgroup cgroup rw,memory
";

    #[test]
    fn a_hybrid_host() {
        let own = "4:memory:/daemon\n1:name=systemd:/daemon\n0::/system.slice/stackd.service\n";
        let found = read(HYBRID, own, Path::new("/stack"));
        assert_eq!(found.kind(), "hybrid");
        assert_eq!(found.legacy.len(), 2);
        assert_eq!(found.legacy_with("memory").unwrap().parent, Path::new("/sys/fs/cgroup/memory/stack"));
        assert_eq!(found.legacy_with("cpu"), found.legacy_with("cpuacct"));
        let unified = found.unified.unwrap();
        assert!(unified.bare);
        assert_eq!(unified.parent, Path::new("/sys/fs/cgroup/unified/system.slice/stackd.service/stack"));
        let relative = read(HYBRID, own, Path::new("stack"));
        assert_eq!(relative.legacy_with("memory").unwrap().parent, Path::new("/sys/fs/cgroup/memory/daemon/stack"));
    }

    #[test]
    fn a_version_2_host_and_none() {
        let found = read("30 20 0:26 / /sys/fs/cgroup rw - cgroup2 c rw\n", "0::/x\n", Path::new("/stack"));
        let unified = found.unified.clone().unwrap();
        assert!(!unified.bare);
        assert_eq!(unified.parent, Path::new("/sys/fs/cgroup/stack"));
        assert_eq!(found.kind(), "v2");
        assert_eq!(read("", "", Path::new("/stack")).kind(), "none");
    }

    #[test]
    fn a_container_s_own_parent_is_below_ours_or_below_the_root() {
        let own = "4:memory:/daemon\n0::/daemon\n";
        let found = read(HYBRID, own, Path::new("/stack"));
        let memory = |found: &Hierarchies| found.legacy_with("memory").unwrap().parent.display().to_string();
        let unified = |found: &Hierarchies| found.unified.as_ref().unwrap().parent.display().to_string();
        assert_eq!(found.below(None, false), found);
        let relative = found.below(Some("team/a"), false);
        assert_eq!(memory(&relative), "/sys/fs/cgroup/memory/stack/team/a");
        assert_eq!(unified(&relative), "/sys/fs/cgroup/unified/daemon/stack/team/a");
        let absolute = found.below(Some("/team"), false);
        assert_eq!(memory(&absolute), "/sys/fs/cgroup/memory/team");
        // Killing the daemon's group reaches the containers on such a host, so they stay below it there.
        assert_eq!(unified(&absolute), "/sys/fs/cgroup/unified/daemon/stack/team");
        assert_eq!(memory(&found.below(Some("/team"), true)), "/sys/fs/cgroup/memory/stack/team");
        assert_eq!(memory(&found.below(Some("../../../etc"), false)), "/sys/fs/cgroup/memory/stack/etc");

        let version_2 = read("30 20 0:26 / /sys/fs/cgroup rw - cgroup2 c rw\n", "0::/x\n", Path::new("/stack"));
        assert_eq!(unified(&version_2.below(Some("/team"), false)), "/sys/fs/cgroup/team");
        assert_eq!(unified(&version_2.below(Some("/team"), true)), "/sys/fs/cgroup/stack/team");
    }

    #[test]
    fn a_parent_cannot_climb() {
        let found = read("30 20 0:26 / /sys/fs/cgroup rw - cgroup2 c rw\n", "0::/x\n", Path::new("../../etc"));
        assert_eq!(found.unified.unwrap().parent, Path::new("/sys/fs/cgroup/x/etc"));
    }
}

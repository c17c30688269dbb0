//! Pure. The mounts of a container: what every one has, and what is asked for.

use std::path::PathBuf;

use crate::volume::VolumeDescription;
use stack_shim::launch::{Joined, Mount, MountSource, Propagation};

use super::{Host, SpecError, absolute};
use crate::cgroup::Hierarchies;
use crate::container::config::{ContainerConfig, ContainerId, ContainerMountSource, ImageDefaults, NamespaceMode};

/// `/dev/shm` unless said otherwise, in bytes.
const DEFAULT_SHM: u64 = 64 << 20;

fn filesystem(target: &str, kind: &str, attributes: u64, options: &[(&str, Option<String>)]) -> Mount {
    Mount {
        target: target.to_owned(),
        source: MountSource::Filesystem {
            kind: kind.to_owned(),
            source: kind.to_owned(),
            options: options.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
            strict_target: true,
        },
        attributes,
        topmost_only: false,
        propagation: Propagation::Private,
    }
}

const CLOSED: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// The file systems that every container has.
pub(super) fn system_mounts(config: &ContainerConfig, hierarchies: &Hierarchies, joined: &Joined) -> Vec<Mount> {
    let some = |text: &str| Some(text.to_owned());
    let protected = if config.privileged { 0 } else { libc::MOUNT_ATTR_RDONLY };
    let mut all = vec![
        filesystem("/proc", "proc", CLOSED, &[]),
        filesystem(
            "/dev",
            "tmpfs",
            libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_STRICTATIME,
            &[("mode", some("755")), ("size", some("65536k"))],
        ),
        filesystem(
            "/dev/pts",
            "devpts",
            libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC,
            &[("newinstance", None), ("ptmxmode", some("0666")), ("mode", some("0620")), ("gid", some("5"))],
        ),
        filesystem("/sys", "sysfs", CLOSED | protected, &[]),
    ];
    if hierarchies.legacy.is_empty() {
        if hierarchies.unified.is_some() {
            all.push(filesystem("/sys/fs/cgroup", "cgroup2", CLOSED | protected, &[]));
        }
    } else {
        all.push(filesystem("/sys/fs/cgroup", "tmpfs", CLOSED, &[("mode", some("755"))]));
        for legacy in &hierarchies.legacy {
            let target = format!("/sys/fs/cgroup/{}", legacy.controllers.join(","));
            let options: Vec<(&str, Option<String>)> =
                legacy.controllers.iter().map(|controller| (controller.as_str(), None)).collect();
            all.push(filesystem(&target, "cgroup", CLOSED | protected, &options));
        }
    }
    // A message queue file system shows the queues of the IPC namespace that it is mounted in, whosever that is.
    all.push(filesystem("/dev/mqueue", "mqueue", CLOSED, &[]));
    match (&config.ipc_mode, joined.ipc) {
        _ if config.without_shm => {}
        (NamespaceMode::Private, _) => {
            let shm = config.shm_size.unwrap_or(DEFAULT_SHM).to_string();
            let mut mount = filesystem("/dev/shm", "tmpfs", CLOSED, &[("mode", some("1777")), ("size", Some(shm))]);
            if let MountSource::Filesystem { source, .. } = &mut mount.source {
                // What `df` in a container of Docker's shows.
                "shm".clone_into(source);
            }
            all.push(mount);
        }
        (NamespaceMode::Container(_), Some(peer)) => all.push(Mount {
            target: "/dev/shm".to_owned(),
            source: MountSource::OfPeer { peer, path: "/dev/shm".to_owned() },
            attributes: 0,
            topmost_only: false,
            propagation: Propagation::Private,
        }),
        (NamespaceMode::Host | NamespaceMode::Container(_), _) => {
            all.push(bind("/dev/shm", PathBuf::from("/dev/shm"), 0, Propagation::Private));
        }
    }
    all
}

/// Has SELinux take the files of a file system that is the container's alone for those of its label. Others have labels of
/// their own, or their own means to get some.
pub(super) fn label_files(mount: &mut Mount, label: &str) {
    if let MountSource::Filesystem { kind, options, .. } = &mut mount.source
        && ["tmpfs", "devpts"].contains(&kind.as_str())
    {
        options.push(("context".to_owned(), Some(label.to_owned())));
    }
}

/// A path of the host in a container.
pub(super) fn bind(target: &str, path: PathBuf, attributes: u64, propagation: Propagation) -> Mount {
    Mount {
        target: target.to_owned(),
        source: MountSource::Bind { path, subpath: None, recursive: true, copy_up: false, mapped: false },
        attributes,
        topmost_only: false,
        propagation,
    }
}

/// The same, with its files belonging in a user namespace to whom they belong on the host.
pub(super) fn mapped(mut mount: Mount) -> Mount {
    if let MountSource::Bind { mapped, .. } = &mut mount.source {
        *mapped = true;
    }
    mount
}

/// The volumes that a container has: target and name. Volumes of its own get a name made of its id, so that the same
/// configuration always means the same volume.
#[must_use]
pub fn volumes(id: &ContainerId, config: &ContainerConfig, image: &ImageDefaults) -> Vec<ContainerVolume> {
    let own = |target: &str| {
        let plain: String =
            target.chars().map(|character| if character.is_ascii_alphanumeric() { character } else { '_' }).collect();
        format!("{id}.own{plain}")
    };
    let mut all = Vec::new();
    for mount in &config.mounts {
        if let ContainerMountSource::Volume { name, .. } = &mount.source {
            all.push(ContainerVolume {
                target: mount.target.clone(),
                name: name.clone().unwrap_or_else(|| own(&mount.target)),
                anonymous: name.is_none(),
                description: config.own_volumes.get(&mount.target).cloned().unwrap_or_default(),
            });
        }
    }
    for target in &image.volumes {
        if !config.mounts.iter().any(|mount| mount.target.trim_end_matches('/') == target.trim_end_matches('/')) {
            all.push(ContainerVolume {
                target: target.clone(),
                name: own(target),
                anonymous: true,
                description: VolumeDescription::default(),
            });
        }
    }
    all
}

/// A volume that a container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerVolume {
    /// Where.
    pub target: String,
    /// Which.
    pub name: String,
    /// It belongs to the container alone.
    pub anonymous: bool,
    /// What it is made with where it is not there.
    pub description: VolumeDescription,
}

/// A propagation by its name.
pub(super) fn propagation(target: &str, text: Option<&str>) -> Result<Propagation, SpecError> {
    match text.unwrap_or("rprivate") {
        "private" | "rprivate" | "" => Ok(Propagation::Private),
        "slave" | "rslave" => Ok(Propagation::Slave),
        "shared" | "rshared" => Ok(Propagation::Shared),
        other => Err(SpecError::Propagation { target: target.to_owned(), propagation: other.to_owned() }),
    }
}

/// Those that the configuration and the image ask for.
pub(super) fn chosen_mounts(
    id: &ContainerId,
    config: &ContainerConfig,
    image: &ImageDefaults,
    host: &Host<'_>,
) -> Result<Vec<Mount>, SpecError> {
    let mut all = Vec::new();
    for mount in &config.mounts {
        let target = absolute("the target of a mount", &mount.target)?;
        let attributes = if mount.read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
        let made = match &mount.source {
            ContainerMountSource::Bind { path, propagation: text, non_recursive, writable_below, mapped, .. } => {
                let mut made = bind(&target, path.clone(), attributes, propagation(&target, text.as_deref())?);
                if let MountSource::Bind { recursive, mapped: is_mapped, .. } = &mut made.source {
                    (*recursive, *is_mapped) = (!non_recursive, *mapped);
                }
                made.topmost_only = *writable_below;
                made
            }
            ContainerMountSource::Tmpfs { size, mode, options: given } => {
                let mut options = vec![("mode", Some(format!("{:o}", mode.unwrap_or(0o1777) & 0o7777)))];
                if let Some(size) = size {
                    options.push(("size", Some(size.to_string())));
                }
                let chosen = tmpfs_options(&target, given)?;
                options.retain(|(key, _)| !chosen.values.iter().any(|(name, _)| name == key));
                options.extend(chosen.values.iter().map(|(key, value)| (key.as_str(), Some(value.clone()))));
                let mut made = filesystem(&target, "tmpfs", chosen.attributes | attributes, &options);
                if let MountSource::Filesystem { strict_target, .. } = &mut made.source {
                    *strict_target = false;
                }
                made
            }
            ContainerMountSource::Image { subpath, .. } => Mount {
                target,
                source: MountSource::Image {
                    lower: host.images.get(&mount.target).cloned().unwrap_or_default(),
                    subpath: subpath.clone(),
                },
                // So that /proc/mounts and statvfs(3) say it, though it could not be written to anyway.
                attributes: libc::MOUNT_ATTR_RDONLY,
                topmost_only: false,
                propagation: Propagation::Private,
            },
            ContainerMountSource::Volume { no_copy, subpath, .. } => Mount {
                target,
                source: MountSource::Bind {
                    path: host.volumes.get(&mount.target).cloned().unwrap_or_default(),
                    subpath: subpath.clone(),
                    recursive: false,
                    copy_up: !no_copy && subpath.is_none(),
                    mapped: true,
                },
                attributes,
                topmost_only: false,
                propagation: Propagation::Private,
            },
        };
        all.push(made);
    }
    let configured = config.mounts.len();
    for volume in volumes(id, config, image)
        .into_iter()
        .skip(config.mounts.iter().filter(|mount| matches!(mount.source, ContainerMountSource::Volume { .. })).count())
    {
        all.push(Mount {
            target: absolute("a volume of the image", &volume.target)?,
            source: MountSource::Bind {
                path: host.volumes.get(&volume.target).cloned().unwrap_or_default(),
                subpath: None,
                recursive: false,
                copy_up: true,
                mapped: true,
            },
            attributes: 0,
            topmost_only: false,
            propagation: Propagation::Private,
        });
    }
    debug_assert!(all.len() >= configured, "every configured mount has become one");
    // Outer ones first, or they would hide those below them.
    all.sort_by_key(|mount| mount.target.matches('/').count());
    let mut targets: Vec<&str> = all.iter().map(|mount| mount.target.as_str()).collect();
    targets.sort_unstable();
    if let Some(two) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(SpecError::TwoMounts { target: two[0].to_owned() });
    }
    Ok(all)
}

/// What may be shown in place of a file of /proc: answers of the host that tools like lxcfs give for one container.
const SHOWN_IN_PROC: [&str; 8] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
];

/// Refuses what would stand in for /proc, where a container's confinement is seen and set.
pub(super) fn outside_proc(target: &str, source: Option<&ContainerMountSource>) -> Result<(), SpecError> {
    let target = absolute("the target of a mount", target)?;
    let is_hosts_own =
        matches!(source, Some(ContainerMountSource::Bind { path, .. }) if path == std::path::Path::new("/proc"));
    let is_shown = SHOWN_IN_PROC.contains(&target.as_str()) && source.is_some();
    let is_in_proc = target == "/proc" || target.starts_with("/proc/");
    if is_in_proc && !is_shown && !(is_hosts_own && target == "/proc") {
        return Err(SpecError::Proc { target });
    }
    Ok(())
}

/// Options of a tmpfs: `MOUNT_ATTR_*` bits, and values for the file system itself.
pub(super) struct TmpfsOptions {
    attributes: u64,
    values: Vec<(String, String)>,
}

/// An option of any mount, as mount(8) has it: a `MOUNT_ATTR_*` bit, and whether it is set or cleared.
pub(crate) fn mount_attribute(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "ro" => (libc::MOUNT_ATTR_RDONLY, true),
        "rw" => (libc::MOUNT_ATTR_RDONLY, false),
        "nosuid" => (libc::MOUNT_ATTR_NOSUID, true),
        "suid" => (libc::MOUNT_ATTR_NOSUID, false),
        "nodev" => (libc::MOUNT_ATTR_NODEV, true),
        "dev" => (libc::MOUNT_ATTR_NODEV, false),
        "noexec" => (libc::MOUNT_ATTR_NOEXEC, true),
        "exec" => (libc::MOUNT_ATTR_NOEXEC, false),
        "noatime" => (libc::MOUNT_ATTR_NOATIME, true),
        "nodiratime" => (libc::MOUNT_ATTR_NODIRATIME, true),
        "relatime" | "defaults" => (0, true),
        _ => return None,
    })
}

/// Options as mount(8) has them.
pub(super) fn tmpfs_options(target: &str, options: &[String]) -> Result<TmpfsOptions, SpecError> {
    let mut chosen = TmpfsOptions { attributes: CLOSED, values: Vec::new() };
    for option in options.iter().map(|option| option.trim()).filter(|option| !option.is_empty()) {
        let refuse = || SpecError::TmpfsOption { target: target.to_owned(), option: option.to_owned() };
        if let Some((key, value)) = option.split_once('=') {
            let fits = match key {
                "mode" => u32::from_str_radix(value, 8).is_ok(),
                "uid" | "gid" => value.parse::<u32>().is_ok(),
                "size" | "nr_blocks" | "nr_inodes" => {
                    let digits = value.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G', '%']);
                    digits.len() + 1 >= value.len() && digits.parse::<u64>().is_ok()
                }
                _ => false,
            };
            if !fits {
                return Err(refuse());
            }
            chosen.values.retain(|(name, _)| name != key);
            chosen.values.push((key.to_owned(), value.to_owned()));
            continue;
        }
        let (attribute, is_set) = match option {
            "strictatime" => (libc::MOUNT_ATTR_STRICTATIME, true),
            "async" => (0, true),
            option => mount_attribute(option).ok_or_else(refuse)?,
        };
        if is_set {
            chosen.attributes |= attribute;
        } else {
            chosen.attributes &= !attribute;
        }
    }
    Ok(chosen)
}

//! Pure. All devices that descriptions on a host name, and what is to be done to a container that has some of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use stack_shim::launch::{DeviceKind, DeviceNode as Node, Hook, Mount, MountSource, Propagation};

use super::document::{DeviceNode, Document, Edits, Mount as DescribedMount};
use crate::container::{FoundDevice, mount_attribute};

/// The only hooks that are run. Others belong to runtimes that are programs of their own, or to an earlier specification.
const RUN_HOOK: &str = "createContainer";

/// A description that was looked for on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The file.
    pub path: PathBuf,
    /// Of its directory: a higher one goes before a lower one.
    pub priority: usize,
    /// What it says, or what is wrong with it.
    pub document: Result<Document, String>,
}

/// Why a container does not get its devices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CdiError {
    /// There are no such devices.
    #[error("CDI device injection failed: unresolvable CDI devices {}{}", .names.join(", "), notes(.reasons))]
    Unresolvable {
        /// Which.
        names: Vec<String>,
        /// What may be why.
        reasons: Vec<String>,
    },
    /// What a description says cannot be done.
    #[error("CDI device injection failed: {}: {device}: {reason}", .file.display())]
    Edit {
        /// The description.
        file: PathBuf,
        /// The name of the device.
        device: String,
        /// Why.
        reason: String,
    },
}

fn notes(reasons: &[String]) -> String {
    if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) }
}

/// A device of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostNode {
    /// Which table the numbers are of.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
}

/// What is done to one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injection {
    /// `KEY=value`, the last of a name holds.
    pub environment: Vec<String>,
    /// Nodes, and how they may be used.
    pub devices: Vec<FoundDevice>,
    /// In place of others at the same targets.
    pub mounts: Vec<Mount>,
    /// Groups of its first process.
    pub groups: Vec<u32>,
    /// Programs of the host to run while it is made.
    pub hooks: Vec<Hook>,
}

/// All devices of a host.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    descriptions: Vec<Description>,
    /// By name: in which description, and which of its devices.
    devices: BTreeMap<String, (usize, usize)>,
    /// Names that two descriptions of one directory have, with the two.
    conflicts: BTreeMap<String, (usize, usize)>,
}

impl Catalogue {
    /// Puts descriptions together. A device that several directories describe is that of the directory with the highest
    /// priority; one that two files of the same directory describe is neither's.
    #[must_use]
    pub fn new(descriptions: Vec<Description>) -> Self {
        let mut all = Self { descriptions, ..Self::default() };
        let mut order: Vec<usize> = (0..all.descriptions.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(all.descriptions.get(at).map_or(0, |one| one.priority)));
        let priority = |at: usize| all.descriptions.get(at).map(|one| one.priority);
        let (mut devices, mut conflicts) = (BTreeMap::new(), BTreeMap::new());
        for at in order {
            let Some(Ok(document)) = all.descriptions.get(at).map(|one| &one.document) else { continue };
            for (position, device) in document.devices.iter().enumerate() {
                let name = format!("{}={}", document.kind, device.name);
                match devices.get(&name) {
                    None => {
                        devices.insert(name, (at, position));
                    }
                    Some(&(other, _)) if priority(other) == priority(at) => {
                        conflicts.entry(name).or_insert((other, at));
                    }
                    Some(_) => {}
                }
            }
        }
        devices.retain(|name, _| !conflicts.contains_key(name));
        (all.devices, all.conflicts) = (devices, conflicts);
        all
    }

    /// The names of all devices.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.devices.keys().map(String::as_str)
    }

    /// What is wrong with descriptions.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let damaged = self.descriptions.iter().filter_map(|one| {
            let problem = one.document.as_ref().err()?;
            Some(format!("{}: {problem}", one.path.display()))
        });
        let path = |at: usize| self.descriptions.get(at).map_or_else(String::new, |one| one.path.display().to_string());
        let twice = self
            .conflicts
            .iter()
            .map(|(name, &(one, other))| format!("{name} is described by both {} and {}", path(one), path(other)));
        damaged.chain(twice).collect()
    }

    /// What is to be done to a container that is to have these devices. `look` looks at a device of the host; `owner` are the
    /// user and group of the container's process, where they are numbers.
    ///
    /// # Errors
    /// When a device is not described, or its description asks for what cannot be done.
    pub fn inject(
        &self,
        names: &[String],
        owner: (u32, u32),
        look: &dyn Fn(&Path) -> io::Result<Option<HostNode>>,
    ) -> Result<Injection, CdiError> {
        let missing: Vec<String> = names.iter().filter(|name| !self.devices.contains_key(*name)).cloned().collect();
        if !missing.is_empty() {
            return Err(CdiError::Unresolvable { names: missing, reasons: self.problems() });
        }
        let mut injection = Injection::default();
        let mut applied = BTreeSet::new();
        for name in names {
            let Some(&(at, position)) = self.devices.get(name) else { continue };
            let Some(Description { path, document: Ok(document), .. }) = self.descriptions.get(at) else { continue };
            let refuse = |reason| CdiError::Edit { file: path.clone(), device: name.clone(), reason };
            // Of the description itself once, whichever of its devices are asked for.
            let common = applied.insert((at, None)).then_some(&document.edits);
            let own = document.devices.get(position).filter(|_| applied.insert((at, Some(position))));
            for edits in common.into_iter().chain(own.map(|device| &device.edits)) {
                apply(&mut injection, edits, owner, look).map_err(refuse)?;
            }
        }
        Ok(injection)
    }
}

fn apply(
    injection: &mut Injection,
    edits: &Edits,
    owner: (u32, u32),
    look: &dyn Fn(&Path) -> io::Result<Option<HostNode>>,
) -> Result<(), String> {
    if let Some(hook) = edits.hooks.iter().find(|hook| hook.hook_name != RUN_HOOK) {
        let (name, path) = (&hook.hook_name, &hook.path);
        return Err(format!("the {name} hook {path} is not run by this engine: hooks of {RUN_HOOK} are"));
    }
    if let Some(device) = edits.net_devices.first() {
        return Err(format!("netDevices: the interface {} cannot be moved by this engine", device.host_interface_name));
    }
    if edits.intel_rdt.is_some() {
        return Err("intelRdt: this engine gives containers no share of caches and bandwidth".to_owned());
    }
    injection.environment.extend(edits.env.iter().cloned());
    for node in &edits.device_nodes {
        let made = device(node, owner, look)?;
        injection.devices.retain(|other| other.node.path != made.node.path);
        injection.devices.push(made);
    }
    for mount in &edits.mounts {
        let made = bind(mount)?;
        injection.mounts.retain(|other| other.target != made.target);
        injection.mounts.push(made);
    }
    injection.hooks.extend(edits.hooks.iter().map(|hook| Hook {
        path: hook.path.clone(),
        arguments: hook.args.clone(),
        environment: hook.env.clone(),
        timeout_seconds: hook.timeout,
    }));
    // Root's group is everybody's who is root, and nobody else's.
    injection.groups.extend(edits.additional_gids.iter().copied().filter(|group| *group != 0));
    Ok(())
}

fn plain(path: &str) -> Result<String, String> {
    if path.contains('\0') || path.split('/').any(|part| part == "..") {
        return Err(format!("the path {} must not have `..` nor a NUL byte", path.escape_debug()));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    Ok(format!("/{}", parts.join("/")))
}

fn device(
    node: &DeviceNode,
    (uid, gid): (u32, u32),
    look: &dyn Fn(&Path) -> io::Result<Option<HostNode>>,
) -> Result<FoundDevice, String> {
    let path = plain(&node.path)?;
    let wanted = match node.kind.as_deref().unwrap_or_default() {
        "" => None,
        "c" | "u" => Some(DeviceKind::Character),
        "b" => Some(DeviceKind::Block),
        other => return Err(format!("deviceNodes `{path}`: a node of type `{other}` cannot be made by this engine")),
    };
    let number = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    let found = match (wanted, number(node.major).filter(|major| *major != 0)) {
        (Some(kind), Some(major)) => HostNode { kind, major, minor: number(node.minor).unwrap_or(0), mode: 0o666 },
        _ => {
            let host = node.host_path.as_deref().filter(|host| !host.is_empty()).unwrap_or(&path);
            let found = look(Path::new(host))
                .map_err(|error| format!("deviceNodes `{path}`: {host} on this host: {error}"))?
                .ok_or_else(|| format!("deviceNodes `{path}`: {host} is no device of this host"))?;
            if wanted.is_some_and(|wanted| wanted != found.kind) {
                return Err(format!("deviceNodes `{path}`: {host} on this host is a device of the other type"));
            }
            found
        }
    };
    let access = node.permissions.clone().filter(|permissions| !permissions.is_empty());
    Ok(FoundDevice {
        node: Node {
            path,
            kind: found.kind,
            major: found.major,
            minor: found.minor,
            mode: node.file_mode.unwrap_or(found.mode) & 0o777,
            uid: node.uid.unwrap_or(uid),
            gid: node.gid.unwrap_or(gid),
        },
        access: access.unwrap_or_else(|| "rwm".to_owned()),
    })
}

fn bind(mount: &DescribedMount) -> Result<Mount, String> {
    let target = plain(&mount.container_path)?;
    let refuse = |what: String| format!("mounts `{target}`: {what}");
    if target == "/" || target == "/proc" || target.starts_with("/proc/") {
        return Err(refuse("nothing can be mounted there".to_owned()));
    }
    if !["", "bind", "rbind", "none"].contains(&mount.kind.as_deref().unwrap_or_default()) {
        let kind = mount.kind.as_deref().unwrap_or_default();
        return Err(refuse(format!("a file system of type `{kind}` is not mounted by this engine: bind mounts are")));
    }
    if !mount.host_path.starts_with('/') {
        return Err(refuse(format!("hostPath `{}` must be absolute", mount.host_path)));
    }
    let (mut attributes, mut propagation, mut recursive) = (0, Propagation::Private, true);
    for option in &mount.options {
        let (attribute, is_set) = match option.as_str() {
            "bind" | "rbind" => {
                recursive = option == "rbind";
                (0, true)
            }
            "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" => {
                propagation = match option.trim_start_matches('r') {
                    "slave" => Propagation::Slave,
                    "shared" => Propagation::Shared,
                    _ => Propagation::Private,
                };
                (0, true)
            }
            other => {
                mount_attribute(other).ok_or_else(|| refuse(format!("there is no option `{other}` of bind mounts")))?
            }
        };
        if is_set {
            attributes |= attribute;
        } else {
            attributes &= !attribute;
        }
    }
    let path = PathBuf::from(&mount.host_path);
    let source = MountSource::Bind { path, subpath: None, recursive, copy_up: false, mapped: false };
    Ok(Mount { target, source, attributes, propagation, topmost_only: false })
}

#[cfg(test)]
mod tests {
    use super::super::document::{Format, parse};
    use super::*;

    fn described(path: &str, priority: usize, text: &str) -> Description {
        Description { path: path.into(), priority, document: parse(text, Format::Yaml) }
    }

    fn one(name: &str, edits: &str) -> String {
        format!("cdiVersion: 1.1.0\nkind: vendor.com/device\ndevices: [{{name: {name}, containerEdits: {edits}}}]\n")
    }

    fn inject(catalogue: &Catalogue, names: &[&str]) -> Result<Injection, CdiError> {
        let names: Vec<String> = names.iter().map(|name| format!("vendor.com/device={name}")).collect();
        catalogue.inject(&names, (7, 8), &|path| match path.to_str() {
            Some("/dev/card0") => Ok(Some(HostNode { kind: DeviceKind::Character, major: 226, minor: 1, mode: 0o640 })),
            Some("/dev/file") => Ok(None),
            _ => Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn told(edits: &str) -> String {
        let catalogue = Catalogue::new(vec![described("/etc/cdi/a.yaml", 0, &one("x", edits))]);
        inject(&catalogue, &["x"]).unwrap_err().to_string()
    }

    #[test]
    fn edits_of_the_description_come_once_and_before_those_of_its_devices() {
        let text = "cdiVersion: 1.1.0\nkind: vendor.com/device\ncontainerEdits: {env: [ALL=1], additionalGids: [0, 5], hooks: [{hookName: createContainer, path: /bin/hook, args: [hook], timeout: 5}]}\ndevices:\n  \
                    - {name: a, containerEdits: {env: [A=1], deviceNodes: [{path: /dev/card0, permissions: r}]}}\n  \
                    - {name: b, containerEdits: {env: [B=1], deviceNodes: [{path: /dev/x, type: b, major: 8, minor: 1, fileMode: 384, uid: 1, gid: 2}],\n       \
                    mounts: [{hostPath: /lib/v, containerPath: /lib//v/, options: [ro, nosuid, bind]}]}}\n";
        let catalogue = Catalogue::new(vec![described("/etc/cdi/a.yaml", 0, text)]);
        assert_eq!(catalogue.names().collect::<Vec<_>>(), ["vendor.com/device=a", "vendor.com/device=b"]);
        let made = inject(&catalogue, &["a", "b", "a"]).unwrap();
        assert_eq!(made.environment, ["ALL=1", "A=1", "B=1"]);
        assert_eq!(made.groups, [5]);
        let hook = Hook {
            path: "/bin/hook".to_owned(),
            arguments: vec!["hook".to_owned()],
            environment: Vec::new(),
            timeout_seconds: Some(5),
        };
        assert_eq!(made.hooks, [hook]);
        let [card, disk] = made.devices.as_slice() else { panic!("two: {:?}", made.devices) };
        assert_eq!((card.node.major, card.node.mode, card.node.uid, card.node.gid), (226, 0o640, 7, 8));
        assert_eq!(card.access, "r");
        assert_eq!((disk.node.kind, disk.node.mode, disk.node.uid, disk.node.gid), (DeviceKind::Block, 0o600, 1, 2));
        assert_eq!(disk.access, "rwm");
        let [mount] = made.mounts.as_slice() else { panic!("one: {:?}", made.mounts) };
        assert_eq!(mount.target, "/lib/v");
        assert_eq!(mount.attributes, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID);
        assert!(matches!(mount.source, MountSource::Bind { recursive: false, .. }));
    }

    #[test]
    fn the_directory_with_the_higher_priority_describes_a_device() {
        let catalogue = Catalogue::new(vec![
            described("/etc/cdi/a.yaml", 0, &one("x", "{env: [FROM=etc]}")),
            described("/var/run/cdi/a.yaml", 1, &one("x", "{env: [FROM=run]}")),
        ]);
        assert_eq!(inject(&catalogue, &["x"]).unwrap().environment, ["FROM=run"]);
        assert!(catalogue.problems().is_empty());
        let twice = Catalogue::new(vec![
            described("/etc/cdi/a.yaml", 0, &one("x", "{env: [A=1]}")),
            described("/etc/cdi/b.yaml", 0, &one("x", "{env: [A=1]}")),
            described("/etc/cdi/c.yaml", 0, "kind: 5"),
        ]);
        let said = inject(&twice, &["x", "y"]).unwrap_err().to_string();
        assert!(
            said.starts_with(
                "CDI device injection failed: unresolvable CDI devices vendor.com/device=x, vendor.com/device=y (/etc/cdi/c.yaml: "
            ),
            "{said}"
        );
        assert!(
            said.ends_with("vendor.com/device=x is described by both /etc/cdi/a.yaml and /etc/cdi/b.yaml)"),
            "{said}"
        );
        let none = Catalogue::new(Vec::new());
        assert_eq!(
            inject(&none, &["x"]).unwrap_err().to_string(),
            "CDI device injection failed: unresolvable CDI devices vendor.com/device=x"
        );
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_its_place() {
        let start = "CDI device injection failed: /etc/cdi/a.yaml: vendor.com/device=x: ";
        for (edits, reason) in [
            (
                "{hooks: [{hookName: poststart, path: /bin/hook}]}",
                "the poststart hook /bin/hook is not run by this engine",
            ),
            ("{netDevices: [{hostInterfaceName: eth1, name: a}]}", "netDevices: the interface eth1 cannot be moved"),
            ("{intelRdt: {closID: a}}", "intelRdt: this engine"),
            ("{deviceNodes: [{path: /dev/absent}]}", "deviceNodes `/dev/absent`: /dev/absent on this host: "),
            ("{deviceNodes: [{path: /dev/a, hostPath: /dev/file}]}", "deviceNodes `/dev/a`: /dev/file is no device"),
            (
                "{deviceNodes: [{path: /dev/card0, type: b}]}",
                "deviceNodes `/dev/card0`: /dev/card0 on this host is a device of",
            ),
            ("{deviceNodes: [{path: /dev/p, type: p}]}", "deviceNodes `/dev/p`: a node of type `p`"),
            ("{deviceNodes: [{path: /dev/../x}]}", "the path /dev/../x must not have `..`"),
            ("{mounts: [{hostPath: /a, containerPath: /proc/x}]}", "mounts `/proc/x`: nothing can be mounted there"),
            (
                "{mounts: [{hostPath: /a, containerPath: /a, type: tmpfs}]}",
                "mounts `/a`: a file system of type `tmpfs`",
            ),
            ("{mounts: [{hostPath: a, containerPath: /a}]}", "mounts `/a`: hostPath `a` must be absolute"),
            (
                "{mounts: [{hostPath: /a, containerPath: /a, options: [loud]}]}",
                "mounts `/a`: there is no option `loud`",
            ),
        ] {
            let said = told(edits);
            assert!(said.starts_with(&format!("{start}{reason}")), "{edits}: {said}");
        }
    }
}

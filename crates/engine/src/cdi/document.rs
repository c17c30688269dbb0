//! Pure. A description of devices (Container Device Interface, up to version 1.1.0): what its vendor says must be done to a
//! container that is to have one of them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::name;

/// Versions of the specification, the oldest first.
const VERSIONS: [&str; 10] = ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];
/// When hooks run.
const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// How a description is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// A description.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The version of the specification that it follows.
    #[serde(rename = "cdiVersion")]
    pub version: String,
    /// `vendor.com/class`.
    pub kind: String,
    /// Not for containers.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The devices.
    pub devices: Vec<Device>,
    /// For a container that has any of the devices.
    #[serde(rename = "containerEdits", default)]
    pub edits: Edits,
}

/// A device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Within its kind.
    pub name: String,
    /// Not for containers.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// For a container that has this device.
    #[serde(rename = "containerEdits")]
    pub edits: Edits,
}

/// What is to be done to a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Edits {
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Nodes in `/dev`.
    pub device_nodes: Vec<DeviceNode>,
    /// Interfaces of the host.
    pub net_devices: Vec<NetDevice>,
    /// Programs of the host.
    pub hooks: Vec<Hook>,
    /// Files and directories of the host.
    pub mounts: Vec<Mount>,
    /// A share of the processors' caches and memory bandwidth.
    pub intel_rdt: Option<IntelRdt>,
    /// Groups of the container's processes.
    pub additional_gids: Vec<u32>,
}

/// A node in `/dev`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct DeviceNode {
    /// In the container.
    pub path: String,
    /// On the host, where it is another one.
    pub host_path: Option<String>,
    /// `b`, `c`, `u` or `p`; what is on the host unless said.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its number.
    pub major: Option<i64>,
    /// Its number.
    pub minor: Option<i64>,
    /// Permission bits.
    pub file_mode: Option<u32>,
    /// Any of `r`, `w` and `m`; all of them unless said.
    pub permissions: Option<String>,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NetDevice {
    /// On the host.
    pub host_interface_name: String,
    /// In the container.
    pub name: String,
}

/// A program of the host that is run while a container is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Hook {
    /// When: `createContainer` and others.
    pub hook_name: String,
    /// Absolute, on the host.
    pub path: String,
    /// Its arguments, its own name among them.
    #[serde(default)]
    pub args: Vec<String>,
    /// `KEY=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// In seconds.
    pub timeout: Option<u32>,
}

/// A file or directory of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mount {
    /// On the host.
    pub host_path: String,
    /// In the container.
    pub container_path: String,
    /// Of a mount: `ro`, `bind`, `nosuid`.
    #[serde(default)]
    pub options: Vec<String>,
    /// Of a file system; a bind mount unless said.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// Resource Director Technology.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IntelRdt {
    /// The class of service.
    #[serde(rename = "closID")]
    pub class: Option<String>,
    /// Of the cache.
    #[serde(rename = "l3CacheSchema")]
    pub cache: Option<String>,
    /// Of the bandwidth.
    #[serde(rename = "memBwSchema")]
    pub bandwidth: Option<String>,
    /// Lines as the kernel has them.
    pub schemata: Vec<String>,
    /// A group of its own to be measured by.
    #[serde(rename = "enableMonitoring")]
    pub monitoring: bool,
    /// The same until version 1.0.0.
    #[serde(rename = "enableCMT")]
    pub monitoring_cache: bool,
    /// The same until version 1.0.0.
    #[serde(rename = "enableMBM")]
    pub monitoring_bandwidth: bool,
}

impl Edits {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The first version of the specification that has all of this, and the part that needs it.
    fn needs(&self) -> (&'static str, &'static str) {
        let rdt = self.intel_rdt.as_ref();
        if !self.net_devices.is_empty() {
            ("1.1.0", "netDevices")
        } else if rdt.is_some_and(|rdt| !rdt.schemata.is_empty() || rdt.monitoring) {
            ("1.1.0", "schemata and enableMonitoring of intelRdt")
        } else if rdt.is_some() {
            ("0.7.0", "intelRdt")
        } else if !self.additional_gids.is_empty() {
            ("0.7.0", "additionalGids")
        } else if self.device_nodes.iter().any(|node| node.host_path.is_some()) {
            ("0.5.0", "hostPath of a device node")
        } else if self.mounts.iter().any(|mount| mount.kind.is_some()) {
            ("0.4.0", "type of a mount")
        } else {
            ("0.1.0", "")
        }
    }

    fn check(&self, place: &str) -> Result<(), String> {
        for variable in &self.env {
            if variable.find('=').is_none_or(|at| at == 0) {
                return Err(format!("{place}: env `{variable}`: expected KEY=value"));
            }
        }
        for node in &self.device_nodes {
            let at = format!("{place}: deviceNodes `{}`", node.path);
            if !node.path.starts_with('/') {
                return Err(format!("{at}: path must be absolute"));
            }
            if let Some(kind) = node.kind.as_deref().filter(|kind| !["", "b", "c", "u", "p"].contains(kind)) {
                return Err(format!("{at}: type `{kind}`: expected b, c, u or p"));
            }
            let known = |permissions: &String| permissions.chars().all(|one| matches!(one, 'r' | 'w' | 'm'));
            if let Some(wrong) = node.permissions.as_ref().filter(|permissions| !known(permissions)) {
                return Err(format!("{at}: permissions `{wrong}`: expected any of r, w and m"));
            }
            if let Some(number) =
                [node.major, node.minor].into_iter().flatten().find(|number| u32::try_from(*number).is_err())
            {
                return Err(format!("{at}: {number} is no number of a device"));
            }
        }
        for hook in &self.hooks {
            let at = format!("{place}: hooks `{}`", hook.path);
            if !HOOKS.contains(&hook.hook_name.as_str()) {
                return Err(format!("{at}: hookName `{}`: expected one of {}", hook.hook_name, HOOKS.join(", ")));
            }
            if !hook.path.starts_with('/') {
                return Err(format!("{at}: path must be absolute"));
            }
            if hook.timeout == Some(0) {
                return Err(format!("{at}: timeout must be more than 0"));
            }
            if let Some(wrong) = hook.env.iter().find(|variable| variable.find('=').is_none_or(|at| at == 0)) {
                return Err(format!("{at}: env `{wrong}`: expected KEY=value"));
            }
        }
        for mount in &self.mounts {
            if mount.host_path.is_empty() || !mount.container_path.starts_with('/') {
                return Err(format!(
                    "{place}: mounts `{}`: hostPath must not be empty and containerPath must be absolute",
                    mount.container_path
                ));
            }
        }
        Ok(())
    }
}

fn position(version: &str) -> Option<usize> {
    VERSIONS.iter().position(|known| *known == version)
}

/// Reads a description and checks it.
///
/// # Errors
/// What is wrong with it, and where in it.
pub fn parse(text: &str, format: Format) -> Result<Document, String> {
    let document: Document = match format {
        Format::Json => serde_json::from_str(text).map_err(|error| error.to_string())?,
        Format::Yaml => serde_yaml::from_str(text).map_err(|error| error.to_string())?,
    };
    check(&document)?;
    Ok(document)
}

fn check(document: &Document) -> Result<(), String> {
    let Some(given) = position(&document.version) else {
        return Err(format!(
            "cdiVersion `{}` is not known here: versions up to {} are",
            document.version,
            VERSIONS[VERSIONS.len() - 1]
        ));
    };
    if !name::is_kind(&document.kind) {
        return Err(format!("kind `{}`: expected VENDOR/CLASS, such as vendor.com/device", document.kind));
    }
    if document.devices.is_empty() {
        return Err("devices: there are none".to_owned());
    }
    let class_has_dot = document.kind.split_once('/').is_some_and(|(_, class)| class.contains('.'));
    let annotated =
        !document.annotations.is_empty() || document.devices.iter().any(|device| !device.annotations.is_empty());
    let mut needs = vec![document.edits.needs()];
    if class_has_dot {
        needs.push(("0.6.0", "a dot in the class of its kind"));
    }
    if annotated {
        needs.push(("0.6.0", "annotations"));
    }
    document.edits.check("containerEdits")?;
    let mut names = BTreeSet::new();
    for device in &document.devices {
        if !name::is_device(&device.name) {
            return Err(format!("devices: `{}` cannot be the name of a device", device.name));
        }
        if !names.insert(&device.name) {
            return Err(format!("devices: there are two with the name `{}`", device.name));
        }
        if device.edits.is_empty() {
            return Err(format!("devices `{}`: its containerEdits are empty", device.name));
        }
        if device.name.starts_with(|first: char| first.is_ascii_digit()) {
            needs.push(("0.5.0", "a device's name that begins with a digit"));
        }
        needs.push(device.edits.needs());
        device.edits.check(&format!("devices `{}`", device.name))?;
    }
    match needs.into_iter().find(|(version, _)| position(version).is_some_and(|needed| needed > given)) {
        Some((version, what)) => {
            Err(format!("cdiVersion {} is too old for {what}, which is there since {version}", document.version))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
cdiVersion: 1.1.0
kind: vendor.com/device
annotations: {whose: vendor}
containerEdits:
  env: ["VENDOR=1"]
devices:
  - name: "0"
    containerEdits:
      env: ["FIRST=yes"]
      deviceNodes:
        - {path: /dev/card0, hostPath: /dev/null, type: c, major: 1, minor: 3, fileMode: 432, permissions: rw, uid: 1, gid: 2}
      netDevices: [{hostInterfaceName: eth1, name: net1}]
      mounts: [{hostPath: /lib/vendor, containerPath: /lib/vendor, options: [ro, bind], type: bind}]
      hooks: [{hookName: createContainer, path: /bin/hook, args: [hook, now], env: ["A=b"], timeout: 5}]
      intelRdt: {closID: class, schemata: ["L3:0=f"], enableMonitoring: true}
      additionalGids: [5]
"#;

    #[test]
    fn a_whole_one() {
        let document = parse(WHOLE, Format::Yaml).unwrap();
        assert_eq!(document.kind, "vendor.com/device");
        let edits = &document.devices[0].edits;
        let node = &edits.device_nodes[0];
        assert_eq!((node.file_mode, node.permissions.as_deref(), node.gid), (Some(0o660), Some("rw"), Some(2)));
        assert_eq!((edits.hooks[0].timeout, edits.additional_gids.as_slice()), (Some(5), &[5][..]));
        let json = r#"{"cdiVersion": "0.5.0", "kind": "a.b/c", "devices": [{"name": "x", "containerEdits": {"env": ["A=1"]}}]}"#;
        assert_eq!(parse(json, Format::Json).unwrap().devices[0].name, "x");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let with = |edits: &str| {
            format!("cdiVersion: 1.1.0\nkind: a.b/c\ndevices:\n  - name: x\n    containerEdits: {edits}\n")
        };
        for (text, said) in [
            (
                "cdiVersion: 9.0.0\nkind: a/b\ndevices: []\n".to_owned(),
                "cdiVersion `9.0.0` is not known here: versions up to 1.1.0 are",
            ),
            ("cdiVersion: 0.5.0\nkind: ab\ndevices: []\n".to_owned(), "kind `ab`: expected VENDOR/CLASS"),
            ("cdiVersion: 0.5.0\nkind: a/b\ndevices: []\n".to_owned(), "devices: there are none"),
            ("cdiVersion: 0.5.0\nkind: a/b\ndevices: [{name: x}]\n".to_owned(), "missing field `containerEdits`"),
            (with("{}"), "devices `x`: its containerEdits are empty"),
            (with("{colour: red}"), "unknown field `colour`"),
            (with("{env: [A]}"), "devices `x`: env `A`: expected KEY=value"),
            (with("{deviceNodes: [{path: dev}]}"), "devices `x`: deviceNodes `dev`: path must be absolute"),
            (with("{deviceNodes: [{path: /dev/a, type: z}]}"), "type `z`: expected b, c, u or p"),
            (with("{deviceNodes: [{path: /dev/a, permissions: rx}]}"), "permissions `rx`: expected any of r, w and m"),
            (with("{deviceNodes: [{path: /dev/a, major: -1}]}"), "-1 is no number of a device"),
            (with("{hooks: [{hookName: later, path: /x}]}"), "hookName `later`: expected one of prestart"),
            (with("{hooks: [{hookName: poststop, path: x}]}"), "hooks `x`: path must be absolute"),
            (with("{mounts: [{hostPath: /x, containerPath: y}]}"), "mounts `y`: hostPath must not be empty"),
        ] {
            let told = parse(&text, Format::Yaml).unwrap_err();
            assert!(told.contains(said), "{text}: {told}");
        }
    }

    #[test]
    fn a_version_that_has_not_got_what_is_used_is_refused() {
        let of = |version: &str, name: &str, edits: &str| {
            let text = format!(
                "cdiVersion: {version}\nkind: a.b/c\ndevices:\n  - name: \"{name}\"\n    containerEdits: {edits}\n"
            );
            parse(&text, Format::Yaml)
        };
        for (enough, little, name, edits) in [
            ("0.4.0", "0.3.0", "x", "{mounts: [{hostPath: /a, containerPath: /a, type: bind}]}"),
            ("0.5.0", "0.4.0", "x", "{deviceNodes: [{path: /dev/a, hostPath: /dev/b}]}"),
            ("0.5.0", "0.4.0", "0", "{env: [A=1]}"),
            ("0.7.0", "0.6.0", "x", "{additionalGids: [1]}"),
            ("0.7.0", "0.6.0", "x", "{intelRdt: {closID: a}}"),
            ("1.1.0", "1.0.0", "x", "{netDevices: [{hostInterfaceName: a, name: b}]}"),
        ] {
            assert!(of(enough, name, edits).is_ok(), "{edits}");
            let told = of(little, name, edits).unwrap_err();
            assert!(told.starts_with(&format!("cdiVersion {little} is too old for ")), "{told}");
        }
    }
}

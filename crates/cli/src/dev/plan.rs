//! Pure. What a cluster of namespaced hosts consists of: every name, address and path, decided before anything is made.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// So many hosts fit: one machine bears no more, and the subnet has 254 addresses.
pub const MOST_HOSTS: u8 = 64;
/// Where each host's `stackd` listens.
pub const DAEMON_PORT: u16 = 4600;
/// A path of a Unix socket has at most 107 bytes (`sun_path` of unix(7)); `node64/run/docker.sock` comes after the
/// directory.
const LONGEST_DIRECTORY: usize = 107 - "/node64/run/docker.sock".len();

/// What a user asks for with `stack dev up`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wishes {
    /// The cluster's name.
    pub name: String,
    /// Where everything of it is kept.
    pub directory: PathBuf,
    /// How many hosts.
    pub nodes: u8,
    /// How many of them are controllers; the first ones.
    pub controllers: u8,
    /// The daemon to run on each host.
    pub stackd: PathBuf,
    /// The shim that the daemon starts.
    pub shim: PathBuf,
    /// Registries without TLS; `gateway` as the host means this machine as the hosts see it.
    pub insecure_registries: Vec<String>,
    /// `KEY=VALUE` lines for every host's `stackd.toml`; dots in the key lead into tables.
    pub settings: Vec<String>,
    /// Whether hosts reach what this machine reaches.
    pub isolated: bool,
}

/// A cluster of namespaced hosts: what is meant to exist, written down before it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Unique among those of this machine.
    pub name: String,
    /// Where everything of it is kept.
    pub directory: PathBuf,
    /// The first address of the /24 that the hosts share.
    pub subnet: Ipv4Addr,
    /// The bridge that links them, in the namespace of the one who made them.
    pub bridge: String,
    /// The nftables table that lets them out, unless they are isolated.
    pub table: Option<String>,
    /// Whether forwarding was off on this machine before, and is to be set off again.
    pub forwarding_was_off: bool,
    /// How many of the hosts, from the first, are controllers.
    pub controllers: u8,
    /// The daemon to run on each host.
    pub stackd: PathBuf,
    /// The shim that the daemon starts.
    pub shim: PathBuf,
    /// Registries without TLS.
    pub insecure_registries: Vec<String>,
    /// `KEY=VALUE` lines for every host's `stackd.toml`.
    pub settings: Vec<String>,
    /// In order of their numbers.
    pub hosts: Vec<Host>,
}

/// One namespaced host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// `node1`, `node2`, …
    pub name: String,
    /// Its address among the hosts.
    pub address: Ipv4Addr,
    /// This machine's end of its link.
    pub link: String,
    /// Its directory: `state`, `run`, `log`, `stackd.toml`.
    pub directory: PathBuf,
    /// Its cgroup, relative to the root of each hierarchy, without a slash in front.
    pub cgroup: PathBuf,
}

/// A wish that cannot be fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// Not a name.
    #[error(
        "`{name}` cannot be the name of a cluster: expected 1 to 32 lower-case letters, digits and `-`, a letter first"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// Too few or too many.
    #[error("a cluster of {nodes} hosts cannot be made: expected 1 to {MOST_HOSTS}")]
    Nodes {
        /// What was given.
        nodes: u8,
    },
    /// A number of controllers that has no use.
    #[error("{controllers} controllers of {nodes} hosts: expected 1, 3 or 5, and not more than there are hosts")]
    Controllers {
        /// What was given.
        controllers: u8,
        /// How many hosts there are.
        nodes: u8,
    },
    /// Sockets in it could not be reached.
    #[error("the directory {} is longer than {LONGEST_DIRECTORY} bytes, so sockets in it could not be opened; choose a shorter one with --state-dir", directory.display())]
    Directory {
        /// What was given or is the default.
        directory: PathBuf,
    },
    /// Not an absolute path.
    #[error("the directory {} is not absolute", directory.display())]
    Relative {
        /// What was given.
        directory: PathBuf,
    },
    /// Not `KEY=VALUE`.
    #[error("`--set {setting}`: expected KEY=VALUE, as in `heartbeat=\"500ms\"` or `network.pool=[\"172.30.0.0/16\"]`")]
    Setting {
        /// What was given.
        setting: String,
    },
}

/// Decides a cluster in a subnet that was found free.
///
/// # Errors
/// The wish that cannot be fulfilled.
pub fn decide(wishes: &Wishes, subnet: Ipv4Addr) -> Result<Cluster, WishError> {
    check(wishes)?;
    let [first, second, third, _] = subnet.octets();
    let at = |last| Ipv4Addr::new(first, second, third, last);
    let link = |address: Ipv4Addr| format!("sd{:08x}", u32::from(address));
    let gateway = at(1);
    let host = |number: u8| {
        let name = format!("node{number}");
        Host {
            address: at(number + 1),
            link: link(at(number + 1)),
            directory: wishes.directory.join(&name),
            cgroup: Path::new(CGROUP).join(&wishes.name).join(&name),
            name,
        }
    };
    let registry = |registry: &String| match registry.strip_prefix("gateway:") {
        Some(port) => format!("{gateway}:{port}"),
        None => registry.clone(),
    };
    Ok(Cluster {
        name: wishes.name.clone(),
        directory: wishes.directory.clone(),
        subnet: at(0),
        bridge: link(at(0)),
        table: (!wishes.isolated).then(|| format!("stack-dev-{:08x}", u32::from(at(0)))),
        forwarding_was_off: false,
        controllers: wishes.controllers,
        stackd: wishes.stackd.clone(),
        shim: wishes.shim.clone(),
        insecure_registries: wishes.insecure_registries.iter().map(registry).collect(),
        settings: wishes.settings.clone(),
        hosts: (1..=wishes.nodes).map(host).collect(),
    })
}

/// The cgroup of all clusters of this machine.
pub const CGROUP: &str = "stack-dev";

fn check(wishes: &Wishes) -> Result<(), WishError> {
    let plain = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
    let name = &wishes.name;
    if !name.starts_with(|first: char| first.is_ascii_lowercase()) || name.len() > 32 || !name.chars().all(plain) {
        return Err(WishError::Name { name: name.clone() });
    }
    if !(1..=MOST_HOSTS).contains(&wishes.nodes) {
        return Err(WishError::Nodes { nodes: wishes.nodes });
    }
    if !matches!(wishes.controllers, 1 | 3 | 5) || wishes.controllers > wishes.nodes {
        return Err(WishError::Controllers { controllers: wishes.controllers, nodes: wishes.nodes });
    }
    if !wishes.directory.is_absolute() {
        return Err(WishError::Relative { directory: wishes.directory.clone() });
    }
    if wishes.directory.as_os_str().len() > LONGEST_DIRECTORY {
        return Err(WishError::Directory { directory: wishes.directory.clone() });
    }
    for setting in &wishes.settings {
        apply_setting(&mut toml::Table::new(), setting)?;
    }
    Ok(())
}

impl Cluster {
    /// This machine as the hosts see it.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet) | 1)
    }

    /// The host of this name.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// The cgroup that holds the hosts' cgroups.
    #[must_use]
    pub fn cgroup(&self) -> PathBuf {
        Path::new(CGROUP).join(&self.name)
    }

    /// The text of a host's `stackd.toml`.
    #[must_use]
    pub fn configuration(&self, host: &Host) -> String {
        let text = |path: &Path| toml::Value::String(path.display().to_string());
        let listen = SocketAddr::new(IpAddr::V4(host.address), DAEMON_PORT).to_string();
        let mut table = toml::Table::new();
        table.insert("hostname".to_owned(), toml::Value::String(host.name.clone()));
        table.insert("state_dir".to_owned(), text(&host.state_directory()));
        table.insert("run_dir".to_owned(), text(&host.run_directory()));
        table.insert("listen".to_owned(), toml::Value::String(listen.clone()));
        table.insert("advertise".to_owned(), toml::Value::String(listen));
        table.insert("cgroup_parent".to_owned(), text(&Path::new("/").join(host.container_cgroup())));
        table.insert("shim".to_owned(), text(&self.shim));
        let registries = self.insecure_registries.iter().cloned().map(toml::Value::String).collect();
        table.insert("insecure_registries".to_owned(), toml::Value::Array(registries));
        for setting in &self.settings {
            // Checked when the cluster was decided.
            let _ = apply_setting(&mut table, setting);
        }
        table.to_string()
    }
}

impl Host {
    /// What outlives a power cut.
    #[must_use]
    pub fn state_directory(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// What does not: sockets.
    #[must_use]
    pub fn run_directory(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// What its programs say.
    #[must_use]
    pub fn log_directory(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// The daemon's configuration.
    #[must_use]
    pub fn configuration_file(&self) -> PathBuf {
        self.directory.join("stackd.toml")
    }

    /// Where the supervisor listens to the CLI.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.run_directory().join("host.sock")
    }

    /// The daemon's own API.
    #[must_use]
    pub fn stackd_socket(&self) -> PathBuf {
        self.run_directory().join("stackd.sock")
    }

    /// The Docker Engine API.
    #[must_use]
    pub fn docker_socket(&self) -> PathBuf {
        self.run_directory().join("docker.sock")
    }

    /// The cgroup of the supervisor and the daemon. They have one of their own because on cgroup v2 a cgroup that hands
    /// controllers down may hold no process itself.
    #[must_use]
    pub fn daemon_cgroup(&self) -> PathBuf {
        self.cgroup.join("daemon")
    }

    /// The cgroup below which the daemon makes those of its containers.
    #[must_use]
    pub fn container_cgroup(&self) -> PathBuf {
        self.cgroup.join("containers")
    }
}

/// Puts `KEY=VALUE` into a table. A value that is not TOML is taken as text.
fn apply_setting(table: &mut toml::Table, setting: &str) -> Result<(), WishError> {
    let refuse = || WishError::Setting { setting: setting.to_owned() };
    let (key, value) = setting.split_once('=').ok_or_else(refuse)?;
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"));
    let value = match parsed.ok().filter(|read| read.len() == 1).and_then(|mut read| read.remove("value")) {
        Some(value) => value,
        None => toml::Value::String(value.to_owned()),
    };
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
    if parts.iter().any(|part| part.is_empty() || !part.chars().all(plain)) {
        return Err(refuse());
    }
    let last = parts.pop().ok_or_else(refuse)?;
    let mut target = table;
    for part in parts {
        let inner = target.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        target = inner.as_table_mut().ok_or_else(refuse)?;
    }
    target.insert(last.to_owned(), value);
    Ok(())
}

/// The first free /24 below 10.64.0.0/10, looked for from a place that the caller drew.
#[must_use]
pub fn choose_subnet(taken: &[(Ipv4Addr, u8)], draw: u32) -> Option<Ipv4Addr> {
    const SUBNETS: u32 = 1 << 14;
    const FIRST: u32 = 0x0a40_0000;
    (0..SUBNETS)
        .map(|step| Ipv4Addr::from(FIRST + ((draw % SUBNETS + step) % SUBNETS) * 256))
        .find(|subnet| !taken.iter().any(|&(other, length)| overlaps(*subnet, other, length)))
}

/// Whether a /24 has an address in common with a route. A default route counts for nothing.
fn overlaps(subnet: Ipv4Addr, other: Ipv4Addr, length: u8) -> bool {
    if length == 0 {
        return false;
    }
    let mask = u32::MAX << (32 - u32::from(length.min(24)));
    u32::from(subnet) & mask == u32::from(other) & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes() -> Wishes {
        Wishes {
            name: "demo".to_owned(),
            directory: "/var/lib/stack-dev/demo".into(),
            nodes: 2,
            controllers: 1,
            stackd: "/opt/stackd".into(),
            shim: "/opt/stack-shim".into(),
            insecure_registries: vec!["gateway:5000".to_owned(), "10.1.2.3:80".to_owned()],
            settings: vec!["heartbeat=500ms".to_owned(), "network.pools=[\"172.30.0.0/16\"]".to_owned()],
            isolated: false,
        }
    }

    #[test]
    fn a_cluster_is_decided_whole() {
        let cluster = decide(&wishes(), Ipv4Addr::new(10, 64, 7, 0)).unwrap();
        insta::assert_snapshot!(serde_json::to_string_pretty(&cluster).unwrap());
        insta::assert_snapshot!(cluster.configuration(&cluster.hosts[1]));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |change: fn(&mut Wishes)| {
            let mut wishes = wishes();
            change(&mut wishes);
            decide(&wishes, Ipv4Addr::new(10, 64, 7, 0)).unwrap_err().to_string()
        };
        insta::assert_snapshot!(
            [
                refused(|wishes| wishes.name = "../etc".to_owned()),
                refused(|wishes| wishes.nodes = 0),
                refused(|wishes| wishes.controllers = 2),
                refused(|wishes| wishes.controllers = 3),
                refused(|wishes| wishes.directory = "here".into()),
                refused(|wishes| wishes.directory = format!("/{}", "x".repeat(100)).into()),
                refused(|wishes| wishes.settings = vec!["heartbeat".to_owned()]),
                refused(|wishes| wishes.settings = vec!["a..b=1".to_owned()]),
            ]
            .join("\n")
        );
    }

    #[test]
    fn a_subnet_is_free() {
        let all = choose_subnet(&[], 5).unwrap();
        assert_eq!(all, Ipv4Addr::new(10, 64, 5, 0));
        let taken =
            [(Ipv4Addr::new(10, 64, 5, 128), 25), (Ipv4Addr::new(10, 64, 6, 0), 23), (Ipv4Addr::UNSPECIFIED, 0)];
        assert_eq!(choose_subnet(&taken, 5), Some(Ipv4Addr::new(10, 64, 8, 0)));
        assert_eq!(choose_subnet(&[(Ipv4Addr::new(10, 0, 0, 0), 8)], 5), None);
        assert_eq!(choose_subnet(&[], (1 << 14) + 5), Some(all));
    }
}

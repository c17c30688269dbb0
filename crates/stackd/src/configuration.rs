//! The daemon's settings: one file and a few flags become one structure before anything runs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::Deserialize;
use stack_agent::encryption::Rotation;
use stack_agent::images::ImageCollection;
use stack_engine::container::{FEWEST_IDS, IdRange, LOWEST_ID, RuntimeProgram, Runtimes, UserNamespaces};
use stack_engine::encryption::{Implementation, TunnelsConfig};
use stack_engine::selinux::SelinuxMode;

/// Where the settings are unless told otherwise.
pub const DEFAULT_FILE: &str = "/etc/stack/stackd.toml";

/// The daemon of every host: container engine, agent, and controller where the host is one.
#[derive(Debug, Parser)]
#[command(name = "stackd", version, max_term_width = 110)]
pub struct Arguments {
    /// The file of settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything is kept that outlives a reboot
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
    /// Where the sockets are
    #[arg(long, value_name = "DIRECTORY")]
    run_dir: Option<PathBuf>,
    /// Where to listen for other hosts, once this one is in a cluster
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where other hosts reach this one
    #[arg(long, value_name = "ADDRESS:PORT")]
    advertise: Option<SocketAddr>,
    /// The program that is the parent of each container
    #[arg(long, value_name = "FILE")]
    shim: Option<PathBuf>,
    /// How the log is written
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The file, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    listen: Option<SocketAddr>,
    advertise: Option<SocketAddr>,
    hostname: Option<String>,
    shim: Option<PathBuf>,
    cgroup_parent: Option<String>,
    cdi_directories: Option<Vec<PathBuf>>,
    insecure_registries: BTreeSet<String>,
    registry_mirrors: BTreeMap<String, Vec<String>>,
    registry_authorities: Vec<PathBuf>,
    log_format: Option<LogFormat>,
    labels: BTreeMap<String, String>,
    network: Network,
    images: Images,
    encryption: Encryption,
    runtimes: BTreeMap<String, Runtime>,
    user_namespaces: Users,
    selinux: Option<SelinuxMode>,
    heartbeat: Option<String>,
    node_timeout: Option<String>,
}

/// A runtime beside the daemon's own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Runtime {
    path: PathBuf,
    #[serde(default)]
    arguments: Vec<String>,
}

/// When images are removed that nothing uses.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Images {
    collect_above_percent: Option<u8>,
    collect_down_to_percent: Option<u8>,
    collect_unused_for: Option<String>,
}

/// How this host takes part in encrypted networks.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Encryption {
    port: Option<u16>,
    program: Option<PathBuf>,
    implementation: Option<Implementation>,
    rotate_after: Option<String>,
}

/// The user namespaces of this host's containers.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Users {
    by_default: Option<bool>,
    first: Option<u32>,
    count: Option<u32>,
}

/// The networks of this host.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Network {
    prefix: Option<String>,
    table: Option<String>,
    pools: Option<Vec<ipnet::Ipv4Net>>,
    mtu: Option<u32>,
}

/// Everything that the daemon is told.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Outlives a reboot.
    pub state_directory: PathBuf,
    /// Sockets.
    pub run_directory: PathBuf,
    /// Where to listen for other hosts.
    pub listen: SocketAddr,
    /// Where other hosts reach this one, where that is not found out.
    pub advertise: Option<SocketAddr>,
    /// In place of the host's own name.
    pub hostname: Option<String>,
    /// The program that is the parent of each container.
    pub shim: PathBuf,
    /// The cgroup below which containers have theirs.
    pub cgroup_parent: Option<String>,
    /// Other programs that make containers, by the names that containers call them.
    pub runtimes: Runtimes,
    /// Where devices are described; the last goes before the others.
    pub cdi_directories: Vec<PathBuf>,
    /// Whether containers are labelled for SELinux.
    pub selinux: SelinuxMode,
    /// How images are fetched.
    pub registry: stack_engine::image::RegistryConfig,
    /// How networks are made.
    pub network: stack_engine::network::NetworkConfig,
    /// Whose users those of containers are.
    pub users: UserNamespaces,
    /// When images are removed that nothing uses.
    pub images: ImageCollection,
    /// How tunnels to other hosts are made.
    pub tunnels: TunnelsConfig,
    /// When the keys for them are replaced.
    pub rotation: Rotation,
    /// How the log is written.
    pub log_format: LogFormat,
    /// `engine.labels.*`.
    pub labels: BTreeMap<String, String>,
    /// How often nodes say that they are alive; a controller's setting.
    pub heartbeat: Option<Duration>,
    /// After which silence a node is taken to be down; a controller's setting.
    pub node_timeout: Option<Duration>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A share of the disk is wrong.
    #[error(
        "{}: `images.collect_above_percent` is {above} and `images.collect_down_to_percent` is {down_to}: expected \
         at most 100 (which never collects), and the second not above the first",
        path.display()
    )]
    Percent {
        /// In which file.
        path: PathBuf,
        /// The first.
        above: u8,
        /// The second.
        down_to: u8,
    },
    /// A directory is wrong.
    #[error("{}: `cdi_directories` has `{}`: expected absolute paths", path.display(), directory.display())]
    Directory {
        /// In which file.
        path: PathBuf,
        /// What it is.
        directory: PathBuf,
    },
    /// A port is wrong.
    #[error("{}: `encryption.port` is {port}: expected 1024 to 65534, as the next one is used, too", path.display())]
    Port {
        /// In which file.
        path: PathBuf,
        /// What it is.
        port: u16,
    },
    /// The ids of user namespaces are wrong.
    #[error(
        "{}: `user_namespaces.first` is {first} and `user_namespaces.count` is {count}: expected the first to be at least \
         {LOWEST_ID}, so that no user of the host is among them, at least {FEWEST_IDS} of them, as images have users up to \
         65534, and the last below 4294967295",
        path.display()
    )]
    Ids {
        /// In which file.
        path: PathBuf,
        /// The first.
        first: u32,
        /// How many.
        count: u32,
    },
    /// A span of time is too short.
    #[error("{}: `encryption.rotate_after` is shorter than 5 s", path.display())]
    Rotation {
        /// In which file.
        path: PathBuf,
    },
    /// A runtime that cannot be.
    #[error(
        "{}: `runtimes.{name}` has the path `{}`: expected an absolute path, and a name other than `stack`, which is the daemon's own runtime", path.display(), program.display()
    )]
    Runtime {
        /// In which file.
        path: PathBuf,
        /// Which.
        name: String,
        /// As it is given.
        program: PathBuf,
    },
    /// A span of time is wrong.
    #[error("{}: `{name}` is `{value}`: expected a time such as `500ms`", path.display())]
    Time {
        /// In which file.
        path: PathBuf,
        /// Which setting.
        name: &'static str,
        /// What it is.
        value: String,
    },
}

impl Configuration {
    /// The settings of a command line: its flags over its file over the defaults.
    ///
    /// # Errors
    /// The file cannot be read, or has something that is no setting.
    pub fn read(arguments: Arguments) -> Result<Self, ConfigurationError> {
        let (path, required) = match &arguments.config {
            Some(path) => (path.clone(), true),
            None => (PathBuf::from(DEFAULT_FILE), false),
        };
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|source| ConfigurationError::File { path: path.clone(), source: Box::new(source) })?,
            Err(error) if !required && error.kind() == std::io::ErrorKind::NotFound => File::default(),
            Err(source) => return Err(ConfigurationError::Read { path, source }),
        };
        Self::combine(arguments, file, &path)
    }

    fn combine(arguments: Arguments, file: File, path: &Path) -> Result<Self, ConfigurationError> {
        let time = |name, value: Option<String>| {
            value
                .map(|value| {
                    humantime::parse_duration(&value).map_err(|_| ConfigurationError::Time {
                        path: path.to_owned(),
                        name,
                        value,
                    })
                })
                .transpose()
        };
        let mut registry = stack_engine::image::RegistryConfig::default();
        registry.insecure.extend(file.insecure_registries);
        registry.mirrors.extend(file.registry_mirrors);
        registry.certificate_authorities.extend(file.registry_authorities);
        let defaults = stack_engine::network::NetworkConfig::default();
        let network = stack_engine::network::NetworkConfig {
            prefix: file.network.prefix.unwrap_or(defaults.prefix),
            table: file.network.table.unwrap_or(defaults.table),
            pools: file.network.pools.unwrap_or(defaults.pools),
            mtu: file.network.mtu.unwrap_or(defaults.mtu),
            subnet_length: defaults.subnet_length,
        };
        let defaults = ImageCollection::default();
        let above = file.images.collect_above_percent.unwrap_or(defaults.above_percent);
        let down_to = file.images.collect_down_to_percent.unwrap_or(defaults.down_to_percent.min(above));
        if above > 100 || down_to > above {
            return Err(ConfigurationError::Percent { path: path.to_owned(), above, down_to });
        }
        let unused_for = time("images.collect_unused_for", file.images.collect_unused_for)?;
        let images = ImageCollection {
            above_percent: above,
            down_to_percent: down_to,
            unused_for: unused_for.unwrap_or(defaults.unused_for),
        };
        let defaults = TunnelsConfig::default();
        let tunnels = TunnelsConfig {
            port: file.encryption.port.unwrap_or(defaults.port),
            program: file.encryption.program.unwrap_or_else(|| beside_this_program("stack-tunnel")),
            implementation: file.encryption.implementation,
        };
        if !(1024..u16::MAX).contains(&tunnels.port) {
            return Err(ConfigurationError::Port { path: path.to_owned(), port: tunnels.port });
        }
        let defaults = Rotation::default();
        let after = time("encryption.rotate_after", file.encryption.rotate_after)?.unwrap_or(defaults.after);
        if after < Duration::from_secs(5) {
            return Err(ConfigurationError::Rotation { path: path.to_owned() });
        }
        let mut runtimes = Runtimes::new();
        for (name, Runtime { path: program, arguments }) in file.runtimes {
            if name == "stack" || name.is_empty() || !program.is_absolute() {
                return Err(ConfigurationError::Runtime { path: path.to_owned(), name, program });
            }
            runtimes.insert(name, RuntimeProgram { program, arguments });
        }
        let usual = || stack_engine::cdi::DIRECTORIES.map(PathBuf::from).to_vec();
        let cdi_directories = file.cdi_directories.unwrap_or_else(usual);
        if let Some(directory) = cdi_directories.iter().find(|directory| !directory.is_absolute()) {
            return Err(ConfigurationError::Directory { path: path.to_owned(), directory: directory.clone() });
        }
        let usual = UserNamespaces::default();
        let first = file.user_namespaces.first.unwrap_or(usual.ids.first);
        let count = file.user_namespaces.count.unwrap_or(usual.ids.count);
        let by_default = file.user_namespaces.by_default.unwrap_or(usual.by_default);
        let users = UserNamespaces { by_default, ids: IdRange { first, count } };
        // The greatest number is no id.
        if first < LOWEST_ID || count < FEWEST_IDS || first.checked_add(count).is_none() {
            return Err(ConfigurationError::Ids { path: path.to_owned(), first, count });
        }
        let anywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), stack_api::DEFAULT_PORT);
        Ok(Self {
            state_directory: arguments.state_dir.or(file.state_dir).unwrap_or_else(|| "/var/lib/stack".into()),
            run_directory: arguments.run_dir.or(file.run_dir).unwrap_or_else(|| "/run/stack".into()),
            listen: arguments.listen.or(file.listen).unwrap_or(anywhere),
            advertise: arguments.advertise.or(file.advertise),
            hostname: file.hostname,
            shim: arguments.shim.or(file.shim).unwrap_or_else(|| beside_this_program("stack-shim")),
            cgroup_parent: file.cgroup_parent,
            runtimes,
            cdi_directories,
            registry,
            network,
            users,
            selinux: file.selinux.unwrap_or_default(),
            images,
            tunnels,
            rotation: Rotation { after, ..defaults },
            log_format: arguments.log_format.or(file.log_format).unwrap_or_default(),
            labels: file.labels,
            heartbeat: time("heartbeat", file.heartbeat)?,
            node_timeout: time("node_timeout", file.node_timeout)?,
        })
    }
}

fn beside_this_program(name: &str) -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join(name)))
        .unwrap_or_else(|| Path::new("/usr/local/bin").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, flags: &[&str]) -> Result<Configuration, ConfigurationError> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("stackd.toml");
        std::fs::write(&path, text).expect("written");
        let mut line = vec!["stackd", "--config", path.to_str().expect("UTF-8")];
        line.extend(flags);
        Configuration::read(Arguments::parse_from(line))
    }

    #[test]
    fn flags_come_before_the_file_and_the_file_before_the_defaults() {
        let configuration = read("state_dir = \"/a\"\nrun_dir = \"/b\"\nheartbeat = \"250ms\"", &["--state-dir", "/c"])
            .expect("settings");
        assert_eq!(configuration.state_directory, Path::new("/c"));
        assert_eq!(configuration.run_directory, Path::new("/b"));
        assert_eq!(configuration.listen.port(), stack_api::DEFAULT_PORT);
        assert_eq!(configuration.heartbeat, Some(Duration::from_millis(250)));
    }

    #[test]
    fn what_is_no_setting_is_refused_with_its_place() {
        let error = read("state_dir = \"/a\"\nstat_dir = \"/b\"", &[]).expect_err("refused").to_string();
        assert!(error.contains("stat_dir") && error.contains("line 2"), "{error}");
        let error = read("cdi_directories = [\"/etc/cdi\", \"cdi\"]", &[]).expect_err("refused").to_string();
        assert!(error.ends_with("`cdi_directories` has `cdi`: expected absolute paths"), "{error}");
        let error = read("node_timeout = \"soon\"", &[]).expect_err("refused").to_string();
        assert!(error.contains("node_timeout") && error.contains("soon"), "{error}");
    }

    #[test]
    fn other_runtimes_have_names_and_absolute_paths() {
        let text = "[runtimes.crun]\npath = \"/usr/bin/crun\"\narguments = [\"--debug\"]";
        let runtimes = read(text, &[]).expect("settings").runtimes;
        assert_eq!(runtimes["crun"].program, Path::new("/usr/bin/crun"));
        assert_eq!(runtimes["crun"].arguments, ["--debug"]);
        for (name, path) in [("stack", "/usr/bin/crun"), ("crun", "crun")] {
            let error = read(&format!("[runtimes.{name}]\npath = \"{path}\""), &[]).expect_err("refused").to_string();
            assert!(error.contains(&format!("runtimes.{name}")) && error.contains(path), "{error}");
        }
    }

    #[test]
    fn ids_of_user_namespaces_are_no_users_of_the_host() {
        assert_eq!(read("", &[]).expect("settings").users, UserNamespaces::default());
        let users = read("[user_namespaces]\nby_default = true\nfirst = 300000", &[]).expect("settings").users;
        assert!(users.by_default);
        assert_eq!(users.ids, IdRange { first: 300_000, count: FEWEST_IDS });
        for wrong in ["first = 1000", "count = 1000", "first = 4294950000", "frist = 1000000"] {
            let error = read(&format!("[user_namespaces]\n{wrong}"), &[]).expect_err("refused").to_string();
            assert!(error.contains("first") && error.contains("stackd.toml"), "{error}");
        }
        read("[user_namespaces]\nfirst = 4294901759", &[]).expect("the last id is 4294967294");
    }

    #[test]
    fn images_are_collected_as_the_file_says() {
        let text = "[images]\ncollect_above_percent = 70\ncollect_unused_for = \"1h\"";
        let images = read(text, &[]).expect("settings").images;
        let wanted = ImageCollection { above_percent: 70, down_to_percent: 70, unused_for: Duration::from_secs(3600) };
        assert_eq!(images, wanted);
        assert_eq!(read("", &[]).expect("settings").images, ImageCollection::default());
        for wrong in ["collect_above_percent = 101", "collect_down_to_percent = 86"] {
            let error = read(&format!("[images]\n{wrong}"), &[]).expect_err("refused").to_string();
            assert!(error.contains("collect_above_percent"), "{error}");
        }
    }
}

//! `stack dev`: a cluster on one machine. Each host is a supervisor process with a network, a mount and a UTS namespace,
//! a cgroup and a directory of its own, running the real `stackd`; faults are made from outside, as they come.
//!
//! `plan` decides every name and address (pure), `cluster` makes and removes the whole, `host` one of them; `supervisor` is
//! a host's first process; `cgroups`, `wiring`, `firewall` and `process` speak to the kernel.

mod cgroups;
mod cluster;
mod firewall;
mod host;
mod plan;
mod process;
mod supervisor;
#[cfg(test)]
mod tests;
mod wiring;

use std::future::Future;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use cluster::ClusterError;
pub use host::{HostError, HostState};
pub use plan::{Cluster, Host, Wishes};
pub use supervisor::{Launcher, SupervisorError};

use cgroups::Hierarchies;
use cluster::Place;

/// What went wrong in making the hosts a cluster, told by whoever does it.
pub type SetupError = Box<dyn std::error::Error + Send + Sync>;

/// How hosts that run become a cluster: the rest of the CLI does that through the daemons' sockets.
pub trait ClusterSetup {
    /// Whether a host's daemon answers.
    fn is_ready(&self, host: &Host) -> impl Future<Output = bool>;

    /// Makes a cluster of the hosts, whose daemons all answer, and a context of the CLI for it.
    fn form(&self, cluster: &Cluster) -> impl Future<Output = Result<(), SetupError>>;

    /// Removes the context. There may be none.
    fn forget(&self, cluster: &Cluster) -> impl Future<Output = Result<(), SetupError>>;

    /// The ports of the tasks that run on the hosts.
    fn ports(&self, cluster: &Cluster) -> impl Future<Output = Result<Vec<TaskPort>, SetupError>>;
}

/// A published port of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskPort {
    /// The host that it is on, by name.
    #[serde(skip)]
    pub node: String,
    /// The task's id.
    pub task: String,
    /// `stack/service`.
    pub service: String,
    /// On the host.
    pub published: u16,
    /// In the container.
    pub target: u16,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
}

/// One host in `stack dev ls --format json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedHost {
    /// `node1`, …
    pub name: String,
    /// Where its published ports answer.
    pub address: Ipv4Addr,
    /// For `DOCKER_HOST`.
    pub docker_host: String,
    /// The daemon's own API.
    pub stackd_socket: PathBuf,
    /// What the host does.
    pub state: HostState,
    /// The daemon's process, as this machine numbers it.
    pub pid: Option<i32>,
    /// What its tasks publish.
    pub ports: Vec<TaskPort>,
}

/// Which cluster is meant.
#[derive(Debug, Clone, clap::Args)]
pub struct Which {
    /// The cluster's name
    #[arg(long, default_value = "demo")]
    pub name: String,
    /// Where the cluster is kept [default: /var/lib/stack-dev/NAME]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

impl Which {
    fn directory(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| PathBuf::from(cluster::CLUSTERS).join(&self.name))
    }
}

/// How a listing is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// A cluster on one machine, for trying things out
#[derive(Debug, Clone, clap::Subcommand)]
pub enum DevCommand {
    /// Make a cluster of hosts that are network namespaces, each running stackd
    Up {
        /// Which cluster.
        #[command(flatten)]
        which: Which,
        /// How many hosts
        #[arg(long, default_value_t = 3)]
        nodes: u8,
        /// How many of the hosts are controllers [default: 3 where there are 3 hosts, else 1]
        #[arg(long)]
        controllers: Option<u8>,
        /// A registry to be spoken to without TLS; `gateway:PORT` is this machine as the hosts see it
        #[arg(long, value_name = "HOST:PORT")]
        insecure_registry: Vec<String>,
        /// A setting for every host's stackd.toml, such as heartbeat="500ms"
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Hosts reach each other and this machine, and nothing beyond
        #[arg(long)]
        isolated: bool,
        /// The daemon to run [default: stackd beside this program]
        #[arg(long, value_name = "PATH")]
        stackd: Option<PathBuf>,
        /// How many seconds the daemons may take to be ready
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        timeout: u64,
    },
    /// Remove every trace of a cluster
    Down {
        /// Which cluster.
        #[command(flatten)]
        which: Which,
    },
    /// List the hosts of a cluster
    Ls {
        /// Which cluster.
        #[command(flatten)]
        which: Which,
        /// How to write it
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Cut a host's power, or kill its stackd alone
    Kill {
        /// Which host.
        #[command(flatten)]
        target: Target,
        /// Kill stackd and leave the containers
        #[arg(long)]
        daemon: bool,
    },
    /// Stop all processes of a host where they are
    Pause {
        /// Which host.
        #[command(flatten)]
        target: Target,
    },
    /// Let the processes of a paused host go on
    Resume {
        /// Which host.
        #[command(flatten)]
        target: Target,
    },
    /// Cut a host off from the others
    Partition {
        /// Which host.
        #[command(flatten)]
        target: Target,
    },
    /// Link a host to the others again
    Heal {
        /// Which host.
        #[command(flatten)]
        target: Target,
    },
    /// Switch a host off, if it is on, and on again; or restart its stackd alone
    Restart {
        /// Which host.
        #[command(flatten)]
        target: Target,
        /// Restart stackd and leave the containers
        #[arg(long)]
        daemon: bool,
    },
    /// The first process of a host
    #[command(hide = true)]
    Host {
        /// The cluster's directory
        directory: PathBuf,
        /// The host's name
        host: String,
    },
}

/// Which host is meant.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// The host: node1, node2, …
    pub node: String,
}

/// Why a command of `stack dev` failed.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A program that is run on the hosts.
    #[error("there is no {program} at {}; build it, or name it with --stackd", path.display())]
    NoProgram {
        /// `stackd`, `stack-shim`.
        program: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// This program cannot be found.
    #[error("could not find out where this program is")]
    OwnProgram {
        /// Why.
        source: io::Error,
    },
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Its supervisor.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    /// The answer could not be written.
    #[error("could not write the answer")]
    Write {
        /// Why.
        source: io::Error,
    },
}

impl From<cgroups::CgroupError> for DevError {
    fn from(error: cgroups::CgroupError) -> Self {
        Self::Cluster(error.into())
    }
}

impl From<wiring::WiringError> for DevError {
    fn from(error: wiring::WiringError) -> Self {
        Self::Cluster(error.into())
    }
}

/// Runs a command: the answer goes to standard output, the story to standard error.
///
/// # Errors
/// Why it failed.
pub async fn run<S: ClusterSetup>(command: DevCommand, setup: &S) -> Result<ExitCode, DevError> {
    let program = std::env::current_exe().map_err(|source| DevError::OwnProgram { source })?;
    let launcher = Launcher { program, arguments: vec!["dev".to_owned(), "host".to_owned()] };
    run_with(command, &launcher, setup).await
}

/// The same, with another program as the first process of each host.
///
/// # Errors
/// Why it failed.
pub async fn run_with<S: ClusterSetup>(
    command: DevCommand,
    launcher: &Launcher,
    setup: &S,
) -> Result<ExitCode, DevError> {
    match command {
        DevCommand::Up { which, nodes, controllers, insecure_registry, set, isolated, stackd, timeout } => {
            let beside = |name| launcher.program.with_file_name(name);
            let stackd = stackd.unwrap_or_else(|| beside("stackd"));
            if !stackd.is_file() {
                return Err(DevError::NoProgram { program: "stackd", path: stackd });
            }
            let wishes = Wishes {
                name: which.name.clone(),
                directory: which.directory(),
                nodes,
                controllers: controllers.unwrap_or(if nodes >= 3 { 3 } else { 1 }),
                shim: stackd.with_file_name("stack-shim"),
                stackd,
                insecure_registries: insecure_registry,
                settings: set,
                isolated,
            };
            let made = cluster::up(&wishes, launcher, Duration::from_secs(timeout), setup).await?;
            let hosts: Vec<String> = made.hosts.iter().map(|host| format!("{} {}", host.name, host.address)).collect();
            say(&format!("cluster `{}` is up: {}\n", made.name, hosts.join(", ")), &mut io::stderr())?;
        }
        DevCommand::Down { which } => {
            let removed = cluster::down(&which.directory(), setup).await?;
            let what = if removed { "is removed" } else { "does not exist" };
            say(&format!("cluster `{}` {what}\n", which.name), &mut io::stderr())?;
        }
        DevCommand::Ls { which, format } => {
            let listed = list(&cluster::load(&which.directory())?, setup).await?;
            let text = match format {
                Format::Json => {
                    serde_json::to_string_pretty(&listed)
                        .map_err(|error| DevError::Write { source: io::Error::other(error) })?
                        + "\n"
                }
                Format::Table => table(&listed),
            };
            say(&text, &mut io::stdout())?;
        }
        DevCommand::Kill { target, daemon } => {
            let (_place, cluster) = open(&target)?;
            let host = cluster::find_host(&cluster, &target.node)?;
            if daemon {
                host::end_daemon(host, true)?;
            } else {
                host::power_off(&Hierarchies::find()?, host).await?;
            }
        }
        DevCommand::Pause { target } => freeze(&target, true)?,
        DevCommand::Resume { target } => freeze(&target, false)?,
        DevCommand::Partition { target } => {
            let (_place, cluster) = open(&target)?;
            let host = cluster::find_host(&cluster, &target.node)?;
            host::must_live(&Hierarchies::find()?, host)?;
            wiring::partition(&host.link).await?;
        }
        DevCommand::Heal { target } => {
            let (_place, cluster) = open(&target)?;
            let host = cluster::find_host(&cluster, &target.node)?;
            host::must_live(&Hierarchies::find()?, host)?;
            wiring::heal(&host.link, &cluster.bridge).await?;
        }
        DevCommand::Restart { target, daemon } => {
            let (_place, cluster) = open(&target)?;
            let host = cluster::find_host(&cluster, &target.node)?;
            let hierarchies = Hierarchies::find()?;
            if daemon {
                host::must_live(&hierarchies, host)?;
                host::end_daemon(host, false)?;
                supervisor::start_daemon(host)?;
            } else {
                host::power_off(&hierarchies, host).await?;
                host::boot(&hierarchies, launcher, &cluster, host).await?;
            }
            cluster::wait_ready(host, Duration::from_secs(60), setup).await?;
        }
        DevCommand::Host { directory, host } => {
            let cluster = cluster::load(&directory)?;
            let host = cluster::find_host(&cluster, &host)?;
            supervisor::supervise(&cluster, host)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(target: &Target) -> Result<(Place, Cluster), DevError> {
    let place = Place::existing(&target.which.directory())?;
    let cluster = place.load()?;
    Ok((place, cluster))
}

fn freeze(target: &Target, frozen: bool) -> Result<(), DevError> {
    let (_place, cluster) = open(target)?;
    let host = cluster::find_host(&cluster, &target.node)?;
    let hierarchies = Hierarchies::find()?;
    host::must_live(&hierarchies, host)?;
    Ok(hierarchies.freeze(&host.cgroup, frozen)?)
}

/// The hosts of a cluster as they are now.
///
/// # Errors
/// When the kernel cannot be asked. That the cluster cannot tell its ports is a warning.
pub async fn list<S: ClusterSetup>(cluster: &Cluster, setup: &S) -> Result<Vec<ListedHost>, DevError> {
    let hierarchies = Hierarchies::find()?;
    let ports = match setup.ports(cluster).await {
        Ok(ports) => ports,
        Err(error) => {
            tracing::warn!("the cluster does not tell its ports: {error}");
            Vec::new()
        }
    };
    let mut listed = Vec::new();
    for host in &cluster.hosts {
        listed.push(ListedHost {
            name: host.name.clone(),
            address: host.address,
            docker_host: format!("unix://{}", host.docker_socket().display()),
            stackd_socket: host.stackd_socket(),
            state: host::state(&hierarchies, host).await?,
            pid: host::daemon(host).map(|daemon| daemon.pid),
            ports: ports.iter().filter(|port| port.node == host.name).cloned().collect(),
        });
    }
    Ok(listed)
}

fn table(listed: &[ListedHost]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(["NAME", "ADDRESS", "STATE", "STACKD", "PORTS"]);
    for host in listed {
        let ports: Vec<String> =
            host.ports.iter().map(|port| format!("{}->{}/{}", port.published, port.target, port.protocol)).collect();
        table.add_row([
            host.name.clone(),
            host.address.to_string(),
            host.state.as_str().to_owned(),
            host.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            ports.join(", "),
        ]);
    }
    format!("{}\n", table.trim_fmt())
}

fn say(text: &str, to: &mut impl Write) -> Result<(), DevError> {
    to.write_all(text.as_bytes()).and_then(|()| to.flush()).map_err(|source| DevError::Write { source })
}

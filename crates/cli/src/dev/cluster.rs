//! A cluster on one machine as a whole: its intent on disk, how it comes to be and how every trace of it goes.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::cgroups::{CgroupError, Hierarchies};
use super::firewall;
use super::host::{self, HostError};
use super::plan::{CGROUP, Cluster, Host, WishError, Wishes, choose_subnet, decide};
use super::supervisor::Launcher;
use super::wiring::{self, WiringError};
use super::{ClusterSetup, SetupError};

/// Locked while a subnet is chosen and while this machine's forwarding is set, by one cluster at a time. It is a directory
/// that every machine has, so that no file of ours stays behind.
const MACHINE_LOCK: &str = "/run";
/// Where clusters are kept unless another place is named.
pub const CLUSTERS: &str = "/var/lib/stack-dev";
/// Between two looks whether a daemon is ready.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why a cluster could not be made, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A wish that cannot be fulfilled.
    #[error(transparent)]
    Wish(#[from] WishError),
    /// It is there.
    #[error("the cluster `{name}` exists in {}; `stack dev down` removes it", directory.display())]
    Exists {
        /// Its name.
        name: String,
        /// Its directory.
        directory: PathBuf,
    },
    /// The directory holds something else.
    #[error("{} is not empty and holds no cluster; choose another directory with --state-dir", directory.display())]
    Foreign {
        /// The directory.
        directory: PathBuf,
    },
    /// It is not there.
    #[error("there is no cluster in {}; `stack dev up` makes one", directory.display())]
    Missing {
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// No such host.
    #[error("the cluster `{cluster}` has no host `{host}`; it has {known}")]
    NoHost {
        /// The cluster.
        cluster: String,
        /// What was given.
        host: String,
        /// What there is.
        known: String,
    },
    /// Only root makes namespaces, links and cgroups.
    #[error("`stack dev` makes network namespaces and cgroups, for which it must be root; use sudo")]
    NotRoot,
    /// No free addresses.
    #[error("every subnet of 10.64.0.0/10 meets a route of this machine")]
    NoSubnet,
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
    /// The record cannot be understood.
    #[error("could not understand {}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A daemon ended before it was ready.
    #[error("stackd of {host} ended before it was ready; the last lines it wrote:\n{tail}")]
    DaemonEnded {
        /// The host.
        host: String,
        /// The end of its log.
        tail: String,
    },
    /// A daemon takes too long.
    #[error("stackd of {host} is not ready after {seconds} s; the last lines it wrote:\n{tail}")]
    DaemonSlow {
        /// The host.
        host: String,
        /// How long was waited.
        seconds: u64,
        /// The end of its log.
        tail: String,
    },
    /// The hosts run but are no cluster.
    #[error("the hosts run, but they could not be made a cluster")]
    Setup {
        /// Why.
        source: SetupError,
    },
    /// A host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Links.
    #[error(transparent)]
    Wiring(#[from] WiringError),
    /// Several things of a tear-down.
    #[error("the cluster `{name}` could not be removed whole; run it again when the cause is gone:\n{failures}")]
    Remains {
        /// The cluster.
        name: String,
        /// A line for each failure.
        failures: String,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ClusterError {
    let path = path.to_owned();
    move |source| ClusterError::File { what, path, source }
}

/// A cluster's directory, where its record is, and the lock that one command at a time has.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    _lock: Flock<File>,
}

fn lock(path: &Path) -> Result<Flock<File>, ClusterError> {
    let file = File::open(path).map_err(failed("open", path))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| failed("lock", path)(errno.into()))
}

fn record_path(directory: &Path) -> PathBuf {
    directory.join("cluster.json")
}

impl Place {
    /// The place of a cluster that exists.
    ///
    /// # Errors
    /// When there is none.
    pub fn existing(directory: &Path) -> Result<Self, ClusterError> {
        if !record_path(directory).exists() {
            return Err(ClusterError::Missing { directory: directory.to_owned() });
        }
        Ok(Self { directory: directory.to_owned(), _lock: lock(directory)? })
    }

    /// A new place, for a cluster that does not exist.
    ///
    /// # Errors
    /// When there is one, or something else.
    pub fn new(wishes: &Wishes) -> Result<Self, ClusterError> {
        let directory = &wishes.directory;
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("make", directory))?;
        let place = Self { directory: directory.clone(), _lock: lock(directory)? };
        if record_path(directory).exists() {
            return Err(ClusterError::Exists { name: wishes.name.clone(), directory: directory.clone() });
        }
        let entries = fs::read_dir(directory).map_err(failed("read", directory))?;
        if entries.flatten().next().is_some() {
            return Err(ClusterError::Foreign { directory: directory.clone() });
        }
        Ok(place)
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn load(&self) -> Result<Cluster, ClusterError> {
        load(&self.directory)
    }

    fn save(&self, cluster: &Cluster) -> Result<(), ClusterError> {
        let path = record_path(&self.directory);
        let temporary = path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(cluster).map_err(io::Error::other)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(failed("write", &path))
    }
}

/// Reads the record of a cluster that others may be changing.
///
/// # Errors
/// When there is none, or it cannot be read or understood.
pub fn load(directory: &Path) -> Result<Cluster, ClusterError> {
    let path = record_path(directory);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ClusterError::Missing { directory: directory.to_owned() });
        }
        other => other.map_err(failed("read", &path))?,
    };
    serde_json::from_slice(&text).map_err(|source| ClusterError::Record { path, source })
}

/// The host of a name, or an error that names those there are.
///
/// # Errors
/// When there is none.
pub fn find_host<'a>(cluster: &'a Cluster, name: &str) -> Result<&'a Host, ClusterError> {
    cluster.host(name).ok_or_else(|| ClusterError::NoHost {
        cluster: cluster.name.clone(),
        host: name.to_owned(),
        known: cluster.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", "),
    })
}

/// Makes a cluster, or leaves nothing of it.
///
/// # Errors
/// Why it could not be made.
pub async fn up<S: ClusterSetup>(
    wishes: &Wishes,
    launcher: &Launcher,
    patience: Duration,
    setup: &S,
) -> Result<Cluster, ClusterError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(ClusterError::NotRoot);
    }
    // Refused before anything is made.
    decide(wishes, std::net::Ipv4Addr::new(10, 64, 0, 0))?;
    let hierarchies = Hierarchies::find()?;
    let place = Place::new(wishes)?;
    let made = make(&place, wishes, &hierarchies, launcher, patience, setup).await;
    if made.is_err() {
        match place.load() {
            Ok(cluster) => {
                if let Err(error) = remove(&cluster, &hierarchies, setup).await {
                    tracing::warn!("{error}");
                }
            }
            // Nothing was decided, so there is nothing but the directory.
            Err(_) => remove_directory(&wishes.directory).unwrap_or_else(|error| tracing::warn!("{error}")),
        }
    }
    made
}

async fn make<S: ClusterSetup>(
    place: &Place,
    wishes: &Wishes,
    hierarchies: &Hierarchies,
    launcher: &Launcher,
    patience: Duration,
    setup: &S,
) -> Result<Cluster, ClusterError> {
    let cluster = {
        let _machine = lock(Path::new(MACHINE_LOCK))?;
        let draw = std::process::id().wrapping_mul(0x9e37_79b9) >> 8;
        let subnet = choose_subnet(&wiring::routed().await?, draw).ok_or(ClusterError::NoSubnet)?;
        let mut cluster = decide(wishes, subnet)?;
        cluster.forwarding_was_off = cluster.table.is_some() && !wiring::forwards()?;
        place.save(&cluster)?;
        wiring::make_bridge(&cluster).await?;
        if let Some(table) = &cluster.table {
            wiring::let_out(&cluster, table).await?;
        }
        for warning in firewall::open(&cluster).await? {
            tracing::warn!("{warning}");
        }
        cluster
    };
    for host in &cluster.hosts {
        host::boot(hierarchies, launcher, &cluster, host).await?;
    }
    for host in &cluster.hosts {
        wait_ready(host, patience, setup).await?;
    }
    setup.form(&cluster).await.map_err(|source| ClusterError::Setup { source })?;
    Ok(cluster)
}

/// Waits until a host's daemon answers.
///
/// # Errors
/// When it ends or takes too long.
pub async fn wait_ready<S: ClusterSetup>(host: &Host, patience: Duration, setup: &S) -> Result<(), ClusterError> {
    let deadline = tokio::time::Instant::now() + patience;
    let tail = || host::tail(&host.log_directory().join("stackd.log"));
    loop {
        if setup.is_ready(host).await {
            return Ok(());
        }
        if host::daemon(host).is_none() {
            return Err(ClusterError::DaemonEnded { host: host.name.clone(), tail: tail() });
        }
        if tokio::time::Instant::now() > deadline {
            let seconds = patience.as_secs();
            return Err(ClusterError::DaemonSlow { host: host.name.clone(), seconds, tail: tail() });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Removes every trace of a cluster. One that does not exist is no error.
///
/// # Errors
/// Everything that could not be removed; the rest was.
pub async fn down<S: ClusterSetup>(directory: &Path, setup: &S) -> Result<bool, ClusterError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(ClusterError::NotRoot);
    }
    let place = match Place::existing(directory) {
        Ok(place) => place,
        Err(ClusterError::Missing { .. }) => {
            // An `up` that was killed before it had decided leaves an empty directory or a torn record.
            let entries: Vec<PathBuf> =
                fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            if entries.iter().all(|path| path.extension().is_some_and(|end| end == "new")) {
                remove_directory(directory)?;
            }
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let cluster = place.load()?;
    remove(&cluster, &Hierarchies::find()?, setup).await?;
    Ok(true)
}

async fn remove<S: ClusterSetup>(cluster: &Cluster, hierarchies: &Hierarchies, setup: &S) -> Result<(), ClusterError> {
    let mut failures: Vec<ClusterError> = Vec::new();
    for host in &cluster.hosts {
        failures.extend(host::power_off(hierarchies, host).await.err().map(ClusterError::from));
    }
    failures.extend(wiring::remove_link(&cluster.bridge).await.err().map(ClusterError::from));
    failures.extend(firewall::close(cluster).await.err().map(ClusterError::from));
    failures.extend(let_nobody_out(cluster).await.err());
    failures.extend(hierarchies.remove(&cluster.cgroup()).err().map(ClusterError::from));
    hierarchies.remove_if_empty(Path::new(CGROUP));
    failures.extend(setup.forget(cluster).await.err().map(|source| ClusterError::Setup { source }));
    failures.extend(unmount_below(&cluster.directory).err());
    // The record goes last, and only when nothing else is left that it could tell of.
    if failures.is_empty() {
        failures.extend(remove_directory(&cluster.directory).err());
    }
    if failures.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = failures.iter().map(|failure| format!("- {}", with_causes(failure))).collect();
    Err(ClusterError::Remains { name: cluster.name.clone(), failures: lines.join("\n") })
}

async fn let_nobody_out(cluster: &Cluster) -> Result<(), ClusterError> {
    let Some(table) = &cluster.table else { return Ok(()) };
    let _machine = lock(Path::new(MACHINE_LOCK))?;
    wiring::remove_table(table).await?;
    if cluster.forwarding_was_off && !wiring::others_exist(cluster).await? {
        wiring::set_forwarding(false)?;
    }
    Ok(())
}

/// An error and its causes in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What hosts mount is in their own namespaces; what a person mounted for a look would be removed with the directory.
fn unmount_below(directory: &Path) -> Result<(), ClusterError> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    // The mount point is field 5 of proc_pid_mountinfo(5).
    let mut points: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(directory))
        .collect();
    points.reverse();
    for point in points {
        nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH)
            .map_err(|errno| failed("unmount", &point)(errno.into()))?;
    }
    Ok(())
}

/// Removes a cluster's directory, its record last.
fn remove_directory(directory: &Path) -> Result<(), ClusterError> {
    let record = record_path(directory);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed("read", directory))?,
    };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| *path != record) {
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        removed.map_err(failed("remove", &path))?;
    }
    fs::remove_dir_all(directory).map_err(failed("remove", directory))?;
    if directory.parent() == Some(Path::new(CLUSTERS)) {
        // It is not empty while there are other clusters.
        let _ = fs::remove_dir(CLUSTERS);
    }
    Ok(())
}

//! Pure. The launch document: everything that a shim needs to know, decided by the engine. The shim makes no choices.
//!
//! It lies in the container's run directory, readable by root alone, because it holds the container's environment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The name of the launch document in the run directory.
pub const LAUNCH_FILE: &str = "launch.json";
/// The name of the file in the run directory that tells hooks, in the form of the OCI runtime specification, where the
/// container's root is.
pub const BUNDLE_FILE: &str = "config.json";
/// The version of that specification.
pub const RUNTIME_VERSION: &str = "1.2.0";
/// The name of the shim's socket in the run directory.
pub const SOCKET_FILE: &str = "shim.sock";
/// The name of the file in the run directory that gets what the shim itself has to complain about.
pub const COMPLAINTS_FILE: &str = "shim.err";

/// One start of one container. Written by the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The container's identifier, for the shim's own messages.
    pub id: String,
    /// Which start of the container this is; the exit record repeats it.
    pub attempt: u64,
    /// Namespaces that the container has of its own.
    pub namespaces: Namespaces,
    /// Namespaces of other containers that it joins.
    #[serde(default)]
    pub joined: Joined,
    /// Its user namespace; `None`: the host's.
    #[serde(default)]
    pub users: Option<Users>,
    /// Where its processes are accounted.
    pub cgroups: Cgroups,
    /// Its root file system.
    pub root: Root,
    /// Further file systems, in the order in which they are mounted.
    pub mounts: Vec<Mount>,
    /// Nodes in `/dev`.
    pub devices: Vec<DeviceNode>,
    /// Programs of the host to run when all file systems are mounted.
    #[serde(default)]
    pub hooks: Vec<Hook>,
    /// Symbolic links to make: path in the container, target.
    pub symlinks: Vec<(String, String)>,
    /// Paths that must not be seen.
    pub masked_paths: Vec<String>,
    /// Paths that must not be written.
    pub read_only_paths: Vec<String>,
    /// Of the UTS namespace.
    pub hostname: Option<String>,
    /// Of the UTS namespace.
    pub domainname: Option<String>,
    /// Namespaced kernel parameters, with dots.
    pub sysctls: BTreeMap<String, String>,
    /// The first process.
    pub process: Process,
    /// A small init process runs as process 1 and starts `process`.
    pub init: bool,
    /// Standard input is a pipe that the shim holds open, not `/dev/null`.
    pub stdin_open: bool,
    /// Of the terminal at the start, if there is one.
    #[serde(default)]
    pub terminal_size: Option<crate::protocol::TerminalSize>,
    /// Where output goes; `None` discards it.
    pub log: Option<LogFiles>,
    /// Where the exit record is written. Absolute.
    pub exit_file: PathBuf,
    /// Another program makes the container, from the bundle in its directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<OciRuntime>,
}

/// A program that makes containers by the OCI runtime specification, with the command line of runc(8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciRuntime {
    /// The program. Absolute.
    pub program: PathBuf,
    /// Arguments of its own, before the command's name.
    pub arguments: Vec<String>,
    /// Where its state, its messages and the container's bundle are. Absolute; below the container's run directory.
    pub directory: PathBuf,
    /// How it calls the container.
    pub id: String,
}

/// The directory of the bundle in that of the runtime. The engine writes its `config.json`; who the user is, only whoever
/// has the image mounted can say.
pub const BUNDLE: &str = "bundle";

/// Which namespaces are the container's own; the others are the shim's, that is to say the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Processes.
    pub pid: bool,
    /// Network.
    pub network: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// View of the control groups.
    pub cgroup: bool,
}

/// Namespaces of other containers, each by a process in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Processes.
    pub pid: Option<Peer>,
    /// Network.
    pub network: Option<Peer>,
    /// System V IPC and POSIX message queues.
    pub ipc: Option<Peer>,
}

/// The user namespace of a container, which owns all others that it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// Who its users and groups are on the host.
    pub ids: IdRange,
    /// The container whose user namespace it is, as it joins others of that container's namespaces.
    pub shared: Option<Peer>,
    /// Directories of the root's layers. Their files belong in the container to whom they belong on the disk.
    pub layers: Vec<PathBuf>,
}

/// Ids of the host, for users and groups alike, which in a container are those from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The one that is root in the container.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl IdRange {
    /// An id of the container on the host, if it has one.
    #[must_use]
    pub fn on_host(self, id: u32) -> Option<u32> {
        if id < self.count { self.first.checked_add(id) } else { None }
    }

    /// An id of the host in the container, if it has one.
    #[must_use]
    pub fn in_container(self, id: u32) -> Option<u32> {
        id.checked_sub(self.first).filter(|id| *id < self.count)
    }
}

/// The first process of another container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// In the shim's pid namespace.
    pub pid: i32,
    /// When it was started, field 22 of /proc/PID/stat: the pid of another process is refused.
    pub started: u64,
}

/// The control groups, made by the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroups {
    /// Directories of version 1 hierarchies that the first process joins.
    pub joined: Vec<PathBuf>,
    /// The directory of the version 2 hierarchy that it is born in.
    pub unified: Option<PathBuf>,
    /// The file that counts its kills for want of memory.
    pub oom: Option<OomCounter>,
}

/// A file with a line `oom_kill N`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomCounter {
    /// `memory.events` (version 2) or `memory.oom_control` (version 1).
    pub path: PathBuf,
}

/// The root file system: an overlay, mounted where only the container sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Read-only layers, the topmost first.
    pub lower: Vec<PathBuf>,
    /// The container's own layer.
    pub upper: PathBuf,
    /// What overlayfs needs beside it.
    pub work: PathBuf,
    /// An empty directory that it is mounted on, in the container's mount namespace.
    pub mountpoint: PathBuf,
    /// Mounted read-only when everything is in place.
    pub read_only: bool,
    /// What SELinux takes all its files for, and those of whatever else is mounted for the container alone; `None`: what it
    /// takes them for anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// One file system in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute, in the container. Made if absent.
    pub target: String,
    /// What is mounted.
    pub source: MountSource,
    /// `MOUNT_ATTR_*` bits, see mount_setattr(2).
    pub attributes: u64,
    /// The attributes are those of the mount itself, and not of what is mounted below its source.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub topmost_only: bool,
    /// How mounts made later on either side travel.
    pub propagation: Propagation,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A path of the host.
    Bind {
        /// Absolute.
        path: PathBuf,
        /// A path within `path`, which it cannot leave.
        subpath: Option<String>,
        /// With the mounts below it.
        recursive: bool,
        /// If it is an empty directory, first copy into it what the image has at the target.
        copy_up: bool,
        /// In a user namespace, its files belong in the container to whom they belong here.
        #[serde(default)]
        mapped: bool,
    },
    /// The files of an image, which nobody can write to.
    Image {
        /// Its layers, the topmost first; at least one.
        lower: Vec<PathBuf>,
        /// A path within the image, which it cannot leave.
        subpath: Option<String>,
    },
    /// What another container has at a path where only its shim can have mounted something.
    OfPeer {
        /// The other container.
        peer: Peer,
        /// Absolute, in that container.
        path: String,
    },
    /// A new file system.
    Filesystem {
        /// As in /proc/filesystems.
        kind: String,
        /// Shown in /proc/mounts.
        source: String,
        /// For fsconfig(2); those without a value are flags.
        options: Vec<(String, Option<String>)>,
        /// The target must not be reached through a symbolic link, which an image could plant.
        strict_target: bool,
    },
}

/// How mounts travel, see mount_namespaces(7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// They do not.
    #[default]
    Private,
    /// From the host to the container.
    Slave,
    /// Both ways.
    Shared,
}

/// A device node to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Absolute, in the container.
    pub path: String,
    /// Which table the numbers are of.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A program of the host that is run while the container is made (`createContainer` of the OCI runtime specification).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute, on the host.
    pub path: String,
    /// Its own name, and its arguments.
    pub arguments: Vec<String>,
    /// `KEY=value`; it has no others.
    pub environment: Vec<String>,
    /// It is killed, and the start fails, when it takes longer.
    pub timeout_seconds: Option<u32>,
}

/// What a device node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Character device.
    Character,
    /// Block device.
    Block,
}

/// A process to run in the container: the first one, or one of an exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The program, looked up in the container's `PATH` unless it has a `/`, and its arguments.
    pub arguments: Vec<String>,
    /// `KEY=value`.
    pub environment: Vec<String>,
    /// Absolute, in the container.
    pub working_dir: String,
    /// Make the working directory if it is absent.
    pub make_working_dir: bool,
    /// `user`, `user:group`, `uid:gid`; empty is root. Names are looked up in the container.
    pub user: String,
    /// Further groups, by name or number.
    pub groups: Vec<String>,
    /// What it may do.
    pub capabilities: Capabilities,
    /// A setuid program gains nothing.
    pub no_new_privileges: bool,
    /// Resource limits.
    pub limits: Vec<Limit>,
    /// From -1000 to 1000; `None` leaves what the shim has.
    pub oom_score_adj: Option<i32>,
    /// A terminal is its standard input and output.
    pub terminal: bool,
    /// A compiled seccomp filter: an array of `struct sock_filter`.
    pub seccomp: Option<PathBuf>,
    /// What AppArmor confines it by.
    #[serde(default)]
    pub confinement: Option<Confinement>,
    /// Its SELinux label; `None`: what the policy makes of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// A profile of AppArmor for a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Its name, which the kernel knows.
    pub profile: String,
    /// From when on.
    pub moment: ConfinementMoment,
}

/// From when on a process is under its profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfinementMoment {
    /// Before it becomes its user. The profile must let it do that, and run its program. Unlike the other it does not make the
    /// kernel forget that the process shall end with its parent.
    Now,
    /// With its program.
    Program,
}

/// Capability sets as bit masks, bit N for the capability of number N (linux/capability.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The most that it or its children can ever have.
    pub bounding: u64,
    /// What it has when it is root, and what it may take.
    pub permitted: u64,
    /// Kept over the execution of programs by a user other than root.
    pub ambient: u64,
}

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// `RLIMIT_*` as a number.
    pub resource: u32,
    /// For messages: `nofile`.
    pub name: String,
    /// In force.
    pub soft: u64,
    /// To which a process may raise it.
    pub hard: u64,
}

/// The log files of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFiles {
    /// Where they lie. Absolute.
    pub directory: PathBuf,
    /// A file that has reached this many bytes is followed by the next one.
    pub max_bytes: u64,
    /// So many files are kept, the one being written included. At least 1.
    pub max_files: u32,
    /// Files that are full are compressed.
    #[serde(default)]
    pub compress: bool,
    /// Output that the disk is too slow for waits in so many bytes of memory and is lost beyond them; without it, the
    /// container waits for the disk.
    #[serde(default)]
    pub buffer_bytes: Option<u64>,
}

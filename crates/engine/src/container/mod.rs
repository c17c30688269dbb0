//! Containers: `config` is what a caller asks, `spec` decides what that means (pure), `launch` and `supervise` do it with
//! one `stack-shim` for each container, `record` keeps it on disk.

mod attach;
pub mod capability;
mod config;
mod defaults;
mod errors;
pub(crate) mod exec;
mod execute;
mod files;
mod health;
mod image_roots;
mod launch;
pub mod oci;
mod phases;
mod probe;
mod record;
mod restart;
mod roots;
mod runtimes;
mod shim;
mod signals;
mod spec;
mod users;

pub use attach::{AttachedInput, AttachedOutput, Attachment, Chunk};
pub(crate) use attach::{Waiting, connect as attach};
pub use config::{
    AppArmorChoice, BlkioLimit, BlkioThrottle, BlkioWeight, ContainerConfig, ContainerId, ContainerIdError,
    ContainerMount, ContainerMountSource, DeviceMapping, Healthcheck, ImageDefaults, Logging, NamespaceMode,
    NetworkMode, Resources, SeccompChoice, TerminalSize, Ulimit, UserNamespaceMode,
};
pub(crate) use defaults::image_defaults;
pub use errors::{
    AttachError, ChangeError, CreateError, DescribeError, ExecError, KillError, OpenError, PauseError, RecordError,
    RemoveError, RenameError, RestartError, StartError, StopError, UsersError, WaitError,
};
pub use exec::{Exec, ExecConfig, ExecId, ExecIdError, ExecState};
pub use execute::{ExecCommand, ExecOutcome};
pub(crate) use execute::{request as exec_request, run as run_command, started};
pub use health::{Health, HealthState, ProbeOutcome};
pub(crate) use image_roots::ImageRoots;
pub(crate) use launch::{Launched, Launcher, full_text as text_of, guest_names, name_client};
pub(crate) use phases::Phases;
pub(crate) use probe::Prober;
pub(crate) use record::{MountedImage, Record, RecordedState, Records, exit_status, is_own_want};
pub use restart::RestartPolicy;
pub(crate) use restart::pause_after;
pub use roots::{BoxFuture, OverlayDirectories, RootError, RootImage, Roots};
pub use runtimes::{RuntimeProgram, Runtimes};
pub(crate) use shim::{Shim, ShimProgram, is_absent, kill_shims_of, spawn as spawn_shim, try_user_namespace};
pub use signals::number as signal_number;
pub use spec::{ContainerVolume, FoundDevice, SpecError, check, stop_signal, volumes};
pub(crate) use spec::{arguments, environment, mount_attribute};
pub use stack_shim::launch::IdRange;
pub use stack_shim::protocol::Attach;
pub use users::{FEWEST_IDS, LOWEST_ID, UserNamespaces};
pub(crate) use users::{check as check_users, is_wanted as is_user_namespace_wanted, joins_others};

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A container as it is now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Container {
    /// Unique on the host.
    pub id: ContainerId,
    /// For people.
    pub name: String,
    /// The image's and its own.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Of the image's manifest.
    pub image_digest: String,
    /// Of the manifests of images that are mounted in it, by where they are mounted.
    pub mounted_images: std::collections::BTreeMap<String, String>,
    /// As it was asked for.
    pub config: ContainerConfig,
    /// Milliseconds since the Unix epoch.
    pub created_at: u64,
    /// Where it is in its life.
    pub state: ContainerState,
    /// `None` when it has no health check.
    pub health: Option<HealthState>,
    /// On its networks.
    pub addresses: Vec<IpAddr>,
    /// Ports that are published now.
    pub ports: Vec<crate::network::PortBinding>,
    /// How often it was started.
    pub starts: u64,
    /// How often its policy has started it again since somebody did.
    pub restarts: u32,
    /// Its processes are frozen.
    pub paused: bool,
    /// It has ended, and will be started again.
    pub restarting: bool,
    /// Its labels of SELinux, where containers have some.
    pub selinux: Option<crate::selinux::SelinuxLabels>,
    /// What could not be had on this host and is done without.
    pub notes: Vec<String>,
}

impl Container {
    /// The images that it needs, by their digests: the one that it was made of, and those that are mounted in it.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.image_digest.as_str()).chain(self.mounted_images.values().map(String::as_str))
    }

    /// Whether it needs the image with this digest.
    #[must_use]
    pub fn needs_image(&self, digest: &str) -> bool {
        self.images().any(|own| own == digest)
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Never started.
    Created,
    /// On its way.
    Starting,
    /// Its program runs.
    Running {
        /// On the host.
        pid: i32,
        /// Milliseconds since the Unix epoch.
        started_at: u64,
    },
    /// It has ended, or could not be started.
    Exited(ExitStatus),
    /// Being removed.
    Removing,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// The exit code; 128 and the number after a signal; 125 to 128 as Docker has them when it could not be started.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed a process of it for want of memory.
    pub oom: bool,
    /// Milliseconds since the Unix epoch.
    pub started_at: Option<u64>,
    /// Milliseconds since the Unix epoch.
    pub finished_at: u64,
    /// Why it could not be started, or why the code is not known.
    pub error: Option<String>,
}

/// What an event says of its container, also when that is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EventSubject {
    /// For people.
    pub name: String,
    /// The image as it was asked for.
    pub image: String,
    /// The image's labels and its own.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// It was made.
    Created,
    /// Its program runs.
    Started,
    /// It has ended or could not be started.
    Exited(ExitStatus),
    /// Its health changed.
    Health(Health),
    /// It is gone.
    Removed,
    /// Somebody sent it a signal.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// Somebody has stopped it.
    Stopped,
    /// Somebody has stopped and started it.
    Restarted,
    /// Its processes are frozen.
    Paused,
    /// They go on.
    Unpaused,
    /// It has another name.
    Renamed {
        /// The one before.
        before: String,
    },
    /// Its limits or its policy were changed.
    Updated,
    /// Files of it were copied out.
    Archived,
    /// Files were copied into it.
    Extracted,
    /// Its whole file system was copied out.
    Exported,
    /// An image was made of it.
    Committed {
        /// The image's identifier.
        image: String,
        /// What the image was called.
        name: String,
    },
    /// A client is attached to its streams.
    Attached,
    /// A client has left them by its detach keys.
    Detached,
    /// Its terminal has another size.
    Resized(TerminalSize),
    /// A further process of it was made.
    ExecCreated {
        /// Which.
        exec: ExecId,
        /// The program and its arguments.
        command: String,
    },
    /// A further process of it runs.
    ExecStarted {
        /// Which.
        exec: ExecId,
        /// The program and its arguments.
        command: String,
    },
    /// A client has left the streams of a further process by its detach keys.
    ExecDetached {
        /// Which.
        exec: ExecId,
    },
    /// A further process of it has ended.
    ExecEnded {
        /// Which.
        exec: ExecId,
        /// The exit code, where it is known.
        code: Option<i32>,
    },
}

//! Pure. What can go wrong with containers, one enum for each operation.

use std::io;
use std::path::PathBuf;

use stack_shim::protocol::{Failure, FailureKind};

use super::config::{ContainerId, ContainerIdError};
use super::exec::ExecId;
use super::roots::RootError;
use super::spec::SpecError;
use crate::apparmor::AppArmorError;
use crate::cdi::CdiError;
use crate::cgroup::CgroupError;
use crate::dns::ServeError;
use crate::network;
use crate::overlay::{OverlayAttachError, OverlayOpenError};
use crate::seccomp::FilterError;
use crate::selinux::{RelabelError, SelinuxError, SelinuxRequired};
use crate::volume::VolumeError;

/// The records on disk.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The disk.
    #[error("could not {what} {path}")]
    Disk {
        /// `make`, `read`, `write`, `move`, `remove`.
        what: &'static str,
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why the engine could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory.
    #[error("could not make {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program of the shim.
    #[error("could not take the shim's program {path}: install stack-shim there or say where it is")]
    ShimProgram {
        /// Where it was looked for.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A container's shim could not be asked.
    #[error("could not ask the shim of container {id}")]
    Shim {
        /// Whose.
        id: ContainerId,
        /// Why.
        source: io::Error,
    },
    /// The containers' records.
    #[error("could not open the containers")]
    Records(#[from] RecordError),
    /// Containers must have labels of SELinux, and cannot.
    #[error("could not label containers for SELinux")]
    Selinux(#[from] SelinuxRequired),
    /// The control groups.
    #[error("could not find the control groups")]
    Cgroups(#[from] CgroupError),
    /// The networks between hosts.
    #[error("could not open the networks between hosts")]
    Overlay(#[from] OverlayOpenError),
    /// The networks.
    #[error("could not open the networks")]
    Networks(#[from] network::OpenError),
    /// The images.
    #[error("could not open the images")]
    Images(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a container could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The id.
    #[error(transparent)]
    Id(#[from] ContainerIdError),
    /// There is one already.
    #[error("there is a container {id} already")]
    Exists {
        /// Which.
        id: ContainerId,
    },
    /// Another one has its name.
    #[error(
        "the name {name} is already in use by container {other}: remove or rename that one, or choose another name"
    )]
    NameTaken {
        /// What was asked for.
        name: String,
        /// Who has it.
        other: ContainerId,
    },
    /// The configuration.
    #[error("the configuration of container {id} cannot be run")]
    Spec {
        /// Which.
        id: ContainerId,
        /// Why.
        source: SpecError,
    },
    /// The profile of AppArmor.
    #[error("container {id} cannot be confined as it asks")]
    AppArmor {
        /// Which.
        id: ContainerId,
        /// Why.
        source: AppArmorError,
    },
    /// The labels of SELinux.
    #[error("container {id} cannot be labelled as it asks")]
    Selinux {
        /// Which.
        id: ContainerId,
        /// Why.
        source: SelinuxError,
    },
    /// The image or the snapshot.
    #[error("no root file system for container {id}")]
    Root {
        /// Which.
        id: ContainerId,
        /// Why.
        source: RootError,
    },
    /// The file system of the host cannot limit what a container writes.
    #[error(transparent)]
    SizeLimit(RootError),
    /// The disk.
    #[error("could not record container {id}")]
    Record {
        /// Which.
        id: ContainerId,
        /// Why.
        source: RecordError,
    },
}

impl CreateError {
    /// Whether the same attempt may succeed later without a change of the configuration.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Id(_)
            | Self::Exists { .. }
            | Self::NameTaken { .. }
            | Self::Spec { .. }
            | Self::AppArmor { .. }
            | Self::Selinux { .. } => false,
            Self::Root { source, .. } | Self::SizeLimit(source) => source.retryable,
            Self::Record { .. } => true,
        }
    }
}

/// Why a container could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is none.
    #[error("there is no container {id}")]
    Missing {
        /// Which.
        id: ContainerId,
    },
    /// Nobody takes its log.
    #[error("failed to initialize logging driver")]
    Logging {
        /// Why.
        source: crate::logs::delivery::SendError,
    },
    /// It runs already, or is being removed.
    #[error("container {id} is {state}")]
    State {
        /// Which.
        id: ContainerId,
        /// `running`, `being removed`.
        state: &'static str,
    },
    /// The configuration.
    #[error("the configuration of container {id} cannot be run")]
    Spec {
        /// Which.
        id: ContainerId,
        /// Why.
        source: SpecError,
    },
    /// The source of a bind mount.
    #[error("container {id}: there is no {path} on this host: make it, or correct the mount")]
    MountSource {
        /// Which container.
        id: ContainerId,
        /// Which path.
        path: PathBuf,
    },
    /// A device of the host.
    #[error("container {id}: error gathering device information while adding custom device \"{path}\": {}", no_device(cause.as_ref()))]
    Device {
        /// Which container.
        id: ContainerId,
        /// Which device.
        path: String,
        /// Why it cannot be looked at; `None`: it is no device.
        cause: Option<io::Error>,
    },
    /// A device by its name.
    #[error("container {id} did not get its devices")]
    Cdi {
        /// Which container.
        id: ContainerId,
        /// Why.
        source: CdiError,
    },
    /// A volume.
    #[error("container {id} did not get its volumes")]
    Volume {
        /// Which container.
        id: ContainerId,
        /// Why.
        source: VolumeError,
    },
    /// The seccomp filter.
    #[error("container {id} did not get its system-call filter")]
    Filter {
        /// Which container.
        id: ContainerId,
        /// Why.
        source: FilterError,
    },
    /// The profile of AppArmor.
    #[error("container {id} did not get its AppArmor profile")]
    AppArmor {
        /// Which container.
        id: ContainerId,
        /// Why.
        source: AppArmorError,
    },
    /// The labels of SELinux.
    #[error("container {id} did not get its SELinux labels")]
    Selinux {
        /// Which container.
        id: ContainerId,
        /// Why.
        source: SelinuxError,
    },
    /// The labels of files of the host.
    #[error("container {id} did not get its mounts labelled for SELinux")]
    Relabel {
        /// Which container.
        id: ContainerId,
        /// Why.
        source: RelabelError,
    },
    /// The control groups.
    #[error("container {id} did not get its control groups")]
    Cgroup {
        /// Which container.
        id: ContainerId,
        /// Why.
        source: CgroupError,
    },
    /// The networks.
    #[error("container {id} did not get its networks")]
    Network {
        /// Which container.
        id: ContainerId,
        /// Why.
        source: network::AttachError,
    },
    /// A network between hosts, for a container that belongs to no stack.
    #[error("container {id} did not get its networks")]
    Between {
        /// Which container.
        id: ContainerId,
        /// Why.
        source: network::PlaceError,
    },
    /// A network between hosts.
    #[error("container {id} did not get its networks")]
    Overlay {
        /// Which container.
        id: ContainerId,
        /// Why.
        source: OverlayAttachError,
    },
    /// The name server.
    #[error("container {id} did not get its name server")]
    Names {
        /// Which container.
        id: ContainerId,
        /// Why.
        source: ServeError,
    },
    /// The shim could not be started or asked.
    #[error("container {id}: could not {what}")]
    Shim {
        /// Which container.
        id: ContainerId,
        /// What was being done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The container itself could not be made or its program not be run.
    #[error("container {id} could not be started")]
    Container {
        /// Which.
        id: ContainerId,
        /// Why.
        source: Failure,
    },
    /// Another runtime cannot be told.
    #[error("container {id} cannot be made by another runtime")]
    Runtime {
        /// Which.
        id: ContainerId,
        /// Why.
        source: super::oci::OciError,
    },
    /// A container whose namespace it joins does not run.
    #[error("container {id} cannot join the {kind} of container {other}, which is not running: start that one first")]
    Peer {
        /// Which container.
        id: ContainerId,
        /// The other one.
        other: ContainerId,
        /// `network`, `processes`, `IPC objects`.
        kind: &'static str,
    },
    /// It cannot have the user namespace that it shall have.
    #[error("container {id} cannot have its user namespace")]
    Users {
        /// Which.
        id: ContainerId,
        /// Why.
        source: UsersError,
    },
    /// The disk.
    #[error("could not record container {id}")]
    Record {
        /// Which.
        id: ContainerId,
        /// Why.
        source: RecordError,
    },
}

/// Why a container cannot have the user namespace that it shall have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsersError {
    /// The host has none to give.
    #[error(
        "this host cannot give containers user namespaces ({reason}): correct that, or start the container with \
         `--userns=host` (`userns_mode: host`)"
    )]
    Unsupported {
        /// What was tried, and the kernel's answer.
        reason: String,
    },
    /// It wants one, and joins a container that has none.
    #[error(
        "it joins namespaces of container {other}, whose users are the host's: give that one a user namespace, too"
    )]
    JoinsHost {
        /// The other container.
        other: ContainerId,
    },
    /// It wants none, and joins a container that has one.
    #[error(
        "it joins namespaces of container {other}, which has a user namespace: start that one with `--userns=host`, too"
    )]
    JoinsPrivate {
        /// The other container.
        other: ContainerId,
    },
    /// It joins containers that do not share one.
    #[error("it joins namespaces of containers {one} and {other}, whose user namespaces are not the same")]
    JoinsTwo {
        /// The one.
        one: ContainerId,
        /// The other.
        other: ContainerId,
    },
}

impl StartError {
    /// Whether the same attempt may succeed later without a change of the configuration: the disk has room again, a port
    /// is free again. A missing mount source, profile or user, or a program that cannot be run, is for the user to correct.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Missing { .. }
            | Self::State { .. }
            | Self::Spec { .. }
            | Self::Runtime { .. }
            | Self::Users { .. }
            | Self::MountSource { .. }
            | Self::Device { .. }
            | Self::Cdi { .. } => false,
            Self::Volume { source, .. } => matches!(source, VolumeError::Disk { .. }),
            Self::Filter { source, .. } => matches!(source, FilterError::Keep { .. }),
            Self::Cgroup { source, .. } => !source.is_refused_value(),
            Self::AppArmor { source, .. } => {
                matches!(source, AppArmorError::Default { .. } | AppArmorError::List(_))
            }
            Self::Selinux { source, .. } => matches!(source, SelinuxError::Ask { .. }),
            Self::Relabel { source, .. } => matches!(source, RelabelError::File { .. }),
            Self::Network { .. }
            | Self::Between { .. }
            | Self::Overlay { .. }
            | Self::Names { .. }
            | Self::Logging { .. }
            | Self::Shim { .. }
            | Self::Record { .. }
            | Self::Peer { .. } => true,
            Self::Container { source, .. } => matches!(source.kind, FailureKind::HostExhausted | FailureKind::Kernel),
        }
    }

    /// The exit code that the container gets: 127 when its program is not there, 126 when it cannot be run.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Container { source, .. } => source.kind.exit_code(),
            _ => 128,
        }
    }

    /// The error and its causes in one line.
    #[must_use]
    pub fn full_text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// Why a container cannot be described to another runtime.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// It could not be started here either.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The document cannot say what it is.
    #[error(transparent)]
    Document(#[from] super::oci::OciError),
}

/// Why a signal could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// There is none.
    #[error("there is no container {id}")]
    Missing {
        /// Which.
        id: ContainerId,
    },
    /// It does not run.
    #[error("container {id} is not running")]
    NotRunning {
        /// Which.
        id: ContainerId,
    },
    /// The shim could not be asked, or does not know the signal.
    #[error("could not send signal {signal} to container {id}")]
    Shim {
        /// Which container.
        id: ContainerId,
        /// Which signal.
        signal: i32,
        /// Why.
        source: io::Error,
    },
}

/// Why a container could not be stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// There is none.
    #[error("there is no container {id}")]
    Missing {
        /// Which.
        id: ContainerId,
    },
    /// The stop signal that the image names does not exist.
    #[error("container {id} cannot be asked to stop")]
    Signal {
        /// Which.
        id: ContainerId,
        /// Why.
        source: SpecError,
    },
    /// It was killed and has not ended.
    #[error("container {id} has not ended {seconds} seconds after it was killed: a process of it hangs in the kernel")]
    Hangs {
        /// Which.
        id: ContainerId,
        /// How long was waited.
        seconds: u64,
    },
}

/// Why a container could not be paused, or let go on.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// There is none.
    #[error("there is no container {id}")]
    Missing {
        /// Which.
        id: ContainerId,
    },
    /// It does not run.
    #[error("container {id} is not running")]
    NotRunning {
        /// Which.
        id: ContainerId,
    },
    /// It is paused already.
    #[error("Container {id} is already paused")]
    Paused {
        /// Which.
        id: ContainerId,
    },
    /// It is not paused.
    #[error("Container {id} is not paused")]
    NotPaused {
        /// Which.
        id: ContainerId,
    },
    /// The kernel refuses.
    #[error("container {id} cannot be paused or let go on")]
    Kernel {
        /// Which.
        id: ContainerId,
        /// Why.
        source: io::Error,
    },
}

/// Why a container could not be stopped and started.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// It could not be stopped.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// It could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Why a container could not be given another name.
#[derive(Debug, thiserror::Error)]
pub enum RenameError {
    /// There is none.
    #[error("there is no container {id}")]
    Missing {
        /// Which.
        id: ContainerId,
    },
    /// Another one has it.
    #[error("the name `{name}` is container {other}'s")]
    Taken {
        /// What was asked for.
        name: String,
        /// Who has it.
        other: ContainerId,
    },
    /// It cannot be recorded.
    #[error("the new name of container {id} could not be recorded")]
    Record {
        /// Which.
        id: ContainerId,
        /// Why.
        source: RecordError,
    },
}

/// Why a container could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is none.
    #[error("there is no container {id}")]
    Missing {
        /// Which.
        id: ContainerId,
    },
    /// It goes when it ends, so it cannot be started again.
    #[error("Restart policy cannot be updated because AutoRemove is enabled for the container {id}")]
    AutoRemove {
        /// Which.
        id: ContainerId,
    },
    /// A device that a limit names.
    #[error("a limit of container {id} names a device that is not there")]
    Device {
        /// Which.
        id: ContainerId,
        /// Why.
        source: Box<StartError>,
    },
    /// A limit that no container of this host can have.
    #[error("the limits of container {id} could not be changed")]
    Spec {
        /// Which.
        id: ContainerId,
        /// Why.
        source: SpecError,
    },
    /// The kernel refuses a limit.
    #[error("the limits of container {id} could not be changed")]
    Limit {
        /// Which.
        id: ContainerId,
        /// Why.
        source: crate::cgroup::CgroupError,
    },
    /// It cannot be recorded.
    #[error("the change of container {id} could not be recorded")]
    Record {
        /// Which.
        id: ContainerId,
        /// Why.
        source: RecordError,
    },
}

/// Why a container could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is none.
    #[error("there is no container {id}")]
    Missing {
        /// Which.
        id: ContainerId,
    },
    /// It runs.
    #[error("cannot remove container {id}: container is running: stop the container before removing or force remove")]
    Running {
        /// Which.
        id: ContainerId,
    },
    /// It could not be stopped.
    #[error("could not remove container {id}")]
    Stop {
        /// Which.
        id: ContainerId,
        /// Why.
        source: StopError,
    },
    /// Not everything could be removed. Everything was tried; what is left is tried again at the next attempt.
    #[error("could not remove everything of container {id}: {}", failures.join("; "))]
    Left {
        /// Which.
        id: ContainerId,
        /// Each failure, with its causes.
        failures: Vec<String>,
    },
}

/// Why nobody can wait for a container.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// There is none, or it was removed while somebody waited.
    #[error("there is no container {id}")]
    Missing {
        /// Which.
        id: ContainerId,
    },
}

/// Why a process could not be run in a container.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// There is no such exec, or it has been forgotten.
    #[error("there is no exec {id}")]
    NoSuchExec {
        /// Which.
        id: ExecId,
    },
    /// It was started before.
    #[error("exec {id} was started already")]
    Started {
        /// Which.
        id: ExecId,
    },
    /// Its process does not run.
    #[error("the process of exec {id} does not run")]
    ExecNotRunning {
        /// Which.
        id: ExecId,
    },
    /// It has no terminal.
    #[error("exec {id} cannot be resized: {reason}")]
    Resize {
        /// Which.
        id: ExecId,
        /// Why.
        reason: String,
    },
    /// There is none.
    #[error("there is no container {id}")]
    Missing {
        /// Which.
        id: ContainerId,
    },
    /// It does not run.
    #[error("container {id} is not running")]
    NotRunning {
        /// Which.
        id: ContainerId,
    },
    /// It is paused: the command would not run before it goes on.
    #[error("Container {id} is paused, unpause the container before exec")]
    Paused {
        /// Which.
        id: ContainerId,
    },
    /// What is asked for makes no sense.
    #[error("the command cannot be run in container {id}")]
    Spec {
        /// Which.
        id: ContainerId,
        /// Why.
        source: SpecError,
    },
    /// The filter.
    #[error("the command in container {id} did not get its system-call filter")]
    Filter {
        /// Which.
        id: ContainerId,
        /// Why.
        source: FilterError,
    },
    /// The helper could not be started or asked.
    #[error("could not {what} in container {id}")]
    Shim {
        /// Which.
        id: ContainerId,
        /// What was being done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The program could not be run.
    #[error("the command could not be run in container {id}")]
    Command {
        /// Which.
        id: ContainerId,
        /// Why.
        source: Failure,
    },
}

/// Why nobody can be attached to a container, or its terminal not be resized.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is none.
    #[error("there is no container {id}")]
    Missing {
        /// Which.
        id: ContainerId,
    },
    /// It does not run.
    #[error("container {id} is not running")]
    NotRunning {
        /// Which.
        id: ContainerId,
    },
    /// The shim refuses: there is no terminal to resize.
    #[error("container {id} cannot be resized: {reason}")]
    Refused {
        /// Which.
        id: ContainerId,
        /// Why.
        reason: String,
    },
    /// The shim could not be asked.
    #[error("could not reach the streams of container {id}")]
    Shim {
        /// Which.
        id: ContainerId,
        /// Why.
        source: io::Error,
    },
}

/// Why something is no device, in Docker's words: its client tells by them what it exits with.
fn no_device(cause: Option<&io::Error>) -> String {
    match cause {
        None => "not a device node".to_owned(),
        Some(error) if error.kind() == io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        Some(error) => error.to_string(),
    }
}

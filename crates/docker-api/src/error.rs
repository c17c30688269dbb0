//! Every refusal of the API, its status and its body: the one place where an error becomes an answer.

use std::error::Error;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bollard_stubs::models::ErrorResponse;
use stack_engine::ConnectError;
use stack_engine::container::{
    AttachError, ChangeError, CreateError, ExecError, KillError, PauseError, RemoveError, RenameError, RestartError,
    StartError, StopError, WaitError,
};
use stack_engine::copying::CopyError;
use stack_engine::image::unpack::UnpackError;
use stack_engine::image::{
    CommitError, GetError, LoadError, ParseReferenceError, PullError, RecordError, RemoveError as ImageRemoveError,
    SaveError, SelectError, TagError,
};
use stack_engine::network::{self, NetworkError};
use stack_engine::selinux::{RelabelError, SelinuxError};
use stack_engine::volume::VolumeError;

use crate::cluster::ClusterError;
use crate::decode::DecodeError;
use crate::decode::create::CreationError;
use crate::decode::image::ImageRequestError;
use crate::detach::DetachKeysError;
use crate::version::VersionError;

/// Why a request was refused. The texts are the ones that Docker's clients know.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// There is no such route.
    #[error("page not found")]
    PageNotFound,
    /// Docker has it; this daemon has not.
    #[error("{what} is not supported by this daemon yet")]
    NotSupported {
        /// The route, or the route's parameter.
        what: String,
    },
    /// A route of the cluster.
    #[error(
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again."
    )]
    NoManager,
    /// A change of the cluster, asked of a host that only runs what it is told.
    #[error(
        "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager."
    )]
    WorkerNode,
    /// A network between hosts that is for stacks alone.
    #[error(
        "Could not attach to network {name}: rpc error: code = PermissionDenied desc = network {name} not manually attachable"
    )]
    NotAttachable {
        /// Which.
        name: String,
    },
    /// The cluster refused, or could not be asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The version of the path.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// The parameters of the query.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// No container has this name or id.
    #[error("No such container: {name}")]
    NoSuchContainer {
        /// What was asked for.
        name: String,
    },
    /// Several ids begin so.
    #[error("multiple IDs found with provided prefix: {prefix}")]
    AmbiguousContainer {
        /// What was asked for.
        prefix: String,
    },
    /// It must run for that.
    #[error("container {name} is not running")]
    NotRunning {
        /// Which.
        name: String,
    },
    /// Its log cannot be read.
    #[error("configured logging driver does not support reading")]
    LogNotReadable,
    /// What a container has changed could not be read.
    #[error("the changes of the container could not be read")]
    Changes(#[source] std::io::Error),
    /// No image has this name.
    #[error("No such image: {name}")]
    NoSuchImage {
        /// What was asked for.
        name: String,
    },
    /// An image could not be looked up.
    #[error("the image could not be looked up")]
    Image(#[source] GetError),
    /// The images could not be listed.
    #[error("the images could not be listed")]
    Images(#[from] RecordError),
    /// An image's configuration cannot be understood.
    #[error("the configuration of image {name} is damaged: remove it and fetch it again")]
    ImageConfiguration {
        /// Which.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The new name is the old one.
    #[error("Renaming a container with the same name as its current name")]
    SameName,
    /// There is no such link.
    #[error("cannot remove the link {name}: remove the container that has it")]
    NoSuchLink {
        /// What was asked for.
        name: String,
    },
    /// The container could not be paused or let go on.
    #[error(transparent)]
    Pause(#[from] PauseError),
    /// The container could not be renamed.
    #[error(transparent)]
    Rename(RenameError),
    /// The container could not be changed.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// What is said of an image makes no sense.
    #[error(transparent)]
    ImageRequest(#[from] ImageRequestError),
    /// It is no name of an image.
    #[error("invalid reference format: {source}")]
    Reference {
        /// What was given.
        text: String,
        /// Why not.
        source: ParseReferenceError,
    },
    /// An image is in use, or has other names.
    #[error("{text}")]
    ImageConflict {
        /// In Docker's words.
        text: String,
    },
    /// An image could not be pulled.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// A registry could not be searched.
    #[error("{}", search_text(.0))]
    Search(#[source] PullError),
    /// Images could not be loaded, or one not be imported.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Images could not be saved.
    #[error("the images could not be saved")]
    Save(#[source] SaveError),
    /// An image could not be named.
    #[error("the image could not be given that name")]
    Tag(#[source] TagError),
    /// An image could not be removed.
    #[error("the image could not be removed")]
    ImageRemove(#[source] ImageRemoveError),
    /// There is no such driver.
    #[error("error looking up {kind} plugin {name}: plugin \"{name}\" not found: only the local driver is built in")]
    NoSuchDriver {
        /// Of what.
        kind: &'static str,
        /// What was asked for.
        name: String,
    },
    /// The container could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The container could not be stopped.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The container could not be sent a signal.
    #[error(transparent)]
    Kill(#[from] KillError),
    /// The container could not be removed.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    /// The container could not be waited for.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The volume could not be looked up.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A container cannot be made as it is asked for.
    #[error(transparent)]
    Creation(#[from] CreationError),
    /// A container could not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The name is another container's.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{other}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameTaken {
        /// What was asked for.
        name: String,
        /// Who has it.
        other: String,
    },
    /// The body is no such document.
    #[error("invalid JSON: {problem}")]
    Body {
        /// What is wrong.
        problem: String,
    },
    /// A WebSocket was expected.
    #[error("no WebSocket: {problem}")]
    WebSocket {
        /// What is wrong.
        problem: String,
    },
    /// It is always there as it is.
    #[error("operation is not permitted on predefined {name} network")]
    PredefinedNetwork {
        /// Which.
        name: String,
    },
    /// No settings of that name are kept.
    #[error("configuration network {name:?} does not exist")]
    NoTemplate {
        /// Which.
        name: String,
    },
    /// It is settings alone.
    #[error("configuration network {name} has no containers: make a network of it with --config-from {name}")]
    TemplateAlone {
        /// Which.
        name: String,
    },
    /// It cannot be removed.
    #[error("{name} is a pre-defined network and cannot be removed")]
    NetworkStays {
        /// Which.
        name: String,
    },
    /// Containers are on it.
    #[error("error while removing network: network {name} has active endpoints ({users})")]
    NetworkInUse {
        /// Which.
        name: String,
        /// Who.
        users: String,
    },
    /// Several ids begin so.
    #[error("network {prefix} is ambiguous ({count} matches found based on ID prefix)")]
    AmbiguousNetwork {
        /// What was asked for.
        prefix: String,
        /// So many.
        count: usize,
    },
    /// There is no such driver.
    #[error("plugin \"{name}\" not found")]
    NoSuchPlugin {
        /// What was asked for.
        name: String,
    },
    /// A network could not be made or removed.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A container could not join a network or leave it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No network has this name or id.
    #[error("network {name} not found")]
    NoSuchNetwork {
        /// What was asked for.
        name: String,
    },
    /// The image is for another kind of machine.
    #[error(
        "image with reference {image} was found but does not match the specified platform: wanted {wanted}, actual: {actual}"
    )]
    Platform {
        /// Which image.
        image: String,
        /// What was asked for.
        wanted: String,
        /// What it is for.
        actual: String,
    },
    /// The container cannot be attached to or resized.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// No exec has this id.
    #[error("No such exec instance: {id}")]
    NoSuchExec {
        /// What was asked for.
        id: String,
    },
    /// The exec could not be made or started.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// Keys that cannot be.
    #[error(transparent)]
    DetachKeys(#[from] DetachKeysError),
    /// Nothing could be copied out of a container or into it.
    #[error(transparent)]
    Copy(CopyError),
    /// No image could be made of a container.
    #[error(transparent)]
    Commit(CommitError),
    /// Nothing has this path in a container.
    #[error("Could not find the file {path} in container {name}")]
    NoSuchPath {
        /// What was asked for.
        path: String,
        /// Which container, as it was asked for.
        name: String,
    },
    /// Work of this program was cut short.
    #[error("the work was interrupted: the daemon ends")]
    Interrupted,
}

/// A name of an image as Docker says it that there is none: with its tag.
fn with_tag(name: String) -> String {
    let last = name.rsplit('/').next().unwrap_or(&name);
    if last.contains([':', '@']) { name } else { format!("{name}:latest") }
}

impl From<GetError> for ApiError {
    fn from(error: GetError) -> Self {
        match error {
            GetError::Select(SelectError::Missing { text }) => Self::NoSuchImage { name: with_tag(text) },
            other => Self::Image(other),
        }
    }
}

impl From<RenameError> for ApiError {
    fn from(error: RenameError) -> Self {
        match error {
            RenameError::Taken { name, other } => Self::NameTaken { name, other: other.to_string() },
            other => Self::Rename(other),
        }
    }
}

impl From<RestartError> for ApiError {
    fn from(error: RestartError) -> Self {
        match error {
            RestartError::Stop(error) => error.into(),
            RestartError::Start(error) => error.into(),
        }
    }
}

impl From<SaveError> for ApiError {
    fn from(error: SaveError) -> Self {
        match error {
            SaveError::Select(SelectError::Missing { text }) => Self::NoSuchImage { name: with_tag(text) },
            other => Self::Save(other),
        }
    }
}

impl From<TagError> for ApiError {
    fn from(error: TagError) -> Self {
        match error {
            TagError::Get(error) => error.into(),
            other => Self::Tag(other),
        }
    }
}

impl From<ImageRemoveError> for ApiError {
    fn from(error: ImageRemoveError) -> Self {
        match error {
            ImageRemoveError::Select(SelectError::Missing { text }) => Self::NoSuchImage { name: with_tag(text) },
            other => Self::ImageRemove(other),
        }
    }
}

impl ApiError {
    /// Why nothing was copied; containers are called what the client calls them.
    pub fn copy(error: CopyError, name: &str) -> Self {
        match error {
            CopyError::Missing { .. } => Self::NoSuchContainer { name: name.to_owned() },
            CopyError::NotFound { path, .. } => Self::NoSuchPath { path, name: name.to_owned() },
            other => Self::Copy(other),
        }
    }

    /// Why no image was made of a container.
    pub fn commit(error: CommitError) -> Self {
        match error {
            CommitError::Missing { id } => Self::NoSuchContainer { name: id.to_string() },
            CommitError::Base(error) => error.into(),
            other => Self::Commit(other),
        }
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Changes(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::PageNotFound | Self::NoSuchContainer { .. } | Self::NoSuchImage { .. } => StatusCode::NOT_FOUND,
            Self::NotSupported { .. } | Self::LogNotReadable => StatusCode::NOT_IMPLEMENTED,
            Self::NoManager | Self::WorkerNode => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotAttachable { .. } => StatusCode::FORBIDDEN,
            Self::Cluster(error) => match error {
                ClusterError::NotFound(_) => StatusCode::NOT_FOUND,
                ClusterError::Invalid(_) => StatusCode::BAD_REQUEST,
                ClusterError::Conflict(_) => StatusCode::FORBIDDEN,
                ClusterError::Unreachable(_) => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Version(_) | Self::Decode(_) | Self::AmbiguousContainer { .. } => StatusCode::BAD_REQUEST,
            Self::NotRunning { .. } => StatusCode::CONFLICT,
            Self::NoSuchPath { .. } => StatusCode::NOT_FOUND,
            Self::Commit(error) => match error {
                CommitError::Missing { .. } | CommitError::Base(_) => StatusCode::NOT_FOUND,
                CommitError::Name { .. } | CommitError::Document(_) => StatusCode::BAD_REQUEST,
                CommitError::Pause(_)
                | CommitError::Changes(_)
                | CommitError::Redirected { .. }
                | CommitError::Pack(_)
                | CommitError::Layer(_)
                | CommitError::Content(_)
                | CommitError::Records(_)
                | CommitError::Interrupted => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Copy(error) => match error {
                CopyError::Missing { .. } | CopyError::NotFound { .. } => StatusCode::NOT_FOUND,
                CopyError::ReadOnlyRoot | CopyError::ReadOnlyVolume => StatusCode::FORBIDDEN,
                CopyError::ExtractionPoint | CopyError::NotADirectory { .. } | CopyError::User { .. } => {
                    StatusCode::BAD_REQUEST
                }
                CopyError::Unpack(
                    UnpackError::Archive(_) | UnpackError::Refused { .. } | UnpackError::OtherKind { .. },
                ) => StatusCode::BAD_REQUEST,
                CopyError::Unpack(UnpackError::Io { .. } | UnpackError::TooLarge { .. })
                | CopyError::Path { .. }
                | CopyError::MountSource { .. }
                | CopyError::Volume { .. }
                | CopyError::View { .. }
                | CopyError::Pack(_)
                | CopyError::Broken => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Image(error) => match error {
                GetError::Select(SelectError::Missing { .. }) => StatusCode::NOT_FOUND,
                GetError::Select(SelectError::Ambiguous { .. } | SelectError::BadName { .. }) => {
                    StatusCode::BAD_REQUEST
                }
                GetError::Records(_) | GetError::Damaged { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::SameName => StatusCode::BAD_REQUEST,
            Self::NoSuchLink { .. } => StatusCode::NOT_FOUND,
            Self::Pause(error) => match error {
                PauseError::Missing { .. } => StatusCode::NOT_FOUND,
                PauseError::NotRunning { .. } | PauseError::Paused { .. } | PauseError::NotPaused { .. } => {
                    StatusCode::CONFLICT
                }
                PauseError::Kernel { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Rename(error) => match error {
                RenameError::Missing { .. } => StatusCode::NOT_FOUND,
                RenameError::Taken { .. } => StatusCode::CONFLICT,
                RenameError::Record { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Change(error) => match error {
                ChangeError::Missing { .. } => StatusCode::NOT_FOUND,
                ChangeError::AutoRemove { .. } => StatusCode::CONFLICT,
                ChangeError::Device { .. } | ChangeError::Spec { .. } => StatusCode::BAD_REQUEST,
                ChangeError::Limit { source, .. } if source.is_refused_value() => StatusCode::BAD_REQUEST,
                ChangeError::Limit { .. } | ChangeError::Record { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::ImageRequest(_) | Self::Reference { .. } => StatusCode::BAD_REQUEST,
            Self::ImageConflict { .. } => StatusCode::CONFLICT,
            Self::NoSuchDriver { .. } => StatusCode::NOT_FOUND,
            Self::Pull(error) => match error {
                PullError::NotFound { .. } | PullError::Unauthorized { .. } | PullError::Denied { .. } => {
                    StatusCode::NOT_FOUND
                }
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Search(PullError::NoRegistry { .. }) => StatusCode::BAD_REQUEST,
            Self::Search(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Load(error) => match error {
                LoadError::DiskFull | LoadError::Interrupted => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::BAD_REQUEST,
            },
            Self::Save(SaveError::Select(error))
            | Self::Tag(TagError::Get(GetError::Select(error)))
            | Self::ImageRemove(ImageRemoveError::Select(error)) => match error {
                SelectError::Missing { .. } => StatusCode::NOT_FOUND,
                SelectError::Ambiguous { .. } | SelectError::BadName { .. } => StatusCode::BAD_REQUEST,
            },
            Self::Tag(TagError::NotATag { .. }) => StatusCode::BAD_REQUEST,
            Self::ImageRemove(ImageRemoveError::InUse { .. }) => StatusCode::CONFLICT,
            Self::Save(_) | Self::Tag(_) | Self::ImageRemove(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Start(error) => match error {
                StartError::Missing { .. } => StatusCode::NOT_FOUND,
                StartError::State { .. } | StartError::Peer { .. } => StatusCode::CONFLICT,
                StartError::Spec { .. }
                | StartError::Runtime { .. }
                | StartError::Users { .. }
                | StartError::MountSource { .. }
                | StartError::Relabel { source: RelabelError::Refused { .. }, .. }
                | StartError::Device { .. } => StatusCode::BAD_REQUEST,
                // A network that was there when the container was made.
                StartError::Network { source: network::AttachError::Network(NetworkError::Missing { .. }), .. } => {
                    StatusCode::NOT_FOUND
                }
                // The program is not there or cannot be run.
                StartError::Container { .. } if matches!(error.exit_code(), 126 | 127) => StatusCode::BAD_REQUEST,
                StartError::Container { .. }
                | StartError::Volume { .. }
                | StartError::Filter { .. }
                | StartError::AppArmor { .. }
                | StartError::Selinux { .. }
                | StartError::Relabel { .. }
                | StartError::Cdi { .. }
                | StartError::Cgroup { .. }
                | StartError::Network { .. }
                | StartError::Between { .. }
                | StartError::Overlay { .. }
                | StartError::Names { .. }
                | StartError::Logging { .. }
                | StartError::Shim { .. }
                | StartError::Record { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Stop(error) => stop_status(error),
            Self::Kill(error) => match error {
                KillError::Missing { .. } => StatusCode::NOT_FOUND,
                KillError::NotRunning { .. } => StatusCode::CONFLICT,
                KillError::Shim { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Remove(error) => match error {
                RemoveError::Missing { .. } => StatusCode::NOT_FOUND,
                RemoveError::Running { .. } => StatusCode::CONFLICT,
                RemoveError::Stop { source, .. } => stop_status(source),
                RemoveError::Left { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Wait(WaitError::Missing { .. }) => StatusCode::NOT_FOUND,
            Self::Volume(error) => match error {
                VolumeError::Name { .. } => StatusCode::BAD_REQUEST,
                VolumeError::Missing { .. } => StatusCode::NOT_FOUND,
                VolumeError::Options { .. } => StatusCode::BAD_REQUEST,
                VolumeError::InUse { .. } | VolumeError::Exists { .. } => StatusCode::CONFLICT,
                VolumeError::Disk { .. } | VolumeError::Mount { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Creation(error) => error.status(),
            Self::PredefinedNetwork { .. } | Self::NetworkStays { .. } | Self::NetworkInUse { .. } => {
                StatusCode::FORBIDDEN
            }
            Self::AmbiguousNetwork { .. } => StatusCode::BAD_REQUEST,
            Self::NoSuchPlugin { .. } | Self::NoTemplate { .. } => StatusCode::NOT_FOUND,
            Self::TemplateAlone { .. } => StatusCode::FORBIDDEN,
            Self::Network(error) => network_status(error),
            Self::Connect(error) => match error {
                ConnectError::Missing { .. } => StatusCode::NOT_FOUND,
                ConnectError::Removing { .. } => StatusCode::CONFLICT,
                ConnectError::Host | ConnectError::Private | ConnectError::Shared => StatusCode::BAD_REQUEST,
                ConnectError::Connected { .. } | ConnectError::NotConnected { .. } => StatusCode::FORBIDDEN,
                ConnectError::Network(error) => endpoint_status(error),
                ConnectError::Between(_)
                | ConnectError::Left(_)
                | ConnectError::Record { .. }
                | ConnectError::Names(_)
                | ConnectError::System { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Body { .. } | Self::WebSocket { .. } | Self::DetachKeys(_) => StatusCode::BAD_REQUEST,
            Self::NameTaken { .. } => StatusCode::CONFLICT,
            Self::NoSuchNetwork { .. } | Self::Platform { .. } | Self::NoSuchExec { .. } => StatusCode::NOT_FOUND,
            Self::Create(error) => match error {
                CreateError::Id(_)
                | CreateError::Spec { .. }
                | CreateError::AppArmor { .. }
                | CreateError::SizeLimit(_) => StatusCode::BAD_REQUEST,
                // Those of a container are free again when it is removed.
                CreateError::Selinux { source: SelinuxError::Exhausted, .. }
                | CreateError::Exists { .. }
                | CreateError::NameTaken { .. } => StatusCode::CONFLICT,
                CreateError::Selinux { source: SelinuxError::Ask { .. }, .. } => StatusCode::INTERNAL_SERVER_ERROR,
                CreateError::Selinux { .. } => StatusCode::BAD_REQUEST,
                CreateError::Root { .. } | CreateError::Record { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Attach(error) => match error {
                AttachError::Missing { .. } => StatusCode::NOT_FOUND,
                AttachError::NotRunning { .. } => StatusCode::CONFLICT,
                AttachError::Refused { .. } => StatusCode::BAD_REQUEST,
                AttachError::Shim { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Exec(error) => match error {
                ExecError::Missing { .. } | ExecError::NoSuchExec { .. } => StatusCode::NOT_FOUND,
                ExecError::NotRunning { .. }
                | ExecError::Paused { .. }
                | ExecError::Started { .. }
                | ExecError::ExecNotRunning { .. } => StatusCode::CONFLICT,
                ExecError::Spec { .. } | ExecError::Resize { .. } | ExecError::Command { .. } => {
                    StatusCode::BAD_REQUEST
                }
                ExecError::Filter { .. } | ExecError::Shim { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Images(_) | Self::ImageConfiguration { .. } | Self::Interrupted => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The error and its causes in one line: Docker's error body has a message alone.
    pub fn full_text(&self) -> String {
        full_text(self)
    }
}

fn network_status(error: &NetworkError) -> StatusCode {
    match error {
        NetworkError::Name { .. } | NetworkError::Settings { .. } | NetworkError::NoParent { .. } => {
            StatusCode::BAD_REQUEST
        }
        NetworkError::NoSuchLinks { .. } => StatusCode::NOT_IMPLEMENTED,
        NetworkError::Exists { .. } => StatusCode::CONFLICT,
        NetworkError::Missing { .. } => StatusCode::NOT_FOUND,
        NetworkError::NoSubnet { .. }
        | NetworkError::NoSubnet6 { .. }
        | NetworkError::BridgeTaken { .. }
        | NetworkError::ParentTaken { .. }
        | NetworkError::TemplateInUse { .. }
        | NetworkError::Overlap { .. }
        | NetworkError::InUse { .. } => StatusCode::FORBIDDEN,
        NetworkError::Record { .. } | NetworkError::Setting { .. } | NetworkError::Kernel { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

fn endpoint_status(error: &network::AttachError) -> StatusCode {
    use network::AttachError;
    match error {
        AttachError::Id { .. }
        | AttachError::NetworkTwice { .. }
        | AttachError::OutsideSubnet { .. }
        | AttachError::NoMac { .. }
        | AttachError::NoIpv4 { .. }
        | AttachError::NoIpv6 { .. } => StatusCode::BAD_REQUEST,
        AttachError::AddressTaken { .. }
        | AttachError::ForOne { .. }
        | AttachError::Connected { .. }
        | AttachError::NotConnected { .. } => StatusCode::FORBIDDEN,
        AttachError::AlreadyAttached { .. } | AttachError::NotAttached { .. } => StatusCode::CONFLICT,
        AttachError::Network(error) => network_status(error),
        AttachError::PortsWithoutNetwork { .. }
        | AttachError::NoAddress { .. }
        | AttachError::NoLinkName { .. }
        | AttachError::Port(_)
        | AttachError::Reservation(_)
        | AttachError::Record { .. }
        | AttachError::Kernel { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn stop_status(error: &StopError) -> StatusCode {
    match error {
        StopError::Missing { .. } => StatusCode::NOT_FOUND,
        StopError::Signal { .. } => StatusCode::BAD_REQUEST,
        StopError::Hangs { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What Docker says of a registry that does not search.
fn search_text(error: &PullError) -> String {
    let status = match error {
        PullError::NotFound { .. } => Some(404),
        PullError::Unauthorized { .. } => Some(401),
        PullError::Denied { .. } => Some(403),
        PullError::RateLimited { .. } => Some(429),
        PullError::Registry { status, .. } => Some(*status).filter(|status| *status != 200),
        _ => None,
    };
    status.map_or_else(|| "the search failed".to_owned(), |status| format!("Unexpected status code {status}"))
}

/// An error and its causes in one line.
pub fn full_text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, message) = (self.status(), self.full_text());
        if status.is_server_error() && !matches!(self, Self::NotSupported { .. } | Self::NoManager | Self::WorkerNode) {
            tracing::warn!(%status, message, "a request of a Docker client failed");
        }
        (status, Json(ErrorResponse { message })).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_the_status_and_all_causes() {
        let id: stack_engine::container::ContainerId = "web".parse().unwrap();
        let running = ApiError::from(RemoveError::Running { id: id.clone() });
        assert_eq!(running.status(), StatusCode::CONFLICT);
        let source = StopError::Hangs { id: id.clone(), seconds: 30 };
        let stop = ApiError::from(RemoveError::Stop { id, source });
        assert_eq!(stop.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(stop.full_text().contains("could not remove container web: container web has not ended"), "{stop}");
        for (name, said) in [("a", "a:latest"), ("r.io:5/a", "r.io:5/a:latest"), ("a@sha256:0", "a@sha256:0")] {
            let missing = ApiError::from(GetError::Select(SelectError::Missing { text: name.to_owned() }));
            assert_eq!(missing.full_text(), format!("No such image: {said}"));
        }
        let missing = ApiError::from(GetError::Select(SelectError::Missing { text: "a:1".to_owned() }));
        assert_eq!((missing.status(), missing.full_text().as_str()), (StatusCode::NOT_FOUND, "No such image: a:1"));
    }
}

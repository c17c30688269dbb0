//! Pure. What may be asked of the state: one closed enum of commands, and the changes that a plan is made of.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use stack_model::spec::{NetworkSpec, StackSpec};
use stack_model::{
    Availability, Content, ContentId, Contents, FileKind, GuestWishes, NodeDescription, NodeId, NodeRole, Readiness,
    RegistryCredential, Report, ServiceKey, Slot, StackName, TaskId, Timestamp,
};

use crate::guests::Said;
use crate::state::{Unplaced, Update};

/// A text that `Debug` does not print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// Who the cluster is, and what lets others in. Written when the cluster is made and when a token is rotated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterIdentity {
    /// 25 characters, as ids are printed.
    pub cluster_id: String,
    /// The certificate of the cluster's own authority, PEM.
    pub ca_certificate: String,
    /// Its private key, PEM (PKCS #8).
    pub ca_key: Secret,
    /// Lets a host join as a worker.
    pub worker_token: Secret,
    /// Lets a host join as a controller.
    pub controller_token: Secret,
    /// Networks are encrypted that do not say otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encrypts_networks: bool,
}

/// One entry of the replicated log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// The first entry of a new cluster.
    Initialize {
        /// Who it is.
        identity: ClusterIdentity,
    },
    /// One token is replaced; hosts that joined with the old one stay.
    RotateToken {
        /// Which.
        role: NodeRole,
        /// The new one.
        token: Secret,
    },
    /// A stack is deployed: made, or replaced as a whole.
    PutStack {
        /// Every image has its digest.
        spec: Box<StackSpec>,
        /// `Some(0)`: must not exist. `Some(n)`: must be at revision n. `None`: whatever is there.
        expected_revision: Option<u64>,
        /// What its secrets and configs hold, where that is not here already.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        contents: Contents,
    },
    /// A stack ends, with all that it has but its volumes.
    RemoveStack {
        /// Which.
        stack: StackName,
    },
    /// A replicated service gets another number of tasks, until the next deploy of its file.
    Scale {
        /// Which, and how many.
        replicas: BTreeMap<ServiceKey, u32>,
    },
    /// A host joins, or joins again with the same id.
    AddNode {
        /// Drawn by the host.
        id: NodeId,
        /// Fixed from now on.
        role: NodeRole,
        /// Where its `stackd` listens.
        address: SocketAddr,
        /// What it says of itself.
        description: NodeDescription,
        /// For a controller: who it is to Raft.
        raft_id: Option<u64>,
    },
    /// A host that joined says what it is now.
    DescribeNode {
        /// Which.
        id: NodeId,
        /// Where its `stackd` listens now.
        address: SocketAddr,
        /// What it says of itself.
        description: NodeDescription,
    },
    /// The user changes a node.
    UpdateNode {
        /// Which.
        id: NodeId,
        /// `None`: as it is.
        availability: Option<Availability>,
        /// `Some`: set; `None`: removed.
        labels: BTreeMap<String, Option<String>>,
    },
    /// The leader's liveness watch saw nodes come or go.
    SetReadiness {
        /// Only those that changed.
        nodes: BTreeMap<NodeId, Readiness>,
    },
    /// A node leaves the cluster for good.
    RemoveNode {
        /// Which.
        id: NodeId,
        /// Even though it is up.
        force: bool,
    },
    /// What nodes saw.
    Report {
        /// Each names its node.
        reports: Vec<Report>,
    },
    /// Everything that its networks' documents said as of a revision is in force on a node.
    AcknowledgeNetworks {
        /// Who says it.
        node: NodeId,
        /// As of which revision.
        revision: u64,
    },
    /// Which containers of a host that belong to no stack are on networks between hosts: all of them.
    DeclareGuests {
        /// Whose they are.
        node: NodeId,
        /// Which word of the host's this is.
        said: Said,
        /// The containers, by network.
        guests: GuestWishes,
    },
    /// A network is made by hand, or changed.
    PutNetwork {
        /// Its name.
        name: String,
        /// As it is to be.
        spec: NetworkSpec,
    },
    /// A network that was made by hand is removed.
    RemoveNetwork {
        /// Its name.
        name: String,
    },
    /// A secret or config is made by hand. One that is there is not changed: its name stands for what it holds.
    CreateFile {
        /// Which kind.
        kind: FileKind,
        /// Its name.
        name: String,
        /// Its labels.
        labels: BTreeMap<String, String>,
        /// Names what it holds.
        id: ContentId,
        /// What it holds.
        content: Content,
    },
    /// A secret or config that was made by hand is removed.
    RemoveFile {
        /// Which kind.
        kind: FileKind,
        /// Its name.
        name: String,
    },
    /// What the leader decided.
    Commit {
        /// Checked again, change by change.
        plan: Plan,
    },
    /// A registry's credential is set (`Some`) or removed (`None`).
    SetRegistryCredential {
        /// The registry's host and port, `docker.io` for Docker's own.
        registry: String,
        /// What its pulls present.
        credential: Option<RegistryCredential>,
    },
}

impl Command {
    /// The name of the variant, for logs and metrics. Never anything of its content.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Initialize { .. } => "initialize",
            Self::RotateToken { .. } => "rotate_token",
            Self::PutStack { .. } => "put_stack",
            Self::RemoveStack { .. } => "remove_stack",
            Self::Scale { .. } => "scale",
            Self::AddNode { .. } => "add_node",
            Self::DescribeNode { .. } => "describe_node",
            Self::UpdateNode { .. } => "update_node",
            Self::SetReadiness { .. } => "set_readiness",
            Self::RemoveNode { .. } => "remove_node",
            Self::Report { .. } => "report",
            Self::AcknowledgeNetworks { .. } => "acknowledge_networks",
            Self::DeclareGuests { .. } => "declare_guests",
            Self::PutNetwork { .. } => "put_network",
            Self::RemoveNetwork { .. } => "remove_network",
            Self::CreateFile { .. } => "create_file",
            Self::RemoveFile { .. } => "remove_file",
            Self::Commit { .. } => "commit",
            Self::SetRegistryCredential { .. } => "set_registry_credential",
        }
    }
}

/// What the leader decided from one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// In order.
    pub changes: Vec<Change>,
    /// When to look again though nothing has changed.
    pub wake_at: Option<Timestamp>,
}

/// A task to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTask {
    /// Drawn by the leader.
    pub id: TaskId,
    /// Whose replica.
    pub service: ServiceKey,
    /// Which replica.
    pub slot: Slot,
    /// Where.
    pub node: NodeId,
    /// Of the service when the plan was made; a task of another version is not made.
    pub version: u64,
}

/// One atomic step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// A task is made.
    StartTask {
        /// What.
        start: NewTask,
    },
    /// A task is asked to end.
    StopTask {
        /// Which.
        stop: TaskId,
    },
    /// A draining task may end: no host sends it anything new, or waiting was long enough.
    ReleaseTask {
        /// Which.
        task: TaskId,
    },
    /// A task whose node is lost is given up, and another takes its slot.
    ReplaceLostTask {
        /// Given up.
        stop: TaskId,
        /// In its place.
        start: NewTask,
    },
    /// An ended task is forgotten, with what its node kept of it.
    ForgetTask {
        /// Which.
        task: TaskId,
    },
    /// What a service needs is there: its tasks may be started.
    OpenGate {
        /// Of which service.
        service: ServiceKey,
        /// Of which version.
        version: u64,
    },
    /// A rollout moves on, ends (`None`) or ends badly.
    SetUpdate {
        /// Of which service.
        service: ServiceKey,
        /// Of which version.
        version: u64,
        /// How it stands now.
        update: Option<Update>,
    },
    /// A failed rollout returns to the previous spec.
    RollBack {
        /// Of which service.
        service: ServiceKey,
        /// Of which version.
        version: u64,
        /// What failed.
        reason: String,
    },
    /// Which slots no node can take has changed.
    SetUnplaced {
        /// Of which service.
        service: ServiceKey,
        /// `None`: all are placed.
        unplaced: Option<Unplaced>,
    },
    /// A service without tasks that left its stack file vanishes.
    ForgetService {
        /// Which.
        service: ServiceKey,
    },
    /// A removed stack without services vanishes.
    ForgetStack {
        /// Which.
        stack: StackName,
    },
}

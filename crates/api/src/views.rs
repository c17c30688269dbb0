//! What is answered: how things stand, in the words that the CLI prints.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use stack_model::{
    Availability, ContentId, DesiredState, Digest, Health, NodeDescription, NodeId, NodeRole, Phase, Readiness,
    ServiceKey, Slot, StackName, StackSpec, TaskId, Timestamp,
};
use utoipa::ToSchema;

/// `GET /v1/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterView {
    /// 25 characters.
    pub cluster_id: String,
    /// The state's revision at the controller that answers.
    pub revision: u64,
    /// The leader's node, if one is known.
    #[schema(value_type = Option<String>)]
    pub leader: Option<NodeId>,
    /// The controllers.
    pub controllers: Vec<ControllerView>,
}

/// One controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ControllerView {
    /// Its node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its node's name.
    pub name: String,
    /// Where it listens.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// It has a vote; one that is still catching up has none.
    pub voter: bool,
    /// It leads.
    pub leader: bool,
}

/// What `cluster init` and `cluster join` answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberView {
    /// Which cluster.
    pub cluster_id: String,
    /// Who this host is now.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// What it may do.
    #[schema(value_type = String)]
    pub role: NodeRole,
}

/// `GET /v1/local`: what a host says of itself on its local socket, whether or not it is in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LocalView {
    /// The version of `stackd`.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// `None`: in no cluster.
    pub member: Option<MemberView>,
    /// On a controller: Raft knows a leader.
    pub has_leader: bool,
}

/// `GET /v1/cluster/tokens`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokensView {
    /// Lets a host join as a worker.
    pub worker: String,
    /// Lets a host join as a controller.
    pub controller: String,
    /// Where they can be used.
    #[schema(value_type = Vec<String>)]
    pub controllers: Vec<SocketAddr>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// Who.
    #[schema(value_type = String)]
    pub id: NodeId,
    /// Unique among the nodes.
    pub name: String,
    /// Where its `stackd` listens.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// What it may do.
    #[schema(value_type = String)]
    pub role: NodeRole,
    /// It is the leader.
    pub leader: bool,
    /// Whether it takes tasks.
    #[schema(value_type = String)]
    pub availability: Availability,
    /// Whether it is heard.
    #[schema(value_type = String)]
    pub readiness: Readiness,
    /// Since when.
    #[schema(value_type = u64)]
    pub readiness_since: Timestamp,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// What it says of itself.
    #[schema(value_type = Object)]
    pub description: NodeDescription,
    /// How many tasks it has that have not ended.
    pub tasks: u32,
    /// Processors kept free for tasks, in thousandths of one.
    pub cpu_reserved_millis: u64,
    /// Memory kept free for tasks, in bytes.
    pub memory_reserved_bytes: u64,
}

/// How a service stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceView {
    /// `stack/service`.
    #[schema(value_type = String)]
    pub key: ServiceKey,
    /// `replicated` or `global`.
    pub mode: String,
    /// As in the stack file.
    pub image: String,
    /// What the tasks run.
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
    /// How many tasks it should have.
    pub desired: u32,
    /// How many serve, of whichever version.
    pub ready: u32,
    /// How many serve, of the present version.
    pub updated: u32,
    /// How many ended in failure and are not started again.
    pub failed: u32,
    /// Nothing is under way and everything is as wanted.
    pub converged: bool,
    /// It is being removed.
    pub removing: bool,
    /// `rolling`, `rolling back`, `paused`, `rolled back`; `None`: no rollout.
    pub update: Option<String>,
    /// Why the rollout is not simply rolling.
    pub update_reason: Option<String>,
    /// Slots that no node can take, and why.
    pub unplaced: Option<UnplacedView>,
    /// Published ports, as `8080->80/tcp`.
    pub ports: Vec<String>,
}

/// Slots that no node can take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnplacedView {
    /// How many.
    pub count: u32,
    /// Why, with counts.
    pub reason: String,
}

/// How a task stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskView {
    /// Which.
    #[schema(value_type = String)]
    pub id: TaskId,
    /// `stack/service`.
    #[schema(value_type = String)]
    pub service: ServiceKey,
    /// Which replica.
    #[schema(value_type = Object)]
    pub slot: Slot,
    /// Where.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// The node's name; its id where the node has left.
    pub node_name: String,
    /// The node is heard.
    pub node_ready: bool,
    /// As in the stack file.
    pub image: String,
    /// What it runs.
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
    /// Whether it should run.
    #[schema(value_type = String)]
    pub desired: DesiredState,
    /// It is of the service's present version.
    pub current: bool,
    /// How far it has come.
    #[schema(value_type = String)]
    pub phase: Phase,
    /// It serves.
    pub ready: bool,
    /// The verdict of its health check.
    #[schema(value_type = Option<String>)]
    pub health: Option<Health>,
    /// How often its container was started again.
    pub restarts: u32,
    /// Why it is not further.
    pub message: Option<String>,
    /// Of the last end of its container.
    pub exit_code: Option<i32>,
    /// The last end was for want of memory.
    pub out_of_memory: bool,
    /// The engine's id of its container.
    pub container: Option<String>,
    /// Its first process on its host.
    pub pid: Option<u32>,
    /// Published ports, as `8080->80/tcp`.
    pub ports: Vec<String>,
    /// Since when the phase and readiness are what they are, by its host's clock.
    #[schema(value_type = u64)]
    pub since: Timestamp,
    /// When it was decided.
    #[schema(value_type = u64)]
    pub created_at: Timestamp,
}

/// One stack in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StackView {
    /// Which.
    #[schema(value_type = String)]
    pub name: StackName,
    /// The revision that last changed it.
    pub revision: u64,
    /// How many services.
    pub services: u32,
    /// How many tasks serve.
    pub ready: u32,
    /// How many tasks should.
    pub desired: u32,
    /// Everything is as wanted.
    pub converged: bool,
    /// It is being removed.
    pub removing: bool,
    /// When its spec last changed.
    #[schema(value_type = u64)]
    pub updated_at: Timestamp,
}

/// `GET /v1/stacks/{stack}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StackDetail {
    /// As in the listing.
    pub stack: StackView,
    /// What is wanted.
    #[schema(value_type = Object)]
    pub spec: StackSpec,
}

/// `GET /v1/stacks/{stack}/status`: what a waiting deploy follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StackStatus {
    /// The state's revision that this was read from.
    pub revision: u64,
    /// `None`: there is no such stack (any more).
    pub stack: Option<StackView>,
    /// Its services.
    pub services: Vec<ServiceView>,
    /// Their tasks.
    pub tasks: Vec<TaskView>,
}

/// What became of an image's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResolvedImage {
    /// As in the stack file.
    pub reference: String,
    /// What the tasks run.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Where the answer came from.
    pub source: ImageSource,
}

/// Where an image's digest came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// It stood in the reference.
    Reference,
    /// Its registry.
    Registry,
    /// Hosts that have it loaded.
    Loaded {
        /// How many have it.
        nodes: u32,
        /// Of how many that were asked.
        asked: u32,
    },
    /// It is what the stack runs already: its registry did not answer for it.
    Deployed,
}

/// What `PUT /v1/stacks/{stack}` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeployResponse {
    /// The stack's.
    pub revision: u64,
    /// False: everything was already as asked.
    pub changed: bool,
    /// One for each distinct reference.
    pub images: Vec<ResolvedImage>,
}

/// What `POST /v1/stacks/{stack}/plan` answers: what a deploy would do at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// The revision that a deploy would replace; 0: none.
    pub revision: u64,
    /// False: everything is already as asked.
    pub changed: bool,
    /// One for each service of either spec.
    pub services: Vec<ServicePlan>,
    /// One for each distinct reference.
    pub images: Vec<ResolvedImage>,
}

/// What would happen to one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServicePlan {
    /// `stack/service`.
    #[schema(value_type = String)]
    pub key: ServiceKey,
    /// In one word.
    pub action: PlanAction,
    /// The fields that differ: path, old value, new value.
    pub differences: Vec<Difference>,
    /// Tasks that would be started at once, as `slot on node`.
    pub starts: Vec<String>,
    /// Tasks that would be asked to end at once, as `slot on node`.
    pub stops: Vec<String>,
    /// Tasks that would be replaced one after the other.
    pub replaces: u32,
    /// Slots that no node could take, and why.
    pub unplaced: Option<UnplacedView>,
}

/// One field that differs between what is and what is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// Such as `container.environment.LEVEL`.
    pub path: String,
    /// As JSON; `None`: it was not there.
    pub old: Option<String>,
    /// As JSON; `None`: it goes.
    pub new: Option<String>,
}

/// What would happen to a service, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanAction {
    /// It is new.
    Create,
    /// Its tasks are replaced.
    Replace,
    /// It changes, its tasks stay.
    Update,
    /// It goes.
    Remove,
    /// It stays as it is.
    Keep,
}

/// What a write answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// Of the state.
    pub revision: u64,
    /// False: it was already so.
    pub changed: bool,
}

/// One image on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// The manifest's digest: what tasks are pinned to.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// The configuration's digest: Docker's image id.
    #[schema(value_type = String)]
    pub id: Digest,
    /// Its names.
    pub references: Vec<String>,
    /// Unpacked, in bytes.
    pub size_bytes: u64,
    /// `registry`, `loaded` or `imported`.
    pub origin: String,
    /// RFC 3339; as the image says.
    pub created: Option<String>,
}

/// One registry that the cluster has a credential for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegistryView {
    /// Host and port.
    pub registry: String,
    /// The name. The password is never shown.
    pub username: String,
}

/// A secret or a config. What a secret holds is never shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileView {
    /// Its name in the cluster.
    pub name: String,
    /// The stack that brings it along; none: it was made by hand.
    #[schema(value_type = Option<String>)]
    pub stack: Option<StackName>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How much it holds, in bytes.
    pub bytes: u64,
    /// Names what it holds without telling it: another content has another.
    #[schema(value_type = String)]
    pub content: ContentId,
    /// When it was made by hand.
    #[schema(value_type = Option<u64>)]
    pub created_at: Option<Timestamp>,
    /// The stacks that use it.
    #[schema(value_type = Vec<String>)]
    pub used_by: Vec<StackName>,
    /// What it says: of one config that is asked for, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// One network between hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkView {
    /// Its full name.
    pub name: String,
    /// The revision that made it: one that was removed and made again under the same name has another.
    #[serde(default)]
    pub id: u64,
    /// The VXLAN network identifier.
    pub vni: u32,
    /// Whose it is; `None`: made by hand.
    #[schema(value_type = Option<String>)]
    pub stack: Option<StackName>,
    /// IPv4 first.
    pub subnets: Vec<String>,
    /// No way out of it.
    pub internal: bool,
    /// What it sends between hosts is encrypted.
    pub encrypted: bool,
    /// Containers that are no tasks may be on it.
    pub attachable: bool,
    /// In bytes; `None`: what fits between the hosts.
    pub mtu: Option<u32>,
    /// As the user gave them.
    pub labels: BTreeMap<String, String>,
    /// How many addresses are left.
    pub free_addresses: u32,
    /// The hosts on it.
    pub hosts: Vec<NetworkHostView>,
    /// The services on it.
    pub services: Vec<NetworkServiceView>,
    /// The tasks on it.
    pub tasks: Vec<NetworkTaskView>,
    /// The containers on it that belong to no stack.
    #[serde(default)]
    pub guests: Vec<NetworkGuestView>,
}

/// A container on a network that belongs to no stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkGuestView {
    /// The id that its host gave it.
    pub container: String,
    /// Where it runs.
    pub node: String,
    /// Its addresses there.
    pub addresses: Vec<String>,
    /// Its names there.
    pub names: Vec<String>,
}

/// A host on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkHostView {
    /// Its name.
    pub node: String,
    /// Where it is between hosts.
    #[serde(default)]
    pub underlay: String,
    /// Its own addresses there: its containers' gateways.
    pub addresses: Vec<String>,
    /// Whether it does what was decided. Only where one network is asked for: the host itself is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub convergence: Option<Convergence>,
}

/// Whether a host does on a network what was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Convergence {
    /// It does.
    InForce,
    /// Not yet everything.
    Behind {
        /// Why, where the host knows more than that it has only just heard of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<String>,
    },
    /// It cannot be asked.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// What a host does of its networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostNetworksView {
    /// The generation of each network that is in force, by full name.
    pub generations: BTreeMap<String, u64>,
    /// Why not everything is done that was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A service on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkServiceView {
    /// `STACK/SERVICE`.
    pub service: String,
    /// Its virtual addresses there.
    pub addresses: Vec<String>,
    /// Its names there.
    pub names: Vec<String>,
}

/// A task on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkTaskView {
    /// Which.
    #[schema(value_type = String)]
    pub task: TaskId,
    /// `STACK/SERVICE`.
    pub service: String,
    /// Its host's name.
    pub node: String,
    /// Its addresses there.
    pub addresses: Vec<String>,
    /// `not ready`, `serving` or `draining`.
    pub state: String,
}

/// One line of a task's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Which task.
    #[schema(value_type = String)]
    pub task: TaskId,
    /// Nanoseconds since the Unix epoch, by its host's clock.
    pub time_nanoseconds: u64,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Without the line's end; bytes that are no UTF-8 are replaced.
    pub line: String,
    /// The line goes on in the next record.
    #[serde(default)]
    pub partial: bool,
}

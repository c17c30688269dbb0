//! Pure. The replicated state. Only [`apply`](crate::apply()) changes it; its maps are persistent, so a clone is cheap and a
//! reader's snapshot costs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use stack_model::spec::{ServiceSpec, StackSpec};
use stack_model::{
    Content, ContentId, Draining, FileKind, Node, NodeId, RegistryCredential, RequestId, ServiceKey, StackName, Task,
    TaskId, TaskSpec, Timestamp,
};

use crate::command::ClusterIdentity;
use crate::guests::Said;
use crate::networks::Network;

/// All that the controllers agree on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "StoredState", into = "StoredState")]
pub struct State {
    /// The number of entries applied so far; the log's index of the last one.
    pub revision: u64,
    /// The time of the last entry; never goes back.
    pub time: Timestamp,
    /// Who the cluster is; `None` before the first entry of a new cluster.
    pub identity: Option<ClusterIdentity>,
    /// The hosts.
    pub nodes: OrdMap<NodeId, Node>,
    /// Which hosts are controllers, and who they are to Raft.
    pub controllers: OrdMap<NodeId, ControllerMember>,
    /// What users want.
    pub stacks: OrdMap<StackName, Stack>,
    /// The services of all stacks, with what the planner keeps for each.
    pub services: OrdMap<ServiceKey, Service>,
    /// What was decided.
    pub tasks: OrdMap<TaskId, Task>,
    /// The generation of each node's assignment: the revision that last changed it.
    pub generations: OrdMap<NodeId, u64>,
    /// For the hosts that pull, by the registry's host and port.
    pub registry_credentials: OrdMap<String, RegistryCredential>,
    /// The networks between hosts, by full name.
    pub networks: OrdMap<String, Network>,
    /// What secrets and configs hold, as long as anything names it.
    pub contents: OrdMap<ContentId, Content>,
    /// The secrets that were made by hand, by name.
    pub secrets: OrdMap<String, StoredFile>,
    /// The configs that were made by hand, by name.
    pub configs: OrdMap<String, StoredFile>,
    /// The last word of each host about its guests on networks between hosts.
    pub said: OrdMap<NodeId, Said>,
    /// The highest VXLAN network identifier of a network that was removed: it is not given to another one soon.
    pub last_vni: u32,
    /// Index over `tasks`.
    tasks_of_service: OrdMap<ServiceKey, OrdSet<TaskId>>,
    /// Index over `tasks`.
    tasks_of_node: OrdMap<NodeId, OrdSet<TaskId>>,
    /// Index over `tasks`.
    draining: OrdSet<TaskId>,
}

/// A secret or config that was made by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// What it holds.
    pub content: ContentId,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When that was.
    pub created_at: Timestamp,
}

/// A controller, as Raft knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerMember {
    /// Random, never used again after a wipe.
    pub raft_id: u64,
}

/// One stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    /// As the user wrote it, with digests filled in.
    pub spec: Arc<StackSpec>,
    /// The revision that last changed the spec: what a deploy may expect to replace.
    pub revision: u64,
    /// When it was first deployed.
    pub created_at: Timestamp,
    /// When its spec last changed.
    pub updated_at: Timestamp,
    /// It is being removed: its tasks end, then it vanishes.
    pub removing: bool,
}

/// One service, with what the planner keeps for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// What the user wants; every published port is filled in.
    pub spec: Arc<ServiceSpec>,
    /// What its tasks run, derived from `spec` and the stack.
    pub task_spec: Arc<TaskSpec>,
    /// The revision that last changed `task_spec`.
    pub version: u64,
    /// What to return to when an update fails.
    pub previous: Option<Arc<ServiceSpec>>,
    /// What its tasks ran: the stack may no longer have the volumes and networks that it was derived from.
    #[serde(default)]
    pub previous_task_spec: Option<Arc<TaskSpec>>,
    /// The rollout that is under way, or how the last one ended badly.
    pub update: Option<Update>,
    /// It left the stack file: its tasks end, then it vanishes.
    pub removing: bool,
    /// No task of this version is started yet: services that it needs are not there. Set by a deploy, lifted by the
    /// leader's plan, once for each version.
    #[serde(default)]
    pub waits: bool,
    /// The user's request that last changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// Slots that no node can take now, and why. Written by the leader's plan.
    pub unplaced: Option<Unplaced>,
}

/// The rollout of a changed spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// When it began.
    pub started_at: Timestamp,
    /// How it stands.
    pub state: UpdateState,
}

/// How a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    /// Tasks are being replaced.
    Rolling,
    /// Tasks are being returned to the previous spec.
    RollingBack {
        /// What failed.
        reason: String,
    },
    /// Too much failed; nothing further is replaced until the next deploy.
    Paused {
        /// What failed.
        reason: String,
    },
    /// The previous spec is back.
    RolledBack {
        /// What failed.
        reason: String,
    },
}

impl Update {
    /// The spec that is being rolled out has not shown yet that it works.
    #[must_use]
    pub const fn is_unproved(&self) -> bool {
        matches!(self.state, UpdateState::Rolling | UpdateState::Paused { .. })
    }
}

/// Slots that no node can take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unplaced {
    /// How many.
    pub count: u32,
    /// Why, with counts: `no node fits: 1 of 3 is down, 2 of 3 lack 4.0 GiB of memory`.
    pub reason: String,
}

impl State {
    /// The secrets or configs that were made by hand.
    #[must_use]
    pub const fn files(&self, kind: FileKind) -> &OrdMap<String, StoredFile> {
        match kind {
            FileKind::Secret => &self.secrets,
            FileKind::Config => &self.configs,
        }
    }

    pub(crate) const fn files_mut(&mut self, kind: FileKind) -> &mut OrdMap<String, StoredFile> {
        match kind {
            FileKind::Secret => &mut self.secrets,
            FileKind::Config => &mut self.configs,
        }
    }

    /// The tasks of one service, in the order of their ids.
    pub fn tasks_of<'a>(&'a self, service: &ServiceKey) -> impl Iterator<Item = &'a Task> {
        self.tasks_of_service.get(service).into_iter().flatten().filter_map(|id| self.tasks.get(id))
    }

    /// The tasks on one node, in the order of their ids.
    pub fn tasks_on(&self, node: NodeId) -> impl Iterator<Item = &Task> {
        self.tasks_of_node.get(&node).into_iter().flatten().filter_map(|id| self.tasks.get(id))
    }

    /// The tasks that shall end and wait until nobody sends them anything new.
    pub fn draining(&self) -> impl Iterator<Item = &Task> {
        self.draining.iter().filter_map(|id| self.tasks.get(id))
    }

    pub(crate) fn set_draining(&mut self, id: TaskId, draining: Option<Draining>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.draining = draining;
        match draining {
            Some(_) => self.draining.insert(id),
            None => self.draining.remove(&id),
        };
    }

    pub(crate) fn insert_task(&mut self, task: Task) {
        if task.draining.is_some() {
            self.draining.insert(task.id);
        }
        self.tasks_of_service.entry(task.service.clone()).or_default().insert(task.id);
        self.tasks_of_node.entry(task.node).or_default().insert(task.id);
        self.tasks.insert(task.id, task);
    }

    pub(crate) fn remove_task(&mut self, id: TaskId) {
        let Some(task) = self.tasks.remove(&id) else { return };
        self.draining.remove(&id);
        if let Some(ids) = self.tasks_of_service.get_mut(&task.service) {
            ids.remove(&id);
            if ids.is_empty() {
                self.tasks_of_service.remove(&task.service);
            }
        }
        if let Some(ids) = self.tasks_of_node.get_mut(&task.node) {
            ids.remove(&id);
            if ids.is_empty() {
                self.tasks_of_node.remove(&task.node);
            }
        }
    }
}

/// [`State`] as it is written into snapshots: without the indexes.
#[derive(Clone, Serialize, Deserialize)]
struct StoredState {
    revision: u64,
    time: Timestamp,
    #[serde(default)]
    identity: Option<ClusterIdentity>,
    #[serde(default)]
    nodes: Vec<Node>,
    #[serde(default)]
    controllers: OrdMap<NodeId, ControllerMember>,
    #[serde(default)]
    stacks: OrdMap<StackName, Stack>,
    #[serde(default)]
    services: OrdMap<ServiceKey, Service>,
    #[serde(default)]
    tasks: Vec<Task>,
    #[serde(default)]
    generations: OrdMap<NodeId, u64>,
    #[serde(default)]
    registry_credentials: OrdMap<String, RegistryCredential>,
    #[serde(default)]
    networks: OrdMap<String, Network>,
    #[serde(default)]
    contents: OrdMap<ContentId, Content>,
    #[serde(default)]
    secrets: OrdMap<String, StoredFile>,
    #[serde(default)]
    configs: OrdMap<String, StoredFile>,
    #[serde(default)]
    said: OrdMap<NodeId, Said>,
    #[serde(default)]
    last_vni: u32,
}

impl From<StoredState> for State {
    fn from(stored: StoredState) -> Self {
        let mut state = Self {
            revision: stored.revision,
            time: stored.time,
            identity: stored.identity,
            nodes: stored.nodes.into_iter().map(|node| (node.id, node)).collect(),
            controllers: stored.controllers,
            stacks: stored.stacks,
            services: stored.services,
            generations: stored.generations,
            registry_credentials: stored.registry_credentials,
            networks: stored
                .networks
                .into_iter()
                .map(|(name, mut network)| {
                    network.reindex();
                    (name, network)
                })
                .collect(),
            contents: stored.contents,
            secrets: stored.secrets,
            configs: stored.configs,
            said: stored.said,
            last_vni: stored.last_vni,
            ..Self::default()
        };
        for mut task in stored.tasks {
            // Tasks of one version share one spec in memory, as they did before they were written.
            if let Some(service) = state.services.get(&task.service)
                && service.task_spec == task.spec
            {
                task.spec = Arc::clone(&service.task_spec);
            }
            state.insert_task(task);
        }
        state
    }
}

impl From<State> for StoredState {
    fn from(state: State) -> Self {
        Self {
            revision: state.revision,
            time: state.time,
            identity: state.identity,
            nodes: state.nodes.values().cloned().collect(),
            controllers: state.controllers,
            stacks: state.stacks,
            services: state.services,
            tasks: state.tasks.values().cloned().collect(),
            generations: state.generations,
            registry_credentials: state.registry_credentials,
            networks: state.networks,
            contents: state.contents,
            secrets: state.secrets,
            configs: state.configs,
            said: state.said,
            last_vni: state.last_vni,
        }
    }
}

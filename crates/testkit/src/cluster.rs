//! A cluster without agents, driven by hand: for tests of the planner that read as documentation. Its hosts obey at once
//! when they are told to ([`Cluster::hosts_obey`]), and time passes only when the test says so.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use stack_model::{
    Availability, DesiredState, Milliseconds, NodeDescription, NodeId, NodeRole, Phase, Readiness, Report, ServiceKey,
    StackSpec, Task, TaskId, TaskStatus, Timestamp,
};
use stack_planner::command::{ClusterIdentity, Secret};
use stack_planner::{
    Applied, Command, Entry, Ids, Plan, Rejected, Service, ServiceStatus, State, apply, is_acknowledgement_awaited,
    plan, service_status,
};

use crate::specs;

/// One GiB, in bytes.
pub const GIB: u64 = 1 << 30;
/// More rounds than anything takes that comes to rest.
const ROUNDS: usize = 500;

/// The state, a clock and a counter for ids.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// What the controllers agree on.
    pub state: State,
    /// The leader's clock.
    pub now: Timestamp,
    drawn: u128,
}

/// The `number`th node's id.
#[must_use]
pub const fn node(number: u64) -> NodeId {
    NodeId::from_bits(number as u128) // a widening that `From` cannot do in a constant function
}

impl Cluster {
    /// A new cluster of so many nodes that are ready: `node-1` and so on, 4 processors and 8 GiB each, all workers but
    /// the first.
    ///
    /// # Panics
    /// An entry is refused: a defect of the planner.
    #[must_use]
    pub fn of_nodes(count: u64) -> Self {
        let mut cluster = Self { state: State::default(), now: Timestamp(1_000_000), drawn: 0 };
        let secret = || Secret("secret".to_owned());
        cluster.must(Command::Initialize {
            identity: ClusterIdentity {
                cluster_id: "test".to_owned(),
                ca_certificate: String::new(),
                ca_key: secret(),
                worker_token: secret(),
                controller_token: secret(),
                encrypts_networks: false,
            },
        });
        for number in 1..=count {
            cluster.join(number, 4_000, 8 * GIB);
        }
        cluster
    }

    /// Another node joins and is ready.
    ///
    /// # Panics
    /// It may not: a defect of the planner.
    pub fn join(&mut self, number: u64, cpu_millis: u64, memory_bytes: u64) {
        self.must(Command::AddNode {
            id: node(number),
            role: if number == 1 { NodeRole::Controller } else { NodeRole::Worker },
            address: SocketAddr::from(([10, 0, 0, u8::try_from(number).unwrap_or(0)], 2377)),
            description: NodeDescription {
                hostname: format!("node-{number}"),
                operating_system: "linux".to_owned(),
                architecture: "amd64".to_owned(),
                cpu_millis,
                memory_bytes,
                ..NodeDescription::default()
            },
            raft_id: (number == 1).then_some(1),
        });
        self.set_readiness(number, Readiness::Ready);
    }

    /// One entry of the log.
    ///
    /// # Errors
    /// The state machine refuses it.
    #[allow(clippy::result_large_err, reason = "it is the state machine's own answer")]
    pub fn apply(&mut self, command: Command) -> Result<Applied, Rejected> {
        let entry = Entry { revision: self.state.revision + 1, time: self.now, request: None };
        apply(&mut self.state, entry, command)
    }

    /// One entry that may not be refused.
    ///
    /// # Panics
    /// It is.
    pub fn must(&mut self, command: Command) -> Applied {
        let kind = command.kind();
        self.apply(command).unwrap_or_else(|rejected| panic!("`{kind}` was refused: {rejected}"))
    }

    /// A deploy that may not be refused.
    pub fn deploy(&mut self, spec: StackSpec) -> Applied {
        self.must(Command::PutStack { spec: Box::new(spec), expected_revision: None, contents: Default::default() })
    }

    /// A deploy that is refused.
    ///
    /// # Panics
    /// It is not.
    pub fn refused(&mut self, spec: StackSpec) -> Rejected {
        self.apply(Command::PutStack { spec: Box::new(spec), expected_revision: None, contents: Default::default() })
            .expect_err("this deploy should be refused")
    }

    /// A service gets another number of tasks.
    pub fn scale(&mut self, service: &str, replicas: u32) -> Applied {
        self.must(Command::Scale { replicas: BTreeMap::from([(specs::key(service), replicas)]) })
    }

    /// The liveness watch saw a node come or go.
    pub fn set_readiness(&mut self, number: u64, readiness: Readiness) {
        self.must(Command::SetReadiness { nodes: BTreeMap::from([(node(number), readiness)]) });
    }

    /// The user drains or activates a node.
    pub fn set_availability(&mut self, number: u64, availability: Availability) {
        let labels = BTreeMap::new();
        self.must(Command::UpdateNode { id: node(number), availability: Some(availability), labels });
    }

    /// The user labels a node.
    pub fn label(&mut self, number: u64, key: &str, value: &str) {
        let labels = BTreeMap::from([(key.to_owned(), Some(value.to_owned()))]);
        self.must(Command::UpdateNode { id: node(number), availability: None, labels });
    }

    /// Time passes.
    pub fn pass(&mut self, milliseconds: u64) {
        self.now = self.now + Milliseconds(milliseconds);
    }

    /// What the leader would decide now.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut drawn = self.drawn;
        let mut draw = || {
            drawn += 1;
            drawn
        };
        plan(&self.state, self.now, &mut Ids(&mut draw))
    }

    /// One plan is made and committed.
    ///
    /// # Panics
    /// It does not fit the state that it was made from.
    pub fn turn(&mut self) -> Plan {
        let decided = self.plan();
        self.drawn += u128::try_from(decided.changes.len()).unwrap_or(u128::MAX);
        if !decided.is_empty() {
            let applied = self.must(Command::Commit { plan: decided.clone() });
            assert_eq!(applied.skipped, 0, "a fresh plan fits: {:?}", decided.changes);
        }
        decided
    }

    /// Plans are made and committed until there is nothing left to decide.
    ///
    /// # Panics
    /// There always is.
    pub fn decide(&mut self) -> Plan {
        for _ in 0..ROUNDS {
            let decided = self.turn();
            if decided.is_empty() {
                return decided;
            }
        }
        panic!("the planner does not come to rest: {:?}", self.plan().changes)
    }

    /// Every node that is ready says that it sends draining tasks nothing new, and does and reports what it is told: what should run runs and is ready, what should end
    /// has ended. Answers whether that was news.
    pub fn hosts_obey(&mut self) -> bool {
        let revision = self.state.revision;
        let nodes: Vec<NodeId> = self.state.nodes.keys().copied().collect();
        let mut any = false;
        for node in nodes {
            if is_acknowledgement_awaited(&self.state, node, revision)
                && self.state.nodes.get(&node).is_some_and(|node| node.readiness == Readiness::Ready)
            {
                any |= self.must(Command::AcknowledgeNetworks { node, revision }).changed;
            }
        }
        if any {
            self.decide();
        }
        let mut reports: BTreeMap<NodeId, Report> = BTreeMap::new();
        for task in self.state.tasks.values().filter(|task| !task.status.phase.is_terminal()) {
            if self.state.nodes.get(&task.node).is_none_or(|node| node.readiness == Readiness::Down) {
                continue;
            }
            let (phase, ready) = match task.desired {
                _ if task.draining.is_some() => continue,
                DesiredState::Running => (Phase::Running, true),
                DesiredState::Stopped => (Phase::Complete, false),
            };
            let status = TaskStatus { phase, ready, since: task.status.since, ..task.status.clone() };
            let report = reports.entry(task.node).or_insert_with(|| Report {
                node: task.node,
                generation: 0,
                tasks: BTreeMap::new(),
            });
            report.tasks.insert(task.id, status);
        }
        self.must(Command::Report { reports: reports.into_values().collect() }).changed || any
    }

    /// Everything that can happen without time passing has happened.
    ///
    /// # Panics
    /// It never ends.
    pub fn settle(&mut self) -> Plan {
        for _ in 0..ROUNDS {
            let rest = self.decide();
            if !self.hosts_obey() {
                return rest;
            }
        }
        panic!("the cluster does not come to rest: {:?}", self.plan().changes)
    }

    /// As [`settle`](Self::settle), and whenever only time is waited for, it passes.
    ///
    /// # Panics
    /// It never ends.
    pub fn settle_over_time(&mut self) {
        for _ in 0..ROUNDS {
            match self.settle().wake_at {
                Some(at) => self.now = at.max(self.now),
                None => return,
            }
        }
        panic!("the cluster waits for ever")
    }

    /// A node says something of one task.
    pub fn say(&mut self, task: TaskId, change: impl FnOnce(&mut TaskStatus)) -> Applied {
        let found = self.state.tasks.get(&task).cloned();
        let Some(found) = found else { return Applied::default() };
        let mut status = found.status.clone();
        change(&mut status);
        let tasks = BTreeMap::from([(task, status)]);
        self.must(Command::Report { reports: vec![Report { node: found.node, generation: 0, tasks }] })
    }

    /// A task comes to a phase.
    pub fn say_phase(&mut self, task: TaskId, phase: Phase, message: &str) {
        self.say(task, |status| {
            status.phase = phase;
            status.ready = false;
            status.message = Some(message.to_owned());
        });
    }

    /// The service.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn service(&self, service: &str) -> &Service {
        self.state.services.get(&specs::key(service)).unwrap_or_else(|| panic!("there is no service {service}"))
    }

    /// How the service stands.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn status(&self, service: &str) -> ServiceStatus {
        service_status(&self.state, &specs::key(service)).unwrap_or_else(|| panic!("there is no service {service}"))
    }

    /// The tasks of a service that should run, by slot.
    #[must_use]
    pub fn active(&self, service: &str) -> Vec<Task> {
        let key: ServiceKey = specs::key(service);
        let mut tasks: Vec<Task> = self.state.tasks_of(&key).filter(|task| task.is_active()).cloned().collect();
        tasks.sort_by_key(|task| (task.slot, task.revision));
        tasks
    }

    /// How many tasks that should run each node has of a service: `[2, 1, 1]` for the nodes 1, 2 and 3.
    #[must_use]
    pub fn spread(&self, service: &str) -> Vec<usize> {
        let tasks = self.active(service);
        self.state.nodes.keys().map(|node| tasks.iter().filter(|task| task.node == *node).count()).collect()
    }

    /// How many slots of a service have a task that is ready.
    #[must_use]
    pub fn ready(&self, service: &str) -> u32 {
        self.status(service).ready
    }

    /// Why slots of the service have no place; empty: all have one.
    #[must_use]
    pub fn unplaced(&self, service: &str) -> String {
        self.service(service).unplaced.as_ref().map_or_else(String::new, |unplaced| unplaced.reason.clone())
    }

    /// Whether every task of a service that should run has this word in its command.
    #[must_use]
    pub fn all_run(&self, service: &str, word: &str) -> bool {
        let tasks = self.active(service);
        !tasks.is_empty()
            && tasks.iter().all(|task| task.spec.container.command.iter().flatten().any(|present| present == word))
    }
}

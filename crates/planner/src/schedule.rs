//! Pure. Where a task may run, where it runs best, and why it may not run: every filter can explain itself.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use stack_model::spec::{Constraint, PublishMode, PublishedPort, ServiceSpec, UpdateOrder, UpdatePolicy};
use stack_model::{Availability, Node, NodeId, Readiness, ServiceKey, Task, TaskId, TaskSpec};

use crate::encryption;
use crate::state::State;

/// What a node's tasks take of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Load {
    cpu_millis: u64,
    memory_bytes: u64,
    ports: Vec<PublishedPort>,
    /// Ports that the service in question shares among its own tasks.
    own_shared_ports: Vec<PublishedPort>,
    tasks: u32,
    of_service: u32,
}

impl Load {
    /// Counts a task; `own`: it belongs to the service that is being placed.
    pub(crate) fn add(&mut self, own: bool, spec: &TaskSpec) {
        self.tasks += 1;
        self.of_service += u32::from(own);
        self.cpu_millis = self.cpu_millis.saturating_add(spec.resources.cpu_reservation_millis);
        self.memory_bytes = self.memory_bytes.saturating_add(spec.resources.memory_reservation_bytes);
        for port in &spec.ports {
            if own && port.mode == PublishMode::Ingress {
                self.own_shared_ports.push(port.clone());
            } else {
                self.ports.push(port.clone());
            }
        }
    }
}

/// Why one node cannot take a task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refusal {
    Down,
    Drained,
    Constraint(String),
    Cpu(u64),
    Memory(u64),
    Port(String),
    Replicas(u32),
    Encryption(String),
    RejectedIt,
}

impl Refusal {
    fn text(&self, count: usize, total: usize) -> String {
        let one = count == 1;
        let nodes = if total == 1 { "node" } else { "nodes" };
        let who = format!("{count} of {total} {nodes}");
        let verb = |singular: &str, plural: &str| if one { singular.to_owned() } else { plural.to_owned() };
        match self {
            Self::Down => format!("{who} {} down", verb("is", "are")),
            Self::Drained => format!("{who} {} drained", verb("is", "are")),
            Self::Constraint(constraint) => format!("{who} {} not match `{constraint}`", verb("does", "do")),
            Self::Cpu(millis) => format!("{who} {} {} free CPUs", verb("lacks", "lack"), Cpus(*millis)),
            Self::Memory(bytes) => format!("{who} {} {} of free memory", verb("lacks", "lack"), Bytes(*bytes)),
            Self::Port(port) => format!("{who} {} port {port} taken", verb("has", "have")),
            Self::Replicas(limit) => format!("{who} already {} {limit} of its tasks", verb("runs", "run")),
            Self::Encryption(reason) => {
                format!("{who} cannot be on its encrypted networks ({reason})")
            }
            Self::RejectedIt => format!("{who} could not run it and {} tried again later", verb("is", "are")),
        }
    }
}

struct Cpus(u64);

impl fmt::Display for Cpus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            write!(formatter, "{whole}")
        } else {
            formatter.write_str(format!("{whole}.{rest:03}").trim_end_matches('0'))
        }
    }
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            0..1024 => return write!(formatter, "{} B", self.0),
            1024..0x10_0000 => (1024, "KiB"),
            0x10_0000..0x4000_0000 => (0x10_0000, "MiB"),
            _ => (0x4000_0000, "GiB"),
        };
        write!(formatter, "{}.{} {name}", self.0 / unit, self.0 % unit * 10 / unit)
    }
}

/// Whether two published ports cannot be on one host at the same time.
pub(crate) fn same_port(one: &PublishedPort, other: &PublishedPort) -> bool {
    one.published == other.published && one.protocol == other.protocol && overlap(one.host_ip, other.host_ip)
}

/// Whether two addresses to publish on have one in common; `None` is every address.
pub(crate) fn overlap(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one == other || one.is_unspecified() || other.is_unspecified(),
        _ => true,
    }
}

/// Whether a new task can start before the old one of its slot ends: two tasks cannot own one host port.
pub(crate) fn may_start_first(service: &ServiceSpec) -> bool {
    !service.ports.iter().any(|port| port.mode == PublishMode::Host)
}

/// Whether it ever does.
pub(crate) fn starts_first(service: &ServiceSpec) -> bool {
    let first = |policy: &UpdatePolicy| policy.order == UpdateOrder::StartFirst;
    may_start_first(service) && (first(&service.update) || service.rollback.as_ref().is_some_and(first))
}

/// Whether the task keeps another one out of its slot: something of it may still run on a node that can be asked.
pub(crate) fn occupies_slot(state: &State, task: &Task) -> bool {
    if task.status.phase.is_terminal() {
        return false;
    }
    let reachable = state.nodes.get(&task.node).is_some_and(|node| node.readiness == Readiness::Ready);
    task.is_active() || reachable
}

/// Whether the node satisfies all the service's constraints.
pub(crate) fn matches_constraints(node: &Node, service: &ServiceSpec) -> bool {
    service.placement.constraints.iter().all(|constraint| matches(node, constraint))
}

fn matches(node: &Node, constraint: &Constraint) -> bool {
    let has = |value: &str| value.eq_ignore_ascii_case(&constraint.value);
    let present = match attribute(node, &constraint.attribute) {
        Some(value) if constraint.attribute == "node.role" => {
            has(&value) || (value == "controller" && constraint.value.eq_ignore_ascii_case("manager"))
        }
        Some(value) => has(&value),
        None => false,
    };
    present == constraint.equal
}

/// The value of a node attribute as constraints and spread preferences name it.
fn attribute(node: &Node, attribute: &str) -> Option<String> {
    if let Some(label) = attribute.strip_prefix("node.labels.") {
        return node.labels.get(label).cloned();
    }
    if let Some(label) = attribute.strip_prefix("engine.labels.") {
        return node.description.engine_labels.get(label).cloned();
    }
    match attribute {
        "node.id" => Some(node.id.to_string()),
        "node.hostname" => Some(node.name.clone()),
        "node.ip" => Some(node.address.ip().to_string()),
        "node.role" => Some(node.role.as_str().to_owned()),
        "node.platform.os" => Some(node.description.operating_system.clone()),
        "node.platform.arch" => Some(node.description.architecture.clone()),
        _ => None,
    }
}

/// The first reason why `node`, with `load` on it, cannot take a task; `None`: it can.
pub(crate) fn refusal(
    state: &State,
    node: &Node,
    load: &Load,
    service: &ServiceSpec,
    task: &TaskSpec,
) -> Option<Refusal> {
    if node.readiness == Readiness::Down {
        return Some(Refusal::Down);
    }
    if node.availability == Availability::Drain {
        return Some(Refusal::Drained);
    }
    if let Some(constraint) = service.placement.constraints.iter().find(|constraint| !matches(node, constraint)) {
        let operator = if constraint.equal { "==" } else { "!=" };
        return Some(Refusal::Constraint(format!("{} {operator} {}", constraint.attribute, constraint.value)));
    }
    let resources = &task.resources;
    if load.cpu_millis.saturating_add(resources.cpu_reservation_millis) > node.description.cpu_millis
        && resources.cpu_reservation_millis > 0
    {
        return Some(Refusal::Cpu(resources.cpu_reservation_millis));
    }
    if load.memory_bytes.saturating_add(resources.memory_reservation_bytes) > node.description.memory_bytes
        && resources.memory_reservation_bytes > 0
    {
        return Some(Refusal::Memory(resources.memory_reservation_bytes));
    }
    let taken = |port: &&PublishedPort| {
        let same = |other: &PublishedPort| same_port(other, port);
        load.ports.iter().any(same) || (port.mode == PublishMode::Host && load.own_shared_ports.iter().any(same))
    };
    if let Some(port) = task.ports.iter().find(taken) {
        let number = port.published.unwrap_or(0);
        return Some(Refusal::Port(format!("{number}/{}", port.protocol.as_str())));
    }
    if let Some(limit) = service.placement.max_replicas_per_node
        && load.of_service >= limit
    {
        return Some(Refusal::Replicas(limit));
    }
    let mut networks = task.networks.keys().filter_map(|name| state.networks.get(name));
    if networks.any(encryption::is_encrypted) {
        return encryption::unable(node).map(Refusal::Encryption);
    }
    None
}

/// The nodes and what is on them, kept up to date while a plan grows.
pub(crate) struct Board<'a> {
    nodes: Vec<&'a Node>,
    /// The tasks on each node, as service and spec.
    tasks: BTreeMap<NodeId, BTreeMap<TaskId, (&'a ServiceKey, &'a TaskSpec)>>,
    state: &'a State,
    /// How many addresses of each network this plan takes.
    taken_addresses: BTreeMap<&'a str, u32>,
}

impl<'a> Board<'a> {
    pub(crate) fn new(state: &'a State) -> Self {
        let mut tasks: BTreeMap<NodeId, BTreeMap<TaskId, (&ServiceKey, &TaskSpec)>> = BTreeMap::new();
        for task in state.tasks.values().filter(|task| task.holds_its_node()) {
            tasks.entry(task.node).or_default().insert(task.id, (&task.service, &task.spec));
        }
        Self { nodes: state.nodes.values().collect(), tasks, state, taken_addresses: BTreeMap::new() }
    }

    pub(crate) fn place(&mut self, node: NodeId, id: TaskId, service: &'a ServiceKey, spec: &'a TaskSpec) {
        self.tasks.entry(node).or_default().insert(id, (service, spec));
        for name in spec.networks.keys() {
            let comes_anew = self.state.networks.get(name).is_some_and(|network| !network.hosts.contains_key(&node));
            *self.taken_addresses.entry(name).or_default() += 1 + u32::from(comes_anew);
        }
    }

    /// A network of the task that has no address for it.
    fn full_network(&self, service: &ServiceKey, task: &TaskSpec) -> Option<String> {
        task.networks.keys().find_map(|name| {
            let Some(network) = self.state.networks.get(name) else {
                return Some(format!("network `{name}` is gone: deploy the stack again"));
            };
            if let Some(fixed) = network.fixed.get(service) {
                let held = network.tasks.values().any(|number| number == fixed);
                return held.then(|| format!("network `{name}`: the task before still has the fixed address"));
            }
            let taken = self.taken_addresses.get(name.as_str()).copied().unwrap_or(0);
            // One for the task, and one for its host, which may be new there.
            (network.free() < taken + 2)
                .then(|| format!("network `{name}` has no free address: all {} are taken", network.capacity()))
        })
    }

    fn load(&self, node: NodeId, service: &ServiceKey) -> Load {
        let mut load = Load::default();
        for (key, spec) in self.tasks.get(&node).into_iter().flat_map(BTreeMap::values) {
            load.add(*key == service, spec);
        }
        load
    }

    /// The best node for one more task of the service: fewest of its tasks in the spread groups, then fewest of its
    /// tasks, then fewest tasks. `only`: no other node will do. `avoid`: not these.
    ///
    /// # Errors
    /// No node fits: why, with counts.
    pub(crate) fn choose(
        &self,
        key: &ServiceKey,
        service: &ServiceSpec,
        task: &TaskSpec,
        only: Option<NodeId>,
        avoid: &[NodeId],
    ) -> Result<NodeId, String> {
        if let Some(reason) = self.full_network(key, task) {
            return Err(reason);
        }
        let candidates: Vec<&Node> =
            self.nodes.iter().copied().filter(|node| only.is_none_or(|only| node.id == only)).collect();
        let loads: BTreeMap<NodeId, Load> = self.nodes.iter().map(|node| (node.id, self.load(node.id, key))).collect();
        let mut refusals: BTreeMap<Refusal, usize> = BTreeMap::new();
        let mut best: Option<(Vec<u32>, NodeId)> = None;
        for node in &candidates {
            let refused = refusal(self.state, node, &loads[&node.id], service, task)
                .or_else(|| avoid.contains(&node.id).then_some(Refusal::RejectedIt));
            if let Some(refused) = refused {
                *refusals.entry(refused).or_default() += 1;
                continue;
            }
            let mut rank: Vec<u32> = service
                .placement
                .spread
                .iter()
                .map(|name| {
                    let group = attribute(node, name);
                    let in_group = self.nodes.iter().filter(|other| attribute(other, name) == group);
                    in_group.map(|other| loads[&other.id].of_service).sum()
                })
                .collect();
            rank.push(loads[&node.id].of_service);
            rank.push(loads[&node.id].tasks);
            if best.as_ref().is_none_or(|(best_rank, best_id)| (&rank, node.id) < (best_rank, *best_id)) {
                best = Some((rank, node.id));
            }
        }
        best.map(|(_, node)| node).ok_or_else(|| {
            if candidates.is_empty() {
                return "the cluster has no node".to_owned();
            }
            let reasons: Vec<String> =
                refusals.iter().map(|(refusal, count)| refusal.text(*count, candidates.len())).collect();
            format!("no node fits: {}", reasons.join(", "))
        })
    }
}

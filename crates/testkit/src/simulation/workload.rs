//! What users do: stacks of every shape deployed, changed, scaled and removed, nodes drained, labelled and removed.

use std::collections::BTreeMap;

use stack_model::spec::{
    FailureAction, NetworkSpec, PublishMode, RestartCondition, RestartPolicy, ServiceMode, UpdateOrder,
};
use stack_model::{
    Availability, GuestWishes, Milliseconds, NodeDescription, NodeId, NodeRole, Readiness, ServiceKey, ServiceSpec,
    StackName, StackSpec, Wish,
};
use stack_planner::command::{ClusterIdentity, Secret};
use stack_planner::{Command, Said, are_as_declared};

use super::agents::SimulatedHost;
use super::world::{Event, World};
use crate::fake_host::FakeHost;
use crate::specs;

const STACKS: [&str; 3] = ["shop", "blog", "jobs"];
const SERVICES: [&str; 3] = ["web", "api", "worker"];
const ZONES: [&str; 2] = ["north", "south"];
const MIB: u64 = 1 << 20;

impl World {
    /// The cluster's first entries.
    pub(super) fn found_cluster(&mut self) -> Result<(), String> {
        self.leader.up = true;
        self.leader.term = 1;
        let secret = || Secret("secret".to_owned());
        self.must(Command::Initialize {
            identity: ClusterIdentity {
                cluster_id: "simulation".to_owned(),
                ca_certificate: String::new(),
                ca_key: secret(),
                worker_token: secret(),
                controller_token: secret(),
                encrypts_networks: false,
            },
        })?;
        let count = self.dice.between(2, 5);
        for number in 1..=count {
            let node = NodeId::from_bits(u128::from(number));
            let wrong = i64::try_from(self.dice.below(6_000)).unwrap_or(0) - 3_000;
            self.hosts.insert(node, SimulatedHost::new(format!("node-{number}"), FakeHost::default(), wrong));
            self.join(node)?;
            let zone = ZONES[usize::try_from(number % 2).unwrap_or(0)];
            self.label(node, zone)?;
            self.hear(node);
            self.agent_returns(node)?;
            let after = self.dice.below(500);
            self.schedule(after, Event::NodeTicks { node });
        }
        let spec = NetworkSpec { attachable: true, ..NetworkSpec::default() };
        self.must(Command::PutNetwork { name: "shared".to_owned(), spec })?;
        self.schedule(1, Event::LeaderTicks);
        self.schedule(10, Event::UserActs);
        if self.settings.faults {
            self.schedule(2_000, Event::FaultHappens);
        }
        Ok(())
    }

    pub(super) fn join_command(&self, node: NodeId) -> Command {
        let number = node.bits();
        Command::AddNode {
            id: node,
            role: if number <= 3 { NodeRole::Controller } else { NodeRole::Worker },
            address: std::net::SocketAddr::from(([10, 0, 0, u8::try_from(number % 250).unwrap_or(0)], 2377)),
            description: NodeDescription {
                hostname: self.name(node),
                operating_system: "linux".to_owned(),
                architecture: "amd64".to_owned(),
                cpu_millis: 2_000,
                memory_bytes: 1_024 * MIB,
                ..NodeDescription::default()
            },
            raft_id: (number <= 3).then_some(u64::try_from(number).unwrap_or(0)),
        }
    }

    fn label(&mut self, node: NodeId, zone: &str) -> Result<(), String> {
        let labels = BTreeMap::from([("zone".to_owned(), Some(zone.to_owned()))]);
        self.must(Command::UpdateNode { id: node, availability: None, labels })
    }

    pub(super) fn user_acts(&mut self) -> Result<(), String> {
        if !self.troubled {
            return Ok(());
        }
        let next = self.dice.between(50, 2_500);
        self.schedule(next, Event::UserActs);
        if !self.leader.up {
            return Ok(());
        }
        self.summary.commands += 1;
        let node = {
            let nodes: Vec<NodeId> = self.state.nodes.keys().copied().collect();
            self.dice.pick(&nodes).copied()
        };
        match (self.dice.below(20), node) {
            (0, Some(node)) => self.node_command(node, Some(Availability::Drain)),
            (1 | 2, Some(node)) => self.node_command(node, Some(Availability::Active)),
            (3, Some(node)) => {
                let zone = ZONES[usize::from(self.dice.chance(50))];
                self.label(node, zone)
            }
            (4, Some(node)) if self.state.nodes.len() > 2 => self.remove_node(node),
            (5 | 6, _) => self.scale(),
            (7, _) => self.remove_stack(),
            (8, _) => self.deploy_again(),
            (9, _) => self.rejoin(),
            (10, Some(node)) => self.guests_come_and_go(node),
            _ => self.deploy(),
        }
    }

    fn node_command(&mut self, id: NodeId, availability: Option<Availability>) -> Result<(), String> {
        self.must(Command::UpdateNode { id, availability, labels: BTreeMap::new() })
    }

    fn remove_node(&mut self, id: NodeId) -> Result<(), String> {
        let force = self.dice.chance(20);
        let down = self.state.nodes.get(&id).is_some_and(|node| node.readiness == Readiness::Down);
        if force || down || self.dice.chance(20) {
            // Refused for a node that is up and in use: that is checked elsewhere.
            let _ = self.commit(Command::RemoveNode { id, force })?;
        }
        Ok(())
    }

    fn rejoin(&mut self) -> Result<(), String> {
        let gone: Vec<NodeId> =
            self.hosts.keys().filter(|node| !self.state.nodes.contains_key(*node)).copied().collect();
        for node in gone {
            self.join(node)?;
        }
        Ok(())
    }

    /// Containers that belong to no stack are run and removed on a host, on whatever networks there are. A word of it that comes
    /// late is not listened to.
    fn guests_come_and_go(&mut self, node: NodeId) -> Result<(), String> {
        let names: Vec<String> = self.state.networks.keys().cloned().collect();
        let mut guests = GuestWishes::new();
        for number in 0..self.dice.below(4) {
            if let Some(name) = self.dice.pick(&names) {
                let container = format!("{}-{number}", node.bits());
                let wish = Wish { names: vec![container.clone()], ..Wish::default() };
                guests.entry(name.clone()).or_default().insert(container, wish);
            }
        }
        let said = Said { life: self.dice.below(2), sequence: self.dice.below(1_000) };
        let is_late =
            self.state.said.get(&node).is_some_and(|last| last.life == said.life && last.sequence >= said.sequence);
        self.must(Command::DeclareGuests { node, said, guests: guests.clone() })?;
        if !is_late && !are_as_declared(&self.state, node, &guests) {
            return Err(format!("{}: its guests are not what it said", self.name(node)));
        }
        Ok(())
    }

    fn scale(&mut self) -> Result<(), String> {
        let keys: Vec<ServiceKey> = self.state.services.keys().cloned().collect();
        let Some(key) = self.dice.pick(&keys).cloned() else { return Ok(()) };
        let count = u32::try_from(self.dice.below(7)).unwrap_or(0);
        let _ = self.commit(Command::Scale { replicas: BTreeMap::from([(key, count)]) })?;
        Ok(())
    }

    fn remove_stack(&mut self) -> Result<(), String> {
        let names: Vec<StackName> = self.state.stacks.keys().cloned().collect();
        let Some(stack) = self.dice.pick(&names).cloned() else { return Ok(()) };
        self.must(Command::RemoveStack { stack })
    }

    /// The same file once more: nothing may change.
    fn deploy_again(&mut self) -> Result<(), String> {
        let same: Vec<StackSpec> = self
            .state
            .stacks
            .values()
            .filter(|stack| !stack.removing)
            .map(|stack| StackSpec::clone(&stack.spec))
            .collect();
        let Some(spec) = self.dice.pick(&same).cloned() else { return Ok(()) };
        let rolled_back = spec.services.iter().any(|(name, wanted)| {
            let key = ServiceKey { stack: spec.name.clone(), service: name.clone() };
            self.state.services.get(&key).is_none_or(|service| {
                // What is in force is not what the file says: the user tries the file again.
                service.removing
                    || service.spec.container != wanted.container
                    || *service.spec != with_ports(wanted, &service.spec)
            })
        });
        let before = (self.state.services.clone(), self.state.generations.clone());
        let outcome = self.commit(Command::PutStack {
            spec: Box::new(spec),
            expected_revision: None,
            contents: Default::default(),
        })?;
        let same = (self.state.services.clone(), self.state.generations.clone()) == before;
        match outcome {
            Ok(applied) if !rolled_back && (applied.changed || !same) => {
                Err("an unchanged deploy changed something".to_owned())
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn deploy(&mut self) -> Result<(), String> {
        let name = STACKS[usize::try_from(self.dice.below(3)).unwrap_or(0)];
        let present = self.state.stacks.get(&specs::stack_name(name)).map(|stack| StackSpec::clone(&stack.spec));
        let spec = match present {
            Some(mut spec) if self.dice.chance(65) => {
                let names: Vec<_> = spec.services.keys().cloned().collect();
                if let Some(service) = self.dice.pick(&names).and_then(|name| spec.services.get_mut(name)) {
                    self.change(service);
                }
                spec
            }
            _ => self.new_stack(name),
        };
        // Two stacks that want one port: the second is refused, and nothing changes.
        let _ = self.commit(Command::PutStack {
            spec: Box::new(spec),
            expected_revision: None,
            contents: Default::default(),
        })?;
        Ok(())
    }

    fn new_stack(&mut self, name: &str) -> StackSpec {
        let mut stack = specs::stack(name, []);
        let count = usize::try_from(self.dice.between(1, 3)).unwrap_or(1);
        for service in &SERVICES[..count] {
            let spec = self.new_service(service);
            stack.services.extend(service.parse().map(|name| (name, spec)));
        }
        stack
    }

    fn new_service(&mut self, image: &str) -> ServiceSpec {
        let replicas = u32::try_from(self.dice.below(6)).unwrap_or(1);
        let mut service = specs::service(image).replicas(replicas);
        if self.dice.chance(20) {
            service = service.global();
        }
        if self.dice.chance(40) {
            service = service.healthcheck();
        }
        if self.dice.chance(25) {
            service = service.start_first();
        }
        let mut spec = service.spec();
        for _ in 0..self.dice.below(5) {
            self.change(&mut spec);
        }
        spec
    }

    /// One change of any kind.
    fn change(&mut self, spec: &mut ServiceSpec) {
        self.deploys += 1;
        match self.dice.below(14) {
            0 => {
                spec.resources.memory_reservation_bytes =
                    [0, 128, 400, 700, 5_000][usize::try_from(self.dice.below(5)).unwrap_or(0)] * MIB;
            }
            1 => spec.resources.cpu_reservation_millis = self.dice.below(4) * 500,
            2 => {
                let service = specs::service("x");
                let service =
                    if self.dice.chance(50) { service.only_where("node.labels.zone", "north") } else { service };
                spec.placement = service.spec().placement;
            }
            3 => {
                spec.placement.max_replicas_per_node =
                    self.dice.chance(50).then(|| u32::try_from(self.dice.between(1, 2)).unwrap_or(1));
            }
            4 => {
                let service = specs::service("x");
                let number = u16::try_from(8_000 + self.dice.below(4)).unwrap_or(8_000);
                spec.ports = match self.dice.below(4) {
                    0 => service,
                    1 => service.publish(80, None).publish(443, None),
                    2 => service.publish(80, Some(number)),
                    _ => service.publish_on_host(80, number),
                }
                .spec()
                .ports;
            }
            5 => spec.update.parallelism = u32::try_from(self.dice.below(4)).unwrap_or(1),
            6 => spec.update.delay = Milliseconds(self.dice.below(3) * 700),
            7 => {
                spec.update.failure_action = match self.dice.below(3) {
                    0 => FailureAction::Pause,
                    1 => FailureAction::Continue,
                    _ => FailureAction::Rollback,
                };
                spec.update.max_failure_ratio_permille = u32::try_from(self.dice.below(2) * 400).unwrap_or(0);
            }
            8 => {
                spec.update.order = if self.dice.chance(50) { UpdateOrder::StartFirst } else { UpdateOrder::StopFirst };
            }
            9 => {
                spec.mode = if self.dice.chance(25) {
                    ServiceMode::Global
                } else {
                    ServiceMode::Replicated { replicas: u32::try_from(self.dice.below(6)).unwrap_or(1) }
                };
            }
            10 => {
                spec.restart = RestartPolicy {
                    condition: match self.dice.below(3) {
                        0 => RestartCondition::None,
                        1 => RestartCondition::OnFailure,
                        _ => RestartCondition::Any,
                    },
                    delay: self.dice.chance(30).then(|| Milliseconds(self.dice.below(1_000))),
                    max_attempts: self.dice.chance(50).then(|| u32::try_from(self.dice.below(3)).unwrap_or(0)),
                    window: self.dice.chance(30).then(|| Milliseconds(self.dice.between(500, 5_000))),
                };
            }
            _ => {
                let time = self.dice.between(20, 4_000);
                let words = match self.dice.below(10) {
                    0 => format!("exit 1 {time}"),
                    1 => format!("exit 0 {time}"),
                    2 => format!("sicken {time}"),
                    3 | 4 => format!("linger {time}"),
                    5 => "reject".to_owned(),
                    6 => "unpullable".to_owned(),
                    _ => "serve".to_owned(),
                };
                let mut words: Vec<String> = words.split(' ').map(str::to_owned).collect();
                words.push(format!("version-{}", self.deploys));
                spec.container.command = Some(words);
            }
        }
    }

    /// Every stack again, in a form that can run; and one that ends by itself, well or not.
    pub(super) fn deploy_what_can_run(&mut self) -> Result<(), String> {
        let specs: Vec<StackSpec> = self
            .state
            .stacks
            .values()
            .filter(|stack| !stack.removing)
            .map(|stack| StackSpec::clone(&stack.spec))
            .collect();
        for mut spec in specs {
            for service in spec.services.values_mut() {
                self.deploys += 1;
                service.container.command = Some(vec!["serve".to_owned(), format!("healed-{}", self.deploys)]);
            }
            self.must(Command::PutStack {
                spec: Box::new(spec),
                expected_revision: None,
                contents: Default::default(),
            })?;
        }
        let once = |code: i32| {
            specs::service("once").replicas(2).command(&["exit", &code.to_string(), "300"]).restart(RestartPolicy {
                condition: RestartCondition::OnFailure,
                delay: None,
                max_attempts: Some(2),
                window: None,
            })
        };
        let last = specs::stack("last", [("well", once(0)), ("badly", once(3))]);
        self.must(Command::PutStack { spec: Box::new(last), expected_revision: None, contents: Default::default() })
    }
}

/// The wanted service with the port numbers that were drawn for it.
fn with_ports(wanted: &ServiceSpec, present: &ServiceSpec) -> ServiceSpec {
    let mut wanted = wanted.clone();
    for (port, filled) in wanted.ports.iter_mut().zip(&present.ports) {
        if port.published.is_none() && port.target == filled.target && port.mode == PublishMode::Ingress {
            port.published = filled.published;
        }
    }
    wanted
}

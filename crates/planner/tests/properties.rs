//! What holds of `apply` and `plan` whatever is asked of them, in whatever order, with plans that are committed late,
//! twice or to a state that has long moved on.

use std::collections::BTreeMap;

use proptest::prelude::*;
use stack_model::{Availability, NodeDescription, NodeId, NodeRole, Phase, Readiness, Report, TaskStatus, Timestamp};
use stack_planner::{Command, Entry, Ids, Plan, State, apply, plan};
use stack_testkit::cluster::{Cluster, GIB, node};
use stack_testkit::simulation::check_transition;
use stack_testkit::specs::{key, service, stack, stack_name};

#[derive(Debug, Clone)]
enum Happening {
    Deploy {
        stack: u8,
        version: u8,
        replicas: u32,
        kind: u8,
    },
    Remove(u8),
    Scale(u8, u32),
    Availability(u64, bool),
    Readiness(u64, bool),
    Label(u64, bool),
    Join(u64),
    Leave(u64, bool),
    /// The present plan is kept, to be committed whenever.
    Plan,
    /// A plan that was kept is committed, perhaps not for the first time.
    Commit(prop::sample::Index),
    /// The present plan is made and committed.
    Turn,
    /// Some task comes to some phase, by what some node says of it.
    Say {
        task: prop::sample::Index,
        node: u64,
        phase: u8,
        ready: bool,
    },
    Time(i64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let some_node = 1..5_u64;
    prop_oneof![
        3 => (0..2_u8, 0..4_u8, 0..5_u32, 0..6_u8)
            .prop_map(|(stack, version, replicas, kind)| Happening::Deploy { stack, version, replicas, kind }),
        1 => (0..3_u8).prop_map(Happening::Remove),
        1 => (0..3_u8, 0..6_u32).prop_map(|(stack, replicas)| Happening::Scale(stack, replicas)),
        1 => (some_node.clone(), any::<bool>()).prop_map(|(node, drain)| Happening::Availability(node, drain)),
        2 => (some_node.clone(), any::<bool>()).prop_map(|(node, down)| Happening::Readiness(node, down)),
        1 => (some_node.clone(), any::<bool>()).prop_map(|(node, zone)| Happening::Label(node, zone)),
        1 => some_node.clone().prop_map(Happening::Join),
        1 => (some_node.clone(), any::<bool>()).prop_map(|(node, force)| Happening::Leave(node, force)),
        2 => Just(Happening::Plan),
        3 => any::<prop::sample::Index>().prop_map(Happening::Commit),
        5 => Just(Happening::Turn),
        6 => (any::<prop::sample::Index>(), some_node, 0..9_u8, any::<bool>())
            .prop_map(|(task, node, phase, ready)| Happening::Say { task, node, phase, ready }),
        2 => (-5_000..70_000_i64).prop_map(Happening::Time),
    ]
}

fn name(stack: u8) -> &'static str {
    ["one", "two", "none"][usize::from(stack % 3)]
}

fn deploy(stack_number: u8, version: u8, replicas: u32, kind: u8) -> Command {
    let web = service("web").replicas(replicas).command(&["serve", &format!("v{version}")]);
    let web = match kind {
        0 => web,
        1 => web.start_first().parallelism(2),
        2 => web.publish_on_host(80, 8080),
        3 => web.reserve_memory(3 * GIB).start_first(),
        4 => web.global().only_where("node.labels.zone", "true"),
        _ => web.publish(80, None).at_most_per_node(1).on_failure(stack_model::spec::FailureAction::Rollback),
    };
    Command::PutStack {
        spec: Box::new(stack(name(stack_number), [("web", web)])),
        expected_revision: None,
        contents: Default::default(),
    }
}

const PHASES: [Phase; 9] = [
    Phase::Assigned,
    Phase::Preparing,
    Phase::Starting,
    Phase::Running,
    Phase::Stopping,
    Phase::Complete,
    Phase::Failed,
    Phase::Rejected,
    Phase::Running,
];

struct Run {
    state: State,
    clock: i64,
    drawn: u128,
    kept: Vec<Plan>,
    log: Vec<(Entry, Command)>,
}

impl Run {
    fn new() -> Self {
        let cluster = Cluster::of_nodes(3);
        Self { state: cluster.state, clock: 1_000_000, drawn: 0, kept: Vec::new(), log: Vec::new() }
    }

    fn plan(&mut self) -> Plan {
        let drawn = &mut self.drawn;
        let mut draw = || {
            *drawn += 1;
            *drawn
        };
        plan(&self.state, Timestamp(self.clock.unsigned_abs()), &mut Ids(&mut draw))
    }

    fn commit(&mut self, command: Command) -> Result<u32, TestCaseError> {
        let entry =
            Entry { revision: self.state.revision + 1, time: Timestamp(self.clock.unsigned_abs()), request: None };
        let before = self.state.clone();
        self.log.push((entry.clone(), command.clone()));
        let outcome = apply(&mut self.state, entry.clone(), command);
        check_transition(&before, &self.state, &outcome).map_err(TestCaseError::fail)?;
        prop_assert!(self.state.time >= before.time && self.state.revision == before.revision + 1);
        Ok(outcome.map_or(0, |applied| applied.skipped))
    }

    fn happen(&mut self, happening: Happening) -> Result<(), TestCaseError> {
        match happening {
            Happening::Deploy { stack, version, replicas, kind } => {
                self.commit(deploy(stack, version, replicas, kind))?;
            }
            Happening::Remove(stack) => {
                self.commit(Command::RemoveStack { stack: stack_name(name(stack)) })?;
            }
            Happening::Scale(stack, replicas) => {
                let service = key(&format!("{}/web", name(stack)));
                self.commit(Command::Scale { replicas: BTreeMap::from([(service, replicas)]) })?;
            }
            Happening::Availability(number, drain) => {
                let availability = Some(if drain { Availability::Drain } else { Availability::Active });
                self.commit(Command::UpdateNode { id: node(number), availability, labels: BTreeMap::new() })?;
            }
            Happening::Readiness(number, down) => {
                let readiness = if down { Readiness::Down } else { Readiness::Ready };
                self.commit(Command::SetReadiness { nodes: BTreeMap::from([(node(number), readiness)]) })?;
            }
            Happening::Label(number, zone) => {
                let labels = BTreeMap::from([("zone".to_owned(), Some(zone.to_string()))]);
                self.commit(Command::UpdateNode { id: node(number), availability: None, labels })?;
            }
            Happening::Join(number) => {
                let description = NodeDescription { memory_bytes: 4 * GIB, ..NodeDescription::default() };
                let address = std::net::SocketAddr::from(([10, 0, 0, 9], 2377));
                let (id, role) = (node(number), NodeRole::Worker);
                self.commit(Command::AddNode { id, role, address, description, raft_id: None })?;
            }
            Happening::Leave(number, force) => {
                self.commit(Command::RemoveNode { id: node(number), force })?;
            }
            Happening::Plan => {
                let plan = self.plan();
                self.kept.push(plan);
            }
            Happening::Commit(which) => {
                if !self.kept.is_empty() {
                    let plan = which.get(&self.kept).clone();
                    self.commit(Command::Commit { plan })?;
                }
            }
            Happening::Turn => {
                let plan = self.plan();
                if !plan.is_empty() {
                    let skipped = self.commit(Command::Commit { plan: plan.clone() })?;
                    prop_assert_eq!(skipped, 0, "a fresh plan fits: {:?}", plan.changes);
                }
            }
            Happening::Say { task, node: by, phase, ready } => {
                let tasks: Vec<_> = self.state.tasks.values().map(|task| (task.id, task.node)).collect();
                if !tasks.is_empty() {
                    let (id, home) = *task.get(&tasks);
                    // Now and then another node says something of a task that is not its own.
                    let said_by: NodeId = if by == 1 { node(by) } else { home };
                    let phase = PHASES[usize::from(phase % 9)];
                    let ready = ready && phase == Phase::Running;
                    let status = TaskStatus { phase, ready, ..TaskStatus::assigned(self.state.time) };
                    let report = Report { node: said_by, generation: 0, tasks: BTreeMap::from([(id, status)]) };
                    let news = stack_planner::is_news(&self.state, &report);
                    let before = self.state.tasks.clone();
                    self.commit(Command::Report { reports: vec![report] })?;
                    prop_assert_eq!(news, before != self.state.tasks, "news is what changes something");
                }
            }
            Happening::Time(milliseconds) => self.clock = (self.clock + milliseconds).max(0),
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn whatever_happens_the_state_stays_in_order(happenings in proptest::collection::vec(happening(), 0..120)) {
        let mut run = Run::new();
        let mut replica = run.state.clone();
        for happening in happenings {
            run.happen(happening)?;
        }
        // The same entries give the same state, also to a controller that starts from a snapshot in the middle.
        let middle = run.log.len() / 2;
        for (index, (entry, command)) in run.log.iter().enumerate() {
            if index == middle {
                let written = serde_json::to_string(&replica).expect("the state can be stored");
                replica = serde_json::from_str(&written).expect("the state loads");
            }
            let _ = apply(&mut replica, entry.clone(), command.clone());
        }
        prop_assert_eq!(&replica, &run.state);

        // Then nothing happens any more: the planner comes to rest by itself.
        let mut rests = false;
        for _ in 0..300 {
            let plan = run.plan();
            if plan.is_empty() {
                match plan.wake_at {
                    Some(at) => {
                        prop_assert!(at.0 > run.clock.unsigned_abs(), "it is woken in the future");
                        run.clock = i64::try_from(at.0).unwrap_or(i64::MAX);
                    }
                    None => { rests = true; break; }
                }
            } else {
                let skipped = run.commit(Command::Commit { plan })?;
                prop_assert_eq!(skipped, 0);
            }
        }
        prop_assert!(rests, "the planner never comes to rest");
    }
}

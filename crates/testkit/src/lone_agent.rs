//! One agent on one fake host, driven by hand: for tests of the agent that read as documentation. Steps are carried out
//! at once, and time passes only when the test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stack_agent::memory::Memory;
use stack_agent::plan::Circumstances;
use stack_agent::{Pass, Step, pass};
use stack_model::{
    AssignedTask, Assignment, DesiredState, Health, Milliseconds, NodeId, Slot, TaskId, TaskSpec, TaskStatus, Timestamp,
};

use crate::fake_host::FakeHost;
use crate::simulation::check_pass;
use crate::specs::{Service, key};

/// More passes than anything takes that comes to rest.
const PASSES: usize = 200;

/// The agent, its host and its clock.
#[derive(Debug, Clone)]
pub struct LoneAgent {
    /// What it works on.
    pub host: FakeHost,
    /// What it was told last.
    pub want: Assignment,
    /// What it remembers.
    pub memory: Memory,
    /// Its clock.
    pub now: Timestamp,
    /// Nothing is started before, as after a boot.
    pub start_not_before: Option<Timestamp>,
    pulled: BTreeSet<TaskId>,
    last: Option<Pass>,
}

impl Default for LoneAgent {
    fn default() -> Self {
        Self {
            host: FakeHost::default(),
            want: Assignment {
                node: NodeId::from_bits(1),
                generation: 1,
                tasks: BTreeMap::new(),
                registry_credentials: BTreeMap::new(),
                networks: BTreeMap::new(),
                contents: Default::default(),
            },
            memory: Memory::default(),
            now: Timestamp(1_000_000),
            start_not_before: None,
            pulled: BTreeSet::new(),
            last: None,
        }
    }
}

/// The `number`th task's id.
#[must_use]
pub const fn task(number: u64) -> TaskId {
    TaskId::from_bits(number as u128) // a widening that `From` cannot do in a constant function
}

/// What a task of the service runs.
#[must_use]
pub fn task_spec(service: Service) -> TaskSpec {
    let spec = service.spec();
    TaskSpec {
        container: spec.container,
        resources: spec.resources,
        restart: spec.restart,
        ports: spec.ports,
        networks: BTreeMap::new(),
        volumes: BTreeMap::new(),
        files: Vec::new(),
        round: 0,
    }
}

impl LoneAgent {
    /// It is told to run a task.
    pub fn assign(&mut self, number: u64, service: Service) {
        self.assign_of("app/web", number, service);
    }

    /// It is told to run a task of this service.
    pub fn assign_of(&mut self, of: &str, number: u64, service: Service) {
        self.want.generation += 1;
        let assigned = AssignedTask {
            request: None,
            service: key(of),
            slot: Slot::Replica(1),
            spec: Arc::new(task_spec(service)),
            desired: DesiredState::Running,
            addresses: BTreeMap::new(),
        };
        self.want.tasks.insert(task(number), assigned);
    }

    /// It is told that a task should end.
    pub fn stop(&mut self, number: u64) {
        self.want.generation += 1;
        if let Some(assigned) = self.want.tasks.get_mut(&task(number)) {
            assigned.desired = DesiredState::Stopped;
        }
    }

    /// A task leaves its assignment.
    pub fn drop_task(&mut self, number: u64) {
        self.want.generation += 1;
        self.want.tasks.remove(&task(number));
    }

    /// One pass, and its steps carried out. Answers what it did: `start 1`, `stop 2`.
    ///
    /// # Panics
    /// The pass breaks a rule.
    pub fn turn(&mut self) -> Vec<String> {
        self.pulled.retain(|task| self.want.tasks.contains_key(task));
        let have = self.host.observe();
        let busy = BTreeSet::new();
        let circumstances = Circumstances {
            memory: &self.memory,
            busy: &busy,
            pulled: &self.pulled,
            start_not_before: self.start_not_before.filter(|at| *at > self.now),
            now: self.now,
        };
        let decided = pass(&self.want, &have, circumstances);
        if let Err(broken) = check_pass(&self.want, &have, circumstances, &decided) {
            panic!("{broken}");
        }
        self.memory = decided.memory.clone();
        for step in &decided.steps {
            let outcome = self.host.perform(step, self.now);
            match (step, &outcome) {
                (Step::Pull { task, .. }, Ok(())) => drop(self.pulled.insert(*task)),
                (Step::Create { task, .. }, _) => drop(self.pulled.remove(task)),
                _ => {}
            }
            self.memory.end(step, outcome, self.now);
        }
        let done = decided.steps.iter().map(|step| format!("{} {}", step.kind(), step.task().bits())).collect();
        self.last = Some(decided);
        done
    }

    /// Passes until there is nothing to do now. Answers all that was done.
    ///
    /// # Panics
    /// There always is something to do.
    pub fn settle(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        for _ in 0..PASSES {
            let steps = self.turn();
            if steps.is_empty() {
                return done;
            }
            done.extend(steps);
        }
        panic!("the agent does not come to rest: {done:?}")
    }

    /// How long until it wants to look again; `None`: time alone changes nothing.
    #[must_use]
    pub fn sleeps(&self) -> Option<u64> {
        self.last.as_ref().and_then(|pass| pass.wake_at).map(|at| at.since(self.now).0)
    }

    /// Time passes.
    pub fn pass_time(&mut self, milliseconds: u64) {
        self.now = self.now + Milliseconds(milliseconds);
    }

    /// A container's process ends by itself.
    pub fn end(&mut self, number: u64, code: i32) {
        if let Some((life, _, _)) = self.host.life(task(number)) {
            self.host.end(task(number), life, code, self.now);
        }
    }

    /// A container's health check comes to a verdict.
    pub fn verdict(&mut self, number: u64, health: Health) {
        if let Some((life, _, _)) = self.host.life(task(number)) {
            self.host.set_health(task(number), life, health);
        }
    }

    /// Whether the task's container runs.
    #[must_use]
    pub fn runs(&self, number: u64) -> bool {
        self.host.life(task(number)).is_some()
    }

    /// What it last reported of a task.
    ///
    /// # Panics
    /// Nothing.
    #[must_use]
    pub fn says(&self, number: u64) -> TaskStatus {
        let report = self.last.as_ref().map(|pass| &pass.report);
        report.and_then(|report| report.tasks.get(&task(number))).cloned().expect("the task was reported")
    }

    /// The agent's process ends and starts again, with what its disk has.
    ///
    /// # Panics
    /// What it wrote does not read back.
    pub fn restart(&mut self) {
        let written = serde_json::to_string(&(&self.want, &self.memory)).expect("the ledger can be written");
        (self.want, self.memory) = serde_json::from_str(&written).expect("the ledger reads back");
        self.pulled.clear();
        self.last = None;
    }
}

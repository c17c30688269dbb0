//! The hosts and their agents. An agent is what the reconcile loop and the session are in production, without threads:
//! one pass when anything changes, steps that take time, a report until it is acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use stack_agent::ledger;
use stack_agent::memory::Memory;
use stack_agent::plan::Circumstances;
use stack_agent::{Step, pass};
use stack_model::{Assignment, DesiredState, Health, NodeId, Report, TaskId, Timestamp};
use stack_planner::Command;

use super::world::{EPOCH, Event, World};
use crate::fake_host::{Behaviour, FakeHost};

/// Between two heartbeats; the watch and the reports are tried again as often.
const TICK: u64 = 500;
/// As the agent has it.
const START_WITHOUT_CONTROLLER: u64 = 5_000;
/// As the agent has it: the report is said again though nothing has changed.
const SAY_AGAIN: u64 = 15_000;

/// One machine.
pub(super) struct SimulatedHost {
    pub(super) name: String,
    pub(super) host: FakeHost,
    /// It has power.
    pub(super) up: bool,
    /// Its link to the controllers works.
    pub(super) connected: bool,
    pub(super) clock_error: i64,
    pub(super) agent: Option<Agent>,
    /// How often an agent was started.
    pub(super) lives: u64,
    /// What the agent's ledger has on disk, as bytes: the assignment and the memory.
    disk: Option<(String, String)>,
}

/// The agent's process.
pub(super) struct Agent {
    pub(super) life: u64,
    started: Timestamp,
    pub(super) assignment: Assignment,
    memory: Memory,
    running: BTreeMap<TaskId, Step>,
    pulled: BTreeSet<TaskId>,
    contact: bool,
    report: Option<Report>,
    acknowledged: Option<Report>,
    said_at: u64,
    passes_at: Option<u64>,
}

impl SimulatedHost {
    pub(super) const fn new(name: String, host: FakeHost, clock_error: i64) -> Self {
        Self { name, host, up: true, connected: true, clock_error, agent: None, lives: 0, disk: None }
    }
}

impl World {
    pub(super) fn name(&self, node: NodeId) -> String {
        self.hosts.get(&node).map_or_else(|| node.short(), |host| host.name.clone())
    }

    fn host_clock(&self, node: NodeId) -> Timestamp {
        let wrong = self.hosts.get(&node).map_or(0, |host| host.clock_error);
        Timestamp((EPOCH + self.now).saturating_add_signed(wrong))
    }

    /// A message gets through between the node's agent and the leader.
    pub(super) fn can_talk(&self, node: NodeId) -> bool {
        self.leader.up && self.hosts.get(&node).is_some_and(|host| host.up && host.connected && host.agent.is_some())
    }

    pub(super) fn agent_mut(&mut self, node: NodeId) -> Option<&mut Agent> {
        self.hosts.get_mut(&node).filter(|host| host.up).and_then(|host| host.agent.as_mut())
    }

    pub(super) fn wake_agent(&mut self, node: NodeId, after: u64) {
        let due = self.now + after;
        let Some(agent) = self.agent_mut(node) else { return };
        if agent.passes_at.is_none_or(|present| present > due) {
            agent.passes_at = Some(due);
            let life = agent.life;
            self.schedule(after, Event::AgentPasses { node, life });
        }
    }

    pub(super) fn agent_passes(&mut self, node: NodeId, life: u64) -> Result<(), String> {
        let (now, clock) = (self.now, self.host_clock(node));
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.up) else { return Ok(()) };
        let Some(agent) = host.agent.as_mut().filter(|agent| agent.life == life && agent.passes_at == Some(now)) else {
            return Ok(());
        };
        agent.passes_at = None;
        let have = host.host.observe();
        let start_not_before =
            (!agent.contact).then_some(Timestamp(agent.started.0 + START_WITHOUT_CONTROLLER)).filter(|at| *at > clock);
        let assigned = &agent.assignment.tasks;
        agent.pulled.retain(|task| assigned.contains_key(task));
        let busy: BTreeSet<TaskId> = agent.running.keys().copied().collect();
        let circumstances =
            Circumstances { memory: &agent.memory, busy: &busy, pulled: &agent.pulled, start_not_before, now: clock };
        let decided = pass(&agent.assignment, &have, circumstances);
        super::invariants::check_pass(&agent.assignment, &have, circumstances, &decided)
            .map_err(|what| format!("{}: {what}", host.name))?;
        agent.memory = decided.memory;
        let is_news = agent.report.as_ref() != Some(&decided.report);
        agent.report = Some(decided.report);
        let mut lasting = Vec::new();
        for step in decided.steps {
            agent.running.insert(step.task(), step.clone());
            lasting.push((host.host.least_time(&step).0, step));
        }
        for (least, step) in lasting {
            self.summary.steps += 1;
            self.tell(|world| format!("{}: begins to {} t{}", world.name(node), step.kind(), step.task().bits()));
            let time = least + self.dice.below(least.max(2));
            self.schedule(time, Event::StepEnds { node, life, step });
        }
        if let Some(at) = decided.wake_at {
            self.wake_agent(node, at.since(clock).0.max(1));
        }
        if is_news {
            self.send_report(node);
        }
        Ok(())
    }

    pub(super) fn step_ends(&mut self, node: NodeId, life: u64, step: &Step) -> Result<(), String> {
        let clock = self.host_clock(node);
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.up) else { return Ok(()) };
        let Some(agent) = host.agent.as_mut().filter(|agent| agent.life == life) else { return Ok(()) };
        let outcome = host.host.perform(step, clock);
        let task = step.task();
        agent.running.remove(&task);
        match (step, &outcome) {
            (Step::Pull { .. }, Ok(())) => drop(agent.pulled.insert(task)),
            (Step::Create { .. }, _) => drop(agent.pulled.remove(&task)),
            _ => {}
        }
        agent.memory.end(step, outcome.clone(), clock);
        if let Err(failure) = &outcome {
            self.tell(|world| format!("{}: cannot {} t{}: {failure}", world.name(node), step.kind(), task.bits()));
        }
        self.step_took_effect(node, step)?;
        self.wake_agent(node, 0);
        Ok(())
    }

    /// What the host does by itself after a step.
    fn step_took_effect(&mut self, node: NodeId, step: &Step) -> Result<(), String> {
        let task = step.task();
        match step {
            Step::Create { .. } => self.check_container_is_alone(node, task),
            Step::Start { .. } => {
                let Some((life, behaviour, has_check)) = self.hosts.get(&node).and_then(|host| host.host.life(task))
                else {
                    return Ok(());
                };
                if has_check {
                    let after = self.dice.between(50, 400);
                    self.schedule(after, Event::HealthTurns { node, task, life, health: Health::Healthy });
                }
                match behaviour {
                    Behaviour::Exit(code, after) => {
                        self.schedule(after.0, Event::ContainerEnds { node, task, life, code });
                    }
                    Behaviour::Sicken(after) => {
                        self.schedule(
                            after.0 + 500,
                            Event::HealthTurns { node, task, life, health: Health::Unhealthy },
                        );
                    }
                    Behaviour::Serve | Behaviour::Linger(_) | Behaviour::Reject | Behaviour::Unpullable => {}
                }
                Ok(())
            }
            Step::Pull { .. } | Step::Stop { .. } | Step::Remove { .. } => Ok(()),
        }
    }

    pub(super) fn container_ends(&mut self, node: NodeId, task: TaskId, life: u64, code: i32) {
        let clock = self.host_clock(node);
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.up) else { return };
        if host.host.end(task, life, code, clock) {
            self.tell(|world| format!("{}: t{} ends with {code}", world.name(node), task.bits()));
            self.wake_agent(node, 1);
        }
    }

    pub(super) fn health_turns(&mut self, node: NodeId, task: TaskId, life: u64, health: Health) {
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.up) else { return };
        if host.host.set_health(task, life, health) {
            self.tell(|world| format!("{}: t{} is {health:?}", world.name(node), task.bits()));
            self.wake_agent(node, 1);
        }
    }

    pub(super) fn assignment_arrives(&mut self, node: NodeId, offered: Assignment) -> Result<(), String> {
        let Some(agent) = self.agent_mut(node) else { return Ok(()) };
        match ledger::is_news(&agent.assignment, &offered) {
            Ok(is_news) => {
                agent.contact = true;
                if is_news {
                    let generation = offered.generation;
                    agent.assignment = offered;
                    self.tell(|world| format!("{}: has assignment {generation}", world.name(node)));
                }
                self.wake_agent(node, 0);
                Ok(())
            }
            Err(ledger::LedgerError::Stale { offered: old, present }) if old < present => Ok(()),
            Err(error) => Err(format!("{}: {error}", self.name(node))),
        }
    }

    /// Heartbeat, watch and reports, as the session repeats them.
    pub(super) fn node_ticks(&mut self, node: NodeId) -> Result<(), String> {
        self.schedule(TICK, Event::NodeTicks { node });
        if !self.can_talk(node) {
            return Ok(());
        }
        if self.troubled && self.settings.faults && self.dice.chance(10) {
            return Ok(());
        }
        if !self.state.nodes.contains_key(&node) {
            // A removed node is refused until its operator lets it join again.
            return Ok(());
        }
        self.hear(node);
        let generation = self.state.generations.get(&node).copied().unwrap_or(0);
        let now = self.now;
        let Some(agent) = self.agent_mut(node) else { return Ok(()) };
        let asks = !agent.contact || agent.assignment.generation < generation;
        let says = agent.report.is_some()
            && (agent.report != agent.acknowledged || now.saturating_sub(agent.said_at) >= SAY_AGAIN);
        if asks {
            self.send_assignment(node);
        }
        if says {
            self.send_report(node);
        }
        Ok(())
    }

    fn send_report(&mut self, node: NodeId) {
        if !self.can_talk(node) || !self.state.nodes.contains_key(&node) {
            return;
        }
        let now = self.now;
        let Some(agent) = self.agent_mut(node) else { return };
        let Some(report) = agent.report.clone() else { return };
        if agent.acknowledged.as_ref() != Some(&report) {
            self.moved(|| "a report".to_owned());
        }
        let Some(agent) = self.agent_mut(node) else { return };
        agent.said_at = now;
        let life = agent.life;
        let bad = self.troubled && self.settings.faults;
        let copies = if bad && self.dice.chance(10) { 0 } else { 1 + u64::from(bad && self.dice.chance(5)) };
        for _copy in 0..copies {
            let delay = self.message_delay();
            self.schedule(delay, Event::ReportArrives { node, life, report: report.clone() });
        }
    }

    pub(super) fn report_is_acknowledged(&mut self, node: NodeId, life: u64, report: Report) {
        let Some(agent) = self.agent_mut(node).filter(|agent| agent.life == life) else { return };
        agent.acknowledged = Some(report);
    }

    /// The agent's process dies. What it was doing has happened or has not.
    pub(super) fn kill_agent(&mut self, node: NodeId) {
        let clock = self.host_clock(node);
        let Some(agent) = self.hosts.get_mut(&node).and_then(|host| host.agent.take()) else { return };
        for step in agent.running.values() {
            if self.dice.chance(50) {
                let Some(host) = self.hosts.get_mut(&node) else { return };
                let _lost_with_the_agent = host.host.perform(step, clock);
                let _checked_by_the_next_step = self.step_took_effect(node, step);
            }
        }
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let bytes = |written: Result<String, serde_json::Error>| written.unwrap_or_default();
        host.disk =
            Some((bytes(serde_json::to_string(&agent.assignment)), bytes(serde_json::to_string(&agent.memory))));
    }

    /// An agent starts, with what its disk has.
    pub(super) fn agent_returns(&mut self, node: NodeId) -> Result<(), String> {
        let started = self.host_clock(node);
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.up && host.agent.is_none()) else {
            return Ok(());
        };
        let unreadable = |error: serde_json::Error| format!("the ledger does not read back: {error}");
        let (assignment, memory) = match &host.disk {
            Some((assignment, memory)) => (
                serde_json::from_str(assignment).map_err(unreadable)?,
                serde_json::from_str(memory).map_err(unreadable)?,
            ),
            None => (
                Assignment {
                    node,
                    generation: 0,
                    tasks: BTreeMap::new(),
                    registry_credentials: BTreeMap::new(),
                    networks: BTreeMap::new(),
                    contents: Default::default(),
                },
                Memory::default(),
            ),
        };
        host.lives += 1;
        host.agent = Some(Agent {
            life: host.lives,
            started,
            assignment,
            memory,
            running: BTreeMap::new(),
            pulled: BTreeSet::new(),
            contact: false,
            report: None,
            acknowledged: None,
            said_at: self.now,
            passes_at: None,
        });
        self.tell(|world| format!("{}: the agent starts", world.name(node)));
        self.wake_agent(node, 0);
        Ok(())
    }

    /// What runs on a host though its assignment does not say so, and what does not though it says so.
    pub(super) fn disagreement(&self, node: NodeId) -> Option<String> {
        let host = self.hosts.get(&node)?;
        let decided = stack_planner::assignment(&self.state, node);
        let agent = host.agent.as_ref()?;
        if agent.assignment != decided {
            return Some(format!("{} does not have its present assignment", host.name));
        }
        for (task, service, runs) in host.host.containers() {
            let assigned = decided.tasks.get(&task);
            if assigned.is_none() {
                return Some(format!("{} has t{} of {service}, which is not assigned", host.name, task.bits()));
            }
            if runs && assigned.is_some_and(|assigned| assigned.desired == DesiredState::Stopped) {
                return Some(format!("{} runs t{} of {service}, which should have ended", host.name, task.bits()));
            }
        }
        None
    }

    /// Whether the task's container really runs there.
    pub(super) fn really_runs(&self, node: NodeId, task: TaskId) -> bool {
        self.hosts.get(&node).is_some_and(|host| host.up && host.host.life(task).is_some())
    }

    /// A node is made known to the controllers.
    pub(super) fn join(&mut self, node: NodeId) -> Result<(), String> {
        let command: Command = self.join_command(node);
        let outcome = self.commit(command)?;
        outcome.map(drop).map_err(|rejected| format!("a host cannot join: {rejected}"))
    }
}

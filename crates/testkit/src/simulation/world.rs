//! Virtual time: the queue of what is going to happen, and what a run is as a whole.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use stack_agent::Step;
use stack_model::{Assignment, Health, NodeId, Report, TaskId, Timestamp};
use stack_planner::{Command, State};

use super::Settings;
use super::agents::SimulatedHost;
use super::controllers::Leader;
use super::invariants::Watched;
use crate::dice::Dice;
use crate::specs;

/// Virtual time begins here, so that clocks may be wrong in both directions.
pub(super) const EPOCH: u64 = 1_700_000_000_000;
/// How long things go wrong.
const TROUBLED: u64 = 25_000;
/// How long the healed cluster may take to be as wanted.
const TO_CONVERGE: u64 = 150_000;
/// How long nothing may move after that; longer than any pause that the planner or the agent makes.
const QUIET: u64 = 75_000;
/// Lines of the story that are kept.
const STORY: usize = 1_500;

/// Something that is going to happen.
#[derive(Debug, Clone)]
pub(super) enum Event {
    AgentPasses { node: NodeId, life: u64 },
    StepEnds { node: NodeId, life: u64, step: Step },
    ContainerEnds { node: NodeId, task: TaskId, life: u64, code: i32 },
    HealthTurns { node: NodeId, task: TaskId, life: u64, health: Health },
    AssignmentArrives { node: NodeId, assignment: Assignment },
    ReportArrives { node: NodeId, life: u64, report: Report },
    NetworksAreAcknowledged { node: NodeId, revision: u64 },
    NodeTicks { node: NodeId },
    LeaderTicks,
    LeaderPlans { due: u64 },
    ProposalLands { term: u64, command: Box<Command>, late: bool },
    UserActs,
    FaultHappens,
    HostReturns { node: NodeId },
    AgentReturns { node: NodeId },
    LinkHeals { node: NodeId },
    TroubleEnds { node: NodeId },
    LeaderReturns { term: u64 },
}

struct Scheduled {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What a run did, so that a test can tell that it did something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries of the log that changed the state.
    pub entries: u64,
    /// Commands of the user that were accepted.
    pub commands: u64,
    /// Tasks that were made.
    pub tasks: u64,
    /// Steps that agents began.
    pub steps: u64,
    /// Faults that happened.
    pub faults: u64,
    /// Changes of plans that no longer fitted when they were committed.
    pub skipped: u64,
    /// Services that were rolled back or whose rollout was paused.
    pub failed_rollouts: u64,
    /// Services that had a slot without a place at the end.
    pub unplaced: u64,
}

/// A cluster and everything around it.
pub(super) struct World {
    pub(super) settings: Settings,
    pub(super) dice: Dice,
    /// Virtual milliseconds from the beginning.
    pub(super) now: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    pub(super) state: State,
    pub(super) leader: Leader,
    pub(super) hosts: BTreeMap<NodeId, SimulatedHost>,
    pub(super) watched: Watched,
    /// Things go wrong.
    pub(super) troubled: bool,
    /// The last entry that changed the state, and the last report.
    pub(super) last_movement: (u64, String),
    pub(super) drawn_ids: u128,
    /// So many slots of every service must serve, where only rollouts happen.
    pub(super) least_ready: Option<usize>,
    /// Makes every deploy differ from the one before.
    pub(super) deploys: u64,
    pub(super) summary: Summary,
    story: VecDeque<String>,
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            dice: Dice::new(settings.seed),
            now: 0,
            queue: BinaryHeap::new(),
            order: 0,
            state: State::default(),
            leader: Leader::default(),
            hosts: BTreeMap::new(),
            watched: Watched::default(),
            troubled: true,
            last_movement: (0, String::new()),
            drawn_ids: 0,
            least_ready: None,
            deploys: 0,
            summary: Summary::default(),
            story: VecDeque::new(),
        }
    }

    pub(super) fn story(&self) -> Vec<String> {
        self.story.iter().cloned().collect()
    }

    /// Writes a line of the story where one is wanted.
    pub(super) fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.settings.traced {
            let line = format!("{:>7}.{:03} {}", self.now / 1000, self.now % 1000, line(self));
            self.story.push_back(line);
            if self.story.len() > STORY {
                self.story.pop_front();
            }
        }
    }

    pub(super) fn schedule(&mut self, after: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Scheduled { at: self.now.saturating_add(after), order: self.order, event }));
    }

    /// True time, as no clock of the cluster shows it.
    pub(super) const fn true_time(&self) -> Timestamp {
        Timestamp(EPOCH + self.now)
    }

    /// Something of the cluster moved.
    pub(super) fn moved(&mut self, what: impl FnOnce() -> String) {
        self.last_movement = (self.now, if self.settings.traced { what() } else { String::new() });
    }

    /// Plays the whole run.
    pub(super) fn play(&mut self) -> Result<Summary, String> {
        self.found_cluster()?;
        self.play_until(TROUBLED)?;
        self.heal_everything()?;
        self.play_until(TROUBLED + TO_CONVERGE)?;
        self.check_convergence()?;
        let (converged, told) = (self.now, self.story.len());
        self.play_until(TROUBLED + TO_CONVERGE + QUIET)?;
        // A rollout that waits for a place leaves old tasks as they are, also such as end again and again.
        if self.last_movement.0 > converged && !self.some_rollout_waits_for_a_place() {
            let (at, what) = &self.last_movement;
            return Err(format!(
                "the cluster is not quiet: at {at} ms there was still {what} ({} lines since)",
                self.story.len().saturating_sub(told)
            ));
        }
        self.check_convergence()?;
        self.check_stored_state()?;
        Ok(self.summary)
    }

    /// Plays a few rollouts of one service, one after the other.
    pub(super) fn play_rollouts(&mut self) -> Result<Summary, String> {
        self.troubled = false;
        self.found_cluster()?;
        let replicas = self.dice.between(1, 8);
        let parallelism = self.dice.between(1, 4);
        let starts_first = self.dice.chance(40);
        let has_check = self.dice.chance(50);
        let delay = self.dice.below(3) * 400;
        for version in 1..=4 {
            let linger = self.dice.below(2_500).to_string();
            let number = u32::try_from(replicas).unwrap_or(1);
            let mut web = specs::service("web")
                .replicas(number)
                .parallelism(u32::try_from(parallelism).unwrap_or(1))
                .update_delay(delay)
                .command(&["linger", &linger, &format!("v{version}")]);
            if starts_first {
                web = web.start_first();
            }
            if has_check {
                web = web.healthcheck();
            }
            let spec = Box::new(specs::stack("app", [("web", web)]));
            self.must(Command::PutStack { spec, expected_revision: None, contents: Default::default() })?;
            self.play_until(self.now + 60_000)?;
            self.check_convergence()?;
            let may_miss = if starts_first { 0 } else { parallelism };
            self.least_ready = usize::try_from(replicas.saturating_sub(may_miss)).ok();
        }
        Ok(self.summary)
    }

    fn play_until(&mut self, end: u64) -> Result<(), String> {
        while self.queue.peek().is_some_and(|Reverse(next)| next.at <= end) {
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.now = next.at;
            self.happen(next.event)?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::AgentPasses { node, life } => self.agent_passes(node, life),
            Event::StepEnds { node, life, step } => self.step_ends(node, life, &step),
            Event::ContainerEnds { node, task, life, code } => {
                self.container_ends(node, task, life, code);
                Ok(())
            }
            Event::HealthTurns { node, task, life, health } => {
                self.health_turns(node, task, life, health);
                Ok(())
            }
            Event::NetworksAreAcknowledged { node, revision } => self.networks_are_acknowledged(node, revision),
            Event::AssignmentArrives { node, assignment } => self.assignment_arrives(node, assignment),
            Event::ReportArrives { node, life, report } => self.report_arrives(node, life, report),
            Event::NodeTicks { node } => self.node_ticks(node),
            Event::LeaderTicks => self.leader_ticks(),
            Event::LeaderPlans { due } => self.leader_plans(due),
            Event::ProposalLands { term, command, late } => self.proposal_lands(term, *command, late),
            Event::UserActs => self.user_acts(),
            Event::FaultHappens => self.fault_happens(),
            Event::HostReturns { node } => {
                self.host_returns(node);
                Ok(())
            }
            Event::AgentReturns { node } => self.agent_returns(node),
            Event::LinkHeals { node } => {
                self.link_heals(node);
                Ok(())
            }
            Event::TroubleEnds { node } => {
                self.trouble_ends(node);
                Ok(())
            }
            Event::LeaderReturns { term } => {
                self.leader_returns(term);
                Ok(())
            }
        }
    }
}

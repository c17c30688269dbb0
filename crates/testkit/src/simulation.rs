//! Whole clusters from a seed: controllers, agents and hosts in memory, in virtual time, with everything that can go
//! wrong going wrong.
//!
//! The parts under test are the real ones: [`apply`](stack_planner::apply()), [`plan`](stack_planner::plan()),
//! [`assignment`](stack_planner::assignment()) and the agent's [`pass`](stack_agent::pass()). What is modelled around them
//! is what the effects do in production: a leader that plans and commits while the world moves on, heartbeats, messages
//! that are late, lost, doubled and overtaken, disks that outlive processes.
//!
//! A run has two phases. While faults happen, *safety* is checked after every entry of the log and every step of an
//! agent. Then everything is healed, and *liveness* is demanded: within bounded virtual time everything is as the user
//! wants it or says truly why not, and then nothing moves any more.

mod agents;
mod controllers;
mod faults;
mod invariants;
mod networks;
mod workload;
mod world;

use std::fmt;

pub use invariants::{check_pass, check_transition};
pub use world::Summary;
use world::World;

/// What a run is made from. The same settings give the same run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Everything that is random comes from it.
    pub seed: u64,
    /// Whether anything but the user's commands disturbs the cluster.
    pub faults: bool,
    /// Whether the story is written down; it costs time.
    pub traced: bool,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    /// Replays it.
    pub settings: Settings,
    /// Virtual milliseconds from the beginning.
    pub at: u64,
    /// Which promise, and by what.
    pub what: String,
    /// What happened before, the last lines of it.
    pub trace: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(formatter, "{line}")?;
        }
        let Settings { seed, faults, .. } = self.settings;
        writeln!(formatter, "seed {seed} (faults: {faults}) after {} virtual ms: {}", self.at, self.what)?;
        write!(formatter, "replay: SIMULATION_SEED={seed} cargo nextest run -p stack-testkit --test simulation")
    }
}

/// Plays rollouts alone, with nothing else happening: not one slot more than the policy allows is ever without a task
/// that serves.
///
/// # Errors
/// A promise was broken: which, and the story that led to it.
pub fn run_rollouts(seed: u64, traced: bool) -> Result<Summary, Violation> {
    let settings = Settings { seed, faults: false, traced };
    let mut world = World::new(settings);
    match world.play_rollouts() {
        Ok(summary) => Ok(summary),
        Err(_) if !traced => run_rollouts(seed, true),
        Err(what) => Err(Violation { settings, at: world.now, what, trace: world.story() }),
    }
}

/// Plays one cluster from its seed.
///
/// # Errors
/// A promise was broken: which, and the story that led to it.
pub fn run(settings: Settings) -> Result<Summary, Violation> {
    let mut world = World::new(settings);
    match world.play() {
        Ok(summary) => Ok(summary),
        // The same run again, this time with its story.
        Err(_) if !settings.traced => run(Settings { traced: true, ..settings }),
        Err(what) => Err(Violation { settings, at: world.now, what, trace: world.story() }),
    }
}

//! For tests only.
//!
//! The pure core of the cluster, planner and agent, driven without clocks, threads or disks: [`specs`] builds what a user
//! would deploy, [`cluster`] drives the planner by hand for tests that read as documentation, [`lone_agent`] does the same
//! for the agent, [`fake_host`] is a host in memory, and [`simulation`] plays whole clusters from a seed.
//!
//! And the real thing: [`namespaced`] clusters of hosts on one machine, a [`registry`], and the [`root`] of an image.

#![allow(clippy::result_large_err, reason = "a refused command is looked at once, in a test")]
#![allow(
    clippy::expect_used,
    reason = "a part of tests: a broken promise is told by a panic, as in the tests themselves"
)]

pub mod cluster;
pub mod conformance;
pub mod dice;
pub mod fake_host;
pub mod lone_agent;
pub mod namespaced;
pub mod registry;
pub mod root;
pub mod simulation;
pub mod specs;

//! Interactive containers by the Docker CLI and by requests as its like send them: run, attach, exec, terminals.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails, in its helpers too")]

#[path = "../../../engine/tests/support/mod.rs"]
mod support;

mod attaching;
mod executing;
mod hosting;
mod runs;
mod served;
mod terminals;

//! The API over a real engine and a unix socket, asked by raw requests and by the real Docker CLI.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails, in its helpers too")]

#[path = "../../../engine/tests/support/mod.rs"]
mod support;

mod changes;
mod committing;
mod compose;
mod copying;
mod docker_py;
mod happenings;
mod host_settings;
mod hostile_copies;
mod image_mounts;
mod images;
mod isolation;
mod lifecycle;
mod logging;
mod macvlan;
mod networks;
mod served;
mod usage;
mod users;
mod volumes;

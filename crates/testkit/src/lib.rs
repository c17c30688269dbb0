//! For tests only: real clusters of namespaced hosts, a local registry, images.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says so and fails")]

pub mod namespaced;
pub mod registry;
pub mod root;

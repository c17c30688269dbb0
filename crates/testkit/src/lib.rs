//! For tests only.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says so and fails")]

pub mod namespaced;
pub mod root;

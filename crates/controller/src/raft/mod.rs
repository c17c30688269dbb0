//! Raft: all that knows openraft. The rest of the crate proposes bytes and gets an outcome.

pub mod log;
pub mod machine;
pub mod snapshot;
pub mod types;

#[cfg(test)]
mod suite;

//! Raft: all that knows openraft. The rest of the crate proposes bytes and gets an outcome.

pub mod log;
pub mod machine;
pub mod network;
pub mod server;
pub mod snapshot;
pub mod types;
pub mod wire;

/// A running Raft node of ours.
pub type Raft = openraft::Raft<types::Types, machine::MachineStore>;

#[cfg(test)]
mod suite;

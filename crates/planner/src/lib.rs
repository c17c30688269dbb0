//! Pure. The deterministic heart of the controllers.
//!
//! [`apply`](apply()) is the state machine that Raft replicates; [`plan`](plan()) is what the leader decides from a snapshot of
//! it; [`assignment`](assignment()) is what one host is told. Time, ids and randomness are arguments: the same entries give
//! the same state on every controller, today and in a test.

pub mod apply;
pub mod assignment;
pub mod command;
mod encryption;
pub mod files;
mod gates;
mod guests;
pub mod networks;
pub mod plan;
mod ports;
mod rejected;
mod rollout;
mod schedule;
pub mod state;
pub mod status;

pub use apply::{Applied, Entry, apply, is_news};
pub use assignment::assignment;
pub use command::{Change, ClusterIdentity, Command, NewTask, Plan, Secret};
pub use encryption::acknowledged_announcement;
pub use guests::{Guest, Said, are_as_declared, guest_answers};
pub use networks::{Network, is_acknowledgement_awaited, network_document};
pub use plan::{Ids, plan};
pub use rejected::Rejected;
pub use state::{ControllerMember, Service, Stack, State, StoredFile, Unplaced, Update, UpdateState};
pub use status::{ServiceStatus, service_status};

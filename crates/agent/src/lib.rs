//! Makes one host match its assignment.
//!
//! [`watch`] fetches the assignment, [`ledger`] keeps it on disk, [`reconcile`] is woken by any change and by time and
//! runs one loop: observe the host, [`plan`](plan::plan) (pure), execute, [`report`](report::report) (pure). The host is a
//! trait of two methods: the engine in production, a fake in the simulation.

pub mod doctor;
pub mod encryption;
pub mod engine_host;
pub mod files;
pub mod guests;
pub mod hooks;
pub mod host;
pub mod host_end;
pub mod http;
pub mod images;
pub mod ledger;
pub mod log_lines;
pub mod memory;
pub mod metrics;
pub mod names;
pub mod networks;
pub mod overlay;
pub mod pass;
pub mod placeholders;
pub mod plan;
pub mod reconcile;
pub mod report;
pub mod translate;
pub mod watch;

pub use host::{Host, Observed, ObservedContainer, ObservedState, StepFailure};
pub use memory::{Memory, TaskMemory};
pub use networks::{HostNetworks, Networks};
pub use pass::{Pass, pass};
pub use plan::{Step, plan};
pub use report::report;

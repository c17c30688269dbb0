//! For tests only: what they run against. Production code never links this.

pub mod registry;

//! The controllers of a cluster: Raft, the store on top of it, the leader's control loop and liveness watch, the cluster's
//! identities, and the REST interface.

pub mod control;
pub mod controller;
pub mod http;
pub mod identity;
pub mod mesh;
pub mod metrics;
pub mod raft;
pub mod store;
pub mod tuning;

pub use controller::{
    BootstrapError, Controller, ControllerConfig, FirstHost, JoinClusterError, StartError, bootstrap, join_cluster,
};
pub use http::{ImageResolver, ResolveImageError};
pub use identity::{Credentials, JoinTarget, NodeIdentity, Peer};
pub use store::Store;
pub use tuning::Tuning;

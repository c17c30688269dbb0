//! The controllers of a cluster: Raft, the store on top of it, the leader's control loop and liveness watch, the cluster's
//! identities, and the REST interface.

pub mod raft;

//! A complete container engine for one host. It knows nothing of clusters and has no HTTP server: a typed API.

pub mod apparmor;
pub mod cdi;
pub mod cgroup;
pub mod container;
pub mod content;
pub mod copying;
mod crash_point;
pub mod dns;
pub mod encryption;
mod engine;
pub mod events;
pub mod image;
pub mod logs;
mod metrics;
pub mod network;
pub mod overlay;
mod sealing;
pub mod seccomp;
pub mod selinux;
pub mod snapshot;
pub mod volume;

pub use engine::{ConnectError, ContainerChange, ContainersConfig, Difference, Engine, EngineConfig, RemoveOptions};

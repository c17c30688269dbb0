//! Pure. What happens around the start and the end of a service's containers: what they wait for, and what is run in them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What another service must have reached before tasks of a new or changed one are started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DependencyCondition {
    /// All its tasks have been started.
    #[default]
    Started,
    /// All its tasks run, and are healthy where they have a health check.
    Healthy,
    /// All its tasks have ended with exit code 0.
    Completed,
}

/// How a service needs another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    /// What the other one must have reached.
    #[serde(default)]
    pub condition: DependencyCondition,
    /// Where the other one has failed for good, this one is started all the same.
    #[serde(default)]
    pub optional: bool,
    /// A deploy that replaces the tasks of the other one replaces those of this one, too.
    #[serde(default)]
    pub restart: bool,
}

/// A command that is run in a container beside its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// In place of the container's.
    #[serde(default)]
    pub user: Option<String>,
    /// With all capabilities.
    #[serde(default)]
    pub privileged: bool,
    /// In place of the container's.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// Added to the container's.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

//! Values for the tests of this crate.

use std::collections::BTreeMap;

use stack_engine::container::{Container, ContainerConfig, ContainerState, ExitStatus};

/// 2023-11-14T22:13:20Z, in milliseconds.
pub const TIME: u64 = 1_700_000_000_000;

/// A container of the image `made:1`.
pub fn container(id: &str, name: &str, state: ContainerState) -> Container {
    let config = ContainerConfig {
        image: "made:1".to_owned(),
        name: Some(name.to_owned()),
        command: Some(vec!["sleep".to_owned(), "9".to_owned()]),
        environment: BTreeMap::from([("MODE".to_owned(), "test".to_owned())]),
        ..ContainerConfig::default()
    };
    Container {
        id: id.parse().unwrap(),
        name: name.to_owned(),
        labels: BTreeMap::new(),
        image_digest: "sha256:aa".to_owned(),
        mounted_images: std::collections::BTreeMap::new(),
        config,
        created_at: TIME,
        state,
        health: None,
        addresses: Vec::new(),
        ports: Vec::new(),
        starts: 1,
        restarts: 0,
        paused: false,
        restarting: false,
        selinux: None,
        notes: Vec::new(),
    }
}

/// Running as process 77.
pub fn running() -> ContainerState {
    ContainerState::Running { pid: 77, started_at: TIME + 1000 }
}

/// Ended by itself.
pub fn exited(code: i32) -> ContainerState {
    let started_at = Some(TIME + 1000);
    ContainerState::Exited(ExitStatus {
        code,
        signal: None,
        oom: false,
        started_at,
        finished_at: TIME + 2000,
        error: None,
    })
}

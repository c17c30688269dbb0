//! Pure. What one host is told: derived from the state, never stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use stack_model::{AssignedTask, Assignment, Contents, DesiredState, NodeId};

use crate::networks;
use crate::state::State;

/// All that `node` shall do. A node that is not a member gets an empty assignment of generation 0.
#[must_use]
pub fn assignment(state: &State, node: NodeId) -> Assignment {
    let mut tasks = BTreeMap::new();
    let mut registry_credentials = BTreeMap::new();
    let mut contents = Contents::new();
    for task in state.tasks_on(node) {
        for image in task.spec.container.images() {
            let registry = registry_of(&image.reference);
            if let Some(credential) = state.registry_credentials.get(registry) {
                registry_credentials.insert(registry.to_owned(), credential.clone());
            }
        }
        // A draining task goes on until it is released.
        let desired = if task.draining.is_some() { DesiredState::Running } else { task.desired };
        // What a task is told depends on what its host is told of it alone: nothing here changes without a new generation.
        for file in task.spec.files.iter().filter(|_| desired == DesiredState::Running) {
            if let Some(content) = state.contents.get(&file.content) {
                contents.insert(file.content.clone(), content.clone());
            }
        }
        tasks.insert(
            task.id,
            AssignedTask {
                service: task.service.clone(),
                slot: task.slot,
                spec: Arc::clone(&task.spec),
                desired,
                addresses: task.addresses.clone(),
                request: task.request.clone(),
            },
        );
    }
    let generation = state.generations.get(&node).copied().unwrap_or(0);
    Assignment { node, generation, tasks, registry_credentials, networks: networks::assigned(state, node), contents }
}

/// The registry's host and port of an image reference: what stands before the first `/` where that looks like a host
/// (has a `.` or a `:`, or is `localhost`), else Docker's own. The rule is Docker's.
#[must_use]
pub fn registry_of(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

#[cfg(test)]
mod tests {
    use super::registry_of;

    #[test]
    fn the_registry_of_a_reference() {
        for (reference, registry) in [
            ("nginx", "docker.io"),
            ("library/nginx:1", "docker.io"),
            ("localhost/app", "localhost"),
            ("10.0.0.1:5000/app:1", "10.0.0.1:5000"),
            ("ghcr.io/a/b@sha256:00", "ghcr.io"),
            ("nginx:1.2", "docker.io"),
        ] {
            assert_eq!(registry_of(reference), registry, "{reference}");
        }
    }
}

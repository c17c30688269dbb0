//! Pure. The state in the words that callers see.

use std::net::SocketAddr;

use stack_api::views::{
    ControllerView, NodeView, ServiceView, StackStatus, StackView, TaskView, TokensView, UnplacedView,
};
use stack_model::spec::{PublishedPort, ServiceMode};
use stack_model::{Node, NodeId, NodeRole, Readiness, ServiceKey, StackName, Task};
use stack_planner::{Service, Stack, State, UpdateState, service_status};

use crate::store::membership::Membership;

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Where the controllers listen, in the order of their ids.
pub(crate) fn controller_addresses(state: &State) -> Vec<SocketAddr> {
    state.nodes.values().filter(|node| node.role == NodeRole::Controller).map(|node| node.address).collect()
}

pub(super) fn tokens(state: &State) -> Option<TokensView> {
    let identity = state.identity.as_ref()?;
    Some(TokensView {
        worker: identity.worker_token.0.clone(),
        controller: identity.controller_token.0.clone(),
        controllers: controller_addresses(state),
    })
}

pub(super) fn controllers(state: &State, membership: &Membership, leader: Option<NodeId>) -> Vec<ControllerView> {
    let view = |(id, controller): (&NodeId, &stack_planner::ControllerMember)| {
        let node = state.nodes.get(id)?;
        Some(ControllerView {
            node: *id,
            name: node.name.clone(),
            address: node.address,
            voter: membership.voters.contains(&controller.raft_id),
            leader: leader == Some(*id),
        })
    };
    state.controllers.iter().filter_map(view).collect()
}

/// By id, or by the start of it, or by name.
pub(super) fn find_node<'state>(state: &'state State, text: &str) -> Option<&'state Node> {
    if let Some(node) = state.nodes.values().find(|node| node.name == text) {
        return Some(node);
    }
    let mut found = state.nodes.values().filter(|node| text.len() >= 4 && node.id.to_string().starts_with(text));
    let node = found.next()?;
    found.next().is_none().then_some(node)
}

pub(super) fn node(state: &State, node: &Node, leader: Option<NodeId>) -> NodeView {
    let tasks: Vec<&Task> = state.tasks_on(node.id).filter(|task| !task.status.phase.is_terminal()).collect();
    NodeView {
        id: node.id,
        name: node.name.clone(),
        address: node.address,
        role: node.role,
        leader: leader == Some(node.id),
        availability: node.availability,
        readiness: node.readiness,
        readiness_since: node.readiness_since,
        labels: node.labels.clone(),
        description: node.description.clone(),
        tasks: count(tasks.len()),
        cpu_reserved_millis: tasks.iter().map(|task| task.spec.resources.cpu_reservation_millis).sum(),
        memory_reserved_bytes: tasks.iter().map(|task| task.spec.resources.memory_reservation_bytes).sum(),
    }
}

fn ports(ports: &[PublishedPort]) -> Vec<String> {
    let text = |port: &PublishedPort| {
        let published = port.published.map_or_else(String::new, |published| format!("{published}->"));
        let address = port.host_ip.map_or_else(String::new, |address| format!("{address}:"));
        format!("{address}{published}{}/{}", port.target, port.protocol.as_str())
    };
    ports.iter().map(text).collect()
}

pub(super) fn service(state: &State, key: &ServiceKey, service: &Service) -> ServiceView {
    let status = service_status(state, key);
    let (update, update_reason) = match service.update.as_ref().map(|update| &update.state) {
        None => (None, None),
        Some(UpdateState::Rolling) => (Some("rolling"), None),
        Some(UpdateState::RollingBack { reason }) => (Some("rolling back"), Some(reason.clone())),
        Some(UpdateState::Paused { reason }) => (Some("paused"), Some(reason.clone())),
        Some(UpdateState::RolledBack { reason }) => (Some("rolled back"), Some(reason.clone())),
    };
    let image = &service.task_spec.container.image;
    ServiceView {
        key: key.clone(),
        mode: match service.spec.mode {
            ServiceMode::Replicated { .. } => "replicated",
            ServiceMode::Global => "global",
        }
        .to_owned(),
        image: image.reference.clone(),
        digest: image.digest.clone(),
        desired: status.as_ref().map_or(0, |status| status.desired),
        ready: status.as_ref().map_or(0, |status| status.ready),
        updated: status.as_ref().map_or(0, |status| status.updated),
        failed: status.as_ref().map_or(0, |status| status.failed),
        converged: status.as_ref().is_some_and(|status| status.converged),
        removing: service.removing,
        update: update.map(str::to_owned),
        update_reason,
        unplaced: service
            .unplaced
            .as_ref()
            .map(|unplaced| UnplacedView { count: unplaced.count, reason: unplaced.reason.clone() }),
        ports: ports(&service.spec.ports),
    }
}

pub(super) fn services(state: &State, stack: Option<&StackName>) -> Vec<ServiceView> {
    let wanted = |key: &ServiceKey| stack.is_none_or(|stack| key.stack == *stack);
    state.services.iter().filter(|(key, _)| wanted(key)).map(|(key, details)| service(state, key, details)).collect()
}

pub(super) fn task(state: &State, task: &Task) -> TaskView {
    let node = state.nodes.get(&task.node);
    let image = &task.spec.container.image;
    TaskView {
        id: task.id,
        service: task.service.clone(),
        slot: task.slot,
        node: task.node,
        node_name: node.map_or_else(|| task.node.to_string(), |node| node.name.clone()),
        node_ready: node.is_some_and(|node| node.readiness == Readiness::Ready),
        image: image.reference.clone(),
        digest: image.digest.clone(),
        desired: task.desired,
        current: state.services.get(&task.service).is_some_and(|service| service.version == task.spec_version),
        phase: task.status.phase,
        ready: task.status.ready,
        health: task.status.health,
        restarts: task.status.restarts,
        message: task.status.message.clone(),
        exit_code: task.status.exit_code,
        out_of_memory: task.status.out_of_memory,
        container: task.status.container.clone(),
        pid: task.status.pid,
        ports: ports(&task.spec.ports),
        since: task.status.since,
        created_at: task.created_at,
    }
}

/// Sorted by service, slot and age.
pub(super) fn tasks<'state>(state: &'state State, tasks: impl Iterator<Item = &'state Task>) -> Vec<TaskView> {
    let mut views: Vec<TaskView> = tasks.map(|details| task(state, details)).collect();
    views.sort_by(|one, other| {
        (&one.service, one.slot, one.created_at, one.id).cmp(&(&other.service, other.slot, other.created_at, other.id))
    });
    views
}

pub(super) fn stack(state: &State, name: &StackName, stack: &Stack) -> StackView {
    let services = services(state, Some(name));
    StackView {
        name: name.clone(),
        revision: stack.revision,
        services: count(services.len()),
        ready: services.iter().map(|service| service.ready).sum(),
        desired: services.iter().map(|service| service.desired).sum(),
        converged: services.iter().all(|service| service.converged && !service.removing),
        removing: stack.removing,
        updated_at: stack.updated_at,
    }
}

pub(super) fn stack_status(state: &State, name: &StackName) -> StackStatus {
    StackStatus {
        revision: state.revision,
        stack: state.stacks.get(name).map(|details| stack(state, name, details)),
        services: services(state, Some(name)),
        tasks: tasks(state, state.tasks.values().filter(|task| task.service.stack == *name)),
    }
}

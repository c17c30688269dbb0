//! Pure. The state machine: one log entry changes the state, or is refused and changes nothing but the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stack_model::spec::{MountSource, NetworkAttachment, NetworkMode, ServiceMode, ServiceSpec, StackSpec, VolumeSpec};
use stack_model::{
    Availability, Contents, DesiredState, Draining, Node, NodeDescription, NodeId, NodeRole, Phase, Readiness, Report,
    RequestId, ServiceKey, StackName, Task, TaskId, TaskSpec, TaskStatus, Timestamp,
};

use crate::command::{Change, Command, NewTask};
use crate::files;
use crate::guests;
use crate::networks;
use crate::ports;
use crate::rejected::Rejected;
use crate::rollout;
use crate::schedule;
use crate::state::{ControllerMember, Service, Stack, State, Update, UpdateState};

/// When an entry came to be, and which it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The log's index.
    pub revision: u64,
    /// By the proposer's clock; `apply` never lets the state's time go back.
    pub time: Timestamp,
    /// The user's request that caused it; what the cluster decides by itself has none.
    pub request: Option<RequestId>,
}

/// What an entry did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Of this entry; for a stack that was already as asked, the revision that made it so.
    pub revision: u64,
    /// Whether it changed anything.
    pub changed: bool,
    /// For a commit: how many of its changes no longer fitted and were left out.
    #[serde(default)]
    pub skipped: u32,
}

/// Applies one entry. Deterministic: the same entries in the same order give the same state.
///
/// # Errors
/// The entry is refused and nothing but `revision` and `time` has changed.
pub fn apply(state: &mut State, entry: Entry, command: Command) -> Result<Applied, Rejected> {
    state.revision = entry.revision;
    state.time = state.time.max(entry.time);
    if let Command::Initialize { identity } = command {
        if state.identity.is_some() {
            return Err(Rejected::AlreadyInitialized);
        }
        state.identity = Some(identity);
        return Ok(changed(state));
    }
    if state.identity.is_none() {
        return Err(Rejected::NotInitialized);
    }
    match command {
        Command::Initialize { .. } => Err(Rejected::AlreadyInitialized),
        Command::RotateToken { role, token } => {
            if let Some(identity) = &mut state.identity {
                match role {
                    NodeRole::Controller => identity.controller_token = token,
                    NodeRole::Worker => identity.worker_token = token,
                }
            }
            Ok(changed(state))
        }
        Command::PutStack { spec, expected_revision, contents } => {
            put_stack(state, *spec, expected_revision, contents, entry.request)
        }
        Command::RemoveStack { stack } => remove_stack(state, &stack, entry.request.as_ref()),
        Command::Scale { replicas } => scale(state, &replicas, entry.request.as_ref()),
        Command::AddNode { id, role, address, description, raft_id } => {
            add_node(state, id, role, address, description, raft_id)
        }
        Command::DescribeNode { id, address, description } => {
            let revision = state.revision;
            let node = state.nodes.get_mut(&id).ok_or(Rejected::UnknownNode { node: id })?;
            if node.address == address && node.description == description {
                return Ok(unchanged(state));
            }
            let moved = node.address.ip() != address.ip() || node.description.mtu != description.mtu;
            let announces = node.description.encryption != description.encryption;
            node.address = address;
            node.description = description;
            if announces {
                node.encryption_since = revision;
                networks::hosts_changed(state);
            }
            if moved || announces {
                networks::host_changed(state, id);
            }
            Ok(changed(state))
        }
        Command::UpdateNode { id, availability, labels } => {
            let node = state.nodes.get_mut(&id).ok_or(Rejected::UnknownNode { node: id })?;
            if let Some(availability) = availability {
                node.availability = availability;
                node.request = entry.request;
            }
            for (key, value) in labels {
                match value {
                    Some(value) => node.labels.insert(key, value),
                    None => node.labels.remove(&key),
                };
            }
            Ok(changed(state))
        }
        Command::SetReadiness { nodes } => {
            let now = state.time;
            let mut any = false;
            for (id, readiness) in nodes {
                if let Some(node) = state.nodes.get_mut(&id)
                    && node.readiness != readiness
                {
                    node.readiness = readiness;
                    node.readiness_since = now;
                    any = true;
                    networks::host_changed(state, id);
                }
            }
            Ok(if any { changed(state) } else { unchanged(state) })
        }
        Command::RemoveNode { id, force } => remove_node(state, id, force),
        Command::Report { reports } => {
            let mut any = false;
            for report in reports {
                any |= take_report(state, report);
            }
            Ok(if any { changed(state) } else { unchanged(state) })
        }
        Command::AcknowledgeNetworks { node, revision } => {
            let node = state.nodes.get_mut(&node).ok_or(Rejected::UnknownNode { node })?;
            let is_news = node.networks_applied < revision;
            node.networks_applied = node.networks_applied.max(revision);
            Ok(if is_news { changed(state) } else { unchanged(state) })
        }
        Command::DeclareGuests { node, said, guests } => {
            let is_news = guests::declare(state, node, said, &guests)?;
            Ok(if is_news { changed(state) } else { unchanged(state) })
        }
        Command::PutNetwork { name, spec } => {
            networks::put_by_hand(state, &name, spec)?;
            Ok(changed(state))
        }
        Command::RemoveNetwork { name } => {
            networks::remove_by_hand(state, &name)?;
            Ok(changed(state))
        }
        Command::CreateFile { kind, name, labels, id, content } => {
            files::create(state, kind, name, labels, id, content)?;
            Ok(changed(state))
        }
        Command::RemoveFile { kind, name } => {
            files::remove(state, kind, &name)?;
            Ok(changed(state))
        }
        Command::Commit { plan } => {
            let mut skipped = 0;
            let mut any = false;
            for change in plan.changes {
                if commit(state, change) {
                    any = true;
                } else {
                    skipped += 1;
                }
            }
            Ok(Applied { revision: state.revision, changed: any, skipped })
        }
        Command::SetRegistryCredential { registry, credential } => {
            match credential {
                Some(credential) => state.registry_credentials.insert(registry, credential),
                None => state.registry_credentials.remove(&registry),
            };
            let nodes: Vec<NodeId> = state.nodes.keys().copied().collect();
            for node in nodes {
                touch(state, node);
            }
            Ok(changed(state))
        }
    }
}

const fn changed(state: &State) -> Applied {
    Applied { revision: state.revision, changed: true, skipped: 0 }
}

const fn unchanged(state: &State) -> Applied {
    Applied { revision: state.revision, changed: false, skipped: 0 }
}

/// The node's assignment has changed.
pub(crate) fn touch(state: &mut State, node: NodeId) {
    if state.nodes.contains_key(&node) {
        let revision = state.revision;
        state.generations.insert(node, revision);
    }
}

fn put_stack(
    state: &mut State,
    mut spec: StackSpec,
    expected_revision: Option<u64>,
    contents: Contents,
    request: Option<RequestId>,
) -> Result<Applied, Rejected> {
    let present = state.stacks.get(&spec.name).filter(|stack| !stack.removing).map_or(0, |stack| stack.revision);
    if let Some(expected) = expected_revision
        && expected != present
    {
        return Err(Rejected::Conflict { stack: spec.name, expected, present });
    }
    // Everything that can be refused is refused before anything is changed.
    files::settle(state, &mut spec, &contents)?;
    let mut wanted: BTreeMap<ServiceKey, (ServiceSpec, TaskSpec)> = BTreeMap::new();
    let mut services: BTreeMap<ServiceKey, ServiceSpec> = BTreeMap::new();
    for (name, service) in &spec.services {
        let key = ServiceKey { stack: spec.name.clone(), service: name.clone() };
        if let Some(image) = service.container.images().find(|image| image.digest.is_none()) {
            return Err(Rejected::NoDigest { service: key, image: image.reference.clone() });
        }
        services.insert(key, service.clone());
    }
    ports::fill(state, &spec.name, &mut services)?;
    for (key, service) in services {
        let task_spec = task_spec(&spec, &key, &service)?;
        wanted.insert(key, (service, task_spec));
    }
    let networks = networks::with_stack(state, &spec)?;
    let same_services = wanted.iter().all(|(key, (service, _))| {
        state.services.get(key).is_some_and(|existing| !existing.removing && *existing.spec == *service)
    });
    if let Some(stack) = state.stacks.get(&spec.name)
        && !stack.removing
        && *stack.spec == spec
        && same_services
    {
        return Ok(Applied { revision: stack.revision, changed: false, skipped: 0 });
    }

    state.networks = networks;
    files::keep(state, contents);
    let revision = state.revision;
    let now = state.time;
    let created_at = state.stacks.get(&spec.name).map_or(now, |stack| stack.created_at);
    let gone: Vec<ServiceKey> =
        services_of(state, &spec.name).filter(|key| !wanted.contains_key(key)).cloned().collect();
    for key in gone {
        if let Some(service) = state.services.get_mut(&key) {
            service.removing = true;
            service.request.clone_from(&request);
            service.unplaced = None;
        }
    }
    let keys: Vec<ServiceKey> = wanted.keys().cloned().collect();
    for (key, (service, task_spec)) in wanted {
        put_service(state, key, service, task_spec, request.as_ref());
    }
    go_round_together(state, &keys, request.as_ref());
    for key in &keys {
        networks::service_changed(state, key);
    }
    let name = spec.name.clone();
    state.stacks.insert(name, Stack { spec: Arc::new(spec), revision, created_at, updated_at: now, removing: false });
    networks::sweep(state);
    files::sweep(state);
    Ok(changed(state))
}

/// Services that are to be restarted with one that they need are replaced where that one is; those with a new version wait for
/// what they need.
fn go_round_together(state: &mut State, keys: &[ServiceKey], request: Option<&RequestId>) {
    let revision = state.revision;
    loop {
        let is_new = |state: &State, key: &ServiceKey| {
            state.services.get(key).is_some_and(|service| service.version == revision)
        };
        let follows = |key: &&ServiceKey| {
            let Some(service) = state.services.get(*key).filter(|_| !is_new(state, key)) else { return false };
            service.spec.depends_on.iter().any(|(name, dependency)| {
                let other = ServiceKey { stack: key.stack.clone(), service: name.clone() };
                dependency.restart && is_new(state, &other)
            })
        };
        let Some(key) = keys.iter().find(follows) else { break };
        let runs = state.tasks_of(key).any(Task::is_active);
        let now = state.time;
        if let Some(service) = state.services.get_mut(key) {
            Arc::make_mut(&mut service.task_spec).round = revision;
            service.version = revision;
            service.update = runs.then_some(Update { started_at: now, state: UpdateState::Rolling });
            service.request = request.cloned();
        }
    }
    for key in keys {
        if let Some(service) = state.services.get_mut(key)
            && service.version == revision
        {
            service.waits = !service.spec.depends_on.is_empty();
        }
    }
}

fn put_service(
    state: &mut State,
    key: ServiceKey,
    spec: ServiceSpec,
    mut task_spec: TaskSpec,
    request: Option<&RequestId>,
) {
    let revision = state.revision;
    let now = state.time;
    let runs = state.tasks_of(&key).any(Task::is_active);
    match state.services.get_mut(&key) {
        Some(service) => {
            if service.removing {
                service.removing = false;
                service.previous = None;
                service.previous_task_spec = None;
                service.update = None;
            }
            task_spec.round = service.task_spec.round;
            // Also where the last rollout has just stopped the only task.
            let runs = runs || service.update.as_ref().is_some_and(Update::is_unproved);
            if *service.task_spec != task_spec {
                remember_previous(service, &task_spec);
                service.task_spec = Arc::new(task_spec);
                service.version = revision;
                service.update = runs.then_some(Update { started_at: now, state: UpdateState::Rolling });
            } else if *service.spec != spec
                && service.update.as_ref().is_some_and(|update| matches!(update.state, UpdateState::Paused { .. }))
            {
                // A deploy is what a paused rollout waits for, also one that only changes how it is done.
                service.update = Some(Update { started_at: now, state: UpdateState::Rolling });
            }
            if *service.spec != spec || service.version == revision {
                service.request = request.cloned();
            }
            if *service.spec != spec {
                service.spec = Arc::new(spec);
                service.unplaced = None;
            }
        }
        None => {
            state.services.insert(
                key,
                Service {
                    spec: Arc::new(spec),
                    task_spec: Arc::new(task_spec),
                    version: revision,
                    previous: None,
                    previous_task_spec: None,
                    update: None,
                    removing: false,
                    waits: false,
                    request: request.cloned(),
                    unplaced: None,
                },
            );
        }
    }
}

/// What a failed update returns to is the last spec whose rollout was not broken off: a spec that never proved itself is
/// nothing to return to.
fn remember_previous(service: &mut Service, wanted: &TaskSpec) {
    let is_unproved = service.update.as_ref().is_some_and(Update::is_unproved);
    if !is_unproved || service.previous.is_none() {
        service.previous = Some(Arc::clone(&service.spec));
        service.previous_task_spec = Some(Arc::clone(&service.task_spec));
    } else if service.previous_task_spec.as_deref() == Some(wanted) {
        service.previous = None;
        service.previous_task_spec = None;
    }
}

fn services_of<'a>(state: &'a State, stack: &'a StackName) -> impl Iterator<Item = &'a ServiceKey> {
    state.services.keys().filter(move |key| key.stack == *stack)
}

/// What a task of the service runs: the service's container with everything of the stack that it names.
fn task_spec(stack: &StackSpec, key: &ServiceKey, service: &ServiceSpec) -> Result<TaskSpec, Rejected> {
    let full_name = |given: Option<&String>, name: &str| networks::full_name(&stack.name, given, name);
    let mut networks = BTreeMap::new();
    if service.container.network_mode == NetworkMode::Networks {
        let own_name = key.service.as_str().to_owned();
        if service.networks.is_empty() {
            let given = stack.networks.get("default").and_then(|network| network.name.as_ref());
            let attachment = NetworkAttachment { aliases: vec![own_name.clone()], ..NetworkAttachment::default() };
            networks.insert(full_name(given, "default"), attachment);
        }
        for (name, attachment) in &service.networks {
            let given = match stack.networks.get(name) {
                Some(network) => network.name.as_ref(),
                None if name == "default" => None,
                None => return Err(Rejected::UnknownNetwork { service: key.clone(), network: name.clone() }),
            };
            let mut aliases = vec![own_name.clone()];
            aliases.extend(attachment.aliases.iter().cloned());
            networks.insert(full_name(given, name), NetworkAttachment { aliases, ..attachment.clone() });
        }
    }
    let mut volumes = BTreeMap::new();
    for mount in &service.container.mounts {
        if let MountSource::Volume { name: Some(name), .. } = &mount.source {
            let Some(volume) = stack.volumes.get(name) else {
                return Err(Rejected::UnknownVolume { service: key.clone(), volume: name.clone() });
            };
            let named = VolumeSpec { name: Some(full_name(volume.name.as_ref(), name)), ..volume.clone() };
            volumes.insert(name.clone(), named);
        }
    }
    Ok(TaskSpec {
        container: service.container.clone(),
        resources: service.resources,
        restart: service.restart,
        ports: service.ports.clone(),
        networks,
        volumes,
        files: files::of_task(stack, key, service)?,
        round: 0,
    })
}

fn remove_stack(state: &mut State, name: &StackName, request: Option<&RequestId>) -> Result<Applied, Rejected> {
    let stack = state.stacks.get_mut(name).ok_or_else(|| Rejected::UnknownStack { stack: name.clone() })?;
    stack.removing = true;
    let keys: Vec<ServiceKey> = services_of(state, name).cloned().collect();
    for key in keys {
        if let Some(service) = state.services.get_mut(&key) {
            service.removing = true;
            service.request = request.cloned();
            service.unplaced = None;
        }
    }
    Ok(changed(state))
}

fn scale(
    state: &mut State,
    replicas: &BTreeMap<ServiceKey, u32>,
    request: Option<&RequestId>,
) -> Result<Applied, Rejected> {
    for key in replicas.keys() {
        let service = state
            .services
            .get(key)
            .filter(|service| !service.removing)
            .ok_or_else(|| Rejected::UnknownService { service: key.clone() })?;
        if service.spec.mode == ServiceMode::Global {
            return Err(Rejected::NotReplicated { service: key.clone() });
        }
    }
    let revision = state.revision;
    let now = state.time;
    let mut any = false;
    for (key, &replicas) in replicas {
        let mode = ServiceMode::Replicated { replicas };
        let Some(service) = state.services.get_mut(key) else { continue };
        if service.spec.mode == mode {
            continue;
        }
        any = true;
        Arc::make_mut(&mut service.spec).mode = mode;
        service.request = request.cloned();
        service.unplaced = None;
        if let Some(stack) = state.stacks.get_mut(&key.stack) {
            if let Some(service) = Arc::make_mut(&mut stack.spec).services.get_mut(&key.service) {
                service.mode = mode;
            }
            stack.revision = revision;
            stack.updated_at = now;
        }
    }
    Ok(if any { changed(state) } else { unchanged(state) })
}

fn add_node(
    state: &mut State,
    id: NodeId,
    role: NodeRole,
    address: std::net::SocketAddr,
    description: NodeDescription,
    raft_id: Option<u64>,
) -> Result<Applied, Rejected> {
    if state.nodes.get(&id).is_some_and(|node| node.role != role) {
        return Err(Rejected::RoleMismatch { node: id });
    }
    let taken: BTreeSet<&str> =
        state.nodes.values().filter(|node| node.id != id).map(|node| node.name.as_str()).collect();
    let wanted = if description.hostname.is_empty() { "node" } else { description.hostname.as_str() };
    let name = std::iter::once(wanted.to_owned())
        .chain((2u64..).map(|number| format!("{wanted}-{number}")))
        .find(|name| !taken.contains(name.as_str()))
        .unwrap_or_else(|| id.to_string());
    if let (NodeRole::Controller, Some(raft_id)) = (role, raft_id) {
        state.controllers.insert(id, ControllerMember { raft_id });
    }
    let now = state.time;
    match state.nodes.get_mut(&id) {
        Some(node) => {
            let moved = node.address.ip() != address.ip();
            node.address = address;
            node.description = description;
            if moved {
                networks::host_changed(state, id);
            }
        }
        None => {
            let node = Node {
                id,
                name,
                address,
                role,
                availability: Availability::Active,
                readiness: Readiness::Down,
                readiness_since: now,
                labels: BTreeMap::new(),
                description,
                networks_applied: 0,
                encryption_since: 0,
                joined_at: now,
                request: None,
            };
            state.nodes.insert(id, node);
            touch(state, id);
            networks::hosts_changed(state);
        }
    }
    Ok(changed(state))
}

fn remove_node(state: &mut State, id: NodeId, force: bool) -> Result<Applied, Rejected> {
    let node = state.nodes.get(&id).ok_or(Rejected::UnknownNode { node: id })?;
    let tasks = state.tasks_on(id).filter(|task| task.holds_its_node()).count();
    if node.readiness == Readiness::Ready && tasks > 0 && !force {
        return Err(Rejected::NodeInUse { name: node.name.clone(), tasks });
    }
    let ids: Vec<TaskId> = state.tasks_on(id).map(|task| task.id).collect();
    for task in ids {
        lose(state, task);
    }
    state.nodes.remove(&id);
    state.controllers.remove(&id);
    guests::forget_node(state, id);
    networks::hosts_changed(state);
    state.generations.remove(&id);
    Ok(changed(state))
}

/// The task is given up: its node is lost, or left the cluster.
fn lose(state: &mut State, id: TaskId) {
    let now = state.time;
    if let Some(task) = state.tasks.get_mut(&id)
        && !task.status.phase.is_terminal()
    {
        task.desired = DesiredState::Stopped;
        task.ready_since = None;
        task.ended_at = Some(now);
        task.status = TaskStatus {
            phase: Phase::Lost,
            ready: false,
            health: None,
            pid: None,
            message: Some("its node was lost".to_owned()),
            since: now,
            ..task.status.clone()
        };
        let spec = Arc::clone(&task.spec);
        end_draining(state, id);
        networks::leave(state, id, &spec);
    }
}

/// The task need not go on for the sake of those who send it something: its host is told so.
fn end_draining(state: &mut State, id: TaskId) -> bool {
    let Some(node) = state.tasks.get(&id).filter(|task| task.draining.is_some()).map(|task| task.node) else {
        return false;
    };
    state.set_draining(id, None);
    touch(state, node);
    true
}

/// Whether a report would change anything. The leader asks before it writes one into the log: agents say the same again
/// from time to time, in case it was lost or overtaken.
#[must_use]
pub fn is_news(state: &State, report: &Report) -> bool {
    report.tasks.iter().any(|(id, status)| {
        state.tasks.get(id).is_some_and(|task| task.node == report.node && changes_status(task, status))
    })
}

fn changes_status(task: &Task, status: &TaskStatus) -> bool {
    let present = task.status.phase;
    !present.is_terminal() && status.phase >= present && task.status != *status
}

fn take_report(state: &mut State, report: Report) -> bool {
    let now = state.time;
    let mut any = false;
    for (id, status) in report.tasks {
        let Some(task) = state.tasks.get_mut(&id) else { continue };
        if task.node != report.node || !changes_status(task, &status) {
            continue;
        }
        any = true;
        if !status.ready || status.phase.is_terminal() {
            task.ready_since = None;
        } else if !task.status.ready || task.status.restarts != status.restarts {
            task.ready_since = Some(now);
        }
        let has_ended = status.phase.is_terminal();
        if has_ended {
            task.ended_at = Some(now);
        }
        let serves_otherwise = status.ready != task.status.ready;
        task.status = status;
        let spec = Arc::clone(&task.spec);
        if has_ended {
            end_draining(state, id);
            networks::leave(state, id, &spec);
        } else if serves_otherwise {
            networks::task_changed(state, &spec);
        }
    }
    any
}

/// Applies one change of a plan if it still fits. A plan is made from a snapshot, and the world may have moved since.
fn commit(state: &mut State, change: Change) -> bool {
    match change {
        Change::StartTask { start } => start_task(state, start, None),
        Change::ReplaceLostTask { stop, start } => {
            let lost = state.tasks.get(&stop).is_some_and(|task| {
                task.is_active()
                    && task.service == start.service
                    && task.slot == start.slot
                    && state.nodes.get(&task.node).is_none_or(|node| node.readiness == Readiness::Down)
            });
            if !lost || !start_task(state, start, Some(stop)) {
                return false;
            }
            let node = state.tasks.get(&stop).map(|task| task.node);
            lose(state, stop);
            if let Some(node) = node {
                touch(state, node);
            }
            true
        }
        Change::StopTask { stop } => {
            let Some(found) = state.tasks.get(&stop) else { return false };
            if found.desired == DesiredState::Stopped {
                return false;
            }
            let request = cause_of_stop(state, found);
            let Some(task) = state.tasks.get_mut(&stop) else { return false };
            task.desired = DesiredState::Stopped;
            task.request = request;
            let node = task.node;
            let spec = Arc::clone(&task.spec);
            if networks::must_drain(task) {
                let draining = Draining { revision: state.revision, since: state.time };
                state.set_draining(stop, Some(draining));
            } else {
                touch(state, node);
            }
            networks::task_changed(state, &spec);
            true
        }
        Change::ReleaseTask { task } => end_draining(state, task),
        Change::ForgetTask { task } => {
            let Some(found) = state.tasks.get(&task) else { return false };
            if !found.status.phase.is_terminal() && found.desired != DesiredState::Stopped {
                return false;
            }
            let node = found.node;
            let spec = Arc::clone(&found.spec);
            networks::leave(state, task, &spec);
            state.remove_task(task);
            if !spec.files.is_empty() {
                files::sweep(state);
            }
            touch(state, node);
            true
        }
        Change::SetUpdate { service, version, update } => match state.services.get_mut(&service) {
            Some(service) if service.version == version => {
                service.update = update;
                true
            }
            _ => false,
        },
        Change::OpenGate { service, version } => match state.services.get_mut(&service) {
            Some(service) if service.version == version && service.waits => {
                service.waits = false;
                true
            }
            _ => false,
        },
        Change::RollBack { service, version, reason } => roll_back(state, &service, version, reason),
        Change::SetUnplaced { service, unplaced } => match state.services.get_mut(&service) {
            Some(service) => {
                service.unplaced = unplaced;
                true
            }
            None => false,
        },
        Change::ForgetService { service } => {
            let empty = state.tasks_of(&service).next().is_none();
            let removing = state.services.get(&service).is_some_and(|service| service.removing);
            if empty && removing {
                state.services.remove(&service);
                networks::service_changed(state, &service);
                networks::sweep(state);
                files::sweep(state);
            }
            empty && removing
        }
        Change::ForgetStack { stack } => {
            let empty = services_of(state, &stack).next().is_none();
            let removing = state.stacks.get(&stack).is_some_and(|stack| stack.removing);
            if empty && removing {
                state.stacks.remove(&stack);
                networks::sweep(state);
                files::sweep(state);
            }
            empty && removing
        }
    }
}

/// The request that a task is stopped for: that of the service, unless the node is drained of what would else stay.
fn cause_of_stop(state: &State, task: &Task) -> Option<RequestId> {
    let service = state.services.get(&task.service);
    let stays = service.is_some_and(|service| !service.removing && service.version == task.spec_version);
    let drained = state.nodes.get(&task.node).filter(|node| stays && node.availability == Availability::Drain);
    match drained {
        Some(node) => node.request.clone(),
        None => service.and_then(|service| service.request.clone()),
    }
}

fn start_task(state: &mut State, start: NewTask, instead_of: Option<TaskId>) -> bool {
    let Some(service) = state.services.get(&start.service) else { return false };
    if service.removing || service.waits || service.version != start.version || state.tasks.contains_key(&start.id) {
        return false;
    }
    let Some(node) = state.nodes.get(&start.node) else { return false };
    let in_slot = state
        .tasks_of(&start.service)
        .filter(|task| task.slot == start.slot && Some(task.id) != instead_of)
        .filter(|task| schedule::occupies_slot(state, task));
    let allowed = usize::from(rollout::starts_first(service));
    if in_slot.count() > allowed {
        return false;
    }
    let mut load = schedule::Load::default();
    for task in state.tasks_on(start.node).filter(|task| task.holds_its_node()) {
        load.add(task.service == start.service, &task.spec);
    }
    if schedule::refusal(state, node, &load, &service.spec, &service.task_spec).is_some() {
        return false;
    }
    let spec = Arc::clone(&service.task_spec);
    let Some(addresses) = networks::join(state, start.id, &start.service, start.node, &spec) else { return false };
    let Some(service) = state.services.get(&start.service) else { return false };
    let task = Task {
        id: start.id,
        service: start.service,
        slot: start.slot,
        node: start.node,
        spec: Arc::clone(&service.task_spec),
        spec_version: service.version,
        desired: DesiredState::Running,
        addresses,
        draining: None,
        request: service.request.clone(),
        created_at: state.time,
        revision: state.revision,
        status: TaskStatus::assigned(state.time),
        ready_since: None,
        ended_at: None,
    };
    let node = task.node;
    state.insert_task(task);
    touch(state, node);
    true
}

/// Whether the service can return to its previous spec: it has one, and nobody took its ports meanwhile.
pub(crate) fn can_roll_back(state: &State, key: &ServiceKey, service: &Service) -> bool {
    let Some(previous) = &service.previous else { return false };
    service.previous_task_spec.is_some()
        && state.services.iter().filter(|(other, _)| *other != key).all(|(_, other)| {
            previous.ports.iter().all(|port| other.spec.ports.iter().all(|theirs| !schedule::same_port(port, theirs)))
        })
}

fn roll_back(state: &mut State, key: &ServiceKey, version: u64, reason: String) -> bool {
    let Some(service) = state.services.get(key) else { return false };
    if service.version != version || !can_roll_back(state, key, service) {
        return false;
    }
    let (Some(previous), Some(task_spec)) = (service.previous.clone(), service.previous_task_spec.clone()) else {
        return false;
    };
    // The number of replicas is not what failed.
    let spec = ServiceSpec { mode: service.spec.mode, ..(*previous).clone() };
    let update = Update { started_at: state.time, state: UpdateState::RollingBack { reason } };
    let revision = state.revision;
    if let Some(service) = state.services.get_mut(key) {
        service.spec = Arc::new(spec);
        service.task_spec = task_spec;
        service.version = revision;
        service.previous = None;
        service.previous_task_spec = None;
        service.update = Some(update);
        // It ran once with what it needs.
        service.waits = false;
    }
    networks::service_changed(state, key);
    true
}

//! The engine as a [`Host`]: containers of tasks have the task's id as theirs, and a label that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stack_api::bodies::LogQuery;
use stack_api::error::full_text;
use stack_engine::container::{Container, ContainerId, ContainerState, Health as EngineHealth, StartError, StopError};
use stack_engine::dns::Layer;
use stack_engine::encryption::Tunnels;
use stack_engine::image::Reference;
use stack_engine::image::registry::{Credentials, PullError};
use stack_engine::overlay::Reconciled;
use stack_engine::volume::{VolumeError, Volumes};
use stack_engine::{Engine, RemoveOptions};
use stack_model::lifecycle::Hook;
use stack_model::spec::{Image, PullPolicy};
use stack_model::{AssignedTask, Health, NodeId, RegistryCredential, TaskId, Timestamp};
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::encryption::encryption;
use crate::files::Files;
use crate::hooks;
use crate::host::{Host, Observed, ObservedContainer, ObservedState, StepFailure};
use crate::names;
use crate::networks::{HostNetworks, Networks};
use crate::overlay::{self, Underlay};
use crate::plan::{Step, registry_of};
use crate::translate::{
    DescribedVolume, Place, TASK_LABEL, container_config, described_volumes, external_volumes, filled,
};

/// A registry's credential in the engine's words.
#[must_use]
pub fn credentials(credential: &RegistryCredential) -> Credentials {
    Credentials { username: credential.username.clone(), password: credential.password.clone() }
}

/// A query for a log in the engine's words: times there are in nanoseconds.
#[must_use]
pub fn log_query(query: &LogQuery) -> stack_engine::logs::LogQuery {
    stack_engine::logs::LogQuery {
        follow: query.follow,
        since: query.since.map(|at| at.saturating_mul(1_000_000)),
        until: query.until.map(|at| at.saturating_mul(1_000_000)),
        tail: query.tail.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
    }
}

/// How long a step waits for the networks of its task before it is tried again later.
const NETWORKS_WAIT: Duration = Duration::from_secs(5);
/// Between hosts, where the interface with the host's address is not found: Ethernet's.
const DEFAULT_MTU: u32 = 1500;

/// The engine of this host.
pub struct EngineHost {
    engine: Engine,
    tunnels: Arc<Tunnels>,
    node: NodeId,
    node_name: String,
    networks: Networks,
    files: Files,
    address: IpAddr,
}

impl EngineHost {
    /// `node_name`: for placeholders such as `{{.Node.Hostname}}`; `address`: where other hosts reach this one.
    #[must_use]
    pub const fn new(
        engine: Engine,
        tunnels: Arc<Tunnels>,
        node: NodeId,
        node_name: String,
        networks: Networks,
        files: Files,
        address: IpAddr,
    ) -> Self {
        Self { engine, tunnels, node, node_name, networks, files, address }
    }

    /// Wakes the reconcile loop whenever something happens to a container, until `stop`.
    pub fn wake_on_events(
        &self,
        wake: Arc<Notify>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let mut events = self.engine.events().listen();
        async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    event = events.recv() => match event {
                        // What was missed does not matter: the loop looks at everything.
                        Ok(_) | Err(RecvError::Lagged(_)) => wake.notify_one(),
                        Err(RecvError::Closed) => return,
                    },
                }
            }
        }
    }

    async fn pull(
        &self,
        assigned: &AssignedTask,
        credentials: &BTreeMap<String, RegistryCredential>,
    ) -> Result<(), StepFailure> {
        let container = &assigned.spec.container;
        for image in container.images() {
            let credential = credentials.get(registry_of(&image.reference));
            self.pull_image(image, container.pull_policy, credential).await?;
        }
        Ok(())
    }

    async fn pull_image(
        &self,
        image: &Image,
        policy: PullPolicy,
        credential: Option<&RegistryCredential>,
    ) -> Result<(), StepFailure> {
        if let Some(digest) = &image.digest
            && self.engine.images().get(digest.as_str()).is_ok()
        {
            return Ok(());
        }
        if policy == PullPolicy::Never {
            return Err(StepFailure {
                message: format!(
                    "image {}: it is not on this host, and its pull policy is `never`: load it",
                    image.reference
                ),
                // Somebody may load it.
                may_heal: true,
            });
        }
        let reference = match &image.digest {
            // A reference that has a digest keeps it; the tag of any other stays with the pinned digest as its name.
            Some(digest) if !image.reference.contains('@') => format!("{}@{digest}", image.reference),
            _ => image.reference.clone(),
        };
        let refuse = |error: &(dyn std::error::Error + 'static), may_heal| StepFailure {
            message: format!("image {}: {}", image.reference, full_text(error)),
            may_heal,
        };
        let reference: Reference = reference.parse().map_err(|error| refuse(&error, false))?;
        let credentials = credential.map(credentials);
        let pulled = self.engine.images().pull(&reference, credentials.as_ref(), &|_progress| {}).await;
        pulled.map(|_| ()).map_err(|error| {
            // Somebody may push the image or give the cluster a credential.
            let may_come =
                matches!(error, PullError::NotFound { .. } | PullError::Unauthorized { .. } | PullError::Denied { .. });
            refuse(&error, may_come || error.is_retryable())
        })
    }

    async fn create(&self, task: TaskId, assigned: &AssignedTask) -> Result<(), StepFailure> {
        let id = container_id(&task.to_string())?;
        if self.engine.inspect(&id).is_some() {
            return Ok(());
        }
        self.networks.wait_for(assigned.addresses.keys(), NETWORKS_WAIT).await?;
        let known = self.networks.wanted();
        let place =
            Place { node: self.node, node_name: &self.node_name, networks: &known.assigned, files: self.files.root() };
        require_volumes(self.engine.volumes(), &external_volumes(task, assigned, place))?;
        make_volumes(self.engine.volumes(), &described_volumes(task, assigned, place))?;
        self.prepare_files(task, assigned)?;
        let config = container_config(task, assigned, place);
        self.engine
            .create(Some(id), config)
            .await
            .map(|_| ())
            .map_err(|error| StepFailure { may_heal: error.is_retryable(), message: full_text(&error) })
    }

    /// The secrets and configs of a task are there before its container needs them.
    fn prepare_files(&self, task: TaskId, assigned: &AssignedTask) -> Result<(), StepFailure> {
        let networks = BTreeMap::new();
        let place =
            Place { node: self.node, node_name: &self.node_name, networks: &networks, files: self.files.root() };
        self.files.prepare(task, &assigned.spec.files, &|text| filled(text, task, assigned, place))
    }

    async fn start(&self, task: TaskId, container: &str, hooks: &[Hook]) -> Result<(), StepFailure> {
        // After a restart of the host they are gone.
        if let Some(assigned) = self.files.of(task) {
            self.prepare_files(task, &assigned)?;
        }
        let id = container_id(container)?;
        match self.engine.start(&id).await {
            Ok(()) => {}
            // Somebody else started it, or an earlier attempt went through after all.
            Err(StartError::State { state: "running", .. }) => {}
            Err(error) => return Err(StepFailure { may_heal: error.is_retryable(), message: full_text(&error) }),
        }
        let Err(reason) = hooks::run(&self.engine, &id, hooks, hooks::LONGEST).await else { return Ok(()) };
        // It is started again from the beginning.
        if let Err(error) = self.engine.stop(&id, None).await {
            tracing::warn!(error = %full_text(&error), "a container whose `post_start` failed could not be stopped");
        }
        Err(StepFailure { message: format!("`post_start`: {reason}"), may_heal: true })
    }
}

impl EngineHost {
    async fn stop(&self, container: &str, hooks: &[Hook]) -> Result<(), StepFailure> {
        let id = container_id(container)?;
        let grace = self.engine.inspect(&id).and_then(|container| container.config.stop_grace);
        let grace = grace.unwrap_or(hooks::DEFAULT_GRACE);
        // It ends all the same.
        if let Err(reason) = hooks::run(&self.engine, &id, hooks, grace).await {
            tracing::warn!(container, "`pre_stop`: {reason}");
        }
        match self.engine.stop(&id, None).await {
            // Somebody removed it meanwhile: it does not run.
            Ok(()) | Err(StopError::Missing { .. }) => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// An external volume is never made here: an empty one would pass for the data that the task is meant to find.
fn require_volumes(volumes: &Volumes, names: &BTreeSet<String>) -> Result<(), StepFailure> {
    for name in names {
        match volumes.inspect(name) {
            Ok(_) => {}
            Err(VolumeError::Missing { .. }) => {
                return Err(StepFailure {
                    message: format!("volume `{name}` is external and is not on this host: make it first"),
                    may_heal: true,
                });
            }
            Err(error) => {
                let may_heal = !matches!(error, VolumeError::Name { .. });
                return Err(StepFailure { message: full_text(&error), may_heal });
            }
        }
    }
    Ok(())
}

/// Makes the volumes that have labels or options, where they are not there. One that is there keeps its labels.
fn make_volumes(volumes: &Volumes, described: &BTreeMap<String, DescribedVolume>) -> Result<(), StepFailure> {
    for (name, described) in described {
        if described.options.is_empty() && volumes.inspect(name).is_ok() {
            continue;
        }
        volumes.create(name, &described.labels, &described.options).map_err(|error| StepFailure {
            message: full_text(&error),
            // Somebody may remove the one that is there.
            may_heal: !matches!(error, VolumeError::Name { .. } | VolumeError::Options { .. }),
        })?;
    }
    Ok(())
}

fn container_id(text: &str) -> Result<ContainerId, StepFailure> {
    text.parse().map_err(|error| StepFailure { message: full_text(&error), may_heal: false })
}

fn failed(error: &(dyn std::error::Error + 'static)) -> StepFailure {
    StepFailure { message: full_text(error), may_heal: true }
}

fn observed(container: &Container) -> ObservedContainer {
    let health = container.health.as_ref().map(|state| match state.health {
        EngineHealth::Starting => Health::Starting,
        EngineHealth::Healthy => Health::Healthy,
        EngineHealth::Unhealthy => Health::Unhealthy,
    });
    let state = match &container.state {
        ContainerState::Created | ContainerState::Starting => ObservedState::Created,
        ContainerState::Running { pid, started_at } => {
            ObservedState::Running { pid: u32::try_from(*pid).unwrap_or(0), since: Timestamp(*started_at), health }
        }
        ContainerState::Exited(status) => ObservedState::Exited {
            code: status.code,
            out_of_memory: status.oom,
            started: Timestamp(status.started_at.unwrap_or(status.finished_at)),
            finished: Timestamp(status.finished_at),
        },
        // Its removal was begun and is to be finished.
        ContainerState::Removing => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now = Timestamp(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
            ObservedState::Exited { code: 0, out_of_memory: false, started: now, finished: now }
        }
    };
    let ports = container.config.ports.iter().map(|port| (port.host_port, port.protocol.as_str())).collect();
    ObservedContainer { id: container.id.to_string(), state, ports }
}

impl Host for EngineHost {
    async fn observe(&self) -> Observed {
        let containers = self
            .engine
            .list()
            .iter()
            .filter_map(|container| {
                let task: TaskId = container.labels.get(TASK_LABEL)?.parse().ok()?;
                Some((task, observed(container)))
            })
            .collect();
        Observed { containers }
    }

    async fn apply_networks(&self, networks: &HostNetworks) -> Result<(), StepFailure> {
        let address = networks.underlay(self.node).unwrap_or(self.address);
        let mtu = match self.engine.overlay().mtu_of(address).await {
            Ok(Some(mtu)) => mtu,
            Ok(None) => DEFAULT_MTU,
            Err(error) => return Err(failed(&error)),
        };
        let underlay = Underlay { address, mtu };
        let wanted = overlay::overlays(self.node, networks, underlay);
        // Tunnels are there before what is sent by them, and end after it. One that fails keeps no other network back.
        let encryption = encryption(self.node, networks, underlay);
        let mut tunnels = Ok(());
        if encryption.is_some() {
            tunnels = self.tunnels.set(encryption.as_ref()).await.map(drop);
        }
        // Names are there before whoever is on the networks can ask for them.
        self.engine.names().directory().replace(Layer::Cluster, names::names(self.node, networks));
        match self.engine.overlay().set(wanted).await {
            Ok(done) => {
                if done != Reconciled::default() {
                    tracing::debug!(steps = done.steps, tables = done.tables, "networks changed");
                }
            }
            Err(error) => return Err(failed(&error)),
        }
        if encryption.is_none() {
            tunnels = self.tunnels.set(None).await.map(drop);
        }
        tunnels.map_err(|error| failed(&error))
    }

    async fn execute(&self, step: &Step) -> Result<(), StepFailure> {
        match step {
            Step::Pull { assigned, credentials, .. } => self.pull(assigned, credentials).await,
            Step::Create { task, assigned } => self.create(*task, assigned).await,
            Step::Start { task, container, hooks, .. } => self.start(*task, container, hooks).await,
            Step::Stop { container, hooks, .. } => self.stop(container, hooks).await,
            Step::Remove { container, .. } => {
                let id = container_id(container)?;
                if self.engine.inspect(&id).is_none() {
                    return Ok(());
                }
                let options = RemoveOptions { force: true, volumes: true };
                self.engine.remove(&id, options).await.map_err(|error| failed(&error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_external_volume_must_be_on_the_host() {
        let assigned: AssignedTask = serde_json::from_value(serde_json::json!({
            "service": "shop/web",
            "slot": {"replica": 3},
            "spec": {
                "container": {"image": {"reference": "web"}},
                "volumes": {
                    "own": {"name": "shop_own"},
                    "data": {"name": "data-{{.Task.Slot}}", "external": true},
                },
            },
            "desired": "running"
        }))
        .expect("an assigned task");
        let networks = BTreeMap::new();
        let place = Place {
            node: NodeId::from_bits(2),
            node_name: "alpha",
            networks: &networks,
            files: std::path::Path::new(""),
        };
        let names = external_volumes(TaskId::from_bits(1), &assigned, place);
        assert_eq!(names, BTreeSet::from(["data-3".to_owned()]));

        let directory = tempfile::tempdir().expect("a directory");
        let volumes = Volumes::open(directory.path()).expect("volumes");
        let failure = require_volumes(&volumes, &names).expect_err("it is not there");
        assert_eq!(failure.message, "volume `data-3` is external and is not on this host: make it first");
        assert!(failure.may_heal);
        assert!(volumes.list().is_empty(), "it was made");

        volumes.ensure("data-3", &BTreeMap::new(), None).expect("a volume");
        require_volumes(&volumes, &names).expect("it is there");

        let failure = require_volumes(&volumes, &BTreeSet::from(["../etc".to_owned()])).expect_err("no name");
        assert!(!failure.may_heal, "{}", failure.message);
    }
}

//! The engine: the containers of one host, from their records on disk to their running shims.
//!
//! A container's operations that change it (start, the clearing up after its end, remove) take turns; signals, waiting,
//! logs and exec do not wait for them. Whatever happens to this process, the next one finds the truth by asking the shims.

mod adoption;
mod changes;
mod committing;
mod copies;
mod copying;
mod difference;
mod execs;
mod host_end;
mod labels;
mod mounted_images;
mod networking;
mod opening;
mod shipping;
mod streams;
mod supervision;
mod telling;
mod users;
mod verdict;

pub use changes::ContainerChange;
use copies::Copies;
pub use difference::Difference;
pub use networking::ConnectError;
use telling::subject_of;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stack_shim::protocol::{Request, Response};
use tokio::sync::watch;

use crate::apparmor::AppArmor;
use crate::cgroup::{self, Hierarchies, Usage};
use crate::container::{
    Container, ContainerConfig, ContainerId, ContainerState, CreateError, EventKind, ExecCommand, ExecError, ExecId,
    ExecOutcome, ExitStatus, HealthState, KillError, Launched, Launcher, Phases, Prober, Record, RecordedState,
    RemoveError, Roots, Runtimes, Shim, StartError, StopError, UserNamespaces, WaitError, Waiting,
};
use crate::crash_point::crash_point;
use crate::dns::NameServers;
use crate::events::Events;
use crate::image::{ImageStore, RegistryConfig};
use crate::logs::{self, LogError, LogQuery, LogStream};
use crate::metrics::Metrics;
use crate::network::{NetworkConfig, Networks};
use crate::overlay::{Overlay, OverlayEndpoint};
use crate::selinux::SelinuxMode;
use crate::volume::{VolumeError, Volumes};

/// How long a killed container may take to end.
const KILLED: Duration = Duration::from_secs(30);
/// How long those who read a container's log may take to open its files, before it is removed.
const LOG_READERS: Duration = Duration::from_secs(1);
/// How long a container may take to end after its stop signal, unless it says otherwise.
const GRACE: Duration = Duration::from_secs(10);

/// Where an engine keeps its things, and how its containers are made.
#[derive(Debug, Clone)]
pub struct ContainersConfig {
    /// What outlives a reboot: `/var/lib/stack`.
    pub root: PathBuf,
    /// What does not: `/run/stack`.
    pub run: PathBuf,
    /// The program `stack-shim`.
    pub shim: PathBuf,
    /// The control group above the containers'. Relative: below the groups of this process.
    pub cgroup_parent: PathBuf,
    /// Where devices are described (Container Device Interface); the last goes before the others. Empty: nowhere.
    pub cdi_directories: Vec<PathBuf>,
    /// How long the shim of a container that ran may take to answer an engine that has just come.
    pub shim_patience: Duration,
    /// Other runtimes, by the names that containers call them.
    pub runtimes: Runtimes,
    /// Whose users those of containers are.
    pub users: UserNamespaces,
    /// Whether containers are labelled for SELinux.
    pub selinux: SelinuxMode,
}

impl ContainersConfig {
    /// The usual [`shim_patience`](Self::shim_patience).
    pub const SHIM_PATIENCE: Duration = Duration::from_secs(30);
}

/// The whole engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Containers.
    pub containers: ContainersConfig,
    /// Where images come from.
    pub registry: RegistryConfig,
    /// Networks.
    pub network: NetworkConfig,
}

/// How a container is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Remove the volumes that belong to it alone.
    pub volumes: bool,
}

/// The container engine of one host. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    launcher: Launcher,
    images: ImageStore,
    roots: Arc<dyn Roots>,
    containers: Mutex<BTreeMap<ContainerId, Arc<Slot>>>,
    execs: Mutex<BTreeMap<ExecId, Arc<execs::ExecSlot>>>,
    events: Events,
    metrics: Metrics,
    warnings: Mutex<Vec<String>>,
    /// The host goes down: no policy starts anything again.
    ending: AtomicBool,
}

/// One container in memory.
struct Slot {
    /// Held by whoever changes the container.
    turn: tokio::sync::Mutex<()>,
    data: Mutex<Data>,
    state: watch::Sender<ContainerState>,
    /// Whether its output may still grow.
    writing: watch::Sender<bool>,
    /// Who attached before it was started.
    waiting: Waiting,
    /// Who looks at its files.
    copies: Copies,
    /// Held by whoever reads its log and needs the names of the files.
    log_names: Arc<tokio::sync::RwLock<()>>,
    /// How sending its log goes, once that has begun.
    delivery: OnceLock<logs::delivery::Status>,
}

struct Data {
    record: Arc<Record>,
    health: Option<HealthState>,
    prober: Option<Prober>,
    notes: Vec<String>,
    /// Its processes are frozen.
    paused: bool,
    /// It will be started again by its policy.
    pending: Option<tokio::task::AbortHandle>,
    /// The pause before it was last started again.
    last_pause: Option<Duration>,
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is a single assignment, so a panic elsewhere leaves the value whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    fn new(record: Record, state: ContainerState) -> Self {
        let data = Data {
            record: Arc::new(record),
            health: None,
            prober: None,
            notes: Vec::new(),
            paused: false,
            pending: None,
            last_pause: None,
        };
        let running = matches!(state, ContainerState::Running { .. });
        Self {
            turn: tokio::sync::Mutex::new(()),
            data: Mutex::new(data),
            state: watch::channel(state).0,
            writing: watch::channel(running).0,
            waiting: Waiting::default(),
            copies: Copies::default(),
            log_names: Arc::default(),
            delivery: OnceLock::new(),
        }
    }

    fn record(&self) -> Arc<Record> {
        Arc::clone(&locked(&self.data).record)
    }

    fn current(&self) -> ContainerState {
        self.state.borrow().clone()
    }

    fn set(&self, state: ContainerState) {
        // The log of a container that has not ended goes on.
        self.writing.send_replace(matches!(state, ContainerState::Starting | ContainerState::Running { .. }));
        self.state.send_replace(state);
    }
}

impl Engine {
    /// What could not be read when the engine was opened, and what is wrong with logs that are sent.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut all = locked(&self.inner.warnings).clone();
        all.extend(self.log_troubles());
        all.extend(self.inner.launcher.apparmor.warning());
        all.extend(self.inner.launcher.selinux.warning());
        all
    }

    /// Where devices are described by name.
    #[must_use]
    pub fn cdi_directories(&self) -> &[PathBuf] {
        &self.inner.launcher.cdi_directories
    }

    /// AppArmor on this host.
    #[must_use]
    pub fn apparmor(&self) -> &AppArmor {
        &self.inner.launcher.apparmor
    }

    /// The profile of AppArmor that a container's processes run under, or would if it were started: `unconfined` is none; empty
    /// where the host has no AppArmor. Reads the disk.
    #[must_use]
    pub fn apparmor_profile(&self, container: &Container) -> String {
        let (launcher, apparmor) = (&self.inner.launcher, self.apparmor());
        match container.state {
            ContainerState::Running { .. } => launcher.process_of(&container.id).map_or_else(
                // It has ended meanwhile.
                |_| apparmor.shown(&container.config),
                |process| apparmor.shown_of(process.confinement.as_ref()),
            ),
            ContainerState::Created
            | ContainerState::Starting
            | ContainerState::Exited(_)
            | ContainerState::Removing => apparmor.shown(&container.config),
        }
    }

    /// The images.
    #[must_use]
    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }

    /// The networks between hosts, which whoever knows the cluster sets.
    #[must_use]
    pub fn overlay(&self) -> &Overlay {
        &self.inner.launcher.overlay
    }

    /// The name servers of the containers, and where names are published.
    #[must_use]
    pub fn names(&self) -> &NameServers {
        &self.inner.launcher.names
    }

    /// The networks.
    #[must_use]
    pub fn networks(&self) -> &Networks {
        &self.inner.launcher.networks
    }

    /// The volumes.
    #[must_use]
    pub fn volumes(&self) -> &Volumes {
        &self.inner.launcher.volumes
    }

    /// Other runtimes, by the names that containers call them.
    #[must_use]
    pub fn runtimes(&self) -> &Runtimes {
        &self.inner.launcher.runtimes
    }

    /// The control group hierarchies of this host.
    #[must_use]
    pub fn hierarchies(&self) -> &Hierarchies {
        &self.inner.launcher.hierarchies
    }

    /// Adds the engine's counters to a registry.
    pub fn register_metrics(&self, registry: &mut prometheus_client::registry::Registry) {
        self.inner.metrics.register(registry);
    }

    /// What happens on this host.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    fn slot(&self, id: &ContainerId) -> Option<Arc<Slot>> {
        locked(&self.inner.containers).get(id).cloned()
    }

    /// Makes a container: its record and its root file system. Nothing runs yet. Without an id one is drawn.
    ///
    /// # Errors
    /// When there is such a container, the configuration makes no sense, or the image is not there.
    pub async fn create(&self, id: Option<ContainerId>, config: ContainerConfig) -> Result<ContainerId, CreateError> {
        let id = match id {
            Some(id) => id,
            None => hex::encode(rand::random::<[u8; 32]>()).parse()?,
        };
        let root = |source| CreateError::Root { id: id.clone(), source };
        if self.slot(&id).is_some() {
            return Err(CreateError::Exists { id });
        }
        let image = self.inner.roots.image(&config.image).await.map_err(root)?;
        crate::container::check(&id, &config, &image.defaults)
            .and_then(|()| self.check_users(&config))
            .map_err(|source| CreateError::Spec { id: id.clone(), source })?;
        self.inner.launcher.runtime(&id, &config).map_err(|source| CreateError::Spec { id: id.clone(), source })?;
        self.check_realtime(&config.resources).map_err(|source| CreateError::Spec { id: id.clone(), source })?;
        if config.storage_size.is_some() {
            self.inner.roots.check_size_limit().map_err(CreateError::SizeLimit)?;
        }
        let apparmor = &self.inner.launcher.apparmor;
        apparmor.check(&config).map_err(|source| CreateError::AppArmor { id: id.clone(), source })?;
        self.selinux().check(&config).map_err(|source| CreateError::Selinux { id: id.clone(), source })?;
        let mounted_images = self.find_mounted(&config).await.map_err(root)?;
        let mut record = Record {
            id: id.clone(),
            config,
            mounted_images,
            image_digest: image.digest.clone(),
            image: image.defaults,
            overlay: crate::container::OverlayDirectories {
                lower: Vec::new(),
                upper: PathBuf::new(),
                work: PathBuf::new(),
            },
            created_at: now(),
            starts: 0,
            restarts: 0,
            stopped: false,
            keeps_volumes: false,
            cgroups: stack_shim::launch::Cgroups::default(),
            users: None,
            selinux: None,
            state: RecordedState::Created,
        };
        let slot = Arc::new(Slot::new(record.clone(), ContainerState::Created));
        let _turn = slot.turn.lock().await;
        {
            let mut containers = locked(&self.inner.containers);
            if containers.contains_key(&id) {
                return Err(CreateError::Exists { id });
            }
            if let Some(name) = &record.config.name {
                let other = containers
                    .values()
                    .map(|slot| slot.record())
                    .find(|other| other.config.name.as_deref().unwrap_or(other.id.as_str()) == name);
                if let Some(other) = other {
                    return Err(CreateError::NameTaken { name: name.clone(), other: other.id.clone() });
                }
            }
            record.selinux = self
                .labels_among(&containers, &record)
                .map_err(|source| CreateError::Selinux { id: id.clone(), source })?;
            locked(&slot.data).record = Arc::new(record.clone());
            containers.insert(id.clone(), Arc::clone(&slot));
        }
        // Its directory has no record until it is whole: what a crash leaves is then cleared away.
        let made = async {
            let begun = self.inner.launcher.records.begin(&id);
            begun.map_err(|source| CreateError::Record { id: id.clone(), source })?;
            crash_point!("create.begun");
            record.overlay =
                self.inner.roots.prepare(id.as_str(), &image.digest, record.config.storage_size).await.map_err(root)?;
            self.find_layers(&mut record.mounted_images).await.map_err(root)?;
            crash_point!("create.snapshot");
            self.save(&record).await.map_err(|source| CreateError::Record { id: id.clone(), source })
        }
        .await;
        if let Err(error) = made {
            locked(&self.inner.containers).remove(&id);
            if let Err(left) = self.inner.roots.remove(id.as_str()).await {
                tracing::warn!(container = %id, error = crate::container::text_of(&left), "could not remove its snapshot");
            }
            if let Err(left) = self.inner.launcher.records.remove(&id) {
                tracing::warn!(container = %id, error = crate::container::text_of(&left), "could not remove its record");
            }
            return Err(error);
        }
        locked(&slot.data).record = Arc::new(record);
        self.tell(&id, EventKind::Created);
        crash_point!("create.made");
        Ok(id)
    }

    async fn save(&self, record: &Record) -> Result<(), crate::container::RecordError> {
        let (records, record) = (self.inner.launcher.records.clone(), record.clone());
        let path = records.directory(&record.id);
        tokio::task::spawn_blocking(move || records.save(&record)).await.unwrap_or_else(|error| {
            Err(crate::container::RecordError::Disk { what: "write", path, source: io::Error::other(error) })
        })
    }

    /// Starts a container and returns when its program runs.
    ///
    /// # Errors
    /// Why it does not. The container has then ended with an error, and nothing of the attempt is left.
    pub async fn start(&self, id: &ContainerId) -> Result<(), StartError> {
        // On a task of its own: a caller that goes away must not leave a start half done.
        let (engine, id) = (self.clone(), id.clone());
        let task = {
            let id = id.clone();
            tokio::spawn(async move { engine.start_now(&id, false).await })
        };
        task.await.unwrap_or_else(|error| {
            Err(StartError::Shim { id, what: "complete the start", source: io::Error::other(error) })
        })
    }

    /// `again`: by its policy, and not because somebody wants it now.
    async fn start_now(&self, id: &ContainerId, again: bool) -> Result<(), StartError> {
        let began = std::time::Instant::now();
        let slot = self.slot(id).ok_or_else(|| StartError::Missing { id: id.clone() })?;
        let _turn = slot.turn.lock().await;
        match slot.current() {
            ContainerState::Created | ContainerState::Exited(_) => {}
            ContainerState::Running { .. } | ContainerState::Starting => {
                return Err(StartError::State { id: id.clone(), state: "running" });
            }
            ContainerState::Removing => return Err(StartError::State { id: id.clone(), state: "being removed" }),
        }
        if let Some(pending) = locked(&slot.data).pending.take() {
            pending.abort();
        }
        let mut record = (*slot.record()).clone();
        if again && record.stopped {
            // Somebody was quicker.
            return Ok(());
        }
        record.starts += 1;
        record.restarts = if again { record.restarts.saturating_add(1) } else { 0 };
        record.stopped = false;
        record.state = RecordedState::Started;
        slot.set(ContainerState::Starting);
        let mut notes = Vec::new();
        // Its overlay is mounted once at a time.
        crash_point!("start.decided");
        let alone = slot.copies.end(copies::PATIENCE).await;
        let launched = self.launch(&slot, &mut record, &mut notes).await;
        locked(&slot.data).notes = notes;
        match launched {
            Ok((launched, shim)) => {
                self.inner.metrics.starts.inc();
                self.inner.metrics.start_seconds.observe(began.elapsed().as_secs_f64());
                let Launched { pid, started_at, child } = launched;
                // Nobody may see it run without a verdict, and take that for one that needs none.
                locked(&slot.data).health = Prober::is_wanted(&slot.record()).then(HealthState::starting_now);
                slot.set(ContainerState::Running { pid, started_at: started_at / 1_000_000 });
                drop(alone);
                // Whoever came while it was being started.
                slot.waiting.connect(self.inner.launcher.run_directory(id)).await;
                self.tell_surroundings(&record, true);
                self.tell(id, EventKind::Started);
                self.ship(&slot);
                self.supervise(Arc::clone(&slot), shim, Some(child), pid, started_at);
                crash_point!("start.supervised");
                Ok(())
            }
            Err(error) => {
                self.inner.metrics.start_failures.inc();
                let failures = self.inner.launcher.clear(id, &record.cgroups).await;
                report(id, &failures);
                let status = ExitStatus {
                    code: error.exit_code(),
                    signal: None,
                    oom: false,
                    started_at: None,
                    finished_at: now(),
                    error: Some(error.full_text()),
                };
                slot.waiting.dismiss();
                self.record_end(&slot, status.clone()).await;
                drop(alone);
                self.remove_if_asked(&slot);
                if again {
                    self.restart_by_policy(&slot, &status);
                }
                Err(error)
            }
        }
    }

    async fn launch(
        &self,
        slot: &Slot,
        record: &mut Record,
        notes: &mut Vec<String>,
    ) -> Result<(Launched, Shim), StartError> {
        let id = record.id.clone();
        let mut phases = Phases::begin();
        let prepared = {
            let (joined, users) = self.joined(record)?;
            record.users = users.as_ref().map(|users| users.ids);
            self.label_again(slot, record)?;
            let (launcher, record) = (self.inner.launcher.clone(), record.clone());
            tokio::task::spawn_blocking(move || launcher.prepare(&record, joined, users)).await.map_err(|error| {
                StartError::Shim { id: id.clone(), what: "prepare the start", source: io::Error::other(error) }
            })??
        };
        phases.done("decide");
        // What is about to be made is on disk before it is made.
        record.cgroups = prepared.cgroups().clone();
        crash_point!("start.prepared");
        self.save(record).await.map_err(|source| StartError::Record { id: id.clone(), source })?;
        crash_point!("start.recorded");
        locked(&slot.data).record = Arc::new(record.clone());
        phases.done("record");
        let launched = self.inner.launcher.execute(record, prepared, &slot.waiting, notes, &mut phases).await?;
        tracing::debug!(container = %id, microseconds = %phases, "started");
        let shim = Shim::connect(&self.inner.launcher.run_directory(&id)).await;
        match shim {
            Ok(shim) => Ok((launched, shim)),
            // It has ended in the meantime: whoever supervises it finds that out at once.
            Err(_) => {
                Ok((launched, Shim::gone().map_err(|source| StartError::Shim { id, what: "reach its shim", source })?))
            }
        }
    }

    /// Sends a signal to a container's first process.
    ///
    /// # Errors
    /// When it does not run, or there is no such signal.
    pub async fn kill(&self, id: &ContainerId, signal: i32) -> Result<(), KillError> {
        self.send(id, signal).await?;
        crash_point!("kill.signalled");
        if let Some(slot) = self.slot(id) {
            let record = slot.record();
            let stops = crate::container::stop_signal(&record.config, &record.image).is_ok_and(|stops| stops == signal);
            if signal == libc::SIGKILL || stops {
                self.mark_stopped(&slot).await;
            }
        }
        crash_point!("kill.marked");
        self.tell(id, EventKind::Killed { signal });
        Ok(())
    }

    async fn send(&self, id: &ContainerId, signal: i32) -> Result<(), KillError> {
        let slot = self.slot(id).ok_or_else(|| KillError::Missing { id: id.clone() })?;
        let not_running = || KillError::NotRunning { id: id.clone() };
        if !matches!(slot.current(), ContainerState::Running { .. }) {
            return Err(not_running());
        }
        let failed = |source| KillError::Shim { id: id.clone(), signal, source };
        let mut shim = match Shim::connect(&self.inner.launcher.run_directory(id)).await {
            Err(error) if crate::container::is_absent(&error) => return Err(not_running()),
            result => result.map_err(failed)?,
        };
        match shim.ask(&Request::Signal { number: signal }).await.map_err(failed)? {
            Some(Response::Done) => {
                if signal == libc::SIGKILL {
                    // What is frozen does not end.
                    self.thaw(&slot);
                }
                Ok(())
            }
            Some(Response::BadRequest { reason }) => Err(failed(io::Error::new(io::ErrorKind::InvalidInput, reason))),
            _ => Err(not_running()),
        }
    }

    /// Asks a container to end, and kills it if it has not after `grace` (its own, or 10 s).
    ///
    /// # Errors
    /// When there is none, or it does not end though it was killed.
    pub async fn stop(&self, id: &ContainerId, grace: Option<Duration>) -> Result<(), StopError> {
        self.stop_with(id, None, grace).await
    }

    /// The same, asking by this signal in place of the container's own.
    ///
    /// # Errors
    /// When there is none, or it does not end though it was killed.
    pub async fn stop_with(
        &self,
        id: &ContainerId,
        signal: Option<i32>,
        grace: Option<Duration>,
    ) -> Result<(), StopError> {
        let slot = self.slot(id).ok_or_else(|| StopError::Missing { id: id.clone() })?;
        let runs = matches!(slot.current(), ContainerState::Running { .. } | ContainerState::Starting);
        self.stop_now(&slot, signal, grace).await?;
        if runs {
            self.tell(id, EventKind::Stopped);
        }
        Ok(())
    }

    async fn stop_now(&self, slot: &Slot, signal: Option<i32>, grace: Option<Duration>) -> Result<(), StopError> {
        // A start that is under way is let through first.
        drop(slot.turn.lock().await);
        self.mark_stopped(slot).await;
        crash_point!("stop.marked");
        self.end_now(slot, signal, grace).await
    }

    /// Ends a container that runs, without a mark that somebody wanted it so.
    async fn end_now(&self, slot: &Slot, signal: Option<i32>, grace: Option<Duration>) -> Result<(), StopError> {
        let id = &slot.record().id.clone();
        if !matches!(slot.current(), ContainerState::Running { .. }) {
            return Ok(());
        }
        let record = slot.record();
        let signal = match signal {
            Some(signal) => signal,
            None => crate::container::stop_signal(&record.config, &record.image)
                .map_err(|source| StopError::Signal { id: id.clone(), source })?,
        };
        let grace = grace.or(record.config.stop_grace).unwrap_or(GRACE);
        self.thaw(slot);
        match self.send(id, signal).await {
            Ok(()) if ended_within(slot, grace).await => return Ok(()),
            Ok(()) => {}
            Err(error) => tracing::debug!(container = %id, %error, "the stop signal could not be sent"),
        }
        crash_point!("stop.asked");
        if let Err(error) = self.send(id, libc::SIGKILL).await {
            tracing::debug!(container = %id, %error, "could not kill by the shim");
        }
        crash_point!("stop.killed");
        if ended_within(slot, Duration::from_secs(2)).await {
            return Ok(());
        }
        // The shim does not do it, so everything in the control groups goes.
        let cgroups = record.cgroups.clone();
        let _ = tokio::task::spawn_blocking(move || cgroup::kill_all(&cgroups)).await;
        if ended_within(slot, KILLED).await {
            return Ok(());
        }
        Err(StopError::Hangs { id: id.clone(), seconds: KILLED.as_secs() })
    }

    /// Removes a container and everything that is its own. Trying again completes a removal that failed.
    ///
    /// # Errors
    /// When it runs and `force` is not set, or something could not be removed.
    pub async fn remove(&self, id: &ContainerId, options: RemoveOptions) -> Result<(), RemoveError> {
        let slot = self.slot(id).ok_or_else(|| RemoveError::Missing { id: id.clone() })?;
        if options.force {
            self.stop(id, Some(Duration::ZERO)).await.map_err(|source| RemoveError::Stop { id: id.clone(), source })?;
        }
        let _turn = slot.turn.lock().await;
        if matches!(slot.current(), ContainerState::Running { .. } | ContainerState::Starting) {
            return Err(RemoveError::Running { id: id.clone() });
        }
        if let Some(pending) = locked(&slot.data).pending.take() {
            pending.abort();
        }
        if self.slot(id).is_none() {
            return Err(RemoveError::Missing { id: id.clone() });
        }
        slot.set(ContainerState::Removing);
        let keeps_volumes = !options.volumes;
        let record = Record { state: RecordedState::Removing, keeps_volumes, ..(*slot.record()).clone() };
        locked(&slot.data).record = Arc::new(record.clone());
        let mut failures = Vec::new();
        if let Err(error) = self.inner.launcher.records.mark_removing(id, keeps_volumes) {
            failures.push(crate::container::text_of(&error));
        }
        crash_point!("remove.recorded");
        failures.extend(self.inner.launcher.clear(id, &record.cgroups).await);
        crash_point!("remove.cleared");
        let alone = slot.copies.end(copies::PATIENCE).await;
        if let Err(error) = self.inner.roots.remove(id.as_str()).await {
            failures.push(crate::container::text_of(&error));
        }
        crash_point!("remove.snapshot");
        if options.volumes {
            for volume in crate::container::volumes(id, &record.config, &record.image) {
                // A named one outlives every container.
                if !volume.anonymous {
                    continue;
                }
                // Others may have taken it over; it then goes with none of them.
                let mut users = self.volume_users().remove(&volume.name).unwrap_or_default();
                users.retain(|user| user != id.as_str());
                match self.volumes().remove(&volume.name, users) {
                    Ok(()) | Err(VolumeError::Missing { .. } | VolumeError::InUse { .. }) => {}
                    Err(error) => failures.push(crate::container::text_of(&error)),
                }
            }
        }
        crash_point!("remove.volumes");
        // Who follows its log reads it to the end.
        let _ = tokio::time::timeout(LOG_READERS, slot.log_names.write()).await;
        if failures.is_empty()
            && let Err(error) = self.inner.launcher.records.remove(id)
        {
            failures.push(crate::container::text_of(&error));
        }
        crash_point!("remove.forgotten");
        if !failures.is_empty() {
            return Err(RemoveError::Left { id: id.clone(), failures });
        }
        locked(&self.inner.containers).remove(id);
        drop(alone);
        slot.waiting.dismiss();
        self.tell_of(id, EventKind::Removed, subject_of(&record));
        Ok(())
    }

    fn view(&self, slot: &Slot) -> Container {
        let state = slot.current();
        let data = locked(&slot.data);
        let record = Arc::clone(&data.record);
        let (health, mut notes) = (data.health.clone(), data.notes.clone());
        let (paused, restarting) = (data.paused, data.pending.is_some());
        drop(data);
        notes.extend(slot.log_troubles());
        let attachment = self.inner.launcher.networks.attachment(record.id.as_str()).unwrap_or_default();
        let mut labels = record.image.labels.clone();
        labels.extend(record.config.labels.clone());
        Container {
            id: record.id.clone(),
            name: record.config.name.clone().unwrap_or_else(|| record.id.to_string()),
            labels,
            image_digest: record.image_digest.clone(),
            mounted_images: mounted_images::digests(&record),
            config: record.config.clone(),
            created_at: record.created_at,
            state,
            health,
            addresses: attachment
                .endpoints
                .iter()
                .flat_map(crate::network::Endpoint::addresses)
                .chain(record.config.overlays.iter().flat_map(OverlayEndpoint::own_addresses))
                .chain(attachment.between.iter().flat_map(OverlayEndpoint::own_addresses))
                .collect(),
            ports: attachment.ports,
            starts: record.starts,
            restarts: record.restarts,
            paused,
            restarting,
            selinux: record.selinux.clone(),
            notes,
        }
    }

    /// All containers, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Container> {
        let slots: Vec<Arc<Slot>> = locked(&self.inner.containers).values().cloned().collect();
        slots.iter().map(|slot| self.view(slot)).collect()
    }

    /// One container.
    #[must_use]
    pub fn inspect(&self, id: &ContainerId) -> Option<Container> {
        self.slot(id).map(|slot| self.view(&slot))
    }

    /// Waits until a container has ended; at once if it has. One that was never started is waited for, too.
    ///
    /// # Errors
    /// When there is none, or it is removed.
    pub async fn wait(&self, id: &ContainerId) -> Result<ExitStatus, WaitError> {
        let missing = || WaitError::Missing { id: id.clone() };
        let slot = self.slot(id).ok_or_else(missing)?;
        let mut state = slot.state.subscribe();
        let ended = |state: &ContainerState| matches!(state, ContainerState::Exited(_) | ContainerState::Removing);
        let seen = state.wait_for(ended).await.map_err(|_| missing())?.clone();
        match seen {
            ContainerState::Exited(status) => Ok(status),
            _ => Err(missing()),
        }
    }

    /// Runs a further process in a running container.
    ///
    /// # Errors
    /// When the container does not run or the program cannot be run.
    pub async fn exec(&self, id: &ContainerId, command: ExecCommand) -> Result<ExecOutcome, ExecError> {
        let slot = self.slot(id).ok_or_else(|| ExecError::Missing { id: id.clone() })?;
        let ContainerState::Running { pid, .. } = slot.current() else {
            return Err(ExecError::NotRunning { id: id.clone() });
        };
        slot.is_awake()?;
        crate::container::run_command(&self.inner.launcher, &slot.record(), pid, command).await
    }

    /// A container's output.
    pub fn logs(&self, id: &ContainerId, query: LogQuery) -> LogStream {
        match self.slot(id) {
            None => logs::refused(LogError::Missing { id: id.to_string() }),
            Some(slot) if !slot.record().config.logging.is_readable() => {
                logs::refused(LogError::NotReadable { id: id.to_string() })
            }
            Some(slot) => {
                let directory = self.inner.launcher.records.directory(id).join("logs");
                let names = Arc::clone(&slot.log_names).try_read_owned().ok();
                logs::read(directory, query, slot.writing.subscribe(), names)
            }
        }
    }

    /// What a container uses now; `None` when it does not run.
    #[must_use]
    pub fn usage(&self, id: &ContainerId) -> Option<Usage> {
        let slot = self.slot(id)?;
        matches!(slot.current(), ContainerState::Running { .. }).then(|| cgroup::usage(&slot.record().cgroups))
    }

    /// Which containers have a volume, by its name.
    #[must_use]
    pub fn volume_users(&self) -> HashMap<String, Vec<String>> {
        let mut users: HashMap<String, Vec<String>> = HashMap::new();
        for slot in locked(&self.inner.containers).values() {
            let record = slot.record();
            for volume in crate::container::volumes(&record.id, &record.config, &record.image) {
                users.entry(volume.name).or_default().push(record.id.to_string());
            }
        }
        users
    }

    /// Removes a volume that no container has.
    ///
    /// # Errors
    /// When there is none or a container has it.
    pub fn remove_volume(&self, name: &str) -> Result<(), VolumeError> {
        self.volumes().remove(name, self.volume_users().remove(name).unwrap_or_default())
    }
}

async fn ended_within(slot: &Slot, span: Duration) -> bool {
    let mut state = slot.state.subscribe();
    let ended = state.wait_for(|state| !matches!(state, ContainerState::Running { .. }));
    tokio::time::timeout(span, ended).await.is_ok()
}

fn report(id: &ContainerId, failures: &[String]) {
    for failure in failures {
        tracing::warn!(container = %id, failure, "not everything could be cleared away");
    }
}

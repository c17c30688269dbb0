//! The wiring: engine, agent, controller, sockets. What fails here is said and ends the process; containers go on.

use std::error::Error;
use std::fs::DirBuilder;
use std::future::IntoFuture;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use prometheus_client::registry::Registry;
use stack_agent::Networks;
use stack_agent::encryption::KeyRing;
use stack_agent::engine_host::EngineHost;
use stack_agent::files::Files;
use stack_agent::guests::Guests;
use stack_agent::ledger::{Ledger, SharedLedger};
use stack_agent::metrics::AgentMetrics;
use stack_agent::reconcile::{Contact, Reconciler};
use stack_agent::watch::{Session, SessionConfig};
pub use stack_api::error::full_text as chain;
use stack_api::{Client, Endpoint};
use stack_controller::controller::Controller;
use stack_controller::http::listener;
use stack_controller::identity::{Credentials, NodeIdentity, renewal};
use stack_controller::tuning::Tuning;
use stack_docker_api::DaemonInfo;
use stack_engine::encryption::Tunnels;
use stack_engine::overlay::OverlayConfig;
use stack_engine::{ContainersConfig, Engine, EngineConfig};
use stack_model::{Contents, Readiness};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::configuration::Configuration;
use crate::controlling::Served;
use crate::description;
use crate::docker_cluster::DockerCluster;
use crate::host_end;
use crate::membership;
use crate::switch::Switch;

/// What ends the daemon, for the log.
pub type Failure = Box<dyn Error + Send + Sync>;

/// One host's daemon.
pub struct Daemon {
    /// What it was told.
    pub configuration: Configuration,
    /// One attempt to become a member at a time.
    pub membership: Mutex<()>,
    /// The container engine.
    pub engine: Engine,
    local: Switch,
    member: Mutex<Option<Member>>,
    /// What the agent of a member remembers.
    ledger: Mutex<Option<SharedLedger>>,
    /// Ends everything.
    pub stop: CancellationToken,
    tasks: TaskTracker,
    /// Why the daemon must end, from whichever part of it cannot go on.
    fatal: mpsc::Sender<String>,
}

struct Member {
    credentials: Arc<Credentials>,
    controller: Option<Arc<Controller>>,
    /// Why a host that is a controller has none now.
    controller_failure: Option<String>,
    /// Once the agent has begun.
    session: Option<Arc<Session>>,
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// What it cannot be without failed. The text says what and why.
pub async fn run(configuration: Configuration) -> Result<(), Failure> {
    let make = |path: &Path, mode| {
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .map_err(|error| format!("cannot make {}: {error}", path.display()))
    };
    make(&configuration.state_directory, 0o700)?;
    make(&configuration.run_directory, 0o755)?;
    let _lock = lock(&configuration.state_directory)?;
    let engine = Engine::open(EngineConfig {
        containers: ContainersConfig {
            root: configuration.state_directory.clone(),
            run: configuration.run_directory.clone(),
            shim: configuration.shim.clone(),
            cgroup_parent: configuration.cgroup_parent.clone().map_or_else(|| "/stack".into(), Into::into),
            cdi_directories: configuration.cdi_directories.clone(),
            shim_patience: ContainersConfig::SHIM_PATIENCE,
            runtimes: configuration.runtimes.clone(),
            users: configuration.users,
            selinux: configuration.selinux,
        },
        registry: configuration.registry.clone(),
        network: configuration.network.clone(),
    })
    .await?;
    for warning in engine.warnings() {
        tracing::warn!("{warning}");
    }
    let (fatal, mut failures) = mpsc::channel(4);
    let daemon = Arc::new(Daemon {
        configuration,
        membership: Mutex::new(()),
        engine,
        local: Switch::default(),
        member: Mutex::new(None),
        ledger: Mutex::new(None),
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
        fatal,
    });
    daemon.serve_local_socket()?;
    daemon.serve_docker_socket()?;
    daemon.set_local_routes(Router::new(), None);
    if let Some(identity) = NodeIdentity::load(&daemon.configuration.state_directory)? {
        daemon.become_member(identity).await?;
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        state = %daemon.configuration.state_directory.display(),
        member = daemon.identity().await.is_some(),
        "stackd is ready"
    );
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "nobody waits for readiness");
    }
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(reason) = failures.recv() => Err(reason.into()),
    };
    let with_host = outcome.is_ok() && host_end::is_under_way().await;
    if with_host {
        tracing::info!("the host goes down, and containers with it");
        host_end::ask_for_time();
    } else {
        tracing::info!("stackd ends; containers go on");
    }
    daemon.shut_down(with_host).await;
    outcome
}

/// Two daemons on one state directory would undo each other's work.
fn lock(directory: &Path) -> Result<nix::fcntl::Flock<std::fs::File>, Failure> {
    let path = directory.join("stackd.lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| format!("another stackd uses {}: {error}", directory.display()).into())
}

impl Daemon {
    /// Who this host is in its cluster.
    pub async fn identity(&self) -> Option<Arc<NodeIdentity>> {
        self.member.lock().await.as_ref().map(|member| member.credentials.identity())
    }

    /// On a controller: Raft knows a leader.
    pub async fn has_leader(&self) -> bool {
        let controller = self.member.lock().await.as_ref().and_then(|member| member.controller.clone());
        controller.is_some_and(|controller| controller.store().leader().is_some())
    }

    /// On a controller: this host counts as ready, by what this controller knows.
    pub async fn is_ready(&self) -> bool {
        let Some(identity) = self.identity().await else { return false };
        let controller = self.member.lock().await.as_ref().and_then(|member| member.controller.clone());
        let state = controller.map(|controller| controller.store().state());
        let node = state.as_ref().and_then(|state| state.nodes.get(&identity.node));
        node.is_some_and(|node| node.readiness == Readiness::Ready)
    }

    /// The controller's numbers, with what the settings say over the defaults.
    pub fn tuning(&self) -> Tuning {
        let defaults = Tuning::default();
        Tuning {
            node_heartbeat: self.configuration.heartbeat.unwrap_or(defaults.node_heartbeat),
            node_timeout: self.configuration.node_timeout.unwrap_or(defaults.node_timeout),
            ..defaults
        }
    }

    fn serve_local_socket(self: &Arc<Self>) -> Result<(), Failure> {
        let path = self.configuration.run_directory.join("stackd.sock");
        let listener = bind_socket(&path)?;
        let (router, stop) = (self.local.router(), self.stop.clone());
        self.tasks.spawn(listener::serve_local(listener, router, stop));
        Ok(())
    }

    /// The agent's session with the leader, where this host is a member.
    pub async fn session(&self) -> Option<Arc<Session>> {
        self.member.lock().await.as_ref().and_then(|member| member.session.clone())
    }

    fn serve_docker_socket(self: &Arc<Self>) -> Result<(), Failure> {
        let listener = bind_socket(&self.configuration.run_directory.join("docker.sock"))?;
        let info = DaemonInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            root: self.configuration.state_directory.clone(),
            ..DaemonInfo::default()
        };
        let cluster = Arc::new(DockerCluster::new(Arc::downgrade(self)));
        let (router, stop) = (stack_docker_api::router(self.engine.clone(), info, cluster), self.stop.clone());
        let fatal = self.fatal.clone();
        self.tasks.spawn(async move {
            let ended = stop.clone().cancelled_owned();
            // Streams of logs and events may never end; when the daemon does, they do.
            let served = tokio::select! {
                served = axum::serve(listener, router).into_future() => served,
                () = ended => Ok(()),
            };
            if let Err(error) = served {
                let _ = fatal.send(chain(&error)).await;
            }
        });
        Ok(())
    }

    /// The controller was started, or cannot go on.
    pub async fn set_controller(&self, controller: Option<Arc<Controller>>, failure: Option<String>) {
        if let Some(member) = self.member.lock().await.as_mut() {
            member.controller = controller;
            member.controller_failure = failure;
        }
    }

    /// Why this host, which is a controller, has none now.
    pub async fn controller_failure(&self) -> Option<String> {
        self.member.lock().await.as_ref().and_then(|member| member.controller_failure.clone())
    }

    /// Sets what the local socket answers for a member.
    pub fn set_local_routes(self: &Arc<Self>, member: Router, controller: Option<Router>) {
        self.local.set(membership::routes(self, member, controller));
    }

    /// From now on this host is a member: it listens for the others, runs an agent, and a controller if it is one.
    pub async fn become_member(self: &Arc<Self>, identity: NodeIdentity) -> Result<(), Failure> {
        let listen = self.configuration.listen;
        let listener =
            TcpListener::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
        let node = identity.node;
        let credentials = Arc::new(Credentials::new(identity.clone())?);
        let mut registry = Registry::default();
        self.engine.register_metrics(&mut registry);
        let agent_metrics = AgentMetrics::default();
        agent_metrics.register(&mut registry);
        let ledger = Ledger::open(&self.configuration.state_directory.join("agent"), node)?;
        let networks = Networks::new(ledger.networks().clone());
        let tunnels = Tunnels::open(
            self.configuration.tunnels.clone(),
            &OverlayConfig::default().prefix,
            self.configuration.run_directory.join("tunnels"),
        )
        .map(Arc::new)
        .map_err(|error| format!("cannot open the host's network namespace: {error}"))?;
        let served = Served {
            network: Switch::default(),
            registry: Arc::new(registry),
            credentials: Arc::clone(&credentials),
            networks: networks.clone(),
            tunnels: Arc::clone(&tunnels),
        };
        let (controller, controller_failure) = match identity.raft_id {
            None => (None, None),
            Some(_) => match self.start_controller(&credentials).await {
                Ok(controller) => (Some(controller), None),
                Err(error) => (None, Some(chain(&error))),
            },
        };
        if let Some(reason) = &controller_failure {
            tracing::error!(reason, "the controller of this host does not start; trying again");
        }
        self.serve_member(&served, controller.as_ref());
        let router = served.network.router();
        let keeping = (controller.clone(), controller_failure.clone());
        *self.member.lock().await =
            Some(Member { credentials: Arc::clone(&credentials), controller, controller_failure, session: None });
        if identity.raft_id.is_some() {
            let (controller, failure) = keeping;
            self.tasks.spawn(Arc::clone(self).keep_controller(served, controller, failure));
        }
        let (serving, stop, fatal) = (Arc::clone(&credentials), self.stop.clone(), self.fatal.clone());
        self.tasks.spawn(async move {
            if let Err(error) = listener::serve_tls(listener, &serving, router, stop).await {
                let _ = fatal.send(chain(&error)).await;
            }
        });
        self.start_agent(&identity, &credentials, agent_metrics, ledger, networks, tunnels).await?;
        let directory = self.configuration.state_directory.clone();
        self.tasks.spawn(renewal::keep_renewed(Arc::clone(&credentials), directory, self.stop.clone()));
        Ok(())
    }

    async fn start_agent(
        &self,
        identity: &NodeIdentity,
        credentials: &Arc<Credentials>,
        metrics: AgentMetrics,
        ledger: Ledger,
        networks: Networks,
        tunnels: Arc<Tunnels>,
    ) -> Result<(), Failure> {
        let node = identity.node;
        let files = Files::new(&self.configuration.run_directory);
        files.hear(ledger.assignment(), Contents::new());
        let wake = Arc::new(Notify::new());
        let contact = Contact::default();
        let (reports, report_receiver) = watch::channel(None);
        let ledger = SharedLedger::new(ledger);
        *self.ledger.lock().await = Some(ledger.clone());
        let mut description = description::describe(&self.configuration);
        match self.engine.overlay().routes().await {
            Ok(routes) => description.routes = routes,
            Err(error) => tracing::warn!(error = %chain(&error), "the host's routes are not known"),
        }
        // What the settings say now comes before what was said when the host became a member.
        let address = self
            .configuration
            .advertise
            .or(identity.address)
            .or_else(|| description::advertised(&self.configuration, None))
            .ok_or("it cannot be found out where other hosts reach this one: set `advertise`")?;
        match self.engine.overlay().mtu_of(address.ip()).await {
            Ok(mtu) => description.mtu = mtu,
            Err(error) => tracing::warn!(error = %chain(&error), "what packets between hosts may have is not known"),
        }
        let able = tunnels.implementation().await;
        match &able {
            Ok(by) => tracing::info!(?by, "this host can be on encrypted networks"),
            Err(unable) => tracing::warn!("this host can be on no encrypted network: {unable}"),
        }
        let keys = KeyRing::open(
            &self.configuration.state_directory,
            self.configuration.rotation,
            self.configuration.tunnels.port,
            able.map(drop),
        )
        .map_err(|error| format!("the keys for encrypted networks: {error}"))?;
        let host = Arc::new(EngineHost::new(
            self.engine.clone(),
            tunnels,
            node,
            description.hostname.clone(),
            networks.clone(),
            files.clone(),
            address.ip(),
        ));
        self.tasks.spawn(host.wake_on_events(Arc::clone(&wake), self.stop.clone()));
        {
            let (networks, host, stop) = (networks.clone(), Arc::clone(&host), self.stop.clone());
            self.tasks.spawn(async move { networks.run(host, stop).await });
        }
        self.tasks.spawn(keys.clone().run(networks.clone(), self.stop.clone()));
        self.tasks.spawn(stack_agent::images::collect(
            self.engine.clone(),
            ledger.clone(),
            self.configuration.state_directory.clone(),
            self.configuration.images,
            self.stop.clone(),
        ));
        let reconciler = Reconciler {
            host,
            ledger: ledger.clone(),
            wake: Arc::clone(&wake),
            contact: contact.clone(),
            reports,
            networks: networks.clone(),
            metrics: metrics.clone(),
        };
        self.tasks.spawn(reconciler.run(self.stop.clone()));

        let connecting = Arc::clone(credentials);
        let keeping = Arc::clone(credentials);
        let directory = self.configuration.state_directory.clone();
        let config = SessionConfig {
            node,
            address,
            description,
            controllers: identity.controllers.clone(),
            connect: Arc::new(move |address: SocketAddr| {
                let identity = connecting.identity().client_identity();
                Client::new(Endpoint::Controllers(vec![address]), Some(&identity))
            }),
            keep_controllers: Arc::new(move |controllers: &[SocketAddr]| {
                let controllers = controllers.to_vec();
                if let Err(error) = keeping.change(&directory, |identity| identity.controllers = controllers) {
                    tracing::warn!(error = %chain(&error), "the controllers' addresses are not kept");
                }
            }),
        };
        let guests = Guests::new(networks.clone());
        guests.begin_with(self.engine.guests());
        self.engine.set_between_hosts(Arc::new(guests.clone()));
        let session =
            Session::new(config, ledger, contact, wake, report_receiver, networks, files, keys, metrics, guests);
        let session = Arc::new(session);
        if let Some(member) = self.member.lock().await.as_mut() {
            member.session = Some(Arc::clone(&session));
        }
        self.tasks.spawn(session.run(self.stop.clone()));
        Ok(())
    }

    /// `with_host`: the containers end, too.
    async fn shut_down(&self, with_host: bool) {
        self.stop.cancel();
        let member = self.member.lock().await.take();
        self.tasks.close();
        if tokio::time::timeout(Duration::from_secs(5), self.tasks.wait()).await.is_err() {
            tracing::warn!("not everything has ended in time");
        }
        let controller = async {
            if let Some(controller) = member.and_then(|member| member.controller) {
                controller.shutdown().await;
            }
        };
        let containers = async {
            if with_host {
                let ledger = self.ledger.lock().await.take();
                stack_agent::host_end::end_with_host(&self.engine, ledger, host_end::LONGEST_GRACE).await;
            }
        };
        tokio::join!(controller, containers);
    }
}

/// A socket that root and the group `stack`, if there is one, may open.
fn bind_socket(path: &Path) -> Result<UnixListener, Failure> {
    let fail = |error: std::io::Error| format!("cannot listen on {}: {error}", path.display());
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error).into()),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(fail)?;
    if let Ok(Some(group)) = nix::unistd::Group::from_name("stack") {
        std::os::unix::fs::chown(path, None, Some(group.gid.as_raw())).map_err(fail)?;
    }
    tracing::debug!(path = %path.display(), socket = ?listener.as_fd(), "listening");
    Ok(listener)
}

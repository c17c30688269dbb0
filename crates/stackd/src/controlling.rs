//! The controller of a host that is one. When it cannot go on, because its disk is full or refuses to write, the rest of
//! the daemon does: containers are looked after as on any host, and the controller starts again when it can.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use stack_agent::Networks;
use stack_agent::doctor::Patient;
use stack_api::routes;
use stack_controller::controller::{Controller, ControllerConfig, StartError};
use stack_controller::http::guard;
use stack_controller::identity::Credentials;
use stack_engine::encryption::Tunnels;

use crate::daemon::{Daemon, chain};
use crate::membership;
use crate::metrics;
use crate::resolver::EngineResolver;
use crate::switch::Switch;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A controller that ran so long is started again at once when it fails.
const STEADY: Duration = Duration::from_secs(60);
/// A disk must take so much before a controller is started on it again: it would fail at its first writes otherwise.
const ROOM: usize = 4 * 1024 * 1024;

/// What a member serves, with a controller or without.
#[derive(Clone)]
pub struct Served {
    /// To the other hosts.
    pub network: Switch,
    /// What is counted.
    pub registry: Arc<Registry>,
    /// Who this host is.
    pub credentials: Arc<Credentials>,
    /// What is known of the networks between hosts, and what of it is done.
    pub networks: Networks,
    /// By which encrypted networks send.
    pub tunnels: Arc<Tunnels>,
}

impl Daemon {
    /// From now on the routes of a member are answered, those of a controller by this one.
    pub fn serve_member(self: &Arc<Self>, served: &Served, controller: Option<&Arc<Controller>>) {
        let store = controller.map(|controller| controller.store().clone());
        let metrics = metrics::route(Arc::clone(&served.registry), controller.cloned());
        let mut router = guard::protect(metrics.clone(), routes::METRICS.caller, store.clone());
        let patient = Patient {
            node: served.credentials.identity().node,
            state_directory: self.configuration.state_directory.clone(),
            tunnels: Arc::clone(&served.tunnels),
        };
        for (route, part) in stack_agent::http::host_routes(self.engine.clone(), served.networks.clone(), patient) {
            router = router.merge(guard::protect(part, route.caller, store.clone()));
        }
        router = match controller {
            Some(controller) => router.merge(controller.router()),
            None => router.merge(membership::without_controller(self)),
        };
        self.set_local_routes(metrics, controller.map(|controller| controller.router()));
        served.network.set(router);
    }

    /// Starts the controller.
    ///
    /// # Errors
    /// What is on the disk cannot be used, or the disk does not take what is to be written first.
    pub async fn start_controller(&self, credentials: &Arc<Credentials>) -> Result<Arc<Controller>, StartError> {
        let config = ControllerConfig {
            state_directory: self.configuration.state_directory.clone(),
            credentials: Arc::clone(credentials),
            tuning: self.tuning(),
            resolver: Arc::new(EngineResolver(self.engine.clone())),
        };
        Ok(Arc::new(Controller::start(config).await?))
    }

    /// Starts the controller again whenever it cannot go on, until the daemon ends. `failure` is why it does not run now.
    pub async fn keep_controller(
        self: Arc<Self>,
        served: Served,
        mut running: Option<Arc<Controller>>,
        mut failure: Option<String>,
    ) {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(controller) = running.take() {
                let since = Instant::now();
                let reason = tokio::select! {
                    () = self.stop.cancelled() => return,
                    reason = controller.failed() => reason,
                };
                tracing::error!(
                    reason = &*reason,
                    "the controller of this host cannot go on: it is started again when its disk takes what it writes; containers and this host's agent go on"
                );
                self.set_controller(None, Some(reason.to_string())).await;
                self.serve_member(&served, None);
                controller.shutdown().await;
                if since.elapsed() >= STEADY {
                    pause = FIRST_PAUSE;
                }
                failure = Some(reason.to_string());
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            let directory = self.configuration.state_directory.clone();
            let room = tokio::task::spawn_blocking(move || probe(&directory)).await;
            let started = match room {
                Ok(Ok(())) => self.start_controller(&served.credentials).await.map_err(|error| chain(&error)),
                Ok(Err(error)) => {
                    let directory = self.configuration.state_directory.display();
                    Err(format!("{directory} does not take {} MiB: {error}", ROOM / 1024 / 1024))
                }
                Err(error) => Err(error.to_string()),
            };
            match started {
                Ok(controller) => {
                    tracing::info!("the controller of this host runs again");
                    self.set_controller(Some(Arc::clone(&controller)), None).await;
                    self.serve_member(&served, Some(&controller));
                    running = Some(controller);
                }
                Err(reason) => {
                    if failure.as_ref() != Some(&reason) {
                        tracing::error!(reason, "the controller of this host does not start; trying again");
                    }
                    self.set_controller(None, Some(reason.clone())).await;
                    failure = Some(reason);
                }
            }
        }
    }
}

/// Whether a directory's disk takes what a controller writes first.
fn probe(directory: &Path) -> std::io::Result<()> {
    let mut file = tempfile::tempfile_in(directory)?;
    file.write_all(&vec![0xA5; ROOM])?;
    file.sync_all()
}

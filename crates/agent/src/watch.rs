//! The node's side of its session with the leader: register, heartbeat, watch the assignment, send reports.
//!
//! Six loops share one idea of who leads. None of them decides anything about tasks: what comes goes into the ledger,
//! what goes is the last report.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stack_api::routes::{self, Route};
use stack_api::session::{
    AllNetworksQuery, AssignmentQuery, AssignmentResponse, GuestsRequest, GuestsResponse, HeartbeatRequest,
    HeartbeatResponse, NetworksRequest, NetworksResponse, RegisterRequest, RegisterResponse,
};
use stack_api::views::NetworkView;
use stack_api::{Client, ClientError, ErrorCode};
use stack_model::{NodeDescription, NodeId, Report};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::encryption::KeyRing;
use crate::files::Files;
use crate::guests::Guests;
use crate::ledger::{Ledger, LedgerError, SharedLedger};
use crate::metrics::AgentMetrics;
use crate::networks::Networks;
use crate::reconcile::Contact;

/// The longest pause between two tries to reach a controller.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A leader that answers slower than this is looked for elsewhere.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(1200);
/// The controller answers a watch after 30 s at the latest.
const WATCH_TIMEOUT: Duration = Duration::from_secs(40);

/// A report is sent again after this time though nothing has changed. The leader writes only news into the log.
const REPORT_AGAIN: Duration = Duration::from_secs(15);

/// Makes a client of one controller, with the node's present certificate.
pub type Connect = Arc<dyn Fn(SocketAddr) -> Result<Client, ClientError> + Send + Sync>;

/// Takes the controllers' addresses whenever a controller names them, to be kept for the next start.
pub type KeepControllers = Arc<dyn Fn(&[SocketAddr]) + Send + Sync>;

/// What a session needs.
pub struct SessionConfig {
    /// Who this is.
    pub node: NodeId,
    /// Where its `stackd` listens.
    pub address: SocketAddr,
    /// What it says of itself.
    pub description: NodeDescription,
    /// Where controllers were last known.
    pub controllers: Vec<SocketAddr>,
    /// How to reach one.
    pub connect: Connect,
    /// Where news of them goes.
    pub keep_controllers: KeepControllers,
}

struct Known {
    controllers: Vec<SocketAddr>,
    current: Option<(SocketAddr, Client)>,
}

/// One node's session.
pub struct Session {
    config: SessionConfig,
    known: Mutex<Known>,
    ledger: SharedLedger,
    contact: Contact,
    wake: Arc<Notify>,
    reports: watch::Receiver<Option<Report>>,
    networks: Networks,
    files: Files,
    keys: KeyRing,
    metrics: AgentMetrics,
    guests: Guests,
}

impl Session {
    /// A session that has not begun.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "the parts of one host, each needed once")]
    pub fn new(
        config: SessionConfig,
        ledger: SharedLedger,
        contact: Contact,
        wake: Arc<Notify>,
        reports: watch::Receiver<Option<Report>>,
        networks: Networks,
        files: Files,
        keys: KeyRing,
        metrics: AgentMetrics,
        guests: Guests,
    ) -> Self {
        let known = Mutex::new(Known { controllers: config.controllers.clone(), current: None });
        Self { config, known, ledger, contact, wake, reports, networks, files, keys, metrics, guests }
    }

    /// Runs until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let session = self;
        let heartbeat = Arc::clone(&session);
        let assignment = Arc::clone(&session);
        let networks = Arc::clone(&session);
        let guests = Arc::clone(&session);
        tokio::select! {
            () = stop.cancelled() => {}
            () = async { tokio::join!(
                heartbeat.register_and_beat(),
                assignment.watch_assignment(),
                networks.watch_networks(),
                guests.declare_guests(),
                session.send_reports(),
            ); } => {}
        }
    }

    async fn register_and_beat(&self) {
        let mut pause = Pause::default();
        let mut keys = self.keys.changes();
        loop {
            keys.mark_unchanged();
            let mut description = self.config.description.clone();
            description.encryption = Some(self.keys.announced());
            let request = RegisterRequest { node: self.config.node, address: self.config.address, description };
            let registered: Result<RegisterResponse, _> =
                self.call(routes::NODE_REGISTER, None::<&()>, Some(&request), CALL_TIMEOUT).await;
            match registered {
                Ok(response) => {
                    pause.reset();
                    tracing::info!(node = %self.config.node, "registered with the leader");
                    self.learn(&response.controllers);
                    let every = Duration::from_millis(response.heartbeat_milliseconds.clamp(50, 60_000));
                    tokio::select! {
                        () = self.beat(every) => {}
                        // What the host says of itself has changed.
                        _ = keys.changed() => {}
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot register");
                    pause.wait().await;
                }
            }
        }
    }

    /// Heartbeats until one fails for good; then the node registers again, with whoever leads then.
    async fn beat(&self, every: Duration) {
        let mut interval = tokio::time::interval(every);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failures = 0;
        loop {
            interval.tick().await;
            let request = HeartbeatRequest { node: self.config.node };
            let answer: Result<HeartbeatResponse, _> =
                self.call(routes::NODE_HEARTBEAT, None::<&()>, Some(&request), HEARTBEAT_TIMEOUT).await;
            match answer {
                Ok(response) => {
                    if failures > 0 {
                        tracing::info!("the leader answers again");
                    }
                    failures = 0;
                    self.keys.acknowledge(response.keys_in_force);
                    self.learn(&response.controllers);
                }
                Err(error) => {
                    failures += 1;
                    tracing::debug!(%error, failures, "heartbeat failed");
                    if error.refused().is_some_and(|body| body.code == ErrorCode::NotFound) {
                        return;
                    }
                    if failures == 3 {
                        tracing::warn!(%error, "no controller takes this node's heartbeats; its tasks go on");
                    }
                    // The next beat goes to another controller at once rather than at the next tick.
                    interval.reset_after(FIRST_PAUSE);
                }
            }
        }
    }

    async fn watch_assignment(&self) {
        let mut pause = Pause::default();
        let mut after = None;
        loop {
            // The first question asks for whatever there is, so that contact is made even if nothing is new.
            let query = AssignmentQuery { node: self.config.node, after: after.unwrap_or(0) };
            let answer: Result<AssignmentResponse, _> =
                self.call(routes::NODE_ASSIGNMENT, Some(&query), None::<&()>, WATCH_TIMEOUT).await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::debug!(%error, "cannot watch the assignment");
                    pause.wait().await;
                    continue;
                }
            };
            pause.reset();
            let Some(mut assignment) = answer.assignment else {
                self.contact.made();
                continue;
            };
            let generation = assignment.generation;
            let networks = assignment.networks.clone();
            let contents = std::mem::take(&mut assignment.contents);
            let files = self.files.clone();
            let accept = move |ledger: &mut Ledger| {
                let accepted = ledger.accept(assignment);
                // Before anybody can look at the ledger and miss them.
                if accepted.is_ok() {
                    files.hear(ledger.assignment(), contents);
                }
                accepted
            };
            let accepted = self.ledger.change(accept).await;
            match accepted {
                Ok(is_news) => {
                    after = Some(generation);
                    self.networks.assign(&networks);
                    self.contact.made();
                    if is_news {
                        tracing::debug!(generation, "a new assignment");
                    }
                    self.wake.notify_one();
                }
                Err(error @ LedgerError::Stale { .. }) => {
                    // A controller that lags behind. Asked again, it or another one will have caught up.
                    tracing::warn!(%error);
                    pause.wait().await;
                }
                Err(error) => {
                    tracing::error!(%error, "the assignment is not for this host");
                    pause.wait().await;
                }
            }
        }
    }

    /// Who is on the host's networks. Each question says what of the last answer is in force, so that tasks that end can
    /// wait for it.
    async fn watch_networks(&self) {
        let mut pause = Pause::default();
        // The first question asks for everything: what is known from an earlier life has no revision to acknowledge.
        let mut known = BTreeMap::new();
        let mut in_force = self.networks.in_force();
        loop {
            let applied = in_force.borrow().revision;
            let request = NetworksRequest { node: self.config.node, known: known.clone(), applied };
            let answer: Result<NetworksResponse, _> =
                self.call(routes::NODE_NETWORKS, None::<&()>, Some(&request), WATCH_TIMEOUT).await;
            let news = match answer {
                Ok(answer) => answer.news,
                Err(error) => {
                    tracing::debug!(%error, "cannot watch the networks");
                    pause.wait().await;
                    continue;
                }
            };
            pause.reset();
            let Some(news) = news else { continue };
            known = news.networks.clone();
            self.networks.hear(&news.networks, news.documents, news.revision);
            let wanted = self.networks.wanted();
            self.ledger.change(|ledger| ledger.set_networks(wanted)).await;
            // What cannot be done is not acknowledged; whoever waits for it gives up in time.
            let done = in_force.wait_for(|state| state.revision >= news.revision);
            let _ = tokio::time::timeout(LONGEST_PAUSE, done).await;
        }
    }

    /// Which containers outside of stacks are on networks between hosts: said whenever it changes, and again from time to
    /// time, so that a word that got lost or came late does no harm for long.
    async fn declare_guests(&self) {
        let life = rand::random();
        let mut wanted = self.guests.watch();
        let mut pause = Pause::default();
        loop {
            let now = wanted.borrow_and_update().clone();
            if now.is_known {
                let request =
                    GuestsRequest { node: self.config.node, life, sequence: now.sequence, guests: now.guests };
                let answer: Result<GuestsResponse, _> =
                    self.call(routes::NODE_GUESTS, None::<&()>, Some(&request), CALL_TIMEOUT).await;
                match answer {
                    Ok(answer) => {
                        pause.reset();
                        self.guests.hear(now.sequence, answer.guests);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot say which containers are on networks between hosts");
                        self.guests.fail(stack_api::error::full_text(&error));
                        pause.wait().await;
                        wanted.mark_changed();
                    }
                }
            }
            if let Ok(Err(_closed)) = tokio::time::timeout(REPORT_AGAIN, wanted.changed()).await {
                return;
            }
        }
    }

    /// The networks between hosts, as the leader has them.
    ///
    /// # Errors
    /// The leader cannot be asked.
    pub async fn all_networks(&self) -> Result<Vec<NetworkView>, ClientError> {
        let query = AllNetworksQuery { node: self.config.node };
        self.call(routes::NODE_ALL_NETWORKS, Some(&query), None::<&()>, CALL_TIMEOUT).await
    }

    async fn send_reports(&self) {
        let mut reports = self.reports.clone();
        let mut pause = Pause::default();
        loop {
            let report = reports.borrow_and_update().clone();
            if let Some(report) = report {
                let sent: Result<serde::de::IgnoredAny, _> =
                    self.call(routes::NODE_REPORT, None::<&()>, Some(&report), CALL_TIMEOUT).await;
                match sent {
                    Ok(_) => {
                        pause.reset();
                        self.metrics.reported();
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot report");
                        pause.wait().await;
                        reports.mark_changed();
                    }
                }
            }
            // What was said last is said again from time to time: a report that came late and overtook it, or a controller
            // that was restored from a backup, would otherwise have the last word.
            if let Ok(Err(_closed)) = tokio::time::timeout(REPORT_AGAIN, reports.changed()).await {
                return;
            }
        }
    }

    fn learn(&self, controllers: &[SocketAddr]) {
        if controllers.is_empty() {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.controllers != controllers {
            known.controllers = controllers.to_vec();
            drop(known);
            (self.config.keep_controllers)(controllers);
        }
    }

    /// Calls whoever is believed to lead; follows one hint; on any other failure turns to the next controller.
    async fn call<Q, B, A>(
        &self,
        route: Route,
        query: Option<&Q>,
        body: Option<&B>,
        timeout: Duration,
    ) -> Result<A, ClientError>
    where
        Q: Serialize + Sync,
        B: Serialize + Sync,
        A: DeserializeOwned,
    {
        let mut tried = 0;
        loop {
            let (address, client) = self.current()?;
            match client.call(route, &[], query, body, timeout).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    self.metrics.failed_call();
                    let hint = error
                        .refused()
                        .filter(|body| body.code == ErrorCode::NotLeader)
                        .and_then(|body| body.leader.as_deref())
                        .and_then(|leader| leader.parse::<SocketAddr>().ok());
                    let transient = error.is_transient();
                    if transient {
                        self.turn_from(address, hint);
                    }
                    tried += 1;
                    if hint.is_none() || tried > 2 {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn current(&self) -> Result<(SocketAddr, Client), ClientError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = &known.current {
            return Ok(current.clone());
        }
        let Some(&address) = known.controllers.first() else {
            return Err(ClientError::Unexpected {
                target: "the controllers".to_owned(),
                reason: "no address is known".to_owned(),
            });
        };
        let client = (self.config.connect)(address)?;
        known.current = Some((address, client.clone()));
        Ok((address, client))
    }

    /// Away from a controller that did not serve, to the one that it named or to the next.
    fn turn_from(&self, address: SocketAddr, hint: Option<SocketAddr>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.current.as_ref().is_some_and(|(current, _)| *current != address) {
            return;
        }
        known.current = None;
        let next = hint.or_else(|| {
            let position = known.controllers.iter().position(|known| *known == address);
            let next = position.map_or(0, |position| position + 1);
            known.controllers.get(next).or_else(|| known.controllers.first()).copied()
        });
        if let Some(next) = next {
            known.current = (self.config.connect)(next).ok().map(|client| (next, client));
        }
    }
}

/// A pause that grows with every failure in a row.
#[derive(Default)]
struct Pause(Option<Duration>);

impl Pause {
    fn reset(&mut self) {
        self.0 = None;
    }

    async fn wait(&mut self) {
        let pause = self.0.unwrap_or(FIRST_PAUSE);
        tokio::time::sleep(pause).await;
        self.0 = Some((pause * 2).min(LONGEST_PAUSE));
    }
}

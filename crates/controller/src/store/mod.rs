//! The replicated state: propose a command to whoever leads, read what was decided, change who the controllers are.

mod machine;
pub mod membership;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, Fatal, RaftError};
use openraft::raft::ReadPolicy;
use openraft::{ChangeMembers, Config, ServerState, SnapshotPolicy};
use serde::{Deserialize, Serialize};
use stack_model::{NodeId, Readiness, Timestamp};
use stack_planner::{Applied, Command, Rejected, State};
use tokio::sync::watch;
use tokio::time::Instant;

use self::machine::StateMachine;
use self::membership::{Membership, Step};
use crate::controller::HAND_OVER;
use crate::mesh::{Mesh, MeshError, with_request_id};
use crate::raft::log::{LogStore, OpenLogError};
use crate::raft::machine::{MachineStore, OpenMachineError};
use crate::raft::network::Network;
use crate::raft::types::{Member, Payload, RaftId, Types};
use crate::raft::{self, Raft};
use crate::tuning::Tuning;

/// Where a follower passes proposals on to; controllers only.
pub const PROPOSE: &str = "/internal/propose";
/// Where a follower asks how far it must have applied for a read to be current; controllers only.
pub const READ_INDEX: &str = "/internal/read-index";
/// Larger commands are refused: every controller holds and sends them whole.
pub const MAX_COMMAND: usize = 8 * 1024 * 1024;
/// A learner may get a vote when it lacks at most so many entries.
const CAUGHT_UP: u64 = 200;

/// The leader has this long to say how far a read must be; then it is asked again, or another one is.
const ASK: Duration = Duration::from_secs(1);

/// A leader that was deposed has this long to answer a proposal that it took before.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Who ends while a change of the voters is half done waits so long for its end.
const FINISH_CHANGE: Duration = Duration::from_secs(10);

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// The log.
    #[error("cannot open the raft log in {}", directory.display())]
    Log {
        /// Where.
        directory: PathBuf,
        /// Why.
        #[source]
        source: OpenLogError,
    },
    /// The snapshots.
    #[error("cannot take up the last snapshot")]
    Machine(#[from] OpenMachineError),
    /// The intervals do not fit together.
    #[error("the intervals do not fit together")]
    Config(#[from] openraft::ConfigError),
    /// Raft does not start with what is on the disk.
    #[error("raft does not start")]
    Raft(#[source] Box<Fatal<Types>>),
}

/// Why a command was not carried out, or is not known to have been.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// It was carried out and refused.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// Nobody leads, or the leader cannot be reached. The command was not carried out.
    #[error("the controllers have no leader now: fewer than a majority of them can reach each other")]
    NoLeader,
    /// The answer got lost: the command may or may not have been carried out.
    #[error("the leader was lost before it answered: the command may or may not have been carried out")]
    Unknown,
    /// Too large to be replicated.
    #[error("the command has {size} bytes; at most {MAX_COMMAND} are taken")]
    TooLarge {
        /// In bytes.
        size: usize,
    },
    /// It cannot be written, or its answer cannot be read.
    #[error("the command or its answer is not valid")]
    Encoding(#[from] serde_json::Error),
    /// This controller has stopped.
    #[error("this controller has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why a read would not be current.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody leads, or the leader cannot be reached.
    #[error("the controllers have no leader now: fewer than a majority of them can reach each other")]
    NoLeader,
    /// This controller does not get what it lacks in time.
    #[error("this controller lags behind the leader")]
    Lags,
    /// This controller has stopped.
    #[error("this controller has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// What a leader answers to a proposal that was passed on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Forwarded {
    /// It was carried out; the machine's answer.
    Outcome(Result<Applied, Rejected>),
    /// Ask somebody else; nothing was done.
    NotLeader,
    /// The answer is not known.
    Unknown,
}

/// What a leader answers to a follower that wants to read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReadIndex {
    /// Reads are current once this entry is applied.
    Index(u64),
    /// Ask somebody else.
    NotLeader,
}

/// Who this controller is, and where it keeps things.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The controller's own.
    pub directory: PathBuf,
    /// To Raft.
    pub raft_id: RaftId,
    /// To the cluster.
    pub node: NodeId,
    /// The numbers.
    pub tuning: Tuning,
}

struct Inner {
    raft: Raft,
    log: LogStore,
    snapshots: PathBuf,
    state: watch::Receiver<Arc<State>>,
    mesh: Mesh,
    raft_id: RaftId,
    node: NodeId,
    tuning: Tuning,
}

/// The replicated state of this controller. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Store").field("node", &self.inner.node).finish_non_exhaustive()
    }
}

/// The time of this host's clock.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn raft_config(tuning: &Tuning) -> Result<Config, openraft::ConfigError> {
    Config {
        cluster_name: "stack".to_owned(),
        heartbeat_interval: milliseconds(tuning.heartbeat),
        election_timeout_min: milliseconds(tuning.election_min),
        election_timeout_max: milliseconds(tuning.election_max),
        install_snapshot_timeout: milliseconds(tuning.snapshot_timeout),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(tuning.snapshot_after),
        max_in_snapshot_log_to_keep: tuning.keep_log,
        replication_lag_threshold: tuning.snapshot_after,
        purge_batch_size: (tuning.keep_log / 2).max(1),
        enable_pre_vote: Some(true),
        ..Config::default()
    }
    .validate()
}

/// Cuts a log that has few entries and many bytes, until Raft ends: Raft itself counts entries alone.
async fn keep_log_small(raft: Raft, log: LogStore, most_bytes: u64, look: Duration) {
    let mut interval = tokio::time::interval(look);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let metrics = raft.metrics().borrow_watched().clone();
        if metrics.running_state.is_err() {
            return;
        }
        match log.size().await {
            Ok(size) if size <= most_bytes => continue,
            Ok(_large) => {}
            Err(error) => {
                tracing::warn!(%error, "the size of the raft log is not known");
                continue;
            }
        }
        let snapshot = metrics.snapshot.map(|last| last.index);
        let applied = metrics.last_applied.map(|last| last.index);
        let cut = async {
            if let Some(snapshot) = snapshot {
                raft.trigger().purge_log(snapshot).await?;
            }
            if applied > snapshot {
                tracing::debug!(?applied, "the raft log is large: making a snapshot");
                raft.trigger().snapshot().await?;
            }
            Ok::<_, Fatal<Types>>(())
        };
        if cut.await.is_err() {
            return;
        }
    }
}

impl Store {
    /// Opens what is on the disk and takes part in Raft from then on. The routes of [`Store::raft_router`] must be served.
    ///
    /// # Errors
    /// See [`OpenStoreError`].
    pub async fn open(config: StoreConfig, mesh: Mesh) -> Result<Self, OpenStoreError> {
        let StoreConfig { directory, raft_id, node, tuning } = config;
        let (machine, state) = StateMachine::new();
        let log_directory = directory.join("log");
        let snapshots = directory.join("snapshots");
        let log = LogStore::open(&log_directory)
            .map_err(|source| OpenStoreError::Log { directory: log_directory, source })?;
        log.forget_leadership(config.raft_id);
        let machine = match MachineStore::open(&snapshots, Box::new(machine)) {
            Ok(machine) => machine,
            Err(error) => {
                log.close().await;
                return Err(error.into());
            }
        };
        let network = Network::new(mesh.clone(), raft_id, tuning.snapshot_timeout);
        let raft_config = Arc::new(raft_config(&tuning)?);
        let raft = Raft::new(raft_id, raft_config, network, log.clone(), machine)
            .await
            .map_err(|fatal| OpenStoreError::Raft(Box::new(fatal)))?;
        tokio::spawn(keep_log_small(raft.clone(), log.clone(), tuning.log_bytes, tuning.log_look));
        Ok(Self { inner: Arc::new(Inner { raft, log, snapshots, state, mesh, raft_id, node, tuning }) })
    }

    /// Makes this controller the first and only one of a new cluster.
    ///
    /// # Errors
    /// When there is a cluster on the disk already.
    pub async fn initialize(&self, member: Member) -> Result<(), ProposeError> {
        let members = BTreeMap::from([(self.inner.raft_id, member)]);
        self.inner.raft.initialize(members).await.map_err(|error| ProposeError::Stopped { reason: error.to_string() })
    }

    /// Stops taking part, and lets go of the disk.
    pub async fn shutdown(&self) {
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(%error, "raft did not end well");
        }
        self.inner.log.close().await;
    }

    /// Tells when the disk failed: the store must be shut down then.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.inner.log.failed()
    }

    /// Returns when Raft cannot go on, other than because it was told to stop.
    pub async fn raft_failed(&self) -> Arc<str> {
        let mut metrics = self.inner.raft.metrics();
        let is_broken = |metrics: &openraft::RaftMetrics<Types>| {
            matches!(&metrics.running_state, Err(Fatal::StorageError(_) | Fatal::Panicked))
        };
        match metrics.wait_until(is_broken).await.map(|metrics| metrics.running_state) {
            Ok(Err(fatal)) => fatal.to_string().into(),
            Ok(Ok(())) | Err(_) => std::future::pending().await,
        }
    }

    /// The routes that the other controllers' Raft calls.
    pub fn raft_router(&self) -> axum::Router {
        raft::server::router(self.inner.raft.clone(), self.inner.snapshots.clone())
    }

    /// The state as this controller knows it now. For a read that must be current call [`Store::read_barrier`] before.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.inner.state.borrow())
    }

    /// Tells of every change of the state.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.inner.state.clone()
    }

    /// This controller's node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// This controller to Raft.
    #[must_use]
    pub fn raft_id(&self) -> RaftId {
        self.inner.raft_id
    }

    /// The way to the other hosts.
    #[must_use]
    pub fn mesh(&self) -> &Mesh {
        &self.inner.mesh
    }

    /// What Raft says of itself.
    #[must_use]
    pub fn raft_metrics(&self) -> openraft::RaftMetrics<Types> {
        self.inner.raft.metrics().borrow_watched().clone()
    }

    /// Whether this controller leads, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.inner.raft.metrics().borrow_watched().state == ServerState::Leader
    }

    /// The leader, if this controller knows of one.
    #[must_use]
    pub fn leader(&self) -> Option<Member> {
        let receiver = self.inner.raft.metrics();
        let metrics = receiver.borrow_watched();
        let leader = metrics.current_leader?;
        metrics.membership_config.get_node(&leader).cloned()
    }

    /// Follows whether this controller leads.
    pub async fn leadership_change(&self, leads: bool) -> Result<(), ReadError> {
        let mut metrics = self.inner.raft.metrics();
        metrics
            .wait_until(|metrics| (metrics.state == ServerState::Leader) != leads || metrics.running_state.is_err())
            .await
            .map(|_metrics| ())
            .map_err(|_ended| ReadError::Stopped { reason: "raft has ended".to_owned() })?;
        match &self.inner.raft.metrics().borrow_watched().running_state {
            Ok(()) => Ok(()),
            Err(fatal) => Err(ReadError::Stopped { reason: fatal.to_string() }),
        }
    }

    /// Carries a command out, wherever the leader is, and answers when a majority has it on disk and it was applied.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, command: &Command) -> Result<Applied, ProposeError> {
        self.propose_as(command, "").await
    }

    /// The same, and the id of the request that caused it goes along.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose_as(&self, command: &Command, request_id: &str) -> Result<Applied, ProposeError> {
        let payload = machine::encode(now(), request_id.parse().ok().as_ref(), command)?;
        if payload.len() > MAX_COMMAND {
            return Err(ProposeError::TooLarge { size: payload.len() });
        }
        let deadline = Instant::now() + self.inner.tuning.patience;
        loop {
            let leader = self.leader();
            let remote = leader.as_ref().filter(|leader| leader.node != self.inner.node);
            let forwarded = match (&leader, remote) {
                (Some(_), Some(remote)) => self.forward(remote, payload.clone(), request_id, deadline).await?,
                (Some(_), None) => self.propose_here(payload.clone()).await?,
                (None, _) => Forwarded::NotLeader,
            };
            match forwarded {
                Forwarded::Outcome(outcome) => {
                    let applied = outcome?;
                    if remote.is_some() {
                        // Whoever proposed here reads here next. A controller that lags too much is not waited for.
                        let _ = self.applied(applied.revision, deadline).await;
                    }
                    return Ok(applied);
                }
                Forwarded::Unknown => return Err(ProposeError::Unknown),
                Forwarded::NotLeader => self.await_leader(deadline).await?,
            }
        }
    }

    /// Waits a moment for the leader to be another one.
    async fn await_leader(&self, deadline: Instant) -> Result<(), ProposeError> {
        if Instant::now() >= deadline {
            return Err(ProposeError::NoLeader);
        }
        let before = self.leader();
        let mut metrics = self.inner.raft.metrics();
        let changed = metrics.wait_until(|metrics| {
            let leader = metrics.current_leader.and_then(|leader| metrics.membership_config.get_node(&leader));
            metrics.running_state.is_err() || (leader.is_some() && leader != before.as_ref())
        });
        // The same leader may answer a moment later, too.
        let _ = tokio::time::timeout(Duration::from_millis(50), changed).await;
        if let Err(fatal) = &self.inner.raft.metrics().borrow_watched().running_state {
            return Err(ProposeError::Stopped { reason: fatal.to_string() });
        }
        Ok(())
    }

    async fn forward(
        &self,
        leader: &Member,
        payload: Bytes,
        request_id: &str,
        deadline: Instant,
    ) -> Result<Forwarded, ProposeError> {
        let timeout = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        let target = (leader.node, leader.address);
        let headers = with_request_id(request_id);
        let call = self.inner.mesh.post(target, PROPOSE, headers, payload.into(), timeout);
        let deposed = async {
            self.deposed(leader).await;
            // What it decided before may still come back.
            tokio::time::sleep(LAST_WORDS).await;
        };
        let answer = tokio::select! {
            biased;
            answer = call => answer,
            () = deposed => return Ok(Forwarded::Unknown),
        };
        match answer {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error @ (MeshError::Connect { .. } | MeshError::Refused { .. })) => {
                tracing::debug!(%error, "the leader does not take a proposal");
                Ok(Forwarded::NotLeader)
            }
            Err(error @ (MeshError::Timeout { .. } | MeshError::Broken { .. } | MeshError::Answer { .. })) => {
                tracing::debug!(%error, "the leader was lost with a proposal");
                Ok(Forwarded::Unknown)
            }
        }
    }

    /// Carries out what was passed on to this controller, if it leads.
    pub(crate) async fn propose_here(&self, payload: Bytes) -> Result<Forwarded, ProposeError> {
        let write = self.inner.raft.client_write(Payload(payload));
        let Ok(result) = tokio::time::timeout(self.inner.tuning.patience, write).await else {
            return Ok(Forwarded::Unknown);
        };
        match result {
            Ok(response) => Ok(Forwarded::Outcome(machine::decode_outcome(&response.data.0)?)),
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => Ok(Forwarded::Unknown),
            Err(RaftError::APIError(
                ClientWriteError::ForwardToLeader(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_),
            )) => Ok(Forwarded::NotLeader),
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Stopped { reason: fatal.to_string() }),
        }
    }

    /// Returns when what this controller reads next is at least as new as everything that was acknowledged before.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        let deadline = Instant::now() + self.inner.tuning.patience;
        loop {
            let index = match self.leader() {
                Some(leader) if leader.node != self.inner.node => self.ask_index(&leader, deadline).await,
                Some(_) => self.read_index().await?,
                None => ReadIndex::NotLeader,
            };
            match index {
                ReadIndex::Index(index) => return self.applied(index, deadline).await,
                ReadIndex::NotLeader => self.await_leader(deadline).await.map_err(|error| match error {
                    ProposeError::Stopped { reason } => ReadError::Stopped { reason },
                    _ => ReadError::NoLeader,
                })?,
            }
        }
    }

    /// Returns when this controller knows of another leader.
    async fn deposed(&self, leader: &Member) {
        let mut metrics = self.inner.raft.metrics();
        let other_leads = metrics.wait_until(|metrics| {
            let present = metrics.current_leader.and_then(|leader| metrics.membership_config.get_node(&leader));
            present.is_some_and(|present| present.node != leader.node)
        });
        if other_leads.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn ask_index(&self, leader: &Member, deadline: Instant) -> ReadIndex {
        let rest = deadline.saturating_duration_since(Instant::now());
        let timeout = rest.clamp(Duration::from_millis(100), ASK);
        let target = (leader.node, leader.address);
        let question = self.inner.mesh.post(target, READ_INDEX, http::HeaderMap::new(), "".into(), timeout);
        // Asking again costs nothing, so whoever does not answer at once, or leads no more, is not waited for.
        tokio::select! {
            answer = question => match answer {
                Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or(ReadIndex::NotLeader),
                Err(error) => {
                    tracing::debug!(%error, "the leader does not say how far a read must be");
                    ReadIndex::NotLeader
                }
            },
            () = self.deposed(leader) => ReadIndex::NotLeader,
        }
    }

    /// Up to which entry a read must have applied, if this controller leads.
    pub(crate) async fn read_index(&self) -> Result<ReadIndex, ReadError> {
        for policy in [ReadPolicy::LeaseRead, ReadPolicy::ReadIndex] {
            let read = self.inner.raft.get_read_linearizer(policy);
            match tokio::time::timeout(self.inner.tuning.patience, read).await {
                Ok(Ok(linearizer)) => return Ok(ReadIndex::Index(linearizer.read_log_id().index())),
                Ok(Err(RaftError::Fatal(fatal))) => return Err(ReadError::Stopped { reason: fatal.to_string() }),
                Ok(Err(RaftError::APIError(_))) | Err(_) => {}
            }
        }
        Ok(ReadIndex::NotLeader)
    }

    async fn applied(&self, index: u64, deadline: Instant) -> Result<(), ReadError> {
        let mut metrics = self.inner.raft.metrics();
        let reached = metrics.wait_until(|metrics| {
            metrics.running_state.is_err() || metrics.last_applied.is_some_and(|applied| applied.index >= index)
        });
        match tokio::time::timeout_at(deadline, reached).await {
            Ok(Ok(metrics)) => match &metrics.running_state {
                Ok(()) => Ok(()),
                Err(fatal) => Err(ReadError::Stopped { reason: fatal.to_string() }),
            },
            Ok(Err(_ended)) => Err(ReadError::Stopped { reason: "raft has ended".to_owned() }),
            Err(_elapsed) => Err(ReadError::Lags),
        }
    }

    /// How the group of controllers stands, as far as this controller knows.
    #[must_use]
    pub fn membership(&self) -> Membership {
        let receiver = self.inner.raft.metrics();
        let metrics = receiver.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let caught_up = metrics
            .replication
            .iter()
            .flatten()
            .filter(|(_, matching)| matching.as_ref().is_some_and(|matching| matching.index + CAUGHT_UP >= last));
        let configurations = metrics.membership_config.get_joint_config();
        Membership {
            members: metrics.membership_config.nodes().map(|(id, member)| (*id, member.clone())).collect(),
            voters: configurations.last().cloned().unwrap_or_default(),
            unfinished: configurations.len() > 1,
            caught_up: caught_up.map(|(id, _)| *id).chain([self.inner.raft_id]).collect(),
            leader: metrics.current_leader.unwrap_or(self.inner.raft_id),
        }
    }

    /// The controllers that the state names and whether they are heard.
    #[must_use]
    pub fn wanted_members(&self) -> (BTreeMap<RaftId, Member>, BTreeSet<RaftId>) {
        let state = self.state();
        let mut wanted = BTreeMap::new();
        let mut ready = BTreeSet::new();
        for (node, controller) in &state.controllers {
            if let Some(details) = state.nodes.get(node) {
                wanted.insert(controller.raft_id, Member { node: *node, address: details.address });
                if details.readiness == Readiness::Ready {
                    ready.insert(controller.raft_id);
                }
            }
        }
        (wanted, ready)
    }

    /// Takes the next step towards the controllers that the state names. Answers whether there was one.
    ///
    /// # Errors
    /// When Raft refuses the step now; it is taken again later.
    pub async fn reconcile_membership(&self) -> Result<bool, String> {
        let (wanted, ready) = self.wanted_members();
        if !wanted.is_empty() && !wanted.contains_key(&self.inner.raft_id) {
            // Who is removed does not lead the others through it, if one of them can.
            self.hand_over().await;
            if !self.is_leader() {
                return Ok(false);
            }
        }
        let Some(step) = membership::next_step(&self.membership(), &wanted, &ready) else { return Ok(false) };
        tracing::info!(?step, "the group of controllers changes");
        let raft = &self.inner.raft;
        let result = match step {
            Step::AddLearner(id, member) => raft.add_learner(id, member, false).await,
            Step::Move(id, member) => {
                raft.change_membership(ChangeMembers::SetNodes(BTreeMap::from([(id, member)])), true).await
            }
            Step::SetVoters(voters) => raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), true).await,
            Step::Remove(gone) => raft.change_membership(ChangeMembers::RemoveNodes(gone), true).await,
        };
        result.map(|_response| true).map_err(|error| error.to_string())
    }

    /// If this controller leads, lets another one lead that has everything.
    pub async fn hand_over(&self) {
        if !self.is_leader() {
            return;
        }
        if tokio::time::timeout(FINISH_CHANGE, self.finish_change_of_voters()).await.is_err() {
            tracing::warn!("a change of the voters could not be finished in time: the next leader will try");
        }
        let membership = self.membership();
        let heir = membership.voters.intersection(&membership.caught_up).find(|id| **id != self.inner.raft_id);
        let Some(heir) = heir else { return };
        if let Err(error) = self.inner.raft.trigger().transfer_leader(*heir).await {
            tracing::debug!(%error, "leadership is not handed over");
            return;
        }
        if tokio::time::timeout(HAND_OVER, self.leadership_change(true)).await.is_err() {
            tracing::debug!("nobody took leadership over in time");
        }
    }

    /// A half-done change needs the majority of the voters before it, which may be this controller alone: leaving then
    /// would leave the others without a majority.
    async fn finish_change_of_voters(&self) {
        loop {
            let membership = self.membership();
            if !membership.unfinished || !self.is_leader() {
                return;
            }
            let change = ChangeMembers::ReplaceAllVoters(membership.voters);
            if let Err(error) = self.inner.raft.change_membership(change, true).await {
                tracing::debug!(%error, "the change of the voters cannot be finished yet");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Makes a snapshot now.
    ///
    /// # Errors
    /// When this controller has stopped.
    pub async fn make_snapshot(&self) -> Result<(), ReadError> {
        let triggered = self.inner.raft.trigger().snapshot().await;
        triggered.map_err(|fatal| ReadError::Stopped { reason: fatal.to_string() })
    }

    /// The numbers that this controller runs with.
    #[must_use]
    pub fn tuning(&self) -> &Tuning {
        &self.inner.tuning
    }
}

/// Where a controller keeps its log and snapshots: a directory for each Raft id, as a new one must not see the old one's.
#[must_use]
pub fn directory_of(state_directory: &Path, raft_id: RaftId) -> PathBuf {
    state_directory.join(format!("raft-{raft_id:016x}"))
}

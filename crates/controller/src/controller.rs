//! One controller: how it comes to be, starts and ends.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng as _;
use stack_model::{NodeDescription, NodeId, NodeRole};
use stack_planner::{ClusterIdentity, Command, Secret};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::control::Control;
use crate::http::{self, Context, ImageResolver};
use crate::identity::authority::{self, Authority, IssueError, Subject};
use crate::identity::join::{Candidate, JoinError, JoinTarget, join};
use crate::identity::{Credentials, CredentialsError, JoinToken, NodeIdentity};
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::raft::types::{Member, RaftId};
use crate::store::{self, OpenStoreError, ProposeError, Store, StoreConfig};
use crate::tuning::Tuning;

/// What a controller needs to start.
pub struct ControllerConfig {
    /// The host's own; the controller keeps `raft-…` directories there.
    pub state_directory: PathBuf,
    /// Of a node that is a controller.
    pub credentials: Arc<Credentials>,
    /// The numbers.
    pub tuning: Tuning,
    /// Asks registries.
    pub resolver: Arc<dyn ImageResolver>,
}

/// Why a controller does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The identity is that of a worker.
    #[error("node {node} is not a controller")]
    NotAController {
        /// Who it is.
        node: NodeId,
    },
    /// The identity cannot be used.
    #[error("the node's identity cannot be used")]
    Credentials(#[from] CredentialsError),
    /// What is on the disk cannot be used.
    #[error("the controller's state cannot be opened")]
    Store(#[from] OpenStoreError),
}

/// A running controller.
#[derive(Debug)]
pub struct Controller {
    store: Store,
    router: axum::Router,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    control: Mutex<Option<JoinHandle<()>>>,
}

impl Controller {
    /// Opens the state and takes part in Raft. The router must be served, at the address that the cluster knows.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: ControllerConfig) -> Result<Self, StartError> {
        let identity = config.credentials.identity();
        let (NodeRole::Controller, Some(raft_id)) = (identity.role, identity.raft_id) else {
            return Err(StartError::NotAController { node: identity.node });
        };
        let mesh = Mesh::new(&config.credentials)?;
        let directory = store::directory_of(&config.state_directory, raft_id);
        let store_config = StoreConfig { directory, raft_id, node: identity.node, tuning: config.tuning };
        let store = Store::open(store_config, mesh).await?;
        let metrics = Arc::new(Metrics::default());
        let stop = CancellationToken::new();
        let (control, task) = Control::start(store.clone(), Arc::clone(&metrics), stop.clone());
        let context = Context { store: store.clone(), resolver: config.resolver, control };
        Ok(Self { store, router: http::router(context), metrics, stop, control: Mutex::new(Some(task)) })
    }

    /// All routes of this controller: to be merged with the host's own and served by
    /// [`serve_tls`](crate::http::listener::serve_tls) and [`serve_local`](crate::http::listener::serve_local).
    pub fn router(&self) -> axum::Router {
        self.router.clone()
    }

    /// What it counts, in Prometheus' text form, with the closing mark.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn metrics(&self) -> Result<String, std::fmt::Error> {
        self.metrics.render(&self.store)
    }

    /// The replicated state.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Returns when this controller cannot go on, with the reason: its disk failed, or it cannot apply what was decided.
    /// It must be shut down then, as what it acknowledges next might not be kept; what is on the disk can be started anew.
    pub async fn failed(&self) -> Arc<str> {
        let mut disk = self.store.failed();
        let disk = async {
            // The channel's guard must not live across the next await.
            let reason = disk.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
            match reason {
                Some(reason) => reason,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reason = disk => reason,
            reason = self.store.raft_failed() => reason,
        }
    }

    /// Lets another controller lead, stops, and lets go of the disk. A second call finds nothing to do.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(control) = control else { return };
        if let Err(error) = control.await {
            tracing::error!(%error, "the leader's tasks did not end well");
        }
        self.store.hand_over().await;
        self.store.shutdown().await;
    }
}

/// What a new cluster needs to know of its first host.
#[derive(Debug, Clone)]
pub struct FirstHost {
    /// Where other hosts reach it.
    pub address: SocketAddr,
    /// What it says of itself.
    pub description: NodeDescription,
    /// The cluster encrypts networks that do not say otherwise.
    pub encrypts_networks: bool,
}

/// Why no cluster was made.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// This host is in a cluster.
    #[error("this host is a member of the cluster {cluster_id} already")]
    AlreadyMember {
        /// Which.
        cluster_id: String,
    },
    /// Nothing can be written there.
    #[error("cannot prepare {}", path.display())]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No authority or certificate.
    #[error("cannot make the cluster's certificates")]
    Certificates(#[from] IssueError),
    /// The identity cannot be used or written.
    #[error("cannot take up the new identity")]
    Credentials(#[from] CredentialsError),
    /// Raft does not start.
    #[error("cannot open the new state")]
    Store(#[from] OpenStoreError),
    /// The first entries were not written.
    #[error("cannot write the cluster's first entries")]
    Propose(#[from] ProposeError),
}

/// Makes a new cluster of this host: its authority, its first state, and this host's identity, which is written last: a
/// host that dies before that is in no cluster.
///
/// # Errors
/// See [`BootstrapError`].
pub async fn bootstrap(
    state_directory: &Path,
    host: FirstHost,
    tuning: &Tuning,
) -> Result<NodeIdentity, BootstrapError> {
    if let Some(identity) = NodeIdentity::load(state_directory)? {
        return Err(BootstrapError::AlreadyMember { cluster_id: identity.cluster_id });
    }
    remove_leftovers(state_directory)
        .map_err(|source| BootstrapError::Directory { path: state_directory.to_owned(), source })?;
    let now = time::OffsetDateTime::now_utc();
    let cluster_id = NodeId::from_bits(rand::rng().random()).to_string();
    let node = NodeId::from_bits(rand::rng().random());
    let raft_id: RaftId = rand::rng().random_range(1..u64::MAX);
    let (authority, authority_key) = Authority::create(&cluster_id, now)?;
    let (key, request) = authority::new_key()?;
    let life = time::Duration::try_from(tuning.certificate_life).unwrap_or(time::Duration::days(90));
    let subject = Subject::Node { id: node, role: NodeRole::Controller };
    let identity = NodeIdentity {
        cluster_id: cluster_id.clone(),
        node,
        role: NodeRole::Controller,
        raft_id: Some(raft_id),
        certificate: authority.issue(&request, &subject, now, life)?,
        key: key.to_string(),
        ca_certificate: authority.certificate_pem().to_owned(),
        address: Some(host.address),
        controllers: vec![host.address],
    };
    let token = || Secret(JoinToken::new(authority.certificate(), rand::rng().random()).reveal());
    let initialize = Command::Initialize {
        identity: ClusterIdentity {
            cluster_id,
            ca_certificate: authority.certificate_pem().to_owned(),
            ca_key: Secret(authority_key.to_string()),
            worker_token: token(),
            controller_token: token(),
            encrypts_networks: host.encrypts_networks,
        },
    };
    let member = Member { node, address: host.address };
    let add = Command::AddNode {
        id: node,
        role: NodeRole::Controller,
        address: host.address,
        description: host.description,
        raft_id: Some(raft_id),
    };
    let mesh = Mesh::new(&Credentials::new(identity.clone())?)?;
    let directory = store::directory_of(state_directory, raft_id);
    let store = Store::open(StoreConfig { directory, raft_id, node, tuning: tuning.clone() }, mesh).await?;
    let written = write_first_entries(&store, member, [initialize, add]).await;
    store.shutdown().await;
    written?;
    identity.save(state_directory)?;
    Ok(identity)
}

async fn write_first_entries(store: &Store, member: Member, commands: [Command; 2]) -> Result<(), ProposeError> {
    store.initialize(member).await?;
    for command in &commands {
        store.propose(command).await?;
    }
    Ok(())
}

/// Why this host did not become a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinClusterError {
    /// This host is in a cluster.
    #[error("this host is a member of the cluster {cluster_id} already")]
    AlreadyMember {
        /// Which.
        cluster_id: String,
    },
    /// Nothing can be written there.
    #[error("cannot prepare {}", path.display())]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The cluster did not let it in.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The identity cannot be used or written.
    #[error("cannot take up the new identity")]
    Credentials(#[from] CredentialsError),
}

/// Makes this host a member of a cluster, and keeps the identity that it got.
///
/// # Errors
/// See [`JoinClusterError`].
pub async fn join_cluster(state_directory: &Path, target: &JoinTarget) -> Result<NodeIdentity, JoinClusterError> {
    if let Some(identity) = NodeIdentity::load(state_directory)? {
        return Err(JoinClusterError::AlreadyMember { cluster_id: identity.cluster_id });
    }
    remove_leftovers(state_directory)
        .map_err(|source| JoinClusterError::Directory { path: state_directory.to_owned(), source })?;
    let candidate = Candidate::take(state_directory)?;
    let identity = join(target, &candidate).await?;
    Credentials::new(identity.clone())?;
    identity.save(state_directory)?;
    Candidate::forget(state_directory);
    Ok(identity)
}

/// Removes what an attempt that was not finished left. A host without an identity was never a member with these.
fn remove_leftovers(state_directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_directory)?;
    for entry in std::fs::read_dir(state_directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("raft-") {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Another controller is asked to lead this long at most before this one stops anyway.
pub(crate) const HAND_OVER: Duration = Duration::from_millis(800);

#[cfg(test)]
mod tests {
    use super::*;

    /// The daemon spawns what these answer.
    #[test]
    fn what_the_daemon_spawns_can_be_sent_between_threads() {
        const fn is_send<T: Send>(_: &T) {}
        fn futures(controller: &Controller) {
            is_send(&controller.failed());
            is_send(&controller.shutdown());
        }
        let _: fn(&Controller) = futures;
    }
}

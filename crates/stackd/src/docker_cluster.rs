//! The cluster as the Docker API of this host sees it: networks are asked of the leader by the agent's session, and changed by
//! the local socket, as an operator of this host does it.

use std::sync::Weak;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use stack_api::bodies::PutNetworkRequest;
use stack_api::error::full_text;
use stack_api::routes::{self, Route};
use stack_api::views::{NetworkView, Written};
use stack_api::{Client, ClientError, Endpoint, ErrorCode};
use stack_docker_api::{Cluster, ClusterError, ClusterNetwork, NewClusterNetwork, Part};
use stack_model::spec::NetworkSpec;

use crate::daemon::Daemon;

/// A change that takes longer has lost its leader.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the Docker API is given. The daemon owns the API, so that this does not own the daemon.
#[derive(Debug)]
pub struct DockerCluster {
    daemon: Weak<Daemon>,
}

impl DockerCluster {
    /// Of this daemon.
    pub fn new(daemon: Weak<Daemon>) -> Self {
        Self { daemon }
    }

    async fn all(&self) -> Result<Vec<ClusterNetwork>, ClusterError> {
        let session = match self.daemon.upgrade() {
            Some(daemon) => daemon.session().await,
            None => None,
        };
        let Some(session) = session else {
            return Err(ClusterError::Unreachable("this host is not yet a member".to_owned()));
        };
        let views = session.all_networks().await.map_err(refused)?;
        Ok(views.into_iter().map(network).collect())
    }

    async fn change(&self, route: Route, name: &str, body: Option<&PutNetworkRequest>) -> Result<(), ClusterError> {
        let Some(daemon) = self.daemon.upgrade() else {
            return Err(ClusterError::Unreachable("the daemon ends".to_owned()));
        };
        let socket = daemon.configuration.run_directory.join("stackd.sock");
        let client = Client::new(Endpoint::Socket(socket), None).map_err(refused)?;
        let written: Result<Written, ClientError> = client.call(route, &[name], None::<&()>, body, PATIENCE).await;
        written.map(drop).map_err(refused)
    }
}

/// Why a call failed, by what Docker's clients know.
fn refused(error: ClientError) -> ClusterError {
    let text = full_text(&error);
    match error.refused().map(|body| body.code) {
        Some(ErrorCode::NotFound) => ClusterError::NotFound(text),
        Some(ErrorCode::Conflict) => ClusterError::Conflict(text),
        Some(ErrorCode::BadRequest | ErrorCode::Unprocessable) => ClusterError::Invalid(text),
        _ => ClusterError::Unreachable(text),
    }
}

fn network(view: NetworkView) -> ClusterNetwork {
    ClusterNetwork {
        name: view.name,
        vni: view.vni,
        subnets: view.subnets.iter().filter_map(|subnet| subnet.parse().ok()).collect(),
        internal: view.internal,
        encrypted: view.encrypted,
        attachable: view.attachable,
        mtu: view.mtu,
        labels: view.labels,
        peers: view.hosts.into_iter().map(|host| (host.node, host.underlay)).collect(),
    }
}

impl Cluster for DockerCluster {
    fn part(&self) -> BoxFuture<'_, Part> {
        async move {
            let Some(daemon) = self.daemon.upgrade() else { return Part::None };
            match daemon.identity().await {
                None => Part::None,
                Some(identity) if identity.raft_id.is_some() => Part::Controller,
                Some(_) => Part::Worker,
            }
        }
        .boxed()
    }

    fn networks(&self) -> BoxFuture<'_, Result<Vec<ClusterNetwork>, ClusterError>> {
        self.all().boxed()
    }

    fn make_network(&self, asked: NewClusterNetwork) -> BoxFuture<'_, Result<(), ClusterError>> {
        async move {
            let NewClusterNetwork { name, subnets, ipv6, internal, encrypted, attachable, mtu, labels } = asked;
            let spec =
                NetworkSpec { subnets, ipv6, internal, encrypted, attachable, mtu, labels, ..NetworkSpec::default() };
            self.change(routes::PUT_NETWORK, &name, Some(&PutNetworkRequest { spec })).await
        }
        .boxed()
    }

    fn remove_network(&self, name: String) -> BoxFuture<'_, Result<(), ClusterError>> {
        async move { self.change(routes::REMOVE_NETWORK, &name, None).await }.boxed()
    }
}

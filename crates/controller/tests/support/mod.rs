//! Hosts of a cluster in one process: real Raft, real disks, real TLS on loopback. Each test makes its own.
// Each test binary uses another part of this; a helper that fails shall fail its test.
#![allow(dead_code, clippy::missing_panics_doc, missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stack_api::bodies::{CertificateRequest, CertificateResponse, DeployRequest, UpdateNodeRequest};
use stack_api::routes::{self, Route};
use stack_api::views::{NodeView, TokensView};
use stack_api::{Client, ClientError, Endpoint, Identity};
use stack_controller::http::listener;
use stack_controller::identity::authority::new_key;
use stack_controller::{
    Controller, ControllerConfig, Credentials, FirstHost, ImageResolver, JoinTarget, NodeIdentity, ResolveImageError,
    Tuning, bootstrap, join_cluster,
};
use stack_model::{Digest, NodeDescription, NodeId, RegistryCredential};
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const PATIENCE: Duration = Duration::from_secs(60);
pub const CALL: Duration = Duration::from_secs(10);

/// A registry that has every image but those called `missing`.
struct Registry;

impl ImageResolver for Registry {
    fn resolve<'call>(
        &'call self,
        reference: &'call str,
        _credential: Option<&'call RegistryCredential>,
    ) -> BoxFuture<'call, Result<Digest, ResolveImageError>> {
        Box::pin(async move {
            if reference.starts_with("missing") {
                let reason = "the registry says there is no such image".to_owned();
                return Err(ResolveImageError { reference: reference.to_owned(), reason });
            }
            Ok(format!("sha256:{}", "ab".repeat(32)).parse().unwrap())
        })
    }
}

pub fn tuning() -> Tuning {
    Tuning { leader_grace: Duration::from_secs(3), ..Tuning::default() }
}

pub fn description(name: &str) -> NodeDescription {
    NodeDescription {
        hostname: name.to_owned(),
        operating_system: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        cpu_millis: 4000,
        memory_bytes: 8 << 30,
        ..NodeDescription::default()
    }
}

struct Running {
    controller: Option<Controller>,
    stop: CancellationToken,
    doors: Vec<JoinHandle<()>>,
}

/// A host with a controller. Dropped, it stops.
pub struct Host {
    directory: TempDir,
    pub address: SocketAddr,
    pub identity: NodeIdentity,
    pub tuning: Tuning,
    running: Option<Running>,
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.stop.cancel();
        }
    }
}

/// An address that nobody else has; taken by the caller's listener later.
async fn reserve() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

impl Host {
    pub async fn first(tuning: Tuning) -> Self {
        if std::env::var_os("RUST_LOG").is_some() {
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            // Whoever logs elsewhere already goes on doing so.
            let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().with_ansi(false).try_init();
        }
        let directory = tempfile::tempdir().unwrap();
        let address = reserve().await;
        let host = FirstHost { address, description: description("one"), encrypts_networks: false };
        let identity = bootstrap(directory.path(), host, &tuning).await.unwrap();
        let mut host = Self { directory, address, identity, tuning, running: None };
        host.start().await;
        host
    }

    pub async fn join(name: &str, token: &str, controllers: &[SocketAddr], tuning: Tuning) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = reserve().await;
        let target = JoinTarget {
            token: token.to_owned(),
            controllers: controllers.to_vec(),
            address,
            description: description(name),
        };
        let identity = join_cluster(directory.path(), &target).await.unwrap();
        let mut host = Self { directory, address, identity, tuning, running: None };
        host.start().await;
        host
    }

    /// What is on its disk is all that it knows.
    pub async fn start(&mut self) {
        let identity = NodeIdentity::load(self.directory.path()).unwrap().unwrap();
        let credentials = Arc::new(Credentials::new(identity).unwrap());
        let config = ControllerConfig {
            state_directory: self.directory.path().to_owned(),
            credentials: Arc::clone(&credentials),
            tuning: self.tuning.clone(),
            resolver: Arc::new(Registry),
        };
        let controller = Controller::start(config).await.unwrap();
        let stop = CancellationToken::new();
        // The port may still be in the hands of connections that are going away.
        let network = until("the port is free", async || TcpListener::bind(self.address).await.ok()).await;
        let socket = self.socket();
        if socket.exists() {
            std::fs::remove_file(&socket).unwrap();
        }
        let local = UnixListener::bind(&socket).unwrap();
        let (router, token) = (controller.router(), stop.clone());
        let doors = vec![
            tokio::spawn(async move { listener::serve_tls(network, &credentials, router, token).await.unwrap() }),
            tokio::spawn(listener::serve_local(local, controller.router(), stop.clone())),
        ];
        self.running = Some(Running { controller: Some(controller), stop, doors });
    }

    pub fn controller(&self) -> &Controller {
        self.running.as_ref().unwrap().controller.as_ref().unwrap()
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("stackd.sock")
    }

    /// Without a word to anybody: its doors are shut and its Raft ends as it stands.
    pub async fn kill(&mut self) {
        let mut running = self.running.take().unwrap();
        running.stop.cancel();
        for door in &running.doors {
            door.abort();
        }
        let controller = running.controller.take().unwrap();
        controller.store().shutdown().await;
        for door in running.doors {
            let _ = door.await;
        }
    }

    pub async fn shutdown(&mut self) {
        let mut running = self.running.take().unwrap();
        running.controller.take().unwrap().shutdown().await;
        running.stop.cancel();
        for door in running.doors {
            door.await.unwrap();
        }
    }

    /// The client of a person on this host.
    pub fn local(&self) -> Client {
        Client::new(Endpoint::Socket(self.socket()), None).unwrap()
    }

    pub async fn tokens(&self) -> TokensView {
        self.local().get(routes::TOKENS, &[], CALL).await.unwrap()
    }

    pub fn leads(&self) -> bool {
        self.running.is_some() && self.controller().store().is_leader()
    }

    pub fn voters(&self) -> usize {
        self.controller().store().membership().voters.len()
    }
}

/// Three controllers, all with a vote.
pub async fn three(tuning: Tuning) -> Vec<Host> {
    let first = Host::first(tuning.clone()).await;
    until("the first leads", async || first.leads().then_some(())).await;
    let token = first.tokens().await.controller;
    let mut hosts = vec![first];
    for name in ["two", "three"] {
        let controllers = [hosts[0].address];
        hosts.push(Host::join(name, &token, &controllers, tuning.clone()).await);
    }
    until("all have a vote", async || hosts.iter().all(|host| host.voters() == 3).then_some(())).await;
    hosts
}

/// The place of the one that leads.
pub async fn leader(hosts: &[Host]) -> usize {
    until("somebody leads", async || hosts.iter().position(Host::leads)).await
}

/// Asks again until there is an answer.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn operator(host: &Host, name: &str) -> Identity {
    let (key, certificate_request) = new_key().unwrap();
    let request = CertificateRequest { name: Some(name.to_owned()), certificate_request };
    let answer: CertificateResponse = post(&host.local(), routes::OPERATORS, &[], &request).await.unwrap();
    Identity { ca_certificate: answer.ca_certificate, certificate: answer.certificate, key: key.to_string() }
}

pub async fn post<B: Serialize + Sync, A: DeserializeOwned>(
    client: &Client,
    route: Route,
    values: &[&str],
    body: &B,
) -> Result<A, ClientError> {
    client.call(route, values, None::<&()>, Some(body), CALL).await
}

/// A write with a mark that can be found again: a label of the node.
pub async fn label(client: &Client, node: NodeId, key: &str) -> Result<NodeView, ClientError> {
    let labels = [(key.to_owned(), Some("set".to_owned()))].into();
    let request = UpdateNodeRequest { availability: None, labels };
    post(client, routes::UPDATE_NODE, &[&node.to_string()], &request).await
}

pub fn stack(name: &str, image: &str, replicas: u32) -> DeployRequest {
    let spec = serde_json::json!({
        "name": name,
        "services": {"web": {
            "container": {"image": {"reference": image}},
            "mode": {"replicated": {"replicas": replicas}}
        }}
    });
    DeployRequest { spec: serde_json::from_value(spec).unwrap(), expected_revision: None, contents: Default::default() }
}

/// Heartbeats of all hosts' agents, to whoever leads.
pub fn beat(hosts: &[Host]) -> JoinHandle<()> {
    let addresses: Vec<SocketAddr> = hosts.iter().map(|host| host.address).collect();
    let clients: Vec<(NodeId, Client)> = hosts
        .iter()
        .map(|host| {
            let endpoint = Endpoint::Controllers(addresses.clone());
            (host.identity.node, Client::new(endpoint, Some(&host.identity.client_identity())).unwrap())
        })
        .collect();
    tokio::spawn(async move {
        loop {
            for (node, client) in &clients {
                let request = stack_api::session::HeartbeatRequest { node: *node };
                // Who does not lead refuses; the client asks the next one.
                let _: Result<stack_api::session::HeartbeatResponse, _> =
                    post(client, routes::NODE_HEARTBEAT, &[], &request).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
}

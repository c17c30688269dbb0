//! How many writes a second the controllers acknowledge: `cargo run --release --example write_benchmark [SECONDS]`.
//!
//! Each write is one command (a node's label set anew), proposed to the leader's store, on the disk of a majority before it
//! counts. Controllers are in one process, with real logs in the temporary directory (`TMPDIR`) and real mutual TLS between
//! them on loopback.
// A benchmark speaks on standard output, and stops at the first thing that is not as it should be.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use stack_controller::http::listener;
use stack_controller::{
    Controller, ControllerConfig, Credentials, FirstHost, ImageResolver, JoinTarget, NodeIdentity, ResolveImageError,
    Store, Tuning, bootstrap, join_cluster,
};
use stack_model::{Digest, NodeDescription, RegistryCredential};
use stack_planner::Command;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct NoRegistry;

impl ImageResolver for NoRegistry {
    fn resolve<'call>(
        &'call self,
        reference: &'call str,
        _credential: Option<&'call RegistryCredential>,
    ) -> BoxFuture<'call, Result<Digest, ResolveImageError>> {
        let reference = reference.to_owned();
        Box::pin(async move { Err(ResolveImageError { reference, reason: "a benchmark has no registry".to_owned() }) })
    }
}

async fn start(directory: &Path, address: SocketAddr, identity: NodeIdentity, stop: &CancellationToken) -> Controller {
    let credentials = Arc::new(Credentials::new(identity).unwrap());
    let config = ControllerConfig {
        state_directory: directory.to_owned(),
        credentials: Arc::clone(&credentials),
        tuning: Tuning::default(),
        resolver: Arc::new(NoRegistry),
    };
    let controller = Controller::start(config).await.unwrap();
    let (router, stop) = (controller.router(), stop.clone());
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move { listener::serve_tls(listener, &credentials, router, stop).await.unwrap() });
    controller
}

async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn wait_until(mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !met() {
        assert!(Instant::now() < deadline, "the cluster does not come up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn measure(store: &Store, clients: usize, span: Duration) {
    let node = store.node();
    let started = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                while started.elapsed() < span {
                    // As large as a small service's spec.
                    let value = format!("{:0>480}", times.len());
                    let labels = [(format!("client{client}"), Some(value))].into();
                    let command = Command::UpdateNode { id: node, availability: None, labels };
                    let before = Instant::now();
                    store.propose(&command).await.unwrap();
                    times.push(before.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let elapsed = started.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |permille: usize| times.get(times.len() * permille / 1000).copied().unwrap_or_default();
    let rate = f64::from(u32::try_from(times.len()).unwrap()) / elapsed;
    println!("  {clients:>2} clients: {rate:>8.0} writes/s, p50 {:?}, p99 {:?}", at(500), at(990));
}

#[tokio::main]
async fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5);
    let span = Duration::from_secs(seconds);
    let stop = CancellationToken::new();
    let mut directories: Vec<TempDir> = vec![tempfile::tempdir().unwrap()];
    let address = free_address().await;
    let host = FirstHost { address, description: NodeDescription::default(), encrypts_networks: false };
    let identity = bootstrap(directories[0].path(), host, &Tuning::default()).await.unwrap();
    let mut controllers = vec![start(directories[0].path(), address, identity, &stop).await];
    let store = controllers[0].store().clone();
    wait_until(|| store.is_leader()).await;

    println!("1 controller");
    for clients in [1, 32] {
        measure(&store, clients, span).await;
    }

    let token = store.state().identity.clone().unwrap().controller_token.0;
    for _ in 0..2 {
        let directory = tempfile::tempdir().unwrap();
        let own = free_address().await;
        let target = JoinTarget {
            token: token.clone(),
            controllers: vec![address],
            address: own,
            description: NodeDescription::default(),
        };
        let identity = join_cluster(directory.path(), &target).await.unwrap();
        controllers.push(start(directory.path(), own, identity, &stop).await);
        directories.push(directory);
    }
    wait_until(|| store.membership().voters.len() == 3).await;
    let leader = controllers.iter().find(|controller| controller.store().is_leader()).unwrap().store().clone();
    println!("3 controllers");
    for clients in [1, 32] {
        measure(&leader, clients, span).await;
    }
    stop.cancel();
    for controller in controllers {
        controller.shutdown().await;
    }
}

//! `stack dev`: hosts become a cluster through their daemons' sockets, as real hosts would.

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use stack_api::bodies::{InitRequest, JoinClusterRequest};
use stack_api::views::{ClusterView, LocalView, MemberView, NodeView, TaskView, TokensView};
use stack_api::{Client, Endpoint, routes};
use stack_model::{Phase, Readiness};

use crate::commands::context::new_operator;
use crate::context::Contexts;
use crate::dev::{self, Cluster, ClusterSetup, DevCommand, Host, SetupError, TaskPort};
use crate::failure::{ExitCode, Failure, chain};
use crate::request::QUICK;

/// Hosts that have joined are all ready, and all controllers have a vote, in this time.
const FORMING: Duration = Duration::from_secs(90);

pub async fn run(command: DevCommand) -> Result<ExitCode, Failure> {
    let setup = Setup { contexts: Contexts::of_user() };
    match dev::run(command, &setup).await {
        Ok(_) => Ok(ExitCode::Done),
        Err(error) => Err(Failure::new(ExitCode::Failed, chain(&error))),
    }
}

struct Setup {
    contexts: Contexts,
}

fn socket(host: &Host) -> Result<Client, SetupError> {
    Ok(Client::new(Endpoint::Socket(host.stackd_socket()), None)?)
}

async fn tokens(client: &Client) -> Result<TokensView, SetupError> {
    Ok(client.get(routes::TOKENS, &[], QUICK).await?)
}

async fn enter(host: &Host, token: &str, first: &MemberAddress) -> Result<(), SetupError> {
    let request = JoinClusterRequest { token: token.to_owned(), controllers: vec![first.0], advertise: None };
    let _: MemberView = socket(host)?
        .call(routes::CLUSTER_JOIN, &[], None::<&()>, Some(&request), FORMING)
        .await
        .map_err(|error| format!("{} does not join: {}", host.name, chain(&error)))?;
    Ok(())
}

struct MemberAddress(std::net::SocketAddr);

impl ClusterSetup for Setup {
    async fn is_ready(&self, host: &Host) -> bool {
        match socket(host) {
            Ok(client) => client.get::<LocalView>(routes::LOCAL, &[], Duration::from_secs(2)).await.is_ok(),
            Err(_) => false,
        }
    }

    async fn form(&self, cluster: &Cluster) -> Result<(), SetupError> {
        let Some((first, others)) = cluster.hosts.split_first() else { return Ok(()) };
        let client = socket(first)?;
        let _: MemberView =
            client.call(routes::CLUSTER_INIT, &[], None::<&()>, Some(&InitRequest::default()), FORMING).await?;
        let tokens = tokens(&client).await?;
        let Some(address) = tokens.controllers.first().copied() else {
            return Err("the new cluster names no controller".into());
        };
        let address = MemberAddress(address);
        // Controllers one after the other: each changes who votes. Workers all at once.
        let further = usize::from(cluster.controllers).saturating_sub(1).min(others.len());
        let (controllers, workers) = others.split_at(further);
        for host in controllers {
            enter(host, &tokens.controller, &address).await?;
        }
        try_join_all(workers.iter().map(|host| enter(host, &tokens.worker, &address))).await?;
        wait_until_formed(&client, cluster).await?;
        let context = new_operator(&client, "dev").await?;
        self.contexts.write(&cluster.name, &context)?;
        self.contexts.set_current(Some(&cluster.name))?;
        Ok(())
    }

    async fn forget(&self, cluster: &Cluster) -> Result<(), SetupError> {
        self.contexts.remove(&cluster.name)?;
        Ok(())
    }

    async fn ports(&self, cluster: &Cluster) -> Result<Vec<TaskPort>, SetupError> {
        let client = self.contexts.read(&cluster.name)?.client()?;
        let tasks: Vec<TaskView> = client.get(routes::TASKS, &[], QUICK).await?;
        let running = tasks.iter().filter(|task| task.phase == Phase::Running);
        Ok(running.flat_map(|task| task.ports.iter().filter_map(|port| task_port(task, port))).collect())
    }
}

/// Reads `8080->80/tcp`, with or without an address before it.
fn task_port(task: &TaskView, text: &str) -> Option<TaskPort> {
    let (published, rest) = text.split_once("->")?;
    let (target, protocol) = rest.split_once('/')?;
    Some(TaskPort {
        node: task.node_name.clone(),
        task: task.id.to_string(),
        service: task.service.to_string(),
        published: published.rsplit(':').next()?.parse().ok()?,
        target: target.parse().ok()?,
        protocol: protocol.to_owned(),
    })
}

async fn wait_until_formed(client: &Client, cluster: &Cluster) -> Result<(), SetupError> {
    let until = Instant::now() + FORMING;
    loop {
        let nodes: Vec<NodeView> = client.get(routes::NODES, &[], QUICK).await?;
        let view: ClusterView = client.get(routes::CLUSTER, &[], QUICK).await?;
        let ready = nodes.iter().filter(|node| node.readiness == Readiness::Ready).count();
        let controllers = usize::from(cluster.controllers);
        let voters = view.controllers.iter().filter(|controller| controller.voter).count();
        if ready == cluster.hosts.len() && voters == controllers {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!(
                "{ready} of {} hosts are ready and {voters} of {controllers} controllers vote after {} s",
                cluster.hosts.len(),
                FORMING.as_secs()
            )
            .into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

//! What a host answers on its local socket whether or not it is in a cluster, and how it becomes a member.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Json, State};
use axum::routing::{get, post};
use stack_api::ErrorCode;
use stack_api::bodies::{InitRequest, JoinClusterRequest};
use stack_api::routes;
use stack_api::views::{LocalView, MemberView};
use stack_controller::controller::{FirstHost, bootstrap, join_cluster};
use stack_controller::http::Failure;
use stack_controller::identity::join::{JoinError, JoinTarget};

use crate::daemon::{Daemon, chain};
use crate::description;

/// A new member waits so long until Raft knows a leader.
const LEADER_PATIENCE: Duration = Duration::from_secs(20);
/// And the first node of a cluster so long until it is heard.
const READY_PATIENCE: Duration = Duration::from_secs(20);

/// The routes of the local socket: those that every host has, those that a member has (its metrics), and a controller's
/// where the host is one.
pub fn routes(daemon: &Arc<Daemon>, member: Router, controller: Option<Router>) -> Router {
    let own = Router::new()
        .route(routes::LOCAL.path, get(local))
        .route(routes::CLUSTER_INIT.path, post(init))
        .route(routes::CLUSTER_JOIN.path, post(join));
    match controller {
        Some(controller) => own.with_state(Arc::clone(daemon)).merge(member).merge(controller),
        None => own.with_state(Arc::clone(daemon)).merge(member).merge(without_controller(daemon)),
    }
}

/// The routes of a host without a controller: it says why it does not answer.
pub fn without_controller(daemon: &Arc<Daemon>) -> Router {
    Router::new().fallback(not_a_controller).with_state(Arc::clone(daemon))
}

/// What a host that is no controller, or whose controller cannot go on now, says to everything else.
async fn not_a_controller(State(daemon): State<Arc<Daemon>>) -> Failure {
    if let Some(reason) = daemon.controller_failure().await {
        return Failure::new(
            ErrorCode::NotController,
            format!("the controller of this host does not run now: {reason}"),
        )
        .with_hint("it starts again by itself when that is mended; other controllers answer meanwhile");
    }
    match daemon.identity().await {
        None => Failure::new(ErrorCode::Conflict, "this host is in no cluster")
            .with_hint("`stack cluster init` makes one, `stack cluster join` enters one"),
        Some(_) => Failure::new(ErrorCode::NotController, "this host is a worker: only controllers answer this")
            .with_hint("ask on a controller, or use a context (`stack context --help`)"),
    }
}

async fn local(State(daemon): State<Arc<Daemon>>) -> Json<LocalView> {
    let identity = daemon.identity().await;
    Json(LocalView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        member: identity.map(|identity| MemberView {
            cluster_id: identity.cluster_id.clone(),
            node: identity.node,
            role: identity.role,
        }),
        has_leader: daemon.has_leader().await,
    })
}

fn no_address() -> Failure {
    Failure::new(ErrorCode::BadRequest, "it cannot be found out where other hosts reach this one")
        .with_hint("say it: `--advertise ADDRESS:PORT`")
}

async fn init(
    State(daemon): State<Arc<Daemon>>,
    Json(request): Json<InitRequest>,
) -> Result<Json<MemberView>, Failure> {
    let _one_at_a_time = daemon.membership.lock().await;
    let address = description::advertised(&daemon.configuration, request.advertise).ok_or_else(no_address)?;
    if !description::is_own(address.ip()) {
        return Err(Failure::new(ErrorCode::BadRequest, format!("{} is no address of this host", address.ip())));
    }
    let description = description::describe(&daemon.configuration);
    let host = FirstHost { address, description, encrypts_networks: request.encrypt_networks };
    let identity = bootstrap(&daemon.configuration.state_directory, host, &daemon.tuning())
        .await
        .map_err(|error| Failure::new(ErrorCode::Conflict, chain(&error)))?;
    let view = MemberView { cluster_id: identity.cluster_id.clone(), node: identity.node, role: identity.role };
    daemon.become_member(identity).await.map_err(|error| Failure::new(ErrorCode::Internal, chain(error.as_ref())))?;
    wait_for_leader(&daemon).await;
    wait_until_ready(&daemon).await;
    Ok(Json(view))
}

async fn join(
    State(daemon): State<Arc<Daemon>>,
    Json(request): Json<JoinClusterRequest>,
) -> Result<Json<MemberView>, Failure> {
    let _one_at_a_time = daemon.membership.lock().await;
    let address = description::advertised(&daemon.configuration, request.advertise).ok_or_else(no_address)?;
    let target = JoinTarget {
        token: request.token,
        controllers: request.controllers,
        address,
        description: description::describe(&daemon.configuration),
    };
    let identity = join_cluster(&daemon.configuration.state_directory, &target).await.map_err(|error| {
        let code = match &error {
            stack_controller::controller::JoinClusterError::Join(JoinError::Refused { source, .. }) => source.code,
            stack_controller::controller::JoinClusterError::Join(JoinError::Unreachable { .. }) => {
                ErrorCode::Unavailable
            }
            stack_controller::controller::JoinClusterError::Join(JoinError::Token(_)) => ErrorCode::BadRequest,
            _ => ErrorCode::Conflict,
        };
        Failure::new(code, chain(&error))
    })?;
    let view = MemberView { cluster_id: identity.cluster_id.clone(), node: identity.node, role: identity.role };
    daemon.become_member(identity).await.map_err(|error| Failure::new(ErrorCode::Internal, chain(error.as_ref())))?;
    if view.role == stack_model::NodeRole::Controller {
        wait_for_leader(&daemon).await;
    }
    Ok(Json(view))
}

/// A cluster that was just made or joined answers at once: its first leader is waited for. Not finding one in time is no
/// failure of the membership.
async fn wait_for_leader(daemon: &Daemon) {
    let until = Instant::now() + LEADER_PATIENCE;
    while !daemon.has_leader().await && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A new cluster takes images at once: its only node is heard before the answer. That it is not in time is no failure of
/// the membership either.
async fn wait_until_ready(daemon: &Daemon) {
    let until = Instant::now() + READY_PATIENCE;
    while !daemon.is_ready().await && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

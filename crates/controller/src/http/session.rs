//! What agents and the leader say to each other. Each call is only for the node whose certificate it comes with, and only
//! the leader serves it: a follower says who leads.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use stack_api::session::{
    AllNetworksQuery, AssignmentQuery, AssignmentResponse, GuestsRequest, GuestsResponse, HeartbeatRequest,
    HeartbeatResponse, NetworksNews, NetworksRequest, NetworksResponse, RegisterRequest, RegisterResponse,
};
use stack_api::views::NetworkView;
use stack_api::{ErrorBody, ErrorCode};
use stack_model::{NodeId, Report};
use stack_planner::networks::networks_of;
use stack_planner::{
    Applied, Command, Said, acknowledged_announcement, are_as_declared, guest_answers, is_acknowledgement_awaited,
    network_document,
};

use super::extract::{Body, Query, RequestId};
use super::{Context, Failure, guard, views};
use crate::identity::Peer;

/// An assignment query without news is answered after this time.
const LONG_POLL: Duration = Duration::from_secs(30);

/// A node may speak for itself alone.
fn only_itself(peer: &Peer, claimed: NodeId, path: &str) -> Result<(), Failure> {
    if matches!(peer, Peer::Node { id, .. } if *id == claimed) {
        return Ok(());
    }
    let message = format!("{peer} may not speak for node {claimed}");
    guard::refused(peer, None, path, &message);
    Err(Failure::new(ErrorCode::Forbidden, message))
}

fn only_the_leader(context: &Context) -> Result<(), Failure> {
    if context.store.is_leader() {
        return Ok(());
    }
    match context.store.leader().filter(|leader| leader.node != context.store.node()) {
        Some(leader) => {
            let mut body = ErrorBody::new(ErrorCode::NotLeader, "this controller does not lead");
            body.leader = Some(leader.address.to_string());
            Err(Failure(body))
        }
        None => Err(Failure::new(ErrorCode::Unavailable, "the controllers have no leader now")),
    }
}

pub(super) async fn register(
    State(context): State<Context>,
    peer: Peer,
    RequestId(request): RequestId,
    Body(body): Body<RegisterRequest>,
) -> Result<Json<RegisterResponse>, Failure> {
    only_itself(&peer, body.node, "/v1/node/register")?;
    only_the_leader(&context)?;
    let command = Command::DescribeNode { id: body.node, address: body.address, description: body.description };
    context.store.propose_as(&command, &request).await?;
    context.control.heard(body.node);
    let interval = context.store.tuning().node_heartbeat;
    Ok(Json(RegisterResponse {
        heartbeat_milliseconds: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
        controllers: views::controller_addresses(&context.store.state()),
    }))
}

pub(super) async fn heartbeat(
    State(context): State<Context>,
    peer: Peer,
    Body(body): Body<HeartbeatRequest>,
) -> Result<Json<HeartbeatResponse>, Failure> {
    only_itself(&peer, body.node, "/v1/node/heartbeat")?;
    only_the_leader(&context)?;
    context.control.heard(body.node);
    let state = context.store.state();
    Ok(Json(HeartbeatResponse {
        controllers: views::controller_addresses(&state),
        keys_in_force: acknowledged_announcement(&state, body.node),
    }))
}

pub(super) async fn assignment(
    State(context): State<Context>,
    peer: Peer,
    Query(query): Query<AssignmentQuery>,
) -> Result<Json<AssignmentResponse>, Failure> {
    only_itself(&peer, query.node, "/v1/node/assignment")?;
    only_the_leader(&context)?;
    // A leader that was just deposed does not know it yet; the barrier does.
    context.store.read_barrier().await?;
    context.control.heard(query.node);
    let mut states = context.store.watch();
    let news = states.wait_for(|state| {
        let generation = state.generations.get(&query.node).copied().unwrap_or(0);
        generation > query.after || !state.nodes.contains_key(&query.node)
    });
    let waited = tokio::select! {
        news = news => news.map(|state| (*state).clone()).ok(),
        () = tokio::time::sleep(LONG_POLL) => None,
        _ended = context.store.leadership_change(true) => None,
    };
    let Some(state) = waited else {
        only_the_leader(&context)?;
        return Ok(Json(AssignmentResponse { assignment: None }));
    };
    if !state.nodes.contains_key(&query.node) {
        return Err(Failure::new(ErrorCode::Forbidden, format!("node {} was removed from the cluster", query.node)));
    }
    Ok(Json(AssignmentResponse { assignment: Some(stack_planner::assignment(&state, query.node)) }))
}

/// The generations of the documents of a node's networks.
fn network_generations(state: &stack_planner::State, node: NodeId) -> BTreeMap<String, u64> {
    networks_of(state, node).map(|(name, network)| (name.clone(), network.generation)).collect()
}

pub(super) async fn networks(
    State(context): State<Context>,
    peer: Peer,
    Body(body): Body<NetworksRequest>,
) -> Result<Json<NetworksResponse>, Failure> {
    only_itself(&peer, body.node, "/v1/node/networks")?;
    only_the_leader(&context)?;
    context.store.read_barrier().await?;
    context.control.heard(body.node);
    if is_acknowledgement_awaited(&context.store.state(), body.node, body.applied) {
        let command = Command::AcknowledgeNetworks { node: body.node, revision: body.applied };
        context.store.propose(&command).await?;
    }
    let mut states = context.store.watch();
    let news = states.wait_for(|state| {
        let present = networks_of(state, body.node).map(|(name, network)| (name, &network.generation));
        !present.eq(&body.known) || !state.nodes.contains_key(&body.node)
    });
    let waited = tokio::select! {
        news = news => news.map(|state| (*state).clone()).ok(),
        () = tokio::time::sleep(LONG_POLL) => None,
        _ended = context.store.leadership_change(true) => None,
    };
    let Some(state) = waited else {
        only_the_leader(&context)?;
        return Ok(Json(NetworksResponse { news: None }));
    };
    if !state.nodes.contains_key(&body.node) {
        return Err(Failure::new(ErrorCode::Forbidden, format!("node {} was removed from the cluster", body.node)));
    }
    let networks = network_generations(&state, body.node);
    let documents = networks
        .iter()
        .filter(|(name, generation)| body.known.get(*name) != Some(*generation))
        .filter_map(|(name, _)| network_document(&state, name))
        .collect();
    Ok(Json(NetworksResponse { news: Some(NetworksNews { revision: state.revision, networks, documents }) }))
}

pub(super) async fn guests(
    State(context): State<Context>,
    peer: Peer,
    Body(body): Body<GuestsRequest>,
) -> Result<Json<GuestsResponse>, Failure> {
    only_itself(&peer, body.node, "/v1/node/guests")?;
    only_the_leader(&context)?;
    context.store.read_barrier().await?;
    context.control.heard(body.node);
    if !are_as_declared(&context.store.state(), body.node, &body.guests) {
        let said = Said { life: body.life, sequence: body.sequence };
        let command = Command::DeclareGuests { node: body.node, said, guests: body.guests.clone() };
        context.store.propose(&command).await?;
    }
    Ok(Json(GuestsResponse { guests: guest_answers(&context.store.state(), body.node, &body.guests) }))
}

pub(super) async fn all_networks(
    State(context): State<Context>,
    peer: Peer,
    Query(query): Query<AllNetworksQuery>,
) -> Result<Json<Vec<NetworkView>>, Failure> {
    only_itself(&peer, query.node, "/v1/node/all-networks")?;
    only_the_leader(&context)?;
    context.store.read_barrier().await?;
    let state = context.store.state();
    Ok(Json(state.networks.iter().map(|(name, network)| super::networks::view(&state, name, network)).collect()))
}

pub(super) async fn report(
    State(context): State<Context>,
    peer: Peer,
    Body(report): Body<Report>,
) -> Result<Json<Applied>, Failure> {
    only_itself(&peer, report.node, "/v1/node/report")?;
    only_the_leader(&context)?;
    context.control.heard(report.node);
    Ok(Json(context.control.report(report).await?))
}

//! The networks between hosts: which there are, who is on them, and those that are made by hand.

use axum::Json;
use axum::extract::State;
use stack_api::ErrorCode;
use stack_api::bodies::PutNetworkRequest;
use stack_api::views::{NetworkHostView, NetworkServiceView, NetworkTaskView, NetworkView, Written};
use stack_model::{EndpointState, NetworkDocument};
use stack_planner::{Command, Network, network_document};

use super::extract::{Body, Named, RequestId};
use super::stacks::written;
use super::{Context, Failure};

pub(super) async fn list(State(context): State<Context>) -> Result<Json<Vec<NetworkView>>, Failure> {
    context.store.read_barrier().await?;
    let state = context.store.state();
    Ok(Json(state.networks.iter().map(|(name, network)| view(&state, name, network)).collect()))
}

pub(super) async fn inspect(
    State(context): State<Context>,
    Named(name): Named<String>,
) -> Result<Json<NetworkView>, Failure> {
    context.store.read_barrier().await?;
    let state = context.store.state();
    let network = state
        .networks
        .get(&name)
        .ok_or_else(|| Failure::new(ErrorCode::NotFound, format!("there is no network `{name}`")))?;
    Ok(Json(view(&state, &name, network)))
}

pub(super) async fn put(
    State(context): State<Context>,
    Named(name): Named<String>,
    RequestId(request): RequestId,
    Body(body): Body<PutNetworkRequest>,
) -> Result<Json<Written>, Failure> {
    if !is_a_name(&name) {
        let message = format!("`{name}` is no name of a network");
        return Err(Failure::new(ErrorCode::BadRequest, message)
            .with_hint("1 to 128 letters, digits, `_`, `.` and `-`, a letter or digit first"));
    }
    if body.spec.encrypted {
        return Err(Failure::new(ErrorCode::Unprocessable, "encrypted networks are not supported yet"));
    }
    if let Some(mtu) = body.spec.mtu.filter(|mtu| !(1280..=65_535).contains(mtu)) {
        return Err(Failure::new(ErrorCode::BadRequest, format!("an MTU of {mtu} bytes is not possible"))
            .with_hint("from 1280 to 65535"));
    }
    let command = Command::PutNetwork { name, spec: body.spec };
    Ok(written(context.store.propose_as(&command, &request).await?))
}

fn is_a_name(name: &str) -> bool {
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.len() <= 128 && name.chars().all(plain)
}

pub(super) async fn remove(
    State(context): State<Context>,
    Named(name): Named<String>,
    RequestId(request): RequestId,
) -> Result<Json<Written>, Failure> {
    Ok(written(context.store.propose_as(&Command::RemoveNetwork { name }, &request).await?))
}

fn view(state: &stack_planner::State, name: &str, network: &Network) -> NetworkView {
    let texts = |addresses: &[std::net::IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    let document = network_document(state, name);
    let NetworkDocument { hosts, endpoints, services, .. } = document.unwrap_or_else(|| NetworkDocument {
        name: name.to_owned(),
        id: network.id,
        generation: network.generation,
        hosts: Default::default(),
        endpoints: Default::default(),
        services: Default::default(),
    });
    let node_name =
        |node: stack_model::NodeId| state.nodes.get(&node).map_or_else(|| node.to_string(), |node| node.name.clone());
    NetworkView {
        name: name.to_owned(),
        vni: network.vni,
        stack: network.stack.clone(),
        subnets: network.subnets.iter().map(ToString::to_string).collect(),
        internal: network.spec.internal,
        attachable: network.spec.attachable,
        mtu: network.spec.mtu,
        labels: network.spec.labels.clone(),
        free_addresses: network.free(),
        hosts: hosts
            .iter()
            .map(|(node, host)| NetworkHostView { node: node_name(*node), addresses: texts(&host.addresses) })
            .collect(),
        services: services
            .iter()
            .map(|(key, service)| NetworkServiceView {
                service: key.to_string(),
                addresses: texts(&service.addresses),
                names: service.names.iter().cloned().collect(),
            })
            .collect(),
        tasks: endpoints
            .iter()
            .map(|(task, endpoint)| NetworkTaskView {
                task: *task,
                service: endpoint.service.to_string(),
                node: node_name(endpoint.node),
                addresses: texts(&endpoint.addresses),
                state: match endpoint.state {
                    EndpointState::NotReady => "not ready",
                    EndpointState::Serving => "serving",
                    EndpointState::Draining => "draining",
                }
                .to_owned(),
            })
            .collect(),
    }
}

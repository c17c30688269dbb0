//! The networks between hosts: which there are, who is on them, and those that are made by hand.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use futures::future::join_all;
use stack_api::bodies::PutNetworkRequest;
use stack_api::error::full_text;
use stack_api::views::{
    Convergence, HostNetworksView, NetworkGuestView, NetworkHostView, NetworkServiceView, NetworkTaskView, NetworkView,
    Written,
};
use stack_api::{ErrorCode, routes};
use stack_model::{EndpointState, NetworkDocument, Node, Readiness};
use stack_planner::{Command, Network, network_document};

use super::extract::{Body, Named, RequestId};
use super::stacks::written;
use super::{Context, Failure};
use crate::mesh::with_request_id;

/// A host that does not say in this time what it does is not waited for.
const ASK_HOST: Duration = Duration::from_secs(3);

pub(super) async fn list(State(context): State<Context>) -> Result<Json<Vec<NetworkView>>, Failure> {
    context.store.read_barrier().await?;
    let state = context.store.state();
    Ok(Json(state.networks.iter().map(|(name, network)| view(&state, name, network)).collect()))
}

pub(super) async fn inspect(
    State(context): State<Context>,
    Named(name): Named<String>,
    RequestId(request): RequestId,
) -> Result<Json<NetworkView>, Failure> {
    context.store.read_barrier().await?;
    let state = context.store.state();
    let network = state
        .networks
        .get(&name)
        .ok_or_else(|| Failure::new(ErrorCode::NotFound, format!("there is no network `{name}`")))?;
    let mut view = view(&state, &name, network);
    let nodes: BTreeMap<&str, &Node> = state.nodes.values().map(|node| (node.name.as_str(), node)).collect();
    let asked = view.hosts.iter().map(|host| nodes.get(host.node.as_str()).copied());
    let answers = join_all(asked.map(|node| ask_host(&context, node, &request))).await;
    for (host, answer) in view.hosts.iter_mut().zip(answers) {
        host.convergence = Some(convergence(&name, network.generation, answer));
    }
    Ok(Json(view))
}

async fn ask_host(context: &Context, node: Option<&Node>, request: &str) -> Result<HostNetworksView, String> {
    let node = node.ok_or_else(|| "it is no member any more".to_owned())?;
    if node.readiness != Readiness::Ready {
        return Err("it is down".to_owned());
    }
    let (target, path) = ((node.id, node.address), routes::HOST_NETWORKS.path);
    let headers = with_request_id(request);
    let send = context.store.mesh().send(target, http::Method::GET, path, headers, "".into(), Some(ASK_HOST));
    let answer = send.await.map_err(|error| full_text(&error))?;
    if !answer.status().is_success() {
        return Err(format!("it answered with status {}", answer.status()));
    }
    answer.json().await.map_err(|error| full_text(&error))
}

/// Pure. What a host's answer says of one network, which was decided as of this generation.
fn convergence(name: &str, generation: u64, answer: Result<HostNetworksView, String>) -> Convergence {
    match answer {
        Err(reason) => Convergence::Unknown { reason },
        Ok(answer) => match answer.generations.get(name) {
            Some(done) if *done >= generation && answer.problem.is_none() => Convergence::InForce,
            Some(_) | None => Convergence::Behind { problem: answer.problem },
        },
    }
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

pub(super) fn view(state: &stack_planner::State, name: &str, network: &Network) -> NetworkView {
    let texts = |addresses: &[std::net::IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    let document = network_document(state, name);
    let NetworkDocument { hosts, endpoints, services, guests, .. } = document.unwrap_or_else(|| NetworkDocument {
        name: name.to_owned(),
        id: network.id,
        generation: network.generation,
        hosts: Default::default(),
        endpoints: Default::default(),
        services: Default::default(),
        guests: Default::default(),
    });
    let node_name =
        |node: stack_model::NodeId| state.nodes.get(&node).map_or_else(|| node.to_string(), |node| node.name.clone());
    NetworkView {
        name: name.to_owned(),
        id: network.id,
        vni: network.vni,
        stack: network.stack.clone(),
        subnets: network.subnets.iter().map(ToString::to_string).collect(),
        internal: network.spec.internal,
        encrypted: network.spec.encrypted.unwrap_or(false),
        attachable: network.spec.attachable,
        mtu: network.spec.mtu,
        labels: network.spec.labels.clone(),
        free_addresses: network.free(),
        hosts: hosts
            .iter()
            .map(|(node, host)| NetworkHostView {
                node: node_name(*node),
                underlay: host.underlay.to_string(),
                addresses: texts(&host.addresses),
                convergence: None,
            })
            .collect(),
        services: services
            .iter()
            .map(|(key, service)| NetworkServiceView {
                service: key.to_string(),
                addresses: texts(&service.addresses),
                names: service.names.iter().cloned().collect(),
            })
            .collect(),
        guests: guests
            .iter()
            .map(|(container, guest)| NetworkGuestView {
                container: container.clone(),
                node: node_name(guest.node),
                addresses: texts(&guest.addresses),
                names: guest.names.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_behind_until_it_has_done_what_was_decided_last() {
        let answer = |done: Option<u64>, problem: Option<&str>| HostNetworksView {
            generations: done.map(|done| ("shop_default".to_owned(), done)).into_iter().collect(),
            problem: problem.map(str::to_owned),
        };
        let of = |done, problem| convergence("shop_default", 7, Ok(answer(done, problem)));
        assert_eq!(of(Some(7), None), Convergence::InForce);
        assert_eq!(of(Some(8), None), Convergence::InForce);
        assert_eq!(of(Some(6), None), Convergence::Behind { problem: None });
        assert_eq!(of(None, None), Convergence::Behind { problem: None });
        let problem = Some("no vxlan".to_owned());
        assert_eq!(of(Some(7), Some("no vxlan")), Convergence::Behind { problem });
        let unknown = Convergence::Unknown { reason: "it is down".to_owned() };
        assert_eq!(convergence("shop_default", 7, Err("it is down".to_owned())), unknown);
    }
}

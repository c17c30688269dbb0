//! The cluster itself: who may become a member, certificates, tokens, registries, the contract and the metrics.

use axum::Json;
use axum::extract::State;
use rand::Rng as _;
use stack_api::bodies::{CertificateRequest, CertificateResponse, JoinRequest, JoinResponse, SetRegistryRequest};
use stack_api::views::{ClusterView, RegistryView, TokensView, Written};
use stack_api::{ErrorCode, openapi as document};
use stack_model::NodeRole;
use stack_planner::{ClusterIdentity, Command, Secret};
use time::OffsetDateTime;

use super::extract::{Body, Named, RequestId};
use super::guard::{self, PeerAddress};
use super::stacks::written;
use super::{Context, Failure, views};
use crate::identity::authority;
use crate::identity::token::{JoinToken, same_token};
use crate::identity::{Authority, Peer, Subject};

fn identity(context: &Context) -> Result<ClusterIdentity, Failure> {
    let state = context.store.state();
    state.identity.clone().ok_or_else(|| {
        Failure::new(ErrorCode::Unavailable, "this controller has not yet received the cluster's state: try again")
    })
}

fn authority_of(identity: &ClusterIdentity) -> Result<Authority, Failure> {
    Ok(Authority::load(&identity.ca_certificate, &identity.ca_key.0, &identity.cluster_id)?)
}

fn life(context: &Context) -> time::Duration {
    time::Duration::try_from(context.store.tuning().certificate_life).unwrap_or(time::Duration::days(90))
}

pub(super) async fn join(
    State(context): State<Context>,
    peer: Peer,
    address: Option<axum::Extension<PeerAddress>>,
    RequestId(request): RequestId,
    Body(body): Body<JoinRequest>,
) -> Result<Json<JoinResponse>, Failure> {
    context.store.read_barrier().await?;
    let identity = identity(&context)?;
    // Both are compared, whichever fits.
    let worker = same_token(&body.token, &identity.worker_token.0);
    let controller = same_token(&body.token, &identity.controller_token.0);
    let role = match (controller, worker) {
        (true, _) => NodeRole::Controller,
        (false, true) => NodeRole::Worker,
        (false, false) => {
            let address = address.and_then(|address| address.0.0);
            guard::refused(&peer, address, "/v1/join", "the join token is wrong");
            return Err(Failure::new(ErrorCode::Forbidden, "the join token is wrong, or was replaced since")
                .with_hint("`stack cluster token` on a controller shows the present one"));
        }
    };
    if role == NodeRole::Controller && body.raft_id.is_none_or(|raft_id| raft_id == 0) {
        return Err(Failure::new(ErrorCode::BadRequest, "a controller must say who it will be to raft"));
    }
    let raft_id = body.raft_id.filter(|_| role == NodeRole::Controller);
    let state = context.store.state();
    let is_member = match state.nodes.get(&body.node) {
        None => false,
        Some(member) => {
            // The answer to its first request may have been lost. Nobody else has the key that its identifier is made of.
            let is_same = member.role == role
                && state.controllers.get(&body.node).map(|controller| controller.raft_id) == raft_id
                && authority::node_of(&body.certificate_request).is_ok_and(|node| node == body.node);
            if !is_same {
                return Err(Failure::new(ErrorCode::Conflict, format!("node {} is a member already", body.node)));
            }
            true
        }
    };
    let subject = Subject::Node { id: body.node, role };
    let now = OffsetDateTime::now_utc();
    let certificate = authority_of(&identity)?.issue(&body.certificate_request, &subject, now, life(&context))?;
    if is_member {
        tracing::info!(node = %body.node, "a node asks again for the answer to its join");
    } else {
        let command =
            Command::AddNode { id: body.node, role, address: body.address, description: body.description, raft_id };
        context.store.propose_as(&command, &request).await?;
        tracing::info!(node = %body.node, role = role.as_str(), address = %body.address, "a node joined");
    }
    Ok(Json(JoinResponse {
        certificate,
        ca_certificate: identity.ca_certificate,
        role,
        cluster_id: identity.cluster_id,
        controllers: views::controller_addresses(&context.store.state()),
    }))
}

pub(super) async fn renew(
    State(context): State<Context>,
    peer: Peer,
    Body(body): Body<CertificateRequest>,
) -> Result<Json<CertificateResponse>, Failure> {
    let Peer::Node { id, role } = peer else {
        return Err(Failure::new(ErrorCode::Forbidden, "only a node renews its certificate here"));
    };
    issue(&context, &body.certificate_request, &Subject::Node { id, role })
}

pub(super) async fn operator(
    State(context): State<Context>,
    peer: Peer,
    Body(body): Body<CertificateRequest>,
) -> Result<Json<CertificateResponse>, Failure> {
    let name = body.name.ok_or_else(|| Failure::new(ErrorCode::BadRequest, "the operator has no name"))?;
    tracing::info!(name, by = %peer, "an operator gets a certificate");
    issue(&context, &body.certificate_request, &Subject::Operator { name })
}

fn issue(context: &Context, request: &str, subject: &Subject) -> Result<Json<CertificateResponse>, Failure> {
    let identity = identity(context)?;
    let certificate = authority_of(&identity)?.issue(request, subject, OffsetDateTime::now_utc(), life(context))?;
    Ok(Json(CertificateResponse {
        certificate,
        ca_certificate: identity.ca_certificate,
        controllers: views::controller_addresses(&context.store.state()),
    }))
}

pub(super) async fn show(State(context): State<Context>) -> Result<Json<ClusterView>, Failure> {
    context.store.read_barrier().await?;
    let identity = identity(&context)?;
    let state = context.store.state();
    let leader = context.store.leader().map(|leader| leader.node);
    Ok(Json(ClusterView {
        cluster_id: identity.cluster_id,
        revision: state.revision,
        leader,
        controllers: views::controllers(&state, &context.store.membership(), leader),
    }))
}

fn tokens_now(context: &Context) -> Result<Json<TokensView>, Failure> {
    views::tokens(&context.store.state())
        .map(Json)
        .ok_or_else(|| Failure::new(ErrorCode::Unavailable, "the cluster is not initialized"))
}

pub(super) async fn tokens(State(context): State<Context>) -> Result<Json<TokensView>, Failure> {
    context.store.read_barrier().await?;
    tokens_now(&context)
}

pub(super) async fn rotate(
    State(context): State<Context>,
    Named(role): Named<String>,
    RequestId(request): RequestId,
) -> Result<Json<TokensView>, Failure> {
    let role = match role.as_str() {
        "worker" => NodeRole::Worker,
        "controller" => NodeRole::Controller,
        other => {
            let message = format!("`{other}` is no role: there are `worker` and `controller`");
            return Err(Failure::new(ErrorCode::BadRequest, message));
        }
    };
    let authority = authority_of(&identity(&context)?)?;
    let token = Secret(JoinToken::new(authority.certificate(), rand::rng().random()).reveal());
    context.store.propose_as(&Command::RotateToken { role, token }, &request).await?;
    tokens_now(&context)
}

pub(super) async fn registries(State(context): State<Context>) -> Result<Json<Vec<RegistryView>>, Failure> {
    context.store.read_barrier().await?;
    let state = context.store.state();
    let view = |(registry, credential): (&String, &stack_model::RegistryCredential)| RegistryView {
        registry: registry.clone(),
        username: credential.username.clone(),
    };
    Ok(Json(state.registry_credentials.iter().map(view).collect()))
}

pub(super) async fn set_registry(
    State(context): State<Context>,
    Named(registry): Named<String>,
    RequestId(request): RequestId,
    Body(body): Body<SetRegistryRequest>,
) -> Result<Json<Written>, Failure> {
    let command = Command::SetRegistryCredential { registry, credential: Some(body.credential) };
    Ok(written(context.store.propose_as(&command, &request).await?))
}

pub(super) async fn remove_registry(
    State(context): State<Context>,
    Named(registry): Named<String>,
    RequestId(request): RequestId,
) -> Result<Json<Written>, Failure> {
    if !context.store.state().registry_credentials.contains_key(&registry) {
        return Err(Failure::new(ErrorCode::NotFound, format!("there is no credential for `{registry}`")));
    }
    let command = Command::SetRegistryCredential { registry, credential: None };
    Ok(written(context.store.propose_as(&command, &request).await?))
}

pub(super) async fn openapi() -> Json<serde_json::Value> {
    Json(document::document())
}

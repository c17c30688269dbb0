//! Who may call what. Every refusal is logged with its reason and where it came from.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rand::Rng as _;
use stack_api::routes::Caller;
use stack_api::{ErrorCode, REQUEST_ID_HEADER};
use stack_model::NodeRole;
use tracing::Instrument as _;

use super::{Failure, RequestId, unread_body};
use crate::identity::Peer;
use crate::store::Store;

/// Where a connection came from; the local socket has none.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub Option<SocketAddr>);

/// Lets through whom a route is for.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Who may call.
    pub caller: Caller,
    /// Where it is looked up whether a node is still a member. `None` on a host without a controller, which knows only
    /// what certificates say.
    pub store: Option<Store>,
}

/// Protects all routes of a router.
pub fn protect(router: Router, caller: Caller, store: Option<Store>) -> Router {
    router.route_layer(axum::middleware::from_fn_with_state(Gate { caller, store }, admit))
}

/// The layer that asks the gate.
pub async fn admit(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or(Peer::Anonymous);
    let mut refusal = gate.refusal(&peer);
    // This controller may lag behind the one that let the node in.
    if let (Some(_), Peer::Node { .. }, Some(store)) = (&refusal, &peer, &gate.store)
        && store.read_barrier().await.is_ok()
    {
        refusal = gate.refusal(&peer);
    }
    match refusal {
        None => next.run(request).await,
        Some(refusal) => {
            let address = request.extensions().get::<PeerAddress>().and_then(|address| address.0);
            refused(&peer, address, request.uri().path(), &refusal.0.message);
            refusal.into_response()
        }
    }
}

/// Writes a refusal to the log.
pub(super) fn refused(peer: &Peer, address: Option<SocketAddr>, path: &str, reason: &str) {
    let address = address.map_or_else(|| "local socket".to_owned(), |address| address.to_string());
    tracing::warn!(%peer, address, path, reason, "refused");
}

impl Gate {
    fn refusal(&self, peer: &Peer) -> Option<Failure> {
        if let (Peer::Node { id, .. }, Some(store)) = (peer, &self.store) {
            let state = store.state();
            // A controller that has just joined knows nobody yet; until it does, certificates must do.
            // A controller that was removed from the state is heard by the others until Raft itself has let it go: it may
            // be the leader that must commit just that.
            let is_leaving = || {
                matches!(self.caller, Caller::Controller)
                    && store.membership().members.values().any(|member| member.node == *id)
            };
            if state.identity.is_some() && !state.nodes.contains_key(id) && !is_leaving() {
                let message = format!("node {id} is not a member of this cluster (any more)");
                return Some(Failure::new(ErrorCode::Forbidden, message));
            }
        }
        let allowed = match (self.caller, peer) {
            (Caller::Anyone, _)
            | (Caller::Operator, Peer::Operator { .. } | Peer::LocalSocket)
            | (Caller::Local, Peer::LocalSocket)
            | (Caller::Node, Peer::Node { .. })
            | (Caller::Controller, Peer::Node { role: NodeRole::Controller, .. }) => true,
            (Caller::Operator | Caller::Local | Caller::Node | Caller::Controller, _) => false,
        };
        if allowed {
            return None;
        }
        let who = match self.caller {
            Caller::Anyone => "anybody",
            Caller::Operator => "operators",
            Caller::Local => "the local socket",
            Caller::Node => "nodes, for themselves",
            Caller::Controller => "controllers",
        };
        Some(match peer {
            Peer::Anonymous => {
                Failure::new(ErrorCode::Unauthenticated, format!("this is for {who}: a certificate is needed"))
                    .with_hint("`stack context` makes one for an operator")
            }
            _ => Failure::new(ErrorCode::Forbidden, format!("this is for {who}, not for {peer}")),
        })
    }
}

/// The outermost layer: gives every request its id, follows it in the log, and writes the id into answers.
pub async fn follow(request: Request, next: Next) -> Response {
    let (mut request, rest) = unread_body::share(request);
    let id = RequestId::from_headers(request.headers())
        .unwrap_or_else(|| RequestId(format!("{:016x}", rand::rng().random::<u64>())));
    request.extensions_mut().insert(id.clone());
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or(Peer::Anonymous);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let span = tracing::info_span!("request", id = %id.0, %peer, %method, path);
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    span.in_scope(|| {
        if method != Method::GET && path.starts_with("/v1/") && !path.starts_with("/v1/node/") {
            tracing::info!(status, "answered");
        } else {
            tracing::debug!(status, "answered");
        }
    });
    // The router's own answers to what it does not know have no body.
    if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED)
        && !response.headers().contains_key(header::CONTENT_TYPE)
    {
        response = Failure::new(ErrorCode::NotFound, format!("there is no {method} {path}")).into_response();
    }
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        let mut body = failure.0;
        body.request_id = Some(id.0.clone());
        response = (response.status(), axum::Json(body)).into_response();
    }
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    if response.status().is_client_error() {
        rest.discard();
    }
    response
}

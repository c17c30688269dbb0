//! Nodes, and what is asked of one of them through any controller.

use axum::Json;
use axum::body::Body as RawBody;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use stack_api::bodies::{PullRequest, RemoveNodeQuery, UpdateNodeRequest};
use stack_api::views::{NodeView, Written};
use stack_api::{ErrorCode, routes};
use stack_model::{Node, NodeId, TaskId};
use stack_planner::{Command, assignment::registry_of};

use super::extract::{Body, Named, Query, RequestId};
use super::stacks::{find_node, written};
use super::{Context, Failure, views};
use crate::mesh::with_request_id;
use crate::store::membership::survives_removal;

fn leader(context: &Context) -> Option<NodeId> {
    context.store.leader().map(|leader| leader.node)
}

pub(super) async fn list(State(context): State<Context>) -> Result<Json<Vec<NodeView>>, Failure> {
    context.store.read_barrier().await?;
    let (state, leader) = (context.store.state(), leader(&context));
    Ok(Json(state.nodes.values().map(|node| views::node(&state, node, leader)).collect()))
}

pub(super) async fn inspect(
    State(context): State<Context>,
    Named(text): Named<String>,
) -> Result<Json<NodeView>, Failure> {
    context.store.read_barrier().await?;
    let state = context.store.state();
    Ok(Json(views::node(&state, find_node(&state, &text)?, leader(&context))))
}

pub(super) async fn update(
    State(context): State<Context>,
    Named(text): Named<String>,
    RequestId(request): RequestId,
    Body(body): Body<UpdateNodeRequest>,
) -> Result<Json<NodeView>, Failure> {
    context.store.read_barrier().await?;
    let id = find_node(&context.store.state(), &text)?.id;
    let command = Command::UpdateNode { id, availability: body.availability, labels: body.labels };
    context.store.propose_as(&command, &request).await?;
    let state = context.store.state();
    let node = find_node(&state, &id.to_string())?;
    Ok(Json(views::node(&state, node, leader(&context))))
}

pub(super) async fn remove(
    State(context): State<Context>,
    Named(text): Named<String>,
    RequestId(request): RequestId,
    Query(query): Query<RemoveNodeQuery>,
) -> Result<Json<Written>, Failure> {
    context.store.read_barrier().await?;
    let state = context.store.state();
    let node = find_node(&state, &text)?;
    if let Some(controller) = state.controllers.get(&node.id) {
        let (_, ready) = context.store.wanted_members();
        if !survives_removal(&context.store.membership(), controller.raft_id, &ready) {
            let message = format!(
                "without `{}` fewer than a majority of the controllers would be up, and the cluster could decide nothing any more",
                node.name
            );
            return Err(Failure::new(ErrorCode::Conflict, message)
                .with_hint("bring the other controllers up, or let another one join, first"));
        }
    }
    let command = Command::RemoveNode { id: node.id, force: query.force };
    Ok(written(context.store.propose_as(&command, &request).await?))
}

struct Passed<'call> {
    method: Method,
    path: &'call str,
    query: Option<String>,
    headers: &'call HeaderMap,
    body: reqwest::Body,
}

/// Passes a request on to the host that it is about, and the answer back, both as streams.
async fn pass_on(context: &Context, node: &Node, request_id: &str, passed: Passed<'_>) -> Result<Response, Failure> {
    let mut headers = with_request_id(request_id);
    if let Some(kind) = passed.headers.get(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, kind.clone());
    }
    let path = match passed.query {
        Some(query) => format!("{}?{query}", passed.path),
        None => passed.path.to_owned(),
    };
    let target = (node.id, node.address);
    let answer = context.store.mesh().send(target, passed.method, &path, headers, passed.body, None).await?;
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
    let mut response = (status, RawBody::from_stream(answer.bytes_stream())).into_response();
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    Ok(response)
}

fn streamed(body: RawBody) -> reqwest::Body {
    reqwest::Body::wrap_stream(body.into_data_stream())
}

pub(super) async fn images(
    State(context): State<Context>,
    Named(text): Named<String>,
    RequestId(request): RequestId,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let state = context.store.state();
    let passed =
        Passed { method: Method::GET, path: routes::HOST_IMAGES.path, query, headers: &headers, body: "".into() };
    pass_on(&context, find_node(&state, &text)?, &request, passed).await
}

pub(super) async fn image_remove(
    State(context): State<Context>,
    Named(text): Named<String>,
    RequestId(request): RequestId,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let state = context.store.state();
    let passed = Passed {
        method: Method::DELETE,
        path: routes::HOST_IMAGE_REMOVE.path,
        query,
        headers: &headers,
        body: "".into(),
    };
    pass_on(&context, find_node(&state, &text)?, &request, passed).await
}

pub(super) async fn image_load(
    State(context): State<Context>,
    Named(text): Named<String>,
    RequestId(request): RequestId,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, Failure> {
    let state = context.store.state();
    let path = routes::HOST_IMAGE_LOAD.path;
    let passed = Passed { method: Method::POST, path, query, headers: &headers, body: streamed(body) };
    pass_on(&context, find_node(&state, &text)?, &request, passed).await
}

pub(super) async fn image_import(
    State(context): State<Context>,
    Named(text): Named<String>,
    RequestId(request): RequestId,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, Failure> {
    let state = context.store.state();
    let path = routes::HOST_IMAGE_IMPORT.path;
    let passed = Passed { method: Method::POST, path, query, headers: &headers, body: streamed(body) };
    pass_on(&context, find_node(&state, &text)?, &request, passed).await
}

pub(super) async fn image_pull(
    State(context): State<Context>,
    Named(text): Named<String>,
    RequestId(request): RequestId,
    headers: HeaderMap,
    Body(mut body): Body<PullRequest>,
) -> Result<Response, Failure> {
    let state = context.store.state();
    if body.credential.is_none() {
        body.credential = state.registry_credentials.get(registry_of(&body.reference)).cloned();
    }
    let bytes = serde_json::to_vec(&body).map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
    let path = routes::HOST_IMAGE_PULL.path;
    let passed = Passed { method: Method::POST, path, query: None, headers: &headers, body: bytes.into() };
    pass_on(&context, find_node(&state, &text)?, &request, passed).await
}

pub(super) async fn task_logs(
    State(context): State<Context>,
    Named(id): Named<TaskId>,
    RequestId(request): RequestId,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    context.store.read_barrier().await?;
    let state = context.store.state();
    let task =
        state.tasks.get(&id).ok_or_else(|| Failure::new(ErrorCode::NotFound, format!("there is no task {id}")))?;
    let node = find_node(&state, &task.node.to_string())?;
    let path = routes::fill(routes::HOST_TASK_LOGS.path, &[&id.to_string()]);
    let passed = Passed { method: Method::GET, path: &path, query, headers: &headers, body: "".into() };
    pass_on(&context, node, &request, passed).await
}

//! The other side of [`network`](super::network): the routes that other controllers call. Who may call them is checked
//! before they are reached.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use futures::StreamExt as _;
use openraft::raft::{TransferLeaderRequest, VoteRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stack_api::{ErrorBody, ErrorCode};
use tokio::io::AsyncWriteExt as _;

use super::types::{Snapshot, Types, Vote};
use super::{Raft, network, snapshot, wire};

/// Append requests are cut by their sender at less than half of this, unless one entry alone is larger.
const MAX_APPEND: usize = 96 * 1024 * 1024;

#[derive(Clone)]
struct Served {
    raft: Raft,
    snapshots: Arc<PathBuf>,
}

/// The routes, for this controller's Raft; received snapshots are written to this directory.
pub fn router(raft: Raft, snapshots: PathBuf) -> Router {
    Router::new()
        .route(network::APPEND, post(append))
        .route(network::VOTE, post(vote))
        .route(network::PRE_VOTE, post(pre_vote))
        .route(network::SNAPSHOT, post(install))
        .route(network::TRANSFER, post(transfer))
        .layer(DefaultBodyLimit::max(MAX_APPEND))
        .with_state(Served { raft, snapshots: Arc::new(snapshots) })
}

fn refuse(code: ErrorCode, reason: impl std::fmt::Display) -> Response {
    let status = axum::http::StatusCode::from_u16(code.status()).unwrap_or(axum::http::StatusCode::BAD_REQUEST);
    (status, axum::Json(ErrorBody::new(code, reason.to_string()))).into_response()
}

fn answer<A: Serialize, E: std::fmt::Display>(result: Result<A, E>) -> Response {
    match result {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(error) => refuse(ErrorCode::Unavailable, error),
    }
}

// A response is what a handler would answer anyway; boxing it would only move it.
#[allow(clippy::result_large_err)]
fn read<Q: DeserializeOwned>(body: &[u8]) -> Result<Q, Response> {
    serde_json::from_slice(body).map_err(|error| refuse(ErrorCode::BadRequest, error))
}

async fn append(State(served): State<Served>, body: Bytes) -> Response {
    match wire::decode(body) {
        Ok(request) => answer(served.raft.append_entries(request).await),
        Err(error) => refuse(ErrorCode::BadRequest, error),
    }
}

async fn vote(State(served): State<Served>, body: Bytes) -> Response {
    match read::<VoteRequest<Types>>(&body) {
        Ok(request) => answer(served.raft.vote(request).await),
        Err(refusal) => refusal,
    }
}

async fn pre_vote(State(served): State<Served>, body: Bytes) -> Response {
    match read::<VoteRequest<Types>>(&body) {
        Ok(request) => answer(served.raft.pre_vote(request).await),
        Err(refusal) => refusal,
    }
}

async fn transfer(State(served): State<Served>, body: Bytes) -> Response {
    match read::<TransferLeaderRequest<Types>>(&body) {
        Ok(request) => answer(served.raft.handle_transfer_leader(request).await),
        Err(refusal) => refusal,
    }
}

async fn install(State(served): State<Served>, headers: HeaderMap, body: Body) -> Response {
    let vote =
        headers.get(network::VOTE_HEADER).and_then(|value| serde_json::from_slice::<Vote>(value.as_bytes()).ok());
    let Some(vote) = vote else {
        return refuse(ErrorCode::BadRequest, format!("the header {} is missing or unreadable", network::VOTE_HEADER));
    };
    let (file, path) = match snapshot::temporary(&served.snapshots) {
        Ok(temporary) => temporary,
        Err(error) => return refuse(ErrorCode::Unavailable, error),
    };
    let result = receive(&served, vote, file, path.clone(), body).await;
    // Taken up under another name, or of no use.
    if let Err(error) = tokio::fs::remove_file(&path).await
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a received snapshot");
    }
    match result {
        Ok(response) => response,
        Err(error) => refuse(ErrorCode::Unavailable, error),
    }
}

async fn receive(served: &Served, vote: Vote, file: std::fs::File, path: PathBuf, body: Body) -> io::Result<Response> {
    let mut file = tokio::fs::File::from_std(file);
    let mut stream = body.into_data_stream();
    while let Some(part) = stream.next().await {
        file.write_all(&part.map_err(io::Error::other)?).await?;
    }
    file.flush().await?;
    drop(file);
    let (meta, snapshot) =
        tokio::task::spawn_blocking(move || snapshot::received(&path)).await.map_err(io::Error::other)??;
    Ok(answer(served.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await))
}

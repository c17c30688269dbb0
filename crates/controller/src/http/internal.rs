//! What followers ask of the leader.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;

use super::{Context, Failure};
use crate::store::{Forwarded, ReadIndex};

pub(super) async fn propose(State(context): State<Context>, payload: Bytes) -> Result<Json<Forwarded>, Failure> {
    if !context.store.is_leader() {
        return Ok(Json(Forwarded::NotLeader));
    }
    Ok(Json(context.store.propose_here(payload).await?))
}

pub(super) async fn read_index(State(context): State<Context>) -> Result<Json<ReadIndex>, Failure> {
    if !context.store.is_leader() {
        return Ok(Json(ReadIndex::NotLeader));
    }
    Ok(Json(context.store.read_index().await?))
}

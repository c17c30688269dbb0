//! Raft's calls to the other controllers, over the mesh.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::io::ReaderStream;

use super::snapshot::SnapshotFile;
use super::types::{Member, RaftId, Snapshot, Types, Vote};
use crate::mesh::{Mesh, MeshError};

/// Where append requests go.
pub const APPEND: &str = "/raft/append";
/// Where vote requests go.
pub const VOTE: &str = "/raft/vote";
/// Where it is asked whether a vote would be given.
pub const PRE_VOTE: &str = "/raft/prevote";
/// Where snapshots go.
pub const SNAPSHOT: &str = "/raft/snapshot";
/// Where a leader says that another one shall take over.
pub const TRANSFER: &str = "/raft/transfer";
/// The header that carries the sender's vote beside a snapshot.
pub const VOTE_HEADER: &str = "x-stack-vote";

/// A member has this long to make entries durable.
const ENTRIES_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes connections to members.
#[derive(Debug, Clone)]
pub struct Network {
    mesh: Mesh,
    own: RaftId,
    snapshot_timeout: Duration,
}

impl Network {
    /// For this controller.
    #[must_use]
    pub const fn new(mesh: Mesh, own: RaftId, snapshot_timeout: Duration) -> Self {
        Self { mesh, own, snapshot_timeout }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: RaftId, member: &Member) -> Connection {
        Connection { network: self.clone(), target, member: member.clone() }
    }
}

/// The way to one member.
#[derive(Debug)]
pub struct Connection {
    network: Network,
    target: RaftId,
    member: Member,
}

impl Connection {
    async fn post(
        &self,
        action: RPCTypes,
        path: &str,
        headers: http::HeaderMap,
        body: reqwest::Body,
        timeout: Duration,
    ) -> Result<Bytes, RPCError<Types>> {
        let target = (self.member.node, self.member.address);
        self.network.mesh.post(target, path, headers, body, timeout).await.map_err(|error| match error {
            MeshError::Timeout { .. } => {
                RPCError::Timeout(Timeout { action, id: self.network.own, target: self.target, timeout })
            }
            MeshError::Connect { .. } => RPCError::Unreachable(Unreachable::new(&error)),
            MeshError::Refused { ref source, .. } => {
                tracing::warn!(node = %self.member.node, reason = %source, path, "a controller refuses a raft call");
                RPCError::Unreachable(Unreachable::new(&error))
            }
            MeshError::Broken { .. } | MeshError::Answer { .. } => RPCError::Network(NetworkError::new(&error)),
        })
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        action: RPCTypes,
        path: &str,
        request: &Q,
        option: &RPCOption,
    ) -> Result<A, RPCError<Types>> {
        let body = serde_json::to_vec(request).map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        let bytes = self.post(action, path, http::HeaderMap::new(), body.into(), option.soft_ttl()).await?;
        serde_json::from_slice(&bytes).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: &SnapshotFile,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let unreadable = |error: std::io::Error| StreamingError::Network(NetworkError::new(&error));
        let file = tokio::fs::File::from_std(snapshot.reader().map_err(unreadable)?);
        let vote = serde_json::to_string(&vote).map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        let mut headers = http::HeaderMap::new();
        let value =
            http::HeaderValue::from_str(&vote).map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        headers.insert(VOTE_HEADER, value);
        let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, 256 * 1024));
        let timeout = self.network.snapshot_timeout;
        let bytes = self.post(RPCTypes::InstallSnapshot, SNAPSHOT, headers, body, timeout).await?;
        serde_json::from_slice(&bytes).map_err(|error| StreamingError::Network(NetworkError::new(&error)))
    }
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let (body, cut) =
            super::wire::encode(&request).map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        // A heartbeat is worth nothing when it is late. Entries are: the receiver's disk may be slow for a moment, and sent
        // again they would only make it slower.
        let timeout = if request.entries.is_empty() { option.soft_ttl() } else { ENTRIES_TIMEOUT };
        let bytes = self.post(RPCTypes::AppendEntries, APPEND, http::HeaderMap::new(), body.into(), timeout).await?;
        let answer = serde_json::from_slice(&bytes).map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        Ok(match (answer, cut) {
            (AppendEntriesResponse::Success, Some(last)) => AppendEntriesResponse::PartialSuccess(Some(last)),
            (answer, _) => answer,
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(RPCTypes::Vote, VOTE, &request, &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(RPCTypes::Vote, PRE_VOTE, &request, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = self.send_snapshot(vote, &snapshot.snapshot) => answer,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.call(RPCTypes::TransferLeader, TRANSFER, &request, &option).await
    }
}

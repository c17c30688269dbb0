//! What callers send.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use stack_model::spec::NetworkSpec;
use stack_model::{
    Availability, Content, FileContents, NodeDescription, NodeId, NodeRole, RegistryCredential, ServiceKey, StackSpec,
};
use utoipa::{IntoParams, ToSchema};

/// `POST /v1/cluster/init` (local socket only).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InitRequest {
    /// Where other hosts reach this one; the configured address unless said otherwise.
    #[schema(value_type = Option<String>)]
    pub advertise: Option<SocketAddr>,
    /// Networks are encrypted between hosts that do not say otherwise.
    #[serde(default)]
    pub encrypt_networks: bool,
}

/// `POST /v1/cluster/join` (local socket only).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinClusterRequest {
    /// As `stack cluster token` prints it. It says the role.
    pub token: String,
    /// Controllers of the cluster; one is enough.
    #[schema(value_type = Vec<String>)]
    pub controllers: Vec<SocketAddr>,
    /// Where other hosts reach this one; the configured address unless said otherwise.
    #[schema(value_type = Option<String>)]
    pub advertise: Option<SocketAddr>,
}

/// `POST /v1/join`: the one route for a peer without a certificate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The secret that lets it in.
    pub token: String,
    /// Drawn by the host.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// A certificate signing request, PEM. Only its public key is used.
    pub certificate_request: String,
    /// Where its `stackd` listens.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// What it says of itself.
    #[schema(value_type = Object)]
    pub description: NodeDescription,
    /// For a controller: who it will be to Raft.
    pub raft_id: Option<u64>,
}

/// The answer to a join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinResponse {
    /// The node's certificate, PEM.
    pub certificate: String,
    /// The authority's, PEM.
    pub ca_certificate: String,
    /// What the token made it.
    #[schema(value_type = String)]
    pub role: NodeRole,
    /// Which cluster.
    pub cluster_id: String,
    /// Where the controllers listen.
    #[schema(value_type = Vec<String>)]
    pub controllers: Vec<SocketAddr>,
}

/// `POST /v1/certificate` (a node renews its own) and `POST /v1/operators` (a person gets one).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateRequest {
    /// For an operator: the name that the logs show. Ignored for a node, whose identity is in its certificate.
    #[serde(default)]
    pub name: Option<String>,
    /// A certificate signing request, PEM. Only its public key is used.
    pub certificate_request: String,
}

/// The answer to a certificate request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateResponse {
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub ca_certificate: String,
    /// Where the controllers listen.
    #[schema(value_type = Vec<String>)]
    pub controllers: Vec<SocketAddr>,
}

/// `PUT /v1/stacks/{stack}` and `POST /v1/stacks/{stack}/plan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// What is wanted. Images without a digest are resolved by the controller.
    #[schema(value_type = Object)]
    pub spec: StackSpec,
    /// `Some(0)`: must be new; `Some(n)`: must be at revision n; `None`: whatever is there.
    #[serde(default)]
    pub expected_revision: Option<u64>,
    /// What the secrets and configs of the stack hold, by their keys, as base64. One that is left out keeps what the spec
    /// names under `content`, if the cluster has it.
    #[serde(default, skip_serializing_if = "FileContents::is_empty")]
    #[schema(value_type = Object)]
    pub contents: FileContents,
}

/// `POST /v1/secrets/{name}` and `POST /v1/configs/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateFileRequest {
    /// What it holds, as base64; at most 500 KiB.
    #[schema(value_type = String)]
    pub content: Content,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// `POST /v1/scale`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleRequest {
    /// By `stack/service`.
    #[schema(value_type = Object)]
    pub replicas: BTreeMap<ServiceKey, u32>,
}

/// `PATCH /v1/nodes/{node}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateNodeRequest {
    /// `None`: as it is.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub availability: Option<Availability>,
    /// A value: set; null: removed.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub labels: BTreeMap<String, Option<String>>,
}

/// `PUT /v1/registries/{registry}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRegistryRequest {
    /// What its pulls present.
    #[schema(value_type = Object)]
    pub credential: RegistryCredential,
}

/// `PUT /v1/networks/{network}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutNetworkRequest {
    /// As it is to be. Its `name` and `external` mean nothing here.
    #[schema(value_type = Object)]
    pub spec: NetworkSpec,
}

/// `GET /v1/tasks`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TaskQuery {
    /// Only of this stack.
    #[serde(default)]
    pub stack: Option<String>,
    /// Only of this service; needs `stack`.
    #[serde(default)]
    pub service: Option<String>,
    /// Only on this node, by name or id.
    #[serde(default)]
    pub node: Option<String>,
}

/// `GET /v1/services` and others that a stack narrows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StackQuery {
    /// Only of this stack.
    #[serde(default)]
    pub stack: Option<String>,
}

/// `GET /v1/stacks/{stack}/status`: answered when the state is newer than `after`, or after `wait_milliseconds`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatusQuery {
    /// A revision; 0 answers at once.
    #[serde(default)]
    pub after: u64,
    /// At most 30,000.
    #[serde(default)]
    pub wait_milliseconds: u64,
}

/// `DELETE /v1/nodes/{node}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RemoveNodeQuery {
    /// Even though it is up.
    #[serde(default)]
    pub force: bool,
}

/// `GET /v1/tasks/{task}/logs`, answered by lines of JSON ([`LogLine`](crate::views::LogLine)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// Go on with what is still to come.
    #[serde(default)]
    pub follow: bool,
    /// Only so many of the last lines.
    #[serde(default)]
    pub tail: Option<u64>,
    /// Milliseconds since the Unix epoch.
    #[serde(default)]
    pub since: Option<u64>,
    /// Milliseconds since the Unix epoch.
    #[serde(default)]
    pub until: Option<u64>,
}

/// `POST /v1/nodes/{node}/images/pull`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullRequest {
    /// As `docker pull` takes it.
    pub reference: String,
    /// Filled in by the controller from the cluster's credentials.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub credential: Option<RegistryCredential>,
}

/// `POST /v1/nodes/{node}/images/import?…` with the tar as the body.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImportQuery {
    /// The name that it gets.
    pub reference: String,
    /// The command that its containers run, as a JSON array of strings.
    #[serde(default)]
    pub command: Option<String>,
    /// The entrypoint that its containers have, as a JSON array of strings.
    #[serde(default)]
    pub entrypoint: Option<String>,
}

/// `DELETE /v1/nodes/{node}/images?reference=…` and look-ups of one image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImageQuery {
    /// A name, a digest, or the start of an id.
    pub reference: String,
}

//! What `stack doctor` asks hosts and is answered.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use stack_model::NodeId;
use utoipa::ToSchema;

/// What a controller asks of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExamineRequest {
    /// Tells the packets of this examination from any other's.
    pub nonce: u64,
    /// Everybody that is examined at the same time, the host itself included.
    pub hosts: Vec<ExaminedHost>,
}

/// One host that is examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExaminedHost {
    /// Who.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Where its `stackd` listens.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// Every host must reach it.
    pub is_controller: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// It works, and may not for long, or not everything does.
    Warning,
    /// It does not work.
    Failure,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// What was looked at: `disk`, `clock`, `kernel`, …
    pub subject: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found, for people.
    pub text: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// Something that is as it should be.
    pub fn fine(subject: &str, text: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), verdict: Verdict::Fine, text: text.into(), remedy: None }
    }

    /// Something that is not, with what to do about it.
    pub fn of(subject: &str, verdict: Verdict, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), verdict, text: text.into(), remedy: Some(remedy.into()) }
    }
}

/// What one host found of itself and of the ways to the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostExamination {
    /// Its clock when it answered, in milliseconds since the Unix epoch.
    pub clock_milliseconds: u64,
    /// Of itself.
    pub findings: Vec<Finding>,
    /// To whom it connected, of those that it must reach.
    pub reached: Vec<Reached>,
    /// Whose packets arrived at the port of the networks between hosts.
    pub heard: Vec<Heard>,
    /// The UDP port of the networks between hosts.
    pub data_port: u16,
    /// What the networks take of each packet there, in bytes.
    pub overhead: u32,
}

/// An attempt to connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reached {
    /// To whom.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// Packets that arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Heard {
    /// Who sent them.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// The largest that arrived, in bytes, with its IP header.
    pub largest: u32,
    /// The largest that its sender could send.
    pub largest_sent: u32,
}

/// What `POST /v1/doctor` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExaminationView {
    /// Every node of the cluster.
    pub nodes: Vec<ExaminedNode>,
    /// Every way from one host to another that was looked at.
    pub paths: Vec<ExaminedPath>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExaminedNode {
    /// Its name.
    pub name: String,
    /// Where its `stackd` listens.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// The way from one host to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExaminedPath {
    /// The name of the node that sent.
    pub from: String,
    /// The name of the node that should hear it.
    pub to: String,
    /// What was found.
    pub finding: Finding,
}

impl ExaminationView {
    /// The worst of everything.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let of_nodes = self.nodes.iter().flat_map(|node| &node.findings);
        let of_paths = self.paths.iter().map(|path| &path.finding);
        of_nodes.chain(of_paths).map(|finding| finding.verdict).max().unwrap_or(Verdict::Fine)
    }
}

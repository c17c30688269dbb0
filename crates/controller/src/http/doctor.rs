//! `stack doctor`: every host examines itself and the ways to the others, all at once, and what they found is put together.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use futures::future::join_all;
use rand::Rng as _;
use stack_api::examination::{
    ExaminationView, ExamineRequest, ExaminedHost, ExaminedNode, ExaminedPath, Finding, HostExamination, Verdict,
};
use stack_api::{ErrorCode, routes};
use stack_model::{Node, NodeId, Readiness, Timestamp};

use super::extract::RequestId;
use super::{Context, Failure};
use crate::mesh::with_request_id;
use crate::store::now;

/// An examination takes about three seconds.
const ASK: Duration = Duration::from_secs(20);
/// Clocks that differ by more make logs and `--since` hard to read, …
const CLOCKS_DIFFER: u64 = 1_000;
/// … and by this, certificates that are not valid yet: they are dated back by five minutes.
const CLOCKS_ARE_WRONG: u64 = 4 * 60 * 1_000;
/// A host's answer, with when it came by the clock of this controller.
type Answer = Result<(HostExamination, Timestamp), String>;

pub(super) async fn examine(
    State(context): State<Context>,
    RequestId(request): RequestId,
) -> Result<Json<ExaminationView>, Failure> {
    context.store.read_barrier().await?;
    let state = context.store.state();
    let is_controller = |node: &Node| state.controllers.contains_key(&node.id);
    let ready: Vec<&Node> = state.nodes.values().filter(|node| node.readiness == Readiness::Ready).collect();
    let hosts: Vec<ExaminedHost> = ready
        .iter()
        .map(|node| ExaminedHost { node: node.id, address: node.address, is_controller: is_controller(node) })
        .collect();
    let question = ExamineRequest { nonce: rand::rng().random(), hosts };
    let body = serde_json::to_vec(&question)
        .map_err(|error| Failure::new(ErrorCode::Internal, format!("the question cannot be written: {error}")))?;
    let answers = join_all(ready.iter().map(|node| {
        let (body, request) = (body.clone(), &request);
        let mesh = context.store.mesh();
        async move {
            let mut headers = with_request_id(request);
            headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            let target = (node.id, node.address);
            let path = routes::HOST_EXAMINE.path;
            let answer = match mesh.post(target, path, headers, body.into(), ASK).await {
                Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
                Err(error) => Err(stack_api::error::full_text(&error)),
            };
            (node.id, answer.map(|answer| (answer, now())))
        }
    }));
    let answers: BTreeMap<NodeId, Answer> = answers.await.into_iter().collect();
    let mut nodes: Vec<&Node> = state.nodes.values().collect();
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Json(put_together(&nodes, &is_controller, &answers)))
}

/// Pure. What the hosts' answers say of every node and of every way.
fn put_together(
    nodes: &[&Node],
    is_controller: &dyn Fn(&Node) -> bool,
    answers: &BTreeMap<NodeId, Answer>,
) -> ExaminationView {
    let mut view = ExaminationView { nodes: Vec::new(), paths: Vec::new() };
    for node in nodes {
        let findings = match answers.get(&node.id) {
            None => vec![Finding::of(
                "node",
                Verdict::Failure,
                "it is down: no controller hears it",
                format!(
                    "see whether the host is up, `systemctl status stackd` there, and that it reaches TCP port {} of the \
                     controllers",
                    stack_api::DEFAULT_PORT
                ),
            )],
            Some(Err(reason)) => vec![Finding::of(
                "node",
                Verdict::Failure,
                format!("it is heard, and a controller cannot ask it: {reason}"),
                format!("open TCP port {} of {} for the controllers", node.address.port(), node.name),
            )],
            Some(Ok((answer, at))) => {
                let mut findings = answer.findings.clone();
                findings.extend(clock(answer.clock_milliseconds, at.0));
                findings
            }
        };
        view.nodes.push(ExaminedNode { name: node.name.clone(), address: node.address, findings });
    }
    let examined = || {
        nodes.iter().filter_map(|node| match answers.get(&node.id) {
            Some(Ok((answer, _))) => Some((*node, answer)),
            Some(Err(_)) | None => None,
        })
    };
    for (from, by_sender) in examined() {
        for (to, by_receiver) in examined().filter(|(to, _)| to.id != from.id) {
            let mut found = Vec::new();
            if is_controller(to) || is_controller(from) {
                found.push(connection(to, by_sender));
            }
            found.push(packets(from, to, by_receiver));
            let path = |finding| ExaminedPath { from: from.name.clone(), to: to.name.clone(), finding };
            view.paths.extend(found.into_iter().map(path));
        }
    }
    view
}

/// A clock that is not that of the controller which asked.
fn clock(theirs: u64, ours: u64) -> Option<Finding> {
    let apart = theirs.abs_diff(ours);
    if apart <= CLOCKS_DIFFER {
        return None;
    }
    let direction = if theirs > ours { "ahead of" } else { "behind" };
    let verdict = if apart > CLOCKS_ARE_WRONG { Verdict::Failure } else { Verdict::Warning };
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let text = format!("its clock is {:.1} s {direction} the controller's", apart as f64 / 1000.0);
    Some(Finding::of("clock", verdict, text, "run a time service on every host: systemd-timesyncd, chrony"))
}

fn connection(to: &Node, by_sender: &HostExamination) -> Finding {
    let (name, port) = (&to.name, to.address.port());
    let subject = "control";
    match by_sender.reached.iter().find(|reached| reached.node == to.id) {
        Some(reached) => match &reached.failure {
            None => Finding::fine(subject, format!("TCP port {port} of {name} is reached")),
            Some(reason) => Finding::of(
                subject,
                Verdict::Failure,
                format!("TCP port {port} of {name} ({}) is not reached: {reason}", to.address.ip()),
                format!("open TCP port {port} on {name} for all hosts of the cluster"),
            ),
        },
        None => Finding::of(
            subject,
            Verdict::Warning,
            format!("TCP port {port} of {name} was not tried"),
            "run it again: a node joined or left meanwhile",
        ),
    }
}

fn packets(from: &Node, to: &Node, by_receiver: &HostExamination) -> Finding {
    let port = by_receiver.data_port;
    let subject = "networks";
    let Some(heard) = by_receiver.heard.iter().find(|heard| heard.node == from.id) else {
        return Finding::of(
            subject,
            Verdict::Failure,
            format!("nothing that {} sends arrives at UDP port {port} of {} ({})", from.name, to.name, to.address.ip()),
            format!("open UDP port {port} on {} for {} ({})", to.name, from.name, from.address.ip()),
        );
    };
    if heard.largest >= heard.largest_sent {
        return Finding::fine(subject, format!("packets of {} bytes arrive at UDP port {port}", heard.largest));
    }
    let text = format!(
        "packets of {} bytes arrive at UDP port {port}, larger ones up to {} do not",
        heard.largest, heard.largest_sent
    );
    let remedy = format!(
        "set the MTU of the interfaces of {} and {} to {}, or that of each network to at most {}",
        from.name,
        to.name,
        heard.largest,
        heard.largest.saturating_sub(by_receiver.overhead)
    );
    Finding::of(subject, Verdict::Failure, text, remedy)
}

#[cfg(test)]
mod tests {
    use stack_api::examination::{Heard, Reached};
    use stack_model::{Availability, NodeDescription, NodeRole};

    use super::*;

    fn node(number: u8, role: NodeRole) -> Node {
        let description: NodeDescription = serde_json::from_value(serde_json::json!({
            "hostname": format!("node{number}"), "operating_system": "linux", "architecture": "amd64",
            "kernel": "6.1", "version": "1", "cpu_millis": 1000, "memory_bytes": 1,
        }))
        .unwrap();
        let node = serde_json::json!({
            "id": NodeId::from_bits(u128::from(number)), "name": format!("node{number}"),
            "address": format!("10.0.0.{number}:4600"), "role": role, "availability": Availability::default(),
            "readiness": Readiness::Ready, "readiness_since": 0, "description": description, "joined_at": 0,
        });
        serde_json::from_value(node).unwrap()
    }

    fn answer(others: &[u8]) -> HostExamination {
        let id = |number: &u8| NodeId::from_bits(u128::from(*number));
        HostExamination {
            clock_milliseconds: 1_000_000,
            findings: vec![Finding::fine("disk", "10 %")],
            reached: others.iter().map(|number| Reached { node: id(number), failure: None }).collect(),
            heard: others.iter().map(|number| Heard { node: id(number), largest: 1500, largest_sent: 1500 }).collect(),
            data_port: 4792,
            overhead: 50,
        }
    }

    fn bad(view: &ExaminationView) -> Vec<String> {
        let nodes = view.nodes.iter().flat_map(|node| node.findings.iter().map(|finding| (node.name.clone(), finding)));
        let paths = view.paths.iter().map(|path| (format!("{} to {}", path.from, path.to), &path.finding));
        nodes
            .chain(paths)
            .filter(|(_, finding)| finding.verdict != Verdict::Fine)
            .map(|(place, finding)| {
                let remedy = finding.remedy.as_deref().unwrap_or("nothing");
                format!("{place}: {}: {} -> {remedy}", finding.subject, finding.text)
            })
            .collect()
    }

    #[test]
    fn a_healthy_cluster_is_fine_and_workers_need_not_reach_each_other() {
        let nodes = [node(1, NodeRole::Controller), node(2, NodeRole::Worker), node(3, NodeRole::Worker)];
        let all: Vec<&Node> = nodes.iter().collect();
        let at = Timestamp(1_000_400);
        let answers: BTreeMap<NodeId, Answer> = nodes
            .iter()
            .zip([&[2, 3][..], &[1, 3], &[1, 2]])
            .map(|(node, others)| (node.id, Ok((answer(others), at))))
            .collect();
        let view = put_together(&all, &|node| node.role == NodeRole::Controller, &answers);
        assert_eq!(view.verdict(), Verdict::Fine, "{:?}", bad(&view));
        let control = view.paths.iter().filter(|path| path.finding.subject == "control").count();
        assert_eq!((view.paths.len(), control), (6 + 4, 4));
    }

    #[test]
    fn every_trouble_names_its_place_and_its_remedy() {
        let nodes = [
            node(1, NodeRole::Controller),
            node(2, NodeRole::Worker),
            node(3, NodeRole::Worker),
            node(4, NodeRole::Worker),
        ];
        let all: Vec<&Node> = nodes.iter().collect();
        let at = Timestamp(1_000_000);
        let mut first = answer(&[2]);
        first.reached[0].failure = Some("connection refused".to_owned());
        let mut second = answer(&[1]);
        second.heard[0].largest = 1400;
        second.clock_milliseconds += 5_000;
        let answers: BTreeMap<NodeId, Answer> = BTreeMap::from([
            (nodes[0].id, Ok((HostExamination { heard: Vec::new(), ..first }, at))),
            (nodes[1].id, Ok((second, at))),
            (nodes[2].id, Err("no route to host".to_owned())),
        ]);
        let view = put_together(&all, &|node| node.role == NodeRole::Controller, &answers);
        insta::assert_debug_snapshot!(bad(&view));
    }
}

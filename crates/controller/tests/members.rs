//! Who gets in, who is turned away and why, and what an agent and the leader say to each other.

// What is not as expected fails the test, helpers included; times are printed for whoever looks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use stack_api::bodies::JoinRequest;
use stack_api::routes::{self, Caller, Route};
use stack_api::session::{
    AllNetworksQuery, AssignmentQuery, AssignmentResponse, GuestsRequest, GuestsResponse, HeartbeatRequest,
    HeartbeatResponse, RegisterRequest, RegisterResponse,
};
use stack_api::views::{DeployResponse, NetworkView, NodeView, StackStatus, TokensView, Written};
use stack_api::{Client, ClientError, Endpoint, ErrorCode, Identity};
use stack_controller::identity::authority::{Authority, Subject, new_key};
use stack_controller::identity::join::{Candidate, join};
use stack_controller::identity::{JoinError, renewal};
use stack_controller::{Credentials, JoinClusterError, JoinTarget, NodeIdentity, join_cluster};
use stack_model::{DesiredState, NodeId, NodeRole, Phase, Readiness, Report, TaskStatus, Timestamp};
use support::{CALL, Host, description, leader, operator, post, stack, three, tuning, until};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Everything that this process logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn get() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Self::default();
            let writer = log.clone();
            tracing_subscriber::fmt()
                .with_ansi(false)
                .with_max_level(tracing::Level::INFO)
                .with_writer(move || writer.clone())
                .init();
            log
        })
        .clone()
    }

    async fn says(&self, what: &[&str]) {
        until(&format!("the log says {what:?}"), async || {
            let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
            text.lines().any(|line| what.iter().all(|part| line.contains(part))).then_some(())
        })
        .await;
    }
}

struct Worker {
    identity: NodeIdentity,
    directory: TempDir,
}

impl Worker {
    async fn join(name: &str, host: &Host) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let target = target(name, &host.tokens().await.worker, host);
        let identity = join_cluster(directory.path(), &target).await.unwrap();
        assert_eq!(identity.role, NodeRole::Worker);
        Self { identity, directory }
    }

    fn client(&self, host: &Host) -> Client {
        Client::new(Endpoint::Controllers(vec![host.address]), Some(&self.identity.client_identity())).unwrap()
    }

    async fn beat(&self, host: &Host) -> Result<HeartbeatResponse, ClientError> {
        let request = HeartbeatRequest { node: self.identity.node };
        post(&self.client(host), routes::NODE_HEARTBEAT, &[], &request).await
    }
}

fn target(name: &str, token: &str, host: &Host) -> JoinTarget {
    JoinTarget {
        token: token.to_owned(),
        controllers: vec![host.address],
        address: "127.0.0.1:9".parse().unwrap(),
        description: description(name),
    }
}

async fn refusal(target: &JoinTarget) -> JoinError {
    let directory = tempfile::tempdir().unwrap();
    match join_cluster(directory.path(), target).await {
        Err(JoinClusterError::Join(error)) => {
            assert!(NodeIdentity::load(directory.path()).unwrap().is_none());
            error
        }
        other => panic!("{other:?}"),
    }
}

fn code(error: &ClientError) -> ErrorCode {
    error.refused().unwrap_or_else(|| panic!("{error:?}")).code
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_refused_and_logged() {
    let log = Log::get();
    let host = Host::first(tuning()).await;
    let other = Host::first(tuning()).await;
    let tokens = host.tokens().await;

    let mut wrong = tokens.worker.clone();
    let last = wrong.pop().unwrap();
    wrong.push(if last == 'a' { 'b' } else { 'a' });
    let error = refusal(&target("w", &wrong, &host)).await;
    let JoinError::Refused { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.code, ErrorCode::Forbidden);
    log.says(&["refused", "the join token is wrong", "127.0.0.1:"]).await;

    let error = refusal(&target("w", &other.tokens().await.worker, &host)).await;
    assert!(matches!(error, JoinError::WrongCluster { .. }), "{error:?}");
    let error = refusal(&target("w", "hunter2", &host)).await;
    assert!(matches!(error, JoinError::Token(_)), "{error:?}");

    let rotated: TokensView =
        host.local().call(routes::ROTATE_TOKEN, &["worker"], None::<&()>, None::<&()>, CALL).await.unwrap();
    assert_ne!(rotated.worker, tokens.worker);
    assert_eq!(rotated.controller, tokens.controller);
    let error = refusal(&target("w", &tokens.worker, &host)).await;
    assert!(matches!(error, JoinError::Refused { .. }), "{error:?}");
    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    for secret in [&tokens.worker, &tokens.controller, &rotated.worker] {
        assert!(!text.contains(secret.as_str()), "a token is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_expired_and_missing_certificates_are_refused_and_logged() {
    let log = Log::get();
    let host = Host::first(tuning()).await;
    let other = Host::first(tuning()).await;
    let endpoint = || Endpoint::Controllers(vec![host.address]);
    let list = async |identity: &Identity| {
        let client = Client::new(endpoint(), Some(identity)).unwrap();
        client.get::<Vec<NodeView>>(routes::NODES, &[], CALL).await
    };
    let ours = operator(&host, "alice").await;
    assert_eq!(list(&ours).await.unwrap().len(), 1);

    let foreign = operator(&other, "mallory").await;
    let foreign = Identity { ca_certificate: ours.ca_certificate.clone(), ..foreign };
    assert!(matches!(list(&foreign).await, Err(ClientError::Unreachable { .. })));
    log.says(&["refused", "handshake", "127.0.0.1:", "UnknownIssuer"]).await;

    let state = host.controller().store().state();
    let cluster = state.identity.clone().unwrap();
    let authority = Authority::load(&cluster.ca_certificate, &cluster.ca_key.0, &cluster.cluster_id).unwrap();
    let (key, request) = new_key().unwrap();
    let then = OffsetDateTime::now_utc() - time::Duration::hours(2);
    let subject = Subject::Operator { name: "alice".to_owned() };
    let certificate = authority.issue(&request, &subject, then, time::Duration::minutes(30)).unwrap();
    let expired = Identity { ca_certificate: ours.ca_certificate.clone(), certificate, key: key.to_string() };
    assert!(matches!(list(&expired).await, Err(ClientError::Unreachable { .. })));
    log.says(&["refused", "handshake", "127.0.0.1:", "xpired"]).await;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let nobody = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .resolve(routes::CONTROLLER_SERVER_NAME, host.address)
        .build()
        .unwrap();
    let url = |path: &str| format!("https://{}:{}{path}", routes::CONTROLLER_SERVER_NAME, host.address.port());
    for path in ["/v1/nodes", "/v1/cluster/tokens"] {
        let answer = nobody.get(url(path)).send().await.unwrap();
        assert_eq!(answer.status(), 401, "{path}");
    }
    for path in ["/raft/append", "/raft/vote", "/internal/propose", "/v1/operators"] {
        let answer = nobody.post(url(path)).body("{}").send().await.unwrap();
        assert_eq!(answer.status(), 401, "{path}");
    }
    let body: stack_api::ErrorBody = nobody.get(url("/v1/nothing")).send().await.unwrap().json().await.unwrap();
    assert_eq!(body.code, ErrorCode::NotFound);
    assert!(body.request_id.is_some());
    let answer = nobody.put(url("/v1/join")).send().await.unwrap();
    assert_eq!(answer.status(), 404, "a known path with another method");
    assert!(answer.json::<stack_api::ErrorBody>().await.unwrap().message.contains("PUT /v1/join"));
    let too_much = vec![b'x'; 5 << 20];
    let answer = nobody.post(url("/v1/join")).body(too_much).send().await.unwrap();
    assert_eq!(answer.status(), 413);
    log.says(&["refused", "a certificate is needed", "/v1/cluster/tokens"]).await;

    let document: serde_json::Value = nobody.get(url("/v1/openapi.json")).send().await.unwrap().json().await.unwrap();
    assert_eq!(document["openapi"].as_str().map(|version| &version[..2]), Some("3."));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_speaks_for_itself_alone() {
    let log = Log::get();
    let host = Host::first(tuning()).await;
    let (one, two) = (Worker::join("one", &host).await, Worker::join("two", &host).await);
    one.beat(&host).await.unwrap();
    let client = one.client(&host);
    let query = AssignmentQuery { node: two.identity.node, after: 0 };
    let refused = client
        .call::<_, (), AssignmentResponse>(routes::NODE_ASSIGNMENT, &[], Some(&query), None, CALL)
        .await
        .unwrap_err();
    assert_eq!(code(&refused), ErrorCode::Forbidden);
    log.says(&["refused", "may not speak for node", &two.identity.node.to_string(), &one.identity.node.to_string()])
        .await;
    let report = Report { node: two.identity.node, generation: 1, tasks: [].into() };
    let refused = post::<_, serde_json::Value>(&client, routes::NODE_REPORT, &[], &report).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::Forbidden);

    let guests = GuestsRequest { node: two.identity.node, life: 1, sequence: 1, guests: [].into() };
    let refused = post::<_, GuestsResponse>(&client, routes::NODE_GUESTS, &[], &guests).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::Forbidden);
    let query = AllNetworksQuery { node: two.identity.node };
    let asked = client.call::<_, (), Vec<NetworkView>>(routes::NODE_ALL_NETWORKS, &[], Some(&query), None, CALL).await;
    assert_eq!(code(&asked.unwrap_err()), ErrorCode::Forbidden);
    let own = GuestsRequest { node: one.identity.node, ..guests };
    let answer: GuestsResponse = post(&client, routes::NODE_GUESTS, &[], &own).await.unwrap();
    assert!(answer.guests.is_empty());

    let refused = client.get::<Vec<NodeView>>(routes::NODES, &[], CALL).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::Forbidden, "a worker is no operator");
    let internal =
        |path| Route { method: "POST", path, caller: Caller::Controller, summary: "", request: None, response: None };
    for path in ["/internal/propose", "/internal/read-index", "/raft/append", "/raft/vote", "/raft/snapshot"] {
        let refused = post::<_, serde_json::Value>(&client, internal(path), &[], &()).await.unwrap_err();
        assert_eq!(code(&refused), ErrorCode::Forbidden, "{path}");
    }

    let id = one.identity.node.to_string();
    let query = stack_api::bodies::RemoveNodeQuery { force: true };
    let _: Written = host.local().call(routes::REMOVE_NODE, &[&id], Some(&query), None::<&()>, CALL).await.unwrap();
    let refused = one.beat(&host).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::Forbidden, "who was removed is not heard any more");
    two.beat(&host).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed() {
    let host = Host::first(tuning()).await;
    let worker = Worker::join("one", &host).await;
    let credentials = Credentials::new(worker.identity.clone()).unwrap();
    renewal::renew(&credentials, worker.directory.path()).await.unwrap();
    let renewed = NodeIdentity::load(worker.directory.path()).unwrap().unwrap();
    assert_eq!(renewed, *credentials.identity());
    assert_ne!(renewed.certificate, worker.identity.certificate);
    assert_ne!(renewed.key, worker.identity.key);
    assert_eq!(renewed.node, worker.identity.node);
    let renewed = Worker { identity: renewed, directory: worker.directory };
    renewed.beat(&host).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sends_agents_to_the_leader() {
    let hosts = three(tuning()).await;
    let leads = leader(&hosts).await;
    let worker = Worker::join("one", &hosts[(leads + 1) % 3]).await;
    let refused = worker.beat(&hosts[(leads + 2) % 3]).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::NotLeader);
    assert_eq!(refused.refused().unwrap().leader, Some(hosts[leads].address.to_string()));
    let answer = worker.beat(&hosts[leads]).await.unwrap();
    assert_eq!(answer.controllers.len(), 3);
}

async fn register(worker: &Worker, host: &Host, name: &str) {
    let request = RegisterRequest {
        node: worker.identity.node,
        address: "127.0.0.1:9".parse().unwrap(),
        description: description(name),
    };
    let answer: RegisterResponse = post(&worker.client(host), routes::NODE_REGISTER, &[], &request).await.unwrap();
    assert_eq!(answer.heartbeat_milliseconds, 500);
}

async fn readiness(host: &Host, node: NodeId, wanted: Readiness) {
    until("the readiness", async || {
        let state = host.controller().store().state();
        (state.nodes.get(&node)?.readiness == wanted).then_some(())
    })
    .await;
}

async fn assigned(worker: &Worker, host: &Host, after: u64) -> stack_model::Assignment {
    until("an assignment", async || {
        let query = AssignmentQuery { node: worker.identity.node, after };
        let answer: AssignmentResponse = worker
            .client(host)
            .call(routes::NODE_ASSIGNMENT, &[], Some(&query), None::<&()>, Duration::from_secs(40))
            .await
            .ok()?;
        answer.assignment
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_go_to_nodes_that_are_heard_and_leave_those_that_fall_silent() {
    let host = Host::first(tuning()).await;
    let (one, two) = (Worker::join("one", &host).await, Worker::join("two", &host).await);
    let (alive, silent) = (Arc::new(one), Arc::new(two));
    register(&alive, &host, "one").await;
    register(&silent, &host, "two").await;
    let beat = |worker: &Arc<Worker>| {
        let (client, node) = (worker.client(&host), worker.identity.node);
        tokio::spawn(async move {
            loop {
                let request = HeartbeatRequest { node };
                let _: Result<HeartbeatResponse, _> = post(&client, routes::NODE_HEARTBEAT, &[], &request).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
    };
    let (alive_beat, silent_beat) = (beat(&alive), beat(&silent));
    readiness(&host, alive.identity.node, Readiness::Ready).await;
    readiness(&host, silent.identity.node, Readiness::Ready).await;

    let _: DeployResponse = post(&host.local(), routes::DEPLOY, &["shop"], &stack("shop", "web:1", 2)).await.unwrap();
    for worker in [&alive, &silent] {
        let mut after = 0;
        let (generation, tasks) = loop {
            let assignment = assigned(worker, &host, after).await;
            after = assignment.generation;
            if !assignment.tasks.is_empty() {
                break (assignment.generation, assignment.tasks);
            }
        };
        assert_eq!(tasks.len(), 1, "they are spread");
        let status = TaskStatus { phase: Phase::Running, ready: true, ..TaskStatus::assigned(Timestamp(1)) };
        let tasks = tasks.into_keys().map(|id| (id, status.clone())).collect();
        let report = Report { node: worker.identity.node, generation, tasks };
        let _: serde_json::Value = post(&worker.client(&host), routes::NODE_REPORT, &[], &report).await.unwrap();
    }
    let status: StackStatus = host.local().get(routes::STACK_STATUS, &["shop"], CALL).await.unwrap();
    assert!(status.stack.unwrap().converged);

    silent_beat.abort();
    readiness(&host, silent.identity.node, Readiness::Down).await;
    let moved = until("its task is elsewhere", async || {
        let assignment = assigned(&alive, &host, 0).await;
        (assignment.tasks.len() == 2).then_some(assignment)
    })
    .await;
    assert!(moved.tasks.values().all(|task| task.desired == DesiredState::Running));
    let text = host.controller().metrics().unwrap();
    assert!(text.contains("stack_controller_raft_leader 1"), "{text}");
    assert!(text.contains("stack_controller_nodes{readiness=\"ready\"} 1"), "{text}");
    alive_beat.abort();
}

/// Somebody without a certificate, who knows the cluster's authority.
fn stranger(host: &Host) -> rustls::ClientConfig {
    let cluster = host.controller().store().state().identity.clone().unwrap();
    let authority = Authority::load(&cluster.ca_certificate, &cluster.ca_key.0, &cluster.cluster_id).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_whose_answer_was_lost_makes_no_second_member() {
    let host = Host::first(tuning()).await;
    let tokens = host.tokens().await;
    for token in [&tokens.worker, &tokens.controller] {
        let before = host.controller().store().state().nodes.len();
        let directory = tempfile::tempdir().unwrap();
        let target = target("w", token, &host);
        let lost = join(&target, &Candidate::take(directory.path()).unwrap()).await.unwrap();
        let identity = join_cluster(directory.path(), &target).await.unwrap();
        assert_eq!((identity.node, identity.raft_id), (lost.node, lost.raft_id));
        assert_eq!(host.controller().store().state().nodes.len(), before + 1);
        assert!(!directory.path().join("joining.json").exists());

        // Nobody else becomes that member with the token alone.
        let (_key, certificate_request) = new_key().unwrap();
        let request = JoinRequest {
            token: token.clone(),
            node: identity.node,
            certificate_request,
            address: target.address,
            description: description("thief"),
            raft_id: identity.raft_id,
        };
        let nobody = reqwest::Client::builder()
            .tls_backend_preconfigured(stranger(&host))
            .no_proxy()
            .resolve(routes::CONTROLLER_SERVER_NAME, host.address)
            .build()
            .unwrap();
        let url = format!("https://{}:{}/v1/join", routes::CONTROLLER_SERVER_NAME, host.address.port());
        let answer = nobody.post(url).json(&request).send().await.unwrap();
        assert_eq!(answer.status(), 409);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_few_and_keep_no_member_out() {
    let host = Host::first(tuning()).await;
    let ours = operator(&host, "alice").await;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(stranger(&host)));
    let mut strangers = Vec::new();
    // Each is let in when it can read; one too many is shown the door.
    let refused = loop {
        assert!(strangers.len() <= 64, "there is no limit");
        let stream = tokio::net::TcpStream::connect(host.address).await.unwrap();
        let name = routes::CONTROLLER_SERVER_NAME.to_owned().try_into().unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        let asked = stream.write_all(b"GET /v1/nodes HTTP/1.1\r\nhost: stack\r\n\r\n").await;
        let mut answer = [0; 12];
        match (asked, stream.read_exact(&mut answer).await) {
            (Ok(()), Ok(_)) => assert_eq!(&answer, b"HTTP/1.1 401"),
            _ => break strangers.len(),
        }
        strangers.push(stream);
    };
    assert_eq!(refused, 64);
    let client = Client::new(Endpoint::Controllers(vec![host.address]), Some(&ours)).unwrap();
    assert_eq!(client.get::<Vec<NodeView>>(routes::NODES, &[], CALL).await.unwrap().len(), 1);
    drop(strangers);
    let token = host.tokens().await.worker;
    let (directory, target) = (tempfile::tempdir().unwrap(), target("w", &token, &host));
    until("there is room for a host that joins", async || join_cluster(directory.path(), &target).await.ok()).await;
}

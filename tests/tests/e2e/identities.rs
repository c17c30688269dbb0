//! Who is let in, and who is refused; every refusal is in the log.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use stack_api::session::{AssignmentQuery, AssignmentResponse};
use stack_api::{Client, ClientError, Endpoint, ErrorCode, Identity, routes};
use stack_controller::identity::{Authority, Subject, authority::new_key};
use stack_model::{NodeId, NodeRole};
use stack_testkit::namespaced::{NamespacedCluster, programs, text};

use crate::cluster;

/// A daemon in no cluster, ended with the value.
struct LoneDaemon {
    child: Child,
    directory: tempfile::TempDir,
}

impl LoneDaemon {
    /// On the network of a cluster's host, so that what it makes there goes with the host.
    fn start(cluster: &NamespacedCluster, host: &str) -> Self {
        let beside = cluster.host(host).pid.expect("the daemon runs");
        let network = std::fs::File::open(format!("/proc/{beside}/ns/net")).expect("a network");
        let directory = tempfile::Builder::new().prefix("stk").tempdir_in("/tmp").expect("a directory");
        let path = directory.path();
        let configuration = format!(
            "state_dir = \"{0}/state\"\nrun_dir = \"{0}/run\"\nlisten = \"127.0.0.1:4700\"\ncgroup_parent = \"/stack-dev/{1}/{2}/lone\"\n[network]\nprefix = \"lone\"\ntable = \"lone\"\n",
            path.display(),
            cluster.name(),
            host
        );
        std::fs::write(path.join("stackd.toml"), configuration).expect("written");
        let log = std::fs::File::create(path.join("log")).expect("a log");
        let mut command = Command::new(programs().join("stackd"));
        command.arg("--config").arg(path.join("stackd.toml")).stdin(Stdio::null()).stderr(log);
        // SAFETY: both calls only change the new process itself; nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                nix::sched::setns(&network, nix::sched::CloneFlags::CLONE_NEWNET).map_err(Into::into)
            });
        }
        Self { child: command.spawn().expect("stackd starts"), directory }
    }

    fn socket(&self) -> String {
        self.directory.path().join("run/stackd.sock").display().to_string()
    }
}

impl Drop for LoneDaemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn identity(cluster: &NamespacedCluster, host: &str) -> (NodeId, Identity) {
    let path = cluster.host_directory(host).join("state/identity.json");
    let kept: Value = serde_json::from_slice(&std::fs::read(path).expect("an identity")).expect("JSON");
    let part = |name: &str| kept[name].as_str().expect("text").to_owned();
    let identity =
        Identity { ca_certificate: part("ca_certificate"), certificate: part("certificate"), key: part("key") };
    (part("node").parse().expect("an id"), identity)
}

/// An identity of a node with a certificate that ended an hour ago, made with the authority's key, which is in the state of
/// every controller.
fn expired(cluster: &NamespacedCluster, host: &str) -> Identity {
    let (node, own) = identity(cluster, host);
    let info: Value = cluster.json(&["cluster", "info"]);
    let cluster_id = info["cluster_id"].as_str().expect("the cluster's id");
    let state = cluster.host_directory("node1").join("state");
    let mut folders = vec![state];
    let mut key = None;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a directory").filter_map(Result::ok) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if folder.file_name().is_some_and(|name| name.to_string_lossy().contains("log")) {
                let bytes = std::fs::read(&path).expect("a segment");
                let text = String::from_utf8_lossy(&bytes);
                let found = text.split_once("ca_key").and_then(|(_, rest)| {
                    let (_, rest) = rest.split_once("-----BEGIN PRIVATE KEY-----")?;
                    let (key, _) = rest.split_once("-----END PRIVATE KEY-----")?;
                    Some(key.replace("\\n", "\n"))
                });
                key = key.or(found);
            }
        }
    }
    let key = format!("-----BEGIN PRIVATE KEY-----{}-----END PRIVATE KEY-----\n", key.expect("the authority's key"));
    let authority = Authority::load(&own.ca_certificate, &key, cluster_id).expect("the authority");
    let (key, request) = new_key().expect("a key");
    let subject = Subject::Node { id: node, role: NodeRole::Worker };
    let then = time::OffsetDateTime::now_utc() - time::Duration::hours(2);
    let certificate = authority.issue(&request, &subject, then, time::Duration::hours(1)).expect("a certificate");
    Identity { ca_certificate: own.ca_certificate, certificate, key: key.to_string() }
}

fn logged(cluster: &NamespacedCluster, what: &str) {
    cluster.wait(&format!("line in a log with `refused` and `{what}`"), || {
        let logs = cluster.logs();
        if logs.lines().any(|line| line.contains("refused") && line.contains(what)) { Ok(()) } else { Err(()) }
    });
}

#[test]
fn strangers_and_overreaching_nodes_are_refused_and_logged() {
    let cluster = cluster(2, 1, &[]);
    let controller = format!("{}:4600", cluster.host("node1").address);

    // A wrong token, on a host that could reach the cluster.
    let lone = LoneDaemon::start(&cluster, "node2");
    let socket = lone.socket();
    cluster.wait("the lone daemon", || std::os::unix::net::UnixStream::connect(&socket).map(drop));
    let good = cluster.stack_ok(&["cluster", "token", "worker", "--quiet"]);
    let (start, end) = good.trim().rsplit_once('-').expect("a token");
    let other_end: String = end.chars().rev().collect();
    let wrong = format!("{start}-{other_end}");
    let output = cluster
        .command(&["--socket", &socket, "cluster", "join", &controller])
        .env("STACK_JOIN_TOKEN", &wrong)
        .output()
        .expect("stack runs");
    assert!(!output.status.success(), "{}", text(&output));
    let story = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(story.contains("token"), "{story}");
    assert!(!story.contains(end) && !story.contains(&other_end), "a token is not printed: {story}");
    logged(&cluster, "token");

    // A node that asks for the assignment of another one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (_, own) = identity(&cluster, "node2");
    let (other, _) = identity(&cluster, "node1");
    let address = controller.parse().expect("an address");
    let ask = |identity: &Identity| {
        let client = Client::new(Endpoint::Controllers(vec![address]), Some(identity)).expect("a client");
        let query = AssignmentQuery { node: other, after: 0 };
        runtime.block_on(client.call::<_, (), AssignmentResponse>(
            routes::NODE_ASSIGNMENT,
            &[],
            Some(&query),
            None,
            Duration::from_secs(30),
        ))
    };
    match ask(&own) {
        Err(ClientError::Refused(body)) => assert_eq!(body.code, ErrorCode::Forbidden, "{body:?}"),
        answer => panic!("not refused: {answer:?}"),
    }
    logged(&cluster, "assignment");

    // A node may not deploy.
    let client = Client::new(Endpoint::Controllers(vec![address]), Some(&own)).expect("a client");
    let answer = runtime.block_on(client.get::<Value>(routes::STACKS, &[], Duration::from_secs(30)));
    assert!(matches!(&answer, Err(ClientError::Refused(body)) if body.code == ErrorCode::Forbidden), "{answer:?}");

    // Nor read what is counted.
    let answer = runtime.block_on(client.stream(routes::METRICS, &[], None::<&()>)).err();
    assert!(matches!(&answer, Some(ClientError::Refused(body)) if body.code == ErrorCode::Forbidden), "{answer:?}");

    // Nor without any certificate.
    let url = format!("https://{controller}/metrics");
    let output = std::process::Command::new("curl")
        .args(["--insecure", "--silent", "--show-error", "--max-time", "60", "--write-out", " %{http_code}", &url])
        .output()
        .expect("curl runs");
    let answer = text(&output);
    assert!(answer.contains("certificate is needed") && answer.contains(" 401"), "{answer}");

    // A certificate of another cluster's authority: the connection ends in the handshake.
    let foreign = crate::cluster(1, 1, &[]);
    let (_, theirs) = identity(&foreign, "node1");
    let (_, ours) = identity(&cluster, "node2");
    let mixed = Identity { ca_certificate: ours.ca_certificate, ..theirs };
    let answer = ask(&mixed);
    assert!(matches!(&answer, Err(ClientError::Unreachable { .. })), "{answer:?}");
    logged(&cluster, "handshake");
    foreign.down();

    // A certificate of this cluster's authority that has ended.
    let answer = ask(&expired(&cluster, "node2"));
    assert!(matches!(&answer, Err(ClientError::Unreachable { .. })), "{answer:?}");
    logged(&cluster, "xpired");
    drop(lone);
    cluster.down();
}

#[test]
fn every_host_tells_operators_what_it_counts() {
    let cluster = cluster(2, 1, &[]);
    let exported = cluster.stack_ok(&["context", "export", "prometheus"]);
    let context: Value = serde_json::from_str(&exported).expect("JSON");
    let part = |name: &str| context["remote"][name].as_str().expect("text").to_owned();
    let operator =
        Identity { ca_certificate: part("ca_certificate"), certificate: part("certificate"), key: part("key") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (host, expected) in [
        ("node1", &["stack_controller_raft_leader 1", "stack_agent_assigned_tasks 0", "engine"][..]),
        ("node2", &["stack_agent_assigned_tasks 0", "engine"][..]),
    ] {
        let (node, _) = identity(&cluster, host);
        let address = format!("{}:4600", cluster.host(host).address).parse().expect("an address");
        let client = Client::new(Endpoint::Node(node, address), Some(&operator)).expect("a client");
        let text = runtime.block_on(async {
            let mut stream = client.stream(routes::METRICS, &[], None::<&()>).await.expect("an answer");
            let mut text = Vec::new();
            while let Some(part) = futures::StreamExt::next(&mut stream).await {
                text.extend_from_slice(&part.expect("the rest of it"));
            }
            String::from_utf8(text).expect("UTF-8")
        });
        for line in expected {
            assert!(text.contains(line), "{host}: {text}");
        }
        assert_eq!(text.matches("# EOF").count(), 1, "{text}");
        // The same on the host itself, for whoever may open its socket.
        let socket = Endpoint::Socket(cluster.host(host).stackd_socket);
        let local = Client::new(socket, None).expect("a client");
        let answer = runtime.block_on(local.stream(routes::METRICS, &[], None::<&()>));
        assert!(answer.is_ok(), "{host}: {:?}", answer.err());
    }
    cluster.down();
}

//! Secrets and configs: tasks keep what they were made with, only hosts that run them are told, and nothing is kept for
//! nobody.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]

use stack_model::{
    Content, ContentId, Contents, DesiredState, FileKind, FileReference, Phase, SharedFile, StackSpec, Task,
};
use stack_planner::{Command, Rejected, assignment};
use stack_testkit::cluster::Cluster;
use stack_testkit::specs::{service, stack};

fn id(text: &str) -> ContentId {
    let mut bytes = [0; 32];
    for (byte, of_text) in bytes.iter_mut().zip(text.bytes()) {
        *byte = of_text;
    }
    ContentId::of_bytes(bytes)
}

/// `web` uses the secret, `plain` does not.
fn with_secret(holds: &str) -> (StackSpec, Contents) {
    let mut spec = stack("app", [("web", service("web:1").replicas(1)), ("plain", service("plain:1").replicas(1))]);
    let web = spec.services.get_mut(&"web".parse().unwrap()).unwrap();
    web.container.secrets = vec![FileReference {
        source: "password".to_owned(),
        target: "/run/secrets/password".to_owned(),
        uid: 0,
        gid: 0,
        mode: 0o444,
    }];
    let file = SharedFile { content: Some(id(holds)), ..SharedFile::default() };
    spec.secrets.insert("password".to_owned(), file);
    (spec, Contents::from([(id(holds), Content(holds.as_bytes().to_vec()))]))
}

fn deploy(cluster: &mut Cluster, (spec, contents): (StackSpec, Contents)) {
    cluster.must(Command::PutStack { spec: Box::new(spec), expected_revision: None, contents });
}

fn told(cluster: &Cluster, task: &Task) -> Vec<ContentId> {
    assignment(&cluster.state, task.node).contents.into_keys().collect()
}

#[test]
fn only_a_host_that_runs_a_task_with_the_secret_is_told_it() {
    let mut cluster = Cluster::of_nodes(3);
    deploy(&mut cluster, with_secret("one"));
    cluster.settle_over_time();
    let web = cluster.active("app/web").remove(0);
    assert_eq!(web.spec.files[0].name, "app_password");
    for node in cluster.state.nodes.keys() {
        let expected = if *node == web.node { vec![id("one")] } else { vec![] };
        let contents: Vec<ContentId> = assignment(&cluster.state, *node).contents.into_keys().collect();
        assert_eq!(contents, expected, "{node}");
    }
    // What is shown of the stack does not have it.
    let shown = serde_json::to_string(&*cluster.state.stacks.values().next().unwrap().spec).unwrap();
    assert!(!shown.contains(&serde_json::to_string(&Content(b"one".to_vec())).unwrap()));
}

#[test]
fn another_content_replaces_the_tasks_that_use_it_and_the_old_one_is_dropped_with_the_last_of_them() {
    let mut cluster = Cluster::of_nodes(1);
    deploy(&mut cluster, with_secret("one"));
    cluster.settle_over_time();
    let (web, plain) = (cluster.active("app/web").remove(0), cluster.active("app/plain").remove(0));
    deploy(&mut cluster, with_secret("two"));
    // Until it is replaced the old task has what it was made with.
    assert!(told(&cluster, &web).contains(&id("one")));
    cluster.settle_over_time();
    let now = cluster.active("app/web").remove(0);
    assert_ne!(now.id, web.id);
    assert_eq!(cluster.active("app/plain").remove(0).id, plain.id, "it does not use it");
    assert_eq!(told(&cluster, &now), [id("two")]);
    // The last deploy that worked can come back: what it had is kept for that.
    assert!(cluster.state.contents.contains_key(&id("one")));
    deploy(&mut cluster, with_secret("three"));
    cluster.settle_over_time();
    deploy(&mut cluster, with_secret("three"));
    let old = cluster.state.tasks.get(&web.id).is_some();
    assert_eq!(cluster.state.contents.contains_key(&id("one")), old, "it is kept as long as its task is");

    cluster.must(Command::RemoveStack { stack: "app".parse().unwrap() });
    cluster.settle_over_time();
    assert!(cluster.state.stacks.is_empty());
    assert!(cluster.state.contents.is_empty(), "nothing names them any more");
}

#[test]
fn the_same_deploy_again_changes_nothing() {
    let mut cluster = Cluster::of_nodes(1);
    deploy(&mut cluster, with_secret("one"));
    cluster.settle_over_time();
    let (spec, contents) = with_secret("one");
    let applied =
        cluster.apply(Command::PutStack { spec: Box::new(spec.clone()), expected_revision: None, contents }).unwrap();
    assert!(!applied.changed);
    // The content need not be sent again where it is known.
    let again = Command::PutStack { spec: Box::new(spec), expected_revision: None, contents: Contents::new() };
    assert!(!cluster.apply(again).unwrap().changed);
}

#[test]
fn a_deploy_without_what_its_secret_holds_is_refused() {
    let mut cluster = Cluster::of_nodes(1);
    let (spec, _) = with_secret("one");
    let refused =
        cluster.apply(Command::PutStack { spec: Box::new(spec), expected_revision: None, contents: Contents::new() });
    let name = "app_password".to_owned();
    assert_eq!(refused.unwrap_err(), Rejected::NoContent { kind: FileKind::Secret, name });
    assert!(cluster.state.contents.is_empty());
}

#[test]
fn an_external_secret_is_made_by_hand_and_stays_while_a_stack_uses_it() {
    let mut cluster = Cluster::of_nodes(1);
    let (mut spec, _) = with_secret("unused");
    let file = SharedFile { external: true, name: Some("shared".to_owned()), ..SharedFile::default() };
    spec.secrets.insert("password".to_owned(), file);
    let put = |spec: &StackSpec| Command::PutStack {
        spec: Box::new(spec.clone()),
        expected_revision: None,
        contents: Contents::new(),
    };
    let name = "shared".to_owned();
    let kind = FileKind::Secret;
    assert_eq!(
        cluster.apply(put(&spec)).unwrap_err().to_string(),
        "there is no secret `shared`, and the stack says that it exists: make it with `stack secret create`"
    );
    let create = |holds: &str| Command::CreateFile {
        kind,
        name: name.clone(),
        labels: Default::default(),
        id: id(holds),
        content: Content(holds.as_bytes().to_vec()),
    };
    cluster.must(create("by hand"));
    assert!(matches!(cluster.apply(create("again")), Err(Rejected::FileExists { .. })));
    cluster.must(put(&spec));
    cluster.settle_over_time();
    let web = cluster.active("app/web").remove(0);
    assert_eq!(web.desired, DesiredState::Running);
    assert_eq!(web.status.phase, Phase::Running);
    assert_eq!(told(&cluster, &web), [id("by hand")]);
    let remove = || Command::RemoveFile { kind, name: name.clone() };
    assert!(matches!(cluster.apply(remove()), Err(Rejected::FileInUse { .. })));
    cluster.must(Command::RemoveStack { stack: "app".parse().unwrap() });
    cluster.settle_over_time();
    cluster.must(remove());
    assert!(cluster.state.contents.is_empty());
    assert!(matches!(cluster.apply(remove()), Err(Rejected::UnknownStoredFile { .. })));
}

//! Services wait for those that they need: at their first deploy and when they are updated, and not after that.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]

use stack_model::lifecycle::{Dependency, DependencyCondition};
use stack_model::spec::{FailureAction, UpdateOrder, UpdatePolicy};
use stack_model::{Milliseconds, Phase, StackSpec};
use stack_planner::UpdateState;
use stack_testkit::cluster::Cluster;
use stack_testkit::specs::{service, stack};

/// `web` needs `db`.
fn app(db: &str, web: &str, dependency: Dependency) -> StackSpec {
    let mut spec = stack("app", [("db", service(db).replicas(1)), ("web", service(web).replicas(2))]);
    let of_web = spec.services.get_mut(&"web".parse().unwrap()).unwrap();
    of_web.depends_on.insert("db".parse().unwrap(), dependency);
    spec
}

fn on(condition: DependencyCondition) -> Dependency {
    Dependency { condition, ..Dependency::default() }
}

const HEALTHY: DependencyCondition = DependencyCondition::Healthy;

#[test]
fn nothing_of_a_service_starts_before_what_it_needs_is_ready() {
    let mut cluster = Cluster::of_nodes(2);
    cluster.deploy(app("db:1", "web:1", on(HEALTHY)));
    cluster.turn();
    assert_eq!(cluster.active("app/db").len(), 1);
    assert!(cluster.active("app/web").is_empty());
    assert_eq!(cluster.unplaced("app/web"), "waiting for `db` to be ready");
    assert!(!cluster.status("app/web").converged);
    let db = cluster.active("app/db").remove(0).id;
    cluster.say_phase(db, Phase::Running, "");
    cluster.turn();
    assert!(cluster.active("app/web").is_empty(), "it runs, and is not ready");
    cluster.settle_over_time();
    assert_eq!(cluster.ready("app/web"), 2);
    assert!(cluster.status("app/web").converged);
    assert!(cluster.plan().is_empty(), "the gate is opened once");
}

#[test]
fn started_is_enough_where_that_is_asked_for() {
    let mut cluster = Cluster::of_nodes(1);
    cluster.deploy(app("db:1", "web:1", Dependency::default()));
    cluster.turn();
    let db = cluster.active("app/db").remove(0).id;
    cluster.say_phase(db, Phase::Starting, "");
    cluster.turn();
    assert!(cluster.active("app/web").is_empty());
    cluster.say_phase(db, Phase::Running, "");
    cluster.turn();
    assert_eq!(cluster.active("app/web").len(), 2);
}

#[test]
fn a_job_must_have_ended_well() {
    let mut cluster = Cluster::of_nodes(1);
    cluster.deploy(app("job:1", "web:1", on(DependencyCondition::Completed)));
    cluster.turn();
    let job = cluster.active("app/db").remove(0).id;
    cluster.say_phase(job, Phase::Running, "");
    cluster.turn();
    assert!(cluster.active("app/web").is_empty());
    let mut failed = cluster.clone();
    failed.say_phase(job, Phase::Failed, "exit code 1");
    failed.turn();
    assert!(failed.active("app/web").is_empty());
    assert_eq!(failed.unplaced("app/web"), "waiting for `db` to end with exit code 0, and it has failed");
    cluster.say_phase(job, Phase::Complete, "");
    cluster.turn();
    assert_eq!(cluster.active("app/web").len(), 2);
}

#[test]
fn one_that_is_not_required_is_waited_for_as_long_as_there_is_hope() {
    let mut cluster = Cluster::of_nodes(1);
    cluster.deploy(app("job:1", "web:1", Dependency { optional: true, ..on(DependencyCondition::Completed) }));
    cluster.turn();
    assert!(cluster.active("app/web").is_empty());
    let job = cluster.active("app/db").remove(0).id;
    cluster.say_phase(job, Phase::Failed, "exit code 1");
    cluster.turn();
    assert_eq!(cluster.active("app/web").len(), 2);
}

#[test]
fn what_runs_goes_on_when_what_it_needs_goes_away() {
    let mut cluster = Cluster::of_nodes(2);
    cluster.deploy(app("db:1", "web:1", on(HEALTHY)));
    cluster.settle_over_time();
    let db = cluster.active("app/db").remove(0).id;
    let web = cluster.active("app/web").remove(0).id;
    cluster.say(db, |status| status.ready = false);
    cluster.say_phase(web, Phase::Failed, "exit code 1");
    cluster.scale("app/web", 3);
    cluster.turn();
    // The slot that failed for good stays as it is; the new one is filled though `db` is not ready.
    assert_eq!(cluster.active("app/web").len(), 2);
}

#[test]
fn an_update_of_both_comes_in_turn() {
    let mut cluster = Cluster::of_nodes(2);
    cluster.deploy(app("db:1", "web:1", on(HEALTHY)));
    cluster.settle_over_time();
    let before: Vec<_> = cluster.active("app/web").iter().map(|task| task.id).collect();
    cluster.deploy(app("db:2", "web:2", on(HEALTHY)));
    cluster.turn();
    let after: Vec<_> = cluster.active("app/web").iter().map(|task| task.id).collect();
    assert_eq!(after, before, "they go on until `db` is new");
    assert_eq!(cluster.unplaced("app/web"), "waiting for `db` to be ready");
    cluster.settle_over_time();
    assert!(cluster.active("app/web").iter().all(|task| task.spec.container.image.reference == "web:2"));
    assert!(cluster.active("app/db").iter().all(|task| task.spec.container.image.reference == "db:2"));
}

#[test]
fn a_service_is_replaced_with_the_one_that_it_needs_where_it_says_so_and_only_then() {
    for restart in [true, false] {
        let mut cluster = Cluster::of_nodes(2);
        let dependency = Dependency { restart, ..on(HEALTHY) };
        cluster.deploy(app("db:1", "web:1", dependency));
        cluster.settle_over_time();
        let ids = |cluster: &Cluster| cluster.active("app/web").iter().map(|task| task.id).collect::<Vec<_>>();
        let before = ids(&cluster);
        cluster.deploy(app("db:2", "web:1", dependency));
        cluster.settle_over_time();
        let after = ids(&cluster);
        assert_eq!(after.iter().any(|task| before.contains(task)), !restart);
        assert_eq!(cluster.ready("app/web"), 2);
        // A deploy of the same again finds nothing to do.
        assert!(!cluster.deploy(app("db:2", "web:1", dependency)).changed);
        cluster.deploy(app("db:2", "web:1", on(DependencyCondition::Started)));
        cluster.settle_over_time();
        assert_eq!(ids(&cluster), after, "what it waits for is not what it runs");
    }
}

#[test]
fn a_rollback_has_settings_of_its_own() {
    let mut cluster = Cluster::of_nodes(1);
    let with = |image: &str| {
        let mut spec = stack("app", [("web", service(image).replicas(3))]);
        let web = spec.services.get_mut(&"web".parse().unwrap()).unwrap();
        web.update.failure_action = FailureAction::Rollback;
        web.rollback = Some(UpdatePolicy {
            parallelism: 0,
            order: UpdateOrder::StartFirst,
            monitor: Milliseconds(0),
            ..UpdatePolicy::default()
        });
        spec
    };
    cluster.deploy(with("web:1"));
    cluster.settle_over_time();
    cluster.deploy(with("web:2"));
    // One at a time, the old one first: two rounds replace two of three.
    for _ in 0..2 {
        cluster.turn();
        cluster.hosts_obey();
        cluster.turn();
        cluster.hosts_obey();
    }
    let new = cluster.active("app/web").into_iter().find(|task| task.spec.container.image.reference == "web:2");
    let new = new.expect("one of the new version").id;
    cluster.say_phase(new, Phase::Failed, "exit code 1");
    cluster.turn();
    let update = cluster.service("app/web").update.clone().expect("a rollback");
    assert!(matches!(update.state, UpdateState::RollingBack { .. }), "{update:?}");
    let running = cluster.active("app/web").len();
    cluster.turn();
    // All at once, and the new ones first.
    assert!(cluster.active("app/web").len() >= running, "nothing was stopped before its successor is ready");
    cluster.settle_over_time();
    assert!(cluster.active("app/web").iter().all(|task| task.spec.container.image.reference == "web:1"));
}

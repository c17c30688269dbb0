//! What the planner promises, one example each.

#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use stack_model::spec::{FailureAction, Image, Mount, MountSource, PublishMode};
use stack_model::{Availability, DesiredState, Digest, Phase, Readiness, RegistryCredential, StackSpec};
use stack_planner::{Change, Command, Rejected, UpdateState};
use stack_testkit::cluster::{Cluster, GIB, node};
use stack_testkit::specs::{Service, digest, service, stack, stack_name};

fn app(web: Service) -> StackSpec {
    stack("app", [("web", web)])
}

fn running(nodes: u64, web: Service) -> Cluster {
    let mut cluster = Cluster::of_nodes(nodes);
    cluster.deploy(app(web));
    cluster.settle_over_time();
    cluster
}

fn version(number: u32) -> Service {
    service("web").command(&["serve", &format!("v{number}")])
}

// Images

#[test]
fn an_image_that_is_mounted_is_pinned_and_fetched_as_the_service_s_own() {
    let mounting = |digest: Option<Digest>| {
        version(1).with(move |spec| {
            let image = Image { reference: "registry.example/tools:1".to_owned(), digest };
            let source = MountSource::Image { image, subpath: None };
            spec.container.mounts.push(Mount { target: "/tools".to_owned(), read_only: false, source });
        })
    };
    let mut cluster = Cluster::of_nodes(1);
    let refused = cluster.refused(app(mounting(None)));
    assert!(matches!(&refused, Rejected::NoDigest { image, .. } if image == "registry.example/tools:1"), "{refused:?}");
    let credential = RegistryCredential { username: "teller".to_owned(), password: "open sesame".to_owned() };
    let registry = "registry.example".to_owned();
    cluster.must(Command::SetRegistryCredential { registry, credential: Some(credential) });
    cluster.deploy(app(mounting(Some(digest("tools")))));
    cluster.settle();
    let node = cluster.state.nodes.keys().next().copied().expect("a node");
    let told = stack_planner::assignment(&cluster.state, node);
    assert_eq!(told.registry_credentials.keys().collect::<Vec<_>>(), ["registry.example"]);
}

// Placement

#[test]
fn replicas_are_spread_over_the_nodes() {
    assert_eq!(running(3, version(1).replicas(3)).spread("app/web"), [1, 1, 1]);
    assert_eq!(running(3, version(1).replicas(5)).spread("app/web"), [2, 2, 1]);
}

#[test]
fn a_spread_preference_comes_before_the_number_of_tasks() {
    let mut cluster = Cluster::of_nodes(3);
    for (number, zone) in [(1, "a"), (2, "b"), (3, "b")] {
        cluster.label(number, "zone", zone);
    }
    cluster.deploy(app(version(1).replicas(4).with(|spec| spec.placement.spread.push("node.labels.zone".to_owned()))));
    cluster.settle();
    assert_eq!(cluster.spread("app/web"), [2, 1, 1], "as many in zone a as in zone b");
}

#[test]
fn a_global_service_has_one_task_on_every_node_also_on_one_that_joins_later() {
    let mut cluster = running(2, version(1).global());
    assert_eq!(cluster.spread("app/web"), [1, 1]);
    cluster.join(3, 4_000, 8 * GIB);
    cluster.settle();
    assert_eq!(cluster.spread("app/web"), [1, 1, 1]);
    cluster.set_availability(1, Availability::Drain);
    cluster.settle();
    assert_eq!(cluster.spread("app/web"), [0, 1, 1]);
}

#[test]
fn a_global_service_waits_for_a_node_that_is_down_without_counting_it() {
    let mut cluster = running(3, version(1).global());
    cluster.set_readiness(2, Readiness::Down);
    cluster.settle();
    assert_eq!(cluster.spread("app/web"), [1, 1, 1], "its task stays with the node");
    let status = cluster.status("app/web");
    assert_eq!((status.desired, status.ready, status.converged), (2, 2, true));
    cluster.set_readiness(2, Readiness::Ready);
    cluster.settle();
    assert_eq!(cluster.status("app/web").ready, 3);
}

#[test]
fn constraints_are_kept_and_named_when_they_cannot_be() {
    let mut cluster = Cluster::of_nodes(3);
    cluster.label(2, "disk", "ssd");
    cluster.deploy(app(version(1).replicas(2).only_where("node.labels.disk", "ssd")));
    cluster.settle();
    assert_eq!(cluster.spread("app/web"), [0, 2, 0]);
    cluster.deploy(stack("other", [("db", service("db").only_where("node.labels.disk", "nvme"))]));
    cluster.settle();
    assert_eq!(cluster.unplaced("other/db"), "no node fits: 3 of 3 nodes do not match `node.labels.disk == nvme`");
    cluster.label(3, "disk", "nvme");
    cluster.settle();
    assert_eq!(cluster.spread("other/db"), [0, 0, 1]);
    assert_eq!(cluster.unplaced("other/db"), "");
}

#[test]
fn a_task_moves_when_its_node_no_longer_matches() {
    let mut cluster = Cluster::of_nodes(2);
    cluster.label(1, "zone", "a");
    cluster.deploy(app(version(1).only_where("node.labels.zone", "a")));
    cluster.settle();
    cluster.label(2, "zone", "a");
    cluster.label(1, "zone", "b");
    cluster.settle();
    assert_eq!(cluster.spread("app/web"), [0, 1]);
}

#[test]
fn reservations_are_kept_and_the_reason_counts_the_nodes() {
    let mut cluster = Cluster::of_nodes(2);
    cluster.join(3, 4_000, GIB);
    cluster.deploy(app(version(1).replicas(3).reserve_memory(5 * GIB)));
    cluster.settle();
    assert_eq!(cluster.spread("app/web"), [1, 1, 0]);
    assert_eq!(cluster.unplaced("app/web"), "no node fits: 3 of 3 nodes lack 5.0 GiB of free memory");
    assert_eq!(cluster.service("app/web").unplaced.as_ref().map(|unplaced| unplaced.count), Some(1));
    cluster.deploy(stack("cpu", [("hog", service("hog").reserve_cpu(5_500))]));
    cluster.set_readiness(3, Readiness::Down);
    cluster.settle();
    assert_eq!(cluster.unplaced("cpu/hog"), "no node fits: 1 of 3 nodes is down, 2 of 3 nodes lack 5.5 free CPUs");
}

#[test]
fn a_host_port_is_given_once_on_each_node() {
    let cluster = running(2, version(1).replicas(3).publish_on_host(80, 8080));
    assert_eq!(cluster.spread("app/web"), [1, 1]);
    assert_eq!(cluster.unplaced("app/web"), "no node fits: 2 of 2 nodes have port 8080/tcp taken");
}

#[test]
fn a_shared_port_is_no_reason_to_keep_tasks_apart() {
    assert_eq!(running(1, version(1).replicas(3).publish(80, Some(8080))).spread("app/web"), [3]);
}

#[test]
fn no_node_gets_more_tasks_than_the_limit() {
    let cluster = running(2, version(1).replicas(5).at_most_per_node(2));
    assert_eq!(cluster.spread("app/web"), [2, 2]);
    assert_eq!(cluster.unplaced("app/web"), "no node fits: 2 of 2 nodes already run 2 of its tasks");
}

// Ports of the cluster

#[test]
fn two_stacks_cannot_publish_one_port() {
    let mut cluster = running(1, version(1).publish(80, Some(8080)));
    let before = cluster.state.clone();
    let refused = cluster.refused(stack("other", [("web", service("web").publish(80, Some(8080)))]));
    assert_eq!(refused.to_string(), "service `other/web`: port 8080/tcp is already published by `app/web`");
    assert_eq!((&before.services, &before.stacks), (&cluster.state.services, &cluster.state.stacks));
}

fn drawn(cluster: &Cluster, service: &str) -> Vec<u16> {
    cluster.service(service).spec.ports.iter().filter_map(|port| port.published).collect()
}

#[test]
fn a_drawn_port_stays_over_deploys_whatever_else_the_stack_gets() {
    let mut cluster = running(1, version(1).publish(80, None).publish(443, None));
    assert_eq!(drawn(&cluster, "app/web"), [30000, 30001]);
    let web = version(2).publish(443, None).publish(80, None);
    // Before `web` in the alphabet, and with a number of its own that `web` must not be given anew.
    let first = service("first").publish(80, None).publish(81, Some(30002));
    cluster.deploy(stack("app", [("a", first), ("web", web), ("z", service("z").publish(80, None))]));
    assert_eq!(drawn(&cluster, "app/web"), [30001, 30000]);
    assert_eq!(drawn(&cluster, "app/a"), [30003, 30002]);
    assert_eq!(drawn(&cluster, "app/z"), [30004]);
}

#[test]
fn one_port_of_a_range_is_drawn_and_kept() {
    let within = |name: &str| service(name).publish_within(80, 8000, 8001);
    let mut cluster = Cluster::of_nodes(1);
    cluster.deploy(stack("app", [("a", within("a")), ("b", service("b").publish(80, Some(8000)))]));
    assert_eq!(drawn(&cluster, "app/a"), [8001]);
    cluster.deploy(stack("app", [("a", within("a").replicas(2)), ("b", service("b").publish(80, Some(8000)))]));
    assert_eq!(drawn(&cluster, "app/a"), [8001], "it is kept");
    let refusal = cluster.refused(stack("third", [("a", within("a"))])).to_string();
    assert_eq!(refusal, "service `third/a`: no free port from 8000 to 8001 is left to publish 80");
}

#[test]
fn a_number_that_the_user_wrote_is_not_drawn_for_another_service() {
    let mut cluster = Cluster::of_nodes(1);
    let drawn_first = service("a").publish(80, None);
    cluster.deploy(stack("app", [("a", drawn_first), ("b", service("b").publish(80, Some(30000)))]));
    assert_eq!(drawn(&cluster, "app/a"), [30001]);
}

// Deploys

#[test]
fn an_unchanged_deploy_changes_nothing() {
    let spec = app(version(1).replicas(3).publish(80, None));
    let mut cluster = Cluster::of_nodes(3);
    let revision = cluster.deploy(spec.clone()).revision;
    cluster.settle_over_time();
    let before = cluster.state.clone();
    let applied = cluster.deploy(spec);
    assert!(!applied.changed);
    assert_eq!(applied.revision, revision, "the revision that made it so");
    assert!(cluster.plan().is_empty());
    assert_eq!((&before.services, &before.tasks), (&cluster.state.services, &cluster.state.tasks));
}

#[test]
fn a_deploy_that_expects_another_revision_is_refused() {
    let mut cluster = running(1, version(1));
    let spec = Box::new(app(version(2)));
    let refused = cluster.apply(Command::PutStack { spec, expected_revision: Some(0), contents: Default::default() });
    assert!(matches!(refused, Err(Rejected::Conflict { expected: 0, present: 4, .. })), "{refused:?}");
}

#[test]
fn scaling_adds_and_removes_the_highest_slots_and_leaves_the_others_alone() {
    let mut cluster = running(2, version(1).replicas(2));
    let kept: Vec<_> = cluster.active("app/web").iter().map(|task| task.id).collect();
    cluster.scale("app/web", 5);
    cluster.settle();
    assert_eq!(cluster.active("app/web").len(), 5);
    cluster.scale("app/web", 2);
    cluster.settle();
    let left: Vec<_> = cluster.active("app/web").iter().map(|task| task.id).collect();
    assert_eq!(kept, left);
    assert_eq!(cluster.state.tasks.len(), 2, "the others are forgotten");
}

#[test]
fn a_removed_stack_ends_and_vanishes() {
    let mut cluster = running(2, version(1).replicas(3));
    cluster.must(Command::RemoveStack { stack: stack_name("app") });
    cluster.decide();
    assert!(cluster.state.tasks.values().all(|task| task.desired == DesiredState::Stopped));
    assert!(!cluster.state.stacks.is_empty(), "it is there until its tasks have ended");
    cluster.settle();
    assert!(cluster.state.stacks.is_empty() && cluster.state.services.is_empty() && cluster.state.tasks.is_empty());
}

#[test]
fn a_removed_stack_vanishes_though_one_of_its_nodes_is_down() {
    let mut cluster = running(2, version(1).replicas(2));
    cluster.set_readiness(2, Readiness::Down);
    cluster.must(Command::RemoveStack { stack: stack_name("app") });
    cluster.settle();
    assert!(cluster.state.stacks.is_empty() && cluster.state.tasks.is_empty());
}

// Nodes

#[test]
fn a_drained_node_gives_its_tasks_away() {
    let mut cluster = running(3, version(1).replicas(3));
    cluster.set_availability(1, Availability::Drain);
    cluster.settle();
    assert_eq!(cluster.spread("app/web")[0], 0);
    assert_eq!(cluster.ready("app/web"), 3);
    cluster.set_availability(1, Availability::Active);
    assert!(cluster.plan().is_empty(), "nothing moves back by itself");
}

#[test]
fn a_drained_node_loses_all_its_tasks_even_if_nothing_can_take_them() {
    let mut cluster = running(1, version(1).replicas(3));
    cluster.set_availability(1, Availability::Drain);
    cluster.settle();
    assert_eq!(cluster.active("app/web").len(), 0);
    assert_eq!(cluster.unplaced("app/web"), "no node fits: 1 of 1 node is drained");
}

#[test]
fn the_tasks_of_a_lost_node_run_elsewhere_and_stop_there_when_it_returns() {
    let mut cluster = running(3, version(1).replicas(3));
    let lost = cluster.active("app/web").into_iter().find(|task| task.node == node(3)).expect("one task on node 3");
    cluster.set_readiness(3, Readiness::Down);
    cluster.settle();
    assert_eq!(cluster.spread("app/web"), [2, 1, 0]);
    assert_eq!(cluster.state.tasks[&lost.id].status.phase, Phase::Lost);
    cluster.set_readiness(3, Readiness::Ready);
    let assigned = stack_planner::assignment(&cluster.state, node(3));
    assert_eq!(assigned.tasks[&lost.id].desired, DesiredState::Stopped);
    cluster.settle();
    assert_eq!(cluster.spread("app/web"), [2, 1, 0], "nothing moves back by itself");
}

#[test]
fn a_lost_node_whose_tasks_have_nowhere_to_go_keeps_them_but_they_do_not_count() {
    let mut cluster = running(2, version(1).replicas(2).at_most_per_node(1));
    cluster.set_readiness(2, Readiness::Down);
    cluster.settle();
    assert_eq!(cluster.spread("app/web"), [1, 1], "it is given up only for something better");
    let status = cluster.status("app/web");
    assert_eq!((status.ready, status.converged), (1, false));
    assert_eq!(
        cluster.unplaced("app/web"),
        "no node fits: 1 of 2 nodes is down, 1 of 2 nodes already runs 1 of its tasks"
    );
    cluster.set_readiness(2, Readiness::Ready);
    cluster.settle();
    assert!(cluster.status("app/web").converged);
}

#[test]
fn a_node_in_use_is_removed_only_by_force() {
    let mut cluster = running(2, version(1).replicas(2));
    let refused = cluster.apply(Command::RemoveNode { id: node(2), force: false });
    assert_eq!(
        refused.map_err(|rejected| rejected.to_string()),
        Err("node `node-2` is up and has 1 tasks: drain it first, or use --force".to_owned())
    );
    cluster.must(Command::RemoveNode { id: node(2), force: true });
    cluster.settle();
    assert_eq!(cluster.spread("app/web"), [2]);
}

#[test]
fn the_history_of_a_slot_is_limited() {
    let mut cluster = running(1, version(1));
    for number in 2..12 {
        cluster.deploy(app(version(number)));
        cluster.settle_over_time();
    }
    assert_eq!(cluster.state.tasks.len(), 6, "one that runs and five that ran");
    assert!(cluster.all_run("app/web", "v11"));
}

#[test]
fn a_task_that_ended_by_its_policy_is_not_started_again() {
    let mut cluster = running(1, version(1));
    let task = cluster.active("app/web")[0].id;
    cluster.say_phase(task, Phase::Failed, "ended with exit code 1 after 3 restarts");
    let plan = cluster.decide();
    assert_eq!((cluster.active("app/web").len(), plan.wake_at), (0, None));
    assert_eq!(cluster.status("app/web").failed, 1);
    cluster.deploy(app(version(2)));
    cluster.settle();
    assert!(cluster.all_run("app/web", "v2"), "until its spec changes");
}

#[test]
fn a_rejected_task_is_tried_elsewhere_and_then_again_with_growing_pauses() {
    let mut cluster = Cluster::of_nodes(2);
    cluster.deploy(app(version(1)));
    let mut pauses = Vec::new();
    let mut nodes = Vec::new();
    for _ in 0..8 {
        cluster.decide();
        let task = cluster.active("app/web")[0].clone();
        nodes.push(task.node);
        cluster.say_phase(task.id, Phase::Rejected, "image is for another processor");
        let rest = cluster.decide();
        let wake_at = rest.wake_at.expect("it asks to be woken");
        pauses.push(wake_at.since(cluster.now).0 / 1000);
        cluster.now = wake_at;
    }
    assert_eq!(nodes[..2], [node(1), node(2)], "the other node first");
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
}

// Rolling updates

/// Plays an update that goes well, and answers the least number of ready slots and the most tasks that a round started.
fn least_ready(cluster: &mut Cluster, service: &str) -> (u32, usize) {
    let (mut least, mut most) = (u32::MAX, 0);
    for _ in 0..200 {
        let plan = cluster.turn();
        let slots = plan.changes.iter().filter(|change| matches!(change, Change::StartTask { .. })).count();
        most = most.max(slots);
        least = least.min(cluster.ready(service));
        let quiet = !cluster.hosts_obey();
        least = least.min(cluster.ready(service));
        if plan.is_empty() && quiet {
            match plan.wake_at {
                Some(at) => cluster.now = at,
                None => break,
            }
        }
    }
    (least, most)
}

#[test]
fn stop_first_replaces_so_many_at_once() {
    for (parallelism, least) in [(1, 5), (2, 4), (0, 0)] {
        let mut cluster = running(3, version(1).replicas(6).parallelism(parallelism));
        cluster.deploy(app(version(2).replicas(6).parallelism(parallelism)));
        assert_eq!(least_ready(&mut cluster, "app/web").0, least, "parallelism {parallelism}");
        assert!(cluster.all_run("app/web", "v2"));
        assert_eq!(cluster.service("app/web").update, None);
        assert!(cluster.status("app/web").converged);
    }
}

#[test]
fn start_first_never_has_less_than_before() {
    let mut cluster = running(3, version(1).replicas(4).parallelism(2).start_first());
    cluster.deploy(app(version(2).replicas(4).parallelism(2).start_first()));
    let (least, most) = least_ready(&mut cluster, "app/web");
    assert_eq!((least, most), (4, 2));
    assert!(cluster.all_run("app/web", "v2"));
}

#[test]
fn the_next_batch_waits_for_the_delay() {
    let mut cluster = running(2, version(1).replicas(2).update_delay(5_000));
    cluster.deploy(app(version(2).replicas(2).update_delay(5_000)));
    let rest = cluster.settle();
    assert!(!cluster.all_run("app/web", "v2"));
    assert_eq!(rest.wake_at.map(|at| at.since(cluster.now).0), Some(5_000));
    cluster.pass(4_999);
    assert!(cluster.plan().is_empty());
    cluster.pass(1);
    cluster.settle();
    assert!(cluster.all_run("app/web", "v2"));
}

#[test]
fn the_next_batch_waits_until_the_new_task_is_healthy() {
    let mut cluster = running(2, version(1).replicas(2).healthcheck());
    cluster.deploy(app(version(2).replicas(2).healthcheck()));
    cluster.decide();
    cluster.hosts_obey();
    cluster.decide();
    let new = cluster.active("app/web").into_iter().find(|task| !task.status.ready).expect("the first new task");
    cluster.say(new.id, |status| status.phase = Phase::Running);
    assert!(cluster.decide().is_empty(), "it runs, but is not healthy yet");
    assert_eq!(cluster.ready("app/web"), 1);
    cluster.say(new.id, |status| status.ready = true);
    assert!(!cluster.plan().is_empty());
}

fn fail_update(action: FailureAction) -> Cluster {
    let spec = |number| version(number).replicas(3).on_failure(action);
    let mut cluster = running(3, spec(1));
    cluster.deploy(app(spec(2)));
    cluster.decide();
    cluster.hosts_obey();
    cluster.decide();
    let new = cluster.active("app/web").into_iter().find(|task| !task.status.ready);
    let Some(new) = new else { panic!("the first new task was not made") };
    cluster.say_phase(new.id, Phase::Failed, "ended with exit code 1");
    cluster.settle_over_time();
    cluster
}

#[test]
fn a_failed_update_pauses() {
    let mut cluster = fail_update(FailureAction::Pause);
    let update = cluster.service("app/web").update.clone().expect("it is told");
    assert!(
        matches!(&update.state, UpdateState::Paused { reason } if reason.ends_with(": ended with exit code 1")),
        "{update:?}"
    );
    assert_eq!(cluster.ready("app/web"), 2, "what is left of the old version serves on");
    assert!(cluster.plan().is_empty());
    cluster.deploy(app(version(3).replicas(3)));
    cluster.settle_over_time();
    assert!(cluster.all_run("app/web", "v3"), "the next deploy goes on");
}

#[test]
fn a_paused_update_still_replaces_the_tasks_of_a_lost_node() {
    let mut cluster = fail_update(FailureAction::Pause);
    let lost = cluster.active("app/web")[0].node;
    cluster.must(Command::SetReadiness { nodes: BTreeMap::from([(lost, Readiness::Down)]) });
    cluster.settle();
    assert_eq!(cluster.ready("app/web"), 2);
}

#[test]
fn a_paused_update_goes_on_when_only_its_policy_is_deployed_anew() {
    let mut cluster = fail_update(FailureAction::Pause);
    cluster.deploy(app(version(2).replicas(3).on_failure(FailureAction::Continue)));
    cluster.settle_over_time();
    assert!(cluster.all_run("app/web", "v2"));
}

#[test]
fn a_failed_update_continues_where_that_is_wanted() {
    let cluster = fail_update(FailureAction::Continue);
    assert!(cluster.all_run("app/web", "v2"));
    assert_eq!((cluster.ready("app/web"), cluster.status("app/web").failed), (2, 1));
}

#[test]
fn a_failed_update_rolls_back_where_that_is_wanted() {
    let mut cluster = fail_update(FailureAction::Rollback);
    assert!(cluster.all_run("app/web", "v1"));
    assert_eq!(cluster.ready("app/web"), 3);
    let update = cluster.service("app/web").update.clone().expect("it is told");
    assert!(
        matches!(&update.state, UpdateState::RolledBack { reason } if reason.contains("exit code 1")),
        "{update:?}"
    );
    // The same file again is another try, not an unchanged deploy.
    assert!(cluster.deploy(app(version(2).replicas(3).on_failure(FailureAction::Rollback))).changed);
    cluster.settle_over_time();
    assert!(cluster.all_run("app/web", "v2"));
}

#[test]
fn a_task_that_was_restarted_while_it_is_watched_fails_the_update() {
    let mut cluster = running(1, version(1));
    cluster.deploy(app(version(2)));
    cluster.settle();
    let task = cluster.active("app/web")[0].id;
    cluster.pass(1_000);
    cluster.say(task, |status| status.restarts = 1);
    cluster.decide();
    let update = cluster.service("app/web").update.clone().expect("it is told");
    assert!(matches!(update.state, UpdateState::Paused { .. }), "{update:?}");
}

// What once was, or would be, stuck

#[test]
fn a_slot_that_has_no_place_does_not_hold_up_a_rollout() {
    let mut cluster = running(2, version(1).replicas(3).at_most_per_node(1));
    assert_ne!(cluster.unplaced("app/web"), "");
    cluster.deploy(app(version(2).replicas(3).at_most_per_node(1)));
    cluster.settle_over_time();
    assert!(cluster.all_run("app/web", "v2"));
    assert_eq!(cluster.ready("app/web"), 2);
}

#[test]
fn a_rollout_to_what_no_node_can_run_stops_after_the_first_batch() {
    let mut cluster = running(3, version(1).replicas(3));
    cluster.deploy(app(version(2).replicas(3).reserve_memory(100 * GIB)));
    cluster.settle_over_time();
    assert_eq!(cluster.ready("app/web"), 2, "one slot was emptied for it");
    assert_eq!(cluster.unplaced("app/web"), "no node fits: 3 of 3 nodes lack 100.0 GiB of free memory");
    cluster.deploy(app(version(3).replicas(3)));
    cluster.settle_over_time();
    assert!(cluster.all_run("app/web", "v3"));
    assert_eq!(cluster.ready("app/web"), 3);
}

#[test]
fn start_first_without_room_for_two_says_so_and_leaves_the_old_ones_alone() {
    let spec = |number| version(number).replicas(2).reserve_memory(5 * GIB).start_first();
    let mut cluster = running(2, spec(1));
    cluster.deploy(app(spec(2)));
    cluster.settle_over_time();
    assert!(cluster.all_run("app/web", "v1"));
    assert_eq!(cluster.ready("app/web"), 2);
    assert_eq!(cluster.unplaced("app/web"), "no node fits: 2 of 2 nodes lack 5.0 GiB of free memory");
}

#[test]
fn start_first_makes_room_where_the_old_task_does_not_serve() {
    let spec = |number| version(number).reserve_memory(5 * GIB).start_first();
    let mut cluster = running(1, spec(1));
    let task = cluster.active("app/web")[0].id;
    cluster.say(task, |status| status.ready = false);
    cluster.deploy(app(spec(2)));
    cluster.decide();
    cluster.hosts_obey();
    cluster.settle_over_time();
    assert!(cluster.all_run("app/web", "v2"));
}

#[test]
fn a_third_version_deployed_in_the_middle_of_a_start_first_rollout_gets_its_turn() {
    let mut cluster = running(1, version(1).start_first());
    cluster.deploy(app(version(2).start_first()));
    cluster.decide();
    assert_eq!(cluster.active("app/web").len(), 2, "the old one and the new one, which is not ready yet");
    cluster.deploy(app(version(3).start_first()));
    cluster.settle_over_time();
    assert!(cluster.all_run("app/web", "v3"));
    assert_eq!(cluster.active("app/web").len(), 1);
}

#[test]
fn a_node_lost_in_the_middle_of_a_start_first_rollout_that_turns_stop_first_is_no_dead_end() {
    let mut cluster = running(2, version(1).start_first());
    cluster.deploy(app(version(2).start_first()));
    cluster.decide();
    let new = cluster.active("app/web")[1].node;
    cluster.must(Command::SetReadiness { nodes: BTreeMap::from([(new, Readiness::Down)]) });
    cluster.deploy(app(version(3)));
    cluster.settle_over_time();
    assert!(cluster.all_run("app/web", "v3"));
    assert_eq!(cluster.ready("app/web"), 1);
}

#[test]
fn a_start_first_replacement_that_is_rejected_is_tried_with_pauses_and_the_old_one_serves_on() {
    let spec = |number| version(number).start_first().on_failure(FailureAction::Continue);
    let mut cluster = running(1, spec(1));
    cluster.deploy(app(spec(2)));
    for _ in 0..3 {
        cluster.decide();
        let new = cluster.active("app/web").pop().expect("the new one");
        cluster.say_phase(new.id, Phase::Rejected, "no");
        let rest = cluster.decide();
        assert_eq!(cluster.ready("app/web"), 1);
        cluster.now = rest.wake_at.expect("a pause");
    }
}

#[test]
fn a_start_first_replacement_that_fails_for_good_is_not_made_again() {
    let spec = |number| version(number).start_first().on_failure(FailureAction::Continue);
    let mut cluster = running(1, spec(1));
    cluster.deploy(app(spec(2)));
    cluster.decide();
    let new = cluster.active("app/web").pop().expect("the new one");
    cluster.say_phase(new.id, Phase::Failed, "ended with exit code 1");
    cluster.settle_over_time();
    assert!(cluster.all_run("app/web", "v1"));
    let status = cluster.status("app/web");
    assert_eq!((status.ready, status.failed, status.converged), (1, 1, false));
}

#[test]
fn a_rollback_works_though_the_new_file_dropped_a_volume() {
    let with_volume = |spec: Service| {
        let mount = serde_json::json!({"target": "/data", "source": {"volume": {"name": "data"}}});
        let mut spec = app(spec.on_failure(FailureAction::Rollback).with(|spec| {
            spec.container.mounts.push(serde_json::from_value(mount).expect("a mount"));
        }));
        spec.volumes.insert("data".to_owned(), stack_model::spec::VolumeSpec::default());
        spec
    };
    let mut cluster = Cluster::of_nodes(1);
    cluster.deploy(with_volume(version(1)));
    cluster.settle_over_time();
    cluster.deploy(app(version(2).on_failure(FailureAction::Rollback)));
    cluster.decide();
    cluster.hosts_obey();
    cluster.decide();
    let new = cluster.active("app/web")[0].id;
    cluster.say_phase(new, Phase::Failed, "ended with exit code 1");
    cluster.settle_over_time();
    assert!(cluster.all_run("app/web", "v1"));
    let task = &cluster.active("app/web")[0];
    assert_eq!(task.spec.volumes["data"].name.as_deref(), Some("app_data"));
}

#[test]
fn a_rollback_does_not_take_a_port_that_another_stack_has_by_now() {
    let spec = |number: u32, port| version(number).publish(80, Some(port)).on_failure(FailureAction::Rollback);
    let mut cluster = running(1, spec(1, 8080));
    cluster.deploy(app(spec(2, 9090)));
    cluster.deploy(stack("other", [("web", service("web").publish(80, Some(8080)))]));
    cluster.decide();
    cluster.hosts_obey();
    cluster.decide();
    let new = cluster.active("app/web")[0].id;
    cluster.say_phase(new, Phase::Failed, "ended with exit code 1");
    cluster.settle_over_time();
    let update = cluster.service("app/web").update.clone().expect("it is told");
    assert!(matches!(update.state, UpdateState::Paused { .. }), "{update:?}");
    assert!(cluster.service("app/web").spec.ports.iter().all(|port| port.mode == PublishMode::Ingress));
    assert_eq!(cluster.spread("other/web"), [1]);
}

#[test]
fn a_rollback_returns_to_the_last_version_that_proved_itself() {
    let spec = |number| version(number).on_failure(FailureAction::Rollback);
    let mut cluster = running(1, spec(1));
    cluster.deploy(app(spec(2)));
    cluster.decide();
    cluster.deploy(app(spec(3)));
    cluster.decide();
    cluster.hosts_obey();
    cluster.decide();
    let new = cluster.active("app/web")[0].id;
    cluster.say_phase(new, Phase::Failed, "ended with exit code 1");
    cluster.settle_over_time();
    assert!(cluster.all_run("app/web", "v1"), "not to v2, which never ran");
}

#[test]
fn the_order_of_a_slots_tasks_does_not_depend_on_the_clock() {
    // The cluster's time stands still while a new leader's clock is behind.
    let mut cluster = running(1, version(1));
    for number in 2..20 {
        cluster.deploy(app(version(number)));
        cluster.decide();
        cluster.hosts_obey();
        cluster.decide();
        let newest = cluster.active("app/web")[0].id;
        cluster.say_phase(newest, Phase::Failed, "ended with exit code 1");
        cluster.decide();
        assert_eq!(cluster.active("app/web").len(), 0, "version {number} has failed for good");
    }
}

//! Three controllers on loopback: what was acknowledged is kept, whoever dies.

// What is not as expected fails the test, helpers included; times are printed for whoever looks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stack_api::routes;
use stack_api::views::{ClusterView, DeployResponse, NodeView, PlanAction, PlanView, StackStatus, Written};
use stack_controller::Tuning;
use support::{CALL, Host, label, leader, post, stack, three, tuning, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_keeps_its_state_over_restarts() {
    let mut host = Host::first(tuning()).await;
    let deployed: DeployResponse =
        post(&host.local(), routes::DEPLOY, &["shop"], &stack("shop", "web:1", 2)).await.unwrap();
    assert!(deployed.changed);
    host.kill().await;
    host.start().await;
    let again: DeployResponse = until("it leads again", async || {
        post(&host.local(), routes::DEPLOY, &["shop"], &stack("shop", "web:1", 2)).await.ok()
    })
    .await;
    assert_eq!((again.changed, again.revision), (false, deployed.revision));
    host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_through_a_follower_and_its_plan() {
    let hosts = three(tuning()).await;
    let leads = leader(&hosts).await;
    let follower = &hosts[(leads + 1) % 3];
    let request = stack("shop", "web:1", 3);
    let plan: PlanView = post(&follower.local(), routes::PLAN, &["shop"], &request).await.unwrap();
    assert_eq!(plan.services.len(), 1);
    assert_eq!(plan.services[0].action, PlanAction::Create);
    let reason = &plan.services[0].unplaced.as_ref().unwrap().reason;
    assert!(reason.contains("3 of 3 nodes are down"), "{reason}");
    let state = follower.controller().store().state();
    assert!(state.stacks.is_empty(), "a dry run changes nothing");

    let deployed: DeployResponse = post(&follower.local(), routes::DEPLOY, &["shop"], &request).await.unwrap();
    let status: StackStatus = follower.local().get(routes::STACK_STATUS, &["shop"], CALL).await.unwrap();
    assert!(status.revision >= deployed.revision, "one reads what one wrote");
    let again: DeployResponse = post(&follower.local(), routes::DEPLOY, &["shop"], &request).await.unwrap();
    assert!(!again.changed);

    let mut changed = stack("shop", "web:2", 3);
    changed.expected_revision = Some(deployed.revision + 1000);
    let refused = post::<_, DeployResponse>(&follower.local(), routes::DEPLOY, &["shop"], &changed).await.unwrap_err();
    assert_eq!(refused.refused().unwrap().code, stack_api::ErrorCode::Conflict);
    assert!(refused.refused().unwrap().request_id.is_some());
    changed.expected_revision = None;
    let plan: PlanView = post(&follower.local(), routes::PLAN, &["shop"], &changed).await.unwrap();
    assert_eq!(plan.services[0].action, PlanAction::Replace);
    assert!(plan.services[0].differences.iter().any(|one| one.path == "container.image.reference"), "{plan:?}");

    let missing = stack("shop", "missing:1", 1);
    let refused = post::<_, DeployResponse>(&follower.local(), routes::DEPLOY, &["shop"], &missing).await.unwrap_err();
    let message = refused.to_string();
    assert!(message.contains("missing:1") && message.contains("no such image"), "{message}");
    let _: Written =
        follower.local().call(routes::REMOVE_STACK, &["shop"], None::<&()>, None::<&()>, CALL).await.unwrap();
    until("the stack is gone", async || follower.controller().store().state().stacks.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_the_death_of_the_leader() {
    let mut hosts = three(tuning()).await;
    let leads = leader(&hosts).await;
    let node = hosts[0].identity.node;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .filter(|at| *at != leads)
        .map(|at| {
            let (client, stop) = (hosts[at].local(), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut acknowledged, mut times) = (Vec::new(), Vec::new());
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("writer{at}.{number}");
                    if label(&client, node, &key).await.is_ok() {
                        acknowledged.push(key);
                        times.push(Instant::now());
                    }
                }
                (acknowledged, times)
            })
        })
        .collect();
    let count = |host: &Host| host.controller().store().state().nodes.get(&node).unwrap().labels.len();
    let survivor = (leads + 1) % 3;
    until("the writers write", async || (count(&hosts[survivor]) > 20).then_some(())).await;
    let killed_at = Instant::now();
    hosts[leads].kill().await;
    let before = count(&hosts[survivor]);
    until("the writers write again", async || (count(&hosts[survivor]) > before + 20).then_some(())).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for writer in writers {
        let (acknowledged, times) = writer.await.unwrap();
        let gap = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        println!("{} writes acknowledged, the longest time between two: {gap:?}", acknowledged.len());
        assert!(times.last().is_some_and(|last| *last > killed_at));
        all.extend(acknowledged);
    }
    hosts[leads].start().await;
    let revision = hosts[survivor].controller().store().state().revision;
    for host in &hosts {
        until("everybody has everything", async || {
            (host.controller().store().state().revision >= revision).then_some(())
        })
        .await;
        let state = host.controller().store().state();
        let labels = &state.nodes.get(&node).unwrap().labels;
        for key in &all {
            assert!(labels.contains_key(key), "{key} was acknowledged and is lost");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_die_and_come_back_with_what_was_acknowledged() {
    let mut hosts = three(tuning()).await;
    let node = hosts[1].identity.node;
    for number in 0..10 {
        label(&hosts[2].local(), node, &format!("key{number}")).await.unwrap();
    }
    for host in &mut hosts {
        host.kill().await;
    }
    for host in &mut hosts {
        host.start().await;
    }
    let view: NodeView =
        until("they answer again", async || hosts[0].local().get(routes::NODE, &[&node.to_string()], CALL).await.ok())
            .await;
    assert_eq!(view.labels.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_ends_in_order_hands_over_and_none_is_missed() {
    let mut hosts = three(tuning()).await;
    let leads = leader(&hosts).await;
    let node = hosts[leads].identity.node;
    hosts[leads].shutdown().await;
    let next = leader(&hosts).await;
    assert_ne!(next, leads);
    label(&hosts[(leads + 1) % 3].local(), node, "after").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_joins_late_gets_a_snapshot() {
    let tuning = Tuning { snapshot_after: 40, keep_log: 5, ..tuning() };
    let first = Host::first(tuning.clone()).await;
    let node = first.identity.node;
    for number in 0..120 {
        label(&first.local(), node, &format!("key{number}")).await.unwrap();
    }
    until("the log is purged", async || {
        first.controller().store().raft_metrics().purged.is_some_and(|purged| purged.index > 40).then_some(())
    })
    .await;
    let token = first.tokens().await.controller;
    let second = Host::join("two", &token, &[first.address], tuning).await;
    let revision = first.controller().store().state().revision;
    until("it has everything", async || (second.controller().store().state().revision >= revision).then_some(())).await;
    let labels = second.controller().store().state().nodes.get(&node).unwrap().labels.len();
    assert_eq!(labels, 120);
    assert!(second.controller().store().raft_metrics().snapshot.is_some(), "by a snapshot, not entry by entry");
    assert_eq!(first.voters(), 1, "the second of two has no vote");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_removed_loses_its_vote_and_is_not_heard_any_more() {
    let mut hosts = three(tuning()).await;
    let leads = leader(&hosts).await;
    let (gone, rest) = ((leads + 1) % 3, (leads + 2) % 3);
    let id = hosts[gone].identity.node.to_string();
    let remove = async |client: &stack_api::Client| {
        let query = stack_api::bodies::RemoveNodeQuery { force: true };
        client.call::<_, (), Written>(routes::REMOVE_NODE, &[&id], Some(&query), None, CALL).await
    };
    // Nobody's agent has reported, so all are down as far as the leader knows: no majority would be left.
    let refused = remove(&hosts[leads].local()).await.unwrap_err();
    assert_eq!(refused.refused().unwrap().code, stack_api::ErrorCode::Conflict, "{refused}");
    let beat = support::beat(&hosts);
    until("they are heard", async || remove(&hosts[leads].local()).await.ok()).await;
    until("one vote is left", async || (hosts[leads].voters() == 1).then_some(())).await;
    until("it is no member", async || {
        (hosts[leads].controller().store().membership().members.len() == 2).then_some(())
    })
    .await;
    beat.abort();
    // It goes on campaigning, in vain.
    tokio::time::timeout(Duration::from_secs(1), std::future::pending::<()>()).await.unwrap_err();
    let view: ClusterView = hosts[rest].local().get(routes::CLUSTER, &[], CALL).await.unwrap();
    assert_eq!(view.leader, Some(hosts[leads].identity.node));
    hosts[gone].kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_itself_can_be_removed() {
    let mut hosts = three(tuning()).await;
    let leads = leader(&hosts).await;
    let (one, other) = ((leads + 1) % 3, (leads + 2) % 3);
    let id = hosts[leads].identity.node.to_string();
    label(&hosts[one].local(), hosts[one].identity.node, "before").await.unwrap();
    let beat = support::beat(&hosts);
    let query = stack_api::bodies::RemoveNodeQuery { force: true };
    let client = hosts[one].local();
    until("they are heard", async || {
        client.call::<_, (), Written>(routes::REMOVE_NODE, &[&id], Some(&query), None, CALL).await.ok()
    })
    .await;
    until("another one leads", async || (hosts[one].leads() || hosts[other].leads()).then_some(())).await;
    until("it is no member", async || (hosts[one].controller().store().membership().members.len() == 2).then_some(()))
        .await;
    beat.abort();
    label(&hosts[other].local(), hosts[one].identity.node, "after").await.unwrap();
    let state = hosts[other].controller().store().state();
    assert_eq!(state.nodes.get(&hosts[one].identity.node).unwrap().labels.len(), 2);
    hosts[leads].kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_few_large_entries_is_cut() {
    let small = Tuning { log_bytes: 32 * 1024 * 1024, log_look: Duration::from_millis(50), ..tuning() };
    let mut host = Host::first(small).await;
    let node = host.identity.node;
    let segments = |host: &Host| {
        let raft = std::fs::read_dir(host.path()).unwrap().filter_map(Result::ok);
        let raft = raft.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("raft-")).unwrap();
        let log = std::fs::read_dir(raft.join("log")).unwrap().filter_map(Result::ok);
        log.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log")).count()
    };
    let first = host.controller().store().raft_metrics().last_log_index.unwrap_or(0);
    for number in 0..40 {
        let mut large = stack("shop", "web:1", 1);
        let service = large.spec.services.values_mut().next().unwrap();
        service.container.environment.insert("LARGE".to_owned(), format!("{number}{}", "x".repeat(1_900_000)));
        let deployed: DeployResponse = post(&host.local(), routes::DEPLOY, &["shop"], &large).await.unwrap();
        assert!(deployed.changed);
    }
    let entries = host.controller().store().raft_metrics().last_log_index.unwrap() - first;
    assert!(entries < host.tuning.snapshot_after, "the number of entries alone is no reason");
    until("the log is small", async || (segments(&host) <= 2).then_some(())).await;
    // What was cut off is in the snapshot.
    let revision = host.controller().store().state().revision;
    host.kill().await;
    host.start().await;
    until("it leads again", async || label(&host.local(), node, "after").await.ok()).await;
    let state = host.controller().store().state();
    assert!(state.revision > revision && state.stacks.len() == 1);
    host.shutdown().await;
}

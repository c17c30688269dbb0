//! What the agent promises, one example each.

use stack_model::spec::{RestartCondition, RestartPolicy};
use stack_model::{Health, Milliseconds, Phase};
use stack_testkit::fake_host::Trouble;
use stack_testkit::lone_agent::{LoneAgent, task};
use stack_testkit::specs::{Service, service};

fn web() -> Service {
    service("web")
}

fn policy(condition: RestartCondition) -> RestartPolicy {
    RestartPolicy { condition, delay: None, max_attempts: None, window: None }
}

fn running(spec: Service) -> LoneAgent {
    let mut agent = LoneAgent::default();
    agent.assign(1, spec);
    agent.settle();
    assert!(agent.runs(1));
    agent
}

#[test]
fn a_task_is_pulled_made_and_started() {
    let mut agent = LoneAgent::default();
    agent.assign(1, web());
    assert_eq!(agent.settle(), ["pull 1", "create 1", "start 1"]);
    let status = agent.says(1);
    assert_eq!((status.phase, status.ready, status.restarts), (Phase::Running, true, 0));
    assert_eq!(agent.sleeps(), None);
}

#[test]
fn a_task_serves_when_what_runs_after_its_start_has_ended() {
    let mut agent = running(web().post_start(&["warm-up"]));
    assert!(agent.says(1).ready);
    // The agent was away before it had ended: it runs again, and nobody is sent to the task until then.
    let memory = agent.memory.tasks.entry(task(1)).or_default();
    memory.post_started = false;
    let begun = agent.turn();
    assert_eq!(begun, ["start 1"]);
    assert!(!agent.says(1).ready);
    agent.settle();
    assert!(agent.says(1).ready);
    assert_eq!(agent.says(1).restarts, 0);
}

#[test]
fn a_task_with_a_health_check_is_ready_when_it_is_healthy() {
    let mut agent = running(web().healthcheck());
    assert_eq!((agent.says(1).phase, agent.says(1).ready), (Phase::Running, false));
    agent.verdict(1, Health::Healthy);
    agent.settle();
    assert!(agent.says(1).ready);
}

#[test]
fn the_first_restart_is_at_once_and_the_next_ones_wait_longer_and_longer() {
    let mut agent = running(web());
    let mut pauses = Vec::new();
    for _ in 0..6 {
        agent.end(1, 1);
        agent.settle();
        pauses.push(agent.sleeps().unwrap_or(0));
        agent.pass_time(agent.sleeps().unwrap_or(0));
        agent.settle();
        assert!(agent.runs(1));
    }
    assert_eq!(pauses, [0, 100, 200, 400, 800, 1600]);
    assert_eq!(agent.says(1).restarts, 6);
}

#[test]
fn a_container_that_ran_steadily_is_started_again_at_once() {
    let mut agent = running(web());
    for _ in 0..4 {
        agent.end(1, 1);
        agent.settle();
        agent.pass_time(agent.sleeps().unwrap_or(0));
        agent.settle();
    }
    agent.pass_time(10_000);
    agent.end(1, 1);
    assert_eq!(agent.settle(), ["start 1"]);
}

#[test]
fn a_restart_delay_of_the_spec_is_kept() {
    let mut agent =
        running(web().restart(RestartPolicy { delay: Some(Milliseconds(700)), ..policy(RestartCondition::Any) }));
    agent.end(1, 1);
    agent.settle();
    assert_eq!((agent.runs(1), agent.sleeps()), (false, Some(700)));
    assert_eq!(agent.says(1).message.as_deref(), Some("ended with exit code 1; starting again after 700ms"));
}

#[test]
fn a_policy_of_never_lets_every_end_stand() {
    for (code, phase) in [(0, Phase::Complete), (3, Phase::Failed)] {
        let mut agent = running(web().restart(policy(RestartCondition::None)));
        agent.end(1, code);
        assert_eq!(agent.settle(), [""; 0]);
        assert_eq!((agent.says(1).phase, agent.says(1).exit_code), (phase, Some(code)));
        assert_eq!(agent.sleeps(), None);
    }
}

#[test]
fn a_policy_of_on_failure_lets_success_stand() {
    let mut agent = running(web().restart(policy(RestartCondition::OnFailure)));
    agent.end(1, 1);
    assert_eq!(agent.settle(), ["start 1"]);
    agent.end(1, 0);
    assert_eq!(agent.settle(), [""; 0]);
    assert_eq!(agent.says(1).phase, Phase::Complete);
}

#[test]
fn attempts_are_limited() {
    let limited = RestartPolicy { max_attempts: Some(2), ..policy(RestartCondition::Any) };
    let mut agent = running(web().restart(limited));
    for _ in 0..3 {
        agent.end(1, 7);
        agent.settle();
        agent.pass_time(agent.sleeps().unwrap_or(0));
        agent.settle();
    }
    let status = agent.says(1);
    assert_eq!((status.phase, status.restarts), (Phase::Failed, 2));
    assert_eq!(status.message.as_deref(), Some("ended with exit code 7 after 2 restarts"));
    agent.restart();
    assert_eq!(agent.settle(), [""; 0], "also after the agent was restarted");
}

#[test]
fn attempts_are_counted_in_their_window() {
    let limited =
        RestartPolicy { max_attempts: Some(1), window: Some(Milliseconds(5_000)), ..policy(RestartCondition::Any) };
    let mut agent = running(web().restart(limited));
    for _ in 0..4 {
        agent.pass_time(20_000);
        agent.end(1, 7);
        assert_eq!(agent.settle(), ["start 1"]);
    }
    agent.end(1, 7);
    agent.settle();
    assert_eq!(agent.says(1).phase, Phase::Failed);
}

#[test]
fn an_unhealthy_container_is_stopped_and_started_again() {
    let mut agent = running(web().healthcheck().restart(policy(RestartCondition::OnFailure)));
    agent.verdict(1, Health::Unhealthy);
    assert_eq!(agent.settle(), ["stop 1", "start 1"]);
    assert_eq!(agent.says(1).restarts, 1);
}

#[test]
fn a_container_that_vanished_is_made_again() {
    let mut agent = running(web());
    agent.host = Default::default();
    agent.settle();
    assert!(agent.runs(1));
}

#[test]
fn after_a_boot_nothing_is_started_before_a_controller_was_heard() {
    let mut agent = running(web());
    agent.host.lose_power(agent.now);
    agent.restart();
    agent.start_not_before = Some(agent.now + Milliseconds(5_000));
    assert_eq!(agent.settle(), [""; 0]);
    assert_eq!(agent.sleeps(), Some(5_000));
    // The controller says that the task is somewhere else by now.
    agent.start_not_before = None;
    agent.drop_task(1);
    assert_eq!(agent.settle(), ["remove 1"]);
}

#[test]
fn without_any_controller_the_host_starts_what_it_had_after_a_while() {
    let mut agent = running(web());
    agent.host.lose_power(agent.now);
    agent.restart();
    agent.start_not_before = Some(agent.now + Milliseconds(5_000));
    agent.settle();
    agent.pass_time(5_000);
    assert_eq!(agent.settle(), ["start 1"]);
}

#[test]
fn what_is_no_longer_assigned_ends_before_anything_begins() {
    let mut agent = running(web());
    agent.drop_task(1);
    agent.assign(2, web());
    assert_eq!(agent.turn(), ["stop 1", "pull 2"]);
    assert_eq!(agent.turn(), ["remove 1", "create 2"]);
}

#[test]
fn a_stopped_task_keeps_what_it_left_until_it_leaves_the_assignment() {
    let mut agent = running(web());
    agent.stop(1);
    assert_eq!(agent.settle(), ["stop 1"]);
    assert_eq!(agent.says(1).phase, Phase::Complete);
    assert_eq!(agent.host.observe().containers.len(), 1);
    agent.drop_task(1);
    assert_eq!(agent.settle(), ["remove 1"]);
}

#[test]
fn a_task_waits_for_a_port_until_the_one_that_leaves_has_ended() {
    let mut agent = LoneAgent::default();
    agent.assign(1, web().publish_on_host(80, 8080));
    agent.settle();
    agent.stop(1);
    agent.assign(2, web().publish_on_host(80, 8080));
    // Both happen in one pass each, so the stop has ended when the start is planned.
    let done = agent.settle();
    let at = |step: &str| done.iter().position(|done| done == step);
    assert!(at("stop 1") < at("start 2"), "{done:?}");
    assert!(agent.runs(2));
}

#[test]
fn tasks_of_one_service_do_not_wait_for_a_port_that_they_share() {
    let mut agent = LoneAgent::default();
    for number in [1, 2] {
        agent.assign(number, web().publish(80, Some(8080)));
    }
    agent.settle();
    agent.stop(1);
    agent.end(2, 1);
    assert_eq!(agent.turn(), ["stop 1", "start 2"]);
}

#[test]
fn a_task_of_another_service_waits_for_a_shared_port() {
    let mut agent = LoneAgent::default();
    agent.assign_of("app/old", 1, web().publish(80, Some(8080)));
    agent.settle();
    agent.assign_of("app/new", 2, web().publish(80, Some(8080)));
    agent.turn();
    agent.turn();
    agent.stop(1);
    assert_eq!(agent.turn(), ["stop 1"]);
    assert_eq!(agent.settle(), ["start 2"]);
}

#[test]
fn what_cannot_run_here_is_rejected_and_not_tried_again() {
    let mut agent = LoneAgent::default();
    agent.assign(1, web().command(&["reject"]));
    agent.settle();
    let status = agent.says(1);
    assert_eq!(status.phase, Phase::Rejected);
    assert_eq!(status.message.as_deref(), Some("image `web` is for another processor"));
    agent.pass_time(1_000_000);
    assert_eq!(agent.settle(), [""; 0]);
}

#[test]
fn what_may_heal_is_tried_again_with_growing_pauses_and_says_so() {
    let mut agent = LoneAgent::default();
    agent.host.trouble = Trouble { registry_is_down: true, ..Trouble::default() };
    agent.assign(1, web());
    let mut pauses = Vec::new();
    for _ in 0..10 {
        agent.settle();
        pauses.push(agent.sleeps().expect("it tries again"));
        agent.pass_time(pauses[pauses.len() - 1]);
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 15000, 15000]);
    let message = agent.says(1).message.unwrap_or_default();
    assert_eq!(message, "cannot pull `web`: the registry does not answer; trying again after 15s");
    agent.restart();
    agent.host.trouble = Trouble::default();
    assert_eq!(agent.settle(), ["pull 1", "create 1", "start 1"]);
    assert_eq!(agent.says(1).message, None);
}

#[test]
fn a_report_says_the_same_as_long_as_nothing_happens() {
    let mut agent = LoneAgent::default();
    agent.assign(1, web().command(&["unpullable"]));
    agent.settle();
    let before = agent.says(1);
    agent.pass_time(50);
    agent.settle();
    assert_eq!(agent.says(1), before);
}

#[test]
fn a_task_that_ended_never_starts_again() {
    let mut agent = running(web().restart(policy(RestartCondition::None)));
    agent.end(1, 0);
    agent.settle();
    agent.host = Default::default();
    agent.restart();
    assert_eq!(agent.settle(), [""; 0]);
    assert_eq!(agent.says(1).phase, Phase::Complete);
}

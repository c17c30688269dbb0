//! What holds of the agent whatever happens: [`LoneAgent::turn`] checks the rules of a pass each time.

use proptest::prelude::*;
use stack_model::Health;
use stack_model::spec::{RestartCondition, RestartPolicy};
use stack_testkit::fake_host::Trouble;
use stack_testkit::lone_agent::LoneAgent;
use stack_testkit::specs::{Service, service};

#[derive(Debug, Clone)]
enum Happening {
    Assign(u64, u8),
    Stop(u64),
    Drop(u64),
    End(u64, i32),
    Verdict(u64, bool),
    Time(u64),
    Trouble(u8),
    PowerCut,
    Restart,
    Turn,
}

fn happening() -> impl Strategy<Value = Happening> {
    let task = 1..5_u64;
    prop_oneof![
        3 => (task.clone(), 0..6_u8).prop_map(|(task, kind)| Happening::Assign(task, kind)),
        1 => task.clone().prop_map(Happening::Stop),
        1 => task.clone().prop_map(Happening::Drop),
        2 => (task.clone(), 0..3).prop_map(|(task, code)| Happening::End(task, code)),
        1 => (task, any::<bool>()).prop_map(|(task, well)| Happening::Verdict(task, well)),
        2 => (0..30_000_u64).prop_map(Happening::Time),
        1 => (0..4_u8).prop_map(Happening::Trouble),
        1 => Just(Happening::PowerCut),
        1 => Just(Happening::Restart),
        6 => Just(Happening::Turn),
    ]
}

fn kind(number: u8) -> Service {
    let web = service("web");
    let policy = |condition, max_attempts| RestartPolicy { condition, delay: None, max_attempts, window: None };
    match number {
        0 => web.healthcheck(),
        1 => web.restart(policy(RestartCondition::None, None)),
        2 => web.restart(policy(RestartCondition::OnFailure, Some(2))).publish_on_host(80, 8080),
        3 => web.command(&["reject"]),
        4 => web.publish_on_host(81, 8080),
        _ => web.publish(80, Some(9090)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_agent_comes_to_rest_with_what_it_was_told(happenings in proptest::collection::vec(happening(), 0..60)) {
        let mut agent = LoneAgent::default();
        // A task's id is never used again, and what was asked to end never runs again.
        let mut given = std::collections::BTreeMap::new();
        for happening in happenings {
            match happening {
                Happening::Assign(number, of) => {
                    let turn = given.entry(number).or_insert(0_u64);
                    *turn += 1;
                    agent.drop_task(number + 10 * (*turn - 1));
                    agent.assign(number + 10 * *turn, kind(of));
                }
                Happening::Stop(number) => agent.stop(number + 10 * given.get(&number).copied().unwrap_or(0)),
                Happening::Drop(number) => agent.drop_task(number + 10 * given.get(&number).copied().unwrap_or(0)),
                Happening::End(number, code) => agent.end(number + 10 * given.get(&number).copied().unwrap_or(0), code),
                Happening::Verdict(number, well) => {
                    let verdict = if well { Health::Healthy } else { Health::Unhealthy };
                    agent.verdict(number + 10 * given.get(&number).copied().unwrap_or(0), verdict);
                }
                Happening::Time(milliseconds) => agent.pass_time(milliseconds),
                Happening::Trouble(which) => agent.host.trouble = Trouble {
                    registry_is_down: which == 1,
                    disk_is_full: which == 2,
                    rejects_everything: which == 3,
                },
                Happening::PowerCut => agent.host.lose_power(agent.now),
                Happening::Restart => agent.restart(),
                Happening::Turn => drop(agent.turn()),
            }
        }
        agent.host.trouble = Trouble::default();
        let mut rests = false;
        for _ in 0..100 {
            agent.settle();
            // Two tasks that want one port of the host try for ever: the planner never gives them to one host.
            match agent.sleeps() {
                Some(pause) => agent.pass_time(pause),
                None => { rests = true; break; }
            }
        }
        let owners = agent.want.tasks.values().filter(|task| task.spec.ports.iter().any(|port| port.published == Some(8080))).count();
        prop_assert!(rests || owners > 1, "the agent waits for ever");
        for task in agent.host.observe().containers.keys() {
            prop_assert!(agent.want.tasks.contains_key(task), "nothing is left of what is not assigned");
        }
    }
}

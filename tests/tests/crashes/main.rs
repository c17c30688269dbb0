//! The real daemon is killed at every step of everything that changes a host, and started again. Then nothing is left half
//! done: what was asked for is there as a whole or not at all, and there if it was acknowledged; what ran goes on; and nothing
//! stays behind when all is removed. `shims` does the same to the shim of a container, with the daemon standing still meanwhile.
//!
//! The steps are the `crash_point!`s of the engine's sources. Each scenario is played once to see which of them it comes by,
//! and then once for each of these, with the daemon killed there.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on fails"
)]

mod scenarios;
mod shims;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use scenarios::{ALL, CHANGING, ENDING, Host, IMAGES, MAKING, SURROUNDINGS, Scenario};
use world::Seen;

/// How long a host may take to be as it should after a crash.
const SETTLING: Duration = Duration::from_secs(20);

/// What a scenario leads to when nobody disturbs it.
struct Played {
    before: Seen,
    /// The change, and what may be so as well.
    after: Vec<Seen>,
    /// The points that it comes by, with how often.
    points: BTreeMap<String, usize>,
}

fn play(host: &mut Host, scenario: &Scenario) -> Played {
    (scenario.before)(host).unwrap();
    let before = host.world.at_rest();
    host.world.note_points();
    (scenario.act)(host).unwrap();
    let mut after = vec![host.world.at_rest()];
    let mut points = BTreeMap::new();
    for point in host.world.noted_points() {
        *points.entry(point).or_default() += 1;
    }
    for more in scenario.or {
        more(host).unwrap();
        after.push(host.world.at_rest());
    }
    host.clear();
    if let Err(seen) = host.world.becomes(&[&host.clean.clone()], SETTLING) {
        panic!("`{}` leaves without any crash: {}", scenario.name, seen.against(&host.clean));
    }
    Played { before, after, points }
}

/// Kills the daemon at one point of a scenario. What is wrong afterwards.
fn crash(host: &mut Host, scenario: &Scenario, played: &Played, point: &str, times: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    (scenario.before)(host).unwrap();
    host.world.at_rest();
    host.world.arm(point, times);
    let is_acknowledged = (scenario.act)(host).is_ok();
    if !host.world.has_crashed(SETTLING) {
        wrong.push("was not come by again".to_owned());
    } else {
        host.world.start();
    }
    if !host.is_bystander_untouched() {
        wrong.push("another container does not go on".to_owned());
    }
    let ignored = scenario.ignored;
    let mut allowed: Vec<Seen> = played.after.clone();
    if !is_acknowledged {
        allowed.push(played.before.clone());
    }
    let closest = |seen: &Seen| {
        let differences = allowed.iter().map(|one| seen.without(ignored).against(&one.without(ignored)));
        differences.min_by_key(|difference| difference.0.len()).unwrap()
    };
    let deadline = std::time::Instant::now() + SETTLING;
    loop {
        let difference = closest(&host.world.see());
        if difference.0.is_empty() {
            break;
        }
        if std::time::Instant::now() >= deadline {
            let heard = if is_acknowledged { "after it was acknowledged, " } else { "" };
            wrong.push(format!("{heard}neither whole nor gone: {difference}"));
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    host.clear();
    let clean = host.clean.clone();
    if let Err(seen) = host.world.becomes(&[&clean], SETTLING) {
        wrong.push(format!("left when all is removed: {}", seen.against(&clean)));
        // What comes after is judged by itself.
        host.clean = seen;
    }
    wrong
}

fn crash_everywhere(name: &str, scenarios: &[Scenario]) {
    let wanted = std::env::var("CRASH_SCENARIO").ok();
    let mut failures = Vec::new();
    let mut count = 0;
    let mut host = Host::make(name);
    for scenario in scenarios.iter().filter(|one| wanted.as_ref().is_none_or(|wanted| wanted == one.name)) {
        let played = play(&mut host, scenario);
        for (point, &times) in &played.points {
            let moments: BTreeSet<usize> = [1, times].into();
            for moment in moments {
                count += 1;
                for wrong in crash(&mut host, scenario, &played, point, moment) {
                    eprintln!("{} at {point} ({moment}): {wrong}", scenario.name);
                    failures.push(format!("{} at {point} ({moment}): {wrong}", scenario.name));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {count} crashes:\n{}", failures.len(), failures.join("\n"));
    eprintln!("{count} crashes of {name}");
}

/// In a thread of its own, which leaves the network of the others.
fn apart(test: impl FnOnce() + Send + 'static) {
    if let Err(panic) = std::thread::spawn(test).join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_daemon_killed_while_containers_come() {
    apart(|| crash_everywhere("making", MAKING));
}

#[test]
fn a_daemon_killed_while_containers_end_and_go() {
    apart(|| crash_everywhere("ending", ENDING));
}

#[test]
fn a_daemon_killed_while_containers_change() {
    apart(|| crash_everywhere("changing", CHANGING));
}

#[test]
fn a_daemon_killed_while_images_come_and_go() {
    apart(|| crash_everywhere("images", IMAGES));
}

#[test]
fn a_daemon_killed_while_volumes_and_networks_come_and_go() {
    apart(|| crash_everywhere("surroundings", SURROUNDINGS));
}

#[test]
fn a_shim_killed_while_its_container_comes_changes_and_goes() {
    apart(shims::killed_at_every_step);
}

#[test]
fn a_shim_killed_at_any_moment_of_a_start() {
    apart(shims::killed_at_any_moment);
}

#[test]
fn a_killed_shim_lets_policies_apply() {
    apart(shims::killed_under_a_policy);
}

/// The names of the points in the engine's sources.
fn points_in(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            points_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let calls = text.split("crash_point!(\"").skip(1);
            found.extend(calls.filter_map(|call| Some(call.split_once('"')?.0.to_owned())));
        }
    }
}

#[test]
fn every_point_of_the_sources_is_come_by() {
    apart(|| {
        let mut points = Vec::new();
        points_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/engine/src"), &mut points);
        let all: BTreeSet<String> = points.iter().cloned().collect();
        assert!(all.len() > 50, "{all:?}");
        assert_eq!(all.len(), points.len(), "two points have one name");
        let mut host = Host::make("all");
        let mut reached = BTreeSet::new();
        for scenario in ALL.into_iter().flatten() {
            reached.extend(play(&mut host, scenario).points.into_keys());
        }
        let missed: Vec<&String> = all.difference(&reached).collect();
        assert!(missed.is_empty(), "no scenario of `crashes` comes by {missed:?}: add one that does");
    });
}

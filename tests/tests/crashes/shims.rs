//! The shim of a container is killed at every step that the daemon takes with the container, and at any moment of a start. Then
//! the container's processes end with it, as nobody watches them; the end is told, with a reason; policies apply; and the
//! container can be started again and removed, with nothing left.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::play;
use super::scenarios::{ALL, Host, Scenario};
use super::world::{Gone, PATIENCE};

/// The scenarios in which a container has a shim at some time.
const MEANT: [&str; 12] = [
    "start",
    "start again",
    "stop",
    "stop one that does not listen",
    "kill",
    "remove one that runs",
    "update",
    "pause",
    "exec",
    "copy into one that runs",
    "connect",
    "disconnect",
];

/// What the daemon does with a container after it has answered begins sooner than that.
const AFTERWARDS: Duration = Duration::from_secs(1);

fn scenario(name: &str) -> &'static Scenario {
    ALL.into_iter().flatten().find(|scenario| scenario.name == name).unwrap()
}

fn inspect(host: &Host) -> Option<Value> {
    // It may have another name by now, and the bystander is not meant.
    let all = host.world.get("/containers/json?all=1");
    let id = all.as_array().unwrap().iter().find(|one| one["Names"][0] != "/bystander")?["Id"].as_str()?.to_owned();
    let (status, answer) = host.world.ask("GET", &format!("/containers/{id}/json"), None).unwrap();
    (status == 200).then(|| serde_json::from_slice(&answer).unwrap())
}

/// Kills the shims of a kind that the subject has. How many there were.
fn kill_shims(host: &Host, id: &str, kind: &str) -> usize {
    let shims = host.world.shims(id, kind);
    for shim in &shims {
        // It may end by itself meanwhile.
        let _ = kill(Pid::from_raw(*shim), Signal::SIGKILL);
    }
    shims.len()
}

/// Waits until something is so.
fn until(what: &str, mut condition: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() >= deadline {
            return Err(format!("never came: {what}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// What must be so after a shim was killed, wherever that was.
fn settles(host: &mut Host, id: &str) -> Result<(), String> {
    let mut seen = Value::Null;
    let settled = until("the container is at rest", || {
        let Some(found) = inspect(host) else { return host.world.members(id).is_empty() };
        let status = found["State"]["Status"].as_str().unwrap().to_owned();
        seen = found;
        match status.as_str() {
            "running" | "paused" => {
                let pid = seen["State"]["Pid"].as_i64().unwrap();
                host.world.shims(id, "run").len() == 1 && std::path::Path::new(&format!("/proc/{pid}")).exists()
            }
            "created" | "exited" => host.world.members(id).is_empty() && host.world.shims(id, "run").is_empty(),
            _ => false,
        }
    });
    settled.map_err(|error| format!("{error}: {} with {:?}", seen["State"], host.world.members(id)))?;
    if !host.is_bystander_untouched() {
        return Err("another container does not go on".to_owned());
    }
    Ok(())
}

/// What a container says that ended because its shim was killed: with Docker's code where it had not begun.
fn says_why(found: &Value) -> Result<(), String> {
    let state = &found["State"];
    let is_told = state["Status"] == "exited"
        && (state["ExitCode"] == 137 || state["ExitCode"] == 128)
        && state["Error"].as_str().is_some_and(|error| error.contains("shim"));
    if is_told { Ok(()) } else { Err(format!("the end is not told: {state}")) }
}

/// It can be started again where it is still there, and leaves nothing when it is removed.
fn goes_on(host: &mut Host) -> Result<(), String> {
    let mut wrong = Ok(());
    if let Some(found) = inspect(host) {
        let id = found["Id"].as_str().unwrap().to_owned();
        if matches!(found["State"]["Status"].as_str(), Some("created" | "exited")) {
            wrong = host.start(&id).map_err(|error| format!("cannot be started again: {error:?}"));
        }
    }
    host.world.may_refuse.store(false, Ordering::Relaxed);
    host.clear();
    let clean = host.clean.clone();
    if let Err(seen) = host.world.becomes(&[&clean], PATIENCE) {
        wrong = wrong.and(Err(format!("left when all is removed: {}", seen.against(&clean))));
        // What comes after is judged by itself.
        host.clean = seen;
    }
    wrong
}

/// What became of one time: whether the daemon stood still at the point, and whether there was a shim to kill.
struct Killed {
    held: bool,
    any: bool,
}

fn killed_at(host: &mut Host, scenario: &Scenario, point: &str, kind: &str) -> Result<Killed, String> {
    (scenario.before)(host).unwrap();
    host.world.at_rest();
    let id = inspect(host).unwrap()["Id"].as_str().unwrap().to_owned();
    host.world.hold(point, 1);
    host.world.may_refuse.store(true, Ordering::Relaxed);
    let shared = &*host;
    let (killed, answer) = std::thread::scope(|scope| {
        let act = scope.spawn(|| (scenario.act)(shared));
        // Some points are come by soon after the answer.
        let mut answered = None;
        let held = until("the daemon comes by", || {
            let is_over = act.is_finished() && answered.get_or_insert_with(Instant::now).elapsed() > AFTERWARDS;
            shared.world.is_held() || is_over
        });
        let is_held = shared.world.is_held();
        let any = kill_shims(shared, &id, kind) > 0;
        shared.world.release();
        let answer: Result<(), Gone> = act.join().unwrap();
        (held.map(|()| Killed { held: is_held, any }), answer)
    });
    let outcome = killed.and_then(|killed| {
        settles(host, &id)?;
        let Some(found) = inspect(host) else { return Ok(killed) };
        let is_over = found["State"]["Status"] == "exited";
        // One that has ended before, or was ended by a signal at the same time, has told how by itself.
        if killed.any
            && kind == "run"
            && is_over
            && !host.world.path().join("state/containers").join(&id).join("exit.json").exists()
        {
            says_why(&found)?;
        }
        if kind == "exec" && found["State"]["Status"] != "running" {
            return Err(format!("the container went with a command in it: {}", found["State"]));
        }
        Ok(killed)
    });
    let outcome = outcome.map_err(|error| format!("{error} (answered {answer:?})"));
    let more = goes_on(host);
    outcome.and_then(|killed| more.map(|()| killed))
}

/// Everywhere that the daemon comes by in these scenarios.
pub fn killed_at_every_step() {
    let mut host = Host::make("shims");
    let (mut failures, mut count, mut points_held, mut points_all) = (Vec::new(), 0, 0, 0);
    for name in MEANT {
        let scenario = scenario(name);
        let points: Vec<String> = play(&mut host, scenario).points.into_keys().collect();
        for point in points {
            let kinds: &[&str] = if name == "exec" { &["run", "exec"] } else { &["run"] };
            for kind in kinds {
                points_all += 1;
                match killed_at(&mut host, scenario, &point, kind) {
                    Ok(Killed { held, any }) => {
                        points_held += usize::from(held);
                        count += usize::from(any);
                    }
                    Err(error) => failures.push(format!("{name} at {point}, {kind}: {error}")),
                }
            }
        }
    }
    assert!(failures.is_empty(), "{count} kills:\n{}", failures.join("\n"));
    assert!(count > 20, "only {count} times there was a shim");
    // Some are come by after the answer, when nobody waits any more.
    assert!(points_held * 10 >= points_all * 9, "the daemon stood still at {points_held} of {points_all} points only");
    eprintln!("{count} shims were killed");
}

/// Of a start: the shim makes namespaces and mounts meanwhile, of which the daemon sees nothing.
pub fn killed_at_any_moment() {
    let mut host = Host::make("moments");
    let (mut failures, mut refused, mut acknowledged) = (Vec::new(), 0, 0);
    for step in 0..40_u64 {
        host.create("subject", json!({"HostConfig": {"NetworkMode": "shared"}, "Volumes": {"/anonymous": {}}}))
            .unwrap();
        let id = inspect(&host).unwrap()["Id"].as_str().unwrap().to_owned();
        host.world.may_refuse.store(true, Ordering::Relaxed);
        let shared = &host;
        let answer = std::thread::scope(|scope| {
            let act = scope.spawn(|| shared.start("subject"));
            let there = until("there is a shim", || !shared.world.shims(&id, "run").is_empty());
            std::thread::sleep(Duration::from_micros(step * 500));
            kill_shims(shared, &id, "run");
            there.map(|()| act.join().unwrap())
        });
        let outcome = settles(&mut host, &id).and_then(|()| {
            let found = inspect(&host).unwrap();
            match answer? {
                Ok(()) => {
                    acknowledged += 1;
                    says_why(&found)
                }
                Err(Gone(text)) if text.contains("shim") => {
                    refused += 1;
                    Ok(())
                }
                Err(Gone(text)) => Err(format!("the refusal does not say why: {text}")),
            }
        });
        if let Err(error) = outcome.and(goes_on(&mut host)) {
            failures.push(format!("after {} us: {error}", step * 500));
        }
    }
    assert!(failures.is_empty(), "{} of 40:\n{}", failures.len(), failures.join("\n"));
    eprintln!("{refused} starts were refused, {acknowledged} containers ended");
}

/// What a container's policy says of its end.
pub fn killed_under_a_policy() {
    let mut host = Host::make("policies");
    host.run("subject", json!({"HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}}}))
        .unwrap();
    let id = inspect(&host).unwrap()["Id"].as_str().unwrap().to_owned();
    for round in 1..=2 {
        let before = inspect(&host).unwrap()["State"]["Pid"].clone();
        assert_eq!(kill_shims(&host, &id, "run"), 1);
        until("it is started again", || {
            let found = inspect(&host).unwrap();
            found["RestartCount"] == round && found["State"]["Running"] == true && found["State"]["Pid"] != before
        })
        .unwrap();
        let old = i32::try_from(before.as_i64().unwrap()).unwrap();
        until("the old one is gone", || !host.world.members(&id).contains(&old)).unwrap();
    }
    assert_eq!(kill_shims(&host, &id, "run"), 1);
    until("its policy is spent", || inspect(&host).unwrap()["State"]["Status"] == "exited").unwrap();
    says_why(&inspect(&host).unwrap()).unwrap();
    goes_on(&mut host).unwrap();

    host.run("subject", json!({"HostConfig": {"AutoRemove": true}})).unwrap();
    let id = inspect(&host).unwrap()["Id"].as_str().unwrap().to_owned();
    assert_eq!(kill_shims(&host, &id, "run"), 1);
    until("it goes with its end", || inspect(&host).is_none()).unwrap();
    goes_on(&mut host).unwrap();
}

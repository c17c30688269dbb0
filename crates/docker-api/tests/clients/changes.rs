//! Containers that are paused, renamed, limited and started again, by the Docker CLI.

use serde_json::{Value, json};

use crate::served::{Served, fails, run, served, until};

const WAITS: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

async fn state(served: &Served, name: &str, what: &str) -> Value {
    served.get(&format!("/containers/{name}/json")).await["State"][what].clone()
}

#[test]
fn a_container_is_paused_and_goes_on() {
    served("docker-api-pause", async |served| {
        let counts = "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.01; done";
        run(&served, &["run", "-d", "--name", "web", "made:1", "sh", "-c", counts]).await;
        let count = async || run(&served, &["exec", "web", "sh", "-c", "read a < /count; echo $a"]).await;
        run(&served, &["pause", "web"]).await;
        assert_eq!(
            (state(&served, "web", "Status").await, state(&served, "web", "Paused").await),
            (json!("paused"), json!(true))
        );
        assert!(run(&served, &["ps"]).await.contains("(Paused)"));
        assert_eq!(run(&served, &["ps", "-q", "--filter", "status=paused"]).await.lines().count(), 1);
        assert!(fails(&served, &["pause", "web"]).await.contains("is already paused"));
        // A command would stand still with it, and whoever waits for it with both.
        let error = fails(&served, &["exec", "web", "true"]).await;
        assert!(error.contains("is paused, unpause the container before exec"), "{error}");
        run(&served, &["unpause", "web"]).await;
        assert!(fails(&served, &["unpause", "web"]).await.contains("is not paused"));
        let before = count().await;
        until("it goes on", async || count().await != before).await;

        // What is paused ends all the same, and an engine that begins knows that it is paused.
        run(&served, &["pause", "web"]).await;
        run(&served, &["stop", "-t", "1", "web"]).await;
        run(&served, &["start", "web"]).await;
        run(&served, &["pause", "web"]).await;
        run(&served, &["kill", "web"]).await;
        until("it has ended", async || state(&served, "web", "Status").await == "exited").await;
        assert!(fails(&served, &["pause", "web"]).await.contains("is not running"));
        // Clients count in whole seconds.
        let until = (jiff::Timestamp::now().as_second() + 1).to_string();
        let events = run(&served, &["events", "--since", "1h", "--until", &until, "--format", "{{.Action}}"]).await;
        let told: Vec<&str> = events.lines().filter(|action| action.contains("pause")).collect();
        assert_eq!(told, ["pause", "unpause", "pause", "unpause", "pause", "unpause"], "{events}");
    });
}

#[test]
fn a_paused_container_is_not_taken_for_ill() {
    served("docker-api-pause-health", async |served| {
        let probed = ["--health-cmd", "true", "--health-interval", "100ms", "--health-timeout", "300ms"];
        let all = ["run", "-d", "--name", "web"].into_iter().chain(probed);
        let all = all.chain(["--health-retries", "1", "made:1", "sh", "-c", WAITS]);
        let all: Vec<_> = all.collect();
        run(&served, &all).await;
        // Another one that is probed as often says how much time has gone.
        run(&served, &all.iter().map(|word| if *word == "web" { "clock" } else { *word }).collect::<Vec<_>>()).await;
        let health = async || state(&served, "web", "Health").await["Status"].clone();
        let newest = async || state(&served, "clock", "Health").await["Log"].as_array().unwrap().last().cloned();
        until("it is healthy", async || health().await == "healthy").await;
        run(&served, &["pause", "web"]).await;
        for _ in 0..6 {
            let before = newest().await;
            until("the other one is probed again", async || newest().await != before).await;
        }
        assert_eq!(health().await, "healthy");
        run(&served, &["unpause", "web"]).await;
        run(&served, &["exec", "web", "true"]).await;
        assert_eq!(health().await, "healthy");
    });
}

#[test]
fn what_a_container_needs_and_is_not_there_is_not_taken_for_its_image() {
    served("docker-api-needs", async |served| {
        for (option, value, words) in [
            ("--network", "nosuch", "network nosuch not found"),
            ("--network", "container:nosuch", "No such container: nosuch"),
            ("--ipc", "container:nosuch", "No such container: nosuch"),
            ("--pid", "container:nosuch", "No such container: nosuch"),
            ("--volumes-from", "nosuch", "No such container: nosuch"),
            ("--link", "nosuch:x", "No such container: nosuch"),
        ] {
            let error = fails(&served, &["run", "--rm", option, value, "made:1", "true"]).await;
            assert!(error.contains(words), "{option} {value}: {error}");
            assert!(!error.contains("Unable to find image"), "{option} {value}: {error}");
        }
    });
}

#[test]
fn a_container_gets_another_name_and_other_limits() {
    served("docker-api-update", async |served| {
        run(&served, &["run", "-d", "--name", "one", "-m", "64m", "--pids-limit", "50", "made:1", "sh", "-c", WAITS])
            .await;
        run(&served, &["create", "--name", "other", "made:1"]).await;
        let error = fails(&served, &["rename", "one", "other"]).await;
        assert!(error.contains("The container name \"/other\" is already in use by container"), "{error}");
        assert!(fails(&served, &["rename", "one", "one"]).await.contains("same name"));
        assert!(fails(&served, &["rename", "one", "a b"]).await.contains("Invalid container name"));
        run(&served, &["rename", "one", "two"]).await;
        assert!(fails(&served, &["inspect", "one"]).await.to_lowercase().contains("no such object"));

        run(&served, &["update", "-m", "96m", "--memory-swap", "192m", "--pids-limit", "70", "--cpus", "0.5", "two"])
            .await;
        let limits = served.get("/containers/two/json").await["HostConfig"].clone();
        assert_eq!((&limits["Memory"], &limits["PidsLimit"]), (&json!(96 << 20), &json!(70)));
        assert_eq!(limits["NanoCpus"], json!(500_000_000));
        // In force at once, as the kernel says.
        let usage =
            served.engine.usage(&served.engine.list().iter().find(|one| one.name == "two").unwrap().id).unwrap();
        assert_eq!(usage.memory_limit_bytes, Some(96 << 20));
        run(&served, &["update", "-m", "32m", "--memory-swap", "64m", "two"]).await;
        assert!(fails(&served, &["update", "-m", "128m", "two"]).await.contains("memoryswap"));
        assert!(fails(&served, &["update", "-m", "1k", "two"]).await.contains("6MB"));
        assert!(fails(&served, &["update", "--cpuset-cpus", "999", "two"]).await.contains("CPUs are not available"));
        run(&served, &["update", "--restart", "on-failure:3", "two"]).await;
        let policy = served.get("/containers/two/json").await["HostConfig"]["RestartPolicy"].clone();
        assert_eq!(policy, json!({"Name": "on-failure", "MaximumRetryCount": 3}));
        run(&served, &["run", "-d", "--rm", "--name", "passing", "made:1", "sh", "-c", WAITS]).await;
        assert!(fails(&served, &["update", "--restart", "always", "passing"]).await.contains("AutoRemove"));
        let pruned = run(&served, &["container", "prune", "-f"]).await;
        assert_eq!(pruned.lines().filter(|line| line.len() == 64).count(), 1, "only `other` does not run: {pruned}");
    });
}

#[test]
fn containers_are_started_again_as_their_policy_says() {
    served("docker-api-restart", async |served| {
        let count = async |name: &str| served.get(&format!("/containers/{name}/json")).await["RestartCount"].clone();
        run(&served, &["run", "-d", "--name", "fails", "--restart", "on-failure:2", "made:1", "sh", "-c", "exit 3"])
            .await;
        run(&served, &["run", "-d", "--name", "ends", "--restart", "on-failure", "made:1", "sh", "-c", "exit 0"]).await;
        run(&served, &["run", "-d", "--name", "stays", "--restart", "always", "made:1", "sh", "-c", "sleep 0.2"]).await;
        run(&served, &["run", "-d", "--name", "web", "--restart", "unless-stopped", "made:1", "sh", "-c", WAITS]).await;
        until("so often and no more", async || {
            count("fails").await == 2 && state(&served, "fails", "Status").await == "exited"
        })
        .await;
        assert_eq!(state(&served, "fails", "ExitCode").await, 3);
        assert_eq!((count("ends").await, state(&served, "ends", "Status").await), (json!(0), json!("exited")));
        until("again and again", async || count("stays").await.as_u64() >= Some(2)).await;
        until("a pause in between", async || state(&served, "stays", "Restarting").await == true).await;
        run(&served, &["stop", "stays"]).await;
        assert_eq!(
            (state(&served, "stays", "Status").await, state(&served, "stays", "Restarting").await),
            (json!("exited"), json!(false))
        );

        // Its process dies: again. Somebody kills it: not.
        let pid = state(&served, "web", "Pid").await.as_i64().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.try_into().unwrap()), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
        until("it runs again", async || {
            let state = served.get("/containers/web/json").await["State"].clone();
            state["Running"] == true && state["Pid"] != pid
        })
        .await;
        assert_eq!(count("web").await, 1);
        run(&served, &["kill", "web"]).await;
        until("it has ended", async || state(&served, "web", "Status").await == "exited").await;
        assert_eq!(state(&served, "web", "Restarting").await, false);
    });
}

//! What happens to containers when the processes that look after them are killed.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stack_engine::RemoveOptions;
use stack_engine::container::{Attach, ContainerConfig, ContainerId, ContainerState, ExecConfig, ExecId, ExecState};
use support::{Host, PATIENCE, config, open, processes_with, shell, with_host};

const PLACE: &str = "STACK_TEST_ENGINE_PLACE";
const GROUP: &str = "STACK_TEST_ENGINE_GROUP";

/// The engine that the tests below kill: this same test program, started anew.
#[test]
fn engine_to_be_killed() {
    let (Ok(place), Ok(group)) = (std::env::var(PLACE), std::env::var(GROUP)) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let engine = open(Path::new(&place), config(Path::new(&place), &group)).await;
        let talker = "i=0; while :; do echo number $i; i=$((i+1)); sleep 0.01; done";
        let waiter = "while ! test -e /data/go; do sleep 0.02; done; echo last words; exit 42";
        for (name, line) in [("talker", talker), ("waiter", waiter), ("idle", "true")] {
            let id = engine.create(Some(name.parse().unwrap()), shell(line)).await.unwrap();
            if name != "idle" {
                engine.start(&id).await.unwrap();
            }
        }
        // Those that go by themselves, and commands of one that stays.
        for (name, line) in [("passing", waiter), ("staying", talker)] {
            let config = ContainerConfig { auto_remove: true, ..shell(line) };
            let id = engine.create(Some(name.parse().unwrap()), config).await.unwrap();
            engine.start(&id).await.unwrap();
        }
        let talker = "talker".parse().unwrap();
        for (name, line) in
            [("ended", "while ! test -e /data/end; do sleep 0.02; done; exit 7"), ("lasting", "sleep 6000")]
        {
            let config = ExecConfig {
                arguments: ["sh", "-c", line].map(str::to_owned).to_vec(),
                output: true,
                ..ExecConfig::default()
            };
            let id = engine.exec_create(&talker, config).await.unwrap();
            engine.exec_start(&id, None, None).await.unwrap();
            std::fs::write(Path::new(&place).join(name), id.as_str()).unwrap();
        }
        let waiting = ExecConfig { arguments: vec!["true".to_owned()], ..ExecConfig::default() };
        let id = engine.exec_create(&talker, waiting).await.unwrap();
        std::fs::write(Path::new(&place).join("unstarted"), id.as_str()).unwrap();
        std::fs::write(Path::new(&place).join("ready"), "").unwrap();
        std::future::pending::<()>().await;
    });
}

struct Engine {
    child: Child,
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Where an engine was that was killed while its containers ran.
async fn killed_engine(host: &Host) -> PathBuf {
    let place: PathBuf = host.root.join("other");
    std::fs::create_dir(&place).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "engine_to_be_killed"])
        .env(PLACE, &place)
        .env(GROUP, &host.cgroup)
        .spawn()
        .unwrap();
    let mut engine = Engine { child };
    until("the engine is ready", || place.join("ready").exists()).await;
    kill(Pid::from_raw(engine.child.id().try_into().unwrap()), Signal::SIGKILL).unwrap();
    engine.child.wait().unwrap();
    place
}

#[test]
fn a_killed_engine_leaves_its_containers_running_and_the_next_one_knows_all() {
    with_host("adoption", async |host| {
        let place = killed_engine(&host).await;
        let shims = processes_with(place.to_str().unwrap()).len();
        assert!(shims >= 2, "{shims}");
        // Some of them end while there is no engine.
        let go = |name: &str, file: &str| {
            let shim = processes_with(&format!("containers/{name}"))[0];
            let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
            std::fs::write(format!("/proc/{}/root/data/{file}", children.trim()), "").unwrap();
        };
        go("passing", "go");
        go("talker", "end");
        until("the passing one has ended", || place.join("state/containers/passing/exit.json").exists()).await;
        let exec = |name: &str| std::fs::read_to_string(place.join(name)).unwrap();
        let ended = place.join("run/containers/talker/exec").join(exec("ended")).join("exit.json");
        until("the command has ended", || ended.exists()).await;
        let waiter_exit = place.join("state/containers/waiter/exit.json");
        assert!(!waiter_exit.exists());
        let upper = place.join("snapshots/waiter/upper/data");
        go("waiter", "go");
        until("the container has ended", || waiter_exit.exists()).await;
        assert!(upper.join("go").exists());
        let adopted = open(&place, config(&place, &host.cgroup)).await;
        let id = |name: &str| name.parse::<ContainerId>().unwrap();
        assert_eq!(adopted.wait(&id("waiter")).await.unwrap().code, 42);
        assert_eq!(adopted.inspect(&id("idle")).unwrap().state, ContainerState::Created);
        let ContainerState::Running { pid, .. } = adopted.inspect(&id("talker")).unwrap().state else {
            panic!("{:?}", adopted.inspect(&id("talker")).unwrap().state);
        };
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        // The end of a command is known, another one goes on, and one that was only made can be started.
        let parsed = |name: &str| exec(name).parse::<ExecId>().unwrap();
        assert_eq!(adopted.exec_wait(&parsed("ended")).await.unwrap(), Some(7));
        let lasting = adopted.exec_inspect(&parsed("lasting")).unwrap();
        let ExecState::Running { pid: command } = lasting.state else { panic!("{:?}", lasting.state) };
        assert!(Path::new(&format!("/proc/{command}")).exists());
        adopted.exec_start(&parsed("unstarted"), None, None).await.unwrap();
        assert_eq!(adopted.exec_wait(&parsed("unstarted")).await.unwrap(), Some(0));
        // Whoever attaches now gets what is said from now on.
        let wanted = Attach { output: true, ..Attach::default() };
        let mut attached = adopted.attach(&id("talker"), wanted).await.unwrap();
        assert!(attached.output.next().await.unwrap().unwrap().bytes.starts_with(b"number "));
        until("the passing one is removed", || adopted.inspect(&id("passing")).is_none()).await;
        assert!(adopted.inspect(&id("staying")).is_some());
        adopted.stop(&id("staying"), Some(std::time::Duration::ZERO)).await.unwrap();
        until("the staying one is removed, too", || adopted.inspect(&id("staying")).is_none()).await;
        adopted.stop(&id("talker"), Some(std::time::Duration::ZERO)).await.unwrap();
        let records: Vec<_> = {
            use tokio_stream::StreamExt;
            adopted.logs(&id("talker"), stack_engine::logs::LogQuery::default()).collect().await
        };
        for (number, record) in records.into_iter().enumerate() {
            assert_eq!(record.unwrap().output, format!("number {number}\n"));
        }
        for container in adopted.list() {
            adopted.remove(&container.id, RemoveOptions { force: true, volumes: true }).await.unwrap();
        }
    });
}

/// A shim that is stopped takes connections and says nothing.
#[test]
fn a_shim_that_does_not_answer_holds_up_nobody_for_long_and_its_container_is_ended() {
    with_host("silent", async |host| {
        let place = killed_engine(&host).await;
        let [silent] = processes_with("run/containers/waiter")[..] else { panic!("one shim") };
        kill(Pid::from_raw(silent), Signal::SIGSTOP).unwrap();
        let mut short = config(&place, &host.cgroup);
        short.shim_patience = std::time::Duration::from_secs(3);
        let adopted = open(&place, short).await;
        let id = |name: &str| name.parse::<ContainerId>().unwrap();
        let ContainerState::Exited(status) = adopted.inspect(&id("waiter")).unwrap().state else {
            panic!("{:?}", adopted.inspect(&id("waiter")).unwrap().state);
        };
        assert!(status.error.as_ref().is_some_and(|text| text.contains("did not answer for 3 s")), "{status:?}");
        until("its shim is gone", || processes_with("run/containers/waiter").is_empty()).await;
        assert!(matches!(adopted.inspect(&id("talker")).unwrap().state, ContainerState::Running { .. }));
        // It can be started again.
        adopted.start(&id("waiter")).await.unwrap();
        for container in adopted.list() {
            adopted.remove(&container.id, RemoveOptions { force: true, volumes: true }).await.unwrap();
        }
    });
}

#[test]
fn a_container_whose_record_is_damaged_is_ended_and_its_things_are_kept() {
    with_host("damaged", async |host| {
        let place = killed_engine(&host).await;
        let record = place.join("state/containers/talker/record.json");
        std::fs::write(&record, "{ torn").unwrap();
        let adopted = open(&place, config(&place, &host.cgroup)).await;
        let id = |name: &str| name.parse::<ContainerId>().unwrap();
        assert!(adopted.inspect(&id("talker")).is_none());
        until("its processes are gone", || processes_with("run/containers/talker").is_empty()).await;
        let warnings = adopted.warnings();
        let warning = warnings.iter().find(|warning| warning.contains("talker")).unwrap();
        assert!(warning.contains("cannot be understood") && warning.contains("containers-damaged"), "{warning}");
        let aside: Vec<_> = std::fs::read_dir(place.join("state/containers-damaged")).unwrap().collect();
        let kept = aside.into_iter().next().unwrap().unwrap().path();
        assert_eq!(std::fs::read_to_string(kept.join("record.json")).unwrap(), "{ torn");
        assert!(kept.join("logs").is_dir());
        assert!(matches!(adopted.inspect(&id("waiter")).unwrap().state, ContainerState::Running { .. }));
        // Its name is free.
        adopted.create(Some(id("talker")), shell("true")).await.unwrap();
        adopted.start(&id("talker")).await.unwrap();
        assert_eq!(adopted.wait(&id("talker")).await.unwrap().code, 0);
        for container in adopted.list() {
            adopted.remove(&container.id, RemoveOptions { force: true, volumes: true }).await.unwrap();
        }
    });
}

#[test]
fn a_killed_shim_takes_its_container_with_it_and_is_noticed() {
    with_host("shim", async |host| {
        let id = host.start("orphan", shell("echo ready; while :; do sleep 0.05; done")).await;
        host.says(&id, "ready").await;
        let pid = host.pid(&id);
        let shim = processes_with("run/containers/orphan")[0];
        kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
        let status = host.wait(&id).await;
        assert_eq!(status.code, 137);
        assert!(status.error.unwrap().contains("shim"));
        until("its process is gone", || !Path::new(&format!("/proc/{pid}")).exists()).await;
        host.engine.start(&id).await.unwrap();
        host.says(&id, "ready").await;
    });
}

#[test]
fn a_killed_container_is_noticed_with_its_signal() {
    with_host("container", async |host| {
        let id = host.start("victim", shell("echo ready; while :; do sleep 0.05; done")).await;
        kill(Pid::from_raw(host.pid(&id)), Signal::SIGKILL).unwrap();
        let status = host.wait(&id).await;
        assert_eq!((status.code, status.signal, status.error), (137, Some(9), None));
    });
}

#[test]
fn an_engine_that_starts_clears_away_what_a_cut_start_left() {
    with_host("cut", async |host| {
        let place = host.root.join("other");
        std::fs::create_dir(&place).unwrap();
        let settings = config(&place, &host.cgroup);
        let engine = open(&place, settings.clone()).await;
        let id = engine.create(Some("cut".parse().unwrap()), shell("true")).await.unwrap();
        engine.start(&id).await.unwrap();
        assert_eq!(engine.wait(&id).await.unwrap().code, 0);
        let record = place.join("state/containers/cut/record.json");
        // As if the engine had died right after it wrote what it intended.
        until("the end is recorded", || std::fs::read_to_string(&record).unwrap().contains("\"Exited\"")).await;
        let mut document: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
        drop(engine);
        document["state"] = "Started".into();
        document["starts"] = 9.into();
        std::fs::write(&record, serde_json::to_vec(&document).unwrap()).unwrap();
        std::fs::create_dir_all(place.join("run/containers/cut/root")).unwrap();
        // Without its record at all.
        std::fs::create_dir(place.join("state/containers/half")).unwrap();
        let mut again = None;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while again.is_none() {
            assert!(tokio::time::Instant::now() < deadline, "the first engine holds its store");
            if stack_engine::image::ImageStore::open(
                &settings.root.join("images"),
                stack_engine::image::RegistryConfig::default(),
            )
            .is_ok()
            {
                again = Some(open(&place, settings.clone()).await);
            }
        }
        let engine = again.unwrap();
        let ContainerState::Exited(status) = engine.inspect(&id).unwrap().state else { panic!() };
        assert_eq!(status.code, 137);
        assert!(!place.join("run/containers/cut").exists());
        assert!(!place.join("state/containers/half").exists());
        engine.start(&id).await.unwrap();
        assert_eq!(engine.wait(&id).await.unwrap().code, 0);
        engine.remove(&id, RemoveOptions { force: true, volumes: true }).await.unwrap();
    });
}

//! Clusters of real hosts. Only the daemon is a stand-in: a test below, started as a program, which answers on the address
//! and the sockets that it is configured with, has a "container" and mounts something.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nlink::netlink::nftables::Family;
use nlink::netlink::{Connection, Nftables, Route};

use super::cgroups::{Hierarchies, wait_until};
use super::cluster::{self, with_causes};
use super::process::Identity;
use super::*;

/// How long anything may take that should take no time at all.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for an answer that should not come.
const SILENCE: Duration = Duration::from_millis(800);

/// Not a test of its own: the first process of a host, when it is started with a cluster's directory and a host's name.
#[test]
fn the_first_process_of_a_host() {
    let arguments: Vec<String> = std::env::args().collect();
    let [.., directory, host] = &arguments[..] else { return };
    if !Path::new(directory).join("cluster.json").exists() {
        return;
    }
    let command = DevCommand::Host { directory: directory.into(), host: host.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(command, &Setup)).unwrap();
}

/// Not a test of its own: the daemon, when it is started with the path of its configuration.
#[test]
fn a_stand_in_for_stackd() {
    let Some(file) = std::env::args().next_back().filter(|last| last.ends_with("/stackd.toml")) else { return };
    let configuration: toml::Table = fs::read_to_string(file).unwrap().parse().unwrap();
    let text = |key: &str| configuration[key].as_str().unwrap().to_owned();
    let state = PathBuf::from(text("state_dir"));
    let mut starts = fs::OpenOptions::new().create(true).append(true).open(state.join("starts")).unwrap();
    writeln!(starts, "{}", std::process::id()).unwrap();
    if configuration.get("fails").is_some() {
        eprintln!("the stand-in was told to fail");
        std::process::exit(7);
    }
    contain(&state, &text("cgroup_parent"));
    let run = PathBuf::from(text("run_dir"));
    let listener = TcpListener::bind(text("listen")).unwrap();
    let mut sockets = Vec::new();
    for name in ["docker.sock", "stackd.sock"] {
        let _ = fs::remove_file(run.join(name));
        sockets.push(UnixListener::bind(run.join(name)).unwrap());
    }
    for stream in listener.incoming().flatten() {
        let name = text("hostname");
        std::thread::spawn(move || reply(stream, &name));
    }
}

/// Says who it is, or what another host says.
fn reply(mut stream: TcpStream, name: &str) {
    let mut line = String::new();
    BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
    let answer = match line.trim().strip_prefix("ask ") {
        Some(address) => ask(address.parse().unwrap(), "who", SILENCE).unwrap_or_else(|| "nobody".to_owned()),
        None => format!("{name} {}", nix::unistd::gethostname().unwrap().to_string_lossy()),
    };
    writeln!(stream, "{answer}").unwrap();
}

fn ask(address: Ipv4Addr, question: &str, patience: Duration) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, plan::DAEMON_PORT)), patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    writeln!(stream, "{question}").ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    Some(line.trim().to_owned()).filter(|line| !line.is_empty())
}

/// A process in a cgroup of its own below the given one, as a container is, unless it was started before; and a mount.
fn contain(state: &Path, parent: &str) {
    let file = state.join("container.pid");
    if Identity::read(&file).is_some() {
        return;
    }
    let nothing: Option<&str> = None;
    fs::create_dir_all(state.join("mounted")).unwrap();
    nix::mount::mount(nothing, &state.join("mounted"), Some("tmpfs"), nix::mount::MsFlags::empty(), nothing).unwrap();
    fs::write(state.join("mounted/here"), "").unwrap();
    let hierarchies = Hierarchies::find().unwrap();
    let cgroup = Path::new(parent.trim_start_matches('/')).join("one");
    hierarchies.make(&cgroup).unwrap();
    let mut child = Command::new("sleep").arg("600").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    for member in hierarchies.member_files(&cgroup) {
        fs::write(member, child.id().to_string()).unwrap();
    }
    Identity::of(i32::try_from(child.id()).unwrap()).unwrap().write(&file).unwrap();
    std::thread::spawn(move || child.wait());
}

/// Hosts become a cluster by a file.
struct Setup;

impl ClusterSetup for Setup {
    async fn is_ready(&self, host: &Host) -> bool {
        UnixStream::connect(host.stackd_socket()).is_ok()
    }

    async fn form(&self, cluster: &Cluster) -> Result<(), SetupError> {
        Ok(fs::write(cluster.directory.join("context"), &cluster.name)?)
    }

    async fn forget(&self, cluster: &Cluster) -> Result<(), SetupError> {
        let _ = fs::remove_file(cluster.directory.join("context"));
        Ok(())
    }

    async fn ports(&self, cluster: &Cluster) -> Result<Vec<TaskPort>, SetupError> {
        Ok(vec![TaskPort {
            node: cluster.hosts[0].name.clone(),
            task: "t1".to_owned(),
            service: "app/web".to_owned(),
            published: 8080,
            target: 80,
            protocol: "tcp".to_owned(),
        }])
    }
}

/// A cluster of a test, of which nothing remains after the test however it ends.
struct Trial {
    which: Which,
    launcher: Launcher,
    stackd: PathBuf,
    _directory: tempfile::TempDir,
}

impl Trial {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();
        let stackd = directory.path().join("stackd");
        let script = format!(
            "#!/bin/sh\nexec '{}' --exact dev::tests::a_stand_in_for_stackd --nocapture \"$2\"\n",
            program.display()
        );
        fs::write(&stackd, script).unwrap();
        fs::set_permissions(&stackd, fs::Permissions::from_mode(0o755)).unwrap();
        let name = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let arguments =
            ["--exact", "dev::tests::the_first_process_of_a_host", "--nocapture"].map(str::to_owned).to_vec();
        Self {
            which: Which { name, state_dir: Some(directory.path().join("c")) },
            launcher: Launcher { program, arguments },
            stackd,
            _directory: directory,
        }
    }

    fn directory(&self) -> PathBuf {
        self.which.directory()
    }

    fn up(&self, nodes: u8, set: &[&str], isolated: bool) -> DevCommand {
        DevCommand::Up {
            which: self.which.clone(),
            nodes,
            controllers: Some(1),
            insecure_registry: Vec::new(),
            set: set.iter().map(|setting| (*setting).to_owned()).collect(),
            isolated,
            stackd: Some(self.stackd.clone()),
            timeout: 30,
        }
    }

    fn target(&self, node: &str) -> Target {
        Target { which: self.which.clone(), node: node.to_owned() }
    }

    async fn run(&self, command: DevCommand) -> Result<ExitCode, DevError> {
        run_with(command, &self.launcher, &Setup).await
    }

    async fn down(&self) -> Result<ExitCode, DevError> {
        self.run(DevCommand::Down { which: self.which.clone() }).await
    }

    fn cluster(&self) -> Cluster {
        cluster::load(&self.directory()).unwrap()
    }

    async fn state(&self, node: &str) -> HostState {
        let listed = list(&self.cluster(), &Setup).await.unwrap();
        listed.iter().find(|host| host.name == node).unwrap().state
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let directory = self.directory();
        // A runtime cannot be started on a thread that is in one.
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(cluster::down(&directory, &Setup)).map_err(|error| with_causes(&error))
        });
        if let Ok(Err(error)) = cleaned.join() {
            eprintln!("a test's cluster remains: {error}");
        }
    }
}

fn container(host: &Host) -> Identity {
    Identity::read(&host.state_directory().join("container.pid")).unwrap()
}

fn starts(host: &Host) -> usize {
    fs::read_to_string(host.state_directory().join("starts")).unwrap().lines().count()
}

/// Everything of a cluster that this machine still has.
async fn traces(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    let links = Connection::<Route>::new().unwrap().get_links().await.unwrap();
    let ours: Vec<&str> =
        cluster.hosts.iter().map(|host| host.link.as_str()).chain([cluster.bridge.as_str()]).collect();
    found.extend(links.iter().filter_map(|link| link.name()).filter(|name| ours.contains(name)).map(str::to_owned));
    let tables = Connection::<Nftables>::new().unwrap().list_tables_in(Family::Ip).await.unwrap();
    found.extend(tables.into_iter().map(|table| table.name).filter(|name| Some(name) == cluster.table.as_ref()));
    let hierarchies = Hierarchies::find().unwrap();
    let cgroups = hierarchies.member_files(&cluster.cgroup());
    found.extend(cgroups.iter().filter(|path| path.exists()).map(|path| path.display().to_string()));
    found.extend(Some(cluster.directory.display().to_string()).filter(|_| cluster.directory.exists()));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(&*cluster.directory.to_string_lossy())).map(str::to_owned));
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        // A mount that a process of another namespace still sees.
        let Ok(mounts) = fs::read_to_string(entry.path().join("mountinfo")) else { continue };
        if mounts.contains(&*cluster.directory.to_string_lossy()) {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

#[tokio::test]
async fn hosts_live_die_and_leave_nothing() {
    let trial = Trial::new();
    trial.run(trial.up(3, &[], false)).await.unwrap();
    let cluster = trial.cluster();
    assert_eq!(fs::read_to_string(cluster.directory.join("context")).unwrap(), cluster.name);
    let again = trial.run(trial.up(3, &[], false)).await.unwrap_err();
    assert!(again.to_string().contains("`stack dev down` removes it"), "{again}");
    let address = |number: usize| cluster.hosts[number - 1].address;
    // Each by its own name, in this machine's namespace and among themselves.
    for host in &cluster.hosts {
        assert_eq!(ask(host.address, "who", PATIENCE), Some(format!("{0} {0}", host.name)));
        assert_eq!(trial.state(&host.name).await, HostState::Running);
        assert!(!host.state_directory().join("mounted/here").exists(), "a host's mounts are its own");
    }
    let from_one = |to: Ipv4Addr| ask(address(1), &format!("ask {to}"), PATIENCE).unwrap();
    assert_eq!(from_one(address(2)), "node2 node2");
    let listed = list(&cluster, &Setup).await.unwrap();
    assert_eq!(listed[0].ports[0].published, 8080);
    assert!(listed[1].ports.is_empty());
    UnixStream::connect(listed[2].docker_host.strip_prefix("unix://").unwrap()).unwrap();

    // Cut off, and linked again: nothing on the host notices.
    let before = host::daemon(&cluster.hosts[1]).unwrap();
    trial.run(DevCommand::Partition { target: trial.target("node2") }).await.unwrap();
    assert_eq!(trial.state("node2").await, HostState::Partitioned);
    assert_eq!(from_one(address(2)), "nobody");
    assert_eq!(from_one(address(3)), "node3 node3");
    assert_eq!(ask(address(2), "who", SILENCE), None);
    trial.run(DevCommand::Heal { target: trial.target("node2") }).await.unwrap();
    assert_eq!(from_one(address(2)), "node2 node2");
    assert_eq!(host::daemon(&cluster.hosts[1]), Some(before));

    // Paused: it answers nobody, and goes on.
    trial.run(DevCommand::Pause { target: trial.target("node2") }).await.unwrap();
    assert_eq!(trial.state("node2").await, HostState::Paused);
    assert_eq!(from_one(address(2)), "nobody");
    trial.run(DevCommand::Resume { target: trial.target("node2") }).await.unwrap();
    assert_eq!(from_one(address(2)), "node2 node2");
    assert_eq!((trial.state("node2").await, starts(&cluster.hosts[1])), (HostState::Running, 1));

    // The daemon dies alone, in both ways, and what it started goes on.
    let one = &cluster.hosts[0];
    let contained = container(one);
    trial.run(DevCommand::Kill { target: trial.target("node1"), daemon: true }).await.unwrap();
    assert_eq!((host::daemon(one), trial.state("node1").await), (None, HostState::Running));
    trial.run(DevCommand::Restart { target: trial.target("node1"), daemon: true }).await.unwrap();
    let pid = host::daemon(one).unwrap().pid;
    trial.run(DevCommand::Restart { target: trial.target("node1"), daemon: true }).await.unwrap();
    assert_ne!(host::daemon(one).unwrap().pid, pid);
    assert_eq!((container(one), starts(one)), (contained, 3));
    assert_eq!(from_one(address(2)), "node2 node2");
    // As a test or a user does it, by the process id of the listing.
    let pid = list(&cluster, &Setup).await.unwrap()[0].pid.unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert!(wait_until(|| host::daemon(one).is_none()));
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists() || wait_until(|| !Path::new(&format!("/proc/{pid}")).exists())
    );
    trial.run(DevCommand::Restart { target: trial.target("node1"), daemon: true }).await.unwrap();
    assert_eq!(container(one), contained);

    // The power fails: everything goes but the state. A second time changes nothing.
    let three = &cluster.hosts[2];
    let contained = container(three);
    // A paused container is no obstacle.
    Hierarchies::find().unwrap().freeze(&three.container_cgroup().join("one"), true).unwrap();
    for _ in 0..2 {
        trial.run(DevCommand::Kill { target: trial.target("node3"), daemon: false }).await.unwrap();
        assert_eq!(trial.state("node3").await, HostState::Dead);
        assert!(!contained.is_alive());
        assert!(!three.run_directory().exists());
        assert_eq!(starts(three), 1);
    }
    let refused = trial.run(DevCommand::Pause { target: trial.target("node3") }).await.unwrap_err();
    assert_eq!(refused.to_string(), "node3 is dead; `stack dev restart node3` switches it on");
    trial.run(DevCommand::Restart { target: trial.target("node3"), daemon: false }).await.unwrap();
    assert_eq!(from_one(address(3)), "node3 node3");
    assert_eq!(starts(three), 2);
    let unknown = trial.run(DevCommand::Kill { target: trial.target("node9"), daemon: false }).await.unwrap_err();
    assert!(unknown.to_string().contains("it has node1, node2, node3"), "{unknown}");

    // Also from states that are none of the usual ones.
    trial.run(DevCommand::Pause { target: trial.target("node1") }).await.unwrap();
    trial.run(DevCommand::Partition { target: trial.target("node2") }).await.unwrap();
    let processes: Vec<Identity> = cluster.hosts.iter().map(container).collect();
    trial.down().await.unwrap();
    assert_eq!(traces(&cluster).await, Vec::<String>::new());
    assert!(processes.iter().all(|process| !process.is_alive()));
    trial.down().await.unwrap();
    assert!(matches!(
        trial.run(DevCommand::Ls { which: trial.which.clone(), format: Format::Json }).await,
        Err(DevError::Cluster(ClusterError::Missing { .. }))
    ));
}

#[tokio::test]
async fn a_cluster_that_does_not_come_up_leaves_nothing_but_the_reason() {
    let trial = Trial::new();
    let error = trial.run(trial.up(2, &["fails=true"], true)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("the stand-in was told to fail\n(stackd: it exited with 7)"), "{text}");
    assert!(!trial.directory().exists());
    let wishes = Wishes {
        name: trial.which.name.clone(),
        directory: trial.directory(),
        nodes: 2,
        controllers: 1,
        stackd: trial.stackd.clone(),
        shim: trial.stackd.clone(),
        insecure_registries: Vec::new(),
        settings: Vec::new(),
        isolated: true,
    };
    let hierarchies = Hierarchies::find().unwrap();
    let cgroup = plan::decide(&wishes, Ipv4Addr::new(10, 64, 0, 0)).unwrap().cgroup();
    assert!(hierarchies.member_files(&cgroup).iter().all(|path| !path.exists()));
}

#[tokio::test]
async fn what_a_crash_left_is_removed() {
    let trial = Trial::new();
    trial.run(trial.up(2, &[], true)).await.unwrap();
    let cluster = trial.cluster();
    // The supervisor is gone but not what it started; a link is gone; a file of the record is half written.
    let hierarchies = Hierarchies::find().unwrap();
    let members = hierarchies.processes(&cluster.hosts[0].daemon_cgroup());
    let supervisor = members.iter().min().copied().unwrap();
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    wiring::remove_link(&cluster.hosts[1].link).await.unwrap();
    fs::write(cluster.directory.join("cluster.new"), "{").unwrap();
    trial.down().await.unwrap();
    assert_eq!(traces(&cluster).await, Vec::<String>::new());

    // The intent is on disk and nothing else is.
    fs::create_dir_all(&cluster.directory).unwrap();
    fs::write(cluster.directory.join("cluster.json"), serde_json::to_vec(&cluster).unwrap()).unwrap();
    trial.down().await.unwrap();
    assert_eq!(traces(&cluster).await, Vec::<String>::new());

    // Not even that: `up` ended before it had decided.
    fs::create_dir_all(&cluster.directory).unwrap();
    trial.down().await.unwrap();
    assert!(!cluster.directory.exists());

    // A directory of somebody else is not touched.
    fs::create_dir_all(cluster.directory.join("precious")).unwrap();
    trial.down().await.unwrap();
    let foreign = trial.run(trial.up(1, &[], true)).await.unwrap_err();
    assert!(foreign.to_string().contains("holds no cluster"), "{foreign}");
    assert!(cluster.directory.join("precious").exists());
}

/// A machine of its own, with an interface to one outside that answers as a daemon does.
async fn machine_outside() -> std::fs::File {
    let netns = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        std::fs::File::open("/proc/thread-self/ns/net").unwrap()
    })
    .join()
    .unwrap();
    let here = Connection::<Route>::new().unwrap();
    let there = Connection::<Route>::new_in(std::os::fd::AsFd::as_fd(&netns)).unwrap();
    here.set_link_up("lo").await.unwrap();
    let link = nlink::netlink::link::VethLink::new("up0", "up0").peer_netns_fd(&netns);
    here.add_link(link).await.unwrap();
    for (connection, last) in [(&here, 1), (&there, 2)] {
        let index = connection.get_link_by_name("up0").await.unwrap().unwrap().ifindex();
        let address = nlink::netlink::addr::Ipv4Address::with_index(index, Ipv4Addr::new(192, 0, 2, last), 24);
        connection.add_address(address).await.unwrap();
        connection.set_link_up("up0").await.unwrap();
    }
    let listener = std::thread::scope(|scope| {
        let bound = scope.spawn(|| {
            nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            TcpListener::bind(("192.0.2.2", plan::DAEMON_PORT)).unwrap()
        });
        bound.join().unwrap()
    });
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().unwrap().ip();
            // A stream that is closed with something unread in it takes the answer back.
            let _ = BufReader::new(&stream).read_line(&mut String::new());
            let _ = writeln!(stream, "outside sees {peer}");
        }
    });
    netns
}

#[test]
fn hosts_reach_each_other_and_the_world_past_a_firewall_that_drops() {
    let trial = async {
        let _outside = machine_outside().await;
        let nftables = Connection::<Nftables>::new().unwrap();
        let chain = nlink::netlink::nftables::Chain::new("filter", "FORWARD").unwrap().family(Family::Ip).base(
            nlink::netlink::nftables::BaseChain::filter(
                nlink::netlink::nftables::FilterHook::Forward,
                nlink::netlink::nftables::Priority::Filter,
            )
            .policy(nlink::netlink::nftables::Policy::Drop),
        );
        nftables.transaction().add_table("filter", Family::Ip).add_chain(chain).commit(&nftables).await.unwrap();
        let trial = Trial::new();
        let world = Ipv4Addr::new(192, 0, 2, 2);
        for isolated in [false, true] {
            wiring::set_forwarding(false).unwrap();
            trial.run(trial.up(2, &[], isolated)).await.unwrap();
            let cluster = trial.cluster();
            let from_one = |to: Ipv4Addr| ask(cluster.hosts[0].address, &format!("ask {to}"), PATIENCE).unwrap();
            assert_eq!(from_one(cluster.hosts[1].address), "node2 node2");
            assert_eq!(from_one(world), if isolated { "nobody" } else { "outside sees 192.0.2.1" });
            assert_eq!(wiring::forwards().unwrap(), !isolated);
            trial.down().await.unwrap();
            assert!(!wiring::forwards().unwrap());
            assert!(nftables.list_rules("filter", Family::Ip).await.unwrap().is_empty());
            assert_eq!(traces(&cluster).await, Vec::<String>::new());
        }
    };
    std::thread::scope(|scope| {
        let in_a_namespace = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(trial);
        });
        if let Err(panic) = in_a_namespace.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

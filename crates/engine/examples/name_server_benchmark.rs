//! Questions a second that one core of the name server answers at 127.0.0.11, and what a container costs. Needs root.
//!
//! The server has a runtime of one thread; its own processor time is what counts, because the clients need as much again.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program that measures: it prints figures, and what fails ends it"
)]

use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use nix::sched::{CloneFlags, setns, unshare};
use nix::time::{ClockId, clock_gettime};
use nlink::netlink::{Connection, Route};
use stack_engine::dns::{
    Client, Directory, EndpointNames, Layer, NAME_SERVER, NameServers, NameServersConfig, NetworkNames, Upstream,
};

const MEASURED: Duration = Duration::from_secs(3);
const CONTAINERS: usize = 300;
/// So many questions a client has open at once.
const WINDOW: usize = 32;

fn namespace() -> File {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    })
    .join()
    .unwrap()
}

async fn container() -> File {
    let netns = namespace();
    Connection::<Route>::new_in(netns.as_fd()).unwrap().set_link_up("lo").await.unwrap();
    netns
}

fn question(name: &str, record_type: RecordType) -> Vec<u8> {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message.to_vec().unwrap()
}

/// Asks as fast as it is answered, from inside a namespace, until told to stop.
fn ask(netns: &File, question: &[u8], stop: &AtomicBool, answers: &AtomicU64) {
    setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect((NAME_SERVER, 53)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..WINDOW {
            socket.send(question).unwrap();
        }
        for _ in 0..WINDOW {
            if socket.recv(&mut buffer).is_err() {
                break;
            }
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The middle and the hundredth-worst time of a question that is alone.
fn alone(netns: &File, question: &[u8]) -> (Duration, Duration) {
    setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect((NAME_SERVER, 53)).unwrap();
    let mut buffer = [0; 4096];
    let mut times: Vec<Duration> = (0..5000)
        .map(|_| {
            let start = Instant::now();
            socket.send(question).unwrap();
            socket.recv(&mut buffer).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// How many questions of two clients are answered in how many seconds, and how many of processor time the server needs.
async fn asked(from: [File; 2], question: &[u8], processor: impl Fn() -> Duration) -> (f64, f64, f64) {
    let stop = Arc::new(AtomicBool::new(false));
    let answers = Arc::new(AtomicU64::new(0));
    let clients = from.map(|netns| {
        let (question, stop, answers) = (question.to_vec(), Arc::clone(&stop), Arc::clone(&answers));
        std::thread::spawn(move || ask(&netns, &question, &stop, &answers))
    });
    let (began, before) = (Instant::now(), processor());
    let counted = answers.load(Ordering::Relaxed);
    tokio::time::sleep(MEASURED).await;
    let count = (answers.load(Ordering::Relaxed) - counted) as f64;
    let (wall, processor) = (began.elapsed().as_secs_f64(), (processor() - before).as_secs_f64());
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        tokio::task::spawn_blocking(move || client.join().unwrap()).await.unwrap();
    }
    (count, wall, processor)
}

/// The same question of a plain resolver, which has the answer in memory as well; nothing where it is not installed.
async fn plain_resolver() {
    let netns = container().await;
    let mut command = Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="]);
    command.args(["--user=root", "--bind-interfaces", "--listen-address=127.0.0.11", "--cache-size=10000"]);
    command.args((1..=3).map(|last| format!("--host-record=web,10.5.0.{last}")));
    command.stderr(Stdio::null());
    let inside = netns.try_clone().unwrap();
    // SAFETY: between fork and exec it makes one system call.
    unsafe { command.pre_exec(move || Ok(setns(inside.as_fd(), CloneFlags::CLONE_NEWNET)?)) };
    let Ok(mut resolver) = command.spawn() else {
        println!("a plain resolver: dnsmasq is not installed");
        return;
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    let path = format!("/proc/{}/stat", resolver.id());
    // Fields 14 and 15 of proc_pid_stat(5), in hundredths of a second.
    let processor = || {
        let text = std::fs::read_to_string(&path).unwrap();
        let after = text.rsplit_once(") ").unwrap().1;
        let ticks: u64 = after.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    };
    let from = [netns.try_clone().unwrap(), netns.try_clone().unwrap()];
    let (count, wall, processor) = asked(from, &question("web.", RecordType::A), processor).await;
    resolver.kill().unwrap();
    resolver.wait().unwrap();
    println!(
        "A, 3 addresses, of dnsmasq: {:.0} questions/s, {:.0} for each second of the server's processor time",
        count / wall,
        count / processor
    );
}

fn resident_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let servers = NameServers::new(NameServersConfig::default(), Arc::new(Directory::new()));
        let endpoints = (0..1000u32)
            .map(|index| EndpointNames {
                names: vec![format!("web.{index}"), if index < 3 { "web" } else { "other" }.to_owned()],
                addresses: vec![Ipv4Addr::from(0x0a05_0001 + index).into()],
                member: None,
            })
            .collect();
        let names = NetworkNames { network: "front".to_owned(), endpoints, ..NetworkNames::default() };
        servers.directory().publish(Layer::Host, names);
        let client = Client { networks: vec!["front".to_owned()], upstream: Upstream::Nobody, ..Client::default() };

        let mut namespaces = Vec::new();
        for _ in 0..CONTAINERS {
            namespaces.push(container().await);
        }
        let before = resident_kib();
        let start = Instant::now();
        for (index, netns) in namespaces.iter().enumerate() {
            servers.serve(&index.to_string(), netns, client.clone()).await.unwrap();
        }
        let each = start.elapsed().as_secs_f64() * 1e3 / CONTAINERS as f64;
        println!("serve one container more: {each:.2} ms");
        println!("memory for each of {CONTAINERS} containers: {} KiB", (resident_kib() - before) / CONTAINERS as u64);

        for (what, name, record_type) in [
            ("A, 3 addresses", "web.", RecordType::A),
            ("AAAA, none of this type", "web.", RecordType::AAAA),
            ("PTR", "1.0.5.10.in-addr.arpa.", RecordType::PTR),
            ("A of 997 addresses, cut to 512 bytes", "other.", RecordType::A),
        ] {
            let question = question(name, record_type);
            let asking = [0, 1].map(|index: usize| namespaces[index].try_clone().unwrap());
            let processor = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
            let (count, wall, processor) = asked(asking, &question, processor).await;
            println!(
                "{what}: {:.0} questions/s, {:.0} for each second of the server's processor time",
                count / wall,
                count / processor
            );
        }
        plain_resolver().await;
        let question = question("web.", RecordType::A);
        let (middle, worst) = tokio::task::spawn_blocking(move || {
            let netns = namespaces.remove(0);
            std::thread::spawn(move || alone(&netns, &question)).join().unwrap()
        })
        .await
        .unwrap();
        println!("one question at a time: p50 {} us, p99 {} us", middle.as_micros(), worst.as_micros());
    });
}

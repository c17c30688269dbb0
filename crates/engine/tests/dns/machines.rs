//! Machines made of network namespaces, name servers of the world, and clients that ask.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "only tests call these; what fails here fails the test")]

use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use nix::sched::{CloneFlags, setns, unshare};
use nlink::netlink::addr::Ipv4Address;
use nlink::netlink::link::VethLink;
use nlink::netlink::{Connection, Route};
use stack_engine::dns::{Directory, NAME_SERVER, NameServers, NameServersConfig};

/// How long anything may take that should take no time at all.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A network namespace. It is gone when the last socket and handle in it is.
pub struct Machine {
    pub netns: File,
}

impl Machine {
    /// With its loopback interface up.
    pub async fn new() -> Self {
        let netns = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap();
        let machine = Self { netns };
        machine.route().set_link_up("lo").await.unwrap();
        machine
    }

    fn route(&self) -> Connection<Route> {
        Connection::<Route>::new_in(self.netns.as_fd()).unwrap()
    }

    /// Runs something on a thread inside, beside the test's runtime.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let netns = self.netns.try_clone().unwrap();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            let _ = sender.send(work());
        });
        receiver.await.expect("the thread in the namespace panicked")
    }

    /// A link to another machine.
    pub async fn link(&self, own: Ipv4Addr, other: &Self, theirs: Ipv4Addr) {
        let connection = self.route();
        connection.add_link(VethLink::new("up0", "up0").peer_netns_fd(&other.netns)).await.unwrap();
        for (machine, address) in [(self, own), (other, theirs)] {
            let connection = machine.route();
            let index = connection.get_link_by_name("up0").await.unwrap().unwrap().ifindex();
            connection.add_address(Ipv4Address::with_index(index, address, 24)).await.unwrap();
            connection.set_link_up("up0").await.unwrap();
        }
    }

    /// Asks the name server over UDP.
    pub async fn ask(&self, name: &str, record_type: RecordType) -> Message {
        let query = query(name, record_type, None);
        self.run(move || exchange(&query)).await
    }

    /// The addresses that a name has, sorted.
    pub async fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for record_type in [RecordType::A, RecordType::AAAA] {
            addresses.extend(self.ask(name, record_type).await.answers.iter().filter_map(address));
        }
        addresses.sort();
        addresses
    }

    /// What busybox's `nslookup` prints about a name at the name server.
    pub async fn nslookup(&self, arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self.run(move || {
            let output = Command::new("busybox")
                .arg("nslookup")
                .args(arguments)
                .arg(NAME_SERVER.to_string())
                .output()
                .expect("busybox is installed");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
        .await
    }
}

/// The address in a record.
pub fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(address) => Some(IpAddr::V4((*address).into())),
        RData::AAAA(address) => Some(IpAddr::V6((*address).into())),
        _ => None,
    }
}

/// A question, perhaps with EDNS.
pub fn query(name: &str, record_type: RecordType, largest: Option<u16>) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).unwrap(), record_type));
    if let Some(largest) = largest {
        let mut edns = Edns::new();
        edns.set_max_payload(largest);
        message.edns = Some(edns);
    }
    message
}

/// Asks 127.0.0.11 over UDP, from the calling thread's namespace.
pub fn exchange(query: &Message) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect((NAME_SERVER, 53)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(&query.to_vec().unwrap()).unwrap();
    let mut buffer = [0; 65535];
    let length = socket.recv(&mut buffer).expect("an answer over UDP");
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, query.metadata.id);
    answer
}

/// Asks 127.0.0.11 several questions over one TCP connection.
pub fn converse(queries: &[Message]) -> Vec<Message> {
    let mut stream = TcpStream::connect((NAME_SERVER, 53)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for query in queries {
        write_frame(&mut stream, &query.to_vec().unwrap()).unwrap();
    }
    queries.iter().map(|_| Message::from_vec(&read_frame(&mut stream).expect("an answer over TCP")).unwrap()).collect()
}

pub fn write_frame(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes())?;
    stream.write_all(bytes)
}

pub fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(prefix))];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// How a name server of the world behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It answers.
    Good,
    /// It says that it cannot.
    Failing,
    /// It says nothing.
    Silent,
    /// It knows nothing of EDNS.
    Old,
    /// It sends a forged answer, with another id, before its own.
    Noisy,
}

/// A name server of the world. It knows `www.example.org` (its own address), `big.example.org` (a long text) and
/// `slow.example.org` (which it says when it is let); everything else does not exist.
pub struct World {
    asked: Arc<Mutex<HashMap<String, usize>>>,
    over_tcp: Arc<AtomicUsize>,
    gate: Arc<(Mutex<bool>, std::sync::Condvar)>,
}

impl World {
    pub async fn start(machine: &Machine, address: Ipv4Addr, manner: Manner) -> Self {
        let at = SocketAddr::from((address, 53));
        let world = Self {
            asked: Arc::default(),
            over_tcp: Arc::default(),
            gate: Arc::new((Mutex::new(false), std::sync::Condvar::new())),
        };
        let (udp, tcp) = machine.run(move || (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap())).await;
        let (asked, gate) = (Arc::clone(&world.asked), Arc::clone(&world.gate));
        let udp = Arc::new(udp);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                let query = Message::from_vec(&buffer[..length]).unwrap();
                *asked.lock().unwrap().entry(name_of(&query)).or_default() += 1;
                let (udp, gate) = (Arc::clone(&udp), Arc::clone(&gate));
                std::thread::spawn(move || {
                    if name_of(&query) == "slow.example.org." {
                        let open = gate.0.lock().unwrap();
                        let _ = gate.1.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap();
                    }
                    for bytes in answers(&query, manner, address, 512) {
                        let _ = udp.send_to(&bytes, peer);
                    }
                });
            }
        });
        let over_tcp = Arc::clone(&world.over_tcp);
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let Ok(mut stream) = stream else { return };
                over_tcp.fetch_add(1, Ordering::SeqCst);
                while let Ok(bytes) = read_frame(&mut stream) {
                    let query = Message::from_vec(&bytes).unwrap();
                    for bytes in answers(&query, manner, address, 65535) {
                        let _ = write_frame(&mut stream, &bytes);
                    }
                }
            }
        });
        world
    }

    /// How often it was asked for a name over UDP.
    pub fn asked_for(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    /// How many TCP connections it got.
    pub fn over_tcp(&self) -> usize {
        self.over_tcp.load(Ordering::SeqCst)
    }

    /// Lets it answer slow questions.
    pub fn open_gate(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

fn name_of(query: &Message) -> String {
    query.queries[0].name.to_ascii().to_lowercase()
}

/// What says how long it holds that there is nothing.
fn authority() -> Record {
    let zone = Name::from_ascii("example.org.").unwrap();
    let data = SOA::new(zone.clone(), zone.clone(), 1, 60, 60, 60, 60);
    Record::from_rdata(zone, 60, RData::SOA(data))
}

fn answers(query: &Message, manner: Manner, own: Ipv4Addr, limit: usize) -> Vec<Vec<u8>> {
    let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.queries = query.queries.clone();
    let name = query.queries[0].name.clone();
    match (manner, name_of(query).as_str(), query.queries[0].query_type) {
        (Manner::Silent, ..) => return Vec::new(),
        (Manner::Failing, ..) => answer.metadata.response_code = ResponseCode::ServFail,
        (Manner::Old, ..) if query.edns.is_some() => answer.metadata.response_code = ResponseCode::FormErr,
        (_, "www.example.org." | "slow.example.org.", RecordType::A) => {
            answer.answers.push(Record::from_rdata(name, 60, RData::A(A::from(own))));
        }
        (_, "www.example.org.", _) => answer.authorities.push(authority()),
        (_, "big.example.org.", RecordType::TXT) => {
            for part in 0..20 {
                let text = TXT::new(vec![format!("{part} {}", "x".repeat(200))]);
                answer.answers.push(Record::from_rdata(name.clone(), 60, RData::TXT(text)));
            }
        }
        _ => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.authorities.push(authority());
        }
    }
    let mut bytes = answer.to_vec().unwrap();
    if bytes.len() > limit {
        bytes = answer.truncate().to_vec().unwrap();
    }
    let mut sent = vec![bytes];
    if manner == Manner::Noisy {
        let mut forged = answer.clone();
        forged.metadata.id = !query.metadata.id;
        forged.answers =
            vec![Record::from_rdata(query.queries[0].name.clone(), 60, RData::A(A::from(Ipv4Addr::new(6, 6, 6, 6))))];
        sent.insert(0, forged.to_vec().unwrap());
    }
    sent
}

/// Name servers of a host whose resolver file says this.
pub fn name_servers(directory: &tempfile::TempDir, resolver_file: &str) -> NameServers {
    let host_file = directory.path().join("resolv.conf");
    std::fs::write(&host_file, resolver_file).unwrap();
    let config = NameServersConfig { host_file, ..NameServersConfig::default() };
    NameServers::new(config, Arc::new(Directory::new()))
}

/// Runs a test on a machine that is a host, on a thread in its namespace, in a runtime of its own.
pub fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Machine) -> F + Send) {
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            let setup = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let host = setup.block_on(Machine::new());
            setns(host.netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test(host));
        });
        if let Err(panic) = runner.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

//! Machines made of network namespaces, and programs on them that talk.
#![expect(clippy::unwrap_used, reason = "only tests call these; what fails here fails the test")]

use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nlink::netlink::addr::{Ipv4Address, Ipv6Address};
use nlink::netlink::link::VethLink;
use nlink::netlink::route::Ipv4Route;
use nlink::netlink::{Connection, Route};
use stack_engine::network::{Attachment, NetworkConfig, NetworkEndpoint, NetworkRequest, Networks, PortBinding};

/// The host's address on the link to the machine outside, and that machine's.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// How long anything may take that should take no time at all.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for an answer that should not come.
const SILENCE: Duration = Duration::from_millis(700);

/// A network namespace. It is gone when the last socket and handle in it is.
pub struct Machine {
    pub netns: File,
}

impl Machine {
    pub fn new() -> Self {
        let netns = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap();
        Self { netns }
    }

    /// Runs something on a thread inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(self.netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                    work()
                })
                .join()
                .unwrap()
        })
    }

    /// A server that answers each connection with its name and the client's address, and then echoes.
    pub fn serve(&self, name: &str, port: u16) {
        let listener = self.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap();
        answer(listener, name);
    }

    /// The same over IPv6.
    pub fn serve6(&self, name: &str, port: u16) {
        let listener = self.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).unwrap();
        answer(listener, name);
    }

    /// The same over UDP: an answer for each datagram.
    pub fn serve_udp(&self, name: &str, port: u16) {
        self.answer_datagrams(self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap(), name);
    }

    /// The same over IPv6.
    pub fn serve_udp6(&self, name: &str, port: u16) {
        self.answer_datagrams(self.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))).unwrap(), name);
    }

    fn answer_datagrams(&self, socket: UdpSocket, name: &str) {
        let name = name.to_owned();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                if socket.send_to(format!("{name} {}", peer.ip().to_canonical()).as_bytes(), peer).is_err() {
                    return;
                }
            }
        });
    }

    /// Who answers at an address, and as whom it sees us.
    pub fn ask(&self, address: IpAddr, port: u16) -> io::Result<(String, String)> {
        self.connect(address, port, PATIENCE).map(|(answer, _)| answer)
    }

    /// The same, with the connection left open.
    pub fn open(&self, address: IpAddr, port: u16) -> io::Result<((String, String), TcpStream)> {
        self.connect(address, port, PATIENCE)
    }

    /// Whether nobody answers.
    pub fn is_refused(&self, address: IpAddr, port: u16) -> bool {
        self.connect(address, port, SILENCE).is_err()
    }

    fn connect(&self, address: IpAddr, port: u16, patience: Duration) -> io::Result<((String, String), TcpStream)> {
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), patience)?;
            stream.set_read_timeout(Some(patience))?;
            let mut line = Vec::new();
            let mut byte = [0];
            while stream.read(&mut byte)? == 1 && byte != *b"\n" {
                line.push(byte[0]);
            }
            Ok((split(&String::from_utf8_lossy(&line)), stream))
        })
    }
}

fn answer(listener: TcpListener, name: &str) {
    let name = name.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let name = name.clone();
            std::thread::spawn(move || {
                let peer = stream.peer_addr()?.ip().to_canonical();
                writeln!(stream, "{name} {peer}")?;
                let mut reader = stream.try_clone()?;
                io::copy(&mut reader, &mut stream)
            });
        }
    });
}

/// Asks over UDP with a socket that stays the same.
pub fn ask_udp(socket: &UdpSocket, address: IpAddr, port: u16) -> io::Result<(String, String)> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"?", (address, port))?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(split(&String::from_utf8_lossy(&buffer[..length])))
}

/// Whether a connection that was opened still carries data both ways.
pub fn still_echoes(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut answer).is_ok() && &answer == b"hello"
}

fn split(text: &str) -> (String, String) {
    let (name, peer) = text.split_once(' ').unwrap_or((text, ""));
    (name.to_owned(), peer.to_owned())
}

/// Runs a test on a machine that is a host, linked to one outside, on a thread that is in its namespace.
pub fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Machine, Machine) -> F + Send) {
    let host = Machine::new();
    let outside = Machine::new();
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            setns(host.netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            // Relays work while a test waits for an answer: on threads that are on the host, too.
            let inside = host.netns.try_clone().unwrap();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .on_thread_start(move || setns(inside.as_fd(), CloneFlags::CLONE_NEWNET).unwrap())
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                link(&host, &outside).await;
                test(host, outside).await;
            });
        });
        if let Err(panic) = runner.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// The same addresses in IPv6.
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// Gives both ends of the link to the machine outside IPv6 addresses.
pub async fn link6(host: &Machine, outside: &Machine) {
    for (machine, address) in [(host, HOST6), (outside, OUTSIDE6)] {
        let connection = Connection::<Route>::new_in(machine.netns.as_fd()).unwrap();
        let index = connection.get_link_by_name("up0").await.unwrap().unwrap().ifindex();
        connection.add_address(Ipv6Address::with_index(index, address, 64).nodad()).await.unwrap();
    }
}

async fn link(host: &Machine, outside: &Machine) {
    for (machine, address, other) in [(host, HOST, Some(&outside.netns)), (outside, OUTSIDE, None)] {
        let connection = Connection::<Route>::new_in(machine.netns.as_fd()).unwrap();
        connection.set_link_up("lo").await.unwrap();
        if let Some(netns) = other {
            connection.add_link(VethLink::new("up0", "up0").peer_netns_fd(netns)).await.unwrap();
        }
        let index = connection.get_link_by_name("up0").await.unwrap().unwrap().ifindex();
        connection.add_address(Ipv4Address::with_index(index, address, 24)).await.unwrap();
        connection.set_link_up("up0").await.unwrap();
    }
}

/// Gives the machine outside a route that no real one has: to the containers by the host.
pub async fn route_past_published_ports(outside: &Machine) {
    let connection = Connection::<Route>::new_in(outside.netns.as_fd()).unwrap();
    connection.add_route(Ipv4Route::new(Ipv4Addr::new(172, 30, 0, 0), 16).gateway(HOST)).await.unwrap();
}

/// The names of the links of a machine, its loopback and the link outside left out.
pub async fn links(machine: &Machine) -> Vec<String> {
    let connection = Connection::<Route>::new_in(machine.netns.as_fd()).unwrap();
    let links = connection.get_links().await.unwrap();
    links
        .iter()
        .filter_map(|link| link.name())
        .filter(|name| !matches!(*name, "lo" | "up0"))
        .map(str::to_owned)
        .collect()
}

pub async fn networks(root: &Path) -> Networks {
    Networks::open(root, NetworkConfig::default()).await.unwrap()
}

pub fn port(host_port: u16, shared: bool) -> PortBinding {
    PortBinding { host_port, container_port: 80, shared, ..PortBinding::default() }
}

pub fn request(names: &[&str], ports: &[PortBinding]) -> NetworkRequest {
    NetworkRequest {
        networks: names
            .iter()
            .map(|name| NetworkEndpoint { name: (*name).to_owned(), aliases: Vec::new(), ..NetworkEndpoint::default() })
            .collect(),
        ports: ports.to_vec(),
        held_only: false,
        between: Vec::new(),
        hostname: String::new(),
        name: String::new(),
    }
}

/// A container that serves its name on port 80.
pub async fn container(networks: &Networks, id: &str, names: &[&str], ports: &[PortBinding]) -> (Machine, Attachment) {
    for name in names {
        networks.create_network(name).await.unwrap();
    }
    let machine = Machine::new();
    let attachment = networks.attach(id, &machine.netns, &request(names, ports)).await.unwrap();
    machine.serve(id, 80);
    (machine, attachment)
}

/// The address of its first interface.
pub fn address(attachment: &Attachment) -> IpAddr {
    attachment.endpoints[0].addresses().next().unwrap()
}

/// Runs the `nft` program on a machine; what it reads is given.
pub fn nft(machine: &Machine, arguments: &[&str], input: &str) -> String {
    machine.run(|| {
        let mut child = Command::new("nft")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}\n{input}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    })
}

/// Whether this machine's bridges hand their packets to iptables and nftables, as Docker has it.
pub fn set_bridge_filtering(on: bool) {
    // Where the kernel has no br_netfilter both runs of a test are the same one.
    let path = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    if std::path::Path::new(path).exists() {
        std::fs::write(path, if on { "1" } else { "0" }).unwrap();
    }
}

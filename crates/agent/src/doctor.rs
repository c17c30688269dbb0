//! What a host finds of itself and of the ways to the others, for `stack doctor`.
//!
//! Whether packets of the networks between hosts arrive is tried with packets: every host sends some to the others' port
//! and listens for theirs beside the kernel, which has the port and drops what is no VXLAN. All hosts do so at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use nix::libc;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockProtocol, SockType, sockopt};
use nix::sys::time::TimeVal;
use stack_api::error::full_text;
use stack_api::examination::{ExamineRequest, Finding, Heard, HostExamination, Reached, Verdict};
use stack_engine::Engine;
use stack_engine::encryption::{Implementation, PeerState, Slot, Tunnels, Unable};
use stack_engine::overlay::{DEFAULT_PORT, OVERHEAD_IPV4, OVERHEAD_IPV6};
use stack_model::NodeId;

use crate::reconcile::now;

/// The others may begin so much later.
const GET_READY: Duration = Duration::from_millis(700);
/// Between the rounds of packets: one that is lost is no firewall.
const ROUND: Duration = Duration::from_millis(250);
const ROUNDS: u32 = 3;
/// Packets may take so long.
const LINGER: Duration = Duration::from_millis(700);
/// A host that does not take a connection in this time is not reached.
const CONNECT: Duration = Duration::from_secs(2);
/// What is tried, in bytes with the IP header: what every IPv6 link must pass, what tunnels leave of Ethernet, Ethernet, and
/// what larger links pass. Those that are larger than the interface's are not sent.
const SIZES: [u32; 9] = [1280, 1350, 1400, 1450, 1480, 1492, 1500, 4000, 9000];
/// Begins the packets. VXLAN's first byte has a bit that this has not, so that the kernel drops it.
const MAGIC: &[u8; 8] = b"stackdoc";
/// The magic, the nonce, the sender.
const PROBE_HEADER: usize = 8 + 8 + 16;
const UDP_HEADER: u32 = 8;

/// Who is examined.
#[derive(Debug, Clone)]
pub struct Patient {
    /// This host.
    pub node: NodeId,
    /// Where the engine keeps everything.
    pub state_directory: PathBuf,
    /// By which encrypted networks send.
    pub tunnels: Arc<Tunnels>,
}

/// Examines this host.
pub async fn examine(engine: &Engine, patient: &Patient, request: ExamineRequest) -> HostExamination {
    let own = request.hosts.iter().find(|host| host.node == patient.node);
    let is_controller = own.is_some_and(|own| own.is_controller);
    let others: Vec<_> = request.hosts.iter().filter(|host| host.node != patient.node).cloned().collect();
    let (node, nonce) = (patient.node, request.nonce);
    let addresses: Vec<IpAddr> = others.iter().map(|host| host.address.ip()).collect();
    let probing = tokio::task::spawn_blocking(move || probe(node, nonce, &addresses));
    let connecting = join_all(others.iter().filter(|host| is_controller || host.is_controller).map(async |host| {
        let failure = match tokio::time::timeout(CONNECT, tokio::net::TcpStream::connect(host.address)).await {
            Ok(Ok(_connected)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_elapsed) => Some(format!("no answer within {} s", CONNECT.as_secs())),
        };
        Reached { node: host.node, failure }
    }));
    let directory = patient.state_directory.clone();
    let looking = tokio::task::spawn_blocking(move || look(&directory));
    let (probed, reached, looked) = tokio::join!(probing, connecting, looking);
    let mut findings = looked.unwrap_or_default();
    findings.extend(of_engine(engine));
    findings.extend(of_tunnels(patient.tunnels.implementation().await, &patient.tunnels.peers()));
    let heard = match probed.map_err(io::Error::other).and_then(|probed| probed) {
        Ok(heard) => heard,
        Err(error) => {
            let text = format!("the networks between hosts cannot be tried: {error}");
            findings.push(Finding::of("network", Verdict::Failure, text, "run stackd as root, with all capabilities"));
            Vec::new()
        }
    };
    let overhead = if own.is_some_and(|own| own.address.is_ipv6()) { OVERHEAD_IPV6 } else { OVERHEAD_IPV4 };
    HostExamination { clock_milliseconds: now().0, findings, reached, heard, data_port: DEFAULT_PORT, overhead }
}

/// Sends packets to all these hosts, and answers whose arrived here.
fn probe(own: NodeId, nonce: u64, others: &[IpAddr]) -> io::Result<Vec<Heard>> {
    // One of a family that the host does not have hears nothing.
    let families: BTreeSet<bool> = others.iter().map(IpAddr::is_ipv6).collect();
    let mut listeners = Vec::new();
    for is_ipv6 in families {
        listeners.push((is_ipv6, listener(is_ipv6)?));
    }
    let rounds = ROUND * ROUNDS;
    let until = Instant::now() + GET_READY + rounds + LINGER;
    std::thread::scope(|scope| {
        let listening: Vec<_> = listeners
            .iter()
            .map(|(is_ipv6, listener)| scope.spawn(move || listen(listener, *is_ipv6, nonce, until)))
            .collect();
        std::thread::sleep(GET_READY);
        for _round in 0..ROUNDS {
            for &other in others {
                if let Err(error) = send(own, nonce, other) {
                    // The other one says that it heard nothing.
                    tracing::debug!(%other, %error, "cannot send packets");
                }
            }
            std::thread::sleep(ROUND);
        }
        let mut heard: BTreeMap<NodeId, Heard> = BTreeMap::new();
        for listening in listening {
            let found = listening.join().map_err(|_panic| io::Error::other("a listener ended in a panic"))??;
            for one in found {
                let entry = heard.entry(one.node).or_insert_with(|| one.clone());
                entry.largest = entry.largest.max(one.largest);
                entry.largest_sent = entry.largest_sent.max(one.largest_sent);
            }
        }
        Ok(heard.into_values().collect())
    })
}

/// Hears a copy of every UDP packet that this host takes, after its firewall.
fn listener(is_ipv6: bool) -> io::Result<OwnedFd> {
    let family = if is_ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let socket = socket::socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Udp)?;
    socket::setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 100_000))?;
    // A busy host's other packets come here, too.
    let _ = socket::setsockopt(&socket, sockopt::RcvBuf, &(4 * 1024 * 1024));
    Ok(socket)
}

fn listen(socket: &OwnedFd, is_ipv6: bool, nonce: u64, until: Instant) -> io::Result<Vec<Heard>> {
    let mut heard: Vec<Heard> = Vec::new();
    let mut buffer = vec![0; 65_536];
    while Instant::now() < until {
        let length = match socket::recv(socket.as_raw_fd(), &mut buffer, socket::MsgFlags::empty()) {
            Ok(length) => length,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let packet = buffer.get(..length).unwrap_or_default();
        heard.extend(read(packet, is_ipv6, nonce));
    }
    Ok(heard)
}

/// What a packet says, if it is one of this examination. A raw socket of IPv4 shows the IP header, one of IPv6 does not.
fn read(packet: &[u8], is_ipv6: bool, nonce: u64) -> Option<Heard> {
    let (header, whole) =
        if is_ipv6 { (0, packet.len() + 40) } else { (usize::from(packet.first()? & 0x0F) * 4, packet.len()) };
    let udp = packet.get(header..)?;
    let port = u16::from_be_bytes(*udp.get(2..4)?.first_chunk::<2>()?);
    let body = udp.get(8..)?;
    let is_ours = port == DEFAULT_PORT
        && body.starts_with(MAGIC)
        && body.get(8..16)? == nonce.to_be_bytes()
        && body.len() >= PROBE_HEADER;
    if !is_ours {
        return None;
    }
    let node = NodeId::from_bits(u128::from_be_bytes(*body.get(16..32)?.first_chunk::<16>()?));
    let largest_sent =
        body.get(32..36).and_then(|bytes| bytes.first_chunk::<4>()).map(|bytes| u32::from_be_bytes(*bytes));
    let largest = u32::try_from(whole).ok()?;
    Some(Heard { node, largest, largest_sent: largest_sent.unwrap_or(largest) })
}

/// Sends one packet of each size, none of which may be divided on its way.
fn send(own: NodeId, nonce: u64, to: IpAddr) -> io::Result<()> {
    let anywhere = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind(SocketAddr::new(anywhere, 0))?;
    whole_packets_only(&socket, to.is_ipv6())?;
    let target = SocketAddr::new(to, DEFAULT_PORT);
    let header = UDP_HEADER + if to.is_ipv4() { 20 } else { 40 };
    let packet = |size: u32, largest: u32| {
        let mut packet = Vec::from(MAGIC);
        packet.extend(nonce.to_be_bytes());
        packet.extend(own.bits().to_be_bytes());
        packet.extend(largest.to_be_bytes());
        packet.resize(usize::try_from(size.saturating_sub(header)).unwrap_or(0).max(packet.len()), 0);
        packet
    };
    // The largest first: the others say then how large it was.
    let mut largest = 0;
    let mut outcome = Err(io::ErrorKind::InvalidInput.into());
    for size in SIZES.into_iter().rev() {
        match socket.send_to(&packet(size, largest.max(size)), target) {
            Ok(_) => {
                largest = largest.max(size);
                outcome = Ok(());
            }
            // More than the interface takes.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {}
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

/// Packets are sent whole, whatever was learnt of the path, or not at all.
fn whole_packets_only(socket: &UdpSocket, is_ipv6: bool) -> io::Result<()> {
    let (level, option, value) = if is_ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    };
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and the value lives as long as the call.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn of_engine(engine: &Engine) -> Vec<Finding> {
    let told = engine.warnings().into_iter().chain(engine.networks().warnings());
    let mut findings: Vec<Finding> =
        told.map(|text| Finding::of("engine", Verdict::Warning, text, "the log of stackd says more")).collect();
    let users = engine.user_namespaces();
    if users.by_default && engine.user_namespaces_refusal().is_none() {
        let text =
            format!("containers have them, with {} ids of the host from {} on", users.ids.count, users.ids.first);
        findings.push(Finding::fine("user namespaces", text));
    }
    let missing = stack_engine::cgroup::missing_limits(engine.hierarchies());
    findings.push(if missing.is_empty() {
        Finding::fine("control groups", "limits of memory, processors and processes can be set")
    } else {
        let text = format!("limits cannot be set for: {}", missing.join(", "));
        let remedy = "enable these controllers in the kernel's command line (`cgroup_enable=…`) or in systemd";
        Finding::of("control groups", Verdict::Warning, text, remedy)
    });
    findings
}

/// Pure. Whether the host can be on encrypted networks, and whether the others answer there.
fn of_tunnels(implementation: Result<Implementation, Unable>, peers: &BTreeMap<Slot, Vec<PeerState>>) -> Vec<Finding> {
    let mut findings = vec![match implementation {
        Ok(Implementation::Kernel) => Finding::fine("encryption", "by the kernel's WireGuard"),
        Ok(Implementation::UserSpace) => {
            Finding::fine("encryption", "in user space, as the kernel has no WireGuard: slower than by the kernel")
        }
        Err(unable) => Finding::of(
            "encryption",
            Verdict::Warning,
            format!("this host can be on no encrypted network: {unable}"),
            "give it a kernel with WireGuard, or with TUN devices and IPv6",
        ),
    }];
    // Asked, and never answered by any of its keys.
    let answered: BTreeSet<IpAddr> = peers
        .values()
        .flatten()
        .filter(|peer| peer.handshake_seconds.is_some())
        .filter_map(|peer| Some(peer.endpoint?.ip()))
        .collect();
    let silent = peers.values().flatten().filter(|peer| peer.sent > 0 && peer.handshake_seconds.is_none());
    let silent: BTreeSet<SocketAddr> =
        silent.filter_map(|peer| peer.endpoint).filter(|endpoint| !answered.contains(&endpoint.ip())).collect();
    findings.extend(silent.into_iter().map(|endpoint| {
        Finding::of(
            "encryption",
            Verdict::Failure,
            format!("{endpoint} does not answer: nothing of encrypted networks passes between it and this host"),
            format!("open UDP port {} and its neighbour (`encryption.port`) between the two", endpoint.port()),
        )
    }));
    findings
}

/// What does not need the engine.
fn look(state_directory: &Path) -> Vec<Finding> {
    vec![kernel(), disk(state_directory), clock(), files()]
}

/// What the kernel must have, as modules are called.
const MODULES: [&str; 6] = ["overlay", "bridge", "veth", "nf_tables", "nf_conntrack", "vxlan"];

fn kernel() -> Finding {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    let loaded = std::fs::read_to_string("/proc/modules").unwrap_or_default();
    let directory = Path::new("/lib/modules").join(&release);
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
    let (builtin, there) = (read("modules.builtin"), read("modules.dep"));
    let missing: Vec<&str> = MODULES.into_iter().filter(|name| !has_module(name, &loaded, &builtin, &there)).collect();
    if missing.is_empty() {
        return Finding::fine("kernel", format!("Linux {release} has what is needed"));
    }
    // A kernel without lists of its modules says nothing about what is built into it.
    if builtin.is_empty() && there.is_empty() {
        return Finding::fine("kernel", format!("Linux {release}; it does not list its modules"));
    }
    let text = format!("Linux {release} lacks {}", missing.join(", "));
    Finding::of(
        "kernel",
        Verdict::Failure,
        text,
        "install the kernel package with all modules, such as linux-image-amd64",
    )
}

fn has_module(name: &str, loaded: &str, builtin: &str, there: &str) -> bool {
    let is_file = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        let stem = file.split('.').next().unwrap_or(file);
        stem.replace('-', "_") == name
    };
    loaded.lines().any(|line| line.split(' ').next() == Some(name))
        || builtin.lines().any(is_file)
        || there.lines().any(|line| line.split(':').next().is_some_and(is_file))
        || Path::new("/sys/module").join(name).exists()
}

fn disk(directory: &Path) -> Finding {
    match crate::images::used_percent(directory) {
        Ok(percent) => of_disk(percent, directory),
        Err(error) => {
            let text = format!("{} cannot be looked at: {error}", directory.display());
            Finding::of("disk", Verdict::Failure, text, "see that it is mounted")
        }
    }
}

fn of_disk(percent: u8, directory: &Path) -> Finding {
    let text = format!("{percent} % of {}'s disk is used", directory.display());
    let remedy = "remove what is not needed: `stack image rm`, `docker system prune`, old volumes";
    match percent {
        0..=85 => Finding::fine("disk", text),
        86..=95 => Finding::of("disk", Verdict::Warning, text, remedy),
        _ => Finding::of("disk", Verdict::Failure, text, remedy),
    }
}

fn clock() -> Finding {
    // SAFETY: all of it is numbers, for which zero is valid; nothing is set with no mode.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives as long as the call.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    if answer == libc::TIME_ERROR {
        let remedy = "run a time service: systemd-timesyncd, chrony";
        return Finding::of("clock", Verdict::Warning, "the clock is not synchronized with anything", remedy);
    }
    Finding::fine("clock", "the clock is synchronized")
}

fn files() -> Finding {
    use nix::sys::resource::{Resource, getrlimit};
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if soft < 16_384 => {
            let text = format!("stackd may open {soft} files, enough for about {} containers", soft / 6);
            Finding::of("open files", Verdict::Warning, text, "start it with a higher limit, as deploy/systemd does")
        }
        Ok((soft, _)) => Finding::fine("open files", format!("stackd may open {soft} files")),
        Err(error) => Finding::of("open files", Verdict::Warning, full_text(&error), "see the log of stackd"),
    }
}

#[cfg(test)]
mod tests {
    use stack_engine::encryption::PublicKey;

    use super::*;

    #[test]
    fn packets_to_oneself_arrive_beside_the_kernel() {
        let (node, nonce) = (NodeId::from_bits(7), 0x1234);
        let heard = probe(node, nonce, &[IpAddr::V4(Ipv4Addr::LOCALHOST)]).expect("root");
        let [one] = &heard[..] else { panic!("{heard:?}") };
        assert_eq!((one.node, one.largest, one.largest_sent), (node, 9000, 9000));
    }

    #[test]
    fn other_packets_are_none_of_ours() {
        let mut packet = vec![0x45; 20];
        packet.extend([0, 1]);
        packet.extend(DEFAULT_PORT.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(MAGIC);
        packet.extend(5_u64.to_be_bytes());
        packet.extend(9_u128.to_be_bytes());
        packet.extend(1500_u32.to_be_bytes());
        let node = NodeId::from_bits(9);
        assert_eq!(read(&packet, false, 5), Some(Heard { node, largest: 64, largest_sent: 1500 }));
        assert_eq!(read(&packet[20..], true, 5), Some(Heard { node, largest: 84, largest_sent: 1500 }));
        assert_eq!(read(&packet, false, 6), None);
        for length in 0..packet.len() {
            // Cut anywhere it is none, or one that says less.
            let cut = read(&packet[..length], false, 5);
            assert!(length >= 60 || cut.is_none(), "{length}");
        }
    }

    #[test]
    fn who_was_asked_by_a_tunnel_and_never_answered_is_named() {
        let peer = |address: &str, number: u8, handshake_seconds, sent| PeerState {
            public_key: PublicKey::from_bytes([number; 32]),
            endpoint: Some(address.parse().expect("an address")),
            handshake_seconds,
            received: 0,
            sent,
        };
        let silent = vec![
            peer("192.0.2.2:4794", 1, None, 148),
            // Nobody wanted anything of it; its other key answers.
            peer("192.0.2.3:4794", 2, None, 0),
            peer("192.0.2.4:4794", 3, None, 148),
            peer("192.0.2.4:4795", 4, Some(900), 9000),
        ];
        let findings = of_tunnels(Ok(Implementation::UserSpace), &BTreeMap::from([(Slot::First, silent)]));
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert_eq!((findings[0].verdict, findings[1].verdict), (Verdict::Fine, Verdict::Failure));
        assert!(findings[1].text.starts_with("192.0.2.2:4794 does not answer"), "{findings:?}");
        let unable = of_tunnels(Err(Unable::NoIpv6), &BTreeMap::new());
        assert_eq!(unable[0].verdict, Verdict::Warning);
    }

    #[test]
    fn modules_are_found_wherever_they_are() {
        let loaded = "overlay 1 0 - Live 0x0\n";
        let builtin = "kernel/net/bridge/bridge.ko\n";
        let there = "kernel/net/netfilter/nf-tables.ko.xz: kernel/net/nfnetlink.ko.xz\n";
        for name in ["overlay", "bridge", "nf_tables"] {
            assert!(has_module(name, loaded, builtin, there), "{name}");
        }
        assert!(!has_module("no_such_module", loaded, builtin, there));
    }

    #[test]
    fn a_disk_is_judged_by_how_full_it_is() {
        let verdict = |percent| of_disk(percent, Path::new("/var/lib/stack")).verdict;
        assert_eq!((verdict(85), verdict(86), verdict(96)), (Verdict::Fine, Verdict::Warning, Verdict::Failure));
    }
}

//! Published ports whose tasks shall know who asks wherever they run: a connection passes through this process, which begins
//! the one to the task with a header of the PROXY protocol, version 2 (HAProxy's specification of 2020).
//!
//! A relay listens on the host's own addresses on the port's network, at a port that the kernel chooses; the host's table sends
//! the published port there, so that the client's address arrives with the connection. Relays end with this process, and the
//! connections through them do too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::sockopt::{self, Ip6tOriginalDst, OriginalDst};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, getsockopt, listen, setsockopt,
    socket,
};
use ppp::v2;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use super::errors::OverlayFailure;
use super::request::{Ingress, OverlayNetwork, Overlays};
use crate::network::{in_namespace, streams};

/// So many connections one published port carries at once; further ones wait to be accepted.
const CONNECTIONS: usize = 8192;
/// A task that does not accept in this time is passed over.
const CONNECT: Duration = Duration::from_secs(5);
/// After an error of a listener that is no client's doing.
const RESPITE: Duration = Duration::from_millis(100);
/// So many tries to find a port that is free in both families.
const PORT_ATTEMPTS: usize = 16;

/// What tells a relay from others: the network, the published port, and the address that it is restricted to.
type Key = (String, u16, Option<IpAddr>);

/// The relays of a host.
#[derive(Debug)]
pub struct Relays {
    netns: Arc<File>,
    running: Mutex<BTreeMap<Key, Relay>>,
}

#[derive(Debug)]
struct Relay {
    /// The host's addresses on the network, on which it listens.
    addresses: Vec<IpAddr>,
    /// On all of them.
    port: u16,
    backends: watch::Sender<Backends>,
    listeners: Vec<AbortHandle>,
}

/// Who may be sent new connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Backends {
    local: Vec<SocketAddr>,
    remote: Vec<SocketAddr>,
    sticky: bool,
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Connections that were accepted go on.
        for listener in &self.listeners {
            listener.abort();
        }
    }
}

impl Relays {
    /// None yet, in this network namespace.
    pub fn new(netns: File) -> Self {
        Self { netns: Arc::new(netns), running: Mutex::default() }
    }

    /// Starts, changes and ends relays. Returns the networks with each relayed port sent to its relay.
    pub fn arrange(&self, overlays: Overlays, failures: &mut Vec<OverlayFailure>) -> Overlays {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut arranged = overlays;
        let mut wanted = BTreeSet::new();
        for network in arranged.networks.values_mut() {
            let OverlayNetwork { name, addresses, ingress, .. } = network;
            let own: Vec<IpAddr> = addresses.iter().map(ipnet::IpNet::addr).collect();
            for ingress in ingress.iter_mut().filter(|ingress| ingress.proxy_protocol) {
                let key = (name.clone(), ingress.port, ingress.host_ip);
                wanted.insert(key.clone());
                let backends = backends(ingress);
                let fits = running.get(&key).is_some_and(|relay| relay.addresses == own);
                if !fits {
                    running.remove(&key);
                    match self.start(&own, backends.clone()) {
                        Ok(relay) => {
                            running.insert(key.clone(), relay);
                        }
                        Err(source) => {
                            failures.push(OverlayFailure::Relay { network: name.clone(), port: ingress.port, source });
                        }
                    }
                }
                if let Some(relay) = running.get(&key) {
                    relay.backends.send_if_modified(|have| {
                        let is_news = *have != backends;
                        have.clone_from(&backends);
                        is_news
                    });
                }
                redirect(ingress, running.get(&key));
            }
        }
        running.retain(|key, _| wanted.contains(key));
        arranged
    }

    fn start(&self, own: &[IpAddr], backends: Backends) -> io::Result<Relay> {
        let listeners = in_namespace(&self.netns, || listeners(own))?;
        let port = listeners.first().map_or(Ok(0), |listener| listener.local_addr().map(|address| address.port()))?;
        let backends = watch::Sender::new(backends);
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let mut tasks = Vec::new();
        for listener in listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (netns, connections) = (Arc::clone(&self.netns), Arc::clone(&connections));
            tasks.push(tokio::spawn(accept(listener, netns, backends.subscribe(), connections)).abort_handle());
        }
        Ok(Relay { addresses: own.to_vec(), port, backends, listeners: tasks })
    }
}

/// Pure. The port goes to the relay, while there is anybody that it can pass connections on to.
fn redirect(ingress: &mut Ingress, relay: Option<&Relay>) {
    let has_backends = !ingress.local.is_empty() || !ingress.remote.is_empty();
    ingress.local.clear();
    ingress.remote.clear();
    if let Some(relay) = relay.filter(|_| has_backends) {
        ingress.local.clone_from(&relay.addresses);
        ingress.target = relay.port;
        ingress.sticky = false;
    }
}

/// Pure.
fn backends(ingress: &Ingress) -> Backends {
    let at_target = |addresses: &[IpAddr]| {
        addresses.iter().map(|&address| SocketAddr::new(address, ingress.target)).collect::<Vec<_>>()
    };
    Backends { local: at_target(&ingress.local), remote: at_target(&ingress.remote), sticky: ingress.sticky }
}

/// Sockets that listen on one port of all these addresses, which the host need not have yet.
fn listeners(own: &[IpAddr]) -> io::Result<Vec<TcpListener>> {
    let mut attempt = 0;
    loop {
        let mut port = 0;
        let mut all = Vec::new();
        let outcome = own.iter().try_for_each(|&address| {
            let listener = listener(SocketAddr::new(address, port))?;
            port = listener.local_addr()?.port();
            all.push(listener);
            Ok(())
        });
        match outcome {
            Ok(()) => return Ok(all),
            Err(error) if io::Error::kind(&error) == io::ErrorKind::AddrInUse && attempt < PORT_ATTEMPTS => {
                attempt += 1
            }
            Err(error) => return Err(error),
        }
    }
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    use std::os::fd::AsRawFd as _;
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let opened = socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
    // For both families: the bridge gets the address in the same reconcile, after this.
    setsockopt(&opened, sockopt::IpFreebind, &true)?;
    if address.is_ipv6() {
        setsockopt(&opened, sockopt::Ipv6V6Only, &true)?;
    }
    bind(opened.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&opened, Backlog::new(1024)?)?;
    Ok(opened.into())
}

async fn accept(
    listener: tokio::net::TcpListener,
    netns: Arc<File>,
    backends: watch::Receiver<Backends>,
    connections: Arc<Semaphore>,
) {
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let (client, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a relay accepts no connection");
                tokio::time::sleep(RESPITE).await;
                continue;
            }
        };
        let (netns, now) = (Arc::clone(&netns), backends.borrow().clone());
        tokio::spawn(async move {
            if let Err(error) = relay(client, from, &netns, &now).await {
                tracing::debug!(client = %from, %error, "a relayed connection ended");
            }
            drop(permit);
        });
    }
}

/// Carries one connection until both sides have ended it.
async fn relay(mut client: TcpStream, from: SocketAddr, netns: &Arc<File>, backends: &Backends) -> io::Result<()> {
    let asked = original_destination(&client)?;
    let candidates = candidates(backends, from.ip(), rand::random());
    let Some(mut task) = connect(netns, candidates).await else {
        streams::reset(client)?;
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "no task accepts connections"));
    };
    streams::prepare([&client, &task])?;
    task.write_all(&header(from, asked)?).await?;
    tokio::io::copy_bidirectional(&mut client, &mut task).await?;
    Ok(())
}

/// Pure. Whom to try, in order: this host's tasks first, as everywhere.
fn candidates(backends: &Backends, client: IpAddr, draw: u64) -> Vec<SocketAddr> {
    let first = if backends.sticky { seed(client) } else { draw };
    let turned = |all: &[SocketAddr]| {
        let mut all = all.to_vec();
        if !all.is_empty() {
            let by = usize::try_from(first % all.len() as u64).unwrap_or_default();
            all.rotate_left(by);
        }
        all
    };
    let mut candidates = turned(&backends.local);
    candidates.extend(turned(&backends.remote));
    candidates
}

fn seed(client: IpAddr) -> u64 {
    let bytes = match client {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

async fn connect(netns: &Arc<File>, candidates: Vec<SocketAddr>) -> Option<TcpStream> {
    for candidate in candidates {
        let opened = in_namespace(netns, || match candidate {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        });
        let outcome = match opened {
            Ok(opened) => tokio::time::timeout(CONNECT, opened.connect(candidate)).await,
            Err(error) => Ok(Err(error)),
        };
        match outcome {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => tracing::debug!(task = %candidate, %error, "a task does not accept a connection"),
            Err(_elapsed) => tracing::debug!(task = %candidate, "a task does not accept a connection in time"),
        }
    }
    None
}

/// Where the client meant to connect to, before the host's table sent it here.
fn original_destination(client: &TcpStream) -> io::Result<SocketAddr> {
    let here = client.local_addr()?;
    let found = match here {
        SocketAddr::V4(_) => getsockopt(client, OriginalDst).map(|found| {
            let address = Ipv4Addr::from_bits(u32::from_be(found.sin_addr.s_addr));
            SocketAddr::V4(SocketAddrV4::new(address, u16::from_be(found.sin_port)))
        }),
        SocketAddr::V6(_) => getsockopt(client, Ip6tOriginalDst).map(|found| {
            let address = Ipv6Addr::from(found.sin6_addr.s6_addr);
            SocketAddr::V6(SocketAddrV6::new(address, u16::from_be(found.sin6_port), 0, 0))
        }),
    };
    // Who connects to the relay itself was not sent here.
    Ok(found.unwrap_or(here))
}

/// Pure. The header that a connection to a task begins with.
fn header(from: SocketAddr, to: SocketAddr) -> io::Result<Vec<u8>> {
    v2::Builder::with_addresses(v2::Version::Two | v2::Command::Proxy, v2::Protocol::Stream, (from, to)).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_that_of_the_specification() {
        let made = header("192.0.2.7:40000".parse().unwrap(), "198.51.100.1:80".parse().unwrap()).unwrap();
        let mut expected = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        // Version 2 and PROXY, TCP over IPv4, 12 bytes follow.
        expected.extend([0x21, 0x11, 0, 12]);
        expected.extend([192, 0, 2, 7, 198, 51, 100, 1]);
        expected.extend([0x9c, 0x40, 0, 80]);
        assert_eq!(made, expected);
        let made = header("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap()).unwrap();
        assert_eq!(made.len(), 16 + 36);
        assert_eq!(made[13], 0x21);
    }

    #[test]
    fn this_hosts_tasks_come_first_and_a_sticky_client_stays() {
        let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
        let backends = Backends {
            local: vec![socket("10.0.0.1:80"), socket("10.0.0.2:80")],
            remote: vec![socket("10.0.0.3:80")],
            sticky: false,
        };
        let client = "192.0.2.7".parse().unwrap();
        let firsts: BTreeSet<SocketAddr> = (0..8).map(|draw| candidates(&backends, client, draw)[0]).collect();
        assert_eq!(firsts, backends.local.iter().copied().collect());
        assert!((0..8).all(|draw| candidates(&backends, client, draw)[2] == backends.remote[0]));
        let sticky = Backends { sticky: true, ..backends };
        let firsts: BTreeSet<SocketAddr> = (0..8).map(|draw| candidates(&sticky, client, draw)[0]).collect();
        assert_eq!(firsts.len(), 1);
    }
}

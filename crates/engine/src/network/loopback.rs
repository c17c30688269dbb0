//! Published ports at the host's own loopback, where no rule can lead from there to a container: from `::1`, because nothing
//! that comes in by a link may have that address (the kernel has `route_localnet` for IPv4 alone); and from 127.0.0.1 to a
//! container without IPv4.
//!
//! A relay listens on the loopback address, at a port that the kernel chooses; the ruleset sends the published port there. So
//! nobody but the host reaches it, and the published port itself stays held as any other. Relays end with this process, and
//! what passes through them does too; the next one makes them anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::ports::is_relayable;
use super::request::{ContainerRecord, NetworkRecord, Protocol};
use super::streams;

/// So many connections one published port carries at once; further ones wait to be accepted.
const CONNECTIONS: usize = 4096;
/// So many senders of datagrams one published port knows at once; what further ones send is lost, as datagrams may be.
const SENDERS: usize = 1024;
/// A container that does not accept in this time is passed over.
const CONNECT: Duration = Duration::from_secs(5);
/// After an error of a socket that is no client's doing.
const RESPITE: Duration = Duration::from_millis(100);
/// A sender of datagrams that hears nothing for so long is forgotten, as Docker's proxy does; its next one begins anew.
const SILENCE: Duration = Duration::from_secs(90);
/// The largest datagram.
const DATAGRAM: usize = 65_535;

/// A published port at an address of the host's loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// `::1`, or an address of 127.0.0.0/8.
    pub address: IpAddr,
    /// As published.
    pub port: u16,
}

/// Who serves it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backends {
    /// Who may be sent what is new.
    ready: Vec<SocketAddr>,
    /// Whose connections go on.
    there: BTreeSet<SocketAddr>,
}

/// Pure. The relays that these containers need, on networks that are bridges.
#[must_use]
pub fn wanted(networks: &[NetworkRecord], containers: &[ContainerRecord]) -> BTreeMap<At, Backends> {
    let bridges: BTreeSet<&str> = networks.iter().map(|network| network.name.as_str()).collect();
    let mut all: BTreeMap<At, Backends> = BTreeMap::new();
    for container in containers {
        let serving: Vec<IpAddr> = container
            .serving()
            .filter(|(endpoint, _)| bridges.contains(endpoint.network.as_str()))
            .map(|(_, address)| address)
            .collect();
        let of = |is_ipv6: bool| serving.iter().copied().find(|address| address.is_ipv6() == is_ipv6);
        let ports = container.attachment.ports.iter();
        for port in ports.filter(|port| port.host_port != 0 && is_relayable(port.protocol)) {
            let found = match port.host_ip {
                Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => of(true).map(|to| (IpAddr::V6(Ipv6Addr::LOCALHOST), to)),
                Some(own @ IpAddr::V6(Ipv6Addr::LOCALHOST)) => of(true).or(of(false)).map(|to| (own, to)),
                Some(own @ IpAddr::V4(_)) if own.is_loopback() && of(false).is_none() => of(true).map(|to| (own, to)),
                None | Some(IpAddr::V4(_) | IpAddr::V6(_)) => None,
            };
            let Some((address, to)) = found else { continue };
            let backends = all.entry(At { protocol: port.protocol, address, port: port.host_port }).or_default();
            let to = SocketAddr::new(to, port.container_port);
            backends.there.insert(to);
            if container.ready {
                backends.ready.push(to);
            }
        }
    }
    all
}

/// The relays of a host.
#[derive(Debug, Default)]
pub struct LoopbackRelays {
    running: Mutex<BTreeMap<At, Relay>>,
}

#[derive(Debug)]
struct Relay {
    /// Where it listens.
    port: u16,
    backends: watch::Sender<Backends>,
    listener: AbortHandle,
}

impl Drop for Relay {
    fn drop(&mut self) {
        // What passes through it ends too, as nobody says any more who serves.
        self.listener.abort();
    }
}

impl LoopbackRelays {
    /// Starts, changes and ends relays. The ports at which those listen that have somebody to pass things on to, and what of it
    /// did not work.
    pub fn arrange(&self, wanted: BTreeMap<At, Backends>) -> (BTreeMap<At, u16>, Vec<(At, io::Error)>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|at, _| wanted.contains_key(at));
        let (mut ports, mut failures) = (BTreeMap::new(), Vec::new());
        for (at, backends) in wanted {
            let is_served = !backends.ready.is_empty();
            let port = match running.get(&at) {
                Some(relay) => {
                    relay.backends.send_if_modified(|have| {
                        let is_news = *have != backends;
                        have.clone_from(&backends);
                        is_news
                    });
                    relay.port
                }
                None => match start(at, backends) {
                    Ok(relay) => {
                        let port = relay.port;
                        running.insert(at, relay);
                        port
                    }
                    Err(error) => {
                        failures.push((at, error));
                        continue;
                    }
                },
            };
            if is_served {
                ports.insert(at, port);
            }
        }
        (ports, failures)
    }

    /// The ports at which relays listen that have somebody to pass things on to.
    pub fn ports(&self) -> BTreeMap<At, u16> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let served = running.iter().filter(|(_, relay)| !relay.backends.borrow().ready.is_empty());
        served.map(|(at, relay)| (*at, relay.port)).collect()
    }

    /// Ends all of them.
    pub fn end(&self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn start(at: At, backends: Backends) -> io::Result<Relay> {
    let own = SocketAddr::new(at.address, 0);
    let backends = watch::Sender::new(backends);
    let (port, listener) = match at.protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind(own)?;
            listener.set_nonblocking(true)?;
            let port = listener.local_addr()?.port();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            (port, tokio::spawn(accept(listener, backends.subscribe())).abort_handle())
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(own)?;
            socket.set_nonblocking(true)?;
            let port = socket.local_addr()?.port();
            let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
            (port, tokio::spawn(receive(socket, backends.subscribe())).abort_handle())
        }
        Protocol::Sctp => return Err(io::Error::from(io::ErrorKind::Unsupported)),
    };
    Ok(Relay { port, backends, listener })
}

async fn accept(listener: tokio::net::TcpListener, backends: watch::Receiver<Backends>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::debug!(%error, "a relay of the loopback accepts no connection");
                tokio::time::sleep(RESPITE).await;
                continue;
            }
        };
        let backends = backends.clone();
        tokio::spawn(async move {
            if let Err(error) = carry(client, backends).await {
                tracing::debug!(%error, "a relayed connection of the loopback ended");
            }
            drop(permit);
        });
    }
}

/// Carries one connection until both sides have ended it, or its container is not there any more.
async fn carry(mut client: TcpStream, mut backends: watch::Receiver<Backends>) -> io::Result<()> {
    let ready = turned(&backends.borrow().ready);
    let Some((mut served, to)) = connect(ready).await else {
        streams::reset(client)?;
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "no container accepts connections"));
    };
    streams::prepare([&client, &served])?;
    tokio::select! {
        carried = tokio::io::copy_bidirectional(&mut client, &mut served) => carried.map(drop),
        // Also when the relay itself is gone.
        _ = backends.wait_for(|now| !now.there.contains(&to)) => Ok(()),
    }
}

/// Whom to try, in order, beginning anywhere.
fn turned(ready: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut all = ready.to_vec();
    if !all.is_empty() {
        let by = rand::random::<u32>() as usize % all.len();
        all.rotate_left(by);
    }
    all
}

async fn connect(candidates: Vec<SocketAddr>) -> Option<(TcpStream, SocketAddr)> {
    for to in candidates {
        match tokio::time::timeout(CONNECT, TcpStream::connect(to)).await {
            Ok(Ok(stream)) => return Some((stream, to)),
            Ok(Err(error)) => tracing::debug!(container = %to, %error, "a container does not accept a connection"),
            Err(_elapsed) => tracing::debug!(container = %to, "a container does not accept a connection in time"),
        }
    }
    None
}

/// Passes datagrams on, each sender's by a socket of its own, so that answers find their way.
async fn receive(socket: Arc<tokio::net::UdpSocket>, mut backends: watch::Receiver<Backends>) {
    let mut senders: HashMap<SocketAddr, (Arc<tokio::net::UdpSocket>, SocketAddr, AbortHandle)> = HashMap::new();
    // Dropped with this, and all of them with it.
    let mut answering: JoinSet<SocketAddr> = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (length, from) = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "a relay of the loopback receives no datagram");
                    tokio::time::sleep(RESPITE).await;
                    continue;
                }
            },
            // One that has been silent for long. One whose container is gone was taken out before.
            Some(Ok(silent)) = answering.join_next() => {
                if senders.get(&silent).is_some_and(|(_, _, task)| task.is_finished()) {
                    senders.remove(&silent);
                }
                continue;
            }
            changed = backends.changed() => {
                if changed.is_err() {
                    return;
                }
                let there = backends.borrow_and_update().there.clone();
                senders.retain(|_, (_, to, task)| {
                    let stays = there.contains(to);
                    if !stays {
                        task.abort();
                    }
                    stays
                });
                continue;
            }
        };
        let known = senders.get(&from).filter(|(_, _, task)| !task.is_finished()).map(|(by, _, _)| Arc::clone(by));
        let by = match known {
            Some(by) => by,
            None if senders.len() >= SENDERS && !senders.contains_key(&from) => continue,
            None => {
                let Some(to) = turned(&backends.borrow().ready).into_iter().next() else { continue };
                let by = match towards(to).await {
                    Ok(by) => Arc::new(by),
                    Err(error) => {
                        tracing::debug!(container = %to, %error, "a relay of the loopback passes no datagram on");
                        continue;
                    }
                };
                let task = answering.spawn(answer(Arc::clone(&socket), Arc::clone(&by), from));
                senders.insert(from, (Arc::clone(&by), to, task));
                by
            }
        };
        // What the container refuses is lost, as any datagram may be.
        let _ = by.send(buffer.get(..length).unwrap_or_default()).await;
    }
}

async fn towards(to: SocketAddr) -> io::Result<tokio::net::UdpSocket> {
    let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = tokio::net::UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}

/// Sends back what a container answers one sender, until there has been nothing for long; returns who that is.
async fn answer(socket: Arc<tokio::net::UdpSocket>, by: Arc<tokio::net::UdpSocket>, from: SocketAddr) -> SocketAddr {
    loop {
        match tokio::time::timeout(SILENCE, by.readable()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tokio::time::sleep(RESPITE).await,
            Err(_elapsed) => return from,
        }
        // Only while there is something to pass on: there may be many senders that are silent.
        let mut buffer = vec![0; DATAGRAM];
        match by.try_recv(&mut buffer) {
            Ok(length) => drop(socket.send_to(buffer.get(..length).unwrap_or_default(), from).await),
            // That nobody listens there now; who comes later is found by the next datagram.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

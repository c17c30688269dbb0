//! A container's name-server sockets, and the rules in its network namespace that lead 127.0.0.11:53 to them.
//!
//! The sockets listen on ports that the kernel chooses, and not on 53: a program in the container may itself serve names on
//! 0.0.0.0:53 or 127.0.0.1:53, which it could not while somebody else of its namespace has the port on any address. So an
//! nftables table in the namespace translates the destination of what its programs send to 127.0.0.11:53.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{setsockopt, sockopt};
use nlink::netlink::nftables::{BaseChain, Chain, Family, NatHook, Policy, Priority, Rule};
use nlink::netlink::{Connection, Netfilter, Nftables};

use crate::network::in_namespace;

/// Where every container on a network finds its name server.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// The table in each container's namespace. Docker's own tools and other programs in the container leave it alone.
const TABLE: &str = "stack-dns";
const CHAIN: &str = "output";
/// Of DNS, over UDP and TCP.
const PORT: u16 = 53;
/// So many tries to find a port that is free for UDP and for TCP.
const PORT_ATTEMPTS: usize = 16;
/// Room for questions that arrive while `stackd` is being restarted, in bytes of the kernel's accounting.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Why a container has no name server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its sockets.
    #[error("could not open the name server's sockets in the network namespace of container {id}")]
    Open {
        /// The container.
        id: String,
        /// Why.
        source: io::Error,
    },
    /// The rules that lead to them.
    #[error("could not lead 127.0.0.11:53 to the name server in the network namespace of container {id}")]
    Rules {
        /// The container.
        id: String,
        /// Why.
        source: LeadError,
    },
    /// The runtime.
    #[error("could not serve names to container {id}")]
    Register {
        /// The container.
        id: String,
        /// Why.
        source: io::Error,
    },
}

/// Why questions cannot be led to the sockets.
#[derive(Debug, thiserror::Error)]
pub enum LeadError {
    /// The sockets do not say where they listen.
    #[error(transparent)]
    Sockets(io::Error),
    /// What nftables refused.
    #[error(transparent)]
    Rules(#[from] nlink::Error),
}

/// The listening sockets of one container. Whoever has them can answer; they keep its network namespace alive.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Opens them in a network namespace whose loopback interface is up.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn open(netns: &File) -> io::Result<Self> {
        in_namespace(netns, || {
            let mut attempts = 0;
            loop {
                let udp = UdpSocket::bind((NAME_SERVER, 0))?;
                match TcpListener::bind(udp.local_addr()?) {
                    Ok(tcp) => {
                        enlarge(&udp);
                        udp.set_nonblocking(true)?;
                        tcp.set_nonblocking(true)?;
                        return Ok(Self { udp, tcp });
                    }
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts < PORT_ATTEMPTS => attempts += 1,
                    Err(error) => return Err(error),
                }
            }
        })
    }

    /// Sockets that were kept by somebody else while `stackd` was away, first the one for UDP.
    ///
    /// # Errors
    /// When they are no such sockets.
    pub fn resume(udp: OwnedFd, tcp: OwnedFd) -> io::Result<Self> {
        let (udp, tcp) = (UdpSocket::from(udp), TcpListener::from(tcp));
        let ours = |address: SocketAddr| address.ip() == NAME_SERVER;
        if !ours(udp.local_addr()?) || !ours(tcp.local_addr()?) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the sockets are not a name server's"));
        }
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp, tcp })
    }

    /// For whoever keeps them while `stackd` is away: the socket for UDP, and the one that accepts TCP connections.
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.udp.as_fd(), self.tcp.as_fd()]
    }

    /// Where they listen.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.udp.local_addr()?, self.tcp.local_addr()?))
    }

    /// The same, for the runtime.
    pub(crate) fn into_parts(self) -> (UdpSocket, TcpListener) {
        (self.udp, self.tcp)
    }
}

/// A full buffer loses questions, so it is as large as the kernel lets it be.
fn enlarge(udp: &UdpSocket) {
    // Beyond the system's limit only the privileged may go; what the kernel gave otherwise does.
    if setsockopt(udp, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = setsockopt(udp, sockopt::RcvBuf, &RECEIVE_BUFFER);
    }
}

/// Leads what programs in the namespace send to 127.0.0.11:53 to these addresses, and no longer to others.
///
/// # Errors
/// What the kernel refused; the rules from before are then in force.
pub(crate) async fn lead(netns: &File, sockets: &Sockets) -> Result<(), LeadError> {
    let (udp, tcp) = sockets.addresses().map_err(LeadError::Sockets)?;
    let connection = Connection::<Nftables>::new_in(netns.as_fd())?;
    let tables = connection.list_tables_in(Family::Ip).await?;
    let mut batch = connection.transaction();
    let was_led = tables.iter().any(|table| table.name == TABLE);
    if was_led {
        batch = batch.del_table(TABLE, Family::Ip);
    }
    let hook = BaseChain::nat(NatHook::Output, Priority::DstNat).policy(Policy::Accept);
    batch = batch.add_table(TABLE, Family::Ip).add_chain(Chain::new(TABLE, CHAIN)?.family(Family::Ip).base(hook));
    for (address, matched) in [(udp, rule().match_udp_dport(PORT)), (tcp, rule().match_tcp_dport(PORT))] {
        let SocketAddr::V4(address) = address else { continue };
        batch = batch.add_rule(matched.dnat(*address.ip(), Some(address.port())));
    }
    batch.commit(&connection).await?;
    if was_led {
        forget(netns, [udp.port(), tcp.port()]).await?;
    }
    Ok(())
}

/// Forgets questions that were led to other sockets: a question from the port of such a one, which the kernel remembers for
/// half a minute, would go where nobody listens any more.
async fn forget(netns: &File, ports: [u16; 2]) -> Result<(), nlink::Error> {
    let connection = Connection::<Netfilter>::new_in(netns.as_fd())?;
    for entry in connection.get_conntrack().await? {
        let asked = entry.orig.dst_ip == Some(NAME_SERVER.into()) && entry.orig.dst_port == Some(PORT);
        if !asked || entry.reply.src_port.is_some_and(|port| ports.contains(&port)) {
            continue;
        }
        match connection.del_conntrack_entry(&entry).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn rule() -> Rule {
    Rule::new(TABLE, CHAIN).family(Family::Ip).match_daddr_v4(NAME_SERVER, 32)
}

//! Ports of the host, held by sockets that are bound and never read: another process that wants one is told so by the
//! kernel, and so are we where another process has it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

use super::ports::{HostPort, at, meet};
use super::request::Protocol;

/// A port that cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum ReservationError {
    /// Another process of the host has it.
    #[error("failed to bind host port {}/{}: address already in use by another process of this host", at(port.address, port.port), port.protocol)]
    InUse {
        /// The port.
        port: HostPort,
    },
    /// The host has no such address.
    #[error("port {}/{} cannot be published at {}: this host has no such address", port.port, port.protocol, port.address)]
    NoSuchAddress {
        /// The port.
        port: HostPort,
    },
    /// None of the random ports is free.
    #[error("no {protocol} port from 32768 to 60999 is free on this host")]
    NoneFree {
        /// Which protocol.
        protocol: Protocol,
    },
    /// The kernel refused for another reason.
    #[error("port {}/{} cannot be reserved", port.port, port.protocol)]
    Refused {
        /// The port.
        port: HostPort,
        /// Why.
        source: io::Error,
    },
}

/// The ports that this engine holds.
#[derive(Debug, Default)]
pub struct Reservations {
    held: BTreeMap<HostPort, Option<OwnedFd>>,
}

impl Reservations {
    /// Holds a port; one that is held already stays so.
    ///
    /// # Errors
    /// Why it cannot be held.
    pub fn hold(&mut self, port: HostPort) -> Result<(), ReservationError> {
        if self.held.contains_key(&port) {
            return Ok(());
        }
        let socket = reserve(port)?;
        self.held.insert(port, socket);
        Ok(())
    }

    /// Holds the first of these ports that is free at all these addresses, for all of them.
    ///
    /// # Errors
    /// `None` within where none is free; that the kernel refuses for another reason.
    pub fn hold_first(
        &mut self,
        protocol: Protocol,
        addresses: &[IpAddr],
        candidates: impl Iterator<Item = u16>,
    ) -> Result<Option<u16>, ReservationError> {
        'candidates: for port in candidates {
            let mut made = Vec::new();
            for &address in addresses {
                let candidate = HostPort { protocol, port, address };
                if self.held.keys().any(|held| meet(*held, candidate)) {
                    continue 'candidates;
                }
                match reserve(candidate) {
                    Ok(socket) => made.push((candidate, socket)),
                    Err(ReservationError::InUse { .. }) => continue 'candidates,
                    Err(error) => return Err(error),
                }
            }
            self.held.extend(made);
            return Ok(Some(port));
        }
        Ok(None)
    }

    /// Lets everything go that is not in `needed`.
    pub fn keep_only(&mut self, needed: &BTreeSet<HostPort>) {
        self.held.retain(|port, _| needed.contains(port));
    }
}

/// A bound socket, or none where the kernel knows no such protocol and therefore nobody can have the port.
fn reserve(port: HostPort) -> Result<Option<OwnedFd>, ReservationError> {
    match bind_socket(port, false) {
        // Connections that ended a moment ago hold the port as well. With SO_REUSEADDR they do not, and who listens
        // still does; but the reservation is weaker then, so it is only the second choice.
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) && port.protocol == Protocol::Tcp => {
            bind_socket(port, true)
        }
        other => other,
    }
    .map_err(|source| match source.raw_os_error() {
        Some(libc::EADDRINUSE) => ReservationError::InUse { port },
        Some(libc::EADDRNOTAVAIL) => ReservationError::NoSuchAddress { port },
        _ => ReservationError::Refused { port, source },
    })
}

fn bind_socket(port: HostPort, reuse: bool) -> io::Result<Option<OwnedFd>> {
    let (kind, protocol) = match port.protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
        Protocol::Sctp => (SockType::Stream, SockProtocol::Sctp),
    };
    let family = if port.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let opened = match socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol) {
        Ok(opened) => opened,
        Err(nix::Error::EPROTONOSUPPORT | nix::Error::ESOCKTNOSUPPORT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if port.address.is_ipv6() {
        // IPv4 has a socket of its own.
        setsockopt(&opened, sockopt::Ipv6V6Only, &true)?;
    }
    if reuse {
        setsockopt(&opened, sockopt::ReuseAddr, &true)?;
    }
    if port.protocol == Protocol::Udp {
        // Nobody reads what may come while no container serves the port.
        setsockopt(&opened, sockopt::RcvBuf, &0)?;
    }
    bind(opened.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(port.address, port.port)))?;
    Ok(Some(opened))
}

//! Pure. Where a log driver sends to.

use std::fmt;
use std::path::PathBuf;

/// What is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Datagrams.
    Udp(Address),
    /// A connection.
    Tcp(Address),
    /// A connection in TLS.
    Tls(Address, TlsFiles),
    /// A socket of this host, as a connection.
    Unix(PathBuf),
    /// A socket of this host, by datagrams.
    UnixDatagram(PathBuf),
    /// The socket of systemd's journal.
    Journal(PathBuf),
    /// The first that is there of the sockets that a syslog daemon of this host has.
    LocalSyslog,
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Files in the format PEM that a TLS connection is made with, on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities that are trusted beside the host's.
    pub authorities: Option<PathBuf>,
    /// Our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whoever answers is trusted.
    pub trusts_anybody: bool,
}

impl Endpoint {
    /// Whether what is sent goes message by message, each of them whole or not at all.
    pub fn is_datagram(&self) -> bool {
        match self {
            Self::Udp(_) | Self::UnixDatagram(_) | Self::Journal(_) => true,
            Self::Tcp(_) | Self::Tls(..) | Self::Unix(_) => false,
            // As it turns out: its messages are small and end with a line end, so that both are possible.
            Self::LocalSyslog => true,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => write!(formatter, "udp://{address}"),
            Self::Tcp(address) => write!(formatter, "tcp://{address}"),
            Self::Tls(address, _) => write!(formatter, "tls://{address}"),
            Self::Unix(path) => write!(formatter, "unix://{}", path.display()),
            Self::UnixDatagram(path) | Self::Journal(path) => write!(formatter, "unixgram://{}", path.display()),
            Self::LocalSyslog => formatter.write_str("the host's syslog"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(formatter, "[{host}]:{port}") } else { write!(formatter, "{host}:{port}") }
    }
}

/// Splits `scheme://rest`.
pub fn scheme(text: &str) -> Option<(&str, &str)> {
    text.split_once("://").filter(|(scheme, _)| !scheme.is_empty())
}

/// Reads `host`, `host:port`, `[address]:port`. Without a port it is `default`; without that, one must be given.
pub fn address(text: &str, default: Option<u16>) -> Result<Address, String> {
    // What comes after the host in a URL says nothing here.
    let text = text.split('/').next().unwrap_or(text);
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(|| format!("`{text}` is no host:port"))?)),
        None => match text.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                return Err(format!("address {text}: too many colons in address: an IPv6 address is in brackets"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| format!("`{port}` is no port"))?,
        None => default.ok_or_else(|| format!("address {text}: missing port in address"))?,
    };
    if host.is_empty() {
        return Err(format!("`{text}` names no host"));
    }
    Ok(Address { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        let read = |text: &str| address(text, Some(514)).map(|address| address.to_string());
        assert_eq!(read("log.example").unwrap(), "log.example:514");
        assert_eq!(read("log.example:1514").unwrap(), "log.example:1514");
        assert_eq!(read("[::1]:1514/").unwrap(), "[::1]:1514");
        assert_eq!(read("[::1]").unwrap(), "[::1]:514");
        for text in ["", ":514", "::1", "host:port", "host:70000", "[::1]x"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert_eq!(address("host", None).unwrap_err(), "address host: missing port in address");
    }
}

//! One question to one upstream server, over UDP and, where the answer is too large for it, over TCP.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};

use super::message::{Asked, Heard, Reply, hear, question};
use crate::network::in_namespace;

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("the question cannot be written")]
    Question(#[source] hickory_proto::ProtoError),
    #[error("the server cannot be reached")]
    Network(#[from] io::Error),
    #[error("no answer within {} ms", patience.as_millis())]
    Timeout { patience: Duration },
    #[error("the answer cannot be read")]
    Malformed,
}

/// From where a server is asked.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// The network namespace of this process.
    Host,
    /// A container's.
    Namespace(Arc<File>),
}

impl Place {
    /// Makes a socket there. In another namespace a thread of its own does it.
    async fn make<T: Send + 'static>(&self, make: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        match self {
            Self::Host => make(),
            Self::Namespace(netns) => {
                let netns = Arc::clone(netns);
                tokio::task::spawn_blocking(move || in_namespace(&netns, make)).await.map_err(io::Error::other)?
            }
        }
    }
}

/// Asks a server. The time runs over everything, the repetition over TCP included.
pub(crate) async fn ask(
    place: &Place,
    server: SocketAddr,
    asked: &Asked,
    extended: bool,
    patience: Duration,
) -> Result<Reply, ExchangeError> {
    let id = rand::random();
    let bytes = question(asked, id, extended).map_err(ExchangeError::Question)?;
    let exchange = async {
        match ask_udp(place, server, asked, id, &bytes).await? {
            Some(reply) => Ok(reply),
            None => ask_tcp(place, server, asked, id, &bytes).await,
        }
    };
    tokio::time::timeout(patience, exchange).await.unwrap_or(Err(ExchangeError::Timeout { patience }))
}

/// `None`: the answer is too large.
async fn ask_udp(
    place: &Place,
    server: SocketAddr,
    asked: &Asked,
    id: u16,
    bytes: &[u8],
) -> Result<Option<Reply>, ExchangeError> {
    // A socket for each question, on a port that the kernel chooses by chance and connected to the server: who wants to
    // forge the answer has to guess the port beside the id.
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = place.make(move || std::net::UdpSocket::bind((any, 0))).await?;
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match hear(buffer.get(..length).unwrap_or_default(), asked, id) {
            Heard::Reply(reply) => return Ok(Some(*reply)),
            Heard::Truncated => return Ok(None),
            Heard::Malformed => return Err(ExchangeError::Malformed),
            Heard::Other => {}
        }
    }
}

async fn ask_tcp(
    place: &Place,
    server: SocketAddr,
    asked: &Asked,
    id: u16,
    bytes: &[u8],
) -> Result<Reply, ExchangeError> {
    let socket = place
        .make(move || match server {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        })
        .await?;
    let mut stream = socket.connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(|_| ExchangeError::Malformed)?;
    let mut frame = Vec::with_capacity(2 + bytes.len());
    frame.extend(length.to_be_bytes());
    frame.extend(bytes);
    stream.write_all(&frame).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    match hear(&buffer, asked, id) {
        Heard::Reply(reply) => Ok(*reply),
        Heard::Truncated | Heard::Malformed | Heard::Other => Err(ExchangeError::Malformed),
    }
}

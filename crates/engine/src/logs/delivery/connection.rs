//! Connections to whoever takes logs: datagrams and streams, of the network and of this host.

use std::io::{self, IoSlice, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};

use super::tls;
use crate::logs::endpoint::{Address, Endpoint};
use crate::logs::message::{Batch, acknowledges};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How often it is looked at whether the other side has taken what was sent.
const LOOK: Duration = Duration::from_millis(2);
/// Where a syslog daemon of this host may listen.
const LOCAL_SYSLOG: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// Why something was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nobody is there.
    #[error("dial {endpoint}")]
    Connect {
        /// Where.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// It broke off.
    #[error("send to {endpoint}")]
    Send {
        /// Where.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
}

impl SendError {
    /// With its source.
    pub fn text(&self) -> String {
        let (Self::Connect { source, .. } | Self::Send { source, .. }) = self;
        format!("{self}: {source}")
    }
}

trait ReadWrite: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> ReadWrite for T {}

enum Kind {
    Udp(UdpSocket),
    Datagram {
        socket: UnixDatagram,
        /// What is too large for a datagram is taken as a file.
        takes_files: bool,
    },
    Stream {
        stream: Box<dyn ReadWrite>,
        /// The same socket, to be asked how far it is.
        socket: OwnedFd,
    },
}

/// A connection.
pub struct Connection {
    endpoint: String,
    kind: Kind,
    timeout: Duration,
}

async fn within<T>(time: Duration, what: &str, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(time, work).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {} s", time.as_secs_f32())))
    })
}

fn stream<T: ReadWrite + 'static>(stream: T, socket: BorrowedFd<'_>) -> io::Result<Kind> {
    let socket = socket.try_clone_to_owned()?;
    Ok(Kind::Stream { stream: Box::new(stream), socket })
}

async fn udp(address: &Address) -> io::Result<UdpSocket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for found in tokio::net::lookup_host((address.host.as_str(), address.port)).await? {
        let any = if found.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await?;
        match socket.connect(found).await {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn tcp(address: &Address) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn datagrams_to(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

async fn local_syslog() -> io::Result<Kind> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "there is none");
    for path in LOCAL_SYSLOG.map(Path::new) {
        match datagrams_to(path) {
            Ok(socket) => return Ok(Kind::Datagram { socket, takes_files: false }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // Perhaps it takes connections.
            Err(_) => {}
        }
        match UnixStream::connect(path).await {
            Ok(unix) => {
                let socket = unix.as_fd().try_clone_to_owned()?;
                return stream(unix, socket.as_fd());
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn open(endpoint: &Endpoint) -> io::Result<Kind> {
    match endpoint {
        Endpoint::Udp(address) => Ok(Kind::Udp(udp(address).await?)),
        Endpoint::Tcp(address) => {
            let tcp = tcp(address).await?;
            let socket = tcp.as_fd().try_clone_to_owned()?;
            stream(tcp, socket.as_fd())
        }
        Endpoint::Tls(address, files) => {
            let tls = tls::connect(tcp(address).await?, &address.host, files).await?;
            let socket = tls.get_ref().0.as_fd().try_clone_to_owned()?;
            stream(tls, socket.as_fd())
        }
        Endpoint::Unix(path) => {
            let unix = UnixStream::connect(path).await?;
            let socket = unix.as_fd().try_clone_to_owned()?;
            stream(unix, socket.as_fd())
        }
        Endpoint::UnixDatagram(path) => Ok(Kind::Datagram { socket: datagrams_to(path)?, takes_files: false }),
        Endpoint::Journal(path) => Ok(Kind::Datagram { socket: datagrams_to(path)?, takes_files: true }),
        Endpoint::LocalSyslog => local_syslog().await,
    }
}

impl Connection {
    /// Connects. Who takes nothing for as long as `timeout` is given up later on.
    pub async fn open(endpoint: &Endpoint, timeout: Duration) -> Result<Self, SendError> {
        let kind = within(CONNECT, "it does not answer", open(endpoint)).await;
        let name = endpoint.to_string();
        match kind {
            Ok(kind) => Ok(Self { endpoint: name, kind, timeout }),
            Err(source) => Err(SendError::Connect { endpoint: name, source }),
        }
    }

    /// Sends all of it and returns when the other side has it, as far as that can be known: it has confirmed it, or the
    /// kernel of its host has, or it was given to the network. Counts messages that are too long to be sent at all.
    pub async fn send(&mut self, batch: &Batch) -> Result<u64, SendError> {
        let failed = |source| SendError::Send { endpoint: self.endpoint.clone(), source };
        match &mut self.kind {
            Kind::Udp(socket) => {
                let mut unfit = 0;
                for message in &batch.messages {
                    match socket.send(message).await {
                        Ok(_) => {}
                        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => unfit += 1,
                        Err(error) => return Err(failed(error)),
                    }
                }
                Ok(unfit)
            }
            Kind::Datagram { socket, takes_files } => {
                let mut unfit = 0;
                for message in &batch.messages {
                    let sent = within(self.timeout, "nobody took it", datagram(socket, message, *takes_files)).await;
                    unfit += u64::from(!sent.map_err(failed)?);
                }
                Ok(unfit)
            }
            Kind::Stream { stream, socket } => {
                let work = async {
                    if is_closed(socket.as_fd())? {
                        return Err(io::ErrorKind::ConnectionReset.into());
                    }
                    // In one piece: a line is a small thing to send.
                    stream.write_all(&batch.messages.concat()).await?;
                    stream.flush().await?;
                    match &batch.acknowledgement {
                        Some(wanted) => confirmed(stream, wanted).await,
                        None => taken(socket.as_fd()).await,
                    }
                };
                within(self.timeout, "nobody took it", work).await.map_err(failed)?;
                Ok(0)
            }
        }
    }
}

/// Whether the connection has broken off.
fn is_broken(socket: BorrowedFd<'_>) -> io::Result<bool> {
    is_over(socket, PollFlags::empty())
}

/// Whether the other side says no more: it has perhaps gone.
fn is_closed(socket: BorrowedFd<'_>) -> io::Result<bool> {
    is_over(socket, PollFlags::from_bits_retain(libc::POLLRDHUP))
}

fn is_over(socket: BorrowedFd<'_>, asked: PollFlags) -> io::Result<bool> {
    let mut waited = [PollFd::new(socket, asked)];
    poll(&mut waited, PollTimeout::ZERO)?;
    // A state that has no name here is the one that was asked for.
    Ok(waited[0].revents().is_none_or(|found| found.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)))
}

nix::ioctl_read_bad!(output_queue, libc::TIOCOUTQ, libc::c_int);

/// Waits until nothing that was written is on its way any more.
async fn taken(socket: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        let mut waiting = 0;
        // SAFETY: the socket is open, and the kernel writes one number.
        unsafe { output_queue(socket.as_raw_fd(), &raw mut waiting) }?;
        // Nobody can know whether somebody who has gone has read it.
        if is_broken(socket)? {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if waiting == 0 {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits for the other side's word.
async fn confirmed(stream: &mut Box<dyn ReadWrite>, wanted: &str) -> io::Result<()> {
    let mut answer = Vec::new();
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if acknowledges(&answer, wanted) {
            return Ok(());
        }
        if answer.len() > 1024 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it confirms something else"));
        }
    }
}

/// Sends a datagram; one that is too large for a socket goes as a sealed file in memory, where that is taken. False when it
/// cannot be sent.
async fn datagram(socket: &UnixDatagram, message: &[u8], takes_files: bool) -> io::Result<bool> {
    match socket.send(message).await {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) && !takes_files => Ok(false),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::ENOBUFS)) && takes_files => {
            let file = sealed(message)?;
            socket
                .async_io(Interest::WRITABLE, || {
                    let descriptors = [file.as_raw_fd()];
                    let rights = [ControlMessage::ScmRights(&descriptors)];
                    let nothing = [IoSlice::new(&[])];
                    sendmsg::<()>(socket.as_raw_fd(), &nothing, &rights, MsgFlags::empty(), None)?;
                    Ok(true)
                })
                .await
        }
        Err(error) => Err(error),
    }
}

fn sealed(message: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create(c"log-entry", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = std::fs::File::from(file);
    file.write_all(message)?;
    let all = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(all))?;
    Ok(file.into())
}

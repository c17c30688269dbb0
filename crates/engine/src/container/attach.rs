//! The streams of a process while somebody is attached to it: a connection to its shim for each of them. The shim bounds
//! what it keeps for a connection, so whoever is slow is cut off there and nothing grows here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::{Buf, Bytes, BytesMut};
use stack_shim::log_record::Stream;
use stack_shim::protocol::{Attach, Request, Response};
use stack_shim::stream::{HEADER, LONGEST_PACKET, Packet, header, read_header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

use super::shim::Shim;

/// Somebody's streams of a process, from the moment at which they were asked for until it ends.
#[derive(Debug)]
pub struct Attachment {
    /// To send input.
    pub input: AttachedInput,
    /// To receive output.
    pub output: AttachedOutput,
    /// What the log has until then was not sent, in nanoseconds since the Unix epoch; `None` for one that has not begun.
    pub at: Option<u64>,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where it came from; with a terminal always standard output.
    pub source: Stream,
    /// As it was written.
    pub bytes: Bytes,
}

/// What comes from a connection, which may only be made when the container starts.
#[derive(Debug)]
enum Side<T> {
    Waiting(oneshot::Receiver<T>),
    Ready(T),
    Gone,
}

impl<T> Side<T> {
    /// `None` when there is none and will be none. Nothing is lost when the caller stops waiting.
    async fn ready(&mut self) -> Option<&mut T> {
        if let Self::Waiting(receiver) = self {
            *self = receiver.await.map_or(Self::Gone, Self::Ready);
        }
        match self {
            Self::Ready(ready) => Some(ready),
            Self::Waiting(_) | Self::Gone => None,
        }
    }
}

/// Receives output.
#[derive(Debug)]
pub struct AttachedOutput {
    from: Side<OwnedReadHalf>,
    received: BytesMut,
}

impl AttachedOutput {
    /// The next piece; `None` at the end of the process, or when the shim has cut off a reader that was too slow. A
    /// caller may stop waiting at any time and ask again.
    ///
    /// # Errors
    /// When the connection breaks or what comes is not the shim's language.
    pub async fn next(&mut self) -> io::Result<Option<Chunk>> {
        let Some(from) = self.from.ready().await else { return Ok(None) };
        loop {
            if let Some(prefix) = self.received.first_chunk::<HEADER>() {
                let (packet, length) = read_header(*prefix)?;
                if self.received.len() >= HEADER + length {
                    self.received.advance(HEADER);
                    let source = match packet {
                        Packet::Output => Stream::Stdout,
                        Packet::Error => Stream::Stderr,
                        Packet::Input | Packet::EndOfInput => return Err(io::ErrorKind::InvalidData.into()),
                    };
                    return Ok(Some(Chunk { source, bytes: self.received.split_to(length).freeze() }));
                }
            }
            self.received.reserve(LONGEST_PACKET / 2);
            match from.read_buf(&mut self.received).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Sends input. Dropping it does not end the process's input: only [`AttachedInput::end`] does.
#[derive(Debug)]
pub struct AttachedInput {
    to: Side<OwnedWriteHalf>,
}

impl AttachedInput {
    async fn send(&mut self, packet: Packet, content: &[u8]) -> io::Result<()> {
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the process has ended");
        let to = self.to.ready().await.ok_or_else(gone)?;
        let mut bytes = Vec::with_capacity(HEADER + content.len());
        bytes.extend_from_slice(&header(packet, content.len())?);
        bytes.extend_from_slice(content);
        to.write_all(&bytes).await
    }

    /// Sends input, and waits while the process has not read what came before.
    ///
    /// # Errors
    /// When the process has ended.
    pub async fn write(&mut self, input: &[u8]) -> io::Result<()> {
        for part in input.chunks(LONGEST_PACKET) {
            self.send(Packet::Input, part).await?;
        }
        Ok(())
    }

    /// Ends the process's input for everybody: it reads what came, then the end. A terminal's is not ended.
    ///
    /// # Errors
    /// When the process has ended.
    pub async fn end(&mut self) -> io::Result<()> {
        self.send(Packet::EndOfInput, &[]).await
    }
}

/// Connects to the shim in `directory`.
pub(crate) async fn connect(directory: &Path, wanted: Attach) -> io::Result<Attachment> {
    let (at, stream) = converse(directory, wanted).await?;
    let (reader, writer) = stream.into_split();
    Ok(Attachment {
        input: AttachedInput { to: Side::Ready(writer) },
        output: AttachedOutput { from: Side::Ready(reader), received: BytesMut::new() },
        at: Some(at),
    })
}

async fn converse(directory: &Path, wanted: Attach) -> io::Result<(u64, tokio::net::UnixStream)> {
    let mut shim = Shim::connect(directory).await?;
    match shim.ask(&Request::Attach(wanted)).await? {
        Some(Response::Attached { at }) => Ok((at, shim.into_stream())),
        None => Err(io::ErrorKind::ConnectionRefused.into()),
        Some(Response::BadRequest { .. }) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "it was started by an older version that cannot be attached to: restart the container",
        )),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "its shim gave an answer to another question")),
    }
}

/// Those who attached before the process was there.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    all: Mutex<Vec<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    wanted: Attach,
    reader: oneshot::Sender<OwnedReadHalf>,
    writer: oneshot::Sender<OwnedWriteHalf>,
}

impl Waiting {
    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<Waiter>> {
        // Every change is a single one, so a panic elsewhere leaves the list whole.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Streams of a process to come.
    pub fn add(&self, wanted: Attach) -> Attachment {
        let (reader, from) = oneshot::channel();
        let (writer, to) = oneshot::channel();
        let mut all = self.locked();
        // Those who have gone are not waited with.
        all.retain(|waiter| !waiter.reader.is_closed() || !waiter.writer.is_closed());
        all.push(Waiter { wanted, reader, writer });
        Attachment {
            input: AttachedInput { to: Side::Waiting(to) },
            output: AttachedOutput { from: Side::Waiting(from), received: BytesMut::new() },
            at: None,
        }
    }

    /// Connects all of them to the shim in `directory`.
    pub async fn connect(&self, directory: PathBuf) {
        let all = std::mem::take(&mut *self.locked());
        for waiter in all {
            match converse(&directory, waiter.wanted).await {
                Ok((_, stream)) => {
                    let (reader, writer) = stream.into_split();
                    // Whoever has gone in the meantime needs nothing.
                    let _ = (waiter.reader.send(reader), waiter.writer.send(writer));
                }
                // Theirs then ends at once.
                Err(error) => tracing::debug!(%error, "somebody could not be attached"),
            }
        }
    }

    /// Lets all of them go: there will be nothing to attach to.
    pub fn dismiss(&self) {
        self.locked().clear();
    }
}

//! One connection to the shim's socket: requests and answers, or, once attached, the streams.
//!
//! An attached connection that does not take its output never costs more than a bounded buffer: when that is full the
//! output is left in its pipe for a moment, and whoever has not caught up after [`STALL`] is cut off.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::poll::PollFlags;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use stack_shim::log_record::Stream;
use stack_shim::protocol::{Attach, MOST_DESCRIPTORS, Request, Response, announced_length, encode};
use stack_shim::stream::{HEADER, LONGEST_PACKET, Packet, header, read_header};

/// More than this is not kept for a connection: the output waits.
const FULL: usize = 256 * 1024;
/// Output goes on when there is no more than this.
const ROOM: usize = 128 * 1024;
/// How long output waits for a connection that is full.
pub const STALL: Duration = Duration::from_secs(2);
/// How long the rest of the output waits for a connection when the container has ended.
const FAREWELL: Duration = Duration::from_secs(2);

/// What came in on a connection.
pub enum Incoming {
    /// To be answered.
    Request(Result<Request, String>),
    /// For standard input.
    Input(Vec<u8>),
    /// Standard input has ended.
    EndOfInput,
}

/// One connection.
pub struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    /// What came beside the bytes.
    descriptors: Vec<OwnedFd>,
    /// It wants to be told of the end.
    pub waits: bool,
    attached: Option<Attached>,
}

struct Attached {
    wanted: Attach,
    outgoing: Outgoing,
    /// Since when it is full.
    stalled: Option<Instant>,
}

/// Bytes that the socket has not taken yet.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Writes what the socket takes. False when it is broken.
    fn flush(&mut self, stream: &mut UnixStream) -> bool {
        while self.len() > 0 {
            match stream.write(&self.bytes[self.sent..]) {
                Ok(0) => return false,
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        if self.len() == 0 {
            *self = Self::default();
        } else if self.sent >= ROOM {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        true
    }
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, received: Vec::new(), descriptors: Vec::new(), waits: false, attached: None })
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// What it is to be waited for. `takes_input` says whether standard input has room.
    pub fn interest(&self, takes_input: bool) -> PollFlags {
        let mut flags = PollFlags::empty();
        let is_source = self.attached.as_ref().is_some_and(|attached| attached.wanted.input);
        flags.set(PollFlags::POLLIN, !is_source || takes_input);
        flags.set(PollFlags::POLLOUT, self.attached.as_ref().is_some_and(|attached| attached.outgoing.len() > 0));
        flags
    }

    /// Until when output waits for it, if it does.
    pub fn stalled_until(&self) -> Option<Instant> {
        self.attached.as_ref().and_then(|attached| attached.stalled).map(|since| since + STALL)
    }

    /// From here on it gets output.
    pub fn attach(&mut self, wanted: Attach) {
        self.attached = Some(Attached { wanted, outgoing: Outgoing::default(), stalled: None });
    }

    /// Gives it output, if it wants that. False when it is broken.
    pub fn give(&mut self, stream: Stream, output: &[u8]) -> bool {
        let Some(attached) = &mut self.attached else { return true };
        let (is_wanted, packet) = match stream {
            Stream::Stdout => (attached.wanted.output, Packet::Output),
            Stream::Stderr => (attached.wanted.error, Packet::Error),
        };
        if !is_wanted {
            return true;
        }
        for part in output.chunks(LONGEST_PACKET) {
            let Ok(header) = header(packet, part.len()) else { return false };
            attached.outgoing.bytes.extend_from_slice(&header);
            attached.outgoing.bytes.extend_from_slice(part);
        }
        self.flush()
    }

    /// Writes what it takes. False when it is broken.
    pub fn flush(&mut self) -> bool {
        let Some(attached) = &mut self.attached else { return true };
        let fine = attached.outgoing.flush(&mut self.stream);
        let kept = attached.outgoing.len();
        if kept >= FULL {
            attached.stalled.get_or_insert_with(Instant::now);
        } else if kept <= ROOM {
            attached.stalled = None;
        }
        fine
    }

    /// The rest of its output, when there will be no more.
    pub fn say_farewell(&mut self) {
        let Some(attached) = &mut self.attached else { return };
        let began = Instant::now();
        // Whoever does not take it in time goes without.
        let _ = self.stream.set_nonblocking(false);
        while attached.outgoing.len() > 0 && began.elapsed() < FAREWELL {
            let _ = self.stream.set_write_timeout(Some(FAREWELL));
            if !attached.outgoing.flush(&mut self.stream) {
                return;
            }
        }
    }

    /// Answers. False when it is broken.
    pub fn answer(&mut self, response: &Response) -> bool {
        let Ok(frame) = encode(response) else { return false };
        // Answers are smaller than a socket's buffer; whoever has let it fill up is cut off.
        self.stream.write_all(&frame).is_ok()
    }

    /// Answers, with descriptors beside the frame. False when the connection is broken.
    pub fn answer_with(&mut self, response: &Response, descriptors: &[OwnedFd]) -> bool {
        let Ok(frame) = encode(response) else { return false };
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let beside = if numbers.is_empty() { &[][..] } else { &rights[..] };
        let sent =
            sendmsg::<UnixAddr>(self.stream.as_raw_fd(), &[IoSlice::new(&frame)], beside, MsgFlags::empty(), None);
        // A frame this short is sent whole or not at all.
        sent.is_ok_and(|length| length == frame.len())
    }

    /// The descriptors that came since this was last asked.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    fn read_with_descriptors(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut beside = cmsg_space!([RawFd; MOST_DESCRIPTORS]);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<UnixAddr>(self.stream.as_raw_fd(), &mut parts, Some(&mut beside), flags)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                // SAFETY: the kernel has just made these descriptors for us alone.
                self.descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
            }
        }
        // Whoever sends more than any frame comes with loses what it sent before.
        let excess = self.descriptors.len().saturating_sub(MOST_DESCRIPTORS);
        self.descriptors.drain(..excess);
        Ok(message.bytes)
    }

    /// Reads what there is, up to `limit` bytes. False when the connection is over.
    pub fn receive(&mut self, limit: usize) -> bool {
        let mut buffer = [0; 4096];
        let mut count = 0;
        while count < limit {
            match self.read_with_descriptors(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => {
                    self.received.extend_from_slice(&buffer[..length]);
                    count += length;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// The next thing of what was received; `None` when nothing whole is there, an error when it is no language of ours.
    pub fn next(&mut self) -> io::Result<Option<Incoming>> {
        let unknown = || io::Error::from(io::ErrorKind::InvalidData);
        if self.attached.is_some() {
            let Some(prefix) = self.received.first_chunk::<HEADER>() else { return Ok(None) };
            let (packet, length) = read_header(*prefix)?;
            let Some(content) = self.received.get(HEADER..HEADER + length) else { return Ok(None) };
            let incoming = match packet {
                Packet::Input => Incoming::Input(content.to_vec()),
                Packet::EndOfInput => Incoming::EndOfInput,
                Packet::Output | Packet::Error => return Err(unknown()),
            };
            self.received.drain(..HEADER + length);
            return Ok(Some(incoming));
        }
        let Some(prefix) = self.received.first_chunk::<4>() else { return Ok(None) };
        // Requests are small; anything else is not the engine.
        let length = announced_length(*prefix).ok().filter(|&length| length <= 65_536).ok_or_else(unknown)?;
        let Some(body) = self.received.get(4..4 + length) else { return Ok(None) };
        let request = serde_json::from_slice(body).map_err(|error| error.to_string());
        self.received.drain(..4 + length);
        Ok(Some(Incoming::Request(request)))
    }

    /// Whether it may send input.
    pub fn is_source(&self) -> bool {
        self.attached.as_ref().is_some_and(|attached| attached.wanted.input)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn attached() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(ours).unwrap();
        connection.attach(Attach { input: true, output: true, error: false, replay: false });
        (connection, theirs)
    }

    #[test]
    fn who_takes_nothing_is_full_and_who_takes_it_gets_everything() {
        let (mut connection, mut reader) = attached();
        let chunk = [b'x'; 16 * 1024];
        let mut given = 0usize;
        while connection.stalled_until().is_none() {
            assert!(connection.give(Stream::Stdout, &chunk));
            given += chunk.len();
            assert!(given < 8 << 20, "the buffer is bounded");
        }
        assert!(connection.give(Stream::Stderr, b"not wanted"));
        let taker = std::thread::spawn(move || {
            let mut taken = 0;
            while taken < given {
                let mut prefix = [0; HEADER];
                reader.read_exact(&mut prefix).unwrap();
                let (packet, length) = read_header(prefix).unwrap();
                assert_eq!(packet, Packet::Output);
                let mut content = vec![0; length];
                reader.read_exact(&mut content).unwrap();
                assert!(content.iter().all(|&byte| byte == b'x'));
                taken += length;
            }
            taken
        });
        connection.say_farewell();
        assert!(connection.flush());
        assert_eq!(taker.join().unwrap(), given);
        assert!(connection.stalled_until().is_none());
    }

    #[test]
    fn input_comes_in_packets_however_it_is_cut() {
        let (mut connection, mut writer) = attached();
        let mut bytes = header(Packet::Input, 5).unwrap().to_vec();
        bytes.extend_from_slice(b"hello");
        bytes.extend_from_slice(&header(Packet::EndOfInput, 0).unwrap());
        let mut all = Vec::new();
        for byte in bytes {
            writer.write_all(&[byte]).unwrap();
            assert!(connection.receive(1 << 16));
            while let Some(incoming) = connection.next().unwrap() {
                match incoming {
                    Incoming::Input(input) => all.extend(input),
                    Incoming::EndOfInput => all.push(b'!'),
                    Incoming::Request(_) => panic!("it is attached"),
                }
            }
        }
        assert_eq!(all, b"hello!");
        writer.write_all(&header(Packet::Output, 0).unwrap()).unwrap();
        assert!(connection.receive(1 << 16) && connection.next().is_err());
        drop(writer);
        assert!(!connection.receive(1 << 16));
    }
}

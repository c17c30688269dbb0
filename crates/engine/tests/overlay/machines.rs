//! Machines made of network namespaces, and programs on them that talk.
#![expect(clippy::unwrap_used, reason = "only tests call these; what fails here fails the test")]

use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use tokio::runtime::Runtime;

/// How long anything may take that should take no time at all.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for an answer that should not come.
const SILENCE: Duration = Duration::from_millis(700);

/// A network namespace. It is gone when the last socket and handle in it is.
pub struct Machine {
    pub netns: File,
}

impl Machine {
    pub fn new() -> Self {
        let netns = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap();
        Self { netns }
    }

    /// Runs something on a thread inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(self.netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            match worker.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs something asynchronous on a thread inside. What it leaves behind, such as sockets, goes on from one time to the next.
    pub fn wait<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
        });
        self.run(|| RUNTIME.block_on(work()))
    }

    /// Runs a program inside; it must succeed.
    pub fn command(&self, program: &str, arguments: &[&str]) -> String {
        self.run(|| {
            let output = Command::new(program).args(arguments).output().unwrap();
            assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// A server over TCP and UDP, IPv4 and IPv6, that answers with its name and the client's address, and then echoes.
    pub fn serve(&self, name: &str, port: u16) {
        let any = (Ipv6Addr::UNSPECIFIED, port);
        let (listener, socket) = self.run(|| (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap()));
        let tcp_name = name.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let name = tcp_name.clone();
                std::thread::spawn(move || {
                    let peer = stream.peer_addr()?.ip().to_canonical();
                    writeln!(stream, "{name} {peer}")?;
                    let mut reader = stream.try_clone()?;
                    io::copy(&mut reader, &mut stream)
                });
            }
        });
        let udp_name = name.to_owned();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let mut answer = format!("{udp_name} {}\n", peer.ip().to_canonical()).into_bytes();
                // Something large is sent back whole.
                answer.extend(buffer.get(..length).unwrap_or_default());
                if socket.send_to(&answer, peer).is_err() {
                    return;
                }
            }
        });
    }

    /// Who answers at an address, and as whom it sees us.
    pub fn ask(&self, address: IpAddr, port: u16) -> io::Result<(String, String)> {
        self.connect(address, port, PATIENCE).map(|(answer, _)| answer)
    }

    /// The same, with the connection left open.
    pub fn open(&self, address: IpAddr, port: u16) -> io::Result<((String, String), TcpStream)> {
        self.connect(address, port, PATIENCE)
    }

    /// Whether nobody answers.
    pub fn is_silent(&self, address: IpAddr, port: u16) -> bool {
        self.connect(address, port, SILENCE).is_err()
    }

    fn connect(&self, address: IpAddr, port: u16, patience: Duration) -> io::Result<((String, String), TcpStream)> {
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), patience)?;
            stream.set_read_timeout(Some(patience))?;
            let mut line = Vec::new();
            let mut byte = [0];
            while stream.read(&mut byte)? == 1 && byte != *b"\n" {
                line.push(byte[0]);
            }
            Ok((split(&String::from_utf8_lossy(&line)), stream))
        })
    }

    /// A UDP socket of this machine.
    pub fn udp(&self, family_of: IpAddr) -> UdpSocket {
        let any = if family_of.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        self.run(|| UdpSocket::bind(any)).unwrap()
    }

    /// Who answers over UDP from a new socket; a datagram of so many bytes is sent and must come back.
    pub fn ask_udp(&self, address: IpAddr, port: u16, length: usize) -> io::Result<(String, String)> {
        ask_udp(&self.udp(address), address, port, length)
    }
}

/// Asks over UDP with a socket that stays the same. As every client over UDP it asks again when there is no answer: the first
/// large datagram to a place behind a smaller MTU is how that is found out.
pub fn ask_udp(socket: &UdpSocket, address: IpAddr, port: u16, length: usize) -> io::Result<(String, String)> {
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let sent: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
    let mut buffer = vec![0; 65536];
    let until = Instant::now() + PATIENCE;
    let received = loop {
        socket.send_to(&sent, (address, port))?;
        match socket.recv(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {}
            received => break received?,
        }
    };
    let answer = buffer.get(..received).unwrap_or_default();
    let end = answer.iter().position(|byte| *byte == b'\n').ok_or(io::ErrorKind::InvalidData)?;
    let (head, body) = answer.split_at(end);
    if body.get(1..) != Some(&sent) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "another datagram came back"));
    }
    Ok(split(&String::from_utf8_lossy(head)))
}

/// Whether a connection that was opened still carries data both ways.
pub fn still_echoes(stream: &mut TcpStream) -> bool {
    carries(stream, 5)
}

/// Whether a connection carries so many bytes both ways.
pub fn carries(stream: &mut TcpStream, length: usize) -> bool {
    let sent: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
    let mut answer = vec![0; length];
    let Ok(mut writer) = stream.try_clone() else { return false };
    let writing = {
        let sent = sent.clone();
        std::thread::spawn(move || writer.write_all(&sent))
    };
    let read = stream.read_exact(&mut answer);
    writing.join().unwrap().is_ok() && read.is_ok() && answer == sent
}

fn split(text: &str) -> (String, String) {
    let (name, peer) = text.split_once(' ').unwrap_or((text, ""));
    (name.to_owned(), peer.to_owned())
}

/// Waits until something holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "it did not come about that {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

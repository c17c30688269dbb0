//! The engine's side of a shim: its program, its start, and the conversation with it.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stack_shim::launch::{COMPLAINTS_FILE, IdRange, SOCKET_FILE};
use stack_shim::protocol::{MOST_DESCRIPTORS, Request, Response, announced_length, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::sealing::seal;

/// The shim's program, held in sealed memory: a container that gets hold of the file behind a shim's `/proc/PID/exe`
/// cannot change what the next container is started with, and an upgrade on disk changes nothing halfway.
#[derive(Debug, Clone)]
pub(crate) struct ShimProgram {
    memory: Arc<OwnedFd>,
}

impl ShimProgram {
    pub fn load(path: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(path)?;
        // SAFETY: the name is a static C string.
        let fd = unsafe { libc::memfd_create(c"stack-shim".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.write_all(&bytes)?;
        seal(&file)?;
        // Reopened read-only: a file that is open for writing cannot be executed.
        let memory = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        Ok(Self { memory: Arc::new(memory.into()) })
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.memory.as_raw_fd()));
        command.arg0("stack-shim").env_clear().current_dir("/").stdout(Stdio::null()).kill_on_drop(false);
        command
    }
}

/// Starts a shim: `run` for a container, `exec` for a further process of one. Its socket listens before it runs, so that
/// nobody has to wait for it.
pub(crate) fn spawn(program: &ShimProgram, verb: &str, directory: &Path) -> io::Result<Child> {
    let listener = std::os::unix::net::UnixListener::bind(ShortPath::of(directory)?.socket())?;
    let complaints = File::create(directory.join(COMPLAINTS_FILE))?;
    program.command().arg(verb).arg(directory).stdin(OwnedFd::from(listener)).stderr(complaints).spawn()
}

/// How long the shim may take to try a user namespace.
const TRIED: Duration = Duration::from_secs(30);

/// Tries whether containers can have user namespaces with these ids, on the file system of `place`. Why not.
pub(crate) async fn try_user_namespace(program: &ShimProgram, place: &Path, ids: IdRange) -> Result<(), String> {
    let directory = tempfile::Builder::new().prefix(".user-namespace-").tempdir_in(place);
    let directory = directory.map_err(|error| format!("cannot make a directory in {}: {error}", place.display()))?;
    let mut command = program.command();
    command.arg("users").arg(directory.path()).args([ids.first.to_string(), ids.count.to_string()]);
    command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let tried = match tokio::time::timeout(TRIED, command.output()).await {
        Ok(tried) => tried.map_err(|error| format!("cannot run the shim: {error}"))?,
        Err(_) => return Err(format!("the shim did not answer for {} s", TRIED.as_secs())),
    };
    if tried.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&tried.stderr);
    let said = said.trim().trim_start_matches("stack-shim: ");
    Err(if said.is_empty() { format!("the shim failed: {}", tried.status) } else { said.chars().take(500).collect() })
}

/// A directory by its descriptor: a socket's address has room for 107 bytes only.
struct ShortPath {
    directory: File,
}

impl ShortPath {
    fn of(directory: &Path) -> io::Result<Self> {
        Ok(Self { directory: File::open(directory)? })
    }

    fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_FILE}", self.directory.as_fd().as_raw_fd()))
    }
}

/// A conversation with a shim.
#[derive(Debug)]
pub(crate) struct Shim {
    stream: UnixStream,
}

impl Shim {
    /// Fails with `NotFound` or `ConnectionRefused` when there is no such shim any more.
    pub async fn connect(directory: &Path) -> io::Result<Self> {
        let short = ShortPath::of(directory)?;
        Ok(Self { stream: UnixStream::connect(short.socket()).await? })
    }

    /// A conversation with a shim that has ended already.
    pub fn gone() -> io::Result<Self> {
        let (stream, _) = UnixStream::pair()?;
        Ok(Self { stream })
    }

    /// The connection, for what comes after the last answer.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// `None` when the shim is gone.
    pub async fn ask(&mut self, request: &Request) -> io::Result<Option<Response>> {
        match send(&mut self.stream, request).await {
            Err(error) if is_gone(&error) => return Ok(None),
            result => result?,
        }
        match receive(&mut self.stream).await {
            Err(error) if is_gone(&error) => Ok(None),
            result => result,
        }
    }

    /// Gives the shim descriptors to hold, which the next engine finds with [`Shim::kept`]. False when it is of a version
    /// that does not.
    pub async fn keep(&mut self, descriptors: &[BorrowedFd<'_>]) -> io::Result<bool> {
        let frame = encode(&Request::Keep)?;
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let socket = self.stream.as_raw_fd();
        let sent = self
            .stream
            .async_io(Interest::WRITABLE, || {
                let rights = [ControlMessage::ScmRights(&numbers)];
                Ok(sendmsg::<UnixAddr>(socket, &[IoSlice::new(&frame)], &rights, MsgFlags::empty(), None)?)
            })
            .await?;
        self.stream.write_all(frame.get(sent..).unwrap_or_default()).await?;
        Ok(matches!(receive(&mut self.stream).await?, Some(Response::Done)))
    }

    /// The descriptors that the shim holds; none with one of a version that holds none.
    pub async fn kept(&mut self) -> io::Result<Vec<OwnedFd>> {
        send(&mut self.stream, &Request::Kept).await?;
        let mut frame = Vec::new();
        let mut descriptors = Vec::new();
        while frame.len() < 4 || frame.len() < 4 + announced(&frame)? {
            let socket = self.stream.as_raw_fd();
            let read = self.stream.async_io(Interest::READABLE, || receive_part(socket, &mut descriptors)).await?;
            if read.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            frame.extend(read);
        }
        match serde_json::from_slice(frame.get(4..).unwrap_or_default())? {
            Response::Kept { count } if count == descriptors.len() => Ok(descriptors),
            _ => Ok(Vec::new()),
        }
    }
}

fn announced(frame: &[u8]) -> io::Result<usize> {
    frame.first_chunk::<4>().map_or(Ok(0), |prefix| announced_length(*prefix))
}

/// Some bytes, and the descriptors that came beside them.
fn receive_part(socket: RawFd, descriptors: &mut Vec<OwnedFd>) -> io::Result<Vec<u8>> {
    let mut buffer = [0; 1024];
    let mut beside = cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<UnixAddr>(socket, &mut parts, Some(&mut beside), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just made these descriptors for us alone.
            descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    let length = message.bytes;
    Ok(buffer.get(..length).unwrap_or_default().to_vec())
}

/// Whether an error says that the shim has ended.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof)
}

/// Kills the shims of a verb that were started for a directory and that nobody can work with: they are found by their program
/// and arguments.
pub(crate) fn kill_shims_of(verb: &str, directory: &Path) {
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    let wanted: Vec<u8> = ["stack-shim", verb]
        .iter()
        .map(|word| word.as_bytes())
        .chain([directory.as_os_str().as_bytes()])
        .flat_map(|word| word.iter().copied().chain([0]))
        .collect();
    for process in processes.filter_map(Result::ok) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // One that is gone meanwhile has neither.
        let is_ours = std::fs::read(process.path().join("cmdline")).is_ok_and(|words| words == wanted)
            && std::fs::read_link(process.path().join("exe"))
                .is_ok_and(|program| program.as_os_str().as_bytes().starts_with(b"/memfd:stack-shim"));
        if is_ours {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Whether an error of [`Shim::connect`] says that there is no shim.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Sends one frame.
pub(crate) async fn send<T: Serialize>(stream: &mut UnixStream, value: &T) -> io::Result<()> {
    stream.write_all(&encode(value)?).await
}

/// Receives one frame; `None` at the end.
pub(crate) async fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<Option<T>> {
    let mut prefix = [0; 4];
    match stream.read_exact(&mut prefix).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    };
    let mut body = vec![0; announced_length(prefix)?];
    stream.read_exact(&mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}

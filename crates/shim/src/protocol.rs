//! The wire protocol of a shim's socket: frames of a 4-byte length, big endian, and JSON. One answer for each request,
//! in order.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::launch::{Cgroups, IdRange, Namespaces, OciRuntime, Process};

/// No frame is longer; a longer one is an error of the other side. An exec's environment is the largest part of any.
pub const LONGEST_FRAME: usize = 4 * 1024 * 1024;

/// What the engine asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// How are things? Answered by [`Response::State`].
    Describe,
    /// The network is ready: run the first process. Answered by [`Response::State`] or [`Response::Failed`].
    Start,
    /// Send a signal to the first process. Answered by [`Response::Done`] or [`Response::NotRunning`].
    Signal {
        /// Its number.
        number: i32,
    },
    /// Answered by [`Response::State`] when the container has ended, after its exit record is in the file system.
    Wait,
    /// Receive the output from now on, and send input. Answered by [`Response::Attached`]; after that the connection
    /// carries [`crate::stream`] alone.
    Attach(Attach),
    /// Say how large the terminal is. Answered by [`Response::Done`], or [`Response::BadRequest`] where there is none.
    Resize(TerminalSize),
    /// Hold the descriptors that come with this frame, in place of those held before, so that they outlive the engine.
    /// Answered by [`Response::Done`].
    Keep,
    /// Answered by [`Response::Kept`], with copies of the descriptors that are held.
    Kept,
}

/// No frame comes with more descriptors.
pub const MOST_DESCRIPTORS: usize = 4;

/// Which streams a connection is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Standard input is sent.
    pub input: bool,
    /// Standard output is received; with a terminal everything is.
    pub output: bool,
    /// Standard error is received.
    pub error: bool,
    /// Begin with the line that is under way, which the log does not have yet.
    pub replay: bool,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// What the shim answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// How things are.
    State(State),
    /// Done as asked.
    Done,
    /// From here on there is only [`crate::stream`].
    Attached {
        /// What is in the log until then was not sent. Nanoseconds since the Unix epoch.
        at: u64,
    },
    /// The descriptors that come with this frame are those of [`Request::Keep`], in their order.
    Kept {
        /// So many.
        count: usize,
    },
    /// There is no process to do it to.
    NotRunning,
    /// The container could not be made or started.
    Failed(Failure),
    /// The request was not understood.
    BadRequest {
        /// Why.
        reason: String,
    },
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Everything is in place, and the first process waits for [`Request::Start`].
    Created {
        /// In the shim's pid namespace.
        pid: i32,
    },
    /// The program runs.
    Running {
        /// In the shim's pid namespace.
        pid: i32,
        /// Nanoseconds since the Unix epoch.
        started_at: u64,
    },
    /// It has ended.
    Exited(ExitRecord),
}

/// How a container ended. Also the exit file, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Which start this was.
    pub attempt: u64,
    /// The exit code, or 128 and the signal's number.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed one of its processes for want of memory.
    pub oom: bool,
    /// Nanoseconds since the Unix epoch; `None` when the program was never run.
    pub started_at: Option<u64>,
    /// Nanoseconds since the Unix epoch.
    pub finished_at: u64,
    /// Why it could not be started.
    pub failure: Option<Failure>,
    /// Bytes of output that could not be written to the log.
    #[serde(default)]
    pub log_bytes_lost: u64,
}

/// Why something could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {reason}")]
pub struct Failure {
    /// What was being done, naming the thing: `mount /data on /srv/data`.
    pub step: String,
    /// What went wrong, and where it helps the remedy.
    pub reason: String,
    /// What that means.
    pub kind: FailureKind,
}

/// What a failure means for whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// There is no such program in the container.
    CommandNotFound,
    /// The program is there but cannot be run: permission, format, a directory.
    CommandNotExecutable,
    /// The container has no such user or group.
    UnknownUser,
    /// The source of a mount is not there.
    MountSourceMissing,
    /// The container's own settings cannot be met by this image or kernel.
    Setting,
    /// The host is out of something: space, memory, processes.
    HostExhausted,
    /// Anything else that the kernel refused.
    Kernel,
}

impl FailureKind {
    /// The exit code that Docker gives such a container.
    #[must_use]
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::CommandNotFound => 127,
            Self::CommandNotExecutable => 126,
            Self::UnknownUser | Self::MountSourceMissing | Self::Setting | Self::HostExhausted | Self::Kernel => 128,
        }
    }
}

/// What the engine sends to `stack-shim exec` on its standard input, a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The container's first process.
    pub pid: i32,
    /// When that process was started, field 22 of /proc/PID/stat: the pid of another process is refused.
    pub pid_started: u64,
    /// Which of its namespaces are to be entered beside the mount namespace.
    pub namespaces: Namespaces,
    /// The ids of the container's user namespace, which is entered, too; `None`: it is the host's.
    #[serde(default)]
    pub users: Option<IdRange>,
    /// The groups that the process joins.
    pub cgroups: Cgroups,
    /// What to run.
    pub process: Process,
    /// Standard input is a pipe that the helper holds open, not `/dev/null`.
    #[serde(default)]
    pub stdin_open: bool,
    /// Of the terminal at the start, if there is one.
    #[serde(default)]
    pub terminal_size: Option<TerminalSize>,
    /// The container was made by another program, which makes this process too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<OciExec>,
}

/// A further process, made by another runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciExec {
    /// Which.
    pub runtime: OciRuntime,
    /// The process as the OCI runtime specification describes it, but for its user.
    pub process: serde_json::Value,
}

/// What lies in the directory of `stack-shim exec DIRECTORY`, a process that outlives the engine's. Its helper speaks the
/// protocol of a container's shim on its socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecLaunch {
    /// What to run, at [`Request::Start`].
    pub request: ExecRequest,
    /// Where the exit record is written. Absolute.
    pub exit_file: PathBuf,
}

/// The name of [`ExecLaunch`] in its directory.
pub const EXEC_FILE: &str = "exec.json";

/// What `stack-shim exec` answers, first `Started` or `Failed`, then `Exited`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecResponse {
    /// The program runs.
    Started {
        /// In the engine's pid namespace.
        pid: i32,
    },
    /// It could not be run.
    Failed(Failure),
    /// It has ended.
    Exited {
        /// The exit code, or 128 and the signal's number.
        code: i32,
    },
}

/// A frame ready to be written.
///
/// # Errors
/// When the value is longer than [`LONGEST_FRAME`] or cannot be JSON.
pub fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let length = frame.len() - 4;
    let prefix = u32::try_from(length)
        .ok()
        .filter(|_| length <= LONGEST_FRAME)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes is too long")))?;
    frame[..4].copy_from_slice(&prefix.to_be_bytes());
    Ok(frame)
}

/// The length that a frame's first four bytes announce.
///
/// # Errors
/// When it is more than [`LONGEST_FRAME`].
pub fn announced_length(prefix: [u8; 4]) -> io::Result<usize> {
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if length > LONGEST_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes is too long")));
    }
    Ok(length)
}

/// Reads one frame; `None` when the other side has closed.
///
/// # Errors
/// When reading fails, the frame is cut short, too long, or no such value.
pub fn read_frame<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut prefix = [0; 4];
    let mut have = 0;
    while have < prefix.len() {
        match from.read(&mut prefix[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut body = vec![0; announced_length(prefix)?];
    from.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// Writes one frame.
///
/// # Errors
/// When encoding or writing fails.
pub fn write_frame<T: Serialize>(to: &mut impl Write, value: &T) -> io::Result<()> {
    to.write_all(&encode(value)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(reason in ".{0,200}") {
            let value = Response::BadRequest { reason };
            let mut bytes = Vec::new();
            write_frame(&mut bytes, &value).unwrap();
            prop_assert_eq!(read_frame::<Response>(&mut bytes.as_slice()).unwrap(), Some(value));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_frame::<Request>(&mut bytes.as_slice());
        }
    }

    #[test]
    fn a_closed_connection_is_no_error_but_a_cut_frame_is() {
        assert!(read_frame::<Request>(&mut [].as_slice()).unwrap().is_none());
        let frame = encode(&Request::Wait).unwrap();
        for length in 1..frame.len() {
            assert!(read_frame::<Request>(&mut &frame[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn an_announced_length_beyond_the_limit_is_refused_before_memory_is_taken() {
        assert!(read_frame::<Request>(&mut [0xff; 8].as_slice()).is_err());
    }
}

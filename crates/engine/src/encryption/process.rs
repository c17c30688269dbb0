//! `stack-tunnel`: started, found again, told, and ended.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use stack_tunnel::protocol::{LONGEST_LINE, Request, Response, Settings, State};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

/// A tunnel that does not answer in this time is ended and begun anew.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is wrong with the process of a tunnel.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("{} could not be started", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be spoken to.
    #[error("the process of {interface} does not answer")]
    Talk {
        /// Its interface.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// It did not do what it was told.
    #[error("the process of {interface} refused: {reason}")]
    Refused {
        /// Its interface.
        interface: String,
        /// Why, as it says.
        reason: String,
    },
}

/// Where the process of an interface listens.
fn socket(directory: &Path, interface: &str) -> PathBuf {
    directory.join(format!("{interface}.sock"))
}

/// Tells the process of an interface what that should be; starts it if there is none. Whether there was none.
///
/// # Errors
/// It cannot be started, does not answer, or could not do it.
pub async fn set(
    host: &File,
    program: &Path,
    directory: &Path,
    interface: &str,
    settings: &Settings,
) -> Result<(State, bool), ProcessError> {
    let path = socket(directory, interface);
    let request = Request::Set(settings.clone());
    let (answer, started) = match ask(&path, &request).await {
        Ok(answer) => (answer, false),
        Err(error) if is_nobody(&error) => {
            start(host, program, &path, interface)
                .map_err(|source| ProcessError::Start { program: program.to_owned(), source })?;
            let answer = ask(&path, &request).await;
            (answer.map_err(|source| ProcessError::Talk { interface: interface.to_owned(), source })?, true)
        }
        Err(source) => return Err(ProcessError::Talk { interface: interface.to_owned(), source }),
    };
    match answer {
        Response::State(state) => Ok((state, started)),
        Response::Failed { reason } => Err(ProcessError::Refused { interface: interface.to_owned(), reason }),
        Response::Stopping => {
            Err(ProcessError::Refused { interface: interface.to_owned(), reason: "it ends".to_owned() })
        }
    }
}

/// Ends the process of an interface, if there is one.
///
/// # Errors
/// It is there and does not answer.
pub async fn stop(directory: &Path, interface: &str) -> Result<(), ProcessError> {
    let path = socket(directory, interface);
    match ask(&path, &Request::Stop).await {
        Ok(_) => {}
        Err(error) if is_nobody(&error) => {}
        Err(source) => return Err(ProcessError::Talk { interface: interface.to_owned(), source }),
    }
    // One that is not there is as good.
    let _ = std::fs::remove_file(path);
    Ok(())
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// The process has a session of its own and outlives this one. It takes no descriptor and nothing of the environment along
/// but the filter of its log.
fn start(host: &File, program: &Path, path: &Path, interface: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = OwnedFd::from(UnixListener::bind(path)?);
    let mut command = std::process::Command::new(program);
    command.arg(interface).stdin(Stdio::from(listener)).stdout(Stdio::null()).env_clear().current_dir("/");
    if let Some(filter) = std::env::var_os("STACK_LOG") {
        command.env("STACK_LOG", filter);
    }
    let netns = host.try_clone()?;
    let enter = move || {
        nix::unistd::setsid()?;
        nix::sched::setns(netns.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
        Ok(())
    };
    // SAFETY: between fork and exec it makes two system calls, and neither allocates nor takes a lock.
    unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, enter) };
    let mut child = command.spawn()?;
    // Somebody must hear of its end while this process is its parent.
    std::thread::Builder::new().name("tunnel".to_owned()).spawn(move || match child.wait() {
        Ok(status) if status.success() => {}
        Ok(status) => tracing::warn!("a tunnel's process ended with {status}"),
        Err(error) => tracing::warn!(%error, "a tunnel's process cannot be waited for"),
    })?;
    Ok(())
}

async fn ask(path: &Path, request: &Request) -> io::Result<Response> {
    let talk = async {
        let mut line = Zeroizing::new(serde_json::to_vec(request).map_err(io::Error::other)?);
        line.push(b'\n');
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(stream).take(LONGEST_LINE).read_line(&mut answer).await?;
        if answer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "it ended"));
        }
        serde_json::from_str(&answer).map_err(io::Error::other)
    };
    tokio::time::timeout(PATIENCE, talk).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

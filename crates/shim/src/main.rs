//! `stack-shim`: the parent of one container. The engine starts it; people do not.
//!
//! `stack-shim run DIRECTORY` makes the container that the launch document in `DIRECTORY` describes; standard input is
//! the listening socket. `stack-shim exec DIRECTORY` does so with one more process in a running container; `stack-shim exec`
//! runs one for as long as its standard input, a connection, is open. `stack-shim users DIRECTORY FIRST COUNT` tries whether
//! containers can have user namespaces with these ids, in an empty directory.

mod confinement;
mod connection;
mod container;
mod exec;
mod failing;
mod hooks;
mod init;
mod labelling;
mod log_compression;
mod log_files;
mod log_writer;
mod mounts;
mod oci_runtime;
mod peer;
mod process;
mod run;
mod supervisor;
mod syscalls;
mod users;

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use stack_shim::launch::IdRange;

/// Moves standard input out of the way, so that a container's process cannot inherit it.
fn take_standard_input() -> std::io::Result<OwnedFd> {
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?)?;
    Ok(input)
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let result = match arguments.iter().map(|argument| argument.to_str()).collect::<Vec<_>>().as_slice() {
        [Some("run"), _] => take_standard_input().and_then(|listener| run::run(Path::new(&arguments[1]), listener)),
        [Some("exec")] => take_standard_input().and_then(exec::run),
        [Some("exec"), _] => {
            take_standard_input().and_then(|listener| exec::supervise(Path::new(&arguments[1]), listener))
        }
        [Some("users"), Some(directory), Some(first), Some(count)] => match (first.parse(), count.parse()) {
            (Ok(first), Ok(count)) => {
                users::probe(Path::new(directory), IdRange { first, count }).map_err(std::io::Error::other)
            }
            _ => Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "expected the ids as numbers")),
        },
        [Some("--version")] => writeln!(std::io::stdout(), "stack-shim {}", env!("CARGO_PKG_VERSION")),
        _ => Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "usage: stack-shim run DIRECTORY | stack-shim exec [DIRECTORY] (started by stackd, not by hand)",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If even this cannot be written there is nothing left to do.
            let _ = writeln!(std::io::stderr(), "stack-shim: {error}");
            ExitCode::FAILURE
        }
    }
}

//! `stack-tunnel`: one WireGuard interface in user space. `stackd` starts it; people do not.
//!
//! `stack-tunnel INTERFACE` makes the interface in its network namespace; standard input is the listening socket by which it
//! is told its key and its peers. It ends when it is told to, or when its interface is taken away.

mod device;
mod tun;

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// Of the interface until it is told another.
const MTU: u16 = 1420;
/// Owns nothing, and may do nothing.
const NOBODY: u32 = 65534;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--version"] => writeln!(std::io::stdout(), "stack-tunnel {}", env!("CARGO_PKG_VERSION")).map_err(Into::into),
        [interface] if !interface.starts_with('-') => run(interface),
        _ => Err("usage: stack-tunnel INTERFACE (started by stackd, not by hand)".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If even this cannot be written there is nothing left to do.
            let _ = writeln!(std::io::stderr(), "stack-tunnel: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(interface: &str) -> Outcome {
    let filter = EnvFilter::try_from_env("STACK_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let listener = UnixListener::from(take_standard_input()?);
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (mtu, mtu_heard) = watch::channel(MTU);
        let tun = tun::Tun::make(interface, mtu_heard)?;
        become_nobody()?;
        device::serve(tokio::net::UnixListener::from_std(listener)?, tun, mtu).await?;
        Ok(())
    })
}

/// Moves standard input out of the way.
fn take_standard_input() -> std::io::Result<OwnedFd> {
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(std::fs::OpenOptions::new().read(true).open("/dev/null")?)?;
    Ok(input)
}

/// What needs rights is done: a defect in what reads packets from the network meets none. Other processes of nobody may not
/// look into this one either, as it is not dumpable any more.
fn become_nobody() -> nix::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(NOBODY.into(), NOBODY.into(), NOBODY.into())?;
    nix::unistd::setresuid(NOBODY.into(), NOBODY.into(), NOBODY.into())?;
    nix::sys::prctl::set_dumpable(false)
}

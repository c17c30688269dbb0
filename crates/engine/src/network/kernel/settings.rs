//! Settings of the kernel that have no netlink request, under `/proc/sys/net` of the host's network namespace.

use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;

use super::{KernelError, inside, refused};

/// What a new bridge must be before it is set up: it takes no routes from what containers say, and has IPv6 only where the
/// network does. Packets from 127.0.0.1 may leave through it, so that published ports answer there.
///
/// # Errors
/// When a setting is another and cannot be changed.
pub fn prepare_bridge(host: &File, bridge: &str, ipv6: bool) -> io::Result<()> {
    inside(host, || {
        set(&format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1")?;
        // A kernel without IPv6 has no such directory.
        let directory = format!("/proc/sys/net/ipv6/conf/{bridge}");
        if Path::new(&directory).is_dir() {
            set(&format!("{directory}/accept_ra"), "0")?;
            set(&format!("{directory}/disable_ipv6"), if ipv6 { "0" } else { "1" })?;
        }
        Ok(())
    })
}

/// What the interface of a container must be before it is set up, inside its namespace.
///
/// # Errors
/// When a setting is another and cannot be changed.
pub fn prepare_interface(netns: &File, interface: &str, ipv6: bool) -> io::Result<()> {
    inside(netns, || {
        let directory = format!("/proc/sys/net/ipv6/conf/{interface}");
        if Path::new(&directory).is_dir() {
            set(&format!("{directory}/accept_ra"), "0")?;
            set(&format!("{directory}/disable_ipv6"), if ipv6 { "0" } else { "1" })?;
        }
        Ok(())
    })
}

/// Lets the host pass packets on between its links.
///
/// # Errors
/// When it is off and cannot be set on.
pub fn pass_on(host: &File, ipv6: bool) -> Result<(), KernelError> {
    inside(host, || {
        set("/proc/sys/net/ipv4/ip_forward", "1")?;
        if ipv6 { pass_on_ipv6() } else { Ok(()) }
    })
    .map_err(refused(|| {
        "let the host pass packets on between its links; set it on the host if stackd may not".to_owned()
    }))
}

/// A host that passes IPv6 on does not take its own routes from routers any more, unless it is told to do both: so those
/// links that do take them are told first. A kernel without IPv6 has nothing to pass on.
///
/// # Errors
/// When a setting is another and cannot be changed.
pub fn pass_on_ipv6() -> io::Result<()> {
    let all = "/proc/sys/net/ipv6/conf/all/forwarding";
    if !Path::new(all).exists() || is(all, "1") {
        return Ok(());
    }
    for entry in fs::read_dir("/proc/sys/net/ipv6/conf")? {
        let accept = entry?.path().join("accept_ra");
        if is(&accept, "1") {
            fs::write(accept, "2")?;
        }
    }
    fs::write(all, "1")
}

fn is(path: impl AsRef<Path>, value: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|present| present.trim() == value)
}

/// Read first: where it is right already, a read-only `/proc/sys` does no harm.
fn set(path: &str, value: &str) -> io::Result<()> {
    if is(path, value) {
        return Ok(());
    }
    fs::write(path, value).map_err(|error| io::Error::new(error.kind(), format!("write `{value}` to {path}: {error}")))
}

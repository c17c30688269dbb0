//! The host's own settings that containers' traffic depends on.

use std::fs;
use std::io;

use super::kernel::settings::pass_on_ipv6;

/// A setting of the host that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("write `{value}` to {path}; set it on the host if stackd may not")]
pub struct SettingError {
    /// The file under `/proc/sys`.
    pub path: String,
    /// What it should hold.
    pub value: &'static str,
    /// Why.
    pub source: io::Error,
}

/// Lets the host pass packets on between its links.
///
/// # Errors
/// When it is off and cannot be set on.
pub fn enable_forwarding() -> Result<(), SettingError> {
    set("/proc/sys/net/ipv4/ip_forward".to_owned(), "1")
}

/// Lets packets from 127.0.0.1 leave through a bridge, so that published ports answer there. What comes in through the
/// bridge with such an address is dropped by the ruleset.
///
/// # Errors
/// When it is off and cannot be set on.
pub fn route_loopback(bridge: &str) -> Result<(), SettingError> {
    set(format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1")
}

/// Lets the host pass IPv6 packets on between its links, and a bridge have IPv6 addresses without taking routes from what its
/// containers say.
///
/// # Errors
/// When a setting is another and cannot be changed, or the kernel has no IPv6.
pub fn enable_ipv6(bridge: &str) -> Result<(), SettingError> {
    set(format!("/proc/sys/net/ipv6/conf/{bridge}/accept_ra"), "0")?;
    set(format!("/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6"), "0")?;
    pass_on_ipv6().map_err(|source| SettingError {
        path: "/proc/sys/net/ipv6/conf/all/forwarding".to_owned(),
        value: "1",
        source,
    })
}

fn set(path: String, value: &'static str) -> Result<(), SettingError> {
    // Read first: where it is right already, a read-only /proc/sys does no harm.
    if fs::read_to_string(&path).is_ok_and(|present| present.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| SettingError { path, value, source })
}

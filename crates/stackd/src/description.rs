//! What this host says of itself when it joins and registers.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use stack_model::NodeDescription;

use crate::configuration::Configuration;

/// Reads it from the kernel. The host's routes are not among it: the engine knows which of them are its own.
pub fn describe(configuration: &Configuration) -> NodeDescription {
    let name = nix::sys::utsname::uname().ok();
    let text = |value: Option<&std::ffi::OsStr>| value.map(|value| value.to_string_lossy().into_owned());
    let own_name = text(name.as_ref().map(|name| name.nodename())).unwrap_or_default();
    let machine = text(name.as_ref().map(|name| name.machine())).unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    NodeDescription {
        hostname: configuration.hostname.clone().unwrap_or(own_name),
        operating_system: "linux".to_owned(),
        architecture: match machine.as_str() {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned(),
        kernel: text(name.as_ref().map(|name| name.release())).unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cpu_millis: u64::try_from(processors).unwrap_or(1).saturating_mul(1000),
        memory_bytes: memory().unwrap_or(0),
        routes: Vec::new(),
        engine_labels: configuration.labels.clone(),
        encryption: None,
    }
}

fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Where other hosts reach this one: as told, as listened on, or the address that the host's default route leaves from.
pub fn advertised(configuration: &Configuration, asked: Option<SocketAddr>) -> Option<SocketAddr> {
    if let Some(address) = asked.or(configuration.advertise) {
        return Some(address);
    }
    let listen = configuration.listen;
    if !listen.ip().is_unspecified() {
        return Some(listen);
    }
    // Connecting a datagram socket sends nothing; it only asks the kernel for the route.
    let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((std::net::Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    let usable = !address.is_unspecified() && !address.is_loopback();
    usable.then(|| SocketAddr::new(address, listen.port()))
}

/// Whether an address is one that this host has.
pub fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

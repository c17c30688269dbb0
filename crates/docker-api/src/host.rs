//! What the kernel and the distribution say about this host.

use std::fs;
use std::path::Path;

/// The host as `docker info` shows it. What cannot be read is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The kernel's release.
    pub kernel: String,
    /// The distribution: `Debian GNU/Linux 12 (bookworm)`.
    pub system: String,
    /// The distribution's version.
    pub system_version: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// In bytes.
    pub memory_bytes: u64,
    /// Whether packets are passed on between interfaces.
    pub ipv4_forwarding: bool,
    /// Now, RFC 3339.
    pub time: String,
}

impl Host {
    /// Asks the kernel, and reads `/etc/os-release`.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default().trim().to_owned();
        let release = text("/etc/os-release");
        Self {
            name: text("/proc/sys/kernel/hostname"),
            kernel: text("/proc/sys/kernel/osrelease"),
            system: release_field(&release, "PRETTY_NAME"),
            system_version: release_field(&release, "VERSION_ID"),
            processors: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory_bytes: memory_bytes(&text("/proc/meminfo")),
            ipv4_forwarding: text("/proc/sys/net/ipv4/ip_forward") == "1",
            time: jiff::Timestamp::now().to_string(),
        }
    }
}

/// What a container can be kept to, as lists of the kernel's: `0-3,8`. What cannot be read is empty, and is not checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Online {
    /// Processors.
    pub processors: String,
    /// Memory nodes.
    pub memory_nodes: String,
}

impl Online {
    /// Asks the kernel.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default().trim().to_owned();
        Self {
            processors: text("/sys/devices/system/cpu/online"),
            memory_nodes: text("/sys/devices/system/node/online"),
        }
    }
}

/// A field of os-release(5).
fn release_field(text: &str, name: &str) -> String {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_default().trim_matches(|character| matches!(character, '"' | '\'')).to_owned()
}

/// `MemTotal` of proc_meminfo(5), in bytes.
fn memory_bytes(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_the_system() {
        let release = "NAME=x\nVERSION_ID=\"12\"\nPRETTY_NAME='A B'\n";
        assert_eq!(
            (release_field(release, "PRETTY_NAME"), release_field(release, "VERSION_ID")),
            ("A B".into(), "12".into())
        );
        assert_eq!(release_field(release, "ID"), "");
        assert_eq!(memory_bytes("MemTotal:       16 kB\nMemFree: 1 kB\n"), 16 << 10);
        assert_eq!(memory_bytes("nonsense"), 0);
    }

    #[test]
    fn this_host() {
        let host = Host::read();
        assert!(!host.kernel.is_empty() && host.processors > 0 && host.memory_bytes > 0, "{host:?}");
    }
}

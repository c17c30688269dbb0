//! Pure. The names of the overlay networks' links.
//!
//! The letter after the prefix is no hexadecimal digit, so that no name is one of the engine's other networks.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

/// The bridge of a network.
#[must_use]
pub fn bridge(prefix: &str, vni: u32) -> String {
    format!("{prefix}o{vni:06x}")
}

/// The VXLAN device of a network.
#[must_use]
pub fn tunnel(prefix: &str, vni: u32) -> String {
    format!("{prefix}x{vni:06x}")
}

/// The host's end of the link to the interface with these addresses. 36 bits of a hash: with a thousand containers the
/// chance that two share a name is one in a hundred thousand, and it is refused then.
#[must_use]
pub fn port(prefix: &str, vni: u32, addresses: impl IntoIterator<Item = IpAddr>) -> String {
    let mut hasher = Sha256::new();
    hasher.update(vni.to_be_bytes());
    for address in addresses {
        match address {
            IpAddr::V4(address) => hasher.update(address.octets()),
            IpAddr::V6(address) => hasher.update(address.octets()),
        }
    }
    let digest = hex::encode(hasher.finalize());
    format!("{prefix}p{}", digest.get(..9).unwrap_or_default())
}

/// Whether a link's name is one of these.
#[must_use]
pub fn is_own(prefix: &str, name: &str) -> bool {
    let digits = |rest: &str, count| rest.len() == count && rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.strip_prefix(prefix).is_some_and(|rest| match rest.split_at_checked(1) {
        Some(("o" | "x", rest)) => digits(rest, 6),
        Some(("p", rest)) => digits(rest, 9),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_fits_and_is_known_again() {
        let port = port("stack", 0x00ff_ffff, ["10.1.2.3".parse().unwrap()]);
        for name in [bridge("stack", 1), tunnel("stack", 0x00ff_ffff), port] {
            assert!(name.len() <= 15, "{name}");
            assert!(is_own("stack", &name), "{name}");
        }
        for other in ["stack0", "stack0a000001", "docker0", "stackx", "stacko00000", "stackp"] {
            assert!(!is_own("stack", other), "{other}");
        }
    }
}

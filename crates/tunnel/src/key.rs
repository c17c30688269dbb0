//! Keys as WireGuard has them (Curve25519, RFC 7748), written in base64 as `wg` does.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Addresses within tunnels begin with this: unique local addresses (RFC 4193) that never leave the tunnels.
pub const PREFIX: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x7461, 0x636b, 0, 0, 0, 0, 0);
/// So many bits of [`PREFIX`] are the same for all.
pub const PREFIX_LENGTH: u8 = 48;

/// What is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 32 bytes in base64")]
pub struct KeyError;

fn decode(text: &str) -> Result<[u8; 32], KeyError> {
    let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| KeyError)?);
    <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| KeyError)
}

/// What others know a host by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Of its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The one address that a host has within tunnels by this key: 80 bits of a hash under [`PREFIX`], so that it needs no
    /// agreement, and nobody can have another's.
    #[must_use]
    pub fn address(&self) -> Ipv6Addr {
        let digest = Sha256::digest(self.0);
        let mut octets = PREFIX.octets();
        for (octet, byte) in octets.iter_mut().skip(usize::from(PREFIX_LENGTH / 8)).zip(digest) {
            *octet = byte;
        }
        Ipv6Addr::from(octets)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

/// What a host keeps to itself. Its memory is cleared when it is dropped, and it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Zeroizing<[u8; 32]>);

impl PrivateKey {
    /// A new one, of the kernel's random bytes.
    #[must_use]
    pub fn generate() -> Self {
        Self(Zeroizing::new(x25519_dalek::StaticSecret::random().to_bytes()))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What belongs to it.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(*self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PrivateKey(..)")
    }
}

impl Serialize for PrivateKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(*self.0)))
    }
}

impl<'de> Deserialize<'de> for PrivateKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        decode(&text).map(|bytes| Self(Zeroizing::new(bytes))).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of RFC 7748, section 6.1.
    #[test]
    fn the_public_key_is_that_of_the_standard() {
        let alice = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
        let alice: PrivateKey = serde_json::from_value(alice.into()).unwrap();
        assert_eq!(alice.public().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    }

    #[test]
    fn keys_are_written_and_read_and_private_ones_never_shown() {
        let key = PrivateKey::generate();
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<PrivateKey>(&text).unwrap(), key);
        assert!(!format!("{key:?}").contains(text.trim_matches('"')));
        let public = key.public();
        assert_eq!(public.to_string().parse(), Ok(public));
        for wrong in ["", "AAAA", "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LC", "not base64 at all"] {
            assert_eq!(wrong.parse::<PublicKey>(), Err(KeyError), "{wrong}");
            let refused = serde_json::from_value::<PrivateKey>(wrong.into()).unwrap_err().to_string();
            assert!(wrong.is_empty() || !refused.contains(wrong), "{refused}");
        }
    }

    #[test]
    fn every_key_has_an_address_of_its_own_under_the_prefix() {
        let one = PrivateKey::generate().public();
        let other = PrivateKey::generate().public();
        assert_ne!(one.address(), other.address());
        assert_eq!(one.address(), one.address());
        assert_eq!(one.address().segments()[..3], PREFIX.segments()[..3]);
    }
}

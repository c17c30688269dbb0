//! The keys by which this host takes part in encrypted networks: kept on it, replaced from time to time, and announced.
//!
//! A key is replaced in three announcements, each made once everybody who needs it has put the one before into force: the
//! new key beside the old one, the new key first, the new key alone. Nobody ever sends by a key that the receiver does not
//! have, so nothing is lost.

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use stack_engine::encryption::{
    Encryption, OVERHEAD_IPV4, OVERHEAD_IPV6, OwnKey, Peer, PrivateKey, PublicKey, Slot, Unable,
};
use stack_model::{NodeEncryption, NodeId, Timestamp, TunnelKey};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::networks::{HostNetworks, Networks};
use crate::overlay::Underlay;

/// How often it is looked whether a key is old enough.
const LOOK: Duration = Duration::from_secs(1);
/// In the state directory; only root may read it.
const FILE: &str = "encryption.json";

/// When keys are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// When a key is so old.
    pub after: Duration,
    /// An old key that nobody needs any more is kept so long for what is under way.
    pub linger: Duration,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { after: Duration::from_secs(12 * 3600), linger: Duration::from_secs(10) }
    }
}

/// The keys of this host, as they are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// Grows with every change.
    announcement: u64,
    /// When the last change was.
    changed: Timestamp,
    /// When the youngest key was made.
    made: Timestamp,
    /// One or two; the first is sent with.
    keys: Vec<OwnKey>,
    /// Of two keys the second is the older one: it is going. Else it is coming.
    retiring: bool,
}

impl Keys {
    /// A first key.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let first = OwnKey { private_key: PrivateKey::generate(), slot: Slot::First };
        Self { announcement: 1, changed: now, made: now, keys: vec![first], retiring: false }
    }

    /// What follows, if it is time. `acknowledged`: the last announcement that everybody who needs it has put into force.
    #[must_use]
    pub fn next(&self, now: Timestamp, acknowledged: u64, rotation: Rotation) -> Option<Self> {
        let since = |then: Timestamp| now.since(then).to_duration();
        let is_known = acknowledged >= self.announcement;
        let changed = |keys: Vec<OwnKey>, retiring| Self {
            announcement: self.announcement + 1,
            changed: now,
            made: self.made,
            keys,
            retiring,
        };
        match self.keys.as_slice() {
            [only] if is_known && since(self.made) >= rotation.after => {
                let next = OwnKey { private_key: PrivateKey::generate(), slot: only.slot.other() };
                Some(Self { made: now, ..changed(vec![only.clone(), next], false) })
            }
            [old, new] if !self.retiring && is_known => Some(changed(vec![new.clone(), old.clone()], true)),
            [new, _old] if self.retiring && is_known && since(self.changed) >= rotation.linger => {
                Some(changed(vec![new.clone()], false))
            }
            _ => None,
        }
    }

    fn announced(&self, port: impl Fn(Slot) -> u16) -> NodeEncryption {
        let key = |key: &OwnKey| TunnelKey { public_key: key.private_key.public().to_string(), port: port(key.slot) };
        NodeEncryption { announcement: self.announcement, keys: self.keys.iter().map(key).collect(), unable: None }
    }

    /// The host's own keys, the one to send with first.
    #[must_use]
    pub fn own(&self) -> &[OwnKey] {
        &self.keys
    }
}

/// The keys of this host, and who needs to hear of them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KeyRing {
    directory: Arc<Path>,
    rotation: Rotation,
    first_port: u16,
    /// `None`: the host can be on no encrypted network.
    keys: watch::Sender<Option<Keys>>,
    acknowledged: watch::Sender<u64>,
    unable: Option<Arc<str>>,
}

impl KeyRing {
    /// The keys that are kept in the state directory, or a new one.
    ///
    /// # Errors
    /// They cannot be read, or a new one cannot be kept.
    pub fn open(directory: &Path, rotation: Rotation, first_port: u16, able: Result<(), Unable>) -> io::Result<Self> {
        let unable: Option<Arc<str>> = able.err().map(|unable| unable.to_string().into());
        let keys = if unable.is_some() { None } else { Some(load(directory)?) };
        Ok(Self {
            directory: directory.into(),
            rotation,
            first_port,
            keys: watch::Sender::new(keys),
            acknowledged: watch::Sender::new(0),
            unable,
        })
    }

    /// What the host says of itself.
    #[must_use]
    pub fn announced(&self) -> NodeEncryption {
        match &*self.keys.borrow() {
            Some(keys) => keys.announced(|slot| slot.port(self.first_port)),
            None => {
                NodeEncryption { unable: self.unable.as_deref().map(ToOwned::to_owned), ..NodeEncryption::default() }
            }
        }
    }

    /// Hears of changes of what is announced.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Option<Keys>> {
        self.keys.subscribe()
    }

    /// The leader says which announcement everybody has put into force.
    pub fn acknowledge(&self, announcement: u64) {
        self.acknowledged.send_if_modified(|known| std::mem::replace(known, announcement) != announcement);
    }

    /// Tells the networks of the keys, and replaces these, until `stop`.
    pub async fn run(self, networks: Networks, stop: CancellationToken) {
        let mut acknowledged = self.acknowledged.subscribe();
        loop {
            let keys = self.keys.borrow().clone();
            networks.set_keys(keys.as_ref().map(|keys| keys.keys.clone()).unwrap_or_default());
            let Some(keys) = keys else { return };
            let known = *acknowledged.borrow_and_update();
            if let Some(next) = keys.next(now(), known, self.rotation) {
                let (directory, kept) = (Arc::clone(&self.directory), next.clone());
                let saved = tokio::task::spawn_blocking(move || save(&directory, &kept)).await;
                match saved.map_err(io::Error::other).and_then(|saved| saved) {
                    Ok(()) => {
                        tracing::info!(
                            announcement = next.announcement,
                            keys = next.keys.len(),
                            "the keys of this host for encrypted networks change"
                        );
                        self.keys.send_replace(Some(next));
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a new key for encrypted networks cannot be kept; trying again")
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
                _ = acknowledged.changed() => {}
            }
        }
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

fn load(directory: &Path) -> io::Result<Keys> {
    let path = path(directory);
    match std::fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice::<Keys>(&bytes) {
            Ok(keys) if matches!(keys.keys.len(), 1 | 2) => return Ok(keys),
            // Nobody but this host needs what was in it.
            _ => {
                tracing::error!(path = %path.display(), "the keys for encrypted networks are damaged: they are replaced")
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let keys = Keys::new(now());
    save(directory, &keys)?;
    Ok(keys)
}

/// Whole or not at all, for root alone.
fn save(directory: &Path, keys: &Keys) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    serde_json::to_writer(&mut file, keys)?;
    file.flush()?;
    file.as_file().sync_all()?;
    file.persist(path(directory)).map_err(|error| error.error)?;
    std::fs::File::open(directory)?.sync_all()
}

/// Pure. The host's tunnels; `None`: it is on no encrypted network, or has no key.
#[must_use]
pub fn encryption(node: NodeId, networks: &HostNetworks, underlay: Underlay) -> Option<Encryption> {
    let encrypted = || networks.assigned.iter().filter(|(_, assigned)| assigned.encrypted);
    if networks.keys.is_empty() || encrypted().next().is_none() {
        return None;
    }
    let others = encrypted()
        .filter_map(|(name, _)| networks.whole(name))
        .flat_map(|(_, document)| document.hosts.iter())
        .filter(|(host, _)| **host != node);
    let peers = others.flat_map(|(_, host)| {
        host.keys.iter().filter_map(|key| {
            let public_key = key.public_key.parse::<PublicKey>().ok()?;
            Some(Peer { public_key, endpoint: SocketAddr::new(host.underlay, key.port) })
        })
    });
    Some(Encryption { keys: networks.keys.clone(), mtu: tunnel_mtu(underlay), peers: peers.collect() })
}

/// Of tunnels between hosts, in bytes.
#[must_use]
pub fn tunnel_mtu(underlay: Underlay) -> u16 {
    let overhead = match underlay.address {
        IpAddr::V4(_) => OVERHEAD_IPV4,
        IpAddr::V6(_) => OVERHEAD_IPV6,
    };
    u16::try_from(underlay.mtu.saturating_sub(overhead)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROTATION: Rotation = Rotation { after: Duration::from_secs(100), linger: Duration::from_secs(5) };

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1000)
    }

    fn public(keys: &Keys) -> Vec<PublicKey> {
        keys.own().iter().map(|key| key.private_key.public()).collect()
    }

    #[test]
    fn a_key_is_replaced_step_by_step_and_no_step_is_taken_before_the_last_is_known() {
        let first = Keys::new(at(0));
        let [old] = public(&first)[..] else { panic!("one key") };
        assert_eq!(first.next(at(99), 1, ROTATION), None, "too young");
        assert_eq!(first.next(at(100), 0, ROTATION), None, "not everybody knows the first one");
        let coming = first.next(at(100), 1, ROTATION).unwrap();
        let [sent, new] = public(&coming)[..] else { panic!("two keys") };
        assert_eq!(sent, old);
        assert_ne!(new, old);
        assert_ne!(coming.own()[0].slot, coming.own()[1].slot);

        assert_eq!(coming.next(at(1000), 1, ROTATION), None, "nobody knows the new one");
        let going = coming.next(at(101), 2, ROTATION).unwrap();
        assert_eq!(public(&going), [new, old]);
        assert_eq!(going.next(at(1000), 2, ROTATION), None, "somebody may send by the old one");
        assert_eq!(going.next(at(105), 3, ROTATION), None, "something may be under way");
        let alone = going.next(at(106), 3, ROTATION).unwrap();
        assert_eq!(public(&alone), [new]);
        assert_eq!(alone.next(at(199), 4, ROTATION), None);
        let again = alone.next(at(200), 4, ROTATION).unwrap();
        assert_eq!(again.own()[1].slot, first.own()[0].slot, "the interface of the first is free again");
        assert_eq!(again.announcement, 5);
    }

    #[test]
    fn keys_are_kept_for_root_alone_and_damaged_ones_replaced() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let open = || KeyRing::open(directory.path(), ROTATION, 4794, Ok(())).unwrap();
        let first = open().announced();
        assert_eq!(first.keys.len(), 1);
        assert_eq!(first.keys[0].port, 4794);
        assert_eq!(open().announced(), first);
        let path = path(directory.path());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "{\"announcement\": 1").unwrap();
        let second = open().announced();
        assert_ne!(second.keys, first.keys);
        assert_eq!(open().announced(), second);
    }

    #[test]
    fn a_host_that_cannot_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let ring = KeyRing::open(directory.path(), ROTATION, 4794, Err(Unable::NoDevice)).unwrap();
        let announced = ring.announced();
        assert!(announced.keys.is_empty());
        assert!(announced.unable.unwrap().contains("/dev/net/tun"));
        assert!(!path(directory.path()).exists());
    }
}

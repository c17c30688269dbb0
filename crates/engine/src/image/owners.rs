//! Pure. Whom the files of a container that runs in a user namespace belong to, seen from the host and seen from inside.

use stack_shim::launch::IdRange;

/// Who owns what nobody in the user namespace owns, as it is seen there.
const NOBODY: u32 = 65_534;
/// Lengths of a file's capabilities in `security.capability`, without and with the root that they are of, and where that
/// and the revision stand (linux/capability.h). Everything is little-endian.
const PLAIN_LENGTH: usize = 20;
const ROOTED_LENGTH: usize = 24;
const PLAIN_REVISION: u32 = 0x0200_0000;
const ROOTED_REVISION: u32 = 0x0300_0000;
const REVISION_MASK: u32 = 0xff00_0000;
/// The attribute.
const CAPABILITY: &[u8] = b"security.capability";

/// How owners in an archive relate to those on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owners(Option<IdRange>);

impl Owners {
    /// Those of a user namespace.
    #[must_use]
    pub fn of(ids: IdRange) -> Self {
        Self(Some(ids))
    }

    /// An owner on the host, as it is seen in the container.
    #[must_use]
    pub fn seen_inside(self, id: u32) -> u32 {
        self.0.map_or(id, |ids| ids.in_container(id).unwrap_or(NOBODY))
    }

    /// An owner in the container, as it is on the host; `None`: the user namespace does not have it.
    #[must_use]
    pub fn on_host(self, id: u32) -> Option<u32> {
        self.0.map_or(Some(id), |ids| ids.on_host(id))
    }

    /// An attribute of a file on the host, as an archive has it: capabilities that root of the container has given are given by
    /// root.
    #[must_use]
    pub fn attribute_seen_inside(self, name: &[u8], value: Vec<u8>) -> Vec<u8> {
        let Some(ids) = self.0.filter(|_| name == CAPABILITY) else { return value };
        let root =
            value.get(PLAIN_LENGTH..ROOTED_LENGTH).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
        match (root, revision(&value)) {
            (Some(root), Some(ROOTED_REVISION)) if root == ids.first && value.len() == ROOTED_LENGTH => {
                with_revision(&value, PLAIN_REVISION)
            }
            _ => value,
        }
    }

    /// An attribute in an archive, as it is on the host.
    #[must_use]
    pub fn attribute_on_host(self, name: &[u8], value: Vec<u8>) -> Vec<u8> {
        let Some(ids) = self.0.filter(|_| name == CAPABILITY) else { return value };
        if value.len() != PLAIN_LENGTH || revision(&value) != Some(PLAIN_REVISION) {
            return value;
        }
        let mut rooted = with_revision(&value, ROOTED_REVISION);
        rooted.extend(ids.first.to_le_bytes());
        rooted
    }
}

fn revision(value: &[u8]) -> Option<u32> {
    let bytes = value.get(..4)?.try_into().ok()?;
    Some(u32::from_le_bytes(bytes) & REVISION_MASK)
}

/// The first 20 bytes with another revision and the same flags.
fn with_revision(value: &[u8], revision: u32) -> Vec<u8> {
    let flags = value.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes) & !REVISION_MASK;
    let rest = value.get(4..PLAIN_LENGTH).unwrap_or_default();
    [&(revision | flags).to_le_bytes(), rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_seen_both_ways() {
        let owners = Owners::of(IdRange { first: 1_000_000, count: 65_536 });
        assert_eq!(
            (owners.seen_inside(1_000_033), owners.seen_inside(0), owners.seen_inside(2_000_000)),
            (33, NOBODY, NOBODY)
        );
        assert_eq!((owners.on_host(33), owners.on_host(65_536)), (Some(1_000_033), None));
        assert_eq!((Owners::default().seen_inside(7), Owners::default().on_host(70_000)), (7, Some(70_000)));
    }

    #[test]
    fn capabilities_are_of_whoever_is_root() {
        let owners = Owners::of(IdRange { first: 1_000_000, count: 65_536 });
        // Effective, `cap_net_raw`.
        let plain = [&[1, 0, 0, 2, 0, 0x20, 0, 0][..], &[0; 12]].concat();
        let rooted = [&[1, 0, 0, 3, 0, 0x20, 0, 0][..], &[0; 12], &1_000_000_u32.to_le_bytes()].concat();
        assert_eq!(owners.attribute_on_host(CAPABILITY, plain.clone()), rooted);
        assert_eq!(owners.attribute_seen_inside(CAPABILITY, rooted.clone()), plain);
        assert_eq!(owners.attribute_seen_inside(b"user.x", rooted.clone()), rooted);
        assert_eq!(Owners::default().attribute_on_host(CAPABILITY, plain.clone()), plain);
        for odd in [vec![], vec![0; 3], vec![0; 20], vec![0xff; 24]] {
            assert_eq!(owners.attribute_seen_inside(CAPABILITY, odd.clone()), odd);
            assert_eq!(owners.attribute_on_host(CAPABILITY, odd.clone()), odd);
        }
    }
}

//! Pure. What no image needs: everything on disk that cannot be reached from the records and the leases.

use std::collections::BTreeSet;

use super::Digest;

/// What one image record refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageLinks {
    /// Blobs: the index it was chosen from, the manifest, the configuration, the layers as they were transferred.
    pub blobs: BTreeSet<Digest>,
    /// Unpacked layers, by the digest of their uncompressed archive.
    pub layers: BTreeSet<Digest>,
}

/// Everything that is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Everything {
    /// Every blob.
    pub blobs: BTreeSet<Digest>,
    /// Every unpacked layer.
    pub layers: BTreeSet<Digest>,
}

/// What can go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Blobs to remove.
    pub blobs: BTreeSet<Digest>,
    /// Unpacked layers to remove.
    pub layers: BTreeSet<Digest>,
}

/// What of `stored` neither an image nor a lease names. A lease names blobs and layers alike.
#[must_use]
pub fn garbage(stored: Everything, images: &[ImageLinks], leased: &BTreeSet<Digest>) -> Garbage {
    let unneeded = |stored: BTreeSet<Digest>, links: fn(&ImageLinks) -> &BTreeSet<Digest>| {
        stored
            .into_iter()
            .filter(|digest| !leased.contains(digest) && !images.iter().any(|image| links(image).contains(digest)))
            .collect()
    };
    Garbage {
        blobs: unneeded(stored.blobs, |image| &image.blobs),
        layers: unneeded(stored.layers, |image| &image.layers),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digests() -> impl Strategy<Value = BTreeSet<Digest>> {
        prop::collection::btree_set((0u8..24).prop_map(|number| Digest::of(&[number])), 0..12)
    }

    proptest! {
        #[test]
        fn nothing_needed_goes_and_nothing_unneeded_stays(
            blobs in digests(),
            layers in digests(),
            images in prop::collection::vec((digests(), digests()), 0..4),
            leased in digests(),
        ) {
            let images: Vec<_> = images.into_iter().map(|(blobs, layers)| ImageLinks { blobs, layers }).collect();
            let found = garbage(Everything { blobs: blobs.clone(), layers: layers.clone() }, &images, &leased);
            for digest in &blobs {
                let needed = leased.contains(digest) || images.iter().any(|image| image.blobs.contains(digest));
                prop_assert_eq!(found.blobs.contains(digest), !needed);
            }
            for digest in &layers {
                let needed = leased.contains(digest) || images.iter().any(|image| image.layers.contains(digest));
                prop_assert_eq!(found.layers.contains(digest), !needed);
            }
            prop_assert!(found.blobs.is_subset(&blobs) && found.layers.is_subset(&layers));
        }
    }
}

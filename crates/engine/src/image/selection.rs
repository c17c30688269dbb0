//! Pure. Which image a text means, and what removing it takes away.

use std::str::FromStr as _;

use super::records::Records;
use super::reference::{ParseReferenceError, Reference};
use crate::content::Digest;

/// How many candidates an error names.
const SHOWN: usize = 8;

/// Why a text leads to no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// Nothing has this name or digest.
    #[error("there is no image `{text}` on this host")]
    Missing {
        /// What was looked for.
        text: String,
    },
    /// The beginning of several identifiers.
    #[error("`{text}` is the beginning of several images' identifiers: {}; give more digits", candidates.join(", "))]
    Ambiguous {
        /// What was looked for.
        text: String,
        /// The identifiers that begin so, at most eight.
        candidates: Vec<String>,
    },
    /// Neither a name nor a digest.
    #[error("`{text}` names no image")]
    BadName {
        /// What was looked for.
        text: String,
        /// What is wrong with it.
        source: ParseReferenceError,
    },
}

/// An image, and how the text named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// The image's manifest.
    pub manifest: Digest,
    /// The recorded name that was given; nothing where a digest or identifier was.
    pub name: Option<String>,
}

/// Finds an image by a digest (of its manifest, of an index that it was chosen from, of its configuration), by a name
/// with tag or digest, or by the first digits of its configuration's or manifest's digest, in this order.
///
/// # Errors
/// When there is none or more than one.
pub fn select(records: &Records, text: &str) -> Result<Selected, SelectError> {
    let missing = || SelectError::Missing { text: text.chars().take(300).collect() };
    let by_digest = |digest: &Digest| {
        let direct = records.images.contains_key(digest).then_some(digest);
        direct.or_else(|| records.indexes.get(digest)).cloned()
    };
    if let Ok(digest) = Digest::from_str(text).or_else(|_| Digest::from_hex(text)) {
        let manifest = by_digest(&digest).map(Ok).unwrap_or_else(|| one_of(records, text, |record| record == &digest));
        return manifest.map(|manifest| Selected { manifest, name: None });
    }
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let is_prefix =
        !hex.is_empty() && hex.len() < 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let reference = match text.parse::<Reference>() {
        Ok(reference) => reference,
        Err(_) if is_prefix => return by_prefix(records, text, hex),
        Err(source) => return Err(SelectError::BadName { text: text.chars().take(300).collect(), source }),
    };
    if let Some(digest) = reference.digest() {
        // The digest decides; the name must be one that the image is known by.
        let manifest = by_digest(digest).ok_or_else(missing)?;
        let name = format!("{}@{digest}", reference.name());
        return match records.names.get(&name) {
            Some(target) if *target == manifest => Ok(Selected { manifest, name: Some(name) }),
            _ => Err(missing()),
        };
    }
    if let Some(name) = reference.tagged_name()
        && let Some(manifest) = records.names.get(&name)
    {
        return Ok(Selected { manifest: manifest.clone(), name: Some(name) });
    }
    if is_prefix { by_prefix(records, text, hex) } else { Err(missing()) }
}

fn by_prefix(records: &Records, text: &str, hex: &str) -> Result<Selected, SelectError> {
    let manifest = one_of(records, text, |digest| digest.hex().starts_with(hex))?;
    Ok(Selected { manifest, name: None })
}

/// The one image whose configuration or manifest is meant.
fn one_of(records: &Records, text: &str, is_meant: impl Fn(&Digest) -> bool) -> Result<Digest, SelectError> {
    let text = text.chars().take(300).collect();
    let found: Vec<_> =
        records.images.values().filter(|record| is_meant(&record.config) || is_meant(&record.manifest)).collect();
    match found.as_slice() {
        [] => Err(SelectError::Missing { text }),
        [record] => Ok(record.manifest.clone()),
        several => Err(SelectError::Ambiguous {
            text,
            candidates: several.iter().take(SHOWN).map(|record| record.manifest.to_string()).collect(),
        }),
    }
}

/// What a removal takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Names that go.
    pub names: Vec<String>,
    /// The image that goes with them; nothing where it keeps other names.
    pub image: Option<Digest>,
}

/// Removing by a tag takes only the tag while the image has another one; removing the last tag, or by a digest or
/// identifier, takes the image with all its names.
#[must_use]
pub fn plan_removal(records: &Records, selected: &Selected) -> Removal {
    let names: Vec<String> = records.names_of(&selected.manifest).map(str::to_owned).collect();
    if let Some(name) = &selected.name
        && is_tag(name)
        && names.iter().any(|other| other != name && is_tag(other))
    {
        return Removal { names: vec![name.clone()], image: None };
    }
    Removal { names, image: Some(selected.manifest.clone()) }
}

/// Whether a recorded name ends with a tag rather than a digest.
#[must_use]
pub fn is_tag(name: &str) -> bool {
    !name.contains('@')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::records::{Origin, Record};
    use super::*;

    fn records() -> Records {
        let mut records = Records::default();
        for (number, name) in
            [(1u8, "docker.io/library/a:1"), (2, "localhost:5000/b:latest"), (3, "docker.io/library/cafe:latest")]
        {
            let record = Record {
                manifest: Digest::of(&[number]),
                config: Digest::of(&[number, number]),
                layers: vec![],
                diff_ids: vec![],
                origin: Origin::Loaded,
            };
            records.names.insert(name.into(), record.manifest.clone());
            records.images.insert(record.manifest.clone(), record);
        }
        let index = Digest::of(b"index");
        records.indexes.insert(index.clone(), Digest::of(&[1]));
        records.names.insert(format!("docker.io/library/a@{index}"), Digest::of(&[1]));
        records
    }

    #[test]
    fn an_image_is_found_by_each_of_its_names() {
        let records = records();
        let (manifest, config, index) = (Digest::of(&[1]), Digest::of(&[1, 1]), Digest::of(b"index"));
        let pinned = format!("a:1@{index}");
        for text in [
            "a:1",
            "docker.io/a:1",
            manifest.as_str(),
            manifest.hex(),
            config.as_str(),
            config.hex(),
            &config.hex()[..12],
            &config.as_str()[..15],
            index.as_str(),
            pinned.as_str(),
        ] {
            assert_eq!(select(&records, text).map(|selected| selected.manifest), Ok(manifest.clone()), "{text}");
        }
        assert_eq!(select(&records, "cafe").unwrap().manifest, Digest::of(&[3]), "a name goes before an identifier");
    }

    #[test]
    fn what_is_missing_wrong_or_ambiguous_says_so() {
        let records = records();
        assert!(matches!(select(&records, "a"), Err(SelectError::Missing { .. })));
        assert!(matches!(select(&records, &format!("b@{}", Digest::of(b"index"))), Err(SelectError::Missing { .. })));
        assert!(matches!(select(&records, "A B"), Err(SelectError::BadName { .. })));
        let mut twins = records.clone();
        let mut twin = records.images[&Digest::of(&[1])].clone();
        twin.manifest = Digest::of(b"twin");
        twins.images.insert(twin.manifest.clone(), twin);
        let Err(SelectError::Ambiguous { candidates, .. }) = select(&twins, &Digest::of(&[1, 1]).hex()[..12]) else {
            panic!("two images have this configuration");
        };
        assert_eq!(candidates.len(), 2);
    }

    #[test]
    fn only_the_last_tag_takes_the_image() {
        let mut records = records();
        let manifest = Digest::of(&[1]);
        let last = plan_removal(&records, &select(&records, "a:1").unwrap());
        assert_eq!(last.image, Some(manifest.clone()));
        assert_eq!(last.names.len(), 2, "the name by digest goes too");
        records.names.insert("docker.io/library/a:2".into(), manifest.clone());
        let one_of_two = plan_removal(&records, &select(&records, "a:1").unwrap());
        assert_eq!(one_of_two, Removal { names: vec!["docker.io/library/a:1".into()], image: None });
        let by_digest = plan_removal(&records, &select(&records, manifest.as_str()).unwrap());
        assert_eq!((by_digest.names.len(), by_digest.image), (3, Some(manifest)));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            let _ = select(&records(), &text);
        }
    }
}

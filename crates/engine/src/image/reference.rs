//! Pure. Names of images, by Docker's rules: `[registry/]repository[:tag][@digest]`, where `docker.io` and `library/` are
//! understood and the tag is `latest` when neither tag nor digest is given (the grammar is that of the distribution
//! project's reference package).

use std::fmt;
use std::str::FromStr;

use crate::content::{Digest, ParseDigestError};

/// The registry of a name that gives none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of a name that gives none.
pub const DEFAULT_TAG: &str = "latest";
/// The most characters that registry and repository may have together.
const NAME_LIMIT: usize = 255;
/// The most characters that a tag may have.
const TAG_LIMIT: usize = 128;

/// Why a text is no image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseReferenceError {
    /// Nothing, or only a tag or digest.
    #[error("an image name cannot be empty")]
    Empty,
    /// The repository has a character or form that is not allowed.
    #[error(
        "`{text}` is no image name: `{part}` may only hold lower-case letters and digits, separated by `.`, `_`, `__` or `-`"
    )]
    BadRepository {
        /// The whole text.
        text: String,
        /// The component that is wrong.
        part: String,
    },
    /// The registry is no host and port.
    #[error("`{text}` is no image name: `{registry}` is not a registry's host name and port")]
    BadRegistry {
        /// The whole text.
        text: String,
        /// What stands before the first slash.
        registry: String,
    },
    /// The tag is not allowed.
    #[error(
        "`{text}` is no image name: the tag `{tag}` may only hold letters, digits, `_`, `.` and `-`, at most 128, and not begin with `.` or `-`"
    )]
    BadTag {
        /// The whole text.
        text: String,
        /// The tag.
        tag: String,
    },
    /// What follows `@` is no digest.
    #[error("`{text}` is no image name")]
    BadDigest {
        /// The whole text.
        text: String,
        /// What is wrong with the digest.
        source: ParseDigestError,
    },
    /// It is too long.
    #[error("an image name may have 255 characters, this one has {length}")]
    TooLong {
        /// How many it has.
        length: usize,
    },
    /// 64 hexadecimal digits are always an identifier, never a name.
    #[error("`{0}` is an image's identifier, not a name")]
    IsIdentifier(String),
}

/// Where an image is to be had: a registry, a repository in it, and a tag or a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host name and port as names show it: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository in the registry: `library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; there is none only where there is a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where the name pins one.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository alone: `docker.io/library/busybox`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same name, pinned to a digest; the tag stays as a note of where it came from.
    #[must_use]
    pub fn pinned(&self, digest: &Digest) -> Self {
        Self { digest: Some(digest.clone()), ..self.clone() }
    }

    /// `name:tag` in full, under which a record keeps it, where there is a tag.
    #[must_use]
    pub fn tagged_name(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }

    /// As people write it: without `docker.io/` and `library/`, with the tag or digest.
    #[must_use]
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(rest) = full.strip_prefix("docker.io/") else { return full };
        match rest.strip_prefix("library/") {
            // Only where the short form means the same: `library/a/b` does not.
            Some(short) if !self.repository["library/".len()..].contains('/') => short.to_owned(),
            _ => rest.to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, ParseReferenceError> {
        let shown: String = text.chars().take(300).collect();
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest =
                    digest.parse().map_err(|source| ParseReferenceError::BadDigest { text: shown.clone(), source })?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // A colon after the last slash begins a tag; one before it belongs to the registry's port.
        let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_start..].find(':') {
            Some(colon) => (&rest[..name_start + colon], Some(&rest[name_start + colon + 1..])),
            None => (rest, None),
        };
        if name.is_empty() {
            return Err(ParseReferenceError::Empty);
        }
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(ParseReferenceError::BadTag { text: shown, tag: tag.chars().take(TAG_LIMIT + 1).collect() });
        }
        if is_identifier(name) {
            return Err(ParseReferenceError::IsIdentifier(name.to_owned()));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest.to_owned()),
            _ => (DEFAULT_REGISTRY, name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        if !is_host_and_port(registry) {
            return Err(ParseReferenceError::BadRegistry { text: shown, registry: registry.to_owned() });
        }
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository
        };
        if let Some(part) = repository.split('/').find(|part| !is_component(part)) {
            return Err(ParseReferenceError::BadRepository { text: shown, part: part.chars().take(64).collect() });
        }
        let length = registry.len() + 1 + repository.len();
        if length > NAME_LIMIT {
            return Err(ParseReferenceError::TooLong { length });
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

/// Whether the part before the first slash names a registry rather than the first component of a repository.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_identifier(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_host_and_port(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, after)) => {
                let port = if after.is_empty() { None } else { after.strip_prefix(':').or(Some("")) };
                if address.parse::<std::net::Ipv6Addr>().is_err() {
                    return false;
                }
                (None, port)
            }
            None => return false,
        },
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.is_none_or(|host| host.split('.').all(is_label))
        && port.is_none_or(|port| {
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
}

fn is_tag(tag: &str) -> bool {
    (1..=TAG_LIMIT).contains(&tag.len())
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && !tag.starts_with(['.', '-'])
}

/// Letters and digits, with single separators between them: `.`, `_`, `__` or any number of `-`.
fn is_component(part: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().zip(bytes.last());
    if !ends.is_some_and(|(&first, &last)| is_word(first) && is_word(last)) {
        return false;
    }
    bytes
        .split(|&byte| is_word(byte))
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&byte| byte == b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_mean_what_docker_makes_of_them() {
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1", "busybox:1"),
            ("a/b", "docker.io/a/b:latest", "a/b:latest"),
            ("index.docker.io/a", "docker.io/library/a:latest", "a:latest"),
            ("docker.io/library/a/b:1", "docker.io/library/a/b:1", "library/a/b:1"),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            ("localhost:5000/a:b", "localhost:5000/a:b", "localhost:5000/a:b"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("ghcr.io/a/b__c/d---e.f_g", "ghcr.io/a/b__c/d---e.f_g:latest", "ghcr.io/a/b__c/d---e.f_g:latest"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
        }
        let pinned: Reference = format!("a:1@{DIGEST}").parse().unwrap();
        assert_eq!(pinned.to_string(), format!("docker.io/library/a:1@{DIGEST}"));
        assert_eq!(pinned.tagged_name().unwrap(), "docker.io/library/a:1");
        let untagged: Reference = format!("a@{DIGEST}").parse().unwrap();
        assert_eq!((untagged.tag(), untagged.tagged_name()), (None, None));
    }

    #[test]
    fn what_is_no_name_is_refused_with_its_reason() {
        use ParseReferenceError as E;
        assert!(matches!("".parse::<Reference>(), Err(E::Empty)));
        assert!(matches!(":tag".parse::<Reference>(), Err(E::Empty)));
        assert!(matches!("Upper".parse::<Reference>(), Err(E::BadRepository { .. })));
        assert!(matches!("a//b".parse::<Reference>(), Err(E::BadRepository { .. })));
        assert!(matches!("a/../b".parse::<Reference>(), Err(E::BadRepository { .. })));
        assert!(matches!("a___b".parse::<Reference>(), Err(E::BadRepository { .. })));
        assert!(matches!("-a".parse::<Reference>(), Err(E::BadRepository { .. })));
        assert!(matches!("a:".parse::<Reference>(), Err(E::BadTag { .. })));
        assert!(matches!("a:.x".parse::<Reference>(), Err(E::BadTag { .. })));
        assert!(matches!("a@sha256:12".parse::<Reference>(), Err(E::BadDigest { .. })));
        assert!(matches!("host:99999/a".parse::<Reference>(), Err(E::BadRegistry { .. })));
        assert!(matches!("[::1/a".parse::<Reference>(), Err(E::BadRegistry { .. } | E::BadRepository { .. })));
        assert!(matches!(DIGEST[7..].parse::<Reference>(), Err(E::IsIdentifier(_))));
        assert!(matches!("a".repeat(300).parse::<Reference>(), Err(E::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = text.parse::<Reference>();
        }

        #[test]
        fn what_is_printed_reads_back(text in "([a-z]{1,5}(\\.[a-z]{1,3}(:[1-9][0-9]{0,3})?)?/)?[a-z0-9]{1,5}([._-][a-z0-9]{1,3}){0,2}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,5})?") {
            let reference: Reference = text.parse().unwrap();
            prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference.clone()));
            prop_assert_eq!(reference.familiar().parse::<Reference>(), Ok(reference));
        }
    }
}

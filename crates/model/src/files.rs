//! Pure. Secrets and configs: files that a stack brings along. What they hold travels and is kept apart from the specs, which
//! only name it by its [`ContentId`].

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Which of the two kinds a file is. They differ in where they are in a container, and in whether anybody is shown what
/// they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// Nobody is shown what it holds.
    Secret,
    /// A configuration file.
    Config,
}

impl FileKind {
    /// The command of the CLI that is about them: `stack config` is about stack files.
    #[must_use]
    pub const fn command(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Config => "configs",
        }
    }

    /// `secret` or `config`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Config => "config",
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// What a file holds. `Debug` does not print it; written as base64.
#[derive(Clone, PartialEq, Eq)]
pub struct Content(pub Vec<u8>);

impl Content {
    /// No file holds more, in bytes; it is Swarm's limit.
    pub const LARGEST: usize = 500 * 1024;
}

impl fmt::Debug for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Content({} bytes)", self.0.len())
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // The decoder's own words may tell a character of what it read.
        STANDARD.decode(text).map(Self).map_err(|_| serde::de::Error::custom("the content of a file is not base64"))
    }
}

/// Names what a file holds without telling it: equal for equal contents of one kind in one cluster, and nobody without the
/// cluster's key can find out by trying. 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ContentId(String);

/// A text that names no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits")]
pub struct ContentIdError;

impl ContentId {
    /// Of 32 bytes.
    #[must_use]
    pub fn of_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContentId {
    type Err = ContentIdError;

    fn from_str(text: &str) -> Result<Self, ContentIdError> {
        let hexadecimal = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() == 64 && hexadecimal { Ok(Self(text.to_owned())) } else { Err(ContentIdError) }
    }
}

impl<'de> Deserialize<'de> for ContentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Contents by what names them.
pub type Contents = BTreeMap<ContentId, Content>;

/// One secret or config of a stack, by its key there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedFile {
    /// The name in the cluster; `STACK_KEY` unless said otherwise.
    #[serde(default)]
    pub name: Option<String>,
    /// Made by hand beforehand; a deploy is refused where it is not there.
    #[serde(default)]
    pub external: bool,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Docker's service templates in it (`{{.Node.Hostname}}`) are filled in for each task.
    #[serde(default)]
    pub template: bool,
    /// What it holds. Written by the controller that takes the deploy; for an external one by `apply`.
    #[serde(default)]
    pub content: Option<ContentId>,
}

/// A secret or config in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileReference {
    /// Its key in the stack.
    pub source: String,
    /// Absolute, in the container.
    pub target: String,
    /// Whose it is.
    #[serde(default)]
    pub uid: u32,
    /// Which group's it is.
    #[serde(default)]
    pub gid: u32,
    /// Its permissions.
    #[serde(default = "readable")]
    pub mode: u32,
}

const fn readable() -> u32 {
    0o444
}

/// A secret or config in the container of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    /// Which kind.
    pub kind: FileKind,
    /// Its name in the cluster, for people.
    pub name: String,
    /// What it holds: a task keeps what it was made with.
    pub content: ContentId,
    /// Service templates in it are filled in.
    #[serde(default)]
    pub template: bool,
    /// Where it is.
    pub reference: FileReference,
}

/// What the files of a stack hold, by their keys there: what a deploy brings along.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileContents {
    /// Of its secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Content>,
    /// Of its configs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<String, Content>,
}

impl FileContents {
    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty() && self.configs.is_empty()
    }

    /// Those of one kind.
    #[must_use]
    pub const fn of(&self, kind: FileKind) -> &BTreeMap<String, Content> {
        match kind {
            FileKind::Secret => &self.secrets,
            FileKind::Config => &self.configs,
        }
    }

    /// Those of one kind, to be changed.
    pub const fn of_mut(&mut self, kind: FileKind) -> &mut BTreeMap<String, Content> {
        match kind {
            FileKind::Secret => &mut self.secrets,
            FileKind::Config => &mut self.configs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_never_printed_and_survives_its_form() {
        let content = Content(b"hunter2\0\xff".to_vec());
        assert_eq!(format!("{content:?}"), "Content(9 bytes)");
        let text = serde_json::to_string(&content).unwrap();
        assert!(!text.contains("hunter2"));
        assert_eq!(serde_json::from_str::<Content>(&text).unwrap(), content);
        let refused = serde_json::from_str::<Content>("\"hunter2!\"").unwrap_err().to_string();
        assert!(!refused.contains("hunter2"), "{refused}");
    }

    #[test]
    fn an_id_is_64_hexadecimal_digits() {
        let id = ContentId::of_bytes([0xab; 32]);
        assert_eq!(id.as_str().parse::<ContentId>().unwrap(), id);
        assert!("ab".parse::<ContentId>().is_err());
        assert!("AB".repeat(32).parse::<ContentId>().is_err());
    }
}

//! Named volumes of one host: directories under `volumes/NAME/_data`, each with a record. A volume is made when it is
//! first asked for, and filled from the image by the container's shim.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// What is known of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Unique on the host.
    pub name: String,
    /// Given when it was made.
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since the Unix epoch.
    pub created_at: u64,
    /// The container that it belongs to alone, with which it is removed.
    #[serde(default)]
    pub owner: Option<String>,
}

/// Why a volume could not be made, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Not a name.
    #[error("`{name}` cannot be the name of a volume: expected 1 to 200 letters, digits, `_`, `.` and `-`, a letter or digit first")]
    Name {
        /// What was given.
        name: String,
    },
    /// There is none.
    #[error("there is no volume `{name}` on this host")]
    Missing {
        /// Which.
        name: String,
    },
    /// Containers have it.
    #[error("volume `{name}` is in use by {}: remove them first", containers.join(", "))]
    InUse {
        /// Which.
        name: String,
        /// By whom.
        containers: Vec<String>,
    },
    /// The disk.
    #[error("could not {what} volume `{name}`")]
    Disk {
        /// `make`, `read`, `remove`.
        what: &'static str,
        /// Which.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// The volumes of one host.
#[derive(Debug, Clone)]
pub struct Volumes {
    root: PathBuf,
}

fn check(name: &str) -> Result<(), VolumeError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let starts = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if starts && name.len() <= 200 && name.bytes().all(plain) {
        Ok(())
    } else {
        Err(VolumeError::Name { name: name.chars().take(80).collect() })
    }
}

impl Volumes {
    /// The volumes below `root`, which is made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(root: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o711).create(root)?;
        Ok(Self { root: root.to_owned() })
    }

    /// Makes a volume unless it is there, and says where its data lies.
    ///
    /// # Errors
    /// When the name is none, or the disk refuses.
    pub fn ensure(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        owner: Option<&str>,
    ) -> Result<PathBuf, VolumeError> {
        check(name)?;
        let directory = self.root.join(name);
        let data = directory.join("_data");
        let make = || -> io::Result<()> {
            let record = directory.join("volume.json");
            if record.exists() && data.is_dir() {
                return Ok(());
            }
            fs::create_dir_all(&data)?;
            let created_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let volume = Volume {
                name: name.to_owned(),
                labels: labels.clone(),
                created_at: u64::try_from(created_at).unwrap_or(u64::MAX),
                owner: owner.map(str::to_owned),
            };
            let mut file = tempfile::NamedTempFile::new_in(&directory)?;
            file.write_all(&serde_json::to_vec_pretty(&volume)?)?;
            file.as_file().sync_all()?;
            file.persist(&record)?;
            fs::File::open(&directory)?.sync_all()?;
            fs::File::open(&self.root)?.sync_all()
        };
        make().map_err(|source| VolumeError::Disk { what: "make", name: name.to_owned(), source })?;
        Ok(data)
    }

    /// One volume.
    ///
    /// # Errors
    /// When there is none or its record cannot be read.
    pub fn inspect(&self, name: &str) -> Result<Volume, VolumeError> {
        check(name)?;
        let read = || -> io::Result<Volume> {
            Ok(serde_json::from_slice(&fs::read(self.root.join(name).join("volume.json"))?)?)
        };
        read().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => VolumeError::Missing { name: name.to_owned() },
            _ => VolumeError::Disk { what: "read", name: name.to_owned(), source },
        })
    }

    /// Where a volume's data lies.
    ///
    /// # Errors
    /// When there is none.
    pub fn data(&self, name: &str) -> Result<PathBuf, VolumeError> {
        self.inspect(name).map(|_| self.root.join(name).join("_data"))
    }

    /// All volumes, by name. One whose record cannot be read is left out.
    #[must_use]
    pub fn list(&self) -> Vec<Volume> {
        let mut all: Vec<Volume> = fs::read_dir(&self.root)
            .map(|entries| {
                entries
                    .filter_map(Result::ok)
                    .filter_map(|entry| self.inspect(entry.file_name().to_str()?).ok())
                    .collect()
            })
            .unwrap_or_default();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Removes a volume and its data. `users` are the containers that have it.
    ///
    /// # Errors
    /// When there is none, it is in use, or the disk refuses.
    pub fn remove(&self, name: &str, users: Vec<String>) -> Result<(), VolumeError> {
        check(name)?;
        if !users.is_empty() {
            return Err(VolumeError::InUse { name: name.to_owned(), containers: users });
        }
        // Links in the data are removed, not followed.
        fs::remove_dir_all(self.root.join(name)).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => VolumeError::Missing { name: name.to_owned() },
            _ => VolumeError::Disk { what: "remove", name: name.to_owned(), source },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_a_volume() {
        let place = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(&place.path().join("volumes")).unwrap();
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let data = volumes.ensure("data", &labels, None).unwrap();
        fs::write(data.join("file"), "kept").unwrap();
        assert_eq!(volumes.ensure("data", &BTreeMap::new(), None).unwrap(), data);
        assert!(data.join("file").exists());
        assert_eq!(volumes.list(), [volumes.inspect("data").unwrap()]);
        assert_eq!(volumes.inspect("data").unwrap().labels, labels);
        assert!(matches!(volumes.remove("data", vec!["web".to_owned()]), Err(VolumeError::InUse { .. })));
        std::os::unix::fs::symlink(place.path(), data.join("link")).unwrap();
        volumes.remove("data", vec![]).unwrap();
        assert!(place.path().exists());
        assert!(matches!(volumes.remove("data", vec![]), Err(VolumeError::Missing { .. })));
        for bad in ["", "..", "a/b", "/etc", "-x"] {
            assert!(matches!(volumes.ensure(bad, &labels, None), Err(VolumeError::Name { .. })), "{bad}");
        }
    }
}

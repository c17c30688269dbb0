//! Named volumes of one host: directories under `volumes/NAME/_data`, each with a record. A volume is made when it is
//! first asked for, and filled from the image by the container's shim.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

mod mounted;
mod options;
mod usage;

use crate::crash_point::crash_point;
use crate::events::{Events, Happening, Teller, VolumeEvent};
use crate::snapshot::removal::remove_tree;
use mounted::Mounts;
pub use options::OptionsError;
pub(crate) use usage::bytes_below;

/// The file in a volume's directory that says what it is.
const RECORD: &str = "volume.json";
/// How directories are called that are no volumes yet, and that are none any more. No volume's name begins so.
const NEW: &str = ".new-";
const GONE: &str = ".gone-";

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
    /// Of the driver: what is mounted in place of the directory.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// Why a volume could not be made, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Not a name.
    #[error(
        "`{name}` cannot be the name of a volume: expected 1 to 200 letters, digits, `_`, `.` and `-`, a letter or digit first"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// There is none.
    #[error("get {name}: no such volume")]
    Missing {
        /// Which.
        name: String,
    },
    /// There is one of that name with other options.
    #[error("a volume `{name}` is there already, with other options: remove it first, or choose another name")]
    Exists {
        /// Which.
        name: String,
    },
    /// Its options.
    #[error("volume `{name}` cannot be made")]
    Options {
        /// Which.
        name: String,
        /// What is wrong with them.
        source: OptionsError,
    },
    /// What it is of could not be mounted.
    #[error("volume `{name}` could not be mounted: {what}")]
    Mount {
        /// Which.
        name: String,
        /// What was mounted.
        what: String,
        /// The kernel's answer.
        source: io::Error,
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

/// What a volume is made with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeDescription {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What is mounted there, in the words of Docker's local driver; none: a directory of the host.
    pub options: BTreeMap<String, String>,
}

impl VolumeDescription {
    /// Whether a volume could be made so. `name` is for the message.
    ///
    /// # Errors
    /// When an option is not known or makes no sense.
    pub fn check(&self, name: &str) -> Result<(), VolumeError> {
        let parsed = options::parse(&self.options);
        parsed.map(drop).map_err(|source| VolumeError::Options { name: name.to_owned(), source })
    }
}

/// The volumes of one host.
#[derive(Debug, Clone)]
pub struct Volumes {
    root: PathBuf,
    mounts: Arc<Mounts>,
    teller: Teller,
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

/// Takes away what a process that was killed has half made or half removed.
fn sweep_unfinished(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        if [NEW, GONE].iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

impl Volumes {
    /// The volumes below `root`, which is made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(root: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o711).create(root)?;
        sweep_unfinished(root)?;
        Ok(Self { root: root.to_owned(), mounts: Arc::default(), teller: Teller::default() })
    }

    /// Tells of volumes that come and go here from now on.
    pub fn tell_to(&self, events: Events) {
        self.teller.tell_to(events);
    }

    fn tell(&self, name: &str, kind: VolumeEvent) {
        self.teller.tell(|| Happening::Volume { name: name.to_owned(), kind });
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
        self.make(name, labels, &BTreeMap::new(), owner)
    }

    /// The same for a volume of a container's own.
    ///
    /// # Errors
    /// When the name is none, an option is not known, or the disk refuses.
    pub fn ensure_own(
        &self,
        name: &str,
        description: &VolumeDescription,
        owner: Option<&str>,
    ) -> Result<PathBuf, VolumeError> {
        check(name)?;
        description.check(name)?;
        self.make(name, &description.labels, &description.options, owner)
    }

    fn make(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        options: &BTreeMap<String, String>,
        owner: Option<&str>,
    ) -> Result<PathBuf, VolumeError> {
        let directory = self.root.join(name);
        let data = directory.join("_data");
        let make = || -> io::Result<bool> {
            let record = directory.join(RECORD);
            if record.exists() && data.is_dir() {
                return Ok(false);
            }
            let created_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let volume = Volume {
                name: name.to_owned(),
                labels: labels.clone(),
                created_at: u64::try_from(created_at).unwrap_or(u64::MAX),
                owner: owner.map(str::to_owned),
                options: options.clone(),
            };
            // Made aside: what has the name is whole.
            let aside = tempfile::Builder::new().prefix(NEW).tempdir_in(&self.root)?;
            fs::create_dir(aside.path().join("_data"))?;
            crash_point!("volume.directory");
            let mut file = fs::File::create_new(aside.path().join(RECORD))?;
            file.write_all(&serde_json::to_vec_pretty(&volume)?)?;
            file.sync_all()?;
            fs::File::open(aside.path())?.sync_all()?;
            fs::set_permissions(aside.path(), fs::Permissions::from_mode(0o755))?;
            crash_point!("volume.written");
            match fs::rename(aside.path(), &directory) {
                Ok(()) => drop(aside.keep()),
                // Data without a record, of an engine that made volumes in place: it gets one.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => {
                    fs::create_dir_all(&data)?;
                    fs::rename(aside.path().join(RECORD), &record)?;
                }
                Err(error) => return Err(error),
            }
            crash_point!("volume.named");
            fs::File::open(&self.root)?.sync_all()?;
            Ok(true)
        };
        let is_new = make().map_err(|source| VolumeError::Disk { what: "make", name: name.to_owned(), source })?;
        if is_new {
            self.tell(name, VolumeEvent::Created);
        }
        Ok(data)
    }

    /// Makes a volume as somebody asks for it by name; one that is there stays as it is.
    ///
    /// # Errors
    /// When the name is none, it is there with other options, an option is not known, or the disk refuses.
    pub fn create(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        options: &BTreeMap<String, String>,
    ) -> Result<(), VolumeError> {
        check(name)?;
        options::parse(options).map_err(|source| VolumeError::Options { name: name.to_owned(), source })?;
        match self.inspect(name) {
            Ok(present) if present.options == *options => return Ok(()),
            Ok(_) => return Err(VolumeError::Exists { name: name.to_owned() }),
            Err(VolumeError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        self.make(name, labels, options, None).map(|_| ())
    }

    /// Mounts what a volume is of, where it is of something, for a container that is to run.
    ///
    /// # Errors
    /// When there is no such volume, or it cannot be mounted.
    pub fn mount(&self, name: &str, container: &str) -> Result<(), VolumeError> {
        let volume = self.inspect(name)?;
        let source =
            options::parse(&volume.options).map_err(|source| VolumeError::Options { name: name.to_owned(), source })?;
        let Some(source) = source else { return Ok(()) };
        let data = self.root.join(name).join("_data");
        let what = format!("{} ({})", source.device, if source.kind.is_empty() { "bind" } else { &source.kind });
        self.mounts.take(name, container, &source, &data).map_err(|source| VolumeError::Mount {
            name: name.to_owned(),
            what,
            source,
        })
    }

    /// The container does not run any more: what nobody has is unmounted. Returns everything that did not work.
    #[must_use]
    pub fn leave(&self, container: &str) -> Vec<String> {
        self.mounts.leave(container, |name| self.root.join(name).join("_data"))
    }

    /// Unmounts what no container has, once all that run have theirs.
    #[must_use]
    pub fn sweep(&self) -> Vec<String> {
        self.mounts.sweep(&self.root)
    }

    /// How many bytes a volume's files take on the disk.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn size_bytes(&self, name: &str) -> Result<u64, VolumeError> {
        let data = self.data(name)?;
        bytes_below(&data).map_err(|source| VolumeError::Disk { what: "measure", name: name.to_owned(), source })
    }

    /// One volume.
    ///
    /// # Errors
    /// When there is none or its record cannot be read.
    pub fn inspect(&self, name: &str) -> Result<Volume, VolumeError> {
        check(name)?;
        let read =
            || -> io::Result<Volume> { Ok(serde_json::from_slice(&fs::read(self.root.join(name).join(RECORD))?)?) };
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
        // What is mounted there is not the volume's to remove.
        mounted::unmount(&self.root.join(name).join("_data")).map_err(|source| VolumeError::Disk {
            what: "unmount",
            name: name.to_owned(),
            source,
        })?;
        crash_point!("volume.unmounted");
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => VolumeError::Missing { name: name.to_owned() },
            _ => VolumeError::Disk { what: "remove", name: name.to_owned(), source },
        };
        // Its name goes first, at once: a volume is never there with a part of its data.
        let aside = tempfile::Builder::new().prefix(GONE).tempdir_in(&self.root).map_err(failed)?;
        fs::rename(self.root.join(name), aside.path()).map_err(failed)?;
        crash_point!("volume.discarded");
        // Links in the data are removed, not followed.
        remove_tree(&aside.keep()).map_err(failed)?;
        self.tell(name, VolumeEvent::Removed);
        Ok(())
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
        let left = [".new-1", ".gone-2"].map(|name| place.path().join("volumes").join(name));
        left.iter().for_each(|path| fs::create_dir_all(path.join("_data")).unwrap());
        let volumes = Volumes::open(&place.path().join("volumes")).unwrap();
        assert!(left.iter().all(|path| !path.exists()), "what was half done is taken away");
        fs::create_dir_all(place.path().join("volumes/old/_data/kept")).unwrap();
        volumes.ensure("old", &labels, None).unwrap();
        assert!(volumes.data("old").unwrap().join("kept").exists(), "data without a record gets one");
        assert_eq!(fs::read_dir(place.path().join("volumes")).unwrap().count(), 1);
        for bad in ["", "..", "a/b", "/etc", "-x"] {
            assert!(matches!(volumes.ensure(bad, &labels, None), Err(VolumeError::Name { .. })), "{bad}");
        }
    }
}

//! What is on disk about each container: `containers/ID/record.json`, written before anything is done about it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stack_shim::launch::{Cgroups, IdRange};
use stack_shim::protocol::ExitRecord;

use super::ExitStatus;
use super::config::{ContainerConfig, ContainerId, ImageDefaults};
use super::errors::RecordError;
use super::roots::OverlayDirectories;
use crate::crash_point::crash_point;
use crate::selinux::SelinuxLabels;

/// How a record's file is called until it is whole.
const UNNAMED: &str = ".record-";

/// The marks of a container that is being removed, with its own volumes or without.
const REMOVING: [(&str, bool); 2] = [("removing", false), ("removing-without-volumes", true)];

/// One container. Written by the engine alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub id: ContainerId,
    pub config: ContainerConfig,
    pub image_digest: String,
    pub image: ImageDefaults,
    pub overlay: OverlayDirectories,
    /// The images that are mounted in it, as they were when it was made.
    #[serde(default)]
    pub mounted_images: Vec<MountedImage>,
    /// Milliseconds since the Unix epoch.
    pub created_at: u64,
    /// How often a start was attempted.
    pub starts: u64,
    /// How often its policy has started it again since somebody did.
    #[serde(default)]
    pub restarts: u32,
    /// Somebody stopped it, so its policy does not start it.
    #[serde(default)]
    pub stopped: bool,
    /// While it is being removed: volumes that are its own stay. Which of the marks is there says so.
    #[serde(skip)]
    pub keeps_volumes: bool,
    /// The groups of the newest start.
    pub cgroups: Cgroups,
    /// The ids of the user namespace that the newest start has; `None`: the host's.
    #[serde(default)]
    pub users: Option<IdRange>,
    /// Its labels of SELinux; `None`: nothing was labelled on this host when it was made or last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selinux: Option<SelinuxLabels>,
    pub state: RecordedState,
}

/// An image that is mounted in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountedImage {
    /// Where, as the configuration says it.
    pub target: String,
    /// Of its manifest.
    pub digest: String,
    /// Its layers, the topmost first.
    pub layers: Vec<PathBuf>,
}

/// What the engine last intended or learnt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RecordedState {
    Created,
    /// Its shim knows more.
    Started,
    Exited(ExitStatus),
    Removing,
}

/// The records of one engine.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    root: PathBuf,
}

impl Records {
    pub fn open(root: PathBuf) -> Result<Self, RecordError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(|source| RecordError::Disk {
            what: "make",
            path: root.clone(),
            source,
        })?;
        Ok(Self { root })
    }

    pub fn directory(&self, id: &ContainerId) -> PathBuf {
        self.root.join(id.as_str())
    }

    pub fn exit_file(&self, id: &ContainerId) -> PathBuf {
        self.directory(id).join("exit.json")
    }

    /// Makes the directory of a container that is to be: before anything else of it, so that whatever a crash leaves is found.
    pub fn begin(&self, id: &ContainerId) -> Result<(), RecordError> {
        let path = self.directory(id);
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| RecordError::Disk { what: "make", path, source })
    }

    /// Writes the record of a container, durably.
    pub fn save(&self, record: &Record) -> Result<(), RecordError> {
        let directory = self.directory(&record.id);
        let path = directory.join("record.json");
        let write = || -> io::Result<()> {
            let is_new = !path.exists();
            let mut file = tempfile::Builder::new().prefix(UNNAMED).tempfile_in(&directory)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.as_file().sync_all()?;
            crash_point!("record.written");
            file.persist(&path)?;
            crash_point!("record.named");
            File::open(&directory)?.sync_all()?;
            if is_new {
                File::open(&self.root)?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(|source| RecordError::Disk { what: "write", path: path.clone(), source })
    }

    /// How the start number `attempt` of a container ended, if its shim has said so.
    pub fn exit(&self, id: &ContainerId, attempt: u64) -> Option<ExitRecord> {
        let bytes = fs::read(self.exit_file(id)).ok()?;
        serde_json::from_slice::<ExitRecord>(&bytes).ok().filter(|record| record.attempt == attempt)
    }

    /// Marks a container as being removed. The mark is a name without content, which no crash can tear, and file systems keep
    /// the order of names: it needs no time of its own to be safe before what is removed next.
    pub fn mark_removing(&self, id: &ContainerId, keeps_volumes: bool) -> Result<(), RecordError> {
        let (name, _) = REMOVING[usize::from(keeps_volumes)];
        let path = self.directory(id).join(name);
        File::create(&path).map(drop).map_err(|source| RecordError::Disk { what: "write", path, source })
    }

    pub fn remove(&self, id: &ContainerId) -> Result<(), RecordError> {
        let path = self.directory(id);
        // Before the mark: without a record the rest is cleared away.
        let record = path.join("record.json");
        match fs::remove_file(&record) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(RecordError::Disk { what: "remove", path: record, source });
            }
            _ => {
                crash_point!("record.removed");
            }
        }
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|source| RecordError::Disk { what: "remove", path, source }),
        }
    }

    /// Everything that is there.
    ///
    /// # Errors
    /// When this process has no means to read, files to open perhaps: that says nothing about the records.
    pub fn load(&self) -> Result<Loaded, RecordError> {
        let disk = |path: &Path, source| RecordError::Disk { what: "read", path: path.to_owned(), source };
        let mut loaded = Loaded::default();
        for entry in fs::read_dir(&self.root).map_err(|source| disk(&self.root, source))? {
            let directory = entry.map_err(|source| disk(&self.root, source))?.path();
            let path = directory.join("record.json");
            let id = directory.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            let Some(id) = id else {
                loaded.warnings.push(format!("{} is not of a container", directory.display()));
                continue;
            };
            let problem = match fs::read(&path) {
                Ok(bytes) => match serde_json::from_slice::<Record>(&bytes) {
                    Ok(mut record) if record.id == id => {
                        for (name, keeps_volumes) in REMOVING {
                            if directory.join(name).exists() {
                                (record.state, record.keeps_volumes) = (RecordedState::Removing, keeps_volumes);
                            }
                        }
                        loaded.warnings.extend(sweep_unnamed(&directory));
                        loaded.records.push(record);
                        continue;
                    }
                    Ok(record) => format!("{} is of container {}", path.display(), record.id),
                    Err(error) => format!("{} cannot be understood: {error}", path.display()),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    loaded.unfinished.push(id);
                    continue;
                }
                Err(error) if is_own_want(&error) => return Err(disk(&path, error)),
                Err(error) => format!("{} cannot be read: {error}", path.display()),
            };
            loaded.damaged.push((id, problem));
        }
        Ok(loaded)
    }

    /// Moves what there is of a container out of the way, for whoever wants to look at it: its new place.
    pub fn set_aside(&self, id: &ContainerId, now: u64) -> Result<PathBuf, RecordError> {
        let aside = self.root.with_file_name("containers-damaged");
        let place = aside.join(format!("{id}-{now}"));
        let moved = || -> io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&aside)?;
            fs::rename(self.directory(id), &place)?;
            File::open(&aside)?.sync_all()?;
            File::open(&self.root)?.sync_all()
        };
        moved().map_err(|source| RecordError::Disk { what: "move", path: self.directory(id), source })?;
        Ok(place)
    }
}

/// Takes away records that a process which was killed had not given their name yet. What could not be removed.
fn sweep_unnamed(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let unnamed = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(UNNAMED.as_bytes()));
    let removed = unnamed.map(|entry| (entry.path(), fs::remove_file(entry.path())));
    removed
        .filter_map(|(path, outcome)| Some(format!("{} cannot be removed: {}", path.display(), outcome.err()?)))
        .collect()
}

/// What was found on disk.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub records: Vec<Record>,
    /// Containers without a record: their making, or the end of their removal, was cut short.
    pub unfinished: Vec<ContainerId>,
    /// Containers of which nothing more is known than what is wrong with their record.
    pub damaged: Vec<(ContainerId, String)>,
    /// What else is wrong.
    pub warnings: Vec<String>,
}

/// Whether it is this process, or the whole host, that lacks something.
pub(crate) fn is_own_want(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// What a shim's record means to callers.
pub(crate) fn exit_status(record: &ExitRecord) -> ExitStatus {
    ExitStatus {
        code: record.code,
        signal: record.signal,
        oom: record.oom,
        started_at: record.started_at.map(|nanoseconds| nanoseconds / 1_000_000),
        finished_at: record.finished_at / 1_000_000,
        error: record.failure.as_ref().map(ToString::to_string),
    }
}

impl Record {
    /// How a container ended whose shim did not answer for so long.
    pub fn silent_end(now: u64, patience: Duration) -> ExitStatus {
        let error = format!(
            "its shim did not answer for {} s when the daemon came back, so the container was ended: nothing could be done with it",
            patience.as_secs()
        );
        ExitStatus { error: Some(error), ..Self::unknown_end(now) }
    }

    /// What is known when neither a shim nor its record is left.
    pub fn unknown_end(now: u64) -> ExitStatus {
        ExitStatus {
            code: 137,
            signal: None,
            oom: false,
            started_at: None,
            finished_at: now,
            error: Some(
                "its shim ended without a record, so the exit code is not known: it was killed, or the host went down"
                    .to_owned(),
            ),
        }
    }
}

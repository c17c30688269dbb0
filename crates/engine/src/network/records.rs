//! What the networks remember on disk: a file for each network and one for each container.
//!
//! The files outlive `stackd`, which is what they are for; they are not synced, because what they describe does not
//! outlive the host. A file that a power cut left torn is set aside with a warning.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::request::{ContainerRecord, NetworkRecord, NetworkTemplate};
use crate::crash_point::crash_point;

/// The extension of a file that is being written.
const NEW: &str = "new";

/// A record that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{what} the network record {}", path.display())]
pub struct RecordError {
    /// What failed: `write`, `read`, `remove`.
    pub what: &'static str,
    /// Which file or directory.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// The directory of records.
#[derive(Debug)]
pub struct Records {
    networks: PathBuf,
    containers: PathBuf,
    templates: PathBuf,
}

/// What was found at the start.
#[derive(Debug, Default)]
pub struct Remembered {
    /// The networks.
    pub networks: Vec<NetworkRecord>,
    /// The containers.
    pub containers: Vec<ContainerRecord>,
    /// Settings under names.
    pub templates: Vec<NetworkTemplate>,
    /// Files that could not be understood and were set aside.
    pub warnings: Vec<String>,
}

impl Records {
    /// Makes the directories where they are missing.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn open(root: &Path) -> Result<Self, RecordError> {
        let records = Self {
            networks: root.join("networks"),
            containers: root.join("containers"),
            templates: root.join("templates"),
        };
        for path in [&records.networks, &records.containers, &records.templates] {
            fs::create_dir_all(path).map_err(|source| RecordError { what: "make", path: path.clone(), source })?;
        }
        Ok(records)
    }

    /// Reads everything.
    ///
    /// # Errors
    /// When a directory or a file cannot be read.
    pub fn load(&self) -> Result<Remembered, RecordError> {
        let mut remembered = Remembered::default();
        remembered.networks = read_all(&self.networks, &mut remembered.warnings)?;
        remembered.containers = read_all(&self.containers, &mut remembered.warnings)?;
        remembered.templates = read_all(&self.templates, &mut remembered.warnings)?;
        Ok(remembered)
    }

    /// Writes a network's record.
    ///
    /// # Errors
    /// When it cannot be written; the old one is then still there.
    pub fn put_network(&self, network: &NetworkRecord) -> Result<(), RecordError> {
        write(&self.networks.join(format!("{}.json", network.file())), network)
    }

    /// Writes a container's record.
    ///
    /// # Errors
    /// When it cannot be written; the old one is then still there.
    pub fn put_container(&self, container: &ContainerRecord) -> Result<(), RecordError> {
        write(&self.containers.join(format!("{}.json", container.id)), container)
    }

    /// Writes settings under a name.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_template(&self, template: &NetworkTemplate) -> Result<(), RecordError> {
        write(&self.templates.join(format!("{}.json", template.id)), template)
    }

    /// Forgets settings. Those that are not there are no error.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove_template(&self, template: &NetworkTemplate) -> Result<(), RecordError> {
        remove(self.templates.join(format!("{}.json", template.id)))
    }

    /// Forgets a network. One that is not there is no error.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove_network(&self, network: &NetworkRecord) -> Result<(), RecordError> {
        remove(self.networks.join(format!("{}.json", network.file())))
    }

    /// Forgets a container. One that is not there is no error.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove_container(&self, id: &str) -> Result<(), RecordError> {
        remove(self.containers.join(format!("{id}.json")))
    }
}

fn read_all<T: DeserializeOwned>(directory: &Path, warnings: &mut Vec<String>) -> Result<Vec<T>, RecordError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RecordError { what: "read", path, source }
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => {}
            Some(NEW) => {
                // Of a process that was killed before it gave the file its name.
                fs::remove_file(&path).map_err(failed(&path))?;
                continue;
            }
            _ => continue,
        }
        let text = fs::read(&path).map_err(failed(&path))?;
        match serde_json::from_slice(&text) {
            Ok(record) => found.push(record),
            Err(error) => {
                let aside = path.with_extension("unreadable");
                fs::rename(&path, &aside).map_err(failed(&path))?;
                warnings.push(format!(
                    "the network record {} cannot be understood ({error}); it was set aside as {}",
                    path.display(),
                    aside.display()
                ));
            }
        }
    }
    Ok(found)
}

fn write<T: Serialize>(path: &Path, record: &T) -> Result<(), RecordError> {
    let temporary = path.with_extension(NEW);
    let attempt = || -> io::Result<()> {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(record).map_err(io::Error::other)?)?;
        crash_point!("network_record.written");
        fs::rename(&temporary, path)
    };
    attempt().map_err(|source| RecordError { what: "write", path: path.to_owned(), source })
}

fn remove(path: PathBuf) -> Result<(), RecordError> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RecordError { what: "remove", path, source }),
        _ => Ok(()),
    }
}

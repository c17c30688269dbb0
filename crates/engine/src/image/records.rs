//! What images there are and what they are called: one redb file. A record is written only when everything that it
//! refers to is whole on disk, in one transaction with the names that lead to it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::content::{Digest, ImageLinks};

/// Manifest digest -> `Record` as JSON.
const IMAGES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("images");
/// `registry/repository:tag` or `registry/repository@digest` -> manifest digest.
const NAMES: TableDefinition<'_, &str, &str> = TableDefinition::new("names");
/// Index digest -> the digest of the manifest that was chosen from it for this host.
const INDEXES: TableDefinition<'_, &str, &str> = TableDefinition::new("indexes");

/// Why the records could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The database refused.
    #[error("cannot {action} the image records")]
    Database {
        /// What was attempted, as a verb.
        action: &'static str,
        /// Its answer.
        source: Box<redb::Error>,
    },
    /// A record cannot be understood.
    #[error("the record of image `{key}` is damaged; remove the image and fetch it again")]
    Damaged {
        /// Under which key it lies.
        key: String,
    },
}

fn failed<E: Into<redb::Error>>(action: &'static str) -> impl FnOnce(E) -> RecordError {
    move |error| RecordError::Database { action, source: Box::new(error.into()) }
}

/// Where an image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Pulled from a registry.
    Registry,
    /// From an archive of images.
    Loaded,
    /// Made of a root file system's archive.
    Imported,
    /// Made of a container.
    Committed,
}

/// One image, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its manifest.
    pub manifest: Digest,
    /// Its configuration.
    pub config: Digest,
    /// The layers as they were transferred, lowest first.
    pub layers: Vec<Digest>,
    /// The same layers uncompressed, as they lie unpacked.
    pub diff_ids: Vec<Digest>,
    /// Where it came from first.
    pub origin: Origin,
}

/// Everything that is recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// By manifest digest.
    pub images: BTreeMap<Digest, Record>,
    /// Name -> manifest digest.
    pub names: BTreeMap<String, Digest>,
    /// Index digest -> manifest digest.
    pub indexes: BTreeMap<Digest, Digest>,
}

impl Records {
    /// The names of an image, in order.
    pub fn names_of<'a>(&'a self, manifest: &'a Digest) -> impl Iterator<Item = &'a str> {
        self.names.iter().filter(move |(_, target)| *target == manifest).map(|(name, _)| name.as_str())
    }

    /// The indexes that an image was chosen from.
    pub fn indexes_of<'a>(&'a self, manifest: &'a Digest) -> impl Iterator<Item = &'a Digest> {
        self.indexes.iter().filter(move |(_, target)| *target == manifest).map(|(index, _)| index)
    }

    /// What every image needs, for garbage collection.
    #[must_use]
    pub fn links(&self) -> Vec<ImageLinks> {
        self.images
            .values()
            .map(|record| {
                let mut blobs: BTreeSet<_> = record.layers.iter().cloned().collect();
                blobs.insert(record.manifest.clone());
                blobs.insert(record.config.clone());
                blobs.extend(self.indexes_of(&record.manifest).cloned());
                ImageLinks { blobs, layers: record.diff_ids.iter().cloned().collect() }
            })
            .collect()
    }
}

/// The database of one host. Cloning is cheap.
#[derive(Clone)]
pub struct RecordStore {
    database: Arc<Database>,
}

impl RecordStore {
    /// Opens the records, or makes them.
    ///
    /// # Errors
    /// When the file cannot be made, is damaged, or another process has it open.
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        let database = Database::create(path).map_err(failed("open"))?;
        let transaction = database.begin_write().map_err(failed("open"))?;
        transaction.open_table(IMAGES).map_err(failed("open"))?;
        transaction.open_table(NAMES).map_err(failed("open"))?;
        transaction.open_table(INDEXES).map_err(failed("open"))?;
        transaction.commit().map_err(failed("open"))?;
        Ok(Self { database: Arc::new(database) })
    }

    /// Everything at one moment.
    ///
    /// # Errors
    /// When the database cannot be read or a record is damaged.
    pub fn all(&self) -> Result<Records, RecordError> {
        let transaction = self.database.begin_read().map_err(failed("read"))?;
        let mut records = Records::default();
        for row in transaction.open_table(IMAGES).map_err(failed("read"))?.iter().map_err(failed("read"))? {
            let (key, value) = row.map_err(failed("read"))?;
            let record: Record = serde_json::from_slice(value.value())
                .map_err(|_| RecordError::Damaged { key: key.value().to_owned() })?;
            records.images.insert(record.manifest.clone(), record);
        }
        for row in transaction.open_table(NAMES).map_err(failed("read"))?.iter().map_err(failed("read"))? {
            let (name, target) = row.map_err(failed("read"))?;
            records.names.insert(name.value().to_owned(), digest(target.value())?);
        }
        for row in transaction.open_table(INDEXES).map_err(failed("read"))?.iter().map_err(failed("read"))? {
            let (index, target) = row.map_err(failed("read"))?;
            records.indexes.insert(digest(index.value())?, digest(target.value())?);
        }
        Ok(records)
    }

    /// Records an image, its names and the indexes that lead to it, at once and durably. What a name meant before, it
    /// means no more.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn put(&self, record: &Record, names: &[String], indexes: &[Digest]) -> Result<(), RecordError> {
        let transaction = self.database.begin_write().map_err(failed("write"))?;
        {
            let mut images = transaction.open_table(IMAGES).map_err(failed("write"))?;
            let known = images.get(record.manifest.as_str()).map_err(failed("write"))?.is_some();
            // The first origin stays.
            if !known {
                let text = serde_json::to_vec(record)
                    .map_err(|_| RecordError::Damaged { key: record.manifest.to_string() })?;
                images.insert(record.manifest.as_str(), text.as_slice()).map_err(failed("write"))?;
            }
            let mut table = transaction.open_table(NAMES).map_err(failed("write"))?;
            for name in names {
                table.insert(name.as_str(), record.manifest.as_str()).map_err(failed("write"))?;
            }
            let mut table = transaction.open_table(INDEXES).map_err(failed("write"))?;
            for index in indexes {
                table.insert(index.as_str(), record.manifest.as_str()).map_err(failed("write"))?;
            }
        }
        transaction.commit().map_err(failed("write"))
    }

    /// Takes names away, and images with the indexes that lead to them, at once and durably.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn remove(&self, names: &[String], images: &[Digest]) -> Result<(), RecordError> {
        let transaction = self.database.begin_write().map_err(failed("write"))?;
        {
            let mut table = transaction.open_table(NAMES).map_err(failed("write"))?;
            for name in names {
                table.remove(name.as_str()).map_err(failed("write"))?;
            }
            let gone = |target: &str| images.iter().any(|image| image.as_str() == target);
            table.retain(|_, target| !gone(target)).map_err(failed("write"))?;
            let mut table = transaction.open_table(INDEXES).map_err(failed("write"))?;
            table.retain(|_, target| !gone(target)).map_err(failed("write"))?;
            let mut table = transaction.open_table(IMAGES).map_err(failed("write"))?;
            for image in images {
                table.remove(image.as_str()).map_err(failed("write"))?;
            }
        }
        transaction.commit().map_err(failed("write"))
    }
}

fn digest(text: &str) -> Result<Digest, RecordError> {
    text.parse().map_err(|_| RecordError::Damaged { key: text.to_owned() })
}

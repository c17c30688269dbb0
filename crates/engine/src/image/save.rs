//! Writes images into an archive: an OCI image layout that also has the `manifest.json` of `docker save`, so that Docker of
//! any age, and whoever reads the one or the other, can load it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write};

use serde_json::{Value, json};

use super::document::{CONFIGURATION_LIMIT, OCI_MANIFEST, parse_document};
use super::records::{Record, RecordError};
use super::reference::Reference;
use super::selection::{SelectError, is_tag, select};
use super::store::ImageStore;
use super::telling::familiar;
use crate::content::Digest;
use crate::content::store::ContentError;
use crate::events::ImageEvent;

/// Why images could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// A name leads to no image.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The records cannot be read.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// Its content cannot be read.
    #[error("image {manifest} is damaged; remove it and fetch it again")]
    Damaged {
        /// Which image.
        manifest: Digest,
        /// Why.
        source: ContentError,
    },
    /// The archive cannot be written.
    #[error("the archive could not be written")]
    Write(#[from] io::Error),
}

/// One image of an archive, with the names that it has there.
struct Entry {
    record: Record,
    names: BTreeSet<String>,
}

/// Images that are being saved; while it is there, nothing of them is removed.
pub struct Saving {
    store: ImageStore,
    entries: BTreeMap<Digest, Entry>,
    _lease: crate::content::Lease,
}

impl ImageStore {
    /// Looks up the images to save: by a name, with that name; by an identifier, without any; by a repository's name without
    /// a tag, all its tags.
    ///
    /// # Errors
    /// When a name leads to no image.
    pub fn saving(&self, names: &[String]) -> Result<Saving, SaveError> {
        let records = self.inner.records.all()?;
        let mut entries: BTreeMap<Digest, Entry> = BTreeMap::new();
        let mut lease = self.inner.leases.lease();
        let mut add = |manifest: &Digest, name: Option<String>| {
            let Some(record) = records.images.get(manifest) else { return };
            lease.add_record(record);
            let entry = entries
                .entry(manifest.clone())
                .or_insert_with(|| Entry { record: record.clone(), names: BTreeSet::new() });
            entry.names.extend(name);
        };
        for text in names {
            let whole = text.parse::<Reference>().ok().filter(|name| name.tag().is_none() && name.digest().is_none());
            let of_repository: Vec<(&String, &Digest)> = records
                .names
                .iter()
                .filter(|(name, _)| {
                    let repository = name.rsplit_once(':').map(|(repository, _)| repository);
                    is_tag(name) && whole.as_ref().is_some_and(|whole| repository == Some(&whole.name()))
                })
                .collect();
            for (name, manifest) in &of_repository {
                add(manifest, Some((*name).clone()));
            }
            if of_repository.is_empty() {
                let selected = select(&records, text)?;
                add(&selected.manifest, selected.name.filter(|name| is_tag(name)));
            }
        }
        Ok(Saving { store: self.clone(), entries, _lease: lease })
    }
}

impl Saving {
    /// Writes the archive. Blocking.
    ///
    /// # Errors
    /// When content is damaged or the archive cannot be written.
    pub fn write(self, to: impl Write) -> Result<(), SaveError> {
        let mut tar = tar::Builder::new(to);
        let mut written = BTreeSet::new();
        let mut manifests = Vec::new();
        let mut index = Vec::new();
        directory(&mut tar, "blobs/")?;
        directory(&mut tar, "blobs/sha256/")?;
        for (manifest, Entry { record, names }) in &self.entries {
            let blobs = [manifest, &record.config].into_iter().chain(&record.layers);
            for digest in blobs.filter(|digest| written.insert((*digest).clone())) {
                self.blob(&mut tar, manifest, digest)?;
            }
            let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
            let familiar: Vec<String> =
                names.iter().map(|name| name.parse().map_or(name.clone(), |name: Reference| name.familiar())).collect();
            manifests.push(json!({
                "Config": path(&record.config),
                "RepoTags": if familiar.is_empty() { Value::Null } else { json!(familiar) },
                "Layers": record.layers.iter().map(path).collect::<Vec<_>>(),
            }));
            let bytes = self.read(manifest, manifest)?;
            let media_type = match parse_document(manifest, &bytes) {
                Ok(_) => serde_json::from_slice::<Value>(&bytes)
                    .ok()
                    .and_then(|found| Some(found["mediaType"].as_str()?.to_owned())),
                Err(_) => None,
            };
            let descriptor = |name: Option<&String>| {
                let mut descriptor = json!({
                    "mediaType": media_type.as_deref().unwrap_or(OCI_MANIFEST),
                    "digest": manifest.as_str(),
                    "size": bytes.len(),
                });
                if let Some(name) = name {
                    let tag = name.rsplit_once(':').map_or("", |(_, tag)| tag);
                    descriptor["annotations"] =
                        json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag});
                }
                descriptor
            };
            if names.is_empty() {
                index.push(descriptor(None));
            }
            index.extend(names.iter().map(|name| descriptor(Some(name))));
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": index,
        });
        for Entry { record, names } in self.entries.values() {
            let name = names.first().map_or_else(|| record.config.to_string(), |name| familiar(name));
            self.store.inner.tell(record, &name, ImageEvent::Saved);
        }
        document(&mut tar, "index.json", &index)?;
        document(&mut tar, "manifest.json", &Value::Array(manifests))?;
        document(&mut tar, "oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
        tar.into_inner()?.flush()?;
        Ok(())
    }

    fn read(&self, manifest: &Digest, digest: &Digest) -> Result<Vec<u8>, SaveError> {
        let read = self.store.inner.blobs.read(digest, CONFIGURATION_LIMIT);
        read.map_err(|source| SaveError::Damaged { manifest: manifest.clone(), source })
    }

    fn blob(&self, tar: &mut tar::Builder<impl Write>, manifest: &Digest, digest: &Digest) -> Result<(), SaveError> {
        let open = self.store.inner.blobs.open_blob(digest);
        let file = open.map_err(|source| SaveError::Damaged { manifest: manifest.clone(), source })?;
        let size = file.metadata()?.len();
        let mut header = header(tar::EntryType::Regular, 0o644, size);
        tar.append_data(&mut header, format!("blobs/sha256/{}", digest.hex()), file.take(size))?;
        Ok(())
    }
}

/// A header without anything of this host or moment, so that the same images give the same archive.
fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn directory(tar: &mut tar::Builder<impl Write>, path: &str) -> io::Result<()> {
    tar.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), path, io::empty())
}

fn document(tar: &mut tar::Builder<impl Write>, path: &str, content: &Value) -> io::Result<()> {
    let text = content.to_string();
    let mut header = header(tar::EntryType::Regular, 0o644, u64::try_from(text.len()).unwrap_or_default());
    tar.append_data(&mut header, path, text.as_bytes())
}

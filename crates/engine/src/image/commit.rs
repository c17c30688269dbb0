//! Makes an image of another one, a further layer and a configuration of its own.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

use super::document::{
    CONFIGURATION_LIMIT, Document, DocumentError, MANIFEST_LIMIT, add_layer, parse_configuration, parse_document,
};
use super::layer::LayerError;
use super::pack::{PackError, Packer};
use super::records::{Origin, Record, RecordError};
use super::reference::Reference;
use super::selection::{SelectError, select};
use super::store::{GetError, Image, ImageStore, Inner};
use super::telling::familiar;
use crate::content::store::ContentError;
use crate::content::{Digest, Hasher};
use crate::crash_point::crash_point;
use crate::events::ImageEvent;

/// What the configuration of the new image says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CommitChanges {
    /// How to run it: the `config` of the OCI image specification.
    pub config: Map<String, Value>,
    /// Who made it.
    pub author: Option<String>,
    /// What for.
    pub message: Option<String>,
    /// What ran in the container.
    pub created_by: String,
    /// When it was made (RFC 3339).
    pub created: String,
}

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// There is no such container.
    #[error("there is no container {id}")]
    Missing {
        /// Which.
        id: crate::container::ContainerId,
    },
    /// It could not be held still.
    #[error("the container cannot be paused")]
    Pause(#[source] crate::container::PauseError),
    /// What it has changed cannot be read.
    #[error("the changes of the container could not be read")]
    Changes(#[source] io::Error),
    /// A directory was renamed in a way that only the host's own overlay understands.
    #[error(
        "{} was renamed by the overlay and its content is not in the container's layer: set `redirect_dir` of overlayfs to off, and copy it",
        path.display()
    )]
    Redirected {
        /// Which.
        path: std::path::PathBuf,
    },
    /// Its image is not there any more.
    #[error("the container's image is not there")]
    Base(#[from] GetError),
    /// The name cannot be given.
    #[error("`{name}` has a digest, which only content gives")]
    Name {
        /// What was given.
        name: String,
    },
    /// The layer could not be written.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The layer cannot be kept.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Content cannot be kept.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The image's documents cannot be made.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The image cannot be recorded.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// Work of this program was cut short.
    #[error("the commit was interrupted")]
    Interrupted,
}

/// Counts and hashes what passes.
struct Hashing<W> {
    writer: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.writer.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Writes the entries of a layer.
pub(crate) type Layer<'a> = &'a mut dyn FnMut(&mut Packer<&mut dyn Write>) -> Result<(), CommitError>;

impl ImageStore {
    /// Makes an image of the image `base` with one more layer, and names it. Blocking.
    pub(crate) fn commit(
        &self,
        base: &str,
        name: Option<&Reference>,
        changes: &CommitChanges,
        layer: Layer<'_>,
    ) -> Result<Image, CommitError> {
        let name = match name {
            Some(name) if name.digest().is_some() => return Err(CommitError::Name { name: name.to_string() }),
            name => name.and_then(Reference::tagged_name),
        };
        let image = self.inner.commit(base, name.clone(), changes, layer)?;
        if let Some(name) = name {
            self.inner.tell_image(&image, &familiar(&name), ImageEvent::Tagged);
        }
        Ok(image)
    }
}

impl Inner {
    fn commit(
        &self,
        base: &str,
        name: Option<String>,
        changes: &CommitChanges,
        write: Layer<'_>,
    ) -> Result<Image, CommitError> {
        let mut lease = self.leases.lease();
        let records = self.records.all()?;
        let selected = select(&records, base).map_err(GetError::from)?;
        let missing = || GetError::from(SelectError::Missing { text: base.to_owned() });
        let base = records.images.get(&selected.manifest).ok_or_else(missing)?;
        lease.add_record(base);

        let mut writer = self.blobs.writer()?;
        let diff_id = {
            let encoder = GzEncoder::new(&mut writer, Compression::fast());
            let mut hashing = Hashing { writer: encoder, hasher: Hasher::new() };
            let mut packer = Packer::new(&mut hashing as &mut dyn Write);
            write(&mut packer)?;
            packer.finish()?;
            let Hashing { writer, hasher } = hashing;
            writer.finish().map_err(PackError::from)?;
            hasher.finish()
        };
        writer.flush().map_err(PackError::from)?;
        crash_point!("commit.packed");
        let (blob, size) = (writer.digest(), writer.bytes());
        lease.add(&blob);
        let lock = self.locks.of(&diff_id);
        let held = lock.blocking_lock();
        if !self.layers.contains(&diff_id) {
            self.layers.publish(self.layers.unpack(&mut writer.reopen()?, &diff_id)?)?;
        }
        drop(held);
        self.blobs.commit(writer, Some(&blob))?;

        let before = self.blobs.read(&base.config, CONFIGURATION_LIMIT)?;
        let config_text = configuration(&base.config, &before, &diff_id, changes)?;
        let config = Digest::of(&config_text);
        let mut diff_ids = base.diff_ids.clone();
        diff_ids.push(diff_id);
        parse_configuration(&config, &config_text, diff_ids.len())?;
        let manifest = self.blobs.read(&base.manifest, MANIFEST_LIMIT)?;
        let Document::Manifest(manifest) = parse_document(&base.manifest, &manifest)? else {
            return Err(missing().into());
        };
        let manifest = add_layer(manifest, (config.clone(), config_text.len() as u64), (blob.clone(), size));
        let malformed = |source| DocumentError::Malformed { digest: config.clone(), what: "image manifest", source };
        let manifest = serde_json::to_vec(&manifest).map_err(malformed)?;
        let mut layers = base.layers.clone();
        layers.push(blob);
        let record = Record { manifest: Digest::of(&manifest), config, layers, diff_ids, origin: Origin::Committed };
        lease.add_record(&record);
        self.blobs.put(&config_text)?;
        self.blobs.put(&manifest)?;
        crash_point!("commit.documents");
        self.records.put(&record, name.as_slice(), &[])?;
        let records = self.records.all()?;
        Ok(self.assemble(&records, &record)?)
    }
}

/// The configuration of the image before, with what is different. What it has beside that stays.
fn configuration(
    digest: &Digest,
    before: &[u8],
    layer: &Digest,
    changes: &CommitChanges,
) -> Result<Vec<u8>, DocumentError> {
    let malformed = |source| DocumentError::Malformed { digest: digest.clone(), what: "image configuration", source };
    let mut document: Map<String, Value> = serde_json::from_slice(before).map_err(malformed)?;
    document.insert("created".to_owned(), json!(changes.created));
    document.remove("author");
    if let Some(author) = &changes.author {
        document.insert("author".to_owned(), json!(author));
    }
    document.insert("config".to_owned(), Value::Object(changes.config.clone()));
    // Docker's own notes on the container that the image before was made of.
    for note in ["container", "container_config", "docker_version"] {
        document.remove(note);
    }
    let mut entry = json!({ "created": changes.created, "created_by": changes.created_by });
    for (key, value) in [("author", &changes.author), ("comment", &changes.message)] {
        if let Some(value) = value {
            entry[key] = json!(value);
        }
    }
    let mut extend = |outer: Option<&str>, key: &str, value: Value| {
        let place = match outer {
            None => Some(&mut document),
            Some(outer) => document.entry(outer).or_insert_with(|| json!({})).as_object_mut(),
        };
        let list = place.map(|place| place.entry(key).or_insert_with(|| json!([])));
        if let Some(list) = list {
            match list.as_array_mut() {
                Some(list) => list.push(value),
                // `null` in place of a list.
                None => *list = json!([value]),
            }
        }
    };
    extend(None, "history", entry);
    extend(Some("rootfs"), "diff_ids", json!(layer));
    Ok(Value::Object(document).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_image_before_says_beside_that_stays() {
        let before = json!({
            "architecture": "amd64", "os": "linux", "os.features": ["x"], "author": "somebody", "container": "abc",
            "config": { "Cmd": ["old"] }, "rootfs": { "type": "layers", "diff_ids": [] }, "history": null,
        });
        let changes = CommitChanges {
            config: json!({"Cmd": ["new"]}).as_object().unwrap().clone(),
            author: None,
            message: Some("why".to_owned()),
            created_by: "sh -c x".to_owned(),
            created: "2026-01-31T12:00:00Z".to_owned(),
        };
        let digest = Digest::of(b"");
        let text = configuration(&digest, before.to_string().as_bytes(), &digest, &changes).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&text).unwrap(),
            json!({
                "architecture": "amd64", "os": "linux", "os.features": ["x"], "created": "2026-01-31T12:00:00Z",
                "config": { "Cmd": ["new"] }, "rootfs": { "type": "layers", "diff_ids": [digest] },
                "history": [{"created": "2026-01-31T12:00:00Z", "created_by": "sh -c x", "comment": "why"}],
            })
        );
    }
}

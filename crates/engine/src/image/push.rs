//! Pushes images: layers that the registry lacks, several at a time, then the configuration, and the manifest last.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _};

use super::document::{Document, DocumentError, MANIFEST_LIMIT, OCI_MANIFEST, parse_document};
use super::load::LAYERS_AT_ONCE;
use super::records::{RecordError, Records};
use super::reference::Reference;
use super::registry::{Credentials, Placed, PullError, Session};
use super::store::ImageStore;
use crate::content::Digest;
use crate::content::store::ContentError;
use crate::crash_point::crash_point;
use crate::events::ImageEvent;

/// How many other repositories of a registry are asked for a layer.
const OTHERS: usize = 3;

/// What a push is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushProgress {
    /// A layer will be looked at.
    Preparing {
        /// The layer, as it is transferred.
        layer: Digest,
    },
    /// The registry has it in this repository.
    Present {
        /// The layer, as it is transferred.
        layer: Digest,
    },
    /// The registry had it in another repository.
    Mounted {
        /// The layer, as it is transferred.
        layer: Digest,
        /// Which repository.
        from: String,
    },
    /// It is on its way.
    Transferred {
        /// The layer, as it is transferred.
        layer: Digest,
        /// How much of it went, in bytes.
        bytes: u64,
        /// How much there is, in bytes.
        total_bytes: u64,
    },
    /// The registry has it now.
    Pushed {
        /// The layer, as it is transferred.
        layer: Digest,
    },
}

/// What the registry has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The tag.
    pub tag: String,
    /// Of the manifest.
    pub digest: Digest,
    /// The manifest's length in bytes.
    pub bytes: u64,
}

/// Why an image could not be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// No image has this name.
    #[error("tag does not exist: {name}")]
    NoSuchTag {
        /// Which.
        name: String,
    },
    /// No image has a name of this repository.
    #[error("An image does not exist locally with the tag: {name}")]
    NoSuchRepository {
        /// Which.
        name: String,
    },
    /// A name with a digest cannot be given.
    #[error("cannot push a digest reference")]
    Pinned,
    /// The records cannot be read.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// The image's content cannot be read.
    #[error("the image is damaged; remove it and fetch it again")]
    Content(#[from] ContentError),
    /// The image's manifest cannot be understood.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The registry does not take it.
    #[error(transparent)]
    Registry(#[from] PullError),
    /// The work was stopped because this program ends.
    #[error("pushing was interrupted")]
    Interrupted,
}

/// An image that is to be pushed under a tag.
struct Work {
    tag: String,
    digest: Digest,
    manifest: Vec<u8>,
    media_type: String,
    config: Digest,
    layers: Vec<Digest>,
}

impl ImageStore {
    /// Pushes the image of a name, or, with `all`, the images of all tags of its repository.
    ///
    /// # Errors
    /// When there is no such image, or the registry cannot be reached or does not take it.
    pub async fn push(
        &self,
        reference: &Reference,
        all: bool,
        credentials: Option<&Credentials>,
        progress: &(dyn Fn(PushProgress) + Send + Sync),
    ) -> Result<Vec<Pushed>, PushError> {
        let (store, name) = (self.clone(), reference.clone());
        // Held until all is done: what is being pushed is not removed meanwhile.
        let (works, records, _lease) = tokio::task::spawn_blocking(move || store.to_push(&name, all))
            .await
            .map_err(|_| PushError::Interrupted)??;
        let session = Session::to_registry(&self.inner.registries, reference, credentials);
        crash_point!("push.begun");
        let mut pushed = Vec::new();
        for work in works {
            pushed.push(self.push_one(&session, reference, work, &records, progress).await?);
        }
        Ok(pushed)
    }

    fn to_push(
        &self,
        reference: &Reference,
        all: bool,
    ) -> Result<(Vec<Work>, Records, crate::content::Lease), PushError> {
        if reference.digest().is_some() {
            return Err(PushError::Pinned);
        }
        let mut lease = self.inner.leases.lease();
        let records = self.inner.records.all()?;
        let prefix = format!("{}:", reference.name());
        let tags: Vec<(String, Digest)> = match reference.tag().filter(|_| !all) {
            Some(tag) => {
                let found = records.names.get(&format!("{prefix}{tag}"));
                let missing = || PushError::NoSuchTag { name: reference.familiar() };
                vec![(tag.to_owned(), found.ok_or_else(missing)?.clone())]
            }
            None => records
                .names
                .iter()
                .filter_map(|(name, digest)| Some((name.strip_prefix(&prefix)?.to_owned(), digest.clone())))
                .collect(),
        };
        if tags.is_empty() {
            return Err(PushError::NoSuchRepository { name: repository(reference) });
        }
        let mut works = Vec::new();
        for (tag, digest) in tags {
            let missing = || PushError::NoSuchTag { name: format!("{}:{tag}", repository(reference)) };
            let record = records.images.get(&digest).ok_or_else(missing)?;
            lease.add_record(record);
            let manifest = self.inner.blobs.read(&digest, MANIFEST_LIMIT)?;
            let Document::Manifest(parsed) = parse_document(&digest, &manifest)? else { return Err(missing()) };
            works.push(Work {
                media_type: parsed.media_type.unwrap_or_else(|| OCI_MANIFEST.to_owned()),
                tag,
                digest,
                manifest,
                config: record.config.clone(),
                layers: record.layers.clone(),
            });
        }
        Ok((works, records, lease))
    }

    async fn push_one(
        &self,
        session: &Session<'_>,
        reference: &Reference,
        work: Work,
        records: &Records,
        progress: &(dyn Fn(PushProgress) + Send + Sync),
    ) -> Result<Pushed, PushError> {
        let mut layers = work.layers.clone();
        layers.sort();
        layers.dedup();
        // The topmost first, as clients show them.
        layers.sort_by_key(|layer| std::cmp::Reverse(work.layers.iter().position(|other| other == layer)));
        for layer in &layers {
            progress(PushProgress::Preparing { layer: layer.clone() });
        }
        // Each behind a pointer of its own type: the compiler cannot see otherwise that all of them may change threads.
        let transfers: Vec<BoxFuture<'_, Result<(), PushError>>> = layers
            .into_iter()
            .map(|layer| self.push_layer(session, layer, others(records, reference, &work.layers), progress).boxed())
            .collect();
        futures::stream::iter(transfers).buffer_unordered(LAYERS_AT_ONCE).try_collect::<()>().await?;
        crash_point!("push.layers");
        self.put(session, &work.config, &[], &|_| ()).await?;
        crash_point!("push.content");
        session.put_manifest(&work.tag, &work.media_type, &work.manifest).await?;
        crash_point!("push.named");
        self.inner.tell_transfer(reference, ImageEvent::Pushed);
        tracing::info!(%reference, tag = work.tag, digest = %work.digest, "image pushed");
        Ok(Pushed { tag: work.tag, digest: work.digest, bytes: work.manifest.len() as u64 })
    }

    async fn push_layer(
        &self,
        session: &Session<'_>,
        layer: Digest,
        others: Vec<(String, Vec<Digest>)>,
        progress: &(dyn Fn(PushProgress) + Send + Sync),
    ) -> Result<(), PushError> {
        let others: Vec<String> =
            others.into_iter().filter(|(_, has)| has.contains(&layer)).map(|(name, _)| name).take(OTHERS).collect();
        let total_bytes = self.inner.blobs.size_bytes(&layer).unwrap_or(0);
        let told = |bytes| progress(PushProgress::Transferred { layer: layer.clone(), bytes, total_bytes });
        let placed = self.put(session, &layer, &others, &told).await?;
        progress(match placed {
            Placed::Present => PushProgress::Present { layer },
            Placed::Mounted { from } => PushProgress::Mounted { layer, from },
            Placed::Sent => PushProgress::Pushed { layer },
        });
        Ok(())
    }

    async fn put(
        &self,
        session: &Session<'_>,
        digest: &Digest,
        others: &[String],
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Placed, PushError> {
        let file = self.inner.blobs.path(digest);
        let size = self.inner.blobs.size_bytes(digest);
        let missing = || ContentError::Io {
            action: "find",
            path: file.clone(),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        };
        let size = size.ok_or_else(missing)?;
        Ok(session.put_blob(digest, (&file, size), others, progress).await?)
    }
}

/// The name without its tag, as people write it.
fn repository(reference: &Reference) -> String {
    let familiar = reference.familiar();
    let tag = reference.tag().map(|tag| format!(":{tag}"));
    tag.and_then(|tag| familiar.strip_suffix(&tag).map(str::to_owned)).unwrap_or(familiar)
}

/// Other repositories of the same registry that images here are known by, and the layers that they have of these.
fn others(records: &Records, reference: &Reference, layers: &[Digest]) -> Vec<(String, Vec<Digest>)> {
    let mut found: Vec<(String, Vec<Digest>)> = Vec::new();
    for (name, manifest) in &records.names {
        let Ok(name) = name.parse::<Reference>() else { continue };
        let is_other = name.registry() == reference.registry() && name.repository() != reference.repository();
        let Some(record) = records.images.get(manifest).filter(|_| is_other) else { continue };
        let has: Vec<Digest> = record.layers.iter().filter(|layer| layers.contains(layer)).cloned().collect();
        match found.iter_mut().find(|(other, _)| other == name.repository()) {
            Some((_, known)) => known.extend(has),
            None if !has.is_empty() => found.push((name.repository().to_owned(), has)),
            None => {}
        }
    }
    found
}

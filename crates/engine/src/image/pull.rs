//! Pulls images. Each layer is downloaded, verified, kept, decompressed, verified again and unpacked in one pass, and
//! several of them at a time: with overlayfs a layer's directory needs no parents.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::collections::HashSet;
use std::io::{self, Read, Write as _};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};

use super::document::{CONFIGURATION_LIMIT, Descriptor, Document, choose, parse_configuration, parse_document};
use super::layer::LayerError;
use super::load::LAYERS_AT_ONCE;
use super::records::{Origin, Record};
use super::reference::{DEFAULT_TAG, Reference};
use super::registry::{Credentials, FoundImage, PullError, Session, search};
use super::selection::select;
use super::store::{Image, ImageStore, Inner};
use super::stream::{ChannelReader, channel};
use crate::content::store::is_disk_full;
use crate::content::{BlobWriter, Digest};
use crate::crash_point::crash_point;
use crate::events::ImageEvent;

/// How many indexes may be nested.
const NESTING_LIMIT: usize = 4;

/// What a pull is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullProgress {
    /// The name means this manifest (for an index, the one chosen for this host).
    Resolved {
        /// The manifest.
        digest: Digest,
        /// Bytes of all its layers, as they are transferred.
        total_bytes: u64,
    },
    /// A layer was here already.
    Present {
        /// The layer, as it is transferred.
        layer: Digest,
    },
    /// A layer is coming.
    Transferred {
        /// The layer, as it is transferred.
        layer: Digest,
        /// How much of it came, in bytes.
        bytes: u64,
        /// How much there is, in bytes.
        total_bytes: u64,
    },
    /// A layer is here, verified and unpacked.
    Unpacked {
        /// The layer, as it was transferred.
        layer: Digest,
    },
}

/// Hears what a pull is at.
pub type Progress<'a> = &'a (dyn Fn(PullProgress) + Send + Sync);

impl ImageStore {
    /// What a name means at present: the digest of its manifest, or of its index where it has several platforms. A name
    /// that pins a digest means that, without asking.
    ///
    /// # Errors
    /// When the registry cannot be reached, does not have it or does not allow it.
    pub async fn resolve(&self, reference: &Reference, credentials: Option<&Credentials>) -> Result<Digest, PullError> {
        if let Some(digest) = reference.digest() {
            return Ok(digest.clone());
        }
        let session = Session::new(&self.inner.registries, reference, credentials);
        let tag = reference.tag().unwrap_or(DEFAULT_TAG);
        match current(&session, tag).await? {
            Some(digest) => Ok(digest),
            None => Ok(session.manifest(tag).await?.0),
        }
    }

    /// Whether a registry takes a name and a password.
    ///
    /// # Errors
    /// When it does not, or cannot be reached.
    pub async fn login(&self, registry: &str, credentials: &Credentials) -> Result<(), PullError> {
        Session::of_registry(&self.inner.registries, registry, Some(credentials)).check().await
    }

    /// At most `limit` images that a registry finds by a term: the registry whose name the term begins with, or Docker Hub.
    ///
    /// # Errors
    /// When it cannot be reached, offers no search or does not allow it.
    pub async fn search(
        &self,
        term: &str,
        limit: u8,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<FoundImage>, PullError> {
        search(&self.inner.registries, term, limit, credentials).await
    }

    /// The manifest or index that a name means at present, as the registry has it, with its digest. Nothing is stored.
    ///
    /// # Errors
    /// When the registry cannot be reached, does not have it or does not allow it.
    pub async fn manifest(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<(Digest, Vec<u8>), PullError> {
        let session = Session::new(&self.inner.registries, reference, credentials);
        let asked = reference.digest().map(|digest| digest.as_str().to_owned());
        let asked = asked.unwrap_or_else(|| reference.tag().unwrap_or(DEFAULT_TAG).to_owned());
        session.manifest(&asked).await
    }

    /// Fetches an image for this host's platform, or only notes the name where all of it is here. A pinned image that is
    /// here is answered at once and without a network.
    ///
    /// # Errors
    /// When the registry cannot be reached, does not have it, does not allow it, or sends something else; when the
    /// image cannot run here; when the disk refuses. Layers that were complete stay until the next removal, so that
    /// another try is shorter.
    pub async fn pull(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
        progress: Progress<'_>,
    ) -> Result<Image, PullError> {
        let image = self.pull_untold(reference, credentials, progress).await.map_err(PullError::told)?;
        self.inner.tell_transfer(reference, ImageEvent::Pulled);
        Ok(image)
    }

    async fn pull_untold(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
        progress: Progress<'_>,
    ) -> Result<Image, PullError> {
        if let Some(digest) = reference.digest()
            && let Some(image) = self.note_names(reference, digest).await?
        {
            return Ok(image);
        }
        let session = Session::new(&self.inner.registries, reference, credentials);
        let tag = reference.tag().unwrap_or(DEFAULT_TAG);
        let (mut digest, mut bytes) = match reference.digest() {
            Some(digest) => session.manifest(digest.as_str()).await?,
            None => {
                // The short question first: often the answer is that nothing changed.
                if let Some(digest) = current(&session, tag).await?
                    && let Some(image) = self.note_names(reference, &digest).await?
                {
                    return Ok(image);
                }
                session.manifest(tag).await?
            }
        };
        let asked = digest.clone();
        let mut lease = self.inner.leases.lease();
        let mut indexes: Vec<(Digest, Vec<u8>)> = Vec::new();
        let manifest = loop {
            lease.add(&digest);
            match parse_document(&digest, &bytes)? {
                Document::Manifest(manifest) => break manifest,
                Document::Index(_) if indexes.len() == NESTING_LIMIT => {
                    return Err(PullError::TooNested { what: reference.to_string() });
                }
                Document::Index(index) => {
                    let chosen = choose(&index, &self.inner.platform)?.digest.clone();
                    indexes.push((digest, bytes));
                    (digest, bytes) = session.manifest(chosen.as_str()).await?;
                }
            }
        };
        let total_bytes = manifest.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
        progress(PullProgress::Resolved { digest: digest.clone(), total_bytes });
        crash_point!("pull.resolved");
        let config = session.blob(&manifest.config.digest, CONFIGURATION_LIMIT).await?;
        let parsed = parse_configuration(&manifest.config.digest, &config, manifest.layers.len())?;
        let architecture = parsed.document.architecture().to_string();
        if architecture != self.inner.platform.architecture {
            // A single image without an index is what was asked for; emulation may run it.
            tracing::warn!(%reference, architecture, "the image is for another architecture than this host's");
        }
        let diff_ids = parsed.diff_ids;
        let record = Record {
            manifest: digest,
            config: manifest.config.digest.clone(),
            layers: manifest.layers.iter().map(|layer| layer.digest.clone()).collect(),
            diff_ids,
            origin: Origin::Registry,
        };
        // Before anything is looked for: what is found here stays here.
        lease.add_record(&record);

        let mut seen = HashSet::new();
        let wanted: Vec<_> = manifest
            .layers
            .iter()
            .zip(&record.diff_ids)
            .filter(|(layer, diff_id)| seen.insert((layer.digest.clone(), (*diff_id).clone())))
            .collect();
        // Each behind a pointer of its own type: the compiler cannot see otherwise that all of them may change threads.
        let fetches: Vec<BoxFuture<'_, Result<(), PullError>>> = wanted
            .into_iter()
            .map(|(layer, diff_id)| self.fetch_layer(&session, layer, diff_id, progress).boxed())
            .collect();
        futures::stream::iter(fetches).buffer_unordered(LAYERS_AT_ONCE).try_collect::<()>().await?;

        crash_point!("pull.layers");
        let inner = Arc::clone(&self.inner);
        let names = names(reference, &asked);
        let commit = move || {
            inner.blobs.put(&config)?;
            inner.blobs.put(&bytes)?;
            for (_, bytes) in &indexes {
                inner.blobs.put(bytes)?;
            }
            let indexes: Vec<_> = indexes.into_iter().map(|(digest, _)| digest).collect();
            crash_point!("pull.documents");
            inner.records.put(&record, &names, &indexes)?;
            crash_point!("pull.recorded");
            let records = inner.records.all()?;
            let image = inner.assemble(&records, &record)?;
            drop(lease);
            tracing::info!(name = names.first(), digest = %image.digest, bytes = image.size_bytes, "image pulled");
            Ok(image)
        };
        tokio::task::spawn_blocking(commit).await.map_err(|_| PullError::Interrupted)?
    }

    /// If an image is here, notes the name that it was asked for by.
    async fn note_names(&self, reference: &Reference, digest: &Digest) -> Result<Option<Image>, PullError> {
        let (inner, names, digest) = (Arc::clone(&self.inner), names(reference, digest), digest.clone());
        let note = move || {
            let mut records = inner.records.all()?;
            let manifest = match select(&records, digest.as_str()) {
                // A configuration's digest is no answer here: registries do not know it as an image.
                Ok(selected) if digest == selected.manifest || records.indexes.contains_key(&digest) => {
                    selected.manifest
                }
                _ => return Ok(None),
            };
            let Some(record) = records.images.get(&manifest).cloned() else { return Ok(None) };
            // An image that cannot be read is fetched again rather than answered.
            if let Err(error) = inner.assemble(&records, &record) {
                tracing::warn!(error = &error as &dyn std::error::Error, "a damaged image is fetched again");
                return Ok(None);
            }
            if names.iter().any(|name| records.names.get(name) != Some(&manifest)) {
                inner.records.put(&record, &names, &[])?;
                records = inner.records.all()?;
            }
            Ok(Some(inner.assemble(&records, &record)?))
        };
        tokio::task::spawn_blocking(note).await.map_err(|_| PullError::Interrupted)?
    }

    async fn fetch_layer(
        &self,
        session: &Session<'_>,
        layer: &Descriptor,
        diff_id: &Digest,
        progress: Progress<'_>,
    ) -> Result<(), PullError> {
        let lock = self.inner.locks.of(diff_id);
        let held = lock.lock_owned().await;
        let (has_blob, has_layer) = (self.inner.blobs.contains(&layer.digest), self.inner.layers.contains(diff_id));
        if has_blob && has_layer {
            progress(PullProgress::Present { layer: layer.digest.clone() });
            return Ok(());
        }
        if has_blob {
            let (inner, blob, diff_id) = (Arc::clone(&self.inner), layer.digest.clone(), diff_id.clone());
            let unpack = move || {
                let _held = held;
                let mut content = inner.blobs.open_blob(&blob)?;
                Ok::<_, PullError>(inner.layers.publish(inner.layers.unpack(&mut content, &diff_id)?)?)
            };
            tokio::task::spawn_blocking(unpack).await.map_err(|_| PullError::Interrupted)??;
        } else {
            let mut held = Some(held);
            let mut from = 0;
            loop {
                let (at, error) =
                    self.transfer_layer(session, layer, diff_id, from, !has_layer, &mut held, progress).await;
                match error {
                    None => break,
                    // What a mirror sends need not be true; the next place is asked.
                    Some(PullError::DigestMismatch { .. }) if at + 1 < session.endpoints() => from = at + 1,
                    Some(error) => return Err(error),
                }
            }
        }
        progress(PullProgress::Unpacked { layer: layer.digest.clone() });
        Ok(())
    }

    /// One pass over a layer. Answers which place sent it, and why it is not here.
    #[expect(
        clippy::too_many_arguments,
        reason = "all of them belong to this one transfer and nothing else groups them"
    )]
    async fn transfer_layer(
        &self,
        session: &Session<'_>,
        layer: &Descriptor,
        diff_id: &Digest,
        from: usize,
        unpack: bool,
        held: &mut Option<tokio::sync::OwnedMutexGuard<()>>,
        progress: Progress<'_>,
    ) -> (usize, Option<PullError>) {
        let (writer, reader) = channel();
        let (inner, blob, diff_id) = (Arc::clone(&self.inner), layer.digest.clone(), diff_id.clone());
        let guard = held.take();
        // The lock goes with the work: if this future is dropped, the work still ends before another begins.
        let store = tokio::task::spawn_blocking(move || {
            let outcome = inner.store_layer(reader, &blob, unpack.then_some(&diff_id));
            (outcome, guard)
        });
        let told = |bytes| {
            progress(PullProgress::Transferred { layer: layer.digest.clone(), bytes, total_bytes: layer.size });
        };
        let transferred = session.transfer(&layer.digest, layer.size, from, writer, &told).await;
        let stored = match store.await {
            Ok((stored, guard)) => {
                *held = guard;
                stored
            }
            Err(_) => return (from, Some(PullError::Interrupted)),
        };
        match (transferred, stored) {
            (Ok(at), Ok(())) => (at, None),
            (Ok(at), Err(StoreFailure::WrongDigest { actual })) => {
                let registry = session.shown(at);
                (at, Some(PullError::DigestMismatch { registry, expected: layer.digest.clone(), actual }))
            }
            (Ok(at), Err(StoreFailure::Other(error))) => (at, Some(error)),
            // The receiver went first: its reason counts.
            (Err(PullError::Interrupted), Err(StoreFailure::Other(error))) => (from, Some(error)),
            (Err(error), _) => (from, Some(error)),
        }
    }
}

/// What a tag means at present; nothing where the registry does not answer this question but only gives the manifest.
async fn current(session: &Session<'_>, tag: &str) -> Result<Option<Digest>, PullError> {
    match session.head_manifest(tag).await {
        Err(error @ PullError::Registry { .. }) if !error.is_retryable() => Ok(None),
        answer => answer,
    }
}

/// Why a layer that came was not stored.
enum StoreFailure {
    WrongDigest { actual: Digest },
    Other(PullError),
}

impl<E: Into<PullError>> From<E> for StoreFailure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

impl Inner {
    /// Keeps a layer as it comes, and unpacks it where a diff id is given.
    fn store_layer(&self, reader: ChannelReader, blob: &Digest, diff_id: Option<&Digest>) -> Result<(), StoreFailure> {
        let mut tee = Tee { reader, writer: self.blobs.writer()?, write_error: None };
        let unpacked = diff_id.map(|diff_id| self.layers.unpack(&mut tee, diff_id));
        // To its end even if it cannot be unpacked: then it matters whether it is what was promised.
        let drained = io::copy(&mut tee, &mut io::sink());
        if let Some(error) = tee.write_error {
            let full = if is_disk_full(&error) { PullError::DiskFull } else { LayerError::from_write(error).into() };
            return Err(StoreFailure::Other(full));
        }
        if let Err(error) = drained {
            return Err(LayerError::from_write(error).into());
        }
        let actual = tee.writer.digest();
        if actual != *blob {
            return Err(StoreFailure::WrongDigest { actual });
        }
        let unpacked = unpacked.transpose()?;
        self.blobs.commit(tee.writer, Some(blob))?;
        if let Some(layer) = unpacked {
            self.layers.publish(layer)?;
        }
        Ok(())
    }
}

/// Writes aside what is read through it.
struct Tee {
    reader: ChannelReader,
    writer: BlobWriter,
    write_error: Option<io::Error>,
}

impl Read for Tee {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.write_error.is_some() {
            return Err(io::Error::other("what came could not be kept"));
        }
        let count = self.reader.read(buffer)?;
        if let Err(error) = self.writer.write_all(&buffer[..count]) {
            self.write_error = Some(error);
            return Err(io::Error::other("what came could not be kept"));
        }
        Ok(count)
    }
}

/// The names under which a pulled image is recorded: by its tag, and by what was asked for.
fn names(reference: &Reference, asked: &Digest) -> Vec<String> {
    reference.tagged_name().into_iter().chain([format!("{}@{asked}", reference.name())]).collect()
}

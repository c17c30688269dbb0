//! Loads images from an archive: an OCI image layout, or what `docker save` writes. The archive is a stream, its documents
//! may come last, so every file of it is first stored aside under its digest; then the documents decide what is kept.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read, Write as _};
use std::sync::Arc;

use serde::Deserialize;

use super::compression::{Compression, MAGIC_LENGTH, decoder};
use super::document::{
    CONFIGURATION_LIMIT, Document, DocumentError, Index, MANIFEST_LIMIT, Manifest, OCI_LAYER, OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD, build_manifest, choose, parse_configuration, parse_document,
};
use super::layer::LayerError;
use super::records::{Origin, Record, RecordError};
use super::reference::{ParseReferenceError, Reference};
use super::store::{GetError, Image, ImageStore, Inner};
use super::stream::{channel, pump};
use super::tar_reader::{Kind, TarError, TarReader};
use crate::content::store::{ContentError, is_disk_full};
use crate::content::{BlobAside, Digest, Lease};
use crate::events::ImageEvent;

/// The most files that an archive of images may hold.
const FILE_LIMIT: usize = 100_000;
/// The most bytes of an archive's own documents.
const DOCUMENT_LIMIT: u64 = 16 << 20;
/// How many links may lead from one of the archive's names to a file.
const LINK_LIMIT: usize = 8;
/// How many indexes may be nested.
const NESTING_LIMIT: usize = 4;
/// How many layers are unpacked at the same time.
pub(super) const LAYERS_AT_ONCE: usize = 4;

/// Why an archive could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Reading it failed.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// It is no tar archive.
    #[error("cannot read the archive; is it what `docker save` or `skopeo copy` wrote?")]
    Archive(#[from] TarError),
    /// It holds no images.
    #[error("the archive holds neither `index.json` nor `manifest.json`; a root file system is imported, not loaded")]
    NoImages,
    /// It holds more files than any archive of images.
    #[error("the archive holds more than {FILE_LIMIT} files; a root file system is imported, not loaded")]
    TooManyFiles,
    /// One of its documents refers to a file that is missing.
    #[error("the archive lacks `{name}`, to which its `{by}` refers")]
    MissingFile {
        /// The missing file.
        name: String,
        /// Who refers to it.
        by: String,
    },
    /// One of its own documents is not valid.
    #[error("`{name}` of the archive is not valid")]
    BadDocument {
        /// Which.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A document is too large.
    #[error("`{name}` of the archive has {bytes} bytes, more than such a document may have")]
    DocumentTooLarge {
        /// Which.
        name: String,
        /// How many it has.
        bytes: u64,
    },
    /// A manifest or configuration is not usable.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A name in the archive is none.
    #[error("the archive gives an image a name that is none")]
    BadName(#[from] ParseReferenceError),
    /// Indexes refer to indexes without end.
    #[error("the archive's indexes are nested too deeply")]
    TooNested,
    /// A change of the configuration is not valid.
    #[error("the image's configuration cannot be made: {problem}")]
    BadChange {
        /// What is wrong.
        problem: String,
    },
    /// A layer cannot be stored.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Content cannot be stored.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The records cannot be written.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// The image is stored and cannot be read back.
    #[error(transparent)]
    Get(#[from] GetError),
    /// The disk is full.
    #[error("the disk is full; free some space, for instance by removing unused images, and try again")]
    DiskFull,
    /// The work was stopped because this program ends.
    #[error("loading was interrupted")]
    Interrupted,
}

impl LoadError {
    /// The same, told as a full disk if that is the cause.
    pub(super) fn told(self) -> Self {
        let is_full = match &self {
            Self::Layer(error) => error.is_disk_full(),
            Self::Content(error) => error.is_disk_full(),
            Self::Read(error) => is_disk_full(error),
            _ => false,
        };
        if is_full { Self::DiskFull } else { self }
    }
}

impl ImageStore {
    /// Loads every image of an archive that runs on this host: an OCI image layout or a `docker save` archive, plain or
    /// compressed by gzip or Zstandard. An image without a manifest gets one that is the same on every host.
    ///
    /// # Errors
    /// When the archive is damaged or holds no image for this host, or the disk refuses. Images that were complete
    /// before stay.
    pub async fn load(
        &self,
        reader: impl tokio::io::AsyncRead + Send + Unpin + 'static,
    ) -> Result<Vec<Image>, LoadError> {
        let (writer, mut blocking) = channel();
        let inner = Arc::clone(&self.inner);
        let work = tokio::task::spawn_blocking(move || inner.load(&mut blocking).map_err(LoadError::told));
        let images = finish(pump(reader, writer).await, work.await)?;
        for image in &images {
            self.inner.tell_image(image, image.id.as_str(), ImageEvent::Loaded);
        }
        Ok(images)
    }
}

/// The outcome of a blocking reader and of what fed it: the feeder's error explains the reader's.
pub(super) fn finish<T>(
    pumped: io::Result<()>,
    outcome: Result<Result<T, LoadError>, tokio::task::JoinError>,
) -> Result<T, LoadError> {
    let outcome = outcome.map_err(|_| LoadError::Interrupted)?;
    match (pumped, outcome) {
        (Err(error), Err(_)) => Err(LoadError::Read(error)),
        (_, outcome) => outcome,
    }
}

/// The files of an archive, stored aside.
struct Spool {
    files: HashMap<String, File>,
    links: HashMap<String, String>,
}

enum File {
    Stored(BlobAside),
    /// Given its name in the store already.
    Kept(Digest, u64),
}

/// One image of an archive, before its layers are unpacked.
struct Found {
    record: Record,
    names: Vec<String>,
    indexes: Vec<Digest>,
}

/// An entry of `manifest.json` as `docker save` writes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Inner {
    fn load(&self, reader: &mut dyn Read) -> Result<Vec<Image>, LoadError> {
        let mut spool = self.spool(reader)?;
        let mut lease = self.leases.lease();
        let saved: Option<Vec<Saved>> = match spool.document("manifest.json")? {
            Some(text) => Some(serde_json::from_slice(&text).map_err(bad_document("manifest.json"))?),
            None => None,
        };
        let found = match (spool.document("index.json")?, saved) {
            // A layout has the manifests as they were made, so their digests are those of a registry.
            (Some(text), saved) if spool.has("oci-layout") => {
                self.found_in_layout(&mut spool, &mut lease, &text, saved)?
            }
            (_, Some(saved)) => {
                let mut found = Vec::new();
                for image in saved {
                    found.push(self.found_saved(&mut spool, &mut lease, &image)?);
                }
                found
            }
            _ => return Err(LoadError::NoImages),
        };
        let mut images = Vec::new();
        for Found { record, names, indexes } in found {
            self.unpack_stored(&record)?;
            self.records.put(&record, &names, &indexes)?;
            images.push(record);
        }
        let records = self.records.all()?;
        images.iter().map(|record| Ok(self.assemble(&records, record)?)).collect()
    }

    fn spool(&self, reader: &mut dyn Read) -> Result<Spool, LoadError> {
        let mut archive =
            TarReader::new(io::BufReader::with_capacity(128 << 10, decoder(reader).map_err(LoadError::Read)?));
        let mut spool = Spool { files: HashMap::new(), links: HashMap::new() };
        while let Some(entry) = archive.next_entry()? {
            let Ok(path) = String::from_utf8(entry.path) else { continue };
            let name = resolved("", &path);
            match entry.kind {
                Kind::File if entry.segments.is_none() => {
                    let mut writer = self.blobs.writer()?;
                    io::copy(&mut archive, &mut writer).map_err(LoadError::Read)?;
                    spool.files.insert(name, File::Stored(writer.set_aside()));
                }
                Kind::Symlink => {
                    let above = name.rfind('/').map_or("", |at| &name[..at]).to_owned();
                    spool.links.insert(name, resolved(&above, &String::from_utf8_lossy(&entry.link)));
                }
                Kind::HardLink => {
                    spool.links.insert(name, resolved("", &String::from_utf8_lossy(&entry.link)));
                }
                _ => {}
            }
            if spool.files.len() + spool.links.len() > FILE_LIMIT {
                return Err(LoadError::TooManyFiles);
            }
        }
        // Whoever sends it may wait until all of it was read.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(LoadError::Read)?;
        Ok(spool)
    }

    fn found_in_layout(
        &self,
        spool: &mut Spool,
        lease: &mut Lease,
        index: &[u8],
        saved: Option<Vec<Saved>>,
    ) -> Result<Vec<Found>, LoadError> {
        let index: Index = serde_json::from_slice(index).map_err(bad_document("index.json"))?;
        let mut tags: HashMap<String, Vec<String>> = HashMap::new();
        for image in saved.into_iter().flatten() {
            tags.entry(resolved("", &image.config)).or_default().extend(image.repo_tags.unwrap_or_default());
        }
        let mut found: BTreeMap<Digest, Found> = BTreeMap::new();
        let mut refused = None;
        for descriptor in &index.manifests {
            // Attestations and images of other platforms lie beside those for this host.
            let suits = descriptor.platform.as_ref().is_none_or(|platform| self.platform.suits(platform).is_some());
            if !suits {
                refused.get_or_insert_with(|| choose(&index, &self.platform).err());
                continue;
            }
            let mut image = self.found_by_descriptor(spool, lease, &descriptor.digest)?;
            if let Some(name) = layout_name(descriptor.annotations.as_ref()) {
                image.names.extend(name.parse::<Reference>()?.tagged_name());
            }
            for tag in tags.get(&blob_name(&image.record.config)).into_iter().flatten() {
                image.names.extend(tag.parse::<Reference>()?.tagged_name());
            }
            match found.get_mut(&image.record.manifest) {
                Some(same) => {
                    same.names.extend(image.names);
                    same.indexes.extend(image.indexes);
                }
                None => {
                    found.insert(image.record.manifest.clone(), image);
                }
            }
        }
        if found.is_empty() {
            return Err(refused.flatten().map_or(LoadError::NoImages, LoadError::Document));
        }
        Ok(found.into_values().collect())
    }

    fn found_by_descriptor(&self, spool: &mut Spool, lease: &mut Lease, digest: &Digest) -> Result<Found, LoadError> {
        let mut indexes = Vec::new();
        let mut digest = digest.clone();
        let (manifest, bytes) = loop {
            let bytes = spool.blob(&digest, MANIFEST_LIMIT, "index.json")?;
            match parse_document(&digest, &bytes)? {
                Document::Manifest(manifest) => break (manifest, bytes),
                Document::Index(_) if indexes.len() == NESTING_LIMIT => return Err(LoadError::TooNested),
                Document::Index(index) => {
                    lease.add(&digest);
                    self.blobs.put(&bytes)?;
                    indexes.push(digest);
                    digest = choose(&index, &self.platform)?.digest.clone();
                }
            }
        };
        let Manifest { config, layers, .. } = manifest;
        let text = spool.blob(&config.digest, CONFIGURATION_LIMIT, "manifest")?;
        let diff_ids = parse_configuration(&config.digest, &text, layers.len())?.diff_ids;
        let layers: Vec<_> = layers.into_iter().map(|layer| layer.digest).collect();
        let record = Record { manifest: digest, config: config.digest, layers, diff_ids, origin: Origin::Loaded };
        lease.add_record(&record);
        for layer in &record.layers {
            if !self.blobs.contains(layer) {
                spool.keep(self, &blob_name(layer), "manifest")?;
            }
        }
        self.blobs.put(&text)?;
        self.blobs.put(&bytes)?;
        Ok(Found { record, names: Vec::new(), indexes })
    }

    fn found_saved(&self, spool: &mut Spool, lease: &mut Lease, saved: &Saved) -> Result<Found, LoadError> {
        const BY: &str = "manifest.json";
        let name = resolved("", &saved.config);
        let text = spool.read(&name, CONFIGURATION_LIMIT)?.ok_or_else(|| missing(&name, BY))?;
        let config = Digest::of(&text);
        let diff_ids = parse_configuration(&config, &text, saved.layers.len())?.diff_ids;
        lease.add(&config);
        self.blobs.put(&text)?;
        let mut layers = Vec::new();
        for name in &saved.layers {
            let (media_type, digest, size) = {
                let name = resolved("", name);
                let digest = spool.digest(&name).ok_or_else(|| missing(&name, BY))?;
                lease.add(&digest);
                let (digest, size) = spool.keep(self, &name, BY)?;
                let mut start = Vec::new();
                let blob = self.blobs.open_blob(&digest)?;
                blob.take(MAGIC_LENGTH).read_to_end(&mut start).map_err(LoadError::Read)?;
                match Compression::of(&start) {
                    Compression::None => (OCI_LAYER, digest, size),
                    Compression::Gzip => (OCI_LAYER_GZIP, digest, size),
                    Compression::Zstandard => (OCI_LAYER_ZSTD, digest, size),
                    // No manifest can say so, and whoever pulls the image from a registry would not expect it.
                    Compression::Bzip2 | Compression::Xz => {
                        let (digest, size) = self.decompressed(&digest)?;
                        lease.add(&digest);
                        (OCI_LAYER, digest, size)
                    }
                }
            };
            layers.push((media_type, digest, size));
        }
        let digests = layers.iter().map(|(_, digest, _)| digest.clone()).collect();
        let manifest = build_manifest((config.clone(), text.len() as u64), layers).map_err(bad_document(BY))?;
        let digest = Digest::of(&manifest);
        let record = Record { manifest: digest, config, layers: digests, diff_ids, origin: Origin::Loaded };
        lease.add_record(&record);
        self.blobs.put(&manifest)?;
        let mut names = Vec::new();
        for tag in saved.repo_tags.iter().flatten() {
            names.extend(tag.parse::<Reference>()?.tagged_name());
        }
        Ok(Found { record, names, indexes: Vec::new() })
    }

    /// Keeps the uncompressed form of a blob as well.
    fn decompressed(&self, digest: &Digest) -> Result<(Digest, u64), LoadError> {
        let mut plain = decoder(self.blobs.open_blob(digest)?).map_err(LoadError::Read)?;
        let mut writer = self.blobs.writer()?;
        io::copy(&mut plain, &mut writer).and_then(|_| writer.flush()).map_err(LoadError::Read)?;
        let bytes = writer.bytes();
        Ok((self.blobs.commit(writer, None)?, bytes))
    }

    /// Unpacks the layers of an image whose blobs are all here, several at a time.
    pub(super) fn unpack_stored(&self, record: &Record) -> Result<(), LoadError> {
        let mut seen = HashSet::new();
        let wanted: Vec<_> =
            record.layers.iter().zip(&record.diff_ids).filter(|(_, diff_id)| seen.insert(*diff_id)).collect();
        let next = std::sync::atomic::AtomicUsize::new(0);
        let work = || {
            while let Some((blob, diff_id)) = wanted.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                let lock = self.locks.of(diff_id);
                let _held = lock.blocking_lock();
                if !self.layers.contains(diff_id) {
                    let mut content = self.blobs.open_blob(blob)?;
                    self.layers.publish(self.layers.unpack(&mut content, diff_id)?)?;
                }
            }
            Ok::<_, LoadError>(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..LAYERS_AT_ONCE.min(wanted.len())).map(|_| scope.spawn(work)).collect();
            let mut outcome = Ok(());
            for thread in threads {
                let answer = thread.join().unwrap_or(Err(LoadError::Interrupted));
                outcome = outcome.and(answer);
            }
            outcome
        })
    }
}

impl Spool {
    /// The true name of a file, through links.
    fn follow(&self, name: &str) -> String {
        let mut name = name.to_owned();
        for _ in 0..LINK_LIMIT {
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => break,
            }
        }
        name
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains_key(&self.follow(name))
    }

    fn digest(&self, name: &str) -> Option<Digest> {
        match self.files.get(&self.follow(name))? {
            File::Stored(blob) => Some(blob.digest().clone()),
            File::Kept(digest, _) => Some(digest.clone()),
        }
    }

    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, LoadError> {
        self.read(name, DOCUMENT_LIMIT)
    }

    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, LoadError> {
        let Some(File::Stored(blob)) = self.files.get(&self.follow(name)) else { return Ok(None) };
        if blob.bytes() > limit {
            return Err(LoadError::DocumentTooLarge { name: name.to_owned(), bytes: blob.bytes() });
        }
        let mut text = Vec::new();
        blob.open()?.take(limit).read_to_end(&mut text).map_err(LoadError::Read)?;
        Ok(Some(text))
    }

    /// A document under its digest; its name must not lie.
    fn blob(&self, digest: &Digest, limit: u64, by: &str) -> Result<Vec<u8>, LoadError> {
        let name = blob_name(digest);
        let text = self.read(&name, limit)?.ok_or_else(|| missing(&name, by))?;
        let actual = Digest::of(&text);
        if actual == *digest {
            Ok(text)
        } else {
            Err(ContentError::WrongDigest { expected: digest.clone(), actual }.into())
        }
    }

    /// Moves a file into the store. Under a name that is a digest it must be that content.
    fn keep(&mut self, inner: &Inner, name: &str, by: &str) -> Result<(Digest, u64), LoadError> {
        let expected = name.strip_prefix("blobs/sha256/").and_then(|hex| Digest::from_hex(hex).ok());
        let name = self.follow(name);
        let kept = match self.files.remove(&name) {
            Some(File::Kept(digest, bytes)) => (digest, bytes),
            Some(File::Stored(blob)) => {
                let bytes = blob.bytes();
                (inner.blobs.commit_aside(blob, expected.as_ref())?, bytes)
            }
            None => return Err(missing(&name, by)),
        };
        self.files.insert(name, File::Kept(kept.0.clone(), kept.1));
        Ok(kept)
    }
}

/// The name that an OCI layout gives an image. A bare tag without a repository is no name.
fn layout_name(annotations: Option<&BTreeMap<String, String>>) -> Option<&str> {
    let annotations = annotations?;
    if let Some(name) = annotations.get("io.containerd.image.name") {
        return Some(name);
    }
    let name = annotations.get("org.opencontainers.image.ref.name")?;
    name.contains(['/', ':']).then_some(name.as_str())
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A name of the archive without `.`, `..` and doubled slashes, relative to its top.
fn resolved(directory: &str, name: &str) -> String {
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    if name.starts_with('/') {
        parts.clear();
    }
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn missing(name: &str, by: &str) -> LoadError {
    LoadError::MissingFile { name: name.chars().take(300).collect(), by: by.to_owned() }
}

fn bad_document(name: &str) -> impl FnOnce(serde_json::Error) -> LoadError {
    let name = name.to_owned();
    move |source| LoadError::BadDocument { name, source }
}

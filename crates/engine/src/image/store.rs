//! The images of one host: finding, naming and removing them. Fetching them is `pull`, `load` and `import`.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use oci_spec::image::ImageConfiguration;

use super::document::{CONFIGURATION_LIMIT, DocumentError, Platform, parse_configuration};
use super::layer::{LayerError, LayerStore};
use super::records::{Origin, Record, RecordError, RecordStore, Records};
use super::reference::Reference;
use super::registry::{Registries, RegistryConfig, RegistryConfigError};
use super::selection::{SelectError, is_tag, plan_removal, select};
use super::telling::familiar;
use super::unpack::UnpackLimits;
use crate::content::store::ContentError;
use crate::content::{BlobStore, Digest, Everything, Garbage, Lease, Leases, garbage};
use crate::crash_point::crash_point;
use crate::events::{Events, ImageEvent, Teller};

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory cannot be made.
    #[error("cannot make the directory {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// The answer.
        source: std::io::Error,
    },
    /// Its content cannot be opened.
    #[error("cannot open the image store {path}")]
    Content {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: ContentError,
    },
    /// Its layers cannot be opened.
    #[error("cannot open the layers of the image store {path}")]
    Layers {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: LayerError,
    },
    /// Its records cannot be opened.
    #[error("cannot open the records of the image store {path}")]
    Records {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: RecordError,
    },
    /// The configuration of registries cannot be used.
    #[error("the configuration of registries cannot be used")]
    Registries(#[from] RegistryConfigError),
}

/// Why an image could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// The text leads to no image.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The records cannot be read.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// What the record refers to is damaged.
    #[error("image {manifest} is damaged; remove it and fetch it again")]
    Damaged {
        /// Which image.
        manifest: Digest,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why an image could not be given a name.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// There is no such image.
    #[error(transparent)]
    Get(#[from] GetError),
    /// The new name pins a digest.
    #[error("`{name}` cannot be given: a new name has a tag and no digest")]
    NotATag {
        /// The name.
        name: String,
    },
    /// The records cannot be written.
    #[error(transparent)]
    Records(#[from] RecordError),
}

/// Why an image could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is no such image.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// It is in use.
    #[error("image {manifest} is in use by {user}")]
    InUse {
        /// Which image.
        manifest: Digest,
        /// Who uses it.
        user: String,
    },
    /// The records cannot be read or written.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// Its content cannot be removed; the image itself is gone, and the next removal tries again.
    #[error("cannot free the space of removed images")]
    Free(#[source] LayerError),
    /// The work was stopped because this program ends.
    #[error("removing images was interrupted")]
    Interrupted,
}

/// An image on this host.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest's digest; what a pinned name refers to, unless that names an index.
    pub digest: Digest,
    /// The configuration's digest, which Docker calls the image's id.
    pub id: Digest,
    /// Names in full, each with a tag (`docker.io/library/busybox:1`), in order.
    pub references: Vec<String>,
    /// Names in full, each with the digest that it was fetched by (`docker.io/library/busybox@sha256:…`), in order.
    pub repository_digests: Vec<String>,
    /// The indexes that it was chosen from.
    pub indexes: Vec<Digest>,
    /// How to run it.
    pub config: ImageConfiguration,
    /// The same as it was fetched, byte for byte.
    pub raw_config: Vec<u8>,
    /// The layers' directories, lowest first, top last.
    pub layers: Vec<PathBuf>,
    /// The top layer that describes the root directory itself; its mode and owner are the image's root's.
    pub root_template: Option<PathBuf>,
    /// Bytes of its files, unpacked; a layer that another image shares counts in both.
    pub size_bytes: u64,
    /// Bytes of each layer's files, unpacked, in the order of `layers`.
    pub layer_bytes: Vec<u64>,
    /// When it was built, by its configuration (RFC 3339).
    pub created: Option<String>,
    /// Where it came from first.
    pub origin: Origin,
}

/// What a removal took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// Images that are gone, by manifest digest.
    pub deleted: Vec<Digest>,
    /// Bytes of transferred content that were freed; unpacked layers are not counted.
    pub freed_bytes: u64,
}

/// Which images a prune takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneScope {
    /// Those without any name.
    Unnamed,
    /// Those that nothing uses.
    Unused,
}

/// The images of one host. Only one process may have a store open; clones are the same store.
#[derive(Clone)]
pub struct ImageStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    root: PathBuf,
    pub(super) blobs: BlobStore,
    pub(super) layers: LayerStore,
    pub(super) records: RecordStore,
    pub(super) leases: Leases,
    pub(super) locks: LayerLocks,
    pub(super) registries: Registries,
    pub(super) platform: Platform,
    pub(super) teller: Teller,
}

impl ImageStore {
    /// Opens the store under `root`, or makes it, and removes what dead processes left half done.
    ///
    /// # Errors
    /// When the directories or records cannot be made or read, or the configuration is wrong.
    pub fn open(root: &Path, config: RegistryConfig) -> Result<Self, OpenError> {
        let path = || root.to_owned();
        // Layers hold programs that run as root for whoever starts them: nobody else may look inside.
        fs::create_dir_all(root)
            .and_then(|()| fs::set_permissions(root, fs::Permissions::from_mode(0o700)))
            .map_err(|source| OpenError::Directory { path: path(), source })?;
        // First, because it fails when another process has the store open.
        let records = RecordStore::open(&root.join("images.redb"))
            .map_err(|source| OpenError::Records { path: path(), source })?;
        let blobs = BlobStore::open(root).map_err(|source| OpenError::Content { path: path(), source })?;
        let layers = LayerStore::open(root, UnpackLimits::default())
            .map_err(|source| OpenError::Layers { path: path(), source })?;
        let platform = config.platform.clone().unwrap_or_else(Platform::of_this_host);
        let registries = Registries::new(config)?;
        let inner = Inner {
            root: root.to_owned(),
            blobs,
            layers,
            records,
            leases: Leases::default(),
            locks: LayerLocks::default(),
            registries,
            platform,
            teller: Teller::default(),
        };
        if inner.collecting().exists()
            && let Err(error) = inner.collect()
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "removed images still take space");
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The directories in which the layers of images come to be, and in which they are.
    #[must_use]
    pub fn layer_places(&self) -> [PathBuf; 2] {
        self.inner.layers.places().map(Path::to_owned)
    }

    /// Every image, in the order of their digests.
    ///
    /// # Errors
    /// When the records cannot be read. A damaged image is left out and logged.
    pub fn list(&self) -> Result<Vec<Image>, RecordError> {
        let records = self.inner.records.all()?;
        let assemble = |record| match self.inner.assemble(&records, record) {
            Ok(image) => Some(image),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "an image is left out of the list");
                None
            }
        };
        Ok(records.images.values().filter_map(assemble).collect())
    }

    /// Tells of images that come and go here from now on.
    pub fn tell_to(&self, events: Events) {
        self.inner.teller.tell_to(events);
    }

    /// The image that a name, a digest or the beginning of an identifier means.
    ///
    /// # Errors
    /// When there is none or more than one, or it is damaged.
    pub fn get(&self, text: &str) -> Result<Image, GetError> {
        let records = self.inner.records.all()?;
        let selected = select(&records, text)?;
        let record = records.images.get(&selected.manifest);
        let record = record.ok_or_else(|| SelectError::Missing { text: text.to_owned() })?;
        self.inner.assemble(&records, record)
    }

    /// Keeps an image's content from being collected until the lease is dropped, even if the image is removed.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn lease(&self, digest: &Digest) -> Result<Lease, GetError> {
        let mut lease = self.inner.leases.lease();
        let records = self.inner.records.all()?;
        let selected = select(&records, digest.as_str())?;
        if let Some(record) = records.images.get(&selected.manifest) {
            lease.add_record(record);
        }
        // Between reading and leasing it may have been removed.
        self.get(digest.as_str())?;
        Ok(lease)
    }

    /// Gives an image one more name.
    ///
    /// # Errors
    /// When there is no such image, the name has a digest, or it cannot be recorded.
    pub fn tag(&self, text: &str, name: &Reference) -> Result<(), TagError> {
        let name = match (name.digest(), name.tagged_name()) {
            (None, Some(name)) => name,
            _ => return Err(TagError::NotATag { name: name.to_string() }),
        };
        let records = self.inner.records.all().map_err(GetError::from)?;
        let selected = select(&records, text).map_err(GetError::from)?;
        let record = records.images.get(&selected.manifest);
        let record = record.ok_or_else(|| GetError::from(SelectError::Missing { text: text.to_owned() }))?;
        self.inner.records.put(record, std::slice::from_ref(&name), &[])?;
        self.inner.tell(record, &familiar(&name), ImageEvent::Tagged);
        Ok(())
    }

    /// Removes a name, or an image with all its names (see `selection::plan_removal`), and frees what nothing needs any
    /// more. `in_use` says who uses an image, by manifest digest; it is not asked about a name among several.
    ///
    /// # Errors
    /// When there is no such image, it is in use, or its space cannot be freed.
    pub async fn remove(
        &self,
        text: &str,
        in_use: &(dyn Fn(&Digest) -> Option<String> + Send + Sync),
    ) -> Result<Removed, RemoveError> {
        let records = self.inner.records.all()?;
        let removal = plan_removal(&records, &select(&records, text)?);
        if let Some(manifest) = &removal.image
            && let Some(user) = in_use(manifest)
        {
            return Err(RemoveError::InUse { manifest: manifest.clone(), user });
        }
        self.execute_removal(removal.names, removal.image.into_iter().collect()).await
    }

    /// Takes all its names from the image that a name, a digest or the beginning of an identifier means: just the one name
    /// where that is a tag among several. The image stays.
    ///
    /// # Errors
    /// When there is no such image or the records cannot be written.
    pub fn untag(&self, text: &str) -> Result<Vec<String>, RemoveError> {
        let records = self.inner.records.all()?;
        let removal = plan_removal(&records, &select(&records, text)?);
        self.inner.records.remove(&removal.names, &[])?;
        self.inner.tell_untagged(&records, &removal.names);
        Ok(removal.names)
    }

    /// Removes all images of a scope that `in_use` does not claim, and frees what nothing needs any more.
    ///
    /// # Errors
    /// When the records cannot be written or space cannot be freed.
    pub async fn prune(
        &self,
        scope: PruneScope,
        in_use: &(dyn Fn(&Digest) -> Option<String> + Send + Sync),
    ) -> Result<Removed, RemoveError> {
        let records = self.inner.records.all()?;
        let mut names = Vec::new();
        let mut images = Vec::new();
        for manifest in records.images.keys() {
            let of_image: Vec<_> = records.names_of(manifest).map(str::to_owned).collect();
            let in_scope = match scope {
                PruneScope::Unnamed => !of_image.iter().any(|name| is_tag(name)),
                PruneScope::Unused => true,
            };
            if in_scope && in_use(manifest).is_none() {
                names.extend(of_image);
                images.push(manifest.clone());
            }
        }
        self.execute_removal(names, images).await
    }

    async fn execute_removal(&self, names: Vec<String>, images: Vec<Digest>) -> Result<Removed, RemoveError> {
        let inner = Arc::clone(&self.inner);
        let work = move || {
            let before = inner.records.all()?;
            // Noted first: should this process be killed, the next one frees what is left.
            fs::write(inner.collecting(), "").map_err(|source| {
                RemoveError::Free(LayerError::Io { action: "write", path: inner.collecting(), source })
            })?;
            inner.records.remove(&names, &images)?;
            crash_point!("image.forgotten");
            inner.tell_untagged(&before, &names);
            for record in images.iter().filter_map(|manifest| before.images.get(manifest)) {
                inner.tell(record, record.config.as_str(), ImageEvent::Removed);
            }
            let freed_bytes = inner.collect().map_err(RemoveError::Free)?;
            Ok(Removed { untagged: names, deleted: images, freed_bytes })
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| RemoveError::Interrupted)?
    }
}

impl Lease {
    pub(super) fn add_record(&mut self, record: &Record) {
        for digest in [&record.manifest, &record.config].into_iter().chain(&record.layers).chain(&record.diff_ids) {
            self.add(digest);
        }
    }
}

impl Inner {
    /// There while content is being freed.
    fn collecting(&self) -> PathBuf {
        self.root.join("collecting")
    }

    /// Removes everything that no record and no lease needs. Answers the freed bytes of transferred content.
    fn collect(&self) -> Result<u64, LayerError> {
        let freed = self.leases.while_held(|leased| {
            let records = self.records.all().map_err(|error| {
                // Without the records nothing may be called garbage.
                LayerError::Io {
                    action: "read",
                    path: PathBuf::from("images.redb"),
                    source: std::io::Error::other(error),
                }
            })?;
            let stored = Everything { blobs: self.blobs.list()?, layers: self.layers.list()? };
            let Garbage { blobs, layers } = garbage(stored, &records.links(), leased);
            let mut freed = 0;
            for blob in &blobs {
                freed += self.blobs.size_bytes(blob).unwrap_or(0);
                self.blobs.remove(blob)?;
            }
            for layer in &layers {
                self.layers.discard(layer)?;
            }
            Ok::<_, LayerError>(freed)
        })?;
        crash_point!("image.collected");
        self.layers.empty_trash()?;
        match fs::remove_file(self.collecting()) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(LayerError::Io { action: "remove", path: self.collecting(), source })
            }
            _ => Ok(freed),
        }
    }

    pub(super) fn assemble(&self, records: &Records, record: &Record) -> Result<Image, GetError> {
        let damaged = |source| GetError::Damaged { manifest: record.manifest.clone(), source };
        let raw_config = self.blobs.read(&record.config, CONFIGURATION_LIMIT).map_err(|error| damaged(error.into()))?;
        let config = parse_configuration(&record.config, &raw_config, record.layers.len())
            .map_err(|error: DocumentError| damaged(error.into()))?
            .document;
        let mut size_bytes = 0;
        let mut root_template = None;
        let mut layers = Vec::new();
        let mut layer_bytes = Vec::new();
        for diff_id in &record.diff_ids {
            let note = self.layers.note(diff_id).map_err(|error| damaged(error.into()))?;
            let directory = self.layers.directory(diff_id);
            size_bytes += note.bytes;
            layer_bytes.push(note.bytes);
            if note.describes_root {
                root_template = Some(directory.clone());
            }
            layers.push(directory);
        }
        let (references, repository_digests) =
            records.names_of(&record.manifest).map(str::to_owned).partition(|name| is_tag(name));
        Ok(Image {
            digest: record.manifest.clone(),
            id: record.config.clone(),
            references,
            repository_digests,
            indexes: records.indexes_of(&record.manifest).cloned().collect(),
            created: config.created().clone(),
            config,
            raw_config,
            layers,
            root_template,
            size_bytes,
            layer_bytes,
            origin: record.origin,
        })
    }
}

/// One lock for each layer that is being unpacked, so that two images that share it unpack it once.
#[derive(Default)]
pub(super) struct LayerLocks {
    locks: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl LayerLocks {
    pub(super) fn of(&self, diff_id: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        // A panic elsewhere cannot leave this map half changed.
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = locks.get(diff_id).and_then(Weak::upgrade).unwrap_or_default();
        locks.insert(diff_id.clone(), Arc::downgrade(&lock));
        lock
    }
}

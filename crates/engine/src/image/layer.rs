//! Unpacked layers on disk, each under the digest of its uncompressed archive (its diff id): `layers/<hex>/root` is an
//! overlayfs lower directory. A layer is unpacked aside, synced, and only then given its name, so what has a name is whole.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::compression::decoder;
use super::tar_reader::TarReader;
use super::unpack::{UnpackError, UnpackLimits, Unpacked, unpack};
use crate::content::store::{ContentError, is_disk_full, list_digests, sync_directory};
use crate::content::{Digest, Hasher};
use crate::crash_point::crash_point;
use crate::snapshot::removal::remove_tree;

/// Why a layer could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Its archive is damaged or hostile, or the file system refuses an entry.
    #[error("cannot unpack layer {diff_id}")]
    Unpack {
        /// Which layer, by the configuration.
        diff_id: Digest,
        /// Why.
        source: UnpackError,
    },
    /// Its compressed form cannot be read.
    #[error("cannot decompress layer {diff_id}")]
    Decompress {
        /// Which layer, by the configuration.
        diff_id: Digest,
        /// Why.
        source: io::Error,
    },
    /// It is not the layer that the configuration names.
    #[error("the uncompressed layer is {actual}, but the image's configuration names {expected}")]
    WrongDiffId {
        /// What the configuration names.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The store's own directories refuse.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// The store's own directories refuse.
    #[error(transparent)]
    Content(#[from] ContentError),
}

impl LayerError {
    fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// What came could not be kept.
    pub(super) fn from_write(source: io::Error) -> Self {
        Self::Io { action: "keep what came in", path: PathBuf::from("ingest"), source }
    }

    /// Whether the disk (or a quota) is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Unpack { source, .. } => source.is_disk_full(),
            Self::Io { source, .. } => is_disk_full(source),
            Self::Content(source) => source.is_disk_full(),
            Self::Decompress { .. } | Self::WrongDiffId { .. } => false,
        }
    }
}

/// The unpacked layers of one host.
#[derive(Debug, Clone)]
pub struct LayerStore {
    layers: PathBuf,
    unpacking: PathBuf,
    trash: PathBuf,
    limits: UnpackLimits,
}

/// A layer that is unpacked and not yet named. Dropped without `publish`, it leaves nothing behind.
pub struct UnpackedLayer {
    directory: TempDir,
    diff_id: Digest,
}

impl LayerStore {
    /// Opens the store under `root`, makes its directories, and removes what dead processes left half done.
    ///
    /// # Errors
    /// When a directory cannot be made or cleared.
    pub fn open(root: &Path, limits: UnpackLimits) -> Result<Self, LayerError> {
        let store =
            Self { layers: root.join("layers"), unpacking: root.join("unpacking"), trash: root.join("trash"), limits };
        for directory in [&store.unpacking, &store.trash] {
            remove_tree(directory).map_err(LayerError::io("clear", directory))?;
        }
        for directory in [&store.layers, &store.unpacking, &store.trash] {
            fs::create_dir_all(directory).map_err(LayerError::io("make the directory", directory))?;
        }
        sync_directory(root)?;
        Ok(store)
    }

    /// The directories in which layers come to be, and in which they are.
    #[must_use]
    pub fn places(&self) -> [&Path; 2] {
        [&self.unpacking, &self.layers]
    }

    /// The lower directory of a layer that is here.
    #[must_use]
    pub fn directory(&self, diff_id: &Digest) -> PathBuf {
        self.layers.join(diff_id.hex()).join("root")
    }

    /// Whether the layer is here; if it is, it is whole.
    #[must_use]
    pub fn contains(&self, diff_id: &Digest) -> bool {
        self.layers.join(diff_id.hex()).join("layer.json").is_file()
    }

    /// What was noted when the layer was unpacked.
    ///
    /// # Errors
    /// When the layer is not here or its note is damaged.
    pub fn note(&self, diff_id: &Digest) -> Result<Unpacked, LayerError> {
        let path = self.layers.join(diff_id.hex()).join("layer.json");
        let text = fs::read(&path).map_err(LayerError::io("read", &path))?;
        serde_json::from_slice(&text).map_err(|error| LayerError::io("understand", &path)(error.into()))
    }

    /// Every layer that is here.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<BTreeSet<Digest>, LayerError> {
        Ok(list_digests(&self.layers)?)
    }

    /// Decompresses (by the content's own first bytes) and unpacks a layer, and reads `compressed` to its end.
    ///
    /// # Errors
    /// When the layer is damaged, hostile or another than `diff_id`, or the disk refuses; nothing is left then.
    pub fn unpack(&self, compressed: &mut dyn Read, diff_id: &Digest) -> Result<UnpackedLayer, LayerError> {
        let decompress = |source| LayerError::Decompress { diff_id: diff_id.clone(), source };
        let directory = TempDir::with_prefix_in("layer-", &self.unpacking)
            .map_err(LayerError::io("make a temporary directory in", &self.unpacking))?;
        let root = directory.path().join("root");
        fs::create_dir(&root).map_err(LayerError::io("make the directory", &root))?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755))
            .map_err(LayerError::io("set the mode of", &root))?;

        let decoded = decoder(compressed).map_err(decompress)?;
        let hashing = HashingReader { reader: decoded, hasher: Hasher::new() };
        let mut archive = TarReader::new(BufReader::with_capacity(128 << 10, hashing));
        let note = unpack(&mut archive, &root, self.limits)
            .map_err(|source| LayerError::Unpack { diff_id: diff_id.clone(), source })?;
        // What follows the archive's end belongs to the digest as well.
        let mut rest = archive.into_inner();
        io::copy(&mut rest, &mut io::sink()).map_err(decompress)?;
        let HashingReader { hasher, reader } = rest.into_inner();
        drop(reader);
        let actual = hasher.finish();
        if actual != *diff_id {
            return Err(LayerError::WrongDiffId { expected: diff_id.clone(), actual });
        }
        let path = directory.path().join("layer.json");
        serde_json::to_vec(&note)
            .map_err(io::Error::from)
            .and_then(|text| fs::write(&path, text))
            .map_err(LayerError::io("write", &path))?;
        Ok(UnpackedLayer { directory, diff_id: diff_id.clone() })
    }

    /// Makes an unpacked layer durable and gives it its name. If it came twice, the first stays.
    ///
    /// # Errors
    /// When it cannot be synced or renamed.
    pub fn publish(&self, layer: UnpackedLayer) -> Result<(), LayerError> {
        let source = layer.directory.path().to_owned();
        fs::File::open(&source)
            .and_then(|directory| nix::unistd::syncfs(&directory).map_err(io::Error::from))
            .map_err(LayerError::io("sync", &source))?;
        crash_point!("layer.unpacked");
        let target = self.layers.join(layer.diff_id.hex());
        match fs::rename(&source, &target) {
            Ok(()) => {
                // The temporary name is gone; there is nothing to remove any more.
                let _ = layer.directory.keep();
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => {
                // Whole, it is the same layer; damaged, it makes room.
                if !self.contains(&layer.diff_id) {
                    self.discard(&layer.diff_id)?;
                    fs::rename(&source, &target).map_err(LayerError::io("name", &target))?;
                    let _ = layer.directory.keep();
                }
            }
            Err(error) => return Err(LayerError::io("name", target)(error)),
        }
        crash_point!("layer.named");
        Ok(sync_directory(&self.layers)?)
    }

    /// Takes a layer's name away at once; `empty_trash` then frees what it held.
    ///
    /// # Errors
    /// When it cannot be renamed. A layer that is not here is no error.
    pub fn discard(&self, diff_id: &Digest) -> Result<(), LayerError> {
        let from = self.layers.join(diff_id.hex());
        let trash = TempDir::with_prefix_in("layer-", &self.trash)
            .map_err(LayerError::io("make a temporary directory in", &self.trash))?;
        match fs::rename(&from, trash.path()) {
            Ok(()) => {
                let _ = trash.keep();
                crash_point!("layer.discarded");
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(LayerError::io("discard", from)(error)),
        }
    }

    /// Frees what discarded layers hold.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn empty_trash(&self) -> Result<(), LayerError> {
        for entry in fs::read_dir(&self.trash).map_err(LayerError::io("list", &self.trash))? {
            let path = entry.map_err(LayerError::io("list", &self.trash))?.path();
            remove_tree(&path).map_err(LayerError::io("remove", &path))?;
        }
        Ok(())
    }
}

/// Hashes what is read through it.
struct HashingReader<R> {
    reader: R,
    hasher: Hasher,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

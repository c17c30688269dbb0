//! Blobs on disk, each under its digest. A blob is written to a temporary file in the same file system, hashed while it
//! is written, synced, and only then given its name: whatever has a name is whole, at whichever moment the process dies.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempPath};

use super::digest::{Digest, Hasher};
use crate::crash_point::crash_point;

/// Why content could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The file system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The file system's answer.
        source: io::Error,
    },
    /// The bytes are not those that were promised.
    #[error("content is {actual}, but {expected} was promised")]
    WrongDigest {
        /// What was promised.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// There is no such blob.
    #[error("there is no blob {0}")]
    Missing(Digest),
    /// A blob that is read into memory is larger than such a document may be.
    #[error("blob {digest} has {bytes} bytes, more than the {limit} that such a document may have")]
    TooLarge {
        /// Which.
        digest: Digest,
        /// How many it has.
        bytes: u64,
        /// How many it may have.
        limit: u64,
    },
}

impl ContentError {
    fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Whether the disk (or a quota) is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_disk_full(source))
    }
}

/// Whether this is the answer of a full disk or an exhausted quota.
#[must_use]
pub fn is_disk_full(error: &io::Error) -> bool {
    // By kind: errors of temporary files are wrapped and have no number.
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes what happened in this directory (names given and taken) durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), ContentError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(ContentError::io("sync the directory", path))
}

/// The blobs of one host: `blobs/sha256/<hex>`, and `ingest/` for those that are still coming.
#[derive(Debug, Clone)]
pub struct BlobStore {
    blobs: PathBuf,
    ingest: PathBuf,
}

/// A blob that is being written. Dropped without `commit`, it leaves nothing behind.
pub struct BlobWriter {
    file: NamedTempFile,
    hasher: Hasher,
}

/// A finished blob without a name. It keeps no file open, so there may be many. Dropped, it leaves nothing behind.
pub struct BlobAside {
    file: TempPath,
    digest: Digest,
    bytes: u64,
}

impl BlobAside {
    /// What it is.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Opens it for reading.
    ///
    /// # Errors
    /// When the temporary file cannot be opened again.
    pub fn open(&self) -> Result<File, ContentError> {
        File::open(&self.file).map_err(ContentError::io("open", self.file.to_path_buf()))
    }
}

impl BlobStore {
    /// Opens the store under `root`, makes its directories, and removes what dead processes left half written.
    /// Only one process may have a store open.
    ///
    /// # Errors
    /// When a directory cannot be made or cleared.
    pub fn open(root: &Path) -> Result<Self, ContentError> {
        let store = Self { blobs: root.join("blobs/sha256"), ingest: root.join("ingest") };
        if store.ingest.exists() {
            fs::remove_dir_all(&store.ingest).map_err(ContentError::io("clear", &store.ingest))?;
        }
        for directory in [&store.blobs, &store.ingest] {
            fs::create_dir_all(directory).map_err(ContentError::io("make the directory", directory))?;
        }
        sync_directory(root)?;
        Ok(store)
    }

    /// Where a blob is, or would be.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// Whether the blob is here; if it is, it is whole.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// The blob's length in bytes, where it is here.
    #[must_use]
    pub fn size_bytes(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|metadata| metadata.len())
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// When it is not here or cannot be opened.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, ContentError> {
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ContentError::Missing(digest.clone())),
            Err(error) => Err(ContentError::io("open", path)(error)),
        }
    }

    /// Reads a document (a manifest, a configuration) of at most `limit` bytes, and verifies it once more.
    ///
    /// # Errors
    /// When it is not here, is larger, or was damaged on disk.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ContentError> {
        let file = self.open_blob(digest)?;
        let path = self.path(digest);
        let bytes = file.metadata().map_err(ContentError::io("examine", &path))?.len();
        if bytes > limit {
            return Err(ContentError::TooLarge { digest: digest.clone(), bytes, limit });
        }
        let mut content = Vec::new();
        file.take(limit).read_to_end(&mut content).map_err(ContentError::io("read", &path))?;
        let actual = Digest::of(&content);
        if actual != *digest {
            return Err(ContentError::WrongDigest { expected: digest.clone(), actual });
        }
        Ok(content)
    }

    /// Starts a blob.
    ///
    /// # Errors
    /// When no temporary file can be made.
    pub fn writer(&self) -> Result<BlobWriter, ContentError> {
        let file = NamedTempFile::with_prefix_in("blob-", &self.ingest)
            .map_err(ContentError::io("make a temporary file in", &self.ingest))?;
        Ok(BlobWriter { file, hasher: Hasher::new() })
    }

    /// Stores a document that is in memory, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, content: &[u8]) -> Result<Digest, ContentError> {
        let digest = Digest::of(content);
        // One that was damaged on disk is written again.
        if self.read(&digest, content.len() as u64).is_err() {
            let mut writer = self.writer()?;
            let path = writer.file.path().to_owned();
            writer.write_all(content).map_err(ContentError::io("write", path))?;
            self.commit(writer, Some(&digest))?;
        }
        Ok(digest)
    }

    /// Gives a finished blob its name, durably. With `expected` it must be that content.
    ///
    /// # Errors
    /// When the content is another than expected, or cannot be synced or renamed.
    pub fn commit(&self, writer: BlobWriter, expected: Option<&Digest>) -> Result<Digest, ContentError> {
        self.commit_aside(writer.set_aside(), expected)
    }

    /// The same for a blob that was set aside.
    ///
    /// # Errors
    /// As `commit`.
    pub fn commit_aside(&self, blob: BlobAside, expected: Option<&Digest>) -> Result<Digest, ContentError> {
        let BlobAside { file, digest, .. } = blob;
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(ContentError::WrongDigest { expected: expected.clone(), actual: digest });
        }
        File::open(&file).and_then(|file| file.sync_all()).map_err(ContentError::io("sync", file.to_path_buf()))?;
        let path = self.path(&digest);
        crash_point!("blob.written");
        file.persist(&path).map_err(|error| ContentError::io("name", &path)(error.error))?;
        sync_directory(&self.blobs)?;
        crash_point!("blob.named");
        Ok(digest)
    }

    /// Removes a blob; one that is not here is no error.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self, digest: &Digest) -> Result<(), ContentError> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ContentError::io("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Every blob that is here.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<BTreeSet<Digest>, ContentError> {
        list_digests(&self.blobs)
    }
}

/// The digests that the names in a directory stand for; other names are left alone.
pub(crate) fn list_digests(directory: &Path) -> Result<BTreeSet<Digest>, ContentError> {
    let mut digests = BTreeSet::new();
    for entry in fs::read_dir(directory).map_err(ContentError::io("list", directory))? {
        let entry = entry.map_err(ContentError::io("list", directory))?;
        if let Some(digest) = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok()) {
            digests.insert(digest);
        }
    }
    Ok(digests)
}

impl BlobWriter {
    /// How many bytes were written so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.hasher.bytes()
    }

    /// Closes what was written, to be given its name later.
    #[must_use]
    pub fn set_aside(self) -> BlobAside {
        let bytes = self.hasher.bytes();
        BlobAside { file: self.file.into_temp_path(), digest: self.hasher.finish(), bytes }
    }

    /// The digest of what was written so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Opens what was written so far for reading, from its start.
    ///
    /// # Errors
    /// When the temporary file cannot be opened again.
    pub fn reopen(&self) -> Result<File, ContentError> {
        self.file.reopen().map_err(ContentError::io("open", self.file.path()))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_there_only_after_commit_and_only_if_it_is_what_was_promised() {
        let root = tempfile::tempdir().unwrap();
        let store = BlobStore::open(root.path()).unwrap();
        let mut writer = store.writer().unwrap();
        writer.write_all(b"hello").unwrap();
        let digest = Digest::of(b"hello");
        assert!(!store.contains(&digest));
        store.commit(writer, Some(&digest)).unwrap();
        assert_eq!(store.read(&digest, 5).unwrap(), b"hello");
        assert!(matches!(store.read(&digest, 4), Err(ContentError::TooLarge { bytes: 5, limit: 4, .. })));

        let mut writer = store.writer().unwrap();
        writer.write_all(b"other").unwrap();
        assert!(matches!(store.commit(writer, Some(&digest)), Err(ContentError::WrongDigest { .. })));
        assert_eq!(store.list().unwrap(), BTreeSet::from([digest.clone()]));
        assert_eq!(fs::read_dir(root.path().join("ingest")).unwrap().count(), 0);

        store.remove(&digest).unwrap();
        store.remove(&digest).unwrap();
        assert!(matches!(store.read(&digest, 5), Err(ContentError::Missing(_))));
    }

    #[test]
    fn opening_removes_what_a_dead_process_left() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("ingest/half")).unwrap();
        fs::write(root.path().join("ingest/half/file"), b"x").unwrap();
        let store = BlobStore::open(root.path()).unwrap();
        assert_eq!(fs::read_dir(root.path().join("ingest")).unwrap().count(), 0);
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn damage_on_disk_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let store = BlobStore::open(root.path()).unwrap();
        let digest = store.put(b"whole").unwrap();
        fs::write(store.path(&digest), b"whale").unwrap();
        assert!(matches!(store.read(&digest, 100), Err(ContentError::WrongDigest { .. })));
        store.put(b"whole").unwrap();
        assert_eq!(store.read(&digest, 100).unwrap(), b"whole");
    }
}

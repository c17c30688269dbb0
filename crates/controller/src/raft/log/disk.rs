//! What the log needs of a disk, and the host's.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Numbered files of one directory. Nothing that is written counts as kept before `sync` (its content) and
/// `sync_directory` (that it exists, or no longer) have returned.
pub trait Disk: Send + Sync + 'static {
    /// The numbers of the files that there are, ascending.
    ///
    /// # Errors
    /// The directory cannot be read.
    fn list(&self) -> io::Result<Vec<u64>>;
    /// Makes an empty file that was not there.
    ///
    /// # Errors
    /// It exists, or cannot be made.
    fn create(&self, number: u64) -> io::Result<()>;
    /// All of a file.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(&self, number: u64) -> io::Result<Vec<u8>>;
    /// Exactly `buffer.len()` bytes from `offset`.
    ///
    /// # Errors
    /// There are not so many, or they cannot be read.
    fn read_at(&self, number: u64, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes there, growing the file where needed.
    ///
    /// # Errors
    /// They cannot be written.
    fn write_at(&self, number: u64, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Returns when the file's content is on the disk.
    ///
    /// # Errors
    /// It is not known what is on the disk: the caller must stop.
    fn sync(&self, number: u64) -> io::Result<()>;
    /// Returns when creations and removals are on the disk.
    ///
    /// # Errors
    /// It is not known what is on the disk: the caller must stop.
    fn sync_directory(&self) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// It cannot be removed.
    fn remove(&self, number: u64) -> io::Result<()>;
}

/// Files `00000000000000000001.log` of a directory of the host, readable by root alone.
#[derive(Debug)]
pub struct HostDisk {
    directory: PathBuf,
    open: Mutex<HashMap<u64, Arc<File>>>,
}

impl HostDisk {
    /// In this directory, which must exist.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), open: Mutex::new(HashMap::new()) }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:020}.log"))
    }

    fn file(&self, number: u64) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&number) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(self.path(number))?);
        open.insert(number, Arc::clone(&file));
        Ok(file)
    }
}

impl Disk for HostDisk {
    fn list(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let number: Option<u64> =
                name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|stem| stem.parse().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn create(&self, number: u64) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.path(number))?;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(file));
        Ok(())
    }

    fn read(&self, number: u64) -> io::Result<Vec<u8>> {
        std::fs::read(self.path(number))
    }

    fn read_at(&self, number: u64, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file(number)?.read_exact_at(buffer, offset)
    }

    fn write_at(&self, number: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(number)?.write_all_at(bytes, offset)
    }

    fn sync(&self, number: u64) -> io::Result<()> {
        self.file(number)?.sync_data()
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        std::fs::remove_file(self.path(number))
    }
}

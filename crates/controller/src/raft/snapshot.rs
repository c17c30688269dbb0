//! Snapshots as files: `TERM-LEADER-INDEX.snapshot` in one directory, written beside, synced and renamed, so that a file
//! with that name is always whole.
//!
//! A file: one line of JSON (what Raft must know, the length and CRC-32 of the body), then the body.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::types::SnapshotMeta;

const SUFFIX: &str = ".snapshot";
const TEMPORARY: &str = ".partial";
/// A first line longer than this is not ours.
const MAX_HEADER: usize = 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Header {
    meta: SnapshotMeta,
    length: u64,
    crc32: u32,
}

/// A snapshot on the disk. It can be read even when a newer one has replaced it meanwhile.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    file: Arc<File>,
    path: PathBuf,
}

impl SnapshotFile {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: Arc::new(File::open(path)?), path: path.to_owned() })
    }

    /// Where it is, or was.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All bytes of the file, to be sent to another controller.
    ///
    /// # Errors
    /// When it cannot be opened anew.
    pub fn reader(&self) -> io::Result<File> {
        // Through /proc a file can be opened again, with an offset of its own, also when its name is gone.
        use std::os::fd::AsRawFd;
        File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// What Raft must know of it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_meta(&self) -> io::Result<SnapshotMeta> {
        read_header(&mut io::BufReader::new(self.reader()?)).map(|header| header.meta)
    }

    /// All of it.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was written.
    pub fn read(&self) -> io::Result<(SnapshotMeta, Vec<u8>)> {
        let mut reader = io::BufReader::new(self.reader()?);
        let header = read_header(&mut reader)?;
        let mut body = Vec::new();
        reader.read_to_end(&mut body)?;
        if body.len() as u64 != header.length || crc32fast::hash(&body) != header.crc32 {
            return Err(damaged(&self.path, "its body is not what was written"));
        }
        Ok((header.meta, body))
    }
}

fn damaged(path: &Path, reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot {} is damaged: {reason}", path.display()))
}

fn read_header(reader: &mut impl io::BufRead) -> io::Result<Header> {
    let mut line = Vec::new();
    io::BufRead::read_until(&mut reader.take(MAX_HEADER as u64), b'\n', &mut line)?;
    serde_json::from_slice(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Makes the directory, and removes what a crash left half-written.
pub(super) fn prepare(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(TEMPORARY) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Term, leader and index of the last entry: the order of snapshots.
type Position = (u64, u64, u64);

fn position(name: &str) -> Option<Position> {
    let mut parts = name.strip_suffix(SUFFIX)?.split('-').map(str::parse);
    let position = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    parts.next().is_none().then_some(position)
}

fn name(meta: &SnapshotMeta) -> String {
    let (term, leader, index) =
        meta.last_log_id.map_or((0, 0, 0), |id| (id.leader_id.term, id.leader_id.node_id, id.index));
    format!("{term:020}-{leader:020}-{index:020}{SUFFIX}")
}

fn all(directory: &Path) -> io::Result<Vec<(Position, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if let Some(position) = entry.file_name().to_str().and_then(position) {
            found.push((position, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest one.
pub(super) fn latest(directory: &Path) -> io::Result<Option<SnapshotFile>> {
    // A newer one may replace the one found before it is opened; then look again.
    for _ in 0..10 {
        let Some((_, path)) = all(directory)?.pop() else { return Ok(None) };
        match SnapshotFile::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result.map(Some),
        }
    }
    Err(io::Error::other(format!("snapshots in {} vanish while they are opened", directory.display())))
}

/// A new file beside the snapshots, to be filled and kept.
pub(super) fn temporary(directory: &Path) -> io::Result<(File, PathBuf)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let path = directory.join(format!("{}-{number}{TEMPORARY}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    Ok((file, path))
}

/// Writes a snapshot and makes it the newest one.
pub(super) fn write(directory: &Path, meta: &SnapshotMeta, body: &[u8]) -> io::Result<SnapshotFile> {
    let (mut file, path) = temporary(directory)?;
    let header = Header { meta: meta.clone(), length: body.len() as u64, crc32: crc32fast::hash(body) };
    let mut line = serde_json::to_vec(&header)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.write_all(body)?;
    file.sync_all()?;
    rename(directory, meta, &path)
}

/// Makes a snapshot that was received the newest one.
pub(super) fn keep(directory: &Path, meta: &SnapshotMeta, snapshot: &SnapshotFile) -> io::Result<()> {
    if snapshot.path == directory.join(name(meta)) {
        return Ok(());
    }
    let (mut file, path) = temporary(directory)?;
    let mut source = snapshot.reader()?;
    source.rewind()?;
    io::copy(&mut source, &mut file)?;
    file.sync_all()?;
    rename(directory, meta, &path)?;
    Ok(())
}

/// Gives a synced file its name, and removes the older ones.
fn rename(directory: &Path, meta: &SnapshotMeta, path: &Path) -> io::Result<SnapshotFile> {
    let target = directory.join(name(meta));
    std::fs::rename(path, &target)?;
    File::open(directory)?.sync_all()?;
    let snapshot = SnapshotFile::open(&target)?;
    for (_, older) in all(directory)?.into_iter().filter(|(_, path)| *path < target) {
        std::fs::remove_file(older)?;
    }
    Ok(snapshot)
}

/// Takes up a file that was received in full: checks it and answers what it is a snapshot of.
pub(super) fn received(path: &Path) -> io::Result<(SnapshotMeta, SnapshotFile)> {
    let file = SnapshotFile::open(path)?;
    let (meta, _) = file.read()?;
    Ok((meta, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_found_and_a_damaged_one_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path()).unwrap();
        assert!(latest(directory.path()).unwrap().is_none());
        let meta = |index| SnapshotMeta {
            last_log_id: Some(openraft::LogId {
                leader_id: openraft::impls::leader_id_adv::LeaderId { term: 3, node_id: 9 },
                index,
            }),
            ..SnapshotMeta::default()
        };
        let first = write(directory.path(), &meta(9), b"nine").unwrap();
        write(directory.path(), &meta(10), b"ten").unwrap();
        std::fs::write(directory.path().join("1-1.partial"), b"half").unwrap();
        prepare(directory.path()).unwrap();
        let found = latest(directory.path()).unwrap().unwrap();
        assert_eq!(found.read().unwrap(), (meta(10), b"ten".to_vec()));
        assert_eq!(first.read().unwrap().1, b"nine", "one that was replaced can still be sent");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);

        let mut bytes = std::fs::read(found.path()).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(found.path(), bytes).unwrap();
        let error = latest(directory.path()).unwrap().unwrap().read().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

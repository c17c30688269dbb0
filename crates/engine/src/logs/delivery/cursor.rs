//! How far a log was sent, on disk, so that the next process goes on from there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::logs::message::UnderWay;

/// The name of the file, beside the directory of the log.
pub const FILE: &str = "shipped.json";

/// How far a log was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The number of the file that comes next.
    pub file: u64,
    /// The place in it.
    pub offset: u64,
    /// Long lines that were begun before it.
    #[serde(default)]
    pub under_way: UnderWay,
    /// What was never sent.
    #[serde(default)]
    pub lost: Lost,
}

/// What was never sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Files of the log that were rotated away before they were read to their end.
    #[serde(default)]
    pub files: u64,
    /// Lines that were given up: after as many attempts as were allowed, or because the driver has no form for them.
    #[serde(default)]
    pub lines: u64,
}

/// Where a cursor is kept.
#[derive(Debug, Clone)]
pub struct CursorFile {
    path: PathBuf,
}

impl CursorFile {
    /// In a container's directory.
    pub fn new(directory: &Path) -> Self {
        Self { path: directory.join(FILE) }
    }

    /// `None` when nothing was sent yet.
    ///
    /// # Errors
    /// When it cannot be read: everything is then sent again, which is better than nothing of it.
    pub fn load(&self) -> io::Result<Option<Cursor>> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts it in place of the one before. It is not synced: what a power cut takes is sent twice.
    pub fn save(&self, cursor: &Cursor) -> io::Result<()> {
        let partial = self.path.with_extension("partial");
        fs::write(&partial, serde_json::to_vec(cursor)?)?;
        fs::rename(&partial, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_there_again_and_a_damaged_one_is_told() {
        let place = tempfile::tempdir().unwrap();
        let file = CursorFile::new(place.path());
        assert_eq!(file.load().unwrap(), None);
        let lost = Lost { files: 1, lines: 2 };
        let cursor = Cursor { file: 3, offset: 70_000, lost, ..Cursor::default() };
        file.save(&cursor).unwrap();
        assert_eq!(file.load().unwrap(), Some(cursor));
        fs::write(place.path().join(FILE), "{").unwrap();
        assert!(file.load().is_err());
    }
}

//! The files of a container's log: appended to, followed by the next one when they are full, the oldest taken away.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use stack_shim::launch::LogFiles;
use stack_shim::log_record::{compressed_name, file_name, file_number, whole_records};

use crate::log_compression::Compressor;

/// Writes whole records to files.
pub struct FileWriter {
    files: LogFiles,
    open: Option<Open>,
    compressor: Compressor,
    /// Bytes of records that could not be written.
    pub lost: u64,
}

struct Open {
    file: File,
    number: u64,
    length: u64,
}

impl FileWriter {
    /// Nothing is opened yet.
    pub fn new(files: LogFiles) -> Self {
        Self { files, open: None, compressor: Compressor::default(), lost: 0 }
    }

    /// Writes records.
    pub fn write(&mut self, records: &[u8]) {
        if self.append(records).is_err() {
            // A full disk must not stop the container. What is lost is counted, and the next output tries again.
            self.lost = self.lost.saturating_add(u64::try_from(records.len()).unwrap_or(u64::MAX));
        }
    }

    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => open_last(&self.files.directory)?,
        };
        if open.length >= self.files.max_bytes {
            match open_next(&self.files, open.number) {
                Ok(next) => open = next,
                Err(error) => {
                    // Kept: to find the end of a file again costs reading all of it.
                    self.open = Some(open);
                    return Err(error);
                }
            }
            if self.files.compress {
                self.compressor.compress_before(&self.files.directory, open.number);
            }
        }
        match open.file.write_all(records) {
            Ok(()) => open.length = open.length.saturating_add(u64::try_from(records.len()).unwrap_or(0)),
            Err(error) => {
                // Part of it may be there. A file that cannot be cut is looked at anew.
                if open.file.set_len(open.length).is_ok() {
                    self.open = Some(open);
                }
                return Err(error);
            }
        }
        self.open = Some(open);
        Ok(())
    }

    /// Makes what was written durable, as far as the disk lets us, and leaves nobody at work on the files.
    pub fn finish(&mut self) {
        self.compressor.stop();
        if let Some(open) = &self.open {
            // There is nobody to tell; the records carry check sums.
            let _ = open.file.sync_data();
        }
    }
}

/// The numbers of the files that there are, in order.
pub fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let all: BTreeSet<u64> = fs::read_dir(directory)?
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str().and_then(file_number))
        .collect();
    Ok(all.into_iter().collect())
}

/// Opens the newest file for appending, without the torn record that a crash may have left at its end.
fn open_last(directory: &Path) -> io::Result<Open> {
    fs::create_dir_all(directory)?;
    let mut number = numbers(directory)?.last().copied().unwrap_or(1);
    if directory.join(compressed_name(number)).exists() {
        // Nothing is added to what was compressed.
        number += 1;
    }
    let path = directory.join(file_name(number));
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let whole = u64::try_from(whole_records(&bytes)).map_err(io::Error::other)?;
    if whole < u64::try_from(bytes.len()).map_err(io::Error::other)? {
        file.set_len(whole)?;
    }
    Ok(Open { file, number, length: whole })
}

/// Takes one file away, whichever names it has.
fn remove(directory: &Path, number: u64) -> io::Result<()> {
    for name in [file_name(number), compressed_name(number)] {
        match fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Goes on with the next file. The oldest go first: that may be what makes room for it.
fn open_next(files: &LogFiles, after: u64) -> io::Result<Open> {
    let number = after + 1;
    let all = numbers(&files.directory)?;
    let kept = usize::try_from(files.max_files.max(1)).unwrap_or(usize::MAX) - 1;
    let surplus = all.len().saturating_sub(kept.max(1));
    for old in &all[..surplus] {
        remove(&files.directory, *old)?;
    }
    let path = files.directory.join(file_name(number));
    let file = OpenOptions::new().append(true).create_new(true).open(path)?;
    if kept == 0 {
        // What stays goes at the next turn.
        let _ = remove(&files.directory, after);
    }
    Ok(Open { file, number, length: 0 })
}

#[cfg(test)]
#[path = "log_files_tests.rs"]
mod tests;

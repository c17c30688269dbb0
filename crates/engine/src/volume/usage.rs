//! How much of the disk a directory takes.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Bytes of the files below a directory, as they lie on its disk: each once, however many names it has, and nothing of other
/// file systems that are mounted there. What vanishes meanwhile is not counted.
pub fn bytes_below(directory: &Path) -> io::Result<u64> {
    let device = fs::symlink_metadata(directory)?.dev();
    let mut seen = HashSet::new();
    let mut folders = vec![directory.to_owned()];
    let mut total = 0_u64;
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != device {
                continue;
            }
            if metadata.nlink() == 1 || metadata.is_dir() || seen.insert(metadata.ino()) {
                total = total.saturating_add(metadata.blocks().saturating_mul(512));
            }
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(total)
}

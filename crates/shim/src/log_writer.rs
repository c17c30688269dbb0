//! Writes the container's output to its log files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use stack_shim::launch::LogFiles;
use stack_shim::log_record::{LONGEST_OUTPUT, Record, Stream, encode, file_name, file_number, whole_records};

/// The log of one container, or of none when output is discarded.
pub struct LogWriter {
    files: Option<LogFiles>,
    open: Option<Open>,
    batch: Vec<u8>,
    /// Bytes of output that could not be written.
    pub lost: u64,
}

struct Open {
    file: File,
    number: u64,
    length: u64,
}

impl LogWriter {
    /// Nothing is opened yet.
    pub fn new(files: Option<LogFiles>) -> Self {
        Self { files, open: None, batch: Vec::new(), lost: 0 }
    }

    /// Takes whole lines from the front of `pending`, and everything if the stream has ended, and writes them. A line
    /// that is too long goes in parts.
    pub fn take(&mut self, stream: Stream, pending: &mut Vec<u8>, ended: bool, time: u64) {
        if self.files.is_none() {
            pending.clear();
            return;
        }
        let mut taken = 0;
        loop {
            let rest = &pending[taken..];
            let window = &rest[..rest.len().min(LONGEST_OUTPUT)];
            let length = match window.iter().position(|&byte| byte == b'\n') {
                Some(end) => end + 1,
                None if window.len() == LONGEST_OUTPUT || (ended && !window.is_empty()) => window.len(),
                None => break,
            };
            encode(&Record { time, stream, output: &window[..length] }, &mut self.batch);
            taken += length;
            // So that no file is much longer than it may be, and memory stays small.
            if self.batch.len() >= 64 * 1024 {
                self.write();
            }
        }
        pending.drain(..taken);
        self.write();
        self.batch.shrink_to(64 * 1024);
    }

    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.append().is_err() {
            // A full disk must not stop the container. What is lost is counted, and the next output tries again.
            self.lost = self.lost.saturating_add(u64::try_from(self.batch.len()).unwrap_or(u64::MAX));
        }
        self.batch.clear();
    }

    fn append(&mut self) -> io::Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        let mut open = match self.open.take() {
            Some(open) => open,
            None => open_last(&files.directory)?,
        };
        if open.length >= files.max_bytes {
            match open_next(files, open.number) {
                Ok(next) => open = next,
                Err(error) => {
                    // Kept: to find the end of a file again costs reading all of it.
                    self.open = Some(open);
                    return Err(error);
                }
            }
        }
        match open.file.write_all(&self.batch) {
            Ok(()) => open.length = open.length.saturating_add(u64::try_from(self.batch.len()).unwrap_or(0)),
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

    /// Makes what was written durable, as far as the disk lets us.
    pub fn finish(&mut self) {
        if let Some(open) = &self.open {
            // There is nobody to tell; the records carry check sums.
            let _ = open.file.sync_data();
        }
    }
}

fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut all: Vec<u64> = fs::read_dir(directory)?
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str().and_then(file_number))
        .collect();
    all.sort_unstable();
    Ok(all)
}

/// Opens the newest file for appending, without the torn record that a crash may have left at its end.
fn open_last(directory: &Path) -> io::Result<Open> {
    fs::create_dir_all(directory)?;
    let number = numbers(directory)?.last().copied().unwrap_or(1);
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

/// Goes on with the next file. The oldest go first: that may be what makes room for it.
fn open_next(files: &LogFiles, after: u64) -> io::Result<Open> {
    let number = after + 1;
    let all = numbers(&files.directory)?;
    let kept = usize::try_from(files.max_files.max(1)).unwrap_or(usize::MAX) - 1;
    let surplus = all.len().saturating_sub(kept.max(1));
    for old in &all[..surplus] {
        fs::remove_file(files.directory.join(file_name(*old)))?;
    }
    let path = files.directory.join(file_name(number));
    let file = OpenOptions::new().append(true).create_new(true).open(path)?;
    if kept == 0 {
        // What stays goes at the next turn.
        let _ = fs::remove_file(files.directory.join(file_name(after)));
    }
    Ok(Open { file, number, length: 0 })
}

#[cfg(test)]
mod tests {
    use stack_shim::log_record::decode;

    use super::*;

    fn outputs(directory: &Path) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for number in numbers(directory).unwrap() {
            let bytes = fs::read(directory.join(file_name(number))).unwrap();
            let mut at = 0;
            while at < bytes.len() {
                let (record, length) = decode(&bytes[at..]).unwrap();
                all.push(record.output.to_vec());
                at += length;
            }
        }
        all
    }

    fn writer(directory: &Path, max_bytes: u64, max_files: u32) -> LogWriter {
        LogWriter::new(Some(LogFiles { directory: directory.to_owned(), max_bytes, max_files }))
    }

    #[test]
    fn lines_parts_and_the_rest_at_the_end() {
        let place = tempfile::tempdir().unwrap();
        let mut log = writer(place.path(), 1 << 20, 2);
        let mut pending = b"one\ntwo\xff\nthr".to_vec();
        log.take(Stream::Stdout, &mut pending, false, 1);
        assert_eq!(pending, b"thr");
        pending.extend(vec![b'x'; LONGEST_OUTPUT]);
        log.take(Stream::Stdout, &mut pending, false, 2);
        log.take(Stream::Stdout, &mut pending, true, 3);
        let all = outputs(place.path());
        assert_eq!(all[..2], [b"one\n".to_vec(), b"two\xff\n".to_vec()]);
        assert_eq!((all[2].len(), all[3].len()), (LONGEST_OUTPUT, 3));
    }

    #[test]
    fn old_files_go_and_the_newest_stay() {
        let place = tempfile::tempdir().unwrap();
        let mut log = writer(place.path(), 200, 3);
        for number in 0..100 {
            log.take(Stream::Stderr, &mut format!("line {number}\n").into_bytes(), false, number);
        }
        assert_eq!(numbers(place.path()).unwrap().len(), 3);
        assert_eq!(outputs(place.path()).last().unwrap(), b"line 99\n");
        assert_eq!(log.lost, 0);
    }

    #[test]
    fn a_torn_record_is_cut_off_when_writing_goes_on() {
        let place = tempfile::tempdir().unwrap();
        writer(place.path(), 1 << 20, 2).take(Stream::Stdout, &mut b"whole\n".to_vec(), false, 1);
        let path = place.path().join(file_name(1));
        let mut bytes = fs::read(&path).unwrap();
        let whole = bytes.clone();
        bytes.extend_from_slice(&whole[..whole.len() - 3]);
        fs::write(&path, &bytes).unwrap();
        writer(place.path(), 1 << 20, 2).take(Stream::Stdout, &mut b"next\n".to_vec(), false, 2);
        assert_eq!(outputs(place.path()), [b"whole\n".to_vec(), b"next\n".to_vec()]);
    }

    #[test]
    fn a_full_disk_loses_whole_lines_only_and_the_file_is_not_read_again() {
        let place = tempfile::tempdir().unwrap();
        let nothing: Option<&str> = None;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(nothing, place.path(), Some("tmpfs"), flags, Some("size=64k")).unwrap();
        let _mounted = Mounted(place.path());
        let mut log = writer(place.path(), 1 << 20, 2);
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        log.take(Stream::Stdout, &mut b"first\n".to_vec(), false, 1);
        while log.lost == 0 {
            log.take(Stream::Stdout, &mut line.clone(), false, 2);
        }
        let open = log.open.as_ref().expect("the file stays open");
        assert_eq!(open.length, fs::metadata(place.path().join(file_name(1))).unwrap().len());
        // Whole records alone, also while there is no room.
        let kept = outputs(place.path());
        assert!(kept.len() > 10 && kept[1..].iter().all(|output| *output == line), "{}", kept.len());
        // Room comes from elsewhere.
        let path = place.path().join(file_name(1));
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        log.open.as_mut().unwrap().length = 0;
        log.take(Stream::Stdout, &mut b"again\n".to_vec(), false, 3);
        assert_eq!(outputs(place.path()), [b"again\n".to_vec()]);
    }

    struct Mounted<'a>(&'a Path);

    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
        }
    }

    #[test]
    fn a_log_of_one_file_is_begun_anew() {
        let place = tempfile::tempdir().unwrap();
        let mut log = writer(place.path(), 200, 1);
        for number in 0..50 {
            log.take(Stream::Stderr, &mut format!("line {number}\n").into_bytes(), false, number);
        }
        assert_eq!(numbers(place.path()).unwrap().len(), 1);
        assert_eq!(outputs(place.path()).last().unwrap(), b"line 49\n");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_writing_goes_on_later() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("logs");
        fs::write(&directory, "in the way").unwrap();
        let mut log = writer(&directory, 1 << 20, 2);
        log.take(Stream::Stdout, &mut b"lost\n".to_vec(), false, 1);
        assert!(log.lost > 0);
        fs::remove_file(&directory).unwrap();
        log.take(Stream::Stdout, &mut b"kept\n".to_vec(), false, 2);
        assert_eq!(outputs(&directory), [b"kept\n".to_vec()]);
    }
}

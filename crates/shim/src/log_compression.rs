//! Compresses log files that are full, on a thread of its own, so that the container does not wait for it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use flate2::Compression;
use flate2::write::GzEncoder;
use stack_shim::log_record::{compressed_name, file_name};

use crate::log_files::numbers;

/// At most one thread that compresses.
#[derive(Default)]
pub struct Compressor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Compressor {
    /// Begins to compress the files before `number`. While that is under way already, the next call catches up.
    pub fn compress_before(&mut self, directory: &Path, number: u64) {
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let (directory, stop) = (directory.to_owned(), Arc::clone(&self.stop));
        let work = std::thread::Builder::new().name("stack-shim-gz".to_owned()).stack_size(256 * 1024);
        // A file that is not compressed is read as it is: a failure costs room on the disk, which the number of files bounds.
        self.thread = work.spawn(move || drop(compress_all(&directory, number, &stop))).ok();
    }

    /// Breaks off what is under way.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic: the program would have ended.
            let _ = thread.join();
        }
    }
}

fn partial(directory: &Path, number: u64) -> PathBuf {
    directory.join(compressed_name(number)).with_extension("gz.partial")
}

/// What an end in the middle left.
fn clear_up(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "partial") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn compress_all(directory: &Path, before: u64, stop: &AtomicBool) -> io::Result<()> {
    clear_up(directory)?;
    for number in numbers(directory)?.into_iter().filter(|&number| number < before) {
        let (plain, compressed) = (directory.join(file_name(number)), directory.join(compressed_name(number)));
        if !plain.exists() {
            continue;
        }
        // The compressed one is there only when it is whole, so an end between the two left both.
        if !compressed.exists() {
            let partial = partial(directory, number);
            let made = compress(&plain, &partial, stop).and_then(|whole| match whole {
                true => fs::rename(&partial, &compressed).map(|()| true),
                false => fs::remove_file(&partial).map(|()| false),
            });
            match made {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => {
                    // Full disks are where this fails, so nothing is left there.
                    let _ = fs::remove_file(&partial);
                    return Err(error);
                }
            }
        }
        // Also when it is to be broken off now: two files of one content would stay otherwise.
        match fs::remove_file(&plain) {
            // It was rotated away in the meantime, so that the other one must go, too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_file(&compressed).or_else(absent)?,
            done => done?,
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
    Ok(())
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// False when it was broken off.
fn compress(from: &Path, to: &Path, stop: &AtomicBool) -> io::Result<bool> {
    let mut from = File::open(from)?;
    let mut to = GzEncoder::new(File::create(to)?, Compression::fast());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    to.finish()?.sync_data()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut all: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    #[test]
    fn full_files_are_compressed_and_the_rest_of_an_earlier_end_is_cleared_up() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        for number in 1..=4 {
            fs::write(path(&file_name(number)), format!("what is in {number}").repeat(1000)).unwrap();
        }
        // An end before the plain file was removed, and one in the middle.
        compress(&path(&file_name(1)), &path(&compressed_name(1)), &AtomicBool::new(false)).unwrap();
        fs::write(partial(place.path(), 2), "half").unwrap();
        fs::write(partial(place.path(), 0), "of a file that is gone").unwrap();
        compress_all(place.path(), 4, &AtomicBool::new(false)).unwrap();
        let expected = ["0000000001.log.gz", "0000000002.log.gz", "0000000003.log.gz", "0000000004.log"];
        assert_eq!(names(place.path()), expected);
        for number in 1..=3 {
            let mut text = String::new();
            let file = File::open(path(&compressed_name(number))).unwrap();
            GzDecoder::new(file).read_to_string(&mut text).unwrap();
            assert_eq!(text, format!("what is in {number}").repeat(1000));
        }
    }

    #[test]
    fn what_is_broken_off_leaves_the_file_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join(file_name(1)), "kept").unwrap();
        compress_all(place.path(), 2, &AtomicBool::new(true)).unwrap();
        assert_eq!(names(place.path()), ["0000000001.log"]);
        // What is whole already takes the place of the other even then.
        fs::write(place.path().join(compressed_name(1)), "whole").unwrap();
        compress_all(place.path(), 2, &AtomicBool::new(true)).unwrap();
        assert_eq!(names(place.path()), ["0000000001.log.gz"]);
    }
}

//! Takes the container's output as records to its log files: at once, or by way of a queue where a slow disk must not make
//! the container wait.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use stack_shim::launch::LogFiles;
use stack_shim::log_record::{LONGEST_OUTPUT, Record, Stream, encode};

use crate::log_files::FileWriter;

/// At most so many bytes of records are written at a time, so that memory stays small.
const BATCH: usize = 64 * 1024;

/// The log of one container, or of none when output is discarded.
pub struct LogWriter {
    sink: Sink,
    batch: Vec<u8>,
    /// No more is written at a time than a file may have, so that no file is more than twice as long.
    most: usize,
}

enum Sink {
    Nowhere,
    Files(Box<FileWriter>),
    Queue(Queue),
}

impl LogWriter {
    /// Nothing is opened yet.
    pub fn new(files: Option<LogFiles>) -> Self {
        let most = files.as_ref().and_then(|files| usize::try_from(files.max_bytes).ok()).unwrap_or(BATCH).min(BATCH);
        let sink = match files {
            None => Sink::Nowhere,
            Some(files) => match files.buffer_bytes {
                None => Sink::Files(Box::new(FileWriter::new(files))),
                Some(limit) => Sink::Queue(Queue::new(files, limit)),
            },
        };
        Self { sink, batch: Vec::new(), most }
    }

    /// Takes whole lines from the front of `pending`, and everything if the stream has ended, and writes them. A line
    /// that is too long goes in parts.
    pub fn take(&mut self, stream: Stream, pending: &mut Vec<u8>, ended: bool, time: u64) {
        if matches!(self.sink, Sink::Nowhere) {
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
            if self.batch.len() >= self.most {
                self.write();
            }
        }
        pending.drain(..taken);
        self.write();
        self.batch.shrink_to(BATCH);
    }

    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        match &mut self.sink {
            Sink::Nowhere => {}
            Sink::Files(files) => files.write(&self.batch),
            Sink::Queue(queue) => queue.push(&self.batch),
        }
        self.batch.clear();
    }

    /// Waits until everything is in the file system, and says how many bytes of records could not be written.
    pub fn settle(&mut self) -> u64 {
        match &mut self.sink {
            Sink::Nowhere => 0,
            Sink::Files(files) => files.lost,
            Sink::Queue(queue) => queue.settle(),
        }
    }

    /// Makes what was written durable, as far as the disk lets us.
    pub fn finish(&mut self) {
        match &mut self.sink {
            Sink::Nowhere => {}
            Sink::Files(files) => files.finish(),
            Sink::Queue(queue) => queue.finish(),
        }
    }
}

/// Records that wait for the disk, and the thread that writes them.
struct Queue {
    shared: Arc<Shared>,
    limit: u64,
    /// Taken along by the thread, which is begun with the first output: a shim makes its container before it has threads.
    files: Option<LogFiles>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    batches: VecDeque<Vec<u8>>,
    bytes: u64,
    /// The thread has taken a batch that is not written yet.
    busy: bool,
    closed: bool,
    /// Bytes of records that found no room or could not be written.
    lost: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

impl Queue {
    fn new(files: LogFiles, limit: u64) -> Self {
        Self { shared: Arc::default(), limit, files: Some(files), thread: None }
    }

    fn push(&mut self, records: &[u8]) {
        if let Some(files) = self.files.take() {
            match write_behind(files.clone(), Arc::clone(&self.shared)) {
                Ok(thread) => self.thread = Some(thread),
                // No thread can be had now: what comes is lost until one can.
                Err(_) => self.files = Some(files),
            }
        }
        let mut waiting = self.shared.lock();
        let size = length(records);
        // One batch is always taken, however small the room is: as Docker does it.
        if self.thread.is_none() || (waiting.bytes > 0 && waiting.bytes.saturating_add(size) > self.limit) {
            waiting.lost = waiting.lost.saturating_add(size);
            return;
        }
        waiting.bytes += size;
        waiting.batches.push_back(records.to_vec());
        self.shared.changed.notify_all();
    }

    fn settle(&mut self) -> u64 {
        let mut waiting = self.shared.lock();
        while self.thread.is_some() && (waiting.busy || !waiting.batches.is_empty()) {
            waiting = self.shared.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.lost
    }

    fn finish(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It does not panic: the program would have ended.
            let _ = thread.join();
        }
    }
}

fn write_behind(files: LogFiles, shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("stack-shim-log".to_owned()).stack_size(256 * 1024).spawn(move || {
        let mut files = FileWriter::new(files);
        let mut waiting = shared.lock();
        loop {
            match waiting.batches.pop_front() {
                Some(batch) => {
                    waiting.busy = true;
                    drop(waiting);
                    let before = files.lost;
                    files.write(&batch);
                    waiting = shared.lock();
                    waiting.bytes = waiting.bytes.saturating_sub(length(&batch));
                    waiting.busy = false;
                    waiting.lost = waiting.lost.saturating_add(files.lost - before);
                    shared.changed.notify_all();
                }
                None if waiting.closed => break,
                None => waiting = shared.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            }
        }
        drop(waiting);
        files.finish();
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use stack_shim::log_record::{decode, file_name};

    use super::*;

    fn outputs(directory: &Path) -> Vec<Vec<u8>> {
        let bytes = fs::read(directory.join(file_name(1))).unwrap_or_default();
        let (mut all, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let (record, length) = decode(&bytes[at..]).unwrap();
            all.push(record.output.to_vec());
            at += length;
        }
        all
    }

    fn files(directory: &Path, buffer_bytes: Option<u64>) -> LogFiles {
        LogFiles { directory: directory.to_owned(), max_bytes: 1 << 20, max_files: 2, compress: false, buffer_bytes }
    }

    #[test]
    fn lines_parts_and_the_rest_at_the_end() {
        let place = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(Some(files(place.path(), None)));
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
    fn no_file_is_much_longer_than_it_may_be_though_much_comes_at_once() {
        let place = tempfile::tempdir().unwrap();
        let files = LogFiles { max_bytes: 1000, max_files: 1000, ..files(place.path(), None) };
        LogWriter::new(Some(files)).take(Stream::Stdout, &mut b"a line\n".repeat(10_000), false, 1);
        let lengths: Vec<u64> =
            fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(lengths.iter().sum::<u64>(), 28 * 10_000);
        assert!(lengths.iter().all(|length| *length <= 2100), "{lengths:?}");
    }

    #[test]
    fn a_queue_writes_everything_in_order_before_it_is_settled() {
        let place = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(Some(files(place.path(), Some(1 << 20))));
        for number in 0..500 {
            log.take(Stream::Stdout, &mut format!("line {number}\n").into_bytes(), false, number);
        }
        assert_eq!(log.settle(), 0);
        let expected: Vec<Vec<u8>> = (0..500).map(|number| format!("line {number}\n").into_bytes()).collect();
        assert_eq!(outputs(place.path()), expected);
        log.finish();
    }

    #[test]
    fn what_a_full_queue_has_no_room_for_is_lost_and_counted() {
        let place = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(Some(files(place.path(), Some(100))));
        let Sink::Queue(queue) = &mut log.sink else { panic!("it has a queue") };
        // A thread that does not get to write.
        let files = queue.files.take().unwrap();
        queue.thread = Some(std::thread::spawn(|| ()));
        for number in 0..10 {
            log.take(Stream::Stdout, &mut format!("a line that is long, {number}\n").into_bytes(), false, number);
        }
        let Sink::Queue(queue) = &mut log.sink else { panic!("it has a queue") };
        let size = length(b"a line that is long, 0\n") + 21;
        assert_eq!(queue.shared.lock().lost, 8 * size, "there was room for two");
        queue.thread = Some(write_behind(files, Arc::clone(&queue.shared)).unwrap());
        assert_eq!(log.settle(), 8 * size);
        assert_eq!(outputs(place.path()), [b"a line that is long, 0\n", b"a line that is long, 1\n"]);
        log.finish();
    }
}

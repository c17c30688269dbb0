//! Tests of the log files.

use stack_shim::log_record::{Record, Stream, decode, encode};

use super::*;

fn text(directory: &Path, number: u64) -> Vec<u8> {
    match File::open(directory.join(compressed_name(number))) {
        Ok(file) => {
            let mut bytes = Vec::new();
            flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
            bytes
        }
        Err(_) => fs::read(directory.join(file_name(number))).unwrap(),
    }
}

fn outputs(directory: &Path) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for number in numbers(directory).unwrap() {
        let bytes = text(directory, number);
        let mut at = 0;
        while at < bytes.len() {
            let (record, length) = decode(&bytes[at..]).unwrap();
            all.push(record.output.to_vec());
            at += length;
        }
    }
    all
}

fn writer(directory: &Path, max_bytes: u64, max_files: u32) -> FileWriter {
    let directory = directory.to_owned();
    FileWriter::new(LogFiles { directory, max_bytes, max_files, compress: false, buffer_bytes: None })
}

fn write(log: &mut FileWriter, output: &[u8]) {
    let mut records = Vec::new();
    encode(&Record { time: 1, stream: Stream::Stdout, output }, &mut records);
    log.write(&records);
}

#[test]
fn old_files_go_and_the_newest_stay() {
    let place = tempfile::tempdir().unwrap();
    let mut log = writer(place.path(), 200, 3);
    for number in 0..100 {
        write(&mut log, format!("line {number}\n").as_bytes());
    }
    assert_eq!(numbers(place.path()).unwrap().len(), 3);
    assert_eq!(outputs(place.path()).last().unwrap(), b"line 99\n");
    assert_eq!(log.lost, 0);
}

#[test]
fn rotated_files_are_compressed_counted_once_and_taken_away_like_others() {
    let place = tempfile::tempdir().unwrap();
    let mut log = writer(place.path(), 2000, 3);
    log.files.compress = true;
    for number in 0..1000 {
        write(&mut log, format!("line {number}\n").as_bytes());
        // One more is there for a moment when it was rotated away while it was being compressed.
        assert!(numbers(place.path()).unwrap().len() <= 4);
    }
    log.finish();
    // What a thread was too late for is compressed with the next file.
    let mut log = writer(place.path(), 2000, 3);
    log.files.compress = true;
    let mut number = 1000;
    let newest = |directory: &Path| *numbers(directory).unwrap().last().unwrap();
    let before = newest(place.path());
    while newest(place.path()) == before {
        write(&mut log, format!("line {number}\n").as_bytes());
        number += 1;
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while place.path().join(file_name(before)).exists() {
        assert!(std::time::Instant::now() < deadline, "it is never compressed");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    log.finish();
    let all = outputs(place.path());
    let first: usize = String::from_utf8(all[0].clone()).unwrap().trim()[5..].parse().unwrap();
    let expected: Vec<Vec<u8>> = (first..number).map(|number| format!("line {number}\n").into_bytes()).collect();
    assert_eq!(all, expected, "no line twice and none missing");
    // A container that is started again does not write to a compressed file.
    fs::remove_file(place.path().join(file_name(newest(place.path())))).unwrap();
    let compressed = newest(place.path());
    let mut log = writer(place.path(), 2000, 3);
    write(&mut log, b"again\n");
    assert_eq!(newest(place.path()), compressed + 1);
}

#[test]
fn a_torn_record_is_cut_off_when_writing_goes_on() {
    let place = tempfile::tempdir().unwrap();
    write(&mut writer(place.path(), 1 << 20, 2), b"whole\n");
    let path = place.path().join(file_name(1));
    let mut bytes = fs::read(&path).unwrap();
    let whole = bytes.clone();
    bytes.extend_from_slice(&whole[..whole.len() - 3]);
    fs::write(&path, &bytes).unwrap();
    write(&mut writer(place.path(), 1 << 20, 2), b"next\n");
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
    write(&mut log, b"first\n");
    while log.lost == 0 {
        write(&mut log, &line);
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
    write(&mut log, b"again\n");
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
        write(&mut log, format!("line {number}\n").as_bytes());
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
    write(&mut log, b"lost\n");
    assert!(log.lost > 0);
    fs::remove_file(&directory).unwrap();
    write(&mut log, b"kept\n");
    assert_eq!(outputs(&directory), [b"kept\n".to_vec()]);
}

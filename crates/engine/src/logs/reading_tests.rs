//! Tests of reading logs.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use stack_shim::log_record::{LONGEST_OUTPUT, Record, compressed_name, encode, file_name};
use tokio_stream::StreamExt;

use super::*;

fn write(directory: &Path, number: u64, lines: std::ops::Range<u64>) {
    let mut bytes = Vec::new();
    for line in lines {
        let text = format!("line {line}\n");
        encode(&Record { time: line, stream: Source::Stdout, output: text.as_bytes() }, &mut bytes);
    }
    let path = directory.join(file_name(number));
    fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(&bytes).unwrap();
}

async fn times(directory: &Path, query: LogQuery) -> Vec<u64> {
    let (_sender, running) = watch::channel(false);
    read(directory.to_owned(), query, running, None).map(|record| record.unwrap().time).collect().await
}

#[tokio::test]
async fn all_the_end_and_spans_of_time() {
    let place = tempfile::tempdir().unwrap();
    assert_eq!(times(&place.path().join("absent"), LogQuery::default()).await, Vec::<u64>::new());
    write(place.path(), 3, 0..10);
    write(place.path(), 4, 10..20);
    let query = LogQuery::default();
    assert_eq!(times(place.path(), query.clone()).await, (0..20).collect::<Vec<_>>());
    assert_eq!(times(place.path(), LogQuery { tail: Some(12), ..query.clone() }).await, (8..20).collect::<Vec<_>>());
    assert_eq!(times(place.path(), LogQuery { tail: Some(0), ..query.clone() }).await, Vec::<u64>::new());
    let span = LogQuery { since: Some(5), until: Some(11), ..query };
    assert_eq!(times(place.path(), span).await, (5..12).collect::<Vec<_>>());
}

#[tokio::test]
async fn following_loses_nothing_when_files_are_rotated_and_ends_with_the_container() {
    let place = tempfile::tempdir().unwrap();
    write(place.path(), 1, 0..5);
    let (sender, running) = watch::channel(true);
    let query = LogQuery { follow: true, tail: Some(2), ..LogQuery::default() };
    let mut stream = read(place.path().to_owned(), query, running, None);
    let mut seen = vec![stream.next().await.unwrap().unwrap().time];
    write(place.path(), 1, 5..7);
    write(place.path(), 2, 7..9);
    write(place.path(), 3, 9..12);
    while seen.last() != Some(&11) {
        seen.push(stream.next().await.unwrap().unwrap().time);
    }
    write(place.path(), 3, 12..13);
    sender.send(false).unwrap();
    while let Some(record) = stream.next().await {
        seen.push(record.unwrap().time);
    }
    assert_eq!(seen, (3..13).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_log_that_is_being_read_outlives_its_names() {
    let place = tempfile::tempdir().unwrap();
    write(place.path(), 1, 0..600);
    let (sender, running) = watch::channel(true);
    let lock = std::sync::Arc::new(tokio::sync::RwLock::new(()));
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let guard = std::sync::Arc::clone(&lock).try_read_owned().unwrap();
    let mut stream = read(place.path().to_owned(), query, running, Some(guard));
    assert_eq!(stream.next().await.unwrap().unwrap().time, 0);
    write(place.path(), 2, 600..601);
    write(place.path(), 3, 601..700);
    // Nobody takes more of it than was taken already.
    sender.send(false).unwrap();
    drop(lock.write().await);
    fs::remove_dir_all(place.path()).unwrap();
    let rest: Vec<u64> = stream.map(|record| record.unwrap().time).collect().await;
    assert_eq!(rest, (1..700).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_damaged_file_is_told_and_the_next_one_read() {
    let place = tempfile::tempdir().unwrap();
    write(place.path(), 1, 0..3);
    let path = place.path().join(file_name(1));
    let mut bytes = fs::read(&path).unwrap();
    bytes[12] = 0;
    fs::write(&path, bytes).unwrap();
    write(place.path(), 2, 3..4);
    let (_sender, running) = watch::channel(false);
    let all: Vec<_> = read(place.path().to_owned(), LogQuery::default(), running, None).collect().await;
    assert!(matches!(all[0], Err(LogError::Damaged { offset: 0, .. })));
    assert_eq!(all[1].as_ref().unwrap().time, 3);
}

/// Puts the compressed file in place of the plain one, as the shim does.
fn compress(directory: &Path, number: u64) {
    let plain = directory.join(file_name(number));
    let mut compressed = GzEncoder::new(Vec::new(), Compression::fast());
    compressed.write_all(&fs::read(&plain).unwrap()).unwrap();
    fs::write(directory.join(compressed_name(number)), compressed.finish().unwrap()).unwrap();
    fs::remove_file(plain).unwrap();
}

#[tokio::test]
async fn compressed_files_are_read_by_everybody_also_while_they_are_being_compressed() {
    let place = tempfile::tempdir().unwrap();
    write(place.path(), 1, 0..600);
    let (sender, running) = watch::channel(true);
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut stream = read(place.path().to_owned(), query, running, None);
    let mut seen = vec![stream.next().await.unwrap().unwrap().time];
    write(place.path(), 2, 600..700);
    compress(place.path(), 1);
    write(place.path(), 3, 700..800);
    compress(place.path(), 2);
    while seen.last() != Some(&799) {
        seen.push(stream.next().await.unwrap().unwrap().time);
    }
    sender.send(false).unwrap();
    assert!(stream.next().await.is_none());
    assert_eq!(seen, (0..800).collect::<Vec<_>>());
    let tail = LogQuery { tail: Some(150), ..LogQuery::default() };
    assert_eq!(times(place.path(), tail).await, (650..800).collect::<Vec<_>>());
    // Both are there for a moment: no line twice.
    write(place.path(), 2, 600..700);
    assert_eq!(times(place.path(), LogQuery::default()).await, (0..800).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_damaged_compressed_file_gives_what_is_whole_and_the_next_one_is_read() {
    let place = tempfile::tempdir().unwrap();
    write(place.path(), 1, 0..5000);
    compress(place.path(), 1);
    let path = place.path().join(compressed_name(1));
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    write(place.path(), 2, 5000..5001);
    fs::write(place.path().join(compressed_name(3)), "no gzip").unwrap();
    write(place.path(), 4, 5001..5002);
    for follow in [false, true] {
        let (_sender, running) = watch::channel(follow);
        let query = LogQuery { follow, ..LogQuery::default() };
        let stream = read(place.path().to_owned(), query, running, None);
        let until = |record: &Result<LogRecord, LogError>| !matches!(record, Ok(LogRecord { time: 5001, .. }));
        let all: Vec<_> = tokio_stream::StreamExt::take_while(stream, until).collect().await;
        let good: Vec<u64> = all.iter().filter_map(|record| record.as_ref().ok()).map(|record| record.time).collect();
        assert_eq!(good[..1000], (0..1000).collect::<Vec<_>>());
        assert_eq!(good.last(), Some(&5000));
        let damaged = all.iter().filter(|record| matches!(record, Err(LogError::Damaged { .. }))).count();
        assert_eq!(damaged, 2);
    }
}

/// What a container wrote: lines of any bytes, long ones in parts.
fn outputs() -> impl Strategy<Value = Vec<(bool, u64, Vec<u8>)>> {
    let text = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        (0..3 * LONGEST_OUTPUT).prop_map(|length| vec![b'x'; length]),
    ];
    proptest::collection::vec((any::<bool>(), 0u64..4, text), 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_query_gives_what_a_naive_reader_gives(
        outputs in outputs(),
        limit in 100usize..40_000,
        compressed in any::<u8>(),
        since in proptest::option::of(0u64..60),
        until in proptest::option::of(0u64..60),
        tail in proptest::option::of(0usize..50),
    ) {
        let place = tempfile::tempdir().unwrap();
        let (mut all, mut files, mut time) = (Vec::new(), vec![Vec::new()], 0);
        for (error, later, mut output) in outputs {
            output.push(b'\n');
            time += later;
            let source = if error { Source::Stderr } else { Source::Stdout };
            let mut rest = &output[..];
            while !rest.is_empty() {
                let window = &rest[..rest.len().min(LONGEST_OUTPUT)];
                let length = window.iter().position(|&byte| byte == b'\n').map_or(window.len(), |end| end + 1);
                if files.last().unwrap().len() >= limit {
                    files.push(Vec::new());
                }
                encode(&Record { time, stream: source, output: &rest[..length] }, files.last_mut().unwrap());
                let output = Bytes::copy_from_slice(&rest[..length]);
                all.push(LogRecord { time, source, partial: !output.ends_with(b"\n"), output });
                rest = &rest[length..];
            }
        }
        let newest = files.len();
        for (number, bytes) in (1..).zip(&files) {
            fs::write(place.path().join(file_name(number)), bytes).unwrap();
            if number < u64::try_from(newest).unwrap() && compressed & (1 << (number % 8)) != 0 {
                compress(place.path(), number);
            }
        }
        let last = all.len().saturating_sub(tail.unwrap_or(all.len()));
        let expected: Vec<LogRecord> = all[last..]
            .iter()
            .filter(|record| since.is_none_or(|since| record.time >= since))
            .filter(|record| until.is_none_or(|until| record.time <= until))
            .cloned()
            .collect();
        let query = LogQuery { follow: false, since, until, tail };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let found: Vec<LogRecord> = runtime.block_on(async {
            let (_sender, running) = watch::channel(false);
            read(place.path().to_owned(), query, running, None).map(Result::unwrap).collect().await
        });
        prop_assert_eq!(found, expected);
    }
}

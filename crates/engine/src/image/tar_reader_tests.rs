use proptest::prelude::*;

use super::*;

fn block(entry_type: EntryType, path: &str, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_path(path).unwrap();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_entry_type(entry_type);
    header.set_cksum();
    header
}

fn padded(archive: &mut Vec<u8>, data: &[u8]) {
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

fn with_records(records: &[Vec<u8>], header: &Header, data: &[u8]) -> Vec<u8> {
    let records = records.concat();
    let mut archive = block(EntryType::XHeader, "pax", records.len() as u64).as_bytes().to_vec();
    padded(&mut archive, &records);
    archive.extend_from_slice(header.as_bytes());
    padded(&mut archive, data);
    archive.extend_from_slice(&[0; 1024]);
    archive
}

fn only_entry(archive: &[u8]) -> (Entry, Vec<u8>) {
    let mut reader = TarReader::new(archive);
    let entry = reader.next_entry().unwrap().unwrap();
    let mut data = Vec::new();
    reader.read_to_end(&mut data).unwrap();
    assert!(reader.next_entry().unwrap().is_none());
    (entry, data)
}

#[test]
fn pax_records_override_the_header_and_hold_any_byte() {
    let capability = [1, 0, 0, 2, b'\n', b'=', 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = "d/".repeat(200) + "name";
    let archive = with_records(
        &[
            record("path", long.as_bytes()),
            record("mtime", b"1700000000.123456789"),
            record("uid", b"4000000000"),
            record("SCHILY.xattr.security.capability", &capability),
            record("size", b"3"),
        ],
        // A writer that cannot express the size in the header leaves another there.
        &block(EntryType::Regular, "short", 0),
        b"abc",
    );
    let (entry, data) = only_entry(&archive);
    assert_eq!(entry.path, long.as_bytes());
    assert_eq!(entry.modified, (1_700_000_000, 123_456_789));
    assert_eq!(entry.user, 4_000_000_000);
    assert_eq!(entry.attributes[b"security.capability".as_slice()], capability);
    assert_eq!((entry.size, data.as_slice()), (3, b"abc".as_slice()));
}

#[test]
fn gnu_long_names_and_links_are_read() {
    let mut builder = tar::Builder::new(Vec::new());
    let long = "x".repeat(300);
    let mut header = Header::new_gnu();
    header.set_size(0);
    header.set_entry_type(EntryType::Symlink);
    header.set_mode(0o777);
    builder.append_link(&mut header, &long, "y".repeat(400)).unwrap();
    let (entry, _) = only_entry(&builder.into_inner().unwrap());
    assert_eq!((entry.path, entry.link), (long.into_bytes(), "y".repeat(400).into_bytes()));
    assert_eq!(entry.kind, Kind::Symlink);
}

#[test]
fn the_three_pax_sparse_formats_give_the_same_map() {
    let data = b"AAAABB";
    let segments = vec![Segment { offset: 10, length: 4 }, Segment { offset: 100, length: 2 }];
    let zero = with_records(
        &[
            record("GNU.sparse.size", b"200"),
            record("GNU.sparse.numblocks", b"2"),
            record("GNU.sparse.offset", b"10"),
            record("GNU.sparse.numbytes", b"4"),
            record("GNU.sparse.offset", b"100"),
            record("GNU.sparse.numbytes", b"2"),
        ],
        &block(EntryType::Regular, "f", 6),
        data,
    );
    let one = with_records(
        &[record("GNU.sparse.size", b"200"), record("GNU.sparse.name", b"f"), record("GNU.sparse.map", b"10,4,100,2")],
        &block(EntryType::Regular, "GNUSparseFile.0/f", 6),
        data,
    );
    let mut in_data = Vec::new();
    padded(&mut in_data, b"2\n10\n4\n100\n2\n");
    in_data.extend_from_slice(data);
    let newest = with_records(
        &[
            record("GNU.sparse.major", b"1"),
            record("GNU.sparse.minor", b"0"),
            record("GNU.sparse.name", b"f"),
            record("GNU.sparse.realsize", b"200"),
        ],
        &block(EntryType::Regular, "GNUSparseFile.0/f", in_data.len() as u64),
        &in_data,
    );
    for archive in [zero, one, newest] {
        let (entry, read) = only_entry(&archive);
        assert_eq!((entry.path.as_slice(), entry.size, &read[..]), (b"f".as_slice(), 200, data.as_slice()));
        assert_eq!(entry.segments.as_ref(), Some(&segments));
    }
}

#[test]
fn a_gnu_sparse_map_continues_after_the_header() {
    let octal = |value: u64| {
        let mut field = [0; 12];
        field[..11].copy_from_slice(format!("{value:011o}").as_bytes());
        field
    };
    let mut header = Header::new_gnu();
    header.set_path("f").unwrap();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(6);
    header.set_mode(0o644);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.realsize = octal(1000);
    for index in 0..4 {
        gnu.sparse[index].offset = octal(index as u64 * 100);
        gnu.sparse[index].numbytes = octal(1);
    }
    gnu.isextended[0] = 1;
    header.set_cksum();
    let mut extension = tar::GnuExtSparseHeader::new();
    extension.sparse[0].offset = octal(400);
    extension.sparse[0].numbytes = octal(2);
    let mut archive = header.as_bytes().to_vec();
    archive.extend_from_slice(extension.as_bytes());
    padded(&mut archive, b"abcdef");
    archive.extend_from_slice(&[0; 1024]);
    let (entry, data) = only_entry(&archive);
    assert_eq!((entry.size, data.as_slice()), (1000, b"abcdef".as_slice()));
    assert_eq!(entry.segments.unwrap()[4], Segment { offset: 400, length: 2 });
}

#[test]
fn a_sparse_map_that_lies_is_refused() {
    for map in ["10,4,12,2", "100,6,10,0", "0,7", "199,6", "18446744073709551615,6", "10,4,100", "a,6"] {
        let archive = with_records(
            &[record("GNU.sparse.size", b"200"), record("GNU.sparse.map", map.as_bytes())],
            &block(EntryType::Regular, "f", 6),
            b"AAAABB",
        );
        let answer = TarReader::new(archive.as_slice()).next_entry();
        assert!(matches!(answer, Err(TarError::Malformed { .. })), "{map}: {answer:?}");
    }
}

#[test]
fn metadata_of_any_size_is_never_read_into_memory() {
    for entry_type in [EntryType::XHeader, EntryType::XGlobalHeader, EntryType::GNULongName, EntryType::GNULongLink] {
        let header = block(entry_type, "x", 1 << 33);
        let mut reader = TarReader::new(header.as_bytes().chain(io::repeat(0)));
        assert!(matches!(reader.next_entry(), Err(TarError::Malformed { .. })));
    }
}

#[test]
fn a_cut_archive_is_an_error_wherever_it_is_cut() {
    let archive = with_records(&[record("path", b"name")], &block(EntryType::Regular, "f", 600), &[7; 600]);
    for length in [100, 511, 513, 1024, 1100, 1600, 2300] {
        let mut reader = TarReader::new(&archive[..length]);
        let outcome = loop {
            match reader.next_entry() {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        assert!(outcome.is_err(), "cut at {length}");
    }
}

#[test]
fn times_before_1970_count_upwards() {
    assert_eq!(timestamp(b"-1.25"), Some((-2, 750_000_000)));
    assert_eq!(timestamp(b"-3"), Some((-3, 0)));
    assert_eq!(timestamp(b"5.0000000019"), Some((5, 1)));
    assert_eq!(timestamp(b"5.x"), None);
    assert_eq!(number(&[0xff; 12]), Some(-1));
    assert_eq!(number(b" 0000644 \0"), Some(0o644));
    assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]), Some(256));
}

proptest! {
    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..4096), fix in any::<bool>()) {
        if fix {
            // Give each block a valid checksum so that the parts behind it are reached.
            for block in bytes.chunks_exact_mut(512) {
                block[148..156].fill(b' ');
                block[124..136].copy_from_slice(b"00000000100\0");
                let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let mut reader = TarReader::new(bytes.as_slice());
        while let Ok(Some(_)) = reader.next_entry() {
            let _ = reader.read_to_end(&mut Vec::new());
        }
    }

    #[test]
    fn what_the_tar_crate_writes_is_read_back(
        names in prop::collection::btree_set("[a-z]{1,80}(/[a-z]{1,80}){0,3}", 1..6),
        data in prop::collection::vec(any::<u8>(), 0..1500),
    ) {
        let mut builder = tar::Builder::new(Vec::new());
        for name in &names {
            let mut header = Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_mode(0o4755);
            header.set_uid(1 << 24);
            header.set_mtime(77);
            builder.append_data(&mut header, name, data.as_slice()).unwrap();
        }
        let archive = builder.into_inner().unwrap();
        let mut reader = TarReader::new(archive.as_slice());
        for name in &names {
            let entry = reader.next_entry().unwrap().unwrap();
            prop_assert_eq!(&entry.path, name.as_bytes());
            prop_assert_eq!((entry.mode, entry.user, entry.modified), (0o4755, 1 << 24, (77, 0)));
            let mut read = Vec::new();
            reader.read_to_end(&mut read).unwrap();
            prop_assert_eq!(&read, &data);
        }
        prop_assert!(reader.next_entry().unwrap().is_none());
    }
}

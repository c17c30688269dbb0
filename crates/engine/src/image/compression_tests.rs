use std::io::Write as _;

use super::*;

const FORMS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstandard];

fn compressed(form: Compression, content: &[u8]) -> Vec<u8> {
    match form {
        Compression::None => content.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => xz(content, 1 << 20),
        Compression::Zstandard => zstd::encode_all(content, 1).unwrap(),
    }
}

fn xz(content: &[u8], dictionary: u32) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::with_preset(1);
    options.lzma_options.dict_size = dictionary;
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn plain(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    decoder(content)?.read_to_end(&mut plain)?;
    Ok(plain)
}

/// What the error and everything behind it say.
fn words(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.get_ref().and_then(|inner| inner.source());
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// Text that compresses, and bytes that do not.
fn sample() -> Vec<u8> {
    let mut sample: Vec<u8> = (0..400u32).flat_map(|line| format!("line {}\n", line % 7).into_bytes()).collect();
    let mut state = 7u32;
    sample.extend((0..600).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    }));
    sample
}

#[test]
fn every_form_is_told_by_its_first_bytes_and_read_back() {
    for content in [sample(), Vec::new(), b"x".to_vec()] {
        for form in FORMS {
            let there = compressed(form, &content);
            if form != Compression::None {
                assert_eq!(Compression::of(&there), form);
            }
            assert_eq!(plain(&there).unwrap(), content, "{form:?}");
        }
    }
    // Streams one after the other are one, as the tools of each form have it.
    for form in [Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstandard] {
        let mut twice = compressed(form, b"one ");
        twice.extend(compressed(form, b"two"));
        assert_eq!(plain(&twice).unwrap(), b"one two", "{form:?}");
    }
    for name in ["BZh9", "BZh", "BZ", "", "7zXZ"] {
        assert_eq!(Compression::of(format!("{name}\0\0\0\0\0").as_bytes()), Compression::None, "{name}");
    }
}

#[test]
fn what_is_cut_off_or_damaged_anywhere_is_told_and_breaks_nothing() {
    let content = sample();
    for form in [Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstandard] {
        let whole = compressed(form, &content);
        for length in MAGIC_LENGTH as usize..whole.len() {
            let error = plain(&whole[..length]).expect_err(&format!("{form:?} of {length} bytes"));
            assert!(words(&error).contains(form.name()), "{form:?} of {length} bytes: {}", words(&error));
        }
        let error = plain(&whole[..whole.len() / 2]).unwrap_err();
        assert_eq!(words(&error), format!("the {} stream is cut off: unexpected EOF", form.name()));
        for at in MAGIC_LENGTH as usize..whole.len() {
            for bit in [0x01, 0x10, 0x80] {
                let mut damaged = whole.clone();
                damaged[at] ^= bit;
                // Some bits mean nothing, as the time in a gzip stream, and Zstandard need not have a sum.
                if let Ok(other) = plain(&damaged) {
                    assert!(other == content || form == Compression::Zstandard, "{form:?} damaged at {at}");
                }
            }
        }
    }
}

#[test]
fn what_has_failed_is_not_asked_again() {
    let whole = compressed(Compression::Xz, &sample());
    let mut reader = decoder(&whole[..whole.len() - 5]).unwrap();
    let mut read = || io::copy(&mut reader, &mut io::sink()).unwrap_err().to_string();
    assert!(read().contains("unexpected EOF"));
    assert!(read().contains("failed before"));
}

#[test]
fn a_dictionary_beyond_the_limit_is_refused_before_it_is_made() {
    assert!(plain(&xz(b"small", 64 << 20)).is_ok());
    let mut greedy = xz(b"small", 1 << 20);
    // The size of the dictionary of the only filter of the first block's header, and the header's sum.
    let header = 12..12 + (usize::from(greedy[12]) + 1) * 4;
    let filter = greedy[header.clone()].windows(2).position(|pair| pair == [0x21, 0x01]).unwrap() + header.start;
    greedy[filter + 2] = 40;
    let sum = crc32(&greedy[header.start..header.end - 4]);
    greedy[header.end - 4..header.end].copy_from_slice(&sum.to_le_bytes());
    let error = plain(&greedy).unwrap_err();
    assert_eq!(
        words(&error),
        "the xz stream needs more memory than archives may take; compress it with a dictionary of at most 128 MiB"
    );
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[test]
fn a_bomb_is_a_stream_like_any_other() {
    for form in [Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstandard] {
        let bomb = compressed(form, &vec![0; 8 << 20]);
        assert!(bomb.len() < 128 << 10);
        assert_eq!(io::copy(&mut decoder(bomb.as_slice()).unwrap(), &mut io::sink()).unwrap(), 8 << 20);
    }
}

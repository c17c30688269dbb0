//! Pure. The format of log files, `local`: records of a 17-byte head, the output as it was, and its length again.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the output, little endian |
//! | 8 | nanoseconds since the Unix epoch, little endian |
//! | 1 | bits 0-1 the stream: 1 standard output, 2 standard error; bit 7 set in every record |
//! | 4 | check sum: FNV-1a of the twelve bytes before, the stream byte and the output |
//! | n | the output, at most 16 KiB, with its line end if it has one |
//! | 4 | length of the output again, so that a file can be read from its end |
//!
//! A file's name is its number, ten digits and `.log`; a full file is followed by the next number and never changes its number,
//! so whoever follows the log cannot lose its place. A file that is followed by another may be compressed: then it is the same
//! bytes by gzip, and its name ends with `.log.gz`. The compressed one is whole and durable before the other one goes.

/// Output without a line end is cut into records of this many bytes.
pub const LONGEST_OUTPUT: usize = 16 * 1024;
/// Bytes of a record before the output.
pub const HEAD: usize = 17;
/// Bytes of a record after the output.
pub const TAIL: usize = 4;

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, and both when there is a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One record: a line, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Nanoseconds since the Unix epoch.
    pub time: u64,
    /// Where it came from.
    pub stream: Stream,
    /// As it was written. The line goes on in the stream's next record if it does not end with a line end.
    pub output: &'a [u8],
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// There are too few of them: more may come.
    Short,
    /// They can never become one.
    Damaged,
}

fn check_sum(head: &[u8], output: &[u8]) -> u32 {
    head.iter().chain(output).fold(0x811c_9dc5, |sum, &byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Appends a record to `to`. `output` beyond [`LONGEST_OUTPUT`] is the caller's to cut.
pub fn encode(record: &Record<'_>, to: &mut Vec<u8>) {
    let output = &record.output[..record.output.len().min(LONGEST_OUTPUT)];
    let length = u32::try_from(output.len()).unwrap_or(0).to_le_bytes();
    let start = to.len();
    to.extend_from_slice(&length);
    to.extend_from_slice(&record.time.to_le_bytes());
    to.push(match record.stream {
        Stream::Stdout => 0x81,
        Stream::Stderr => 0x82,
    });
    let sum = check_sum(&to[start..], output);
    to.extend_from_slice(&sum.to_le_bytes());
    to.extend_from_slice(output);
    to.extend_from_slice(&length);
}

fn number(bytes: &[u8]) -> u32 {
    bytes.try_into().map(u32::from_le_bytes).unwrap_or(0)
}

/// The record that `bytes` start with, and how many bytes it takes.
///
/// # Errors
/// When they do not start with a whole record.
pub fn decode(bytes: &[u8]) -> Result<(Record<'_>, usize), Broken> {
    if bytes.len() < HEAD {
        return Err(Broken::Short);
    }
    let length = usize::try_from(number(&bytes[..4])).unwrap_or(usize::MAX);
    let stream = match bytes[12] {
        0x81 => Stream::Stdout,
        0x82 => Stream::Stderr,
        _ => return Err(Broken::Damaged),
    };
    if length > LONGEST_OUTPUT {
        return Err(Broken::Damaged);
    }
    let whole = HEAD + length + TAIL;
    if bytes.len() < whole {
        return Err(Broken::Short);
    }
    let output = &bytes[HEAD..HEAD + length];
    if number(&bytes[13..17]) != check_sum(&bytes[..13], output) || bytes[HEAD + length..whole] != bytes[..4] {
        return Err(Broken::Damaged);
    }
    let time = bytes[4..12].try_into().map(u64::from_le_bytes).unwrap_or(0);
    Ok((Record { time, stream, output }, whole))
}

/// How many of `bytes` are whole records, from the start.
#[must_use]
pub fn whole_records(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Ok((_, length)) = decode(&bytes[at..]) {
        at += length;
    }
    at
}

/// A log file's name.
#[must_use]
pub fn file_name(number: u64) -> String {
    format!("{number:010}.log")
}

/// The name of a log file that is compressed.
#[must_use]
pub fn compressed_name(number: u64) -> String {
    format!("{number:010}.log.gz")
}

/// The number in the name of a log file, compressed or not; `None` for any other file.
#[must_use]
pub fn file_number(name: &str) -> Option<u64> {
    name.strip_suffix(".gz")
        .unwrap_or(name)
        .strip_suffix(".log")
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_record_reads_back(time: u64, error: bool, output in proptest::collection::vec(any::<u8>(), 0..300)) {
            let stream = if error { Stream::Stderr } else { Stream::Stdout };
            let record = Record { time, stream, output: &output };
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            prop_assert_eq!(decode(&bytes), Ok((record, bytes.len())));
            for length in 0..bytes.len() {
                prop_assert_eq!(decode(&bytes[..length]), Err(Broken::Short));
            }
        }

        #[test]
        fn a_changed_byte_is_noticed(at in 0usize..30, flip in 1u8..) {
            let mut bytes = Vec::new();
            encode(&Record { time: 7, stream: Stream::Stdout, output: b"some words" }, &mut bytes);
            let at = at % bytes.len();
            bytes[at] ^= flip;
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = whole_records(&bytes);
        }
    }

    #[test]
    fn names_and_numbers_agree() {
        assert_eq!(file_number(&file_name(42)), Some(42));
        assert_eq!(file_number(&compressed_name(42)), Some(42));
        assert_eq!(file_number("0000000042.log.gz.partial"), None);
        assert_eq!(file_number("shim.err"), None);
        assert_eq!(file_number("+0000001.log"), None);
    }
}

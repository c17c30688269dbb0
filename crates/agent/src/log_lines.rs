//! Pure. Records of a container's log as the lines of the API. A long line is in several records, and a character may begin in
//! one and end in the next.

use stack_api::views::LogLine;
use stack_engine::logs::{LONGEST_OUTPUT, LogRecord, Source};
use stack_model::TaskId;

/// What of a character is in a record that is sent already, by stream.
#[derive(Debug, Default)]
pub struct LogLines {
    output: Vec<u8>,
    error: Vec<u8>,
}

/// How many bytes at the end are the beginning of a character that is not whole.
fn unfinished(bytes: &[u8]) -> usize {
    // No character has more than four bytes; what begins one says how many it has.
    (1..=bytes.len().min(3))
        .find(|back| {
            let needed = match bytes[bytes.len() - back] {
                0xc2..=0xdf => 2,
                0xe0..=0xef => 3,
                0xf0..=0xf4 => 4,
                _ => 0,
            };
            let is_rest = bytes[bytes.len() - back + 1..].iter().all(|byte| (0x80..=0xbf).contains(byte));
            needed > *back && is_rest
        })
        .unwrap_or(0)
}

impl LogLines {
    /// The next record.
    pub fn line(&mut self, task: TaskId, record: &LogRecord) -> LogLine {
        let (stream, rest) = match record.source {
            Source::Stdout => ("stdout", &mut self.output),
            Source::Stderr => ("stderr", &mut self.error),
        };
        let mut bytes = std::mem::take(rest);
        bytes.extend_from_slice(&record.output);
        if record.partial {
            // A short part is the end of all output: nothing goes on.
            if record.output.len() >= LONGEST_OUTPUT {
                *rest = bytes.split_off(bytes.len() - unfinished(&bytes));
            }
        } else {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        LogLine {
            task,
            time_nanoseconds: record.time,
            stream: stream.to_owned(),
            line: String::from_utf8_lossy(&bytes).into_owned(),
            partial: record.partial,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn records(output: &[u8]) -> Vec<LogRecord> {
        let parts = output.chunks(LONGEST_OUTPUT);
        parts
            .map(|part| LogRecord {
                time: 1,
                source: Source::Stdout,
                output: Bytes::copy_from_slice(part),
                partial: !part.ends_with(b"\n"),
            })
            .collect()
    }

    fn together(output: &[u8]) -> String {
        let mut lines = LogLines::default();
        let task = TaskId::from_bits(1);
        records(output).iter().map(|record| lines.line(task, record).line).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn characters_on_a_boundary_are_whole(before in 0usize..8, text in "[aä€😀]{5000,9000}") {
            let output = format!("{}{text}\n", "x".repeat(before));
            prop_assert_eq!(together(output.as_bytes()), output.trim_end_matches('\n'));
        }

        #[test]
        fn no_bytes_are_lost_or_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), before in 0usize..20) {
            let mut output = vec![b'x'; LONGEST_OUTPUT - before];
            output.extend(bytes.iter().map(|byte| if *byte == b'\n' || *byte == b'\r' { 0xff } else { *byte }));
            output.push(b'\n');
            let expected = String::from_utf8_lossy(&output[..output.len() - 1]).into_owned();
            prop_assert_eq!(together(&output), expected);
        }
    }

    #[test]
    fn ends_of_lines_and_of_output() {
        assert_eq!(together(b"dos\r\n"), "dos");
        assert_eq!(together(b"two\r\r\n"), "two\r");
        assert_eq!(together(b"\n"), "");
        assert_eq!(together(b"the end \xe2\x82"), "the end \u{fffd}");
    }
}

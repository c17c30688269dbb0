//! Pure. Puts together what a host keeps of a long line in several records.

use std::collections::BTreeMap;

use stack_api::views::LogLine;
use stack_model::TaskId;

/// A record of a host is no longer. A shorter one that has no line end is the end of all output.
const RECORD: usize = 16 * 1024;
/// Of one line no more is held; what is longer is shown in several.
const LONGEST: usize = 1024 * 1024;

/// The lines that are under way, by task and stream.
#[derive(Debug, Default)]
pub struct LongLines {
    under_way: BTreeMap<(TaskId, String), LogLine>,
}

impl LongLines {
    /// The next record of a task: a line, if it is whole with it.
    pub fn take(&mut self, record: LogLine) -> Option<LogLine> {
        // The beginning of a character may have been left for the next record.
        let goes_on = record.partial && record.line.len() + 3 >= RECORD;
        let key = (record.task, record.stream.clone());
        let line = match self.under_way.remove(&key) {
            None => record,
            Some(mut line) => {
                line.line.push_str(&record.line);
                line
            }
        };
        if goes_on && line.line.len() < LONGEST {
            self.under_way.insert(key, line);
            return None;
        }
        Some(line)
    }

    /// What has no end, because nothing more comes.
    pub fn rest(self) -> impl Iterator<Item = LogLine> {
        self.under_way.into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(task: u128, line: &str, partial: bool) -> LogLine {
        LogLine {
            task: TaskId::from_bits(task),
            time_nanoseconds: 1,
            stream: "stdout".to_owned(),
            line: line.to_owned(),
            partial,
        }
    }

    #[test]
    fn parts_are_one_line_though_others_come_in_between() {
        let part = "x".repeat(RECORD);
        let mut lines = LongLines::default();
        let mut take = |record| lines.take(record).map(|line| line.line.len());
        assert_eq!(take(record(1, "short", false)), Some(5));
        assert_eq!(take(record(1, &part, true)), None);
        assert_eq!(take(record(2, "other", false)), Some(5));
        assert_eq!(take(record(1, &part[2..], true)), None);
        assert_eq!(take(record(1, "end", false)), Some(2 * RECORD + 1));
        assert_eq!(take(record(1, "no line end", true)), Some(11));
        assert_eq!(take(record(2, &part, true)), None);
        assert_eq!(lines.rest().map(|line| line.line.len()).collect::<Vec<_>>(), [RECORD]);
    }

    #[test]
    fn a_line_without_end_is_not_held_for_ever() {
        let part = "x".repeat(RECORD);
        let mut lines = LongLines::default();
        let shown = (0..200).filter_map(|_| lines.take(record(1, &part, true))).map(|line| line.line.len());
        assert_eq!(shown.collect::<Vec<_>>(), [LONGEST; 3]);
    }
}

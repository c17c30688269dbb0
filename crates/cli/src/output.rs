//! What the user sees: data on standard output, the story on standard error.

use std::io::Write;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use stack_model::{Milliseconds, Timestamp};

use crate::failure::{ExitCode, Failure};

/// How a listing is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON document.
    Json,
}

/// One line of data.
pub fn data(line: &str) {
    let mut out = anstream::stdout().lock();
    // A reader that has gone away (`| head`) is no failure of ours.
    let _ = writeln!(out, "{line}");
}

/// One line of the story.
pub fn story(line: &str) {
    let mut out = anstream::stderr().lock();
    let _ = writeln!(out, "{line}");
}

/// A piece of advice.
pub fn hint(text: &str) {
    let style = anstyle::Style::new().bold();
    story(&format!("{style}hint:{style:#} {text}"));
}

/// Why the command failed.
pub fn failure(failure: &Failure) {
    let style = anstyle::AnsiColor::Red.on_default().bold();
    story(&format!("{style}error:{style:#} {}", failure.message));
    if let Some(text) = &failure.hint {
        hint(text);
    }
}

/// A listing, as a table or as JSON.
pub fn listing<T: Serialize>(
    format: Format,
    rows: &[T],
    header: &[&str],
    cells: impl Fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    match format {
        Format::Json => json(&rows),
        Format::Table => {
            data(&table(header, rows.iter().map(cells)));
            Ok(())
        }
    }
}

/// Rows below a header, in columns.
pub fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// One JSON document.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(ExitCode::Failed, format!("the answer cannot be printed: {error}")))?;
    data(&text);
    Ok(())
}

/// How long ago, in the largest unit that says enough: `12s`, `5m`, `3h`, `12d`.
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    let Milliseconds(span) = now.since(at);
    match span / 1000 {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Bytes as people read them.
pub fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

/// This machine's clock.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let now = Timestamp(1_000_000_000);
        for (milliseconds, text) in
            [(0, "0s"), (119_000, "119s"), (120_000, "2m"), (7_200_000, "2h"), (200_000_000, "2d")]
        {
            assert_eq!(ago(Timestamp(now.0 - milliseconds), now), text);
        }
    }
}

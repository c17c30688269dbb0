//! Pure. Diagnostics as text for a terminal: the line with the offending text underlined, and the remedy.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::code::Code;
use crate::diagnostic::{Diagnostic, Severity};

/// The diagnostic as several lines, without colours, with a newline at the end.
///
/// ```text
/// error[E0301]: `imgae` is not a key of a service
///   --> app.yml:3:5
///    |
///  3 |     imgae: nginx
///    |     ^^^^^
///    = hint: did you mean `image`?
/// ```
#[must_use]
pub fn render(diagnostic: &Diagnostic) -> String {
    let mut text = format!("{}[{}]: {}\n", diagnostic.severity, diagnostic.code, printable(&diagnostic.message));
    let mut margin = 2;
    if let Some(location) = &diagnostic.location {
        let number = location.line.to_string();
        margin = number.len() + 2;
        let _ = writeln!(
            text,
            "{:>margin$}> {}:{}:{}",
            "--",
            printable(&location.file),
            location.line,
            location.column,
            margin = margin + 1
        );
        if !location.line_text.is_empty() {
            let (line, marks) = excerpt(&location.line_text, location.column, location.length);
            let _ = writeln!(text, "{:margin$}|", "");
            let _ = writeln!(text, " {number} | {line}");
            let _ = writeln!(text, "{:margin$}| {marks}", "");
        }
    }
    if let Some(hint) = &diagnostic.hint {
        let _ = writeln!(text, "{:margin$}= hint: {}", "", printable(hint));
    }
    text
}

/// All of them, and a last line that counts them. Empty for none.
#[must_use]
pub fn render_all(diagnostics: &[Diagnostic]) -> String {
    let mut text = String::new();
    for diagnostic in diagnostics {
        text.push_str(&render(diagnostic));
        text.push('\n');
    }
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
    let warnings = diagnostics.len() - errors;
    let count = |number: usize, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
    match (errors, warnings) {
        (0, 0) => {}
        (errors, 0) => text.push_str(&format!("{}\n", count(errors, "error"))),
        (0, warnings) => text.push_str(&format!("{}\n", count(warnings, "warning"))),
        (errors, warnings) => {
            text.push_str(&format!("{}, {}\n", count(errors, "error"), count(warnings, "warning")));
        }
    }
    text
}

/// All of them in the format SARIF 2.1.0, which code hosts and editors read. `version` is the tool's.
#[must_use]
pub fn sarif(diagnostics: &[Diagnostic], version: &str) -> Value {
    let codes: BTreeSet<Code> = diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
    let rules: Vec<Value> = codes
        .iter()
        .map(|code| json!({"id": code.as_str(), "fullDescription": {"text": code.explanation()}}))
        .collect();
    let results: Vec<Value> = diagnostics
        .iter()
        .map(|diagnostic| {
            let hint = diagnostic.hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            let mut result = json!({
                "ruleId": diagnostic.code.as_str(),
                "level": diagnostic.severity.to_string(),
                "message": {"text": format!("{}{hint}", diagnostic.message)},
            });
            if let Some(location) = &diagnostic.location {
                result["locations"] = json!([{"physicalLocation": {
                    "artifactLocation": {"uri": location.file},
                    "region": {
                        "startLine": location.line,
                        "startColumn": location.column,
                        "endColumn": location.column.saturating_add(location.length),
                    },
                }}]);
            }
            result
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "stack", "version": version, "rules": rules}},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

/// At most this many characters of a line are shown, around the offending text.
const LINE_WIDTH: usize = 120;

/// The line (shortened around the offending text where it is long) and the marks under it.
fn excerpt(line: &str, column: u32, length: u32) -> (String, String) {
    let characters: Vec<char> = line.chars().collect();
    let column = usize::try_from(column).unwrap_or(1).max(1) - 1;
    let column = column.min(characters.len());
    let length = usize::try_from(length).unwrap_or(1).max(1);
    let from = if column + length.min(LINE_WIDTH / 2) <= LINE_WIDTH { 0 } else { column.saturating_sub(20) };
    let to = characters.len().min(from + LINE_WIDTH);
    let mut shown = String::new();
    let mut marks = String::new();
    if from > 0 {
        shown.push('…');
        marks.push(' ');
    }
    for (index, character) in characters[from..to].iter().enumerate() {
        shown.push(if character.is_control() { ' ' } else { *character });
        let at = from + index;
        if at < column {
            marks.push(' ');
        } else if at < column + length {
            marks.push('^');
        }
    }
    if to < characters.len() {
        shown.push('…');
    }
    if column >= to {
        marks.push('^');
    }
    (shown, marks)
}

/// Without control characters, which could move the cursor of a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|character| if character.is_control() && character != '\n' { '\u{fffd}' } else { character })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Location;

    fn diagnostic(line_text: &str, column: u32, length: u32) -> Diagnostic {
        Diagnostic {
            code: Code::UnknownKey,
            severity: Severity::Error,
            message: "`imgae` is not a key of a service".to_owned(),
            location: Some(Location { file: "app.yml".into(), line: 3, column, length, line_text: line_text.into() }),
            path: String::new(),
            hint: Some("did you mean `image`?".to_owned()),
        }
    }

    #[test]
    fn the_offending_text_is_underlined() {
        assert_eq!(
            render(&diagnostic("    imgae: nginx", 5, 5)),
            "error[E0301]: `imgae` is not a key of a service\n  --> app.yml:3:5\n   |\n 3 |     imgae: nginx\n   |     ^^^^^\n   = hint: did you mean `image`?\n"
        );
    }

    #[test]
    fn sarif_names_the_place_and_the_rule() {
        let sarif = sarif(&[diagnostic("    imgae: nginx", 5, 5)], "1.0");
        let result = &sarif["runs"][0]["results"][0];
        assert_eq!(result["ruleId"], "E0301");
        assert_eq!(result["level"], "error");
        let region = &result["locations"][0]["physicalLocation"]["region"];
        assert_eq!(region, &json!({"startLine": 3, "startColumn": 5, "endColumn": 10}));
        assert_eq!(sarif["runs"][0]["tool"]["driver"]["rules"][0]["id"], "E0301");
    }

    #[test]
    fn a_long_line_is_shortened_around_the_place() {
        let line = format!("{}x{}", "a".repeat(500), "b".repeat(500));
        let text = render(&diagnostic(&line, 501, 1));
        assert!(text.lines().all(|line| line.chars().count() < 140), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[3].chars().position(|c| c == 'x'), lines[4].chars().position(|c| c == '^'));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut hostile = diagnostic("a\u{1b}[2Jb", 1, 1);
        hostile.message = "\u{1b}[2J".to_owned();
        assert!(!render(&hostile).contains('\u{1b}'));
    }
}

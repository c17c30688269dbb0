//! Pure. What a reader is told about a file: the problem, its place, and the remedy.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::code::Code;

/// How many errors are kept, and how many warnings. A broken file can have one in each of a million lines; nobody reads on after these.
const MOST_DIAGNOSTICS: usize = 200;

/// Whether a file can be deployed in spite of a diagnostic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It can; the reader should know something.
    Warning,
    /// It cannot.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Where in which file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The file's name as the caller gave it.
    pub file: String,
    /// Counted from 1.
    pub line: u32,
    /// In characters, counted from 1.
    pub column: u32,
    /// In characters, within the line; at least 1.
    pub length: u32,
    /// The whole line, to show it. Empty where the file's contents are not to be shown (environment files).
    pub line_text: String,
}

/// One thing to tell about a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// What kind of thing: stable, explained by [`crate::explain`].
    pub code: Code,
    /// Whether the file can be deployed in spite of it.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub message: String,
    /// Where; `None` for what belongs to no place in a file.
    pub location: Option<Location>,
    /// The attribute that it is about, such as `services.web.ports[0]`; empty for a whole file.
    pub path: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    /// One line, for logs: `app.yml:3:5: error E0301: …`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(formatter, "{}:{}:{}: ", location.file, location.line, location.column)?;
        }
        write!(formatter, "{} {}: {}", self.severity, self.code, self.message)
    }
}

/// A piece of one line of one of the files that were read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    /// Index of the file in the [`Journal`], plus 1; 0 is no place.
    pub file: u32,
    /// Counted from 1.
    pub line: u32,
    /// In characters, counted from 1.
    pub column: u32,
    /// In characters.
    pub length: u32,
}

/// A position in the tree of attributes, held on the stack of the function that walks it.
#[derive(Clone, Copy)]
pub(crate) enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    /// The attribute `key` of this one.
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }

    /// The item number `index` of this one, counted from 0.
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => formatter.write_str(key),
            Self::Key(parent, key) => write!(formatter, "{parent}.{key}"),
            Self::Index(parent, index) => write!(formatter, "{parent}[{index}]"),
        }
    }
}

/// A diagnostic that is being written.
pub(crate) struct Problem {
    code: Code,
    place: Place,
    path: String,
    message: String,
    hint: Option<String>,
}

impl Problem {
    /// The severity is the code's.
    pub fn new(code: Code, place: Place, path: &Path<'_>, message: impl Into<String>) -> Self {
        Self { code, place, path: path.to_string(), message: message.into(), hint: None }
    }

    /// What to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

struct SourceText {
    name: String,
    text: String,
    shown: bool,
    line_starts: Vec<usize>,
}

/// The files that were read and everything that was found in them.
#[derive(Default)]
pub(crate) struct Journal {
    /// Variables are left as they are, so that a text with a dollar sign may be anything.
    pub variables_left: bool,
    /// How many ports ranges have become.
    pub ports: usize,
    files: Vec<SourceText>,
    problems: Vec<Problem>,
    seen: BTreeSet<(Code, Place, String)>,
    /// Places of which nothing more is to be said, because what is there could not be understood.
    settled: BTreeSet<Place>,
    errors: usize,
    warnings: usize,
    dropped: usize,
}

impl Journal {
    /// Takes note of a file; the number goes into the places of its nodes. `shown`: its lines may be quoted.
    pub fn add_file(&mut self, name: &str, text: &str, shown: bool) -> u32 {
        let mut line_starts = vec![0];
        if shown {
            line_starts.extend(text.match_indices('\n').map(|(at, _)| at + 1));
        }
        let text = if shown { text.to_owned() } else { String::new() };
        self.files.push(SourceText { name: name.to_owned(), text, shown, line_starts });
        u32::try_from(self.files.len()).unwrap_or(u32::MAX)
    }

    /// The name under which a file was added.
    pub fn file_name(&self, file: u32) -> &str {
        self.source(file).map_or("", |source| source.name.as_str())
    }

    fn source(&self, file: u32) -> Option<&SourceText> {
        self.files.get(usize::try_from(file).ok()?.checked_sub(1)?)
    }

    /// Says nothing more about a place: what would be said follows from what was said already.
    pub fn settle(&mut self, place: Place) {
        self.settled.insert(place);
    }

    /// Adds a diagnostic. The same one about the same text counts once, and what was not understood is not judged.
    pub fn push(&mut self, problem: Problem) {
        let severity = problem.code.severity();
        if self.settled.contains(&problem.place) && problem.place.file != 0 {
            return;
        }
        if matches!(problem.code, Code::BadTemplate | Code::RequiredVariable | Code::UnknownTag | Code::WrongType) {
            self.settled.insert(problem.place);
        }
        let what = if problem.place.file == 0 { problem.message.clone() } else { String::new() };
        if !self.seen.insert((problem.code, problem.place, what)) {
            return;
        }
        let kept = match severity {
            Severity::Error => {
                self.errors += 1;
                self.errors <= MOST_DIAGNOSTICS
            }
            // They must not push the errors out.
            Severity::Warning => {
                self.warnings += 1;
                self.warnings <= MOST_DIAGNOSTICS
            }
        };
        if !kept {
            self.dropped += 1;
            return;
        }
        self.problems.push(problem);
    }

    /// Whether a file says a text at a place, and not a variable that gave it.
    pub fn is_written(&self, place: Place, text: &str) -> bool {
        self.locate(place).is_some_and(|location| location.line_text.contains(text))
    }

    /// Whether further problems are only counted: their hints need not be looked for.
    pub fn is_full(&self) -> bool {
        self.errors >= MOST_DIAGNOSTICS
    }

    /// Whether anything forbids to deploy.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    fn locate(&self, place: Place) -> Option<Location> {
        let source = self.source(place.file)?;
        let line_text = if source.shown {
            let index = usize::try_from(place.line).ok()?.saturating_sub(1);
            let start = source.line_starts.get(index).copied().unwrap_or(source.text.len());
            source.text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or("").to_owned()
        } else {
            String::new()
        };
        let width = u32::try_from(line_text.chars().count()).unwrap_or(u32::MAX);
        let room = width.saturating_sub(place.column.saturating_sub(1)).max(1);
        Some(Location {
            file: source.name.clone(),
            line: place.line,
            column: place.column,
            length: place.length.clamp(1, if source.shown { room } else { u32::MAX }),
            line_text,
        })
    }

    /// All diagnostics, in the order of files and lines, errors and warnings mixed.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        let dropped = self.dropped;
        let mut problems = std::mem::take(&mut self.problems);
        problems.sort_by_key(|problem| (problem.place.file, problem.place.line, problem.place.column));
        let mut diagnostics: Vec<Diagnostic> = problems
            .into_iter()
            .map(|problem| Diagnostic {
                code: problem.code,
                severity: problem.code.severity(),
                location: self.locate(problem.place),
                path: problem.path,
                message: problem.message,
                hint: problem.hint,
            })
            .collect();
        if dropped > 0 {
            diagnostics.push(Diagnostic {
                code: Code::TooManyProblems,
                severity: if self.errors > 0 { Severity::Error } else { Severity::Warning },
                message: format!("{dropped} further problems are not shown"),
                location: None,
                path: String::new(),
                hint: Some("correct the first ones and check again".to_owned()),
            });
        }
        diagnostics
    }
}

/// So many candidates are compared: a file with more names than these is hardly written by hand.
const MOST_CANDIDATES: usize = 500;

/// The candidate that was probably meant by `written`, if one is near enough.
pub(crate) fn did_you_mean<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_ascii_lowercase();
    let most = match written.chars().count() {
        0..=3 => 1,
        4..=6 => 2,
        _ => 3,
    };
    candidates
        .into_iter()
        .take(MOST_CANDIDATES)
        .map(|candidate| (distance(&written, &candidate.to_ascii_lowercase(), most), candidate))
        .filter(|(steps, _)| *steps <= most)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many characters must be inserted, removed, replaced or exchanged with their neighbour to get from one text to
/// the other (optimal string alignment); more than `most` when it is more.
fn distance(from: &str, to: &str, most: usize) -> usize {
    let from: Vec<char> = from.chars().take(64).collect();
    let to: Vec<char> = to.chars().take(64).collect();
    if from.len().abs_diff(to.len()) > most {
        return most + 1;
    }
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, &left) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, &right) in to.iter().enumerate() {
            let replaced = last[column] + usize::from(left != right);
            let mut best = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            if row > 0 && column > 0 && left == to[column - 1] && from[row - 1] == right {
                best = best.min(before_last[column - 1] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let keys = ["image", "command", "environment", "volumes"];
        assert_eq!(did_you_mean("imgae", keys), Some("image"));
        assert_eq!(did_you_mean("enviroment", keys), Some("environment"));
        assert_eq!(did_you_mean("Volumes", keys), Some("volumes"));
        assert_eq!(did_you_mean("zzz", keys), None);
    }
}

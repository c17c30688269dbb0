//! Pure. The format of `.env` and of environment files, as Docker Compose reads it.

use indexmap::IndexMap;

use crate::template::{self, TemplateError};

/// Why a text is not an environment file. Values are not quoted: they are often secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DotenvError {
    /// Neither `NAME=VALUE` nor a name alone.
    #[error("line {line}: a name cannot have spaces: expected NAME=VALUE")]
    SpaceInName {
        /// Counted from 1.
        line: u32,
    },
    /// A character that names cannot have.
    #[error("line {line}: a name cannot have `{character}`")]
    CharacterInName {
        /// Counted from 1.
        line: u32,
        /// The first such character.
        character: char,
    },
    /// A quote without an end.
    #[error("line {line}: the quote of the value of `{name}` is not closed")]
    UnterminatedQuote {
        /// Where it was opened, counted from 1.
        line: u32,
        /// The variable.
        name: String,
    },
    /// A variable reference in a value.
    #[error("line {line}: the value of `{name}`")]
    Template {
        /// Counted from 1.
        line: u32,
        /// The variable that was to be set.
        name: String,
        /// What is wrong.
        source: TemplateError,
    },
}

impl DotenvError {
    /// The line, counted from 1.
    #[must_use]
    pub fn line(&self) -> u32 {
        match self {
            Self::SpaceInName { line }
            | Self::CharacterInName { line, .. }
            | Self::UnterminatedQuote { line, .. }
            | Self::Template { line, .. } => *line,
        }
    }
}

/// What an environment file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dotenv {
    /// In the order of the file. A name alone has the value that it has outside, and is not here if it has none.
    pub values: IndexMap<String, String>,
    /// Names that begin with a digit, and the lines that set them: nobody can refer to these, so they are left out.
    pub left_out: Vec<(u32, String)>,
}

/// Reads an environment file. In the references of its values, the variables of `outside` are stronger than its own,
/// and those of `before` (files read before this one) are weaker.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn parse(
    text: &str,
    outside: &dyn Fn(&str) -> Option<String>,
    before: &dyn Fn(&str) -> Option<String>,
) -> Result<Dotenv, DotenvError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut reader = Reader { text: &text, at: 0, counted: (0, 1), outside, before, result: Dotenv::default() };
    while reader.statement()? {}
    Ok(reader.result)
}

/// Reads an environment file in the format `raw`: everything after the first `=` is the value, as it is.
///
/// # Errors
/// The first line that is no `NAME=VALUE`.
pub fn parse_raw(text: &str, outside: &dyn Fn(&str) -> Option<String>) -> Result<Dotenv, DotenvError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut result = Dotenv::default();
    for (index, line) in text.lines().enumerate() {
        let line_number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let (name, value) = match trimmed.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (trimmed.trim_end(), outside(trimmed.trim_end())),
        };
        if name.contains([' ', '\t']) {
            return Err(DotenvError::SpaceInName { line: line_number });
        }
        if let Some(value) = value {
            result.values.insert(name.to_owned(), value);
        }
    }
    Ok(result)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// Up to where lines were counted, and the number of the line there.
    counted: (usize, u32),
    outside: &'a dyn Fn(&str) -> Option<String>,
    before: &'a dyn Fn(&str) -> Option<String>,
    result: Dotenv,
}

impl Reader<'_> {
    fn line(&mut self) -> u32 {
        let (from, line) = self.counted;
        let passed = self.text.as_bytes()[from..self.at].iter().filter(|byte| **byte == b'\n').count();
        self.counted = (self.at, line.saturating_add(u32::try_from(passed).unwrap_or(u32::MAX)));
        self.counted.1
    }

    /// Reads one assignment; false at the end.
    fn statement(&mut self) -> Result<bool, DotenvError> {
        loop {
            let rest = &self.text[self.at..];
            let blank = rest.len() - rest.trim_start().len();
            self.at += blank;
            if !self.text[self.at..].starts_with('#') {
                break;
            }
            self.skip_line();
        }
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return Ok(false);
        }
        if let Some(after) = rest.strip_prefix("export")
            && after.starts_with([' ', '\t'])
        {
            self.at += "export".len() + (after.len() - after.trim_start_matches([' ', '\t']).len());
        }
        let line = self.line();
        let rest = &self.text[self.at..];
        let end = rest.find(['=', ':', '\n']).unwrap_or(rest.len());
        let inherited = !matches!(rest.as_bytes().get(end), Some(b'=' | b':'));
        let name = rest[..end].trim_end().to_owned();
        check_name(&name, inherited, line)?;
        self.at += (end + 1).min(rest.len());
        if inherited {
            if let Some(value) = (self.outside)(&name) {
                self.result.values.insert(name, value);
            }
            return Ok(true);
        }
        let value = self.value(&name, line)?;
        if name.starts_with(|character: char| character.is_ascii_digit()) {
            self.result.left_out.push((line, name));
        } else {
            self.result.values.insert(name, value);
        }
        Ok(true)
    }

    fn skip_line(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.find('\n').map_or(rest.len(), |end| end + 1);
    }

    fn value(&mut self, name: &str, line: u32) -> Result<String, DotenvError> {
        let rest = &self.text[self.at..];
        let blank = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        self.at += blank;
        let rest = &self.text[self.at..];
        match rest.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let inner = &rest[1..];
                let Some(end) = closing_quote(inner, quote) else {
                    return Err(DotenvError::UnterminatedQuote { line, name: name.to_owned() });
                };
                let raw = &inner[..end];
                self.at += end + 2;
                self.skip_line();
                if quote == '\'' { Ok(raw.replace("\\'", "'")) } else { self.expand(&unescape(raw), name, line) }
            }
            _ => {
                let end = rest.find('\n').unwrap_or(rest.len());
                let raw = &rest[..end];
                self.at += (end + 1).min(rest.len());
                let comment = raw.char_indices().zip(std::iter::once(' ').chain(raw.chars())).find_map(
                    |((at, character), before)| (character == '#' && before.is_whitespace()).then_some(at),
                );
                let raw = raw[..comment.unwrap_or(raw.len())].trim_end();
                self.expand(raw, name, line)
            }
        }
    }

    fn expand(&self, raw: &str, name: &str, line: u32) -> Result<String, DotenvError> {
        let lookup = |wanted: &str| {
            (self.outside)(wanted)
                .or_else(|| self.result.values.get(wanted).cloned())
                .or_else(|| (self.before)(wanted))
        };
        template::substitute(raw, &lookup, &mut Vec::new())
            .map_err(|source| DotenvError::Template { line, name: name.to_owned(), source })
    }
}

fn check_name(name: &str, inherited: bool, line: u32) -> Result<(), DotenvError> {
    for character in name.chars() {
        match character {
            '_' | '.' | '-' | '[' | ']' => {}
            ' ' | '\t' if inherited => return Err(DotenvError::SpaceInName { line }),
            _ if character.is_alphanumeric() => {}
            ' ' | '\t' => return Err(DotenvError::SpaceInName { line }),
            _ => return Err(DotenvError::CharacterInName { line, character }),
        }
    }
    Ok(())
}

/// Where the quote ends; one after a backslash does not end it.
fn closing_quote(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        if character == quote && !escaped {
            return Some(at);
        }
        escaped = character == '\\' && !escaped;
    }
    None
}

/// The escapes of double quotes. `\$` becomes `$$`, so that the dollar sign survives the expansion; what is unknown
/// stays as it is.
fn unescape(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '\\' {
            result.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => result.push('\n'),
            Some('r') => result.push('\r'),
            Some('t') => result.push('\t'),
            Some('a') => result.push('\u{7}'),
            Some('b') => result.push('\u{8}'),
            Some('f') => result.push('\u{c}'),
            Some('v') => result.push('\u{b}'),
            Some('$') => result.push_str("$$"),
            Some(plain @ ('"' | '\\' | '\'')) => result.push(plain),
            Some('0') => {
                let mut digits = String::new();
                while digits.len() < 3
                    && let Some(digit) = characters.next_if(|digit| ('0'..='7').contains(digit))
                {
                    digits.push(digit);
                }
                match u8::from_str_radix(&digits, 8) {
                    Ok(byte) => result.push(char::from(byte)),
                    Err(_) => {
                        result.push_str("\\0");
                        result.push_str(&digits);
                    }
                }
            }
            Some(other) => {
                result.push('\\');
                result.push(other);
            }
            None => result.push('\\'),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn an_escaped_dollar_is_literal() {
        assert_eq!(parse("A=\"\\$HOME\"\nB='$HOME'\nC=$$HOME", &none, &none).unwrap().values["A"], "$HOME");
        assert_eq!(parse("B='$HOME'", &none, &none).unwrap().values["B"], "$HOME");
    }

    #[test]
    fn no_error_quotes_a_value() {
        for text in ["PASSWORD=\"hunter2", "PASSWORD=hunter2${", "A B=hunter2", "A$=hunter2"] {
            let error = parse(text, &none, &none).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn raw_files_are_taken_as_they_are() {
        let read = parse_raw("A='$B' # c\n# no\nB=\"x\n", &none).unwrap();
        assert_eq!(read.values["A"], "'$B' # c");
        assert_eq!(read.values["B"], "\"x");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~\\n\u{e9}]{0,120}") {
            let _ = parse(&text, &none, &none);
            let _ = parse_raw(&text, &none);
        }

        #[test]
        fn single_quotes_keep_everything(value in "[^'\\\\]{0,40}") {
            prop_assume!(!value.contains('\r'));
            let read = parse(&format!("A='{value}'\n"), &none, &none).unwrap();
            prop_assert_eq!(&read.values["A"], &value);
        }
    }
}

//! Pure. What the caller gives: texts, variables, and a way to read further files.

use std::collections::BTreeMap;

/// Why a file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// There is no such file.
    #[error("there is no such file")]
    NotFound,
    /// Anything else, in words: `it is a directory`, `permission denied`, `it is not UTF-8 text`.
    #[error("{0}")]
    Other(String),
}

/// Reads further files that a stack file names. Implemented by the command line with the real file system, and by tests
/// with a map.
pub trait Files {
    /// The text of a file. The path is as written in the stack file, joined to [`Source::directory`] where it is
    /// relative; it may begin with `~`.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be read as UTF-8 text.
    fn read(&self, path: &str) -> Result<String, FileError>;

    /// What a file holds, which need not be text: a secret or a config. No more than one byte above
    /// [`stack_model::Content::LARGEST`] need be read.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be read.
    fn read_bytes(&self, path: &str) -> Result<Vec<u8>, FileError> {
        self.read(path).map(String::into_bytes)
    }
}

/// There are no further files.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _path: &str) -> Result<String, FileError> {
        Err(FileError::NotFound)
    }
}

impl Files for BTreeMap<String, String> {
    fn read(&self, path: &str) -> Result<String, FileError> {
        self.get(path).cloned().ok_or(FileError::NotFound)
    }
}

/// One stack file.
#[derive(Debug, Clone, Copy)]
pub struct SourceFile<'a> {
    /// For diagnostics: the path as the user gave it, or `-` for standard input.
    pub name: &'a str,
    /// What it says.
    pub text: &'a str,
}

/// What is to be parsed.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The stack files; each changes what the ones before it say.
    pub files: &'a [SourceFile<'a>],
    /// The absolute path of the directory that relative paths start from: that of the first file. May be empty when
    /// there is none (standard input). Its last part is the stack's name where nothing else names it.
    pub directory: &'a str,
    /// The stack's name from the command line, which wins over every other.
    pub name: Option<&'a str>,
    /// The profiles that are chosen, beside those of the variable COMPOSE_PROFILES; `*` is all of them.
    pub profiles: &'a [String],
    /// Reads the further files that the stack files name.
    pub reader: &'a dyn Files,
}

/// The variables that a stack file can refer to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// The variables of the process, which win, over those of `.env` and of files given with `--env-file`.
    pub fn new(
        process: impl IntoIterator<Item = (String, String)>,
        files: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut variables: BTreeMap<String, String> = files.into_iter().collect();
        variables.extend(process);
        Self { variables }
    }

    /// The value of a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// All variables with their values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self { variables: variables.into_iter().collect() }
    }
}

//! Reads stack files from the disk for `stackfile`, which is pure, and prints what it finds.

mod choose;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use stack_model::{Content, FileContents, StackSpec};
use stack_stackfile::{
    Diagnostic, Environment, FileError, Files, Severity, Source, SourceFile, dotenv, parse, render_all,
};

use crate::arguments::FileArguments;
use crate::failure::{ExitCode, Failure};
use crate::output;

/// No stack file that a person wrote is larger; a larger one is refused before it is read into memory.
const LARGEST_FILE: u64 = 16 * 1024 * 1024;

struct Disk;

impl Files for Disk {
    fn read(&self, path: &str) -> Result<String, FileError> {
        read_text(&with_home(path)).map_err(|error| in_words(&error))
    }

    fn read_bytes(&self, path: &str) -> Result<Vec<u8>, FileError> {
        let most = u64::try_from(Content::LARGEST).unwrap_or(u64::MAX).saturating_add(1);
        let mut bytes = Vec::new();
        let read = std::fs::File::open(with_home(path)).and_then(|file| file.take(most).read_to_end(&mut bytes));
        read.map(|_| bytes).map_err(|error| in_words(&error))
    }
}

fn with_home(path: &str) -> PathBuf {
    match path.strip_prefix("~/") {
        Some(rest) => std::env::var_os("HOME").map_or_else(|| PathBuf::from(path), |home| Path::new(&home).join(rest)),
        None => PathBuf::from(path),
    }
}

fn in_words(error: &std::io::Error) -> FileError {
    match error.kind() {
        std::io::ErrorKind::NotFound => FileError::NotFound,
        _ => FileError::Other(error.to_string()),
    }
}

fn read_text(path: &Path) -> std::io::Result<String> {
    let file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    if size > LARGEST_FILE {
        return Err(std::io::Error::other(format!("it has {size} bytes; at most {LARGEST_FILE} are read")));
    }
    let mut text = String::new();
    file.take(LARGEST_FILE).read_to_string(&mut text)?;
    Ok(text)
}

fn cannot_read(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(ExitCode::StackFile, format!("cannot read {}: {error}", path.display()))
}

/// The texts of the files and what surrounds them, read and not yet understood.
pub struct Gathered {
    texts: Vec<(String, String)>,
    directory: String,
    environment: Environment,
}

impl Gathered {
    /// Reads the files that the command line or the environment names, or the default ones.
    pub fn read(arguments: &FileArguments) -> Result<Self, Failure> {
        let current = std::env::current_dir()?;
        let given = arguments.project_directory.as_deref().map(std::path::absolute).transpose()?;
        let mut paths: Vec<PathBuf> = arguments.files.iter().chain(&arguments.more_files).cloned().collect();
        let mut variables = Variables::of_process(arguments);
        // Which files they are may stand in the first `.env`; theirs may be another one.
        let first = match (&given, paths.first()) {
            (Some(directory), _) => directory.clone(),
            (None, Some(path)) => directory_of(path, &current)?,
            (None, None) => current.clone(),
        };
        variables.read(&first)?;
        let mut origin = "named on the command line";
        if paths.is_empty() {
            paths = choose::named_by(&|name| variables.get(name));
            origin = "named by the variable COMPOSE_FILE";
        }
        if paths.is_empty() {
            paths = default_files(given.as_deref().unwrap_or(&current))?;
            origin = "";
        }
        let directory = match given {
            Some(directory) => directory,
            None => directory_of(paths.first().map_or(Path::new("-"), PathBuf::as_path), &current)?,
        };
        if directory != first {
            variables.read(&directory)?;
        }
        if paths.iter().filter(|path| *path == Path::new("-")).count() > 1 {
            return Err(Failure::new(ExitCode::Usage, "standard input (`-`) can be one of the stack files only"));
        }
        let mut texts = Vec::new();
        for path in &paths {
            let text = if path == Path::new("-") {
                let mut text = String::new();
                std::io::stdin().lock().take(LARGEST_FILE).read_to_string(&mut text).map(|_| text)
            } else {
                read_text(path)
            };
            let text = text.map_err(|error| {
                let failure = cannot_read(path, &error);
                if origin.is_empty() { failure } else { failure.with_hint(format!("the file is {origin}")) }
            })?;
            texts.push((path.display().to_string(), text));
        }
        let environment = Environment::new(variables.process, variables.files);
        Ok(Self { texts, directory: directory.display().to_string(), environment })
    }

    /// The variables that the files see.
    pub const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Understands them in one way or another.
    pub fn with<T>(&self, arguments: &FileArguments, work: impl FnOnce(Source<'_>, &Environment) -> T) -> T {
        let files: Vec<SourceFile<'_>> = self.texts.iter().map(|(name, text)| SourceFile { name, text }).collect();
        let source = Source {
            files: &files,
            directory: &self.directory,
            name: arguments.name.as_deref(),
            profiles: &arguments.profile,
            reader: &Disk,
        };
        work(source, &self.environment)
    }
}

/// The spec that the files ask for, and what its secrets and configs hold. Warnings and errors are printed.
pub fn read(arguments: &FileArguments) -> Result<(StackSpec, FileContents), Failure> {
    match Gathered::read(arguments)?.with(arguments, parse) {
        Ok(parsed) => {
            tell(&parsed.warnings);
            Ok((parsed.spec, parsed.contents))
        }
        Err(diagnostics) => {
            tell(&diagnostics);
            Err(refused(&diagnostics))
        }
    }
}

/// Prints diagnostics for people.
pub fn tell(diagnostics: &[Diagnostic]) {
    if !diagnostics.is_empty() {
        output::story(render_all(diagnostics).trim_end());
    }
}

/// The failure of a command whose stack file has errors.
pub fn refused(diagnostics: &[Diagnostic]) -> Failure {
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
    let noun = if errors == 1 { "error" } else { "errors" };
    Failure::new(ExitCode::StackFile, format!("{errors} {noun} in the stack file; nothing was changed"))
}

/// The nearest default file at or above a directory, with the one that overrides it.
fn default_files(start: &Path) -> Result<Vec<PathBuf>, Failure> {
    for directory in start.ancestors() {
        let chosen = choose::defaults(&|name| directory.join(name).is_file());
        let Some(file) = chosen.file else { continue };
        if !chosen.passed_over.is_empty() {
            output::story(&format!("{file} is taken, and not {}", chosen.passed_over.join(", ")));
        }
        return Ok([Some(file), chosen.over].into_iter().flatten().map(|name| directory.join(name)).collect());
    }
    Err(Failure::new(ExitCode::StackFile, "there is no stack file here, and none above")
        .with_hint(format!("name one, or make one of {}", choose::DEFAULT_NAMES.join(", "))))
}

/// The absolute directory that relative paths in the files start from; the working directory for standard input.
fn directory_of(path: &Path, current: &Path) -> Result<PathBuf, Failure> {
    if path == Path::new("-") {
        return Ok(current.to_owned());
    }
    let path = std::path::absolute(path)?;
    Ok(path.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned))
}

/// The variables that stack files can refer to.
struct Variables {
    /// Of the process: these win.
    process: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
    /// Files in place of `.env`, which must be there.
    named: Option<Vec<PathBuf>>,
    /// Whether `.env` is read where no files are named.
    default: bool,
}

impl Variables {
    fn of_process(arguments: &FileArguments) -> Self {
        let process: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let named = if arguments.env_file.is_empty() {
            choose::environment_files(process.get("COMPOSE_ENV_FILES").map(String::as_str))
        } else {
            arguments.env_file.clone()
        };
        let default = !choose::is_true(process.get("COMPOSE_DISABLE_ENV_FILE").map(String::as_str));
        Self { process, files: BTreeMap::new(), named: Some(named).filter(|named| !named.is_empty()), default }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.process.get(name).or_else(|| self.files.get(name)).map(String::as_str)
    }

    /// Reads the named files, or the `.env` of a directory; what an earlier directory's said stays.
    fn read(&mut self, directory: &Path) -> Result<(), Failure> {
        let (paths, required) = match &self.named {
            Some(named) => (named.clone(), true),
            None if self.default => (vec![directory.join(".env")], false),
            None => return Ok(()),
        };
        let mut read: BTreeMap<String, String> = BTreeMap::new();
        for path in paths {
            let text = match read_text(&path) {
                Ok(text) => text,
                Err(error) if !required && is_absent(&error) => continue,
                Err(error) => return Err(cannot_read_environment(&path, &error)),
            };
            let outside = |name: &str| self.process.get(name).cloned();
            let before = |name: &str| read.get(name).cloned();
            let parsed = dotenv::parse(&text, &outside, &before).map_err(|error| {
                Failure::new(ExitCode::StackFile, format!("{}:{}: {error}", path.display(), error.line()))
                    .with_hint("each line is `NAME=VALUE`; put a value with spaces, `#` or quotes in single quotes")
            })?;
            for (line, name) in parsed.left_out {
                output::story(&format!("{}:{line}: `{name}` begins with a digit and is left out", path.display()));
            }
            read.extend(parsed.values);
        }
        for (name, value) in read {
            self.files.entry(name).or_insert(value);
        }
        Ok(())
    }
}

/// A `.env` that is a directory is one for another tool.
fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::IsADirectory)
}

fn cannot_read_environment(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(ExitCode::StackFile, format!("cannot read the environment file {}: {error}", path.display()))
}

//! Reads stack files from the disk for `stackfile`, which is pure, and prints what it finds.

use std::io::Read;
use std::path::{Path, PathBuf};

use stack_model::StackSpec;
use stack_stackfile::{
    Diagnostic, Environment, FileError, Files, Severity, Source, SourceFile, dotenv, parse, render_all,
};

use crate::arguments::FileArguments;
use crate::failure::{ExitCode, Failure};
use crate::output;

/// Looked for upwards from the working directory when no file is named, the first one first.
const DEFAULT_NAMES: [&str; 6] =
    ["stack.yaml", "stack.yml", "compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
/// No stack file that a person wrote is larger; a larger one is refused before it is read into memory.
const LARGEST_FILE: u64 = 16 * 1024 * 1024;

struct Disk;

impl Files for Disk {
    fn read(&self, path: &str) -> Result<String, FileError> {
        let path = match path.strip_prefix("~/") {
            Some(rest) => {
                std::env::var_os("HOME").map_or_else(|| PathBuf::from(path), |home| Path::new(&home).join(rest))
            }
            None => PathBuf::from(path),
        };
        read_text(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => FileError::NotFound,
            _ => FileError::Other(error.to_string()),
        })
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
    let failure = Failure::new(ExitCode::StackFile, format!("cannot read {}: {error}", path.display()));
    if error.kind() == std::io::ErrorKind::NotFound {
        failure.with_hint("name the stack file: `stack deploy app.yml`")
    } else {
        failure
    }
}

/// The texts of the files and what surrounds them, read and not yet understood.
pub struct Gathered {
    texts: Vec<(String, String)>,
    directory: String,
    environment: Environment,
}

impl Gathered {
    /// Reads the files that the command line names, or the default one.
    pub fn read(arguments: &FileArguments) -> Result<Self, Failure> {
        let mut paths: Vec<PathBuf> = arguments.files.iter().chain(&arguments.more_files).cloned().collect();
        if paths.is_empty() {
            paths.push(default_file()?);
        }
        let mut texts = Vec::new();
        for path in &paths {
            let text = if path == Path::new("-") {
                let mut text = String::new();
                std::io::stdin().lock().take(LARGEST_FILE).read_to_string(&mut text).map(|_| text)
            } else {
                read_text(path)
            };
            texts.push((path.display().to_string(), text.map_err(|error| cannot_read(path, &error))?));
        }
        let directory = directory_of(&paths[0])?;
        let environment = environment(arguments, &directory)?;
        Ok(Self { texts, directory: directory.display().to_string(), environment })
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

/// The spec that the files ask for. Warnings and errors are printed.
pub fn read(arguments: &FileArguments) -> Result<StackSpec, Failure> {
    match Gathered::read(arguments)?.with(arguments, parse) {
        Ok(parsed) => {
            tell(&parsed.warnings);
            Ok(parsed.spec)
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

fn default_file() -> Result<PathBuf, Failure> {
    let here = std::env::current_dir()?;
    here.ancestors()
        .flat_map(|directory| DEFAULT_NAMES.iter().map(move |name| directory.join(name)))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Failure::new(ExitCode::StackFile, "there is no stack file here")
                .with_hint(format!("name one, or make one of {}", DEFAULT_NAMES.join(", ")))
        })
}

/// The absolute directory that relative paths in the files start from; the working directory for standard input.
fn directory_of(path: &Path) -> Result<PathBuf, Failure> {
    if path == Path::new("-") {
        return Ok(std::env::current_dir()?);
    }
    let path = std::path::absolute(path)?;
    Ok(path.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned))
}

fn environment(arguments: &FileArguments, directory: &Path) -> Result<Environment, Failure> {
    let process: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let outside = |name: &str| std::env::var(name).ok();
    let (paths, required) = if arguments.env_file.is_empty() {
        (vec![directory.join(".env")], false)
    } else {
        (arguments.env_file.clone(), true)
    };
    let mut files: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
    for path in paths {
        let text = match read_text(&path) {
            Ok(text) => text,
            Err(error) if !required && error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(cannot_read(&path, &error)),
        };
        let parsed = dotenv::parse(&text, &outside, &|name| files.get(name).cloned()).map_err(|error| {
            Failure::new(ExitCode::StackFile, format!("{}:{}: {error}", path.display(), error.line()))
        })?;
        for (line, name) in parsed.left_out {
            output::story(&format!("{}:{line}: `{name}` begins with a digit and is left out", path.display()));
        }
        files.extend(parsed.values);
    }
    Ok(Environment::new(process, files))
}

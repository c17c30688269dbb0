//! Further processes of a container that have an identity of their own: they are made, started, attached to and asked
//! about in separate calls, and they outlive the engine as their container does. Each has a directory in the container's run
//! directory, with a helper that is to it what the shim is to the container.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use stack_shim::protocol::{EXEC_FILE, ExecLaunch, ExitRecord};

use super::config::ContainerId;

/// The identifier of an exec: 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExecId(String);

impl ExecId {
    /// One that nobody has.
    pub(crate) fn draw() -> Self {
        Self(hex::encode(rand::random::<[u8; 32]>()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ExecId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

/// A text that is no exec's identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` cannot be the id of an exec: expected 64 hexadecimal digits")]
pub struct ExecIdError {
    /// What was given, at most 80 characters of it.
    pub text: String,
}

impl FromStr for ExecId {
    type Err = ExecIdError;

    fn from_str(text: &str) -> Result<Self, ExecIdError> {
        let fits = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if fits { Ok(Self(text.to_owned())) } else { Err(ExecIdError { text: text.chars().take(80).collect() }) }
    }
}

impl TryFrom<String> for ExecId {
    type Error = ExecIdError;

    fn try_from(text: String) -> Result<Self, ExecIdError> {
        text.parse()
    }
}

impl From<ExecId> for String {
    fn from(id: ExecId) -> Self {
        id.0
    }
}

/// What an exec runs, and which of its streams are for whoever starts it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecConfig {
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// Added to the container's environment.
    pub environment: BTreeMap<String, String>,
    /// In place of the container's.
    pub user: Option<String>,
    /// In place of the container's.
    pub working_dir: Option<String>,
    /// All capabilities and no filter.
    pub privileged: bool,
    /// It has a terminal.
    pub tty: bool,
    /// Standard input is open.
    pub input: bool,
    /// Standard output is for whoever starts it.
    pub output: bool,
    /// Standard error is for whoever starts it.
    pub error: bool,
    /// Keys that detach, as whoever made it chose them. The engine only keeps them.
    pub detach_keys: Option<String>,
}

/// Where an exec is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecState {
    /// Not started yet.
    Created,
    /// On its way.
    Starting,
    /// Its program runs.
    Running {
        /// On the host.
        pid: i32,
    },
    /// It has ended.
    Ended {
        /// The exit code; 128 and the number after a signal; 126 or 127 when it could not be run; `None` when nobody knows.
        code: Option<i32>,
    },
}

/// An exec as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Unique on the host.
    pub id: ExecId,
    /// Where it runs.
    pub container: ContainerId,
    /// As it was asked for.
    pub config: ExecConfig,
    /// Where it is in its life.
    pub state: ExecState,
}

/// The directories of a container's execs, below its run directory.
pub(crate) fn directory(run: &Path) -> PathBuf {
    run.join("exec")
}

const RECORD: &str = "record.json";
const EXIT: &str = "exit.json";

fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    // They have environments in them.
    let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    serde_json::to_writer(io::BufWriter::new(file), value)?;
    Ok(())
}

/// Records an exec in the run directory of its container.
pub(crate) fn record(run: &Path, id: &ExecId, config: &ExecConfig) -> io::Result<()> {
    let directory = directory(run).join(id.as_str());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    write(&directory.join(RECORD), config)
}

/// Writes what the helper is to do.
pub(crate) fn write_launch(directory: &Path, request: stack_shim::protocol::ExecRequest) -> io::Result<()> {
    write(&directory.join(EXEC_FILE), &ExecLaunch { request, exit_file: directory.join(EXIT) })
}

/// What was recorded in the run directory of a container, and how each ended if its helper has said so.
pub(crate) fn recorded(run: &Path) -> Vec<(ExecId, ExecConfig, Option<ExitRecord>)> {
    let entries = fs::read_dir(directory(run)).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let config = serde_json::from_slice(&fs::read(entry.path().join(RECORD)).ok()?).ok()?;
            Some((id, config, ended(&entry.path())))
        })
        .collect()
}

/// How the exec in this directory ended, if its helper has said so.
pub(crate) fn ended(directory: &Path) -> Option<ExitRecord> {
    serde_json::from_slice(&fs::read(directory.join(EXIT)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_64_digits() {
        let drawn = ExecId::draw();
        assert_eq!(drawn.as_str().parse::<ExecId>().unwrap(), drawn);
        for bad in ["", "..", &"g".repeat(64), &"A".repeat(64), &"a".repeat(63)] {
            assert!(bad.parse::<ExecId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_recorded_is_found_again() {
        let run = tempfile::tempdir().unwrap();
        assert!(recorded(run.path()).is_empty());
        let (id, config) = (ExecId::draw(), ExecConfig { tty: true, ..ExecConfig::default() });
        record(run.path(), &id, &config).unwrap();
        assert_eq!(recorded(run.path()), [(id.clone(), config.clone(), None)]);
        assert!(record(run.path(), &id, &config).is_err(), "it is there already");
    }
}

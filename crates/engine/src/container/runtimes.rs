//! Other OCI runtimes, which an operator has given names, in place of the engine's own.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;
use stack_shim::launch::{BUNDLE, BUNDLE_FILE, OciRuntime};

use super::config::ContainerId;
use super::spec::SpecError;

/// The directory of a runtime in the container's run directory.
const DIRECTORY: &str = "oci";

/// A program with the command line of runc(8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeProgram {
    /// Absolute.
    pub program: PathBuf,
    /// Arguments of its own, before the command's name.
    pub arguments: Vec<String>,
}

/// By the names that containers call them.
pub type Runtimes = BTreeMap<String, RuntimeProgram>;

/// The runtime that a container asks for; `None` is the engine's own. `run` is the container's run directory.
pub(crate) fn chosen(
    runtimes: &Runtimes,
    name: Option<&str>,
    id: &ContainerId,
    run: &Path,
) -> Result<Option<OciRuntime>, SpecError> {
    let Some(name) = name else { return Ok(None) };
    let found = runtimes.get(name).ok_or_else(|| SpecError::Runtime {
        name: name.to_owned(),
        known: std::iter::once("stack").chain(runtimes.keys().map(String::as_str)).collect::<Vec<_>>().join(", "),
    })?;
    Ok(Some(OciRuntime {
        program: found.program.clone(),
        arguments: found.arguments.clone(),
        directory: run.join(DIRECTORY),
        id: id.to_string(),
    }))
}

/// Writes what the runtime is to make.
pub(crate) fn write_bundle(runtime: &OciRuntime, document: &Value) -> io::Result<()> {
    let bundle = runtime.directory.join(BUNDLE);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&bundle)?;
    // It has the environment in it.
    let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(bundle.join(BUNDLE_FILE))?;
    Ok(serde_json::to_writer(io::BufWriter::new(file), document)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_found_by_its_name() {
        let program = RuntimeProgram { program: "/bin/crun".into(), arguments: vec!["--debug".to_owned()] };
        let runtimes = Runtimes::from([("crun".to_owned(), program)]);
        let id: ContainerId = "web".parse().unwrap();
        let chosen = |name| chosen(&runtimes, name, &id, Path::new("/run/web"));
        assert_eq!(chosen(None), Ok(None));
        let crun = chosen(Some("crun")).unwrap().unwrap();
        assert_eq!((crun.directory.to_str(), crun.id.as_str()), (Some("/run/web/oci"), "web"));
        let text = chosen(Some("kata")).unwrap_err().to_string();
        assert_eq!(text, "unknown or invalid runtime name: kata: there are stack, crun");
    }
}

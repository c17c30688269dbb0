//! System-call filters: `profile` decides, this file compiles with libseccomp and keeps the result on disk, because
//! compiling takes longer than starting a container.

mod profile;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::crash_point::crash_point;
use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
pub use profile::{Action, Comparison, Condition, Filter, ProfileError, Rule, default_profile, parse};
use sha2::{Digest, Sha256};

/// Why a filter could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// libseccomp refused it.
    #[error("could not compile the seccomp filter")]
    Compile(#[from] SeccompError),
    /// The compiled filter could not be kept.
    #[error("could not keep the compiled seccomp filter at {path}")]
    Keep {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn native(action: Action) -> ScmpAction {
    match action {
        Action::Allow => ScmpAction::Allow,
        Action::Errno(number) => ScmpAction::Errno(number),
        Action::Log => ScmpAction::Log,
        Action::Trace(number) => ScmpAction::Trace(number),
        Action::Trap => ScmpAction::Trap,
        Action::KillProcess => ScmpAction::KillProcess,
        Action::KillThread => ScmpAction::KillThread,
    }
}

fn native_condition(condition: &Condition) -> ScmpArgCompare {
    let operation = match condition.comparison {
        Comparison::Equal => ScmpCompareOp::Equal,
        Comparison::NotEqual => ScmpCompareOp::NotEqual,
        Comparison::Less => ScmpCompareOp::Less,
        Comparison::LessOrEqual => ScmpCompareOp::LessOrEqual,
        Comparison::Greater => ScmpCompareOp::Greater,
        Comparison::GreaterOrEqual => ScmpCompareOp::GreaterEqual,
        Comparison::Masked(mask) => ScmpCompareOp::MaskedEqual(mask),
    };
    ScmpArgCompare::new(condition.argument, operation, condition.value)
}

/// Compiles a filter to an array of `struct sock_filter`.
///
/// # Errors
/// When libseccomp refuses a rule.
pub fn compile(filter: &Filter) -> Result<Vec<u8>, FilterError> {
    let mut context = ScmpFilterContext::new(native(filter.default))?;
    // The 32-bit relatives of the processor too, or their system calls would be a way around.
    match std::env::consts::ARCH {
        "x86_64" => {
            context.add_arch(ScmpArch::X86)?.add_arch(ScmpArch::X32)?;
        }
        "aarch64" => {
            context.add_arch(ScmpArch::Arm)?;
        }
        _ => {}
    }
    // A call that is allowed whatever its arguments needs no second rule, and the library takes none.
    let mut decided = std::collections::HashSet::new();
    for rule in filter
        .rules
        .iter()
        .filter(|rule| rule.conditions.is_empty())
        .chain(filter.rules.iter().filter(|rule| !rule.conditions.is_empty()))
    {
        let action = native(rule.action);
        if action == native(filter.default) {
            continue;
        }
        let conditions: Vec<ScmpArgCompare> = rule.conditions.iter().map(native_condition).collect();
        for name in &rule.names {
            // A call that the library does not know gets the default, which is the safe side in an allow-list.
            let Ok(call) = ScmpSyscall::from_name(name) else { continue };
            if decided.contains(name) {
                continue;
            }
            if conditions.is_empty() {
                decided.insert(name.clone());
                context.add_rule(action, call)?;
            } else {
                context.add_rule_conditional(action, call, &conditions)?;
            }
        }
    }
    // The libc descriptor-free export needs a newer library than Debian's, so it goes through a temporary file.
    let keep = |source| FilterError::Keep { path: std::env::temp_dir(), source };
    let mut file = tempfile::tempfile().map_err(keep)?;
    context.export_bpf(&file)?;
    let mut bytes = Vec::new();
    io::Seek::rewind(&mut file).map_err(keep)?;
    io::Read::read_to_end(&mut file, &mut bytes).map_err(keep)?;
    Ok(bytes)
}

/// How a filter's file is called until it is whole.
const UNNAMED: &str = ".filter-";

/// Takes away what a process that was killed had begun to write below `directory`.
///
/// # Errors
/// When something of it cannot be removed.
pub fn sweep(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(UNNAMED.as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The compiled filter's file below `directory`, compiled first if it is not there.
///
/// # Errors
/// When it cannot be compiled or written.
pub fn cached(directory: &Path, filter: &Filter) -> Result<PathBuf, FilterError> {
    let key = serde_json::to_vec(filter).map_err(ProfileError::Form)?;
    // A newer engine may compile the same rules to something better.
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(std::env::consts::ARCH);
    hash.update(key);
    let path = directory.join(format!("{}.bpf", hex::encode(hash.finalize())));
    if path.exists() {
        return Ok(path);
    }
    let bytes = compile(filter)?;
    let keep = |source| FilterError::Keep { path: path.clone(), source };
    fs::create_dir_all(directory).map_err(keep)?;
    let mut file = tempfile::Builder::new().prefix(UNNAMED).tempfile_in(directory).map_err(keep)?;
    file.write_all(&bytes).map_err(keep)?;
    file.as_file().sync_all().map_err(keep)?;
    crash_point!("filter.written");
    file.persist(&path).map_err(|error| keep(error.error))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::capability;

    #[test]
    fn the_default_compiles_once() {
        let place = tempfile::tempdir().unwrap();
        let filter = default_profile(capability::resolve(&[], &[], false).unwrap(), std::env::consts::ARCH);
        let path = cached(place.path(), &filter).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() > 800 && bytes.len().is_multiple_of(8), "{}", bytes.len());
        let made = fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(cached(place.path(), &filter).unwrap(), path);
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), made);
    }
}

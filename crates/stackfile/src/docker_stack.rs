//! Pure. What `docker stack deploy` would not take of files that are right here: files that are to go both ways.
//!
//! Docker's loader reads the obsolete key `version`, as Compose no longer does: it takes 3 to 3.13 alone, and the same one in
//! every file. (docker/cli, `cli/compose/schema` and `cli/compose/loader`.)

use crate::code::Code;
use crate::diagnostic::{Diagnostic, Journal, Path, Place, Problem};
use crate::source::SourceFile;
use crate::tree::{Node, read};

/// The latest that Docker knows is 3.13.
const LATEST_MINOR: u32 = 13;

/// What is wrong with the versions of these files for `docker stack deploy`. Files that cannot be read say so elsewhere.
#[must_use]
pub fn docker_stack(files: &[SourceFile<'_>]) -> Vec<Diagnostic> {
    let mut journal = Journal::default();
    let mut first: Option<(String, &str)> = None;
    for file in files {
        let number = journal.add_file(file.name, file.text, true);
        // What reading says is said by whoever parses the file.
        let mut said_elsewhere = Journal::default();
        let Some(documents) = read::read(file.text, number, &mut said_elsewhere) else { continue };
        let Some((version, place)) = documents.first().and_then(version) else { continue };
        let path = Path::Root.key("version");
        if !is_known(&version) {
            journal.push(
                Problem::new(
                    Code::DockerStackVersion,
                    place,
                    &path,
                    format!("`docker stack` does not take a file of version `{version}`"),
                )
                .hint(format!("write `version: \"3.{LATEST_MINOR}\"`, or remove the line: it means nothing here")),
            );
        } else if let Some((other, name)) = &first
            && *other != version
        {
            journal.push(
                Problem::new(
                    Code::DockerStackVersions,
                    place,
                    &path,
                    format!(
                        "`docker stack` does not take version `{version}` together with version `{other}` of {name}"
                    ),
                )
                .hint("write the same version into every file"),
            );
        }
        first.get_or_insert((version, file.name));
    }
    journal.finish()
}

/// The version as it is written, and where.
fn version(document: &Node) -> Option<(String, Place)> {
    let node = document.get("version")?;
    let text = node.scalar_text()?;
    Some((text, node.place))
}

fn is_known(version: &str) -> bool {
    match version.split_once('.') {
        None => version == "3",
        Some(("3", minor)) => minor.parse().is_ok_and(|minor: u32| minor <= LATEST_MINOR),
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_known;

    #[test]
    fn the_versions_that_docker_knows() {
        for known in ["3", "3.0", "3.8", "3.13"] {
            assert!(is_known(known), "{known}");
        }
        for unknown in ["", "1.0", "2", "2.1", "3.14", "3.x", "4", "12345"] {
            assert!(!is_known(unknown), "{unknown}");
        }
    }
}

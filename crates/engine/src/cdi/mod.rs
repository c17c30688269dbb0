//! Devices by name: descriptions of the Container Device Interface that vendors put into a few directories of the host. They
//! are read when they are needed, so that a device that was plugged in since is there.

mod catalogue;
mod document;
mod name;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use catalogue::{Catalogue, CdiError, Description, HostNode, Injection};
pub use document::{Document, Format, parse};
pub use name::{is_device, is_kind, is_qualified};

/// Where descriptions are unless said otherwise: those of a directory go before those of one that stands before it.
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// A longer description is no description.
const LONGEST: u64 = 16 << 20;

/// Reads all descriptions in these directories; one that is not there has none. Blocks.
#[must_use]
pub fn read(directories: &[PathBuf]) -> Catalogue {
    let mut all = Vec::new();
    for (priority, directory) in directories.iter().enumerate() {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                all.push(Description { path: directory.clone(), priority, document: Err(error.to_string()) });
                continue;
            }
        };
        let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        // So that what is told does not depend on the file system.
        paths.sort();
        for path in paths {
            let format = match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => Format::Json,
                Some("yaml") => Format::Yaml,
                _ => continue,
            };
            let document = read_file(&path).and_then(|text| parse(&text, format));
            all.push(Description { path, priority, document });
        }
    }
    Catalogue::new(all)
}

fn read_file(path: &Path) -> Result<String, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > LONGEST {
        return Err(format!("it is no file, or longer than {LONGEST} bytes"));
    }
    fs::read_to_string(path).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_of_both_formats_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| directory.path().join(name));
        fs::create_dir_all(one.join("more.yaml")).unwrap();
        fs::create_dir(&two).unwrap();
        let yaml = "cdiVersion: 0.5.0\nkind: a.b/c\ndevices: [{name: x, containerEdits: {env: [A=1]}}]\n";
        fs::write(one.join("a.yaml"), yaml).unwrap();
        fs::write(one.join("README"), "nothing").unwrap();
        let json = r#"{"cdiVersion": "0.5.0", "kind": "a.b/c", "devices": [{"name": "y", "containerEdits": {"env": ["A=1"]}}]}"#;
        fs::write(two.join("b.json"), json).unwrap();
        fs::write(two.join("c.json"), "{").unwrap();
        let catalogue = read(&[one, two, directory.path().join("absent")]);
        assert_eq!(catalogue.names().collect::<Vec<_>>(), ["a.b/c=x", "a.b/c=y"]);
        let problems = catalogue.problems();
        assert!(problems[0].contains("one/more.yaml: it is no file"), "{problems:?}");
        assert!(problems[1].contains("two/c.json: ") && problems[1].contains("line 1"), "{problems:?}");
    }
}

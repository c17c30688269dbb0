//! Pure. `env_file` and `label_file`: what the files say becomes part of `environment` and `labels`.

use std::cell::Cell;

use indexmap::IndexMap;

use crate::code::Code;
use crate::diagnostic::{Journal, Path, Problem};
use crate::dotenv;
use crate::load::report_environment_file;
use crate::paths;
use crate::source::{Environment, FileError, Files};
use crate::tree::{Mapping, Node, Value, insert};

/// Reads the files of every service, and looks up the variables that have no value of their own.
pub(crate) fn read_files(
    root: &mut Node,
    directory: &str,
    reader: &dyn Files,
    environment: &Environment,
    journal: &mut Journal,
) {
    let services =
        root.as_mapping_mut().and_then(|top| top.get_mut("services")).and_then(|entry| entry.node.as_mapping_mut());
    let path = Path::Key(&Path::Root, "services");
    let read = Reading { room: Cell::new(MOST_BYTES), directory, reader, environment };
    for (name, entry) in services.into_iter().flatten() {
        let path = path.key(name);
        let Some(service) = entry.node.as_mapping_mut() else { continue };
        read.environment_files(service, &path, journal);
        read.label_files(service, &path, journal);
    }
}

/// How much the files of all services may have together, in bytes.
const MOST_BYTES: usize = 16 << 20;

struct Reading<'a> {
    /// How many bytes may still be read.
    room: Cell<usize>,
    directory: &'a str,
    reader: &'a dyn Files,
    environment: &'a Environment,
}

impl Reading<'_> {
    fn read(&self, name: &str) -> Result<String, FileError> {
        let text = self.reader.read(&paths::join(self.directory, name))?;
        let Some(room) = self.room.get().checked_sub(text.len()) else {
            return Err(FileError::Other(format!(
                "the environment and label files of this stack have more than {MOST_BYTES} bytes together"
            )));
        };
        self.room.set(room);
        Ok(text)
    }

    fn environment_files(&self, service: &mut Mapping, path: &Path<'_>, journal: &mut Journal) {
        let files = service.get("env_file").map(|entry| entry.node.clone());
        let mut values: IndexMap<String, Node> = IndexMap::new();
        let list = path.key("env_file");
        for (index, file) in files.as_ref().and_then(Node::as_sequence).unwrap_or_default().iter().enumerate() {
            let path = list.index(index);
            let Some(name) = file.get("path").and_then(Node::as_text) else { continue };
            let required = !matches!(file.get("required").map(|node| &node.value), Some(Value::Boolean(false)));
            let format = file.get("format").and_then(Node::as_text).unwrap_or_default();
            let text = match self.read(name) {
                Ok(text) => text,
                Err(FileError::NotFound) if !required => continue,
                Err(error) => {
                    unreadable(file, "environment file", &error, &path, journal);
                    continue;
                }
            };
            let outside = |name: &str| self.environment.get(name).map(str::to_owned);
            let before = |name: &str| values.get(name).and_then(|node| node.as_text().map(str::to_owned));
            let read = match format {
                "" => dotenv::parse(&text, &outside, &before),
                "raw" => dotenv::parse_raw(&text, &outside),
                _ => {
                    let node = file.get("format").unwrap_or(file);
                    journal.push(
                        Problem::new(
                            Code::NotAllowed,
                            node.place,
                            &path.key("format"),
                            format!("{} is not a format of environment files", node.quoted()),
                        )
                        .hint("leave it out, or write `raw`"),
                    );
                    continue;
                }
            };
            match read {
                Ok(read) => {
                    for (line, name) in read.left_out {
                        journal.push(
                            Problem::new(
                                Code::Noted,
                                file.place,
                                &path,
                                format!("line {line} of this file sets `{name}`, which is left out: names cannot begin with a digit"),
                            ),
                        );
                    }
                    for (name, value) in read.values {
                        let mut node = file.part(value);
                        node.interpolated = true;
                        node.written = None;
                        values.insert(name, node);
                    }
                }
                Err(error) => report_environment_file(journal, name, &text, &error),
            }
        }
        self.merge_values(service, "environment", values, true);
    }

    fn label_files(&self, service: &mut Mapping, path: &Path<'_>, journal: &mut Journal) {
        let files = service.get("label_file").map(|entry| entry.node.clone());
        let mut values: IndexMap<String, Node> = IndexMap::new();
        let list = path.key("label_file");
        for (index, file) in files.as_ref().and_then(Node::as_sequence).unwrap_or_default().iter().enumerate() {
            let Some(name) = file.as_text() else { continue };
            match self.read(name) {
                Ok(text) => {
                    match dotenv::parse(&text, &|name| self.environment.get(name).map(str::to_owned), &|_| None) {
                        Ok(read) => {
                            for (name, value) in read.values {
                                values.insert(name, file.part(value));
                            }
                        }
                        Err(error) => report_environment_file(journal, name, &text, &error),
                    }
                }
                Err(error) => unreadable(file, "label file", &error, &list.index(index), journal),
            }
        }
        self.merge_values(service, "labels", values, false);
    }

    /// What the service says itself is stronger than its files. A variable without a value has the one that it has
    /// outside, if any.
    fn merge_values(&self, service: &mut Mapping, key: &str, values: IndexMap<String, Node>, look_up: bool) {
        if values.is_empty() && !service.contains_key(key) {
            return;
        }
        let mut merged = Mapping::new();
        for (name, node) in values {
            insert(&mut merged, &name, node);
        }
        // It stays where it is among the keys, so that the printed form is the same when it is read again.
        let Some(own) = service.get_mut(key) else {
            let place = merged.values().next().map(|entry| entry.key_place).unwrap_or_default();
            insert(service, key, Node::mapping(merged, place));
            return;
        };
        let Value::Mapping(own_mapping) = &mut own.node.value else { return };
        let own_mapping = std::mem::take(own_mapping);
        for (name, mut entry) in own_mapping {
            if look_up && entry.node.is_null() {
                if let Some(value) = self.environment.get(&name) {
                    entry.node.value = Value::Text(value.to_owned());
                    entry.node.interpolated = true;
                } else if merged.contains_key(&name) {
                    continue;
                }
            }
            merged.insert(name, entry);
        }
        own.node = Node::mapping(merged, own.node.place);
    }
}

fn unreadable(node: &Node, noun: &str, error: &FileError, path: &Path<'_>, journal: &mut Journal) {
    let shown = node.get("path").unwrap_or(node);
    let problem = Problem::new(
        Code::Unreadable,
        shown.place,
        path,
        format!("the {noun} {} cannot be read: {error}", shown.quoted()),
    );
    journal.push(match (error, noun) {
        (FileError::NotFound, "environment file") => {
            problem.hint("write `- {path: FILE, required: false}` if it may be missing")
        }
        _ => problem,
    });
}

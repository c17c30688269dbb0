//! Pure. Values of a canonical tree as Rust types, each with the diagnostic for what does not fit.

use stack_model::Milliseconds;

use crate::code::Code;
use crate::diagnostic::{Journal, Path, Place, Problem};
use crate::schema::check::{as_boolean, as_integer, as_number};
use crate::short::{bytes, duration};
use crate::tree::{Mapping, Node, Value};

/// A mapping that is being read, with its path and the journal.
pub(crate) struct Fields<'a> {
    pub mapping: Option<&'a Mapping>,
    pub path: Path<'a>,
    /// The place of the mapping, for what is missing in it.
    pub place: Place,
}

impl<'a> Fields<'a> {
    pub fn new(node: &'a Node, path: Path<'a>) -> Self {
        Self { mapping: node.as_mapping(), path, place: node.place }
    }

    /// The value of a key; an empty value is none.
    pub fn node(&self, key: &str) -> Option<&'a Node> {
        self.mapping?.get(key).map(|entry| &entry.node).filter(|node| !node.is_null())
    }

    /// The place of a key.
    pub fn key_place(&self, key: &str) -> Place {
        self.mapping.and_then(|mapping| mapping.get(key)).map_or(self.place, |entry| entry.key_place)
    }

    /// The mapping that is the value of a key.
    pub fn fields<'b>(&'b self, key: &'b str) -> Fields<'b> {
        let node = self.node(key);
        Fields {
            mapping: node.and_then(Node::as_mapping),
            path: Path::Key(&self.path, key),
            place: node.map_or(self.place, |node| node.place),
        }
    }

    pub fn items(&self, key: &str) -> &'a [Node] {
        self.node(key).and_then(Node::as_sequence).unwrap_or_default()
    }

    pub fn text(&self, key: &str, journal: &mut Journal) -> Option<String> {
        let node = self.node(key)?;
        text(node, &self.path.key(key), journal)
    }

    /// A value that is written as a text of its own form; `what` names the form, with an example.
    pub fn parsed<T: std::str::FromStr>(&self, key: &str, what: &str, journal: &mut Journal) -> Option<T> {
        let node = self.node(key)?;
        let path = self.path.key(key);
        let value = text(node, &path, journal)?.parse().ok();
        if value.is_none() {
            wrong(node, &path, what, journal);
        }
        value
    }

    pub fn boolean(&self, key: &str, journal: &mut Journal) -> Option<bool> {
        let node = self.node(key)?;
        let value = as_boolean(node);
        if value.is_none() {
            wrong(node, &self.path.key(key), "`true` or `false`", journal);
        }
        value
    }

    /// A whole number from `least` to `most`.
    pub fn integer(&self, key: &str, least: i64, most: i64, journal: &mut Journal) -> Option<i64> {
        let node = self.node(key)?;
        let path = self.path.key(key);
        let Some(value) = as_integer(node) else {
            wrong(node, &path, "a whole number", journal);
            return None;
        };
        if (least..=most).contains(&value) {
            return Some(value);
        }
        let range = match (least, most) {
            (least, i64::MAX | 0xffff_ffff) => format!("{least} or more"),
            (least, most) => format!("from {least} to {most}"),
        };
        journal.push(
            Problem::new(Code::OutOfRange, node.place, &path, format!("{} is out of range", node.quoted()))
                .hint(format!("`{key}` is {range}")),
        );
        None
    }

    /// A whole number from 0.
    pub fn count(&self, key: &str, journal: &mut Journal) -> Option<u32> {
        self.integer(key, 0, i64::from(u32::MAX), journal).and_then(|value| u32::try_from(value).ok())
    }

    pub fn number(&self, key: &str, journal: &mut Journal) -> Option<f64> {
        let node = self.node(key)?;
        let value = as_number(node).filter(|value| value.is_finite());
        if value.is_none() {
            wrong(node, &self.path.key(key), "a number", journal);
        }
        value
    }

    /// A size in bytes, not negative.
    pub fn size(&self, key: &str, journal: &mut Journal) -> Option<u64> {
        let node = self.node(key)?;
        let path = self.path.key(key);
        let value = match &node.value {
            Value::Integer(value) => *value,
            Value::Text(text) => match bytes::parse(text) {
                Ok(value) => value,
                Err(error) => {
                    journal.push(
                        Problem::new(
                            Code::BadSize,
                            node.place,
                            &path,
                            format!("{} is not a size: {error}", node.quoted()),
                        )
                        .hint("write a number and a unit: `512k`, `64m`, `1.5g`"),
                    );
                    return None;
                }
            },
            _ => {
                wrong(node, &path, "a size such as `64m`", journal);
                return None;
            }
        };
        let size = u64::try_from(value).ok();
        if size.is_none() {
            journal.push(
                Problem::new(Code::OutOfRange, node.place, &path, format!("{} is negative", node.quoted()))
                    .hint("leave the key out for no limit"),
            );
        }
        size
    }

    pub fn duration(&self, key: &str, journal: &mut Journal) -> Option<Milliseconds> {
        let node = self.node(key)?;
        let path = self.path.key(key);
        match node.as_text().map(duration::parse) {
            Some(Ok(value)) => Some(value.into()),
            Some(Err(error)) => {
                journal.push(
                    Problem::new(
                        Code::BadDuration,
                        node.place,
                        &path,
                        format!("{} is not a duration: {error}", node.quoted()),
                    )
                    .hint("write numbers with units: `10s`, `1m30s`, `250ms`"),
                );
                None
            }
            None => {
                wrong(node, &path, "a duration such as `1m30s`", journal);
                None
            }
        }
    }

    /// A list of texts.
    pub fn texts(&self, key: &str, journal: &mut Journal) -> Option<Vec<String>> {
        let node = self.node(key)?;
        let path = self.path.key(key);
        let Some(items) = node.as_sequence() else {
            wrong(node, &path, "a list of texts", journal);
            return None;
        };
        Some(items.iter().enumerate().filter_map(|(index, item)| text(item, &path.index(index), journal)).collect())
    }

    /// A mapping from texts to texts.
    pub fn pairs(&self, key: &str, journal: &mut Journal) -> std::collections::BTreeMap<String, String> {
        let fields = self.fields(key);
        let mut pairs = std::collections::BTreeMap::new();
        for (name, entry) in fields.mapping.into_iter().flatten() {
            if entry.node.is_null() {
                pairs.insert(name.clone(), String::new());
            } else if let Some(value) = text(&entry.node, &fields.path.key(name), journal) {
                pairs.insert(name.clone(), value);
            }
        }
        pairs
    }
}

/// A scalar as text.
pub(crate) fn text(node: &Node, path: &Path<'_>, journal: &mut Journal) -> Option<String> {
    let value = node.scalar_text();
    match &value {
        None => wrong(node, path, "a text", journal),
        Some(text) if text.contains('\0') => {
            journal.push(Problem::new(
                Code::BadValue,
                node.place,
                path,
                "the text has a NUL character, which no program can be given",
            ));
            return None;
        }
        Some(_) => {}
    }
    value
}

fn wrong(node: &Node, path: &Path<'_>, expected: &str, journal: &mut Journal) {
    journal.push(Problem::new(
        Code::WrongType,
        node.place,
        path,
        format!("`{path}` takes {expected}, and this is {}", node.described()),
    ));
}

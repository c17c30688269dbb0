//! Pure. A YAML document as a tree in which every value knows its place.
//!
//! Serde would be shorter and is not enough: interpolation comes before typing, `!reset` and `!override` are tags that
//! merging needs, and every diagnostic needs the place of the very value that it is about.

pub(crate) mod read;
pub(crate) mod scalar;

use indexmap::IndexMap;

use crate::diagnostic::Place;

/// One value and where it was written.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub value: Value,
    pub place: Place,
    /// What its tag says about merging.
    pub directive: Option<Directive>,
    /// What was written, where that is not what the value prints as: `0644`, `${PORT}`.
    pub written: Option<Box<str>>,
    /// It holds what variables gave, which a diagnostic does not quote.
    pub interpolated: bool,
    /// A scalar without quotes.
    pub plain: bool,
}

/// The value of a node.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Sequence(Vec<Node>),
    Mapping(Mapping),
}

/// Keys in the order of the file.
pub(crate) type Mapping = IndexMap<String, Entry>;

/// One value of a mapping and the place of its key.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key_place: Place,
    pub node: Node,
}

/// What a tag says about merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Directive {
    /// `!reset`: the value of the files before is removed.
    Reset,
    /// `!override`: the value of the files before is replaced and not merged.
    Override,
}

impl Node {
    pub fn new(value: Value, place: Place) -> Self {
        Self { value, place, directive: None, written: None, interpolated: false, plain: false }
    }

    pub fn null(place: Place) -> Self {
        Self::new(Value::Null, place)
    }

    pub fn text(text: impl Into<String>, place: Place) -> Self {
        Self::new(Value::Text(text.into()), place)
    }

    pub fn boolean(value: bool, place: Place) -> Self {
        Self::new(Value::Boolean(value), place)
    }

    pub fn integer(value: i64, place: Place) -> Self {
        Self::new(Value::Integer(value), place)
    }

    pub fn sequence(items: Vec<Self>, place: Place) -> Self {
        Self::new(Value::Sequence(items), place)
    }

    pub fn mapping(mapping: Mapping, place: Place) -> Self {
        Self::new(Value::Mapping(mapping), place)
    }

    /// A text made from a part of this node: it has its place and its manners.
    pub fn part(&self, text: impl Into<String>) -> Self {
        let mut node = Self::text(text, self.place);
        node.interpolated = self.interpolated;
        if self.interpolated {
            node.written.clone_from(&self.written);
        }
        node
    }

    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_mapping(&self) -> Option<&Mapping> {
        match &self.value {
            Value::Mapping(mapping) => Some(mapping),
            _ => None,
        }
    }

    pub fn as_mapping_mut(&mut self) -> Option<&mut Mapping> {
        match &mut self.value {
            Value::Mapping(mapping) => Some(mapping),
            _ => None,
        }
    }

    pub fn as_sequence(&self) -> Option<&[Self]> {
        match &self.value {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The value of `key`, where this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_mapping()?.get(key).map(|entry| &entry.node)
    }

    /// A scalar as text, as Docker Compose prints numbers and booleans in environments and labels. `None` for null,
    /// sequences and mappings.
    pub fn scalar_text(&self) -> Option<String> {
        match &self.value {
            Value::Text(text) => Some(text.clone()),
            Value::Boolean(value) => Some(value.to_string()),
            Value::Integer(value) => Some(value.to_string()),
            Value::Float(value) => Some(scalar::print_float(*value)),
            Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    /// What it is, for messages: `a list`, `the number 5`, `` `abc` ``. Never what a variable gave.
    pub fn described(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
            Value::Boolean(_) => format!("the boolean {}", self.quoted()),
            Value::Integer(_) | Value::Float(_) => format!("the number {}", self.quoted()),
            Value::Text(_) => format!("the text {}", self.quoted()),
        }
    }

    /// A scalar in backquotes as it was written, shortened. Never what a variable gave.
    pub fn quoted(&self) -> String {
        let text = match &self.written {
            Some(written) => written.to_string(),
            None if self.interpolated => return "the value".to_owned(),
            None => self.scalar_text().unwrap_or_default(),
        };
        let text = shortened(&text);
        if self.interpolated { format!("the value of `{text}`") } else { format!("`{text}`") }
    }
}

/// At most 80 characters, on one line.
pub(crate) fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or("");
    if line.chars().count() > 80 || line.len() < text.trim_end().len() {
        format!("{}…", line.chars().take(80).collect::<String>())
    } else {
        line.to_owned()
    }
}

impl Node {
    /// As a JSON value, for printing and comparing. Not-a-number and infinities, which JSON lacks, become texts.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Boolean(value) => (*value).into(),
            Value::Integer(value) => (*value).into(),
            Value::Float(value) => serde_json::Number::from_f64(*value)
                .map_or_else(|| scalar::print_float(*value).into(), serde_json::Value::Number),
            Value::Text(text) => text.clone().into(),
            Value::Sequence(items) => items.iter().map(Self::to_json).collect(),
            Value::Mapping(mapping) => {
                serde_json::Value::Object(mapping.iter().map(|(key, entry)| (key.clone(), entry.node.to_json())).collect())
            }
        }
    }
}

/// Adds a value that no file has, at the place of what gave rise to it.
pub(crate) fn insert(mapping: &mut Mapping, key: &str, node: Node) {
    let key_place = node.place;
    mapping.insert(key.to_owned(), Entry { key_place, node });
}

//! Pure. Short forms to long forms, so that merging and lowering know only one way to say a thing.
//!
//! A value whose type is wrong stays as it is: the type check has reported it.

mod service;

use crate::code::Code;
use crate::diagnostic::{Journal, Path, Problem};
use crate::tree::{Entry, Mapping, Node, Value, insert};

/// Makes every short form of one file long.
pub(crate) fn canonicalize(root: &mut Node, journal: &mut Journal) {
    let Some(top) = root.as_mapping_mut() else { return };
    for (key, entry) in top.iter_mut() {
        let path = Path::Root.key(key);
        match key.as_str() {
            "services" => each(&mut entry.node, &path, &mut |node, path| service::service(node, path, journal)),
            "networks" | "volumes" | "secrets" | "configs" => each(&mut entry.node, &path, &mut |node, path| {
                resource(node, path, journal);
            }),
            "include" => list_items(&mut entry.node, include),
            "models" => {}
            _ => {}
        }
    }
}

fn each(node: &mut Node, path: &Path<'_>, change: &mut dyn FnMut(&mut Node, &Path<'_>)) {
    for (key, entry) in node.as_mapping_mut().into_iter().flatten() {
        if !key.starts_with("x-") || entry.node.as_mapping().is_some() {
            change(&mut entry.node, &path.key(key));
        }
    }
}

/// `external: {name: x}` to `external: true` and `name: x`; labels and options to mappings of texts.
fn resource(node: &mut Node, path: &Path<'_>, journal: &mut Journal) {
    if let Some(mapping) = node.as_mapping_mut() {
        field(mapping, "labels", |node| key_values(node, Missing::Empty));
        field(mapping, "driver_opts", texts_of_mapping);
        let named = mapping.get("external").and_then(|entry| entry.node.get("name")).cloned();
        if let Some(name) = named {
            field(mapping, "external", |node| {
                let place = node.place;
                *node = Node::boolean(true, place);
            });
            match mapping.get("name") {
                None => insert(mapping, "name", name),
                Some(own) if own.node.as_text() != name.as_text() => journal.push(
                    Problem::new(
                        Code::Conflict,
                        name.place,
                        &path.key("external"),
                        "`external.name` and `name` differ",
                    )
                    .hint("write `external: true`, and the name under `name` alone"),
                ),
                Some(_) => {}
            }
        }
    }
}

fn include(node: &mut Node) {
    if node.as_text().is_some() {
        let path = node.clone();
        let mut mapping = Mapping::new();
        insert(&mut mapping, "path", path);
        *node = Node { directive: node.directive, ..Node::mapping(mapping, node.place) };
    }
    if let Some(mapping) = node.as_mapping_mut() {
        field(mapping, "path", list);
        field(mapping, "env_file", list);
    }
}

/// Changes the value of a key, if it is there.
pub(crate) fn field(mapping: &mut Mapping, key: &str, change: impl FnOnce(&mut Node)) {
    if let Some(entry) = mapping.get_mut(key) {
        change(&mut entry.node);
    }
}

/// Changes every item of a list.
pub(crate) fn list_items(node: &mut Node, mut change: impl FnMut(&mut Node)) {
    if let Value::Sequence(items) = &mut node.value {
        items.iter_mut().for_each(&mut change);
    }
}

/// One value to a list of it.
pub(crate) fn list(node: &mut Node) {
    if matches!(node.value, Value::Text(_) | Value::Integer(_) | Value::Float(_)) {
        let item = Node { directive: None, ..node.clone() };
        node.value = Value::Sequence(vec![item]);
    }
}

/// What a key without a value means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// An empty text: labels.
    Empty,
    /// Nothing, to be looked up later: environments.
    Null,
}

/// A list of `KEY=value` or a mapping of scalars, to a mapping of texts.
pub(crate) fn key_values(node: &mut Node, missing: Missing) {
    match &mut node.value {
        Value::Sequence(items) if items.iter().all(|item| item.as_text().is_some()) => {
            let mut mapping = Mapping::new();
            for item in items.iter() {
                let text = item.as_text().unwrap_or_default();
                let (key, value) = match text.split_once('=') {
                    Some((key, value)) => (key, item.part(value)),
                    None if missing == Missing::Empty => (text, item.part("")),
                    None => (text, Node::null(item.place)),
                };
                mapping.insert(key.to_owned(), Entry { key_place: item.place, node: value });
            }
            node.value = Value::Mapping(mapping);
        }
        Value::Mapping(mapping) => {
            for entry in mapping.values_mut() {
                if entry.node.is_null() && missing == Missing::Empty {
                    entry.node.value = Value::Text(String::new());
                }
                text(&mut entry.node);
            }
        }
        _ => {}
    }
}

/// A scalar to a text.
pub(crate) fn text(node: &mut Node) {
    if !matches!(node.value, Value::Text(_))
        && let Some(text) = node.scalar_text()
    {
        node.value = Value::Text(text);
    }
}

/// Scalars of a mapping to texts.
pub(crate) fn texts_of_mapping(node: &mut Node) {
    for (_, entry) in node.as_mapping_mut().into_iter().flatten() {
        text(&mut entry.node);
    }
}

/// A list of names to a mapping from names to what `make` gives.
pub(crate) fn names_to_mapping(node: &mut Node, make: impl Fn(&Node) -> Node) {
    if let Value::Sequence(items) = &node.value
        && items.iter().all(|item| item.as_text().is_some())
    {
        let mapping = items
            .iter()
            .map(|item| {
                (item.as_text().unwrap_or_default().to_owned(), Entry { key_place: item.place, node: make(item) })
            })
            .collect();
        node.value = Value::Mapping(mapping);
    }
}

/// Text to a mapping with one key.
pub(crate) fn text_to_mapping(node: &mut Node, key: &str) {
    if node.as_text().is_some() {
        let mut mapping = Mapping::new();
        insert(&mut mapping, key, Node { directive: None, ..node.clone() });
        node.value = Value::Mapping(mapping);
    }
}

//! Pure. Does a file have only known keys, each with a value of its type?

use std::collections::BTreeSet;

use super::{Field, Object, STACK, Shape, Support};
use crate::code::Code;
use crate::diagnostic::{Journal, Path, Problem, did_you_mean};
use crate::short::{bytes, duration};
use crate::tree::{Mapping, Node, Value, scalar};

/// Reports every unknown key and every value of a wrong type in one file.
pub(crate) fn check_file(root: &Node, journal: &mut Journal) {
    check(root, &Shape::Object(&STACK), &Path::Root, journal);
}

/// Reports every missing key, once all files are merged.
pub(crate) fn check_required(root: &Node, journal: &mut Journal) {
    required(root, &Shape::Object(&STACK), &Path::Root, journal);
}

/// Reports every key that is refused or accepted with a note, once all files are merged and short forms are long.
pub(crate) fn check_support(root: &Node, journal: &mut Journal) {
    support(root, &Shape::Object(&STACK), &Path::Root, &mut BTreeSet::new(), journal);
}

fn check(node: &Node, shape: &Shape, path: &Path<'_>, journal: &mut Journal) {
    if node.directive == Some(crate::tree::Directive::Reset) {
        return;
    }
    if journal.variables_left && node.as_text().is_some_and(|text| text.contains('$')) {
        return;
    }
    match shape {
        Shape::Any => {}
        Shape::Text => match &node.value {
            Value::Text(_) => {}
            _ => wrong_type(node, shape, path, journal),
        },
        Shape::Null => {
            if !node.is_null() {
                wrong_type(node, shape, path, journal);
            }
        }
        Shape::Integer => {
            if as_integer(node).is_none() {
                wrong_type(node, shape, path, journal);
            }
        }
        Shape::Number => {
            if as_number(node).is_none() {
                wrong_type(node, shape, path, journal);
            }
        }
        Shape::StrictBoolean => {
            let fits = matches!(node.value, Value::Boolean(_)) || (node.interpolated && as_boolean(node).is_some());
            if !fits {
                wrong_type(node, shape, path, journal);
            }
        }
        Shape::Boolean => match &node.value {
            Value::Boolean(_) => {}
            Value::Text(text) => match as_boolean(node) {
                Some(value) if !matches!(text.as_str(), "true" | "false" | "True" | "False" | "TRUE" | "FALSE") => {
                    journal.push(
                        Problem::new(
                            Code::OldBoolean,
                            node.place,
                            path,
                            format!("{} is read as the boolean `{value}`", node.quoted()),
                        )
                        .hint(format!("write `{value}`")),
                    );
                }
                Some(_) => {}
                None => wrong_type(node, shape, path, journal),
            },
            _ => wrong_type(node, shape, path, journal),
        },
        Shape::Size => match &node.value {
            Value::Text(text) => {
                if let Err(error) = bytes::parse(text) {
                    journal.push(
                        Problem::new(
                            Code::BadSize,
                            node.place,
                            path,
                            format!("{} is not a size: {error}", node.quoted()),
                        )
                        .hint("write a number and a unit: `512k`, `64m`, `1.5g`"),
                    );
                }
            }
            Value::Integer(_) | Value::Float(_) => {}
            _ => wrong_type(node, shape, path, journal),
        },
        Shape::Duration => match &node.value {
            Value::Text(text) => {
                if let Err(error) = duration::parse(text) {
                    journal.push(
                        Problem::new(
                            Code::BadDuration,
                            node.place,
                            path,
                            format!("{} is not a duration: {error}", node.quoted()),
                        )
                        .hint("write numbers with units: `10s`, `1m30s`, `250ms`"),
                    );
                }
            }
            _ => wrong_type(node, shape, path, journal),
        },
        Shape::TextOrNumber => {
            if !matches!(node.value, Value::Text(_) | Value::Integer(_) | Value::Float(_)) {
                wrong_type(node, shape, path, journal);
            }
        }
        Shape::Scalar => {
            if !matches!(node.value, Value::Text(_) | Value::Integer(_) | Value::Float(_) | Value::Boolean(_)) {
                wrong_type(node, shape, path, journal);
            }
        }
        Shape::Choice(choices) => match &node.value {
            Value::Text(text) if choices.contains(&text.as_str()) => {}
            Value::Text(text) => {
                let problem = Problem::new(
                    Code::NotAllowed,
                    node.place,
                    path,
                    format!("{} is not allowed here: expected {}", node.quoted(), shape.expected()),
                );
                journal.push(match did_you_mean(text, choices.iter().copied()).filter(|_| !node.interpolated) {
                    Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
                    None => problem,
                });
            }
            _ => wrong_type(node, shape, path, journal),
        },
        Shape::List(item_shape) | Shape::UniqueList(item_shape) => match &node.value {
            Value::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    check(item, item_shape, &path.index(index), journal);
                }
                if matches!(shape, Shape::UniqueList(_)) {
                    unique(items, path, journal);
                }
            }
            _ => wrong_type(node, shape, path, journal),
        },
        Shape::Entries(value_shape) | Shape::Named(value_shape) => match &node.value {
            Value::Mapping(mapping) => {
                for (key, entry) in mapping {
                    let path = path.key(key);
                    if matches!(shape, Shape::Named(_)) && !may_be_name(key, journal) {
                        not_a_name(&format!("`{}`", crate::tree::shortened(key)), entry.key_place, &path, journal);
                        continue;
                    }
                    number_as_text(&entry.node, shape, &path, journal);
                    check(&entry.node, value_shape, &path, journal);
                }
            }
            _ => wrong_type(node, shape, path, journal),
        },
        Shape::Object(object) => match &node.value {
            Value::Mapping(mapping) => check_object(mapping, object, path, journal),
            _ => wrong_type(node, shape, path, journal),
        },
        Shape::Either(shapes) => match shapes.iter().find(|shape| same_kind(node, shape)) {
            Some(fitting) => {
                check(node, fitting, path, journal);
                if shapes.iter().any(|shape| matches!(shape, Shape::Named(_))) {
                    names(node, path, journal);
                }
            }
            None => wrong_type(node, shape, path, journal),
        },
    }
}

/// The items of a list that is the short form of a mapping from names.
fn names(list: &Node, path: &Path<'_>, journal: &mut Journal) {
    for (index, item) in list.as_sequence().unwrap_or_default().iter().enumerate() {
        if item.as_text().is_some_and(|name| !may_be_name(name, journal)) {
            not_a_name(&item.quoted(), item.place, &path.index(index), journal);
        }
    }
}

fn may_be_name(text: &str, journal: &Journal) -> bool {
    is_name(text) || (journal.variables_left && text.contains('$'))
}

fn not_a_name(shown: &str, place: crate::diagnostic::Place, path: &Path<'_>, journal: &mut Journal) {
    journal.push(
        Problem::new(Code::BadName, place, path, format!("{shown} cannot be a name"))
            .hint("names have letters, digits, `.`, `_` and `-`"),
    );
}

/// A value that becomes a text, and not the one that was written.
fn number_as_text(node: &Node, shape: &Shape, path: &Path<'_>, journal: &mut Journal) {
    let becomes_text = match shape {
        Shape::Entries(Shape::Either(shapes)) => {
            shapes.iter().any(|shape| matches!(shape, Shape::Scalar | Shape::TextOrNumber))
        }
        Shape::Entries(Shape::Scalar | Shape::TextOrNumber) => true,
        _ => false,
    };
    if let (true, false, Some(written), Some(text)) =
        (becomes_text, node.interpolated, &node.written, node.scalar_text())
    {
        journal.push(
            Problem::new(
                Code::NumberAsText,
                node.place,
                path,
                format!("`{written}` without quotes is a number for YAML, and becomes the text `{text}`"),
            )
            .hint(format!("put it in quotes if it is meant as it is written: `\"{written}\"`")),
        );
    }
}

fn check_object(mapping: &Mapping, object: &'static Object, path: &Path<'_>, journal: &mut Journal) {
    for (key, entry) in mapping {
        // What begins with `x-stack-` is this program's own, so a mistyped one is told.
        if object.extensions && key.starts_with("x-") && !key.starts_with("x-stack-") {
            continue;
        }
        let path = path.key(key);
        let Some(field) = object.field(key) else {
            unknown_key(key, entry.key_place, object, &path, journal);
            continue;
        };
        if entry.node.is_null() && !accepts_null(&field.shape) {
            empty_value(field, entry, &path, journal);
            continue;
        }
        check(&entry.node, &field.shape, &path, journal);
    }
}

/// A key without a value is, for Docker Compose, as if the key were not there, where it takes a mapping or a list at the
/// top; elsewhere the type is wrong.
fn empty_value(field: &Field, entry: &crate::tree::Entry, path: &Path<'_>, journal: &mut Journal) {
    let lenient = matches!(field.shape, Shape::Named(_))
        || matches!(field.shape, Shape::Either(shapes) if shapes.iter().any(|shape| matches!(shape, Shape::Entries(_))));
    if !lenient {
        wrong_type_at(&entry.node, entry.key_place, &field.shape, path, journal);
    }
}

fn accepts_null(shape: &Shape) -> bool {
    match shape {
        Shape::Null | Shape::Any => true,
        Shape::Either(shapes) => shapes.iter().any(accepts_null),
        _ => false,
    }
}

fn unknown_key(key: &str, place: crate::diagnostic::Place, object: &Object, path: &Path<'_>, journal: &mut Journal) {
    let shown = crate::tree::shortened(key);
    let problem = Problem::new(Code::UnknownKey, place, path, format!("`{shown}` is not a key of {}", object.noun));
    if journal.is_full() {
        journal.push(problem);
        return;
    }
    let hint = match (elsewhere(key, object), did_you_mean(key, object.fields.iter().map(|field| field.name))) {
        (Some(noun), _) => format!("`{shown}` is a key of {noun}; check the indentation"),
        (None, Some(meant)) => format!("did you mean `{meant}`?"),
        (None, None) if object.extensions => "remove it, or begin it with `x-` if it is for another tool".to_owned(),
        (None, None) => "remove it".to_owned(),
    };
    journal.push(problem.hint(hint));
}

/// What else has such a key.
fn elsewhere(key: &str, here: &Object) -> Option<&'static str> {
    let candidates: [&'static Object; 2] = [&STACK, &super::SERVICE];
    let mut found = candidates.into_iter().filter(|object| !std::ptr::eq(*object, here));
    found.find(|object| object.field(key).is_some()).map(|object| object.noun).or_else(|| {
        let deploy = super::SERVICE.field("deploy")?;
        let Shape::Either([Shape::Object(deploy), ..]) = deploy.shape else { return None };
        (!std::ptr::eq(*deploy, here) && deploy.field(key).is_some()).then_some(deploy.noun)
    })
}

fn unique(items: &[Node], path: &Path<'_>, journal: &mut Journal) {
    let mut seen = std::collections::HashMap::new();
    for (index, item) in items.iter().enumerate() {
        let key = item.to_json().to_string();
        if let Some(first) = seen.insert(key, item.place.line) {
            journal.push(
                Problem::new(
                    Code::DuplicateItem,
                    item.place,
                    &path.index(index),
                    match &item.value {
                        Value::Sequence(_) | Value::Mapping(_) => "this item is in the list a second time".to_owned(),
                        _ => format!("{} is in the list a second time", item.quoted()),
                    },
                )
                .hint(format!("it is first in line {first}; remove one of them")),
            );
        }
    }
}

fn wrong_type(node: &Node, shape: &Shape, path: &Path<'_>, journal: &mut Journal) {
    wrong_type_at(node, node.place, shape, path, journal);
}

fn wrong_type_at(node: &Node, place: crate::diagnostic::Place, shape: &Shape, path: &Path<'_>, journal: &mut Journal) {
    let problem = Problem::new(
        Code::WrongType,
        place,
        path,
        format!("`{path}` takes {}, and this is {}", shape.expected(), node.described()),
    );
    let scalar = node.scalar_text();
    let wants_text = matches!(shape, Shape::Text | Shape::Choice(_))
        || matches!(shape, Shape::Either(shapes) if shapes.iter().any(|shape| matches!(shape, Shape::Text)));
    let wants_list = matches!(shape, Shape::List(_) | Shape::UniqueList(_))
        || matches!(shape, Shape::Either(shapes) if shapes.iter().any(|shape| matches!(shape, Shape::List(_) | Shape::UniqueList(_))));
    let wants_mapping = matches!(shape, Shape::Object(_) | Shape::Entries(_) | Shape::Named(_));
    journal.push(match (&node.value, scalar) {
        (Value::Null, _) => problem.hint("give it a value, or remove the key"),
        (_, Some(text)) if wants_text && !node.interpolated => {
            let written = node.written.as_deref().unwrap_or(&text).to_owned();
            problem.hint(format!("put it in quotes: `\"{}\"`", crate::tree::shortened(&written)))
        }
        (_, Some(_)) if wants_list => problem.hint("write it as a list: each item on a line of its own, after `- `"),
        (_, Some(_)) if wants_mapping => problem.hint("write `key: value` lines below it"),
        (Value::Text(_), _) if matches!(shape, Shape::Integer | Shape::Number) => problem.hint("write a number"),
        (Value::Sequence(_), _) if wants_mapping => {
            problem.hint("write `key: value` lines without the dashes in front")
        }
        (_, Some(_)) if matches!(shape, Shape::Duration) => problem.hint("a duration has a unit: `10s`, `1m30s`"),
        _ => problem,
    });
}

/// Whether a value could be meant as this shape, whatever is inside of it.
fn same_kind(node: &Node, shape: &Shape) -> bool {
    match (&node.value, shape) {
        (_, Shape::Any)
        | (Value::Null, Shape::Null)
        | (
            Value::Text(_),
            Shape::Text | Shape::Choice(_) | Shape::Size | Shape::Duration | Shape::TextOrNumber | Shape::Scalar,
        )
        | (
            Value::Integer(_) | Value::Float(_),
            Shape::Integer | Shape::Number | Shape::Size | Shape::TextOrNumber | Shape::Scalar,
        )
        | (Value::Boolean(_), Shape::Boolean | Shape::StrictBoolean | Shape::Scalar)
        | (Value::Sequence(_), Shape::List(_) | Shape::UniqueList(_))
        | (Value::Mapping(_), Shape::Entries(_) | Shape::Named(_) | Shape::Object(_)) => true,
        (Value::Text(_), Shape::Integer) => as_integer(node).is_some(),
        (Value::Text(_), Shape::Number) => as_number(node).is_some(),
        (Value::Text(_), Shape::Boolean) => as_boolean(node).is_some(),
        (_, Shape::Either(shapes)) => shapes.iter().any(|shape| same_kind(node, shape)),
        _ => false,
    }
}

/// Letters, digits, `.`, `_`, `-`.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// A whole number, also as a text.
pub(crate) fn as_integer(node: &Node) -> Option<i64> {
    match &node.value {
        Value::Integer(number) => Some(*number),
        #[allow(clippy::cast_possible_truncation, reason = "whole and within what a double holds exactly")]
        Value::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(*number as i64),
        Value::Text(text) => scalar::integer(text),
        _ => None,
    }
}

/// A number, also as a text.
pub(crate) fn as_number(node: &Node) -> Option<f64> {
    match &node.value {
        #[allow(clippy::cast_precision_loss, reason = "numbers of a stack file are small")]
        Value::Integer(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        Value::Text(text) => match scalar::resolve(text) {
            Value::Text(_) | Value::Null | Value::Boolean(_) | Value::Sequence(_) | Value::Mapping(_) => None,
            number => as_number(&Node::new(number, node.place)),
        },
        _ => None,
    }
}

/// A boolean, also as a text.
pub(crate) fn as_boolean(node: &Node) -> Option<bool> {
    match &node.value {
        Value::Boolean(value) => Some(*value),
        Value::Text(text) => match text.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => scalar::old_boolean(text),
        },
        _ => None,
    }
}

fn required(node: &Node, shape: &Shape, path: &Path<'_>, journal: &mut Journal) {
    each_child(node, shape, path, &mut |child, shape, path| required(child, shape, path, journal));
    let Shape::Object(object) = shape else {
        if let Shape::Either(shapes) = shape
            && let Some(fitting) = shapes.iter().find(|shape| same_kind(node, shape))
        {
            required(node, fitting, path, journal);
        }
        return;
    };
    let Some(mapping) = node.as_mapping() else { return };
    for key in object.required {
        if mapping.get(*key).is_none_or(|entry| entry.node.is_null()) {
            journal.push(
                Problem::new(Code::MissingKey, node.place, path, format!("{} needs the key `{key}`", object.noun))
                    .hint(format!("add `{key}:` to `{path}`")),
            );
        }
    }
}

/// `said` are the notes that were given: one is enough for all places.
fn support(node: &Node, shape: &Shape, path: &Path<'_>, said: &mut BTreeSet<&'static str>, journal: &mut Journal) {
    if let Shape::Either(shapes) = shape {
        if let Some(fitting) = shapes.iter().find(|shape| same_kind(node, shape)) {
            support(node, fitting, path, said, journal);
        }
        return;
    }
    if let (Shape::Object(object), Some(mapping)) = (shape, node.as_mapping()) {
        for (key, entry) in mapping {
            let Some(field) = object.field(key) else { continue };
            if is_empty(&entry.node) || says_default(field, &entry.node) {
                continue;
            }
            let path = path.key(key);
            match field.support {
                Support::Applied => support(&entry.node, &field.shape, &path, said, journal),
                Support::Noted(note) => {
                    if said.insert(note) {
                        journal.push(Problem::new(Code::Noted, entry.key_place, &path, format!("`{key}`: {note}")));
                    }
                    support_refusals_below(&entry.node, &field.shape, &path, journal);
                }
                Support::Refused(reason, instead) => journal.push(
                    Problem::new(Code::Refused, entry.key_place, &path, format!("`{key}` is refused: {reason}"))
                        .hint(instead),
                ),
            }
        }
        return;
    }
    each_child(node, shape, path, &mut |child, shape, path| support(child, shape, path, said, journal));
}

/// Below a key that is noted, further notes would only repeat it.
fn support_refusals_below(node: &Node, shape: &Shape, path: &Path<'_>, journal: &mut Journal) {
    match shape {
        Shape::Either(shapes) => {
            if let Some(fitting) = shapes.iter().find(|shape| same_kind(node, shape)) {
                support_refusals_below(node, fitting, path, journal);
            }
        }
        Shape::Object(object) => {
            for (key, entry) in node.as_mapping().into_iter().flatten() {
                let Some(field) = object.field(key) else { continue };
                if let Support::Refused(reason, instead) = field.support {
                    if !is_empty(&entry.node) && !says_default(field, &entry.node) {
                        let problem = format!("`{key}` is refused: {reason}");
                        journal
                            .push(Problem::new(Code::Refused, entry.key_place, &path.key(key), problem).hint(instead));
                    }
                } else if !matches!(field.support, Support::Noted(_)) {
                    support_refusals_below(&entry.node, &field.shape, &path.key(key), journal);
                }
            }
        }
        _ => each_child(node, shape, path, &mut |child, shape, path| {
            support_refusals_below(child, shape, path, journal);
        }),
    }
}

/// A key that says what holds without it: `internal: false`.
fn says_default(field: &Field, node: &Node) -> bool {
    let default = matches!(field.name, "enable_ipv4" | "attach");
    let boolean = matches!(field.shape, Shape::Boolean | Shape::StrictBoolean)
        || matches!(field.shape, Shape::Either(shapes) if shapes.iter().any(|shape| matches!(shape, Shape::Boolean)));
    boolean && !matches!(field.support, Support::Applied) && as_boolean(node) == Some(default)
}

/// A key that says nothing: `labels: {}`, `build:`; nothing would be ignored by not doing it.
fn is_empty(node: &Node) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(mapping) => mapping.is_empty(),
        _ => false,
    }
}

fn each_child(node: &Node, shape: &Shape, path: &Path<'_>, visit: &mut dyn FnMut(&Node, &Shape, &Path<'_>)) {
    match (shape, &node.value) {
        (Shape::List(item_shape) | Shape::UniqueList(item_shape), Value::Sequence(items)) => {
            for (index, item) in items.iter().enumerate() {
                visit(item, item_shape, &path.index(index));
            }
        }
        (Shape::Entries(value_shape) | Shape::Named(value_shape), Value::Mapping(mapping)) => {
            for (key, entry) in mapping {
                visit(&entry.node, value_shape, &path.key(key));
            }
        }
        (Shape::Object(object), Value::Mapping(mapping)) => {
            for (key, entry) in mapping {
                if let Some(field) = object.field(key) {
                    visit(&entry.node, &field.shape, &path.key(key));
                }
            }
        }
        _ => {}
    }
}

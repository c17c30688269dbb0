//! Pure. What becomes of every key of the Compose Specification, as a table for the documentation and as a JSON Schema for
//! editors. Both come from the tables that the parser itself works with.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::schema::{Field, Object, STACK, Shape, Support};

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Treatment {
    /// It does what the specification says.
    Applied,
    /// Accepted, but it does not do all that it does on one host; a warning says what not.
    Noted,
    /// Refused, with the reason and what to do instead.
    Refused,
}

/// One key of the specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReferenceEntry {
    /// From the top of the file; `*` is a name of the user's, `[]` an item of a list: `services.*.ports[].target`.
    pub path: String,
    /// What it takes, in words.
    pub takes: String,
    /// What becomes of it.
    pub treatment: Treatment,
    /// The note, or the reason and the alternative; empty for what is applied.
    pub remark: String,
    /// What it is for.
    pub description: &'static str,
}

/// Every key of the specification, in the order of the tables.
#[must_use]
pub fn reference() -> Vec<ReferenceEntry> {
    let mut entries = Vec::new();
    object_entries(&STACK, "", &mut entries);
    entries
}

fn object_entries(object: &'static Object, parent: &str, entries: &mut Vec<ReferenceEntry>) {
    for field in object.fields {
        let path = if parent.is_empty() { field.name.to_owned() } else { format!("{parent}.{}", field.name) };
        let (treatment, remark) = treatment(field);
        entries.push(ReferenceEntry {
            path: path.clone(),
            takes: field.shape.expected(),
            treatment,
            remark,
            description: field.description,
        });
        shape_entries(&field.shape, &path, entries);
    }
}

fn treatment(field: &Field) -> (Treatment, String) {
    match field.support {
        Support::Applied => (Treatment::Applied, String::new()),
        Support::Noted(note) => (Treatment::Noted, note.to_owned()),
        Support::Refused(reason, instead) => (Treatment::Refused, format!("{reason}: {instead}")),
    }
}

fn shape_entries(shape: &Shape, path: &str, entries: &mut Vec<ReferenceEntry>) {
    match shape {
        Shape::Object(object) => object_entries(object, path, entries),
        Shape::List(item) | Shape::UniqueList(item) => shape_entries(item, &format!("{path}[]"), entries),
        Shape::Entries(value) | Shape::Named(value) => shape_entries(value, &format!("{path}.*"), entries),
        Shape::Either(shapes) => shapes.iter().for_each(|shape| shape_entries(shape, path, entries)),
        _ => {}
    }
}

/// The page of the documentation that lists every key.
#[must_use]
pub fn reference_page() -> String {
    let entries = reference();
    let count = |treatment| entries.iter().filter(|entry| entry.treatment == treatment).count();
    let mut page = String::from(
        "# Every key of a stack file\n\n\
         This page is generated from the tables that the parser works with; a test keeps the two equal.\n\n\
         Every key of the Compose Specification is one of these three, and there is no fourth:\n\n",
    );
    for (treatment, word, meaning) in [
        (Treatment::Applied, "applied", "it does what the specification says"),
        (
            Treatment::Noted,
            "noted",
            "accepted, but it does not do all that it does on one host; a warning says what not",
        ),
        (Treatment::Refused, "refused", "refused (`E0602`), with the reason and what to do instead"),
    ] {
        let _ = writeln!(page, "- **{word}** ({}): {meaning}", count(treatment));
    }
    page.push_str(
        "\nWhat depends on a value is refused at the value (`E0602`, or `E0601` where it is only not built yet). Keys that begin with `x-` are the user's own, and an \
         unknown key is an error (`E0301`). `*` stands for a name of the user's, `[]` for an item of a list.\n",
    );
    let of_top = |entry: &ReferenceEntry| !entry.path.contains(['.', '[']);
    table(&mut page, "Top level", entries.iter().filter(|entry| of_top(entry)));
    for top in entries.iter().filter(|entry| of_top(entry)) {
        let below = |entry: &&ReferenceEntry| {
            entry.path.strip_prefix(&top.path).is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        if entries.iter().any(|entry| below(&entry)) {
            table(&mut page, &format!("`{}`", top.path), entries.iter().filter(below));
        }
    }
    page
}

fn table<'a>(page: &mut String, title: &str, entries: impl Iterator<Item = &'a ReferenceEntry>) {
    let _ = write!(page, "\n## {title}\n\n| key | takes | | what it is for | remark |\n|---|---|---|---|---|\n");
    let cell = |text: &str| text.replace('|', "\\|");
    for entry in entries {
        let word = match entry.treatment {
            Treatment::Applied => "applied",
            Treatment::Noted => "noted",
            Treatment::Refused => "refused",
        };
        let _ = writeln!(
            page,
            "| `{}` | {} | {word} | {} | {} |",
            entry.path,
            cell(&entry.takes),
            cell(entry.description),
            cell(&entry.remark)
        );
    }
}

/// A JSON Schema (draft 07) of stack files, for editors.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = object_schema(&STACK);
    if let Some(schema) = schema.as_object_mut() {
        let mut whole = Map::new();
        whole.insert("$schema".to_owned(), "http://json-schema.org/draft-07/schema#".into());
        whole.insert("title".to_owned(), "Stack file".into());
        whole.insert("description".to_owned(), "A stack in the format of the Compose Specification.".into());
        whole.append(schema);
        return Value::Object(whole);
    }
    schema
}

/// What the text of a variable looks like: editors see files before variables are replaced.
fn with_variables(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "string", "pattern": "\\$"}]})
}

fn object_schema(object: &'static Object) -> Value {
    let mut properties = Map::new();
    for field in object.fields {
        let mut schema = shape_schema(&field.shape);
        if let Some(schema) = schema.as_object_mut() {
            let (treatment, remark) = treatment(field);
            let description = match treatment {
                Treatment::Applied => format!("{}.", field.description),
                Treatment::Noted => format!("{}. Note: {remark}.", field.description),
                Treatment::Refused => format!("{}. Refused, {remark}.", field.description),
            };
            schema.insert("description".to_owned(), description.into());
            if treatment == Treatment::Refused || field.name == "version" {
                schema.insert("deprecated".to_owned(), true.into());
            }
        }
        properties.insert(field.name.to_owned(), schema);
    }
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if object.extensions {
        schema["patternProperties"] = json!({"^x-": {}});
    }
    if !object.required.is_empty() {
        schema["required"] = json!(object.required);
    }
    schema
}

/// A mapping that may be empty as one schema and not as two: editors then say what is wrong inside of it.
fn or_nothing(shapes: &[Shape]) -> Option<Value> {
    let [Shape::Object(object), Shape::Null] = shapes else { return None };
    let mut schema = object_schema(object);
    schema["type"] = json!(["object", "null"]);
    Some(schema)
}

fn shape_schema(shape: &Shape) -> Value {
    match shape {
        Shape::Any => json!({}),
        Shape::Text => json!({"type": "string"}),
        Shape::Integer => json!({"type": ["integer", "string"]}),
        Shape::Number | Shape::Size | Shape::TextOrNumber => json!({"type": ["number", "string"]}),
        Shape::Boolean => json!({"type": ["boolean", "string"]}),
        Shape::StrictBoolean => with_variables(json!({"type": "boolean"})),
        Shape::Duration => json!({"type": "string"}),
        Shape::Scalar => json!({"type": ["string", "number", "boolean"]}),
        Shape::Null => json!({"type": "null"}),
        Shape::Choice(choices) => with_variables(json!({"enum": choices})),
        Shape::List(item) => json!({"type": "array", "items": shape_schema(item)}),
        Shape::UniqueList(item) => json!({"type": "array", "items": shape_schema(item), "uniqueItems": true}),
        Shape::Entries(value) => json!({"type": "object", "additionalProperties": shape_schema(value)}),
        Shape::Named(value) => json!({
            "type": ["object", "null"],
            "patternProperties": {"^[a-zA-Z0-9._-]+$": shape_schema(value)},
            "additionalProperties": false,
        }),
        Shape::Object(object) => object_schema(object),
        Shape::Either(shapes) => match or_nothing(shapes) {
            Some(schema) => schema,
            None => json!({"anyOf": shapes.iter().map(shape_schema).collect::<Vec<_>>()}),
        },
    }
}

//! Pure. A canonical tree as YAML that reads back as the same tree.

use std::fmt::Write;

use crate::tree::{Node, Value, scalar};

/// The tree as a YAML document. `dollars_doubled`: dollar signs in it mean themselves and are no variables.
pub(crate) fn yaml(root: &Node, dollars_doubled: bool) -> String {
    let mut text = String::new();
    block(root, 0, dollars_doubled, &mut text);
    if text.starts_with('\n') {
        text.remove(0);
    }
    text
}

/// A value after its key or dash: a scalar on the same line, a collection on lines of its own.
fn block(node: &Node, indent: usize, dollars: bool, text: &mut String) {
    match &node.value {
        Value::Mapping(mapping) if !mapping.is_empty() => {
            for (index, (key, entry)) in mapping.iter().enumerate() {
                if index > 0 || !text.ends_with("- ") {
                    let _ = write!(text, "\n{:indent$}", "");
                }
                let _ = write!(text, "{}:", quoted(key));
                value(&entry.node, indent + 2, dollars, text);
            }
        }
        Value::Sequence(items) if !items.is_empty() => {
            for item in items {
                let _ = write!(text, "\n{:indent$}- ", "");
                match &item.value {
                    Value::Mapping(mapping) if !mapping.is_empty() => block(item, indent + 2, dollars, text),
                    Value::Sequence(inner) if !inner.is_empty() => block(item, indent + 2, dollars, text),
                    _ => text.push_str(&flow(item, dollars)),
                }
            }
        }
        _ => text.push_str(&flow(node, dollars)),
    }
    if indent == 0 {
        text.push('\n');
    }
}

fn value(node: &Node, indent: usize, dollars: bool, text: &mut String) {
    match &node.value {
        Value::Mapping(mapping) if !mapping.is_empty() => block(node, indent, dollars, text),
        Value::Sequence(items) if !items.is_empty() => block(node, indent, dollars, text),
        _ => {
            text.push(' ');
            text.push_str(&flow(node, dollars));
        }
    }
}

fn flow(node: &Node, dollars: bool) -> String {
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Float(value) if value.is_nan() => ".nan".to_owned(),
        Value::Float(value) if value.is_infinite() => if *value > 0.0 { ".inf" } else { "-.inf" }.to_owned(),
        Value::Float(value) => {
            let text = scalar::print_float(*value);
            if text.contains(['.', 'e']) { text } else { format!("{text}.0") }
        }
        Value::Text(text) if dollars => quoted(&text.replace('$', "$$")),
        Value::Text(text) => quoted(text),
        Value::Sequence(_) => "[]".to_owned(),
        Value::Mapping(_) => "{}".to_owned(),
    }
}

/// A text without quotes where every YAML reader takes it for a text, else in double quotes.
fn quoted(text: &str) -> String {
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || matches!(first, '/' | '_'))
        && !text.ends_with(' ')
        && text.chars().all(|character| character.is_ascii_alphanumeric() || " ./_-=@+,".contains(character))
        && matches!(scalar::resolve(text), Value::Text(_))
        && scalar::old_boolean(text).is_none();
    if plain {
        return text.to_owned();
    }
    // JSON's strings are YAML's double-quoted ones, but for a few characters that YAML does not take as they are.
    let json = serde_json::Value::String(text.to_owned()).to_string();
    json.chars().fold(String::with_capacity(json.len()), |mut out, character| {
        let code = u32::from(character);
        if matches!(code, 0x7f..=0x9f | 0x2028 | 0x2029 | 0xfeff | 0xfffe | 0xffff) {
            let _ = write!(out, "\\u{code:04x}");
        } else {
            out.push(character);
        }
        out
    })
}

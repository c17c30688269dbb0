//! Does a result equal what a case expects? Nothing, empty collections and `false` are the same: the reference
//! implementation prints some of its empty fields, and leaves out others.

use serde_json::Value;

/// Without nulls, empty collections and `false`.
pub fn pruned(value: &Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(
            object
                .iter()
                .map(|(key, value)| (key.clone(), pruned(value)))
                .filter(|(_, value)| !is_nothing(value))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(pruned).collect()),
        other => other.clone(),
    }
}

pub fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(object) => object.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// The place and the values of the first difference.
pub fn difference(expected: &Value, actual: &Value, at: &str) -> Option<String> {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => {
            for (key, value) in expected {
                let at = format!("{at}/{key}");
                match actual.get(key) {
                    Some(other) => {
                        if let Some(difference) = difference(value, other, &at) {
                            return Some(difference);
                        }
                    }
                    None => return Some(format!("{at}: expected {value}, found nothing")),
                }
            }
            actual
                .iter()
                .find(|(key, _)| !expected.contains_key(*key))
                .map(|(key, value)| format!("{at}/{key}: expected nothing, found {value}"))
        }
        (Value::Array(expected_items), Value::Array(actual_items)) if expected_items.len() == actual_items.len() => {
            expected_items
                .iter()
                .zip(actual_items)
                .enumerate()
                .find_map(|(index, (expected, actual))| difference(expected, actual, &format!("{at}/{index}")))
        }
        (Value::Number(left), Value::Number(right)) if left.as_f64() == right.as_f64() => None,
        (expected, actual) if expected == actual => None,
        (expected, actual) => Some(format!("{at}: expected {expected}, found {actual}")),
    }
}

/// The first difference, empty things aside.
pub fn same(expected: &Value, actual: &Value) -> Result<(), String> {
    match difference(&pruned(expected), &pruned(actual), "") {
        None => Ok(()),
        Some(difference) => Err(difference),
    }
}

//! Pure. Variables in a whole file, before anything is typed. Keys are not interpolated.

use crate::code::Code;
use crate::diagnostic::{Journal, Path, Place, Problem};
use crate::template::{self, TemplateError};
use crate::tree::{Node, Value};

/// Replaces the variables in every text of the tree.
pub(crate) fn interpolate(node: &mut Node, lookup: &dyn Fn(&str) -> Option<String>, journal: &mut Journal) {
    walk(node, lookup, &Path::Root, journal);
}

fn walk(node: &mut Node, lookup: &dyn Fn(&str) -> Option<String>, path: &Path<'_>, journal: &mut Journal) {
    match &mut node.value {
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                walk(item, lookup, &path.index(index), journal);
            }
        }
        Value::Mapping(mapping) => {
            for (key, entry) in mapping {
                walk(&mut entry.node, lookup, &path.key(key), journal);
            }
        }
        Value::Text(text) if text.contains('$') => {
            let mut unset = Vec::new();
            match template::substitute(text, lookup, &mut unset) {
                Ok(result) => {
                    for name in unset {
                        report_unset(&name, node.place, path, journal);
                    }
                    // `$$` alone gives what the file says; a variable gives what is not to be quoted.
                    node.interpolated = text.replace("$$", "").contains('$');
                    node.written = Some(std::mem::replace(text, result).into());
                }
                Err(error) => report(&error, node.place, path, journal),
            }
        }
        _ => {}
    }
}

fn report_unset(name: &str, place: Place, path: &Path<'_>, journal: &mut Journal) {
    let key = match path {
        Path::Key(_, key) => key.to_ascii_uppercase(),
        _ => String::new(),
    };
    let secret = ["PASSWORD", "SECRET", "TOKEN", "PASSWD"].iter().any(|word| key.contains(word));
    if secret {
        journal.push(
            Problem::new(
                Code::DollarInSecret,
                place,
                path,
                format!("the variable `{name}` is not set, so nothing takes its place"),
            )
            .hint("write `$$` for a dollar sign that is part of the value"),
        );
    } else {
        journal.push(
            Problem::new(
                Code::UnsetVariable,
                place,
                path,
                format!("the variable `{name}` is not set, so nothing takes its place"),
            )
            .hint(format!("set it in the environment or in `.env`, or give it a default: `${{{name}:-…}}`")),
        );
    }
}

fn report(error: &TemplateError, place: Place, path: &Path<'_>, journal: &mut Journal) {
    journal.push(match error {
        TemplateError::Invalid { .. } => Problem::new(Code::BadTemplate, place, path, error.to_string())
            .hint("write `${NAME}` or `${NAME:-default}`; a dollar sign that is meant literally is `$$`"),
        TemplateError::Required { name, .. } => Problem::new(Code::RequiredVariable, place, path, error.to_string())
            .hint(format!("set `{name}` in the environment, or in the file `.env` beside the stack file")),
        TemplateError::TooDeep => Problem::new(Code::BadTemplate, place, path, error.to_string()),
    });
}

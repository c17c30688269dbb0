//! Pure. The name of the stack.

use stack_model::StackName;

use crate::code::Code;
use crate::diagnostic::{Journal, Path, Place, Problem};
use crate::source::{Environment, Source};
use crate::tree::Node;

/// What `${COMPOSE_PROJECT_NAME}` stands for: the name from the command line, the environment, or the directory. A `name:`
/// in the file is found by looking at its lines, because variables are replaced before the file is understood.
pub(crate) fn before_interpolation(source: Source<'_>, environment: &Environment) -> Option<String> {
    if let Some(name) = source.name {
        return Some(name.to_owned());
    }
    if let Some(name) = environment.get("COMPOSE_PROJECT_NAME").filter(|name| !name.is_empty()) {
        return Some(name.to_owned());
    }
    let written = source.files.iter().rev().find_map(|file| {
        file.text.lines().find_map(|line| {
            let name = line.strip_prefix("name:")?.split(" #").next()?.trim().trim_matches(['"', '\'']);
            let lookup = |variable: &str| environment.get(variable).map(str::to_owned);
            crate::template::substitute(name, &lookup, &mut Vec::new()).ok()
        })
    });
    written.filter(|name| !name.is_empty()).or_else(|| Some(normalized(source.directory)).filter(|name| !name.is_empty()))
}

/// The name of the stack, by the precedence that the explanation of [`Code::StackName`] gives.
pub(crate) fn stack_name(
    source: Source<'_>,
    environment: &Environment,
    root: &Node,
    journal: &mut Journal,
) -> Option<StackName> {
    let path = Path::Root.key("name");
    let written = root.get("name");
    let (text, place, origin) = if let Some(name) = source.name {
        (name.to_owned(), Place::default(), "given on the command line")
    } else if let Some(name) = environment.get("COMPOSE_PROJECT_NAME").filter(|name| !name.is_empty()) {
        (name.to_owned(), Place::default(), "from the variable COMPOSE_PROJECT_NAME")
    } else if let Some(node) = written.filter(|node| node.as_text().is_some_and(|text| !text.is_empty())) {
        (node.as_text().unwrap_or_default().to_owned(), node.place, "")
    } else {
        let name = normalized(source.directory);
        if name.is_empty() {
            journal.push(
                Problem::new(Code::StackName, Place::default(), &path, "the stack has no name")
                    .hint("add `name:` to the stack file, or give a name on the command line"),
            );
            return None;
        }
        (name, Place::default(), "from the name of the directory")
    };
    match text.parse() {
        Ok(name) => Some(name),
        Err(error) => {
            let reason = error.reason;
            let shown = match written {
                Some(node) if place != Place::default() => node.quoted(),
                _ => format!("`{}`", crate::tree::shortened(&text)),
            };
            let origin = if origin.is_empty() { String::new() } else { format!(" ({origin})") };
            let problem = Problem::new(
                Code::StackName,
                place,
                &path,
                format!("{shown}{origin} cannot be the name of a stack: {reason}"),
            );
            let better = normalized(&text);
            journal.push(if better.is_empty() || better == text {
                problem.hint("use lower-case letters, digits, `-` and `_`")
            } else {
                problem.hint(format!("`{better}` could be"))
            });
            None
        }
    }
}

/// A text to a name as the specification does it with the name of a directory: lower case, without other characters.
pub(crate) fn normalized(text: &str) -> String {
    let last = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let kept: String = last
        .to_lowercase()
        .chars()
        .filter(|character| matches!(character, 'a'..='z' | '0'..='9' | '-' | '_'))
        .take(63)
        .collect();
    kept.trim_start_matches(['-', '_']).to_owned()
}

//! Pure. Docker's service templates, such as `{{.Node.Hostname}}`: the agent fills them in for each task. Here the ones that
//! it does not know are refused, because they would reach the container as they are.

use super::read::Fields;
use crate::code::Code;
use crate::diagnostic::{Journal, Path, Problem};
use crate::tree::Node;

/// The templates that the agent fills in.
const KNOWN: [&str; 7] =
    [".Service.ID", ".Service.Name", ".Node.ID", ".Node.Hostname", ".Task.ID", ".Task.Name", ".Task.Slot"];

/// What is between `{{` and `}}`, without the spaces around it.
fn insides(text: &str) -> impl Iterator<Item = &str> {
    text.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(inside, _)| inside.trim())
}

/// The text with `x` in place of every template, to check what is around them.
pub(super) fn without(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((_, tail)) = after.split_once("}}") else { break };
        plain.push_str(before);
        plain.push('x');
        rest = tail;
    }
    plain.push_str(rest);
    plain
}

/// Reports the templates of a service that nobody fills in. Other texts in double braces are the program's own.
pub(super) fn check(service: &Fields<'_>, journal: &mut Journal) {
    for key in ["environment", "labels"] {
        let fields = service.fields(key);
        for (name, entry) in fields.mapping.into_iter().flatten() {
            check_text(&entry.node, &fields.path.key(name), journal);
        }
    }
    if let Some(node) = service.node("hostname") {
        check_text(node, &service.path.key("hostname"), journal);
    }
    let list = service.path.key("volumes");
    for (index, node) in service.items("volumes").iter().enumerate() {
        if let Some(source) = node.get("source") {
            check_text(source, &list.index(index), journal);
        }
    }
}

/// Reports a template of a file that is to be filled in, and that nobody fills in. Nothing of the file is quoted.
pub(super) fn check_content(content: &[u8], file: &Fields<'_>, journal: &mut Journal) {
    let key = "template_driver";
    let problem = match std::str::from_utf8(content) {
        Err(_) => "what it holds is not text, so there is nothing to fill in",
        Ok(text) if insides(text).any(|inside| !KNOWN.contains(&inside)) => {
            "it has a template that hosts do not fill in"
        }
        Ok(_) => return,
    };
    journal.push(
        Problem::new(Code::Refused, file.key_place(key), &file.path.key(key), problem).hint(format!(
            "known are `{{{{{}}}}}`; remove `{key}` if nothing is to be filled in",
            KNOWN.join("}}`, `{{")
        )),
    );
}

fn check_text(node: &Node, path: &Path<'_>, journal: &mut Journal) {
    let Some(text) = node.as_text() else { return };
    let unknown = insides(text).find(|inside| {
        [".Service.", ".Node.", ".Task."].iter().any(|subject| inside.contains(subject)) && !KNOWN.contains(inside)
    });
    if unknown.is_some() {
        journal.push(
            Problem::new(
                Code::NotSupportedYet,
                node.place,
                path,
                format!("{} has a template that is not supported yet", node.quoted()),
            )
            .hint(format!("known are `{{{{{}}}}}`", KNOWN.join("}}`, `{{"))),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_found() {
        assert_eq!(insides("a {{ .Task.Slot }}{{x}} {{open").collect::<Vec<_>>(), [".Task.Slot", "x"]);
        assert_eq!(without("web-{{.Task.Slot}}.{{ .Node.Hostname }}"), "web-x.x");
        assert_eq!(without("{{open"), "{{open");
    }
}

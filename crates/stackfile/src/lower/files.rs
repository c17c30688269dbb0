//! Pure. Secrets and configs: what they hold comes from a file, a variable or the stack file itself, and goes beside the
//! spec, not into it.

use std::collections::{BTreeMap, BTreeSet};

use stack_model::{Content, FileContents, FileKind, FileReference, SharedFile};

use super::Context;
use super::read::Fields;
use super::templates;
use crate::code::Code;
use crate::diagnostic::{Journal, Path, Problem};
use crate::tree::Node;

/// All files of a stack together hold at most so much, in bytes: a deploy is one message.
const LARGEST_STACK: usize = 4 * 1024 * 1024;

const fn section(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Secret => "secrets",
        FileKind::Config => "configs",
    }
}

/// The secrets or configs that services use. What no service uses is not stored.
pub(super) fn files(
    top: &Fields<'_>,
    kind: FileKind,
    context: &Context<'_>,
    contents: &mut FileContents,
    journal: &mut Journal,
) -> BTreeMap<String, SharedFile> {
    let used = used(top, kind);
    let fields = top.fields(section(kind));
    let mut files = BTreeMap::new();
    for (key, entry) in fields.mapping.into_iter().flatten().filter(|(key, _)| used.contains(key.as_str())) {
        let path = fields.path.key(key);
        let file = Fields { mapping: entry.node.as_mapping(), path, place: entry.key_place };
        let external = file.boolean("external", journal).unwrap_or(false);
        let name = match (file.text("name", journal), external) {
            (None, true) => Some(key.clone()),
            (name, _) => name,
        };
        let template = template(&file, journal);
        if !external && let Some(content) = content(&file, kind, context, journal) {
            if template {
                templates::check_content(&content, &file, journal);
            }
            contents.of_mut(kind).insert(key.clone(), Content(content));
        }
        let labels = file.pairs("labels", journal);
        files.insert(key.clone(), SharedFile { name, external, labels, template, content: None });
        let held =
            |contents: &BTreeMap<String, Content>| contents.values().map(|content| content.0.len()).sum::<usize>();
        let all = held(&contents.secrets).saturating_add(held(&contents.configs));
        if all > LARGEST_STACK {
            journal.push(
                Problem::new(
                    Code::TooMuchContent,
                    entry.key_place,
                    &file.path,
                    format!(
                        "the stack's secrets and configs hold {all} bytes together; at most {LARGEST_STACK} are taken"
                    ),
                )
                .hint("put large files into an image or on a volume"),
            );
            break;
        }
    }
    files
}

fn used<'a>(top: &Fields<'a>, kind: FileKind) -> BTreeSet<&'a str> {
    let services = top.node("services").and_then(Node::as_mapping);
    let references = services
        .into_iter()
        .flatten()
        .flat_map(|(_, service)| service.node.get(section(kind)).and_then(Node::as_sequence).unwrap_or_default());
    references.filter_map(|reference| reference.get("source").and_then(Node::as_text)).collect()
}

fn template(file: &Fields<'_>, journal: &mut Journal) -> bool {
    let Some(node) = file.node("template_driver") else { return false };
    match node.as_text() {
        Some("golang") => true,
        Some("") => false,
        _ => {
            super::service::not_allowed(node, &file.path.key("template_driver"), &["golang"], journal);
            false
        }
    }
}

/// What a file holds.
fn content(file: &Fields<'_>, kind: FileKind, context: &Context<'_>, journal: &mut Journal) -> Option<Vec<u8>> {
    if let Some(node) = file.node("file") {
        let path = file.text("file", journal)?;
        return match (context.read_bytes)(&path) {
            Ok(bytes) => small(bytes, node, &file.path.key("file"), kind, journal),
            Err(reason) => {
                journal.push(
                    Problem::new(
                        Code::Unreadable,
                        node.place,
                        &file.path.key("file"),
                        format!("the file {} of the {kind} cannot be read: {reason}", node.quoted()),
                    )
                    .hint("the path is relative to the stack file's directory, on the computer that deploys"),
                );
                None
            }
        };
    }
    if let Some(node) = file.node("environment") {
        let variable = file.text("environment", journal)?;
        let Some(value) = (context.variable)(&variable) else {
            journal.push(
                Problem::new(
                    Code::RequiredVariable,
                    node.place,
                    &file.path.key("environment"),
                    format!("the variable {}, which holds the {kind}, is not set", node.quoted()),
                )
                .hint("set it in the environment of the command, in `.env`, or in a file given with `--env-file`"),
            );
            return None;
        };
        return small(value.into_bytes(), node, &file.path.key("environment"), kind, journal);
    }
    let node = file.node("content")?;
    let text = file.text("content", journal)?;
    small(text.into_bytes(), node, &file.path.key("content"), kind, journal)
}

fn small(bytes: Vec<u8>, node: &Node, path: &Path<'_>, kind: FileKind, journal: &mut Journal) -> Option<Vec<u8>> {
    if bytes.len() <= Content::LARGEST {
        return Some(bytes);
    }
    journal.push(
        Problem::new(
            Code::TooMuchContent,
            node.place,
            path,
            format!("the {kind} holds more than {} bytes", Content::LARGEST),
        )
        .hint("put a large file into an image or on a volume"),
    );
    None
}

/// The secrets or configs of a service.
pub(super) fn references(service: &Fields<'_>, kind: FileKind, journal: &mut Journal) -> Vec<FileReference> {
    let key = section(kind);
    let list = service.path.key(key);
    let mut references: Vec<FileReference> = Vec::new();
    for (index, node) in service.items(key).iter().enumerate() {
        if node.as_mapping().is_none() {
            continue;
        }
        let fields = Fields::new(node, list.index(index));
        let Some(source) = fields.text("source", journal).filter(|source| !source.is_empty()) else {
            journal.push(
                Problem::new(
                    Code::MissingKey,
                    node.place,
                    &fields.path,
                    format!("a {kind} of a service needs `source`"),
                )
                .hint(format!("add `source:` with its key under `{key}` at the top level")),
            );
            continue;
        };
        let Some(target) = target(&fields, kind, &source, journal) else { continue };
        if let Some(other) = references.iter().find(|other| other.target == target) {
            journal.push(
                Problem::new(
                    Code::Conflict,
                    fields.node("target").map_or(node.place, |node| node.place),
                    &fields.path.key("target"),
                    format!("`{}` is at this place already", crate::tree::shortened(&other.source)),
                )
                .hint("give one of the two another `target`"),
            );
            continue;
        }
        let uid = number(&fields, "uid", journal).unwrap_or(0);
        let gid = number(&fields, "gid", journal).unwrap_or(0);
        let mode = fields.node("mode").and_then(|node| super::mounts::mode(node, &fields.path.key("mode"), journal));
        references.push(FileReference { source, target, uid, gid, mode: mode.unwrap_or(0o444) });
    }
    references
}

/// Where it is: below `/run/secrets` or `/` where nothing absolute is said.
fn target(fields: &Fields<'_>, kind: FileKind, source: &str, journal: &mut Journal) -> Option<String> {
    let given = fields.text("target", journal).filter(|target| !target.is_empty());
    let name = given.as_deref().unwrap_or(source);
    let target = match kind {
        _ if name.starts_with('/') => name.to_owned(),
        FileKind::Secret => format!("/run/secrets/{name}"),
        FileKind::Config => format!("/{name}"),
    };
    let node = fields.node("target").or_else(|| fields.node("source"))?;
    let problem = if target.ends_with('/') {
        Some(("names a directory", "write the path of a file"))
    } else if target.split('/').any(|part| part == "..") {
        Some(("leaves the directory that it names", "write the path without `..`"))
    } else {
        None
    };
    let Some((reason, hint)) = problem else { return Some(crate::paths::clean(&target)) };
    journal.push(
        Problem::new(
            Code::BadValue,
            node.place,
            &fields.path.key("target"),
            format!("the target {} {reason}", node.quoted()),
        )
        .hint(hint),
    );
    None
}

fn number(fields: &Fields<'_>, key: &str, journal: &mut Journal) -> Option<u32> {
    let node = fields.node(key)?;
    let number = node.scalar_text().and_then(|text| text.parse().ok());
    if number.is_none() {
        journal.push(
            Problem::new(
                Code::BadValue,
                node.place,
                &fields.path.key(key),
                format!("{} is not the number of a user or group", node.quoted()),
            )
            .hint("write a number, such as `\"1000\"`: names are those of the image, which is not looked into here"),
        );
    }
    number
}

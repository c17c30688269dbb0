//! Pure. Several files to one: a later file changes what an earlier one says. Both sides are canonical.
//!
//! Mappings are merged key by key and lists are appended, except where the tables below say otherwise. Because every
//! list item has an identity where it needs one (a port's numbers, a volume's target), merging is associative.

use indexmap::IndexMap;

use crate::diagnostic::Path;
use crate::tree::{Directive, Mapping, Node, Value};

/// The tree that `base` is after `change`.
pub(crate) fn merge(base: Node, change: Node) -> Node {
    merge_at(base, change, &Path::Root)
}

/// The tree that one service is after `change`, as `extends` needs it.
pub(crate) fn merge_service(base: Node, change: Node) -> Node {
    let services = Path::Key(&Path::Root, "services");
    merge_at(base, change, &Path::Key(&services, "x"))
}

fn merge_at(base: Node, change: Node, path: &Path<'_>) -> Node {
    match change.directive {
        // It stays as a mark: what it resets may be in an included file, which comes below both. The mark goes at the end.
        Some(Directive::Reset | Directive::Override) => return change,
        None => {}
    }
    if base.directive == Some(Directive::Reset) {
        return change;
    }
    if change.is_null() {
        return base;
    }
    if replaces(path, &base, &change) {
        return change;
    }
    let directive = base.directive;
    match (base.value, change.value) {
        (Value::Mapping(base_mapping), Value::Mapping(change_mapping)) => Node {
            directive,
            ..Node::mapping(merge_mappings(base_mapping, change_mapping, path), base.place)
        },
        (Value::Sequence(mut items), Value::Sequence(more)) => {
            items.extend(more);
            Node { directive, ..Node::sequence(unique_items(items, path), base.place) }
        }
        (_, value) => Node { value, ..change },
    }
}

fn merge_mappings(mut base: Mapping, change: Mapping, path: &Path<'_>) -> Mapping {
    for (key, entry) in change {
        match base.get_mut(&key) {
            Some(present) => {
                let old = std::mem::replace(&mut present.node, Node::null(entry.node.place));
                let was_null = old.is_null();
                present.node = merge_at(old, entry.node, &path.key(&key));
                if was_null {
                    present.key_place = entry.key_place;
                }
            }
            None => {
                base.insert(key, entry);
            }
        }
    }
    base
}

/// Removes what is reset, and the tags, once everything is merged.
pub(crate) fn strip_directives(node: &mut Node) {
    node.directive = None;
    match &mut node.value {
        Value::Mapping(mapping) => {
            mapping.retain(|_, entry| entry.node.directive != Some(Directive::Reset));
            mapping.values_mut().for_each(|entry| strip_directives(&mut entry.node));
        }
        Value::Sequence(items) => {
            items.retain(|item| item.directive != Some(Directive::Reset));
            items.iter_mut().for_each(strip_directives);
        }
        _ => {}
    }
}

/// Drops from every list what is in it twice.
pub(crate) fn unique_lists(node: &mut Node) {
    unique_lists_at(node, &Path::Root);
}

fn unique_lists_at(node: &mut Node, path: &Path<'_>) {
    match &mut node.value {
        Value::Mapping(mapping) => {
            for (key, entry) in mapping {
                unique_lists_at(&mut entry.node, &path.key(key));
            }
        }
        Value::Sequence(items) => *items = unique_items(std::mem::take(items), path),
        _ => {}
    }
}

/// The keys from the root to here.
fn segments<'a>(path: &'a Path<'a>) -> Vec<&'a str> {
    match path {
        Path::Root => Vec::new(),
        Path::Key(parent, key) => {
            let mut all = segments(parent);
            all.push(key);
            all
        }
        Path::Index(parent, _) => {
            let mut all = segments(parent);
            all.push("[]");
            all
        }
    }
}

/// Whether a later value takes the place of an earlier one as a whole.
fn replaces(path: &Path<'_>, base: &Node, change: &Node) -> bool {
    match segments(path).as_slice() {
        ["services", _, "command" | "entrypoint"] | ["services", _, "healthcheck", "test"] => true,
        ["services", _, "ulimits", _] | ["services", _, "build", "ulimits", _] => true,
        // Options belong to their driver.
        ["services", _, "logging"] => {
            let driver = |node: &Node| node.get("driver").and_then(Node::scalar_text);
            matches!((driver(base), driver(change)), (Some(old), Some(new)) if old != new)
        }
        _ => false,
    }
}

/// How an item of a list is recognised in another file, by the list's path.
#[derive(Clone, Copy)]
enum Identity {
    /// By its whole value.
    Value,
    /// By one of these keys, the first that is there.
    Key(&'static [&'static str]),
    /// By all of these keys.
    Keys(&'static [&'static str]),
    /// By what is before its `=`.
    Name,
    /// By this key; items of one identity are merged.
    Merged(&'static str),
}

fn identity(path: &Path<'_>) -> Option<Identity> {
    match segments(path).as_slice() {
        ["services", _, "ports"] => Some(Identity::Keys(&["host_ip", "published", "target", "protocol"])),
        ["services", _, "volumes"] | ["services", _, "devices"] => Some(Identity::Key(&["target"])),
        ["services", _, "configs" | "secrets"] => Some(Identity::Key(&["target", "source"])),
        ["services", _, "env_file"] => Some(Identity::Key(&["path"])),
        [
            "services",
            _,
            "cap_add" | "cap_drop" | "dns" | "dns_opt" | "dns_search" | "expose" | "external_links" | "profiles"
            | "tmpfs" | "security_opt" | "group_add" | "device_cgroup_rules" | "extra_hosts" | "label_file",
        ]
        | ["services", _, "networks", _, "aliases" | "link_local_ips"]
        | ["services", _, "build", "tags" | "platforms" | "extra_hosts"] => Some(Identity::Value),
        ["services", _, "links"] => Some(Identity::Name),
        ["networks", _, "ipam", "config"] => Some(Identity::Merged("subnet")),
        _ => None,
    }
}

/// Of items with one identity, the last one counts, at the place of the first.
fn unique_items(items: Vec<Node>, path: &Path<'_>) -> Vec<Node> {
    let Some(identity) = identity(path) else { return items };
    let mut unique: IndexMap<String, Node> = IndexMap::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let key = match identity {
            Identity::Value => item.to_json().to_string(),
            Identity::Name => {
                let text = item.scalar_text().unwrap_or_default();
                text.split('=').next().unwrap_or_default().to_owned()
            }
            Identity::Merged(key) => {
                item.get(key).and_then(Node::scalar_text).unwrap_or_else(|| format!("\u{0}{index}"))
            }
            Identity::Key(keys) => keys
                .iter()
                .find_map(|key| item.get(key).and_then(Node::scalar_text))
                .unwrap_or_else(|| format!("\u{0}{index}")),
            Identity::Keys(keys) => keys
                .iter()
                .map(|key| item.get(key).and_then(Node::scalar_text).unwrap_or_default())
                .collect::<Vec<_>>()
                .join("\u{0}"),
        };
        match (identity, unique.get_mut(&key)) {
            (Identity::Merged(_), Some(present)) => {
                let place = item.place;
                let old = std::mem::replace(present, Node::null(place));
                *present = merge_at(old, item, &path.index(0));
            }
            _ => {
                unique.insert(key, item);
            }
        }
    }
    unique.into_values().collect()
}

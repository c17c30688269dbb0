//! Pure. Which values of a canonical tree are paths of the deploying computer.

use crate::short::volume;
use crate::tree::{Mapping, Node, Value};

/// Changes every relative path of the deploying computer. What names an image, an address or a volume is none.
pub(crate) fn relative_paths(root: &mut Node, change: &dyn Fn(&str) -> String) {
    let Some(top) = root.as_mapping_mut() else { return };
    each(top, "services", &mut |service| {
        if let Some(service) = service.as_mapping_mut() {
            service_paths(service, change);
        }
    });
    for section in ["configs", "secrets"] {
        each(top, section, &mut |node| {
            if let Some(mapping) = node.as_mapping_mut() {
                path(mapping, "file", change);
            }
        });
    }
    each(top, "volumes", &mut |node| {
        let Some(mapping) = node.as_mapping_mut() else { return };
        if mapping.get("driver").is_some_and(|entry| entry.node.as_text() != Some("local")) {
            return;
        }
        let Some(options) = mapping.get_mut("driver_opts").and_then(|entry| entry.node.as_mapping_mut()) else { return };
        let option = |options: &Mapping, key: &str| {
            options.get(key).and_then(|entry| entry.node.as_text().map(str::to_owned)).unwrap_or_default()
        };
        if option(options, "type") == "none" && option(options, "o").split(',').any(|option| option == "bind") {
            path(options, "device", change);
        }
    });
}

fn each(top: &mut Mapping, section: &str, change: &mut dyn FnMut(&mut Node)) {
    let mapping = top.get_mut(section).and_then(|entry| entry.node.as_mapping_mut());
    for (_, entry) in mapping.into_iter().flatten() {
        change(&mut entry.node);
    }
}

fn service_paths(service: &mut Mapping, change: &dyn Fn(&str) -> String) {
    if let Some(build) = service.get_mut("build").and_then(|entry| entry.node.as_mapping_mut()) {
        if let Some(entry) = build.get_mut("context") {
            context(&mut entry.node, change);
        }
        let contexts = build.get_mut("additional_contexts").and_then(|entry| entry.node.as_mapping_mut());
        for (_, entry) in contexts.into_iter().flatten() {
            context(&mut entry.node, change);
        }
        for (_, entry) in build.get_mut("ssh").and_then(|entry| entry.node.as_mapping_mut()).into_iter().flatten() {
            text(&mut entry.node, change);
        }
    }
    for key in ["env_file", "label_file"] {
        if let Some(Value::Sequence(items)) = service.get_mut(key).map(|entry| &mut entry.node.value) {
            for item in items {
                match item.as_mapping_mut() {
                    Some(mapping) => path(mapping, "path", change),
                    None => text(item, change),
                }
            }
        }
    }
    if let Some(extends) = service.get_mut("extends").and_then(|entry| entry.node.as_mapping_mut()) {
        // Read relative to the file that names it, before this.
        let _ = extends;
    }
    if let Some(Value::Sequence(items)) = service.get_mut("volumes").map(|entry| &mut entry.node.value) {
        for item in items {
            if let Some(mapping) = item.as_mapping_mut()
                && mapping.get("type").is_some_and(|entry| entry.node.as_text() == Some("bind"))
            {
                path(mapping, "source", change);
            }
        }
    }
    let watch = service
        .get_mut("develop")
        .and_then(|entry| entry.node.as_mapping_mut())
        .and_then(|develop| develop.get_mut("watch"));
    if let Some(Value::Sequence(items)) = watch.map(|entry| &mut entry.node.value) {
        for item in items {
            if let Some(mapping) = item.as_mapping_mut() {
                path(mapping, "path", change);
            }
        }
    }
    if let Some(spec) = service.get_mut("credential_spec").and_then(|entry| entry.node.as_mapping_mut()) {
        path(spec, "file", change);
    }
}

/// Changes the path under a key.
fn path(mapping: &mut Mapping, key: &str, change: &dyn Fn(&str) -> String) {
    if let Some(entry) = mapping.get_mut(key) {
        text(&mut entry.node, change);
    }
}

fn text(node: &mut Node, change: &dyn Fn(&str) -> String) {
    if let Value::Text(path) = &mut node.value
        && is_relative(path)
    {
        let changed = change(path);
        if node.written.is_none() {
            node.written = Some(path.as_str().into());
        }
        *path = changed;
    }
}

/// A build context, which may be an address.
fn context(node: &mut Node, change: &dyn Fn(&str) -> String) {
    let is_address = node.as_text().is_some_and(|context| {
        context.contains("://")
            || context.starts_with("github.com/")
            || context.starts_with("git@")
            || context.starts_with("service:")
            || context.starts_with("docker-image:")
    });
    if !is_address {
        text(node, change);
    }
}

fn is_relative(path: &str) -> bool {
    let drive = path.len() >= 2 && path.as_bytes()[1] == b':' && volume::is_path(path);
    !(path.is_empty() || path.starts_with(['/', '~', '\\']) || drive)
}

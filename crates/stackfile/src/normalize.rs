//! Pure. What a canonical file leaves to be understood, written out: names, the default network, dependencies that
//! follow from other keys.

use crate::source::Environment;
use crate::tree::{Mapping, Node, Value, insert};

/// Writes out what is understood.
pub(crate) fn normalize(root: &mut Node, project: &str, environment: &Environment) {
    let Some(top) = root.as_mapping_mut() else { return };
    let mut uses_default = false;
    let services = top.get_mut("services").and_then(|entry| entry.node.as_mapping_mut());
    for (_, entry) in services.into_iter().flatten() {
        let place = entry.key_place;
        if entry.node.is_null() {
            entry.node = Node::mapping(Mapping::new(), place);
        }
        if let Some(service) = entry.node.as_mapping_mut() {
            build(service, environment);
            look_up(service, "environment", environment);
            hooks(service);
            dependencies(service);
            uses_default |= default_network(service, place);
        }
    }
    if uses_default {
        if !top.contains_key("networks") || top.get("networks").is_some_and(|entry| entry.node.is_null()) {
            insert(top, "networks", Node::mapping(Mapping::new(), crate::diagnostic::Place::default()));
        }
        if let Some(networks) = top.get_mut("networks").and_then(|entry| entry.node.as_mapping_mut())
            && !networks.contains_key("default")
        {
            insert(networks, "default", Node::null(crate::diagnostic::Place::default()));
        }
    }
    for section in ["networks", "volumes", "configs", "secrets"] {
        let resources = top.get_mut(section).and_then(|entry| entry.node.as_mapping_mut());
        for (key, entry) in resources.into_iter().flatten() {
            let place = entry.key_place;
            if entry.node.is_null() {
                entry.node = Node::mapping(Mapping::new(), place);
            }
            let Some(mapping) = entry.node.as_mapping_mut() else { continue };
            if mapping.contains_key("name") {
                continue;
            }
            let external = mapping.get("external").is_some_and(|entry| matches!(entry.node.value, Value::Boolean(true)));
            let name = if external { key.clone() } else { format!("{project}_{key}") };
            insert(mapping, "name", Node::text(name, place));
        }
    }
}

fn build(service: &mut Mapping, environment: &Environment) {
    let Some(entry) = service.get_mut("build") else { return };
    let place = entry.key_place;
    let Some(build) = entry.node.as_mapping_mut() else { return };
    if !build.contains_key("context") {
        insert(build, "context", Node::text(".", place));
    }
    if !build.contains_key("dockerfile") && !build.contains_key("dockerfile_inline") {
        insert(build, "dockerfile", Node::text("Dockerfile", place));
    }
    look_up(build, "args", environment);
    if let Some(args) = build.get_mut("args").and_then(|entry| entry.node.as_mapping_mut()) {
        args.retain(|_, entry| !entry.node.is_null());
    }
}

/// Gives the variables that have no value the one that they have outside.
fn look_up(mapping: &mut Mapping, key: &str, environment: &Environment) {
    let variables = mapping.get_mut(key).and_then(|entry| entry.node.as_mapping_mut());
    for (name, entry) in variables.into_iter().flatten() {
        if entry.node.is_null()
            && let Some(value) = environment.get(name)
        {
            entry.node.value = Value::Text(value.to_owned());
            entry.node.interpolated = true;
        }
    }
}

fn hooks(service: &mut Mapping) {
    let Some(image) = service.get("image").map(|entry| entry.node.clone()) else { return };
    if let Some(Value::Sequence(hooks)) = service.get_mut("pre_start").map(|entry| &mut entry.node.value) {
        for hook in hooks {
            if let Some(mapping) = hook.as_mapping_mut()
                && !mapping.contains_key("image")
            {
                insert(mapping, "image", image.clone());
            }
        }
    }
}

fn dependencies(service: &mut Mapping) {
    let mut implied: Vec<(String, bool)> = Vec::new();
    for key in ["links"] {
        for item in service.get(key).and_then(|entry| entry.node.as_sequence()).unwrap_or_default() {
            if let Some(text) = item.as_text() {
                implied.push((text.split(':').next().unwrap_or_default().to_owned(), true));
            }
        }
    }
    for key in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        let name = service.get(key).and_then(|entry| entry.node.as_text()).and_then(|text| text.strip_prefix("service:"));
        if let Some(name) = name {
            implied.push((name.to_owned(), true));
        }
    }
    for item in service.get("volumes_from").and_then(|entry| entry.node.as_sequence()).unwrap_or_default() {
        if let Some(text) = item.as_text().filter(|text| !text.starts_with("container:")) {
            implied.push((text.split(':').next().unwrap_or_default().to_owned(), false));
        }
    }
    if implied.is_empty() {
        return;
    }
    let place = service.values().next().map(|entry| entry.key_place).unwrap_or_default();
    if service.get("depends_on").is_none_or(|entry| entry.node.as_mapping().is_none()) {
        insert(service, "depends_on", Node::mapping(Mapping::new(), place));
    }
    let Some(depends_on) = service.get_mut("depends_on").and_then(|entry| entry.node.as_mapping_mut()) else { return };
    for (name, restart) in implied {
        if !depends_on.contains_key(&name) {
            let mut dependency = Mapping::new();
            insert(&mut dependency, "condition", Node::text("service_started", place));
            insert(&mut dependency, "restart", Node::boolean(restart, place));
            insert(&mut dependency, "required", Node::boolean(true, place));
            insert(depends_on, &name, Node::mapping(dependency, place));
        }
    }
}

/// A service without networks is on the default one. Whether any network of a service is the default one.
fn default_network(service: &mut Mapping, place: crate::diagnostic::Place) -> bool {
    if service.contains_key("network_mode") || service.contains_key("provider") {
        return false;
    }
    let none = service
        .get("networks")
        .is_none_or(|entry| entry.node.as_mapping().is_none_or(indexmap::IndexMap::is_empty));
    if none {
        let mut networks = Mapping::new();
        insert(&mut networks, "default", Node::null(place));
        insert(service, "networks", Node::mapping(networks, place));
    }
    service.get("networks").is_some_and(|entry| entry.node.get("default").is_some())
}

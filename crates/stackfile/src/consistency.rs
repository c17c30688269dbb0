//! Pure. Do the parts of a whole stack file fit together: is everything defined that is referred to, and is nothing said
//! twice in different ways?

use std::collections::{BTreeMap, BTreeSet};

use crate::code::Code;
use crate::diagnostic::{Journal, Path, Place, Problem, did_you_mean};
use crate::schema::check::{as_boolean, as_integer};
use crate::short::volume;
use crate::tree::{Entry, Mapping, Node};
use crate::validate::is_external;

/// Checks a merged canonical tree. `disabled` are services that the file has and no chosen profile enables.
pub(crate) fn check(root: &Node, disabled: &BTreeSet<String>, journal: &mut Journal) {
    let keys = |section: &str| -> BTreeSet<String> {
        root.get(section).and_then(Node::as_mapping).map(|mapping| mapping.keys().cloned().collect()).unwrap_or_default()
    };
    let known = Known {
        services: keys("services"),
        disabled,
        networks: keys("networks"),
        volumes: keys("volumes"),
        configs: keys("configs"),
        secrets: keys("secrets"),
        models: keys("models"),
    };
    let path = Path::Key(&Path::Root, "services");
    let mut containers: BTreeMap<String, Place> = BTreeMap::new();
    for (name, entry) in root.get("services").and_then(Node::as_mapping).into_iter().flatten() {
        let path = path.key(name);
        let Some(service) = entry.node.as_mapping() else { continue };
        has_image(service, entry.key_place, &path, journal);
        references(service, &known, &path, journal);
        dependencies(service, &known, &path, journal);
        mounts(service, &path, journal);
        replicas(service, &path, journal);
        ulimits(service, &path, journal);
        network_mode(service, &path, journal);
        container_name(service, &path, &mut containers, journal);
    }
    for (section, noun) in [("configs", "config"), ("secrets", "secret")] {
        let path = Path::Key(&Path::Root, section);
        for (key, entry) in root.get(section).and_then(Node::as_mapping).into_iter().flatten() {
            one_origin(entry, noun, &path.key(key), journal);
        }
    }
    cycles(root, journal);
}

/// A config or secret comes from one place.
fn one_origin(entry: &Entry, noun: &str, path: &Path<'_>, journal: &mut Journal) {
    let Some(mapping) = entry.node.as_mapping() else { return };
    let origins: &[&str] =
        if noun == "config" { &["file", "environment", "content"] } else { &["file", "environment", "driver"] };
    let given: Vec<&str> = origins.iter().copied().filter(|key| mapping.contains_key(*key)).collect();
    if is_external(mapping) {
        return;
    }
    if given.is_empty() {
        journal.push(
            Problem::new(
                Code::MissingKey,
                entry.key_place,
                path,
                format!("the {noun} has no origin: one of `{}` is needed", origins.join("`, `")),
            )
            .hint(format!("add `file:` with the file that holds the {noun}, or `external: true`")),
        );
    }
    if let [_, second, ..] = given.as_slice()
        && let Some(second_entry) = mapping.get(*second)
    {
        journal.push(
            Problem::new(
                Code::Conflict,
                second_entry.key_place,
                &path.key(second),
                format!("the {noun} has more than one origin: `{}`", given.join("`, `")),
            )
            .hint("keep one of them"),
        );
    }
}

struct Known<'a> {
    services: BTreeSet<String>,
    disabled: &'a BTreeSet<String>,
    networks: BTreeSet<String>,
    volumes: BTreeSet<String>,
    configs: BTreeSet<String>,
    secrets: BTreeSet<String>,
    models: BTreeSet<String>,
}

fn value<'a>(service: &'a Mapping, key: &str) -> Option<&'a Node> {
    service.get(key).map(|entry| &entry.node).filter(|node| !node.is_null())
}

fn has_image(service: &Mapping, place: Place, path: &Path<'_>, journal: &mut Journal) {
    if ["image", "build", "provider"].iter().all(|key| value(service, key).is_none()) {
        journal.push(
            Problem::new(Code::NothingToRun, place, path, format!("`{path}` has no image"))
                .hint("add `image:` with the name of an image, such as `nginx:1.27`"),
        );
    }
}

fn undefined(node: &Node, noun: &str, name: &str, known: &BTreeSet<String>, path: &Path<'_>, journal: &mut Journal) {
    undefined_at(node, node.place, noun, name, known, path, journal);
}

fn undefined_at(
    node: &Node,
    place: Place,
    noun: &str,
    name: &str,
    known: &BTreeSet<String>,
    path: &Path<'_>,
    journal: &mut Journal,
) {
    let shown = if node.interpolated { "of that name".to_owned() } else { format!("`{}`", crate::tree::shortened(name)) };
    let problem =
        Problem::new(Code::Undefined, place, path, format!("there is no {noun} {shown} at the top level"));
    let meant = did_you_mean(name, known.iter().map(String::as_str));
    journal.push(match meant {
        Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
        None if node.interpolated => problem.hint(format!("define it under `{noun}s:` at the top level")),
        None if noun == "volume" => problem.hint(format!(
            "add `volumes: {{{name}: }}` at the top level, or begin the source with `/` if it is a path of the hosts"
        )),
        None => problem.hint(format!("add `{noun}s: {{{name}: …}}` at the top level, or correct the name")),
    });
}

fn references(service: &Mapping, known: &Known<'_>, path: &Path<'_>, journal: &mut Journal) {
    let networks = path.key("networks");
    for (name, entry) in value(service, "networks").and_then(Node::as_mapping).into_iter().flatten() {
        if name != "default" && !known.networks.contains(name) {
            undefined_at(&entry.node, entry.key_place, "network", name, &known.networks, &networks.key(name), journal);
        }
    }
    let models = path.key("models");
    for (name, entry) in value(service, "models").and_then(Node::as_mapping).into_iter().flatten() {
        if !known.models.contains(name) {
            undefined_at(&entry.node, entry.key_place, "model", name, &known.models, &models.key(name), journal);
        }
    }
    for (key, noun, names) in [("configs", "config", &known.configs), ("secrets", "secret", &known.secrets)] {
        let list = path.key(key);
        for (index, item) in value(service, key).and_then(Node::as_sequence).unwrap_or_default().iter().enumerate() {
            if let Some(source) = item.get("source")
                && let Some(name) = source.as_text().filter(|name| !names.contains(*name))
            {
                undefined(source, noun, name, names, &list.index(index), journal);
            }
        }
    }
    let build = path.key("build");
    let secrets = value(service, "build").and_then(|build| build.get("secrets")).and_then(Node::as_sequence);
    for item in secrets.unwrap_or_default() {
        if let Some(source) = item.get("source")
            && let Some(name) = source.as_text().filter(|name| !known.secrets.contains(*name))
        {
            undefined(source, "secret", name, &known.secrets, &build.key("secrets"), journal);
        }
    }
    let list = path.key("volumes");
    for (index, item) in value(service, "volumes").and_then(Node::as_sequence).unwrap_or_default().iter().enumerate() {
        if item.get("type").and_then(Node::as_text) != Some("volume") {
            continue;
        }
        let Some(source) = item.get("source") else { continue };
        let Some(name) = source.as_text().filter(|name| !name.is_empty() && !known.volumes.contains(*name)) else {
            continue;
        };
        let path = list.index(index);
        if volume::is_path(name) {
            journal.push(
                Problem::new(
                    Code::BadVolume,
                    source.place,
                    &path.key("source"),
                    format!("{} is a path, and the `type` is `volume`", source.quoted()),
                )
                .hint("write `type: bind`"),
            );
        } else {
            undefined(source, "volume", name, &known.volumes, &path.key("source"), journal);
        }
    }
}

/// The other services that a service needs, with the place that says so and whether it can do without.
fn needs(service: &Mapping) -> Vec<(String, Place, bool)> {
    let mut needs = Vec::new();
    for (name, entry) in value(service, "depends_on").and_then(Node::as_mapping).into_iter().flatten() {
        let optional = entry.node.get("required").and_then(as_boolean) == Some(false);
        needs.push((name.clone(), entry.key_place, optional));
    }
    for key in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        if let Some(node) = value(service, key)
            && let Some(name) = node.as_text().and_then(|text| text.strip_prefix("service:"))
        {
            needs.push((name.to_owned(), node.place, false));
        }
    }
    for key in ["volumes_from", "links"] {
        for item in value(service, key).and_then(Node::as_sequence).unwrap_or_default() {
            if let Some(text) = item.as_text().filter(|text| !text.starts_with("container:")) {
                let name = text.split(':').next().unwrap_or_default();
                needs.push((name.to_owned(), item.place, false));
            }
        }
    }
    needs
}

fn dependencies(service: &Mapping, known: &Known<'_>, path: &Path<'_>, journal: &mut Journal) {
    for (name, place, optional) in needs(service) {
        if optional || known.services.contains(&name) {
            continue;
        }
        let shown = crate::tree::shortened(&name);
        let path = path.key("depends_on");
        if known.disabled.contains(&name) {
            journal.push(
                Problem::new(
                    Code::Undefined,
                    place,
                    &path,
                    format!("the service `{shown}` is needed, and none of its profiles is chosen"),
                )
                .hint("choose one of its profiles, or write `required: false` in `depends_on`"),
            );
            continue;
        }
        let problem = Problem::new(Code::Undefined, place, &path, format!("there is no service `{shown}`"));
        journal.push(match did_you_mean(&name, known.services.iter().map(String::as_str)) {
            Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
            None => problem.hint("add it under `services:`, or remove it here"),
        });
    }
}

/// Two mounts at one place would hide one another.
fn mounts(service: &Mapping, path: &Path<'_>, journal: &mut Journal) {
    let mut taken: BTreeMap<String, Place> = BTreeMap::new();
    for key in ["volumes", "tmpfs"] {
        let list = path.key(key);
        for (index, item) in value(service, key).and_then(Node::as_sequence).unwrap_or_default().iter().enumerate() {
            let target = match item.as_text() {
                Some(text) => Some(text.split(':').next().unwrap_or_default()),
                None => item.get("target").and_then(Node::as_text),
            };
            let Some(target) = target.filter(|target| !target.is_empty()) else { continue };
            if let Some(first) = taken.insert(target.to_owned(), item.place) {
                let shown = if item.interpolated { "this place".to_owned() } else { format!("`{}`", crate::tree::shortened(target)) };
                journal.push(
                    Problem::new(
                        Code::Conflict,
                        item.place,
                        &list.index(index),
                        format!("something else is mounted at {shown} already"),
                    )
                    .hint(format!("see line {}; remove one of the two", first.line)),
                );
            }
        }
    }
}

fn replicas(service: &Mapping, path: &Path<'_>, journal: &mut Journal) {
    let deploy = path.key("deploy");
    let scale = value(service, "scale").map(|node| (node, path.key("scale")));
    let replicas = value(service, "deploy").and_then(|node| node.get("replicas")).map(|node| (node, deploy.key("replicas")));
    for (node, path) in scale.iter().chain(replicas.iter()) {
        if as_integer(node).is_some_and(|count| count < 0) {
            journal.push(
                Problem::new(Code::OutOfRange, node.place, path, format!("{} is out of range", node.quoted()))
                    .hint("the number of tasks is 0 or more"),
            );
        }
    }
}

/// A limit given as a mapping has both halves.
fn ulimits(service: &Mapping, path: &Path<'_>, journal: &mut Journal) {
    let limits = path.key("ulimits");
    for (name, entry) in value(service, "ulimits").and_then(Node::as_mapping).into_iter().flatten() {
        let Some(limit) = entry.node.as_mapping() else { continue };
        for key in ["soft", "hard"] {
            if !limit.contains_key(key) {
                journal.push(
                    Problem::new(
                        Code::MissingKey,
                        entry.key_place,
                        &limits.key(name),
                        format!("a limit given as a mapping needs the key `{key}`"),
                    )
                    .hint("add it, or write one number for both"),
                );
            }
        }
    }
}

fn network_mode(service: &Mapping, path: &Path<'_>, journal: &mut Journal) {
    let Some(mode) = value(service, "network_mode").and_then(Node::as_text).filter(|mode| !mode.is_empty()) else {
        return;
    };
    if let Some(networks) = service.get("networks")
        && networks.node.as_mapping().is_some_and(|mapping| !mapping.is_empty())
    {
        journal.push(
            Problem::new(
                Code::Conflict,
                networks.key_place,
                &path.key("networks"),
                "`networks` cannot be used together with `network_mode`",
            )
            .hint(if mode == "host" {
                "remove one of the two: with `network_mode: host` the container has the networks of its host"
            } else {
                "remove one of the two"
            }),
        );
    }
}

fn container_name(
    service: &Mapping,
    path: &Path<'_>,
    containers: &mut BTreeMap<String, Place>,
    journal: &mut Journal,
) {
    let Some(node) = value(service, "container_name") else { return };
    let Some(name) = node.as_text() else { return };
    if let Some(first) = containers.insert(name.to_owned(), node.place) {
        journal.push(
            Problem::new(
                Code::Conflict,
                node.place,
                &path.key("container_name"),
                format!("{} is the `container_name` of another service too", node.quoted()),
            )
            .hint(format!("see line {}; choose another name, or remove both", first.line)),
        );
    }
}

/// Reports every circle of services that need each other, once.
fn cycles(root: &Node, journal: &mut Journal) {
    let services = root.get("services").and_then(Node::as_mapping);
    let edges: BTreeMap<&str, Vec<(String, Place)>> = services
        .into_iter()
        .flatten()
        .filter_map(|(name, entry)| {
            let needs = needs(entry.node.as_mapping()?);
            Some((name.as_str(), needs.into_iter().map(|(name, place, _)| (name, place)).collect()))
        })
        .collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in edges.keys() {
        // A depth-first search with its own stack: a chain may be as long as the file.
        let mut stack: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((name, next)) = stack.pop() {
            if next == 0 && done.contains(name) {
                continue;
            }
            let Some((target, place)) = edges.get(name).and_then(|needs| needs.get(next)) else {
                done.insert(name);
                continue;
            };
            stack.push((name, next + 1));
            if let Some(from) = stack.iter().position(|(on_path, _)| on_path == target) {
                let mut names: Vec<&str> = stack[from..].iter().map(|(name, _)| *name).collect();
                names.push(target);
                let path = Path::Key(&Path::Root, "services");
                journal.push(
                    Problem::new(
                        Code::DependencyCycle,
                        *place,
                        &path.key(name),
                        format!("services need each other in a circle: `{}`", names.join("` → `")),
                    )
                    .hint("remove one of the dependencies"),
                );
            } else if let Some((known, _)) = edges.get_key_value(target.as_str())
                && !done.contains(known)
            {
                stack.push((known, 0));
            }
        }
    }
}

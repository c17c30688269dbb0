//! Pure. What is wrong within one resource or service whatever else the file has: values that contradict each other.

use crate::code::Code;
use crate::diagnostic::{Journal, Path, Problem};
use crate::schema::check::as_boolean;
use crate::tree::{Mapping, Node, Value};

/// Checks a merged canonical tree.
pub(crate) fn validate(root: &Node, journal: &mut Journal) {
    for (section, noun) in [("volumes", "volume"), ("networks", "network"), ("configs", "config"), ("secrets", "secret")] {
        let path = Path::Key(&Path::Root, section);
        for (key, entry) in root.get(section).and_then(Node::as_mapping).into_iter().flatten() {
            let path = path.key(key);
            if let Some(mapping) = entry.node.as_mapping() {
                external(mapping, section, noun, &path, journal);
            }
        }
    }
    let path = Path::Key(&Path::Root, "services");
    for (key, entry) in root.get("services").and_then(Node::as_mapping).into_iter().flatten() {
        if let Some(service) = entry.node.as_mapping() {
            let path = path.key(key);
            mounts(service, &path, journal);
            ports(service, &path, journal);
            device_requests(service, &path, journal);
        }
    }
}

pub(crate) fn is_external(mapping: &Mapping) -> bool {
    mapping.get("external").is_some_and(|entry| as_boolean(&entry.node) == Some(true))
}

fn external(mapping: &Mapping, section: &str, noun: &str, path: &Path<'_>, journal: &mut Journal) {
    if !is_external(mapping) {
        return;
    }
    for (key, entry) in mapping {
        let allowed = matches!(key.as_str(), "external" | "name") || key.starts_with("x-") || entry.node.is_null();
        // Docker Compose is as strict with volumes alone; for the others it is what would make them that contradicts.
        let makes = matches!(key.as_str(), "file" | "environment" | "content");
        if allowed || (section != "volumes" && !makes) {
            continue;
        }
        journal.push(
            Problem::new(
                Code::Conflict,
                entry.key_place,
                &path.key(key),
                format!("`{key}` cannot be given for a {noun} that is `external`"),
            )
            .hint(format!("an external {noun} is what somebody else made; remove one of the two")),
        );
    }
}

fn mounts(service: &Mapping, path: &Path<'_>, journal: &mut Journal) {
    let list = path.key("volumes");
    let volumes = service.get("volumes").and_then(|entry| entry.node.as_sequence()).unwrap_or_default();
    for (index, volume) in volumes.iter().enumerate() {
        let path = list.index(index);
        let kind = volume.get("type").and_then(Node::as_text).unwrap_or_default();
        let source = volume.get("source").and_then(Node::as_text).unwrap_or_default();
        if kind == "bind" && source.is_empty() {
            journal.push(
                Problem::new(
                    Code::MissingKey,
                    volume.place,
                    &path,
                    "a mount of the type `bind` needs the key `source`",
                )
                .hint("add `source:` with the path on the hosts"),
            );
        }
        let size = volume.get("tmpfs").and_then(|options| options.get("size"));
        if let Some(size) = size
            && size.as_text().and_then(|text| text.parse::<i64>().ok()).is_some_and(|bytes| bytes < 0)
        {
            journal.push(
                Problem::new(
                    Code::OutOfRange,
                    size.place,
                    &path.key("tmpfs"),
                    format!("{} is negative", size.quoted()),
                )
                .hint("leave the size out for no limit"),
            );
        }
    }
}

fn ports(service: &Mapping, path: &Path<'_>, journal: &mut Journal) {
    let list = path.key("ports");
    let ports = service.get("ports").and_then(|entry| entry.node.as_sequence()).unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        if let Some(address) = port.get("host_ip")
            && address.as_text().is_some_and(|text| !text.is_empty() && text.parse::<std::net::IpAddr>().is_err())
        {
            let path = list.index(index);
            journal.push(
                Problem::new(
                    Code::BadAddress,
                    address.place,
                    &path.key("host_ip"),
                    format!("{} is not an IP address", address.quoted()),
                )
                .hint("write an address that the hosts have, such as `127.0.0.1`"),
            );
        }
    }
}

fn device_requests(service: &Mapping, path: &Path<'_>, journal: &mut Journal) {
    let deploy = path.key("deploy");
    let resources = deploy.key("resources");
    let reservations = resources.key("reservations");
    let reserved = service
        .get("deploy")
        .and_then(|entry| entry.node.get("resources"))
        .and_then(|node| node.get("reservations"))
        .and_then(|node| node.get("devices"));
    let gpus = service.get("gpus").map(|entry| &entry.node);
    for (list, path, needs_capabilities) in
        [(reserved, reservations.key("devices"), true), (gpus, path.key("gpus"), false)]
    {
        for (index, request) in list.and_then(Node::as_sequence).unwrap_or_default().iter().enumerate() {
            let path = path.index(index);
            let count = request.get("count");
            if let Some(count) = count
                && !matches!(count.value, Value::Integer(_) | Value::Null)
            {
                journal.push(
                    Problem::new(
                        Code::BadValue,
                        count.place,
                        &path.key("count"),
                        format!("{} is not a number of devices", count.quoted()),
                    )
                    .hint("write a number, or `all`"),
                );
            }
            if count.is_some()
                && let Some(ids) = request.get("device_ids")
            {
                journal.push(
                    Problem::new(
                        Code::Conflict,
                        ids.place,
                        &path.key("device_ids"),
                        "`count` and `device_ids` cannot be used together",
                    )
                    .hint("remove one of the two"),
                );
            }
            if needs_capabilities && request.get("capabilities").is_none() && request.as_mapping().is_some() {
                journal.push(
                    Problem::new(
                        Code::MissingKey,
                        request.place,
                        &path,
                        "a device request needs the key `capabilities`",
                    )
                    .hint("add `capabilities: [gpu]`"),
                );
            }
        }
    }
}

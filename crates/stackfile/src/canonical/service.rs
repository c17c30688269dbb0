//! Pure. The short forms of a service.

use super::{Missing, field, key_values, list, list_items, names_to_mapping, text, text_to_mapping, texts_of_mapping};
use crate::code::Code;
use crate::diagnostic::{Journal, Path, Problem};
use crate::schema::check::{as_boolean, as_integer, as_number};
use crate::short::{bytes, command_line, device, duration, host, port, volume};
use crate::tree::{Mapping, Node, Value, insert};

/// Makes every short form of one service long.
pub(crate) fn service(node: &mut Node, path: &Path<'_>, journal: &mut Journal) {
    let Some(service) = node.as_mapping_mut() else { return };
    for (key, entry) in service.iter_mut() {
        let path = path.key(key);
        let node = &mut entry.node;
        match key.as_str() {
            "annotations" | "labels" => key_values(node, Missing::Empty),
            "sysctls" => key_values(node, Missing::Empty),
            "environment" => key_values(node, Missing::Null),
            "command" | "entrypoint" => command(node, &path, journal),
            "build" => build(node, &path, journal),
            "dns" | "dns_search" | "tmpfs" | "label_file" => list(node),
            "env_file" => env_file(node),
            "depends_on" => depends_on(node),
            "configs" => list_items(node, file_reference),
            "secrets" => list_items(node, |item| {
                file_reference(item);
                secret_target(item);
            }),
            "devices" => devices(node, &path, journal),
            "ports" => ports(node, &path, journal),
            "volumes" => volumes(node, &path, journal),
            "networks" => {
                names_to_mapping(node, |name| Node::null(name.place));
                for (_, entry) in node.as_mapping_mut().into_iter().flatten() {
                    if let Some(mapping) = entry.node.as_mapping_mut() {
                        field(mapping, "driver_opts", texts_of_mapping);
                    }
                }
            }
            "models" => names_to_mapping(node, |name| Node::null(name.place)),
            "expose" | "group_add" => list_items(node, text),
            "extra_hosts" => extra_hosts(node, &path, journal),
            "extends" => text_to_mapping(node, "service"),
            "gpus" => {
                if node.as_text() == Some("all") {
                    let mut mapping = Mapping::new();
                    insert(&mut mapping, "count", Node::integer(-1, node.place));
                    node.value = Value::Sequence(vec![Node::mapping(mapping, node.place)]);
                } else {
                    list_items(node, device_request);
                }
            }
            "healthcheck" => healthcheck(node),
            "logging" => {
                if let Some(mapping) = node.as_mapping_mut() {
                    field(mapping, "options", texts_of_mapping);
                }
            }
            "ulimits" => ulimits(node),
            "deploy" => deploy(node),
            "post_start" | "pre_start" | "pre_stop" => list_items(node, |hook| {
                if let Some(mapping) = hook.as_mapping_mut() {
                    field(mapping, "command", |node| command(node, &path, journal));
                    field(mapping, "environment", |node| key_values(node, Missing::Null));
                    for key in ["privileged", "per_replica"] {
                        field(mapping, key, boolean);
                    }
                }
            }),
            "develop" => develop(node, &path, journal),
            "provider" => {
                if let Some(options) = node.as_mapping_mut().and_then(|mapping| mapping.get_mut("options")) {
                    for (_, entry) in options.node.as_mapping_mut().into_iter().flatten() {
                        text(&mut entry.node);
                        list(&mut entry.node);
                        list_items(&mut entry.node, text);
                    }
                }
            }
            "stop_grace_period" => duration_field(node),
            "mem_limit" | "mem_reservation" | "memswap_limit" | "shm_size" => size(node),
            "mem_swappiness" => text(node),
            "cpus" => number(node),
            "cpu_count" | "cpu_shares" | "cpu_quota" | "oom_score_adj" | "pids_limit" | "scale" => integer(node),
            "cpu_percent" => number(node),
            "cpu_period" | "cpu_rt_period" | "cpu_rt_runtime" => microseconds(node),
            "attach" | "init" | "oom_kill_disable" | "privileged" | "read_only" | "stdin_open" | "tty"
            | "use_api_socket" => boolean(node),
            "storage_opt" => texts_of_mapping(node),
            _ => {}
        }
    }
}

/// A text that reads as a boolean to the boolean.
pub(crate) fn boolean(node: &mut Node) {
    if matches!(node.value, Value::Text(_))
        && let Some(value) = as_boolean(node)
    {
        node.value = Value::Boolean(value);
    }
}

/// A text that reads as a whole number to the number.
pub(crate) fn integer(node: &mut Node) {
    if let Some(value) = as_integer(node) {
        node.value = Value::Integer(value);
    }
}

fn number(node: &mut Node) {
    if let Some(value) = as_number(node) {
        node.value = match as_integer(node) {
            Some(whole) => Value::Integer(whole),
            None => Value::Float(value),
        };
    }
}

/// A size to its bytes, as a text: that is how the reference implementation prints sizes.
fn size(node: &mut Node) {
    let value = match &node.value {
        Value::Text(text) => bytes::parse(text).ok(),
        Value::Integer(number) => Some(*number),
        #[allow(clippy::cast_possible_truncation, reason = "a fraction of a byte is dropped, as Docker does")]
        Value::Float(number) => Some(*number as i64),
        _ => None,
    };
    if let Some(value) = value {
        node.value = Value::Text(value.to_string());
    }
}

fn duration_field(node: &mut Node) {
    if let Some(Ok(value)) = node.as_text().map(duration::parse) {
        node.value = Value::Text(duration::print(value));
    }
}

/// A duration or a number to microseconds.
fn microseconds(node: &mut Node) {
    let value = match &node.value {
        Value::Text(text) => match duration::parse(text) {
            Ok(value) => i64::try_from(value.as_micros()).ok(),
            Err(_) => as_integer(node),
        },
        _ => as_integer(node),
    };
    if let Some(value) = value {
        node.value = Value::Integer(value);
    }
}

/// Whether the variables of a short form are still to be replaced, so that it cannot be read yet.
fn is_open(text: &str, journal: &Journal) -> bool {
    journal.variables_left && text.contains('$')
}

fn command(node: &mut Node, path: &Path<'_>, journal: &mut Journal) {
    let Some(line) = node.as_text() else { return };
    match command_line::split(line) {
        Ok(words) => {
            let words = words.into_iter().map(|word| node.part(word)).collect();
            node.value = Value::Sequence(words);
        }
        Err(error) => {
            journal.push(
                Problem::new(
                    Code::BadCommandLine,
                    node.place,
                    path,
                    format!("this command line cannot be split: {error}"),
                )
                .hint("close the quote, or write the command as a list: `[\"sh\", \"-c\", \"…\"]`"),
            );
            // It is reported; nothing more is to be said about it.
            node.value = Value::Null;
        }
    }
}

fn build(node: &mut Node, path: &Path<'_>, journal: &mut Journal) {
    text_to_mapping(node, "context");
    let Some(mapping) = node.as_mapping_mut() else { return };
    for (key, entry) in mapping.iter_mut() {
        let node = &mut entry.node;
        match key.as_str() {
            "args" => key_values(node, Missing::Null),
            "additional_contexts" | "labels" => key_values(node, Missing::Empty),
            "ssh" => {
                list(node);
                key_values(node, Missing::Null);
            }
            "no_cache_filter" => list(node),
            "extra_hosts" => extra_hosts(node, &path.key("extra_hosts"), journal),
            "secrets" => list_items(node, file_reference),
            "shm_size" => size(node),
            "ulimits" => ulimits(node),
            "no_cache" | "privileged" | "pull" => boolean(node),
            "provenance" | "sbom" => text(node),
            _ => {}
        }
    }
}

fn env_file(node: &mut Node) {
    list(node);
    list_items(node, |item| {
        text_to_mapping(item, "path");
        let place = item.place;
        if let Some(mapping) = item.as_mapping_mut() {
            field(mapping, "required", boolean);
            if !mapping.contains_key("required") {
                insert(mapping, "required", Node::boolean(true, place));
            }
        }
    });
}

fn depends_on(node: &mut Node) {
    names_to_mapping(node, |name| Node::mapping(Mapping::new(), name.place));
    for (_, entry) in node.as_mapping_mut().into_iter().flatten() {
        let place = entry.key_place;
        if let Some(mapping) = entry.node.as_mapping_mut() {
            field(mapping, "required", boolean);
            field(mapping, "restart", boolean);
            if !mapping.contains_key("condition") {
                insert(mapping, "condition", Node::text("service_started", place));
            }
            if !mapping.contains_key("required") {
                insert(mapping, "required", Node::boolean(true, place));
            }
        }
    }
}

fn file_reference(node: &mut Node) {
    text_to_mapping(node, "source");
    if let Some(mapping) = node.as_mapping_mut() {
        field(mapping, "mode", file_mode);
    }
}

/// Permissions as octal digits in a text; YAML has read `0440` as an octal number already.
fn file_mode(node: &mut Node) {
    let mode = match &node.value {
        Value::Integer(number) => u32::try_from(*number).ok(),
        Value::Text(text) => u32::from_str_radix(text.trim_start_matches("0o"), 8).ok(),
        _ => None,
    };
    if let Some(mode) = mode {
        node.value = Value::Text(format!("0{mode:o}"));
    }
}

/// Where a secret is when nothing says where.
fn secret_target(node: &mut Node) {
    let Some(mapping) = node.as_mapping_mut() else { return };
    if mapping.contains_key("target") {
        return;
    }
    if let Some(source) = mapping.get("source").map(|entry| entry.node.clone())
        && let Some(name) = source.as_text()
    {
        let target = source.part(format!("/run/secrets/{name}"));
        insert(mapping, "target", target);
    }
}

fn devices(node: &mut Node, path: &Path<'_>, journal: &mut Journal) {
    let mut index = 0;
    list_items(node, |item| {
        let path = path.index(index);
        index += 1;
        if let Some(mapping) = item.as_mapping_mut() {
            if let Some(source) = mapping.get("source").map(|entry| entry.node.clone())
                && !mapping.contains_key("target")
            {
                insert(mapping, "target", source);
            }
            let place = item.place;
            if let Some(mapping) = item.as_mapping_mut()
                && !mapping.contains_key("permissions")
            {
                insert(mapping, "permissions", Node::text("rwm", place));
            }
            return;
        }
        let Some(text) = item.as_text() else { return };
        if is_open(text, journal) {
            return;
        }
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, permissions) = match parts.as_slice() {
            // The name of a device may have colons of its own.
            _ if device::is_name(text) => (text, text, "rwm"),
            [source] => (*source, *source, "rwm"),
            [source, target] => (*source, *target, "rwm"),
            [source, target, permissions] => (*source, *target, *permissions),
            _ => {
                journal.push(
                    Problem::new(
                        Code::BadDevice,
                        item.place,
                        &path,
                        format!("{} is not a device: it has too many colons", item.quoted()),
                    )
                    .hint("write `/dev/host:/dev/container:rwm`"),
                );
                return;
            }
        };
        let mut mapping = Mapping::new();
        insert(&mut mapping, "source", item.part(source));
        insert(&mut mapping, "target", item.part(target));
        insert(&mut mapping, "permissions", item.part(permissions));
        item.value = Value::Mapping(mapping);
    });
}

/// How many ports all ranges of a stack may become: every one that a host has.
const MOST_PORTS: usize = 65_536;

fn too_many_ports(item: &Node, path: &Path<'_>, journal: &mut Journal) {
    journal.push(
        Problem::new(Code::TooLarge, item.place, path, format!("the ports of this stack are more than {MOST_PORTS}"))
            .hint("publish fewer ports, or give the service `network_mode: host`"),
    );
}

fn ports(node: &mut Node, path: &Path<'_>, journal: &mut Journal) {
    let Value::Sequence(items) = &mut node.value else { return };
    let mut long = Vec::with_capacity(items.len());
    for (index, mut item) in std::mem::take(items).into_iter().enumerate() {
        let path = path.index(index);
        if item.as_mapping().is_some() {
            long_port(&mut item);
            long.push(item);
            continue;
        }
        let Some(text) = item.scalar_text().filter(|text| !is_open(text, journal)) else {
            long.push(item);
            continue;
        };
        if item.plain && item.as_text().is_some() && !item.interpolated && is_sexagesimal(&text) {
            journal.push(
                Problem::new(
                    Code::PortNeedsQuotes,
                    item.place,
                    &path,
                    format!("`{text}` without quotes is a number to the base of sixty for some YAML readers"),
                )
                .hint(format!("put it in quotes: `\"{text}\"`")),
            );
        }
        if journal.ports >= MOST_PORTS {
            too_many_ports(&item, &path, journal);
            continue;
        }
        match port::parse(&text) {
            Ok(ports) if journal.ports + ports.len() > MOST_PORTS => {
                journal.ports = MOST_PORTS;
                too_many_ports(&item, &path, journal);
            }
            Ok(ports) => {
                journal.ports += ports.len();
                for port in ports {
                    let mut mapping = Mapping::new();
                    insert(&mut mapping, "mode", item.part("ingress"));
                    if let Some(address) = port.host_ip {
                        insert(&mut mapping, "host_ip", item.part(address));
                    }
                    insert(&mut mapping, "target", Node::integer(i64::from(port.target), item.place));
                    if let Some(published) = port.published {
                        insert(&mut mapping, "published", item.part(published));
                    }
                    insert(&mut mapping, "protocol", item.part(port.protocol));
                    long.push(Node::mapping(mapping, item.place));
                }
            }
            Err(error) => {
                let reason = if item.interpolated { String::new() } else { format!(": {error}") };
                journal.push(
                    Problem::new(Code::BadPort, item.place, &path, format!("{} is not a port{reason}", item.quoted()))
                        .hint(
                            "write `CONTAINER`, `HOST:CONTAINER` or `ADDRESS:HOST:CONTAINER`, with `/udp` if it is UDP",
                        ),
                );
            }
        }
    }
    *items = long;
}

/// Two numbers below sixty with a colon: what YAML 1.1 reads as one number.
fn is_sexagesimal(text: &str) -> bool {
    text.split_once(':').is_some_and(|(first, second)| {
        let number = |part: &str| part.parse::<u32>().ok();
        number(first).is_some() && number(second).is_some_and(|second| second < 60)
    })
}

fn long_port(item: &mut Node) {
    let place = item.place;
    let Some(mapping) = item.as_mapping_mut() else { return };
    field(mapping, "target", integer);
    field(mapping, "published", text);
    for (key, value) in [("protocol", "tcp"), ("mode", "ingress")] {
        if !mapping.contains_key(key) {
            insert(mapping, key, Node::text(value, place));
        }
    }
}

fn volumes(node: &mut Node, path: &Path<'_>, journal: &mut Journal) {
    let mut index = 0;
    list_items(node, |item| {
        let path = path.index(index);
        index += 1;
        if item.as_mapping().is_some() {
            long_volume(item);
            return;
        }
        let Some(text) = item.as_text() else { return };
        let short = match volume::parse(text) {
            Ok(short) => short,
            Err(error) => {
                journal.push(
                    Problem::new(
                        Code::BadVolume,
                        item.place,
                        &path,
                        format!("{} is not a volume: {error}", item.quoted()),
                    )
                    .hint("write `NAME:/path/in/container` or `/path/on/host:/path/in/container:ro`"),
                );
                return;
            }
        };
        for option in &short.unknown {
            let shown = if item.interpolated { "an option".to_owned() } else { format!("the option `{option}`") };
            journal.push(
                Problem::new(
                    Code::UnknownOption,
                    item.place,
                    &path,
                    format!("{shown} of this volume is not known, and does nothing"),
                )
                .hint("known are `ro`, `rw`, `nocopy`, `z`, `Z` and propagations such as `rslave`"),
            );
        }
        let labels = short.selinux.is_some() && !short.bind;
        if labels || (short.propagation.is_some() && !short.bind) {
            let what = if labels { "`z` and `Z`" } else { "propagation" };
            journal.push(Problem::new(
                Code::Noted,
                item.place,
                &path,
                format!("{what} only concern directories of the host; for a named volume they do nothing"),
            ));
        }
        item.value = Value::Mapping(short_volume(item, short));
    });
}

/// The long form of a short volume.
pub(crate) fn short_volume(item: &Node, short: volume::ShortVolume) -> Mapping {
    let mut mapping = Mapping::new();
    insert(&mut mapping, "type", item.part(if short.bind { "bind" } else { "volume" }));
    if let Some(source) = short.source {
        insert(&mut mapping, "source", item.part(source));
    }
    insert(&mut mapping, "target", item.part(clean_target(&short.target)));
    if short.read_only {
        insert(&mut mapping, "read_only", Node::boolean(true, item.place));
    }
    if let Some(consistency) = short.consistency {
        insert(&mut mapping, "consistency", item.part(consistency));
    }
    let mut options = Mapping::new();
    if short.bind {
        if let Some(selinux) = short.selinux {
            insert(&mut options, "selinux", item.part(selinux));
        }
        if let Some(propagation) = short.propagation {
            insert(&mut options, "propagation", item.part(propagation));
        }
        insert(&mut mapping, "bind", Node::mapping(options, item.place));
    } else {
        if short.no_copy {
            insert(&mut options, "nocopy", Node::boolean(true, item.place));
        }
        insert(&mut mapping, "volume", Node::mapping(options, item.place));
    }
    mapping
}

/// Without slashes at the end and without doubled ones. Windows paths stay as they are.
fn clean_target(target: &str) -> String {
    if !target.starts_with('/') {
        return target.to_owned();
    }
    let parts: Vec<&str> = target.split('/').filter(|part| !part.is_empty()).collect();
    format!("/{}", parts.join("/"))
}

fn long_volume(item: &mut Node) {
    let Some(mapping) = item.as_mapping_mut() else { return };
    field(mapping, "read_only", boolean);
    field(mapping, "target", |node| {
        if let Value::Text(target) = &mut node.value {
            *target = clean_target(target);
        }
    });
    for (key, flag) in [("bind", "create_host_path"), ("volume", "nocopy")] {
        if let Some(options) = mapping.get_mut(key).and_then(|entry| entry.node.as_mapping_mut()) {
            field(options, flag, boolean);
        }
    }
    if let Some(options) = mapping.get_mut("volume").and_then(|entry| entry.node.as_mapping_mut()) {
        field(options, "labels", |node| key_values(node, Missing::Empty));
    }
    if let Some(options) = mapping.get_mut("tmpfs").and_then(|entry| entry.node.as_mapping_mut()) {
        field(options, "size", size);
        field(options, "mode", file_mode);
        // 0 is no limit, as if it were not there.
        if options.get("size").is_some_and(|entry| entry.node.as_text() == Some("0")) {
            options.shift_remove("size");
        }
    }
}

fn extra_hosts(node: &mut Node, path: &Path<'_>, journal: &mut Journal) {
    let place = node.place;
    let mut lines: Vec<Node> = Vec::new();
    match &node.value {
        Value::Mapping(mapping) => {
            for (name, entry) in mapping {
                let addresses: Vec<&Node> = match &entry.node.value {
                    Value::Sequence(items) => items.iter().collect(),
                    _ => vec![&entry.node],
                };
                for address in addresses {
                    let Some(text) = address.as_text() else { return };
                    for text in text.split(',') {
                        lines.push(address.part(format!("{name}={}", host::unbracketed(text))));
                    }
                }
            }
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter().enumerate() {
                let Some(text) = item.as_text() else { return };
                // A name without an address is refused when the stack is made, not before: it can still be overridden.
                match host::parse(text).or(Some((text, ""))) {
                    Some((name, addresses)) if !name.is_empty() => {
                        for address in addresses.split(',') {
                            lines.push(item.part(format!("{name}={}", host::unbracketed(address))));
                        }
                    }
                    _ => journal.push(
                        Problem::new(
                            Code::BadHostEntry,
                            item.place,
                            &path.index(index),
                            format!("{} is not an entry for a host", item.quoted()),
                        )
                        .hint("write `NAME=ADDRESS`, such as `\"db=192.0.2.7\"`"),
                    ),
                }
            }
        }
        _ => return,
    }
    lines.sort_by(|left, right| host_name(left).cmp(host_name(right)));
    *node = Node { directive: node.directive, ..Node::sequence(lines, place) };
}

fn host_name(line: &Node) -> &str {
    line.as_text().and_then(|text| text.split_once('=')).map_or("", |(name, _)| name)
}

fn healthcheck(node: &mut Node) {
    let Some(mapping) = node.as_mapping_mut() else { return };
    field(mapping, "test", |node| {
        if let Some(line) = node.as_text() {
            let words = vec![node.part("CMD-SHELL"), node.part(line)];
            node.value = Value::Sequence(words);
        }
    });
    field(mapping, "disable", boolean);
    field(mapping, "retries", integer);
    for key in ["interval", "timeout", "start_period", "start_interval"] {
        field(mapping, key, duration_field);
    }
}

fn ulimits(node: &mut Node) {
    for (_, entry) in node.as_mapping_mut().into_iter().flatten() {
        integer(&mut entry.node);
        if let Some(mapping) = entry.node.as_mapping_mut() {
            field(mapping, "soft", integer);
            field(mapping, "hard", integer);
        }
    }
}

fn device_request(node: &mut Node) {
    let place = node.place;
    let Some(mapping) = node.as_mapping_mut() else { return };
    field(mapping, "options", |node| key_values(node, Missing::Empty));
    field(mapping, "count", |node| {
        if node.as_text() == Some("all") {
            node.value = Value::Integer(-1);
        } else {
            integer(node);
        }
    });
    if !mapping.contains_key("count") && !mapping.contains_key("device_ids") {
        insert(mapping, "count", Node::integer(-1, place));
    }
}

fn deploy(node: &mut Node) {
    let Some(mapping) = node.as_mapping_mut() else { return };
    field(mapping, "labels", |node| key_values(node, Missing::Empty));
    field(mapping, "replicas", integer);
    for key in ["update_config", "rollback_config"] {
        if let Some(mapping) = mapping.get_mut(key).and_then(|entry| entry.node.as_mapping_mut()) {
            field(mapping, "parallelism", integer);
            field(mapping, "max_failure_ratio", number);
            field(mapping, "delay", duration_field);
            field(mapping, "monitor", duration_field);
        }
    }
    if let Some(mapping) = mapping.get_mut("restart_policy").and_then(|entry| entry.node.as_mapping_mut()) {
        field(mapping, "max_attempts", integer);
        field(mapping, "delay", duration_field);
        field(mapping, "window", duration_field);
    }
    if let Some(mapping) = mapping.get_mut("placement").and_then(|entry| entry.node.as_mapping_mut()) {
        field(mapping, "max_replicas_per_node", integer);
    }
    for key in ["limits", "reservations"] {
        let resources = mapping.get_mut("resources").and_then(|entry| entry.node.as_mapping_mut());
        if let Some(mapping) =
            resources.and_then(|resources| resources.get_mut(key)).and_then(|entry| entry.node.as_mapping_mut())
        {
            field(mapping, "cpus", number);
            field(mapping, "memory", size);
            field(mapping, "pids", integer);
            field(mapping, "devices", |node| list_items(node, device_request));
            field(mapping, "generic_resources", |node| {
                list_items(node, |item| {
                    if let Some(mapping) = item
                        .as_mapping_mut()
                        .and_then(|mapping| mapping.get_mut("discrete_resource_spec"))
                        .and_then(|entry| entry.node.as_mapping_mut())
                    {
                        field(mapping, "value", integer);
                    }
                });
            });
        }
    }
}

fn develop(node: &mut Node, path: &Path<'_>, journal: &mut Journal) {
    let Some(watch) = node.as_mapping_mut().and_then(|mapping| mapping.get_mut("watch")) else { return };
    list_items(&mut watch.node, |item| {
        let Some(mapping) = item.as_mapping_mut() else { return };
        field(mapping, "ignore", list);
        field(mapping, "include", list);
        field(mapping, "initial_sync", boolean);
        if let Some(exec) = mapping.get_mut("exec").and_then(|entry| entry.node.as_mapping_mut()) {
            field(exec, "command", |node| command(node, path, journal));
            field(exec, "environment", |node| key_values(node, Missing::Null));
        }
    });
}

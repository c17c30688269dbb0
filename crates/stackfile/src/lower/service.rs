//! Pure. One service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use stack_model::spec::{
    Constraint, EndpointMode, FailureAction, NetworkAttachment, NetworkMode, Placement, Protocol, PublishMode,
    PublishedPort, Resources, RestartCondition, RestartPolicy, ServiceMode, ServiceSpec, UpdateOrder, UpdatePolicy,
};

use super::Context;
use super::container;
use super::lifecycle;
use super::read::{self, Fields};
use crate::code::Code;
use crate::diagnostic::{Journal, Path, Problem, did_you_mean};
use crate::short::port;
use crate::tree::{Entry, Node};

/// One service; `None` when it cannot be, which the journal says.
pub(super) fn service(
    entry: &Entry,
    path: Path<'_>,
    context: &Context<'_>,
    journal: &mut Journal,
) -> Option<ServiceSpec> {
    let fields = Fields { mapping: entry.node.as_mapping(), path, place: entry.key_place };
    let deploy = fields.fields("deploy");
    let mode = mode(&fields, &deploy, journal);
    let placement = placement(&fields, &deploy.fields("placement"), journal);
    let resources = resources(&fields, &deploy.fields("resources"), journal);
    let restart = restart(&fields, &deploy, journal);
    let update = policy(&deploy.fields("update_config"), &["pause", "continue", "rollback"], journal);
    let rollback = deploy
        .node("rollback_config")
        .map(|_| policy(&deploy.fields("rollback_config"), &["pause", "continue"], journal));
    let depends_on = lifecycle::dependencies(&fields, journal);
    let container = container::container(&fields, context, journal);
    let ports = ports(&fields, journal);
    let networks = networks(&fields, journal);
    let endpoint_mode = endpoint_mode(&deploy, journal);
    let sticky = session_affinity(&deploy, journal);
    let labels = deploy.pairs("labels", journal);
    let container = container?;
    if container.network_mode != NetworkMode::Networks {
        conflict_with_network_mode(&fields, container.network_mode, journal);
    }
    Some(ServiceSpec {
        container,
        mode,
        placement,
        resources,
        restart,
        update,
        rollback,
        depends_on,
        ports,
        networks,
        endpoint_mode,
        sticky,
        labels,
    })
}

fn conflict_with_network_mode(fields: &Fields<'_>, mode: NetworkMode, journal: &mut Journal) {
    let name = if mode == NetworkMode::Host { "host" } else { "none" };
    if !fields.items("ports").is_empty() {
        journal.push(
            Problem::new(
                Code::Conflict,
                fields.key_place("ports"),
                &fields.path.key("ports"),
                format!("`ports` cannot be used together with `network_mode: {name}`"),
            )
            .hint(match mode {
                NetworkMode::Host => "remove it: the container already has all ports of its host",
                NetworkMode::None | NetworkMode::Networks => "remove one of the two",
            }),
        );
    }
}

/// Reports a text that is none of the choices, with the nearest one.
pub(super) fn not_allowed(node: &Node, path: &Path<'_>, choices: &[&str], journal: &mut Journal) {
    let problem = Problem::new(
        Code::NotAllowed,
        node.place,
        path,
        format!("{} is not allowed here: expected one of `{}`", node.quoted(), choices.join("`, `")),
    );
    let meant =
        node.as_text().filter(|_| !node.interpolated).and_then(|text| did_you_mean(text, choices.iter().copied()));
    journal.push(match meant {
        Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
        None => problem,
    });
}

fn endpoint_mode(deploy: &Fields<'_>, journal: &mut Journal) -> EndpointMode {
    if let Some(node) = deploy.node("endpoint_mode") {
        match node.as_text() {
            Some("vip") => {}
            Some("dnsrr") => return EndpointMode::Dnsrr,
            _ => not_allowed(node, &deploy.path.key("endpoint_mode"), &["vip", "dnsrr"], journal),
        }
    }
    EndpointMode::Vip
}

fn session_affinity(deploy: &Fields<'_>, journal: &mut Journal) -> bool {
    let key = "x-stack-session-affinity";
    let Some(node) = deploy.node(key) else { return false };
    match node.as_text() {
        Some("client-ip") => true,
        Some("none") => false,
        _ => {
            not_allowed(node, &deploy.path.key(key), &["none", "client-ip"], journal);
            false
        }
    }
}

fn mode(fields: &Fields<'_>, deploy: &Fields<'_>, journal: &mut Journal) -> ServiceMode {
    let replicas = deploy.count("replicas", journal);
    let scale = fields.count("scale", journal);
    if let (Some(replicas), Some(scale)) = (replicas, scale)
        && replicas != scale
    {
        journal.push(
            Problem::new(
                Code::Conflict,
                fields.key_place("scale"),
                &fields.path.key("scale"),
                format!("`scale` is {scale} and `deploy.replicas` is {replicas}"),
            )
            .hint("keep `deploy.replicas` alone"),
        );
    }
    let replicated = ServiceMode::Replicated { replicas: replicas.or(scale).unwrap_or(1) };
    let Some(node) = deploy.node("mode") else { return replicated };
    let path = deploy.path.key("mode");
    match node.as_text() {
        Some("replicated") => replicated,
        Some("global") => {
            for (holder, key) in [(deploy, "replicas"), (fields, "scale")] {
                if holder.node(key).is_some() {
                    journal.push(
                        Problem::new(
                            Code::Conflict,
                            holder.key_place(key),
                            &holder.path.key(key),
                            format!(
                                "`{key}` cannot be used together with `mode: global`, which has one task on each host"
                            ),
                        )
                        .hint(format!("remove `{key}`, or `mode: global`")),
                    );
                }
            }
            ServiceMode::Global
        }
        Some(job @ ("replicated-job" | "global-job")) => {
            journal.push(
                Problem::new(Code::NotSupportedYet, node.place, &path, format!("`mode: {job}` is not supported yet"))
                    .hint("use `restart_policy: {condition: none}` for a task that runs once"),
            );
            replicated
        }
        _ => {
            not_allowed(node, &path, &["replicated", "global"], journal);
            replicated
        }
    }
}

/// What constraints can be about.
const ATTRIBUTES: [&str; 6] =
    ["node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch"];

fn placement(service: &Fields<'_>, fields: &Fields<'_>, journal: &mut Journal) -> Placement {
    let mut constraints = Vec::new();
    let list = fields.path.key("constraints");
    for (index, node) in fields.items("constraints").iter().enumerate() {
        let path = list.index(index);
        let Some(text) = read::text(node, &path, journal) else { continue };
        match constraint(&text) {
            Some(constraint) => constraints.push(constraint),
            None => {
                let problem = Problem::new(
                    Code::BadConstraint,
                    node.place,
                    &path,
                    format!("{} is not a placement constraint", node.quoted()),
                );
                let attribute = text.split(['=', '!']).next().unwrap_or_default().trim().to_owned();
                journal.push(match did_you_mean(&attribute, ATTRIBUTES).filter(|_| !node.interpolated) {
                    Some(meant) if meant != attribute => problem.hint(format!("did you mean `{meant}`?")),
                    _ => problem.hint("write `node.labels.disk == ssd` or `node.hostname != db1`"),
                });
            }
        }
    }
    if let Some(node) = service.node("platform")
        && let Some(text) = service.text("platform", journal)
    {
        match platform(&text) {
            Some(more) => constraints.extend(more),
            None => journal.push(
                Problem::new(
                    Code::BadValue,
                    node.place,
                    &service.path.key("platform"),
                    format!("{} is not a platform that hosts can have", node.quoted()),
                )
                .hint("write `linux/amd64` or `linux/arm64`"),
            ),
        }
    }
    let preferences = fields.path.key("preferences");
    let mut spread = Vec::new();
    for (index, node) in fields.items("preferences").iter().enumerate() {
        let preference = Fields::new(node, preferences.index(index));
        if let Some(attribute) = preference.text("spread", journal) {
            if is_attribute(&attribute) {
                spread.push(attribute);
            } else {
                let node = preference.node("spread").unwrap_or(node);
                journal.push(
                    Problem::new(
                        Code::BadConstraint,
                        node.place,
                        &preference.path.key("spread"),
                        format!("{} is not an attribute of hosts", node.quoted()),
                    )
                    .hint("write `node.labels.zone`, with a label that the hosts have"),
                );
            }
        }
    }
    // 0 is any number, as for Swarm.
    let max = fields.count("max_replicas_per_node", journal).filter(|most| *most > 0);
    Placement { constraints, spread, max_replicas_per_node: max }
}

fn is_attribute(text: &str) -> bool {
    ATTRIBUTES.contains(&text)
        || ["node.labels.", "engine.labels."].iter().any(|prefix| {
            text.strip_prefix(prefix).is_some_and(|key| !key.is_empty() && !key.contains(char::is_whitespace))
        })
}

fn constraint(text: &str) -> Option<Constraint> {
    let at = text.find(['=', '!'])?;
    let (attribute, rest) = text.split_at(at);
    let (equal, value) = match (rest.strip_prefix("=="), rest.strip_prefix("!=")) {
        (Some(value), _) => (true, value),
        (_, Some(value)) => (false, value),
        _ => return None,
    };
    let (attribute, value) = (attribute.trim(), value.trim());
    if !is_attribute(attribute) || value.is_empty() || value.contains(['=', '!']) {
        return None;
    }
    let lower = value.to_ascii_lowercase();
    // Swarm's words for the same things.
    let value = match (attribute, lower.as_str()) {
        ("node.role", "manager") => "controller",
        ("node.platform.arch", arch) => architecture(arch),
        _ => value,
    };
    Some(Constraint { attribute: attribute.to_owned(), equal, value: value.to_owned() })
}

/// The name that OCI images have for what the kernel may call otherwise.
fn architecture(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" | "armv8" => "arm64",
        "i386" | "i686" => "386",
        other => other,
    }
}

fn platform(text: &str) -> Option<Vec<Constraint>> {
    let mut parts = text.split('/');
    let system = parts.next().filter(|system| *system == "linux")?;
    let mut constraints = vec![equal("node.platform.os", system)];
    if let Some(name) = parts.next() {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return None;
        }
        constraints.push(equal("node.platform.arch", architecture(name)));
    }
    Some(constraints)
}

fn equal(attribute: &str, value: &str) -> Constraint {
    Constraint { attribute: attribute.to_owned(), equal: true, value: value.to_owned() }
}

fn resources(service: &Fields<'_>, fields: &Fields<'_>, journal: &mut Journal) -> Resources {
    let limits = fields.fields("limits");
    let reservations = fields.fields("reservations");
    let quota = quota(service, journal);
    let cpu = either(
        (cpus(&limits, "cpus", journal), &limits, "cpus"),
        (cpus(service, "cpus", journal).or(quota), service, if quota.is_some() { "cpu_quota" } else { "cpus" }),
        journal,
    );
    let memory = either(
        (limits.size("memory", journal), &limits, "memory"),
        (service.size("mem_limit", journal), service, "mem_limit"),
        journal,
    )
    .filter(|bytes| *bytes > 0);
    let pids = |fields: &Fields<'_>, key: &str, journal: &mut Journal| {
        fields
            .integer(key, -1, i64::MAX, journal)
            .and_then(|count| u64::try_from(count).ok())
            .filter(|count| *count > 0)
    };
    let pids_limit = either(
        (pids(&limits, "pids", journal), &limits, "pids"),
        (pids(service, "pids_limit", journal), service, "pids_limit"),
        journal,
    );
    let reserved = either(
        (reservations.size("memory", journal), &reservations, "memory"),
        (service.size("mem_reservation", journal), service, "mem_reservation"),
        journal,
    )
    .unwrap_or(0);
    let cpu_reserved = cpus(&reservations, "cpus", journal).unwrap_or(0);
    let exceeds = [
        ("cpus", cpu.filter(|limit| *limit > 0 && *limit < cpu_reserved).is_some()),
        ("memory", memory.filter(|limit| *limit < reserved).is_some()),
    ];
    for (key, exceeds) in exceeds {
        if exceeds {
            let (holder, key) = if key == "memory" && reservations.node("memory").is_none() {
                (service, "mem_reservation")
            } else {
                (&reservations, key)
            };
            journal.push(
                Problem::new(
                    Code::Conflict,
                    holder.key_place(key),
                    &holder.path.key(key),
                    format!("more `{key}` is reserved than the limit allows to be used"),
                )
                .hint("lower the reservation or raise the limit"),
            );
        }
    }
    Resources {
        cpu_limit_millis: cpu.filter(|millis| *millis > 0),
        memory_limit_bytes: memory,
        pids_limit,
        cpu_reservation_millis: cpu_reserved,
        memory_reservation_bytes: reserved,
    }
}

/// One of two keys that mean the same; both may be there if they agree.
fn either(
    first: (Option<u64>, &Fields<'_>, &str),
    second: (Option<u64>, &Fields<'_>, &str),
    journal: &mut Journal,
) -> Option<u64> {
    if let (Some(left), Some(right)) = (first.0, second.0)
        && left != right
    {
        let first_path = first.1.path.key(first.2);
        journal.push(
            Problem::new(
                Code::Conflict,
                second.1.key_place(second.2),
                &second.1.path.key(second.2),
                format!("`{}` and `{first_path}` mean the same and differ", second.2),
            )
            .hint(format!("keep `{first_path}` alone")),
        );
    }
    first.0.or(second.0)
}

/// Thousandths of a processor, rounded up, so that no reservation vanishes.
fn cpus(fields: &Fields<'_>, key: &str, journal: &mut Journal) -> Option<u64> {
    let value = fields.number(key, journal)?;
    if (0.0..=100_000.0).contains(&value) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1e8")]
        return Some((value * 1000.0 - 1e-9).ceil().max(0.0) as u64);
    }
    let node = fields.node(key)?;
    journal.push(
        Problem::new(
            Code::OutOfRange,
            node.place,
            &fields.path.key(key),
            format!("{} processors are out of range", node.quoted()),
        )
        .hint("write a number from 0 to 100000, such as `0.5`"),
    );
    None
}

/// `cpu_quota` in each `cpu_period` as thousandths of a processor.
fn quota(fields: &Fields<'_>, journal: &mut Journal) -> Option<u64> {
    let period = fields.integer("cpu_period", 0, 1_000_000, journal).filter(|period| *period > 0);
    let quota = fields.integer("cpu_quota", -1, i64::from(u32::MAX), journal);
    if fields.node("cpu_period").is_some() && fields.node("cpu_quota").is_none() {
        journal.push(
            Problem::new(
                Code::MissingKey,
                fields.key_place("cpu_period"),
                &fields.path.key("cpu_period"),
                "`cpu_period` does nothing without `cpu_quota`",
            )
            .hint("use `cpus` in place of both"),
        );
    }
    let quota = u64::try_from(quota?).ok().filter(|quota| *quota > 0)?;
    let period = u64::try_from(period.unwrap_or(100_000)).unwrap_or(100_000);
    Some((quota * 1000).div_ceil(period))
}

fn restart(service: &Fields<'_>, deploy: &Fields<'_>, journal: &mut Journal) -> RestartPolicy {
    let mut policy = RestartPolicy::default();
    if let Some(node) = service.node("restart") {
        let path = service.path.key("restart");
        let text = node.as_text().unwrap_or_default();
        match text.split_once(':') {
            None => match text {
                "no" => policy.condition = RestartCondition::None,
                "always" | "unless-stopped" => policy.condition = RestartCondition::Any,
                "on-failure" => policy.condition = RestartCondition::OnFailure,
                _ => not_allowed(node, &path, &["no", "always", "on-failure", "unless-stopped"], journal),
            },
            Some(("on-failure", count)) => {
                policy.condition = RestartCondition::OnFailure;
                match count.parse::<u32>() {
                    Ok(0) => {}
                    Ok(count) => policy.max_attempts = Some(count),
                    Err(_) => journal.push(
                        Problem::new(
                            Code::BadValue,
                            node.place,
                            &path,
                            format!("{} does not end with a number of attempts", node.quoted()),
                        )
                        .hint("write `on-failure:5`"),
                    ),
                }
            }
            Some(_) => not_allowed(node, &path, &["no", "always", "on-failure", "unless-stopped"], journal),
        }
    }
    let fields = deploy.fields("restart_policy");
    if fields.mapping.is_none() {
        return policy;
    }
    // `deploy.restart_policy` is the more exact one and wins as a whole, as the specification says.
    let mut policy = RestartPolicy::default();
    if let Some(node) = fields.node("condition") {
        match node.as_text() {
            Some("none") => policy.condition = RestartCondition::None,
            Some("on-failure") => policy.condition = RestartCondition::OnFailure,
            // Words of `restart`, which Docker Compose takes here too.
            Some("any" | "always" | "unless-stopped") => policy.condition = RestartCondition::Any,
            _ => not_allowed(node, &fields.path.key("condition"), &["none", "on-failure", "any"], journal),
        }
    }
    policy.delay = fields.duration("delay", journal);
    policy.max_attempts = fields.count("max_attempts", journal).filter(|attempts| *attempts > 0);
    policy.window = fields.duration("window", journal).filter(|window| window.0 > 0);
    policy
}

/// How tasks are replaced; `actions` are what can be done when too many new ones fail.
fn policy(fields: &Fields<'_>, actions: &[&str], journal: &mut Journal) -> UpdatePolicy {
    let mut policy = UpdatePolicy::default();
    if let Some(parallelism) = fields.count("parallelism", journal) {
        policy.parallelism = parallelism;
    }
    if let Some(delay) = fields.duration("delay", journal) {
        policy.delay = delay;
    }
    if let Some(monitor) = fields.duration("monitor", journal) {
        policy.monitor = monitor;
    }
    if let Some(node) = fields.node("order") {
        match node.as_text() {
            Some("stop-first") => policy.order = UpdateOrder::StopFirst,
            Some("start-first") => policy.order = UpdateOrder::StartFirst,
            _ => not_allowed(node, &fields.path.key("order"), &["stop-first", "start-first"], journal),
        }
    }
    if let Some(node) = fields.node("failure_action") {
        match node.as_text().filter(|action| actions.contains(action)) {
            Some("pause") => policy.failure_action = FailureAction::Pause,
            Some("continue") => policy.failure_action = FailureAction::Continue,
            Some("rollback") => policy.failure_action = FailureAction::Rollback,
            _ => not_allowed(node, &fields.path.key("failure_action"), actions, journal),
        }
    }
    if let Some(ratio) = fields.number("max_failure_ratio", journal) {
        if (0.0..=1.0).contains(&ratio) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1000")]
            let permille = (ratio * 1000.0).round() as u32;
            policy.max_failure_ratio_permille = permille;
        } else if let Some(node) = fields.node("max_failure_ratio") {
            journal.push(
                Problem::new(
                    Code::OutOfRange,
                    node.place,
                    &fields.path.key("max_failure_ratio"),
                    format!("{} is not a share", node.quoted()),
                )
                .hint("write a number from 0 to 1, such as `0.3`"),
            );
        }
    }
    policy
}

fn ports(fields: &Fields<'_>, journal: &mut Journal) -> Vec<PublishedPort> {
    let list = fields.path.key("ports");
    let mut ports: Vec<PublishedPort> = Vec::new();
    let mut taken: TakenPorts<u32> = TakenPorts::new();
    for (index, node) in fields.items("ports").iter().enumerate() {
        if node.as_mapping().is_none() {
            continue;
        }
        let port = Fields::new(node, list.index(index));
        for port in one_port(&port, node, journal) {
            if let Some(line) = taken.take(&port, node.place.line) {
                journal.push(
                    Problem::new(
                        Code::Conflict,
                        node.place,
                        &list.index(index),
                        format!(
                            "the hosts' port {}/{} is published a second time",
                            port.published.unwrap_or_default(),
                            port.protocol.as_str()
                        ),
                    )
                    .hint(format!("it is first in line {line}; choose another port")),
                );
            }
            ports.push(port);
        }
    }
    ports
}

/// The ports of the hosts that are published, each with who took it first.
pub(super) struct TakenPorts<Owner> {
    ports: BTreeMap<(u16, Protocol), TakenAddresses<Owner>>,
}

struct TakenAddresses<Owner> {
    /// On all addresses of a host.
    all: Option<Owner>,
    single: BTreeMap<IpAddr, Owner>,
}

impl<Owner: Clone> TakenPorts<Owner> {
    pub fn new() -> Self {
        Self { ports: BTreeMap::new() }
    }

    /// Takes a port; who has it already, if anybody.
    pub fn take(&mut self, port: &PublishedPort, owner: Owner) -> Option<Owner> {
        let key = (port.published?, port.protocol);
        let taken = self.ports.entry(key).or_insert_with(|| TakenAddresses { all: None, single: BTreeMap::new() });
        let other = match port.host_ip {
            None => taken.all.as_ref().or_else(|| taken.single.values().next()),
            Some(address) => taken.all.as_ref().or_else(|| taken.single.get(&address)),
        };
        if let Some(other) = other {
            return Some(other.clone());
        }
        match port.host_ip {
            None => taken.all = Some(owner),
            Some(address) => {
                taken.single.insert(address, owner);
            }
        }
        None
    }
}

fn one_port(fields: &Fields<'_>, node: &Node, journal: &mut Journal) -> Vec<PublishedPort> {
    let protocol = match fields.node("protocol").map(|node| (node, node.as_text())) {
        None | Some((_, Some("tcp"))) => Protocol::Tcp,
        Some((_, Some("udp"))) => Protocol::Udp,
        Some((_, Some("sctp"))) => Protocol::Sctp,
        Some((node, _)) => {
            not_allowed(node, &fields.path.key("protocol"), &["tcp", "udp", "sctp"], journal);
            Protocol::Tcp
        }
    };
    let mode = match fields.node("mode").map(|node| (node, node.as_text())) {
        None | Some((_, Some("ingress" | ""))) => PublishMode::Ingress,
        Some((_, Some("host"))) => PublishMode::Host,
        Some((node, _)) => {
            not_allowed(node, &fields.path.key("mode"), &["ingress", "host"], journal);
            PublishMode::Ingress
        }
    };
    let host_ip = fields.node("host_ip").and_then(|node| {
        let text = node.as_text().unwrap_or_default();
        match text.parse::<IpAddr>() {
            // The unspecified address is every address of the host.
            Ok(address) => (!address.is_unspecified()).then_some(address),
            Err(_) => {
                journal.push(
                    Problem::new(
                        Code::BadAddress,
                        node.place,
                        &fields.path.key("host_ip"),
                        format!("{} is not an IP address", node.quoted()),
                    )
                    .hint("write an address that the hosts have, such as `127.0.0.1`"),
                );
                None
            }
        }
    });
    if fields.node("target").is_none() {
        journal.push(
            Problem::new(Code::MissingKey, node.place, &fields.path, "a port needs the key `target`")
                .hint("add `target:` with the port in the container"),
        );
        return Vec::new();
    }
    let target = fields.integer("target", 1, 65535, journal).and_then(|target| u16::try_from(target).ok());
    let Some(target) = target else { return Vec::new() };
    let proxy_key = "x-stack-proxy-protocol";
    let proxy_protocol = fields.node(proxy_key).is_some();
    if proxy_protocol && protocol != Protocol::Tcp {
        journal.push(
            Problem::new(
                Code::Conflict,
                fields.key_place(proxy_key),
                &fields.path.key(proxy_key),
                format!("`{proxy_key}` cannot be used together with `protocol: {}`", protocol.as_str()),
            )
            .hint("remove one of the two: the header begins a TCP connection"),
        );
    }
    let make = |published| PublishedPort {
        target,
        published,
        published_within: None,
        protocol,
        mode,
        host_ip,
        proxy_protocol,
    };
    let Some(published) = fields.node("published") else { return vec![make(None)] };
    let text = published.scalar_text().unwrap_or_default();
    if text.is_empty() || text == "0" {
        return vec![make(None)];
    }
    match port::range(&text) {
        Ok((first, last)) if first == last => vec![make(Some(first))],
        // One of them, the same on all hosts.
        Ok((first, last)) => vec![PublishedPort { published_within: Some((first, last)), ..make(None) }],
        Err(error) => {
            let reason = if published.interpolated { String::new() } else { format!(": {error}") };
            journal.push(
                Problem::new(
                    Code::BadPort,
                    published.place,
                    &fields.path.key("published"),
                    format!("{} is not a port{reason}", published.quoted()),
                )
                .hint("write a number from 1 to 65535"),
            );
            Vec::new()
        }
    }
}

fn networks(fields: &Fields<'_>, journal: &mut Journal) -> BTreeMap<String, NetworkAttachment> {
    let list = fields.fields("networks");
    let alias = fields.text("container_name", journal);
    let mut networks = BTreeMap::new();
    for (key, entry) in list.mapping.into_iter().flatten() {
        let attachment = Fields::new(&entry.node, list.path.key(key));
        let aliases = attachment.texts("aliases", journal).unwrap_or_default();
        let address = attachment.parsed("ipv4_address", "an IPv4 address such as `10.5.0.10`", journal);
        let ipv6_address = attachment.parsed("ipv6_address", "an IPv6 address such as `fd00:5::10`", journal);
        let interface_name = interface_name(&attachment, &networks, journal);
        let priority = attachment.integer("priority", i64::MIN, i64::MAX, journal).unwrap_or(0);
        let gateway_priority = attachment.integer("gw_priority", i64::MIN, i64::MAX, journal).unwrap_or(0);
        let made = NetworkAttachment { aliases, address, ipv6_address, interface_name, priority, gateway_priority };
        networks.insert(key.clone(), made);
    }
    if networks.is_empty() && alias.is_some() && fields.node("network_mode").is_none() {
        networks.insert("default".to_owned(), NetworkAttachment::default());
    }
    if let Some(alias) = alias {
        for attachment in networks.values_mut() {
            if !attachment.aliases.contains(&alias) {
                attachment.aliases.push(alias.clone());
            }
        }
    }
    networks
}

/// The name of an interface, which the kernel must take and no other network of the service has.
fn interface_name(
    attachment: &Fields<'_>,
    others: &BTreeMap<String, NetworkAttachment>,
    journal: &mut Journal,
) -> Option<String> {
    let key = "interface_name";
    let name = attachment.text(key, journal).filter(|name| !name.is_empty())?;
    let node = attachment.node(key)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.len() > 15 || !name.bytes().all(plain) || matches!(name.as_str(), "lo" | "." | ".." | "all" | "default") {
        journal.push(
            Problem::new(
                Code::BadValue,
                node.place,
                &attachment.path.key(key),
                format!("{} cannot be the name of an interface", node.quoted()),
            )
            .hint("write at most 15 letters, digits, `-`, `_` and `.`, such as `eth5`; `lo` is taken"),
        );
        return None;
    }
    if let Some((other, _)) = others.iter().find(|(_, other)| other.interface_name.as_ref() == Some(&name)) {
        journal.push(
            Problem::new(
                Code::Conflict,
                node.place,
                &attachment.path.key(key),
                format!("the interface on the network `{other}` has the name {} already", node.quoted()),
            )
            .hint("give each interface a name of its own"),
        );
        return None;
    }
    Some(name)
}

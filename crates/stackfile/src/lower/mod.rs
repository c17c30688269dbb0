//! Pure. The canonical tree to a [`StackSpec`]. Every key that is not applied here has been refused or noted by the tables
//! of `schema`; what depends on a value is refused here.

mod container;
mod devices;
mod files;
mod isolation;
mod lifecycle;
mod limits;
mod mounts;
pub(crate) mod read;
mod service;
mod templates;

use std::collections::BTreeMap;

use ipnet::IpNet;
use stack_model::spec::{NetworkSpec, PublishMode, ServiceSpec, VolumeSpec};
use stack_model::{FileContents, FileKind, ServiceName, StackName, StackSpec};

use crate::code::Code;
use crate::diagnostic::{Journal, Path, Problem, did_you_mean};
use crate::schema::resources::VOLUME_OF_ITS_HOST;
use crate::tree::{Entry, Node};
use read::Fields;
use service::TakenPorts;

/// What lowering needs beside the tree.
pub(crate) struct Context<'a> {
    /// From where relative paths are resolved: absolute, or empty where the caller has no directory.
    pub directory: &'a str,
    /// Reads a file (a seccomp profile) by its path as written.
    pub read_file: &'a dyn Fn(&str) -> Result<String, String>,
    /// Reads the file of a secret or config, which need not be text.
    pub read_bytes: &'a dyn Fn(&str) -> Result<Vec<u8>, String>,
    /// The value of a variable of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

/// The whole stack; `None` when something is refused, which the journal says.
pub(crate) fn lower(
    root: &Node,
    name: Option<StackName>,
    context: &Context<'_>,
    journal: &mut Journal,
) -> Option<(StackSpec, FileContents)> {
    let top = Fields::new(root, Path::Root);
    let mut services = BTreeMap::new();
    let mut taken = TakenPorts::new();
    let service_fields = top.fields("services");
    for (key, entry) in service_fields.mapping.into_iter().flatten() {
        let path = service_fields.path.key(key);
        let service_name: Option<ServiceName> = match key.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                journal.push(
                    Problem::new(Code::BadName, entry.key_place, &path, format!("{error}"))
                        .hint("names have letters, digits, `.`, `_` and `-`, at most 63"),
                );
                None
            }
        };
        let spec = service::service(entry, path, context, journal);
        if let (Some(name), Some(spec)) = (service_name, spec) {
            shared_ports(&name, &spec, &mut taken, entry, &path, journal);
            services.insert(name, spec);
        }
    }
    lifecycle::settle_completion(&service_fields, &mut services, journal);
    let network_fields = top.fields("networks");
    let mut networks = BTreeMap::new();
    for (key, entry) in network_fields.mapping.into_iter().flatten() {
        let fields = Fields::new(&entry.node, network_fields.path.key(key));
        networks.insert(key.clone(), network(&fields, journal));
    }
    let volumes = top.fields("volumes");
    let volumes: BTreeMap<String, VolumeSpec> = volumes
        .mapping
        .into_iter()
        .flatten()
        .map(|(key, entry)| (key.clone(), volume(&Fields::new(&entry.node, volumes.path.key(key)), journal)))
        .collect();
    let mut contents = FileContents::default();
    let secrets = files::files(&top, FileKind::Secret, context, &mut contents, journal);
    let configs = files::files(&top, FileKind::Config, context, &mut contents, journal);
    if journal.has_errors() {
        return None;
    }
    Some((StackSpec { name: name?, services, networks, volumes, secrets, configs }, contents))
}

/// A port that all hosts pass on can belong to one service only.
fn shared_ports(
    name: &ServiceName,
    spec: &ServiceSpec,
    taken: &mut TakenPorts<ServiceName>,
    entry: &Entry,
    path: &Path<'_>,
    journal: &mut Journal,
) {
    for port in spec.ports.iter().filter(|port| port.mode == PublishMode::Ingress) {
        let Some(other) = taken.take(port, name.clone()).filter(|other| other != name) else { continue };
        let ports = entry.node.as_mapping().and_then(|service| service.get("ports"));
        journal.push(
            Problem::new(
                Code::Conflict,
                ports.map_or(entry.key_place, |ports| ports.key_place),
                &path.key("ports"),
                format!(
                    "`{other}` and `{name}` both publish the hosts' port {}/{}",
                    port.published.unwrap_or_default(),
                    port.protocol.as_str()
                ),
            )
            .hint(
                "a port that is published on the hosts belongs to one service: choose another port for one of the two",
            ),
        );
    }
}

/// The option that Docker's drivers take for the size of packets.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";

/// The option by which Docker's overlay networks are encrypted.
const ENCRYPTED_OPTION: &str = "encrypted";
/// The same as a key of the network.
const ENCRYPTED_KEY: &str = "x-stack-encrypted";

fn network(fields: &Fields<'_>, journal: &mut Journal) -> NetworkSpec {
    match fields.text("driver", journal).as_deref() {
        None | Some("" | "bridge" | "overlay" | "default") => {}
        Some(driver) => {
            let hint = match did_you_mean(driver, ["overlay", "bridge"]) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None if driver == "host" || driver == "none" => format!("give the service `network_mode: {driver}`"),
                None if driver == "macvlan" || driver == "ipvlan" => {
                    "leave it out: a network of a stack joins all hosts that run tasks on it, and one of a link of a host is that host's own, made there with `docker network create`".to_owned()
                }
                None => "leave it out: a network of a stack joins all hosts that run tasks on it".to_owned(),
            };
            unknown_driver(fields, "network", hint, journal);
        }
    }
    let subnets = subnets(fields, journal);
    let (without_ipv4, ipv6) = families(fields, &subnets, journal);
    let external = fields.boolean("external", journal).unwrap_or(false);
    let name = match (fields.text("name", journal), &fields.path) {
        (None, Path::Key(_, key)) if external => Some((*key).to_owned()),
        (name, _) => name,
    };
    NetworkSpec {
        name,
        labels: fields.pairs("labels", journal),
        external,
        internal: fields.boolean("internal", journal).unwrap_or(false),
        attachable: fields.boolean("attachable", journal).unwrap_or(false),
        encrypted: encryption(fields, journal),
        without_ipv4,
        ipv6,
        mtu: network_options(fields, journal),
        subnets,
    }
}

/// Whether it is without IPv4, and whether it has IPv6.
fn families(fields: &Fields<'_>, subnets: &[IpNet], journal: &mut Journal) -> (bool, bool) {
    let without_ipv4 = fields.boolean("enable_ipv4", journal) == Some(false);
    let ipv6 = fields.boolean("enable_ipv6", journal).unwrap_or(false);
    let mut conflict = |problem: String, hint: &'static str| {
        let path = fields.path.key("enable_ipv4");
        journal.push(Problem::new(Code::Conflict, fields.key_place("enable_ipv4"), &path, problem).hint(hint));
    };
    if without_ipv4 && !ipv6 {
        conflict(
            "a network without IPv4 needs IPv6: `enable_ipv4: false` stands without `enable_ipv6: true`".to_owned(),
            "add `enable_ipv6: true`, or leave `enable_ipv4` out",
        );
    }
    if let Some(subnet) = subnets.iter().find(|subnet| without_ipv4 && subnet.addr().is_ipv4()) {
        conflict(
            format!("`enable_ipv4: false` and the subnet {subnet} contradict each other"),
            "leave one of the two out",
        );
    }
    (without_ipv4, ipv6)
}

/// Whether what is sent between hosts is encrypted: by our own key, or by the option of Docker's overlay networks, for which
/// it is enough to be there. `None`: as the cluster does it.
fn encryption(fields: &Fields<'_>, journal: &mut Journal) -> Option<bool> {
    let own = fields.boolean(ENCRYPTED_KEY, journal);
    let options = fields.fields("driver_opts");
    let Some(node) = options.node(ENCRYPTED_OPTION) else { return own };
    let option = match node.as_text() {
        Some("") => Some(true),
        _ => options.boolean(ENCRYPTED_OPTION, journal),
    };
    if let (Some(own), Some(option)) = (own, option)
        && own != option
    {
        let path = options.path.key(ENCRYPTED_OPTION);
        journal.push(
            Problem::new(
                Code::Conflict,
                node.place,
                &path,
                format!("`{path}` says `{option}` where `{ENCRYPTED_KEY}` says `{own}`"),
            )
            .hint("keep one of the two"),
        );
    }
    own.or(option)
}

/// Options of Docker's drivers that say what holds for every network of a stack, each with what it may say.
const HOLDING_OPTIONS: [(&str, &[&str]); 6] = [
    ("com.docker.network.bridge.enable_icc", &["true", "1"]),
    ("com.docker.network.bridge.enable_ip_masquerade", &["true", "1"]),
    ("com.docker.network.bridge.host_binding_ipv4", &["0.0.0.0", ""]),
    ("com.docker.network.bridge.gateway_mode_ipv4", &["nat", ""]),
    ("com.docker.network.bridge.gateway_mode_ipv6", &["nat", ""]),
    ("com.docker.network.bridge.default_bridge", &["false", "0"]),
];

/// Options that have no meaning between hosts, and why.
const MEANINGLESS_OPTIONS: [(&str, &str); 4] = [
    (
        "com.docker.network.bridge.name",
        "leave it out: each host names its bridges itself, so that networks of different stacks never meet",
    ),
    ("parent", "leave it out: it is of macvlan and ipvlan, which are made on one host with `docker network create`"),
    ("macvlan_mode", "leave it out: it is of macvlan, which is made on one host with `docker network create`"),
    ("ipvlan_mode", "leave it out: it is of ipvlan, which is made on one host with `docker network create`"),
];

/// An option that is none of ours: it holds anyway, or is refused.
fn other_option(key: &str, entry: &Entry, path: &Path<'_>, journal: &mut Journal) {
    let holding = HOLDING_OPTIONS.iter().find(|(name, _)| *name == key);
    let text = entry.node.scalar_text().unwrap_or_default();
    if holding.is_some_and(|(_, values)| values.contains(&&*text)) {
        return;
    }
    let refuse = |code, problem| Problem::new(code, entry.key_place, path, problem);
    let refused = || format!("the network option `{key}` has no meaning on a network that joins hosts");
    journal.push(if let Some((_, reason)) = MEANINGLESS_OPTIONS.iter().find(|(name, _)| *name == key) {
        refuse(Code::Refused, refused()).hint(*reason)
    } else if let Some((_, values)) = holding {
        let value = values.first().copied().unwrap_or_default();
        refuse(
            Code::NotSupportedYet,
            format!("the network option `{key}` with {} is not supported yet", entry.node.quoted()),
        )
        .hint(format!("leave it out, which means `{value}`; or `internal: true` keeps the network from the outside"))
    } else {
        let problem = refuse(Code::NotSupportedYet, format!("the network option `{key}` is not supported yet"));
        match did_you_mean(key, [MTU_OPTION, ENCRYPTED_OPTION]) {
            Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
            None => problem.hint(format!("leave it out; there are `{MTU_OPTION}` and `{ENCRYPTED_OPTION}`")),
        }
    });
}

/// The size of its packets: beside encryption the only option that changes something of a network between hosts.
fn network_options(fields: &Fields<'_>, journal: &mut Journal) -> Option<u32> {
    let options = fields.fields("driver_opts");
    let known = |key: &str| key == MTU_OPTION || key == ENCRYPTED_OPTION;
    for (key, entry) in options.mapping.into_iter().flatten().filter(|(key, _)| !known(key)) {
        other_option(key, entry, &options.path.key(key), journal);
    }
    let mtu: Option<u32> = options.parsed(MTU_OPTION, "a number of bytes such as `1450`", journal);
    let fits = mtu.is_none_or(|mtu| (1280..=65_535).contains(&mtu));
    if !fits {
        let node = options.node(MTU_OPTION);
        journal.push(
            Problem::new(
                Code::OutOfRange,
                node.map_or(options.place, |node| node.place),
                &options.path.key(MTU_OPTION),
                format!("{} is out of range", node.map(Node::quoted).unwrap_or_default()),
            )
            .hint("the size of packets is from 1280 to 65535 bytes; left out, it is what fits between the hosts"),
        );
    }
    mtu.filter(|_| fits)
}

/// At most one of each family.
fn subnets(fields: &Fields<'_>, journal: &mut Journal) -> Vec<IpNet> {
    let ipam = fields.fields("ipam");
    if let Some(driver) = ipam.text("driver", journal).filter(|driver| !driver.is_empty() && driver != "default") {
        journal.push(
            Problem::new(
                Code::NotSupportedYet,
                ipam.key_place("driver"),
                &ipam.path.key("driver"),
                format!("the address driver `{driver}` is not supported yet"),
            )
            .hint("leave it out: the cluster gives out addresses"),
        );
    }
    let mut subnets: Vec<IpNet> = Vec::new();
    let list = ipam.path.key("config");
    for (index, item) in ipam.items("config").iter().enumerate() {
        let config = Fields::new(item, list.index(index));
        let Some(subnet) = config.parsed::<IpNet>("subnet", "a subnet such as `10.5.0.0/16`", journal) else {
            continue;
        };
        if subnets.iter().any(|other| other.addr().is_ipv4() == subnet.addr().is_ipv4()) {
            journal.push(
                Problem::new(
                    Code::NotSupportedYet,
                    config.key_place("subnet"),
                    &config.path.key("subnet"),
                    "a second subnet of one family is not supported yet",
                )
                .hint("give the network one larger subnet: a number of an address stands for one place in each family"),
            );
            continue;
        }
        subnets.push(subnet.trunc());
    }
    subnets
}

fn unknown_driver(fields: &Fields<'_>, noun: &str, hint: String, journal: &mut Journal) {
    let node = fields.node("driver");
    journal.push(
        Problem::new(
            Code::NotSupportedYet,
            node.map_or(fields.place, |node| node.place),
            &fields.path.key("driver"),
            format!("the {noun} driver {} is not supported yet", node.map(Node::quoted).unwrap_or_default()),
        )
        .hint(hint),
    );
}

fn volume(fields: &Fields<'_>, journal: &mut Journal) -> VolumeSpec {
    let external = fields.boolean("external", journal).unwrap_or(false);
    let name = fields.text("name", journal);
    // An external volume is known outside by its own name, not by STACK_KEY.
    let name = match (name, &fields.path) {
        (None, Path::Key(_, key)) if external => Some((*key).to_owned()),
        (name, _) => name,
    };
    let driver = fields.text("driver", journal).filter(|driver| !driver.is_empty());
    if let Some(driver) = driver.as_deref()
        && driver != "local"
    {
        let hint = match did_you_mean(driver, ["local"]) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => VOLUME_OF_ITS_HOST.to_owned(),
        };
        unknown_driver(fields, "volume", hint, journal);
    }
    VolumeSpec {
        name,
        driver,
        driver_options: volume_options(fields, journal),
        labels: fields.pairs("labels", journal),
        external,
    }
}

/// What is mounted in place of a directory of the host, in the words of Docker's `local` driver.
fn volume_options(fields: &Fields<'_>, journal: &mut Journal) -> BTreeMap<String, String> {
    const KNOWN: [&str; 3] = ["type", "device", "o"];
    let options = fields.pairs("driver_opts", journal);
    let written = fields.fields("driver_opts");
    let mut refuse = |key: &str, code: Code, problem: String, hint: String| {
        journal.push(Problem::new(code, written.key_place(key), &written.path.key(key), problem).hint(hint));
    };
    for key in options.keys().filter(|key| !KNOWN.contains(&key.as_str())) {
        let named = crate::tree::shortened(key);
        match key.as_str() {
            "size" => refuse(
                key,
                Code::Refused,
                "the option `size` is refused: a directory of a host has no size of its own".to_owned(),
                "use `type: tmpfs` with `o: size=64m`, or mount storage of that size on the hosts".to_owned(),
            ),
            _ => refuse(
                key,
                Code::NotAllowed,
                format!("`{named}` is not an option of volumes"),
                did_you_mean(key, KNOWN).map_or_else(
                    || "known are `type`, `device` and `o`, as for mount(8)".to_owned(),
                    |meant| format!("did you mean `{meant}`?"),
                ),
            ),
        }
    }
    if options.is_empty() {
        return options;
    }
    let text = |key: &str| options.get(key).map_or("", String::as_str);
    let binds = text("o").split(',').any(|word| matches!(word, "bind" | "rbind"));
    for key in if binds { &["device"][..] } else { &["type", "device"][..] } {
        if text(key).is_empty() && options.keys().any(|key| KNOWN.contains(&key.as_str())) {
            refuse(
                key,
                Code::MissingKey,
                format!("these options mount nothing without `{key}`"),
                "write, for example, `{type: nfs, device: \":/srv/data\", o: \"addr=192.0.2.7\"}`".to_owned(),
            );
        }
    }
    if binds && !text("device").is_empty() && !text("device").starts_with('/') {
        refuse(
            "device",
            Code::NotAbsolute,
            "the device of a bind is not an absolute path".to_owned(),
            "write a path that is on every host".to_owned(),
        );
    }
    options
}

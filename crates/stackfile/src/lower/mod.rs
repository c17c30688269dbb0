//! Pure. The canonical tree to a [`StackSpec`]. Every key that is not applied here has been refused or noted by the tables
//! of `schema`; what depends on a value is refused here.

mod container;
mod mounts;
pub(crate) mod read;
mod service;
mod templates;

use std::collections::BTreeMap;

use stack_model::spec::{NetworkSpec, PublishMode, ServiceSpec, VolumeSpec};
use stack_model::{ServiceName, StackName, StackSpec};

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
}

/// The whole stack; `None` when something is refused, which the journal says.
pub(crate) fn lower(
    root: &Node,
    name: Option<StackName>,
    directory: &str,
    read_file: &dyn Fn(&str) -> Result<String, String>,
    journal: &mut Journal,
) -> Option<StackSpec> {
    let top = Fields::new(root, Path::Root);
    let context = Context { directory, read_file };
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
        let spec = service::service(entry, path, &context, journal);
        if let (Some(name), Some(spec)) = (service_name, spec) {
            shared_ports(&name, &spec, &mut taken, entry, &path, journal);
            services.insert(name, spec);
        }
    }
    let network_fields = top.fields("networks");
    let mut networks = BTreeMap::new();
    let mut overlay_said = false;
    for (key, entry) in network_fields.mapping.into_iter().flatten() {
        let fields = Fields::new(&entry.node, network_fields.path.key(key));
        networks.insert(key.clone(), network(&fields, &mut overlay_said, journal));
    }
    let volumes = top.fields("volumes");
    let volumes: BTreeMap<String, VolumeSpec> = volumes
        .mapping
        .into_iter()
        .flatten()
        .map(|(key, entry)| (key.clone(), volume(&Fields::new(&entry.node, volumes.path.key(key)), journal)))
        .collect();
    if journal.has_errors() {
        return None;
    }
    Some(StackSpec { name: name?, services, networks, volumes })
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

/// `overlay_said`: whether it was said of another network that hosts are not joined.
fn network(fields: &Fields<'_>, overlay_said: &mut bool, journal: &mut Journal) -> NetworkSpec {
    match fields.text("driver", journal).as_deref() {
        None | Some("" | "bridge" | "default") => {}
        Some("overlay") => {
            if !std::mem::replace(overlay_said, true) {
                journal.push(Problem::new(
                    Code::Noted,
                    fields.key_place("driver"),
                    &fields.path.key("driver"),
                    "`driver: overlay`: networks do not span hosts yet; each host has a bridge of its own by this name, and only tasks on the same host share it",
                ));
            }
        }
        Some(driver) => {
            let hint = match did_you_mean(driver, ["overlay", "bridge"]) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None if driver == "host" || driver == "none" => format!("give the service `network_mode: {driver}`"),
                None => "leave it out: a network of a stack is a private bridge on each host".to_owned(),
            };
            unknown_driver(fields, "network", hint, journal);
        }
    }
    NetworkSpec { name: fields.text("name", journal), labels: fields.pairs("labels", journal) }
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
        driver_options: fields.pairs("driver_opts", journal),
        labels: fields.pairs("labels", journal),
        external,
    }
}

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
    let networks = top.fields("networks");
    let networks: BTreeMap<String, NetworkSpec> = networks
        .mapping
        .into_iter()
        .flatten()
        .map(|(key, entry)| (key.clone(), network(&Fields::new(&entry.node, networks.path.key(key)), journal)))
        .collect();
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
            .hint("every host passes a published port on to one service: choose another port for one of the two"),
        );
    }
}

fn network(fields: &Fields<'_>, journal: &mut Journal) -> NetworkSpec {
    if let Some(driver) = fields.text("driver", journal)
        && !matches!(driver.as_str(), "overlay" | "bridge" | "default")
    {
        let node = fields.node("driver");
        let problem = Problem::new(
            Code::NotSupportedYet,
            node.map_or(fields.place, |node| node.place),
            &fields.path.key("driver"),
            format!("the network driver {} is not supported yet", node.map(Node::quoted).unwrap_or_default()),
        );
        journal.push(match did_you_mean(&driver, ["overlay", "bridge"]) {
            Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
            None if driver == "host" || driver == "none" => {
                problem.hint(format!("give the service `network_mode: {driver}`"))
            }
            None => problem.hint("leave it out: every network of a stack spans all hosts"),
        });
    }
    NetworkSpec { name: fields.text("name", journal), labels: fields.pairs("labels", journal) }
}

fn volume(fields: &Fields<'_>, journal: &mut Journal) -> VolumeSpec {
    let external = fields.boolean("external", journal).unwrap_or(false);
    let name = fields.text("name", journal);
    // An external volume is known outside by its own name, not by STACK_KEY.
    let name = match (name, &fields.path) {
        (None, Path::Key(_, key)) if external => Some((*key).to_owned()),
        (name, _) => name,
    };
    VolumeSpec {
        name,
        driver: fields.text("driver", journal),
        driver_options: fields.pairs("driver_opts", journal),
        labels: fields.pairs("labels", journal),
        external,
    }
}

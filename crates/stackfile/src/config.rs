//! Pure. The canonical model of stack files: everything merged, every short form long. It prints as a stack file that
//! means the same.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::diagnostic::{Diagnostic, Journal};
use crate::source::{Environment, Source};
use crate::template::{self, Operator};
use crate::tree::{Node, Value, insert};
use crate::{consistency, environment, normalize, paths, resolve};

/// What is done beside merging and making short forms long.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of `stack config`, independent of the others")]
pub struct CanonicalOptions {
    /// Replace variables.
    pub interpolate: bool,
    /// Write out what is understood: names, the default network, implied dependencies.
    pub normalize: bool,
    /// Make relative paths absolute.
    pub resolve_paths: bool,
    /// Demand that everything is defined that is referred to.
    pub check_consistency: bool,
    /// Read `env_file` and `label_file` into `environment` and `labels`.
    pub resolve_environment: bool,
    /// Leave `env_file` out once it is read.
    pub discard_environment_files: bool,
    /// Only these services and what they depend on; empty for all.
    pub services: Vec<String>,
    /// Leave out networks, volumes, configs, secrets and models that no service uses.
    pub prune: bool,
}

impl Default for CanonicalOptions {
    fn default() -> Self {
        Self {
            interpolate: true,
            normalize: true,
            resolve_paths: true,
            check_consistency: true,
            resolve_environment: true,
            discard_environment_files: false,
            services: Vec::new(),
            prune: false,
        }
    }
}

/// The canonical model.
#[derive(Debug, Clone)]
pub struct Canonical {
    root: Node,
    /// Variables were replaced, so that a dollar sign means itself.
    interpolated: bool,
    /// What the author of the files should know.
    pub warnings: Vec<Diagnostic>,
}

impl Canonical {
    /// As JSON, with the keys in the order of the files.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        self.root.to_json()
    }

    /// The keys of one section at the top of the files (`services`, `volumes`, `networks`, `configs`, `secrets`,
    /// `models`), in the order of the files.
    #[must_use]
    pub fn keys(&self, section: &str) -> Vec<&str> {
        let section = self.root.get(section).and_then(Node::as_mapping);
        section.into_iter().flatten().map(|(name, _)| name.as_str()).collect()
    }

    /// The names of the services, in the order of the files.
    #[must_use]
    pub fn services(&self) -> Vec<&str> {
        self.keys("services")
    }

    fn service_nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        let services = self.root.get("services").and_then(Node::as_mapping);
        services.into_iter().flatten().map(|(name, entry)| (name.as_str(), &entry.node))
    }

    /// The images of the services, each once, sorted.
    #[must_use]
    pub fn images(&self) -> Vec<&str> {
        let images: BTreeSet<&str> =
            self.service_nodes().filter_map(|(_, service)| service.get("image").and_then(Node::as_text)).collect();
        images.into_iter().collect()
    }

    /// The profiles that the services name, each once, sorted: only those of services that are chosen, so that all of
    /// them come with the profile `*`.
    #[must_use]
    pub fn profiles(&self) -> Vec<&str> {
        let profiles: BTreeSet<&str> = self
            .service_nodes()
            .filter_map(|(_, service)| service.get("profiles").and_then(Node::as_sequence))
            .flatten()
            .filter_map(Node::as_text)
            .collect();
        profiles.into_iter().collect()
    }

    /// The variables that the files refer to, sorted by name, when [`CanonicalOptions::interpolate`] is off.
    #[must_use]
    pub fn variables(&self) -> Vec<Variable> {
        let mut variables = BTreeMap::new();
        collect_variables(&self.root, &mut variables);
        variables.into_values().collect()
    }

    /// A SHA-256, in hexadecimal digits, for each service: another one when a deploy would change the tasks. The
    /// number of tasks and what only concerns getting the image do not count; the order of keys does not, either.
    #[must_use]
    pub fn hashes(&self) -> Vec<(&str, String)> {
        self.service_nodes().map(|(name, service)| (name, hash(service))).collect()
    }

    /// Writes the digest that each image stands for behind its name: `nginx:1.27` becomes `nginx:1.27@sha256:…`.
    /// `digests` are by the image's name; an image that is not among them stays as it is.
    pub fn pin_images(&mut self, digests: &BTreeMap<String, String>) {
        let services = self.root.as_mapping_mut().and_then(|top| top.get_mut("services"));
        for (_, entry) in services.and_then(|entry| entry.node.as_mapping_mut()).into_iter().flatten() {
            let image = entry.node.as_mapping_mut().and_then(|service| service.get_mut("image"));
            if let Some(Value::Text(image)) = image.map(|entry| &mut entry.node.value)
                && !image.contains('@')
                && let Some(digest) = digests.get(image.as_str())
            {
                image.push('@');
                image.push_str(digest);
            }
        }
    }

    /// As YAML, which parses to itself: dollar signs are doubled where variables were replaced.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        crate::print::yaml(&self.root, self.interpolated)
    }
}

/// A variable that stack files refer to. The texts are as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// The files demand it (`${NAME:?…}`).
    pub required: bool,
    /// What stands in for it where it is not set.
    pub default: Option<String>,
    /// What takes its place where it is set (`${NAME:+…}`).
    pub alternative: Option<String>,
}

fn collect_variables(node: &Node, variables: &mut BTreeMap<String, Variable>) {
    match &node.value {
        Value::Text(text) => template::references(text, &mut |reference| {
            let variable = variables.entry(reference.name.to_owned()).or_insert_with(|| Variable {
                name: reference.name.to_owned(),
                required: false,
                default: None,
                alternative: None,
            });
            match reference.operator {
                Operator::None => {}
                Operator::Default(text) => {
                    variable.default.get_or_insert_with(|| text.to_owned());
                }
                Operator::Alternative(text) => {
                    variable.alternative.get_or_insert_with(|| text.to_owned());
                }
                Operator::Required => variable.required = true,
            }
        }),
        Value::Sequence(items) => items.iter().for_each(|item| collect_variables(item, variables)),
        Value::Mapping(mapping) => mapping.values().for_each(|entry| collect_variables(&entry.node, variables)),
        Value::Null | Value::Boolean(_) | Value::Integer(_) | Value::Float(_) => {}
    }
}

fn hash(service: &Node) -> String {
    let mut json = service.to_json();
    if let Some(service) = json.as_object_mut() {
        for key in ["build", "pull_policy", "pull_refresh_after", "scale", "attach", "develop", "profiles"] {
            service.shift_remove(key);
        }
        if let Some(deploy) = service.get_mut("deploy").and_then(serde_json::Value::as_object_mut) {
            deploy.shift_remove("replicas");
        }
    }
    json.sort_all_objects();
    let digest = Sha256::digest(json.to_string().as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The canonical model of stack files, whether or not it can be deployed here.
///
/// # Errors
/// Everything that is wrong with the files as such.
pub fn canonical(
    source: Source<'_>,
    variables: &Environment,
    options: &CanonicalOptions,
) -> Result<Canonical, Vec<Diagnostic>> {
    let mut journal = Journal::default();
    match canonical_into(source, variables, options, &mut journal) {
        Some(root) if !journal.has_errors() => {
            Ok(Canonical { root, interpolated: options.interpolate, warnings: journal.finish() })
        }
        _ => Err(journal.finish()),
    }
}

fn canonical_into(
    source: Source<'_>,
    variables: &Environment,
    options: &CanonicalOptions,
    journal: &mut Journal,
) -> Option<Node> {
    let mut project = crate::load_project(source, variables, options.interpolate, &options.services, journal)?;
    let root = &mut project.root;
    let name = project.name?;
    if !options.services.is_empty() {
        select(root, &options.services);
    }
    if options.resolve_environment {
        environment::read_files(root, source.directory, source.reader, variables, journal);
    }
    if options.discard_environment_files {
        let services = root.as_mapping_mut().and_then(|top| top.get_mut("services"));
        for (_, entry) in services.and_then(|entry| entry.node.as_mapping_mut()).into_iter().flatten() {
            if let Some(service) = entry.node.as_mapping_mut() {
                service.shift_remove("env_file");
            }
        }
    }
    if options.normalize {
        normalize::normalize(root, name.as_str(), variables);
    }
    if options.resolve_paths {
        resolve::relative_paths(root, &|path| paths::join(source.directory, path));
    }
    if options.check_consistency {
        consistency::check(root, &project.disabled, journal);
    }
    if options.prune {
        prune(root);
    }
    if let Some(top) = root.as_mapping_mut() {
        top.shift_remove("version");
        let place = top.get("name").map(|entry| entry.node.place).unwrap_or_default();
        insert(top, "name", Node::text(name.as_str(), place));
        if let Some(last) = top.len().checked_sub(1)
            && let Some(index) = top.get_index_of("name")
            && index == last
        {
            top.move_index(last, 0);
        }
    }
    Some(project.root)
}

/// Keeps the named services and those that they depend on.
fn select(root: &mut Node, wanted: &[String]) {
    let mut kept: BTreeSet<String> = BTreeSet::new();
    let mut open: Vec<String> = wanted.to_vec();
    while let Some(name) = open.pop() {
        if !kept.insert(name.clone()) {
            continue;
        }
        let service = root.get("services").and_then(|services| services.get(&name));
        let depends_on = service.and_then(|service| service.get("depends_on")).and_then(Node::as_mapping);
        open.extend(depends_on.into_iter().flatten().map(|(name, _)| name.clone()));
    }
    let services = root.as_mapping_mut().and_then(|top| top.get_mut("services"));
    if let Some(services) = services.and_then(|entry| entry.node.as_mapping_mut()) {
        services.retain(|name, _| kept.contains(name));
    }
}

/// Leaves out what no service uses.
fn prune(root: &mut Node) {
    let mut used: BTreeSet<(&'static str, String)> = BTreeSet::new();
    for (_, entry) in root.get("services").and_then(Node::as_mapping).into_iter().flatten() {
        for section in ["networks", "models"] {
            for (name, _) in entry.node.get(section).and_then(Node::as_mapping).into_iter().flatten() {
                used.insert((section, name.clone()));
            }
        }
        for section in ["volumes", "configs", "secrets"] {
            let lists = [entry.node.get(section), entry.node.get("build").and_then(|build| build.get(section))];
            for item in lists.into_iter().flatten().filter_map(Node::as_sequence).flatten() {
                if let Some(name) = item.get("source").and_then(Node::as_text) {
                    used.insert((section, name.to_owned()));
                }
            }
        }
    }
    let Some(top) = root.as_mapping_mut() else { return };
    for section in ["networks", "volumes", "configs", "secrets", "models"] {
        if let Some(resources) = top.get_mut(section).and_then(|entry| entry.node.as_mapping_mut()) {
            resources.retain(|name, _| used.contains(&(section, name.clone())));
        }
    }
}

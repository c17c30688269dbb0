//! Pure. The canonical model of stack files: everything merged, every short form long. It prints as a stack file that
//! means the same.

use std::collections::BTreeSet;

use crate::diagnostic::{Diagnostic, Journal};
use crate::source::{Environment, Source};
use crate::tree::{Node, insert};
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
    /// What the author of the files should know.
    pub warnings: Vec<Diagnostic>,
}

impl Canonical {
    /// As JSON, with the keys in the order of the files.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        self.root.to_json()
    }

    /// The names of the services, in the order of the files.
    #[must_use]
    pub fn services(&self) -> Vec<&str> {
        let services = self.root.get("services").and_then(Node::as_mapping);
        services.into_iter().flatten().map(|(name, _)| name.as_str()).collect()
    }

    /// The images of the services, each once, sorted.
    #[must_use]
    pub fn images(&self) -> Vec<&str> {
        let services = self.root.get("services").and_then(Node::as_mapping);
        let images: BTreeSet<&str> = services
            .into_iter()
            .flatten()
            .filter_map(|(_, entry)| entry.node.get("image").and_then(Node::as_text))
            .collect();
        images.into_iter().collect()
    }

    /// As YAML, which parses to itself: dollar signs are doubled.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        crate::print::yaml(&self.root)
    }
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
        Some(root) if !journal.has_errors() => Ok(Canonical { root, warnings: journal.finish() }),
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

//! Pure. A stack file in the format of the Compose Specification to a [`stack_model::StackSpec`], or everything that is
//! wrong with it.
//!
//! The way of a file: YAML events become a tree that knows the place of every value (`tree`); variables are replaced
//! (`interpolate`); types and keys are checked against tables that know the whole specification (`schema`); short forms
//! become long (`canonical`); files are merged, extended and included (`merge`, `load`); and the result is lowered to
//! the model (`lower`). Every key of the specification is applied, applied with a note, or refused with the reason and
//! the alternative; nothing is ignored. All diagnostics come at once, each with its place.
//!
//! Nothing here reads a file or a clock: further files come through [`Files`].

mod canonical;
mod code;
mod config;
mod consistency;
mod diagnostic;
mod docker_stack;
pub mod dotenv;
mod environment;
mod interpolate;
mod load;
mod lower;
mod merge;
mod name;
mod normalize;
mod paths;
mod print;
mod reference;
mod render;
mod resolve;
mod schema;
mod short;
mod source;
mod template;
mod tree;
mod validate;

pub use code::{Code, codes_page, explain};
pub use config::{Canonical, CanonicalOptions, Variable, canonical};
pub use diagnostic::{Diagnostic, Location, Severity};
pub use docker_stack::docker_stack;
pub use reference::{ReferenceEntry, Treatment, json_schema, reference, reference_page};
pub use render::{render, render_all, sarif};
pub use source::{Environment, FileError, Files, NoFiles, Source, SourceFile};
pub use template::TemplateError;

use std::collections::{BTreeMap, BTreeSet};

use stack_model::{FileContents, StackSpec};

use crate::diagnostic::{Journal, Path, Problem};
use crate::load::{Loader, Text, Variables};
use crate::tree::Node;

/// A stack file that can be deployed.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// What it asks for.
    pub spec: StackSpec,
    /// What its secrets and configs hold.
    pub contents: FileContents,
    /// What its author should know.
    pub warnings: Vec<Diagnostic>,
}

/// Reads stack files.
///
/// # Errors
/// Everything that is wrong, in the order of the files, with the warnings among it.
pub fn parse(source: Source<'_>, environment: &Environment) -> Result<Parsed, Vec<Diagnostic>> {
    let mut journal = Journal::default();
    let spec = parse_into(source, environment, &mut journal);
    match spec {
        Some((spec, contents)) if !journal.has_errors() => Ok(Parsed { spec, contents, warnings: journal.finish() }),
        _ => Err(journal.finish()),
    }
}

fn parse_into(
    source: Source<'_>,
    environment: &Environment,
    journal: &mut Journal,
) -> Option<(StackSpec, FileContents)> {
    let mut project = load_project(source, environment, true, &[], journal)?;
    let root = &mut project.root;
    let empty = root.get("services").and_then(Node::as_mapping).is_none_or(indexmap::IndexMap::is_empty);
    if empty && !journal.has_errors() {
        let place = root.as_mapping().and_then(|top| top.get("services")).map_or(root.place, |entry| entry.key_place);
        journal.push(
            Problem::new(Code::NoServices, place, &Path::Root, "there is no service to deploy")
                .hint("add one under `services:`, or choose the profile of one with `--profile`"),
        );
    }
    environment::read_files(root, source.directory, source.reader, environment, journal);
    consistency::check(root, &project.disabled, journal);
    schema::check::check_support(root, journal);
    let absolute = |path: &str| paths::join(source.directory, path);
    let context = lower::Context {
        directory: source.directory,
        read_file: &|path| source.reader.read(&absolute(path)).map_err(|error| error.to_string()),
        read_bytes: &|path| source.reader.read_bytes(&absolute(path)).map_err(|error| error.to_string()),
        variable: &|name| environment.get(name).map(str::to_owned),
    };
    lower::lower(root, project.name, &context, journal)
}

/// What the files say together.
struct Project {
    /// Canonical, with the services of the chosen profiles.
    root: Node,
    /// `None` when it cannot be a name, which the journal says.
    name: Option<stack_model::StackName>,
    /// Services of profiles that are not chosen.
    disabled: BTreeSet<String>,
}

/// `named` are the services that are asked for by name.
fn load_project(
    source: Source<'_>,
    environment: &Environment,
    interpolate: bool,
    named: &[String],
    journal: &mut Journal,
) -> Option<Project> {
    let texts: Vec<Text> =
        source.files.iter().map(|file| Text { name: file.name.to_owned(), text: file.text.to_owned() }).collect();
    let project_name = name::before_interpolation(source, environment);
    let variables = Variables { environment, weaker: BTreeMap::new(), project_name: project_name.clone() };
    let parents: Vec<String> = source.files.iter().map(|file| paths::clean(file.name)).collect();
    journal.variables_left = !interpolate;
    let mut loader = Loader {
        reader: source.reader,
        directory: source.directory,
        interpolate,
        journal,
        spent: load::Spent::default(),
    };
    let mut root = loader.load(&texts, None, &variables, &parents)?;
    if root.as_mapping().is_none_or(indexmap::IndexMap::is_empty) && !journal.has_errors() {
        journal.push(
            Problem::new(Code::NoServices, root.place, &Path::Root, "the file is empty")
                .hint("begin with `services:` and indent the services below it"),
        );
        return None;
    }
    schema::check::check_required(&root, journal);
    validate::validate(&root, journal);
    // Variables that are left in the file are replaced in the name all the same.
    let left = root.get("name").and_then(Node::as_text).is_some_and(|name| !interpolate && name.contains('$'));
    let source = Source { name: project_name.as_deref().filter(|_| left).or(source.name), ..source };
    let name = name::stack_name(source, environment, &root, journal);
    if let Some(version) = root.as_mapping().and_then(|top| top.get("version")) {
        let path = Path::Root.key("version");
        journal.push(
            Problem::new(Code::ObsoleteVersion, version.key_place, &path, "`version` is obsolete and means nothing")
                .hint("remove the line"),
        );
    }
    let disabled = choose_profiles(&mut root, source.profiles, named, environment);
    Some(Project { root, name, disabled })
}

/// Removes the services that belong to profiles of which none is chosen, and returns their names. A service that is
/// named on the command line needs no profile.
fn choose_profiles(
    root: &mut Node,
    profiles: &[String],
    named: &[String],
    environment: &Environment,
) -> BTreeSet<String> {
    let more = environment.get("COMPOSE_PROFILES").unwrap_or_default();
    let chosen: Vec<&str> = profiles
        .iter()
        .map(String::as_str)
        .chain(more.split(',').map(str::trim))
        .filter(|name| !name.is_empty())
        .collect();
    let mut disabled = BTreeSet::new();
    let services = root.as_mapping_mut().and_then(|top| top.get_mut("services"));
    let Some(services) = services.and_then(|entry| entry.node.as_mapping_mut()) else { return disabled };
    services.retain(|name, entry| {
        let profiles = entry.node.get("profiles").and_then(Node::as_sequence).unwrap_or_default();
        let mut own = profiles.iter().filter_map(Node::as_text);
        let enabled = profiles.is_empty()
            || named.contains(name)
            || chosen.contains(&"*")
            || own.any(|profile| chosen.contains(&profile));
        if !enabled {
            disabled.insert(name.clone());
        }
        enabled
    });
    disabled
}

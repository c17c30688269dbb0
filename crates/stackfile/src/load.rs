//! Pure. Texts to one canonical tree: reading, variables, type check, long forms, `extends`, merging, `include`.

use std::collections::BTreeMap;

use crate::canonical;
use crate::code::Code;
use crate::diagnostic::{Journal, Path, Place, Problem, did_you_mean};
use crate::dotenv;
use crate::interpolate::interpolate;
use crate::merge::{merge, merge_service, strip_directives, unique_lists};
use crate::paths;
use crate::schema::check::check_file;
use crate::source::{Environment, FileError, Files};
use crate::tree::{Directive, Mapping, Node, Value, read};

/// How many files may be included or extended one within the other.
const MOST_NESTED_FILES: usize = 16;
/// How many files may be read for one stack.
const MOST_FILES: usize = 200;
/// How much text may be read for one stack, in bytes.
const MOST_BYTES: usize = 16 << 20;
/// How many services may extend one the other in a row.
const MOST_EXTENSIONS: usize = 64;
/// How many values `extends` may copy.
const MOST_COPIES: usize = 500_000;

/// What loading needs beside the texts.
pub(crate) struct Loader<'a> {
    pub reader: &'a dyn Files,
    /// The project's directory, absolute or empty.
    pub directory: &'a str,
    /// Whether variables are replaced.
    pub interpolate: bool,
    pub journal: &'a mut Journal,
    /// What was read and copied for `extends` and `include`.
    pub spent: Spent,
}

/// What a stack costs, so that a small file cannot ask for much.
#[derive(Default)]
pub(crate) struct Spent {
    files: usize,
    bytes: usize,
    copies: usize,
}

/// A text with its name.
pub(crate) struct Text {
    pub name: String,
    pub text: String,
}

/// The variables that a file sees: `COMPOSE_PROJECT_NAME` has the name of the stack even where nothing sets it.
pub(crate) struct Variables<'a> {
    pub environment: &'a Environment,
    /// Weaker than the environment: the `env_file` of an include.
    pub weaker: BTreeMap<String, String>,
    pub project_name: Option<String>,
}

impl Variables<'_> {
    pub fn get(&self, name: &str) -> Option<String> {
        if name == "COMPOSE_PROJECT_NAME"
            && let Some(project_name) = &self.project_name
        {
            return Some(project_name.clone());
        }
        self.environment.get(name).map(str::to_owned).or_else(|| self.weaker.get(name).cloned())
    }
}

impl Loader<'_> {
    /// One tree from several texts, with everything that they include. `directory` is where the relative paths of
    /// included files start from, as seen from the project's directory; `None` for the project's own files. `None` when
    /// nothing could be read.
    pub fn load(
        &mut self,
        texts: &[Text],
        directory: Option<&str>,
        variables: &Variables<'_>,
        parents: &[String],
    ) -> Option<Node> {
        let mut merged: Option<Node> = None;
        for text in texts {
            for mut document in self.documents(text, variables)? {
                if document.is_null() {
                    document = Node::mapping(Mapping::new(), document.place);
                }
                if let Some(directory) = directory {
                    prefix_paths(&mut document, directory);
                }
                self.extend_services(&mut document, directory.unwrap_or_default(), variables, &text.name);
                merged = Some(match merged {
                    None => document,
                    Some(base) => merge(base, document),
                });
            }
        }
        let mut merged = self.include(merged?, directory.unwrap_or_default(), variables, parents);
        strip_directives(&mut merged);
        Some(merged)
    }

    /// The canonical documents of one text, not merged. `None` when it is not YAML.
    fn documents(&mut self, text: &Text, variables: &Variables<'_>) -> Option<Vec<Node>> {
        let file = self.journal.add_file(&text.name, &text.text, true);
        let mut documents = read::read(&text.text, file, self.journal)?;
        for document in &mut documents {
            if document.directive == Some(Directive::Reset) {
                document.directive = None;
                self.journal.push(
                    Problem::new(
                        Code::UnknownTag,
                        document.place,
                        &Path::Root,
                        "the tag `!reset` takes a key away, and this is the whole file",
                    )
                    .hint("write it behind the key that is to go, as in `ports: !reset []`"),
                );
            }
            if self.interpolate {
                interpolate(document, &|name| variables.get(name), self.journal);
            }
            if !document.is_null() {
                if document.as_mapping().is_none() {
                    self.journal.push(
                        Problem::new(
                            Code::NotAMapping,
                            document.place,
                            &Path::Root,
                            format!("a stack file is a mapping, and this is {}", document.described()),
                        )
                        .hint("begin with `services:` and indent the services below it"),
                    );
                    return None;
                }
                check_file(document, self.journal);
                canonical::canonicalize(document, self.journal);
                unique_lists(document);
            }
        }
        Some(documents)
    }

    fn read_file(&mut self, path: &str) -> Result<String, FileError> {
        if paths::is_remote(path) {
            return Err(FileError::Other(
                "files are not fetched from the network; copy it beside the stack file".to_owned(),
            ));
        }
        self.spent.files += 1;
        if self.spent.files > MOST_FILES {
            return Err(FileError::Other(format!("more than {MOST_FILES} files are named")));
        }
        let text = self.reader.read(&paths::join(self.directory, path))?;
        self.spent.bytes += text.len();
        if self.spent.bytes > MOST_BYTES {
            return Err(FileError::Other(format!(
                "the files of this stack have more than {MOST_BYTES} bytes together"
            )));
        }
        Ok(text)
    }

    /// Replaces `extends` in every service of one document by what it extends.
    fn extend_services(&mut self, document: &mut Node, directory: &str, variables: &Variables<'_>, file: &str) {
        let names: Vec<String> = document
            .get("services")
            .and_then(Node::as_mapping)
            .map(|services| services.keys().cloned().collect())
            .unwrap_or_default();
        for name in names {
            self.extend_service(document, &name, directory, variables, file, &mut Vec::new());
        }
    }

    fn extend_service(
        &mut self,
        document: &mut Node,
        name: &str,
        directory: &str,
        variables: &Variables<'_>,
        file: &str,
        chain: &mut Vec<(String, String)>,
    ) {
        let services = Path::Key(&Path::Root, "services");
        let path = services.key(name);
        let Some(service) = service_mut(document, name) else { return };
        let Some(extends) = service.as_mapping_mut().and_then(|mapping| mapping.shift_remove("extends")) else {
            return;
        };
        let Some(other) =
            extends.node.get("service").and_then(|node| node.as_text().map(|text| (text.to_owned(), node.place)))
        else {
            if extends.node.as_mapping().is_some_and(|mapping| !mapping.contains_key("service")) {
                self.journal.push(
                    Problem::new(
                        Code::MissingKey,
                        extends.key_place,
                        &path.key("extends"),
                        "`extends` needs the key `service`",
                    )
                    .hint("add `service:` with the name of the service to extend"),
                );
            }
            return;
        };
        let (other, place) = other;
        if self.spent.copies > MOST_COPIES {
            self.journal.push(
                Problem::new(
                    Code::TooLarge,
                    place,
                    &path.key("extends"),
                    format!("the services of this stack expand to more than {MOST_COPIES} values"),
                )
                .hint("a service that many others extend should be small"),
            );
            return;
        }
        if chain.len() >= MOST_EXTENSIONS {
            self.journal.push(
                Problem::new(
                    Code::ExtendsCycle,
                    place,
                    &path.key("extends"),
                    format!("more than {MOST_EXTENSIONS} services extend one the other in a row"),
                )
                .hint("extend one service that has what all of them have in common"),
            );
            return;
        }
        chain.push((file.to_owned(), name.to_owned()));
        let other_file =
            extends.node.get("file").and_then(|node| node.as_text().map(|text| (text.to_owned(), node.place)));
        let base = match other_file {
            None => {
                if chain.contains(&(file.to_owned(), other.clone())) {
                    self.report_cycle(chain, &other, place, &path);
                    None
                } else {
                    self.extend_service(document, &other, directory, variables, file, chain);
                    let base = service_mut(document, &other).map(|node| node.clone());
                    if base.is_none() {
                        self.report_unknown_base(document, &other, file, place, &path);
                    }
                    base
                }
            }
            Some((other_file, file_place)) => {
                let other_file = paths::join(directory, &other_file);
                if chain.contains(&(other_file.clone(), other.clone())) {
                    self.report_cycle(chain, &other, place, &path);
                    None
                } else {
                    self.extend_from_file(&other_file, &other, (file_place, place), &path, variables, chain)
                }
            }
        };
        chain.pop();
        let Some(mut base) = base else {
            // What it would have had from the other service is not missing.
            let services = document.get("services").and_then(Node::as_mapping);
            if let Some(entry) = services.and_then(|services| services.get(name)) {
                self.journal.settle(entry.key_place);
            }
            return;
        };
        self.spent.copies += count(&base);
        strip_for_extension(&mut base);
        if let Some(service) = service_mut(document, name) {
            let place = service.place;
            let own = std::mem::replace(service, Node::null(place));
            let directive = own.directive;
            *service = merge_service(base, Node { directive: None, ..own });
            service.directive = directive;
        }
    }

    fn extend_from_file(
        &mut self,
        file: &str,
        service: &str,
        places: (Place, Place),
        path: &Path<'_>,
        variables: &Variables<'_>,
        chain: &mut Vec<(String, String)>,
    ) -> Option<Node> {
        let text = match self.read_file(file) {
            Ok(text) => Text { name: file.to_owned(), text },
            Err(error) => {
                self.journal.push(
                    Problem::new(
                        Code::Unreadable,
                        places.0,
                        &path.key("extends"),
                        format!("the file that this service extends cannot be read: {error}"),
                    )
                    .hint("the path is relative to the directory of the file that names it"),
                );
                return None;
            }
        };
        let directory = paths::parent(file).to_owned();
        let mut merged: Option<Node> = None;
        for mut document in self.documents(&text, variables)? {
            prefix_paths(&mut document, &directory);
            merged = Some(match merged {
                None => document,
                Some(base) => merge(base, document),
            });
        }
        let mut document = merged?;
        self.extend_service(&mut document, service, &directory, variables, file, chain);
        let base = service_mut(&mut document, service).map(|node| node.clone());
        if base.is_none() {
            self.report_unknown_base(&document, service, file, places.1, path);
        }
        base
    }

    fn report_cycle(&mut self, chain: &[(String, String)], other: &str, place: Place, path: &Path<'_>) {
        let mut names: Vec<&str> = chain.iter().map(|(_, name)| name.as_str()).collect();
        names.push(other);
        self.journal.push(
            Problem::new(
                Code::ExtendsCycle,
                place,
                &path.key("extends"),
                format!("services extend each other in a circle: `{}`", names.join("` → `")),
            )
            .hint("move what they have in common to a service that extends none"),
        );
    }

    fn report_unknown_base(&mut self, document: &Node, service: &str, file: &str, place: Place, path: &Path<'_>) {
        // A name that a variable gave is not quoted.
        let written = self.journal.is_written(place, service);
        let shown = if written { format!("`{}`", crate::tree::shortened(service)) } else { "of that name".to_owned() };
        let problem = Problem::new(
            Code::ExtendsUnknown,
            place,
            &path.key("extends"),
            format!("`{file}` has no service {shown} to extend"),
        );
        let services = document.get("services").and_then(Node::as_mapping).filter(|_| written);
        let meant = did_you_mean(service, services.into_iter().flatten().map(|(key, _)| key.as_str()));
        self.journal.push(match meant {
            Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
            None => problem.hint("add `file:` where the service is in another file"),
        });
    }

    /// The tree of a file with what it includes below it: the file's own definitions change the included ones.
    fn include(&mut self, mut own: Node, directory: &str, variables: &Variables<'_>, parents: &[String]) -> Node {
        let Some(includes) = own.as_mapping_mut().and_then(|mapping| mapping.shift_remove("include")) else {
            return own;
        };
        let list = Path::Key(&Path::Root, "include");
        let mut below = Node::mapping(Mapping::new(), own.place);
        for (index, include) in includes.node.as_sequence().unwrap_or_default().iter().enumerate() {
            let path = list.index(index);
            let texts_of = |key: &str| -> Vec<String> {
                include
                    .get(key)
                    .and_then(Node::as_sequence)
                    .unwrap_or_default()
                    .iter()
                    .filter_map(|node| node.as_text().map(str::to_owned))
                    .collect()
            };
            let files: Vec<String> = texts_of("path").iter().map(|file| paths::join(directory, file)).collect();
            let path_nodes = include.get("path").and_then(Node::as_sequence).unwrap_or_default();
            let Some(first) = files.first().cloned() else {
                self.journal.push(
                    Problem::new(Code::MissingKey, include.place, &path, "an include needs the key `path`")
                        .hint("write `- other.yml` or `- path: other.yml`"),
                );
                continue;
            };
            if parents.contains(&first) || parents.len() > MOST_NESTED_FILES {
                self.journal.push(
                    Problem::new(
                        Code::IncludeCycle,
                        include.place,
                        &path,
                        format!("`{first}` is included by itself, through `{}`", parents.join("` → `")),
                    )
                    .hint("remove one of the includes"),
                );
                continue;
            }
            let project = include.get("project_directory").and_then(Node::as_text);
            let project =
                project.map_or_else(|| paths::parent(&first).to_owned(), |project| paths::join(directory, project));
            let environment_files: Vec<String> =
                texts_of("env_file").iter().map(|file| paths::join(directory, file)).collect();
            let weaker = self.include_environment(&environment_files, &project, include.place, &path, variables);
            let mut texts = Vec::new();
            for (file, node) in files.iter().zip(path_nodes) {
                match self.read_file(file) {
                    Ok(text) => texts.push(Text { name: file.clone(), text }),
                    Err(error) => self.journal.push(
                        Problem::new(
                            Code::Unreadable,
                            node.place,
                            &path,
                            format!("the included file {} cannot be read: {error}", node.quoted()),
                        )
                        .hint("the path is relative to the directory of the file that includes it"),
                    ),
                }
            }
            let inner =
                Variables { environment: variables.environment, weaker, project_name: variables.project_name.clone() };
            let mut parents = parents.to_vec();
            parents.push(first);
            if texts.is_empty() {
                continue;
            }
            if let Some(mut included) = self.load(&texts, Some(&project), &inner, &parents) {
                look_up_variables(&mut included, &inner);
                self.import(&mut below, included, include.place, &path);
            }
        }
        let place = own.place;
        Node { place, ..merge(below, own) }
    }

    fn include_environment(
        &mut self,
        files: &[String],
        project: &str,
        place: Place,
        path: &Path<'_>,
        variables: &Variables<'_>,
    ) -> BTreeMap<String, String> {
        let mut weaker = variables.weaker.clone();
        let own = paths::join(project, ".env");
        let (files, required): (Vec<&str>, bool) =
            if files.is_empty() { (vec![&own], false) } else { (files.iter().map(String::as_str).collect(), true) };
        for file in files {
            match self.read_file(file) {
                Ok(text) => {
                    match dotenv::parse(&text, &|name| variables.get(name), &|name| weaker.get(name).cloned()) {
                        Ok(read) => weaker.extend(read.values),
                        Err(error) => report_environment_file(self.journal, file, &text, &error),
                    }
                }
                Err(FileError::NotFound) if !required => {}
                Err(error) => self.journal.push(Problem::new(
                    Code::Unreadable,
                    place,
                    path,
                    format!("the environment file `{file}` cannot be read: {error}"),
                )),
            }
        }
        weaker
    }

    /// Adds what an included file defines; two included files may define the same thing only if equally.
    fn import(&mut self, merged: &mut Node, included: Node, place: Place, path: &Path<'_>) {
        let Value::Mapping(included) = included.value else { return };
        let Some(target) = merged.as_mapping_mut() else { return };
        for (section, entry) in included {
            if !matches!(section.as_str(), "services" | "networks" | "volumes" | "configs" | "secrets" | "models") {
                continue;
            }
            match target.get_mut(&section) {
                None => {
                    target.insert(section, entry);
                }
                Some(present) if present.node.is_null() => present.node = entry.node,
                Some(present) => {
                    let (Some(present), Value::Mapping(more)) = (present.node.as_mapping_mut(), entry.node.value)
                    else {
                        continue;
                    };
                    for (name, entry) in more {
                        match present.get(&name) {
                            None => {
                                present.insert(name, entry);
                            }
                            Some(own) if own.node.to_json() == entry.node.to_json() => {}
                            Some(own) => {
                                let noun = section.trim_end_matches('s').to_owned();
                                self.journal.push(
                                    Problem::new(
                                        Code::IncludeConflict,
                                        place,
                                        path,
                                        format!("the {noun} `{name}` is included, and defined differently elsewhere"),
                                    )
                                    .hint(format!(
                                        "the other one is in line {} of `{}`; rename one of the two",
                                        own.key_place.line,
                                        self.journal.file_name(own.key_place.file)
                                    )),
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Reports what is wrong with an environment file, at its line, without showing the line.
pub(crate) fn report_environment_file(journal: &mut Journal, file: &str, text: &str, error: &dotenv::DotenvError) {
    let number = journal.add_file(file, text, false);
    let place = Place { file: number, line: error.line(), column: 1, length: 1 };
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {}", template_cause(cause));
        source = cause.source();
    }
    journal.push(
        Problem::new(Code::BadEnvironmentFile, place, &Path::Root, message)
            .hint("each line is `NAME=VALUE`; put a value with spaces, `#` or quotes in single quotes"),
    );
}

/// The fragment of a bad reference may be a piece of a secret.
fn template_cause(cause: &(dyn std::error::Error + 'static)) -> String {
    match cause.downcast_ref::<crate::template::TemplateError>() {
        Some(crate::template::TemplateError::Invalid { .. }) => "a `$` in it begins no variable reference".to_owned(),
        _ => cause.to_string(),
    }
}

/// Gives the variables of included services that have no value the one that the include's environment files say: they
/// are known to the included files alone.
fn look_up_variables(included: &mut Node, variables: &Variables<'_>) {
    let services = included.as_mapping_mut().and_then(|top| top.get_mut("services"));
    for (_, entry) in services.and_then(|entry| entry.node.as_mapping_mut()).into_iter().flatten() {
        let environment = entry.node.as_mapping_mut().and_then(|service| service.get_mut("environment"));
        for (name, entry) in environment.and_then(|entry| entry.node.as_mapping_mut()).into_iter().flatten() {
            if entry.node.is_null()
                && let Some(value) = variables.weaker.get(name)
                && variables.environment.get(name).is_none()
            {
                entry.node.value = Value::Text(value.clone());
                entry.node.interpolated = true;
            }
        }
    }
}

/// Makes the relative paths of a file relative to the project's directory.
fn prefix_paths(document: &mut Node, directory: &str) {
    crate::resolve::relative_paths(document, &|path| paths::join(directory, path));
}

/// How many values a tree has; a long text counts as several.
fn count(node: &Node) -> usize {
    match &node.value {
        Value::Text(text) => 1 + text.len() / 64,
        Value::Sequence(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Mapping(mapping) => 1 + mapping.values().map(|entry| count(&entry.node)).sum::<usize>(),
        _ => 1,
    }
}

fn service_mut<'n>(document: &'n mut Node, name: &str) -> Option<&'n mut Node> {
    let services = document.as_mapping_mut()?.get_mut("services")?;
    services.node.as_mapping_mut()?.get_mut(name).map(|entry| &mut entry.node)
}

/// What is of no use to the service that extends.
fn strip_for_extension(base: &mut Node) {
    strip_directives(base);
    if let Some(mapping) = base.as_mapping_mut() {
        mapping.shift_remove("extends");
    }
}

//! Pure. Which files are read where the command line names none: what variables say, and the default names.

use std::path::PathBuf;

/// Looked for upwards from the working directory, the first one first.
pub const DEFAULT_NAMES: [&str; 6] =
    ["stack.yaml", "stack.yml", "compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
/// Read over a default file that is beside it, the first one first.
const OVER_STACK: [&str; 2] = ["stack.override.yaml", "stack.override.yml"];
/// As Docker Compose looks for them, whatever the default file's own name.
const OVER_COMPOSE: [&str; 4] =
    ["compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml"];

/// The files of one directory that are taken when none is named.
#[derive(Debug, PartialEq, Eq)]
pub struct Defaults {
    /// The stack file, if there is one.
    pub file: Option<&'static str>,
    /// The file that is read over it.
    pub over: Option<&'static str>,
    /// Others that could be meant.
    pub passed_over: Vec<&'static str>,
}

/// `exists`: whether the directory has a file of a name.
pub fn defaults(exists: &dyn Fn(&str) -> bool) -> Defaults {
    let mut found = DEFAULT_NAMES.into_iter().filter(|name| exists(name));
    let Some(file) = found.next() else { return Defaults { file: None, over: None, passed_over: Vec::new() } };
    let mut passed_over: Vec<&str> = found.collect();
    let over: &[&str] = if file.starts_with("stack.") { &OVER_STACK } else { &OVER_COMPOSE };
    let mut over = over.iter().copied().filter(|name| exists(name));
    let first = over.next();
    passed_over.extend(over);
    Defaults { file: Some(file), over: first, passed_over }
}

/// The files of COMPOSE_FILE, as seen from the working directory.
pub fn named_by<'v>(variable: &dyn Fn(&str) -> Option<&'v str>) -> Vec<PathBuf> {
    let separator = variable("COMPOSE_PATH_SEPARATOR").filter(|separator| !separator.is_empty()).unwrap_or(":");
    let files = variable("COMPOSE_FILE").unwrap_or_default();
    files.split(separator).filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

/// The files of COMPOSE_ENV_FILES, divided by commas.
pub fn environment_files(variable: Option<&str>) -> Vec<PathBuf> {
    let files = variable.unwrap_or_default().split(',').map(str::trim);
    files.filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

/// What counts as yes in a variable that switches something.
pub fn is_true(variable: Option<&str>) -> bool {
    matches!(variable, Some("1" | "t" | "T" | "true" | "True" | "TRUE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_default_name_wins_and_is_overridden_by_a_file_of_its_family() {
        let chosen = |names: &'static [&'static str]| defaults(&|name| names.contains(&name));
        let file = |file, over, passed_over| Defaults { file, over, passed_over };
        assert_eq!(chosen(&["x.yml"]), file(None, None, vec![]));
        assert_eq!(chosen(&["compose.yml"]), file(Some("compose.yml"), None, vec![]));
        assert_eq!(
            chosen(&["docker-compose.yml", "compose.yaml", "compose.override.yaml", "docker-compose.override.yml"]),
            file(
                Some("compose.yaml"),
                Some("compose.override.yaml"),
                vec!["docker-compose.yml", "docker-compose.override.yml"]
            )
        );
        assert_eq!(
            chosen(&["stack.yml", "compose.override.yml", "stack.override.yml"]),
            file(Some("stack.yml"), Some("stack.override.yml"), vec![])
        );
        assert_eq!(chosen(&["compose.override.yml"]), file(None, None, vec![]));
    }

    #[test]
    fn variables_name_files() {
        let named = |values: &'static [(&'static str, &'static str)]| {
            named_by(&|name| values.iter().find(|(key, _)| *key == name).map(|(_, value)| *value))
        };
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(named(&[]), paths(&[]));
        assert_eq!(named(&[("COMPOSE_FILE", "a.yml:/b/c.yml")]), paths(&["a.yml", "/b/c.yml"]));
        assert_eq!(named(&[("COMPOSE_FILE", "a.yml;b:c"), ("COMPOSE_PATH_SEPARATOR", ";")]), paths(&["a.yml", "b:c"]));
        assert_eq!(environment_files(Some("a.env, b.env,")), paths(&["a.env", "b.env"]));
        assert!(is_true(Some("TRUE")) && !is_true(Some("0")) && !is_true(None));
    }
}

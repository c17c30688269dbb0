//! Stack files as people write them: what is said about each, and that its canonical form means the same.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use stack_stackfile::{
    CanonicalOptions, Diagnostic, Environment, Parsed, Source, SourceFile, canonical, parse, render_all,
};

fn files() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/real");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(path).unwrap()))
        .collect()
}

fn with<T>(name: &str, text: &str, take: impl FnOnce(Source<'_>, &Environment) -> T) -> T {
    let further: BTreeMap<String, String> = ["db.env", ".env", ".env.production"]
        .into_iter()
        .map(|file| (format!("/srv/shop/{file}"), "MYSQL_USER=nextcloud\nMYSQL_PASSWORD='p#s$word'\n".to_owned()))
        .collect();
    let environment: Environment = [("GRAFANA_PASSWORD", "x"), ("DOMAIN", "example.com"), ("BASE_URL", "https://x")]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let files = [SourceFile { name, text }];
    let profiles = ["*".to_owned()];
    let source = Source { files: &files, directory: "/srv/shop", name: None, profiles: &profiles, reader: &further };
    take(source, &environment)
}

fn parsed(name: &str, text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    with(name, text, parse)
}

#[test]
fn there_are_enough() {
    assert!(files().len() >= 25);
}

#[test]
fn what_is_said_about_each() {
    let mut told = String::new();
    for (name, text) in files() {
        let (verdict, diagnostics) = match parsed(&name, &text) {
            Ok(parsed) => ("accepted", parsed.warnings),
            Err(diagnostics) => ("refused", diagnostics),
        };
        let _ = writeln!(told, "{name}: {verdict}");
        for diagnostic in diagnostics {
            let _ = writeln!(told, "  {} {}: {}", diagnostic.code, diagnostic.path, diagnostic.message);
        }
    }
    insta::assert_snapshot!(told);
}

#[test]
fn the_canonical_form_of_each_means_the_same() {
    for (name, text) in files() {
        // Paths stay relative: what is refused for a relative path is refused for the canonical form, too.
        let options = CanonicalOptions { normalize: false, resolve_paths: false, ..CanonicalOptions::default() };
        let print = |text: &str| {
            with(&name, text, |source, environment| match canonical(source, environment, &options) {
                Ok(canonical) => (canonical.to_json(), canonical.to_yaml()),
                Err(diagnostics) => panic!("{name}: {}", render_all(&diagnostics)),
            })
        };
        let (json, yaml) = print(&text);
        assert_eq!(print(&yaml), (json, yaml.clone()), "{name}");
        match (parsed(&name, &text), parsed(&name, &yaml)) {
            (Ok(first), Ok(second)) => assert_eq!(first.spec, second.spec, "{name}"),
            (Err(_), Err(_)) => {}
            (first, second) => panic!("{name}: {} is not {}", first.is_ok(), second.is_ok()),
        }
    }
}

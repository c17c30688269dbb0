//! The documentation's table and the JSON Schema are those of the parser, and nothing of the specification is missing.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

use std::collections::BTreeSet;
use std::path::Path;

use stack_stackfile::{Treatment, codes_page, json_schema, reference, reference_page};

/// Writes a generated file when STACK_BLESS is set; compares it otherwise.
fn is_current(path: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("STACK_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "{} is out of date: run this test with STACK_BLESS=1", path.display());
}

#[test]
fn the_page_of_the_documentation_is_current() {
    is_current("../../docs/stack-file.md", &reference_page());
}

#[test]
fn the_page_of_the_codes_is_current() {
    is_current("../../docs/diagnostics.md", &codes_page());
}

#[test]
fn the_json_schema_is_current() {
    is_current("../../docs/stack-file.schema.json", &format!("{:#}\n", json_schema()));
}

#[test]
fn every_path_of_the_specification_is_in_the_table() {
    // The properties of compose-spec.json, flattened.
    let official: BTreeSet<&str> = include_str!("files/compose-paths.txt").lines().collect();
    let entries = reference();
    let ours: BTreeSet<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    let missing: Vec<&&str> = official.difference(&ours).collect();
    assert!(missing.is_empty(), "the table lacks {missing:#?}");
    let more: Vec<&&str> = ours.difference(&official).filter(|path| !path.contains("x-stack-")).collect();
    assert!(more.is_empty(), "the specification does not have {more:#?}");
}

#[test]
fn every_refusal_says_what_to_do_instead() {
    for entry in reference() {
        assert!(entry.description.len() > 3, "{}", entry.path);
        assert_eq!(entry.remark.is_empty(), entry.treatment == Treatment::Applied, "{}", entry.path);
    }
}

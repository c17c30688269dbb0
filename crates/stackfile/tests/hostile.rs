//! Files that mean harm end in a diagnostic, soon.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use stack_stackfile::{Environment, Source, SourceFile, parse};

/// What an optimised build does within a second may take longer in this one, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// The codes of the errors, and that they came in time.
fn refused(what: &str, text: &str, further: &[(&str, String)]) -> Vec<&'static str> {
    let reader: BTreeMap<String, String> =
        further.iter().map(|(name, text)| (format!("/srv/{name}"), text.clone())).collect();
    let files = [SourceFile { name: "app.yml", text }];
    let source = Source { files: &files, directory: "/srv", name: Some("x"), profiles: &[], reader: &reader };
    let start = Instant::now();
    let result = parse(source, &Environment::default());
    let elapsed = start.elapsed();
    assert!(elapsed < DEADLINE, "{what} took {elapsed:?}");
    let Err(diagnostics) = result else { panic!("{what} is accepted") };
    assert!(diagnostics.len() <= 401, "{what} says {} things", diagnostics.len());
    diagnostics.iter().map(|diagnostic| diagnostic.code.as_str()).collect()
}

#[test]
fn alias_bombs() {
    let mut lists = "x0: &x0 [a,a,a,a,a,a,a,a,a,a]\n".to_owned();
    let mut mappings = "x0: &x0 {a: 1, b: 2}\n".to_owned();
    for level in 1..40 {
        let alias = format!("*x{}", level - 1);
        let _ = writeln!(lists, "x{level}: &x{level} [{}]", [alias.as_str(); 10].join(","));
        let _ = writeln!(mappings, "x{level}: &x{level} {{a: {alias}, b: {alias}, c: {alias}}}");
    }
    assert!(refused("a bomb of lists", &lists, &[]).contains(&"E0105"));
    assert!(refused("a bomb of mappings", &mappings, &[]).contains(&"E0105"));
}

#[test]
fn large_files() {
    let text = format!("services:\n  a:\n    image: a:1\n    command: {}\n", "x".repeat(10 << 20));
    assert_eq!(refused("10 MB in one value", &text, &[]), ["E0105"]);
    let text = format!("services:\n{}", "  a:\n    image: a:1\n".repeat(500_000));
    assert_eq!(refused("10 MB of lines", &text, &[]), ["E0105"]);
    let text = format!("services:\n{}", "  a:\n    image: a:1\n".repeat(30_000));
    assert!(refused("one key again and again", &text, &[]).contains(&"E0103"));
}

#[test]
fn deep_files() {
    for (what, text) in [
        ("lists in a row", "[".repeat(10_000)),
        ("lists below each other", (0..10_000).fold(String::new(), |text, _| text + "- ")),
        ("mappings", "{a: ".repeat(10_000)),
        ("keys", "? ".repeat(10_000)),
        ("an indented staircase", (0..1_500).fold(String::new(), |text, level| text + &" ".repeat(level) + "a:\n")),
    ] {
        assert!(refused(what, &text, &[]).contains(&"E0104"), "{what}");
    }
    let text = format!("services: {{a: {{image: '{}x{}'}}}}", "${A:-".repeat(10_000), "}".repeat(10_000));
    assert!(refused("variables", &text, &[]).contains(&"E0201"));
}

#[test]
fn files_that_read_files() {
    let cycle = [("a.yml", "include: [b.yml]".to_owned()), ("b.yml", "include: [a.yml]".to_owned())];
    assert!(refused("a circle of includes", "include: [a.yml]", &cycle).contains(&"E0403"));
    // Every file includes the next one twice, under two names for one file.
    let mut tree: Vec<(String, String)> = Vec::new();
    for level in 0..40 {
        let next = level + 1;
        tree.push((format!("t{level}.yml"), format!("include: [t{next}.yml, ./t{next}.yml, t{next}.yml]")));
    }
    let tree: Vec<(&str, String)> = tree.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
    assert!(!refused("a tree of includes", "include: [t0.yml]", &tree).is_empty());
    let extends = [
        ("a.yml", "services: {a: {extends: {file: b.yml, service: b}}}".to_owned()),
        ("b.yml", "services: {b: {extends: {file: a.yml, service: a}}}".to_owned()),
    ];
    let text = "services: {x: {extends: {file: a.yml, service: a}}}";
    assert!(refused("a circle of extends", text, &extends).contains(&"E0402"));
}

#[test]
fn services_that_extend_without_end() {
    let mut chain = "services:\n  s0: {image: 'a:1'}\n".to_owned();
    for number in 1..5_000 {
        let _ = writeln!(chain, "  s{number}: {{extends: s{}}}", number - 1);
    }
    // From the last to the first, so that none is extended before it is needed.
    let (head, services) = chain.split_once('\n').unwrap();
    let mut lines: Vec<&str> = services.lines().collect();
    lines.reverse();
    let backwards = format!("{head}\n{}\n", lines.join("\n"));
    assert!(refused("a chain of extends", &backwards, &[]).contains(&"E0402"));
    let mut large = "services:\n  base:\n    image: a:1\n    labels:\n".to_owned();
    for number in 0..5_000 {
        let _ = writeln!(large, "      l{number}: x");
    }
    for number in 0..5_000 {
        let _ = writeln!(large, "  s{number}: {{extends: base}}");
    }
    assert!(refused("a large service extended often", &large, &[]).contains(&"E0105"));
}

#[test]
fn variables_that_grow() {
    let mut doubling = "A0=0123456789\n".to_owned();
    for number in 1..60 {
        let _ = writeln!(doubling, "A{number}=$A{0}$A{0}", number - 1);
    }
    let text = "services: {a: {image: 'a:1', env_file: [double.env]}}";
    assert!(refused("doubling variables", text, &[("double.env", doubling)]).contains(&"E0405"));
    let long = format!("L={}\n", "x".repeat(500_000));
    let mut text = "services:\n  a:\n    image: a:1\n    labels:\n".to_owned();
    for number in 0..20_000 {
        let _ = writeln!(text, "      l{number}: $L");
    }
    let include = "include: [{path: inner.yml, env_file: long.env}]\nservices: {b: {image: 'b:1'}}";
    assert!(refused("one long variable often", include, &[("inner.yml", text), ("long.env", long)]).contains(&"E0105"));
}

#[test]
fn ports_without_end() {
    let ranges = ["\"1-65535:1-65535\""; 500].join(",");
    let text = format!("services: {{a: {{image: 'a:1', ports: [{ranges}]}}}}");
    assert!(refused("ranges of ports", &text, &[]).contains(&"E0105"));
    let mut one = "services:\n  a:\n    image: a:1\n    ports:\n".to_owned();
    for number in 0..30_000 {
        let _ = writeln!(one, "      - \"[fd00::{number:x}]:80:80\"");
    }
    one.push_str("      - 80:80\n");
    assert!(refused("one port on many addresses", &one, &[]).contains(&"E0507"));
}

#[test]
fn floods_of_problems() {
    let mut unknown = "services:\n".to_owned();
    let mut undefined = "volumes:\n".to_owned();
    let mut circles = "services:\n".to_owned();
    for number in 0..20_000 {
        let _ = writeln!(unknown, "  s{number}: {{imag{number}: x}}");
        let _ = writeln!(undefined, "  volume{number}:");
    }
    undefined.push_str("services:\n  a:\n    image: a:1\n    volumes:\n");
    for number in 0..20_000 {
        let _ = writeln!(undefined, "      - volumee{number}:/v{number}");
    }
    for number in 0..300 {
        let needs: Vec<String> = (0..300).map(|other| format!("s{other}")).collect();
        let _ = writeln!(circles, "  s{number}: {{image: 'a:1', depends_on: [{}]}}", needs.join(","));
    }
    assert!(refused("unknown keys", &unknown, &[]).contains(&"E0199"));
    assert!(refused("undefined volumes", &undefined, &[]).contains(&"E0199"));
    assert!(refused("circles of needs", &circles, &[]).contains(&"E0506"));
}

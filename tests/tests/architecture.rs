//! Which crate may depend on which, as ARCHITECTURE.md says. Anything not written here fails.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Each crate and the crates of ours that it may use in production code.
const ALLOWED: &[(&str, &[&str])] = &[
    ("stack-model", &[]),
    ("stack-stackfile", &["stack-model"]),
    ("stack-planner", &["stack-model"]),
    ("stack-api", &["stack-model"]),
    ("stack-controller", &["stack-model", "stack-planner", "stack-api"]),
    ("stack-agent", &["stack-model", "stack-api", "stack-engine"]),
    ("stack-engine", &["stack-shim", "stack-tunnel"]),
    ("stack-docker-api", &["stack-engine", "stack-api"]),
    ("stack-shim", &[]),
    ("stack-tunnel", &[]),
    ("stack-cli", &["stack-stackfile", "stack-api", "stack-model"]),
    (
        "stackd",
        &[
            "stack-model",
            "stack-planner",
            "stack-api",
            "stack-controller",
            "stack-agent",
            "stack-engine",
            "stack-docker-api",
        ],
    ),
    // For tests only: nothing but tests may use these.
    ("stack-testkit", &["stack-model", "stack-api", "stack-planner", "stack-agent"]),
    ("stack-tests", &[]),
    ("visits", &[]),
];
/// Crates that decide and touch nothing.
const PURE: &[&str] = &["stack-model", "stack-stackfile", "stack-planner"];
/// What would let a pure crate touch something.
const EFFECTS: &[&str] = &["tokio", "reqwest", "nix", "libc", "rand", "hyper", "axum", "openraft", "redb"];

#[test]
fn crates_depend_only_on_what_the_architecture_allows() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(name, uses)| (*name, uses.iter().copied().collect())).collect();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        seen.insert(name.to_owned());
        let Some(allowed_here) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the list: add it to ARCHITECTURE.md and here, or remove it"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let used = dependency["name"].as_str().expect("a name");
            let in_production = dependency["kind"].is_null();
            if in_production && allowed.contains_key(used) && !allowed_here.contains(used) {
                wrong.push(format!("{name} may not depend on {used}"));
            }
            if in_production && PURE.contains(&name) && EFFECTS.contains(&used) {
                wrong.push(format!("{name} is pure and may not depend on {used}"));
            }
        }
    }
    for name in allowed.keys() {
        if !seen.contains(*name) {
            wrong.push(format!("{name} is in the list and not in the workspace"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_crate_or_module_is_called_after_nothing() {
    let mut wrong = Vec::new();
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../crates"))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").filter_map(Result::ok) {
            let path = entry.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
            if ["utils", "util", "common", "helpers", "helper", "misc"].contains(&stem.as_str()) {
                wrong.push(path.clone());
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

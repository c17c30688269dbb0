//! The language-neutral conformance cases for Compose loaders, one test for each.
//!
//! The data is not part of the repository: it is read from `STACK_CONFORMANCE_COMPOSE`, or from
//! `shared/conformance/compose` beside the repository. `not-applicable.txt` lists the cases that cannot apply, each with
//! its reason; `known-failures.txt` lists those that fail today. Both are enforced: a case that starts to pass must leave
//! its list.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test program: it fails by panicking and says what it does"
)]

mod case;
mod expect;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use libtest_mimic::{Arguments, Failed, Trial};

/// At most this share of all cases may be listed as not applicable, in thousandths.
const MOST_NOT_APPLICABLE_PERMILLE: usize = 20;

const SKIPPED: &str = "SKIPPED: the conformance data is neither at STACK_CONFORMANCE_COMPOSE nor at \
                       shared/conformance/compose beside the repository; no case was run";

fn main() {
    let arguments = Arguments::from_args();
    let Some(directory) = data_directory() else {
        // On the error stream, and as the name of a test: a runner reads the list of tests from the output.
        eprintln!("{SKIPPED}");
        let skipped = Trial::test("SKIPPED_because_the_conformance_data_is_not_there", || {
            eprintln!("{SKIPPED}");
            Ok(())
        });
        libtest_mimic::run(&arguments, vec![skipped]).exit();
    };
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let not_applicable = list(&manifest.join("not-applicable.txt"));
    let known_failures = list(&manifest.join("known-failures.txt"));
    let ids = case::all(&directory);
    let mut trials = vec![lists_are_true(&ids, &not_applicable, &known_failures)];
    for id in ids {
        if not_applicable.contains_key(&id) {
            continue;
        }
        let fails = known_failures.contains_key(&id);
        let directory = directory.clone();
        trials.push(Trial::test(id.clone(), move || {
            let result = std::panic::catch_unwind(|| case::run(&directory, &id))
                .unwrap_or_else(|_| Err("it panicked".to_owned()));
            match (result, fails) {
                (Ok(()), false) | (Err(_), true) => Ok(()),
                (Ok(()), true) => Err(Failed::from("it passes now: remove it from known-failures.txt")),
                (Err(reason), false) => Err(Failed::from(reason)),
            }
        }));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// Every listed case exists, once, with a reason, and few are not applicable.
fn lists_are_true(
    ids: &[String],
    not_applicable: &BTreeMap<String, String>,
    known_failures: &BTreeMap<String, String>,
) -> Trial {
    let mut problems = Vec::new();
    for (id, reason) in not_applicable.iter().chain(known_failures) {
        if !ids.contains(id) {
            problems.push(format!("{id} is listed and is no case"));
        }
        if reason.is_empty() {
            problems.push(format!("{id} is listed without a reason"));
        }
    }
    for id in not_applicable.keys().filter(|id| known_failures.contains_key(*id)) {
        problems.push(format!("{id} is in both lists"));
    }
    if not_applicable.len() * 1000 > ids.len() * MOST_NOT_APPLICABLE_PERMILLE {
        problems.push(format!("{} of {} cases are listed as not applicable", not_applicable.len(), ids.len()));
    }
    Trial::test("lists", move || if problems.is_empty() { Ok(()) } else { Err(problems.join("\n").into()) })
}

/// Lines of `id  reason`; `#` begins a comment.
fn list(path: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(path).expect("the list is part of the repository");
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (id, reason) = line.split_once(' ').unwrap_or((line, ""));
            (id.to_owned(), reason.trim().to_owned())
        })
        .collect()
}

fn data_directory() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("STACK_CONFORMANCE_COMPOSE") {
        return Some(PathBuf::from(path)).filter(|directory| directory.join("manifest.json").is_file());
    }
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|ancestor| ancestor.join("shared/conformance/compose"))
        .find(|directory| directory.join("manifest.json").is_file())
}

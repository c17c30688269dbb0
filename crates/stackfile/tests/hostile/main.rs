//! Files that mean harm end in a diagnostic, soon, and without taking the machine's memory.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

mod inputs;
mod memory;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use stack_stackfile::{Environment, Source, SourceFile, parse};

#[global_allocator]
static COUNTING: memory::Counting = memory::Counting;

/// What an optimised build does within a second (docs/benchmarks.md) may take longer in this one, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);
/// The most memory that may be allocated at once beside the input, in bytes.
const MOST_MEMORY: usize = 256 << 20;

/// Memory is the whole program's: one input at a time.
static ONE: Mutex<()> = Mutex::new(());

fn check(input: &inputs::Input) {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let what = input.what;
    let reader: BTreeMap<String, String> =
        input.further.iter().map(|(name, text)| (format!("/srv/{name}"), text.clone())).collect();
    let files = [SourceFile { name: "app.yml", text: &input.text }];
    let source = Source { files: &files, directory: "/srv", name: Some("x"), profiles: &[], reader: &reader };
    let start = Instant::now();
    let (result, peak) = memory::peak(|| parse(source, &Environment::default()));
    let elapsed = start.elapsed();
    #[allow(clippy::print_stdout, reason = "the figures, for whoever runs it with --no-capture")]
    {
        println!("{what}: {elapsed:?}, {} KiB", peak >> 10);
    }
    assert!(elapsed < DEADLINE, "{what} took {elapsed:?}");
    assert!(peak < MOST_MEMORY, "{what} took {peak} bytes");
    let Err(diagnostics) = result else { panic!("{what} is accepted") };
    assert!(diagnostics.len() <= 401, "{what} says {} things", diagnostics.len());
    let codes: Vec<&str> = diagnostics.iter().map(|diagnostic| diagnostic.code.as_str()).collect();
    assert!(codes.contains(&input.code), "{what} does not end in {}: {codes:?}", input.code);
}

#[test]
fn every_one_ends_in_a_diagnostic() {
    inputs::all().iter().for_each(check);
}

#[test]
fn a_large_file_of_a_friend_is_accepted() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let text = inputs::large();
    assert!((1_000_000..1_400_000).contains(&text.len()), "{} bytes", text.len());
    let files = [SourceFile { name: "large.yml", text: &text }];
    let source =
        Source { files: &files, directory: "/srv", name: Some("x"), profiles: &[], reader: &stack_stackfile::NoFiles };
    let start = Instant::now();
    let (parsed, peak) = memory::peak(|| parse(source, &Environment::default()));
    let elapsed = start.elapsed();
    println!("{} bytes, {} lines: {elapsed:?}, {} KiB", text.len(), text.lines().count(), peak >> 10);
    assert_eq!(parsed.unwrap().spec.services.len(), 1_500);
    assert!(elapsed < DEADLINE && peak < MOST_MEMORY, "{elapsed:?}, {peak} bytes");
}

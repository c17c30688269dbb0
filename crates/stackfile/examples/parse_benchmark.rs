//! How long a large stack file takes, and what the worst of hostile ones cost. In release mode:
//! `cargo run --release -p stack-stackfile --example parse_benchmark`. Prints a table for docs/benchmarks.md.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints a table")]

#[path = "../tests/hostile/inputs.rs"]
mod inputs;
#[path = "../tests/hostile/memory.rs"]
mod memory;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use stack_stackfile::{CanonicalOptions, Environment, Files, NoFiles, Source, SourceFile, canonical, parse};

#[global_allocator]
static COUNTING: memory::Counting = memory::Counting;

const RUNS: usize = 15;

/// The median and the best of some runs, and the most memory of one.
fn measure(mut work: impl FnMut() -> bool) -> (Duration, Duration, usize) {
    let mut times = Vec::with_capacity(RUNS);
    let mut most = 0;
    for _ in 0..RUNS {
        let start = Instant::now();
        let (done, peak) = memory::peak(&mut work);
        times.push(start.elapsed());
        most = most.max(peak);
        if !done {
            eprintln!("the work was not done");
            std::process::exit(1);
        }
    }
    times.sort();
    (times[RUNS / 2], times[0], most)
}

fn source<'a>(files: &'a [SourceFile<'a>], reader: &'a dyn Files) -> Source<'a> {
    Source { files, directory: "/srv", name: Some("x"), profiles: &[], reader }
}

fn row(what: &str, (median, best, peak): (Duration, Duration, usize), target: &str) {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "| {what} | {:.1} ({:.1}) | {:.1} | {target} |",
        milliseconds(median),
        milliseconds(best),
        peak as f64 / f64::from(1 << 20)
    );
}

fn main() {
    println!("| work | ms | MiB at most | target |\n|---|---|---|---|");
    let large = inputs::large();
    let files = [SourceFile { name: "large.yml", text: &large }];
    let none = Environment::default();
    let size = format!("{:.2} MB, {} lines", large.len() as f64 / 1e6, large.lines().count());
    row(&format!("parse to a spec: {size}"), measure(|| parse(source(&files, &NoFiles), &none).is_ok()), "100 ms");
    let options = CanonicalOptions::default();
    row(
        "the same to the canonical form, printed",
        measure(|| canonical(source(&files, &NoFiles), &none, &options).is_ok_and(|file| !file.to_yaml().is_empty())),
        "-",
    );
    let mut hostile: Vec<(&str, (Duration, Duration, usize))> = inputs::all()
        .iter()
        .map(|input| {
            let reader: BTreeMap<String, String> =
                input.further.iter().map(|(name, text)| (format!("/srv/{name}"), text.clone())).collect();
            let files = [SourceFile { name: "app.yml", text: &input.text }];
            (input.what, measure(|| parse(source(&files, &reader), &none).is_err()))
        })
        .collect();
    hostile.sort_by_key(|(_, (median, ..))| std::cmp::Reverse(*median));
    let most = hostile.iter().map(|(_, (.., peak))| *peak).max().unwrap_or_default();
    println!(
        "| {} hostile files, the most memory of any | - | {:.1} | 256 MiB |",
        hostile.len(),
        most as f64 / f64::from(1 << 20)
    );
    for (what, figures) in hostile.iter().take(5) {
        row(&format!("hostile, of the slowest: {what}"), *figures, "1 s");
    }
}

//! The short run of the fuzz target that needs no nightly compiler: stack files as they are found, damaged at random.
//!
//! The corpus is the tests' own files, the examples and, where they are there, the conformance cases. The same seed damages
//! them the same way every time; `STACK_MUTATIONS` and `STACK_MUTATION_SEED` make the run longer or another one.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

mod survive;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use survive::{DIVIDER, survive};

/// One damaged file may take this long, on a busy machine and without optimisation.
const DEADLINE: Duration = Duration::from_secs(20);

fn collect(directory: &Path, corpus: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let known =
            path.extension().is_some_and(|extension| ["yml", "yaml", "env"].iter().any(|known| extension == *known));
        if path.is_dir() {
            collect(&path, corpus);
        } else if known && let Ok(text) = std::fs::read_to_string(&path) {
            // A huge one is for the tests of limits: here many small ones find more.
            if text.len() < 40_000 {
                corpus.push(text);
            }
        }
    }
}

fn corpus() -> Vec<String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut corpus = Vec::new();
    collect(&here.join("tests/files"), &mut corpus);
    collect(&here.join("../../examples"), &mut corpus);
    let data = std::env::var_os("STACK_CONFORMANCE_COMPOSE").map(PathBuf::from).or_else(|| {
        here.ancestors().map(|ancestor| ancestor.join("shared/conformance/compose")).find(|path| path.is_dir())
    });
    if let Some(data) = data {
        collect(&data, &mut corpus);
    }
    assert!(corpus.len() >= 28);
    corpus
}

/// Numbers that look random and are the same for the same seed (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % limit.max(1)
    }

    fn choose<'c>(&mut self, items: &'c [String]) -> &'c str {
        &items[self.below(items.len())]
    }
}

/// What breaks parsers of YAML, variables and short forms.
const PIECES: [&str; 40] = [
    "&a ",
    "*a",
    "<<: *a",
    "!reset ",
    "!override ",
    "!reset null",
    "${",
    "}",
    "$",
    "$$",
    "${A:-${B:?x}}",
    "${TAG}",
    "{",
    "[",
    "]",
    "- ",
    ": ",
    "\n",
    "\n  ",
    "\t",
    "'",
    "\"",
    "|\n",
    ">-\n",
    "#",
    "---\n",
    "...\n",
    "~",
    "null",
    "yes",
    "0644",
    "1e999",
    ".nan",
    "-1",
    "\u{0}",
    "\u{feff}",
    "é",
    "x-a: ",
    "extends: web",
    "include: [more.yml]",
];

fn damaged(random: &mut Random, corpus: &[String]) -> String {
    let mut lines: Vec<String> = random.choose(corpus).lines().map(str::to_owned).collect();
    for _ in 0..=random.below(4) {
        if lines.is_empty() {
            lines.push(String::new());
        }
        let at = random.below(lines.len());
        match random.below(8) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[random.below(lines.len())].clone()),
            2 => {
                let other = random.below(lines.len());
                lines.swap(at, other);
            }
            // Another indentation.
            3 => lines[at] = format!("{}{}", " ".repeat(random.below(9)), lines[at].trim_start()),
            // A line of another file.
            4 => {
                let other: Vec<&str> = random.choose(corpus).lines().collect();
                lines.insert(at, other.get(random.below(other.len())).copied().unwrap_or_default().to_owned());
            }
            5 => {
                let characters: Vec<char> = lines[at].chars().collect();
                let from = random.below(characters.len() + 1);
                let to = (from + random.below(6)).min(characters.len());
                lines[at] = characters[..from].iter().chain(&characters[to..]).collect();
            }
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                let mut position = random.below(lines[at].len() + 1);
                while !lines[at].is_char_boundary(position) {
                    position -= 1;
                }
                lines[at].insert_str(position, piece);
            }
        }
    }
    lines.join("\n")
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

#[test]
fn the_corpus_itself_survives() {
    for text in corpus() {
        survive(&text);
    }
}

#[test]
fn damaged_files_survive() {
    let corpus = corpus();
    let seed = number("STACK_MUTATION_SEED", 0x5eed_1e55);
    let mut random = Random(seed);
    for case in 0..number("STACK_MUTATIONS", 1_500) {
        let mut input = damaged(&mut random, &corpus);
        if random.below(3) == 0 {
            input = format!("{input}{DIVIDER}{}", damaged(&mut random, &corpus));
            if random.below(2) == 0 {
                input = format!("{input}{DIVIDER}{}", damaged(&mut random, &corpus));
            }
        }
        let start = Instant::now();
        if let Err(panic) = std::panic::catch_unwind(|| survive(&input)) {
            eprintln!("case {case} of seed {seed}:\n{input}");
            std::panic::resume_unwind(panic);
        }
        assert!(start.elapsed() < DEADLINE, "case {case} of seed {seed} took {:?}:\n{input}", start.elapsed());
    }
}

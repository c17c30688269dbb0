//! Any text as a stack file: `cargo +nightly fuzz run stack_file` in `crates/stackfile`.

#![no_main]

#[path = "../../tests/survive/mod.rs"]
mod survive;

libfuzzer_sys::fuzz_target!(|input: &str| survive::survive(input));

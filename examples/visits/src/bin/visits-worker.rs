//! A worker: says every few seconds what it has done so far, until it is asked to end.

use std::io::Write;
use std::time::Duration;

fn main() {
    let every = std::env::var("EVERY").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    for round in 1_u64.. {
        let _ = writeln!(std::io::stdout(), "round {round} is done");
        std::thread::sleep(Duration::from_secs(every));
    }
}

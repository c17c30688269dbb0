//! Many clusters from many seeds. `SIMULATION_SEED=n` replays one; `SIMULATION_SEEDS=n` plays more than usual.

use stack_testkit::simulation::{Settings, Summary, run};

const SEEDS: u64 = 1_200;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn play(faults: bool, seeds: impl Iterator<Item = u64>) -> Summary {
    let mut total = Summary::default();
    for seed in seeds {
        match run(Settings { seed, faults, traced: false }) {
            Ok(summary) => {
                total.entries += summary.entries;
                total.commands += summary.commands;
                total.tasks += summary.tasks;
                total.steps += summary.steps;
                total.faults += summary.faults;
                total.skipped += summary.skipped;
                total.failed_rollouts += summary.failed_rollouts;
                total.unplaced += summary.unplaced;
            }
            Err(violation) => panic!("\n{violation}"),
        }
    }
    total
}

#[test]
fn clusters_heal_from_everything_that_goes_wrong() {
    let seeds = from_environment("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let only = from_environment("SIMULATION_SEED");
    let range = only.map_or(0..seeds, |seed| seed..seed + 1);
    let total = play(true, range);
    println!("{total:?}");
    if only.is_none() {
        assert!(total.faults > seeds * 3 && total.skipped > 0, "the seeds are too tame: {total:?}");
        assert!(total.failed_rollouts > 0 && total.unplaced > 0, "the seeds are too tame: {total:?}");
    }
}

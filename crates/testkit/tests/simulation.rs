//! Many clusters from many seeds. `SIMULATION_SEED=n` replays one; `SIMULATION_SEEDS=n` plays more than usual.

use stack_testkit::simulation::{Settings, Summary, run, run_rollouts};

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

#[test]
fn users_alone_bring_no_cluster_out_of_order() {
    let range = from_environment("SIMULATION_SEED").map_or(0..150, |seed| seed..seed + 1);
    let total = play(false, range);
    assert_eq!(total.faults, 0);
}

#[test]
fn a_rollout_never_takes_more_than_its_policy_allows() {
    let range = from_environment("SIMULATION_SEED").map_or(0..150, |seed| seed..seed + 1);
    for seed in range {
        if let Err(violation) = run_rollouts(seed, false) {
            panic!("\n{violation}");
        }
    }
}

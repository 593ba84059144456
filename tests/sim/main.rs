//! The real pipeline, publisher and ledger in a world that exists only in memory: a seed
//! decides what the database does, when processes crash, freeze and thaw, what Redis
//! refuses, loses and is silent about. After each run the stream is compared with what
//! really happened.
//!
//! `KASHO_SIM_SEEDS=n` runs more seeds, `KASHO_SIM_SEED=s` runs one and prints it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod check;
mod driver;
mod letters;
mod log;
mod process;
mod proof;
mod random;
mod seeds;
mod stations;
mod trace;
mod world;

use std::collections::BTreeMap;

use seeds::simulate;
use stations::Sabotage;

const SEEDS: u64 = 500;

/// What a run of all seeds must have met to be worth anything.
const MET: [&str; 18] = [
    "Closed",
    "LostData",
    "Quiet",
    "crash",
    "fenced",
    "finished by an older generation",
    "former rules put back",
    "half published",
    "letter asked for again",
    "letter forgotten",
    "letter written twice",
    "no room for letters",
    "row came again",
    "row failed again",
    "tail lost inside",
    "tail lost outside",
    "thaw",
    "too many letters",
];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn nothing_is_lost_repeated_or_out_of_order_whatever_happens() {
    let one = number("KASHO_SIM_SEED");
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        None => 0..number("KASHO_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let (mut met, mut failed) = (BTreeMap::<String, u64>::new(), Vec::new());
    for seed in seeds {
        let report = simulate(seed, one.is_some(), Sabotage::None);
        if one.is_some() {
            println!("{}", report.trace.text());
        }
        *met.entry(format!("{:?}", report.end)).or_default() += 1;
        for (what, count) in report.trace.all_met() {
            *met.entry(what.to_owned()).or_default() += count;
        }
        if !report.wrong.is_empty() {
            failed.push(seed);
            println!("seed {seed}:\n{}", report.wrong.join("\n"));
            if failed.len() == 1 {
                println!("{}", report.trace.text());
            }
        }
    }
    println!("{met:#?}");
    if one.is_none() {
        let missing = MET.iter().filter(|what| met.get(**what).is_none_or(|count| *count == 0));
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<&&str>::new(), "was never met");
    }
    assert!(failed.is_empty(), "seeds {failed:?} failed; KASHO_SIM_SEED={} tells more", failed[0]);
}

//! `make bench`: what the engine costs, as ratios to baselines taken in the same run.
//!
//! Every figure is the median of interleaved rounds, with its spread; absolute figures
//! stand beside it. `QUICK=1` takes smaller amounts, `TINY=1` the smallest, `BENCH=drain,memory` picks parts,
//! `CASE="column style, batches of 1"` one figure of the plugin part, to look into.
//! Nothing here fails for being slow: the table says what is reached and what is not.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark stops by panicking")]

#[path = "../e2e"]
mod e2e {
    //! The servers and the engine are those of the end-to-end tests.
    pub(crate) mod harness;
}

mod apply;
mod drain;
mod dump;
mod guest;
mod live;
mod load;
mod memory;
mod plugin;
mod swap;
mod table;
mod verify;

use e2e::harness;
use table::Table;

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    /// `TINY=1`: whether it works at all.
    Tiny,
    /// `QUICK=1`: a first impression.
    Quick,
    /// What the README tells.
    Whole,
}

fn size() -> Size {
    let set = |name: &str| std::env::var(name).is_ok_and(|v| v == "1");
    match (set("TINY"), set("QUICK")) {
        (true, _) => Size::Tiny,
        (false, true) => Size::Quick,
        (false, false) => Size::Whole,
    }
}

/// One of three amounts.
fn amount<T>(tiny: T, quick: T, whole: T) -> T {
    match size() {
        Size::Tiny => tiny,
        Size::Quick => quick,
        Size::Whole => whole,
    }
}

fn wanted(part: &str) -> bool {
    std::env::var("BENCH").map_or(true, |parts| parts.split(',').any(|p| p == part))
}

#[tokio::main]
async fn main() {
    let mut table = Table::default();
    if wanted("plugin") {
        plugin::run(&mut table);
    }
    if wanted("dump") {
        dump::run(&mut table);
    }
    if wanted("drain") {
        drain::run(&mut table).await;
    }
    if wanted("swap") {
        swap::run(&mut table).await;
    }
    if wanted("load") {
        load::run(&mut table).await;
    }
    if wanted("apply") {
        apply::run(&mut table).await;
    }
    if wanted("live") {
        live::run(&mut table).await;
    }
    if wanted("verify") {
        verify::run(&mut table).await;
    }
    if wanted("memory") {
        memory::run(&mut table).await;
    }
    table.print();
}

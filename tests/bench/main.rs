//! `make bench`: what the engine costs, as ratios to baselines taken in the same run.
//!
//! Every figure is the median of interleaved rounds, with its spread; absolute figures
//! stand beside it. `QUICK=1` takes smaller amounts, `BENCH=drain,memory` picks parts.
//! Nothing here fails for being slow: the table says what is reached and what is not.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark stops by panicking")]

#[path = "../e2e/harness.rs"]
mod harness;

mod drain;
mod memory;
mod plugin;
mod table;

use table::Table;

/// Amounts for a whole run, or for a quick one.
fn quick() -> bool {
    std::env::var("QUICK").is_ok_and(|v| v == "1")
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
    if wanted("drain") {
        drain::run(&mut table).await;
    }
    if wanted("memory") {
        memory::run(&mut table).await;
    }
    table.print();
}

//! `kasho plugin bench`: what a row costs at 1, 16, 256 and 1024 rows a call, and how much
//! of each limit that takes.
//!
//! Times are those of the whole way through the chain, the host's work included, the best
//! of several rounds: figures to compare with others of the same machine. Instructions are
//! counted in a second run, because counting costs time, and are the same on every machine.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kasho_plugin_sdk::fixture::{FixtureFile, FixtureRow};

use super::run::Loaded;
use super::{Place, build, grouped, test};
use crate::transform::{Binding, Host, Meter};

/// Rows of a call.
const SIZES: [usize; 4] = [1, 16, 256, 1024];
/// Rounds, of which the best counts.
const ROUNDS: usize = 5;
/// How long a round is, about.
const ROUND: Duration = Duration::from_millis(40);

/// Measures, and prints a table for each fixture.
pub(super) fn run(place: &Place) -> anyhow::Result<()> {
    let (wasm, fixtures) = build::ready(place)?;
    let files = FixtureFile::read_folder(&fixtures).map_err(anyhow::Error::msg)?;
    let (clock, counter) = (Arc::new(Meter::new(false)), Arc::new(Meter::new(true)));
    let started = Instant::now();
    let host = Host::of_tools(Arc::clone(&clock)).map_err(anyhow::Error::msg)?;
    let counting = Host::of_tools(Arc::clone(&counter)).map_err(anyhow::Error::msg)?;
    if cfg!(debug_assertions) {
        println!("This kasho is a debug build: the host's part of the times is far too high.");
    }
    let mut limits = Limits::new(&wasm)?;
    let mut measured = false;
    for (name, file) in files.iter().filter(|(_, file)| file.refused.is_none()) {
        let rows = test::sound(file);
        if rows.is_empty() {
            continue;
        }
        measured = true;
        println!("{name}: {} of {}", of_rows(rows.len()), file.tables[0].qualified());
        println!("{:>6} {:>12} {:>20}", "rows", "ns a row", "instructions a row");
        let mut timed = load(&host, &wasm, file)?;
        limits.started.get_or_insert_with(|| started.elapsed());
        let mut counted = load(&counting, &wasm, file)?;
        for size in SIZES {
            let all: Vec<&FixtureRow> = rows.iter().copied().cycle().take(size).collect();
            let best = best(&mut timed, &all).with_context(|| name.clone())?;
            limits.note(&clock.take(), size);
            let batch = &mut counted.batch(&all);
            let _ = counter.take();
            counted.apply(batch).with_context(|| name.clone())?;
            let instructions = counter.take().instructions as f64 / size as f64;
            println!("{size:>6} {:>12.1} {instructions:>20.1}", best);
        }
    }
    if !measured {
        bail!("no fixture has rows that are not in error: there is nothing to repeat");
    }
    limits.print();
    Ok(())
}

fn of_rows(rows: usize) -> String {
    if rows == 1 { "1 row, repeated".to_owned() } else { format!("{rows} rows, repeated") }
}

fn load(host: &Arc<Host>, wasm: &Path, file: &FixtureFile) -> anyhow::Result<Loaded> {
    Loaded::new(host, wasm, file).map_err(|e| anyhow::anyhow!("the plugin is not loaded: {e}"))
}

/// Nanoseconds a row, of the best round.
fn best(loaded: &mut Loaded, rows: &[&FixtureRow]) -> anyhow::Result<f64> {
    let template = loaded.batch(rows);
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let (mut spent, mut calls) = (Duration::ZERO, 0_u32);
        while spent < ROUND {
            let mut batch = template.clone();
            let started = Instant::now();
            loaded.apply(&mut batch)?;
            spent += started.elapsed();
            calls += 1;
        }
        best = best.min(spent.as_nanos() as f64 / f64::from(calls) / rows.len() as f64);
    }
    Ok(best)
}

/// How much of a binding's defaults was used.
struct Limits {
    file: u64,
    memory: u64,
    longest: u64,
    rows: usize,
    started: Option<Duration>,
}

impl Limits {
    fn new(wasm: &Path) -> anyhow::Result<Limits> {
        let file = std::fs::metadata(wasm).with_context(|| wasm.display().to_string())?.len();
        Ok(Limits { file, memory: 0, longest: 0, rows: 0, started: None })
    }

    fn note(&mut self, measured: &crate::transform::Measured, rows: usize) {
        self.memory = self.memory.max(measured.memory);
        if measured.longest > self.longest {
            (self.longest, self.rows) = (measured.longest, rows);
        }
    }

    fn print(&self) {
        let may = Binding::new("", "", &[]);
        let share = |is: f64, may: f64| format!("{:.1} %", 100.0 * is / may);
        let mib = f64::from(1 << 20);
        println!("limits, of a binding's defaults:");
        let (is, most) = (self.memory as f64 / mib, f64::from(may.memory_mib));
        println!("  memory    {is:>9.2} MiB  {:>8} of memory_mib = {most}", share(is, most));
        let (is, most) = (self.longest as f64 / 1e6, f64::from(may.deadline_ms));
        let rows = self.rows;
        println!(
            "  one call  {is:>9.2} ms   {:>8} of deadline_ms = {most} (the longest, {rows} rows)",
            share(is, most)
        );
        let (is, most) = (self.file as f64 / mib, f64::from(may.max_file_mib));
        println!(
            "  file      {is:>9.2} MiB  {:>8} of max_file_mib = {most} ({} bytes)",
            share(is, most),
            grouped(self.file)
        );
        let started = self.started.unwrap_or_default().as_secs_f64() * 1e3;
        println!("  start     {started:>9.1} ms   compiled, initialised, told of its tables");
    }
}

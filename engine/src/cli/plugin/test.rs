//! `kasho plugin test`: every fixture through the real host, each row alone and all of them
//! together, with the instructions that it took.
//!
//! What does not hold is told with file, line, table, operation and values: this is test
//! data. The exit code is that of the tests.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use kasho_plugin_sdk::fixture::{Became, Expected, FixtureFile, FixtureRow};

use super::project::{Language, Project};
use super::run::Loaded;
use super::{Place, build, compile, grouped};
use crate::transform::{Host, Meter};

/// Runs the fixtures in WebAssembly, then the native tests of a plugin in Rust.
pub(super) fn run(place: &Place, wasm_only: bool) -> anyhow::Result<()> {
    let (wasm, fixtures) = build::ready(place)?;
    let files = FixtureFile::read_folder(&fixtures).map_err(anyhow::Error::msg)?;
    let meter = Arc::new(Meter::new(true));
    let host = Host::of_tools(Arc::clone(&meter)).map_err(anyhow::Error::msg)?;
    let (mut wrong, mut rows) = (0, 0);
    for (name, file) in &files {
        let tested = test(&host, &meter, &wasm, file);
        let many = if file.rows.len() == 1 { "row" } else { "rows" };
        println!("{name}: {} {many}{}", file.rows.len(), tested.cost);
        for line in tested.said {
            println!("  log: {line}");
        }
        for line in &tested.wrong {
            println!("{name}:{line}");
        }
        wrong += tested.wrong.len();
        rows += file.rows.len();
    }
    if wrong > 0 {
        bail!("{wrong} of what the fixtures say does not hold");
    }
    println!("{rows} rows of {} fixtures hold in WebAssembly", files.len());
    let native = place.wasm.is_none() && !wasm_only;
    if native && Project::open(&place.folder)?.language == Language::Rust {
        compile::native_tests(&place.folder).context("the fixtures hold in WebAssembly")?;
        println!("the native tests hold");
    }
    Ok(())
}

/// What came of one file.
#[derive(Default)]
struct Tested {
    /// `line: what is wrong`.
    wrong: Vec<String>,
    /// What it took, for the line that names the file.
    cost: String,
    /// What the plugin logged.
    said: Vec<String>,
}

fn test(host: &Arc<Host>, meter: &Meter, wasm: &Path, file: &FixtureFile) -> Tested {
    let mut tested = Tested::default();
    let mut loaded = match (Loaded::new(host, wasm, file), &file.refused) {
        (Ok(loaded), None) => loaded,
        (Err(text), Some(want)) if text.contains(want) => return tested,
        (Err(text), Some(want)) => {
            tested.wrong.push(format!("1: refused: {text}, and not: {want}"));
            return tested;
        }
        (Err(text), None) => {
            tested.wrong.push(format!("1: the plugin is not loaded: {text}"));
            return tested;
        }
        (Ok(_), Some(want)) => {
            tested.wrong.push(format!("1: the plugin takes it, and should have refused: {want}"));
            return tested;
        }
    };
    let alone: Vec<Became> = file.rows.iter().map(|row| loaded.send_alone(row)).collect();
    for (row, became) in file.rows.iter().zip(&alone) {
        if let Err(text) = row.judge(&file.tables[row.table], became) {
            tested.wrong.push(told(row, file, &text));
        }
    }
    tested.said = meter.take().said;
    // A row in error stops its batch, as it would stop the stream.
    let error = |became: &Became| matches!(became, Became::Error(_));
    let rows = file.rows.iter().zip(&alone).filter(|(_, became)| !error(became));
    let (rows, alone): (Vec<&FixtureRow>, Vec<&Became>) = rows.unzip();
    match loaded.send(&rows) {
        // What stops it is among the failed calls, or not the plugin's.
        Err(error) => tested.wrong.push(format!("1: all rows together: {error}")),
        Ok(together) => {
            let other = rows.iter().zip(alone).zip(&together).filter(|((_, a), t)| *a != *t);
            tested.wrong.extend(other.map(|((row, _), _)| {
                told(
                    row,
                    file,
                    "among others it becomes something else than alone: rows are independent",
                )
            }));
        }
    }
    let measured = meter.take();
    // The chain would go on, halving the rows until each stands alone.
    if let Some(failed) = measured.failed.first() {
        tested.wrong.push(format!("1: all rows together, in one call: {failed}"));
    }
    cost(&mut tested, measured.instructions, rows.len(), file.fuel);
    tested
}

fn cost(tested: &mut Tested, instructions: u64, rows: usize, most: Option<u64>) {
    if rows == 0 {
        return;
    }
    let shown = grouped(instructions);
    tested.cost = match most {
        Some(most) => format!(", {shown} instructions of {}", grouped(most)),
        None => format!(", {shown} instructions"),
    };
    if let Some(most) = most.filter(|most| instructions > *most) {
        let most = grouped(most);
        tested.wrong.push(format!("1: {shown} instructions, and fuel = {most} is the budget"));
    }
}

fn told(row: &FixtureRow, file: &FixtureFile, text: &str) -> String {
    let (op, table) = (row.op.name(), file.tables[row.table].qualified());
    format!("{}: {op} of {table}: {text}", row.line)
}

/// The rows of a file that a benchmark repeats: those of its first table that go on or are
/// dropped.
pub(super) fn sound(file: &FixtureFile) -> Vec<&FixtureRow> {
    let sound = |row: &&FixtureRow| {
        row.table == 0
            && !matches!(row.expected, Expected::Error(_))
            && row.op != kasho_plugin_sdk::Op::Truncate
    };
    file.rows.iter().filter(sound).collect()
}

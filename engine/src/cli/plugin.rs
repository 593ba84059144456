//! `kasho plugin …`: what an author of plugins needs, in any folder and without a server;
//! and the plugins of the running engine ([`generations`]).
//!
//! Test data is all that an author's commands run, so they print what the service withholds:
//! a guest's own words, and values. What goes wrong is a toolchain that is missing (told with
//! how to get it), a project that does not build, a fixture that does not hold.

mod bench;
mod build;
mod compile;
mod create;
mod look;
mod project;
mod run;
mod sdk;
mod test;

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::generations;

pub use project::Language;

/// What to do with a plugin.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a plugin: a folder that builds and passes its test at once.
    New {
        /// Its name, and that of the folder: lower case letters, digits and dashes.
        name: String,
        /// The language to write it in.
        #[arg(long, value_enum, default_value = "rust")]
        lang: Language,
    },
    /// Build it: right target and flags, names kept, fixtures and metadata in the file.
    Build(Place),
    /// Build it and run its fixtures in WebAssembly, through the real host; of a plugin in
    /// Rust its native tests, too.
    Test {
        /// Where it is.
        #[command(flatten)]
        place: Place,
        /// Leave the native tests out.
        #[arg(long)]
        wasm_only: bool,
    },
    /// Build it and measure it: time and instructions a row, share of each limit.
    Bench(Place),
    /// List the plugins in force, since when they are, and what was refused last.
    List(generations::List),
    /// Confirm a candidate that was refused, or have the plugins in force finish a transaction
    /// that earlier ones began and cannot.
    Accept(generations::Accept),
    /// Look at a `.wasm` file without running any of it.
    Inspect {
        /// The file.
        file: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Where a plugin is.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The plugin's folder.
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Take this file and build nothing; the folder has the fixtures.
    #[arg(long, value_name = "FILE")]
    wasm: Option<PathBuf>,
}

/// Does it.
///
/// # Errors
/// Whatever keeps it from being done, and fixtures that do not hold.
pub fn run(command: &Command, config: &Path) -> anyhow::Result<()> {
    match command {
        Command::New { name, lang } => create::run(name, *lang),
        Command::Build(place) => build::run(place),
        Command::Test { place, wasm_only } => test::run(place, *wasm_only),
        Command::Bench(place) => bench::run(place),
        Command::Inspect { file, json } => look::run(file, *json),
        Command::List(arguments) => generations::list(arguments, config),
        Command::Accept(arguments) => generations::accept(arguments, config),
    }
}

/// `12345` as `12,345`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_grouped() {
        let shown = [0, 999, 1_000, 12_345, 1_234_567].map(super::grouped);
        assert_eq!(shown, ["0", "999", "1,000", "12,345", "1,234,567"]);
    }
}

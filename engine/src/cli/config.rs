//! `kasho config`: is the file right? Touches no server.

use std::path::Path;

use anyhow::anyhow;
use clap::Subcommand;

use crate::config::Config;
use crate::transform::Binding;

/// Commands on the configuration file.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell everything that is wrong with the file, with line and column.
    Check,
}

/// Runs the command on the file at `path`.
///
/// # Errors
/// What is wrong with the file.
pub fn run(command: &Command, path: &Path) -> anyhow::Result<()> {
    match command {
        Command::Check => check(path),
    }
}

fn check(path: &Path) -> anyhow::Result<()> {
    let config = Config::load(path).map_err(|errors| {
        let count = errors.problems.len();
        let problems = if count == 1 { "problem" } else { "problems" };
        anyhow!("the configuration has {count} {problems}:\n{errors}")
    })?;
    println!("{}: right", path.display());
    for binding in &config.transform {
        let Binding { name, plugin, tables, rename, .. } = binding;
        if !plugin.is_empty() {
            println!("  transform {name}: {plugin} on {}", tables.join(", "));
        }
        for (from, to) in rename {
            println!("  transform {name}: {from} leaves as {to}");
        }
    }
    Ok(())
}

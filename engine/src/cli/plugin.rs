//! `kasho plugin …`: the plugins of the running engine. What can go wrong is told by each
//! command.

use std::path::Path;

use clap::Subcommand;

use super::generations;

/// What to do with plugins.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the plugins in force, since when they are, and what was refused last.
    List(generations::List),
    /// Confirm a candidate that was refused, or have the plugins in force finish a transaction
    /// that earlier ones began and cannot.
    Accept(generations::Accept),
}

/// Does it.
///
/// # Errors
/// Whatever keeps it from being done.
pub fn run(command: &Command, config: &Path) -> anyhow::Result<()> {
    match command {
        Command::List(arguments) => generations::list(arguments, config),
        Command::Accept(arguments) => generations::accept(arguments, config),
    }
}

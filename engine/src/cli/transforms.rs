//! `kasho transforms …`: what whoever writes rules needs. Publishes nothing.
//!
//! What goes wrong is told on standard error; what is asked for goes to standard output,
//! so that it can be kept.

mod coverage;
mod detokenize;
mod import;
mod list;
mod trial;

use std::path::Path;
use std::sync::Arc;

use anyhow::anyhow;
use clap::Subcommand;

use crate::config::Config;
use crate::engine::chain_catalog;
use crate::source::catalog::Catalog;
use crate::source::conninfo::{Conninfo, sql_connect};
use crate::source::wal::conninfo;
use crate::transform::{self, Host, LoadError};

/// What to do with transforms and rules.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell the transforms of the plugins in the folder, each with an example.
    List(list::Arguments),
    /// Turn the original's transforms.yml into a configuration, and tell what that lacks.
    Import(import::Arguments),
    /// Tell which tables and columns have no rule, as TOML to paste.
    Coverage(coverage::Arguments),
    /// Pass some rows through the configured plugins, and show what would leave.
    Try(trial::Arguments),
    /// Turn tokens of the plugin tokenize back into values.
    Detokenize(detokenize::Arguments),
}

/// Does it, with the configuration at `path` where it needs one.
///
/// # Errors
/// Whatever keeps it from being done, and what is missing.
pub fn run(command: &Command, path: &Path) -> anyhow::Result<()> {
    match command {
        Command::List(arguments) => list::run(arguments, path),
        Command::Import(arguments) => import::run(arguments),
        Command::Coverage(arguments) => super::block_on(coverage::run(arguments, path)),
        Command::Try(arguments) => super::block_on(trial::run(arguments, path)),
        Command::Detokenize(arguments) => detokenize::run(arguments, path),
    }
}

/// The source's tables and the rules, without what else a service needs.
struct Rules {
    info: Conninfo,
    catalog: Catalog,
    tables: transform::Catalog,
    config: transform::Config,
    host: Arc<Host>,
}

impl Rules {
    async fn load(path: &Path) -> anyhow::Result<Rules> {
        let parts = ["source", "keys", "transform", "plugins", "unruled_tables", "allow_unmasked"];
        let config = Config::load_parts(path, &parts).map_err(|errors| anyhow!("{errors}"))?;
        let info = conninfo(&config.source)?;
        let client = sql_connect(&info, "kasho transforms").await?;
        let catalog = Catalog::read(&client, &config.source.publications).await?;
        let host = Host::new(None).map_err(|text| anyhow!("plugins: {text}"))?;
        let tables = chain_catalog(&catalog, true);
        Ok(Rules { info, catalog, tables, config: config.chain(), host })
    }
}

/// All that is wrong with rules, a line each.
fn told(errors: &[LoadError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Text of a stranger's, for a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

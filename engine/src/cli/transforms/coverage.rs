//! `kasho transforms coverage`: which tables and columns have no rule, as TOML to paste.
//!
//! What is printed is refused as it stands: each `"?"` is somebody's decision. Ends with an
//! error while anything is missing, so that it can stand before a deployment.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{anyhow, bail};
use clap::Args;
use kasho_plugin_sdk::event::quote_identifier;

use super::{Rules, told};
use crate::transform::{self, Missing};

/// Arguments of `kasho transforms coverage`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// What to write as every rule, in place of "?".
    #[arg(long, default_value = "?")]
    rule: String,
}

/// Prints what is missing.
///
/// # Errors
/// Something is, or is wrong.
pub(super) async fn run(arguments: &Arguments, path: &Path) -> anyhow::Result<()> {
    let Rules { host, config, tables, .. } = Rules::load(path).await?;
    let (missing, others) = transform::missing(&host, &config, &tables)
        .map_err(|errors| anyhow!("{}", told(&errors)))?;
    print!("{}", paste(&missing, &arguments.rule));
    if !others.is_empty() {
        bail!("{}", told(&others));
    }
    let columns: usize = missing.iter().map(|missing| missing.columns.len()).sum();
    if columns > 0 {
        bail!("{columns} columns of {} tables have no rule", missing.len());
    }
    println!("every column of {} tables has a rule, or needs none", tables.relations.len());
    Ok(())
}

fn paste(missing: &[Missing], rule: &str) -> String {
    let mut out = String::new();
    for table in missing {
        let name = table.relation.qualified();
        let _ = match table.bindings.as_slice() {
            [] => writeln!(
                out,
                "# {name}: no transform names it. Put it into `tables` of one, with these under its\n\
                 # [transform.rules], or decide about all such tables: unruled_tables = \"drop\""
            ),
            names => writeln!(out, "# {name}: under [transform.rules] of {}", names.join(" or ")),
        };
        for column in table.columns() {
            let path = format!("{name}.{}", quote_identifier(&column.name));
            let (path, rule) = (toml::Value::String(path), toml::Value::String(rule.to_owned()));
            let key = if column.key { ", identifies rows" } else { "" };
            let _ =
                writeln!(out, "{path} = {rule}  # {}{key}", super::printable(&column.type_name));
        }
        out.push('\n');
    }
    out
}

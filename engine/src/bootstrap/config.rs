//! `[bootstrap]` of the configuration file: how the initial data is read. What can go
//! wrong: values that make no sense, which `Config::invalid` names all at once.

use std::path::PathBuf;

use serde::Deserialize;

use crate::config::{Findings, Size};

/// `[bootstrap]`: the initial load.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Connections that load at once.
    pub workers: u32,
    /// A table is split into ranges of about this many MiB.
    pub range_mib: u64,
    /// Ceiling of what is read from the source in a second, in bytes; 0 = none.
    pub max_rate: Size,
    /// The target is filled by other means: stream from the consistent point, load nothing.
    pub no_initial_data: bool,
    /// What happens to tables of which the stream alone does not bring every row.
    pub missing_rows: MissingRows,
    /// Where `kasho bootstrap --dump` writes its dump.
    pub state_dir: PathBuf,
}

/// `bootstrap.missing_rows`: what happens to a table that joins the publication with rows, or
/// whose rows a schema change makes anew. What is loaded is known by its name: one that gets
/// another name of which no event trigger tells counts as one that joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingRows {
    /// The status names it, and `kasho bootstrap --table` loads it.
    Report,
    /// It is loaded, at a load point of its own.
    Load,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            workers: 2,
            range_mib: 256,
            max_rate: Size(0),
            no_initial_data: false,
            missing_rows: MissingRows::Report,
            state_dir: PathBuf::from("/var/lib/kasho"),
        }
    }
}

impl Config {
    /// What makes no sense.
    pub(crate) fn invalid(&self) -> Findings {
        let mut found = Findings::default();
        found.above_zero(&[("workers", u64::from(self.workers)), ("range_mib", self.range_mib)]);
        found
    }
}

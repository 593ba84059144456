//! The sections of the file: what can be set, in which unit, and to what it defaults.
//!
//! `config/kasho.toml` shows the same to operators; a test compares the two.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::read::VERBATIM;
use super::secret::KeyConfig;

/// `[plugins]`: where plugins are and what is kept of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PluginsConfig {
    /// The folder of the `.wasm` files.
    pub folder: PathBuf,
    /// Where the generations in use and compiled code are kept.
    pub store: PathBuf,
    /// Between two looks at the files, beside the notices of the operating system.
    pub poll_ms: u64,
}

impl Default for PluginsConfig {
    fn default() -> PluginsConfig {
        PluginsConfig { folder: "plugins".into(), store: "store".into(), poll_ms: 2_000 }
    }
}

/// `unruled_tables`: what happens to a row of a table that no binding names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unruled {
    /// Nothing passes until somebody decided.
    Halt,
    /// Its rows are left out.
    Drop,
    /// Its rows leave as they are. Needs `allow_unmasked = true`.
    Pass,
}

/// `[keys]`: masking keys by name.
pub type Keys = BTreeMap<String, KeyConfig>;

/// `[[transform]]`: a plugin attached to tables.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Binding {
    /// Its name in logs, status and dead letters.
    pub name: String,
    /// The file in the plugin folder.
    pub plugin: String,
    /// Digest that the file must have, in hexadecimal.
    #[serde(default)]
    pub sha256: Option<String>,
    /// `schema.table`, or `schema.*`.
    pub tables: Vec<String>,
    /// What an error verdict of a row does.
    #[serde(default)]
    pub on_error: OnError,
    /// What a column does that no rule names.
    #[serde(default)]
    pub new_columns: NewColumns,
    /// Rows may leave unmasked where this binding says `pass`.
    #[serde(default)]
    pub allow_unmasked: bool,
    /// A filter that reads other than identity columns: inserts only.
    #[serde(default)]
    pub insert_only: bool,
    /// Ceiling of the plugin's memory, in MiB.
    #[serde(default = "default_memory_mib")]
    pub memory_mib: u32,
    /// Ceiling of a call's time, beside what the plugin declares for each row.
    #[serde(default = "default_deadline_ms")]
    pub deadline_ms: u64,
    /// Ceiling of the rows in a call.
    #[serde(default = "default_max_rows")]
    pub max_rows: u32,
    /// The plugin's own configuration, given to it as it stands.
    #[serde(default)]
    pub rules: Rules,
}

fn default_memory_mib() -> u32 {
    64
}

fn default_deadline_ms() -> u64 {
    100
}

fn default_max_rows() -> u32 {
    1024
}

/// `on_error`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Nothing more is acknowledged until somebody decided.
    #[default]
    Halt,
    /// The row goes to the dead letters.
    DeadLetter,
    /// The row is left out.
    Drop,
    /// The row leaves as it is. Needs `allow_unmasked = true`.
    Pass,
}

/// `new_columns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NewColumns {
    /// Nothing of the table passes until a rule names the column.
    #[default]
    Halt,
    /// Its values are NULL.
    Null,
    /// Its values leave as they are. Needs `allow_unmasked = true`.
    Pass,
}

/// A plugin's own configuration. Its texts stand as written, `${…}` included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules(pub serde_json::Map<String, serde_json::Value>);

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Rules, D::Error> {
        struct Inner;
        impl<'de> Visitor<'de> for Inner {
            type Value = Rules;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                from: D,
            ) -> Result<Rules, D::Error> {
                serde_json::Map::deserialize(from).map(Rules)
            }
        }
        from.deserialize_newtype_struct(VERBATIM, Inner)
    }
}

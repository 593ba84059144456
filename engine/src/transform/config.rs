//! The station's part of the configuration file. What a rule means is the plugin's
//! business: rules are handed to it as they stand. What can go wrong: values that make no
//! sense, which [`Config::check`] names all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use kasho_plugin_sdk::pattern::TablePattern;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::config::{Findings, verbatim};

use super::ddl::Ddl;
use super::places::Places;
use super::{called, rename};

/// Top-level settings and tables of the file that belong to this station.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What becomes of a table that no binding names. Unset: `halt` as soon as any binding
    /// masks or drops a column, `pass` otherwise.
    pub unruled_tables: Option<Unruled>,
    /// Which schema changes leave. Unset: `structural` as soon as any binding masks or drops a
    /// column, `text` otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ddl: Option<Ddl>,
    /// Must be true for `unruled_tables = "pass"`, and for `ddl = "text"` beside masks.
    pub allow_unmasked: bool,
    /// Confirms that columns this file passes by name may leave although the generation
    /// before masked them.
    pub accept_unmask: bool,
    /// Digest of the one candidate that is confirmed: it may let out what it passes by name,
    /// and map identities otherwise. A refusal tells it; the digest is not of this setting.
    pub accept: Option<String>,
    /// Masking keys by name.
    pub keys: BTreeMap<String, KeySource>,
    /// What the keys of rows that are set aside are sealed under.
    pub dead_letter_key: Option<KeySource>,
    /// The bindings, in the order rows pass them.
    pub transform: Vec<Binding>,
    /// Where plugins are.
    pub plugins: Plugins,
}

/// What becomes of a table that nobody named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unruled {
    /// Its first row stops the stream.
    Halt,
    /// Its rows are dropped.
    Drop,
    /// Its rows pass as they are.
    Pass,
}

/// Where a masking key is: 32 bytes, raw, in hexadecimal or in base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeySource {
    /// In this file.
    File(PathBuf),
    /// In this environment variable (hexadecimal or base64).
    Env(String),
}

/// `[plugins]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plugins {
    /// Folder of the `.wasm` files.
    pub folder: PathBuf,
    /// Folder for compiled code and kept generations, private to the service's user.
    pub store: PathBuf,
    /// How often the folder's content is compared, milliseconds, beside file events.
    pub poll_ms: u64,
    /// Generations that are kept beside those that the checkpoint names.
    pub keep: u32,
    /// Recent rows of a relation that are held in memory, for a candidate to be tried on.
    pub probe_rows: u32,
    /// What happens when a new generation stops the stream.
    pub on_regression: OnRegression,
}

/// What happens when a generation that has just been taken over fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRegression {
    /// The stream stops until a person mends it.
    #[default]
    Halt,
    /// The generation before goes on, if it covers all that the failed one does.
    Rollback,
}

/// Most rows of a relation to be held for probes.
const MOST_PROBE_ROWS: u32 = 1_024;

impl Default for Plugins {
    fn default() -> Self {
        Plugins {
            folder: PathBuf::from("plugins"),
            store: PathBuf::from("store"),
            poll_ms: 2_000,
            keep: 8,
            probe_rows: 64,
            on_regression: OnRegression::default(),
        }
    }
}

/// What happens to a row that a plugin says is in error, or fails on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The stream stops before it.
    #[default]
    Halt,
    /// It is set aside: its key is kept, sealed, until it is retried. Needs
    /// `dead_letter_key` and `allow_misses`.
    DeadLetter,
    /// It is lost; needs `allow_misses`.
    Drop,
    /// It passes as it is; needs `allow_unmasked`.
    Pass,
}

/// What becomes of a column that no rule names, in a table that is ruled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NewColumns {
    /// It passes as it is; needs `allow_unmasked`.
    Pass,
    /// It leaves as NULL.
    Null,
    /// The stream stops.
    #[default]
    Halt,
}

/// `[[transform]]`: a plugin, attached to tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// Name, for messages and figures; unique.
    pub name: String,
    /// File in the plugin folder. Without one the binding only renames.
    #[serde(default)]
    pub plugin: String,
    /// SHA-256 of that file, hexadecimal: no other content is taken.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Patterns `schema.table`, `*` for any run of characters.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Names that tables (`schema.table`) and columns leave under, by their source names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rename: BTreeMap<String, String>,
    /// Policy for a row in error.
    #[serde(default)]
    pub on_error: OnError,
    /// Policy for columns without a rule.
    #[serde(default)]
    pub new_columns: NewColumns,
    /// Must be true for the two policies `pass`.
    #[serde(default)]
    pub allow_unmasked: bool,
    /// Confirms that whoever applies these tables takes an insert of a row that is there, and a
    /// change of one that is not, as `kasho apply` does: rows may be lost here.
    #[serde(default)]
    pub allow_misses: bool,
    /// Name of the masking key; unset: the only one there is.
    #[serde(default)]
    pub key: Option<String>,
    /// Most linear memory, MiB.
    #[serde(default = "memory_mib")]
    pub memory_mib: u32,
    /// Most time of one call, milliseconds.
    #[serde(default = "deadline_ms")]
    pub deadline_ms: u32,
    /// Most time of the first call, milliseconds.
    #[serde(default = "init_ms")]
    pub init_ms: u32,
    /// Most rows of one call.
    #[serde(default = "max_rows")]
    pub max_rows: u32,
    /// Largest `.wasm` file, MiB.
    #[serde(default = "max_file_mib")]
    pub max_file_mib: u32,
    /// Other names that columns of the rules may have, by `schema.table.column`: of all its
    /// names the table has one.
    #[serde(default)]
    pub also_called: BTreeMap<String, Vec<String>>,
    /// Whether the plugin may have the little of WASI that Go cannot do without.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wasi: bool,
    /// The plugin's own configuration.
    #[serde(default, deserialize_with = "verbatim")]
    pub rules: toml::Table,
    /// Where those stand.
    #[serde(skip)]
    pub places: Places,
}

fn memory_mib() -> u32 {
    64
}
fn deadline_ms() -> u32 {
    100
}
fn init_ms() -> u32 {
    1_000
}
fn max_rows() -> u32 {
    1_024
}
fn max_file_mib() -> u32 {
    16
}

const A_KEY: &str = "{ file = \"…\" } or { env = \"VARIABLE\" }";

impl<'de> Deserialize<'de> for KeySource {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<KeySource, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = KeySource;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(A_KEY)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<KeySource, A::Error> {
                let wrong = || A::Error::custom(format!("a key is {A_KEY}"));
                let source = match map.next_key::<String>()?.as_deref() {
                    Some("file") => KeySource::File(map.next_value()?),
                    Some("env") => KeySource::Env(map.next_value()?),
                    _ => return Err(wrong()),
                };
                map.next_key::<String>()?.map_or(Ok(source), |_| Err(wrong()))
            }
        }
        from.deserialize_any(Table)
    }
}

impl Config {
    /// The bindings that have a plugin.
    pub(super) fn plugged(&self) -> impl Iterator<Item = &Binding> {
        self.transform.iter().filter(|binding| !binding.plugin.is_empty())
    }

    /// What makes no sense, whatever the plugins and tables are: the binding it is about
    /// (by its place in [`Config::transform`]), the setting, what is wrong.
    pub(super) fn check(&self) -> Vec<(Option<usize>, String, String)> {
        let mut wrong = Vec::new();
        if self.unruled_tables == Some(Unruled::Pass) && !self.allow_unmasked {
            let text = "\"pass\" lets tables out as they are: say allow_unmasked = true beside it";
            wrong.push((None, "unruled_tables".to_owned(), text.to_owned()));
        }
        let mut names = BTreeSet::new();
        for (i, binding) in self.transform.iter().enumerate() {
            let mut found = binding.check();
            if binding.on_error == OnError::DeadLetter && self.dead_letter_key.is_none() {
                let text = "\"dead_letter\" keeps the keys of rows, sealed: set dead_letter_key = \
                            { file = \"…\" } at the top of the file (`openssl rand -hex 32` makes one)";
                found.wrong("on_error", text);
            }
            if binding.name.is_empty() || !names.insert(&binding.name) {
                found.wrong(
                    "name",
                    "every transform needs a name of its own: give it one that no other has",
                );
            }
            match &binding.key {
                Some(name) if !self.keys.contains_key(name) => {
                    found.wrong(
                        "key",
                        "there is no key of this name under [keys]: mend the name, or add it there",
                    );
                }
                None if self.keys.len() > 1 => {
                    found.wrong(
                        "key",
                        "there are several keys under [keys]: say which, key = \"…\"",
                    );
                }
                _ => {}
            }
            wrong.extend(found.into_iter().map(|(at, text)| (Some(i), at, text)));
        }
        let twice = rename::conflicts(&self.transform).into_iter();
        wrong.extend(twice.map(|(i, from, text)| (Some(i), format!("rename.{from}"), text)));
        wrong
    }

    /// [`Config::check`] by the keys of the file.
    pub(crate) fn invalid(&self) -> Findings {
        let mut found = Findings::default();
        let Plugins { poll_ms, keep, probe_rows, .. } = self.plugins;
        found.above_zero(&[("plugins.poll_ms", poll_ms), ("plugins.keep", u64::from(keep))]);
        let text = format!("must be at most {MOST_PROBE_ROWS} (0 = none)");
        found.must(probe_rows <= MOST_PROBE_ROWS, "plugins.probe_rows", &text);
        for (binding, at, text) in self.check() {
            found.wrong(binding.map_or(at.clone(), |i| format!("transform[{i}].{at}")), text);
        }
        found
    }
}

impl Binding {
    fn check(&self) -> Findings {
        let mut found = Findings::default();
        let text = "\"pass\" lets rows out as they are: say allow_unmasked = true beside it";
        let may = |pass: bool| !pass || self.allow_unmasked;
        found.must(may(self.on_error == OnError::Pass), "on_error", text);
        let loses = matches!(self.on_error, OnError::Drop | OnError::DeadLetter);
        let text = "leaves rows out whose later changes will miss: whoever applies these tables has to \
                    take that (`kasho apply` does); say allow_misses = true beside it";
        let word = if self.on_error == OnError::Drop { "drop" } else { "dead_letter" };
        found.must(!loses || self.allow_misses, "on_error", &format!("\"{word}\" {text}"));
        let text = "\"pass\" lets columns out as they are: say allow_unmasked = true beside it";
        found.must(may(self.new_columns == NewColumns::Pass), "new_columns", text);
        if self.plugin.is_empty() {
            let renames = !self.rename.is_empty() && self.rules.is_empty();
            let text = "names no file: name one in the plugin folder, or give [transform.rename] and no rules";
            found.must(renames, "plugin", text);
        } else {
            let text = "names no table, so it would do nothing: write [\"schema.table\"]";
            found.must(!self.tables.is_empty(), "tables", text);
        }
        for (from, text) in rename::check(&self.rename) {
            found.wrong(format!("rename.{from}"), text);
        }
        for (i, table) in self.tables.iter().enumerate() {
            let text = "is no pattern of tables: write schema.table, or schema.* for all of it";
            found.must(TablePattern::parse(table).is_ok(), format!("tables[{i}]"), text);
        }
        if let Err((column, text)) = called::read(&self.also_called) {
            found.wrong(format!("also_called.{column}"), text);
        }
        let digest = |pin: &String| pin.len() == 64 && pin.bytes().all(|b| b.is_ascii_hexdigit());
        let text = "is no SHA-256: 64 hexadecimal digits, as sha256sum prints";
        found.must(self.sha256.as_ref().is_none_or(digest), "sha256", text);
        for (setting, value, most) in [
            ("memory_mib", self.memory_mib, 2048),
            ("deadline_ms", self.deadline_ms, 600_000),
            ("init_ms", self.init_ms, 600_000),
            ("max_rows", self.max_rows, 65_536),
            ("max_file_mib", self.max_file_mib, 256),
        ] {
            let text = format!("must lie between 1 and {most}");
            found.must((1..=most).contains(&value), setting, &text);
        }
        found
    }

    /// A binding with every default.
    #[must_use]
    pub fn new(name: &str, plugin: &str, tables: &[&str]) -> Binding {
        Binding {
            name: name.to_owned(),
            plugin: plugin.to_owned(),
            sha256: None,
            tables: tables.iter().map(|t| (*t).to_owned()).collect(),
            rename: BTreeMap::new(),
            on_error: OnError::default(),
            new_columns: NewColumns::default(),
            allow_unmasked: false,
            allow_misses: false,
            key: None,
            memory_mib: memory_mib(),
            deadline_ms: deadline_ms(),
            init_ms: init_ms(),
            max_rows: max_rows(),
            max_file_mib: max_file_mib(),
            also_called: BTreeMap::new(),
            wasi: false,
            rules: toml::Table::new(),
            places: Places::default(),
        }
    }

    /// The rules as the plugin receives them. TOML's dates become their text.
    #[must_use]
    pub fn rules_json(&self) -> serde_json::Value {
        kasho_plugin_sdk::fixture::json(&toml::Value::Table(self.rules.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_the_manual_parses() {
        let config: Config = toml::from_str(
            r#"
unruled_tables = "halt"
[keys]
k1 = { file = "/run/secrets/masking_key" }
k2 = { env = "KASHO_KEY" }
[[transform]]
name     = "mask-customers"
plugin   = "anonymize.wasm"
tables   = ["public.customers", "billing.*"]
on_error = "halt"
new_columns = "halt"
[transform.rules]
"public.customers.email" = "fake_email"
"public.customers.since" = { shift_date = 1979-05-27, days = 3 }
"#,
        )
        .unwrap();
        assert_eq!(config.keys["k2"], KeySource::Env("KASHO_KEY".to_owned()));
        assert_eq!(config.transform[0].memory_mib, 64);
        let rules = config.transform[0].rules_json();
        assert_eq!(rules["public.customers.email"], "fake_email");
        assert_eq!(rules["public.customers.since"]["shift_date"], "1979-05-27");
    }

    /// What is written in a binding, or above all of them, and what it is refused with.
    const REFUSED: [(&str, &str, &str); 12] = [
        (
            "",
            "on_error = \"drop\"",
            "on_error: \"drop\" leaves rows out whose later changes will miss: whoever applies these \
             tables has to take that (`kasho apply` does); say allow_misses = true beside it",
        ),
        (
            "dead_letter_key = { env = \"K\" }",
            "on_error = \"dead_letter\"",
            "on_error: \"dead_letter\" leaves rows out whose later changes will miss: whoever \
             applies these tables has to take that (`kasho apply` does); say allow_misses = true \
             beside it",
        ),
        (
            "",
            "on_error = \"dead_letter\"\nallow_misses = true",
            "on_error: \"dead_letter\" keeps the keys of rows, sealed: set dead_letter_key = { file = \
             \"…\" } at the top of the file (`openssl rand -hex 32` makes one)",
        ),
        (
            "",
            "on_error = \"pass\"",
            "on_error: \"pass\" lets rows out as they are: say allow_unmasked = true beside it",
        ),
        (
            "allow_unmasked = true",
            "new_columns = \"pass\"",
            "new_columns: \"pass\" lets columns out as they are: say allow_unmasked = true beside it",
        ),
        (
            "unruled_tables = \"pass\"",
            "allow_unmasked = true",
            "unruled_tables: \"pass\" lets tables out as they are: say allow_unmasked = true beside it",
        ),
        ("", "deadline_ms = 0", "deadline_ms: must lie between 1 and 600000"),
        ("", "memory_mib = 4096", "memory_mib: must lie between 1 and 2048"),
        (
            "",
            "key = \"k1\"",
            "key: there is no key of this name under [keys]: mend the name, or add it there",
        ),
        (
            "",
            "sha256 = \"abc\"",
            "sha256: is no SHA-256: 64 hexadecimal digits, as sha256sum prints",
        ),
        (
            "",
            "also_called = { \"public.*.email\" = [\"mail\"] }",
            "also_called.public.*.email: is no column: write schema.table.column, without *",
        ),
        (
            "",
            "also_called = { \"public.users.email\" = [] }",
            "also_called.public.users.email: needs the other names that it may have: [\"new_name\"]",
        ),
    ];

    #[test]
    fn what_makes_no_sense_is_told_in_these_words() {
        for (top, binding, message) in REFUSED {
            let text = format!(
                "{top}\n[[transform]]\nname = \"a\"\nplugin = \"b.wasm\"\ntables = [\"public.*\"]\n{binding}"
            );
            let config: Config = toml::from_str(&text).unwrap();
            let told: Vec<String> =
                config.check().into_iter().map(|(_, at, text)| format!("{at}: {text}")).collect();
            assert_eq!(told, [message], "{text}");
        }
    }

    #[test]
    fn unknown_settings_are_refused() {
        for bad in [
            "unruled_table = \"halt\"",
            "unruled_tables = \"ignore\"",
            "[keys]\nk1 = { path = \"x\" }",
            "[keys]\nk1 = { file = \"x\", env = \"y\" }",
            "[[transform]]\nname = \"a\"\nplugin = \"b\"\ntables = []\nonerror = \"halt\"",
            "[[transform]]\nplugin = \"a.wasm\"\ntables = []",
            "[[transform]]\nname = \"a\"\n[transform.rename]\n\"a.b\" = 1",
        ] {
            assert!(toml::from_str::<Config>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_binding_without_a_plugin_only_renames() {
        let wrong = |text: &str| {
            let config: Config = toml::from_str(text).unwrap();
            config
                .check()
                .into_iter()
                .map(|(_, at, text)| format!("{at}: {text}"))
                .collect::<Vec<_>>()
        };
        let names = "[[transform]]\nname = \"names\"\n";
        assert!(wrong(&format!("{names}[transform.rename]\n\"a.b\" = \"a.c\"")).is_empty());
        let none = "plugin: names no file: name one in the plugin folder, or give [transform.rename] and no \
                    rules";
        assert_eq!(wrong(names), [none]);
        let ruled =
            format!("{names}[transform.rules]\nx = 1\n[transform.rename]\n\"a.b\" = \"a.c\"");
        assert_eq!(wrong(&ruled), [none]);
        let bad = format!("{names}[transform.rename]\n\"a.b\" = \"c\"");
        assert_eq!(wrong(&bad), ["rename.a.b: `c` is no name of a table: write schema.table"]);
    }
}

//! `kasho transforms import`: the original's `transforms.yml`, as a configuration of this one.
//!
//! The TOML goes to standard output; what could not be carried over goes to standard error,
//! each with its line, and ends the command with an error: a rule that is left out leaves
//! its column without one, which then stops the stream and lets nothing out.

mod kinds;
mod yaml;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use kasho_plugin_sdk::event::quote_identifier;

use yaml::Node;

/// Arguments of `kasho transforms import`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The original's file.
    file: PathBuf,
}

/// What became of a file.
#[derive(Debug, Default)]
struct Imported {
    /// `schema.table` and its rules: column and value, both as TOML.
    tables: Vec<(String, Vec<(String, String)>)>,
    /// What was not carried over: line and words.
    lost: Vec<(usize, String)>,
    /// What means something else here.
    notes: Vec<(usize, String)>,
}

/// Prints the configuration.
///
/// # Errors
/// It is no such file, or not all of it could be carried over.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let file = &arguments.file;
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let imported = import(&text).map_err(|wrong| anyhow::anyhow!("{}: {wrong}", file.display()))?;
    print!("{}", toml(&imported, file));
    let told = |what: &str, (line, text): &(usize, String)| {
        eprintln!("{}:{line}: {what}{text}", file.display());
    };
    imported.notes.iter().for_each(|note| told("note: ", note));
    imported.lost.iter().for_each(|lost| told("", lost));
    match imported.lost.len() {
        0 => Ok(()),
        n => bail!("{n} things could not be carried over: their columns have no rule"),
    }
}

fn import(text: &str) -> Result<Imported, String> {
    let root = yaml::read(text)?;
    let mut imported = Imported::default();
    let Some(entries) = root.map() else {
        return Err("no transforms.yml: it holds no mapping with `tables`".to_owned());
    };
    let mut tables = None;
    for (key, value) in entries {
        match key.text() {
            Some("tables") => tables = Some(value),
            Some("major_version") => match value.text() {
                Some("0") => {}
                _ => imported
                    .lost
                    .push((value.line, "`major_version` is of another product".to_owned())),
            },
            // It is in the original's own examples, and means nothing there.
            Some("version") => {}
            _ => imported.lost.push((key.line, format!("{} means nothing here", name(key)))),
        }
    }
    let Some(tables) = tables else {
        return Err("no transforms.yml: it has no `tables`".to_owned());
    };
    for (table, columns) in tables.map().unwrap_or_default() {
        imported.table(table, columns);
    }
    Ok(imported)
}

/// A key for people.
fn name(key: &Node) -> String {
    match key.text() {
        Some(text) => format!("`{}`", super::printable(text)),
        None => "a key that is no text".to_owned(),
    }
}

impl Imported {
    fn lose(&mut self, line: usize, text: String) {
        self.lost.push((line, text));
    }

    fn table(&mut self, key: &Node, columns: &Node) {
        let parts: Vec<&str> = key.text().unwrap_or_default().split('.').collect();
        let [schema, table] = parts[..] else {
            let told = format!("{} is no schema.table: name the schema", name(key));
            return self.lose(key.line, told);
        };
        let table = format!("{}.{}", quote_identifier(schema), quote_identifier(table));
        let Some(columns) = columns.map() else {
            let told = format!("{table} has no columns");
            return self.lose(key.line, told);
        };
        let mut rules = Vec::new();
        for (column, rule) in columns {
            let Some(column_name) = column.text() else {
                self.lose(column.line, format!("{table}: {}", name(column)));
                continue;
            };
            let path = format!("{table}.{}", quote_identifier(column_name));
            match kinds::rule(rule) {
                Ok((toml, note)) => {
                    self.notes.extend(note.map(|note| (rule.line, format!("{path}: {note}"))));
                    rules.push((toml::Value::String(path).to_string(), toml.to_string()));
                }
                Err((line, wrong)) => self.lose(line, format!("{path}: {wrong}")),
            }
        }
        self.tables.push((table, rules));
    }
}

fn toml(imported: &Imported, file: &Path) -> String {
    let from = super::printable(&file.display().to_string());
    let mut out = format!(
        "# From {from}, by `kasho transforms import`. Fakes are other ones than the original's, and the\n\
         # same for the same value. What had no rule there left as it was; here it stops the stream\n\
         # until it has one: `kasho transforms coverage` prints what is missing.\n\n\
         # A key is needed: `openssl rand -hex 32 > masking.key`\n[keys]\nk1 = {{ file = \"masking.key\" }}\n\n"
    );
    let tables = imported.tables.iter().map(|(table, _)| toml::Value::String(table.clone()));
    let tables: Vec<String> = tables.map(|table| format!("    {table},\n")).collect();
    let _ = write!(
        out,
        "[[transform]]\nname = \"transforms\"\nplugin = \"anonymize.wasm\"\ntables = [\n{}]\n\n[transform.rules]\n",
        tables.concat()
    );
    for (table, rules) in &imported.tables {
        let _ = writeln!(out, "# {table}");
        for (path, rule) in rules {
            let _ = writeln!(out, "{path} = {rule}");
        }
    }
    out
}

#[cfg(test)]
mod tests;

//! `kasho transforms list`: what the plugins in the folder say of themselves. Runs none.
//!
//! A file that is no plugin, or says nothing, is named and passed over.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use serde_json::json;

use super::printable;
use crate::config::Config;
use crate::transform::{Description, Transform, describe};

/// Arguments of `kasho transforms list`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only transforms of this name, or whose name or description holds it.
    word: Option<String>,
    /// The folder of the plugins; without it, the configuration's.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Prints them.
///
/// # Errors
/// The folder cannot be read, or nothing was found.
pub(super) fn run(arguments: &Arguments, config: &Path) -> anyhow::Result<()> {
    let folder = match &arguments.folder {
        Some(folder) => folder.clone(),
        None => {
            let config = Config::load_parts(config, &["plugins"]);
            let config = config.map_err(|errors| {
                anyhow!("{errors}\nor name the plugins' folder, without a configuration: --folder FOLDER")
            })?;
            config.plugins.folder
        }
    };
    let (found, silent) = read(&folder)?;
    for line in silent {
        eprintln!("{line}");
    }
    let word = arguments.word.as_deref();
    let found: Vec<_> = found.into_iter().filter_map(|(f, d)| Some((f, about(d, word)?))).collect();
    if found.is_empty() {
        match word {
            Some(word) => bail!("no transform in {} is about {word:?}", folder.display()),
            None => bail!("no plugin in {} describes itself", folder.display()),
        }
    }
    if arguments.json {
        let all = found.iter().map(|(file, about)| json!({ "file": file, "plugin": about }));
        println!("{}", serde_json::to_string_pretty(&all.collect::<Vec<_>>())?);
    } else {
        let all: Vec<String> = found.iter().map(|(file, about)| shown(file, about)).collect();
        print!("{}", all.join("\n"));
    }
    Ok(())
}

/// File name and what it says.
type Found = Vec<(String, Description)>;

fn read(folder: &Path) -> anyhow::Result<(Found, Vec<String>)> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("the folder {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "wasm"));
    files.sort();
    let (mut found, mut silent) = (Vec::new(), Vec::new());
    for file in files {
        let wasm = std::fs::read(&file).with_context(|| file.display().to_string())?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match describe(&wasm) {
            Ok(Some(description)) => found.push((name, description)),
            Ok(None) => silent.push(format!("{name}: it does not describe itself")),
            Err(wrong) => silent.push(format!("{name}: {wrong}")),
        }
    }
    Ok((found, silent))
}

/// What of a description is about a word; none if nothing is.
fn about(mut description: Description, word: Option<&str>) -> Option<Description> {
    let Some(word) = word else { return Some(description) };
    let exact = |t: &Transform| t.name == word || t.aliases.iter().any(|alias| alias == word);
    if description.transforms.iter().any(exact) {
        description.transforms.retain(exact);
    } else {
        let lower = word.to_lowercase();
        let holds = |text: &str| text.to_lowercase().contains(&lower);
        description.transforms.retain(|t| holds(&t.name) || holds(&t.doc));
    }
    (!description.transforms.is_empty()).then_some(description)
}

fn shown(file: &str, description: &Description) -> String {
    let Description { name, version, language, .. } = description;
    let mut out =
        format!("{} {} ({file}, {})\n", printable(name), printable(version), printable(language));
    for transform in &description.transforms {
        let aliases = match transform.aliases.as_slice() {
            [] => String::new(),
            aliases => format!(" ({})", printable(&aliases.join(", "))),
        };
        let _ = writeln!(out, "\n  {}{aliases}", printable(&transform.name));
        let _ = writeln!(out, "    {}", printable(&transform.doc));
        for (what, text) in [("columns", &transform.columns), ("unique", &transform.unique)] {
            if !text.is_empty() {
                let _ = writeln!(out, "    {what:<7} {}", printable(text));
            }
        }
        let example = &transform.example;
        for (what, text) in
            [("rule", &example.rule), ("in", &example.input), ("out", &example.output)]
        {
            if !text.is_empty() {
                let _ = writeln!(out, "    {what:<5} {}", printable(text));
            }
        }
        for option in &transform.options {
            let default = match &option.default {
                serde_json::Value::Null => "required".to_owned(),
                serde_json::Value::String(text) if text.is_empty() => "none".to_owned(),
                serde_json::Value::String(text) => format!("default {}", printable(text)),
                other => format!("default {other}"),
            };
            let (name, kind, doc) = (&option.name, &option.kind, &option.doc);
            let line = format!("    {name}: {kind}, {default}. {doc}");
            let _ = writeln!(out, "{}", printable(&line));
        }
    }
    out
}

//! `kasho plugin build`: compiles, puts metadata and fixtures into the file, says its size.
//!
//! A file that the service would refuse is no build: the refusal is the error. The same
//! source makes the same file: no time, no path of this machine goes into it.

use std::path::PathBuf;

use anyhow::{Context, bail};
use kasho_plugin_sdk::abi;
use serde_json::json;

use super::project::{Language, Project};
use super::{Place, compile, grouped, sdk};
use crate::transform::inspect::{FIXTURES_SECTION, custom, inspect, with_sections};

/// A rules schema of the author's, if there is one.
const SCHEMA: &str = "rules.schema.json";
/// Bytes of a file that bindings take unless they say more, as `max_file_mib` has it.
pub(super) const MOST_BYTES: usize = 16 << 20;

/// Builds, and prints what was made.
pub(super) fn run(place: &Place) -> anyhow::Result<()> {
    if place.wasm.is_some() {
        bail!("--wasm names a file that is built already: `kasho plugin inspect` looks at it");
    }
    let project = Project::open(&place.folder)?;
    let made = build(&project)?;
    let size = std::fs::metadata(&made)?.len();
    println!("{}: {} bytes", made.display(), grouped(size));
    if project.language == Language::Go {
        println!("A plugin in Go needs `wasi = true` in its binding.");
    }
    Ok(())
}

/// The file to work on, and the project whose it is.
pub(super) fn ready(place: &Place) -> anyhow::Result<(PathBuf, PathBuf)> {
    match &place.wasm {
        Some(file) => Ok((file.clone(), place.folder.join("fixtures"))),
        None => {
            let project = Project::open(&place.folder)?;
            Ok((build(&project)?, project.fixtures()))
        }
    }
}

/// Builds a project; the path of the file.
pub(super) fn build(project: &Project) -> anyhow::Result<PathBuf> {
    let module = compile::compile(project)?;
    let own = custom(&module, abi::METADATA_SECTION);
    let (metadata, fixtures) = (metadata(project, own)?, fixtures(project)?);
    let sections = [(abi::METADATA_SECTION, &*metadata), (FIXTURES_SECTION, &*fixtures)];
    let module = with_sections(&module, &sections).map_err(anyhow::Error::msg)?;
    let out = project.wasm();
    let shown = || out.display().to_string();
    // Whoever watches the folder sees the old file or the new one, and no half of it.
    let half = out.with_extension("wasm.half");
    std::fs::write(&half, &module).with_context(shown)?;
    std::fs::rename(&half, &out).with_context(shown)?;
    let found = inspect(&module, MOST_BYTES).map_err(anyhow::Error::msg)?;
    match found.refused {
        Some(refused) => bail!("{}: the service would refuse it: {refused}", out.display()),
        None => Ok(out),
    }
}

/// What describes the plugin. What its own code says of itself (`metadata!`) holds.
fn metadata(project: &Project, own: Option<&[u8]>) -> anyhow::Result<Vec<u8>> {
    let mut metadata = json!({
        "name": project.name,
        "version": project.version,
        "language": project.language.name(),
        "sdk": sdk::VERSION,
    });
    let schema = project.folder.join(SCHEMA);
    if let Ok(text) = std::fs::read_to_string(&schema) {
        let schema: serde_json::Value =
            serde_json::from_str(&text).with_context(|| schema.display().to_string())?;
        metadata["rules"] = schema;
    }
    if let Some(own) = own {
        let own: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(own)
            .context("the plugin describes itself by something that is no JSON object")?;
        own.into_iter().for_each(|(key, value)| metadata[key] = value);
    }
    Ok(serde_json::to_vec(&metadata)?)
}

/// Every fixture file, by name; what cannot be read as one fails here and not in service.
fn fixtures(project: &Project) -> anyhow::Result<Vec<u8>> {
    let folder = project.fixtures();
    let mut files = Vec::new();
    if folder.exists() {
        let found = kasho_plugin_sdk::fixture::FixtureFile::read_folder(&folder);
        for (path, _) in found.map_err(anyhow::Error::msg)? {
            let name = std::path::Path::new(&path).file_name().unwrap_or_default();
            let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
            files.push(json!({ "file": name.to_string_lossy(), "text": text }));
        }
    }
    Ok(serde_json::to_vec(&files)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_a_plugin_says_of_itself_holds() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("plugin.toml"),
            "name = \"x\"\nversion = \"1\"\nlanguage = \"c\"\n",
        )
        .unwrap();
        let project = Project::open(folder.path()).unwrap();
        let said = |own: Option<&[u8]>| -> serde_json::Value {
            serde_json::from_slice(&metadata(&project, own).unwrap()).unwrap()
        };
        assert_eq!(said(None)["language"], "c");
        let both = said(Some(br#"{"version": "2", "transforms": []}"#));
        assert_eq!((&both["name"], &both["version"]), (&json!("x"), &json!("2")));
        assert!(both["transforms"].is_array());
        assert!(metadata(&project, Some(b"[]")).is_err());
        std::fs::write(folder.path().join(SCHEMA), "{\"type\": \"object\"}").unwrap();
        assert_eq!(said(None)["rules"]["type"], "object");
    }
}

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
use crate::transform::inspect::{FIXTURES_SECTION, inspect, with_sections};

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
    let (metadata, fixtures) = (metadata(project)?, fixtures(project)?);
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

fn metadata(project: &Project) -> anyhow::Result<Vec<u8>> {
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

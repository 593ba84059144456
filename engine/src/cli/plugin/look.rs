//! `kasho plugin inspect`: what a file says of itself, and whether the service would take
//! it. Nothing of it is run.

use std::path::Path;

use anyhow::Context;

use super::build::MOST_BYTES;
use super::grouped;
use crate::transform::inspect::{Inspection, inspect};

/// Looks at a file and prints what is there.
pub(super) fn run(file: &Path, json: bool) -> anyhow::Result<()> {
    let shown = || file.display().to_string();
    let wasm = std::fs::read(file).with_context(shown)?;
    let found = inspect(&wasm, MOST_BYTES).map_err(anyhow::Error::msg).with_context(shown)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else {
        print(&found);
    }
    Ok(())
}

fn print(found: &Inspection) {
    println!("size      {} bytes", grouped(found.size as u64));
    println!("sha256    {}", found.sha256);
    println!("ABI       {}", found.abi.as_deref().unwrap_or("none: it has no marker"));
    let metadata = match &found.metadata {
        Some(metadata) => serde_json::to_string(metadata).unwrap_or_default(),
        None => "none (`kasho plugin build` writes it)".to_owned(),
    };
    println!("metadata  {metadata}");
    let fixtures = found.fixtures.join(", ");
    println!("fixtures  {}", if fixtures.is_empty() { "none" } else { &fixtures });
    let pages = |pages: u64| format!("{} KiB", grouped(pages * 64));
    let memory = match found.memory_pages {
        Some((from, Some(most))) => format!("{}, at most {}", pages(from), pages(most)),
        Some((from, None)) => format!("{}, no maximum of its own", pages(from)),
        None => "none of its own".to_owned(),
    };
    println!("memory    {memory}");
    println!("functions {}", grouped(u64::from(found.functions)));
    println!("imports{}", if found.imports.is_empty() { "   none" } else { "" });
    for (module, name, kind) in &found.imports {
        println!("  {module}.{name} ({kind})");
    }
    println!("exports");
    for (name, kind) in &found.exports {
        println!("  {name} ({kind})");
    }
    println!("sections");
    for (name, bytes) in &found.sections {
        println!("  {name:14} {:>12} bytes", grouped(*bytes as u64));
    }
    match &found.refused {
        Some(refused) => println!("The service would refuse it: {refused}"),
        None if found.wasi => println!("The service would take it with `wasi = true`."),
        None => println!("The service would take it."),
    }
}

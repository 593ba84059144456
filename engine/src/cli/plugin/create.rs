//! `kasho plugin new`: writes a folder that builds and passes its test at once.
//!
//! Nothing is overwritten: a folder that exists and is not empty is refused.

use std::path::Path;

use anyhow::{Context, bail};

use super::project::{Language, valid};
use super::sdk;

/// Where a plugin in Rust finds the SDK.
const SDK_FOLDER: &str = "kasho-plugin-sdk";

/// Writes the folder `name` below the current one.
pub(super) fn run(name: &str, language: Language) -> anyhow::Result<()> {
    write(Path::new(name), name, language)?;
    println!("{name}: a plugin in {}", language.name());
    for (path, what) in [
        (source(language), "the plugin"),
        ("fixtures/users.toml", "rows in, rows and errors expected"),
        ("README.md", "what to do with it"),
    ] {
        println!("  {path:22} {what}");
    }
    println!("Next:  cd {name} && kasho plugin test");
    Ok(())
}

fn source(language: Language) -> &'static str {
    match language {
        Language::Rust => "src/lib.rs",
        Language::Go => "main.go",
        Language::AssemblyScript => "assembly/index.ts",
        Language::C => "plugin.c",
    }
}

fn write(folder: &Path, name: &str, language: Language) -> anyhow::Result<()> {
    valid(name)?;
    let occupied = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if occupied || folder.is_file() {
        bail!("{}: is there already, and not empty", folder.display());
    }
    let files = match language {
        Language::Rust => sdk::RUST,
        Language::Go => sdk::GO,
        Language::AssemblyScript => sdk::ASSEMBLYSCRIPT,
        Language::C => sdk::C,
    };
    let module = name.replace('-', "_");
    for (path, text) in files.iter().chain(sdk::FIXTURES) {
        // `.in`: what cargo and go would take for one of theirs, as it lies in our tree.
        let path = path.strip_suffix(".in").unwrap_or(path);
        let path = path.strip_prefix("dot").filter(|p| p.starts_with('.')).unwrap_or(path);
        let text = text.replace("{{name}}", name).replace("{{module}}", &module);
        put(&folder.join(path), &text)?;
    }
    if language == Language::Rust {
        put(&folder.join("Cargo.lock"), &lock(name)?)?;
        let sdk = folder.join(SDK_FOLDER);
        put(&sdk.join("Cargo.toml"), &sdk::manifest()?)?;
        for (path, text) in sdk::SDK {
            put(&sdk.join(path), text)?;
        }
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    let shown = || path.display().to_string();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(shown)?;
    }
    std::fs::write(path, text).with_context(shown)
}

/// The versions of what the SDK needs, out of our own lock file.
fn lock(name: &str) -> anyhow::Result<String> {
    let mut lock: toml::Table = toml::from_str(sdk::LOCK)?;
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let packages = packages.context("the lock file has no packages")?.clone();
    let named = |wanted: &str| {
        // `name`, or `name version` where there are several.
        let mut words = wanted.split(' ');
        let (name, version) = (words.next(), words.next());
        packages.iter().find(move |package| {
            let is = |key: &str, value: Option<&str>| {
                value.is_none() || package.get(key).and_then(toml::Value::as_str) == value
            };
            is("name", name) && is("version", version)
        })
    };
    let mut wanted = vec![SDK_FOLDER.to_owned()];
    let mut kept: Vec<toml::Value> = Vec::new();
    while let Some(next) = wanted.pop() {
        let Some(package) = named(&next) else { continue };
        if kept.contains(package) {
            continue;
        }
        kept.push(package.clone());
        let needs = package.get("dependencies").and_then(toml::Value::as_array);
        let needs = needs.into_iter().flatten().filter_map(toml::Value::as_str);
        wanted.extend(needs.map(str::to_owned));
    }
    let mut own = toml::Table::new();
    own.insert("name".to_owned(), name.into());
    own.insert("version".to_owned(), "0.1.0".into());
    own.insert("dependencies".to_owned(), vec![SDK_FOLDER].into());
    kept.push(own.into());
    lock.insert("package".to_owned(), kept.into());
    Ok(toml::to_string(&lock)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::super::project::Project;
    use super::*;

    #[test]
    fn every_language_has_its_files_and_nothing_is_overwritten() {
        for language in [Language::Rust, Language::Go, Language::AssemblyScript, Language::C] {
            let parent = tempfile::tempdir().unwrap();
            let folder = parent.path().join("mask-it");
            write(&folder, "mask-it", language).unwrap();
            let project = Project::open(&folder).unwrap();
            assert_eq!((project.name.as_str(), project.language), ("mask-it", language));
            for path in [source(language), "fixtures/users.toml", "README.md", ".gitignore"] {
                let text = std::fs::read_to_string(folder.join(path)).unwrap();
                assert!(!text.contains("{{"), "{path}");
            }
            let again = write(&folder, "mask-it", language).unwrap_err().to_string();
            assert!(again.contains("already"), "{again}");
        }
    }

    #[test]
    fn the_lock_file_has_what_the_sdk_needs_and_no_more() {
        let lock: toml::Table = toml::from_str(&lock("x").unwrap()).unwrap();
        let names: Vec<&str> = lock["package"]
            .as_array()
            .unwrap()
            .iter()
            .map(|package| package["name"].as_str().unwrap())
            .collect();
        for there in ["x", "kasho-plugin-sdk", "serde", "toml", "hmac"] {
            assert!(names.contains(&there), "{there}");
        }
        assert!(!names.contains(&"tokio") && !names.contains(&"wasmtime"));
    }
}

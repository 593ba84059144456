//! A plugin's folder: which language, which name and version, where its files are.
//!
//! A plugin in Rust is a package, and `Cargo.toml` says it all; one in another language has a
//! `plugin.toml` of three lines. What goes wrong is a folder with neither.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::Deserialize;

/// The languages there are templates for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Rust, with the SDK's source beside it.
    Rust,
    /// Go, 1.24 or later; runs with `wasi = true` in the binding.
    Go,
    /// AssemblyScript, by npm.
    #[value(name = "assemblyscript", alias = "as")]
    AssemblyScript,
    /// C, by clang and wasm-ld.
    C,
}

impl Language {
    /// Its name in metadata.
    pub(super) fn name(self) -> &'static str {
        match self {
            Language::Rust => "rust",
            Language::Go => "go",
            Language::AssemblyScript => "assemblyscript",
            Language::C => "c",
        }
    }
}

/// `plugin.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    version: String,
    language: Language,
}

/// The part of `Cargo.toml` that is looked at.
#[derive(Deserialize)]
struct Cargo {
    package: Package,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
}

/// A plugin's folder.
#[derive(Debug)]
pub(super) struct Project {
    /// The folder.
    pub(super) folder: PathBuf,
    /// Its name.
    pub(super) name: String,
    /// Its version.
    pub(super) version: String,
    /// What it is written in.
    pub(super) language: Language,
}

impl Project {
    /// Looks at a folder.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Project> {
        let (cargo, own) = (folder.join("Cargo.toml"), folder.join("plugin.toml"));
        let manifest = if own.exists() {
            toml::from_str(&read(&own)?).with_context(|| own.display().to_string())?
        } else if cargo.exists() {
            let text = read(&cargo)?;
            let found: Cargo =
                toml::from_str(&text).with_context(|| cargo.display().to_string())?;
            let Package { name, version } = found.package;
            Manifest { name, version, language: Language::Rust }
        } else {
            bail!(
                "{}: no plugin (neither Cargo.toml nor plugin.toml is in it); `kasho plugin new NAME` \
                 starts one",
                folder.display()
            );
        };
        valid(&manifest.name)?;
        let Manifest { name, version, language } = manifest;
        Ok(Project { folder: folder.to_owned(), name, version, language })
    }

    /// The file that `kasho plugin build` makes.
    pub(super) fn wasm(&self) -> PathBuf {
        self.folder.join("build").join(format!("{}.wasm", self.name))
    }

    /// The folder of its fixtures.
    pub(super) fn fixtures(&self) -> PathBuf {
        self.folder.join("fixtures")
    }
}

/// That a name can be that of a package in every language, and of a file.
pub(super) fn valid(name: &str) -> anyhow::Result<()> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    let all =
        name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b));
    if !first || !all || name.len() > 64 {
        bail!(
            "`{name}` is no name: a letter, then letters, digits, `-` and `_`, all lower case, at \
             most 64 of them"
        );
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_folder_says_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let error = Project::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("kasho plugin new"), "{error}");
        let cargo = "[package]\nname = \"a-b\"\nversion = \"1.2.3\"\n";
        std::fs::write(folder.path().join("Cargo.toml"), cargo).unwrap();
        let project = Project::open(folder.path()).unwrap();
        assert_eq!((project.name.as_str(), project.language), ("a-b", Language::Rust));
        assert!(project.wasm().ends_with("build/a-b.wasm"));
        let own = "name = \"x\"\nversion = \"1\"\nlanguage = \"assemblyscript\"\n";
        std::fs::write(folder.path().join("plugin.toml"), own).unwrap();
        let project = Project::open(folder.path()).unwrap();
        assert_eq!(project.language, Language::AssemblyScript);
    }

    #[test]
    fn names_are_plain() {
        for bad in ["", "_", "_a", "A", "a b", "../a", "9a", "a.b"] {
            let told = valid(bad).unwrap_err().to_string();
            assert!(told.contains("digits, `-` and `_`, all lower case, at most 64"), "{told}");
        }
        assert!(valid(&"a".repeat(65)).is_err());
        assert!(valid("mask-email_2").is_ok());
    }
}

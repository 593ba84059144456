//! The SDK's source and the templates, which the binary carries: a plugin is built where
//! Kasho's repository is not.
//!
//! The SDK is part of a workspace here and a package of its own there, so its `Cargo.toml`
//! is written anew with what the workspace says. A test builds the result; should the
//! workspace change in a way that is not understood, that is an error with the key.

use anyhow::{Context, bail};
use toml::{Table, Value};

/// A path and its content.
pub(super) type Files = &'static [(&'static str, &'static str)];

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/plugin_sdk.rs"));
}

pub(super) use embedded::{ASSEMBLYSCRIPT, C, FIXTURES, GO, RUST, SDK};

const WORKSPACE: &str = include_str!("../../../../Cargo.toml");
const PACKAGE: &str = include_str!("../../../../plugin-sdk/Cargo.toml");
/// The versions this binary was built with: with them a plugin builds without a network
/// where Kasho was built.
pub(super) const LOCK: &str = include_str!("../../../../Cargo.lock");

/// Version of the SDK.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The SDK's `Cargo.toml`, as that of a package of its own.
pub(super) fn manifest() -> anyhow::Result<String> {
    standalone(PACKAGE, WORKSPACE)
}

fn standalone(package: &str, workspace: &str) -> anyhow::Result<String> {
    let workspace: Table = toml::from_str(workspace)?;
    let mut manifest: Table = toml::from_str(package)?;
    // Its own tests stay where they are, and its lints are those of our compiler.
    for key in ["dev-dependencies", "lints"] {
        manifest.remove(key);
    }
    let of = |section: &str| {
        let table = workspace.get("workspace").and_then(|w| w.get(section));
        table.and_then(Value::as_table).with_context(|| format!("no [workspace.{section}]"))
    };
    for (section, inherited) in [("package", of("package")?), ("dependencies", of("dependencies")?)]
    {
        let Some(Value::Table(table)) = manifest.get_mut(section) else {
            bail!("no [{section}]");
        };
        for (key, value) in table.iter_mut() {
            let inherits = value.get("workspace").and_then(Value::as_bool) == Some(true);
            if !inherits {
                continue;
            }
            let from = inherited.get(key).with_context(|| format!("{section}.{key}"))?;
            *value = merged(from, value);
        }
    }
    Ok(toml::to_string(&manifest)?)
}

/// What the workspace says, with what the package adds.
fn merged(from: &Value, own: &Value) -> Value {
    let mut own = own.as_table().cloned().unwrap_or_default();
    own.remove("workspace");
    if own.is_empty() {
        return from.clone();
    }
    let mut all = match from {
        Value::Table(table) => table.clone(),
        version => Table::from_iter([("version".to_owned(), version.clone())]),
    };
    all.extend(own);
    Value::Table(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_sdk_stands_alone() {
        let manifest: Table = toml::from_str(&manifest().unwrap()).unwrap();
        let text = manifest.to_string();
        assert!(!text.contains("workspace") && !text.contains("path"), "{text}");
        assert_eq!(manifest["package"]["version"].as_str(), Some(VERSION));
        assert_eq!(manifest["dependencies"]["toml"]["optional"].as_bool(), Some(true));
        assert!(manifest["dependencies"]["serde"]["features"].is_array());
        assert!(SDK.iter().any(|(path, _)| *path == "src/lib.rs"));
        let none =
            SDK.iter().any(|(path, _)| path.contains("templates") || path.contains("target"));
        assert!(!none, "only its source");
    }

    #[test]
    fn what_the_workspace_does_not_have_is_told() {
        let error = standalone("[package]\n[dependencies]\nx = { workspace = true }\n", WORKSPACE);
        assert!(error.unwrap_err().to_string().contains("dependencies.x"));
    }
}

//! Builds what the tests run: plugins as `.wasm` files, and the engine's binary.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::{repository, target};

/// The `.wasm` of the plugin in `plugins/<name>`, built once a run.
pub(crate) fn guest(name: &str) -> PathBuf {
    static BUILT: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let built = built.get_or_insert_default();
    built.entry(name.to_owned()).or_insert_with(|| build(name)).clone()
}

fn build(name: &str) -> PathBuf {
    let package = format!("kasho-{name}");
    // A folder of its own: another profile and target would evict nothing, but the build
    // would wait for the lock of whoever compiles in the usual one.
    let folder = target().join("guests").display().to_string();
    let options = ["--profile", "guest", "--target", "wasm32-unknown-unknown", "--target-dir"];
    let arguments = [&["-p", &package], &options[..], &[&folder]].concat();
    cargo_build(&arguments, |artifact| artifact["target"]["name"] == name, "filenames")
}

/// Runs `cargo build` and returns the file of the artifact that `wanted` picks: the
/// `key` of cargo's message, a path or a list of paths of which a `.wasm` is taken.
pub(crate) fn cargo_build(
    arguments: &[&str],
    wanted: impl Fn(&Value) -> bool,
    key: &str,
) -> PathBuf {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--locked", "--message-format=json"]).args(arguments);
    command.current_dir(repository());
    // What cargo tells a test about its package would make build scripts that watch these
    // variables run again, and half the tree with them, here and in the next test build.
    let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"];
    for (name, _) in std::env::vars_os() {
        if told.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            command.env_remove(&name);
        }
    }
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    let messages = String::from_utf8_lossy(&output.stdout);
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let messages: Vec<Value> = messages.collect();
    let rendered = messages.iter().filter_map(|m| m["message"]["rendered"].as_str());
    let rendered: String = rendered.collect();
    assert!(output.status.success(), "{command:?}\n{errors}\n{rendered}");
    let artifact =
        messages.iter().filter(|m| m["reason"] == "compiler-artifact").find(|m| wanted(m));
    let artifact = artifact.unwrap_or_else(|| panic!("{command:?} made no such artifact"));
    let files = match &artifact[key] {
        Value::Array(files) => files.iter().filter_map(Value::as_str).collect(),
        file => Vec::from_iter(file.as_str()),
    };
    let wasm = files.iter().find(|file| file.ends_with(".wasm"));
    wasm.or(files.first()).map(PathBuf::from).expect("an artifact has a file")
}

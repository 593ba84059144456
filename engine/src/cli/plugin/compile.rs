//! One compiler a language, called with the target and the flags that a plugin needs.
//!
//! Which those are is the point of `kasho plugin build`: each of them was somebody's
//! evening. What goes wrong is a tool that is not there, told with how to get it, and the
//! author's own mistakes, which the compiler tells on standard error.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::project::{Language, Project};

/// Compiles a project; the module as the compiler left it.
pub(super) fn compile(project: &Project) -> anyhow::Result<Vec<u8>> {
    let out = project.wasm();
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let out = std::path::absolute(&out)?;
    let made = match project.language {
        Language::Rust => rust(project)?,
        Language::C => c(project, out)?,
        Language::AssemblyScript => assembly_script(project, out)?,
        Language::Go => go(project, out)?,
    };
    std::fs::read(&made).with_context(|| made.display().to_string())
}

/// A tool of this name, unless a variable says another.
fn tool(variable: &str, name: &str, project: &Project) -> Command {
    let mut command = Command::new(std::env::var_os(variable).unwrap_or_else(|| name.into()));
    command.current_dir(&project.folder);
    command
}

/// Runs a command; `cure` says how to get it where it is not.
fn succeed(command: &mut Command, cure: &str) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("{program} cannot be run: {cure}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        bail!("{program} failed ({}){}{}", output.status, ": ", said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn rust(project: &Project) -> anyhow::Result<PathBuf> {
    let mut cargo = tool("CARGO", "cargo", project);
    cargo.args(["build", "--release", "--lib", "--target", "wasm32-unknown-unknown"]);
    cargo.args(["--quiet", "--message-format=json-render-diagnostics"]);
    cargo.arg("--config").arg(without_paths(project)?);
    // Names of functions stay, for traps; what the standard library has for debuggers goes,
    // which is a megabyte.
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    let cure = "install Rust (https://rustup.rs)";
    let messages = succeed(&mut cargo, cure)
        .context("if it misses `core` or `std`: rustup target add wasm32-unknown-unknown")?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    let artifact = messages.filter(|m: &serde_json::Value| {
        m["reason"] == "compiler-artifact"
            && m["target"]["kind"]
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|k| k == "cdylib"))
    });
    let files = artifact.flat_map(|m| m["filenames"].as_array().cloned().unwrap_or_default());
    let wasm = files.filter_map(|file| file.as_str().map(PathBuf::from));
    let mut wasm = wasm.filter(|file| file.extension().is_some_and(|e| e == "wasm"));
    wasm.next_back()
        .context("cargo made no .wasm: set crate-type = [\"cdylib\", \"rlib\"] under [lib]")
}

/// Setting of cargo's that keeps the places of this machine out of the file: a plugin does not
/// tell where its author lives, and is the same wherever it is built.
fn without_paths(project: &Project) -> anyhow::Result<String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let crates = home.map(|home| (home.join("registry/src"), "crates"));
    let folder = (std::fs::canonicalize(&project.folder)?, ".");
    let flags = crates.into_iter().chain([folder]);
    let flags = flags.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    let flags = serde_json::to_string(&flags.collect::<Vec<_>>())?;
    Ok(format!("target.wasm32-unknown-unknown.rustflags={flags}"))
}

fn c(project: &Project, out: PathBuf) -> anyhow::Result<PathBuf> {
    let entries = std::fs::read_dir(&project.folder)?.filter_map(Result::ok);
    let sources = entries.map(|entry| entry.path());
    let mut sources: Vec<PathBuf> =
        sources.filter(|path| path.extension().is_some_and(|e| e == "c")).collect();
    sources.sort();
    if sources.is_empty() {
        bail!("{}: no *.c is in it", project.folder.display());
    }
    let mut clang = tool("KASHO_CLANG", "clang", project);
    clang.args(["--target=wasm32", "-std=c11", "-O2", "-Wall", "-Wextra", "-nostdlib"]);
    // Without bulk memory, `memcpy` is a function of a library there is not. The host has
    // no tables but one, and neither threads nor 64-bit memories.
    clang.args(["-ffreestanding", "-mbulk-memory", "-Wl,--no-entry", "-Wl,--export=__heap_base"]);
    // Below the data: an overflow traps, and does not write over it.
    clang.args(["-Wl,--stack-first", "-Wl,-z,stack-size=65536"]);
    for source in &sources {
        clang.arg(source.file_name().unwrap_or_default());
    }
    clang.arg("-o").arg(&out);
    succeed(&mut clang, "apt-get install clang lld, or set KASHO_CLANG")?;
    Ok(out)
}

fn assembly_script(project: &Project, out: PathBuf) -> anyhow::Result<PathBuf> {
    let own = project.folder.join("node_modules/.bin/asc");
    let mut asc = match std::env::var_os("KASHO_ASC") {
        Some(asc) => Command::new(asc),
        None => {
            if !own.exists() {
                let mut npm = tool("KASHO_NPM", "npm", project);
                npm.args(["install", "--no-audit", "--no-fund", "--prefer-offline"]);
                let cure = "install Node.js 20 or later (https://nodejs.org)";
                succeed(&mut npm, cure).context("AssemblyScript comes by npm")?;
            }
            Command::new(std::path::absolute(&own)?)
        }
    };
    asc.current_dir(&project.folder).args(["assembly/index.ts", "--outFile"]).arg(&out);
    // `abort` is an import of a browser's, unless it is named: the one of kasho.ts tells the
    // host. `--debug` would put paths of this machine into the file; names are kept without.
    asc.args(["-O3", "--runtime", "incremental", "--use", "abort=assembly/kasho/kashoAbort"]);
    succeed(&mut asc, "npm install, or set KASHO_ASC to AssemblyScript's asc")?;
    Ok(out)
}

fn go(project: &Project, out: PathBuf) -> anyhow::Result<PathBuf> {
    let mut go = tool("KASHO_GO", "go", project);
    go.args(["build", "-buildmode=c-shared", "-trimpath"]);
    // Half the file is for debuggers that no plugin meets; names of functions stay.
    go.args(["-ldflags=-w", "-o"]).arg(&out).arg(".");
    go.env("GOOS", "wasip1").env("GOARCH", "wasm").env("GOFLAGS", "");
    // Nothing is fetched: a plugin has no dependencies, and another Go is no help.
    go.env("GOTOOLCHAIN", "local");
    let cure = "install Go 1.24 or later (https://go.dev/dl), or set KASHO_GO";
    succeed(&mut go, cure).context("a plugin in Go needs Go 1.24 or later")?;
    Ok(out)
}

/// Runs a plugin's native tests, with their output.
pub(super) fn native_tests(folder: &Path) -> anyhow::Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let status = cargo.args(["test", "--quiet"]).current_dir(folder).status();
    let status = status.context("cargo cannot be run: install Rust (https://rustup.rs)")?;
    if !status.success() {
        bail!("the native tests failed (cargo test in {})", folder.display());
    }
    Ok(())
}

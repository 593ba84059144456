//! Compiles the two protocol files with a compiler written in Rust: building needs no
//! `protoc`. Lists the SDK's source and the templates of plugins, which the binary carries.
//! What can go wrong is a mistake in `proto/`, reported with its line.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["kasho.proto", "change_stream.proto"], ["proto"])?;
    let folder = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(folder.join("descriptors.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure()
        // One set of Rust types for both packages: their wire format is the same.
        .extern_path(".change_stream", "crate::control::proto::kasho")
        // For `kasho status --json`.
        .type_attribute(".kasho", "#[derive(serde::Serialize)]")
        .compile_fds(files)?;
    std::fs::write(folder.join("plugin_sdk.rs"), plugin_sdk()?)?;
    Ok(())
}

/// Constants of paths and contents, for `cli::plugin`.
fn plugin_sdk() -> Result<String, Box<dyn Error>> {
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../plugin-sdk");
    let root = root.canonicalize()?;
    let mut text = String::new();
    let mut list = |name: &str, base: &Path, parts: &[&str]| -> Result<(), Box<dyn Error>> {
        writeln!(text, "pub(crate) static {name}: super::Files = &[")?;
        let mut files = Vec::new();
        for part in parts {
            println!("cargo::rerun-if-changed={}", base.join(part).display());
            walk(&base.join(part), &mut files)?;
        }
        files.sort();
        for file in files {
            let path = file.strip_prefix(base)?.display().to_string();
            writeln!(text, "    ({path:?}, include_str!({:?})),", file.display().to_string())?;
        }
        writeln!(text, "];")?;
        Ok(())
    };
    list("SDK", &root, &["src", "README.md", "ABI.md", "ANONYMISATION.md"])?;
    for (name, folder) in
        [("RUST", "rust"), ("GO", "go"), ("ASSEMBLYSCRIPT", "assemblyscript"), ("C", "c")]
    {
        list(name, &root.join("templates").join(folder), &["."])?;
    }
    list("FIXTURES", &root.join("templates/all"), &["."])?;
    Ok(text)
}

fn walk(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    // `base/.` and `base` are one folder; as a prefix they are not.
    let path: PathBuf = path.components().collect();
    if path.is_file() {
        files.push(path);
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        walk(&entry?.path(), files)?;
    }
    Ok(())
}

//! Compiles the two protocol files with a compiler written in Rust: building needs no
//! `protoc`. What can go wrong is a mistake in `proto/`, reported with its line.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
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
    Ok(())
}

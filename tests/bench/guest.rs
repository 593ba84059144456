//! A guest that is written row by row, as most plugins are: built for the benchmark alone,
//! so it is no member of the workspace but a project like a plugin author's.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::{repository, target};

/// Masks `public.t.email`, doing next to nothing with each value.
const SOURCE: &str = r#"
use kasho_plugin_sdk::{Col, Plugin, Result, Row, Setup, Verdict, export_plugin};

struct Constant { email: Col }

impl Plugin for Constant {
    fn new(cx: &mut Setup<'_>) -> Result<Self> {
        cx.pass("public.t.id")?;
        Ok(Constant { email: cx.mask("public.t.email")? })
    }

    fn row(&mut self, row: &mut Row<'_, '_>) -> Verdict {
        row.rewrite(self.email, |_, out| out.push_str("someone@example.com"));
        Verdict::Keep
    }
}

export_plugin!(Constant);
"#;

/// The `.wasm` of a plugin in row style, built with the profile of the others.
pub(crate) fn row_style() -> PathBuf {
    let folder = target().join("tmp/row-style");
    let sdk = repository().join("plugin-sdk");
    let manifest = format!(
        "[package]\nname = \"row-style\"\nedition = \"2024\"\n\n[lib]\ncrate-type = [\"cdylib\"]\n\n\
         [dependencies]\nkasho-plugin-sdk = {{ path = {sdk:?} }}\n\n[workspace]\n\n\
         [profile.release]\nopt-level = 3\nlto = \"fat\"\ncodegen-units = 1\npanic = \"abort\"\n"
    );
    std::fs::create_dir_all(folder.join("src")).expect("folder");
    std::fs::write(folder.join("Cargo.toml"), manifest).expect("manifest");
    std::fs::write(folder.join("src/lib.rs"), SOURCE).expect("source");
    // The same versions as everywhere; what this project does not need, cargo takes out.
    std::fs::copy(repository().join("Cargo.lock"), folder.join("Cargo.lock")).expect("lock file");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--offline", "--release"]);
    command.args(["--target", "wasm32-unknown-unknown", "--target-dir", "built"]);
    let output = command.current_dir(&folder).output().expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join("built/wasm32-unknown-unknown/release/row_style.wasm")
}

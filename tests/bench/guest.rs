//! Guests for the benchmark alone: one that is written row by row, as most plugins are, so
//! it is no member of the workspace but a project like a plugin author's; and one that does
//! nothing at all, which leaves what the host itself takes.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use kasho_plugin_sdk::batch::{Image, PatchBuf, ReplyBuilder};

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

/// A plugin that has its answer to one row of `public.t` ready: it reads the number of the
/// call, writes it into the answer, and returns. No plugin can do less.
pub(crate) fn ready(folder: &Path, text: &str) -> PathBuf {
    let mut patch = PatchBuf::default();
    patch.clear(1);
    patch.scratch().push_str(text);
    patch.commit(0);
    let mut reply = ReplyBuilder::default();
    let patches = std::iter::once((0, Image::New, &patch));
    let block = reply.write(0, 1, &[], &[], patches).expect("a small block");
    let needs = br#"{"ok":{"max_rows":1}}"#;
    let wanted = br#"{"ok":{"columns":[{"name":"email","use":"mask","as":"ready/1"},{"name":"id","use":"pass"}],"ops":["insert","update","delete","read"]}}"#;
    let mut data = String::new();
    for (at, bytes) in [(0x1000, &needs[..]), (0x2000, wanted), (0x3000, block)] {
        let bytes: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
        writeln!(data, "(data (i32.const {at}) \"{bytes}\")").expect("a string");
    }
    let answer = |at: usize, len: usize| format!("i64.const {}", (at as u64) << 32 | len as u64);
    let module = format!(
        r#"(module (memory (export "memory") 2) {data}
        (func (export "kasho_abi_1"))
        (func (export "kasho_alloc") (param i32) (result i32) i32.const 0x10000)
        (func (export "kasho_init") (param i32 i32) (result i64) {})
        (func (export "kasho_relation") (param i32 i32) (result i64) {})
        (func (export "kasho_batch") (param $block i32) (param i32) (result i64)
          (i32.store (i32.const 0x300c) (i32.load offset=36 (local.get $block))) {}))"#,
        answer(0x1000, needs.len()),
        answer(0x2000, wanted.len()),
        answer(0x3000, block.len())
    );
    let wasm = folder.join("ready.wasm");
    std::fs::write(&wasm, wat::parse_str(&module).expect("WebAssembly text")).expect("file");
    wasm
}

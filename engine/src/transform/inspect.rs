//! What a `.wasm` file says of itself, read without running any of it; and the custom
//! sections that `kasho plugin build` puts into it.
//!
//! Whatever can be read is told, also of a file that no host would take: then with the
//! reason. What cannot be read at all is an error with the byte at which it ends.

use kasho_plugin_sdk::abi;
use serde::Serialize;
use sha2::{Digest, Sha256};
use wasmparser::{ExternalKind, Parser, Payload, TypeRef};

use super::check;
use super::description::{self, Description};
use super::host::hex;
use super::wasi;

/// The custom section with the fixtures: a JSON array of `{"file", "text"}`, each the text
/// of one fixture file.
pub const FIXTURES_SECTION: &str = "kasho.fixtures";

/// A file, looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Bytes.
    pub size: usize,
    /// SHA-256, hexadecimal: what `sha256 =` of a binding pins.
    pub sha256: String,
    /// The ABI it speaks, if it has a marker: 1.
    pub abi: Option<String>,
    /// What it imports: module, name, kind.
    pub imports: Vec<(String, String, &'static str)>,
    /// What it exports: name, kind.
    pub exports: Vec<(String, &'static str)>,
    /// Functions with a body.
    pub functions: u32,
    /// Linear memory at the start and at most, in pages of 64 KiB.
    pub memory_pages: Option<(u64, Option<u64>)>,
    /// Bytes by section, the largest first.
    pub sections: Vec<(String, usize)>,
    /// What the section `kasho.plugin` says, if it is there and can be read.
    pub metadata: Option<Description>,
    /// Names of the fixtures it carries.
    pub fixtures: Vec<String>,
    /// Its binding has to say `wasi = true`.
    pub wasi: bool,
    /// Why the service would not take it.
    pub refused: Option<String>,
}

/// Looks at a file.
///
/// # Errors
/// It is no WebAssembly, or ends too early; which byte.
pub fn inspect(wasm: &[u8], max_bytes: usize) -> Result<Inspection, String> {
    let mut found = Inspection {
        size: wasm.len(),
        sha256: hex(&Sha256::digest(wasm)),
        abi: None,
        imports: Vec::new(),
        exports: Vec::new(),
        functions: 0,
        memory_pages: None,
        sections: Vec::new(),
        metadata: None,
        fixtures: Vec::new(),
        wasi: false,
        refused: None,
    };
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(|e| unreadable(&e))?;
        found.read(payload).map_err(|e| unreadable(&e))?;
    }
    found.wasi = found.imports.iter().any(|(module, ..)| module == wasi::MODULE);
    found.refused = check::check(wasm, max_bytes, found.wasi).err();
    found.sections.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let marker = |(name, _): &(String, &str)| name.strip_prefix("kasho_abi_").map(str::to_owned);
    found.abi = found.exports.iter().find_map(marker);
    Ok(found)
}

fn unreadable(error: &wasmparser::BinaryReaderError) -> String {
    format!("not WebAssembly: {} (byte {})", error.message(), error.offset())
}

impl Inspection {
    fn read(&mut self, payload: Payload<'_>) -> Result<(), wasmparser::BinaryReaderError> {
        if let Some((id, range)) = payload.as_section() {
            let name = match &payload {
                Payload::CustomSection(section) => section.name(),
                _ => section_name(id),
            };
            self.sections.push((name.to_owned(), range.len()));
        }
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    let kind = match import.ty {
                        TypeRef::Func(_) | TypeRef::FuncExact(_) => "function",
                        TypeRef::Memory(_) => "memory",
                        TypeRef::Table(_) => "table",
                        TypeRef::Global(_) => "global",
                        TypeRef::Tag(_) => "tag",
                    };
                    self.imports.push((import.module.to_owned(), import.name.to_owned(), kind));
                }
            }
            Payload::FunctionSection(section) => self.functions = section.count(),
            Payload::MemorySection(section) => {
                for memory in section {
                    let memory = memory?;
                    self.memory_pages = Some((memory.initial, memory.maximum));
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    let kind = match export.kind {
                        ExternalKind::Func | ExternalKind::FuncExact => "function",
                        ExternalKind::Memory => "memory",
                        ExternalKind::Table => "table",
                        ExternalKind::Global => "global",
                        ExternalKind::Tag => "tag",
                    };
                    self.exports.push((export.name.to_owned(), kind));
                }
            }
            Payload::CustomSection(section) if section.name() == abi::METADATA_SECTION => {
                self.metadata = description::read(section.data()).ok();
            }
            Payload::CustomSection(section) if section.name() == FIXTURES_SECTION => {
                let names = embedded(section.data()).into_iter();
                self.fixtures = names.map(|(name, _)| name).collect();
            }
            _ => {}
        }
        Ok(())
    }
}

fn section_name(id: u8) -> &'static str {
    const NAMES: [&str; 13] = [
        "custom",
        "type",
        "import",
        "function",
        "table",
        "memory",
        "global",
        "export",
        "start",
        "element",
        "code",
        "data",
        "data count",
    ];
    NAMES.get(usize::from(id)).copied().unwrap_or("other")
}

/// Whether a module needs `wasi = true` in its binding.
#[must_use]
pub fn needs_wasi(wasm: &[u8]) -> bool {
    let imports = Parser::new(0).parse_all(wasm).find_map(|payload| match payload {
        Ok(Payload::ImportSection(section)) => Some(section),
        _ => None,
    });
    let mut imports = imports.into_iter().flat_map(|section| section.into_imports());
    imports.any(|import| import.is_ok_and(|import| import.module == wasi::MODULE))
}

/// The fixtures of a module, name and text; none if it carries none.
#[must_use]
pub fn fixtures(wasm: &[u8]) -> Vec<(String, String)> {
    custom(wasm, FIXTURES_SECTION).map(embedded).unwrap_or_default()
}

/// The content of a module's custom section of this name, if it has one.
#[must_use]
pub fn custom<'a>(wasm: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let payloads = Parser::new(0).parse_all(wasm).map_while(Result::ok);
    let mut sections = payloads.filter_map(|payload| match payload {
        Payload::CustomSection(section) if section.name() == name => Some(section.data()),
        _ => None,
    });
    sections.next()
}

fn embedded(json: &[u8]) -> Vec<(String, String)> {
    let files: Vec<serde_json::Value> = serde_json::from_slice(json).unwrap_or_default();
    let text = |file: &serde_json::Value, key| Some(file[key].as_str()?.to_owned());
    files.iter().filter_map(|f| Some((text(f, "file")?, text(f, "text")?))).collect()
}

/// The module with these custom sections at its end, in place of those of the same names.
///
/// # Errors
/// It is no WebAssembly.
pub fn with_sections(wasm: &[u8], sections: &[(&str, &[u8])]) -> Result<Vec<u8>, String> {
    let names: Vec<&str> = sections.iter().map(|(name, _)| *name).collect();
    let mut out = without_sections(wasm, &names)?;
    for (name, data) in sections {
        let mut content = Vec::new();
        leb128(name.len(), &mut content);
        content.extend_from_slice(name.as_bytes());
        content.extend_from_slice(data);
        out.push(0);
        leb128(content.len(), &mut out);
        out.extend_from_slice(&content);
    }
    Ok(out)
}

/// The module without the custom sections of these names.
pub(super) fn without_sections(wasm: &[u8], names: &[&str]) -> Result<Vec<u8>, String> {
    let mut out = wasm.get(..8).unwrap_or_default().to_vec();
    let mut copied = 8;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(|e| unreadable(&e))?;
        let Some((_, range)) = payload.as_section() else { continue };
        let left_out = match &payload {
            Payload::CustomSection(section) => names.contains(&section.name()),
            _ => false,
        };
        // From the end of the section before: id and length precede the content.
        if !left_out {
            out.extend_from_slice(wasm.get(copied..range.end).unwrap_or_default());
        }
        copied = range.end;
    }
    Ok(out)
}

/// An unsigned number as WebAssembly's binary format has it (Core Specification, 5.2.2).
fn leb128(mut n: usize, out: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(n & 0x7F).unwrap_or(0);
        n >>= 7;
        if n == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn sections_are_added_and_replaced_and_nothing_else_changes() {
        let text = r#"(module (import "kasho_1" "log" (func (param i32 i32 i32)))
            (memory (export "memory") 1) (func $f (export "kasho_abi_1")))"#;
        let bare = wat::parse_str(text).unwrap();
        let long = vec![b' '; 300];
        let fixtures = br#"[{"file": "a.toml", "text": "x"}]"#;
        let first = with_sections(&bare, &[("kasho.plugin", &long)]).unwrap();
        let sections: [(&str, &[u8]); 2] =
            [(abi::METADATA_SECTION, br#"{"name": "n"}"#), (FIXTURES_SECTION, fixtures)];
        let whole = with_sections(&first, &sections).unwrap();
        assert_eq!(whole, with_sections(&bare, &sections).unwrap());
        assert!(whole.starts_with(&bare));
        let found = inspect(&whole, 1 << 20).unwrap();
        assert_eq!(found.metadata.unwrap().name, "n");
        assert_eq!(found.fixtures, ["a.toml"]);
        assert_eq!(super::fixtures(&whole), [("a.toml".to_owned(), "x".to_owned())]);
        assert_eq!(found.abi.as_deref(), Some("1"));
        assert_eq!((found.functions, found.memory_pages), (1, Some((1, None))));
        assert_eq!(found.imports[0].1, "log");
        assert!(found.refused.unwrap().contains("kasho_alloc"));
        let sum: usize = found.sections.iter().map(|(_, bytes)| bytes).sum();
        assert!(sum < whole.len() && sum + 80 > whole.len(), "{sum} of {}", whole.len());
    }

    #[test]
    fn what_is_no_module_says_where_it_ends() {
        assert!(inspect(b"(module)", 1 << 20).unwrap_err().contains("byte"));
        let bare = wat::parse_str("(module (func))").unwrap();
        assert!(inspect(&bare[..bare.len() - 1], 1 << 20).is_err());
        assert!(with_sections(b"\x7fELF", &[]).is_err());
    }
}

//! Looking at a plugin without running it: is it a core module of ABI 1, and does it ask
//! for nothing it may not have.
//!
//! Everything is validated before anything is compiled, with the parser and the features
//! that the compiler uses. Every refusal is a sentence with the likely cure; nothing here
//! has seen a row, so names from the file are shown.

use kasho_plugin_sdk::abi;
use wasmparser::{
    CompositeInnerType, ExternalKind, FuncType, Parser, Payload, TypeRef, ValType, Validator,
    WasmFeatures,
};

use super::description::{self, Description};
use super::wasi;

/// Functions of one module: compiling is linear in them, and it is nobody's sandbox.
const MAX_FUNCTIONS: u32 = 50_000;

const I32: ValType = ValType::I32;
const I64: ValType = ValType::I64;

/// Exports of ABI 1: name, parameters, results, required.
const EXPORTS: [(&str, &[ValType], &[ValType], bool); 6] = [
    (abi::MARKER, &[], &[], true),
    ("kasho_alloc", &[I32], &[I32], true),
    ("kasho_init", &[I32, I32], &[I64], true),
    ("kasho_relation", &[I32, I32], &[I64], true),
    ("kasho_batch", &[I32, I32], &[I64], true),
    ("_initialize", &[], &[], false),
];

/// Imports that the host has.
const IMPORTS: [(&str, &[ValType]); 4] = [
    ("prf", &[I32, I32, I32, I32, I32]),
    ("fail", &[I32, I32, I32, I32, I32, I32]),
    ("log", &[I32, I32, I32]),
    ("count", &[I32, I64]),
];

/// What a module says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Checked {
    /// Has an `_initialize`.
    pub(super) initialize: bool,
    /// What its description says; nothing if it has none.
    pub(super) description: Description,
}

/// The features of WebAssembly that a guest may use: what compilers emit today, and
/// nothing that lets two runs differ or that a tier-1 platform does not fuzz.
pub(super) fn features() -> WasmFeatures {
    WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::SIMD
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::FLOATS
}

/// Checks a module; `wasi`: it may have the imports of [`wasi`](super::wasi).
///
/// # Errors
/// Why it is none that can be run here, and what to do.
pub(super) fn check(wasm: &[u8], max_bytes: usize, wasi: bool) -> Result<Checked, String> {
    magic(wasm)?;
    if wasm.len() > max_bytes {
        let (has, may) = (wasm.len() >> 10, max_bytes >> 10);
        return Err(format!(
            "{has} KiB, above max_file_mib ({may} KiB): raise it, or build with `kasho plugin build`"
        ));
    }
    let invalid = |e: wasmparser::BinaryReaderError| {
        let (what, at) = (e.message(), e.offset());
        format!(
            "not a valid module: {what} (byte {at}); it is truncated, or built for features that \
             are off: copy it anew, or build it with `kasho plugin build`"
        )
    };
    let outline = Outline::read(wasm).map_err(invalid)?;
    // First, because what it imports says most about why the rest is not as it should be.
    for (module, name, ty) in &outline.imports {
        outline.may_import(module, name, *ty, wasi)?;
    }
    Validator::new_with_features(features()).validate_all(wasm).map_err(invalid)?;
    outline.judge()
}

fn magic(wasm: &[u8]) -> Result<(), String> {
    if wasm.starts_with(b"\x7fELF")
        || wasm.starts_with(b"\xcf\xfa\xed\xfe")
        || wasm.starts_with(b"MZ")
    {
        return Err(
            "machine code (a compiled artefact), not a WebAssembly module: only .wasm is taken"
                .to_owned(),
        );
    }
    if !wasm.starts_with(b"\0asm") {
        return Err(
            "not a WebAssembly module (it does not begin with \\0asm): only .wasm is taken"
                .to_owned(),
        );
    }
    match wasm.get(4..8) {
        Some([1, 0, 0, 0]) => Ok(()),
        Some([_, _, 1, 0]) => {
            Err("a WebAssembly component: build a core module, target wasm32-unknown-unknown"
                .to_owned())
        }
        _ => {
            Err("WebAssembly of an unknown version, or truncated: copy or build it anew".to_owned())
        }
    }
}

/// The parts of a valid module that matter here.
#[derive(Default)]
struct Outline<'a> {
    types: Vec<Option<FuncType>>,
    imports: Vec<(&'a str, &'a str, TypeRef)>,
    functions: Vec<u32>,
    memories: u32,
    exports: Vec<(&'a str, ExternalKind, u32)>,
    metadata: Option<&'a [u8]>,
}

impl<'a> Outline<'a> {
    fn read(wasm: &'a [u8]) -> Result<Outline<'a>, wasmparser::BinaryReaderError> {
        let mut outline = Outline::default();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::TypeSection(section) => {
                    for group in section {
                        for ty in group?.into_types() {
                            outline.types.push(match ty.composite_type.inner {
                                CompositeInnerType::Func(f) => Some(f),
                                _ => None,
                            });
                        }
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        if let TypeRef::Func(ty) = import.ty {
                            outline.functions.push(ty);
                        }
                        outline.imports.push((import.module, import.name, import.ty));
                    }
                }
                Payload::FunctionSection(section) => {
                    for ty in section {
                        outline.functions.push(ty?);
                    }
                }
                Payload::MemorySection(section) => outline.memories = section.count(),
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        outline.exports.push((export.name, export.kind, export.index));
                    }
                }
                Payload::CustomSection(s) if s.name() == abi::METADATA_SECTION => {
                    outline.metadata = Some(s.data());
                }
                _ => {}
            }
        }
        Ok(outline)
    }

    fn judge(&self) -> Result<Checked, String> {
        if self.functions.len() > MAX_FUNCTIONS as usize {
            let has = self.functions.len();
            return Err(format!(
                "it has {has} functions, above {MAX_FUNCTIONS}: leave out what it does not need"
            ));
        }
        if self.memories != 1 || self.export("memory").map(|e| e.1) != Some(ExternalKind::Memory) {
            return Err("the export `memory` is missing: it must define one memory and export it under this name".to_owned());
        }
        self.speaks_abi_1()?;
        for (name, params, results, required) in EXPORTS {
            match self.export(name) {
                None if required => {
                    return Err(format!(
                        "the export `{name}` is missing: use `export_plugin!`, or see ABI.md"
                    ));
                }
                None => {}
                Some((_, ExternalKind::Func, index))
                    if self.is(self.function(*index), params, results) => {}
                Some(_) => {
                    return Err(format!(
                        "the export `{name}` has not the type that ABI 1 gives it, {}: use \
                         `export_plugin!`, or see ABI.md",
                        signature(params, results)
                    ));
                }
            }
        }
        Ok(Checked {
            initialize: self.export("_initialize").is_some(),
            description: self.metadata.map(description::read).transpose()?.unwrap_or_default(),
        })
    }

    fn speaks_abi_1(&self) -> Result<(), String> {
        if self.export(abi::MARKER).is_some() {
            return Ok(());
        }
        let other = self.exports.iter().find(|e| e.0.starts_with("kasho_abi_"));
        Err(match other {
            Some((name, ..)) => format!(
                "it exports `{name}`, this host speaks `{}`: build it with an SDK of this host's \
                 major version",
                abi::MARKER
            ),
            None => format!(
                "no Kasho plugin: the export `{}` is missing: use `export_plugin!`, or see ABI.md",
                abi::MARKER
            ),
        })
    }

    fn may_import(&self, module: &str, name: &str, ty: TypeRef, wasi: bool) -> Result<(), String> {
        let own = IMPORTS.iter().map(|(known, params)| (abi::IMPORTS, *known, *params, &[][..]));
        let shim = wasi::IMPORTS.iter().filter(|_| wasi).map(|f| (wasi::MODULE, f.0, f.1, f.2));
        let known = own.chain(shim).find(|f| module == f.0 && name == f.1);
        let Some((_, _, params, results)) = known else {
            return Err(format!(
                "it imports `{module}.{name}`, which no host has: {}",
                cure(module, name)
            ));
        };
        match ty {
            TypeRef::Func(index) if self.is(self.types.get(index as usize), params, results) => {
                Ok(())
            }
            _ => Err(format!(
                "it imports `{module}.{name}` with another type than it has here, {}: use the \
                 SDK's, or see ABI.md",
                signature(params, results)
            )),
        }
    }

    fn is<'t>(
        &self,
        ty: Option<impl Into<FuncRef<'t>>>,
        params: &[ValType],
        results: &[ValType],
    ) -> bool {
        ty.map(Into::into)
            .and_then(|f: FuncRef<'t>| f.0)
            .is_some_and(|f| f.params() == params && f.results() == results)
    }

    fn export(&self, name: &str) -> Option<&(&'a str, ExternalKind, u32)> {
        self.exports.iter().find(|e| e.0 == name)
    }

    fn function(&self, index: u32) -> Option<&Option<FuncType>> {
        self.types.get(*self.functions.get(index as usize)? as usize)
    }
}

struct FuncRef<'t>(Option<&'t FuncType>);

impl<'t> From<&'t Option<FuncType>> for FuncRef<'t> {
    fn from(ty: &'t Option<FuncType>) -> Self {
        FuncRef(ty.as_ref())
    }
}

/// A function's type as it stands in WebAssembly's text form.
fn signature(params: &[ValType], results: &[ValType]) -> String {
    let words = |word: &str, types: &[ValType]| {
        let types: String = types.iter().map(|ty| format!(" {ty}")).collect();
        if types.is_empty() { String::new() } else { format!(" ({word}{types})") }
    };
    format!("(func{}{})", words("param", params), words("result", results))
}

fn cure(module: &str, name: &str) -> &'static str {
    match (module, name) {
        ("env", "abort") => "build AssemblyScript with `--use abort=`",
        ("env", "memcpy" | "memmove" | "memset") => "build C with `-mbulk-memory`",
        ("env", _) => "an undefined symbol was left to the linker; look for a missing function",
        ("__wbindgen_placeholder__" | "wbg", _) => {
            "a crate built for browsers (wasm-bindgen) is linked in; turn its `js` feature off"
        }
        (wasi::MODULE, name) if wasi::IMPORTS.iter().any(|f| f.0 == name) => {
            "build for wasm32-unknown-unknown; there is no clock, randomness, file or network in \
             here. Go cannot do without this one: say `wasi = true` in its binding"
        }
        (m, _) if m.starts_with("wasi") => {
            "build for wasm32-unknown-unknown; there is no clock, randomness, file or network in here"
        }
        (abi::IMPORTS, _) => {
            "the SDK is newer than this host: take a newer host, or the SDK of this one"
        }
        (m, _) if m.starts_with("kasho_") => {
            "the SDK speaks another major version of the ABI: take the one of this host"
        }
        _ => "take out what needs it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"(memory (export "memory") 1)
        (func (export "kasho_abi_1"))
        (func (export "kasho_alloc") (param i32) (result i32) i32.const 0)
        (func (export "kasho_init") (param i32 i32) (result i64) i64.const 0)
        (func (export "kasho_relation") (param i32 i32) (result i64) i64.const 0)
        (func (export "kasho_batch") (param i32 i32) (result i64) i64.const 0)"#;

    fn wat(body: &str) -> Result<Checked, String> {
        check(&wat::parse_str(format!("(module {body})")).unwrap(), 1 << 20, false)
    }

    fn refusal(body: &str) -> String {
        wat(body).unwrap_err()
    }

    #[test]
    fn a_whole_plugin_is_accepted() {
        let imports = r#"(import "kasho_1" "prf" (func (param i32 i32 i32 i32 i32)))"#;
        let checked = wat(&format!("{imports} {WHOLE}")).unwrap();
        assert!(!checked.initialize);
    }

    #[test]
    fn a_plugin_may_say_what_it_is() {
        let section = |json: &str| {
            let json = json.replace('"', "\\\"");
            wat(&format!("{WHOLE} (@custom \"kasho.plugin\" \"{json}\")"))
        };
        let said = section(r#"{"name":"mask","version":"1.2","sdk":"c/1","later":1}"#).unwrap();
        let own = said.description;
        assert_eq!([own.name, own.version, own.language, own.sdk], ["mask", "1.2", "", "c/1"]);
        for bad in
            ["", "1", r#"{"version":1}"#, &format!(r#"{{"name":"{}"}}"#, "n".repeat(65 << 10))]
        {
            assert!(section(bad).unwrap_err().contains("`kasho.plugin`"), "{bad:.40}");
        }
    }

    #[test]
    fn refusals_name_the_cure() {
        for (import, cure) in [
            (r#"(import "env" "abort" (func (param i32 i32 i32 i32)))"#, "--use abort="),
            (r#"(import "env" "memcpy" (func))"#, "-mbulk-memory"),
            (r#"(import "wasi_snapshot_preview1" "random_get" (func))"#, "no clock, randomness"),
            (r#"(import "kasho_1" "clock" (func))"#, "newer than this host"),
            (r#"(import "kasho_2" "prf" (func))"#, "another major version"),
            (r#"(import "kasho_1" "prf" (func (param i32)))"#, "another type"),
            (r#"(import "kasho_1" "prf" (global i32))"#, "another type"),
            (r#"(import "env" "memory" (memory 1))"#, "undefined symbol"),
        ] {
            let text = refusal(&format!("{import} {WHOLE}"));
            assert!(text.contains(cure), "{text}");
        }
        assert!(refusal("").contains("one memory"));
        assert!(refusal(r#"(memory (export "memory") 1)"#).contains("no Kasho plugin"));
        assert!(refusal(&WHOLE.replace("abi_1", "abi_2")).contains("exports `kasho_abi_2`"));
        assert!(
            refusal(&WHOLE.replace("kasho_alloc", "alloc")).contains("`kasho_alloc` is missing")
        );
        assert!(
            refusal(&WHOLE.replace("(param i32) (result i32) i32.const 0", ""))
                .contains("not the type")
        );
    }

    #[test]
    fn other_files_are_told_apart() {
        for (bytes, want) in [
            (&b"\x7fELF\x02\x01\x01"[..], "compiled artefact"),
            (b"(module)", "does not begin with"),
            (b"\0asm\x0d\0\x01\0", "component"),
            (b"\0asm", "truncated"),
            (b"", "does not begin with"),
        ] {
            assert!(check(bytes, 1 << 20, false).unwrap_err().contains(want));
        }
        let whole = wat::parse_str(format!("(module {WHOLE})")).unwrap();
        assert!(check(&whole, 64, false).unwrap_err().contains("max_file_mib"));
        for len in 0..whole.len() {
            assert!(check(&whole[..len], 1 << 20, false).is_err(), "truncated at {len}");
        }
    }

    #[test]
    fn features_that_are_off_are_refused() {
        for body in [
            "(memory i64 1)",
            "(memory 1) (memory 1)",
            "(memory 1 1 shared)",
            "(func (result i32) return_call 0)",
            "(type (struct))",
            "(tag)",
        ] {
            let Ok(wasm) = wat::parse_str(format!("(module {body})")) else { panic!("{body}") };
            assert!(
                check(&wasm, 1 << 20, false).unwrap_err().contains("not a valid module"),
                "{body}"
            );
        }
    }
}

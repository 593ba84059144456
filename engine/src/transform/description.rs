//! What a plugin says of itself in its file, read without running it: the custom section
//! `kasho.plugin` (ABI.md). Whoever takes a file, looks at one or lists them reads it here,
//! so that what one of them takes, all do.
//!
//! What can go wrong: the file is no module, or its section is no such JSON. Texts are shown
//! in printable form: nobody has checked who wrote them.

use kasho_plugin_sdk::abi;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wasmparser::{Parser, Payload};

/// Bytes of the section (ABI.md).
const MOST: usize = 64 << 10;

/// A plugin's description. What it does not say is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is written in.
    pub language: String,
    /// Version of the SDK.
    pub sdk: String,
    /// Its transforms.
    pub transforms: Vec<Transform>,
}

/// A transform of a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Transform {
    /// Its name in rules.
    pub name: String,
    /// Other names that rules may use.
    pub aliases: Vec<String>,
    /// What it does.
    pub doc: String,
    /// Types of the columns that it fits.
    pub columns: String,
    /// What it offers where different values must stay different.
    pub unique: String,
    /// A rule, a value, and what becomes of it.
    pub example: Example,
    /// Its options.
    pub options: Vec<Setting>,
}

/// An example of a transform.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Example {
    /// A line of `[transform.rules]`.
    pub rule: String,
    /// A value or a row.
    #[serde(rename = "in")]
    pub input: String,
    /// What becomes of it.
    #[serde(rename = "out")]
    pub output: String,
}

/// An option of a transform.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// What its value is.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is if it is not set; null if it has to be.
    pub default: Value,
    /// What it does.
    pub doc: String,
}

/// The description in a plugin's file, if it has one.
///
/// # Errors
/// It is no module, or the section is not as it should be.
pub fn describe(wasm: &[u8]) -> Result<Option<Description>, String> {
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(|e| format!("not a WebAssembly module: {}", e.message()))?;
        let Payload::CustomSection(section) = payload else { continue };
        if section.name() != abi::METADATA_SECTION {
            continue;
        }
        return read(section.data()).map(Some);
    }
    Ok(None)
}

/// The description in the section's content.
///
/// # Errors
/// It is too long, or not as it should be.
pub(super) fn read(section: &[u8]) -> Result<Description, String> {
    let name = abi::METADATA_SECTION;
    if section.len() > MOST {
        return Err(format!(
            "its section `{name}` is longer than {} KiB: shorten what it says of itself",
            MOST >> 10
        ));
    }
    // The parser's words quote what it read.
    serde_json::from_slice(section).map_err(|e| {
        format!(
            "its section `{name}` is no JSON that describes a plugin (line {}, column {}): see ABI.md",
            e.line(),
            e.column()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::inspect::inspect;
    use super::*;

    fn wasm(section: &str) -> Vec<u8> {
        let section = section.replace('"', "\\22").replace('\n', " ");
        wat::parse_str(format!("(module (@custom \"kasho.plugin\" \"{section}\"))")).unwrap()
    }

    #[test]
    fn a_description_is_read_without_running_anything() {
        let all = include_str!("../../../plugins/filter/plugin.json").replace('\\', "\\\\");
        let found = describe(&wasm(&all)).unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.transforms.len()), ("filter", 2));
        assert_eq!(found.transforms[0].options[1].default, Value::Bool(false));
        assert_eq!(describe(&wasm("{\"name\": \"x\"}")).unwrap().unwrap().name, "x");
        assert_eq!(describe(&wat::parse_str("(module)").unwrap()), Ok(None));
    }

    #[test]
    fn whoever_reads_a_section_reads_the_same() {
        let padded = |bytes: usize| {
            let spaces = " ".repeat(bytes - "{\"name\": \"x\"}".len());
            wasm(&format!("{{\"name\": \"x\"}}{spaces}"))
        };
        for (wasm, taken) in [
            (padded(MOST), true),
            (padded(MOST + 1), false),
            (wasm("{\"name\": 7}"), false),
            (wasm("{\"transforms\": [{\"name\": 7}]}"), false),
            (wasm(""), false),
        ] {
            let found = inspect(&wasm, 1 << 20).unwrap();
            assert_eq!((describe(&wasm).is_ok(), found.metadata.is_some()), (taken, taken));
        }
    }

    #[test]
    fn what_is_none_is_told() {
        let told = describe(&wasm("{\"name\": 7}")).unwrap_err();
        let want = "its section `kasho.plugin` is no JSON that describes a plugin (line 1, column 10): \
                    see ABI.md";
        assert_eq!(told, want);
        assert!(describe(b"no module").unwrap_err().starts_with("not a WebAssembly module"));
    }
}

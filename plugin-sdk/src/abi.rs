//! The JSON of ABI 1's init and relation calls, and the numbers both sides share.
//!
//! Unknown keys are skipped in what the host says (a newer host may say more) and
//! refused in what a guest says: a wish that the host does not know must never be
//! silently ignored. Parsing fails as serde does; nothing else can go wrong here.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::event::{Op, Relation};

/// The version of this contract.
pub const VERSION: &str = "1.0";
/// The module that optional imports come from; its number is the major version.
pub const IMPORTS: &str = "kasho_1";
/// The marker export.
pub const MARKER: &str = "kasho_abi_1";
/// The custom section that describes a plugin without running it.
pub const METADATA_SECTION: &str = "kasho.plugin";
/// A call's answer that means "no answer": an error.
pub const ANSWER_NONE: u64 = 0;
/// A call's answer that means "keep all" to a batch, "not wanted" to a relation.
pub const ANSWER_NOTHING: u64 = 1;
/// Feature: the import `prf`.
pub const FEATURE_PRF: &str = "prf";
/// Feature: commit times in batches.
pub const FEATURE_COMMIT_TIME: &str = "commit_time";
/// Bytes of one keyed hash.
pub const PRF_BYTES: usize = 16;
/// Most texts, and most domains, that an instance may declare.
pub const MAX_TEXTS: usize = 256;
/// Longest text or domain, in bytes.
pub const MAX_TEXT_BYTES: usize = 200;
/// The virtual relation of schema changes, as `schema.table`.
pub const DDL_RELATION: (&str, &str) = ("kasho", "ddl");
/// The virtual relation of logical messages, as `schema.table`.
pub const MESSAGE_RELATION: (&str, &str) = ("kasho", "message");

/// What the host says to `kasho_init`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Init {
    /// The host's ABI version, [`VERSION`] here.
    pub abi: String,
    /// The host's own version; for messages only.
    pub host: String,
    /// What a guest may use beyond the bare contract.
    #[serde(default)]
    pub features: Vec<String>,
    /// The binding's rules: the plugin's own configuration.
    #[serde(default)]
    pub rules: serde_json::Value,
    /// The ceilings of this binding.
    pub limits: Limits,
}

/// Ceilings that a guest is told of.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Linear memory, MiB.
    pub memory_mib: u32,
    /// Time of one call, milliseconds.
    pub deadline_ms: u32,
}

/// What a guest answers to init and relation calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer<T> {
    /// It agrees, with this.
    Ok(T),
    /// It does not.
    Error(Complaint),
}

/// Why a guest refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Complaint {
    /// What is wrong and how to mend it.
    pub text: String,
    /// Which rule, column or setting it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// What a guest asks for at init.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// Columns by table, checked against the catalogue. A table may be a pattern
    /// (see [`crate::pattern`]): then some table that it matches must have the column.
    #[serde(default)]
    pub needs: BTreeMap<String, Vec<String>>,
    /// The texts of row errors and counters, by index.
    #[serde(default)]
    pub texts: Vec<String>,
    /// The domains of keyed hashes, by index.
    #[serde(default)]
    pub domains: Vec<String>,
    /// Features it makes use of.
    #[serde(default)]
    pub uses: Vec<String>,
    /// Most rows it wants in one call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u32>,
    /// Deadline it wants for one call, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u32>,
    /// Linear memory it wants, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
}

/// What the host says to `kasho_relation`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Announcement {
    /// Forget this relation.
    Gone {
        /// Its id.
        id: u32,
        /// Always true.
        gone: Gone,
    },
    /// A relation, new or in place of an earlier one of the same id.
    Is(Relation),
}

/// The word `true`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl Serialize for Gone {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(true)
    }
}

impl<'de> Deserialize<'de> for Gone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Gone, D::Error> {
        match bool::deserialize(deserializer)? {
            true => Ok(Gone),
            false => Err(serde::de::Error::custom("`gone` is true or not there")),
        }
    }
}

/// What a guest does with a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// Nothing: it says so, that the column is accounted for. The guest never sees it.
    Pass,
    /// It sees the column.
    Read,
    /// It sees it and may patch it.
    Write,
    /// It sees it and patches every text of it.
    Mask,
    /// The column never leaves, and the guest never sees it.
    Drop,
}

/// One column of a guest's answer; its place is the column's slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnUse {
    /// Name in the source.
    pub name: String,
    /// What becomes of it.
    #[serde(rename = "use")]
    pub usage: Use,
    /// Fingerprint of the mapping, without the key, which the host adds.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The columns that its new value is made from, beside itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<String>,
    /// Of a column that is read: a rule says that it leaves as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passes: bool,
}

/// What a guest answers of a relation it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// The columns by slot.
    #[serde(default)]
    pub columns: Vec<ColumnUse>,
    /// Operations it wants rows of; others pass it by, which masks forbid.
    pub ops: Vec<Op>,
    /// Whether it wants commit times.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub commit_time: bool,
    /// Fingerprint of the rule by which it removes rows, if it does: part of what the
    /// host accounts for, as masks are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<String>,
    /// No row of it leaves, nor TRUNCATE. The host itself sees to that and does not call
    /// the guest, so nothing need be said of the columns.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drop: bool,
    /// Names that the table and its columns leave under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rename: Option<Rename>,
}

/// New names of a table and its columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// The table, `schema.table`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Columns, source name to target name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
}

/// Packs the place of an answer into the i64 that a call returns.
#[must_use]
pub fn pack_answer(ptr: u32, len: u32) -> u64 {
    u64::from(ptr) << 32 | u64::from(len)
}

/// The pointer and length of an answer that is neither 0 nor 1.
#[must_use]
pub fn unpack_answer(answer: u64) -> (u32, u32) {
    let low = u32::try_from(answer & 0xFFFF_FFFF).unwrap_or(0);
    (u32::try_from(answer >> 32).unwrap_or(0), low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_announced_and_taken_back() {
        let gone: Announcement = serde_json::from_str(r#"{"id":7,"gone":true}"#).unwrap();
        assert_eq!(gone, Announcement::Gone { id: 7, gone: Gone });
        assert_eq!(serde_json::to_string(&gone).unwrap(), r#"{"id":7,"gone":true}"#);
        let text = r#"{"id":7,"version":3,"schema":"public","table":"users","identity":"full",
            "later":1,"columns":[{"name":"email","type":"varchar","oid":1043,"base":"varchar",
            "typmod":24,"key":true,"not_null":true,"unique":true,"toastable":true}]}"#;
        let Announcement::Is(relation) = serde_json::from_str(text).unwrap() else { panic!() };
        assert_eq!(relation.columns[0].typmod, 24);
        assert!(serde_json::from_str::<Announcement>(r#"{"id":7,"gone":false}"#).is_err());
    }

    #[test]
    fn an_unknown_wish_of_a_guest_is_refused() {
        let ok = r#"{"ok":{"columns":[{"name":"a","use":"mask","as":"x/1"}],"ops":["insert"]}}"#;
        assert!(serde_json::from_str::<Answer<Wanted>>(ok).is_ok());
        for bad in [
            r#"{"ok":{"columns":[{"name":"a","use":"shred"}],"ops":[]}}"#,
            r#"{"ok":{"columns":[{"name":"a","use":"mask","salt":1}],"ops":[]}}"#,
            r#"{"ok":{"columns":[],"ops":["upsert"]}}"#,
            r#"{"ok":{"columns":[],"ops":[],"split":true}}"#,
        ] {
            assert!(serde_json::from_str::<Answer<Wanted>>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn answers_pack() {
        assert_eq!(unpack_answer(pack_answer(0xFFFF_FFF8, 40)), (0xFFFF_FFF8, 40));
    }
}

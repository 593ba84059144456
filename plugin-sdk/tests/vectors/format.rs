//! The shape of the test vectors in `plugin-sdk/vectors`, and what both who makes them and
//! who runs them does with it. A file that does not have the shape is a panic: that is how
//! a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(dead_code, reason = "the engine's tests take a part of it")]

use std::collections::BTreeMap;

use kasho_plugin_sdk::abi::Use;
use kasho_plugin_sdk::batch::{
    Decision, Field, Image, Input, InputBuilder, Malformed, NO_SLOT, Patch, Reply,
};
use kasho_plugin_sdk::{Op, Value};
use serde::{Deserialize, Serialize};

/// A value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cell {
    Absent,
    Null,
    Unchanged,
    Text(String),
}

impl Cell {
    pub(crate) fn field(&self) -> Field<'_> {
        match self {
            Cell::Absent => Field::Absent,
            Cell::Null => Field::Null,
            Cell::Unchanged => Field::Unchanged,
            Cell::Text(text) => Field::Text(text.as_bytes()),
        }
    }

    fn of(value: Value<'_>) -> Cell {
        match value {
            Value::Absent => Cell::Absent,
            Value::Null => Cell::Null,
            Value::Unchanged => Cell::Unchanged,
            Value::Text(text) => Cell::Text(text.to_owned()),
        }
    }
}

/// Which image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    New,
    Old,
}

impl From<Side> for Image {
    fn from(side: Side) -> Image {
        match side {
            Side::New => Image::New,
            Side::Old => Image::Old,
        }
    }
}

impl From<Image> for Side {
    fn from(image: Image) -> Side {
        match image {
            Image::New => Side::New,
            Image::Old => Side::Old,
        }
    }
}

/// One column of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Column {
    pub(crate) slot: u16,
    pub(crate) image: Side,
    pub(crate) values: Vec<Cell>,
}

/// What an input block says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rows {
    pub(crate) relation: u32,
    pub(crate) version: u32,
    pub(crate) call: u32,
    pub(crate) ops: Vec<Op>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) commit_us: Option<Vec<i64>>,
    pub(crate) columns: Vec<Column>,
}

impl Rows {
    /// As the reference writes it; to be finished, once.
    pub(crate) fn builder(&self) -> InputBuilder {
        let mut builder = InputBuilder::default();
        builder.begin(self.relation, self.version, self.call, self.ops.iter().copied());
        if let Some(times) = &self.commit_us {
            builder.commit_us(times.iter().copied()).unwrap();
        }
        for column in &self.columns {
            let fields = column.values.iter().map(Cell::field);
            builder.column(column.slot, column.image.into(), fields).unwrap();
        }
        builder
    }

    pub(crate) fn block(&self) -> Vec<u8> {
        self.builder().finish().unwrap().to_vec()
    }

    /// As the reference reads a block.
    pub(crate) fn read(block: &[u8]) -> Result<Rows, Malformed> {
        let input = Input::read(block)?;
        let columns = (0..input.columns).map(|i| {
            let column = input.column(i)?;
            let values = (0..input.rows).map(|row| Cell::of(column.value(row))).collect();
            Ok(Column { slot: column.slot, image: column.image.into(), values })
        });
        let times: Option<Vec<i64>> = (0..input.rows).map(|row| input.commit_us(row)).collect();
        Ok(Rows {
            relation: input.relation,
            version: input.version,
            call: input.call,
            ops: (0..input.rows).map(|row| input.op(row)).collect(),
            commit_us: times,
            columns: columns.collect::<Result<_, Malformed>>()?,
        })
    }
}

/// An error of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RowError {
    pub(crate) row: u32,
    pub(crate) text: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) slot: Option<u16>,
}

/// The new values of one slot and image, by row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PatchValues {
    pub(crate) slot: u16,
    pub(crate) image: Side,
    pub(crate) values: BTreeMap<usize, Cell>,
}

/// What a reply says. Patches stand by slot, the new image's first; the order in a block is
/// free.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Effects {
    pub(crate) verdicts: Vec<u8>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<RowError>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) patches: Vec<PatchValues>,
}

impl Effects {
    pub(crate) fn keep(rows: usize) -> Effects {
        Effects { verdicts: vec![Decision::Keep as u8; rows], ..Effects::default() }
    }

    pub(crate) fn of(reply: &Reply<'_>, rows: usize) -> Effects {
        let errors = reply.errors().iter().map(|e| RowError {
            row: e.row,
            text: e.text,
            slot: (e.slot != NO_SLOT).then_some(e.slot),
        });
        let values = |patch: &Patch<'_>| {
            let cell = |text: Option<&str>| text.map_or(Cell::Null, |t| Cell::Text(t.to_owned()));
            patch.entries().map(|(row, text)| (row, cell(text))).collect()
        };
        let mut patches: Vec<_> = reply
            .patches()
            .map(|p| PatchValues { slot: p.slot, image: p.image.into(), values: values(p) })
            .collect();
        patches.sort_by_key(|p| (p.slot, Image::from(p.image) as u8));
        Effects {
            verdicts: (0..rows).map(|row| reply.decision(row) as u8).collect(),
            errors: errors.collect(),
            patches,
        }
    }
}

/// A block as it comes to a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputVector {
    pub(crate) name: String,
    pub(crate) block: String,
    /// What it says; nothing if it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rows: Option<Rows>,
    /// Why it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<String>,
    /// A host writes these rows byte for byte so.
    pub(crate) written: bool,
}

/// A reply as it comes to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplyVector {
    pub(crate) name: String,
    /// The call that it answers.
    pub(crate) rows: Rows,
    /// What the guest said of each slot.
    pub(crate) slots: Vec<Use>,
    /// How many texts it declared.
    pub(crate) texts: usize,
    pub(crate) reply: String,
    /// What it does; nothing if it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) effects: Option<Effects>,
    /// Why it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<String>,
}

/// One call of the puppet, and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    pub(crate) name: String,
    /// `init`, `relation` or `batch`.
    pub(crate) call: String,
    /// JSON, or the rows of the block.
    pub(crate) says: serde_json::Value,
    /// The block, of a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) block: Option<String>,
    /// JSON, the effects of a batch, or 1.
    pub(crate) answer: serde_json::Value,
}

/// A whole life of the puppet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Life {
    pub(crate) name: String,
    /// The masking key, hexadecimal.
    pub(crate) master: String,
    pub(crate) steps: Vec<Step>,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// The file of vectors called so.
pub(crate) fn file(name: &str) -> std::path::PathBuf {
    let crate_folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.join("../plugin-sdk/vectors").join(name)
}

pub(crate) fn load<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(file(name)).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

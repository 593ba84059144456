//! A row as a stream entry: the map that stands in the field `d`, written straight from
//! the batch's cells into one reusable buffer, and read back by readers and tests.
//!
//! The format is a public contract: one map `{xid, ts, cols, oids, new, old, key}` in
//! MessagePack or JSON, `key` being the places of the columns that say which row it is,
//! where an update needs no `old` to say it because they kept their values, with `miss = true`
//! where the chain may have lost rows of the table, so that a change of one may find none, a
//! value being its text, nil for NULL, `true` for an unchanged
//! TOASTed value and `false` for one that is not part of the image. A schema change has
//! `ddl` too: `{search_path, username, database, settings, objects}`. Rows of the load may
//! stand in one entry: `rows.rs` tells of it. What can go wrong:
//! text that is not UTF-8 (a bug of the source: the encoding is pinned), and, when
//! reading, an entry that somebody else wrote.

use std::collections::BTreeMap;

use kasho_plugin_sdk::{Op, Relation};
use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use crate::batch::{Batch, Cell, Detail, Image, Piece, Row};
use crate::sink::config::Encoding;

pub use decode::{Content, DecodeError, Entry, EntryOp, Field, Layouts, RawEntry};
pub use rows::{Lines, ROWS, Rows, Value, size, together};

mod decode;
mod rows;

/// Names of load points that tables have from there on only (commit LSN and ordinal).
pub type Called = BTreeMap<String, (u64, u64)>;

/// Why a row could not be written. Names the column, never the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Text that is not UTF-8.
    #[error(
        "a value of column {column} of {table} is not valid UTF-8 although client_encoding is \
         pinned to it; the source database holds bytes that its encoding does not allow"
    )]
    NotUtf8 {
        /// Qualified name.
        table: String,
        /// Column.
        column: String,
    },
    /// The serializer refused; cannot happen when writing to memory.
    #[error("a row of {table} could not be encoded")]
    Failed {
        /// Qualified name.
        table: String,
    },
}

impl Encoding {
    /// Appends the map of `row` to `out`; on an error `out` is as it was.
    ///
    /// # Errors
    /// A text value that is not UTF-8.
    pub fn row(
        self,
        batch: &Batch,
        piece: &Piece,
        row: &Row,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let start = out.len();
        let data = RowData { batch, piece, row, relation: batch.relation_of(row) };
        self.map(&data, out).map_err(|()| {
            out.truncate(start);
            data.blame()
        })
    }

    /// Appends the map of an entry that closes a transaction whose last rows were dropped.
    pub fn commit(self, xid: u32, ts: i64, out: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Commit {
            xid: u32,
            ts: i64,
        }
        self.always(&Commit { xid, ts }, out);
    }

    /// Appends the map of an entry that tells readers to empty a table.
    pub fn restart(self, attempt: u64, load_lsn: &str, out: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Restart<'a> {
            attempt: u64,
            load_lsn: &'a str,
        }
        self.always(&Restart { attempt, load_lsn }, out);
    }

    /// Appends the map of the mark in the changes from which on `tables` are loaded again:
    /// their rows begin with entry number `section` of the bootstrap stream.
    pub fn mark(self, section: u64, tables: &[String], out: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Marked<'a> {
            section: u64,
            tables: &'a [String],
        }
        self.always(&Marked { section, tables }, out);
    }

    /// Appends the map of the entry that ends the load, or that of single tables: then
    /// `after` is their mark, where the changes go on. With `whole`, a table of which no row
    /// came is empty.
    pub fn end(
        self,
        start_lsn: &str,
        (load_points, called): (&BTreeMap<String, String>, &Called),
        (after, whole): (Option<&str>, bool),
        out: &mut Vec<u8>,
    ) {
        #[derive(Serialize)]
        struct End<'a> {
            start_lsn: &'a str,
            load_points: &'a BTreeMap<String, String>,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            called: &'a Called,
            #[serde(skip_serializing_if = "Option::is_none")]
            after: Option<&'a str>,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            whole: bool,
        }
        self.always(&End { start_lsn, load_points, called, after, whole }, out);
    }

    /// Texts and numbers into memory: there is nothing that could fail.
    fn always<T: Serialize>(self, value: &T, out: &mut Vec<u8>) {
        let done = self.map(value, out);
        debug_assert!(done.is_ok());
    }

    fn map<T: Serialize>(self, value: &T, out: &mut Vec<u8>) -> Result<(), ()> {
        match self {
            Encoding::Msgpack => {
                let mut to = rmp_serde::Serializer::new(out).with_struct_map();
                value.serialize(&mut to).map_err(drop)
            }
            Encoding::Json => serde_json::to_writer(out, value).map_err(drop),
        }
    }
}

/// The field `t`: the table, or all tables of a truncate.
#[must_use]
pub fn tables(batch: &Batch, row: &Row) -> String {
    match row.detail.as_deref() {
        Some(Detail::Truncate { relations, .. }) => {
            let names = relations.iter().map(|&r| batch.relations[r as usize].qualified());
            names.collect::<Vec<_>>().join(",")
        }
        Some(Detail::Message { .. } | Detail::Ddl(_)) | None => batch.relation_of(row).qualified(),
    }
}

#[derive(Clone, Copy)]
struct RowData<'a> {
    batch: &'a Batch,
    piece: &'a Piece,
    row: &'a Row,
    relation: &'a Relation,
}

impl RowData<'_> {
    /// Which value could not be written: looked for only once something failed.
    fn blame(&self) -> EncodeError {
        let table = self.relation.qualified();
        for image in [self.row.new, self.row.old].into_iter().flatten() {
            for (cell, column) in self.batch.cells(image).iter().zip(&self.relation.columns) {
                let text = self.batch.text(*cell);
                if text.is_some_and(|bytes| std::str::from_utf8(bytes).is_err()) {
                    return EncodeError::NotUtf8 { table, column: column.name.clone() };
                }
            }
        }
        EncodeError::Failed { table }
    }

    fn image(&self, image: Image) -> Cells<'_> {
        let binary = self.row.op == Op::Message;
        Cells { batch: self.batch, cells: self.batch.cells(image), binary }
    }

    fn truncate<S: Serializer>(
        &self,
        to: S,
        relations: &[u32],
        cascade: bool,
        restart: bool,
    ) -> Result<S::Ok, S::Error> {
        let names: Vec<String> =
            relations.iter().map(|&r| self.batch.relations[r as usize].qualified()).collect();
        let mut map = to.serialize_map(Some(5))?;
        map.serialize_entry("xid", &self.piece.xid)?;
        map.serialize_entry("ts", &self.piece.commit_us)?;
        map.serialize_entry("tables", &names)?;
        map.serialize_entry("cascade", &cascade)?;
        map.serialize_entry("restart_identity", &restart)?;
        map.end()
    }
}

impl Serialize for RowData<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (mut transactional, mut ddl) = (None, None);
        match self.row.detail.as_deref() {
            Some(Detail::Truncate { relations, cascade, restart_identity }) => {
                return self.truncate(to, relations, *cascade, *restart_identity);
            }
            Some(Detail::Message { transactional: within }) => transactional = Some(*within),
            Some(Detail::Ddl(detail)) => ddl = Some(detail),
            None => {}
        }
        let (new, old) = (self.row.new, self.row.old);
        let key = (self.row.op == Op::Update && old.is_none()).then_some(Key(self.relation));
        let miss = self.batch.aside.lossy.binary_search(&self.row.relation).is_ok();
        let told = transactional.is_some() || ddl.is_some();
        let rare = [new.is_some(), old.is_some(), told, key.is_some(), miss];
        let rare = rare.into_iter().filter(|there| *there).count();
        let mut map = to.serialize_map(Some(4 + rare))?;
        map.serialize_entry("xid", &self.piece.xid)?;
        map.serialize_entry("ts", &self.piece.commit_us)?;
        map.serialize_entry("cols", &Names(self.relation))?;
        map.serialize_entry("oids", &Oids(self.relation))?;
        if let Some(transactional) = transactional {
            map.serialize_entry("transactional", &transactional)?;
        }
        if miss {
            map.serialize_entry("miss", &true)?;
        }
        if let Some(image) = new {
            map.serialize_entry("new", &self.image(image))?;
        }
        if let Some(image) = old {
            map.serialize_entry("old", &self.image(image))?;
        }
        if let Some(key) = key {
            map.serialize_entry("key", &key)?;
        }
        if let Some(ddl) = ddl {
            map.serialize_entry("ddl", ddl)?;
        }
        map.end()
    }
}

struct Key<'a>(&'a Relation);

impl Serialize for Key<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let keyed = || self.0.columns.iter().enumerate().filter(|(_, column)| column.key);
        let mut seq = to.serialize_seq(Some(keyed().count()))?;
        for (place, _) in keyed() {
            seq.serialize_element(&place)?;
        }
        seq.end()
    }
}

struct Names<'a>(&'a Relation);

impl Serialize for Names<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.columns.iter().map(|column| column.name.as_str()))
    }
}

struct Oids<'a>(&'a Relation);

impl Serialize for Oids<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.columns.iter().map(|column| column.oid))
    }
}

struct Cells<'a> {
    batch: &'a Batch,
    cells: &'a [Cell],
    /// A logical message's content may be any bytes.
    binary: bool,
}

impl Serialize for Cells<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let readable = to.is_human_readable();
        let mut seq = to.serialize_seq(Some(self.cells.len()))?;
        for cell in self.cells {
            match *cell {
                Cell::Text(span) => {
                    let bytes = self.batch.span(span);
                    match std::str::from_utf8(bytes) {
                        Ok(text) => seq.serialize_element(text)?,
                        Err(_) if !self.binary => return Err(S::Error::custom("not UTF-8")),
                        Err(_) if readable => seq.serialize_element(&hex(bytes))?,
                        Err(_) => seq.serialize_element(&Raw(bytes))?,
                    }
                }
                Cell::Null => seq.serialize_element(&())?,
                Cell::Unchanged => seq.serialize_element(&true)?,
                Cell::Absent => seq.serialize_element(&false)?,
            }
        }
        seq.end()
    }
}

/// Bytes as MessagePack `bin`.
struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}

/// Bytes as PostgreSQL writes a bytea, for JSON which has no bytes.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::from("\\x"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;

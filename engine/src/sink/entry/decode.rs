//! Reading an entry back. The encoding is seen from the first byte (a JSON map begins
//! with `{`, which is no MessagePack map), so a reader needs no setting and a stream
//! may hold both.
//!
//! What can go wrong: an entry that is not ours, or of a later format. The error names
//! the id and the field and never holds data.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kasho_plugin_sdk::Op;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Visitor};

use super::rows::Rows;
use crate::batch::DdlDetail;
use crate::position::{Lsn, Position};
use crate::sink::id::{Id, Lane};

/// An entry as the server hands it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// Its id.
    pub id: Id,
    /// Fields and values, in their order.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl RawEntry {
    /// The value of `field`.
    #[must_use]
    pub fn field(&self, field: &str) -> Option<&[u8]> {
        let found = self.fields.iter().find(|(name, _)| name == field.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }

    /// Whether a transaction ends with this entry.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.field("l").is_some() || self.field("o") == Some(b"commit")
    }

    /// Whether the load, or that of single tables, is over with this entry.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.field("o") == Some(EntryOp::End.name().as_bytes())
    }

    /// Bytes of names and values.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// What an entry says: an event, or one of the stream's own marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryOp {
    /// An event.
    Row(Op),
    /// A table's load begins again: empty it.
    Restart,
    /// The transaction ends, its last rows having been dropped.
    Commit,
    /// The load is complete.
    End,
}

impl EntryOp {
    /// The word in the field `o`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            EntryOp::Row(op) => op.name(),
            EntryOp::Restart => "restart",
            EntryOp::Commit => "commit",
            EntryOp::End => "end",
        }
    }

    fn parse(word: &[u8]) -> Option<EntryOp> {
        let rows = Op::ALL.into_iter().map(EntryOp::Row);
        let marks = [EntryOp::Restart, EntryOp::Commit, EntryOp::End];
        rows.chain(marks).find(|op| op.name().as_bytes() == word)
    }
}

/// One value of an image.
#[derive(Clone, PartialEq, Eq)]
pub enum Field {
    /// The type's text form.
    Text(String),
    /// A logical message's content that is no text.
    Bytes(Vec<u8>),
    /// SQL NULL.
    Null,
    /// TOASTed and not touched.
    Unchanged,
    /// Not part of this image.
    Absent,
}

impl fmt::Debug for Field {
    /// Values are row data: they stay out of logs even by accident.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Text(_) => "Text(…)",
            Field::Bytes(_) => "Bytes(…)",
            Field::Null => "Null",
            Field::Unchanged => "Unchanged",
            Field::Absent => "Absent",
        })
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Field, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Field;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value's text, nil, or a boolean")
            }
            fn visit_str<E>(self, text: &str) -> Result<Field, E> {
                Ok(Field::Text(text.to_owned()))
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Field, E> {
                Ok(Field::Bytes(bytes.to_vec()))
            }
            fn visit_unit<E>(self) -> Result<Field, E> {
                Ok(Field::Null)
            }
            fn visit_bool<E>(self, unchanged: bool) -> Result<Field, E> {
                Ok(if unchanged { Field::Unchanged } else { Field::Absent })
            }
        }
        from.deserialize_any(Any)
    }
}

/// The content of `d`, by kind of entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A row, a schema change, or a message.
    Row {
        /// Column names; rows of one entry share them.
        columns: Arc<[String]>,
        /// Type OIDs, one a column.
        oids: Arc<[u32]>,
        /// After the change.
        new: Option<Vec<Field>>,
        /// Before it.
        old: Option<Vec<Field>>,
        /// Of an update without `old`: places of the columns that say which row it is. They
        /// kept their values.
        key: Vec<usize>,
        /// Of a message: it stood in a transaction.
        transactional: Option<bool>,
        /// The chain may have lost rows of this table (`on_error` is `drop` or
        /// `dead_letter`): a change may find no row, an insert may find one.
        miss: bool,
        /// Of a schema change: what is needed to apply it, beside its row.
        ddl: Option<Box<DdlDetail>>,
    },
    /// Several rows of the load, for who reads them undivided.
    Rows(Box<Rows>),
    /// Tables were emptied.
    Truncate {
        /// Their qualified names.
        tables: Vec<String>,
        /// CASCADE was said.
        cascade: bool,
        /// RESTART IDENTITY was said.
        restart_identity: bool,
    },
    /// A table's load begins again.
    Restart {
        /// Counts its loads, from 1.
        attempt: u64,
        /// Changes below are part of this load.
        load_lsn: Lsn,
    },
    /// Tables are loaded again from here on: empty them, and read a section of the
    /// bootstrap stream before the next change.
    Mark {
        /// The entry that it begins with.
        section: u64,
        /// The tables' qualified names.
        tables: Vec<String>,
    },
    /// The load is complete, or that of single tables.
    End {
        /// The consistent point.
        start_lsn: Lsn,
        /// Tables that were loaded later than there.
        load_points: BTreeMap<String, Lsn>,
        /// Of single tables: the mark after which the changes go on.
        after: Option<Lsn>,
        /// Whatever there was is loaded: a table of which no row came is empty.
        whole: bool,
    },
    /// The transaction ends.
    Commit,
}

/// A decoded entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the epoch.
    pub position: Position,
    /// What it says.
    pub op: EntryOp,
    /// Qualified table, quoted as SQL would (of a mark or a truncate all of them, separated
    /// by commas); empty for `commit` and `end`.
    pub table: String,
    /// Chain generation that made it.
    pub generation: u64,
    /// The transaction ends here.
    pub last: bool,
    /// Transaction id; 0 in the load.
    pub xid: u32,
    /// Commit time, µs since 1970 UTC; 0 in the load.
    pub commit_us: i64,
    /// The rest of `d`.
    pub content: Content,
    /// Bytes of the entry in Redis; of a row among several its part of them, and some for
    /// what is made of it.
    pub weight: usize,
}

/// The entry is not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "entry {id} of the {lane} stream has no valid field \"{field}\": it was written by something \
     else, or by a later version of Kasho",
    lane = lane.name()
)]
pub struct DecodeError {
    /// The entry.
    pub id: Id,
    /// The stream.
    pub lane: Lane,
    /// What is missing or malformed.
    pub field: &'static str,
}

/// Every key that `d` may have; which of them must be there depends on the op.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Data {
    xid: u32,
    ts: i64,
    cols: Vec<String>,
    oids: Vec<u32>,
    new: Option<Vec<Field>>,
    old: Option<Vec<Field>>,
    key: Vec<usize>,
    transactional: Option<bool>,
    miss: bool,
    ddl: Option<Box<DdlDetail>>,
    tables: Vec<String>,
    cascade: bool,
    restart_identity: bool,
    attempt: u64,
    load_lsn: String,
    start_lsn: String,
    load_points: BTreeMap<String, String>,
    after: Option<String>,
    whole: bool,
    section: u64,
}

impl Entry {
    /// Reads `raw`, an entry of `lane` that is not of several rows.
    ///
    /// # Errors
    /// It is not an entry of ours.
    pub fn decode(raw: &RawEntry, lane: Lane) -> Result<Entry, DecodeError> {
        let bad = |field| DecodeError { id: raw.id, lane, field };
        let op = raw.field("o").and_then(EntryOp::parse).ok_or_else(|| bad("o"))?;
        let text = |field| std::str::from_utf8(raw.field(field).unwrap_or_default()).ok();
        let generation = text("g").and_then(|g| g.parse().ok()).ok_or_else(|| bad("g"))?;
        let data: Data = parse(raw.field("d").unwrap_or_default()).ok_or_else(|| bad("d"))?;
        let (xid, commit_us) = (data.xid, data.ts);
        Ok(Entry {
            position: raw.id.position(lane),
            op,
            table: text("t").ok_or_else(|| bad("t"))?.to_owned(),
            generation,
            last: raw.closes(),
            xid,
            commit_us,
            content: data.content(op).ok_or_else(|| bad("d"))?,
            weight: raw.weight(),
        })
    }
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match bytes.first()? {
        b'{' => serde_json::from_slice(bytes).ok(),
        _ => rmp_serde::from_slice(bytes).ok(),
    }
}

impl Data {
    fn content(self, op: EntryOp) -> Option<Content> {
        Some(match op {
            EntryOp::Commit => Content::Commit,
            EntryOp::Row(Op::Truncate) => Content::Truncate {
                tables: self.tables,
                cascade: self.cascade,
                restart_identity: self.restart_identity,
            },
            EntryOp::Restart if self.section > 0 => {
                Content::Mark { section: self.section, tables: self.tables }
            }
            EntryOp::Restart => {
                Content::Restart { attempt: self.attempt, load_lsn: self.load_lsn.parse().ok()? }
            }
            EntryOp::End => Content::End {
                start_lsn: self.start_lsn.parse().ok()?,
                load_points: points(self.load_points)?,
                after: self.after.map(|lsn| lsn.parse()).transpose().ok()?,
                whole: self.whole,
            },
            EntryOp::Row(op) => {
                let width = self.cols.len();
                let fits = |image: &Option<Vec<Field>>| {
                    image.as_ref().is_none_or(|values| values.len() == width)
                };
                let known = self.key.iter().all(|place| *place < width);
                let beside = self.ddl.is_some() == (op == Op::Ddl);
                let whole = self.oids.len() == width && fits(&self.new) && fits(&self.old) && known;
                let whole = whole && beside;
                whole.then_some(Content::Row {
                    columns: self.cols.into(),
                    oids: self.oids.into(),
                    new: self.new,
                    old: self.old,
                    key: self.key,
                    transactional: self.transactional,
                    miss: self.miss,
                    ddl: self.ddl,
                })?
            }
        })
    }
}

fn points(texts: BTreeMap<String, String>) -> Option<BTreeMap<String, Lsn>> {
    texts.into_iter().map(|(table, lsn)| Some((table, lsn.parse().ok()?))).collect()
}

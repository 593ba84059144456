//! Reading an entry back. The encoding is seen from the first byte (a JSON map begins
//! with `{`, which is no MessagePack map), so a reader needs no setting and a stream
//! may hold both.
//!
//! What can go wrong: an entry that is not ours, or of a later format. The error names
//! the id and the field and never holds data.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use kasho_plugin_sdk::Op;
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::Called;
use super::rows::Rows;
use crate::batch::DdlDetail;
use crate::position::{Lsn, Position};
use crate::sink::id::{Id, Lane};

/// The texts of an entry of so many bytes at most are slices of it: whoever keeps one of them
/// keeps so much.
const KEPT: usize = 512;
/// Tables whose columns are remembered.
const TABLES: usize = 4096;

/// An entry as the server hands it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// Its id.
    pub id: Id,
    /// Fields and values, in their order.
    pub fields: Vec<(Bytes, Bytes)>,
}

impl RawEntry {
    /// The value of `field`.
    #[must_use]
    pub fn field(&self, field: &str) -> Option<&[u8]> {
        let found = self.fields.iter().find(|(name, _)| name == field.as_bytes());
        found.map(|(_, value)| &**value)
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
    /// The type's text form. It may be a slice of a small entry, and keeps it.
    Text(ByteString),
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
        Ok(Raw::deserialize(from)?.field(None))
    }
}

/// A [`Field`] as it stands in `d`.
enum Raw<'a> {
    Text(Cow<'a, str>),
    Bytes(Vec<u8>),
    Null,
    Unchanged,
    Absent,
}

impl Raw<'_> {
    /// `entry` is what it was read from, if its texts may be slices of that.
    fn field(self, entry: Option<&Bytes>) -> Field {
        match (self, entry) {
            (Raw::Text(Cow::Borrowed(text)), Some(entry)) => {
                // What was text is text: to look once more costs less than a copy.
                match ByteString::try_from(entry.slice_ref(text.as_bytes())) {
                    Ok(text) => Field::Text(text),
                    Err(_) => Field::Text(text.into()),
                }
            }
            (Raw::Text(text), _) => Field::Text(text.into_owned().into()),
            (Raw::Bytes(bytes), _) => Field::Bytes(bytes),
            (Raw::Null, _) => Field::Null,
            (Raw::Unchanged, _) => Field::Unchanged,
            (Raw::Absent, _) => Field::Absent,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Raw<'a>, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Raw<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value's text, nil, or a boolean")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Raw<'de>, E> {
                Ok(Raw::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Raw<'de>, E> {
                Ok(Raw::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Raw<'de>, E> {
                Ok(Raw::Bytes(bytes.to_vec()))
            }
            fn visit_unit<E>(self) -> Result<Raw<'de>, E> {
                Ok(Raw::Null)
            }
            fn visit_bool<E>(self, unchanged: bool) -> Result<Raw<'de>, E> {
                Ok(if unchanged { Raw::Unchanged } else { Raw::Absent })
            }
        }
        from.deserialize_any(Any)
    }
}

/// A name, without a copy where it stands as it is.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Name<'a>, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Text)
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
        /// Names among these that tables have from there on only (commit LSN and ordinal).
        called: Called,
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
struct Data<'a> {
    xid: u32,
    ts: i64,
    #[serde(borrow)]
    cols: Vec<Name<'a>>,
    oids: Vec<u32>,
    #[serde(borrow)]
    new: Option<Vec<Raw<'a>>>,
    #[serde(borrow)]
    old: Option<Vec<Raw<'a>>>,
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
    called: Called,
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
        Entry::decode_with(raw, lane, &mut Layouts::default())
    }

    /// As [`Entry::decode`], one of many.
    ///
    /// # Errors
    /// It is not an entry of ours.
    pub fn decode_with(
        raw: &RawEntry,
        lane: Lane,
        layouts: &mut Layouts,
    ) -> Result<Entry, DecodeError> {
        let bad = |field| DecodeError { id: raw.id, lane, field };
        let op = raw.field("o").and_then(EntryOp::parse).ok_or_else(|| bad("o"))?;
        let text = |field| std::str::from_utf8(raw.field(field).unwrap_or_default()).ok();
        let generation = text("g").and_then(|g| g.parse().ok()).ok_or_else(|| bad("g"))?;
        let table = text("t").ok_or_else(|| bad("t"))?;
        let bytes = raw.field("d").unwrap_or_default();
        let entry = (bytes.len() <= KEPT).then(|| Bytes::copy_from_slice(bytes));
        let data: Data<'_> = parse(entry.as_deref().unwrap_or(bytes)).ok_or_else(|| bad("d"))?;
        let (xid, commit_us) = (data.xid, data.ts);
        let content =
            data.content(op, entry.as_ref(), |columns, oids| layouts.of(table, columns, oids));
        Ok(Entry {
            position: raw.id.position(lane),
            op,
            table: table.to_owned(),
            generation,
            last: raw.closes(),
            xid,
            commit_us,
            content: content.ok_or_else(|| bad("d"))?,
            weight: raw.weight(),
        })
    }
}

/// Columns of tables and their types, which most entries have in common with those before.
#[derive(Debug, Default)]
pub struct Layouts(HashMap<String, Layout>);

type Layout = (Arc<[String]>, Arc<[u32]>);

impl Layouts {
    fn of(&mut self, table: &str, columns: &[Name<'_>], oids: &[u32]) -> Layout {
        if let Some(known) = self.0.get(table)
            && *known.1 == *oids
            && known.0.len() == columns.len()
            && known.0.iter().zip(columns).all(|(known, name)| *known == name.0)
        {
            return known.clone();
        }
        if self.0.len() >= TABLES {
            self.0.clear();
        }
        let columns = columns.iter().map(|name| name.0.clone().into_owned()).collect();
        let layout: Layout = (columns, oids.into());
        self.0.insert(table.to_owned(), layout.clone());
        layout
    }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match bytes.first()? {
        b'{' => serde_json::from_slice(bytes).ok(),
        _ => rmp_serde::from_slice(bytes).ok(),
    }
}

impl Data<'_> {
    fn content(
        self,
        op: EntryOp,
        entry: Option<&Bytes>,
        layout: impl FnOnce(&[Name<'_>], &[u32]) -> Layout,
    ) -> Option<Content> {
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
                called: self.called,
                after: self.after.map(|lsn| lsn.parse()).transpose().ok()?,
                whole: self.whole,
            },
            EntryOp::Row(op) => {
                let width = self.cols.len();
                let fits = |image: &Option<Vec<Raw<'_>>>| {
                    image.as_ref().is_none_or(|values| values.len() == width)
                };
                let known = self.key.iter().all(|place| *place < width);
                let beside = self.ddl.is_some() == (op == Op::Ddl);
                let whole = self.oids.len() == width && fits(&self.new) && fits(&self.old) && known;
                if !(whole && beside) {
                    return None;
                }
                let image = |image: Vec<Raw<'_>>| {
                    image.into_iter().map(|value| value.field(entry)).collect()
                };
                let (columns, oids) = layout(&self.cols, &self.oids);
                Content::Row {
                    columns,
                    oids,
                    new: self.new.map(image),
                    old: self.old.map(image),
                    key: self.key,
                    transactional: self.transactional,
                    miss: self.miss,
                    ddl: self.ddl,
                }
            }
        })
    }
}

fn points(texts: BTreeMap<String, String>) -> Option<BTreeMap<String, Lsn>> {
    texts.into_iter().map(|(table, lsn)| Some((table, lsn.parse().ok()?))).collect()
}

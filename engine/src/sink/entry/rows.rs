//! Several rows of the load in one entry: written and read here. Where the op is `rows`, `d` is
//! the map of a row with `rows`, a list of images, instead of `new`; what all of them share
//! stands once. The entry has the number of its last row, the others those before it: so
//! whoever goes on strictly after a row finds the rest of them with the entry.
//!
//! Only the bootstrap stream has such entries, beside those of one row. What can go wrong: an
//! entry that somebody else wrote; a reader that takes the rows before its cursor a second
//! time, which is why reading asks for it.

use std::sync::Arc;

use kasho_plugin_sdk::Op;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::decode::parse;
use super::{
    Cells, Content, DecodeError, EncodeError, Entry, EntryOp, Field, Names, Oids, RawEntry, RowData,
};
use crate::batch::{Batch, Cell, Image, Piece, Row};
use crate::sink::config::Encoding;
use crate::sink::id::{Id, Lane};

pub use packed::{Lines, Rows, Value};

mod packed;

/// The word in the field `o`.
pub const ROWS: &str = "rows";

/// Whether `next` may stand in one entry with `row`, which comes before it: rows of the load
/// that differ in their values only.
#[must_use]
pub fn together(row: &Row, next: &Row) -> bool {
    let plain = |row: &Row| {
        row.op == Op::Read && row.new.is_some() && row.old.is_none() && row.detail.is_none()
    };
    plain(row) && plain(next) && row.relation == next.relation
}

/// About the bytes that a row takes in an entry with others.
#[must_use]
pub fn size(batch: &Batch, row: &Row) -> usize {
    let cells = row.new.map_or(&[][..], |image| batch.cells(image));
    let bytes = |cell: &Cell| match cell {
        Cell::Text(span) => span.len as usize + 2,
        Cell::Null | Cell::Unchanged | Cell::Absent => 1,
    };
    cells.iter().map(bytes).sum()
}

impl Encoding {
    /// Appends the map of `rows`, which may stand [`together`]; on an error `out` is as it
    /// was, and the place of the row is told.
    ///
    /// # Errors
    /// A text value that is not UTF-8.
    pub fn rows(
        self,
        batch: &Batch,
        piece: &Piece,
        rows: &[&Row],
        out: &mut Vec<u8>,
    ) -> Result<(), (usize, EncodeError)> {
        let Some(first) = rows.first() else { return Ok(()) };
        let start = out.len();
        let data = RowData { batch, piece, row: first, relation: batch.relation_of(first) };
        let written = match self {
            Encoding::Msgpack => msgpack(&data, rows, out),
            Encoding::Json => self.map(&RowsData { shared: &data, rows: Some(rows) }, out),
        };
        written.map_err(|()| {
            out.truncate(start);
            let mut blamed = rows.iter().map(|&row| RowData { row, ..data }.blame()).enumerate();
            let named = blamed.find(|(_, error)| matches!(error, EncodeError::NotUtf8 { .. }));
            named.unwrap_or_else(|| (0, data.blame()))
        })
    }
}

/// A map of which the images come last.
struct RowsData<'a> {
    /// The first row, for what it has in common with the others.
    shared: &'a RowData<'a>,
    /// None: whoever asked writes them himself.
    rows: Option<&'a [&'a Row]>,
}

impl Serialize for RowsData<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let RowData { batch, piece, row, relation } = *self.shared;
        let miss = batch.aside.lossy.binary_search(&row.relation).is_ok();
        let mut map = to.serialize_map(Some(5 + usize::from(miss)))?;
        map.serialize_entry("xid", &piece.xid)?;
        map.serialize_entry("ts", &piece.commit_us)?;
        map.serialize_entry("cols", &Names(relation))?;
        map.serialize_entry("oids", &Oids(relation))?;
        if miss {
            map.serialize_entry("miss", &true)?;
        }
        if let Some(rows) = self.rows {
            map.serialize_entry("rows", &Images { batch, rows })?;
        }
        map.end()
    }
}

/// The same, with every value written straight to where it goes: there are many of them.
fn msgpack(shared: &RowData<'_>, rows: &[&Row], out: &mut Vec<u8>) -> Result<(), ()> {
    Encoding::Msgpack.map(&RowsData { shared, rows: None }, out)?;
    packed::text(b"rows", out);
    packed::array(rows.len(), out);
    for row in rows {
        let cells = row.new.map_or(&[][..], |image| shared.batch.cells(image));
        packed::array(cells.len(), out);
        for cell in cells {
            match *cell {
                Cell::Text(span) => {
                    let bytes = shared.batch.span(span);
                    std::str::from_utf8(bytes).map_err(drop)?;
                    packed::text(bytes, out);
                }
                Cell::Null => out.push(0xc0),
                Cell::Unchanged => out.push(0xc3),
                Cell::Absent => out.push(0xc2),
            }
        }
    }
    Ok(())
}

struct Images<'a> {
    batch: &'a Batch,
    rows: &'a [&'a Row],
}

impl Serialize for Images<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let none = Image { start: 0, len: 0 };
        let cells = |row: &&Row| self.batch.cells(row.new.unwrap_or(none));
        let images = self.rows.iter().map(cells);
        to.collect_seq(images.map(|cells| Cells { batch: self.batch, cells, binary: false }))
    }
}

/// `d` of an entry of several rows.
#[derive(Deserialize)]
struct Data {
    xid: u32,
    ts: i64,
    cols: Vec<String>,
    oids: Vec<u32>,
    #[serde(default)]
    miss: bool,
    rows: Vec<Vec<Field>>,
}

impl RawEntry {
    /// Whether it is one of several rows, which [`Entry::rows`] reads.
    #[must_use]
    pub fn has_rows(&self) -> bool {
        self.field("o") == Some(ROWS.as_bytes())
    }
}

impl Entry {
    /// Reads `raw`, an entry of several rows of the bootstrap stream: each as if it had an
    /// entry of its own, without those that are not after `after`.
    ///
    /// # Errors
    /// It is not an entry of ours.
    pub fn rows(raw: &RawEntry, after: Id) -> Result<Vec<Entry>, DecodeError> {
        let bad = |field| DecodeError { id: raw.id, lane: Lane::Bootstrap, field };
        let (generation, table) = shared(raw)?;
        let data: Data = parse(raw.field("d").unwrap_or_default()).ok_or_else(|| bad("d"))?;
        let (width, count) = (data.cols.len(), data.rows.len() as u64);
        let whole = data.oids.len() == width && data.rows.iter().all(|row| row.len() == width);
        let before = raw.id.high.checked_sub(count).filter(|_| count > 0 && whole);
        let before = before.ok_or_else(|| bad("d"))?;
        let (columns, oids): (Arc<[String]>, Arc<[u32]>) = (data.cols.into(), data.oids.into());
        let weight = raw.weight() / data.rows.len() + taken(width);
        let id = |place: usize| Id { high: before + 1 + place as u64, low: 1 };
        let entry = |(place, row)| Entry {
            position: id(place).position(Lane::Bootstrap),
            op: EntryOp::Row(Op::Read),
            table: table.to_owned(),
            generation,
            last: false,
            xid: data.xid,
            commit_us: data.ts,
            content: Content::Row {
                columns: Arc::clone(&columns),
                oids: Arc::clone(&oids),
                new: Some(row),
                old: None,
                key: Vec::new(),
                transactional: None,
                miss: data.miss,
                ddl: None,
            },
            weight,
        };
        let rows = data.rows.into_iter().enumerate();
        Ok(rows.filter(|(place, _)| id(*place) > after).map(entry).collect())
    }
}

impl Entry {
    /// Reads `raw`, an entry of several rows of the bootstrap stream, as one: without those
    /// rows that are not after `after`.
    ///
    /// # Errors
    /// It is not an entry of ours.
    pub fn together(raw: RawEntry, after: Id) -> Result<Entry, DecodeError> {
        let id = raw.id;
        let bad = |field| DecodeError { id, lane: Lane::Bootstrap, field };
        let (generation, table) = shared(&raw)?;
        let (weight, table) = (raw.weight(), table.to_owned());
        let data = raw.fields.into_iter().find(|(name, _)| &**name == b"d").unwrap_or_default().1;
        // Rows have numbers; whoever stands on one has low or more of its id.
        let after = after.high.saturating_sub(u64::from(after.low == 0));
        let (rows, shared) = Rows::of(data, id.high, after).ok_or_else(|| bad("d"))?;
        Ok(Entry {
            position: id.position(Lane::Bootstrap),
            op: EntryOp::Row(Op::Read),
            table,
            generation,
            last: false,
            xid: shared.xid,
            commit_us: shared.ts,
            content: Content::Rows(Box::new(rows)),
            weight,
        })
    }
}

/// The generation and the table of an entry of several rows.
fn shared(raw: &RawEntry) -> Result<(u64, &str), DecodeError> {
    let bad = |field| DecodeError { id: raw.id, lane: Lane::Bootstrap, field };
    let text = |field| std::str::from_utf8(raw.field(field).unwrap_or_default()).ok();
    if !raw.has_rows() {
        return Err(bad("o"));
    }
    let generation = text("g").and_then(|g| g.parse().ok()).ok_or_else(|| bad("g"))?;
    let table = text("t").filter(|table| !table.is_empty()).ok_or_else(|| bad("t"))?;
    Ok((generation, table))
}

/// An entry of one row takes about twice its bytes when it is read. A row among others
/// brings no names, and takes what is made for it all the same.
fn taken(width: usize) -> usize {
    (size_of::<Entry>() + width * size_of::<Field>()) / 2
}

#[cfg(test)]
mod tests;

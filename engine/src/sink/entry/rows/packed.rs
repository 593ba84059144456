//! The rows of an entry one after the other, out of the entry's own bytes: for who only hands
//! their values on, and would make and free a text for each of them otherwise. And the words
//! that such values are written with.
//!
//! The whole entry is looked over before the first row is handed out, so a row of one that is
//! not ours never is. Values are not copied, and what a text holds is not looked at: whether
//! it is UTF-8 is found by who uses it. Format: the MessagePack specification; JSON, whose
//! texts have escapes, is decoded as elsewhere.
//!
//! What can go wrong: an entry that somebody else wrote, cut or nested as it may be. It
//! never panics, whatever the bytes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::{Data, parse};
use crate::sink::entry::Field;

/// A value of a row, where it stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// The type's text form; not looked at.
    Text(&'a [u8]),
    /// SQL NULL.
    Null,
    /// TOASTed and not touched.
    Unchanged,
    /// Not part of this image, or no text.
    Absent,
}

impl fmt::Debug for Value<'_> {
    /// As of a [`Field`]: never the data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Value::Text(_) => "Text(…)",
            Value::Null => "Null",
            Value::Unchanged => "Unchanged",
            Value::Absent => "Absent",
        })
    }
}

impl<'a> From<&'a Field> for Value<'a> {
    fn from(field: &'a Field) -> Value<'a> {
        match field {
            Field::Text(text) => Value::Text(text.as_bytes()),
            Field::Null => Value::Null,
            Field::Unchanged => Value::Unchanged,
            Field::Bytes(_) | Field::Absent => Value::Absent,
        }
    }
}

/// Rows of the load that stand in one entry, or the one of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Rows {
    /// Column names.
    pub columns: Arc<[String]>,
    /// Number of the first row.
    pub first: u64,
    body: Body,
}

#[derive(Clone, PartialEq, Eq)]
enum Body {
    Packed {
        data: Bytes,
        /// Where the first row begins, and how many there are from there.
        at: usize,
        count: usize,
    },
    Fields(Vec<Vec<Field>>),
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("columns", &self.columns).field("first", &self.first).finish()
    }
}

/// What all of the rows share.
pub(super) struct Shared {
    pub(super) xid: u32,
    pub(super) ts: i64,
}

impl Rows {
    /// One row that had an entry of its own.
    #[must_use]
    pub fn one(columns: Arc<[String]>, number: u64, row: Vec<Field>) -> Rows {
        Rows { columns, first: number, body: Body::Fields(vec![row]) }
    }

    /// Those of `data` after row number `after`; the last one is number `last`. None: it is not
    /// an entry of ours.
    pub(super) fn of(data: Bytes, last: u64, after: u64) -> Option<(Rows, Shared)> {
        let (columns, shared, mut body) = match data.first()? {
            b'{' => {
                let Data { xid, ts, cols, oids, rows, .. } = parse(&data)?;
                let whole = oids.len() == cols.len() && rows.iter().all(|r| r.len() == cols.len());
                (whole.then_some(cols)?, Shared { xid, ts }, Body::Fields(rows))
            }
            _ => packed(data)?,
        };
        let before = last.checked_sub(body.count() as u64).filter(|_| body.count() > 0)?;
        let passed = after.saturating_sub(before).min(body.count() as u64);
        body.pass(usize::try_from(passed).ok()?, columns.len())?;
        Some((Rows { columns: columns.into(), first: before + passed + 1, body }, shared))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.body.count()
    }

    /// One after the other.
    #[must_use]
    pub fn lines(&self) -> Lines<'_> {
        let rest = match &self.body {
            Body::Packed { data, at, count } => Rest::Packed(Cursor { data, at: *at }, *count),
            Body::Fields(rows) => Rest::Fields(rows.iter()),
        };
        let (number, packed) = (self.first.saturating_sub(1), None);
        let mut lines = Lines { rest, width: self.columns.len(), number, packed, values: vec![] };
        lines.advance();
        lines
    }
}

impl Body {
    fn count(&self) -> usize {
        match self {
            Body::Packed { count, .. } => *count,
            Body::Fields(rows) => rows.len(),
        }
    }

    /// Leaves out so many.
    fn pass(&mut self, rows: usize, width: usize) -> Option<()> {
        match self {
            Body::Packed { data, at, count } => {
                let mut cursor = Cursor { data, at: *at };
                for _ in 0..rows {
                    cursor.array()?;
                    cursor.skip(width)?;
                }
                (*at, *count) = (cursor.at, *count - rows);
            }
            Body::Fields(all) => drop(all.drain(..rows)),
        }
        Some(())
    }
}

/// Rows being read. It stands on one until [`Lines::advance`] is called.
pub struct Lines<'a> {
    rest: Rest<'a>,
    width: usize,
    number: u64,
    packed: Option<&'a [u8]>,
    values: Vec<Value<'a>>,
}

impl fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("number", &self.number).finish_non_exhaustive()
    }
}

enum Rest<'a> {
    Packed(Cursor<'a>, usize),
    Fields(std::slice::Iter<'a, Vec<Field>>),
    Over,
}

impl<'a> Lines<'a> {
    /// The row that it stands on, with its number; none behind the last one.
    #[must_use]
    pub fn row(&self) -> Option<(u64, &[Value<'a>])> {
        let over = matches!(self.rest, Rest::Over);
        (!over).then_some((self.number, &*self.values))
    }

    /// Bytes in which every text of that row stands as it is, among others. None: it does not
    /// stand so.
    #[must_use]
    pub fn packed(&self) -> Option<&'a [u8]> {
        self.packed
    }

    /// Goes on to the next row.
    pub fn advance(&mut self) {
        self.values.clear();
        let found = match &mut self.rest {
            Rest::Packed(cursor, left) => left.checked_sub(1).and_then(|fewer| {
                *left = fewer;
                let begin = cursor.at;
                cursor.array()?;
                for _ in 0..self.width {
                    self.values.push(cursor.value()?);
                }
                self.packed = cursor.data.get(begin..cursor.at);
                Some(())
            }),
            Rest::Fields(rows) => {
                rows.next().map(|row| self.values.extend(row.iter().map(Value::from)))
            }
            Rest::Over => None,
        };
        match found {
            Some(()) => self.number += 1,
            None => self.rest = Rest::Over,
        }
    }
}

/// Looks the whole entry over.
fn packed(data: Bytes) -> Option<(Vec<String>, Shared, Body)> {
    let mut cursor = Cursor { data: &data, at: 0 };
    let (mut cols, mut oids, mut rows) = (None, None, None);
    let (mut xid, mut ts) = (None, None);
    for _ in 0..cursor.map()? {
        match cursor.text()? {
            b"xid" => xid = Some(u32::try_from(cursor.number()?).ok()?),
            b"ts" => ts = Some(cursor.number()?),
            b"cols" => {
                let count = cursor.array()?;
                let name = |_| Some(std::str::from_utf8(cursor.text()?).ok()?.to_owned());
                cols = Some((0..count).map(name).collect::<Option<Vec<_>>>()?);
            }
            b"oids" => {
                let count = cursor.array()?;
                for _ in 0..count {
                    u32::try_from(cursor.number()?).ok()?;
                }
                oids = Some(count);
            }
            b"rows" => {
                let (count, at) = (cursor.array()?, cursor.at);
                let width = cols.as_ref().map(Vec::len);
                // Only somebody else may write them first.
                match width {
                    Some(width) => cursor.images(count, width)?,
                    None => cursor.skip(count)?,
                }
                rows = Some((count, at, width.is_some()));
            }
            _ => cursor.skip(1)?,
        }
    }
    let (cols, (count, at, seen)) = (cols?, rows?);
    if !seen {
        Cursor { data: &data, at }.images(count, cols.len())?;
    }
    let shared = Shared { xid: xid?, ts: ts? };
    (oids? == cols.len()).then_some((cols, shared, Body::Packed { data, at, count }))
}

/// Appends a text.
pub(super) fn text(bytes: &[u8], out: &mut Vec<u8>) {
    let length = bytes.len();
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..=31), _) => out.push(0xa0 | short),
        (Ok(short), _) => out.extend([0xd9, short]),
        (_, Ok(long)) => {
            out.push(0xda);
            out.extend(long.to_be_bytes());
        }
        _ => longest(0xdb, length, out),
    }
    out.extend_from_slice(bytes);
}

/// Appends what an array of so many values begins with.
pub(super) fn array(length: usize, out: &mut Vec<u8>) {
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..=15), _) => out.push(0x90 | short),
        (_, Ok(long)) => {
            out.push(0xdc);
            out.extend(long.to_be_bytes());
        }
        _ => longest(0xdd, length, out),
    }
}

/// PostgreSQL's values, and numbers of rows, are far below 4 GiB.
fn longest(marker: u8, length: usize, out: &mut Vec<u8>) {
    out.push(marker);
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

/// Reads MessagePack.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.data.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let bytes = self.data.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    /// A length or number of so many bytes.
    fn big_endian(&mut self, bytes: usize) -> Option<u64> {
        Some(self.bytes(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn length(&mut self, bytes: usize) -> Option<usize> {
        usize::try_from(self.big_endian(bytes)?).ok()
    }

    fn map(&mut self) -> Option<usize> {
        match self.byte()? {
            marker @ 0x80..=0x8f => Some(usize::from(marker & 0x0f)),
            0xde => self.length(2),
            0xdf => self.length(4),
            _ => None,
        }
    }

    fn array(&mut self) -> Option<usize> {
        match self.byte()? {
            marker @ 0x90..=0x9f => Some(usize::from(marker & 0x0f)),
            0xdc => self.length(2),
            0xdd => self.length(4),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        match self.value()? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<i64> {
        let marker = self.byte()?;
        match marker {
            0..=0x7f => Some(i64::from(marker)),
            0xe0..=0xff => Some(i64::from(marker.cast_signed())),
            0xcc..=0xcf => i64::try_from(self.big_endian(1 << (marker - 0xcc))?).ok(),
            0xd0..=0xd3 => {
                let power = marker - 0xd0;
                let shift = 64 - (8 << power);
                Some((self.big_endian(1 << power)? << shift).cast_signed() >> shift)
            }
            _ => None,
        }
    }

    /// One of an image.
    fn value(&mut self) -> Option<Value<'a>> {
        let marker = self.byte()?;
        let length = match marker {
            0xa0..=0xbf => usize::from(marker & 0x1f),
            0xd9 => self.length(1)?,
            0xda => self.length(2)?,
            0xdb => self.length(4)?,
            0xc0 => return Some(Value::Null),
            0xc2 => return Some(Value::Absent),
            0xc3 => return Some(Value::Unchanged),
            0xc4..=0xc6 => {
                let length = self.length(1 << (marker - 0xc4))?;
                return self.bytes(length).map(|_| Value::Absent);
            }
            _ => return None,
        };
        self.bytes(length).map(Value::Text)
    }

    /// Goes past so many images, each of `width` values.
    fn images(&mut self, count: usize, width: usize) -> Option<()> {
        for _ in 0..count {
            if self.array()? != width {
                return None;
            }
            for _ in 0..width {
                self.value()?;
            }
        }
        Some(())
    }

    /// Goes past so many values of any kind, with all that is in them.
    fn skip(&mut self, values: usize) -> Option<()> {
        let mut left = values;
        while left > 0 {
            left -= 1;
            let marker = self.byte()?;
            let bytes = match marker {
                0..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => 0,
                0x80..=0x8f => {
                    left = left.checked_add(2 * usize::from(marker & 0x0f))?;
                    0
                }
                0x90..=0x9f => {
                    left = left.checked_add(usize::from(marker & 0x0f))?;
                    0
                }
                0xa0..=0xbf => usize::from(marker & 0x1f),
                0xc4..=0xc6 => self.length(1 << (marker - 0xc4))?,
                0xc7..=0xc9 => self.length(1 << (marker - 0xc7))?.checked_add(1)?,
                0xca => 4,
                0xcb => 8,
                0xcc..=0xcf => 1 << (marker - 0xcc),
                0xd0..=0xd3 => 1 << (marker - 0xd0),
                0xd4..=0xd8 => 1 + (1 << (marker - 0xd4)),
                0xd9..=0xdb => self.length(1 << (marker - 0xd9))?,
                0xdc | 0xdd => {
                    left = left.checked_add(self.length(2 << (marker - 0xdc))?)?;
                    0
                }
                0xde | 0xdf => {
                    let pairs = self.length(2 << (marker - 0xde))?;
                    left = left.checked_add(pairs.checked_mul(2)?)?;
                    0
                }
                0xc1 => return None,
            };
            self.bytes(bytes)?;
        }
        Some(())
    }
}

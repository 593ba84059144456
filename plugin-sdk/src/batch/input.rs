//! The block a host writes and a guest reads: rows of one relation, column by column.
//!
//! [`InputBuilder`] writes into a buffer that is kept from call to call; [`Input`] reads
//! without copying. What can go wrong: a batch beyond 4 GiB ([`TooLarge`]), and on the
//! reading side anything that [`Malformed`] can say.

use std::ops::Range;

use super::{
    Block, DESCRIPTOR, FLAG_ALL_TEXT, FLAG_UTF8, Flaw, INPUT_HEADER, Image, Malformed, State,
    TooLarge, align, cut, flaw, offset, put, texts,
};
use crate::event::{Op, Value};

/// A value as the host has it: bytes that it promises to be UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// Not part of this image.
    Absent,
    /// SQL NULL.
    Null,
    /// TOASTed, not touched, not sent.
    Unchanged,
    /// The type's text form; valid UTF-8.
    Text(&'a [u8]),
}

#[derive(Clone, Debug)]
struct SentColumn {
    slot: u16,
    image: Image,
    all_text: bool,
    states: Range<usize>,
}

/// Writes input blocks, one after the other, into one buffer.
///
/// ```
/// use kasho_plugin_sdk::batch::{Field, Image, InputBuilder};
/// use kasho_plugin_sdk::Op;
///
/// let mut builder = InputBuilder::default();
/// builder.begin(7, 1, 42, [Op::Insert, Op::Update].into_iter());
/// let column = [Field::Text(b"a@b.c"), Field::Null];
/// builder.column(0, Image::New, column.into_iter())?;
/// let block: &[u8] = builder.finish()?;
/// assert_eq!(block.len() % 8, 0);
/// # Ok::<(), kasho_plugin_sdk::batch::TooLarge>(())
/// ```
#[derive(Debug, Default)]
pub struct InputBuilder {
    out: Vec<u8>,
    rows: usize,
    call: u32,
    commit_us: u32,
    columns: Vec<SentColumn>,
    descriptors: Vec<[u8; DESCRIPTOR]>,
    /// Of the column that is being written: packed states, …
    states: Vec<u8>,
    /// … and where each row's text ends.
    ends: Vec<[u8; 4]>,
}

impl InputBuilder {
    /// Begins a block: rows of relation `id`, described by `version`, in call `call`
    /// (the number that the reply must echo).
    pub fn begin(&mut self, id: u32, version: u32, call: u32, ops: impl Iterator<Item = Op>) {
        self.out.clear();
        self.columns.clear();
        self.descriptors.clear();
        self.out.resize(INPUT_HEADER, 0);
        self.out.extend(ops.map(|op| op as u8));
        self.rows = self.out.len() - INPUT_HEADER;
        self.call = call;
        self.commit_us = 0;
        align(&mut self.out, 0);
        for (at, n) in [(12, id), (16, version), (20, FLAG_UTF8), (36, call)] {
            put(&mut self.out, at, &n.to_le_bytes());
        }
    }

    /// Adds the commit time of each row, in microseconds since 1970-01-01 UTC; only for
    /// relations that asked for it. Rows beyond the given times get 0.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn commit_us(&mut self, times: impl Iterator<Item = i64>) -> Result<(), TooLarge> {
        align(&mut self.out, 0);
        let start = self.out.len();
        self.commit_us = offset(start)?;
        self.out.extend(times.take(self.rows).flat_map(i64::to_le_bytes));
        self.out.resize(start + 8 * self.rows, 0);
        Ok(())
    }

    /// Adds a column of one image, one field a row in the order of the operations. A
    /// column that no row has is left out, and `false` comes back. Rows beyond the given
    /// fields are absent.
    ///
    /// # Errors
    /// [`TooLarge`]; the block is then of no use.
    pub fn column<'a>(
        &mut self,
        slot: u16,
        image: Image,
        fields: impl Iterator<Item = Field<'a>>,
    ) -> Result<bool, TooLarge> {
        align(&mut self.out, 0);
        let InputBuilder { out, states, ends, rows, .. } = self;
        let rows = *rows;
        let states_at = out.len();
        let offsets_at = states_at + rows.div_ceil(4).next_multiple_of(8);
        let bytes_at = (offsets_at + 4 * (rows + 1)).next_multiple_of(8);
        out.resize(bytes_at, 0);
        states.clear();
        states.resize(rows.div_ceil(4), 0);
        ends.clear();
        ends.resize(rows, [0; 4]);
        let (mut seen, mut text) = (0_u8, 0_usize);
        let mut fields = fields.fuse();
        for (four, ends) in states.iter_mut().zip(ends.chunks_mut(4)) {
            for (place, end) in ends.iter_mut().enumerate() {
                let state = match fields.next() {
                    None | Some(Field::Absent) => State::Absent,
                    Some(Field::Null) => State::Null,
                    Some(Field::Unchanged) => State::Unchanged,
                    Some(Field::Text(bytes)) => {
                        out.extend_from_slice(bytes);
                        text += 1;
                        State::Text
                    }
                } as u8;
                *four |= state << (2 * place);
                // Too long an end saturates; the length of them all is refused below.
                *end = u32::try_from(out.len() - bytes_at).unwrap_or(u32::MAX).to_le_bytes();
            }
            seen |= *four;
        }
        put(out, states_at, states);
        put(out, offsets_at + 4, ends.as_flattened());
        if seen == 0 {
            out.truncate(states_at);
            return Ok(false);
        }
        let all_text = text == rows;
        let states = states_at..states_at + rows.div_ceil(4);
        self.columns.push(SentColumn { slot, image, all_text, states });
        self.describe(slot, image, all_text, [states_at, offsets_at, bytes_at])?;
        Ok(true)
    }

    fn describe(
        &mut self,
        slot: u16,
        image: Image,
        all_text: bool,
        [states, offsets, bytes]: [usize; 3],
    ) -> Result<(), TooLarge> {
        let len = self.out.len() - bytes;
        let mut d = [0; DESCRIPTOR];
        put(&mut d, 0, &slot.to_le_bytes());
        put(&mut d, 2, &[image as u8, if all_text { FLAG_ALL_TEXT } else { 0 }]);
        put(&mut d, 4, &offset(states)?.to_le_bytes());
        put(&mut d, 8, &offset(offsets)?.to_le_bytes());
        put(&mut d, 12, &if len == 0 { 0 } else { offset(bytes)? }.to_le_bytes());
        put(&mut d, 16, &offset(len)?.to_le_bytes());
        self.descriptors.push(d);
        Ok(())
    }

    /// Ends the block and gives its bytes.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn finish(&mut self) -> Result<&[u8], TooLarge> {
        align(&mut self.out, 0);
        let ops = if self.rows == 0 { 0 } else { INPUT_HEADER };
        let descriptors = if self.descriptors.is_empty() { 0 } else { self.out.len() };
        self.out.extend_from_slice(self.descriptors.as_flattened());
        let count = u16::try_from(self.descriptors.len()).map_err(|_| TooLarge)?;
        let rows = i32::try_from(self.rows).map_err(|_| TooLarge)?;
        let total = offset(self.out.len())?;
        put(&mut self.out, 0, &total.to_le_bytes());
        put(&mut self.out, 4, &48_u16.to_le_bytes());
        put(&mut self.out, 6, &count.to_le_bytes());
        put(&mut self.out, 8, &rows.to_le_bytes());
        put(&mut self.out, 24, &offset(ops)?.to_le_bytes());
        put(&mut self.out, 28, &self.commit_us.to_le_bytes());
        put(&mut self.out, 32, &offset(descriptors)?.to_le_bytes());
        Ok(&self.out)
    }

    /// What was sent, to check the reply against.
    #[must_use]
    pub fn sent(&self) -> Sent<'_> {
        Sent { builder: self }
    }

    /// Bytes written so far: what a limit on a batch's size counts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing was begun.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }
}

/// The host's memory of the block it sent last.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    builder: &'a InputBuilder,
}

impl<'a> Sent<'a> {
    /// Rows of the call.
    #[must_use]
    pub fn rows(self) -> usize {
        self.builder.rows
    }

    /// Number of the call.
    #[must_use]
    pub fn call(self) -> u32 {
        self.builder.call
    }

    /// Number of each row's operation.
    #[must_use]
    pub fn ops(self) -> &'a [u8] {
        self.builder.out.get(INPUT_HEADER..INPUT_HEADER + self.builder.rows).unwrap_or_default()
    }

    fn column(self, slot: u16, image: Image) -> Option<&'a SentColumn> {
        self.builder.columns.iter().find(|c| c.slot == slot && c.image == image)
    }

    /// The packed states of a column (two bits a row); empty if it was not sent, which
    /// reads as absent throughout.
    #[must_use]
    pub fn states(self, slot: u16, image: Image) -> &'a [u8] {
        let range = self.column(slot, image).map(|c| c.states.clone());
        range.and_then(|r| self.builder.out.get(r)).unwrap_or_default()
    }

    /// Whether every row of this column is text.
    #[must_use]
    pub fn all_text(self, slot: u16, image: Image) -> bool {
        self.column(slot, image).is_some_and(|c| c.all_text)
    }
}

/// An input block, read without copying.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Rows, at least one.
    pub rows: usize,
    /// Id of their relation.
    pub relation: u32,
    /// Version of its description.
    pub version: u32,
    /// To be echoed.
    pub call: u32,
    /// Number of descriptors.
    pub columns: usize,
    ops: &'a [u8],
    commit_us: Option<&'a [[u8; 8]]>,
    block: &'a [u8],
    descriptors: usize,
}

impl<'a> Input<'a> {
    /// Checks the header, the operations and the ranges of a block; its columns are
    /// checked by [`Input::column`].
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(block: &'a [u8]) -> Result<Input<'a>, Malformed> {
        let b = Block(block);
        b.open(INPUT_HEADER)?;
        let (columns, rows) = (usize::from(b.u16(6)?), b.u32(8)? as usize);
        if rows == 0 {
            return flaw(8, Flaw::NoRows);
        }
        let ops = b.need(24, rows, "operations")?;
        let last = ops.iter().fold(0, |last, op| last.max(*op));
        if Op::from_number(last).is_none() {
            return flaw(24, Flaw::UnknownOp(last));
        }
        let commit_us = b.region(28, rows.saturating_mul(8), "commit times")?;
        b.need(32, columns * DESCRIPTOR, "descriptors")?;
        Ok(Input {
            rows,
            relation: b.u32(12)?,
            version: b.u32(16)?,
            call: b.u32(36)?,
            columns,
            ops,
            commit_us: commit_us.map(|times| times.as_chunks().0),
            block,
            descriptors: b.u32(32)? as usize,
        })
    }

    /// The operation of a row. Beyond the rows: a panic, as of an index.
    #[must_use]
    pub fn op(&self, row: usize) -> Op {
        Op::ALL[usize::from(self.ops[row]) % Op::ALL.len()]
    }

    /// The commit time of a row, microseconds since 1970-01-01 UTC, where asked for.
    #[must_use]
    pub fn commit_us(&self, row: usize) -> Option<i64> {
        self.commit_us?.get(row).map(|time| i64::from_le_bytes(*time))
    }

    /// Reads and checks descriptor `i`, one of [`Input::columns`].
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn column(&self, i: usize) -> Result<ColumnView<'a>, Malformed> {
        let at = self.descriptors + i * DESCRIPTOR;
        if i >= self.columns {
            return flaw(at, Flaw::OutOfRange("descriptors"));
        }
        let b = Block(self.block);
        let image = b.u8(at + 2)?;
        let Some(image) = Image::from_number(image) else {
            return flaw(at + 2, Flaw::UnknownImage(image));
        };
        let states = b.need(at + 4, self.rows.div_ceil(4), "states")?;
        let offsets = b.need(at + 8, self.rows.saturating_add(1).saturating_mul(4), "offsets")?;
        let bytes = b.need(at + 12, b.u32(at + 16)? as usize, "bytes")?;
        let offsets = offsets.as_chunks().0;
        let all_text = b.u8(at + 3)? & FLAG_ALL_TEXT != 0;
        let text = texts(offsets, bytes, at)?;
        Ok(ColumnView { slot: b.u16(at)?, image, all_text, rows: self.rows, states, offsets, text })
    }
}

/// One column of one image, checked.
#[derive(Clone, Copy, Debug)]
pub struct ColumnView<'a> {
    /// Slot in the relation's answer.
    pub slot: u16,
    /// New or old.
    pub image: Image,
    /// Every row is text.
    pub all_text: bool,
    rows: usize,
    states: &'a [u8],
    offsets: &'a [[u8; 4]],
    text: &'a str,
}

impl<'a> ColumnView<'a> {
    /// The value of a row; beyond the rows it is absent.
    #[inline]
    #[must_use]
    pub fn value(&self, row: usize) -> Value<'a> {
        match self.state(row) {
            State::Text => Value::Text(self.text_at(row)),
            State::Null => Value::Null,
            State::Unchanged => Value::Unchanged,
            State::Absent => Value::Absent,
        }
    }

    /// The state of a row.
    #[inline]
    #[must_use]
    pub fn state(&self, row: usize) -> State {
        if self.all_text && row < self.rows {
            return State::Text;
        }
        State::of_row(self.states, row)
    }

    /// The text of a row whose state is text; empty for others.
    #[inline]
    #[must_use]
    pub fn text_at(&self, row: usize) -> &'a str {
        cut(self.text, self.offsets, row)
    }

    /// The offsets as they lie in memory, little-endian, one more than rows.
    #[must_use]
    pub fn offsets(&self) -> &'a [[u8; 4]] {
        self.offsets
    }

    /// All texts, one after the other.
    #[must_use]
    pub fn bytes(&self) -> &'a str {
        self.text
    }
}

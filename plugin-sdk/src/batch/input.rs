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
    id: u32,
    version: u32,
    call: u32,
    commit_us: u32,
    columns: Vec<SentColumn>,
    descriptors: Vec<[[u8; 4]; DESCRIPTOR / 4]>,
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
        self.out.extend_from_slice(&[0; INPUT_HEADER]);
        self.out.extend(ops.map(|op| op as u8));
        self.rows = self.out.len() - INPUT_HEADER;
        (self.id, self.version, self.call) = (id, version, call);
        self.commit_us = 0;
        align(&mut self.out, 0);
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
        let mut fields = fields.fuse();
        if self.rows == 1 {
            return self.single(slot, image, fields.next().unwrap_or(Field::Absent));
        }
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

    /// The column of a batch of one row: what most batches of a quiet stream are. The same
    /// regions, of lengths that the compiler knows.
    #[inline]
    fn single(&mut self, slot: u16, image: Image, field: Field<'_>) -> Result<bool, TooLarge> {
        let (state, text) = match field {
            Field::Absent => return Ok(false),
            Field::Null => (State::Null, &[][..]),
            Field::Unchanged => (State::Unchanged, &[][..]),
            Field::Text(text) => (State::Text, text),
        };
        let states = self.out.len();
        let end = u32::try_from(text.len()).map_err(|_| TooLarge)?;
        // A byte of states and two offsets, each in eight.
        let regions = [u64::from(state as u8), u64::from(end) << 32].map(u64::to_le_bytes);
        self.out.extend_from_slice(regions.as_flattened());
        self.out.extend_from_slice(text);
        let all_text = state == State::Text;
        self.columns.push(SentColumn { slot, image, all_text, states: states..states + 1 });
        self.describe(slot, image, all_text, [states, states + 8, states + 16])?;
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
        // What ends within 4 GiB begins there.
        let end = offset(self.out.len())?;
        let low = |n: usize| u32::try_from(n).unwrap_or(end);
        let [low_slot, high_slot] = slot.to_le_bytes();
        let flags = if all_text { FLAG_ALL_TEXT } else { 0 };
        let of = u32::from_le_bytes([low_slot, high_slot, image as u8, flags]);
        let bytes = if len == 0 { 0 } else { low(bytes) };
        let words = [of, low(states), low(offsets), bytes, low(len), 0, 0, 0];
        self.descriptors.push(words.map(u32::to_le_bytes));
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
        self.out.extend_from_slice(self.descriptors.as_flattened().as_flattened());
        let count = u16::try_from(self.descriptors.len()).map_err(|_| TooLarge)?;
        let rows = i32::try_from(self.rows).map_err(|_| TooLarge)?;
        let total = offset(self.out.len())?;
        let lengths = u32::from(count) << 16 | offset(INPUT_HEADER)?;
        let (rows, ops, descriptors) = (rows.cast_unsigned(), offset(ops)?, offset(descriptors)?);
        let Self { id, version, call, commit_us, .. } = *self;
        let told = [total, lengths, rows, id, version, FLAG_UTF8];
        put(&mut self.out, 0, told.map(u32::to_le_bytes).as_flattened());
        let told = [ops, commit_us, descriptors, call];
        put(&mut self.out, 24, told.map(u32::to_le_bytes).as_flattened());
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
    #[inline(always)]
    pub fn read(block: &'a [u8]) -> Result<Input<'a>, Malformed> {
        let b = Block(block);
        b.open(INPUT_HEADER)?;
        let [_, lengths, rows, relation, version, _, ops, times, at, call] = b.words(0)?;
        let (columns, rows) = ((lengths >> 16) as usize, rows as usize);
        if rows == 0 {
            return flaw(8, Flaw::NoRows);
        }
        let ops = b.need(ops, 24, rows, "operations")?;
        let last = ops.iter().fold(0, |last, op| last.max(*op));
        if Op::from_number(last).is_none() {
            return flaw(24, Flaw::UnknownOp(last));
        }
        let commit_us = b.region(times, 28, rows.saturating_mul(8), "commit times")?;
        b.need(at, 32, columns * DESCRIPTOR, "descriptors")?;
        Ok(Input {
            rows,
            relation,
            version,
            call,
            columns,
            ops,
            commit_us: commit_us.map(|times| times.as_chunks().0),
            block,
            descriptors: at as usize,
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
    #[inline(always)]
    pub fn column(&self, i: usize) -> Result<ColumnView<'a>, Malformed> {
        let at = self.descriptors + i * DESCRIPTOR;
        if i >= self.columns {
            return flaw(at, Flaw::OutOfRange("descriptors"));
        }
        let b = Block(self.block);
        let [of, states, offsets, bytes, len] = b.words(at)?;
        let [low, high, image, flags] = of.to_le_bytes();
        let Some(image) = Image::from_number(image) else {
            return flaw(at + 2, Flaw::UnknownImage(image));
        };
        let (rows, slot) = (self.rows, u16::from_le_bytes([low, high]));
        let states = b.need(states, at + 4, rows.div_ceil(4), "states")?;
        let edges = rows.saturating_add(1).saturating_mul(4);
        let offsets = b.need(offsets, at + 8, edges, "offsets")?.as_chunks().0;
        let bytes = b.need(bytes, at + 12, len as usize, "bytes")?;
        let text = texts(offsets, bytes, at)?;
        let all_text = flags & FLAG_ALL_TEXT != 0;
        Ok(ColumnView { slot, image, all_text, rows, states, offsets, text })
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

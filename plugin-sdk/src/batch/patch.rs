//! The block a guest answers with, as the guest writes it.
//!
//! A [`PatchBuf`] collects the new values of one column, a [`ReplyBuilder`] puts them into
//! one block with verdicts and errors. Both keep their buffers from batch to batch. What
//! can go wrong: a reply beyond 4 GiB is [`TooLarge`].

use super::short::{append, words, zeros};
use super::{DESCRIPTOR, Image, REPLY_HEADER, RowError, State, TooLarge, align, offset};
use crate::out::Out;

/// The new values of one column and image, in row order. Kept from batch to batch.
#[derive(Clone, Debug)]
pub struct PatchBuf {
    bitmap: Vec<u8>,
    states: Vec<u8>,
    /// Little-endian, as they lie in the block.
    offsets: Vec<[u8; 4]>,
    /// Valid UTF-8: only [`Out`] appends to it.
    text: Vec<u8>,
    /// The row after the last one that has an entry; 0 if none has.
    next: usize,
    nulls: bool,
}

impl Default for PatchBuf {
    fn default() -> Self {
        let (bitmap, states, text) = (Vec::new(), Vec::new(), Vec::new());
        PatchBuf { bitmap, states, offsets: vec![[0; 4]], text, next: 0, nulls: false }
    }
}

impl PatchBuf {
    /// Forgets all entries and makes room for `rows`.
    pub fn clear(&mut self, rows: usize) {
        self.bitmap.clear();
        zeros(&mut self.bitmap, rows.div_ceil(8));
        self.states.clear();
        self.offsets.truncate(1);
        self.text.clear();
        self.next = 0;
        self.nulls = false;
    }

    /// Entries.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.len() == 1
    }

    /// Whether row `row` has an entry.
    #[inline]
    #[must_use]
    pub fn has(&self, row: usize) -> bool {
        self.bitmap.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1)
    }

    /// The entry of `row`: `None` if there is none, `Some(None)` if it is NULL.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<Option<&str>> {
        if !self.has(row) {
            return None;
        }
        let i = self.rank(row);
        if self.states.get(i) == Some(&(State::Null as u8)) {
            return Some(None);
        }
        let text = self.text.get(self.edge(i)..self.edge(i + 1)).unwrap_or_default();
        Some(Some(std::str::from_utf8(text).unwrap_or_default()))
    }

    /// Where entry `i` begins, and the one before it ends.
    fn edge(&self, i: usize) -> usize {
        self.offsets.get(i).map_or(0, |o| u32::from_le_bytes(*o) as usize)
    }

    /// Where text may be appended before [`PatchBuf::commit`] makes it an entry.
    #[inline]
    pub fn scratch(&mut self) -> Out<'_> {
        Out::new(&mut self.text)
    }

    /// Takes back what was appended and not committed.
    #[inline]
    pub fn rollback(&mut self) {
        self.text.truncate(self.edge(self.len()));
    }

    /// Whether neither `row` nor one behind it has an entry.
    #[inline]
    #[must_use]
    pub fn is_next(&self, row: usize) -> bool {
        row >= self.next
    }

    /// Makes what was appended the new text of `row`.
    #[inline]
    pub fn commit(&mut self, row: usize) {
        if self.is_next(row) {
            self.append(row, State::Text);
        } else {
            self.recommit(row);
        }
    }

    /// The same for a row that has an entry, or lies before one that has.
    #[cold]
    fn recommit(&mut self, row: usize) {
        let text = self.text.split_off(self.edge(self.len()));
        self.replace(row, Some(std::str::from_utf8(&text).unwrap_or_default()));
    }

    /// Makes `row` NULL.
    pub fn null(&mut self, row: usize) {
        self.rollback();
        if self.is_next(row) {
            if !self.nulls {
                self.nulls = true;
                self.states.resize(self.len(), State::Text as u8);
            }
            self.append(row, State::Null);
        } else {
            self.replace(row, None);
        }
    }

    #[inline]
    fn append(&mut self, row: usize, state: State) {
        let Some(byte) = self.bitmap.get_mut(row / 8) else { return self.rollback() };
        *byte |= 1 << (row % 8);
        self.next = row + 1;
        // A block beyond 4 GiB is refused when it is written; until then the offset saturates.
        self.offsets.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX).to_le_bytes());
        if self.nulls {
            self.states.push(state as u8);
        }
    }

    /// The number of entries before `row`.
    fn rank(&self, row: usize) -> usize {
        if row + 1 == self.next {
            return self.len() - 1;
        }
        let whole: u32 = self.bitmap.iter().take(row / 8).map(|b| b.count_ones()).sum();
        let part = self.bitmap.get(row / 8).map_or(0, |b| b & ((1 << (row % 8)) - 1));
        (whole + part.count_ones()) as usize
    }

    /// Sets an entry at or before the last one: rare, so it builds the rest anew.
    fn replace(&mut self, row: usize, value: Option<&str>) {
        let rows = self.bitmap.len() * 8;
        let old = std::mem::take(self);
        self.clear(rows);
        for at in 0..rows {
            match if at == row { Some(value) } else { old.get(at) } {
                Some(Some(text)) => {
                    self.scratch().push_str(text);
                    self.commit(at);
                }
                Some(None) => self.null(at),
                None => {}
            }
        }
    }
}

/// Writes reply blocks into one buffer, which it keeps 8-byte aligned in memory.
#[derive(Debug, Default)]
pub struct ReplyBuilder {
    out: Vec<u8>,
    start: usize,
}

impl ReplyBuilder {
    /// Writes a whole reply: `verdicts` empty (all keep) or one a row; `errors` in rising
    /// rows, exactly those whose verdict is error; patches with their slot and image, the
    /// empty ones left out.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn write<'p>(
        &mut self,
        call: u32,
        rows: u32,
        verdicts: &[u8],
        errors: &[RowError],
        patches: impl Iterator<Item = (u16, Image, &'p PatchBuf)> + Clone,
    ) -> Result<&[u8], TooLarge> {
        let patches = patches.filter(|(_, _, patch)| !patch.is_empty());
        if rows == 1 && verdicts.is_empty() && errors.is_empty() {
            let (mut some, mut others) = (patches.clone(), patches.clone().skip(1));
            if let (Some((slot, image, patch)), None) = (some.next(), others.next())
                && !patch.nulls
            {
                return self.single(call, slot, image, &patch.text);
            }
        }
        let count = patches.clone().count();
        let mut layout = Layout { end: REPLY_HEADER };
        let verdicts_at = layout.region(verdicts.len());
        let errors_at = layout.region(8 * errors.len());
        let descriptors_at = layout.region(count * DESCRIPTOR);
        let fixed = layout.end;
        for (.., patch) in patches.clone() {
            layout.patch(patch);
        }
        // Whatever lies within a block that is not too large fits, too.
        let total = offset(layout.end)?;
        let count = u16::try_from(count).map_err(|_| TooLarge)?;
        self.begin(layout.end);
        let header = u32::from(count) << 16 | low(REPLY_HEADER);
        let of_errors = [errors_at, low(errors.len()), descriptors_at];
        self.words([
            total,
            header,
            rows,
            call,
            verdicts_at,
            of_errors[0],
            of_errors[1],
            of_errors[2],
        ]);
        self.region(verdicts);
        self.errors(errors);
        layout.end = fixed;
        for (slot, image, patch) in patches.clone() {
            let [bitmap, states, offsets, bytes] = layout.patch(patch);
            let of = u32::from(slot) | (image as u32) << 16;
            let entries = low(patch.len());
            self.words([of, entries, bitmap, states, offsets, bytes, low(patch.text.len()), 0]);
        }
        for (.., patch) in patches {
            self.region(&patch.bitmap);
            self.region(&patch.states);
            words(&mut self.out, &patch.offsets);
            align(&mut self.out, self.start);
            self.region(&patch.text);
        }
        Ok(self.out.get(self.start..).unwrap_or_default())
    }

    /// The reply to one row of which one value is rewritten, as most of a quiet stream's are:
    /// all places are known.
    #[inline]
    fn single(
        &mut self,
        call: u32,
        slot: u16,
        image: Image,
        text: &[u8],
    ) -> Result<&[u8], TooLarge> {
        const BITMAP: usize = REPLY_HEADER + DESCRIPTOR;
        const TEXT: usize = BITMAP + 16;
        let len = offset(text.len())?;
        let total = offset((TEXT + text.len()).next_multiple_of(8))?;
        self.begin(TEXT + text.len());
        let header = low(REPLY_HEADER);
        self.words([total, 1 << 16 | header, 1, call, 0, 0, 0, header]);
        let of = u32::from(slot) | (image as u32) << 16;
        let bytes = if len == 0 { 0 } else { low(TEXT) };
        self.words([of, 1, low(BITMAP), 0, low(BITMAP + 8), bytes, len, 0]);
        // The bit of the row, and where its text begins and ends.
        let regions = [1, u64::from(len) << 32].map(u64::to_le_bytes);
        self.out.extend_from_slice(regions.as_flattened());
        self.region(text);
        Ok(self.out.get(self.start..).unwrap_or_default())
    }

    /// Makes room for a block, aligned.
    #[inline]
    fn begin(&mut self, len: usize) {
        self.out.clear();
        // With room for what alignment takes before and, for a moment, behind: it may not move.
        self.out.reserve(len + 16);
        self.start = self.out.as_ptr().align_offset(8);
        zeros(&mut self.out, self.start);
    }

    /// A header or a descriptor: both are eight words, written as they are copied.
    #[inline(always)]
    fn words(&mut self, words: [u32; 8]) {
        let pair = |i: usize| u64::from(words[i]) | u64::from(words[i + 1]) << 32;
        let pairs = [pair(0), pair(2), pair(4), pair(6)].map(u64::to_le_bytes);
        self.out.extend_from_slice(pairs.as_flattened());
    }

    #[inline]
    fn region(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        append(&mut self.out, bytes);
        align(&mut self.out, self.start);
    }

    fn errors(&mut self, errors: &[RowError]) {
        for error in errors {
            self.out.extend_from_slice(&error.row.to_le_bytes());
            self.out.extend_from_slice(&error.text.to_le_bytes());
            self.out.extend_from_slice(&error.slot.to_le_bytes());
        }
    }
}

/// Where the regions of a reply will lie.
struct Layout {
    end: usize,
}

impl Layout {
    /// The place of a region of `len` bytes; 0 if it has none.
    #[inline]
    fn region(&mut self, len: usize) -> u32 {
        let at = self.end;
        self.end = (at + len).next_multiple_of(8);
        if len == 0 { 0 } else { low(at) }
    }

    /// Bitmap, states, offsets, bytes.
    #[inline]
    fn patch(&mut self, p: &PatchBuf) -> [u32; 4] {
        let bitmap = self.region(p.bitmap.len());
        let states = self.region(p.states.len());
        let offsets = self.region(4 * p.offsets.len());
        [bitmap, states, offsets, self.region(p.text.len())]
    }
}

/// A place or length of which the caller has checked that it is below 4 GiB, or will.
#[inline]
fn low(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

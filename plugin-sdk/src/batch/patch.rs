//! The block a guest answers with, as the guest writes it.
//!
//! A [`PatchBuf`] collects the new values of one column, a [`ReplyBuilder`] puts them into
//! one block with verdicts and errors. Both keep their buffers from batch to batch. What
//! can go wrong: a reply beyond 4 GiB is [`TooLarge`].

use super::{DESCRIPTOR, Image, REPLY_HEADER, RowError, State, TooLarge, align, offset, put};

/// The new values of one column and image, in row order. Kept from batch to batch.
#[derive(Clone, Debug)]
pub struct PatchBuf {
    bitmap: Vec<u8>,
    states: Vec<u8>,
    offsets: Vec<u32>,
    text: String,
    last: usize,
    nulls: bool,
}

impl Default for PatchBuf {
    fn default() -> Self {
        let (bitmap, states, text) = (Vec::new(), Vec::new(), String::new());
        PatchBuf { bitmap, states, offsets: vec![0], text, last: 0, nulls: false }
    }
}

impl PatchBuf {
    /// Forgets all entries and makes room for `rows`.
    pub fn clear(&mut self, rows: usize) {
        self.bitmap.clear();
        self.bitmap.resize(rows.div_ceil(8), 0);
        self.states.clear();
        self.offsets.truncate(1);
        self.text.clear();
        self.last = 0;
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
        Some(self.text.get(self.offsets[i] as usize..self.offsets[i + 1] as usize))
    }

    /// Where text may be appended before [`PatchBuf::commit`] makes it an entry.
    #[inline]
    pub fn scratch(&mut self) -> &mut String {
        &mut self.text
    }

    /// Takes back what was appended and not committed.
    #[inline]
    pub fn rollback(&mut self) {
        let end = self.offsets.last().map_or(0, |o| *o as usize);
        self.text.truncate(end);
    }

    /// Makes what was appended the new text of `row`.
    #[inline]
    pub fn commit(&mut self, row: usize) {
        if self.is_empty() || row > self.last {
            self.append(row, State::Text);
        } else {
            let start = self.offsets.last().map_or(0, |o| *o as usize);
            let text = self.text.split_off(start);
            self.replace(row, Some(&text));
        }
    }

    /// Makes `row` NULL.
    pub fn null(&mut self, row: usize) {
        self.rollback();
        if self.is_empty() || row > self.last {
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
        self.last = row;
        // A block beyond 4 GiB is refused when it is written; until then the offset saturates.
        self.offsets.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
        if self.nulls {
            self.states.push(state as u8);
        }
    }

    /// The number of entries before `row`.
    fn rank(&self, row: usize) -> usize {
        if row == self.last && self.has(row) {
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
                    self.text.push_str(text);
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
        let sizes = patches.clone().map(|(_, _, p)| {
            DESCRIPTOR + p.bitmap.len() + p.states.len() + 4 * p.offsets.len() + p.text.len() + 32
        });
        let fixed = REPLY_HEADER + verdicts.len() + 8 * errors.len() + 32;
        self.out.clear();
        self.out.reserve(fixed + sizes.sum::<usize>() + 8);
        self.start = self.out.as_ptr().align_offset(8);
        self.out.resize(self.start + REPLY_HEADER, 0);
        let count = u16::try_from(patches.clone().count()).map_err(|_| TooLarge)?;
        let error_count = offset(errors.len())?;
        let verdicts_at = self.region(verdicts)?;
        let errors_at = self.errors(errors)?;
        let descriptors = self.region(&[])?;
        let mut at = self.out.len();
        self.out.resize(at + usize::from(count) * DESCRIPTOR, 0);
        for (slot, image, patch) in patches {
            let d = self.patch(slot, image, patch)?;
            put(&mut self.out, at, &d);
            at += DESCRIPTOR;
        }
        align(&mut self.out, self.start);
        let total = offset(self.out.len() - self.start)?;
        let words = [
            (0, total),
            (8, rows),
            (12, call),
            (16, if verdicts.is_empty() { 0 } else { verdicts_at }),
            (20, if errors.is_empty() { 0 } else { errors_at }),
            (24, error_count),
            (28, if count == 0 { 0 } else { descriptors }),
        ];
        for (at, n) in words {
            put(&mut self.out, self.start + at, &n.to_le_bytes());
        }
        put(&mut self.out, self.start + 4, &32_u16.to_le_bytes());
        put(&mut self.out, self.start + 6, &count.to_le_bytes());
        Ok(self.out.get(self.start..).unwrap_or_default())
    }

    fn region(&mut self, bytes: &[u8]) -> Result<u32, TooLarge> {
        align(&mut self.out, self.start);
        let at = offset(self.out.len() - self.start)?;
        self.out.extend_from_slice(bytes);
        Ok(at)
    }

    fn errors(&mut self, errors: &[RowError]) -> Result<u32, TooLarge> {
        let at = self.region(&[])?;
        for error in errors {
            self.out.extend_from_slice(&error.row.to_le_bytes());
            self.out.extend_from_slice(&error.text.to_le_bytes());
            self.out.extend_from_slice(&error.slot.to_le_bytes());
        }
        Ok(at)
    }

    fn patch(&mut self, slot: u16, image: Image, p: &PatchBuf) -> Result<[u8; 32], TooLarge> {
        let bitmap = self.region(&p.bitmap)?;
        let states = if p.nulls { self.region(&p.states)? } else { 0 };
        let offsets = self.region(&[])?;
        self.out.extend(p.offsets.iter().flat_map(|o| o.to_le_bytes()));
        let bytes = if p.text.is_empty() { 0 } else { self.region(p.text.as_bytes())? };
        let mut d = [0; DESCRIPTOR];
        put(&mut d, 0, &slot.to_le_bytes());
        put(&mut d, 2, &[image as u8]);
        let words = [offset(p.len())?, bitmap, states, offsets, bytes, offset(p.text.len())?];
        for (i, n) in words.into_iter().enumerate() {
            put(&mut d, 4 + 4 * i, &n.to_le_bytes());
        }
        Ok(d)
    }
}

//! The block a guest answers with, as the host reads it: verdicts, row errors, patches.
//!
//! [`Reply::read`] believes nothing: whatever is inconsistent in itself, with the call it
//! answers or with what the plugin declared is [`Malformed`]. A reply that came through
//! is safe to apply; whether it masked enough is [`Reply::first_unmasked`]'s question.

use super::{
    Block, DESCRIPTOR, Decision, Flaw, Image, Malformed, NO_SLOT, REPLY_HEADER, Sent, State, cut,
    flaw, texts,
};
use crate::event::Op;

/// An error of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowError {
    /// Row of the batch.
    pub row: u32,
    /// Index into the texts declared at init.
    pub text: u16,
    /// The column it is about, or [`NO_SLOT`].
    pub slot: u16,
}

/// What a reply may speak of.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a> {
    /// Texts declared at init.
    pub texts: usize,
    /// For each slot of the relation's answer, whether it may be patched.
    pub patchable: &'a [bool],
}

/// One patch of a checked reply.
#[derive(Clone, Copy, Debug)]
pub struct Patch<'a> {
    /// Slot in the relation's answer.
    pub slot: u16,
    /// New or old.
    pub image: Image,
    bitmap: &'a [u8],
    states: Option<&'a [u8]>,
    offsets: &'a [[u8; 4]],
    text: &'a str,
}

impl<'a> Patch<'a> {
    /// Its entries: row and new text, `None` for NULL; in row order.
    pub fn entries(self) -> impl Iterator<Item = (usize, Option<&'a str>)> {
        let mut next = 0;
        self.rows().map(move |row| {
            let i = next;
            next += 1;
            let null = self.states.is_some_and(|states| states[i] == State::Null as u8);
            (row, (!null).then(|| cut(self.text, self.offsets, i)))
        })
    }

    /// The rows that have an entry.
    fn rows(self) -> impl Iterator<Item = usize> + 'a {
        self.bitmap.iter().enumerate().flat_map(|(i, byte)| {
            let mut left = *byte;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                left &= left.wrapping_sub(1);
                (bit < 8).then_some(i * 8 + bit)
            })
        })
    }

    /// All new texts, one after the other, for a host that copies them at once.
    #[must_use]
    pub fn bytes(self) -> &'a str {
        self.text
    }

    /// Calls `f` with each entry in row order: its row, and where in [`Patch::bytes`] its
    /// text begins and how many bytes it has; `None` for NULL.
    #[inline]
    pub fn each(self, mut f: impl FnMut(usize, Option<(u32, u32)>)) {
        let mut ends = self.offsets.iter().map(|o| u32::from_le_bytes(*o));
        let mut states = self.states.unwrap_or_default().iter();
        let mut start = ends.next().unwrap_or(0);
        for (i, byte) in self.bitmap.iter().enumerate() {
            let mut left = *byte;
            while left != 0 {
                let row = i * 8 + left.trailing_zeros() as usize;
                left &= left - 1;
                let end = ends.next().unwrap_or(start);
                let null = states.next() == Some(&(State::Null as u8));
                f(row, (!null).then_some((start, end.saturating_sub(start))));
                start = end;
            }
        }
    }
}

/// A reply that keeps to the contract.
#[derive(Clone, Debug)]
pub struct Reply<'a> {
    rows: usize,
    verdicts: Option<&'a [u8]>,
    errors: Vec<RowError>,
    /// Most replies have one patch, and it needs no allocation.
    patch: Option<Patch<'a>>,
    more: Vec<Patch<'a>>,
}

impl<'a> Reply<'a> {
    /// Checks a reply to `sent`, whole, before anything of it is used.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(
        block: &'a [u8],
        sent: Sent<'_>,
        allowed: Allowed<'_>,
    ) -> Result<Reply<'a>, Malformed> {
        let b = Block(block);
        b.open(REPLY_HEADER)?;
        let rows = sent.rows();
        let [_, lengths, told, call, judged, of_errors, failed, first] = b.words(0)?;
        if told as usize != rows {
            let sent = u32::try_from(rows).unwrap_or(u32::MAX);
            return flaw(8, Flaw::WrongRows { sent, told });
        }
        if call != sent.call() {
            return flaw(12, Flaw::StaleCall { sent: sent.call(), told: call });
        }
        let verdicts = b.region(judged, 16, rows, "verdicts")?;
        if let Some(verdicts) = verdicts {
            check_verdicts(verdicts, sent.ops())?;
        }
        let errors = match failed {
            0 if of_errors == 0 && verdicts.is_none() => Vec::new(),
            _ => read_errors(b, (of_errors, failed), rows, verdicts, allowed)?,
        };
        let (count, first_at) = ((lengths >> 16) as usize, first as usize);
        b.need(first, 28, count * DESCRIPTOR, "patch descriptors")?;
        let mut reply = Reply { rows, verdicts, errors, patch: None, more: Vec::new() };
        let mut texts = 0;
        for i in 0..count {
            let at = first_at + i * DESCRIPTOR;
            let patch = read_patch(b, at, sent, allowed).map_err(|flaw| flaw.of_patch(i, at))?;
            // Each is copied: regions that lie on one another would make much of little.
            texts += patch.text.len();
            if texts > b.0.len() {
                let shared = flaw(at, Flaw::Shared);
                return shared.map_err(|flaw: Malformed| flaw.of_patch(i, at));
            }
            if reply.patch(patch.slot, patch.image).is_some() {
                let twice = flaw(at, Flaw::Duplicate(patch.slot));
                return twice.map_err(|flaw: Malformed| flaw.of_patch(i, at));
            }
            match reply.patch {
                None => reply.patch = Some(patch),
                Some(_) => reply.more.push(patch),
            }
        }
        Ok(reply)
    }

    /// The decision on a row.
    #[must_use]
    pub fn decision(&self, row: usize) -> Decision {
        let number = self.verdicts.and_then(|v| v.get(row));
        number.and_then(|n| Decision::from_number(*n)).unwrap_or(Decision::Keep)
    }

    /// Whether every row is kept.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        self.verdicts.is_none_or(|v| v.iter().all(|n| *n == Decision::Keep as u8))
    }

    /// The errors, in row order; exactly the rows decided as such.
    #[must_use]
    pub fn errors(&self) -> &[RowError] {
        &self.errors
    }

    /// The patches.
    pub fn patches(&self) -> impl Iterator<Item = &Patch<'a>> {
        self.patch.iter().chain(&self.more)
    }

    /// The patch of a column and image, if there is one.
    #[must_use]
    pub fn patch(&self, slot: u16, image: Image) -> Option<&Patch<'a>> {
        self.patches().find(|p| p.slot == slot && p.image == image)
    }

    /// The first row whose text in a masked column goes on without a patch, if any: the
    /// plugin's failure, whatever else it answered. Rows that were dropped or are
    /// in error are let off; so are values without text.
    #[must_use]
    pub fn first_unmasked(&self, slot: u16, image: Image, sent: Sent<'_>) -> Option<usize> {
        let states = sent.states(slot, image);
        let bitmap = self.patch(slot, image).map_or(&[][..], |p| p.bitmap);
        for (i, pair) in states.chunks(2).enumerate() {
            let pair = u16::from(pair[0]) | u16::from(pair.get(1).copied().unwrap_or(0)) << 8;
            let mut bare = text_bits(pair) & !bitmap.get(i).copied().unwrap_or(0);
            while bare != 0 {
                let row = i * 8 + bare.trailing_zeros() as usize;
                if row < self.rows && !self.decision(row).removes() {
                    return Some(row);
                }
                bare &= bare - 1;
            }
        }
        None
    }
}

/// Eight rows' states as one bit a row: is it text.
fn text_bits(states: u16) -> u8 {
    let mut x = states & (states >> 1) & 0x5555;
    x = (x | x >> 1) & 0x3333;
    x = (x | x >> 2) & 0x0F0F;
    ((x | x >> 4) & 0x00FF) as u8
}

fn check_verdicts(verdicts: &[u8], ops: &[u8]) -> Result<(), Malformed> {
    if verdicts.iter().all(|n| *n <= Decision::Error as u8) {
        return Ok(());
    }
    for (row, (verdict, op)) in verdicts.iter().zip(ops).enumerate() {
        let (verdict, row) = (*verdict, u32::try_from(row).unwrap_or(u32::MAX));
        match Decision::from_number(verdict) {
            None => return flaw(16, Flaw::UnknownVerdict { row, verdict }),
            Some(Decision::AsInsert | Decision::AsDelete) if *op != Op::Update as u8 => {
                return flaw(16, Flaw::VerdictNotForOp { row, verdict });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn read_errors(
    b: Block<'_>,
    (place, count): (u32, u32),
    rows: usize,
    verdicts: Option<&[u8]>,
    allowed: Allowed<'_>,
) -> Result<Vec<RowError>, Malformed> {
    let count = count as usize;
    if count > rows {
        return flaw(24, Flaw::TooManyEntries);
    }
    let is_error =
        |row: usize| verdicts.and_then(|v| v.get(row)).is_some_and(|n| *n == Decision::Error as u8);
    let judged = verdicts.unwrap_or_default();
    if judged.iter().filter(|n| **n == Decision::Error as u8).count() != count {
        return flaw(24, Flaw::ErrorsDisagree);
    }
    let region = Block(b.need(place, 20, count * 8, "errors")?);
    let mut errors: Vec<RowError> = Vec::with_capacity(count);
    for i in 0..count {
        let at = i * 8;
        let error =
            RowError { row: region.u32(at)?, text: region.u16(at + 4)?, slot: region.u16(at + 6)? };
        if errors.last().is_some_and(|last| last.row >= error.row) || error.row as usize >= rows {
            return flaw(20, Flaw::ErrorOrder { row: error.row });
        }
        if !is_error(error.row as usize) {
            return flaw(20, Flaw::ErrorsDisagree);
        }
        if usize::from(error.text) >= allowed.texts {
            return flaw(20, Flaw::UnknownText(error.text));
        }
        if error.slot != NO_SLOT && usize::from(error.slot) >= allowed.patchable.len() {
            return flaw(20, Flaw::UnknownSlot(error.slot));
        }
        errors.push(error);
    }
    Ok(errors)
}

fn read_patch<'a>(
    b: Block<'a>,
    at: usize,
    sent: Sent<'_>,
    allowed: Allowed<'_>,
) -> Result<Patch<'a>, Malformed> {
    let [of, count, bitmap, states, offsets, bytes, len] = b.words(at)?;
    let [low, high, image, _] = of.to_le_bytes();
    let (slot, count) = (u16::from_le_bytes([low, high]), count as usize);
    let Some(image) = Image::from_number(image) else {
        return flaw(at + 2, Flaw::UnknownImage(image));
    };
    match allowed.patchable.get(usize::from(slot)) {
        None => return flaw(at, Flaw::UnknownSlot(slot)),
        Some(false) => return flaw(at, Flaw::NotPatchable(slot)),
        Some(true) => {}
    }
    if count > sent.rows() {
        return flaw(at + 4, Flaw::TooManyEntries);
    }
    let bitmap = b.need(bitmap, at + 8, sent.rows().div_ceil(8), "bits of the bitmap")?;
    let states = b.region(states, at + 12, count, "states")?;
    let offsets = b.need(offsets, at + 16, 4 * (count + 1), "offsets")?.as_chunks().0;
    let bytes = b.need(bytes, at + 20, len as usize, "bytes")?;
    let text = texts(offsets, bytes, at)?;
    if bytes.contains(&0) {
        return flaw(at + 20, Flaw::ZeroByte);
    }
    check_states(states, offsets, at + 12)?;
    check_bitmap(bitmap, count, sent, (slot, image), at + 8)?;
    Ok(Patch { slot, image, bitmap, states, offsets, text })
}

fn check_states(states: Option<&[u8]>, offsets: &[[u8; 4]], at: usize) -> Result<(), Malformed> {
    for (i, state) in states.unwrap_or_default().iter().enumerate() {
        if *state == State::Null as u8 {
            if offsets.get(i) != offsets.get(i + 1) {
                return flaw(at, Flaw::LengthWithoutText);
            }
        } else if *state != State::Text as u8 {
            return flaw(at, Flaw::UnknownState(*state));
        }
    }
    Ok(())
}

/// As many bits as entries, none beyond the rows, none over nothing.
fn check_bitmap(
    bitmap: &[u8],
    count: usize,
    sent: Sent<'_>,
    (slot, image): (u16, Image),
    at: usize,
) -> Result<(), Malformed> {
    let rows = sent.rows();
    let bits: usize = bitmap.iter().map(|byte| byte.count_ones() as usize).sum();
    if bits != count {
        return flaw(at, Flaw::CountDisagrees);
    }
    let spare = bitmap.last().map_or(0, |byte| u32::from(*byte) >> ((rows + 7) % 8 + 1));
    if spare != 0 {
        return flaw(at, Flaw::BitBeyondRows);
    }
    if sent.all_text(slot, image) {
        return Ok(());
    }
    let states = sent.states(slot, image);
    for (i, byte) in bitmap.iter().enumerate().filter(|(_, byte)| **byte != 0) {
        for row in (i * 8..i * 8 + 8).filter(|row| byte >> (row % 8) & 1 == 1) {
            if matches!(State::of_row(states, row), State::Absent | State::Unchanged) {
                let row = u32::try_from(row).unwrap_or(u32::MAX);
                return flaw(at, Flaw::PatchOverNothing { row });
            }
        }
    }
    Ok(())
}

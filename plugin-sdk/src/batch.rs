//! The column batch of ABI 1: the bytes that cross between host and guest.
//!
//! [`input`] is the block a host writes and a guest reads, [`patch`] writes and [`reply`]
//! reads the block that comes back; `ABI.md` beside this crate describes both. Host and guest use this one
//! implementation, but each reads what the other wrote as if a stranger had written it:
//! every range, count, order, alignment and number is checked before anything is used,
//! a flaw is a [`Malformed`] with its place, and nothing here can panic on bytes.

pub mod input;
pub mod patch;
pub mod reply;
pub(crate) mod short;

use std::fmt;

pub use input::{ColumnView, Field, Input, InputBuilder, Sent};
pub use patch::{PatchBuf, ReplyBuilder};
pub use reply::{Allowed, Patch, Reply, RowError};

/// Length of the header this version writes before an input block.
pub const INPUT_HEADER: usize = 48;
/// Length of the header this version writes before a reply block.
pub const REPLY_HEADER: usize = 32;
/// Length of a descriptor, in both directions.
pub const DESCRIPTOR: usize = 32;
/// Input flag: every text of the block is valid UTF-8.
pub const FLAG_UTF8: u32 = 1;
/// Descriptor flag: every row of this column is text (bit 1).
pub const FLAG_ALL_TEXT: u8 = 2;
/// The slot of an error that belongs to no column.
pub const NO_SLOT: u16 = 0xFFFF;

/// Which side of a change a value stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Image {
    /// The row after the change.
    New = 0,
    /// The row, or its key, before it.
    Old = 1,
}

impl Image {
    /// Both, in the order of their numbers.
    pub const ALL: [Image; 2] = [Image::New, Image::Old];

    fn from_number(n: u8) -> Option<Image> {
        Image::ALL.get(usize::from(n)).copied()
    }
}

/// The state of a value, two bits in an input block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Not part of this image; zeroed memory reads as this, never as a value.
    Absent = 0,
    /// SQL NULL.
    Null = 1,
    /// TOASTed, not touched, not sent.
    Unchanged = 2,
    /// There is a text.
    Text = 3,
}

impl State {
    const ALL: [State; 4] = [State::Absent, State::Null, State::Unchanged, State::Text];

    /// The state of row `row` in a states region; rows beyond it are absent.
    #[must_use]
    pub fn of_row(states: &[u8], row: usize) -> State {
        let byte = states.get(row / 4).copied().unwrap_or(0);
        State::ALL[usize::from(byte >> (2 * (row % 4)) & 3)]
    }
}

/// What a guest decided of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Decision {
    /// Publish it.
    Keep = 0,
    /// Remove it.
    Drop = 1,
    /// The row has an error; the binding's policy follows.
    Error = 2,
    /// Publish an UPDATE as the INSERT of its new row.
    AsInsert = 3,
    /// Publish an UPDATE as the DELETE of its old row.
    AsDelete = 4,
}

impl Decision {
    /// Every decision, in the order of its number.
    pub const ALL: [Decision; 5] =
        [Decision::Keep, Decision::Drop, Decision::Error, Decision::AsInsert, Decision::AsDelete];

    /// The decision with ABI number `n`.
    #[must_use]
    pub fn from_number(n: u8) -> Option<Decision> {
        Decision::ALL.get(usize::from(n)).copied()
    }

    /// Whether the row does not go on: dropped, or in error.
    #[must_use]
    pub fn removes(self) -> bool {
        matches!(self, Decision::Drop | Decision::Error)
    }
}

/// A block that does not keep to the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Byte of the block where the flaw was noticed.
    pub at: usize,
    /// The same, for everybody to read.
    pub place: Place,
    /// What is wrong there.
    pub flaw: Flaw,
}

/// Where a flaw is, without a number that whoever wrote the block could have chosen freely:
/// a header stands where it stands, and the patches before a flaw are of columns that
/// there are, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// This byte of the block's header.
    Header(usize),
    /// A patch of a reply.
    Patch {
        /// Its number, from 0.
        number: usize,
        /// Byte of its descriptor.
        byte: usize,
    },
    /// Behind the header.
    Behind,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Place::Header(byte) => write!(f, "byte {byte} of its header"),
            Place::Patch { number, byte } => {
                write!(f, "byte {byte} of the descriptor of its patch {number}")
            }
            Place::Behind => f.write_str("behind its header"),
        }
    }
}

impl Malformed {
    pub(crate) fn new(at: usize, flaw: Flaw) -> Malformed {
        let place = if at < REPLY_HEADER { Place::Header(at) } else { Place::Behind };
        Malformed { at, place, flaw }
    }

    /// The same, of a patch whose descriptor begins at `start`.
    fn of_patch(self, number: usize, start: usize) -> Malformed {
        match self.at.checked_sub(start) {
            Some(byte) => Malformed { place: Place::Patch { number, byte }, ..self },
            None => self,
        }
    }
}

/// What can be wrong with a block. Numbers are structure, never a row's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flaw {
    /// The block is shorter than a header, or than it says.
    TooShort,
    /// The total length in the block is not the length that was given.
    WrongLength,
    /// The block says its header is shorter than this version's.
    HeaderTooShort,
    /// The named region lies outside the block.
    OutOfRange(&'static str),
    /// The named region must be 8-byte aligned.
    Misaligned(&'static str),
    /// The named region must be present.
    Missing(&'static str),
    /// A batch of no rows.
    NoRows,
    /// The reply is about another number of rows than the call.
    WrongRows {
        /// Rows of the call.
        sent: u32,
        /// Rows of the reply.
        told: u32,
    },
    /// The reply answers another call.
    StaleCall {
        /// Number of the call.
        sent: u32,
        /// Number in the reply.
        told: u32,
    },
    /// No such operation.
    UnknownOp(u8),
    /// No such image.
    UnknownImage(u8),
    /// No such verdict.
    UnknownVerdict {
        /// Row of the batch.
        row: u32,
        /// Its number.
        verdict: u8,
    },
    /// A verdict that this row's operation does not have.
    VerdictNotForOp {
        /// Row of the batch.
        row: u32,
        /// Its verdict's number.
        verdict: u8,
    },
    /// An error names a row beyond the batch or is not above the one before it.
    ErrorOrder {
        /// The row it names.
        row: u32,
    },
    /// Errors and verdicts "error" are not the same rows.
    ErrorsDisagree,
    /// An error names a text that was not declared.
    UnknownText(u16),
    /// A slot that the relation's columns do not have.
    UnknownSlot(u16),
    /// A patch of a column that may not be patched.
    NotPatchable(u16),
    /// Two descriptors of one column and image.
    Duplicate(u16),
    /// More entries than rows.
    TooManyEntries,
    /// A bitmap's bits are not as many as its entries.
    CountDisagrees,
    /// A bit is set beyond the last row.
    BitBeyondRows,
    /// A patch over a value that is absent or unchanged.
    PatchOverNothing {
        /// Row of the batch.
        row: u32,
    },
    /// Patches whose texts are together longer than the block that holds them.
    Shared,
    /// A state that this region cannot hold.
    UnknownState(u8),
    /// Offsets do not begin at 0, decrease, or do not end at the length.
    OffsetOrder,
    /// A value that has no text has a length.
    LengthWithoutText,
    /// Bytes are not valid UTF-8, or a value cuts a character.
    NotUtf8,
    /// A text holds a zero byte, which PostgreSQL cannot store.
    ZeroByte,
}

/// Without a number that whoever wrote the block could have chosen freely: a value could
/// be in it.
impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.flaw.fmt(f)
    }
}

impl std::error::Error for Malformed {}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Flaw::TooShort => f.write_str("the block is too short"),
            Flaw::WrongLength => f.write_str("the block's own length is not what was given"),
            Flaw::HeaderTooShort => f.write_str("the header is shorter than ABI 1 has it"),
            Flaw::OutOfRange(what) => write!(f, "{what} lie outside the block"),
            Flaw::Misaligned(what) => write!(f, "{what} are not 8-byte aligned"),
            Flaw::Missing(what) => write!(f, "{what} are missing"),
            Flaw::NoRows => f.write_str("the batch has no rows"),
            Flaw::WrongRows { .. } => f.write_str("its rows are not as many as were sent"),
            Flaw::StaleCall { .. } => f.write_str("an answer to another call"),
            Flaw::UnknownOp(_) => f.write_str("an operation that does not exist"),
            Flaw::UnknownImage(_) => f.write_str("an image that does not exist"),
            Flaw::UnknownVerdict { row, .. } => {
                write!(f, "the verdict of row {row} does not exist")
            }
            Flaw::VerdictNotForOp { row, .. } => {
                write!(f, "the verdict of row {row} does not fit its operation")
            }
            Flaw::ErrorOrder { .. } => f.write_str("an error's row is out of order or range"),
            Flaw::ErrorsDisagree => f.write_str("errors and error verdicts are not the same rows"),
            Flaw::UnknownText(_) => f.write_str("a text that was not declared at init"),
            Flaw::UnknownSlot(_) => f.write_str("a slot that is not of this relation"),
            Flaw::NotPatchable(n) => write!(f, "slot {n} may not be patched"),
            Flaw::Duplicate(n) => write!(f, "slot {n} comes twice for one image"),
            Flaw::TooManyEntries => f.write_str("more entries than rows"),
            Flaw::CountDisagrees => f.write_str("the bitmap has not as many bits as entries"),
            Flaw::BitBeyondRows => f.write_str("a bit is set beyond the last row"),
            Flaw::PatchOverNothing { row } => {
                write!(f, "a patch over a value of row {row} that is absent or unchanged")
            }
            Flaw::UnknownState(_) => f.write_str("a state that is not possible here"),
            Flaw::Shared => {
                f.write_str("its patches share their bytes: they are longer than the block")
            }
            Flaw::OffsetOrder => f.write_str("offsets do not rise from 0 to the length"),
            Flaw::LengthWithoutText => f.write_str("a value without text has a length"),
            Flaw::NotUtf8 => f.write_str("text is not valid UTF-8"),
            Flaw::ZeroByte => f.write_str("text holds a zero byte"),
        }
    }
}

/// More than fits the u32 offsets of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a batch cannot exceed 4 GiB, 2^31 rows or 65,535 columns: send fewer rows")
    }
}

impl std::error::Error for TooLarge {}

fn flaw<T>(at: usize, flaw: Flaw) -> Result<T, Malformed> {
    Err(Malformed::new(at, flaw))
}

/// Checked little-endian access to a block.
#[derive(Clone, Copy)]
struct Block<'a>(&'a [u8]);

impl<'a> Block<'a> {
    #[inline]
    fn array<const N: usize>(self, at: usize) -> Result<[u8; N], Malformed> {
        let bytes = self.0.get(at..).and_then(<[u8]>::first_chunk::<N>);
        bytes.copied().ok_or(Malformed::new(at, Flaw::TooShort))
    }

    #[inline]
    fn u16(self, at: usize) -> Result<u16, Malformed> {
        self.array(at).map(u16::from_le_bytes)
    }

    #[inline]
    fn u32(self, at: usize) -> Result<u32, Malformed> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// The length fields that open both headers: total and header length.
    fn open(self, header: usize) -> Result<(), Malformed> {
        if self.u32(0)? as usize != self.0.len() {
            return flaw(0, Flaw::WrongLength);
        }
        let told = usize::from(self.u16(4)?);
        if told < header {
            return flaw(4, Flaw::HeaderTooShort);
        }
        if told > self.0.len() {
            return flaw(4, Flaw::TooShort);
        }
        Ok(())
    }

    /// The region at `start`, `len` bytes long; `None` if that is 0. `at` is where the offset
    /// stood, for the error.
    #[inline(always)]
    fn region(
        self,
        start: u32,
        at: usize,
        len: usize,
        what: &'static str,
    ) -> Result<Option<&'a [u8]>, Malformed> {
        let start = start as usize;
        if start == 0 {
            return Ok(None);
        }
        if !start.is_multiple_of(8) {
            return flaw(at, Flaw::Misaligned(what));
        }
        let end = start.checked_add(len).ok_or(Malformed::new(at, Flaw::OutOfRange(what)))?;
        match self.0.get(start..end) {
            Some(bytes) => Ok(Some(bytes)),
            None => flaw(at, Flaw::OutOfRange(what)),
        }
    }

    /// As [`Block::region`], where the region must be there unless it is empty.
    #[inline(always)]
    fn need(
        self,
        start: u32,
        at: usize,
        len: usize,
        what: &'static str,
    ) -> Result<&'a [u8], Malformed> {
        match self.region(start, at, len, what)? {
            Some(bytes) => Ok(bytes),
            None if len == 0 => Ok(&[]),
            None => flaw(at, Flaw::Missing(what)),
        }
    }

    /// `N` words from `at`: one check for all of them.
    #[inline(always)]
    fn words<const N: usize>(self, at: usize) -> Result<[u32; N], Malformed> {
        let bytes = self.0.get(at..).unwrap_or_default();
        match bytes.as_chunks::<4>().0.first_chunk::<N>() {
            Some(words) => Ok(words.map(u32::from_le_bytes)),
            None => flaw(at, Flaw::TooShort),
        }
    }
}

/// Checks `offsets` against `bytes` and gives the text they cut; `at` is for the error.
fn texts<'a>(offsets: &[[u8; 4]], bytes: &'a [u8], at: usize) -> Result<&'a str, Malformed> {
    let first = offsets.first().map(|o| u32::from_le_bytes(*o));
    let last = offsets.last().map(|o| u32::from_le_bytes(*o) as usize);
    if first != Some(0) || last != Some(bytes.len()) {
        return flaw(at, Flaw::OffsetOrder);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return flaw(at, Flaw::NotUtf8) };
    let (mut falls, mut cuts, mut before) = (false, false, 0);
    for edge in offsets.iter().map(|o| u32::from_le_bytes(*o)) {
        falls |= edge < before;
        cuts |= !text.is_char_boundary(edge as usize);
        before = edge;
    }
    if falls {
        return flaw(at, Flaw::OffsetOrder);
    }
    if cuts {
        return flaw(at, Flaw::NotUtf8);
    }
    Ok(text)
}

/// The text of entry `i`, of offsets that [`texts`] has checked.
#[inline]
fn cut<'a>(text: &'a str, offsets: &[[u8; 4]], i: usize) -> &'a str {
    let edge = |i: usize| offsets.get(i).map_or(0, |o| u32::from_le_bytes(*o) as usize);
    text.get(edge(i)..edge(i + 1)).unwrap_or_default()
}

/// A little-endian block being written; regions begin 8-byte aligned from its start.
#[inline]
fn align(out: &mut Vec<u8>, start: usize) {
    let end = start + (out.len() - start).next_multiple_of(8);
    if end != out.len() {
        // Eight at once and some taken back: cheaper than a fill of few.
        out.extend_from_slice(&[0; 8]);
        out.truncate(end);
    }
}

#[inline]
fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[inline]
fn offset(n: usize) -> Result<u32, TooLarge> {
    u32::try_from(n).map_err(|_| TooLarge)
}

#[cfg(test)]
mod tests;

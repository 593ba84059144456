//! The batch that rows of one table are gathered in: values as slices of the chunk they
//! were read in, and of one side buffer for what had to be decoded.
//!
//! What can go wrong: fields and columns do not match, a value has not its type's form,
//! bytes that are no UTF-8 ([`RowError`]).

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use kasho_plugin_sdk::Op;
use memchr::memchr;

use super::targets::{Slot, Target};
use super::values::{Malformed, convert};
use crate::batch::{Batch, Cell, Piece, Row, Span};
use crate::position::{Lsn, Position};
use crate::source::copy::{CopyError, Field, fields};

/// The chunk's part, and the side buffer.
const CHUNK: u32 = 0;
const SIDE: u32 = 1;

/// A row cannot be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RowError {
    /// Its fields are not those of the columns.
    Copy(CopyError),
    /// A value has not its type's form.
    Value { column: usize, expected: &'static str },
    /// `DEFAULT` for a column that is published.
    Default { column: usize },
}

/// Bytes that a database in UTF-8 cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadText {
    /// Where in the batch's text; unknown of an escape.
    pub(super) at: Option<usize>,
    /// In words.
    pub(super) what: &'static str,
}

/// Gathers rows. Its buffers are used again for each row.
#[derive(Default)]
pub(super) struct Builder {
    target: Option<Arc<Target>>,
    batch: Batch,
    /// Index of the relation in the batch.
    relation: u32,
    /// The batch's begin in the chunk.
    start: usize,
    /// End of its last row.
    end: usize,
    side: Vec<u8>,
    fields: Vec<Field>,
    /// Fields of the row that said DEFAULT.
    defaults: Vec<usize>,
    cells: Vec<Cell>,
    converted: Vec<u8>,
}

impl Builder {
    pub(super) fn is_empty(&self) -> bool {
        self.batch.rows.is_empty()
    }

    /// Rows and bytes gathered.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.batch.rows.len(), self.end - self.start + self.side.len())
    }

    /// The table whose rows are gathered.
    pub(super) fn target(&self) -> Option<&Arc<Target>> {
        self.target.as_ref()
    }

    /// Takes a line of COPY, without its line end, that stands there in the chunk. `end`
    /// is where the next one begins.
    pub(super) fn copy_row(
        &mut self,
        target: &Arc<Target>,
        chunk: &[u8],
        line: Range<usize>,
        end: usize,
    ) -> Result<(), RowError> {
        self.begin(target, line.start);
        self.fields.clear();
        let sides = self.side.len();
        let at = line.start;
        let text = &chunk[line];
        let mut result = Ok(());
        // A table without columns has rows all the same: empty lines.
        if !(target.slots.is_empty() && text.is_empty()) {
            result = fields(text, &mut self.side, &mut self.fields);
        }
        let (found, expected) = (self.fields.len(), target.slots.len());
        if result.is_ok() && found != expected {
            result = Err(CopyError::FieldCount { found, expected });
        }
        let taken = match result {
            Ok(()) => self.push(target, chunk, at, end),
            Err(error) => Err(RowError::Copy(error)),
        };
        if taken.is_err() {
            self.side.truncate(sides);
        }
        taken
    }

    /// Takes a row of INSERT that `parse` reads from the text there in the chunk: fields,
    /// decoded bytes, numbers of the fields that said DEFAULT.
    pub(super) fn insert_row<E: From<RowError>>(
        &mut self,
        target: &Arc<Target>,
        chunk: &[u8],
        row: Range<usize>,
        parse: impl FnOnce(&[u8], &mut Vec<Field>, &mut Vec<u8>, &mut Vec<usize>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.begin(target, row.start);
        self.fields.clear();
        self.defaults.clear();
        let sides = self.side.len();
        let end = row.end;
        let at = row.start;
        let parsed = parse(&chunk[row], &mut self.fields, &mut self.side, &mut self.defaults);
        let (found, expected) = (self.fields.len(), target.slots.len());
        let taken = match parsed {
            Err(error) => Err(error),
            Ok(()) if found != expected => {
                Err(RowError::Copy(CopyError::FieldCount { found, expected }).into())
            }
            Ok(()) => match self.defaults.iter().find_map(|n| target.slots[*n].to) {
                Some(column) => Err(RowError::Default { column }.into()),
                None => self.push(target, chunk, at, end).map_err(E::from),
            },
        };
        if taken.is_err() {
            self.side.truncate(sides);
        }
        taken
    }

    fn begin(&mut self, target: &Arc<Target>, at: usize) {
        if self.is_empty() {
            self.relation = self.batch.relation_index(&target.relation);
            self.target = Some(Arc::clone(target));
            (self.start, self.end) = (at, at);
        }
    }

    /// The fields, which stand in the text from `at` on or in the side buffer, as a row.
    fn push(
        &mut self,
        target: &Target,
        chunk: &[u8],
        at: usize,
        end: usize,
    ) -> Result<(), RowError> {
        self.cells.clear();
        self.cells.resize(target.relation.columns.len(), Cell::Null);
        for (field, Slot { to, shape }) in self.fields.iter().zip(&target.slots) {
            let Some(to) = *to else { continue };
            let (segment, range) = match field {
                Field::Null => continue,
                Field::Plain(range) => (CHUNK, range.start + at..range.end + at),
                Field::Unescaped(range) => (SIDE, range.clone()),
            };
            let text =
                if segment == CHUNK { &chunk[range.clone()] } else { &self.side[range.clone()] };
            self.converted.clear();
            let changed = match shape {
                None => false,
                Some(shape) => convert(shape, text, &mut self.converted)
                    .map_err(|Malformed(expected)| RowError::Value { column: to, expected })?,
            };
            self.cells[to] = Cell::Text(if changed {
                let start = self.side.len();
                self.side.extend_from_slice(&self.converted);
                span(SIDE, start..self.side.len())
            } else if segment == CHUNK {
                span(CHUNK, range.start - self.start..range.end - self.start)
            } else {
                span(SIDE, range)
            });
        }
        let image = self.batch.push_image(self.cells.iter().copied());
        self.batch.rows.push(Row {
            position: Position::START,
            op: Op::Read,
            relation: self.relation,
            new: Some(image),
            old: None,
            detail: None,
            dropped: false,
        });
        self.end = end;
        Ok(())
    }

    /// The batch, which stands in `chunk`, and the bytes of its text. Nothing is gathered
    /// afterwards.
    pub(super) fn take(&mut self, chunk: &Bytes, lsn: Lsn) -> Result<(Batch, u64), BadText> {
        let mut batch = std::mem::take(&mut self.batch);
        let text = chunk.slice(self.start..self.end);
        self.start = self.end;
        check(&text).map_err(|(at, what)| BadText { at: Some(at), what })?;
        check(&self.side).map_err(|(_, what)| BadText { at: None, what })?;
        let bytes = text.len() as u64;
        batch.push_segment(text);
        if !self.side.is_empty() {
            batch.push_segment(Bytes::copy_from_slice(&self.side));
            self.side.clear();
        }
        batch.pieces.push(Piece {
            xid: 0,
            commit_lsn: lsn,
            commit_us: 0,
            rows: 0..batch.rows.len(),
            first: true,
            end_lsn: None,
        });
        Ok((batch, bytes))
    }

    /// Where the gathered text begins in its chunk.
    pub(super) fn start(&self) -> usize {
        self.start
    }
}

fn check(text: &[u8]) -> Result<(), (usize, &'static str)> {
    if let Err(error) = std::str::from_utf8(text) {
        let what = "bytes that are no UTF-8: take the dump with pg_dump --encoding=UTF8";
        return Err((error.valid_up_to(), what));
    }
    let zero = "a zero byte, which no text of PostgreSQL holds: the file is damaged";
    memchr(0, text).map_or(Ok(()), |at| Err((at, zero)))
}

/// Chunks are bounded far below 2^32 bytes by the longest row.
fn span(segment: u32, range: Range<usize>) -> Span {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Span { segment, start: number(range.start), len: number(range.len()) }
}

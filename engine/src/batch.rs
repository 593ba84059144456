//! A run of rows in commit order: what travels from a source through the chain to a sink.
//!
//! Values are spans of the buffers they were received in (or, once rewritten, of a
//! buffer the chain made): a row costs its cells, 16 bytes a column, and no copy. A
//! batch begins where a transaction begins, or carries nothing but the rest of one
//! transaction that an earlier batch began; so whoever changes something "where a
//! transaction begins" may do so before any batch whose first piece is `first`.
//!
//! No I/O, no clock. Spans are made by whoever pushed their segment; reading one that
//! lies outside it is a bug of that maker and panics, it cannot read another row's bytes.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use kasho_plugin_sdk::{Op, Relation};

use crate::position::{Lsn, Position};

mod ddl;
mod events;
mod letters;

pub use ddl::{DdlDetail, DdlEvent, DdlObject, Rename, moved};
pub use events::{DDL_RELATION_ID, MESSAGE_RELATION_ID, ddl_relation, message_relation};
pub use letters::{Aside, Closing, Letter, Stays};

/// A piece of one of the batch's segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index into the batch's segments.
    pub segment: u32,
    /// First byte.
    pub start: u32,
    /// Bytes.
    pub len: u32,
}

/// One column of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// The value's text.
    Text(Span),
    /// SQL NULL.
    Null,
    /// TOASTed, not touched, not sent.
    Unchanged,
    /// Not part of this image.
    Absent,
}

/// Which cells of the batch make an image; one cell for each column of the relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// First cell.
    pub start: u32,
    /// Cells, as many as the relation has columns.
    pub len: u32,
}

impl Image {
    /// The range of cells.
    #[must_use]
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

/// What a row of a rare kind carries beside its relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// TRUNCATE: every table of the statement, in its order.
    Truncate {
        /// Indexes into [`Batch::relations`]; the row's own `relation` is the first.
        relations: Vec<u32>,
        /// CASCADE was said.
        cascade: bool,
        /// RESTART IDENTITY was said.
        restart_identity: bool,
    },
    /// A logical message. Its row's relation is the virtual `kasho.message`, its image
    /// `(prefix, content)`; this says whether it stood in a transaction.
    Message {
        /// `pg_logical_emit_message(true, …)`.
        transactional: bool,
    },
    /// A schema change. Its row's relation is the virtual `kasho.ddl`; this is what whoever
    /// applies it needs beside that row.
    Ddl(Box<DdlDetail>),
}

/// One change event.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where it stands; the sink's entry id.
    pub position: Position,
    /// What happened.
    pub op: Op,
    /// Index into [`Batch::relations`].
    pub relation: u32,
    /// The row after the change.
    pub new: Option<Image>,
    /// The row, or its key, before it.
    pub old: Option<Image>,
    /// Set for the rare kinds.
    pub detail: Option<Box<Detail>>,
    /// The chain dropped it: it counts, and is not published.
    pub dropped: bool,
}

/// The part of one transaction that stands in this batch.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Transaction id; 0 for rows of the initial load and for messages outside any.
    pub xid: u32,
    /// LSN of the commit record, as Begin announced it.
    pub commit_lsn: Lsn,
    /// Commit time, microseconds since 1970-01-01 UTC.
    pub commit_us: i64,
    /// Its rows.
    pub rows: Range<usize>,
    /// Nothing of this transaction was in an earlier batch.
    pub first: bool,
    /// The transaction ends here: the LSN after its commit record, which is what may be
    /// told to PostgreSQL once everything up to it is durable.
    pub end_lsn: Option<Lsn>,
}

/// From here on tables are loaded again: an event of our own between two transactions,
/// which no chain sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Tells it from every other one.
    pub nonce: String,
    /// The entry of the bootstrap stream that their rows begin with.
    pub section: u64,
    /// The tables, as their rows are published.
    pub tables: Vec<String>,
}

/// Rows in commit order, with the buffers and relations they point into.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The transactions of this batch, in commit order; together their rows are all rows.
    pub pieces: Vec<Piece>,
    /// The rows.
    pub rows: Vec<Row>,
    /// Marks, each with the LSN of its piece, which has no rows.
    pub marks: Vec<(Lsn, Arc<Mark>)>,
    /// The relations that rows point to.
    pub relations: Vec<Arc<Relation>>,
    /// What the chain set aside or may have lost, of which there is mostly nothing.
    pub aside: Box<Aside>,
    cells: Vec<Cell>,
    segments: Vec<Bytes>,
}

impl Batch {
    /// Makes room for as much as another one holds.
    pub fn reserve_like(&mut self, other: &Batch) {
        self.rows.reserve_exact(other.rows.len());
        self.cells.reserve_exact(other.cells.len());
        self.segments.reserve_exact(other.segments.len());
    }

    /// Adds a buffer that cells may point into and returns its number.
    pub fn push_segment(&mut self, bytes: Bytes) -> u32 {
        self.segments.push(bytes);
        index(self.segments.len() - 1)
    }

    /// Adds an image's cells.
    pub fn push_image(&mut self, cells: impl IntoIterator<Item = Cell>) -> Image {
        let start = self.cells.len();
        self.cells.extend(cells);
        Image { start: index(start), len: index(self.cells.len() - start) }
    }

    /// The number of `relation` in this batch, adding it if it is new here.
    pub fn relation_index(&mut self, relation: &Arc<Relation>) -> u32 {
        let known = self.relations.iter().rposition(|r| Arc::ptr_eq(r, relation));
        index(known.unwrap_or_else(|| {
            self.relations.push(Arc::clone(relation));
            self.relations.len() - 1
        }))
    }

    /// The mark that `piece` is, if it is one.
    #[must_use]
    pub fn mark(&self, piece: &Piece) -> Option<&Mark> {
        let lone = piece.xid == 0 && piece.rows.is_empty();
        let found = self.marks.iter().find(|(at, _)| lone && *at == piece.commit_lsn);
        found.map(|(_, mark)| mark.as_ref())
    }

    /// The relation of `row`.
    #[must_use]
    pub fn relation_of(&self, row: &Row) -> &Arc<Relation> {
        &self.relations[row.relation as usize]
    }

    /// The cells of an image, one for each column of its relation.
    #[must_use]
    pub fn cells(&self, image: Image) -> &[Cell] {
        &self.cells[image.range()]
    }

    /// The cells of all images.
    #[must_use]
    pub fn all_cells(&self) -> &[Cell] {
        &self.cells
    }

    /// The cells of an image, to be rewritten by the chain.
    pub fn cells_mut(&mut self, image: Image) -> &mut [Cell] {
        &mut self.cells[image.range()]
    }

    /// The bytes of a text cell; `None` for the other three states.
    #[must_use]
    pub fn text(&self, cell: Cell) -> Option<&[u8]> {
        match cell {
            Cell::Text(span) => Some(self.span(span)),
            Cell::Null | Cell::Unchanged | Cell::Absent => None,
        }
    }

    /// The bytes of a span.
    #[must_use]
    pub fn span(&self, span: Span) -> &[u8] {
        let start = span.start as usize;
        &self.segments[span.segment as usize][start..start + span.len as usize]
    }

    /// Bytes of the values and cells held here; what bounded queues count.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.segments.iter().map(Bytes::len).sum::<usize>()
            + self.cells.len() * size_of::<Cell>()
            + self.rows.len() * size_of::<Row>()
    }

    /// Whether the first piece continues a transaction of an earlier batch.
    #[must_use]
    pub fn continues(&self) -> bool {
        self.pieces.first().is_some_and(|piece| !piece.first)
    }

    /// Removes every row and mark at or before `position`, which is in the sink already. Pieces
    /// stay, with the rows that are left: their ends still move the checkpoint.
    pub fn skip_through(&mut self, position: Position) {
        let skipped = self.rows.partition_point(|row| row.position <= position);
        self.rows.drain(..skipped);
        self.marks.retain(|(at, _)| Position::Wal { commit_lsn: *at, ordinal: 0 } > position);
        self.aside.closings.retain(|closing| closing.position > position);
        for piece in &mut self.pieces {
            piece.rows.start = piece.rows.start.saturating_sub(skipped);
            piece.rows.end = piece.rows.end.saturating_sub(skipped);
        }
    }
}

/// Batches are bounded far below 2^32 rows, cells and segments by every source.
fn index(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

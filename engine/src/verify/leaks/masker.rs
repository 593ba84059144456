//! What the rules in force make of a row, by passing it through the very plugins: a fake
//! that equals an original by chance is then no leak, and a value that no plugin would have
//! put where it stands is one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kasho_plugin_sdk::{Op, Relation};

use crate::batch::{Batch, Cell, Piece, Row, Span};
use crate::position::{Lsn, Position};
use crate::transform::{Chain, Generation};

/// The chain, for rows that are looked at alone.
pub(super) struct Masker {
    chain: Chain,
}

/// A row as it leaves, by the names of its columns there.
pub(super) type Left = BTreeMap<String, Option<String>>;

impl Masker {
    pub(super) fn new(generation: &Arc<Generation>) -> Masker {
        Masker { chain: Chain::new(Arc::clone(generation)) }
    }

    /// What leaves of a row, if it does; a row in error does not.
    pub(super) fn pass(
        &mut self,
        relation: &Arc<Relation>,
        values: &[Option<String>],
    ) -> Option<Left> {
        let mut batch = alone(relation, values);
        self.chain.apply(&mut batch).ok()?;
        let row = batch.rows.first().filter(|row| !row.dropped)?;
        let cells = batch.cells(row.new?);
        let columns = batch.relation_of(row).columns.iter();
        let text = |cell: &Cell| {
            batch.text(*cell).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        };
        Some(columns.zip(cells).map(|(column, cell)| (column.name.clone(), text(cell))).collect())
    }
}

fn alone(relation: &Arc<Relation>, values: &[Option<String>]) -> Batch {
    let mut batch = Batch::default();
    let mut cells = Vec::with_capacity(values.len());
    for value in values {
        cells.push(match value {
            None => Cell::Null,
            Some(text) => {
                let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
                let segment = batch.push_segment(Bytes::copy_from_slice(text.as_bytes()));
                Cell::Text(Span { segment, start: 0, len })
            }
        });
    }
    let new = Some(batch.push_image(cells));
    let relation = batch.relation_index(relation);
    let (position, op) = (Position::START, Op::Read);
    batch.rows.push(Row { position, op, relation, new, old: None, detail: None, dropped: false });
    let (xid, commit_lsn, commit_us) = (0, Lsn::ZERO, 0);
    let piece = Piece { xid, commit_lsn, commit_us, rows: 0..1, first: true, end_lsn: None };
    batch.pieces.push(piece);
    batch
}

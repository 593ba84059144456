//! Batches for tests: transactions of a small table whose rows say where they stand.

use std::sync::Arc;

use bytes::Bytes;
use kasho_plugin_sdk::{Column, Identity, Op, Relation};

use crate::batch::{Batch, Cell, Detail, Piece, Row, Span};
use crate::position::{Lsn, Position};
use crate::sink::entry::Field;

/// `public.ledger (id int4 primary key, note text)`.
#[must_use]
pub fn relation(table: &str) -> Arc<Relation> {
    let column = |name: &str, type_name: &str, oid, key| Column {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        oid,
        base: type_name.to_owned(),
        typmod: -1,
        key,
        not_null: key,
        unique: key,
        toastable: !key,
        elem: None,
        labels: None,
    };
    Arc::new(Relation {
        id: 16_384,
        version: 1,
        schema: "public".to_owned(),
        table: table.to_owned(),
        identity: Identity::Default,
        columns: vec![column("id", "int4", 23, true), column("note", "text", 25, false)],
    })
}

/// One transaction, or a part of it.
#[derive(Clone, Debug)]
pub struct Part {
    /// LSN of the commit.
    pub lsn: u64,
    /// Ordinals of the rows and whether the chain keeps them.
    pub rows: Vec<(u64, bool)>,
    /// Nothing of it came before.
    pub first: bool,
    /// It ends here.
    pub ends: bool,
}

impl Part {
    /// A whole transaction whose rows are all kept.
    #[must_use]
    pub fn whole(lsn: u64, rows: u64) -> Part {
        Part { lsn, rows: (1..=rows).map(|n| (n, true)).collect(), first: true, ends: true }
    }
}

/// A batch of these parts, a row's text being its position and `padding`.
#[must_use]
pub fn batch_padded(parts: &[Part], padding: &str) -> Batch {
    let mut batch = Batch::default();
    let ledger = batch.relation_index(&relation("ledger"));
    for part in parts {
        let start = batch.rows.len();
        for &(ordinal, kept) in &part.rows {
            let position = Position::Wal { commit_lsn: Lsn(part.lsn), ordinal };
            let new = [ordinal.to_string(), format!("{position}{padding}")];
            let new = new.map(|text| text_cell(&mut batch, text.as_bytes()));
            let new = Some(batch.push_image(new));
            let detail = None;
            let op = Op::Insert;
            let row =
                Row { position, op, relation: ledger, new, old: None, detail, dropped: !kept };
            batch.rows.push(row);
        }
        batch.pieces.push(Piece {
            xid: u32::try_from(part.lsn % 1_000_000).unwrap_or(0) + 1,
            commit_lsn: Lsn(part.lsn),
            commit_us: i64::try_from(part.lsn).unwrap_or(0),
            rows: start..batch.rows.len(),
            first: part.first,
            end_lsn: part.ends.then_some(Lsn(part.lsn + 8)),
        });
    }
    batch
}

/// A batch of these parts.
#[must_use]
pub fn batch(parts: &[Part]) -> Batch {
    batch_padded(parts, "")
}

/// A slice of the load: rows of a table, each with its number and a text.
#[must_use]
pub fn read(table: &str, rows: impl IntoIterator<Item = (u64, String)>) -> Batch {
    let mut batch = Batch::default();
    let relation = batch.relation_index(&relation(table));
    for (number, note) in rows {
        let cells = [number.to_string(), note].map(|text| text_cell(&mut batch, text.as_bytes()));
        push_read(&mut batch, relation, cells);
    }
    batch
}

/// Adds a row of the load.
pub fn push_read(batch: &mut Batch, relation: u32, cells: impl IntoIterator<Item = Cell>) {
    let new = Some(batch.push_image(cells));
    let (position, op) = (Position::START, Op::Read);
    batch.rows.push(Row { position, op, relation, new, old: None, detail: None, dropped: false });
    let end = batch.rows.len();
    if let Some(piece) = batch.pieces.first_mut() {
        piece.rows.end = end;
        return;
    }
    batch.pieces.push(Piece {
        xid: 0,
        commit_lsn: Lsn(0),
        commit_us: 0,
        rows: 0..end,
        first: true,
        end_lsn: None,
    });
}

/// A logical message outside any transaction, at `lsn`.
#[must_use]
pub fn message(lsn: u64, kept: bool) -> Batch {
    let mut batch = Batch::default();
    let mut virtual_table = Relation::clone(&relation("message"));
    virtual_table.schema = "kasho".to_owned();
    let relation = batch.relation_index(&Arc::new(virtual_table));
    let cells = [text_cell(&mut batch, b"prefix"), text_cell(&mut batch, b"\xff\x00content")];
    let new = Some(batch.push_image(cells));
    let position = Position::Wal { commit_lsn: Lsn(lsn), ordinal: 0 };
    let detail = Some(Box::new(Detail::Message { transactional: false }));
    let op = Op::Message;
    batch.rows.push(Row { position, op, relation, new, old: None, detail, dropped: !kept });
    batch.pieces.push(Piece {
        xid: 0,
        commit_lsn: Lsn(lsn),
        commit_us: 0,
        rows: 0..1,
        first: true,
        end_lsn: Some(Lsn(lsn)),
    });
    batch
}

/// A cell with this text in a segment of its own.
pub fn text_cell(batch: &mut Batch, text: &[u8]) -> Cell {
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let segment = batch.push_segment(Bytes::copy_from_slice(text));
    Cell::Text(Span { segment, start: 0, len })
}

/// Cells that are read back as these fields.
pub fn cells(batch: &mut Batch, fields: &[Field]) -> Vec<Cell> {
    let cell = |field: &Field| match field {
        Field::Text(text) => text_cell(batch, text.as_bytes()),
        Field::Bytes(bytes) => text_cell(batch, bytes),
        Field::Null => Cell::Null,
        Field::Unchanged => Cell::Unchanged,
        Field::Absent => Cell::Absent,
    };
    fields.iter().map(cell).collect()
}

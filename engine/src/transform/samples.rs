//! Recent rows, as they came from the source, for candidates to be tried on: a few of each
//! relation, in memory alone, and nowhere else.
//!
//! Taking them must cost next to nothing, so a batch is looked at four times a second at
//! most, and of it only the newest rows. Nothing can go wrong here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kasho_plugin_sdk::{Op, Relation};

use crate::batch::{Batch, Cell, Image, Piece, Row, Span};
use crate::position::{Lsn, Position};

use super::known::ById;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// Rows of a batch that are looked at, the newest.
const LOOKED_AT: usize = 4_096;
/// A row with more bytes of text than this is not held.
const ROW_BYTES: usize = 16 << 10;
/// All rows together have no more bytes than this.
const ALL_BYTES: usize = 16 << 20;

/// One value.
#[derive(Debug)]
enum Value {
    Text(Box<[u8]>),
    Other(Cell),
}

/// One row.
#[derive(Debug)]
struct Sample {
    op: Op,
    new: Option<Vec<Value>>,
    old: Option<Vec<Value>>,
    bytes: usize,
}

/// The newest rows of one relation, under its newest description.
#[derive(Debug)]
struct Ring {
    relation: Arc<Relation>,
    rows: VecDeque<Sample>,
}

/// The rows that are held.
#[derive(Debug)]
pub(super) struct Samples {
    /// Of each relation.
    most: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    looked: Option<Instant>,
    rings: ById<Ring>,
    bytes: usize,
}

impl Samples {
    /// At most so many rows of each relation.
    pub(super) fn new(most: u32) -> Samples {
        Samples { most: most as usize, held: Mutex::default() }
    }

    /// Takes some rows of a batch that has just come, if it is time to.
    pub(super) fn take(&self, batch: &Batch) {
        if self.most == 0 {
            return;
        }
        // Whoever reads them copies them, and nobody waits for that.
        let Ok(mut held) = self.held.try_lock() else { return };
        if held.looked.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        held.looked = Some(Instant::now());
        let mut taken: ById<usize> = ById::default();
        for row in batch.rows.iter().rev().take(LOOKED_AT) {
            let relation = batch.relation_of(row);
            let count = taken.entry(relation.id).or_default();
            let values = matches!(row.op, Op::Insert | Op::Update | Op::Delete | Op::Read);
            if *count < self.most && values && !relation.is_virtual() {
                *count += usize::from(held.push(relation, sample(batch, row), self.most));
            }
        }
    }

    /// What is held, each relation in a batch of its own.
    pub(super) fn batches(&self) -> Vec<Batch> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.rings.values().filter(|ring| !ring.rows.is_empty()).map(batch).collect()
    }
}

impl Held {
    /// Whether it is held now.
    fn push(&mut self, relation: &Arc<Relation>, sample: Sample, most: usize) -> bool {
        let ring = self.rings.entry(relation.id);
        let ring =
            ring.or_insert_with(|| Ring { relation: Arc::clone(relation), rows: VecDeque::new() });
        if !Arc::ptr_eq(&ring.relation, relation) {
            if ring.relation != *relation {
                self.bytes -= ring.rows.drain(..).map(|row| row.bytes).sum::<usize>();
            }
            ring.relation = Arc::clone(relation);
        }
        let room = ALL_BYTES - self.bytes;
        if sample.bytes > ROW_BYTES.min(room) {
            return false;
        }
        if ring.rows.len() >= most {
            self.bytes -= ring.rows.pop_front().map_or(0, |row| row.bytes);
        }
        self.bytes += sample.bytes;
        ring.rows.push_back(sample);
        true
    }
}

fn sample(batch: &Batch, row: &Row) -> Sample {
    let mut bytes = 0;
    let mut image = |image: Option<Image>| {
        let cells = batch.cells(image?).iter();
        let values = cells.map(|cell| match batch.text(*cell) {
            Some(text) => {
                bytes += text.len();
                // A row that is too large is not copied to be thrown away.
                Value::Text(text.get(..ROW_BYTES.saturating_add(1)).unwrap_or(text).into())
            }
            None => Value::Other(*cell),
        });
        Some(values.collect())
    };
    let (new, old) = (image(row.new), image(row.old));
    Sample { op: row.op, new, old, bytes }
}

fn batch(ring: &Ring) -> Batch {
    let mut batch = Batch::default();
    let relation = batch.relation_index(&ring.relation);
    for (ordinal, sample) in (1..).zip(&ring.rows) {
        let mut image = |values: &Option<Vec<Value>>| {
            let cells: Vec<Cell> =
                values.as_ref()?.iter().map(|value| cell(&mut batch, value)).collect();
            Some(batch.push_image(cells))
        };
        let (new, old) = (image(&sample.new), image(&sample.old));
        let position = Position::Wal { commit_lsn: Lsn(1), ordinal };
        let (op, detail, dropped) = (sample.op, None, false);
        batch.rows.push(Row { position, op, relation, new, old, detail, dropped });
    }
    batch.pieces.push(Piece {
        xid: 1,
        commit_lsn: Lsn(1),
        commit_us: 0,
        rows: 0..batch.rows.len(),
        first: true,
        end_lsn: Some(Lsn(2)),
    });
    batch
}

fn cell(batch: &mut Batch, value: &Value) -> Cell {
    match value {
        Value::Text(text) => {
            let segment = batch.push_segment(Bytes::copy_from_slice(text));
            // At most ROW_BYTES.
            Cell::Text(Span { segment, start: 0, len: u32::try_from(text.len()).unwrap_or(0) })
        }
        Value::Other(cell) => *cell,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{insert, push, shown, table, transaction, users};
    use super::*;

    /// Takes at once, however short ago it did.
    fn take(samples: &Samples, batch: &Batch) {
        samples.held.lock().unwrap().looked = None;
        samples.take(batch);
    }

    fn held(samples: &Samples) -> Vec<String> {
        samples.batches().iter().flat_map(shown).collect()
    }

    #[test]
    fn the_newest_rows_of_each_relation_are_held_as_they_came() {
        let samples = Samples::new(2);
        let mut batch = insert("one");
        push(&mut batch, &users(), Op::Update, &["1", "~"], &["1", "-"]);
        let orders = table(8, "orders", &["id!"]);
        push(&mut batch, &orders, Op::Delete, &[], &["4"]);
        take(&samples, &batch);
        let mut all = held(&samples);
        all.sort();
        assert_eq!(
            all,
            [
                "delete public.orders [] [4]",
                "insert public.users [1 one] []",
                "update public.users [1 ~] [1 -]"
            ]
        );
        samples.take(&insert("too soon"));
        take(&samples, &insert("two"));
        assert_eq!(held(&samples).len(), 3);
        assert!(held(&samples).concat().contains("two"));
        // Under another description the old rows are none.
        let wider = table(7, "users", &["id!", "email", "name"]);
        let mut batch = transaction();
        push(&mut batch, &wider, Op::Insert, &["1", "x", "y"], &[]);
        take(&samples, &batch);
        let users = held(&samples).into_iter().filter(|row| row.contains("users")).count();
        assert_eq!(users, 1);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let none = Samples::new(0);
        take(&none, &insert("x"));
        assert!(none.batches().is_empty());
        let samples = Samples::new(1_000);
        take(&samples, &insert(&"x".repeat(ROW_BYTES)));
        assert!(samples.batches().is_empty(), "one value too much");
        let mut batch = transaction();
        for n in 0..2_000 {
            let table = table(100 + n, "many", &["id!"]);
            push(&mut batch, &table, Op::Insert, &[&"x".repeat(ROW_BYTES)], &[]);
        }
        take(&samples, &batch);
        let held = samples.held.lock().unwrap();
        assert_eq!(held.bytes, ALL_BYTES);
        assert_eq!(held.rings.values().map(|ring| ring.rows.len()).sum::<usize>(), 1_024);
    }
}

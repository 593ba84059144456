//! Recent rows, as they came from the source, for candidates to be tried on: a few of each
//! relation, in memory alone, and nowhere else.
//!
//! The pipeline takes them as it goes, and the load does, so that has to be cheap: four
//! times a second somebody's batch is looked at, and of that the newest rows alone; a row that
//! is too large is not copied, and nobody waits for a reader. Where there is no room the
//! rows that were taken longest ago go. Nothing can go wrong here.

use std::collections::{BTreeMap, VecDeque};
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
    /// Which look took it, and its place among those of that look: the order of age.
    taken: (u64, u64),
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
    /// Looks so far.
    looks: u64,
    /// Rows taken so far.
    count: u64,
    /// All rows, by their age, with the relation's id.
    ages: BTreeMap<(u64, u64), u32>,
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
        held.looks += 1;
        let mut taken: ById<usize> = ById::default();
        for row in batch.rows.iter().rev().take(LOOKED_AT) {
            let relation = batch.relation_of(row);
            let count = taken.entry(relation.id).or_default();
            let values = matches!(row.op, Op::Insert | Op::Update | Op::Delete | Op::Read);
            if *count < self.most && values && !relation.is_virtual() {
                let sample = sample(batch, row);
                *count += usize::from(sample.is_some_and(|s| held.push(relation, s, self.most)));
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
    fn push(&mut self, relation: &Arc<Relation>, mut sample: Sample, most: usize) -> bool {
        let ring = self.rings.entry(relation.id);
        let ring =
            ring.or_insert_with(|| Ring { relation: Arc::clone(relation), rows: VecDeque::new() });
        if !Arc::ptr_eq(&ring.relation, relation) {
            if ring.relation != *relation {
                for row in ring.rows.drain(..) {
                    self.ages.remove(&row.taken);
                    self.bytes -= row.bytes;
                }
            }
            ring.relation = Arc::clone(relation);
        }
        if ring.rows.len() >= most {
            self.drop_oldest_of(relation.id);
        }
        while self.bytes + sample.bytes > ALL_BYTES {
            // Rows of this look are newer than the one that comes: the newest come first.
            let Some((age, id)) = self.ages.first_key_value() else { return false };
            if age.0 == self.looks {
                return false;
            }
            self.drop_oldest_of(*id);
        }
        self.count += 1;
        sample.taken = (self.looks, self.count);
        self.ages.insert(sample.taken, relation.id);
        self.bytes += sample.bytes;
        if let Some(ring) = self.rings.get_mut(&relation.id) {
            ring.rows.push_back(sample);
        }
        true
    }

    fn drop_oldest_of(&mut self, id: u32) {
        if let Some(row) = self.rings.get_mut(&id).and_then(|ring| ring.rows.pop_front()) {
            self.ages.remove(&row.taken);
            self.bytes -= row.bytes;
        }
    }
}

/// A copy of a row, unless it is too large.
fn sample(batch: &Batch, row: &Row) -> Option<Sample> {
    let cells = |image: Option<Image>| image.map(|image| batch.cells(image)).unwrap_or_default();
    let all = cells(row.new).iter().chain(cells(row.old));
    let bytes = all.filter_map(|cell| batch.text(*cell)).map(<[u8]>::len).sum();
    if bytes > ROW_BYTES {
        return None;
    }
    let image = |image: Option<Image>| {
        let values = batch.cells(image?).iter().map(|cell| match batch.text(*cell) {
            Some(text) => Value::Text(text.into()),
            None => Value::Other(*cell),
        });
        Some(values.collect())
    };
    Some(Sample { taken: (0, 0), op: row.op, new: image(row.new), old: image(row.old), bytes })
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

    #[test]
    fn where_all_room_is_taken_the_oldest_rows_go() {
        let samples = Samples::new(4);
        let large = "x".repeat(ROW_BYTES);
        let mut full = transaction();
        for n in 0..1_100 {
            push(&mut full, &table(100 + n, "many", &["id!"]), Op::Insert, &[&large], &[]);
        }
        take(&samples, &full);
        let id = |samples: &Samples, n| samples.held.lock().unwrap().rings[&n].rows.len();
        assert_eq!((id(&samples, 1_199), id(&samples, 1_198)), (1, 1));
        for n in 0..8 {
            let mut batch = transaction();
            push(&mut batch, &table(7, "users", &["id!"]), Op::Insert, &[&large[n..]], &[]);
            take(&samples, &batch);
        }
        let held = samples.held.lock().unwrap();
        assert_eq!(held.rings[&7].rows.len(), 4, "the newest come in");
        let newest = held.rings[&7].rows.back().unwrap().bytes;
        assert_eq!(newest, ROW_BYTES - 7);
        let all = held.rings.values().flat_map(|ring| &ring.rows);
        assert_eq!(held.bytes, all.map(|row| row.bytes).sum::<usize>());
        assert!(held.bytes <= ALL_BYTES && held.bytes > ALL_BYTES - ROW_BYTES);
        assert_eq!(held.ages.len(), held.rings.values().map(|r| r.rows.len()).sum::<usize>());
    }
}

//! Rows joined into runs that one statement may apply: only where it cannot matter. Pure.
//!
//! A run is of changes of one table, operation and column set, between which nothing else was
//! done to that table. Inserts may be joined, and deletes by a key. Updates only by a key whose
//! values are equal if and only if their texts are, if they touch no column of any unique or
//! exclusion index, if every such index is over plain columns and all rows, and if the table is
//! alone (below): a statement changes its rows in an order of its own, and where two rows exchange
//! unique values it fails although the same updates one by one do not. Of two such updates of one
//! row the later one is left: both write the same columns, and nobody sees the row in between.
//!
//! A table is alone if the session fires none of its triggers and rules and looks at none of its
//! foreign keys (there may be some of each), and its rows stand in it and no partition. Runs of
//! several such tables grow side by side: nothing tells in which order they were changed. Where one
//! is not alone, nothing is moved past it.

use std::collections::HashMap;
use std::sync::Arc;

use super::change::{Change, Find, Shape, Value, Verb};
use super::table::Table;

/// Rows of a run at most, …
pub(super) const MOST_ROWS: usize = 1_000;
/// … and bytes of all of them, unless one row is larger.
pub(super) const MOST_BYTES: usize = 512 << 10;

/// Changes that one statement may apply.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) changes: Vec<Change>,
    /// Updates that later ones of the same row have replaced.
    pub(super) replaced: u64,
    bytes: usize,
    /// Of updates: the rows that they change, and by which change.
    rows: HashMap<Vec<Value>, usize>,
}

impl Run {
    fn new(change: Change) -> Run {
        let mut run = Run { changes: Vec::new(), replaced: 0, bytes: 0, rows: HashMap::new() };
        run.add(change);
        run
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.changes[0].table
    }

    pub(super) fn shape(&self) -> &Arc<Shape> {
        &self.changes[0].shape
    }

    /// Adds a change that may be one of the run. Answers how many bytes that takes.
    fn add(&mut self, mut change: Change) -> usize {
        if let Some(first) = self.changes.first() {
            // Equal by content: one will do.
            change.shape = Arc::clone(&first.shape);
        }
        if change.shape.verb == Verb::Update {
            if let Some(at) = self.rows.get(&change.key) {
                let earlier = &mut self.changes[*at];
                let before = earlier.weight();
                (earlier.values, earlier.whole) = (change.values, change.whole);
                self.replaced += 1;
                let grown = earlier.weight().saturating_sub(before);
                self.bytes += grown;
                return grown;
            }
            self.rows.insert(change.key.clone(), self.changes.len());
        }
        let weight = change.weight();
        self.bytes += weight;
        self.changes.push(change);
        weight
    }

    fn takes(&self, change: &Change) -> bool {
        let first = &self.changes[0];
        let alike = Arc::ptr_eq(&first.table, &change.table)
            && (Arc::ptr_eq(&first.shape, &change.shape) || first.shape == change.shape)
            && first.miss == change.miss
            && self.changes.len() < MOST_ROWS;
        alike
            && match (change.shape.verb, change.shape.find) {
                (Verb::Insert, _) => true,
                // The second of two equal rows is found when the first is gone.
                (_, Find::Whole | Find::New) => false,
                (Verb::Delete, Find::Key(_)) => true,
                (Verb::Update, Find::Key(_)) => harmless(change),
            }
    }
}

/// Whether an update may be one of several in a statement.
fn harmless(change: &Change) -> bool {
    let (table, shape) = (&change.table, &change.shape);
    let exact = shape.by.iter().all(|(place, _)| table.columns[*place].exact);
    let touches = shape.set.iter().any(|place| table.columns[*place].unique);
    // A trigger would see the order.
    exact && !touches && !table.opaque && table.alone
}

/// Joins what comes.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    /// One a table, in the order in which they began; of a table that is not alone it is the
    /// only one.
    runs: Vec<Run>,
    bytes: usize,
}

impl Joiner {
    /// Adds a change. Answers the runs that are to be applied before anything else.
    pub(super) fn push(&mut self, change: Change) -> Vec<Run> {
        let alone = change.table.alone && self.runs.iter().all(|run| run.table().alone);
        let found = self.runs.iter().position(|run| Arc::ptr_eq(run.table(), &change.table));
        let strange = !alone && (found.is_none() || self.runs.len() > 1);
        let full = self.bytes + change.weight() > MOST_BYTES;
        let mut ended = Vec::new();
        if strange || full {
            ended = self.take();
        } else if let Some(at) = found {
            if self.runs[at].takes(&change) {
                self.bytes += self.runs[at].add(change);
                return ended;
            }
            let run = self.runs.remove(at);
            self.bytes -= run.bytes;
            ended.push(run);
        }
        let run = Run::new(change);
        self.bytes += run.bytes;
        self.runs.push(run);
        ended
    }

    /// All runs so far.
    pub(super) fn take(&mut self) -> Vec<Run> {
        self.bytes = 0;
        std::mem::take(&mut self.runs)
    }
}

#[cfg(test)]
mod tests;

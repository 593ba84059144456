//! Rows joined into runs that one statement may apply: only where it cannot matter. Pure.
//!
//! A run is of consecutive changes of one relation, operation and column set: nothing is ever
//! moved past anything else. Inserts may always be joined, and deletes by a key. Updates only
//! if they touch no column of any unique or exclusion index, and each row is another one: a
//! statement changes its rows in an order of its own, and where two rows exchange unique
//! values it fails although the same updates one by one do not.

use std::collections::HashSet;
use std::sync::Arc;

use super::change::{Change, Find, Shape, Value, Verb};
use super::table::Table;

/// Rows of a run at most, …
pub(super) const MOST_ROWS: usize = 1_000;
/// … and bytes, unless one row is larger.
pub(super) const MOST_BYTES: usize = 512 << 10;

/// Changes that one statement may apply.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) changes: Vec<Change>,
    bytes: usize,
    /// Of updates: the rows that they change.
    rows: HashSet<Vec<Value>>,
}

impl Run {
    pub(super) fn table(&self) -> &Arc<Table> {
        &self.changes[0].table
    }

    pub(super) fn shape(&self) -> &Arc<Shape> {
        &self.changes[0].shape
    }
}

/// Joins what comes.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    run: Option<Run>,
}

impl Joiner {
    /// Adds a change. Answers the run that ended before it, if one did.
    pub(super) fn push(&mut self, mut change: Change) -> Option<Run> {
        let weight = change.weight();
        if let Some(run) = &mut self.run
            && run.changes.len() < MOST_ROWS
            && run.bytes + weight <= MOST_BYTES
            && joins(run, &change)
        {
            // Equal by content: one will do.
            change.shape = Arc::clone(run.shape());
            if change.shape.verb == Verb::Update {
                run.rows.insert(change.key.clone());
            }
            run.bytes += weight;
            run.changes.push(change);
            return None;
        }
        let rows = match change.shape.verb {
            Verb::Update => HashSet::from([change.key.clone()]),
            Verb::Insert | Verb::Delete => HashSet::new(),
        };
        self.run.replace(Run { changes: vec![change], bytes: weight, rows })
    }

    /// The run so far.
    pub(super) fn take(&mut self) -> Option<Run> {
        self.run.take()
    }
}

fn joins(run: &Run, change: &Change) -> bool {
    let first = &run.changes[0];
    let alike = Arc::ptr_eq(&first.table, &change.table)
        && first.shape == change.shape
        && first.miss == change.miss;
    alike
        && match (change.shape.verb, change.shape.find) {
            (Verb::Insert, _) => true,
            // The second of two equal rows is found when the first is gone.
            (_, Find::Whole | Find::New) => false,
            (Verb::Delete, Find::Key(_)) => true,
            (Verb::Update, Find::Key(_)) => harmless(change) && !run.rows.contains(&change.key),
        }
}

/// Whether an update may be one of several in a statement.
fn harmless(change: &Change) -> bool {
    let (table, shape) = (&change.table, &change.shape);
    let exact = shape.by.iter().all(|(place, _)| table.columns[*place].exact);
    let touches = shape.set.iter().any(|place| table.columns[*place].unique);
    exact && !touches && !table.opaque
}

#[cfg(test)]
mod tests;

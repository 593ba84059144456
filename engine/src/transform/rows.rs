//! What the host itself does to rows: filling, stripping, dropping columns, changing an
//! update's kind. Functions on a batch; what they refuse is a row's error, as text.

use std::sync::Arc;

use kasho_plugin_sdk::Op;

use crate::batch::{Batch, Cell, Detail, Image};

use super::error::TransformError;
use super::plan::{Fate, Leaves, LinkPlan, RelationPlan};

/// The plan of each relation of a batch; none where nothing is to be done.
pub(super) type Plans = Vec<Option<Arc<RelationPlan>>>;

/// What a look over a batch's rows finds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// There is a TRUNCATE.
    pub(super) truncates: bool,
    /// Some row has an old image.
    pub(super) old: bool,
}

/// The rows that a binding is called for, by relation. Kept from batch to batch.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    rows: Vec<Vec<u32>>,
    /// Operations wanted of each relation, a bit each.
    wanted: Vec<u8>,
}

impl Buckets {
    /// Sorts rows for binding `at`.
    pub(super) fn fill(&mut self, batch: &Batch, plans: &Plans, at: usize) -> Seen {
        self.wanted.clear();
        self.wanted.extend(plans.iter().map(|p| link(p, at).map_or(0, |link| link.row_ops())));
        if self.rows.len() < plans.len() {
            self.rows.resize_with(plans.len(), Vec::new);
        }
        self.rows.iter_mut().for_each(Vec::clear);
        let mut seen = Seen::default();
        for (i, row) in (0..).zip(&batch.rows) {
            if row.dropped {
                continue;
            }
            seen.old |= row.old.is_some();
            seen.truncates |= row.op == Op::Truncate;
            let relation = row.relation as usize;
            if self.wanted[relation] >> row.op as u8 & 1 == 1 {
                self.rows[relation].push(i);
            }
        }
        seen
    }

    /// The rows, with the plan of their relation.
    pub(super) fn each<'a>(
        &'a self,
        plans: &'a Plans,
        at: usize,
    ) -> impl Iterator<Item = (&'a [u32], &'a Arc<LinkPlan>)> {
        let all = plans.iter().zip(&self.rows).filter(|(_, rows)| !rows.is_empty());
        all.filter_map(move |(plan, rows)| Some((rows.as_slice(), link(plan, at)?)))
    }
}

/// What binding `at` does with a relation.
fn link(plan: &Option<Arc<RelationPlan>>, at: usize) -> Option<&Arc<LinkPlan>> {
    plan.as_ref()?.links.get(at)?.as_ref()
}

/// The first row of each relation that has any, or that a TRUNCATE names.
pub(super) fn first_rows(batch: &Batch) -> Vec<Option<usize>> {
    let mut first = vec![None; batch.relations.len()];
    for (at, row) in batch.rows.iter().enumerate().filter(|(_, row)| !row.dropped) {
        first[row.relation as usize].get_or_insert(at);
        if let Some(Detail::Truncate { relations, .. }) = row.detail.as_deref() {
            for relation in relations {
                first[*relation as usize].get_or_insert(at);
            }
        }
    }
    first
}

pub(super) fn halted(
    batch: &Batch,
    plan: &RelationPlan,
    row: usize,
    reason: &str,
) -> TransformError {
    let (table, position) = (plan.relation.qualified(), batch.rows[row].position);
    TransformError::Table { table, position, reason: reason.to_owned() }
}

/// What is done to rows before any plugin sees them.
pub(super) fn prepare(batch: &mut Batch, plans: &Plans) -> Result<(), TransformError> {
    for at in 0..batch.rows.len() {
        let row = &batch.rows[at];
        let Some(plan) = &plans[row.relation as usize] else { continue };
        if row.dropped || row.op == Op::Truncate {
            continue;
        }
        match &plan.fate {
            Fate::Pass => {}
            Fate::Drop => {
                batch.rows[at].dropped = true;
                continue;
            }
            Fate::Halt(reason) => return Err(halted(batch, plan, at, reason)),
        }
        let (new, old) = (row.new, row.old);
        if let (Some(new), Some(old), true) = (new, old, plan.fills()) {
            fill(batch, new, old);
        }
        for column in plan.strip_old.iter().chain(&plan.nulled) {
            if let Some(old) = old {
                batch.cells_mut(old)[*column] = Cell::Absent;
            }
        }
        for column in &plan.nulled {
            if let Some(new) = new {
                let cell = &mut batch.cells_mut(new)[*column];
                if matches!(cell, Cell::Text(_)) {
                    *cell = Cell::Null;
                }
            }
        }
    }
    Ok(())
}

/// Under FULL, what was not sent anew stands in the old image.
fn fill(batch: &mut Batch, new: Image, old: Image) {
    for column in 0..new.len as usize {
        let before = batch.cells(old)[column];
        let cell = &mut batch.cells_mut(new)[column];
        if *cell == Cell::Unchanged {
            *cell = before;
        }
    }
}

/// Takes the dropped columns out of relations and rows, and gives the others their names.
pub(super) fn leave(batch: &mut Batch, plans: &Plans) {
    if plans.iter().flatten().all(|plan| plan.leaves.is_none()) {
        return;
    }
    let leaving = |plan: usize| plans.get(plan)?.as_ref()?.leaves.as_ref();
    let under = |plan| leaving(plan).map(|leaves| batch.relation_index(&leaves.relation));
    let under: Vec<Option<u32>> = (0..plans.len()).map(under).collect();
    let named = |relation: u32| under.get(relation as usize).copied().flatten();
    for at in 0..batch.rows.len() {
        let row = &mut batch.rows[at];
        if let Some(Detail::Truncate { relations, .. }) = row.detail.as_deref_mut() {
            relations.iter_mut().for_each(|one| *one = named(*one).unwrap_or(*one));
        }
        let leaves = leaving(row.relation as usize).filter(|_| !row.dropped);
        let Some(leaves) = leaves else { continue };
        row.relation = named(row.relation).unwrap_or(row.relation);
        if !leaves.fewer {
            continue;
        }
        let (new, old) = (row.new, row.old);
        let (new, old) =
            (new.map(|i| fewer(batch, i, leaves)), old.map(|i| fewer(batch, i, leaves)));
        let row = &mut batch.rows[at];
        (row.new, row.old) = (new, old);
    }
}

/// The image without the columns that never leave, where it stands.
fn fewer(batch: &mut Batch, image: Image, leaves: &Leaves) -> Image {
    let cells = batch.cells_mut(image);
    let mut len = 0;
    // In the order of their places: what is overwritten has been read.
    for (to, from) in leaves.kept.iter().enumerate() {
        cells[to] = cells[*from];
        len += 1;
    }
    Image { len, ..image }
}

/// Bytes of the values a plugin sees of a row, and of the longest.
#[inline]
pub(super) fn weigh(batch: &Batch, plan: &LinkPlan, row: u32) -> (usize, usize) {
    let row = &batch.rows[row as usize];
    let (mut sum, mut max) = (0, 0);
    let mut add = |image: Option<Image>| {
        let Some(image) = image else { return };
        let cells = batch.cells(image);
        for (_, column) in plan.seen() {
            if let Cell::Text(span) = cells[column] {
                let len = span.len as usize;
                (sum, max) = (sum + len, max.max(len));
            }
        }
    };
    add(row.new);
    add(row.old);
    (sum, max)
}

pub(super) fn as_insert(batch: &mut Batch, plan: &LinkPlan, row: u32) -> Result<(), String> {
    let new = batch.rows[row as usize].new;
    let cells = new.map(|new| batch.cells(new)).unwrap_or_default();
    if let Some(column) = cells.iter().position(|cell| *cell == Cell::Unchanged) {
        let name = &plan.relation.columns[column].name;
        let table = plan.relation.qualified();
        return Err(format!(
            "it becomes an insert, but column {name} was not sent (unchanged, TOASTed): \
             ALTER TABLE {table} REPLICA IDENTITY FULL"
        ));
    }
    let row = &mut batch.rows[row as usize];
    (row.op, row.old) = (Op::Insert, None);
    Ok(())
}

/// The old image says which row goes; without one, the identity in the new image does, where
/// it stands: a row that is set aside later on is found by the cells that came there.
pub(super) fn as_delete(batch: &mut Batch, plan: &LinkPlan, row: u32) {
    let there = &batch.rows[row as usize];
    let old = match (there.old, there.new) {
        (Some(old), _) => Some(old),
        (None, Some(new)) => {
            let cells = batch.cells_mut(new).iter_mut().zip(&plan.relation.columns);
            cells.filter(|(_, column)| !column.key).for_each(|(cell, _)| *cell = Cell::Absent);
            Some(new)
        }
        (None, None) => None,
    };
    let row = &mut batch.rows[row as usize];
    (row.op, row.new, row.old) = (Op::Delete, None, old);
}

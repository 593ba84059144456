//! What a call decided, copied out of the guest's memory and checked as a whole, so that
//! applying it cannot fail half-way. Nothing can go wrong here that was not refused before.

use bytes::Bytes;
use kasho_plugin_sdk::batch::{Decision, Image};

use crate::batch::{Batch, Cell, Span};

use super::plan::LinkPlan;

/// A decision other than "keep".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decided {
    /// Index into the batch's rows.
    pub(super) row: u32,
    /// What was decided.
    pub(super) decision: Decision,
    /// For errors: index into the plugin's texts, and the slot.
    pub(super) error: Option<(u16, u16)>,
}

/// The new values of one column.
#[derive(Debug)]
pub(super) struct PatchCopy {
    /// Place of the column in the relation.
    pub(super) column: usize,
    /// New or old.
    pub(super) image: Image,
    /// All new texts.
    pub(super) bytes: Bytes,
    /// Index of the row, and where in `bytes` its text is; none is NULL.
    pub(super) entries: Vec<(u32, Option<(u32, u32)>)>,
}

/// A checked answer.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Decisions, in row order.
    pub(super) decided: Vec<Decided>,
    /// Patches.
    pub(super) patches: Vec<PatchCopy>,
}

impl Outcome {
    /// Puts the patches into the batch.
    pub(super) fn patch(&mut self, batch: &mut Batch) {
        for patch in self.patches.drain(..) {
            let segment = batch.push_segment(patch.bytes);
            for (row, text) in patch.entries {
                let row = &batch.rows[row as usize];
                let image = if patch.image == Image::New { row.new } else { row.old };
                let Some(image) = image else { continue };
                batch.cells_mut(image)[patch.column] = match text {
                    Some((start, len)) => Cell::Text(Span { segment, start, len }),
                    None => Cell::Null,
                };
            }
        }
    }
}

/// The cell of a column in one image of a row.
pub(super) fn cell(batch: &Batch, row: u32, image: Image, column: usize) -> Cell {
    let row = &batch.rows[row as usize];
    let image = if image == Image::New { row.new } else { row.old };
    image.map_or(Cell::Absent, |image| batch.cells(image)[column])
}

/// The columns of which one value has become two although nothing it is made from
/// differs: of rows that have both images.
pub(super) fn moved_identity(
    batch: &Batch,
    plan: &LinkPlan,
    rows: &[u32],
    outcome: &Outcome,
) -> Option<usize> {
    let keys = plan
        .slots
        .iter()
        .enumerate()
        .filter(|(slot, s)| plan.patchable[*slot] && plan.relation.columns[s.column].key);
    for (_, slot) in keys {
        let patch =
            |image| outcome.patches.iter().find(|p| p.column == slot.column && p.image == image);
        let (new, old) = (patch(Image::New), patch(Image::Old));
        if new.is_none() && old.is_none() {
            continue;
        }
        let same = |row: u32, column: usize| {
            let text = |image| batch.text(cell(batch, row, image, column));
            text(Image::New).is_some() && text(Image::New) == text(Image::Old)
        };
        let removed = |row: u32| {
            let at = outcome.decided.binary_search_by_key(&row, |d| d.row);
            at.is_ok_and(|at| outcome.decided[at].decision.removes())
        };
        for row in rows.iter().copied().filter(|r| batch.rows[*r as usize].old.is_some()) {
            let unmoved = same(row, slot.column) && slot.reads.iter().all(|c| same(row, *c));
            if unmoved && !removed(row) && after(new, row) != after(old, row) {
                return Some(slot.column);
            }
        }
    }
    None
}

/// What a patch makes of a row: nothing, NULL, or a text.
fn after(patch: Option<&PatchCopy>, row: u32) -> Option<Option<&[u8]>> {
    let patch = patch?;
    let at = patch.entries.binary_search_by_key(&row, |(row, _)| *row).ok()?;
    let text = patch.entries[at].1;
    Some(text.map(|(start, len)| &patch.bytes[start as usize..(start + len) as usize]))
}

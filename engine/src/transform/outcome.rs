//! What a call decided, and its patches put into the batch.
//!
//! Patches are applied from a reply that was checked as a whole, against the call and
//! against every rule of the host, so that applying it cannot fail half-way. Nothing can
//! go wrong here that was not refused before.

use std::iter::Peekable;

use bytes::Bytes;
use kasho_plugin_sdk::batch::{Decision, Image, Reply};

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

/// The decisions of a reply other than "keep", in row order.
pub(super) fn decided(reply: &Reply<'_>, rows: &[u32]) -> Vec<Decided> {
    let mut decided = Vec::new();
    if reply.keeps_all() {
        return decided;
    }
    let mut errors = reply.errors().iter().peekable();
    for (i, row) in rows.iter().enumerate() {
        let decision = reply.decision(i);
        if decision == Decision::Keep {
            continue;
        }
        let error = errors.next_if(|e| e.row as usize == i).map(|e| (e.text, e.slot));
        decided.push(Decided { row: *row, decision, error });
    }
    decided
}

/// Puts the patches of a reply into the batch; their texts are copied out of the guest's
/// memory, all of a column at once.
pub(super) fn patch(batch: &mut Batch, reply: &Reply<'_>, plan: &LinkPlan, rows: &[u32]) {
    for patch in reply.patches() {
        let segment = batch.push_segment(Bytes::copy_from_slice(patch.bytes().as_bytes()));
        let column = plan.slots[usize::from(patch.slot)].column;
        patch.each(|i, text| {
            let row = &batch.rows[rows[i] as usize];
            let image = if patch.image == Image::New { row.new } else { row.old };
            let Some(image) = image else { return };
            batch.cells_mut(image)[column] = match text {
                Some((start, len)) => Cell::Text(Span { segment, start, len }),
                None => Cell::Null,
            };
        });
    }
}

/// The cell of a column in one image of a row.
#[inline]
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
    reply: &Reply<'_>,
) -> Option<usize> {
    let keys = plan
        .slots
        .iter()
        .enumerate()
        .filter(|(slot, s)| plan.patchable[*slot] && plan.relation.columns[s.column].key);
    for (at, slot) in keys {
        let entries = |image| {
            let patch = reply.patch(u16::try_from(at).ok()?, image)?;
            Some(patch.entries().peekable())
        };
        let (mut new, mut old) = (entries(Image::New), entries(Image::Old));
        if new.is_none() && old.is_none() {
            continue;
        }
        let same = |row: u32, column: usize| {
            let text = |image| batch.text(cell(batch, row, image, column));
            text(Image::New).is_some() && text(Image::New) == text(Image::Old)
        };
        for (i, row) in rows.iter().copied().enumerate() {
            let moved = after(&mut new, i) != after(&mut old, i);
            if !moved || batch.rows[row as usize].old.is_none() || reply.decision(i).removes() {
                continue;
            }
            if same(row, slot.column) && slot.reads.iter().all(|c| same(row, *c)) {
                return Some(slot.column);
            }
        }
    }
    None
}

/// What a patch makes of row `i` of the call: nothing, NULL, or a text. To be asked of each
/// row in turn.
fn after<'a>(
    entries: &mut Option<Peekable<impl Iterator<Item = (usize, Option<&'a str>)>>>,
    i: usize,
) -> Option<Option<&'a str>> {
    entries.as_mut()?.next_if(|(row, _)| *row == i).map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use kasho_plugin_sdk::Op;
    use kasho_plugin_sdk::abi::Wanted;
    use kasho_plugin_sdk::batch::{Allowed, Field, InputBuilder, PatchBuf, ReplyBuilder, RowError};
    use serde_json::json;

    use super::super::testing::{push, shown, table, transaction};
    use super::*;

    /// The new value of an image: none, NULL, or a text.
    type Made = Option<Option<&'static str>>;

    /// A value in both images (none: no old image), what the patches make of them, a verdict.
    type Case = (&'static str, Option<&'static str>, Made, Made, u8);

    /// Whether an identity moved, and what the rows are once the patches are in.
    fn answer(cases: &[Case]) -> (bool, Vec<String>) {
        let relation = table(7, "t", &["k!"]);
        let wanted: Wanted = serde_json::from_value(json!({
            "columns": [{"name": "k", "use": "mask", "as": "fake/1"}],
            "ops": ["insert", "update", "delete", "read"],
        }))
        .unwrap();
        let plan = LinkPlan::new(&relation, &wanted, |_| String::new()).unwrap();
        let mut batch = transaction();
        for (new, old, ..) in cases {
            push(&mut batch, &relation, Op::Update, &[new], old.as_slice());
        }
        let rows: Vec<u32> = (0..).take(cases.len()).collect();
        let mut builder = InputBuilder::default();
        builder.begin(7, 1, 1, cases.iter().map(|_| Op::Update));
        let text = |text: &'static str| Field::Text(text.as_bytes());
        builder.column(0, Image::New, cases.iter().map(|c| text(c.0))).unwrap();
        let old = cases.iter().map(|c| c.1.map_or(Field::Absent, text));
        builder.column(0, Image::Old, old).unwrap();
        builder.finish().unwrap();
        let patch = |made: fn(&Case) -> Made| {
            let mut patch = PatchBuf::default();
            patch.clear(cases.len());
            for (row, made) in cases.iter().map(made).enumerate() {
                match made {
                    Some(Some(text)) => {
                        patch.scratch().push_str(text);
                        patch.commit(row);
                    }
                    Some(None) => patch.null(row),
                    None => {}
                }
            }
            patch
        };
        let (new, old) = (patch(|c| c.2), patch(|c| c.3));
        let verdicts: Vec<u8> = cases.iter().map(|c| c.4).collect();
        let errors = rows.iter().filter(|row| verdicts[**row as usize] == 2);
        let errors: Vec<_> = errors.map(|row| RowError { row: *row, text: 0, slot: 0 }).collect();
        let patches = [(0, Image::New, &new), (0, Image::Old, &old)];
        let mut reply = ReplyBuilder::default();
        let number = u32::try_from(cases.len()).unwrap();
        let block = reply.write(1, number, &verdicts, &errors, patches.into_iter()).unwrap();
        let allowed = Allowed { texts: 1, patchable: &plan.patchable };
        let reply = Reply::read(block, builder.sent(), allowed).unwrap();
        let moved = moved_identity(&batch, &plan, &rows, &reply).is_some();
        patch_and_show(moved, &mut batch, &reply, &plan, &rows)
    }

    fn patch_and_show(
        moved: bool,
        batch: &mut Batch,
        reply: &Reply<'_>,
        plan: &LinkPlan,
        rows: &[u32],
    ) -> (bool, Vec<String>) {
        patch(batch, reply, plan, rows);
        let told = decided(reply, rows).iter().map(|d| d.row).collect::<Vec<_>>();
        let verdicts = rows.iter().filter(|row| reply.decision(**row as usize) != Decision::Keep);
        assert!(told.iter().eq(verdicts));
        (moved, shown(batch))
    }

    const SAME: Case = ("a", Some("a"), Some(Some("x")), Some(Some("x")), 0);
    const NO_OLD: Case = ("c", None, Some(Some("xyz")), None, 0);

    #[test]
    fn patches_land_in_their_rows() {
        let other = ("a", Some("b"), Some(None), Some(Some("y")), 0);
        let gone = ("d", Some("d"), None, None, 1);
        let (moved, rows) = answer(&[NO_OLD, gone, SAME, other, NO_OLD]);
        assert!(!moved);
        let want = ["[xyz] []", "[d] [d]", "[x] [x]", "[NULL] [y]", "[xyz] []"];
        assert_eq!(rows, want.map(|images| format!("update public.t {images}")));
    }

    #[test]
    fn a_moved_identity_is_found_wherever_it_stands() {
        let made = |new, old, verdict| ("a", Some("a"), new, old, verdict);
        for bad in [
            made(Some(Some("x")), Some(Some("y")), 0),
            made(Some(Some("x")), Some(None), 0),
            made(Some(Some("x")), None, 0),
            made(None, Some(None), 0),
        ] {
            assert!(answer(&[bad]).0);
            assert!(answer(&[NO_OLD, SAME, NO_OLD, bad, SAME]).0);
            // What is removed goes nowhere; what differed before may differ.
            for verdict in [1, 2] {
                assert!(!answer(&[SAME, (bad.0, bad.1, bad.2, bad.3, verdict), NO_OLD]).0);
            }
            assert!(!answer(&[SAME, (bad.0, Some("b"), bad.2, bad.3, 0), NO_OLD]).0);
        }
    }
}

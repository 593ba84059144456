//! One call of one binding: columns in, a checked outcome out.
//!
//! The batch is only read here; whatever is wrong with an answer is a [`Failure`], the
//! instance that gave it is dropped, and the rows are as they were.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kasho_plugin_sdk::abi::Use;
use kasho_plugin_sdk::batch::{
    Allowed, Decision, Field, Image, InputBuilder, Malformed, Reply, Sent,
};

use crate::batch::{Batch, Cell};

use super::generation::{Bound, Figures};
use super::host::Host;
use super::instance::{Failure, Instance};
use super::outcome::{Decided, Outcome, PatchCopy, cell, moved_identity};
use super::plan::LinkPlan;

/// One binding of a running chain.
#[derive(Debug)]
pub(super) struct Link {
    /// The binding.
    pub(super) bound: Arc<Bound>,
    /// Its instance, unless it has just failed.
    pub(super) instance: Option<Instance>,
    builder: InputBuilder,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) enum Fault {
    /// No instance could be started, or it does not know the table any more.
    Start(Failure),
    /// The call failed.
    Call(Failure),
}

impl Link {
    /// A link with the instance it starts with.
    pub(super) fn new(bound: Arc<Bound>, instance: Option<Instance>) -> Link {
        Link { bound, instance, builder: InputBuilder::default() }
    }

    /// An instance that has seen no row: its words may be shown.
    pub(super) fn innocent(&mut self, host: &Host) -> Result<&mut Instance, Failure> {
        let instance = match self.instance.take() {
            Some(instance) if !instance.seen_rows() => instance,
            _ => self.bound.start(host)?,
        };
        Ok(self.instance.insert(instance))
    }

    /// Calls the plugin with `rows`. After a fault there is no instance.
    pub(super) fn call(
        &mut self,
        host: &Host,
        batch: &Batch,
        plan: &Arc<LinkPlan>,
        rows: &[u32],
        deadline_ms: u64,
    ) -> Result<Outcome, Fault> {
        let started = Instant::now();
        let mut instance = self.ready(host, plan).map_err(Fault::Start)?;
        let Link { bound, builder, .. } = self;
        let outcome = exchange(bound, builder, &mut instance, batch, plan, rows, deadline_ms);
        let figures = &bound.figures;
        figures.called(rows.len(), started.elapsed());
        match outcome {
            Ok(outcome) => {
                self.instance = Some(instance);
                Ok(outcome)
            }
            Err(failure) => {
                Figures::add(&figures.failures, 1);
                Err(Fault::Call(failure))
            }
        }
    }

    /// Takes the instance out, started and told of the relation.
    fn ready(&mut self, host: &Host, plan: &Arc<LinkPlan>) -> Result<Instance, Failure> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.bound.start(host)?,
        };
        let relation = &plan.relation;
        let told = instance.announced.get(&relation.id);
        if !told.is_some_and(|told| Arc::ptr_eq(told, relation) || told == relation) {
            // Whatever it says now is not shown: it may have seen rows.
            match self.bound.ask(&mut instance, relation) {
                Ok(Some(again)) if again == *plan => {}
                _ => {
                    let text =
                        "its answer about the table is not what it was when it was asked first";
                    return Err(Failure::Fickle(text.to_owned()));
                }
            }
        }
        Ok(instance)
    }
}

fn exchange(
    bound: &Bound,
    builder: &mut InputBuilder,
    instance: &mut Instance,
    batch: &Batch,
    plan: &LinkPlan,
    rows: &[u32],
    deadline_ms: u64,
) -> Result<Outcome, Failure> {
    instance.call = instance.call.wrapping_add(1);
    let (old, new) = write(builder, instance.call, batch, plan, rows)
        .map_err(|_| Failure::NoAnswer("the batch is too large"))?;
    let block = builder.finish().map_err(|_| Failure::NoAnswer("the batch is too large"))?;
    let answer = instance.batch(block, deadline_ms)?;
    let sent = builder.sent();
    let images = [(Image::New, new), (Image::Old, old)];
    let images = images.into_iter().filter(|(_, there)| *there).map(|(image, _)| image);
    let masked = || plan.slots.iter().enumerate().filter(|(_, s)| s.usage == Use::Mask);
    let name = |column: usize| plan.relation.columns[column].name.clone();
    let Some(bytes) = answer else {
        let mut bare =
            masked().filter(|(slot, _)| Image::ALL.iter().any(|i| any_text(sent, *slot, *i)));
        return match bare.next() {
            Some((_, slot)) => Err(Failure::Unmasked(name(slot.column))),
            None => Ok(Outcome::default()),
        };
    };
    let allowed = Allowed { texts: bound.needs.texts.len(), patchable: &plan.patchable };
    let reply = Reply::read(bytes, sent, allowed).map_err(Failure::Malformed)?;
    for image in images {
        for (slot, s) in masked() {
            if reply.first_unmasked(short(slot), image, sent).is_some() {
                return Err(Failure::Unmasked(name(s.column)));
            }
        }
    }
    let outcome = copy(&reply, plan, rows).map_err(Failure::Malformed)?;
    if old && let Some(column) = moved_identity(batch, plan, rows, &outcome) {
        return Err(Failure::IdentityMoved(name(column)));
    }
    Ok(outcome)
}

/// Writes the block; says which images any row has: old, new.
fn write(
    builder: &mut InputBuilder,
    call: u32,
    batch: &Batch,
    plan: &LinkPlan,
    rows: &[u32],
) -> Result<(bool, bool), kasho_plugin_sdk::batch::TooLarge> {
    let relation = &plan.relation;
    let (mut old, mut new) = (false, false);
    let ops = rows.iter().map(|r| {
        let row = &batch.rows[*r as usize];
        old |= row.old.is_some();
        new |= row.new.is_some();
        row.op
    });
    builder.begin(relation.id, relation.version, call, ops);
    if plan.commit_time {
        builder.commit_us(rows.iter().map(|r| commit_us(batch, *r)))?;
    }
    for (slot, s) in plan.slots.iter().enumerate().filter(|(_, s)| s.sees()) {
        for (image, there) in [(Image::New, new), (Image::Old, old)] {
            if there {
                let fields = rows.iter().map(|r| field(batch, cell(batch, *r, image, s.column)));
                builder.column(short(slot), image, fields)?;
            }
        }
    }
    Ok((old, new))
}

fn field(batch: &Batch, cell: Cell) -> Field<'_> {
    match cell {
        Cell::Text(span) => Field::Text(batch.span(span)),
        Cell::Null => Field::Null,
        Cell::Unchanged => Field::Unchanged,
        Cell::Absent => Field::Absent,
    }
}

fn commit_us(batch: &Batch, row: u32) -> i64 {
    let at = batch.pieces.partition_point(|piece| piece.rows.end <= row as usize);
    batch.pieces.get(at).map_or(0, |piece| piece.commit_us)
}

fn any_text(sent: Sent<'_>, slot: usize, image: Image) -> bool {
    sent.states(short(slot), image).iter().any(|four| four & (four >> 1) & 0x55 != 0)
}

/// A relation has at most 1,600 columns, and a plan no slot twice.
fn short(slot: usize) -> u16 {
    u16::try_from(slot).unwrap_or(u16::MAX)
}

/// Copies what is needed of a reply before the guest is called again.
fn copy(reply: &Reply<'_>, plan: &LinkPlan, rows: &[u32]) -> Result<Outcome, Malformed> {
    let mut outcome = Outcome::default();
    if !reply.keeps_all() {
        let mut errors = reply.errors().iter().peekable();
        for (i, row) in rows.iter().enumerate() {
            let decision = reply.decision(i);
            if decision == Decision::Keep {
                continue;
            }
            let error = errors.next_if(|e| e.row as usize == i).map(|e| (e.text, e.slot));
            outcome.decided.push(Decided { row: *row, decision, error });
        }
    }
    for patch in reply.patches() {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let entries = patch.ranges().map(|(row, text)| {
            (rows[row], text.map(|range| (number(range.start), number(range.len()))))
        });
        outcome.patches.push(PatchCopy {
            column: plan.slots[usize::from(patch.slot)].column,
            image: patch.image,
            bytes: Bytes::copy_from_slice(patch.bytes().as_bytes()),
            entries: entries.collect(),
        });
    }
    Ok(outcome)
}

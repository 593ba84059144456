//! One call of one binding: columns in, a checked answer's patches into the batch.
//!
//! Nothing is written before the whole answer is checked; whatever is wrong with it is a
//! [`Failure`], the instance that gave it is dropped, and the rows are as they were.

use std::sync::Arc;
use std::time::Instant;

use kasho_plugin_sdk::abi::Use;
use kasho_plugin_sdk::batch::{Allowed, Field, Image, InputBuilder, Reply, Sent};

use crate::batch::{Batch, Cell};

use super::figures::{Figures, Tally};
use super::generation::{Bound, Unfit};
use super::host::Host;
use super::instance::{Failure, Instance};
use super::outcome::{self, Decided, cell, moved_identity};
use super::plan::LinkPlan;

/// Bytes that an answer may have for each value that may be patched, beside what is allowed
/// for what was sent: short values become long ones.
const PATCH_BYTES: u64 = 256;

/// One binding of a running chain.
#[derive(Debug)]
pub(super) struct Link {
    /// The binding.
    pub(super) bound: Arc<Bound>,
    /// Its instance, unless it has just failed.
    pub(super) instance: Option<Instance>,
    builder: InputBuilder,
    tally: Arc<Tally>,
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
        let tally = bound.figures.tally();
        Link { bound, instance, builder: InputBuilder::default(), tally }
    }

    /// An instance that has seen no row: its words may be shown.
    pub(super) fn innocent(&mut self, host: &Host) -> Result<&mut Instance, Failure> {
        let instance = match self.instance.take() {
            Some(instance) if !instance.seen_rows() => instance,
            _ => self.bound.start(host)?,
        };
        Ok(self.instance.insert(instance))
    }

    /// Calls the plugin with `rows` and puts its patches into them; gives its decisions.
    /// After a fault there is no instance.
    pub(super) fn call(
        &mut self,
        host: &Host,
        batch: &mut Batch,
        plan: &Arc<LinkPlan>,
        rows: &[u32],
        deadline_ms: u64,
    ) -> Result<Vec<Decided>, Fault> {
        let started = Instant::now();
        if self.instance.as_ref().is_none_or(|there| !told(there, plan)) {
            let ready = self.ready(host, plan).map_err(Fault::Start)?;
            self.instance = Some(ready);
        }
        let Link { bound, builder, instance, tally, .. } = self;
        let outcome = match instance {
            Some(instance) => exchange(bound, builder, instance, batch, plan, rows, deadline_ms),
            None => Err(Failure::NoAnswer("it could not be started")),
        };
        let figures = &bound.figures;
        tally.called(rows.len(), started.elapsed());
        if let (Ok(_), Some(instance)) = (&outcome, instance.as_mut()) {
            let state = instance.state();
            if std::mem::take(&mut state.counted) {
                figures.count(&bound.needs.texts, &mut state.counters);
            }
        }
        outcome.map_err(|failure| {
            *instance = None;
            Figures::add(&figures.failures, 1);
            Fault::Call(failure)
        })
    }

    /// Takes the instance out, started and told of the relation.
    fn ready(&mut self, host: &Host, plan: &Arc<LinkPlan>) -> Result<Instance, Failure> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.bound.start(host)?,
        };
        if !told(&instance, plan) {
            // Whatever it says now is not shown: it may have seen rows.
            match self.bound.ask(host, &mut instance, &plan.relation) {
                Ok(Some(again)) if again == *plan => {}
                Err(Unfit::Failed(failure @ Failure::Deadline { .. })) => return Err(failure),
                _ => {
                    let text = "its answer about the table is not what it was when it was asked first: it must not \
                         depend on anything but the rules and the table";
                    return Err(Failure::Fickle(text.to_owned()));
                }
            }
        }
        Ok(instance)
    }
}

/// Whether an instance was told of a plan's relation, as it is there.
fn told(instance: &Instance, plan: &LinkPlan) -> bool {
    let told = instance.announced.get(&plan.relation.id);
    told.is_some_and(|told| Arc::ptr_eq(told, &plan.relation) || *told == plan.relation)
}

fn exchange(
    bound: &Bound,
    builder: &mut InputBuilder,
    instance: &mut Instance,
    batch: &mut Batch,
    plan: &LinkPlan,
    rows: &[u32],
    deadline_ms: u64,
) -> Result<Vec<Decided>, Failure> {
    instance.call = instance.call.wrapping_add(1);
    let (old, new) = write(builder, instance.call, batch, plan, rows)
        .map_err(|_| Failure::NoAnswer("the batch is too large"))?;
    let block = builder.finish().map_err(|_| Failure::NoAnswer("the batch is too large"))?;
    let patchable = plan.patchable.iter().filter(|may| **may).count();
    let more = (rows.len() * patchable) as u64 * PATCH_BYTES;
    let answer = instance.batch(block, more, deadline_ms)?;
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
            None => Ok(Vec::new()),
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
    if old && let Some(column) = moved_identity(batch, plan, rows, &reply) {
        return Err(Failure::IdentityMoved(name(column)));
    }
    // From here on nothing fails: the rows get all of it or, above, nothing.
    outcome::patch(batch, &reply, plan, rows);
    Ok(outcome::decided(&reply, rows))
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
    for (slot, column) in plan.seen() {
        for (image, there) in [(Image::New, new), (Image::Old, old)] {
            if there {
                let fields = rows.iter().map(|r| field(batch, cell(batch, *r, image, column)));
                builder.column(short(slot), image, fields)?;
            }
        }
    }
    Ok((old, new))
}

#[inline]
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

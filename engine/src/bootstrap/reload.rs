//! Loads that go on at a later snapshot, and single tables loaded again, before and after
//! the bootstrap is complete. Pure.
//!
//! While changes stream, the order is everything: the mark is published before the
//! snapshot is taken. A reader that has come to the mark has applied nothing of the table
//! that is later than the snapshot, and what lies between the two is in the snapshot and
//! skipped; so nothing is lost and nothing comes twice. A table that is altered between the two
//! does not fit what a reader has where it meets the mark: it is left out, all of its changes are
//! skipped, and it is loaded at another mark.

use crate::bootstrap::refusal::wrong_state;
use crate::bootstrap::{
    Called, Command, Definitions, Effect, Facts, LATER, Load, LoadMode, Passed, Phase, Refusal,
    Reload, Streaming, TableLoad, Transition, late, load_on, resume, with_table_done,
};
use crate::position::Lsn;

/// The finished tables stay; a new holder says what the rest is read from.
pub(super) fn snapshot_gone(phase: &Phase, load: &Load) -> Result<Transition, Refusal> {
    if load.loaded || load.mode != LoadMode::Direct || load.holder.is_none() {
        return Err(late("the loss of the snapshot", phase));
    }
    let next = Load { holder: None, ..load.clone() };
    // What is left of a holder that kept several sessions still locks the tables.
    let effects = vec![Effect::StopLoad, Effect::ReleaseHolder, Effect::Rehold];
    Ok(Transition { next: Phase::Accumulating(next), effects })
}

pub(super) fn reheld(
    phase: &Phase,
    load: &Load,
    found: Load,
    facts: &Facts,
) -> Result<Transition, Refusal> {
    if load.loaded || load.holder.is_some() {
        return Err(late("a later snapshot", phase));
    }
    let found = passing(found, facts);
    let next = Phase::Accumulating(resume::resumed_first(load, &found, facts.attempts));
    Ok(Transition { next, effects: vec![Effect::AdoptHolder, Effect::BeginLoad] })
}

/// In ACCUMULATING nobody reads changes yet: the tables simply get a later load point,
/// once the others are loaded.
pub(super) fn later(phase: &Phase, load: &Load, tables: &[String]) -> Result<Transition, Refusal> {
    if load.mode != LoadMode::Direct {
        return Err(wrong_state(
            "the load of single tables",
            phase,
            "somebody else loads in this bootstrap, or nobody: the engine can load tables \
             itself once it is complete (CompleteBootstrap)",
        ));
    }
    let mut next = load.clone();
    next.again.extend(tables.iter().filter(|table| !load.again.contains(table)).cloned());
    let mut effects = Vec::new();
    if std::mem::replace(&mut next.loaded, false) {
        effects.push(Effect::Rehold);
    }
    Ok(Transition { next: Phase::Accumulating(next), effects })
}

/// Everything about a reload in STREAMING.
pub(super) fn on(
    phase: &Phase,
    streaming: &Streaming,
    command: Command,
    facts: &Facts,
) -> Result<Transition, Refusal> {
    let mut next = streaming.clone();
    let Some(mut reload) = next.reload.take() else {
        return match command {
            Command::Reload { tables, nonce, planned } => {
                Ok(begin(next, (tables, planned), nonce, facts))
            }
            _ => Err(late("news of a load", phase)),
        };
    };
    let load = &mut reload.load;
    let effects = match command {
        Command::Reload { .. } => {
            let tables = reload.tables.join(", ");
            let why = format!("{tables} is being loaded again just now; wait until that is done");
            return Err(wrong_state("the load of single tables", phase, &why));
        }
        Command::Marked { nonce } if nonce == reload.nonce && reload.mark == Lsn::ZERO => {
            match facts.marked {
                Some(lsn) => {
                    reload.mark = lsn;
                    vec![Effect::Rehold]
                }
                // It was seen there, and Redis has lost it since.
                None => vec![Effect::Mark],
            }
        }
        Command::Reheld(found) if reload.mark > Lsn::ZERO && load.holder.is_none() => {
            let asked = |name: &String| reload.tables.contains(name);
            let mut found = passing(*found, facts);
            let others = other_names(load, &found, &reload.tables);
            found.tables.retain(|table| asked(&table.published_as));
            found.published.retain(asked);
            *load = resume::resumed(load, &found, streaming.attempts.max(facts.attempts));
            load.later.extend(others);
            next.attempts =
                load.tables.iter().map(|table| table.attempt).fold(next.attempts, u32::max);
            vec![Effect::AdoptHolder, Effect::BeginLoad]
        }
        Command::SnapshotGone if load.holder.is_some() => {
            load.holder = None;
            vec![Effect::StopLoad, Effect::ReleaseHolder, Effect::Rehold]
        }
        Command::TableDone { oid, attempt, rows } => {
            *load = with_table_done(load, (oid, attempt), rows)?;
            vec![]
        }
        Command::LoadDone if load.holder.is_some() => match load.unfinished(&facts.whole) {
            Some(open) => {
                *load = open;
                load_on()
            }
            None => return Ok(end(next, *reload, facts)),
        },
        _ => return Err(late("news of a load", phase)),
    };
    next.reload = Some(reload);
    Ok(Transition { next: Phase::Streaming(next), effects })
}

/// What tables that were asked for are called by now, where that is something else: nobody has
/// rows of theirs by that name.
fn other_names(load: &Load, found: &Load, asked: &[String]) -> Vec<String> {
    let known = |oid: u32| {
        load.planned
            .iter()
            .flat_map(Definitions::values)
            .flatten()
            .any(|(planned, _)| *planned == oid)
    };
    let other = |table: &&TableLoad| known(table.oid) && !asked.contains(&table.published_as);
    found.tables.iter().filter(other).map(|table| table.published_as.clone()).collect()
}

/// What was found, read by what is in force: the rows of other loads pass another process.
pub(super) fn passing(mut found: Load, facts: &Facts) -> Load {
    if found.mode != LoadMode::Direct {
        return found;
    }
    found.snapshots.iter_mut().for_each(|snapshot| snapshot.by.clone_from(&facts.run));
    found
}

fn begin(
    mut next: Streaming,
    (tables, planned): (Vec<String>, Definitions),
    nonce: String,
    facts: &Facts,
) -> Transition {
    let load = Load {
        epoch: next.epoch,
        slot: next.slot.clone(),
        start_lsn: next.start_lsn,
        mode: LoadMode::Direct,
        snapshots: Vec::new(),
        holder: None,
        range_blocks: 0,
        tables: Vec::new(),
        loaded: false,
        published: Vec::new(),
        again: Vec::new(),
        planned: Some(planned),
        later: Vec::new(),
        called: Called::new(),
        renamed: None,
        renames: Vec::new(),
    };
    // Nobody writes the bootstrap stream after its end but a reload, one at a time.
    let section = facts.rows_loaded + 1;
    let (mark, renames) = (Lsn::ZERO, Vec::new());
    next.reload = Some(Box::new(Reload { tables, nonce, section, mark, load, renames }));
    Transition { next: Phase::Streaming(next), effects: vec![Effect::Mark] }
}

fn end(mut next: Streaming, reload: Reload, facts: &Facts) -> Transition {
    let now: Vec<String> = reload.tables.iter().map(|table| reload.called(table)).collect();
    next.passed = facts.run.as_ref().map(|run| Passed::after(next.passed.take(), &reload, run));
    let Reload { tables, mark, load, .. } = reload;
    let points = load.load_points();
    // A table that was dropped meanwhile has no rows, and no changes after the snapshot.
    let newest = load.snapshots.last().map_or(mark, |snapshot| snapshot.lsn);
    next.later.retain(|later| !tables.contains(later));
    let loaded = tables.into_iter().zip(now).filter(|(table, _)| !load.later.contains(table));
    for (table, now) in loaded {
        let lsn = points.get(&table).copied().unwrap_or(newest);
        // One that has another name by now is not loaded under this one either.
        let read = |part: &TableLoad| part.published_as == table && !part.gone;
        let read = load.tables.iter().any(read);
        next.load_points.insert(table, lsn);
        next.stale.retain(|stale| *stale != now || load.again.contains(stale));
        if read && !next.tables.contains(&now) {
            next.tables.push(now);
        }
    }
    put_off(&mut next, load);
    // Of what nobody loads any more nothing is skipped.
    next.load_points.retain(|_, lsn| *lsn != LATER);
    next.load_points.extend(next.later.iter().map(|table| (table.clone(), LATER)));
    next.rows = facts.rows_loaded;
    let (start_lsn, load_points) = (next.start_lsn, next.load_points.clone());
    let (called, after) = (next.called.clone(), Some(mark));
    let write = Effect::WriteEnd { start_lsn, load_points, called, after, whole: false };
    let effects = vec![write, Effect::ReleaseHolder, Effect::LoadedAnew];
    Transition { next: Phase::Streaming(next), effects }
}

/// What a load has put off stays so, beside what was before.
fn put_off(next: &mut Streaming, load: Load) {
    // What is meant by a name wherever a reader stands needs no place.
    let plain = |later: &[String], called: &Called| -> Vec<String> {
        later.iter().filter(|name| !called.contains_key(*name)).cloned().collect()
    };
    let anywhere = [plain(&next.later, &next.called), plain(&load.later, &load.called)].concat();
    next.called.extend(load.called);
    next.later.extend(load.later);
    next.later.sort_unstable();
    next.later.dedup();
    let later = &next.later;
    next.called.retain(|name, _| later.contains(name) && !anywhere.contains(name));
}

//! Loads that go on at a later snapshot, and single tables loaded again, before and after
//! the bootstrap is complete. Pure.
//!
//! While changes stream, the order is everything: the mark is published before the
//! snapshot is taken. A reader that has come to the mark has applied nothing of the table
//! that is later than the snapshot, and what lies between the two is in the snapshot and
//! skipped; so nothing is lost and nothing comes twice.

use crate::bootstrap::{
    Command, Effect, Facts, Load, LoadMode, Phase, Refusal, Reload, Streaming, TableLoad,
    Transition, late, load_on, resume, with_table_done, wrong_state,
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
    found: &Load,
    used: u32,
) -> Result<Transition, Refusal> {
    if load.loaded || load.holder.is_some() {
        return Err(late("a later snapshot", phase));
    }
    let next = Phase::Accumulating(resume::resumed(load, found, used));
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
            Command::Reload { tables, nonce } => Ok(begin(next, tables, nonce, facts)),
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
            let mut found = *found;
            found.tables.retain(|table| asked(&table.published_as));
            found.published.retain(asked);
            *load = resume::resumed(load, &found, streaming.attempts.max(facts.attempts));
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

fn begin(mut next: Streaming, tables: Vec<String>, nonce: String, facts: &Facts) -> Transition {
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
        renamed: None,
        renames: Vec::new(),
    };
    // Nobody writes the bootstrap stream after its end but a reload, one at a time.
    let section = facts.rows_loaded + 1;
    next.reload = Some(Box::new(Reload { tables, nonce, section, mark: Lsn::ZERO, load }));
    Transition { next: Phase::Streaming(next), effects: vec![Effect::Mark] }
}

fn end(mut next: Streaming, reload: Reload, facts: &Facts) -> Transition {
    let points = reload.load.load_points();
    // A table that was dropped meanwhile has no rows, and no changes after the snapshot.
    let newest = reload.load.snapshots.last().map_or(reload.mark, |snapshot| snapshot.lsn);
    for table in reload.tables {
        let lsn = points.get(&table).copied().unwrap_or(newest);
        next.load_points.insert(table.clone(), lsn);
        next.stale.retain(|stale| *stale != table || reload.load.again.contains(stale));
        // One that has another name by now is not loaded under this one either.
        let read = |part: &TableLoad| part.published_as == table && !part.gone;
        if reload.load.tables.iter().any(read) && !next.tables.contains(&table) {
            next.tables.push(table);
        }
    }
    next.rows = facts.rows_loaded;
    let (start_lsn, load_points) = (next.start_lsn, next.load_points.clone());
    let write = Effect::WriteEnd { start_lsn, load_points, after: Some(reload.mark) };
    Transition { next: Phase::Streaming(next), effects: vec![write, Effect::ReleaseHolder] }
}

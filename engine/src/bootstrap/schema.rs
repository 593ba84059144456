//! What schema changes mean for what is loaded. A table that is made while changes flow
//! needs no load: the stream brings all of its rows. One whose rows were changed past the
//! stream has to be loaded again. One that gets another name, or whose schema does, is what it was.
//! Pure.
//!
//! What can go wrong: a change that is told twice, since whoever told it was killed before it
//! was published. To make a table twice is nothing; to rename two twice would swap them back, so a
//! rename counts once, by its place.

use super::phase::{Called, Load, LoadMode, Phase, Renamed, Streaming};
use super::{Command, Facts, Refusal, Transition, late, reload};
use crate::position::Lsn;

/// So many renames are remembered at most.
const KEPT: usize = 1_000;

/// Everything about it.
pub(super) fn on(phase: &Phase, command: Command, facts: &Facts) -> Result<Transition, Refusal> {
    let late = Err(late("a schema change", phase));
    let Command::SchemaChanged { made, stale, renamed } = command else { return late };
    match phase {
        Phase::Waiting(_) => late,
        Phase::Accumulating(load) => {
            let mut load = load.clone();
            keep(&mut load.renames, &renamed, facts.restart_lsn);
            Ok(accumulating(&load, made, stale, &renamed))
        }
        Phase::Streaming(before) => {
            let mut before = before.clone();
            keep(&mut before.renames, &renamed, facts.restart_lsn);
            Ok(streaming(&before, made, &stale, &renamed))
        }
    }
}

/// Remembers renames of schemas for as long as transactions may come that have begun before them:
/// these saw the names of before. A table that somebody has changed gets no other name before he
/// has ended.
fn keep(renames: &mut Vec<Renamed>, new: &[Renamed], oldest: Lsn) {
    for new in new.iter().filter(|new| !new.table) {
        if !renames.iter().any(|old| old.at == new.at) {
            renames.push(new.clone());
        }
    }
    renames.retain(|renamed| renamed.at.0 > oldest.0);
    renames.sort_by_key(|renamed| renamed.at);
    renames.drain(..renames.len().saturating_sub(KEPT));
}

/// Those, in their order, that names have not followed yet.
fn new(renamed: &[Renamed], last: Option<(u64, u64)>) -> &[Renamed] {
    let followed = renamed.partition_point(|renamed| Some(renamed.at) <= last);
    &renamed[followed..]
}

/// Tables by name go with their renames, and with those of their schemas.
fn rename(names: &mut [&mut Vec<String>], last: &mut Option<(u64, u64)>, renamed: &[Renamed]) {
    for renamed in renamed {
        *last = (*last).max(Some(renamed.at));
        for name in names.iter_mut().flat_map(|names| names.iter_mut()) {
            if let Some(moved) = renamed.moved(name) {
                *name = moved;
            }
        }
    }
}

/// Tables that are loaded later stand there by the names of when that was found out, which may
/// be before the rename or behind it. One name too many does no harm, as long as it is known
/// since when it is one: if there is such a table at all, it is loaded once more.
fn both(later: &mut Vec<String>, called: &mut Called, renamed: &[Renamed]) {
    for renamed in renamed {
        let moved: Vec<String> = later.iter().filter_map(|name| renamed.moved(name)).collect();
        for name in moved.into_iter().filter(|name| !later.contains(name)).collect::<Vec<_>>() {
            called.insert(name.clone(), renamed.at);
            later.push(name);
        }
    }
}

/// While the tables are loaded.
fn accumulating(
    load: &Load,
    made: Vec<String>,
    stale: Vec<String>,
    renamed: &[Renamed],
) -> Transition {
    let mut next = load.clone();
    let renamed = new(renamed, next.renamed);
    both(&mut next.later, &mut next.called, renamed);
    rename(&mut [&mut next.published, &mut next.again], &mut next.renamed, renamed);
    // Where nobody knows what is loaded, a few names would say that nothing else is.
    if !next.published.is_empty() {
        add(&mut next.published, made);
    }
    // One that is made, and then changed so, may come in one piece.
    let stale: Vec<String> =
        stale.into_iter().filter(|table| next.published.contains(table)).collect();
    if stale.is_empty() || load.mode != LoadMode::Direct {
        // What somebody else brings is older than that: it is stale once it is there.
        add(&mut next.again, stale);
        return Transition { next: Phase::Accumulating(next), effects: vec![] };
    }
    let phase = Phase::Accumulating(next.clone());
    let unchanged = || Transition { next: phase.clone(), effects: vec![] };
    reload::later(&phase, &next, &stale).unwrap_or_else(|_| unchanged())
}

/// While changes stream.
fn streaming(
    streaming: &Streaming,
    made: Vec<String>,
    stale: &[String],
    renamed: &[Renamed],
) -> Transition {
    let mut next = streaming.clone();
    let renamed = new(renamed, next.renamed);
    both(&mut next.later, &mut next.called, renamed);
    let mut names = vec![&mut next.tables, &mut next.stale];
    if let Some(reload) = &mut next.reload {
        both(&mut reload.load.later, &mut reload.load.called, renamed);
        reload.renames.extend(renamed.iter().cloned());
        names.push(&mut reload.load.again);
    }
    rename(&mut names, &mut next.renamed, renamed);
    if !next.tables.is_empty() {
        add(&mut next.tables, made);
    }
    // One that is made, and then changed so, may come in one piece.
    let known: Vec<String> =
        stale.iter().filter(|table| next.tables.contains(table)).cloned().collect();
    // A load that has its snapshot may have read the rows of before, should its locks be gone.
    if let Some(reload) = next.reload.as_deref_mut()
        && reload.load.holder.is_some()
    {
        let own: Vec<String> = reload.tables.iter().map(|table| reload.called(table)).collect();
        add(&mut reload.load.again, known.iter().filter(|table| own.contains(table)).cloned());
    }
    add(&mut next.stale, known);
    Transition { next: Phase::Streaming(next), effects: vec![] }
}

fn add(to: &mut Vec<String>, names: impl IntoIterator<Item = String>) {
    for name in names {
        if !to.contains(&name) {
            to.push(name);
        }
    }
}

//! What schema changes mean for what is loaded. A table that is made while changes flow
//! needs no load: the stream brings all of its rows. One whose rows were changed past the
//! stream has to be loaded again. Pure.

use super::phase::{Load, LoadMode, Phase, Streaming};
use super::{Refusal, Transition, late, reload};

/// Everything about it.
pub(super) fn on(
    phase: &Phase,
    made: Vec<String>,
    stale: Vec<String>,
) -> Result<Transition, Refusal> {
    match phase {
        Phase::Waiting(_) => Err(late("a schema change", phase)),
        Phase::Accumulating(load) => Ok(accumulating(load, made, stale)),
        Phase::Streaming(before) => Ok(streaming(before, made, &stale)),
    }
}

/// While the tables are loaded.
fn accumulating(load: &Load, made: Vec<String>, stale: Vec<String>) -> Transition {
    let mut next = load.clone();
    // Where nobody knows what is loaded, a few names would say that nothing else is.
    if !next.published.is_empty() {
        add(&mut next.published, made);
    }
    // One that is made, and then changed so, may come in one piece.
    let stale: Vec<String> =
        stale.into_iter().filter(|table| next.published.contains(table)).collect();
    if stale.is_empty() || load.mode != LoadMode::Direct {
        return Transition { next: Phase::Accumulating(next), effects: vec![] };
    }
    let phase = Phase::Accumulating(next.clone());
    let unchanged = || Transition { next: phase.clone(), effects: vec![] };
    reload::later(&phase, &next, &stale).unwrap_or_else(|_| unchanged())
}

/// While changes stream.
fn streaming(streaming: &Streaming, made: Vec<String>, stale: &[String]) -> Transition {
    let mut next = streaming.clone();
    if !next.tables.is_empty() {
        add(&mut next.tables, made);
    }
    // One that is made, and then changed so, may come in one piece.
    let known = stale.iter().filter(|table| next.tables.contains(table));
    add(&mut next.stale, known.cloned());
    Transition { next: Phase::Streaming(next), effects: vec![] }
}

fn add(to: &mut Vec<String>, names: impl IntoIterator<Item = String>) {
    for name in names {
        if !to.contains(&name) {
            to.push(name);
        }
    }
}

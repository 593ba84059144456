//! The three states of a bootstrap and every way between them, as a pure function.
//!
//! [`on`] decides, it does nothing: the engine stores the phase that comes back *before*
//! it carries out the effects. No I/O, no clock; a command in the wrong state is a
//! [`Refusal`] that names the state. What can go wrong: a stored phase of a version that
//! this program does not know ([`StoreError`]), and a server that no longer has what the
//! stored phase says, which [`reconcile`] settles in favour of the server.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::position::{Epoch, Lsn};

pub mod config;
mod facts;
mod found;
mod passed;
mod phase;
mod refusal;
mod reload;
mod resume;
mod schema;
mod start;
mod stored;

pub use config::MissingRows;
pub use facts::Facts;
pub use found::{Found, found};
pub use passed::Passed;
pub use phase::{
    Called, Definitions, LATER, Load, LoadMode, Phase, Reload, Renamed, Snapshot, State, Streaming,
    TableLoad, Waiting,
};
pub use refusal::{Refusal, RefusalCode};
use refusal::{nothing_loaded, wrong_state};
pub use resume::{Restart, restarts};
pub use start::{Reconciled, SlotFact, reconcile, slot_exists};
pub use stored::{StoreError, load, store};

/// What StartBootstrap asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartRequest {
    /// Consistent point of the caller's temporary slot; none: the engine makes both.
    pub start_lsn: Option<Lsn>,
    /// The caller's exported snapshot, with `start_lsn` only.
    pub snapshot_name: Option<String>,
    /// Who loads.
    pub mode: LoadMode,
    /// Drop a left-over slot first.
    pub discard: bool,
    /// With `discard`: also end the session that reads it.
    pub force: bool,
}

/// A session whose open transaction slot creation waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocking {
    /// Its server process.
    pub pid: i32,
    /// Seconds since its transaction began.
    pub age_s: u64,
    /// `application_name`, as it calls itself.
    pub application: String,
}

impl fmt::Display for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Blocking { pid, age_s, application } = self;
        write!(f, "pid {pid} ({application:?}), in a transaction for {age_s} s")
    }
}

/// What is asked of the state machine, by a client or by the engine itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// StartBootstrap was called.
    Start(StartRequest),
    /// The slot was made as [`Effect::MakeSlot`] told.
    Started(Box<Load>),
    /// Making the slot failed; nothing is left of it.
    StartFailed {
        /// What the operator shall read.
        error: String,
    },
    /// Every range of a table is published.
    TableDone {
        /// `pg_class.oid`.
        oid: u32,
        /// Which attempt at it: one that was given up meanwhile does not count.
        attempt: u32,
        /// Rows published.
        rows: u64,
    },
    /// The session that kept the snapshots has ended before everything was loaded.
    SnapshotGone,
    /// A later snapshot is kept, as [`Effect::Rehold`] told: what its holder has found.
    Reheld(Box<Load>),
    /// Single tables shall be loaded again.
    Reload {
        /// By published name.
        tables: Vec<String>,
        /// A word that nobody can guess, for the mark.
        nonce: String,
        /// What they are defined as before the mark.
        planned: Definitions,
    },
    /// The mark of a reload is published: [`Facts::marked`] says where.
    Marked {
        /// Its word.
        nonce: String,
    },
    /// Schema changes are published.
    SchemaChanged {
        /// Tables that they made, by qualified name.
        made: Vec<String>,
        /// Tables that they changed in a way that the stream does not bring.
        stale: Vec<String>,
        /// Schemas that got other names by them, in their order.
        renamed: Vec<Renamed>,
    },
    /// Every table is published, or the external loader said it has finished.
    LoadDone,
    /// CompleteBootstrap was called.
    Complete {
        /// Although the load has not finished.
        force: bool,
    },
    /// AbortBootstrap was called.
    Abort {
        /// Also in STREAMING, and for a left-over slot in WAITING.
        force: bool,
    },
    /// The server has invalidated or lost the slot.
    SlotLost {
        /// What the operator shall read.
        error: String,
    },
}

/// What the engine has to do, in order, after it has stored the next phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make slot and snapshot for this epoch, then come back with [`Command::Started`] or
    /// [`Command::StartFailed`].
    MakeSlot {
        /// Its number.
        epoch: Epoch,
        /// As asked.
        request: StartRequest,
    },
    /// Give up making the slot, and leave nothing of it.
    CancelStart,
    /// Tell the holder that the phase is stored, so that it stays when the engine dies.
    AdoptHolder,
    /// Open the slot and publish its changes.
    OpenStream,
    /// Begin to copy the tables.
    BeginLoad,
    /// Have a new holder keep a later snapshot, then come back with [`Command::Reheld`].
    Rehold,
    /// Tables are loaded: [`Phase::passed`] says by what is in force.
    LoadedAnew,
    /// Have the mark of the reload published, then come back with [`Command::Marked`].
    Mark,
    /// End the session that keeps the snapshots, and with it their locks.
    ReleaseHolder,
    /// Write the `end` entry of the bootstrap stream: in the *same* step as the phase.
    WriteEnd {
        /// The slot's consistent point.
        start_lsn: Lsn,
        /// Tables with a later load point.
        load_points: BTreeMap<String, Lsn>,
        /// Of these.
        called: Called,
        /// Of a reload: its mark.
        after: Option<Lsn>,
        /// Whatever there was is loaded.
        whole: bool,
    },
    /// Stop loading.
    StopLoad,
    /// Stop reading the slot.
    CloseStream,
    /// Drop the permanent slot.
    DropSlot {
        /// End the session that reads it, if there is one.
        terminate: bool,
    },
    /// Drop the permanent slot if it is lost indeed, for its name.
    DropLostSlot,
    /// The epoch is over: its writers are fenced, its keys may go.
    EndEpoch(Epoch),
}

/// A command that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// To be stored first.
    pub next: Phase,
    /// To be carried out then, in this order.
    pub effects: Vec<Effect>,
}

/// Decides what `command` does in `phase`.
///
/// # Errors
/// The command is not possible in this state; nothing changes.
pub fn on(phase: &Phase, command: Command, facts: &Facts) -> Result<Transition, Refusal> {
    use Phase::{Accumulating, Streaming, Waiting};
    match (phase, command) {
        (Waiting(_), Command::Start(request)) => start(phase, request, facts),
        (Waiting(waiting), Command::Started(load)) => started(waiting, *load, facts),
        (Waiting(_), Command::StartFailed { error }) => {
            Ok(Transition { next: waiting_after(phase, Some(error)), effects: vec![] })
        }
        (Waiting(waiting), Command::Abort { force }) => drop_left_over(waiting, force, facts),
        (Accumulating(load), Command::TableDone { oid, attempt, rows }) => {
            let next = with_table_done(load, (oid, attempt), rows)?;
            Ok(Transition { next: Phase::Accumulating(next), effects: vec![] })
        }
        (Accumulating(load), Command::SnapshotGone) => reload::snapshot_gone(phase, load),
        (Accumulating(load), Command::Reheld(found)) => reload::reheld(phase, load, *found, facts),
        (Accumulating(load), Command::Reload { tables, .. }) => reload::later(phase, load, &tables),
        (
            Streaming(streaming),
            command @ (Command::Reload { .. }
            | Command::Marked { .. }
            | Command::Reheld(_)
            | Command::SnapshotGone
            | Command::TableDone { .. }
            | Command::LoadDone),
        ) => reload::on(phase, streaming, command, facts),
        (Waiting(_), Command::Reload { .. }) => Err(nothing_loaded(phase)),
        (_, command @ Command::SchemaChanged { .. }) => schema::on(phase, command, facts),
        (Accumulating(load), Command::LoadDone) => Ok(all_done(load, facts)),
        (Accumulating(load), Command::Complete { force }) => complete(load, force, facts),
        (Accumulating(_), Command::Abort { .. }) => Ok(abort(phase, None)),
        (Streaming(_), Command::Abort { force: true }) => Ok(abort(phase, None)),
        (Streaming(_), Command::Abort { force: false }) => Err(wrong_state(
            "AbortBootstrap",
            phase,
            "the bootstrap is complete; with force = true the slot is dropped and the epoch \
             ends, and a new bootstrap is needed",
        )),
        (Accumulating(_) | Streaming(_), Command::SlotLost { error }) => {
            Ok(abort(phase, Some(error)))
        }
        (Accumulating(_) | Streaming(_), Command::Start(_)) => Err(wrong_state(
            "StartBootstrap",
            phase,
            "it needs WAITING; `kasho reset` (AbortBootstrap) ends the present bootstrap",
        )),
        (Waiting(_), Command::Complete { .. }) => Err(wrong_state(
            "CompleteBootstrap",
            phase,
            "it needs ACCUMULATING; call StartBootstrap first",
        )),
        (Streaming(_), Command::Complete { .. }) => Err(wrong_state(
            "CompleteBootstrap",
            phase,
            "it needs ACCUMULATING; this bootstrap is complete already",
        )),
        (_, Command::Started(_)) => Err(late("a new slot", phase)),
        (_, Command::StartFailed { .. }) => Err(late("a failed start", phase)),
        (_, Command::TableDone { .. }) => Err(late("the end of a table's load", phase)),
        (_, Command::LoadDone) => Err(late("the end of the load", phase)),
        (_, Command::SnapshotGone) => Err(late("the loss of the snapshot", phase)),
        (_, Command::Reheld(_)) => Err(late("a later snapshot", phase)),
        (_, Command::Marked { .. }) => Err(late("a mark", phase)),
        (Waiting(_), Command::SlotLost { .. }) => Err(late("the loss of the slot", phase)),
    }
}

fn start(phase: &Phase, request: StartRequest, facts: &Facts) -> Result<Transition, Refusal> {
    if facts.starting {
        return Err(Refusal::precondition(
            "StartBootstrap refused in state WAITING: another StartBootstrap is under way; \
             AbortBootstrap cancels it",
        ));
    }
    if facts.slot_exists && !request.discard {
        return Err(Refusal::precondition(format!(
            "StartBootstrap refused in state WAITING: {}",
            slot_exists(&facts.slot)
        )));
    }
    if request.snapshot_name.is_some() && request.start_lsn.is_none() {
        return Err(Refusal::argument(
            "snapshot_name without start_lsn: give both, as printed when the temporary slot was \
             made, or neither, and the engine makes slot and snapshot itself",
        ));
    }
    if request.mode == LoadMode::Direct
        && request.start_lsn.is_some()
        && request.snapshot_name.is_none()
    {
        return Err(Refusal::argument(
            "start_lsn without snapshot_name: a direct load reads at the exported snapshot, \
             give its name too, or ask for an external load",
        ));
    }
    let last = phase.last_epoch().max(facts.checkpoint_epoch);
    let mut effects = Vec::new();
    if facts.slot_exists {
        effects.push(Effect::DropSlot { terminate: request.force });
    }
    effects.push(Effect::MakeSlot { epoch: Epoch(last + 1), request });
    Ok(Transition { next: waiting_after(phase, None), effects })
}

fn started(waiting: &Waiting, load: Load, facts: &Facts) -> Result<Transition, Refusal> {
    if load.epoch.0 <= waiting.last_epoch {
        return Err(Refusal {
            code: RefusalCode::Internal,
            text: format!("epoch {} was used already", load.epoch.0),
        });
    }
    let load = resume::begun(reload::passing(load, facts));
    let mut effects = vec![Effect::AdoptHolder, Effect::OpenStream];
    if load.mode == LoadMode::None || (load.mode == LoadMode::Direct && load.tables.is_empty()) {
        let Transition { next, effects: more } = load_done(load);
        effects.extend(more);
        return Ok(Transition { next, effects });
    }
    if load.mode == LoadMode::Direct {
        effects.push(Effect::BeginLoad);
    }
    Ok(Transition { next: Phase::Accumulating(load), effects })
}

fn with_table_done(load: &Load, (oid, attempt): (u32, u32), rows: u64) -> Result<Load, Refusal> {
    let mut next = load.clone();
    // One that was renamed between two attempts stands here under both of its names.
    let mut found = next.tables.iter_mut().filter(|t| (t.oid, t.attempt) == (oid, attempt));
    let Some(first) = found.next() else {
        return Err(Refusal {
            code: RefusalCode::Internal,
            text: format!("attempt {attempt} at the table with oid {oid} is not part of this load"),
        });
    };
    let open = if first.done { found.find(|table| !table.done) } else { Some(first) };
    if let Some(table) = open {
        (table.done, table.rows) = (true, rows);
    }
    Ok(next)
}

/// Goes on with a load that is not finished.
fn load_on() -> Vec<Effect> {
    vec![Effect::StopLoad, Effect::BeginLoad]
}

/// The loader says that it has finished, which counts only if Redis holds all of it.
fn all_done(load: &Load, facts: &Facts) -> Transition {
    match load.unfinished(&facts.whole) {
        Some(next) => Transition { next: Phase::Accumulating(next), effects: load_on() },
        None => load_done(load.clone()),
    }
}

fn load_done(mut load: Load) -> Transition {
    // What others load, we load again only once they are done.
    let before = load.loaded;
    load.loaded = load.again.is_empty() || load.mode != LoadMode::Direct;
    let mut effects: Vec<_> =
        load.holder.take().map(|_| Effect::ReleaseHolder).into_iter().collect();
    match (load.loaded, before) {
        (true, true) => {}
        (true, false) => effects.push(Effect::LoadedAnew),
        (false, _) => effects.push(Effect::Rehold),
    }
    Transition { next: Phase::Accumulating(load), effects }
}

fn complete(load: &Load, force: bool, facts: &Facts) -> Result<Transition, Refusal> {
    let loaded = load.loaded || facts.loader_done;
    if !loaded && !force && !facts.no_initial_data {
        let done = load.tables.iter().filter(|table| table.done).count();
        let of = match load.mode {
            LoadMode::Direct => format!(" of {done} of {} tables", load.tables.len()),
            LoadMode::External | LoadMode::None => String::new(),
        };
        return Err(Refusal::precondition(format!(
            "CompleteBootstrap refused in state ACCUMULATING: the initial load has not finished, \
             {} rows{of} so far; wait for it, or ask with force = true (or set \
             bootstrap.no_initial_data) if the targets are filled by other means",
            facts.rows_loaded
        )));
    }
    let (start_lsn, load_points) = (load.start_lsn, load.load_points());
    // What others have loaded may never have had all of the tables.
    let whole = loaded && load.mode == LoadMode::Direct && !facts.no_initial_data;
    let called = load.called.clone();
    let mut effects = vec![Effect::WriteEnd { start_lsn, load_points, called, after: None, whole }];
    if !load.loaded && load.mode == LoadMode::Direct {
        // Those that are finished count.
        effects.extend([Effect::StopLoad, Effect::LoadedAnew]);
    }
    if load.holder.is_some() {
        effects.push(Effect::ReleaseHolder);
    }
    let next = Phase::Streaming(Streaming {
        epoch: load.epoch,
        slot: load.slot.clone(),
        start_lsn: load.start_lsn,
        load_points: load.load_points(),
        rows: facts.rows_loaded,
        accumulated_changes: facts.changes,
        incomplete: (!loaded || facts.loader_partial) && !facts.no_initial_data,
        tables: load.published.clone(),
        attempts: load.tables.iter().map(|table| table.attempt).max().unwrap_or(0),
        stale: load.again.clone(),
        later: load.later.clone(),
        called: load.called.clone(),
        renamed: load.renamed,
        renames: load.renames.clone(),
        reload: None,
        passed: facts
            .run
            .as_ref()
            .map(|run| Passed { run: run.clone(), relations: load.passed(run) }),
    });
    Ok(Transition { next, effects })
}

/// Everything of the present bootstrap ends. A slot that is lost is dropped too: its
/// name is all that is left of it.
fn abort(phase: &Phase, error: Option<String>) -> Transition {
    let mut effects = Vec::new();
    let load = match phase {
        Phase::Accumulating(load) => Some(load),
        Phase::Streaming(streaming) => streaming.reload.as_ref().map(|reload| &reload.load),
        Phase::Waiting(_) => None,
    };
    if let Some(load) = load {
        if !load.loaded && load.mode == LoadMode::Direct {
            effects.push(Effect::StopLoad);
        }
        effects.extend(load.holder.as_ref().map(|_| Effect::ReleaseHolder));
    }
    effects.push(Effect::CloseStream);
    effects.push(match error {
        Some(_) => Effect::DropLostSlot,
        None => Effect::DropSlot { terminate: true },
    });
    effects.extend(phase.epoch().map(Effect::EndEpoch));
    Transition { next: waiting_after(phase, error), effects }
}

fn drop_left_over(waiting: &Waiting, force: bool, facts: &Facts) -> Result<Transition, Refusal> {
    let next = Phase::Waiting(Waiting { last_epoch: waiting.last_epoch, last_error: None });
    if facts.starting {
        return Ok(Transition { next, effects: vec![Effect::CancelStart] });
    }
    if !facts.slot_exists {
        return Err(Refusal::precondition(
            "AbortBootstrap refused in state WAITING: there is no bootstrap to abort",
        ));
    }
    if !force {
        return Err(Refusal::precondition(
            "AbortBootstrap refused in state WAITING: there is no bootstrap to abort; with \
             force = true the left-over slot is dropped",
        ));
    }
    Ok(Transition { next, effects: vec![Effect::DropSlot { terminate: true }] })
}

fn waiting_after(phase: &Phase, last_error: Option<String>) -> Phase {
    Phase::Waiting(Waiting { last_epoch: phase.last_epoch(), last_error })
}

/// Something that was under way while the state changed, and no longer matters.
fn late(what: &str, phase: &Phase) -> Refusal {
    Refusal::precondition(format!("{what} does not matter any more in state {}", phase.state()))
}

#[cfg(test)]
mod tests;

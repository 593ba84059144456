//! What a start-up makes of a stored phase: the truth is PostgreSQL. Wrong here would
//! mean to stream from a slot that is not ours, or to forget one that pins the log.

use crate::bootstrap::{Phase, State, Waiting};
use crate::quote::literal;

/// What `pg_replication_slots` says of the slot with our name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotFact {
    /// There is none.
    Absent,
    /// A permanent `pgoutput` slot of our database, not invalidated.
    Usable,
    /// A permanent `pgoutput` slot of our database whose log is gone, with the server's
    /// reason (`wal_status` or `invalidation_reason`).
    Lost(String),
    /// Something else of that name: another database, another plugin, temporary, physical.
    Foreign(String),
}

/// How the service starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconciled {
    /// The phase to be in; to be stored if it differs from the stored one.
    pub phase: Phase,
    /// To be logged loudly.
    pub warning: Option<String>,
}

/// The error of a slot that stands in the way, with both remedies. Its first words are
/// PostgreSQL's own.
#[must_use]
pub fn slot_exists(slot: &str) -> String {
    let literal = literal(slot);
    format!(
        "replication slot \"{slot}\" already exists; if nobody needs it: `kasho reset`, or \
         SELECT pg_drop_replication_slot({literal}); and start again (StartBootstrap with \
         discard = true does both at once)"
    )
}

/// Compares the stored phase with the server's slot.
#[must_use]
pub fn reconcile(stored: Phase, slot_name: &str, slot: &SlotFact) -> Reconciled {
    let state = stored.state();
    let waiting = |error: String, loud: bool| {
        let warning = loud.then(|| error.clone());
        let phase = Waiting { last_epoch: stored.last_epoch(), last_error: Some(error) };
        Reconciled { phase: Phase::Waiting(phase), warning }
    };
    match (state, slot) {
        (State::Waiting, SlotFact::Absent) => Reconciled { phase: stored, warning: None },
        (State::Waiting, SlotFact::Usable | SlotFact::Lost(_)) => {
            waiting(slot_exists(slot_name), true)
        }
        (_, SlotFact::Foreign(what)) => waiting(
            format!(
                "the replication slot \"{slot_name}\" is not ours, it is {what}; name another one \
                 (source.slot), or drop it if nobody needs it{}",
                lost_state(state)
            ),
            true,
        ),
        (State::Accumulating | State::Streaming, SlotFact::Absent) => waiting(
            format!(
                "the replication slot \"{slot_name}\" is gone although the state was {state}: \
                 changes since then are lost to us, a new bootstrap is needed (StartBootstrap)"
            ),
            true,
        ),
        (State::Accumulating | State::Streaming, SlotFact::Lost(why)) => waiting(
            format!(
                "PostgreSQL has invalidated the replication slot \"{slot_name}\" ({why}) while the \
                 state was {state}: changes are lost to us, a new bootstrap is needed \
                 (StartBootstrap with discard = true, or `kasho reset` first)"
            ),
            true,
        ),
        (State::Accumulating | State::Streaming, SlotFact::Usable) => {
            match other_slot(&stored, slot_name) {
                Some(other) => waiting(
                    format!(
                        "the state belongs to the replication slot \"{other}\", the configuration \
                         names \"{slot_name}\": set source.slot back, or drop the old slot and \
                         bootstrap again"
                    ),
                    true,
                ),
                None => Reconciled { phase: stored, warning: None },
            }
        }
    }
}

fn lost_state(state: State) -> String {
    match state {
        State::Waiting => String::new(),
        State::Accumulating | State::Streaming => {
            format!("; the state was {state}, our own slot is gone and a new bootstrap is needed")
        }
    }
}

/// The slot of the stored phase, if that is another one.
fn other_slot<'a>(stored: &'a Phase, slot_name: &str) -> Option<&'a str> {
    let slot = match stored {
        Phase::Waiting(_) => return None,
        Phase::Accumulating(load) => &load.slot,
        Phase::Streaming(streaming) => &streaming.slot,
    };
    (slot != slot_name).then_some(slot)
}

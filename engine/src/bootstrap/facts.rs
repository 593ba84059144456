//! What a command is judged by beside the phase. Plain data.

use std::collections::BTreeMap;

use crate::position::Lsn;
use crate::transform::Run;

/// What the engine knows of the world as it asks.
///
/// [`Command::LoadDone`]: super::Command::LoadDone
/// [`Command::Marked`]: super::Command::Marked
/// [`Command::Reheld`]: super::Command::Reheld
/// [`Effect::MakeSlot`]: super::Effect::MakeSlot
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Name of our slot, as configured.
    pub slot: String,
    /// A slot of that name exists.
    pub slot_exists: bool,
    /// A [`Effect::MakeSlot`] is being carried out.
    pub starting: bool,
    /// Rows in the bootstrap stream.
    pub rows_loaded: u64,
    /// Entries in the changes stream.
    pub changes: u64,
    /// Epoch of the checkpoint in Redis, 0 if there is none: it counts even if the phase
    /// was lost.
    pub checkpoint_epoch: u64,
    /// `bootstrap.no_initial_data` of the configuration.
    pub no_initial_data: bool,
    /// The external loader has stored that it has published all there is.
    pub loader_done: bool,
    /// It was asked to leave rows out.
    pub loader_partial: bool,
    /// For [`Command::Marked`]: where Redis holds the mark asked about, if it does.
    pub marked: Option<Lsn>,
    /// For [`Command::LoadDone`]: the tables of our own load that Redis holds whole, by oid and
    /// attempt, with their rows.
    pub whole: BTreeMap<(u32, u32), u64>,
    /// For [`Command::Reheld`]: the highest attempt at any table of which Redis holds progress.
    pub attempts: u32,
    /// No transaction that is still to come has begun before it; zero if that is not known.
    pub restart_lsn: Lsn,
    /// The generation in force, as its run; for [`Command::Reheld`] the one that was before the
    /// snapshot was taken.
    pub run: Option<Run>,
}

//! The initial load: who keeps the snapshot, and how tables are read from it.
//!
//! A *holder* ([`hold`]), a process of its own, makes the slot with an exported snapshot,
//! keeps that snapshot and the tables' locks, and outlives the engine. The engine starts
//! it ([`Holder`]), and its *reader* ([`Reader`]) copies the tables, several `ctid` ranges
//! at once, each a [`Slice`] at a time.
//!
//! What can go wrong: the snapshot is gone with its holder ([`SnapshotError::Gone`], and
//! another holder keeps a later one for what is not loaded yet), a
//! table changes shape under us (it is locked against that), slot creation waits for a
//! transaction that never ends (shown, and given up in time).

use std::path::PathBuf;

use crate::bootstrap::Blocking;
use crate::error::Class;
use crate::source::catalog::CatalogError;
use crate::source::copy::CopyError;
use crate::source::error::SourceError;

mod adopt;
mod holder;
mod plan;
mod reader;
mod sample;
mod spawn;

pub use adopt::{check_server, copy_temporary_slot, drop_slot, hold_temporary, slot_fact};
pub use holder::{HolderSpec, Report, hold};
pub use plan::{Progress, RangeKey, RangeProgress, copy_statement};
pub use reader::{Reader, ReaderConfig, Slice};
pub use sample::sample;
pub use spawn::{Holder, holder_lives, release, release_others};

/// What can end a load or refuse to begin one.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// PostgreSQL did not answer or refused.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The catalogue cannot be used.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The session that exported the snapshot has ended.
    #[error(
        "the snapshot of the initial load is gone: the session that kept it has ended (was \
         PostgreSQL or the machine restarted?). Tables that are loaded stay; the others are \
         loaded from a later snapshot"
    )]
    Gone,
    /// The table's rows are not what was asked for.
    #[error("COPY of {table}: {source}")]
    Copy {
        /// `schema.table`.
        table: String,
        /// What is wrong with a line.
        source: CopyError,
    },
    /// A session of the load ended in the middle of what it did.
    #[error(
        "a task that reads the tables has died, which is a bug of Kasho: please report it, with the \
         panic in the log. The load goes on from what is published"
    )]
    Died,
    /// The server answered a COPY with something that is not a row.
    #[error("COPY of {table} ended in the middle of a row")]
    Cut {
        /// `schema.table`.
        table: String,
    },
    /// Its schema got another name in the moment it was read.
    #[error("{table} got another name while it was read; it is read on under that one")]
    Renamed {
        /// `schema.table`, as it was called when the load was planned.
        table: String,
    },
    /// A slot of that name stands in the way.
    #[error("{}", crate::bootstrap::slot_exists(slot))]
    SlotExists {
        /// Its name.
        slot: String,
    },
    /// Slot creation waited too long.
    #[error(
        "making the replication slot took longer than {seconds} s: it waits until every \
         transaction that is open now has ended{}; end it, or try again later",
        blocking.as_ref().map(|b| format!(", at last for {b}")).unwrap_or_default()
    )]
    SlotTimeout {
        /// The limit.
        seconds: u64,
        /// What it waited for last.
        blocking: Option<Blocking>,
    },
    /// No temporary slot, or more than one, stands where the caller says.
    #[error(
        "{found} temporary pgoutput slots of this database stand at {lsn}, exactly one has to: \
         changes between the snapshot and the permanent slot would be lost otherwise{present}. \
         Keep the session open in which the slot was made (CREATE_REPLICATION_SLOT … TEMPORARY \
         LOGICAL pgoutput EXPORT_SNAPSHOT, or `kasho snapshot`) and give the LSN it printed"
    )]
    NoTemporarySlot {
        /// As asked for.
        lsn: crate::position::Lsn,
        /// How many stand there.
        found: usize,
        /// Those that stand elsewhere, in words.
        present: String,
    },
    /// A dump at the snapshot would not hold the rows of these tables.
    #[error(
        "changed between the snapshot and now: {tables}. A dump at that snapshot would miss their \
         rows, or have them in another shape. Begin again with a new snapshot"
    )]
    Changed {
        /// `schema.table`, separated by commas.
        tables: String,
    },
    /// The holder cannot be started.
    #[error("cannot start the snapshot holder {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The holder ended before it had anything to say.
    #[error("the snapshot holder ended without an answer ({0}); its own lines in the log say why")]
    HolderEnded(String),
    /// The holder said why it could not.
    #[error("{text}")]
    Holder {
        /// What it said.
        text: String,
        /// Whether trying again can help.
        retry: bool,
    },
}

impl SnapshotError {
    /// Whether trying again can help.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            SnapshotError::Source(error) => error.class(),
            SnapshotError::Catalog(error) => error.class(),
            SnapshotError::Holder { retry: true, .. }
            | SnapshotError::Renamed { .. }
            | SnapshotError::Died => Class::Retry,
            SnapshotError::Gone
            | SnapshotError::SlotExists { .. }
            | SnapshotError::Copy { .. }
            | SnapshotError::Cut { .. }
            | SnapshotError::SlotTimeout { .. }
            | SnapshotError::NoTemporarySlot { .. }
            | SnapshotError::Changed { .. }
            | SnapshotError::Spawn { .. }
            | SnapshotError::HolderEnded(_)
            | SnapshotError::Holder { retry: false, .. } => Class::Halt,
        }
    }
}

/// What PostgreSQL's refusal means that makes a slot which exists.
fn exists(error: SourceError, slot: &crate::source::wal::SlotName) -> SnapshotError {
    match error.sqlstate() {
        Some("42710") => SnapshotError::SlotExists { slot: slot.as_str().to_owned() },
        _ => error.into(),
    }
}

/// Settings of every session of the load beside the pinned ones: nothing times out, rows
/// are seen whole or not at all, and a range is read in the order of its blocks each time.
const SETTINGS: [(&str, &str); 12] = [
    ("search_path", "pg_catalog"),
    ("row_security", "off"),
    ("synchronize_seqscans", "off"),
    ("max_parallel_workers_per_gather", "0"),
    ("enable_indexscan", "off"),
    ("enable_indexonlyscan", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
];

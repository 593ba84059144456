//! `pg-bootstrap-sync`: the rows of a dump file through the chain into the bootstrap
//! stream. Beside [`crate::load`], which does the same from the database itself.
//!
//! It talks to Redis alone: the tables come from the stored catalogue, and whether it may
//! load from the stored state. Each batch is published together with its place in the
//! file, so that whatever ends this program, the next run goes on behind the last batch.
//!
//! What can go wrong: the moment ([`Refusal`]), the chain ([`ChainError`]), the file
//! ([`DumpError`]), another loader or a Redis that is gone ([`SinkError`]).

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::config::Errors;
use crate::error::Class;
use crate::position::Epoch;
use crate::sink::SinkError;
use crate::sink::status::Status;
use crate::source::dump::{DumpError, Input, MarkError, Options, Report};
use crate::transform::TransformError;

mod admit;
mod chain;
pub mod owner;
mod progress;
mod run;
mod watch;

pub use admit::Refusal;
pub use chain::{ChainError, Recipe};
pub use progress::{DUMP_FIELDS, PAUSED_FIELD, Stored};
pub use run::run;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Job {
    /// Configuration and chain.
    pub recipe: Recipe,
    /// The dump.
    pub input: Input,
    /// How it is read.
    pub options: Options,
    /// Read and pass everything through the chain, publish nothing.
    pub dry_run: bool,
    /// What the writer tells while it works: why it waits, above all.
    pub status: Status,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Epoch that is loaded into.
    pub epoch: u64,
    /// Rows read of the file, by earlier runs too.
    pub rows: u64,
    /// Entries in the bootstrap stream; with a dry run, rows that the chain kept.
    pub entries: u64,
    /// Bytes read of the file.
    pub bytes: u64,
    /// Its size; 0 if that is not known.
    pub total: u64,
    /// The table at hand.
    pub table: String,
    /// Schema statements that were skipped.
    pub ddl: u64,
    /// Sequence positions that were skipped.
    pub sequences: u64,
    /// Rows of an earlier run, behind which it goes on.
    pub resumed: Option<u64>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Everything is published, durably, and the engine will know.
    Loaded(Report),
    /// An earlier run had published everything.
    Already(Stored),
    /// A dry run came to the end of the file.
    Dry(Report),
    /// It was asked to end; the next run goes on here.
    Stopped,
}

/// Why a dump was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The moment is wrong.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The chain is wrong.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The configuration is.
    #[error(transparent)]
    Config(#[from] Errors),
    /// The file, or what stands in it.
    #[error("the dump: {0}")]
    Dump(#[from] DumpError),
    /// The place in the file that was stored.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// A plugin, or a rule.
    #[error("the plugin chain: {0}")]
    Transform(Box<TransformError>),
    /// Redis.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// Another loader is at work.
    #[error(
        "pg-bootstrap-sync refused: another loader writes this epoch ({owner}; its turn lasts {} s \
         more unless it goes on). Two at once would mix their rows: wait for it, or end it",
        remaining_ms.div_ceil(1000)
    )]
    Busy {
        /// Who.
        owner: String,
        /// For how long.
        remaining_ms: u64,
    },
    /// The load was begun with another file.
    #[error(
        "pg-bootstrap-sync refused: the load of {epoch} was begun from another dump ({began}), this \
         one is {now}; a part of each would be neither. Give it the first one, or `kasho reset` and \
         a new bootstrap"
    )]
    OtherFile {
        /// The epoch.
        epoch: Epoch,
        /// Identity of the file that it was begun with.
        began: String,
        /// Identity of this one.
        now: String,
    },
    /// The load was begun with other options.
    #[error(
        "pg-bootstrap-sync refused: the load of {epoch} was begun with other options ({began}; now \
         {now}). Give it the same, or `kasho reset` and a new bootstrap"
    )]
    OtherOptions {
        /// The epoch.
        epoch: Epoch,
        /// As stored.
        began: String,
        /// As asked for.
        now: String,
    },
    /// The bootstrap ended under the load.
    #[error(
        "the bootstrap has ended while the dump was being loaded: the state is {state} now{}. What was \
         published belongs to an epoch that nobody reads any more",
        epoch.map(|epoch| format!(" (epoch {})", epoch.0)).unwrap_or_default()
    )]
    Ended {
        /// The state.
        state: String,
        /// Its epoch.
        epoch: Option<Epoch>,
    },
    /// Bugs only.
    #[error("{0}; this is a bug of Kasho, please report it")]
    Internal(&'static str),
    /// The system.
    #[error("no random numbers for a writer's token: {0}")]
    Random(#[from] getrandom::Error),
}

impl From<TransformError> for SyncError {
    fn from(error: TransformError) -> SyncError {
        SyncError::Transform(Box::new(error))
    }
}

impl SyncError {
    /// Whether trying again can help, without a person.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            SyncError::Sink(error) => error.class(),
            SyncError::Dump(error) => error.class(),
            _ => Class::Halt,
        }
    }
}

impl Job {
    /// What decides which rows are taken: a load that goes on has to take the same.
    fn options(&self) -> String {
        let Options { all_tables, max_rows, unknown, large_objects, .. } = &self.options;
        let rows = max_rows.map_or("all".to_owned(), |n| n.to_string());
        format!(
            "rows per table {rows}, all tables {all_tables}, unknown {unknown:?}, large objects \
             {large_objects:?}"
        )
        .to_lowercase()
    }

    /// The file, if it is one.
    fn file(&self) -> Option<&PathBuf> {
        match &self.input {
            Input::File(path) => Some(path),
            Input::Stdin => None,
        }
    }
}

/// Where a run tells how far it is.
type Watch = tokio::sync::watch::Sender<Figures>;

/// What asks a run to end.
type Stop = CancellationToken;

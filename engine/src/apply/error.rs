//! What can end or refuse the applier, and whether trying again can help.
//!
//! What can go wrong here is saying too much: PostgreSQL's message and DETAIL quote rows.
//! Of an error that a row may have caused only the SQLSTATE and the names of table, column
//! and constraint are kept, with words of our own for what it means.

use crate::error::Class;
use crate::position::{Epoch, EpochPosition};
use crate::reader::ReaderError;
use crate::sink::SinkError;
use crate::sink::store::StoreError;
use crate::source::error::{ServerError, SourceError};

/// Why applying ended.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// `[apply]` says too little.
    #[error("apply.target is not set: name the database that is to be filled")]
    NoTarget,
    /// Reading the streams.
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// What comes next was trimmed while it was read: somebody else has acknowledged it. Worth
    /// another attempt, and no more than one: either somebody else has the lock then, or, where
    /// a ceiling has cut, what the target has lies before the cut, too, and the next attempt ends
    /// with [`ReaderError::OutOfRange`] before it reads anything.
    #[error("{0}; another applier of this consumer may have taken over")]
    Overtaken(ReaderError),
    /// Registering, acknowledging.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// Redis.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No session, or a statement of our own that touches no row.
    #[error("target: {0}")]
    Session(#[from] SourceError),
    /// The listener of metrics.
    #[error(transparent)]
    Http(#[from] crate::http::HttpError),
    /// The target refused a row.
    #[error("target: {doing} at {at}: {server}: {meaning}", meaning = meaning(&server.sqlstate))]
    Row {
        /// The statement's kind and table.
        doing: String,
        /// The first entry concerned.
        at: EpochPosition,
        /// What it said, without anything of the row.
        server: Box<ServerError>,
    },
    /// The connection to the target ended.
    #[error("target: the connection ended: {doing}")]
    Lost {
        /// What was under way.
        doing: String,
    },
    /// Somebody else applies under this name.
    #[error(
        "another applier has taken over as consumer {consumer:?}: this one has changed nothing \
         since, and ends. One is enough; a second waits as its standby"
    )]
    Fenced {
        /// The name.
        consumer: String,
    },
    /// The target is not what the source was.
    #[error(
        "conflict at {at}: {verb} of {wanted} row(s) of {table} found {found}. The target was \
         changed by something else, or was not filled by this load. Mend it, or set \
         apply.conflict to \"upsert\" or \"skip\""
    )]
    Conflict {
        /// The first entry concerned.
        at: EpochPosition,
        /// The table.
        table: String,
        /// Insert, update, delete.
        verb: &'static str,
        /// Rows meant.
        wanted: u64,
        /// Rows changed.
        found: u64,
    },
    /// The target lacks a table.
    #[error(
        "the target has no table {table}, which {at} is about. Make it: pg_dump \
         --section=pre-data of the source into the target, or by hand; then start again"
    )]
    MissingTable {
        /// The table.
        table: String,
        /// The entry.
        at: EpochPosition,
    },
    /// The target lacks a table that it has had.
    #[error(
        "the target has no table {table} any more, which {at} is about and which this consumer \
         has filled: it was renamed, moved or dropped in the target itself, and such a change is \
         not followed. Give it its name back (ALTER TABLE … RENAME TO …, SET SCHEMA …), or make \
         that change at the source; if it is gone, make it (pg_dump --section=pre-data of the \
         source) and load it again (kasho bootstrap --table {table}); then start again"
    )]
    Vanished {
        /// The table.
        table: String,
        /// The entry.
        at: EpochPosition,
    },
    /// The target lacks a column.
    #[error(
        "table {table} of the target has no column {column:?}, which {at} is about: ALTER TABLE \
         {table} ADD COLUMN …; then start again"
    )]
    MissingColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The entry.
        at: EpochPosition,
    },
    /// The role may not write.
    #[error(
        "role {role:?} of the target may not {lacks} {table}: GRANT SELECT, INSERT, UPDATE, \
         DELETE, TRUNCATE ON {table} TO {quoted}; then start again"
    )]
    Privilege {
        /// The role.
        role: String,
        /// The same as SQL writes it.
        quoted: String,
        /// The table.
        table: String,
        /// What is missing.
        lacks: String,
    },
    /// Rows that nobody of us has written.
    #[error(
        "table {table} of the target has rows already, and this consumer has never filled it: \
         TRUNCATE it, if they may go; then start again"
    )]
    NotEmpty {
        /// The table.
        table: String,
    },
    /// Anything else that a person has to mend; the text says what.
    #[error("{0}")]
    Refused(String),
    /// The target is of a later bootstrap than Redis.
    #[error(
        "the target holds epoch {target}, Redis is at {redis}: Redis has lost its data or is \
         another one. Name the right one, or empty the target and DELETE FROM kasho.applied"
    )]
    Older {
        /// Of the target.
        target: Epoch,
        /// Of Redis.
        redis: Epoch,
    },
}

impl ApplyError {
    /// An error of a statement about rows.
    pub(super) fn row(doing: &str, at: EpochPosition, error: &tokio_postgres::Error) -> ApplyError {
        match error.as_db_error() {
            Some(db) => ApplyError::Row {
                doing: doing.to_owned(),
                at,
                server: Box::new(ServerError::without_words(db)),
            },
            None => ApplyError::Lost { doing: doing.to_owned() },
        }
    }

    /// An error of a statement of our own that no row can have caused.
    pub(super) fn sql(doing: &str, error: &tokio_postgres::Error) -> ApplyError {
        match error.as_db_error() {
            Some(_) => ApplyError::Session(SourceError::sql(doing, error)),
            None => ApplyError::Lost { doing: doing.to_owned() },
        }
    }

    /// Whether trying again can help.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            ApplyError::Reader(ReaderError::Store(error)) | ApplyError::Store(error) => {
                error.class()
            }
            // A new bootstrap: it begins anew.
            ApplyError::Reader(ReaderError::OtherEpoch { .. })
            | ApplyError::Overtaken(_)
            | ApplyError::Lost { .. } => Class::Retry,
            ApplyError::Sink(error) => error.class(),
            ApplyError::Session(error) => error.class(),
            ApplyError::Row { server, .. } => server.class(),
            _ => Class::Halt,
        }
    }
}

/// What an error means for whoever looks after the target.
pub(super) fn meaning(sqlstate: &str) -> &'static str {
    match sqlstate {
        "23505" => {
            "a row with such a key is there already: the target was changed by something else, \
             or a mask makes two values one"
        }
        "23503" => "a foreign key is not met",
        "23502" => "a column of the target must not be NULL",
        "23514" => "a check of the target is not met, or no partition takes the row",
        "23P01" => "an exclusion constraint is not met",
        "22012" => "a trigger or a check of the target divides by zero",
        "22001" | "22003" => "a value does not fit into the target's column",
        "22P02" | "22007" | "22008" | "22P03" => {
            "a value is none of the column's type: the target's column has another type"
        }
        "428C9" => {
            "the column is GENERATED ALWAYS in the target: ALTER TABLE … ALTER COLUMN … SET \
             GENERATED BY DEFAULT"
        }
        "42501" => "the target's role may not do that: GRANT it",
        "42P01" | "42703" | "42704" | "42883" => {
            "the target lacks a table, a column, a type or a function"
        }
        "0A000" => "the target's table does not support that (row level security, a view?)",
        "25P02" => "a statement before it failed",
        "40001" | "40P01" => "it lost against another session of the target",
        state if state.starts_with("57") || state.starts_with("08") => "the target is stopping",
        state if state.starts_with("53") => "the target is short of memory, disk or connections",
        _ => "see the PostgreSQL manual, appendix A, and the target's own log",
    }
}

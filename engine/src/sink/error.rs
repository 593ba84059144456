//! What can end a publisher, a loader's writer, or a command about consumers. Each
//! message says what was found and what to do; none holds a value of a row.

use super::entry::{DecodeError, EncodeError};
use super::id::{Id, Lane};
use super::store::StoreError;
use crate::error::Class;
use crate::position::{Lsn, Position};

/// An error of the sink.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The server, or the way to it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another writer took over. This one changed nothing after that.
    #[error(
        "another writer has taken over the {lane} stream (writer {writer:?}, epoch {epoch}): this \
         process stops publishing. Run one engine for one slot and one redis.prefix",
        lane = lane.name()
    )]
    Fenced {
        /// The stream.
        lane: Lane,
        /// The token found.
        writer: String,
        /// The epoch found.
        epoch: String,
    },
    /// Another writer took over while this one was about to. It changed nothing.
    #[error(
        "another writer has taken over the changes stream (writer {writer:?}, epoch {epoch}) since \
         this process looked, so the slot is no longer ours: it is asked for again"
    )]
    Overtaken {
        /// The token found.
        writer: String,
        /// The epoch found.
        epoch: String,
    },
    /// What has to be stored before a batch is published is not yet.
    #[error(
        "a schema change is not published before the tables that it concerns are noted, and that \
         cannot be done yet: {why}"
    )]
    Unnoted {
        /// What is missing.
        why: String,
    },
    /// Stream or checkpoint do not end where this writer left them.
    #[error(
        "the {lane} stream ends at {top} and its checkpoint at {last}, but this writer left both at \
         {expected}: reading again what is there",
        lane = lane.name()
    )]
    Moved {
        /// The stream.
        lane: Lane,
        /// Its last id.
        top: String,
        /// The checkpoint's.
        last: String,
        /// This writer's.
        expected: Id,
    },
    /// Redis holds less than PostgreSQL was told it holds, or something else.
    #[error(
        "Redis lost data (or was swapped): {found}. Either bootstrap again (`kasho reset`, then \
         `kasho bootstrap`), or accept the gap (`kasho run --accept-gap`)"
    )]
    LostData {
        /// What does not fit.
        found: String,
    },
    /// The checkpoint is another server's or another slot's.
    #[error(
        "the checkpoint in Redis belongs to {what} {stored}, this is {what} {found}: set redis.prefix \
         to keep them apart, or bootstrap again (`kasho reset`, then `kasho bootstrap`)"
    )]
    ForeignCheckpoint {
        /// "slot" or "system".
        what: &'static str,
        /// As stored.
        stored: String,
        /// As configured.
        found: String,
    },
    /// A promoted standby that had not received everything that was published.
    #[error(
        "Redis holds {transactions} transaction(s) that this server never had: it was promoted at \
         {switch} (end of timeline {timeline}), and {reached} is published. Bootstrap again (`kasho \
         reset`, then `kasho bootstrap`)"
    )]
    Promoted {
        /// How many; counting ends at 10,000.
        transactions: u64,
        /// Where the timelines part.
        switch: Lsn,
        /// The timeline that ended there.
        timeline: u32,
        /// What was published or confirmed.
        reached: Lsn,
    },
    /// No history for the way from the stored timeline to this one.
    #[error(
        "the server is on timeline {found}, the checkpoint on {stored}, and the server's history \
         does not connect them: this is not a successor of the server that was being copied"
    )]
    NoHistory {
        /// The server's.
        found: u32,
        /// The checkpoint's.
        stored: u32,
    },
    /// Redis may delete what we published.
    #[error(
        "Redis evicts keys (maxmemory-policy {policy}), so published changes could vanish without \
         an error: CONFIG SET maxmemory-policy noeviction"
    )]
    Evicting {
        /// The policy.
        policy: String,
    },
    /// A row could not be written.
    #[error("at {position}: {error}")]
    Encode {
        /// The row.
        position: Position,
        /// Why.
        error: EncodeError,
    },
    /// A stored entry could not be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A row is larger than Redis takes.
    #[error(
        "the row at {position} of {table} takes {bytes} bytes, and Redis takes {limit} at most: raise \
         proto-max-bulk-len in Redis, or leave out a column by the publication's column list"
    )]
    TooLarge {
        /// The row.
        position: Position,
        /// Its table.
        table: String,
        /// Its size.
        bytes: u64,
        /// What Redis takes.
        limit: u64,
    },
    /// Rows came out of order: a bug, never mended by guessing.
    #[error(
        "the row at {position} does not come after {after}, which is published: rows are out of order. \
         This is a bug of Kasho; please report it"
    )]
    Disorder {
        /// The row.
        position: Position,
        /// What stands before it.
        after: Position,
    },
    /// A transaction would have passed through two chain generations.
    #[error(
        "the transaction at {position} began in generation {began} and goes on in generation {now}. \
         This is a bug of Kasho; please report it"
    )]
    TwoGenerations {
        /// Where.
        position: Position,
        /// At its start.
        began: u64,
        /// Now.
        now: u64,
    },
    /// Of one transaction more rows fail than may be set aside at all.
    #[error(
        "of the transaction at {lsn} more than {limit} rows fail in a plugin with on_error = \
         \"dead_letter\", and nothing of it is published: raise redis.dead_letters, or mend the rule \
         that they fail on"
    )]
    TooManyLetters {
        /// Its commit.
        lsn: Lsn,
        /// The limit.
        limit: u64,
    },
    /// The sink was used after an error, or after a call was cancelled in the middle.
    #[error("this sink has ended; open it again")]
    Spent,
    /// Another loader has the turn.
    #[error(
        "the load is being written by {owner:?} (for {remaining_ms} ms more unless it goes on): only \
         one loader may write at a time"
    )]
    Leased {
        /// Who.
        owner: String,
        /// For how long.
        remaining_ms: u64,
    },
    /// The stored phase is not the one that was read.
    #[error("the stored state has changed meanwhile; read it again")]
    OtherState,
    /// Words about consumers.
    #[error("{0}")]
    Consumer(String),
}

impl SinkError {
    /// Whether trying again can help.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            SinkError::Store(error) => error.class(),
            SinkError::Moved { .. }
            | SinkError::Unnoted { .. }
            | SinkError::Overtaken { .. }
            | SinkError::Spent
            | SinkError::Leased { .. }
            | SinkError::OtherState => Class::Retry,
            _ => Class::Halt,
        }
    }
}

impl crate::pipeline::Classified for SinkError {
    fn class(&self) -> Class {
        SinkError::class(self)
    }
}

impl StoreError {
    /// Whether trying again can help. A refusal for want of rights or of a setting does
    /// not heal by itself; everything that a restart or a fail-over mends does.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            StoreError::Unknown(_)
            | StoreError::Oom
            | StoreError::ReadOnly
            | StoreError::NotNow(_)
            | StoreError::NotDurable { .. } => Class::Retry,
            StoreError::WrongType { .. }
            | StoreError::Denied(_)
            | StoreError::Unsupported(_)
            | StoreError::Corrupt(_)
            | StoreError::Refused(_) => Class::Halt,
        }
    }
}

//! Where rows come from. A source hands out batches in commit order and is told what
//! has become durable; it never learns what happens to them in between.
//!
//! Two implementations: [`wal`] reads a replication slot, [`memory`] replays a script
//! for simulation and benchmarks. Both pass the same contract test.

mod assemble;
pub mod catalog;
pub mod config;
pub mod conninfo;
pub mod copy;
pub mod dump;
pub mod error;
pub mod indexes;
pub mod marks;
pub mod memory;
pub mod preflight;
pub mod retries;
pub mod snapshot;
mod sockopt;
pub mod wal;

pub use crate::batch::{MESSAGE_RELATION_ID, message_relation};
pub use assemble::{HEARTBEAT_PREFIX, Limits, RELOAD_PREFIX, RETRY_PREFIX};
pub use error::{ServerError, SourceError};

use crate::ack::Durable;
use crate::batch::Batch;
use crate::position::Lsn;

/// What a source has to say next.
#[derive(Debug)]
pub enum Received {
    /// Rows, or the ends of transactions without published rows.
    Batch(Batch),
    /// Nothing is on its way, and the server's log has reached `wal_end`: everything up
    /// to there may be acknowledged as soon as everything handed out is durable.
    Idle {
        /// End of the server's log as of this message.
        wal_end: Lsn,
    },
    /// The server ended the stream in good order (it is shutting down).
    Closed,
}

/// A supplier of change events.
pub trait Source: Send {
    /// What can end it.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The next batch, as soon as there is anything: never waits to fill one.
    ///
    /// Cancel-safe: dropping the future loses nothing.
    fn next(&mut self) -> impl Future<Output = Result<Received, Self::Error>> + Send;

    /// Tells the server that it need not keep its log up to here.
    fn acknowledge(&mut self, durable: Durable);

    /// Ends in good order: waits, not for long, until the server has heard of what was
    /// acknowledged last. A source that is dropped instead may not tell it any more.
    fn close(self) -> impl Future<Output = ()> + Send
    where
        Self: Sized,
    {
        async move { drop(self) }
    }
}

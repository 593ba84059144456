//! Where rows go. A sink appends a batch and moves its checkpoint in one atomic step,
//! or changes nothing and says why.
//!
//! [`publisher`] holds every rule of publishing and writes to a [`store`], of which there
//! are two: [`redis`] and [`memory`], which has the same semantics of scripts, refused
//! ids, out-of-memory and lost replies, and passes the same [`contract`].

pub mod config;
pub mod consumers;
#[doc(hidden)]
pub mod contract;
pub mod dead;
pub mod entry;
pub mod error;
pub mod id;
pub mod load;
pub mod memory;
pub mod publisher;
pub mod redis;
pub mod runs;
pub mod status;
pub mod store;

pub(crate) mod budget;

pub use error::SinkError;

use crate::batch::Batch;
use crate::position::Lsn;

/// A destination of change events, held by exactly one writer.
pub trait Sink: Send {
    /// What can end it.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Appends every row that the chain kept, in order, and moves the checkpoint past
    /// the batch's ended transactions, in one atomic step. Waits while the sink is full.
    /// `generation` is the chain's; `confirmed` is what PostgreSQL may be told once this
    /// call has returned and [`Sink::flush`] has too.
    ///
    /// # Errors
    /// Fenced (another writer took over), moved (the stream is not as this writer left
    /// it), unreachable. After any error the sink is spent: open it again.
    fn publish(
        &mut self,
        batch: Batch,
        generation: u64,
        confirmed: Lsn,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Moves only the checkpoint: position and confirmed LSN of an idle stream.
    ///
    /// # Errors
    /// As [`Sink::publish`].
    fn confirm(
        &mut self,
        position: Lsn,
        confirmed: Lsn,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Returns when everything published so far is as durable as configured.
    ///
    /// # Errors
    /// As [`Sink::publish`]; or the configured durability cannot be had.
    fn flush(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

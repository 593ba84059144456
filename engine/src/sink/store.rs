//! What the publisher asks of a server, one method a script or command, and the words
//! both sides use. No rule of publishing is decided here: a store does exactly one
//! atomic step and says how it ended.
//!
//! Two implementations: [`super::redis::RedisStore`] and [`super::memory::MemoryStore`].
//! Both pass [`super::contract`]. After an error of class *unknown* a store is spent:
//! nothing below the publisher reconnects or sends a second time.

use std::collections::HashMap;
use std::time::Duration;

use super::entry::RawEntry;
use super::id::{Id, Lane};
use crate::position::Epoch;
use crate::sink::config::Durability;

pub use words::*;

/// Under this name [`Registry::progress`] tells when the loader's turn ends, milliseconds of
/// the server's clock.
pub const LEASE_UNTIL: &str = "lease.until";

mod words;

/// Why a step was not done, or may have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The connection ended or a reply did not come in time: the step may have been done.
    #[error("the connection to Redis failed: {0}")]
    Unknown(String),
    /// Refused before anything was written: the memory limit is reached.
    #[error("Redis is out of memory (OOM)")]
    Oom,
    /// Refused: the server is a replica, or was demoted to one.
    #[error("Redis is a read-only replica; name the primary in redis.url")]
    ReadOnly,
    /// Refused for a time: loading its data, failing over, cannot write its snapshot.
    #[error("Redis refuses for now: {0}")]
    NotNow(String),
    /// A key of ours holds something else.
    #[error(
        "the Redis key \"{key}\" is a {found}, expected a {expected}: something else uses this name. \
         Delete or rename it, or set redis.prefix"
    )]
    WrongType {
        /// The key.
        key: String,
        /// Its type.
        found: String,
        /// The type it must have.
        expected: &'static str,
    },
    /// The user's ACL forbids it, or the password is wrong.
    #[error("Redis denies access ({0}); see redis.url and the user's ACL")]
    Denied(String),
    /// Redis cannot do what the configuration asks.
    #[error("{0}")]
    Unsupported(String),
    /// A durability wait ended without enough copies.
    #[error("{reached} of {wanted} copies were confirmed within {timeout_ms} ms")]
    NotDurable {
        /// Copies that confirmed.
        reached: u64,
        /// Copies asked for.
        wanted: u64,
        /// The wait.
        timeout_ms: u64,
    },
    /// Redis holds something under our keys that we did not write.
    #[error("{0}")]
    Corrupt(String),
    /// Any other refusal: the error's code, never its text, which may quote arguments.
    #[error("Redis refused the command: {0}")]
    Refused(String),
}

/// Ids must rise from the guard's: a script that met a refused id half way would leave
/// half a batch. Every implementation asks this before it sends anything.
pub(crate) fn in_order(guard: &Guard, entries: &[NewEntry<'_>]) -> Result<(), StoreError> {
    let mut last = guard.last;
    for entry in entries {
        if entry.id <= last {
            let text = format!("id {} does not come after {last}; nothing was written", entry.id);
            return Err(StoreError::Refused(text));
        }
        last = entry.id;
    }
    Ok(())
}

/// The writers' side.
pub trait Store: Send {
    /// Version, policy, role, limits.
    fn server(&mut self) -> impl Future<Output = Result<Server, StoreError>> + Send;

    /// Checkpoint and last ids in one step; a key of a wrong type is an error.
    fn inspect(&mut self) -> impl Future<Output = Result<Inspection, StoreError>> + Send;

    /// Starts an epoch.
    fn begin(
        &mut self,
        begin: &Begin<'_>,
    ) -> impl Future<Output = Result<Begun, StoreError>> + Send;

    /// Takes over as writer of the changes stream, if everything is as it was read.
    fn fence(&mut self, fence: &Fence) -> impl Future<Output = Result<Answer, StoreError>> + Send;

    /// Appends to the changes stream and moves the checkpoint. Without entries it
    /// succeeds above the memory limit too.
    fn append(
        &mut self,
        guard: &Guard,
        append: &Append<'_>,
    ) -> impl Future<Output = Result<Answer, StoreError>> + Send;

    /// Takes, or takes again, the loader's turn for `owner` with the token `writer`.
    fn lease(
        &mut self,
        epoch: Epoch,
        owner: &str,
        writer: &str,
        lease: Duration,
    ) -> impl Future<Output = Result<Leased, StoreError>> + Send;

    /// Appends to the bootstrap stream, stores progress, and renews the lease.
    fn load(
        &mut self,
        guard: &Guard,
        load: &Load<'_>,
    ) -> impl Future<Output = Result<Answer, StoreError>> + Send;

    /// Ends the load and the lease.
    fn finish(
        &mut self,
        guard: &Guard,
        finish: &Finish<'_>,
    ) -> impl Future<Output = Result<Finished, StoreError>> + Send;

    /// Gives up the lease of `writer`, if it still has it.
    fn release(
        &mut self,
        epoch: Epoch,
        writer: &str,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Waits until every earlier write of this connection is as durable as asked.
    fn durable(
        &mut self,
        durability: Durability,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Samples memory.
    fn usage(&mut self, epoch: Epoch) -> impl Future<Output = Result<Usage, StoreError>> + Send;

    /// Trims; answers how many entries went.
    fn trim(&mut self, trim: Trim) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Deletes the streams of an epoch that is not the current one.
    fn discard(&mut self, epoch: Epoch) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// The phase, the catalogue, and who consumes.
pub trait Registry: Send {
    /// The stored phase.
    fn state(&mut self) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send;

    /// Stores a phase if `old` is found; answers whether it was.
    fn swap_state(
        &mut self,
        old: Option<&[u8]>,
        new: &[u8],
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// The stored catalogue.
    fn catalog(&mut self) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send;

    /// Stores the catalogue.
    fn set_catalog(
        &mut self,
        catalog: &[u8],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// What generations of the chain mask, as it was stored.
    fn coverage(&mut self) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send;

    /// Stores that if `old` is found, above the memory limit too; answers whether it was.
    fn swap_coverage(
        &mut self,
        old: Option<&[u8]>,
        new: &[u8],
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Dead letters strictly after `after`, oldest first, not more than `most`.
    fn letters(
        &mut self,
        after: Id,
        most: usize,
    ) -> impl Future<Output = Result<Vec<(Id, Vec<u8>)>, StoreError>> + Send;

    /// Removes dead letters; answers how many there were.
    fn forget(&mut self, letters: &[Id]) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// What the loader of an epoch has stored with its rows, for those who only look, and
    /// [`LEASE_UNTIL`].
    fn progress(
        &mut self,
        epoch: Epoch,
    ) -> impl Future<Output = Result<HashMap<String, String>, StoreError>> + Send;

    /// Registers a consumer; answers whether it is new.
    fn add_consumer(&mut self, name: &str)
    -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Forgets a consumer; answers whether there was one.
    fn remove_consumer(
        &mut self,
        name: &str,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Every registered consumer, by name.
    fn consumers(&mut self) -> impl Future<Output = Result<Vec<Consumer>, StoreError>> + Send;

    /// Stores that a consumer has everything through `id`; never goes back.
    fn acknowledge(
        &mut self,
        name: &str,
        epoch: Epoch,
        lane: Lane,
        id: Id,
    ) -> impl Future<Output = Result<Acked, StoreError>> + Send;
}

/// The readers' side.
pub trait Feed: Send {
    /// Entries strictly after `after`, and not more than `most`, but one if there is one. Only an
    /// empty page says that there are no more.
    fn page(
        &mut self,
        epoch: Epoch,
        lane: Lane,
        after: Id,
        most: impl Into<Most> + Send,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Returns as soon as the stream has an entry after `after` or the next epoch its first row,
    /// or after `timeout`.
    /// Holds up its connection meanwhile: a reader has one of its own.
    fn wait(
        &mut self,
        epoch: Epoch,
        lane: Lane,
        after: Id,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The newest entry at or before `through`.
    fn before(
        &mut self,
        epoch: Epoch,
        lane: Lane,
        through: Id,
    ) -> impl Future<Output = Result<Option<RawEntry>, StoreError>> + Send;
}

/// All three sides.
pub trait Backend: Store + Registry + Feed {}

impl<T: Store + Registry + Feed> Backend for T {}

/// Makes stores: the only way to go on after a connection failed.
pub trait Connect: Send + Sync {
    /// What it makes.
    type Store: Backend + 'static;

    /// A new connection, ready for use.
    fn connect(&self) -> impl Future<Output = Result<Self::Store, StoreError>> + Send;
}

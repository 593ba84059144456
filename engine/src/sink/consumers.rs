//! Consumers by name: registering, listing with their lag, acknowledging by position.
//!
//! What can go wrong: a name that no key could carry, a position of another epoch, a
//! consumer that nobody registered.

use super::error::SinkError;
use super::id::{Id, Lane};
use super::store::{Acked, Backend, Consumer, Registry};
use crate::position::{Epoch, Lsn, Position};

/// Longest name, bytes.
const NAME_BYTES: usize = 64;

/// A consumer and how far it is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    /// The consumer.
    pub consumer: Consumer,
    /// Through here it has acknowledged.
    pub position: Position,
    /// Bytes of WAL between that and the newest change; `None` while it reads the load.
    pub wal_bytes: Option<u64>,
    /// Entries of the load that it has not acknowledged; 0 once it reads changes.
    pub load_entries: u64,
}

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// There was none of that name.
    pub new: bool,
    /// Everything through here was trimmed before: the consumer has to have it by other
    /// means, or cannot begin.
    pub behind: Option<Position>,
}

/// Registers `name`; from now on nothing is trimmed that it has not acknowledged.
///
/// # Errors
/// A name with anything but ASCII letters, digits, `-`, `_` and `.`; the server's errors.
pub async fn add<S: Backend>(store: &mut S, name: &str) -> Result<Added, SinkError> {
    check_name(name)?;
    let new = store.add_consumer(name).await?;
    // Looked at after it is registered: from then on nothing goes that it lacks.
    let checkpoint = store.inspect().await?.checkpoint;
    let behind = checkpoint.filter(|_| new).and_then(|checkpoint| {
        let lanes =
            [(checkpoint.trim, Lane::Changes), (checkpoint.trim_bootstrap, Lane::Bootstrap)];
        lanes.into_iter().find(|(id, _)| *id > Id::ZERO).map(|(id, lane)| id.position(lane))
    });
    Ok(Added { new, behind })
}

/// Forgets `name`.
///
/// # Errors
/// There is none of that name; the server's errors.
pub async fn remove<S: Registry>(store: &mut S, name: &str) -> Result<(), SinkError> {
    check_name(name)?;
    match store.remove_consumer(name).await? {
        true => Ok(()),
        false => Err(unknown(name)),
    }
}

/// Every consumer with its lag.
///
/// # Errors
/// The server's errors.
pub async fn list<S: Backend>(store: &mut S) -> Result<Vec<Lag>, SinkError> {
    let found = store.inspect().await?;
    let (newest, load) = (found.changes.high, found.bootstrap.high);
    let lag = |consumer: Consumer| {
        let reads_changes = consumer.changes > Id::ZERO;
        let (lane, id) = match reads_changes {
            true => (Lane::Changes, consumer.changes),
            false => (Lane::Bootstrap, consumer.bootstrap),
        };
        Lag {
            position: id.position(lane),
            wal_bytes: reads_changes.then(|| Lsn(newest).since(Lsn(consumer.changes.high))),
            load_entries: match reads_changes {
                true => 0,
                false => load.saturating_sub(consumer.bootstrap.high),
            },
            consumer,
        }
    };
    Ok(store.consumers().await?.into_iter().map(lag).collect())
}

/// Stores that `name` has everything through `position`; never goes back.
///
/// # Errors
/// It is not registered, or the epoch is not the current one; the server's errors.
pub async fn acknowledge<S: Registry>(
    store: &mut S,
    name: &str,
    epoch: Epoch,
    position: Position,
) -> Result<(), SinkError> {
    check_name(name)?;
    let lane = match position {
        Position::Bootstrap(_) => Lane::Bootstrap,
        Position::Wal { .. } => Lane::Changes,
    };
    match store.acknowledge(name, epoch, lane, Id::of(position)).await? {
        Acked::Done => Ok(()),
        Acked::Unregistered => Err(unknown(name)),
        Acked::OtherEpoch => Err(SinkError::Consumer(format!(
            "{epoch}:{position} is of another epoch than the current one: begin again at \
             \"bootstrap\""
        ))),
    }
}

/// Whether a consumer may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !name.is_empty() && name.len() <= NAME_BYTES && name.bytes().all(valid)
}

fn check_name(name: &str) -> Result<(), SinkError> {
    if is_name(name) {
        return Ok(());
    }
    Err(SinkError::Consumer(format!(
        "{name:?} cannot be a consumer's name: 1 to {NAME_BYTES} ASCII letters, digits, \"-\", \"_\", \".\""
    )))
}

fn unknown(name: &str) -> SinkError {
    SinkError::Consumer(format!(
        "no consumer {name:?} is registered: `kasho consumers list`, `kasho consumers add {name}`"
    ))
}

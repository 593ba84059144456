//! Why reading ended, and what to do then. Pure.
//!
//! What can go wrong here is nothing; each of these names a position, and no data.

use crate::position::{Epoch, EpochPosition, Lsn};
use crate::sink::entry::DecodeError;
use crate::sink::store::StoreError;

/// Why reading ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReaderError {
    /// The server, or the way to it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An entry that is not ours.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// What comes next was trimmed away.
    #[error(
        "what follows {asked} is no longer in Redis: the oldest position to go on from is {oldest}. \
         Register a consumer (`kasho consumers add`) so that nothing is trimmed before it is read"
    )]
    OutOfRange {
        /// The cursor.
        asked: EpochPosition,
        /// The oldest cursor that would do.
        oldest: EpochPosition,
    },
    /// The load does not come that far.
    #[error(
        "{asked} lies beyond {newest}, the newest row of the load: Redis has lost its latest data \
         since, and gives these numbers to other rows. A reader of its own begins again at \
         \"bootstrap\"; a target is filled again by kasho reset, then kasho bootstrap"
    )]
    Beyond {
        /// The cursor.
        asked: EpochPosition,
        /// The newest row's.
        newest: EpochPosition,
    },
    /// The position, or the reader, is of another bootstrap.
    #[error(
        "epoch {asked} is over, the current one is {current}: what was read belongs to another \
         bootstrap; begin again at \"bootstrap\""
    )]
    OtherEpoch {
        /// The reader's.
        asked: Epoch,
        /// The current one.
        current: Epoch,
    },
    /// There never was a bootstrap.
    #[error("there is nothing to read yet: no bootstrap was started (`kasho bootstrap`)")]
    NoEpoch,
    /// A transaction does not end.
    #[error(
        "the transaction at {torn} has no end before {next} begins: the stream was changed by \
         something other than Kasho. Bootstrap again"
    )]
    Torn {
        /// The transaction.
        torn: Lsn,
        /// What comes after.
        next: Lsn,
    },
}

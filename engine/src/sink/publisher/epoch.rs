//! The beginning of an epoch: its number, its checkpoint, the phase and the catalogue, in one
//! step. What can go wrong: phase or epoch were changed by somebody else meanwhile, or keys of
//! an epoch stand in Redis without their checkpoint.

use super::open::{WriterToken, before, check_server};
use crate::position::{Epoch, Lsn};
use crate::sink::config::Encoding;
use crate::sink::error::SinkError;
use crate::sink::id::Id;
use crate::sink::store::{Begin, Begun, Checkpoint, Registry, Store, StoreError};

/// Epoch numbers tried beyond the stored one before giving up.
const EPOCHS: u64 = 1_000;

/// What a new epoch starts with.
#[derive(Clone, Debug)]
pub struct NewEpoch<'a> {
    /// The slot.
    pub slot: &'a str,
    /// `IDENTIFY_SYSTEM`: systemid.
    pub system_id: &'a str,
    /// `IDENTIFY_SYSTEM`: timeline.
    pub timeline: u32,
    /// The slot's consistent point.
    pub start_lsn: Lsn,
    /// Digests of options, chain and keys.
    pub description: super::Description,
    /// How rows are written.
    pub encoding: Encoding,
    /// Rows that an entry of the load holds at most.
    pub load_rows: u64,
    /// The generation that is in use.
    pub generation: u64,
    /// The stored phase that must be found, and the one to store in the same step.
    pub state: Option<(Option<&'a [u8]>, &'a [u8])>,
    /// The catalogue to store in the same step.
    pub catalog: Option<&'a [u8]>,
}

/// Starts the epoch after the stored one: its checkpoint, the phase and the catalogue in
/// one step. The streams of the epoch before are deleted.
///
/// # Errors
/// [`SinkError::OtherState`] if phase or epoch changed meanwhile; the server's errors.
pub async fn begin_epoch<S: Store + Registry>(
    store: &mut S,
    new: &NewEpoch<'_>,
) -> Result<Epoch, SinkError> {
    begin_epoch_from(store, new, Epoch(1)).await
}

/// The same, not below `least`: a Redis that has lost its data does not know which epochs
/// there were.
///
/// # Errors
/// As [`begin_epoch`].
pub async fn begin_epoch_from<S: Store + Registry>(
    store: &mut S,
    new: &NewEpoch<'_>,
    least: Epoch,
) -> Result<Epoch, SinkError> {
    check_server(&store.server().await?)?;
    let stored = store.inspect().await?.checkpoint;
    let old = stored.as_ref().map(|checkpoint| checkpoint.epoch);
    let born = WriterToken::random().map(|token| token.after("")).map_err(|error| {
        let text = format!("the system gives no random bytes for the epoch's token: {error}");
        SinkError::from(StoreError::Unsupported(text))
    })?;
    let first = old.map_or(1, |epoch| epoch.0 + 1).max(least.0);
    for number in first..first + EPOCHS {
        let begin = Begin {
            epoch: Epoch(number),
            before: old,
            fields: new.checkpoint(Epoch(number), &born).fields(),
            state: new.state,
            catalog: new.catalog,
        };
        match store.begin(&begin).await? {
            Begun::Taken => {}
            Begun::Moved => return Err(SinkError::OtherState),
            Begun::Done => {
                if let Some(old) = old {
                    store.discard(old).await?;
                }
                return Ok(Epoch(number));
            }
        }
    }
    let found = format!("the keys of epochs {first} and after exist without their checkpoint");
    Err(SinkError::LostData { found })
}

impl NewEpoch<'_> {
    fn checkpoint(&self, epoch: Epoch, born: &str) -> Checkpoint {
        Checkpoint {
            epoch,
            born: born.to_owned(),
            // Nobody's token: the first writer raises it.
            writer: "0-0".to_owned(),
            last: Id::ZERO,
            position: before(self.start_lsn),
            confirmed: self.start_lsn,
            slot: self.slot.to_owned(),
            system_id: self.system_id.to_owned(),
            timeline: self.timeline,
            options: self.description.options.clone(),
            generation: self.generation,
            chain: self.description.chain.clone(),
            key_fingerprint: self.description.key_fingerprint.clone(),
            encoding: Some(self.encoding),
            load_rows: Some(self.load_rows),
            trim: Id::ZERO,
            trim_bootstrap: Id::ZERO,
            mark: String::new(),
            // The first writer's.
            budget: String::new(),
        }
    }
}

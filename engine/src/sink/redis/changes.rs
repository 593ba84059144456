//! The sizes of the changes as their writer notes them, with the checkpoint: now and then, for
//! a single transaction is not to wait for it, and whoever reads what is not noted yet asks
//! the script.
//!
//! What can go wrong: an append that was not done must not be noted, so that what is noted
//! counts only when the answer is there.

use super::sizes::{Sizes, Zone, largest};
use super::{RedisStore, text};
use crate::position::Epoch;
use crate::sink::store::{Guard, NewEntry, StoreError};

/// After so many entries that is stored.
const OFTEN: usize = 256;

/// Sizes of an epoch's changes.
#[derive(Clone, Debug)]
pub(super) struct Noted {
    epoch: Epoch,
    sizes: Sizes,
    /// Entries since they were stored.
    since: usize,
    /// They go with this append.
    told: bool,
}

impl Noted {
    /// What goes with the append.
    pub(super) fn told(&self) -> Option<String> {
        self.told.then(|| self.sizes.to_string())
    }
}

impl RedisStore {
    /// What is known of the sizes once these are appended.
    pub(super) async fn note(
        &mut self,
        guard: &Guard,
        entries: &[NewEntry<'_>],
    ) -> Result<Noted, StoreError> {
        // Until the answer is there nothing is known.
        let noted = self.noted.take().filter(|noted| noted.epoch == guard.epoch);
        let mut noted = match noted {
            Some(noted) => noted,
            None => Noted { sizes: self.sizes().await?, epoch: guard.epoch, since: 0, told: false },
        };
        if let Some(last) = entries.last() {
            let largest = largest(entries);
            noted.sizes.note(Zone { after: guard.last, through: last.id, largest });
        }
        let since = if noted.told { 0 } else { noted.since };
        noted.since = since + entries.len();
        noted.told = noted.since >= OFTEN;
        Ok(noted)
    }

    /// As somebody stored them.
    async fn sizes(&mut self) -> Result<Sizes, StoreError> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.checkpoint()).arg("sizes");
        match self.run(&command).await? {
            redis::Value::Nil => Ok(Sizes::default()),
            value => Ok(Sizes::parse(&text(&value)?)),
        }
    }
}

//! Bringing both sides to one position: a snapshot of the source with the end of its log,
//! and one of the target once everything that committed before that end is in it.
//!
//! The applier's progress stands in the target and is read in the very snapshot that is
//! compared. How far it must be is Redis' to say: the last entry at or before the source's
//! position, once the stream has passed that. While rows go on changing the target may be
//! further than asked for; what differs for that alone is found out by [`super::settle`].
//! What can go wrong: nobody applies, or the target is of another bootstrap.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::VerifyError;
use super::session::Side;
use super::{Progress, sql};
use crate::position::{Epoch, EpochPosition, Lsn, Position};
use crate::sink::id::{Id, Lane};
use crate::sink::redis::{RedisConnector, RedisStore};
use crate::sink::store::{Connect, Feed, Store};
use crate::source::HEARTBEAT_PREFIX;
use crate::source::wal::emit_message;

const LOOK: Duration = Duration::from_millis(20);

/// Both sessions, and what is known of how one follows the other.
pub(super) struct Sides {
    pub(super) source: Side,
    pub(super) target: Side,
    /// A second session of the source's, for messages: the first one only reads.
    pub(super) voice: Side,
    pub(super) follows: Option<Follows>,
    pub(super) wait: Duration,
}

/// An applier keeps its progress in the target.
pub(super) struct Follows {
    pub(super) redis: RedisConnector,
    /// The applier's name.
    pub(super) consumer: String,
    /// The current one.
    pub(super) epoch: Epoch,
}

/// What the target has to have.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// The last entry of the load.
    load: Id,
    /// Where in the changes tables were last loaded again: what follows the load's end there.
    mark: Lsn,
    /// The last entry of the changes.
    changes: Id,
}

impl Wanted {
    fn is_reached(self, position: Position) -> bool {
        match position {
            Position::Wal { .. } => Id::of(position) >= self.changes,
            Position::Bootstrap(n) => n >= self.load.high && self.changes.high <= self.mark.0,
        }
    }

    fn lsn(self) -> Lsn {
        Lsn(self.changes.high)
    }
}

/// Where both were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    /// End of the source's log when it was read.
    pub(super) source: Lsn,
    /// How far the target was, if its progress is known.
    pub(super) target: Option<Position>,
}

impl Sides {
    /// Begins new snapshots: the source's first, and the target's when it has all of that.
    pub(super) async fn meet(&mut self, progress: &dyn Progress) -> Result<At, VerifyError> {
        let source = self.read_source().await?;
        let Some(follows) = &self.follows else {
            self.target.begin().await?;
            let sql = "SELECT 1";
            self.target.value("taking a snapshot", sql).await?;
            return Ok(At { source, target: None });
        };
        let until = Instant::now() + self.wait;
        let mut store = follows.redis.connect().await?;
        // An idle server's log moves, and the stream with it. Whoever may not write there
        // waits for the engine's own heartbeat.
        if let Err(error) = emit_message(self.voice.client(), HEARTBEAT_PREFIX, "").await {
            tracing::debug!(%error, "no heartbeat");
        }
        let wanted = self.wanted(&mut store, follows.epoch, source, until).await?;
        let target = self.reached(follows, wanted, until, progress).await?;
        Ok(At { source, target: Some(target) })
    }

    /// A snapshot of the source, and the end of its log after it was taken.
    pub(super) async fn read_source(&self) -> Result<Lsn, VerifyError> {
        self.source.begin().await?;
        let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                   ELSE pg_current_wal_insert_lsn() END";
        let text = self.source.value("taking a snapshot", sql).await?;
        let lsn = text.and_then(|text| text.parse().ok());
        lsn.ok_or_else(|| VerifyError::NotComparable("the source does not tell its LSN".to_owned()))
    }

    /// The last entry that the target has to have, once Redis has everything up to `lsn`.
    async fn wanted(
        &self,
        store: &mut RedisStore,
        epoch: Epoch,
        lsn: Lsn,
        until: Instant,
    ) -> Result<Wanted, VerifyError> {
        loop {
            let found = store.inspect().await?;
            let load = found.bootstrap;
            let checkpoint = found.checkpoint.filter(|checkpoint| checkpoint.epoch == epoch);
            let Some(checkpoint) = checkpoint else {
                let text = "the bootstrap has begun anew meanwhile: verify again when it is over";
                return Err(VerifyError::NotComparable(text.to_owned()));
            };
            let passed = match checkpoint.position {
                Position::Wal { commit_lsn, .. } => commit_lsn.max(checkpoint.confirmed),
                Position::Bootstrap(_) => checkpoint.confirmed,
            };
            if passed >= lsn {
                let through = Id { high: lsn.0, low: u64::MAX };
                let last = store.before(epoch, Lane::Changes, through).await?;
                let changes = last.map_or(Id::ZERO, |entry| entry.id).max(checkpoint.trim);
                let mark = checkpoint.mark.split_once(' ').and_then(|(_, lsn)| lsn.parse().ok());
                return Ok(Wanted { load, mark: mark.unwrap_or(Lsn::ZERO), changes });
            }
            if Instant::now() >= until {
                return Err(self.behind(lsn, format!("{passed} (the stream in Redis)")));
            }
            sleep(LOOK).await;
        }
    }

    /// The target's snapshot, once it has this entry.
    async fn reached(
        &self,
        follows: &Follows,
        wanted: Wanted,
        until: Instant,
        progress: &dyn Progress,
    ) -> Result<Position, VerifyError> {
        let epoch = follows.epoch;
        loop {
            self.target.begin().await?;
            let found = applied(&self.target, &follows.consumer).await?;
            // A bootstrap that has just begun is one that the applier may not know yet.
            let other = found.and_then(|found| found.epoch).filter(|other| *other != epoch);
            if let Some(other) = other.filter(|other| *other > epoch || Instant::now() >= until) {
                return Err(VerifyError::NotComparable(format!(
                    "the target is of epoch {other}, the stream of {epoch}: let `kasho apply` take \
                     over the new bootstrap first"
                )));
            }
            let found = found.filter(|_| other.is_none());
            let position = found.map(|found| found.position);
            if let Some(position) = position.filter(|position| wanted.is_reached(*position)) {
                return Ok(position);
            }
            let told = position.map_or_else(|| "nothing".to_owned(), |p| p.to_string());
            if Instant::now() >= until {
                return Err(self.behind(wanted.lsn(), told));
            }
            progress.waits(&format!("the target is at {told}, {} is wanted", wanted.lsn()));
            sleep(LOOK).await;
        }
    }

    fn behind(&self, wanted: Lsn, found: String) -> VerifyError {
        let (wanted, seconds) = (wanted.to_string(), self.wait.as_secs());
        VerifyError::Behind { wanted, found, seconds }
    }
}

/// Whether an applier keeps its progress there.
pub(super) async fn is_applied_to(target: &Side) -> Result<bool, VerifyError> {
    let sql = "SELECT to_regclass('kasho.applied') IS NOT NULL";
    Ok(target.value("looking for kasho.applied", sql).await?.as_deref() == Some("t"))
}

/// The applier's progress, as the session's snapshot sees it.
async fn applied(target: &Side, consumer: &str) -> Result<Option<EpochPosition>, VerifyError> {
    let sql = format!(
        "SELECT 'e' || epoch || ':' || position FROM kasho.applied \
         WHERE relation = '' AND consumer = {}",
        sql::literal(consumer)
    );
    let Some(text) = target.value("reading kasho.applied", &sql).await? else { return Ok(None) };
    let position = text.parse().map_err(|_| {
        VerifyError::NotComparable("kasho.applied holds a position that is none".to_owned())
    })?;
    Ok(Some(position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_there_when_it_has_the_last_entry_of_either_stream() {
        let wanted = |load, mark, changes| Wanted {
            load: Id { high: load, low: 1 },
            mark: Lsn(mark),
            changes: Id { high: changes, low: 2 },
        };
        let wal = |lsn, ordinal| Position::Wal { commit_lsn: Lsn(lsn), ordinal };
        assert!(wanted(7, 0, 100).is_reached(wal(100, 2)));
        assert!(wanted(7, 0, 100).is_reached(Position::after(Lsn(100))));
        assert!(!wanted(7, 0, 100).is_reached(wal(100, 1)));
        assert!(!wanted(7, 0, 100).is_reached(Position::Bootstrap(7)), "changes have begun");
        assert!(wanted(7, 0, 0).is_reached(Position::Bootstrap(7)));
        assert!(!wanted(7, 0, 0).is_reached(Position::Bootstrap(6)));
        // Tables were loaded again at a mark, and nothing has changed since.
        assert!(wanted(9, 100, 100).is_reached(Position::Bootstrap(9)));
        assert!(!wanted(9, 100, 101).is_reached(Position::Bootstrap(9)));
    }
}

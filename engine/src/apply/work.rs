//! The loop of one attempt: entries are taken as they come, what is idle is used, and it is
//! seen when to end.
//!
//! What can go wrong: what can go wrong with reading and applying, see [`ApplyError`].

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::error::ApplyError;
use super::feed::{Chunk, Feed, WAIT};
use super::load::Load;
use super::progress::At;
use super::sequences::Copier;
use super::stream::Applier;
use super::{Attempt, Until};
use crate::position::Position;
use crate::sink::budget::Budgeter;
use crate::sink::config::{Budget, Share};
use crate::sink::entry::{Content, Entry};
use crate::sink::id::{Id, Lane};
use crate::sink::redis::RedisStore;
use crate::sink::store::{Inspection, Store};

/// What of the load was taken is committed so often.
const TICK: Duration = Duration::from_secs(1);
/// Whoever asks it to end waits so long for the end of the source's transaction.
const PATIENCE: Duration = Duration::from_secs(5);

/// The loop.
pub(super) struct Work<'a> {
    attempt: &'a Attempt<'a>,
    applier: Applier,
    feed: Feed,
    store: RedisStore,
    load: Option<Load>,
    sequences: Copier,
    most: usize,
    /// What was taken last ends in the changes.
    changes: bool,
    /// What was committed at this time, µs since 1970, was so after this began; by so much that
    /// two clocks may differ a little.
    enough_us: i64,
}

impl<'a> Work<'a> {
    /// Nothing is taken yet.
    pub(super) fn new(
        attempt: &'a Attempt<'a>,
        applier: Applier,
        feed: Feed,
        store: RedisStore,
        sequences: Copier,
        most: usize,
    ) -> Work<'a> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let enough_us = i64::try_from((now + WAIT).as_micros()).unwrap_or(i64::MAX);
        let (load, changes) = (None, false);
        Work { attempt, applier, feed, store, load, sequences, most, changes, enough_us }
    }

    /// Takes what comes until it is to end.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub(super) async fn run(mut self) -> Result<(), ApplyError> {
        let stop = self.attempt.stop.clone();
        let figures = Arc::clone(self.attempt.figures);
        figures.trouble(None);
        figures.reached(self.applier.told(self.applier.position()));
        if let Until::Position(wanted) = self.attempt.options.until {
            let epoch = self.applier.progress.main.epoch;
            if wanted.epoch.is_some_and(|asked| asked != epoch) {
                let text = format!("{wanted} is of another epoch than {epoch}, which is read");
                return Err(ApplyError::Refused(text));
            }
            // What is to be applied of a load is not known before it is read.
            let there = self.applier.position();
            if matches!(there, Position::Wal { .. }) && self.stops_at(there) {
                return self.leave().await;
            }
        }
        let mut ticked = Instant::now();
        let mut asked = None;
        loop {
            // A transaction of the source that will not end soon is not waited for.
            let ends = asked.is_some_and(|at: Instant| at.elapsed() >= PATIENCE);
            if ends || asked.is_some() && !self.applier.inside() {
                return self.end().await;
            }
            if self.whole() && !self.feed.waits() && self.rest().await? {
                return self.leave().await;
            }
            let chunk = tokio::select! {
                chunk = self.feed.next() => Some(chunk?),
                () = stop.cancelled(), if asked.is_none() => None,
            };
            self.changes = chunk.as_ref().map_or(self.changes, |chunk| chunk.changes);
            let over = match chunk {
                None => {
                    asked = Some(Instant::now());
                    false
                }
                // It was made while something else was applied, and more has come since.
                Some(chunk) if chunk.entries.is_empty() && self.feed.waits() => false,
                Some(chunk) if chunk.entries.is_empty() => self.idle(&chunk).await?,
                Some(chunk) => {
                    figures.caught_up.store(false, Relaxed);
                    self.take(chunk).await?
                }
            };
            if over {
                return self.leave().await;
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                if let Some(load) = &mut self.load {
                    load.tick(&mut self.applier).await?;
                }
            }
        }
    }

    /// Takes entries. Answers whether that was all that was asked for.
    async fn take(&mut self, chunk: Chunk) -> Result<bool, ApplyError> {
        self.applier.runs = chunk.runs;
        for entry in chunk.entries {
            if self.stops_before(&entry) {
                return self.keep().await.map(|()| true);
            }
            match (entry.position, &entry.content) {
                (Position::Bootstrap(_), _) => {
                    if self.load(entry).await? && self.attempt.options.until == Until::Loaded {
                        return Ok(true);
                    }
                }
                (position, Content::Mark { section, tables }) => {
                    tracing::info!(tables = tables.len(), "tables are loaded again");
                    self.applier.mark(position, *section, tables).await?;
                }
                _ => self.applier.take(entry).await?,
            }
            if self.stops_at(self.applier.position()) {
                return self.keep().await.map(|()| true);
            }
        }
        Ok(false)
    }

    /// Commits what is whole, if that is not done.
    async fn keep(&mut self) -> Result<(), ApplyError> {
        match self.applier.pends() {
            true => self.applier.commit().await,
            false => Ok(()),
        }
    }

    /// Between transactions, and not within the load: there it may end.
    fn whole(&self) -> bool {
        !self.applier.inside() && self.load.is_none()
    }

    /// Whether everything that was asked for is there: through this position.
    fn stops_at(&self, position: Position) -> bool {
        let Until::Position(wanted) = self.attempt.options.until else { return false };
        self.whole() && position >= wanted.position
    }

    /// Whether the next entry is of what was not asked for.
    fn stops_before(&self, next: &Entry) -> bool {
        let beyond = match self.attempt.options.until {
            Until::Position(wanted) => next.position > wanted.position,
            // The load was applied before. After a mark there is more of it.
            Until::Loaded => !matches!(next.content, Content::Mark { .. }),
            Until::CaughtUp | Until::Stopped => false,
        };
        beyond && self.whole() && matches!(next.position, Position::Wal { .. })
    }

    async fn load(&mut self, entry: Entry) -> Result<bool, ApplyError> {
        let (info, config) = (self.attempt.info, &self.attempt.config.apply);
        let most = self.most / 8;
        let load = self.load.get_or_insert_with(|| {
            self.attempt.figures.loading.store(true, Relaxed);
            Load::new(info.clone(), config.workers, most)
        });
        let over = load.take(&mut self.applier, entry).await?;
        if over {
            self.load = None;
            self.attempt.figures.loading.store(false, Relaxed);
            let rows = self.attempt.figures.loaded.load(Relaxed);
            tracing::info!(rows, "the load is applied");
            self.sequences.now().await;
        }
        Ok(over)
    }

    /// Nothing waits here, and no transaction of the source is open: what there is, is
    /// committed. Answers whether that was all that was asked for.
    async fn rest(&mut self) -> Result<bool, ApplyError> {
        let pends = self.applier.pends();
        self.keep().await?;
        match self.attempt.options.until {
            Until::Stopped | Until::Loaded => Ok(false),
            Until::CaughtUp => Ok(self.keeps_up()),
            Until::Position(_) => Ok(pends && self.stops_at(self.applier.position())),
        }
    }

    /// Whether the target has everything that the source had when this began. Where changes never
    /// pause, no moment is seen at which nothing more waits in Redis, and where the engine is
    /// behind, such a moment would say little.
    fn keeps_up(&self) -> bool {
        self.changes && self.attempt.figures.commit_us.load(Relaxed) >= self.enough_us
    }

    /// Nothing waits in Redis. Answers whether that was all that was asked for.
    async fn idle(&mut self, chunk: &Chunk) -> Result<bool, ApplyError> {
        if let Some(load) = &mut self.load {
            load.tick(&mut self.applier).await?;
        }
        if self.whole() {
            // It may have waited while something else was applied.
            self.keep().await?;
        }
        let caught_up = chunk.changes && !self.applier.inside();
        self.attempt.figures.caught_up.store(caught_up, Relaxed);
        if self.applier.inside() {
            self.make_room().await?;
        }
        let there = self.whole() && chunk.changes;
        match self.attempt.options.until {
            Until::Stopped => Ok(false),
            Until::Loaded => Ok(chunk.changes),
            Until::CaughtUp => Ok(there),
            Until::Position(_) if !there => Ok(false),
            Until::Position(wanted) => self.passed(chunk, wanted.position).await,
        }
    }

    /// Whether nothing through this position is to come any more: the engine has come that far,
    /// and has published nothing behind what was read.
    async fn passed(&mut self, chunk: &Chunk, wanted: Position) -> Result<bool, ApplyError> {
        if self.applier.position() >= wanted {
            return Ok(true);
        }
        let wanted = At { position: wanted, ..self.applier.progress.main };
        Ok(lies_behind(wanted, chunk.through, &self.store.inspect().await?))
    }

    /// The rest of a transaction that is larger than Redis's budget comes when the beginning
    /// has been acknowledged: then, and only then, it is committed in parts.
    async fn make_room(&mut self) -> Result<(), ApplyError> {
        let usage = self.store.usage(self.applier.progress.main.epoch).await?;
        let redis = &self.attempt.config.redis;
        // The budget that counts is the writer's, whose configuration may be another one.
        let told = self.store.inspect().await?.checkpoint;
        let told = told.and_then(|found| Share::stored(&found.budget));
        let changes = told.unwrap_or(redis.budget.changes);
        let budget = Budget { changes, ..redis.budget };
        let full = Budgeter::new(Lane::Changes, budget, redis.retention).is_full(&usage);
        if full && self.applier.pends() {
            self.applier.commit_part().await?;
            self.attempt.figures.parts.fetch_add(1, Relaxed);
            tracing::warn!(
                position = %self.applier.told(self.applier.position()),
                "the transaction is larger than Redis's budget (redis.budget): a part of it is \
                 committed before its end"
            );
        }
        Ok(())
    }

    /// Ends by itself: with sequences, too, that were made meanwhile, or given out further.
    async fn leave(self) -> Result<(), ApplyError> {
        if self.attempt.options.until != Until::Loaded {
            self.sequences.now().await;
        }
        Ok(())
    }

    /// Ends as it was asked to: with everything that is whole.
    async fn end(mut self) -> Result<(), ApplyError> {
        if let Some(load) = &mut self.load {
            load.tick(&mut self.applier).await?;
        } else if !self.applier.inside() && self.applier.pends() {
            self.applier.commit().await?;
        }
        tracing::info!(
            position = %self.applier.told(self.applier.position()),
            "ended; it goes on from there"
        );
        Ok(())
    }
}

/// Whether nothing through `wanted` comes any more behind the change `read`. What was found was
/// found in one step: what is published first, and then told of, is not missed.
fn lies_behind(wanted: At, read: Id, found: &Inspection) -> bool {
    let told = found.checkpoint.as_ref().filter(|told| told.epoch == wanted.epoch);
    found.changes <= read && told.is_some_and(|told| told.position >= wanted.position)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::position::Epoch;
    use crate::sink::store::Checkpoint;

    fn found(epoch: u64, newest: Id, position: &str) -> Inspection {
        let (epoch, last) = (epoch.to_string(), newest.to_string());
        let words = [
            ("epoch", epoch.as_str()),
            ("writer", "w"),
            ("last", &last),
            ("position", position),
            ("confirmed", "0/0"),
            ("slot", "s"),
            ("system_id", "1"),
            ("timeline", "1"),
            ("options", ""),
            ("generation", "1"),
            ("chain", ""),
            ("key_fingerprint", ""),
        ];
        let words: HashMap<String, String> =
            words.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Inspection {
            checkpoint: Checkpoint::parse(&words).unwrap(),
            changes: newest,
            bootstrap: Id::ZERO,
            entries: 0,
            letters: 0,
        }
    }

    /// Between the last look into the stream and the question how far the engine is, it may
    /// have published what was asked for.
    #[test]
    fn what_was_published_since_the_stream_was_read_is_still_to_come() {
        let read = Id { high: 0x10, low: 3 };
        let wanted = At { epoch: Epoch(2), position: "0/20:0".parse().unwrap() };
        for (there, after, epoch, newest, position) in [
            ("the engine is not there", false, 2, read, "0/1F:0"),
            ("nothing more was published", true, 2, read, "0/20:0"),
            ("a change was", false, 2, Id { high: 0x20, low: 1 }, "0/20:1"),
            ("the next row of a transaction was", false, 2, Id { high: 0x10, low: 4 }, "0/20:0"),
            ("another epoch has begun", false, 3, Id::ZERO, "0/30:0"),
        ] {
            assert_eq!(
                lies_behind(wanted, read, &found(epoch, newest, position)),
                after,
                "{there}"
            );
        }
    }
}

//! The loop of one attempt: entries are taken as they come, what is idle is used, and it is
//! seen when to end.
//!
//! What can go wrong: what can go wrong with reading and applying, see [`ApplyError`].

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::error::ApplyError;
use super::feed::{Chunk, Feed};
use super::load::Load;
use super::sequences::Copier;
use super::stream::Applier;
use super::{Attempt, Until};
use crate::position::Position;
use crate::reader::ReaderError;
use crate::sink::budget::Budgeter;
use crate::sink::config::{Budget, Share};
use crate::sink::entry::{Content, Entry};
use crate::sink::id::Lane;
use crate::sink::redis::RedisStore;
use crate::sink::store::Store;

/// What of the load was taken is committed so often.
const TICK: Duration = Duration::from_secs(1);
/// Whoever asks it to end waits so long for the end of the source's transaction.
const PATIENCE: Duration = Duration::from_secs(5);

/// The loop.
pub(super) struct Work<'a> {
    pub(super) attempt: &'a Attempt<'a>,
    pub(super) applier: Applier,
    pub(super) feed: Feed,
    pub(super) store: RedisStore,
    pub(super) load: Option<Load>,
    pub(super) sequences: Copier,
    pub(super) most: usize,
}

impl Work<'_> {
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
                return Ok(());
            }
        }
        let mut ticked = tokio::time::Instant::now();
        let mut asked = None;
        loop {
            // A transaction of the source that will not end soon is not waited for.
            let ends = asked.is_some_and(|at: tokio::time::Instant| at.elapsed() >= PATIENCE);
            if ends || asked.is_some() && !self.applier.inside() {
                return self.end().await;
            }
            let pends = self.applier.pends() && !self.applier.inside() && self.load.is_none();
            if pends && !self.feed.waits() {
                self.applier.commit().await?;
                if self.over(false).await? {
                    return Ok(());
                }
            }
            let chunk = tokio::select! {
                chunk = self.feed.next() => Some(chunk.map_err(overtaken)?),
                () = stop.cancelled(), if asked.is_none() => None,
            };
            match chunk {
                None => asked = Some(tokio::time::Instant::now()),
                Some(chunk) if chunk.entries.is_empty() => {
                    self.idle(&chunk).await?;
                    if self.over(chunk.changes).await? {
                        return Ok(());
                    }
                }
                Some(chunk) => {
                    figures.caught_up.store(false, Relaxed);
                    if self.take(chunk).await? {
                        return Ok(());
                    }
                }
            }
            if ticked.elapsed() >= TICK {
                ticked = tokio::time::Instant::now();
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
            if self.stops_before(entry.position) {
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
    fn stops_before(&self, next: Position) -> bool {
        let Until::Position(wanted) = self.attempt.options.until else { return false };
        let has = matches!(next, Position::Wal { .. });
        self.whole() && has && next > wanted.position
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

    /// Nothing waits.
    async fn idle(&mut self, chunk: &Chunk) -> Result<(), ApplyError> {
        if let Some(load) = &mut self.load {
            load.tick(&mut self.applier).await?;
        }
        let caught_up = chunk.changes && !self.applier.inside();
        self.attempt.figures.caught_up.store(caught_up, Relaxed);
        if self.applier.inside() {
            self.make_room().await?;
        }
        Ok(())
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

    /// Whether it is where it should end. `empty` says that nothing more waits.
    async fn over(&mut self, empty: bool) -> Result<bool, ApplyError> {
        let whole = self.whole();
        let position = self.applier.position();
        Ok(match self.attempt.options.until {
            Until::Stopped => false,
            Until::Loaded => empty,
            Until::CaughtUp => whole && empty,
            Until::Position(wanted) => {
                let published = match whole && empty {
                    true => self.store.inspect().await?.checkpoint.map(|found| found.position),
                    false => None,
                };
                whole && published.unwrap_or(position).max(position) >= wanted.position
            }
        })
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

/// Where this comes while reading, and not with the start, the next start tells more.
fn overtaken(error: ReaderError) -> ApplyError {
    match error {
        ReaderError::OutOfRange { .. } => ApplyError::Overtaken(error),
        error => error.into(),
    }
}

//! The source must never die of us: log that nobody reads fills its disk. What it keeps
//! for the slot is looked at once a second, warned about at 80 % of
//! `source.max_retained_wal`, and ended at 100 % by dropping the slot, unless
//! `source.on_limit = "hold"`.
//!
//! This is the one place where something is done before it is stored: the usual reason
//! for standing still is a Redis that does not answer, and that is where phases are
//! stored. It is safe because PostgreSQL is the truth: a start that finds no slot is
//! WAITING, whatever is stored. What can go wrong: PostgreSQL does not answer; the next
//! look tries again.

use std::time::{Duration, Instant};

use super::effects::unavailable;
use super::{Engine, World};
use crate::bootstrap::{self, Command, Facts, Refusal, SlotFact, Transition};
use crate::config::Size;
use crate::control::NEAR_PERCENT;
use crate::source::config::OnLimit;
use crate::source::error::SourceError;
use crate::source::snapshot::{drop_slot, slot_fact};
use crate::source::wal::slot_status;

/// A warning that goes on is told again after so long.
const AGAIN: Duration = Duration::from_secs(60);
/// How long Redis may take to show that a phase can be stored there.
const PROBE: Duration = Duration::from_secs(5);

/// How near the log that is kept is to its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    #[default]
    Fine,
    Near,
    Over,
}

fn level(retained: u64, limit: u64) -> Level {
    let percent = u128::from(retained) * 100;
    match u128::from(limit) {
        0 => Level::Fine,
        limit if percent >= limit * 100 => Level::Over,
        limit if percent >= limit * u128::from(NEAR_PERCENT) => Level::Near,
        _ => Level::Fine,
    }
}

/// What was told last, and when.
#[derive(Debug, Default)]
pub(super) struct Guard {
    told: Option<(Level, Instant)>,
}

impl Guard {
    /// Whether `level` is to be told now.
    fn news(&mut self, level: Level, now: Instant) -> bool {
        let known = self.told.is_some_and(|(told, at)| {
            told == level && (level == Level::Fine || now.duration_since(at) < AGAIN)
        });
        let first = self.told.is_none() && level == Level::Fine;
        if !known {
            self.told = Some((level, now));
        }
        !known && !first
    }

    /// Tells the log what has become of the limit.
    fn tell(&mut self, world: &World, level: Level, retained: u64) {
        if !self.news(level, Instant::now()) {
            return;
        }
        let warning = warning(world, retained).unwrap_or_default();
        match level {
            Level::Fine => tracing::info!("the log that the source keeps is below its limit again"),
            Level::Near => tracing::warn!("{warning}"),
            Level::Over => tracing::error!("{warning}"),
        }
    }
}

/// What an operator has to know of the log that is kept, for GetStatus too.
pub(super) fn warning(world: &World, retained: u64) -> Option<String> {
    let source = &world.config.source;
    let limit = source.max_retained_wal.0;
    let then = match (level(retained, limit), source.on_limit) {
        (Level::Fine, _) => return None,
        (Level::Near, OnLimit::Drop) => "at 100 % the slot is dropped, and a new bootstrap needed",
        (Level::Near, OnLimit::Hold) => {
            "at 100 % it is held (source.on_limit), and goes on growing"
        }
        (Level::Over, OnLimit::Drop) => "the slot is dropped",
        (Level::Over, OnLimit::Hold) => {
            "the slot is held (source.on_limit = \"hold\"): the source's disk will be full"
        }
    };
    Some(format!(
        "the source keeps {} of log for the slot {}, {} % of source.max_retained_wal ({}): {then}; \
         mend what holds the stream up",
        told(retained),
        world.slot,
        u128::from(retained) * 100 / u128::from(limit.max(1)),
        Size(limit),
    ))
}

/// A size for people, as exact as they need it.
fn told(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => Size(bytes).to_string(),
        _ => Size::mib(bytes >> 20).to_string(),
    }
}

fn dropped(world: &World, retained: u64, trouble: &str) -> String {
    let limit = Size(world.config.source.max_retained_wal.0);
    let trouble = match trouble {
        "" => String::new(),
        trouble => format!(" What held the stream up last: {trouble}."),
    };
    format!(
        "the source kept {} of log for the slot {}, more than source.max_retained_wal ({limit}): the \
         slot was dropped so that the source lives, and what was not published yet is not captured \
         any more.{trouble} Mend that, then bootstrap again (`kasho bootstrap`)",
        told(retained),
        world.slot,
    )
}

impl Engine {
    /// Looks at what the source keeps for us, and ends it above the limit.
    pub(super) async fn guard_source(&mut self) {
        let retained = self.observed.slot.as_ref().map_or(0, |slot| slot.retained_bytes);
        let source = &self.world.config.source;
        let level = level(retained, source.max_retained_wal.0);
        self.guard.tell(&self.world, level, retained);
        let ours = self.phase.epoch().is_some();
        if level < Level::Over || source.on_limit == OnLimit::Hold || !ours {
            return;
        }
        let paused = self.figures.sink.get().paused;
        let trouble = paused.unwrap_or_else(|| self.last_error());
        let error = dropped(&self.world, retained, &trouble);
        match self.give_up_slot(error.clone()).await {
            Ok(()) => tracing::error!(state = %self.phase.state(), "{error}"),
            Err(refusal) => tracing::error!(%refusal, "the slot cannot be dropped, trying again"),
        }
    }

    /// Drops the slot, and is WAITING.
    async fn give_up_slot(&mut self, error: String) -> Result<(), Refusal> {
        self.world.drop_slot().await.map_err(unavailable)?;
        self.observed.slot = None;
        let command = Command::SlotLost { error };
        // Looking is all that may be cut short: a phase is stored or is not.
        let answers = tokio::time::timeout(PROBE, self.world.inspect()).await;
        if matches!(answers, Ok(Ok(_))) && self.transition(command.clone()).await.is_ok() {
            return Ok(());
        }
        let Transition { next, effects } = bootstrap::on(&self.phase, command, &Facts::default())?;
        let holder = self.holder();
        self.phase = next;
        self.unstored = true;
        self.act(effects, holder).await
    }

    /// Stores a phase that could not be stored when it was adopted.
    pub(super) async fn store_late(&mut self) {
        if !self.unstored || self.observed.sink_error.is_some() {
            return;
        }
        let stored = async {
            self.catch_up(None).await?;
            let mut store = self.world.redis_store().await.map_err(unavailable)?;
            let phase = self.phase.clone();
            self.store(&mut store, &phase).await
        };
        match stored.await {
            Ok(()) => tracing::info!(state = %self.phase.state(), "the state is stored now"),
            Err(refusal) => tracing::warn!(%refusal, "the state cannot be stored yet"),
        }
    }
}

impl World {
    async fn drop_slot(&self) -> Result<(), SourceError> {
        drop_slot(&self.sql("kasho").await?, &self.slot, true).await
    }

    /// The same watch before the service stands, as when Redis does not answer: then
    /// nobody knows the phase, but a slot of our name and kind is ours.
    ///
    /// # Errors
    /// PostgreSQL does not answer.
    pub(super) async fn guard_source(&self, guard: &mut Guard) -> Result<(), SourceError> {
        let source = &self.config.source;
        let client = self.sql("kasho").await?;
        let Some(slot) = slot_status(&client, &self.slot).await? else { return Ok(()) };
        let level = level(slot.retained_bytes, source.max_retained_wal.0);
        guard.tell(self, level, slot.retained_bytes);
        let ours = slot_fact(&client, &self.info, &self.slot).await?;
        let ours = matches!(ours, SlotFact::Usable | SlotFact::Lost(_));
        if level < Level::Over || source.on_limit == OnLimit::Hold || !ours {
            return Ok(());
        }
        self.drop_slot().await?;
        tracing::error!("{}", dropped(self, slot.retained_bytes, ""));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        assert_eq!(level(u64::MAX, 0), Level::Fine, "0 is no limit");
        assert_eq!(level(79, 100), Level::Fine);
        assert_eq!(level(80, 100), Level::Near);
        assert_eq!(level(99, 100), Level::Near);
        assert_eq!(level(100, 100), Level::Over);
        assert_eq!(level(u64::MAX, u64::MAX), Level::Over);
    }

    #[test]
    fn a_warning_is_told_when_it_begins_once_a_minute_and_when_it_ends() {
        let start = Instant::now();
        let mut guard = Guard::default();
        let mut news = |level, s| guard.news(level, start + Duration::from_secs(s));
        assert!(!news(Level::Fine, 0), "nothing to tell at first");
        assert!(news(Level::Near, 1) && !news(Level::Near, 60) && news(Level::Near, 62));
        assert!(news(Level::Over, 63) && !news(Level::Over, 64));
        assert!(news(Level::Fine, 65) && !news(Level::Fine, 1000));
    }
}

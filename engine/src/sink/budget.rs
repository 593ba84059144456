//! Memory of the streams: sampled, trimmed of what every consumer has, and waited for.
//!
//! The two streams have separate budgets, so that changes that nobody may read yet
//! cannot starve the load. Waiting is what makes a full Redis back-pressure instead of a
//! loss. What can go wrong: Redis was set to evict keys meanwhile, which ends the writer.

use tokio::time::{Duration, Instant};

use super::entry::Entry;
use super::error::SinkError;
use super::id::{Id, Lane};
use super::status::Status;
use super::store::{Backend, Consumer, Most, Trim, Usage};
use crate::position::{Epoch, Lsn};
use crate::sink::config::{Budget, Retention, Share};

/// Memory is sampled, and what was acknowledged is trimmed, at least this often while
/// something happens.
const SAMPLE_MS: u64 = 1_000;
/// And whenever this much was published since, …
const SAMPLE_BYTES: u64 = 16 << 20;
/// … or this part of a smaller budget.
const SAMPLE_PART: u64 = 16;
/// Pause between two looks while the budget is used up.
const PAUSE_MS: u64 = 250;
/// Redis counts as full at this many hundredths of `maxmemory`.
const FULL_PERCENT: u64 = 95;
/// A look at the oldest entries for a ceiling takes so much.
const CEILING: Most = Most { entries: 10_000, bytes: 4 << 20 };
/// … so many times at most, until one is found that is to stay.
const CEILING_PAGES: usize = 16;

/// Watches one lane's memory.
#[derive(Debug)]
pub(crate) struct Budgeter {
    lane: Lane,
    budget: Budget,
    retention: Retention,
    sampled: Option<Instant>,
    since: u64,
    /// Bytes of the budget when last sampled.
    limit: Option<u64>,
}

impl Budgeter {
    pub(crate) fn new(lane: Lane, budget: Budget, retention: Retention) -> Budgeter {
        Budgeter { lane, budget, retention, sampled: None, since: 0, limit: None }
    }

    /// Counts what was published.
    pub(crate) fn published(&mut self, bytes: u64) {
        self.since += bytes;
    }

    fn due(&self) -> bool {
        let step = self.limit.map_or(SAMPLE_BYTES, |limit| (limit / SAMPLE_PART).min(SAMPLE_BYTES));
        self.since >= step.max(1)
            || self.sampled.is_none_or(|at| at.elapsed() >= Duration::from_millis(SAMPLE_MS))
    }

    /// Returns when there is room in the lane.
    pub(crate) async fn admit<S: Backend>(
        &mut self,
        store: &mut S,
        epoch: Epoch,
        status: &Status,
    ) -> Result<(), SinkError> {
        let lane = self.lane;
        if !self.due() {
            return Ok(());
        }
        self.trim(store, epoch, status, false).await?;
        loop {
            let usage = self.sample(store, epoch, status).await?;
            let Some(over) = self.over(&usage) else { break };
            // Whoever gives up waiting here looks again the next time.
            self.sampled = None;
            if self.trim(store, epoch, status, true).await? > 0 {
                continue;
            }
            let reason = match over {
                Over::Budget { used, limit } => {
                    let consumers = store.consumers().await?;
                    let slowest = slowest(&consumers, lane);
                    let alone = alone(store, epoch, lane).await?;
                    used_up(lane, (used, limit), slowest, alone)
                }
                Over::Other => other_data(&usage),
            };
            status.pause(Some(reason));
            tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
        }
        status.pause(None);
        Ok(())
    }

    /// Samples and trims if it is time, without waiting for room.
    pub(crate) async fn tick<S: Backend>(
        &mut self,
        store: &mut S,
        epoch: Epoch,
        status: &Status,
    ) -> Result<(), SinkError> {
        if self.due() {
            self.trim(store, epoch, status, false).await?;
            self.sample(store, epoch, status).await?;
        }
        Ok(())
    }

    /// Trims what every consumer has, and what is above a ceiling; `pressed` for room also
    /// inside of a transaction.
    pub(crate) async fn trim<S: Backend>(
        &mut self,
        store: &mut S,
        epoch: Epoch,
        status: &Status,
        pressed: bool,
    ) -> Result<u64, SinkError> {
        let ceiling = self.ceiling(store, epoch).await?;
        let trimmed = store.trim(Trim { epoch, ceiling, pressed }).await?;
        if trimmed > 0 {
            status.update(|figures| figures.trimmed += trimmed);
        }
        Ok(trimmed)
    }

    async fn sample<S: Backend>(
        &mut self,
        store: &mut S,
        epoch: Epoch,
        status: &Status,
    ) -> Result<Usage, SinkError> {
        let usage = store.usage(epoch).await?;
        if usage.policy != "noeviction" {
            return Err(SinkError::Evicting { policy: usage.policy });
        }
        (self.sampled, self.since) = (Some(Instant::now()), 0);
        self.limit = bytes(self.share(), usage.limit);
        status.update(|figures| (figures.usage, figures.budget) = (usage.clone(), self.limit));
        Ok(usage)
    }

    fn share(&self) -> Share {
        match self.lane {
            Lane::Changes => self.budget.changes,
            Lane::Bootstrap => self.budget.bootstrap,
        }
    }

    /// Whether a writer of this lane would wait now.
    pub(crate) fn is_full(&self, usage: &Usage) -> bool {
        self.over(usage).is_some()
    }

    fn over(&self, usage: &Usage) -> Option<Over> {
        let used = match self.lane {
            Lane::Changes => usage.changes,
            Lane::Bootstrap => usage.bootstrap,
        };
        if let Some(limit) = bytes(self.share(), usage.limit).filter(|limit| used >= *limit) {
            return Some(Over::Budget { used, limit });
        }
        let full = usage.limit > 0 && usage.used >= usage.limit / 100 * FULL_PERCENT;
        full.then_some(Over::Other)
    }

    /// Where the ceilings of age and length cut, looking at the oldest entries.
    async fn ceiling<S: Backend>(
        &self,
        store: &mut S,
        epoch: Epoch,
    ) -> Result<Option<Id>, SinkError> {
        let Retention { max_age_ms, max_length } = self.retention;
        if max_age_ms == 0 && max_length == 0 {
            return Ok(None);
        }
        let usage = store.usage(epoch).await?;
        let excess = if max_length == 0 { 0 } else { usage.length.saturating_sub(max_length) };
        let oldest_us = i64::try_from(usage.now_ms.saturating_sub(max_age_ms)).unwrap_or(0) * 1000;
        let (mut after, mut passed) = (Id::ZERO, 0);
        // A page may end anywhere: not with it ends what is too old, or too much.
        for _ in 0..CEILING_PAGES {
            let page = store.page(epoch, Lane::Changes, after, CEILING).await?;
            if page.entries.is_empty() {
                break;
            }
            for raw in &page.entries {
                let old =
                    max_age_ms > 0 && Entry::decode(raw, Lane::Changes)?.commit_us < oldest_us;
                // The first entry to stay; the script cuts at its transaction's start.
                if passed >= excess && !old {
                    return Ok((passed > 0).then_some(raw.id));
                }
                (after, passed) = (raw.id, passed + 1);
            }
        }
        // The newest stays, or goes next time.
        Ok((passed > 1).then_some(after))
    }
}

/// A budget in bytes, of a server with this `maxmemory`; `None` = no limit.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a memory size need not be exact to the byte"
)]
fn bytes(share: Share, maxmemory: u64) -> Option<u64> {
    match share {
        Share::Bytes(size) => Some(size.0),
        Share::Part(_) if maxmemory == 0 => None,
        Share::Part(part) => Some((maxmemory as f64 * part) as u64),
    }
}

enum Over {
    Budget { used: u64, limit: u64 },
    Other,
}

fn slowest(consumers: &[Consumer], lane: Lane) -> Option<&Consumer> {
    consumers.iter().min_by_key(|consumer| match lane {
        Lane::Changes => consumer.changes,
        Lane::Bootstrap => consumer.bootstrap,
    })
}

/// The transaction that is under way, if nothing else is left in the stream.
async fn alone<S: Backend>(
    store: &mut S,
    epoch: Epoch,
    lane: Lane,
) -> Result<Option<Lsn>, SinkError> {
    if lane == Lane::Bootstrap {
        return Ok(None);
    }
    let newest = store.before(epoch, lane, Id { high: u64::MAX, low: u64::MAX }).await?;
    let Some(newest) = newest.filter(|newest| !newest.closes()) else { return Ok(None) };
    let oldest = store.page(epoch, lane, Id::ZERO, 1).await?.entries;
    let alone = oldest.first().is_some_and(|oldest| oldest.id.high == newest.id.high);
    Ok(alone.then_some(Lsn(newest.id.high)))
}

fn used_up(
    lane: Lane,
    (used, limit): (u64, u64),
    slowest: Option<&Consumer>,
    alone: Option<Lsn>,
) -> String {
    let name = lane.name();
    let who = match (slowest, alone) {
        (Some(consumer), Some(lsn)) => format!(
            "the transaction at {lsn} is larger than that, and consumer {:?} has to acknowledge \
             inside of it, or the budget has to grow",
            consumer.name
        ),
        (Some(consumer), None) => format!("consumer {:?} is furthest behind", consumer.name),
        (None, _) => "no consumer is registered, so nothing may be trimmed (`kasho consumers add`)"
            .to_owned(),
    };
    format!("the {name} stream takes {used} bytes of its budget of {limit}: {who}")
}

fn other_data(usage: &Usage) -> String {
    let ours = usage.changes + usage.bootstrap;
    let what = match ours > usage.used / 2 {
        true => "Redis is full, by what both streams and their readers take (raise maxmemory)",
        false => "Redis is full of other data",
    };
    let Usage { used, limit, .. } = usage;
    format!("{what}: {used} of {limit} bytes are in use, {ours} of them by the streams")
}

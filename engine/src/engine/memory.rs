//! What the chain is held against: the tables as they are now, and what the generations
//! before covered, which stands in Redis beside the checkpoint, so that a start cannot
//! unmask what a reload could not.
//!
//! A generation is written down before anybody can run it, and what rows show of tables
//! before any of them is published: for the generation that they pass and for the newest. So
//! nothing is written of rows while a generation is written down and not the newest yet.
//!
//! What can go wrong: a server does not answer, and then a candidate waits; or what was
//! covered cannot be read any more, and then only the very same files, or a confirmation,
//! start the service.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Duration, Instant, sleep};

use super::prepare::EngineError;
use super::world::{World, tables};
use crate::bootstrap::SlotFact;
use crate::pipeline::Figures;
use crate::position::Lsn;
use crate::sink::SinkError;
use crate::sink::store::{Registry, Store};
use crate::source::catalog::Catalog;
use crate::source::snapshot::slot_fact;
use crate::source::wal::log_end;
use crate::transform::{self, Coverage, Generation, Run};

/// The stream may be about to reach the tables as they are.
const CATCHING_UP: Duration = Duration::from_secs(3);
/// What so many generations before covered is kept beside what the checkpoint's did.
const RECENT: usize = 4;
/// Somebody else may be writing the same text.
const ATTEMPTS: usize = 8;

/// What one generation covered.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Remembered {
    /// Its digest.
    pub(crate) digest: String,
    /// What it covered.
    pub(crate) coverage: Coverage,
    /// Its run, if a program wrote it that knows of runs.
    #[serde(default)]
    pub(crate) run: Option<Run>,
}

impl World {
    /// Keeps a generation and what it covers, over those before it; of these the newest stay,
    /// and the one that the checkpoint names.
    ///
    /// Until what comes back is dropped, [`World::learn`] waits: to be held until the
    /// generation is published.
    ///
    /// # Errors
    /// It cannot be kept, here or in Redis: nobody may run the generation then.
    pub(super) async fn remember(
        &self,
        generation: &Generation,
    ) -> Result<OwnedMutexGuard<()>, EngineError> {
        self.keep(generation).await?;
        let held = Arc::clone(&self.learning).lock_owned().await;
        let digests = self.write_down(generation).await?;
        self.forget(digests).await;
        Ok(held)
    }

    /// The generation whose keys and identities an epoch has from here on, kept as the newest;
    /// `shown`: tables whose rows another process passes through it.
    ///
    /// # Errors
    /// It cannot be kept.
    pub(super) async fn begins(
        &self,
        shown: Option<&Catalog>,
    ) -> Result<Arc<Generation>, EngineError> {
        self.waiting.store(false, Relaxed);
        // One that is being made and does not know of it yet is not taken any more, or is by then.
        let handle = Arc::clone(&self.handle);
        let made = tokio::task::spawn_blocking(move || drop(handle.turn())).await;
        made.map_err(|_| EngineError::Host("waiting for a candidate panicked".to_owned()))?;
        loop {
            let generation = self.handle.newest();
            if let Some(tables) = shown {
                self.show(&generation, tables).await?;
            }
            drop(self.remember(&generation).await?);
            // Another one may have been taken, and was written down before this one then.
            if Arc::ptr_eq(&generation, &self.handle.newest()) {
                return Ok(generation);
            }
        }
    }

    /// Shows a generation tables that it was not loaded with, as rows would that pass it
    /// here: those of a dump pass the chain of another process, which tells nothing.
    ///
    /// # Errors
    /// Bugs only.
    pub(super) async fn show(
        &self,
        generation: &Arc<Generation>,
        tables: &Catalog,
    ) -> Result<(), EngineError> {
        let (generation, relations) = (Arc::clone(generation), tables.relations.clone());
        let showing = move || transform::Chain::new(generation).show(&relations);
        let shown = tokio::task::spawn_blocking(showing).await;
        shown.map_err(|_| EngineError::Host("asking about its tables panicked".to_owned()))
    }

    /// The digests that stand in Redis then.
    async fn write_down(&self, generation: &Generation) -> Result<Vec<String>, SinkError> {
        let change = |kept: &mut Vec<Remembered>, chain: Option<String>| {
            kept.retain(|other| other.digest != generation.digest());
            // A batch may still be on its way through one that the checkpoint does not name yet.
            let mut newest = 0..RECENT;
            kept.retain(|other| newest.next().is_some() || Some(&other.digest) == chain.as_ref());
            let (digest, coverage) = (generation.digest().to_owned(), generation.covered());
            let run = Some(generation.run().clone());
            kept.insert(0, Remembered { digest, coverage, run });
        };
        self.rewrite(change).await
    }

    /// Writes down what rows have shown of tables that a generation was not loaded with, to
    /// it and to the newest, which takes its place: before any of these rows is published.
    ///
    /// # Errors
    /// Redis does not answer: the rows have to wait.
    pub(super) async fn learn(&self, generation: &Generation) -> Result<(), SinkError> {
        let _turn = self.learning.lock().await;
        let newest = self.handle.newest();
        let change = |kept: &mut Vec<Remembered>, _: Option<String>| {
            for known in [generation, &newest] {
                let there = kept.iter_mut().find(|other| other.digest == known.digest());
                if let Some(there) = there {
                    there.coverage = known.covered();
                }
            }
        };
        self.rewrite(change).await.map(drop)
    }

    /// Changes what stands in Redis, given the digest that the checkpoint names.
    async fn rewrite(
        &self,
        change: impl Fn(&mut Vec<Remembered>, Option<String>),
    ) -> Result<Vec<String>, SinkError> {
        let mut store = self.redis_store().await?;
        for _ in 0..ATTEMPTS {
            let chain = store.inspect().await?.checkpoint.map(|checkpoint| checkpoint.chain);
            let stored = store.coverage().await?;
            let mut kept = parse(stored.as_deref()).unwrap_or_default();
            change(&mut kept, chain);
            let text = serde_json::to_vec(&kept).map_err(|_| SinkError::OtherState)?;
            let nothing = kept.is_empty();
            let digests = kept.into_iter().map(|remembered| remembered.digest).collect();
            if nothing || stored.as_deref() == Some(&text) {
                return Ok(digests);
            }
            if store.swap_coverage(stored.as_deref(), &text).await? {
                let redis = &self.config.redis;
                let timeout = Duration::from_millis(redis.durability_timeout_ms);
                store.durable(redis.durability, timeout).await?;
                return Ok(digests);
            }
        }
        Err(SinkError::OtherState)
    }

    /// The newest generation that was kept, if the one of the checkpoint stands there too:
    /// else what is there is of another time.
    pub(super) async fn remembered(&self, chain: &str) -> Result<Option<Remembered>, SinkError> {
        let stored = self.redis_store().await?.coverage().await?;
        let Some(all) = parse(stored.as_deref()) else { return Ok(None) };
        let whole = all.iter().any(|generation| generation.digest == chain);
        Ok(all.into_iter().next().filter(|_| whole))
    }

    /// What a generation was found to cover, if it is one of those that are kept.
    pub(super) async fn covered_by(&self, digest: &str) -> Result<Option<Coverage>, SinkError> {
        let stored = self.redis_store().await?.coverage().await?;
        let all = parse(stored.as_deref()).unwrap_or_default().into_iter();
        let mut same = all.filter(|generation| generation.digest == digest);
        Ok(same.next().map(|generation| generation.coverage))
    }

    /// The tables as they are now; as they were last known if PostgreSQL does not answer.
    pub(super) async fn look_at_tables(&self, stream: &Figures) -> transform::Catalog {
        match self.read_tables(stream).await {
            Ok(tables) => {
                let mut known = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
                known.clone_from(&tables);
                tables
            }
            Err(error) => {
                tracing::warn!(%error, "the tables cannot be looked at; rules are held against them as they were");
                transform::Catalog { caught_up: false, ..self.tables() }
            }
        }
    }

    async fn read_tables(&self, stream: &Figures) -> Result<transform::Catalog, EngineError> {
        let client = self.sql("kasho").await?;
        let catalog = Catalog::read(&client, &self.config.source.publications).await?;
        let lags = slot_fact(&client, &self.info, &self.slot).await? != SlotFact::Absent;
        // A log whose end is not known is not reached.
        let end = log_end(&client).await?.unwrap_or(Lsn(u64::MAX));
        let caught_up = !lags || reaches(stream, end).await;
        Ok(tables(&catalog, caught_up))
    }
}

/// Whether the stream is soon past a position.
async fn reaches(stream: &Figures, end: Lsn) -> bool {
    let begun = Instant::now();
    while stream.published_lsn.load(Relaxed) < end.0 {
        if begun.elapsed() > CATCHING_UP {
            return false;
        }
        sleep(Duration::from_millis(50)).await;
    }
    true
}

fn parse(stored: Option<&[u8]>) -> Option<Vec<Remembered>> {
    serde_json::from_slice(stored?).ok()
}

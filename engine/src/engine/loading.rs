//! The initial load: slices of the snapshot through the chain into the bootstrap stream,
//! each with the progress that it makes. Whatever interrupts it, it goes on behind the
//! last slice that was published; only a snapshot that is gone cannot be gone on with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::{Event, World};
use crate::bootstrap::{Load, TableLoad};
use crate::error::Class;
use crate::pipeline::{Chains as _, Classified};
use crate::position::Epoch;
use crate::sink::SinkError;
use crate::sink::load::LoadWriter;
use crate::sink::publisher::WriterToken;
use crate::sink::redis::RedisStore;
use crate::sink::store::{Registry, StoreError};
use crate::source::catalog::Catalog;
use crate::source::error::SourceError;
use crate::source::snapshot::{Progress, Reader, ReaderConfig, Slice, SnapshotError, holder_lives};
use crate::transform::{Chains, TransformError};

/// How far the load has come, for the status.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    sink: crate::sink::status::Status,
    tables: BTreeMap<u32, (u64, u64)>,
}

impl Figures {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows and bytes of a table so far; bytes only since this process began.
    pub(super) fn table(&self, oid: u32) -> (u64, u64) {
        self.lock().tables.get(&oid).copied().unwrap_or_default()
    }

    /// The figures of the writer.
    pub(super) fn sink(&self) -> crate::sink::status::Status {
        self.lock().sink.clone()
    }

    fn resume(&self, progress: &Progress) {
        let mut inner = self.lock();
        inner.tables.values_mut().for_each(|(rows, _)| *rows = 0);
        for (key, range) in progress {
            inner.tables.entry(key.oid).or_default().0 += range.rows;
        }
    }

    fn add(&self, oid: u32, rows: u64, bytes: u64) {
        let mut inner = self.lock();
        let table = inner.tables.entry(oid).or_default();
        *table = (table.0 + rows, table.1 + bytes);
    }
}

/// Anything that ends one run of the load.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Transform(#[from] TransformError),
    #[error("no random numbers for a writer's token: {0}")]
    Random(#[from] getrandom::Error),
    #[error("the catalogue in Redis cannot be read ({0}): bootstrap again")]
    Catalog(String),
}

impl LoadError {
    fn class(&self) -> Class {
        match self {
            LoadError::Source(e) => e.class(),
            LoadError::Snapshot(e) => e.class(),
            // Our own lease of before a restart runs out by itself.
            LoadError::Sink(SinkError::Leased { .. }) | LoadError::Random(_) => Class::Retry,
            LoadError::Sink(e) => e.class(),
            LoadError::Transform(e) => e.class(),
            LoadError::Catalog(_) => Class::Halt,
        }
    }
}

/// Takes the loader's turn in the name of this engine, and says how far the load is.
pub(super) async fn writer(
    world: &World,
    epoch: Epoch,
    figures: &Figures,
) -> Result<(LoadWriter<RedisStore>, Progress), LoadError> {
    let store = world.redis_store().await?;
    let (owner, token) = (format!("engine {}", world.slot), WriterToken::random()?);
    let redis = &world.config.redis;
    let opened = LoadWriter::open(store, redis, epoch, &owner, token, figures.sink()).await;
    let (writer, resumed) = opened?;
    let fields = resumed.progress.iter();
    let progress = fields.filter_map(|(key, range)| Some((key.parse().ok()?, range.parse().ok()?)));
    Ok((writer, progress.collect()))
}

/// The load's supervisor.
pub(super) struct Loading {
    pub(super) world: Arc<World>,
    pub(super) load: Load,
    pub(super) figures: Figures,
    pub(super) events: mpsc::Sender<Event>,
}

impl Loading {
    /// Runs until everything is loaded, it is stopped, or only a person can help.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let error = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.once() => match ended {
                    Ok(()) => {
                        let _ = self.events.send(Event::Loaded).await;
                        return;
                    }
                    Err(error) => error,
                },
            };
            let text = error.to_string();
            if error.class() == Class::Halt {
                tracing::error!(error = %text, "the load has halted");
                let _ = self.events.send(Event::LoadHalted(text)).await;
                return;
            }
            tracing::warn!(error = %text, "the load was interrupted; it goes on");
            let _ = self.events.send(Event::LoadTrouble(Some(text))).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    async fn once(&mut self) -> Result<(), LoadError> {
        let world = Arc::clone(&self.world);
        let catalog = stored_catalog(&world).await?;
        if let Some(holder) = &self.load.holder
            && !holder_lives(&world.sql("kasho").await?, holder).await?
        {
            return Err(SnapshotError::Gone.into());
        }
        let (mut writer, progress) = writer(&world, self.load.epoch, &self.figures).await?;
        self.figures.resume(&progress);
        let mut left = Left::new(&self.load, &progress);
        for oid in left.already_done(&self.load) {
            self.table_done(oid).await;
        }
        let config = ReaderConfig { workers: world.config.bootstrap.workers as usize };
        let mut reader = Reader::open(&world.info, config, &self.load, &catalog, &progress)?;
        let mut chains = Chains::new(&world.handle);
        let mut rate = Rate::new(world.config.bootstrap.max_rate.0);
        let _ = self.events.send(Event::LoadTrouble(None)).await;
        while let Some(slice) = reader.next().await? {
            let Slice { table, key, progress, batch, bytes } = slice;
            let (rows, generation) = (batch.rows.len() as u64, chains.adopt());
            let batch = match batch.rows.is_empty() {
                true => batch,
                false => chains.apply(batch).await?,
            };
            let field = vec![(key.to_string(), Some(progress.to_string()))];
            writer.append(&batch, generation, field).await?;
            self.figures.add(key.oid, rows, bytes);
            if progress.done && left.range_done(key.oid) {
                self.table_done(self.load.tables[table].oid).await;
            }
            rate.spend(bytes).await;
        }
        writer.flush().await?;
        Ok(writer.close().await?)
    }

    async fn table_done(&mut self, oid: u32) {
        let (rows, _) = self.figures.table(oid);
        if let Some(table) = self.load.tables.iter_mut().find(|table| table.oid == oid) {
            table.done = true;
        }
        let _ = self.events.send(Event::TableDone { oid, rows }).await;
    }
}

async fn stored_catalog(world: &World) -> Result<Catalog, LoadError> {
    let mut store = world.redis_store().await?;
    let stored = store.catalog().await.map_err(|e: StoreError| SinkError::from(e))?;
    let text = stored.ok_or_else(|| LoadError::Catalog("there is none".to_owned()))?;
    serde_json::from_slice(&text).map_err(|error| LoadError::Catalog(error.to_string()))
}

/// Ranges that are still to be read, by table.
struct Left(BTreeMap<u32, u32>);

impl Left {
    fn new(load: &Load, progress: &Progress) -> Left {
        let left = |table: &TableLoad| {
            let done = progress.iter().filter(|(key, range)| key.oid == table.oid && range.done);
            table.ranges.saturating_sub(u32::try_from(done.count()).unwrap_or(u32::MAX))
        };
        Left(load.tables.iter().map(|table| (table.oid, left(table))).collect())
    }

    /// Tables whose last range was published before the phase could say so.
    fn already_done(&self, load: &Load) -> Vec<u32> {
        let open = load.tables.iter().filter(|table| !table.done);
        open.map(|table| table.oid).filter(|oid| self.0.get(oid) == Some(&0)).collect()
    }

    /// Counts a range; true if it was its table's last.
    fn range_done(&mut self, oid: u32) -> bool {
        let left = self.0.entry(oid).or_default();
        *left = left.saturating_sub(1);
        *left == 0
    }
}

/// Holds the load back to a number of bytes a second.
struct Rate {
    bytes_per_second: u64,
    due: Instant,
}

impl Rate {
    /// 0 = no limit.
    fn new(bytes_per_second: u64) -> Rate {
        Rate { bytes_per_second, due: Instant::now() }
    }

    async fn spend(&mut self, bytes: u64) {
        if self.bytes_per_second == 0 {
            return;
        }
        let us = bytes.saturating_mul(1_000_000) / self.bytes_per_second;
        self.due = self.due.max(Instant::now()) + Duration::from_micros(us);
        tokio::time::sleep_until(self.due).await;
    }
}

//! Keeps the initial load running. Whatever interrupts it, it goes on behind the last
//! slice that was published; only a snapshot that is gone cannot be gone on with.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::{Event, World};
use crate::bootstrap::{Load, LoadMode};
use crate::control::LoadFigures;
use crate::error::Class;
use crate::load::{self, Loader, TableDone};
use crate::pipeline::{Classified, Ended};
use crate::position::Epoch;
use crate::sink::SinkError;
use crate::sink::load::{LoadWriter, Resumed};
use crate::sink::publisher::WriterToken;
use crate::sink::redis::RedisStore;
use crate::sink::store::Registry;
use crate::source::catalog::Catalog;
use crate::source::error::SourceError;
use crate::source::snapshot::{Reader, ReaderConfig, SnapshotError, holder_lives};
use crate::transform::{Chains, TransformError};

/// How far the load has come, for the status.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    pub(super) figures: watch::Sender<LoadFigures>,
    pub(super) sink: crate::sink::status::Status,
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
    Run(#[from] load::Error<TransformError>),
    #[error(transparent)]
    Progress(#[from] load::ProgressError),
    #[error("no random numbers for a writer's token: {0}")]
    Random(#[from] getrandom::Error),
    #[error("the catalogue in Redis cannot be read ({0}): `kasho reset`, then bootstrap again")]
    Catalog(String),
}

impl LoadError {
    fn class(&self) -> Class {
        match self {
            LoadError::Source(e) => e.class(),
            LoadError::Snapshot(e) => e.class(),
            // A lease of before a restart runs out by itself.
            LoadError::Sink(SinkError::Leased { .. }) | LoadError::Random(_) => Class::Retry,
            LoadError::Sink(e) => e.class(),
            LoadError::Run(e) => e.class(),
            LoadError::Progress(_) | LoadError::Catalog(_) => Class::Halt,
        }
    }
}

/// Takes the loader's turn in the name of this engine, and says how far the load is.
pub(super) async fn writer(
    world: &World,
    epoch: Epoch,
    shared: &Shared,
) -> Result<(LoadWriter<RedisStore>, Resumed), LoadError> {
    let store = world.redis_store().await?;
    let (owner, token) = (format!("engine {}", world.slot), WriterToken::random()?);
    let redis = &world.config.redis;
    Ok(LoadWriter::open(store, redis, epoch, &owner, token, shared.sink.clone()).await?)
}

/// The load's supervisor.
pub(super) struct Loading {
    pub(super) world: Arc<World>,
    pub(super) load: Load,
    pub(super) shared: Shared,
    pub(super) events: mpsc::Sender<Event>,
}

impl Loading {
    /// Runs until everything is loaded, it is stopped, or only a person can help.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let generation = self.world.handle.newest().number();
            let ended = self.once(&stop).await;
            self.shared.sink.pause(None);
            let error = match ended {
                Ok(Ended::Stopped) => return,
                Ok(Ended::Closed) => {
                    let _ = self.events.send(Event::Loaded).await;
                    return;
                }
                Err(error) => error,
            };
            let text = error.to_string();
            if error.class() == Class::Halt {
                tracing::error!(error = %text, "the load has halted");
                let _ = self.events.send(Event::LoadHalted { error: text, generation }).await;
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

    async fn once(&self, stop: &CancellationToken) -> Result<Ended, LoadError> {
        let world = Arc::clone(&self.world);
        let catalog = stored_catalog(&world).await?;
        if let Some(holder) = &self.load.holder
            && self.load.mode == LoadMode::Direct
            && !holder_lives(&world.sql("kasho").await?, holder).await?
        {
            return Err(SnapshotError::Gone.into());
        }
        let (mut writer, resumed) = writer(&world, self.load.epoch, &self.shared).await?;
        let progress = load::progress(&resumed.progress)?;
        let config = ReaderConfig { workers: world.config.bootstrap.workers as usize };
        let plan = (&self.load, &catalog);
        let reader = Reader::open(&world.info, config, plan, &world.known, &progress)?;
        let _ = self.events.send(Event::LoadTrouble(None)).await;
        let (events, mut late) = (self.events.clone(), Vec::new());
        let told = |table: TableDone| {
            // At once where the mailbox has room, after the run otherwise.
            let event = Event::TableDone { oid: table.oid, rows: table.rows };
            if events.try_send(event).is_err() {
                late.push(table);
            }
        };
        let ended = Loader {
            reader,
            chains: &mut Chains::new(&world.handle),
            writer: &mut writer,
            max_rate: world.config.bootstrap.max_rate.0,
            figures: self.shared.figures.clone(),
        }
        .run(&self.load, &progress, told, stop.clone())
        .await;
        for TableDone { oid, rows } in late {
            let _ = self.events.send(Event::TableDone { oid, rows }).await;
        }
        let ended = ended?;
        writer.close().await?;
        Ok(ended)
    }
}

async fn stored_catalog(world: &World) -> Result<Catalog, LoadError> {
    let mut store = world.redis_store().await?;
    let stored = store.catalog().await.map_err(SinkError::from)?;
    let text = stored.ok_or_else(|| LoadError::Catalog("there is none".to_owned()))?;
    serde_json::from_slice(&text).map_err(|error| LoadError::Catalog(error.to_string()))
}

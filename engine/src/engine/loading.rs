//! Keeps the initial load running. Whatever interrupts it, it goes on behind the last
//! slice that was published; if the snapshot is gone, the engine has another one made for
//! the tables that were not finished.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::described::Learning;
use super::{Event, World};
use crate::bootstrap::{self, Blocking, Load, LoadMode, Phase};
use crate::control::LoadFigures;
use crate::error::Class;
use crate::load::{self, Loader, TableDone};
use crate::pipeline::{Classified, Ended};
use crate::position::{Epoch, Lsn};
use crate::sink::SinkError;
use crate::sink::load::{LoadWriter, Resumed};
use crate::sink::publisher::WriterToken;
use crate::sink::redis::RedisStore;
use crate::sink::store::Registry;
use crate::source::catalog::Catalog;
use crate::source::error::SourceError;
use crate::source::snapshot::{
    Holder, HolderSpec, Reader, ReaderConfig, Report, SnapshotError, holder_lives,
};
use crate::transform::TransformError;

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
    #[error("Redis does not hold the state that this load is of: looking what it holds")]
    OtherState,
    #[error("the catalogue in Redis cannot be read ({0}): `kasho reset`, then bootstrap again")]
    Catalog(String),
}

impl LoadError {
    /// What is not loaded yet has to be read at another snapshot.
    fn snapshot_gone(&self) -> bool {
        let gone = |e: &SnapshotError| matches!(e, SnapshotError::Gone);
        match self {
            LoadError::Snapshot(e) | LoadError::Run(load::Error::Source(e)) => gone(e),
            _ => false,
        }
    }

    fn class(&self) -> Class {
        match self {
            LoadError::Source(e) => e.class(),
            LoadError::Snapshot(e) => e.class(),
            // A lease of before a restart runs out by itself.
            LoadError::Sink(SinkError::Leased { .. })
            | LoadError::Random(_)
            | LoadError::OtherState => Class::Retry,
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
    /// Of tables that are loaded again: their mark, and where their rows begin.
    pub(super) section: Option<(Lsn, u64)>,
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
            if error.snapshot_gone() {
                tracing::warn!(error = %text, "the load needs another snapshot");
                let _ = self.events.send(Event::SnapshotGone).await;
                return;
            }
            if matches!(error, LoadError::OtherState) {
                tracing::warn!(error = %text, "the load does not go on");
                let _ = self.events.send(Event::OtherState(text)).await;
                return;
            }
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

    /// Whether the stored phase is that of this load.
    async fn is_stored(&self) -> Result<bool, LoadError> {
        let stored = self.world.redis_store().await?.state().await.map_err(SinkError::from)?;
        let phase = stored.and_then(|text| bootstrap::load(&String::from_utf8_lossy(&text)).ok());
        let load = phase.as_ref().and_then(Phase::open_load);
        Ok(load.is_some_and(|load| load.reads_as(&self.load)))
    }

    async fn once(&self, stop: &CancellationToken) -> Result<Ended, LoadError> {
        let world = Arc::clone(&self.world);
        let catalog = stored_catalog(&world).await?;
        let mut load = self.load.clone();
        let (mut writer, resumed) = writer(&world, load.epoch, &self.shared).await?;
        // From here on: with a server that has lost its last writes the writer is lost too. Else
        // two loads might be under way by one attempt, from two snapshots.
        if !self.is_stored().await? {
            return Err(LoadError::OtherState);
        }
        let mut progress = load::progress(&resumed.progress)?;
        if let Some((mark, first)) = self.section {
            load::begin_section(mark, first, &resumed, &mut writer).await?;
        }
        let name = |table: &str| world.handle.newest().leaves_as(table);
        load::begin_again(&load, &name, &mut progress, &mut writer).await?;
        // Before anything can go wrong: what is published whole stays, come what may.
        for TableDone { oid, attempt, rows } in load::settle(&mut load, &progress) {
            let _ = self.events.send(Event::TableDone { oid, attempt, rows }).await;
        }
        if load.mode == LoadMode::Direct
            && load.tables.iter().any(|table| !table.done)
            && let Some(holder) = &load.holder
            && !holder_lives(&world.sql("kasho").await?, holder).await?
        {
            return Err(SnapshotError::Gone.into());
        }
        let config = ReaderConfig { workers: world.config.bootstrap.workers as usize };
        let plan = (&load, &catalog);
        let reader = Reader::open(&world.info, config, plan, &world.known, &progress)?;
        let _ = self.events.send(Event::LoadTrouble(None)).await;
        let (events, mut late) = (self.events.clone(), Vec::new());
        let told = |table: TableDone| {
            // At once where the mailbox has room, after the run otherwise.
            let TableDone { oid, attempt, rows } = table;
            let event = Event::TableDone { oid, attempt, rows };
            if events.try_send(event).is_err() {
                late.push(table);
            }
        };
        let ended = Loader {
            reader,
            chains: &mut Learning::new(&world),
            writer: &mut writer,
            max_rate: world.config.bootstrap.max_rate.0,
            figures: self.shared.figures.clone(),
        }
        .run(&load, &progress, told, stop.clone())
        .await;
        for TableDone { oid, attempt, rows } in late {
            let _ = self.events.send(Event::TableDone { oid, attempt, rows }).await;
        }
        let ended = ended?;
        writer.close().await?;
        Ok(ended)
    }
}

/// Has a new holder keep a later snapshot, for as long as that takes: nobody else can go
/// on with the load. There is none as long as nobody could store whose it is.
pub(super) async fn rehold(
    world: &World,
    spec: HolderSpec,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::default();
    loop {
        let made = async {
            world.inspect().await?;
            let by = world.handle.newest().run().clone();
            let made = make(&spec, &events, 0, &stop).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(made.map(|made| (made, by)))
        };
        let error = tokio::select! {
            () = stop.cancelled() => return,
            made = made => match made {
                Ok(None) => return,
                Ok(Some(((report, holder), by))) => {
                    let event = Event::Reheld(Box::new(report), Box::new(holder), by);
                    let _ = events.send(event).await;
                    return;
                }
                Err(error) => format!("no later snapshot for the rest of the load yet: {error}"),
            },
        };
        tracing::warn!(%error, "trying again");
        let _ = events.send(Event::LoadTrouble(Some(error))).await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next()) => {}
        }
    }
}

/// Starts a holder and waits until what it is for stands. `attempt` is that of the
/// bootstrap; 0 for a later snapshot. None: stopped, and nothing of it stands.
pub(super) async fn make(
    spec: &HolderSpec,
    events: &mpsc::Sender<Event>,
    attempt: u64,
    stop: &CancellationToken,
) -> Result<Option<(Report, Holder)>, Box<dyn std::error::Error + Send + Sync>> {
    let mut holder = Holder::spawn(&program()?, spec).await?;
    let waiting = |blocking: Option<Blocking>| {
        let _ = events.try_send(Event::Waiting { attempt, blocking });
    };
    let Some(report) = stop.run_until_cancelled(holder.ready(waiting)).await else {
        holder.give_up().await;
        return Ok(None);
    };
    Ok(Some((report?, holder)))
}

/// The holder is this very program: also if its file was removed, or replaced by another version's,
/// since it was started, which an upgrade does before it restarts the service.
fn program() -> std::io::Result<PathBuf> {
    let file = std::env::current_exe()?;
    Ok(if file.exists() { file } else { PathBuf::from("/proc/self/exe") })
}

async fn stored_catalog(world: &World) -> Result<Catalog, LoadError> {
    let mut store = world.redis_store().await?;
    let stored = store.catalog().await.map_err(SinkError::from)?;
    let text = stored.ok_or_else(|| LoadError::Catalog("there is none".to_owned()))?;
    serde_json::from_slice(&text).map_err(|error| LoadError::Catalog(error.to_string()))
}

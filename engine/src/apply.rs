//! Applying the streams to a PostgreSQL database: `kasho apply`, under the document's name
//! pg-translicator. Reads as a registered consumer, writes the load and then the changes,
//! and keeps how far it is in the target itself, in the same transaction as the rows.
//!
//! What can go wrong: either server is away, which is tried again; the target is not what the
//! source was, or somebody else applies under the same name, which ends the applier with
//! what to do ([`ApplyError`]).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::engine::backoff::Backoff;
use crate::error::Class;
use crate::http::Http;
use crate::position::{Epoch, EpochPosition, Position};
use crate::reader::{From, ReaderError, StreamReader};
use crate::sink::budget::Budgeter;
use crate::sink::consumers;
use crate::sink::entry::Content;
use crate::sink::id::Lane;
use crate::sink::redis::{RedisConnector, RedisStore};
use crate::sink::store::{Connect, Store};
use crate::source::conninfo::Conninfo;
use crate::source::error::SourceError;

mod acknowledge;
mod change;
pub mod config;
mod ddl;
pub mod error;
mod feed;
mod figures;
mod join;
mod load;
mod pipe;
mod progress;
mod sequences;
mod session;
mod sql;
mod stream;
mod table;
mod text;
mod truncate;

pub use error::ApplyError;
pub use figures::Figures;

use feed::{Chunk, Feed};
use load::Load;
use pipe::Pipe;
use progress::At;
use stream::Applier;

/// Between two looks for a first bootstrap, or for the lock.
const LOOK: Duration = Duration::from_secs(1);
/// What of the load was taken is committed so often.
const TICK: Duration = Duration::from_secs(1);
/// Whoever asks it to end waits so long for the end of the source's transaction.
const PATIENCE: Duration = Duration::from_secs(5);

/// When it ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Stopped,
    /// When the load is applied.
    Loaded,
    /// When nothing more waits in Redis, and the load is applied.
    CaughtUp,
    /// When the target has everything up to here.
    Position(EpochPosition),
}

/// Beside the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// When it ends by itself.
    pub until: Until,
    /// The schema change at this position was made by hand.
    pub ddl_done: Option<EpochPosition>,
}

/// Applies until `stop`, or as long as `options` say.
///
/// # Errors
/// What trying again does not mend.
pub async fn run(
    config: &crate::config::Config,
    options: Options,
    stop: CancellationToken,
) -> Result<(), ApplyError> {
    let target = config.apply.target.as_ref().ok_or(ApplyError::NoTarget)?;
    let info = Conninfo::parse(target.expose_secret()).map_err(SourceError::from)?;
    let figures = Arc::new(Figures::default());
    let listen = crate::http::Config { listen: config.apply.listen, ..config.http.clone() };
    let http = Http::bind(&listen).await?;
    tracing::info!(address = %http.address(), target = info.describe(), "applying");
    let mut listener = JoinSet::new();
    listener.spawn(http.serve(Arc::clone(&figures), stop.clone()));
    let mut backoff = Backoff::default();
    loop {
        let attempt = Attempt { config, info: &info, figures: &figures, options, stop: &stop };
        match attempt.run().await {
            Ok(()) => return Ok(()),
            Err(error) if error.class() == Class::Retry && !stop.is_cancelled() => {
                let pause = backoff.next();
                tracing::warn!(%error, pause_ms = pause.as_millis(), "trying again");
                figures.trouble(Some(error.to_string()));
                figures.attempts.fetch_add(1, Relaxed);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => return Ok(()),
                }
            }
            // Where one of the two servers stops, so may we.
            Err(error) if error.class() == Class::Retry => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// One life of the sessions.
struct Attempt<'a> {
    config: &'a crate::config::Config,
    info: &'a Conninfo,
    figures: &'a Arc<Figures>,
    options: Options,
    stop: &'a CancellationToken,
}

impl Attempt<'_> {
    async fn run(&self) -> Result<(), ApplyError> {
        let (mut session, traits) = session::connect(self.info).await?;
        progress::prepare(&session, &traits.role).await?;
        if !self.lock(&session).await? {
            return Ok(());
        }
        let redis = RedisConnector::new(&self.config.redis);
        let mut store = redis.connect().await?;
        let consumer = self.config.apply.consumer.clone();
        let added = consumers::add(&mut store, &consumer).await?;
        let Some(epoch) = self.epoch(&mut store).await? else { return Ok(()) };
        let writer = token()?;
        let mut progress = progress::take_over(&mut session, &consumer, &writer).await?;
        let system = self.same_source(&mut store, epoch, &progress).await?;
        progress.system = system;
        if let Some(behind) = added.behind
            && (progress.main.epoch != epoch || progress.main.position < behind)
        {
            return Err(ApplyError::Refused(format!(
                "everything through {behind} was trimmed before consumer {consumer:?} was \
                 registered: bootstrap again (kasho reset, then kasho bootstrap)"
            )));
        }
        let most = usize::try_from(self.config.apply.memory.0).unwrap_or(usize::MAX);
        let (committed, watched) = watch::channel(None);
        let (client, traits) = session::connect(self.info).await?;
        let pipe = Pipe::new(client, most / 4, &consumer, Arc::clone(self.figures));
        let (settings, figures) = (self.config.apply.clone(), Arc::clone(self.figures));
        let mut applier = Applier::new(settings, figures, traits, pipe, progress, committed);
        if applier.progress.main.epoch < epoch {
            tracing::info!(%epoch, "a bootstrap that the target has nothing of yet");
            applier.enter(epoch).await?;
        }
        let from = From::After(applier.told(applier.position()));
        tracing::info!(from = %applier.told(applier.position()), "reading");
        let reader = StreamReader::open(redis.connect().await?, from, most / 8).await?;
        applier.ddl_done = self.options.ddl_done;
        applier.stand(reader.is_inside());
        let feed = Feed::start(reader, most / 4);
        let sequences = sequences::Copier::start(self.config, self.info, &applier.progress);
        let acknowledging =
            acknowledge::run(redis.connect().await?, session, consumer, epoch, watched);
        let work = Work { attempt: self, applier, feed, store, load: None, sequences, most };
        // Both end together: whoever fails first says why, and with no error the last
        // acknowledgement is waited for.
        let (worked, acknowledged) = (work.run(), acknowledging);
        futures_util::future::try_join(worked, acknowledged).await.map(drop)
    }

    /// Waits for the lock of this consumer. Not with a statement that waits, for that would
    /// keep the target from vacuuming. Answers whether it was had before the end was asked for.
    async fn lock(&self, session: &Client) -> Result<bool, ApplyError> {
        let name = format!("kasho.applied:{}", self.config.apply.consumer);
        let digest = Sha256::digest(name.as_bytes());
        let key = digest.iter().take(8).fold(0i64, |key, byte| key << 8 | i64::from(*byte));
        let mut told = false;
        loop {
            let sql = "SELECT pg_try_advisory_lock($1)";
            let row = session.query_one(sql, &[&key]).await;
            let had: bool = row.map_err(|e| ApplyError::sql("asking for the lock", &e))?.get(0);
            self.figures.standby.store(!had, Relaxed);
            if had {
                return Ok(true);
            }
            if !told {
                tracing::info!(
                    consumer = self.config.apply.consumer,
                    "another applier is at work: standing by"
                );
                self.figures.trouble(Some("standing by for another applier".to_owned()));
            }
            told = true;
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.stop.cancelled() => return Ok(false),
            }
        }
    }

    /// The epoch to read, once there is one.
    async fn epoch(&self, store: &mut RedisStore) -> Result<Option<Epoch>, ApplyError> {
        let mut told = false;
        loop {
            if let Some(checkpoint) = store.inspect().await?.checkpoint {
                return Ok(Some(checkpoint.epoch));
            }
            if !told {
                tracing::info!("there is nothing to apply yet: waiting for a bootstrap");
                self.figures.trouble(Some(ReaderError::NoEpoch.to_string()));
            }
            told = true;
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.stop.cancelled() => return Ok(None),
            }
        }
    }

    /// The system identifier of the source. What the target has must be of the same.
    async fn same_source(
        &self,
        store: &mut RedisStore,
        epoch: Epoch,
        progress: &progress::Progress,
    ) -> Result<String, ApplyError> {
        let found = store.inspect().await?.checkpoint.ok_or(ReaderError::NoEpoch)?;
        if found.epoch != epoch {
            return Err(ReaderError::OtherEpoch { asked: epoch, current: found.epoch }.into());
        }
        if progress.main.epoch > epoch {
            return Err(ApplyError::Older { target: progress.main.epoch, redis: epoch });
        }
        let other = !progress.system.is_empty() && progress.system != found.system_id;
        if other && progress.main.epoch == epoch {
            return Err(ApplyError::Refused(format!(
                "the target was filled from another source (system identifier {}, Redis holds \
                 changes of {}): give each its own apply.consumer, or its own target",
                progress.system, found.system_id
            )));
        }
        Ok(found.system_id)
    }
}

/// Where this comes while reading, and not with the start, the next start tells more.
fn overtaken(error: ReaderError) -> ApplyError {
    match error {
        ReaderError::OutOfRange { .. } => ApplyError::Overtaken(error),
        error => error.into(),
    }
}

/// A token that nobody else has.
fn token() -> Result<String, ApplyError> {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).map_err(|error| {
        ApplyError::Refused(format!(
            "the system gives no random bytes for the writer's token ({error}), and without one \
             two appliers could not tell each other apart: start again where it does"
        ))
    })?;
    Ok(bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")))
}

/// The loop.
struct Work<'a> {
    attempt: &'a Attempt<'a>,
    applier: Applier,
    feed: Feed,
    store: RedisStore,
    load: Option<Load>,
    sequences: sequences::Copier,
    most: usize,
}

impl Work<'_> {
    async fn run(mut self) -> Result<(), ApplyError> {
        let stop = self.attempt.stop.clone();
        let figures = Arc::clone(self.attempt.figures);
        figures.trouble(None);
        figures.reached(self.applier.told(self.applier.position()));
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
        for entry in chunk.entries {
            match (entry.position, &entry.content) {
                (Position::Bootstrap(_), _) => {
                    if self.load(entry).await? && self.attempt.options.until == Until::Loaded {
                        return Ok(true);
                    }
                }
                (position, Content::Mark { section, tables }) => {
                    tracing::info!(tables = tables.len(), "tables are loaded again");
                    self.applier.mark(position, *section, tables).await?;
                    // What comes next may be there already, and is behind it.
                    if self.over(false).await? {
                        return Ok(true);
                    }
                }
                _ => self.applier.take(entry).await?,
            }
        }
        Ok(false)
    }

    async fn load(&mut self, entry: crate::sink::entry::Entry) -> Result<bool, ApplyError> {
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
        let full = Budgeter::new(Lane::Changes, redis.budget, redis.retention).is_full(&usage);
        if full && self.applier.pends() {
            self.applier.commit().await?;
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
        let whole = !self.applier.inside() && self.load.is_none();
        let position = self.applier.position();
        Ok(match self.attempt.options.until {
            Until::Stopped => false,
            Until::Loaded => empty,
            Until::CaughtUp => whole && empty,
            Until::Position(wanted) => {
                let epoch = self.applier.progress.main.epoch;
                if wanted.epoch.is_some_and(|asked| asked != epoch) {
                    let text = format!("{wanted} is of another epoch than {epoch}, which is read");
                    return Err(ApplyError::Refused(text));
                }
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

impl Applier {
    /// Begins an epoch of which the target has nothing.
    async fn enter(&mut self, epoch: Epoch) -> Result<(), ApplyError> {
        let at = At { epoch, position: Position::START };
        self.swap(at).await?;
        self.pipe.drain().await
    }
}

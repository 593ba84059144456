//! Applying the streams to a PostgreSQL database: `kasho apply`, under the document's name
//! pg-translicator. Reads as a registered consumer, writes the load and then the changes,
//! and keeps how far it is in the target itself, in the same transaction as the rows.
//!
//! What can go wrong: either server is away, which is tried again; the target is not what the
//! source was, or somebody else applies under the same name, which ends the applier with
//! what to do ([`ApplyError`]).

use std::pin::pin;
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
use crate::sink::consumers;
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
mod names;
mod pace;
mod pipe;
mod progress;
mod sequences;
mod session;
mod settings;
mod sql;
mod stream;
mod structure;
mod table;
mod text;
mod truncate;
mod work;

pub use error::ApplyError;
pub use figures::Figures;

use feed::Feed;
use pipe::Pipe;
use progress::At;
use stream::Applier;
use work::Work;

/// Between two looks for the lock.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks for a first bootstrap, whose load is not to wait for us.
const LOOK_FIRST: Duration = Duration::from_millis(100);
/// Whoever asks it to end waits no longer, whatever a statement of the target waits for: more than
/// for the end of the source's transaction, less than a container's ten seconds.
const GRACE: Duration = Duration::from_secs(8);

/// When it ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Stopped,
    /// When the load is applied.
    Loaded,
    /// When nothing more waits in Redis, and the load is applied. Where changes never pause, with
    /// everything that the source had committed when this began.
    CaughtUp,
    /// When the target has everything through here, and nothing of what comes after the end of a
    /// transaction there.
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
    let http = Http::bind(&listen, "apply.listen").await?;
    tracing::info!(address = %http.address(), target = info.describe(), "applying");
    let mut listener = JoinSet::new();
    listener.spawn(http.serve(Arc::clone(&figures), stop.clone()));
    let mut backoff = Backoff::default();
    loop {
        let attempt = Attempt { config, info: &info, figures: &figures, options, stop: &stop };
        let ended = tokio::select! {
            ended = attempt.run() => ended,
            () = late(&stop) => {
                tracing::warn!(
                    "the target answers nothing, a statement waits there for a lock maybe: ended \
                     without what is not committed, which comes again"
                );
                return Ok(());
            }
        };
        match ended {
            Ok(()) => return Ok(()),
            // Nothing is amiss, and the new load is under way.
            Err(ApplyError::Reader(ReaderError::OtherEpoch { asked, current }))
                if asked < current && !stop.is_cancelled() =>
            {
                tracing::info!(epoch = %current, "another bootstrap has begun, going over to it");
            }
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

/// When it was asked to end, and has not, for too long.
async fn late(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(GRACE).await;
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
        let names = (consumer.clone(), writer);
        (progress.system, progress.born) = self.same_source(&mut store, epoch, &progress).await?;
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
        applier.progress.is_of(epoch, &reader.runs(), reader.loaded())?;
        applier.ddl_done = self.options.ddl_done;
        applier.stand(reader.is_inside());
        let feed = Feed::start(reader.undivided(), most / 4);
        let sequences = sequences::Copier::start(self.config, self.info, &applier.progress);
        let acknowledging =
            acknowledge::run(redis.connect().await?, session, consumer, epoch, watched);
        let work = Work::new(self, applier, feed, store, sequences, most);
        // Both end together: whoever fails first says why, and with no error the last
        // acknowledgement is waited for.
        let (worked, acknowledged) = (work.run(), acknowledging);
        // Kept until it is known why it ended: with it the lock would go, and a standby takes
        // over at once.
        let both = pin!(futures_util::future::try_join(worked, acknowledged));
        let ended = both.await.map(drop);
        match ended {
            Err(error) if error.class() == Class::Halt => Err(self.why(names, error).await),
            ended => ended,
        }
    }

    /// What an error comes from. Whoever was taken over, and has not noticed yet, finds rows that
    /// are the other one's: no conflict of the target, and nothing to mend there.
    async fn why(&self, (consumer, writer): (String, String), error: ApplyError) -> ApplyError {
        let owner = async {
            let (session, _) = session::connect(self.info).await.ok()?;
            progress::owner(&session, &consumer).await.ok()?
        };
        match owner.await {
            Some(owner) if owner != writer => ApplyError::Fenced { consumer },
            _ => error,
        }
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
                () = tokio::time::sleep(LOOK_FIRST) => {}
                () = self.stop.cancelled() => return Ok(None),
            }
        }
    }

    /// The system identifier of the source, and the token of the epoch. What the target has must
    /// be of the same.
    async fn same_source(
        &self,
        store: &mut RedisStore,
        epoch: Epoch,
        progress: &progress::Progress,
    ) -> Result<(String, String), ApplyError> {
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
        let known = !progress.born.is_empty() && !found.born.is_empty();
        if known && progress.main.epoch == epoch && progress.born != found.born {
            return Err(ApplyError::Refused(format!(
                "the target holds rows of another bootstrap of the same number, {epoch}: Redis has \
                 lost everything since and counts from 1 again, or is another one. Name the right \
                 one in redis.url; or if this is it: kasho reset, then kasho bootstrap, which \
                 begins the next epoch, empties these tables and fills them again"
            )));
        }
        Ok((found.system_id, found.born))
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

impl Applier {
    /// Begins an epoch of which the target has nothing.
    async fn enter(&mut self, epoch: Epoch) -> Result<(), ApplyError> {
        let at = At { epoch, position: Position::START };
        self.swap(at).await?;
        self.pipe.drain().await
    }
}

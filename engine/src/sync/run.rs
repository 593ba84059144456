//! One run, from the look at Redis to the end of the file, and the runs after it when a
//! connection broke: every reconnect is a restart from what is stored.
//!
//! What can go wrong is told in [`super`].

use std::pin::pin;

use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, MissedTickBehavior};

use super::admit::{self, Admitted, Found};
use super::chain::Chain;
use super::watch::{Look, Watcher};
use super::{Figures, Job, Outcome, PAUSED_FIELD, Stop, Stored, SyncError, Watch, owner};
use crate::batch::Batch;
use crate::bootstrap::{self, Phase};
use crate::config::Config;
use crate::error::Class;
use crate::pipeline::Chains as _;
use crate::position::Lsn;
use crate::sink::SinkError;
use crate::sink::load::{LoadWriter, Resumed};
use crate::sink::publisher::WriterToken;
use crate::sink::redis::{RedisConnector, RedisStore};
use crate::sink::status::Status;
use crate::sink::store::{Checkpoint, Connect};
use crate::source::catalog::{Catalog, Table};
use crate::source::dump::{Dump, DumpError, Mark, Options, Piece, Report};
use crate::transform::Chains;

/// A third of the lease: without rows it is renewed so often.
const RENEW: Duration = Duration::from_secs(10);
/// A Redis that does not come back within this time ends the program.
const PATIENCE: Duration = Duration::from_secs(300);
/// Time to give the turn back after being asked to end.
const GRACE: Duration = Duration::from_secs(3);
/// Pieces between the file's reader and the chain.
const AHEAD: usize = 2;

/// Loads a dump.
///
/// # Errors
/// See [`SyncError`]. What was published stays, and the next run goes on behind it.
pub async fn run(job: &Job, figures: &Watch, stop: &Stop) -> Result<Outcome, SyncError> {
    let mut since = Instant::now();
    let mut pause = Duration::from_millis(500);
    loop {
        let before = figures.borrow().rows;
        let outcome = tokio::select! {
            biased;
            outcome = once(job, figures, stop) => outcome,
            // Whatever does not look at it gives up too, and leaves nothing half done.
            () = late(stop) => return Ok(Outcome::Stopped),
        };
        let error = match outcome {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        if figures.borrow().rows > before {
            (since, pause) = (Instant::now(), Duration::from_millis(500));
        }
        // Standard input cannot be read a second time.
        let again = error.class() == Class::Retry && job.file().is_some();
        if !again || since.elapsed() > PATIENCE {
            return Err(error);
        }
        tracing::warn!(%error, "the load was interrupted; it goes on");
        tokio::select! {
            () = stop.cancelled() => return Ok(Outcome::Stopped),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(15)),
        }
    }
}

async fn once(job: &Job, figures: &Watch, stop: &Stop) -> Result<Outcome, SyncError> {
    let mut config = job.recipe.config()?;
    let mut look = Look::open(&config).await?;
    let found = look.found(&config.redis.prefix).await?;
    if job.dry_run {
        return dry(job, &found, figures, stop).await;
    }
    let admitted = match admit::admit(&found) {
        Ok(admitted) => admitted,
        Err(refusal) => return already(job, &mut look, &found).await?.ok_or(refusal.into()),
    };
    // Rows are written as those of the engine, whose configuration may not be here.
    if let Some(encoding) = admitted.checkpoint.encoding {
        config.redis.encoding = encoding;
    }
    config.redis.load_rows = admitted.checkpoint.load_rows.or(config.redis.load_rows);
    let recipe = job.recipe.clone();
    let (catalog, checkpoint) = (admitted.catalog.clone(), admitted.checkpoint.clone());
    let chain = move || Chain::load(&recipe, &catalog, &checkpoint);
    let chain = blocking(chain).await??;
    let (writer, resumed) = lease(&config, &admitted, &job.status).await?;
    let loading = Loading { job, config, admitted, chain, writer, figures, sent: false };
    loading.run(&resumed, stop).await
}

/// A while after `stop`.
async fn late(stop: &Stop) {
    stop.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

/// Work that blocks: files, compilers, other programs. On a thread that nobody waits for at
/// the end: standard input may stay silent for ever.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SyncError> {
    let (say, done) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(say.send(work())));
    done.await.map_err(|_| SyncError::Internal("a task panicked"))
}

/// Takes the loader's turn: at once from a holder that is dead, never from one that lives,
/// and from one that cannot be looked at when its lease has run out.
async fn lease(
    config: &Config,
    admitted: &Admitted,
    status: &Status,
) -> Result<(LoadWriter<RedisStore>, Resumed), SyncError> {
    let (mut name, mut waited) = (owner::this(), false);
    loop {
        let store = RedisConnector::new(&config.redis).connect().await.map_err(SinkError::from)?;
        let (epoch, token) = (admitted.load.epoch, WriterToken::random()?);
        let opened =
            LoadWriter::open(store, &config.redis, epoch, &name, token, status.clone()).await;
        let (holder, remaining_ms) = match opened {
            Ok(opened) if name == owner::this() => return Ok(opened),
            // In the name of the dead: given back, to be taken in our own.
            Ok((dead, _)) => {
                dead.close().await?;
                name = owner::this();
                continue;
            }
            Err(SinkError::Leased { owner, remaining_ms }) => (owner, remaining_ms),
            Err(error) => return Err(error.into()),
        };
        match owner::life(&holder) {
            owner::Life::Dead => name = holder,
            owner::Life::Unknown if !waited => {
                tracing::warn!(
                    %holder, seconds = remaining_ms.div_ceil(1000),
                    "another loader had the turn; waiting to see whether it goes on"
                );
                tokio::time::sleep(Duration::from_millis(remaining_ms + 100)).await;
                waited = true;
            }
            _ => return Err(SyncError::Busy { owner: holder, remaining_ms }),
        }
    }
}

/// Whether an earlier run has loaded this very file, and the bootstrap went on since.
async fn already(job: &Job, look: &mut Look, found: &Found) -> Result<Option<Outcome>, SyncError> {
    let Some(text) = &found.state else { return Ok(None) };
    let phase = bootstrap::load(&String::from_utf8_lossy(text)).unwrap_or_default();
    let (Phase::Streaming(streaming), Ok(catalog)) = (phase, admit::catalog(found)) else {
        return Ok(None);
    };
    let stored = look.stored(streaming.epoch).await?;
    if !stored.done {
        return Ok(None);
    }
    let (_, same) = open(job, &catalog, streaming.start_lsn, &stored).await?;
    Ok(same.then_some(Outcome::Already(stored)))
}

/// Opens the file, behind what `stored` says was published of it; answers whether it is
/// the stored one, in which case it stands there.
async fn open(
    job: &Job,
    catalog: &Catalog,
    load_lsn: Lsn,
    stored: &Stored,
) -> Result<(Dump, bool), SyncError> {
    let options = Options { load_lsn, ..job.options.clone() };
    let (input, catalog, stored) = (job.input.clone(), catalog.clone(), stored.clone());
    let opened = move || {
        let mark = stored.mark.as_deref().map(str::parse::<Mark>).transpose()?;
        let dump = Dump::open(input, &catalog, options, mark.as_ref())?;
        let same = stored.file.is_none_or(|file| file == dump.identity().to_string());
        Ok::<_, SyncError>((dump, same))
    };
    blocking(opened).await?
}

/// What comes out of the file.
enum Read {
    /// A piece, and the bytes read by then.
    Piece(Piece, u64),
    /// That was all.
    End(Report),
}

/// Reads the file on a thread of its own. It may wait for standard input longer than
/// anybody wants to wait for it, so it is none of the runtime's.
fn pump(mut dump: Dump) -> mpsc::Receiver<Result<Read, DumpError>> {
    let (sender, pieces) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        loop {
            let read = match dump.next() {
                Ok(Some(piece)) => Ok(Read::Piece(piece, dump.read_bytes())),
                Ok(None) => Ok(Read::End(dump.report().clone())),
                Err(error) => Err(error),
            };
            let more = matches!(read, Ok(Read::Piece(..)));
            // Nobody listens any more when the load was ended.
            if sender.blocking_send(read).is_err() || !more {
                return;
            }
        }
    });
    pieces
}

/// The end of a channel whose thread has said no last word.
const PANICKED: SyncError = SyncError::Internal("reading the dump panicked");

/// Counts what stands in the file and is no row.
fn count(figures: &mut Figures, piece: &Piece) {
    match piece {
        Piece::Rows { .. } => {}
        Piece::Ddl { .. } => figures.ddl += 1,
        Piece::Sequence { .. } => figures.sequences += 1,
    }
}

/// `schema.table`.
fn name(catalog: &Catalog, oid: u32) -> String {
    let table = catalog.tables.iter().find(|table| table.oid == oid).map(Table::qualified);
    let root = || catalog.relation(oid).map(|relation| relation.qualified());
    table.or_else(root).unwrap_or_else(|| "a table that is not published".to_owned())
}

/// A load under way.
struct Loading<'a> {
    job: &'a Job,
    config: Config,
    admitted: Admitted,
    chain: Chain,
    writer: LoadWriter<RedisStore>,
    figures: &'a Watch,
    /// File, options and size are stored.
    sent: bool,
}

impl Loading<'_> {
    async fn run(mut self, resumed: &Resumed, stop: &Stop) -> Result<Outcome, SyncError> {
        let mut stored = Stored::read(&resumed.progress);
        self.writer.tell_pauses_in(PAUSED_FIELD);
        let ended = self.load(&mut stored, resumed.entries, stop).await;
        // The turn is given back whatever happened, so that nobody has to wait for it; an
        // error of the writer has spent it, and then its lease runs out by itself.
        if let Err(error) = self.writer.close().await {
            tracing::debug!(%error, "the loader's turn was not given back");
        }
        ended
    }

    async fn load(
        &mut self,
        stored: &mut Stored,
        entries: u64,
        stop: &Stop,
    ) -> Result<Outcome, SyncError> {
        let dump = self.begin(stored).await?;
        if stored.done {
            return Ok(Outcome::Already(stored.clone()));
        }
        // It may have ended before this took its turn; from here on nobody ends it without that.
        Look::open(&self.config).await?.current(self.admitted.load.epoch).await??;
        let epoch = self.admitted.load.epoch.0;
        self.figures.send_modify(|figures| {
            figures.resumed = (stored.rows > 0).then_some(stored.rows);
            (figures.epoch, figures.rows, figures.entries) = (epoch, stored.rows, entries);
            (figures.bytes, figures.total) = (stored.bytes, stored.total);
        });
        let mut pieces = pump(dump);
        let mut chains = Chains::new(&self.chain.handle);
        let mut watcher = Watcher::start(&self.config, self.admitted.load.epoch);
        let ended = watcher.ended();
        let mut ended = pin!(ended);
        let mut renew = tokio::time::interval(RENEW);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let report = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Outcome::Stopped),
                error = &mut ended => return Err(error),
                checkpoint = watcher.checkpoint() => self.heed(checkpoint).await?,
                _ = renew.tick() => {
                    self.store(&Batch::default(), chains.adopt(), stored).await?;
                }
                read = pieces.recv() => {
                    let (piece, bytes) = match read.ok_or(PANICKED)?? {
                        Read::Piece(piece, bytes) => (piece, bytes),
                        Read::End(report) => break report,
                    };
                    // A batch may wait long for room. Whether one that is cut off was
                    // published, the next run reads.
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return Ok(Outcome::Stopped),
                        error = &mut ended => return Err(error),
                        done = self.publish(piece, bytes, &mut chains, stored) => done?,
                    }
                    renew.reset();
                }
            }
        };
        // The engine may have ended the bootstrap while the last rows were on their way.
        Look::open(&self.config).await?.current(self.admitted.load.epoch).await??;
        stored.done = true;
        stored.bytes = stored.bytes.max(stored.total);
        self.store(&Batch::default(), chains.adopt(), stored).await?;
        self.writer.flush().await?;
        Ok(Outcome::Loaded(report))
    }

    /// Opens the file and holds it against what was stored.
    async fn begin(&mut self, stored: &mut Stored) -> Result<Dump, SyncError> {
        let Admitted { load, catalog, .. } = &self.admitted;
        let (epoch, options) = (load.epoch, self.job.options());
        if stored.file.is_some() && stored.options != options {
            let began = stored.options.clone();
            return Err(SyncError::OtherOptions { epoch, began, now: options });
        }
        let (dump, same) = open(self.job, catalog, load.start_lsn, stored).await?;
        if !same {
            let began = stored.file.clone().unwrap_or_default();
            return Err(SyncError::OtherFile { epoch, began, now: dump.identity().to_string() });
        }
        stored.file = Some(dump.identity().to_string());
        stored.options = options;
        stored.total = dump.total_bytes().unwrap_or(0);
        stored.partial = self.job.options.max_rows.is_some();
        Ok(dump)
    }

    /// Takes over the chain of this checkpoint, if it is another one.
    async fn heed(&mut self, checkpoint: Checkpoint) -> Result<(), SyncError> {
        if self.chain.is_old(&checkpoint) {
            let (chain, generation) = (self.chain.clone(), checkpoint.generation);
            self.chain = blocking(move || chain.reload(&checkpoint)).await??;
            tracing::info!(generation, "the engine has another chain, and so has the load");
        }
        Ok(())
    }

    async fn publish(
        &mut self,
        piece: Piece,
        bytes: u64,
        chains: &mut Chains,
        stored: &mut Stored,
    ) -> Result<(), SyncError> {
        self.figures.send_modify(|figures| count(figures, &piece));
        let Piece::Rows { table, batch, mark, .. } = piece else { return Ok(()) };
        let generation = chains.adopt();
        let rows = batch.rows.len() as u64;
        let batch = if rows == 0 { batch } else { chains.apply(batch).await? };
        stored.mark = Some(mark.to_string());
        (stored.rows, stored.bytes) = (stored.rows + rows, bytes);
        let entries = self.store(&batch, generation, stored).await?;
        self.figures.send_modify(|figures| {
            (figures.rows, figures.bytes, figures.entries) = (stored.rows, bytes, entries);
            figures.table = name(&self.admitted.catalog, table);
        });
        Ok(())
    }

    /// Publishes a batch together with how far the load is with it.
    async fn store(
        &mut self,
        batch: &Batch,
        generation: u64,
        stored: &Stored,
    ) -> Result<u64, SyncError> {
        let mut fields = stored.fields();
        if std::mem::replace(&mut self.sent, true) && !stored.done {
            // What does not change is stored once.
            fields.retain(|(name, _)| {
                [".mark", ".rows", ".bytes", ".paused"].iter().any(|end| name.ends_with(end))
            });
        }
        Ok(self.writer.append(batch, generation, fields).await?)
    }
}

/// Everything but publishing: what a load of this file would do.
async fn dry(job: &Job, found: &Found, figures: &Watch, stop: &Stop) -> Result<Outcome, SyncError> {
    if let Err(refusal) = admit::admit(found) {
        tracing::warn!("a load would be refused now: {refusal}");
    }
    let catalog = admit::catalog(found)?;
    let (recipe, checkpoint) = (job.recipe.clone(), found.checkpoint.clone());
    let no_epoch = || super::Refusal::NoState(found.prefix.clone());
    let (checkpoint, tables) = (checkpoint.ok_or_else(no_epoch)?, catalog.clone());
    let chain = blocking(move || Chain::load(&recipe, &tables, &checkpoint)).await??;
    let (dump, _) = open(job, &catalog, Lsn::ZERO, &Stored::default()).await?;
    let total = dump.total_bytes().unwrap_or(0);
    let mut pieces = pump(dump);
    let mut chains = Chains::new(&chain.handle);
    loop {
        let read = tokio::select! {
            () = stop.cancelled() => return Ok(Outcome::Stopped),
            read = pieces.recv() => read,
        };
        let (piece, bytes) = match read.ok_or(PANICKED)?? {
            Read::Piece(piece, bytes) => (piece, bytes),
            Read::End(report) => return Ok(Outcome::Dry(report)),
        };
        figures.send_modify(|figures| count(figures, &piece));
        let Piece::Rows { table, batch, .. } = piece else { continue };
        let rows = batch.rows.len() as u64;
        let batch = chains.apply(batch).await?;
        let kept = batch.rows.iter().filter(|row| !row.dropped).count() as u64;
        figures.send_modify(|figures| {
            (figures.rows, figures.entries) = (figures.rows + rows, figures.entries + kept);
            (figures.bytes, figures.total) = (bytes, total);
            figures.table = name(&catalog, table);
        });
    }
}

//! The loop: receive → transform → publish → make durable → acknowledge. The only file
//! that knows this order, and the only one that sees source, chain and sink together.
//!
//! One batch is in flight at a time. While a batch waits (for a full sink, a slow
//! plugin) the source's own task goes on answering the server; nothing is read from it
//! beyond its bounded queue. Whatever goes wrong ends the run with an error: the next
//! run starts from what the sink durably holds, so nothing is lost or repeated. An
//! error says whether that is worth trying ([`Error::class`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::ack::{Durable, Lag, Ledger};
use crate::batch::Batch;
use crate::error::Class;
use crate::position::{Lsn, Position};
use crate::sink::Sink;
use crate::source::{Received, Source};

/// After a publish, durability is waited for at the latest this much later.
const FLUSH_MS: u64 = 100;
/// An idle stream's checkpoint is written at most this often.
const CONFIRM_MS: u64 = 1_000;

/// Where the pipeline takes its chain from. Two implementations: the WASM generations
/// of [`crate::transform`], and the simulation's native ones.
pub trait Chains: Send {
    /// What a chain reports instead of rows.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The number of the generation that batches pass until another is adopted.
    fn adopted(&self) -> u64;

    /// Takes the newest generation and says its number. Called only where a
    /// transaction begins, so that a transaction passes through one generation.
    fn adopt(&mut self) -> u64;

    /// Passes every row of the batch through the adopted generation.
    ///
    /// # Errors
    /// A plugin failed and its policy says to halt. The batch is gone; nothing of it
    /// may be published.
    fn apply(&mut self, batch: Batch) -> impl Future<Output = Result<Batch, Self::Error>> + Send;
}

/// Errors know whether trying again can help.
pub trait Classified {
    /// Retry or halt.
    fn class(&self) -> Class;
}

/// What ended a run, by station.
#[derive(Debug, thiserror::Error)]
pub enum Error<S, C, K>
where
    S: std::error::Error + 'static,
    C: std::error::Error + 'static,
    K: std::error::Error + 'static,
{
    /// PostgreSQL's side.
    #[error("source: {0}")]
    Source(#[source] S),
    /// A plugin, or a rule.
    #[error("transform: {0}")]
    Transform(#[source] C),
    /// Redis's side.
    #[error("sink: {0}")]
    Sink(#[source] K),
}

impl<S, C, K> Classified for Error<S, C, K>
where
    S: std::error::Error + Classified + 'static,
    C: std::error::Error + Classified + 'static,
    K: std::error::Error + Classified + 'static,
{
    fn class(&self) -> Class {
        match self {
            Error::Source(e) => e.class(),
            Error::Transform(e) => e.class(),
            Error::Sink(e) => e.class(),
        }
    }
}

/// Why a run ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// The server closed the stream in good order.
    Closed,
}

/// Counters that others may read while the pipeline runs.
#[derive(Debug, Default)]
pub struct Figures {
    /// Rows received, before filtering, in this process's life.
    pub rows: AtomicU64,
    /// Transactions finished.
    pub transactions: AtomicU64,
    /// Commit LSN of the newest published transaction.
    pub published_lsn: AtomicU64,
    /// What PostgreSQL was last told.
    pub confirmed_lsn: AtomicU64,
    /// Generation that the newest batch passed through.
    pub generation: AtomicU64,
}

/// Where a run goes on: what the sink says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The last position it holds.
    pub published: Position,
    /// What its checkpoint says PostgreSQL may be told.
    pub confirmed: Lsn,
    /// A transaction that it holds in part: it is finished by the chain it began with, …
    pub unfinished: Option<Lsn>,
    /// … under the number of the newest entries, which that chain may have lost since.
    pub generation: u64,
}

/// The stations of one run, and where it starts.
#[derive(Debug)]
pub struct Pipeline<S, C, K> {
    source: S,
    chains: C,
    sink: K,
    ledger: Ledger,
    start: Start,
    generation: u64,
    figures: Arc<Figures>,
    started: Instant,
    flush_due_ms: Option<u64>,
    /// When the confirmation last rose.
    confirmed_at_ms: Option<u64>,
    /// The confirmation that the newest publish carried and no flush has secured yet.
    carried: Lsn,
}

impl<S: Source, C: Chains, K: Sink> Pipeline<S, C, K> {
    /// A run that goes on after what the sink holds.
    pub fn new(
        (source, chains, sink): (S, C, K),
        start: Start,
        lag: Lag,
        figures: Arc<Figures>,
    ) -> Self {
        let generation = match start.unfinished {
            Some(_) => start.generation,
            None => chains.adopted(),
        };
        Pipeline {
            source,
            chains,
            sink,
            ledger: Ledger::new(start.confirmed, lag),
            start,
            generation,
            figures,
            started: Instant::now(),
            flush_due_ms: None,
            confirmed_at_ms: None,
            carried: start.confirmed,
        }
    }

    /// Runs until it is stopped, the server closes, or a station fails.
    ///
    /// # Errors
    /// The first failure of a station; see [`Error`].
    pub async fn run(
        mut self,
        stop: CancellationToken,
    ) -> Result<Ended, Error<S::Error, C::Error, K::Error>> {
        // What an earlier run had stored and did not live to tell: if nothing more happens
        // in the database, this is the only time.
        let durable = self.ledger.confirmed(self.start.confirmed);
        self.source.acknowledge(durable);
        loop {
            let due = self.next_due();
            let received = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    let finished = self.finish().await;
                    self.source.close().await;
                    return finished.map(|()| Ended::Stopped);
                }
                received = self.source.next() => Some(received.map_err(Error::Source)?),
                () = sleep_until(due) => None,
            };
            match received {
                Some(Received::Batch(batch)) => self.carry(batch).await?,
                Some(Received::Idle { wal_end }) => self.note_published(wal_end),
                Some(Received::Closed) => {
                    self.secure().await?;
                    return Ok(Ended::Closed);
                }
                None => {}
            }
            self.settle().await?;
        }
    }

    /// One batch through chain and sink.
    async fn carry(&mut self, mut batch: Batch) -> Result<(), Error<S::Error, C::Error, K::Error>> {
        self.figures.rows.fetch_add(batch.rows.len() as u64, Relaxed);
        let ends = batch.pieces.iter().filter_map(|piece| piece.end_lsn);
        let (count, end) = ends.fold((0, None), |(n, _), lsn| (n + 1, Some(lsn)));
        let unfinished = self
            .start
            .unfinished
            .is_some_and(|lsn| batch.pieces.first().is_some_and(|piece| piece.commit_lsn <= lsn));
        batch.skip_through(self.start.published);
        if !batch.continues() && !unfinished {
            self.generation = self.chains.adopt();
            self.figures.generation.store(self.generation, Relaxed);
        }
        let batch = match batch.rows.is_empty() {
            true => batch,
            false => self.chains.apply(batch).await.map_err(Error::Transform)?,
        };
        let carried = self.ledger.ripe(self.now_ms());
        self.sink.publish(batch, self.generation, carried).await.map_err(Error::Sink)?;
        self.carried = self.carried.max(carried);
        self.figures.transactions.fetch_add(count, Relaxed);
        if let Some(end) = end {
            self.note_published(end);
        }
        Ok(())
    }

    fn note_published(&mut self, lsn: Lsn) {
        self.ledger.published(lsn);
        self.figures.published_lsn.fetch_max(lsn.0, Relaxed);
        if self.ledger.wants_flush() && self.flush_due_ms.is_none() {
            self.flush_due_ms = Some(self.now_ms() + FLUSH_MS);
        }
    }

    /// Waits for durability and moves the confirmation, each when it is due.
    async fn settle(&mut self) -> Result<(), Error<S::Error, C::Error, K::Error>> {
        if self.flush_due_ms.is_some_and(|due| due <= self.now_ms()) {
            self.secure().await?;
        }
        if self.confirm_due_ms() <= self.now_ms() {
            self.confirm().await?;
        }
        Ok(())
    }

    /// The last words: everything published is made durable, and PostgreSQL told of all
    /// that may be told by now.
    async fn finish(&mut self) -> Result<(), Error<S::Error, C::Error, K::Error>> {
        self.secure().await?;
        self.confirm().await
    }

    /// Moves the confirmation as far as it may be by now.
    async fn confirm(&mut self) -> Result<(), Error<S::Error, C::Error, K::Error>> {
        let ripe = self.ledger.ripe(self.now_ms());
        if self.ledger.wants_confirm() {
            let position = self.ledger.durable();
            self.sink.confirm(position, ripe).await.map_err(Error::Sink)?;
            self.carried = self.carried.max(ripe);
            self.secure().await?;
        }
        Ok(())
    }

    /// Makes everything published durable, then tells the source what that allows.
    async fn secure(&mut self) -> Result<(), Error<S::Error, C::Error, K::Error>> {
        self.sink.flush().await.map_err(Error::Sink)?;
        self.flush_due_ms = None;
        self.ledger.flushed(self.now_ms());
        let before = self.ledger.confirmed(Lsn::ZERO);
        let durable: Durable = self.ledger.confirmed(self.carried);
        // A flush that confirms nothing must not put the next confirmation off: they come
        // ten times a second while others write.
        if durable > before {
            self.confirmed_at_ms = Some(self.now_ms());
        }
        self.figures.confirmed_lsn.fetch_max(durable.lsn().0, Relaxed);
        self.source.acknowledge(durable);
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn confirm_due_ms(&self) -> u64 {
        self.confirmed_at_ms.map_or(0, |at| at + CONFIRM_MS)
    }

    /// When [`Pipeline::settle`] has something to do although nothing arrives.
    fn next_due(&self) -> Option<Instant> {
        let ripens = match self.ledger.wants_confirm() {
            true => Some(0),
            false => self.ledger.ripens_at_ms(),
        };
        let confirm = ripens.map(|at| at.max(self.confirm_due_ms()));
        let due = [self.flush_due_ms, confirm].into_iter().flatten().min()?;
        Some(self.started + Duration::from_millis(due))
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

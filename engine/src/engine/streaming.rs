//! Keeps the pipeline running: opens slot and sink, runs, and opens them again from what
//! is durable when something fails that can heal. What cannot heal is told to the engine,
//! and nothing more is acknowledged.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::described::{self, Notes};
use super::generations::Stopped;
use super::{Event, Running, World};
use crate::ack::Lag;
use crate::error::Class;
use crate::pipeline::{self, Classified, Ended, Figures, Pipeline, Start};
use crate::position::Lsn;
use crate::sink::SinkError;
use crate::sink::publisher::{Claim, Opening, Promotion, Publisher, WriterToken};
use crate::source::error::SourceError;
use crate::source::wal::{self, ReplSession, WalSource};
use crate::transform::TransformError;

/// Anything that ends one run of the stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Run(#[from] pipeline::Error<SourceError, TransformError, SinkError>),
    #[error("no random numbers for a writer's token: {0}")]
    Random(#[from] getrandom::Error),
    #[error("{0}")]
    Generation(String),
}

impl StreamError {
    fn class(&self) -> Class {
        match self {
            StreamError::Source(e) => e.class(),
            StreamError::Sink(e) => e.class(),
            StreamError::Run(e) => e.class(),
            StreamError::Random(_) => Class::Retry,
            StreamError::Generation(_) => Class::Halt,
        }
    }

    /// The slot is gone or cannot be gone on with: the state has to say so.
    fn slot_lost(&self) -> bool {
        let source = match self {
            StreamError::Source(e) | StreamError::Run(pipeline::Error::Source(e)) => e,
            _ => return false,
        };
        matches!(source, SourceError::SlotMissing { .. } | SourceError::SlotLost { .. })
    }
}

/// What the stream shares with the status across its runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    pub(super) pipeline: Arc<Figures>,
    pub(super) sink: crate::sink::status::Status,
    wal: Arc<Mutex<Option<Arc<wal::Figures>>>>,
}

impl Shared {
    /// Figures of the connection, once there was one.
    pub(super) fn wal(&self) -> Option<Arc<wal::Figures>> {
        self.wal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The stream's supervisor.
pub(super) struct Streaming {
    pub(super) world: Arc<World>,
    pub(super) shared: Shared,
    pub(super) events: mpsc::Sender<Event>,
    /// Whoever still keeps the slot since the last halt.
    pub(super) held: Option<Running>,
}

impl Streaming {
    /// Runs until stopped, or until only a person can help; then it keeps the slot.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        if let Some(held) = self.held.take() {
            held.end().await;
        }
        let mut backoff = Backoff::default();
        loop {
            let generation = self.world.handle.newest().number();
            let ended = self.once(&stop).await;
            // Whatever it waited for, it does not any more.
            self.shared.sink.pause(None);
            let trouble = match ended {
                Ok(Ended::Stopped) => return,
                Ok(Ended::Closed) => "PostgreSQL ended the stream: it is shutting down".to_owned(),
                Err(error) if error.class() == Class::Halt => {
                    let slot_lost = error.slot_lost();
                    let chain = matches!(error, StreamError::Run(pipeline::Error::Transform(_)));
                    let error = error.to_string();
                    let error = match chain {
                        true => match self.world.stopped(&error).await {
                            Stopped::ForGood(error) => error,
                            Stopped::Another(told) => {
                                tracing::warn!("another generation goes on: {told}");
                                continue;
                            }
                        },
                        false => error,
                    };
                    tracing::error!(%error, "the stream has halted; nothing more is acknowledged");
                    let halted = Event::StreamHalted { error, slot_lost, generation };
                    let _ = self.events.send(halted).await;
                    if !slot_lost {
                        self.hold(&stop).await;
                    }
                    return;
                }
                Err(_) if stop.is_cancelled() => return,
                Err(error) => error.to_string(),
            };
            tracing::warn!(error = %trouble, "the stream was interrupted; it is opened again");
            let _ = self.events.send(Event::StreamTrouble(Some(trouble))).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    /// Keeps the slot in use and answers the server, and reads and acknowledges nothing: a
    /// slot that nobody uses may be taken by another, or be invalidated
    /// (`idle_replication_slot_timeout`).
    async fn hold(&self, stop: &CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                held = self.hold_once() => {
                    if let Err(error) = held {
                        tracing::debug!(%error, "the slot is not kept in use");
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    async fn hold_once(&self) -> Result<(), SourceError> {
        let world = &self.world;
        let session = ReplSession::connect(&world.info, "kasho").await?;
        let options = wal::Options::from(&world.config.source);
        let held = WalSource::start(session, &options, &world.info, Lsn::ZERO, &world.known);
        let held = held.await?;
        let figures = held.figures();
        while figures.connected() {
            tokio::time::sleep(HELD).await;
        }
        Ok(())
    }

    /// One run, from opening the slot to whatever ends it.
    async fn once(&self, stop: &CancellationToken) -> Result<Ended, StreamError> {
        let world = &self.world;
        let mut session = ReplSession::connect(&world.info, "kasho").await?;
        let system = session.identify_system().await?;
        let history = session.timeline_history(system.timeline).await?;
        world.keep_slot(&mut session).await?;
        let options = wal::Options::from(&world.config.source);
        // Whoever holds the slot raises the token, over the one he saw before he had it.
        let claim = Claim::new(world.redis_store().await?).await?;
        let copied = claim.system_id().unwrap_or(&system.system_identifier).to_owned();
        let source = WalSource::start(session, &options, &world.info, Lsn::ZERO, &world.known);
        let mut source = match source.await {
            Ok(source) => source,
            Err(error) => return Err(world.refused(error, &copied).await.into()),
        };
        source.expect(world.marks.clone(), world.retries.clone());
        // Only now can nobody else move it.
        let confirmed_flush = world.confirmed_flush().await?;
        *self.shared.wal.lock().unwrap_or_else(PoisonError::into_inner) = Some(source.figures());
        let opening = Opening {
            slot: world.slot.as_str().to_owned(),
            system_id: system.system_identifier,
            timeline: system.timeline,
            history: history.iter().map(|s| Promotion { timeline: s.timeline, at: s.at }).collect(),
            confirmed_flush,
            token: WriterToken::random()?,
            accept_gap: world.accept_gap.load(Relaxed),
        };
        let status = self.shared.sink.clone();
        let redis = &world.config.redis;
        let (publisher, opened) = Publisher::open(claim, redis, &opening, status).await?;
        world.settle_marks().await?;
        // Whoever accepted this gap has not seen a later one.
        world.accept_gap.store(false, Relaxed);
        let began = match opened.unfinished {
            Some(lsn) => {
                let finisher = world.to_finish(lsn, &opened.checkpoint).await;
                Some((lsn, finisher.map_err(StreamError::Generation)?))
            }
            None => None,
        };
        let unfinished = began.as_ref().map(|(lsn, _)| *lsn);
        let number = began.as_ref().map(|(_, finisher)| finisher.number);
        let chain = began.map(|(_, finisher)| finisher.chain);
        let notes = Notes::new(self.events.clone(), stop.clone());
        let (chains, sink) = described::pair(world, publisher, notes, chain);
        let lag = Lag { ms: redis.ack_lag_ms, bytes: redis.ack_lag_bytes.0 };
        let figures = Arc::clone(&self.shared.pipeline);
        tracing::info!(slot = %opening.slot, published = %opened.published, "the stream is open");
        let _ = self.events.send(Event::StreamTrouble(None)).await;
        let stations = (source, chains, sink);
        let start = Start {
            published: opened.published,
            confirmed: opened.confirmed,
            unfinished,
            generation: number.unwrap_or(opened.checkpoint.generation),
        };
        let pipeline = Pipeline::new(stations, start, lag, figures);
        Ok(pipeline.run(stop.clone()).await?)
    }
}

/// How often is looked whether a slot is still kept.
const HELD: Duration = Duration::from_millis(500);

/// The longest that a stop waits for the pipeline to finish its batch.
pub(super) const DRAIN: Duration = Duration::from_secs(10);

//! One engine process: opens slot and sink, runs the pipeline, and opens them again when
//! something fails that can heal. The order of its steps is the engine's.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kasho::ack::Lag;
use kasho::error::Class;
use kasho::pipeline::{self, Classified, Ended, Pipeline, Start};
use kasho::sink::SinkError;
use kasho::sink::publisher::{Claim, Opening, Publisher, WriterToken};
use kasho::sink::status::Status;
use kasho::sink::store::{Checkpoint, Connect};
use kasho::source::memory::MemoryError;
use kasho::source::retries::Retries;
use tokio_util::sync::CancellationToken;

use crate::stations::{Generation, Rule, Sabotage, SimSource, pair};
use crate::world::{SLOT, SYSTEM, World};

const BACKOFF_MS: (u64, u64) = (100, 5_000);

/// What a process knows: of its chains, of rows that are to come again, of its publisher.
pub(crate) struct Memory {
    known: Mutex<Known>,
    pub(crate) retries: Retries,
    pub(crate) status: Status,
}

struct Known {
    newest: Generation,
    /// The generation that the stream passed last.
    passed: Option<Generation>,
    /// What generations were made of is kept from process to process.
    kept: bool,
}

impl Memory {
    /// A process starts: the same chain goes on under its number, another one is new.
    pub(crate) fn starting(checkpoint: Option<&Checkpoint>, rule: Rule, kept: bool) -> Arc<Memory> {
        let number = checkpoint.map_or(1, |c| c.generation.max(1));
        let other = checkpoint.is_some_and(|c| c.chain != rule.digest());
        let newest = Generation { number: number + u64::from(other), rule };
        let known = Mutex::new(Known { newest, passed: None, kept });
        Arc::new(Memory { known, retries: Retries::default(), status: Status::default() })
    }

    pub(crate) fn newest(&self) -> Generation {
        self.known.lock().unwrap().newest
    }

    /// The files changed.
    pub(crate) fn reload(&self, rule: Rule) {
        let mut known = self.known.lock().unwrap();
        if known.newest.rule != rule {
            known.newest = Generation { number: known.newest.number + 1, rule };
        }
    }

    pub(crate) fn pass(&self, generation: Generation) {
        self.known.lock().unwrap().passed = Some(generation);
    }

    /// The chain with which a half published transaction began.
    fn to_finish(&self, checkpoint: &Checkpoint) -> Option<Generation> {
        let known = self.known.lock().unwrap();
        let all = [Some(known.newest), known.passed].into_iter().flatten();
        let began = |rule: Rule| rule.digest() == checkpoint.chain;
        all.into_iter().find(|generation| began(generation.rule)).or_else(|| {
            let rule = Rule::ALL.into_iter().find(|rule| known.kept && began(*rule))?;
            Some(Generation { number: checkpoint.generation, rule })
        })
    }
}

/// Why one run of the stream ended.
#[derive(Debug)]
pub(crate) enum Failure {
    Source(MemoryError),
    Sink(SinkError),
    /// Somebody else reads it.
    SlotInUse,
    /// The chain that has to finish a transaction is not to be had.
    Generation(String),
}

impl Failure {
    fn class(&self) -> Class {
        match self {
            Failure::Source(error) => Classified::class(error),
            Failure::Sink(error) => error.class(),
            Failure::SlotInUse => Class::Retry,
            Failure::Generation(_) => Class::Halt,
        }
    }
}

/// Why a process ended.
#[derive(Debug)]
pub(crate) enum Exit {
    /// Only a person can help.
    Halted(Failure),
    /// The server closed.
    Closed,
}

/// A process, from its start to its end, unless it is dropped before.
pub(crate) async fn process(
    world: Arc<World>,
    memory: Arc<Memory>,
    pid: u64,
    delay: Duration,
) -> Exit {
    tokio::time::sleep(delay).await;
    let mut pause = BACKOFF_MS.0;
    loop {
        match once(&world, &memory, pid).await {
            Ok(Ended::Closed | Ended::Stopped) => return Exit::Closed,
            Err(failure) => {
                world.trace.say(format_args!("process {pid}: {failure:?}"));
                if failure.class() == Class::Halt {
                    return Exit::Halted(failure);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
        pause = (pause * 2).min(BACKOFF_MS.1);
    }
}

async fn once(world: &Arc<World>, memory: &Arc<Memory>, pid: u64) -> Result<Ended, Failure> {
    let store = world.redis.connect().await.map_err(|error| Failure::Sink(error.into()))?;
    let claim = Claim::new(store).await.map_err(Failure::Sink)?;
    let session = world.take_slot(pid).ok_or(Failure::SlotInUse)?;
    let source = SimSource::new(world, memory, session);
    let confirmed_flush = world.postgres().confirmed();
    tokio::task::yield_now().await;
    let (timeline, history) = world.timeline();
    let opening = Opening {
        slot: SLOT.to_owned(),
        system_id: SYSTEM.to_owned(),
        timeline,
        history,
        confirmed_flush,
        token: WriterToken(session),
        accept_gap: false,
    };
    let open = Publisher::open(claim, &world.settings, &opening, memory.status.clone());
    let (publisher, opened) = open.await.map_err(Failure::Sink)?;
    world.trace.met("opened");
    let published = opened.published;
    let open = opened.unfinished;
    world.trace.say(format_args!("process {pid}: open after {published}, {open:?} unfinished"));
    let began = match opened.unfinished.filter(|_| world.sabotage != Sabotage::ForgetWhatBegan) {
        Some(_) => {
            world.trace.met("half published");
            let chain = || Failure::Generation(opened.checkpoint.chain.clone());
            let began = memory.to_finish(&opened.checkpoint).ok_or_else(chain)?;
            if began.rule != memory.newest().rule {
                world.trace.met("finished by an older generation");
            }
            Some(began)
        }
        None => None,
    };
    let (chains, sink) = pair(world, memory, publisher, began);
    let settings = &world.settings;
    let lag = Lag { ms: settings.ack_lag_ms, bytes: settings.ack_lag_bytes.0 };
    let unfinished = opened.unfinished.filter(|_| began.is_some());
    let generation = opened.checkpoint.generation;
    let start = Start { published, confirmed: opened.confirmed, unfinished, generation };
    let pipeline = Pipeline::new((source, chains, sink), start, lag, Arc::default());
    pipeline.run(CancellationToken::new()).await.map_err(|error| match error {
        pipeline::Error::Source(error) => Failure::Source(error),
        pipeline::Error::Sink(error) => Failure::Sink(error),
        pipeline::Error::Transform(never) => match never {},
    })
}

/// The session that raised this token, as the checkpoint holds it.
pub(crate) fn session_of(writer: &str) -> Option<u64> {
    u64::from_str_radix(writer.split('-').nth(1)?, 16).ok()
}

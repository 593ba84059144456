//! Configuration in, running tasks out: the service. Owns the [`Phase`], which decides
//! what is open; everybody else asks for a change by a message.
//!
//! A phase is stored before it is acted upon. What can go wrong at the start is either a
//! mistake that somebody has to mend ([`EngineError`], and the process ends), or a server
//! that does not answer yet (it is asked again, and GetStatus says so). Later on nothing
//! ends the process but its operator: what cannot heal halts the stream or the load, and
//! stands in GetStatus.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::bootstrap::{Blocking, Command, Phase, Refusal};
use crate::config::Config;
use crate::control::{Answer, Call, Control, Reply, Shared};
use crate::error::Class;
use crate::http::Http;
use crate::position::Lsn;
use crate::sink::redis::RedisConnector;
use crate::source::snapshot::{Holder, Report};
use crate::systemd::Systemd;
use crate::transform::reload::Watch;
use crate::transform::{Report as ChainReport, Run};

pub(crate) mod backoff;
mod dead;
mod debts;
mod described;
mod effects;
mod generations;
mod guard;
mod lag;
mod loading;
mod memory;
mod observe;
mod prepare;
mod published;
mod reload;
mod running;
mod schema;
mod status;
mod streaming;
mod world;

pub use prepare::{EngineError, check};

use backoff::Backoff;
use debts::Debts;
use guard::Guard;
use lag::LagClock;
pub(crate) use memory::Remembered;
use observe::Observed;
use published::Published;
use running::Running;
use streaming::{DRAIN, Streaming};
use world::World;
pub(crate) use world::tables as chain_catalog;

/// What the engine's own tasks tell it.
enum Event {
    /// Slot creation of this attempt waits for somebody, or for nobody any more.
    Waiting { attempt: u64, blocking: Option<Blocking> },
    /// The holder stands, with everything that the phase needs.
    SlotMade { attempt: u64, report: Box<Report>, holder: Box<Holder> },
    /// It does not, and nothing is left of it.
    SlotFailed { attempt: u64, error: String },
    /// Every range of a table is published.
    TableDone { oid: u32, attempt: u32, rows: u64 },
    /// Every table is.
    Loaded,
    /// The snapshot is gone before everything was loaded.
    SnapshotGone,
    /// Redis does not hold the state that the load is of.
    OtherState(String),
    /// A new holder keeps a later one; what was in force before it was taken.
    Reheld(Box<Report>, Box<Holder>, Run),
    /// The mark of a reload is published.
    Marked(Command),
    /// The load was interrupted (or goes on again).
    LoadTrouble(Option<String>),
    /// The load cannot go on without a person, or another generation than that.
    LoadHalted { error: String, generation: u64 },
    /// The stream was interrupted (or is open again).
    StreamTrouble(Option<String>),
    /// The stream cannot go on without a person, or another generation than that.
    StreamHalted { error: String, slot_lost: bool, generation: u64 },
    /// Schema changes are about to be published, once whoever says so is told that they are
    /// noted, or why not.
    SchemaChanged(schema::Seen, oneshot::Sender<Result<(), Refusal>>),
    /// How tables are published that are to be loaded again; asked for by somebody who waits,
    /// or by the engine.
    Named(Result<reload::Named, Refusal>, Option<Reply<Answer>>),
    /// A new look at both servers.
    Observed(Box<Observed>),
}

/// A slot that is being made, and who asked for it.
struct Starting {
    /// Tells this attempt from one that was cancelled and may still be heard of.
    attempt: u64,
    running: Running,
    reply: Reply<Answer>,
    blocking: Option<Blocking>,
}

/// What keeps the service from doing what it should, by who says so.
#[derive(Default)]
struct Troubles {
    stream: Option<String>,
    load: Option<String>,
    observer: Option<String>,
    /// A change of state that could not be stored yet.
    owed: Option<String>,
}

/// The service while it runs.
struct Engine {
    world: Arc<World>,
    phase: Phase,
    /// The text of the stored phase: a change is stored only over this one.
    stored: Option<Vec<u8>>,
    shared: Arc<Shared>,
    figures: streaming::Shared,
    load: loading::Shared,
    observed: Observed,
    published: Published,
    events: mpsc::Sender<Event>,
    starting: Option<Starting>,
    streaming: Option<Running>,
    /// The stream after a halt: it keeps the slot.
    held: Option<Running>,
    loading: Option<Running>,
    troubles: Troubles,
    /// The slot is being read, as its task last said.
    stream_open: bool,
    /// A schema change was decided about before the halt that it caused was heard of.
    decided: bool,
    lag: LagClock,
    guard: Guard,
    /// The phase was adopted although Redis could not take it.
    unstored: bool,
    /// Attempts so far at making a slot.
    attempts: u64,
    /// Before a later snapshot of the load is made: whatever refuses one refuses the next.
    reholding: Backoff,
    debts: Debts,
    reload: Watch,
    /// Asks for the names of tables that nobody has loaded.
    naming: Option<JoinHandle<()>>,
}

/// Runs the service until `stop`.
///
/// # Errors
/// A mistake in the configuration or on a server that somebody has to mend; nothing was
/// changed anywhere then.
pub async fn run(
    config: Config,
    path: PathBuf,
    accept_gap: bool,
    stop: CancellationToken,
) -> Result<(), EngineError> {
    let world = Arc::new(World::new(config, path, accept_gap)?);
    let control = Control::bind(&world.config.grpc).await?;
    let http = Http::bind(&world.config.http, "http.listen").await?;
    let shared = Shared::new(world.unseen(None, "PostgreSQL and Redis are not looked at yet"));
    tracing::info!(listen = %control.address(), "gRPC is listening");
    tracing::info!(listen = %http.address(), "HTTP is listening: /metrics, /livez, /readyz");
    tokio::spawn(http.serve(Arc::clone(&shared), stop.clone()));
    let telling = tokio::spawn(Systemd::from_env().tell(Arc::clone(&shared), stop.clone()));
    let (mailbox, calls) = mpsc::channel(16);
    let redis = RedisConnector::new(&world.config.redis);
    let serving = control.serve(Arc::clone(&shared), mailbox, redis, stop.clone());
    // A service that nobody can ask any more ends, whatever ended the listener.
    let ends = stop.clone().drop_guard();
    let serving = tokio::spawn(async move {
        let _ends = ends;
        serving.await
    });
    let outcome = serve(world, Arc::clone(&shared), calls, &stop).await;
    stop.cancel();
    // Its last word is STOPPING=1, and is said before this process is gone.
    let _ = telling.await;
    let served = tokio::time::timeout(DRAIN, serving).await;
    outcome?;
    match served {
        Ok(Ok(served)) => Ok(served?),
        Ok(Err(panicked)) => Err(EngineError::Host(format!("the gRPC task ended: {panicked}"))),
        // Clients that do not hang up are cut off.
        Err(_) => Ok(()),
    }
}

async fn serve(
    world: Arc<World>,
    shared: Arc<Shared>,
    calls: mpsc::Receiver<Call>,
    stop: &CancellationToken,
) -> Result<(), EngineError> {
    let Some((phase, stored)) = until_ready(&world, &shared, stop).await? else {
        return Ok(());
    };
    for renamed in phase.renames() {
        let (commit, ordinal) = renamed.at;
        world.known.recall((Lsn(commit), ordinal), &renamed.from, &renamed.to);
    }
    let figures = streaming::Shared::default();
    let reload = world.watch(&figures.pipeline, stop).map_err(EngineError::Host)?;
    let (events, inbox) = mpsc::channel(256);
    let observing = observe::Observer { world: Arc::clone(&world), events: events.clone() };
    let observing = Running::spawn(|stop| observing.run(stop));
    let mut engine = Engine {
        world,
        phase,
        stored,
        shared,
        figures,
        load: loading::Shared::default(),
        observed: Observed::default(),
        published: Published::default(),
        events,
        starting: None,
        streaming: None,
        held: None,
        loading: None,
        troubles: Troubles::default(),
        stream_open: false,
        decided: false,
        lag: LagClock::default(),
        guard: Guard::default(),
        unstored: false,
        attempts: 0,
        reholding: Backoff::default(),
        debts: Debts::default(),
        reload,
        naming: None,
    };
    engine.resume().await;
    engine.work(calls, inbox, stop).await;
    engine.drain().await;
    observing.end().await;
    Ok(())
}

/// Asks both servers until they answer. `None` if stopped meanwhile.
async fn until_ready(
    world: &World,
    shared: &Shared,
    stop: &CancellationToken,
) -> Result<Option<(Phase, Option<Vec<u8>>)>, EngineError> {
    let (mut backoff, mut guard) = (Backoff::default(), Guard::default());
    loop {
        shared.beat();
        let error = match world.prepare().await {
            Ok(ready) => return Ok(Some(ready)),
            Err(error) if error.class() == Class::Halt => return Err(error),
            Err(error) => error.to_string(),
        };
        tracing::warn!(%error, "not ready yet, trying again");
        let stored = world.stored_phase().await;
        shared.status.store(Arc::new(world.unseen(stored.as_ref(), &error)));
        if let Err(error) = world.guard_source(&mut guard).await {
            tracing::debug!(%error, "the log that the source keeps cannot be looked at");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(backoff.next()) => {}
        }
    }
}

impl Engine {
    /// Opens what the phase says is open.
    async fn resume(&mut self) {
        // Whoever stored that they are loaded may not have come to that.
        self.loaded_anew();
        tracing::info!(state = %self.phase.state(), epoch = ?self.phase.epoch().map(|e| e.0), "ready");
        match &self.phase {
            Phase::Waiting(waiting) => {
                if let Some(error) = &waiting.last_error {
                    tracing::warn!(%error, "waiting");
                }
            }
            Phase::Accumulating(_) | Phase::Streaming(_) => {
                // A mark that is on its way has to be known before it comes by.
                self.go_on_loading();
                self.open_stream();
            }
        }
        // The engine before may have ended between a phase and what follows from it.
        self.debts.holders = match &self.phase {
            Phase::Waiting(_) => false,
            Phase::Accumulating(load) => load.loaded,
            Phase::Streaming(_) => true,
        };
        self.publish_status();
    }

    async fn work(
        &mut self,
        mut calls: mpsc::Receiver<Call>,
        mut inbox: mpsc::Receiver<Event>,
        stop: &CancellationToken,
    ) {
        let mut generations = self.world.handle.report();
        let passing = |report: &ChainReport| {
            (report.generation, report.accepted.clone(), report.accepted_by_file.clone())
        };
        let mut now = passing(&generations.borrow_and_update());
        let mut beat = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => self.shared.beat(),
                Ok(()) = generations.changed() => {
                    let newest = passing(&generations.borrow_and_update());
                    if now != newest {
                        now = newest;
                        self.try_again();
                    }
                }
                Some(call) = calls.recv() => self.answer(call).await,
                Some(event) = inbox.recv() => self.hear(event).await,
            }
            self.publish_status();
        }
    }

    /// What a plugin or a rule had halted may pass the new generation.
    fn try_again(&mut self) {
        if self.streaming.is_none() && self.phase.epoch().is_some() {
            self.open_stream();
        }
        if self.loading.is_none() {
            self.go_on_loading();
        }
    }

    /// A generation may have come while the halt of an older one was on its way here.
    fn try_newer(&mut self, halted: u64) {
        if self.world.handle.newest().number() != halted {
            self.try_again();
        }
    }

    async fn hear(&mut self, event: Event) {
        match event {
            Event::Waiting { attempt, blocking } => {
                if let Some(blocking) = &blocking {
                    tracing::warn!(%blocking, "making the slot waits for an open transaction");
                }
                if let Some(starting) = self.starting.as_mut().filter(|s| s.attempt == attempt) {
                    starting.blocking = blocking;
                } else if attempt == 0 {
                    let waits = "the later snapshot for the rest of the load waits for";
                    self.troubles.load = blocking.map(|blocking| format!("{waits} {blocking}"));
                }
            }
            Event::SlotMade { attempt, report, holder } => {
                self.slot_made(attempt, *report, *holder).await;
            }
            Event::SlotFailed { attempt, error } => self.start_failed(attempt, error).await,
            Event::TableDone { oid, attempt, rows } => {
                let command = Command::TableDone { oid, attempt, rows };
                self.apply(command, "a table is loaded").await;
                self.reholding = Backoff::default();
            }
            Event::SnapshotGone => {
                self.loading = None;
                let what = "the rest is loaded from a later snapshot";
                self.apply(Command::SnapshotGone, what).await;
            }
            Event::OtherState(trouble) => self.other_state(trouble).await,
            Event::Reheld(report, holder, by) => self.reheld(*report, *holder, by).await,
            Event::Marked(command) => self.marked(command).await,
            Event::Loaded => {
                self.loading = None;
                self.troubles.load = None;
                self.apply(Command::LoadDone, "the initial load is complete").await;
            }
            // The last words of what was ended meanwhile are nobody's trouble.
            Event::LoadTrouble(_) | Event::LoadHalted { .. } if self.loading.is_none() => {}
            Event::StreamTrouble(_) | Event::StreamHalted { .. } if self.streaming.is_none() => {}
            Event::LoadTrouble(trouble) => self.troubles.load = trouble,
            Event::LoadHalted { error, generation } => {
                self.loading = None;
                self.troubles.load = Some(error);
                self.try_newer(generation);
            }
            Event::StreamTrouble(trouble) => {
                self.stream_open = trouble.is_none();
                self.troubles.stream = trouble;
            }
            Event::StreamHalted { error, slot_lost, generation } => {
                self.stream_open = false;
                self.held = self.streaming.take().filter(|_| !slot_lost);
                self.troubles.stream = Some(error.clone());
                let decided = std::mem::take(&mut self.decided);
                // A candidate that was refused for what the tables were may fit them by now.
                self.reload.poke();
                match slot_lost {
                    true => self.apply(Command::SlotLost { error }, "the slot is lost").await,
                    false if decided => self.try_again(),
                    false => self.try_newer(generation),
                }
            }
            Event::SchemaChanged(seen, told) => {
                let _ = told.send(self.schema_changed(seen).await);
            }
            Event::Named(names, reply) => self.named(names, reply).await,
            Event::Observed(observed) => self.look(*observed).await,
        }
    }

    async fn answer(&mut self, call: Call) {
        match call {
            Call::Start { request, reply } => {
                if let Err(refusal) = self.transition(Command::Start(request)).await {
                    self.tell(reply, Err(refusal));
                    return;
                }
                match &mut self.starting {
                    // Its task was begun by the transition; whoever asked waits for it.
                    Some(starting) => starting.reply = reply,
                    None => self.tell(reply, Err(Refusal::precondition("nothing was started"))),
                }
            }
            Call::Complete { force, reply } => {
                let answer = self.commanded(Command::Complete { force }).await;
                self.tell(reply, answer);
            }
            Call::LoadAgain { tables, reply } => drop(self.name(tables, Some(reply))),
            Call::Retry { ids, reply } => self.retry(ids, reply),
            Call::Accept { digest, reply } => {
                let answer = self.accept(&digest);
                self.tell(reply, answer);
            }
            Call::DecideDdl { position, done, reply } => {
                let answer = self.decide(position, done);
                self.tell(reply, answer);
            }
            Call::Abort { force, reply } => {
                let answer = self.commanded(Command::Abort { force }).await;
                self.tell(reply, answer);
            }
        }
    }

    /// Whoever asked looks at the status next, and must not find the old one.
    fn tell<T>(&self, reply: Reply<T>, answer: Result<T, Refusal>) {
        self.publish_status();
        let _ = reply.send(answer);
    }

    async fn commanded(&mut self, command: Command) -> Result<Answer, Refusal> {
        let previous = self.phase.state();
        self.transition(command).await?;
        Ok(self.summary(previous))
    }

    /// Lets the batch in flight finish, within [`DRAIN`].
    async fn drain(&mut self) {
        let begun = Instant::now();
        let starting = self.starting.take().map(|starting| starting.running);
        let tasks = [starting, self.streaming.take(), self.held.take(), self.loading.take()];
        futures_util::future::join_all(tasks.into_iter().flatten().map(Running::end)).await;
        tracing::info!(ms = begun.elapsed().as_millis(), "drained");
    }
}

/// How often both servers are looked at for the status.
const LOOK: Duration = Duration::from_secs(1);

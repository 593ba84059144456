//! Lets processes and faults happen as a seed says. Processes are futures that are polled
//! here and nowhere else, so one can be dropped at any await (a crash), not be polled for a
//! while (frozen), and be polled again after another took its place (thawed).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use kasho::position::Position;
use kasho::sink::SinkError;
use kasho::sink::config::Config;
use kasho::sink::entry::RawEntry;
use kasho::sink::store::Checkpoint;
use kasho::source::{HEARTBEAT_PREFIX, Limits};

use crate::check::check;
use crate::letters::{self, Desk};
use crate::process::{Exit, Failure, Memory, process, session_of};
use crate::stations::{Rule, Sabotage};
use crate::trace::Trace;
use crate::world::World;

/// Looks at most this often whether all is quiet at the end: some minutes of simulated time.
const PATIENCE: usize = 400;

/// An engine, as seen from outside.
struct Fiber {
    pid: u64,
    memory: Arc<Memory>,
    future: Pin<Box<dyn Future<Output = Exit>>>,
    frozen: bool,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything is published and acknowledged.
    Quiet,
    /// The server closed, and everything is published.
    Closed,
    /// Halted: Redis lost what PostgreSQL had been told.
    LostData,
    /// Halted: promoted behind what is published.
    Promoted,
    /// None of these.
    Wrong,
}

/// A run that is going on.
pub(crate) struct Run {
    pub(crate) world: Arc<World>,
    fibers: Vec<Fiber>,
    pids: u64,
    /// The process that an operator believes is the only one.
    main: u64,
    /// What stands in the configuration files.
    rule: Rule,
    /// Redis lost what PostgreSQL was told.
    doomed: bool,
    end: Option<End>,
    seen: Seen,
    /// Where a rule is put back, the process is told so, and not started anew.
    pub(crate) in_place: bool,
    /// A process finds what the generations of the one before were made of.
    pub(crate) kept: bool,
    pub(crate) dead: Desk,
}

impl Run {
    pub(crate) async fn new(
        settings: Config,
        limits: Limits,
        trace: &Trace,
        sabotage: Sabotage,
    ) -> Run {
        let world = Arc::new(World::new(settings, limits, trace, sabotage).await);
        let (fibers, rule) = (Vec::new(), Rule(0));
        let (pids, main, doomed, end, in_place, kept) = (0, 0, false, None, false, false);
        let seen = Seen::default();
        let dead = Desk::default();
        Run { world, fibers, pids, main, rule, doomed, end, seen, in_place, kept, dead }
    }

    fn say(&self, what: &str) {
        self.world.trace.say(format_args!("-- {what}"));
    }

    /// Starts an engine, which becomes the one that matters.
    pub(crate) fn start(&mut self, delay_ms: u64) {
        self.pids += 1;
        let checkpoint = self.world.redis.checkpoint(false);
        let memory = Memory::starting(checkpoint.as_ref(), self.rule, self.kept);
        self.main = self.pids;
        self.spawn(self.pids, memory, delay_ms);
    }

    fn spawn(&mut self, pid: u64, memory: Arc<Memory>, delay_ms: u64) {
        let (world, delay) = (Arc::clone(&self.world), Duration::from_millis(delay_ms));
        let future = Box::pin(process(world, Arc::clone(&memory), pid, delay));
        self.fibers.push(Fiber { pid, memory, future, frozen: false });
        self.say(&format!("process {pid} starts"));
    }

    /// `kill -9`: the process is gone wherever it is.
    pub(crate) fn crash(&mut self) {
        let main = self.main;
        self.say(&format!("process {main} crashes"));
        self.world.trace.met("crash");
        self.fibers.retain(|fiber| fiber.pid != main);
    }

    /// `kill -STOP`, until the server gives up on it.
    pub(crate) fn freeze(&mut self) {
        self.say(&format!("process {} freezes", self.main));
        for fiber in self.fibers.iter_mut().filter(|fiber| fiber.pid == self.main) {
            fiber.frozen = true;
            self.world.trace.met("freeze");
        }
        self.world.time_out_holder();
    }

    /// `kill -CONT` of the one that has been frozen longest.
    pub(crate) fn thaw(&mut self) {
        let Some(at) = self.fibers.iter().position(|fiber| fiber.frozen) else { return };
        self.fibers[at].frozen = false;
        self.say(&format!("process {} thaws", self.fibers[at].pid));
        self.world.trace.met("thaw");
    }

    /// Ends every process but the main one.
    pub(crate) fn end_others(&mut self) {
        self.say("others end");
        self.fibers.retain(|fiber| fiber.pid == self.main);
    }

    pub(crate) fn count(&self) -> usize {
        self.fibers.len()
    }

    /// The files change, and every process that runs sees it.
    pub(crate) fn reload(&mut self, rule: Rule) {
        self.say(&format!("the files say {rule:?}"));
        self.rule = rule;
        for fiber in self.fibers.iter().filter(|fiber| !fiber.frozen) {
            fiber.memory.reload(rule);
        }
    }

    /// Redis fails over and loses up to `writes` writes.
    pub(crate) fn fail_over(&mut self, writes: usize) {
        let lost = self.world.redis.fail_over(writes);
        let told = self.world.postgres().confirmed();
        let kept = self.world.redis.checkpoint(false).map(|checkpoint| checkpoint.confirmed);
        self.doomed |= kept.is_none_or(|kept| kept < told);
        self.say(&format!("fail-over, {lost} lost, kept {kept:?}, told {told}"));
        if lost > 0 {
            self.dead.lossy = true;
            self.world.trace.met(if self.doomed {
                "tail lost outside"
            } else {
                "tail lost inside"
            });
        }
        let settings = &self.world.settings;
        if self.doomed && settings.durability != kasho::sink::config::Durability::Reply {
            self.world.complain("a fail-over lost what was durable".to_owned());
        }
    }

    pub(crate) fn doomed(&self) -> bool {
        self.doomed
    }

    /// The process that an operator talks to.
    pub(crate) fn pid(&self) -> u64 {
        self.main
    }

    /// What that process knows.
    pub(crate) fn memory(&self) -> Option<Arc<Memory>> {
        let main = self.fibers.iter().find(|fiber| fiber.pid == self.main);
        main.map(|fiber| Arc::clone(&fiber.memory))
    }

    /// Why processes say that they publish nothing.
    pub(crate) fn pauses(&self) -> Vec<String> {
        let paused = |fiber: &Fiber| fiber.memory.status.get().paused;
        self.fibers.iter().filter_map(paused).collect()
    }

    pub(crate) fn ended(&self) -> Option<End> {
        self.end
    }

    /// Lets processes run for `turns` looks at them, or `ms`, whichever is over first.
    pub(crate) async fn run(&mut self, turns: u64, ms: u64) {
        let mut sleep = pin!(tokio::time::sleep(Duration::from_millis(ms)));
        let mut left = turns;
        let exits = poll_fn(|cx| {
            let exits = self.poll(cx);
            left = left.saturating_sub(1);
            match !exits.is_empty() || left == 0 || sleep.as_mut().poll(cx).is_ready() {
                true => Poll::Ready(exits),
                false => Poll::Pending,
            }
        });
        for (fiber, exit) in exits.await {
            self.exited(fiber, exit);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Vec<(Fiber, Exit)> {
        let crowd = self.fibers.len() > 1;
        let (mut exits, mut at) = (Vec::new(), 0);
        while let Some(fiber) = self.fibers.get_mut(at) {
            at += 1;
            if fiber.frozen {
                continue;
            }
            if crowd {
                self.seen.look(&self.world);
            }
            let exit = fiber.future.as_mut().poll(cx);
            if crowd {
                rightful(&self.world, fiber.pid, &self.seen);
            }
            if let Poll::Ready(exit) = exit {
                at -= 1;
                exits.push((self.fibers.remove(at), exit));
            }
        }
        exits
    }

    /// What an operator does about a process that ended.
    fn exited(&mut self, fiber: Fiber, exit: Exit) {
        let Fiber { pid, memory, .. } = fiber;
        self.say(&format!("process {pid} ended: {exit:?}"));
        match exit {
            Exit::Closed => self.end = Some(End::Closed),
            Exit::Halted(Failure::Sink(SinkError::Fenced { .. })) => {
                self.world.trace.met("fenced");
                if pid == self.main {
                    self.world.trace.met("main process fenced");
                    self.start(1_000);
                }
            }
            Exit::Halted(Failure::Sink(SinkError::LostData { .. })) if self.doomed => {
                self.end = Some(End::LostData);
            }
            Exit::Halted(Failure::Sink(SinkError::Promoted { .. })) => {
                self.end = Some(End::Promoted);
            }
            Exit::Halted(Failure::Generation(chain)) => {
                self.world.trace.met("former rules put back");
                let former = Rule::ALL.into_iter().find(|rule| rule.digest() == chain);
                self.reload(former.unwrap());
                memory.reload(self.rule);
                match self.in_place {
                    true => self.spawn(pid, memory, 500),
                    false if pid == self.main => self.start(500),
                    false => {}
                }
            }
            Exit::Halted(Failure::Sink(SinkError::TooManyLetters { .. })) => {
                self.world.trace.met("too many letters");
                self.reload(Rule(0));
                if pid == self.main {
                    self.start(500);
                }
            }
            Exit::Halted(failure) => {
                self.world.complain(format!("process {pid} halted: {failure:?}"));
                self.end = Some(End::Wrong);
            }
        }
    }

    /// Lets everything calm down, and answers how the run ended.
    pub(crate) async fn settle(&mut self, close: bool) -> End {
        self.say("no more faults");
        self.world.redis.no_plan();
        if close {
            self.world.postgres().shut_down();
        }
        for _ in 0..PATIENCE {
            if let Some(end) = self.end {
                return end;
            }
            let postgres = self.world.postgres();
            if !close && !self.doomed && postgres.confirmed() == postgres.wal_end() {
                return End::Quiet;
            }
            if self.doomed {
                // A writer with nothing to do does not look at Redis until the next heartbeat.
                self.world.work(|log| log.message(HEARTBEAT_PREFIX));
            }
            self.make_room().await;
            self.run(200, 1_000).await;
        }
        self.world.complain("it never became quiet".to_owned());
        End::Wrong
    }

    /// Everything that is wrong with what the run left.
    pub(crate) async fn verdict(&self, end: End) -> Vec<String> {
        let checkpoint = self.world.redis.checkpoint(false);
        let mut wrong = self.world.complaints();
        let through = match (end, checkpoint) {
            (_, None) => return vec!["there is no checkpoint".to_owned()],
            (End::LostData | End::Promoted | End::Wrong, Some(checkpoint)) => checkpoint.position,
            (End::Quiet | End::Closed, Some(_)) => Position::after(self.world.postgres().wal_end()),
        };
        let entries = self.world.entries().await;
        let commits = entries.iter().filter(|entry| entry.field("o") == Some(b"commit")).count();
        if commits > 0 {
            self.world.trace.met("commit entry");
        }
        self.world.trace.say(format_args!("{end:?}, {} entries", entries.len()));
        let (happened, letters) = (self.world.happened(), self.world.letters().await);
        wrong.extend(check(&happened, &entries, through));
        wrong.extend(letters::check(&happened, &entries, (&letters, &self.dead), through));
        if !letters.is_empty() {
            self.world.trace.met("dead letter");
        }
        if letters.iter().any(|letter| letter.again.is_some()) {
            self.world.trace.met("row failed again");
        }
        if entries.iter().any(|entry: &RawEntry| self.dead.stands_again(entry.id)) {
            self.world.trace.met("row came again");
        }
        wrong
    }
}

/// The checkpoint after the newest write.
#[derive(Default)]
struct Seen {
    writes: u64,
    checkpoint: Option<Checkpoint>,
}

impl Seen {
    fn look(&mut self, world: &World) {
        let writes = world.redis.writes();
        if writes != self.writes || self.checkpoint.is_none() {
            (self.writes, self.checkpoint) = (writes, world.redis.checkpoint(false));
        }
    }
}

/// Rules: only who raised the token last changes anything; to raise it is a change of its
/// own, and nobody makes it over one who holds the slot.
fn rightful(world: &World, pid: u64, before: &Seen) {
    if world.redis.writes() == before.writes {
        return;
    }
    let after = world.redis.checkpoint(false);
    if after == before.checkpoint {
        return;
    }
    let writer = after.map(|checkpoint| checkpoint.writer).unwrap_or_default();
    if session_of(&writer).map(|session| session >> 32) != Some(pid) {
        world.complain(format!("process {pid} changed what writer {writer} owns"));
    }
    let owner = before.checkpoint.as_ref().and_then(|checkpoint| session_of(&checkpoint.writer));
    if owner.is_some() && owner == world.holder() && owner != session_of(&writer) {
        world.complain(format!("process {pid} ended the writer that holds the slot"));
    }
}

//! A Redis that is none: the same steps with the same answers, in memory, with every
//! fault of the real one at the caller's command. Serves simulations and benchmarks, and
//! passes the same contract as the real one.
//!
//! Deterministic: no threads, no clock but tokio's, and a fault happens only when the
//! plan or the handle says so. What a fail-over loses is what no durability wait covered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use self::world::World;
use super::id::Keys;
use super::store::{Checkpoint, Connect, StoreError};

mod store;
mod world;

/// The clock of the fake starts here, Unix time in ms.
const START_MS: u64 = 1_700_000_000_000;

/// One step of a store, as a plan of faults sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A new connection.
    Connect,
    /// Anything that only reads.
    Read,
    /// An append of this many entries to the changes stream.
    Append(usize),
    /// The checkpoint alone.
    Mark,
    /// A take-over.
    Fence,
    /// The start of an epoch.
    Begin,
    /// A loader's turn, taken or given up.
    Lease,
    /// An append of this many entries to the bootstrap stream.
    Load(usize),
    /// The end of the load.
    Finish,
    /// A durability wait.
    Durable,
    /// Any other small write: state, consumers, trimming.
    Write,
}

impl Step {
    fn writes(self) -> bool {
        !matches!(self, Step::Connect | Step::Read | Step::Durable)
    }

    /// Refused when memory is full; the others free memory or write a few bytes.
    fn grows(self) -> bool {
        matches!(self, Step::Append(1..) | Step::Load(1..))
    }
}

/// What happens to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It takes this long, and then goes well.
    Slow(Duration),
    /// The connection ends before it.
    Cut,
    /// It is done, and the connection ends before the reply.
    LoseReply,
    /// Refused: out of memory. Only steps that add entries can be.
    Oom,
    /// Refused: a replica. Only steps that write can be.
    ReadOnly,
    /// Refused for now: loading.
    Loading,
}

/// Decides what happens to each step.
pub type Plan = Box<dyn FnMut(Step) -> Fault + Send>;

/// The server: every clone is the same one.
#[derive(Clone)]
pub struct MemoryServer {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<watch::Sender<u64>>,
    keys: Keys,
}

struct Inner {
    world: World,
    /// States before the newest writes that no durability wait covered.
    journal: Vec<World>,
    depth: usize,
    /// Connections made before the last cut are dead.
    era: u64,
    plan: Option<Plan>,
    read_only: bool,
    limit: u64,
    foreign_bytes: u64,
    policy: String,
    started: Instant,
}

impl std::fmt::Debug for MemoryServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryServer").finish_non_exhaustive()
    }
}

impl Default for MemoryServer {
    fn default() -> MemoryServer {
        MemoryServer::new("kasho")
    }
}

impl MemoryServer {
    /// An empty server whose keys have this prefix.
    #[must_use]
    pub fn new(prefix: &str) -> MemoryServer {
        let inner = Inner {
            world: World::default(),
            journal: Vec::new(),
            depth: 0,
            era: 0,
            plan: None,
            read_only: false,
            limit: 0,
            foreign_bytes: 0,
            policy: "noeviction".to_owned(),
            started: Instant::now(),
        };
        let changed = Arc::new(watch::Sender::new(0));
        MemoryServer { inner: Arc::new(Mutex::new(inner)), changed, keys: Keys::new(prefix) }
    }

    /// Decides faults from now on.
    pub fn plan(&self, plan: impl FnMut(Step) -> Fault + Send + 'static) {
        self.lock().plan = Some(Box::new(plan));
    }

    /// No more faults.
    pub fn no_plan(&self) {
        self.lock().plan = None;
    }

    /// Ends every connection.
    pub fn cut(&self) {
        self.lock().era += 1;
        self.wake();
    }

    /// Remembers the states before this many writes, so that a fail-over can lose them.
    pub fn remember(&self, writes: usize) {
        self.lock().depth = writes;
    }

    /// A fail-over to a replica that lacks the newest `writes` writes, or as many of them
    /// as no durability wait covered. Answers how many were lost.
    pub fn fail_over(&self, writes: usize) -> usize {
        let mut inner = self.lock();
        let lost = writes.min(inner.journal.len());
        let kept = inner.journal.len() - lost;
        if lost > 0 {
            // Ids of letters are made of the clock, which goes on.
            let letters = inner.world.dead.1;
            inner.world = inner.journal.swap_remove(kept);
            inner.world.dead.1 = letters;
            inner.journal.truncate(kept);
        }
        inner.era += 1;
        drop(inner);
        self.wake();
        lost
    }

    /// Replaced by an empty server.
    pub fn empty(&self) {
        let mut inner = self.lock();
        inner.world = World::default();
        inner.journal.clear();
        inner.era += 1;
        drop(inner);
        self.wake();
    }

    /// Demoted to a replica, or promoted again.
    pub fn set_read_only(&self, read_only: bool) {
        self.lock().read_only = read_only;
    }

    /// `maxmemory`; 0 = none.
    pub fn set_limit(&self, bytes: u64) {
        self.lock().limit = bytes;
    }

    /// Memory that other applications use.
    pub fn set_foreign(&self, bytes: u64) {
        self.lock().foreign_bytes = bytes;
    }

    /// `maxmemory-policy`.
    pub fn set_policy(&self, policy: &str) {
        policy.clone_into(&mut self.lock().policy);
    }

    /// Puts something of another type under a key, or takes it away.
    pub fn set_wrong_type(&self, key: &str, wrong: bool) {
        let mut inner = self.lock();
        match wrong {
            true => inner.world.wrong.insert(key.to_owned()),
            false => inner.world.wrong.remove(key),
        };
    }

    /// The checkpoint as it stands, or as the worst fail-over that may come now would
    /// leave it; seen from outside, by no step of any connection.
    #[must_use]
    pub fn checkpoint(&self, after_worst: bool) -> Option<Checkpoint> {
        let inner = self.lock();
        let oldest = inner.journal.first().filter(|_| after_worst);
        oldest.unwrap_or(&inner.world).inspect(&self.keys).ok()?.checkpoint
    }

    /// Counts whatever may have changed what is stored.
    #[must_use]
    pub fn writes(&self) -> u64 {
        *self.changed.borrow()
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        let inner = self.lock();
        inner.world.weight() + inner.foreign_bytes
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    fn fault(&self, step: Step) -> Fault {
        match &mut self.lock().plan {
            Some(plan) => plan(step),
            None => Fault::None,
        }
    }
}

impl Inner {
    fn now_ms(&self) -> u64 {
        START_MS + u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }

    fn refusal(&self, step: Step, fault: Fault) -> Option<StoreError> {
        if fault == Fault::Loading {
            return Some(StoreError::NotNow("LOADING".to_owned()));
        }
        if step.writes() && (self.read_only || fault == Fault::ReadOnly) {
            return Some(StoreError::ReadOnly);
        }
        let full = self.limit > 0 && self.world.weight() + self.foreign_bytes > self.limit;
        (step.grows() && (full || fault == Fault::Oom)).then_some(StoreError::Oom)
    }
}

/// A connection to a [`MemoryServer`].
#[derive(Debug)]
pub struct MemoryStore {
    server: MemoryServer,
    era: u64,
    dead: bool,
}

impl Connect for MemoryServer {
    type Store = MemoryStore;

    async fn connect(&self) -> Result<MemoryStore, StoreError> {
        let era = self.lock().era;
        let mut store = MemoryStore { server: self.clone(), era, dead: false };
        store.step(Step::Connect, |_, _| Ok(())).await?;
        Ok(store)
    }
}

impl MemoryStore {
    /// One atomic step: the fault first, then the change, then perhaps no reply.
    async fn step<T>(
        &mut self,
        step: Step,
        change: impl FnOnce(&mut World, u64) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // Others may act between any two steps, as over a network.
        tokio::task::yield_now().await;
        let fault = self.server.fault(step);
        if let Fault::Slow(pause) = fault {
            tokio::time::sleep(pause).await;
        }
        self.alive(fault == Fault::Cut)?;
        let mut inner = self.server.lock();
        if let Some(error) = inner.refusal(step, fault) {
            return Err(error);
        }
        let before = (step.writes() && inner.depth > 0).then(|| inner.world.clone());
        let now_ms = inner.now_ms();
        let result = change(&mut inner.world, now_ms);
        if let Some(before) = before.filter(|before| *before != inner.world) {
            inner.journal.push(before);
            let excess = inner.journal.len().saturating_sub(inner.depth);
            inner.journal.drain(..excess);
        }
        drop(inner);
        if step.writes() {
            self.server.wake();
        }
        self.alive(fault == Fault::LoseReply)?;
        result
    }

    fn alive(&mut self, cut: bool) -> Result<(), StoreError> {
        self.dead |= cut || self.era != self.server.lock().era;
        match self.dead {
            true => Err(StoreError::Unknown("the connection was cut".to_owned())),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;

//! Where generations change hands: whoever loads one publishes it here, the pipeline takes
//! the newest where a transaction begins, and status reads how it went.
//!
//! What can go wrong is the chain's ([`TransformError`]); a batch and its chain that were
//! lost with a cancelled call are never published, and the chain is started anew.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::batch::Batch;
use crate::pipeline;

use super::chain::Chain;
use super::error::{LoadError, TransformError};
use super::generation::{Generation, PluginInfo, Run};
use super::samples::Samples;

/// A candidate that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When.
    pub at: SystemTime,
    /// Digest of the files and settings that it was made of.
    pub digest: String,
    /// Its digest as a generation, by which it can be accepted; none if it does not come so far.
    pub candidate: Option<String>,
    /// Everything that is wrong with it.
    pub reasons: Vec<LoadError>,
}

/// What status says of the chain.
#[derive(Clone, Debug)]
pub struct Report {
    /// Number of the newest generation.
    pub generation: u64,
    /// Its digest.
    pub digest: String,
    /// When it was handed over.
    pub since: SystemTime,
    /// Its plugins.
    pub plugins: Vec<PluginInfo>,
    /// What an operator should know of it.
    pub warnings: Vec<String>,
    /// The last candidate that was refused since it was handed over.
    pub refused: Option<Refused>,
    /// Candidates refused in this process's life.
    pub refusals: u64,
    /// Digests that somebody has accepted in this process's life.
    pub accepted: Vec<String>,
    /// The one that the file accepts.
    pub accepted_by_file: Option<String>,
}

impl Report {
    fn of(generation: &Generation) -> Report {
        Report {
            generation: generation.number(),
            digest: generation.digest().to_owned(),
            since: generation.since(),
            plugins: generation.plugins(),
            warnings: generation.warnings().to_vec(),
            refused: None,
            refusals: 0,
            accepted: Vec::new(),
            accepted_by_file: None,
        }
    }

    /// Whether a generation is accepted as it is.
    #[must_use]
    pub fn accepts(&self, digest: &str) -> bool {
        self.accepted_by_file.as_deref() == Some(digest)
            || self.accepted.iter().any(|a| a == digest)
    }
}

/// The newest generation, shared.
#[derive(Debug)]
pub struct Handle {
    newest: ArcSwap<Generation>,
    report: watch::Sender<Report>,
    /// Tables whose load begins again where the next candidate is taken: they may be mapped
    /// otherwise.
    moving: Mutex<BTreeSet<String>>,
    /// Whoever makes candidates has looked at what there is since they were told.
    looked: AtomicBool,
    /// Tables that the newest generation has loaded again, and that no candidate knows to be; by id.
    loaded: Mutex<BTreeSet<u32>>,
    samples: Arc<Samples>,
    turn: Mutex<()>,
}

impl Handle {
    /// Starts with a generation.
    #[must_use]
    pub fn new(generation: Generation) -> Arc<Handle> {
        Handle::sampling(generation, 0)
    }

    /// The same, holding at most so many recent rows of each relation.
    #[must_use]
    pub fn sampling(generation: Generation, rows: u32) -> Arc<Handle> {
        let (report, _) = watch::channel(Report::of(&generation));
        let (newest, samples) = (ArcSwap::from_pointee(generation), Arc::new(Samples::new(rows)));
        Arc::new(Handle {
            newest,
            report,
            moving: Mutex::default(),
            looked: AtomicBool::default(),
            loaded: Mutex::default(),
            samples,
            turn: Mutex::default(),
        })
    }

    /// Whoever makes a generation and publishes it holds this meanwhile: it is held against
    /// the newest one, and there is one newest.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Recent rows.
    pub(super) fn samples(&self) -> &Samples {
        &self.samples
    }

    /// The newest generation.
    #[must_use]
    pub fn newest(&self) -> Arc<Generation> {
        self.newest.load_full()
    }

    /// Hands over a generation; the pipeline takes it where the next transaction begins.
    pub fn publish(&self, mut generation: Generation) {
        generation.go_on(&self.newest.load());
        let report = Report::of(&generation);
        // What the one before has loaded says nothing of this one's rows.
        self.loaded().clear();
        self.newest.store(Arc::new(generation));
        self.report.send_modify(|before| {
            let (accepted, accepted_by_file) =
                (std::mem::take(&mut before.accepted), before.accepted_by_file.take());
            *before = Report { refusals: before.refusals, accepted, accepted_by_file, ..report };
        });
    }

    /// Shares with one that is not published, and finishes what it began, what rows have
    /// shown of tables.
    pub fn lend(&self, generation: &mut Generation) {
        generation.go_on(&self.newest.load());
    }

    /// The rows of these tables are loaded again: until [`Handle::settle_moves`], a candidate may
    /// map what says where they are otherwise. Waits while one is being looked at.
    pub fn may_move(&self, tables: BTreeSet<String>) {
        *self.moving() = tables;
        self.looked.store(false, Ordering::SeqCst);
    }

    /// Whether what there is was looked at since then.
    #[must_use]
    pub fn has_looked(&self) -> bool {
        self.looked.load(Ordering::SeqCst)
    }

    /// From here on no candidate may, nor is one being taken that did. Waits as well.
    pub fn settle_moves(&self) {
        self.moving().clear();
    }

    /// Held for as long as a candidate is looked at.
    pub(super) fn moving(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The load of these tables is complete, and all of it, whatever is published of them from
    /// its snapshot on included, has passed the run `by`: of what was before nothing counts any
    /// more. Whether there is anything; then it is forgotten by the next candidate.
    pub fn loaded_by(&self, by: &Run, tables: &BTreeSet<u32>) -> bool {
        let _turn = self.turn();
        let newest = self.newest();
        let (covered, ours) = (newest.covered(), newest.run() == by);
        let older = covered.older.iter().any(|older| tables.contains(&older.id));
        let lossy = covered.tables.values().any(|t| t.lossy && !t.loses && tables.contains(&t.id));
        let anything = ours && (older || lossy);
        if anything {
            self.loaded().extend(tables);
        }
        anything
    }

    /// To be asked by whoever has the turn.
    pub(super) fn loaded(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is was looked at.
    pub(super) fn looked(&self) {
        self.looked.store(true, Ordering::SeqCst);
    }

    /// Notes that a candidate was refused; what runs goes on running.
    pub fn refuse(&self, digest: &str, candidate: Option<String>, reasons: Vec<LoadError>) {
        let digest = digest.to_owned();
        let refused = Refused { at: SystemTime::now(), digest, candidate, reasons };
        self.report.send_modify(|report| {
            report.refused = Some(refused);
            report.refusals += 1;
        });
    }

    /// Notes why what is on disk is not what a service starts with. It is counted when the
    /// files are looked at.
    pub fn degrade(&self, candidate: Option<String>, reasons: Vec<LoadError>) {
        let (at, digest) = (SystemTime::now(), String::new());
        let refused = Refused { at, digest, candidate, reasons };
        self.report.send_modify(|report| report.refused = Some(refused));
    }

    /// Notes that somebody has accepted a generation as it is.
    pub fn accept(&self, digest: &str) {
        self.report.send_if_modified(|report| {
            let new = !report.accepts(digest);
            if new {
                report.accepted.push(digest.to_owned());
            }
            new
        });
    }

    /// Notes which one the file accepts.
    pub(super) fn accept_by_file(&self, digest: Option<&str>) {
        self.report.send_if_modified(|report| {
            let new = report.accepted_by_file.as_deref() != digest;
            report.accepted_by_file = digest.map(str::to_owned);
            new
        });
    }

    /// What there is to load is what runs: no candidate is refused any more.
    pub(super) fn settled(&self) {
        self.report.send_if_modified(|report| report.refused.take().is_some());
    }

    /// How it stands, and a way to wait for changes.
    #[must_use]
    pub fn report(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }
}

/// The pipeline's chains.
#[derive(Debug)]
pub struct Chains {
    handle: Arc<Handle>,
    adopted: Arc<Generation>,
    chain: Option<Chain>,
}

impl Chains {
    /// Takes generations from a handle.
    #[must_use]
    pub fn new(handle: &Arc<Handle>) -> Chains {
        Chains::beginning_with(handle, handle.newest())
    }

    /// The same, with a generation that is in force until the next is adopted.
    #[must_use]
    pub fn beginning_with(handle: &Arc<Handle>, generation: Arc<Generation>) -> Chains {
        Chains { handle: Arc::clone(handle), adopted: generation, chain: None }
    }

    /// The generation that batches pass now.
    #[must_use]
    pub fn current(&self) -> &Arc<Generation> {
        &self.adopted
    }
}

impl pipeline::Chains for Chains {
    type Error = TransformError;

    fn adopted(&self) -> u64 {
        self.adopted.number()
    }

    fn adopt(&mut self) -> u64 {
        let newest = self.handle.newest();
        if !Arc::ptr_eq(&newest, &self.adopted) {
            (self.adopted, self.chain) = (newest, None);
        }
        self.adopted.number()
    }

    async fn apply(&mut self, mut batch: Batch) -> Result<Batch, TransformError> {
        self.handle.samples.take(&batch);
        let chain = self.chain.take();
        let mut chain = chain.unwrap_or_else(|| Chain::new(Arc::clone(&self.adopted)));
        if chain.passes(&batch) {
            self.chain = Some(chain);
            return Ok(batch);
        }
        let work = tokio::task::spawn_blocking(move || {
            let result = chain.apply(&mut batch);
            (chain, batch, result)
        });
        let (chain, batch, result) = work.await.map_err(|_| {
            TransformError::Internal("a plugin's host panicked; nothing was published")
        })?;
        self.chain = Some(chain);
        result.map(|()| batch)
    }
}

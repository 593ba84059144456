//! Notices that configuration or plugins changed, and makes a candidate of them.
//!
//! File events on the folders (never on a file: a rename replaces it, Kubernetes swaps a
//! link) only wake the watcher; what counts is content, compared every few seconds
//! too, and only once it has been the same twice: a file being written is not a candidate.
//! While it settles its plugins are compiled already, which takes about as long; code of a
//! file that has changed meanwhile is never run. Whatever is wrong with a candidate, what
//! runs goes on running, and the report says why. Configuration and plugins that change
//! together are one candidate; a plugin's `sha256` makes that so even if they are written
//! apart.

use std::any::Any;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use sha2::{Digest, Sha256};

use super::catalog::Catalog;
use super::config::Config;
use super::error::LoadError;
use super::generation::Generation;
use super::handle::Handle;
use super::host::{Host, hex};
use super::keys::Key;
use super::load::{Options, Rejected, candidate, compile, read};
use super::probe::{probe, ways_on};

/// Content must be the same for this long.
const SETTLE: Duration = Duration::from_millis(200);
/// Events that come this close together are one.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// After so many events in a row the content is looked at although they go on.
const PATIENCE: usize = 20;

/// While it lives, what rows show of tables is written down for no generation: one that is
/// kept and not published yet would miss it.
pub type Held = Box<dyn Any>;

/// Keeps what a generation covers, or says why it cannot.
pub type Keep = dyn Fn(&Generation) -> Result<Held, String> + Send;

/// Where candidates come from.
pub struct Sources {
    /// Folders whose changes are noticed at once: the plugins', the configuration's.
    pub folders: Vec<PathBuf>,
    /// How often content is compared without an event.
    pub poll: Duration,
    /// Reads this station's part of the configuration file.
    pub config: Box<dyn Fn() -> Result<Config, String> + Send>,
    /// Nothing is loaded: keys may be others, and rows may come to be elsewhere.
    pub fresh: Box<dyn Fn() -> bool + Send>,
    /// The tables as they are known now.
    pub catalog: Box<dyn Fn() -> Catalog + Send>,
    /// Keeps what a generation covers, before anybody can run it.
    pub keep: Box<Keep>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("folders", &self.folders).finish_non_exhaustive()
    }
}

/// A running watcher; it ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    wake: Sender<Wake>,
    _events: Option<RecommendedWatcher>,
}

/// What comes later counts for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wake {
    /// Something may have changed.
    Look,
    /// Look again even at what was looked at.
    Again,
    /// The end.
    Stop,
}

/// Starts watching, on a thread of its own: candidates are compiled there.
///
/// # Errors
/// The thread cannot be started. Where file events cannot be had, the poll remains.
pub fn watch(handle: &Arc<Handle>, host: &Arc<Host>, sources: Sources) -> Result<Watch, String> {
    let (wake, woken) = channel();
    let events = events(&sources.folders, wake.clone());
    let reloader = Reloader {
        handle: Arc::clone(handle),
        host: Arc::clone(host),
        sources,
        seen: None,
        pending: None,
    };
    let thread = std::thread::Builder::new().name("kasho-reload".to_owned());
    let thread = thread.spawn(move || reloader.run(&woken));
    thread.map_err(|e| format!("cannot start the reload thread: {e}"))?;
    Ok(Watch { wake, _events: events })
}

/// Has a watcher look, from any task.
#[derive(Clone, Debug)]
pub struct Poke(Sender<Wake>);

impl Poke {
    /// Looks at files and configuration now.
    pub fn look(&self) {
        // The thread is gone only if it panicked; then nothing is reloaded, and what runs runs.
        let _ = self.0.send(Wake::Again);
    }
}

impl Watch {
    /// Looks at files and configuration now (SIGHUP, a control call).
    pub fn poke(&self) {
        self.poker().look();
    }

    /// For those who have it look and do not own it.
    #[must_use]
    pub fn poker(&self) -> Poke {
        Poke(self.wake.clone())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.wake.send(Wake::Stop);
    }
}

fn events(folders: &[PathBuf], wake: Sender<Wake>) -> Option<RecommendedWatcher> {
    let notice = move |event: notify::Result<notify::Event>| {
        // Reading makes events too, and this thread reads.
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let read = |kind: &EventKind| matches!(kind, EventKind::Access(_)) && *kind != written;
        if !event.is_ok_and(|event| read(&event.kind)) {
            let _ = wake.send(Wake::Look);
        }
    };
    let watcher = notify::recommended_watcher(notice).and_then(|mut watcher| {
        for folder in folders {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    });
    watcher.map_err(|e| tracing::warn!("no file events, only the poll: {e}")).ok()
}

struct Reloader {
    handle: Arc<Handle>,
    host: Arc<Host>,
    sources: Sources,
    /// Content that has been acted on.
    seen: Option<String>,
    /// Content that was there a moment ago, and since when it is known to have been.
    pending: Option<(String, Instant)>,
}

impl Reloader {
    fn run(mut self, woken: &Receiver<Wake>) {
        let mut wait = SETTLE;
        while let Some(wake) = gather(woken, wait, self.pending.is_some()) {
            if wake == Wake::Again {
                self.seen = None;
            }
            wait = match (self.consider(), &self.pending) {
                (true, Some((_, since))) => SETTLE.saturating_sub(since.elapsed()),
                (true, None) => SETTLE,
                (false, _) => self.sources.poll,
            };
        }
    }

    /// Looks once; whether to look again soon.
    fn consider(&mut self) -> bool {
        let handle = Arc::clone(&self.handle);
        let config = (self.sources.config)();
        let moving = handle.moving();
        let content = format!("{}{:?}", content(&config), *moving);
        if self.seen.as_ref() == Some(&content) {
            handle.looked();
            self.pending = None;
            return false;
        }
        if self.pending.as_ref().is_none_or(|(pending, _)| *pending != content) {
            self.pending = Some((content, Instant::now()));
            // Nobody has to wait for what may come to nothing.
            drop(moving);
            if let Ok(config) = &config {
                self.compile(config);
            }
            return true;
        }
        self.seen = self.pending.take().map(|(content, _)| content);
        if let Ok(config) = &config {
            self.handle.accept_by_file(config.accept.as_deref());
        }
        let _turn = handle.turn();
        let taken = config.map_err(unreadable).and_then(|config| self.candidate(&config, &moving));
        if let Err(Rejected { digest, reasons }) = taken {
            for reason in &reasons {
                tracing::error!("candidate refused: {reason}");
            }
            handle.refuse(content.get(..64).unwrap_or(&content), digest, reasons);
        }
        handle.looked();
        false
    }

    /// Compiles what may become a candidate: the runtime finds its code by the file's digest
    /// once it does. What is wrong is told then, or is gone by then.
    fn compile(&self, config: &Config) {
        for binding in config.plugged() {
            if let Ok(wasm) = read(&config.plugins.folder, binding)
                && !self.host.has(&wasm)
            {
                let _ = compile(&self.host, binding, &wasm);
            }
        }
    }

    fn candidate(&mut self, config: &Config, reloading: &BTreeSet<String>) -> Result<(), Rejected> {
        let running = self.handle.newest();
        // What is learned between the two is held against the candidate's rows as well.
        let (learned, covered) = (running.learned(), running.covered());
        let loaded = self.handle.loaded().clone();
        let (keys, accepted) =
            (running.key_checks(), self.handle.report().borrow().accepted.clone());
        let options = Options {
            running: Some(&covered),
            learned,
            digest: Some(running.digest()),
            keys: Some(&keys),
            reloading: Some(reloading),
            loaded: Some(&loaded),
            accepted: &accepted,
            fresh: (self.sources.fresh)(),
            number: running.number() + 1,
            kept: None,
        };
        let mut made = candidate(&self.host, config, &(self.sources.catalog)(), options)?;
        // Of tables that are loaded anew nothing is lost, and nothing older left.
        let still: BTreeSet<u32> =
            made.coverage().tables.values().filter(|t| t.lossy).map(|t| t.id).collect();
        // But of what loses more of them.
        let mut lost = covered.tables.values().filter(|table| table.lossy && !table.loses);
        let forgets = (options.fresh || !loaded.is_empty())
            && (lost.any(|table| !still.contains(&table.id))
                || !covered.older.is_subset(&made.coverage().older));
        if made.digest() == running.digest() && !forgets {
            self.handle.loaded().clear();
            self.handle.settled();
            return Ok(());
        }
        self.probe(config, options, &running, &mut made)?;
        // An epoch that has begun meanwhile has rows that it would have to fit.
        if options.fresh != (self.sources.fresh)() {
            self.seen = None;
            return Ok(());
        }
        // What rows have shown while it was being made is its own too.
        self.handle.lend(&mut made);
        if forgets {
            made.seen.forget_losses(|id| options.fresh || loaded.contains(&id));
        }
        let held = (self.sources.keep)(&made).map_err(|error| {
            // It is not the candidate's fault: the same content is looked at again.
            self.seen = None;
            let text = format!("what the candidate covers cannot be kept, so it waits: {error}");
            vec![LoadError::whole("transform", text)]
        })?;
        tracing::info!(generation = made.number(), digest = made.digest(), "new generation");
        self.handle.publish(made);
        drop(held);
        Ok(())
    }

    /// Tries a candidate on recent rows. Of one that was accepted as it is, what is found
    /// there is only told.
    fn probe(
        &self,
        config: &Config,
        options: Options<'_>,
        running: &Generation,
        made: &mut Generation,
    ) -> Result<(), Rejected> {
        let none = BTreeSet::new();
        let may_move = options.reloading.unwrap_or(&none);
        let probed = probe(running, made, self.handle.samples(), may_move);
        made.warnings.extend(probed.notes);
        let mut reasons = probed.errors;
        if options.accepts(config, made.digest()) {
            made.warnings.extend(reasons.drain(..).map(|reason| reason.to_string()));
        }
        if reasons.is_empty() {
            return Ok(());
        }
        let digest = made.digest().to_owned();
        ways_on(&mut reasons, &digest);
        Err(Rejected { digest: Some(digest), reasons })
    }
}

/// Waits for something to look at: for so long, or until the first event and, if content
/// `settles`, for all of that time. Where events came, they have to be over, or to be far too
/// many. `None` is the end.
fn gather(woken: &Receiver<Wake>, wait: Duration, settles: bool) -> Option<Wake> {
    let (begun, mut wake) = (Instant::now(), None);
    let mut next = |wait: Duration| match woken.recv_timeout(wait) {
        Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => Err(()),
        Ok(next) => {
            wake = wake.max(Some(next));
            Ok(true)
        }
        Err(RecvTimeoutError::Timeout) => Ok(false),
    };
    let mut came = false;
    loop {
        let left = wait.saturating_sub(begun.elapsed());
        let now = next(left).ok()?;
        came |= now;
        if !now || !settles || left.is_zero() {
            break;
        }
    }
    let mut patience = if came { PATIENCE } else { 0 };
    while patience > 0 && next(DEBOUNCE).ok()? {
        patience -= 1;
    }
    Some(wake.unwrap_or(Wake::Look))
}

fn unreadable(text: String) -> Rejected {
    vec![LoadError::whole("configuration", text)].into()
}

/// A digest of everything a candidate is made of.
fn content(config: &Result<Config, String>) -> String {
    let mut hash = Sha256::new();
    match config {
        Err(text) => hash.update(text),
        Ok(config) => {
            hash.update(serde_json::to_vec(config).unwrap_or_default());
            for (name, source) in &config.keys {
                // What says whether a key is the same, and nothing else about it.
                match Key::read(name, source) {
                    Ok(key) => hash.update(key.check_value()),
                    Err(e) => hash.update(e.to_string()),
                }
            }
            if let Some(source) = &config.dead_letter_key {
                match Key::read("dead_letter_key", source) {
                    Ok(key) => hash.update(key.check_value()),
                    Err(e) => hash.update(e.to_string()),
                }
            }
            for binding in config.plugged() {
                hash.update(binding.rules_json().to_string());
                match read(&config.plugins.folder, binding) {
                    Ok(wasm) => hash.update(Sha256::digest(wasm)),
                    Err(e) => hash.update(e),
                }
            }
        }
    }
    hex(&hash.finalize())
}
#[cfg(test)]
mod tests;

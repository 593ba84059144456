//! The one place that knows the WebAssembly runtime's settings.
//!
//! One engine a process: on-demand memory with guard pages, deadlines by epochs, no
//! feature that a guest of ours needs not. Code is compiled here and nowhere else; what
//! can go wrong is a module that the compiler refuses, which [`super::check`] has all but
//! excluded.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use wasmtime::{Engine, InstancePre, Linker, Module};

use super::check::{self, Checked};
use super::ddl::Decisions;
use super::imports::{self, GuestState};
use super::inspect;
use super::meter::Meter;
use super::store::Store;
use super::wasi;

/// Deadlines are counted in these.
const TICK_MS: u64 = 5;
/// Stack of a guest; the host's threads have at least four times as much.
const STACK_BYTES: usize = 512 << 10;
/// Compiled modules kept, the newest.
const KEEP: usize = 32;

/// A compiled plugin.
pub(super) struct Compiled {
    /// Digest of the file, hexadecimal.
    pub(super) sha256: String,
    /// The file without its fixtures, for the gate.
    pub(super) wasm: Arc<[u8]>,
    /// All of the file, to be kept.
    pub(super) file: Arc<[u8]>,
    /// What it says of itself.
    pub(super) checked: Checked,
    /// Ready to be instantiated.
    pub(super) pre: InstancePre<GuestState>,
    /// How long that took.
    pub(super) took: Duration,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Compiled({})", self.sha256)
    }
}

/// The runtime: one a process is enough, generations share it.
pub struct Host {
    engine: Engine,
    linker: Linker<GuestState>,
    compiled: Mutex<Vec<Arc<Compiled>>>,
    store: Option<Store>,
    meter: Option<Arc<Meter>>,
    decisions: Decisions,
    /// The ticker ends with it.
    _alive: mpsc::Sender<()>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Host")
    }
}

impl Host {
    /// A runtime; with a store, compiled code is kept there from start to start.
    ///
    /// # Errors
    /// This machine cannot run it (no virtual memory to reserve, no thread), or the
    /// store is not private to this user.
    pub fn new(store: Option<&std::path::Path>) -> Result<Arc<Host>, String> {
        Host::with(store, None)
    }

    /// A runtime for the tools of plugin authors, who run test data: what guests say is not
    /// withheld, fixtures' key is the key, and calls are measured. Never for rows of others.
    ///
    /// # Errors
    /// As [`Host::new`].
    pub fn of_tools(meter: Arc<Meter>) -> Result<Arc<Host>, String> {
        Host::with(None, Some(meter))
    }

    fn with(
        store: Option<&std::path::Path>,
        meter: Option<Arc<Meter>>,
    ) -> Result<Arc<Host>, String> {
        let mut settings = settings();
        settings.consume_fuel(meter.as_ref().is_some_and(|meter| meter.counts()));
        let engine = Engine::new(&settings).map_err(|e| format!("WebAssembly engine: {e:#}"))?;
        let mut linker = Linker::new(&engine);
        let linked = imports::link(&mut linker).and_then(|()| wasi::link(&mut linker));
        linked.map_err(|e| format!("WebAssembly engine: {e:#}"))?;
        let alive = tick(engine.clone())?;
        let store = store.map(Store::open).transpose()?;
        let compiled = Mutex::default();
        let decisions = Decisions::default();
        Ok(Arc::new(Host { engine, linker, compiled, store, meter, decisions, _alive: alive }))
    }

    /// What was decided about schema changes that stopped the stream.
    #[must_use]
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Checks and compiles a plugin, or finds it compiled; `wasi`: its binding allows it
    /// the little of WASI that there is.
    ///
    /// # Errors
    /// Why it cannot be run, and what to do.
    pub(super) fn compile(
        &self,
        wasm: &[u8],
        max_bytes: usize,
        wasi: bool,
    ) -> Result<Arc<Compiled>, String> {
        let checked = check::check(wasm, max_bytes, wasi)?;
        let sha256 = hex(&Sha256::digest(wasm));
        let mut known = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compiled) = known.iter().find(|c| c.sha256 == sha256) {
            return Ok(Arc::clone(compiled));
        }
        let begun = Instant::now();
        let module = match &self.store {
            Some(store) => store.module(&self.engine, &sha256, wasm),
            None => Module::from_binary(&self.engine, wasm).map_err(|e| format!("{e:#}")),
        };
        let module = module.map_err(|e| format!("the compiler refuses it: {e}"))?;
        let pre = self.linker.instantiate_pre(&module);
        let pre = pre.map_err(|e| format!("it cannot be linked: {e:#}"))?;
        let took = begun.elapsed();
        let file: Arc<[u8]> = Arc::from(wasm);
        // A value that a fixture happens to hold is a value all the same.
        let wasm = Arc::from(inspect::without_sections(&file, &[inspect::FIXTURES_SECTION])?);
        let compiled = Arc::new(Compiled { sha256, wasm, file, checked, pre, took });
        if known.len() == KEEP {
            known.remove(0);
        }
        known.push(Arc::clone(&compiled));
        Ok(compiled)
    }

    /// Whether it has the code of this file already.
    pub(super) fn has(&self, wasm: &[u8]) -> bool {
        let sha256 = hex(&Sha256::digest(wasm));
        let known = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().any(|compiled| compiled.sha256 == sha256)
    }

    /// Removes old compiled code of other plugins than these, by their SHA-256.
    pub fn sweep(&self, used: &BTreeSet<String>) {
        if let Some(store) = &self.store {
            store.sweep(&self.engine, used);
        }
    }

    /// What measures the guests, if this is a host of tools.
    pub(super) fn meter(&self) -> Option<&Arc<Meter>> {
        self.meter.as_ref()
    }

    /// The engine.
    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }
}

/// The features that [`check::features`] names. Reference types (their encodings, which
/// compilers emit) have no switch in a runtime without a collector: they are on.
fn settings() -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .max_wasm_stack(STACK_BYTES)
        .allocation_strategy(wasmtime::InstanceAllocationStrategy::OnDemand)
        .wasm_bulk_memory(true)
        .wasm_multi_value(true)
        .wasm_extended_const(true)
        .wasm_simd(true)
        .wasm_relaxed_simd(false)
        .wasm_tail_call(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false);
    config
}

/// Ticks until what it returns is dropped. A thread of its own: no guest can hold it up.
fn tick(engine: Engine) -> Result<mpsc::Sender<()>, String> {
    let (alive, owner) = mpsc::channel::<()>();
    let ticker = move || {
        let pause = Duration::from_millis(TICK_MS);
        while let Err(RecvTimeoutError::Timeout) = owner.recv_timeout(pause) {
            engine.increment_epoch();
        }
    };
    let thread = std::thread::Builder::new().name("kasho-epoch".to_owned()).spawn(ticker);
    thread.map(|_| alive).map_err(|e| format!("cannot start the deadline thread: {e}"))
}

/// Epochs that are at least `ms` milliseconds.
pub(super) fn ticks(ms: u64) -> u64 {
    ms / TICK_MS + 2
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

//! One running guest: its memory, its three calls, and what it answered.
//!
//! An instance that failed in any way is dropped, never called again. Every entry into
//! the guest has a deadline; every pointer it gives is checked against its memory; an
//! answer is read before the next call and what is needed of it is copied.

use std::fmt;
use std::sync::Arc;

use kasho_plugin_sdk::abi::{self, Announcement, Answer, Complaint, Needs, Wanted};
use kasho_plugin_sdk::{Relation, batch};
use wasmtime::{Memory, Store, Trap, TypedFunc, WasmBacktrace};

use super::gate;
use super::host::{Compiled, Host, ticks};
use super::imports::{GuestState, LogLines};
use super::known::ById;
use super::meter;
use super::wasi::Wasi;

/// Milliseconds, and the setting that gives more.
type Limit = (u64, &'static str);

const INIT_MS: &str = "init_ms";

/// Bytes that a JSON answer may have.
const MAX_JSON: u64 = 4 << 20;

/// Why a call gave no answer that can be used. No text of a row is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It took too long, or the machine was too slow.
    Deadline {
        /// What it had, milliseconds.
        ms: u64,
        /// The setting that gives it more.
        setting: &'static str,
    },
    /// It trapped.
    Trap(String),
    /// It wanted more memory than it may have.
    Memory {
        /// Bytes it would have had.
        wanted: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// It answered 0, or has no room for the batch.
    NoAnswer(&'static str),
    /// Its answer lies outside its memory, or is of a wrong length or place.
    BadPointer,
    /// Its answer is longer than answers may be.
    TooLong {
        /// Bytes allowed.
        limit: u64,
    },
    /// Its answer is no answer.
    Malformed(batch::Malformed),
    /// A masked column came back as it was.
    Unmasked(String),
    /// A column that identifies rows got two values from one.
    IdentityMoved(String),
    /// It answers otherwise than it did when it was loaded.
    Fickle(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Deadline { ms, setting } => {
                write!(f, "no answer within {ms} ms (setting {setting})")
            }
            Failure::Trap(text) => f.write_str(text),
            Failure::Memory { wanted, limit } => write!(
                f,
                "it wants {} MiB of memory and may have {} (setting memory_mib)",
                wanted.div_ceil(1 << 20),
                limit >> 20
            ),
            Failure::NoAnswer(text) => f.write_str(text),
            Failure::BadPointer => f.write_str(
                "its answer is no place in its memory, 8-byte aligned and 8 bytes long at least \
                 (ABI.md, Exports)",
            ),
            Failure::TooLong { limit } => {
                write!(
                    f,
                    "its answer is longer than the limit for this call, {limit} bytes (ABI.md, \
                     The reply block)"
                )
            }
            Failure::Malformed(flaw) => write!(
                f,
                "its answer is malformed: {flaw} ({}; ABI.md, The reply block)",
                flaw.place
            ),
            Failure::Unmasked(column) => {
                write!(
                    f,
                    "it masks column {column} and left a value of it as it was: it has to patch \
                     every text of it, or drop the row"
                )
            }
            Failure::IdentityMoved(column) => {
                write!(
                    f,
                    "it made two values from one in column {column}, which identifies rows: in a \
                     row's old and new image equal values have to become equal ones"
                )
            }
            Failure::Fickle(text) => f.write_str(text),
        }
    }
}

/// What an instance is made from, beside its code.
#[derive(Clone, Debug)]
pub(super) struct Ceilings {
    /// Name of the binding.
    pub(super) binding: Arc<str>,
    /// Most linear memory, bytes.
    pub(super) memory_bytes: usize,
    /// Time of a call, milliseconds.
    pub(super) deadline_ms: u64,
    /// Time of instantiation, init and of a relation call, milliseconds.
    pub(super) init_ms: u64,
    /// Log lines of all instances of the binding.
    pub(super) lines: Arc<LogLines>,
}

impl Ceilings {
    /// With ten times the time to start, for a machine that is far too busy.
    pub(super) fn patient(&self) -> Ceilings {
        Ceilings { init_ms: self.init_ms.saturating_mul(10), ..self.clone() }
    }
}

/// The exports that take bytes.
#[derive(Clone, Copy)]
enum Entry {
    Init,
    Relation,
    Batch,
}

/// A running guest.
pub(super) struct Instance {
    store: Store<GuestState>,
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    init: TypedFunc<(u32, u32), u64>,
    relation: TypedFunc<(u32, u32), u64>,
    batch: TypedFunc<(u32, u32), u64>,
    arena: (u32, u32),
    ceilings: Ceilings,
    /// Relations it was told of, by id.
    pub(super) announced: ById<Arc<Relation>>,
    /// Number of the newest batch.
    pub(super) call: u32,
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instance({})", self.ceilings.binding)
    }
}

impl Instance {
    /// Instantiates a plugin; its `_initialize` has run.
    pub(super) fn new(
        host: &Host,
        compiled: &Compiled,
        ceilings: &Ceilings,
    ) -> Result<Instance, Failure> {
        let state = GuestState {
            binding: Arc::clone(&ceilings.binding),
            wasm: Arc::clone(&compiled.wasm),
            memory_bytes: ceilings.memory_bytes,
            refused_bytes: None,
            memory: None,
            domains: Vec::new(),
            counters: Vec::new(),
            counted: false,
            seen_rows: false,
            failed: None,
            lines: Arc::clone(&ceilings.lines),
            meter: host.meter().cloned(),
            said: String::new(),
            wasi: Wasi::default(),
        };
        let mut store = Store::new(host.engine(), state);
        store.limiter(|state| state);
        meter::begin(&mut store);
        let start = (ceilings.init_ms, INIT_MS);
        store.set_epoch_deadline(ticks(ceilings.init_ms));
        let made = compiled.pre.instantiate(&mut store);
        let instance = made.map_err(|e| failure(&store, &e, start))?;
        let Some(memory) = instance.get_memory(&mut store, "memory") else {
            return Err(Failure::BadPointer);
        };
        store.data_mut().memory = Some(memory);
        let alloc = instance.get_typed_func(&mut store, "kasho_alloc");
        let init = instance.get_typed_func(&mut store, "kasho_init");
        let relation = instance.get_typed_func(&mut store, "kasho_relation");
        let batch = instance.get_typed_func(&mut store, "kasho_batch");
        let (Ok(alloc), Ok(init), Ok(relation), Ok(batch)) = (alloc, init, relation, batch) else {
            return Err(Failure::NoAnswer("an export is missing (ABI.md, Exports)"));
        };
        if compiled.checked.initialize {
            let function = instance.get_typed_func::<(), ()>(&mut store, "_initialize");
            let started = function.and_then(|function| function.call(&mut store, ()));
            started.map_err(|e| failure(&store, &e, start))?;
        }
        let (arena, announced) = ((0, 0), ById::default());
        let ceilings = ceilings.clone();
        Ok(Instance {
            store,
            memory,
            alloc,
            init,
            relation,
            batch,
            arena,
            ceilings,
            announced,
            call: 0,
        })
    }

    /// The guest's state on the host's side.
    pub(super) fn state(&mut self) -> &mut GuestState {
        self.store.data_mut()
    }

    /// Whether it was shown a row: then its words are row data.
    pub(super) fn seen_rows(&self) -> bool {
        self.store.data().seen_rows
    }

    /// The init call.
    pub(super) fn init(&mut self, init: &abi::Init) -> Result<Answer<Needs>, Failure> {
        let json = serde_json::to_vec(init).map_err(|_| Failure::BadPointer)?;
        match self.enter(Entry::Init, &json, self.ceilings.init_ms)? {
            0 => Err(Failure::NoAnswer(
                "its kasho_init gave no answer (0): a panic that was caught, or a bug",
            )),
            1 => Err(Failure::BadPointer),
            answer => {
                let bytes = self.answer(answer, MAX_JSON)?;
                parse(bytes, "init")
            }
        }
    }

    /// The relation call; `None` is "not wanted". Of two tables of one name the older one
    /// is no more: it is to be forgotten, or a guest would grow with every table that is
    /// dropped and made anew.
    pub(super) fn relation(
        &mut self,
        relation: &Arc<Relation>,
    ) -> Result<Option<Answer<Wanted>>, Failure> {
        let name = |r: &Relation| (&r.schema, &r.table) == (&relation.schema, &relation.table);
        let older = self.announced.values().filter(|r| r.id != relation.id && name(r));
        for id in older.map(|r| r.id).collect::<Vec<_>>() {
            self.forget(id)?;
        }
        let announcement = Announcement::Is(Relation::clone(relation));
        let json = serde_json::to_vec(&announcement).map_err(|_| Failure::BadPointer)?;
        // It parses and checks, as init does, and is no call with rows.
        let answer = match self.enter(Entry::Relation, &json, self.ceilings.init_ms)? {
            0 => {
                return Err(Failure::NoAnswer(
                    "its kasho_relation gave no answer (0): a panic that was caught, or a bug",
                ));
            }
            1 => None,
            answer => Some(parse(self.answer(answer, MAX_JSON)?, "relation")?),
        };
        self.announced.insert(relation.id, Arc::clone(relation));
        Ok(answer)
    }

    /// Takes an announcement back.
    pub(super) fn forget(&mut self, id: u32) -> Result<(), Failure> {
        let gone = Announcement::Gone { id, gone: abi::Gone };
        let json = serde_json::to_vec(&gone).map_err(|_| Failure::BadPointer)?;
        match self.enter(Entry::Relation, &json, self.ceilings.init_ms)? {
            1 => {
                self.announced.remove(&id);
                Ok(())
            }
            _ => Err(Failure::NoAnswer(
                "its kasho_relation does not forget a table: it has to answer 1 to one that is gone",
            )),
        }
    }

    /// The batch call; `None` is "keep all". The answer may be four times what was sent
    /// and 64 KiB, and `more`.
    pub(super) fn batch(
        &mut self,
        block: &[u8],
        more: u64,
        deadline_ms: u64,
    ) -> Result<Option<&[u8]>, Failure> {
        self.store.data_mut().seen_rows = true;
        match self.enter(Entry::Batch, block, deadline_ms)? {
            0 => Err(Failure::NoAnswer("it gave no answer (0): a panic that was caught, or a bug")),
            1 => Ok(None),
            answer => self.answer(answer, 4 * block.len() as u64 + (64 << 10) + more).map(Some),
        }
    }

    /// Copies `bytes` in and calls.
    fn enter(&mut self, entry: Entry, bytes: &[u8], deadline_ms: u64) -> Result<u64, Failure> {
        self.store.set_epoch_deadline(ticks(deadline_ms));
        let len =
            u32::try_from(bytes.len()).map_err(|_| Failure::NoAnswer("the batch is too large"))?;
        let limit = match entry {
            Entry::Init | Entry::Relation => (deadline_ms, INIT_MS),
            Entry::Batch => (deadline_ms, "deadline_ms"),
        };
        let ptr = self.room(len, limit)?;
        let data = self.memory.data_mut(&mut self.store);
        let place = data.get_mut(ptr as usize..).and_then(|rest| rest.get_mut(..bytes.len()));
        place.ok_or(Failure::BadPointer)?.copy_from_slice(bytes);
        let function = match entry {
            Entry::Init => &self.init,
            Entry::Relation => &self.relation,
            Entry::Batch => &self.batch,
        };
        let measured = meter::begin(&mut self.store);
        let answer = function.call(&mut self.store, (ptr, len));
        if let Some(started) = measured {
            let rows = matches!(entry, Entry::Batch);
            meter::end(&self.store, self.memory.data_size(&self.store), rows, started);
        }
        answer.map_err(|e| failure(&self.store, &e, limit))
    }

    /// A place of at least `len` bytes in the guest's memory.
    fn room(&mut self, len: u32, limit: Limit) -> Result<u32, Failure> {
        let (ptr, have) = self.arena;
        if ptr != 0 && len <= have {
            return Ok(ptr);
        }
        let size = len.max(4096).checked_next_power_of_two().unwrap_or(len);
        let ptr = self.alloc.call(&mut self.store, size);
        let ptr = ptr.map_err(|e| failure(&self.store, &e, limit))?;
        if ptr == 0 {
            return Err(Failure::NoAnswer(
                "it has no memory for what it is sent (kasho_alloc gave 0): give it more \
                 (setting memory_mib)",
            ));
        }
        let end = u64::from(ptr) + u64::from(size);
        if ptr % 8 != 0 || end > self.memory.data_size(&self.store) as u64 {
            return Err(Failure::NoAnswer(
                "its kasho_alloc gave no place of that length in its memory, 8-byte aligned \
                 (ABI.md, Exports)",
            ));
        }
        self.arena = (ptr, size);
        Ok(ptr)
    }

    fn answer(&self, answer: u64, limit: u64) -> Result<&[u8], Failure> {
        let (ptr, len) = abi::unpack_answer(answer);
        if ptr % 8 != 0 || len < 8 {
            return Err(Failure::BadPointer);
        }
        if u64::from(len) > limit {
            return Err(Failure::TooLong { limit });
        }
        let data = self.memory.data(&self.store);
        let rest = data.get(ptr as usize..).ok_or(Failure::BadPointer)?;
        rest.get(..len as usize).ok_or(Failure::BadPointer)
    }
}

/// Trailing zero bytes are padding: a JSON text shorter than 8 bytes is no answer.
fn parse<T: serde::de::DeserializeOwned>(json: &[u8], call: &str) -> Result<Answer<T>, Failure> {
    let end = json.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
    serde_json::from_slice(&json[..end]).map_err(|e| {
        // The parser's words quote what it read: only where and what kind.
        let kind = match e.classify() {
            serde_json::error::Category::Data => "asks for something that this host does not know: take a newer host, or the plugin made for it",
            _ => "is not JSON as in ABI.md",
        };
        let (line, column) = (e.line(), e.column());
        Failure::Fickle(format!("its {call} answer, line {line}, column {column}, {kind}"))
    })
}

/// What a guest refuses with, as text; it has seen no row.
pub(super) fn complaint(complaint: &Complaint) -> String {
    let text = gate::harmless(&complaint.text);
    match &complaint.at {
        Some(at) => format!("{}: {text}", gate::harmless(at)),
        None => text,
    }
}

fn failure(store: &Store<GuestState>, error: &wasmtime::Error, (ms, setting): Limit) -> Failure {
    let state = store.data();
    let trap = error.downcast_ref::<Trap>();
    if trap == Some(&Trap::Interrupt) {
        return Failure::Deadline { ms, setting };
    }
    if let Some(wanted) = state.refused_bytes {
        return Failure::Memory { wanted, limit: state.memory_bytes };
    }
    // Names of functions stand in the file; nothing else of the backtrace is shown.
    let frames = error.downcast_ref::<WasmBacktrace>().map(WasmBacktrace::frames);
    let name = frames.and_then(|f| f.iter().find_map(|f| f.func_name()));
    let name = name.map(|name| format!(" in `{}`", gate::harmless(name))).unwrap_or_default();
    Failure::Trap(match (&state.failed, trap) {
        // It says itself where; the innermost function is but the one that says so.
        (Some(said), _) => format!("it failed: {said}"),
        (None, Some(trap)) => format!("it trapped: {trap}{name}"),
        (None, None) => format!("it trapped: {}{name}", error.root_cause()),
    })
}

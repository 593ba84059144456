//! What a guest may ask of the host: a keyed hash, to fail with words, to log, to count.
//!
//! Every pointer, length, count and index comes from the guest and is checked; whatever is
//! wrong is a trap. The work is linear in the guest's memory, because no deadline
//! interrupts a host function.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kasho_plugin_sdk::abi::{IMPORTS, PRF_BYTES};
use kasho_plugin_sdk::keys::DomainKey;
use wasmtime::{Caller, Extern, Linker, Memory, Result, bail};

use super::gate;
use super::meter::Meter;
use super::wasi::Wasi;

/// Log lines of one binding in one second.
const LOG_LINES: u32 = 100;
/// Values that are hashed in one call: no deadline interrupts it.
const MOST_VALUES: u32 = 1 << 18;
/// Bytes of a text that are looked at.
const TEXT_BYTES: u32 = 4096;
/// Lines of a source file that are told of a failure.
const MOST_LINES: u32 = 9_999;
/// Elements of a table.
const TABLE_ELEMENTS: usize = 100_000;

/// The host's side of an instance.
pub(super) struct GuestState {
    /// Name of the binding.
    pub(super) binding: Arc<str>,
    /// The file, for the gate.
    pub(super) wasm: Arc<[u8]>,
    /// Most linear memory, bytes.
    pub(super) memory_bytes: usize,
    /// What would have been the memory, had it been allowed to grow beyond that.
    pub(super) refused_bytes: Option<usize>,
    /// Set once it exists.
    pub(super) memory: Option<Memory>,
    /// Keys of the domains declared at init.
    pub(super) domains: Vec<DomainKey>,
    /// Counters by text, of this instance.
    pub(super) counters: Vec<i64>,
    /// Some counter is not 0.
    pub(super) counted: bool,
    /// It was shown a row: its words are row data from now on.
    pub(super) seen_rows: bool,
    /// Words it failed with, through the gate.
    pub(super) failed: Option<String>,
    /// Lines that the binding's instances have logged.
    pub(super) lines: Arc<LogLines>,
    /// Set in the tools of plugin authors.
    pub(super) meter: Option<Arc<Meter>>,
    /// What it wrote to WASI's standard error, through the gate: the last
    /// [`TEXT_BYTES`] of it, without the lines that were too many in their second.
    pub(super) said: String,
    /// What it has of WASI.
    pub(super) wasi: Wasi,
}

/// How much a binding has logged in this second, all its instances together.
#[derive(Debug)]
pub(super) struct LogLines(Mutex<(Instant, u32)>);

impl Default for LogLines {
    fn default() -> LogLines {
        LogLines(Mutex::new((Instant::now(), 0)))
    }
}

impl LogLines {
    /// As if so much had been logged that nothing more is, for ever.
    pub(super) fn unseen() -> Arc<LogLines> {
        let never = Instant::now() + Duration::from_secs(365 * 24 * 60 * 60);
        Arc::new(LogLines(Mutex::new((never, LOG_LINES))))
    }

    /// Counts a line; its number in this second.
    fn next(&self) -> u32 {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0.elapsed() >= Duration::from_secs(1) {
            *counted = (Instant::now(), 0);
        }
        counted.1 = counted.1.saturating_add(1);
        counted.1
    }
}

impl GuestState {
    fn gate(&self, text: &[u8]) -> String {
        if self.meter.is_some() {
            return String::from_utf8_lossy(text).into_owned();
        }
        match std::str::from_utf8(text) {
            Ok(text) if !self.seen_rows => gate::harmless(text),
            _ => gate::pass(&self.wasm, text),
        }
    }
}

impl wasmtime::ResourceLimiter for GuestState {
    fn memory_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if desired > self.memory_bytes {
            self.refused_bytes = Some(desired);
            bail!("more memory than it may have");
        }
        Ok(maximum.is_none_or(|max| desired <= max))
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if desired > TABLE_ELEMENTS {
            bail!("a table beyond {TABLE_ELEMENTS} elements");
        }
        Ok(maximum.is_none_or(|max| desired <= max))
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        16
    }

    fn memories(&self) -> usize {
        1
    }
}

/// Adds the imports to a linker; a module takes those it names.
pub(super) fn link(linker: &mut Linker<GuestState>) -> Result<()> {
    linker.func_wrap(IMPORTS, "prf", prf)?;
    linker.func_wrap(IMPORTS, "fail", fail)?;
    linker.func_wrap(IMPORTS, "log", log)?;
    linker.func_wrap(IMPORTS, "count", count)?;
    Ok(())
}

pub(super) fn memory(caller: &mut Caller<'_, GuestState>) -> Result<Memory> {
    if let Some(memory) = caller.data().memory {
        return Ok(memory);
    }
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory),
        _ => bail!("no memory"),
    }
}

/// `len` bytes at `ptr`.
pub(super) fn range(memory: &[u8], ptr: u32, len: u64) -> Result<std::ops::Range<usize>> {
    let end = u64::from(ptr).checked_add(len).filter(|end| *end <= memory.len() as u64);
    let end = end.and_then(|end| usize::try_from(end).ok());
    end.map(|end| ptr as usize..end).ok_or_else(|| wasmtime::format_err!("pointer out of range"))
}

fn prf(
    mut caller: Caller<'_, GuestState>,
    domain: u32,
    offsets: u32,
    bytes: u32,
    n: u32,
    out: u32,
) -> Result<()> {
    let memory = memory(&mut caller)?;
    let (data, state) = memory.data_and_store_mut(&mut caller);
    let Some(key) = state.domains.get(domain as usize) else { bail!("prf: no such domain") };
    if n > MOST_VALUES {
        bail!("prf: more than {MOST_VALUES} values in one call");
    }
    let n = n as usize;
    let offsets = range(data, offsets, (n as u64 + 1) * 4)?;
    let out = range(data, out, n as u64 * PRF_BYTES as u64)?;
    // Each offset is read once, from where it is now: hashes may be written over them, but
    // the ends still only rise, so the work stays linear in the memory.
    let mut start = word(data, offsets.start);
    for i in 0..n {
        let end = word(data, offsets.start + 4 * (i + 1));
        if end < start {
            bail!("prf: offsets fall");
        }
        let value = range(data, bytes, u64::from(end))?.start + start as usize;
        let hash = key.prf(&data[value..value + (end - start) as usize]);
        let at = out.start + i * PRF_BYTES;
        data[at..at + PRF_BYTES].copy_from_slice(&hash);
        start = end;
    }
    Ok(())
}

/// The caller has checked that it lies inside.
fn word(data: &[u8], at: usize) -> u32 {
    data.get(at..).and_then(<[u8]>::first_chunk).map_or(u32::MAX, |w| u32::from_le_bytes(*w))
}

fn text(caller: &mut Caller<'_, GuestState>, ptr: u32, len: u32) -> Result<String> {
    let memory = memory(caller)?;
    let data = memory.data(&*caller);
    let text = &data[range(data, ptr, u64::from(len))?];
    if len > TEXT_BYTES {
        return Ok(format!("«{len} bytes withheld»"));
    }
    Ok(caller.data().gate(text))
}

fn fail(
    mut caller: Caller<'_, GuestState>,
    msg: u32,
    msg_len: u32,
    file: u32,
    file_len: u32,
    line: u32,
    column: u32,
) -> Result<()> {
    let said = text(&mut caller, msg, msg_len)?;
    let place = match caller.data().meter.is_some() {
        true => format!(":{line}:{column}"),
        // A number that the guest chooses: no more of it than a line of a source needs.
        false if line <= MOST_LINES => format!(":{line}"),
        false => String::new(),
    };
    let file = text(&mut caller, file, file_len)?;
    caller.data_mut().failed = Some(format!("{said} ({file}{place})"));
    bail!("the plugin failed");
}

fn log(mut caller: Caller<'_, GuestState>, level: u32, ptr: u32, len: u32) -> Result<()> {
    line(&mut caller, level, ptr, len).map(|_| ())
}

/// As `log`, of what is written to WASI's standard output and error; the latter's last
/// words are kept, for they say why a guest exits.
pub(super) fn say(
    caller: &mut Caller<'_, GuestState>,
    level: u32,
    ptr: u32,
    len: u32,
) -> Result<()> {
    let text = line(caller, level, ptr, len)?;
    if level == 2 {
        keep_last(&mut caller.data_mut().said, text.trim());
    }
    Ok(())
}

/// Adds words, and forgets the first ones where there are too many.
fn keep_last(said: &mut String, text: &str) {
    if !said.is_empty() && !text.is_empty() {
        said.push(' ');
    }
    said.push_str(text);
    let too_many = said.len().saturating_sub(TEXT_BYTES as usize);
    let first = (too_many..=said.len()).find(|at| said.is_char_boundary(*at));
    said.drain(..first.unwrap_or(0));
}

/// Writes a line to the log, and gives what may be shown of it.
fn line(caller: &mut Caller<'_, GuestState>, level: u32, ptr: u32, len: u32) -> Result<String> {
    if let Some(meter) = caller.data().meter.clone() {
        let text = text(caller, ptr, len)?;
        meter.say(text.clone());
        return Ok(text);
    }
    // First, because looking for a text in the file is what costs.
    let line = caller.data().lines.next();
    let text = if line < LOG_LINES { text(caller, ptr, len)? } else { String::new() };
    let binding = &caller.data().binding;
    match (line, level) {
        (LOG_LINES, _) => {
            tracing::warn!(%binding, "plugin logs too much; the rest of this second is lost");
        }
        (n, _) if n > LOG_LINES => {}
        (_, 0 | 1) => tracing::error!(%binding, "plugin: {text}"),
        (_, 2) => tracing::warn!(%binding, "plugin: {text}"),
        (_, 3) => tracing::info!(%binding, "plugin: {text}"),
        _ => tracing::debug!(%binding, "plugin: {text}"),
    }
    Ok(text)
}

fn count(mut caller: Caller<'_, GuestState>, text: u32, delta: i64) -> Result<()> {
    let state = caller.data_mut();
    state.counted = true;
    match state.counters.get_mut(text as usize) {
        Some(counter) => *counter = counter.saturating_add(delta),
        None => bail!("count: no such text"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_kept_and_not_the_first() {
        let mut said = String::new();
        keep_last(&mut said, "first");
        keep_last(&mut said, "");
        keep_last(&mut said, "second");
        assert_eq!(said, "first second");
        for _ in 0..TEXT_BYTES {
            keep_last(&mut said, "ääää");
        }
        keep_last(&mut said, "why it exits");
        assert!(said.len() <= TEXT_BYTES as usize && said.len() > TEXT_BYTES as usize - 2);
        assert!(said.ends_with("ääää why it exits") && !said.contains("first"));
    }
}

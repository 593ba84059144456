//! What the tools of plugin authors see of a guest: instructions, memory, time, and every
//! word it says. The service has no meter, and pays a look at an `Option` a call.
//!
//! Instructions are wasmtime's fuel, which costs a guest about a third of its speed: so a
//! meter counts them or it does not, and times are taken by one that does not. Nothing can
//! go wrong here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use wasmtime::Store;

use super::imports::GuestState;

/// Measures the guests of one host.
#[derive(Debug, Default)]
pub struct Meter {
    fuel: bool,
    instructions: AtomicU64,
    memory: AtomicU64,
    longest: AtomicU64,
    said: Mutex<Vec<String>>,
    failed: Mutex<Vec<String>>,
}

/// What was measured since the meter was read last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Instructions of calls with rows; 0 of a meter that does not count them.
    pub instructions: u64,
    /// The largest linear memory after a call, bytes.
    pub memory: u64,
    /// The longest call with rows, nanoseconds.
    pub longest: u64,
    /// What guests logged.
    pub said: Vec<String>,
    /// Why calls with rows failed, whatever the chain then made of them.
    pub failed: Vec<String>,
}

impl Meter {
    /// A meter; with `fuel` it counts instructions, and guests are slower.
    #[must_use]
    pub fn new(fuel: bool) -> Meter {
        Meter { fuel, ..Meter::default() }
    }

    /// Reads it and begins anew.
    #[must_use]
    pub fn take(&self) -> Measured {
        let taken = |lines: &Mutex<Vec<String>>| {
            std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner))
        };
        Measured {
            instructions: self.instructions.swap(0, Relaxed),
            memory: self.memory.swap(0, Relaxed),
            longest: self.longest.swap(0, Relaxed),
            said: taken(&self.said),
            failed: taken(&self.failed),
        }
    }

    pub(super) fn counts(&self) -> bool {
        self.fuel
    }

    pub(super) fn fail(&self, text: String) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    pub(super) fn say(&self, text: String) {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}

/// Begins to measure a call, if there is a meter: fills the tank, starts the watch.
pub(super) fn begin(store: &mut Store<GuestState>) -> Option<Instant> {
    let fuel = store.data().meter.as_ref()?.fuel;
    if fuel {
        // It fails where no fuel is consumed, and there is a tank.
        let _ = store.set_fuel(u64::MAX);
    }
    Some(Instant::now())
}

/// Notes a call that has ended, one with rows or another.
pub(super) fn end(store: &Store<GuestState>, memory: usize, rows: bool, started: Instant) {
    let took = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let Some(meter) = &store.data().meter else { return };
    meter.memory.fetch_max(memory as u64, Relaxed);
    if rows {
        meter.longest.fetch_max(took, Relaxed);
        let left = store.get_fuel().unwrap_or(u64::MAX);
        meter.instructions.fetch_add(u64::MAX - left, Relaxed);
    }
}

//! What happened in a run, in order: a digest that says whether two runs were the same, the
//! newest lines for whoever has to find out why one failed, and counts of what was met.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

/// Lines kept for a failure's message; `KASHO_SIM_SEED` keeps all.
const KEPT: usize = 60;

#[derive(Clone)]
pub(crate) struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    digest: u64,
    started: Instant,
    kept: usize,
    lines: VecDeque<String>,
    met: BTreeMap<&'static str, u64>,
}

impl Trace {
    pub(crate) fn new(all: bool) -> Trace {
        let (digest, started) = (0xcbf2_9ce4_8422_2325, Instant::now());
        let kept = if all { usize::MAX } else { KEPT };
        let (lines, met) = (VecDeque::new(), BTreeMap::new());
        Trace(Arc::new(Mutex::new(Inner { digest, started, kept, lines, met })))
    }

    /// Writes a line, with the simulated time.
    pub(crate) fn say(&self, line: fmt::Arguments<'_>) {
        let mut inner = self.0.lock().unwrap();
        let line = format!("{:>8} {line}", inner.started.elapsed().as_millis());
        for byte in line.bytes() {
            inner.digest = (inner.digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        if inner.lines.len() >= inner.kept {
            inner.lines.pop_front();
        }
        inner.lines.push_back(line);
    }

    /// Counts something that runs are meant to meet.
    pub(crate) fn met(&self, what: &'static str) {
        *self.0.lock().unwrap().met.entry(what).or_default() += 1;
    }

    pub(crate) fn count(&self, what: &str) -> u64 {
        self.0.lock().unwrap().met.get(what).copied().unwrap_or(0)
    }

    pub(crate) fn all_met(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap().met.clone()
    }

    pub(crate) fn digest(&self) -> u64 {
        self.0.lock().unwrap().digest
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().lines.make_contiguous().join("\n")
    }
}

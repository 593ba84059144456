//! What bindings did, in figures: calls, rows, time, and what plugins count themselves.
//!
//! Figures outlive generations, are read at any time, and are written by every chain that
//! runs the binding. Nothing can go wrong here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a binding did, in this process's life: it is handed on from generation to
/// generation under the binding's name.
#[derive(Debug, Default)]
pub struct Figures {
    /// Rows it was called with.
    rows: AtomicU64,
    /// Rows it dropped.
    pub dropped: AtomicU64,
    /// Rows in error, by its own word or by failing on them.
    pub errors: AtomicU64,
    /// Rows in error that were dropped, by `on_error = "drop"`.
    pub lost: AtomicU64,
    /// Rows in error that were set aside.
    pub dead: AtomicU64,
    /// Rows in error that passed as they were, by `on_error = "pass"`.
    pub passed: AtomicU64,
    /// Calls that failed: traps, deadlines, malformed answers.
    pub failures: AtomicU64,
    /// Those of them that had no answer in time and were made once more, with ten times as long.
    pub late: AtomicU64,
    /// Nanoseconds in calls, host work included.
    nanoseconds: AtomicU64,
    /// Calls by their time: those within each bound of [`CALL_SECONDS`], and the others.
    buckets: [AtomicU64; CALL_SECONDS.len() + 1],
    /// What the plugin itself counted, by the texts it declared.
    counted: Mutex<BTreeMap<String, i64>>,
    /// What the chains that run it have not added to the figures yet.
    tallies: Mutex<Vec<Arc<Tally>>>,
}

/// The calls of one chain. It alone writes here, so that counting a call takes no locked
/// instruction; who reads figures adds it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    rows: AtomicU64,
    nanoseconds: AtomicU64,
    buckets: [AtomicU64; CALL_SECONDS.len() + 1],
}

impl Tally {
    /// Counts a call that took this long.
    pub(super) fn called(&self, rows: usize, took: Duration) {
        let add = |counter: &AtomicU64, n: u64| {
            counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
        };
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // Whole nanoseconds compare as the bounds do, and cost less.
        let within = |bound: &f64| nanoseconds as f64 <= *bound * 1e9;
        let bucket = CALL_SECONDS.iter().position(within).unwrap_or(CALL_SECONDS.len());
        add(&self.rows, rows as u64);
        add(&self.nanoseconds, nanoseconds);
        add(&self.buckets[bucket], 1);
    }
}

/// Upper bounds of the calls' histogram, seconds.
pub const CALL_SECONDS: [f64; 12] =
    [1e-5, 2.5e-5, 1e-4, 2.5e-4, 1e-3, 2.5e-3, 1e-2, 2.5e-2, 0.1, 0.25, 1.0, 10.0];

/// [`Figures`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Rows it was called with.
    pub rows: u64,
    /// Rows it dropped.
    pub dropped: u64,
    /// Rows in error.
    pub errors: u64,
    /// Of these, dropped.
    pub lost: u64,
    /// Of these, set aside.
    pub dead: u64,
    /// Of these, passed as they were.
    pub passed: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Time in calls.
    pub time: Duration,
    /// Calls by their time, beside [`CALL_SECONDS`].
    pub buckets: [u64; CALL_SECONDS.len() + 1],
}

impl Figures {
    pub(super) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Relaxed);
    }

    /// Where a chain counts its calls. What chains that are no more have counted is added
    /// to the figures.
    pub(super) fn tally(&self) -> Arc<Tally> {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.retain_mut(|tally| {
            let Some(left) = Arc::get_mut(tally) else { return true };
            let pairs = self.buckets.iter().zip(&mut left.buckets);
            let sums = [(&self.rows, &mut left.rows), (&self.nanoseconds, &mut left.nanoseconds)];
            for (sum, n) in sums.into_iter().chain(pairs) {
                sum.fetch_add(*n.get_mut(), Relaxed);
            }
            false
        });
        let tally = Arc::<Tally>::default();
        tallies.push(Arc::clone(&tally));
        tally
    }

    /// Adds what an instance counted, and sets it back to 0.
    pub(super) fn count(&self, texts: &[String], counters: &mut [i64]) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        for (text, n) in texts.iter().zip(counters).filter(|(_, n)| **n != 0) {
            let sum = counted.entry(text.clone()).or_default();
            *sum = sum.saturating_add(std::mem::take(n));
        }
    }

    /// What the plugin itself counted, by the texts it declared.
    #[must_use]
    pub fn counted(&self) -> BTreeMap<String, i64> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The figures now.
    #[must_use]
    pub fn get(&self) -> Calls {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |own: &AtomicU64, of: &dyn Fn(&Tally) -> &AtomicU64| {
            let more = tallies.iter().map(|tally| of(tally).load(Relaxed));
            more.fold(own.load(Relaxed), u64::wrapping_add)
        };
        Calls {
            rows: sum(&self.rows, &|t| &t.rows),
            dropped: self.dropped.load(Relaxed),
            errors: self.errors.load(Relaxed),
            lost: self.lost.load(Relaxed),
            dead: self.dead.load(Relaxed),
            passed: self.passed.load(Relaxed),
            failures: self.failures.load(Relaxed),
            time: Duration::from_nanos(sum(&self.nanoseconds, &|t| &t.nanoseconds)),
            buckets: std::array::from_fn(|at| sum(&self.buckets[at], &|t| &t.buckets[at])),
        }
    }
}

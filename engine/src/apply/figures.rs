//! What the applier tells of itself while it works; holds no row data. Also how it answers
//! `/metrics` and `/readyz`.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::change::Verb;
use crate::http::{Answers, Kind, Text, resident_bytes};
use crate::position::EpochPosition;

/// Rows that were not as they should be, and did not end the applier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Odd {
    /// By policy (`apply.conflict`).
    Conflict,
    /// The chain may have lost rows of the table.
    Expected,
}

/// The figures. Counters count from the start of the process.
#[derive(Debug)]
pub struct Figures {
    since: Instant,
    rows: [AtomicU64; 3],
    conflicts: [AtomicU64; 3],
    expected: AtomicU64,
    pub(super) loaded: AtomicU64,
    pub(super) transactions: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) parts: AtomicU64,
    pub(super) schema_changes: AtomicU64,
    pub(super) schema_changes_passed: AtomicU64,
    pub(super) attempts: AtomicU64,
    /// Commit time of the newest change applied, µs since 1970.
    pub(super) commit_us: AtomicI64,
    /// Nothing more waits in the streams.
    pub(super) caught_up: AtomicBool,
    pub(super) standby: AtomicBool,
    pub(super) loading: AtomicBool,
    position: Mutex<Option<EpochPosition>>,
    trouble: Mutex<Option<String>>,
}

impl Default for Figures {
    fn default() -> Figures {
        Figures {
            since: Instant::now(),
            rows: Default::default(),
            conflicts: Default::default(),
            expected: AtomicU64::new(0),
            loaded: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            parts: AtomicU64::new(0),
            schema_changes: AtomicU64::new(0),
            schema_changes_passed: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
            commit_us: AtomicI64::new(0),
            caught_up: AtomicBool::new(false),
            standby: AtomicBool::new(false),
            loading: AtomicBool::new(false),
            position: Mutex::new(None),
            trouble: Mutex::new(Some("not at work yet".to_owned())),
        }
    }
}

fn at(verb: Verb) -> usize {
    match verb {
        Verb::Insert => 0,
        Verb::Update => 1,
        Verb::Delete => 2,
    }
}

const VERBS: [&str; 3] = ["insert", "update", "delete"];

impl Figures {
    pub(super) fn rows(&self, verb: Verb, count: u64) {
        self.rows[at(verb)].fetch_add(count, Relaxed);
    }

    /// Counts rows that were not as they should be, and tells of the first.
    pub(super) fn odd(&self, odd: Odd, verb: Verb, count: u64) {
        let counter = match odd {
            Odd::Conflict => &self.conflicts[at(verb)],
            Odd::Expected => &self.expected,
        };
        if counter.fetch_add(count, Relaxed) == 0 && odd == Odd::Conflict {
            let verb = verb.name();
            tracing::warn!(
                verb,
                "a row was not as it should be: counted from now on, see /metrics"
            );
        }
    }

    pub(super) fn reached(&self, position: EpochPosition) {
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = Some(position);
    }

    /// Why nothing is applied at the moment; none while it is. What waits meanwhile is not known.
    pub(super) fn trouble(&self, why: Option<String>) {
        if why.is_some() {
            self.caught_up.store(false, Relaxed);
            self.loading.store(false, Relaxed);
        }
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// How old the newest change is that is not applied; 0 once there is none.
    fn lag_seconds(&self) -> f64 {
        let newest = self.commit_us.load(Relaxed);
        if self.caught_up.load(Relaxed) || newest == 0 {
            return 0.0;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let newest = std::time::Duration::from_micros(u64::try_from(newest).unwrap_or(0));
        now.saturating_sub(newest).as_secs_f64()
    }
}

impl Answers for Figures {
    fn not_ready(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn metrics(&self) -> String {
        let mut text = Text::default();
        let version: &[(&str, &str)] = &[("version", env!("CARGO_PKG_VERSION"))];
        text.family("kasho_build_info", Kind::Gauge, "The version, as a label.", [(version, 1)]);
        let up = self.since.elapsed().as_secs_f64();
        text.gauge("kasho_uptime_seconds", "Time since the applier started.", up);
        let ready = u8::from(self.not_ready().is_none());
        text.gauge("kasho_ready", "Whether /readyz answers 200.", ready);
        let flag = |flag: &AtomicBool| u8::from(flag.load(Relaxed));
        let help = "1 while another applier of this consumer is at work.";
        text.gauge("kasho_apply_standby", help, flag(&self.standby));
        let help = "1 while the initial load, or tables again, are applied.";
        text.gauge("kasho_apply_loading", help, flag(&self.loading));
        let help = "1 when nothing more waits in Redis.";
        text.gauge("kasho_apply_caught_up", help, flag(&self.caught_up));
        let help = "Age of the newest change applied; 0 when nothing waits.";
        text.gauge("kasho_apply_lag_seconds", help, self.lag_seconds());
        let mut by_verb = |name: &str, help: &str, of: &[AtomicU64; 3]| {
            let labels: Vec<_> = VERBS.iter().map(|verb| [("op", *verb)]).collect();
            let values = of.iter().map(|counter| counter.load(Relaxed));
            text.family(name, Kind::Counter, help, labels.iter().map(|l| &l[..]).zip(values));
        };
        by_verb("kasho_apply_rows_total", "Changes applied.", &self.rows);
        let help = "Changes that did not fit the target and were passed over (apply.conflict).";
        by_verb("kasho_apply_conflicts_total", help, &self.conflicts);
        for (name, help, counter) in [
            (
                "kasho_apply_expected_misses_total",
                "The same where plugins may have lost rows of the table.",
                &self.expected,
            ),
            ("kasho_apply_loaded_rows_total", "Rows of the load applied.", &self.loaded),
            ("kasho_apply_transactions_total", "The source's transactions.", &self.transactions),
            ("kasho_apply_commits_total", "The target's.", &self.commits),
            (
                "kasho_apply_parts_total",
                "Commits inside of a transaction larger than Redis's budget.",
                &self.parts,
            ),
            ("kasho_apply_schema_changes_total", "Schema changes made.", &self.schema_changes),
            (
                "kasho_apply_schema_changes_passed_total",
                "Those that were there already, or of nothing that is there.",
                &self.schema_changes_passed,
            ),
            ("kasho_apply_attempts_total", "Sessions begun anew after an error.", &self.attempts),
        ] {
            text.counter(name, help, counter.load(Relaxed));
        }
        let position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(position) = *position {
            let position = position.to_string();
            let label: &[(&str, &str)] = &[("position", &position)];
            let help = "What the target has, as a label.";
            text.family("kasho_apply_position_info", Kind::Gauge, help, [(label, 1)]);
        }
        if let Some(bytes) = resident_bytes() {
            text.gauge("kasho_resident_memory_bytes", "Resident memory of the process.", bytes);
        }
        text.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_applies_nothing_has_not_caught_up() {
        let figures = Figures::default();
        figures.trouble(None);
        figures.commit_us.store(1, Relaxed);
        for flag in [&figures.caught_up, &figures.loading] {
            flag.store(true, Relaxed);
        }
        assert!(figures.metrics().contains("kasho_apply_lag_seconds 0\n"));
        figures.trouble(Some("the target is away".to_owned()));
        let told = figures.metrics();
        for line in ["kasho_apply_caught_up 0\n", "kasho_apply_loading 0\n", "kasho_ready 0\n"] {
            assert!(told.contains(line), "{line}: {told}");
        }
        assert!(figures.lag_seconds() > 1e9, "it grows from what was applied last");
    }
}

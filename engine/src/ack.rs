//! The ledger between "published" and "PostgreSQL may forget": the only maker of
//! [`Durable`], so nothing else can acknowledge anything.
//!
//! An LSN passes four marks, in this order and never another: *published* (the sink
//! took it), *durable* (the sink's durability was waited for after that), *ripe* (it
//! has been durable for the configured lag, so that a small loss in a fail-over heals
//! by replay), *confirmed* (the sink's checkpoint says, durably, that PostgreSQL is
//! about to be told). No I/O and no clock: the caller says what time it is.

use std::collections::VecDeque;

use crate::position::Lsn;

/// Proof that everything up to an LSN is in the sink, as durable as configured, and
/// that the sink's checkpoint says so too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Durable(Lsn);

impl Durable {
    /// The LSN up to which PostgreSQL need not keep its log.
    #[must_use]
    pub fn lsn(self) -> Lsn {
        self.0
    }
}

/// How long what is durable is held back before PostgreSQL is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Milliseconds since it became durable; 0 = at once.
    pub ms: u64,
    /// Bytes of log: what lies further than this behind the newest durable LSN is ripe
    /// whatever its age.
    pub bytes: u64,
}

/// At most this many marks wait to ripen; closer ones are joined.
const MARKS: u64 = 64;

#[derive(Clone, Copy, Debug)]
struct Mark {
    opened_ms: u64,
    durable_ms: u64,
    lsn: Lsn,
}

/// What has been published, is durable, is ripe, and was confirmed.
#[derive(Debug)]
pub struct Ledger {
    lag: Lag,
    published: Lsn,
    durable: Lsn,
    ripe: Lsn,
    confirmed: Lsn,
    ripening: VecDeque<Mark>,
}

impl Ledger {
    /// A ledger that starts where the sink's checkpoint was `confirmed`.
    #[must_use]
    pub fn new(confirmed: Lsn, lag: Lag) -> Ledger {
        Ledger {
            lag,
            published: confirmed,
            durable: confirmed,
            ripe: confirmed,
            confirmed,
            ripening: VecDeque::new(),
        }
    }

    /// Everything up to `lsn` was handed to the sink, which took it.
    pub fn published(&mut self, lsn: Lsn) {
        self.published = self.published.max(lsn);
    }

    /// Whether something was published that is not known to be durable.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        self.published > self.durable
    }

    /// The sink was flushed after everything published so far.
    pub fn flushed(&mut self, now_ms: u64) {
        if !self.wants_flush() {
            return;
        }
        self.durable = self.published;
        let window = self.lag.ms / MARKS;
        match self.ripening.back_mut() {
            Some(last) if now_ms.saturating_sub(last.opened_ms) < window => {
                last.durable_ms = now_ms;
                last.lsn = self.durable;
            }
            _ => self.ripening.push_back(Mark {
                opened_ms: now_ms,
                durable_ms: now_ms,
                lsn: self.durable,
            }),
        }
    }

    /// What may be confirmed at `now_ms`; never less than before.
    pub fn ripe(&mut self, now_ms: u64) -> Lsn {
        while let Some(mark) = self.ripening.front() {
            let old = now_ms.saturating_sub(mark.durable_ms) >= self.lag.ms;
            if !old && self.durable.since(mark.lsn) <= self.lag.bytes {
                break;
            }
            self.ripe = self.ripe.max(mark.lsn);
            self.ripening.pop_front();
        }
        self.ripe
    }

    /// When the next mark ripens by age, in the caller's milliseconds.
    #[must_use]
    pub fn ripens_at_ms(&self) -> Option<u64> {
        self.ripening.front().map(|mark| mark.durable_ms.saturating_add(self.lag.ms))
    }

    /// The newest LSN known to be durable: the position to store beside a confirmation.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// Whether the sink's checkpoint lags behind what is ripe.
    #[must_use]
    pub fn wants_confirm(&self) -> bool {
        self.ripe > self.confirmed
    }

    /// The sink's checkpoint durably holds `lsn` as confirmed. Only what is ripe can
    /// be: a larger `lsn` is cut down to that.
    pub fn confirmed(&mut self, lsn: Lsn) -> Durable {
        self.confirmed = self.confirmed.max(lsn.min(self.ripe));
        Durable(self.confirmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAG: Lag = Lag { ms: 5_000, bytes: 1_000 };

    #[test]
    fn published_is_not_durable_and_durable_is_not_ripe() {
        let mut ledger = Ledger::new(Lsn(100), LAG);
        ledger.published(Lsn(200));
        assert_eq!(ledger.ripe(99_999), Lsn(100), "nothing was flushed");
        ledger.flushed(0);
        assert_eq!(ledger.ripe(4_999), Lsn(100));
        assert_eq!(ledger.ripe(5_000), Lsn(200));
        assert!(ledger.wants_confirm());
        assert_eq!(ledger.confirmed(Lsn(900)).lsn(), Lsn(200), "cut down to what is ripe");
    }

    #[test]
    fn bytes_ripen_what_is_too_young() {
        let mut ledger = Ledger::new(Lsn(0), LAG);
        ledger.published(Lsn(10));
        ledger.flushed(0);
        ledger.published(Lsn(1_011));
        ledger.flushed(100);
        assert_eq!(ledger.ripe(100), Lsn(10));
    }

    #[test]
    fn a_steady_stream_ripens_although_marks_are_joined() {
        let mut ledger = Ledger::new(Lsn(0), Lag { ms: 5_000, bytes: u64::MAX });
        for ms in 0..20_000 {
            ledger.published(Lsn(ms + 1));
            ledger.flushed(ms);
            assert!(ledger.ripening.len() as u64 <= MARKS + 2);
            let ripe = ledger.ripe(ms).0;
            assert!(ripe <= ms.saturating_sub(4_999), "{ripe} is too young at {ms}");
            assert!(ms < 6_000 || ripe >= ms - 5_200, "{ripe} waits too long at {ms}");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Publish(u64),
        Flush,
        Wait(u64),
        Confirm(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..3_000).prop_map(Step::Publish),
            Just(Step::Flush),
            (0u64..9_000).prop_map(Step::Wait),
            (0u64..9_000).prop_map(Step::Confirm),
        ]
    }

    proptest! {
        #[test]
        fn confirmed_never_passes_durable_and_never_goes_back(
            steps in proptest::collection::vec(step(), 0..200)
        ) {
            let mut ledger = Ledger::new(Lsn(0), LAG);
            let (mut now_ms, mut flushed, mut published, mut last) = (0, Lsn(0), Lsn(0), Lsn(0));
            for step in steps {
                match step {
                    Step::Publish(lsn) => {
                        ledger.published(Lsn(lsn));
                        published = published.max(Lsn(lsn));
                    }
                    Step::Flush => {
                        ledger.flushed(now_ms);
                        flushed = published;
                    }
                    Step::Wait(ms) => now_ms += ms,
                    Step::Confirm(lsn) => {
                        ledger.ripe(now_ms);
                        let told = ledger.confirmed(Lsn(lsn)).lsn();
                        prop_assert!(told >= last && told <= flushed);
                        last = told;
                    }
                }
            }
        }
    }
}

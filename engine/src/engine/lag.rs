//! How old the log is that is not published yet, by our own clock: what was seen as the
//! log's end at each look, until the stream has passed it. No clock of the source is
//! needed, and an idle database does not look late. Nothing can go wrong; between two
//! looks it is as exact as they are close.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::position::Lsn;

/// Ends kept; when there are more, every second one goes.
const MOST: usize = 1024;

/// Ends of the log that the stream has not passed, oldest first.
#[derive(Debug, Default)]
pub(super) struct LagClock {
    seen: VecDeque<(Instant, Lsn)>,
}

impl LagClock {
    /// The log ended at `end`, and everything up to `published` is published.
    pub(super) fn saw(&mut self, at: Instant, end: Lsn, published: Lsn) {
        while self.seen.front().is_some_and(|(_, end)| *end <= published) {
            self.seen.pop_front();
        }
        let newest = self.seen.back().map_or(published, |(_, end)| *end);
        if end <= newest {
            return;
        }
        self.seen.push_back((at, end));
        if self.seen.len() > MOST {
            let mut keep = false;
            // The oldest stays: it is what the lag is counted from.
            self.seen.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// The age of the oldest of them.
    pub(super) fn lag(&self, now: Instant) -> Duration {
        self.seen.front().map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unpublished_end_counts() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut clock = LagClock::default();
        clock.saw(at(0), Lsn(10), Lsn(10));
        assert_eq!(clock.lag(at(60)), Duration::ZERO, "idle is not late");
        clock.saw(at(60), Lsn(20), Lsn(10));
        clock.saw(at(61), Lsn(20), Lsn(10));
        clock.saw(at(62), Lsn(30), Lsn(15));
        assert_eq!(clock.lag(at(65)), Duration::from_secs(5));
        clock.saw(at(66), Lsn(30), Lsn(20));
        assert_eq!(clock.lag(at(66)), Duration::from_secs(4));
        clock.saw(at(67), Lsn(30), Lsn(30));
        assert_eq!(clock.lag(at(67)), Duration::ZERO);
    }

    #[test]
    fn a_day_of_standing_still_takes_no_memory_and_keeps_its_age() {
        let start = Instant::now();
        let mut clock = LagClock::default();
        for n in 1..86_400 {
            clock.saw(start + Duration::from_secs(n), Lsn(n), Lsn::ZERO);
        }
        assert!(clock.seen.len() <= MOST);
        assert_eq!(clock.lag(start + Duration::from_secs(86_400)).as_secs(), 86_399);
    }
}

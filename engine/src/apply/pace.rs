//! How long a transaction of the target stays open while changes never cease to come: so much
//! the target is behind a source that is never quiet, and so often it has to commit.
//!
//! A server that commits in a millisecond is asked fifty times a second; one that needs ten of
//! them, for its disk or for its work, is asked less often. Nothing can go wrong here.

use std::time::Duration;

/// A transaction may stay open for as long as this, …
pub(super) const LEAST: Duration = Duration::from_millis(20);
/// … where committing takes long for so many times as long as that took, …
const TIMES: u32 = 16;
/// … and never longer than this.
const MOST: Duration = Duration::from_millis(200);

/// How long the next transaction may stay open, the one before it having been committed in
/// this time.
pub(super) fn open_for(committed_in: Duration) -> Duration {
    committed_in.saturating_mul(TIMES).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_server_commits_often_and_a_slow_one_works_most_of_its_time() {
        let open = |ms| open_for(Duration::from_millis(ms)).as_millis();
        assert_eq!((open(0), open(1), open(10), open(1000)), (20, 20, 160, 200));
        assert_eq!(open_for(Duration::MAX), MOST);
    }
}

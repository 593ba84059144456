//! Growing pauses between attempts: a tenth of a second, doubled up to five, begun anew
//! after a minute without need of them.

use tokio::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
const CALM: Duration = Duration::from_secs(60);

/// The next pause.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    last: Option<(Instant, Duration)>,
}

impl Backoff {
    /// How long to wait now.
    pub(crate) fn next(&mut self) -> Duration {
        let now = Instant::now();
        let pause = match self.last {
            Some((at, pause)) if now.duration_since(at) < pause + CALM => (pause * 2).min(LONGEST),
            _ => FIRST,
        };
        self.last = Some((now, pause));
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_begin_anew_after_a_calm_minute() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..8).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        tokio::time::advance(Duration::from_secs(70)).await;
        assert_eq!(backoff.next(), FIRST);
    }
}

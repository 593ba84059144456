//! What is confirmed, and when, while a source says this and that.

use std::convert::Infallible;
use std::sync::Mutex;

use super::*;

/// Keepalives of a server on which others write, one every so often.
struct Keepalives {
    every: Duration,
    next_at: Instant,
    wal_end: Lsn,
    told: Arc<Mutex<Vec<Lsn>>>,
}

impl Source for Keepalives {
    type Error = Infallible;

    async fn next(&mut self) -> Result<Received, Infallible> {
        // Cancel-safe, as a source has to be.
        tokio::time::sleep_until(self.next_at).await;
        self.next_at += self.every;
        self.wal_end.0 += 1_000;
        Ok(Received::Idle { wal_end: self.wal_end })
    }

    fn acknowledge(&mut self, durable: Durable) {
        self.told.lock().unwrap().push(durable.lsn());
    }
}

struct NoChain;

impl Chains for NoChain {
    type Error = Infallible;

    fn adopted(&self) -> u64 {
        1
    }

    fn adopt(&mut self) -> u64 {
        1
    }

    async fn apply(&mut self, batch: Batch) -> Result<Batch, Infallible> {
        Ok(batch)
    }
}

/// Counts what is stored for the sake of the confirmation alone.
#[derive(Default)]
struct Confirmations(Arc<Mutex<Vec<(Lsn, Lsn)>>>);

impl Sink for Confirmations {
    type Error = Infallible;

    async fn publish(&mut self, _: Batch, _: u64, _: Lsn) -> Result<(), Infallible> {
        Ok(())
    }

    async fn confirm(&mut self, position: Lsn, confirmed: Lsn) -> Result<(), Infallible> {
        self.0.lock().unwrap().push((position, confirmed));
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn what_others_write_is_confirmed_however_often_it_is_heard_of() {
    for every_ms in [50, 300, 900, 3_000] {
        let told = Arc::new(Mutex::new(Vec::new()));
        let every = Duration::from_millis(every_ms);
        let (next_at, wal_end) = (Instant::now() + every, Lsn(1_000));
        let source = Keepalives { every, next_at, wal_end, told: Arc::clone(&told) };
        let confirmations = Arc::new(Mutex::new(Vec::new()));
        let sink = Confirmations(Arc::clone(&confirmations));
        let start = Start {
            published: Position::after(Lsn(999)),
            confirmed: Lsn(1_000),
            unfinished: None,
            generation: 1,
        };
        let lag = Lag { ms: 5_000, bytes: u64::MAX };
        let pipeline = Pipeline::new((source, NoChain, sink), start, lag, Arc::default());
        let stop = CancellationToken::new();
        let running = pipeline.run(stop.clone());
        let stopping = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            // What was heard seven seconds ago was durable for the lag, and its turn came.
            let heard = 1_000 + 1_000 * (53_000 / every_ms);
            let newest = told.lock().unwrap().last().copied().unwrap();
            assert!(newest >= Lsn(heard), "every {every_ms} ms: told {newest}, heard {heard}");
            let stored = confirmations.lock().unwrap().len();
            assert!((10..=60).contains(&stored), "every {every_ms} ms: stored {stored} times");
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(running, stopping);
        assert!(matches!(ended, Ok(Ended::Stopped)));
    }
}

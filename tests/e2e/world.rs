//! A source, a Redis, an engine between them, and a ledger that tells whether anything
//! was lost: rows numbered without gaps in commit order, written by one session while
//! the test does its worst, and read back by a Python program that shares no code with
//! the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::harness::{Engine, Output, PATIENCE, Postgres, Redis, eventually, python};

/// The ledger table with `rows` rows, and the publication.
pub(crate) const LEDGER: &str = "
    CREATE TABLE ledger (id bigint PRIMARY KEY, payload text NOT NULL);
    CREATE PUBLICATION kasho_pub FOR ALL TABLES;";

/// Source, Redis and engine.
pub(crate) struct World {
    pub(crate) pg: Postgres,
    pub(crate) redis: Redis,
    pub(crate) engine: Engine,
}

/// The least configuration, with `more` behind it. Everything that may ever be said is: what is
/// planted is searched for in all of it. And nobody gives a Redis up that is slow for once.
pub(crate) fn config(pg: &str, redis: &str, grpc_port: u16, more: &str) -> String {
    let log = if more.contains("[log]") { "" } else { "[log]\nlevel = \"trace\"\n" };
    format!(
        "{log}[source]\nurl = \"{pg}\"\n[redis]\nurl = \"{redis}\"\n\
         connect_timeout_ms = 60000\n[grpc]\nlisten = \"127.0.0.1:{grpc_port}\"\n{more}"
    )
}

/// Rows and marks of the load of an epoch: the number of the last of them.
pub(crate) async fn loaded(redis: &Redis, epoch: u64) -> u64 {
    let key = format!("{{kasho}}:{epoch}:bootstrap");
    let last = redis.try_command(&["XREVRANGE", &key, "+", "-", "COUNT", "1"]).await;
    let last: Vec<(String, redis::Value)> = last.unwrap_or_default();
    let number = last.first().and_then(|(id, _)| id.split('-').next()?.parse().ok());
    number.unwrap_or(0)
}

/// Ends the sessions that keep a snapshot, of an engine that is gone.
pub(crate) async fn end_holders(pg: &Postgres) {
    eventually("nobody to keep a snapshot", async || {
        let sessions = "FROM pg_stat_activity WHERE application_name LIKE 'kasho holder%'";
        pg.sql(&format!("SELECT pg_terminate_backend(pid, 5000) {sessions}")).await;
        (pg.value(&format!("SELECT count(*) {sessions}")).await == "0").then_some(())
    })
    .await;
}

impl World {
    /// Starts all three, the ledger with `rows` rows, no plugin.
    pub(crate) async fn start(rows: u64) -> World {
        let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
        World::with(pg, redis, rows, "").await
    }

    /// Starts an engine between servers that run, with `more` in its configuration.
    pub(crate) async fn with(pg: Postgres, redis: Redis, rows: u64, more: &str) -> World {
        pg.sql(LEDGER).await;
        fill(&pg, 1, rows).await;
        let builder = Engine::builder();
        let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), more);
        let engine = builder.config(&text).start();
        let world = World { pg, redis, engine };
        world.until_state("WAITING").await;
        world
    }

    /// Writes the configuration anew, with `more` in it; the engine reads most of that when it
    /// is started again.
    pub(crate) fn configure(&self, more: &str) {
        let home = self.engine.home();
        home.write_config(&config(&self.pg.url(), &self.redis.url(), home.grpc_port(), more));
    }

    /// `kasho status --json`; none while the engine does not answer.
    pub(crate) async fn try_status(&self) -> Option<Value> {
        // By address: a test may have spoiled the configuration file.
        let address = format!("http://127.0.0.1:{}", self.engine.home().grpc_port());
        let output = self.engine.run(&["status", "--json", "--address", &address]).await;
        (output.code == 0).then(|| serde_json::from_str(&output.stdout).expect("JSON"))
    }

    /// The status, once the engine answers.
    pub(crate) async fn status(&self) -> Value {
        eventually("the engine to answer", async || self.try_status().await).await
    }

    /// Waits for a state.
    pub(crate) async fn until_state(&self, state: &str) {
        eventually(&format!("the state {state}"), async || {
            let status = self.try_status().await?;
            (status["state"] == state).then_some(())
        })
        .await;
    }

    /// `kasho bootstrap --yes`: through to STREAMING.
    pub(crate) async fn bootstrap(&self) -> Output {
        self.engine.run(&["bootstrap", "--yes"]).await.success()
    }

    /// Starts accumulating and loading, and returns once that is so: whoever asked for it
    /// is not needed any more.
    pub(crate) async fn begin_bootstrap(&self) {
        // To ask for the state takes longer.
        self.engine.spawn(&["bootstrap"]).wait_for("state: ACCUMULATING").await;
    }

    /// Entries of a stream of epoch 1; of the load, its rows and marks.
    pub(crate) async fn entries(&self, stream: &str) -> u64 {
        if stream == "bootstrap" {
            return loaded(&self.redis, 1).await;
        }
        let key = format!("{{kasho}}:1:{stream}");
        self.redis.try_command(&["XLEN", &key]).await.unwrap_or(0)
    }

    /// How far the changes stream is, for a writer that must not run away from an engine that
    /// is not optimised.
    pub(crate) async fn pace(&self) -> Pace {
        Pace(self.redis.client().await)
    }

    /// The newest id of the changes stream, `(commit lsn, ordinal)`.
    pub(crate) async fn newest(&self) -> Option<(u64, u64)> {
        let words = ["XREVRANGE", "{kasho}:1:changes", "+", "-", "COUNT", "1"];
        let found: Vec<(String, Vec<redis::Value>)> = self.redis.try_command(&words).await.ok()?;
        let (lsn, ordinal) = found.first()?.0.split_once('-')?;
        Some((lsn.parse().ok()?, ordinal.parse().ok()?))
    }

    /// Waits until Redis has a change that committed after everything so far: one more
    /// row, which is number `last`.
    pub(crate) async fn settle(&self, last: u64) {
        let lsn = self.lsn().await;
        fill(&self.pg, last, last).await;
        self.until_published(lsn).await;
    }

    /// Where the source's log ends.
    pub(crate) async fn lsn(&self) -> u64 {
        let end = "SELECT pg_current_wal_insert_lsn() - '0/0'";
        self.pg.value(end).await.parse().expect("LSN")
    }

    /// Waits until something that was committed behind this position is in the stream.
    pub(crate) async fn until_published(&self, lsn: u64) {
        eventually("the stream to reach what was committed last", async || {
            (self.newest().await?.0 > lsn).then_some(())
        })
        .await;
    }

    /// Reads the whole ledger back and complains of every gap, repeat and disorder.
    pub(crate) async fn check_ledger(&self, last: u64) -> String {
        self.settle(last).await;
        let last = last.to_string();
        let output = python(include_str!("ledger.py"), &[&self.redis.url(), "1", &last]).await;
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
        output.stdout
    }
}

/// See [`World::pace`].
pub(crate) struct Pace(redis::aio::MultiplexedConnection);

impl Pace {
    /// Waits until no more than a few hundred of so many `entries` are not published yet.
    pub(crate) async fn keep(&mut self, entries: u64) {
        let begun = Instant::now();
        let mut ask = redis::cmd("XLEN");
        ask.arg("{kasho}:1:changes");
        while ask.query_async::<u64>(&mut self.0).await.unwrap_or(0) + 500 < entries {
            assert!(begun.elapsed() < PATIENCE, "the stream does not follow its writer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Rows `from..=to` of the ledger in one transaction.
pub(crate) async fn fill(pg: &Postgres, from: u64, to: u64) {
    pg.sql(&format!(
        "INSERT INTO ledger SELECT n, repeat(md5(n::text), 3) FROM generate_series({from}, {to}) n"
    ))
    .await;
}

/// A session that goes on writing transactions of one to five rows.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Begins behind row `last`.
    pub(crate) async fn start(pg: &Postgres, last: u64) -> Writer {
        let client = pg.client().await;
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(last)));
        let (asked, done) = (Arc::clone(&stop), Arc::clone(&written));
        let task = tokio::spawn(async move {
            let mut last = last;
            while !asked.load(Ordering::Relaxed) {
                let next = last + 1 + last % 5;
                let insert = format!(
                    "INSERT INTO ledger SELECT n, repeat(md5(n::text), 3) FROM generate_series({}, {next}) n",
                    last + 1
                );
                client.batch_execute(&insert).await.expect("insert");
                last = next;
                done.store(last, Ordering::Relaxed);
            }
        });
        Writer { stop, written, task }
    }

    /// The last row written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Waits until so many more rows have been written.
    pub(crate) async fn more(&self, rows: u64) {
        let goal = self.written() + rows;
        eventually("the writer", async || (self.written() >= goal).then_some(())).await;
    }

    /// Ends it and says the last row.
    pub(crate) async fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("writer");
        self.written.load(Ordering::Relaxed)
    }
}

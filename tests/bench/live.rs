//! A target that follows: how long after its commit on the source a transaction is committed
//! in the target, beside PostgreSQL's own subscription of the same source at the same time,
//! and what the processes' memory peaks at meanwhile, up to one large transaction.
//!
//! Every server notes in its own log when it committed what (`pg_waldump` reads that), and
//! all have one machine's clock: nobody has to look at the tables meanwhile. A subscription
//! gives its commits the source's time as their timestamp, so those would tell nothing.
//! The writer does not wait for answers: what is late on the source does not slow it down.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::amount;
use crate::apply::{section, subscribed};
use crate::harness::{Engine, Postgres, Process, Redis, eventually};
use crate::memory::{TARGET, engine, peak_mib};
use crate::table::{Spread, Table};

/// Transactions a second.
const RATE: u64 = 1000;
/// How far the 99th percentile may lie above the subscription's.
const ABOVE_MS: f64 = 50.0;
/// Microseconds.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;

const TABLES: &str = "CREATE TABLE ticks (id bigint PRIMARY KEY, note text);
    CREATE TABLE rows (id bigint PRIMARY KEY, note text);";

/// The source, what follows it, and what follows it besides.
struct World {
    pg: Postgres,
    ours: Postgres,
    theirs: Postgres,
    engine: Engine,
    applier: Process,
    _redis: Redis,
}

pub(crate) async fn run(table: &mut Table) {
    let loaded: u64 = amount(5_000, 300_000, 1_000_000);
    let world = World::start(loaded).await;
    world.peaks(table, &format!("load of {loaded} rows"));
    let ticks: u64 = RATE * amount(1, 5, 20);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut rates = Vec::new();
    // In the first round the followers get to know the table.
    for round in 0..=amount(1, 3, 9) {
        let from = round * ticks;
        let [source, kasho, subscription] = world.round(from, ticks).await;
        if round > 0 {
            let seconds = between(source[0], source[source.len() - 1]) / 1e3;
            rates.push((source.len() - 1) as f64 / seconds);
            ours.push(Late::of(&source, &kasho));
            theirs.push(Late::of(&source, &subscription));
        }
    }
    tell(table, &ours, &theirs, &rates);
    world.peaks(table, &format!("and {RATE} transactions a second"));
    world.large(amount(10_000, 200_000, 1_000_000), table).await;
}

fn tell(table: &mut Table, ours: &[Late], theirs: &[Late], rates: &[f64]) {
    let median = |of: &[Late], which: fn(&Late) -> f64| Spread::of(of.iter().map(which)).median;
    let pair =
        |which| format!("{:.1} against {:.1} ms", median(ours, which), median(theirs, which));
    let above = ours.iter().zip(theirs).map(|(ours, theirs)| ours.most - theirs.most);
    let absolute = format!(
        "99th percentile {}, median {}, longest {}, at {:.0} transactions a second",
        pair(|late| late.most),
        pair(|late| late.median),
        pair(|late| late.longest),
        Spread::of(rates.iter().copied()).median,
    );
    let what = "ms from commit on the source to commit in the target above a subscription's, 99th percentile";
    table.at_most(what, &Spread::of(above), ABOVE_MS, &absolute);
}

impl World {
    /// All of them, with the rows of one table loaded.
    async fn start(rows: u64) -> World {
        let server = || {
            let server = Postgres::builder().setting("max_wal_size", "8GB");
            // Where the log is needed it is still there.
            server.setting("checkpoint_timeout", "1h").setting("wal_keep_size", "1GB")
        };
        let (pg, redis, ours, theirs) = tokio::join!(
            // What is not flushed is not sent: or the server's log writer would set the pace.
            server().setting("synchronous_commit", "on").start(),
            Redis::builder().setting("save", "").start(),
            server().start(),
            server().start()
        );
        for server in [&pg, &ours, &theirs] {
            server.sql(TABLES).await;
        }
        pg.sql("CREATE PUBLICATION kasho_pub FOR ALL TABLES").await;
        pg.sql(&fill(1, rows)).await;
        let engine = engine(&pg, &redis, &section(&ours)).await;
        let applier = engine.spawn(&["apply"]);
        engine.run(&["bootstrap", "--yes"]).await.success();
        arrived(&ours, "rows", rows).await;
        subscribed(&pg, &theirs).await;
        World { pg, ours, theirs, engine, applier, _redis: redis }
    }

    /// Commits as many rows, one after the other; when each was on the three servers, µs.
    async fn round(&self, from: u64, ticks: u64) -> [Vec<i64>; 3] {
        let servers = [&self.pg, &self.ours, &self.theirs];
        let mut starts = Vec::new();
        for server in servers {
            starts.push(server.value("SELECT pg_current_wal_insert_lsn()").await);
        }
        write(&self.pg, from, ticks).await;
        let mut found = Vec::new();
        for (server, start) in servers.into_iter().zip(&starts) {
            arrived(server, "ticks", from + ticks).await;
            found.push(committed(server, start, from).await);
        }
        found.try_into().expect("three servers")
    }

    /// One transaction, until the target has it.
    async fn large(&self, rows: u64, table: &mut Table) {
        self.theirs.sql("DROP SUBSCRIPTION s").await;
        let before = self.pg.value("SELECT count(*) FROM rows").await;
        let before: u64 = before.parse().expect("a number");
        self.pg.sql(&fill(before + 1, rows)).await;
        arrived(&self.ours, "rows", before + rows).await;
        self.peaks(table, &format!("and one transaction of {rows} rows"));
    }

    fn peaks(&self, table: &mut Table, after: &str) {
        let processes = [("the applier", &self.applier), ("its engine", self.engine.process())];
        for (who, process) in processes {
            let what = format!("MiB at the peak of {who} so far: {after}");
            assert!(process.exited().is_none(), "{:#?}", process.lines());
            table.at_most(&what, &Spread::of([peak_mib(process.pid())]), TARGET, "");
        }
    }
}

fn fill(from: u64, rows: u64) -> String {
    let last = from + rows - 1;
    format!(
        "INSERT INTO rows SELECT n, repeat(md5(n::text), 8) FROM generate_series({from}, {last}) n"
    )
}

/// Waits until a table has all of its rows, as long as it takes.
async fn arrived(server: &Postgres, table: &str, rows: u64) {
    let query = format!("SELECT count(*) FROM {table}");
    let mut before = String::new();
    loop {
        // It waits no longer than for anything else as long as nothing comes.
        let count = eventually(table, async || {
            let count = server.value(&query).await;
            (count == rows.to_string() || count != before).then_some(count)
        });
        before = count.await;
        if before == rows.to_string() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A row a transaction, at its time; none waits for the one before it.
async fn write(pg: &Postgres, from: u64, ticks: u64) {
    let client = std::sync::Arc::new(pg.client().await);
    let insert = "INSERT INTO ticks SELECT $1::bigint, repeat(md5($1::text), 2)";
    let insert = client.prepare(insert).await.expect("prepare");
    let mut under_way = JoinSet::new();
    let begun = tokio::time::Instant::now();
    for tick in 0..ticks {
        tokio::time::sleep_until(begun + Duration::from_micros(tick * 1_000_000 / RATE)).await;
        let (client, insert) = (std::sync::Arc::clone(&client), insert.clone());
        let id = i64::try_from(from + tick).expect("small");
        under_way.spawn(async move { client.execute(&insert, &[&id]).await.expect("insert") });
    }
    while let Some(done) = under_way.join_next().await {
        done.expect("insert");
    }
}

/// When the rows from this one on were committed, by the server's own log; microseconds of
/// the day, in the order of the rows.
async fn committed(server: &Postgres, start: &str, from: u64) -> Vec<i64> {
    let query = format!("SELECT xmin FROM ticks WHERE id >= {from} ORDER BY id");
    let rows = server.rows(&query).await;
    let rows: Vec<String> = rows.into_iter().filter_map(|mut row| row[0].take()).collect();
    eventually("the commits in the log", async || {
        let times = commits(server, start);
        rows.iter().map(|xid| times.get(xid).copied()).collect::<Option<Vec<i64>>>()
    })
    .await
}

/// The commits of a server's log from here on, by transaction.
fn commits(server: &Postgres, start: &str) -> HashMap<String, i64> {
    let mut dump: Command = server.tool("pg_waldump");
    dump.arg("--path").arg(server.folder().join("data/pg_wal"));
    dump.args(["--rmgr", "Transaction", "--start", start]).env("TZ", "UTC");
    // Where the log ends it says so, as a failure.
    let said = dump.output().expect("pg_waldump").stdout;
    let said = String::from_utf8_lossy(&said);
    said.lines().filter_map(commit).collect()
}

/// `… tx: 753, lsn: …, desc: COMMIT 2026-01-31 12:00:00.123456 UTC; …`
fn commit(line: &str) -> Option<(String, i64)> {
    let (_, rest) = line.split_once("tx:")?;
    let (xid, rest) = rest.split_once(',')?;
    let (_, time) = rest.split_once("desc: COMMIT ")?;
    let mut parts = time.split_whitespace().nth(1)?.split([':', '.']);
    let mut next = || parts.next()?.parse::<i64>().ok();
    let (hours, minutes, seconds, micros) = (next()?, next()?, next()?, next()?);
    let seconds = (hours * 60 + minutes) * 60 + seconds;
    Some((xid.trim().to_owned(), seconds * 1_000_000 + micros))
}

/// Milliseconds from one time of the day to another.
fn between(from: i64, to: i64) -> f64 {
    let distance = (to - from).rem_euclid(DAY);
    // Clocks of one machine: what comes before is a step of the clock, and no day.
    (if distance > DAY / 2 { distance - DAY } else { distance }) as f64 / 1e3
}

/// How late transactions were, ms.
struct Late {
    median: f64,
    /// 99 of 100 are not later.
    most: f64,
    longest: f64,
}

impl Late {
    fn of(source: &[i64], target: &[i64]) -> Late {
        let mut late: Vec<f64> =
            source.iter().zip(target).map(|(from, to)| between(*from, *to)).collect();
        late.sort_by(f64::total_cmp);
        let at = |percent: usize| late[(late.len() * percent).div_ceil(100) - 1];
        Late { median: at(50), most: at(99), longest: at(100) }
    }
}

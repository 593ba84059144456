//! Filling a target: the whole way of a load against `pg_dump | psql`, and applying a stream of
//! small transactions against PostgreSQL's own subscription.
//!
//! The load is timed from the command to the last row in the target. The stream is a backlog
//! for both: it stands in Redis, or in the subscription's slot, when the clock starts.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::amount;
use crate::drain::process_cpu;
use crate::harness::{Postgres, Redis, eventually};
use crate::memory::engine;
use crate::table::{Spread, Table};

const ROWS: &str = "CREATE TABLE rows (id bigint PRIMARY KEY, email text, name text, note text,
    balance numeric(14,2), created timestamptz, active bool, settings jsonb, token uuid)";

const BANK: &str = "
    CREATE TABLE branches (bid int PRIMARY KEY, bbalance int);
    CREATE TABLE tellers (tid int PRIMARY KEY, bid int, tbalance int);
    CREATE TABLE accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
    CREATE TABLE history (tid int, bid int, aid int, delta int, mtime timestamptz, hid bigint PRIMARY KEY);
    CREATE TABLE mark (id int PRIMARY KEY);";

const FILL: &str = "
    INSERT INTO branches SELECT n, 0 FROM generate_series(1, 10) n;
    INSERT INTO tellers SELECT n, n % 10 + 1, 0 FROM generate_series(1, 100) n;
    INSERT INTO accounts SELECT n, n % 10 + 1, 0, '' FROM generate_series(1, 100000) n;
    CREATE SEQUENCE hid;
    CREATE PROCEDURE work(transactions int) LANGUAGE plpgsql AS $$
    DECLARE a int; t int; b int; d int;
    BEGIN
        FOR i IN 1..transactions LOOP
            a := 1 + random() * 99999; t := 1 + random() * 99; b := 1 + random() * 9; d := random() * 1000;
            UPDATE accounts SET abalance = abalance + d WHERE aid = a;
            UPDATE tellers SET tbalance = tbalance + d WHERE tid = t;
            UPDATE branches SET bbalance = bbalance + d WHERE bid = b;
            INSERT INTO history VALUES (t, b, a, d, now(), nextval('hid'));
            COMMIT;
        END LOOP;
    END $$;";

pub(crate) async fn run(table: &mut Table) {
    loads(table).await;
    stream(table).await;
}

pub(crate) fn section(target: &Postgres) -> String {
    format!("[apply]\ntarget = \"{}\"\nlisten = \"127.0.0.1:0\"\nsequences_ms = 0\n", target.url())
}

async fn loads(table: &mut Table) {
    let rows: u64 = amount(5_000, 300_000, 1_000_000);
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::builder().setting("save", "").start());
    let (ours, theirs) = tokio::join!(Postgres::start(), Postgres::start());
    for server in [&pg, &ours, &theirs] {
        server.sql(ROWS).await;
    }
    pg.sql("CREATE PUBLICATION kasho_pub FOR ALL TABLES").await;
    pg.sql(&format!(
        "INSERT INTO rows SELECT n, 'user' || n || '@customers.example', repeat(md5(n::text), 2), \
         md5((n + 1)::text), n / 100.0, '2026-01-01'::timestamptz + n * interval '1 s', n % 2 = 0, \
         jsonb_build_object('n', n, 'tag', 'a tag'), md5(n::text)::uuid FROM generate_series(1, {rows}) n"
    ))
    .await;
    pg.sql("VACUUM ANALYZE").await;
    let engine = engine(&pg, &redis, &section(&ours)).await;
    let applier = engine.spawn(&["apply"]);
    applier.wait_for("there is nothing to apply yet").await;
    let (mut kasho, mut psql, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    // One for all: each new one costs the server more than the question.
    let client = ours.client().await;
    let used = || process_cpu(engine.process().pid()) + process_cpu(applier.pid());
    for round in 0..=amount(1, 3, 5) {
        theirs.sql("TRUNCATE rows").await;
        let piped = piped(&pg, &theirs).await;
        let (begun, before) = (Instant::now(), used());
        engine.run(&["bootstrap", "--yes"]).await.success();
        let end = format!(
            "SELECT count(*) FROM kasho.applied WHERE relation = '' AND epoch = {} AND position = 'bootstrap:{}'",
            round + 1,
            rows + 1
        );
        let there = async || client.query_one(&end, &[]).await.expect("progress").get::<_, i64>(0);
        eventually("the load", async || (there().await == 1).then_some(())).await;
        let (took, used) = (begun.elapsed().as_secs_f64(), used() - before);
        let count = ours.value("SELECT count(*) FROM rows").await;
        assert_eq!(count, rows.to_string(), "{:#?}", applier.lines());
        engine.run(&["reset", "--yes"]).await.success();
        // The first round warms the caches of the file system.
        if round > 0 {
            kasho.push(took);
            psql.push(piped);
            cpu.push(used * 1e6 / rows as f64);
        }
    }
    drop(applier);
    let median = |of: &[f64]| Spread::of(of.iter().copied()).median;
    let absolute = format!(
        "{:.1} s against {:.1} s, {:.0}k rows/s, CPU of engine and applier {:.2} s a million rows",
        median(&kasho),
        median(&psql),
        rows as f64 / median(&kasho) / 1e3,
        median(&cpu)
    );
    let what = "load to target, end to end : pg_dump | psql";
    table.at_most(what, &Spread::ratio(&kasho, &psql), 1.3, &absolute);
}

/// Seconds.
async fn piped(from: &Postgres, to: &Postgres) -> f64 {
    let (dump, restore) = (from.tool("pg_dump"), to.tool("psql"));
    let program = |command: &Command| command.get_program().to_string_lossy().into_owned();
    let script = format!(
        "set -o pipefail; '{}' --data-only -t rows '{}' | '{}' -X -q -v ON_ERROR_STOP=1 '{}' >/dev/null",
        program(&dump),
        from.url(),
        program(&restore),
        to.url()
    );
    let begun = Instant::now();
    let done = tokio::process::Command::new("bash").args(["-c", &script]).status().await;
    assert!(done.expect("bash").success());
    begun.elapsed().as_secs_f64()
}

async fn stream(table: &mut Table) {
    let transactions: u64 = amount(500, 20_000, 100_000);
    let (pg, redis) = tokio::join!(
        Postgres::builder().setting("max_wal_size", "8GB").start(),
        Redis::builder().setting("save", "").start()
    );
    // Or a subscription that is enabled waits for up to five seconds before it begins.
    let theirs = Postgres::builder().setting("wal_retrieve_retry_interval", "1ms");
    let (ours, theirs) = tokio::join!(Postgres::start(), theirs.start());
    for server in [&pg, &ours, &theirs] {
        server.sql(BANK).await;
    }
    pg.sql(FILL).await;
    pg.sql("CREATE PUBLICATION kasho_pub FOR ALL TABLES").await;
    let engine = engine(&pg, &redis, &section(&ours)).await;
    engine.run(&["bootstrap", "--yes"]).await.success();
    engine.run(&["apply", "--until-loaded"]).await.success();
    subscribed(&pg, &theirs).await;
    theirs.sql("ANALYZE").await;
    ours.sql("ANALYZE").await;
    let (mut kasho, mut subscription) = (Vec::new(), Vec::new());
    for round in 0..=amount(1, 3, 5) {
        theirs.sql("ALTER SUBSCRIPTION s DISABLE").await;
        eventually("the subscription to stop", async || {
            let active =
                "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 's' AND active";
            (pg.value(active).await == "0").then_some(())
        })
        .await;
        pg.sql(&format!("CALL work({transactions})")).await;
        pg.sql(&format!("INSERT INTO mark VALUES ({round})")).await;
        let end = published(&pg, &redis).await;
        let mark = format!("SELECT count(*) FROM mark WHERE id = {round}");
        let begun = Instant::now();
        engine.run(&["apply", "--until", &end]).await.success();
        let took = begun.elapsed().as_secs_f64();
        assert_eq!(ours.value(&mark).await, "1");
        let client = theirs.client().await;
        let begun = Instant::now();
        theirs.sql("ALTER SUBSCRIPTION s ENABLE").await;
        loop {
            let row = client.query_one(&mark, &[]).await.expect("mark");
            if row.get::<_, i64>(0) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if round > 0 {
            kasho.push(transactions as f64 / took);
            subscription.push(transactions as f64 / begun.elapsed().as_secs_f64());
        }
    }
    let median = |of: &[f64]| Spread::of(of.iter().copied()).median;
    let absolute = format!(
        "{:.1}k transactions/s against {:.1}k, start included",
        median(&kasho) / 1e3,
        median(&subscription) / 1e3
    );
    let what = "apply a pgbench-like stream : a subscription";
    table.at_least(what, &Spread::ratio(&kasho, &subscription), 1.3, &absolute);
}

/// PostgreSQL's own subscription, with everything loaded.
pub(crate) async fn subscribed(pg: &Postgres, theirs: &Postgres) {
    let subscribe =
        format!("CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION kasho_pub", pg.url());
    theirs.sql(&subscribe).await;
    eventually("the subscription's load", async || {
        let left = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";
        (theirs.value(left).await == "0").then_some(())
    })
    .await;
}

/// Waits until Redis has everything, and answers with the position of its end.
async fn published(pg: &Postgres, redis: &Redis) -> String {
    let lsn = pg.value("SELECT pg_current_wal_insert_lsn()").await;
    let number = pg.value(&format!("SELECT pg_wal_lsn_diff('{lsn}', '0/0')")).await;
    let number: u64 = number.parse().expect("LSN");
    pg.sql("INSERT INTO mark VALUES (-1); DELETE FROM mark WHERE id = -1").await;
    eventually("the stream", async || {
        let words = ["XREVRANGE", "{kasho}:1:changes", "+", "-", "COUNT", "1"];
        let found: Vec<(String, Vec<redis::Value>)> = redis.try_command(&words).await.ok()?;
        let (newest, _) = found.first()?.0.split_once('-')?;
        (newest.parse::<u64>().ok()? > number).then_some(())
    })
    .await;
    lsn
}

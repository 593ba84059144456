//! What the processes' memory peaks at: one transaction of a million rows, a load of ten
//! gigabytes, and a dump of as much. Peak is the kernel's high-water mark of the resident
//! set. Redis has a limit that is a small part of that, and a reader that keeps up.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::amount;
use crate::harness::engine::Builder;
use crate::harness::{Engine, Postgres, Process, Redis, eventually};
use crate::table::{Spread, Table};

/// What no process may exceed, MiB.
pub(crate) const TARGET: f64 = 100.0;

pub(crate) async fn run(table: &mut Table) {
    transaction(table).await;
    load(table).await;
}

/// An engine that answers.
pub(crate) async fn engine(pg: &Postgres, redis: &Redis, more: &str) -> Engine {
    engine_in(Engine::builder(), pg, redis, more).await
}

/// The same in a home that is furnished already.
pub(crate) async fn engine_in(
    builder: Builder,
    pg: &Postgres,
    redis: &Redis,
    more: &str,
) -> Engine {
    let config = format!(
        "[source]\nurl = \"{}\"\n[redis]\nurl = \"{}\"\n[grpc]\nlisten = \"127.0.0.1:{}\"\n\
         [http]\nlisten = \"127.0.0.1:{}\"\n{more}",
        pg.url(),
        redis.url(),
        builder.home().grpc_port(),
        builder.home().http_port(),
    );
    let engine = builder.config(&config).start();
    eventually("the engine", async || (engine.run(&["status"]).await.code == 0).then_some(()))
        .await;
    engine
}

async fn length(redis: &Redis, stream: &str) -> u64 {
    redis.try_command(&["XLEN", &format!("{{kasho}}:1:{stream}")]).await.unwrap_or(0)
}

async fn transaction(table: &mut Table) {
    let rows: u64 = amount(10_000, 200_000, 1_000_000);
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::builder().setting("save", "").start());
    pg.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, v text); CREATE PUBLICATION kasho_pub FOR TABLE t",
    )
    .await;
    let engine = engine(&pg, &redis, "").await;
    engine.run(&["bootstrap", "--yes"]).await.success();
    pg.sql(&format!(
        "INSERT INTO t SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, {rows}) n"
    ))
    .await;
    eventually("the transaction", async || (length(&redis, "changes").await >= rows).then_some(()))
        .await;
    let peak = peak_mib(engine.process().pid());
    let what = format!("MiB at the peak, one transaction of {rows} rows");
    table.at_most(&what, &Spread::of([peak]), TARGET, "");
}

/// The same rows twice: by COPY from the slot's snapshot, and from a file of pg_dump's.
async fn load(table: &mut Table) {
    let rows: u64 = amount(10_000, 200_000, 10_000_000);
    let (pg, redis) = tokio::join!(
        Postgres::builder().setting("max_wal_size", "2GB").start(),
        Redis::builder().setting("save", "").setting("maxmemory", "1gb").start()
    );
    pg.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, v text); CREATE PUBLICATION kasho_pub FOR TABLE t",
    )
    .await;
    pg.sql(&format!(
        "INSERT INTO t SELECT n, repeat(md5(n::text), 32) FROM generate_series(1, {rows}) n"
    ))
    .await;
    pg.sql("ANALYZE t").await;
    let size = format!("{:.1} GB", rows as f64 * 1034.0 / 1e9);
    let engine = engine(&pg, &redis, "").await;
    engine.run(&["consumers", "add", "reader"]).await.success();
    let reader = keep_up(&redis, 1).await;
    let begun = Instant::now();
    ended(&engine.spawn(&["bootstrap", "--yes"]), |_| {}).await;
    let took = format!("{:.0} s", begun.elapsed().as_secs_f64());
    reader.abort();
    let peak = peak_mib(engine.process().pid());
    table.at_most(&format!("MiB at the peak, load of {size}"), &Spread::of([peak]), TARGET, &took);
    engine.run(&["reset", "--yes"]).await.success();
    dump(table, (&pg, &redis, &engine), (rows, &size)).await;
}

async fn dump(
    table: &mut Table,
    (pg, redis, engine): (&Postgres, &Redis, &Engine),
    (rows, size): (u64, &str),
) {
    let bootstrap = engine.spawn(&["bootstrap", "--external", "--yes"]);
    let said = bootstrap.wait_for("snapshot: ").await;
    let snapshot = said.split_once("snapshot: ").map(|(_, name)| name.trim());
    let file = engine.home().path().join("dump.sql");
    let mut command = pg.tool("pg_dump");
    command.arg(format!("--snapshot={}", snapshot.expect("a snapshot")));
    command.arg("--data-only").arg("--file").arg(&file).arg(pg.url());
    assert!(command.status().expect("pg_dump").success());
    let reader = keep_up(redis, 2).await;
    let begun = Instant::now();
    let loader = engine.spawn(&["bootstrap-sync", "--dump-file", &file.display().to_string()]);
    let mut peak = 0.0f64;
    // The mark is gone with the process.
    ended(&loader, |pid| peak = peak.max(peak_mib(pid))).await;
    let seconds = begun.elapsed().as_secs_f64();
    ended(&bootstrap, |_| {}).await;
    reader.abort();
    let rate = format!("{seconds:.0} s, {:.0}k rows/s", rows as f64 / seconds / 1e3);
    let what = format!("MiB at the peak of pg-bootstrap-sync, dump of {size}");
    table.at_most(&what, &Spread::of([peak]), TARGET, &rate);
    let what = format!("MiB at the peak of the engine since its start, dump of {size}");
    let engine = peak_mib(engine.process().pid());
    table.at_most(&what, &Spread::of([engine]), TARGET, "");
}

/// Waits as long as it takes.
pub(crate) async fn ended(process: &Process, mut look: impl FnMut(u32)) {
    while process.exited().is_none() {
        look(process.pid());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(process.wait_exit().await.success(), "{:?}", process.lines());
}

/// A consumer group that has read whatever there is: what readers cost is not measured here.
async fn keep_up(redis: &Redis, epoch: u64) -> JoinHandle<()> {
    let mut client = redis.client().await;
    tokio::spawn(async move {
        let stream = format!("{{kasho}}:{epoch}:bootstrap");
        loop {
            let mut read = redis::cmd("XGROUP");
            read.arg("SETID").arg(&stream).arg("reader").arg("$");
            // There is no such group before the epoch begins.
            let _: Result<String, _> = read.query_async(&mut client).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

/// VmHWM of proc(5), in MiB; nothing of a process that has ended.
pub(crate) fn peak_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.map_or(0.0, |kib| kib.parse::<f64>().expect("KiB") / 1024.0)
}

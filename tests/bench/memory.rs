//! What the engine's memory peaks at: one transaction of a million rows, and a load of
//! two gigabytes. Peak is the kernel's high-water mark of the resident set.

use crate::amount;
use crate::harness::{Engine, Postgres, Redis, eventually};
use crate::table::{Spread, Table};

pub(crate) async fn run(table: &mut Table) {
    transaction(table).await;
    load(table).await;
}

async fn engine(pg: &Postgres, redis: &Redis) -> Engine {
    let builder = Engine::builder();
    let config = format!(
        "[source]\nurl = \"{}\"\n[redis]\nurl = \"{}\"\n[grpc]\nlisten = \"127.0.0.1:{}\"\n",
        pg.url(),
        redis.url(),
        builder.home().grpc_port()
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
    let engine = engine(&pg, &redis).await;
    engine.run(&["bootstrap", "--yes"]).await.success();
    pg.sql(&format!(
        "INSERT INTO t SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, {rows}) n"
    ))
    .await;
    eventually("the transaction", async || (length(&redis, "changes").await >= rows).then_some(()))
        .await;
    let peak = peak_mib(engine.process().pid());
    let what = format!("MiB at the peak, one transaction of {rows} rows");
    table.at_most(&what, &Spread::of([peak]), 100.0, "");
}

async fn load(table: &mut Table) {
    let rows: u64 = amount(10_000, 200_000, 2_000_000);
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::builder().setting("save", "").start());
    pg.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, v text); CREATE PUBLICATION kasho_pub FOR TABLE t",
    )
    .await;
    pg.sql(&format!(
        "INSERT INTO t SELECT n, repeat(md5(n::text), 32) FROM generate_series(1, {rows}) n"
    ))
    .await;
    let engine = engine(&pg, &redis).await;
    let started = std::time::Instant::now();
    engine.run(&["bootstrap", "--yes"]).await.success();
    let seconds = started.elapsed().as_secs_f64();
    let peak = peak_mib(engine.process().pid());
    let bytes = rows as f64 * 1034.0 / 1e9;
    let what = format!("MiB at the peak, load of {bytes:.1} GB");
    table.at_most(&what, &Spread::of([peak]), 100.0, &format!("{seconds:.0} s"));
}

/// VmHWM of proc(5), in MiB.
fn peak_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    let kib: f64 = line.split_whitespace().nth(1).expect("figure").parse().expect("KiB");
    kib / 1024.0
}

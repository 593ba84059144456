//! Loading a whole database into Redis, against `pg_dump --data-only` of the same table
//! into nothing: reading and printing the rows is the least that any copy costs.
//!
//! What is timed is the whole command, `kasho bootstrap`, from its start to STREAMING: slot,
//! snapshot, locks and the end entry are in it. Between two rounds the epoch is given up.

use std::process::Stdio;
use std::time::Instant;

use crate::amount;
use crate::drain::process_cpu;
use crate::harness::{Engine, Postgres, Redis};
use crate::memory::engine;
use crate::table::{Spread, Table};

/// Ten columns, rows of about 330 bytes; and the rows of a join table.
const SHAPES: [(&str, &str, &str, Option<f64>); 2] = [
    (
        "330-byte rows",
        "CREATE TABLE rows (id bigint PRIMARY KEY, email text, name text, note text, company text,
             balance numeric(14,2), created timestamptz, active bool, settings jsonb, token uuid)",
        "n, 'user' || n || '@customers.example', repeat(md5(n::text), 2), md5((n + 1)::text),
             'company ' || n, n / 100.0, '2026-01-01'::timestamptz + n * interval '1 s', n % 2 = 0,
             jsonb_build_object('n', n, 'tag', 'a tag'), md5(n::text)::uuid",
        Some(1.5),
    ),
    (
        "40-byte rows",
        "CREATE TABLE rows (id bigint PRIMARY KEY, account bigint, amount int, at timestamptz)",
        "n, n / 2, n % 1000, '2026-01-01'::timestamptz + n * interval '1 s'",
        None,
    ),
];

pub(crate) async fn run(table: &mut Table) {
    for (what, create, row, target) in SHAPES {
        let rows = amount(5_000, 400_000, 2_000_000);
        let (pg, redis) =
            tokio::join!(Postgres::start(), Redis::builder().setting("save", "").start());
        pg.sql(create).await;
        pg.sql("CREATE PUBLICATION kasho_pub FOR ALL TABLES").await;
        pg.sql(&format!("INSERT INTO rows SELECT {row} FROM generate_series(1, {rows}) n")).await;
        pg.sql("VACUUM ANALYZE").await;
        shape(table, (&pg, &redis), (what, rows, target)).await;
    }
}

async fn shape(
    table: &mut Table,
    (pg, redis): (&Postgres, &Redis),
    (what, rows, target): (&str, u64, Option<f64>),
) {
    let engine = engine(pg, redis, "").await;
    let (mut dumps, mut loads, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=amount(1, 3, 5) {
        let dumped = dump(pg);
        let before = process_cpu(engine.process().pid());
        let loaded = load(&engine).await;
        // The first round warms the caches of the file system.
        if round > 0 {
            dumps.push(dumped);
            loads.push(loaded);
            cpu.push((process_cpu(engine.process().pid()) - before) * 1e6 / rows as f64);
        }
    }
    let median = |of: &[f64]| Spread::of(of.iter().copied()).median;
    let (took, dumped) = (median(&loads), median(&dumps));
    let absolute = format!(
        "{took:.1} s against {dumped:.1} s, {:.0}k rows/s, engine CPU {:.2} s a million rows",
        rows as f64 / took / 1e3,
        median(&cpu)
    );
    let what = format!("direct load to Redis : pg_dump --data-only > /dev/null, {what}");
    let ratio = Spread::ratio(&loads, &dumps);
    match target {
        Some(target) => table.at_most(&what, &ratio, target, &absolute),
        None => table.figure(&what, &ratio, &absolute),
    }
}

/// Seconds.
fn dump(pg: &Postgres) -> f64 {
    let begun = Instant::now();
    let mut dump = pg.tool("pg_dump");
    let done = dump.arg("--data-only").arg(pg.url()).stdout(Stdio::null()).status();
    assert!(done.expect("pg_dump").success());
    begun.elapsed().as_secs_f64()
}

/// Seconds.
async fn load(engine: &Engine) -> f64 {
    let begun = Instant::now();
    engine.run(&["bootstrap", "--yes"]).await.success();
    let seconds = begun.elapsed().as_secs_f64();
    engine.run(&["reset", "--yes"]).await.success();
    seconds
}

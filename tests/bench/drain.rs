//! Draining a backlog of the slot into Redis, against `pg_recvlogical` into `/dev/null`
//! on the same backlog: the walsender is the limit, so the ratio says what the engine
//! takes away from it.
//!
//! A round restores the slot (a copy of one that stands before the backlog) and the
//! keys in Redis, so every round drains the same bytes. The baseline is timed from its
//! start; the engine from when its slot is read, its start-up is a figure of its own.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::amount;
use crate::harness::{Engine, Postgres, Redis, eventually};
use crate::table::{Spread, Table};

const TABLE: &str = "
    CREATE TABLE t10 (id bigint PRIMARY KEY, t1 text, t2 text, t3 text, t4 text,
        n numeric(14,2), ts timestamptz, b bool, j jsonb, u uuid);
    CREATE PUBLICATION kasho_pub FOR TABLE t10;";

const MASK: &str = r#"
    [keys]
    bench = { file = "key" }
    [[transform]]
    name = "mask"
    plugin = "anonymize.wasm"
    tables = ["public.t10"]
    key = "bench"
    [transform.rules]
    "public.t10.id" = "pass"
    "public.t10.t1" = "fake_email"
    "public.t10.t2" = "pass"
    "public.t10.t3" = "pass"
    "public.t10.t4" = "pass"
    "public.t10.n" = "pass"
    "public.t10.ts" = "pass"
    "public.t10.b" = "pass"
    "public.t10.j" = "pass"
    "public.t10.u" = "pass"
"#;

/// An engine with a slot and a prefix of its own, bootstrapped before the backlog.
struct Variant {
    name: &'static str,
    engine: Engine,
    keys: Vec<(String, Vec<u8>)>,
}

/// What one drain took.
struct Drained {
    wall: f64,
    cpu: f64,
    start_up: f64,
}

pub(crate) async fn run(table: &mut Table) {
    let rows: u64 = amount(5_000, 100_000, 500_000);
    let rounds = amount(1, 3, 5);
    let (pg, redis) = tokio::join!(
        Postgres::builder().setting("max_wal_size", "8GB").start(),
        Redis::builder().setting("save", "").start()
    );
    pg.sql(TABLE).await;
    pg.sql("SELECT pg_create_logical_replication_slot('base', 'pgoutput')").await;
    let mut plain = Variant::start(&pg, &redis, "plain", "").await;
    let mut masked = Variant::start(&pg, &redis, "masked", MASK).await;
    backlog(&pg, rows).await;
    let end = pg.value("SELECT pg_current_wal_flush_lsn()").await;
    let (mut base, mut without, mut with) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let measured = (
            baseline(&pg, &end).await,
            plain.drain(&pg, &redis).await,
            masked.drain(&pg, &redis).await,
        );
        // The first round warms the caches of the file system.
        if round > 0 {
            base.push(measured.0);
            without.push(measured.1);
            with.push(measured.2);
        }
    }
    report(table, rows as f64, &base, &without, &with);
}

fn report(table: &mut Table, rows: f64, base: &[Drained], without: &[Drained], with: &[Drained]) {
    let rates = |of: &[Drained]| of.iter().map(|d| rows / d.wall).collect::<Vec<f64>>();
    let (base_rate, plain_rate, mask_rate) = (rates(base), rates(without), rates(with));
    let median = |of: &[f64]| Spread::of(of.iter().copied()).median;
    let absolute =
        format!("{:.0}k rows/s against {:.0}k", median(&mask_rate) / 1e3, median(&base_rate) / 1e3);
    let masked = Spread::ratio(&mask_rate, &base_rate);
    table.at_least(
        "drain to Redis, TCP, one column masked : pg_recvlogical",
        &masked,
        0.8,
        &absolute,
    );
    let absolute = format!(
        "{:.0}k rows/s against {:.0}k",
        median(&mask_rate) / 1e3,
        median(&plain_rate) / 1e3
    );
    let cost = Spread::ratio(&mask_rate, &plain_rate);
    table.at_least("drain, one column masked : without plugins", &cost, 0.9, &absolute);
    let cpu = |of: &[Drained]| of.iter().map(|d| d.cpu * 1e6 / rows).collect::<Vec<f64>>();
    let (base_cpu, mask_cpu) = (cpu(base), cpu(with));
    let absolute = format!("{:.2} s a million rows, {:.2} s", median(&mask_cpu), median(&base_cpu));
    table.at_most(
        "engine CPU : pg_recvlogical's",
        &Spread::ratio(&mask_cpu, &base_cpu),
        1.5,
        &absolute,
    );
    let start = Spread::of(with.iter().map(|d| d.start_up));
    table.at_most("seconds from start to reading the slot, one plugin", &start, 1.0, "");
}

/// `rows` rows of about 330 bytes, a thousand a transaction.
async fn backlog(pg: &Postgres, rows: u64) {
    pg.psql(&format!(
        "DO $$ BEGIN FOR i IN 0..{} LOOP
            INSERT INTO t10 SELECT n, 'user' || n || '@customers.example', repeat(md5(n::text), 2),
                md5((n + 1)::text), 'text ' || n, n / 100.0, '2026-01-01'::timestamptz + n * interval '1 s',
                n % 2 = 0, jsonb_build_object('n', n, 'tag', 'a tag'), md5(n::text)::uuid
            FROM generate_series(i * 1000 + 1, i * 1000 + 1000) n;
            COMMIT;
        END LOOP; END $$;",
        rows / 1000 - 1
    ))
    .await;
}

async fn fresh_slot(pg: &Postgres, name: &str) {
    let exists = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'");
    if pg.value(&exists).await != "0" {
        eventually("the slot to be free", async || {
            let drop = format!("SELECT pg_drop_replication_slot('{name}')");
            pg.client().await.batch_execute(&drop).await.ok()
        })
        .await;
    }
    pg.sql(&format!("SELECT pg_copy_logical_replication_slot('base', '{name}')")).await;
    pg.sql("CHECKPOINT").await;
}

async fn baseline(pg: &Postgres, end: &str) -> Drained {
    fresh_slot(pg, "recv").await;
    let mut command = pg.tool("pg_recvlogical");
    command.args(["-d", &pg.url()]).stdin(Stdio::null());
    command.args(["-S", "recv", "--start", "--no-loop", "-f", "/dev/null", "--endpos", end]);
    command.args(["-o", "proto_version=1", "-o", "publication_names=kasho_pub"]);
    let (started, cpu) = (Instant::now(), children_cpu());
    let status = command.stdout(Stdio::null()).status().expect("pg_recvlogical");
    assert!(status.success(), "pg_recvlogical: {status}");
    Drained { wall: started.elapsed().as_secs_f64(), cpu: children_cpu() - cpu, start_up: 0.0 }
}

impl Variant {
    async fn start(pg: &Postgres, redis: &Redis, name: &'static str, more: &str) -> Variant {
        let builder = Engine::builder();
        builder
            .home()
            .write("key", "5f1b0c7d93ae48e6b2d40f8a67c1e35920b4d86fa7139ce25d08f6417ba3c94e");
        let config = format!(
            "[source]\nurl = \"{}\"\nslot = \"{name}\"\n[redis]\nurl = \"{}\"\nprefix = \"{name}\"\n\
             [grpc]\nlisten = \"127.0.0.1:{}\"\n{more}",
            pg.url(),
            redis.url(),
            builder.home().grpc_port()
        );
        let engine = builder.plugin("anonymize").config(&config).start();
        eventually("the engine", async || (engine.run(&["status"]).await.code == 0).then_some(()))
            .await;
        engine.run(&["bootstrap", "--yes"]).await.success();
        engine.terminate().await;
        let keys: Vec<String> = redis.command(&["KEYS", &format!("{{{name}}}:*")]).await;
        let mut dumped = Vec::new();
        for key in keys {
            let bytes: Vec<u8> = redis.command(&["DUMP", &key]).await;
            dumped.push((key, bytes));
        }
        Variant { name, engine, keys: dumped }
    }

    /// One drain of the whole backlog, from a state as before it.
    async fn drain(&mut self, pg: &Postgres, redis: &Redis) -> Drained {
        fresh_slot(pg, self.name).await;
        let mut client = redis.client().await;
        let _: () = redis::cmd("FLUSHALL").query_async(&mut client).await.expect("FLUSHALL");
        for (key, bytes) in &self.keys {
            let mut restore = redis::cmd("RESTORE");
            let _: () =
                restore.arg(key).arg(0).arg(bytes).query_async(&mut client).await.expect("RESTORE");
        }
        let started = Instant::now();
        self.engine.start_again();
        let active =
            format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", self.name);
        let observer = pg.client().await;
        loop {
            if observer.query_one(&active, &[]).await.expect("slot").get::<_, bool>(0) {
                break;
            }
            let ended = self.engine.process().exited();
            assert!(ended.is_none(), "{}", self.engine.log());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let start_up = started.elapsed().as_secs_f64();
        let reading = Instant::now();
        let key = format!("{{{}}}:1:changes", self.name);
        let rows: u64 = pg.value("SELECT count(*) FROM t10").await.parse().expect("count");
        loop {
            let length: u64 =
                redis::cmd("XLEN").arg(&key).query_async(&mut client).await.expect("XLEN");
            if length >= rows {
                break;
            }
            assert!(self.engine.process().exited().is_none(), "{}", self.engine.log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let wall = reading.elapsed().as_secs_f64();
        let cpu = process_cpu(self.engine.process().pid());
        self.engine.kill9().await;
        Drained { wall, cpu, start_up }
    }
}

/// Seconds of user and system time of a process.
pub(crate) fn process_cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    ticks(&stat, 11) + ticks(&stat, 12)
}

/// The same of all ended children of this one.
fn children_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("stat");
    ticks(&stat, 13) + ticks(&stat, 14)
}

/// Field `index` behind the command name, in hundredths of a second (USER_HZ, proc(5)).
fn ticks(stat: &str, index: usize) -> f64 {
    let (_, fields) = stat.rsplit_once(") ").expect("stat");
    fields.split(' ').nth(index).expect("field").parse::<f64>().expect("ticks") / 100.0
}

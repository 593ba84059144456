//! What versions of PostgreSQL do differently, asked of whichever one runs: each of these
//! has something to show on all of them, and more on some.

use serde_json::Value;

use crate::harness::{Engine, Postgres, Redis, eventually};
use crate::world::{LEDGER, World, config, fill};

/// Limits that end a session or a statement, as far as this version has them.
const LIMITS: &str = "SELECT name FROM pg_settings WHERE name IN ('statement_timeout',
    'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout',
    'transaction_timeout') ORDER BY name";

#[tokio::test(flavor = "multi_thread")]
async fn no_time_limit_of_the_role_ends_what_takes_its_time() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql(LEDGER).await;
    fill(&pg, 1, 120_000).await;
    pg.sql("CREATE ROLE hasty SUPERUSER LOGIN PASSWORD 'a secret'").await;
    let limits = pg.rows(LIMITS).await;
    let expected = if pg.version().await >= 17 { 5 } else { 4 };
    assert_eq!(limits.len(), expected);
    for limit in limits.iter().flatten().flatten() {
        pg.sql(&format!("ALTER ROLE hasty SET {limit} = '150ms'")).await;
    }
    let builder = Engine::builder();
    let url = pg.url_as("hasty", "a secret");
    let text = config(&url, &redis.url(), builder.home().grpc_port(), "");
    let world = World { engine: builder.config(&text).start(), pg, redis };
    world.until_state("WAITING").await;
    world.bootstrap().await;
    assert_eq!(world.entries("bootstrap").await, 120_001);
    // Decoding this one is a transaction of the walsender's, and a long one.
    fill(&world.pg, 120_001, 240_000).await;
    world.check_ledger(240_001).await;
    let log = world.engine.log();
    assert!(!log.contains("was interrupted"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_columns_leave_if_the_server_publishes_them() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    let publishes = pg.version().await >= 18;
    let with = if publishes { "WITH (publish_generated_columns = stored)" } else { "" };
    pg.sql(&format!(
        "CREATE TABLE made (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED, z text);
         CREATE TABLE ledger (id bigint PRIMARY KEY, payload text NOT NULL);
         INSERT INTO made (id, z) VALUES (1, 'loaded');
         CREATE PUBLICATION kasho_pub FOR TABLE made, ledger {with}"
    ))
    .await;
    if publishes {
        pg.sql("ALTER TABLE made ADD thrice int GENERATED ALWAYS AS (id * 3) VIRTUAL").await;
    }
    let builder = Engine::builder();
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), "");
    let text = text.replace("[redis]\n", "[redis]\nencoding = \"json\"\n");
    let world = World { engine: builder.config(&text).start(), pg, redis };
    world.until_state("WAITING").await;
    world.bootstrap().await;
    world.pg.sql("INSERT INTO made (id, z) VALUES (2, 'streamed'); UPDATE made SET z = 'changed' WHERE id = 1").await;
    world.settle(1).await;
    let columns: &[&str] = if publishes { &["id", "twice", "z"] } else { &["id", "z"] };
    for stream in ["bootstrap", "changes"] {
        let key = format!("{{kasho}}:1:{stream}");
        let text = world.redis.cli(&["--raw", "XRANGE", &key, "-", "+"]).await;
        let rows: Vec<Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|row| row["cols"].as_array().is_some_and(|cols| cols.contains(&"z".into())))
            .collect();
        assert!(!rows.is_empty(), "{text}");
        for row in rows {
            assert_eq!(row["cols"], serde_json::json!(columns), "{stream}");
            let id: i64 = row["new"][0].as_str().expect("id").parse().expect("number");
            if publishes {
                assert_eq!(row["new"][1], (2 * id).to_string(), "{stream}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_the_server_does_not_publish_is_found_first() {
    let pg = Postgres::start().await;
    let redis = Redis::start().await;
    pg.sql(
        "CREATE TABLE whole (id int, twice int GENERATED ALWAYS AS (id * 2) STORED);
         ALTER TABLE whole REPLICA IDENTITY FULL; INSERT INTO whole VALUES (1);
         CREATE PUBLICATION kasho_pub FOR TABLE whole",
    )
    .await;
    let builder = Engine::builder();
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), "");
    let engine = builder.config(&text).build();
    let update = pg.client().await.batch_execute("UPDATE whole SET id = 2").await;
    let check = engine.run(&["check"]).await;
    // What the server refuses its own applications, and what it does not, is told alike.
    assert_eq!(update.is_ok(), check.code == 0, "{}{}", check.stdout, check.stderr);
    assert_eq!(update.is_ok(), pg.version().await < 18);
    if update.is_err() {
        let remedy = "ALTER PUBLICATION \"kasho_pub\" SET (publish_generated_columns = stored)";
        assert!(check.stderr.contains("public.whole"), "{}", check.stderr);
        assert!(check.stderr.contains(remedy), "{}", check.stderr);
        pg.sql(remedy).await;
        engine.run(&["check"]).await.success();
        pg.sql("UPDATE whole SET id = 2").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_the_server_invalidates_is_told_with_its_reason() {
    let (limit, size) = ("max_slot_wal_keep_size", "1MB");
    let pg = Postgres::start().await;
    let version = pg.version().await;
    let reason = if version >= 17 { "wal_removed" } else { "wal_status lost" };
    invalidated(pg, (limit, size), reason).await;
    if version >= 18 {
        let limit = ("idle_replication_slot_timeout", "1s");
        invalidated(Postgres::start().await, limit, "idle_timeout").await;
    }
}

/// Streams, stops, and lets the server lose patience by `limit`.
async fn invalidated(pg: Postgres, limit: (&str, &str), reason: &str) {
    let redis = Redis::start().await;
    pg.sql(&format!("ALTER SYSTEM SET {} = '{}'", limit.0, limit.1)).await;
    pg.sql("SELECT pg_reload_conf()").await;
    let mut world = World::with(pg, redis, 10, "").await;
    world.bootstrap().await;
    // A limit in time is a finding while nothing has happened yet.
    let timed = limit.0.starts_with("idle");
    eventually("the findings", async || {
        let warnings = world.try_status().await?["warnings"].to_string();
        (timed == warnings.contains(limit.0)).then_some(())
    })
    .await;
    assert!(world.engine.terminate().await.success());
    while world.pg.value("SELECT wal_status FROM pg_replication_slots").await != "lost" {
        let message = "SELECT pg_logical_emit_message(false, 'x', repeat('y', 100000))
                       FROM generate_series(1, 100)";
        world.pg.sql(message).await;
        world.pg.value("SELECT pg_switch_wal()").await;
        world.pg.sql("CHECKPOINT").await;
    }
    world.engine.start_again();
    let error = eventually("the loss to be told", async || {
        let status = world.try_status().await?;
        let error = status["last_error"].as_str()?.to_owned();
        (status["state"] == "WAITING" && error.contains("invalidated")).then_some(error)
    })
    .await;
    assert!(error.contains(reason) && error.contains("new bootstrap"), "{error}");
    world.engine.run(&["bootstrap", "--yes", "--discard"]).await.success();
    assert_eq!(world.status().await["epoch"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_kept_through_a_failover_where_the_server_can() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql(LEDGER).await;
    let builder = Engine::builder();
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), "");
    let builder = builder.config(&text.replace("[source]\n", "[source]\nfailover = true\n"));
    if pg.version().await < 17 {
        let check = builder.build().run(&["check"]).await;
        assert_eq!(check.code, 1);
        assert!(check.stderr.contains("source.failover needs PostgreSQL 17"), "{}", check.stderr);
        return;
    }
    let mut world = World { engine: builder.start(), pg, redis };
    world.until_state("WAITING").await;
    world.bootstrap().await;
    let kept = "SELECT failover FROM pg_replication_slots WHERE slot_name = 'kasho_slot'";
    assert_eq!(world.pg.value(kept).await, "t");
    world.engine.kill9().await;
    world.engine.start_again();
    world.settle(1).await;
    assert_eq!(world.pg.value(kept).await, "t");
}

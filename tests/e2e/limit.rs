//! The source must never die of us: log that is kept for a stream that stands still is
//! warned about and ended, on a real server, with a Redis that does not answer.

use serde_json::Value;

use crate::harness::{Engine, Postgres, Redis, eventually, get};
use crate::world::{LEDGER, World, config, fill, loaded};

/// A limit of 48 MiB; nothing times out, so that only the limit speaks.
async fn world(on_limit: &str) -> World {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql(LEDGER).await;
    fill(&pg, 1, 10).await;
    let builder = Engine::builder();
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), "")
        .replacen("[source]\n", &format!("[source]\nmax_retained_wal = \"48MiB\"\n{on_limit}"), 1)
        .replacen("[redis]\n", "[redis]\nresponse_timeout_ms = 600000\n", 1);
    let engine = builder.config(&text).start();
    let world = World { pg, redis, engine };
    world.until_state("WAITING").await;
    world.bootstrap().await;
    world
}

/// So many MiB of log that hold nothing for us.
async fn write_log(pg: &Postgres, mib: u32) {
    let message = "SELECT count(pg_logical_emit_message(false, 'other', repeat('x', 1048576)))";
    pg.sql(&format!("{message} FROM generate_series(1, {mib})")).await;
}

/// Freezes Redis with a change in flight, so that nothing more is acknowledged.
async fn stall(world: &World, from: u64, to: u64) {
    world.redis.freeze();
    fill(&world.pg, from, to).await;
}

async fn retained(pg: &Postgres) -> u64 {
    let query =
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) FROM pg_replication_slots";
    pg.value(query).await.parse().expect("bytes")
}

/// Writes log until the server itself says that 80 % are reached, and 100 % are not.
async fn near(pg: &Postgres) {
    let limit: u64 = 48 << 20;
    while retained(pg).await < limit / 100 * 82 {
        write_log(pg, 2).await;
    }
    assert!(retained(pg).await < limit);
}

async fn warning(world: &World) -> Option<String> {
    let status = world.try_status().await?;
    let warnings = status["warnings"].as_array()?;
    let texts = warnings.iter().filter_map(Value::as_str);
    let mut found = texts.filter(|text| text.contains("source.max_retained_wal (48MiB)"));
    found.next().map(str::to_owned)
}

async fn not_ready(world: &World) -> String {
    let port = world.engine.home().http_port();
    let (_, why) = eventually("readiness to fail", async || {
        get(port, "/readyz").await.filter(|(code, _)| *code == 503)
    })
    .await;
    why
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_the_slot_is_dropped_although_redis_does_not_answer() {
    let world = world("").await;
    stall(&world, 11, 20).await;
    near(&world.pg).await;
    let told = eventually("the warning", async || warning(&world).await).await;
    assert!(told.contains("at 100 % the slot is dropped"), "{told}");
    assert!(not_ready(&world).await.contains("80 % of source.max_retained_wal (50331648)"));
    assert_eq!(world.status().await["max_retained_wal_bytes"], 48 << 20);
    assert_eq!(world.status().await["state"], "STREAMING");
    let line = world.engine.wait_for("at 100 % the slot is dropped").await;
    assert!(line.contains("WARN"), "{line}");

    write_log(&world.pg, 12).await;
    eventually("the slot to go", async || {
        let slots = world.pg.value("SELECT count(*) FROM pg_replication_slots").await;
        (slots == "0").then_some(())
    })
    .await;
    world.until_state("WAITING").await;
    let error = world.status().await["last_error"].as_str().expect("text").to_owned();
    for words in ["more than source.max_retained_wal (48MiB)", "was dropped", "kasho bootstrap"] {
        assert!(error.contains(words), "{error}");
    }
    assert!(not_ready(&world).await.contains("was dropped"));
    let line = world.engine.wait_for("was dropped so that the source lives").await;
    assert!(line.contains("ERROR"), "{line}");

    // The state is stored as soon as that can be, and the next bootstrap begins anew.
    world.redis.thaw();
    eventually("the state to be stored", async || {
        let state: String = world.redis.try_command(&["GET", "{kasho}:state"]).await.ok()?;
        state.to_lowercase().contains("waiting").then_some(())
    })
    .await;
    world.bootstrap().await;
    let status = world.status().await;
    assert_eq!((&status["state"], &status["epoch"]), (&"STREAMING".into(), &2.into()));
    assert_eq!(loaded(&world.redis, 2).await, 21, "twenty rows and the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_limit_a_redis_that_comes_back_empty_is_begun_anew() {
    let mut world = world("").await;
    world.redis.kill9().await;
    write_log(&world.pg, 60).await;
    world.engine.wait_for("was dropped so that the source lives").await;
    world.until_state("WAITING").await;
    world.redis.start_empty().await;
    eventually("the state to be stored", async || {
        let state: String = world.redis.try_command(&["GET", "{kasho}:state"]).await.ok()?;
        state.to_lowercase().contains("waiting").then_some(())
    })
    .await;
    world.bootstrap().await;
    assert_eq!(world.status().await["epoch"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_slot_is_kept_and_warned_about_and_loses_nothing() {
    let world = world("on_limit = \"hold\"\n").await;
    stall(&world, 11, 20).await;
    near(&world.pg).await;
    let told = eventually("the warning", async || warning(&world).await).await;
    assert!(told.contains("it is held"), "{told}");
    write_log(&world.pg, 16).await;
    let told = eventually("the louder warning", async || {
        warning(&world).await.filter(|text| text.contains("the slot is held"))
    })
    .await;
    assert!(told.contains("disk will be full"), "{told}");
    assert!(not_ready(&world).await.contains("source.max_retained_wal"));
    let error = world.engine.wait_for("the slot is held").await;
    assert!(error.contains("ERROR"), "{error}");
    assert_eq!(world.pg.value("SELECT count(*) FROM pg_replication_slots").await, "1");
    world.redis.thaw();
    world.check_ledger(21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_finds_no_redis_watches_the_slot_too() {
    let mut world = world("").await;
    world.engine.kill9().await;
    world.redis.kill9().await;
    write_log(&world.pg, 50).await;
    world.engine.start_again();
    world.engine.wait_for("the slot was dropped so that the source lives").await;
    assert_eq!(world.pg.value("SELECT count(*) FROM pg_replication_slots").await, "0");
    world.redis.start_empty().await;
    world.until_state("WAITING").await;
}

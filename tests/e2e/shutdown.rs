//! How the service ends: in good order when asked once, at once when asked twice.

use crate::harness::{Postgres, Redis, eventually, get};
use crate::world::{World, fill};

/// A world whose changes are acknowledged as soon as they are durable.
async fn prompt() -> World {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    World::with(pg, redis, 10, "").await
}

async fn confirmed(world: &World) -> u64 {
    let query = "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots";
    world.pg.value(query).await.parse().expect("LSN")
}

/// The engine does not wait long for the server to have read its last word.
async fn until_nobody_reads(world: &World) {
    let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
    let free = async || (world.pg.value(active).await == "0").then_some(());
    eventually("the slot to be free", free).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_lets_the_batch_in_flight_be_published_and_acknowledged() {
    for signal in ["TERM", "INT"] {
        let mut world = prompt().await;
        // In force at the next start.
        let text = std::fs::read_to_string(world.engine.home().config_path()).expect("file");
        let text = text.replacen("[redis]\n", "[redis]\nack_lag_ms = 0\n", 1);
        world.engine.home().write_config(&text);
        world.bootstrap().await;
        assert!(world.engine.terminate().await.success());
        world.engine.start_again();
        world.until_state("STREAMING").await;
        fill(&world.pg, 11, 20_010).await;
        eventually("a part of the transaction", async || {
            (world.entries("changes").await > 0).then_some(())
        })
        .await;
        world.engine.process().signal(signal);
        let status = world.engine.wait_exit().await;
        assert_eq!(status.code(), Some(0), "{}", world.engine.log());
        world.engine.wait_for("drained").await;
        // What was published as a whole is acknowledged; a transaction in part is not.
        until_nobody_reads(&world).await;
        let published = world.newest().await.expect("entries");
        let whole = world.entries("changes").await == 20_000;
        let confirmed = confirmed(&world).await;
        assert_eq!(confirmed > published.0, whole, "{confirmed} {published:?}");
        world.engine.start_again();
        world.check_ledger(20_011).await;
        // And once it is published as a whole, it is acknowledged by the end.
        let published = world.newest().await.expect("entries");
        assert!(world.engine.terminate().await.success());
        until_nobody_reads(&world).await;
        assert!(self::confirmed(&world).await > published.0);
    }
}

/// Whether a row with `key` is in flight: taken from the source, and not answered by Redis, which
/// is frozen. It is not where something else had asked Redis before it.
async fn is_taken_by_a_frozen_redis(world: &World, key: u64) -> bool {
    let rows = async || {
        let (_, body) = get(world.engine.home().http_port(), "/metrics").await?;
        let line = body.lines().find(|line| line.starts_with("kasho_rows_total "))?;
        line.rsplit(' ').next()?.parse::<u64>().ok()
    };
    let interrupted = || world.engine.log().matches("the stream was interrupted").count();
    let before = (rows().await.expect("metrics"), interrupted());
    world.redis.freeze();
    fill(&world.pg, key, key).await;
    eventually("the row to be taken", async || {
        let taken = rows().await? > before.0;
        (taken || interrupted() > before.1).then_some(taken)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let mut world = prompt().await;
    world.bootstrap().await;
    let mut key = 11;
    for _ in 0..3 {
        while !is_taken_by_a_frozen_redis(&world, key).await {
            world.redis.thaw();
            world.check_ledger(key + 1).await;
            key += 2;
        }
        world.engine.process().signal("TERM");
        world.engine.wait_for("asked to end").await;
        world.engine.process().signal("TERM");
        let status = world.engine.wait_exit().await;
        world.redis.thaw();
        // The second one may come too late, on a machine that stands still for ten seconds.
        if !world.engine.log().contains("drained") {
            assert_eq!(status.code(), Some(128 + 15), "{}", world.engine.log());
            return;
        }
        world.engine.start_again();
        world.until_state("STREAMING").await;
        world.check_ledger(key + 1).await;
        key += 2;
    }
    panic!("the second signal was drained for, three times");
}

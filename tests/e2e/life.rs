//! The whole life on real servers, and every way to end it early: whatever is killed,
//! the ledger shows no gap, no repeat and no disorder, or the engine halts and says why.

use crate::harness::{Postgres, Redis, eventually, python};
use crate::world::{World, Writer, fill};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_loaded_and_then_streamed() {
    let world = World::start(5_000).await;
    let writer = Writer::start(&world.pg, 5_000).await;
    writer.more(100).await;
    world.bootstrap().await;
    let status = world.status().await;
    assert_eq!(status["state"], "STREAMING");
    assert_eq!(status["epoch"], 1);
    writer.more(500).await;
    let last = writer.finish().await;
    let told = world.check_ledger(last + 1).await;
    assert!(told.contains("problems 0"), "{told}");
    assert!(world.engine.terminate().await.success(), "SIGTERM drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_accumulating_loses_and_repeats_nothing() {
    let mut world = World::start(150_000).await;
    let writer = Writer::start(&world.pg, 150_000).await;
    world.begin_bootstrap().await;
    for progress in [1_000, 40_000] {
        eventually("some rows to be loaded", async || {
            (world.entries("bootstrap").await > progress).then_some(())
        })
        .await;
        world.engine.kill9().await;
        writer.more(200).await;
        world.engine.start_again();
        world.until_state("ACCUMULATING").await;
    }
    world.bootstrap().await;
    let last = writer.finish().await;
    let told = world.check_ledger(last + 1).await;
    assert!(told.contains("problems 0"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_inside_a_large_transaction() {
    let mut world = World::start(10).await;
    world.bootstrap().await;
    fill(&world.pg, 11, 50_010).await;
    eventually("a part of the transaction", async || {
        let entries = world.entries("changes").await;
        (entries > 5_000).then_some(entries)
    })
    .await;
    world.engine.kill9().await;
    world.engine.start_again();
    world.check_ledger(50_011).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_between_the_reply_of_redis_and_the_acknowledgement() {
    let mut world = World::start(10).await;
    // Nothing is acknowledged before the engine is killed.
    let text = std::fs::read_to_string(world.engine.home().config_path()).expect("kasho.toml");
    let late = text.replacen("[redis]\n", "[redis]\nack_lag_ms = 60000\n", 1);
    world.engine.home().write_config(&late);
    world.engine.terminate().await;
    world.engine.start_again();
    world.until_state("WAITING").await;
    world.bootstrap().await;
    let writer = Writer::start(&world.pg, 10).await;
    for _ in 0..3 {
        writer.more(100).await;
        let published = eventually("a change", async || world.newest().await).await;
        world.engine.kill9().await;
        let confirmed = "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots";
        let confirmed: u64 = world.pg.value(confirmed).await.parse().expect("LSN");
        assert!(confirmed < published.0, "published and not yet acknowledged");
        world.engine.start_again();
        world.until_state("STREAMING").await;
    }
    let last = writer.finish().await;
    world.check_ledger(last + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_killed_and_comes_back_with_its_data() {
    let (pg, redis) =
        (Postgres::start().await, Redis::builder().append_only("always").start().await);
    let mut world = World::with(pg, redis, 1_000, "").await;
    world.bootstrap().await;
    let writer = Writer::start(&world.pg, 1_000).await;
    for _ in 0..2 {
        writer.more(200).await;
        world.redis.kill9().await;
        writer.more(200).await;
        world.redis.start_again().await;
        let lsn = world.pg.value("SELECT pg_current_wal_insert_lsn() - '0/0'").await;
        let lsn: u64 = lsn.parse().expect("LSN");
        eventually("the stream to go on", async || (world.newest().await?.0 > lsn).then_some(()))
            .await;
    }
    let last = writer.finish().await;
    world.check_ledger(last + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_redis_halts_the_engine_with_the_two_ways_on() {
    let mut world = World::start(1_000).await;
    world.bootstrap().await;
    fill(&world.pg, 1_001, 1_100).await;
    eventually("the changes", async || (world.entries("changes").await >= 100).then_some(())).await;
    world.redis.kill9().await;
    world.redis.start_empty().await;
    let error = eventually("the engine to say so", async || {
        let status = world.try_status().await?;
        let error = status["last_error"].as_str()?.to_owned();
        error.contains("lost data").then_some(error)
    })
    .await;
    assert!(error.contains("accept-gap") && error.contains("bootstrap"), "{error}");
    let confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots";
    let before = world.pg.value(confirmed).await;
    fill(&world.pg, 1_101, 1_200).await;
    assert_eq!(world.pg.value(confirmed).await, before, "a halted engine acknowledges nothing");
    assert_eq!(world.entries("changes").await, 0, "and publishes nothing");
    // The first way, as it is told.
    world.engine.run(&["reset", "--yes"]).await.success();
    assert_eq!(world.status().await["state"], "WAITING");
    assert_eq!(world.pg.value("SELECT count(*) FROM pg_replication_slots").await, "0");
    world.bootstrap().await;
    assert_eq!(world.status().await["epoch"], 2, "no epoch is given twice");
    fill(&world.pg, 1_201, 1_300).await;
    eventually("the changes after it", async || {
        let entries: u64 = world.redis.command(&["XLEN", "{kasho}:2:changes"]).await;
        (entries >= 100).then_some(())
    })
    .await;
    let url = world.redis.url();
    python(include_str!("ledger.py"), &[&url, "2", "1300"]).await.success();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_an_identity_made_on_the_way_keeps_no_engine_from_starting() {
    let mut world = World::start(100).await;
    world.bootstrap().await;
    world.pg.sql("CREATE TABLE keyless (n int)").await;
    world.engine.kill9().await;
    world.engine.start_again();
    world.until_state("STREAMING").await;
    world.pg.sql("INSERT INTO keyless VALUES (1)").await;
    eventually("its row", async || (world.entries("changes").await >= 1).then_some(())).await;
    let check = world.engine.run(&["check"]).await.success();
    let told = format!("{}{}", check.stdout, check.stderr);
    assert!(told.contains("public.keyless has no usable replica identity"), "{told}");
    // Before there is a slot there is time to mend it.
    world.engine.run(&["reset", "--yes"]).await.success();
    let check = world.engine.run(&["check"]).await;
    assert_eq!(check.code, 1, "{}", check.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_entry_may_be_more_or_fewer_in_the_middle_of_a_load() {
    const ROWS: u64 = 150_000;
    // There has to be much of it left each time.
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    let mut world = World::with(pg, redis, ROWS, "[bootstrap]\nmax_rate = \"300KiB\"\n").await;
    let writer = Writer::start(&world.pg, ROWS).await;
    let plain = std::fs::read_to_string(world.engine.home().config_path()).expect("kasho.toml");
    world.begin_bootstrap().await;
    for rows in [1, 7, 10_000] {
        let before = world.entries("bootstrap").await;
        eventually("some rows to be loaded", async || {
            (world.entries("bootstrap").await > before).then_some(())
        })
        .await;
        world.engine.kill9().await;
        let mut text = plain.replacen("[redis]", &format!("[redis]\nload_rows = {rows}"), 1);
        if rows == 10_000 {
            text = text.replacen("max_rate = \"300KiB\"", "", 1);
        }
        world.engine.home().write_config(&text);
        world.engine.start_again();
        world.until_state("ACCUMULATING").await;
    }
    world.bootstrap().await;
    let last = writer.finish().await;
    let told = world.check_ledger(last + 1).await;
    assert!(told.contains("problems 0"), "{told}");
    let entries: u64 = world.redis.command(&["XLEN", "{kasho}:1:bootstrap"]).await;
    assert!(entries < ROWS, "{entries}: none was shared");
}

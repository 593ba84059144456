//! A Redis much smaller than what has to go through it: back-pressure, never loss, never
//! eviction, never a deadlock, and whoever looks is told what it waits for.

use crate::harness::{Postgres, Redis, eventually, get, python};
use crate::world::{World, fill};

/// Rows of a kilobyte, in transactions of 500.
async fn fat(pg: &Postgres, from: u64, to: u64) {
    let client = pg.client().await;
    for first in (from..=to).step_by(500) {
        let last = to.min(first + 499);
        let insert = format!(
            "INSERT INTO ledger SELECT n, repeat(md5(n::text), 32) FROM generate_series({first}, {last}) n"
        );
        client.batch_execute(&insert).await.expect("insert");
    }
}

async fn paused(world: &World, words: &str) -> String {
    eventually(&format!("status to say {words:?}"), async || {
        let status = world.try_status().await?;
        let paused = status["paused"].as_str()?;
        paused.contains(words).then(|| paused.to_owned())
    })
    .await
}

async fn nothing_is_paused(world: &World) {
    eventually("status to say nothing", async || {
        (world.try_status().await?["paused"] == "").then_some(())
    })
    .await;
}

async fn metric(world: &World, line: &str) {
    eventually(line, async || {
        let (_, body) = get(world.engine.home().http_port(), "/metrics").await?;
        body.lines().any(|found| found == line).then_some(())
    })
    .await;
}

async fn nothing_was_evicted(redis: &Redis) {
    let info = redis.cli(&["INFO", "stats"]).await;
    assert!(info.contains("evicted_keys:0"), "{info}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_several_times_larger_than_redis_goes_through() {
    let (pg, redis) =
        tokio::join!(Postgres::start(), Redis::builder().setting("maxmemory", "24mb").start());
    let world = World::with(pg, redis, 0, "").await;
    let (loaded, waiting, last) = (80_000, 105_000, 118_000);
    fat(&world.pg, 1, loaded).await;
    let bytes: u64 = world.pg.value("SELECT pg_table_size('ledger')").await.parse().expect("bytes");
    assert!(bytes > 3 * (24 << 20), "{bytes} bytes are not several times Redis' memory");

    world.begin_bootstrap().await;
    let why = paused(&world, "the bootstrap stream takes").await;
    assert!(why.contains("no consumer is registered"), "{why}");
    metric(&world, "kasho_paused{stream=\"bootstrap\"} 1").await;
    // Changes of twice their budget, which nobody may read before the load is over.
    fat(&world.pg, loaded + 1, waiting).await;
    metric(&world, "kasho_paused{stream=\"changes\"} 1").await;
    let why = paused(&world, "the changes stream takes").await;
    assert!(why.contains("the bootstrap stream takes"), "both are told: {why}");
    world.engine.run(&["consumers", "add", "py"]).await.success();
    // Each of the two that wait says it when it looks again.
    eventually("both to wait for the consumer", async || {
        let status = world.try_status().await?;
        let paused = status["paused"].as_str()?;
        let known = !paused.contains("no consumer");
        (known && paused.contains("consumer \"py\" is furthest behind")).then_some(())
    })
    .await;

    let (url, goal) = (world.redis.url(), last.to_string());
    let reader =
        tokio::spawn(
            async move { python(include_str!("pressure.py"), &[&url, "py", &goal]).await },
        );
    // And once more their budget while load and changes are read.
    tokio::join!(world.bootstrap(), fat(&world.pg, waiting + 1, last));
    let output = reader.await.expect("reader");
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    let expected = format!("loaded {loaded} streamed {} problems 0", last - loaded);
    assert!(output.stdout.contains(&expected), "{}", output.stdout);
    nothing_was_evicted(&world.redis).await;
    metric(&world, "kasho_paused{stream=\"changes\"} 0").await;
    metric(&world, "kasho_paused{stream=\"bootstrap\"} 0").await;
    nothing_is_paused(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_tenants_memory_is_named_and_waited_for() {
    let (pg, redis) =
        tokio::join!(Postgres::start(), Redis::builder().setting("maxmemory", "24mb").start());
    let mut world = World::with(pg, redis, 10, "").await;
    world.bootstrap().await;
    world.redis.command::<()>(&["SETRANGE", "other", "50000000", "x"]).await;
    // Full, as far as we are concerned, and not so full that Redis itself refuses.
    let info = world.redis.cli(&["INFO", "memory"]).await;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("memory");
    let used: u64 = used.trim().parse().expect("bytes");
    let limit = (used * 100 / 97).to_string();
    world.redis.command::<()>(&["CONFIG", "SET", "maxmemory", &limit]).await;
    fill(&world.pg, 11, 20).await;
    let why = paused(&world, "Redis is full of other data").await;
    assert!(why.contains("of them by the streams"), "{why}");
    // Nothing is in flight: the service ends without waiting for room, and goes on later.
    assert!(world.engine.terminate().await.success());
    world.engine.wait_for("drained").await;
    assert!(!world.engine.log().contains("cut off"), "{}", world.engine.log());
    world.engine.start_again();
    paused(&world, "Redis is full of other data").await;
    world.redis.command::<()>(&["DEL", "other"]).await;
    world.check_ledger(21).await;
    nothing_is_paused(&world).await;
    nothing_was_evicted(&world.redis).await;
}

//! Faults on the way of an event that stalled, lied or lost something once, each made to
//! happen between real servers.

use serde_json::Value;

use crate::harness::process::kill;
use crate::harness::{Engine, Fault, Output, Postgres, Proxy, Redis, eventually, python};
use crate::world::{LEDGER, World, config, fill};

/// An engine that reaches Redis through a wire, with more in that section of its configuration
/// and behind all of it.
async fn wired(rows: u64, redis_section: &str, more: &str) -> (World, Proxy) {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    let proxy = Proxy::start(redis.port()).await;
    pg.sql(LEDGER).await;
    fill(&pg, 1, rows).await;
    let builder = Engine::builder();
    let url = redis.url_through(proxy.port());
    let text = config(&pg.url(), &url, builder.home().grpc_port(), more);
    let text = text.replacen("[redis]\n", &format!("[redis]\n{redis_section}"), 1);
    let engine = builder.config(&text).start();
    let world = World { pg, redis, engine };
    world.until_state("WAITING").await;
    (world, proxy)
}

async fn grpc(world: &World, method: &str, request: &str) -> Output {
    let address = format!("127.0.0.1:{}", world.engine.home().grpc_port());
    let method = format!("kasho.ChangeStreamService/{method}");
    python(include_str!("grpcurl.py"), &[&address, &method, request, "0"]).await
}

async fn stored_state(world: &World) -> String {
    let text: String = world.redis.command(&["GET", "{kasho}:state"]).await;
    let state: Value = serde_json::from_str(&text).expect("JSON");
    state["state"].as_str().expect("a state").to_owned()
}

async fn until_stored(world: &World, state: &str) {
    eventually(state, async || (stored_state(world).await == state).then_some(())).await;
}

async fn ends(world: &World) -> usize {
    let text = world.redis.cli(&["--raw", "XRANGE", "{kasho}:1:bootstrap", "-", "+"]).await;
    text.lines().filter(|line| *line == "end").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_advances_while_another_database_writes_steadily() {
    let world = World::start(5).await;
    world.bootstrap().await;
    world.pg.sql("CREATE DATABASE other").await;
    let url = world.pg.url();
    let (other, connection) = tokio_postgres::connect(
        &format!("{}/other", url.strip_suffix("/postgres").expect("its database")),
        tokio_postgres::NoTls,
    )
    .await
    .expect("the other database");
    tokio::spawn(connection);
    other.batch_execute("CREATE TABLE busy (n int)").await.expect("table");
    let writing = tokio::spawn(async move {
        loop {
            other.batch_execute("INSERT INTO busy VALUES (1)").await.expect("insert");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    for _ in 0..2 {
        let now = world.pg.value("SELECT pg_current_wal_lsn()").await;
        let query = format!(
            "SELECT confirmed_flush_lsn > '{now}' FROM pg_replication_slots WHERE slot_name = \
             'kasho_slot'"
        );
        eventually("the slot to advance", async || {
            (world.pg.value(&query).await == "t").then_some(())
        })
        .await;
    }
    assert!(!writing.is_finished(), "others wrote all the time");
    writing.abort();
    world.check_ledger(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_larger_than_the_budget_goes_through_a_consumer_inside_of_it() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    let world = World::with(pg, redis, 0, "[redis.budget]\nchanges = \"4MiB\"\n").await;
    world.engine.run(&["consumers", "add", "py"]).await.success();
    world.bootstrap().await;
    world
        .pg
        .sql(
            "INSERT INTO ledger SELECT n, repeat(md5(n::text), 32) FROM generate_series(1, 20000) n",
        )
        .await;
    let told = eventually("the reason of the wait", async || {
        let status = world.try_status().await?;
        let paused = status["paused"].as_str()?.to_owned();
        paused.contains("inside of it").then_some(paused)
    })
    .await;
    assert!(told.contains("consumer \"py\"") && told.contains("is larger than that"), "{told}");
    let url = world.redis.url();
    let output = python(include_str!("pressure.py"), &[&url, "py", "20000"]).await;
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("loaded 0 streamed 20000 problems 0"), "{}", output.stdout);
    eventually("the wait to be over", async || {
        (world.try_status().await?["paused"] == "").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_beyond_the_stream_loses_nothing() {
    let world = World::start(3).await;
    world.bootstrap().await;
    world.engine.run(&["consumers", "add", "eager"]).await.success();
    fill(&world.pg, 4, 6).await;
    eventually("three changes", async || (world.entries("changes").await == 3).then_some(())).await;
    let request = r#"{"consumer": "eager", "position": "FFFFFFF/0"}"#;
    assert_eq!(grpc(&world, "Ack", request).await.success().code, 0);
    for row in 7..=9 {
        fill(&world.pg, row, row).await;
    }
    // A trim comes at least with the next confirmation, which is on its way.
    let now = world.pg.value("SELECT pg_current_wal_lsn()").await;
    let query = format!("SELECT confirmed_flush_lsn >= '{now}' FROM pg_replication_slots");
    eventually("the confirmation", async || (world.pg.value(&query).await == "t").then_some(()))
        .await;
    assert!(world.entries("changes").await >= 3, "what was not there yet was acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_larger_than_a_step_of_the_load_is_loaded() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql(LEDGER).await;
    pg.sql("ALTER TABLE ledger ALTER payload SET COMPRESSION pglz").await;
    pg.sql(
        "INSERT INTO ledger VALUES (1, 'small'); \
         INSERT INTO ledger VALUES (2, repeat('x', 270000000)); \
         INSERT INTO ledger VALUES (3, 'small')",
    )
    .await;
    let builder = Engine::builder();
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), "");
    let text = text.replacen("[redis]\n", "[redis]\nresponse_timeout_ms = 60000\n", 1);
    let engine = builder.config(&text).start();
    let world = World { pg, redis, engine };
    world.until_state("WAITING").await;
    world.bootstrap().await;
    assert_eq!(world.entries("bootstrap").await, 4, "three rows and the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_lost_is_no_change_of_state_that_is() {
    let (world, proxy) = wired(20, "", "").await;
    proxy.lose_reply_to("\"ACCUMULATING\"", false);
    let began = grpc(&world, "StartBootstrap", "{}").await;
    proxy.lost().await;
    began.success();
    eventually("the load", async || {
        (world.try_status().await?["load"]["finished"] == true).then_some(())
    })
    .await;
    proxy.lose_reply_to("\"STREAMING\"", false);
    let completed = grpc(&world, "CompleteBootstrap", "{}").await;
    proxy.lost().await;
    completed.success();
    assert_eq!((ends(&world).await, stored_state(&world).await.as_str()), (1, "STREAMING"));
    world.check_ledger(21).await;
    // Nobody gets through after this one: what became of it is known when somebody does.
    proxy.lose_reply_to("\"WAITING\"", true);
    let aborted = grpc(&world, "AbortBootstrap", r#"{"force": true}"#).await;
    proxy.lost().await;
    assert_eq!(aborted.code, 1, "{}", aborted.stdout);
    assert_eq!(world.pg.value("SELECT count(*) FROM pg_replication_slots").await, "1");
    proxy.set(Fault::None);
    eventually("the slot to go", async || {
        let slots = world.pg.value("SELECT count(*) FROM pg_replication_slots").await;
        (slots == "0").then_some(())
    })
    .await;
    world.until_state("WAITING").await;
    until_stored(&world, "WAITING").await;
    // And it is not wedged.
    world.bootstrap().await;
    assert_eq!(world.status().await["epoch"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_load_is_stored_when_redis_is_back() {
    let (world, proxy) = wired(20, "", "").await;
    proxy.lose_reply_to("\"loaded\":true", true);
    grpc(&world, "StartBootstrap", "{}").await.success();
    proxy.lost().await;
    proxy.set(Fault::None);
    eventually("the load to be over", async || {
        (world.try_status().await?["load"]["finished"] == true).then_some(())
    })
    .await;
    eventually("no trouble", async || {
        (world.try_status().await?["last_error"] == "").then_some(())
    })
    .await;
    grpc(&world, "CompleteBootstrap", "{}").await.success();
    world.check_ledger(21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_goes_on_when_its_forced_end_fails() {
    // There has to be some of it left.
    let slow = "[bootstrap]\nmax_rate = \"500KiB\"\n";
    let (world, proxy) = wired(150_000, "", slow).await;
    world.begin_bootstrap().await;
    eventually("some rows", async || (world.entries("bootstrap").await > 0).then_some(())).await;
    // The turn of the loader is taken for the `end`, and nobody hears that.
    proxy.lose_reply_to("engine kasho_slot", false);
    let forced = grpc(&world, "CompleteBootstrap", r#"{"force": true}"#).await;
    proxy.lost().await;
    assert_eq!(forced.code, 1, "{}", forced.stdout);
    assert_eq!(world.status().await["state"], "ACCUMULATING");
    eventually("the rest of the load", async || {
        (world.try_status().await?["load"]["finished"] == true).then_some(())
    })
    .await;
    grpc(&world, "CompleteBootstrap", "{}").await.success();
    assert_eq!(world.entries("bootstrap").await, 150_001);
    world.check_ledger(150_001).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_outlived_its_bootstrap_is_ended() {
    let mut world = World::start(5).await;
    world.bootstrap().await;
    world.engine.kill9().await;
    let mut left = Vec::new();
    for name in ["kasho holder e1 kasho_slot", "kasho holder e1 another_slot"] {
        let client = world.pg.client().await;
        client.batch_execute(&format!("SET application_name = '{name}'; BEGIN")).await.unwrap();
        left.push(client);
    }
    world.engine.start_again();
    world.engine.wait_for("a snapshot holder was left over, and ended").await;
    eventually("its session to go", async || left[0].is_closed().then_some(())).await;
    left[1].batch_execute("COMMIT").await.expect("that of another slot is not ours");
    world.check_ledger(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_dies_before_it_is_adopted_leaves_nothing_unopened() {
    // The start must not be given up before the wire is mended.
    let patient = "response_timeout_ms = 60000\n";
    let (world, proxy) = wired(5, patient, "").await;
    let open = world.pg.client().await;
    open.batch_execute("BEGIN; INSERT INTO ledger VALUES (-1, 'open')").await.unwrap();
    let starting = grpc(&world, "StartBootstrap", "{}");
    let killing = async {
        eventually("the start to wait", async || {
            (world.try_status().await?["load"]["blocking_pid"] != 0).then_some(())
        })
        .await;
        // The phase cannot be stored for a moment, in which the holder dies.
        proxy.set(Fault::Silence);
        open.batch_execute("ROLLBACK").await.unwrap();
        let holder =
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'kasho holder e1%'";
        eventually("the holder", async || (!world.pg.value(holder).await.is_empty()).then_some(()))
            .await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        kill_holder(&world);
        proxy.set(Fault::None);
    };
    let (started, ()) = tokio::join!(starting, killing);
    drop(started);
    // Whatever was decided, the state and what is open agree, and the next start works.
    let status = eventually("a decision", async || {
        let status = world.try_status().await?;
        // Whose holder died is read at a later snapshot, or told why not.
        let whole = status["load"]["finished"] == true || status["last_error"] != "";
        let open = status["state"] == "ACCUMULATING" && whole;
        (open || status["state"] == "WAITING").then_some(status)
    })
    .await;
    if status["state"] == "ACCUMULATING" {
        fill(&world.pg, 100, 101).await;
        eventually("changes", async || (world.entries("changes").await >= 2).then_some(())).await;
    }
    let _ = world.engine.run(&["reset", "--yes"]).await;
    world.until_state("WAITING").await;
}

/// `kill -9` of the holder's process, which is a child of the engine.
fn kill_holder(world: &World) {
    let home = format!("KASHO_TEST_HOME={}", world.engine.home().path().display());
    for process in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        let ours = environment.split(|byte| *byte == 0).any(|entry| entry == home.as_bytes());
        if ours && String::from_utf8_lossy(&line).contains("--hold") {
            kill(process.file_name().to_string_lossy().parse().expect("a process id"), "KILL");
        }
    }
}

/// The URL of `pg` through a wire, and after it `other`, which takes the same password.
async fn two_hosts(pg: &Postgres, proxy: &Proxy, other: &Postgres) -> String {
    let url = pg.url();
    let password = url.split([':', '@']).nth(2).expect("a password").to_owned();
    other.sql(&format!("ALTER ROLE postgres PASSWORD '{password}'")).await;
    let (near, far) = (proxy.port(), other.port());
    format!("postgresql://postgres:{password}@127.0.0.1:{near},127.0.0.1:{far}/postgres")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_server_says_of_the_slot_does_not_count() {
    let (pg, mut other, redis) = tokio::join!(Postgres::start(), Postgres::start(), Redis::start());
    let proxy = Proxy::start(pg.port()).await;
    for server in [&pg, &other] {
        server.sql(LEDGER).await;
    }
    fill(&pg, 1, 5).await;
    let builder = Engine::builder();
    let url = two_hosts(&pg, &proxy, &other).await;
    // It has stopped receiving, as far as anybody can tell, and is a standby all the same.
    other.stop("fast").await;
    std::fs::write(other.folder().join("data/standby.signal"), "").unwrap();
    other.start_again().await;
    let text = config(&url, &redis.url(), builder.home().grpc_port(), "");
    let engine = builder.config(&text).start();
    let mut world = World { pg, redis, engine };
    world.until_state("WAITING").await;
    world.bootstrap().await;
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'kasho_slot'";
    // The first host goes away while the stream runs, and the second one knows no slot.
    proxy.set(Fault::Refuse);
    proxy.cut();
    world.engine.wait_for("is not the one that is being copied").await;
    assert_eq!(
        (stored_state(&world).await.as_str(), world.pg.value(slots).await.as_str()),
        ("STREAMING", "1")
    );
    // And a start that reaches it decides nothing either.
    world.engine.kill9().await;
    world.engine.start_again();
    world.engine.wait_for("is not the one that is being copied").await;
    assert_eq!(stored_state(&world).await, "STREAMING");
    proxy.set(Fault::None);
    world.until_state("STREAMING").await;
    fill(&world.pg, 6, 9).await;
    world.check_ledger(10).await;
    assert_eq!(world.pg.value(slots).await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_closed_waits_for_nothing() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    let world = World::with(pg, redis, 5, "[redis.budget]\nchanges = \"1MiB\"\n").await;
    world.bootstrap().await;
    let rows =
        "INSERT INTO ledger SELECT n, repeat(md5(n::text), 32) FROM generate_series(6, 5000) n";
    world.pg.sql(rows).await;
    eventually("the wait for room", async || {
        let status = world.try_status().await?;
        status["paused"].as_str()?.contains("no consumer is registered").then_some(())
    })
    .await;
    world.engine.run(&["reset", "--yes"]).await.success();
    let status = world.status().await;
    assert_eq!((&status["state"], &status["paused"]), (&"WAITING".into(), &"".into()));
}

//! Rows that were set aside, and loads, where something is in the way: two who deliver the
//! same letter, no room for another, a table that is loaded again, a reply that nobody
//! heard, a reader who does not come.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kasho::source::RETRY_PREFIX;
use kasho::source::marks::Marks;
use kasho::source::retries::{Again, Retries, Told};
use kasho::source::wal::{WalSource, emit_message};
use kasho_plugin_sdk::Op;

use crate::harness::{Engine, Fault, Output, Postgres, Proxy, Redis, eventually, get};
use crate::policies::{ASIDE, CONSTANT, ERROR, Policies, rules, text};
use crate::states::{ask, call};
use crate::wal;
use crate::world::{LEDGER, World, config, fill};

/// The row with this id of `t`, under a word.
fn announced(retries: &Retries, word: &str, oid: u32, id: &str) {
    let again = Again {
        letter: word.to_owned(),
        oid,
        columns: vec!["id".to_owned()],
        values: vec![Some(id.to_owned())],
        op: Op::Insert,
        delete: false,
        closes: true,
    };
    retries.expect(word, again);
}

/// The stream of a table with one row, which is announced under the word `first`.
async fn announcing() -> (Postgres, WalSource, Retries) {
    let server = Postgres::start().await;
    let table = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one')";
    wal::prepare(&server, table).await;
    let oid = server.value("SELECT 't'::regclass::oid").await.parse().expect("oid");
    let (mut source, retries) = (wal::open(&server).await, Retries::default());
    source.expect(Marks::default(), retries.clone());
    announced(&retries, "first", oid, "1");
    (server, source, retries)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_comes_once_however_often_its_message_was_written() {
    let (server, mut source, retries) = announcing().await;
    let client = server.client().await;
    for word in ["first", "first", "nobody's", "first"] {
        emit_message(&client, RETRY_PREFIX, word).await.expect("message");
    }
    server.sql("INSERT INTO t VALUES (2, 'two')").await;
    let expected = ["0 insert public.t  -> (1,one)", "1 insert public.t  -> (2,two)"];
    assert_eq!(wal::rows(&mut source, 2).await, expected);
    assert!(matches!(retries.told("first"), Some(Told::Read(_))));
}

/// Returns once whoever reads a row again waits for a lock.
async fn reader_waits(server: &Postgres) {
    eventually("the reader to wait", async || {
        let waits = "SELECT count(*) FROM pg_stat_activity \
                     WHERE application_name = 'kasho retry' AND wait_event_type = 'Lock'";
        (server.value(waits).await != "0").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_nobody_waits_for_any_more_does_not_come() {
    let (server, mut source, retries) = announcing().await;
    let client = server.client().await;
    client.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    emit_message(&server.client().await, RETRY_PREFIX, "first").await.expect("message");
    let late = async {
        reader_waits(&server).await;
        retries.forget("first");
        assert!(retries.claim("first", None).is_some(), "somebody else may deliver it now");
        client.batch_execute("COMMIT").await.expect("commit");
        server.sql("INSERT INTO t VALUES (2, 'two')").await;
    };
    let (rows, ()) = tokio::join!(wal::rows(&mut source, 1), late);
    assert_eq!(rows, ["1 insert public.t  -> (2,two)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_the_catalogue_is_what_it_says_now() {
    let server = Postgres::start().await;
    server
        .sql(
            "CREATE TABLE other (id int PRIMARY KEY);
             CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one');
             CREATE PUBLICATION p FOR TABLE t, other",
        )
        .await;
    wal::make_slot(&server).await;
    let oid = server.value("SELECT 't'::regclass::oid").await.parse().expect("oid");
    let (mut source, retries) = (wal::open(&server).await, Retries::default());
    source.expect(Marks::default(), retries.clone());
    let client = server.client().await;
    let sessions = "SELECT string_agg(pid::text, ',') FROM pg_stat_activity \
                    WHERE application_name = 'kasho retry'";
    let (mut seen, begun): (Vec<String>, _) = (Vec::new(), Instant::now());
    // 14 has no row filters: there the row itself goes, unseen by the stream.
    let gone = match server.version().await {
        ..15 => "ALTER PUBLICATION p SET (publish = 'insert'); DELETE FROM t",
        _ => "ALTER PUBLICATION p SET TABLE t WHERE (id > 7), other",
    };
    for (word, change) in [
        ("first", "SELECT 1"),
        ("second", "ALTER TABLE t ADD COLUMN w text DEFAULT 'new'"),
        ("third", gone),
        ("fourth", "ALTER PUBLICATION p SET TABLE other"),
    ] {
        for statement in change.split("; ") {
            server.sql(statement).await;
        }
        if word == "second" {
            // The stream has to have seen the table as it is.
            server.sql("UPDATE t SET v = 'uno'").await;
            assert_eq!(wal::rows(&mut source, 1).await, ["1 update public.t  -> (1,uno,new)"]);
        }
        announced(&retries, word, oid, "1");
        emit_message(&client, RETRY_PREFIX, word).await.expect("message");
        server.sql("INSERT INTO other SELECT count(*) FROM other").await;
        let count = if ["first", "second"].contains(&word) { 2 } else { 1 };
        let found = wal::rows(&mut source, count).await.remove(0);
        seen.push(format!("{found}; {}", server.value(sessions).await));
        match (word, retries.told(word)) {
            ("first" | "second", Some(Told::Read(_))) | ("third", Some(Told::Gone(_))) => {}
            ("fourth", Some(Told::Failed(why))) => assert!(why.contains("not published"), "{why}"),
            (_, told) => panic!("{word}: {told:?}"),
        }
    }
    assert!(seen[0].starts_with("0 insert public.t  -> (1,one);"), "{seen:?}");
    assert!(seen[1].starts_with("0 insert public.t  -> (1,uno,new);"), "{seen:?}");
    // One that nobody has needed for ten seconds is given up.
    if begun.elapsed() > Duration::from_secs(9) {
        return;
    }
    let by: Vec<&str> = seen.iter().map(|seen| seen.rsplit("; ").next().expect("pid")).collect();
    assert!(by[0] == by[1] && by[1] == by[2], "one session reads them all: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_delivered_by_one_at_a_time() {
    let it = Policies::start(ASIDE).await;
    it.world.bootstrap().await;
    it.insert(5, 5).await;
    it.settle().await;
    it.taken(&rules(ASIDE, CONSTANT)).await;
    // Whoever reads the row has to wait.
    let locker = it.world.pg.client().await;
    let retry = ["dead", "retry", "--all"];
    let (first, second) = loop {
        let lock = "BEGIN; LOCK TABLE people IN ACCESS EXCLUSIVE MODE";
        locker.batch_execute(lock).await.expect("lock");
        let second = async {
            reader_waits(&it.world.pg).await;
            let second = it.world.engine.run(&retry).await;
            locker.batch_execute("COMMIT").await.expect("commit");
            second
        };
        let (first, second) = tokio::join!(it.world.engine.run(&retry), second);
        // It waits for ten seconds, which may be over before the second one is.
        if !first.stdout.contains("did not answer within") {
            break (first, second);
        }
    };
    assert_eq!(second.code, 1);
    assert!(second.stdout.contains("is being delivered already"), "{}", second.stdout);
    assert!(first.success().stdout.contains(" published "));
    it.settle().await;
    let came = it.entries("changes").await;
    let came = came.iter().filter(|(_, data)| data["new"][0] == "row-5").count();
    assert_eq!((came, it.letters().await.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_of_two_rows_stays_while_one_of_them_is_lost() {
    let it = Policies::start(ASIDE).await;
    it.world.bootstrap().await;
    let secret = &it.secret;
    it.world.pg.sql("INSERT INTO people VALUES ('a', 'x@y')").await;
    it.world.pg.sql(&format!("UPDATE people SET id = 'b', email = '{secret}'")).await;
    it.settle().await;
    let letters = it.letters().await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    // The row that it is now passes; one that has the key of before fails, and nothing says
    // any more which row that is.
    it.world.pg.sql("UPDATE people SET email = 'b@c' WHERE id = 'b'").await;
    it.world.pg.sql("ALTER PUBLICATION kasho_pub SET (publish = 'update')").await;
    it.world.pg.sql(&format!("INSERT INTO people VALUES ('a', '{secret}')")).await;
    it.world.pg.sql("ALTER PUBLICATION kasho_pub SET (publish = 'insert, update, delete')").await;
    it.world.pg.sql("ALTER TABLE people DROP CONSTRAINT people_pkey").await;
    it.settle().await;
    let told = it.world.engine.run(&["dead", "retry", "--all"]).await;
    assert_eq!(told.code, 1, "{}{}", told.stdout, told.stderr);
    for words in [" failed ", "it failed once more", "nothing says which row it is"] {
        assert!(told.stdout.contains(words), "no {words:?} in {}", told.stdout);
    }
    assert_eq!(it.letters().await, letters, "it is there as it was");
    // Once that row is in order too, both come, and the letter goes.
    it.world.pg.sql("ALTER TABLE people ADD PRIMARY KEY (id)").await;
    it.world.pg.sql("UPDATE people SET email = 'a@b' WHERE id = 'a'").await;
    it.settle().await;
    it.retry_all().await;
    assert!(it.letters().await.is_empty());
}

/// Restarts the engine with room for so many letters.
async fn restart_with_room(it: &mut Policies, letters: u32, otherwise: &str) {
    it.world.engine.terminate().await;
    let World { pg, redis, engine } = &it.world;
    let few = text(pg, redis, engine.home().grpc_port(), &rules(ASIDE, otherwise));
    let few = few.replacen("[redis]", &format!("[redis]\ndead_letters = {letters}"), 1);
    engine.home().write_config(&few);
    it.world.engine.start_again();
    eventually("the stream to be open", async || {
        let (_, body) = get(it.world.engine.home().http_port(), "/metrics").await?;
        body.lines().any(|line| line == "kasho_stream_open 1").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_a_retry_says_so_at_once_and_a_mended_rule_makes_room() {
    let mut it = Policies::start(ASIDE).await;
    it.world.bootstrap().await;
    restart_with_room(&mut it, 2, ERROR).await;
    for n in 1..=2 {
        it.insert(n * 5, n * 5).await;
        let there = async || (it.letters().await.len() == n as usize).then_some(());
        eventually("a letter", there).await;
    }
    // Two more, in one step or in two.
    it.insert(11, 20).await;
    let paused = eventually("publishing to pause", async || {
        let status = it.world.try_status().await?;
        Some(status["paused"].as_str()?.to_owned()).filter(|paused| !paused.is_empty())
    })
    .await;
    for words in ["there are 2 dead letters", "adds ", "redis.dead_letters allows 2"] {
        assert!(paused.contains(words), "no {words:?} in {paused}");
    }
    let told = it.world.engine.run(&["dead", "retry", "--all"]).await;
    assert_eq!(told.code, 1, "{}", told.stdout);
    for words in ["nothing is published at the moment", "redis.dead_letters", "dead forget"] {
        assert!(told.stderr.contains(words), "no {words:?} in {}", told.stderr);
    }
    // What the text says beside letting go of letters.
    restart_with_room(&mut it, 2, CONSTANT).await;
    it.settle().await;
    assert_eq!(it.letters().await.len(), 2);
    it.retry_all().await;
    let rows: Vec<String> = (11..=20).chain([5, 10]).map(|n| format!("row-{n}")).collect();
    let mut came = BTreeMap::new();
    for (_, data) in it.entries("changes").await {
        if let Some(id) = data["new"][0].as_str().filter(|id| id.starts_with("row-")) {
            *came.entry(id.to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!(came, rows.into_iter().map(|id| (id, 1)).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_loaded_again_has_one_letter_a_row() {
    let it = Policies::start(ASIDE).await;
    it.insert(1, 50).await;
    it.world.bootstrap().await;
    it.insert(51, 60).await;
    it.settle().await;
    assert_eq!(it.letters().await.len(), 12);
    it.world.engine.run(&["bootstrap", "--table", "people"]).await.success();
    it.insert(61, 65).await;
    it.settle().await;
    let mut expected: Vec<String> = (1..=13).map(|n| format!("row-{}", n * 5)).collect();
    expected.sort();
    assert_eq!(it.sealed_ids().await, expected);
    let read = it.letters().await.iter().filter(|letter| letter["op"] == "read").count();
    assert_eq!(read, 12, "the rows that were there, as they were loaded again");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_letters_cost_few_sessions() {
    let it = Policies::start(ASIDE).await;
    it.insert(1, 2_000).await;
    it.world.bootstrap().await;
    it.taken(&rules(ASIDE, CONSTANT)).await;
    let sessions = "SELECT sum(sessions) FROM pg_stat_database WHERE datname = current_database()";
    let before: u64 = it.world.pg.value(sessions).await.parse().expect("a number");
    let told = it.retry_all().await;
    assert_eq!(told.lines().filter(|line| line.contains(" published ")).count(), 400);
    let after: u64 = it.world.pg.value(sessions).await.parse().expect("a number");
    assert!(after - before < 400, "{} sessions for 400 letters", after - before);
    assert!(it.letters().await.is_empty());
}

const ENDED: &str = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                     WHERE application_name LIKE 'kasho holder%'";

/// The stored phase.
async fn phase(world: &World) -> String {
    world.redis.try_command(&["GET", "{kasho}:state"]).await.expect("state")
}

async fn loaded(world: &World) {
    eventually("the load to finish", async || {
        (world.try_status().await?["load"]["finished"] == true).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_goes_on_although_nobody_heard_of_its_later_snapshot() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    let proxy = Proxy::start(redis.port()).await;
    pg.sql(LEDGER).await;
    pg.sql("CREATE TABLE writes (id int PRIMARY KEY)").await;
    fill(&pg, 1, 20_000).await;
    let builder = Engine::builder();
    // Much of it has to be left when the engine is killed.
    let slow = "[bootstrap]\nworkers = 1\nmax_rate = \"50KiB\"\n";
    let text =
        config(&pg.url(), &redis.url_through(proxy.port()), builder.home().grpc_port(), slow);
    let mut world = World { engine: builder.config(&text).start(), pg, redis };
    world.until_state("WAITING").await;
    world.begin_bootstrap().await;
    eventually("some rows", async || (world.entries("bootstrap").await > 0).then_some(())).await;
    // No later snapshot is made before this transaction has ended.
    let writer = world.pg.client().await;
    writer.batch_execute("BEGIN; INSERT INTO writes VALUES (1)").await.expect("write");
    world.engine.kill9().await;
    world.pg.sql(ENDED).await;
    world.engine.home().write_config(&text.replacen("max_rate = \"50KiB\"\n", "", 1));
    world.engine.start_again();
    eventually("the phase to name no holder", async || {
        (!phase(&world).await.contains("\"holder\":\"")).then_some(())
    })
    .await;
    // It is stored whose the later one is; nobody hears that, and nobody gets through.
    proxy.lose_reply_to("\"holder\":\"", true);
    writer.batch_execute("COMMIT").await.expect("commit");
    proxy.lost().await;
    world.engine.wait_for("the later snapshot is not used").await;
    proxy.set(Fault::None);
    loaded(&world).await;
    world.bootstrap().await;
    world.check_ledger(20_001).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_end_of_a_load_does_not_wait_for_readers() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    let small = "[redis.budget]\nbootstrap = \"1MiB\"\n";
    let mut world = World::with(pg, redis, 60_000, small).await;
    world.begin_bootstrap().await;
    let paused = async || {
        let status = world.try_status().await?;
        status["paused"].as_str()?.contains("the bootstrap stream takes").then_some(())
    };
    eventually("the load to wait for a reader", paused).await;
    // The snapshot dies too: what is loaded has to be emptied, and is told so in the stream.
    world.engine.kill9().await;
    world.pg.sql(ENDED).await;
    world.engine.start_again();
    world.until_state("ACCUMULATING").await;
    eventually("a later snapshot", async || {
        let phase = phase(&world).await;
        (phase.contains("\"holder\":\"") && phase.contains("\"attempt\":2")).then_some(())
    })
    .await;
    let forced = ask(&world, "CompleteBootstrap", r#"{"force": true}"#).await;
    assert_eq!(forced["currentState"], "STREAMING");
    // And the engine answers.
    let aborted = call(&world, "AbortBootstrap", r#"{"force": true}"#, "0").await;
    aborted.success();
    world.until_state("WAITING").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loader_that_waits_is_seen_in_the_metrics() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    let world = World::with(pg, redis, 60_000, "[redis.budget]\nbootstrap = \"1MiB\"\n").await;
    ask(&world, "StartBootstrap", r#"{"load": "LOAD_EXTERNAL"}"#).await;
    let mut dump = world.pg.tool("pg_dump");
    let file = world.engine.home().path().join("dump.sql");
    dump.args(["--data-only", "--file"]).arg(&file).arg(world.pg.socket_url());
    Output::of(dump, "").await.success();
    let loader = world.engine.spawn(&["bootstrap-sync", "--dump-file", "dump.sql"]);
    eventually("the metrics to say that it waits", async || {
        let (_, body) = get(world.engine.home().http_port(), "/metrics").await?;
        let says = |line: &str| body.lines().any(|found| found == line);
        says("kasho_paused{stream=\"bootstrap\"} 1").then_some(())
    })
    .await;
    assert!(loader.exited().is_none());
}

//! Load points on real servers: whatever dies while tables are loaded, finished tables are
//! not loaded again, and what a reader builds by the documented rules is the source, row
//! for row. The reader is a Python program that shares no code with the engine; a writer
//! inserts, updates, deletes, changes keys and leaves TOASTed values alone all the while.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kasho::source::conninfo::Conninfo;
use kasho::source::snapshot::hold_temporary;
use kasho::source::wal::SlotName;
use rand_like::Dice;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

use crate::harness::{Engine, Postgres, Redis, eventually, python};
use crate::world::{World, config, end_holders, fill};

/// Numbers that look random and come again with the same seed.
mod rand_like {
    /// xorshift64*.
    pub(super) struct Dice(pub(super) u64);

    impl Dice {
        pub(super) fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
        }
    }
}

/// A table of rows with a value that is TOASTed in some of them. Ids come from a sequence.
fn table(name: &str, rows: u64) -> String {
    format!(
        "CREATE TABLE {name} (id bigint PRIMARY KEY, a int, note text, big text); \
         ALTER TABLE {name} ALTER COLUMN big SET STORAGE EXTERNAL; \
         INSERT INTO {name} SELECT nextval('ids'), n, 'row ' || n, \
             CASE WHEN n % 50 = 0 THEN repeat(md5(n::text), 100) END FROM generate_series(1, {rows}) n;"
    )
}

/// Numbered tables `t1` to `t<count>`.
fn tables(count: usize, rows: u64) -> String {
    let all = (1..=count).map(|n| table(&format!("t{n}"), rows));
    format!("CREATE SEQUENCE ids; {}", all.collect::<String>())
}

/// Between two transactions of the writer: on a fast machine the tables would outgrow the
/// rate at which they are loaded.
const PAUSE: Duration = Duration::from_millis(3);

/// Writes to `t1`… all the time, whatever becomes of the server.
struct Churn {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// One small change of one table.
fn change(dice: &mut Dice, name: &str) -> String {
    let (n, from) = (dice.below(1_000_000), dice.below(200_000));
    let some = format!("(SELECT id FROM {name} WHERE id >= {from} ORDER BY id LIMIT 1)");
    match dice.below(6) {
        0 | 1 => format!(
            "INSERT INTO {name} (id, a, note, big) VALUES (nextval('ids'), {n}, 'new', \
             CASE WHEN {n} % 3 = 0 THEN repeat(md5('{n}'), 100) END);"
        ),
        2 => format!("UPDATE {name} SET a = {n} WHERE id = {some};"),
        3 => format!("UPDATE {name} SET id = nextval('ids'), note = 'moved' WHERE id = {some};"),
        4 => format!("DELETE FROM {name} WHERE id = {some};"),
        _ => format!("UPDATE {name} SET big = repeat(md5('{n}'), 120) WHERE id = {some};"),
    }
}

impl Churn {
    fn start(pg: &Postgres, count: usize) -> Churn {
        let (url, stop) = (pg.url(), Arc::new(AtomicBool::new(false)));
        let written = Arc::new(AtomicU64::new(0));
        let (asked, done) = (Arc::clone(&stop), Arc::clone(&written));
        let task = tokio::spawn(async move {
            let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
            while !asked.load(Ordering::Relaxed) {
                let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                let connection = tokio::spawn(connection);
                while !asked.load(Ordering::Relaxed) {
                    let changes = 1 + dice.below(4);
                    let all = (0..changes).map(|_| {
                        let name = format!("t{}", 1 + dice.below(count as u64));
                        change(&mut dice, &name)
                    });
                    let transaction = format!("BEGIN; {} COMMIT", all.collect::<String>());
                    // The server may be gone, or a table be altered under us.
                    if client.batch_execute(&transaction).await.is_err() {
                        break;
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                drop(client);
                let _ = connection.await;
            }
        });
        Churn { stop, written, task }
    }

    /// Waits until so many more transactions were committed.
    async fn more(&self, transactions: u64) {
        let goal = self.written.load(Ordering::Relaxed) + transactions;
        let reached = async || (self.written.load(Ordering::Relaxed) >= goal).then_some(());
        eventually("the writer", reached).await;
    }

    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("writer");
    }
}

/// Source, Redis and an engine that loads slowly, with a few tables.
async fn slow_world(tables: &str, more: &str) -> World {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql(tables).await;
    pg.sql("CREATE PUBLICATION kasho_pub FOR ALL TABLES").await;
    let builder = Engine::builder();
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), more);
    let engine = builder.config(&text).start();
    let world = World { pg, redis, engine };
    world.until_state("WAITING").await;
    world
}

/// The phase as it is stored.
async fn phase(world: &World) -> Value {
    let text: String = world.redis.try_command(&["GET", "{kasho}:state"]).await.expect("state");
    serde_json::from_str(&text).expect("JSON")
}

/// The attempt at every table that is finished, by the stored phase.
async fn finished(world: &World) -> BTreeMap<String, u64> {
    let phase = phase(world).await;
    let tables = phase["tables"].as_array().cloned().unwrap_or_default();
    let done = tables.iter().filter(|table| table["done"] == true);
    let entry =
        |t: &Value| (t["table"].as_str().unwrap().to_owned(), t["attempt"].as_u64().unwrap());
    done.map(entry).collect()
}

async fn until_loaded(world: &World) {
    eventually("the load to finish", async || {
        let status = world.try_status().await?;
        (status["load"]["finished"] == true).then_some(())
    })
    .await;
}

/// What the source holds, in the reader's words.
async fn source(pg: &Postgres, name: &str) -> String {
    let columns = format!(
        "SELECT string_agg(format('coalesce(%I::text, ''\\N'')', attname), ', ' ORDER BY attnum) \
         FROM pg_attribute WHERE attrelid = '{name}'::regclass AND attnum > 0 AND NOT attisdropped"
    );
    let columns = pg.value(&columns).await;
    let digest = format!(
        "SELECT count(*) || ' ' || md5(coalesce(string_agg(line, E'\\n' ORDER BY line COLLATE \"C\"), '')) \
         FROM (SELECT concat_ws('|', {columns}) AS line FROM {name}) AS lines"
    );
    format!("TABLE {name} {}", pg.value(&digest).await)
}

/// Waits until everything is published, then compares what the reader builds with the
/// source. Answers what else the reader says.
async fn check(world: &World, names: &[&str]) -> String {
    world.pg.sql("CREATE TABLE IF NOT EXISTS mark (id serial PRIMARY KEY)").await;
    let lsn = world.pg.value("SELECT pg_current_wal_insert_lsn() - '0/0'").await;
    let lsn: u64 = lsn.parse().expect("LSN");
    world.pg.sql("INSERT INTO mark DEFAULT VALUES").await;
    eventually("the stream to reach the end", async || {
        (world.newest().await?.0 > lsn).then_some(())
    })
    .await;
    let url = world.redis.url();
    let arguments: Vec<&str> =
        [url.as_str(), "1"].into_iter().chain(names.iter().copied()).collect();
    let output = python(include_str!("points.py"), &arguments).await;
    let told = output.stdout.clone();
    assert_eq!(output.code, 0, "{told}{}", output.stderr);
    for name in names.iter().map(|name| name.trim_start_matches('+')) {
        let expected = source(&world.pg, name).await;
        assert!(told.lines().any(|line| line == expected), "expected {expected}\n{told}");
    }
    told
}

fn names(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("public.t{n}")).collect()
}

/// How long the holder's keepers live.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Lives,
    Dies,
}

/// The engine is killed at ten moments of the load, and goes on each time. With a holder
/// that dies the server is restarted, or the holder's sessions are ended.
async fn kill_ten_times(holder: Holder) {
    // Slow enough that it cannot end meanwhile, however long a kill takes: over a minute in
    // all. Once nobody is killed any more it is not held up. Some tables are read in one piece,
    // others are begun anew.
    const TABLES: usize = 60;
    let load = "[bootstrap]\nworkers = 2\nrange_mib = 1\nmax_rate = \"70KiB\"\n";
    let mut world = slow_world(&tables(TABLES, 1_200), load).await;
    for table in (2..=TABLES).step_by(2) {
        world.pg.sql(&format!("DELETE FROM t{table} WHERE id > 900")).await;
    }
    let names = names(TABLES);
    let churn = Churn::start(&world.pg, TABLES);
    churn.more(50).await;
    world.begin_bootstrap().await;
    let mut dice = Dice(std::process::id().into());
    let mut known: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..10 {
        // A moment of its own each time: after so many more rows, and a little later.
        let (before, rows) = (world.entries("bootstrap").await, 1 + dice.below(2_000));
        eventually("rows to be loaded", async || {
            (world.entries("bootstrap").await >= before + rows).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(dice.below(100))).await;
        world.engine.kill9().await;
        churn.more(20).await;
        match (holder, round % 2) {
            (Holder::Lives, _) => {}
            (Holder::Dies, 0) => end_holders(&world.pg).await,
            (Holder::Dies, _) => world.pg.restart("immediate").await,
        }
        let now = finished(&world).await;
        for (table, attempt) in &known {
            assert_eq!(now.get(table), Some(attempt), "{table} was finished and is begun again");
        }
        known = now;
        if round == 9 {
            world.configure("[bootstrap]\nworkers = 2\nrange_mib = 1\n");
        }
        world.engine.start_again();
        world.until_state("ACCUMULATING").await;
    }
    assert!(known.len() > 1 && known.len() < TABLES, "{known:?}");
    until_loaded(&world).await;
    let last = finished(&world).await;
    for (table, attempt) in &known {
        assert_eq!(last.get(table), Some(attempt), "{table} was finished and is begun again");
    }
    world.bootstrap().await;
    churn.more(50).await;
    churn.finish().await;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let told = check(&world, &names).await;
    let restarts = told.lines().find(|line| line.starts_with("RESTARTS")).expect("told");
    eprintln!("{} finished at the last kill; {told}", known.len());
    match holder {
        Holder::Lives => assert_eq!(restarts.trim(), "RESTARTS", "{told}"),
        Holder::Dies => assert_ne!(restarts.trim(), "RESTARTS", "nothing was begun again: {told}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_kills_of_a_load_whose_holder_lives() {
    kill_ten_times(Holder::Lives).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_kills_of_a_load_whose_holder_dies_too() {
    kill_ten_times(Holder::Dies).await;
}

/// `kasho bootstrap --table …`, to its end.
async fn load_again(world: &World, tables: &[&str]) {
    let mut arguments = vec!["bootstrap"];
    tables.iter().for_each(|table| arguments.extend(["--table", table]));
    world.engine.run(&arguments).await.success();
}

/// Waits until nothing is being loaded again.
async fn until_done(world: &World) {
    let mut told = String::new();
    eventually("the tables to be loaded again", async || {
        let phase = phase(world).await;
        let reload = &phase["reload"];
        if reload.is_null() {
            return Some(());
        }
        let now = format!("{reload} {}", world.status().await);
        if now != told {
            // Shown if it comes to nothing.
            eprintln!("{now}");
            told = now;
        }
        None
    })
    .await;
}

/// Waits until tables that were put off are loaded too.
async fn until_put_off_are_loaded(world: &World) {
    eventually("the tables that were put off to be loaded", async || {
        let phase = phase(world).await;
        let idle = phase["state"] == "STREAMING" && phase["reload"].is_null();
        (idle && phase["later"].is_null()).then_some(())
    })
    .await;
}

/// The pauses before later snapshots, ms, in the order in which the engine tells them.
fn pauses(log: &str) -> Vec<u64> {
    let told = log.lines().filter(|line| line.contains("a later snapshot is about to be taken"));
    let pause =
        |line: &str| line.split("pause_ms=").nth(1)?.split_whitespace().next()?.parse().ok();
    told.map(|line| pause(line).expect(line)).collect()
}

const HOLDERS: &str = "FROM pg_stat_activity WHERE application_name LIKE 'kasho holder%'";

/// Waits until the load goes on at the snapshot of a holder that lives.
async fn until_held(world: &World) {
    eventually("a snapshot to be held", async || {
        let held = phase(world).await["holder"].is_string();
        let lives = world.pg.value(&format!("SELECT count(*) {HOLDERS}")).await != "0";
        (held && lives).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_lost_again_and_again_is_made_anew_at_growing_intervals() {
    let expected = [100, 200, 400, 800, 1600, 3200];
    let slow = "[bootstrap]\nworkers = 1\nrange_mib = 1\nmax_rate = \"200KiB\"\n";
    let mut world = slow_world(&tables(1, 100_000), slow).await;
    world.begin_bootstrap().await;
    let mut lost = Instant::now();
    for times in 1..=expected.len() {
        until_held(&world).await;
        lost = Instant::now();
        world.pg.sql(&format!("SELECT pg_terminate_backend(pid, 5000) {HOLDERS}")).await;
        eventually("the loss to be seen", async || {
            if pauses(&world.engine.log()).len() >= times {
                return Some(());
            }
            // Who stands at the snapshot already needs nobody who holds it.
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE application_name = 'kasho load'";
            world.pg.sql(end).await;
            None
        })
        .await;
    }
    until_held(&world).await;
    assert!(lost.elapsed() >= Duration::from_millis(3200), "the last pause was not kept");
    // It would begin anew after a table that is finished, and after a minute of peace.
    assert!(finished(&world).await.is_empty());
    assert_eq!(pauses(&world.engine.log()), expected);
    world.engine.kill9().await;
    world.configure("[bootstrap]\nworkers = 1\nrange_mib = 1\n");
    world.engine.start_again();
    until_loaded(&world).await;
    world.bootstrap().await;
    check(&world, &["public.t1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_loaded_again_while_changes_stream() {
    let fast = "[bootstrap]\nworkers = 2\nrange_mib = 1\n";
    let mut world = slow_world(&tables(4, 4_000), fast).await;
    let churn = Churn::start(&world.pg, 4);
    world.bootstrap().await;
    churn.more(50).await;
    load_again(&world, &["public.t1"]).await;
    // A message of our prefix that the engine has not announced is nothing.
    world.pg.sql("SELECT pg_logical_emit_message(false, 'kasho.reload', 'forged')").await;
    churn.more(50).await;
    // Two at once, and whatever can die does: the engine, and then the holder too. As slow as
    // that it cannot end before.
    assert!(world.engine.terminate().await.success());
    world.configure(&format!("{fast}max_rate = \"40KiB\"\n"));
    world.engine.start_again();
    world.until_state("STREAMING").await;
    let asked = ["bootstrap", "--table", "t2", "--table", "public.t3"];
    tokio::select! {
        _ = world.engine.run(&asked) => panic!("it was loaded before anything could die"),
        () = eventually("the reload", async || {
            (!phase(&world).await["reload"].is_null()).then_some(())
        }) => {}
    }
    let refused = world.engine.run(&["bootstrap", "--table", "t4"]).await;
    assert!(refused.code != 0 && refused.stderr.contains("public.t2, public.t3"), "{refused:?}");
    let mut dice = Dice(std::process::id().into());
    for round in 0..4 {
        let (before, rows) = (world.entries("bootstrap").await, dice.below(1_500));
        eventually("rows to be loaded", async || {
            let done = phase(&world).await["reload"].is_null();
            (done || world.entries("bootstrap").await >= before + rows).then_some(())
        })
        .await;
        world.engine.kill9().await;
        churn.more(20).await;
        match round {
            1 => world.pg.restart("immediate").await,
            2 => end_holders(&world.pg).await,
            3 => world.configure(fast),
            _ => {}
        }
        world.engine.start_again();
        world.until_state("STREAMING").await;
    }
    until_done(&world).await;
    churn.more(50).await;
    churn.finish().await;
    let all = ["public.t1", "public.t2", "public.t3", "public.t4"];
    let told = check(&world, &all).await;
    assert!(told.contains("sections 2 "), "{told}");
    // That of a later snapshot goes when the server sees that its session has gone.
    eventually("one slot", async || {
        let slots = world.pg.value("SELECT count(*) FROM pg_replication_slots").await;
        (slots == "1").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_joins_the_publication_is_named_and_can_be_loaded() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql(&tables(2, 500)).await;
    pg.sql("CREATE PUBLICATION kasho_pub FOR TABLE t1").await;
    let builder = Engine::builder();
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), "");
    let engine = builder.config(&text).start();
    let world = World { pg, redis, engine };
    world.until_state("WAITING").await;
    world.bootstrap().await;
    let refused = world.engine.run(&["bootstrap", "--table", "public.t2"]).await;
    assert!(refused.code != 0 && refused.stderr.contains("ADD TABLE"), "{refused:?}");
    let churn = Churn::start(&world.pg, 2);
    churn.more(50).await;
    world
        .pg
        .sql(
            "ALTER PUBLICATION kasho_pub ADD TABLE t2; CREATE TABLE mark (id serial PRIMARY KEY); \
                  ALTER PUBLICATION kasho_pub ADD TABLE mark",
        )
        .await;
    churn.more(50).await;
    let status = eventually("the status to name it", async || {
        let status = world.try_status().await?;
        let named = status["not_loaded"].as_array()?.iter().any(|name| name == "public.t2");
        named.then_some(status)
    })
    .await;
    assert!(!status["not_loaded"].as_array().unwrap().contains(&"public.t1".into()), "{status}");
    let told = world.engine.run(&["status"]).await.success().stdout;
    assert!(told.contains("kasho bootstrap --table public.t2"), "{told}");
    load_again(&world, &["public.t2"]).await;
    churn.more(50).await;
    churn.finish().await;
    check(&world, &["public.t1", "+public.t2"]).await;
    let status = world.status().await;
    assert!(!status["not_loaded"].as_array().unwrap().contains(&"public.t2".into()), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_altered_between_two_load_points_is_loaded_again() {
    let slow = "[bootstrap]\nworkers = 1\nrange_mib = 1\nmax_rate = \"30KiB\"\n";
    let mut world = slow_world(&tables(6, 2_000), slow).await;
    let churn = Churn::start(&world.pg, 6);
    world.begin_bootstrap().await;
    let done = eventually("two tables to be finished", async || {
        let done = finished(&world).await;
        (done.len() >= 2).then_some(done)
    })
    .await;
    assert!(done.len() < 5, "too fast to show anything");
    world.engine.kill9().await;
    end_holders(&world.pg).await;
    let mut finished_ones = done.keys();
    let (added, typed) = (finished_ones.next().unwrap(), finished_ones.next().unwrap());
    let open = names(6).into_iter().find(|name| !done.contains_key(name)).unwrap();
    world.pg.sql(&format!("ALTER TABLE {added} ADD COLUMN extra text DEFAULT 'x'")).await;
    world.pg.sql(&format!("ALTER TABLE {typed} ALTER COLUMN a TYPE bigint")).await;
    world.pg.sql(&format!("ALTER TABLE {open} ADD COLUMN extra text DEFAULT 'y'")).await;
    churn.more(20).await;
    world.configure("[bootstrap]\nworkers = 1\nrange_mib = 1\n");
    world.engine.start_again();
    until_loaded(&world).await;
    let after = finished(&world).await;
    for (name, attempt) in &done {
        let altered = [added, typed].contains(&name);
        assert_eq!(after[name] > *attempt, altered, "{name}: {done:?} {after:?}");
    }
    let log = world.engine.log();
    assert!(log.contains("made, altered, renamed or dropped since its load was planned"), "{log}");
    assert_eq!(phase(&world).await["later"].as_array().unwrap().len(), 3);
    world.bootstrap().await;
    until_put_off_are_loaded(&world).await;
    churn.more(20).await;
    churn.finish().await;
    let names = names(6);
    check(&world, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_altered_between_snapshot_and_copy_has_its_rows_all_the_same() {
    let world = slow_world(&tables(3, 1_000), "").await;
    let churn = Churn::start(&world.pg, 3);
    let (told, given) = tokio::sync::oneshot::channel();
    let info = Conninfo::parse(&world.pg.url()).unwrap();
    let temporary = tokio::spawn(async move {
        let slot = SlotName::new("kasho_temp_slot").unwrap();
        hold_temporary(&info, &slot, |lsn, name| told.send((lsn, name.to_owned())).unwrap()).await
    });
    let (lsn, name) = given.await.unwrap();
    world.pg.sql("ALTER TABLE t1 ALTER COLUMN a TYPE bigint").await;
    world.pg.sql("ALTER TABLE t2 ADD COLUMN extra text DEFAULT 'x'").await;
    churn.more(20).await;
    let request =
        format!(r#"{{"start_lsn": "{lsn}", "snapshot_name": "{name}", "load": "LOAD_DIRECT"}}"#);
    let address = format!("127.0.0.1:{}", world.engine.home().grpc_port());
    let arguments = [&address, "kasho.ChangeStreamService/StartBootstrap", &request, "0"];
    python(include_str!("grpcurl.py"), &arguments).await.success();
    temporary.abort();
    until_loaded(&world).await;
    assert_eq!(phase(&world).await["later"].as_array().unwrap().len(), 2);
    world.bootstrap().await;
    until_put_off_are_loaded(&world).await;
    churn.more(20).await;
    churn.finish().await;
    let told = check(&world, &["public.t1", "public.t2", "public.t3"]).await;
    assert!(!told.contains("skipped 0 "), "nothing lay below a load point: {told}");
}

/// Kind and key of every change after `position`, and where each stands.
async fn changes(world: &World, position: &str, count: usize) -> Vec<(String, String)> {
    let request = format!(r#"{{"position": "{position}"}}"#);
    let address = format!("127.0.0.1:{}", world.engine.home().grpc_port());
    let (method, count) = ("kasho.ChangeStreamService/Stream", count.to_string());
    let arguments = [&address, method, &request, &count];
    let output = python(include_str!("grpcurl.py"), &arguments).await.success();
    let change = |line: &str| {
        let change: Value = serde_json::from_str(line).expect("JSON");
        let dml = &change["dml"];
        let key = dml["columnValues"][0]["intValue"].as_str().unwrap_or("");
        let what = format!("{} {key}", dml["kind"].as_str().expect("kind"));
        (what.trim().to_owned(), change["position"].as_str().expect("position").to_owned())
    };
    output.stdout.lines().map(change).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_original_sees_a_truncate_and_the_rows_again() {
    let world = World::start(3).await;
    world.bootstrap().await;
    fill(&world.pg, 4, 5).await;
    load_again(&world, &["ledger"]).await;
    fill(&world.pg, 6, 6).await;
    let expected = [
        "insert 1", "insert 2", "insert 3", "insert 4", "insert 5", "truncate", "truncate",
        "insert 1", "insert 2", "insert 3", "insert 4", "insert 5", "insert 6",
    ];
    let seen = changes(&world, "bootstrap", expected.len()).await;
    let kinds = |seen: &[(String, String)]| -> Vec<String> {
        seen.iter().map(|(what, _)| what.clone()).collect()
    };
    assert_eq!(kinds(&seen), expected);
    // From every position on the way it goes on with what comes next.
    for (at, (_, position)) in seen.iter().enumerate().take(expected.len() - 1) {
        let rest = changes(&world, position, expected.len() - at - 1).await;
        assert_eq!(kinds(&rest), expected[at + 1..], "after {position}");
    }
}

/// As [`slow_world`], and PostgreSQL is told late what is published: what Redis loses of the
/// changes comes again.
async fn late_world(count: usize, more: &str) -> World {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql(&tables(count, 2_000)).await;
    pg.sql("CREATE PUBLICATION kasho_pub FOR ALL TABLES").await;
    let builder = Engine::builder();
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), more);
    let late = "[redis]\nack_lag_ms = 600000\nack_lag_bytes = \"4GiB\"";
    let engine = builder.config(&text.replacen("[redis]", late, 1)).start();
    let world = World { pg, redis, engine };
    world.until_state("WAITING").await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_forgets_that_a_table_is_loaded_again() {
    let slow = "[bootstrap]\nworkers = 1\nrange_mib = 1\nmax_rate = \"50KiB\"\n";
    let mut world = late_world(2, slow).await;
    let churn = Churn::start(&world.pg, 2);
    world.bootstrap().await;
    churn.more(20).await;
    let _: String = world.redis.command(&["SAVE"]).await;
    let before = world.entries("bootstrap").await;
    tokio::select! {
        _ = world.engine.run(&["bootstrap", "--table", "t1"]) => panic!("it was loaded too soon"),
        () = eventually("rows of the table", async || {
            (world.entries("bootstrap").await > before + 100).then_some(())
        }) => {}
    }
    world.redis.kill9().await;
    churn.more(20).await;
    world.redis.start_again().await;
    eventually("the load to begin anew", async || {
        let log = world.engine.log();
        let forgot = log.contains("Redis has lost its last writes");
        (forgot && world.entries("bootstrap").await > before).then_some(())
    })
    .await;
    until_done(&world).await;
    churn.more(20).await;
    churn.finish().await;
    let told = check(&world, &["public.t1", "public.t2"]).await;
    assert!(told.contains("sections 1 "), "{told}");
}

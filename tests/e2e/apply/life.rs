//! Starting, being killed, being taken over from, ending.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Site, rows};
use crate::harness::{Process, eventually};

const LEDGER: &str = "CREATE TABLE ledger (id bigint PRIMARY KEY, n int, big text);
    ALTER TABLE ledger ALTER COLUMN big SET STORAGE EXTERNAL;
    CREATE TABLE twice (id bigint, n int); ALTER TABLE twice REPLICA IDENTITY FULL;";

/// Writes to both tables in transactions of several kinds, until it is ended.
struct Churn {
    stop: Arc<AtomicBool>,
    writer: tokio::task::JoinHandle<()>,
}

impl Churn {
    async fn start(site: &Site) -> Churn {
        let client = site.pg().client().await;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let writer = tokio::spawn(async move {
            for n in 0u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let id = n * 7 + 1_000_000;
                let some = (n * 7919) % 4_000;
                let sql = format!(
                    "BEGIN; INSERT INTO ledger VALUES ({id}, 0, CASE WHEN {n} % 4 = 0 THEN repeat('x', 4000) END); \
                     UPDATE ledger SET n = n + 1 WHERE id IN ({some}, {some} + 1, {some} + 2); \
                     INSERT INTO twice VALUES ({n}, 1), ({n}, 1); \
                     DELETE FROM twice WHERE ctid = (SELECT min(ctid) FROM twice WHERE id = {n} - 3); \
                     UPDATE ledger SET id = -id WHERE id = {id} AND {n} % 3 = 0; \
                     DELETE FROM ledger WHERE id = {some} + 3; COMMIT"
                );
                client.batch_execute(&sql).await.expect("the writer");
                tokio::time::sleep(std::time::Duration::from_millis(8)).await;
            }
        });
        Churn { stop, writer }
    }

    /// Once its last transaction is over.
    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.await.expect("the writer");
    }
}

const ROWS: &str =
    "INSERT INTO ledger SELECT n, 0, repeat(md5(n::text), 30) FROM generate_series(1, 30000) n;
    INSERT INTO twice SELECT n, 1 FROM generate_series(1, 3000) n";

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_moment_loses_and_repeats_nothing() {
    let site = Site::start(LEDGER, ROWS, "", "").await;
    let churn = Churn::start(&site).await;
    site.world.begin_bootstrap().await;
    // In the load.
    for part in [1_000u64, 8_000, 16_000] {
        let applier = site.applier();
        eventually("a part of the load", async || {
            let count = site.target.value("SELECT count(*) FROM ledger").await;
            (count.parse::<u64>().ok()? >= part).then_some(())
        })
        .await;
        applier.kill9().await;
    }
    site.world.bootstrap().await;
    // In the changes.
    for round in 0u64..12 {
        let applier = site.applier();
        let before = site.position().await;
        if round % 3 > 0 {
            eventually("the position to move", async || {
                (site.position().await != before).then_some(())
            })
            .await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(37 * (round % 5))).await;
        applier.kill9().await;
    }
    churn.end().await;
    let applier = site.applier();
    site.settle().await;
    site.same(&["ledger", "twice"]).await;
    assert!(Site::end(&applier).await.success());
    // What it ended with is acknowledged.
    let told = site.world.engine.run(&["consumers", "list"]).await.success().stdout;
    let position = site.position().await;
    assert!(told.contains(&position), "{told} {position}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_loaded_again_while_changes_go_on() {
    let site = Site::start(LEDGER, ROWS, "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    let churn = Churn::start(&site).await;
    site.settle().await;
    // What is wrong in the target goes with the table's rows.
    site.target.sql("INSERT INTO ledger VALUES (-77, 1, 'stray')").await;
    let again = ["bootstrap", "--yes", "--table", "public.ledger"];
    site.world.engine.run(&again).await.success();
    applier.kill9().await;
    let applier = site.applier();
    site.world.engine.run(&again).await.success();
    churn.end().await;
    site.settle().await;
    site.same(&["ledger", "twice"]).await;
    assert!(Site::end(&applier).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_bootstrap_empties_what_the_one_before_has_left() {
    let site = Site::start(LEDGER, ROWS, "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    site.world.engine.run(&["reset", "--yes"]).await.success();
    site.pg().sql("TRUNCATE twice; DELETE FROM ledger WHERE id > 100").await;
    site.world.until_state("WAITING").await;
    site.world.bootstrap().await;
    site.settle().await;
    site.same(&["ledger", "twice"]).await;
    let epoch = site.target.value("SELECT epoch FROM kasho.applied WHERE relation = ''").await;
    assert_eq!(epoch, "2");
    assert!(Site::end(&applier).await.success());
}

/// Its load has no row that would show that there was one.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_empty_leaves_nothing_of_the_bootstrap_before() {
    let site = Site::start(LEDGER, ROWS, "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    site.world.engine.run(&["reset", "--yes"]).await.success();
    site.pg().sql("TRUNCATE twice, ledger, mark").await;
    site.world.until_state("WAITING").await;
    site.world.bootstrap().await;
    // Another number than those of before.
    site.pg().sql("INSERT INTO mark VALUES (1000)").await;
    site.settle().await;
    site.same(&["ledger", "twice", "mark"]).await;
    assert_eq!(site.target.value("SELECT count(*) FROM ledger").await, "0");
    assert!(Site::end(&applier).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_without_data_leaves_what_is_there_to_later_sections_too() {
    let site = Site::start(LEDGER, ROWS, "", "").await;
    site.world.bootstrap().await;
    let applier = site.applier();
    site.settle().await;
    site.world.engine.run(&["reset", "--yes"]).await.success();
    site.world.until_state("WAITING").await;
    site.world.engine.run(&["bootstrap", "--yes", "--no-initial-data"]).await.success();
    site.settle().await;
    let again = ["bootstrap", "--yes", "--table", "public.twice"];
    site.world.engine.run(&again).await.success();
    site.settle().await;
    site.same(&["ledger", "twice"]).await;
    assert!(Site::end(&applier).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_again_at_a_mark_reads_its_section() {
    let site = Site::start(LEDGER, ROWS, "", "").await;
    site.world.bootstrap().await;
    site.catch_up().await.success();
    let again = ["bootstrap", "--yes", "--table", "public.ledger"];
    site.world.engine.run(&again).await.success();
    let changes = async || {
        let words = ["XRANGE", "{kasho}:1:changes", "-", "+"];
        let found: Vec<(String, Vec<redis::Value>)> = site.world.redis.command(&words).await;
        found
    };
    let said = |words: &[redis::Value], what: &[u8]| {
        words.iter().any(|word| matches!(word, redis::Value::BulkString(text) if text == what))
    };
    let mark = changes().await.into_iter().find(|(_, words)| said(words, b"restart"));
    let mark = mark.expect("a mark").0;
    let (high, _) = mark.split_once('-').expect("an id");
    let lsn = site.pg().value(&format!("SELECT '0/0'::pg_lsn + {high}::numeric")).await;
    site.world.engine.run(&["apply", "--until", &format!("e1:{lsn}:0")]).await.success();
    assert_eq!(site.position().await, format!("{lsn}:0"));
    assert_eq!(site.target.value("SELECT count(*) FROM ledger").await, "0");
    // Transactions behind it, and everything that is acknowledged goes.
    eventually("what comes before the mark to be trimmed", async || {
        site.pg().sql("INSERT INTO mark SELECT count(*) FROM mark").await;
        (changes().await.first()?.0 >= mark).then_some(())
    })
    .await;
    let applier = site.applier();
    site.settle().await;
    site.same(&["ledger", "twice"]).await;
    assert!(Site::end(&applier).await.success());
}

/// What was reached in the epoch before is nothing in this one, of which nothing is there yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_bootstrap_is_read_from_its_beginning() {
    let site = Site::start(LEDGER, ROWS, "", "").await;
    site.world.bootstrap().await;
    site.world.engine.run(&["apply", "--until-loaded"]).await.success();
    assert_eq!(site.position().await, "bootstrap:33001");
    site.world.engine.terminate().await;
    let _: u64 = site.world.redis.command(&["HSET", "{kasho}:checkpoint", "epoch", "2"]).await;
    let applier = site.applier();
    applier.wait_for("reading from=e2:bootstrap:0").await;
    assert!(Site::end(&applier).await.success());
    assert_eq!(site.position().await, "bootstrap:0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_waits_and_takes_over_and_who_was_taken_over_changes_nothing() {
    let site = Site::start(LEDGER, "", "", "").await;
    let first = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    let second = site.applier();
    second.wait_for("standing by").await;
    first.signal("STOP");
    site.target
        .sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
        .await;
    second.wait_for("reading").await;
    site.pg().sql("INSERT INTO ledger SELECT generate_series(1, 500), 1").await;
    site.settle().await;
    first.signal("CONT");
    site.pg().sql("UPDATE ledger SET n = n + 1").await;
    site.settle().await;
    site.same(&["ledger"]).await;
    // Whatever it notices first.
    eventually("the first one to notice", async || {
        let said = first.lines().join("\n");
        (said.contains("has taken over") || said.contains("standing by")).then_some(())
    })
    .await;
    site.pg().sql("UPDATE ledger SET n = n + 1").await;
    site.settle().await;
    site.same(&["ledger"]).await;
    assert!(Site::end(&second).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_writers_token_fences_an_applier_off() {
    let site = Site::start(LEDGER, "", "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    let before = site.position().await;
    site.target.sql("UPDATE kasho.applied SET writer = 'another'").await;
    site.pg().sql("INSERT INTO ledger VALUES (1, 1)").await;
    assert_eq!(applier.wait_exit().await.code(), Some(1));
    applier.wait_for("has taken over as consumer \"apply\"").await;
    assert_eq!(site.position().await, before);
    assert!(rows(&site.target, "ledger").await.is_empty());
}

/// A process that was frozen meanwhile may come to the rows before it hears of its lock.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_taken_over_takes_the_others_rows_for_no_conflict() {
    let site = Site::start(LEDGER, "", "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    site.target.sql("UPDATE kasho.applied SET writer = 'another'").await;
    site.target.sql("INSERT INTO ledger VALUES (1, 1)").await;
    site.pg().sql("INSERT INTO ledger VALUES (1, 1)").await;
    assert_eq!(applier.wait_exit().await.code(), Some(1));
    applier.wait_for("has taken over as consumer \"apply\"").await;
    assert!(!applier.lines().join("\n").contains("SQLSTATE 23505"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_although_a_statement_waits_for_a_lock() {
    let site = Site::start(LEDGER, "", "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    let holder = site.target.client().await;
    holder.batch_execute("BEGIN; LOCK TABLE ledger").await.expect("a lock");
    site.pg().sql("INSERT INTO ledger VALUES (1, 1)").await;
    let waits = "SELECT count(*) FROM pg_stat_activity \
                 WHERE application_name = 'kasho apply' AND wait_event_type = 'Lock'";
    let until = async |count: &str| {
        eventually("the sessions that wait", async || {
            (site.target.value(waits).await == count).then_some(())
        })
        .await;
    };
    until("1").await;
    assert!(Site::end(&applier).await.success());
    // Nobody is left there to wait for the lock.
    until("0").await;
    holder.batch_execute("ROLLBACK").await.expect("no lock");
    let applier = site.applier();
    site.settle().await;
    site.same(&["ledger"]).await;
    assert!(Site::end(&applier).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_restarts_is_waited_for() {
    let mut site = Site::start(LEDGER, ROWS, "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    let churn = Churn::start(&site).await;
    for mode in ["fast", "immediate"] {
        site.target.restart(mode).await;
        site.settle().await;
    }
    churn.end().await;
    site.settle().await;
    site.same(&["ledger", "twice"]).await;
    applier.wait_for("trying again").await;
    assert!(Site::end(&applier).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_lost_its_last_commits_gets_them_again() {
    // Commits are not waited for; what was not durable was not acknowledged either.
    let mut site = Site::start(LEDGER, ROWS, "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    let churn = Churn::start(&site).await;
    for _ in 0..3 {
        site.settle().await;
        site.target.kill9().await;
        site.target.start_again().await;
    }
    churn.end().await;
    site.settle().await;
    site.same(&["ledger", "twice"]).await;
    assert!(Site::end(&applier).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_any_size_takes_no_more_memory() {
    let site = Site::start(LEDGER, "", "listen = \"127.0.0.1:0\"", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.pg()
        .sql("INSERT INTO ledger SELECT n, n, md5(n::text) FROM generate_series(1, 150000) n")
        .await;
    site.settle().await;
    site.pg().sql("UPDATE ledger SET n = n + 1").await;
    site.settle().await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", applier.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 100 << 10, "{kib} KiB at the most");
    site.same(&["ledger"]).await;
    assert!(Site::end(&applier).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_larger_than_redis_is_committed_in_parts_and_said_so() {
    let more = "[redis.budget]\nchanges = \"4MiB\"\n";
    let site = Site::start(LEDGER, "", "", "").await.again("", more).await;
    // The applier's own configuration says nothing of that budget.
    site.configure(&site.target.url(), "");
    site.world.until_state("WAITING").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    site.pg()
        .sql("INSERT INTO ledger SELECT n, n, repeat(md5(n::text), 20) FROM generate_series(1, 40000) n")
        .await;
    applier.wait_for("larger than Redis's budget").await;
    applier.kill9().await;
    let applier = site.applier();
    site.settle().await;
    site.same(&["ledger"]).await;
    assert!(Site::end(&applier).await.success());
}

/// Its rows are in those of a later snapshot, and there is no room for its end before somebody
/// has acknowledged its beginning.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_larger_than_redis_that_is_part_of_the_load_is_passed() {
    let more = "[redis.budget]\nchanges = \"1MiB\"\n";
    let site = Site::start(LEDGER, "", "", "").await.again("", more).await;
    site.configure(&site.target.url(), "");
    site.world.until_state("WAITING").await;
    let finished = async || {
        let status = site.world.try_status().await?;
        (status["load"]["finished"] == true).then_some(status)
    };
    site.world.begin_bootstrap().await;
    eventually("the load to finish", finished).await;
    site.pg()
        .sql("INSERT INTO ledger SELECT n, n, repeat(md5(n::text), 20) FROM generate_series(1, 20000) n")
        .await;
    eventually("the stream to wait for room", async || {
        let status = site.world.try_status().await?;
        status["paused"].as_str()?.contains("the changes stream takes").then_some(())
    })
    .await;
    site.world.engine.run(&["bootstrap", "--table", "ledger"]).await.success();
    let status = eventually("the load to finish", finished).await;
    assert!(status["load"]["rows"].as_u64() >= Some(20_000), "{status}");
    site.world.bootstrap().await;
    let applier = site.applier();
    site.settle().await;
    site.same(&["ledger"]).await;
    assert!(Site::end(&applier).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_where_it_was_told_to() {
    let site = Site::start(LEDGER, ROWS, "", "").await;
    site.world.bootstrap().await;
    let run = async |arguments: &[&str]| site.world.engine.run(arguments).await;
    run(&["apply", "--until-loaded"]).await.success();
    assert!(site.position().await.starts_with("bootstrap:"));
    site.pg().sql("INSERT INTO ledger VALUES (-1, 1)").await;
    let lsn = site.pg().value("SELECT pg_current_wal_insert_lsn()").await;
    // A position that no change has: it is passed when the engine has.
    site.pg().sql("INSERT INTO mark VALUES (-1)").await;
    run(&["apply", "--until", &lsn]).await.success();
    assert_eq!(site.target.value("SELECT count(*) FROM ledger WHERE id = -1").await, "1");
    let other = run(&["apply", "--until", &format!("e7:{lsn}")]).await;
    assert!(other.code == 1 && other.stderr.contains("another epoch"), "{}", other.stderr);
}

/// Sequences are the source's after the load, and again after a while.
#[tokio::test(flavor = "multi_thread")]
async fn sequences_follow() {
    let schema = "CREATE SEQUENCE \"Own\" INCREMENT -1 MAXVALUE 100 MINVALUE -1000 START 10; \
                  CREATE TABLE counted (id serial PRIMARY KEY, other int GENERATED ALWAYS AS IDENTITY)";
    let rows = "INSERT INTO counted SELECT FROM generate_series(1, 40); SELECT nextval('\"Own\"')";
    let site = Site::start(schema, rows, "", "").await;
    let listed = |text: &str| text.replace("sequences_ms = 0", "sequences_ms = 200");
    let section = listed(&Site::section(&site.target.url(), ""));
    site.world.configure(&section);
    let applier = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    let values =
        "SELECT string_agg(sequencename || '=' || last_value, ' ' ORDER BY 1) FROM pg_sequences";
    let agree = async || {
        eventually("sequences to agree", async || {
            (site.target.value(values).await == site.pg().value(values).await).then_some(())
        })
        .await;
    };
    agree().await;
    site.pg().sql("SELECT nextval('\"Own\"'), setval('counted_id_seq', 7)").await;
    agree().await;
    assert!(Site::end(&applier).await.success());
}

/// The name of the document.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_pg_translicator_too() {
    let site = Site::start("", "", "", "").await;
    site.world.bootstrap().await;
    site.pg().sql("INSERT INTO mark VALUES (5)").await;
    let script = "ln -sf \"$KASHO\" pg-translicator; exec ./pg-translicator";
    let applier: Process = site.world.engine.spawn_shell(script);
    site.settle().await;
    site.same(&["mark"]).await;
    assert!(Site::end(&applier).await.success());
}

/// Committed through any row of an entry of many: the rest of it comes, and nothing twice.
#[tokio::test(flavor = "multi_thread")]
async fn among_the_rows_of_an_entry_it_goes_on_with_the_next() {
    let schema = "CREATE TABLE ledger (id bigint PRIMARY KEY, note text)";
    let rows = "INSERT INTO ledger SELECT n, 'note ' || n FROM generate_series(1, 100) n";
    let site = Site::start(schema, rows, "", "").await;
    site.world.begin_bootstrap().await;
    eventually("the load", async || (site.world.entries("bootstrap").await == 100).then_some(()))
        .await;
    let entries: u64 = site.world.redis.command(&["XLEN", "{kasho}:1:bootstrap"]).await;
    assert_eq!(entries, 1, "all of them in one");
    // The applier as a whole may be behind the table.
    for (whole, table) in [(0, 0), (1, 1), (0, 37), (50, 98), (99, 99), (60, 100)] {
        if table > 0 {
            let rewind = format!(
                "DELETE FROM ledger WHERE id > {table}; \
                 UPDATE kasho.applied SET position = 'bootstrap:{whole}', \
                        run = CASE WHEN {whole} > 0 THEN run ELSE '' END WHERE relation = ''; \
                 UPDATE kasho.applied SET position = 'bootstrap:{table}' WHERE relation <> ''"
            );
            site.target.sql(&rewind).await;
        }
        let applier = site.applier();
        eventually(&format!("all of it after {whole} and {table}"), async || {
            let there = site.target.value("SELECT count(*) FROM ledger").await == "100";
            (there && site.position().await == "bootstrap:100").then_some(())
        })
        .await;
        applier.kill9().await;
        site.same(&["ledger"]).await;
    }
    site.world.bootstrap().await;
    site.pg().sql("INSERT INTO ledger VALUES (101, 'new')").await;
    site.published().await;
    site.catch_up().await.success();
    site.same(&["ledger"]).await;
}

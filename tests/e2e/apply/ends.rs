//! Ending by itself: with everything that was asked for committed, and also where changes never
//! pause.

use std::time::Duration;

use super::Site;
use super::schema::told;
use crate::harness::{Process, eventually};

const TABLES: &str = "CREATE TABLE ledger (id bigint PRIMARY KEY, n int);
    CREATE TABLE held (id int PRIMARY KEY);";

const ROWS: &str = "INSERT INTO ledger SELECT n, 0 FROM generate_series(1, 500) n";

/// Longer than the applier waits before it says that nothing more comes.
const PAUSE: Duration = Duration::from_millis(1_500);

impl Site {
    /// Through the load, with the engine and with the target.
    async fn loaded() -> Site {
        let site = Site::start(TABLES, ROWS, "", "").await;
        site.world.bootstrap().await;
        site.world.engine.run(&["apply", "--until-loaded"]).await.success();
        site
    }

    /// Starts an applier that meets a lock in the first change it takes, and returns once it has
    /// waited there for longer than it waits for another change.
    async fn stuck(&self, holder: &tokio_postgres::Client, arguments: &[&str]) -> Process {
        holder.batch_execute("BEGIN; LOCK TABLE held").await.expect("a lock");
        let applier = self.world.engine.spawn(&[&["apply"][..], arguments].concat());
        let waits = "SELECT count(*) FROM pg_stat_activity \
                     WHERE application_name = 'kasho apply' AND wait_event_type = 'Lock'";
        eventually("the applier to wait", async || {
            (self.target.value(waits).await == "1").then_some(())
        })
        .await;
        tokio::time::sleep(PAUSE).await;
        applier
    }
}

/// A session that writes a row now and then, and never pauses for as long as an applier waits.
struct Trickle(tokio::task::JoinHandle<()>);

impl Trickle {
    async fn start(site: &Site) -> Trickle {
        let client = site.pg().client().await;
        Trickle(tokio::spawn(async move {
            for id in 1_000.. {
                let insert = format!("INSERT INTO ledger VALUES ({id}, 1)");
                client.batch_execute(&insert).await.expect("insert");
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
        }))
    }
}

impl Drop for Trickle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_applied_while_nothing_more_came_is_committed_with_the_end() {
    let site = Site::loaded().await;
    // Both in one piece: the second one comes right behind the lock.
    site.pg().sql("TRUNCATE held").await;
    site.pg().sql("INSERT INTO ledger VALUES (-1, 1)").await;
    site.published().await;
    let holder = site.target.client().await;
    let applier = site.stuck(&holder, &["--until-caught-up"]).await;
    holder.batch_execute("ROLLBACK").await.expect("no lock");
    assert!(applier.wait_exit().await.success());
    site.same(&["ledger", "mark"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_while_it_applied_lies_before_the_end_too() {
    let site = Site::loaded().await;
    site.pg().sql("TRUNCATE held").await;
    let wanted = "SELECT pg_current_wal_insert_lsn() + 1000000";
    let wanted = site.pg().value(wanted).await;
    site.published().await;
    let holder = site.target.client().await;
    let applier = site.stuck(&holder, &["--until", &wanted]).await;
    // One that is asked for, and one behind.
    site.pg().sql("INSERT INTO ledger VALUES (-1, 1)").await;
    site.pg().sql("SELECT pg_logical_emit_message(false, '', repeat('x', 2000000))").await;
    site.pg().sql("INSERT INTO ledger VALUES (-2, 1)").await;
    site.published().await;
    holder.batch_execute("ROLLBACK").await.expect("no lock");
    assert!(applier.wait_exit().await.success());
    let found = "SELECT string_agg(id::text, ' ') FROM ledger WHERE id < 0";
    assert_eq!(site.target.value(found).await, "-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_changes_never_pause_it_ends_with_the_load_and_with_what_there_was() {
    let site = Site::loaded().await;
    let trickle = Trickle::start(&site).await;
    site.published().await;
    let run = async |until: &str| site.world.engine.run(&["apply", until]).await.success();
    // The load was applied before, and nothing else was asked for.
    run("--until-loaded").await;
    assert_eq!(site.position().await, "bootstrap:501");
    let there = site.pg().value("SELECT max(id) FROM ledger").await;
    site.published().await;
    run("--until-caught-up").await;
    let found = format!("SELECT count(*) FROM ledger WHERE id = {there}");
    assert_eq!(site.target.value(&found).await, "1");
    run("--until-loaded").await;
    drop(trickle);
    site.published().await;
    site.catch_up().await.success();
    site.same(&["ledger", "mark"]).await;
}

/// Nobody is there afterwards who would.
#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_was_made_meanwhile_is_set_with_the_end() {
    let site = Site::loaded().await;
    let section = Site::section(&site.target.url(), "");
    site.world.configure(&section.replace("sequences_ms = 0", "sequences_ms = 3600000"));
    site.pg().sql("TRUNCATE held").await;
    let create = told("CREATE TABLE", "CREATE TABLE made (id serial PRIMARY KEY)", "public.made");
    site.pg().sql(&format!("BEGIN; {create}; COMMIT")).await;
    site.pg().sql("INSERT INTO made SELECT FROM generate_series(1, 9)").await;
    site.published().await;
    let holder = site.target.client().await;
    // The first look at sequences is over, and there was none.
    let applier = site.stuck(&holder, &["--until-caught-up"]).await;
    holder.batch_execute("ROLLBACK").await.expect("no lock");
    assert!(applier.wait_exit().await.success());
    site.same(&["made"]).await;
    assert_eq!(site.target.value("SELECT nextval('made_id_seq')").await, "10");
}

//! What the engine knows of schema changes outlives it: it is killed at the worst of moments,
//! and the target still becomes what the source is.

use super::schema::TRIGGERS;
use super::{Site, rows};
use crate::harness::eventually;

/// To look at the tables may have to wait for whoever changes one of them. Nobody waits for the
/// engine then, and what it was told of is not lost with it.
#[tokio::test(flavor = "multi_thread")]
async fn values_made_anew_arrive_although_the_engine_is_killed_while_a_table_is_locked() {
    let tables = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (LIKE t INCLUDING ALL); \
                  CREATE TABLE locked (LIKE t INCLUDING ALL);";
    let rows_of = "INSERT INTO t SELECT generate_series(1, 9); INSERT INTO u TABLE t";
    let load = "[bootstrap]\nmissing_rows = \"load\"\n";
    let mut site = Site::start(tables, rows_of, "", load).await;
    site.pg().sql(TRIGGERS).await;
    let applier = site.applier();
    site.world.bootstrap().await;
    let open = site.pg().client().await;
    open.batch_execute("BEGIN; LOCK TABLE locked").await.expect("lock");
    site.pg().sql("ALTER TABLE t ADD token uuid DEFAULT gen_random_uuid()").await;
    let waiting = "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'locked'::regclass \
                   AND mode = 'AccessShareLock' AND NOT granted";
    eventually("the engine to wait for the lock", async || {
        (site.pg().value(waiting).await == "t").then_some(())
    })
    .await;
    site.pg().sql("ALTER TABLE u ADD token uuid DEFAULT gen_random_uuid()").await;
    let added = "SELECT count(*) FROM pg_attribute \
                 WHERE attrelid = 'u'::regclass AND attname = 'token'";
    eventually("the change to be made in the target", async || {
        (site.target.value(added).await == "1").then_some(())
    })
    .await;
    site.world.engine.kill9().await;
    open.batch_execute("ROLLBACK").await.expect("unlock");
    site.world.engine.start_again();
    // The target has made values of its own.
    for table in ["t", "u"] {
        eventually("the values of the source", async || {
            let (source, target) = (rows(site.pg(), table).await, rows(&site.target, table).await);
            (source == target).then_some(())
        })
        .await;
    }
    assert!(Site::end(&applier).await.success());
}

/// It comes behind the rename, and saw its tables before: under the name of before. The rename
/// itself does not come again.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_open_at_a_rename_arrives_after_an_engine_that_forgot_it() {
    let tables = "CREATE SCHEMA blue; CREATE TABLE blue.t (id int PRIMARY KEY, v text); \
                  CREATE TABLE blue.u (LIKE blue.t INCLUDING ALL);";
    let site = Site::start(tables, "INSERT INTO blue.u VALUES (1, 'load')", "", "").await;
    let mut site = site.again("ack_lag_ms = 0\n", "").await;
    site.pg().sql(TRIGGERS).await;
    let applier = site.applier();
    site.world.bootstrap().await;
    let open = site.pg().client().await;
    let before = "BEGIN; INSERT INTO blue.t VALUES (1, 'before'); DELETE FROM blue.u";
    open.batch_execute(before).await.expect("open");
    site.pg().sql("ALTER SCHEMA blue RENAME TO sky").await;
    let renamed = site.world.lsn().await;
    site.settle().await;
    let told = format!(
        "SELECT confirmed_flush_lsn - '0/0' > {renamed} FROM pg_replication_slots \
         WHERE slot_name = 'kasho_slot'"
    );
    eventually("the rename to be acknowledged", async || {
        // Only what follows shows that it is.
        site.pg().sql("INSERT INTO mark SELECT count(*) FROM mark").await;
        (site.pg().value(&told).await == "t").then_some(())
    })
    .await;
    site.world.engine.kill9().await;
    site.world.engine.start_again();
    site.world.until_state("STREAMING").await;
    let after = "INSERT INTO sky.t VALUES (2, 'after'); INSERT INTO sky.u VALUES (3, 'u'); COMMIT";
    open.batch_execute(after).await.expect("commit");
    site.settle().await;
    site.same(&["sky.t", "sky.u"]).await;
    assert!(Site::end(&applier).await.success());
}

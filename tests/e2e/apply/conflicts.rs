//! Where the target is not what the source was: halt, upsert, skip; and what is no conflict
//! because plugins may have lost rows.

use serde_json::Value;

use super::Site;
use crate::harness::{free_port, get, logs};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int, note text, big text);
    ALTER TABLE t ALTER COLUMN big SET STORAGE EXTERNAL;
    CREATE TABLE u (id int PRIMARY KEY, u text UNIQUE);";
const ROWS: &str =
    "INSERT INTO t SELECT n, 0, 'loaded', repeat(md5(n::text), 200) FROM generate_series(1, 20) n";

/// What the target has of `t`.
async fn target(site: &Site) -> String {
    let query = "SELECT string_agg(id || ':' || n || coalesce(note, '-'), ' ' ORDER BY id) FROM t WHERE id > 15";
    site.target.value(query).await
}

/// A site whose target lost 16, got 21, and then sees changes of both, and of 17.
async fn spoiled(apply: &str, canary: &str) -> Site {
    let site = Site::start(TABLE, ROWS, apply, "").await;
    site.world.bootstrap().await;
    site.world.engine.run(&["apply", "--until-loaded"]).await.success();
    site.target
        .sql(&format!(
            "DELETE FROM t WHERE id IN (16, 18, 19); INSERT INTO t VALUES (21, 9, '{canary}')"
        ))
        .await;
    site.pg().sql("UPDATE t SET n = 1 WHERE id = 17").await;
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn halt_tells_table_and_place_and_no_value() {
    let canary = logs::planted_unique("there-already");
    let site = spoiled("", &canary).await;
    for (statement, words, id) in [
        ("UPDATE t SET n = 2 WHERE id = 16", "update of 1 row(s) of public.t found 0", 16),
        ("DELETE FROM t WHERE id = 18", "delete of 1 row(s) of public.t found 0", 18),
    ] {
        site.pg().sql(statement).await;
        // What the row was when it was there.
        let mended = format!("INSERT INTO t VALUES ({id}, 0, 'mended', 'x')");
        let applier = site.applier();
        applier.wait_for("conflict at e1:").await;
        assert_eq!(applier.wait_exit().await.code(), Some(1));
        let said = applier.lines().join("\n");
        assert!(said.contains(words) && said.contains("apply.conflict"), "{said}");
        site.target.sql(&mended).await;
        site.catch_up().await.success();
    }
    site.pg().sql(&format!("INSERT INTO t VALUES (21, 1, '{canary}')")).await;
    let applier = site.applier();
    applier.wait_for("23505").await;
    assert_eq!(applier.wait_exit().await.code(), Some(1));
    let said = applier.lines().join("\n");
    for words in ["insert of public.t at e1:", "constraint \"t_pkey\"", "is there already"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_the_target_refuses_is_not_told() {
    let canary = logs::planted_unique("no-number");
    let site = Site::start(TABLE, "", "", "").await;
    site.world.bootstrap().await;
    site.target.sql("ALTER TABLE t ALTER COLUMN note TYPE int USING NULL").await;
    site.pg().sql(&format!("INSERT INTO t VALUES (1, 1, '{canary}')")).await;
    let applier = site.applier();
    applier.wait_for("22P02").await;
    assert_eq!(applier.wait_exit().await.code(), Some(1));
    // The same where rows are copied.
    site.pg()
        .sql(&format!("INSERT INTO t SELECT n, 1, '{canary}' FROM generate_series(2, 100) n"))
        .await;
    site.target.sql("ALTER TABLE t ALTER COLUMN note TYPE varchar(4) USING NULL").await;
    let applier = site.applier();
    applier.wait_for("22001").await;
    assert_eq!(applier.wait_exit().await.code(), Some(1));
    site.target.sql("ALTER TABLE t ALTER COLUMN note TYPE text").await;
    let applier = site.applier();
    site.settle().await;
    site.same(&["t"]).await;
    assert!(Site::end(&applier).await.success());
}

/// The changes that conflict, each with another way to.
const CONFLICTS: &str = "UPDATE t SET n = 2, big = 'whole' WHERE id = 16;
    UPDATE t SET n = 3 WHERE id = 19;
    DELETE FROM t WHERE id = 18;
    INSERT INTO t VALUES (21, 5, 'source', 'b');
    UPDATE t SET n = 6 WHERE id = 21;
    INSERT INTO t SELECT n, 1, 'many' FROM generate_series(30, 80) n";

async fn conflicts(policy: &str) -> (Site, String) {
    let port = free_port();
    let apply = format!("conflict = \"{policy}\"\nlisten = \"127.0.0.1:{port}\"");
    let site = spoiled(&apply, "target-s own").await;
    site.target.sql("INSERT INTO t VALUES (50, 0, 'other')").await;
    let applier = site.applier();
    site.pg().sql(CONFLICTS).await;
    site.settle().await;
    let (_, metrics) = get(port, "/metrics").await.expect("metrics");
    assert_eq!(get(port, "/readyz").await.expect("health").0, 200);
    applier.wait_for("a row was not as it should be").await;
    assert!(Site::end(&applier).await.success());
    (site, metrics)
}

#[tokio::test(flavor = "multi_thread")]
async fn upsert_makes_rows_what_they_should_be_and_counts() {
    let (site, metrics) = conflicts("upsert").await;
    // 19 cannot be made: its TOASTed value was not sent.
    let told = target(&site).await;
    assert!(told.starts_with("16:2loaded 17:1loaded 20:0loaded 21:6source 30:1many"), "{told}");
    assert!(told.contains("50:1many"), "{told}");
    for line in [
        "kasho_apply_conflicts_total{op=\"insert\"} 2",
        "kasho_apply_conflicts_total{op=\"update\"} 2",
        "kasho_apply_conflicts_total{op=\"delete\"} 1",
        "kasho_apply_caught_up ",
        "kasho_apply_position_info{position=\"e1:",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skip_leaves_rows_as_they_are_and_counts() {
    let (site, metrics) = conflicts("skip").await;
    let told = target(&site).await;
    assert!(told.starts_with("17:1loaded 20:0loaded 21:6source 30:1many"), "{told}");
    assert!(told.contains("50:0other"), "{told}");
    for line in [
        "kasho_apply_conflicts_total{op=\"insert\"} 2",
        "kasho_apply_conflicts_total{op=\"update\"} 2",
        "kasho_apply_conflicts_total{op=\"delete\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

/// Entries that say `miss` are taken under any policy: an insert may find its row, a change none.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_plugins_may_have_lost_are_no_conflict() {
    let port = free_port();
    let site = Site::start(TABLE, ROWS, &format!("listen = \"127.0.0.1:{port}\""), "").await;
    site.world.bootstrap().await;
    site.settle_stream().await;
    site.world.engine.run(&["apply", "--until-caught-up"]).await.success();
    // A stream of ours to which the test writes what an engine with a lossy chain would.
    let entry = |op: &str, row: Value| {
        let mut data = row;
        data["xid"] = 9.into();
        data["ts"] = 1.into();
        data["cols"] = serde_json::json!(["id", "n", "note", "big"]);
        data["oids"] = serde_json::json!([23, 23, 25, 25]);
        data["miss"] = true.into();
        (op.to_owned(), data.to_string())
    };
    let entries = [
        entry("update", serde_json::json!({"new": ["900", "1", "x", true], "key": [0]})),
        entry("delete", serde_json::json!({"old": ["901", false, false, false]})),
        // The only one that ever tells of that row; one that is there already is newer.
        entry(
            "update",
            serde_json::json!({"new": ["30", "3", "moved", null], "old": ["902", false, false, false]}),
        ),
        entry(
            "update",
            serde_json::json!({"new": ["2", "3", "moved", null], "old": ["903", false, false, false]}),
        ),
        entry(
            "update",
            serde_json::json!({"new": ["31", "3", "moved", true], "old": ["904", false, false, false]}),
        ),
        entry("insert", serde_json::json!({"new": ["1", "77", "again", null]})),
    ];
    let (lsn, _) = site.world.newest().await.unwrap();
    for (n, (op, data)) in entries.iter().enumerate() {
        let id = format!("{}-{}", lsn + 1, n + 1);
        let mut words =
            vec!["XADD", "{kasho}:1:changes", &id, "o", op, "t", "public.t", "g", "0", "d", data];
        if n == entries.len() - 1 {
            words.extend(["l", "1"]);
        }
        let _: String = site.world.redis.command(&words).await;
    }
    site.world.engine.run(&["apply", "--until-caught-up"]).await.success();
    let row = "SELECT n || note FROM t WHERE id = 1";
    assert_eq!(site.target.value(row).await, "77again");
    let moved =
        "SELECT string_agg(id || ':' || n || note, ' ' ORDER BY id) FROM t WHERE id IN (2, 30)";
    assert_eq!(site.target.value(moved).await, "2:0loaded 30:3moved");
    assert_eq!(site.target.value("SELECT count(*) FROM t").await, "21");
}

impl Site {
    /// Waits until Redis has everything that the source has by now.
    async fn settle_stream(&self) {
        let lsn = self.pg().value("SELECT pg_current_wal_insert_lsn() - '0/0'").await;
        let lsn: u64 = lsn.parse().unwrap();
        self.pg().sql("INSERT INTO mark VALUES (-5)").await;
        crate::harness::eventually("the stream", async || {
            (self.world.newest().await?.0 > lsn).then_some(())
        })
        .await;
    }
}

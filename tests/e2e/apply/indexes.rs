//! Indexes that are built concurrently at the source, and whose build fails: a target has the
//! valid ones, and no other.

use super::*;

const TRIGGERS: &str = include_str!("../../../config/sql/ddl.sql");
const TABLE: &str =
    "CREATE SCHEMA \"Odd\"; CREATE TABLE \"Odd\".t (id int PRIMARY KEY, k int, v text);";

/// Every index of the table; an invalid one is named so.
async fn indexes(server: &Postgres) -> Vec<String> {
    let query = "SELECT CASE WHEN indisvalid THEN '' ELSE 'INVALID ' END || pg_get_indexdef(indexrelid) \
                 FROM pg_index WHERE indrelid = '\"Odd\".t'::regclass ORDER BY 1";
    let rows = server.rows(query).await;
    rows.into_iter().map(|row| row.into_iter().next().flatten().unwrap_or_default()).collect()
}

/// A statement that fails, in a session of its own.
async fn fails(server: &Postgres, statement: &str) {
    let client = server.client().await;
    client.batch_execute(statement).await.expect_err(statement);
}

async fn until_same(site: &Site) {
    eventually("the same indexes on both sides", async || {
        (indexes(site.pg()).await == indexes(&site.target).await).then_some(())
    })
    .await;
}

/// Waits until the engine has seen so many invalid indexes since it was started.
async fn until_seen(site: &Site, times: usize) {
    eventually("the engine to see an invalid index", async || {
        let log = site.world.engine.log();
        (log.matches("its concurrent build failed").count() >= times).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concurrent_build_that_fails_is_followed_once_it_is_valid() {
    let rows = "INSERT INTO \"Odd\".t SELECT n, n / 2, 'v' || n FROM generate_series(1, 20) n";
    let mut site = Site::start(TABLE, rows, "", "").await;
    site.pg().sql(TRIGGERS).await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    site.pg()
        .client()
        .await
        .batch_execute("CREATE INDEX CONCURRENTLY plain ON \"Odd\".t (v)")
        .await
        .expect("a build");
    until_same(&site).await;
    let only_valid = indexes(&site.target).await;
    assert_eq!(only_valid.len(), 2, "{only_valid:?}");

    // Twice the same value.
    fails(site.pg(), "CREATE UNIQUE INDEX CONCURRENTLY \"Uniq\" ON \"Odd\".t (k)").await;
    fails(
        site.pg(),
        "CREATE UNIQUE INDEX CONCURRENTLY other ON \"Odd\".t ((k + 1)) WHERE v <> 'it''s'",
    )
    .await;
    assert!(indexes(site.pg()).await.iter().any(|index| index.starts_with("INVALID")));
    until_seen(&site, 2).await;
    site.settle().await;
    assert_eq!(indexes(&site.target).await, only_valid, "nothing is made of it");
    // Who watches is another one now.
    site.world.engine.kill9().await;
    site.world.engine.start_again();
    until_seen(&site, 2).await;
    site.pg().sql("DELETE FROM \"Odd\".t WHERE id % 2 = 1").await;
    let client = site.pg().client().await;
    for reindex in ["REINDEX INDEX CONCURRENTLY \"Odd\".\"Uniq\"", "REINDEX TABLE \"Odd\".t"] {
        client.batch_execute(reindex).await.expect(reindex);
    }
    until_same(&site).await;
    let whole = indexes(&site.target).await;
    assert!(
        whole.len() == 4 && !whole.iter().any(|index| index.starts_with("INVALID")),
        "{whole:?}"
    );

    // One that is dropped, and made again; and one that an ALTER makes valid.
    site.pg().sql("DROP INDEX \"Odd\".\"Uniq\"; INSERT INTO \"Odd\".t VALUES (100, 1000, 'it''s'), (101, 1000, 'it''s')")
        .await;
    fails(site.pg(), "CREATE UNIQUE INDEX CONCURRENTLY \"Uniq\" ON \"Odd\".t (k)").await;
    fails(site.pg(), "CREATE UNIQUE INDEX CONCURRENTLY altered ON \"Odd\".t (k, (id > 0))").await;
    until_seen(&site, 4).await;
    site.pg().sql("DELETE FROM \"Odd\".t WHERE id = 101").await;
    for again in [
        "DROP INDEX CONCURRENTLY \"Odd\".\"Uniq\"",
        "CREATE UNIQUE INDEX CONCURRENTLY \"Uniq\" ON \"Odd\".t (k)",
        "ALTER TABLE \"Odd\".t ALTER k TYPE bigint",
    ] {
        client.batch_execute(again).await.expect(again);
    }
    until_same(&site).await;
    let whole = indexes(&site.target).await;
    assert!(
        whole.len() == 5 && !whole.iter().any(|index| index.starts_with("INVALID")),
        "{whole:?}"
    );
    site.settle().await;
    site.same(&["\"Odd\".t"]).await;
    assert!(Site::end(&applier).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_build_that_is_mended_while_nobody_watches_is_followed_too() {
    let rows = "INSERT INTO \"Odd\".t VALUES (1, 1, 'same'), (2, 2, 'same')";
    let mut site = Site::start(TABLE, rows, "", "").await;
    site.pg().sql(TRIGGERS).await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    fails(site.pg(), "CREATE UNIQUE INDEX CONCURRENTLY alone ON \"Odd\".t (v)").await;
    eventually("the invalid index to be stored", async || {
        let stored: String =
            site.world.redis.try_command(&["GET", "{kasho}:indexes"]).await.ok()?;
        stored.contains("\"alone\"").then_some(())
    })
    .await;
    site.world.engine.kill9().await;
    site.pg().sql("DELETE FROM \"Odd\".t WHERE id = 2").await;
    let reindex = "REINDEX INDEX CONCURRENTLY \"Odd\".alone";
    site.pg().client().await.batch_execute(reindex).await.expect("a build");
    site.world.engine.start_again();
    until_same(&site).await;
    assert!(indexes(&site.target).await.iter().any(|index| index.contains(" alone ")));
    site.same(&["\"Odd\".t"]).await;
    assert!(Site::end(&applier).await.success());
}

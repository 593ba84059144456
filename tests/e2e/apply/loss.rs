//! Redis loses what the target has already: a restart without its latest data, or without any.

use super::Site;
use crate::harness::eventually;

const LEDGER: &str = "CREATE TABLE ledger (id bigint PRIMARY KEY, big text);
    CREATE TABLE other (id bigint PRIMARY KEY, big text);";
const ROWS: &str =
    "INSERT INTO ledger SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 15000) n;
    INSERT INTO other SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 15000) n";

/// Nothing is told to PostgreSQL that a loss could take back.
const PATIENT: &str = "ack_lag_ms = 3600000\n";

/// The number of the newest entry of the load.
async fn loaded(site: &Site) -> u64 {
    let words = ["XREVRANGE", "{kasho}:1:bootstrap", "+", "-", "COUNT", "1"];
    let found: Vec<(String, Vec<redis::Value>)> =
        site.world.redis.try_command(&words).await.unwrap_or_default();
    let number = found.first().and_then(|(id, _)| id.split('-').next()?.parse().ok());
    number.unwrap_or(0)
}

/// The row of the load that the applier as a whole has.
async fn taken(site: &Site) -> u64 {
    if site.target.value("SELECT to_regclass('kasho.applied')").await.is_empty() {
        return 0;
    }
    let position = site.position().await;
    position.strip_prefix("bootstrap:").and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// What the refusals say to do.
async fn load_again(site: &Site) {
    site.world.engine.run(&["reset", "--yes"]).await.success();
    site.world.until_state("WAITING").await;
    site.world.bootstrap().await;
    follows(site).await;
}

/// An applier makes the target what the source is.
async fn follows(site: &Site) {
    let applier = site.applier();
    site.settle().await;
    site.same(&["ledger", "other"]).await;
    assert!(Site::end(&applier).await.success());
}

/// Ranges load side by side: what is loaded again after a loss comes in another order.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_the_load_that_other_rows_have_now_are_refused() {
    let small = "[redis.budget]\nbootstrap = \"2MiB\"\n";
    let site = Site::start(LEDGER, ROWS, "", "").await;
    let mut site = site.again(PATIENT, small).await;
    site.world.until_state("WAITING").await;
    site.world.begin_bootstrap().await;
    eventually("the load to wait for room", async || {
        let status = site.world.try_status().await?;
        let paused = status["paused"].as_str().is_some_and(|why| !why.is_empty());
        (paused && loaded(&site).await > 100).then_some(())
    })
    .await;
    let kept = loaded(&site).await;
    site.world.redis.command::<()>(&["SAVE"]).await;
    let applier = site.applier();
    eventually("rows that will be lost", async || {
        (taken(&site).await > kept + 1_000).then_some(())
    })
    .await;
    applier.kill9().await;
    site.world.redis.kill9().await;
    site.world.redis.start_again().await;
    // There are no such rows now.
    let refused = site.catch_up().await;
    assert!(refused.code == 1 && refused.stderr.contains("lies beyond"), "{}", refused.stderr);
    // There are some again, which are others.
    let had = taken(&site).await;
    let site = site.again(PATIENT, "").await;
    site.world.until_state("ACCUMULATING").await;
    site.world.bootstrap().await;
    assert!(loaded(&site).await > had);
    let refused = site.catch_up().await;
    let said = "Redis has lost its latest data since the target took";
    assert!(refused.code == 1 && refused.stderr.contains(said), "{}", refused.stderr);
    load_again(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_of_the_same_number_is_not_taken_for_the_one_before() {
    let mut site = Site::start(LEDGER, ROWS, "", "").await;
    site.world.bootstrap().await;
    site.catch_up().await.success();
    site.world.engine.terminate().await;
    site.world.redis.kill9().await;
    site.world.redis.start_empty().await;
    eventually("the slot to be left", async || {
        let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
        (site.pg().value(active).await == "0").then_some(())
    })
    .await;
    site.pg().sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").await;
    site.pg().sql("DELETE FROM ledger WHERE id % 3 = 0").await;
    site.world.engine.start_again();
    site.world.until_state("WAITING").await;
    site.world.bootstrap().await;
    let epoch: String = site.world.redis.command(&["HGET", "{kasho}:checkpoint", "epoch"]).await;
    assert_eq!(epoch, "1");
    let refused = site.catch_up().await;
    let said = "another bootstrap of the same number";
    assert!(refused.code == 1 && refused.stderr.contains(said), "{}", refused.stderr);
    load_again(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_progress_made_by_an_earlier_version_is_made_fit() {
    let site = Site::start(LEDGER, ROWS, "", "").await;
    site.world.bootstrap().await;
    site.world.engine.run(&["apply", "--until-loaded"]).await.success();
    site.target.sql("ALTER TABLE kasho.applied DROP COLUMN run, DROP COLUMN born").await;
    follows(&site).await;
}

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
    let position = site.position().await;
    position.strip_prefix("bootstrap:").and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Ranges load side by side: what is loaded again after a loss comes in another order.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_the_load_that_other_rows_have_now_are_refused() {
    let small = "[redis.budget]\nbootstrap = \"2MiB\"\n";
    let site = Site::start(LEDGER, ROWS, "", "").await;
    let mut site = site.again(PATIENT, small).await;
    site.world.begin_bootstrap().await;
    eventually("the load to wait for room", async || {
        let before = loaded(&site).await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        (before > 100 && loaded(&site).await == before).then_some(())
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
    site.world.bootstrap().await;
    assert!(loaded(&site).await > had);
    let refused = site.catch_up().await;
    let said = "Redis has lost its latest data since the target took";
    assert!(refused.code == 1 && refused.stderr.contains(said), "{}", refused.stderr);
    // What it says to do.
    site.world.engine.run(&["reset", "--yes"]).await.success();
    site.world.until_state("WAITING").await;
    site.world.bootstrap().await;
    let applier = site.applier();
    site.settle().await;
    site.same(&["ledger", "other"]).await;
    assert!(Site::end(&applier).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_progress_made_by_an_earlier_version_is_made_fit() {
    let site = Site::start(LEDGER, ROWS, "", "").await;
    site.world.bootstrap().await;
    site.world.engine.run(&["apply", "--until-loaded"]).await.success();
    site.target.sql("ALTER TABLE kasho.applied DROP COLUMN run").await;
    let applier = site.applier();
    site.settle().await;
    site.same(&["ledger", "other"]).await;
    assert!(Site::end(&applier).await.success());
}

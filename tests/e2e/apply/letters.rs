//! Rows that were set aside, and what a target has of them once they are delivered.

use super::Site;
use crate::harness::{Postgres, eventually};
use crate::policies::{ASIDE, CONSTANT, ERROR, Policies, rules, text};

const TABLE: &str = "CREATE TABLE people (id text PRIMARY KEY, email text, note text)";

/// Engine and rules of [`Policies`], and a target.
async fn start() -> (Policies, Postgres) {
    let (it, target) = tokio::join!(Policies::start(ASIDE), Postgres::start_target());
    target.sql(TABLE).await;
    // The applier reads it when it is started.
    write(&it, &target, ERROR);
    (it, target)
}

fn write(it: &Policies, target: &Postgres, otherwise: &str) {
    let (world, apply) = (&it.world, Site::section(&target.url(), ""));
    let rules = format!("{}{apply}", rules(ASIDE, otherwise));
    let home = world.engine.home();
    home.write_config(&text(&world.pg, &world.redis, home.grpc_port(), &rules));
}

/// All rows but for what is masked.
async fn people(server: &Postgres) -> String {
    let query = "SELECT string_agg(concat_ws(':', id, note), ' ' ORDER BY id) FROM people \
                 WHERE id NOT LIKE 'end-%'";
    server.value(query).await
}

/// Waits until the target has what the source has committed by now.
async fn settle(it: &Policies, target: &Postgres) {
    let id = format!("end-{}", crate::harness::unique());
    it.world.pg.sql(&format!("INSERT INTO people VALUES ('{id}', 'a@b')")).await;
    eventually("the last row", async || {
        let found = target.value(&format!("SELECT count(*) FROM people WHERE id = '{id}'")).await;
        (found == "1").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_keys_change_after_they_were_set_aside_are_in_the_target_at_the_end() {
    let (it, target) = start().await;
    it.world.bootstrap().await;
    let applier = it.world.engine.spawn(&["apply"]);
    let bad = &it.secret;
    for statement in [
        // Another key, and in order then.
        format!("INSERT INTO people VALUES ('a', '{bad}', 'first')"),
        "UPDATE people SET id = 'b', email = 'b@x', note = 'second' WHERE id = 'a'".to_owned(),
        // Set aside with the change of its key, and then another key again.
        "INSERT INTO people VALUES ('c', 'c@x', 'first')".to_owned(),
        format!("UPDATE people SET id = 'd', email = '{bad}', note = 'second' WHERE id = 'c'"),
        "UPDATE people SET id = 'e', email = 'e@x', note = 'third' WHERE id = 'd'".to_owned(),
        // Set aside under both keys.
        format!("INSERT INTO people VALUES ('f', '{bad}', 'first')"),
        "UPDATE people SET id = 'g', note = 'second' WHERE id = 'f'".to_owned(),
        // Somebody else has the key by now.
        format!("INSERT INTO people VALUES ('h', '{bad}', 'first')"),
        "UPDATE people SET id = 'i', email = 'i@x', note = 'second' WHERE id = 'h'".to_owned(),
        "INSERT INTO people VALUES ('h', 'h@x', 'another')".to_owned(),
        // Changed, and as before.
        format!("INSERT INTO people VALUES ('j', '{bad}', 'first')"),
        "UPDATE people SET id = 'k', email = 'k@x' WHERE id = 'j'".to_owned(),
        "UPDATE people SET id = 'j', note = 'third' WHERE id = 'k'".to_owned(),
        // Deleted under its other key.
        format!("INSERT INTO people VALUES ('l', '{bad}', 'first')"),
        "UPDATE people SET id = 'm', email = 'm@x' WHERE id = 'l'".to_owned(),
        "DELETE FROM people WHERE id = 'm'".to_owned(),
    ] {
        it.world.pg.sql(&statement).await;
    }
    settle(&it, &target).await;
    assert_eq!(it.letters().await.len(), 7);
    let before = it.world.status().await["generation"].as_u64();
    write(&it, &target, CONSTANT);
    eventually("the candidate to be taken", async || {
        (it.world.try_status().await?["generation"].as_u64() > before).then_some(())
    })
    .await;
    it.world.engine.run(&["dead", "retry", "--all"]).await.success();
    assert!(it.letters().await.is_empty());
    settle(&it, &target).await;
    assert_eq!(people(&target).await, people(&it.world.pg).await);
    assert!(!people(&target).await.is_empty());
    assert!(Site::end(&applier).await.success());
}

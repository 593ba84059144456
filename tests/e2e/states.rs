//! The three states as a client of the gRPC service sees them, driven by Python through
//! server reflection: the whole life, every refusal on the way, and what a slot that
//! somebody left behind does.

use serde_json::Value;

use crate::harness::{Output, eventually, python};
use crate::world::{World, fill};

const SERVICE: &str = "kasho.ChangeStreamService";

pub(crate) async fn call(world: &World, method: &str, request: &str, count: &str) -> Output {
    let address = format!("127.0.0.1:{}", world.engine.home().grpc_port());
    let method = match method.contains('/') {
        true => method.to_owned(),
        false => format!("{SERVICE}/{method}"),
    };
    let output = python(include_str!("grpcurl.py"), &[&address, &method, request, count]).await;
    output.search("grpcurl");
    output
}

pub(crate) async fn ask(world: &World, method: &str, request: &str) -> Value {
    let output = call(world, method, request, "0").await.success();
    serde_json::from_str(output.stdout.lines().next().expect("an answer")).expect("JSON")
}

async fn refused(world: &World, method: &str, words: &[&str]) {
    let output = call(world, method, "{}", "0").await;
    assert_eq!(output.code, 1, "{method} was accepted");
    for word in words {
        assert!(output.stdout.contains(word), "no word of {word:?} in {}", output.stdout);
    }
}

/// What stands in the way, once the engine says so, in WAITING.
async fn told(world: &World) -> String {
    eventually("the engine to say what is wrong", async || {
        let status = world.try_status().await?;
        let error = status["last_error"].as_str()?;
        let seen = !error.is_empty() && !error.starts_with("still connecting");
        (status["state"] == "WAITING" && seen).then(|| error.to_owned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_drives_the_whole_life() {
    let world = World::start(300).await;
    assert_eq!(ask(&world, "GetStatus", "{}").await["state"], "WAITING");
    refused(&world, "CompleteBootstrap", &["FAILED_PRECONDITION", "WAITING"]).await;

    let started = ask(&world, "StartBootstrap", "{}").await;
    assert_eq!(started["status"], "started");
    assert_eq!(
        (&started["previousState"], &started["currentState"]),
        (&"WAITING".into(), &"ACCUMULATING".into())
    );
    assert!(started["startLsn"].as_str().is_some_and(|lsn| lsn.contains('/')), "{started}");
    assert!(started["snapshotName"].as_str().is_some(), "{started}");
    refused(&world, "StartBootstrap", &["FAILED_PRECONDITION", "ACCUMULATING"]).await;

    fill(&world.pg, 301, 310).await;
    let status = eventually("load and accumulated changes", async || {
        let status = ask(&world, "GetStatus", "{}").await;
        let whole = status["load"]["finished"] == true && status["accumulatedChanges"] == "10";
        whole.then_some(status)
    })
    .await;
    assert_eq!(status["load"]["rows"], "300");
    assert_eq!(world.entries("bootstrap").await, 300);

    let completed = ask(&world, "CompleteBootstrap", "{}").await;
    assert_eq!(completed["status"], "completed");
    assert_eq!(
        (&completed["currentState"], &completed["readyToStream"]),
        (&"STREAMING".into(), &true.into())
    );
    assert_eq!(world.entries("bootstrap").await, 301, "the end entry is written with the phase");

    let everything = call(
        &world,
        "change_stream.ChangeStream/Stream",
        r#"{"last_position": "bootstrap"}"#,
        "310",
    )
    .await;
    let changes: Vec<Value> = everything
        .success()
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(changes.len(), 310);
    assert_eq!(changes[309]["dml"]["columnValues"][0]["intValue"], "310");
    let position = changes[304]["position"].as_str().expect("position");
    let request = format!(r#"{{"position": "{position}"}}"#);
    let rest = call(&world, "Stream", &request, "5").await.success();
    let first: Value =
        serde_json::from_str(rest.stdout.lines().next().expect("line")).expect("JSON");
    assert_eq!(first["dml"]["columnValues"][0]["intValue"], "306", "strictly after");

    refused(&world, "AbortBootstrap", &["FAILED_PRECONDITION", "STREAMING"]).await;
    let aborted = ask(&world, "AbortBootstrap", r#"{"force": true}"#).await;
    assert_eq!(aborted["currentState"], "WAITING");
    assert_eq!(world.pg.value("SELECT count(*) FROM pg_replication_slots").await, "0");

    let again = ask(&world, "StartBootstrap", "{}").await;
    assert_eq!(again["epoch"], "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_keys_say_which_row_changed_under_every_identity() {
    let world = World::start(1).await;
    world
        .pg
        .sql(
            "CREATE TABLE plain (id int PRIMARY KEY, v text);
             CREATE TABLE indexed (id int, name text NOT NULL UNIQUE, v text);
             ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_name_key;
             CREATE TABLE whole (id int, v text); ALTER TABLE whole REPLICA IDENTITY FULL;",
        )
        .await;
    world.bootstrap().await;
    world
        .pg
        .sql(
            "INSERT INTO plain VALUES (1, 'a'); INSERT INTO indexed VALUES (1, 'n', 'a');
             INSERT INTO whole VALUES (1, 'a')",
        )
        .await;
    world.pg.sql("UPDATE plain SET v = 'b'; UPDATE indexed SET v = 'b'").await;
    world.pg.sql("UPDATE whole SET v = 'b'").await;
    world.pg.sql("UPDATE plain SET id = 2; UPDATE indexed SET name = 'm'").await;
    world.pg.sql("DELETE FROM plain; DELETE FROM indexed; DELETE FROM whole").await;
    world.settle(2).await;
    let output = call(&world, "Stream", r#"{"position": "bootstrap"}"#, "12").await.success();
    let said: Vec<String> = output
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .filter(|change| change["dml"]["kind"] != "insert")
        .map(|change| {
            let (dml, keys) = (&change["dml"], &change["dml"]["oldKeys"]);
            let values = keys["keyValues"].as_array().cloned().unwrap_or_default();
            let values = values.iter().map(|value| {
                let value = value.as_object().and_then(|value| value.values().next().cloned());
                value.unwrap_or_default()
            });
            let values = Value::Array(values.collect());
            format!("{} {} {} {values}", dml["kind"], dml["table"], keys["keyNames"])
        })
        .collect();
    let expected = [
        r#""update" "public.plain" ["id"] ["1"]"#,
        r#""update" "public.indexed" ["name"] ["n"]"#,
        r#""update" "public.whole" ["id","v"] ["1","a"]"#,
        r#""update" "public.plain" ["id"] ["1"]"#,
        r#""update" "public.indexed" ["name"] ["n"]"#,
        r#""delete" "public.plain" ["id"] ["2"]"#,
        r#""delete" "public.indexed" ["name"] ["m"]"#,
        r#""delete" "public.whole" ["id","v"] ["1","b"]"#,
    ];
    assert_eq!(said, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_left_over_slot_is_told_with_both_remedies() {
    let mut world = World::start(10).await;
    assert!(world.engine.terminate().await.success());
    world.pg.sql("SELECT pg_create_logical_replication_slot('kasho_slot', 'pgoutput')").await;
    world.engine.start_again();
    let error = told(&world).await;
    assert!(error.starts_with("replication slot \"kasho_slot\" already exists"), "{error}");
    refused(
        &world,
        "StartBootstrap",
        &["FAILED_PRECONDITION", "already exists", "pg_drop_replication_slot", "kasho reset"],
    )
    .await;
    world.engine.run(&["reset", "--yes"]).await.success();
    assert_eq!(world.pg.value("SELECT count(*) FROM pg_replication_slots").await, "0");
    world.bootstrap().await;
    assert_eq!(world.entries("bootstrap").await, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_vanishes_is_told_and_the_next_bootstrap_begins_anew() {
    let mut world = World::start(10).await;
    world.bootstrap().await;
    assert!(world.engine.terminate().await.success());
    eventually("the slot to be free", async || {
        let drop = "SELECT pg_drop_replication_slot('kasho_slot')";
        world.pg.client().await.batch_execute(drop).await.ok()
    })
    .await;
    world.engine.start_again();
    let error = told(&world).await;
    assert!(error.contains("is gone although the state was STREAMING"), "{error}");
    world.bootstrap().await;
    assert_eq!(world.status().await["epoch"], 2);
}

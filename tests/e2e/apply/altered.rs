//! Tables that are altered while they are loaded, and the load goes on with a later snapshot:
//! the schema changes travel behind the load, and rows of the later shape would not fit what the
//! target has there.

use serde_json::Value;

use super::*;
use crate::world::end_holders;

const TRIGGERS: &str = include_str!("../../../config/sql/ddl.sql");

/// A load that takes far longer than what is done meanwhile, and one that does not.
const SLOW: &str = "[bootstrap]\nworkers = 1\nrange_mib = 1\nmax_rate = \"60KiB\"\n";
const FAST: &str = "[bootstrap]\nworkers = 2\nrange_mib = 1\n";

/// In the order in which they are loaded: the first is finished soon, the second takes half a
/// minute, and the others come behind it.
const SIZES: [(&str, u32); 12] = [
    ("finished", 4_000),
    ("half", 3_500),
    ("same", 300),
    ("added", 200),
    ("narrowed", 200),
    ("typed", 200),
    ("named", 200),
    ("loosened", 200),
    ("labelled", 200),
    ("gone", 200),
    ("moved", 200),
    ("anew", 200),
];

/// Nobody reads the tables when they are altered.
const MEANWHILE: [&str; 17] = [
    "ALTER TABLE finished ADD x int DEFAULT 7",
    "ALTER TABLE half ADD x text DEFAULT 'x'",
    "ALTER TABLE added ADD x int NOT NULL DEFAULT 3",
    "ALTER TABLE narrowed DROP COLUMN v",
    "ALTER TABLE typed ALTER w TYPE bytea USING w::bytea",
    "ALTER TABLE named RENAME COLUMN v TO other",
    "ALTER TABLE loosened DROP CONSTRAINT loosened_n_check, ALTER n DROP NOT NULL",
    "UPDATE loosened SET n = CASE WHEN id % 2 = 0 THEN -1 END WHERE id > 50",
    "ALTER TYPE label ADD VALUE 'c'",
    "UPDATE labelled SET l = 'c' WHERE id > 50",
    "DROP TABLE gone",
    "ALTER TABLE moved RENAME TO elsewhere",
    "DROP TABLE anew",
    "CREATE TABLE anew (id int PRIMARY KEY, n date, w text)",
    "INSERT INTO anew SELECT n, '2024-01-01', 'w' FROM generate_series(1, 200) n",
    "CREATE TABLE made (id int PRIMARY KEY, n int, w text)",
    "INSERT INTO made SELECT n, n, 'w' FROM generate_series(1, 200) n",
];

fn schema() -> String {
    let tables = SIZES.map(|(name, _)| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, n int NOT NULL, v text, w text, l label, \
             CHECK (n >= 0));"
        )
    });
    format!("CREATE TYPE label AS ENUM ('a', 'b'); {}", tables.concat())
}

fn rows_of_each() -> String {
    let rows = SIZES.map(|(name, rows)| {
        format!(
            "INSERT INTO {name} SELECT n, n, repeat('v', 400), 'w', 'a' \
             FROM generate_series(1, {rows}) n;"
        )
    });
    rows.concat()
}

/// One change of each kind in each of these tables; every time with other rows.
fn change(tables: &[&str], time: u32) -> String {
    let of = |name: &&str| {
        let (old, gone, new) = (time, 100 + time, 100_000 + time);
        format!(
            "UPDATE {name} SET w = 'new' WHERE id = {old}; DELETE FROM {name} WHERE id = {gone}; \
             INSERT INTO {name} (id, n) VALUES ({new}, 1);"
        )
    };
    tables.iter().map(of).collect()
}

/// Each statement in a transaction of its own: the triggers know what a statement is.
async fn one_by_one(server: &Postgres, statements: &[&str]) {
    let client = server.client().await;
    for statement in statements {
        client.batch_execute(statement).await.expect(statement);
    }
}

async fn phase(site: &Site) -> Value {
    let text: String =
        site.world.redis.try_command(&["GET", "{kasho}:state"]).await.expect("state");
    serde_json::from_str(&text).expect("JSON")
}

/// The engine is killed, and with it whoever keeps the snapshot and the tables' locks.
async fn kill_all(site: &mut Site) {
    site.world.engine.kill9().await;
    end_holders(site.pg()).await;
}

/// Waits until nothing is put off any more, and nothing is being loaded.
async fn until_all_is_loaded(site: &Site) {
    eventually("the tables that were put off to be loaded", async || {
        let phase = phase(site).await;
        let idle = phase["state"] == "STREAMING" && phase["reload"].is_null();
        (idle && phase["later"].is_null()).then_some(())
    })
    .await;
    site.settle().await;
}

/// What the columns of a table are.
async fn columns(server: &Postgres, table: &str) -> String {
    let query = format!(
        "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || attnotnull, ', ' \
         ORDER BY attnum) FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 \
         AND NOT attisdropped"
    );
    server.value(&query).await
}

/// Waits until this table is put off: an operator is told why, and of nothing to type.
async fn told_that_it_comes_by_itself(site: &Site, table: &str) {
    let status = eventually("the table to be put off", async || {
        let status = site.world.try_status().await?;
        let own = status["by_itself"].as_array()?.iter().any(|own| own["table"] == table);
        own.then_some(status)
    })
    .await;
    assert!(status["not_loaded"].as_array().is_some_and(|all| all.contains(&table.into())));
    let told = site.world.engine.run(&["status"]).await.success().stdout;
    let line =
        told.lines().find(|line| line.contains(&format!("NOT LOADED     {table} "))).expect(&told);
    assert!(line.contains("comes by itself: it was made, altered"), "{line}");
    assert!(!line.contains("--table"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_altered_while_a_load_is_interrupted_end_up_as_they_are_at_the_source() {
    let mut site = Site::start(&schema(), &rows_of_each(), "", SLOW).await;
    site.pg().sql(TRIGGERS).await;
    let applier = site.applier();
    site.world.begin_bootstrap().await;
    let half = eventually("the first table to be finished, and the next begun", async || {
        let phase = phase(&site).await;
        let tables = phase["tables"].as_array()?.clone();
        let done = |name: &str| {
            tables.iter().any(|t| t["table"] == format!("public.{name}") && t["done"] == true)
        };
        (done("finished") && site.world.entries("bootstrap").await > 4_200).then(|| done("half"))
    })
    .await;
    assert!(!half, "too fast to show anything");
    let all = SIZES.map(|(name, _)| name);
    site.pg().sql(&change(&all, 1)).await;
    kill_all(&mut site).await;
    site.pg().sql(&change(&all, 2)).await;
    one_by_one(site.pg(), &MEANWHILE).await;
    let there = [
        "finished",
        "half",
        "same",
        "added",
        "narrowed",
        "typed",
        "named",
        "loosened",
        "labelled",
        "elsewhere",
        "made",
    ];
    site.pg().sql(&change(&there, 3)).await;
    site.pg().sql("UPDATE anew SET w = 'new' WHERE id = 3; DELETE FROM anew WHERE id = 4").await;
    site.world.configure(&format!("{}{FAST}", Site::section(&site.target.url(), "")));
    site.world.engine.start_again();
    site.world.until_state("ACCUMULATING").await;
    told_that_it_comes_by_itself(&site, "public.typed").await;
    site.world.bootstrap().await;
    site.pg().sql(&change(&there, 4)).await;
    until_all_is_loaded(&site).await;
    site.pg().sql(&change(&there, 5)).await;
    site.settle().await;
    for table in there.iter().chain(&["anew"]) {
        assert_eq!(columns(&site.target, table).await, columns(site.pg(), table).await, "{table}");
    }
    site.same(&there).await;
    site.same(&["anew"]).await;
    for table in ["gone", "moved"] {
        assert_eq!(site.target.value(&format!("SELECT to_regclass('{table}')")).await, "");
    }
    let status = site.world.status().await;
    assert_eq!(status["not_loaded"], serde_json::json!([]), "{status}");
    assert!(Site::end(&applier).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_altered_while_they_are_loaded_again_end_up_as_they_are_at_the_source() {
    let mut site = Site::start(&schema(), &rows_of_each(), "", FAST).await;
    site.pg().sql(TRIGGERS).await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    assert!(site.world.engine.terminate().await.success());
    site.world.configure(&format!("{}{SLOW}", Site::section(&site.target.url(), "")));
    site.world.engine.start_again();
    site.world.until_state("STREAMING").await;
    let before = site.world.entries("bootstrap").await;
    let asked = ["half", "same", "added", "typed", "gone", "moved"];
    let mut arguments = vec!["bootstrap"];
    asked.iter().for_each(|table| arguments.extend(["--table", table]));
    tokio::select! {
        _ = site.world.engine.run(&arguments) => panic!("it was loaded before anything could die"),
        () = eventually("the reload", async || {
            (site.world.entries("bootstrap").await > before + 50).then_some(())
        }) => {}
    }
    site.pg().sql(&change(&asked, 1)).await;
    kill_all(&mut site).await;
    one_by_one(
        site.pg(),
        &[
            "ALTER TABLE half ADD x text DEFAULT 'x'",
            "ALTER TABLE added ADD x int NOT NULL DEFAULT 3",
            "ALTER TABLE typed ALTER w TYPE bytea USING w::bytea",
            "DROP TABLE gone",
            "ALTER TABLE moved RENAME TO elsewhere",
        ],
    )
    .await;
    let there = ["half", "same", "added", "typed", "elsewhere"];
    site.pg().sql(&change(&there, 2)).await;
    site.world.configure(&format!("{}{FAST}", Site::section(&site.target.url(), "")));
    site.world.engine.start_again();
    site.world.until_state("STREAMING").await;
    site.pg().sql(&change(&there, 3)).await;
    until_all_is_loaded(&site).await;
    site.pg().sql(&change(&there, 4)).await;
    site.settle().await;
    for table in there {
        assert_eq!(columns(&site.target, table).await, columns(site.pg(), table).await, "{table}");
    }
    site.same(&there).await;
    assert_eq!(site.target.value("SELECT to_regclass('gone')").await, "");
    assert!(Site::end(&applier).await.success());
}

/// Nobody skips the changes of another table that had the name before, whoever restarts in
/// between skips those of the one that has it now, and the rows come at the mark.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_put_off_gets_the_name_of_another_one_before_its_mark() {
    let mut site = Site::start(&schema(), &rows_of_each(), "", SLOW).await;
    site.pg().sql(TRIGGERS).await;
    site.world.begin_bootstrap().await;
    eventually("the first rows", async || {
        (site.world.entries("bootstrap").await > 50).then_some(())
    })
    .await;
    kill_all(&mut site).await;
    one_by_one(
        site.pg(),
        &[
            "ALTER TABLE added ADD x int NOT NULL DEFAULT 3",
            "ALTER TABLE typed ALTER w TYPE bytea USING w::bytea",
        ],
    )
    .await;
    site.world.configure(&format!("{}{FAST}", Site::section(&site.target.url(), "")));
    site.world.engine.start_again();
    eventually("what is not put off to be loaded", async || {
        (phase(&site).await["loaded"] == true).then_some(())
    })
    .await;
    assert_eq!(phase(&site).await["later"], serde_json::json!(["public.added", "public.typed"]));
    // Of a table whose name another one gets, of one that is put off, and of one that is not.
    let change = |tables: &[&str], time| change(tables, time);
    site.pg().sql(&change(&["same", "added", "typed", "half"], 1)).await;
    one_by_one(
        site.pg(),
        &[
            "CREATE SCHEMA aside",
            "BEGIN; ALTER TABLE same RENAME TO elsewhere",
            "ALTER TABLE added RENAME TO same",
            "COMMIT",
            "DO $$ BEGIN ALTER TABLE typed SET SCHEMA aside; END $$",
        ],
    )
    .await;
    let there = ["elsewhere", "same", "aside.typed", "half"];
    site.pg().sql(&change(&there, 2)).await;
    let middle = site.pg().value("SELECT pg_current_wal_insert_lsn()").await;
    site.pg().sql(&change(&there, 3)).await;
    site.published().await;
    site.world.bootstrap().await;
    // It stands between the renames and the mark, and another one goes on.
    site.world.engine.run(&["apply", "--until", &middle]).await.success();
    let applier = site.applier();
    site.pg().sql(&change(&there, 4)).await;
    site.settle().await;
    for table in there {
        eventually(&format!("{table} to be whole"), async || {
            (rows(site.pg(), table).await == rows(&site.target, table).await).then_some(())
        })
        .await;
    }
    site.pg().sql(&change(&there, 5)).await;
    site.settle().await;
    site.same(&there).await;
    assert!(Site::end(&applier).await.success());
}

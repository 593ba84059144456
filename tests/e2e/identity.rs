//! Identity does not move, and may be moved on purpose: keys that are mapped otherwise are
//! refused, and taken where their tables are loaded again; what one side of a foreign key is
//! mapped to, the other is; and a column may be renamed while the stream lags behind.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{Engine, Postgres, Redis, eventually, logs};
use crate::world::{World, config};

/// Bytes that look random.
const KEY: &str = "77d5034da07d8ef31db1cd4119b6a4552fdfbd19787e2848e71c8ee3b4770312";

const TABLES: &str = "
    CREATE TABLE people (id text PRIMARY KEY, email text);
    CREATE TABLE orders (id text PRIMARY KEY, person text REFERENCES people);
    CREATE TABLE parts (id text PRIMARY KEY, person text REFERENCES people);
    CREATE PUBLICATION kasho_pub FOR ALL TABLES;";

/// A mask of everything, with these lines about persons.
fn rules(more: &str, persons: &str) -> String {
    format!(
        "[keys]\nk1 = {{ env = \"ID_KEY\" }}\n[[transform]]\nname = \"mask\"\n\
         plugin = \"anonymize.wasm\"\ntables = [\"public.*\"]\n{more}[transform.rules]\n\
         \"public.orders.id\" = \"pass\"\n\"public.parts.id\" = \"pass\"\n\
         \"public.people.email\" = \"fake_email\"\n{persons}"
    )
}

/// Persons are hashed to so many digits. Files are looked at when they change and when
/// somebody asks for it, and hardly ever otherwise.
fn hashed(digits: u8) -> String {
    let hash = format!("{{ transform = \"hash\", length = {digits} }}");
    let lines = ["people.id", "orders.person", "parts.person"];
    let lines = lines.map(|column| format!("\"public.{column}\" = {hash}\n"));
    format!("[plugins]\npoll_ms = 3600000\n{}", rules("", &lines.concat()))
}

fn text(pg: &Postgres, redis: &Redis, port: u16, rules: &str) -> String {
    let text = config(&pg.url(), &redis.url(), port, rules);
    text.replacen("[redis]", "[redis]\nencoding = \"json\"", 1)
}

async fn start(tables: &str, rules: &str) -> World {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql(tables).await;
    let builder = Engine::builder().plugin("anonymize").env("ID_KEY", KEY);
    let text = text(&pg, &redis, builder.home().grpc_port(), rules);
    let engine = builder.config(&text).start();
    let world = World { pg, redis, engine };
    world.until_state("WAITING").await;
    world
}

fn write(world: &World, rules: &str) {
    let World { pg, redis, engine } = world;
    engine.home().write_config(&text(pg, redis, engine.home().grpc_port(), rules));
}

async fn refused(world: &World, rules: &str, words: &str) -> String {
    write(world, rules);
    eventually(&format!("a refusal with {words:?}"), async || {
        let status = world.try_status().await?;
        let plugins = status["plugins"].as_array()?.clone();
        let candidate = plugins.into_iter().find(|plugin| plugin["name"] == "candidate")?;
        Some(candidate["error"].as_str()?.to_owned()).filter(|told| told.contains(words))
    })
    .await
}

async fn generation(world: &World) -> u64 {
    world.status().await["generation"].as_u64().expect("a number")
}

async fn settle(world: &World, statement: &str) {
    let lsn = world.pg.value("SELECT pg_current_wal_insert_lsn() - '0/0'").await;
    let lsn: u64 = lsn.parse().expect("LSN");
    world.pg.sql(statement).await;
    eventually("the stream", async || (world.newest().await?.0 > lsn).then_some(())).await;
}

/// The rows of an entry: its op, table and values.
async fn entries(world: &World, stream: &str) -> Vec<(String, String, Value)> {
    let key = format!("{{kasho}}:1:{stream}");
    let all: Vec<(String, Vec<String>)> = world.redis.command(&["XRANGE", &key, "-", "+"]).await;
    let field = |words: &[String], name: &str| {
        words.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone()).unwrap_or_default()
    };
    let entry = |(_, words): (String, Vec<String>)| {
        let data: Value = serde_json::from_str(&field(&words, "d")).expect("JSON");
        (field(&words, "o"), field(&words, "t"), data)
    };
    all.into_iter().map(entry).collect()
}

/// Lengths of the persons' ids in the entries behind the newest `restart` of this stream.
async fn lengths(world: &World, stream: &str) -> BTreeSet<usize> {
    let all = entries(world, stream).await;
    let from = all.iter().rposition(|(op, ..)| op == "restart").map_or(0, |at| at + 1);
    let person = |(_, table, data): &(String, String, Value)| {
        let place = if table == "public.people" { 0 } else { 1 };
        Some(data["new"][place].as_str()?.len())
    };
    all[from..].iter().filter_map(person).collect()
}

async fn load_again(world: &World, tables: &[&str]) {
    let words: Vec<&str> = tables.iter().flat_map(|table| ["--table", *table]).collect();
    world.engine.run(&[&["bootstrap"][..], &words].concat()).await.success();
    eventually("the tables to be loaded again", async || {
        let status = world.try_status().await?;
        (status["load"]["mode"] == "" && status["load"]["finished"] == true).then_some(())
    })
    .await;
}

/// Loads all of them again until the generation is above this one: a load does not wait for a
/// candidate that is not ready within seconds.
async fn moved(world: &World, above: u64) {
    eventually("the identity to move", async || {
        load_again(world, &ALL).await;
        (generation(world).await > above).then_some(())
    })
    .await;
    // Once all is loaded, another one of the same rules comes, which knows that.
    eventually("what was before to be forgotten", async || {
        let warnings = world.try_status().await?["warnings"].to_string();
        (!warnings.contains("rows that left before")).then_some(())
    })
    .await;
}

const ALL: [&str; 3] = ["public.people", "public.orders", "public.parts"];

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_moves_where_its_tables_are_loaded_again() {
    let mut world = start(TABLES, &hashed(32)).await;
    let person = |id: &str| {
        format!(
            "INSERT INTO people VALUES ('{id}', '{id}@x'); INSERT INTO orders VALUES ('o-{id}', '{id}')"
        )
    };
    world.pg.sql(&person("before")).await;
    world.bootstrap().await;
    settle(&world, &person("changed")).await;
    assert_eq!(lengths(&world, "changes").await, BTreeSet::from([32]));

    // Refused, with both ways on; some of the tables are not enough.
    let told = refused(&world, &hashed(20), "public.orders.person: it says where rows are").await;
    let way = "kasho bootstrap --table public.orders --table public.parts --table public.people";
    assert!(told.contains(way) && told.contains("accept = \""), "{told}");
    load_again(&world, &ALL[..2]).await;
    assert_eq!(generation(&world).await, 1, "a part of what moves does not move");
    moved(&world, 1).await;
    assert!((2..=3).contains(&generation(&world).await));
    assert_eq!(lengths(&world, "bootstrap").await, BTreeSet::from([20]));
    settle(&world, &person("after")).await;
    assert_eq!(lengths(&world, "changes").await, BTreeSet::from([20]));

    // A restart stays there, and a second move is one like the first.
    world.engine.terminate().await;
    world.engine.start_again();
    world.until_state("STREAMING").await;
    settle(&world, &person("restarted")).await;
    assert_eq!(lengths(&world, "changes").await, BTreeSet::from([20]));
    let before = generation(&world).await;
    refused(&world, &hashed(24), way).await;
    moved(&world, before).await;
    settle(&world, &person("last")).await;
    assert_eq!(lengths(&world, "bootstrap").await, BTreeSet::from([24]));
    assert_eq!(lengths(&world, "changes").await, BTreeSet::from([24]));
    // What was let pass once is not let pass again.
    refused(&world, &hashed(32), way).await;
    // The other way on: this candidate alone, confirmed.
    let told = refused(&world, &hashed(32), "accept = ").await;
    let digest = told.split("accept = ").nth(1).and_then(|rest| rest.split('"').nth(1));
    let accepted = format!("accept = \"{}\"\n", digest.expect("a digest"));
    let before = generation(&world).await;
    let World { pg, redis, engine } = &world;
    let text = text(pg, redis, engine.home().grpc_port(), &hashed(32));
    engine.home().write_config(&format!("{accepted}{text}"));
    eventually("the confirmed one to be taken", async || {
        (world.try_status().await?["generation"].as_u64()? > before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_key_lists_every_line_that_is_missing() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql(
        "CREATE TABLE people (id text PRIMARY KEY, email text);
            CREATE TABLE orders (id text PRIMARY KEY, person text UNIQUE REFERENCES people);
            CREATE TABLE parts (id text PRIMARY KEY, person text REFERENCES orders (person));
            CREATE PUBLICATION kasho_pub FOR ALL TABLES;",
    )
    .await;
    let builder = Engine::builder().plugin("anonymize").env("ID_KEY", KEY);
    let port = builder.home().grpc_port();
    let engine = builder.config("").build();
    let columns = ["people.id", "orders.person", "parts.person"];
    // Whichever end of the chain has the rule, the two others are told.
    for masked in columns {
        let lines = columns.map(|column| match column == masked {
            true => format!("\"public.{column}\" = {{ transform = \"hash\", length = 24 }}\n"),
            false => format!("\"public.{column}\" = \"pass\"\n"),
        });
        engine.home().write_config(&text(&pg, &redis, port, &rules("", &lines.concat())));
        let told = engine.run(&["check"]).await;
        assert_ne!(told.code, 0);
        for column in columns.iter().filter(|column| **column != masked) {
            let line = format!("\"public.{column}\" = {{ ");
            assert!(told.stderr.contains(&line), "no {line:?} for {masked} in {}", told.stderr);
        }
        assert!(told.stderr.contains("length = 24"), "{}", told.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_is_renamed_while_the_stream_lags() {
    let secret = logs::planted_unique("renamed");
    let tables = "CREATE TABLE people (id text PRIMARY KEY, email text);
                  CREATE PUBLICATION kasho_pub FOR ALL TABLES;";
    let people = |renamed: &str| {
        format!(
            "[keys]\nk1 = {{ env = \"ID_KEY\" }}\n[[transform]]\nname = \"mask\"\n\
             plugin = \"anonymize.wasm\"\ntables = [\"public.people\"]\n{renamed}\
             [transform.rules]\n\"public.people.id\" = \"pass\"\n\
             \"public.people.email\" = \"fake_email\"\n"
        )
    };
    let mut world = start(tables, &people("")).await;
    world.bootstrap().await;
    settle(&world, &format!("INSERT INTO people VALUES ('1', '{secret}@x')")).await;
    world.engine.terminate().await;
    // The stream lags behind two renames.
    for (id, rename) in [("2", "email TO mail"), ("3", "mail TO address")] {
        world.pg.sql(&format!("INSERT INTO people VALUES ('{id}', '{secret}@x')")).await;
        world.pg.sql(&format!("ALTER TABLE people RENAME {rename}")).await;
    }
    // Without the other names the stream stops where the first of them comes.
    world.engine.start_again();
    eventually("the halt", async || {
        let error = world.try_status().await?["last_error"].as_str()?.to_owned();
        (error.contains("column email") && error.contains("does not have")).then_some(())
    })
    .await;
    let both = "[transform.also_called]\n\"public.people.email\" = [\"mail\", \"address\"]\n";
    write(&world, &people(both));
    settle(&world, &format!("INSERT INTO people VALUES ('4', '{secret}@x')")).await;
    let columns: Vec<String> = (entries(&world, "changes").await.iter())
        .map(|(_, _, data)| data["cols"][1].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(columns, ["email", "email", "mail", "address"]);
    let fakes: BTreeSet<String> = (entries(&world, "changes").await.iter())
        .map(|(_, _, data)| data["new"][1].as_str().expect("a fake").to_owned())
        .collect();
    assert_eq!(fakes.len(), 1, "one address, one fake, whatever its column is called");
    let all = world.redis.cli(&["XRANGE", "{kasho}:1:changes", "-", "+"]).await;
    assert!(!all.contains(&secret));
    // Both at once are two columns, and none of them passes.
    world.pg.sql("ALTER TABLE people ADD mail text").await;
    world.pg.sql(&format!("INSERT INTO people VALUES ('5', '{secret}@x', '{secret}')")).await;
    eventually("the halt", async || {
        let error = world.try_status().await?["last_error"].as_str()?.to_owned();
        error.contains("has the columns mail and address").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_made_later_is_known_after_a_crash() {
    let secret = logs::planted_unique("later");
    let tables = "CREATE TABLE people (id text PRIMARY KEY, email text);
                  CREATE PUBLICATION kasho_pub FOR ALL TABLES;";
    let rules = |more: &str| {
        format!(
            "[keys]\nk1 = {{ env = \"ID_KEY\" }}\n[[transform]]\nname = \"mask\"\n\
             plugin = \"anonymize.wasm\"\ntables = [\"public.*\"]\n[transform.rules]\n\
             \"public.*.*\" = \"pass\"\n\"public.*.email\" = \"fake_email\"\n{more}"
        )
    };
    let mut world = start(tables, &rules("")).await;
    world.bootstrap().await;
    world.pg.sql("CREATE TABLE later (id text PRIMARY KEY, email text)").await;
    settle(&world, &format!("INSERT INTO later VALUES ('1', '{secret}@x')")).await;
    world.engine.kill9().await;
    // No rule names the column that it is then, and the table is none that the files were
    // loaded with.
    world.pg.sql("ALTER TABLE later RENAME email TO mail").await;
    world.pg.sql(&format!("INSERT INTO later VALUES ('2', '{secret}@x')")).await;
    world.engine.start_again();
    eventually("the halt", async || {
        let error = world.try_status().await?["last_error"].as_str()?.to_owned();
        error.contains("public.later.mail").then_some(())
    })
    .await;
    write(&world, &rules("\"public.later.mail\" = \"fake_email\"\n"));
    settle(&world, &format!("INSERT INTO later VALUES ('3', '{secret}@x')")).await;
    let fakes: BTreeSet<String> = (entries(&world, "changes").await.iter())
        .map(|(_, _, data)| data["new"][1].as_str().expect("a fake").to_owned())
        .collect();
    assert_eq!(fakes.len(), 1, "{fakes:?}");
    let all = world.redis.cli(&["XRANGE", "{kasho}:1:changes", "-", "+"]).await;
    assert!(!all.contains(&secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_column_halts_leaves_as_null_or_passes() {
    let secret = logs::planted_unique("new-column");
    for (policy, expected) in
        [("halt", None), ("null", Some(Value::Null)), ("pass", Some("seen".into()))]
    {
        let more = format!("new_columns = \"{policy}\"\nallow_unmasked = true\n");
        let persons = "\"public.people.id\" = \"pass\"\n\"public.orders.person\" = \"pass\"\n\
                       \"public.parts.person\" = \"pass\"\n";
        let world = start(TABLES, &rules(&more, persons)).await;
        world.bootstrap().await;
        world.pg.sql("ALTER TABLE people ADD note text").await;
        let Some(expected) = expected else {
            world.pg.sql(&format!("INSERT INTO people VALUES ('1', 'a@b', '{secret}')")).await;
            eventually("the halt, with the line to add", async || {
                let error = world.try_status().await?["last_error"].as_str()?.to_owned();
                error.contains("\"public.people.note\" = \"pass\"").then_some(())
            })
            .await;
            assert_eq!(world.entries("changes").await, 0);
            continue;
        };
        settle(&world, "INSERT INTO people VALUES ('1', 'a@b', 'seen')").await;
        let (_, _, data) = entries(&world, "changes").await.remove(0);
        assert_eq!((&data["cols"][2], &data["new"][2]), (&"note".into(), &expected));
        let status = world.engine.run(&["status"]).await.success().stdout;
        let shown = status.contains("UNMASKED       mask: new_columns = \"pass\"");
        assert_eq!(shown, policy == "pass", "{status}");
    }
}

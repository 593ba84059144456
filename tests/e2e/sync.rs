//! `pg-bootstrap-sync`: a dump becomes exactly what the engine's own load makes of the same
//! rows, whatever ends it on the way; and every moment in which it may not load is told.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::engine::Builder;
use crate::harness::{
    Engine, Output, PATIENCE, Postgres, Process, Redis, clients_of, eventually, logs, python,
    unique,
};
use crate::states::ask;
use crate::world::{World, Writer, config};
use crate::{states, types};

/// Begins a bootstrap that somebody else loads, and answers the snapshot.
async fn external(world: &World) -> String {
    let started = ask(world, "StartBootstrap", r#"{"load": "LOAD_EXTERNAL"}"#).await;
    started["snapshotName"].as_str().expect("a snapshot").to_owned()
}

/// Takes a dump into the engine's folder, as an operator would.
async fn dump(world: &World, snapshot: &str, name: &str, arguments: &[&str]) -> PathBuf {
    let file = world.engine.home().path().join(name);
    let mut command = std::process::Command::new(clients_of(&world.pg).await.join("pg_dump"));
    command.arg(format!("--snapshot={snapshot}")).args(["--data-only", "--no-owner"]);
    command.args(arguments).arg("--file").arg(&file).arg(world.pg.socket_url());
    Output::of(command, "").await.success();
    file
}

/// What `pg-bootstrap-sync` is started with.
fn sync<'a>(file: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let file = file.to_str().expect("UTF-8");
    [&["bootstrap-sync", "--dump-file", file], more].concat()
}

async fn refused(engine: &Engine, arguments: &[&str], words: &[&str]) -> String {
    let output = engine.run(arguments).await;
    assert_eq!(output.code, 1, "{arguments:?} was accepted: {}{}", output.stdout, output.stderr);
    let errors: Vec<&str> = output.stderr.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "one clear error: {}", output.stderr);
    for word in words {
        assert!(output.stderr.contains(word), "no word of {word:?} in {}", output.stderr);
    }
    output.stderr
}

/// CompleteBootstrap, with its last look at the loader.
async fn complete(world: &World) {
    let completed = ask(world, "CompleteBootstrap", "{}").await;
    assert_eq!(completed["currentState"], "STREAMING", "{completed}");
}

/// Every published table: its name as the stream has it, its columns, and COPY's text.
async fn copy_out(pg: &Postgres, folder: &Path) -> PathBuf {
    let tables = pg
        .rows(
            "SELECT format('%I.%I', schemaname, tablename), json_agg(a.attname ORDER BY attnum), \
                    string_agg(quote_ident(a.attname), ', ' ORDER BY attnum) \
             FROM pg_publication_tables \
             JOIN pg_attribute a ON a.attrelid = format('%I.%I', schemaname, tablename)::regclass \
             WHERE pubname = 'kasho_pub' AND attnum > 0 AND NOT attisdropped AND attgenerated = '' \
             GROUP BY 1",
        )
        .await;
    let mut catalog: BTreeMap<String, Value> = BTreeMap::new();
    for (number, row) in tables.iter().enumerate() {
        let [Some(table), Some(columns), Some(list)] = row.as_slice() else { panic!("{row:?}") };
        let file = folder.join(format!("{number}.copy"));
        let mut psql = pg.tool("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-o"]).arg(&file);
        psql.env("PGOPTIONS", "-c timezone=UTC -c bytea_output=hex -c datestyle=ISO,YMD");
        psql.arg("-c").arg(format!("COPY (SELECT {list} FROM {table}) TO STDOUT"));
        psql.arg(pg.socket_url());
        Output::of(psql, "").await.success();
        let columns: Value = serde_json::from_str(columns).expect("JSON");
        catalog.insert(table.clone(), json!({ "columns": columns, "file": file }));
    }
    let file = folder.join("catalog.json");
    std::fs::write(&file, serde_json::to_string(&catalog).expect("JSON")).expect("catalog.json");
    file
}

const NAMES: &str = r#"
    CREATE SCHEMA "Odd.Schema";
    CREATE TABLE "Odd.Schema"."a ""table"", named" ("Id" int PRIMARY KEY, "a,b" text, "COPY x FROM stdin;" text);
    INSERT INTO "Odd.Schema"."a ""table"", named" VALUES
        (1, NULL, ''), (2, E'\\.', E'tab\there'), (3, E'line\nbreak\\N', '--'), (4, '', E'\\N');
    CREATE TABLE first_null (a text, id int PRIMARY KEY);
    INSERT INTO first_null VALUES (NULL, 1), ('', 2), ('-- no comment', 3), (E'\\connect x', 4);
    CREATE TABLE parts (id int, day timestamptz, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    CREATE TABLE parts_2 (day timestamptz NOT NULL, id int NOT NULL);
    ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
    INSERT INTO parts VALUES (1, '2020-05-05 12:00+02'), (2, '2021-05-05 12:00:00.5-03:30');
    CREATE TABLE made (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
    INSERT INTO made VALUES (1), (2);
    CREATE SEQUENCE numbers;
    SELECT nextval('numbers');
"#;

/// Keeps what was loaded in epoch 1, or compares what was loaded in another with it.
async fn loads(world: &World, epoch: &str, catalog: Option<&Path>) {
    let kept = world.engine.home().path().join("loaded").display().to_string();
    let catalog = catalog.map(|path| path.display().to_string());
    let url = world.redis.url();
    let mut arguments = vec![url.as_str(), epoch, kept.as_str()];
    arguments.extend(catalog.as_deref());
    let output = python(include_str!("loads.py"), &arguments).await;
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_loads_what_the_direct_load_and_copy_load() {
    // A dump takes over neither of these settings.
    let pg = Postgres::builder()
        .setting("timezone", "America/St_Johns")
        .setting("bytea_output", "escape")
        .start();
    let (pg, redis) = tokio::join!(pg, Redis::start());
    types::fill(&pg).await;
    pg.sql(NAMES).await;
    let world = World::with(pg, redis, 100, "").await;
    world.bootstrap().await;
    loads(&world, "1", None).await;
    let folder = world.engine.home().path().join("copies");
    std::fs::create_dir(&folder).expect("folder");
    let catalog = copy_out(&world.pg, &folder).await;
    for (epoch, form) in [("2", &["--format=plain"][..]), ("3", &["--format=custom"])] {
        world.engine.run(&["reset", "--yes"]).await.success();
        let snapshot = external(&world).await;
        let file = dump(&world, &snapshot, "dump", form).await;
        let output = world.engine.run(&sync(&file, &[])).await.success();
        assert!(output.stdout.contains("positions of sequences"), "{}", output.stdout);
        complete(&world).await;
        loads(&world, epoch, Some(&catalog)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_loader_at_ten_moments_loses_and_repeats_nothing() {
    // The kills all come in the first eighth of it, and behind the first quarter there is no
    // room until nobody is killed any more.
    const ROWS: u64 = 80_000;
    let world = World::start(ROWS).await;
    let home = world.engine.home();
    let text = std::fs::read_to_string(home.config_path()).expect("kasho.toml");
    let small = home.path().join("small.toml");
    std::fs::write(&small, format!("{text}[redis.budget]\nbootstrap = \"2MiB\"\n")).expect("write");
    let held = ["-b", "50", "--config", small.to_str().expect("UTF-8")];
    let writer = Writer::start(&world.pg, ROWS).await;
    writer.more(100).await;
    let snapshot = external(&world).await;
    let file = dump(&world, &snapshot, "dump.sql", &[]).await;
    for moment in 0..10 {
        let random = u64::from_str_radix(&unique()[..8], 16).expect("hexadecimal") % (ROWS / 80);
        let goal = moment * (ROWS / 80) + random;
        let loader = world.engine.spawn(&sync(&file, &held));
        eventually("some rows", async || (world.entries("bootstrap").await > goal).then_some(()))
            .await;
        assert!(loader.exited().is_none(), "it ended too early to be killed at {goal}");
        loader.kill9().await;
        writer.more(20).await;
    }
    let output = world.engine.run(&sync(&file, &["-b", "50"])).await.success();
    assert!(output.stdout.contains("of them by earlier runs"), "{}", output.stdout);
    complete(&world).await;
    let last = writer.finish().await;
    let told = world.check_ledger(last + 1).await;
    assert!(told.contains("problems 0"), "{told}");
    // Loaded is loaded, also when somebody asks again later.
    let again = world.engine.run(&sync(&file, &["-b", "50"])).await.success();
    assert!(again.stdout.contains("loaded already"), "{}", again.stdout);
}

/// A loader that reads a pipe whose other end is in our hands: it lives as long as we like.
fn loader_on_a_pipe(world: &World) -> (Process, std::fs::File) {
    let pipe = world.engine.home().path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    // Open for both, or opening would wait for the reader.
    let writer = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).expect("pipe");
    let loader =
        world.engine.spawn_shell("exec \"$KASHO\" bootstrap-sync --dump-file - -b 20 < pipe");
    (loader, writer)
}

/// Writes the first half of a dump, and keeps the pipe open.
async fn write_half(mut pipe: std::fs::File, text: Vec<u8>) -> std::fs::File {
    let written = tokio::task::spawn_blocking(move || {
        pipe.write_all(&text[..text.len() / 2]).expect("write");
        pipe
    });
    written.await.expect("write")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_are_refused_and_standard_input_is_a_file_too() {
    let world = World::start(60_000).await;
    let snapshot = external(&world).await;
    let file = dump(&world, &snapshot, "dump.sql", &[]).await;
    let text = std::fs::read(&file).expect("dump");
    let (loader, pipe) = loader_on_a_pipe(&world);
    let rest = text[text.len() / 2..].to_vec();
    let mut pipe = write_half(pipe, text).await;
    eventually("rows", async || (world.entries("bootstrap").await > 0).then_some(())).await;
    let words = ["another loader writes this epoch", "pg-bootstrap-sync pid", "end it"];
    refused(&world.engine, &sync(&file, &[]), &words).await;
    let early = states::call(&world, "CompleteBootstrap", "{}", "0").await;
    assert!(early.stdout.contains("has not finished"), "{}", early.stdout);
    let load = eventually("the engine to look at the load", async || {
        let load = world.status().await["load"].clone();
        (load["rows"].as_u64() > Some(0)).then_some(load)
    })
    .await;
    assert_eq!(load["mode"], "external");
    tokio::task::spawn_blocking(move || {
        pipe.write_all(&rest).expect("write");
        drop(pipe);
    })
    .await
    .expect("write");
    assert!(loader.wait_exit().await.success());
    complete(&world).await;
    let told = world.check_ledger(60_001).await;
    assert!(told.contains("loaded 60000") && told.contains("problems 0"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_goes_on_behind_what_is_published() {
    let world = World::start(60_000).await;
    let snapshot = external(&world).await;
    let file = dump(&world, &snapshot, "dump.sql", &[]).await;
    let half = std::fs::read(&file).expect("dump");
    let (loader, pipe) = loader_on_a_pipe(&world);
    let _pipe = write_half(pipe, half).await;
    eventually("rows", async || (world.entries("bootstrap").await > 0).then_some(())).await;
    loader.kill9().await;
    let again = "cat dump.sql | \"$KASHO\" bootstrap-sync --dump-file - -b 20";
    let output = world.engine.shell(again).await.success();
    assert!(output.stdout.contains("of them by earlier runs"), "{}", output.stdout);
    complete(&world).await;
    let told = world.check_ledger(60_001).await;
    assert!(told.contains("loaded 60000") && told.contains("problems 0"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_configuration_rows_are_written_as_the_engine_writes_them() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'loaded')").await;
    pg.sql("CREATE PUBLICATION kasho_pub FOR ALL TABLES").await;
    let builder = Engine::builder();
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), "");
    let text = text.replacen("[redis]", "[redis]\nencoding = \"json\"", 1);
    let engine = builder.config(&text).start();
    let world = World { pg, redis, engine };
    world.until_state("WAITING").await;
    let snapshot = external(&world).await;
    let file = dump(&world, &snapshot, "t.sql", &[]).await;
    // As in a container that has nothing of the engine's: only the dump and Redis.
    let load = format!(
        "unset KASHO_CONFIG; mkdir elsewhere; cd elsewhere; \"$KASHO\" bootstrap-sync --dump-file {} \
         --redis-url={}",
        file.display(),
        world.redis.url()
    );
    world.engine.shell(&load).await.success();
    complete(&world).await;
    let all = world.redis.cli(&["XRANGE", "{kasho}:1:bootstrap", "-", "+"]).await;
    assert!(all.contains("{\"xid\"") && all.contains("\"loaded\""), "no JSON: {all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_moment_is_refused_with_what_to_do() {
    let world = World::start(50).await;
    let file = world.engine.home().path().join("dump.sql");
    std::fs::write(&file, "SET statement_timeout = 0;\n").expect("write");
    let engine = &world.engine;
    let line = sync(&file, &[]);
    refused(engine, &line, &["state WAITING", "StartBootstrap", "redis.prefix"]).await;

    world.bootstrap().await;
    refused(engine, &line, &["state STREAMING", "epoch 1", "kasho reset"]).await;
    engine.run(&["reset", "--yes"]).await.success();
    refused(engine, &line, &["state WAITING", "kasho bootstrap --external"]).await;

    ask(&world, "StartBootstrap", "{}").await;
    refused(engine, &line, &["state ACCUMULATING", "engine itself loads epoch 2", "directly"])
        .await;
    engine.run(&["reset", "--yes"]).await.success();

    ask(&world, "StartBootstrap", r#"{"load": "LOAD_NONE"}"#).await;
    refused(engine, &line, &["epoch 3", "without initial data"]).await;
    engine.run(&["reset", "--yes"]).await.success();

    external(&world).await;
    let catalog: String = world.redis.command(&["GET", "{kasho}:catalog"]).await;
    let _: i64 = world.redis.command(&["DEL", "{kasho}:catalog"]).await;
    refused(engine, &line, &["{kasho}:catalog", "kasho reset"]).await;
    let _: String = world.redis.command(&["SET", "{kasho}:catalog", "{}"]).await;
    refused(engine, &line, &["catalogue in Redis cannot be read"]).await;
    let _: String = world.redis.command(&["SET", "{kasho}:catalog", &catalog]).await;
    assert_eq!(world.entries("bootstrap").await, 0);
    refused(engine, &sync(Path::new("nowhere.sql"), &[]), &["nowhere.sql"]).await;

    let missing = ["--config", "missing.toml", "bootstrap-sync", "-d", "dump.sql"];
    refused(engine, &missing, &["missing.toml", "cannot be read"]).await;
    let _: i64 = world.redis.command(&["HSET", "{kasho}:checkpoint", "epoch", "7"]).await;
    refused(engine, &line, &["epoch 4", "checkpoint to 7"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_that_ends_under_the_loader_ends_it() {
    let world = World::start(60_000).await;
    let snapshot = external(&world).await;
    let file = dump(&world, &snapshot, "dump.sql", &[]).await;
    let text = std::fs::read(&file).expect("dump");
    let (loader, pipe) = loader_on_a_pipe(&world);
    let _pipe = write_half(pipe, text).await;
    eventually("rows", async || (world.entries("bootstrap").await > 0).then_some(())).await;
    world.engine.run(&["reset", "--yes"]).await.success();
    loader.wait_for("the bootstrap has ended while the dump was being loaded").await;
    assert_eq!(loader.wait_exit().await.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_that_ends_while_a_loader_waits_for_its_turn_gets_no_row_behind_its_end() {
    let world = World::start(50).await;
    let snapshot = external(&world).await;
    let file = dump(&world, &snapshot, "dump.sql", &[]).await;
    // Somebody of whom nobody here can say whether he lives has the turn.
    let (turn, other) = ("{kasho}:1:load", "pg-bootstrap-sync on another machine");
    let (seconds, _): (u64, u64) = world.redis.command(&["TIME"]).await;
    let until = ((seconds + 30) * 1_000).to_string();
    let _: i64 = world.redis.command(&["HSET", turn, "owner", other, "until", &until]).await;
    let loader = world.engine.spawn(&sync(&file, &[]));
    loader.wait_for("another loader had the turn").await;
    loader.signal("STOP");
    let _: i64 = world.redis.command(&["HDEL", turn, "owner", "until"]).await;
    let completed = ask(&world, "CompleteBootstrap", r#"{"force": true}"#).await;
    assert_eq!(completed["currentState"], "STREAMING", "{completed}");
    let end = world.entries("bootstrap").await;
    loader.signal("CONT");
    loader.wait_for("the bootstrap has ended while the dump was being loaded").await;
    assert_eq!(loader.wait_exit().await.code(), Some(1));
    assert_eq!(world.entries("bootstrap").await, end, "rows stand behind the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_or_other_options_do_not_go_on_with_a_load() {
    let world = World::start(20_000).await;
    let snapshot = external(&world).await;
    let file = dump(&world, &snapshot, "dump.sql", &[]).await;
    let other = dump(&world, &snapshot, "other.sql", &["--inserts"]).await;
    let whole = std::fs::read(&file).expect("dump");
    let cut = world.engine.home().path().join("cut.sql");
    std::fs::write(&cut, &whole[..whole.len() * 2 / 3]).expect("write");

    let loader = world.engine.spawn(&sync(&file, &["-b", "20"]));
    eventually("rows", async || (world.entries("bootstrap").await > 200).then_some(())).await;
    loader.kill9().await;
    let before = world.entries("bootstrap").await;
    refused(&world.engine, &sync(&other, &[]), &["kasho reset"]).await;
    refused(&world.engine, &sync(&cut, &[]), &["kasho reset"]).await;
    refused(&world.engine, &sync(&file, &["-m", "5"]), &["other options", "rows per table 5"])
        .await;
    assert_eq!(world.entries("bootstrap").await, before, "nothing of another file");
    world.engine.run(&sync(&file, &[])).await.success();
    complete(&world).await;
    let told = world.check_ledger(20_001).await;
    assert!(told.contains("problems 0"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_was_cut_is_an_error_with_its_place() {
    let world = World::start(5_000).await;
    let snapshot = external(&world).await;
    let file = dump(&world, &snapshot, "dump.sql", &[]).await;
    let whole = std::fs::read(&file).expect("dump");
    std::fs::write(&file, &whole[..whole.len() / 2]).expect("write");
    refused(&world.engine, &sync(&file, &[]), &["the dump ends at line", "byte"]).await;
    let early = states::call(&world, "CompleteBootstrap", "{}", "0").await;
    assert!(early.stdout.contains("has not finished"), "{}", early.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_each_table_makes_the_epoch_incomplete() {
    let world = World::start(500).await;
    let snapshot = external(&world).await;
    let file = dump(&world, &snapshot, "dump.sql", &[]).await;

    // A dry run changes no key and no stream.
    let keys = || async {
        let mut keys: Vec<String> = world.redis.command(&["KEYS", "*"]).await;
        keys.sort();
        keys
    };
    let before = keys().await;
    let output = world.engine.run(&sync(&file, &["--dry-run"])).await.success();
    assert!(output.stdout.contains("nothing was published: 500 rows"), "{}", output.stdout);
    assert_eq!(keys().await, before);
    assert_eq!(world.entries("bootstrap").await, 0);

    let output = world.engine.run(&sync(&file, &["-m", "7"])).await.success();
    assert!(output.stdout.contains("loaded: 7 rows"), "{}", output.stdout);
    assert!(output.stdout.contains("left out by -m"), "{}", output.stdout);
    assert_eq!(world.entries("bootstrap").await, 7);
    complete(&world).await;
    let status = world.status().await;
    assert!(status["warnings"].to_string().contains("incomplete"), "{status}");
}

/// An engine that masks the ledger's payload.
async fn masked(secret: &str, rows: u64) -> World {
    const RULES: &str = "[[transform]]\nname = \"mask\"\nplugin = \"anonymize.wasm\"\n\
         tables = [\"public.people\"]\n[transform.rules]\n\"public.people.id\" = \"pass\"\n\
         \"public.people.mail\" = { transform = \"constant\", value = \"masked-1\" }\n";
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql("CREATE TABLE people (id bigint PRIMARY KEY, mail text)").await;
    pg.sql("CREATE PUBLICATION kasho_pub FOR ALL TABLES").await;
    pg.sql(&format!(
        "INSERT INTO people SELECT n, '{secret}' || repeat('x', 150) FROM generate_series(1, {rows}) n"
    ))
    .await;
    let builder: Builder = Engine::builder();
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), RULES);
    let engine = builder.plugin("anonymize").config(&text).start();
    let world = World { pg, redis, engine };
    world.until_state("WAITING").await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_dump_pass_the_chain_or_do_not_pass() {
    let secret = logs::planted_unique("dumped");
    let world = masked(&secret, 900).await;
    let snapshot = external(&world).await;
    let file = dump(&world, &snapshot, "dump.sql", &[]).await;

    // As the document types it, without any configuration.
    let bare = format!(
        "unset KASHO_CONFIG; \"$KASHO\" bootstrap-sync --dump-file={} --redis-url={}",
        file.display(),
        world.redis.url()
    );
    let output = world.engine.shell(&bare).await;
    assert_eq!(output.code, 1, "{}", output.stdout);
    for words in ["the plugin chain of e1", "pg-bootstrap-sync --config=", "--dump-file=/"] {
        assert!(output.stderr.contains(words), "no {words:?} in {}", output.stderr);
    }
    // And with one that masks otherwise.
    let home = world.engine.home();
    let text = std::fs::read_to_string(home.config_path()).expect("kasho.toml");
    home.write("other.toml", text.replace("masked-1", "masked-2"));
    let other = ["--config", "other.toml", "bootstrap-sync", "--dump-file", "dump.sql"];
    refused(&world.engine, &other, &["the plugin chain of e1", "other.toml"]).await;
    assert_eq!(world.entries("bootstrap").await, 0, "nothing unmasked, nothing masked otherwise");

    world.engine.run(&sync(&file, &[])).await.success();
    complete(&world).await;
    let arguments = [&world.redis.url(), "1", "public.people", "mail", "masked-1"];
    let output = python(include_str!("masked.py"), &arguments).await;
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    assert_eq!(world.entries("bootstrap").await, 901);
    let stream = world.redis.cli(&["XRANGE", "{kasho}:1:bootstrap", "-", "+"]).await;
    assert!(!stream.contains(&secret) && stream.contains("masked-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_came_by_dump_is_not_unmasked_by_a_rename() {
    let secret = logs::planted_unique("dumped");
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    let people = "CREATE TABLE people (id int PRIMARY KEY, mail text)";
    pg.sql(&format!("{people}; CREATE PUBLICATION kasho_pub FOR ALL TABLES")).await;
    let builder: Builder = Engine::builder();
    let rules = "[[transform]]\nname = \"mask\"\nplugin = \"anonymize.wasm\"\n\
                 tables = [\"public.*\"]\n[transform.rules]\n\"public.*.*\" = \"pass\"\n\
                 \"public.*.mail\" = { transform = \"constant\", value = \"masked\" }\n";
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), rules);
    let engine = builder.plugin("anonymize").config(&text).start();
    let mut world = World { pg, redis, engine };
    eventually("the rules to be loaded", async || {
        (world.try_status().await?["generation"].as_u64()? > 0).then_some(())
    })
    .await;
    // The files were loaded without it, and all its rows come by the dump.
    let later = format!(
        "CREATE TABLE later (id int PRIMARY KEY, mail text); \
                         INSERT INTO later VALUES (1, '{secret}')"
    );
    world.pg.sql(&later).await;
    let snapshot = external(&world).await;
    let file = dump(&world, &snapshot, "dump.sql", &[]).await;
    world.engine.run(&sync(&file, &[])).await.success();
    complete(&world).await;
    world.engine.kill9().await;
    world.pg.sql("ALTER TABLE later RENAME mail TO email").await;
    world.pg.sql(&format!("INSERT INTO later VALUES (2, '{secret}')")).await;
    world.engine.start_again();
    eventually("the halt", async || {
        let error = world.try_status().await?["last_error"].as_str()?.to_owned();
        error.contains("public.later.email").then_some(())
    })
    .await;
    for stream in ["bootstrap", "changes"] {
        let all = world.redis.cli(&["XRANGE", &format!("{{kasho}}:1:{stream}"), "-", "+"]).await;
        assert!(!all.contains(&secret), "unmasked in {stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_changes_counts_for_the_rest_of_the_dump() {
    let secret = logs::planted_unique("dumped");
    let world = masked(&secret, 60_000).await;
    let snapshot = external(&world).await;
    let file = dump(&world, &snapshot, "dump.sql", &[]).await;
    let text = std::fs::read(&file).expect("dump");
    let rest = text[text.len() / 2..].to_vec();
    let (loader, pipe) = loader_on_a_pipe(&world);
    let mut pipe = write_half(pipe, text).await;
    eventually("rows", async || (world.entries("bootstrap").await > 0).then_some(())).await;
    let home = world.engine.home();
    let rules = std::fs::read_to_string(home.config_path()).expect("kasho.toml");
    home.write_config(&rules.replace("masked-1", "masked-2"));
    eventually("the new generation", async || {
        (world.try_status().await?["generation"].as_u64()? > 1).then_some(())
    })
    .await;
    // It is written down with the first change that passes it.
    world.pg.sql(&format!("INSERT INTO people VALUES (0, '{secret}')")).await;
    loader.wait_for("the engine has another chain, and so has the load").await;
    tokio::task::spawn_blocking(move || {
        pipe.write_all(&rest).expect("write");
        drop(pipe);
    })
    .await
    .expect("write");
    assert!(loader.wait_exit().await.success());
    complete(&world).await;
    let arguments = [&world.redis.url(), "1", "public.people", "mail", "masked-"];
    let output = python(include_str!("masked.py"), &arguments).await;
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    let stream = world.redis.cli(&["XRANGE", "{kasho}:1:bootstrap", "-", "+"]).await;
    assert!(stream.contains("masked-1") && stream.contains("masked-2"), "both generations");
    assert_eq!(world.entries("bootstrap").await, 60_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_the_loader_waits_and_says_so() {
    let (pg, redis) = (Postgres::start(), Redis::builder().setting("maxmemory", "24mb").start());
    let (pg, redis) = tokio::join!(pg, redis);
    let world = World::with(pg, redis, 60_000, "[redis.budget]\nbootstrap = \"2MiB\"\n").await;
    let snapshot = external(&world).await;
    let file = dump(&world, &snapshot, "dump.sql", &[]).await;
    world.engine.run(&["consumers", "add", "reader"]).await.success();
    let loader = world.engine.spawn(&sync(&file, &[]));
    let paused = loader.wait_for("publishing is paused").await;
    assert!(paused.contains("budget") && paused.contains("reader"), "{paused}");
    // Whoever asks the engine is told too, though it is another process that waits.
    eventually("the engine to say why", async || {
        let status = world.status().await;
        let why = status["paused"].as_str().expect("text");
        (why.contains("the bootstrap stream takes") && why.contains("reader")).then_some(())
    })
    .await;
    let key = "{kasho}:1:bootstrap";
    let mut read = 0;
    let begun = std::time::Instant::now();
    while read < 60_000 {
        assert!(begun.elapsed() < PATIENCE, "{read} rows came; {:?}", loader.lines().last());
        let command = ["XREADGROUP", "GROUP", "reader", "c", "COUNT", "2000", "BLOCK", "100"];
        let command = [&command[..], &["STREAMS", key, ">"]].concat();
        type Entries = Vec<(String, Vec<(String, redis::Value)>)>;
        let found: Option<Entries> = world.redis.command(&command).await;
        let found = found.into_iter().flatten().flat_map(|(_, entries)| entries);
        let ids: Vec<String> = found.map(|(id, _)| id).collect();
        if ids.is_empty() {
            continue;
        }
        let words: Vec<&str> =
            ["XACK", key, "reader"].into_iter().chain(ids.iter().map(String::as_str)).collect();
        assert_eq!(world.redis.command::<usize>(&words).await, ids.len());
        // An entry has the number of its last row.
        read = ids[ids.len() - 1].split('-').next().expect("a number").parse().expect("a number");
    }
    assert!(loader.wait_exit().await.success());
    eventually("nothing to wait", async || (world.status().await["paused"] == "").then_some(()))
        .await;
    complete(&world).await;
}

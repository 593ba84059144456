//! Every figure of GetStatus, provoked, and held against what PostgreSQL and Redis say of
//! themselves. A figure is at most a look (a second) old, so each is waited for.

use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::harness::{Engine, Output, PATIENCE, Postgres, Redis, eventually, guest, python};
use crate::world::{LEDGER, World, config, fill};

const SLOT: &str = "FROM pg_replication_slots WHERE slot_name = 'kasho_slot'";

/// Servers, and an engine with `redis` among the lines of its `[redis]`, and with `more`.
async fn site(redis: &str, more: &str) -> World {
    let cache = Redis::builder().append_only("always").start();
    let (pg, cache) = tokio::join!(Postgres::start(), cache);
    pg.sql(LEDGER).await;
    fill(&pg, 1, 20).await;
    let builder = Engine::builder();
    let text = config(&pg.url(), &cache.url(), builder.home().grpc_port(), more);
    let text = text.replace("[redis]\n", &format!("[redis]\n{redis}\n"));
    let engine = builder.config(&text).plugin("anonymize").start();
    let world = World { pg, redis: cache, engine };
    world.until(|status| status["last_error"] == "").await;
    world
}

impl World {
    /// Waits for a status that is as it shall be.
    async fn until(&self, is: impl Fn(&Value) -> bool) -> Value {
        let last = std::sync::Mutex::new(Value::Null);
        let look = async || {
            let status = self.try_status().await?;
            *last.lock().unwrap() = status.clone();
            is(&status).then_some(status)
        };
        tokio::select! {
            status = eventually("a status", look) => status,
            () = tokio::time::sleep(PATIENCE * 9 / 10) => {
                panic!("no such status, but {:#}", last.lock().unwrap())
            }
        }
    }

    /// Waits until a figure is the answer to a query.
    async fn agrees(&self, field: &str, query: &str) -> Value {
        let told = std::sync::Mutex::new((String::new(), String::new()));
        let look = async || {
            let status = self.try_status().await?;
            let value = match &status[field] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let expected = self.pg.value(query).await;
            let same = value == expected;
            *told.lock().unwrap() = (value, expected);
            same.then(|| status[field].clone())
        };
        tokio::select! {
            value = eventually(field, look) => value,
            () = tokio::time::sleep(PATIENCE * 9 / 10) => {
                panic!("{field}: status and server differ: {:?}", told.lock().unwrap())
            }
        }
    }

    async fn grpc(&self, method: &str, request: &str, count: &str) -> Output {
        let address = format!("127.0.0.1:{}", self.engine.home().grpc_port());
        let method = format!("kasho.ChangeStreamService/{method}");
        let arguments = [address.as_str(), &method, request, count];
        python(include_str!("grpcurl.py"), &arguments).await
    }
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("text")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_of_the_source_are_the_sources_own() {
    let begun = Instant::now();
    let world = site("durability = \"aof\"", "").await;
    let status = world.status().await;
    for (field, expected) in [
        ("state", "WAITING"),
        ("slot", "kasho_slot"),
        ("publication", "kasho_pub"),
        ("durability", "aof"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("start_lsn", ""),
        ("current_lsn", ""),
        ("confirmed_lsn", ""),
        ("wal_status", ""),
        ("snapshot_name", ""),
        ("changes_key", ""),
        ("bootstrap_key", ""),
        ("paused", ""),
    ] {
        assert_eq!(status[field], expected, "{field}");
    }
    for field in ["epoch", "lag_bytes", "retained_wal_bytes", "accumulated_changes"] {
        assert_eq!(status[field], 0, "{field}");
    }
    let up = status["uptime_seconds"].as_u64().expect("seconds");
    assert!(up <= begun.elapsed().as_secs());

    findings_come_and_go(&world).await;
    a_start_says_whom_it_waits_for(&world).await;
    accumulating(&world).await;
    streaming(&world).await;
}

/// A finding on the source is told for as long as it stands.
async fn findings_come_and_go(world: &World) {
    let unlimited = |status: &Value| {
        texts(&status["warnings"]).iter().any(|text| text.contains("max_slot_wal_keep_size is -1"))
    };
    let warned = world.until(unlimited).await;
    assert_eq!(warned["warnings"].as_array().map(Vec::len), Some(1), "{warned}");
    world.pg.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'").await;
    world.pg.sql("SELECT pg_reload_conf()").await;
    world.until(|status| !unlimited(status)).await;
}

/// Making the slot waits for whoever has written.
async fn a_start_says_whom_it_waits_for(world: &World) {
    let open = world.pg.client().await;
    open.batch_execute("BEGIN; INSERT INTO ledger VALUES (-1, 'open')").await.unwrap();
    let pid: i32 = open.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let starting = world.engine.run(&["bootstrap", "--external"]);
    let watching = async {
        let status = world.until(|status| status["load"]["blocking_pid"] != 0).await;
        assert_eq!(status["load"]["blocking_pid"], pid);
        let who = status["load"]["blocking"].as_str().expect("text");
        assert!(who.contains(&pid.to_string()), "{who}");
        open.batch_execute("ROLLBACK").await.unwrap();
        world.until_state("ACCUMULATING").await;
    };
    tokio::select! {
        () = watching => {}
        output = starting => panic!("it did not wait for the load: {output:?}"),
    }
}

async fn accumulating(world: &World) {
    let status = world.status().await;
    assert_eq!((&status["epoch"], &status["load"]["mode"]), (&1.into(), &"external".into()));
    assert_eq!(
        (&status["load"]["finished"], &status["load"]["blocking_pid"]),
        (&false.into(), &0.into())
    );
    assert_eq!(status["changes_key"], "{kasho}:1:changes");
    assert_eq!(status["bootstrap_key"], "{kasho}:1:bootstrap");
    let at = status["start_lsn"].as_str().expect("LSN");
    let ours = format!("SELECT confirmed_flush_lsn >= '{at}' AND restart_lsn <= '{at}' {SLOT}");
    assert_eq!(world.pg.value(&ours).await, "t");
    // The snapshot can be stood at, as pg_dump does, and does not see what came after.
    let name = status["snapshot_name"].as_str().expect("a name").to_owned();
    fill(&world.pg, 21, 27).await;
    let stood = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{name}'; \
         SELECT count(*) FROM ledger"
    );
    assert!(world.pg.psql(&stood).await.ends_with("\n20"), "{stood}");
    world.until(|status| status["accumulated_changes"] == 7).await;
    assert_eq!(world.entries("changes").await, 7);

    // What snapshot and slot hold back ages with every transaction.
    for _ in 0..60 {
        world.pg.sql("SELECT txid_current()").await;
    }
    let age = format!(
        "SELECT greatest((SELECT max(age(backend_xmin)) FROM pg_stat_activity
             WHERE application_name LIKE 'kasho %'), (SELECT age(catalog_xmin) {SLOT}))"
    );
    let age = world.agrees("xmin_age", &age).await;
    assert!(age.as_u64() >= Some(60), "{age}");
}

async fn streaming(world: &World) {
    let completed = world.grpc("CompleteBootstrap", r#"{"force": true}"#, "0").await;
    assert!(completed.success().stdout.contains("STREAMING"));
    let status = world.until(|status| status["state"] == "STREAMING").await;
    assert_eq!((&status["snapshot_name"], &status["accumulated_changes"]), (&"".into(), &7.into()));
    world.settle(28).await;
    let newest = world.newest().await.expect("an entry").0;
    world.agrees("current_lsn", &format!("SELECT '0/0'::pg_lsn + {newest}")).await;
    world.agrees("wal_status", &format!("SELECT wal_status {SLOT}")).await;
    world.agrees("confirmed_lsn", &format!("SELECT confirmed_flush_lsn {SLOT}")).await;
    let log = "pg_current_wal_lsn()";
    let retained = format!("SELECT pg_wal_lsn_diff({log}, restart_lsn) {SLOT}");
    let retained = world.agrees("retained_wal_bytes", &retained).await;
    assert!(retained.as_u64() > Some(0));

    // Redis stands still: what PostgreSQL says is told all the same, and the lag grows.
    world.redis.freeze();
    fill(&world.pg, 29, 5_000).await;
    let lag = format!("SELECT pg_wal_lsn_diff({log}, confirmed_flush_lsn) {SLOT}");
    let lag = world.agrees("lag_bytes", &lag).await;
    assert!(lag.as_u64() > Some(500_000), "{lag}");
    world.redis.thaw();
    world.settle(5_001).await;
    world.until(|status| status["lag_bytes"].as_u64() < Some(500_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_of_the_load_the_readers_and_redis() {
    let world = site("", "").await;
    // Without a terminal to ask it stays in ACCUMULATING.
    world.engine.run(&["bootstrap"]).await.success();
    let status = world.until(|status| status["load"]["finished"] == true).await;
    assert_eq!(status["state"], "ACCUMULATING");
    let load = &status["load"];
    assert_eq!((&load["mode"], &load["rows"]), (&"direct".into(), &20.into()));
    assert_eq!((&load["tables"], &load["tables_done"]), (&1.into(), &1.into()));
    let text = "SELECT sum(octet_length(id || E'\\t' || payload || E'\\n')) FROM ledger";
    assert_eq!(load["bytes"].to_string(), world.pg.value(text).await);
    let size = world.pg.value("SELECT pg_table_size('ledger')").await;
    assert_eq!(load["bytes_estimated"].to_string(), size);
    let table = &load["table_progress"][0];
    assert_eq!((&table["table"], &table["rows"]), (&"public.ledger".into(), &20.into()));
    assert_eq!((&table["done"], &table["load_lsn"]), (&true.into(), &"".into()));
    world.bootstrap().await;
    let status = world.until(|status| status["state"] == "STREAMING").await;
    assert_eq!((&status["load"]["rows"], &status["load"]["finished"]), (&20.into(), &true.into()));

    consumers(&world).await;
    clients(&world).await;
    a_full_redis(&world).await;
}

/// Consumers, while they read the load and after.
async fn consumers(world: &World) {
    world.engine.run(&["consumers", "add", "reader"]).await.success();
    let rows = world.entries("bootstrap").await;
    let status = world.until(|status| status["consumers"][0]["lag_entries"] == rows).await;
    assert_eq!(status["consumers"][0]["name"], "reader");
    assert_eq!(status["consumers"][0]["position"], "e1:bootstrap:0");
    world.settle(21).await;
    let (first, _) = world.newest().await.expect("an entry");
    let position =
        format!("e1:{}:1", world.pg.value(&format!("SELECT '0/0'::pg_lsn + {first}")).await);
    let ack = format!(r#"{{"consumer": "reader", "position": "{position}"}}"#);
    world.grpc("Ack", &ack, "0").await.success();
    world.settle(22).await;
    let behind = world.newest().await.expect("an entry").0 - first;
    assert!(behind > 0);
    let status = world.until(|status| status["consumers"][0]["lag_bytes"] == behind).await;
    assert_eq!(status["consumers"][0]["position"], position);
    assert_eq!(status["consumers"][0]["lag_entries"], 0);
    assert!(status["consumers"][0]["silent_seconds"].as_u64() < Some(60), "{status}");
    world.engine.run(&["consumers", "remove", "reader"]).await.success();
    world.until(|status| status["consumers"].as_array().is_some_and(Vec::is_empty)).await;
}

/// Open streams.
async fn clients(world: &World) {
    let stream = || world.grpc("Stream", "{}", "100");
    tokio::select! {
        _ = stream() => panic!("a stream ended"),
        _ = stream() => panic!("a stream ended"),
        _ = world.until(|status| status["connected_clients"] == 2) => {}
    }
    world.until(|status| status["connected_clients"] == 0).await;
}

/// What holds the stream is said for as long as it does.
async fn a_full_redis(world: &World) {
    let used = world.redis.cli(&["INFO", "memory"]).await;
    let used = used.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("memory");
    let used: u64 = used.trim().parse().expect("bytes");
    world
        .redis
        .command::<String>(&["CONFIG", "SET", "maxmemory", &(used + 1_000_000).to_string()])
        .await;
    fill(&world.pg, 23, 60_000).await;
    let status = world.until(|status| status["paused"] != "").await;
    assert!(status["paused"].as_str().is_some_and(|text| text.contains("Redis")), "{status}");
    world.redis.command::<String>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    world.check_ledger(60_001).await;
    world.until(|status| status["paused"] == "").await;
    assert_eq!(
        world.status().await["warnings"].as_array().map(Vec::len),
        Some(1),
        "of the log kept"
    );
}

/// One plugin on the ledger, with `more` of its section and this rule for the payload.
fn chain(more: &str, rule: &str) -> String {
    format!(
        "[plugins]\nfolder = \"plugins\"\nstore = \"store\"\npoll_ms = 100\n\
         [[transform]]\nname = \"people\"\nplugin = \"anonymize.wasm\"\n\
         tables = [\"public.ledger\"]\n{more}\"public.ledger.payload\" = {rule}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_of_the_chain() {
    let more = "new_columns = \"pass\"\nallow_unmasked = true\n[transform.rules]\n";
    let world = site("", &chain(more, "\"mask\"")).await;
    let status = world.status().await;
    assert_eq!(status["generation"], 1);
    let plugin = &status["plugins"][0];
    assert_eq!((&plugin["name"], &plugin["error"]), (&"people".into(), &"".into()));
    let sum = Command::new("sha256sum").arg(guest("anonymize")).output().expect("sha256sum").stdout;
    let sum = String::from_utf8(sum).expect("text");
    assert_eq!(plugin["digest"], sum.split(' ').next().expect("a sum"));
    assert_eq!(texts(&status["allow_unmasked"]), ["people: new_columns = \"pass\""]);
    let passes = |text: &&str| text.contains("public.ledger: column id passes");
    assert!(texts(&status["warnings"]).iter().any(passes), "{status}");

    let file = std::fs::read_to_string(world.engine.home().config_path()).expect("configuration");
    world.engine.home().write_config(&file.replace("= \"mask\"", "= \"nonsense\""));
    let refused = world.until(|status| status["plugins"][1]["error"] != Value::Null).await;
    assert_eq!(
        (&refused["generation"], &refused["plugins"][1]["name"]),
        (&1.into(), &"candidate".into())
    );
    let error = refused["plugins"][1]["error"].as_str().expect("text");
    assert!(error.contains("nonsense") && error.contains("generation 1 goes on"), "{error}");
    world
        .engine
        .home()
        .write_config(&file.replace("= \"mask\"", "= { transform = \"mask\", keep_last = 2 }"));
    let swapped = world.until(|status| status["generation"] == 2).await;
    assert_eq!(swapped["plugins"].as_array().map(Vec::len), Some(1), "{swapped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_halts_says_so_and_ends_the_command_that_waits_for_it() {
    let strict = "{ transform = \"regex\", pattern = \"not there\", replacement = \"x\" }";
    let world =
        site("", &chain("[transform.rules]\n\"public.ledger.id\" = \"pass\"\n", strict)).await;
    let output = world.engine.run(&["bootstrap", "--yes"]).await;
    assert_eq!(output.code, 1, "{output:?}");
    for word in ["the load has halted", "public.ledger", "kasho bootstrap"] {
        assert!(output.stderr.contains(word), "no word of {word:?} in {}", output.stderr);
    }
    let status = world.status().await;
    assert_eq!(
        (&status["state"], &status["load"]["finished"]),
        (&"ACCUMULATING".into(), &false.into())
    );
    let halted = status["load"]["halted"].as_str().expect("text");
    assert!(halted.contains("public.ledger"), "{status}");
    assert_eq!(status["last_error"], halted);

    let file = std::fs::read_to_string(world.engine.home().config_path()).expect("configuration");
    let looser = file.replace(strict, "{ transform = \"mask\", keep_last = 2 }");
    world.engine.home().write_config(&looser);
    world.until(|status| status["load"]["finished"] == true).await;
    world.bootstrap().await;
    let status = world.until(|status| status["last_error"] == "").await;
    assert_eq!((&status["load"]["halted"], &status["load"]["rows"]), (&"".into(), &20.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn before_both_servers_answer_the_state_is_the_stored_one() {
    let mut world = site("", "").await;
    world.bootstrap().await;
    assert!(world.engine.terminate().await.success());
    world.pg.stop("fast").await;
    world.engine.start_again();
    let stored = "still connecting (the state is as stored in Redis)";
    let said = |status: &Value, text: &str| {
        status["last_error"].as_str().is_some_and(|error| error.starts_with(text))
    };
    let status = world.until(|status| said(status, stored)).await;
    assert_eq!((&status["state"], &status["epoch"]), (&"STREAMING".into(), &1.into()));
    assert!(
        status["last_error"].as_str().is_some_and(|text| text.contains("cannot reach PostgreSQL"))
    );

    world.redis.shutdown().await;
    let unknown = "still connecting (the state is not known)";
    let status = world.until(|status| said(status, unknown)).await;
    assert_eq!((&status["state"], &status["epoch"]), (&"WAITING".into(), &0.into()));

    world.redis.start_again().await;
    world.pg.start_again().await;
    let status = world.until(|status| status["last_error"] == "").await;
    assert_eq!((&status["state"], &status["epoch"]), (&"STREAMING".into(), &1.into()));
    world.check_ledger(21).await;

    // Later on a server that goes away is told too, and the state stays what it is.
    world.pg.stop("fast").await;
    let status = world.until(|status| status["last_error"] != "").await;
    assert_eq!(status["state"], "STREAMING");
    world.pg.start_again().await;
    world.until(|status| status["last_error"] == "").await;
}

//! What an operator watches: metrics that a real Prometheus parser reads and that tell the
//! truth, probes that say why, logs that a machine reads, and what systemd is told.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;

use serde_json::Value;

use crate::harness::{Certificates, Engine, Postgres, Redis, eventually, get, logs, python};
use crate::world::{World, config, fill};

/// The samples of a scrape, `name{label=value}` to value; lint findings fail the test.
async fn scrape(world: &World) -> BTreeMap<String, f64> {
    let port = world.engine.home().http_port();
    let url = format!("http://127.0.0.1:{port}/metrics");
    let output = python(include_str!("metrics.py"), &[&url]).await.success();
    // Metrics are searched for planted values, as logs are.
    output.search(&format!("metrics-{port}"));
    serde_json::from_str(&output.stdout).expect("JSON")
}

/// One sample; cheap enough to be polled.
async fn sample(world: &World, name: &str) -> Option<f64> {
    let (status, body) = get(world.engine.home().http_port(), "/metrics").await?;
    assert_eq!(status, 200);
    let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}

async fn until(world: &World, name: &str, expected: f64) {
    eventually(&format!("{name} to be {expected}"), async || {
        (sample(world, name).await? == expected).then_some(())
    })
    .await;
}

/// Waits until a figure is what PostgreSQL says at the same time.
async fn agrees(world: &World, name: &str, query: &str) {
    eventually(&format!("{name} to be what PostgreSQL says"), async || {
        let before: f64 = world.pg.value(query).await.parse().ok()?;
        let told = sample(world, name).await?;
        let after: f64 = world.pg.value(query).await.parse().ok()?;
        (told == before && told == after).then_some(())
    })
    .await;
}

const MASK: &str = "[source]\nheartbeat_ms = 0\n[redis.budget]\nchanges = 0.5\n\
    bootstrap = \"20MiB\"\n[[transform]]\nname = \"mask\"\nplugin = \"anonymize.wasm\"\n\
    tables = [\"public.ledger\"]\ndeadline_ms = 5000\n[transform.rules]\n\
    \"public.ledger.id\" = \"pass\"\n\
    \"public.ledger.payload\" = \"null\"\n";

/// The configuration with a mask, `[source]` and `[redis.budget]` joined with the others.
fn masked(pg: &Postgres, redis: &Redis, grpc: u16, rule: &str) -> String {
    let (head, tail) = MASK.split_once("[redis.budget]").expect("sections");
    let text = config(&pg.url(), &redis.url(), grpc, &format!("[redis.budget]{tail}"));
    let source = head.strip_prefix("[source]\n").expect("section");
    text.replacen("[source]\n", &format!("[source]\n{source}"), 1).replace("\"null\"", rule)
}

async fn masked_world(rows: u64) -> World {
    let pg = Postgres::builder().setting("max_slot_wal_keep_size", "4GB").start().await;
    let redis = Redis::builder().setting("maxmemory", "100mb").start().await;
    pg.sql(
        "CREATE TABLE ledger (id bigint PRIMARY KEY, payload text);
         CREATE PUBLICATION kasho_pub FOR ALL TABLES",
    )
    .await;
    fill(&pg, 1, rows).await;
    let builder = Engine::builder().plugin("anonymize");
    let text = masked(&pg, &redis, builder.home().grpc_port(), "\"null\"");
    let world = World { engine: builder.config(&text).start(), pg, redis };
    world.until_state("WAITING").await;
    world
}

/// What the metrics tell of the changes stream's memory, once that is what Redis says: it is
/// looked at once a second, so it may be a look behind.
async fn stream_memory(world: &World) -> u64 {
    eventually("the look at Redis", async || {
        let told = scrape(world).await;
        let entries = world.entries("changes").await as f64;
        let key = "{kasho}:1:changes";
        let memory: u64 = world.redis.command(&["MEMORY", "USAGE", key]).await;
        let same = told["kasho_stream_entries{stream=changes}"] == entries
            && told["kasho_stream_bytes{stream=changes}"] == memory as f64;
        same.then_some(memory)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_pass_a_real_parser_and_tell_the_truth() {
    let world = masked_world(500).await;
    let secret = logs::planted_unique("payload");
    until(&world, "kasho_ready", 1.0).await;
    let waiting = scrape(&world).await;
    assert_eq!(waiting["kasho_state{state=WAITING}"], 1.0);
    assert_eq!((waiting["kasho_ready{}"], waiting["kasho_epoch{}"]), (1.0, 0.0));
    world.bootstrap().await;
    world.engine.run(&["consumers", "add", "slow"]).await.success();
    let insert =
        format!("INSERT INTO ledger SELECT n, '{secret}' FROM generate_series(501, 600) n");
    world.pg.sql(&insert).await;
    // A row is counted where it comes, an entry where Redis has it, a transaction last.
    until(&world, "kasho_entries_total{stream=\"changes\"}", 100.0).await;
    until(&world, "kasho_transactions_total", 1.0).await;
    until(&world, "kasho_lag_seconds", 0.0).await;
    agrees(
        &world,
        "kasho_retained_wal_bytes",
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) FROM pg_replication_slots",
    )
    .await;
    let lag = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)
               FROM pg_replication_slots";
    agrees(&world, "kasho_lag_bytes", lag).await;
    let xmin = "SELECT age(catalog_xmin) FROM pg_replication_slots";
    agrees(&world, "kasho_xmin_age_transactions", xmin).await;
    let safe = "SELECT safe_wal_size FROM pg_replication_slots";
    agrees(&world, "kasho_safe_wal_bytes", safe).await;

    let slow = "kasho_consumer_load_lag_entries{consumer=\"slow\"}";
    eventually("the consumer to be seen", async || sample(&world, slow).await).await;
    let told = scrape(&world).await;
    for (name, expected) in [
        ("kasho_state{state=STREAMING}", 1.0),
        ("kasho_state{state=WAITING}", 0.0),
        ("kasho_ready{}", 1.0),
        ("kasho_stream_open{}", 1.0),
        ("kasho_epoch{}", 1.0),
        ("kasho_generation{}", 1.0),
        ("kasho_entries_total{stream=bootstrap}", 500.0),
        ("kasho_entries_total{stream=changes}", 100.0),
        ("kasho_transactions_total{}", 1.0),
        ("kasho_load_rows{}", 500.0),
        ("kasho_load_finished{}", 1.0),
        ("kasho_paused{stream=changes}", 0.0),
        ("kasho_plugin_rows_total{plugin=mask}", 600.0),
        ("kasho_plugin_errors_total{plugin=mask}", 0.0),
        ("kasho_plugin_failures_total{plugin=mask}", 0.0),
        ("kasho_reload_refusals_total{}", 0.0),
        ("kasho_wal_status{status=reserved}", 1.0),
        ("kasho_max_retained_wal_bytes{}", (64_u64 << 30) as f64),
        ("kasho_budget_bytes{stream=changes}", 50.0 * 1024.0 * 1024.0),
        ("kasho_budget_bytes{stream=bootstrap}", 20.0 * 1024.0 * 1024.0),
        ("kasho_redis_maxmemory_bytes{}", 100.0 * 1024.0 * 1024.0),
        ("kasho_redis_durability_info{durability=reply}", 1.0),
        ("kasho_blocking_pid{}", 0.0),
    ] {
        assert_eq!(told.get(name), Some(&expected), "{name}\n{told:#?}");
    }
    let memory = stream_memory(&world).await;
    assert!(told["kasho_plugin_call_seconds_count{plugin=mask}"] >= 2.0);
    assert!(told["kasho_published_bytes_total{stream=changes}"] > 0.0);
    assert!(told["kasho_redis_memory_bytes{}"] > memory as f64);
    assert!(told["kasho_consumer_load_lag_entries{consumer=slow}"] >= 500.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_of_a_plugin_live_on_when_its_rules_change() {
    let world = masked_world(50).await;
    world.bootstrap().await;
    let rows = "kasho_plugin_rows_total{plugin=\"mask\"}";
    until(&world, rows, 50.0).await;
    let write = |rule: &str| {
        let home = world.engine.home();
        home.write_config(&masked(&world.pg, &world.redis, home.grpc_port(), rule));
    };
    write("\"no such rule\"");
    until(&world, "kasho_reload_refusals_total", 1.0).await;
    assert_eq!(sample(&world, "kasho_generation").await, Some(1.0));
    write("{ transform = \"constant\", value = \"x\" }");
    until(&world, "kasho_generation", 2.0).await;
    fill(&world.pg, 51, 60).await;
    until(&world, rows, 60.0).await;
    assert_eq!(sample(&world, "kasho_reload_refusals_total").await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_and_a_client_are_counted() {
    let world = World::start(20).await;
    world.bootstrap().await;
    let address = format!("127.0.0.1:{}", world.engine.home().grpc_port());
    let stream = |count: &'static str| {
        let arguments = [
            address.clone(),
            "kasho.ChangeStreamService/Stream".to_owned(),
            r#"{"position": "bootstrap", "consumer": "one"}"#.to_owned(),
            count.to_owned(),
        ];
        async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            python(include_str!("grpcurl.py"), &arguments).await
        }
    };
    // It waits for more than there is, until the engine ends.
    let waiting = tokio::spawn(stream("1000"));
    until(&world, "kasho_connected_clients", 1.0).await;
    until(&world, "kasho_consumer_load_lag_entries{consumer=\"one\"}", 21.0).await;
    fill(&world.pg, 21, 30).await;
    let newest = eventually("changes", async || world.newest().await).await;
    let first: Vec<(String, Vec<redis::Value>)> =
        world.redis.command(&["XRANGE", "{kasho}:1:changes", "-", "+", "COUNT", "1"]).await;
    let lsn: u64 = first[0].0.split_once('-').expect("id").0.parse().expect("LSN");
    let position = format!("e1:{:X}/{:X}:1", lsn >> 32, lsn & 0xFFFF_FFFF);
    let ack = format!(r#"{{"consumer": "one", "position": "{position}"}}"#);
    let arguments = [address.as_str(), "kasho.ChangeStreamService/Ack", &ack];
    python(include_str!("grpcurl.py"), &arguments).await.success();
    let behind = (newest.0 - lsn) as f64;
    until(&world, "kasho_consumer_lag_bytes{consumer=\"one\"}", behind).await;
    until(&world, "kasho_consumer_load_lag_entries{consumer=\"one\"}", 0.0).await;
    assert!(world.engine.terminate().await.success());
    waiting.await.expect("client");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_reads_is_not_silent() {
    let world = World::start(20).await;
    world.bootstrap().await;
    world.engine.run(&["consumers", "add", "group"]).await.success();
    let silent = async || sample(&world, "kasho_consumer_silent_seconds{consumer=\"group\"}").await;
    let before = eventually("some silence", async || silent().await.filter(|s| *s >= 3.0)).await;
    let words = [
        "XREADGROUP",
        "GROUP",
        "group",
        "one",
        "COUNT",
        "5",
        "STREAMS",
        "{kasho}:1:bootstrap",
        ">",
    ];
    // Silence grows with the clock: it reads until that is seen. Nothing of it is acknowledged.
    eventually("it to be heard", async || {
        world.redis.cli(&words).await;
        silent().await.filter(|s| *s < before)
    })
    .await;
    until(&world, "kasho_consumer_load_lag_entries{consumer=\"group\"}", 21.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_blocks_the_slot_and_what_it_holds_back_are_shown() {
    let world = World::start(10).await;
    let blocker = world.pg.client().await;
    blocker
        .batch_execute(
            "SET application_name = 'month end'; BEGIN; INSERT INTO ledger VALUES (0, '')",
        )
        .await
        .expect("an open transaction");
    let pid: i32 = blocker.query_one("SELECT pg_backend_pid()", &[]).await.expect("pid").get(0);
    let address = format!("127.0.0.1:{}", world.engine.home().grpc_port());
    let start = tokio::spawn(async move {
        let method = "kasho.ChangeStreamService/StartBootstrap";
        let arguments = [address.as_str(), method, r#"{"load": "LOAD_EXTERNAL"}"#];
        python(include_str!("grpcurl.py"), &arguments).await
    });
    until(&world, "kasho_blocking_pid", f64::from(pid)).await;
    let status = world.status().await;
    assert_eq!(status["load"]["blocking_pid"], pid);
    let blocking = status["load"]["blocking"].as_str().expect("text");
    assert!(blocking.contains("month end"), "{blocking}");
    blocker.batch_execute("ROLLBACK").await.expect("rollback");
    start.await.expect("client").success();
    until(&world, "kasho_blocking_pid", 0.0).await;

    // The snapshot stands still while the database moves on.
    world.until_state("ACCUMULATING").await;
    for _ in 0..40 {
        world.pg.sql("SELECT pg_current_xact_id()").await;
    }
    let held = "SELECT greatest((SELECT max(age(backend_xmin)) FROM pg_stat_activity
                    WHERE application_name LIKE 'kasho holder%'),
                   (SELECT age(catalog_xmin) FROM pg_replication_slots))";
    agrees(&world, "kasho_xmin_age_transactions", held).await;
    assert!(sample(&world, "kasho_xmin_age_transactions").await >= Some(40.0));
    assert!(world.status().await["xmin_age"].as_u64() >= Some(40));
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_systemd_are_told_when_it_stands_and_why_it_does_not() {
    let pg = Postgres::start().await;
    let mut redis = Redis::start().await;
    pg.sql(crate::world::LEDGER).await;
    redis.kill9().await;
    let builder = Engine::builder();
    let socket = builder.home().path().join("notify");
    let systemd = UnixDatagram::bind(&socket).expect("socket");
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), "");
    let builder = builder.config(&text).env("NOTIFY_SOCKET", &socket.display().to_string());
    let engine = builder.env("WATCHDOG_USEC", "2000000").start();
    let port = engine.home().http_port();
    // Read all the time, as systemd does: what does not fit into the socket is not kept.
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n) = systemd.recv(&mut buffer) {
            let _ = say.send(String::from_utf8_lossy(&buffer[..n]).into_owned());
        }
    });
    // Everything told up to a message that contains `text`.
    let mut heard = async |text: &str| {
        let mut all: Vec<String> = Vec::new();
        let listening = async {
            while all.last().is_none_or(|last| !last.contains(text)) {
                all.push(said.recv().await.expect("systemd listens"));
            }
        };
        let heard = tokio::time::timeout(crate::harness::PATIENCE, listening).await;
        assert!(heard.is_ok(), "{text} is not told: {all:?}");
        all
    };
    let told = heard("STATUS=still connecting (the state is not known)").await;
    assert!(!told.iter().any(|text| text.contains("READY=1")), "{told:?}");
    let probe = async |path: &str| eventually("the listener", async || get(port, path).await).await;
    assert_eq!(probe("/livez").await, (200, "ok\n".to_owned()));
    let (code, why) = eventually("a reason", async || {
        get(port, "/readyz").await.filter(|(_, why)| !why.contains("not looked at yet"))
    })
    .await;
    assert_eq!((code, why.contains("the connection to Redis failed")), (503, true), "{why}");

    redis.start_again().await;
    heard("READY=1").await;
    heard("WATCHDOG=1").await;
    heard("WATCHDOG=1").await;
    let world = World { pg, redis, engine };
    let ready = async || get(port, "/readyz").await.filter(|(code, _)| *code == 200);
    eventually("readiness", ready).await;
    world.bootstrap().await;
    heard("STATUS=STREAMING").await;
    eventually("readiness", ready).await;
    world.redis.kill9().await;
    let (_, why) = eventually("a lost Redis to show", async || {
        get(port, "/readyz").await.filter(|(code, _)| *code == 503)
    })
    .await;
    assert!(why.contains("Redis"), "{why}");
    assert_eq!(probe("/livez").await.0, 200, "a dead Redis is no reason to restart us");
    heard("STATUS=STREAMING, not ready: ").await;
    assert!(world.engine.terminate().await.success());
    heard("STOPPING=1").await;
}

/// Every line as JSON, with what a log pipeline needs.
fn json_lines(text: &str) -> Vec<Value> {
    let line = |line: &str| -> Value {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for key in ["timestamp", "level", "target", "message"] {
            assert!(value[key].is_string(), "no {key} in {line}");
        }
        let levels = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
        assert!(levels.iter().any(|level| value["level"] == *level), "{line}");
        value
    };
    text.lines().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_json_has_no_other_lines() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    let builder = Engine::builder();
    let text =
        config(&pg.url(), &redis.url(), builder.home().grpc_port(), "[log]\nformat = \"json\"\n");
    let mut engine = builder.config(&text).build();
    // What ends a start is a line too.
    let refused = engine.run(&["run"]).await;
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    let lines = json_lines(&refused.stderr);
    let last = lines.last().expect("a line");
    assert!(last["error"].as_str().is_some_and(|e| e.contains("kasho_pub")), "{last}");

    pg.sql(crate::world::LEDGER).await;
    fill(&pg, 1, 100).await;
    drop(engine);
    let builder = Engine::builder();
    let text =
        config(&pg.url(), &redis.url(), builder.home().grpc_port(), "[log]\nformat = \"json\"\n");
    engine = builder.config(&text).start();
    let mut world = World { pg, redis, engine };
    // Given up while its holder waits: the holder's own lines are among ours.
    let blocker = world.pg.client().await;
    blocker.batch_execute("BEGIN; INSERT INTO ledger VALUES (0, '')").await.expect("begin");
    world.until_state("WAITING").await;
    tokio::select! {
        _ = world.engine.run(&["bootstrap"]) => {}
        _ = world.engine.wait_for("waits for an open transaction") => {}
    }
    world.engine.run(&["reset", "--yes"]).await.success();
    // Nothing is left of it, whenever the blocker ends.
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'kasho slot%'";
    eventually("its session to end", async || {
        (world.pg.value(sessions).await == "0").then_some(())
    })
    .await;
    blocker.batch_execute("ROLLBACK").await.expect("rollback");
    world.bootstrap().await;
    world.redis.kill9().await;
    world.redis.start_again().await;
    world.engine.wait_for("has halted").await;
    assert!(world.engine.terminate().await.success());
    world.engine.wait_for("drained").await;
    let lines = json_lines(&world.engine.log());
    assert!(lines.len() > 5 && lines.iter().any(|line| line["level"] == "ERROR"));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_machines_need_tls_and_the_token() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql(crate::world::LEDGER).await;
    let certificates = Certificates::make();
    let token = logs::planted_unique("token");
    let builder = Engine::builder();
    let port = builder.home().http_port();
    let with = |http: &str| {
        let more = format!("[http]\nlisten = \"0.0.0.0:{port}\"\n{http}");
        config(&pg.url(), &redis.url(), builder.home().grpc_port(), &more)
    };
    let tls = format!(
        "tls_cert = \"{}\"\ntls_key = \"{}\"\ntoken = \"{token}\"\n",
        certificates.path("server.pem"),
        certificates.path("server.key")
    );
    let (open, guarded) = (with(""), with(&tls));
    let engine = builder.config(&open).build();
    let refused = engine.run(&["run"]).await;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("http.listen = \"0.0.0.0:"), "{}", refused.stderr);
    drop(engine);

    let builder = Engine::builder();
    let guarded = guarded.replace(&port.to_string(), &builder.home().http_port().to_string());
    let engine = builder.config(&guarded).start();
    engine.wait_for("ready state=WAITING").await;
    let port = engine.home().http_port();
    assert_eq!(get(port, "/livez").await, None, "nothing is said without TLS");
    let fetch = "import ssl, sys, urllib.request, urllib.error\n\
        context = ssl.create_default_context(cafile=sys.argv[2])\n\
        request = urllib.request.Request(sys.argv[1], headers=dict(h.split(': ') for h in sys.argv[3:]))\n\
        try: print(urllib.request.urlopen(request, context=context).status)\n\
        except urllib.error.HTTPError as error: print(error.code)";
    let ca = certificates.path("ca.pem");
    let code = async |path: &str, header: &str| {
        let url = format!("https://localhost:{port}{path}");
        let arguments = [url.as_str(), ca.as_str(), header];
        let arguments = if header.is_empty() { &arguments[..2] } else { &arguments[..] };
        python(fetch, arguments).await.success().stdout.trim().to_owned()
    };
    assert_eq!(code("/livez", "").await, "200");
    assert_eq!(code("/metrics", "").await, "401");
    assert_eq!(code("/metrics", "Authorization: Bearer wrong").await, "401");
    assert_eq!(code("/metrics", &format!("Authorization: Bearer {token}")).await, "200");
}

/// As an upgrade does it before it restarts the service.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_whose_file_was_removed_while_it_runs_loads_still() {
    let world = World::start(50).await;
    assert!(world.engine.terminate().await.success());
    let own = world.engine.spawn_shell("cp \"$KASHO\" own && exec ./own run");
    world.until_state("WAITING").await;
    std::fs::remove_file(world.engine.home().path().join("own")).expect("a program of its own");
    world.bootstrap().await;
    assert_eq!(world.entries("bootstrap").await, 51, "its rows and their end");
    own.signal("TERM");
    assert!(own.wait_exit().await.success());
}

//! `kasho verify` on real servers: a copy is equal whatever the servers' settings are, a single
//! row that is changed, missing or extra is named, and a single private value that stands in
//! the target is found, while a masked copy has none.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Engine, Output, Postgres, Redis, clients_of_both, eventually, logs, python};
use crate::world::{World, config};

/// Every way in which text depends on settings, keys of every kind, and what has no equality.
const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TABLE numbered (id bigint PRIMARY KEY, t text, d date, ts timestamptz, iv interval,
        f float8, r float4, n numeric, b bytea, j json, k jsonb, m mood, a text[], g money,
        made bigint GENERATED ALWAYS AS (id * 2) STORED);
    CREATE TABLE worded (name text, part int4, note text, PRIMARY KEY (name, part));
    CREATE TABLE keyless (a int4, j json);
    ALTER TABLE keyless REPLICA IDENTITY FULL;
    CREATE TABLE parted (id int4, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE parted_old PARTITION OF parted FOR VALUES FROM ('2000-01-01') TO ('2020-01-01');
    CREATE TABLE parted_new PARTITION OF parted FOR VALUES FROM ('2020-01-01') TO ('2040-01-01');
    CREATE PUBLICATION kasho_pub FOR ALL TABLES WITH (publish_via_partition_root = true);";

const ROWS: &str = r#"
    INSERT INTO numbered SELECT n, 'text ' || n, date '2001-02-03' + n % 3000,
        timestamptz '2001-02-03 04:05:06.789+00' + n * interval '1 hour', n * interval '36 hours',
        n / 3.0::float8, n / 7.0::float4, n / 100.0, decode(md5(n::text), 'hex'),
        json_build_object('n', n), jsonb_build_object('n', n, 'a', 1),
        (ARRAY['sad', 'ok', 'happy'])[1 + n % 3]::mood, ARRAY['x', NULL, n::text], n::money
    FROM generate_series(1, 40000) n;
    INSERT INTO worded SELECT (ARRAY['é', 'z', 'A', 'a', 'ß', 'Z'])[1 + n % 6], n, 'note ' || n
    FROM generate_series(1, 9000) n;
    INSERT INTO keyless SELECT n % 400, '{"n": 1}' FROM generate_series(1, 2000) n;
    INSERT INTO parted SELECT n, date '2000-01-01' + n * 7, 'v' || n FROM generate_series(1, 1900) n;"#;

/// Source, target and what `kasho verify` runs with; no engine.
struct Pair {
    source: Postgres,
    target: Postgres,
    #[expect(dead_code, reason = "it is asked for as long as the pair lives")]
    redis: Redis,
    engine: Engine,
}

impl Pair {
    async fn new(schema: &str, rows: &str, more: &str) -> Pair {
        let other = Postgres::builder()
            .target()
            .setting("datestyle", "German, DMY")
            .setting("intervalstyle", "sql_standard")
            .setting("extra_float_digits", "-5")
            .setting("bytea_output", "escape")
            .setting("timezone", "Asia/Kathmandu")
            .setting("lc_monetary", "C.UTF-8");
        let (source, target, redis) =
            tokio::join!(Postgres::start(), other.start(), Redis::start());
        source.sql(schema).await;
        source.sql(rows).await;
        let builder = Engine::builder().plugin("anonymize").plugin("filter");
        let text = config(&source.url(), &redis.url(), builder.home().grpc_port(), more);
        let engine = builder.config(&text).build();
        let pair = Pair { source, target, redis, engine };
        pair.copy().await;
        pair
    }

    /// `pg_dump | psql`.
    async fn copy(&self) {
        let clients = clients_of_both(&self.source, &self.target).await;
        let mut dump = Command::new(clients.join("pg_dump"));
        dump.args(["-O", "--no-publications", &self.source.socket_url()]);
        let dump = tokio::task::spawn_blocking(move || dump.output()).await;
        let dump = dump.expect("pg_dump").expect("pg_dump");
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let script = self.engine.home().path().join("dump.sql");
        // A setting that servers before 17 do not know.
        let text = String::from_utf8(dump.stdout).expect("UTF-8");
        let text = text.replacen("SET transaction_timeout = 0;\n", "", 1);
        std::fs::write(&script, text).expect("write");
        let mut psql = Command::new(clients.join("psql"));
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&script);
        psql.arg(self.target.socket_url());
        let psql = tokio::task::spawn_blocking(move || psql.output()).await;
        let psql = psql.expect("psql").expect("psql");
        assert!(psql.status.success(), "{}", String::from_utf8_lossy(&psql.stderr));
    }

    async fn verify(&self, more: &[&str]) -> Output {
        let url = self.target.url();
        let mut arguments = vec!["verify", "--target", &url];
        arguments.extend(more);
        self.engine.run(&arguments).await
    }

    async fn equal(&self, more: &[&str]) -> String {
        self.verify(more).await.success().stdout
    }

    /// The report and the verdict of a comparison that found something.
    async fn differing(&self, more: &[&str]) -> (Value, String) {
        let output = self.verify(&[&["--json"], more].concat()).await;
        assert_eq!(output.code, 1, "{}{}", output.stdout, output.stderr);
        (serde_json::from_str(&output.stdout).expect("JSON"), output.stderr)
    }
}

/// The report of one table.
fn table<'a>(report: &'a Value, name: &str) -> &'a Value {
    let all = report["tables"].as_array().expect("tables");
    all.iter().find(|table| table["table"] == name).unwrap_or_else(|| panic!("{name}: {report}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_equal_whatever_the_settings_of_its_server() {
    let pair = Pair::new(TABLES, ROWS, "").await;
    let told = pair.equal(&[]).await;
    for part in [
        "public.numbered: equal, 40000 rows\n",
        "public.worded: equal, 9000 rows\n",
        "public.keyless: equal, 2000 rows\n",
        "public.parted: equal, 1900 rows\n",
        "no applier keeps its progress there",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let told = pair.equal(&["--sample", "1000", "--leaks"]).await;
    assert!(told.contains("public.numbered: equal, 40000 rows, "), "{told}");
    assert!(told.contains("of them compared") && told.contains("no column is masked"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_row_that_differs_is_named() {
    let pair = Pair::new(TABLES, ROWS, "").await;
    pair.target.sql("UPDATE numbered SET j = '{\"n\":31337}', t = t WHERE id = 31337").await;
    pair.target.sql("DELETE FROM worded WHERE part = 17").await;
    pair.target.sql("INSERT INTO parted VALUES (-5, '2039-01-01', 'extra')").await;
    // One of five equal rows goes, and with it one that was not there comes.
    pair.target
        .sql(
            "DELETE FROM keyless WHERE ctid = (SELECT ctid FROM keyless WHERE a = 7 LIMIT 1);
             INSERT INTO keyless VALUES (7, '{\"n\":1}')",
        )
        .await;
    let (report, verdict) = pair.differing(&["--show-keys"]).await;
    assert!(verdict.contains("4 of 4 tables differ"), "{verdict}");
    let changed = &table(&report, "public.numbered")["differences"];
    let expected =
        serde_json::json!([{"kind": "changed", "key": [["id", "31337"]], "columns": ["j"]}]);
    assert_eq!(changed, &expected);
    let missing = &table(&report, "public.worded")["differences"];
    let expected = serde_json::json!([{"kind": "missing", "key": [["name", "Z"], ["part", "17"]]}]);
    assert_eq!(missing, &expected);
    let extra = &table(&report, "public.parted")["differences"];
    let expected =
        serde_json::json!([{"kind": "extra", "key": [["id", "-5"], ["at", "2039-01-01"]]}]);
    assert_eq!(extra, &expected);
    let copies = &table(&report, "public.keyless")["differences"];
    let expected = serde_json::json!([
        {"kind": "missing", "key": [], "copies": [5, 4]},
        {"kind": "extra", "key": [], "copies": [0, 1]},
    ]);
    assert_eq!(copies, &expected);
    let told = pair.verify(&["--show-keys"]).await;
    for part in
        ["changed: id = \"31337\" in j", "missing in the target: name = \"Z\", part = \"17\""]
    {
        assert!(told.stdout.contains(part), "{}", told.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_row_in_a_target_without_its_key_is_found() {
    let pair = Pair::new(TABLES, ROWS, "").await;
    pair.target
        .sql(
            "ALTER TABLE numbered DROP CONSTRAINT numbered_pkey;
             ALTER TABLE worded DROP CONSTRAINT worded_pkey;
             INSERT INTO numbered (id, t, d, ts, iv, f, r, n, b, j, k, m, a, g)
                SELECT id, t, d, ts, iv, f, r, n, b, j, k, m, a, g FROM numbered WHERE id = 31337;
             INSERT INTO worded SELECT * FROM worded WHERE part = 17",
        )
        .await;
    let (report, verdict) = pair.differing(&["--show-keys"]).await;
    assert!(verdict.contains("2 of 4 tables differ"), "{verdict}");
    let numbered = &table(&report, "public.numbered")["differences"];
    let expected =
        serde_json::json!([{"kind": "extra", "key": [["id", "31337"]], "copies": [1, 2]}]);
    assert_eq!(numbered, &expected);
    let worded = &table(&report, "public.worded")["differences"];
    let expected = serde_json::json!([
        {"kind": "extra", "key": [["name", "Z"], ["part", "17"]], "copies": [1, 2]},
    ]);
    assert_eq!(worded, &expected);
    let told = pair.verify(&["--show-keys"]).await.stdout;
    let part = "only in the target: id = \"31337\", 1 in the source, 2 in the target";
    assert!(told.contains(part), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_rules_remove_are_told_from_rows_that_are_wrong_whatever_the_key() {
    let schema = "CREATE TABLE orders (code text, part int4, status text, v text,
                    PRIMARY KEY (code, part));
                  CREATE TABLE secret (id int4 PRIMARY KEY);
                  CREATE TABLE notes (id int4 PRIMARY KEY, body text);
                  CREATE PUBLICATION kasho_pub FOR ALL TABLES;";
    let rows = "INSERT INTO orders SELECT 'o''r\"d\\er ' || n, n % 7, 'open', 'v' || n
                FROM generate_series(1, 9000) n;";
    let rules = FILTERED.replace("'id > 1000'", "'part > 3'");
    let pair = Pair::new(schema, rows, &rules).await;
    pair.target
        .sql(
            "DELETE FROM orders WHERE part <= 3; CREATE SCHEMA crm;
             ALTER TABLE notes SET SCHEMA crm; ALTER TABLE crm.notes RENAME body TO text",
        )
        .await;
    let told = pair.equal(&[]).await;
    assert!(told.contains("public.orders: equal, 9000 rows, 3857 in the target\n"), "{told}");
    let told = pair.equal(&["--sample", "500"]).await;
    assert!(told.contains("public.orders: equal, 9000 rows, 3857 in the target, "), "{told}");
    let wrong = "UPDATE orders SET v = 'x' WHERE code LIKE '%er 4' AND part = 4;
                 INSERT INTO orders VALUES ('new', 5, 'open', 'x');
                 ALTER TABLE orders DROP CONSTRAINT orders_pkey;
                 INSERT INTO orders SELECT * FROM orders WHERE code LIKE '%er 5' AND part = 5";
    pair.target.sql(wrong).await;
    let (report, _) = pair.differing(&["--show-keys"]).await;
    let mut found: Vec<_> = table(&report, "public.orders")["differences"]
        .as_array()
        .expect("list")
        .iter()
        .map(|d| (d["kind"].as_str().expect("kind"), d["key"][0][1].as_str().expect("key")))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [("changed", "o'r\"d\\er 4"), ("extra", "new"), ("extra", "o'r\"d\\er 5")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_or_column_that_the_target_lacks_is_a_difference() {
    let pair = Pair::new(TABLES, ROWS, "").await;
    pair.target.sql("DROP TABLE worded; ALTER TABLE numbered DROP COLUMN f").await;
    pair.target.sql("TRUNCATE keyless; DELETE FROM parted").await;
    let (report, _) = pair.differing(&[]).await;
    assert_eq!(table(&report, "public.worded")["lacks"], "the table");
    assert_eq!(table(&report, "public.numbered")["lacks"], "the columns f");
    assert_eq!(table(&report, "public.keyless")["target_rows"], 0);
    let parted = table(&report, "public.parted");
    assert_eq!((&parted["source_rows"], &parted["target_rows"]), (&1900.into(), &0.into()));
    assert_eq!(
        (parted["differences"].as_array().expect("list").len(), &parted["more"]),
        (1000, &true.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_published_is_named_and_nothing_at_all_is_no_success() {
    let schema = "CREATE TABLE numbers (id int4 PRIMARY KEY);
                  CREATE TABLE \"Left out\" (id int4 PRIMARY KEY);
                  CREATE TABLE parted (id int4 PRIMARY KEY) PARTITION BY RANGE (id);
                  CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
                  CREATE PUBLICATION kasho_pub FOR TABLE numbers, parted
                    WITH (publish_via_partition_root = true)";
    let pair = Pair::new(schema, "INSERT INTO numbers VALUES (1)", "").await;
    let told = pair.equal(&[]).await;
    assert!(told.contains("public.\"Left out\": not compared, it is not published\n"), "{told}");
    assert_eq!(told.matches("not published").count(), 1, "{told}");
    pair.source.sql("ALTER PUBLICATION kasho_pub DROP TABLE numbers, parted").await;
    let (report, verdict) = pair.differing(&[]).await;
    assert!(verdict.contains("nothing was compared at all"), "{verdict}");
    assert_eq!(report["tables"].as_array().expect("tables").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_row_values_and_stay_out_of_logs() {
    let secret = logs::planted_unique("key");
    let schema = "CREATE TABLE people (id text PRIMARY KEY, v int4);
                  CREATE PUBLICATION kasho_pub FOR ALL TABLES;";
    let rows = format!("INSERT INTO people VALUES ('{secret}', 1), ('b', 2)");
    let pair = Pair::new(schema, &rows, "").await;
    pair.target.sql("UPDATE people SET v = 3 WHERE v = 1").await;
    // The register is searched for it when the engine is dropped.
    let (report, _) = pair.differing(&[]).await;
    assert_eq!(table(&report, "public.people")["differences"][0]["key"][0][1], "withheld");
    let told = pair.verify(&[]).await;
    assert!(told.stdout.contains("changed: id = «withheld» in v"), "{}", told.stdout);
    assert!(told.stdout.contains("--show-keys"), "{}", told.stdout);
}

const FILTERED: &str = r#"
    [[transform]]
    name = "rows"
    plugin = "filter.wasm"
    tables = ["public.orders", "public.secret"]
    [transform.rules]
    "public.orders" = { keep = 'id > 1000' }
    "public.secret" = "drop"
    [[transform]]
    name = "names"
    [transform.rename]
    "public.notes" = "crm.notes"
    "public.notes.body" = "text"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_rules_remove_or_rename_is_compared_by_what_goes_through() {
    let schema = "CREATE TABLE orders (id int4 PRIMARY KEY, status text, v text);
                  CREATE TABLE notes (id int4 PRIMARY KEY, body text);
                  CREATE TABLE secret (id int4 PRIMARY KEY);
                  CREATE PUBLICATION kasho_pub FOR ALL TABLES;";
    let rows = "INSERT INTO orders SELECT n, 'open', 'v' || n FROM generate_series(1, 3000) n;
                INSERT INTO notes SELECT n, 'body ' || n FROM generate_series(1, 100) n;
                INSERT INTO secret SELECT generate_series(1, 10);";
    let pair = Pair::new(schema, rows, FILTERED).await;
    pair.target
        .sql(
            "DELETE FROM orders WHERE id <= 1000; DROP TABLE secret; CREATE SCHEMA crm;
             ALTER TABLE notes SET SCHEMA crm; ALTER TABLE crm.notes RENAME body TO text",
        )
        .await;
    let told = pair.equal(&[]).await;
    for part in [
        "public.orders: equal, 3000 rows, 2000 in the target\n  rules remove rows of it",
        "public.notes as crm.notes: equal, 100 rows\n",
        "public.secret: not compared, a rule drops its rows\n",
    ] {
        assert!(told.contains(part), "{told}");
    }
    pair.target.sql("UPDATE orders SET v = 'x' WHERE id = 1001").await;
    pair.target.sql("INSERT INTO orders VALUES (9999, 'open', 'x')").await;
    pair.target.sql("UPDATE crm.notes SET text = '' WHERE id = 50").await;
    let (report, _) = pair.differing(&["--show-keys"]).await;
    let found: Vec<_> = table(&report, "public.orders")["differences"]
        .as_array()
        .expect("list")
        .iter()
        .map(|d| (d["kind"].as_str().expect("kind"), d["key"][0][1].as_str().expect("key")))
        .collect();
    assert_eq!(found, [("extra", "9999"), ("changed", "1001")]);
    assert_eq!(table(&report, "public.notes")["differences"][0]["key"][0][1], "50");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_a_table_that_may_not_leave_is_a_difference() {
    let schema = "CREATE TABLE orders (id int4 PRIMARY KEY, v text);
                  CREATE TABLE notes (id int4 PRIMARY KEY, body text);
                  CREATE TABLE secret (id int4 PRIMARY KEY);
                  CREATE PUBLICATION kasho_pub FOR ALL TABLES;";
    let rows = "INSERT INTO secret SELECT generate_series(1, 10)";
    let pair = Pair::new(schema, rows, FILTERED).await;
    let prepare = "CREATE SCHEMA crm; ALTER TABLE notes SET SCHEMA crm;
                   ALTER TABLE crm.notes RENAME body TO text";
    pair.target.sql(prepare).await;
    let (report, verdict) = pair.differing(&[]).await;
    assert_eq!(table(&report, "public.secret")["stands"], true);
    assert!(verdict.contains("1 of 3 tables differ"), "{verdict}");
    let told = pair.verify(&[]).await.stdout;
    let part = "public.secret: DIFFERS, a rule drops its rows, and the target has some\n";
    assert!(told.contains(part), "{told}");
    // The empty table may stand.
    pair.target.sql("TRUNCATE secret").await;
    let told = pair.equal(&[]).await;
    assert!(told.contains("public.secret: not compared, a rule drops its rows\n"), "{told}");
}

/// People with names and addresses of their own; `pin` is a small world in which fakes equal
/// originals by chance, and `memo` passes.
const PEOPLE: &str = "
    CREATE TYPE plan AS ENUM ('free', 'gold');
    CREATE TABLE people (id bigint PRIMARY KEY, email text, name text, pin int4, plan plan,
        memo text, doc jsonb);
    CREATE TABLE visits (email text, page text, note json);
    ALTER TABLE visits REPLICA IDENTITY FULL;
    CREATE PUBLICATION kasho_pub FOR ALL TABLES;";

const PEOPLE_ROWS: &str = r#"
    INSERT INTO people SELECT n, 'person' || n || '@mail.example', 'Firstname' || n || ' Lastname',
        n, (ARRAY['free', 'gold']::plan[])[1 + n % 2], 'memo ' || n, jsonb_build_object('n', n)
    FROM generate_series(1, 9000) n;
    INSERT INTO visits SELECT 'person' || n || '@mail.example', '/page/' || n, '{"ok": true}'
    FROM generate_series(1, 2000) n;"#;

const MASKED: &str = r#"
    [keys]
    k1 = { env = "VERIFY_KEY" }
    [[transform]]
    name = "mask"
    plugin = "anonymize.wasm"
    tables = ["public.people", "public.visits"]
    deadline_ms = 5000
    [transform.rules]
    "public.people.id" = "pass"
    "public.people.email" = "fake_email"
    "public.people.name" = "fake_name"
    "public.people.pin" = "digits"
    "public.people.plan" = { transform = "choice", values = ["free", "gold"], by = "row" }
    "public.people.memo" = "pass"
    "public.people.doc" = "pass"
    "public.visits.email" = "fake_email"
    "public.visits.page" = "pass"
    "public.visits.note" = "pass"
"#;

/// Bytes that look random.
const KEY: &str = "3b9ac2f05d7e184660c1a98f2e5d7b3490f1c8a26e4d5b7719ac30fe82d46b05";

/// A masked copy: made of what left the engine, by a reader that shares no code with it.
async fn masked() -> Pair {
    let (source, target, redis) =
        tokio::join!(Postgres::start(), Postgres::start_target(), Redis::start());
    source.sql(PEOPLE).await;
    source.sql(PEOPLE_ROWS).await;
    target.sql(PEOPLE).await;
    let strangers = "DROP PUBLICATION kasho_pub; CREATE TABLE strangers (at int4, words text[]);
                     INSERT INTO strangers VALUES (1, '{}')";
    target.sql(strangers).await;
    let builder = Engine::builder().plugin("anonymize").env("VERIFY_KEY", KEY);
    let text = config(&source.url(), &redis.url(), builder.home().grpc_port(), MASKED);
    let engine = builder.config(&text).start();
    let world = World { pg: source, redis, engine };
    world.until_state("WAITING").await;
    world.bootstrap().await;
    let url = world.redis.url();
    let arguments = [url.as_str(), "1", "public.people=id", "public.visits=page"];
    let landed = python(include_str!("catalogue.py"), &arguments).await.success().stdout;
    let rows = landed.replace("landed_", "");
    target.client().await.batch_execute(&rows).await.expect("what arrived fits");
    let World { pg: source, redis, engine } = world;
    Pair { source, target, redis, engine }
}

/// What was found: column, place, row, how.
fn leaks(report: &Value) -> Vec<[String; 4]> {
    let found = report["leaks"]["found"].as_array().expect("found");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    found
        .iter()
        .map(|l| [text(&l["column"]), text(&l["found"]), text(&l["row"][0][1]), text(&l["how"])])
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_masked_copy_has_no_leak_and_a_single_planted_value_is_found() {
    let pair = masked().await;
    let told = pair.equal(&["--leaks"]).await;
    for part in [
        "public.people: equal, 9000 rows\n  email is not compared: it is masked\n",
        "public.people.plan: 9000 rows held against their own, 0 values looked for\n    it has 2 \
         different values, fewer than 1,000: they are not looked for elsewhere\n",
        "public.people.email: 9000 rows held against their own, 9000 values looked for\n",
        "public.visits.email: 0 rows held against their own, 2000 values looked for\n    rows cannot \
         be paired",
        "values of type int4 are not looked for",
    ] {
        assert!(told.contains(part), "{told}");
    }
    // What is not there was not held against anything.
    let client = pair.target.client().await;
    client
        .batch_execute("CREATE TABLE aside AS TABLE people; TRUNCATE people")
        .await
        .expect("aside");
    let (report, _) = pair.differing(&["--leaks"]).await;
    let looked = report["leaks"]["columns"].as_array().expect("columns");
    let email = looked.iter().find(|one| one["column"] == "public.people.email").expect("email");
    assert_eq!((&email["own_rows"], &email["sampled"]), (&0.into(), &9000.into()));
    client.batch_execute("INSERT INTO people TABLE aside; DROP TABLE aside").await.expect("back");
    let target = &pair.target;
    let value = "person4711@mail.example";
    let planted = [
        (
            format!("UPDATE people SET memo = 'ask {value}, please' WHERE id = 3"),
            ["public.people.memo", "3", "stray"],
        ),
        (
            format!(
                "UPDATE people SET doc = '{{\"a\": [{{\"b\": \"{value}\"}}]}}' WHERE id = 8999"
            ),
            ["public.people.doc", "8999", "stray"],
        ),
        (
            format!("UPDATE strangers SET words = ARRAY['x', '{value}']"),
            ["public.strangers.words", "public.strangers (0,2)", "stray"],
        ),
        (
            format!("UPDATE people SET email = '{value}' WHERE id = 12"),
            ["public.people.email", "12", "stray"],
        ),
        (
            format!("UPDATE visits SET email = '{value}' WHERE page = '/page/77'"),
            ["public.visits.email", "", "stray"],
        ),
    ];
    for (statement, _) in &planted {
        target.sql(statement).await;
    }
    let (report, verdict) = pair.differing(&["--leaks", "--show-keys"]).await;
    let found = leaks(&report);
    for (statement, [place, row, how]) in &planted {
        let fits = |leak: &&[String; 4]| {
            leak[0] == "public.people.email"
                && leak[1] == *place
                && (row.is_empty() || leak[2] == *row)
                && leak[3] == *how
        };
        assert_eq!(found.iter().filter(fits).count(), 1, "{statement}: {found:?}");
    }
    assert_eq!(found.len(), planted.len(), "{found:?}");
    assert!(verdict.contains("5 private values stand in the target"), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_original_in_its_own_place_is_a_leak_and_so_is_one_that_passes_elsewhere() {
    let pair = masked().await;
    // By chance some fakes of `pin` equal their originals; those are none.
    let same = "SELECT count(*) FROM people WHERE pin = id";
    pair.target.sql("UPDATE people SET pin = id WHERE id = 5000").await;
    assert_ne!(pair.target.value(same).await, "0");
    pair.target.sql("UPDATE people SET email = 'person81@mail.example' WHERE id = 81").await;
    let passing = "UPDATE people SET memo = 'I am Firstname6 Lastname' WHERE id = 7";
    pair.source.sql(passing).await;
    pair.target.sql(passing).await;
    // Nor are fakes of two values, one of which is the original's; but where the fake is the other.
    let other = "FROM people WHERE plan <> (ARRAY['free', 'gold']::plan[])[1 + id % 2]";
    let row = pair.target.value(&format!("SELECT min(id) {other}")).await;
    let back = "UPDATE people SET plan = (ARRAY['free', 'gold']::plan[])[1 + id % 2] WHERE id =";
    pair.target.sql(&format!("{back} {row}")).await;
    let (report, _) = pair.differing(&["--leaks", "--show-keys"]).await;
    let expected = [
        ["public.people.email", "public.people.email", "81", "own"],
        ["public.people.email", "public.people.email", "81", "stray"],
        ["public.people.name", "public.people.memo", "7", "passes"],
        ["public.people.pin", "public.people.pin", "5000", "own"],
        ["public.people.plan", "public.people.plan", row.as_str(), "own"],
    ];
    assert_eq!(leaks(&report), expected.map(|leak| leak.map(str::to_owned)));
    // Neither the value nor the row's key is told to a log.
    let output = pair.verify(&["--leaks"]).await;
    assert!(!output.stdout.contains("person81") && output.stdout.contains("row id = «withheld»"));
    // Many of one column are no more than a few lines.
    pair.target.sql("UPDATE people SET pin = id WHERE id BETWEEN 5001 AND 5100").await;
    let told = pair.verify(&["--leaks"]).await.stdout;
    assert!(told.contains(" more in public.people.pin\n"), "{told}");
    assert!(told.lines().filter(|line| line.contains("LEAK: public.people.pin")).count() == 5);
    assert!(told.contains("once their table is loaded again: kasho bootstrap --table …"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_private_in_rows_that_never_stand_still_is_not_passed_over() {
    let pair = masked().await;
    // So many that reading them takes longer than changing them.
    let planted = "UPDATE people SET memo = 'ask Firstname' || id || ' Lastname' WHERE id <= 300";
    pair.target.sql(planted).await;
    // A fake that equals its original is told from one only where its row stands still.
    let by_chance = "SELECT count(*) FROM people WHERE id <= 300 AND pin = id";
    let by_chance: usize = pair.target.value(by_chance).await.parse().expect("a number");
    let stop = Arc::new(AtomicBool::new(false));
    let writing = async {
        let client = pair.source.client().await;
        while !stop.load(Ordering::Relaxed) {
            let again =
                "UPDATE people SET email = md5(random()::text) || '@mail.example' WHERE id <= 300";
            client.batch_execute(again).await.expect("UPDATE");
        }
    };
    let names = |report: &Value| {
        leaks(report).iter().filter(|leak| leak[0] == "public.people.name").count()
    };
    // Where the writer was slower for once, they are found instead.
    let looking = eventually("rows that never stand still", async || {
        let output = pair.verify(&["--leaks", "--json"]).await;
        assert_eq!(output.code, 1, "{}{}", output.stdout, output.stderr);
        let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
        let unsettled = report["leaks"]["unsettled"].as_u64().expect("a number");
        let all = names(&report) + usize::try_from(unsettled).expect("few");
        assert!((300..=300 + by_chance).contains(&all), "{by_chance}: {}", report["leaks"]);
        if unsettled == 0 {
            return None;
        }
        let told = format!("{unsettled} values may be private");
        assert!(output.stderr.contains(&told), "{}", output.stderr);
        stop.store(true, Ordering::Relaxed);
        Some(())
    });
    tokio::join!(writing, looking);
    // Now they stand still, and are what they are.
    let (report, _) = pair.differing(&["--leaks"]).await;
    assert_eq!(report["leaks"]["unsettled"], 0);
    assert_eq!(names(&report), 300);
}

/// Addresses of a small world: a fake is somebody else's original more often than not.
#[tokio::test(flavor = "multi_thread")]
async fn fakes_that_equal_originals_by_the_thousand_hide_no_leak_and_are_none() {
    let values: Vec<String> = (0..1_500).map(|n| format!("\"Street {n:04}\"")).collect();
    let rules = MASKED_PLACES.replace("VALUES", &values.join(", "));
    let schema = "CREATE TABLE places (code text PRIMARY KEY, street text, note text);
                  CREATE TABLE stays (street text, nights int4);
                  ALTER TABLE stays REPLICA IDENTITY FULL;";
    let (source, target, redis) =
        tokio::join!(Postgres::start(), Postgres::start_target(), Redis::start());
    source.sql(schema).await;
    target.sql(schema).await;
    let rows =
        "INSERT INTO places SELECT 'place ' || n, 'Street ' || to_char(n * 7 % 1500, 'FM0000'),
                    'note ' || n FROM generate_series(1, 30000) n;
                INSERT INTO stays SELECT 'Street ' || to_char(n % 1500, 'FM0000'), n
                    FROM generate_series(1, 9000) n;
                CREATE PUBLICATION kasho_pub FOR ALL TABLES";
    source.sql(rows).await;
    let builder = Engine::builder().plugin("anonymize").env("VERIFY_KEY", KEY);
    let apply =
        format!("{rules}\n[apply]\ntarget = \"{}\"\nlisten = \"127.0.0.1:0\"\n", target.url());
    let text = config(&source.url(), &redis.url(), builder.home().grpc_port(), &apply);
    let engine = builder.config(&text).start();
    let world = World { pg: source, redis, engine };
    world.until_state("WAITING").await;
    world.bootstrap().await;
    world.engine.run(&["apply", "--until-loaded"]).await.success();
    let World { pg: source, redis, engine } = world;
    let pair = Pair { source, target, redis, engine };
    let looking = ["--leaks", "--leak-values", "400"];
    let told = pair.equal(&looking).await;
    assert!(told.contains("public.places.street: 30000 rows held against their own"), "{told}");
    assert!(!told.contains("looking ended"), "{told}");
    let same = "UPDATE places SET street = 'Street ' || to_char(4711 * 7 % 1500, 'FM0000')
                WHERE code = 'place 4711'";
    pair.target.sql(same).await;
    let (report, _) = pair.differing(&[&looking[..], &["--show-keys"]].concat()).await;
    let place = "public.places.street";
    let own = ["place 4711", "own"].map(str::to_owned);
    let found: Vec<[String; 2]> =
        leaks(&report).into_iter().map(|[.., row, how]| [row, how]).collect();
    assert!(found.contains(&own), "{found:?}");
    // It may be among the values that are looked for, too.
    assert!(found.iter().all(|[row, _]| row == "place 4711"), "{place}: {found:?}");
}

const MASKED_PLACES: &str = r#"
    [keys]
    k1 = { env = "VERIFY_KEY" }
    [[transform]]
    name = "mask"
    plugin = "anonymize.wasm"
    tables = ["public.places", "public.stays"]
    deadline_ms = 5000
    [transform.rules]
    "public.places.street" = { transform = "choice", values = [VALUES], by = "row" }
    "public.places.*" = "pass"
    "public.stays.street" = { transform = "choice", values = [VALUES], by = "nights" }
    "public.stays.*" = "pass"
"#;

/// A writer that never rests: new rows, old rows changed, rows that come and go, and one that
/// is always changing.
async fn restless(source: &Postgres, stop: Arc<AtomicBool>) -> u64 {
    let client = source.client().await;
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        // Not so often that it is always there when somebody looks.
        let comes = if n % 10 == 0 { format!("('come and go', {n}),") } else { String::new() };
        let statement = format!(
            "INSERT INTO numbers SELECT {n} * 1000 + g, 'new' FROM generate_series(1, 5) g;
             UPDATE numbers SET v = v || '.' WHERE id = {n} % 200;
             INSERT INTO words VALUES {comes} ('stay ' || {n}, 1);
             UPDATE words SET n = n + 1 WHERE w = 'hot'"
        );
        client.batch_execute(&statement).await.expect("a transaction");
        // In a transaction of its own: between the two the row is there.
        let gone = "DELETE FROM words WHERE w = 'come and go'";
        client.batch_execute(gone).await.expect("a transaction");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    n
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_followed_under_writes_is_equal_at_its_position() {
    let schema = "CREATE TABLE numbers (id bigint PRIMARY KEY, v text);
                  CREATE TABLE words (w text PRIMARY KEY, n int4);
                  CREATE TABLE heap (v text);
                  ALTER TABLE heap REPLICA IDENTITY FULL;";
    let (source, target, redis) =
        tokio::join!(Postgres::start(), Postgres::start_target(), Redis::start());
    source.sql(schema).await;
    target.sql(schema).await;
    source
        .sql(
            "CREATE PUBLICATION kasho_pub FOR ALL TABLES;
             INSERT INTO numbers SELECT g, 'old ' || g FROM generate_series(0, 999) g;
             INSERT INTO words SELECT 'word ' || g, g FROM generate_series(1, 500) g;
             INSERT INTO words VALUES ('hot', 0);
             INSERT INTO heap SELECT 'row ' || g % 3 FROM generate_series(1, 30) g",
        )
        .await;
    let builder = Engine::builder();
    let apply = format!("[apply]\ntarget = \"{}\"\nlisten = \"127.0.0.1:0\"\n", target.url());
    let text = config(&source.url(), &redis.url(), builder.home().grpc_port(), &apply);
    let engine = builder.config(&text).start();
    let world = World { pg: source, redis, engine };
    world.until_state("WAITING").await;
    let applier = world.engine.spawn(&["apply"]);
    eventually("an applier", async || {
        let there = "SELECT to_regclass('kasho.applied') IS NOT NULL";
        target.client().await.query_one(there, &[]).await.ok()?.get::<_, bool>(0).then_some(())
    })
    .await;
    world.bootstrap().await;
    // It may not know of the bootstrap yet: verify waits for it.
    let told = world.engine.run(&["verify"]).await.success().stdout;
    assert!(
        told.contains(", target at ") && told.contains("public.heap: equal, 30 rows"),
        "{told}"
    );

    let stop = Arc::new(AtomicBool::new(false));
    let writing = restless(&world.pg, Arc::clone(&stop));
    let looking = async {
        for _ in 0..3 {
            let told = world.engine.run(&["verify", "--leaks"]).await.success().stdout;
            assert!(told.contains("public.words: equal"), "{told}");
        }
        let wrong = "BEGIN; SET LOCAL session_replication_role = replica;
                     UPDATE numbers SET v = 'wrong' WHERE id = 777;
                     DELETE FROM words WHERE w = 'word 77';
                     INSERT INTO heap VALUES ('row 1'); COMMIT";
        target.sql(wrong).await;
        let output = world.engine.run(&["verify", "--json", "--show-keys"]).await;
        stop.store(true, Ordering::Relaxed);
        assert_eq!(output.code, 1, "{}{}", output.stdout, output.stderr);
        let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
        let found = |name| table(&report, name)["differences"].clone();
        let changed =
            serde_json::json!([{"kind": "changed", "key": [["id", "777"]], "columns": ["v"]}]);
        assert_eq!(found("public.numbers"), changed);
        let missing = serde_json::json!([{"kind": "missing", "key": [["w", "word 77"]]}]);
        assert_eq!(found("public.words"), missing);
        let copies = serde_json::json!([{"kind": "extra", "key": [], "copies": [10, 11]}]);
        assert_eq!(found("public.heap"), copies);
    };
    let (written, ()) = tokio::join!(writing, looking);
    assert!(written > 20, "{written}");
    drop(applier);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_nobody_follows_is_told_to_be_behind() {
    let schema = "CREATE TABLE numbers (id bigint PRIMARY KEY);";
    let (source, target, redis) =
        tokio::join!(Postgres::start(), Postgres::start_target(), Redis::start());
    source.sql(schema).await;
    target.sql(schema).await;
    source.sql("CREATE PUBLICATION kasho_pub FOR ALL TABLES").await;
    let builder = Engine::builder();
    let apply = format!("[apply]\ntarget = \"{}\"\nlisten = \"127.0.0.1:0\"\n", target.url());
    let text = config(&source.url(), &redis.url(), builder.home().grpc_port(), &apply);
    let engine = builder.config(&text).start();
    let world = World { pg: source, redis, engine };
    world.until_state("WAITING").await;
    world.bootstrap().await;
    world.engine.run(&["apply", "--until-caught-up"]).await.success();
    world.engine.run(&["verify"]).await.success();
    world.pg.sql("INSERT INTO numbers VALUES (1)").await;
    let output = world.engine.run(&["verify", "--wait", "2"]).await;
    assert_eq!(output.code, 1);
    assert!(
        output.stderr.contains("has not reached") && output.stderr.contains("`kasho apply`"),
        "{}",
        output.stderr
    );
}

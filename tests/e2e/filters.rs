//! Row filters: an expression means what the same text means to PostgreSQL, and what leaves
//! the engine is what `SELECT … WHERE` would find, whichever way rows move in and out.

use filter::Filter;
use kasho_plugin_sdk::testing::{Cell, Fixture, TestRow, insert, table};
use serde_json::{Value, json};

use crate::harness::{Engine, Postgres, Redis, eventually, python};
use crate::world::{World, config};

/// Numbers by lot that are the same in every run.
struct Lot(u64);

impl Lot {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).expect("31 bits") % n
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

const VALUED: &str = "
    CREATE EXTENSION citext;
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TABLE valued (id int8 PRIMARY KEY, n numeric, f float8, i int4, s text COLLATE \"C\",
        c char(4) COLLATE \"C\", b bool, d date, ts timestamptz, u uuid, m mood,
        local timestamp, t time, ci citext COLLATE \"C\", vc varchar(9) COLLATE \"C\", f4 float4);
    INSERT INTO valued SELECT g,
        (ARRAY[NULL, '0', '-1.50', '1.5', '100', '1e30', '0.00000000000000000000000000001',
               '100.0000000000000000000000000001', 'NaN'])[1 + g % 9]::numeric,
        (ARRAY[NULL, '0', '-0', '0.1', '1e20', 'NaN', 'Infinity', '-Infinity'])[1 + g / 2 % 8]::float8,
        (ARRAY[NULL, 0, 1, 100, -7])[1 + g / 3 % 5],
        (ARRAY[NULL, '', 'a', 'B', 'b', 'it''s', 'é', 'a\"b'])[1 + g / 5 % 8],
        (ARRAY[NULL, 'a', 'ab', 'b'])[1 + g / 7 % 4],
        (ARRAY[NULL, true, false])[1 + g % 3],
        (ARRAY[NULL, '1999-12-31', '2000-01-01', '0044-03-15 BC', 'infinity'])[1 + g / 4 % 5]::date,
        (ARRAY[NULL, '2024-01-01 00:00:00+00', '2024-01-01 00:00:00.5+00', '1969-07-20 20:17:40+00'])[1 + g / 3 % 4]::timestamptz,
        (ARRAY[NULL, '00000000-0000-0000-0000-00000000000A', 'ffffffff-0000-0000-0000-000000000000'])[1 + g / 2 % 3]::uuid,
        (ARRAY[NULL, 'sad', 'ok', 'happy'])[1 + g / 6 % 4]::mood,
        (ARRAY[NULL, '2024-01-01', '2024-01-01 00:00:00.5', '0044-03-15 12:00:00 BC', '-infinity'])[1 + g / 3 % 5]::timestamp,
        (ARRAY[NULL, '00:00:00', '12:00:00', '23:59:59.999999', '24:00:00'])[1 + g / 4 % 5]::time,
        (ARRAY[NULL, 'Ada', 'ada', 'ΟΔΟΣ', 'οδος', 'İ', 'Straße'])[1 + g / 2 % 7]::citext,
        (ARRAY[NULL, '', 'a', 'A', 'a '])[1 + g / 5 % 5]::varchar,
        (ARRAY[NULL, '0', '0.5', '-3.25', '1e10', 'NaN', '-Infinity', '0.1'])[1 + g / 3 % 8]::float4
    FROM generate_series(0, 119) g;";

const RELATION: &str = "public.valued(id int8 key, n numeric, f float8, i int4, s text, c bpchar(4), \
     b bool, d date, ts timestamptz, u uuid, m enum(sad|ok|happy), local timestamp, t time, \
     ci citext, vc varchar(9), f4 float4) full";

/// Its columns, in order.
const NAMES: [&str; 16] =
    ["id", "n", "f", "i", "s", "c", "b", "d", "ts", "u", "m", "local", "t", "ci", "vc", "f4"];

/// Columns with values to compare them with: as an expression and as SQL have them. Those of
/// `f4` are of few binary digits: SQL compares others with what is left of them.
const COLUMNS: [(&str, &[&str]); 15] = [
    ("n", &["0", "-1.5", "100", "100.0000000000000000000000000001", "1e30", "1e-29", "7"]),
    ("f", &["0", "0.1", "1e20", "-3"]),
    ("i", &["0", "1", "99.5", "-7"]),
    ("s", &["''", "'a'", "'it''s'", "'é'", "'a\"b'", "'zz'"]),
    ("c", &["'a'", "'a   '", "'ab'", "'zz'"]),
    ("d", &["'2000-01-01'", "'1999-12-30'", "'0044-03-15 BC'", "'infinity'"]),
    ("ts", &["'2024-01-01'", "'2024-01-01 01:00:00+01'", "'2024-01-01 00:00:00.5'"]),
    ("u", &["'00000000-0000-0000-0000-00000000000a'", "'FFFFFFFF-0000-0000-0000-000000000000'"]),
    ("m", &["'sad'", "'ok'", "'happy'"]),
    ("id", &["0", "60", "1e2"]),
    (
        "local",
        &["'2024-01-01'", "'2024-01-01 00:00:00.5'", "'0044-03-15 12:00:00 BC'", "'infinity'"],
    ),
    ("t", &["'12:00'", "'00:00:00'", "'23:59:59.999999'", "'24:00:00'"]),
    ("ci", &["'ADA'", "'οδοΣ'", "'οδος'", "'i'", "'STRAßE'", "'zz'"]),
    ("vc", &["''", "'a'", "'A'", "'a '"]),
    ("f4", &["0", "0.5", "-3.25", "1e10", "100"]),
];

/// The same condition as an expression and as SQL.
fn condition(lot: &mut Lot, depth: usize) -> (String, String) {
    if depth == 0 || lot.below(3) == 0 {
        return test(lot);
    }
    let (a, b) = (condition(lot, depth - 1), condition(lot, depth - 1));
    match lot.below(3) {
        0 => (format!("({} && {})", a.0, b.0), format!("({} AND {})", a.1, b.1)),
        1 => (format!("({} || {})", a.0, b.0), format!("({} OR {})", a.1, b.1)),
        _ => (format!("!({})", a.0), format!("(NOT ({}))", a.1)),
    }
}

fn test(lot: &mut Lot) -> (String, String) {
    let (column, values) = COLUMNS[lot.below(COLUMNS.len())];
    let (a, b) = (lot.of(values), lot.of(values));
    let cmp = lot.of(&["=", "!=", "<", "<=", ">", ">="]);
    let both = |text: String| (text.clone(), text);
    match lot.below(8) {
        0 => both(format!("{column} IS NULL")),
        1 => both(format!("{column} IS NOT NULL")),
        2 => both(format!("{column} IN ({a}, {b})")),
        3 => both(format!("{column} NOT IN ({a}, {b})")),
        4 => match lot.below(7) {
            5 => both(format!("f4 {cmp} i")),
            6 => both(format!("s {cmp} vc")),
            0 => both(format!("n {cmp} i")),
            1 => both(format!("i {cmp} id")),
            2 => ("op == 'insert'".to_owned(), "true".to_owned()),
            3 => ("op in ('update', 'delete')".to_owned(), "false".to_owned()),
            _ => both("b".to_owned()),
        },
        5 => both(format!("{a} {cmp} {column}")),
        _ => both(format!("{column} {cmp} {a}")),
    }
}

/// The ids of the rows that go on under an expression.
fn kept(expression: &str, rows: &[Vec<Option<String>>]) -> Vec<String> {
    let relation = table(RELATION);
    let rules = json!({ "public.valued": { "keep": expression } });
    let mut fixture = Fixture::<Filter>::new(rules).unwrap_or_else(|e| panic!("{expression}: {e}"));
    fixture.relation(&relation).unwrap_or_else(|e| panic!("{expression}: {e}"));
    let row = |values: &Vec<Option<String>>| -> TestRow {
        let cells =
            std::array::from_fn::<_, 16, _>(|i| (NAMES[i], Cell::from(values[i].as_deref())));
        insert(cells)
    };
    let rows_in: Vec<TestRow> = rows.iter().map(row).collect();
    let outcomes = fixture.run(&relation, &rows_in);
    let left = rows.iter().zip(&outcomes).filter(|(_, outcome)| !outcome.dropped());
    left.map(|(row, outcome)| {
        assert!(outcome.error().is_none(), "{expression}: {outcome:?}");
        row[0].clone().expect("an id")
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expression_means_what_it_means_to_postgresql() {
    let pg = Postgres::start().await;
    pg.sql(VALUED).await;
    let client = pg.client().await;
    client.batch_execute("SET timezone = 'UTC'").await.expect("timezone");
    let ask = async |query: &str| -> Vec<Vec<Option<String>>> {
        let messages =
            client.simple_query(query).await.unwrap_or_else(|e| panic!("{query}: {e:?}"));
        let row = |message: &_| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
            }
            _ => None,
        };
        messages.iter().filter_map(row).collect()
    };
    let rows = ask("SELECT * FROM valued ORDER BY id").await;
    assert_eq!(rows.len(), 120);
    let (mut lot, mut seen) = (Lot(20_240_101), [0_usize; 3]);
    for _ in 0..400 {
        let (expression, sql) = condition(&mut lot, 3);
        let truths =
            ask(&format!("SELECT id, ({sql}) IS TRUE, ({sql}) IS FALSE FROM valued ORDER BY id"))
                .await;
        let ids = |at: usize| {
            let those = truths.iter().filter(move |row| row[at].as_deref() == Some("t"));
            those.map(|row| row[0].clone().expect("an id")).collect::<Vec<_>>()
        };
        let (is_true, is_false) = (ids(1), ids(2));
        assert_eq!(kept(&expression, &rows), is_true, "true: {expression}\n{sql}");
        assert_eq!(
            kept(&format!("!({expression})"), &rows),
            is_false,
            "false: {expression}\n{sql}"
        );
        let unknown = rows.len() - is_true.len() - is_false.len();
        for (seen, found) in seen.iter_mut().zip([is_true.len(), is_false.len(), unknown]) {
            *seen += found;
        }
    }
    assert!(seen.iter().all(|n| *n > 2_000), "all three truths were met: {seen:?}");
}

const TABLES: &str = "
    CREATE TABLE orders (id bigint PRIMARY KEY, region text, amount numeric, note text);
    ALTER TABLE orders REPLICA IDENTITY FULL, ALTER note SET STORAGE EXTERNAL;
    CREATE TABLE members (tenant int, id int, name text, PRIMARY KEY (tenant, id));
    CREATE TABLE events (id bigint PRIMARY KEY, level text, body text);
    CREATE TABLE audit (id bigint PRIMARY KEY);
    CREATE PUBLICATION kasho_pub FOR ALL TABLES;
    INSERT INTO orders SELECT g, (ARRAY['eu', 'us', NULL])[1 + g % 3], g, repeat('long ', 900) FROM generate_series(1, 300) g;
    INSERT INTO members SELECT g % 4, g, 'm' || g FROM generate_series(1, 200) g;
    INSERT INTO events SELECT g, (ARRAY['debug', 'info'])[1 + g % 2], 'x' FROM generate_series(1, 50) g;
    INSERT INTO audit SELECT generate_series(1, 10);";

const RULES: &str = "
    [[transform]]
    name = \"rows\"
    plugin = \"filter.wasm\"
    tables = [\"public.*\"]
    [transform.rules]
    \"public.orders\" = { keep = 'region == \"eu\" && amount > 100' }
    \"public.members\" = { keep = 'tenant in (1, 2)' }
    \"public.events\" = { drop = 'level == \"debug\"', insert_only = true }
    \"public.audit\" = \"drop\"
";

/// Rows in and out of what is kept, by every way there is.
async fn moves(pg: &Postgres) {
    let mut lot = Lot(7);
    let client = pg.client().await;
    for round in 0..60 {
        let id = 1 + lot.below(320);
        let region = lot.of(&["'eu'", "'eu'", "'us'", "NULL"]);
        let amount = lot.of(&["99", "100", "100.01", "1000", "NULL"]);
        let (member, to) = (1 + lot.below(220), lot.below(4));
        let statement = match lot.below(6) {
            0 => format!(
                "INSERT INTO orders VALUES ({id} + 1000 * ({round} + 1), {region}, {amount}, 'new')"
            ),
            1 => format!("UPDATE orders SET region = {region} WHERE id % 7 = {id} % 7"),
            2 => format!("UPDATE orders SET amount = {amount}, region = {region} WHERE id = {id}"),
            3 => format!(
                "DELETE FROM orders WHERE id = {id}; DELETE FROM members WHERE id = {member}"
            ),
            4 => format!("UPDATE members SET tenant = {to} WHERE id % 5 = {member} % 5"),
            _ => format!(
                "BEGIN; UPDATE members SET name = name || '!' WHERE id < {member}; \
                 INSERT INTO events VALUES (100 + {round}, 'info', 'y'), (1000 + {round}, NULL, 'z'), \
                 (2000 + {round}, 'debug', 'z'); COMMIT"
            ),
        };
        client.batch_execute(&statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
    }
}

/// Tables of the streams, by the program that builds them from nothing but the streams.
async fn built(world: &World, tables: &str) -> Value {
    let output = python(include_str!("replay.py"), &[&world.redis.url(), "1", tables]).await;
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    serde_json::from_str(&output.stdout).expect("JSON")
}

/// Rows of a query, sorted, as the program tells them.
async fn selected(pg: &Postgres, query: &str) -> Value {
    let rows = pg.rows(query).await;
    let mut rows: Vec<String> = rows
        .iter()
        .map(|row| {
            let value = |v: &Option<String>| v.clone().unwrap_or_else(|| "\\N".to_owned());
            row.iter().map(value).collect::<Vec<_>>().join("|")
        })
        .collect();
    rows.sort();
    json!(rows)
}

/// An engine with plugins between fresh servers, bootstrapped.
pub(crate) async fn world(tables: &str, plugins: &[&str], rules: &str) -> World {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql(tables).await;
    let mut builder = Engine::builder();
    let key = format!("{:064x}", 0x1234_5678_9abc_def0_u64);
    builder.home().write("key", key);
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), rules);
    for plugin in plugins {
        builder = builder.plugin(plugin);
    }
    let engine = builder.config(&text).start();
    let world = World { pg, redis, engine };
    world.until_state("WAITING").await;
    world.bootstrap().await;
    world
}

/// Waits until a change that was made after this call has been published.
pub(crate) async fn settle(world: &World, change: &str) {
    let lsn = world.pg.value("SELECT pg_current_wal_insert_lsn() - '0/0'").await;
    let lsn: u64 = lsn.parse().expect("LSN");
    world.pg.sql(change).await;
    eventually("the stream", async || (world.newest().await?.0 > lsn).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_is_what_select_where_finds() {
    let world = world(TABLES, &["filter"], RULES).await;
    let pg = &world.pg;
    moves(pg).await;
    settle(&world, "INSERT INTO members VALUES (1, 9999, 'last')").await;
    let built = built(&world, "public.orders,public.members,public.events").await;
    for (table, query) in [
        ("public.orders", "SELECT * FROM orders WHERE region = 'eu' AND amount > 100"),
        ("public.members", "SELECT * FROM members WHERE tenant IN (1, 2)"),
        ("public.events", "SELECT * FROM events WHERE (level = 'debug') IS NOT TRUE"),
    ] {
        let selected = selected(pg, query).await;
        assert!(selected.as_array().expect("rows").len() > 10, "{table} is a poor test");
        assert_eq!(built["tables"][table], selected, "{table}");
    }
    // Every way across the border was taken, and nothing of the dropped table left.
    for (table, op) in [
        ("public.orders", "insert"),
        ("public.orders", "delete"),
        ("public.orders", "update"),
        ("public.members", "insert"),
        ("public.members", "delete"),
        ("public.members", "update"),
        ("public.events", "insert"),
    ] {
        assert!(built["ops"][table][op].as_u64() > Some(0), "no {op} of {table}: {}", built["ops"]);
    }
    assert!(built["ops"]["public.events"]["update"].is_null());
    assert!(built["ops"]["public.audit"].is_null(), "{}", built["ops"]);
    pg.sql("TRUNCATE members, audit").await;
    settle(&world, "INSERT INTO members VALUES (2, 1, 'after')").await;
    let rebuilt = self::built(&world, "public.members").await;
    assert_eq!(rebuilt["tables"]["public.members"], json!(["2|1|after"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_on_other_columns_than_the_identity_is_refused() {
    let pg = Postgres::start().await;
    pg.sql("CREATE TABLE t (id int PRIMARY KEY, status text); CREATE PUBLICATION kasho_pub FOR ALL TABLES").await;
    let redis = Redis::start().await;
    let builder = Engine::builder().plugin("filter");
    let rules = "[[transform]]\nname = \"rows\"\nplugin = \"filter.wasm\"\ntables = [\"public.t\"]\n\
                 [transform.rules]\n\"public.t\" = { keep = 'status == \"active\"' }\n";
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), rules);
    let engine = builder.config(&text).build();
    let output = engine.run(&["check"]).await;
    let want = "transform `rows`: public.t: the condition reads status, but it is not part of the replica \
                identity, so the old row of an UPDATE or DELETE does not have it: ALTER TABLE \
                public.t REPLICA IDENTITY FULL, or set `insert_only = true`";
    assert!(output.code == 1 && output.stderr.contains(want), "{}", output.stderr);
    pg.sql("ALTER TABLE t REPLICA IDENTITY FULL").await;
    assert_eq!(engine.run(&["check"]).await.code, 0);
    pg.sql("ALTER TABLE t REPLICA IDENTITY DEFAULT").await;
    engine.home().write_config(&text.replace("' }", "', insert_only = true }"));
    assert_eq!(engine.run(&["check"]).await.code, 0);
    engine.home().write_config(&text.replace("status ==", "status = ="));
    let output = engine.run(&["check"]).await;
    let want = "public.t: `keep`, column 10: a column or a value was due, not `==`";
    assert!(output.code == 1 && output.stderr.contains(want), "{}", output.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_renamed_leaves_under_its_new_name_load_and_stream_alike() {
    let tables = "
        CREATE TABLE users (id bigint PRIMARY KEY, email text, note text);
        CREATE TABLE orders (id bigint PRIMARY KEY, total numeric);
        CREATE PUBLICATION kasho_pub FOR ALL TABLES;
        INSERT INTO users SELECT g, 'u' || g, 'n' FROM generate_series(1, 500) g;
        INSERT INTO orders SELECT g, g FROM generate_series(1, 50) g;";
    let rules = "
        [[transform]]
        name = \"names\"
        [transform.rename]
        \"public.users\" = 'crm.\"People\"'
        \"public.users.email\" = \"mail\"
        \"public.orders\" = \"public.users\"
        [[transform]]
        name = \"rows\"
        plugin = \"filter.wasm\"
        tables = [\"public.users\"]
        [transform.rules]
        \"public.users\" = { drop = 'id > 400' }
    ";
    let world = world(tables, &["filter"], rules).await;
    let pg = &world.pg;
    pg.sql("UPDATE users SET id = id + 1000 WHERE id < 20; DELETE FROM users WHERE id = 30").await;
    pg.sql("UPDATE users SET id = -id WHERE id BETWEEN 490 AND 500").await;
    pg.sql("TRUNCATE orders; INSERT INTO orders VALUES (7, 7.70)").await;
    settle(&world, "INSERT INTO users VALUES (0, NULL, 'last')").await;
    let people = "crm.\"People\"";
    let built = built(&world, &format!("{people},public.users")).await;
    let want = selected(pg, "SELECT id, email, note FROM users WHERE id <= 400").await;
    assert_eq!(built["tables"][people], want);
    assert_eq!(built["tables"]["public.users"], selected(pg, "SELECT id, total FROM orders").await);
    assert_eq!(built["columns"][people], json!(["id", "mail", "note"]));
    assert_eq!(built["ops"]["public.users"]["truncate"], 1, "{}", built["ops"]);
    assert!(built["ops"]["public.orders"].is_null(), "{}", built["ops"]);
    // The status speaks of what the source has.
    let status = world.status().await.to_string();
    assert!(!status.contains("People"), "{status}");
    // Loaded again: what tells readers to empty it has the new name, too.
    world.engine.run(&["bootstrap", "--yes", "--table", "public.users"]).await.success();
    settle(&world, "INSERT INTO users VALUES (-1, NULL, 'later')").await;
    let marks = world.redis.cli(&["XRANGE", "{kasho}:1:changes", "-", "+"]).await;
    assert!(marks.contains("restart"), "the table was loaded again");
    let rebuilt = python(include_str!("points.py"), &[&world.redis.url(), "1", people]).await;
    assert_eq!(rebuilt.code, 0, "{}{}", rebuilt.stdout, rebuilt.stderr);
    let count = pg.value("SELECT count(*) FROM users WHERE id <= 400").await;
    assert!(rebuilt.stdout.contains(&format!("TABLE {people} {count} ")), "{}", rebuilt.stdout);
    assert!(rebuilt.stdout.contains("sections 1"), "{}", rebuilt.stdout);
}

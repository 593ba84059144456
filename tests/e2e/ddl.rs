//! Schema changes on real servers: what the event triggers of `config/sql/ddl.sql` write,
//! what of it leaves under each policy, and what the engine makes of the tables.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{Engine, Postgres, Redis, eventually, logs};
use crate::world::{LEDGER, World, config};

const TRIGGERS: &str = include_str!("../../config/sql/ddl.sql");

/// An entry of the changes stream.
#[derive(Debug)]
struct Entry {
    /// Of the commit.
    lsn: u64,
    ordinal: u64,
    op: String,
    table: String,
    data: Value,
}

impl Entry {
    /// A column of `kasho.ddl`.
    fn ddl(&self, column: usize) -> Option<&str> {
        self.data["new"][column].as_str()
    }

    fn objects(&self) -> Vec<(&str, &str, bool)> {
        let objects = self.data["ddl"]["objects"].as_array().expect("objects");
        let object = |object: &'_ Value| -> (&'static str, &'static str, bool) {
            let text = |key: &str| -> &'static str {
                Box::leak(object[key].as_str().expect("a text").to_owned().into_boxed_str())
            };
            (text("type"), text("identity"), object["dropped"].as_bool().expect("dropped"))
        };
        objects.iter().map(object).collect()
    }
}

struct Schema {
    world: World,
}

impl Schema {
    /// A source with event triggers and the ledger, bootstrapped; `top` goes to the top of the
    /// configuration, `more` behind it.
    async fn start(top: &str, more: &str) -> Schema {
        let schema = Schema::prepare(top, more, "").await;
        schema.world.bootstrap().await;
        schema
    }

    async fn prepare(top: &str, more: &str, tables: &str) -> Schema {
        let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
        pg.sql(LEDGER).await;
        pg.sql(tables).await;
        pg.sql(TRIGGERS).await;
        let builder = Engine::builder().plugin("anonymize");
        let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), more);
        let text = text.replacen("[redis]", "[redis]\nencoding = \"json\"", 1);
        let engine = builder.config(&format!("{top}\n{text}")).start();
        let world = World { pg, redis, engine };
        world.until_state("WAITING").await;
        Schema { world }
    }

    /// Runs statements in one session, each by itself.
    async fn run(&self, statements: &[&str]) {
        let client = self.world.pg.client().await;
        for statement in statements {
            let done = client.batch_execute(statement).await;
            done.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
    }

    async fn entries(&self) -> Vec<Entry> {
        let key = "{kasho}:1:changes";
        let all: Vec<(String, Vec<String>)> =
            self.world.redis.command(&["XRANGE", key, "-", "+"]).await;
        let entry = |(id, words): (String, Vec<String>)| {
            let field = |name: &str| {
                words.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone())
            };
            let (lsn, ordinal) = id.split_once('-').expect("an id");
            Entry {
                lsn: lsn.parse().expect("LSN"),
                ordinal: ordinal.parse().expect("ordinal"),
                op: field("o").expect("o"),
                table: field("t").unwrap_or_default(),
                data: serde_json::from_str(&field("d").expect("d")).expect("JSON"),
            }
        };
        all.into_iter().map(entry).collect()
    }

    /// Everything up to now is published: the entries.
    async fn settled(&self, row: u64) -> Vec<Entry> {
        self.world.settle(row).await;
        self.entries().await
    }

    /// The schema changes up to now, `tag | identity | text`.
    async fn changes(&self, row: u64) -> Vec<String> {
        let entries = self.settled(row).await;
        let told = entries.iter().filter(|entry| entry.op == "ddl").map(|entry| {
            let columns = [0, 2, 3].map(|column| entry.ddl(column).unwrap_or("NULL"));
            columns.join(" | ")
        });
        told.collect()
    }

    /// Waits until the stream stands before a schema change; its place and what is said.
    async fn halted(&self, tag: &str) -> (String, String) {
        eventually(&format!("the stream to halt at {tag}"), async || {
            let status = self.world.try_status().await?;
            let error = status["last_error"].as_str()?.to_owned();
            let rest = error.split_once(&format!("schema change {tag}"))?.1;
            let place = rest.split_once(" at ")?.1.split_once(": ")?.0.to_owned();
            Some((place, error))
        })
        .await
    }

    async fn not_loaded(&self) -> BTreeSet<String> {
        let status = self.world.status().await;
        let tables = status["not_loaded"].as_array().expect("a list").iter();
        tables.map(|table| table.as_str().expect("a name").to_owned()).collect()
    }

    /// Everything in Redis, as one text.
    async fn everything(&self) -> String {
        let mut all = String::new();
        let keys: Vec<String> = self.world.redis.command(&["KEYS", "*"]).await;
        for key in keys {
            let dump: Vec<u8> = self.world.redis.command(&["DUMP", &key]).await;
            all += &String::from_utf8_lossy(&dump);
        }
        for entry in self.entries().await {
            all += &entry.data.to_string();
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_schema_change_comes_in_its_transaction() {
    let schema = Schema::start("", "").await;
    schema
        .run(&[
            "CREATE SCHEMA app",
            "SET search_path = app, public",
            "CREATE TABLE \"Odd \"\"T\" (id serial PRIMARY KEY, a text)",
            "CREATE TYPE mood AS ENUM ('fine')",
            "CREATE VIEW v AS SELECT id FROM \"Odd \"\"T\"",
            "CREATE INDEX CONCURRENTLY i ON \"Odd \"\"T\" (a)",
            "BEGIN; INSERT INTO \"Odd \"\"T\" VALUES (1, 'x')",
            "ALTER TABLE \"Odd \"\"T\" ADD b int DEFAULT 7",
            "INSERT INTO \"Odd \"\"T\" VALUES (2, 'y', 8)",
            "COMMIT",
            // A statement and the row behind it, in a subtransaction and out of it.
            "BEGIN; SAVEPOINT s",
            "ALTER TABLE \"Odd \"\"T\" ADD c int",
            "RELEASE s",
            "INSERT INTO \"Odd \"\"T\" VALUES (3, 'z', 8, 9)",
            "COMMIT",
            "ALTER TABLE \"Odd \"\"T\" RENAME a TO aa",
            "DROP VIEW v",
            "ALTER TABLE \"Odd \"\"T\" DROP COLUMN aa",
            "DROP TYPE mood",
            "DROP TABLE \"Odd \"\"T\"",
            "DROP SCHEMA app",
        ])
        .await;
    let entries = schema.settled(1).await;
    let changes: Vec<&Entry> = entries.iter().filter(|entry| entry.op == "ddl").collect();
    let tags: Vec<&str> = changes.iter().filter_map(|entry| entry.ddl(0)).collect();
    assert_eq!(
        tags,
        [
            "CREATE SCHEMA",
            "CREATE TABLE",
            "CREATE TYPE",
            "CREATE VIEW",
            "CREATE INDEX",
            "ALTER TABLE",
            "ALTER TABLE",
            "ALTER TABLE",
            "DROP VIEW",
            "ALTER TABLE",
            "DROP TYPE",
            "DROP TABLE",
            "DROP SCHEMA",
        ]
    );
    let made = changes[1];
    assert_eq!((made.ddl(1), made.ddl(2)), (Some("table"), Some("app.\"Odd \"\"T\"")));
    assert_eq!(made.table, "kasho.ddl");
    assert_eq!(made.data["ddl"]["search_path"], "app, public");
    assert_eq!(made.data["ddl"]["username"], "postgres");
    assert_eq!(made.data["ddl"]["database"], "postgres");
    assert_eq!(changes[9].objects()[1], ("table column", "app.\"Odd \"\"T\".aa", true));
    assert!(changes[11].objects().contains(&("table", "app.\"Odd \"\"T\"", true)));

    stand_between_their_rows(&entries, changes[5].lsn, changes[6].lsn);
}

/// In its transaction, between the rows that stood before and after it; and one in a
/// subtransaction, before the row that follows on that.
fn stand_between_their_rows(entries: &[Entry], altered: u64, released: u64) {
    let around: Vec<(&str, u64)> = entries
        .iter()
        .filter(|entry| entry.lsn == altered)
        .map(|entry| (entry.op.as_str(), entry.ordinal))
        .collect();
    assert_eq!(around, [("insert", 1), ("ddl", 2), ("insert", 3)]);
    let after = entries.iter().filter(|entry| entry.lsn == released);
    let after: Vec<&str> = after.map(|entry| entry.op.as_str()).collect();
    assert_eq!(after, ["ddl", "insert"]);
    let widths: Vec<usize> = entries
        .iter()
        .filter(|entry| entry.lsn == altered && entry.op == "insert")
        .map(|entry| entry.data["cols"].as_array().expect("columns").len())
        .collect();
    assert_eq!(widths, [2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_statements_and_what_functions_run_are_told_one_by_one() {
    let schema = Schema::start("", "").await;
    schema
        .run(&[
            "CREATE TABLE a (x int); INSERT INTO a VALUES (1); CREATE TABLE b (x int); \
             ALTER TABLE a ADD y int",
            "DO $$ BEGIN CREATE TABLE c (x int); EXECUTE 'ALTER TABLE c ADD y int'; END $$",
            "CREATE FUNCTION make() RETURNS void LANGUAGE plpgsql SET search_path = public AS \
             'BEGIN CREATE TABLE d (x int); END'",
            "SELECT make()",
            "CREATE TABLE e AS SELECT x, 'kept'::varchar(9) AS w FROM a",
            "SELECT x INTO f FROM a WHERE x > 5",
            "SET session_replication_role = replica",
            "CREATE TABLE g (x int)",
            "RESET session_replication_role",
            "CREATE TEMP TABLE t (x int); CREATE INDEX ON t (x); DROP TABLE t",
            "CREATE TEMP TABLE u AS SELECT 1",
            "BEGIN; SAVEPOINT s; CREATE TABLE gone (x int)",
            "ROLLBACK TO s; CREATE TABLE h (x int)",
            "COMMIT",
            "CREATE EXTENSION hstore; DROP EXTENSION hstore",
            "DROP TABLE IF EXISTS nothing; CREATE TABLE IF NOT EXISTS a (x int)",
            "COMMENT ON SCHEMA kasho IS 'ours'",
        ])
        .await;
    assert_eq!(
        schema.changes(1).await,
        [
            "CREATE TABLE | public.a | CREATE TABLE a (x int)",
            "CREATE TABLE | public.b | CREATE TABLE b (x int)",
            "ALTER TABLE | public.a | ALTER TABLE a ADD y int",
            "CREATE TABLE | public.c | CREATE TABLE c (x int)",
            "ALTER TABLE | public.c | ALTER TABLE c ADD y int",
            "CREATE FUNCTION | public.make() | CREATE FUNCTION make() RETURNS void LANGUAGE plpgsql \
             SET search_path = public AS 'BEGIN CREATE TABLE d (x int); END'",
            "CREATE TABLE | public.d | CREATE TABLE d (x int)",
            "CREATE TABLE AS | public.e | CREATE TABLE IF NOT EXISTS public.e (x integer, w \
             character varying(9))",
            "SELECT INTO | public.f | CREATE TABLE IF NOT EXISTS public.f (x integer)",
            "CREATE TABLE | public.g | CREATE TABLE g (x int)",
            "CREATE TABLE | public.h | CREATE TABLE h (x int)",
            "CREATE EXTENSION | hstore | CREATE EXTENSION hstore",
            "DROP EXTENSION | hstore | DROP EXTENSION hstore",
        ]
    );
    // Rows of a table that a query makes come before it.
    let entries = schema.entries().await;
    let made = entries.iter().find(|entry| entry.ddl(2) == Some("public.e")).expect("e");
    let row = entries.iter().find(|entry| entry.table == "public.e").expect("its row");
    assert!(row.lsn == made.lsn && row.ordinal < made.ordinal);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_never_fails_because_of_us() {
    let schema = Schema::start("", "").await;
    schema
        .run(&[
            "CREATE ROLE plain; GRANT CREATE ON SCHEMA public TO plain",
            "SET ROLE plain",
            // What the triggers remember between themselves, spoiled.
            "SET kasho.counted = 'no JSON'; SET kasho.dropped = 'nor this'",
            "CREATE TABLE spoiled (x int)",
            "RESET kasho.counted; RESET kasho.dropped",
            "RESET ROLE",
        ])
        .await;
    // It is told that something happened; what, the stream does not know.
    let (place, error) = schema.halted("CREATE TABLE").await;
    assert!(error.contains("text is not known"), "{error}");
    let told = schema.world.engine.run(&["ddl", "done", &place]).await.success().stdout;
    assert!(told.contains("the stream goes on"), "{told}");
    // Nor with the rights of their owner taken away, and then all that they are made of.
    schema
        .run(&[
            "CREATE ROLE boss SUPERUSER",
            "ALTER FUNCTION kasho.ddl_end() OWNER TO boss; ALTER FUNCTION kasho.ddl_drop() OWNER TO \
             boss; ALTER FUNCTION kasho.ddl_rewrite() OWNER TO boss",
            "ALTER ROLE boss NOSUPERUSER",
            "SET lc_messages = 'C.UTF-8'",
            "CREATE TABLE kept (x int)",
            "DROP TABLE kept",
            "RESET lc_messages",
            "SET ROLE plain",
            "CREATE TABLE fine (x int)",
            "RESET ROLE",
            "DROP SCHEMA kasho CASCADE",
            "CREATE TABLE later (x int)",
        ])
        .await;
    assert_eq!(
        schema.changes(1).await,
        [
            "CREATE TABLE |  | NULL",
            "CREATE TABLE | public.kept | CREATE TABLE kept (x int)",
            "DROP TABLE | public.kept | DROP TABLE kept",
            "CREATE TABLE | public.fine | CREATE TABLE fine (x int)",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_another_table_does_not_keep_a_statement_from_being_told() {
    let schema = Schema::start("", "").await;
    schema.run(&["CREATE TABLE other (x int DEFAULT 1 + 1)"]).await;
    let elsewhere = schema.world.pg.client().await;
    let lock = "BEGIN; LOCK TABLE other IN ACCESS EXCLUSIVE MODE";
    elsewhere.batch_execute(lock).await.expect("a lock");
    let add = "ALTER TABLE ledger ADD COLUMN more int DEFAULT 7";
    schema.run(&["SET lock_timeout = '20s'", add]).await;
    elsewhere.batch_execute("COMMIT").await.expect("COMMIT");
    assert_eq!(
        schema.changes(1).await,
        [
            "CREATE TABLE | public.other | CREATE TABLE other (x int DEFAULT 1 + 1)".to_owned(),
            format!("ALTER TABLE | public.ledger | {add}"),
        ]
    );
}

const PEOPLE: &str = "CREATE TABLE people (id int PRIMARY KEY, email text);
    INSERT INTO people VALUES (1, 'ada@example.com');";

const MASK: &str = "[[transform]]\nname = \"mask\"\nplugin = \"anonymize.wasm\"\n\
    tables = [\"public.people\", \"public.ledger\"]\n[transform.rules]\n\
    \"public.people.id\" = \"pass\"\n\
    \"public.people.email\" = { transform = \"constant\", value = \"x@example.com\" }\n\
    \"public.ledger.id\" = \"pass\"\n\"public.ledger.payload\" = \"pass\"\n";

/// What leaves of them, and what an operator has made.
const STRUCTURE: [&str; 12] = [
    "ALTER TABLE | public.people | ALTER TABLE people ADD n int DEFAULT 5",
    "CREATE MATERIALIZED VIEW | public.m | CREATE MATERIALIZED VIEW m AS SELECT id FROM people",
    "DROP MATERIALIZED VIEW | public.m | DROP MATERIALIZED VIEW m",
    "CREATE TYPE | public.mood | CREATE TYPE mood AS ENUM ('fine')",
    "ALTER TYPE | public.mood | ALTER TYPE mood ADD VALUE 'so-so'",
    "CREATE TABLE | public.days | CREATE TABLE days (day date) PARTITION BY RANGE (day)",
    "CREATE TABLE | public.december | CREATE TABLE december PARTITION OF days FOR VALUES \
     FROM ('2026-12-01') TO ('2027-01-01')",
    "DROP TABLE | public.days | DROP TABLE days",
    "DROP TYPE | public.mood | DROP TYPE mood",
    "CREATE INDEX | public.j | NULL",
    "CREATE FUNCTION | public.f() | NULL",
    "DROP VIEW | public.v | DROP VIEW v",
];

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_mask_no_literal_of_a_statement_leaves() {
    let schema = Schema::prepare("", MASK, PEOPLE).await;
    schema.world.bootstrap().await;
    let secret = logs::planted_unique("literal");
    let digits = "4111111111111111";
    let plant = |statement: &str| statement.replace("SECRET", &secret);
    // Structure leaves, without comments.
    schema
        .run(&[
            &plant("ALTER TABLE people /* SECRET */ ADD n int DEFAULT 5 -- SECRET\n"),
            &plant("COMMENT ON TABLE people IS 'SECRET'"),
            "CREATE MATERIALIZED VIEW m AS SELECT id FROM people",
            "REFRESH MATERIALIZED VIEW m",
            "DROP MATERIALIZED VIEW m",
            "CREATE TYPE mood AS ENUM ('fine')",
            "ALTER TYPE mood ADD VALUE 'so-so'",
            "CREATE TABLE days (day date) PARTITION BY RANGE (day)",
            "CREATE TABLE december PARTITION OF days FOR VALUES FROM ('2026-12-01') TO ('2027-01-01')",
            "DROP TABLE days; DROP TYPE mood",
            "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w",
            &plant("CREATE USER MAPPING FOR public SERVER s OPTIONS (password 'SECRET')"),
        ])
        .await;
    // Each of these halts, is decided, and leaves nothing.
    let statements = [
        ("CREATE INDEX", format!("CREATE INDEX i ON people (id) WHERE email = '{secret}'")),
        ("CREATE INDEX", format!("CREATE INDEX j ON people (id) WHERE id::text::int8 = {digits}")),
        ("CREATE VIEW", format!("CREATE VIEW v AS SELECT $${secret}$$ AS x")),
        (
            "CREATE FUNCTION",
            format!("CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $f$SELECT '{secret}'$f$"),
        ),
        ("ALTER TABLE", format!("ALTER TABLE ledger ALTER payload SET DEFAULT E'{secret}'")),
        ("DROP VIEW", format!("DO $$ BEGIN PERFORM '{secret}'; DROP VIEW v; END $$")),
    ];
    for (n, (tag, statement)) in statements.iter().enumerate() {
        schema.run(&[statement]).await;
        if *tag == "DROP VIEW" {
            continue;
        }
        let (place, error) = schema.halted(tag).await;
        assert!(!error.contains(&secret) && !error.contains(digits), "{error}");
        let word = if n % 2 == 0 { "skip" } else { "done" };
        // Another place is not meant.
        let other = schema.world.engine.run(&["ddl", word, "0/1"]).await;
        assert!(other.code == 1 && other.stderr.contains(&place), "{other:?}");
        schema.world.engine.run(&["ddl", word, &place]).await.success();
    }
    assert_eq!(schema.changes(1).await, STRUCTURE);
    let entries = schema.entries().await;
    let done = entries.iter().find(|entry| entry.ddl(2) == Some("public.j")).expect("j");
    assert_eq!(done.data["ddl"]["done"], true);
    let all = schema.everything().await;
    assert!(!all.contains(&secret) && !all.contains(digits), "a literal is in Redis");
}

/// What was decided is remembered by the process alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_dies_with_the_engine_is_asked_for_again_and_nothing_leaves() {
    let mut schema = Schema::prepare("", MASK, PEOPLE).await;
    schema.world.bootstrap().await;
    let secret = logs::planted_unique("default");
    for n in 1..=4 {
        let statement = format!(
            "BEGIN; INSERT INTO people VALUES ({n}0, 'row before {n}');
             ALTER TABLE ledger ALTER payload SET DEFAULT '{secret}{n}';
             INSERT INTO people VALUES ({n}1, 'row behind {n}'); COMMIT"
        );
        schema.run(&[&statement]).await;
        let (place, _) = schema.halted("ALTER TABLE").await;
        schema.world.engine.run(&["ddl", "done", &place]).await.success();
        // Before it was used, or behind that: both happen.
        schema.world.engine.kill9().await;
        schema.world.engine.start_again();
        let behind = format!("{n}1");
        eventually("the row behind it", async || {
            let entries = schema.entries().await;
            let is_it = |entry: &&Entry| entry.data["new"][0].as_str() == Some(&behind);
            if entries.iter().any(|entry| is_it(&entry)) {
                return Some(());
            }
            let status = schema.world.try_status().await?;
            if status["last_error"].as_str()?.contains("schema change ALTER TABLE") {
                // The same one, at the same place.
                assert!(status["last_error"].as_str()?.contains(&place), "{status}");
                let again = schema.world.engine.run(&["ddl", "done", &place]).await;
                assert!(again.code == 0 || again.stderr.contains("does not wait"), "{again:?}");
            }
            None
        })
        .await;
    }
    let entries = schema.settled(1).await;
    let done = entries.iter().filter(|entry| entry.op == "ddl");
    assert!(done.clone().all(|entry| entry.data["ddl"]["done"] == true && entry.ddl(3).is_none()));
    assert_eq!(done.count(), 4, "each once");
    let rows = entries.iter().filter(|entry| entry.table == "public.people");
    let rows: Vec<&str> = rows.filter_map(|entry| entry.data["new"][0].as_str()).collect();
    assert_eq!(rows, ["10", "11", "20", "21", "30", "31", "40", "41"]);
    assert!(!schema.everything().await.contains(&secret), "a literal is in Redis");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_a_query_makes_leaves_as_structure() {
    let top = "unruled_tables = \"drop\"";
    let schema = Schema::prepare(top, MASK, PEOPLE).await;
    schema.world.bootstrap().await;
    let secret = logs::planted_unique("condition");
    schema
        .run(&[&format!("CREATE TABLE copied AS SELECT id FROM people WHERE email <> '{secret}'")])
        .await;
    assert_eq!(
        schema.changes(1).await,
        ["CREATE TABLE AS | public.copied | CREATE TABLE IF NOT EXISTS public.copied (id integer)"]
    );
    assert!(!schema.everything().await.contains(&secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_policies_do_what_they_say() {
    let schema = Schema::start("ddl = \"drop\"", "").await;
    schema.run(&["CREATE TABLE a (x int)"]).await;
    assert_eq!(schema.changes(1).await, [""; 0]);

    // It is one of the settings that are taken over while the service runs.
    let before = schema.world.status().await["generation"].as_u64();
    let path = schema.world.engine.home().config_path();
    let text = std::fs::read_to_string(path).expect("configuration");
    schema.world.engine.home().write_config(&text.replacen("\"drop\"", "\"halt\"", 1));
    eventually("the policy to be taken", async || {
        (schema.world.try_status().await?["generation"].as_u64() > before).then_some(())
    })
    .await;
    schema.run(&["CREATE TABLE b (x int)"]).await;
    let (place, _) = schema.halted("CREATE TABLE (public.b)").await;
    schema.world.engine.run(&["ddl", "skip", &place]).await.success();
    assert_eq!(schema.changes(2).await, [""; 0]);
    let again = schema.world.engine.run(&["ddl", "skip", &place]).await;
    assert!(again.code == 1 && again.stderr.contains("does not wait"), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_written_beside_a_mask_has_to_be_confirmed() {
    let schema = Schema::prepare("", MASK, PEOPLE).await;
    let home = schema.world.engine.home();
    let text = std::fs::read_to_string(home.config_path()).expect("configuration");
    home.write_config(&format!("ddl = \"text\"\n{text}"));
    let refused = schema.world.engine.run(&["check"]).await;
    assert!(refused.code == 1 && refused.stderr.contains("allow_unmasked"), "{refused:?}");
    home.write_config(&format!("ddl = \"text\"\nallow_unmasked = true\n{text}"));
    schema.world.engine.run(&["check"]).await.success();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_event_triggers_the_log_says_which_columns_changed() {
    let world = World::start(3).await;
    world.bootstrap().await;
    world.pg.sql("INSERT INTO ledger VALUES (4, 'x')").await;
    world.settle(5).await;
    world.pg.sql("ALTER TABLE ledger ADD added int").await;
    world.pg.sql("ALTER TABLE ledger ALTER id TYPE numeric").await;
    world.settle(6).await;
    let line = world.engine.wait_for("its columns have changed").await;
    for part in ["public.ledger", "added appeared", "id changed its type from int8 to numeric"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(line.contains("no event trigger has told of it"), "{line}");
}

/// Whatever stands there in the place of our state: it is put back, and nothing has been passed
/// over.
#[tokio::test(flavor = "multi_thread")]
async fn no_change_leaves_while_what_it_means_cannot_be_stored() {
    let schema = Schema::start("", "").await;
    schema.run(&["INSERT INTO ledger VALUES (1, 'x')"]).await;
    schema.world.settle(2).await;
    let redis = &schema.world.redis;
    let state: String = redis.command(&["GET", "{kasho}:state"]).await;
    redis.command::<String>(&["SET", "{kasho}:state", "of somebody else"]).await;
    schema.run(&["ALTER TABLE ledger ADD token uuid DEFAULT gen_random_uuid()"]).await;
    schema.world.engine.wait_for("a schema change is not published before").await;
    let told = async || {
        let words = ["XREVRANGE", "{kasho}:1:changes", "+", "-", "COUNT", "9"];
        let found: Vec<(String, Vec<String>)> = redis.command(&words).await;
        found.iter().any(|(_, words)| words.iter().any(|word| word == "ddl"))
    };
    assert!(!told().await);
    redis.command::<String>(&["SET", "{kasho}:state", &state]).await;
    eventually("the change to be published", async || told().await.then_some(())).await;
    let tables = eventually("what was made anew to be named", async || {
        let tables = schema.not_loaded().await;
        (!tables.is_empty()).then_some(tables)
    });
    assert_eq!(tables.await, BTreeSet::from(["public.ledger".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_made_on_the_way_are_loaded_and_values_made_anew_are_not() {
    let schema = Schema::start("", "").await;
    schema
        .run(&[
            "CREATE TABLE made (id int PRIMARY KEY)",
            "INSERT INTO made VALUES (1)",
            "INSERT INTO ledger VALUES (1, 'x')",
            "ALTER TABLE ledger ADD plain int DEFAULT 5",
        ])
        .await;
    schema.world.settle(2).await;
    // Both have been looked at once the other one is known.
    schema.run(&["ALTER TABLE ledger ADD token uuid DEFAULT gen_random_uuid()"]).await;
    let stale = || async {
        let tables = schema.not_loaded().await;
        (!tables.is_empty()).then_some(tables)
    };
    let tables = eventually("what was made anew to be named", async || stale().await).await;
    assert_eq!(tables, BTreeSet::from(["public.ledger".to_owned()]));
    schema.world.engine.run(&["bootstrap", "--table", "public.ledger"]).await.success();
    eventually("the table to be loaded", async || {
        schema.not_loaded().await.is_empty().then_some(())
    })
    .await;
    // What it was here and now is kept as it was; elsewhere it is another one.
    schema.run(&["ALTER TABLE ledger ADD at timestamptz DEFAULT now()"]).await;
    eventually("what was made anew to be named", async || stale().await).await;
    let entries = schema.settled(3).await;
    let told: Vec<&Value> = entries
        .iter()
        .filter(|entry| entry.ddl(0) == Some("ALTER TABLE"))
        .map(|entry| &entry.data["ddl"]["recomputed"])
        .collect();
    assert_eq!(told[0], &Value::Null);
    assert_eq!(told[1][0], "public.ledger");
    assert_eq!(told[2][0], "public.ledger");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_stream_does_not_bring_are_loaded_if_asked_for() {
    let tables = "
        CREATE TABLE parts (id int, note text) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
        CREATE TABLE high (id int, note text);
        INSERT INTO high SELECT n, 'high' FROM generate_series(10, 19) n;
        CREATE TABLE late (id int PRIMARY KEY);
        INSERT INTO late VALUES (1), (2), (3);
        ALTER TABLE parts REPLICA IDENTITY FULL; ALTER TABLE low REPLICA IDENTITY FULL;
        ALTER TABLE high REPLICA IDENTITY FULL;
        DROP PUBLICATION kasho_pub;
        CREATE PUBLICATION kasho_pub FOR TABLE ledger, parts
            WITH (publish_via_partition_root = true);";
    let schema = Schema::prepare("", "[bootstrap]\nmissing_rows = \"load\"\n", tables).await;
    schema.world.bootstrap().await;
    let loaded = async || schema.world.entries("bootstrap").await;
    let before = loaded().await;
    schema.run(&["ALTER TABLE parts ATTACH PARTITION high FOR VALUES FROM (10) TO (20)"]).await;
    // A restart entry, the rows, and the end.
    eventually("the partition to be loaded", async || {
        (loaded().await >= before + 11).then_some(())
    })
    .await;
    let before = loaded().await;
    schema.run(&["ALTER PUBLICATION kasho_pub ADD TABLE late"]).await;
    eventually("the late table to be loaded", async || {
        (loaded().await >= before + 4).then_some(())
    })
    .await;
    eventually("nothing to be missing", async || {
        schema.not_loaded().await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_published_after_it_got_rows_is_missing_them() {
    let tables = "
        CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
        DROP PUBLICATION kasho_pub; CREATE PUBLICATION kasho_pub FOR TABLE ledger, parts;
        CREATE PUBLICATION theirs FOR ALL TABLES;";
    let later = [
        "CREATE TABLE later (id int PRIMARY KEY)",
        "INSERT INTO later VALUES (1), (2), (3)",
        "CREATE TABLE high (id int PRIMARY KEY)",
        "INSERT INTO high VALUES (11), (12)",
        // This one is published when it is made: the stream brings its row.
        "CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10)",
        "INSERT INTO low VALUES (1)",
        "ALTER PUBLICATION kasho_pub ADD TABLE later",
        "ALTER TABLE parts ATTACH PARTITION high FOR VALUES FROM (10) TO (20)",
    ];
    let (named, loads) = tokio::join!(
        Schema::prepare("", "", tables),
        Schema::prepare("", "[bootstrap]\nmissing_rows = \"load\"\n", tables)
    );
    named.world.bootstrap().await;
    named.run(&later).await;
    let missing = BTreeSet::from(["public.high".to_owned(), "public.later".to_owned()]);
    eventually("both to be named", async || (named.not_loaded().await == missing).then_some(()))
        .await;

    loads.world.bootstrap().await;
    let rows = async || {
        let entries: Vec<(String, Vec<String>)> =
            loads.world.redis.command(&["XRANGE", "{kasho}:1:bootstrap", "-", "+"]).await;
        let of = |table: &str| {
            let named = |words: &Vec<String>| words.chunks(2).any(|w| w[0] == "t" && w[1] == table);
            entries.iter().filter(|(_, words)| named(words)).count()
        };
        (of("public.later"), of("public.high"), of("public.low"))
    };
    assert_eq!(rows().await, (0, 0, 0));
    loads.run(&later).await;
    eventually("both to be loaded", async || {
        let (later, high, _) = rows().await;
        (later >= 3 && high >= 2).then_some(())
    })
    .await;
    eventually("nothing to be missing", async || loads.not_loaded().await.is_empty().then_some(()))
        .await;
    assert_eq!(rows().await.2, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_made_anew_are_noted_of_every_table_that_has_them() {
    let tables = "
        CREATE TABLE \"user\" (id int PRIMARY KEY, a int); INSERT INTO \"user\" VALUES (1, 1);
        CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
        CREATE TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (20);
        INSERT INTO parts VALUES (1), (11);";
    let schema = Schema::prepare("", "", tables).await;
    schema.world.bootstrap().await;
    schema
        .run(&[
            "ALTER TABLE \"user\" ADD token uuid DEFAULT gen_random_uuid()",
            "ALTER TABLE parts ADD at timestamptz DEFAULT now()",
            "ALTER TABLE parts ADD token uuid DEFAULT gen_random_uuid()",
            "ALTER TABLE \"user\" ALTER a TYPE bigint",
            "ALTER TABLE \"user\" ALTER a TYPE numeric USING a::numeric",
            "ALTER TABLE \"user\" ALTER a TYPE int USING (random() * 100)::int",
            "DO $$ BEGIN ALTER TABLE \"user\" ALTER a TYPE text USING random(); END $$",
        ])
        .await;
    let entries = schema.settled(1).await;
    let told: Vec<Vec<&str>> = entries
        .iter()
        .filter(|entry| entry.op == "ddl")
        .map(|entry| {
            let named = entry.data["ddl"]["recomputed"].as_array();
            named.into_iter().flatten().filter_map(Value::as_str).collect()
        })
        .collect();
    let (user, parts) = (vec!["public.user"], vec!["public.high", "public.low", "public.parts"]);
    let none = Vec::new();
    assert_eq!(told, [user.clone(), parts.clone(), parts, none.clone(), none, user.clone(), user]);
    let missing = ["public.high", "public.low", "public.user"].map(str::to_owned);
    eventually("them to be named", async || {
        (schema.not_loaded().await == BTreeSet::from(missing.clone())).then_some(())
    })
    .await;
}

/// Everything that tables can be called otherwise by, in one session each; what the tables of
/// [`NAMED`] are called then is in [`RENAMED`].
const NAMED: &str = "
    CREATE SCHEMA \"Else where\";
    CREATE TABLE plain (id int PRIMARY KEY); CREATE TABLE moved (id int PRIMARY KEY);
    CREATE TABLE \"Odd \"\"T\" (id int PRIMARY KEY); CREATE TABLE indexed (id int PRIMARY KEY);
    CREATE TABLE one (id int PRIMARY KEY); CREATE TABLE two (id int PRIMARY KEY);
    CREATE TABLE run (id int PRIMARY KEY); CREATE TABLE replaced (id int PRIMARY KEY);
    CREATE TABLE back (id int PRIMARY KEY); CREATE TABLE silent (id int PRIMARY KEY);
    CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
    CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1), (2), (3);
    DROP PUBLICATION kasho_pub;
    CREATE PUBLICATION kasho_pub FOR TABLE ledger, plain, moved, \"Odd \"\"T\", indexed, one, two, run,
        replaced, back, silent, parts;
    INSERT INTO plain VALUES (1); INSERT INTO moved VALUES (1); INSERT INTO \"Odd \"\"T\" VALUES (1);
    INSERT INTO indexed VALUES (1); INSERT INTO one VALUES (1); INSERT INTO two VALUES (1);
    INSERT INTO run VALUES (1); INSERT INTO replaced VALUES (1); INSERT INTO back VALUES (1);
    INSERT INTO silent VALUES (1); INSERT INTO parts VALUES (1);";
const RENAMES: [&str; 15] = [
    "ALTER TABLE IF EXISTS ONLY Plain RENAME TO \"Plain\"",
    "ALTER TABLE moved SET /* its */ SCHEMA \"Else where\"",
    "ALTER TABLE \"Odd \"\"T\" RENAME TO odd; ALTER TABLE odd SET SCHEMA \"Else where\"",
    "ALTER INDEX indexed RENAME TO noindex",
    "BEGIN; INSERT INTO one VALUES (2); ALTER TABLE one RENAME TO aside; SAVEPOINT s",
    "ALTER TABLE two RENAME TO one; INSERT INTO one VALUES (3)",
    "SAVEPOINT t; ALTER TABLE aside RENAME TO lost; ROLLBACK TO t",
    "ALTER TABLE aside RENAME TO two; INSERT INTO two VALUES (4); COMMIT",
    "DO $$ BEGIN EXECUTE 'ALTER TABLE run ' || 'RENAME TO ran'; ALTER TABLE ran RENAME TO \"Run\"; END $$",
    // What came instead is not published.
    "BEGIN; ALTER TABLE replaced RENAME TO \"before\"; CREATE TABLE replaced (id int PRIMARY KEY)",
    "INSERT INTO \"before\" VALUES (5); COMMIT",
    "ALTER TABLE back RENAME TO forth; ALTER TABLE forth RENAME TO back",
    "ALTER TABLE parts RENAME TO whole; ALTER TABLE low RENAME TO \"Low\"",
    "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS \
     'BEGIN ALTER TABLE public.silent SET SCHEMA \"Else where\"; END'",
    "SELECT f()",
];
const RENAMED: [&str; 13] = [
    "public.plain > public.\"Plain\"",
    "public.moved > \"Else where\".moved",
    "public.\"Odd \"\"T\" > public.odd",
    "public.odd > \"Else where\".odd",
    "public.indexed > public.noindex",
    "public.one > public.aside",
    "public.two > public.one",
    "public.aside > public.two",
    "public.run > public.ran",
    "public.ran > public.\"Run\"",
    "public.replaced > public.before",
    "public.back > public.forth",
    "public.forth > public.back",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_gets_another_name_is_loaded_already() {
    let schema = Schema::prepare("", "[bootstrap]\nmissing_rows = \"load\"\n", NAMED).await;
    schema.world.bootstrap().await;
    let loads = async || {
        let entries: Vec<(String, Vec<String>)> =
            schema.world.redis.command(&["XRANGE", "{kasho}:1:bootstrap", "-", "+"]).await;
        let tables = entries.iter().flat_map(|(_, words)| words.chunks(2));
        let tables = tables.filter(|pair| pair[0] == "t" && !pair[1].is_empty());
        tables.map(|pair| pair[1].clone()).collect::<Vec<_>>()
    };
    let before = loads().await;
    schema.run(&RENAMES).await;
    // The server describes each of them anew, in the midst of a transaction, too.
    let entries = schema.settled(1).await;
    let rows = entries.iter().filter(|entry| entry.op == "insert");
    let rows: Vec<_> = rows.map(|entry| (&entry.table[..], &entry.data["new"][0])).collect();
    assert_eq!(
        rows[..4].iter().map(|row| row.0).collect::<Vec<_>>(),
        ["public.one", "public.one", "public.two", "public.before"]
    );
    let quoted = |name: &Value| {
        let name = name.as_str().expect("a name");
        let plain = name.chars().all(|c| c.is_ascii_lowercase());
        if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
    };
    let told: Vec<String> = entries
        .iter()
        .flat_map(|entry| entry.data["ddl"]["objects"].as_array().into_iter().flatten())
        .filter(|object| !object["was"].is_null())
        .map(|object| {
            let [was_in, was, schema, name] =
                ["was_in", "was", "schema", "name"].map(|key| quoted(&object[key]));
            format!("{was_in}.{was} > {schema}.{name}")
        })
        .collect();
    assert_eq!(told[..13], RENAMED);
    assert_eq!(
        told[13..],
        [
            "public.parts > public.whole",
            "public.low > public.\"Low\"",
            "public.silent > \"Else where\".silent"
        ]
    );
    // Once another one has joined and is loaded, the tables were looked at behind all of that.
    schema.run(&["ALTER PUBLICATION kasho_pub ADD TABLE late"]).await;
    eventually("the late table to be loaded", async || {
        let loaded = loads().await.iter().any(|table| table == "public.late");
        (loaded && schema.not_loaded().await.is_empty()).then_some(())
    })
    .await;
    let mut since = loads().await.split_off(before.len());
    since.retain(|table| table != "public.late");
    assert_eq!(since, [""; 0], "nothing else was loaded again");
}

/// The engine is killed when the rename is there, and is not stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_rename_that_was_not_stored_is_heard_of_again() {
    let load = "[bootstrap]\nmissing_rows = \"load\"\n";
    let tables = "CREATE TABLE one (id int PRIMARY KEY); INSERT INTO one VALUES (1), (2);
        CREATE TABLE two (id int PRIMARY KEY); CREATE TABLE late (id int PRIMARY KEY);
        DROP PUBLICATION kasho_pub; CREATE PUBLICATION kasho_pub FOR TABLE ledger, one, two;";
    let mut schema = Schema::prepare("", load, tables).await;
    schema.world.bootstrap().await;
    schema.run(&["INSERT INTO ledger VALUES (1, 'x')"]).await;
    schema.world.settle(2).await;
    let swap = [
        "BEGIN; ALTER TABLE one RENAME TO aside",
        "ALTER TABLE two RENAME TO one",
        "ALTER TABLE aside RENAME TO two",
        "COMMIT",
        "ALTER TABLE two RENAME TO three",
    ];
    for (row, state) in [(3, "of somebody else"), (4, "")] {
        let kept: String = schema.world.redis.command(&["GET", "{kasho}:state"]).await;
        if !state.is_empty() {
            schema.world.redis.command::<String>(&["SET", "{kasho}:state", state]).await;
            schema.run(&swap).await;
            schema.world.engine.wait_for("a schema change is not published before").await;
        }
        schema.world.engine.kill9().await;
        schema.world.redis.command::<String>(&["SET", "{kasho}:state", &kept]).await;
        schema.world.engine.start_again();
        schema.world.until_state("STREAMING").await;
        schema.world.settle(row).await;
    }
    let kept: String = schema.world.redis.command(&["GET", "{kasho}:state"]).await;
    let kept: Value = serde_json::from_str(&kept).expect("JSON");
    assert_eq!(kept["tables"], serde_json::json!(["public.ledger", "public.three", "public.one"]));
    let before = schema.world.entries("bootstrap").await;
    schema.run(&["ALTER PUBLICATION kasho_pub ADD TABLE late"]).await;
    // A restart entry or none, no row, and the end.
    eventually("the late table to be loaded", async || {
        let more = schema.world.entries("bootstrap").await > before;
        (more && schema.not_loaded().await.is_empty()).then_some(())
    })
    .await;
    assert!(schema.world.entries("bootstrap").await <= before + 2);
}

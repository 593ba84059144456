//! Schema changes in their transaction. The messages are those that the source's event
//! triggers write, written by the test.

use serde_json::json;

use super::Site;
use crate::harness::{eventually, logs};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int);";

/// A statement and the message that its trigger would write, for one transaction.
pub(super) fn told(tag: &str, text: &str, identity: &str) -> String {
    format!("{text}; {}", message(tag, Some(text), identity))
}

fn message(tag: &str, text: Option<&str>, identity: &str) -> String {
    let (schema, name) = identity.split_once('.').unwrap_or(("public", identity));
    let objects = json!([{"type": "table", "identity": identity, "schema": schema, "name": name}]);
    let content = json!({
        "v": 1, "tag": tag, "text": text, "nth": 1, "path": "\"$user\", public",
        "username": "postgres", "database": "postgres", "objects": objects,
    });
    let content = content.to_string().replace('\'', "''");
    format!("SELECT pg_logical_emit_message(true, 'kasho:ddl', '{content}')")
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_change_between_the_rows_of_a_transaction() {
    let site = Site::start(TABLE, "INSERT INTO t VALUES (1, 1)", "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    let alter =
        told("ALTER TABLE", "ALTER TABLE t ADD COLUMN extra text DEFAULT 'old'", "public.t");
    let create = told("CREATE TABLE", "CREATE TABLE u (id int PRIMARY KEY, t int)", "public.u");
    site.pg()
        .sql(&format!(
            "BEGIN; INSERT INTO t VALUES (2, 2); {alter}; INSERT INTO t VALUES (3, 3, 'new'); {create}; \
             INSERT INTO u VALUES (1, 3); UPDATE t SET extra = 'changed' WHERE id = 1; COMMIT"
        ))
        .await;
    site.settle().await;
    site.same(&["t", "u"]).await;
    for (tag, text) in [
        ("ALTER TABLE", "ALTER TABLE t RENAME COLUMN extra TO \"Ex\"\"tra\""),
        ("ALTER TABLE", "ALTER TABLE t ALTER COLUMN n TYPE text USING n || '!'"),
        ("CREATE INDEX", "CREATE INDEX CONCURRENTLY t_n ON t (n)"),
        ("ALTER TABLE", "ALTER TABLE u RENAME TO \"U\""),
        ("CREATE TYPE", "CREATE TYPE color AS ENUM ('red')"),
        ("CREATE SCHEMA", "CREATE SCHEMA more"),
        ("CREATE TABLE", "CREATE TABLE more.v (id int PRIMARY KEY, c public.color)"),
    ] {
        match text.contains("CONCURRENTLY") {
            true => {
                site.pg().sql(text).await;
                site.pg().sql(&message(tag, Some(text), "public.t_n")).await;
            }
            false => {
                site.pg().sql(&format!("BEGIN; {}; COMMIT", told(tag, text, "public.t"))).await;
            }
        }
    }
    site.pg()
        .sql("UPDATE t SET \"Ex\"\"tra\" = 'x', n = 'y'; INSERT INTO \"U\" VALUES (7, 7); INSERT INTO more.v VALUES (1, 'red')")
        .await;
    site.settle().await;
    site.same(&["t", "\"U\"", "more.v"]).await;
    assert_eq!(
        site.target.value("SELECT count(*) FROM pg_indexes WHERE indexname = 't_n'").await,
        "1"
    );
    // A new label, and whoever uses it, wait both for an applier that begins again.
    assert!(Site::end(&applier).await.success());
    let label = told("ALTER TYPE", "ALTER TYPE color ADD VALUE 'green'", "public.color");
    site.pg().sql(&format!("BEGIN; INSERT INTO t VALUES (5, 'five'); {label}; COMMIT")).await;
    site.pg().sql("INSERT INTO more.v VALUES (2, 'green')").await;
    let applier = site.applier();
    site.settle().await;
    site.same(&["t", "more.v"]).await;
    // A function is left out; a table is dropped; the source's rollback leaves nothing.
    let function = "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    site.pg()
        .sql(&format!("BEGIN; {}; COMMIT", told("CREATE FUNCTION", function, "public.f()")))
        .await;
    site.pg()
        .sql(&format!("BEGIN; {}; COMMIT", told("DROP TABLE", "DROP TABLE \"U\"", "public.U")))
        .await;
    site.pg()
        .sql(&format!("BEGIN; {}; ROLLBACK", told("DROP TABLE", "DROP TABLE t", "public.t")))
        .await;
    site.settle().await;
    let left = "SELECT count(*) FROM pg_proc WHERE proname = 'f'";
    assert_eq!(site.target.value(left).await, "0");
    assert_eq!(site.target.value("SELECT to_regclass('\"U\"')").await, "");
    site.same(&["t"]).await;
    assert!(Site::end(&applier).await.success());
}

/// A table that has another name now is as much the applier's own as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_bootstrap_empties_a_table_under_its_new_name() {
    let two = format!("{TABLE} CREATE TABLE u (id int PRIMARY KEY, n int);");
    let rows =
        "INSERT INTO t SELECT n, n FROM generate_series(1, 50) n; INSERT INTO u VALUES (1, 1)";
    let site = Site::start(&two, rows, "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    for (tag, text, identity) in [
        ("ALTER TABLE", "ALTER TABLE t RENAME TO \"Other\"", "public.\"Other\""),
        ("CREATE SCHEMA", "CREATE SCHEMA more", "more"),
        ("ALTER TABLE", "ALTER TABLE u SET SCHEMA more", "more.u"),
    ] {
        site.pg().sql(&format!("BEGIN; {}; COMMIT", told(tag, text, identity))).await;
    }
    site.settle().await;
    let noted = "SELECT string_agg(relation, ' ' ORDER BY relation COLLATE \"C\") FROM kasho.applied \
                 WHERE relation NOT IN ('', 'public.mark')";
    assert_eq!(site.target.value(noted).await, "more.u public.\"Other\"");
    site.world.engine.run(&["reset", "--yes"]).await.success();
    site.world.until_state("WAITING").await;
    site.pg().sql("DELETE FROM \"Other\" WHERE id > 5").await;
    site.world.bootstrap().await;
    site.settle().await;
    site.same(&["\"Other\"", "more.u"]).await;
    assert!(Site::end(&applier).await.success());
}

/// So is one of which the same transaction has the first rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_changes_its_name_behind_its_first_rows() {
    let tables = format!("{TABLE} CREATE TABLE u (id int PRIMARY KEY, n int);");
    let site = Site::start(&tables, "INSERT INTO t VALUES (1, 1)", "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    let rename = |from: &str, to: &str| {
        let text = format!("ALTER TABLE {from} RENAME TO {to}");
        told("ALTER TABLE", &text, &format!("public.{to}"))
    };
    // Its old name goes to another table, ...
    let (away, there) = (rename("u", "u_old"), rename("t", "u"));
    let first =
        format!("INSERT INTO u VALUES (1, 1); {away}; {there}; INSERT INTO u VALUES (2, 2)");
    // ... or it gets the name of one.
    let create = "CREATE TABLE made (id int PRIMARY KEY, n int)";
    let create = told("CREATE TABLE", create, "public.made");
    let (away, there) = (rename("u", "bak"), rename("made", "u"));
    let second = format!(
        "{create}; INSERT INTO made SELECT id, n + 1 FROM u; {away}; {there}; INSERT INTO u VALUES (3, 3)"
    );
    let noted = "SELECT string_agg(relation, ' ' ORDER BY relation) FROM kasho.applied \
                 WHERE relation NOT IN ('', 'public.mark')";
    for (transaction, tables, ours) in [
        (first, &["u", "u_old"][..], "public.u public.u_old"),
        (second, &["u", "u_old", "bak"], "public.bak public.u public.u_old"),
    ] {
        site.pg().sql(&format!("BEGIN; {transaction}; COMMIT")).await;
        site.settle().await;
        site.same(tables).await;
        assert_eq!(site.target.value(noted).await, ours);
    }
    site.world.engine.run(&["reset", "--yes"]).await.success();
    site.world.until_state("WAITING").await;
    site.world.bootstrap().await;
    site.settle().await;
    site.same(&["u", "u_old", "bak"]).await;
    assert!(Site::end(&applier).await.success());
}

/// The driver tells of statements, and these have values in them.
#[tokio::test(flavor = "multi_thread")]
async fn a_literal_of_a_schema_change_is_in_no_log_at_any_level() {
    let canary = logs::planted_unique("default");
    let site = Site::start(TABLE, "INSERT INTO t VALUES (1, 1)", "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    let text = format!("ALTER TABLE t ADD COLUMN extra text DEFAULT '{canary}'");
    site.pg().sql(&format!("BEGIN; {}; COMMIT", told("ALTER TABLE", &text, "public.t"))).await;
    site.settle().await;
    site.same(&["t"]).await;
    // Another one that the target refuses.
    site.target.sql("ALTER TABLE t ADD CONSTRAINT more CHECK (true)").await;
    let text = format!("ALTER TABLE t ADD CONSTRAINT more CHECK (extra = '{canary}')");
    site.pg().sql(&format!("BEGIN; {}; COMMIT", told("ALTER TABLE", &text, "public.t"))).await;
    site.settle().await;
    applier.wait_for("it is there already").await;
    assert!(Site::end(&applier).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_make_the_table_that_a_query_made() {
    let site =
        Site::start(TABLE, "INSERT INTO t SELECT n, n FROM generate_series(1, 50) n", "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    for (name, from) in [
        ("made", "SELECT id, n::numeric AS x, 'a'::char(3) AS c FROM t"),
        ("empty", "SELECT id, n FROM t WHERE false"),
    ] {
        let text = format!("CREATE TABLE {name} AS {from}");
        let told = told("CREATE TABLE AS", &text, &format!("public.{name}"));
        site.pg()
            .sql(&format!("BEGIN; {told}; INSERT INTO t SELECT count(*) + 1 FROM t; COMMIT"))
            .await;
    }
    let key = "ALTER TABLE made ADD PRIMARY KEY (id)";
    site.pg().sql(&format!("BEGIN; {}; COMMIT", told("ALTER TABLE", key, "public.made"))).await;
    site.pg().sql("UPDATE made SET x = 0.5 WHERE id < 5; INSERT INTO empty VALUES (1, 2)").await;
    site.settle().await;
    site.same(&["made", "empty", "t"]).await;
    // A table of which nobody has told stays a table that is missing.
    site.pg().sql("CREATE TABLE untold (id int PRIMARY KEY); INSERT INTO untold VALUES (1)").await;
    applier.wait_for("the target has no table public.untold").await;
    assert_eq!(applier.wait_exit().await.code(), Some(1));
    assert_eq!(site.target.value("SELECT to_regclass('untold')").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_s_table_of_the_source_s_own_types_is_made_by_hand_and_all_goes_on() {
    let types =
        "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TABLE t (id int PRIMARY KEY, m mood);";
    let site = Site::start(types, "INSERT INTO t VALUES (1, 'sad'), (2, 'happy')", "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    let told = told("CREATE TABLE AS", "CREATE TABLE moods AS SELECT id, m FROM t", "public.moods");
    site.pg().sql(&format!("BEGIN; {told}; INSERT INTO t VALUES (3, 'sad'); COMMIT")).await;
    let said = applier.wait_for("of a type of the source's own").await;
    for part in ["column \"m\"", "CREATE TABLE public.moods by hand", "--table=public.moods"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(applier.wait_exit().await.code(), Some(1));
    site.target.sql("CREATE TABLE moods (id int, m mood)").await;
    let applier = site.applier();
    site.settle().await;
    site.pg().sql("INSERT INTO moods VALUES (4, 'happy')").await;
    site.settle().await;
    site.same(&["moods", "t"]).await;
    assert!(Site::end(&applier).await.success());
}

/// A table that rows have made is in question until the schema change tells of it, although a part
/// of them had to be committed before, and whoever did that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_made_of_rows_stays_in_question_when_a_part_is_committed() {
    let budget = "[redis.budget]\nchanges = \"4MiB\"\n";
    let site = Site::start(TABLE, "", "", "").await.again("", budget).await;
    site.world.until_state("WAITING").await;
    site.world.bootstrap().await;
    let rows = "SELECT n AS id, repeat(md5(n::text), 20) AS big FROM generate_series(1, 12000) n";
    let text = format!("CREATE TABLE made AS {rows}");
    let made = told("CREATE TABLE AS", &text, "public.made");
    site.pg().sql(&format!("BEGIN; {made}; COMMIT")).await;
    let applier = site.applier();
    applier.wait_for("larger than Redis's budget").await;
    applier.kill9().await;
    let applier = site.applier();
    site.settle().await;
    site.same(&["made"]).await;
    assert!(Site::end(&applier).await.success());
    // It is a table like others now.
    site.pg().sql("INSERT INTO made VALUES (0, 'more')").await;
    let applier = site.applier();
    site.settle().await;
    site.same(&["made"]).await;
    // Of this one nobody tells.
    site.pg().sql(&format!("CREATE TABLE untold AS {rows}")).await;
    for again in [applier, site.applier()] {
        let said = again.wait_for("is committed with one made of what its rows say").await;
        assert!(said.contains("AND relation = 'public.untold'"), "{said}");
        assert_eq!(again.wait_exit().await.code(), Some(1));
    }
    site.target.sql("DELETE FROM kasho.applied WHERE relation = 'public.untold'").await;
    site.catch_up().await.success();
    site.same(&["untold", "made"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_is_made_by_hand_and_said_so() {
    let site = Site::start(TABLE, "", "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    // There already, of nothing that is there: told, and passed over.
    site.target.sql("ALTER TABLE t ADD COLUMN early int").await;
    let early = told("ALTER TABLE", "ALTER TABLE t ADD COLUMN early int", "public.t");
    site.pg().sql(&format!("BEGIN; {early}; INSERT INTO t VALUES (1, 1, 1); COMMIT")).await;
    let elsewhere =
        message("ALTER TABLE", Some("ALTER TABLE elsewhere ADD x int"), "public.elsewhere");
    site.pg().sql(&elsewhere).await;
    site.settle().await;
    site.same(&["t"]).await;
    applier.wait_for("it is there already").await;
    applier.wait_for("it is of nothing that is there").await;
    // Refused by what is in the target.
    site.target.sql("INSERT INTO t VALUES (99, NULL, NULL)").await;
    let change = "ALTER TABLE t ALTER COLUMN n SET NOT NULL";
    let refused = told("ALTER TABLE", change, "public.t");
    site.pg().sql(&format!("BEGIN; {refused}; INSERT INTO t VALUES (2, 2, 2); COMMIT")).await;
    let said = applier.wait_for("the target refuses it (SQLSTATE 23502: a column").await;
    assert_eq!(applier.wait_exit().await.code(), Some(1));
    site.target.sql(&format!("DELETE FROM t WHERE id = 99; {change}")).await;
    let position = said.split("--ddl-done ").nth(1).unwrap();
    site.world.engine.run(&["apply", "--until-caught-up", "--ddl-done", position]).await.success();
    let applier = site.applier();
    site.settle().await;
    site.same(&["t"]).await;
    // Of rows that the target does not have.
    site.target.sql("CREATE TABLE u (t int)").await;
    site.pg().sql("CREATE TABLE u (t int); INSERT INTO u VALUES (1)").await;
    site.settle().await;
    site.same(&["t", "u"]).await;
    site.target.sql("DELETE FROM t WHERE id = 1").await;
    let change = "ALTER TABLE u ADD CONSTRAINT ut FOREIGN KEY (t) REFERENCES t";
    let refused = told("ALTER TABLE", change, "public.u");
    site.pg().sql(&format!("BEGIN; {refused}; INSERT INTO t VALUES (3, 3, 3); COMMIT")).await;
    let said = applier.wait_for("the target refuses it (SQLSTATE 23503: a foreign key").await;
    assert!(said.contains("the same with NOT VALID can be made now"), "{said}");
    assert_eq!(applier.wait_exit().await.code(), Some(1));
    site.target.sql(&format!("{change} NOT VALID")).await;
    let position = said.split("--ddl-done ").nth(1).unwrap();
    site.world.engine.run(&["apply", "--until-caught-up", "--ddl-done", position]).await.success();
    site.target.sql("INSERT INTO t VALUES (1, 1, 1); ALTER TABLE u VALIDATE CONSTRAINT ut").await;
    site.same(&["t", "u"]).await;
}

/// With the event triggers themselves.
pub(super) const TRIGGERS: &str = include_str!("../../../config/sql/ddl.sql");

#[tokio::test(flavor = "multi_thread")]
async fn values_become_what_they_became_in_the_sources_session() {
    let table =
        "CREATE TABLE t (id int PRIMARY KEY, z timestamptz, b bytea, f float8, i interval);";
    let rows = "INSERT INTO t VALUES (1, '2024-01-31 20:00+00', '\\x00ff27', 0.123456789, '1 day -2 hours')";
    let site = Site::start(table, rows, "", "").await;
    site.pg().sql(TRIGGERS).await;
    let applier = site.applier();
    site.world.bootstrap().await;
    let client = site.pg().client().await;
    for statement in [
        "SET timezone = 'Asia/Kolkata'; SET datestyle = 'SQL, DMY'; SET bytea_output = 'escape'; \
         SET extra_float_digits = -9; SET intervalstyle = 'sql_standard'; \
         SET standard_conforming_strings = off",
        "ALTER TABLE t ALTER z TYPE date",
        "ALTER TABLE t ALTER b TYPE text, ALTER f TYPE text, ALTER i TYPE text",
        "ALTER TABLE t ADD d date DEFAULT '02/01/2024', ADD s text DEFAULT 'back\\\\slash', \
         ADD m timestamptz DEFAULT '1/2/2024 12:00'",
        "INSERT INTO t (id) VALUES (2)",
    ] {
        client.batch_execute(statement).await.expect(statement);
    }
    site.settle().await;
    site.same(&["t"]).await;
    let expected = r#"(1,2024-02-01,"\\000\\377'",0.123457,"+0-0 +1 -2:00:00",2024-01-02,"back\\slash","2024-02-01 06:30:00+00")"#;
    assert_eq!(site.target.value("SELECT t::text FROM t WHERE id = 1").await, expected);
    // The next ones are applied as before.
    site.pg().sql("UPDATE t SET d = '2024-05-06', m = '2024-05-06 12:00+00' WHERE id = 1").await;
    site.settle().await;
    site.same(&["t"]).await;
    assert!(Site::end(&applier).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_a_query_made_has_the_columns_that_it_has_at_the_source() {
    let schema = "CREATE TYPE mood AS ENUM ('fine', 'sad');
                  CREATE TABLE t (id int PRIMARY KEY, v varchar(7), n numeric(8,2), c char(3),
                                  b varbit(9), w text COLLATE \"C\", m mood);";
    let rows =
        "INSERT INTO t VALUES (1, 'v', 1.5, 'c', B'101', 'w', 'sad'); INSERT INTO t VALUES (2)";
    let site = Site::start(schema, rows, "", "").await;
    site.pg().sql(TRIGGERS).await;
    let applier = site.applier();
    site.world.bootstrap().await;
    for statement in [
        "CREATE TABLE made AS SELECT id, v, n, c, b, w FROM t",
        // Types of the source's own are known from its structure, if no row came before that.
        "CREATE TABLE \"order\" AS SELECT * FROM t WHERE false",
        "BEGIN; SELECT v, n INTO other FROM t; ALTER TABLE other REPLICA IDENTITY FULL; \
         UPDATE other SET v = 'fine'; COMMIT",
        "INSERT INTO \"order\" TABLE t",
    ] {
        site.pg().sql(statement).await;
    }
    site.settle().await;
    site.same(&["made", "\"order\"", "other"]).await;
    let columns = "SELECT string_agg(concat_ws(' ', attrelid::regclass, attname,
                       format_type(atttypid, atttypmod), attcollation::regcollation), ', '
                       ORDER BY attrelid::regclass::text, attnum)
                   FROM pg_attribute WHERE attnum > 0
                    AND attrelid IN ('made'::regclass, '\"order\"'::regclass, 'other'::regclass)";
    let source = site.pg().value(columns).await;
    assert_eq!(site.target.value(columns).await, source);
    assert!(source.contains("made v character varying(7)"), "{source}");
    assert!(Site::end(&applier).await.success());
}

/// Two schemas with tables of the same names: whose rows are misled stand in the other one.
const COLOURS: &str = "CREATE SCHEMA blue; CREATE SCHEMA \"Green\";
    CREATE TABLE blue.t (id int PRIMARY KEY, v text); CREATE TABLE \"Green\".t (LIKE blue.t INCLUDING ALL);
    CREATE TABLE blue.u (id int PRIMARY KEY, v text); CREATE TABLE \"Green\".u (LIKE blue.u INCLUDING ALL);";
const SWAP: &str = "ALTER SCHEMA blue RENAME TO aside; ALTER SCHEMA \"Green\" RENAME TO blue; \
                    ALTER SCHEMA aside RENAME TO \"Green\"";
const COLOURED: [&str; 4] = ["blue.t", "blue.u", "\"Green\".t", "\"Green\".u"];

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_where_their_schema_is_whatever_it_is_called_by_then() {
    let mut site = Site::start(COLOURS, "", "", "").await;
    site.pg().sql(TRIGGERS).await;
    let applier = site.applier();
    site.world.bootstrap().await;
    // The server describes these tables once.
    site.pg()
        .sql("INSERT INTO blue.t VALUES (1, 'b'); INSERT INTO \"Green\".t VALUES (1, 'g')")
        .await;
    site.settle().await;
    // One that is open all the while, of tables that nobody has spoken of yet.
    let open = site.pg().client().await;
    open.batch_execute("BEGIN; INSERT INTO blue.u VALUES (1, 'b')").await.expect("open");
    let client = site.pg().client().await;
    let inside = format!(
        "BEGIN; INSERT INTO blue.t VALUES (2, 'b'); {SWAP}; INSERT INTO \"Green\".t VALUES (3, 'b'); \
         UPDATE blue.t SET v = 'G'; COMMIT"
    );
    // One by one: of several in one text nobody can tell which a schema change is.
    for statement in inside.split("; ") {
        client.batch_execute(statement).await.expect(statement);
    }
    open.batch_execute("INSERT INTO \"Green\".u VALUES (2, 'b'); COMMIT").await.expect("commit");
    site.pg().sql("DELETE FROM \"Green\".t WHERE id = 2; INSERT INTO blue.u VALUES (1, 'g')").await;
    site.settle().await;
    site.same(&COLOURED).await;
    assert_eq!(site.target.value("SELECT v FROM blue.t").await, "G");
    // And back, in three transactions, by a function, and with one that is rolled back; kills
    // between.
    site.world.engine.kill9().await;
    for statement in SWAP.split("; ") {
        client.batch_execute(statement).await.expect(statement);
    }
    client.batch_execute("INSERT INTO blue.t VALUES (10, 'back')").await.expect("row");
    let back = "CREATE FUNCTION back() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN EXECUTE 'ALTER SCHEMA \
                blue RENAME TO sky'; UPDATE sky.t SET v = 'sky'; END $f$; SELECT back()";
    client.batch_execute(back).await.expect("back");
    site.world.engine.start_again();
    site.world.until_state("STREAMING").await;
    applier.kill9().await;
    client
        .batch_execute("BEGIN; ALTER SCHEMA sky RENAME TO lost; ROLLBACK")
        .await
        .expect("rolled back");
    client
        .batch_execute(
            "INSERT INTO sky.u VALUES (9, 's'); ALTER SCHEMA sky RENAME TO blue; \
                          INSERT INTO blue.u VALUES (8, 's')",
        )
        .await
        .expect("more");
    let applier = site.applier();
    site.settle().await;
    site.same(&COLOURED).await;
    // What is noted of the tables went with them: the next bootstrap finds them its own.
    eventually("no table to count as one that nobody has loaded", async || {
        let status = site.world.status().await;
        status["not_loaded"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    site.world.engine.run(&["reset", "--yes"]).await.success();
    site.world.until_state("WAITING").await;
    site.pg().sql("DELETE FROM blue.t WHERE id > 1").await;
    site.world.bootstrap().await;
    site.settle().await;
    site.same(&COLOURED).await;
    assert!(Site::end(&applier).await.success());
}

/// The tables are locked then, and their schema is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_gets_another_name_while_its_tables_are_loaded() {
    let rows = "INSERT INTO blue.t SELECT n, repeat('b', 200) FROM generate_series(1, 3000) n; \
                INSERT INTO \"Green\".t SELECT n, repeat('g', 200) FROM generate_series(1, 3000) n; \
                INSERT INTO blue.u VALUES (1, 'b')";
    let load = "[bootstrap]\nworkers = 1\nmax_rate = \"300KiB\"\n";
    let site = Site::start(COLOURS, rows, "", load).await;
    site.pg().sql(TRIGGERS).await;
    let applier = site.applier();
    let bootstrap = site.world.engine.spawn(&["bootstrap", "--yes"]);
    bootstrap.wait_for("state: ACCUMULATING").await;
    site.pg().sql(SWAP).await;
    site.pg()
        .sql("INSERT INTO \"Green\".u VALUES (2, 'b'); INSERT INTO blue.u VALUES (1, 'g')")
        .await;
    assert!(bootstrap.wait_exit().await.success());
    site.settle().await;
    site.same(&COLOURED).await;
    assert!(Site::end(&applier).await.success());
}

//! What a target lacks is told with the statement that mends it, before or with the first row
//! concerned; and what it needs is no more than is told.

use super::Site;
use crate::harness::Postgres;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int);
    CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t);";
const ROWS: &str = "INSERT INTO t SELECT n, n FROM generate_series(1, 100) n;
    INSERT INTO child SELECT n, n FROM generate_series(1, 100) n";

impl Site {
    /// Runs an applier that ends with an error that says all of this.
    async fn refused(&self, words: &[&str]) {
        let applier = self.applier();
        assert_eq!(applier.wait_exit().await.code(), Some(1), "{:?}", applier.lines());
        let said = applier.lines().join("\n");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_lacks_is_told_and_once_it_is_there_all_goes_on() {
    let site = Site::start(TABLE, ROWS, "", "").await;
    site.target.sql("INSERT INTO t VALUES (5)").await;
    site.world.bootstrap().await;
    site.refused(&["public.t of the target has rows already", "TRUNCATE"]).await;
    // The other table may be there already.
    site.target.sql("SET session_replication_role = replica; DELETE FROM t").await;
    site.catch_up().await.success();
    site.same(&["t", "child"]).await;

    site.target.sql("ALTER TABLE t DROP COLUMN n").await;
    site.pg().sql("UPDATE t SET n = 1000 - n").await;
    site.refused(&["table public.t of the target has no column \"n\"", "ADD COLUMN"]).await;
    site.target.sql("ALTER TABLE t ADD COLUMN n int").await;
    site.catch_up().await.success();
    site.same(&["t"]).await;

    // By hand, so that nobody told the applier.
    site.target.sql("ALTER TABLE t RENAME TO other").await;
    site.pg().sql("INSERT INTO t VALUES (900, 9)").await;
    site.refused(&["no table public.t any more", "renamed, moved or dropped", "--table public.t"])
        .await;
    assert_eq!(site.target.value("SELECT coalesce(to_regclass('t')::text, 'none')").await, "none");
    site.target.sql("ALTER TABLE other RENAME TO t").await;
    site.catch_up().await.success();
    site.same(&["t"]).await;

    site.target.sql("DROP TABLE child").await;
    site.pg().sql("INSERT INTO child VALUES (200, NULL)").await;
    site.refused(&["no table public.child any more", "--section=pre-data"]).await;
    site.target.sql("CREATE VIEW child AS SELECT 1 AS id").await;
    site.refused(&["public.child of the target is no table"]).await;
    // Columns in another order, of another type, and one more.
    let other = "DROP VIEW child; CREATE TABLE child (t bigint, id int, more text DEFAULT 'own')";
    site.target.sql(other).await;
    site.catch_up().await.success();
    site.pg().sql("UPDATE child SET t = 1 WHERE id = 200").await;
    site.refused(&["child of the target has no unique index over (id)", "--section=post-data"])
        .await;
    site.target.sql("ALTER TABLE child ADD PRIMARY KEY (id)").await;
    let applier = site.applier();
    site.settle().await;
    let row = "SELECT id || ':' || t || more FROM child";
    assert_eq!(site.target.value(row).await, "200:1own");
    assert!(Site::end(&applier).await.success());
}

/// The target's role, without anything yet.
const ROLE: &str = "CREATE ROLE filler LOGIN PASSWORD 'filler-s-own'";

/// What lets this role keep the target's triggers from firing: before 15 that is no right to be
/// granted.
async fn replica(site: &Site) -> &'static str {
    match site.target.version().await {
        ..15 => "ALTER ROLE filler SUPERUSER",
        _ => "GRANT SET ON PARAMETER session_replication_role TO filler",
    }
}

async fn as_filler() -> Site {
    let target =
        Postgres::builder().target().hba("host all filler 127.0.0.1/32 trust").start().await;
    let site = Site::with(target, TABLE, ROWS, "", "").await;
    site.target.sql(ROLE).await;
    let url = site.target.url_as("filler", "filler-s-own");
    site.configure(&url, "");
    site.world.bootstrap().await;
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_needs_what_it_is_told_to_be_granted_and_no_more() {
    let site = as_filler().await;
    site.refused(&["may not make the schema kasho", "CREATE SCHEMA kasho AUTHORIZATION filler"])
        .await;
    // As a dump of the source would bring it.
    site.target.sql("CREATE SCHEMA kasho").await;
    site.refused(&["or a table in it", "ALTER SCHEMA kasho OWNER TO filler"]).await;
    site.target.sql("ALTER SCHEMA kasho OWNER TO filler").await;
    site.refused(&["may not SELECT, INSERT, UPDATE, DELETE, TRUNCATE", "TO filler"]).await;
    let grant =
        "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO filler";
    site.target.sql(grant).await;
    let remedy = replica(&site).await;
    site.refused(&[remedy, "foreign keys"]).await;
    site.target.sql(remedy).await;
    let applier = site.applier();
    site.settle().await;
    // In an order that the foreign key alone would not let pass.
    site.pg()
        .sql("BEGIN; INSERT INTO t VALUES (500, 1); INSERT INTO child VALUES (500, 500); COMMIT")
        .await;
    site.pg()
        .sql("BEGIN; DELETE FROM child WHERE id < 5; DELETE FROM t WHERE id < 5; COMMIT")
        .await;
    site.pg().sql("TRUNCATE t, child").await;
    site.pg().sql("INSERT INTO t VALUES (1, 1)").await;
    site.settle().await;
    site.same(&["t", "child"]).await;
    assert!(Site::end(&applier).await.success());
    // Where another role has filled the target before, its progress is that one's.
    site.target.sql("ALTER TABLE kasho.applied OWNER TO postgres").await;
    let mend = "ALTER SCHEMA kasho OWNER TO filler; ALTER TABLE kasho.applied OWNER TO filler";
    site.refused(&["role \"filler\" may not use", mend]).await;
    site.target.sql(mend).await;
    site.catch_up().await.success();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_that_right_deferrable_keys_wait_and_triggers_are_refused() {
    let site = as_filler().await;
    let grant =
        "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO filler";
    site.target
        .sql(&format!(
            "CREATE SCHEMA kasho AUTHORIZATION filler; {grant}; ALTER TABLE child DROP CONSTRAINT child_t_fkey"
        ))
        .await;
    site.catch_up().await.success();
    let key = "ALTER TABLE child ADD FOREIGN KEY (t) REFERENCES t DEFERRABLE";
    site.target.sql(key).await;
    site.pg()
        .sql("ALTER TABLE child ALTER CONSTRAINT child_t_fkey DEFERRABLE INITIALLY DEFERRED")
        .await;
    site.pg()
        .sql("BEGIN; INSERT INTO child VALUES (600, 600); INSERT INTO t VALUES (600, 1); COMMIT")
        .await;
    let applier = site.applier();
    site.settle().await;
    site.same(&["t", "child"]).await;
    assert!(Site::end(&applier).await.success());
    site.target
        .sql(
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
             CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
        )
        .await;
    site.pg().sql("INSERT INTO t VALUES (700, 1)").await;
    let remedy = replica(&site).await;
    site.refused(&["table public.t of the target has triggers", remedy]).await;
}

/// A superuser's applier fires no trigger, unless the trigger asks for that.
#[tokio::test(flavor = "multi_thread")]
async fn triggers_do_not_act_a_second_time() {
    let site = Site::start(TABLE, ROWS, "", "").await;
    site.target
        .sql(
            "CREATE TABLE acts (what text); CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN INSERT INTO public.acts VALUES (TG_NAME); RETURN NEW; END'; \
             CREATE TRIGGER plain AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION act(); \
             CREATE TRIGGER always AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION act(); \
             ALTER TABLE t ENABLE ALWAYS TRIGGER always",
        )
        .await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.pg().sql("INSERT INTO t VALUES (1000, 1)").await;
    site.settle().await;
    let acts = "SELECT string_agg(DISTINCT what, ' ') || count(*) FROM acts";
    assert_eq!(site.target.value(acts).await, "always101");
    assert!(Site::end(&applier).await.success());
}

/// What a trigger does at the commit is no sign of another applier.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_commit_itself_is_told_as_that() {
    let site = Site::start(TABLE, "", "", "").await;
    site.world.bootstrap().await;
    site.target
        .sql(
            "CREATE FUNCTION break() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN PERFORM 1 / (NEW.n - NEW.n); RETURN NULL; END'; \
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION break(); ALTER TABLE t ENABLE ALWAYS TRIGGER late",
        )
        .await;
    site.pg().sql("INSERT INTO t VALUES (1, 1)").await;
    site.refused(&["committing at", "22012", "divides by zero"]).await;
    site.target.sql("DROP TRIGGER late ON t").await;
    site.catch_up().await.success();
    site.same(&["t"]).await;
}

/// A table of the target that nobody fills keeps its rows, whatever the source empties.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_does_not_reach_what_it_does_not_name() {
    let site = Site::start(TABLE, ROWS, "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    site.target.sql("CREATE TABLE own (t int REFERENCES t); INSERT INTO own VALUES (7)").await;
    site.pg().sql("TRUNCATE t CASCADE").await;
    applier.wait_for("table public.own of the target refers to it").await;
    assert_eq!(applier.wait_exit().await.code(), Some(1));
    assert_eq!(site.target.value("SELECT count(*) FROM own").await, "1");
    site.target.sql("ALTER TABLE own DROP CONSTRAINT own_t_fkey").await;
    let applier = site.applier();
    site.settle().await;
    site.same(&["t", "child"]).await;
    assert_eq!(site.target.value("SELECT count(*) FROM own").await, "1");
    assert!(Site::end(&applier).await.success());
}

/// What has no row refers to none, and what is a part of a table is filled with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_loaded_again_although_tables_of_ours_refer_to_it() {
    let schema = "CREATE TABLE parent (id int PRIMARY KEY, n int);
        CREATE TABLE never (id int PRIMARY KEY, p int REFERENCES parent);
        CREATE TABLE parted (id int PRIMARY KEY, p int REFERENCES parent) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (5);
        CREATE TABLE high PARTITION OF parted FOR VALUES FROM (5) TO (100);";
    let rows = "INSERT INTO parent SELECT n, n FROM generate_series(1, 9) n;
        INSERT INTO parted SELECT n, n FROM generate_series(1, 9) n;
        ALTER PUBLICATION kasho_pub SET (publish_via_partition_root = true);";
    let site = Site::start(schema, rows, "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    site.target.sql("UPDATE parent SET n = -1; INSERT INTO parent VALUES (77)").await;
    let again = ["bootstrap", "--yes", "--table", "public.parent"];
    site.world.engine.run(&again).await.success();
    site.settle().await;
    site.same(&["parent", "never", "parted"]).await;
    assert!(Site::end(&applier).await.success());
}

/// Where the target has a foreign key that the source has not, tables are not truncated.
#[tokio::test(flavor = "multi_thread")]
async fn identities_begin_again_with_a_truncate_however_it_is_done() {
    let schema =
        "CREATE TABLE numbered (id serial PRIMARY KEY, other int GENERATED BY DEFAULT AS IDENTITY);
        CREATE TABLE refers (id int PRIMARY KEY, n int);";
    let rows =
        "INSERT INTO numbered SELECT FROM generate_series(1, 9); INSERT INTO refers VALUES (1, 1)";
    let site = Site::start(schema, rows, "", "").await;
    let applier = site.applier();
    site.world.bootstrap().await;
    site.settle().await;
    let more = "ALTER TABLE refers ADD FOREIGN KEY (n) REFERENCES numbered; \
                SELECT setval('numbered_id_seq', 50), setval('numbered_other_seq', 60)";
    site.target.sql(more).await;
    site.pg().sql("TRUNCATE numbered").await;
    site.settle().await;
    let next = "SELECT nextval('numbered_id_seq') || ' ' || nextval('numbered_other_seq')";
    assert_eq!(site.target.value(next).await, "51 61");
    site.pg().sql("TRUNCATE numbered RESTART IDENTITY").await;
    site.settle().await;
    assert_eq!(site.target.value(next).await, "1 1");
    site.same(&["numbered", "refers"]).await;
    assert!(Site::end(&applier).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_of_another_source_or_a_later_bootstrap_is_refused() {
    let site = Site::start(TABLE, ROWS, "", "").await;
    site.world.bootstrap().await;
    site.catch_up().await.success();
    site.target.sql("UPDATE kasho.applied SET system = '77'").await;
    site.refused(&["filled from another source", "apply.consumer"]).await;
    site.target.sql("UPDATE kasho.applied SET system = '', epoch = 9").await;
    site.refused(&["the target holds epoch e9, Redis is at e1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_target_it_says_so() {
    let site = Site::start("", "", "", "").await;
    site.world.configure("");
    site.refused(&["apply.target is not set"]).await;
    site.world
        .configure("[apply]\ntarget = \"postgresql://u@h/d\"\nworkers = 0\nconsumer = \"a b\"\n");
    site.refused(&["apply.workers: must be greater than 0", "apply.consumer: is no name"]).await;
}

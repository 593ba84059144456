//! `kasho setup`, `check` and `teardown` on a source as they are found: tables without a key,
//! with `REPLICA IDENTITY NOTHING`, with a generated key, with row security; under long
//! transactions; and the engine with a role that has just what setup gave it.

use crate::harness::{Engine, Postgres, Redis, eventually, logs, unique};
use crate::world::{World, config};

const SOURCE: &str = "
    CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO app;
    CREATE SCHEMA \"Shop\" AUTHORIZATION app;
    SET ROLE app;
    CREATE TABLE good (id serial PRIMARY KEY, note text);
    CREATE TABLE \"Shop\".\"Odd T\" (id int PRIMARY KEY);
    CREATE TABLE whole (a int); ALTER TABLE whole REPLICA IDENTITY FULL;
    CREATE TABLE keyless (a int);
    CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
    CREATE TABLE made (a int, id int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY);
    CREATE TABLE put_off (id int PRIMARY KEY DEFERRABLE);
    CREATE TABLE secured (id int PRIMARY KEY, owner text);
    ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
    ALTER TABLE secured FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON secured USING (owner = current_user);
    CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
    CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY);
    INSERT INTO good (note) SELECT 'n' FROM generate_series(1, 10);
    INSERT INTO keyless VALUES (1);
    INSERT INTO parts VALUES (1), (2);
    INSERT INTO \"Shop\".\"Odd T\" VALUES (1);
    RESET ROLE;
    INSERT INTO secured VALUES (1, 'somebody'), (2, 'kasho');";

const LEFT_OUT: [&str; 4] = ["public.keyless", "public.nothing", "public.made", "public.put_off"];
const PUBLISHED: [&str; 5] = ["Odd T", "good", "low", "secured", "whole"];

struct Site {
    world: World,
    admin: String,
}

impl Site {
    async fn start() -> Site {
        let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
        pg.sql(SOURCE).await;
        let password = logs::planted(format!("reader-{}", unique()));
        let builder = Engine::builder();
        let reader = pg.url_as("kasho", &password);
        let text = config(&reader, &redis.url(), builder.home().grpc_port(), "");
        let engine = builder.config(&text).build();
        let admin = pg.url();
        Site { world: World { pg, redis, engine }, admin }
    }

    async fn kasho(&self, words: &[&str]) -> String {
        let mut all = words.to_vec();
        all.extend(["--admin-url", &self.admin]);
        self.world.engine.run(&all).await.success().stdout
    }

    async fn published(&self) -> Vec<String> {
        let sql = "SELECT tablename FROM pg_publication_tables WHERE pubname = 'kasho_pub' \
                   ORDER BY tablename COLLATE \"C\"";
        let rows = self.world.pg.rows(sql).await;
        rows.into_iter().map(|mut row| row.remove(0).expect("a name")).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_prints_a_script_that_does_it_and_then_has_nothing_to_do() {
    let site = Site::start().await;
    let pg = &site.world.pg;
    let script = site.kasho(&["setup"]).await;
    for table in LEFT_OUT {
        let line = script.lines().find(|line| line.contains(&format!("table {table} is left out")));
        assert!(line.expect(table).contains("to mend it: "), "{script}");
    }
    assert!(!script.to_lowercase().contains("scram"), "{script}");
    assert_eq!(pg.value("SELECT count(*) FROM pg_publication").await, "0", "it only printed");

    // Each statement by hand.
    pg.psql(&script).await;
    assert_eq!(site.published().await, PUBLISHED);
    let again = site.kasho(&["setup"]).await;
    assert!(again.contains("nothing is left to do"), "{again}");
    let again = site.kasho(&["setup", "--apply"]).await;
    assert!(again.contains("nothing is left to do"), "{again}");
    let triggers = "SELECT count(*) FROM pg_event_trigger WHERE evtenabled = 'A'";
    assert_eq!(pg.value(triggers).await, "5");

    // What somebody spoils is put right, and nothing else.
    pg.sql("ALTER EVENT TRIGGER kasho_ddl_drop DISABLE; REVOKE SELECT ON good FROM kasho").await;
    let mended = site.kasho(&["setup", "--apply"]).await;
    assert!(mended.contains("GRANT SELECT ON public.good TO"), "{mended}");
    assert!(!mended.contains("CREATE PUBLICATION"), "{mended}");
    assert_eq!(pg.value(triggers).await, "5");

    let script = site.kasho(&["teardown"]).await;
    assert_eq!(pg.value(triggers).await, "5", "it only printed");
    pg.psql(&script).await;
    for gone in [
        "SELECT count(*) FROM pg_publication",
        "SELECT count(*) FROM pg_event_trigger",
        "SELECT count(*) FROM pg_namespace WHERE nspname = 'kasho'",
        "SELECT count(*) FROM pg_roles WHERE rolname = 'kasho'",
    ] {
        assert_eq!(pg.value(gone).await, "0", "{gone}");
    }
    assert_eq!(pg.value("SELECT count(*) FROM good").await, "10");
    let again = site.kasho(&["teardown", "--apply"]).await;
    assert!(again.contains("nothing is left to do"), "{again}");
}

/// Nor is it emptied in the targets first.
async fn what_cannot_be_read_is_not_loaded_again(world: &World) {
    world.pg.sql("REVOKE SELECT ON later FROM kasho").await;
    let loaded = world.entries("bootstrap").await;
    let refused = world.engine.run(&["bootstrap", "--table", "\"public\".\"later\""]).await;
    let grant = "GRANT SELECT ON public.later TO kasho";
    assert!(refused.code == 1 && refused.stderr.contains(grant), "{refused:?}");
    assert_eq!(world.entries("bootstrap").await, loaded);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_needs_no_more_than_setup_gives() {
    let mut site = Site::start().await;
    site.kasho(&["setup", "--apply"]).await;
    let pg = &site.world.pg;
    let attributes = "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls \
                      FROM pg_roles WHERE rolname = 'kasho'";
    let found = pg.rows(attributes).await.remove(0);
    let found: Vec<&str> = found.iter().map(|value| value.as_deref().unwrap_or("")).collect();
    assert_eq!(found, ["f", "f", "f", "t", "t"]);
    let groups = "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member \
                  WHERE r.rolname = 'kasho'";
    assert_eq!(pg.value(groups).await, "0");
    let readable = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace \
                    AND relkind = 'r' AND has_table_privilege('kasho', oid, 'SELECT') \
                    AND relname IN ('keyless', 'nothing', 'made', 'put_off', 'scratch')";
    assert_eq!(pg.value(readable).await, "0");

    let checked = site.world.engine.run(&["check"]).await.success().stdout;
    assert!(checked.contains("ready"), "{checked}");
    assert!(checked.contains("not published: public.keyless"), "{checked}");
    assert!(!checked.contains("missing:"), "{checked}");

    site.world.engine.start_as(&["run"]);
    site.world.until_state("WAITING").await;
    site.world.bootstrap().await;
    // Ten, two that row security hides from others, two in a partition, one: and the end.
    eventually("the load", async || (site.world.entries("bootstrap").await >= 16).then_some(()))
        .await;
    let pg = &site.world.pg;
    // The application goes on, with tables that could not be followed too.
    pg.sql(
        "SET ROLE app; UPDATE keyless SET a = 2; UPDATE nothing SET id = 1; UPDATE made SET a = 1",
    )
    .await;
    pg.sql(
        "UPDATE good SET note = 'changed' WHERE id = 1; DELETE FROM secured WHERE id = 1; \
            INSERT INTO low VALUES (3); SET ROLE app; CREATE TABLE later (id int PRIMARY KEY)",
    )
    .await;
    eventually("the changes", async || (site.world.entries("changes").await >= 4).then_some(()))
        .await;
    // A table that its owner makes later can be loaded too.
    pg.sql("INSERT INTO later VALUES (1); ALTER PUBLICATION kasho_pub ADD TABLE later").await;
    let before = site.world.entries("bootstrap").await;
    eventually("the table to be published", async || {
        let loads = site.world.engine.run(&["bootstrap", "--table", "public.later"]).await;
        (loads.code == 0).then_some(())
    })
    .await;
    eventually("its row", async || {
        (site.world.entries("bootstrap").await >= before + 2).then_some(())
    })
    .await;

    what_cannot_be_read_is_not_loaded_again(&site.world).await;

    // Nothing is taken from under a running engine.
    let refused = site.world.engine.run(&["teardown", "--apply", "--admin-url", &site.admin]).await;
    assert!(refused.code == 1 && refused.stderr.contains("stop the engine first"), "{refused:?}");
    site.world.engine.terminate().await;
    eventually("the server to see that", async || {
        let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
        (site.world.pg.value(active).await == "0").then_some(())
    })
    .await;
    site.kasho(&["teardown", "--apply"]).await;
    let pg = &site.world.pg;
    assert_eq!(pg.value("SELECT count(*) FROM pg_replication_slots").await, "0");
    assert_eq!(pg.value("SELECT count(*) FROM pg_roles WHERE rolname = 'kasho'").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_transactions_do_not_stop_setup_and_setup_stops_nobody() {
    let site = Site::start().await;
    let pg = &site.world.pg;
    // Who only reads and writes is in nobody's way.
    let reader = pg.client().await;
    reader.batch_execute("BEGIN; SELECT * FROM good; INSERT INTO whole VALUES (1)").await.unwrap();
    // Who alters a table is.
    let owner = pg.client().await;
    owner.batch_execute("BEGIN; LOCK TABLE secured IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let setting_up = site.world.engine.spawn(&["setup", "--apply", "--admin-url", &site.admin]);
    let line = setting_up.wait_for("waiting for a lock").await;
    assert!(line.contains("pid "), "{line}");
    // Meanwhile the application reads what it read before: nobody waits behind us for long.
    let other = pg.client().await;
    other.batch_execute("SET statement_timeout = '60s'; SELECT count(*) FROM good").await.unwrap();
    owner.batch_execute("COMMIT").await.unwrap();
    assert!(setting_up.wait_exit().await.success());
    assert_eq!(site.published().await, PUBLISHED);
    reader.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_what_is_missing_with_the_statement_that_mends_it() {
    let site = Site::start().await;
    site.kasho(&["setup", "--apply", "--no-ddl"]).await;
    let pg = &site.world.pg;
    pg.sql("REVOKE SELECT ON good FROM kasho; ALTER ROLE kasho NOBYPASSRLS").await;
    let checked = site.world.engine.run(&["check"]).await;
    let told = format!("{}{}", checked.stdout, checked.stderr);
    for part in [
        "GRANT SELECT ON public.good TO \"kasho\"",
        "ALTER ROLE \"kasho\" BYPASSRLS",
        "config/sql/ddl.sql",
    ] {
        assert!(told.contains(part), "{part}\n{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn teardown_takes_away_only_what_setup_made() {
    let site = Site::start().await;
    let pg = &site.world.pg;
    // Of an operator, and of an applier that has this database for its target.
    pg.sql(
        "CREATE ROLE kasho LOGIN; CREATE PUBLICATION kasho_pub FOR TABLE good; \
         CREATE SCHEMA kasho; CREATE TABLE kasho.applied (x int)",
    )
    .await;
    site.kasho(&["setup", "--apply"]).await;
    let told = site.kasho(&["teardown", "--apply"]).await;
    for kept in ["schema kasho stays", "publication kasho_pub stays", "role kasho stays"] {
        assert!(told.contains(kept), "{told}");
    }
    assert_eq!(site.published().await, ["good"]);
    for kept in [
        "SELECT count(*) FROM pg_class WHERE oid = 'kasho.applied'::regclass",
        "SELECT count(*) FROM pg_roles WHERE rolname = 'kasho'",
    ] {
        assert_eq!(pg.value(kept).await, "1", "{kept}");
    }
    for gone in [
        "SELECT count(*) FROM pg_event_trigger",
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'kasho'::regnamespace",
    ] {
        assert_eq!(pg.value(gone).await, "0", "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_somebody_made_in_advance_are_not_taken_for_ours() {
    let site = Site::start().await;
    let pg = &site.world.pg;
    pg.sql(
        "GRANT CREATE ON DATABASE postgres TO app; SET ROLE app; CREATE SCHEMA kasho; \
         CREATE FUNCTION kasho.ddl_path() RETURNS event_trigger LANGUAGE plpgsql \
         AS 'BEGIN ALTER ROLE app SUPERUSER; END'",
    )
    .await;
    let apply = ["setup", "--apply", "--admin-url", &site.admin];
    let refused = site.world.engine.run(&apply).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("kasho.ddl_path() of app"), "{}", refused.stderr);
    let triggers = "SELECT count(*) FROM pg_event_trigger";
    assert_eq!(pg.value(triggers).await, "0");

    pg.sql("DROP FUNCTION kasho.ddl_path() CASCADE").await;
    site.kasho(&["setup", "--apply"]).await;
    assert_eq!(pg.value(triggers).await, "5");
    // What they are is more than what they do.
    for spoilt in [
        "ALTER FUNCTION kasho.ddl_end() SECURITY INVOKER",
        "ALTER FUNCTION kasho.ddl_drop() RESET search_path",
        "ALTER FUNCTION kasho.ddl_path() SET search_path = public",
    ] {
        pg.sql(spoilt).await;
        let mended = site.kasho(&["setup", "--apply"]).await;
        assert!(mended.contains("done: event triggers"), "{spoilt}: {mended}");
        let again = site.kasho(&["setup", "--apply"]).await;
        assert!(again.contains("nothing is left to do"), "{spoilt}: {again}");
    }
    // As an installation of before has it: the trigger sees less than it has to.
    pg.sql(
        "DROP EVENT TRIGGER kasho_ddl_start; CREATE OR REPLACE FUNCTION kasho.ddl_start() \
         RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER \
         SET search_path = pg_catalog, pg_temp AS 'BEGIN END'; \
         CREATE EVENT TRIGGER kasho_ddl_start ON ddl_command_start WHEN TAG IN ('ALTER SCHEMA') \
         EXECUTE FUNCTION kasho.ddl_start(); ALTER EVENT TRIGGER kasho_ddl_start ENABLE ALWAYS",
    )
    .await;
    site.kasho(&["setup", "--apply"]).await;
    let seen = "SELECT concat(evtenabled, evttags) FROM pg_event_trigger \
                WHERE evtname = 'kasho_ddl_start'";
    let expected = "A{\"ALTER SCHEMA\",\"ALTER TABLE\",\"ALTER INDEX\"}";
    assert_eq!(pg.value(seen).await, expected);
    let again = site.kasho(&["setup", "--apply"]).await;
    assert!(again.contains("nothing is left to do"), "{again}");
    pg.sql("ALTER FUNCTION kasho.ddl_end() OWNER TO app").await;
    let script = site.kasho(&["setup"]).await;
    assert!(script.contains("CREATE OR REPLACE FUNCTION kasho.ddl_end"), "{script}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_can_be_chosen() {
    let site = Site::start().await;
    site.kasho(&["setup", "--apply", "--table", "public.good", "--table", "Shop.Odd T"]).await;
    assert_eq!(site.published().await, ["Odd T", "good"]);
    let pg = &site.world.pg;
    let secured = "SELECT has_table_privilege('kasho', 'secured', 'SELECT')";
    assert_eq!(pg.value(secured).await, "f");
    let bypass = "SELECT rolbypassrls FROM pg_roles WHERE rolname = 'kasho'";
    assert_eq!(pg.value(bypass).await, "f");
}

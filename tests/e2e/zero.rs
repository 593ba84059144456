//! The README's way from nothing to a masked copy, typed as it stands there: set-up, rules,
//! load, target, proof; then rows and the schema change.

use crate::harness::{Engine, Postgres, Redis, eventually, logs};
use crate::readme::block;

const TABLES: &str = "
    CREATE TABLE users (id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE);
    CREATE TABLE orders (id bigint PRIMARY KEY, buyer bigint NOT NULL REFERENCES users,
        total numeric(10, 2) NOT NULL);
    CREATE INDEX ON orders (buyer);";

/// Functions and names that the README's reader has.
fn prelude(source: &Postgres, target: &Postgres, redis: &Redis) -> String {
    let tools = source.tool("psql").get_program().to_owned();
    let tools = std::path::Path::new(&tools).parent().expect("a folder").display().to_string();
    let role = source.url_as("kasho", "secret");
    let names = block("sh zero-names")
        .replace("postgres://postgres@db:5432/app", &source.url())
        .replace("postgres://kasho:secret@db:5432/app", &role)
        .replace("postgres://postgres@staging:5432/app", &target.url())
        .replace("redis://redis:6379", &redis.url());
    assert!(!names.contains("5432") && !names.contains("6379"), "a name was not put in: {names}");
    format!(
        "set -euo pipefail\nexport PATH=\"{tools}:$PATH\"\nunset KASHO_CONFIG\n\
         kasho() {{ \"$KASHO\" \"$@\"; }}\n\
         psql() {{ command psql -v ON_ERROR_STOP=1 \"$@\"; }}\n{names}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn from_zero_to_a_masked_staging_copy() {
    let (source, target, redis) =
        tokio::join!(Postgres::start(), Postgres::start_target(), Redis::start());
    let secret = logs::planted_unique("staged-mail");
    source.sql(TABLES).await;
    source
        .sql(&format!(
            "INSERT INTO users SELECT n, 'Person ' || n, '{secret}' || n || '@x' FROM generate_series(1, 3000) n;
             INSERT INTO orders SELECT n, 1 + n % 3000, n / 100.0 FROM generate_series(1, 9000) n"
        ))
        .await;
    let engine = Engine::builder().plugin("anonymize").build();
    let (grpc, http) = (engine.home().grpc_port(), engine.home().http_port());
    let ports = format!(
        "[apply]\nlisten = \"127.0.0.1:0\"\n[grpc]\nlisten = \"127.0.0.1:{grpc}\"\n\
         [http]\nlisten = \"127.0.0.1:{http}\"\n"
    );
    let rules = block("toml zero-rules");
    let mut script = prelude(&source, &target, &redis);
    // A setting that an older target does not know: the reader sees an error and goes on.
    if source.version().await >= 17 && target.version().await < 17 {
        script += "pg_dump() { command pg_dump \"$@\" | sed '/^SET transaction_timeout/d'; }\n";
    }
    for step in ["setup", "check", "load", "target", "verify"] {
        script += &format!("echo '--- {step}'\n{}", block(&format!("sh zero-{step}")));
        // Before it there is no file but the one that the reader has made. Ports are the test's.
        if step == "setup" {
            script += &format!("cat >kasho.toml <<'END'\n{ports}{rules}END\n");
        }
    }
    // What the reader's shell keeps running goes on until this file is gone.
    script += "echo '--- all typed'\nwhile [ -e running ]; do sleep 0.1; done\n\
               kill $(jobs -p)\nwait\n";
    engine.home().write("running", "");
    let shell = engine.spawn_shell(&script);
    for step in ["check", "load", "target", "verify", "all typed"] {
        shell.wait_for(&format!("--- {step}")).await;
    }

    // Rows and the schema go on, in their order.
    source.sql(&format!("INSERT INTO users VALUES (3001, 'New', '{secret}3001@x')")).await;
    source.sql("ALTER TABLE orders ADD COLUMN note text").await;
    source.sql("INSERT INTO orders VALUES (9001, 3001, 1.00, 'by hand')").await;
    let note = "SELECT coalesce(max(note), '') FROM orders WHERE id = 9001";
    eventually("the row with its column", async || {
        let row = target.client().await.query_one(note, &[]).await.ok()?;
        (row.get::<_, String>(0) == "by hand").then_some(())
    })
    .await;
    let users = "SELECT count(*) || ' ' || count(DISTINCT email) || ' ' || \
                 count(*) FILTER (WHERE email LIKE '%{}%') FROM users";
    assert_eq!(target.value(&users.replace("{}", &secret)).await, "3001 3001 0");
    let again = prelude(&source, &target, &redis) + &block("sh zero-verify");
    engine.shell(&again).await.success();
    assert_eq!(
        target.value("SELECT count(*) FROM pg_constraint WHERE contype = 'f'").await,
        "1",
        "the foreign key is there"
    );
    let strange = "SELECT (SELECT count(*) FROM pg_event_trigger) || ' ' || count(*) FROM pg_class \
                   WHERE relnamespace = 'kasho'::regnamespace AND relkind IN ('r', 'v')";
    assert_eq!(target.value(strange).await, "0 1", "nothing of the source's own, and the progress");
    let functions = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'kasho'::regnamespace";
    assert_eq!(target.value(functions).await, "0");
    std::fs::remove_file(engine.home().path().join("running")).expect("remove");
    shell.wait_exit().await;
}

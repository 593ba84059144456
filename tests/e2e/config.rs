//! What an operator copies and types first: the set-up script, the configuration file,
//! `kasho config check`.

use crate::harness::{Engine, Output, Postgres, logs, repository};

#[tokio::test]
async fn config_check_tells_every_problem_with_its_place_and_no_secret() {
    let password = logs::planted_unique("password");
    let text = format!(
        "[source]\nurl = 'postgresql://u:{password}@h/d'\nslto = 'x'\n\
         [redis]\nurl = ['{password}']\nencoding = '{password}'\n"
    );
    let engine = Engine::builder().config(&text).build();
    let output = engine.run(&["config", "check"]).await;
    assert_eq!((output.code, output.stdout.as_str()), (1, ""));
    for expected in [
        "error: the configuration has 3 problems:",
        "kasho.toml:3:1: source.slto: unknown key; did you mean \"slot\"?",
        "kasho.toml:5:7: redis.url: expected a string, found a list",
        "kasho.toml:6:12: redis.encoding: unknown value",
    ] {
        assert!(output.stderr.contains(expected), "{expected}\n{}", output.stderr);
    }
}

#[tokio::test]
async fn config_check_finds_the_file_by_flag_by_variable_and_by_neither() {
    let shipped = repository().join("config/kasho.toml").display().to_string();
    let engine = Engine::builder().config("[source]\nurl = 'u'\n").env("KV_URL", "r").build();
    engine.run(&["config", "check"]).await.success();
    let missing = engine.run(&["--config", "absent.toml", "config", "check"]).await;
    assert_eq!(missing.code, 1);
    assert!(missing.stderr.contains("absent.toml: cannot be read: "), "{}", missing.stderr);
    let engine = Engine::builder().env("KV_URL", "r").env("PRIMARY_DATABASE_URL", "u").build();
    engine.run(&["config", "check", "--config", &shipped]).await.success();
}

#[tokio::test]
async fn wrong_usage_is_exit_code_2() {
    let engine = Engine::builder().build();
    assert_eq!(engine.run(&["cofnig"]).await.code, 2);
    assert_eq!(engine.run(&[]).await.code, 2);
    let help = engine.run(&["--help"]).await.success();
    assert!(help.stdout.contains("--config"), "{}", help.stdout);
}

#[tokio::test]
async fn the_set_up_script_gives_the_role_what_it_needs_and_runs_twice() {
    let server = Postgres::start().await;
    server
        .sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (7); CREATE TABLE bare (x int)")
        .await;
    let script = repository().join("config/sql/setup.sql");
    for _ in 0..2 {
        let mut psql = server.tool("psql");
        psql.args(["-X", "-v", "password=pw", "-f"]).arg(&script).arg(server.socket_url());
        let output = Output::of(psql, "").await.success();
        assert!(
            output.stdout.contains(" bare\n") && output.stdout.contains("(1 row)"),
            "{output:?}"
        );
    }
    let url = server.url_as("kasho", "pw");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE; COMMIT").await.unwrap();
    let slot = "SELECT pg_create_logical_replication_slot('s', 'pgoutput')";
    client.simple_query(slot).await.unwrap();
    let message = "SELECT pg_logical_emit_message(false, 'kasho', '')";
    client.simple_query(message).await.unwrap();
    assert!(client.simple_query("INSERT INTO t VALUES (8)").await.is_err(), "reading is all");
    assert_eq!(server.value("SELECT count(*) FROM pg_publication_tables").await, "2");
}

//! Every mistake of an operator is one clear error with what mends it, a non-zero exit,
//! and nothing half done: neither a slot in PostgreSQL nor a key in Redis is left.

use crate::harness::engine::Builder;
use crate::harness::{Engine, Output, Postgres, Redis, free_port};
use crate::world::config;

const TABLES: &str = "
    CREATE TABLE users (id bigint PRIMARY KEY, email text);
    CREATE PUBLICATION kasho_pub FOR ALL TABLES;";

/// Runs the service, which has to refuse: what it said on standard error.
async fn refused(builder: Builder) -> String {
    let engine = builder.build();
    let Output { code, stderr, .. } = engine.run(&["run"]).await;
    assert_eq!(code, 1, "{stderr}");
    stderr
}

fn engine(pg: &str, redis: &str, more: &str) -> Builder {
    let builder = Engine::builder();
    let text = config(pg, redis, builder.home().grpc_port(), more);
    builder.config(&text)
}

fn says(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "no word of {word:?} in:\n{error}");
    }
}

async fn untouched(pg: &Postgres, redis: &Redis) {
    assert_eq!(pg.value("SELECT count(*) FROM pg_replication_slots").await, "0");
    let keys: u64 = redis.command(&["DBSIZE"]).await;
    assert_eq!(keys, 0, "nothing may be left in Redis");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_about_the_source() {
    let redis = Redis::start().await;
    let pg = Postgres::builder().setting("max_replication_slots", "1").start().await;
    let (url, cache) = (pg.url(), redis.url());

    let error = refused(engine("postgres//nowhere", &cache, "")).await;
    says(&error, &["source.url"]);

    let error = refused(engine(&url, &cache, "")).await;
    says(&error, &["kasho_pub", "CREATE PUBLICATION"]);

    pg.sql(TABLES).await;
    pg.sql("CREATE ROLE reader LOGIN PASSWORD 'a secret'; GRANT SELECT ON users TO reader").await;
    let error = refused(engine(&pg.url_as("reader", "a secret"), &cache, "")).await;
    says(&error, &["reader", "ALTER ROLE", "REPLICATION"]);
    assert!(!error.contains("a secret"));

    pg.sql("CREATE TABLE nokey (v text)").await;
    let error = refused(engine(&url, &cache, "")).await;
    says(&error, &["public.nokey", "REPLICA IDENTITY"]);
    pg.sql("DROP TABLE nokey").await;
    untouched(&pg, &redis).await;

    pg.sql("SELECT pg_create_physical_replication_slot('other')").await;
    let error = refused(engine(&url, &cache, "")).await;
    says(&error, &["max_replication_slots"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_without_logical_decoding() {
    let redis = Redis::start().await;
    let pg = Postgres::builder().setting("wal_level", "replica").start().await;
    pg.sql(TABLES).await;
    let error = refused(engine(&pg.url(), &redis.url(), "")).await;
    says(&error, &["wal_level", "ALTER SYSTEM SET wal_level = 'logical'"]);
    untouched(&pg, &redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_about_redis() {
    let pg = Postgres::start().await;
    pg.sql(TABLES).await;

    let error = refused(engine(&pg.url(), "rediss//nowhere", "")).await;
    says(&error, &["redis.url"]);

    let evicting = Redis::builder()
        .setting("maxmemory", "100mb")
        .setting("maxmemory-policy", "allkeys-lru")
        .start()
        .await;
    let error = refused(engine(&pg.url(), &evicting.url(), "")).await;
    says(&error, &["maxmemory-policy", "noeviction"]);
    untouched(&pg, &evicting).await;

    let taken = Redis::start().await;
    let _: i64 = taken.command(&["ZADD", "{kasho}:checkpoint", "1", "member"]).await;
    let error = refused(engine(&pg.url(), &taken.url(), "")).await;
    says(&error, &["{kasho}:checkpoint", "zset", "redis.prefix"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_do_not_answer_are_waited_for_and_reported() {
    let pg = Postgres::start().await;
    pg.sql(TABLES).await;
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    let engine = engine(&pg.url(), &nobody, "").start();
    engine.wait_for("connect").await;
    let status = engine.run(&["status"]).await.success();
    says(&status.stdout, &["Redis"]);
    assert!(engine.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_about_plugins() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql(TABLES).await;
    let binding = |plugin: &str, column: &str, key: &str| {
        format!(
            "{key}[[transform]]\nname = \"mask\"\nplugin = \"{plugin}\"\ntables = [\"public.users\"]\n\
             key = \"k\"\n[transform.rules]\n\"public.users.id\" = \"pass\"\n\
             \"public.users.{column}\" = \"fake_email\"\n"
        )
    };
    let key = "[keys]\nk = { file = \"key\" }\n";
    let with = |text: &str| {
        let builder = engine(&pg.url(), &redis.url(), text);
        builder
            .home()
            .write("key", "5f1b0c7d93ae48e6b2d40f8a67c1e35920b4d86fa7139ce25d08f6417ba3c94e");
        builder.plugin("anonymize")
    };

    let builder = with(&binding("broken.wasm", "email", key));
    builder.home().write("plugins/broken.wasm", "#!/bin/sh");
    says(&refused(builder).await, &["broken.wasm", "WebAssembly"]);

    let error = refused(with(&binding("missing.wasm", "email", key))).await;
    says(&error, &["missing.wasm"]);

    let error = refused(with(&binding("anonymize.wasm", "emial", key))).await;
    says(&error, &["public.users", "emial"]);

    let error = refused(with(&binding("anonymize.wasm", "email", ""))).await;
    says(&error, &["transform[0].key", "[keys]"]);
    let keyless = binding("anonymize.wasm", "email", "").replace("key = \"k\"\n", "");
    says(&refused(with(&keyless)).await, &["mask", "key"]);
    untouched(&pg, &redis).await;
}

//! Plugins as their authors write them: `kasho plugin new` in an empty folder outside the
//! repository, `build`, `test`, `bench`, `inspect`, and what was built on a live stream. One
//! test a language; all make the same fakes of the same rows.

use std::path::Path;

use kasho_plugin_sdk::Hash;
use kasho_plugin_sdk::keys::{DomainKey, TEST_MASTER};
use serde_json::Value;

use crate::harness::engine::Builder;
use crate::harness::{Engine, Postgres, Redis, eventually, go, logs, target};
use crate::world::{World, config};

const TABLES: &str = "
    CREATE TABLE users (id bigint PRIMARY KEY, email text, name text);
    CREATE PUBLICATION kasho_pub FOR ALL TABLES;";

/// A masking key that somebody could have drawn by lot.
const KEY: [u8; 32] = *b"a masking key of thirty-two byte";

/// In C: a plugin that fails with the value in its words.
const PANIC: &str = "kasho_import_fail(email.at, email.len, __FILE__, kasho_strlen(__FILE__), \
    __LINE__, 0); __builtin_trap();";

fn binding(name: &str, more: &str) -> String {
    format!(
        "[keys]\nk1 = {{ file = \"key\" }}\n[[transform]]\nname = \"{name}\"\n\
         plugin = \"{name}.wasm\"\ntables = [\"public.users\"]\n{more}"
    )
}

/// A home in which the tools of every language are found.
fn home() -> Builder {
    let cargo = target().join("tmp/authoring").display().to_string();
    let builder = Engine::builder()
        // What cargo has built for one of these folders it need not build for the next.
        .env("CARGO_TARGET_DIR", &cargo)
        // What Kasho was built from is here, and suffices.
        .env("CARGO_NET_OFFLINE", "true")
        .env("KASHO_GO", &go().display().to_string());
    builder.home().write("key", KEY);
    builder
}

/// The fake that every template makes.
fn fake(email: &str) -> String {
    let hash = Hash(DomainKey::derive(&KEY, "email").prf(email.as_bytes()));
    format!("{}@example.com", hash.short())
}

/// A plugin from its template, built and put where the engine takes plugins from.
async fn born(name: &str, lang: &str, more: &str) -> World {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    let builder = tokio::task::spawn_blocking(home).await.expect("home");
    let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), &binding(name, more));
    let engine = builder.config(&text).build();
    let root = engine.home().path();
    assert!(!root.starts_with(crate::harness::repository()));
    engine.run(&["plugin", "new", name, "--lang", lang]).await.success();
    let built = engine.run(&["plugin", "build", name]).await.success();
    assert!(built.stdout.contains(" bytes"), "{}", built.stdout);
    install(root, name);
    World { pg, redis, engine }
}

fn install(root: &Path, name: &str) {
    let from = root.join(name).join("build").join(format!("{name}.wasm"));
    std::fs::copy(from, root.join("plugins").join(format!("{name}.wasm"))).expect("copy");
}

/// Nothing of the machine that it was built on: where its author lives, where the project
/// and the compiler's own files lie.
fn homeless(root: &Path, name: &str) {
    let wasm = std::fs::read(root.join(name).join("build").join(format!("{name}.wasm")));
    let wasm = wasm.expect("the plugin");
    let home = std::env::var("HOME").ok().filter(|home| home.len() > 1);
    let cargo = std::env::var("CARGO_HOME").ok();
    let real = std::fs::canonicalize(root).expect("the folder");
    let here = [real, root.to_owned(), target(), crate::harness::repository()];
    let here = here.map(|path| path.display().to_string());
    for place in here.into_iter().chain(home).chain(cargo) {
        let found = wasm.windows(place.len()).any(|bytes| bytes == place.as_bytes());
        assert!(!found, "{name}.wasm tells of {place}");
    }
}

/// Tested, measured, looked at; then rows of a load and of a live stream.
async fn lives(name: &str, lang: &str, more: &str) {
    let mut world = born(name, lang, more).await;
    homeless(world.engine.home().path(), name);
    let tested = world.engine.run(&["plugin", "test", name]).await.success();
    assert!(tested.stdout.contains("5 rows of 1 fixtures hold in WebAssembly"), "{tested:?}");
    let native = tested.stdout.contains("the native tests hold");
    assert_eq!(native, lang == "rust", "{tested:?}");
    let wasm = format!("{name}/build/{name}.wasm");
    let bench = world.engine.run(&["plugin", "bench", name, "--wasm", &wasm]).await.success();
    for rows in ["     1 ", "    16 ", "   256 ", "  1024 ", "memory_mib", "deadline_ms"] {
        assert!(bench.stdout.contains(rows), "{}", bench.stdout);
    }
    let seen = world.engine.run(&["plugin", "inspect", &wasm, "--json"]).await.success();
    let seen: Value = serde_json::from_str(&seen.stdout).expect("JSON");
    assert_eq!((&seen["abi"], &seen["refused"]), (&Value::from("1"), &Value::Null));
    assert_eq!(seen["metadata"]["language"], lang);
    assert_eq!(seen["metadata"]["name"], name);
    assert_eq!(seen["fixtures"][0], "users.toml");
    stream(&mut world).await;
}

async fn stream(world: &mut World) {
    let secret = logs::planted_unique("secret-mail");
    let email = |n: u64| format!("{secret}{n}@x.org");
    let (loaded, inserted, updated) = (email(1), email(2), email(3));
    world.pg.sql(TABLES).await;
    world
        .pg
        .sql(&format!("INSERT INTO users VALUES (1, '{loaded}', 'Ada'), (2, NULL, 'Bob')"))
        .await;
    world.engine.start_as(&["run"]);
    world.until_state("WAITING").await;
    world.bootstrap().await;
    world
        .pg
        .sql(&format!(
            "INSERT INTO users VALUES (3, '{inserted}', 'Cyd'), (4, NULL, 'Dan');
             UPDATE users SET email = '{updated}' WHERE id = 3;
             UPDATE users SET name = 'Eve' WHERE id = 4;
             DELETE FROM users WHERE id = 1"
        ))
        .await;
    let last = fake(&updated);
    let changes = eventually("the stream", async || {
        let entries = world.redis.cli(&["XRANGE", "{kasho}:1:changes", "-", "+"]).await;
        (entries.contains(&last) && entries.contains("delete")).then_some(entries)
    })
    .await;
    let bootstrap = world.redis.cli(&["XRANGE", "{kasho}:1:bootstrap", "-", "+"]).await;
    assert!(bootstrap.contains(&fake(&loaded)) && bootstrap.contains("Bob"), "{bootstrap}");
    assert!(changes.contains(&fake(&inserted)) && changes.contains("Eve"), "{changes}");
    assert!(!changes.contains(&secret) && !bootstrap.contains(&secret));
    assert_eq!(world.status().await["state"], "STREAMING");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_in_rust_lives() {
    lives("mask-rust", "rust", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_in_c_lives() {
    lives("mask-c", "c", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_in_assemblyscript_lives() {
    lives("mask-as", "assemblyscript", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_in_go_lives_with_its_shim() {
    lives("mask-go", "go", "wasi = true\n").await;
}

/// All that a template's library can do, by the same fixture in every language.
async fn does_everything(lang: &str, file: &str, source: &str) {
    let builder = tokio::task::spawn_blocking(home).await.expect("home");
    let engine = builder.build();
    engine.run(&["plugin", "new", "wide", "--lang", lang]).await.success();
    let folder = engine.home().path().join("wide");
    std::fs::write(folder.join(file), source).expect("write");
    std::fs::remove_file(folder.join("fixtures/users.toml")).expect("remove");
    let mails = DomainKey::derive(&TEST_MASTER, "mail");
    let mut parts = include_str!("authoring/wide.toml").split(['«', '»']);
    let mut fixture = parts.next().expect("text").to_owned();
    // The first one stands in the comment.
    assert_eq!(parts.next(), Some("…"));
    while let (Some(text), Some(mail)) = (parts.next(), parts.next()) {
        let mail = mail.replace("\\\"", "\"").replace("\\\\", "\\");
        let fake = Hash(mails.prf(mail.as_bytes())).short().to_string();
        fixture.push_str(&format!("{text}{fake}-12"));
    }
    let rest = include_str!("authoring/wide.toml").rsplit('»').next().expect("text");
    std::fs::write(folder.join("fixtures/wide.toml"), fixture + rest).expect("write");
    let refused = "tables = ['\"odd-shop\".\"Order\"(id int8 key, mail text)']\n\
                   refused = 'name is a \"b\"'\n";
    std::fs::write(folder.join("fixtures/wrong.toml"), refused).expect("write");
    let tested = engine.run(&["plugin", "test", "wide"]).await.success();
    assert!(tested.stdout.contains("10 rows of 2 fixtures hold"), "{tested:?}");
    assert!(tested.stdout.contains("log: wrong"), "{tested:?}");
    let wasm = "wide/build/wide.wasm";
    engine.run(&["plugin", "bench", "wide", "--wasm", wasm]).await.success();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_in_c_does_everything() {
    does_everything("c", "plugin.c", include_str!("authoring/wide.c")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_in_assemblyscript_does_everything() {
    let source = include_str!("authoring/wide.ts");
    does_everything("assemblyscript", "assembly/index.ts", source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_in_go_does_everything() {
    does_everything("go", "main.go", include_str!("authoring/wide.go")).await;
}

/// A plugin in C with its source changed; what `kasho plugin test` says of it.
async fn changed(engine: &Engine, file: &str, from: &str, to: &str) -> String {
    let path = engine.home().path().join("mask-c").join(file);
    let text = std::fs::read_to_string(&path).expect("read");
    assert!(text.contains(from), "{file} has no {from}");
    std::fs::write(&path, text.replace(from, to)).expect("write");
    let output = engine.run(&["plugin", "test", "mask-c"]).await;
    std::fs::write(&path, text).expect("write");
    assert_eq!(output.code, 1, "{output:?}");
    format!("{}{}", output.stdout, output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixture_that_does_not_hold_is_told_with_its_line() {
    let builder = tokio::task::spawn_blocking(home).await.expect("home");
    let engine = builder.build();
    engine.run(&["plugin", "new", "mask-c", "--lang", "c"]).await.success();
    let users = "fixtures/users.toml";
    for (file, from, to, want) in [
        (
            users,
            "delete = { id = 1 }",
            "delete = { id = 1 }\ndrop = true",
            "mask-c/fixtures/users.toml:20: delete of public.users: it goes on as delete, and \
             that it is dropped was expected",
        ),
        (
            users,
            "email = \"lx3iomwpvufook26@example.com\" }\n\n[[row]] # NULL",
            "email = \"x\" }\n\n[[row]] # NULL",
            "users.toml:9: insert of public.users: email = \"lx3iomwpvufook26@example.com\", not \"x\"",
        ),
        (users, "# fuel = 20_000", "fuel = 100", "and fuel = 100 is the budget"),
        (users, "error = ", "want = ", "expected a map"),
        (
            users,
            "insert = { id = 3",
            "insert = { ident = 3",
            "users.toml:23: public.users has no column ident",
        ),
        // What the plugin does wrong, in words that the service would withhold.
        (
            "plugin.c",
            "kasho_fail(row, NOT_AN_EMAIL, EMAIL);",
            PANIC,
            "insert of public.users: it is in error: it failed: nonsense (plugin.c:23:0)",
        ),
        (
            "plugin.c",
            "kasho_buf *out = kasho_set",
            "if (row->at) continue; kasho_buf *out = kasho_set",
            "it masks column email and left a value of it as it was",
        ),
        ("plugin.c", "KASHO_PLUGIN(", "nonsense(", "clang failed"),
        ("plugin.c", "EMAIL, OTHERS", "EMAIL = 99, OTHERS", "raise KASHO_MAX_COLUMNS"),
    ] {
        let said = changed(&engine, file, from, to).await;
        assert!(said.contains(want), "{to}: {said}");
    }
    engine.run(&["plugin", "test", "mask-c"]).await.success();
    let elsewhere = engine.run(&["plugin", "test", "plugins"]).await;
    assert!(elsewhere.stderr.contains("kasho plugin new"), "{elsewhere:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_names_file_line_table_and_op_and_withholds_the_value() {
    let mut world = born("mask-c", "c", "").await;
    let source = world.engine.home().path().join("mask-c/plugin.c");
    let text = std::fs::read_to_string(&source).expect("read");
    std::fs::write(&source, text.replace("kasho_fail(row, NOT_AN_EMAIL, EMAIL);", PANIC))
        .expect("write");
    world.engine.run(&["plugin", "build", "mask-c"]).await.success();
    install(world.engine.home().path(), "mask-c");
    stream(&mut world).await;
    let secret = logs::planted_unique("no-mail");
    world.pg.sql(&format!("INSERT INTO users VALUES (9, '{secret}', 'Fay')")).await;
    let error = eventually("the engine to halt", async || {
        let status = world.try_status().await?;
        let error = status["last_error"].as_str()?.to_owned();
        error.contains("mask-c").then_some(error)
    })
    .await;
    for told in ["public.users, insert", "bytes withheld» (plugin.c:23)"] {
        assert!(error.contains(told), "{error}");
    }
    assert!(!error.contains(&secret));
}

//! The promise of masks on a live stream: nothing that was masked leaves, in however many
//! steps the rules, the tables or the service change, unless somebody says so twice. And
//! what is no such change is taken.

use crate::harness::{Engine, Output, Postgres, Redis, eventually, logs};
use crate::world::{World, config};

struct Guarded {
    world: World,
    secret: String,
    /// More lines of `[source]`.
    source: &'static str,
}

/// Bytes that look random.
const KEY: &str = "a9d4034da07d8ef31db1cd4119b6a4552fdfbd19787e2848e71c8ee3b47703a7";

/// A table whose rows all hold the secret.
const PEOPLE: &str = "CREATE TABLE people (id bigint PRIMARY KEY, email text, name text);
    CREATE PUBLICATION kasho_pub FOR ALL TABLES;";

const MASKED: &str = "\"public.people.id\" = \"pass\"\n\"public.people.name\" = \"fake_name\"\n\
                      \"public.people.email\" = \"fake_email\"\n";
const PASSED: &str = "\"public.people.id\" = \"pass\"\n\"public.people.name\" = \"fake_name\"\n\
                      \"public.people.email\" = \"pass\"\n";

fn mask(tables: &str, rules: &str) -> String {
    format!(
        "[keys]\nk1 = {{ env = \"GUARD_KEY\" }}\n[[transform]]\nname = \"mask\"\n\
         plugin = \"anonymize.wasm\"\ntables = [{tables}]\n[transform.rules]\n{rules}"
    )
}

fn people(rules: &str) -> String {
    mask("\"public.people\"", rules)
}

fn filtered(rules: &str) -> String {
    let filter = "[[transform]]\nname = \"rows\"\nplugin = \"filter.wasm\"\n\
                  tables = [\"public.people\"]\n[transform.rules]\n";
    format!("{}{filter}{rules}\n", people(MASKED))
}

impl Guarded {
    async fn start(tables: &str, rules: &str, source: &'static str) -> Guarded {
        let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
        pg.sql(tables).await;
        let builder = Engine::builder().plugin("anonymize").plugin("filter");
        let builder = builder.env("GUARD_KEY", KEY);
        let text = text(&pg, &redis, builder.home().grpc_port(), ("", source), rules);
        let engine = builder.config(&text).start();
        let world = World { pg, redis, engine };
        world.until_state("WAITING").await;
        world.bootstrap().await;
        Guarded { world, secret: logs::planted_unique("guarded"), source }
    }

    /// Replaces the configuration; `top` stands above everything.
    fn write(&self, top: &str, rules: &str) {
        let World { pg, redis, engine } = &self.world;
        let text = text(pg, redis, engine.home().grpc_port(), (top, self.source), rules);
        let folder = engine.home().path();
        std::fs::write(folder.join("kasho.toml.new"), text).expect("write");
        std::fs::rename(folder.join("kasho.toml.new"), folder.join("kasho.toml")).expect("rename");
    }

    /// Replaces it by what is refused with these words.
    async fn refused(&self, top: &str, rules: &str, words: &str) -> String {
        self.write(top, rules);
        eventually(&format!("a refusal with {words:?}"), async || {
            let status = self.world.try_status().await?;
            let plugins = status["plugins"].as_array()?.clone();
            let candidate = plugins.into_iter().find(|plugin| plugin["name"] == "candidate")?;
            let told = candidate["error"].as_str()?.to_owned();
            told.contains(words).then_some(told)
        })
        .await
    }

    /// Replaces it by what is taken.
    async fn taken(&self, top: &str, rules: &str) {
        let before = self.world.status().await["generation"].as_u64();
        self.write(top, rules);
        eventually("the candidate to be taken", async || {
            (self.world.try_status().await?["generation"].as_u64() > before).then_some(())
        })
        .await;
    }

    async fn halted(&self, words: &str) -> String {
        eventually(&format!("a halt with {words:?}"), async || {
            let status = self.world.try_status().await?;
            let error = status["last_error"].as_str()?.to_owned();
            error.contains(words).then_some(error)
        })
        .await
    }

    /// Waits until what is committed by a statement is published.
    async fn publish(&self, statement: &str) {
        let lsn = self.world.pg.value("SELECT pg_current_wal_insert_lsn() - '0/0'").await;
        let lsn: u64 = lsn.parse().expect("LSN");
        self.world.pg.sql(statement).await;
        eventually("the change to be published", async || {
            (self.world.newest().await?.0 > lsn).then_some(())
        })
        .await;
    }

    fn person(&self, id: u32) -> String {
        format!("INSERT INTO people VALUES ({id}, '{0}@mail', '{0}')", self.secret)
    }

    async fn left(&self) -> String {
        let mut all = String::new();
        for stream in ["bootstrap", "changes"] {
            let key = format!("{{kasho}}:1:{stream}");
            all += &self.world.redis.cli(&["XRANGE", &key, "-", "+"]).await;
        }
        all
    }

    async fn nothing_left(&self) {
        assert!(!self.left().await.contains(&self.secret), "a masked value is in Redis");
    }

    /// `kasho check`, which looks at all that a start does.
    async fn check(&self) -> Output {
        self.world.engine.run(&["check"]).await
    }
}

fn text(
    pg: &Postgres,
    redis: &Redis,
    port: u16,
    (top, source): (&str, &str),
    rules: &str,
) -> String {
    let text = config(&pg.url(), &redis.url(), port, rules);
    format!("{top}{}", text.replacen("[redis]", &format!("{source}[redis]"), 1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mask_does_not_go_in_two_steps() {
    let guarded = Guarded::start(PEOPLE, &people(MASKED), "").await;
    guarded.publish(&guarded.person(1)).await;
    let lost = MASKED.replace("\"public.people.email\" = \"fake_email\"\n", "");
    let offer = "\"public.people.email\" = \"pass\"";
    guarded.refused("", &people(&lost), offer).await;
    guarded.publish(&guarded.person(2)).await;
    guarded.refused("", &people(PASSED), "accept_unmask = true").await;
    guarded.publish(&guarded.person(3)).await;
    // A column and its rule are nobody's loss.
    guarded.world.pg.sql("ALTER TABLE people ADD note text").await;
    guarded.taken("", &people(&format!("{MASKED}\"public.people.note\" = \"null\"\n"))).await;
    let note = format!("INSERT INTO people VALUES (4, '{0}', '{0}', '{0}')", guarded.secret);
    guarded.publish(&note).await;
    guarded.nothing_left().await;
    // The mask is remembered behind that too.
    let passed = format!("{PASSED}\"public.people.note\" = \"null\"\n");
    guarded.refused("", &people(&passed), "accept_unmask = true").await;
    guarded.taken("accept_unmask = true\n", &people(&passed)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_filter_is_loosened_by_two() {
    let one = "\"public.people\" = { keep = { column = \"id\", in = [1] } }";
    let two = "\"public.people\" = { keep = { column = \"id\", in = [1, 2] } }";
    let guarded = Guarded::start(PEOPLE, &filtered(one), "").await;
    let told = guarded.refused("", &filtered(two), "a filter removed rows").await;
    assert!(told.contains("accept_unmask"), "{told}");
    guarded.refused("accept_unmask = true\n", &people(MASKED), "without saying so").await;
    guarded.world.pg.sql("INSERT INTO people VALUES (2, 'two', 'two')").await;
    guarded.publish(&guarded.person(1)).await;
    let count = guarded.world.entries("changes").await;
    assert_eq!(count, 1, "the filter in force is the one that was");
    guarded.taken("accept_unmask = true\n", &filtered(two)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_held_against_what_the_last_process_masked() {
    let mut guarded = Guarded::start(PEOPLE, &people(MASKED), "").await;
    guarded.publish(&guarded.person(1)).await;
    guarded.world.engine.terminate().await;
    // What is on this machine does not matter.
    std::fs::remove_dir_all(guarded.world.engine.home().path().join("store")).expect("remove");
    guarded.write("", &people(PASSED));
    let told = guarded.check().await;
    assert!(told.code != 0 && told.stderr.contains("accept_unmask"), "{}", told.stderr);
    // Where nothing is left to compare with, only the same files are taken.
    guarded.world.redis.cli(&["DEL", "{kasho}:coverage"]).await;
    let told = guarded.check().await;
    assert!(told.code != 0 && told.stderr.contains("cannot be read from Redis"), "{}", told.stderr);
    guarded.write("", &people(MASKED));
    guarded.world.engine.start_again();
    guarded.world.until_state("STREAMING").await;
    guarded.publish(&guarded.person(2)).await;
    guarded.nothing_left().await;
    // And the start has written down anew what they mask.
    guarded.world.engine.terminate().await;
    guarded.write("", &people(PASSED));
    let told = guarded.check().await;
    assert!(told.stderr.contains("public.people.email: it was masked"), "{}", told.stderr);
    guarded.write("accept_unmask = true\n", &people(PASSED));
    guarded.world.engine.start_again();
    guarded.world.until_state("STREAMING").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_in_mid_stream_does_not_unmask() {
    let globs = "\"public.*.*\" = \"pass\"\n\"public.*.email\" = \"fake_email\"\n\
                 \"public.*.name\" = \"fake_name\"\n";
    let rules = |more: &str| mask("\"public.*\"", &format!("{globs}{more}"));
    let mut guarded = Guarded::start(PEOPLE, &rules(""), "").await;
    guarded.publish(&guarded.person(1)).await;
    guarded.world.pg.sql("ALTER TABLE people RENAME email TO mail").await;
    guarded.world.pg.sql(&guarded.person(2)).await;
    guarded.halted("public.people.mail").await;
    guarded.nothing_left().await;
    // A start knows the table by its id, whatever it is called now.
    guarded.world.pg.sql("ALTER TABLE people RENAME TO folk").await;
    guarded.world.engine.terminate().await;
    let told = guarded.check().await;
    assert!(told.code != 0 && told.stderr.contains("public.folk.mail"), "{}", told.stderr);
    guarded.write("", &rules("\"public.*.mail\" = \"fake_email\"\n"));
    guarded.world.engine.start_again();
    guarded.world.until_state("STREAMING").await;
    let folk = guarded.person(3).replace("people", "folk");
    guarded.publish(&folk).await;
    guarded.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_another_name_does_not_unmask() {
    const TRIGGERS: &str = include_str!("../../config/sql/ddl.sql");
    const TABLES: &str =
        "CREATE SCHEMA crm; CREATE TABLE crm.people (id bigint PRIMARY KEY, email text, name text);
        CREATE PUBLICATION kasho_pub FOR ALL TABLES;";
    let rules = |schema: &str| people(MASKED).replace("public.", schema);
    let mut guarded = Guarded::start(TABLES, &rules("crm."), "").await;
    guarded.world.pg.sql(TRIGGERS).await;
    let person =
        |schema: &str, id| guarded.person(id).replace("people", &format!("{schema}.people"));
    let (before, renamed, after) = (
        person("crm", 1),
        format!("ALTER SCHEMA crm RENAME TO sales; {}", person("sales", 2)),
        person("sales", 3),
    );
    guarded.publish(&before).await;
    guarded.world.pg.sql(&renamed).await;
    guarded.halted("sales.people").await;
    guarded.nothing_left().await;
    guarded.world.engine.terminate().await;
    guarded.write("", &rules("sales."));
    guarded.world.engine.start_again();
    guarded.world.until_state("STREAMING").await;
    guarded.publish(&after).await;
    guarded.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_and_new_tables_are_within_the_guard() {
    let message = "\"kasho.message.prefix\" = \"pass\"\n\"kasho.message.content\"";
    let rules = |content: &str| {
        let tables = "\"public.people\", \"kasho.message\"";
        mask(tables, &format!("{MASKED}{message} = \"{content}\"\n"))
    };
    let guarded = Guarded::start(PEOPLE, &rules("null"), "messages = [\"app\"]\n").await;
    guarded.refused("", &rules("pass"), "kasho.message.content: it was masked").await;
    let emit = format!("SELECT pg_logical_emit_message(true, 'app', '{}')", guarded.secret);
    guarded.publish(&emit).await;
    guarded.publish("SELECT pg_logical_emit_message(true, 'app', '\\xff07'::bytea)").await;
    guarded.nothing_left().await;
    // A table that came after the start is known to the candidate that masks it, and to
    // the one after that.
    let more = "CREATE TABLE cards (id bigint PRIMARY KEY, number text)";
    guarded.world.pg.sql(more).await;
    let cards = |number: &str| {
        let rule =
            format!("\"public.cards.id\" = \"pass\"\n\"public.cards.number\" = \"{number}\"\n");
        rules("null").replace("tables = [", "tables = [\"public.cards\", ") + &rule
    };
    guarded.taken("", &cards("hash")).await;
    guarded.publish(&format!("INSERT INTO cards VALUES (1, '{}')", guarded.secret)).await;
    guarded.refused("", &cards("pass"), "public.cards.number: it was masked").await;
    guarded.publish(&format!("INSERT INTO cards VALUES (2, '{}')", guarded.secret)).await;
    guarded.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_collide_in_any_unique_index_is_refused() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql(&format!(
        "{PEOPLE} CREATE UNIQUE INDEX ON people (lower(email));
         CREATE TABLE members (tenant int, email text, note text, PRIMARY KEY (tenant, email));
         ALTER TABLE members REPLICA IDENTITY FULL"
    ))
    .await;
    let builder = Engine::builder().plugin("anonymize");
    let builder = builder.env("GUARD_KEY", KEY);
    let members = "\"public.members.tenant\" = \"pass\"\n\"public.members.note\" = \"fake_name\"\n\
                   \"public.members.email\" = \"fake_email\"\n";
    let rules = mask("\"public.*\"", &format!("{MASKED}{members}"));
    let port = builder.home().grpc_port();
    let engine = builder.config(&text(&pg, &redis, port, ("", ""), &rules)).build();
    let told = engine.run(&["check"]).await;
    for column in ["public.people.email", "public.members.email"] {
        assert!(told.stderr.contains(column), "{column}: {}", told.stderr);
    }
    assert!(told.stderr.contains("unique = true"), "{}", told.stderr);
    assert!(
        !told.stderr.contains("note") && !told.stderr.contains("people.name"),
        "{}",
        told.stderr
    );
    let unique = rules.replace("\"fake_email\"", "{ transform = \"fake_email\", unique = true }");
    engine.home().write_config(&text(&pg, &redis, port, ("", ""), &unique));
    engine.run(&["check"]).await.success();
}

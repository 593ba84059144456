//! Plugins on a live stream: masks hold whatever is done to the files while changes
//! flow, a transaction has one generation, and a refused candidate leaves the old one
//! running and is named in the status.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Engine, Postgres, Redis, eventually, logs, python};
use crate::world::{World, config};

const TABLES: &str = "
    CREATE TABLE people (id bigint PRIMARY KEY, email text NOT NULL, note text);
    CREATE PUBLICATION kasho_pub FOR ALL TABLES;";

/// The mask of a generation: every e-mail becomes a constant that names it.
fn rules(constant: &str) -> String {
    format!(
        "[[transform]]\nname = \"mask\"\nplugin = \"anonymize.wasm\"\ntables = [\"public.people\"]\n\
         [transform.rules]\n\"public.people.id\" = \"pass\"\n\"public.people.note\" = \"pass\"\n\
         \"public.people.email\" = {{ transform = \"constant\", value = \"{constant}\" }}\n"
    )
}

struct People {
    world: World,
    secret: String,
}

impl People {
    async fn start() -> People {
        let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
        let secret = logs::planted_unique("secret-mail");
        pg.sql(TABLES).await;
        insert(&pg, &secret, 1, 500).await;
        let builder = Engine::builder();
        let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), &rules("gen-0"));
        let engine = builder.plugin("anonymize").config(&text).start();
        let world = World { pg, redis, engine };
        world.until_state("WAITING").await;
        world.bootstrap().await;
        People { world, secret }
    }

    fn write_rules(&self, rules: &str) {
        let World { pg, redis, engine } = &self.world;
        let text = config(&pg.url(), &redis.url(), engine.home().grpc_port(), rules);
        let folder = engine.home().path();
        std::fs::write(folder.join("kasho.toml.new"), text).expect("write");
        std::fs::rename(folder.join("kasho.toml.new"), folder.join("kasho.toml")).expect("rename");
    }

    /// Digest of the candidate that was refused last.
    async fn refused(&self) -> Option<String> {
        refused(&self.world.status().await)
    }

    async fn generation(&self) -> u64 {
        self.world.status().await["generation"].as_u64().expect("a number")
    }

    /// Waits until a change that was made after this call has been published.
    async fn settle(&self, id: u64) {
        let lsn = self.world.pg.value("SELECT pg_current_wal_insert_lsn() - '0/0'").await;
        let lsn: u64 = lsn.parse().expect("LSN");
        insert(&self.world.pg, &self.secret, id, id).await;
        eventually("the stream", async || (self.world.newest().await?.0 > lsn).then_some(())).await;
    }

    async fn check(&self) -> String {
        let arguments = [&self.world.redis.url(), "1", "public.people", "email", "gen-"];
        let output = python(include_str!("masked.py"), &arguments).await;
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
        output.stdout
    }
}

fn refused(status: &serde_json::Value) -> Option<String> {
    let plugins = status["plugins"].as_array()?;
    let candidate = plugins.iter().find(|plugin| plugin["name"] == "candidate")?;
    Some(candidate["digest"].as_str()?.to_owned())
}

async fn insert(pg: &Postgres, secret: &str, from: u64, to: u64) {
    pg.sql(&format!(
        "INSERT INTO people SELECT n, '{secret}' || n || '@x', 'note' FROM generate_series({from}, {to}) n"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_swaps_under_load_good_and_bad() {
    let people = People::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let client = people.world.pg.client().await;
    let (asked, secret) = (Arc::clone(&stop), people.secret.clone());
    let mut pace = people.world.pace().await;
    let writer = tokio::spawn(async move {
        let (mut id, mut entries) = (1_000u64, 0);
        while !asked.load(Ordering::Relaxed) {
            let statements = format!(
                "INSERT INTO people SELECT n, '{secret}' || n || '@x', 'new' FROM generate_series({id}, {id} + 19) n;
                 UPDATE people SET email = '{secret}' || id || '@y' WHERE id BETWEEN {id} AND {id} + 4;
                 DELETE FROM people WHERE id = {id}"
            );
            client.batch_execute(&statements).await.expect("write");
            id += 20;
            entries += 26;
            pace.keep(entries).await;
        }
        id
    });
    let whole = rules("gen-bad");
    for swap in 1..=20u32 {
        let before = people.generation().await;
        let last_refused = people.refused().await;
        let cut = whole.len() * swap as usize / 24;
        match swap % 5 {
            // A mask that is only left out, or that says pass without being confirmed.
            2 => people.write_rules(&whole.replace("\"public.people.email\"", "#")),
            3 => people.write_rules(&format!(
                "{}\"public.people.email\" = \"pass\"\n",
                whole.split("\"public.people.email\"").next().expect("rules")
            )),
            // The file is cut somewhere.
            4 => people.write_rules(&whole[..cut]),
            _ => people.write_rules(&rules(&format!("gen-{swap}"))),
        }
        let good = !matches!(swap % 5, 2..=4);
        eventually("the candidate to be taken or refused", async || {
            let status = people.world.try_status().await?;
            let refused = refused(&status) != last_refused;
            let taken = status["generation"].as_u64()? > before;
            assert!(good || !taken, "candidate {swap} would unmask and was taken");
            (if good { taken } else { refused }).then_some(())
        })
        .await;
        if good {
            // The writer has a transaction in it.
            let lsn = people.world.lsn().await;
            people.world.until_published(lsn).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let last = writer.await.expect("writer");
    people.settle(last).await;
    let told = people.check().await;
    let constants: u32 =
        told.split(", ").nth(1).and_then(|w| w.split(' ').next()?.parse().ok()).expect("count");
    assert!(constants >= 8, "the swaps came to nothing: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_nobody_named_halts_and_does_not_leave() {
    let people = People::start().await;
    people.world.pg.sql("CREATE TABLE secrets (id bigint PRIMARY KEY, s text)").await;
    people.world.pg.sql(&format!("INSERT INTO secrets VALUES (1, '{}')", people.secret)).await;
    let error = eventually("the engine to halt", async || {
        let status = people.world.try_status().await?;
        let error = status["last_error"].as_str()?.to_owned();
        error.contains("public.secrets").then_some(error)
    })
    .await;
    assert!(error.contains("unruled_tables"), "{error}");
    // A rule that names it lets everything go on from there.
    let named =
        rules("gen-1").replace("\"public.people\"]", "\"public.people\", \"public.secrets\"]");
    people.write_rules(&format!(
        "{named}\"public.secrets.id\" = \"pass\"\n\"public.secrets.s\" = {{ transform = \"constant\", value = \"gen-s\" }}\n"
    ));
    people.settle(1_000).await;
    // Rules that were there before their table are looked at again when it comes by.
    let both = named.replace("\"public.secrets\"]", "\"public.secrets\", \"public.early\"]");
    let text = "transform = \"constant\", value = \"gen-s\"";
    people.write_rules(&format!(
        "{both}\"public.secrets.id\" = \"pass\"\n\"public.secrets.s\" = {{ {text} }}\n\
         \"public.early.id\" = \"pass\"\n\"public.early.s\" = {{ {text} }}\n"
    ));
    eventually("the rules to be refused", async || {
        // Only where the stream has come to the end of the log.
        people.world.pg.sql("SELECT pg_logical_emit_message(false, 'x', '')").await;
        let status = people.world.try_status().await?;
        status["degraded"].as_str()?.contains("public.early").then_some(())
    })
    .await;
    people.world.pg.sql("ALTER TABLE secrets RENAME TO early").await;
    people.world.pg.sql(&format!("INSERT INTO early VALUES (2, '{}')", people.secret)).await;
    people.settle(2_000).await;
    let streams = people.world.redis.cli(&["XRANGE", "{kasho}:1:changes", "-", "+"]).await;
    assert!(!streams.contains(&people.secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_plugin_file_changes_nothing() {
    let people = People::start().await;
    let before = people.generation().await;
    let file = people.world.engine.home().path().join("plugins/anonymize.wasm");
    std::fs::write(&file, "half a file").expect("write");
    eventually("the candidate to be refused", async || {
        let status = people.world.try_status().await?;
        status["plugins"].to_string().contains("refused").then_some(())
    })
    .await;
    std::fs::remove_file(&file).expect("remove");
    insert(&people.world.pg, &people.secret, 1_000, 1_100).await;
    people.settle(2_000).await;
    people.check().await;
    assert_eq!(people.generation().await, before);
}

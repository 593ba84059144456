//! What becomes of rows that a plugin says are in error, on real servers: each policy while
//! tables are loaded and while changes flow, across `kill -9`; and how rows that were set
//! aside come back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::harness::{Engine, Postgres, Redis, eventually, get, logs};
use crate::world::{World, config};

const TABLES: &str = "
    CREATE TABLE people (id text PRIMARY KEY, email text, note text);
    CREATE PUBLICATION kasho_pub FOR ALL TABLES;";

/// Bytes that look random.
const KEY: &str = "c1d5034da07d8ef31db1cd4119b6a4552fdfbd19787e2848e71c8ee3b4770311";

/// E-mail addresses are replaced; what is none is in error, or what `otherwise` says.
pub(crate) fn rules(policy: &str, otherwise: &str) -> String {
    format!(
        "[[transform]]\nname = \"mask\"\nplugin = \"anonymize.wasm\"\n\
         tables = [\"public.people\"]\n{policy}\n[transform.rules]\n\
         \"public.people.id\" = \"pass\"\n\"public.people.note\" = \"pass\"\n\
         \"public.people.email\" = {{ transform = \"regex\", pattern = \"^[^@]+@.*$\", \
         replacement = \"fake@mail\", {otherwise} }}\n"
    )
}

pub(crate) const ERROR: &str = "on_no_match = \"error\"";
pub(crate) const CONSTANT: &str = "on_no_match = \"constant\", constant = \"none\"";
pub(crate) const ASIDE: &str = "on_error = \"dead_letter\"\nallow_misses = true";

pub(crate) struct Policies {
    pub(crate) world: World,
    /// A value of a row that must not leave in any way.
    pub(crate) secret: String,
}

impl Policies {
    pub(crate) async fn start(policy: &str) -> Policies {
        let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
        pg.sql(TABLES).await;
        let secret = logs::planted_unique("no-address");
        let builder = Engine::builder().plugin("anonymize").env("DEAD_KEY", KEY);
        let text = text(&pg, &redis, builder.home().grpc_port(), &rules(policy, ERROR));
        let engine = builder.config(&text).start();
        let world = World { pg, redis, engine };
        world.until_state("WAITING").await;
        Policies { world, secret }
    }

    fn write(&self, rules: &str) {
        let World { pg, redis, engine } = &self.world;
        engine.home().write_config(&text(pg, redis, engine.home().grpc_port(), rules));
    }

    pub(crate) async fn taken(&self, rules: &str) {
        let before = self.world.status().await["generation"].as_u64();
        self.write(rules);
        eventually("the candidate to be taken", async || {
            (self.world.try_status().await?["generation"].as_u64() > before).then_some(())
        })
        .await;
    }

    /// Rows `from..=to` in one transaction, each fifth of them in error.
    pub(crate) async fn insert(&self, from: u32, to: u32) {
        let statement = format!(
            "INSERT INTO people SELECT 'row-' || n, CASE WHEN n % 5 = 0 THEN '{}' ELSE n || '@x' END, \
             'first' FROM generate_series({from}, {to}) n",
            self.secret
        );
        self.world.pg.sql(&statement).await;
    }

    /// Waits until a change that is made after this call is published.
    pub(crate) async fn settle(&self) {
        let lsn = self.world.pg.value("SELECT pg_current_wal_insert_lsn() - '0/0'").await;
        let lsn: u64 = lsn.parse().expect("LSN");
        let id = crate::harness::unique();
        self.world.pg.sql(&format!("INSERT INTO people VALUES ('end-{id}', 'a@b')")).await;
        eventually("the stream", async || (self.world.newest().await?.0 > lsn).then_some(())).await;
    }

    /// Every entry of a stream, and how often each row's key came in it.
    pub(crate) async fn entries(&self, stream: &str) -> Vec<(String, Value)> {
        let key = format!("{{kasho}}:1:{stream}");
        let all: Vec<(String, Vec<String>)> =
            self.world.redis.command(&["XRANGE", &key, "-", "+"]).await;
        let field = |words: &[String], name: &str| {
            words.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone())
        };
        let entry = |(_, words): (String, Vec<String>)| {
            let data = field(&words, "d").expect("d");
            (field(&words, "o").expect("o"), serde_json::from_str(&data).expect("JSON"))
        };
        all.into_iter().map(entry).collect()
    }

    /// `dead retry --all`, again where a server or the stream was late; all that it says.
    pub(crate) async fn retry_all(&self) -> String {
        let mut said = String::new();
        for _ in 0..20 {
            let told = self.world.engine.run(&["dead", "retry", "--all"]).await;
            said += &told.stdout;
            let late = ["did not answer within", "has not come that far"];
            if !late.iter().any(|words| told.stdout.contains(words)) {
                told.success();
                return said;
            }
        }
        panic!("late twenty times: {said}");
    }

    async fn ids(&self, stream: &str) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        for (_, data) in self.entries(stream).await {
            if let Some(id) = data["new"][0].as_str().filter(|id| id.starts_with("row-")) {
                *ids.entry(id.to_owned()).or_default() += 1;
            }
        }
        ids
    }

    pub(crate) async fn letters(&self) -> Vec<Value> {
        let told = self.world.engine.run(&["dead", "list", "--json"]).await.success().stdout;
        told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The keys of all letters, unsealed.
    pub(crate) async fn sealed_ids(&self) -> Vec<String> {
        let mut ids = Vec::new();
        for letter in self.letters().await {
            let id = letter["id"].as_str().expect("id");
            let shown = self.world.engine.run(&["dead", "show", id]).await.success().stdout;
            let key = shown.lines().find_map(|line| line.strip_prefix("key"));
            ids.push(key.expect("a key").trim().replace("id = ", ""));
        }
        ids.sort();
        ids
    }

    /// Nothing of a row is in what is kept, but in the streams what may leave.
    async fn nothing_left(&self) {
        for key in ["{kasho}:1:bootstrap", "{kasho}:1:changes", "{kasho}:dead"] {
            let all = self.world.redis.cli(&["XRANGE", key, "-", "+"]).await;
            assert!(!all.contains(&self.secret), "a row in error is in {key}");
            assert!(key != "{kasho}:dead" || !all.contains("row-"), "a key is not sealed");
        }
    }

    /// What is told is at most a second old.
    async fn status_says(&self, words: &str) {
        eventually(&format!("{words:?} in the status"), async || {
            let status = self.world.engine.run(&["status"]).await.stdout;
            status.contains(words).then_some(())
        })
        .await;
    }

    async fn metrics_say(&self, words: &str) {
        eventually(&format!("{words:?} in the metrics"), async || {
            let (_, metrics) = get(self.world.engine.home().http_port(), "/metrics").await?;
            metrics.contains(words).then_some(())
        })
        .await;
    }

    async fn crash(&mut self) {
        self.world.engine.kill9().await;
        self.world.engine.start_again();
    }

    /// Begins a load of 3,000 rows and kills it behind each of two slices of it.
    async fn killed_behind_slices(&mut self) {
        self.write(&format!("[bootstrap]\nmax_rate = \"1KiB\"\n{}", rules(ASIDE, ERROR)));
        self.crash().await;
        self.world.until_state("WAITING").await;
        self.world.begin_bootstrap().await;
        let mut before = 0;
        for slice in 1..=2 {
            eventually("a slice", async || {
                (self.world.entries("bootstrap").await > before).then_some(())
            })
            .await;
            self.world.engine.kill9().await;
            before = self.world.entries("bootstrap").await;
            if slice == 2 {
                assert!(before < 2_400, "too fast to show anything");
                self.write(&rules(ASIDE, ERROR));
            }
            self.world.engine.start_again();
        }
    }
}

pub(crate) fn text(pg: &Postgres, redis: &Redis, port: u16, rules: &str) -> String {
    let text = config(&pg.url(), &redis.url(), port, rules);
    let text = text.replacen("[redis]", "[redis]\nencoding = \"json\"", 1);
    format!("dead_letter_key = {{ env = \"DEAD_KEY\" }}\n{text}")
}

fn bad(from: u32, to: u32) -> Vec<String> {
    let mut ids: Vec<String> =
        (from..=to).filter(|n| n % 5 == 0).map(|n| format!("row-{n}")).collect();
    ids.sort();
    ids
}

fn good(from: u32, to: u32) -> BTreeMap<String, usize> {
    (from..=to).filter(|n| n % 5 != 0).map(|n| (format!("row-{n}"), 1)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_set_aside_once_across_crashes_and_come_back() {
    let mut it = Policies::start(ASIDE).await;
    // A load that is killed behind each of its slices has each letter once.
    it.insert(1, 3_000).await;
    it.killed_behind_slices().await;
    it.world.until_state("ACCUMULATING").await;
    it.world.bootstrap().await;
    assert_eq!(it.letters().await.len(), 600);
    assert_eq!(it.ids("bootstrap").await, good(1, 3_000));
    // So has a stream, in transactions of every kind: whole ones in error, and parts.
    for n in 0..6 {
        it.insert(3_001 + n * 20, 3_020 + n * 20).await;
        it.world.pg.sql(&format!("INSERT INTO people VALUES ('alone-{n}', '{}')", it.secret)).await;
        it.crash().await;
    }
    it.world.until_state("STREAMING").await;
    it.settle().await;
    assert_eq!(it.ids("changes").await, good(3_001, 3_120));
    let letters = it.letters().await;
    assert_eq!(letters.len(), 600 + 24 + 6);
    assert_eq!(
        letters[0]["reason"].as_str().map(|r| r.contains("column email: the pattern")),
        Some(true)
    );
    assert_eq!((&letters[0]["op"], &letters[629]["op"]), (&"read".into(), &"insert".into()));
    it.nothing_left().await;
    it.status_says("630 rows set aside: `kasho dead list`").await;
    // All but the newest are let go of; what is sealed is which rows they are.
    let old: Vec<String> =
        letters[..600].iter().map(|l| l["id"].as_str().expect("id").to_owned()).collect();
    let words =
        [&["dead", "forget"][..], &old.iter().map(String::as_str).collect::<Vec<_>>()].concat();
    it.world.engine.run(&words).await.success();
    let alone = (0..6).map(|n| format!("alone-{n}"));
    let mut expected: Vec<String> = bad(3_001, 3_120).into_iter().chain(alone).collect();
    expected.sort();
    assert_eq!(it.sealed_ids().await, expected);

    // With the same rules they fail again, and are not lost.
    let told = it.world.engine.run(&["dead", "retry", "--all"]).await;
    assert!(told.code == 1 && told.stdout.contains("it failed once more"), "{}", told.stdout);
    assert_eq!(it.sealed_ids().await, expected);
    // Under a rule that takes them they are published as they are now; one is gone.
    it.taken(&rules(ASIDE, CONSTANT)).await;
    it.world.pg.sql("DELETE FROM people WHERE id = 'row-3005'").await;
    it.world.pg.sql("UPDATE people SET note = 'second' WHERE id = 'row-3010'").await;
    let told = it.retry_all().await;
    assert_eq!(told.lines().filter(|line| line.contains(" gone ")).count(), 1, "{told}");
    assert_eq!(told.lines().filter(|line| line.contains(" published ")).count(), 29, "{told}");
    assert!(it.letters().await.is_empty());
    let last: BTreeMap<String, Value> = (it.entries("changes").await.into_iter())
        .filter_map(|(_, data)| Some((data["new"][0].as_str()?.to_owned(), data)))
        .collect();
    for id in expected.iter().filter(|id| *id != "row-3005") {
        let data = &last[id];
        assert_eq!((&data["new"][1], &data["miss"]), (&"none".into(), &true.into()), "{id}");
    }
    assert_eq!(last["row-3010"]["new"][2], "second", "as it is now");
    it.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_before_a_retry_is_not_overwritten_by_it() {
    let it = Policies::start(ASIDE).await;
    it.world.bootstrap().await;
    it.insert(5, 5).await;
    it.settle().await;
    it.taken(&rules(ASIDE, CONSTANT)).await;
    // Changes go on while rows are retried: whatever stands last in the stream is what the
    // source has.
    let (client, before) = (it.world.pg.client().await, it.world.entries("changes").await);
    let (stop, mut pace) = (Arc::new(AtomicBool::new(false)), it.world.pace().await);
    let asked = Arc::clone(&stop);
    let writer = tokio::spawn(async move {
        let mut n = 0;
        loop {
            // Some more, once the row is back.
            let last = asked.load(Ordering::Relaxed);
            for _ in 0..10 {
                n += 1;
                let statement = format!("UPDATE people SET note = 'n{n}' WHERE id = 'row-5'");
                client.batch_execute(&statement).await.expect("update");
            }
            if last {
                return n;
            }
            pace.keep(n).await;
        }
    });
    eventually("somebody to write", async || {
        (it.world.entries("changes").await > before).then_some(())
    })
    .await;
    // A transaction that does not end in time is a reason to try again, as it is told.
    eventually("the letter to come", async || {
        let told = it.world.engine.run(&["dead", "retry", "--all"]).await.stdout;
        told.contains(" published ").then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let written = writer.await.expect("writer");
    it.settle().await;
    let mut notes = Vec::new();
    for (op, data) in it.entries("changes").await {
        if data["new"][0] == "row-5" {
            notes.push((op, data["new"][2].as_str().expect("note").to_owned()));
        }
    }
    let at = notes.iter().position(|(op, _)| op == "insert").expect("the retried row");
    let number =
        |note: &str| note.strip_prefix('n').and_then(|n| n.parse::<i32>().ok()).unwrap_or(-1);
    let before = at.checked_sub(1).map_or(-1, |at| number(&notes[at].1));
    assert!(number(&notes[at].1) >= before, "{:?}", &notes[at.saturating_sub(2)..=at]);
    assert!(at > 0 && at + 10 < notes.len(), "nobody wrote meanwhile: {at} of {}", notes.len());
    assert_eq!(notes.last().expect("a note").1, format!("n{written}"));
}

/// What is sealed in a letter is sent to the source in a statement, and the driver tells of
/// statements.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_read_again_is_in_no_log_at_any_level() {
    let it = Policies::start(ASIDE).await;
    it.world.bootstrap().await;
    let key = logs::planted_unique("sealed-key");
    it.world.pg.sql(&format!("INSERT INTO people VALUES ('{key}', '{}')", it.secret)).await;
    it.settle().await;
    assert_eq!(it.letters().await.len(), 1);
    it.taken(&rules(ASIDE, CONSTANT)).await;
    let told = it.retry_all().await;
    assert!(told.contains(" published "), "{told}");
    // What it has said is searched for the key when it is dropped.
    let config = std::fs::read_to_string(it.world.engine.home().config_path()).expect("config");
    assert!(config.contains("level = \"trace\""), "{config}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_key_and_a_delete_are_set_aside_and_come_back() {
    let it = Policies::start(ASIDE).await;
    it.world.pg.sql("ALTER TABLE people REPLICA IDENTITY FULL").await;
    it.world.bootstrap().await;
    it.insert(1, 4).await;
    // Under FULL the old image has the bad value too: the delete is in error as well.
    let secret = &it.secret;
    it.world
        .pg
        .sql(&format!("UPDATE people SET id = 'row-11', email = '{secret}' WHERE id = 'row-1'"))
        .await;
    it.world.pg.sql(&format!("UPDATE people SET email = '{secret}' WHERE id = 'row-2'")).await;
    it.world.pg.sql("DELETE FROM people WHERE id = 'row-2'").await;
    it.settle().await;
    let ops: Vec<String> =
        it.letters().await.iter().map(|l| l["op"].as_str().expect("op").to_owned()).collect();
    assert_eq!(ops, ["update", "update", "delete"]);
    // Under FULL every column says where rows are.
    it.write(&rules(ASIDE, CONSTANT));
    let accept = eventually("the refusal", async || {
        let status = it.world.try_status().await?;
        let told = status["plugins"][1]["error"].as_str()?.to_owned();
        Some(told.split("accept = ").nth(1)?.split(',').next()?.to_owned())
    })
    .await;
    let World { pg, redis, engine } = &it.world;
    let accepted = text(pg, redis, engine.home().grpc_port(), &rules(ASIDE, CONSTANT));
    engine.home().write_config(&format!("accept = {accept}\n{accepted}"));
    eventually("the candidate to be taken", async || {
        (it.world.try_status().await?["generation"].as_u64()? == 2).then_some(())
    })
    .await;
    it.retry_all().await;
    let entries = it.entries("changes").await;
    let deleted: BTreeSet<&str> = (entries.iter().filter(|(op, _)| op == "delete"))
        .filter_map(|(_, data)| data["old"][0].as_str())
        .collect();
    assert_eq!(
        deleted,
        BTreeSet::from(["row-1", "row-2"]),
        "the old key, and the row that is gone"
    );
    assert!(entries.iter().any(|(op, data)| op == "insert" && data["new"][0] == "row-11"));
    assert!(it.letters().await.is_empty());
    it.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_loses_rows_and_says_how_many() {
    let mut it = Policies::start("on_error = \"drop\"\nallow_misses = true").await;
    it.insert(1, 50).await;
    it.world.bootstrap().await;
    it.crash().await;
    it.world.until_state("STREAMING").await;
    it.insert(51, 100).await;
    it.settle().await;
    assert_eq!(it.ids("bootstrap").await, good(1, 50));
    assert_eq!(it.ids("changes").await, good(51, 100));
    for (_, data) in it.entries("changes").await {
        assert_eq!(data["miss"], true, "a change of this table may miss");
    }
    assert!(it.letters().await.is_empty());
    it.metrics_say("kasho_plugin_lost_total{plugin=\"mask\"} 10").await;
    let plugin = &it.world.status().await["plugins"][0];
    assert_eq!((&plugin["errors"], &plugin["lost"]), (&10.into(), &10.into()));
    it.nothing_left().await;
    // Under other rules, too: rows that are not there stay away. A new epoch has them all,
    // whether the engine is told of it or finds its slot gone.
    it.taken(&rules("on_error = \"halt\"", CONSTANT)).await;
    it.insert(101, 101).await;
    it.settle().await;
    assert_eq!(it.entries("changes").await.last().expect("a change").1["miss"], true);
    for epoch in 2..=3 {
        let before = it.world.status().await["generation"].as_u64();
        if epoch == 2 {
            it.world.engine.run(&["reset", "--yes"]).await.success();
            eventually("what was lost to be forgotten", async || {
                (it.world.try_status().await?["generation"].as_u64() > before).then_some(())
            })
            .await;
        } else {
            it.taken(&rules("on_error = \"drop\"\nallow_misses = true", CONSTANT)).await;
            assert!(it.world.engine.terminate().await.success());
            it.write(&rules("on_error = \"halt\"", CONSTANT));
            eventually("the slot to be free", async || {
                let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                            WHERE NOT active";
                it.world.pg.rows(drop).await.first().map(|_| ())
            })
            .await;
            it.world.engine.start_again();
            it.world.until_state("WAITING").await;
        }
        it.world.bootstrap().await;
        it.insert(100 + epoch, 100 + epoch).await;
        let key = format!("{{kasho}}:{epoch}:changes");
        let change = eventually("a change of the new epoch", async || {
            let found = it.world.redis.cli(&["XRANGE", &key, "-", "+"]).await;
            found.contains(&format!("row-{}", 100 + epoch)).then_some(found)
        })
        .await;
        assert!(!change.contains("miss"), "{change}");
    }
}

/// What status tells of rows that left under other rules.
async fn older(world: &World) -> Option<Vec<String>> {
    let status = world.try_status().await?;
    if status["last_error"].as_str()?.starts_with("still connecting") {
        return None;
    }
    let warnings = status["warnings"].as_array()?.iter().filter_map(Value::as_str);
    let older = warnings.filter(|told| told.contains("rows that left before"));
    let columns = older.map(|told| {
        assert!(told.ends_with("(`kasho bootstrap --table public.people`)"), "{told}");
        told.split(':').next().unwrap_or_default().to_owned()
    });
    Some(columns.collect())
}

/// The same, once the engine stands.
async fn until_told(world: &World) -> Vec<String> {
    eventually("the engine to stand", async || older(world).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rules_of_before_did_to_a_table_is_told_until_it_is_loaded_again() {
    let mut it = Policies::start("on_error = \"drop\"\nallow_misses = true").await;
    it.insert(1, 50).await;
    it.world.bootstrap().await;
    assert_eq!(until_told(&it.world).await, Vec::<String>::new());
    let halts = rules("on_error = \"halt\"", CONSTANT);
    it.taken(&halts).await;
    assert_eq!(until_told(&it.world).await, ["public.people.email"]);
    let nulls = halts.replace("note\" = \"pass\"", "note\" = \"null\"");
    it.taken(&nulls).await;
    let both = ["public.people.email", "public.people.note"];
    assert_eq!(until_told(&it.world).await, both);
    // Neither a crash nor another start makes it untrue.
    it.insert(51, 51).await;
    it.settle().await;
    it.crash().await;
    it.world.until_state("STREAMING").await;
    assert_eq!(until_told(&it.world).await, both);
    assert_eq!(it.entries("changes").await.last().expect("a change").1["miss"], true);

    let again = it.world.engine.run(&["bootstrap", "--table", "public.people"]).await;
    assert!(again.success().stdout.ends_with("loaded again: public.people\n"));
    // That it is loaded is known to whoever comes next.
    it.crash().await;
    eventually("what was before to be forgotten", async || {
        older(&it.world).await?.is_empty().then_some(())
    })
    .await;
    it.insert(52, 52).await;
    it.settle().await;
    it.insert(53, 53).await;
    it.settle().await;
    let changes = it.entries("changes").await;
    let last = changes.iter().rfind(|(_, data)| data["new"][0] == "row-53").expect("the change");
    assert_eq!(last.1["miss"], Value::Null, "{}", last.1);
    assert!(it.world.engine.terminate().await.success());
    it.world.engine.start_again();
    it.world.until_state("STREAMING").await;
    assert_eq!(until_told(&it.world).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn pass_is_shown_wherever_one_looks() {
    let it = Policies::start("on_error = \"pass\"\nallow_unmasked = true").await;
    it.insert(1, 5).await;
    it.world.bootstrap().await;
    let changes = it.world.redis.cli(&["XRANGE", "{kasho}:1:bootstrap", "-", "+"]).await;
    assert!(changes.contains(&it.secret), "as it is, which is what the policy says");
    it.status_says("UNMASKED       mask: on_error = \"pass\"").await;
    it.status_says("1 rows in error (1 passed as they were)").await;
    it.metrics_say("kasho_plugin_passed_total{plugin=\"mask\"} 1").await;
    it.metrics_say("kasho_unmasked_policies 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn halt_stops_before_the_row_and_keeps_the_slot() {
    let it = Policies::start("on_error = \"halt\"").await;
    it.world.bootstrap().await;
    it.insert(1, 5).await;
    let error = eventually("the halt", async || {
        let status = it.world.try_status().await?;
        Some(status["last_error"].as_str()?.to_owned()).filter(|error| error.contains("column"))
    })
    .await;
    for word in
        ["`mask` (anonymize.wasm)", "public.people, insert at ", ":5: ", "column email", "halt"]
    {
        assert!(error.contains(word), "no {word:?} in {error}");
    }
    // Those before it may have been on their way already.
    let left = it.ids("changes").await;
    assert!(left.len() < 5 && !left.contains_key("row-5"), "{left:?}");
    let slot = async |what: &str| {
        let slot = "FROM pg_replication_slots WHERE slot_name = 'kasho_slot'";
        it.world.pg.value(&format!("SELECT {what} {slot}")).await
    };
    let in_use = async || (slot("active").await == "t").then_some(());
    eventually("the slot to be kept", in_use).await;
    let held = slot("confirmed_flush_lsn").await;
    it.insert(6, 9).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(slot("confirmed_flush_lsn").await, held, "nothing is acknowledged");
    eventually("the slot to be in use still", in_use).await;
    // Another rule lets everything go on from there.
    it.taken(&rules("on_error = \"halt\"", CONSTANT)).await;
    it.settle().await;
    assert_eq!(it.ids("changes").await.len(), 9);
    it.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_of_letters_is_back_pressure() {
    let it = Policies::start(ASIDE).await;
    it.world.bootstrap().await;
    it.world.engine.terminate().await;
    let World { pg, redis, engine } = &it.world;
    let few = text(pg, redis, engine.home().grpc_port(), &rules(ASIDE, ERROR));
    engine.home().write_config(&few.replacen("[redis]", "[redis]\ndead_letters = 2", 1));
    let mut it = it;
    it.world.engine.start_again();
    it.world.until_state("STREAMING").await;
    for n in 1..=2 {
        it.insert(n * 5, n * 5).await;
        eventually("a letter", async || (it.letters().await.len() == n as usize).then_some(()))
            .await;
    }
    it.insert(15, 15).await;
    it.insert(20, 20).await;
    let paused = eventually("publishing to pause", async || {
        let status = it.world.try_status().await?;
        Some(status["paused"].as_str()?.to_owned()).filter(|paused| !paused.is_empty())
    })
    .await;
    assert!(
        paused.contains("redis.dead_letters") && paused.contains("kasho dead forget"),
        "{paused}"
    );
    let letters = it.letters().await;
    let ids: Vec<&str> = letters.iter().map(|l| l["id"].as_str().expect("id")).collect();
    it.world.engine.run(&[&["dead", "forget"], &ids[..]].concat()).await.success();
    eventually("publishing to go on", async || {
        (it.world.try_status().await?["paused"] == "").then_some(())
    })
    .await;
    it.settle().await;
    assert_eq!(it.sealed_ids().await, ["row-15", "row-20"]);
}

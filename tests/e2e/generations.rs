//! Generations across a crash, a start and a failure: a transaction carries one, whatever
//! becomes of the files meanwhile; a service that was masking goes on masking with what it
//! had; and where only a person can decide, there is a way on.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::harness::{Engine, Output, Postgres, Redis, eventually, get, logs, python};
use crate::world::{World, config};

const TABLES: &str = "
    CREATE TABLE people (id bigint PRIMARY KEY, email text NOT NULL);
    CREATE PUBLICATION kasho_pub FOR ALL TABLES;";

/// Rows of a transaction that is cut in two: far more than Redis may take.
const LARGE: u64 = 40_000;
const TIGHT: &str = "[redis.budget]\nchanges = \"1MiB\"\n";

fn mask(rule: &str) -> String {
    format!(
        "[[transform]]\nname = \"mask\"\nplugin = \"anonymize.wasm\"\ntables = [\"public.people\"]\n\
         [transform.rules]\n\"public.people.id\" = \"pass\"\n\"public.people.email\" = {rule}\n"
    )
}

/// The mask of a generation: every e-mail becomes a constant that names it.
fn constant(name: &str) -> String {
    mask(&format!("{{ transform = \"constant\", value = \"{name}\" }}"))
}

/// A mask that stops at an e-mail without a `@`.
fn strict(name: &str) -> String {
    mask(&format!("{{ transform = \"regex\", pattern = \".*@.*\", replacement = \"{name}\" }}"))
}

struct People {
    world: World,
    secret: String,
}

impl People {
    async fn start(more: &str) -> People {
        let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
        let secret = logs::planted_unique("generation-mail");
        pg.sql(TABLES).await;
        let builder = Engine::builder().plugin("anonymize");
        let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), more);
        let engine = builder.config(&text).start();
        let world = World { pg, redis, engine };
        world.until_state("WAITING").await;
        world.bootstrap().await;
        People { world, secret }
    }

    fn text(&self, more: &str) -> String {
        let World { pg, redis, engine } = &self.world;
        config(&pg.url(), &redis.url(), engine.home().grpc_port(), more)
    }

    fn write(&self, more: &str) {
        self.world.engine.home().write_config(&self.text(more));
    }

    async fn insert(&self, from: u64, to: u64) {
        let secret = &self.secret;
        let rows =
            format!("SELECT n, '{secret}' || n || '@x' FROM generate_series({from}, {to}) n");
        self.world.pg.sql(&format!("INSERT INTO people {rows}")).await;
    }

    /// Begins a transaction that Redis has no room for, and kills the engine inside of it.
    async fn cut_a_transaction(&self) {
        self.insert(1, LARGE).await;
        eventually("the engine to stand in the middle of the transaction", async || {
            let status = self.world.try_status().await?;
            let paused = !status["paused"].as_str()?.is_empty();
            (paused && self.world.newest().await?.1 > 0).then_some(())
        })
        .await;
        assert!(self.world.entries("changes").await < LARGE);
        self.world.engine.kill9().await;
    }

    /// Waits until a change that is made now has been published.
    async fn settle(&self, id: u64) {
        let lsn = self.world.pg.value("SELECT pg_current_wal_insert_lsn() - '0/0'").await;
        let lsn: u64 = lsn.parse().expect("LSN");
        self.insert(id, id).await;
        eventually("the stream", async || (self.world.newest().await?.0 > lsn).then_some(())).await;
    }

    async fn status(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        eventually(what, async || self.world.try_status().await.filter(|status| holds(status)))
            .await
    }

    async fn generation(&self, number: u64) -> Value {
        self.status(&format!("generation {number}"), |s| s["generation"] == number).await
    }

    async fn degraded(&self, words: &str) -> Value {
        self.status(&format!("to be degraded: {words}"), |status| {
            status["degraded"].as_str().is_some_and(|text| text.contains(words))
        })
        .await
    }

    async fn halted(&self, words: &str) -> String {
        let halted = |s: &Value| s["last_error"].as_str().is_some_and(|text| text.contains(words));
        let status = self.status(&format!("a halt: {words}"), halted).await;
        status["last_error"].as_str().expect("text").to_owned()
    }

    /// What stands in the changes stream: `transaction constant generation rows` in order.
    async fn read(&self) -> (Output, Vec<(u64, String, u64, u64)>) {
        let output = python(include_str!("swaps.py"), &[&self.world.redis.url(), "1"]).await;
        let runs = output.stdout.lines().filter_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [number, constant, generation, rows] = words[..] else { return None };
            let constant = constant.to_owned();
            Some((number.parse().ok()?, constant, generation.parse().ok()?, rows.parse().ok()?))
        });
        let runs = runs.collect();
        (output, runs)
    }

    /// The same, where no transaction may carry two.
    async fn transactions(&self) -> Vec<(u64, String, u64, u64)> {
        let (output, runs) = self.read().await;
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
        runs
    }

    async fn ready(&self) -> Option<()> {
        let (code, _) = get(self.world.engine.home().http_port(), "/readyz").await?;
        (code == 200).then_some(())
    }
}

fn digest(status: &Value) -> String {
    status["generation_digest"].as_str().expect("a digest").to_owned()
}

/// Puts a file into a folder's place of plugins that does the same and is another.
fn another_plugin(home: &Path) {
    let path = home.join("plugins/anonymize.wasm");
    let mut wasm = std::fs::read(&path).expect("read");
    // An empty custom section called "more".
    wasm.extend(b"\x00\x05\x04more");
    std::fs::write(home.join("plugins/new"), wasm).expect("write");
    std::fs::rename(home.join("plugins/new"), path).expect("rename");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_transaction_is_finished_by_what_began_it_although_the_files_are_newer() {
    let mut people = People::start(&format!("{TIGHT}{}", constant("gen-old"))).await;
    people.cut_a_transaction().await;
    people.write(&constant("gen-new"));
    another_plugin(people.world.engine.home().path());
    people.world.engine.start_again();
    people.settle(LARGE + 1).await;
    let transactions = people.transactions().await;
    let told: Vec<(&str, u64, u64)> =
        transactions.iter().map(|(_, name, g, rows)| (name.as_str(), *g, *rows)).collect();
    assert_eq!(told, [("gen-old", 1, LARGE), ("gen-new", 2, 1)]);
    let status = people.generation(2).await;
    assert_eq!(status["degraded"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_lost_halts_and_says_the_way_on() {
    let mut people = People::start(&format!("{TIGHT}{}", constant("gen-old"))).await;
    people.cut_a_transaction().await;
    let home = people.world.engine.home().path().to_owned();
    std::fs::rename(home.join("store"), home.join("lost")).expect("rename");
    people.write(&constant("gen-new"));
    people.world.engine.start_again();
    let error = people.halted("is published in part").await;
    let status = people.generation(2).await;
    let accept = format!("kasho plugin accept {}", digest(&status));
    assert!(error.contains(&accept) && error.contains("plugins.store"), "{error}");
    // It was only somewhere else: the transaction is finished as it began.
    people.world.engine.terminate().await;
    std::fs::remove_dir_all(home.join("store")).expect("remove");
    std::fs::rename(home.join("lost"), home.join("store")).expect("rename");
    people.world.engine.start_again();
    people.settle(LARGE + 1).await;
    assert_eq!(people.transactions().await[0].3, LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_can_be_lived_without_if_somebody_says_so() {
    let mut people = People::start(&format!("{TIGHT}{}", constant("gen-old"))).await;
    people.cut_a_transaction().await;
    let home = people.world.engine.home().path().to_owned();
    std::fs::remove_dir_all(home.join("store")).expect("remove");
    people.write(&constant("gen-new"));
    people.world.engine.start_again();
    people.halted("is published in part").await;
    let status = people.generation(2).await;
    // In the file, for unattended use.
    people.write("");
    let text = people.text(&constant("gen-new"));
    let accept = format!("accept = \"{}\"\n{text}", digest(&status));
    people.world.engine.home().write_config(&accept);
    people.settle(LARGE + 1).await;
    mixed(&people, "gen-old", "gen-new").await;
}

/// The first transaction is whole, and carries the marks of two generations.
async fn mixed(people: &People, before: &str, after: &str) {
    let (output, runs) = people.read().await;
    assert!(output.stdout.contains("2 generations in transaction 1"), "{}", output.stdout);
    assert!(!output.stdout.contains("row "), "{}", output.stdout);
    let told: Vec<(u64, &str, u64)> =
        runs.iter().map(|(number, name, g, _)| (*number, name.as_str(), *g)).collect();
    assert_eq!(told, [(1, before, 1), (1, after, 2), (2, after, 2)]);
    assert_eq!(runs[0].3 + runs[1].3, LARGE);
    let status = people.world.status().await;
    let noted = "was begun by generation 1 and is finished by generation 2";
    assert!(status["warnings"].to_string().contains(noted), "{}", status["warnings"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_own_rules_stop_inside_of_it_has_a_way_on() {
    let probes = "[plugins]\nprobe_rows = 0\n";
    let people = People::start(&format!("{probes}{}", strict("gen-strict"))).await;
    let first = digest(&people.world.status().await);
    let early = people.world.engine.run(&["plugin", "accept", &first]).await;
    assert!(early.code != 0 && early.stderr.contains("nothing waits for it"), "{early:?}");
    let secret = &people.secret;
    people
        .world
        .pg
        .sql(&format!(
            "INSERT INTO people SELECT n, '{secret}' || n || CASE n WHEN {LARGE} THEN '' ELSE '@x' END
             FROM generate_series(1, {LARGE}) n"
        ))
        .await;
    let error = people.halted("is published in part by generation 1").await;
    assert!(error.contains("kasho plugin list") && !error.contains(secret), "{error}");
    let published = people.world.entries("changes").await;
    assert!((1..LARGE).contains(&published), "{published}");
    // Other rules are taken, and are not asked to finish it unless somebody says so.
    people.write(&format!("{probes}{}", constant("gen-loose")));
    let status = people.generation(2).await;
    let accept = format!("kasho plugin accept {}", digest(&status));
    people.halted(&accept).await;
    // Its own tried again, and came to the same row.
    assert!((published..LARGE).contains(&people.world.entries("changes").await));
    let refused = people.world.engine.run(&["plugin", "accept", "feedfeedfeed"]).await;
    assert!(refused.code != 0 && refused.stderr.contains("kasho plugin list"), "{refused:?}");
    let told =
        people.world.engine.run(&["plugin", "accept", &digest(&status)[..12]]).await.success();
    assert!(told.stdout.contains("generation 2 is in force"), "{}", told.stdout);
    people.settle(LARGE + 1).await;
    mixed(&people, "gen-strict", "gen-loose").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_goes_on_with_what_ran_where_the_files_are_refused() {
    let mut people = People::start(&constant("gen-old")).await;
    people.settle(1).await;
    let home = people.world.engine.home().path().to_owned();
    let wasm = std::fs::read(home.join("plugins/anonymize.wasm")).expect("read");
    let unmasking = mask("\"pass\"");
    let lost = constant("x").replace("\"public.people.email\"", "#");
    let broken = constant("x").replace("plugin = ", "plugins = ");
    let mut id = 2;
    for (rules, plugin, words) in [
        (unmasking.as_str(), Some(&wasm[..]), "accept_unmask = true"),
        (&lost, Some(&wasm[..]), "public.people.email"),
        (&broken, Some(&wasm[..]), "kasho.toml"),
        (&constant("gen-cut"), Some(&wasm[..1000]), "not a valid module"),
        (&constant("gen-none"), None, "No such file"),
        ("", Some(&wasm[..]), "public.people.email"),
    ] {
        people.world.engine.terminate().await;
        people.write(rules);
        match plugin {
            Some(plugin) => people.world.engine.home().write("plugins/anonymize.wasm", plugin),
            None => std::fs::remove_file(home.join("plugins/anonymize.wasm")).expect("remove"),
        }
        people.world.engine.start_again();
        people.world.until_state("STREAMING").await;
        let status = people.degraded(words).await;
        assert_eq!(status["generation"], 1);
        people.settle(id).await;
        eventually("to be ready", async || people.ready().await).await;
        id += 1;
    }
    let told = people.world.engine.run(&["status"]).await.success();
    assert!(told.stdout.contains("DEGRADED"), "{}", told.stdout);
    people.world.engine.home().write("plugins/anonymize.wasm", &wasm);
    people.write(&constant("gen-mended"));
    let status = people.generation(2).await;
    assert_eq!((&status["degraded"], &status["candidate"]), (&"".into(), &Value::Null));
    people.settle(id).await;
    let names: Vec<String> =
        people.transactions().await.into_iter().map(|(_, name, ..)| name).collect();
    let old = vec!["gen-old".to_owned(); names.len() - 1];
    assert_eq!(names, [old, vec!["gen-mended".to_owned()]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_tried_on_recent_rows() {
    let people = People::start(&constant("gen-old")).await;
    let secret = &people.secret;
    people
        .world
        .pg
        .sql(&format!("INSERT INTO people SELECT n, '{secret}' || n FROM generate_series(1, 20) n"))
        .await;
    people.settle(21).await;
    // None of these rows would pass it.
    people.write(&strict("gen-strict"));
    let status = people.degraded("recent rows").await;
    let candidate = &status["candidate"];
    let told = candidate["reasons"][0].as_str().expect("a reason");
    assert!(told.contains("would have stopped the stream") && !told.contains(secret), "{told}");
    let listed = people.world.engine.run(&["plugin", "list"]).await.success();
    assert!(listed.stdout.contains("anonymize.wasm") && listed.stdout.contains(told), "{listed:?}");
    // Who means it may have it.
    let digest = candidate["digest"].as_str().expect("a digest");
    people.world.engine.run(&["plugin", "accept", digest]).await.success();
    let status = people.generation(2).await;
    assert_eq!(
        (status["degraded"].as_str(), status["generation_digest"].as_str()),
        (Some(""), Some(digest))
    );
    people.settle(22).await;
    let json = eventually("the generation to have published", async || {
        let json = people.world.engine.run(&["plugin", "list", "--json"]).await.success();
        let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
        (json["since"] != "").then_some(json)
    })
    .await;
    assert_eq!(
        (&json["plugins"][0]["tables"][0], &json["generation"]),
        (&"public.people".into(), &2.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_generation_that_fails_gives_way_to_the_one_before() {
    let plugins = "[plugins]\nprobe_rows = 0\non_regression = \"rollback\"\n";
    let people = People::start(&format!("{plugins}{}", constant("gen-old"))).await;
    people.settle(1).await;
    people.write(&format!("{plugins}{}", strict("gen-strict")));
    people.generation(2).await;
    people.settle(2).await;
    let odd = format!("INSERT INTO people VALUES (3, '{}')", people.secret);
    people.world.pg.sql(&odd).await;
    let status = people.degraded("generation 2 failed and is not in force any more").await;
    assert_eq!(status["generation"], 3);
    people.settle(4).await;
    let told: Vec<(String, u64)> =
        people.transactions().await.into_iter().map(|(_, name, g, _)| (name, g)).collect();
    let expected = [("gen-old", 1), ("gen-strict", 2), ("gen-old", 3), ("gen-old", 3)];
    assert_eq!(told, expected.map(|(name, g)| (name.to_owned(), g)));
    // Not where that would let out what the failed one masks.
    people.world.pg.sql("ALTER TABLE people ADD note text DEFAULT 'n'").await;
    let noted =
        |mask: String, note: &str| format!("{plugins}{mask}\"public.people.note\" = \"{note}\"\n");
    people.write(&noted(constant("gen-note"), "pass"));
    people.generation(4).await;
    people.settle(5).await;
    people.write(&noted(strict("gen-null"), "null"));
    people.generation(5).await;
    people.world.pg.sql(&odd.replace("(3", "(6").replace("people ", "people (id, email) ")).await;
    let error = people.halted("the generation before cannot go on").await;
    assert!(error.contains("public.people.note"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_masking_key_is_taken_with_a_new_epoch() {
    let keyed = |key: &str| {
        let file = "[keys]\nk1 = { file = \"masking_key\" }\n";
        (key.repeat(16), format!("{file}{}", mask("\"fake_email\"")))
    };
    let people = People::start("").await;
    let home = people.world.engine.home();
    let (key, rules) = keyed("a9d4");
    home.write("masking_key", key);
    people.write(&rules);
    people.generation(2).await;
    people.settle(1).await;
    home.write("masking_key", keyed("0b7e").0);
    let status = people.degraded("is not the one that rows were masked with").await;
    assert!(status["degraded"].to_string().contains("kasho reset"), "{status}");
    people.world.engine.run(&["reset", "--yes"]).await.success();
    let status = people.generation(3).await;
    assert_eq!((&status["degraded"], &status["state"]), (&"".into(), &"WAITING".into()));
    people.world.bootstrap().await;
    people.world.until_state("STREAMING").await;
    home.write("masking_key", keyed("a9d4").0);
    people.degraded("is not the one that rows were masked with").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_swaps_under_load_lose_repeat_and_mix_nothing() {
    let people = People::start(&constant("gen-0")).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (client, asked) = (people.world.pg.client().await, Arc::clone(&stop));
    let (secret, mut pace) = (people.secret.clone(), people.world.pace().await);
    let writer = tokio::spawn(async move {
        let mut next = 1u64;
        while !asked.load(Ordering::Relaxed) {
            let last = next + next % 40;
            let rows =
                format!("SELECT n, '{secret}' || n || '@x' FROM generate_series({next}, {last}) n");
            client.batch_execute(&format!("INSERT INTO people {rows}")).await.expect("write");
            next = last + 1;
            pace.keep(last).await;
        }
        next
    });
    let port = people.world.engine.home().http_port();
    let figure = async |name: &str| -> Option<u64> {
        let (_, body) = get(port, "/metrics").await?;
        body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    };
    let mut generation = 1;
    let figures = async || {
        Some((figure("kasho_generation").await?, figure("kasho_reload_refusals_total").await?))
    };
    for swap in 1..=100u64 {
        let (_, refusals) = eventually("figures", figures).await;
        match swap % 20 {
            // Every tenth is bad: it would unmask, or is cut.
            10 => people.write(&mask("\"pass\"")),
            0 => people
                .write(constant("gen-cut").split("\"public.people.email\"").next().expect("rules")),
            n if n % 10 == 5 => another_plugin(people.world.engine.home().path()),
            _ => people.write(&constant(&format!("gen-{swap}"))),
        }
        let bad = swap.is_multiple_of(10);
        generation += u64::from(!bad);
        eventually(&format!("swap {swap}"), async || {
            let is = figures().await?;
            (is.0 == generation && (!bad || is.1 > refusals)).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    people.settle(writer.await.expect("writer")).await;
    let transactions = people.transactions().await;
    let mut generations: Vec<u64> = transactions.iter().map(|(_, _, g, _)| *g).collect();
    assert!(generations.is_sorted(), "a generation came back");
    generations.dedup();
    assert!(generations.len() > 60, "the swaps came to nothing: {generations:?}");
    assert!(!transactions.iter().any(|(_, name, ..)| name == "gen-cut"));
    // What nobody names any more is not kept.
    let store = std::fs::read_dir(people.world.engine.home().path().join("store")).expect("store");
    let kept = store.flatten().find(|entry| entry.path().is_dir()).expect("a folder");
    let kept = std::fs::read_dir(kept.path()).expect("folder").flatten();
    let kept = kept.filter(|file| file.path().extension().is_some_and(|e| e == "generation"));
    let kept = kept.count();
    assert!((8..=16).contains(&kept), "{kept} generations are kept");
}

/// A configuration as Kubernetes mounts it: a link to a link, of which the inner one moves.
fn mount(home: &Path, version: &str, text: &str) {
    let folder = home.join(version);
    std::fs::create_dir(&folder).expect("folder");
    std::fs::write(folder.join("kasho.toml"), text).expect("write");
    symlink(version, home.join("..new")).expect("link");
    std::fs::rename(home.join("..new"), home.join("..data")).expect("rename");
}

#[tokio::test(flavor = "multi_thread")]
async fn however_the_files_change_nothing_is_unmasked() {
    let people = People::start(&constant("gen-0")).await;
    let home = people.world.engine.home().path().to_owned();
    let path = home.join("kasho.toml");
    people.settle(1).await;
    mount(&home, "..v1", &people.text(&constant("gen-1")));
    symlink("..data/kasho.toml", home.join("link")).expect("link");
    std::fs::rename(home.join("link"), &path).expect("rename");
    people.generation(2).await;
    people.settle(2).await;
    mount(&home, "..v2", &people.text(&constant("gen-2")));
    people.generation(3).await;
    people.settle(3).await;
    // The newest mount has lost the rule, the next one all of them.
    mount(&home, "..v3", &people.text(&constant("x").replace("\"public.people.email\"", "#")));
    people.degraded("public.people.email").await;
    people.settle(4).await;
    mount(&home, "..v4", &people.text(""));
    people.degraded("without saying so").await;
    people.settle(5).await;
    // A mount that is gone for a while.
    std::fs::remove_file(home.join("..data")).expect("remove");
    people.degraded("kasho.toml").await;
    people.settle(6).await;
    // A file that is written where it stands, in pieces that all parse or do not.
    std::fs::remove_file(&path).expect("remove");
    let text = people.text(&constant("gen-3"));
    let lines: Vec<&str> = text.lines().collect();
    for n in (1..lines.len()).step_by(2) {
        std::fs::write(&path, lines[..n].join("\n")).expect("write");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    people.settle(7).await;
    assert_eq!(people.world.status().await["generation"], 3);
    std::fs::write(&path, text).expect("write");
    people.generation(4).await;
    people.settle(8).await;
    let names: Vec<String> =
        people.transactions().await.into_iter().map(|(_, name, ..)| name).collect();
    assert_eq!(names, ["gen-0", "gen-1", "gen-2", "gen-2", "gen-2", "gen-2", "gen-2", "gen-3"]);
}

//! Kasho between the stage's source and the target, and what happens to it while seeds play:
//! kills of the engine, of the applier and of Redis, tables that are loaded again, and other
//! rules. Which of it, and in which order, follows from the first seed.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kasho_plugin_sdk::event::quote_identifier;

use super::random::Random;
use super::schema::{Identity, Schema};
use super::stage::{PUBLICATIONS, Stage};
use crate::harness::{Engine, PATIENCE, Process, Redis};

/// What happens on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillEngine,
    KillApplier,
    KillRedis,
    Reload,
    Swap,
}

const FAULTS: [Fault; 5] =
    [Fault::KillEngine, Fault::KillApplier, Fault::KillRedis, Fault::Reload, Fault::Swap];

/// Engine, Redis and applier.
pub(super) struct Kasho {
    redis: Redis,
    engine: Engine,
    applier: Process,
    swaps: u64,
    random: Random,
    /// What the engines and the appliers said that have ended.
    before: (String, String),
    /// What has happened, for whoever reads a failure.
    pub(super) course: Vec<String>,
}

impl Kasho {
    /// Starts all three; nothing is loaded yet.
    pub(super) async fn start(stage: &Stage, random: Random) -> Kasho {
        // What is killed has to be there again: every write is synced.
        let redis = Redis::builder().append_only("always").start().await;
        let builder = Engine::builder().plugin("filter");
        let engine = builder.build();
        let mut kasho = Kasho {
            applier: Process::spawn(
                "nobody",
                std::process::Command::new("true"),
                crate::harness::process::Voice::Server,
            )
            .expect("true"),
            redis,
            engine,
            swaps: 0,
            random,
            before: Default::default(),
            course: Vec::new(),
        };
        kasho.configure(stage);
        kasho.engine.start_as(&["run"]);
        kasho.until("WAITING").await;
        kasho.applier = kasho.engine.spawn(&["apply"]);
        kasho
    }

    /// The configuration with rules of this turn: they keep every row, each time in other words.
    fn configure(&self, stage: &Stage) {
        let schemas = stage.schemas.iter();
        let rules: String = match stage.changing {
            // Of the one table that stays what it is.
            true => schemas
                .map(|s| {
                    format!("\"{}.done\" = {{ keep = 'seed > -{}' }}\n", s.name, 1 + self.swaps)
                })
                .collect(),
            false => schemas.flat_map(|schema| rules(schema, self.swaps)).collect(),
        };
        let (publications, missing, ddl) = match stage.changing {
            true => (&PUBLICATIONS[..1], "missing_rows = \"load\"", "ddl = \"all\""),
            false => (&PUBLICATIONS[..], "", ""),
        };
        let top = match stage.changing {
            true => "ddl = \"text\"\nallow_unmasked = true\nunruled_tables = \"pass\"\n",
            false => "",
        };
        let tables: Vec<String> =
            stage.schemas.iter().map(|s| format!("\"{}.*\"", s.name)).collect();
        let home = self.engine.home();
        let text = format!(
            "accept_unmask = true\n{top}[source]\nurl = \"{}\"\npublications = {publications:?}\n\
             [redis]\nurl = \"{}\"\n\
             [grpc]\nlisten = \"127.0.0.1:{}\"\n[bootstrap]\nmax_rate = \"500KiB\"\n{missing}\n\
             [plugins]\npoll_ms = 200\n[apply]\ntarget = \"{}\"\nlisten = \"127.0.0.1:0\"\n\
             sequences_ms = 0\n{ddl}\n[[transform]]\nname = \"rows\"\nplugin = \"filter.wasm\"\ntables = [{}]\n\
             deadline_ms = 5000\n[transform.rules]\n{rules}",
            stage.source.url(),
            self.redis.url(),
            home.grpc_port(),
            stage.other.url(),
            tables.join(", ")
        );
        home.write_config(&text);
    }

    async fn state(&self) -> Option<String> {
        let output = self.engine.run(&["status", "--json"]).await;
        let status: serde_json::Value = serde_json::from_str(&output.stdout).ok()?;
        status["state"].as_str().map(str::to_owned)
    }

    async fn until(&self, state: &str) {
        let begun = Instant::now();
        while self.state().await.is_none_or(|now| now != state) {
            assert!(begun.elapsed() < PATIENCE, "{}", self.told(&format!("never {state}")));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Until tables are loaded, by the word of whoever asked for it: to ask for the state takes
    /// longer than some loads do.
    async fn until_loading(&self, asking: &Process) {
        let begun = Instant::now();
        loop {
            let said = asking.lines().join("\n");
            if said.contains("state: ACCUMULATING") {
                return;
            }
            let why = || self.told(&format!("the bootstrap does not begin: {said}"));
            assert!(begun.elapsed() < PATIENCE && asking.exited().is_none(), "{}", why());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Logs and course, and why it is a failure: last, since of a long output the end is read.
    pub(super) fn told(&self, why: &str) -> String {
        let (engine, applier) = (self.engine_log(), self.applier_log());
        let course = self.course.join("\n");
        format!(
            "--- the engine\n{engine}\n--- the applier\n{applier}\n--- the course\n{course}\n--- {why}"
        )
    }

    /// Loads and streams, whatever has happened: asks until it is so.
    async fn bootstrap(&mut self) {
        let begun = Instant::now();
        while self.state().await.is_none_or(|state| state != "STREAMING") {
            self.supervise();
            let output = self.engine.run(&["bootstrap", "--yes"]).await;
            let why = || self.told(&format!("the bootstrap does not end: {output:?}"));
            assert!(begun.elapsed() < PATIENCE, "{}", why());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Lets everything happen once while the tables are loaded and seeds play, and once more
    /// while their changes stream; ends with everything running.
    pub(super) async fn suffer(&mut self, stage: &Stage) {
        let all = stage.steps * stage.schemas.len() as u64;
        let share = |acts: usize| all * stage.acts.iter().take(acts).sum::<u64>() / 100;
        // Somebody asks for the bootstrap; whatever becomes of that, it is asked for again.
        let mut asking = self.engine.spawn(&["bootstrap", "--yes"]);
        self.until_loading(&asking).await;
        stage.gate.send_replace(2);
        self.faults(stage, share(1), share(2)).await;
        asking.finish();
        self.bootstrap().await;
        self.course.push("STREAMING".to_owned());
        if stage.changing {
            self.all_loaded().await;
        }
        stage.gate.send_replace(3);
        self.faults(stage, share(2), all).await;
        self.bootstrap().await;
    }

    /// Each fault once, in an order by lot, spread over statements.
    async fn faults(&mut self, stage: &Stage, from: u64, to: u64) {
        let mut left = FAULTS.to_vec();
        while !left.is_empty() {
            let number = (FAULTS.len() - left.len()) as u64 + 1;
            let at = from + (to - from) * number / (FAULTS.len() as u64 + 2);
            self.until_played(stage, at).await;
            let of = usize::try_from(self.random.below(left.len() as u64)).expect("few");
            let fault = left.swap_remove(of);
            let state = self.state().await.unwrap_or_else(|| "no answer".to_owned());
            self.course.push(format!("{fault:?} at statement {at}, {state}"));
            self.fault(stage, fault).await;
        }
    }

    /// Waits for a statement; not for ever, if the seeds play no more.
    async fn until_played(&self, stage: &Stage, at: u64) {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let played = stage.count.played.load(Ordering::Relaxed);
            if played >= at {
                return;
            }
            if played > last {
                (last, since) = (played, Instant::now());
            }
            let why = || self.told(&format!("nobody plays after {played}"));
            assert!(since.elapsed() < PATIENCE, "{}", why());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The number of the rules in force, when it is above another one.
    async fn newer_generation(&self, than: u64) -> u64 {
        let begun = Instant::now();
        loop {
            let output = self.engine.run(&["status", "--json"]).await;
            let status: Option<serde_json::Value> = serde_json::from_str(&output.stdout).ok();
            let number = status.and_then(|status| status["generation"].as_u64());
            if let Some(number) = number.filter(|number| *number > than) {
                return number;
            }
            let why = || self.told(&format!("no rules above {than} are in force: {number:?}"));
            assert!(begun.elapsed() < PATIENCE, "{}", why());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn fault(&mut self, stage: &Stage, fault: Fault) {
        match fault {
            Fault::KillEngine => {
                self.engine.kill9().await;
                self.start_engine_again();
            }
            Fault::KillApplier => {
                self.applier.kill9().await;
                self.start_applier_again();
            }
            Fault::KillRedis => {
                self.redis.kill9().await;
                self.redis.start_again().await;
            }
            Fault::Reload => {
                // While the tables are loaded it may come too early; later it has to be done.
                let begun = Instant::now();
                let mut name = self.table(stage).await;
                loop {
                    let output = self.engine.run(&["bootstrap", "--table", &name, "--yes"]).await;
                    let told = [output.stdout.trim(), output.stderr.trim()].join("\n");
                    let last = told.trim().lines().last().unwrap_or_default();
                    self.course.push(format!("  {name}: {last}"));
                    if output.code == 0 || *stage.gate.borrow() < stage.acts.len() {
                        break;
                    }
                    self.supervise();
                    let why = || self.told(&format!("{name} cannot be loaded again"));
                    assert!(begun.elapsed() < PATIENCE, "{}", why());
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    if stage.changing {
                        // It may be gone.
                        name = self.table(stage).await;
                    }
                }
            }
            Fault::Swap => {
                let before = self.newer_generation(0).await;
                self.swaps += 1;
                self.configure(stage);
                let number = self.newer_generation(before).await;
                self.course.push(format!("  generation {before} → {number}"));
            }
        }
        // Whatever ended by it is started again, as a supervisor would.
        self.supervise();
    }

    /// A table by lot, as Kasho names it.
    async fn table(&mut self, stage: &Stage) -> String {
        let mut lot = |n: usize| usize::try_from(self.random.below(n as u64)).expect("few");
        if stage.changing {
            let query = "SELECT nspname::text, relname::text FROM pg_class c JOIN pg_namespace n \
                         ON n.oid = relnamespace WHERE nspname LIKE 'seed\\_%' AND relkind = 'r' \
                         ORDER BY 1, 2";
            let rows = stage.source().await.query(query, &[]).await.expect("pg_class");
            let row = &rows[lot(rows.len())];
            let quoted = |at: usize| quote_identifier(row.get(at));
            return format!("{}.{}", quoted(0), quoted(1));
        }
        let schema = &stage.schemas[lot(stage.schemas.len())];
        schema.tables[lot(schema.tables.len())].published()
    }

    fn supervise(&mut self) {
        let log = self.engine.log();
        let halted = log.lines().find(|line| line.contains("the stream has halted"));
        // Nobody here decides about a schema change; to wait would be in vain.
        if let Some(line) = halted.filter(|line| line.contains("schema change")) {
            panic!("{}", self.told(line));
        }
        if self.engine.process().exited().is_some() {
            self.start_engine_again();
        }
        if self.applier.exited().is_some() {
            self.start_applier_again();
        }
    }

    /// Waits until the target has seen the end of every seed.
    pub(super) async fn settle(&mut self, stage: &Stage) {
        let begun = Instant::now();
        let target = stage.target().await;
        while stage.done(&target).await < stage.schemas.len() {
            self.supervise();
            let why = || self.told("the target does not get everything");
            assert!(begun.elapsed() < PATIENCE, "{}", why());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until no table is put off any more.
    async fn all_loaded(&mut self) {
        let begun = Instant::now();
        loop {
            self.supervise();
            let output = self.engine.run(&["status", "--json"]).await;
            let status: serde_json::Value =
                serde_json::from_str(&output.stdout).unwrap_or_default();
            let none = status["not_loaded"].as_array().is_some_and(Vec::is_empty);
            // One that has just begun knows only what it remembers.
            if none && status["tables_looked_at"] == true {
                break;
            }
            let why = || self.told(&format!("tables stay without their rows: {status}"));
            assert!(begun.elapsed() < PATIENCE, "{}", why());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until every table is loaded whose values the stream did not bring.
    pub(super) async fn settle_loads(&mut self, stage: &Stage) {
        self.all_loaded().await;
        let begun = Instant::now();
        for schema in &stage.schemas {
            stage.source.sql(&format!("DELETE FROM {}.done", schema.name)).await;
        }
        let target = stage.target().await;
        while stage.done(&target).await > 0 {
            self.supervise();
            let why = || self.told("the target stands still");
            assert!(begun.elapsed() < PATIENCE, "{}", why());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `kasho verify`, which has to agree.
    pub(super) async fn verify(&mut self) -> crate::harness::Output {
        self.supervise();
        self.engine.run(&["verify", "--show-keys", "--wait", "240"]).await
    }

    /// What the engine said, from its first start on.
    fn engine_log(&self) -> String {
        format!("{}{}", self.before.0, self.engine.log())
    }

    /// What the applier said.
    fn applier_log(&self) -> String {
        format!("{}{}", self.before.1, self.applier.lines().join("\n"))
    }

    fn start_engine_again(&mut self) {
        self.before.0 = self.engine_log() + "\n--- again\n";
        self.engine.start_again();
    }

    fn start_applier_again(&mut self) {
        self.before.1 = self.applier_log() + "\n--- again\n";
        self.applier = self.engine.spawn(&["apply"]);
    }
}

/// Rules that keep every row of the tables whose rows can be told by `k`.
fn rules(schema: &Schema, turn: u64) -> Vec<String> {
    let keyed = [Identity::Primary, Identity::Composite, Identity::Always, Identity::FullKeyed];
    let tables = schema.tables.iter().filter(|table| keyed.contains(&table.identity));
    tables
        .map(|table| {
            let name = toml::Value::String(table.name.clone());
            format!("{name} = {{ keep = 'k > -{}' }}\n", 100_000 + turn)
        })
        .collect()
}

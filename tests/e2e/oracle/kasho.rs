//! Kasho between the stage's source and the target, and what happens to it while seeds play:
//! kills of the engine, of the applier and of Redis, tables that are loaded again, and other
//! rules. Which of it, and in which order, follows from the first seed.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::random::Random;
use super::schema::{Identity, Schema};
use super::stage::{ACTS, PUBLICATIONS, Stage};
use crate::harness::{Engine, PATIENCE, Process, Redis, eventually};

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
        let rules: String =
            stage.schemas.iter().flat_map(|schema| rules(schema, self.swaps)).collect();
        let tables: Vec<String> =
            stage.schemas.iter().map(|s| format!("\"{}.*\"", s.name)).collect();
        let home = self.engine.home();
        let text = format!(
            "accept_unmask = true\n[source]\nurl = \"{}\"\npublications = {PUBLICATIONS:?}\n[redis]\nurl = \"{}\"\n\
             [grpc]\nlisten = \"127.0.0.1:{}\"\n[bootstrap]\nmax_rate = \"500KiB\"\n[plugins]\npoll_ms = 200\n[apply]\ntarget = \"{}\"\nlisten = \"127.0.0.1:0\"\n\
             sequences_ms = 0\n[[transform]]\nname = \"rows\"\nplugin = \"filter.wasm\"\ntables = [{}]\n\
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
        eventually(&format!("the state {state}"), async || {
            (self.state().await? == state).then_some(())
        })
        .await;
    }

    /// Loads and streams, whatever has happened: asks until it is so.
    async fn bootstrap(&mut self) {
        let begun = Instant::now();
        while self.state().await.is_none_or(|state| state != "STREAMING") {
            self.supervise();
            let output = self.engine.run(&["bootstrap", "--yes"]).await;
            assert!(
                begun.elapsed() < PATIENCE,
                "the bootstrap does not end: {output:?}\n{}\n{}",
                self.course.join("\n"),
                self.engine.log()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Lets everything happen once while the tables are loaded and seeds play, and once more
    /// while their changes stream; ends with everything running.
    pub(super) async fn suffer(&mut self, stage: &Stage) {
        let all = stage.steps * stage.schemas.len() as u64;
        let share = |acts: usize| all * ACTS.iter().take(acts).sum::<u64>() / 100;
        // Somebody asks for the bootstrap; whatever becomes of that, it is asked for again.
        let mut asking = self.engine.spawn(&["bootstrap", "--yes"]);
        self.until("ACCUMULATING").await;
        stage.gate.send_replace(2);
        self.faults(stage, share(1), share(2)).await;
        asking.finish();
        self.bootstrap().await;
        self.course.push("STREAMING".to_owned());
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
            let course = || self.course.join("\n");
            assert!(since.elapsed() < PATIENCE, "nobody plays after {played}\n{}", course());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The number of the rules in force.
    async fn generation(&self) -> Option<u64> {
        let output = self.engine.run(&["status", "--json"]).await;
        let status: serde_json::Value = serde_json::from_str(&output.stdout).ok()?;
        status["generation"].as_u64()
    }

    async fn fault(&mut self, stage: &Stage, fault: Fault) {
        match fault {
            Fault::KillEngine => {
                self.engine.kill9().await;
                self.engine.start_again();
            }
            Fault::KillApplier => {
                self.applier.kill9().await;
                self.applier = self.engine.spawn(&["apply"]);
            }
            Fault::KillRedis => {
                self.redis.kill9().await;
                self.redis.start_again().await;
            }
            Fault::Reload => {
                let at =
                    usize::try_from(self.random.below(stage.schemas.len() as u64)).expect("few");
                let schema = &stage.schemas[at];
                let at =
                    usize::try_from(self.random.below(schema.tables.len() as u64)).expect("few");
                let table = &schema.tables[at];
                let name = table.published();
                // While the tables are loaded it may come too early; later it has to be done.
                let begun = Instant::now();
                loop {
                    let output = self.engine.run(&["bootstrap", "--table", &name, "--yes"]).await;
                    let told = [output.stdout.trim(), output.stderr.trim()].join("\n");
                    let last = told.trim().lines().last().unwrap_or_default();
                    self.course.push(format!("  {name}: {last}"));
                    if output.code == 0 || *stage.gate.borrow() < ACTS.len() {
                        break;
                    }
                    self.supervise();
                    assert!(begun.elapsed() < PATIENCE, "{}", self.course.join("\n"));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
            Fault::Swap => {
                let before = eventually("a generation", async || self.generation().await).await;
                self.swaps += 1;
                self.configure(stage);
                let newer = async || self.generation().await.filter(|number| *number > before);
                let number = eventually("the other rules in force", newer).await;
                self.course.push(format!("  generation {before} → {number}"));
            }
        }
        // Whatever ended by it is started again, as a supervisor would.
        self.supervise();
    }

    fn supervise(&mut self) {
        if self.engine.process().exited().is_some() {
            self.engine.start_again();
        }
        if self.applier.exited().is_some() {
            self.applier = self.engine.spawn(&["apply"]);
        }
    }

    /// Waits until the target has seen the end of every seed.
    pub(super) async fn settle(&mut self, stage: &Stage) {
        let begun = Instant::now();
        let target = stage.target().await;
        while stage.done(&target).await < stage.schemas.len() {
            self.supervise();
            assert!(
                begun.elapsed() < PATIENCE,
                "the target does not get everything\n{}\n--- the applier\n{}",
                self.course.join("\n"),
                self.applier.lines().join("\n")
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// `kasho verify`, which has to agree.
    pub(super) async fn verify(&mut self) -> crate::harness::Output {
        self.supervise();
        self.engine.run(&["verify", "--show-keys", "--wait", "60"]).await
    }

    /// What the applier said.
    pub(super) fn applier_log(&self) -> String {
        self.applier.lines().join("\n")
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

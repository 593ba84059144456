//! Replacing a plugin while changes flow: how long until rows pass the new one, and how
//! long the stream stands still meanwhile.
//!
//! The file is changed by a custom section more, so that its code has to be compiled anew,
//! and takes the old one's place by a rename. Beside the longest pause around a swap stands
//! the longest of an equally long time without one, of the same round: the machine's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::amount;
use crate::guest::row_style;
use crate::harness::{Engine, Postgres, Redis};
use crate::memory::engine_in;
use crate::table::{Spread, Table};

const RULES: &str = r#"
    [[transform]]
    name = "mask"
    plugin = "mask.wasm"
    tables = ["public.t"]
"#;

/// The plugin in the engine's folder.
const PLUGIN: &str = "plugins/mask.wasm";
/// Between two transactions of the writer.
const EACH: Duration = Duration::from_millis(1);
/// What is looked at around a swap, and without one.
const WINDOW: Duration = Duration::from_secs(3);
/// No swap takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn run(table: &mut Table) {
    // What is not flushed is not sent: without this the server's log writer sets the pace.
    let (pg, redis) = tokio::join!(
        Postgres::builder().setting("synchronous_commit", "on").start(),
        Redis::builder().setting("save", "").start()
    );
    pg.sql(
        "CREATE TABLE t (id bigserial PRIMARY KEY, email text NOT NULL);
         CREATE PUBLICATION kasho_pub FOR ALL TABLES;",
    )
    .await;
    let builder = Engine::builder();
    std::fs::copy(row_style(), builder.home().path().join(PLUGIN)).expect("copy");
    let engine = engine_in(builder, &pg, &redis, RULES).await;
    engine.run(&["bootstrap", "--yes"]).await.success();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(pg.client().await, Arc::clone(&stop)));
    let mut watch = Watch { redis: redis.client().await, last: "0-0".to_owned(), before: None };
    // The first rows, and the writer's caches.
    let mut old = None;
    while old.is_none() {
        old = watch.until(Instant::now() + WINDOW, None).await.generation;
    }
    let size = std::fs::metadata(engine.home().path().join(PLUGIN)).expect("plugin").len() / 1000;
    let (mut first, mut pauses, mut quiet) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..amount(1, 5, 15) {
        let alone = watch.until(Instant::now() + WINDOW, None).await;
        quiet.push(alone.pause);
        let begun = Instant::now();
        replace(&engine, round);
        // Where nothing came meanwhile it is as it was.
        old = alone.generation.or(old);
        let swapped = watch.until(begun + PATIENCE, old.take()).await;
        old = swapped.generation;
        let rest = watch.until(begun + WINDOW, None).await;
        first.push((swapped.until - begun).as_secs_f64() * 1e3);
        pauses.push(swapped.pause.max(rest.pause));
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.expect("writer");
    let quiet = Spread::of(quiet);
    table.at_most(
        "ms from the rename of a changed plugin to its first row",
        &Spread::of(first),
        500.0,
        &format!("{size} kB, compiled anew, and tried on recent rows"),
    );
    table.at_most(
        "ms, the longest pause of the stream around a swap",
        &Spread::of(pauses),
        20.0,
        &format!("without a swap {:.1} ({:.1}–{:.1})", quiet.median, quiet.min, quiet.max),
    );
}

/// Small transactions, one after the other.
async fn write(client: tokio_postgres::Client, stop: Arc<AtomicBool>) {
    let mut tick = tokio::time::interval(EACH);
    let insert = client.prepare("INSERT INTO t (email) VALUES ('a' || random() || '@b.example')");
    let insert = insert.await.expect("prepare");
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        client.execute(&insert, &[]).await.expect("insert");
    }
}

/// The same code under another digest, in the old one's place.
fn replace(engine: &Engine, round: usize) {
    let home = engine.home().path();
    let mut code = std::fs::read(home.join(PLUGIN)).expect("read");
    // An empty custom section whose name is the round's.
    let name = format!("round {round:04}");
    let length = u8::try_from(name.len()).expect("short");
    code.extend([0, length + 1, length]);
    code.extend(name.bytes());
    std::fs::write(home.join("plugins/new"), code).expect("write");
    std::fs::rename(home.join("plugins/new"), home.join(PLUGIN)).expect("rename");
}

/// A reader of the changes that notes when they come.
struct Watch {
    redis: redis::aio::MultiplexedConnection,
    last: String,
    before: Option<Instant>,
}

/// What was seen.
struct Seen {
    /// Between two arrivals, at most; ms.
    pause: f64,
    generation: Option<String>,
    until: Instant,
}

impl Watch {
    /// Reads until `end`, or until the first entry that is not of this generation.
    async fn until(&mut self, end: Instant, old: Option<String>) -> Seen {
        let mut seen = Seen { pause: 0.0, generation: None, until: Instant::now() };
        while Instant::now() < end {
            let entries = self.next().await;
            seen.until = Instant::now();
            if entries.is_empty() {
                continue;
            }
            if let Some(before) = self.before.replace(seen.until) {
                seen.pause = seen.pause.max((seen.until - before).as_secs_f64() * 1e3);
            }
            for generation in entries {
                let swapped = old.as_ref().is_some_and(|old| *old != generation);
                seen.generation = Some(generation);
                if swapped {
                    return seen;
                }
            }
        }
        assert!(old.is_none(), "the plugin was not taken");
        seen
    }

    /// The generations of the entries that have come.
    async fn next(&mut self) -> Vec<String> {
        type Entry = (String, Vec<(String, redis::Value)>);
        let key = "{kasho}:1:changes";
        let mut read = redis::cmd("XREAD");
        read.arg(&["COUNT", "1000", "BLOCK", "100", "STREAMS", key, &self.last]);
        let found: Option<Vec<(String, Vec<Entry>)>> =
            read.query_async(&mut self.redis).await.expect("XREAD");
        let entries = found.into_iter().flatten().flat_map(|(_, entries)| entries);
        let mut generations = Vec::new();
        for (id, fields) in entries {
            self.last = id;
            let field = fields.into_iter().find(|(name, _)| name == "g").expect("a generation");
            generations.push(redis::from_redis_value(field.1).expect("text"));
        }
        generations
    }
}

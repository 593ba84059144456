//! `kasho apply` on real servers: a target that is filled, followed, killed under, taken over,
//! and at the end is what the source is, table by table.

use std::process::ExitStatus;

use crate::harness::{Engine, Output, Postgres, Process, Redis, eventually};
use crate::world::{World, config};

mod altered;
mod conflicts;
mod ends;
mod indexes;
mod letters;
mod life;
mod loss;
mod outlive;
mod refusals;
mod rows;
mod schema;

/// Source, Redis, engine, and a target with the source's tables.
struct Site {
    world: World,
    target: Postgres,
}

/// By its number each, what was written last.
const MARK: &str = "CREATE TABLE mark (id bigint PRIMARY KEY);";

impl Site {
    /// Both databases with `schema`, the source with `rows` too, all its tables published. The
    /// engine has `more` in its configuration, the applier `apply` in its section.
    async fn start(schema: &str, rows: &str, apply: &str, more: &str) -> Site {
        let target = Postgres::start_target().await;
        Site::with(target, schema, rows, apply, more).await
    }

    /// The same with a target of a test's own.
    async fn with(target: Postgres, schema: &str, rows: &str, apply: &str, more: &str) -> Site {
        let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
        for server in [&pg, &target] {
            server.sql(MARK).await;
            server.sql(schema).await;
        }
        pg.sql("CREATE PUBLICATION kasho_pub FOR ALL TABLES").await;
        if !rows.is_empty() {
            pg.sql(rows).await;
        }
        let builder = Engine::builder();
        let (grpc, url) = (builder.home().grpc_port(), target.url());
        let apply = Site::section(&url, apply);
        let text = config(&pg.url(), &redis.url(), grpc, &format!("{apply}{more}"));
        let engine = builder.config(&text).start();
        let world = World { pg, redis, engine };
        world.until_state("WAITING").await;
        Site { world, target }
    }

    fn section(target: &str, apply: &str) -> String {
        let listen = if apply.contains("listen") { "" } else { "listen = \"127.0.0.1:0\"\n" };
        format!("[apply]\ntarget = \"{target}\"\nsequences_ms = 0\n{listen}{apply}\n")
    }

    /// Writes the configuration again, with `apply` in its section. It is the applier's only.
    fn configure(&self, url: &str, apply: &str) {
        self.world.configure(&Site::section(url, apply));
    }

    /// The engine starts again with `redis` in that section of its configuration, and `more`
    /// behind all of them.
    async fn again(mut self, redis: &str, more: &str) -> Site {
        let (world, apply) = (&self.world, Site::section(&self.target.url(), ""));
        let home = world.engine.home();
        let more = format!("{apply}{more}");
        let text = config(&world.pg.url(), &world.redis.url(), home.grpc_port(), &more);
        home.write_config(&text.replacen("[redis]\n", &format!("[redis]\n{redis}"), 1));
        self.world.engine.terminate().await;
        self.world.engine.start_again();
        self.world.status().await;
        self
    }

    fn pg(&self) -> &Postgres {
        &self.world.pg
    }

    /// An applier that goes on until it is ended.
    fn applier(&self) -> Process {
        self.world.engine.spawn(&["apply"])
    }

    /// An applier that ends when nothing more waits.
    async fn catch_up(&self) -> Output {
        self.world.engine.run(&["apply", "--until-caught-up"]).await
    }

    /// Waits until the target has everything that the source has by now.
    async fn settle(&self) {
        let id = self.pg().value("INSERT INTO mark SELECT count(*) FROM mark RETURNING id").await;
        eventually("the target to have the last mark", async || {
            let found = format!("SELECT count(*) FROM mark WHERE id = {id}");
            (self.target.value(&found).await == "1").then_some(())
        })
        .await;
    }

    /// Waits until the stream has everything that the source has by now.
    async fn published(&self) {
        let lsn = self.world.lsn().await;
        self.pg().sql("INSERT INTO mark SELECT count(*) FROM mark").await;
        self.world.until_published(lsn).await;
    }

    /// Both sides of these tables hold the same rows.
    async fn same(&self, tables: &[&str]) {
        for table in tables {
            let (source, target) = (rows(self.pg(), table).await, rows(&self.target, table).await);
            if source == target {
                continue;
            }
            let missing: Vec<_> =
                source.iter().filter(|row| !target.contains(row)).take(3).collect();
            let extra: Vec<_> = target.iter().filter(|row| !source.contains(row)).take(3).collect();
            panic!(
                "{table}: {} rows at the source, {} in the target\nmissing {missing:#?}\nextra {extra:#?}",
                source.len(),
                target.len()
            );
        }
    }

    /// Ends an applier as an operator does.
    async fn end(applier: &Process) -> ExitStatus {
        applier.signal("TERM");
        applier.wait_exit().await
    }

    /// What the target says of the applier.
    async fn position(&self) -> String {
        self.target.value("SELECT position FROM kasho.applied WHERE relation = ''").await
    }
}

/// The rows of a table as texts, in an order of their own.
async fn rows(server: &Postgres, table: &str) -> Vec<String> {
    let query = format!("SELECT t::text FROM {table} t ORDER BY t::text COLLATE \"C\"");
    let rows = server.rows(&query).await;
    rows.into_iter().map(|row| row.into_iter().next().flatten().unwrap_or_default()).collect()
}

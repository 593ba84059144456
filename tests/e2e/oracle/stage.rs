//! Where seeds play: a source, and a second server with the third database, which PostgreSQL's
//! own subscription feeds. Several seeds share them, each with a schema of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::{Client, NoTls};

use super::SESSIONS;
use super::changing::Changing;
use super::compare::{difference_of, structure_differs, unversioned};
use super::random::Random;
use super::schema::{Identity, Schema};
use super::workload::{Count, Sessions, play};
use crate::harness::{Postgres, clients_of_both, eventually};

/// Before the load, while tables are loaded, while changes stream: per cent of the statements.
pub(super) type Acts = [u64; 3];
const ACTS: Acts = [20, 30, 50];
/// Where the schema changes. Before the load the target is made as the source is.
const CHANGING_ACTS: Acts = [0, 35, 65];

const TRIGGERS: &str = include_str!("../../../config/sql/ddl.sql");

/// Sessions that change a schema read and write values each in a way of its own.
const SETTINGS: [&str; SESSIONS] = [
    "",
    "SET timezone = 'Asia/Kolkata'; SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard'",
    "SET timezone = 'America/New_York'; SET datestyle = 'German'; SET bytea_output = 'escape'; \
     SET extra_float_digits = 0",
];

/// From 18 on a table whose identity is all of its columns takes no update unless its generated
/// ones are published, and with these no subscription can fill a table that generates them.
const PLAIN: &str = "DO $do$ DECLARE t text; BEGIN
    FOR t IN SELECT attrelid::regclass FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
             WHERE relreplident = 'f' AND attgenerated <> '' LOOP
        EXECUTE format('ALTER TABLE %s ALTER made DROP EXPRESSION', t);
    END LOOP; END $do$";

/// The third database.
const THIRD: &str = "third";

/// Rows of a table without identity only come, so it has a publication of its own.
pub(super) const PUBLICATIONS: [&str; 2] = ["kasho_pub", "kasho_inserts"];

fn publications(schemas: &[Schema]) -> String {
    let tables = |inserts: bool| {
        let tables = schemas.iter().flat_map(|schema| &schema.tables);
        let own = tables.filter(move |table| table.changes() != inserts);
        own.map(|table| table.name.clone()).collect::<Vec<String>>()
    };
    let (mut all, only) = (tables(false), tables(true));
    all.extend(schemas.iter().map(|schema| format!("{}.done", schema.name)));
    let only = match only.is_empty() {
        true => String::new(),
        false => format!(" FOR TABLE {}", only.join(", ")),
    };
    format!(
        "CREATE PUBLICATION kasho_pub FOR TABLE {};
         CREATE PUBLICATION kasho_inserts{only} WITH (publish = 'insert, truncate')",
        all.join(", ")
    )
}

/// Source, second server, and the seeds' schemas.
pub(super) struct Stage {
    pub(super) source: Postgres,
    pub(super) other: Postgres,
    pub(super) schemas: Vec<Schema>,
    /// The folder of a pg_dump that both servers let in: what it writes can be compared.
    clients: PathBuf,
    /// The servers are of different versions.
    mixed: bool,
    seeds: Vec<u64>,
    randoms: Vec<Random>,
    pub(super) steps: u64,
    pub(super) acts: Acts,
    /// The seeds change their schema: no subscription, and no third database.
    pub(super) changing: bool,
    /// Statements so far, of all seeds.
    pub(super) count: Arc<Count>,
    /// How many acts may be played.
    pub(super) gate: watch::Sender<usize>,
    /// Of each seed before each statement.
    pub(super) pause: Duration,
}

impl Stage {
    /// Servers, schemas with their first rows, and the subscription, which copies these.
    pub(super) async fn set(seeds: &[u64], steps: u64) -> Stage {
        let stage = Stage::raise(seeds, steps, false).await;
        stage.source.sql(&publications(&stage.schemas)).await;
        let structure = stage.structure().await;
        stage.other.client().await.batch_execute("CREATE DATABASE third").await.expect("database");
        for client in [stage.target().await, stage.third().await] {
            client.batch_execute(&structure).await.expect("structure");
        }
        let (folder, port) = (stage.source.folder().display(), stage.source.port());
        let subscribe = format!(
            "CREATE SUBSCRIPTION third CONNECTION 'host={folder} port={port} user=postgres \
             dbname=postgres' PUBLICATION {}",
            PUBLICATIONS.join(", ")
        );
        stage.third().await.batch_execute(&subscribe).await.expect("subscription");
        stage
    }

    /// Servers, schemas with their first rows, event triggers at the source, and the structure
    /// of all of it in the target.
    pub(super) async fn set_for_changes(seeds: &[u64], steps: u64) -> Stage {
        let stage = Stage::raise(seeds, steps, true).await;
        let structure = stage.structure().await;
        stage.target().await.batch_execute(&structure).await.expect("structure");
        stage.source.sql(TRIGGERS).await;
        // Whatever is made on the way belongs to it.
        let with = match stage.source.version().await {
            18.. => " WITH (publish_generated_columns = stored)",
            _ => "",
        };
        stage.source.sql(&format!("CREATE PUBLICATION kasho_pub FOR ALL TABLES{with}")).await;
        stage
    }

    async fn raise(seeds: &[u64], steps: u64, changing: bool) -> Stage {
        let (source, other) = tokio::join!(Postgres::start(), Postgres::start_target());
        let (version, clients) = (source.version().await, clients_of_both(&source, &other).await);
        let mixed = version != other.version().await;
        let (schemas, randoms, seeds_of) = (Vec::new(), Vec::new(), seeds.to_vec());
        let (count, gate) = (Arc::default(), watch::Sender::new(ACTS.len()));
        let pause = Duration::ZERO;
        let acts = if changing { CHANGING_ACTS } else { ACTS };
        let mut stage = Stage {
            source,
            other,
            schemas,
            clients,
            mixed,
            seeds: seeds_of,
            randoms,
            steps,
            acts,
            changing,
            count,
            gate,
            pause,
        };
        for seed in seeds {
            let mut random = Random::new(*seed);
            let mut schema = Schema::new(*seed, &mut random);
            stage.source.sql(&schema.ddl).await;
            if changing {
                stage.identify(&mut schema).await;
            }
            stage.schemas.push(schema);
            stage.randoms.push(random);
        }
        if !changing && version >= 18 {
            stage.source.sql(PLAIN).await;
        }
        stage
    }

    async fn structure(&self) -> String {
        structure(&self.source, &self.clients).await
    }

    /// What differs in the seeds' schemas, and in their rows, between source and target.
    pub(super) async fn differences(&self) -> String {
        let (source, target) = (self.source().await, self.target().await);
        let dumped = async |server: &Postgres| {
            let text = structure(server, &self.clients).await;
            if self.mixed { unversioned(&text) } else { text }
        };
        let (one, two) = tokio::join!(dumped(&self.source), dumped(&self.other));
        // What a build that was given up leaves behind is nobody's index.
        let invalid = "SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid WHERE NOT indisvalid \
                       AND relkind = 'i'";
        let invalid = source.query(invalid, &[]).await.expect("pg_index");
        let invalid: Vec<String> = invalid.iter().map(|row| row.get(0)).collect();
        let mut told = structure_differs(&one, &two, &invalid);
        let tables = "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
                      WHERE nspname LIKE 'seed\\_%' AND relkind = 'r' ORDER BY 1";
        for row in source.query(tables, &[]).await.expect("pg_class") {
            let table: String = row.get(0);
            let there = target.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await;
            // One that is not there is told of already.
            if there.expect("to_regclass").get(0) {
                let names = ("the source", "the target");
                told += &difference_of((&table, &table), names, (&source, &target)).await;
            }
        }
        told
    }

    /// Everything is published where the schema changes; so every table needs an identity.
    async fn identify(&self, schema: &mut Schema) {
        for table in schema.tables.iter_mut().filter(|table| !table.changes()) {
            self.source.sql(&format!("ALTER TABLE {} REPLICA IDENTITY FULL", table.name)).await;
            table.identity = Identity::Keyless;
        }
    }

    /// A session on the source.
    pub(super) async fn source(&self) -> Client {
        self.source.client().await
    }

    /// A session on the database that Kasho fills.
    pub(super) async fn target(&self) -> Client {
        self.other.client().await
    }

    /// A session on the database that the subscription fills.
    pub(super) async fn third(&self) -> Client {
        connect(&self.other.socket_url().replace("@/postgres?", &format!("@/{THIRD}?"))).await
    }

    /// All seeds play, at once, each act when the gate is open for it; then each leaves its mark.
    /// Between acts nobody has a transaction open.
    pub(super) fn play(&mut self) -> impl Future<Output = ()> + use<> {
        let (steps, count, url) = (self.steps, Arc::clone(&self.count), self.source.socket_url());
        let randoms = std::mem::take(&mut self.randoms);
        let (gate, pause) = (self.gate.subscribe(), self.pause);
        let (acts, changing) = (self.acts, self.changing);
        let parts: Vec<_> =
            self.seeds.iter().copied().zip(self.schemas.clone()).zip(randoms).collect();
        async move {
            let mut playing = tokio::task::JoinSet::new();
            for ((seed, schema), random) in parts {
                let (count, url) = (Arc::clone(&count), url.clone());
                playing.spawn(one(
                    (seed, schema, random),
                    (steps, pause, acts, changing),
                    count,
                    url,
                    gate.clone(),
                ));
            }
            while let Some(played) = playing.join_next().await {
                played.expect("a seed plays");
            }
        }
    }

    /// How many seeds a database has seen the end of.
    pub(super) async fn done(&self, client: &Client) -> usize {
        let mut done = 0;
        for schema in &self.schemas {
            let query = format!("SELECT 1 FROM {}.done", schema.name);
            done += client.query(&query, &[]).await.map_or(0, |rows| rows.len());
        }
        done
    }

    /// Waits until the subscription has everything.
    pub(super) async fn settle(&self) {
        let third = self.third().await;
        eventually("the subscription (its server's log says why it does not come)", async || {
            let copying = "SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r'";
            let copying = third.query(copying, &[]).await.expect("pg_subscription_rel");
            (copying.is_empty() && self.done(&third).await == self.schemas.len()).then_some(())
        })
        .await;
    }

    /// The command that runs a seed again.
    pub(super) fn again(&self, schema: &Schema) -> String {
        let seed = schema.name.trim_start_matches("seed_");
        let all = self.seeds.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        format!(
            "{} differs. Again: make soak SEEDS={seed}-{seed} STEPS={steps} (or, as it was, with those \
             beside it: make soak SEEDS={all} STEPS={steps})",
            schema.name,
            steps = self.steps,
        )
    }
}

/// A seed plays.
async fn one(
    (seed, schema, mut random): (u64, Schema, Random),
    (steps, pause, acts, changing): (u64, Duration, Acts, bool),
    count: Arc<Count>,
    url: String,
    mut gate: watch::Receiver<usize>,
) {
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        clients.push(connect(&url).await);
    }
    if changing {
        for (client, settings) in clients.iter().zip(SETTINGS) {
            client.batch_execute(settings).await.expect("SET");
        }
    }
    let mut sessions = Sessions::open(clients, &schema, count, pause).await;
    let mut scene = Changing::new(&schema, SESSIONS);
    for (at, share) in acts.iter().enumerate() {
        gate.wait_for(|open| *open > at).await.expect("the stage stands");
        let steps = steps * share / 100;
        scene.loading = at < acts.len() - 1;
        match changing {
            true => scene.play(&mut random, steps, &mut sessions).await,
            false => play(&schema, &mut random, SESSIONS, steps, &mut sessions).await,
        }
    }
    let mark = format!("INSERT INTO {}.done VALUES ({seed})", schema.name);
    connect(&url).await.batch_execute(&mark).await.expect("the mark");
}

/// `pg_dump --schema-only`, without what only psql understands, and a setting that servers
/// before 17 do not know.
async fn structure(server: &Postgres, clients: &Path) -> String {
    let mut dump = Command::new(clients.join("pg_dump"));
    dump.args(["-s", "-O", "-n", "seed_*", "--no-publications", &server.socket_url()]);
    let dump = tokio::task::spawn_blocking(move || dump.output()).await;
    let dump = dump.expect("pg_dump").expect("pg_dump");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let text = String::from_utf8(dump.stdout).expect("UTF-8");
    let left_out = |line: &str| line.starts_with('\\') || line.contains("transaction_timeout = 0");
    text.lines().filter(|line| !left_out(line)).map(|line| format!("{line}\n")).collect()
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

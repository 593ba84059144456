//! The initial load against a real server: the holder's life, what is read from its
//! snapshot, and how a load goes on where it was cut.

use std::collections::BTreeMap;

use kasho::batch::Batch;
use kasho::bootstrap::{LoadMode, Snapshot};
use kasho::control::LoadFigures;
use kasho::load::{self, Loader};
use kasho::pipeline::Chains;
use kasho::position::{Epoch, Lsn};
use kasho::sink::config::{Config, Encoding};
use kasho::sink::entry::{Content, Entry, Field};
use kasho::sink::id::{Id, Lane};
use kasho::sink::load::LoadWriter;
use kasho::sink::memory::{Fault, MemoryServer, Step};
use kasho::sink::publisher::{Description, NewEpoch, WriterToken, begin_epoch};
use kasho::sink::status::Status;
use kasho::sink::store::{Connect, Feed};
use kasho::source::conninfo::Conninfo;
use kasho::source::snapshot::{
    Holder, HolderSpec, Progress, Reader, ReaderConfig, Report, Slice, SnapshotError, hold,
    hold_temporary, holder_lives, release,
};
use kasho::source::wal::{KnownRelations, Options, SlotName, WalSource};
use kasho::source::{Received, Source};
use serde_json::Value;
use tokio::io::{
    AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::engine::binary;
use crate::harness::{Postgres, eventually};

/// A row as texts.
type Row = Vec<Option<String>>;

/// A holder inside this process, spoken to as the engine does.
struct Held {
    to: WriteHalf<DuplexStream>,
    from: Lines<BufReader<ReadHalf<DuplexStream>>>,
    task: JoinHandle<Result<(), SnapshotError>>,
}

impl Held {
    async fn start(spec: &HolderSpec) -> Held {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (input, output) = tokio::io::split(theirs);
        let task = tokio::spawn(hold(BufReader::new(input), output));
        let (from, mut to) = tokio::io::split(ours);
        let mut line = serde_json::to_string(spec).unwrap();
        line.push('\n');
        to.write_all(line.as_bytes()).await.unwrap();
        Held { to, from: BufReader::new(from).lines(), task }
    }

    async fn event(&mut self) -> Value {
        let line = self.from.next_line().await.unwrap().expect("the holder says something");
        serde_json::from_str(&line).unwrap()
    }

    async fn ready(&mut self) -> Report {
        let event = self.event().await;
        assert_eq!(event["event"], "ready", "{event}");
        serde_json::from_value(event).unwrap()
    }

    async fn adopt(&mut self) {
        self.to.write_all(b"adopt\n").await.unwrap();
    }

    /// Ends its input, as the death of the engine does, and waits for its end.
    async fn abandon(mut self) -> Result<(), SnapshotError> {
        self.to.shutdown().await.unwrap();
        drop((self.to, self.from));
        self.task.await.unwrap()
    }
}

fn spec(url: &str) -> HolderSpec {
    HolderSpec {
        url: url.to_owned(),
        slot: "kasho_slot".into(),
        publications: vec!["kasho_pub".into()],
        epoch: 1,
        mode: LoadMode::Direct,
        given: None,
        later: false,
        range_blocks: 2,
        slot_timeout_s: 60,
        connect_timeout_ms: 10_000,
    }
}

async fn slots(pg: &Postgres) -> String {
    pg.value("SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots").await
}

fn open(url: &str, report: &Report, progress: &Progress) -> Reader {
    let info = Conninfo::parse(url).unwrap();
    let config = ReaderConfig { workers: 3 };
    let both = (&report.load, &report.catalog);
    Reader::open(&info, config, both, &KnownRelations::default(), progress).unwrap()
}

/// Adds the rows of a slice under the name that they are published as.
fn collect(slice: &Slice, into: &mut BTreeMap<String, Vec<Row>>) {
    for row in &slice.batch.rows {
        let cells = slice.batch.cells(row.new.expect("a row has a new image"));
        let text = |cell| slice.batch.text(cell).map(|b| String::from_utf8(b.to_vec()).unwrap());
        let values = cells.iter().map(|cell| text(*cell)).collect();
        let relation = slice.batch.relation_of(row).qualified();
        into.entry(relation).or_default().push(values);
    }
}

async fn load(url: &str, report: &Report) -> Result<BTreeMap<String, Vec<Row>>, SnapshotError> {
    let mut reader = open(url, report, &Progress::new());
    let mut rows = BTreeMap::new();
    while let Some(slice) = reader.next().await? {
        collect(&slice, &mut rows);
    }
    rows.values_mut().for_each(|rows: &mut Vec<Row>| rows.sort());
    Ok(rows)
}

async fn sorted(pg: &Postgres, query: &str) -> Vec<Row> {
    let mut rows = pg.rows(query).await;
    rows.sort();
    rows
}

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, name text, note text); \
    INSERT INTO t SELECT i, 'row ' || i, CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN '' \
        ELSE E'a\\tb\\\\c\\nd\\\\N' || repeat('x', i % 50) END FROM generate_series(1, 3000) i; \
    CREATE PUBLICATION kasho_pub FOR TABLE t";

#[tokio::test(flavor = "multi_thread")]
async fn reads_exactly_what_the_snapshot_holds() {
    let pg = Postgres::start().await;
    pg.sql(TABLE).await;
    let expected = sorted(&pg, "SELECT * FROM t").await;
    let mut held = Held::start(&spec(&pg.url())).await;
    let report = held.ready().await;
    assert!(report.load.tables[0].ranges > 10, "{:?}", report.load.tables);
    pg.sql(
        "INSERT INTO t VALUES (9999, 'new', ''); DELETE FROM t WHERE id < 100; \
            UPDATE t SET name = 'changed'",
    )
    .await;
    pg.sql("VACUUM t").await;
    let found = load(&pg.url(), &report).await.unwrap();
    assert_eq!(found["public.t"], expected);
    held.abandon().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_goes_on_exactly_where_it_was_cut() {
    let pg = Postgres::start().await;
    pg.sql(TABLE).await;
    // One range only of its own, so that it is cut in its middle too.
    pg.sql(
        "CREATE TABLE big AS SELECT i AS id, repeat('y', 40) FROM generate_series(1, 9000) i; \
            ALTER TABLE big ADD PRIMARY KEY (id); ALTER PUBLICATION kasho_pub ADD TABLE big",
    )
    .await;
    let mut task = spec(&pg.url());
    task.range_blocks = 40;
    let mut held = Held::start(&task).await;
    let report = held.ready().await;
    held.adopt().await;
    let (mut progress, mut rows, mut readers) = (Progress::new(), BTreeMap::new(), 0);
    'load: loop {
        readers += 1;
        let mut reader = open(&pg.url(), &report, &progress);
        for _ in 0..3 {
            let Some(slice) = reader.next().await.unwrap() else { break 'load };
            collect(&slice, &mut rows);
            progress.insert(slice.key, slice.progress);
        }
    }
    assert!(readers > 3);
    for (table, query) in [("public.t", "SELECT * FROM t"), ("public.big", "SELECT * FROM big")] {
        let found = rows.get_mut(table).unwrap();
        found.sort();
        assert_eq!(*found, sorted(&pg, query).await);
    }
    let name = report.load.holder.clone().unwrap();
    release(&pg.client().await, &name).await.unwrap();
    held.task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn honours_column_lists_row_filters_and_generated_columns() {
    let pg = Postgres::start().await;
    // 14 has neither lists nor filters: it carries the whole table.
    let (columns, rows) = match pg.version().await {
        15.. => ("id, \"Mixed Case\", region", "WHERE (region = 'eu')"),
        _ => ("*", ""),
    };
    let list = if columns == "*" { String::new() } else { format!("({columns})") };
    pg.sql(&format!(
        "CREATE TABLE listed (id int PRIMARY KEY, secret text, \"Mixed Case\" text, region text); \
         INSERT INTO listed SELECT i, 'secret', 'm' || i, (ARRAY['eu', 'us'])[i % 2 + 1] \
             FROM generate_series(1, 20) i; \
         CREATE TABLE made (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED, z text); \
         INSERT INTO made (id, z) VALUES (1, 'a'); \
         CREATE PUBLICATION kasho_pub FOR TABLE made, listed {list} {rows}"
    ))
    .await;
    let mut held = Held::start(&spec(&pg.url())).await;
    let report = held.ready().await;
    let found = load(&pg.url(), &report).await.unwrap();
    let listed = format!("SELECT {columns} FROM listed {rows}");
    assert_eq!(found["public.listed"], sorted(&pg, &listed).await);
    assert_eq!(found["public.made"], sorted(&pg, "SELECT id, z FROM made").await);
    let relation = report.catalog.relations.iter().find(|r| r.table == "listed").unwrap();
    assert!(relation.columns[0].key && relation.columns[0].not_null && relation.columns[0].unique);
    assert_eq!(relation.columns[usize::from(columns == "*") + 1].name, "Mixed Case");
    held.abandon().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_go_by_the_name_that_the_stream_gives_them() {
    for (via_root, names) in [("true", vec!["public.p"]), ("false", vec!["public.p1", "public.p2"])]
    {
        let pg = Postgres::start().await;
        // The second partition has its columns in another order.
        pg.sql(&format!(
            "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); \
             CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); \
             CREATE TABLE p2 (v text, gone int, id int NOT NULL); \
             ALTER TABLE p2 DROP COLUMN gone; \
             ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20); \
             INSERT INTO p SELECT i, 'v' || i FROM generate_series(0, 19) i; \
             CREATE PUBLICATION kasho_pub FOR TABLE p WITH (publish_via_partition_root = {via_root})"
        ))
        .await;
        let mut held = Held::start(&spec(&pg.url())).await;
        let report = held.ready().await;
        assert_eq!(report.load.tables.len(), 2);
        let found = load(&pg.url(), &report).await.unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
        if via_root == "true" {
            assert_eq!(found["public.p"], sorted(&pg, "SELECT * FROM p").await);
        } else {
            assert_eq!(found["public.p2"], sorted(&pg, "SELECT * FROM p2").await);
        }
        held.abandon().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_security_is_an_error_and_never_a_filter() {
    let pg = Postgres::start().await;
    pg.sql(
        "CREATE ROLE reader LOGIN REPLICATION PASSWORD 'p'; \
         CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2); \
         ALTER TABLE t ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY first_only ON t USING (id = 1); GRANT SELECT ON t TO reader; \
         CREATE PUBLICATION kasho_pub FOR TABLE t",
    )
    .await;
    let url = pg.url_as("reader", "p");
    let mut held = Held::start(&spec(&url)).await;
    let report = held.ready().await;
    let error = load(&url, &report).await.unwrap_err();
    assert!(error.to_string().contains("42501"), "{error}");
    pg.sql("ALTER ROLE reader BYPASSRLS").await;
    assert_eq!(load(&url, &report).await.unwrap()["public.t"].len(), 2);
    held.abandon().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_changed_before_the_lock_gets_a_later_load_point() {
    let pg = Postgres::start().await;
    pg.sql(TABLE).await;
    pg.sql(
        "CREATE TABLE altered (id int PRIMARY KEY, n int); \
            INSERT INTO altered SELECT i, i FROM generate_series(1, 1000) i; \
            CREATE TABLE added (id int PRIMARY KEY); INSERT INTO added VALUES (1); \
            ALTER PUBLICATION kasho_pub ADD TABLE altered, added",
    )
    .await;
    let (told, given) = tokio::sync::oneshot::channel();
    let info = Conninfo::parse(&pg.url()).unwrap();
    let temporary = tokio::spawn(async move {
        let slot = SlotName::new("kasho_temp_slot").unwrap();
        hold_temporary(&info, &slot, |lsn, name| told.send((lsn, name.to_owned())).unwrap()).await
    });
    let (lsn, name) = given.await.unwrap();
    pg.sql("ALTER TABLE altered ALTER COLUMN n TYPE bigint").await;
    pg.sql("ALTER TABLE added ADD COLUMN extra text DEFAULT 'x'").await;
    pg.sql("INSERT INTO t VALUES (9999, 'later', '')").await;
    let mut task = spec(&pg.url());
    task.given = Some(Snapshot { name, lsn, by: None });
    let mut held = Held::start(&task).await;
    let report = held.ready().await;
    assert_eq!(report.load.start_lsn, lsn);
    let later: Lsn = report.load.snapshots[1].lsn;
    assert!(later > lsn);
    let points = report.load.load_points();
    let expected = [("public.added".to_owned(), later), ("public.altered".to_owned(), later)];
    assert_eq!(points, expected.into());
    // The permanent slot stands where the temporary one does; the second temporary one, of
    // the later snapshot, goes with its session, which the server ends in its own time.
    eventually("the second temporary slot to go", async || {
        (slots(&pg).await == "kasho_slot,kasho_temp_slot").then_some(())
    })
    .await;
    temporary.abort();
    let found = load(&pg.url(), &report).await.unwrap();
    assert_eq!(found["public.altered"], sorted(&pg, "SELECT * FROM altered").await);
    assert_eq!(found["public.added"], sorted(&pg, "SELECT * FROM added").await);
    assert_eq!(found["public.t"], sorted(&pg, "SELECT * FROM t WHERE id < 9999").await);
    held.abandon().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_one_root_have_one_load_point() {
    let pg = Postgres::start().await;
    pg.sql(TABLE).await;
    pg.sql(
        "CREATE TABLE root (id int PRIMARY KEY, n int) PARTITION BY RANGE (id); \
         CREATE TABLE low PARTITION OF root FOR VALUES FROM (0) TO (100); \
         CREATE TABLE high PARTITION OF root FOR VALUES FROM (100) TO (200); \
         INSERT INTO root SELECT i, 0 FROM generate_series(0, 199) i; \
         ALTER PUBLICATION kasho_pub ADD TABLE root; \
         ALTER PUBLICATION kasho_pub SET (publish_via_partition_root = true)",
    )
    .await;
    let (told, given) = tokio::sync::oneshot::channel();
    let info = Conninfo::parse(&pg.url()).unwrap();
    let temporary = tokio::spawn(async move {
        let slot = SlotName::new("kasho_temp_slot").unwrap();
        hold_temporary(&info, &slot, |lsn, name| told.send((lsn, name.to_owned())).unwrap()).await
    });
    let (lsn, name) = given.await.unwrap();
    // One leaf is rewritten; its sibling gets a change that the first snapshot lacks.
    pg.sql("VACUUM FULL low").await;
    pg.sql("UPDATE root SET n = 1 WHERE id = 150").await;
    let mut task = spec(&pg.url());
    task.given = Some(Snapshot { name, lsn, by: None });
    let mut held = Held::start(&task).await;
    let report = held.ready().await;
    let later = report.load.snapshots[1].lsn;
    assert_eq!(report.load.load_points(), [("public.root".to_owned(), later)].into());
    for table in report.load.tables.iter().filter(|table| table.published_as == "public.root") {
        assert_eq!(table.snapshot, 1, "{} loads before the load point told", table.table);
    }
    temporary.abort();
    let found = load(&pg.url(), &report).await.unwrap();
    assert_eq!(found["public.root"], sorted(&pg, "SELECT * FROM root").await);
    held.abandon().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_lsn_needs_its_temporary_slot() {
    let pg = Postgres::start().await;
    pg.sql(TABLE).await;
    let mut task = spec(&pg.url());
    task.given = Some(Snapshot { name: "00000003-00000002-1".into(), lsn: Lsn(0x1234), by: None });
    let mut held = Held::start(&task).await;
    let event = held.event().await;
    let text = event["text"].as_str().unwrap();
    assert!(text.contains("0 temporary pgoutput slots of this database stand at 0/1234"), "{text}");
    assert_eq!(slots(&pg).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_waits_until_the_holder_is_let_go() {
    let pg = Postgres::start().await;
    pg.sql(TABLE).await;
    let mut held = Held::start(&spec(&pg.url())).await;
    let report = held.ready().await;
    held.adopt().await;
    let client = pg.client().await;
    let refused = client
        .batch_execute("SET lock_timeout = 100; ALTER TABLE t ALTER COLUMN id TYPE bigint")
        .await
        .unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55P03");
    let name = report.load.holder.clone().unwrap();
    // The engine may die now: an adopted holder stays.
    drop((held.to, held.from));
    assert!(holder_lives(&client, &name).await.unwrap());
    assert_eq!(load(&pg.url(), &report).await.unwrap()["public.t"].len(), 3000);
    assert_eq!(release(&client, &name).await.unwrap(), 1);
    held.task.await.unwrap().unwrap();
    client
        .batch_execute("RESET lock_timeout; ALTER TABLE t ALTER COLUMN id TYPE bigint")
        .await
        .unwrap();
    let error = load(&pg.url(), &report).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Gone), "{error}");
    assert_eq!(slots(&pg).await, "kasho_slot");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_ends_with_its_slot() {
    let pg = Postgres::start().await;
    pg.sql(TABLE).await;
    let mut held = Held::start(&spec(&pg.url())).await;
    held.ready().await;
    held.adopt().await;
    pg.sql("SELECT pg_drop_replication_slot('kasho_slot')").await;
    held.task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_before_it_stored_the_phase_leaves_nothing() {
    let pg = Postgres::start().await;
    pg.sql(TABLE).await;
    let mut held = Held::start(&spec(&pg.url())).await;
    held.ready().await;
    assert_eq!(slots(&pg).await, "kasho_slot");
    held.abandon().await.unwrap();
    assert_eq!(slots(&pg).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn slot_creation_says_whom_it_waits_for() {
    let pg = Postgres::start().await;
    pg.sql(TABLE).await;
    let writer = pg.client().await;
    writer
        .batch_execute(
            "SET application_name = 'slow writer'; BEGIN; UPDATE t SET note = '' WHERE id = 1",
        )
        .await
        .unwrap();
    let pid = writer.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0);
    let waiting = async |held: &mut Held| {
        let event = held.event().await;
        assert_eq!(event["event"], "waiting", "{event}");
        assert_eq!(event["blocking"]["pid"], pid);
        assert_eq!(event["blocking"]["application"], "slow writer");
    };
    // Given up by the client.
    let mut held = Held::start(&spec(&pg.url())).await;
    waiting(&mut held).await;
    held.abandon().await.unwrap();
    assert_eq!(slots(&pg).await, "", "half-made, or left over");
    // Given up for the time it takes.
    let mut task = spec(&pg.url());
    task.slot_timeout_s = 10;
    let mut held = Held::start(&task).await;
    waiting(&mut held).await;
    let mut event = held.event().await;
    while event["event"] == "waiting" {
        event = held.event().await;
    }
    let text = event["text"].as_str().unwrap();
    assert!(text.contains("longer than 10 s") && text.contains("slow writer"), "{text}");
    assert_eq!(slots(&pg).await, "", "half-made, or left over");
    // And when the writer ends it goes on.
    let mut held = Held::start(&spec(&pg.url())).await;
    waiting(&mut held).await;
    writer.batch_execute("COMMIT").await.unwrap();
    let mut event = held.event().await;
    while event["event"] == "waiting" {
        event = held.event().await;
    }
    assert_eq!(event["event"], "ready", "{event}");
    held.abandon().await.unwrap();
    assert_eq!(slots(&pg).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_clear() {
    let pg = Postgres::start().await;
    pg.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut held = Held::start(&spec(&pg.url())).await;
    let event = held.event().await;
    let text = event["text"].as_str().unwrap();
    assert!(text.contains("publication \"kasho_pub\" does not exist"), "{text}");
    assert_eq!(slots(&pg).await, "", "nothing half done");
    pg.sql("CREATE PUBLICATION kasho_pub FOR TABLE t").await;
    pg.sql("SELECT pg_create_logical_replication_slot('kasho_slot', 'pgoutput')").await;
    let mut held = Held::start(&spec(&pg.url())).await;
    let event = held.event().await;
    let text = event["text"].as_str().unwrap();
    assert!(text.contains("\"kasho_slot\" already exists"), "{text}");
    assert!(text.contains("kasho reset") && text.contains("pg_drop_replication_slot"), "{text}");
    assert_eq!(slots(&pg).await, "kasho_slot", "a foreign slot is left alone");
}

/// A chain that drops every tenth row, as a filter does.
struct Filter;

impl Chains for Filter {
    type Error = std::convert::Infallible;

    fn adopted(&self) -> u64 {
        1
    }

    fn adopt(&mut self) -> u64 {
        1
    }

    async fn apply(&mut self, mut batch: Batch) -> Result<Batch, Self::Error> {
        let images: Vec<_> = batch.rows.iter().map(|row| row.new.unwrap()).collect();
        for (i, image) in images.into_iter().enumerate() {
            let id = batch.text(batch.cells(image)[0]).unwrap();
            batch.rows[i].dropped = id.ends_with(b"0");
        }
        Ok(batch)
    }
}

/// A store in its first epoch.
async fn begin(start_lsn: Lsn) -> MemoryServer {
    let server = MemoryServer::new("kasho");
    let mut store = server.connect().await.unwrap();
    let new = NewEpoch {
        encoding: Encoding::Msgpack,
        load_rows: 500,
        slot: "kasho_slot",
        system_id: "1",
        timeline: 1,
        start_lsn,
        description: Description {
            options: String::new(),
            chain: String::new(),
            key_fingerprint: String::new(),
        },
        generation: 1,
        state: None,
        catalog: None,
    };
    assert_eq!(begin_epoch(&mut store, &new).await.unwrap(), Epoch(1));
    server
}

/// The first column of every row of the bootstrap stream, by table.
async fn loaded_ids(server: &MemoryServer) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut store = server.connect().await.unwrap();
    let page = store.page(Epoch(1), Lane::Bootstrap, Id::ZERO, 100_000).await.unwrap();
    for raw in page.entries {
        let entries = match raw.has_rows() {
            true => Entry::rows(&raw, Id::ZERO).unwrap(),
            false => vec![Entry::decode(&raw, Lane::Bootstrap).unwrap()],
        };
        for entry in entries {
            let Content::Row { new: Some(new), .. } = entry.content else { panic!("not a row") };
            let Field::Text(id) = &new[0] else { panic!("no id") };
            found.entry(entry.table).or_default().push(id.to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_killed_again_and_again_publishes_every_row_once() {
    let pg = Postgres::start().await;
    pg.sql(TABLE).await;
    pg.sql(
        "CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u SELECT generate_series(1, 5000); \
            ALTER PUBLICATION kasho_pub ADD TABLE u",
    )
    .await;
    let mut held = Held::start(&spec(&pg.url())).await;
    let report = held.ready().await;
    let server = begin(report.load.start_lsn).await;
    let info = Conninfo::parse(&pg.url()).unwrap();
    let known = KnownRelations::default();
    let mut runs: u64 = 0;
    let done = loop {
        runs += 1;
        // The k-th run loses its connection after k steps, before or after their effect.
        let mut left = runs;
        server.plan(move |step| match step {
            Step::Load(_) if left == 0 && runs.is_multiple_of(2) => Fault::LoseReply,
            Step::Load(_) if left == 0 => Fault::Cut,
            Step::Load(_) => {
                left -= 1;
                Fault::None
            }
            _ => Fault::None,
        });
        let store = server.connect().await.unwrap();
        let config = Config::default();
        let token = WriterToken(runs);
        let opened = LoadWriter::open(store, &config, Epoch(1), "me", token, Status::default());
        let (mut writer, resumed) = opened.await.unwrap();
        let from = load::progress(&resumed.progress).unwrap();
        let reader = ReaderConfig { workers: 3 };
        let both = (&report.load, &report.catalog);
        let loader = Loader {
            reader: Reader::open(&info, reader, both, &known, &from).unwrap(),
            chains: &mut Filter,
            writer: &mut writer,
            max_rate: 0,
            figures: tokio::sync::watch::channel(LoadFigures::default()).0,
        };
        let mut done = Vec::new();
        let stop = CancellationToken::new();
        if loader.run(&report.load, &from, |table| done.push(table), stop).await.is_ok() {
            break done;
        }
    };
    assert!(runs > 5, "{runs}");
    let rows: u64 = done.iter().map(|table| table.rows).sum();
    assert_eq!((done.len(), rows), (2, 8000));
    server.no_plan();
    let mut found = loaded_ids(&server).await;
    for (table, ids) in &mut found {
        ids.sort();
        let query = format!("SELECT id FROM {table} WHERE id % 10 <> 0");
        let expected: Vec<_> = sorted(&pg, &query).await.into_iter().flatten().flatten().collect();
        assert_eq!(*ids, expected, "{table}");
    }
    held.abandon().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_load_describes_a_table_as_the_stream_does() {
    let pg = Postgres::start().await;
    // 14 has no column lists.
    let list = if pg.version().await >= 15 { "(y, z)" } else { "" };
    pg.sql(&format!(
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN plain AS text NOT NULL; \
         CREATE DOMAIN many AS int[]; \
         CREATE TABLE a (id int PRIMARY KEY, m mood, ms mood[], d plain, n numeric(8, 2), \
             v varchar(7) UNIQUE, many many, j jsonb NOT NULL, p text, \
             g int GENERATED ALWAYS AS (id + 1) STORED); \
         ALTER TABLE a ALTER p SET STORAGE PLAIN; CREATE UNIQUE INDEX ON a (j) WHERE id > 5; \
         CREATE TABLE b (x int, y text NOT NULL, z text); \
         CREATE UNIQUE INDEX b_y ON b (y) INCLUDE (z); \
         ALTER TABLE b REPLICA IDENTITY USING INDEX b_y; \
         CREATE TABLE c (x int, y text); ALTER TABLE c REPLICA IDENTITY FULL; \
         CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY LIST (id); \
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); \
         CREATE PUBLICATION kasho_pub FOR TABLE a, b {list}, c, p \
             WITH (publish_via_partition_root)"
    ))
    .await;
    let mut held = Held::start(&spec(&pg.url())).await;
    let report = held.ready().await;
    pg.sql(
        "INSERT INTO a VALUES (1, 'sad', '{glad}', 'x', 1, 'v', '{1}', '{}', 'p'); \
         INSERT INTO b VALUES (1, 'y', 'z'); INSERT INTO c VALUES (1, 'y'); \
         INSERT INTO p VALUES (1, 'v')",
    )
    .await;
    let info = Conninfo::parse(&pg.url()).unwrap();
    let known = KnownRelations::default();
    let mut source = WalSource::open(&Options::default(), &info, Lsn::ZERO, &known).await.unwrap();
    let mut seen = BTreeMap::new();
    while seen.len() < 4 {
        if let Received::Batch(batch) = source.next().await.unwrap() {
            seen.extend(batch.relations.iter().map(|r| (r.qualified(), r.as_ref().clone())));
        }
    }
    let loaded: BTreeMap<_, _> =
        report.catalog.relations.iter().map(|r| (r.qualified(), r.as_ref().clone())).collect();
    assert_eq!(loaded, seen);
    drop(source);
    held.task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_is_a_process_that_outlives_who_started_it() {
    let pg = Postgres::start().await;
    pg.sql(TABLE).await;
    let task = spec(&pg.url());
    let program = tokio::task::spawn_blocking(binary).await.unwrap();
    let mut holder = Holder::spawn(program, &task).await.unwrap();
    let report = holder.ready(|_| ()).await.unwrap();
    holder.adopt().await.unwrap();
    let client = pg.client().await;
    let name = report.load.holder.clone().unwrap();
    assert_eq!(load(&pg.url(), &report).await.unwrap()["public.t"].len(), 3000);
    assert!(holder_lives(&client, &name).await.unwrap());
    assert_eq!(release(&client, &name).await.unwrap(), 1);
    let gone = async || (!holder_lives(&client, &name).await.unwrap()).then_some(());
    eventually("the holder's end", gone).await;
    pg.sql("SELECT pg_drop_replication_slot('kasho_slot')").await;

    // One that is not adopted undoes what it did, however its engine ends.
    let mut holder = Holder::spawn(program, &task).await.unwrap();
    holder.ready(|_| ()).await.unwrap();
    assert_eq!(slots(&pg).await, "kasho_slot");
    drop(holder);
    eventually("its slot's end", async || slots(&pg).await.is_empty().then_some(())).await;
    let busy = pg.client().await;
    busy.batch_execute("SELECT pg_create_logical_replication_slot('kasho_slot', 'pgoutput')")
        .await
        .unwrap();
    let mut holder = Holder::spawn(program, &task).await.unwrap();
    let refused = holder.ready(|_| ()).await.unwrap_err();
    assert!(refused.to_string().contains("already exists"), "{refused}");
}

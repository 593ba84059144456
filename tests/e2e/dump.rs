//! Dumps that pg_dump really writes, in every form and by several versions of it: the
//! rows that come out are those that COPY shows under the pinned settings.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kasho::source::catalog::Catalog;
use kasho::source::conninfo::PINNED_SETTINGS;
use kasho::source::copy::{Field, fields};
use kasho::source::dump::{Dump, DumpError, Input, Mark, Options, Piece, Policy};
use tempfile::TempDir;

use crate::harness::{MAJORS, Postgres, clients};
use crate::types;

/// A row as texts.
type Row = Vec<Option<String>>;
/// Rows by `schema.table`, sorted.
type Rows = BTreeMap<String, Vec<Row>>;

/// Beside a table for every type: what pg_dump treats in a way of its own.
const SCHEMA: &str = r#"
    CREATE SCHEMA "My.Schema";
    CREATE TABLE "My.Schema"."A ""b"".c" ("x.y" int PRIMARY KEY, "Select" text);
    INSERT INTO "My.Schema"."A ""b"".c" VALUES (1, E'\\.'), (2, E'a\nb\\'), (3, '--'), (4, '');
    CREATE TABLE first_null (v text, id int PRIMARY KEY);
    INSERT INTO first_null VALUES (NULL, 1), ('\N', 2), ('--', 3), ('\.', 4), ('\.x', 5), ('', 6);
    CREATE TABLE nothing ();
    INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
    CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int,
                       twice int GENERATED ALWAYS AS (a * 2) STORED, b text);
    INSERT INTO made (a, b) SELECT n, 'row ' || n FROM generate_series(1, 10) n;
    CREATE TABLE root (id int, part text, v text) PARTITION BY LIST (part);
    CREATE TABLE "leaf A" PARTITION OF root FOR VALUES IN ('a');
    CREATE TABLE leaf_b (v text, part text, id int);
    ALTER TABLE root ATTACH PARTITION leaf_b FOR VALUES IN ('b');
    INSERT INTO root SELECT n, CASE n % 2 WHEN 0 THEN 'a' ELSE 'b' END, 'v' || n FROM generate_series(1, 20) n;
    CREATE TYPE deep AS (at timestamptz, raw bytea, many timestamptz[], span tstzrange);
    CREATE DOMAIN moment AS timestamptz;
    CREATE DOMAIN flag AS boolean;
    CREATE TYPE momentrange AS RANGE (subtype = moment, multirange_type_name = moments);
    CREATE TABLE deeply (id int PRIMARY KEY, d deep, ds deep[], m moment, ms moment[], f flag,
                         r momentrange, rs moments, raws bytea[]);
    INSERT INTO deeply VALUES
        (1, ROW('2024-07-01 12:00+02', '\x00415c22', ARRAY['1890-01-01 00:00+00', NULL]::timestamptz[],
                '[2024-01-01 00:00+00,)')::deep,
         ARRAY[ROW('infinity', '\x', '{}', 'empty')::deep, NULL], '0044-03-15 12:00+00 BC',
         ARRAY['12345-01-01 00:00:00.5+00']::moment[], true, '(,2024-02-29 23:59:59.999999+00]',
         '{[2024-01-01 00:00+00,2024-02-01 00:00+00)}', ARRAY['\x5c', '\x', '\x2c7b', NULL]::bytea[]),
        (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    CREATE FUNCTION tricky() RETURNS text LANGUAGE plpgsql AS
        $f$ BEGIN RETURN $$ COPY x FROM stdin; $$ || E'\\.'; END $f$;
    CREATE FUNCTION atomic(n int) RETURNS int LANGUAGE sql
        BEGIN ATOMIC SELECT CASE WHEN n > 0 THEN 1 ELSE 2 END; SELECT n; END;
    CREATE VIEW seen AS SELECT ';' AS a;
    CREATE MATERIALIZED VIEW kept AS SELECT 1 AS a;
    COMMENT ON TABLE made IS 'it''s; a $$ comment';
    CREATE PUBLICATION kasho_pub FOR ALL TABLES WITH (publish_via_partition_root = true);
"#;

/// A database, what is published of it, and what its rows are.
struct World {
    pg: Postgres,
    catalog: Catalog,
    expected: Rows,
    folder: TempDir,
    /// The oldest clients that this server lets in.
    program: PathBuf,
}

/// Those that may dump a server: they are not older than it.
async fn programs(pg: &Postgres) -> Vec<(u32, PathBuf)> {
    let server = pg.version().await;
    let mut found = Vec::new();
    for major in MAJORS.into_iter().filter(|major| *major >= server) {
        found.push((major, clients(major).await));
    }
    found
}

impl World {
    async fn start() -> World {
        let pg = Postgres::start().await;
        types::fill(&pg).await;
        World::with(pg, SCHEMA).await
    }

    async fn with(pg: Postgres, schema: &str) -> World {
        pg.sql(schema).await;
        let client = pg.client().await;
        let catalog = Catalog::read(&client, &["kasho_pub".to_owned()]).await.expect("catalogue");
        let expected = expected(&pg, &catalog).await;
        let program = programs(&pg).await.into_iter().next().expect("a client").1;
        let folder = tempfile::tempdir().expect("folder");
        World { pg, catalog, expected, folder, program }
    }

    /// Runs pg_dump and answers what it wrote: to standard output, or where `-f` says.
    async fn dump(&self, program: &Path, name: &str, arguments: &[&str], options: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let mut command = Command::new(program.join("pg_dump"));
        command.args(arguments).arg("-f").arg(&path).arg("-d").arg(self.pg.socket_url());
        command.env("PGOPTIONS", options);
        run(command).await;
        path
    }

    /// Reads a dump and compares.
    async fn check(&self, input: &Path, options: &Options) {
        let found = load(input, &self.catalog, options, usize::MAX).await;
        self.same(&found.unwrap_or_else(|e| panic!("{}: {e}", input.display())), input);
    }

    fn same(&self, found: &Rows, input: &Path) {
        for (table, rows) in &self.expected {
            let empty = Vec::new();
            let found = found.get(table).unwrap_or(&empty);
            assert_eq!(found, rows, "{} of {}", table, input.display());
        }
        assert!(found.keys().all(|table| self.expected.contains_key(table)));
    }
}

async fn run(mut command: Command) -> Vec<u8> {
    let output = tokio::task::spawn_blocking(move || (command.output(), command));
    let (output, command) = output.await.expect("command");
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    output.stdout
}

/// What COPY shows of every published table, under the settings of the stream.
async fn expected(pg: &Postgres, catalog: &Catalog) -> Rows {
    let settings: String =
        PINNED_SETTINGS.iter().map(|(name, value)| format!("SET {name} = '{value}'; ")).collect();
    let mut rows = Rows::new();
    for table in &catalog.tables {
        let relation = catalog.relation(table.relation).expect("relation");
        let names: Vec<String> = relation
            .columns
            .iter()
            .map(|column| format!("\"{}\"", column.name.replace('"', "\"\"")))
            .collect();
        let query = format!(
            "SELECT {} FROM \"{}\".\"{}\"",
            names.join(", "),
            table.schema.replace('"', "\"\""),
            table.table.replace('"', "\"\"")
        );
        let script = format!("{settings} COPY ({query}) TO STDOUT");
        let mut command = pg.tool("psql");
        command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", &script, &pg.socket_url()]);
        let text = run(command).await;
        let lines = text.split_inclusive(|b| *b == b'\n');
        let mut found: Vec<Row> =
            lines.map(|line| row(&line[..line.len() - 1], names.len())).collect();
        found.sort();
        rows.insert(table.qualified(), found);
    }
    rows
}

/// A line of COPY.
fn row(line: &[u8], columns: usize) -> Row {
    if columns == 0 {
        return Row::new();
    }
    let (mut side, mut found) = (Vec::new(), Vec::new());
    fields(line, &mut side, &mut found).expect("a row");
    let text = |bytes: &[u8]| Some(String::from_utf8(bytes.to_vec()).expect("UTF-8"));
    let value = |field| match field {
        Field::Null => None,
        Field::Plain(range) => text(&line[range]),
        Field::Unescaped(range) => text(&side[range]),
    };
    found.into_iter().map(value).collect()
}

/// Reads a dump, beginning anew at the last mark whenever so many pieces were read.
async fn load(
    input: &Path,
    catalog: &Catalog,
    options: &Options,
    pieces: usize,
) -> Result<Rows, DumpError> {
    let (input, catalog, options) =
        (Input::File(input.to_owned()), catalog.clone(), options.clone());
    let read = move || {
        let mut rows = Rows::new();
        let mut mark: Option<Mark> = None;
        loop {
            let from = mark.as_ref().map(|mark| mark.to_string().parse().expect("a mark"));
            let mut dump = Dump::open(input.clone(), &catalog, options.clone(), from.as_ref())?;
            let mut ended = true;
            let mut count = 0;
            while let Some(piece) = dump.next()? {
                mark = Some(piece.mark().clone());
                if let Piece::Rows { table, batch, .. } = &piece {
                    let name = catalog.tables.iter().find(|known| known.oid == *table);
                    let name =
                        name.map_or_else(|| format!("root {table}"), |known| known.qualified());
                    let found = batch.rows.iter().map(|row| {
                        let cells = batch.cells(row.new.expect("an image"));
                        let text = |cell| {
                            batch.text(cell).map(|t| String::from_utf8_lossy(t).into_owned())
                        };
                        cells.iter().map(|cell| text(*cell)).collect()
                    });
                    rows.entry(name).or_default().extend(found);
                }
                count += 1;
                if count == pieces {
                    ended = false;
                    break;
                }
            }
            if ended {
                rows.values_mut().for_each(|rows| rows.sort());
                return Ok(rows);
            }
        }
    };
    tokio::task::spawn_blocking(read).await.expect("reader")
}

fn with(program: &Path) -> Options {
    Options {
        pg_restore: Some(program.join("pg_restore")),
        jobs: 3,
        batch_rows: 2,
        ..Options::default()
    }
}

/// Settings of a session that prints everything in another way.
const HOSTILE: &str = "-c timezone=America/St_Johns -c datestyle=SQL,DMY -c intervalstyle=iso_8601 \
                       -c bytea_output=escape -c extra_float_digits=0 -c search_path=public";

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_a_dump_has_the_rows_of_the_database() {
    let world = World::start().await;
    for (major, program) in programs(&world.pg).await {
        let options = with(&program);
        for (name, arguments) in [
            ("plain", &[][..]),
            ("data-only", &["--data-only"]),
            ("inserts", &["--inserts"]),
            ("column-inserts", &["--column-inserts"]),
            ("rows-per-insert", &["--rows-per-insert=3", "--on-conflict-do-nothing"]),
            ("gzip", &["-Z", "6"]),
            ("custom", &["-Fc"]),
            ("tar", &["-Ft"]),
            ("folder", &["-Fd", "-j", "2"]),
        ] {
            let name = format!("{name}-{major}");
            let path = world.dump(&program, &name, arguments, "").await;
            world.check(&path, &options).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dumps_of_sessions_with_other_settings_have_the_streams_text() {
    let world = World::start().await;
    let new = clients(18).await;
    for (program, name, arguments) in [
        (&world.program, "plain", &[][..]),
        (&world.program, "inserts", &["--inserts"]),
        (&world.program, "custom", &["-Fc"]),
        (&new, "plain-18", &[]),
        (&new, "rows-18", &["--rows-per-insert=7"]),
    ] {
        let path = world.dump(program, name, arguments, HOSTILE).await;
        let text = String::from_utf8_lossy(&fs::read(&path).expect("dump")).into_owned();
        // They are other texts, or the test shows nothing.
        assert!(arguments == ["-Fc"] || text.contains("-02:30"));
        world.check(&path, &with(program)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_files_are_recognised_by_their_first_bytes() {
    let world = World::start().await;
    let program = world.program.clone();
    let plain = world.dump(&program, "plain", &[], "").await;
    let archive = world.dump(&program, "custom", &["-Fc"], "").await;
    for packer in ["gzip", "zstd", "lz4"] {
        for path in [&plain, &archive] {
            let mut command = Command::new(packer);
            command.arg("-c").arg(path);
            let packed = run(command).await;
            // A name that says nothing.
            let target = path.with_extension("dump");
            fs::write(&target, &packed).expect("write");
            world.check(&target, &with(&program)).await;
            if path == &plain {
                let found = load(&target, &world.catalog, &with(&program), 60).await;
                world.same(&found.expect("going on"), &target);
                fs::write(&target, &packed[..packed.len() - 9]).expect("write");
                let error = load(&target, &world.catalog, &with(&program), usize::MAX).await;
                let error = error.expect_err("cut");
                assert!(matches!(error, DumpError::Packing { .. }), "{error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_read_like_a_file() {
    let world = World::start().await;
    for (name, arguments) in [("plain", &[][..]), ("custom", &["-Fc"])] {
        let path = world.dump(&world.program, name, arguments, "").await;
        let pipe = path.with_extension("pipe");
        let mut mkfifo = Command::new("mkfifo");
        mkfifo.arg(&pipe);
        run(mkfifo).await;
        let mut writer = Command::new("sh");
        writer.args(["-c", "cat \"$0\" > \"$1\""]).arg(&path).arg(&pipe);
        let writer = tokio::spawn(run(writer));
        world.check(&pipe, &with(&world.program)).await;
        writer.await.expect("the writer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_goes_on_from_its_last_mark_in_every_form() {
    let world = World::start().await;
    let program = world.program.clone();
    let options = with(&program);
    for (name, arguments) in [
        ("plain", &[][..]),
        ("rows", &["--rows-per-insert=3"]),
        ("custom", &["-Fc"]),
        ("folder", &["-Fd"]),
    ] {
        let path = world.dump(&program, name, arguments, "").await;
        let found = load(&path, &world.catalog, &options, 37).await;
        world.same(&found.unwrap_or_else(|e| panic!("{name}: {e}")), &path);
    }
    let (first, second) = (world.folder.path().join("plain"), world.folder.path().join("rows"));
    let mark = |path: &Path| {
        let input = Input::File(path.to_owned());
        let mut dump = Dump::open(input, &world.catalog, options.clone(), None).expect("open");
        dump.next().expect("next").expect("a piece").mark().clone()
    };
    let mark = mark(&first);
    let other = Dump::open(Input::File(second), &world.catalog, options.clone(), Some(&mark));
    assert!(matches!(other, Err(DumpError::OtherDump { .. })), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused_with_its_remedy() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a secret'), (2, 'b');
                  SELECT lo_from_bytea(0, 'x'); SELECT lo_from_bytea(0, 'y');
                  CREATE PUBLICATION kasho_pub FOR TABLE t (id);
                  CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (7);";
    let pg = Postgres::start().await;
    // 14 has neither column lists nor row filters.
    let lists = pg.version().await >= 15;
    let schema = if lists { schema.to_owned() } else { schema.replace(" t (id);", " t;") };
    let world = World::with(pg, &schema).await;
    let (own, old, new) = (world.program.clone(), clients(15).await, clients(18).await);
    let pass = Options { large_objects: Policy::Pass, ..with(&own) };
    let refused = async |path: &Path, options: &Options| {
        let found = load(path, &world.catalog, options, usize::MAX).await;
        let error = found.expect_err("refused").to_string();
        assert!(!error.contains("secret"), "{error}");
        error
    };
    for (name, arguments) in [("plain", &[][..]), ("folder", &["-Fd"])] {
        let path = world.dump(&own, name, arguments, "").await;
        assert!(refused(&path, &with(&own)).await.contains("--no-large-objects"));
        world.check(&path, &pass).await;
    }
    let path = world.dump(&new, "new", &["-Fc"], "").await;
    let error = refused(&path, &with(&old)).await;
    assert!(error.contains("format 1.16") && error.contains("PostgreSQL 17 or later"), "{error}");
    let path = world.dump(&own, "latin", &["-E", "LATIN1"], "").await;
    assert!(refused(&path, &pass).await.contains("--encoding=UTF8"));
    let strings = "-c standard_conforming_strings=off";
    let path = world.dump(&own, "strings", &["--inserts"], strings).await;
    assert!(refused(&path, &pass).await.contains("standard_conforming_strings"));
    let path = world.dump(&own, "archive", &["-Fc"], "").await;
    let whole = fs::read(&path).expect("archive");
    fs::write(&path, &whole[..whole.len() - 20]).expect("write");
    assert!(refused(&path, &pass).await.contains("pg_restore failed"));
    let missing = Options { pg_restore: Some("/nowhere/pg_restore".into()), ..pass.clone() };
    assert!(refused(&path, &missing).await.contains("install PostgreSQL's client programs"));
    if !lists {
        return;
    }
    world.pg.sql("ALTER PUBLICATION kasho_pub SET TABLE t WHERE (id > 1)").await;
    let client = world.pg.client().await;
    let catalog = Catalog::read(&client, &["kasho_pub".to_owned()]).await.expect("catalogue");
    let path = world.folder.path().join("plain");
    let error = load(&path, &catalog, &pass, usize::MAX).await.expect_err("refused").to_string();
    assert!(error.contains("load with --direct"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_dumped_through_their_root_are_the_roots_rows() {
    let world = World::with(Postgres::start().await, SCHEMA).await;
    let program = world.program.clone();
    let path = world.dump(&program, "root", &["--load-via-partition-root"], "").await;
    let found = load(&path, &world.catalog, &with(&program), usize::MAX).await.expect("rows");
    let relation = world.catalog.relations.iter().find(|r| r.table == "root").expect("root");
    let mut expected =
        [r#"public."leaf A""#, "public.leaf_b"].map(|leaf| world.expected[leaf].clone()).concat();
    expected.sort();
    assert_eq!(found[&format!("root {}", relation.id)], expected);
}

//! Whole texts through the reader: the rows that come out, the places it can be left at
//! and gone on from, and what it says of texts that are none.

use std::collections::BTreeMap;
use std::io::Cursor;

use kasho_plugin_sdk::event::quote_identifier;
use kasho_plugin_sdk::{Column, Identity, Relation};
use proptest::prelude::*;

use super::super::text::{Packing, Source};
use super::*;
use crate::source::catalog::{Catalog, Shape, Table, TableColumn};

const NASTY: &str = include_str!("../../../../../tests/golden/dumps/nasty.sql");
const ROWS: &str = include_str!("../../../../../tests/golden/dumps/nasty.rows");

/// A row: its table, then its values.
type Row = Vec<Option<String>>;

fn column(name: &str, oid: u32) -> Column {
    Column {
        name: name.to_owned(),
        type_name: String::new(),
        oid,
        base: String::new(),
        typmod: -1,
        key: false,
        not_null: false,
        unique: false,
        toastable: true,
        elem: None,
        labels: None,
    }
}

/// A catalogue of tables with columns; those whose names begin with `-` are unpublished.
/// Schema, name, and columns with the OIDs of their types.
type Described<'a> = (&'a str, &'a str, &'a [(&'a str, u32)]);

fn catalog(tables: &[Described<'_>]) -> Catalog {
    let mut catalog = Catalog {
        version: 1,
        server_version: 150_000,
        publications: Vec::new(),
        stamp: String::new(),
        relations: Vec::new(),
        tables: Vec::new(),
        constraints: Vec::new(),
        shapes: BTreeMap::from([(1184, Shape::Timestamptz), (17, Shape::Bytea)]),
    };
    for (n, (schema, table, columns)) in tables.iter().enumerate() {
        let id = 16_384 + u32::try_from(n).unwrap();
        let published = columns.iter().filter(|(name, _)| !name.starts_with('-'));
        catalog.relations.push(Arc::new(Relation {
            id,
            version: 1,
            schema: (*schema).to_owned(),
            table: (*table).to_owned(),
            identity: Identity::Default,
            columns: published.clone().map(|(name, oid)| column(name, *oid)).collect(),
        }));
        catalog.tables.push(Table {
            oid: id,
            schema: (*schema).to_owned(),
            table: (*table).to_owned(),
            relation: id,
            filenode: 1,
            filter: None,
            columns: published
                .map(|(name, oid)| TableColumn { name: (*name).to_owned(), oid: *oid, typmod: -1 })
                .collect(),
            all_columns: columns
                .iter()
                .map(|(name, _)| name.trim_start_matches('-').to_owned())
                .collect(),
            rows_estimated: 0,
            bytes: 0,
            bytes_toasted: 0,
        });
    }
    catalog
}

fn usual() -> Catalog {
    catalog(&[
        ("public", "one", &[("v", 25)]),
        ("public", "t", &[("id", 23), ("v", 25)]),
        ("public", "nothing", &[]),
        ("My.Schema", "A \"b\".c", &[("x.y", 23), ("Select", 25)]),
        (
            "public",
            "kinds",
            &[("b", 16), ("bits", 1562), ("hex", 1562), ("n", 1700), ("f", 701), ("a", 17)],
        ),
    ])
}

fn open(
    text: &[u8],
    catalog: &Catalog,
    options: &Options,
    from: Option<&Spot>,
) -> Result<Stream, DumpError> {
    let line = memchr::memchr(b'\n', text).unwrap_or(0);
    let crlf = line > 0 && text[line - 1] == b'\r';
    let targets = Targets::new(catalog, options.all_tables);
    let shared = Shared { targets: Arc::new(targets), options: Arc::new(options.clone()) };
    let source = Source::Stream(Box::new(Cursor::new(text.to_vec())), Packing::Plain);
    Stream::open(Text::new(source, "a text".to_owned()), shared, crlf, from)
}

fn rows(batch: &Batch) -> Vec<Row> {
    let row = |row: &crate::batch::Row| {
        let relation = batch.relation_of(row);
        let name =
            format!("{}.{}", quote_identifier(&relation.schema), quote_identifier(&relation.table));
        let cells = batch.cells(row.new.expect("an image"));
        let value = |cell| batch.text(cell).map(|text| String::from_utf8(text.to_vec()).unwrap());
        std::iter::once(Some(name)).chain(cells.iter().map(|cell| value(*cell))).collect()
    };
    batch.rows.iter().map(row).collect()
}

/// Everything that came out, and what ended it.
#[derive(Debug, Default)]
struct Outcome {
    rows: Vec<Row>,
    /// After each piece: the spot, and how many rows there were.
    spots: Vec<(Spot, usize)>,
    ddl: Vec<String>,
    sequences: Vec<String>,
    report: Report,
    error: Option<DumpError>,
}

fn read_from(text: &[u8], catalog: &Catalog, options: &Options, from: Option<&Spot>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut stream = match open(text, catalog, options, from) {
        Ok(stream) => stream,
        Err(error) => return Outcome { error: Some(error), ..outcome },
    };
    loop {
        match stream.next() {
            Ok(None) => break,
            Err(error) => {
                outcome.error = Some(error);
                break;
            }
            Ok(Some(Said { what, spot })) => {
                match what {
                    What::Rows { batch, .. } => outcome.rows.extend(rows(&batch)),
                    What::Ddl { tag, .. } => outcome.ddl.push(tag),
                    What::Sequence { name, value, .. } => {
                        outcome.sequences.push(format!("{name} {value}"));
                    }
                }
                outcome.spots.push((spot, outcome.rows.len()));
            }
        }
    }
    outcome.report = stream.report().clone();
    outcome
}

fn read(text: &str) -> Outcome {
    read_from(text.as_bytes(), &usual(), &Options::default(), None)
}

fn expected() -> Vec<Row> {
    ROWS.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn small() -> Options {
    Options { batch_rows: 2, ..Options::default() }
}

#[test]
fn the_nasty_rows_come_out_whole_and_in_order() {
    let found = read(NASTY);
    assert!(found.error.is_none(), "{:?}", found.error);
    for (found, expected) in found.rows.iter().zip(expected()) {
        assert_eq!(*found, expected);
    }
    assert_eq!(found.rows.len(), expected().len());
    assert_eq!(found.ddl, ["CREATE FUNCTION", "CREATE FUNCTION", "CREATE TABLE", "ALTER TABLE"]);
    assert_eq!(found.sequences, ["t.id 10"]);
    assert_eq!(found.report.tables["public.one"].rows, 19);
    assert_eq!((found.report.schema_statements, found.report.sequences), (4, 1));
}

#[test]
fn a_file_of_windows_has_the_same_rows() {
    let found = read(&NASTY.replace('\n', "\r\n"));
    assert!(found.error.is_none(), "{:?}", found.error);
    assert_eq!(found.rows, expected());
    let cases = [
        ("COPY public.one (v) FROM stdin;\r\na\r\nb\n\\.\r\n", "do not"),
        ("COPY public.one (v) FROM stdin;\na\nb\r\n\\.\n", "CR LF"),
    ];
    for (mixed, _) in cases {
        let found = read(mixed);
        let Some(DumpError::Text { place, .. }) = found.error else { panic!("{:?}", found.error) };
        assert_eq!((place.line, found.rows.len()), (3, 1));
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error_and_goes_on_when_it_is_whole_again() {
    let (catalog, expected) = (usual(), expected());
    let last = "-- PostgreSQL database dump complete";
    let (head, end) = (NASTY.find("dump\n").unwrap() + 4, NASTY.rfind(last).unwrap() + last.len());
    for cut in 1..end {
        if !NASTY.is_char_boundary(cut) {
            continue;
        }
        let part = &NASTY.as_bytes()[..cut];
        let first = read_from(part, &catalog, &small(), None);
        assert_eq!(first.rows, expected[..first.rows.len()], "cut at {cut}");
        assert!(first.error.is_some() || cut < head, "cut at {cut}");
        if let Some(error) = &first.error {
            let place = error.place().expect("a place");
            assert!(place.offset <= cut as u64, "{error}");
            assert_eq!(
                place.line,
                1 + super::super::lexer::newlines(&part[..usize::try_from(place.offset).unwrap()]),
                "cut at {cut}: {error}"
            );
        }
        let Some((spot, before)) = first.spots.last() else { continue };
        let rest = read_from(NASTY.as_bytes(), &catalog, &small(), Some(spot));
        assert!(rest.error.is_none(), "cut at {cut}, from {spot:?}: {:?}", rest.error);
        assert_eq!(rest.rows, expected[*before..], "cut at {cut}, from {spot:?}");
    }
}

#[test]
fn a_reader_goes_on_from_every_mark() {
    let catalog = usual();
    for (batch_rows, batch_bytes) in [(1, 1000), (3, 1000), (1000, 20), (1000, 1 << 20)] {
        let options = Options { batch_rows, batch_bytes, ..Options::default() };
        let whole = read_from(NASTY.as_bytes(), &catalog, &options, None);
        for (spot, before) in &whole.spots {
            let rest = read_from(NASTY.as_bytes(), &catalog, &options, Some(spot));
            assert!(rest.error.is_none(), "{spot:?}: {:?}", rest.error);
            assert_eq!(rest.rows, whole.rows[*before..], "{spot:?}");
            let same = |(a, b): (&(Spot, usize), &(Spot, usize))| a.0.offset == b.0.offset;
            let tail = &whole.spots[whole.spots.len() - rest.spots.len()..];
            assert!(tail.iter().zip(&rest.spots).all(same), "from {spot:?}");
        }
    }
}

#[test]
fn another_text_before_the_mark_is_noticed() {
    let whole = read_from(NASTY.as_bytes(), &usual(), &small(), None);
    for (spot, _) in &whole.spots {
        let at = usize::try_from(spot.offset).unwrap() - 1;
        let mut changed = NASTY.as_bytes().to_vec();
        changed[at] ^= 1;
        let found = read_from(&changed, &usual(), &small(), Some(spot));
        assert!(matches!(found.error, Some(DumpError::Changed { .. })), "{:?}", found.error);
    }
}

#[test]
fn no_more_rows_than_wanted_are_taken_of_a_table() {
    let options = Options { max_rows: Some(3), batch_rows: 2, ..Options::default() };
    let found = read_from(NASTY.as_bytes(), &usual(), &options, None);
    assert!(found.error.is_none(), "{:?}", found.error);
    let of = |table: &str| found.rows.iter().filter(|r| r[0].as_deref() == Some(table)).count();
    assert_eq!((of("public.one"), of("public.t"), of("public.nothing")), (3, 3, 3));
    assert_eq!(found.report.beyond_limit["public.one"].rows, 16);
    assert_eq!(found.report.beyond_limit["public.t"].rows, 8);
    for (spot, before) in &found.spots {
        let rest = read_from(NASTY.as_bytes(), &usual(), &options, Some(spot));
        let one =
            |rows: &[Row]| rows.iter().filter(|r| r[0].as_deref() == Some("public.one")).count();
        let in_one = spot.rows.0 == 16_384;
        assert!(!in_one || one(&found.rows[..*before]) + one(&rest.rows) == 3, "{spot:?}");
    }
}

#[test]
fn tables_and_columns_that_are_not_published_stay_out() {
    let text = "COPY public.t (id, secret, v) FROM stdin;\n1\thidden\ta\n\\.\n\
                INSERT INTO public.t VALUES (2, 'hidden', 'b');\n\
                COPY public.other (a) FROM stdin;\nx\ny\n\\.\n\
                INSERT INTO public.other (a) VALUES ('z');\n";
    let tables = catalog(&[("public", "t", &[("id", 23), ("-secret", 25), ("v", 25)])]);
    let found = read_from(text.as_bytes(), &tables, &Options::default(), None);
    assert!(found.error.is_none(), "{:?}", found.error);
    let row = |table: &str, values: &[&str]| -> Row {
        std::iter::once(table).chain(values.iter().copied()).map(|v| Some(v.to_owned())).collect()
    };
    assert_eq!(found.rows, [row("public.t", &["1", "a"]), row("public.t", &["2", "b"])]);
    assert_eq!(found.report.skipped["public.other"].rows, 3);
    let all = Options { all_tables: true, ..Options::default() };
    let found = read_from(text.as_bytes(), &tables, &all, None);
    assert_eq!(found.rows[2..], ["x", "y", "z"].map(|v| row("public.other", &[v])));
}

#[test]
fn partitions_go_by_what_they_are_published_as() {
    let mut tables = catalog(&[
        ("public", "root", &[("id", 23), ("v", 25)]),
        ("public", "leaf", &[("v", 25), ("id", 23)]),
    ]);
    tables.tables.remove(0);
    tables.relations.remove(1);
    tables.tables[0].relation = tables.relations[0].id;
    let text = "COPY public.leaf (v, id) FROM stdin;\na\t1\n\\.\n\
                COPY public.root (v, id) FROM stdin;\nb\t2\n\\.\n\
                INSERT INTO public.leaf VALUES ('c', 3);\n";
    let found = read_from(text.as_bytes(), &tables, &Options::default(), None);
    let names: Vec<_> = found.rows.iter().map(|row| row[0].as_deref().unwrap()).collect();
    let ids: Vec<_> = found.rows.iter().map(|row| row[1].as_deref().unwrap()).collect();
    assert_eq!((names, ids), (vec!["public.root"; 3], vec!["1", "2", "3"]));
    tables.tables[0].filter = Some("id > 1".to_owned());
    for text in ["COPY public.leaf (v, id) FROM stdin;\n", "COPY public.root (v, id) FROM stdin;\n"]
    {
        let found = read_from(text.as_bytes(), &tables, &Options::default(), None);
        let error = found.error.expect("refused");
        assert!(
            matches!(error, DumpError::Filter { .. }) && error.to_string().contains("--direct")
        );
    }
}

#[test]
fn a_dump_of_another_shape_is_an_error_that_says_what_to_do() {
    for (text, says) in [
        ("COPY public.t (id, v, new) FROM stdin;\n", "does not know the dump's column \"new\""),
        ("COPY public.t (id) FROM stdin;\n", "lacks the published column \"v\""),
        ("COPY public.t FROM stdin;\n1\ta\tb\n\\.\n", "does not name its columns"),
        ("COPY public.t (id, v) FROM stdin;\n1\n\\.\n", "the row has 1 fields, 2 columns"),
        ("COPY public.t (id, v) FROM stdin;\n1\ta\\\n\\.\n", "lone backslash"),
        ("INSERT INTO public.t VALUES (1, DEFAULT);", "(it is generated): load with --direct"),
        ("INSERT INTO public.t VALUES (1);", "1 values, the table 2 columns"),
        ("INSERT INTO public.t VALUES (1, now());", "value 2 is no literal"),
        ("INSERT INTO public.t VALUES (1, 'a') RETURNING 1;", "of no form that pg_dump writes"),
        ("COPY t (id, v) FROM stdin;\n", "without a schema, and sets no search_path"),
        ("\\connect a\n\\connect b\n", "more than one database"),
        ("SET client_encoding = 'LATIN1';", "--encoding=UTF8"),
        ("\\encoding LATIN1\n", "--encoding=UTF8"),
        ("DELETE FROM public.t WHERE v = 'secret';", "(DELETE FROM)"),
        ("SELECT pg_catalog.lo_open('1', 131072);", "--no-large-objects"),
        ("COPY public.t (id, v) FROM stdin WITH (FORMAT csv);\n1,a\n\\.\n", "COPY WITH options"),
    ] {
        let error = read(text).error.unwrap_or_else(|| panic!("{text} was read")).to_string();
        assert!(error.contains(says) && error.contains("line "), "{text}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn policy_lets_pass_what_it_is_told_to() {
    let text = "DELETE FROM public.t;\nDELETE FROM public.t;\n\
                SELECT pg_catalog.lo_create('1');\nBEGIN;\nSELECT pg_catalog.lo_open('1', 131072);\n\
                SELECT pg_catalog.lowrite(0, '\\x00');\nCOMMIT;\n\
                COPY public.t (id, v) FROM stdin WITH (FORMAT csv);\n1,a\n\\.\n\
                COPY public.one (v) FROM stdin;\na\n\\.\n";
    let (unknown, large_objects) = (Policy::Pass, Policy::Pass);
    let options = Options { unknown, large_objects, ..Options::default() };
    let found = read_from(text.as_bytes(), &usual(), &options, None);
    assert!(found.error.is_none(), "{:?}", found.error);
    let kinds: Vec<_> =
        found.report.unknown.iter().map(|u| (u.kind.as_str(), u.line, u.count)).collect();
    assert_eq!(kinds, [("DELETE FROM", 1, 2), ("COPY WITH options", 8, 1)]);
    assert_eq!((found.report.large_objects, found.rows.len()), (1, 1));
}

/// Typed in the form that 14 has: without `\restrict`, with BLOBS by that name.
#[test]
fn a_dump_of_version_14_is_read() {
    let text = include_str!("../../../../../tests/golden/dumps/version-14.sql");
    let options = Options { large_objects: Policy::Pass, ..Options::default() };
    let found = read_from(text.as_bytes(), &usual(), &options, None);
    assert!(found.error.is_none(), "{:?}", found.error);
    let values: Vec<_> = found.rows.iter().map(|row| row[2].as_deref()).collect();
    assert_eq!(values, [Some("one"), None, Some("")]);
    assert_eq!((found.sequences, found.report.large_objects), (vec!["t_id_seq 3".to_owned()], 1));
    assert_eq!((found.report.schema_statements, found.report.unknown), (7, Vec::new()));
}

#[test]
fn tables_without_a_schema_go_by_the_search_path() {
    let text = "SET search_path = nowhere, \"My.Schema\", public, pg_catalog;\n\
                COPY t (id, v) FROM stdin;\n1\ta\n\\.\n\
                COPY \"A \"\"b\"\".c\" (\"x.y\", \"Select\") FROM stdin;\n1\tb\n\\.\n";
    let found = read(text);
    assert_eq!((found.rows.len(), found.error.is_none()), (2, true), "{:?}", found.error);
    for (spot, before) in &found.spots {
        let rest = read_from(text.as_bytes(), &usual(), &Options::default(), Some(spot));
        assert_eq!(rest.rows, found.rows[*before..]);
    }
}

#[test]
fn bytes_that_no_database_holds_are_told_with_their_line() {
    for (bad, says) in [
        (&b"\xFF"[..], "UTF-8"),
        (b"\0", "zero byte"),
        (b"\\377", "UTF-8"),
        (b"\\000", "zero byte"),
        (b"\xE2\x82", "UTF-8"),
    ] {
        let text = [b"COPY public.one (v) FROM stdin;\nfine\n", bad, b"\n\\.\n"].concat();
        let error = read_from(&text, &usual(), &Options::default(), None).error.expect("refused");
        let DumpError::Text { place, what, .. } = error else { panic!("{error:?}") };
        let escaped = bad.starts_with(b"\\");
        assert_eq!(
            (place.line, what.contains(says)),
            (if escaped { 2 } else { 3 }, true),
            "{what}"
        );
    }
}

#[test]
fn a_line_of_a_hundred_mebibytes_is_a_row_and_a_longer_one_an_error() {
    let long = vec![b'x'; 100 << 20];
    let head: &[u8] = b"COPY public.t (id, v) FROM stdin;\n0\tbefore\n1\t";
    let text = [head, &long[..], b"\n2\tafter\n\\.\n"].concat();
    let mut stream = open(&text, &usual(), &Options::default(), None).unwrap();
    let mut sizes = Vec::new();
    while let Some(Said { what, .. }) = stream.next().unwrap() {
        let What::Rows { batch, .. } = what else { panic!("rows") };
        for row in &batch.rows {
            let cells = batch.cells(row.new.unwrap());
            sizes.push(cells.iter().map(|cell| batch.text(*cell).unwrap().len()).sum::<usize>());
        }
    }
    assert_eq!(sizes, [7, 1 + (100 << 20), 6]);
    let options = Options { max_line: 10 << 20, ..Options::default() };
    let found = read_from(&text, &usual(), &options, None);
    let Some(DumpError::TooLong { place, limit, .. }) = found.error else {
        panic!("{:?}", found.error)
    };
    assert_eq!((place.line, limit, found.rows.len()), (3, 10 << 20, 1));
}

#[test]
fn values_of_another_session_are_brought_to_the_streams_text() {
    let tables = catalog(&[("public", "v", &[("t", 1184), ("b", 17), ("x", 25)])]);
    let stamp = "2024-07-01 02:00:00.25+02";
    let text = format!(
        "COPY public.v (t, b, x) FROM stdin;\n{stamp}\ta\\\\000\t{stamp}\n\\N\t\\\\x61\t\n\\.\n\
         INSERT INTO public.v VALUES ('{stamp}', 'a\\000', '{stamp}');\n"
    );
    let found = read_from(text.as_bytes(), &tables, &Options::default(), None);
    let name = || Some("public.v".to_owned());
    let row = [Some("2024-07-01 00:00:00.25+00"), Some("\\x6100"), Some(stamp)];
    let row: Row = std::iter::once(name()).chain(row.map(|v| v.map(str::to_owned))).collect();
    let second = vec![name(), None, Some("\\x61".to_owned()), Some(String::new())];
    assert_eq!(found.rows, [row.clone(), second, row], "{:?}", found.error);
    let german = "COPY public.v (t, b, x) FROM stdin;\n01.07.2024 02:00:00 CEST\t\\N\t\\N\n\\.\n";
    let error = read_from(german.as_bytes(), &tables, &Options::default(), None).error;
    let Some(DumpError::Value { column, .. }) = &error else { panic!("{error:?}") };
    assert_eq!(column, "t");
    assert!(!error.unwrap().to_string().contains("CEST"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_from(&text, &usual(), &small(), None);
    }

    #[test]
    fn a_dump_changed_anywhere_is_read_or_refused(
        changes in proptest::collection::vec(
            (0..NASTY.len(), 0usize..6, proptest::collection::vec(any::<u8>(), 0..4)), 1..4),
        pass in any::<bool>(),
    ) {
        let mut text = NASTY.as_bytes().to_vec();
        for (at, len, with) in changes {
            let at = at.min(text.len());
            text.splice(at..(at + len).min(text.len()), with);
        }
        let policy = if pass { Policy::Pass } else { Policy::Halt };
        let options = Options { unknown: policy, all_tables: pass, ..small() };
        let whole = read_from(&text, &usual(), &options, None);
        if let Some((spot, before)) = whole.spots.get(whole.spots.len() / 2) {
            let rest = read_from(&text, &usual(), &options, Some(spot));
            prop_assert_eq!(&rest.rows[..], &whole.rows[*before..]);
        }
    }
}

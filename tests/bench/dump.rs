//! How fast a dump becomes batches, on one core: COPY data as pg_dump writes it, from a
//! file that the system has in memory, into nothing. Beside it `cat` of the same file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use kasho::source::catalog::{Catalog, Shape, Table as Stored, TableColumn};
use kasho::source::dump::{Dump, Input, Options, Piece};
use kasho_plugin_sdk::{Column, Identity, Relation};

use crate::amount;
use crate::table::{Spread, Table};

/// What the parser has to reach, in MB/s.
const TARGET: f64 = 300.0;
const ROUNDS: usize = 5;

pub(crate) fn run(table: &mut Table) {
    let folder = tempfile::tempdir().expect("folder");
    let bytes: usize = amount(4 << 20, 200 << 20, 1000 << 20);
    for (name, form, wide, target) in [
        ("COPY, 10 columns, 330-byte rows", Form::Copy, true, Some(TARGET)),
        ("COPY, 4 short columns, 24-byte rows", Form::Copy, false, None),
        ("INSERT, a row each, 10 columns", Form::Insert, true, None),
    ] {
        let path = folder.path().join("dump.sql");
        write(&path, bytes, form, wide);
        let size = fs::metadata(&path).expect("dump").len() as f64 / 1e6;
        let (mut ours, mut cats) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(size / seconds(|| parse(&path, wide)));
            cats.push(size / seconds(|| cat(&path)));
        }
        let what = format!("MB/s, dump to batches, {name}");
        let ratio = Spread::ratio(&ours, &cats).median;
        let absolute = format!("{ratio:.2} × cat of the file");
        let figure = Spread::of(ours);
        match target {
            Some(target) => table.at_least(&what, &figure, target, &absolute),
            None => table.figure(&what, &figure, &absolute),
        }
    }
}

#[derive(Clone, Copy)]
enum Form {
    Copy,
    Insert,
}

fn seconds(what: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    what();
    begun.elapsed().as_secs_f64()
}

fn cat(path: &Path) {
    let status = Command::new("cat").arg(path).stdout(Stdio::null()).status();
    assert!(status.expect("cat").success());
}

fn parse(path: &Path, wide: bool) {
    let input = Input::File(path.to_owned());
    let mut dump = Dump::open(input, &catalog(wide), Options::default(), None).expect("open");
    let mut rows = 0;
    while let Some(piece) = dump.next().expect("next") {
        if let Piece::Rows { batch, .. } = piece {
            rows += batch.rows.len();
        }
    }
    assert!(rows > 0);
}

const WIDE: [(&str, u32); 10] = [
    ("id", 20),
    ("t1", 25),
    ("t2", 25),
    ("t3", 25),
    ("t4", 25),
    ("n", 1700),
    ("ts", 1184),
    ("b", 16),
    ("j", 3802),
    ("u", 2950),
];
const NARROW: [(&str, u32); 4] = [("id", 23), ("a", 23), ("b", 23), ("c", 23)];

fn columns(wide: bool) -> &'static [(&'static str, u32)] {
    if wide { &WIDE } else { &NARROW }
}

/// A dump of one table, of so many bytes.
fn write(path: &Path, bytes: usize, form: Form, wide: bool) {
    let mut file = BufWriter::new(File::create(path).expect("dump"));
    let names: Vec<&str> = columns(wide).iter().map(|(name, _)| *name).collect();
    let mut written = 0;
    if let Form::Copy = form {
        writeln!(file, "COPY public.t ({}) FROM stdin;", names.join(", ")).expect("write");
    }
    for n in 0u64.. {
        let text = format!("{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).repeat(4);
        let t = &text[..40.min(text.len())];
        let values = match wide {
            true => vec![
                n.to_string(),
                t.to_owned(),
                format!("someone{n}@example.com and more of it"),
                t.to_owned(),
                "a sentence of some words, as people write them".to_owned(),
                format!("{n}.25"),
                "2026-03-04 05:06:07.123456+00".to_owned(),
                "t".to_owned(),
                format!("{{\"key\": {n}, \"list\": [1, 2, 3]}}"),
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".to_owned(),
            ],
            false => vec![n.to_string(), (n % 97).to_string(), (n * 7).to_string(), "0".to_owned()],
        };
        let line = match form {
            Form::Copy => format!("{}\n", values.join("\t")),
            Form::Insert => format!("INSERT INTO public.t VALUES ('{}');\n", values.join("', '")),
        };
        file.write_all(line.as_bytes()).expect("write");
        written += line.len();
        if written >= bytes {
            break;
        }
    }
    if let Form::Copy = form {
        file.write_all(b"\\.\n").expect("write");
    }
    file.flush().expect("write");
}

fn catalog(wide: bool) -> Catalog {
    let column = |(name, oid): &(&str, u32)| Column {
        name: (*name).to_owned(),
        type_name: String::new(),
        oid: *oid,
        base: String::new(),
        typmod: -1,
        key: false,
        not_null: false,
        unique: false,
        toastable: false,
        elem: None,
        labels: None,
    };
    let columns = columns(wide);
    let relation = Relation {
        id: 16_384,
        version: 1,
        schema: "public".to_owned(),
        table: "t".to_owned(),
        identity: Identity::Default,
        columns: columns.iter().map(column).collect(),
    };
    let stored =
        |(name, oid): &(&str, u32)| TableColumn { name: (*name).to_owned(), oid: *oid, typmod: -1 };
    let table = Stored {
        oid: 16_384,
        schema: "public".to_owned(),
        table: "t".to_owned(),
        relation: 16_384,
        filenode: 1,
        filter: None,
        columns: columns.iter().map(stored).collect(),
        all_columns: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
        rows_estimated: 0,
        bytes: 0,
        bytes_toasted: 0,
    };
    Catalog {
        version: 1,
        server_version: 150_000,
        publications: Vec::new(),
        stamp: String::new(),
        relations: vec![Arc::new(relation)],
        tables: vec![table],
        constraints: Vec::new(),
        shapes: BTreeMap::from([(1184, Shape::Timestamptz)]),
    }
}

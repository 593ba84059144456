//! What text columns cost on their way through a plugin, host work included: gathering the
//! values, the call, checking the answer, applying the patches. Beside it what the same
//! work costs without any plugin, on the same batches; and what it takes to load one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kasho::batch::{Batch, Cell, Piece, Row, Span};
use kasho::position::{Lsn, Position};
use kasho::transform::{self, Binding, Catalog, Chain, Config, Host, KeySource, Options, Unruled};
use kasho_plugin_sdk::{Column, Identity, Op, Relation};

use crate::amount;
use crate::guest::{ready, row_style};
use crate::harness::guest;
use crate::table::{Spread, Table};

/// What a row may take of a table that no plugin subscribed.
const IDLE_NS: f64 = 2.0;

const CONSTANT: &str = "someone@example.com";

/// A 200 kB plugin, loaded from the compiled cache.
const LOAD_MS: f64 = 10.0;

/// What stands in the columns, in turn.
const VALUES: [&str; 3] = ["someone@example.com.eu", "Ada King Lovelace", "+44 20 7946 0958"];

/// Rewrites a value.
type Kernel = fn(&str, &mut String);

/// Rows of a batch, and the nanoseconds that one of them may take.
type Sizes = &'static [(usize, Option<f64>)];

fn constant(_: &str, out: &mut String) {
    out.push_str(CONSTANT);
}

/// All but the last four characters become stars.
fn mask(value: &str, out: &mut String) {
    let hidden = value.chars().count().saturating_sub(4);
    out.extend((0..hidden).map(|_| '*'));
    out.extend(value.chars().skip(hidden));
}

/// One plugin at work.
struct Case<'a> {
    name: &'a str,
    wasm: &'a Path,
    /// A rule for each text column, in turn; none if it needs no rules.
    rules: &'a [&'a str],
    /// How many text columns there are, all of them ruled.
    columns: usize,
    /// The work itself, if it is to be told beside.
    kernel: Option<Kernel>,
    sizes: Sizes,
}

pub(crate) fn run(table: &mut Table) {
    let host = Host::new(None).expect("host");
    let column = guest("anonymize");
    let fixed = format!("{{ transform = \"constant\", value = \"{CONSTANT}\" }}");
    let by_rows = row_style();
    let folder = tempfile::tempdir().expect("folder");
    let by_nobody = ready(folder.path(), CONSTANT);
    let case = Case {
        name: "one text column by `constant`, column style",
        wasm: &column,
        rules: &[&fixed],
        columns: 1,
        kernel: Some(constant),
        sizes: &[(1, Some(80.0)), (64, Some(40.0)), (1024, Some(40.0))],
    };
    let cases = [
        // What the host itself takes: no plugin can cost less.
        Case {
            name: "one text column by a guest that has its answer ready",
            wasm: &by_nobody,
            rules: &[],
            sizes: &[(1, None)],
            ..case
        },
        Case {
            name: "the same, row style",
            wasm: &by_rows,
            rules: &[],
            sizes: &[(1, None), (64, Some(50.0)), (1024, Some(50.0))],
            ..case
        },
        // What it costs is mostly the work itself.
        Case {
            name: "one text column by `mask`, column style",
            rules: &["{ transform = \"mask\", keep_last = 4 }"],
            kernel: Some(mask),
            sizes: &[(1024, None)],
            ..case
        },
        Case {
            name: "ten text columns by `constant`, column style",
            columns: 10,
            sizes: &[(64, Some(250.0)), (1024, Some(250.0))],
            ..case
        },
        Case {
            name: "three keyed fakes by `anonymize`",
            rules: &["\"fake_email\"", "\"fake_name\"", "\"fake_phone\""],
            columns: 3,
            kernel: None,
            sizes: &[(64, Some(1000.0)), (1024, Some(1000.0))],
            ..case
        },
    ];
    for case in [&case].into_iter().chain(&cases) {
        measure(table, &host, case);
    }
    if std::env::var("CASE").is_ok() {
        return;
    }
    idle(table, &mut chain(&host, &case));
    from_cache(table, &Case { wasm: &by_rows, rules: &[], ..case });
}

fn measure(table: &mut Table, host: &Arc<Host>, case: &Case<'_>) {
    for (rows, target) in case.sizes {
        let what = format!("ns a row, {}, batches of {rows}", case.name);
        if std::env::var("CASE").is_ok_and(|words| !what.ends_with(&words)) {
            continue;
        }
        let mut chain = chain(host, case);
        let (through, native) = compare(*rows, &mut chain, case);
        let absolute = match native.is_empty() {
            true => String::new(),
            false => {
                let ratio = Spread::ratio(&through, &native);
                format!(
                    "the work itself {:.1} ns, ratio {:.1} ({:.1}–{:.1})",
                    Spread::of(native).median,
                    ratio.median,
                    ratio.min,
                    ratio.max
                )
            }
        };
        let through = Spread::of(through);
        match target {
            Some(target) => table.at_most(&what, &through, *target, &absolute),
            None => table.figure(&what, &through, &absolute),
        }
    }
}

/// From nothing but files to a chain that runs: runtime, check, cached code, init, tables.
fn from_cache(table: &mut Table, case: &Case<'_>) {
    let folder = tempfile::tempdir().expect("folder");
    let store = folder.path().join("store");
    let load = || {
        let begun = Instant::now();
        let host = Host::new(Some(&store)).expect("host");
        let chain = chain(&host, case);
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        drop(chain);
        took
    };
    let compiled = load();
    let rounds = (0..amount(3, 9, 25)).map(|_| load());
    let size = std::fs::metadata(case.wasm).expect("plugin").len() / 1000;
    let what = format!("ms to load a plugin of {size} kB from the compiled cache");
    let absolute = format!("compiled the first time: {compiled:.0} ms");
    table.at_most(&what, &Spread::of(rounds), LOAD_MS, &absolute);
}

/// Rows of a table that no plugin subscribed, alone and beside one that is.
fn idle(table: &mut Table, chain: &mut Chain) {
    for (subscribed, what) in [(0, "alone in a batch"), (1, "beside one row that is masked")] {
        let make = || batch(1024 - subscribed, subscribed, 1);
        chain.apply(&mut make()).expect("apply");
        let rounds = (0..7).map(|_| {
            timed(amount(10, 100, 500), 1024, make, |batch| chain.apply(batch).expect("apply"))
        });
        let what = format!("ns a row of a table that nobody subscribed, {what}");
        table.at_most(&what, &Spread::of(rounds), IDLE_NS, "without a chain: 0");
    }
}

/// Nanoseconds a row through the chain and by the kernel alone, in alternating rounds.
fn compare(rows: usize, chain: &mut Chain, case: &Case<'_>) -> (Vec<f64>, Vec<f64>) {
    // One figure alone is for a profiler, who wants to see more of it.
    let more = if std::env::var("CASE").is_ok() { 20 } else { 1 };
    let rounds = more * amount(1_000, 100_000, 400_000) / (rows * case.columns).max(50) + 20;
    let make = || batch(0, rows, case.columns);
    let (mut through, mut native) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        let apply = |batch: &mut Batch| chain.apply(batch).expect("apply");
        through.push(timed(rounds, rows, make, apply));
        if let Some(kernel) = case.kernel {
            native.push(timed(rounds, rows, make, |batch| by_hand(batch, kernel)));
        }
    }
    (through, native)
}

/// Nanoseconds a row of doing `work` to so many batches. They are made a few at a time, so
/// that they lie in the caches, as they do when a source has just decoded them.
fn timed(
    rounds: usize,
    rows: usize,
    make: impl Fn() -> Batch,
    mut work: impl FnMut(&mut Batch),
) -> f64 {
    let at_once = (2048 / rows).clamp(1, 64);
    let turns = rounds.div_ceil(at_once);
    let mut elapsed = Duration::ZERO;
    for _ in 0..turns {
        let mut batches: Vec<Batch> = (0..at_once).map(|_| make()).collect();
        let begun = Instant::now();
        batches.iter_mut().for_each(&mut work);
        elapsed += begun.elapsed();
    }
    elapsed.as_nanos() as f64 / (turns * at_once * rows) as f64
}

/// What the plugin does, done by hand.
fn by_hand(batch: &mut Batch, kernel: Kernel) {
    let columns = batch.relations.last().map_or(0, |table| table.columns.len());
    for column in 1..columns {
        let mut out = String::new();
        let mut ends = Vec::with_capacity(batch.rows.len());
        for row in &batch.rows {
            let cell = row.new.map_or(Cell::Absent, |image| batch.cells(image)[column]);
            let text = batch.text(cell).and_then(|text| std::str::from_utf8(text).ok());
            kernel(text.expect("text"), &mut out);
            ends.push(u32::try_from(out.len()).expect("small"));
        }
        let segment = batch.push_segment(Bytes::from(out));
        let mut start = 0;
        for (at, end) in ends.into_iter().enumerate() {
            let image = batch.rows[at].new.expect("an insert");
            batch.cells_mut(image)[column] = Cell::Text(Span { segment, start, len: end - start });
            start = end;
        }
    }
}

fn chain(host: &Arc<Host>, case: &Case<'_>) -> Chain {
    let file = case.wasm.file_name().expect("name").to_string_lossy();
    let mut binding = Binding::new("mask", &file, &["public.t"]);
    if !case.rules.is_empty() {
        let rules = (0..case.columns).zip(case.rules.iter().cycle());
        let rules = rules.map(|(n, rule)| format!("\"public.t.{}\" = {rule}\n", name(n)));
        let rules = format!("\"public.t.id\" = \"pass\"\n{}", rules.collect::<String>());
        binding.rules = toml::from_str(&rules).expect("rules");
    }
    let key = tempfile::NamedTempFile::new().expect("file");
    let bytes: [u8; 32] = std::array::from_fn(|n| u8::try_from(7 * n + 3).expect("small"));
    std::fs::write(key.path(), bytes).expect("key");
    let mut config = Config { transform: vec![binding], ..Config::default() };
    config.keys.insert("k1".to_owned(), KeySource::File(key.path().to_owned()));
    config.plugins.folder = case.wasm.parent().expect("folder").to_owned();
    (config.unruled_tables, config.allow_unmasked) = (Some(Unruled::Pass), true);
    let relations = vec![relation("t", case.columns)];
    let catalog = Catalog { relations, ..Catalog::default() };
    let generation = transform::load(host, &config, &catalog, Options::default());
    Chain::new(Arc::new(generation.unwrap_or_else(|errors| panic!("{errors:?}"))))
}

fn name(column: usize) -> String {
    match column {
        0 => "email".to_owned(),
        n => format!("c{n}"),
    }
}

/// An `id` and so many columns of text.
fn relation(table: &str, columns: usize) -> Arc<Relation> {
    let column = |name: &str, type_name: &str, oid, key| Column {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        oid,
        base: type_name.to_owned(),
        typmod: -1,
        key,
        not_null: key,
        unique: key,
        toastable: !key,
        elem: None,
        labels: None,
    };
    let texts = (0..columns).map(|n| column(&name(n), "text", 25, false));
    Arc::new(Relation {
        id: 16_384 + u32::from(table != "t"),
        version: 1,
        schema: "public".to_owned(),
        table: table.to_owned(),
        identity: Identity::Default,
        columns: std::iter::once(column("id", "int8", 20, true)).chain(texts).collect(),
    })
}

/// Inserts of texts, so many columns of them: so many into a table that no plugin
/// subscribed, then so many into one that is masked.
fn batch(others: usize, masked: usize, columns: usize) -> Batch {
    type Tables = [Arc<Relation>; 2];
    /// One description for all batches, as the stream has it.
    static TABLES: Mutex<BTreeMap<usize, Tables>> = Mutex::new(BTreeMap::new());
    let mut tables = TABLES.lock().expect("lock");
    let tables = tables
        .entry(columns)
        .or_insert_with(|| [relation("other", columns), relation("t", columns)]);
    let mut batch = Batch::default();
    let segment = batch.push_segment(Bytes::from_static(
        b"42someone@example.com.euAda King Lovelace+44 20 7946 0958",
    ));
    let text = |start: usize, len: usize| {
        let small = |n| u32::try_from(n).expect("small");
        Cell::Text(Span { segment, start: small(start), len: small(len) })
    };
    let mut starts = [2; VALUES.len()];
    for n in 1..VALUES.len() {
        starts[n] = starts[n - 1] + VALUES[n - 1].len();
    }
    let cells = |n: usize| text(starts[n % VALUES.len()], VALUES[n % VALUES.len()].len());
    for n in 0..others + masked {
        let relation = batch.relation_index(&tables[usize::from(n >= others)]);
        let cells = std::iter::once(text(0, 2)).chain((0..columns).map(cells));
        let image = batch.push_image(cells);
        let position = Position::Wal { commit_lsn: Lsn(1), ordinal: n as u64 + 1 };
        batch.rows.push(Row {
            position,
            op: Op::Insert,
            relation,
            new: Some(image),
            old: None,
            detail: None,
            dropped: false,
        });
    }
    batch.pieces.push(Piece {
        xid: 1,
        commit_lsn: Lsn(1),
        commit_us: 0,
        rows: 0..others + masked,
        first: true,
        end_lsn: Some(Lsn(2)),
    });
    batch
}

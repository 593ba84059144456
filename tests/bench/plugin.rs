//! What one text column costs on its way through a plugin, host work included: gathering
//! the values, the call, checking the answer, applying the patches. Beside it what the same
//! work costs without any plugin, on the same batches.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kasho::batch::{Batch, Cell, Piece, Row, Span};
use kasho::position::{Lsn, Position};
use kasho::transform::{self, Binding, Catalog, Chain, Config, Host, Options, Unruled};
use kasho_plugin_sdk::{Column, Identity, Op, Relation};

use crate::amount;
use crate::guest::row_style;
use crate::harness::guest;
use crate::table::{Spread, Table};

/// What a row may take of a table that no plugin subscribed.
const IDLE_NS: f64 = 2.0;

const CONSTANT: &str = "someone@example.com";

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

pub(crate) fn run(table: &mut Table) {
    let host = Host::new(None).expect("host");
    let column = guest("anonymize");
    let fixed = format!("{{ transform = \"constant\", value = \"{CONSTANT}\" }}");
    let stars = "{ transform = \"mask\", keep_last = 4 }";
    let by_rows = row_style();
    let columns: Sizes = &[(1, Some(80.0)), (64, Some(40.0)), (1024, Some(40.0))];
    let cases: [(&str, &Path, &str, Kernel, Sizes); 3] = [
        ("`constant`, column style", &column, &fixed, constant, columns),
        (
            "the same, row style",
            &by_rows,
            "",
            constant,
            &[(1, None), (64, Some(50.0)), (1024, Some(50.0))],
        ),
        // What it costs is mostly the work itself.
        ("`mask`, column style", &column, stars, mask, &[(1024, None)]),
    ];
    for (name, wasm, rule, kernel, sizes) in cases {
        for (rows, target) in sizes {
            let mut chain = chain(&host, wasm, rule);
            let (through, native) = compare(*rows, &mut chain, kernel);
            let ratio = Spread::ratio(&through, &native);
            let (through, native) = (Spread::of(through), Spread::of(native));
            let what = format!("ns a row, one text column by {name}, batches of {rows}");
            let absolute = format!(
                "the work itself {:.1} ns, ratio {:.1} ({:.1}–{:.1})",
                native.median, ratio.median, ratio.min, ratio.max
            );
            match target {
                Some(target) => table.at_most(&what, &through, *target, &absolute),
                None => table.figure(&what, &through, &absolute),
            }
        }
    }
    idle(table, &mut chain(&host, &column, &fixed));
}

/// Rows of a table that no plugin subscribed, alone and beside one that is.
fn idle(table: &mut Table, chain: &mut Chain) {
    for (subscribed, what) in [(0, "alone in a batch"), (1, "beside one row that is masked")] {
        let make = || batch(1024 - subscribed, subscribed);
        chain.apply(&mut make()).expect("apply");
        let rounds = (0..7).map(|_| {
            timed(amount(10, 100, 500), 1024, make, |batch| chain.apply(batch).expect("apply"))
        });
        let what = format!("ns a row of a table that nobody subscribed, {what}");
        table.at_most(&what, &Spread::of(rounds), IDLE_NS, "without a chain: 0");
    }
}

/// Nanoseconds a row through the chain and by the kernel alone, in alternating rounds.
fn compare(rows: usize, chain: &mut Chain, kernel: Kernel) -> (Vec<f64>, Vec<f64>) {
    let rounds = amount(1_000, 100_000, 400_000) / rows.max(50) + 20;
    let make = || batch(0, rows);
    let pairs = (0..9).map(|_| {
        let through = timed(rounds, rows, make, |batch| chain.apply(batch).expect("apply"));
        (through, timed(rounds, rows, make, |batch| native(batch, kernel)))
    });
    pairs.unzip()
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
fn native(batch: &mut Batch, kernel: Kernel) {
    let mut out = String::new();
    let mut ends = Vec::with_capacity(batch.rows.len());
    for row in &batch.rows {
        let cell = row.new.map_or(Cell::Absent, |image| batch.cells(image)[1]);
        let text = batch.text(cell).and_then(|text| std::str::from_utf8(text).ok());
        kernel(text.expect("text"), &mut out);
        ends.push(u32::try_from(out.len()).expect("small"));
    }
    let segment = batch.push_segment(Bytes::from(out));
    let mut start = 0;
    for (at, end) in ends.into_iter().enumerate() {
        let image = batch.rows[at].new.expect("an insert");
        batch.cells_mut(image)[1] = Cell::Text(Span { segment, start, len: end - start });
        start = end;
    }
}

fn chain(host: &Arc<Host>, wasm: &Path, rule: &str) -> Chain {
    let file = wasm.file_name().expect("name").to_string_lossy();
    let mut binding = Binding::new("mask", &file, &["public.t"]);
    if !rule.is_empty() {
        let rules = format!("\"public.t.id\" = \"pass\"\n\"public.t.email\" = {rule}");
        binding.rules = toml::from_str(&rules).expect("rules");
    }
    let mut config = Config { transform: vec![binding], ..Config::default() };
    config.plugins.folder = wasm.parent().expect("folder").to_owned();
    (config.unruled_tables, config.allow_unmasked) = (Some(Unruled::Pass), true);
    let catalog = Catalog { relations: vec![relation("t")], ..Catalog::default() };
    let generation = transform::load(host, &config, &catalog, Options::default());
    Chain::new(Arc::new(generation.unwrap_or_else(|errors| panic!("{errors:?}"))))
}

fn relation(table: &str) -> Arc<Relation> {
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
    Arc::new(Relation {
        id: 16_384 + u32::from(table != "t"),
        version: 1,
        schema: "public".to_owned(),
        table: table.to_owned(),
        identity: Identity::Default,
        columns: vec![column("id", "int8", 20, true), column("email", "text", 25, false)],
    })
}

/// Inserts of a 22-byte e-mail each: so many into a table that no plugin subscribed, then
/// so many into one that is masked.
fn batch(others: usize, masked: usize) -> Batch {
    /// One description for all batches, as the stream has it.
    static TABLES: std::sync::OnceLock<[Arc<Relation>; 2]> = std::sync::OnceLock::new();
    let tables = TABLES.get_or_init(|| [relation("other"), relation("t")]);
    let mut batch = Batch::default();
    let segment = batch.push_segment(Bytes::from_static(b"42someone@example.com.eu"));
    let text = |start, len| Cell::Text(Span { segment, start, len });
    for n in 0..others + masked {
        let relation = batch.relation_index(&tables[usize::from(n >= others)]);
        let image = batch.push_image([text(0, 2), text(2, 22)]);
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

//! What one text column costs on its way through a plugin, host work included: gathering
//! the values, the call, checking the answer, applying the patches.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kasho::batch::{Batch, Cell, Piece, Row, Span};
use kasho::position::{Lsn, Position};
use kasho::transform::{self, Binding, Catalog, Chain, Config, Host, Options};
use kasho_plugin_sdk::{Column, Identity, Op, Relation};

use crate::harness::guest;
use crate::table::{Spread, Table};

/// The part of the budget that a row may take.
const TARGET_NS: f64 = 60.0;

pub(crate) fn run(table: &mut Table) {
    let host = Host::new(None).expect("host");
    let wasm = guest("anonymize");
    // What a call costs shows where the plugin itself does next to nothing.
    let constant = "{ transform = \"constant\", value = \"someone@example.com\" }";
    let mask = "{ transform = \"mask\", keep_last = 4 }";
    for (name, rule, rows) in [
        ("constant", constant, 1),
        ("constant", constant, 64),
        ("constant", constant, 1024),
        ("mask", mask, 1024),
    ] {
        let mut chain = chain(&host, wasm.parent().expect("folder"), rule);
        let rounds = 200_000 / rows.max(100) + 20;
        let mut measured = Vec::new();
        for _ in 0..7 {
            let mut batches: Vec<Batch> = (0..rounds).map(|_| batch(rows)).collect();
            let begun = Instant::now();
            for batch in &mut batches {
                chain.apply(batch).expect("apply");
            }
            let each = begun.elapsed().as_nanos() as f64 / (rounds * rows) as f64;
            measured.push(each);
        }
        let spread = Spread::of(measured);
        let what = format!("ns a row, one text column by `{name}`, batches of {rows}");
        match (name, rows) {
            ("mask", _) | (_, 1) => table.figure(&what, &spread),
            _ => table.at_most(&what, &spread, TARGET_NS, ""),
        }
    }
}

fn chain(host: &Arc<Host>, folder: &std::path::Path, rule: &str) -> Chain {
    let mut binding = Binding::new("mask", "anonymize.wasm", &["public.t"]);
    let rules = format!("\"public.t.id\" = \"pass\"\n\"public.t.email\" = {rule}");
    binding.rules = toml::from_str(&rules).expect("rules");
    let mut config = Config { transform: vec![binding], ..Config::default() };
    config.plugins.folder = folder.to_owned();
    let catalog = Catalog { relations: vec![relation()], ..Catalog::default() };
    let generation = transform::load(host, &config, &catalog, Options::default());
    Chain::new(Arc::new(generation.unwrap_or_else(|errors| panic!("{errors:?}"))))
}

fn relation() -> Arc<Relation> {
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
        id: 16_384,
        version: 1,
        schema: "public".to_owned(),
        table: "t".to_owned(),
        identity: Identity::Default,
        columns: vec![column("id", "int8", 20, true), column("email", "text", 25, false)],
    })
}

/// Inserts of a 22-byte e-mail each.
fn batch(rows: usize) -> Batch {
    let mut batch = Batch::default();
    let segment = batch.push_segment(Bytes::from_static(b"42someone@example.com.eu"));
    let relation = batch.relation_index(&shared());
    let text = |start, len| Cell::Text(Span { segment, start, len });
    for n in 0..rows {
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
        rows: 0..rows,
        first: true,
        end_lsn: Some(Lsn(2)),
    });
    batch
}

/// One description for all batches, as the stream has it.
fn shared() -> Arc<Relation> {
    static SHARED: std::sync::OnceLock<Arc<Relation>> = std::sync::OnceLock::new();
    Arc::clone(SHARED.get_or_init(relation))
}

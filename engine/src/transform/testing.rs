//! Guests written in WebAssembly text, tables and batches for the tests of this station.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use kasho_plugin_sdk::batch::{Image as Side, PatchBuf, ReplyBuilder, RowError};
use kasho_plugin_sdk::{Column, Identity, Op, Relation};
use serde_json::{Value, json};

use crate::batch::{Batch, Cell, Detail, Piece, Row, Span};
use crate::position::{Lsn, Position};

use super::{Binding, Catalog, Chain, Config, Generation, Host, LoadError, Options, load};

/// A plugin that answers what it is told to.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) needs: Value,
    pub(super) wanted: Value,
    /// Body of `kasho_batch`, with locals `$p` and `$n`.
    pub(super) batch: String,
    /// More fields of the module, behind its memory.
    pub(super) fields: String,
    /// Fields before everything: imports.
    pub(super) imports: String,
    pub(super) data: Vec<(u32, Vec<u8>)>,
    /// Body of `kasho_relation`, if it is not the same for all.
    pub(super) relation: Option<String>,
    /// Body of `kasho_alloc`.
    pub(super) alloc: String,
}

const KEEP: &str = "i64.const 1";

pub(super) fn columns(uses: &[(&str, &str)]) -> Value {
    let columns: Vec<Value> = uses
        .iter()
        .map(|(name, usage)| json!({"name": name, "use": usage, "as": "fake/1"}))
        .collect();
    json!({"ok": {"columns": columns, "ops": ["insert", "update", "delete", "read"]}})
}

impl Guest {
    /// Wants these columns and keeps everything.
    pub(super) fn new(uses: &[(&str, &str)]) -> Guest {
        Guest {
            needs: json!({"ok": {"texts": ["not an e-mail"], "max_rows": 1}}),
            wanted: columns(uses),
            batch: KEEP.to_owned(),
            fields: String::new(),
            imports: String::new(),
            data: Vec::new(),
            relation: None,
            alloc: "i32.const 0x20000".to_owned(),
        }
    }

    /// Says at init that its rules name these columns of a table.
    pub(super) fn names(mut self, table: &str, columns: &[&str]) -> Guest {
        self.needs["ok"]["needs"][table] = json!(columns);
        self
    }

    pub(super) fn body(mut self, batch: &str) -> Guest {
        batch.clone_into(&mut self.batch);
        self
    }

    /// Answers every call with this block, its call number mended.
    pub(super) fn replies(mut self, block: &[u8]) -> Guest {
        self.data.push((0x8000, block.to_vec()));
        self.batch = format!(
            "(i32.store (i32.const {}) (i32.load offset=36 (local.get $p))) {}",
            0x8000 + 12,
            answer(0x8000, block.len())
        );
        self
    }

    /// Replaces the text of slot 0 by `fake`, one row a call, in the images there are.
    pub(super) fn masks(self, fake: &str, sides: &[Side]) -> Guest {
        let mut patch = PatchBuf::default();
        patch.clear(1);
        patch.scratch().push_str(fake);
        patch.commit(0);
        let mut builder = ReplyBuilder::default();
        let patches = sides.iter().map(|side| (0, *side, &patch));
        let block = builder.write(0, 1, &[], &[], patches).unwrap().to_vec();
        self.replies(&block)
    }

    /// Answers one row with a verdict.
    pub(super) fn judges(self, verdict: u8) -> Guest {
        let error = [RowError { row: 0, text: 0, slot: 0 }];
        let errors = if verdict == 2 { &error[..] } else { &[] };
        let block = ReplyBuilder::default()
            .write(0, 1, &[verdict], errors, std::iter::empty())
            .unwrap()
            .to_vec();
        self.replies(&block)
    }

    /// Wants no relation but the one with this id, of one digit: `{"id":9` begins its JSON.
    pub(super) fn wants_only(mut self, id: u32) -> Guest {
        let wanted = answer(0x4000, self.wanted.to_string().len());
        let digit = u32::from(b'0') + id;
        self.relation = Some(format!(
            "(if (result i64) (i32.eq (i32.load8_u offset=6 (local.get $p)) (i32.const {digit})) \
             (then {wanted}) (else {KEEP}))"
        ));
        self
    }

    pub(super) fn wasm(&self) -> Vec<u8> {
        let mut data = String::new();
        let (needs, wanted) = (self.needs.to_string(), self.wanted.to_string());
        let texts = [(0x1000, needs.as_bytes()), (0x4000, wanted.as_bytes())];
        let blocks = self.data.iter().map(|(at, bytes)| (*at, bytes.as_slice()));
        for (at, bytes) in texts.into_iter().chain(blocks) {
            let escaped: String = bytes.iter().map(|b| format!("\\{b:02x}")).collect();
            writeln!(data, "(data (i32.const {at}) \"{escaped}\")").unwrap();
        }
        let relation = self.relation.clone().unwrap_or_else(|| answer(0x4000, wanted.len()));
        let text = format!(
            r#"(module {imports}
            (memory (export "memory") 32) {fields} {data}
            (func (export "kasho_abi_1"))
            (func (export "kasho_alloc") (param i32) (result i32) {alloc})
            (func (export "kasho_init") (param i32 i32) (result i64) {init})
            (func (export "kasho_relation") (param $p i32) (param i32) (result i64) {relation})
            (func (export "kasho_batch") (param $p i32) (param $n i32) (result i64) {batch}))"#,
            imports = self.imports,
            alloc = self.alloc,
            fields = self.fields,
            init = answer(0x1000, needs.len()),
            batch = self.batch,
        );
        wat::parse_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }
}

fn answer(at: usize, len: usize) -> String {
    format!("i64.const {}", (at as u64) << 32 | len as u64)
}

pub(super) fn host() -> Arc<Host> {
    static HOST: OnceLock<Arc<Host>> = OnceLock::new();
    Arc::clone(HOST.get_or_init(|| Host::new(None).unwrap()))
}

pub(super) fn table(id: u32, table: &str, columns: &[&str]) -> Arc<Relation> {
    let columns = columns.iter().map(|name| Column {
        name: name.trim_end_matches('!').to_owned(),
        type_name: "text".to_owned(),
        oid: 25,
        base: "text".to_owned(),
        typmod: -1,
        key: name.ends_with('!'),
        not_null: false,
        unique: false,
        toastable: true,
        elem: None,
        labels: None,
    });
    Arc::new(Relation {
        id,
        version: 1,
        schema: "public".to_owned(),
        table: table.to_owned(),
        identity: Identity::Default,
        columns: columns.collect(),
    })
}

/// `public.users (id!, email)`.
pub(super) fn users() -> Arc<Relation> {
    table(7, "users", &["id!", "email"])
}

pub(super) fn catalog(relations: &[&Arc<Relation>]) -> Catalog {
    let relations = relations.iter().map(|r| Arc::clone(r)).collect();
    Catalog { relations, foreign_keys: Vec::new(), caught_up: true }
}

/// A plugin folder with a configuration.
pub(super) struct Setup {
    pub(super) folder: tempfile::TempDir,
    pub(super) config: Config,
}

impl Setup {
    /// One binding, `mask`, of this guest to `public.users`.
    pub(super) fn new(guest: &Guest) -> Setup {
        let mut setup = Setup { folder: tempfile::tempdir().unwrap(), config: Config::default() };
        setup.config.plugins.folder = setup.folder.path().to_owned();
        setup.bind("mask", guest, &["public.users"]);
        setup
    }

    pub(super) fn bind(&mut self, name: &str, guest: &Guest, tables: &[&str]) -> &mut Binding {
        let file = format!("{name}.wasm");
        self.write(&file, &guest.wasm());
        self.config.transform.push(Binding::new(name, &file, tables));
        self.config.transform.last_mut().unwrap()
    }

    pub(super) fn write(&self, file: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(file), bytes).unwrap();
    }

    pub(super) fn binding(&mut self) -> &mut Binding {
        &mut self.config.transform[0]
    }

    pub(super) fn load(&self, catalog: &Catalog) -> Result<Generation, Vec<LoadError>> {
        load(&host(), &self.config, catalog, Options { number: 1, ..Options::default() })
    }

    /// Loaded against the tables, and running.
    pub(super) fn chain(&self, relations: &[&Arc<Relation>]) -> Chain {
        match self.load(&catalog(relations)) {
            Ok(generation) => Chain::new(Arc::new(generation)),
            Err(errors) => panic!("{}", said(&errors)),
        }
    }

    pub(super) fn refusal(&self, relations: &[&Arc<Relation>]) -> String {
        said(&self.load(&catalog(relations)).unwrap_err())
    }
}

pub(super) fn said(errors: &[LoadError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A value: a text, `NULL`, `~` for unchanged, `-` for absent.
pub(super) fn cell(batch: &mut Batch, text: &str) -> Cell {
    match text {
        "NULL" => Cell::Null,
        "~" => Cell::Unchanged,
        "-" => Cell::Absent,
        _ => {
            let segment = batch.push_segment(Bytes::copy_from_slice(text.as_bytes()));
            Cell::Text(Span { segment, start: 0, len: u32::try_from(text.len()).unwrap() })
        }
    }
}

/// An empty transaction to push rows into.
pub(super) fn transaction() -> Batch {
    let piece = Piece {
        xid: 9,
        commit_lsn: Lsn(100),
        commit_us: 1_000_000,
        rows: 0..0,
        first: true,
        end_lsn: Some(Lsn(101)),
    };
    let mut batch = Batch::default();
    batch.pieces.push(piece);
    batch
}

pub(super) fn push(
    batch: &mut Batch,
    relation: &Arc<Relation>,
    op: Op,
    new: &[&str],
    old: &[&str],
) {
    let image = |batch: &mut Batch, values: &[&str]| {
        let cells: Vec<Cell> = values.iter().map(|v| cell(batch, v)).collect();
        (!cells.is_empty()).then(|| batch.push_image(cells))
    };
    let (new, old) = (image(batch, new), image(batch, old));
    let relation = batch.relation_index(relation);
    let ordinal = batch.rows.len() as u64 + 1;
    let position = Position::Wal { commit_lsn: Lsn(100), ordinal };
    batch.rows.push(Row { position, op, relation, new, old, detail: None, dropped: false });
    batch.pieces[0].rows = 0..batch.rows.len();
}

pub(super) fn truncate(batch: &mut Batch, relations: &[&Arc<Relation>]) {
    let all: Vec<u32> = relations.iter().map(|r| batch.relation_index(r)).collect();
    push(batch, relations[0], Op::Truncate, &[], &[]);
    let detail = Detail::Truncate { relations: all, cascade: false, restart_identity: false };
    batch.rows.last_mut().unwrap().detail = Some(Box::new(detail));
}

/// One inserted user.
pub(super) fn insert(email: &str) -> Batch {
    let mut batch = transaction();
    push(&mut batch, &users(), Op::Insert, &["1", email], &[]);
    batch
}

/// What is left, as text: `insert public.users [1 x] []`.
pub(super) fn shown(batch: &Batch) -> Vec<String> {
    let cells = |image: Option<crate::batch::Image>| {
        let cells = image.map(|image| batch.cells(image)).unwrap_or_default();
        let texts = cells.iter().map(|cell| match cell {
            Cell::Text(span) => String::from_utf8(batch.span(*span).to_vec()).unwrap(),
            Cell::Null => "NULL".to_owned(),
            Cell::Unchanged => "~".to_owned(),
            Cell::Absent => "-".to_owned(),
        });
        texts.collect::<Vec<_>>().join(" ")
    };
    let rows = batch.rows.iter().filter(|row| !row.dropped);
    rows.map(|row| {
        let relation = batch.relation_of(row);
        format!(
            "{} {} [{}] [{}]",
            row.op.name(),
            relation.qualified(),
            cells(row.new),
            cells(row.old)
        )
    })
    .collect()
}

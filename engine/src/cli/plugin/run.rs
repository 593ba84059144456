//! Fixtures through the real host: the chain that the service runs, with one binding of
//! every default, the key that everybody knows, and nothing withheld.
//!
//! What goes wrong is told as the service tells it. Times are another matter: a deadline is
//! far off, since neither the machine nor the instruction counter is the plugin's fault.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kasho_plugin_sdk::batch::Image as Side;
use kasho_plugin_sdk::fixture::{Became, Cell as Written, FixtureFile, FixtureRow};
use kasho_plugin_sdk::{Op, Relation};

use crate::batch::{Batch, Cell, Detail, Image, Piece, Row, Span};
use crate::position::{Lsn, Position};
use crate::transform::inspect::needs_wasi;
use crate::transform::{
    Binding, Catalog, Chain, Config, Host, NewColumns, Options, TransformError, load,
};

/// Time of a call, milliseconds: for a guest that hangs.
const PATIENCE_MS: u32 = 60_000;
/// Largest file, MiB: `kasho plugin build` has judged it.
const MOST_MIB: u32 = 256;

/// A plugin, loaded for one fixture file.
pub(super) struct Loaded {
    chain: Chain,
    relations: Vec<Arc<Relation>>,
}

impl Loaded {
    /// Loads a plugin with a file's rules, for a file's tables.
    ///
    /// # Errors
    /// Why the service would not load it.
    pub(super) fn new(host: &Arc<Host>, wasm: &Path, file: &FixtureFile) -> Result<Loaded, String> {
        let relations: Vec<_> = file.tables.iter().cloned().map(Arc::new).collect();
        let tables: Vec<String> = relations.iter().map(|table| table.qualified()).collect();
        let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
        let name = wasm.file_name().unwrap_or_default().to_string_lossy();
        let mut binding = Binding::new("fixtures", &name, &tables);
        binding.rules = file.rules.clone();
        // What other bindings of a chain rule on, or the operator, is not this plugin's.
        (binding.new_columns, binding.allow_unmasked) = (NewColumns::Pass, true);
        (binding.deadline_ms, binding.init_ms) = (PATIENCE_MS, PATIENCE_MS);
        binding.max_file_mib = MOST_MIB;
        let module = std::fs::read(wasm).map_err(|e| format!("{}: {e}", wasm.display()))?;
        binding.wasi = needs_wasi(&module);
        let mut config = Config::default();
        config.plugins.folder = match wasm.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => ".".into(),
        };
        config.transform.push(binding);
        let catalog =
            Catalog { relations: relations.clone(), foreign_keys: Vec::new(), caught_up: true };
        let generation = load(host, &config, &catalog, Options { number: 1, ..Options::default() });
        let generation = generation.map_err(|errors| {
            let told = |e: &crate::transform::LoadError| format!("{}: {}", e.at, e.text);
            errors.iter().map(told).collect::<Vec<_>>().join("; ")
        })?;
        Ok(Loaded { chain: Chain::new(Arc::new(generation)), relations })
    }

    /// What becomes of rows that are sent in one batch.
    ///
    /// # Errors
    /// What stops the batch.
    pub(super) fn send(&mut self, rows: &[&FixtureRow]) -> Result<Vec<Became>, TransformError> {
        let mut batch = self.batch(rows);
        self.apply(&mut batch)?;
        let sent = rows.iter().zip(&batch.rows);
        Ok(sent.map(|(row, became)| self.read(&batch, became, row.table)).collect())
    }

    /// What becomes of one row, an error of its own among it.
    pub(super) fn send_alone(&mut self, row: &FixtureRow) -> Became {
        match self.send(&[row]) {
            Ok(mut became) => became.pop().unwrap_or(Became::Dropped),
            Err(TransformError::Row { reason, .. }) => Became::Error(reason),
            Err(error) => Became::Error(error.to_string()),
        }
    }

    /// Sends a batch.
    ///
    /// # Errors
    /// What stops it.
    pub(super) fn apply(&mut self, batch: &mut Batch) -> Result<(), TransformError> {
        self.chain.apply(batch)
    }

    /// Rows as the source delivers them: one transaction.
    pub(super) fn batch(&self, rows: &[&FixtureRow]) -> Batch {
        let mut batch = Batch::default();
        for (ordinal, row) in (1..).zip(rows) {
            let relation = &self.relations[row.table];
            let index = batch.relation_index(relation);
            let image = |batch: &mut Batch, side: Side, there: bool| {
                there.then(|| push(batch, &row.image(side, relation)))
            };
            let new = image(&mut batch, Side::New, row.new.is_some());
            let old = image(&mut batch, Side::Old, row.old.is_some());
            let detail = (row.op == Op::Truncate).then(|| {
                let relations = vec![index];
                Box::new(Detail::Truncate { relations, cascade: false, restart_identity: false })
            });
            let position = Position::Wal { commit_lsn: Lsn(100), ordinal };
            let (op, dropped) = (row.op, false);
            batch.rows.push(Row { position, op, relation: index, new, old, detail, dropped });
        }
        batch.pieces.push(Piece {
            xid: 1,
            commit_lsn: Lsn(100),
            // The time that native fixtures have.
            commit_us: 1_700_000_000_000_000,
            rows: 0..batch.rows.len(),
            first: true,
            end_lsn: Some(Lsn(101)),
        });
        batch
    }

    /// A row as it would be published; what the host has removed is absent.
    fn read(&self, batch: &Batch, row: &Row, table: usize) -> Became {
        if row.dropped {
            return Became::Dropped;
        }
        let leaves = batch.relation_of(row);
        let image = |image: Option<Image>| {
            let columns = self.relations[table].columns.iter();
            let cell = |name: &str| {
                let place = leaves.column(name)?;
                Some(written(batch, *batch.cells(image?).get(place)?))
            };
            columns.map(|column| cell(&column.name).unwrap_or_default()).collect()
        };
        Became::Leaves { op: row.op, new: image(row.new), old: image(row.old) }
    }
}

fn push(batch: &mut Batch, cells: &[Written]) -> Image {
    let cells: Vec<Cell> = cells
        .iter()
        .map(|cell| match cell {
            Written::Text(text) => {
                let segment = batch.push_segment(Bytes::copy_from_slice(text.as_bytes()));
                let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
                Cell::Text(Span { segment, start: 0, len })
            }
            Written::Null => Cell::Null,
            Written::Unchanged => Cell::Unchanged,
            Written::Absent => Cell::Absent,
        })
        .collect();
    batch.push_image(cells)
}

fn written(batch: &Batch, cell: Cell) -> Written {
    match cell {
        Cell::Text(span) => Written::Text(String::from_utf8_lossy(batch.span(span)).into_owned()),
        Cell::Null => Written::Null,
        Cell::Unchanged => Written::Unchanged,
        Cell::Absent => Written::Absent,
    }
}

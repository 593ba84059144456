//! `kasho transforms try`: some rows, read live or from a dump, through the configured
//! plugins, and what would leave of them. Publishes nothing.
//!
//! Without `--show-source` no value is printed that would not leave. What goes wrong: rules
//! that do not load, a table that is not there; a row that a plugin refuses is shown as such.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{anyhow, bail};
use bytes::Bytes;
use clap::Args;
use kasho_plugin_sdk::Relation;
use kasho_plugin_sdk::pattern::TablePattern;

use super::{Rules, told};
use crate::batch::{Batch, Cell, Piece, Row, Span};
use crate::position::Lsn;
use crate::source::dump::{self, Dump, Input};
use crate::source::snapshot::sample;
use crate::transform::{self, Action, Chain, Options, TableCoverage, TransformError};

/// Arguments of `kasho transforms try`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The table: schema.table.
    #[arg(long, value_name = "SCHEMA.TABLE")]
    table: String,
    /// So many rows at most.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Take the rows from this dump, and not from the table itself.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// Print the originals, too. They are private.
    #[arg(long)]
    show_source: bool,
}

/// Prints what would leave.
///
/// # Errors
/// The rules do not load, the rows cannot be read, or a row is in error.
pub(super) async fn run(arguments: &Arguments, path: &Path) -> anyhow::Result<()> {
    let rules = Rules::load(path).await?;
    let relation = Arc::clone(relation(&rules, &arguments.table)?);
    let options = Options { number: 1, ..Options::default() };
    let loaded = transform::load(&rules.host, &rules.config, &rules.tables, options);
    let generation = loaded.map_err(|errors| anyhow!("{}", told(&errors)))?;
    let rows = match &arguments.dump {
        None => sample(&rules.info, &rules.catalog, &relation, arguments.limit).await?,
        Some(file) => from_dump(&rules, file, &relation, arguments.limit)?,
    };
    let generation = Arc::new(generation);
    let covered = generation.coverage().tables.get(&relation.qualified());
    let mut chain = Chain::new(Arc::clone(&generation));
    let mut failed = 0;
    for (number, row) in (1_usize..).zip(&rows.rows) {
        let outcome = pass(&mut chain, &rows, row);
        failed += usize::from(outcome.is_err());
        println!("row {number}{}", shown((&rows, row), &outcome, covered, arguments.show_source));
    }
    if rows.rows.is_empty() {
        println!("{} has no rows here", relation.qualified());
    }
    match failed {
        0 => Ok(()),
        n => bail!("{n} of {} rows are in error", rows.rows.len()),
    }
}

fn relation<'a>(rules: &'a Rules, name: &str) -> anyhow::Result<&'a Arc<Relation>> {
    let pattern = TablePattern::parse(name).map_err(|e| anyhow!("--table: {e}"))?;
    let found = rules.catalog.relations.iter().find(|r| !pattern.is_glob() && pattern.matches(r));
    found.ok_or_else(|| anyhow!("--table: there is no published table {name}"))
}

/// The first rows of a table in a dump.
fn from_dump(
    rules: &Rules,
    file: &Path,
    relation: &Arc<Relation>,
    limit: u32,
) -> anyhow::Result<Batch> {
    let options = dump::Options { unknown: dump::Policy::Pass, ..dump::Options::default() };
    let options = dump::Options { large_objects: dump::Policy::Pass, ..options };
    let mut dump = Dump::open(Input::File(file.to_owned()), &rules.catalog, options, None)?;
    let mut all = Batch::default();
    while let Some(piece) = dump.next()? {
        let dump::Piece::Rows { batch, .. } = piece else { continue };
        for row in batch.rows.iter().filter(|row| batch.relation_of(row).id == relation.id) {
            if all.rows.len() < limit as usize {
                copy(&batch, row, &mut all);
            }
        }
        if all.rows.len() == limit as usize {
            break;
        }
    }
    Ok(all)
}

/// Adds a row of one batch to another.
fn copy(from: &Batch, row: &Row, to: &mut Batch) {
    let relation = to.relation_index(from.relation_of(row));
    let cells = row.new.map(|image| from.cells(image).to_vec()).unwrap_or_default();
    let mut copied = Vec::with_capacity(cells.len());
    for cell in cells {
        copied.push(match from.text(cell) {
            None => cell,
            Some(text) => {
                let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
                let segment = to.push_segment(Bytes::copy_from_slice(text));
                Cell::Text(Span { segment, start: 0, len })
            }
        });
    }
    let new = row.new.map(|_| to.push_image(copied));
    to.rows.push(Row { relation, new, ..row.clone() });
}

/// Passes one row through the chain, alone: what happens to it is then its own.
fn pass(chain: &mut Chain, rows: &Batch, row: &Row) -> Result<Batch, TransformError> {
    let mut alone = Batch::default();
    copy(rows, row, &mut alone);
    let (xid, commit_lsn, commit_us) = (0, Lsn::ZERO, 0);
    let piece = Piece { xid, commit_lsn, commit_us, rows: 0..1, first: true, end_lsn: None };
    alone.pieces.push(piece);
    chain.apply(&mut alone)?;
    Ok(alone)
}

/// A row before and after.
fn shown(
    (rows, row): (&Batch, &Row),
    outcome: &Result<Batch, TransformError>,
    covered: Option<&TableCoverage>,
    show_source: bool,
) -> String {
    let source = rows.relation_of(row);
    let before = row.new.map(|image| rows.cells(image)).unwrap_or_default();
    let original = |at: usize| before.get(at).map_or("", |cell| text(rows, *cell));
    let hidden = |at: usize| match before.get(at) {
        Some(Cell::Text(span)) if !show_source => format!("«{} bytes»", span.len),
        Some(cell) => quoted(rows, *cell),
        None => String::new(),
    };
    let left = match outcome {
        Err(error) => return format!(": in error: {error}"),
        Ok(left) => left,
    };
    let Some(gone) = left.rows.first().filter(|row| !row.dropped) else {
        let columns = source.columns.iter().enumerate();
        let all = columns.map(|(at, column)| format!("{} {}", column.name, hidden(at)));
        return format!(": does not leave ({})", all.collect::<Vec<_>>().join(", "));
    };
    let target = left.relation_of(gone);
    let after = gone.new.map(|image| left.cells(image)).unwrap_or_default();
    let mut out = match source.qualified() == target.qualified() {
        true => format!(" of {}", source.qualified()),
        false => format!(" of {}, leaves as {}", source.qualified(), target.qualified()),
    };
    for (at, column) in source.columns.iter().enumerate() {
        let name = &column.name;
        out += &format!("\n  {name}: {} → ", hidden(at));
        let Some((place, now)) = leaving(covered, name, target) else {
            out += "(never leaves)";
            continue;
        };
        let Some(cell) = after.get(place) else { continue };
        let renamed = if now == name { String::new() } else { format!("{now}: ") };
        let same = text(left, *cell) == original(at) && matches!(cell, Cell::Text(_));
        out +=
            &format!("{renamed}{}{}", quoted(left, *cell), if same { " (as it is)" } else { "" });
    }
    out
}

/// The place and name that a column of the source has in what leaves, if it does.
fn leaving<'a>(
    covered: Option<&TableCoverage>,
    column: &str,
    target: &'a Relation,
) -> Option<(usize, &'a str)> {
    let dropped = covered?.columns.get(column).is_some_and(|c| c.action == Action::Drop);
    let name = covered?.columns_as.get(column).map_or(column, String::as_str);
    let place = target.column(name).filter(|_| !dropped)?;
    Some((place, target.columns[place].name.as_str()))
}

fn text(batch: &Batch, cell: Cell) -> &str {
    batch.text(cell).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
}

/// A value for a terminal.
fn quoted(batch: &Batch, cell: Cell) -> String {
    match cell {
        Cell::Text(_) => format!("{:?}", text(batch, cell)),
        Cell::Null => "NULL".to_owned(),
        Cell::Unchanged | Cell::Absent => "(not sent)".to_owned(),
    }
}

//! Reads the tables of a load from its snapshots: several sessions, each one range at a
//! time, as batches of rows.
//!
//! What can go wrong: the snapshot is gone, the server refuses or ends a COPY. Whatever
//! happens in one session ends the whole reader; the load goes on by opening another one
//! with the progress that was published. PostgreSQL's own words are left out of the
//! errors of a COPY, for they may quote a row.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::TryStreamExt;
use kasho_plugin_sdk::{Op, Relation};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::batch::{Batch, Piece, Row};
use crate::bootstrap::Load;
use crate::position::{Lsn, Position};
use crate::quote::literal;
use crate::source::catalog::{Catalog, Table};
use crate::source::conninfo::{Conninfo, sql_connect_with};
use crate::source::copy::Decoder;
use crate::source::error::SourceError;
use crate::source::snapshot::holder::no_transaction_timeout;
use crate::source::snapshot::plan::{self, Progress, RangeKey, RangeProgress, Unit};
use crate::source::snapshot::{SETTINGS, SnapshotError, copy_statement, holder_lives};
use crate::source::wal::KnownRelations;

/// Rows of a batch at most, so that a chain is called often enough.
const BATCH_ROWS: usize = 1024;
/// Bytes at which a batch is closed. A row is never cut.
const BATCH_BYTES: usize = 256 * 1024;

/// How the tables are read.
#[derive(Clone, Copy, Debug)]
pub struct ReaderConfig {
    /// Sessions at once.
    pub workers: usize,
}

/// A run of rows of one range, and how far the range has come with them.
#[derive(Debug)]
pub struct Slice {
    /// Index into [`Load::tables`].
    pub table: usize,
    /// The range.
    pub key: RangeKey,
    /// How far it is once these rows are published; to be stored in the same step.
    pub progress: RangeProgress,
    /// The rows: operation `Read`, positions `Bootstrap(0)` for the publisher to number.
    /// Empty if all that is to be said is that the range is done.
    pub batch: Batch,
    /// Bytes of COPY text.
    pub bytes: u64,
}

/// Hands out slices as they are read; memory is bounded by the workers.
#[derive(Debug)]
pub struct Reader {
    slices: mpsc::Receiver<Result<Slice, SnapshotError>>,
    // Dropping it ends the sessions.
    _workers: JoinSet<()>,
}

struct Plan {
    load: Load,
    /// None of those that are loaded already.
    tables: Vec<Option<(Table, Arc<Relation>)>>,
    units: Vec<Unit>,
    next: AtomicUsize,
}

impl Plan {
    fn new(
        load: &Load,
        catalog: &Catalog,
        known: &KnownRelations,
        progress: &Progress,
    ) -> Result<Plan, SnapshotError> {
        let described = |oid: u32| {
            let table = catalog.tables.iter().find(|table| table.oid == oid)?;
            let relation = catalog.relation(table.relation)?.as_ref().clone();
            Some((table.clone(), known.settle(relation)))
        };
        let tables = load.tables.iter().map(|table| match table.done {
            // It may be gone by now.
            true => Ok(None),
            false => described(table.oid).map(Some).ok_or_else(|| {
                let what = "the stored catalogue lacks a table of the stored load";
                SourceError::protocol("planning the load", what)
            }),
        });
        let tables = tables.collect::<Result<Vec<_>, _>>()?;
        let units = plan::units(load, progress);
        Ok(Plan { load: load.clone(), tables, units, next: AtomicUsize::new(0) })
    }

    fn take(&self) -> Option<Unit> {
        self.units.get(self.next.fetch_add(1, Ordering::Relaxed)).copied()
    }
}

impl Reader {
    /// Opens the sessions and begins to read whatever `progress` does not show as done.
    /// `known` is shared with the stream: a table has one version for both as long as
    /// both describe it alike, and another one where it was altered since.
    ///
    /// # Errors
    /// The catalogue does not belong to the load. Everything else comes from
    /// [`Reader::next`].
    pub fn open(
        info: &Conninfo,
        config: ReaderConfig,
        (load, catalog): (&Load, &Catalog),
        known: &KnownRelations,
        progress: &Progress,
    ) -> Result<Reader, SnapshotError> {
        let plan = Arc::new(Plan::new(load, catalog, known, progress)?);
        let workers = config.workers.clamp(1, plan.units.len().max(1));
        let (sender, slices) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            let (info, plan, sender) = (info.clone(), Arc::clone(&plan), sender.clone());
            tasks.spawn(async move {
                let mut worker = Worker { info, plan, sender, session: None };
                if let Err(error) = worker.run().await {
                    // Nobody listens any more if the reader was dropped.
                    let _ = worker.sender.send(Err(error)).await;
                }
            });
        }
        Ok(Reader { slices, _workers: tasks })
    }

    /// The next slice, `None` after the last one. Slices of one range come in order.
    ///
    /// Cancel-safe: dropping the future loses nothing.
    ///
    /// # Errors
    /// Whatever ended one of the sessions; the reader is spent then.
    pub async fn next(&mut self) -> Result<Option<Slice>, SnapshotError> {
        self.slices.recv().await.transpose()
    }
}

struct Worker {
    info: Conninfo,
    plan: Arc<Plan>,
    sender: mpsc::Sender<Result<Slice, SnapshotError>>,
    /// The session, and the snapshot its transaction stands at.
    session: Option<(Client, usize)>,
}

impl Worker {
    async fn run(&mut self) -> Result<(), SnapshotError> {
        while let Some(unit) = self.plan.take() {
            if !self.range(unit).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads one range; false if nobody wants more.
    async fn range(&mut self, unit: Unit) -> Result<bool, SnapshotError> {
        let plan = Arc::clone(&self.plan);
        let load = &plan.load.tables[unit.table];
        let Some((table, relation)) = &plan.tables[unit.table] else { return Ok(true) };
        self.stand_at(load.snapshot).await?;
        let Some((client, _)) = &self.session else { return Ok(false) };
        // Its lock keeps it from everything but another name of its schema.
        let name = name(client, table.oid).await?;
        let blocks = plan.load.range_blocks;
        let described = (table, name.as_str());
        let statement =
            copy_statement(described, relation, load, unit.key.range, blocks, unit.skip);
        let failed = |error: tokio_postgres::Error| without_words(&load.table, &error);
        let lsn = plan.load.load_lsn(load);
        let mut rows = Rows::new(unit, relation, lsn, &load.table);
        {
            let mut lines = pin!(client.copy_out(&statement).await.map_err(failed)?);
            while let Some(line) = lines.try_next().await.map_err(failed)? {
                if !rows.fits(&line) && self.sender.send(Ok(rows.take(false))).await.is_err() {
                    return Ok(false);
                }
                rows.push(line)?;
            }
        }
        // Under a name that was another table's already there were no rows.
        if self::name(client, table.oid).await? != name {
            return Err(SnapshotError::Renamed { table: load.table.clone() });
        }
        Ok(self.sender.send(Ok(rows.take(true))).await.is_ok())
    }

    /// Brings the session into a transaction at the load's snapshot number `snapshot`.
    async fn stand_at(&mut self, snapshot: usize) -> Result<(), SnapshotError> {
        if self.session.as_ref().is_some_and(|(_, at)| *at == snapshot) {
            return Ok(());
        }
        let client = match self.session.take() {
            Some((client, _)) => {
                let doing = "ending a transaction of the load";
                client.batch_execute("COMMIT").await.map_err(|e| SourceError::sql(doing, &e))?;
                client
            }
            None => {
                let client = sql_connect_with(&self.info, "kasho load", &SETTINGS).await?;
                no_transaction_timeout(&client).await?;
                client
            }
        };
        let name = self.plan.load.snapshots.get(snapshot).map_or("", |s| s.name.as_str());
        import(&client, name).await?;
        // A server that was restarted may give the name to somebody else's snapshot. The
        // holder does not outlive a restart, so with it alive the name is still its own.
        if let Some(holder) = &self.plan.load.holder
            && !holder_lives(&client, holder).await?
        {
            return Err(SnapshotError::Gone);
        }
        self.session = Some((client, snapshot));
        Ok(())
    }
}

/// What SQL calls the table now, whatever the snapshot is of.
async fn name(client: &Client, oid: u32) -> Result<String, SnapshotError> {
    let doing = "asking for the name of a table";
    let row = client.query_one("SELECT $1::oid::regclass::text", &[&oid]).await;
    Ok(row.map_err(|error| SourceError::sql(doing, &error))?.get(0))
}

/// Begins a transaction at an exported snapshot.
pub(super) async fn import(client: &Client, snapshot: &str) -> Result<(), SnapshotError> {
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
        literal(snapshot)
    );
    client.batch_execute(&begin).await.map_err(|error| match error.code() {
        // invalid_parameter_value; undefined_object from 17 on.
        // object_not_in_prerequisite_state: who exported it has just ended.
        Some(code) if matches!(code.code(), "22023" | "42704" | "55000") => SnapshotError::Gone,
        _ => SourceError::sql("standing at the load's snapshot", &error).into(),
    })
}

/// An error of a COPY: its message may quote a value (a row filter that fails does).
fn without_words(table: &str, error: &tokio_postgres::Error) -> SnapshotError {
    // No such table, no such schema: they are locked, so they have other names.
    if error.code().is_some_and(|code| matches!(code.code(), "42P01" | "3F000")) {
        return SnapshotError::Renamed { table: table.to_owned() };
    }
    let mut error = SourceError::sql(&format!("COPY of {table}"), error);
    if let SourceError::Server { server, .. } = &mut error {
        server.message = None;
    }
    error.into()
}

/// The batch being filled.
struct Rows<'a> {
    unit: Unit,
    relation: &'a Arc<Relation>,
    lsn: Lsn,
    table: &'a str,
    decoder: Decoder,
    batch: Batch,
    bytes: usize,
    /// Rows of the range dealt with, those of the batch included.
    done: u64,
}

impl<'a> Rows<'a> {
    fn new(unit: Unit, relation: &'a Arc<Relation>, lsn: Lsn, table: &'a str) -> Rows<'a> {
        let (decoder, batch) = (Decoder::default(), Batch::default());
        Rows { unit, relation, lsn, table, decoder, batch, bytes: 0, done: unit.skip }
    }

    /// Whether the batch takes one more row. A large one goes alone: rows and progress are
    /// published in one step, whose size has a limit too.
    fn fits(&self, line: &[u8]) -> bool {
        let rows = self.batch.rows.len();
        rows == 0 || (rows < BATCH_ROWS && self.bytes + line.len() <= BATCH_BYTES)
    }

    fn push(&mut self, mut line: Bytes) -> Result<(), SnapshotError> {
        let table = || self.table.to_owned();
        self.bytes += line.len();
        // The server sends a row a message, newline included.
        if line.last() != Some(&b'\n') {
            return Err(SnapshotError::Cut { table: table() });
        }
        line.truncate(line.len() - 1);
        let columns = self.relation.columns.len();
        let image = self.decoder.image(&mut self.batch, line, columns);
        let image = image.map_err(|source| SnapshotError::Copy { table: table(), source })?;
        let relation = self.batch.relation_index(self.relation);
        self.batch.rows.push(Row {
            position: Position::START,
            op: Op::Read,
            relation,
            new: Some(image),
            old: None,
            detail: None,
            dropped: false,
        });
        self.done += 1;
        Ok(())
    }

    fn take(&mut self, done: bool) -> Slice {
        let mut batch = std::mem::take(&mut self.batch);
        if !done {
            self.batch.reserve_like(&batch);
        }
        if !batch.rows.is_empty() {
            batch.pieces.push(Piece {
                xid: 0,
                commit_lsn: self.lsn,
                commit_us: 0,
                rows: 0..batch.rows.len(),
                first: true,
                end_lsn: None,
            });
        }
        Slice {
            table: self.unit.table,
            key: self.unit.key,
            progress: RangeProgress { rows: self.done, done },
            batch,
            bytes: std::mem::take(&mut self.bytes) as u64,
        }
    }
}

//! The load: rows of the bootstrap stream, copied into several tables at once. Each table is
//! copied by one worker, which commits its rows with how far the table is; the applier as a
//! whole is where no table lacks anything.
//!
//! What can go wrong: a table that is missing or holds rows of somebody else; everything that
//! a target can refuse. Whatever was not committed is read and copied again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use kasho_plugin_sdk::Op;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use super::change::{Unfit, copied, refuse};
use super::error::ApplyError;
use super::progress::{At, Progress};
use super::session::{self, Triggers, remedy};
use super::stream::Applier;
use super::table::{Mapping, Table};
use super::{sql, text};
use crate::position::Position;
use crate::sink::entry::{Content, Entry, EntryOp, Lines, Rows};
use crate::source::conninfo::Conninfo;

use worker::{Job, Worker};

mod worker;

/// Rows travel to a worker in pieces of so many bytes.
const PIECE: usize = 128 << 10;
/// Pieces that wait for a worker.
const WAITING: usize = 2;

/// A table's rows are there through this entry.
#[derive(Debug)]
struct Done {
    table: String,
    through: u64,
}

/// A table that is being loaded.
#[derive(Debug)]
struct Loading {
    table: Arc<Table>,
    worker: usize,
    /// What copies the rows that are in `piece`.
    copy: Arc<str>,
    set: Vec<usize>,
    piece: Vec<u8>,
    rows: u64,
    /// Entries of the piece.
    first: u64,
    last: u64,
    /// Entries, from and to, that the worker has and did not commit yet.
    sent: VecDeque<(u64, u64)>,
    /// Entries up to here were there when the applier began.
    skip: u64,
    /// What the worker has to compare with, until it knows by itself.
    was: Option<Option<At>>,
}

/// How far a piece took rows.
enum Filled {
    /// All of them.
    All,
    /// It is to be sent before the next one.
    Sendable,
}

impl Loading {
    fn new(table: Arc<Table>, worker: usize, skip: u64, was: Option<Option<At>>) -> Loading {
        Loading {
            table,
            worker,
            copy: "".into(),
            set: Vec::new(),
            piece: Vec::new(),
            rows: 0,
            first: 0,
            last: 0,
            sent: VecDeque::new(),
            skip,
            was,
        }
    }

    /// Takes rows into the piece. An error tells which row is none of the table.
    fn fill(
        &mut self,
        table: &Table,
        mapping: &Mapping,
        lines: &mut Lines<'_>,
    ) -> Result<Filled, (u64, Unfit)> {
        while let Some((number, values)) = lines.row() {
            if number > self.skip {
                let values = copied(mapping, values).map_err(|unfit| (number, unfit))?;
                let set = values.clone().map(|(place, _)| place);
                if self.copy.is_empty() || !set.clone().eq(self.set.iter().copied()) {
                    if !self.piece.is_empty() {
                        return Ok(Filled::Sendable);
                    }
                    self.set = set.collect();
                    self.copy = sql::copy(table, &self.set).into();
                }
                let values = values.map(|(_, value)| value);
                self.line(number, values, lines.packed()).map_err(|unfit| (number, unfit))?;
            }
            lines.advance();
            if self.piece.len() >= PIECE {
                return Ok(Filled::Sendable);
            }
        }
        Ok(Filled::All)
    }

    /// Takes one, whose texts stand in `packed` as they are, if there is that.
    fn line<'a>(
        &mut self,
        number: u64,
        values: impl Iterator<Item = Option<&'a [u8]>>,
        packed: Option<&[u8]>,
    ) -> Result<(), Unfit> {
        if self.piece.is_empty() {
            self.first = number;
        }
        // A table of a few rows needs no large one.
        if self.piece.capacity() <= PIECE && self.piece.len() > PIECE / 8 {
            self.piece.reserve_exact(PIECE);
        }
        let before = self.piece.len();
        match packed {
            Some(packed) if text::is_plain(packed) => text::plain(values, &mut self.piece),
            _ => text::row(values, &mut self.piece),
        }
        // What is written between the values is ASCII, and ends whatever they end within.
        if packed.is_some() && std::str::from_utf8(&self.piece[before..]).is_err() {
            self.piece.truncate(before);
            return Err(Unfit::NotUtf8);
        }
        (self.last, self.rows) = (number, self.rows + 1);
        Ok(())
    }
}

/// The workers, and what is with them.
pub(super) struct Load {
    info: Conninfo,
    workers: Vec<Option<mpsc::Sender<Job>>>,
    tasks: JoinSet<Result<(), ApplyError>>,
    to_done: mpsc::UnboundedSender<Done>,
    done: mpsc::UnboundedReceiver<Done>,
    tables: HashMap<String, Loading>,
    buffered: usize,
    most: usize,
    /// The entry taken last.
    last: u64,
    /// The applier as a whole was moved here. Never before the first entry: what comes before
    /// a section of the stream has its own place in the order.
    moved: u64,
}

impl Load {
    /// Nothing is loaded yet; no more than `most` bytes wait to be sent.
    pub(super) fn new(info: Conninfo, workers: u32, most: usize) -> Load {
        let (to_done, done) = mpsc::unbounded_channel();
        let workers = (0..workers.max(1)).map(|_| None).collect();
        let (tasks, tables) = (JoinSet::new(), HashMap::new());
        Load { info, workers, tasks, to_done, done, tables, buffered: 0, most, last: 0, moved: 0 }
    }

    /// Takes an entry of the bootstrap stream. Answers whether the load is over, and committed.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub(super) async fn take(
        &mut self,
        applier: &mut Applier,
        entry: Entry,
    ) -> Result<bool, ApplyError> {
        let Position::Bootstrap(number) = entry.position else { return Ok(false) };
        let first = match &entry.content {
            Content::Rows(rows) => rows.first,
            _ => number,
        };
        if self.last == 0 {
            self.moved = first.saturating_sub(1);
        }
        match entry.content {
            Content::Rows(rows) => self.rows(applier, &entry.table, &rows).await?,
            Content::Row { columns, new, .. } if entry.op == EntryOp::Row(Op::Read) => {
                let Some(row) = new else {
                    let table = Table { name: entry.table, ..Table::default() };
                    return Err(refuse(&table, applier.told(entry.position), Unfit::NoRow));
                };
                let row = Rows::one(columns, number, row);
                self.rows(applier, &entry.table, &row).await?;
            }
            Content::Restart { .. } => self.restart(applier, &entry.table, number).await?,
            Content::End { after, whole, .. } => {
                self.last = number;
                self.finish(applier).await?;
                match (after, whole) {
                    // No table has had a row.
                    (None, true) => applier.empty_stale().await?,
                    (None, false) => applier.keep_stale(entry.position).await?,
                    (Some(_), _) => {}
                }
                applier.move_to(entry.position).await?;
                return Ok(true);
            }
            _ => {}
        }
        self.last = number;
        Ok(false)
    }

    async fn rows(
        &mut self,
        applier: &mut Applier,
        name: &str,
        rows: &Rows,
    ) -> Result<(), ApplyError> {
        let at = applier.told(Position::Bootstrap(rows.first));
        self.find(applier, name, rows.first).await?;
        let found = applier.tables.find(applier.pipe.client(), name, &rows.columns, at).await;
        let (table, mapping) = found?;
        let mut lines = rows.lines();
        loop {
            let Some(loading) = self.tables.get_mut(name) else { return Ok(()) };
            let before = loading.piece.len();
            let filled = loading.fill(&table, &mapping, &mut lines);
            self.buffered += loading.piece.len() - before;
            match filled {
                Ok(Filled::All) => break,
                Ok(Filled::Sendable) => self.send(name, applier).await?,
                Err((number, unfit)) => {
                    let at = applier.told(Position::Bootstrap(number));
                    return Err(refuse(&table, at, unfit));
                }
            }
        }
        if self.buffered >= self.most {
            self.send_all(applier).await?;
        }
        Ok(())
    }

    /// A table's load begins anew.
    async fn restart(
        &mut self,
        applier: &mut Applier,
        name: &str,
        number: u64,
    ) -> Result<(), ApplyError> {
        self.find(applier, name, number).await?;
        self.send(name, applier).await?;
        let Some(loading) = self.tables.get_mut(name) else { return Ok(()) };
        if number <= loading.skip {
            return Ok(());
        }
        loading.sent.push_back((number, number));
        let (worker, table, was) = (loading.worker, Arc::clone(&loading.table), loading.was.take());
        let ours = applier.progress.tables.clone();
        let at = (number, applier.runs.of(number).into());
        self.give(worker, applier, Job::Empty { table, was, at, ours }).await
    }

    /// Knows the table from now on. The first row of an epoch empties what an earlier one
    /// has left.
    async fn find(
        &mut self,
        applier: &mut Applier,
        name: &str,
        number: u64,
    ) -> Result<(), ApplyError> {
        if self.tables.contains_key(name) {
            return Ok(());
        }
        applier.empty_stale().await?;
        let at = applier.told(Position::Bootstrap(number));
        let table = applier.tables.find(applier.pipe.client(), name, &Arc::default(), at).await?.0;
        if applier.traits.triggers == Triggers::Deferred && table.foreign {
            return Err(ApplyError::Refused(format!(
                "table {name} of the target has foreign keys, which rows in the load's order need \
                 not meet, and role {:?} may not turn them off: {}; or load first and make them \
                 then (pg_dump --section=post-data); then start again",
                applier.traits.role,
                remedy(&applier.traits)
            )));
        }
        if table.keys.len() > 1 || table.foreign {
            tracing::info!(
                table = name,
                "the table has indexes or foreign keys already: a load is faster into one made by \
                 pg_dump --section=pre-data, with --section=post-data afterwards"
            );
        }
        let was = applier.progress.tables.get(name).copied();
        let skip = match was.map(|was| was.position) {
            Some(Position::Bootstrap(n)) => n,
            _ => 0,
        };
        let worker = self.tables.len() % self.workers.len();
        let loading = Loading::new(table, worker, skip, Some(was));
        self.tables.insert(name.to_owned(), loading);
        Ok(())
    }

    /// Sends a table's piece to its worker.
    async fn send(&mut self, name: &str, applier: &Applier) -> Result<(), ApplyError> {
        let Some(loading) = self.tables.get_mut(name) else { return Ok(()) };
        if loading.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut loading.piece);
        self.buffered -= piece.len();
        loading.sent.push_back((loading.first, loading.last));
        let job = Job::Rows {
            table: Arc::clone(&loading.table),
            copy: Arc::clone(&loading.copy),
            was: loading.was.take(),
            rows: std::mem::take(&mut loading.rows),
            piece: piece.into(),
            last: (loading.last, applier.runs.of(loading.last).into()),
        };
        let worker = loading.worker;
        self.give(worker, applier, job).await
    }

    async fn send_all(&mut self, applier: &Applier) -> Result<(), ApplyError> {
        let waiting = self.tables.iter().filter(|(_, loading)| !loading.piece.is_empty());
        let names: Vec<String> = waiting.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.send(&name, applier).await?;
        }
        Ok(())
    }

    async fn give(&mut self, worker: usize, applier: &Applier, job: Job) -> Result<(), ApplyError> {
        if self.workers[worker].is_none() {
            let (client, _) = session::connect(&self.info).await?;
            let (to, jobs) = mpsc::channel(WAITING);
            let Progress { consumer, writer, main, .. } = &applier.progress;
            let names = (consumer.clone(), writer.clone());
            let figures = Arc::clone(&applier.figures);
            let triggers = applier.traits.triggers;
            let done = self.to_done.clone();
            let new = Worker::new(client, triggers, names, main.epoch, done, figures);
            self.tasks.spawn(new.run(jobs));
            self.workers[worker] = Some(to);
        }
        let sent = match &self.workers[worker] {
            Some(to) => to.send(job).await.is_ok(),
            None => false,
        };
        match sent {
            true => Ok(()),
            false => Err(self.broken().await),
        }
    }

    /// Why a worker takes nothing more.
    async fn broken(&mut self) -> ApplyError {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = outcome(ended) {
                return error;
            }
        }
        ApplyError::Lost { doing: "a worker of the load".to_owned() }
    }

    /// Lets everything taken so far be committed, and moves the applier as a whole as far as
    /// that is the case already.
    ///
    /// # Errors
    /// A worker failed; fenced.
    pub(super) async fn tick(&mut self, applier: &mut Applier) -> Result<(), ApplyError> {
        self.send_all(applier).await?;
        for worker in 0..self.workers.len() {
            if self.workers[worker].is_some() {
                self.give(worker, applier, Job::Commit).await?;
            }
        }
        self.settle(applier);
        let through = self.through();
        if through > self.moved {
            applier.move_to(Position::Bootstrap(through)).await?;
            self.moved = through;
        }
        Ok(())
    }

    fn settle(&mut self, applier: &mut Applier) {
        let epoch = applier.progress.main.epoch;
        while let Ok(Done { table, through }) = self.done.try_recv() {
            let at = At { epoch, position: Position::Bootstrap(through) };
            applier.progress.tables.insert(table.clone(), at);
            if let Some(loading) = self.tables.get_mut(&table) {
                while loading.sent.front().is_some_and(|(_, last)| *last <= through) {
                    loading.sent.pop_front();
                }
            }
        }
    }

    /// No table lacks anything up to here.
    fn through(&self) -> u64 {
        let oldest = self.tables.values().filter_map(|loading| {
            let sent = loading.sent.front().map(|(first, _)| *first);
            sent.or((!loading.piece.is_empty()).then_some(loading.first))
        });
        oldest.min().map_or(self.last, |first| first.saturating_sub(1))
    }

    /// Waits until every worker has committed everything.
    async fn finish(&mut self, applier: &mut Applier) -> Result<(), ApplyError> {
        self.send_all(applier).await?;
        self.workers.iter_mut().for_each(|worker| *worker = None);
        while let Some(ended) = self.tasks.join_next().await {
            outcome(ended)?;
        }
        self.settle(applier);
        Ok(())
    }
}

/// How a worker has ended. After a panic it would do the same again.
fn outcome(ended: Result<Result<(), ApplyError>, JoinError>) -> Result<(), ApplyError> {
    ended.unwrap_or_else(|_| {
        Err(ApplyError::Refused(
            "a worker of the load has ended in a panic, which is a bug: the log's line of it says \
             where. Report it; the target has what is committed, and a start goes on from there"
                .to_owned(),
        ))
    })
}

impl Applier {
    /// Tables that an earlier epoch has filled, and this one has not come to.
    fn stale(&self) -> Vec<String> {
        let epoch = self.progress.main.epoch;
        let stale = self.progress.tables.iter().filter(|(_, at)| at.epoch < epoch);
        stale.map(|(name, _)| name.clone()).collect()
    }

    /// What the bootstrap before has left is none of this one's.
    async fn empty_stale(&mut self) -> Result<(), ApplyError> {
        let stale = self.stale();
        if stale.is_empty() {
            return Ok(());
        }
        tracing::info!(tables = stale.len(), "emptying what the bootstrap before has left");
        let (epoch, position) = (self.progress.main.epoch, self.position());
        self.empty_all(&stale, At { epoch, position: Position::START }, position).await?;
        self.move_to(position).await
    }

    /// The load has ended without a row, and was not whole: whoever begun it without data has
    /// the rows there already. They are this epoch's now, and no later section empties them.
    async fn keep_stale(&mut self, position: Position) -> Result<(), ApplyError> {
        let stale = self.stale();
        if stale.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            tables = stale.len(),
            "the new bootstrap has loaded no row at all: these tables keep what they have"
        );
        self.begin(self.told(position)).await?;
        let then = At { epoch: self.progress.main.epoch, position: Position::START };
        for name in stale {
            let was = self.progress.tables.get(&name).copied();
            self.note_table(&name, was, then).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

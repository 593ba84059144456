//! The changes, applied in their order: a source's transaction is never split over two of
//! the target's (but where it is larger than Redis's budget), small ones share one.
//!
//! What can go wrong: everything that a target can refuse, see [`ApplyError`]. After an error
//! nothing of the open transaction is there, and the applier begins again where the target
//! is.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use kasho_plugin_sdk::Op;
use tokio::sync::watch;

use super::change::{Images, Verb, change, refuse};
use super::config::{Config, Conflict, Ddl};
use super::ddl::Told;
use super::error::ApplyError;
use super::figures::{Figures, Odd};
use super::join::{Joiner, Run};
use super::pace;
use super::pipe::{Check, Pipe};
use super::progress::{At, MOVE, MOVE_TABLE, Progress, number, table_params};
use super::session::{Traits, Triggers};
use super::sql::{self, Otherwise};
use super::table::{self, Mapping, Table, Tables};
use super::{text, truncate};
use crate::position::{EpochPosition, Position};
use crate::sink::entry::{Content, Entry, EntryOp};
use crate::sink::runs::Runs;

/// The target's transactions end where a source's does, at the latest after so many rows, …
const COMMIT_ROWS: usize = 20_000;
/// … bytes, or the time that [`pace`] gives them.
const COMMIT_BYTES: usize = 8 << 20;
/// From so many inserts on they are copied.
const COPY_ROWS: usize = 24;
/// Rows of one statement: few sizes, so that few statements are prepared.
const SIZES: [usize; 4] = [64, 16, 4, 1];
/// A statement has no more parameters than this (the protocol's limit is 65,535).
const PARAMETERS: usize = 30_000;

/// The target as far as it is, and what is under way.
pub(super) struct Applier {
    pub(super) config: Config,
    pub(super) figures: Arc<Figures>,
    pub(super) traits: Traits,
    pub(super) pipe: Pipe,
    pub(super) tables: Tables,
    pub(super) progress: Progress,
    /// Told to whoever acknowledges.
    pub(super) committed: watch::Sender<Option<Position>>,
    joiner: Joiner,
    /// Since when the target's transaction is open, …
    begun: Option<Instant>,
    /// … and how long it may be.
    open: Duration,
    rows: usize,
    bytes: usize,
    /// Everything up to here is done, or under way.
    reached: Position,
    /// A transaction of the source is open.
    inside: bool,
    /// The open transaction of the source changes the schema.
    pub(super) altered: bool,
    /// Tables that are filled for the first time.
    new: Vec<String>,
    /// Tables made of a row, of which no schema change has told yet.
    pub(super) provisional: Vec<String>,
    /// The schema change at this position was made by hand.
    pub(super) ddl_done: Option<EpochPosition>,
    commit_us: i64,
    /// Who wrote which entry of the load.
    pub(super) runs: Arc<Runs>,
}

impl Applier {
    /// Where `progress` says.
    pub(super) fn new(
        config: Config,
        figures: Arc<Figures>,
        traits: Traits,
        pipe: Pipe,
        progress: Progress,
        committed: watch::Sender<Option<Position>>,
    ) -> Applier {
        let reached = progress.main.position;
        let provisional = progress.provisional();
        let tables = Tables::new(traits.clone());
        Applier {
            config,
            figures,
            traits,
            pipe,
            tables,
            progress,
            committed,
            joiner: Joiner::default(),
            begun: None,
            open: pace::LEAST,
            rows: 0,
            bytes: 0,
            reached,
            inside: false,
            altered: false,
            new: Vec::new(),
            provisional,
            ddl_done: None,
            commit_us: 0,
            runs: Arc::default(),
        }
    }

    /// Where it begins: maybe inside of a transaction. What the target has may be told, for it
    /// may not have been.
    pub(super) fn stand(&mut self, inside: bool) {
        self.inside = inside;
        let position = self.progress.main.position;
        if position > Position::START {
            // As with a commit.
            let _ = self.committed.send(Some(position));
        }
    }

    /// Whether a transaction of the source is open.
    pub(super) fn inside(&self) -> bool {
        self.inside
    }

    /// What the target has.
    pub(super) fn position(&self) -> Position {
        self.progress.main.position
    }

    /// Whether something is not committed yet.
    pub(super) fn pends(&self) -> bool {
        self.begun.is_some() || self.reached != self.progress.main.position
    }

    pub(super) fn told(&self, position: Position) -> EpochPosition {
        At { epoch: self.progress.main.epoch, position }.told()
    }

    /// Applies an entry of the changes stream.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub(super) async fn take(&mut self, entry: Entry) -> Result<(), ApplyError> {
        let Entry { position, last, op, table, content, weight, commit_us, .. } = entry;
        let at = self.told(position);
        match content {
            Content::Row { columns, oids, new, old, key, miss, ddl, .. } => match op {
                EntryOp::Row(op @ (Op::Insert | Op::Update | Op::Delete)) => {
                    let (table, mapping) = self.find(&table, &columns, &oids, at).await?;
                    let images = Images { op, new, old, key: &key, miss };
                    let change = change(&table, &mapping, at, images);
                    if let Some(change) = change.map_err(|unfit| refuse(&table, at, unfit))? {
                        self.begin(at).await?;
                        (self.rows, self.bytes) = (self.rows + 1, self.bytes + weight);
                        for run in self.joiner.push(change) {
                            self.apply(run).await?;
                        }
                    }
                }
                EntryOp::Row(Op::Ddl) => {
                    let detail = ddl.map(|detail| *detail).unwrap_or_default();
                    let told = Told::new(&columns, new.as_deref().unwrap_or_default(), detail);
                    self.schema_change(told, at).await?;
                }
                // Messages of applications are for other readers.
                _ => {}
            },
            Content::Truncate { tables, restart_identity, .. } => {
                self.truncate(&tables, restart_identity, at).await?;
            }
            _ => {}
        }
        (self.reached, self.inside, self.commit_us) = (position, !last, commit_us);
        if last {
            // No schema change has told of it: it is a table that the target lacks.
            if let Some(table) = self.provisional.pop() {
                return Err(self.untold(table, at));
            }
            self.figures.transactions.fetch_add(1, Relaxed);
            let long = self.begun.is_some_and(|begun| begun.elapsed() >= self.open);
            // What uses a changed schema may not stand in its transaction (a new enum label).
            let long = std::mem::take(&mut self.altered) || long;
            if self.rows >= COMMIT_ROWS || self.bytes >= COMMIT_BYTES || long {
                self.commit().await?;
            }
        }
        Ok(())
    }

    /// The table, and where the columns are in it.
    async fn find(
        &mut self,
        name: &str,
        columns: &Arc<[String]>,
        oids: &[u32],
        at: EpochPosition,
    ) -> Result<(Arc<Table>, Arc<Mapping>), ApplyError> {
        let error = match self.tables.find(self.pipe.client(), name, columns, at).await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        // If a statement before it failed, that one tells why.
        self.pipe.drain().await?;
        match error {
            ApplyError::MissingTable { .. } if self.config.ddl != Ddl::None => {
                self.make(name, columns, oids, at).await?;
                self.tables.find(self.pipe.client(), name, columns, at).await
            }
            ApplyError::MissingTable { table, at } => Err(self.missing(table, at)),
            error => Err(error),
        }
    }

    /// The target has no such table: whether it never had one, as far as is known.
    pub(super) fn missing(&self, table: String, at: EpochPosition) -> ApplyError {
        match self.progress.tables.contains_key(&table) {
            true => ApplyError::Vanished { table, at },
            false => ApplyError::MissingTable { table, at },
        }
    }

    async fn truncate(
        &mut self,
        tables: &[String],
        restart_identity: bool,
        at: EpochPosition,
    ) -> Result<(), ApplyError> {
        self.separate().await?;
        self.begin(at).await?;
        self.flush().await?;
        self.pipe.drain().await?;
        let mut found = Vec::with_capacity(tables.len());
        for name in tables {
            let there = self.tables.find(self.pipe.client(), name, &Arc::default(), at).await;
            found.push(
                there
                    .map_err(|error| match error {
                        ApplyError::MissingTable { table, at } => self.missing(table, at),
                        error => error,
                    })?
                    .0,
            );
            self.note(name);
        }
        let (client, ours) = (self.pipe.client(), &self.progress.tables);
        truncate::empty(client, &found, restart_identity, ours, at).await
    }

    /// Opens the target's transaction.
    pub(super) async fn begin(&mut self, at: EpochPosition) -> Result<(), ApplyError> {
        if self.begun.is_none() {
            self.pipe.word("BEGIN", Check::Any, at).await?;
            if self.traits.triggers == Triggers::Deferred {
                self.pipe.word("SET CONSTRAINTS ALL DEFERRED", Check::Any, at).await?;
            }
            self.begun = Some(Instant::now());
        }
        Ok(())
    }

    /// Commits the transactions of the source before this one, if this is its first entry:
    /// what locks a whole table, or changes it, must not meet what they have left to check.
    pub(super) async fn separate(&mut self) -> Result<(), ApplyError> {
        match !self.inside && self.begun.is_some() {
            true => self.commit().await,
            false => Ok(()),
        }
    }

    /// Sends what was joined so far.
    pub(super) async fn flush(&mut self) -> Result<(), ApplyError> {
        for run in self.joiner.take() {
            self.apply(run).await?;
        }
        Ok(())
    }

    /// Commits everything taken so far, with how far that is.
    ///
    /// # Errors
    /// Fenced; what was sent before failed; the server's.
    pub(super) async fn commit(&mut self) -> Result<(), ApplyError> {
        self.flush().await?;
        let reached = self.reached;
        self.move_to(reached).await
    }

    /// Commits a part of the source's transaction, because there is no other way.
    ///
    /// # Errors
    /// As [`Applier::commit`].
    pub(super) async fn commit_part(&mut self) -> Result<(), ApplyError> {
        self.flush().await?;
        self.keep_provisional().await?;
        self.commit().await
    }

    /// Commits with this position, and tells of it.
    ///
    /// # Errors
    /// As [`Applier::commit`].
    pub(super) async fn move_to(&mut self, position: Position) -> Result<(), ApplyError> {
        let at = self.told(position);
        self.begin(at).await?;
        // COMMIT is sent before the answer of the compare-and-set is there, but not before it is
        // known that every row was as it should be.
        self.pipe.drain().await?;
        let asked = Instant::now();
        self.note_new(position).await?;
        self.swap(At { epoch: self.progress.main.epoch, position }).await?;
        self.pipe.word("COMMIT", Check::Commit, at).await?;
        self.pipe.drain().await?;
        (self.begun, self.rows, self.bytes) = (None, 0, 0);
        (self.reached, self.open) = (position, pace::open_for(asked.elapsed()));
        self.figures.commits.fetch_add(1, Relaxed);
        self.figures.reached(at);
        if self.commit_us > 0 {
            self.figures.commit_us.store(self.commit_us, Relaxed);
        }
        // Whoever acknowledges may have ended, with an error that is told elsewhere.
        let _ = self.committed.send(Some(position));
        Ok(())
    }

    /// The compare-and-set of the applier as a whole.
    pub(super) async fn swap(&mut self, to: At) -> Result<(), ApplyError> {
        let Progress { consumer, writer, main, system, born, .. } = &self.progress;
        let lane = match to.position {
            Position::Bootstrap(_) => "bootstrap",
            Position::Wal { .. } => "changes",
        };
        let params = [
            consumer.clone(),
            writer.clone(),
            number(main.epoch).to_string(),
            main.position.to_string(),
            number(to.epoch).to_string(),
            to.position.to_string(),
            lane.to_owned(),
            system.clone(),
            to.run(&self.runs).to_owned(),
            born.clone(),
        ];
        let params = params.into_iter().map(|text| Some(text.into())).collect();
        self.pipe.send(MOVE, params, Check::Fence, to.told()).await?;
        (self.progress.main, self.reached) = (to, to.position);
        Ok(())
    }

    /// The compare-and-set of a table.
    pub(super) async fn note_table(
        &mut self,
        name: &str,
        was: Option<At>,
        to: At,
    ) -> Result<(), ApplyError> {
        let params = table_params(&self.progress, name, was, (to, to.run(&self.runs)));
        self.pipe.send(MOVE_TABLE, params, Check::Fence, to.told()).await?;
        self.progress.tables.insert(name.to_owned(), to);
        Ok(())
    }

    /// Notes that a table is one of ours.
    pub(super) fn note(&mut self, name: &str) {
        if !self.progress.tables.contains_key(name) && !self.new.iter().any(|new| new == name) {
            self.new.push(name.to_owned());
        }
    }

    /// Puts the tables that are new down as filled up to here.
    pub(super) async fn note_new(&mut self, position: Position) -> Result<(), ApplyError> {
        for name in std::mem::take(&mut self.new) {
            self.note_table(&name, None, At { epoch: self.progress.main.epoch, position }).await?;
        }
        Ok(())
    }

    /// Takes that back: it is noted otherwise.
    pub(super) fn unnote(&mut self, name: &str) {
        self.new.retain(|new| new != name);
    }

    /// Tables are loaded again from here on: empties them, and notes that their rows begin with
    /// entry `section` of the bootstrap stream.
    ///
    /// # Errors
    /// As [`Applier::take`].
    pub(super) async fn mark(
        &mut self,
        position: Position,
        section: u64,
        tables: &[String],
    ) -> Result<(), ApplyError> {
        if self.pends() {
            self.commit().await?;
        }
        let epoch = self.progress.main.epoch;
        let before = At { epoch, position: Position::Bootstrap(section.saturating_sub(1)) };
        self.empty_all(tables, before, position).await?;
        self.move_to(position).await
    }

    /// Empties these tables as far as they are there, and notes where each of them is then.
    pub(super) async fn empty_all(
        &mut self,
        tables: &[String],
        then: At,
        position: Position,
    ) -> Result<(), ApplyError> {
        let at = self.told(position);
        self.begin(at).await?;
        let mut found = Vec::new();
        for name in tables {
            let table = table::look(self.pipe.client(), &self.traits, name).await?;
            found.extend(table.map(Arc::new));
        }
        let (client, ours) = (self.pipe.client(), &self.progress.tables);
        truncate::empty(client, &found, false, ours, at).await?;
        for name in tables {
            let was = self.progress.tables.get(name).copied();
            self.note_table(name, was, then).await?;
        }
        Ok(())
    }

    async fn apply(&mut self, run: Run) -> Result<(), ApplyError> {
        let (table, shape) = (Arc::clone(run.table()), Arc::clone(run.shape()));
        self.note(&table.name);
        self.figures.rows(shape.verb, run.replaced);
        let first = &run.changes[0];
        let (at, verb, miss) = (first.at, shape.verb, first.miss);
        let (otherwise, odd) = match (miss, self.config.conflict) {
            (true, _) => (Otherwise::Upsert, Some(Odd::Expected)),
            (false, Conflict::Halt) => (Otherwise::Nothing, None),
            (false, Conflict::Upsert) => (Otherwise::Upsert, Some(Odd::Conflict)),
            (false, Conflict::Skip) => (Otherwise::Skip, Some(Odd::Conflict)),
        };
        let check = |wanted: usize| Check::Rows {
            verb,
            table: Arc::clone(&table),
            wanted: wanted as u64,
            odd,
        };
        let plain = otherwise == Otherwise::Nothing && !shape.set.is_empty();
        if verb == Verb::Insert && plain && run.changes.len() >= COPY_ROWS {
            let mut rows = Vec::new();
            run.changes.iter().for_each(|change| {
                let values = change.values.iter().map(|value| value.as_deref().map(str::as_bytes));
                text::row(values, &mut rows);
            });
            let copy = sql::copy(&table, &shape.set);
            return self.pipe.copy(&copy, rows.into(), check(run.changes.len()), at).await;
        }
        let alone = match verb {
            Verb::Insert => otherwise != Otherwise::Nothing,
            // Of a row that was set aside and has another key by now this is all that ever comes.
            Verb::Update => otherwise == Otherwise::Upsert && (!miss || shape.moves()),
            Verb::Delete => false,
        };
        let width = shape.set.len() + shape.by.len();
        let mut changes = run.changes.into_iter().peekable();
        let mut left = changes.len();
        while let Some(next) = changes.peek() {
            let (at, whole) = (next.at, next.whole);
            let fits = |size: &usize| *size <= left && (1..=PARAMETERS).contains(&(size * width));
            let size = if alone { 1 } else { SIZES.into_iter().find(fits).unwrap_or(1) };
            let sql = match (size, verb) {
                (1, Verb::Update) if alone && whole => sql::update_or_insert(&table, &shape, miss),
                (1, _) => sql::one(&table, &shape, otherwise),
                _ => sql::many(&table, &shape, size),
            };
            let check = match (verb, alone && whole) {
                // It counts what it had to insert.
                (Verb::Update, true) => Check::Inverse { table: Arc::clone(&table), odd },
                _ => check(size),
            };
            let mut params = Vec::with_capacity(size * width);
            for change in changes.by_ref().take(size) {
                params.extend(change.values);
                params.extend(change.key);
            }
            left -= size;
            self.pipe.send(&sql, params, check, at).await?;
        }
        Ok(())
    }
}

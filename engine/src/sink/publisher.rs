//! The writer of the changes stream: turns batches into guarded appends.
//!
//! Every append says what this writer left behind, so it is done exactly once or not at
//! all; whatever goes wrong ends the publisher, and the next one starts by reading what
//! is there. The last entry of an unfinished transaction is held back until it is known
//! whether the transaction ends with it, because that entry carries the mark.
//!
//! What can go wrong: another writer took over (halt), the stream or the connection
//! moved (read again), Redis is full (wait, say so), a row that Redis cannot take.

use std::sync::Arc;

use super::Sink;
use super::budget::Budgeter;
use super::dead::{self, Aside};
use super::entry;
use super::error::SinkError;
use super::id::{Id, Lane};
use super::status::Status;
use super::store::{Answer, Append, Backend, Guard, NewEntry, StoreError};
use crate::batch::{Batch, Mark, Piece, Row};
use crate::position::{Lsn, Position};
use crate::sink::config::{Config, Durability, Encoding};
use tokio::time::Duration;

pub use epoch::{NewEpoch, begin_epoch, begin_epoch_from};
pub(crate) use open::check_server;
pub use open::{Claim, Opened, Opening, Promotion, WriterToken};

mod epoch;
pub(crate) mod open;

/// A call carries about this many bytes of data, or one row: Redis serves nobody else
/// while it runs.
const CALL_BYTES: usize = 2 << 20;
/// A call carries at most this many entries.
const CALL_ENTRIES: usize = 8_192;
/// First and longest pause while Redis is out of memory.
const OOM_PAUSE_MS: (u64, u64) = (100, 2_000);

/// Publishes to a [`Store`](crate::sink::store::Store).
#[derive(Debug)]
pub struct Publisher<S> {
    store: S,
    guard: Guard,
    encoding: Encoding,
    /// Of the load, for those who write it without a configuration.
    load_rows: u64,
    durability: Durability,
    durability_timeout: Duration,
    max_bulk_len: u64,
    budget: Budgeter,
    status: Status,
    /// Everything up to here is published or dropped, held entry and all.
    progress: Position,
    /// As far as the checkpoint says so.
    stored: Position,
    confirmed: Lsn,
    generation: u64,
    description: Option<Description>,
    /// Word of the last mark taken: a mark that comes a second time is none.
    mark: String,
    /// Rows that were set aside and are not written down yet.
    aside: Aside,
    pending: Vec<Pending>,
    data: Vec<u8>,
    spent: bool,
}

/// What the next append writes beside positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Digest of the START_REPLICATION options.
    pub options: String,
    /// Digest of the chain.
    pub chain: String,
    /// Fingerprint of the pseudonymisation keys.
    pub key_fingerprint: String,
}

/// An entry that is encoded but not sent.
#[derive(Debug)]
struct Pending {
    id: Id,
    op: &'static str,
    table: Arc<str>,
    /// Where its data ends; it begins where the one before ends.
    end: usize,
    last: bool,
    /// Where the stream stands without it.
    before: Position,
    /// Of a mark: its word.
    mark: Option<String>,
}

impl<S: Backend> Publisher<S> {
    /// Everything up to here was published, as far as this writer knows.
    #[must_use]
    pub fn position(&self) -> Position {
        self.stored
    }

    /// The figures that others may watch.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Stores other digests with the next append. To be called where a transaction
    /// begins, so that a half published one keeps those it began with.
    pub fn describe(&mut self, description: Description) {
        self.description = Some(description);
    }

    /// The store, for steps that do not publish.
    pub fn store(&mut self) -> &mut S {
        &mut self.store
    }

    /// Whether entries of the transaction at `lsn` are published without its end.
    fn is_open(&self, lsn: Lsn) -> bool {
        let mid = matches!(self.stored, Position::Wal { commit_lsn, ordinal }
            if commit_lsn == lsn && ordinal != 0 && ordinal != Position::LAST);
        mid && self.guard.last.high == lsn.0 && self.guard.last.low != 0
    }

    async fn publish_pieces(&mut self, batch: &Batch, confirmed: Lsn) -> Result<(), SinkError> {
        self.aside.take(&batch.aside.letters, &batch.aside.closings);
        let mut tables: Vec<Option<Arc<str>>> = vec![None; batch.relations.len()];
        for piece in &batch.pieces {
            for row in &batch.rows[piece.rows.clone()] {
                self.take(batch, piece, row, &mut tables)?;
                if self.data.len() >= CALL_BYTES || self.pending.len() >= CALL_ENTRIES {
                    self.send(self.pending.len().saturating_sub(1), self.confirmed).await?;
                }
            }
            if let Some(mark) = batch.mark(piece) {
                self.mark(piece.commit_lsn, mark)?;
            }
            if piece.end_lsn.is_some() {
                self.close(piece);
            }
        }
        let open = batch.pieces.last().is_some_and(|piece| piece.end_lsn.is_none());
        let open = open && !self.aside.presses();
        let held = usize::from(open && self.pending.last().is_some_and(|entry| !entry.last));
        self.send(self.pending.len() - held, confirmed.max(self.confirmed)).await
    }

    /// Encodes one row, unless it was dropped.
    fn take(
        &mut self,
        batch: &Batch,
        piece: &Piece,
        row: &Row,
        tables: &mut [Option<Arc<str>>],
    ) -> Result<(), SinkError> {
        let (position, before) = (row.position, self.progress);
        if position <= before || !matches!(position, Position::Wal { .. }) {
            return Err(SinkError::Disorder { position, after: before });
        }
        self.progress = position;
        if row.dropped {
            return Ok(());
        }
        let encoded = self.encoding.row(batch, piece, row, &mut self.data);
        encoded.map_err(|error| SinkError::Encode { position, error })?;
        let table = match &mut tables[row.relation as usize] {
            Some(table) if row.detail.is_none() => Arc::clone(table),
            slot => {
                let table: Arc<str> = entry::tables(batch, row).into();
                if row.detail.is_none() {
                    *slot = Some(Arc::clone(&table));
                }
                table
            }
        };
        self.check_size(position, &table)?;
        let (id, end) = (Id::of(position), self.data.len());
        let (op, last, mark) = (row.op.name(), false, None);
        self.pending.push(Pending { id, op, table, end, last, before, mark });
        Ok(())
    }

    /// Takes a mark, once: its word goes to the checkpoint in the same step.
    fn mark(&mut self, at: Lsn, mark: &Mark) -> Result<(), SinkError> {
        if self.mark == mark.nonce {
            return Ok(());
        }
        let (position, before) = (Position::Wal { commit_lsn: at, ordinal: 0 }, self.progress);
        if position <= before {
            return Err(SinkError::Disorder { position, after: before });
        }
        self.progress = position;
        self.mark.clone_from(&mark.nonce);
        self.encoding.mark(mark.section, &mark.tables, &mut self.data);
        let (op, table) = ("restart", mark.tables.join(",").into());
        let (id, end, last, mark) =
            (Id::of(position), self.data.len(), true, Some(mark.nonce.clone()));
        self.pending.push(Pending { id, op, table, end, last, before, mark });
        Ok(())
    }

    /// Refuses what Redis would answer by closing the connection.
    fn check_size(&self, position: Position, table: &str) -> Result<(), SinkError> {
        let start = self.pending.last().map_or(0, |entry| entry.end);
        let bytes = (self.data.len() - start) as u64;
        if bytes <= self.max_bulk_len {
            return Ok(());
        }
        let table = table.to_owned();
        Err(SinkError::TooLarge { position, table, bytes, limit: self.max_bulk_len })
    }

    /// Marks the end of a transaction: on its last entry if that is still here, by an
    /// entry of its own if the others are published already.
    fn close(&mut self, piece: &Piece) {
        let lsn = piece.commit_lsn;
        // Begin of a transaction may carry the very LSN of a message outside any.
        let single = piece.xid == 0;
        let end =
            Position::Wal { commit_lsn: lsn, ordinal: if single { 0 } else { Position::LAST } };
        let open = !single && self.is_open(lsn);
        match self.pending.last_mut().filter(|entry| entry.id.high == lsn.0) {
            Some(entry) => entry.last = true,
            None if open => {
                self.encoding.commit(piece.xid, piece.commit_us, &mut self.data);
                let seen = Id::of(self.progress);
                let id = seen.max(Id { high: lsn.0, low: self.guard.last.low + 1 });
                let (table, end) = (Arc::from(""), self.data.len());
                let before = self.progress;
                let (op, last, mark) = ("commit", true, None);
                self.pending.push(Pending { id, op, table, end, last, before, mark });
            }
            None => {}
        }
        self.progress = self.progress.max(end);
    }

    /// Sends the first `count` pending entries and moves the checkpoint to where the
    /// next one begins.
    async fn send(&mut self, count: usize, confirmed: Lsn) -> Result<(), SinkError> {
        let position = self.pending.get(count).map_or(self.progress, |entry| entry.before);
        let position = position.max(self.stored);
        if count == 0 && position == self.stored && confirmed == self.confirmed {
            return Ok(());
        }
        let newest = count.checked_sub(1).map_or(self.guard.last, |i| self.pending[i].id);
        let dead = self.aside.through(self.guard.epoch, position, newest)?;
        if count > 0 {
            self.admit().await?;
        }
        let mut fields = self.fields(position, confirmed);
        let marks = self.pending[..count].iter().rev();
        let mark =
            marks.filter_map(|entry| Some((entry.mark.as_ref()?, Lsn(entry.id.high)))).next();
        fields.extend(mark.map(|(word, lsn)| ("mark", format!("{word} {lsn}"))));
        let bytes = count.checked_sub(1).map_or(0, |i| self.pending[i].end);
        let mut start = 0;
        let entries = self.pending[..count].iter().map(|entry| {
            let data = &self.data[start..entry.end];
            start = entry.end;
            NewEntry { id: entry.id, op: entry.op, table: &entry.table, data, last: entry.last }
        });
        let entries = entries.collect();
        let append = Append { generation: self.generation, entries, fields, dead };
        let (store, budget) = (&mut self.store, &mut self.budget);
        append_waiting(store, budget, &self.guard, &append, &self.status).await?;
        self.aside.written(&append.dead);
        self.sent(count, bytes, position, confirmed);
        Ok(())
    }

    fn fields(&self, position: Position, confirmed: Lsn) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("position", position.to_string()),
            ("confirmed", confirmed.to_string()),
            ("generation", self.generation.to_string()),
        ];
        if let Some(description) = &self.description {
            fields.push(("options", description.options.clone()));
            fields.push(("chain", description.chain.clone()));
            fields.push(("key_fingerprint", description.key_fingerprint.clone()));
            fields.push(("encoding", self.encoding.name().to_owned()));
            fields.push(("load_rows", self.load_rows.to_string()));
        }
        fields
    }

    fn sent(&mut self, count: usize, bytes: usize, position: Position, confirmed: Lsn) {
        if let Some(entry) = count.checked_sub(1).map(|i| &self.pending[i]) {
            self.guard.last = entry.id;
        }
        self.description = None;
        self.pending.drain(..count);
        self.data.drain(..bytes);
        for entry in &mut self.pending {
            entry.end -= bytes;
        }
        // One huge row must not keep its memory for ever.
        self.data.shrink_to(self.data.len().max(2 * CALL_BYTES));
        (self.stored, self.confirmed) = (position, confirmed);
        self.budget.published(bytes as u64);
        self.status.update(|figures| {
            figures.entries += count as u64;
            figures.bytes += bytes as u64;
            figures.position = Some(position);
            figures.confirmed = confirmed;
        });
    }

    /// Waits while the stream's budget is used up, trimming what nobody needs.
    async fn admit(&mut self) -> Result<(), SinkError> {
        let (store, epoch) = (&mut self.store, self.guard.epoch);
        self.budget.admit(store, epoch, &self.status).await
    }

    /// One idle or publishing step, after which the sink is as before or spent.
    async fn confirm_inner(&mut self, position: Lsn, confirmed: Lsn) -> Result<(), SinkError> {
        // Everything before `position` is done; what begins exactly there is not.
        let done = position.0.checked_sub(1).map(|lsn| Position::after(Lsn(lsn)));
        let idle = self.pending.is_empty()
            && !matches!(self.progress, Position::Wal { ordinal, .. }
                if ordinal != 0 && ordinal != Position::LAST);
        if let Some(done) = done.filter(|_| idle) {
            self.progress = self.progress.max(done);
        }
        self.send(0, confirmed.max(self.confirmed)).await?;
        self.budget.tick(&mut self.store, self.guard.epoch, &self.status).await
    }

    fn enter(&mut self) -> Result<(), SinkError> {
        match std::mem::replace(&mut self.spent, true) {
            true => Err(SinkError::Spent),
            false => Ok(()),
        }
    }
}

impl<S: Backend> Sink for Publisher<S> {
    type Error = SinkError;

    async fn publish(
        &mut self,
        batch: Batch,
        generation: u64,
        confirmed: Lsn,
    ) -> Result<(), SinkError> {
        self.enter()?;
        if let Some(entry) = self.pending.first().filter(|_| generation != self.generation) {
            let position = entry.id.position(Lane::Changes);
            return Err(SinkError::TwoGenerations {
                position,
                began: self.generation,
                now: generation,
            });
        }
        self.generation = generation;
        self.publish_pieces(&batch, confirmed).await?;
        self.spent = false;
        Ok(())
    }

    async fn confirm(&mut self, position: Lsn, confirmed: Lsn) -> Result<(), SinkError> {
        self.enter()?;
        self.confirm_inner(position, confirmed).await?;
        self.spent = false;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), SinkError> {
        self.enter()?;
        self.store.durable(self.durability, self.durability_timeout).await?;
        self.spent = false;
        Ok(())
    }
}

/// Sends one append. A refusal for want of memory changed nothing, so exactly this may
/// be sent again; every other failure ends the writer.
async fn append_waiting<S: Backend>(
    store: &mut S,
    budget: &mut Budgeter,
    guard: &Guard,
    append: &Append<'_>,
    status: &Status,
) -> Result<(), SinkError> {
    let mut pause = OomPause::default();
    loop {
        match store.append(guard, append).await {
            // Refused before anything was written: exactly this may be sent again.
            Ok(Answer::Full { there }) => dead::wait_for_room(&append.dead, there, status).await,
            Ok(answer) => {
                status.pause(None);
                return settled(answer, Lane::Changes, guard.last);
            }
            Err(StoreError::Oom) => {
                pause.wait(status).await;
                budget.trim(store, guard.epoch, status, true).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Growing pauses while Redis is out of memory.
pub(crate) struct OomPause {
    next_ms: u64,
}

impl Default for OomPause {
    fn default() -> OomPause {
        OomPause { next_ms: OOM_PAUSE_MS.0 }
    }
}

impl OomPause {
    pub(crate) async fn wait(&mut self, status: &Status) {
        status.pause(Some(
            "Redis is out of memory (OOM): let a consumer acknowledge, free some memory, or raise \
             maxmemory"
                .to_owned(),
        ));
        tokio::time::sleep(Duration::from_millis(self.next_ms)).await;
        self.next_ms = (self.next_ms * 2).min(OOM_PAUSE_MS.1);
    }
}

/// The answer to a guarded write as a result.
pub(crate) fn settled(answer: Answer, lane: Lane, expected: Id) -> Result<(), SinkError> {
    match answer {
        Answer::Done => Ok(()),
        Answer::Full { .. } => Err(StoreError::Refused("FULL".to_owned()).into()),
        Answer::Fenced { writer, epoch } => Err(SinkError::Fenced { lane, writer, epoch }),
        Answer::Moved { top, last } => Err(SinkError::Moved { lane, top, last, expected }),
    }
}

/// The settings a publisher keeps.
impl<S> Publisher<S> {
    fn new(store: S, guard: Guard, config: &Config, status: Status, limit: u64) -> Publisher<S> {
        Publisher {
            store,
            guard,
            encoding: config.encoding,
            load_rows: config.load_rows(),
            durability: config.durability,
            durability_timeout: Duration::from_millis(config.durability_timeout_ms),
            max_bulk_len: limit,
            budget: Budgeter::new(Lane::Changes, config.budget, config.retention),
            status,
            progress: Position::START,
            stored: Position::START,
            confirmed: Lsn::ZERO,
            generation: 0,
            description: None,
            mark: String::new(),
            aside: Aside::new(config.dead_letters),
            pending: Vec::new(),
            data: Vec::new(),
            spent: false,
        }
    }
}

#[cfg(test)]
mod tests;

//! A source without a database: a log of transactions in memory, read through a slot
//! that is confirmed and re-opened exactly as a real one. For simulation and benchmarks.
//!
//! Deterministic: what a reader is given depends on the log, the slot, the limits and the
//! calls alone. What can go wrong: nothing by itself; [`MemoryServer::fail_next`] and
//! [`MemoryServer::shut_down`] make it go wrong on purpose.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use kasho_plugin_sdk::{Op, Relation, Value};
use tokio::sync::Notify;

use super::assemble::{Assembler, HEARTBEAT_PREFIX, Limits, NewRow, hex};
use super::{Received, Source};
use crate::ack::Durable;
use crate::batch::{Cell, DdlEvent, Detail, Image, Span, ddl_relation, message_relation};
use crate::error::Class;
use crate::position::Lsn;

/// One change of a transaction.
#[derive(Clone, Debug)]
struct Change {
    op: Op,
    relations: Vec<Arc<Relation>>,
    /// Cells of the images point into `bytes`.
    new: Option<Vec<Cell>>,
    old: Option<Vec<Cell>>,
    detail: Option<Detail>,
    bytes: Bytes,
}

/// A transaction to be committed to a [`MemoryServer`].
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    changes: Vec<Change>,
}

impl Transaction {
    /// An empty one.
    #[must_use]
    pub fn new() -> Transaction {
        Transaction::default()
    }

    fn push(
        mut self,
        op: Op,
        relation: &Arc<Relation>,
        new: Option<&[Value<'_>]>,
        old: Option<&[Value<'_>]>,
    ) -> Self {
        let mut bytes = BytesMut::new();
        let mut image = |values: Option<&[Value<'_>]>| {
            values.map(|values| values.iter().map(|value| cell(*value, &mut bytes)).collect())
        };
        let (new, old) = (image(new), image(old));
        let relations = vec![Arc::clone(relation)];
        self.changes.push(Change { op, relations, new, old, detail: None, bytes: bytes.freeze() });
        self
    }

    /// INSERT.
    #[must_use]
    pub fn insert(self, relation: &Arc<Relation>, new: &[Value<'_>]) -> Transaction {
        self.push(Op::Insert, relation, Some(new), None)
    }

    /// UPDATE, with the image before it as the relation's identity gives it.
    #[must_use]
    pub fn update(
        self,
        relation: &Arc<Relation>,
        old: Option<&[Value<'_>]>,
        new: &[Value<'_>],
    ) -> Transaction {
        self.push(Op::Update, relation, Some(new), old)
    }

    /// DELETE.
    #[must_use]
    pub fn delete(self, relation: &Arc<Relation>, old: &[Value<'_>]) -> Transaction {
        self.push(Op::Delete, relation, None, Some(old))
    }

    /// TRUNCATE of at least one table.
    #[must_use]
    pub fn truncate(mut self, relations: &[Arc<Relation>], cascade: bool) -> Transaction {
        let detail = Detail::Truncate { relations: Vec::new(), cascade, restart_identity: false };
        self.changes.push(Change {
            op: Op::Truncate,
            relations: relations.to_vec(),
            new: None,
            old: None,
            detail: Some(detail),
            bytes: Bytes::new(),
        });
        self
    }

    /// `pg_logical_emit_message(true, …)`.
    #[must_use]
    pub fn message(mut self, prefix: &str, content: &[u8]) -> Transaction {
        self.changes.push(message(prefix, content, true));
        self
    }

    /// A schema change, as the event triggers tell of it.
    #[must_use]
    pub fn ddl(self, event: &DdlEvent) -> Transaction {
        let values = event.values();
        let new = values.map(|text| text.map_or(Value::Null, Value::Text));
        let mut made = self.push(Op::Ddl, &ddl_relation(), Some(&new), None);
        if let Some(change) = made.changes.last_mut() {
            change.detail = Some(event.beside());
        }
        made
    }
}

fn cell(value: Value<'_>, bytes: &mut BytesMut) -> Cell {
    match value {
        Value::Null => Cell::Null,
        Value::Unchanged => Cell::Unchanged,
        Value::Absent => Cell::Absent,
        Value::Text(text) => {
            let short = |n| u32::try_from(n).unwrap_or(u32::MAX);
            let span = Span { segment: 0, start: short(bytes.len()), len: short(text.len()) };
            bytes.extend_from_slice(text.as_bytes());
            Cell::Text(span)
        }
    }
}

fn message(prefix: &str, content: &[u8], transactional: bool) -> Change {
    let text = std::str::from_utf8(content);
    let hexed = hex(content);
    let shown = text.unwrap_or_else(|_| std::str::from_utf8(&hexed).unwrap_or_default());
    let mut bytes = BytesMut::new();
    let new = [prefix, shown].map(|text| cell(Value::Text(text), &mut bytes));
    Change {
        op: Op::Message,
        relations: vec![message_relation(text.is_err())],
        new: Some(new.to_vec()),
        old: None,
        detail: Some(Detail::Message { transactional }),
        bytes: bytes.freeze(),
    }
}

#[derive(Clone, Debug)]
enum Entry {
    Transaction { xid: u32, commit_lsn: Lsn, end_lsn: Lsn, us: i64, changes: Arc<[Change]> },
    Lone { lsn: Lsn, us: i64, change: Arc<Change> },
}

impl Entry {
    /// What must be confirmed for it not to be sent again.
    fn end(&self) -> Lsn {
        match self {
            Entry::Transaction { end_lsn, .. } => *end_lsn,
            Entry::Lone { lsn, .. } => *lsn,
        }
    }
}

#[derive(Debug)]
struct State {
    log: Vec<Entry>,
    /// Where the next record begins.
    wal_end: Lsn,
    xid: u32,
    confirmed: Lsn,
    failures: VecDeque<Class>,
    shut: bool,
}

/// A log with one slot on it. Clones share it; it outlives its readers.
#[derive(Clone, Debug)]
pub struct MemoryServer {
    state: Arc<Mutex<State>>,
    grown: Arc<Notify>,
    messages: Arc<[String]>,
}

impl MemoryServer {
    /// An empty log that begins at `start`, of which messages with a prefix in
    /// `messages` are published.
    #[must_use]
    pub fn new(start: Lsn, messages: &[&str]) -> MemoryServer {
        let state = State {
            log: Vec::new(),
            wal_end: start,
            xid: 700,
            confirmed: start,
            failures: VecDeque::new(),
            shut: false,
        };
        MemoryServer {
            state: Arc::new(Mutex::new(state)),
            grown: Arc::new(Notify::new()),
            messages: messages.iter().map(|&m| m.to_owned()).collect(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits a transaction and returns the LSN of its commit record.
    pub fn commit(&self, transaction: Transaction) -> Lsn {
        // 64 bytes of log a change and 48 for the commit record: any growth will do.
        let changes = u64::try_from(transaction.changes.len()).unwrap_or(0);
        self.commit_after(64 * changes, transaction)
    }

    /// Commits a transaction whose changes were logged before whatever was logged last, so
    /// that its commit record begins exactly at the end of the log: where a message that
    /// was just emitted lies.
    pub fn commit_logged(&self, transaction: Transaction) -> Lsn {
        self.commit_after(0, transaction)
    }

    fn commit_after(&self, bytes: u64, transaction: Transaction) -> Lsn {
        let mut state = self.state();
        state.xid += 1;
        let commit_lsn = Lsn(state.wal_end.0 + bytes);
        let end_lsn = Lsn(commit_lsn.0 + 48);
        state.wal_end = end_lsn;
        let (xid, us) = (state.xid, time(commit_lsn));
        let changes = transaction.changes.into();
        state.log.push(Entry::Transaction { xid, commit_lsn, end_lsn, us, changes });
        drop(state);
        self.grown.notify_waiters();
        commit_lsn
    }

    /// `pg_logical_emit_message(false, …)`; as on a real server its LSN may be exactly
    /// that of the commit that comes next ([`MemoryServer::commit_logged`]).
    pub fn emit(&self, prefix: &str, content: &[u8]) -> Lsn {
        let mut state = self.state();
        let lsn = Lsn(state.wal_end.0 + 64);
        state.wal_end = lsn;
        let change = Arc::new(message(prefix, content, false));
        state.log.push(Entry::Lone { lsn, us: time(lsn), change });
        drop(state);
        self.grown.notify_waiters();
        lsn
    }

    /// Log that holds nothing for the reader: another database, an unpublished table.
    pub fn advance(&self, bytes: u64) -> Lsn {
        let mut state = self.state();
        state.wal_end = Lsn(state.wal_end.0 + bytes);
        let end = state.wal_end;
        drop(state);
        self.grown.notify_waiters();
        end
    }

    /// What the slot has been told to be durable.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        self.state().confirmed
    }

    /// End of the log.
    #[must_use]
    pub fn wal_end(&self) -> Lsn {
        self.state().wal_end
    }

    /// Ends the stream in good order once everything was read, now and for later readers.
    pub fn shut_down(&self) {
        self.state().shut = true;
        self.grown.notify_waiters();
    }

    /// The next call of `next` of whoever reads fails so.
    pub fn fail_next(&self, class: Class) {
        self.state().failures.push_back(class);
        self.grown.notify_waiters();
    }

    /// A standby that received the log up to `at` and is promoted, with a copy of the slot:
    /// from there on it uses the same addresses for another log.
    #[must_use]
    pub fn promoted(&self, at: Lsn) -> MemoryServer {
        let state = self.state();
        let log: Vec<Entry> = state.log.iter().filter(|entry| entry.end() <= at).cloned().collect();
        let state = State {
            log,
            wal_end: at,
            xid: state.xid,
            confirmed: state.confirmed.min(at),
            failures: VecDeque::new(),
            shut: false,
        };
        MemoryServer {
            state: Arc::new(Mutex::new(state)),
            grown: Arc::default(),
            messages: Arc::clone(&self.messages),
        }
    }

    /// Reads the slot, from what is confirmed or from `from` if that is later.
    #[must_use]
    pub fn open(&self, from: Lsn, limits: Limits) -> MemorySource {
        let from = from.max(self.confirmed());
        MemorySource {
            server: self.clone(),
            asm: Assembler::new(limits),
            from,
            entry: 0,
            change: 0,
            begun: false,
            idle_said: from,
            segments: 0,
        }
    }
}

/// Any time will do, if it is the same in every run.
fn time(lsn: Lsn) -> i64 {
    1_700_000_000_000_000_i64.saturating_add_unsigned(lsn.0)
}

/// A failure that was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory source was told to fail ({0:?})")]
pub struct MemoryError(pub Class);

impl MemoryError {
    /// As it was ordered.
    #[must_use]
    pub fn class(self) -> Class {
        self.0
    }
}

impl crate::pipeline::Classified for MemoryError {
    fn class(&self) -> Class {
        self.0
    }
}

/// A reader of a [`MemoryServer`].
pub struct MemorySource {
    server: MemoryServer,
    asm: Assembler,
    from: Lsn,
    entry: usize,
    change: usize,
    begun: bool,
    idle_said: Lsn,
    segments: u32,
}

impl MemorySource {
    /// Moves on by one event; false at the end of the log.
    fn step(&mut self) -> bool {
        let entry = self.server.state().log.get(self.entry).cloned();
        let Some(entry) = entry else { return false };
        // As a real slot: what ends at or before the confirmed LSN is not sent again.
        if entry.end() <= self.from {
            self.entry += 1;
            return true;
        }
        let sequence = match entry {
            Entry::Lone { lsn, us, change } => {
                let row = self.published(&change).then(|| self.row(&change));
                self.entry += 1;
                self.asm.lone(lsn, us, row, change.bytes.len())
            }
            Entry::Transaction { xid, commit_lsn, us, .. } if !self.begun => {
                self.begun = true;
                self.asm.begin(xid, commit_lsn, us)
            }
            Entry::Transaction { end_lsn, changes, .. } => match changes.get(self.change) {
                Some(change) => {
                    self.change += 1;
                    if self.published(change) {
                        let row = self.row(change);
                        self.asm.row(row, change.bytes.len())
                    } else {
                        self.asm.count()
                    }
                }
                None => {
                    self.entry += 1;
                    (self.begun, self.change) = (false, 0);
                    self.asm.commit(end_lsn)
                }
            },
        };
        // The log holds whole transactions one after the other.
        debug_assert_eq!(sequence, Ok(()));
        true
    }

    fn published(&self, change: &Change) -> bool {
        let (Op::Message, Some(new)) = (change.op, &change.new) else { return true };
        let Some(Cell::Text(span)) = new.first() else { return false };
        let prefix = &change.bytes[..span.len as usize];
        prefix != HEARTBEAT_PREFIX.as_bytes()
            && self.server.messages.iter().any(|listed| listed.as_bytes() == prefix)
    }

    fn row(&mut self, change: &Change) -> NewRow {
        let batch = &mut self.asm.batch;
        let indexes: Vec<u32> =
            change.relations.iter().map(|relation| batch.relation_index(relation)).collect();
        let segment = self.segments;
        if !change.bytes.is_empty() {
            batch.push_segment(change.bytes.clone());
            self.segments += 1;
        }
        let mut image = |cells: &Option<Vec<Cell>>| -> Option<Image> {
            let moved = |cell: &Cell| match *cell {
                Cell::Text(span) => Cell::Text(Span { segment, ..span }),
                other => other,
            };
            cells.as_ref().map(|cells| batch.push_image(cells.iter().map(moved)))
        };
        let (new, old) = (image(&change.new), image(&change.old));
        let detail = change.detail.clone().map(|detail| {
            Box::new(match detail {
                Detail::Truncate { cascade, restart_identity, .. } => {
                    Detail::Truncate { relations: indexes.clone(), cascade, restart_identity }
                }
                other @ (Detail::Message { .. } | Detail::Ddl(_)) => other,
            })
        });
        let relation = indexes.first().copied().unwrap_or(0);
        NewRow { op: change.op, relation, new, old, detail }
    }
}

impl Source for MemorySource {
    type Error = MemoryError;

    async fn next(&mut self) -> Result<Received, MemoryError> {
        loop {
            let grown = Arc::clone(&self.server.grown);
            let grown = grown.notified();
            tokio::pin!(grown);
            // Whatever is added from here on wakes the wait below.
            grown.as_mut().enable();
            if let Some(class) = self.server.state().failures.pop_front() {
                return Err(MemoryError(class));
            }
            while !self.asm.full() && self.step() {}
            if self.asm.has_any() {
                self.segments = 0;
                return Ok(Received::Batch(self.asm.take()));
            }
            let (wal_end, shut) = {
                let state = self.server.state();
                (state.wal_end, state.shut)
            };
            if wal_end > self.idle_said {
                self.idle_said = wal_end;
                return Ok(Received::Idle { wal_end });
            }
            if shut {
                return Ok(Received::Closed);
            }
            grown.await;
        }
    }

    fn acknowledge(&mut self, durable: Durable) {
        let mut state = self.server.state();
        state.confirmed = state.confirmed.max(durable.lsn());
    }
}

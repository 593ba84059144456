//! Takes received bytes apart and makes batches of them, without copying a value.
//!
//! What can go wrong: bytes that are no message, a row that does not fit its table, an
//! event out of order. Each is an error that names its place; nothing here panics. The
//! only thing that is waited for is the catalog, when a table is described.

use std::sync::Arc;

use bytes::Bytes;
use kasho_plugin_sdk::{Identity, Op, Relation};
use tokio::task::JoinHandle;

use super::super::assemble::{
    Assembler, HEARTBEAT_PREFIX, Limits, NewRow, OrderError, RELOAD_PREFIX, RETRY_PREFIX, hex,
};
use super::super::error::SourceError;
use super::super::marks::Marks;
use super::super::retries::{Again, Retries, Told};
use super::again::{Rereader, Row};
use super::frames::{Frame, frame};
use super::pgoutput::{self, Col, Message, Old, Tuple, decode};
use super::relation::Relations;
use crate::batch::{Batch, Cell, Closing, Detail, Image, Span, ddl_relation, message_relation};
use crate::ddl;
use crate::position::{Lsn, Position};

mod schema;

/// Takes received bytes apart.
pub(super) struct Reader {
    chunk: Bytes,
    /// Where the next frame begins.
    offset: usize,
    /// Where the part of the chunk begins that the present batch uses, and its number.
    segment: Option<(u32, usize)>,
    /// Segments of the present batch so far.
    segments: u32,
    pub(super) asm: Assembler,
    relations: Relations,
    messages: Vec<String>,
    pub(super) publications: String,
    /// What the engine has announced.
    pub(super) marks: Marks,
    pub(super) retries: Retries,
    rereader: Rereader,
    /// A row that is being read again, and its word: a look at it that is cut short goes on.
    rereading: Option<(String, JoinHandle<Result<Row, String>>)>,
    text_messages: Arc<Relation>,
    byte_messages: Arc<Relation>,
    schema_changes: Arc<Relation>,
    /// The server's log has been read up to here, as of a keepalive between transactions.
    pub(super) wal_end: Lsn,
    /// Header of the frame last decoded.
    pub(super) last_lsn: Lsn,
}

impl Reader {
    pub(super) fn new(
        limits: Limits,
        relations: Relations,
        messages: Vec<String>,
        (publications, rereader): (String, Rereader),
    ) -> Reader {
        Reader {
            chunk: Bytes::new(),
            offset: 0,
            segment: None,
            segments: 0,
            asm: Assembler::new(limits),
            relations,
            messages,
            publications,
            marks: Marks::default(),
            retries: Retries::default(),
            rereader,
            rereading: None,
            text_messages: message_relation(false),
            byte_messages: message_relation(true),
            schema_changes: ddl_relation(),
            wal_end: Lsn::ZERO,
            last_lsn: Lsn::ZERO,
        }
    }

    /// The chunk before must have been read to its end.
    pub(super) fn feed(&mut self, chunk: Bytes) {
        self.close_segment();
        self.chunk = chunk;
        self.offset = 0;
    }

    /// Reads frames until the batch is full or the chunk is at its end. Cancel-safe: a
    /// frame counts as read only when all of it has been done.
    pub(super) async fn read(&mut self) -> Result<(), SourceError> {
        // A reference of its own, so that messages may borrow it while the reader changes.
        let chunk = self.chunk.clone();
        while !self.asm.full() {
            let Some(next) = frame(&chunk, self.offset) else { return Ok(()) };
            let (frame, next) = next?;
            match frame {
                Frame::Data { lsn, sent, at, message } => {
                    self.last_lsn = lsn;
                    let decoded = decode(message);
                    let decoded =
                        decoded.map_err(|source| SourceError::Decode { at: lsn, source })?;
                    if let Message::Relation(relation) = &decoded {
                        self.relations.describe(relation).await?;
                    } else if let Message::Message { transactional: false, lsn, prefix, content } =
                        &decoded
                        && prefix.bytes == RETRY_PREFIX.as_bytes()
                    {
                        let us = pgoutput::unix_us(sent);
                        self.again(*lsn, content.bytes, us).await?;
                    } else {
                        self.message(&decoded, at, sent, next - self.offset)?;
                    }
                }
                // Inside a transaction it says nothing about what may be forgotten.
                Frame::Keepalive(wal_end) if self.asm.between() => {
                    self.wal_end = self.wal_end.max(wal_end);
                }
                Frame::Keepalive(_) | Frame::Other => {}
            }
            self.offset = next;
        }
        Ok(())
    }

    /// One message but a relation's; `at` is where it begins in the chunk, `bytes` the
    /// size of its frame.
    fn message(
        &mut self,
        message: &Message<'_>,
        at: usize,
        sent: i64,
        bytes: usize,
    ) -> Result<(), SourceError> {
        let order = |e: OrderError| SourceError::protocol("streaming", e.to_string());
        if message.is_change() {
            let commit = self.asm.commit_lsn().unwrap_or(self.last_lsn);
            self.relations.place((commit, self.last_lsn));
        }
        match *message {
            Message::Begin { final_lsn, commit_us, xid } => {
                self.asm.begin(xid, final_lsn, commit_us).map_err(order)
            }
            Message::Commit { end_lsn, .. } => self.asm.commit(end_lsn).map_err(order),
            Message::Origin | Message::Type | Message::Relation(_) => Ok(()),
            Message::Insert { relation, new } => {
                let described = self.relation(relation)?;
                let columns = described.columns.len();
                self.refuse_unchanged(&described, new)?;
                let new = self.image(new, at, columns, |_, cell| cell)?;
                let relation = self.relation_index(relation)?;
                let op = Op::Insert;
                self.row(NewRow { op, relation, new: Some(new), old: None, detail: None }, bytes)
            }
            Message::Update { relation, ref old, new } => {
                let (old, new) = self.update(relation, old.as_ref(), new, at)?;
                let relation = self.relation_index(relation)?;
                let op = Op::Update;
                self.row(NewRow { op, relation, new: Some(new), old, detail: None }, bytes)
            }
            Message::Delete { relation, ref old } => {
                let described = self.relation(relation)?;
                let old = self.old_image(&described, old, at)?;
                let relation = self.relation_index(relation)?;
                let op = Op::Delete;
                self.row(NewRow { op, relation, new: None, old: Some(old), detail: None }, bytes)
            }
            Message::Truncate { cascade, restart_identity, relations } => {
                let all: Result<Vec<u32>, _> =
                    relations.iter().map(|oid| self.relation_index(oid)).collect();
                let relations = all?;
                // The server sends none for none.
                let Some(&relation) = relations.first() else { return Ok(()) };
                let detail = Detail::Truncate { relations, cascade, restart_identity };
                let (op, detail) = (Op::Truncate, Some(Box::new(detail)));
                self.row(NewRow { op, relation, new: None, old: None, detail }, bytes)
            }
            Message::Message { transactional, lsn, prefix, content } => {
                self.told((transactional, lsn), (prefix, content), (at, sent, bytes))
            }
        }
    }

    /// A logical message.
    fn told(
        &mut self,
        (transactional, lsn): (bool, Lsn),
        (prefix, content): (pgoutput::Bytes<'_>, pgoutput::Bytes<'_>),
        (at, sent, bytes): (usize, i64, usize),
    ) -> Result<(), SourceError> {
        let order = |e: OrderError| SourceError::protocol("streaming", e.to_string());
        let us = pgoutput::unix_us(sent);
        if !transactional
            && prefix.bytes == RELOAD_PREFIX.as_bytes()
            && let Some(mark) = self.marks.matching(content.bytes)
        {
            return self.asm.mark(lsn, us, mark).map_err(order);
        }
        let row = match transactional && prefix.bytes == ddl::PREFIX.as_bytes() {
            true => self.ddl_row(content.bytes),
            false => self.message_row(prefix, content, at, transactional),
        };
        match (transactional, row) {
            (true, Some(row)) => self.row(row, bytes),
            (true, None) => self.asm.count().map_err(order),
            (false, row) => self.lone(lsn, us, row, bytes),
        }
    }

    /// A message in whose place a row stands that was set aside before, if it was announced.
    /// Cancel-safe.
    async fn again(&mut self, lsn: Lsn, word: &[u8], us: i64) -> Result<(), SourceError> {
        let Some((word, again)) = self.retries.matching(word, lsn) else {
            return self.lone(lsn, us, None, 0);
        };
        let stream = self.relations.entries.get(&again.oid).map(|e| Arc::clone(&e.relation));
        if self.rereading.as_ref().is_none_or(|(of, _)| *of != word) {
            let read = self.rereader.clone().read(Arc::clone(&again), stream.clone());
            self.rereading = Some((word.clone(), tokio::spawn(read)));
        }
        let Some((_, reading)) = &mut self.rereading else { return Ok(()) };
        let read = reading.await;
        self.rereading = None;
        match read.unwrap_or_else(|_| Err("looking for it failed".to_owned())) {
            Ok(row) => {
                let gone = row.values.is_none();
                match self.retries.tell(&word, if gone { Told::Gone(lsn) } else { Told::Read(lsn) })
                {
                    true => self.found(&again, lsn, us, (row, stream)),
                    false => self.lone(lsn, us, None, 0),
                }
            }
            Err(why) => {
                self.retries.tell(&word, Told::Failed(why));
                self.lone(lsn, us, None, 0)
            }
        }
    }

    /// Puts a row that was read again, and is waited for, into its place.
    fn found(
        &mut self,
        again: &Again,
        lsn: Lsn,
        us: i64,
        (row, stream): (Row, Option<Arc<Relation>>),
    ) -> Result<(), SourceError> {
        let position = Position::Wal { commit_lsn: lsn, ordinal: 0 };
        let described = stream.unwrap_or_else(|| self.relations.settle(&row.relation));
        let gone = row.values.is_none();
        let shown = !gone || again.delete;
        let values = row.values.unwrap_or_else(|| {
            let key = |name: &String| again.columns.iter().position(|column| column == name);
            let value = |name| key(name).and_then(|at| again.values[at].clone());
            described.columns.iter().map(|column| value(&column.name)).collect()
        });
        let bytes = values.iter().flatten().map(String::len).sum();
        let new = shown.then(|| {
            let image = self.own_image(&described, values, |name| {
                !gone || again.columns.iter().any(|column| column == name)
            });
            let relation = self.asm.batch.relation_index(&described);
            let whole = described.identity == Identity::Full;
            let op = match (gone, whole) {
                (true, _) => Op::Delete,
                // An update would have to say what every column was.
                (false, true) => Op::Insert,
                (false, false) => again.op,
            };
            let (new, old) = if gone { (None, Some(image)) } else { (Some(image), None) };
            NewRow { op, relation, new, old, detail: None }
        });
        if again.closes || shown {
            let letter = again.letter.clone();
            let closes = again.closes;
            self.asm.batch.aside.closings.push(Closing { position, letter, row: shown, closes });
        }
        self.lone(lsn, us, new, bytes)
    }

    /// An image of values that were not received; the others are absent.
    fn own_image(
        &mut self,
        relation: &Relation,
        values: Vec<Option<String>>,
        there: impl Fn(&str) -> bool,
    ) -> Image {
        self.close_segment();
        let (mut text, mut cells) = (Vec::new(), Vec::new());
        for (column, value) in relation.columns.iter().zip(values) {
            cells.push(match value {
                _ if !there(&column.name) => Cell::Absent,
                Some(value) => {
                    let cell = span(self.segments, text.len(), value.len());
                    text.extend_from_slice(value.as_bytes());
                    Cell::Text(cell)
                }
                None => Cell::Null,
            });
        }
        self.asm.batch.push_segment(text.into());
        self.segments += 1;
        self.asm.batch.push_image(cells)
    }

    fn lone(
        &mut self,
        lsn: Lsn,
        us: i64,
        row: Option<NewRow>,
        bytes: usize,
    ) -> Result<(), SourceError> {
        let added = self.asm.lone(lsn, us, row, bytes);
        added.map_err(|e| SourceError::protocol("streaming", e.to_string()))
    }

    fn row(&mut self, row: NewRow, bytes: usize) -> Result<(), SourceError> {
        let added = self.asm.row(row, bytes);
        added.map_err(|e| SourceError::protocol("streaming", e.to_string()))
    }

    fn relation(&self, oid: u32) -> Result<Arc<Relation>, SourceError> {
        let entry = self.relations.entries.get(&oid);
        entry.map(|entry| Arc::clone(&entry.relation)).ok_or_else(|| {
            SourceError::protocol("streaming", format!("relation {oid} was never described"))
        })
    }

    /// The number of a relation in the present batch.
    fn relation_index(&mut self, oid: u32) -> Result<u32, SourceError> {
        let number = self.asm.number;
        let Some(entry) = self.relations.entries.get_mut(&oid) else {
            return self.relation(oid).map(|_| 0);
        };
        if entry.batch != number {
            entry.index = self.asm.batch.relation_index(&entry.relation);
            entry.batch = number;
        }
        Ok(entry.index)
    }

    pub(super) fn table_name(&self, oid: Option<u32>) -> String {
        let known = oid.and_then(|oid| self.relations.entries.get(&oid));
        match (known, oid) {
            (Some(entry), _) => entry.relation.qualified(),
            (None, Some(oid)) => format!("the relation with OID {oid}"),
            (None, None) => "an unknown table".to_owned(),
        }
    }

    /// Images before and after an update. Under FULL an unchanged value is in the image
    /// before: its cell is copied, its bytes are not.
    fn update(
        &mut self,
        relation: u32,
        old: Option<&Old<'_>>,
        new: Tuple<'_>,
        at: usize,
    ) -> Result<(Option<Image>, Image), SourceError> {
        let described = self.relation(relation)?;
        let columns = described.columns.len();
        let Some(old) = old else {
            return Ok((None, self.image(new, at, columns, |_, cell| cell)?));
        };
        let before = self.old_image(&described, old, at)?;
        let new = self.image(new, at, columns, |_, cell| cell)?;
        if matches!(old, Old::Full(_)) {
            for i in 0..columns {
                if self.asm.batch.cells(new)[i] == Cell::Unchanged {
                    let cell = self.asm.batch.cells(before)[i];
                    self.asm.batch.cells_mut(new)[i] = cell;
                }
            }
        }
        Ok((Some(before), new))
    }

    fn old_image(
        &mut self,
        relation: &Relation,
        old: &Old<'_>,
        at: usize,
    ) -> Result<Image, SourceError> {
        let columns = relation.columns.len();
        match *old {
            Old::Full(tuple) => self.image(tuple, at, columns, |_, cell| cell),
            // Columns that are not key come as NULL in it; they are not in it.
            Old::Key(tuple) => self.image(tuple, at, columns, |i, cell| {
                if relation.columns[i].key { cell } else { Cell::Absent }
            }),
        }
    }

    fn image(
        &mut self,
        tuple: Tuple<'_>,
        at: usize,
        columns: usize,
        shape: impl Fn(usize, Cell) -> Cell,
    ) -> Result<Image, SourceError> {
        if tuple.len() != columns {
            let what = format!("a row of {} columns in a table of {columns}", tuple.len());
            return Err(SourceError::protocol("streaming", what));
        }
        let (segment, start) = self.open_segment();
        let cells = tuple.iter().enumerate().map(|(i, col)| {
            let cell = match col {
                Col::Null => Cell::Null,
                Col::Unchanged => Cell::Unchanged,
                Col::Text(text) => {
                    Cell::Text(span(segment, at + text.at - start, text.bytes.len()))
                }
            };
            shape(i, cell)
        });
        Ok(self.asm.batch.push_image(cells))
    }

    fn refuse_unchanged(&self, relation: &Relation, new: Tuple<'_>) -> Result<(), SourceError> {
        let Some(i) = new.iter().position(|col| col == Col::Unchanged) else { return Ok(()) };
        Err(SourceError::UnchangedInsert {
            table: relation.qualified(),
            column: relation.columns.get(i).map_or(String::new(), |c| c.name.clone()),
            at: self.asm.commit_lsn().unwrap_or(Lsn::ZERO),
        })
    }

    /// A row of `kasho.message`, if the prefix is one that is published.
    fn message_row(
        &mut self,
        prefix: pgoutput::Bytes<'_>,
        content: pgoutput::Bytes<'_>,
        at: usize,
        transactional: bool,
    ) -> Option<NewRow> {
        let name = std::str::from_utf8(prefix.bytes).ok()?;
        let ours = [HEARTBEAT_PREFIX, RELOAD_PREFIX, RETRY_PREFIX, ddl::PREFIX].contains(&name);
        if ours || !self.messages.iter().any(|listed| listed == name) {
            return None;
        }
        let binary = std::str::from_utf8(content.bytes).is_err();
        let described = if binary { &self.byte_messages } else { &self.text_messages };
        let relation = self.asm.batch.relation_index(described);
        let content = if binary {
            // Its own segment, which must not come between the parts of the chunk's.
            let text = hex(content.bytes);
            self.close_segment();
            let cell = span(self.segments, 0, text.len());
            self.asm.batch.push_segment(text);
            self.segments += 1;
            cell
        } else {
            let (segment, start) = self.open_segment();
            span(segment, at + content.at - start, content.bytes.len())
        };
        let (segment, start) = self.open_segment();
        let prefix = span(segment, at + prefix.at - start, prefix.bytes.len());
        let cells = [Cell::Text(prefix), Cell::Text(content)];
        let new = Some(self.asm.batch.push_image(cells));
        let detail = Some(Box::new(Detail::Message { transactional }));
        Some(NewRow { op: Op::Message, relation, new, old: None, detail })
    }

    /// The segment that cells of the present frame point into, and where in the chunk it
    /// begins. It is added to the batch when its end is known.
    fn open_segment(&mut self) -> (u32, usize) {
        *self.segment.get_or_insert((self.segments, self.offset))
    }

    /// Adds what the present batch uses of the chunk: all frames but the present one, of
    /// which nothing may have been used yet.
    fn close_segment(&mut self) {
        if let Some((number, start)) = self.segment.take() {
            let pushed = self.asm.batch.push_segment(self.chunk.slice(start..self.offset));
            debug_assert_eq!(pushed, number, "segments are numbered as they are pushed");
            self.segments = pushed + 1;
        }
    }

    /// Hands out the batch.
    pub(super) fn take(&mut self) -> Batch {
        self.close_segment();
        self.segments = 0;
        self.asm.take()
    }
}

/// Chunks are bounded by the queue and the largest message, far below 4 GiB.
fn span(segment: u32, start: usize, len: usize) -> Span {
    let short = |n| u32::try_from(n).unwrap_or(u32::MAX);
    Span { segment, start: short(start), len: short(len) }
}

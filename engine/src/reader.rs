//! Reading an epoch: the load to its end, then the changes, each exactly once and in
//! order, for whoever hands them on (gRPC, the applier).
//!
//! The rules that a plain Redis reader has to follow too are all here: changes wait for
//! the load's `end`; a change below its table's load point is part of the load and is
//! skipped; a transaction that does not end before the next begins is torn, and the
//! reader halts; a cursor below what was trimmed is refused, never served in part.
//! Where the changes hold a mark, tables are loaded again: their section of the bootstrap
//! stream comes next, to its `end`, and then the changes go on after the mark.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::position::{Epoch, EpochPosition, Lsn, Position};
use crate::sink::entry::{Called, Content, Entry, EntryOp, Layouts, RawEntry};
use crate::sink::id::{Id, Lane};
use crate::sink::runs::Runs;
use crate::sink::store::{Backend, Most};

pub use error::ReaderError;

mod error;

/// Entries of a page at most.
const MOST_COUNT: usize = 4_096;
/// Pause between two looks for the end of a load that goes on.
const LOOK: Duration = Duration::from_millis(250);

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With the first row of the load.
    Start,
    /// Strictly after this position.
    After(EpochPosition),
    /// With the next transaction.
    Live,
}

/// Reads one epoch over a connection of its own.
#[derive(Debug)]
pub struct StreamReader<S> {
    store: S,
    epoch: Epoch,
    lane: Lane,
    /// The entry read last; reading goes on after it.
    cursor: Id,
    /// The position that the caller has.
    position: Position,
    /// The load's end was seen: changes may be read, with these load points.
    load_points: Option<BTreeMap<String, Lsn>>,
    /// A transaction of which an entry was read that was not its last.
    open: Option<Lsn>,
    /// An entry of that transaction was handed out.
    delivered: bool,
    /// What says that everything up to here is part of the load, if nothing behind it was
    /// handed out: the end of a transaction, or a place in one. Who acknowledges has to hear of it
    /// once nothing more comes: it may be what fills Redis, and keeps the rest of that
    /// transaction out.
    skipped: Option<Entry>,
    page_bytes: usize,
    /// Rows that share an entry are handed out as one.
    undivided: bool,
    /// Read and not decoded yet, all behind the cursor: an entry may hold many rows.
    raw: VecDeque<RawEntry>,
    ready: VecDeque<Entry>,
    /// Number of the newest entry of the load when it was opened.
    loaded: u64,
    runs: Arc<Runs>,
    layouts: Layouts,
}

impl<S: Backend> StreamReader<S> {
    /// A reader of the current epoch. A page holds about `page_bytes`, or one entry.
    ///
    /// # Errors
    /// No epoch, another epoch than the position's, a position that was trimmed or that the
    /// load never came to.
    pub async fn open(
        mut store: S,
        from: From,
        page_bytes: usize,
    ) -> Result<StreamReader<S>, ReaderError> {
        let found = store.inspect().await?;
        let epoch = found.checkpoint.as_ref().ok_or(ReaderError::NoEpoch)?.epoch;
        let position = match from {
            From::Start => Position::START,
            From::Live => live(found.changes),
            From::After(at) => match at.epoch.filter(|asked| *asked != epoch) {
                Some(asked) => return Err(ReaderError::OtherEpoch { asked, current: epoch }),
                None => at.position,
            },
        };
        if let Position::Bootstrap(n) = position
            && n > found.bootstrap.high
        {
            let at = |position| EpochPosition { epoch: Some(epoch), position };
            let newest = at(Position::Bootstrap(found.bootstrap.high));
            return Err(ReaderError::Beyond { asked: at(position), newest });
        }
        let (lane, cursor) = match position {
            Position::Bootstrap(0) => (Lane::Bootstrap, Id::ZERO),
            Position::Bootstrap(n) => (Lane::Bootstrap, Id { high: n, low: u64::MAX }),
            Position::Wal { .. } => (Lane::Changes, Id::of(position)),
        };
        let mut reader = StreamReader {
            store,
            epoch,
            lane,
            cursor,
            position,
            load_points: None,
            open: None,
            delivered: false,
            skipped: None,
            page_bytes,
            undivided: false,
            raw: VecDeque::new(),
            ready: VecDeque::new(),
            loaded: found.bootstrap.high,
            runs: Arc::default(),
            layouts: Layouts::default(),
        };
        reader.find_open().await?;
        reader.pass_end().await?;
        if from != From::Live {
            reader.enter_section().await?;
        }
        // A position that cannot be served is refused here, not with the first page.
        reader.page(reader.lane, reader.cursor, 1).await?;
        Ok(reader)
    }

    /// Hands out rows of the load that share an entry as one ([`Content::Rows`]), for who
    /// takes many of them.
    #[must_use]
    pub fn undivided(self) -> StreamReader<S> {
        StreamReader { undivided: true, ..self }
    }

    /// The epoch it reads.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Which loader's turn wrote which entry of the load, at least of those read so far.
    #[must_use]
    pub fn runs(&self) -> Arc<Runs> {
        Arc::clone(&self.runs)
    }

    /// Entries of the load when it was opened.
    #[must_use]
    pub fn loaded(&self) -> u64 {
        self.loaded
    }

    /// Where a reader goes on that has everything handed out so far.
    #[must_use]
    pub fn position(&self) -> EpochPosition {
        EpochPosition { epoch: Some(self.epoch), position: self.position }
    }

    /// Id of the entry read last, of the stream that is read at the moment.
    #[must_use]
    pub(crate) fn cursor(&self) -> Id {
        self.cursor
    }

    /// What was handed out ends inside of a transaction.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.open.is_some()
    }

    /// The load is complete and everything of it was handed out (or skipped by the
    /// position that reading began with).
    #[must_use]
    pub fn reads_changes(&self) -> bool {
        self.lane == Lane::Changes && self.load_points.is_some()
    }

    /// The next entry, if it has been read already.
    pub fn buffered(&mut self) -> Option<Entry> {
        let entry = self.ready.pop_front()?;
        self.position = entry.position;
        Some(entry)
    }

    /// The next entry, or none if nothing arrived within `wait`.
    ///
    /// # Errors
    /// See [`ReaderError`]; after one the reader is over.
    pub async fn next(&mut self, wait: Duration) -> Result<Option<Entry>, ReaderError> {
        let until = tokio::time::Instant::now() + wait;
        let mut woken = false;
        loop {
            if let Some(entry) = self.buffered() {
                return Ok(Some(entry));
            }
            if !self.raw.is_empty() {
                self.decode()?;
                continue;
            }
            if self.lane == Lane::Changes && self.load_points.is_none() && !self.find_end().await? {
                if tokio::time::Instant::now() >= until {
                    return Ok(None);
                }
                // Entries of the load come without a pause; its end is worth a look now and
                // then.
                tokio::time::sleep_until(until.min(tokio::time::Instant::now() + LOOK)).await;
                continue;
            }
            let page = self.page(self.lane, self.cursor, MOST_COUNT).await?;
            if page.is_empty() {
                if let Some(passed) = self.skipped.take() {
                    // Who has heard of a place in a transaction has to hear of its end.
                    self.delivered |= !passed.last;
                    self.ready.push_back(passed);
                    continue;
                }
                let now = tokio::time::Instant::now();
                if now >= until {
                    return Ok(None);
                }
                // Somebody else's stream under the next epoch's name wakes at once each time.
                if std::mem::replace(&mut woken, true) {
                    tokio::time::sleep_until(until.min(now + LOOK)).await;
                }
                self.wait_until(until).await?;
                continue;
            }
            self.raw = page.into();
        }
    }

    /// Decodes about as many bytes as a page has.
    fn decode(&mut self) -> Result<(), ReaderError> {
        let (lane, mut bytes) = (self.lane, 0);
        while bytes < self.page_bytes
            && let Some(raw) = self.raw.pop_front()
        {
            let before = self.ready.len();
            self.accept(raw)?;
            bytes += self.ready.range(before..).map(|entry| entry.weight).sum::<usize>();
            // What comes next stands in the other stream.
            if self.lane != lane {
                self.raw.clear();
            }
        }
        Ok(())
    }

    /// Blocks until something arrives behind the cursor, or the time is over.
    async fn wait_until(&mut self, until: tokio::time::Instant) -> Result<(), ReaderError> {
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        Ok(self.store.wait(self.epoch, self.lane, self.cursor, left).await?)
    }

    /// Entries after `after`, checked against the trim point read in the same step.
    async fn page(
        &mut self,
        lane: Lane,
        after: Id,
        count: usize,
    ) -> Result<Vec<RawEntry>, ReaderError> {
        let most = Most { entries: count, bytes: self.page_bytes };
        let page = self.store.page(self.epoch, lane, after, most).await?;
        let asked = self.epoch;
        match page.epoch {
            None => return Err(ReaderError::NoEpoch),
            Some(current) if current != asked => {
                return Err(ReaderError::OtherEpoch { asked, current });
            }
            Some(_) => {}
        }
        if after < page.trim {
            return Err(self.out_of_range(page.trim, lane));
        }
        if page.runs != self.runs.text() {
            self.runs = Arc::new(Runs::parse(&page.runs));
        }
        Ok(page.entries)
    }

    fn accept(&mut self, raw: RawEntry) -> Result<(), ReaderError> {
        if self.lane == Lane::Bootstrap && raw.has_rows() {
            // A reader may have begun in the middle of them.
            let (id, after) = (raw.id, self.cursor);
            match self.undivided {
                true => self.ready.push_back(Entry::together(raw, after)?),
                false => self.ready.extend(Entry::rows(&raw, after)?),
            }
            self.cursor = id;
            return Ok(());
        }
        let entry = Entry::decode_with(&raw, self.lane, &mut self.layouts)?;
        self.cursor = raw.id;
        match self.lane {
            Lane::Changes => self.accept_change(entry),
            Lane::Bootstrap => {
                if let Content::End { load_points, called, after, .. } = &entry.content {
                    self.leave_load(load_points.clone(), called, *after);
                }
                self.ready.push_back(entry);
                Ok(())
            }
        }
    }

    /// After an `end` the changes come: from their start, or after a mark.
    fn leave_load(&mut self, points: BTreeMap<String, Lsn>, called: &Called, mark: Option<Lsn>) {
        self.lane = Lane::Changes;
        self.cursor = mark.map_or(Id::ZERO, |mark| Id { high: mark.0, low: 0 });
        self.load_points = Some(points::known(points, called, self.cursor));
    }

    /// After a mark its section comes.
    fn enter(&mut self, section: u64) {
        (self.lane, self.cursor) = (Lane::Bootstrap, Id { high: section, low: 0 });
    }

    fn accept_change(&mut self, entry: Entry) -> Result<(), ReaderError> {
        let Position::Wal { commit_lsn, ordinal } = entry.position else { return Ok(()) };
        if let Some(torn) = self.open.filter(|open| *open != commit_lsn || ordinal == 0) {
            return Err(ReaderError::Torn { torn, next: commit_lsn });
        }
        if let Content::Mark { section, .. } = &entry.content {
            self.skipped = None;
            self.enter(*section);
            self.ready.push_back(entry);
            return Ok(());
        }
        let (last, position) = (entry.last, entry.position);
        let (xid, commit_us, generation) = (entry.xid, entry.commit_us, entry.generation);
        let past = match &mut self.load_points {
            Some(points) => points::past(points, entry, commit_lsn),
            None => Some(entry),
        };
        match past {
            Some(entry) => {
                (self.delivered, self.skipped) = (true, None);
                self.ready.push_back(entry);
            }
            None => {
                let passed = Entry {
                    position,
                    op: EntryOp::Commit,
                    table: String::new(),
                    generation,
                    last,
                    xid,
                    commit_us,
                    content: Content::Commit,
                    weight: 0,
                };
                // The end of the transaction must not be skipped with its last row.
                if last && self.delivered {
                    self.ready.push_back(passed);
                    self.skipped = None;
                } else {
                    self.skipped = Some(passed);
                }
            }
        }
        self.open = (!last).then_some(commit_lsn);
        self.delivered &= !last;
        Ok(())
    }

    /// Looks for the newest `end` that this reader has behind it. Later ones belong to marks
    /// that are to come; where an earlier one is trimmed away they do no harm, for what
    /// they hide of a table is emptied at its mark.
    async fn find_end(&mut self) -> Result<bool, ReaderError> {
        // No entry is wanted with it.
        let behind = Id { high: u64::MAX, low: 0 };
        let mut end = self.store.page(self.epoch, Lane::Bootstrap, behind, 1).await?.end;
        while let Some(content) = self.exactly(Lane::Bootstrap, end).await? {
            let Content::End { load_points, called, after, .. } = content else { break };
            self.load_points = Some(points::known(load_points, &called, self.cursor));
            let mark = after.map(|mark| Id { high: mark.0, low: 0 });
            let Some(mark) = mark.filter(|mark| *mark > self.cursor) else { break };
            let Some(Content::Mark { section, .. }) = self.exactly(Lane::Changes, mark).await?
            else {
                break;
            };
            end = Id { high: section - 1, low: 1 };
        }
        Ok(self.load_points.is_some())
    }

    /// What the entry with this id says.
    async fn exactly(&mut self, lane: Lane, id: Id) -> Result<Option<Content>, ReaderError> {
        let found = self.store.before(self.epoch, lane, id).await?.filter(|raw| raw.id == id);
        let entry = found.map(|raw| Entry::decode(&raw, lane)).transpose()?;
        Ok(entry.map(|entry| entry.content))
    }

    /// Goes on with the changes if the cursor has an `end` right behind it.
    async fn pass_end(&mut self) -> Result<(), ReaderError> {
        if self.lane == Lane::Bootstrap
            && let Some(raw) = self.store.before(self.epoch, Lane::Bootstrap, self.cursor).await?
            && raw.ends()
            && (raw.id.high == self.cursor.high || self.is_last().await?)
            && let Content::End { load_points, called, after, .. } =
                Entry::decode(&raw, Lane::Bootstrap)?.content
        {
            self.leave_load(load_points, &called, after);
        }
        Ok(())
    }

    /// Nothing comes behind the cursor. What does may hold rows before it, too, so that the
    /// entry before the cursor is not what the reader has seen last.
    async fn is_last(&mut self) -> Result<bool, ReaderError> {
        Ok(self.page(Lane::Bootstrap, self.cursor, 1).await?.is_empty())
    }

    /// Whoever has come exactly to a mark reads its section next.
    async fn enter_section(&mut self) -> Result<(), ReaderError> {
        if self.lane == Lane::Bootstrap
            || !matches!(self.position, Position::Wal { ordinal: 0, .. })
        {
            return Ok(());
        }
        match self.exactly(Lane::Changes, self.cursor).await? {
            Some(Content::Mark { section, .. }) => self.enter(section),
            Some(_) => {}
            None => {
                // It may have been a mark, and then what comes next is not the changes.
                let most = Most { entries: 1, bytes: self.page_bytes };
                let page = self.store.page(self.epoch, Lane::Changes, self.cursor, most).await?;
                if self.cursor <= page.trim {
                    return Err(self.out_of_range(page.trim, Lane::Changes));
                }
            }
        }
        Ok(())
    }

    fn out_of_range(&self, trim: Id, lane: Lane) -> ReaderError {
        let epoch = Some(self.epoch);
        ReaderError::OutOfRange {
            asked: EpochPosition { epoch, position: self.position },
            oldest: EpochPosition { epoch, position: trim.position(lane) },
        }
    }

    /// Whether the cursor stands inside a transaction.
    async fn find_open(&mut self) -> Result<(), ReaderError> {
        let mid = self.lane == Lane::Changes && self.cursor.low != u64::MAX;
        if mid && let Some(raw) = self.store.before(self.epoch, self.lane, self.cursor).await? {
            let inside = raw.id.high == self.cursor.high && raw.id.low > 0 && !raw.closes();
            self.stand(inside);
        } else if mid && self.cursor.low > 0 {
            // It may be trimmed through here: then what comes next tells.
            let page = self.store.page(self.epoch, self.lane, self.cursor, 1).await?;
            let next = page.entries.first();
            self.stand(next.is_some_and(|next| next.id.high == self.cursor.high));
        }
        Ok(())
    }

    fn stand(&mut self, inside: bool) {
        self.open = inside.then_some(Lsn(self.cursor.high));
        self.delivered = inside;
    }
}

/// After everything that has begun: the rest of a transaction half of which is there
/// would be half a transaction.
fn live(newest: Id) -> Position {
    match newest.low {
        0 => newest.position(Lane::Changes),
        _ => Position::after(Lsn(newest.high)),
    }
}

mod points;
#[cfg(test)]
mod tests;

//! The writer of the bootstrap stream: rows of the initial load, in the order in which
//! they come, each with the next number, and the loader's progress in the same step. Rows
//! of one table share an entry, which has the number of the last of them.
//!
//! It has a token and a lease of its own, beside the changes' writer: two loaders at
//! once are refused, and one that was thought dead changes nothing. What can go wrong:
//! as with the changes; and a batch too large for the one step that its progress needs.

use std::collections::{BTreeMap, HashMap};

use tokio::time::Duration;

use super::budget::Budgeter;
use super::dead;
use super::entry::{self, Called};
use super::error::SinkError;
use super::id::{Id, Lane};
use super::publisher::open::{WriterToken, check_server};
use super::publisher::{OomPause, settled};
use super::status::Status;
use super::store::{
    Answer, Backend, Dead, Finish, Finished, Guard, Leased, Load, NewEntry, StoreError,
};
use crate::batch::{Batch, Letter, Piece, Row};
use crate::position::{Epoch, Lsn, Position};
use crate::sink::config::{Config, Durability, Encoding};

/// A loader that is silent for this long has lost its turn.
const LEASE_MS: u64 = 30_000;
/// Rows and progress go in one step, so a batch must fit in one; one row may be larger.
const STEP_BYTES: u64 = 256 << 20;
/// An entry takes no more rows from here on: more of them would make nothing cheaper.
const ENTRY_BYTES: usize = 64 << 10;

/// What the end of a load says.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// The consistent point.
    pub start_lsn: Lsn,
    /// Tables whose load point differs from it.
    pub load_points: &'a BTreeMap<String, Lsn>,
    /// Names among these that tables have from there on only (commit LSN and ordinal).
    pub called: &'a Called,
    /// Of single tables: their mark.
    pub after: Option<Lsn>,
    /// Whatever there was is loaded.
    pub whole: bool,
}

/// Publishes the load of an epoch.
#[derive(Debug)]
pub struct LoadWriter<S> {
    store: S,
    guard: Guard,
    encoding: Encoding,
    load_rows: u64,
    durability: Durability,
    durability_timeout: Duration,
    max_bulk_len: u64,
    dead_letters: u64,
    generation: u64,
    budget: Budgeter,
    status: Status,
    /// The field of the progress in which it stands why nothing is published.
    pauses: Option<&'static str>,
    spent: bool,
}

/// Where a loader goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Rows and marks written so far; the next one has this number plus one.
    pub entries: u64,
    /// What was stored with them.
    pub progress: HashMap<String, String>,
}

/// Fields of a loader's progress to store; `None` forgets one.
pub type Progress = Vec<(String, Option<String>)>;

impl<S: Backend> LoadWriter<S> {
    /// Takes the loader's turn in `epoch`. `owner` is who may take it again at once, such
    /// as an engine that was restarted; anybody else waits until the lease has run out.
    ///
    /// # Errors
    /// Somebody else loads; the epoch is another; Redis lost data; the server's errors.
    pub async fn open(
        mut store: S,
        config: &Config,
        epoch: Epoch,
        owner: &str,
        token: WriterToken,
        status: Status,
    ) -> Result<(LoadWriter<S>, Resumed), SinkError> {
        let server = store.server().await?;
        check_server(&server)?;
        store.inspect().await?;
        let writer = token.after("");
        let leased = store.lease(epoch, owner, &writer, Duration::from_millis(LEASE_MS)).await?;
        let (last, progress) = match leased {
            Leased::Yes { last, progress } => (last, progress),
            Leased::Held { owner, remaining_ms } => {
                return Err(SinkError::Leased { owner, remaining_ms });
            }
            Leased::OtherEpoch(epoch) => {
                return Err(SinkError::Fenced { lane: Lane::Bootstrap, writer, epoch });
            }
            Leased::Torn { top, last } => {
                let found = format!("the bootstrap stream ends at {top}, its progress at {last}");
                return Err(SinkError::LostData { found });
            }
        };
        let mut this = LoadWriter {
            store,
            guard: Guard { epoch, writer, last },
            encoding: config.encoding,
            load_rows: config.load_rows(),
            durability: config.durability,
            durability_timeout: Duration::from_millis(config.durability_timeout_ms),
            max_bulk_len: server.max_bulk_len,
            dead_letters: config.dead_letters,
            generation: 0,
            budget: Budgeter::new(Lane::Bootstrap, config.budget, config.retention),
            status,
            pauses: None,
            spent: false,
        };
        this.flush().await?;
        Ok((this, Resumed { entries: last.high, progress }))
    }

    /// From now on stores why it waits in this field of the progress, for those who cannot
    /// ask this process. Whoever appends next has to forget it.
    pub fn tell_pauses_in(&mut self, field: &'static str) {
        self.pauses = Some(field);
    }

    /// The figures that others may watch.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Encodes for this writer, while it waits for the server.
    #[must_use]
    pub fn encoder(&self) -> Encoder {
        let next = self.guard.last.high + 1;
        let rows = usize::try_from(self.load_rows).unwrap_or(usize::MAX);
        Encoder { encoding: self.encoding, max_bulk_len: self.max_bulk_len, rows, next }
    }

    /// Appends every row that the chain kept and stores `progress` in the same step; an
    /// empty batch stores progress and renews the lease. Answers the number of the last
    /// row. Positions of the rows are not looked at: ranges load side by side.
    ///
    /// # Errors
    /// As [`super::Sink::publish`]; afterwards the writer is spent.
    pub async fn append(
        &mut self,
        batch: &Batch,
        generation: u64,
        progress: Progress,
    ) -> Result<u64, SinkError> {
        let encoded = self.encoder().encode(batch)?;
        self.append_encoded(&encoded, generation, progress).await
    }

    /// [`LoadWriter::append`] of what is encoded already.
    ///
    /// # Errors
    /// The server's; afterwards the writer is spent.
    pub async fn append_encoded(
        &mut self,
        encoded: &Encoded,
        generation: u64,
        progress: Progress,
    ) -> Result<u64, SinkError> {
        self.enter()?;
        self.generation = generation;
        if !encoded.entries.is_empty() {
            self.room().await?;
        }
        let last = self.guard.last.high;
        let dead = dead::of_load(&encoded.letters, self.guard.epoch, last, self.dead_letters);
        self.write(encoded.numbered(last), progress, dead).await?;
        self.spent = false;
        Ok(self.guard.last.high)
    }

    /// Dead letters that the load of these tables makes needless. A table goes by its name in
    /// the source, and has a load point.
    ///
    /// # Errors
    /// The server's; afterwards the writer is spent.
    pub async fn letters_before(
        &mut self,
        tables: &[(&str, Lsn)],
    ) -> Result<Vec<String>, SinkError> {
        self.enter()?;
        let letters = dead::before_load(&mut self.store, tables).await?;
        self.spent = false;
        Ok(letters)
    }

    /// Tells readers to empty tables whose load begins again, each with its attempt and
    /// load point; resets their `progress` and closes letters in the same step. It
    /// does not wait for room: these are few entries, and readers are freed by them.
    ///
    /// # Errors
    /// As [`LoadWriter::append`].
    pub async fn restart(
        &mut self,
        tables: &[(&str, u64, Lsn)],
        progress: Progress,
        closed: Vec<String>,
    ) -> Result<u64, SinkError> {
        self.enter()?;
        let data = tables.iter().map(|(_, attempt, load_lsn)| {
            let mut data = Vec::new();
            self.encoding.restart(*attempt, &load_lsn.to_string(), &mut data);
            data
        });
        let data: Vec<Vec<u8>> = data.collect();
        let next = self.guard.last.high + 1;
        let entries = tables.iter().zip(&data).zip(next..).map(|(((table, ..), data), high)| {
            NewEntry { id: Id { high, low: 1 }, op: "restart", table, data, last: false }
        });
        self.write(entries.collect(), progress, Dead { closed, ..Dead::default() }).await?;
        self.spent = false;
        Ok(self.guard.last.high)
    }

    /// Ends the load (of the tables of a mark, if `after` names one): the `end` entry, the
    /// phase and the end of the lease in one step. The writer is spent afterwards, also on
    /// an error.
    ///
    /// # Errors
    /// [`SinkError::OtherState`] if the stored phase is not `old_state`; otherwise as
    /// [`LoadWriter::append`].
    pub async fn finish(
        &mut self,
        End { start_lsn, load_points, called, after, whole }: End<'_>,
        old_state: Option<&[u8]>,
        new_state: &[u8],
    ) -> Result<(), SinkError> {
        self.enter()?;
        let points = load_points.iter().map(|(table, lsn)| (table.clone(), lsn.to_string()));
        let mut data = Vec::new();
        let after = after.map(|lsn| lsn.to_string());
        let told = (after.as_deref(), whole);
        let points = (&points.collect(), called);
        self.encoding.end(&start_lsn.to_string(), points, told, &mut data);
        let id = Id { high: self.guard.last.high + 1, low: 1 };
        let end = NewEntry { id, op: "end", table: "", data: &data, last: false };
        let finish = Finish { end, generation: self.generation, old_state, new_state };
        match self.store.finish(&self.guard, &finish).await? {
            Finished::OtherState(_) => Err(SinkError::OtherState),
            Finished::Answer(answer) => {
                settled(answer, Lane::Bootstrap, self.guard.last)?;
                Ok(self.store.durable(self.durability, self.durability_timeout).await?)
            }
        }
    }

    /// Returns when everything appended so far is as durable as configured.
    ///
    /// # Errors
    /// As [`super::Sink::flush`].
    pub async fn flush(&mut self) -> Result<(), SinkError> {
        self.enter()?;
        self.store.durable(self.durability, self.durability_timeout).await?;
        self.spent = false;
        Ok(())
    }

    /// Gives up the turn, so that another loader need not wait for the lease.
    ///
    /// # Errors
    /// The server's; the lease then runs out by itself.
    pub async fn close(mut self) -> Result<(), SinkError> {
        Ok(self.store.release(self.guard.epoch, &self.guard.writer).await?)
    }

    async fn write(
        &mut self,
        entries: Vec<NewEntry<'_>>,
        progress: Progress,
        dead: Dead,
    ) -> Result<(), SinkError> {
        let last = entries.last().map_or(self.guard.last, |entry| entry.id);
        let count = last.high - self.guard.last.high;
        let bytes = entries.iter().map(|entry| entry.data.len() as u64).sum();
        let lease = Duration::from_millis(LEASE_MS);
        let load = Load { generation: self.generation, entries, progress, lease, dead };
        let status = &self.status;
        let mut pause = OomPause::default();
        let answer = loop {
            match self.store.load(&self.guard, &load).await {
                // Refused before anything was written: exactly this may be sent again.
                Err(StoreError::Oom) => {
                    pause.wait(status).await;
                    let told = told(self.pauses, status);
                    renew(&mut self.store, &self.guard, told).await?;
                }
                Ok(Answer::Full { there }) => {
                    dead::wait_for_room(&load.dead, there, status).await;
                    let told = told(self.pauses, status);
                    renew(&mut self.store, &self.guard, told).await?;
                }
                answer => break answer?,
            }
        };
        status.pause(None);
        if answer == Answer::Done {
            self.budget.published(bytes);
            status.update(|figures| {
                figures.entries += count;
                figures.bytes += bytes;
                figures.position = Some(Position::Bootstrap(last.high));
            });
        }
        settled(answer, Lane::Bootstrap, self.guard.last)?;
        self.guard.last = last;
        Ok(())
    }

    /// Waits for room, keeping the turn meanwhile.
    async fn room(&mut self) -> Result<(), SinkError> {
        let mut patience = Duration::from_secs(1);
        loop {
            let (store, epoch) = (&mut self.store, self.guard.epoch);
            let admitted = self.budget.admit(store, epoch, &self.status);
            match tokio::time::timeout(patience, admitted).await {
                Ok(result) => return result,
                Err(_) => {
                    let told = told(self.pauses, &self.status);
                    renew(&mut self.store, &self.guard, told).await?;
                }
            }
            patience = Duration::from_millis(LEASE_MS / 3);
        }
    }

    fn enter(&mut self) -> Result<(), SinkError> {
        match std::mem::replace(&mut self.spent, true) {
            true => Err(SinkError::Spent),
            false => Ok(()),
        }
    }
}

/// Why nothing is published, as progress.
fn told(field: Option<&'static str>, status: &Status) -> Progress {
    let reason = field.zip(status.get().paused);
    reason.map(|(field, reason)| (field.to_owned(), Some(reason))).into_iter().collect()
}

async fn renew<S: Backend>(
    store: &mut S,
    guard: &Guard,
    progress: Progress,
) -> Result<(), SinkError> {
    let lease = Duration::from_millis(LEASE_MS);
    let (entries, dead) = (Vec::new(), Dead::default());
    let load = Load { generation: 0, entries, progress, lease, dead };
    settled(store.load(guard, &load).await?, Lane::Bootstrap, guard.last)
}

fn check_size(position: Position, table: &str, bytes: u64, limit: u64) -> Result<(), SinkError> {
    match bytes <= limit {
        true => Ok(()),
        false => Err(SinkError::TooLarge { position, table: table.to_owned(), bytes, limit }),
    }
}

/// Makes entries of rows.
#[derive(Debug)]
pub struct Encoder {
    encoding: Encoding,
    max_bulk_len: u64,
    /// Of one entry, at most.
    rows: usize,
    /// Number of the next row, for errors.
    next: u64,
}

/// Rows as they are stored, without their numbers.
#[derive(Debug, Default)]
pub struct Encoded {
    data: Vec<u8>,
    entries: Vec<EncodedEntry>,
    tables: Vec<String>,
    /// Rows that the chain has set aside.
    letters: Vec<Letter>,
}

#[derive(Debug)]
struct EncodedEntry {
    /// Where it ends in the data.
    end: usize,
    /// Its table's place.
    table: usize,
    op: &'static str,
    rows: u64,
}

impl Encoder {
    /// Encodes every row that the chain kept.
    ///
    /// # Errors
    /// A row that cannot be encoded, or is larger than the server takes.
    pub fn encode(&mut self, batch: &Batch) -> Result<Encoded, SinkError> {
        let first = Position::Bootstrap(self.next);
        let mut done = Encoded { letters: batch.aside.letters.clone(), ..Encoded::default() };
        let kept = batch.rows.iter().filter(|row| !row.dropped);
        let bytes: usize = kept.map(|row| entry::size(batch, row)).sum();
        // Names, and what lengths take beside the values, find room as it is made.
        done.data.reserve_exact(bytes + bytes / 8 + 1024);
        let (mut together, mut before): (Vec<&Row>, Option<u32>) = (Vec::new(), None);
        for piece in &batch.pieces {
            let rows = batch.rows[piece.rows.clone()].iter().filter(|row| !row.dropped);
            let mut rows = rows.peekable();
            while let Some(row) = rows.next() {
                together.clear();
                together.push(row);
                let mut bytes = entry::size(batch, row);
                while together.len() < self.rows
                    && let Some(next) = rows.next_if(|next| {
                        bytes += entry::size(batch, next);
                        entry::together(row, next) && bytes <= ENTRY_BYTES
                    })
                {
                    together.push(next);
                }
                // Rows of a load come by tables.
                let relation = row.detail.is_none().then_some(row.relation);
                if relation.is_none() || std::mem::replace(&mut before, relation) != relation {
                    done.tables.push(entry::tables(batch, row));
                }
                self.entry(batch, piece, &together, &mut done)?;
            }
        }
        if done.entries.len() > 1 {
            check_size(first, &done.tables[0], done.data.len() as u64, STEP_BYTES)?;
        }
        Ok(done)
    }

    /// One entry of one table, the newest.
    fn entry(
        &mut self,
        batch: &Batch,
        piece: &Piece,
        rows: &[&Row],
        done: &mut Encoded,
    ) -> Result<(), SinkError> {
        let (start, data) = (done.data.len(), &mut done.data);
        let (op, encoded) = match rows {
            [row] => {
                (row.op.name(), self.encoding.row(batch, piece, row, data).map_err(|e| (0, e)))
            }
            rows => (entry::ROWS, self.encoding.rows(batch, piece, rows, data)),
        };
        let position = |place: usize| Position::Bootstrap(self.next + place as u64);
        encoded.map_err(|(place, error)| SinkError::Encode { position: position(place), error })?;
        let table = done.tables.len() - 1;
        let bytes = (data.len() - start) as u64;
        check_size(position(0), &done.tables[table], bytes, self.max_bulk_len)?;
        let (end, rows) = (data.len(), rows.len() as u64);
        done.entries.push(EncodedEntry { end, table, op, rows });
        self.next += rows;
        Ok(())
    }
}

impl Encoded {
    /// The entries, with rows numbered after `last`.
    fn numbered(&self, last: u64) -> Vec<NewEntry<'_>> {
        let (mut start, mut high) = (0, last);
        let entries = self.entries.iter().map(|&EncodedEntry { end, table, op, rows }| {
            let data = &self.data[std::mem::replace(&mut start, end)..end];
            high += rows;
            NewEntry { id: Id { high, low: 1 }, op, table: &self.tables[table], data, last: false }
        });
        entries.collect()
    }
}

#[cfg(test)]
mod tests;

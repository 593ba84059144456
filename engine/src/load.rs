//! The initial load: slices of tables through the chain into the bootstrap stream, each
//! with its progress in the same step. Beside [`crate::pipeline`] the only file that sees
//! source, chain and sink together.
//!
//! What can go wrong: any of the three. The load then ends; the next one goes on from the
//! progress that Redis holds, so no row is published twice or left out. While nothing
//! comes (a slow table, a rate limit) the loader's lease is renewed.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::sync::watch;
use tokio::time::{Duration, Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::batch::Batch;
use crate::bootstrap::{Load, Restart, restarts};
use crate::control::{LoadFigures, TableFigures};
use crate::error::Class;
use crate::pipeline::{Chains, Classified, Ended};
use crate::position::Lsn;
use crate::sink::SinkError;
use crate::sink::load::{Encoded, Encoder, LoadWriter, Resumed};
use crate::sink::store::Backend;
use crate::source::snapshot::{Progress, RangeKey, Reader, Slice, SnapshotError};
use crate::sync::DUMP_FIELDS;

/// Progress fields that note a section, with the LSN of its mark behind it; the script that
/// trims knows them too.
const SECTION: &str = "section:";

/// A third of the lease, so that one late renewal loses nothing.
const RENEW: Duration = Duration::from_secs(10);

/// What ended a load, by station.
#[derive(Debug, thiserror::Error)]
pub enum Error<C: std::error::Error + 'static> {
    /// PostgreSQL's side.
    #[error("initial load: {0}")]
    Source(#[from] SnapshotError),
    /// A plugin, or a rule.
    #[error("initial load: {0}")]
    Transform(#[source] C),
    /// Redis's side.
    #[error("initial load: {0}")]
    Sink(#[from] SinkError),
}

/// The stored progress is not ours: it holds this field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the stored progress of the load holds the field {0:?}, which Kasho does not write: \
     `kasho reset` (AbortBootstrap), then bootstrap again"
)]
pub struct ProgressError(pub String);

impl<C: std::error::Error + Classified + 'static> Classified for Error<C> {
    fn class(&self) -> Class {
        match self {
            Error::Source(error) => error.class(),
            Error::Transform(error) => error.class(),
            Error::Sink(error) => error.class(),
        }
    }
}

/// The progress that [`LoadWriter::open`] hands back, as the reader needs it.
///
/// What the load of a dump file has left is none of it.
///
/// # Errors
/// A field that no loader of ours writes: somebody else's progress is not to be guessed.
pub fn progress(stored: &HashMap<String, String>) -> Result<Progress, ProgressError> {
    let entry =
        |(field, value): (&String, &String)| Some((field.parse().ok()?, value.parse().ok()?));
    let bad = |stored: (&String, &String)| ProgressError(stored.0.clone());
    let others = [SECTION, DUMP_FIELDS];
    let ours = |field: &str| !others.iter().any(|prefix| field.starts_with(prefix));
    let ranges = stored.iter().filter(|(field, _)| ours(field));
    ranges.map(|stored| entry(stored).ok_or_else(|| bad(stored))).collect()
}

/// Makes the stream agree with the phase before anything is read: where an earlier attempt
/// has left progress, readers are told to empty the table, and in the same step it is
/// forgotten, and so are the letters of its rows, which are read again. Done before or not,
/// the outcome is the same. `name` says under which name the rows of a table are published.
///
/// # Errors
/// Redis's.
pub async fn begin_again<S: Backend>(
    load: &Load,
    name: &(impl Fn(&str) -> String + Sync),
    progress: &mut Progress,
    writer: &mut LoadWriter<S>,
) -> Result<(), SinkError> {
    let mut attempts: HashMap<u32, u32> = HashMap::new();
    for table in &load.tables {
        let newest = attempts.entry(table.oid).or_default();
        *newest = table.attempt.max(*newest);
    }
    let stale = |key: &RangeKey| attempts.get(&key.oid).is_some_and(|now| key.attempt < *now);
    let forget: Vec<RangeKey> = progress.keys().filter(|key| stale(key)).copied().collect();
    if forget.is_empty() {
        return Ok(());
    }
    let rows: HashSet<(u32, u32)> = progress
        .iter()
        .filter(|(_, progress)| progress.rows > 0)
        .map(|(key, _)| (key.oid, key.attempt))
        .collect();
    let restarts = restarts(load, |oid, attempt| rows.contains(&(oid, attempt)));
    for Restart { table, attempt, load_lsn } in &restarts {
        tracing::warn!(table, attempt, %load_lsn, "the table is loaded again from its beginning");
    }
    let names: Vec<String> = restarts.iter().map(|r| name(&r.table)).collect();
    let told = restarts.iter().zip(&names);
    let told: Vec<_> =
        told.map(|(r, name)| (name.as_str(), u64::from(r.attempt), r.load_lsn)).collect();
    let fields = forget.iter().map(|key| (key.to_string(), None)).collect();
    let tables: Vec<_> = restarts.iter().map(|r| (r.table.as_str(), r.load_lsn)).collect();
    let letters = writer.letters_before(&tables).await?;
    writer.restart(&told, fields, letters).await?;
    writer.flush().await?;
    progress.retain(|key, _| !stale(key));
    Ok(())
}

/// Notes, before the first row, which part of the bootstrap stream belongs to a mark in the
/// changes: nothing of it is trimmed for whoever has not come that far.
///
/// # Errors
/// Redis's.
pub async fn begin_section<S: Backend>(
    mark: Lsn,
    first: u64,
    resumed: &Resumed,
    writer: &mut LoadWriter<S>,
) -> Result<(), SinkError> {
    let field = format!("{SECTION}{}", mark.0);
    if resumed.progress.contains_key(&field) {
        return Ok(());
    }
    writer.append(&Batch::default(), 0, vec![(field, Some(first.to_string()))]).await.map(drop)
}

/// Tables of which every range is published although `load` does not know it yet; they
/// are noted in it.
pub fn settle(load: &mut Load, progress: &Progress) -> Vec<TableDone> {
    let finished = State::new(load, progress).finished;
    for done in &finished {
        let open = load.tables.iter_mut().find(|table| table.oid == done.oid && !table.done);
        if let Some(table) = open {
            (table.done, table.rows) = (true, done.rows);
        }
    }
    finished
}

/// The tables of which Redis holds every row, by oid and attempt, with how many those are.
#[must_use]
pub fn whole(load: &Load, progress: &Progress) -> BTreeMap<(u32, u32), u64> {
    let tables = load.tables.iter().filter_map(|table| {
        let ranges = (0..table.ranges).map(|range| {
            let key = RangeKey { oid: table.oid, attempt: table.attempt, range };
            progress.get(&key).filter(|range| range.done).map(|range| range.rows)
        });
        Some(((table.oid, table.attempt), ranges.sum::<Option<u64>>()?))
    });
    tables.collect()
}

/// A table whose last range was published: for [`crate::bootstrap::Command::TableDone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableDone {
    /// `pg_class.oid`.
    pub oid: u32,
    /// The attempt at it.
    pub attempt: u32,
    /// Its rows, those that the chain dropped included.
    pub rows: u64,
}

/// One run of the load.
pub struct Loader<'a, C, S> {
    /// What is read.
    pub reader: Reader,
    /// The chain; a slice passes through one generation.
    pub chains: &'a mut C,
    /// Where it goes.
    pub writer: &'a mut LoadWriter<S>,
    /// Bytes of COPY text in a second; 0 = as fast as it goes.
    pub max_rate: u64,
    /// How far it is, for status.
    pub figures: watch::Sender<LoadFigures>,
}

impl<C: Chains, S: Backend> Loader<'_, C, S> {
    /// Loads until every table is published and durable, or until it is stopped. `done`
    /// is told of each table as it is finished, those finished earlier included.
    ///
    /// # Errors
    /// The first failure of a station.
    pub async fn run(
        self,
        load: &Load,
        from: &Progress,
        mut done: impl FnMut(TableDone),
        stop: CancellationToken,
    ) -> Result<Ended, Error<C::Error>> {
        let Loader { reader, chains, writer, max_rate, figures } = self;
        let mut state = State::new(load, from);
        state.finished.drain(..).for_each(&mut done);
        figures.send_replace(state.figures.clone());
        let pace = Pace { max_rate, not_before: None };
        let mut intake = Intake { reader, chains, encoder: writer.encoder(), pace };
        let mut renew = tokio::time::interval(RENEW);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renew.tick().await;
        let mut passed = None;
        let ended = loop {
            // The next slice passes the chain while Redis takes in the one before it, which
            // is therefore sent first.
            let publishing = async {
                if let Some(passed) = passed.take() {
                    publish(writer, &mut state, passed).await?;
                    state.finished.drain(..).for_each(&mut done);
                    figures.send_replace(state.figures.clone());
                }
                Ok(())
            };
            match tokio::try_join!(publishing, intake.step(&mut renew, &stop))?.1 {
                Step::Slice(slice) => passed = Some(*slice),
                Step::Renew => {
                    let generation = intake.chains.adopt();
                    writer.append(&Batch::default(), generation, vec![]).await?;
                }
                Step::End(ended) => break ended,
            }
        };
        writer.flush().await?;
        if ended == Ended::Closed {
            state.figures.finished = true;
            figures.send_replace(state.figures);
        }
        Ok(ended)
    }
}

/// A slice behind the chain.
struct Passed {
    slice: Slice,
    rows: Encoded,
    generation: u64,
    /// Those that the chain dropped included.
    count: u64,
}

/// What comes next.
enum Step {
    Slice(Box<Passed>),
    Renew,
    End(Ended),
}

/// Where slices come from.
struct Intake<'a, C> {
    reader: Reader,
    chains: &'a mut C,
    encoder: Encoder,
    pace: Pace,
}

impl<C: Chains> Intake<'_, C> {
    async fn step(
        &mut self,
        renew: &mut Interval,
        stop: &CancellationToken,
    ) -> Result<Step, Error<C::Error>> {
        let slice = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Step::End(Ended::Stopped)),
            _ = renew.tick() => return Ok(Step::Renew),
            slice = self.pace.next(&mut self.reader) => slice?,
        };
        let Some(mut slice) = slice else { return Ok(Step::End(Ended::Closed)) };
        let generation = self.chains.adopt();
        let batch = std::mem::take(&mut slice.batch);
        let count = batch.rows.len() as u64;
        let batch = match count {
            0 => batch,
            _ => self.chains.apply(batch).await.map_err(Error::Transform)?,
        };
        let rows = self.encoder.encode(&batch)?;
        Ok(Step::Slice(Box::new(Passed { slice, rows, generation, count })))
    }
}

async fn publish<S: Backend>(
    writer: &mut LoadWriter<S>,
    state: &mut State,
    passed: Passed,
) -> Result<(), SinkError> {
    let Passed { slice, rows, generation, count } = passed;
    let progress = vec![(slice.key.to_string(), Some(slice.progress.to_string()))];
    writer.append_encoded(&rows, generation, progress).await?;
    state.published(&slice, count);
    Ok(())
}

/// The rate of the load.
struct Pace {
    /// Bytes of COPY text in a second; 0 = as fast as it goes.
    max_rate: u64,
    not_before: Option<Instant>,
}

impl Pace {
    /// Waits until the rate allows it, then for the next slice. Cancel-safe.
    async fn next(&mut self, reader: &mut Reader) -> Result<Option<Slice>, SnapshotError> {
        if let Some(instant) = self.not_before {
            tokio::time::sleep_until(instant).await;
        }
        let slice = reader.next().await?;
        if let Some(slice) = &slice
            && self.max_rate > 0
        {
            let took = Duration::from_secs_f64(ratio(slice.bytes, self.max_rate));
            let now = Instant::now();
            self.not_before = Some(self.not_before.map_or(now, |at| at.max(now)) + took);
        }
        Ok(slice)
    }
}

/// What is counted on the way.
struct State {
    figures: LoadFigures,
    /// Ranges that are still to be published, by table.
    left: Vec<u32>,
    /// Oid and attempt of each.
    keys: Vec<(u32, u32)>,
    finished: Vec<TableDone>,
}

impl State {
    fn new(load: &Load, from: &Progress) -> State {
        let mut state = State {
            figures: figures(load),
            left: load.tables.iter().map(|table| table.ranges).collect(),
            keys: load.tables.iter().map(|table| (table.oid, table.attempt)).collect(),
            finished: Vec::new(),
        };
        let open = state.keys.iter().copied().zip(0..).filter(|&(_, at)| !load.tables[at].done);
        let places: HashMap<(u32, u32), usize> = open.collect();
        for (key, progress) in from {
            let Some(&table) = places.get(&(key.oid, key.attempt)) else { continue };
            state.add(table, progress.rows, 0);
            if progress.done {
                state.range_done(table);
            }
        }
        for (at, table) in load.tables.iter().enumerate().filter(|(_, table)| table.done) {
            state.add(at, table.rows, 0);
            state.left[at] = 0;
        }
        state
    }

    fn published(&mut self, slice: &Slice, rows: u64) {
        self.add(slice.table, rows, slice.bytes);
        if slice.progress.done {
            self.range_done(slice.table);
        }
    }

    fn add(&mut self, table: usize, rows: u64, bytes: u64) {
        let one = &mut self.figures.tables[table];
        (one.rows, one.bytes) = (one.rows + rows, one.bytes + bytes);
        self.figures.rows += rows;
        self.figures.bytes += bytes;
    }

    fn range_done(&mut self, table: usize) {
        self.left[table] = self.left[table].saturating_sub(1);
        if self.left[table] == 0 {
            let one = &mut self.figures.tables[table];
            one.done = true;
            tracing::info!(table = one.table, rows = one.rows, "table loaded");
            let (oid, attempt) = self.keys[table];
            self.finished.push(TableDone { oid, attempt, rows: one.rows });
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a pause need not be exact")]
fn ratio(bytes: u64, rate: u64) -> f64 {
    bytes as f64 / rate as f64
}

/// The figures of a load of which nothing is known but its plan.
#[must_use]
pub fn figures(load: &Load) -> LoadFigures {
    let table = |table: &crate::bootstrap::TableLoad| {
        let lsn = load.load_lsn(table);
        TableFigures {
            table: table.table.clone(),
            rows: 0,
            rows_estimated: table.rows_estimated,
            bytes: 0,
            bytes_estimated: table.bytes_estimated,
            done: table.done,
            load_lsn: (lsn > load.start_lsn).then_some(lsn),
        }
    };
    LoadFigures {
        mode: load.mode.name().to_owned(),
        rows_estimated: load.tables.iter().map(|table| table.rows_estimated).sum(),
        bytes_estimated: load.tables.iter().map(|table| table.bytes_estimated).sum(),
        finished: load.loaded,
        tables: load.tables.iter().map(table).collect(),
        ..LoadFigures::default()
    }
}

#[cfg(test)]
mod tests;

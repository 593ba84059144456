//! One of the load's workers: a session that copies pieces of some tables, and commits them
//! with how far each of these tables is.
//!
//! What can go wrong: what a target can refuse; then nothing since its last commit is there.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::sync::mpsc;
use tokio_postgres::{Client, CopyInSink, Statement};

use super::Done;
use crate::apply::error::ApplyError;
use crate::apply::figures::Figures;
use crate::apply::pipe::Param;
use crate::apply::progress::{At, MOVE_TABLE, is_fenced, number};
use crate::apply::session::Triggers;
use crate::apply::table::Table;
use crate::apply::truncate;
use crate::position::{Epoch, EpochPosition, Position};

/// A commit after so many bytes: then Redis may forget them.
const COMMIT_BYTES: usize = 16 << 20;

/// What a worker is told to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Copy rows.
    Rows {
        table: Arc<Table>,
        copy: Arc<str>,
        /// With the first job of a table: where it is.
        was: Option<Option<At>>,
        rows: u64,
        piece: Bytes,
        /// The entry of the last row, and who wrote it.
        last: Written,
    },
    /// Empty a table.
    Empty { table: Arc<Table>, was: Option<Option<At>>, at: Written, ours: BTreeMap<String, At> },
    /// Commit what was done so far.
    Commit,
}

/// A table in the open transaction.
#[derive(Debug, Default)]
struct Progressed {
    was: Option<At>,
    /// The last entry that is copied, if any since the last commit.
    now: Option<Written>,
}

/// An entry's number, and the token of who wrote it.
pub(super) type Written = (u64, Arc<str>);

/// A COPY under way, by its text.
type Copying = (Arc<str>, Pin<Box<CopyInSink<Bytes>>>);

pub(super) struct Worker {
    client: Client,
    triggers: Triggers,
    consumer: String,
    writer: String,
    epoch: Epoch,
    done: mpsc::UnboundedSender<Done>,
    figures: Arc<Figures>,
    tables: HashMap<String, Progressed>,
    copy: Option<Copying>,
    fence: Option<Statement>,
    /// The table and entry last worked on, for errors.
    at: (String, u64),
    open: bool,
    bytes: usize,
    rows: u64,
}

impl Worker {
    pub(super) fn new(
        client: Client,
        triggers: Triggers,
        (consumer, writer): (String, String),
        epoch: Epoch,
        done: mpsc::UnboundedSender<Done>,
        figures: Arc<Figures>,
    ) -> Worker {
        Worker {
            client,
            triggers,
            consumer,
            writer,
            epoch,
            done,
            figures,
            tables: HashMap::new(),
            copy: None,
            fence: None,
            at: (String::new(), 0),
            open: false,
            bytes: 0,
            rows: 0,
        }
    }

    /// Works until there is nothing more to do, and commits.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) -> Result<(), ApplyError> {
        while let Some(job) = jobs.recv().await {
            match job {
                Job::Rows { table, copy, was, rows, piece, last } => {
                    self.begin(&table, was, last).await?;
                    self.rows(copy, piece).await?;
                    self.rows += rows;
                }
                Job::Empty { table, was, at, ours } => {
                    self.end_copy().await?;
                    self.begin(&table, was, at).await?;
                    let at = self.told();
                    truncate::empty(&self.client, &[table], false, &ours, at).await?;
                }
                Job::Commit => self.commit().await?,
            }
            if self.bytes >= COMMIT_BYTES {
                self.commit().await?;
            }
        }
        self.commit().await
    }

    fn told(&self) -> EpochPosition {
        At { epoch: self.epoch, position: Position::Bootstrap(self.at.1) }.told()
    }

    fn failed(&self, error: &tokio_postgres::Error) -> ApplyError {
        ApplyError::row(&format!("copying into {}", self.at.0), self.told(), error)
    }

    /// Opens a transaction. A table that nobody of us has filled must be empty.
    async fn begin(
        &mut self,
        table: &Table,
        was: Option<Option<At>>,
        entry: Written,
    ) -> Result<(), ApplyError> {
        self.at = (table.name.clone(), entry.0);
        if !self.open {
            self.client.batch_execute("BEGIN").await.map_err(|e| self.failed(&e))?;
            if self.triggers == Triggers::Deferred {
                let defer = "SET CONSTRAINTS ALL DEFERRED";
                self.client.batch_execute(defer).await.map_err(|e| self.failed(&e))?;
            }
            self.open = true;
        }
        if let Some(was) = was {
            if was.is_none() {
                self.end_copy().await?;
                let sql = format!("SELECT EXISTS (SELECT FROM {})", table.only());
                let row = self.client.query_one(&sql, &[]).await.map_err(|e| self.failed(&e))?;
                if row.get::<_, bool>(0) {
                    return Err(ApplyError::NotEmpty { table: table.name.clone() });
                }
            }
            self.tables.insert(table.name.clone(), Progressed { was, now: None });
        }
        self.tables.entry(table.name.clone()).or_default().now = Some(entry);
        Ok(())
    }

    async fn rows(&mut self, copy: Arc<str>, piece: Bytes) -> Result<(), ApplyError> {
        self.bytes += piece.len();
        if self.copy.as_ref().is_none_or(|(under_way, _)| *under_way != copy) {
            self.end_copy().await?;
            let sink = self.client.copy_in::<_, Bytes>(&*copy).await;
            self.copy = Some((copy, Box::pin(sink.map_err(|e| self.failed(&e))?)));
        }
        if let Some((_, sink)) = &mut self.copy
            && let Err(error) = sink.send(piece).await
        {
            // What the server says comes with the end of the COPY.
            self.end_copy().await?;
            return Err(self.failed(&error));
        }
        Ok(())
    }

    async fn end_copy(&mut self) -> Result<(), ApplyError> {
        match self.copy.take() {
            Some((_, mut sink)) => {
                sink.as_mut().finish().await.map(drop).map_err(|e| self.failed(&e))
            }
            None => Ok(()),
        }
    }

    /// Commits the rows with how far their tables are.
    async fn commit(&mut self) -> Result<(), ApplyError> {
        if !self.open {
            return Ok(());
        }
        self.end_copy().await?;
        let fence = match &self.fence {
            Some(fence) => fence.clone(),
            None => self.client.prepare(MOVE_TABLE).await.map_err(|e| self.failed(&e))?,
        };
        let epoch = number(self.epoch).to_string();
        let moved: Vec<(String, Written)> = self
            .tables
            .iter()
            .filter_map(|(name, at)| Some((name.clone(), at.now.clone()?)))
            .collect();
        for (name, (through, run)) in &moved {
            let was = self.tables.get(name).and_then(|table| table.was);
            let was_epoch = was.map_or(0, |was| number(was.epoch)).to_string();
            let was_position = was.map_or(String::new(), |was| was.position.to_string());
            let position = Position::Bootstrap(*through).to_string();
            let was = [&was_epoch, &was_position];
            let own = [&self.consumer, &self.writer, name, &epoch, &position];
            let params = own.into_iter().chain(was).map(String::as_str).chain([&**run]);
            let params: Vec<_> = params.map(|text| Param(Some(text))).collect();
            if let Err(error) = self.client.execute_raw(&fence, params).await {
                let fenced = ApplyError::Fenced { consumer: self.consumer.clone() };
                return Err(if is_fenced(&error) { fenced } else { self.failed(&error) });
            }
        }
        self.client.batch_execute("COMMIT").await.map_err(|e| self.failed(&e))?;
        self.fence = Some(fence);
        self.figures.loaded.fetch_add(std::mem::take(&mut self.rows), Relaxed);
        self.figures.commits.fetch_add(1, Relaxed);
        (self.open, self.bytes) = (false, 0);
        for (table, (through, _)) in moved {
            let now = At { epoch: self.epoch, position: Position::Bootstrap(through) };
            if let Some(progressed) = self.tables.get_mut(&table) {
                *progressed = Progressed { was: Some(now), now: None };
            }
            // Nobody listens any more once the load has failed.
            let _ = self.done.send(Done { table, through });
        }
        Ok(())
    }
}

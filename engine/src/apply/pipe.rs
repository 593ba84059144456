//! Statements on their way to the target: sent without waiting for the answers to those
//! before, in order, and checked in order. What is on its way is bounded in number and bytes.
//!
//! What can go wrong: the target refuses a row (whatever was sent behind it was not done),
//! or a statement changes other rows than it was meant to.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use tokio::task::JoinSet;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Error, Statement};

use super::change::{Value, Verb};
use super::error::ApplyError;
use super::figures::{Figures, Odd};
use super::progress::is_fenced;
use crate::position::EpochPosition;

/// Statements under way at most.
const MOST: usize = 512;
/// Prepared statements at most: then all are forgotten, which costs little.
const STATEMENTS: usize = 512;

/// A parameter as text, for the type's own input function. Its `Debug` form shows nothing: the
/// driver would log it.
pub(super) struct Param<'a>(pub(super) Option<&'a str>);

impl fmt::Debug for Param<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl ToSql for Param<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self.0 {
            None => Ok(IsNull::Yes),
            Some(text) => {
                out.put_slice(text.as_bytes());
                Ok(IsNull::No)
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// What a statement must have done.
#[derive(Clone, Debug)]
pub(super) enum Check {
    /// Whatever it did is right.
    Any,
    /// A compare-and-set.
    Fence,
    /// The COMMIT behind it, whose errors are its own: after a no of the compare-and-set it is a
    /// rollback without one.
    Commit,
    /// It concerns so many rows.
    Rows {
        verb: Verb,
        table: Arc<super::table::Table>,
        wanted: u64,
        /// What another number means; `None` ends the applier.
        odd: Option<Odd>,
    },
    /// An update that inserts what it does not find, and what it means that it did.
    Inverse { table: Arc<super::table::Table>, odd: Option<Odd> },
}

type Answer = Pin<Box<dyn Future<Output = Result<u64, Error>> + Send>>;

struct Pending {
    answer: Answer,
    check: Check,
    at: EpochPosition,
    weight: usize,
}

/// A session with what is on its way.
pub(super) struct Pipe {
    client: Arc<Client>,
    statements: HashMap<String, Statement>,
    pending: VecDeque<Pending>,
    weight: usize,
    most: usize,
    consumer: String,
    figures: Arc<Figures>,
}

impl Pipe {
    /// Nothing is on its way; at most `most` bytes will be.
    pub(super) fn new(client: Client, most: usize, consumer: &str, figures: Arc<Figures>) -> Pipe {
        Pipe {
            client: Arc::new(client),
            statements: HashMap::new(),
            pending: VecDeque::new(),
            weight: 0,
            most,
            consumer: consumer.to_owned(),
            figures,
        }
    }

    /// The session, for a question of its own. It is answered after what is on its way.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Forgets prepared statements: the target's schema has changed.
    pub(super) fn forget(&mut self) {
        self.statements.clear();
    }

    /// Sends a statement.
    ///
    /// # Errors
    /// One of those before it failed, or it cannot be prepared.
    pub(super) async fn send(
        &mut self,
        sql: &str,
        params: Vec<Value>,
        check: Check,
        at: EpochPosition,
    ) -> Result<(), ApplyError> {
        let statement = self.prepare(sql, &check, at).await?;
        let client = Arc::clone(&self.client);
        let weight = params.iter().map(taken).sum();
        let answer = Box::pin(async move {
            let params = params.iter().map(|value| Param(value.as_deref()));
            client.execute_raw(&statement, params).await
        });
        self.sent(Pending { answer, check, at, weight }).await
    }

    /// Sends a statement without parameters, such as BEGIN.
    ///
    /// # Errors
    /// One of those before it failed.
    pub(super) async fn word(
        &mut self,
        sql: &'static str,
        check: Check,
        at: EpochPosition,
    ) -> Result<(), ApplyError> {
        let client = Arc::clone(&self.client);
        let answer = Box::pin(async move { client.batch_execute(sql).await.map(|()| 0) });
        self.sent(Pending { answer, check, at, weight: sql.len() }).await
    }

    /// A request goes out with the first look at its answer.
    async fn sent(&mut self, mut pending: Pending) -> Result<(), ApplyError> {
        let first = poll_fn(|cx| Poll::Ready(pending.answer.as_mut().poll(cx))).await;
        if let Poll::Ready(answer) = first {
            pending.answer = Box::pin(std::future::ready(answer));
        }
        self.weight += pending.weight;
        self.pending.push_back(pending);
        while self.pending.len() > MOST || self.weight > self.most && self.pending.len() > 1 {
            self.check_next().await?;
        }
        Ok(())
    }

    /// Waits until everything sent is done.
    ///
    /// # Errors
    /// The first that failed, or did something else than it should.
    pub(super) async fn drain(&mut self) -> Result<(), ApplyError> {
        while !self.pending.is_empty() {
            self.check_next().await?;
        }
        Ok(())
    }

    async fn check_next(&mut self) -> Result<(), ApplyError> {
        let Some(pending) = self.pending.pop_front() else { return Ok(()) };
        self.weight -= pending.weight;
        let Pending { answer, check, at, .. } = pending;
        match answer.await {
            Ok(count) => self.weigh(&check, at, count),
            Err(error) if matches!(check, Check::Fence) && is_fenced(&error) => {
                Err(ApplyError::Fenced { consumer: self.consumer.clone() })
            }
            Err(error) => Err(ApplyError::row(&doing(&check), at, &error)),
        }
    }

    fn weigh(&self, check: &Check, at: EpochPosition, count: u64) -> Result<(), ApplyError> {
        let (verb, table, wanted, odd) = match check {
            Check::Rows { verb, table, wanted, odd } => (verb, table, wanted, odd),
            Check::Inverse { odd, .. } => {
                self.figures.rows(Verb::Update, 1);
                if let Some(odd) = odd.filter(|_| count > 0) {
                    self.figures.odd(odd, Verb::Update, count);
                }
                return Ok(());
            }
            Check::Any | Check::Fence | Check::Commit => return Ok(()),
        };
        if count != *wanted {
            let Some(odd) = odd else {
                let (table, verb, wanted) = (table.name.clone(), verb.name(), *wanted);
                return Err(ApplyError::Conflict { at, table, verb, wanted, found: count });
            };
            self.figures.odd(*odd, *verb, wanted.saturating_sub(count));
        }
        self.figures.rows(*verb, *wanted);
        Ok(())
    }

    async fn prepare(
        &mut self,
        sql: &str,
        check: &Check,
        at: EpochPosition,
    ) -> Result<Statement, ApplyError> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        if self.statements.len() >= STATEMENTS {
            self.statements.clear();
        }
        match self.client.prepare(sql).await {
            Ok(statement) => {
                self.statements.insert(sql.to_owned(), statement.clone());
                Ok(statement)
            }
            Err(error) => {
                // If one before it failed, that one tells why.
                self.drain().await?;
                Err(ApplyError::row(&doing(check), at, &error))
            }
        }
    }

    /// Copies rows (as COPY's text) into a table.
    ///
    /// # Errors
    /// One of those before it failed, or it cannot be prepared.
    pub(super) async fn copy(
        &mut self,
        sql: &str,
        rows: Bytes,
        check: Check,
        at: EpochPosition,
    ) -> Result<(), ApplyError> {
        let statement = self.prepare(sql, &check, at).await?;
        let (client, weight) = (Arc::clone(&self.client), rows.len());
        let mut copied: Answer = Box::pin(async move {
            let sink = client.copy_in::<_, Bytes>(&statement).await?;
            let mut sink = std::pin::pin!(sink);
            sink.send(rows).await?;
            sink.finish().await
        });
        // Its place among the others it takes with the first look. It needs more than one to get
        // on, and what is sent behind it waits for it: so it does not wait for us.
        let first = poll_fn(|cx| Poll::Ready(copied.as_mut().poll(cx))).await;
        let answer: Answer = match first {
            Poll::Ready(answer) => Box::pin(std::future::ready(answer)),
            Poll::Pending => by_itself(copied),
        };
        self.sent(Pending { answer, check, at, weight }).await
    }
}

/// Goes on in a task of its own, which ends with whoever waits for it.
fn by_itself(answer: Answer) -> Answer {
    let mut task = JoinSet::new();
    task.spawn(answer);
    Box::pin(async move {
        match task.join_next().await {
            Some(Ok(answer)) => answer,
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends, and we with it.
            Some(Err(_)) | None => std::future::pending().await,
        }
    })
}

/// Bytes that a parameter takes.
fn taken(value: &Value) -> usize {
    size_of::<Value>() + value.as_ref().map_or(0, |text| text.len())
}

fn doing(check: &Check) -> String {
    match check {
        Check::Any => "a statement".to_owned(),
        Check::Fence | Check::Commit => "committing".to_owned(),
        Check::Inverse { table, .. } => format!("update of {}", table.name),
        Check::Rows { verb, table, .. } => format!("{} of {}", verb.name(), table.name),
    }
}

//! One of the two sessions of a comparison: read only, in one snapshot, with every setting
//! pinned that a value's text depends on.
//!
//! Rows come one at a time, so that memory does not depend on a table's size. What can go
//! wrong: the role may not read a table, or row security would hide rows from it, which is
//! an error here (`row_security = off`) and never a silent difference.

use std::pin::Pin;

use futures_util::TryStreamExt;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow, SimpleQueryStream};

use super::error::VerifyError;
use crate::source::conninfo::{Conninfo, sql_connect_with};

/// Beside those that every session of ours has. `lc_monetary` decides how money looks,
/// `search_path` how names do (`regclass`). A part's rows are sorted, and buckets counted, in
/// `work_mem`, not in the server's temporary files.
const SETTINGS: [(&str, &str); 10] = [
    ("work_mem", "32MB"),
    ("search_path", "pg_catalog"),
    ("row_security", "off"),
    ("lc_monetary", "C"),
    ("quote_all_identifiers", "off"),
    ("jit", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
];

/// A session on the source, or on the target.
pub(super) struct Side {
    client: Client,
    /// `source` or `target`.
    pub(super) name: &'static str,
}

impl Side {
    /// Connects.
    pub(super) async fn connect(info: &Conninfo, name: &'static str) -> Result<Side, VerifyError> {
        let client = sql_connect_with(info, "kasho verify", &SETTINGS).await;
        let client = client.map_err(|error| VerifyError::Server { side: name, error })?;
        Ok(Side { client, name })
    }

    /// The session itself, outside of any snapshot.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Begins a snapshot, after ending the one before; the next statement takes it.
    pub(super) async fn begin(&self) -> Result<(), VerifyError> {
        let sql = "ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        let begun = self.client.batch_execute(sql).await;
        begun.map_err(|error| VerifyError::rows(self.name, "beginning a snapshot", &error))
    }

    /// The rows of a statement's answer, one at a time.
    pub(super) async fn rows(&self, doing: &str, sql: &str) -> Result<Rows, VerifyError> {
        let (side, doing) = (self.name, doing.to_owned());
        let rows = self.client.simple_query_raw(sql).await;
        let rows = rows.map_err(|error| VerifyError::rows(side, &doing, &error))?;
        Ok(Rows { side, doing, rows: Some(Box::pin(rows)) })
    }

    /// Hands each row of a statement's answer to `each`.
    pub(super) async fn each(
        &self,
        doing: &str,
        sql: &str,
        mut each: impl FnMut(&SimpleQueryRow) -> Result<(), VerifyError>,
    ) -> Result<(), VerifyError> {
        let mut rows = self.rows(doing, sql).await?;
        while let Some(row) = rows.next().await? {
            each(&row)?;
        }
        Ok(())
    }

    /// All rows of a short answer.
    pub(super) async fn all(
        &self,
        doing: &str,
        sql: &str,
    ) -> Result<Vec<Vec<Option<String>>>, VerifyError> {
        let mut all = Vec::new();
        self.each(doing, sql, |row| {
            all.push(texts(row, 0..row.len()).collect());
            Ok(())
        })
        .await?;
        Ok(all)
    }

    /// The first value of the first row.
    pub(super) async fn value(
        &self,
        doing: &str,
        sql: &str,
    ) -> Result<Option<String>, VerifyError> {
        let all = self.all(doing, sql).await?;
        Ok(all.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }
}

/// An answer that is read a row at a time; the server waits meanwhile.
pub(super) struct Rows {
    side: &'static str,
    doing: String,
    /// Until its end: the driver calls it a broken connection if it is asked again.
    rows: Option<Pin<Box<SimpleQueryStream>>>,
}

impl Rows {
    /// The next row, unless that was the last one; then there is none, however often it is
    /// asked for.
    pub(super) async fn next(&mut self) -> Result<Option<SimpleQueryRow>, VerifyError> {
        let failed = |error| VerifyError::rows(self.side, &self.doing, &error);
        while let Some(rows) = &mut self.rows {
            match rows.try_next().await.map_err(failed)? {
                Some(SimpleQueryMessage::Row(row)) => return Ok(Some(row)),
                Some(_) => {}
                None => self.rows = None,
            }
        }
        Ok(None)
    }
}

/// Values of a row.
pub(super) fn texts(
    row: &SimpleQueryRow,
    columns: std::ops::Range<usize>,
) -> impl Iterator<Item = Option<String>> + '_ {
    columns.map(|at| row.get(at).map(str::to_owned))
}

/// The same of columns that are not null.
pub(super) fn key(row: &SimpleQueryRow, columns: std::ops::Range<usize>) -> Vec<String> {
    texts(row, columns).map(Option::unwrap_or_default).collect()
}

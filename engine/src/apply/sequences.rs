//! Sequences are not part of logical replication: their values are read from the source, after
//! the load and on a schedule, and set in the target where a sequence has the same name.
//!
//! What can go wrong is told and tried again at the next time: rows do not wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::error::ApplyError;
use super::progress::Progress;
use super::session;
use crate::config::Config;
use crate::source::conninfo::{Conninfo, sql_connect};
use crate::source::error::SourceError;

/// A look at both databases takes no longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Sequences of one statement.
const AT_ONCE: usize = 500;

/// What those that were ever used gave out last.
const READ: &str = "
SELECT format('%I.%I', schemaname, sequencename), last_value
FROM pg_catalog.pg_sequences
WHERE last_value IS NOT NULL AND schemaname NOT IN ('pg_catalog', 'information_schema', 'kasho')
ORDER BY 1";

/// Sets those that are there and may be set, and differ (as far as the role may look: every
/// setting is a record of the target's log). Answers how many, and how many may not
/// be set. The lock keeps a writer who was fenced off from setting them back.
const SET: &str = "
WITH fence AS MATERIALIZED (
    SELECT 1 FROM kasho.applied WHERE consumer = $3 AND relation = '' AND writer = $4 FOR KEY SHARE),
wanted AS MATERIALIZED (
    SELECT c.oid, v.last, pg_catalog.has_sequence_privilege(c.oid, 'UPDATE') AS may,
        CASE WHEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT, USAGE')
            THEN pg_catalog.pg_sequence_last_value(c.oid) END AS now
    FROM fence, unnest($1::text[], $2::int8[]) v(name, last)
    JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(v.name) AND c.relkind = 'S')
SELECT count(CASE WHEN may AND last IS DISTINCT FROM now THEN pg_catalog.setval(oid, last) END),
    count(*) FILTER (WHERE NOT may)
FROM wanted";

/// Copies values now and then, by a task of its own: rows do not wait for the source.
#[derive(Debug)]
pub(super) struct Copier {
    both: Option<Arc<Both>>,
    /// Ends with this.
    _task: JoinSet<()>,
}

/// The two databases.
#[derive(Debug)]
struct Both {
    from: Conninfo,
    to: Conninfo,
    consumer: String,
    writer: String,
    told: AtomicBool,
}

impl Copier {
    /// The first time is now.
    pub(super) fn start(config: &Config, target: &Conninfo, progress: &Progress) -> Copier {
        let mut task = JoinSet::new();
        let every = config.apply.sequences_ms;
        let url = config.source.url.as_ref().filter(|_| every > 0);
        let from = url.and_then(|url| Conninfo::parse(url.expose_secret()).ok());
        if from.is_none() && every > 0 {
            tracing::info!("sequences are left alone: source.url is not set");
        }
        let both = from.map(|from| {
            Arc::new(Both {
                from,
                to: target.clone(),
                consumer: progress.consumer.clone(),
                writer: progress.writer.clone(),
                told: AtomicBool::new(false),
            })
        });
        if let Some(both) = both.clone() {
            task.spawn(async move {
                loop {
                    both.now().await;
                    tokio::time::sleep(Duration::from_millis(every)).await;
                }
            });
        }
        Copier { both, _task: task }
    }

    /// Copies, and waits for that.
    pub(super) async fn now(&self) {
        if let Some(both) = &self.both {
            both.now().await;
        }
    }
}

impl Both {
    async fn now(&self) {
        match tokio::time::timeout(PATIENCE, self.copy(&self.from)).await {
            Ok(Ok((set, refused))) => {
                tracing::debug!(set, refused, "sequences");
                if refused > 0 && !self.told.swap(true, Relaxed) {
                    tracing::warn!(
                        sequences = refused,
                        "the target's role may not set some sequences: GRANT UPDATE ON ALL \
                         SEQUENCES IN SCHEMA … TO it"
                    );
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "sequences are not copied this time"),
            Err(_) => tracing::warn!("sequences are not copied this time: no answer for too long"),
        }
    }

    async fn copy(&self, from: &Conninfo) -> Result<(i64, i64), ApplyError> {
        let source = sql_connect(from, "kasho apply").await?;
        let failed = |e: &tokio_postgres::Error| SourceError::sql("reading sequences", e);
        let rows = source.query(READ, &[]).await.map_err(|e| failed(&e))?;
        let (target, _) = session::connect(&self.to).await?;
        let mut sums = (0, 0);
        for rows in rows.chunks(AT_ONCE) {
            let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            let values: Vec<i64> = rows.iter().map(|row| row.get(1)).collect();
            let row = set(&target, &names, &values, &self.consumer, &self.writer).await?;
            sums = (sums.0 + row.0, sums.1 + row.1);
        }
        Ok(sums)
    }
}

async fn set(
    target: &Client,
    names: &[String],
    values: &[i64],
    consumer: &str,
    writer: &str,
) -> Result<(i64, i64), ApplyError> {
    let row = target.query_one(SET, &[&names, &values, &consumer, &writer]).await;
    let row = row.map_err(|e| ApplyError::sql("setting sequences", &e))?;
    Ok((row.get(0), row.get(1)))
}

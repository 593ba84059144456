//! Looks at both servers once a second for what only they know: the slot and the log it
//! keeps, the age of what it holds back, the streams' lengths, the consumers. A look that
//! fails says so in the status and changes nothing else.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::{Event, LOOK, World};
use crate::control::ConsumerStatus;
use crate::position::EpochPosition;
use crate::sink::redis::RedisStore;
use crate::sink::store::Store;
use crate::sink::{SinkError, consumers};
use crate::source::catalog::published_names;
use crate::source::error::SourceError;
use crate::source::wal::{SlotStatus, slot_status};

/// What is published changes seldom, and a large database has many tables.
const PUBLISHED_EVERY: u32 = 10;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    /// Our slot, if it exists.
    pub(super) slot: Option<SlotStatus>,
    /// Age in transactions of the oldest row version that slot or snapshots hold back.
    pub(super) xmin_age: u64,
    /// Bytes of log after what the slot has confirmed.
    pub(super) lag_bytes: u64,
    /// Every published relation.
    pub(super) published: Vec<String>,
    /// Entries in the changes stream.
    pub(super) changes_entries: u64,
    /// Entries in the bootstrap stream.
    pub(super) bootstrap_entries: u64,
    /// Registered consumers.
    pub(super) consumers: Vec<ConsumerStatus>,
    /// Why a server could not be looked at.
    pub(super) error: Option<String>,
}

/// The task that looks.
pub(super) struct Observer {
    pub(super) world: Arc<World>,
    pub(super) events: mpsc::Sender<Event>,
}

impl Observer {
    pub(super) async fn run(self, stop: CancellationToken) {
        let (mut sql, mut redis) = (None, None);
        let (mut found, mut looks) = (Observed::default(), 0_u32);
        let mut clock = tokio::time::interval(LOOK);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = clock.tick() => {}
            }
            let names = looks.is_multiple_of(PUBLISHED_EVERY);
            looks = looks.wrapping_add(1);
            let source = self.source(&mut sql, &mut found, names).await.map_err(|e| e.to_string());
            let sink = self.sink(&mut redis, &mut found).await.map_err(|e| e.to_string());
            if source.is_err() {
                sql = None;
            }
            if sink.is_err() {
                redis = None;
            }
            found.error = source.err().or(sink.err());
            let _ = self.events.send(Event::Observed(Box::new(found.clone()))).await;
        }
    }

    async fn source(
        &self,
        client: &mut Option<Client>,
        found: &mut Observed,
        names: bool,
    ) -> Result<(), SourceError> {
        const SQL: &str = "SELECT greatest(
                (SELECT max(age(backend_xmin)) FROM pg_stat_activity
                 WHERE application_name LIKE 'kasho %' AND datname = current_database()),
                (SELECT greatest(age(catalog_xmin), age(xmin)) FROM pg_replication_slots
                 WHERE slot_name = $1::text::name))::int8,
            (SELECT greatest(0, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery()
                THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, confirmed_flush_lsn))
             FROM pg_replication_slots WHERE slot_name = $1::text::name)::int8";
        let client = match client {
            Some(client) => client,
            None => client.insert(self.world.sql("kasho status").await?),
        };
        found.slot = slot_status(client, &self.world.slot).await?;
        let row = client.query_one(SQL, &[&self.world.slot.as_str()]).await;
        let row = row.map_err(|e| SourceError::sql("a look at the slot's age", &e))?;
        let number = |column: usize| {
            let n: Option<i64> = row.try_get(column).ok().flatten();
            n.and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
        };
        (found.xmin_age, found.lag_bytes) = (number(0), number(1));
        if names {
            let publications = &self.world.config.source.publications;
            found.published = published_names(client, publications).await?;
        }
        Ok(())
    }

    async fn sink(
        &self,
        store: &mut Option<RedisStore>,
        found: &mut Observed,
    ) -> Result<(), SinkError> {
        let store = match store {
            Some(store) => store,
            None => store.insert(self.world.redis_store().await?),
        };
        let inspection = store.inspect().await?;
        found.changes_entries = inspection.entries;
        found.bootstrap_entries = inspection.bootstrap.high;
        let epoch = inspection.checkpoint.map(|checkpoint| checkpoint.epoch);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let status = |lag: consumers::Lag| ConsumerStatus {
            name: lag.consumer.name,
            position: EpochPosition { epoch, position: lag.position },
            lag_entries: lag.load_entries,
            silent: now.saturating_sub(Duration::from_millis(
                lag.consumer.seen_ms.unwrap_or(lag.consumer.since_ms),
            )),
        };
        found.consumers = consumers::list(store).await?.into_iter().map(status).collect();
        Ok(())
    }
}

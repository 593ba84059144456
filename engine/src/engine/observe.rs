//! Looks at both servers once a second for what only they know: the slot and the log it
//! keeps, the age of what it holds back, the streams' lengths, the consumers. A look that
//! fails says so in the status and changes nothing else; one that hangs keeps nobody from
//! hearing what the other server said.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::{Event, LOOK, World};
use crate::control::ConsumerStatus;
use crate::position::{Epoch, EpochPosition, Lsn};
use crate::sink::redis::RedisStore;
use crate::sink::store::Store;
use crate::sink::{SinkError, consumers};
use crate::source::error::SourceError;
use crate::source::preflight::{self, Finding};
use crate::source::wal::{SlotStatus, slot_status};

/// Settings of the source are looked at once in so many looks.
const SETTINGS_LOOKS: u32 = 10;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    /// Our slot, if it exists.
    pub(super) slot: Option<SlotStatus>,
    /// Age in transactions of the oldest row version that slot or snapshots hold back.
    pub(super) xmin_age: u64,
    /// Bytes of log after what the slot has confirmed.
    pub(super) lag_bytes: u64,
    /// The epoch that Redis holds; the next three are of it.
    pub(super) epoch: Option<Epoch>,
    /// Commit LSN of the last entry of the changes stream.
    pub(super) changes_lsn: Lsn,
    /// Entries in the changes stream.
    pub(super) changes_entries: u64,
    /// Entries in the bootstrap stream.
    pub(super) bootstrap_entries: u64,
    /// What is not as it should be on the source, though it does not stop us.
    pub(super) warnings: Vec<String>,
    /// Registered consumers.
    pub(super) consumers: Vec<ConsumerStatus>,
    /// Why PostgreSQL could not be looked at.
    pub(super) source_error: Option<String>,
    /// Why Redis could not be.
    pub(super) sink_error: Option<String>,
}

/// The task that looks.
pub(super) struct Observer {
    pub(super) world: Arc<World>,
    pub(super) events: mpsc::Sender<Event>,
}

impl Observer {
    pub(super) async fn run(self, stop: CancellationToken) {
        let (mut sql, mut redis) = (None, None);
        let mut found = Observed::default();
        let mut looks: u32 = 0;
        let mut clock = tokio::time::interval(LOOK);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = clock.tick() => {}
            }
            let settings = looks.is_multiple_of(SETTINGS_LOOKS);
            let source = self.source(&mut sql, settings, &mut found).await;
            let source = source.map_err(|e| e.to_string());
            looks = if source.is_ok() { looks.wrapping_add(1) } else { 0 };
            if source.is_err() {
                sql = None;
            }
            found.source_error = source.err();
            self.tell(&found).await;
            let sink = self.sink(&mut redis, &mut found).await.map_err(|e| e.to_string());
            if sink.is_err() {
                redis = None;
            }
            found.sink_error = sink.err();
            self.tell(&found).await;
        }
    }

    async fn tell(&self, found: &Observed) {
        let _ = self.events.send(Event::Observed(Box::new(found.clone()))).await;
    }

    async fn source(
        &self,
        client: &mut Option<Client>,
        settings: bool,
        found: &mut Observed,
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
        if settings {
            let findings = preflight::server(client).await?;
            found.warnings =
                findings.iter().filter(|f| f.is_warning()).map(Finding::told).collect();
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
        found.changes_lsn = Lsn(inspection.changes.high);
        found.changes_entries = inspection.entries;
        found.bootstrap_entries = inspection.bootstrap.high;
        let epoch = inspection.checkpoint.map(|checkpoint| checkpoint.epoch);
        found.epoch = epoch;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let status = |lag: consumers::Lag| ConsumerStatus {
            name: lag.consumer.name,
            position: EpochPosition { epoch, position: lag.position },
            lag_entries: lag.load_entries,
            lag_bytes: lag.wal_bytes.unwrap_or(0),
            silent: now.saturating_sub(Duration::from_millis(
                lag.consumer.seen_ms.unwrap_or(lag.consumer.since_ms),
            )),
        };
        found.consumers = consumers::list(store).await?.into_iter().map(status).collect();
        Ok(())
    }
}

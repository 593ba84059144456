//! Looks at both servers once a second for what only they know: the slot and the log it
//! keeps, the age of what it holds back, the streams' lengths, the consumers. A look that
//! fails says so in the status and changes nothing else; one that hangs keeps nobody from
//! hearing what the other server said. What the engine makes of a look stands here too.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::lag::LagClock;
use super::published::Look;
use super::{Engine, Event, LOOK, World};
use crate::bootstrap::{Command, Load};
use crate::control::ConsumerStatus;
use crate::position::{Epoch, EpochPosition, Lsn};
use crate::sink::redis::RedisStore;
use crate::sink::store::{Registry, Store, Usage};
use crate::sink::{SinkError, consumers};
use crate::source::catalog::published_names;
use crate::source::error::SourceError;
use crate::source::indexes::Failed;
use crate::source::preflight::{self, Finding};
use crate::source::wal::{SlotStatus, log_end, slot_status};
use crate::sync::Stored;

/// Settings of the source are looked at once in so many looks.
const SETTINGS_LOOKS: u32 = 10;
/// Of a look into tables that others are changing: a lock is not had (55P03), or a table, a
/// schema or a relation's file is gone since (42P01, 3F000, XX000).
const PASSING: [&str; 4] = ["55P03", "42P01", "3F000", "XX000"];

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
    pub(super) published: Look,
    /// End of the log.
    pub(super) wal_end: Lsn,
    /// The epoch that Redis holds; the next four are of it.
    pub(super) epoch: Option<Epoch>,
    /// Commit LSN of the last entry of the changes stream.
    pub(super) changes_lsn: Lsn,
    /// Entries in the changes stream.
    pub(super) changes_entries: u64,
    /// Entries written to the bootstrap stream.
    pub(super) bootstrap_entries: u64,
    /// Memory of Redis and of both streams.
    pub(super) usage: Usage,
    /// What the loader of a dump file has stored in this epoch.
    pub(super) loader: Stored,
    /// What is not as it should be on the source, though it does not stop us.
    pub(super) warnings: Vec<String>,
    /// Registered consumers.
    pub(super) consumers: Vec<ConsumerStatus>,
    /// Rows that were set aside.
    pub(super) dead_letters: u64,
    /// Why PostgreSQL could not be looked at.
    pub(super) source_error: Option<String>,
    /// Why Redis could not be looked at.
    pub(super) sink_error: Option<String>,
}

impl Observed {
    /// Where the slot reads from when it is opened, if that is known.
    pub(super) fn restart_lsn(&self) -> Lsn {
        self.slot.as_ref().and_then(|slot| slot.restart_lsn).unwrap_or(Lsn::ZERO)
    }

    /// Why a server could not be looked at.
    pub(super) fn error(&self) -> Option<String> {
        self.source_error.clone().or_else(|| self.sink_error.clone())
    }
}

impl Engine {
    /// Takes in a new look at both servers.
    pub(super) async fn look(&mut self, observed: Observed) {
        self.troubles.observer = observed.error();
        self.observed = observed;
        let published = Lsn(self.figures.pipeline.published_lsn.load(Relaxed));
        self.published.saw(&self.observed.published, published);
        match self.phase.epoch() {
            Some(_) => self.lag.saw(Instant::now(), self.observed.wal_end, published),
            None => self.lag = LagClock::default(),
        }
        // What was seen may be older than the epoch in force.
        let seen = self.observed.epoch;
        let ours = |load: &Load| !load.loaded && seen == Some(load.epoch);
        if self.phase.external_load().is_some_and(ours) && self.observed.loader.done {
            self.apply(Command::LoadDone, "the dump is loaded").await;
        }
        self.guard_source().await;
        self.store_late().await;
        self.pay().await;
        self.load_missing();
    }
}

/// The task that looks.
pub(super) struct Observer {
    pub(super) world: Arc<World>,
    pub(super) events: mpsc::Sender<Event>,
}

impl Observer {
    /// Looks at both side by side: a Redis that does not answer must not hide what the
    /// source keeps because of that.
    pub(super) async fn run(self, stop: CancellationToken) {
        let found = Mutex::new(Observed::default());
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.watch_source(&found) => {}
            () = self.watch_sink(&found) => {}
        }
    }

    async fn watch_source(&self, found: &Mutex<Observed>) {
        let (mut client, mut clock, mut looks) = (None, clock(), 0u32);
        let (mut indexes, mut stored) = (Failed::default(), None);
        loop {
            clock.tick().await;
            let mut new = Observed::default();
            let settings = looks.is_multiple_of(SETTINGS_LOOKS);
            let looked = self.source(&mut client, settings, &mut new).await;
            if let (true, Some(client)) = (looked.is_ok(), &client) {
                // Nothing of what was seen depends on it.
                self.look_at_indexes(client, &mut indexes, &mut stored).await;
            }
            looks = if looked.is_ok() { looks.wrapping_add(1) } else { 0 };
            if looked.is_err() {
                client = None;
            }
            let (published, error) = match looked {
                Ok(published) => (published, None),
                Err(error) => (None, Some(error.to_string())),
            };
            self.tell(found, |all| {
                all.source_error = error;
                all.published = published.unwrap_or(std::mem::take(&mut all.published));
                if all.source_error.is_none() {
                    (all.slot, all.wal_end) = (new.slot, new.wal_end);
                    (all.xmin_age, all.lag_bytes) = (new.xmin_age, new.lag_bytes);
                    if settings {
                        all.warnings = new.warnings;
                    }
                }
            })
            .await;
        }
    }

    /// Looks after invalid indexes, by what was `stored` of them in Redis, which is read first and
    /// may not answer: then they are looked after later.
    async fn look_at_indexes(
        &self,
        client: &Client,
        indexes: &mut Failed,
        stored: &mut Option<Vec<u8>>,
    ) {
        if stored.is_none() {
            let read =
                async { self.world.redis_store().await?.indexes().await.map_err(SinkError::from) };
            let Ok(Ok(text)) = tokio::time::timeout(LOOK, read).await else { return };
            indexes.recall(&text.unwrap_or_default());
            *stored = Some(indexes.stored());
        }
        indexes.look(client).await;
        let now = indexes.stored();
        if stored.as_ref() == Some(&now) {
            return;
        }
        let write = async {
            let mut store = self.world.redis_store().await?;
            store.set_indexes(&now).await.map_err(SinkError::from)
        };
        if let Ok(Ok(())) = tokio::time::timeout(LOOK, write).await {
            *stored = Some(now);
        }
    }

    async fn watch_sink(&self, found: &Mutex<Observed>) {
        let (mut store, mut clock) = (None, clock());
        loop {
            clock.tick().await;
            let mut new = Observed::default();
            let looked = self.sink(&mut store, &mut new).await;
            if looked.is_err() {
                store = None;
            }
            let error = looked.err().map(|error| error.to_string());
            self.tell(found, |all| {
                all.sink_error = error;
                if all.sink_error.is_none() {
                    (all.changes_entries, all.consumers) = (new.changes_entries, new.consumers);
                    (all.epoch, all.changes_lsn) = (new.epoch, new.changes_lsn);
                    all.bootstrap_entries = new.bootstrap_entries;
                    all.dead_letters = new.dead_letters;
                    (all.usage, all.loader) = (new.usage, new.loader);
                }
            })
            .await;
        }
    }

    async fn tell(&self, found: &Mutex<Observed>, change: impl FnOnce(&mut Observed)) {
        let all = {
            let mut all = found.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut all);
            all.clone()
        };
        let _ = self.events.send(Event::Observed(Box::new(all))).await;
    }

    /// Comes back with what is published, if that was asked for and could be said.
    async fn source(
        &self,
        client: &mut Option<Client>,
        settings: bool,
        found: &mut Observed,
    ) -> Result<Option<Look>, SourceError> {
        const SQL: &str = "SELECT greatest(
                (SELECT max(age(backend_xmin)) FROM pg_stat_activity
                 WHERE application_name LIKE 'kasho %' AND datname = current_database()),
                (SELECT greatest(age(catalog_xmin), age(xmin)) FROM pg_replication_slots
                 WHERE slot_name = $1::text::name))::int8,
            (SELECT greatest(0, pg_wal_lsn_diff(wal_end, confirmed_flush_lsn))
             FROM pg_replication_slots WHERE slot_name = $1::text::name)::int8,
            wal_end::text
            FROM (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                ELSE pg_current_wal_lsn() END) AS now (wal_end)";
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
        let wal_end: Option<&str> = row.try_get(2).ok().flatten();
        found.wal_end = wal_end.and_then(|lsn| lsn.parse().ok()).unwrap_or_default();
        if !settings {
            return Ok(None);
        }
        let findings = preflight::server(client).await?;
        found.warnings = findings.iter().filter(|f| f.is_warning()).map(Finding::told).collect();
        let publications = &self.world.config.source.publications;
        match published_names(client, publications).await {
            Ok(names) => {
                let (from, to) = (found.wal_end, log_end(client).await?.unwrap_or_default());
                Ok(Some(Look { names, from, to }))
            }
            // From 16 on that looks into the tables: somebody is changing one, or has dropped
            // it a moment ago. It is no reason to see nothing else.
            Err(error) if error.sqlstate().is_some_and(|code| PASSING.contains(&code)) => {
                tracing::debug!(%error, "what is published cannot be looked at yet");
                Ok(None)
            }
            Err(error) => Err(error),
        }
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
        found.dead_letters = inspection.letters;
        let epoch = inspection.checkpoint.map(|checkpoint| checkpoint.epoch);
        found.epoch = epoch;
        found.usage = store.usage(epoch.unwrap_or(Epoch(0))).await?;
        found.loader = match epoch {
            Some(epoch) => Stored::read(&store.progress(epoch).await?),
            None => Stored::default(),
        };
        // By the clock that wrote down when each was seen.
        let now = Duration::from_millis(found.usage.now_ms);
        let status = |lag: consumers::Lag| ConsumerStatus {
            name: lag.consumer.name,
            position: EpochPosition { epoch, position: lag.position },
            lag_entries: lag.load_entries,
            lag_bytes: lag.wal_bytes,
            silent: now.saturating_sub(Duration::from_millis(
                lag.consumer.seen_ms.unwrap_or(lag.consumer.since_ms),
            )),
        };
        found.consumers = consumers::list(store).await?.into_iter().map(status).collect();
        Ok(())
    }
}

fn clock() -> tokio::time::Interval {
    let mut clock = tokio::time::interval(LOOK);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    clock
}

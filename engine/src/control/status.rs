//! The figures behind GetStatus. The engine replaces the whole snapshot whenever a part
//! of it changes; GetStatus reads it without asking anybody, so it answers whatever
//! else is stuck. Nothing here can fail.

use std::time::{Duration, SystemTime};

use crate::bootstrap::{Blocking, State};
use crate::control::proto::kasho as proto;
use crate::position::{Epoch, EpochPosition, Lsn};
use crate::transform::Calls;

/// At this many hundredths of `source.max_retained_wal` the service is no longer ready.
pub const NEAR_PERCENT: u64 = 80;
/// A consumer that is behind and was not heard of for so long is warned about.
const SILENT: Duration = Duration::from_secs(300);

/// Everything GetStatus tells, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Where the service stands; none is WAITING.
    pub state: Option<State>,
    /// The epoch in force.
    pub epoch: Option<Epoch>,
    /// The slot's consistent point.
    pub start_lsn: Option<Lsn>,
    /// Commit LSN of the last change in Redis.
    pub current_lsn: Option<Lsn>,
    /// LSN told to PostgreSQL as flushed.
    pub confirmed_lsn: Option<Lsn>,
    /// Entries that the changes stream received during ACCUMULATING.
    pub accumulated_changes: u64,
    /// Bytes of log between the server's end and what is confirmed.
    pub lag_bytes: u64,
    /// Bytes of log that the source keeps because of the slot.
    pub retained_wal_bytes: u64,
    /// `pg_replication_slots.wal_status`.
    pub wal_status: String,
    /// `pg_replication_slots.safe_wal_size`; none without `max_slot_wal_keep_size`.
    pub safe_wal_bytes: Option<u64>,
    /// `source.max_retained_wal`; 0 = no limit.
    pub max_retained_wal: u64,
    /// Age of the oldest log that is not published yet.
    pub lag: Duration,
    /// Both servers have answered, and the phase is what they say.
    pub started: bool,
    /// The slot is being read.
    pub stream_open: bool,
    /// Changes received, before filtering, in this process's life.
    pub rows: u64,
    /// Transactions published in this process's life.
    pub transactions: u64,
    /// The changes stream.
    pub changes: LaneFigures,
    /// The bootstrap stream.
    pub bootstrap: LaneFigures,
    /// Memory of Redis, bytes; 0 = not sampled.
    pub redis_used: u64,
    /// Its `maxmemory`, bytes; 0 = no limit.
    pub redis_limit: u64,
    /// Why nothing moves, if something holds it.
    pub paused: String,
    /// The initial load.
    pub load: LoadFigures,
    /// The plugin chain in force.
    pub generation: u64,
    /// Its digest.
    pub generation_digest: String,
    /// When it was taken over.
    pub generation_at: Option<SystemTime>,
    /// From which commit on it has published in this process's life.
    pub generation_since: Option<Lsn>,
    /// Its plugins.
    pub plugins: Vec<PluginStatus>,
    /// What was refused last, while it is not in force.
    pub candidate: Option<CandidateStatus>,
    /// Changed plugins or rules that were refused, in this process's life.
    pub refusals: u64,
    /// Registered consumers.
    pub consumers: Vec<ConsumerStatus>,
    /// The durability that is in force.
    pub durability: String,
    /// Age in transactions of the oldest row version that slot or snapshot hold back.
    pub xmin_age: u64,
    /// Empty, or why the service does not do what it should.
    pub last_error: String,
    /// The exported snapshot of the initial load, while there is one.
    pub snapshot_name: String,
    /// Name of the slot.
    pub slot: String,
    /// Names of the publications, separated by commas.
    pub publication: String,
    /// Key of the changes stream.
    pub changes_key: String,
    /// Key of the bootstrap stream.
    pub bootstrap_key: String,
    /// Findings that do not stop the service.
    pub warnings: Vec<String>,
    /// Columns that pass unmasked by name.
    pub allow_unmasked: Vec<String>,
    /// Published tables whose earlier rows were never loaded, or are other ones by now.
    pub not_loaded: Vec<String>,
    /// Those of them that the engine loads by itself, with the reason.
    pub by_itself: Vec<(String, String)>,
    /// Whether the published tables have been looked at: until then those of them are named
    /// that are remembered.
    pub tables_looked_at: bool,
    /// Rows that were set aside.
    pub dead_letters: u64,
}

/// The initial load in figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadFigures {
    /// "direct", "external", "none"; empty outside ACCUMULATING.
    pub mode: String,
    /// Rows published.
    pub rows: u64,
    /// Rows by the planner's estimate.
    pub rows_estimated: u64,
    /// Bytes of COPY text read.
    pub bytes: u64,
    /// Bytes of the tables' heaps.
    pub bytes_estimated: u64,
    /// Every table is published.
    pub finished: bool,
    /// Empty, or why the load has stopped until a person mends it.
    pub halted: String,
    /// What slot creation waits for.
    pub blocking: Option<Blocking>,
    /// Each table.
    pub tables: Vec<TableFigures>,
}

/// One table of the initial load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableFigures {
    /// `schema.table`.
    pub table: String,
    /// Rows published.
    pub rows: u64,
    /// Rows by the planner's estimate.
    pub rows_estimated: u64,
    /// Bytes of COPY text read.
    pub bytes: u64,
    /// Bytes of its heap.
    pub bytes_estimated: u64,
    /// Every range is published.
    pub done: bool,
    /// Its load point, where it differs from the consistent point.
    pub load_lsn: Option<Lsn>,
}

/// A candidate that was not taken.
#[derive(Clone, Debug)]
pub struct CandidateStatus {
    /// By which it can be accepted, if it comes so far.
    pub digest: String,
    /// When.
    pub at: SystemTime,
    /// Why.
    pub reasons: Vec<String>,
}

/// One plugin of the chain.
#[derive(Clone, Debug, Default)]
pub struct PluginStatus {
    /// As configured.
    pub name: String,
    /// SHA-256 of the module, hex.
    pub digest: String,
    /// Refused reload or other trouble.
    pub error: String,
    /// The file in the plugin folder.
    pub file: String,
    /// The version that it says.
    pub version: String,
    /// What it is attached to.
    pub tables: Vec<String>,
    /// Time of compiling it, or of finding it compiled.
    pub compiled: Duration,
    /// What it did; none for a candidate that was refused.
    pub calls: Option<Calls>,
    /// What it counted itself, by the texts it declared.
    pub counted: std::collections::BTreeMap<String, i64>,
}

/// One of the two streams in figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneFigures {
    /// Entries published in this process's life.
    pub entries: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Entries trimmed by this process.
    pub trimmed: u64,
    /// Entries in the stream, where they are counted.
    pub length: Option<u64>,
    /// Memory of the stream when last sampled, bytes.
    pub memory: u64,
    /// What it may take, bytes; none = no limit.
    pub budget: Option<u64>,
    /// Publishing waits for room.
    pub paused: bool,
}

/// One registered consumer.
#[derive(Clone, Debug)]
pub struct ConsumerStatus {
    /// As registered.
    pub name: String,
    /// What it has dealt with.
    pub position: EpochPosition,
    /// Entries of the load after that.
    pub lag_entries: u64,
    /// Bytes of log between that and the newest change; none while it reads the load.
    pub lag_bytes: Option<u64>,
    /// Time since it was last heard of.
    pub silent: Duration,
}

fn lsn(lsn: Option<Lsn>) -> String {
    lsn.map(|lsn| lsn.to_string()).unwrap_or_default()
}

/// Counts are far below 2^63; the original's field is signed.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970.
fn unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Status {
    /// Why the files on disk are not what is in force; empty if they are. What runs goes on.
    #[must_use]
    pub fn degraded(&self) -> String {
        let Some(candidate) = &self.candidate else { return String::new() };
        format!(
            "plugins and rules on disk were refused, generation {} goes on: {}",
            self.generation,
            candidate.reasons.join("; ")
        )
    }

    /// Why nobody should rely on the service at the moment; none if it is ready. A full
    /// Redis is back-pressure and no reason: it becomes one by the log that is kept.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        let error = self.last_error.as_str();
        if !self.started {
            return Some(if error.is_empty() { "starting" } else { error }.to_owned());
        }
        if !error.is_empty() {
            return Some(error.to_owned());
        }
        if self.state.unwrap_or(State::Waiting) != State::Waiting && !self.stream_open {
            return Some("the slot is not being read yet".to_owned());
        }
        let limit = self.max_retained_wal;
        let near = limit > 0
            && u128::from(self.retained_wal_bytes) * 100
                >= u128::from(limit) * u128::from(NEAR_PERCENT);
        near.then(|| {
            format!(
                "the source keeps {} bytes of log for the slot, more than {NEAR_PERCENT} % of \
                 source.max_retained_wal ({limit})",
                self.retained_wal_bytes
            )
        })
    }

    /// The answer to GetStatus.
    #[must_use]
    pub fn to_proto(&self, clients: usize, uptime: Duration) -> proto::StatusResponse {
        proto::StatusResponse {
            state: self.state.unwrap_or(State::Waiting).to_string(),
            start_lsn: lsn(self.start_lsn),
            current_lsn: lsn(self.current_lsn),
            accumulated_changes: signed(self.accumulated_changes),
            connected_clients: i32::try_from(clients).unwrap_or(i32::MAX),
            uptime_seconds: signed(uptime.as_secs()),
            epoch: self.epoch.map_or(0, |epoch| epoch.0),
            lag_bytes: self.lag_bytes,
            retained_wal_bytes: self.retained_wal_bytes,
            wal_status: self.wal_status.clone(),
            paused: self.paused.clone(),
            load: Some(self.load.to_proto()),
            generation: self.generation,
            plugins: self.plugins.iter().map(PluginStatus::to_proto).collect(),
            consumers: self.consumers.iter().map(ConsumerStatus::to_proto).collect(),
            durability: self.durability.clone(),
            xmin_age: self.xmin_age,
            last_error: self.last_error.clone(),
            snapshot_name: self.snapshot_name.clone(),
            slot: self.slot.clone(),
            publication: self.publication.clone(),
            confirmed_lsn: lsn(self.confirmed_lsn),
            changes_key: self.changes_key.clone(),
            bootstrap_key: self.bootstrap_key.clone(),
            warnings: self.warnings.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            allow_unmasked: self.allow_unmasked.clone(),
            not_loaded: self.not_loaded.clone(),
            by_itself: self.by_itself.iter().cloned().map(to_proto).collect(),
            tables_looked_at: self.tables_looked_at,
            max_retained_wal_bytes: self.max_retained_wal,
            safe_wal_bytes: self.safe_wal_bytes,
            lag_ms: u64::try_from(self.lag.as_millis()).unwrap_or(u64::MAX),
            not_ready: self.not_ready().unwrap_or_default(),
            dead_letters: self.dead_letters,
            generation_digest: self.generation_digest.clone(),
            generation_at_ms: self.generation_at.map_or(0, unix_ms),
            generation_since: lsn(self.generation_since),
            degraded: self.degraded(),
            candidate: self.candidate.as_ref().map(CandidateStatus::to_proto),
        }
    }
}

fn to_proto((table, why): (String, String)) -> proto::ByItself {
    proto::ByItself { table, why }
}

impl LoadFigures {
    fn to_proto(&self) -> proto::LoadProgress {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        proto::LoadProgress {
            rows: self.rows,
            rows_estimated: self.rows_estimated,
            bytes: self.bytes,
            bytes_estimated: self.bytes_estimated,
            tables_done: count(self.tables.iter().filter(|table| table.done).count()),
            tables: count(self.tables.len()),
            finished: self.finished,
            blocking_pid: self.blocking.as_ref().map_or(0, |blocking| blocking.pid),
            blocking: self.blocking.as_ref().map(ToString::to_string).unwrap_or_default(),
            table_progress: self.tables.iter().map(TableFigures::to_proto).collect(),
            mode: self.mode.clone(),
            halted: self.halted.clone(),
        }
    }
}

impl TableFigures {
    fn to_proto(&self) -> proto::TableProgress {
        proto::TableProgress {
            table: self.table.clone(),
            rows: self.rows,
            rows_estimated: self.rows_estimated,
            bytes: self.bytes,
            bytes_estimated: self.bytes_estimated,
            done: self.done,
            load_lsn: lsn(self.load_lsn),
        }
    }
}

impl PluginStatus {
    fn to_proto(&self) -> proto::Plugin {
        let PluginStatus { name, digest, error, file, version, tables, compiled, calls, .. } =
            self.clone();
        let Calls { errors, lost, dead, passed, .. } = calls.unwrap_or_default();
        let dead_letters = dead;
        let compile_us = u64::try_from(compiled.as_micros()).unwrap_or(u64::MAX);
        proto::Plugin {
            name,
            digest,
            error,
            errors,
            lost,
            dead_letters,
            passed,
            file,
            version,
            tables,
            compile_us,
        }
    }
}

impl CandidateStatus {
    fn to_proto(&self) -> proto::Candidate {
        let CandidateStatus { digest, at, reasons } = self.clone();
        proto::Candidate { digest, at_ms: unix_ms(at), reasons }
    }
}

impl ConsumerStatus {
    /// What an operator should know of a consumer that holds the streams back and does not
    /// move.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let behind = self.lag_entries > 0 || self.lag_bytes.is_some_and(|bytes| bytes > 0);
        (behind && self.silent >= SILENT).then(|| {
            format!(
                "consumer {:?} was not heard of for {} s, and nothing that it has not acknowledged \
                 is trimmed; if it will not come back: `kasho consumers remove {}`",
                self.name,
                self.silent.as_secs(),
                self.name
            )
        })
    }

    fn to_proto(&self) -> proto::Consumer {
        proto::Consumer {
            name: self.name.clone(),
            position: self.position.to_string(),
            lag_entries: self.lag_entries,
            lag_bytes: self.lag_bytes.unwrap_or(0),
            silent_seconds: self.silent.as_secs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_consumer_is_warned_about_if_it_holds_anything_back() {
        let consumer = |lag_entries, lag_bytes, seconds| ConsumerStatus {
            name: "c".into(),
            position: EpochPosition { epoch: None, position: crate::position::Position::START },
            lag_entries,
            lag_bytes,
            silent: Duration::from_secs(seconds),
        };
        assert_eq!(consumer(0, Some(0), 9_000).warning(), None);
        assert_eq!(consumer(1, None, 299).warning(), None);
        assert!(consumer(1, None, 300).warning().is_some());
        let told = consumer(0, Some(1), 301).warning().unwrap();
        assert!(told.contains("301 s") && told.contains("kasho consumers remove c"), "{told}");
    }

    #[test]
    fn ready_means_that_everything_moves_and_nothing_is_near_its_limit() {
        let ready = Status {
            state: Some(State::Streaming),
            started: true,
            stream_open: true,
            max_retained_wal: 1000,
            retained_wal_bytes: 799,
            ..Status::default()
        };
        assert_eq!(ready.not_ready(), None);
        let why = |change: fn(&mut Status)| {
            let mut status = ready.clone();
            change(&mut status);
            status.not_ready().unwrap_or_default()
        };
        assert_eq!(why(|s| s.started = false), "starting");
        assert_eq!(why(|s| s.stream_open = false), "the slot is not being read yet");
        assert_eq!(why(|s| s.last_error = "halted".into()), "halted");
        assert!(why(|s| s.retained_wal_bytes = 800).contains("80 % of source.max_retained_wal"));
        assert_eq!(why(|s| (s.retained_wal_bytes, s.max_retained_wal) = (u64::MAX, 0)), "");
        assert_eq!(why(|s| (s.state, s.stream_open) = (None, false)), "", "WAITING is ready");
    }
}

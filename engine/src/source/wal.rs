//! The source that reads a replication slot.
//!
//! A task of its own owns the socket (`stream`), so that the server is answered whatever
//! the pipeline does; this side takes the received bytes apart and makes batches of them.
//! Values are never copied: a cell is a span of the received buffer.
//!
//! What can go wrong: everything in [`SourceError`]. After any error the source is spent;
//! open another one from what is durable.

use std::sync::Arc;
use std::time::Duration;

use super::conninfo::Conninfo;
use super::error::SourceError;
use super::marks::Marks;
use super::retries::Retries;
use super::{Received, Source};
use crate::ack::Durable;
use crate::position::Lsn;
use crate::quote::{identifier, literal};

mod again;
mod connection;
mod frames;
mod heartbeat;
mod lowat;
mod options;
pub mod pgoutput;
mod queue;
mod reader;
mod relation;
mod renames;
mod slot;
mod stream;
mod timeline;

pub use connection::{ReplSession, SystemId};
pub use heartbeat::emit_message;
pub use options::{Options, conninfo};
pub use queue::Figures;
pub use relation::KnownRelations;
pub use slot::{
    CreatedSlot, SlotName, SlotStatus, Snapshot, copy_slot, log_end, slot_status,
    temporary_slots_at,
};
pub use timeline::{SwitchPoint, switch_points};

use again::Rereader;
use queue::{End, Item, Shared};
use reader::Reader;
use relation::Relations;
use stream::{FAREWELL, StreamOptions, Task};

/// `application_name` of the stream's sessions, as `pg_stat_activity` shows it.
const APP_NAME: &str = "kasho";

/// A running stream.
pub struct WalSource {
    shared: Arc<Shared>,
    queue_bytes: usize,
    max_message_bytes: usize,
    reader: Reader,
    /// The last LSN handed out as idle.
    idle_said: Lsn,
    ended: bool,
    closed: bool,
    task: tokio::task::JoinHandle<()>,
    heartbeat: tokio::task::JoinHandle<()>,
}

impl WalSource {
    /// Connects and streams from the configured slot.
    ///
    /// `from` is what is durable, or zero: an LSN behind the slot's is moved forward by
    /// the server, one ahead of it skips what lies between.
    ///
    /// # Errors
    /// See [`SourceError`]; the slot must exist and be free.
    pub async fn open(
        options: &Options,
        info: &Conninfo,
        from: Lsn,
        known: &KnownRelations,
    ) -> Result<WalSource, SourceError> {
        let session = ReplSession::connect(info, APP_NAME).await?;
        WalSource::start(session, options, info, from, known).await
    }

    /// Streams on a session that is open already.
    ///
    /// # Errors
    /// As [`WalSource::open`].
    pub async fn start(
        mut session: ReplSession,
        options: &Options,
        info: &Conninfo,
        from: Lsn,
        known: &KnownRelations,
    ) -> Result<WalSource, SourceError> {
        let slot = SlotName::new(&options.slot)?;
        let patience = sender_timeout(&session.show("wal_sender_timeout").await?);
        let behaviour = stream_options(options, patience);
        let names: Vec<String> = options.publications.iter().map(|p| identifier(p)).collect();
        let publications = names.join(",");
        let sql = format!(
            "START_REPLICATION SLOT \"{slot}\" LOGICAL {from} (proto_version '1', \
             publication_names {}, messages 'true')",
            literal(&publications)
        );
        session.start_copy(&sql, &slot).await?;
        let shared = Arc::new(Shared::default());
        shared.acknowledge(from);
        let ReplSession { stream, buf, .. } = session;
        let task = Task::new(stream, buf, Arc::clone(&shared), behaviour);
        let task = tokio::spawn(task.run());
        let heartbeat = heartbeat::beat(info.clone(), options.heartbeat, Arc::clone(&shared));
        let heartbeat = tokio::spawn(heartbeat);
        let rereader = Rereader::new(info.clone(), options.publications.clone());
        let relations = Relations::new(info.clone(), APP_NAME, known.clone());
        let messages = options.messages.clone();
        let reader = Reader::new(options.limits, relations, messages, (publications, rereader));
        Ok(WalSource {
            shared,
            queue_bytes: behaviour.queue_bytes,
            max_message_bytes: behaviour.max_message_bytes,
            reader,
            idle_said: from,
            ended: false,
            closed: false,
            task,
            heartbeat,
        })
    }

    /// Knows the marks and rows announced there. To be said before anything is read.
    pub fn expect(&mut self, marks: Marks, retries: Retries) {
        self.reader.marks = marks;
        self.reader.retries = retries;
    }

    /// Figures that can be read at any time, also when the source has ended.
    #[must_use]
    pub fn figures(&self) -> Arc<Figures> {
        Arc::clone(&self.shared.figures)
    }

    /// The error that an end of the stream means.
    fn end(&mut self, end: End) -> Result<(), SourceError> {
        self.ended = true;
        match end {
            End::Closed => {
                self.closed = true;
                Ok(())
            }
            End::TooLarge { bytes, relation } => Err(SourceError::TooLarge {
                table: self.reader.table_name(relation),
                after: self.reader.last_lsn,
                bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
                limit: u64::try_from(self.max_message_bytes).unwrap_or(u64::MAX),
            }),
            End::Failed(error) if error.sqlstate() != Some("42704") => Err(error),
            End::Skipped | End::Failed(_) => Err(SourceError::PublicationMissing {
                publications: self.reader.publications.clone(),
                after: self.reader.last_lsn,
            }),
        }
    }
}

impl Source for WalSource {
    type Error = SourceError;

    async fn next(&mut self) -> Result<Received, SourceError> {
        loop {
            self.reader.read().await?;
            if self.reader.asm.full() {
                return Ok(Received::Batch(self.reader.take()));
            }
            match self.shared.try_next(self.queue_bytes) {
                Some(Item::Chunk(chunk)) => self.reader.feed(chunk),
                // What was received before the end is handed out before it is told.
                Some(Item::End(end)) => {
                    if self.reader.asm.has_any() {
                        self.shared.put_back(Item::End(end));
                        return Ok(Received::Batch(self.reader.take()));
                    }
                    self.end(end)?;
                }
                None if self.reader.asm.has_any() => {
                    return Ok(Received::Batch(self.reader.take()));
                }
                None if self.closed => return Ok(Received::Closed),
                None if self.ended => {
                    return Err(SourceError::protocol("streaming", "it has ended"));
                }
                None if self.reader.wal_end > self.idle_said => {
                    self.idle_said = self.reader.wal_end;
                    return Ok(Received::Idle { wal_end: self.idle_said });
                }
                None => self.shared.filled().await,
            }
        }
    }

    fn acknowledge(&mut self, durable: Durable) {
        self.shared.acknowledge(durable.lsn());
    }

    async fn close(mut self) {
        self.shared.leave();
        // It was told to go, and if it hangs in a write it is not worth waiting for.
        let _ = tokio::time::timeout(2 * FAREWELL, &mut self.task).await;
    }
}

impl Drop for WalSource {
    fn drop(&mut self) {
        self.shared.leave();
        self.heartbeat.abort();
    }
}

/// `wal_sender_timeout` as SHOW prints it (`1min`, `2s`, `500ms`, `0`); none if it is off.
fn sender_timeout(shown: &str) -> Option<Duration> {
    let digits = shown.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = shown.split_at(digits);
    let unit_ms = match unit {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => 86_400_000,
    };
    let ms = number.parse::<u64>().ok()?.saturating_mul(unit_ms);
    (ms > 0).then(|| Duration::from_millis(ms))
}

fn stream_options(options: &Options, sender_timeout: Option<Duration>) -> StreamOptions {
    let wanted = options.status_interval.max(Duration::from_millis(1));
    let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    // A row that takes 4 GiB cannot be: PostgreSQL's own limit is 1 GiB a message.
    let max_message_bytes = bytes(options.max_message_bytes.min(u64::from(u32::MAX >> 1)));
    StreamOptions {
        status_interval: sender_timeout.map_or(wanted, |limit| wanted.min(limit / 3)),
        queue_bytes: bytes(options.queue_bytes.clamp(1, u64::from(u32::MAX >> 2))),
        max_message_bytes,
        shutdown_grace: options.shutdown_grace,
        // Of an idle server questions come half its time limit after our last answer.
        impatience: sender_timeout
            .map_or(Duration::from_secs(1), |limit| (limit / 4).min(Duration::from_secs(1))),
        silence: Duration::from_secs(300),
    }
}

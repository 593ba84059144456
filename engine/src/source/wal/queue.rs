//! Between the task that owns the socket and the consumer of its stream: a queue, what
//! each wants the other to know, and figures for everybody else.
//!
//! What can go wrong: a wake-up that is missed. Whoever waits looks again after asking to
//! be woken, and a wake-up that comes early is kept.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::super::error::SourceError;
use crate::position::Lsn;

/// What the consumer is given, in the order it was received.
pub(super) enum Item {
    /// Whole protocol messages.
    Chunk(Bytes),
    /// The last item.
    End(End),
}

/// How a stream ends.
pub(super) enum End {
    /// In good order, or by us because the server could not otherwise shut down.
    Closed,
    /// A message of `bytes` was refused; the relation's OID if it says one.
    TooLarge {
        /// Its size.
        bytes: usize,
        /// `pg_class.oid`.
        relation: Option<u32>,
    },
    /// A publication was missing, and the server left out its rows.
    Skipped,
    /// Anything else.
    Failed(SourceError),
}

/// Cheap figures of a stream for status and metrics; all may be read at any time.
#[derive(Debug, Default)]
pub struct Figures {
    pub(super) received: AtomicU64,
    pub(super) carried: AtomicU64,
    pub(super) wal_end: AtomicU64,
    pub(super) acknowledged: AtomicU64,
    pub(super) queued: AtomicUsize,
    pub(super) updates: AtomicU64,
    pub(super) connected: AtomicBool,
}

impl Figures {
    /// The highest LSN seen on the stream.
    #[must_use]
    pub fn received(&self) -> Lsn {
        Lsn(self.received.load(Ordering::Relaxed))
    }

    /// The highest LSN of a frame that carried something: no keepalive.
    pub(super) fn carried(&self) -> Lsn {
        Lsn(self.carried.load(Ordering::Relaxed))
    }

    /// How far the server had read its log at its last keepalive.
    #[must_use]
    pub fn wal_end(&self) -> Lsn {
        Lsn(self.wal_end.load(Ordering::Relaxed))
    }

    /// The last LSN the server was told to be durable.
    #[must_use]
    pub fn acknowledged(&self) -> Lsn {
        Lsn(self.acknowledged.load(Ordering::Relaxed))
    }

    /// Bytes received and not yet taken by the pipeline.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// How often the server was told something.
    #[must_use]
    pub fn status_updates(&self) -> u64 {
        self.updates.load(Ordering::Relaxed)
    }

    /// Whether the stream stands.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

/// What the task and its consumer share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) figures: Arc<Figures>,
    queue: Mutex<VecDeque<Item>>,
    /// Bytes that the consumer has taken.
    pub(super) taken: AtomicU64,
    /// There is something in the queue.
    filled: Notify,
    /// The queue became shorter, an awaited acknowledgement came, or the consumer went.
    pub(super) wake: Notify,
    pub(super) flush: AtomicU64,
    /// The server waits for an acknowledgement: wake the task for the next one.
    pub(super) awaited: AtomicBool,
    pub(super) gone: AtomicBool,
    /// The server has ended another session of ours: it may be shutting down.
    pub(super) alarm: AtomicBool,
}

impl Shared {
    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<Item>> {
        // Nothing can panic while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item.
    pub(super) fn push(&self, item: Item) {
        if let Item::Chunk(chunk) = &item {
            self.figures.queued.fetch_add(chunk.len(), Ordering::Relaxed);
        }
        self.queue().push_back(item);
        self.filled.notify_one();
    }

    /// The next item, if there is one.
    pub(super) fn try_next(&self, limit: usize) -> Option<Item> {
        let item = self.queue().pop_front()?;
        if let Item::Chunk(chunk) = &item {
            let before = self.figures.queued.fetch_sub(chunk.len(), Ordering::Relaxed);
            self.taken.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if before >= limit {
                self.wake.notify_one();
            }
        }
        Some(item)
    }

    /// Puts an item back where it was taken from.
    pub(super) fn put_back(&self, item: Item) {
        self.queue().push_front(item);
    }

    /// Returns when there may be an item. Cancel-safe.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Raises what is durable.
    pub(super) fn acknowledge(&self, lsn: Lsn) {
        self.flush.fetch_max(lsn.0, Ordering::SeqCst);
        if self.awaited.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// The consumer is gone: close in good order.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Another session was ended by the server.
    pub(super) fn sound_alarm(&self) {
        self.alarm.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// The server takes sessions: whatever ended the other one, it is not shutting down.
    pub(super) fn calm(&self) {
        self.alarm.store(false, Ordering::SeqCst);
    }
}

//! What the sink tells others while it works: counts, where it stands, why it waits.
//! Written by the publisher, read by `status`, gRPC and metrics, and by whoever waits for
//! what it says, who is woken then; holds no row data.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::store::Usage;
use crate::position::{Lsn, Position};

/// A handle to the figures of a sink. Clones share them, also across reopenings.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<Board>);

#[derive(Debug, Default)]
struct Board {
    figures: Mutex<Figures>,
    changed: Notify,
}

/// The figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Why nothing is published at the moment.
    pub paused: Option<String>,
    /// What a Redis that keeps nothing on disk means.
    pub warning: Option<String>,
    /// Entries published in this process's life.
    pub entries: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Entries trimmed by this process.
    pub trimmed: u64,
    /// Everything up to here is published.
    pub position: Option<Position>,
    /// What the checkpoint says PostgreSQL may be told.
    pub confirmed: Lsn,
    /// Memory when last sampled.
    pub usage: Usage,
    /// What the writer's own stream may take, bytes; none = no limit, or not sampled yet.
    pub budget: Option<u64>,
}

impl Status {
    /// The figures now.
    #[must_use]
    pub fn get(&self) -> Figures {
        self.lock().clone()
    }

    /// Ends when they change after this call, even before it is waited for.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.0.changed.notified()
    }

    /// Changes them.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.lock());
        self.0.changed.notify_waiters();
    }

    /// Sets or ends the reason for waiting, and logs only when that changes.
    pub(crate) fn pause(&self, reason: Option<String>) {
        self.update(|figures| {
            match (&figures.paused, &reason) {
                (None, Some(reason)) => tracing::warn!(%reason, "publishing is paused"),
                (Some(_), None) => tracing::info!("publishing goes on"),
                _ => {}
            }
            figures.paused = reason;
        });
    }

    fn lock(&self) -> MutexGuard<'_, Figures> {
        self.0.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

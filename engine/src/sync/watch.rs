//! A second connection to Redis, for what only has to be looked at: the state, the
//! checkpoint. While a load goes on a task looks once a second, so that a bootstrap that
//! was ended and a chain that was changed are noticed, also while the load waits for room.
//!
//! A look that fails is made again; the writer's own connection says what is wrong.

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Duration;

use super::admit::Found;
use super::{Refusal, Stored, SyncError};
use crate::bootstrap;
use crate::config::Config;
use crate::position::Epoch;
use crate::sink::SinkError;
use crate::sink::publisher::check_server;
use crate::sink::redis::{RedisConnector, RedisStore};
use crate::sink::store::{Checkpoint, Connect, Registry, Store};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// The connection.
pub(super) struct Look {
    store: RedisStore,
}

impl Look {
    pub(super) async fn open(config: &Config) -> Result<Look, SinkError> {
        let mut store = RedisConnector::new(&config.redis).connect().await?;
        check_server(&store.server().await?)?;
        Ok(Look { store })
    }

    /// All that decides whether a dump may be loaded.
    pub(super) async fn found(&mut self, prefix: &str) -> Result<Found, SinkError> {
        Ok(Found {
            prefix: prefix.to_owned(),
            state: self.store.state().await?,
            catalog: self.store.catalog().await?,
            checkpoint: self.store.inspect().await?.checkpoint,
        })
    }

    /// What a loader has stored in an epoch.
    pub(super) async fn stored(&mut self, epoch: Epoch) -> Result<Stored, SinkError> {
        Ok(Stored::read(&self.store.progress(epoch).await?))
    }

    /// The checkpoint, if the load of `epoch` is still awaited.
    pub(super) async fn current(
        &mut self,
        epoch: Epoch,
    ) -> Result<Result<Checkpoint, SyncError>, SinkError> {
        let text = self.store.state().await?.unwrap_or_default();
        let checkpoint = self.store.inspect().await?.checkpoint;
        let phase = match bootstrap::load(&String::from_utf8_lossy(&text)) {
            Ok(phase) => phase,
            Err(error) => return Ok(Err(Refusal::from(error).into())),
        };
        let awaited = phase.external_load().is_some_and(|load| load.epoch == epoch);
        let checkpoint = checkpoint.filter(|checkpoint| awaited && checkpoint.epoch == epoch);
        let ended = || SyncError::Ended { state: phase.state().to_string(), epoch: phase.epoch() };
        Ok(checkpoint.ok_or_else(ended))
    }
}

/// What the task saw last.
type Seen = Option<Result<Checkpoint, (String, Option<Epoch>)>>;

/// The task that looks; ends when it is dropped.
pub(super) struct Watcher {
    seen: watch::Receiver<Seen>,
    _task: JoinSet<()>,
}

impl Watcher {
    pub(super) fn start(config: &Config, epoch: Epoch) -> Watcher {
        let (say, seen) = watch::channel(None);
        let mut task = JoinSet::new();
        task.spawn(look_on(config.clone(), epoch, say));
        Watcher { seen, _task: task }
    }

    /// Waits for a checkpoint that is another one than before.
    pub(super) async fn checkpoint(&mut self) -> Checkpoint {
        loop {
            // The sender lives as long as the task, and that as long as this.
            if self.seen.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            if let Some(Ok(checkpoint)) = &*self.seen.borrow_and_update() {
                return checkpoint.clone();
            }
        }
    }

    /// Waits until the bootstrap has ended.
    pub(super) fn ended(&self) -> impl Future<Output = SyncError> + use<> {
        let mut seen = self.seen.clone();
        async move {
            match seen.wait_for(|seen| matches!(seen, Some(Err(_)))).await.as_deref() {
                Ok(Some(Err((state, epoch)))) => {
                    SyncError::Ended { state: state.clone(), epoch: *epoch }
                }
                _ => std::future::pending().await,
            }
        }
    }
}

async fn look_on(config: Config, epoch: Epoch, say: watch::Sender<Seen>) {
    let mut look = None;
    loop {
        tokio::time::sleep(LOOK).await;
        if look.is_none() {
            look = Look::open(&config).await.ok();
        }
        let Some(open) = &mut look else { continue };
        let seen = match open.current(epoch).await {
            Ok(Ok(checkpoint)) => Ok(checkpoint),
            Ok(Err(SyncError::Ended { state, epoch })) => Err((state, epoch)),
            Ok(Err(error)) => Err((error.to_string(), None)),
            Err(_) => {
                look = None;
                continue;
            }
        };
        say.send_if_modified(|last| {
            let other = last.as_ref() != Some(&seen);
            *last = Some(seen);
            other
        });
    }
}

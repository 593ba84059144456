//! Telling Redis what it need not keep any more: only what the target has made durable.
//! The session that asks for that holds the applier's lock, too.
//!
//! What can go wrong: either server is gone, and with the session the lock.

use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::Client;

use super::error::ApplyError;
use crate::position::{Epoch, Position};
use crate::reader::ReaderError;
use crate::sink::id::{Id, Lane};
use crate::sink::store::{Acked, Backend};

/// Between two acknowledgements.
const PAUSE: Duration = Duration::from_millis(300);
/// The session is looked after at least this often.
const LOOK: Duration = Duration::from_secs(5);

/// Commits a record of its own, which takes along everything committed before without
/// waiting. It changes nothing that anybody sees.
const DURABLE: &str = "SELECT pg_logical_emit_message(true, 'kasho:applied', '')";

/// Acknowledges what is committed until nobody commits any more.
///
/// # Errors
/// See above.
pub(super) async fn run<S: Backend>(
    mut store: S,
    session: Client,
    consumer: String,
    epoch: Epoch,
    mut committed: watch::Receiver<Option<Position>>,
) -> Result<(), ApplyError> {
    let on = "SET synchronous_commit = on";
    session.batch_execute(on).await.map_err(|e| ApplyError::sql(on, &e))?;
    loop {
        let changed = tokio::time::timeout(LOOK, committed.changed()).await;
        let last = matches!(changed, Ok(Err(_)));
        let newest = *committed.borrow_and_update();
        let alive = |e: tokio_postgres::Error| ApplyError::sql("the lock's session", &e);
        match (changed, newest) {
            (Ok(_), Some(position)) => {
                session.batch_execute(DURABLE).await.map_err(alive)?;
                acknowledge(&mut store, &consumer, epoch, position).await?;
            }
            _ => session.batch_execute("SELECT 1").await.map_err(alive)?,
        }
        if last {
            return Ok(());
        }
        // Nobody waits for this pause at the end.
        let mut ending = committed.clone();
        let over = async { while ending.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(PAUSE, over).await;
    }
}

async fn acknowledge<S: Backend>(
    store: &mut S,
    consumer: &str,
    epoch: Epoch,
    position: Position,
) -> Result<(), ApplyError> {
    let lane = match position {
        Position::Bootstrap(_) => Lane::Bootstrap,
        Position::Wal { .. } => Lane::Changes,
    };
    match store.acknowledge(consumer, epoch, lane, Id::of(position)).await? {
        Acked::Done => Ok(()),
        Acked::Unregistered => Err(ApplyError::Refused(format!(
            "consumer {consumer:?} was removed while it was at work: start again, which registers \
             it, or leave it at that"
        ))),
        // A new bootstrap has begun: everything begins anew.
        Acked::OtherEpoch => {
            let found = store.inspect().await?.checkpoint.ok_or(ReaderError::NoEpoch)?;
            Err(ReaderError::OtherEpoch { asked: epoch, current: found.epoch }.into())
        }
    }
}

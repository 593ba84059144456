//! A session beside the stream. It keeps an idle database moving: a small logical message
//! every so often, when nothing else came, so that the slot's position advances and the
//! log behind it can go. And its end is the one sign of a server that shuts down which
//! gets through while the stream itself is stalled; so it stands even without heartbeats.
//!
//! What can go wrong: its connection breaks. That is no error of the stream, which is told,
//! and it connects again; once it has, the server was not shutting down.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::super::assemble::HEARTBEAT_PREFIX;
use super::super::conninfo::{Conninfo, sql_connect};
use super::super::error::SourceError;
use super::queue::Shared;
use crate::position::Lsn;

/// As `pg_stat_activity` shows it.
const APP_NAME: &str = "kasho heartbeat";
/// Between two looks at the session, and the longest pause between two attempts to open it.
const LOOK: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_secs(5);

/// Beats for ever, or only stands there if `every` is zero; it is aborted with its source.
/// No role lacks what it needs: messages may be emitted by everybody.
pub(super) async fn beat(info: Conninfo, every: Duration, shared: Arc<Shared>) {
    let look = if every.is_zero() { LOOK } else { every.min(LOOK) };
    let mut session: Option<Client> = None;
    let (mut last, mut next, mut pause) = (Lsn::ZERO, Instant::now() + every, look);
    loop {
        if session.as_ref().is_some_and(Client::is_closed) {
            shared.sound_alarm();
            session = None;
        }
        match &session {
            None => match sql_connect(&info, APP_NAME).await {
                Ok(client) => {
                    shared.calm();
                    (session, pause) = (Some(client), look);
                    continue;
                }
                Err(error) => {
                    pause = (pause * 2).min(PAUSE);
                    tracing::debug!(%error, "no session beside the stream");
                }
            },
            Some(client) if !every.is_zero() && Instant::now() >= next => {
                next = Instant::now() + every;
                let received = shared.figures.received();
                // If something came meanwhile the position moves without us.
                if received > last {
                    last = received;
                } else {
                    match once(client).await {
                        Ok(lsn) => last = lsn.max(received),
                        Err(error) => tracing::debug!(%error, "no heartbeat"),
                    }
                }
            }
            Some(_) => {}
        }
        tokio::time::sleep(pause).await;
    }
}

async fn once(client: &Client) -> Result<Lsn, SourceError> {
    emit_message(client, HEARTBEAT_PREFIX, "").await
}

/// Writes a logical message outside any transaction and says its LSN. A server that
/// crashes at once may lose it.
///
/// # Errors
/// PostgreSQL does not answer, or refuses.
pub async fn emit_message(
    client: &Client,
    prefix: &str,
    content: &str,
) -> Result<Lsn, SourceError> {
    let doing = "writing a logical message";
    let sql = "SELECT pg_catalog.pg_logical_emit_message(false, $1::text, $2::text)::text";
    let row = client.query_one(sql, &[&prefix, &content]).await;
    let row = row.map_err(|e| SourceError::sql(doing, &e))?;
    let lsn: String = row.get(0);
    lsn.parse().map_err(|_| SourceError::protocol(doing, "an LSN that is none"))
}

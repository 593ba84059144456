//! Keeps an idle database moving: a small logical message every so often, when nothing
//! else came, so that the slot's position advances and the log behind it can go.
//!
//! What can go wrong: its connection breaks. That is no error of the stream; it connects
//! again. But it may be the first sign of a server that shuts down, and the stream is
//! told so.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;

use super::super::assemble::HEARTBEAT_PREFIX;
use super::super::conninfo::{Conninfo, sql_connect};
use super::super::error::SourceError;
use super::queue::Shared;
use crate::position::Lsn;

/// Beats for ever; it is aborted with its source. No role lacks what it needs: messages
/// may be emitted by everybody.
pub(super) async fn beat(info: Conninfo, app_name: String, every: Duration, shared: Arc<Shared>) {
    let mut client: Option<Client> = None;
    let mut last = Lsn::ZERO;
    loop {
        tokio::time::sleep(every).await;
        let received = shared.figures.received();
        // Something came meanwhile: the position moves without us.
        if client.is_some() && received > last {
            last = received;
            if client.as_ref().is_some_and(Client::is_closed) {
                shared.sound_alarm();
                client = None;
            }
            continue;
        }
        match once(&info, &app_name, &mut client).await {
            Ok(lsn) => last = lsn.max(received),
            Err(error) => {
                if client.take().is_some() {
                    shared.sound_alarm();
                }
                tracing::debug!(%error, "no heartbeat");
            }
        }
    }
}

async fn once(
    info: &Conninfo,
    app_name: &str,
    client: &mut Option<Client>,
) -> Result<Lsn, SourceError> {
    let client = match client {
        Some(client) => client,
        None => client.insert(sql_connect(info, app_name).await?),
    };
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

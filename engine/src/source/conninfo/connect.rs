//! Ordinary sessions for SQL and COPY, all with the settings that decide what text a
//! value has.
//!
//! What can go wrong: a role's or a database's own settings would change that text; the
//! pinned ones are sent at startup, after the user's `options`, and so win.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::{ChannelBinding as PgBinding, SslMode as PgSslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding as TlsBinding, TlsConnect, TlsStream};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{ChannelBinding, Conninfo, Dialer, Stream};
use crate::source::error::SourceError;

/// The settings under which every value has exactly one text (`client_encoding` is UTF8
/// by its own parameter). The same in streaming, loading and applying.
pub const PINNED_SETTINGS: [(&str, &str); 6] = [
    ("datestyle", "ISO,YMD"),
    ("timezone", "UTC"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("standard_conforming_strings", "on"),
];

/// Limits of a role that would end a session that waits, all off: one of ours stays open
/// for as long as the service runs, and a snapshot's exporter is "idle in transaction" for
/// as long as the load takes.
pub(crate) const PATIENT: [(&str, &str); 4] = [
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
];

/// The `options` of a startup message: the user's own first, then the pinned settings,
/// then `more`.
pub(crate) fn options_with(info: &Conninfo, more: &[(&str, &str)]) -> String {
    let mut options = info.options.clone().unwrap_or_default();
    for (name, value) in PINNED_SETTINGS.iter().chain(more) {
        if !options.is_empty() {
            options.push(' ');
        }
        let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
        options.push_str(&format!("-c {name}={value}"));
    }
    options
}

/// An ordinary session with the pinned settings. A task of its own reads the connection
/// until the client is dropped.
///
/// # Errors
/// No host gave a session: see [`SourceError`]; never with a secret in it.
pub async fn sql_connect(info: &Conninfo, app_name: &str) -> Result<Client, SourceError> {
    sql_connect_with(info, app_name, &PATIENT).await
}

/// The same with these settings in place of [`PATIENT`].
///
/// # Errors
/// As [`sql_connect`].
pub async fn sql_connect_with(
    info: &Conninfo,
    app_name: &str,
    settings: &[(&str, &str)],
) -> Result<Client, SourceError> {
    let mut config = tokio_postgres::Config::new();
    config
        .user(&info.user)
        .dbname(&info.dbname)
        .application_name(app_name)
        .options(options_with(info, settings))
        .channel_binding(match info.channel_binding {
            ChannelBinding::Disable => PgBinding::Disable,
            ChannelBinding::Prefer => PgBinding::Prefer,
            ChannelBinding::Require => PgBinding::Require,
        });
    if let Some(password) = &info.password {
        config.password(password.expose_secret());
    }
    let mut dialer = Dialer::new(info);
    loop {
        let host = dialer.host().to_string();
        let attempt = tokio::time::timeout(info.connect_timeout, async {
            let stream = dialer.next().await?;
            start(info, &mut config, stream, &host).await
        });
        let ms = info.connect_timeout.as_millis();
        match attempt.await.unwrap_or(Err(SourceError::Timeout { host: host.clone(), ms })) {
            Ok(client) => return Ok(client),
            Err(error) => dialer.failed(error)?,
        }
    }
}

async fn start(
    info: &Conninfo,
    config: &mut tokio_postgres::Config,
    stream: Stream,
    host: &str,
) -> Result<Client, SourceError> {
    // TLS stands already: "direct" keeps the driver from asking for it again.
    if stream.is_tls() {
        config.ssl_mode(PgSslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    } else {
        config.ssl_mode(PgSslMode::Disable).ssl_negotiation(SslNegotiation::Postgres);
    }
    let connected = config.connect_raw(Connected(stream), Standing).await;
    let (client, connection) = connected.map_err(|e| connect_error(info, host, &e))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            let sqlstate = error.code().map_or("", tokio_postgres::error::SqlState::code);
            tracing::debug!(sqlstate, "an SQL connection ended");
        }
    });
    if info.primary && !server_is_primary(&client).await? {
        return Err(SourceError::ReadOnly { host: host.to_owned() });
    }
    Ok(client)
}

/// Whether the server takes writes.
async fn server_is_primary(client: &Client) -> Result<bool, SourceError> {
    let doing = "SHOW transaction_read_only";
    let rows = client.simple_query(doing).await.map_err(|e| SourceError::sql(doing, &e))?;
    let first = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(first == Some("off"))
}

fn connect_error(info: &Conninfo, host: &str, error: &tokio_postgres::Error) -> SourceError {
    if error.as_db_error().is_some() {
        return SourceError::sql(&format!("a session for {:?} at {host}", info.user), error);
    }
    if error.is_closed() {
        // The server, or somebody on the way, has hung up: nothing was said about the login.
        let source = io::ErrorKind::UnexpectedEof.into();
        return SourceError::Connect { host: host.to_owned(), source };
    }
    let cause = std::error::Error::source(error);
    let io = cause.and_then(|e| e.downcast_ref::<io::Error>());
    match io {
        Some(io) if io.kind() == io::ErrorKind::PermissionDenied => {
            SourceError::Auth { user: info.user.clone(), reason: io.to_string() }
        }
        Some(io) => SourceError::Connect {
            host: host.to_owned(),
            source: io::Error::new(io.kind(), io.to_string()),
        },
        None => SourceError::Auth { user: info.user.clone(), reason: error.to_string() },
    }
}

/// A stream whose TLS handshake is done, as the driver wants to see it.
struct Connected(Stream);

/// The "handshake" of a stream that has made it already.
struct Standing;

impl TlsConnect<Connected> for Standing {
    type Stream = Connected;
    type Error = io::Error;
    type Future = Ready<io::Result<Connected>>;

    fn connect(self, stream: Connected) -> Self::Future {
        ready(Ok(stream))
    }
}

impl TlsStream for Connected {
    fn channel_binding(&self) -> TlsBinding {
        match self.0.binding() {
            Some(data) => TlsBinding::tls_server_end_point(data.to_vec()),
            None => TlsBinding::none(),
        }
    }
}

impl AsyncRead for Connected {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connected {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

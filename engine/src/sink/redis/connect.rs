//! Opening the connection: address, TLS, user, scripts.

use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ProtocolVersion, RedisResult,
    TlsCertificates,
};
use secrecy::ExposeSecret;
use tokio::net::TcpStream;

use super::tap::{Tap, Tapped};
use super::{RedisStore, script, store_error};
use crate::sink::config::Config;
use crate::sink::id::Keys;
use crate::sink::store::StoreError;

/// Written in one go up to this size.
const WRITE_BOUNDARY: usize = 256 << 10;

pub(super) async fn connect(config: &Config) -> Result<RedisStore, StoreError> {
    let client = client(config)?;
    let response_timeout = Duration::from_millis(config.response_timeout_ms);
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_millis(config.connect_timeout_ms)))
        .set_response_timeout(Some(response_timeout))
        .set_write_backpressure_boundary(WRITE_BOUNDARY);
    let (connection, tap) = match plain(&client) {
        Some((host, port)) => {
            let opened = tapped(&client, (host, port), settings);
            let timeout = Duration::from_millis(config.connect_timeout_ms);
            let opened = tokio::time::timeout(timeout, opened).await;
            let (connection, tap) = opened
                .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
                .map_err(|error| store_error(&error))?;
            (connection, Some(tap))
        }
        None => {
            let opened = client.get_multiplexed_async_connection_with_config(&settings).await;
            (opened.map_err(|error| store_error(&error))?, None)
        }
    };
    let mut store = RedisStore {
        connection,
        keys: Keys::new(&config.prefix),
        tag: format!("{{{}}}", config.prefix),
        response_timeout,
        tap,
        known: None,
        noted: None,
        disturbed: 0,
        transacts: None,
        dead: None,
    };
    store.pipeline(script::ALL.iter().map(|script| script.load())).await?;
    Ok(store)
}

/// Where it is, if no more than a connection there is needed: then what is read may be looked
/// at before the driver does. TLS is the driver's own.
fn plain(client: &Client) -> Option<(&str, u16)> {
    let info = client.get_connection_info();
    match (info.addr(), info.redis_settings().protocol()) {
        (ConnectionAddr::Tcp(host, port), ProtocolVersion::RESP2) => Some((host, *port)),
        _ => None,
    }
}

async fn tapped(
    client: &Client,
    address: (&str, u16),
    settings: AsyncConnectionConfig,
) -> RedisResult<(MultiplexedConnection, Tap)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let tap = Tap::default();
    let (stream, info) = (Tapped::new(stream, tap.clone()), client.get_connection_info());
    let opened = MultiplexedConnection::new_with_config(info.redis_settings(), stream, settings);
    let (connection, driver) = opened.await?;
    // It ends with the connection.
    tokio::spawn(driver);
    Ok((connection, tap))
}

fn client(config: &Config) -> Result<Client, StoreError> {
    let Some(url) = config.url.as_ref().map(|url| url.expose_secret()) else {
        return Err(StoreError::Unsupported("redis.url is not set".to_owned()));
    };
    // The URL may hold a password, so its parser's words are not repeated.
    let bad = |_| StoreError::Unsupported("redis.url is not a Redis URL".to_owned());
    if !url.starts_with("rediss://") {
        return Client::open(url).map_err(bad);
    }
    // Whoever came first has installed the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let root_cert = config.tls_ca.as_deref().map(read).transpose()?;
    let client_tls = match (&config.tls_cert, &config.tls_key) {
        (Some(cert), Some(key)) => {
            Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? })
        }
        _ => None,
    };
    let certificates = TlsCertificates { client_tls, root_cert };
    Client::build_with_tls(url, certificates).map_err(|_| {
        StoreError::Unsupported(
            "redis.url or the certificates of [redis] cannot be used".to_owned(),
        )
    })
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|error| {
        StoreError::Unsupported(format!("cannot read {}: {error}", path.display()))
    })
}

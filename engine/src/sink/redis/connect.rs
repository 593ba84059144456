//! Opening the connection: address, TLS, user, scripts.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::future::select_ok;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ProtocolVersion, RedisResult,
    TlsCertificates,
};
use secrecy::ExposeSecret;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;

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
    let (connection, tap, driver) = match plain(&client) {
        Some((host, port)) => {
            let opened = tapped(&client, (host, port), settings);
            let timeout = Duration::from_millis(config.connect_timeout_ms);
            let opened = tokio::time::timeout(timeout, opened).await;
            let late = |_| Err(io::Error::from(io::ErrorKind::TimedOut).into());
            let (connection, tap, driver) =
                opened.unwrap_or_else(late).map_err(|error| store_error(&error))?;
            (connection, Some(tap), driver)
        }
        None => {
            let opened = client.get_multiplexed_async_connection_with_config(&settings).await;
            (opened.map_err(|error| store_error(&error))?, None, JoinSet::new())
        }
    };
    let mut store = RedisStore {
        connection,
        keys: Keys::new(&config.prefix),
        tag: format!("{{{}}}", config.prefix),
        response_timeout,
        tap,
        _driver: driver,
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
) -> RedisResult<(MultiplexedConnection, Tap, JoinSet<()>)> {
    // All at once, as the driver does it: one of them may be a dead end.
    let ways = lookup_host(address).await?.map(|way| Box::pin(TcpStream::connect(way)));
    let ways: Vec<_> = ways.collect();
    if ways.is_empty() {
        let error = format!("there is no address of the host {}", address.0);
        return Err(io::Error::new(io::ErrorKind::NotFound, error).into());
    }
    let (stream, _) = select_ok(ways).await?;
    stream.set_nodelay(true)?;
    let tap = Tap::default();
    let (stream, info) = (Tapped::new(stream, tap.clone()), client.get_connection_info());
    let opened = MultiplexedConnection::new_with_config(info.redis_settings(), stream, settings);
    let (connection, driving) = opened.await?;
    let mut driver = JoinSet::new();
    driver.spawn(driving);
    Ok((connection, tap, driver))
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

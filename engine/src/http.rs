//! What operators' tools ask over HTTP: `/metrics` for Prometheus, `/livez` and `/readyz`
//! for whoever starts and stops the service. Everything is read from the last [`Status`]:
//! an answer never waits for a server or for the pipeline.
//!
//! HTTP/1.1 by hyper, which gRPC has brought into the program already. One request a
//! connection, a bounded number of connections, a bounded time for each: a stuck or a
//! hostile client costs nothing that anybody would notice.
//!
//! What can go wrong: a section that would open the figures to a network
//! ([`ConfigError`]), files that are no certificate, an address that is taken
//! ([`HttpError`]). What goes wrong with one client ends that client's connection.
//!
//! [`Status`]: crate::control::Status

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::control::Shared;

mod config;
mod metrics;
mod text;

pub use config::{Config, ConfigError};
pub(crate) use metrics::resident_bytes;
pub(crate) use text::{Kind, Text};

/// Who is asked: the engine, or the applier.
pub trait Answers: Send + Sync + 'static {
    /// Why it is not ready, if it is not.
    fn not_ready(&self) -> Option<String>;

    /// The answer to a scrape.
    fn metrics(&self) -> String;
}

impl Answers for Shared {
    fn not_ready(&self) -> Option<String> {
        self.status.load().not_ready()
    }

    fn metrics(&self) -> String {
        metrics::render(self)
    }
}

/// Connections at once; the next one waits in the kernel's queue.
const CONNECTIONS: usize = 64;
/// Time of a connection, from its first byte to its last.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted: too many open files heals by waiting.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Prometheus's text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// The listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The `[http]` section must be mended.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of the `[http]` section.
    #[error("cannot use {setting} = \"{}\": {source}", path.display())]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// As configured.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// Certificate and key do not belong together.
    #[error("http.tls_cert and http.tls_key cannot be used together as they are: {0}")]
    Tls(#[from] rustls::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {setting} = \"{listen}\": {source}; is another kasho running?")]
    Bind {
        /// The setting that names it.
        setting: &'static str,
        /// As configured.
        listen: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A listener that is bound and checked, but answers nobody yet.
pub struct Http {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    /// Digest of the token, if one is asked for.
    token: Option<[u8; 32]>,
}

impl Http {
    /// Checks the section, reads its files and binds the address, which `setting` gives.
    ///
    /// # Errors
    /// Each a mistake in the configuration, or an address that is taken.
    pub async fn bind(config: &Config, setting: &'static str) -> Result<Http, HttpError> {
        config.check()?;
        let tls = match (&config.tls_cert, &config.tls_key) {
            (Some(cert), Some(key)) => Some(tls(cert, key)?),
            _ => None,
        };
        let bind = |source| HttpError::Bind { setting, listen: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let token = config.token.as_ref();
        let token = token.map(|token| Sha256::digest(token.expose_secret()).into());
        Ok(Http { listener, address, tls, token })
    }

    /// The address really listened on (the port may have been 0).
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown`.
    pub async fn serve<A: Answers>(self, shared: Arc<A>, shutdown: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // Never closed, so never refused.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let (shared, tls, token) = (Arc::clone(&shared), self.tls.clone(), self.token);
            tokio::spawn(async move {
                let _ =
                    tokio::time::timeout(PATIENCE, connection(stream, tls, shared, token)).await;
                drop(place);
            });
        }
    }
}

async fn connection<A: Answers>(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    shared: Arc<A>,
    token: Option<[u8; 32]>,
) {
    match tls {
        None => speak(stream, &shared, token).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                speak(stream, &shared, token).await;
            }
        }
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin, A: Answers>(
    stream: S,
    shared: &Arc<A>,
    token: Option<[u8; 32]>,
) {
    let service = service_fn(|request| async move {
        Ok::<_, Infallible>(answer(&request, shared.as_ref(), token.as_ref()))
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    // A client that goes away, or speaks something else, is nobody's error.
    let _ = connection.await;
}

fn answer<B>(
    request: &Request<B>,
    shared: &impl Answers,
    token: Option<&[u8; 32]>,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return reply(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "GET or HEAD\n");
    }
    let known = token.is_none_or(|token| knows(request, token));
    match request.uri().path() {
        "/livez" => reply(StatusCode::OK, PLAIN, "ok\n"),
        "/readyz" => match shared.not_ready() {
            None => reply(StatusCode::OK, PLAIN, "ok\n"),
            // Whoever stops and starts the service may ask without a token, and learns no
            // more than that.
            Some(_) if !known => reply(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "not ready\n"),
            Some(why) => reply(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{why}\n")),
        },
        "/metrics" if known => reply(StatusCode::OK, EXPOSITION, shared.metrics()),
        "/metrics" => {
            let mut refused = reply(
                StatusCode::UNAUTHORIZED,
                PLAIN,
                "this listener asks for a token: send \"Authorization: Bearer …\" (http.token)\n",
            );
            let scheme = hyper::header::HeaderValue::from_static("Bearer");
            refused.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            refused
        }
        _ => reply(StatusCode::NOT_FOUND, PLAIN, "/metrics, /livez, /readyz\n"),
    }
}

/// Whether the request carries the token; compared in constant time.
fn knows<B>(request: &Request<B>, token: &[u8; 32]) -> bool {
    let header = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    header.and_then(|value| value.strip_prefix(b"Bearer ")).is_some_and(|given| {
        let given: [u8; 32] = Sha256::digest(given).into();
        bool::from(given.ct_eq(token))
    })
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

fn tls(cert: &Path, key: &Path) -> Result<TlsAcceptor, HttpError> {
    let failed = |setting, path: &Path| {
        let path = path.to_owned();
        move |source| HttpError::File { setting, path, source }
    };
    let chain =
        CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(failed("http.tls_cert", cert))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(failed("http.tls_key", key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Status;

    fn ask(path: &str, method: Method, bearer: Option<&str>, token: Option<&str>) -> (u16, String) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(bearer) = bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        let token = token.map(|token| Sha256::digest(token).into());
        let shared = Shared::new(Status { last_error: "why not".into(), ..Status::default() });
        let response = answer(&request.body(()).unwrap(), &*shared, token.as_ref());
        let status = response.status().as_u16();
        let body = http_body_util::BodyExt::collect(response.into_body());
        let body = futures_util::FutureExt::now_or_never(body).unwrap().unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn what_is_asked_is_answered() {
        assert_eq!(ask("/livez", Method::GET, None, None), (200, "ok\n".into()));
        assert_eq!(ask("/readyz", Method::HEAD, None, None), (503, "why not\n".into()));
        assert_eq!(ask("/metrics", Method::GET, None, None).0, 200);
        assert_eq!(ask("/", Method::GET, None, None).0, 404);
        assert_eq!(ask("/livez", Method::POST, None, None).0, 405);
    }

    #[test]
    fn a_token_guards_the_figures_and_the_reasons() {
        let token = Some("hush");
        assert_eq!(ask("/metrics", Method::GET, None, token).0, 401);
        assert_eq!(ask("/metrics", Method::GET, Some("Bearer no"), token).0, 401);
        assert_eq!(ask("/metrics", Method::GET, Some("hush"), token).0, 401);
        assert_eq!(ask("/metrics", Method::GET, Some("Bearer hush"), token).0, 200);
        assert_eq!(ask("/readyz", Method::GET, None, token), (503, "not ready\n".into()));
        let told = ask("/readyz", Method::GET, Some("Bearer hush"), token);
        assert_eq!(told, (503, "why not\n".into()));
        assert_eq!(ask("/livez", Method::GET, None, token).0, 200);
    }
}

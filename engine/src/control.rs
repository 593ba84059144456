//! The gRPC face. Every call that changes something becomes a [`Call`] on the engine's
//! mailbox and waits for its answer; GetStatus reads the latest [`Status`]; Stream reads
//! Redis through a reader of its own. Nothing here decides anything.
//!
//! What can go wrong: a listener that would be open to a network ([`ConfigError`]), files
//! that are no certificates, an address that is taken ([`ControlError`]). A caller's
//! mistake is a gRPC status and never touches the engine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::bootstrap::{Refusal, StartRequest, State};
use crate::error::Class;
use crate::position::{Epoch, Lsn, Position};
use crate::sink::redis::RedisConnector;

mod auth;
mod change;
mod config;
pub mod proto;
mod service;
mod status;
mod stream;
mod value;

pub use change::change;
pub use config::{Config, ConfigError};
pub use status::{
    CandidateStatus, ConsumerStatus, LaneFigures, LoadFigures, NEAR_PERCENT, PluginStatus, Status,
    TableFigures,
};

use auth::Policy;
use proto::change_stream::change_stream_server::ChangeStreamServer;
use proto::kasho::change_stream_service_server::ChangeStreamServiceServer;
use service::Service;

/// Where a call's answer goes. A caller that has gone is no error.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What a client asks of the engine.
#[derive(Debug)]
pub enum Call {
    /// StartBootstrap.
    Start {
        /// What is asked for.
        request: StartRequest,
        /// Answered once changes are being captured.
        reply: Reply<Answer>,
    },
    /// CompleteBootstrap.
    Complete {
        /// Also before every loader has finished.
        force: bool,
        /// Answered once the phase is stored.
        reply: Reply<Answer>,
    },
    /// StartBootstrap with tables: load these again.
    LoadAgain {
        /// As named by the caller.
        tables: Vec<String>,
        /// Answered once that is stored; it goes on by itself.
        reply: Reply<Answer>,
    },
    /// RetryDeadLetters.
    Retry {
        /// The letters; none means all.
        ids: Vec<String>,
        /// Answered once each has come to an end.
        reply: Reply<Vec<RetryOutcome>>,
    },
    /// AcceptPlugin.
    Accept {
        /// Digest of a generation, or its beginning.
        digest: String,
        /// Answered at once.
        reply: Reply<Accepted>,
    },
    /// DecideDdl.
    DecideDdl {
        /// Where the schema change stands; the end of a transaction means any of it.
        position: Position,
        /// It is done on the targets; else it is left out.
        done: bool,
        /// Answered at once, with what follows.
        reply: Reply<String>,
    },
    /// AbortBootstrap.
    Abort {
        /// Also in STREAMING, and for a left-over slot in WAITING.
        force: bool,
        /// Answered once the slot is gone.
        reply: Reply<Answer>,
    },
}

/// What became of a dead letter that was to be delivered again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryOutcome {
    /// The letter.
    pub id: String,
    /// "published", "gone", "again", "failed" or "unknown".
    pub outcome: String,
    /// Where it is published, or why not.
    pub detail: String,
}

/// What became of a bootstrap call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The state before the call.
    pub previous: State,
    /// The state now.
    pub current: State,
    /// Entries that the changes stream received during ACCUMULATING.
    pub accumulated_changes: u64,
    /// CompleteBootstrap would be accepted (or was).
    pub ready_to_stream: bool,
    /// The epoch in force.
    pub epoch: Option<Epoch>,
    /// The slot's consistent point.
    pub start_lsn: Option<Lsn>,
    /// The exported snapshot, while it is kept.
    pub snapshot_name: Option<String>,
}

/// What was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its whole digest.
    pub digest: String,
    /// What follows, for a person.
    pub told: String,
}

/// How often a silent client is asked whether it lives, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Calls at once over one connection.
const STREAMS: u32 = 128;

/// What the engine and the listener share.
#[derive(Debug)]
pub struct Shared {
    /// Replaced as a whole by the engine.
    pub status: ArcSwap<Status>,
    /// Open Stream calls.
    pub clients: AtomicUsize,
    /// Start of the service.
    pub since: Instant,
    /// When the engine's loop last came round, milliseconds after the start.
    pub beat_ms: AtomicU64,
}

impl Shared {
    /// Of a service that starts now.
    #[must_use]
    pub fn new(status: Status) -> Arc<Shared> {
        Arc::new(Shared {
            status: ArcSwap::from_pointee(status),
            clients: AtomicUsize::new(0),
            since: Instant::now(),
            beat_ms: AtomicU64::new(0),
        })
    }

    /// The engine's loop has come round.
    pub fn beat(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat_ms.store(now, Ordering::Relaxed);
    }

    /// How long ago that was.
    #[must_use]
    pub fn beat_age(&self) -> Duration {
        let beat = Duration::from_millis(self.beat_ms.load(Ordering::Relaxed));
        self.since.elapsed().saturating_sub(beat)
    }
}

/// The listener could not be opened, or broke.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The `[grpc]` section must be mended.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of the `[grpc]` section.
    #[error("cannot read {setting} = \"{}\": {source}", path.display())]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// As configured.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Certificate or key cannot be used.
    #[error(
        "grpc.tls_cert, grpc.tls_key and grpc.client_ca cannot be used together as they are: {0}"
    )]
    Tls(#[source] tonic::transport::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on grpc.listen = \"{listen}\": {source}; is another kasho running?")]
    Bind {
        /// As configured.
        listen: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Our own descriptors cannot be read.
    #[error("server reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server ended.
    #[error("the gRPC server ended: {0}")]
    Serve(#[source] tonic::transport::Error),
}

impl ControlError {
    /// Nothing here heals by itself.
    #[must_use]
    pub fn class(&self) -> Class {
        Class::Halt
    }
}

/// A listener that is bound and checked, but answers nobody yet.
pub struct Control {
    incoming: TcpIncoming,
    address: SocketAddr,
    tls: Option<ServerTlsConfig>,
    policy: Policy,
}

impl Control {
    /// Checks the section, reads its files and binds the address.
    ///
    /// # Errors
    /// Each a mistake in the configuration, or an address that is taken.
    pub async fn bind(config: &Config) -> Result<Control, ControlError> {
        config.check()?;
        let policy = Policy::new(config);
        let tls = tls(config, &policy).await?;
        let bind = |source| ControlError::Bind { listen: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        Ok(Control { incoming, address, tls, policy })
    }

    /// The address really listened on (the port may have been 0).
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers calls until `shutdown`; then open streams end and running calls finish.
    ///
    /// # Errors
    /// The listener broke.
    pub async fn serve(
        self,
        shared: Arc<Shared>,
        mailbox: mpsc::Sender<Call>,
        redis: RedisConnector,
        shutdown: CancellationToken,
    ) -> Result<(), ControlError> {
        let policy = self.policy;
        let service = Service { shared, mailbox, redis, policy, shutdown: shutdown.clone() };
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<ChangeStreamServiceServer<Service>>().await;
        health.set_serving::<ChangeStreamServer<Service>>().await;
        // A client that vanished without a word must not keep its reader of Redis for ever.
        let mut server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .max_concurrent_streams(STREAMS);
        if let Some(tls) = self.tls {
            server = server.tls_config(tls).map_err(ControlError::Tls)?;
        }
        server
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .add_service(health_service)
            .add_service(service::limits!(ChangeStreamServiceServer::new(service.clone())))
            .add_service(service::limits!(ChangeStreamServer::new(service)))
            .serve_with_incoming_shutdown(self.incoming, shutdown.cancelled_owned())
            .await
            .map_err(ControlError::Serve)
    }
}

async fn tls(config: &Config, policy: &Policy) -> Result<Option<ServerTlsConfig>, ControlError> {
    let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else {
        return Ok(None);
    };
    let identity =
        Identity::from_pem(pem("grpc.tls_cert", cert).await?, pem("grpc.tls_key", key).await?);
    let mut tls = ServerTlsConfig::new().identity(identity);
    if let Some(ca) = &config.client_ca {
        tls = tls
            .client_ca_root(Certificate::from_pem(pem("grpc.client_ca", ca).await?))
            .client_auth_optional(policy.has_tokens());
    }
    Ok(Some(tls))
}

async fn pem(setting: &'static str, path: &Path) -> Result<Vec<u8>, ControlError> {
    tokio::fs::read(path).await.map_err(|source| ControlError::File {
        setting,
        path: path.to_owned(),
        source,
    })
}

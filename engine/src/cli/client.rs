//! The way from a command to the running engine: address, TLS and token, taken from the
//! engine's own configuration unless they are given.
//!
//! What can go wrong: no engine listens there, or it wants other credentials; both are
//! told with the address that was tried.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::config::Config;
use crate::control::Config as GrpcConfig;
use crate::control::proto::kasho::change_stream_service_client::ChangeStreamServiceClient;

/// Where the engine is.
#[derive(Clone, Debug, Args)]
pub(crate) struct Server {
    /// The engine's gRPC address, such as http://127.0.0.1:50051; by default the one in
    /// the configuration file.
    #[arg(long, env = "KASHO_ADDRESS")]
    address: Option<String>,
    /// Token for the engine; by default the one in the configuration file.
    #[arg(long, env = "KASHO_TOKEN", hide_env_values = true)]
    token: Option<SecretString>,
    /// Certificate authorities (PEM) to trust for an https address.
    #[arg(long)]
    ca: Option<PathBuf>,
}

/// A client of the running engine.
pub(super) type Client = ChangeStreamServiceClient<InterceptedService<Channel, Bearer>>;

/// Adds the token to each call.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

impl Server {
    /// Connects, and tells which address that is.
    ///
    /// # Errors
    /// The configuration is needed and cannot be used, or nobody listens.
    pub(super) async fn connect(&self, config: &Path) -> anyhow::Result<(Client, String)> {
        let grpc = match &self.address {
            Some(_) => GrpcConfig::default(),
            None => Config::load_grpc(config).map_err(|errors| anyhow!("{errors}"))?,
        };
        let address = self.address.clone().unwrap_or_else(|| address(&grpc));
        let mut endpoint = Endpoint::from_shared(address.clone())
            .with_context(|| format!("{address} is no address such as http://127.0.0.1:50051"))?;
        if address.starts_with("https:") {
            // A server that signed its own certificate is its own authority.
            let mut tls = ClientTlsConfig::new();
            if let Some(ca) = self.ca.as_ref().or(grpc.tls_cert.as_ref()) {
                let pem = std::fs::read(ca).with_context(|| format!("reading {}", ca.display()))?;
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            endpoint = endpoint.tls_config(tls)?;
        }
        let token = self.token.as_ref().or(grpc.admin_token.as_ref()).or(grpc.read_token.as_ref());
        let bearer = |token: &SecretString| format!("Bearer {}", token.expose_secret()).parse();
        let token = token.map(bearer).transpose().map_err(|_| anyhow!("the token is no text"))?;
        let channel = endpoint.connect().await.with_context(|| {
            format!(
                "no engine answers at {address}: is `kasho run` running? (--address names another)"
            )
        })?;
        Ok((ChangeStreamServiceClient::with_interceptor(channel, Bearer(token)), address))
    }
}

/// Where an engine of this section can be reached from its own machine.
fn address(grpc: &GrpcConfig) -> String {
    let tls = grpc.tls_cert.is_some();
    let mut at: SocketAddr = grpc.listen;
    if at.ip().is_unspecified() {
        at.set_ip(match at.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("{}://{at}", if tls { "https" } else { "http" })
}

/// What a refusal of the engine means to a person.
pub(super) fn told(status: &Status) -> anyhow::Error {
    anyhow!("{} ({:?})", status.message(), status.code())
}

/// Runs a command that talks to the engine.
///
/// # Errors
/// The command's own.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_reached_where_it_listens() {
        let at = |listen: &str, tls: bool| {
            let tls_cert = tls.then(|| PathBuf::from("c.pem"));
            address(&GrpcConfig {
                listen: listen.parse().unwrap(),
                tls_cert,
                ..GrpcConfig::default()
            })
        };
        assert_eq!(at("127.0.0.1:50051", false), "http://127.0.0.1:50051");
        assert_eq!(at("0.0.0.0:6000", true), "https://127.0.0.1:6000");
        assert_eq!(at("[::]:1", false), "http://[::1]:1");
    }
}

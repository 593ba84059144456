//! The way from a command to the running engine: address, TLS and token, taken from the
//! engine's own configuration unless they are given.
//!
//! What can go wrong: no engine listens there, it is not the one that was meant, or it
//! wants other credentials; each is told with the option that mends it.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use anyhow::{Context, anyhow};
use clap::Args;
use rustls::{AlertDescription, CertificateError};
use secrecy::{ExposeSecret, SecretString};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::config::Config;
use crate::control::Config as GrpcConfig;
use crate::control::proto::kasho::change_stream_service_client::ChangeStreamServiceClient;
use crate::trust::{Check, Trust, certificates};

/// Where the engine is, and how it is talked to.
#[derive(Clone, Debug, Args)]
pub(crate) struct Server {
    /// The engine's gRPC address, such as http://127.0.0.1:50051; by default the one in
    /// the configuration file.
    #[arg(long, env = "KASHO_ADDRESS")]
    address: Option<String>,
    /// Token for the engine; by default the one in the configuration file.
    #[arg(long, env = "KASHO_TOKEN", hide_env_values = true)]
    token: Option<SecretString>,
    /// Certificate authorities (PEM) to trust for an https address; by default the engine's
    /// own certificate where the configuration file names it, else those of the system.
    #[arg(long, env = "KASHO_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Certificate to show (PEM), for an engine with grpc.client_ca.
    #[arg(long, env = "KASHO_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, env = "KASHO_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Name in the engine's certificate, where the address has another.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
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
            endpoint = self.over_tls(endpoint, grpc.tls_cert.as_deref())?;
        }
        let token = self.token.as_ref().or(grpc.admin_token.as_ref()).or(grpc.read_token.as_ref());
        let bearer = |token: &SecretString| format!("Bearer {}", token.expose_secret()).parse();
        let token = token.map(bearer).transpose().map_err(|_| anyhow!("the token is no text"))?;
        let channel = endpoint.connect().await.map_err(|error| match tls_error(&error) {
            Some(wrong) => anyhow!("TLS with the engine at {address} failed: {}", mended(wrong)),
            None => anyhow::Error::from(error).context(format!(
                "no engine answers at {address}: is `kasho run` running? (--address names another)"
            )),
        })?;
        Ok((ChangeStreamServiceClient::with_interceptor(channel, Bearer(token)), address))
    }

    /// `own` is the engine's certificate, if this command reads the engine's configuration.
    fn over_tls(&self, endpoint: Endpoint, own: Option<&Path>) -> anyhow::Result<Endpoint> {
        let given = |path, setting| certificates(path, setting).map_err(|text| anyhow!(text));
        let (check, given) = match (&self.ca, own) {
            (Some(ca), _) => (Check::IssuerAndName, given(ca, "--ca")?),
            // This very certificate, whatever it is made out to: 127.0.0.1 rarely is in it.
            (None, Some(own)) => (Check::Itself, given(own, "grpc.tls_cert")?),
            (None, None) => (Check::IssuerAndName, rustls_native_certs::load_native_certs().certs),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = Trust::new(check, given, &provider).map_err(|text| anyhow!(text))?;
        let mut tls = ClientTlsConfig::new();
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            let read =
                |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        endpoint.tls_config_with_verifier(tls, trust).context("--cert, --key or --server-name")
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
    let Some(broken) = status.source() else {
        return anyhow!("{} ({:?})", status.message(), status.code());
    };
    // No answer of the engine's: the connection ended before there was one.
    match tls_error(broken) {
        Some(wrong) => anyhow!("TLS with the engine failed: {}", mended(wrong)),
        None => anyhow!(
            "the connection to the engine broke: {}. If it speaks TLS, its address begins with \
             https://; if it has grpc.client_ca, it wants a client certificate that this vouches \
             for (--cert and --key)",
            chain(broken)
        ),
    }
}

/// What TLS itself has to say, if that is why something failed.
fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // The source of an I/O error is that of what it holds, not what it holds.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = held.map(|held| held as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// A failure of TLS, and the option that mends it.
fn mended(wrong: &rustls::Error) -> String {
    use AlertDescription as Alert;
    let remedy = match wrong {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "; --server-name says which name it has",
        rustls::Error::InvalidCertificate(_) => "; --ca names the authorities to trust",
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::HandshakeFailure
            | Alert::CertificateUnknown
            | Alert::DecryptError,
        ) => "; it wants a client certificate that grpc.client_ca vouches for: --cert and --key",
        rustls::Error::InvalidMessage(_) => {
            "; if it does not speak TLS, its address begins with http://"
        }
        _ => "",
    };
    format!("{wrong}{remedy}")
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let all = std::iter::successors(Some(error), |&error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
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

//! The `[grpc]` section, and who may be listened to without being asked who he is.
//!
//! The loopback address needs no credentials. Any other needs TLS and either tokens or
//! client certificates, or `insecure = true`: everything else is refused at start,
//! because a stream of changes open to a network is a leak.

use std::net::SocketAddr;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::config::{Findings, secret};

/// The `[grpc]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Listen on any address without TLS and tokens. For a private network only.
    pub insecure: bool,
    /// PEM file with the server's certificate chain.
    pub tls_cert: Option<PathBuf>,
    /// PEM file with its key.
    pub tls_key: Option<PathBuf>,
    /// PEM file with the authorities whose client certificates are accepted; a client
    /// that shows one may do everything.
    pub client_ca: Option<PathBuf>,
    /// Allows GetStatus, Stream and Ack.
    #[serde(deserialize_with = "secret")]
    pub read_token: Option<SecretString>,
    /// Allows every call.
    #[serde(deserialize_with = "secret")]
    pub admin_token: Option<SecretString>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            insecure: false,
            tls_cert: None,
            tls_key: None,
            client_ca: None,
            read_token: None,
            admin_token: None,
        }
    }
}

/// A `[grpc]` section that contradicts itself or would leave the door open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// One without the other.
    #[error("grpc.tls_cert and grpc.tls_key belong together: set both or neither")]
    HalfTls,
    /// Client certificates are part of TLS.
    #[error("grpc.client_ca needs TLS: set grpc.tls_cert and grpc.tls_key too")]
    ClientCaWithoutTls,
    /// Anybody could send it.
    #[error("grpc.{0} is empty: a token that everybody knows is none; leave it out or set it")]
    EmptyToken(&'static str),
    /// The two scopes would be one.
    #[error("grpc.read_token and grpc.admin_token are equal: readers would be administrators")]
    EqualTokens,
    /// The door would be open.
    #[error(
        "grpc.listen = \"{listen}\" is reachable from other machines{missing}: every change of \
         the database would be open to the network. Set {needed}; or listen on 127.0.0.1; or, \
         on a private network only, set grpc.insecure = true"
    )]
    Open {
        /// As configured.
        listen: SocketAddr,
        /// What the section lacks, in words.
        missing: &'static str,
        /// The settings that mend it.
        needed: &'static str,
    },
}

impl Config {
    /// What [`Config::check`] says, at the key that it says it of.
    pub(crate) fn invalid(&self) -> Findings {
        let mut found = Findings::default();
        if let Err(wrong) = self.check() {
            let half = if self.tls_cert.is_some() { "tls_cert" } else { "tls_key" };
            let key = match wrong {
                ConfigError::HalfTls => half,
                ConfigError::ClientCaWithoutTls => "client_ca",
                ConfigError::EmptyToken(token) => token,
                ConfigError::EqualTokens => "admin_token",
                ConfigError::Open { .. } => "listen",
            };
            found.wrong(key, wrong.to_string());
        }
        found
    }

    /// Whether this may be listened on.
    ///
    /// # Errors
    /// The first contradiction or opening found.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err(ConfigError::HalfTls);
        }
        let tls = self.tls_cert.is_some();
        if self.client_ca.is_some() && !tls {
            return Err(ConfigError::ClientCaWithoutTls);
        }
        let tokens = [("read_token", &self.read_token), ("admin_token", &self.admin_token)];
        for (name, token) in tokens {
            if token.as_ref().is_some_and(|token| token.expose_secret().is_empty()) {
                return Err(ConfigError::EmptyToken(name));
            }
        }
        if let (Some(read), Some(admin)) = (&self.read_token, &self.admin_token)
            && read.expose_secret() == admin.expose_secret()
        {
            return Err(ConfigError::EqualTokens);
        }
        let credentials =
            self.client_ca.is_some() || self.read_token.is_some() || self.admin_token.is_some();
        if self.listen.ip().is_loopback() || self.insecure || (tls && credentials) {
            return Ok(());
        }
        let (missing, needed) = if tls {
            (", and nobody is asked who he is", "grpc.admin_token, or grpc.client_ca")
        } else {
            (
                " without TLS",
                "grpc.tls_cert and grpc.tls_key, with grpc.admin_token or grpc.client_ca",
            )
        };
        Err(ConfigError::Open { listen: self.listen, missing, needed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Config)) -> Result<(), ConfigError> {
        let mut config = Config::default();
        change(&mut config);
        config.check()
    }

    fn public(config: &mut Config) {
        config.listen = SocketAddr::from(([0, 0, 0, 0], 50051));
    }

    fn tls(config: &mut Config) {
        config.tls_cert = Some("cert.pem".into());
        config.tls_key = Some("key.pem".into());
    }

    #[test]
    fn only_the_loopback_is_open() {
        assert_eq!(with(|_| ()), Ok(()));
        assert_eq!(with(|c| c.listen = "[::1]:1".parse().unwrap()), Ok(()));
        assert!(matches!(with(public), Err(ConfigError::Open { .. })));
        let insecure = |c: &mut Config| {
            public(c);
            c.insecure = true;
        };
        assert_eq!(with(insecure), Ok(()));
        let token = |c: &mut Config| {
            public(c);
            c.admin_token = Some("secret".to_owned().into());
        };
        assert!(matches!(with(token), Err(ConfigError::Open { .. })), "a token in clear text");
        let only_tls = |c: &mut Config| {
            public(c);
            tls(c);
        };
        assert!(matches!(with(only_tls), Err(ConfigError::Open { .. })));
        let both = |c: &mut Config| {
            token(c);
            tls(c);
        };
        assert_eq!(with(both), Ok(()));
        let certificates = |c: &mut Config| {
            only_tls(c);
            c.client_ca = Some("ca.pem".into());
        };
        assert_eq!(with(certificates), Ok(()));
    }

    #[test]
    fn contradictions() {
        assert_eq!(with(|c| c.tls_cert = Some("x".into())), Err(ConfigError::HalfTls));
        assert_eq!(with(|c| c.client_ca = Some("x".into())), Err(ConfigError::ClientCaWithoutTls));
        let empty = |c: &mut Config| c.read_token = Some(String::new().into());
        assert_eq!(with(empty), Err(ConfigError::EmptyToken("read_token")));
        let equal = |c: &mut Config| {
            c.read_token = Some("a".to_owned().into());
            c.admin_token = Some("a".to_owned().into());
        };
        assert_eq!(with(equal), Err(ConfigError::EqualTokens));
    }

    #[test]
    fn tokens_do_not_show() {
        let config: Config = toml::from_str("admin_token = \"hush-hush\"").unwrap();
        assert!(!format!("{config:?}").contains("hush"));
    }
}

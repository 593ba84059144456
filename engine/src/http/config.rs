//! The `[http]` section. Figures tell of tables and traffic, so the rule is that of
//! `[grpc]`: the loopback address needs no credentials, any other needs TLS and a token,
//! or `insecure = true`. Everything else is refused at start.

use std::net::SocketAddr;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::config::{Findings, secret};

/// The `[http]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Listen on any address without TLS and token. For a private network only.
    pub insecure: bool,
    /// PEM file with the server's certificate chain.
    pub tls_cert: Option<PathBuf>,
    /// PEM file with its key.
    pub tls_key: Option<PathBuf>,
    /// Asked for by `/metrics`, and by `/readyz` for its reasons.
    #[serde(deserialize_with = "secret")]
    pub token: Option<SecretString>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 8051)),
            insecure: false,
            tls_cert: None,
            tls_key: None,
            token: None,
        }
    }
}

/// An `[http]` section that contradicts itself or would leave the door open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// One without the other.
    #[error("http.tls_cert and http.tls_key belong together: set both or neither")]
    HalfTls,
    /// Anybody could send it.
    #[error("http.token is empty: a token that everybody knows is none; leave it out or set it")]
    EmptyToken,
    /// The door would be open.
    #[error(
        "http.listen = \"{0}\" is reachable from other machines: anybody could watch the figures. \
         Set http.tls_cert, http.tls_key and http.token; or listen on 127.0.0.1; or, on a private \
         network only, set http.insecure = true"
    )]
    Open(SocketAddr),
}

impl Config {
    /// What [`Config::check`] says, at the key that it says it of.
    pub(crate) fn invalid(&self) -> Findings {
        let mut found = Findings::default();
        if let Err(wrong) = self.check() {
            let half = if self.tls_cert.is_some() { "tls_cert" } else { "tls_key" };
            let key = match wrong {
                ConfigError::HalfTls => half,
                ConfigError::EmptyToken => "token",
                ConfigError::Open(_) => "listen",
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
        if self.token.as_ref().is_some_and(|token| token.expose_secret().is_empty()) {
            return Err(ConfigError::EmptyToken);
        }
        let guarded = self.tls_cert.is_some() && self.token.is_some();
        match self.listen.ip().is_loopback() || self.insecure || guarded {
            true => Ok(()),
            false => Err(ConfigError::Open(self.listen)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_is_open() {
        let check = |text: &str| toml::from_str::<Config>(text).unwrap().check();
        let tls = "tls_cert = 'c'\ntls_key = 'k'\n";
        let public = "listen = '0.0.0.0:1'\n";
        assert_eq!(check(""), Ok(()));
        assert_eq!(check("listen = '[::1]:1'"), Ok(()));
        assert!(matches!(check(public), Err(ConfigError::Open(_))));
        assert!(matches!(check(&format!("{public}token = 't'")), Err(ConfigError::Open(_))));
        assert!(matches!(check(&format!("{public}{tls}")), Err(ConfigError::Open(_))));
        assert_eq!(check(&format!("{public}{tls}token = 't'")), Ok(()));
        assert_eq!(check(&format!("{public}insecure = true")), Ok(()));
        assert_eq!(check("tls_cert = 'c'"), Err(ConfigError::HalfTls));
        assert_eq!(check("token = ''"), Err(ConfigError::EmptyToken));
        let config: Config = toml::from_str("token = 'hush-hush'").unwrap();
        assert!(!format!("{config:?}").contains("hush"));
    }
}

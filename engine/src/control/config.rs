//! Which `[grpc]` sections may be listened with at all.
//!
//! The loopback address needs no credentials. Any other needs TLS and either tokens or
//! client certificates, or `insecure = true`: everything else is refused at start,
//! because a stream of changes open to a network is a leak.

use std::net::SocketAddr;

use secrecy::ExposeSecret;

use crate::config::GrpcConfig;

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

/// Whether this may be listened on.
///
/// # Errors
/// The first contradiction or opening found.
pub fn check(config: &GrpcConfig) -> Result<(), ConfigError> {
    if config.tls_cert.is_some() != config.tls_key.is_some() {
        return Err(ConfigError::HalfTls);
    }
    let tls = config.tls_cert.is_some();
    if config.client_ca.is_some() && !tls {
        return Err(ConfigError::ClientCaWithoutTls);
    }
    let tokens = [("read_token", &config.read_token), ("admin_token", &config.admin_token)];
    for (name, token) in tokens {
        if token.as_ref().is_some_and(|token| token.expose_secret().is_empty()) {
            return Err(ConfigError::EmptyToken(name));
        }
    }
    if let (Some(read), Some(admin)) = (&config.read_token, &config.admin_token)
        && read.expose_secret() == admin.expose_secret()
    {
        return Err(ConfigError::EqualTokens);
    }
    let credentials =
        config.client_ca.is_some() || config.read_token.is_some() || config.admin_token.is_some();
    if config.listen.ip().is_loopback() || config.insecure || (tls && credentials) {
        return Ok(());
    }
    let (missing, needed) = if tls {
        (", and nobody is asked who he is", "grpc.admin_token, or grpc.client_ca")
    } else {
        (" without TLS", "grpc.tls_cert and grpc.tls_key, with grpc.admin_token or grpc.client_ca")
    };
    Err(ConfigError::Open { listen: config.listen, missing, needed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut GrpcConfig)) -> Result<(), ConfigError> {
        let mut config = GrpcConfig::default();
        change(&mut config);
        check(&config)
    }

    fn public(config: &mut GrpcConfig) {
        config.listen = SocketAddr::from(([0, 0, 0, 0], 50051));
    }

    fn tls(config: &mut GrpcConfig) {
        config.tls_cert = Some("cert.pem".into());
        config.tls_key = Some("key.pem".into());
    }

    #[test]
    fn only_the_loopback_is_open() {
        assert_eq!(with(|_| ()), Ok(()));
        assert_eq!(with(|c| c.listen = "[::1]:1".parse().unwrap()), Ok(()));
        assert!(matches!(with(public), Err(ConfigError::Open { .. })));
        let insecure = |c: &mut GrpcConfig| {
            public(c);
            c.insecure = true;
        };
        assert_eq!(with(insecure), Ok(()));
        let token = |c: &mut GrpcConfig| {
            public(c);
            c.admin_token = Some("secret".to_owned().into());
        };
        assert!(matches!(with(token), Err(ConfigError::Open { .. })), "a token in clear text");
        let only_tls = |c: &mut GrpcConfig| {
            public(c);
            tls(c);
        };
        assert!(matches!(with(only_tls), Err(ConfigError::Open { .. })));
        let both = |c: &mut GrpcConfig| {
            token(c);
            tls(c);
        };
        assert_eq!(with(both), Ok(()));
        let certificates = |c: &mut GrpcConfig| {
            only_tls(c);
            c.client_ca = Some("ca.pem".into());
        };
        assert_eq!(with(certificates), Ok(()));
    }

    #[test]
    fn contradictions() {
        assert_eq!(with(|c| c.tls_cert = Some("x".into())), Err(ConfigError::HalfTls));
        assert_eq!(with(|c| c.client_ca = Some("x".into())), Err(ConfigError::ClientCaWithoutTls));
        let empty = |c: &mut GrpcConfig| c.read_token = Some(String::new().into());
        assert_eq!(with(empty), Err(ConfigError::EmptyToken("read_token")));
        let equal = |c: &mut GrpcConfig| {
            c.read_token = Some("a".to_owned().into());
            c.admin_token = Some("a".to_owned().into());
        };
        assert_eq!(with(equal), Err(ConfigError::EqualTokens));
    }
}

//! Whether a call may be made. Tokens are compared in constant time and never shown;
//! what can go wrong is a caller without the right one, who learns only that.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tonic::{Request, Status};

use crate::control::config::Config;

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// Sees everything that is published.
    Read,
    /// Changes the state.
    Admin,
}

/// What the listener asks of its callers. Holds digests, not tokens: comparing digests
/// takes the same time whatever is wrong with a token, its length included.
#[derive(Clone, Default)]
pub(super) struct Policy {
    read: Option<[u8; 32]>,
    admin: Option<[u8; 32]>,
    certificates: bool,
}

impl Policy {
    pub(super) fn new(config: &Config) -> Policy {
        let digest = |token: &Option<SecretString>| {
            token.as_ref().map(|token| Sha256::digest(token.expose_secret()).into())
        };
        Policy {
            read: digest(&config.read_token),
            admin: digest(&config.admin_token),
            certificates: config.client_ca.is_some(),
        }
    }

    /// Whether a client certificate is one way in among others, not the only one.
    pub(super) fn has_tokens(&self) -> bool {
        self.read.is_some() || self.admin.is_some()
    }

    pub(super) fn allow<T>(&self, request: &Request<T>, needed: Scope) -> Result<(), Status> {
        if !self.has_tokens() && !self.certificates {
            return Ok(());
        }
        // The TLS layer has verified any certificate that got this far.
        if self.certificates && request.peer_certs().is_some_and(|certs| !certs.is_empty()) {
            return Ok(());
        }
        let header = request.metadata().get("authorization").map(|value| value.as_bytes());
        let token = header.and_then(|value| value.strip_prefix(b"Bearer "));
        let Some(token) = token else {
            return Err(Status::unauthenticated(
                "this listener asks for a token: send the metadata \"authorization: Bearer …\"",
            ));
        };
        let token: [u8; 32] = Sha256::digest(token).into();
        let is = |expected: &Option<[u8; 32]>| {
            expected.is_some_and(|expected| bool::from(expected.ct_eq(&token)))
        };
        let (admin, read) = (is(&self.admin), is(&self.read));
        match needed {
            _ if admin => Ok(()),
            Scope::Read if read => Ok(()),
            Scope::Admin if read => Err(Status::permission_denied(
                "the read token does not allow this call, grpc.admin_token does",
            )),
            Scope::Read | Scope::Admin => Err(Status::unauthenticated("the token is wrong")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn policy(read: Option<&str>, admin: Option<&str>) -> Policy {
        Policy::new(&Config {
            read_token: read.map(|t| t.to_owned().into()),
            admin_token: admin.map(|t| t.to_owned().into()),
            ..Config::default()
        })
    }

    fn ask(policy: &Policy, header: Option<&str>, needed: Scope) -> Code {
        let mut request = Request::new(());
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", header.parse().unwrap());
        }
        policy.allow(&request, needed).err().map_or(Code::Ok, |status| status.code())
    }

    #[test]
    fn scopes() {
        let both = policy(Some("r"), Some("a"));
        for (header, scope, expected) in [
            (Some("Bearer r"), Scope::Read, Code::Ok),
            (Some("Bearer r"), Scope::Admin, Code::PermissionDenied),
            (Some("Bearer a"), Scope::Read, Code::Ok),
            (Some("Bearer a"), Scope::Admin, Code::Ok),
            (Some("Bearer x"), Scope::Read, Code::Unauthenticated),
            (Some("Bearer "), Scope::Admin, Code::Unauthenticated),
            (Some("a"), Scope::Admin, Code::Unauthenticated),
            (None, Scope::Read, Code::Unauthenticated),
        ] {
            assert_eq!(ask(&both, header, scope), expected, "{header:?} {scope:?}");
        }
        assert_eq!(ask(&policy(None, None), None, Scope::Admin), Code::Ok);
        let only_read = policy(Some("r"), None);
        assert_eq!(ask(&only_read, Some("Bearer r"), Scope::Admin), Code::PermissionDenied);
    }
}

//! Whose certificate a TLS client of ours takes for a server's, with rustls on ring.
//!
//! What can go wrong: checking less than is said. How much is checked is therefore one
//! value, given by the caller. A certificate that was itself given as an authority is
//! accepted as it is, because many a server's self-signed certificate is used that way
//! (webpki alone refuses those that openssl makes by default: they are marked as
//! authorities).

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// How much of a server's certificate is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Any certificate will do.
    Nothing,
    /// It is one of those given, whatever its name.
    Itself,
    /// It is one of those given, or one of them has vouched for it.
    Issuer,
    /// That, and it is made out to the name that was asked for.
    IssuerAndName,
}

/// A verifier of server certificates.
#[derive(Debug)]
pub(crate) struct Trust {
    check: Check,
    provider: Arc<CryptoProvider>,
    webpki: Option<Arc<WebPkiServerVerifier>>,
    given: Vec<CertificateDer<'static>>,
}

/// Every certificate of a PEM file; an error is a sentence about the `setting` that names it.
pub(crate) fn certificates(
    path: &Path,
    setting: &str,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|e| format!("{setting} {}: {e}", path.display()))?;
    if all.is_empty() {
        return Err(format!("{setting} {} holds no certificate", path.display()));
    }
    Ok(all)
}

impl Trust {
    /// Trusts `given` as far as `check` says.
    pub(crate) fn new(
        check: Check,
        given: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<Trust>, String> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(given.iter().cloned());
        let webpki = if store.is_empty() {
            None
        } else {
            let builder =
                WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(provider));
            Some(builder.build().map_err(|e| e.to_string())?)
        };
        Ok(Arc::new(Trust { check, provider: Arc::clone(provider), webpki, given }))
    }

    /// Whether the server's own certificate was given.
    fn itself(&self, cert: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<bool, Error> {
        if !self.given.iter().any(|given| given.as_ref() == cert.as_ref()) {
            return Ok(false);
        }
        if self.check == Check::IssuerAndName {
            rustls::client::verify_server_name(&ParsedCertificate::try_from(cert)?, name)?;
        }
        Ok(true)
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.check == Check::Nothing || self.itself(cert, name)? {
            return Ok(ServerCertVerified::assertion());
        }
        let webpki = self.webpki.as_ref().filter(|_| self.check != Check::Itself);
        let webpki = webpki.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        match webpki.verify_server_cert(cert, intermediates, name, ocsp, now) {
            // The name is what webpki looks at last, after the chain.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.check == Check::Issuer => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

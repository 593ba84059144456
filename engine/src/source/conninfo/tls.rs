//! TLS to PostgreSQL as libpq's `sslmode` means it, with rustls on ring.
//!
//! What can go wrong: a mode that verifies less than its name says. `require` (and the
//! weaker modes) accept any certificate on purpose, as libpq does; everything else goes
//! through webpki. A certificate that stands itself in the root file is accepted as it
//! is, because many a server's self-signed certificate is used that way.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::{Conninfo, Roots, SslMode};

/// The rustls configuration for `info`; an error is a sentence about a file.
pub(super) fn client_config(info: &Conninfo) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(info, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match &info.client_cert {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| format!("sslkey {}: {e}", key.display()))?;
            builder
                .with_client_auth_cert(certificates(cert, "sslcert")?, private)
                .map_err(|e| format!("sslcert {}: {e}", cert.display()))?
        }
    };
    Ok(Arc::new(config))
}

fn certificates(path: &Path, name: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|e| format!("{name} {}: {e}", path.display()))?;
    if all.is_empty() {
        return Err(format!("{name} {} holds no certificate", path.display()));
    }
    Ok(all)
}

fn verifier(
    info: &Conninfo,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let given = match &info.roots {
        _ if info.sslmode < SslMode::VerifyCa => Vec::new(),
        None => Vec::new(),
        Some(Roots::File(path)) => certificates(path, "sslrootcert")?,
        Some(Roots::System) => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                return Err("sslrootcert=system, but the system has no root certificates".into());
            }
            found.certs
        }
    };
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(given.iter().cloned());
    let webpki = if store.is_empty() {
        None
    } else {
        let builder =
            WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(provider));
        Some(builder.build().map_err(|e| e.to_string())?)
    };
    Ok(Arc::new(Verifier { mode: info.sslmode, provider: Arc::clone(provider), webpki, given }))
}

#[derive(Debug)]
struct Verifier {
    mode: SslMode,
    provider: Arc<CryptoProvider>,
    webpki: Option<Arc<WebPkiServerVerifier>>,
    given: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// Whether the server's own certificate was given as a root.
    fn pinned(&self, cert: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<bool, Error> {
        if !self.given.iter().any(|given| given.as_ref() == cert.as_ref()) {
            return Ok(false);
        }
        if self.mode == SslMode::VerifyFull {
            rustls::client::verify_server_name(&ParsedCertificate::try_from(cert)?, name)?;
        }
        Ok(true)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.mode < SslMode::VerifyCa || self.pinned(cert, name)? {
            return Ok(ServerCertVerified::assertion());
        }
        let webpki = self.webpki.as_ref();
        let webpki = webpki.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        match webpki.verify_server_cert(cert, intermediates, name, ocsp, now) {
            // The name is what webpki looks at last, after the chain.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.mode == SslMode::VerifyCa => Ok(ServerCertVerified::assertion()),
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

/// The `tls-server-end-point` binding of a certificate: its hash under the hash of its
/// own signature algorithm, SHA-256 in place of MD5 and SHA-1 (RFC 5929, 4.1). `None` for
/// algorithms that name no hash (Ed25519, RSA-PSS, where PostgreSQL 15 has none either).
pub(super) fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01]; // 1.2.840.113549.1.1
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03]; // 1.2.840.10045.4.3
    const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
    let oid = signature_algorithm(certificate)?;
    let (last, family) = oid.split_last()?;
    match (family, last) {
        // md5, sha1 and sha256 with RSA; ecdsa with SHA256.
        (RSA, 4 | 5 | 11) | (ECDSA, 2) => Some(Sha256::digest(certificate).to_vec()),
        (RSA, 12) | (ECDSA, 3) => Some(Sha384::digest(certificate).to_vec()),
        (RSA, 13) | (ECDSA, 4) => Some(Sha512::digest(certificate).to_vec()),
        _ if oid == ECDSA_SHA1 => Some(Sha256::digest(certificate).to_vec()),
        _ => None,
    }
}

/// `Certificate ::= SEQUENCE { tbs SEQUENCE, algorithm SEQUENCE { OID, … }, … }`
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (body, _) = der(certificate, 0x30)?;
    let (_, after_tbs) = der(body, 0x30)?;
    let (algorithm, _) = der(after_tbs, 0x30)?;
    Some(der(algorithm, 0x06)?.0)
}

/// The content of the DER element with `tag` at the start of `input`, and what follows.
fn der(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (len, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        (digits.iter().fold(0, |len, &b| len << 8 | usize::from(b)), rest)
    };
    rest.split_at_checked(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A skeleton of a certificate signed with `oid`.
    fn certificate(oid: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, body: &[u8]| {
            let mut out = vec![tag, 0x81, u8::try_from(body.len()).unwrap()];
            out.extend_from_slice(body);
            out
        };
        let body = [wrap(0x30, &[0; 140]), wrap(0x30, &wrap(0x06, oid))].concat();
        let mut out = vec![0x30, 0x82, 0, u8::try_from(body.len()).unwrap()];
        out.extend_from_slice(&body);
        out
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let rsa = |n| certificate(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, n]);
        let ecdsa = |n| certificate(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, n]);
        let len = |cert: Vec<u8>| server_end_point(&cert).map(|hash| hash.len());
        assert_eq!(len(rsa(5)), Some(32));
        assert_eq!(len(rsa(11)), Some(32));
        assert_eq!(len(rsa(12)), Some(48));
        assert_eq!(len(rsa(13)), Some(64));
        assert_eq!(len(ecdsa(2)), Some(32));
        assert_eq!(len(ecdsa(4)), Some(64));
        assert_eq!(len(rsa(10)), None);
        assert_eq!(len(certificate(&[0x2b, 0x65, 0x70])), None);
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_binding_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = server_end_point(&bytes);
        }
    }
}

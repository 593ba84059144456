//! TLS to PostgreSQL as libpq's `sslmode` means it, with rustls on ring.
//!
//! What can go wrong: a mode that verifies less than its name says. `require` (and the
//! weaker modes) accept any certificate on purpose, as libpq does.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::{Conninfo, Roots, SslMode};
use crate::trust::{Check, Trust, certificates};

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

fn verifier(info: &Conninfo, provider: &Arc<CryptoProvider>) -> Result<Arc<Trust>, String> {
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
    let check = match info.sslmode {
        mode if mode < SslMode::VerifyCa => Check::Nothing,
        SslMode::VerifyFull => Check::IssuerAndName,
        _ => Check::Issuer,
    };
    Trust::new(check, given, provider)
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

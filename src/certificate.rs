//! Until when a server's certificate is good, read off a handshake that believes everything.
//!
//! Such a handshake is for a look only: whoever makes it sends nothing over it. A handshake that checks
//! would end before it could tell that a certificate ran out last week.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// Believes every certificate, and keeps when the shown ones end.
#[derive(Debug)]
pub struct Look {
    provider: Arc<CryptoProvider>,
    seen: Mutex<Option<Ends>>,
}

/// When the certificates end that a server showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ends {
    /// The server's own.
    pub own: Timestamp,
    /// The first of those it showed beside. Whoever checks may never need that one: a root that was signed
    /// by another, which is over, is shown for the sake of old clients.
    pub beside: Option<Timestamp>,
}

impl Look {
    /// A client that looks, and where it keeps what it saw.
    ///
    /// # Errors
    /// When the TLS library refuses its settings.
    pub fn client() -> Result<(Arc<ClientConfig>, Arc<Look>), rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let look = Arc::new(Look { provider: Arc::clone(&provider), seen: Mutex::default() });
        let verifier: Arc<dyn ServerCertVerifier> = Arc::<Look>::clone(&look);
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok((Arc::new(config), look))
    }

    /// When the certificates end that the server showed; none before a handshake.
    #[must_use]
    pub fn ends(&self) -> Option<Ends> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a certificate ends; none if it is none.
#[must_use]
pub fn ends_at(certificate: &[u8]) -> Option<Timestamp> {
    let validity = Certificate::from_der(certificate).ok()?.tbs_certificate.validity;
    let seconds = validity.not_after.to_unix_duration().as_secs();
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}

impl ServerCertVerifier for Look {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let beside = intermediates.iter().filter_map(|certificate| ends_at(certificate)).min();
        let ends = ends_at(end_entity).map(|own| Ends { own, beside });
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = ends;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_read_whether_it_is_near_or_far() {
        // Before 2050 it is written as UTCTime, from then on as GeneralizedTime.
        for (year, end) in [(2026, "2026-12-24T00:00:00Z"), (2061, "2061-12-24T00:00:00Z")] {
            let mut parameters =
                rcgen::CertificateParams::new(["mail.example".to_owned()]).unwrap();
            parameters.not_after = rcgen::date_time_ymd(year, 12, 24);
            let key = rcgen::KeyPair::generate().unwrap();
            let made = parameters.self_signed(&key).unwrap();
            assert_eq!(ends_at(made.der()), Some(end.parse().unwrap()));
        }
        assert_eq!(ends_at(b"no certificate"), None);
    }
}

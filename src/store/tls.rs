//! TLS towards PostgreSQL, as libpq's `sslmode` has it.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_postgres::tls::{MakeTlsConnect, NoTlsStream};
use tokio_postgres::{AsyncMessage, Error, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::DatabaseTls;

/// The connector for a mode, or none for a connection in clear text.
///
/// # Errors
/// In words, when the roots cannot be read.
pub fn connector(mode: &DatabaseTls) -> Result<Option<MakeRustlsConnect>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match mode {
        DatabaseTls::Disable => return Ok(None),
        DatabaseTls::Prefer | DatabaseTls::Require => {
            Arc::new(Unchecked { provider: Arc::clone(&provider), chain: None })
        }
        DatabaseTls::Verify { root, host } => {
            let roots = Arc::new(roots(root.as_deref())?);
            let full = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .map_err(|e| format!("sslrootcert cannot be used: {e}"))?;
            if *host {
                full
            } else {
                Arc::new(Unchecked { provider: Arc::clone(&provider), chain: Some(full) })
            }
        }
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be set up: {e}"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Some(MakeRustlsConnect::new(config)))
}

/// What mends a connection that failed for its TLS, if that is the reason.
pub(super) fn remedy(error: &Error) -> Option<&'static str> {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    for cause in causes {
        if cause.to_string() == "server does not support TLS" {
            return Some(
                "set ssl = on at the server, or name one that has it; sslmode=disable in the URL would \
                 send everything in clear text",
            );
        }
        // In an io::Error it is not the source, but what is wrapped.
        let wrapped = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = wrapped.and_then(|e| e.downcast_ref::<rustls::Error>());
        let Some(rustls::Error::InvalidCertificate(wrong)) =
            tls.or_else(|| cause.downcast_ref::<rustls::Error>())
        else {
            continue;
        };
        return Some(match wrong {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the server's certificate is for another name than the URL's host; write the name that \
                 it is for"
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the server's certificate is from an authority that is not trusted; name the \
                 authority's certificate with sslrootcert in the URL"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired; renew it"
            }
            _ => "the server's certificate is not accepted; have a look at it",
        });
    }
    None
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    match file {
        Some(path) => {
            let shown = path.display();
            let certificates = CertificateDer::pem_file_iter(path)
                .map_err(|e| format!("sslrootcert {shown} cannot be read: {e}"))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|e| format!("sslrootcert {shown}: {e}"))?;
                store.add(certificate).map_err(|e| format!("sslrootcert {shown}: {e}"))?;
            }
        }
        None => {
            for certificate in rustls_native_certs::load_native_certs().certs {
                // A root of the system that rustls cannot use is no reason to trust none.
                let _ = store.add(certificate);
            }
            if store.is_empty() {
                store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
        }
    }
    Ok(store)
}

/// Encryption without, or with only part of, the check: `require` and `prefer` look at nothing,
/// `verify-ca` at the chain but not at the name.
#[derive(Debug)]
struct Unchecked {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
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

type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// The wire of a connection, in clear text or not. As a future it drives the wire to its end.
pub struct Connection(Wire);

enum Wire {
    Plain(Box<tokio_postgres::Connection<Socket, NoTlsStream>>),
    Tls(Box<tokio_postgres::Connection<Socket, TlsStream>>),
}

impl Connection {
    pub(super) fn plain(connection: tokio_postgres::Connection<Socket, NoTlsStream>) -> Connection {
        Connection(Wire::Plain(Box::new(connection)))
    }

    pub(super) fn tls(connection: tokio_postgres::Connection<Socket, TlsStream>) -> Connection {
        Connection(Wire::Tls(Box::new(connection)))
    }

    /// Drives the wire until the server says something of its own accord.
    pub(super) fn poll_message(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<AsyncMessage, Error>>> {
        match &mut self.0 {
            Wire::Plain(connection) => connection.poll_message(context),
            Wire::Tls(connection) => connection.poll_message(context),
        }
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            match std::task::ready!(self.poll_message(context)) {
                // Notices are for people at a prompt; an error ends the wire, and the client's
                // next call reports it.
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(()),
            }
        }
    }
}

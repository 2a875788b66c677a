//! TLS as a client: which certificates it trusts, and how often a session was resumed instead of made anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::args::Protocol;
use crate::target::Server;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("https:// URLs need --ca FILE: the certificates to trust, a server's own self-signed one for example")]
    Missing,
    #[error("--ca {path}: {source}", path = path.display())]
    Pem { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("--ca {path}: {source}", path = path.display())]
    Certificate { path: PathBuf, source: rustls::Error },
    #[error("--ca {path} holds no certificate", path = path.display())]
    Empty { path: PathBuf },
    #[error("this build cannot speak TLS: {0}")]
    Versions(rustls::Error),
}

/// Handshakes made so far.
#[derive(Debug, Default)]
pub struct Handshakes {
    pub full: AtomicU64,
    pub resumed: AtomicU64,
}

/// Opens TLS connections that trust one file of certificates. Sessions are kept in memory and resumed.
#[derive(Clone)]
pub struct Dialer {
    config: Arc<ClientConfig>,
    pub handshakes: Arc<Handshakes>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Dialer").field("handshakes", &self.handshakes).finish_non_exhaustive()
    }
}

impl Dialer {
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn new(ca: &Path, protocol: Protocol) -> Result<Self, TrustError> {
        let pem = |source| TrustError::Pem { path: ca.to_owned(), source };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).map_err(pem)? {
            let added = roots.add(certificate.map_err(pem)?);
            added.map_err(|source| TrustError::Certificate { path: ca.to_owned(), source })?;
        }
        if roots.is_empty() {
            return Err(TrustError::Empty { path: ca.to_owned() });
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Versions)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        Ok(Self { config: Arc::new(config), handshakes: Arc::default() })
    }

    /// Shakes hands over `stream`.
    ///
    /// # Errors
    /// When the server's certificate is not trusted, or it speaks no TLS of ours.
    pub async fn dial(&self, server: &Server, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(server.host.clone()).map_err(std::io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await?;
        let count = match stream.get_ref().1.handshake_kind() {
            Some(HandshakeKind::Resumed) => &self.handshakes.resumed,
            _ => &self.handshakes.full,
        };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(stream)
    }
}

//! TLS by rustls: one certificate chain from PEM files, ALPN for HTTP/2 and HTTP/1.1, reloaded in place.
//!
//! Connections that are open keep the configuration they were accepted with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio_rustls::TlsAcceptor;

/// Where the certificate is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM chain, leaf first.
    pub certificate: PathBuf,
    /// PEM private key (PKCS#8, SEC1 or PKCS#1).
    pub key: PathBuf,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {source}")]
    Pem { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("{path} holds no certificate")]
    NoCertificate { path: PathBuf },
    #[error("certificate {certificate} and key {key} do not work together: {source}")]
    Rustls { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// A TLS configuration that can be replaced while connections are open.
#[derive(Debug)]
pub struct ReloadableTls {
    config: TlsConfig,
    current: ArcSwap<ServerConfig>,
}

impl ReloadableTls {
    /// # Errors
    /// When a file is unreadable, is no PEM, or certificate and key do not match.
    pub fn load(config: TlsConfig) -> Result<Self, TlsError> {
        let current = ArcSwap::from_pointee(server_config(&config)?);
        Ok(Self { config, current })
    }

    /// Reads the files again; on an error the old certificate stays in use.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(server_config(&self.config)?));
        Ok(())
    }

    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

fn server_config(config: &TlsConfig) -> Result<ServerConfig, TlsError> {
    let pem_error = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, source }
    };
    let chain = CertificateDer::pem_file_iter(&config.certificate)
        .map_err(pem_error(&config.certificate))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem_error(&config.certificate))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: config.certificate.clone() });
    }
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(pem_error(&config.key))?;
    let rustls_error =
        |source| TlsError::Rustls { certificate: config.certificate.clone(), key: config.key.clone(), source };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(rustls_error)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(rustls_error)?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(server)
}

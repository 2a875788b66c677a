//! TLS of the listener: edges show a certificate of an authority this node trusts, or are refused (mutual TLS).
//!
//! The files are read every few seconds. When their contents have changed and are valid, they are used from the next connection
//! on; open connections keep the certificates they were accepted with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::shutdown::Shutdown;
use parking_lot::RwLock;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM chain, leaf first.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// PEM certificates of the authorities that sign the edges' certificates.
    pub client_ca: PathBuf,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {source}", path = path.display())]
    Pem { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("{path} holds no certificate", path = path.display())]
    NoCertificate { path: PathBuf },
    #[error("{path}: {reason}", path = path.display())]
    Unusable { path: PathBuf, reason: String },
}

/// What new connections are accepted with.
#[derive(Debug)]
pub(crate) struct ReloadableTls {
    config: TlsConfig,
    current: RwLock<Arc<ServerConfig>>,
    /// Digest of the files `current` was made of.
    seen: RwLock<blake3::Hash>,
}

impl ReloadableTls {
    /// Reads the files. Blocks.
    pub(crate) fn load(config: TlsConfig) -> Result<Arc<Self>, TlsError> {
        let seen = RwLock::new(digest(&config));
        let current = RwLock::new(Arc::new(server_config(&config)?));
        Ok(Arc::new(Self { config, current, seen }))
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.read()))
    }

    /// Uses the files as they are now, if they changed. Whether they did; on an error the old stay in use. Blocks.
    pub(crate) fn follow(&self) -> Result<bool, TlsError> {
        let now = digest(&self.config);
        if *self.seen.read() == now {
            return Ok(false);
        }
        // Noted first, so that broken files are reported once and not every few seconds.
        *self.seen.write() = now;
        let config = server_config(&self.config)?;
        *self.current.write() = Arc::new(config);
        Ok(true)
    }

    /// Follows the files until shutdown.
    pub(crate) fn watch(self: &Arc<Self>, mut shutdown: Shutdown) -> JoinHandle<()> {
        let tls = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = shutdown.requested() => return,
                    () = tokio::time::sleep(LOOK_INTERVAL) => {}
                }
                let looking = Arc::clone(&tls);
                match tokio::task::spawn_blocking(move || looking.follow()).await {
                    Ok(Ok(false)) => {}
                    Ok(Ok(true)) => tracing::info!("certificates reloaded"),
                    Ok(Err(error)) => tracing::error!(%error, "certificates not reloaded, the old ones stay in use"),
                    Err(error) => tracing::error!(%error, "certificates could not be looked at"),
                }
            }
        })
    }
}

/// Digest of what the files hold; that they cannot be read counts as a content, too.
fn digest(config: &TlsConfig) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for path in [&config.certificate, &config.key, &config.client_ca] {
        let bytes = std::fs::read(path).unwrap_or_default();
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes);
    }
    hasher.finalize()
}

fn server_config(config: &TlsConfig) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let unusable = |path: &Path, reason: &dyn std::fmt::Display| TlsError::Unusable {
        path: path.to_owned(),
        reason: reason.to_string(),
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&config.client_ca)? {
        roots.add(certificate).map_err(|error| unusable(&config.client_ca, &error))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| unusable(&config.client_ca, &error))?;
    let key = PrivateKeyDer::from_pem_file(&config.key)
        .map_err(|source| TlsError::Pem { path: config.key.clone(), source })?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&config.certificate, &error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&config.certificate)?, key)
        .map_err(|error| unusable(&config.certificate, &error))?;
    // Edges speak HTTP/2; a collector of metrics may speak HTTP/1.1.
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(server)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem { path: path.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<Vec<_>, _>>().map_err(pem)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path) -> TlsConfig {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let config =
            TlsConfig { certificate: dir.join("node.pem"), key: dir.join("node.key"), client_ca: dir.join("ca.pem") };
        std::fs::write(&config.certificate, made.cert.pem()).unwrap();
        std::fs::write(&config.key, made.signing_key.serialize_pem()).unwrap();
        std::fs::write(&config.client_ca, made.cert.pem()).unwrap();
        config
    }

    #[test]
    fn files_are_followed_and_broken_ones_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let config = write(dir.path());
        let tls = ReloadableTls::load(config.clone()).unwrap();
        let first = Arc::clone(&tls.current.read());
        assert!(!tls.follow().unwrap());
        std::fs::write(&config.key, "no key").unwrap();
        assert!(tls.follow().unwrap_err().to_string().contains("node.key"));
        assert!(!tls.follow().unwrap(), "reported once");
        assert!(Arc::ptr_eq(&first, &tls.current.read()));
        write(dir.path());
        assert!(tls.follow().unwrap());
        assert!(!Arc::ptr_eq(&first, &tls.current.read()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = write(dir.path());
        std::fs::write(&config.client_ca, "").unwrap();
        assert!(ReloadableTls::load(config.clone()).unwrap_err().to_string().contains("ca.pem"));
        std::fs::remove_file(&config.certificate).unwrap();
        assert!(ReloadableTls::load(write(dir.path())).is_ok());
    }
}

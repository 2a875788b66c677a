//! TLS in which both sides show a certificate: to nodes, and to the primary of a shared log.

use std::path::PathBuf;

use rustls::ClientConfig;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

use super::{OutboundError, Trust, certificates};
use crate::secret;

/// More would be another file by mistake.
const KEY_BYTES_MAX: u64 = 1 << 20;

/// For servers with `https://`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MutualTlsConfig {
    /// PEM certificates that may sign a server's.
    pub ca: PathBuf,
    /// PEM chain this edge shows to servers, leaf first.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MutualTlsError {
    #[error("{path}: {source}", path = path.display())]
    Pem { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("{path}: {source}", path = path.display())]
    Key { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    #[error("{path}: {source}", path = path.display())]
    Rustls { path: PathBuf, source: rustls::Error },
}

/// Without a configuration no server is trusted: `https://` is refused before that matters.
pub(crate) fn client_config(tls: Option<&MutualTlsConfig>) -> Result<ClientConfig, MutualTlsError> {
    let Some(tls) = tls else { return Ok(Trust::None.tls()?.with_no_client_auth()) };
    let bytes = secret::read(&tls.key, KEY_BYTES_MAX)
        .map_err(|source| MutualTlsError::Key { path: tls.key.clone(), source })?;
    let key = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|source| MutualTlsError::Pem { path: tls.key.clone(), source })?;
    let refuse = |source| MutualTlsError::Rustls { path: tls.certificate.clone(), source };
    let builder = Trust::Only(&tls.ca).tls()?;
    builder.with_client_auth_cert(certificates(&tls.certificate)?, key).map_err(refuse)
}

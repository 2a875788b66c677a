//! A TLS client that trusts what it is given.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::pki::Identity;

/// Connects to `localhost` at an address, trusting these certificates, as this client if it is one, and offers
/// `protocol` by ALPN.
///
/// # Errors
/// When a file is no certificate, no server listens, or the handshake fails.
pub async fn connect(
    to: SocketAddr,
    trusted: &[&Path],
    identity: Option<&Identity>,
    protocol: &[u8],
) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for file in trusted {
        roots.add(CertificateDer::from_pem_file(file)?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { certificate, key }) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_file(certificate)?],
            PrivateKeyDer::from_pem_file(key)?,
        )?,
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(to).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::try_from("localhost")?, stream).await.context("the handshake")
}

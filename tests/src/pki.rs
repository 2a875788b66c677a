//! Authorities and certificates made for one test.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// An authority, and the file its certificate is in.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub file: PathBuf,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("file", &self.file).finish_non_exhaustive()
    }
}

/// A certificate chain and its key, in files.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// # Errors
    /// When a file cannot be written.
    pub fn new(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key_pair = KeyPair::generate()?;
        let file = dir.join(format!("{name}-ca.pem"));
        std::fs::write(&file, params.self_signed(&key_pair)?.pem())?;
        Ok(Self { issuer: Issuer::new(params, key_pair), file })
    }

    /// A certificate for 127.0.0.1 and `localhost`, good for both ends of a connection.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn identity(&self, dir: &Path, name: &str) -> anyhow::Result<Identity> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key_pair = KeyPair::generate()?;
        let certificate = params.signed_by(&key_pair, &self.issuer)?;
        let identity = Identity { certificate: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) };
        std::fs::write(&identity.certificate, certificate.pem())?;
        bildkante_shared::testing::write_secret(&identity.key, key_pair.serialize_pem())?;
        Ok(identity)
    }
}

//! Certificates from PEM files, and which of them a client gets.
//!
//! A name of the subject alternative names is exact or a wildcard for one label (RFC 6125 §6.4.3). An exact name wins over
//! a wildcard; among certificates of one name (ECDSA and RSA) the first whose key the client can verify; the first file
//! answers a client that names no host of ours.

use std::collections::HashMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CertificateFiles, TlsError};
use crate::secret;

/// More would be another file by mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the files held, read in one go so that what is compared is what is used.
#[derive(Debug)]
pub(super) struct Material {
    pairs: Vec<Pair>,
    client_ca: Option<(PathBuf, Vec<u8>)>,
}

#[derive(Debug)]
struct Pair {
    files: CertificateFiles,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// When a certificate ends, under the name people know it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    pub name: String,
    pub unix_s: i64,
}

impl Material {
    pub(super) fn read(files: &[CertificateFiles], client_ca: Option<&Path>) -> Result<Self, TlsError> {
        let pairs = files.iter().map(|files| {
            Ok(Pair { files: files.clone(), certificate: read(&files.certificate)?, key: read_key(&files.key)? })
        });
        Ok(Self {
            pairs: pairs.collect::<Result<_, TlsError>>()?,
            client_ca: client_ca.map(|path| Ok::<_, TlsError>((path.to_owned(), read(path)?))).transpose()?,
        })
    }

    pub(super) fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        let files = self.pairs.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
        for file in files.chain(self.client_ca.iter().map(|(_, bytes)| bytes)) {
            hasher.update(&(file.len() as u64).to_le_bytes());
            hasher.update(file);
        }
        hasher.finalize()
    }

    pub(super) fn expiries(&self) -> Result<Vec<Expiry>, TlsError> {
        self.pairs.iter().map(Pair::expiry).collect()
    }

    /// Requires a certificate signed by one of the authorities, where any are named.
    pub(super) fn client_verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        let Some((path, bytes)) = &self.client_ca else { return Ok(None) };
        let refused = |reason: String| TlsError::ClientAuthority { path: path.clone(), reason };
        let mut roots = RootCertStore::empty();
        for certificate in chain(path, bytes)? {
            roots.add(certificate).map_err(|error| refused(error.to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        verifier.map(Some).map_err(|error| refused(error.to_string()))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read;
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    BufReader::new(file).take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn read_key(path: &Path) -> Result<Vec<u8>, TlsError> {
    secret::read(path, FILE_BYTES_MAX).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn chain(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem { path: path.to_owned(), source })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}

impl Pair {
    fn certified(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let CertificateFiles { certificate, key } = &self.files;
        let chain = chain(certificate, &self.certificate)?;
        let private =
            PrivateKeyDer::from_pem_slice(&self.key).map_err(|source| TlsError::Pem { path: key.clone(), source })?;
        CertifiedKey::from_der(chain, private, provider).map_err(|source| TlsError::Mismatch {
            certificate: certificate.clone(),
            key: key.clone(),
            source,
        })
    }

    fn with_leaf<T>(&self, use_leaf: impl FnOnce(&X509Certificate<'_>) -> T) -> Result<T, TlsError> {
        let path = &self.files.certificate;
        let chain = chain(path, &self.certificate)?;
        let (_, leaf) = X509Certificate::from_der(&chain[0])
            .map_err(|error| TlsError::Malformed { path: path.clone(), reason: error.to_string() })?;
        Ok(use_leaf(&leaf))
    }

    fn names(&self) -> Result<Vec<String>, TlsError> {
        self.with_leaf(|leaf| {
            let names = leaf.subject_alternative_name().ok().flatten();
            let names = names.iter().flat_map(|extension| &extension.value.general_names);
            names
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
                    _ => None,
                })
                .collect()
        })
    }

    fn expiry(&self) -> Result<Expiry, TlsError> {
        let file = self.files.certificate.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = self.names()?.into_iter().next().unwrap_or(file);
        let unix_s = self.with_leaf(|leaf| leaf.validity().not_after.timestamp())?;
        Ok(Expiry { name, unix_s })
    }
}

/// Chooses by SNI.
#[derive(Debug)]
pub(super) struct Certificates {
    default: Arc<CertifiedKey>,
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl Certificates {
    pub(super) fn new(material: &Material, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let mut keys = Vec::with_capacity(material.pairs.len());
        let (mut exact, mut wildcard) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for (index, pair) in material.pairs.iter().enumerate() {
            let key = Arc::new(pair.certified(provider)?);
            let names = pair.names()?;
            if index > 0 && names.is_empty() {
                return Err(TlsError::NoNames { path: pair.files.certificate.clone() });
            }
            for name in names {
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.to_owned()).or_default().push(Arc::clone(&key)),
                    // An asterisk anywhere else matches nothing (RFC 6125 §6.4.3).
                    None => exact.entry(name).or_default().push(Arc::clone(&key)),
                }
            }
            keys.push(key);
        }
        let default = keys.into_iter().next().ok_or_else(|| TlsError::NoCertificate { path: PathBuf::new() })?;
        Ok(Self { default, exact, wildcard })
    }

    /// Candidates for a host, best first; the default stands in where there is none.
    fn find(&self, host: Option<&str>) -> &[Arc<CertifiedKey>] {
        let default = std::slice::from_ref(&self.default);
        let Some(host) = host else { return default };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let parent = || host.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(&host).or_else(parent).map_or(default, Vec::as_slice)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = self.find(hello.server_name());
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        found.iter().find(usable).or(found.first()).cloned()
    }
}

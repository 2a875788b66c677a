//! Certificates made for one test, with whatever fault it wants.

#![allow(dead_code, reason = "each test binary and example uses its part")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use bildkante_shared::testing::write_secret;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SignatureAlgorithm,
};

/// When everything in these tests is signed.
pub(crate) fn now_unix_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A root, an intermediate authority under it, and where their files are.
pub(crate) struct Pki {
    dir: PathBuf,
    pub(crate) root_pem: String,
    intermediate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Files of a signer.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pki {
    pub(crate) fn new(dir: &Path) -> Self {
        let (root, root_key) = (authority("Test root"), KeyPair::generate().expect("a key"));
        let root_pem = root.self_signed(&root_key).expect("a root").pem();
        let root = Issuer::new(root, root_key);
        let (intermediate, key) = (authority("Test authority"), KeyPair::generate().expect("a key"));
        let intermediate_pem = intermediate.signed_by(&key, &root).expect("an authority").pem();
        Self { dir: dir.to_owned(), root_pem, intermediate_pem, issuer: Issuer::new(intermediate, key) }
    }

    /// A signer as it should be.
    pub(crate) fn signer(&self, name: &str, algorithm: &'static SignatureAlgorithm) -> Identity {
        self.identity(name, algorithm, |_| {})
    }

    /// A signer that `change` made different.
    pub(crate) fn identity(
        &self,
        name: &str,
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut params = end_entity(name);
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).expect("a key");
        self.written(name, &params.signed_by(&key, &self.issuer).expect("a certificate"), &key.serialize_pem())
    }

    /// A signer whose key others made.
    pub(crate) fn signer_of_key(&self, name: &str, key_pem: &str) -> Identity {
        let key = KeyPair::from_pem(key_pem).expect("a key");
        let certificate = end_entity(name).signed_by(&key, &self.issuer).expect("a certificate");
        self.written(name, &certificate, key_pem)
    }

    fn written(&self, name: &str, certificate: &Certificate, key_pem: &str) -> Identity {
        let identity = Identity { chain: self.file(name, "pem"), key: self.file(name, "key") };
        let chain = format!("{}{}", certificate.pem(), self.intermediate_pem);
        std::fs::write(&identity.chain, chain).expect("written");
        write_secret(&identity.key, key_pem).expect("written");
        identity
    }

    /// The authority's own certificate, for programs that answer in its name.
    pub(crate) fn authority(&self) -> PathBuf {
        let file = self.file("authority", "pem");
        std::fs::write(&file, &self.intermediate_pem).expect("written");
        file
    }

    pub(crate) fn file(&self, name: &str, extension: &str) -> PathBuf {
        self.dir.join(format!("{name}.{extension}"))
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = subject(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = true;
    params
}

/// As C2PA wants a signer's certificate.
fn end_entity(name: &str) -> CertificateParams {
    let mut params = subject(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
    params.use_authority_key_identifier_extension = true;
    params
}

/// An hour ago until a day from now.
fn subject(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "Test studio");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now_unix_s() - 3600);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now_unix_s() + 86_400);
    params
}

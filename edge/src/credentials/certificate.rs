//! The certificate chain that signs, checked against what validators will ask of it.
//!
//! Invariant: a [`Chain`] was valid when it was read. Every fault that a validator would report of each picture later is
//! found here, once, and in words.
//!
//! Source: C2PA Technical Specification 2.3, §14.5.1 (certificate profiles), RFC 5280.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::extensions::{ExtendedKeyUsage, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Version;

use super::key::Algorithm;

/// Most certificates in a chain. Each of them travels in every picture.
pub const CHAIN_CERTIFICATES_MAX: usize = 5;

/// Purposes that a signer's certificate may have beside `emailProtection`: the standard's own, documentSigning
/// (RFC 9336), and the one that Microsoft's authority writes.
const PURPOSES: [&str; 3] = ["1.3.6.1.4.1.62558.2.1", "1.3.6.1.5.5.7.3.36", "1.3.6.1.4.1.311.76.59.1.9"];
const OID_P256: &str = "1.2.840.10045.3.1.7";
const OID_EC: &str = "1.2.840.10045.2.1";
const OID_ED25519: &str = "1.3.101.112";

/// What keeps a chain from signing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    #[error("it holds no PEM certificate")]
    Empty,
    #[error("it holds {count} certificates, at most {CHAIN_CERTIFICATES_MAX} are embedded")]
    TooMany { count: usize },
    #[error("certificate {number} of it is damaged")]
    Damaged { number: usize },
    #[error("its certificates are out of order: number {number} did not issue the one before it")]
    Order { number: usize },
    #[error("the certificate expired at {at}")]
    Expired { at: String },
    #[error("the certificate is not valid before {at}")]
    NotYetValid { at: String },
    #[error("the certificate is an authority's own (CA); pictures are signed with one that it issued")]
    Authority,
    #[error("the certificate is not of X.509 version 3")]
    Version,
    #[error("its key usage lacks digitalSignature")]
    KeyUsage,
    #[error("its extended key usage lacks emailProtection, documentSigning and C2PA's purpose, of which it needs one")]
    Purpose,
    #[error("it does not say which key issued it (authority key identifier)")]
    NoAuthorityKey,
    #[error("its subject names no organisation (O), which validators show as the signer")]
    NoOrganisation,
    #[error("its key is neither ECDSA on P-256 nor Ed25519")]
    Algorithm,
}

impl CertificateFault {
    /// For logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooMany { .. } => "too_many",
            Self::Damaged { .. } => "damaged",
            Self::Order { .. } => "order",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Authority => "authority",
            Self::Version => "version",
            Self::KeyUsage => "key_usage",
            Self::Purpose => "purpose",
            Self::NoAuthorityKey => "no_authority_key",
            Self::NoOrganisation => "no_organisation",
            Self::Algorithm => "algorithm",
        }
    }
}

/// A chain that may sign, the signer's certificate first.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    ders: Vec<Vec<u8>>,
    pub(super) organisation: String,
    pub(super) subject: String,
    pub(super) algorithm: Algorithm,
    pub(super) public_key: Vec<u8>,
    /// The signer's serial number, as its DER holds it.
    pub(super) serial: Vec<u8>,
    /// First and last second in which every certificate of the chain is valid, since 1970.
    not_before_unix_s: i64,
    pub(super) not_after_unix_s: i64,
}

impl Chain {
    /// # Errors
    /// When a validator would reject the chain at `now_unix_s` for another reason than not knowing its authority.
    pub(super) fn from_pem(pem: &[u8], now_unix_s: u64) -> Result<Self, CertificateFault> {
        Self::from_ders(ders(pem)?, now_unix_s)
    }

    /// # Errors
    /// As [`Self::from_pem`].
    pub(super) fn from_ders(ders: Vec<Vec<u8>>, now_unix_s: u64) -> Result<Self, CertificateFault> {
        let mut parsed = Vec::with_capacity(ders.len());
        for (index, der) in ders.iter().enumerate() {
            let damaged = CertificateFault::Damaged { number: index + 1 };
            let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| damaged.clone())?;
            parsed.push(if rest.is_empty() { certificate } else { return Err(damaged) });
        }
        check_order(&parsed)?;
        let leaf = parsed.first().ok_or(CertificateFault::Empty)?;
        check_profile(leaf)?;
        let chain = Self {
            organisation: organisation(leaf).ok_or(CertificateFault::NoOrganisation)?,
            subject: leaf.subject().to_string(),
            algorithm: algorithm(leaf).ok_or(CertificateFault::Algorithm)?,
            public_key: leaf.public_key().subject_public_key.data.to_vec(),
            serial: leaf.raw_serial().to_vec(),
            not_before_unix_s: parsed.iter().map(|of| of.validity().not_before.timestamp()).max().unwrap_or(0),
            not_after_unix_s: parsed.iter().map(|of| of.validity().not_after.timestamp()).min().unwrap_or(0),
            ders,
        };
        chain.check_time(now_unix_s)?;
        Ok(chain)
    }

    /// # Errors
    /// When a certificate of the chain is not valid at `now_unix_s`.
    pub(super) fn check_time(&self, now_unix_s: u64) -> Result<(), CertificateFault> {
        let now = i64::try_from(now_unix_s).unwrap_or(i64::MAX);
        if now > self.not_after_unix_s {
            return Err(CertificateFault::Expired { at: utc(self.not_after_unix_s) });
        }
        if now < self.not_before_unix_s {
            return Err(CertificateFault::NotYetValid { at: utc(self.not_before_unix_s) });
        }
        Ok(())
    }

    /// DER of each certificate, the signer's first.
    pub(super) fn ders(&self) -> &[Vec<u8>] {
        &self.ders
    }
}

fn ders(pem: &[u8]) -> Result<Vec<Vec<u8>>, CertificateFault> {
    let mut ders = Vec::new();
    for (index, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let certificate = certificate.map_err(|_| CertificateFault::Damaged { number: index + 1 })?;
        ders.push(certificate.as_ref().to_vec());
    }
    match ders.len() {
        0 => Err(CertificateFault::Empty),
        count if count > CHAIN_CERTIFICATES_MAX => Err(CertificateFault::TooMany { count }),
        _ => Ok(ders),
    }
}

/// A certificate is followed by the one that issued it.
fn check_order(chain: &[X509Certificate<'_>]) -> Result<(), CertificateFault> {
    for (index, pair) in chain.windows(2).enumerate() {
        if pair[0].issuer() != pair[1].subject() {
            return Err(CertificateFault::Order { number: index + 2 });
        }
    }
    Ok(())
}

fn check_profile(leaf: &X509Certificate<'_>) -> Result<(), CertificateFault> {
    let may_sign = |fault| leaf.key_usage().map_err(|_| fault);
    if leaf.version() != X509Version::V3 {
        return Err(CertificateFault::Version);
    }
    if leaf.is_ca() {
        return Err(CertificateFault::Authority);
    }
    if !may_sign(CertificateFault::KeyUsage)?.is_some_and(|usage| usage.value.digital_signature()) {
        return Err(CertificateFault::KeyUsage);
    }
    let purposes = leaf.extended_key_usage().map_err(|_| CertificateFault::Purpose)?;
    if !purposes.is_some_and(|usage| is_signer(usage.value)) {
        return Err(CertificateFault::Purpose);
    }
    let names_issuer = |parsed: &ParsedExtension<'_>| matches!(parsed, ParsedExtension::AuthorityKeyIdentifier(_));
    if !leaf.extensions().iter().any(|extension| names_issuer(extension.parsed_extension())) {
        return Err(CertificateFault::NoAuthorityKey);
    }
    Ok(())
}

/// `anyExtendedKeyUsage`, and the purposes of other services' certificates, are refused by validators.
fn is_signer(usage: &ExtendedKeyUsage<'_>) -> bool {
    let is_purpose = |oid: &str| PURPOSES.contains(&oid);
    let signs = usage.email_protection || usage.other.iter().any(|oid| is_purpose(&oid.to_id_string()));
    signs && !usage.any && !usage.ocsp_signing && !usage.time_stamping
}

fn organisation(leaf: &X509Certificate<'_>) -> Option<String> {
    let name = leaf.subject().iter_organization().last()?.as_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

fn algorithm(leaf: &X509Certificate<'_>) -> Option<Algorithm> {
    let key = &leaf.public_key().algorithm;
    match key.algorithm.to_id_string().as_str() {
        OID_ED25519 => Some(Algorithm::Ed25519),
        OID_EC => {
            let curve = key.parameters.as_ref()?.as_oid().ok()?;
            (curve.to_id_string() == OID_P256).then_some(Algorithm::Es256)
        }
        _ => None,
    }
}

/// A second since 1970 as certificates write it.
fn utc(unix_s: i64) -> String {
    x509_parser::time::ASN1Time::from_timestamp(unix_s).map_or_else(|_| unix_s.to_string(), |time| time.to_string())
}

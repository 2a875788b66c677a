//! An authority for development: certificates that satisfy C2PA's profile and that no validator knows.
//!
//! The root's private key is never written: no other certificate can be issued under it, so a validator that trusts the
//! root trusts this one signer. Both certificates end on the same day; `init` into another folder replaces them.
//!
//! Source: C2PA Technical Specification 2.3, §14.5.1 (certificate profiles).

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// How long its certificates are valid.
pub const VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// Clocks of validators may be that far behind.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);
/// Shown by validators as the signer.
pub const ORGANISATION: &str = "Bildkante development, not a listed signer";
/// `c2pa-kp-claimSigning`.
const CLAIM_SIGNING: [u64; 9] = [1, 3, 6, 1, 4, 1, 62558, 2, 1];

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("{} exists: an authority is never overwritten", path.display())]
    Exists { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    #[error("the certificates cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// The files of an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityFiles {
    /// The root, for validators that are to trust it.
    pub root: PathBuf,
    /// The signer's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl AuthorityFiles {
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        Self { root: dir.join("root.pem"), certificate: dir.join("signer.pem"), key: dir.join("signer.key") }
    }
}

/// Makes a root and a signer in `dir`, which is made where it is missing. Only the owner may read the files.
///
/// # Errors
/// When one of the files exists, or one cannot be written.
pub fn init(dir: &Path, now_unix_s: u64) -> Result<AuthorityFiles, AuthorityError> {
    let files = AuthorityFiles::of(dir);
    for path in [&files.root, &files.certificate, &files.key] {
        if path.symlink_metadata().is_ok() {
            return Err(AuthorityError::Exists { path: path.clone() });
        }
    }
    let (root_key, signer_key) = (KeyPair::generate()?, KeyPair::generate()?);
    let root = root_params(now_unix_s);
    let root_pem = root.self_signed(&root_key)?.pem();
    let signer = signer_params(now_unix_s).signed_by(&signer_key, &Issuer::new(root, root_key))?;

    let unwritable = |source| AuthorityError::Unwritable { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unwritable)?;
    write_new(&files.key, &signer_key.serialize_pem())?;
    write_new(&files.certificate, &signer.pem())?;
    write_new(&files.root, &root_pem)?;
    Ok(files)
}

fn write_new(path: &Path, text: &str) -> Result<(), AuthorityError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| AuthorityError::Unwritable { path: path.to_owned(), source })
}

fn params(common_name: &str, now_unix_s: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, ORGANISATION);
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now_unix_s);
    params.not_before = now - CLOCK_SLACK;
    params.not_after = now + VALIDITY;
    params
}

fn root_params(now_unix_s: u64) -> CertificateParams {
    let mut params = params("Bildkante development root", now_unix_s);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn signer_params(now_unix_s: u64) -> CertificateParams {
    let mut params = params("Bildkante development signer", now_unix_s);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::EmailProtection, ExtendedKeyUsagePurpose::Other(CLAIM_SIGNING.to_vec())];
    params.use_authority_key_identifier_extension = true;
    params
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::credentials::{Algorithm, Signer};

    const NOW_UNIX_S: u64 = 1_795_000_000;

    #[test]
    fn its_signer_signs_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path().join("new");
        let files = init(&dir, NOW_UNIX_S).expect("made");
        for path in [&files.root, &files.certificate, &files.key] {
            assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        }
        let signer = Signer::from_files(&files.certificate, &files.key, NOW_UNIX_S).expect("of the profile");
        assert_eq!((signer.organisation(), signer.algorithm()), (ORGANISATION, Algorithm::Es256));
        assert_eq!(signer.expires_unix_s(), NOW_UNIX_S + VALIDITY.as_secs());
        signer.try_out(NOW_UNIX_S).expect("a signature");

        std::fs::remove_file(&files.key).expect("gone");
        let error = init(&dir, NOW_UNIX_S).expect_err("the root is there").to_string();
        assert!(error.contains("root.pem exists"), "{error}");
        assert!(!files.key.exists(), "nothing is written where a file is in the way");
    }
}

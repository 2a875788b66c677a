//! What others say of a signature: when it was made, and whether its certificate was revoked.

use std::path::Path;

use bildkante_edge::credentials::{FailureKind, Signing, Standing, TimestampError, Timestamper, verify};
use bildkante_edge::words::Format;
use rcgen::{ExtendedKeyUsagePurpose, PKCS_ECDSA_P256_SHA256};

use crate::now_unix_s;
use crate::pki::Identity;
use crate::{Studio, credentials, has_openssl, kinds, opened, openssl, rendition, signing, story};

/// OpenSSL as a timestamp authority.
struct TestAuthority<'a> {
    dir: &'a Path,
    identity: Identity,
    token_bytes_max: usize,
}

impl<'a> TestAuthority<'a> {
    fn new(studio: &'a Studio) -> Self {
        let identity = studio.pki.identity("tsa", &PKCS_ECDSA_P256_SHA256, |params| {
            params.extended_key_usages = vec![];
            // RFC 3161 §2.3: critical, and nothing beside it. rcgen writes purposes as not critical.
            params.custom_extensions.push(critical_time_stamping());
        });
        let serial = studio.dir.path().join("tsa.serial");
        std::fs::write(&serial, "01\n").expect("written");
        let config = format!(
            "[tsa]\ndefault_tsa = t\n[t]\ndigests = sha256\ndefault_policy = 1.2.3.4\nsigner_digest = sha256\n\
             ess_cert_id_alg = sha256\ntsa_name = no\nserial = {}\n",
            serial.display()
        );
        std::fs::write(studio.dir.path().join("tsa.cnf"), config).expect("written");
        Self { dir: studio.dir.path(), identity, token_bytes_max: 8 * 1024 }
    }
}

fn critical_time_stamping() -> rcgen::CustomExtension {
    // SEQUENCE { id-kp-timeStamping }
    let der = vec![0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x08];
    let mut extension = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 37], der);
    extension.set_criticality(true);
    extension
}

impl Timestamper for TestAuthority<'_> {
    fn token_bytes_max(&self) -> usize {
        self.token_bytes_max
    }

    fn ask(&self, request: &[u8]) -> Result<Vec<u8>, TimestampError> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        std::fs::write(path("request.tsq"), request).expect("written");
        let (chain, key) = (self.identity.chain.display().to_string(), self.identity.key.display().to_string());
        let files = ["-config", &path("tsa.cnf"), "-queryfile", &path("request.tsq"), "-out", &path("reply.tsr")];
        let who = ["-signer", &chain, "-inkey", &key, "-chain", &chain];
        openssl(&[&["ts", "-reply"][..], &files, &who].concat());
        Ok(std::fs::read(path("reply.tsr")).expect("a reply"))
    }
}

#[test]
fn a_timestamp_dates_the_signature() {
    if !has_openssl("a_timestamp_dates_the_signature") {
        return;
    }
    let studio = Studio::new();
    let signer = studio.opened();
    let timestamper = TestAuthority::new(&studio);
    let dated = Signing { timestamper: Some(&timestamper), ..signing(&signer) };
    for format in Format::ALL {
        let signed = dated.embed(&story(), format, &rendition(format)).expect("signed and dated");
        let told = credentials(verify(format, &signed.file, None, &studio.trust));
        let at = told.signed_at.expect("a time");
        assert!(at.starts_with("20") && at.contains('T'), "{at}");
        assert_eq!(told.standing, Standing::Trusted, "{format}");
    }
}

/// What the authority's responder says of a signer, by OpenSSL: `V` is valid, `R` revoked.
fn ocsp_status(studio: &Studio, signer: &Identity, status: char) -> Vec<u8> {
    let responder = studio.pki.identity("responder", &PKCS_ECDSA_P256_SHA256, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
    });
    let path = |name: &str| studio.dir.path().join(name).display().to_string();
    let (chain, authority) = (signer.chain.display().to_string(), studio.pki.authority().display().to_string());
    openssl(&["x509", "-in", &chain, "-noout", "-serial", "-out", &path("serial")]);
    let serial = std::fs::read_to_string(path("serial")).expect("written");
    let serial = serial.trim().trim_start_matches("serial=").to_owned();
    let revoked = if status == 'R' { "250101000000Z" } else { "" };
    std::fs::write(path("index.txt"), format!("{status}\t490101000000Z\t{revoked}\t{serial}\tunknown\t/CN=x\n"))
        .expect("written");
    let (certificate, key) = (responder.chain.display().to_string(), responder.key.display().to_string());
    let who = ["-rsigner", &certificate, "-rkey", &key, "-CA", &authority, "-rother", &authority, "-ndays", "1"];
    let what = ["-index", &path("index.txt"), "-issuer", &authority, "-cert", &chain, "-respout", &path("status.der")];
    openssl(&[&["ocsp"][..], &who, &what].concat());
    std::fs::read(path("status.der")).expect("a status")
}

#[test]
fn a_revoked_certificate_is_told_by_the_status_in_the_manifest() {
    if !has_openssl("a_revoked_certificate_is_told_by_the_status_in_the_manifest") {
        return;
    }
    let studio = Studio::new();
    let identity = studio.pki.signer("signer", &PKCS_ECDSA_P256_SHA256);
    let signer = opened(&identity).expect("a signer");
    let (valid, revoked) = (ocsp_status(&studio, &identity, 'V'), ocsp_status(&studio, &identity, 'R'));
    for format in Format::ALL {
        let with = |status: &[u8]| {
            let stapled = Signing { ocsp: Some(status), ..signing(&signer) };
            let signed = stapled.embed(&story(), format, &rendition(format)).expect("signed").file;
            verify(format, &signed, None, &studio.trust)
        };
        assert_eq!(credentials(with(&valid)).standing, Standing::Trusted, "{format}");
        assert_eq!(kinds(&with(&revoked)), [FailureKind::Revoked], "{format}");
    }
    let too_large = Signing { ocsp: Some(&[0; 9000]), ..signing(&signer) };
    let refused = too_large.embed(&story(), Format::Png, &rendition(Format::Png)).expect_err("too large");
    assert_eq!(refused.as_str(), "too_large");
}

#[test]
fn a_signer_is_stopped_by_its_authority_and_no_other_response_is_taken_for_it() {
    const TEST: &str = "a_signer_is_stopped_by_its_authority_and_no_other_response_is_taken_for_it";
    if !has_openssl(TEST) {
        return;
    }
    let studio = Studio::new();
    let identity = studio.pki.signer("signer", &PKCS_ECDSA_P256_SHA256);
    let file = studio.dir.path().join("status");
    let with = |status: &[u8]| {
        std::fs::write(&file, status).expect("written");
        opened(&identity).expect("a signer").with_status(&file)
    };
    let valid = ocsp_status(&studio, &identity, 'V');
    let signer = with(&valid).expect("good");
    assert_eq!(signer.status(now_unix_s()), Some(&valid[..]));
    assert_eq!(signer.status(now_unix_s() + 2 * 86_400), None, "a newer one is out by then");
    let refused = |status: &[u8]| with(status).expect_err("refused").as_str();
    assert_eq!(refused(&ocsp_status(&studio, &identity, 'R')), "revoked");
    let other = studio.pki.signer("other", &PKCS_ECDSA_P256_SHA256);
    assert_eq!(refused(&ocsp_status(&studio, &other, 'V')), "ocsp_other_certificate");
    assert_eq!(refused(b"no response"), "ocsp_malformed");
    assert_eq!(refused(&[0x30; 9000]), "ocsp_malformed");
    // An error of the authority: `tryLater` (RFC 6960 §4.2.1).
    assert_eq!(refused(&[0x30, 0x03, 0x0a, 0x01, 0x03]), "ocsp_no_answer");
}

/// Answers every request with the same words.
struct Canned(Result<Vec<u8>, TimestampError>);

impl Timestamper for Canned {
    fn token_bytes_max(&self) -> usize {
        4096
    }

    fn ask(&self, _: &[u8]) -> Result<Vec<u8>, TimestampError> {
        self.0.clone()
    }
}

#[test]
fn no_timestamp_means_no_signature_and_says_why() {
    let studio = Studio::new();
    let signer = studio.opened();
    let away = TimestampError::Away { reason: "connection refused".to_owned() };
    let cases = [
        (Canned(Err(away)), "away"),
        (Canned(Ok(b"<html>gateway timeout</html>".to_vec())), "invalid"),
        (Canned(Ok(vec![0; 5000])), "too_large"),
    ];
    for (canned, label) in &cases {
        let dated = Signing { timestamper: Some(canned), ..signing(&signer) };
        let refused = dated.embed(&story(), Format::Jpeg, &rendition(Format::Jpeg)).expect_err("no timestamp");
        assert_eq!(refused.as_str(), *label, "{refused}");
    }
}

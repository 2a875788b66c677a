//! Which signers are refused, and what keys and programs sign.

use std::time::Duration;

use bildkante_edge::credentials::{
    CommandFault, FailureKind, Finding, SignError, Signer, SignerError, Signing, Standing, Trust, verify,
};
use bildkante_edge::words::Format;
use bildkante_shared::testing::write_secret;
use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};

use crate::pki::{Identity, now_unix_s};
use crate::{Studio, credentials, generation, has_openssl, kinds, opened, openssl, rendition, signed, signing, story};

fn refusal(identity: &Identity) -> String {
    opened(identity).expect_err("refused").to_string()
}

#[test]
fn certificates_that_validators_would_refuse_are_refused_by_name() {
    let Studio { pki, dir, .. } = Studio::new();
    let es256 = &PKCS_ECDSA_P256_SHA256;
    let at = |unix_s: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_s);
    let faults = [
        (pki.identity("expired", es256, |params| params.not_after = at(now_unix_s() - 60)), "expired at"),
        (pki.identity("early", es256, |params| params.not_before = at(now_unix_s() + 3600)), "not valid before"),
        (pki.identity("ca", es256, |params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0))), "(CA)"),
        (
            pki.identity("usage", es256, |params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
            "digitalSignature",
        ),
        (
            pki.identity("server", es256, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
            }),
            "extended key usage",
        ),
        (
            pki.identity("any", es256, |params| params.extended_key_usages.push(ExtendedKeyUsagePurpose::Any)),
            "extended key usage",
        ),
        (pki.identity("purpose", es256, |params| params.extended_key_usages.clear()), "extended key usage"),
        (
            pki.identity("issuer", es256, |params| params.use_authority_key_identifier_extension = false),
            "authority key",
        ),
        (
            pki.identity("nobody", es256, |params| {
                assert!(params.distinguished_name.remove(rcgen::DnType::OrganizationName));
            }),
            "organisation",
        ),
        (pki.signer("p384", &PKCS_ECDSA_P384_SHA384), "neither ECDSA on P-256 nor Ed25519"),
    ];
    for (identity, words) in &faults {
        let said = refusal(identity);
        let named = identity.chain.display().to_string();
        assert!(said.contains(words) && said.contains(&named), "{words}: {said}");
    }

    let good = pki.signer("good", es256);
    let other = pki.signer("other", es256);
    let mixed = Identity { chain: good.chain.clone(), key: other.key.clone() };
    let said = refusal(&mixed);
    assert!(said.contains("good.pem") && said.contains("other.key") && said.contains("does not belong"), "{said}");

    let missing = Identity { chain: dir.path().join("nowhere.pem"), key: good.key.clone() };
    assert!(refusal(&missing).contains("nowhere.pem"));
    let empty = pki.file("empty", "pem");
    std::fs::write(&empty, "no certificate").expect("written");
    assert!(refusal(&Identity { chain: empty, key: good.key.clone() }).contains("no PEM certificate"));
    let keyless = pki.file("keyless", "key");
    write_secret(&keyless, "no key").expect("written");
    assert!(refusal(&Identity { chain: good.chain.clone(), key: keyless }).contains("no PEM private key"));
    let open = pki.file("open", "key");
    std::fs::copy(&good.key, &open).expect("copied");
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&open, everybody).expect("chmod");
    assert!(refusal(&Identity { chain: good.chain, key: open }).contains("chmod"));
}

#[test]
fn a_signer_that_expired_since_it_was_opened_signs_nothing() {
    let studio = Studio::new();
    let signer = studio.opened();
    let later = Signing { now_unix_s: signer.expires_unix_s() + 1, ..signing(&signer) };
    let refused = later.embed(&story(), Format::Png, &rendition(Format::Png)).expect_err("expired");
    assert_eq!(refused.as_str(), "expired");
    assert!(refused.to_string().contains("signer.pem"), "{refused}");
}

const EXPIRED: &str = "tests/fixtures/credentials/expired.jpg";

/// Run once, more than a minute before the next test: `cargo test --test credentials -- --ignored`.
#[test]
#[ignore = "writes the fixture of the next test"]
fn an_expired_fixture_is_made() {
    let studio = Studio::new();
    let soon = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now_unix_s() + 60);
    let identity = studio.pki.identity("signer", &PKCS_ECDSA_P256_SHA256, |params| params.not_after = soon);
    let signer = opened(&identity).expect("a signer");
    let file = signed(&signer, &story(), Format::Jpeg, &rendition(Format::Jpeg)).file;
    std::fs::create_dir_all("tests/fixtures/credentials").expect("a folder");
    std::fs::write(EXPIRED, file).expect("written");
}

#[test]
fn a_signer_that_expired_since_it_signed_is_reported() {
    let file = std::fs::read(EXPIRED).expect("the fixture");
    let finding = verify(Format::Jpeg, &file, None, &Trust::none());
    assert!(kinds(&finding).iter().all(|kind| *kind == FailureKind::Expired), "{finding:?}");
    let Finding::Invalid { credentials: Some(told), .. } = finding else { panic!("it still tells") };
    assert_eq!(told.generation, Some(generation()));
}

#[test]
fn openssl_signs_as_a_program_and_its_keys_are_read() {
    const TEST: &str = "openssl_signs_as_a_program_and_its_keys_are_read";
    if !has_openssl(TEST) {
        return;
    }
    let studio = Studio::new();
    let identity = studio.pki.signer("signer", &PKCS_ECDSA_P256_SHA256);
    // DER from its `dgst`, as hardware modules' tools write it, too.
    let argv = ["openssl", "dgst", "-sha256", "-sign"].map(str::to_owned);
    let argv = [&argv[..], &[identity.key.display().to_string()]].concat();
    let signer = Signer::from_command(&identity.chain, &argv, Duration::from_secs(60), now_unix_s()).expect("a signer");
    signer.try_out(now_unix_s()).expect("it signs");
    let signed = signed(&signer, &story(), Format::Webp, &rendition(Format::Webp));
    let told = credentials(verify(Format::Webp, &signed.file, None, &studio.trust));
    assert_eq!(told.standing, Standing::Trusted);

    let sec1 = studio.pki.file("sec1", "key");
    openssl(&["ec", "-in", &identity.key.display().to_string(), "-out", &sec1.display().to_string()]);
    write_secret(&sec1, std::fs::read(&sec1).expect("written")).expect("closed to others");
    assert!(std::fs::read_to_string(&sec1).expect("text").contains("EC PRIVATE KEY"));
    opened(&Identity { chain: identity.chain, key: sec1 }).expect("SEC 1 is read");

    let made = studio.pki.file("made", "pem");
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", &made.display().to_string()]);
    let made = std::fs::read_to_string(&made).expect("written");
    opened(&studio.pki.signer_of_key("bare", &made)).expect("Ed25519 without its public half");
}

#[test]
fn a_program_that_signs_with_another_key_or_not_at_all_is_named() {
    let studio = Studio::new();
    let identity = studio.pki.signer("signer", &PKCS_ECDSA_P256_SHA256);
    let by = |script: &str, deadline: Duration| {
        let argv = ["sh", "-c", script].map(str::to_owned);
        let signer = Signer::from_command(&identity.chain, &argv, deadline, now_unix_s()).expect("a chain");
        match signing(&signer).embed(&story(), Format::Png, &rendition(Format::Png)).expect_err("no signature") {
            SignError::Signer(SignerError::Command { program, fault }) if program == "sh" => fault,
            other => panic!("{other:?}"),
        }
    };
    let long = Duration::from_secs(60);
    assert_eq!(by("head -c 64 /dev/zero", long), CommandFault::Wrong { bytes: 64 });
    assert_eq!(by("true", long), CommandFault::Wrong { bytes: 0 });
    assert_eq!(by("yes", long), CommandFault::Flooded);
    assert_eq!(by("sleep 1000", Duration::from_millis(200)), CommandFault::Hung { deadline_ms: 200 });
    assert!(
        matches!(by("echo locked >&2; exit 1", long), CommandFault::Failed { complaint, .. } if complaint == "locked")
    );
}

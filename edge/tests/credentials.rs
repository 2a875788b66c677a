//! Content Credentials as a stranger meets them: real renditions signed, verified, changed, and judged by C2PA's own
//! Python library.

mod judges;
mod pictures;
mod pki;

use std::path::Path;
use std::time::Duration;

use bildkante_edge::credentials::{
    CommandFault, Credentials, FailureKind, Finding, GENERATION_LABEL, Generation, Ingredient, Manifest, Origin,
    Relation, SignError, Signed, Signer, SignerError, Signing, SoftBinding, Standing, Step, Story, StoryError,
    TimestampError, Timestamper, Trust, attach, authority, detached, verify,
};
use bildkante_edge::provenance::{DigitalSource, Marking, xmp_of};
use bildkante_edge::render::{Finish, Quality, RenditionSpec, Rung, Shape, render};
use bildkante_edge::words::Format;
use bildkante_shared::testing::write_secret;
use pki::{Identity, Pki, now_unix_s};
use proptest::prelude::*;
use rcgen::{
    ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
};

/// What C2PA costs a rendition at most, with a chain of two certificates and neither timestamp nor ingredients.
const EMBEDDED_BYTES_MAX: usize = 4096;

fn rendition(format: Format) -> Vec<u8> {
    let marking = Marking { creator: Some("Atelier Müller".into()), ..Marking::default() };
    let (width_px, height_px, quality) = (160, 120, Quality::new(70).expect("1 to 100"));
    let spec = RenditionSpec { width_px, height_px, shape: Shape::DEFAULT, format, quality };
    render(&pictures::studio(320, 240), &spec, Rung::Quick, &Finish::of_generated(marking)).expect("a rendition").bytes
}

fn generation() -> Generation {
    Generation {
        recipe: "r1-9x8q7v6t5s4r3p2n1m0k9j8h7g6f5e4d".to_owned(),
        master: "m1-0a1b2c3d4e5f6g7h8j9k0m1n2p3q4r5s".to_owned(),
        checkpoint: Some("studio-xl@blake3:6d1f0a7b".to_owned()),
        determinism: Some("cuda-sm90/libtorch-2.9/fp16/b1".to_owned()),
    }
}

fn story() -> Story {
    Story {
        origin: Origin::Created {
            source: DigitalSource::TrainedAlgorithmicMedia,
            at: Some("2026-11-28T10:00:00Z".to_owned()),
        },
        steps: vec![
            Step::Cropped,
            Step::Resized { width_px: 160, height_px: 120 },
            Step::Watermarked,
            Step::Transcoded,
        ],
        generation: Some(generation()),
        ingredients: Vec::new(),
        soft_binding: Some(SoftBinding {
            algorithm: "com.bildkante.wm1".to_owned(),
            value: "0123456789abcdef".to_owned(),
        }),
    }
}

/// A folder with certificates, the signer and who trusts it.
struct Studio {
    dir: tempfile::TempDir,
    pki: Pki,
    trust: Trust,
}

impl Studio {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let pki = Pki::new(dir.path());
        let trust = Trust::from_pem(&pki.root_pem).expect("a root");
        Self { dir, pki, trust }
    }

    fn opened(&self) -> Signer {
        opened(&self.pki.signer("signer", &PKCS_ECDSA_P256_SHA256)).expect("a signer")
    }
}

fn opened(identity: &Identity) -> Result<Signer, SignerError> {
    Signer::from_files(&identity.chain, &identity.key, now_unix_s())
}

fn signing(signer: &Signer) -> Signing<'_> {
    Signing { signer, timestamper: None, ocsp: None, now_unix_s: now_unix_s() }
}

fn signed(signer: &Signer, story: &Story, format: Format, file: &[u8]) -> Signed {
    signing(signer).embed(story, format, file).expect("signed")
}

fn credentials(finding: Finding) -> Credentials {
    match finding {
        Finding::Valid { credentials } => *credentials,
        other => panic!("not valid: {other:?}"),
    }
}

fn kinds(finding: &Finding) -> Vec<FailureKind> {
    match finding {
        Finding::Invalid { failures, .. } => failures.iter().map(|failure| failure.kind).collect(),
        other => panic!("not invalid: {other:?}"),
    }
}

#[test]
fn what_was_told_is_read_back_in_every_format_embedded_and_beside() {
    let studio = Studio::new();
    for (name, algorithm) in [("es256", &PKCS_ECDSA_P256_SHA256), ("ed25519", &PKCS_ED25519)] {
        let signer = opened(&studio.pki.signer(name, algorithm)).expect("a signer");
        for format in Format::ALL {
            let file = rendition(format);
            let Signed { file: embedded, manifest } = signed(&signer, &story(), format, &file);
            let told = credentials(verify(format, &embedded, None, &studio.trust));
            assert_eq!(told.standing, Standing::Trusted, "{format}");
            assert_eq!(told.generation, Some(generation()), "{format}");
            assert_eq!(told.soft_bindings, [("com.bildkante.wm1".to_owned(), "0123456789abcdef".to_owned())]);
            let actions: Vec<&str> = told.actions.iter().map(|told| told.action.as_str()).collect();
            let steps: Vec<&str> = story().steps.iter().map(|step| step.as_str()).collect();
            assert_eq!(actions, [&["c2pa.created"], &steps[..]].concat(), "{format}");
            assert_eq!(told.actions[0].source.as_deref(), Some(DigitalSource::TrainedAlgorithmicMedia.uri()));
            assert_eq!(told.actions[0].at.as_deref(), Some("2026-11-28T10:00:00Z"));
            let by = told.signed_by.expect("a signer");
            assert_eq!(by.organisation.as_deref(), Some("Test studio"));
            assert_eq!((by.common_name.as_deref(), told.signed_at), (Some(name), None));
            let unknown = credentials(verify(format, &embedded, None, &Trust::none()));
            assert_eq!(unknown.standing, Standing::Unknown, "{format}");

            let beside = signing(&signer).beside(&story(), format, &file).expect("signed");
            assert_eq!(verify(format, &file, None, &studio.trust), Finding::Absent, "{format}");
            let remote = credentials(verify(format, &file, Some(beside.as_bytes()), &studio.trust));
            assert_eq!((remote.standing, remote.generation), (Standing::Trusted, Some(generation())), "{format}");
            // Each binds its own bytes: one is not taken for the other.
            let wrong = verify(format, &file, Some(manifest.as_bytes()), &studio.trust);
            assert_eq!(wrong.as_str(), "invalid", "{format}: {wrong:?}");
        }
    }
}

#[test]
fn a_signed_file_shows_the_same_picture_and_keeps_its_metadata() {
    const TEST: &str = "a_signed_file_shows_the_same_picture_and_keeps_its_metadata";
    let studio = Studio::new();
    let signer = studio.opened();
    for format in Format::ALL {
        let file = rendition(format);
        let signed = signed(&signer, &story(), format, &file).file;
        assert_eq!(xmp_of(format, &signed), xmp_of(format, &file), "{format}");
        assert!(xmp_of(format, &signed).is_ok_and(|xmp| xmp.is_some()), "{format}");
        if format != Format::Avif || judges::has("avifdec", TEST) {
            assert!(judges::decoded(format, &signed).rgb == judges::decoded(format, &file).rgb, "{format}");
        }
    }
}

#[test]
fn a_kept_manifest_makes_the_same_file_again() {
    let studio = Studio::new();
    let signer = studio.opened();
    for format in Format::ALL {
        let file = rendition(format);
        let first = signed(&signer, &story(), format, &file);
        let second = signed(&signer, &story(), format, &file);
        assert_ne!(first.manifest, second.manifest, "{format}: signing salts itself");
        let kept = Manifest::from_bytes(first.manifest.as_bytes().to_vec()).expect("a store");
        for _ in 0..2 {
            assert!(attach(format, &file, &kept).expect("attached") == first.file, "{format}");
        }
        assert_eq!(detached(format, &first.file), Some(kept), "{format}");
        assert_eq!(detached(format, &file), None, "{format}");
        let again = signing(&signer).embed(&story(), format, &first.file);
        assert!(matches!(again, Err(SignError::AlreadySigned { .. })), "{format}: {again:?}");
    }
}

#[test]
fn a_manifest_with_two_certificates_is_small() {
    let studio = Studio::new();
    for (name, algorithm) in [("es256", &PKCS_ECDSA_P256_SHA256), ("ed25519", &PKCS_ED25519)] {
        let signer = opened(&studio.pki.signer(name, algorithm)).expect("a signer");
        for format in Format::ALL {
            let file = rendition(format);
            let Signed { file: embedded, manifest } = signed(&signer, &story(), format, &file);
            let added = embedded.len() - file.len();
            println!("{name} {format}: {added} bytes added, manifest {}", manifest.as_bytes().len());
            assert!(added <= EMBEDDED_BYTES_MAX, "{name} {format}: {added} bytes");
        }
    }
}

/// Positions of a signed file that the manifest does not cover, by the standard: the manifest's own box, chunk or segments,
/// and `ftyp` in AVIF (default exclusions of `c2pa.hash.bmff.v3`).
fn excluded(format: Format, unsigned: &[u8], signed: &[u8]) -> std::ops::Range<usize> {
    let added = signed.len() - unsigned.len();
    let at = |tag: &[u8]| signed.windows(tag.len()).position(|part| part == tag).expect("the manifest's place");
    match format {
        Format::Avif => 0..ftyp_bytes(signed) + added,
        Format::Webp => at(b"C2PA")..at(b"C2PA") + added,
        Format::Jpeg => at(b"\xff\xeb")..at(b"\xff\xeb") + added,
        Format::Png => at(b"caBX") - 4..at(b"caBX") - 4 + added,
    }
}

/// A position in the data of the picture, which the manifest covers. WebP has its manifest behind the picture.
fn covered(excluded: &std::ops::Range<usize>, signed: &[u8]) -> usize {
    if excluded.end == signed.len() { excluded.start - 40 } else { signed.len() - 40 }
}

fn ftyp_bytes(file: &[u8]) -> usize {
    u32::from_be_bytes(*file.first_chunk().expect("a box")) as usize
}

#[test]
fn a_changed_bit_is_reported_as_tampered() {
    let studio = Studio::new();
    let signer = studio.opened();
    for format in Format::ALL {
        let file = rendition(format);
        let signed = signed(&signer, &story(), format, &file).file;
        let excluded = excluded(format, &file, &signed);
        let beside = signing(&signer).beside(&story(), format, &file).expect("signed");
        // A prime stride, so that bits of all places in bytes and fields are met.
        for bit in (0..signed.len() * 8).step_by(signed.len() * 8 / 150 + 1) {
            if excluded.contains(&(bit / 8)) {
                continue;
            }
            let mut changed = signed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let finding = verify(format, &changed, None, &studio.trust);
            assert!(!matches!(finding, Finding::Valid { .. }), "{format}: bit {bit} of {}", signed.len());
        }
        let unbound = if format == Format::Avif { ftyp_bytes(&file) } else { 0 };
        for bit in (unbound * 8..file.len() * 8).step_by(file.len() * 8 / 150 + 1) {
            let mut changed = file.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let finding = verify(format, &changed, Some(beside.as_bytes()), &studio.trust);
            assert!(matches!(finding, Finding::Invalid { .. }), "{format}: bit {bit} of {}: {finding:?}", file.len());
        }
        // In the picture's data the reason is plain.
        let mut changed = signed.clone();
        changed[covered(&excluded, &signed)] ^= 1;
        assert_eq!(kinds(&verify(format, &changed, None, &studio.trust)), [FailureKind::Tampered], "{format}");
    }
}

#[test]
fn a_changed_manifest_is_reported() {
    let studio = Studio::new();
    let signer = studio.opened();
    let file = rendition(Format::Jpeg);
    let manifest = signing(&signer).beside(&story(), Format::Jpeg, &file).expect("signed");
    let needle = generation().master.into_bytes();
    let at = manifest.as_bytes().windows(needle.len()).position(|part| part == needle).expect("our assertion");
    let mut bytes = manifest.into_bytes();
    bytes[at] ^= 1;
    let finding = verify(Format::Jpeg, &file, Some(&bytes), &studio.trust);
    assert!(kinds(&finding).contains(&FailureKind::Tampered), "{finding:?}");
}

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

/// Needed beside `judges::has`: openssl's flag is a command.
fn has_openssl(test: &str) -> bool {
    let there = std::process::Command::new("openssl").arg("version").output().is_ok_and(|said| said.status.success());
    if !there {
        judges::missing("openssl", test);
    }
    there
}

fn openssl(arguments: &[&str]) {
    let said = std::process::Command::new("openssl").args(arguments).output().expect("it was there a moment ago");
    assert!(said.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
}

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

#[test]
fn ingredients_bring_what_they_carried() {
    let studio = Studio::new();
    let signer = studio.opened();
    let photograph = signed(&signer, &story(), Format::Jpeg, &rendition(Format::Jpeg)).file;
    let parent = Ingredient::read("Photograph", "image/jpeg", Relation::Parent, &photograph).expect("read");
    let layer = Ingredient::described("Logo", "image/png", Relation::Component);
    let input = Ingredient::described("Sketch", "image/png", Relation::Input);
    let opened = Story {
        origin: Origin::Opened { ingredient: 0 },
        steps: vec![Step::Placed { ingredient: 1 }, Step::Transcoded],
        ingredients: vec![parent, layer],
        ..story()
    };
    let drawn = Story { ingredients: vec![input], ..story() };
    let astray = Story { steps: vec![Step::Placed { ingredient: 1 }], ..drawn.clone() };
    let refused =
        signing(&signer).embed(&astray, Format::Png, &rendition(Format::Png)).expect_err("no such ingredient");
    assert!(matches!(refused, SignError::Story(StoryError::NoSuchIngredient { index: 1, count: 1 })), "{refused}");
    for format in Format::ALL {
        let file = rendition(format);
        let told = credentials(verify(format, &signed(&signer, &opened, format, &file).file, None, &studio.trust));
        assert_eq!(told.actions[0].action, "c2pa.opened", "{format}");
        let ingredients: Vec<_> = told.ingredients.iter().map(|one| (one.title.as_deref(), one.was_valid)).collect();
        assert_eq!(ingredients, [(Some("Photograph"), Some(true)), (Some("Logo"), None)], "{format}");
        let told = credentials(verify(format, &signed(&signer, &drawn, format, &file).file, None, &studio.trust));
        assert_eq!(told.ingredients[0].relation, "inputTo", "{format}");
    }
}

#[test]
fn the_development_authority_signs_and_is_unknown_until_it_is_trusted() {
    let dir = tempfile::tempdir().expect("a folder");
    let files = authority::init(&dir.path().join("authority"), now_unix_s()).expect("made");
    let signer = Signer::from_files(&files.certificate, &files.key, now_unix_s()).expect("a signer");
    let signed = signed(&signer, &story(), Format::Avif, &rendition(Format::Avif)).file;
    let told = credentials(verify(Format::Avif, &signed, None, &Trust::none()));
    assert_eq!(told.standing, Standing::Unknown);
    assert_eq!(told.signed_by.expect("a signer").organisation.as_deref(), Some(authority::ORGANISATION));
    let root = std::fs::read_to_string(&files.root).expect("its root");
    let told = credentials(verify(Format::Avif, &signed, None, &Trust::from_pem(&root).expect("a root")));
    assert_eq!(told.standing, Standing::Trusted);
}

#[test]
fn strangers_bytes_never_panic() {
    let studio = Studio::new();
    let signer = studio.opened();
    let files: Vec<(Format, Vec<u8>, Vec<u8>)> = Format::ALL
        .into_iter()
        .map(|format| {
            let Signed { file, manifest } = signed(&signer, &story(), format, &rendition(format));
            (format, file, manifest.into_bytes())
        })
        .collect();
    let config = ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() };
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12);
    proptest!(config, |(which in 0_usize..4, noise in proptest::collection::vec(any::<u8>(), 0..400), edits in edits,
                        cut in any::<prop::sample::Index>(), is_cut in any::<bool>())| {
        let (format, signed, manifest) = &files[which];
        let is_valid = |finding: Finding| matches!(finding, Finding::Valid { .. });
        prop_assert!(!is_valid(verify(*format, &noise, None, &studio.trust)));
        prop_assert!(!is_valid(verify(*format, &noise, Some(&noise), &studio.trust)));
        for original in [signed, manifest] {
            let mut changed = original.clone();
            for (at, byte) in &edits {
                changed[at.index(original.len())] = *byte;
            }
            changed.truncate(if is_cut { cut.index(original.len()) } else { original.len() });
            // Some changes are harmless: to padding, to what the standard excludes. A panic fails the test.
            let _ = verify(*format, &changed, Some(&changed), &studio.trust);
            prop_assert!(!is_valid(verify(*format, &noise, Some(&changed), &studio.trust)));
        }
    });
}

#[test]
fn nested_boxes_do_not_overflow_the_stack() {
    let mut nested = Vec::new();
    for depth in 0..20_000_u32 {
        nested.extend_from_slice(&((20_000 - depth) * 8).to_be_bytes());
        nested.extend_from_slice(b"jumb");
    }
    let file = rendition(Format::Png);
    assert!(matches!(verify(Format::Png, &file, Some(&nested), &Trust::none()), Finding::Invalid { .. }));
}

/// What C2PA's Python library says of a file.
fn judged(
    python: &Path,
    studio: &Studio,
    format: Format,
    file: &[u8],
    manifest: Option<&Manifest>,
) -> serde_json::Value {
    let path = |name: &str| studio.dir.path().join(name);
    let picture = path(&format!("judged.{}", format.extension()));
    std::fs::write(&picture, file).expect("written");
    std::fs::write(path("root.pem"), &studio.pki.root_pem).expect("written");
    let mut judge = std::process::Command::new(python);
    judge.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/setup/c2pa/judge.py"));
    judge.arg(format.media_type()).arg(&picture).arg(path("root.pem"));
    if let Some(manifest) = manifest {
        std::fs::write(path("judged.c2pa"), manifest.as_bytes()).expect("written");
        judge.arg(path("judged.c2pa"));
    }
    let said = judge.output().expect("the judge was there a moment ago");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).expect("JSON")
}

#[test]
fn c2pa_python_trusts_every_format_embedded_and_beside() {
    const TEST: &str = "c2pa_python_trusts_every_format_embedded_and_beside";
    let python = std::env::var_os("BILDKANTE_C2PA").map(std::path::PathBuf::from).filter(|path| path.is_file());
    let Some(python) = python else { return judges::missing("c2pa-python", TEST) };
    let studio = Studio::new();
    let signer = studio.opened();
    let layer = Ingredient::described("Logo", "image/png", Relation::Component);
    let story = Story { steps: vec![Step::Placed { ingredient: 0 }], ingredients: vec![layer], ..story() };
    for format in Format::ALL {
        let file = rendition(format);
        let Signed { file: embedded, .. } = signed(&signer, &story, format, &file);
        let beside = signing(&signer).beside(&story, format, &file).expect("signed");
        for (file, manifest) in [(&embedded, None), (&file, Some(&beside))] {
            let said = judged(&python, &studio, format, file, manifest);
            assert_eq!(said["state"], "Trusted", "{format}: {said}");
            assert_eq!(said["failures"], serde_json::json!([]), "{format}");
            assert_eq!(said["actions"], serde_json::json!(["c2pa.created", "c2pa.placed"]), "{format}");
            assert_eq!(said["generation"]["master"], generation().master, "{format}: {GENERATION_LABEL}");
            assert_eq!(said["ingredients"], serde_json::json!(["Logo"]), "{format}");
            let mut changed = file.clone();
            changed[file.len() / 2] ^= 1;
            let said = judged(&python, &studio, format, &changed, manifest);
            assert_eq!(said["state"], "Invalid", "{format}: {said}");
        }
    }
}

//! Content Credentials as a stranger meets them: real renditions signed, verified, changed, and judged by C2PA's own
//! Python library. This file has what the others share.

#[path = "../judges/mod.rs"]
mod judges;
#[path = "../pictures/mod.rs"]
mod pictures;
#[path = "../pki/mod.rs"]
mod pki;

mod attested;
mod judged;
mod round_trip;
mod signers;
mod tampering;

use std::sync::Arc;

use bildkante_edge::credentials::{
    Credentials, FailureKind, Finding, Generation, Origin, Signed, Signer, SignerError, Signing, SoftBinding, Step,
    Story, Trust,
};
use bildkante_edge::provenance::{DigitalSource, Marking};
use bildkante_edge::render::{Finish, Quality, RenderJob, RenditionSpec, Rung, Shape, render};
use bildkante_edge::words::Format;
use pki::{Identity, Pki, now_unix_s};
use rcgen::PKCS_ECDSA_P256_SHA256;

fn rendition(format: Format) -> Vec<u8> {
    let marking = Marking { creator: Some("Atelier Müller".into()), ..Marking::default() };
    let (width_px, height_px, quality) = (160, 120, Quality::new(70).expect("1 to 100"));
    let spec = RenditionSpec { width_px, height_px, shape: Shape::DEFAULT, format, quality };
    let (master, finish) = (pictures::studio(320, 240), Arc::new(Finish::of_generated(marking)));
    render(&master, &RenderJob::new(master.master_id(), spec, Rung::Quick, finish)).expect("a rendition").bytes
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

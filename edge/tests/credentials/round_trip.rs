//! What was signed is read back, in every format, embedded and beside; a kept manifest makes the same file again.

use bildkante_edge::credentials::{
    Finding, Ingredient, Manifest, Origin, Relation, SignError, Signed, Signer, Standing, Step, Story, StoryError,
    Trust, attach, authority, detached, verify,
};
use bildkante_edge::provenance::{Description, DigitalSource, Marking, Metadata, embed, xmp_of};
use bildkante_edge::render::{Quality, Raster, Rung, encode};
use bildkante_edge::words::Format;
use bildkante_shared::ids::Digest;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

use crate::pki::now_unix_s;
use crate::{Studio, credentials, generation, judges, opened, pictures, rendition, signed, signing, story};

/// What C2PA costs a rendition at most, with a chain of two certificates and neither timestamp nor ingredients.
const EMBEDDED_BYTES_MAX: usize = 4096;

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

/// A PNG whose XMP says where its manifest is.
fn pointing_png(url: &str) -> Vec<u8> {
    let raster = Raster { width_px: 64, height_px: 48, rgb: pictures::studio(64, 48).into_rgb() };
    let bare = encode(&raster, Format::Png, Quality::MEDIUM, Rung::Quick).expect("a small picture").file;
    let description = Description::new(Marking::default(), DigitalSource::TrainedAlgorithmicMedia);
    embed(&bare, &Metadata::of(Format::Png, (64, 48), &description, None, Some(url))).expect("room for XMP")
}

#[test]
fn a_file_says_where_its_manifest_is() {
    let studio = Studio::new();
    let url = "https://images.example.com/verify/manifests/0123";
    let file = pointing_png(url);
    assert_eq!(verify(Format::Png, &file, None, &studio.trust), Finding::Elsewhere { url: url.to_owned() });
    let manifest = signing(&studio.opened()).beside(&story(), Format::Png, &file).expect("signed");
    let told = credentials(verify(Format::Png, &file, Some(manifest.as_bytes()), &studio.trust));
    assert_eq!(told.standing, Standing::Trusted);
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
        steps: vec![Step::Placed { ingredient: 1, file: Digest::of_bytes(b"layer") }, Step::Transcoded],
        ingredients: vec![parent, layer],
        ..story()
    };
    let drawn = Story { ingredients: vec![input], ..story() };
    let astray =
        Story { steps: vec![Step::Placed { ingredient: 1, file: Digest::of_bytes(b"layer") }], ..drawn.clone() };
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

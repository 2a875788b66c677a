//! What was changed is reported, and no stranger's bytes end the process.

use bildkante_edge::credentials::{FailureKind, Finding, Signed, Trust, verify};
use bildkante_edge::words::Format;
use proptest::prelude::*;

use crate::{Studio, generation, kinds, rendition, signed, signing, story};

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

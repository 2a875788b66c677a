//! Bounds that no file of a slot can keep.
//!
//! What a file says of its picture is a part of it. A bound below an all but empty JPEG that says the same cannot be kept by any
//! picture of the slot, whose every answer may be a JPEG, and is refused. Above it a picture decides: where it does not fit at the
//! lowest quality, it is served all the same, and the answer says by how much it is too large.

use std::path::Path;

use super::catalog::Campaign;
use super::fault::Fault;
use crate::render::least_bytes;

/// Each bound that is too small, told at the manifest.
pub(super) fn faults(campaign: &Campaign, manifest: &Path) -> Vec<Fault> {
    let mut faults = Vec::new();
    for slot in &campaign.slots {
        let bounds: Vec<_> = slot.framings().filter_map(|(cut, framing)| Some((cut, framing.bytes_max?))).collect();
        let Some(least) = (!bounds.is_empty()).then(|| least_bytes(campaign.slot_finish(slot))) else { continue };
        for (cut, bytes_max) in bounds {
            if bytes_max.exceeded_by(least).is_some() {
                let of = cut.map_or_else(
                    || format!("slot `{}`", slot.name),
                    |cut| format!("cut `{cut}` of slot `{}`", slot.name),
                );
                let reason = format!(
                    "{of}: `bytes_max` is {bytes_max}, and its files need {least} for what they say of makers, rights and source \
                     before there is a picture"
                );
                faults.push(Fault::of_file(manifest, reason));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use crate::campaign::tests::Site;
    use crate::resolve::{Operator, Resolution, resolve};
    use crate::words::Format;

    const CUT: &str = "[[slots.hero.cuts]]\nname = \"box\"\nmedia = \"(width < 30em)\"\npreset = \"iab-300x250\"\n";

    fn with(slot: &str, cut: &str) -> Site {
        let site = Site::new();
        let cuts = if cut.is_empty() { String::new() } else { format!("{CUT}{cut}\n") };
        site.edit("campaigns/autumn.toml", "[slots.hero]\n", &format!("[slots.hero]\n{slot}\n"));
        site.edit("campaigns/autumn.toml", "[slots.teaser]", &format!("{cuts}[slots.teaser]"));
        site
    }

    fn meant(site: &Site, url: &str) -> Resolution {
        resolve(&site.load(), url, &Operator).outcome.expect("a variant")
    }

    fn bound(site: &Site, url: &str) -> Option<u32> {
        Some(meant(site, url).want.finish.bytes_max()?.get())
    }

    #[test]
    fn a_cut_has_its_own_bound_or_the_slots() {
        let (own, boxed) = ("/i/autumn/hero", "/i/autumn/hero?art=box");
        let both = with("bytes_max = \"150 kB\"", "bytes_max = 50000");
        assert_eq!((bound(&both, own), bound(&both, boxed)), (Some(150_000), Some(50_000)));
        let slot = with("bytes_max = 150000", " ");
        assert_eq!((bound(&slot, own), bound(&slot, boxed)), (Some(150_000), Some(150_000)));
        let cut = with("", "bytes_max = \"50 kB\"");
        assert_eq!((bound(&cut, own), bound(&cut, boxed)), (None, Some(50_000)));
        assert_eq!(bound(&cut, "/i/autumn/teaser"), None);
    }

    #[test]
    fn a_bound_is_part_of_keys_and_version_where_it_is_set_and_nowhere_else() {
        let told = |site: &Site, url: &str| {
            let Resolution { resolved, want } = meant(site, url);
            let version = *resolved.campaign.rendition_digest(resolved.slot_index);
            (format!("{:?}", want.finish.digest()), version)
        };
        let (plain, bounded) = (with("", " "), with("bytes_max = 150000", " "));
        let other = with("", "bytes_max = 150000");
        for url in ["/i/autumn/hero", "/i/autumn/hero?art=box"] {
            assert_ne!(told(&plain, url).0, told(&bounded, url).0, "{url}");
            assert_ne!(told(&plain, url).1, told(&bounded, url).1, "{url}");
            assert_ne!(told(&plain, url).1, told(&other, url).1, "{url}");
        }
        assert_eq!(told(&plain, "/i/autumn/hero").0, told(&other, "/i/autumn/hero").0);
        assert_ne!(told(&plain, "/i/autumn/hero?art=box").0, told(&other, "/i/autumn/hero?art=box").0);
        assert_eq!(told(&plain, "/i/autumn/teaser"), told(&bounded, "/i/autumn/teaser"));
    }

    #[test]
    fn png_is_no_format_of_a_bounded_slot() {
        let formats = |site: &Site| meant(site, "/i/autumn/hero").resolved.slot.formats;
        assert!(formats(&with("", "")).contains(Format::Png));
        for site in [with("bytes_max = 150000", ""), with("", "bytes_max = 150000")] {
            assert!(!formats(&site).contains(Format::Png) && formats(&site).contains(Format::Avif));
        }
        let asked = with("bytes_max = 150000\nformats = [\"jpg\", \"png\"]", "");
        assert!(asked.faults().contains("PNG is lossless"), "{}", asked.faults());
    }

    #[test]
    fn a_bound_that_no_file_keeps_is_refused() {
        for bytes in ["0", "999", "\"12\"", "\"150 KB\"", "true", "60000000"] {
            let faults = with(&format!("bytes_max = {bytes}"), "").faults();
            assert!(faults.contains("bytes_max"), "{bytes}: {faults}");
        }
        let faults = with("bytes_max = 1000", "bytes_max = 1001").faults();
        assert!(faults.contains("slot `hero`: `bytes_max` is 1000 bytes, and its files need"), "{faults}");
        assert!(faults.contains("cut `box` of slot `hero`: `bytes_max` is 1001 bytes"), "{faults}");
        with("bytes_max = 4000", "").load();
    }
}

//! The LQIPs of a recipe's pictures, kept in its binding: a picture that is on disk is not decoded again to learn its own.
//!
//! Invariant: at most [`LQIPS_MAX`], the newest ones. A recipe has one for each finish and cut: languages with layers of their own,
//! and cuts for other screens.

use std::fmt;

use bildkante_shared::ids::MasterId;
use serde::{Deserialize, Serialize};

use crate::render::{FinishDigest, Lqip, PlaceholderSize, RenditionSpec};

/// Under 3 kB of a binding.
const LQIPS_MAX: usize = 32;

/// Which picture of a recipe: master, finish and cut. All widths of a ladder share it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LqipKey(u64);

impl LqipKey {
    #[must_use]
    pub fn new(master: MasterId, spec: &RenditionSpec, finish: FinishDigest) -> Self {
        let size = PlaceholderSize::of(spec.width_px, spec.height_px).index() as u64;
        let mut hasher = blake3::Hasher::new();
        hasher.update(master.as_bytes()).update(finish.as_bytes());
        hasher.update(&spec.shape.code()).update(&size.to_le_bytes());
        let mut key = [0; 8];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(u64::from_le_bytes(key))
    }
}

impl fmt::Debug for LqipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LqipKey({:016x})", self.0)
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lqips(Vec<(LqipKey, Lqip)>);

impl Lqips {
    #[must_use]
    pub fn get(&self, key: LqipKey) -> Option<Lqip> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, lqip)| *lqip)
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With another one; the oldest goes where there are too many.
    #[must_use]
    pub(super) fn with(&self, key: LqipKey, lqip: Lqip) -> Self {
        let mut lqips: Vec<_> = self.0.iter().filter(|(known, _)| *known != key).copied().collect();
        let surplus = (lqips.len() + 1).saturating_sub(LQIPS_MAX);
        lqips.drain(..surplus);
        lqips.push((key, lqip));
        Self(lqips)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{Quality, Shape};
    use crate::words::Format;

    fn key(width_px: u32, height_px: u32, format: Format, finish: [u8; 16]) -> LqipKey {
        let spec = RenditionSpec { width_px, height_px, shape: Shape::DEFAULT, format, quality: Quality::AUTO };
        LqipKey::new(MasterId::of_bytes(b"master"), &spec, FinishDigest::from_raw(finish))
    }

    #[test]
    fn widths_and_formats_share_one_and_cuts_and_finishes_do_not() {
        let own = key(640, 360, Format::Avif, [1; 16]);
        assert_eq!(own, key(1280, 720, Format::Jpeg, [1; 16]));
        assert_ne!(own, key(640, 640, Format::Avif, [1; 16]));
        assert_ne!(own, key(640, 360, Format::Avif, [2; 16]));
    }

    #[test]
    fn the_newest_stay() {
        let lqip = |n: usize| format!("#{n:06x}AAAA").parse().expect("an LQIP");
        let of = |n: usize| LqipKey(n as u64);
        let lqips = (0..40).fold(Lqips::default(), |lqips, n| lqips.with(of(n), lqip(n)));
        assert_eq!((lqips.0.len(), lqips.get(of(7)), lqips.get(of(39))), (LQIPS_MAX, None, Some(lqip(39))));
        let again = lqips.with(of(39), lqip(1));
        assert_eq!((again.0.len(), again.get(of(39))), (LQIPS_MAX, Some(lqip(1))));
        let text = serde_json::to_string(&lqips).expect("JSON");
        assert!(text.len() < 3000, "{}", text.len());
        assert_eq!(serde_json::from_str::<Lqips>(&text).expect("JSON"), lqips);
    }
}

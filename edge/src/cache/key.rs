//! The key of a rendition: everything that changes its bytes, and nothing else.
//!
//! Invariants: two requests whose bytes must differ have different keys; the rung is *not* part of it, so that a
//! final encode takes the place of the quick one. Host, headers and URL spelling never enter.

use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::str::FromStr;

use bildkante_shared::ids::{IdError, MasterId, decode_128, encode_128};

use crate::render::{ENCODER_EPOCH, FinishDigest, RenditionSpec, Shape};
use crate::words::{Format, Moment};

/// Raise when the layout of what is hashed changes.
const DOMAIN: &[u8] = b"bildkante rendition key v1\0";
/// Before a creation date. With it, keys of a date, of a shape, of both and of neither hash texts of different lengths.
const DATED: &[u8] = b"d";

/// BLAKE3-128 over master, its creation date as far as it is known, spec, finish and encoder epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RenditionKey([u8; 16]);

impl RenditionKey {
    #[must_use]
    pub fn new(master: MasterId, spec: &RenditionSpec, finish: FinishDigest, created: Option<Moment>) -> Self {
        Self::with_epoch(master, spec, finish, created, ENCODER_EPOCH)
    }

    fn with_epoch(
        master: MasterId,
        spec: &RenditionSpec,
        finish: FinishDigest,
        created: Option<Moment>,
        epoch: u32,
    ) -> Self {
        // Named fields without `..`: a field added to the spec stops the build here.
        let RenditionSpec { width_px, height_px, shape, format, quality } = *spec;
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN);
        hasher.update(master.as_bytes());
        hasher.update(&width_px.to_le_bytes());
        hasher.update(&height_px.to_le_bytes());
        hasher.update(&[format_code(format), quality.get()]);
        hasher.update(finish.as_bytes());
        hasher.update(&epoch.to_le_bytes());
        // The default says nothing, so that its keys are those of the time when there was no other; a longer text is
        // never the same as a shorter one.
        if shape != Shape::DEFAULT {
            hasher.update(&shape.code());
        }
        if let Some(created) = created {
            hasher.update(DATED).update(&created.unix_s().to_le_bytes());
        }
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(key)
    }

    #[must_use]
    pub const fn from_raw(raw: [u8; 16]) -> Self {
        Self(raw)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// How a format is written in keys and in files: never renumber.
pub(super) const fn format_code(format: Format) -> u8 {
    match format {
        Format::Avif => 1,
        Format::Webp => 2,
        Format::Jpeg => 3,
        Format::Png => 4,
    }
}

impl Hash for RenditionKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(first_word(&self.0));
    }
}

impl fmt::Display for RenditionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode_128(&self.0))
    }
}

impl fmt::Debug for RenditionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RenditionKey({self})")
    }
}

impl FromStr for RenditionKey {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        decode_128(text).map(Self)
    }
}

/// Builds the hasher of maps whose keys are already hashes: hashing them again would cost more than the look-up.
pub type ContentHasherBuilder = BuildHasherDefault<ContentHasher>;

/// Takes the first eight bytes it is given as the hash. Only for keys that are BLAKE3 output over values a
/// client cannot choose freely (axes and ladders are finite), so a client cannot aim for one bucket.
#[derive(Debug, Default, Clone, Copy)]
pub struct ContentHasher(u64);

impl Hasher for ContentHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Arrays write their length first; what follows decides.
        if let Some(word) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*word);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    fn write_usize(&mut self, _length_prefix: usize) {}
}

fn first_word(raw: &[u8; 16]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *raw;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    use bildkante_shared::ids::RecipeId;
    use proptest::prelude::*;

    use super::*;
    use crate::render::{Anchor, Quality};

    fn spec() -> RenditionSpec {
        RenditionSpec {
            width_px: 640,
            height_px: 360,
            shape: Shape::DEFAULT,
            format: Format::Avif,
            quality: Quality::AUTO,
        }
    }

    #[test]
    fn everything_that_changes_the_bytes_changes_the_key() {
        let master = MasterId::of_bytes(b"master");
        let finish = FinishDigest::from_raw(*b"a marking digest");
        let mut keys = HashSet::new();
        keys.insert(RenditionKey::new(master, &spec(), finish, None));
        keys.insert(RenditionKey::new(MasterId::of_bytes(b"other"), &spec(), finish, None));
        keys.insert(RenditionKey::new(master, &spec(), FinishDigest::from_raw(*b"another digest.."), None));
        keys.insert(RenditionKey::with_epoch(master, &spec(), finish, None, ENCODER_EPOCH + 1));
        keys.insert(RenditionKey::new(master, &RenditionSpec { width_px: 641, ..spec() }, finish, None));
        keys.insert(RenditionKey::new(master, &RenditionSpec { height_px: 361, ..spec() }, finish, None));
        keys.insert(RenditionKey::new(master, &RenditionSpec { quality: Quality::HIGH, ..spec() }, finish, None));
        for format in [Format::Webp, Format::Jpeg, Format::Png] {
            keys.insert(RenditionKey::new(master, &RenditionSpec { format, ..spec() }, finish, None));
        }
        for shape in [
            Shape::Cut(Anchor::Entropy),
            Shape::Cut(Anchor::Point { x: 500, y: 0 }),
            Shape::Cut(Anchor::Point { x: 0, y: 500 }),
            Shape::Whole,
            Shape::Padded { background: [0; 3] },
            Shape::Padded { background: [0, 0, 1] },
            Shape::PaddedSmall { background: [0, 0, 1] },
        ] {
            keys.insert(RenditionKey::new(master, &RenditionSpec { shape, ..spec() }, finish, None));
        }
        for unix_s in [1, 256] {
            keys.insert(RenditionKey::new(master, &spec(), finish, Moment::from_unix_s(unix_s)));
        }
        assert_eq!(keys.len(), 19);
    }

    #[test]
    fn width_and_height_do_not_run_together() {
        let key = |width_px, height_px| {
            let spec = RenditionSpec { width_px, height_px, ..spec() };
            RenditionKey::new(MasterId::from_raw([0; 16]), &spec, FinishDigest::from_raw(*b"no marking at al"), None)
        };
        assert_ne!(key(1, 256), key(256, 1));
    }

    #[test]
    fn the_same_inputs_give_the_same_key_in_every_build() {
        // Computed with the reference BLAKE3 outside this code. A change is a change of every stored name: raise ENCODER_EPOCH or DOMAIN on purpose.
        let key = RenditionKey::with_epoch(
            MasterId::from_raw([7; 16]),
            &spec(),
            FinishDigest::from_raw(*b"a marking digest"),
            None,
            1,
        );
        assert_eq!(key.to_string(), "a2a9vq2cv3jakvzev4jhn17mr8");
    }

    #[test]
    fn ids_of_arrays_and_keys_hash_to_their_own_bytes() {
        let hasher = ContentHasherBuilder::default();
        let raw = [9, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];
        assert_eq!(hasher.hash_one(raw), 9);
        assert_eq!(hasher.hash_one(RenditionKey::from_raw(raw)), 9);
        assert_eq!(hasher.hash_one(RecipeId::from_raw(raw)), 9);
    }

    proptest! {
        #[test]
        fn keys_print_and_parse_back(raw: [u8; 16]) {
            let key = RenditionKey::from_raw(raw);
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }
    }
}

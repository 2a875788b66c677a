//! The finish: all that makes a rendition out of given pixels beside its spec, and the digest that stands for it in keys.
//!
//! A finish is what is said of the picture, and whether a manifest is signed for it. Layers and watermark will be further
//! parts. Invariants: a finish and its digest are made together and never part; equal digests mean equal bytes up
//! to the signature, save the creation date, which is the master's and a part of rendition keys by itself; the former
//! digests are those that stored renditions are found by after an upgrade, or after signing was switched on.

use std::fmt;

use crate::provenance::{Description, DigitalSource, Marking};

/// The finish's part of a rendition key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FinishDigest([u8; 16]);

impl FinishDigest {
    #[must_use]
    pub const fn from_raw(raw: [u8; 16]) -> Self {
        Self(raw)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for FinishDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FinishDigest({})", data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// What an edge adds to every picture, whatever its campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Finishing {
    /// Whether a signer is configured.
    pub is_signed: bool,
}

impl Finishing {
    /// With the description's digest, it is all that decides the bytes.
    fn digest(self, description: [u8; 16]) -> FinishDigest {
        if !self.is_signed {
            return FinishDigest(description);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"bildkante finish 2\0").update(&description).update(&[u8::from(self.is_signed)]);
        let mut digest = [0; 16];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        FinishDigest(digest)
    }
}

/// What is served where a signer is configured and does not sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnsigned {
    /// The picture with its other marks, for a short time and never `immutable`.
    #[default]
    ServeMarked,
    /// What stands in for a picture that is not there.
    StandIn,
}

impl OnUnsigned {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServeMarked => "serve_marked",
            Self::StandIn => "stand_in",
        }
    }
}

/// See the module's documentation. Made once per slot, or once per variant that has its own, and shared.
#[derive(Debug, Clone)]
pub struct Finish {
    description: Description,
    finishing: Finishing,
    on_unsigned: OnUnsigned,
    digest: FinishDigest,
    formers: [Former; 2],
}

/// What the same picture was kept under before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Former {
    pub digest: FinishDigest,
    /// Whether the creation date was a part of the key.
    pub is_dated: bool,
}

impl PartialEq for Finish {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.on_unsigned == other.on_unsigned
    }
}

impl Eq for Finish {}

impl Finish {
    /// Of pictures that a model draws, without a word on the model.
    #[must_use]
    pub fn of_generated(marking: Marking) -> Self {
        Self::new(Description::new(marking, DigitalSource::TrainedAlgorithmicMedia))
    }

    /// Without a signature.
    #[must_use]
    pub fn new(description: Description) -> Self {
        Self::with(description, Finishing::default(), OnUnsigned::default())
    }

    /// Takes about three microseconds, for the digests.
    #[must_use]
    pub fn with(description: Description, finishing: Finishing, on_unsigned: OnUnsigned) -> Self {
        let plain = description.digest();
        let digest = finishing.digest(plain);
        let unsigned = Finishing { is_signed: false }.digest(plain);
        let formers = [
            Former { digest: unsigned, is_dated: true },
            Former { digest: FinishDigest(description.former_digest()), is_dated: false },
        ];
        Self { description, finishing, on_unsigned, digest, formers }
    }

    /// The same for another picture of the same campaign.
    #[must_use]
    pub fn describing(&self, description: Description) -> Self {
        Self::with(description, self.finishing, self.on_unsigned)
    }

    /// What is said of the picture.
    #[must_use]
    pub const fn description(&self) -> &Description {
        &self.description
    }

    /// What is said of its makers and rights.
    #[must_use]
    pub const fn marking(&self) -> &Marking {
        &self.description.marking
    }

    /// How the picture came to be.
    #[must_use]
    pub const fn source(&self) -> DigitalSource {
        self.description.source
    }

    /// Whether a manifest is signed for it.
    #[must_use]
    pub const fn is_signed(&self) -> bool {
        self.finishing.is_signed
    }

    #[must_use]
    pub const fn on_unsigned(&self) -> OnUnsigned {
        self.on_unsigned
    }

    #[must_use]
    pub const fn digest(&self) -> FinishDigest {
        self.digest
    }

    /// The digests under which the same picture may be stored from before, the latest first.
    pub fn formers(&self) -> impl Iterator<Item = Former> {
        let digest = self.digest;
        self.formers.into_iter().filter(move |former| former.digest != digest || !former.is_dated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provenance::{Generator, Location};

    #[test]
    fn the_way_a_picture_came_to_be_is_part_of_the_digest() {
        let marking = Marking { creator: Some("Studio".into()), ..Marking::default() };
        let generated = Finish::of_generated(marking.clone());
        let placeholder = Finish::new(Description::new(marking, DigitalSource::AlgorithmicMedia));
        assert_ne!(generated.digest(), placeholder.digest());
    }

    #[test]
    fn signing_is_part_of_the_digest_and_what_was_unsigned_is_found() {
        let of = |is_signed| {
            let description = Description::new(Marking::default(), DigitalSource::TrainedAlgorithmicMedia);
            Finish::with(description, Finishing { is_signed }, OnUnsigned::default())
        };
        assert_ne!(of(true).digest(), of(false).digest());
        assert_eq!(of(true).formers().next().map(|former| former.digest), Some(of(false).digest()));
        assert_eq!(of(false).formers().count(), 1, "its own digest is no former one");
    }

    /// Computed by the version before there was a finish, whose keys hold the digest of the marking.
    #[test]
    fn the_last_former_digest_is_that_of_former_versions() {
        let statements = Marking {
            creator: Some("Studio".into()),
            credit: Some("Shop".into()),
            copyright: Some("© 2026 Shop".into()),
            license: Some("https://example.org/l".into()),
            ..Marking::default()
        };
        for (marking, before) in
            [(statements, "253d645b8529e1cacd4c1ac69fce91b9"), (Marking::default(), "c28765865235e185bc9985f1505a5d5f")]
        {
            let place = Location { city: Some("Ulm".into()), ..Location::default() };
            let generator = Generator { system: "sdxl".into(), version: "0".into(), prompt: None };
            let description = Description {
                generator: Some(generator),
                ..Description::new(Marking { location: place, ..marking }, DigitalSource::TrainedAlgorithmicMedia)
            };
            let finish = Finish::with(description, Finishing { is_signed: true }, OnUnsigned::default());
            let former = finish.formers().last().expect("there is one");
            assert_eq!(data_encoding::HEXLOWER.encode(former.digest.as_bytes()), before);
            assert!(!former.is_dated);
        }
    }
}

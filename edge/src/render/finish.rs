//! The finish: all that makes a rendition out of given pixels beside its spec, and the digest that stands for it in keys.
//!
//! Today a finish is what is said of the picture. Layers, watermark and signature policy will be further parts of it.
//! Invariants: a finish and its digest are made together and never part; equal digests mean equal embedded bytes, save the
//! creation date, which is the master's and a part of rendition keys by itself; the former digest is the one that stored
//! renditions of versions up to 0.1 are found by.

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

/// See the module's documentation. Made once per campaign, or once per variant that has its own, and shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    description: Description,
    digest: FinishDigest,
    former: FinishDigest,
}

impl Finish {
    /// Of pictures that a model draws, without a word on the model.
    #[must_use]
    pub fn of_generated(marking: Marking) -> Self {
        Self::new(Description::new(marking, DigitalSource::TrainedAlgorithmicMedia))
    }

    /// Takes about two microseconds, for the digests.
    #[must_use]
    pub fn new(description: Description) -> Self {
        let (digest, former) = (FinishDigest(description.digest()), FinishDigest(description.former_digest()));
        Self { description, digest, former }
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

    #[must_use]
    pub const fn digest(&self) -> FinishDigest {
        self.digest
    }

    /// The digest under which versions up to 0.1 kept the same picture.
    #[must_use]
    pub const fn former(&self) -> FinishDigest {
        self.former
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

    /// Computed by the version before there was a finish, whose keys hold the digest of the marking.
    #[test]
    fn the_former_digest_is_that_of_former_versions() {
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
            let digest = Finish::new(description).former();
            assert_eq!(data_encoding::HEXLOWER.encode(digest.as_bytes()), before);
        }
    }
}

//! The finish: all that makes a rendition out of given pixels beside its spec, and the digest that stands for it in keys.
//!
//! Today a finish is the campaign's marking with the digital source type of the picture. Layers, watermark and signature
//! policy will be further parts of it. Invariants: a finish and its digest are made together and never part; equal digests
//! mean equal embedded bytes; the digest of a generated picture without further parts is that of its XMP packet alone, so
//! that keys of stored renditions stay what they were.

use std::fmt;

use crate::provenance::{DigitalSource, Marking};

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
    marking: Marking,
    source: DigitalSource,
    digest: FinishDigest,
}

impl Finish {
    /// Of pictures that a model draws.
    #[must_use]
    pub fn of_generated(marking: Marking) -> Self {
        Self::new(marking, DigitalSource::TrainedAlgorithmicMedia)
    }

    /// Takes about a microsecond, for the digest.
    #[must_use]
    pub fn new(marking: Marking, source: DigitalSource) -> Self {
        let digest = FinishDigest(marking.digest(source));
        Self { marking, source, digest }
    }

    /// What is said of the picture's makers and rights.
    #[must_use]
    pub const fn marking(&self) -> &Marking {
        &self.marking
    }

    /// How the picture came to be.
    #[must_use]
    pub const fn source(&self) -> DigitalSource {
        self.source
    }

    #[must_use]
    pub const fn digest(&self) -> FinishDigest {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_a_picture_came_to_be_is_part_of_the_digest() {
        let marking = Marking { creator: Some("Studio".into()), ..Marking::default() };
        let generated = Finish::of_generated(marking.clone());
        let placeholder = Finish::new(marking, DigitalSource::AlgorithmicMedia);
        assert_ne!(generated.digest(), placeholder.digest());
    }

    /// Computed by the version before there was a finish, whose keys hold the digest of the marking.
    #[test]
    fn the_digest_of_a_generated_picture_is_that_of_former_versions() {
        let statements = Marking {
            creator: Some("Studio".into()),
            credit: Some("Shop".into()),
            copyright: Some("© 2026 Shop".into()),
            license: Some("https://example.org/l".into()),
        };
        for (marking, before) in
            [(statements, "253d645b8529e1cacd4c1ac69fce91b9"), (Marking::default(), "c28765865235e185bc9985f1505a5d5f")]
        {
            let digest = Finish::of_generated(marking).digest();
            assert_eq!(data_encoding::HEXLOWER.encode(digest.as_bytes()), before);
        }
    }
}

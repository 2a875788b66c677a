//! What an image says of itself, drawn or imported or a placeholder: XMP/IPTC now, C2PA later.
//!
//! Every rendition carries an XMP packet with the campaign's rights and the IPTC *digital source type*, so that search
//! engines, agencies and archives can tell a generated image from a photograph. For an import the type is the one its
//! recipe declares, and the statements are its own where it has some. The order is pixels → encode → XMP → C2PA:
//! [`embed`] works on finished files and never touches pixel data.
//!
//! Sources: IPTC Photo Metadata Standard 2023.2 (digital source type, creator, credit line, copyright notice,
//! web statement of rights); ISO 16684-1 (XMP); per format see [`embed`].

mod embed;
mod xmp;

pub use bildkante_shared::import::DigitalSource;
pub use embed::{EmbedError, XMP_BYTES_MAX, embed, xmp_of};
pub use xmp::packet;

/// Longest creator, credit, copyright or licence, in UTF-8 bytes.
pub const MARKING_FIELD_BYTES_MAX: usize = 512;

/// The statements embedded in every rendition of a campaign.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Marking {
    pub creator: Option<String>,
    pub credit: Option<String>,
    pub copyright: Option<String>,
    /// URL of the licence (XMP `xmpRights:WebStatement`).
    pub license: Option<String>,
}

/// Why a statement cannot be embedded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarkingError {
    #[error("{field} has {bytes} bytes, at most {MARKING_FIELD_BYTES_MAX} are embedded")]
    TooLong { field: &'static str, bytes: usize },
    #[error("{field} holds the character U+{code:04X}, which XML cannot carry")]
    Character { field: &'static str, code: u32 },
}

impl Marking {
    /// For the loader of manifests: what passes here is embedded exactly as it stands.
    ///
    /// # Errors
    /// When a field is longer than [`MARKING_FIELD_BYTES_MAX`] or holds a character outside XML 1.0.
    pub fn validate(&self) -> Result<(), MarkingError> {
        for (field, text) in self.fields() {
            let Some(text) = text else { continue };
            if text.len() > MARKING_FIELD_BYTES_MAX {
                return Err(MarkingError::TooLong { field, bytes: text.len() });
            }
            if let Some(foreign) = text.chars().find(|c| !xmp::is_xml_char(*c)) {
                return Err(MarkingError::Character { field, code: u32::from(foreign) });
            }
        }
        Ok(())
    }

    /// The first 128 bits of the BLAKE3 hash of the packet: it changes exactly when the embedded bytes do. It takes about a
    /// microsecond; a finish keeps it.
    #[must_use]
    pub fn digest(&self, source: DigitalSource) -> [u8; 16] {
        let hash = blake3::hash(packet(self, source).as_bytes());
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.as_bytes()[..16]);
        digest
    }

    fn fields(&self) -> [(&'static str, Option<&str>); 4] {
        [
            ("creator", self.creator.as_deref()),
            ("credit", self.credit.as_deref()),
            ("copyright", self.copyright.as_deref()),
            ("license", self.license.as_deref()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marking() -> Marking {
        Marking { creator: Some("Studio".into()), copyright: Some("© 2026".into()), ..Marking::default() }
    }

    #[test]
    fn every_field_changes_the_digest() {
        let base = marking();
        let others = [
            Marking { creator: None, ..base.clone() },
            Marking { credit: Some("Studio".into()), ..base.clone() },
            Marking { copyright: Some("© 2027".into()), ..base.clone() },
            Marking { license: Some("https://example.com/".into()), ..base.clone() },
            // The same words in another field are another statement.
            Marking { creator: base.copyright.clone(), copyright: base.creator.clone(), ..base.clone() },
        ];
        let digest = |marking: &Marking| marking.digest(DigitalSource::TrainedAlgorithmicMedia);
        assert_eq!(digest(&base), digest(&marking()));
        for other in others {
            assert_ne!(digest(&base), digest(&other), "{other:?}");
        }
    }

    #[test]
    fn validation_names_the_field() {
        assert_eq!(marking().validate(), Ok(()));
        let long = Marking { credit: Some("ä".repeat(257)), ..marking() };
        assert_eq!(long.validate(), Err(MarkingError::TooLong { field: "credit", bytes: 514 }));
        let control = Marking { license: Some("a\u{0}b".into()), ..marking() };
        assert_eq!(control.validate(), Err(MarkingError::Character { field: "license", code: 0 }));
    }
}

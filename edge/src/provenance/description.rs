//! What is said of a picture: its makers and rights, how it came to be, and by which model.
//!
//! Source: IPTC Photo Metadata Standard 2025.1. What passes [`Marking::validate`] is embedded exactly as it stands.

use bildkante_shared::import::DigitalSource;

use super::xmp;

/// Longest creator, credit, copyright, licence or part of a location, in UTF-8 bytes.
pub const MARKING_FIELD_BYTES_MAX: usize = 512;

/// The statements embedded in every rendition of a campaign.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Marking {
    pub creator: Option<String>,
    pub credit: Option<String>,
    pub copyright: Option<String>,
    /// URL of the licence (XMP `xmpRights:WebStatement`).
    pub license: Option<String>,
    /// What place the pictures show.
    pub location: Location,
}

/// A place, as exactly as its fields say (IPTC *Location Shown in the Image*).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Location {
    /// A part of the city, or a place outside of one.
    pub sublocation: Option<String>,
    pub city: Option<String>,
    /// Province or state.
    pub region: Option<String>,
    /// The country's name.
    pub country: Option<String>,
    /// ISO 3166-1: two or three capitals.
    pub country_code: Option<String>,
}

impl Location {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields().iter().all(|(_, text)| text.is_none())
    }

    fn fields(&self) -> [(&'static str, Option<&str>); 5] {
        [
            ("location.sublocation", self.sublocation.as_deref()),
            ("location.city", self.city.as_deref()),
            ("location.region", self.region.as_deref()),
            ("location.country", self.country.as_deref()),
            ("location.country_code", self.country_code.as_deref()),
        ]
    }
}

/// Why a statement cannot be embedded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarkingError {
    #[error("{field} has {bytes} bytes, at most {MARKING_FIELD_BYTES_MAX} are embedded")]
    TooLong { field: &'static str, bytes: usize },
    #[error("{field} holds the character U+{code:04X}, which XML cannot carry")]
    Character { field: &'static str, code: u32 },
    #[error("location.country_code is `{code}`; write the two or three capitals of ISO 3166-1, such as DE or DEU")]
    CountryCode { code: String },
}

impl Marking {
    /// For the loader of manifests.
    ///
    /// # Errors
    /// When a field is longer than [`MARKING_FIELD_BYTES_MAX`] or holds a character outside XML 1.0, or a country code is
    /// none.
    pub fn validate(&self) -> Result<(), MarkingError> {
        for (field, text) in self.fields().into_iter().chain(self.location.fields()) {
            let Some(text) = text else { continue };
            if text.len() > MARKING_FIELD_BYTES_MAX {
                return Err(MarkingError::TooLong { field, bytes: text.len() });
            }
            if let Some(foreign) = text.chars().find(|c| !xmp::is_xml_char(*c)) {
                return Err(MarkingError::Character { field, code: u32::from(foreign) });
            }
        }
        match &self.location.country_code {
            Some(code) if !is_country_code(code) => Err(MarkingError::CountryCode { code: code.clone() }),
            _ => Ok(()),
        }
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

fn is_country_code(code: &str) -> bool {
    (2..=3).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// What drew a picture.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Generator {
    /// The checkpoint's name in the manifest.
    pub system: String,
    /// The first digits of the checkpoint's digest.
    pub version: String,
    /// Only where the campaign publishes it.
    pub prompt: Option<Prompt>,
}

/// The words a picture was drawn from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prompt {
    pub text: String,
    pub writer: Option<String>,
}

/// All that is said of a picture, save when it was made: the same for every picture of a slot whose prompt is not published.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Description {
    pub marking: Marking,
    pub source: DigitalSource,
    /// `None` for what no model drew, and where it is unknown.
    pub generator: Option<Generator>,
}

impl Description {
    /// Of a picture of which no generator is told.
    #[must_use]
    pub const fn new(marking: Marking, source: DigitalSource) -> Self {
        Self { marking, source, generator: None }
    }

    /// The first 128 bits of the BLAKE3 hash of the full XMP packet without a date. The packet holds everything that is said,
    /// so the digest changes exactly when that does. It takes about a microsecond; a finish keeps it.
    #[must_use]
    pub fn digest(&self) -> [u8; 16] {
        let hash = blake3::hash(xmp::packet(self, None, None, xmp::Form::Full).as_bytes());
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.as_bytes()[..16]);
        digest
    }

    /// The digest that versions up to 0.1 computed: they told neither generator nor place.
    #[must_use]
    pub fn former_digest(&self) -> [u8; 16] {
        let marking = Marking { location: Location::default(), ..self.marking.clone() };
        Self::new(marking, self.source).digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marking() -> Marking {
        Marking { creator: Some("Studio".into()), copyright: Some("© 2026".into()), ..Marking::default() }
    }

    fn drawn(marking: Marking) -> Description {
        Description::new(marking, DigitalSource::TrainedAlgorithmicMedia)
    }

    #[test]
    fn every_field_changes_the_digest() {
        let base = marking();
        let with_place = |location| Marking { location, ..base.clone() };
        let generator = Generator { system: "sdxl".into(), version: "0123".into(), prompt: None };
        let prompt = Prompt { text: "a mug".into(), writer: None };
        let told = |generator| Description { generator: Some(generator), ..drawn(base.clone()) };
        let others = [
            drawn(Marking { creator: None, ..base.clone() }),
            drawn(Marking { credit: Some("Studio".into()), ..base.clone() }),
            drawn(Marking { copyright: Some("© 2027".into()), ..base.clone() }),
            drawn(Marking { license: Some("https://example.com/".into()), ..base.clone() }),
            // The same words in another field are another statement.
            drawn(Marking { creator: base.copyright.clone(), copyright: base.creator.clone(), ..base.clone() }),
            drawn(with_place(Location { city: Some("Ulm".into()), ..Location::default() })),
            drawn(with_place(Location { region: Some("Ulm".into()), ..Location::default() })),
            Description::new(base.clone(), DigitalSource::AlgorithmicMedia),
            told(generator.clone()),
            told(Generator { version: "4567".into(), ..generator.clone() }),
            told(Generator { prompt: Some(prompt.clone()), ..generator.clone() }),
            told(Generator { prompt: Some(Prompt { writer: Some("A. B.".into()), ..prompt }), ..generator }),
        ];
        let digests: std::collections::HashSet<_> = others.iter().map(Description::digest).collect();
        assert_eq!(digests.len(), others.len());
        assert!(!digests.contains(&drawn(base).digest()));
    }

    #[test]
    fn validation_names_the_field() {
        assert_eq!(marking().validate(), Ok(()));
        let long = Marking { credit: Some("ä".repeat(257)), ..marking() };
        assert_eq!(long.validate(), Err(MarkingError::TooLong { field: "credit", bytes: 514 }));
        let control = Marking { license: Some("a\u{0}b".into()), ..marking() };
        assert_eq!(control.validate(), Err(MarkingError::Character { field: "license", code: 0 }));
        let at = |code: &str| {
            let location = Location { country_code: Some(code.into()), ..Location::default() };
            Marking { location, ..marking() }.validate()
        };
        assert_eq!((at("DE"), at("DEU")), (Ok(()), Ok(())));
        assert!(["de", "D", "GERM", "D1", ""].iter().all(|code| at(code).is_err()));
    }
}

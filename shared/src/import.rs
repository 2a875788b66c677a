//! The recipe of an import: a master that a person brought, and its id.
//!
//! [`ImportRecipe`] is the stored form. [`ValidImport`] is one that passed every bound and carries its id. The id is that of
//! its canonical JSON, as a drawn recipe's is; the two forms share no field, so no import has the id of a drawn picture.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, RecipeId};
use crate::recipe::ValidRecipe;

/// Longest creator, credit, copyright, licence or origin of an import, in UTF-8 bytes.
pub const IMPORT_TEXT_BYTES_MAX: usize = 512;

/// How a picture came to be: terms of the IPTC vocabulary *digital source type*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DigitalSource {
    /// Photographed by a digital camera.
    DigitalCapture,
    /// Photographed in several exposures that a program put together.
    ComputationalCapture,
    /// Scanned from a negative.
    NegativeFilm,
    /// Scanned from a slide.
    PositiveFilm,
    /// Scanned from paper.
    Print,
    /// A picture of another kind that a person retouched.
    HumanEdits,
    /// Several photographs put together.
    CompositeCapture,
    /// A photograph that a program corrected.
    AlgorithmicallyEnhanced,
    /// Painted or built by a person with a program.
    DigitalCreation,
    /// A photograph of a screen.
    ScreenCapture,
    /// Several pictures of any kinds put together.
    Composite,
    /// Several pictures put together, a synthetic one among them.
    CompositeSynthetic,
    /// Several pictures put together, one of them made by a model.
    CompositeWithTrainedAlgorithmicMedia,
    /// Made by a model that was trained on sampled content: every drawn master.
    TrainedAlgorithmicMedia,
    /// Made by a program without any training data: placeholders.
    AlgorithmicMedia,
}

impl DigitalSource {
    pub const ALL: [Self; 15] = [
        Self::DigitalCapture,
        Self::ComputationalCapture,
        Self::NegativeFilm,
        Self::PositiveFilm,
        Self::Print,
        Self::HumanEdits,
        Self::CompositeCapture,
        Self::AlgorithmicallyEnhanced,
        Self::DigitalCreation,
        Self::ScreenCapture,
        Self::Composite,
        Self::CompositeSynthetic,
        Self::CompositeWithTrainedAlgorithmicMedia,
        Self::TrainedAlgorithmicMedia,
        Self::AlgorithmicMedia,
    ];

    /// Whether a model had a part in the picture.
    #[must_use]
    pub const fn is_synthetic(self) -> bool {
        matches!(
            self,
            Self::TrainedAlgorithmicMedia | Self::CompositeWithTrainedAlgorithmicMedia | Self::CompositeSynthetic
        )
    }

    /// The term's URI, as the standard wants it in XMP.
    #[must_use]
    pub const fn uri(self) -> &'static str {
        macro_rules! uri {
            ($term:literal) => {
                concat!("http://cv.iptc.org/newscodes/digitalsourcetype/", $term)
            };
        }
        match self {
            Self::DigitalCapture => uri!("digitalCapture"),
            Self::ComputationalCapture => uri!("computationalCapture"),
            Self::NegativeFilm => uri!("negativeFilm"),
            Self::PositiveFilm => uri!("positiveFilm"),
            Self::Print => uri!("print"),
            Self::HumanEdits => uri!("humanEdits"),
            Self::CompositeCapture => uri!("compositeCapture"),
            Self::AlgorithmicallyEnhanced => uri!("algorithmicallyEnhanced"),
            Self::DigitalCreation => uri!("digitalCreation"),
            Self::ScreenCapture => uri!("screenCapture"),
            Self::Composite => uri!("composite"),
            Self::CompositeSynthetic => uri!("compositeSynthetic"),
            Self::CompositeWithTrainedAlgorithmicMedia => uri!("compositeWithTrainedAlgorithmicMedia"),
            Self::TrainedAlgorithmicMedia => uri!("trainedAlgorithmicMedia"),
            Self::AlgorithmicMedia => uri!("algorithmicMedia"),
        }
    }

    /// The term alone, as manifests, locks and commands write it.
    #[must_use]
    pub fn term(self) -> &'static str {
        self.uri().rsplit('/').next().unwrap_or_default()
    }
}

impl std::fmt::Display for DigitalSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.term())
    }
}

impl std::str::FromStr for DigitalSource {
    type Err = ImportError;

    /// The term, or its URI.
    fn from_str(text: &str) -> Result<Self, ImportError> {
        Self::ALL
            .into_iter()
            .find(|source| source.term() == text || source.uri() == text)
            .ok_or_else(|| ImportError::Source { name: text.chars().take(80).collect() })
    }
}

/// Everything that determines an imported master and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportRecipe {
    /// Digest of the original file.
    pub import: Digest,
    pub source: DigitalSource,
    /// Where the file comes from, in a person's words: an agency's number, a shooting, another program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// These four take the place of the campaign's own statements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creator: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copyright: Option<String>,
    /// URL of the licence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}

impl ImportRecipe {
    /// Without statements of its own.
    #[must_use]
    pub const fn new(import: Digest, source: DigitalSource) -> Self {
        Self { import, source, origin: None, creator: None, credit: None, copyright: None, license: None }
    }

    /// Its statements by the names of their fields.
    #[must_use]
    pub fn texts(&self) -> [(&'static str, Option<&str>); 5] {
        [
            ("origin", self.origin.as_deref()),
            ("creator", self.creator.as_deref()),
            ("credit", self.credit.as_deref()),
            ("copyright", self.copyright.as_deref()),
            ("license", self.license.as_deref()),
        ]
    }
}

/// Why an import's recipe is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    #[error("`{name}` is no digital source type; there are {}", DigitalSource::ALL.map(DigitalSource::term).join(", "))]
    Source { name: String },
    #[error("`{field}` has {bytes} bytes, at most {IMPORT_TEXT_BYTES_MAX} are allowed")]
    TooLong { field: &'static str, bytes: usize },
    #[error("`{field}` holds a control character or a line break")]
    Character { field: &'static str },
    #[error("`license` is the URL of the licence, starting with https://")]
    License,
    #[error("the recipe has no canonical JSON form: {reason}")]
    Canonical { reason: String },
}

/// An import's recipe within every bound, with its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidImport {
    recipe: ImportRecipe,
    id: RecipeId,
}

impl ValidImport {
    #[must_use]
    pub const fn id(&self) -> RecipeId {
        self.id
    }
}

impl std::ops::Deref for ValidImport {
    type Target = ImportRecipe;

    fn deref(&self) -> &ImportRecipe {
        &self.recipe
    }
}

impl TryFrom<ImportRecipe> for ValidImport {
    type Error = ImportError;

    fn try_from(recipe: ImportRecipe) -> Result<Self, ImportError> {
        for (field, text) in recipe.texts() {
            let Some(text) = text else { continue };
            if text.len() > IMPORT_TEXT_BYTES_MAX {
                return Err(ImportError::TooLong { field, bytes: text.len() });
            }
            if text.chars().any(char::is_control) {
                return Err(ImportError::Character { field });
            }
        }
        if recipe.license.as_deref().is_some_and(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
            return Err(ImportError::License);
        }
        let canonical = serde_json_canonicalizer::to_vec(&recipe)
            .map_err(|error| ImportError::Canonical { reason: error.to_string() })?;
        let id = RecipeId::of_bytes(&canonical);
        Ok(Self { recipe, id })
    }
}

/// What determines a master, by what makes it.
#[derive(Debug, Clone, PartialEq)]
pub enum MasterRecipe {
    /// A model draws it.
    Drawn(Box<ValidRecipe>),
    /// A person brought it.
    Imported(ValidImport),
    /// A person is to bring it, and there is no picture yet.
    Awaited(Awaited),
}

impl MasterRecipe {
    #[must_use]
    pub fn id(&self) -> RecipeId {
        match self {
            Self::Drawn(recipe) => recipe.id(),
            Self::Imported(import) => import.id(),
            Self::Awaited(awaited) => awaited.id,
        }
    }

    #[must_use]
    pub fn drawn(&self) -> Option<&ValidRecipe> {
        match self {
            Self::Drawn(recipe) => Some(recipe),
            Self::Imported(_) | Self::Awaited(_) => None,
        }
    }
}

/// The place of an import that is still to come. It has an id of its own, so that what stands in for it is never taken for
/// the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Awaited {
    id: RecipeId,
}

impl Awaited {
    /// `variant` is the name under which the picture will be imported.
    #[must_use]
    pub fn new(variant: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"bildkante awaited import 1\0").update(variant.as_bytes());
        Self { id: RecipeId::from_hash(&hasher.finalize()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> ImportRecipe {
        ImportRecipe {
            credit: Some("Agency".into()),
            ..ImportRecipe::new(Digest::of_bytes(b"photo"), DigitalSource::DigitalCapture)
        }
    }

    fn id(recipe: ImportRecipe) -> RecipeId {
        ValidImport::try_from(recipe).unwrap_or_else(|error| panic!("{error}")).id()
    }

    #[test]
    fn the_id_is_that_of_the_canonical_json() {
        let digest = Digest::of_bytes(b"photo");
        let json = format!(r#"{{"credit":"Agency","import":"{digest}","source":"digitalCapture"}}"#);
        assert_eq!(id(recipe()), RecipeId::of_bytes(json.as_bytes()));
        let others = [
            ImportRecipe { import: Digest::of_bytes(b"other"), ..recipe() },
            ImportRecipe { source: DigitalSource::HumanEdits, ..recipe() },
            ImportRecipe { origin: Some("shooting".into()), ..recipe() },
            ImportRecipe { creator: Some("Agency".into()), credit: None, ..recipe() },
        ];
        for other in others {
            assert_ne!(id(other.clone()), id(recipe()), "{other:?}");
        }
    }

    #[test]
    fn terms_and_uris_name_their_source_and_nothing_else_does() {
        for source in DigitalSource::ALL {
            assert_eq!(source.term().parse(), Ok(source));
            assert_eq!(source.uri().parse(), Ok(source));
            assert_eq!(serde_json::to_value(source).ok(), Some(source.term().into()));
        }
        let error = "photo".parse::<DigitalSource>().expect_err("no term").to_string();
        assert!(error.contains("digitalCapture"), "{error}");
    }

    #[test]
    fn what_cannot_be_embedded_is_refused_by_its_field() {
        let refused = |recipe: ImportRecipe| ValidImport::try_from(recipe).expect_err("refused").to_string();
        assert!(refused(ImportRecipe { origin: Some("x".repeat(513)), ..recipe() }).contains("`origin` has 513"));
        assert!(refused(ImportRecipe { creator: Some("a\nb".into()), ..recipe() }).contains("`creator`"));
        assert!(refused(ImportRecipe { license: Some("mine".into()), ..recipe() }).contains("`license`"));
        assert!(serde_json::from_str::<ImportRecipe>(r#"{"import":"blake3:00","source":"print"}"#).is_err());
    }
}

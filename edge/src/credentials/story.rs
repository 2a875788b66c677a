//! What a manifest tells of a picture: where it comes from and what happened to it, in order.
//!
//! Invariants: the first action is `c2pa.created` or `c2pa.opened`, and no other is; texts are bounded, so a manifest is,
//! too. Our own assertion is documented in docs/reference/provenance.md with its JSON schema.
//!
//! Source: C2PA Technical Specification 2.3 (actions, soft binding and ingredient assertions).

use std::io::Cursor;

use bildkante_shared::ids::Digest;
use bildkante_shared::import::DigitalSource;
use c2pa::assertions::{Action, Actions, SoftBinding as SoftBindingAssertion};
use c2pa::{Builder, ClaimGeneratorInfo, Relationship};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::guard::{LibraryFault, context, guarded};

/// Label of our own assertion.
pub const GENERATION_LABEL: &str = "com.bildkante.generation";
/// The software that a manifest names.
pub const CLAIM_GENERATOR: &str = "Bildkante";
/// Longest text of a story, in UTF-8 bytes. A longer one is cut.
pub const STORY_TEXT_BYTES_MAX: usize = 256;
/// Most ingredients of a picture: more than a recipe can name images.
pub const INGREDIENTS_MAX: usize = 32;
/// Largest file that is read as an ingredient, in bytes.
pub const INGREDIENT_FILE_BYTES_MAX: usize = 64 * 1024 * 1024;

const SOFT_BINDING_LABEL: &str = "c2pa.soft-binding";

/// A picture's history.
#[derive(Debug, Clone)]
pub struct Story {
    pub origin: Origin,
    /// What happened since, in order.
    pub steps: Vec<Step>,
    pub generation: Option<Generation>,
    /// Pictures that are in this one or led to it. At most [`INGREDIENTS_MAX`].
    pub ingredients: Vec<Ingredient>,
    pub soft_binding: Option<SoftBinding>,
}

/// How the picture began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It was made, at a time that is told where it is known (RFC 3339).
    Created { source: DigitalSource, at: Option<String> },
    /// It was made elsewhere; the ingredient of that index is its parent.
    Opened { ingredient: usize },
}

/// What happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Cropped,
    Resized {
        width_px: u32,
        height_px: u32,
    },
    /// The ingredient of that index, a file with that digest, was laid on it.
    Placed {
        ingredient: usize,
        file: Digest,
    },
    Watermarked,
    /// It was encoded in its format.
    Transcoded,
}

impl Step {
    /// The standard's name of the action.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cropped => "c2pa.cropped",
            Self::Resized { .. } => "c2pa.resized",
            Self::Placed { .. } => "c2pa.placed",
            Self::Watermarked => "c2pa.watermarked.bound",
            Self::Transcoded => "c2pa.transcoded",
        }
    }
}

/// Our own assertion: how the picture can be drawn again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Id of the recipe (docs/reference/manifests.md).
    pub recipe: String,
    /// Id of the master that the rendition was cut from.
    pub master: String,
    /// Name and digest of the checkpoint that drew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Within what "same recipe, same master" holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub determinism: Option<String>,
}

/// The watermark, as a means to find the manifest again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoftBinding {
    /// Name of the algorithm, as in C2PA's list.
    pub algorithm: String,
    /// What the watermark carries, as the algorithm writes it.
    pub value: String,
}

/// How an ingredient stands to the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relation {
    /// The picture is a version of it.
    Parent,
    /// It is to be seen in the picture.
    Component,
    /// The model was given it.
    Input,
}

impl Relation {
    const fn relationship(self) -> Relationship {
        match self {
            Self::Parent => Relationship::ParentOf,
            Self::Component => Relationship::ComponentOf,
            Self::Input => Relationship::InputTo,
        }
    }
}

/// A picture that another one was made from, with the manifest that it carried.
#[derive(Debug, Clone)]
pub struct Ingredient {
    relation: Relation,
    told: c2pa::Ingredient,
}

impl Ingredient {
    /// An ingredient of which only title and media type are known.
    #[must_use]
    pub fn described(title: &str, media_type: &str, relation: Relation) -> Self {
        let mut told = c2pa::Ingredient::new_v2(cut(title), cut(media_type));
        told.set_relationship(relation.relationship());
        Self { relation, told }
    }

    /// Bytes of the manifest that it carries.
    #[must_use]
    pub fn carried_bytes(&self) -> usize {
        self.told.manifest_data().map_or(0, |bytes| bytes.len())
    }

    /// Reads `file` and keeps the manifest that it carries, with what a validator says of it. Takes as long as verifying:
    /// an import is read once, not once a rendition.
    ///
    /// # Errors
    /// When the file is larger than [`INGREDIENT_FILE_BYTES_MAX`] or cannot be read.
    pub fn read(title: &str, media_type: &str, relation: Relation, file: &[u8]) -> Result<Self, LibraryFault> {
        if file.len() > INGREDIENT_FILE_BYTES_MAX {
            return Err(LibraryFault::TooLarge { bytes: file.len(), bytes_max: INGREDIENT_FILE_BYTES_MAX });
        }
        let about = json!({ "title": cut(title), "relationship": relation.relationship() }).to_string();
        let told = guarded(|| {
            let mut scratch = Builder::from_shared_context(context());
            scratch.add_ingredient_from_stream(about, media_type, &mut Cursor::new(file)).map(|told| told.clone())
        })?;
        Ok(Self { relation, told })
    }
}

/// Why a story cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoryError {
    #[error("{count} ingredients are more than the {INGREDIENTS_MAX} that a manifest tells")]
    TooManyIngredients { count: usize },
    #[error("the history names ingredient {index}, and there are {count}")]
    NoSuchIngredient { index: usize, count: usize },
}

impl Story {
    /// # Errors
    /// When it has too many ingredients, or names one that it has not.
    pub(super) fn check(&self) -> Result<(), StoryError> {
        let count = self.ingredients.len();
        if count > INGREDIENTS_MAX {
            return Err(StoryError::TooManyIngredients { count });
        }
        let opened = match self.origin {
            Origin::Opened { ingredient } => Some(ingredient),
            Origin::Created { .. } => None,
        };
        let placed = self.steps.iter().filter_map(|step| match *step {
            Step::Placed { ingredient, .. } => Some(ingredient),
            _ => None,
        });
        match opened.into_iter().chain(placed).find(|index| *index >= count) {
            Some(index) => Err(StoryError::NoSuchIngredient { index, count }),
            None => Ok(()),
        }
    }

    /// The manifest to be, without the binding to a file.
    pub(super) fn builder(&self, media_type: &str) -> Result<Builder, c2pa::Error> {
        let mut builder = Builder::from_shared_context(context());
        let mut generator = ClaimGeneratorInfo::new(CLAIM_GENERATOR);
        generator.set_version(env!("CARGO_PKG_VERSION"));
        builder.set_claim_generator_info(generator).set_format(media_type);
        for (index, ingredient) in self.ingredients.iter().enumerate() {
            let mut told = ingredient.told.clone();
            told.set_label(ingredient_label(index));
            builder.add_ingredient(told);
        }
        created(&mut builder, Actions::LABEL_VERSIONED, &self.actions()?)?;
        if let Some(generation) = &self.generation {
            created(&mut builder, GENERATION_LABEL, &generation.bounded())?;
        }
        if let Some(binding) = &self.soft_binding {
            created(&mut builder, SOFT_BINDING_LABEL, &binding.assertion()?)?;
        }
        Ok(builder)
    }

    fn actions(&self) -> Result<Actions, c2pa::Error> {
        let mut actions = Actions::new().add_action(self.first_action()?);
        for step in &self.steps {
            let mut action = Action::new(self.name_of(*step));
            match *step {
                Step::Resized { width_px, height_px } => {
                    action = action.set_parameter("com.bildkante.size_px", [width_px, height_px])?;
                }
                Step::Placed { ingredient, file } => {
                    action = action.add_ingredient_id(&ingredient_label(ingredient))?;
                    action = action.set_parameter("com.bildkante.file_blake3", file.to_hex())?;
                }
                Step::Cropped | Step::Watermarked | Step::Transcoded => {}
            }
            actions = actions.add_action(action);
        }
        actions.all_actions_included = Some(true);
        Ok(actions)
    }

    fn first_action(&self) -> Result<Action, c2pa::Error> {
        match &self.origin {
            Origin::Created { source, at } => {
                let mut action = Action::new("c2pa.created").set_source_type(source_type(*source)?);
                if let Some(at) = at {
                    action = action.set_when(cut(at));
                }
                let inputs = self.ingredients.iter().enumerate();
                for (index, _) in inputs.filter(|(_, ingredient)| ingredient.relation == Relation::Input) {
                    action = action.add_ingredient_id(&ingredient_label(index))?;
                }
                Ok(action)
            }
            Origin::Opened { ingredient } => {
                Action::new("c2pa.opened").add_ingredient_id(&ingredient_label(*ingredient))
            }
        }
    }

    /// A watermark that binds needs its soft binding in the same manifest.
    const fn name_of(&self, step: Step) -> &'static str {
        match step {
            Step::Watermarked if self.soft_binding.is_none() => "c2pa.watermarked.unbound",
            step => step.as_str(),
        }
    }
}

impl Generation {
    pub(super) fn bounded(&self) -> Self {
        Self {
            recipe: cut(&self.recipe).to_owned(),
            master: cut(&self.master).to_owned(),
            checkpoint: self.checkpoint.as_deref().map(|text| cut(text).to_owned()),
            determinism: self.determinism.as_deref().map(|text| cut(text).to_owned()),
        }
    }
}

impl SoftBinding {
    fn assertion(&self) -> Result<SoftBindingAssertion, c2pa::Error> {
        let (algorithm, value) = (cut(&self.algorithm), cut(&self.value));
        let told = json!({ "alg": algorithm, "blocks": [{ "scope": {}, "value": value }] });
        Ok(serde_json::from_value(told)?)
    }
}

/// Adds an assertion that this software vouches for. Without the mark it would count as gathered from elsewhere.
fn created<T: Serialize>(builder: &mut Builder, label: &str, told: &T) -> Result<(), c2pa::Error> {
    builder.add_assertion(label, told)?;
    if let Some(assertion) = builder.definition.assertions.last_mut() {
        assertion.created = true;
    }
    Ok(())
}

fn source_type(source: DigitalSource) -> Result<c2pa::DigitalSourceType, c2pa::Error> {
    Ok(serde_json::from_value(source.uri().into())?)
}

fn ingredient_label(index: usize) -> String {
    format!("ingredient-{index}")
}

/// The text up to [`STORY_TEXT_BYTES_MAX`] bytes, cut between characters.
pub(super) fn cut(text: &str) -> &str {
    let mut end = text.len().min(STORY_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_one_that_the_standard_knows() {
        for source in DigitalSource::ALL {
            let told = source_type(source).expect("a term");
            assert!(!matches!(told, c2pa::DigitalSourceType::Other(_)), "{source}");
            assert_eq!(serde_json::to_value(told).expect("text"), source.uri());
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("kurz"), "kurz");
        assert_eq!(cut(&"ä".repeat(300)).len(), STORY_TEXT_BYTES_MAX);
        assert_eq!(cut(&format!("a{}", "ä".repeat(300))).len(), STORY_TEXT_BYTES_MAX - 1);
    }
}

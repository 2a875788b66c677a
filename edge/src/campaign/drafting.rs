//! Drafts: what a recipe would be if its manifest or its prompt libraries said something else, and the patch that says so.
//!
//! A draft is an edit of the files' text. The edited files are read as any others are, so the recipe of a draft is by construction the
//! one that its patch gives the variant. Invariants: nothing is written; comments and the order of keys stay; the files edited are those of
//! the catalogue in force, or there is no draft.

mod documents;
mod effect;
mod knobs;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use similar::TextDiff;

use self::documents::Documents;
pub use self::effect::{CHANGES_LISTED_MAX, Changed, Effect};
pub use self::knobs::{KNOB_TEXT_BYTES_MAX, Knob, KnobKind};
use super::catalog::{Catalog, parse_manifests};
use super::fault::CatalogErrors;
use super::sources::{CatalogSources, SourceFiles};
use super::variant::{Variant, query};

/// Lines around a change in a patch.
const PATCH_CONTEXT_LINES: usize = 3;

/// Which variant is drafted.
#[derive(Debug, Clone, Copy)]
pub struct Drafted<'a> {
    pub campaign: &'a str,
    pub slot_index: usize,
    pub combination: u32,
}

/// How far the keys of `[generate]` that a draft changes reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reach {
    /// They become the slot's own: other slots stay as they are.
    #[default]
    Slot,
    /// They are changed where they stand.
    Campaign,
}

impl Reach {
    pub const ALL: [Self; 2] = [Self::Slot, Self::Campaign];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Campaign => "campaign",
        }
    }
}

/// What of a recipe a draft may change: a word of the campaign's files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum KnobId {
    /// The template.
    Prompt,
    /// What the variant's value of this axis gives to the prompt.
    Axis(String),
    Style(String),
    StyleWeight(String),
    StyleNegative(String),
    Block(String),
    BlockWeight(String),
    NegativeList(String),
    Steps,
    Guidance,
    GuidanceRescale,
    /// How much of `init` is painted over.
    Strength,
    LoraWeight(usize),
    ControlWeight(usize),
    ReferenceWeight(usize),
}

impl fmt::Display for KnobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prompt => f.write_str("prompt"),
            Self::Axis(name) => write!(f, "axis:{name}"),
            Self::Style(name) => write!(f, "style:{name}"),
            Self::StyleWeight(name) => write!(f, "style-weight:{name}"),
            Self::StyleNegative(name) => write!(f, "style-negative:{name}"),
            Self::Block(name) => write!(f, "block:{name}"),
            Self::BlockWeight(name) => write!(f, "block-weight:{name}"),
            Self::NegativeList(name) => write!(f, "negative:{name}"),
            Self::Steps => f.write_str("steps"),
            Self::Guidance => f.write_str("guidance"),
            Self::GuidanceRescale => f.write_str("guidance-rescale"),
            Self::Strength => f.write_str("strength"),
            Self::LoraWeight(index) => write!(f, "lora-weight:{index}"),
            Self::ControlWeight(index) => write!(f, "control-weight:{index}"),
            Self::ReferenceWeight(index) => write!(f, "reference-weight:{index}"),
        }
    }
}

impl FromStr for KnobId {
    type Err = DraftError;

    fn from_str(text: &str) -> Result<Self, DraftError> {
        let unknown = || DraftError::NoKnob(text.chars().take(80).collect());
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        let named = || (!name.is_empty()).then(|| name.to_owned()).ok_or_else(unknown);
        let index = || name.parse().map_err(|_| unknown());
        match kind {
            "axis" => named().map(Self::Axis),
            "style" => named().map(Self::Style),
            "style-weight" => named().map(Self::StyleWeight),
            "style-negative" => named().map(Self::StyleNegative),
            "block" => named().map(Self::Block),
            "block-weight" => named().map(Self::BlockWeight),
            "negative" => named().map(Self::NegativeList),
            "lora-weight" => index().map(Self::LoraWeight),
            "control-weight" => index().map(Self::ControlWeight),
            "reference-weight" => index().map(Self::ReferenceWeight),
            _ if !name.is_empty() || text.ends_with(':') => Err(unknown()),
            "prompt" => Ok(Self::Prompt),
            "steps" => Ok(Self::Steps),
            "guidance" => Ok(Self::Guidance),
            "guidance-rescale" => Ok(Self::GuidanceRescale),
            "strength" => Ok(Self::Strength),
            _ => Err(unknown()),
        }
    }
}

/// Why there is no draft.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    #[error("no model draws it: its pictures are imported")]
    NotDrawn,
    #[error("`{0}` is nothing that a draft of this variant changes")]
    NoKnob(String),
    #[error("`{knob}`: {reason}")]
    Value { knob: String, reason: String },
    #[error(
        "the campaigns' files are not those that this edge serves: it takes them over, or says why not, within a moment"
    )]
    FilesChanged,
    #[error("{file} cannot be edited in place: {reason}")]
    File { file: String, reason: String },
    #[error("with these changes the campaign would be refused:\n{0}")]
    Refused(CatalogErrors),
    /// Why is told to those who may read that campaign's manifest, not here.
    #[error("with these changes another campaign that uses the same prompt library would be refused")]
    RefusedElsewhere,
}

/// One draft: the variant with the recipe that the patched files give it.
#[derive(Debug)]
pub struct Draft {
    pub seed: u32,
    pub variant: Variant,
    /// A unified diff of the campaign's files, in the paths of a folder that holds `campaigns` and `prompts`. Empty where nothing is
    /// changed.
    pub patch: String,
    pub effect: Effect,
}

/// Which seeds a draft is drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DraftSeeds {
    /// The first; `None`: the one that the edited manifest gives.
    pub first: Option<u32>,
    /// So many, one behind the other.
    pub count: u32,
}

/// Reads and edits the files of one campaign.
#[derive(Debug)]
pub struct Drafting {
    files: SourceFiles,
    documents: Documents,
}

impl Drafting {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// When they are not those of the catalogue, or cannot be edited.
    pub fn open(sources: &CatalogSources, catalog: &Catalog, of: Drafted<'_>) -> Result<Self, DraftError> {
        let files = SourceFiles::read(sources);
        if files.digest != *catalog.digest() {
            return Err(DraftError::FilesChanged);
        }
        let campaign = catalog.campaign(of.campaign).ok_or(DraftError::NotDrawn)?;
        let slot = &campaign.slots[of.slot_index];
        slot.drawn().ok_or(DraftError::NotDrawn)?;
        let documents = Documents::open(&files, campaign, slot)?;
        Ok(Self { files, documents })
    }

    /// What of the variant's recipe may be changed, with what it is now.
    #[must_use]
    pub fn knobs(&self, catalog: &Catalog, of: Drafted<'_>) -> Vec<Knob> {
        let Some(campaign) = catalog.campaign(of.campaign) else { return Vec::new() };
        knobs::of(&self.documents, campaign, of)
    }

    /// The drafts that these changes make, one per seed. Takes as long as reading the campaign anew, and as looking through the
    /// slots that are changed: not for an async worker.
    ///
    /// # Errors
    /// When a change is none of this variant's, has no sound value, or makes the campaign one that would be refused.
    pub fn drafts(
        mut self,
        (sources, catalog): (&CatalogSources, &Catalog),
        of: Drafted<'_>,
        (changes, reach): (&BTreeMap<KnobId, String>, Reach),
        seeds: DraftSeeds,
    ) -> Result<Vec<Draft>, DraftError> {
        let known = self.knobs(catalog, of);
        for (id, value) in changes {
            let knob = known.iter().find(|knob| knob.id == *id).ok_or_else(|| DraftError::NoKnob(id.to_string()))?;
            let edit = knob.kind.read(id, value)?;
            if !knob.is_now(&edit) {
                self.documents.set(catalog, of, (id, &edit), reach)?;
            }
        }
        let drawn = self.read(sources, catalog, of, None)?;
        let own = drawn.variant.drawn_seed().ok_or(DraftError::NotDrawn)?;
        let first = seeds.first.unwrap_or(own);
        let all = (0..seeds.count.max(1)).map(|step| first.wrapping_add(step));
        let mut drafts = Vec::new();
        let mut drawn = Some(drawn);
        for seed in all {
            let draft = match drawn.take_if(|drawn| drawn.seed == seed) {
                Some(draft) => draft,
                None => self.read(sources, catalog, of, Some(seed))?,
            };
            drafts.push(draft);
        }
        Ok(drafts)
    }

    /// Reads the edited files: with a seed of this picture's own, or with that which they give it.
    fn read(
        &self,
        sources: &CatalogSources,
        catalog: &Catalog,
        of: Drafted<'_>,
        seed: Option<u32>,
    ) -> Result<Draft, DraftError> {
        let campaign = catalog.campaign(of.campaign).ok_or(DraftError::NotDrawn)?;
        let mut documents = self.documents.clone();
        let mut edited = self.edited(sources, &documents)?;
        if let Some(seed) = seed {
            let after = edited.campaign(of.campaign).ok_or(DraftError::NotDrawn)?;
            let slot = &after.slots[of.slot_index];
            let generate = slot.drawn().ok_or(DraftError::NotDrawn)?;
            let values = after.values_of(of.combination);
            let picture = query(&after.axes, &values, |axis, _| generate.differs_by(axis));
            documents.set_seed(&slot.name, &picture, seed)?;
            edited = self.edited(sources, &documents)?;
        }
        let after = edited.campaign(of.campaign).ok_or(DraftError::NotDrawn)?;
        let variant = edited
            .variant(after, of.slot_index, of.combination)
            .map_err(|error| DraftError::Value { knob: "recipe".to_owned(), reason: error.to_string() })?;
        let variant = Variant { key: campaign.key(of.slot_index, of.combination), ..Arc::unwrap_or_clone(variant) };
        Ok(Draft {
            seed: variant.drawn_seed().ok_or(DraftError::NotDrawn)?,
            variant,
            patch: patch(&documents),
            effect: effect::between(catalog, &edited, of.campaign),
        })
    }

    /// The campaigns that the edited files belong to, as they would be.
    fn edited(&self, sources: &CatalogSources, documents: &Documents) -> Result<Catalog, DraftError> {
        let mut files = self.files.clone();
        documents.put_into(&mut files);
        Catalog::from_manifests(parse_manifests(files), sources)
            .map_err(|errors| self.refusal(documents.own(), &errors))
    }

    /// Why the edited files are refused, without what stands in other campaigns' manifests.
    fn refusal(&self, own: &str, errors: &CatalogErrors) -> DraftError {
        let others = self.files.campaigns.iter().filter(|(name, _)| *name != own);
        let others: Vec<_> = others.flat_map(|(_, it)| [&it.manifest.path, &it.lock_path]).collect();
        let told = errors.faults().iter().filter(|fault| !others.contains(&&fault.file)).cloned().collect();
        CatalogErrors::check(told).map_or_else(DraftError::Refused, |()| DraftError::RefusedElsewhere)
    }
}

fn patch(documents: &Documents) -> String {
    let mut patch = String::new();
    for (path, before, after) in documents.changed() {
        let diff = TextDiff::from_lines(before, after.as_str());
        let mut unified = diff.unified_diff();
        unified.context_radius(PATCH_CONTEXT_LINES).header(&format!("a/{path}"), &format!("b/{path}"));
        patch.push_str(&unified.to_string());
    }
    patch
}

#[cfg(test)]
mod tests;

//! A trace as data for people, as `bildkante-edge explain URL` prints it.
//!
//! Invariant: nothing is resolved here; what a trace does not say is not said.

use std::collections::BTreeMap;
use std::fmt;

use bildkante_shared::ids::{Digest, RecipeId};
use bildkante_shared::import::{ImportRecipe, MasterRecipe};
use bildkante_shared::problem::Problem;
use bildkante_shared::recipe::Recipe;
use bildkante_shared::wire::DedupScope;
use serde::Serialize;

use super::{Factor, Factors, Refusal, Resolution, Resolved, Trace};
use crate::render::BytesMax;
use crate::render::layers::{LayerSet, Trial};
use crate::request::{ImageRequest, WidthAsk};
use crate::signing::Grant;

/// The stages in order; what follows a `problem` is absent.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    pub url: String,
    /// The request in its one spelling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// What the signature was found to be, where there is a valid one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<ExplainedSignature>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<ExplainedVariant>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rendition: Option<ExplainedRendition>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ExplainedSignature {
    pub key_id: String,
    /// Seconds since 1970.
    pub expires_s: Option<u64>,
    /// Seconds until the URL or its key ends.
    pub left_s: Option<u32>,
}

impl fmt::Display for ExplainedSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "valid, by key {}", self.key_id)?;
        match self.left_s {
            Some(left_s) => write!(f, ", for another {left_s} s"),
            None => f.write_str(", without an end"),
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct ExplainedVariant {
    pub name: String,
    pub campaign: Digest,
    pub values: BTreeMap<String, String>,
    pub locale: String,
    pub alt: String,
    /// What the markup shows beside the picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<ExplainedLabel>,
    pub recipe_id: RecipeId,
    pub recipe: ExplainedRecipe,
    /// Its name, where a model draws the picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Places of layers that the model is told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<String>,
    pub dedup: DedupScope,
    pub urgency: u8,
    pub on_miss: String,
    pub tags: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ExplainedLabel {
    pub show: &'static str,
    pub text: String,
}

/// What determines the picture.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum ExplainedRecipe {
    Drawn(Box<Recipe>),
    Imported(ImportRecipe),
    Awaited { awaited_import: &'static str },
}

impl From<&MasterRecipe> for ExplainedRecipe {
    fn from(recipe: &MasterRecipe) -> Self {
        match recipe {
            MasterRecipe::Drawn(recipe) => Self::Drawn(Box::new((***recipe).clone())),
            MasterRecipe::Imported(import) => Self::Imported((**import).clone()),
            MasterRecipe::Awaited(_) => {
                Self::Awaited { awaited_import: "no picture has been imported for this variant yet" }
            }
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct ExplainedRendition {
    pub spec: String,
    pub media_type: &'static str,
    /// Whether the answer carries `Vary: Accept`.
    pub is_negotiated: bool,
    /// Whether it carries the hints in `Vary`.
    pub uses_hints: bool,
    /// Whether it carries `Save-Data` there.
    pub may_save_data: bool,
    pub url: String,
    pub file_name: String,
    /// What is done to its pixels beside cut and size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub look: Option<String>,
    /// Most bytes of its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u32>,
    /// What is laid on it, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<ExplainedLayer>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ExplainedLayer {
    pub name: String,
    pub kind: &'static str,
    pub shows: String,
}

impl Explanation {
    /// Of a URL of which nothing is known.
    #[must_use]
    pub fn unread(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            request: None,
            signature: None,
            variant: None,
            rendition: None,
            warnings: Vec::new(),
            problem: None,
        }
    }

    /// What a trace says of the URL it is of.
    #[must_use]
    pub fn of(url: &str, trace: &Trace<'_>) -> Self {
        let request = trace.request.as_ref();
        let signed = request.zip(trace.grant);
        let found = request.zip(trace.outcome.as_ref().ok());
        Self {
            url: url.to_owned(),
            request: request.map(ImageRequest::canonical),
            signature: signed.and_then(|(request, grant)| signature(request, grant)),
            variant: found.map(|(_, found)| variant(&found.resolved)),
            rendition: found.map(|(request, found)| rendition(request, found, trace.factors)),
            warnings: found.map(|(request, found)| warnings(request, &found.resolved)).unwrap_or_default(),
            problem: trace.outcome.as_ref().err().map(Refusal::problem),
        }
    }
}

fn signature(request: &ImageRequest<'_>, grant: Grant) -> Option<ExplainedSignature> {
    let ask = request.signature.as_ref()?;
    let key_id = ask.key_id.clone().into_owned();
    Some(ExplainedSignature { key_id, expires_s: ask.expires_s, left_s: grant.left_s() })
}

fn rendition(request: &ImageRequest<'_>, found: &Resolution, factors: Factors) -> ExplainedRendition {
    let Resolution { resolved, want } = found;
    ExplainedRendition {
        spec: want.spec.to_string(),
        media_type: want.spec.format.media_type(),
        is_negotiated: factors.contains(Factor::Accept),
        uses_hints: factors.contains(Factor::Hints),
        may_save_data: factors.contains(Factor::SaveData),
        url: one_url(request, resolved),
        file_name: format!("{}.{}", resolved.variant.file_stem, want.spec.format.extension()),
        look: want.finish.look().map(|look| look.words()),
        bytes_max: want.finish.bytes_max().map(BytesMax::get),
        layers: want.finish.layers().map(|layers| layers_of(layers)).unwrap_or_default(),
    }
}

fn layers_of(set: &LayerSet) -> Vec<ExplainedLayer> {
    let layers = set.told().map(|(name, kind, shows)| ExplainedLayer { name: name.to_owned(), kind, shows });
    layers.collect()
}

/// A rung of the ladder has one URL; what was signed for has the one it was asked for under.
fn one_url(request: &ImageRequest<'_>, resolved: &Resolved) -> String {
    let framing = resolved.framing();
    let width_px = resolved.width_px;
    let plain = (framing.height_px(width_px), framing.shape(resolved.variant.size_px, width_px));
    if framing.widths.contains(&width_px) && (resolved.height_px, resolved.shape) == plain {
        return resolved.rendition_url();
    }
    ImageRequest { signature: None, ..request.clone() }.canonical()
}

fn variant(resolved: &Resolved) -> ExplainedVariant {
    let Resolved { campaign, slot, variant, .. } = resolved;
    let values = campaign.axes.iter().zip(&variant.values);
    ExplainedVariant {
        name: variant.name.clone(),
        campaign: campaign.digest,
        values: values.map(|(axis, index)| (axis.name.clone(), axis.values[*index].name.clone())).collect(),
        locale: resolved.locale().to_owned(),
        alt: resolved.alt(),
        label: resolved.label().map(|label| ExplainedLabel { show: label.show.as_str(), text: label.text.to_owned() }),
        recipe_id: variant.recipe.id(),
        recipe: (&variant.recipe).into(),
        checkpoint: slot.drawn().map(|generate| generate.checkpoint.clone()),
        places: places(resolved),
        dedup: variant.dedup.clone(),
        urgency: slot.urgency.get(),
        on_miss: slot.on_miss.to_string(),
        tags: variant.tags.all().map(str::to_owned).into(),
    }
}

fn places(resolved: &Resolved) -> Vec<String> {
    let Resolved { campaign, slot, variant, .. } = resolved;
    let generate = slot.drawn().filter(|_| variant.recipe.drawn().is_some());
    let places = generate.into_iter().flat_map(|generate| generate.additions.places());
    places.map(|place| place.shown(slot, &campaign.axes, &variant.values)).collect()
}

fn warnings(request: &ImageRequest<'_>, resolved: &Resolved) -> Vec<String> {
    let mut warnings = Vec::new();
    let slot = &resolved.slot;
    if let Some(WidthAsk::Px(css_px)) = request.width {
        let wanted_px = request.dpr.device_px(css_px);
        if wanted_px > resolved.width_px {
            let reason = if resolved.grant.unlocks_shapes(request) {
                "the master gives".to_owned()
            } else {
                format!("the ladder of `{}` ends at", slot.name)
            };
            warnings.push(format!("{wanted_px} px were asked for, {reason} {} px", resolved.width_px));
        }
    }
    if request.uses_hints() {
        warnings.push("w=auto: shown is the default width, for a client that sends no hints".to_owned());
    }
    if request.may_save_data() {
        warnings.push("save-data=auto: shown is the usual quality, for a client that does not save data".to_owned());
    }
    let (width_px, height_px) = resolved.variant.size_px;
    let native_px = resolved.framing().ratio.cropped_width_px(width_px, height_px);
    if resolved.width_px > native_px {
        let factor = f64::from(resolved.width_px) / f64::from(native_px);
        warnings.push(format!("the master is enlarged {factor:.2} times: its crop is {native_px} px wide"));
    }
    let (width_px, height_px) = (resolved.width_px, resolved.height_px);
    if let Some(set) = resolved.variant.finish_of(resolved.cut).layers() {
        let faults = Trial::default().faults(set, (width_px, height_px), None);
        warnings.extend(faults.iter().map(ToString::to_string));
    }
    warnings
}

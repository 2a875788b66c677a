//! Request → variant, size, quality: what a URL means in a snapshot of the catalogue, or why it means nothing.
//!
//! Invariants: a request for anything outside a slot's finite set needs a grant; a request that is refused reaches no cache and
//! no node.
//!
//! Cheap for what was asked before: looking up names, adding up the combination, one memo lookup. The first
//! request for a variant builds its prompt and hashes its recipe.

use std::sync::Arc;

use bildkante_shared::ids::MasterId;
use bildkante_shared::import::{DigitalSource, MasterRecipe};
use bildkante_shared::problem::Problem;

use super::layout::{Ask, Layout, Limits};
use crate::campaign::manifest::Signing;
use crate::campaign::{ART, Campaign, Catalog, Cut, Framing, ShownLabel, Slot, Variant, VariantError, Version};
use crate::render::{Quality, RenditionSpec, Shape};
use crate::request::parameters::{Parameter, UNSIGNED};
use crate::request::{ClientHints, Fit, FormatAsk, ImageRequest, QualityAsk, WidthAsk, excerpt};
use crate::signing::Grant;
use crate::words::Format;

/// A request with a meaning.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub campaign: Arc<Campaign>,
    pub slot: Arc<Slot>,
    pub slot_index: usize,
    /// Which of the slot's cuts; `None`: its own framing.
    pub cut: Option<usize>,
    pub variant: Arc<Variant>,
    pub width_px: u32,
    pub height_px: u32,
    /// How the master fills it.
    pub shape: Shape,
    pub quality: Quality,
    pub quality_ask: QualityAsk,
    /// Allowed by the slot where it is explicit.
    pub format: FormatAsk,
    /// Who vouches for the request, and until when.
    pub grant: Grant,
}

/// Why a well-formed request means nothing here. Nothing of it reaches a node.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ResolveError {
    #[error("there is no campaign `{name}`")]
    UnknownCampaign { name: String },
    #[error("campaign `{campaign}` has no slot `{name}`")]
    UnknownSlot { campaign: String, name: String, allowed: Vec<String> },
    #[error("`{name}` is neither an axis of campaign `{campaign}` nor a rendition parameter")]
    UnknownParameter { campaign: String, name: String, allowed: Vec<String> },
    #[error("axis `{axis}` has no value `{value}`")]
    UnknownValue { axis: String, value: String, allowed: Vec<String> },
    #[error("`{axis}={value}` does not go with `{with_axis}={with_value}`")]
    Restricted { axis: String, value: String, with_axis: String, with_value: String, allowed: Vec<String> },
    #[error("`{parameter}` at this value needs a signed URL; without one a slot takes its axes and {}", UNSIGNED.join(", "))]
    NeedsSignature { parameter: &'static str, allowed: Vec<String> },
    #[error("slot `{slot}` is not encoded as {format}")]
    FormatNotAllowed { slot: String, format: String, allowed: Vec<String> },
    #[error("campaign `{campaign}` answers signed URLs only")]
    SignatureRequired { campaign: String },
    #[error("slot `{slot}` has no cut `{name}`")]
    UnknownCut { slot: String, name: String, allowed: Vec<String> },
    #[error(transparent)]
    Variant(#[from] VariantError),
}

impl ResolveError {
    /// For logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::UnknownCampaign { .. } => "unknown-campaign",
            Self::UnknownSlot { .. } => "unknown-slot",
            Self::UnknownParameter { .. } => "unknown-parameter",
            Self::UnknownValue { .. } => "unknown-value",
            Self::Restricted { .. } => "restricted-value",
            Self::NeedsSignature { .. } => "needs-signature",
            Self::FormatNotAllowed { .. } => "format-not-allowed",
            Self::SignatureRequired { .. } => "signature-required",
            Self::UnknownCut { .. } => "unknown-cut",
            Self::Variant(error) => error.as_str(),
        }
    }

    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::UnknownCampaign { .. } | Self::UnknownSlot { .. } => 404,
            Self::SignatureRequired { .. } => 403,
            Self::Variant(_) => 500,
            _ => 400,
        }
    }

    /// The parameter at fault and what it takes.
    fn parameter(&self) -> Option<(&str, &[String])> {
        Some(match self {
            Self::UnknownSlot { allowed, .. } => ("slot", allowed),
            Self::UnknownParameter { name, allowed, .. } => (name, allowed),
            Self::UnknownValue { axis, allowed, .. } => (axis, allowed),
            Self::Restricted { with_axis, allowed, .. } => (with_axis, allowed),
            Self::NeedsSignature { parameter, allowed } => (parameter, allowed),
            Self::FormatNotAllowed { allowed, .. } => (Parameter::Format.name(), allowed),
            Self::UnknownCut { allowed, .. } => (ART, allowed),
            Self::UnknownCampaign { .. } => ("campaign", &[]),
            Self::SignatureRequired { .. } => (Parameter::Signature.name(), &[]),
            Self::Variant(_) => return None,
        })
    }

    #[must_use]
    pub fn problem(&self) -> Problem {
        let title = match self.status() {
            404 => "Not found",
            403 => "Forbidden",
            500 => "Internal error",
            _ => "Parameter not allowed",
        };
        let problem = Problem::new(self.status(), self.as_str(), title, self.to_string());
        match self.parameter() {
            Some((parameter, allowed)) => problem.with_parameter(parameter, allowed.to_vec()),
            None => problem,
        }
    }
}

impl Resolved {
    /// # Errors
    /// When the request names what does not exist or asks for what it is not granted.
    pub(super) fn new(
        catalog: &Catalog,
        request: &ImageRequest<'_>,
        grant: Grant,
        hints: ClientHints,
    ) -> Result<Self, ResolveError> {
        let campaign = catalog.campaign(&request.campaign);
        let campaign = campaign.ok_or_else(|| ResolveError::UnknownCampaign { name: excerpt(&request.campaign) })?;
        let slot_index = campaign.slot_index(&request.slot).ok_or_else(|| unknown_slot(campaign, &request.slot))?;
        let slot = &campaign.slots[slot_index];
        check_policy(campaign, grant)?;
        let cut = cut(slot, request)?;
        let framing = slot.framing_of(cut);
        let combination = combination(campaign, slot, request)?;
        check_reach(slot, framing, request, grant)?;
        let variant = variant(catalog, campaign, slot_index, combination)?;
        let Layout { width_px, height_px, shape } = layout((slot, framing), variant.size_px, request, grant, hints);
        Ok(Self {
            width_px,
            height_px,
            shape,
            quality: request.quality.quality(),
            quality_ask: request.quality,
            format: request.format,
            campaign: Arc::clone(campaign),
            slot: Arc::clone(slot),
            slot_index,
            cut,
            variant,
            grant,
        })
    }

    /// The same in `low` quality, which every slot has, or in the lower one that was asked for.
    #[must_use]
    pub(super) fn saving(self) -> Self {
        let low = QualityAsk::Low;
        if self.quality <= low.quality() { self } else { Self { quality: low.quality(), quality_ask: low, ..self } }
    }

    /// How its pictures are framed.
    #[must_use]
    pub fn framing(&self) -> &Framing {
        self.slot.framing_of(self.cut)
    }

    /// The cut that was asked for.
    #[must_use]
    pub fn art(&self) -> Option<&Cut> {
        self.slot.cuts.get(self.cut?)
    }

    /// What is cut from the master for a client that takes `format`.
    #[must_use]
    pub const fn spec(&self, format: Format) -> RenditionSpec {
        let Self { width_px, height_px, shape, quality, .. } = *self;
        RenditionSpec { width_px, height_px, shape, format, quality }
    }

    /// The version of this rendition's master, for `v`.
    #[must_use]
    pub fn version(&self, master: MasterId) -> Version {
        Version::new(self.variant.recipe.id(), master, self.campaign.rendition_digest(self.slot_index))
    }

    /// The alt text in the variant's locale.
    #[must_use]
    pub fn alt(&self) -> String {
        self.campaign.alt(&self.slot, &self.variant.values)
    }

    /// How the picture comes to be; `None` of one that is awaited.
    #[must_use]
    pub fn source(&self) -> Option<DigitalSource> {
        let is_awaited = matches!(self.variant.recipe, MasterRecipe::Awaited(_));
        (!is_awaited).then(|| self.variant.finish_of(self.cut).description().source)
    }

    /// What stands beside the picture where a page shows it.
    #[must_use]
    pub fn label(&self) -> Option<ShownLabel<'_>> {
        self.slot.label.shown(self.source()?, self.locale())
    }

    #[must_use]
    pub fn locale(&self) -> &str {
        self.campaign.locale(&self.variant.values)
    }

    /// The variant's one URL: what search engines are told, at the slot's default width in any format.
    #[must_use]
    pub fn canonical_url(&self) -> String {
        self.campaign.url(&self.slot, &self.variant.query)
    }

    /// The one URL of exactly this rendition: equal renditions have equal URLs, also where different URLs were asked for.
    #[must_use]
    pub fn rendition_url(&self) -> String {
        let mut url = self.canonical_url();
        let separator = if self.variant.query.is_empty() { '?' } else { '&' };
        url.push(separator);
        if let Some(cut) = self.art() {
            url.push_str(&format!("{ART}={}&", cut.name));
        }
        url.push_str(&format!("w={}", self.width_px));
        if let FormatAsk::Explicit(format) = self.format {
            url.push_str(&format!("&fm={}", format.extension()));
        }
        if self.quality_ask != QualityAsk::Auto {
            url.push_str(&format!("&q={}", self.quality_ask));
        }
        url
    }
}

/// A variant that is memoised is one whose combination was allowed.
fn variant(
    catalog: &Catalog,
    campaign: &Campaign,
    slot_index: usize,
    combination: u32,
) -> Result<Arc<Variant>, ResolveError> {
    if let Some(variant) = catalog.memoised(&campaign.key(slot_index, combination)) {
        return Ok(variant);
    }
    check_restrictions(campaign, combination)?;
    Ok(catalog.variant(campaign, slot_index, combination)?)
}

/// Without a grant a rung of the ladder in the slot's ratio; with one the size that was asked for. `w=auto` is a rung in
/// either case: the client's hints choose it, and a signature does not cover them.
fn layout(
    (slot, framing): (&Slot, &Framing),
    source: (u32, u32),
    request: &ImageRequest<'_>,
    grant: Grant,
    hints: ClientHints,
) -> Layout {
    let exact_px = match request.width {
        Some(WidthAsk::Px(css_px)) => Some(request.dpr.device_px(css_px)),
        Some(WidthAsk::Auto) | None => None,
    };
    let rung_px = || match request.width {
        Some(WidthAsk::Auto) => framing.snap_up(hints.device_px(framing.default_width_px, request.dpr)),
        _ => framing.snap_up(exact_px.unwrap_or_else(|| request.dpr.device_px(framing.default_width_px))),
    };
    if !grant.unlocks_shapes(request) {
        let rung_px = rung_px();
        let is_kept = request.fit == Fit::Crop;
        let within_px = if is_kept { framing.snap_within(rung_px, slot.making.size_px()) } else { None };
        let width_px = within_px.unwrap_or(rung_px);
        let (height_px, shape) = (framing.height_px(width_px), framing.shape(source, width_px));
        return Layout { width_px, height_px, shape };
    }
    let width_px = if request.uses_hints() { Some(rung_px()) } else { exact_px };
    let limits = Limits { source, slot_ratio: framing.ratio, upscale_max: slot.upscale_max };
    Layout::new(&Ask::of(request, width_px, rung_px(), framing.focal), &limits)
}

fn unknown_slot(campaign: &Campaign, name: &str) -> ResolveError {
    let allowed = campaign.slots.iter().map(|slot| slot.name.clone()).collect();
    ResolveError::UnknownSlot { campaign: campaign.name.clone(), name: excerpt(name), allowed }
}

fn check_policy(campaign: &Campaign, grant: Grant) -> Result<(), ResolveError> {
    match (campaign.policy.signing, grant) {
        (Signing::Required, Grant::Public) => Err(ResolveError::SignatureRequired { campaign: campaign.name.clone() }),
        (Signing::Required, Grant::Signed { .. } | Grant::Operator) | (Signing::Optional, _) => Ok(()),
    }
}

/// The number of the combination the axes of a request make, defaults filled in.
fn combination(campaign: &Campaign, slot: &Slot, request: &ImageRequest<'_>) -> Result<u32, ResolveError> {
    let mut combination = campaign.default_combination();
    for (name, value) in request.axes.iter().filter(|(name, _)| !is_art(slot, name)) {
        let axis = campaign.axis_index(name).ok_or_else(|| unknown_parameter(campaign, slot, name))?;
        let index = campaign.axes[axis].value_index_in_url(value).ok_or_else(|| ResolveError::UnknownValue {
            axis: campaign.axes[axis].name.clone(),
            value: excerpt(value),
            allowed: campaign.axes[axis].value_names(),
        })?;
        combination = campaign.with_value(combination, axis, index);
    }
    Ok(combination)
}

/// `art` is a parameter where the slot has cuts, and a name as any other elsewhere.
fn is_art(slot: &Slot, name: &str) -> bool {
    !slot.cuts.is_empty() && name.eq_ignore_ascii_case(ART)
}

/// The place of the cut that a request names.
fn cut(slot: &Slot, request: &ImageRequest<'_>) -> Result<Option<usize>, ResolveError> {
    let Some((_, name)) = request.axes.iter().find(|(name, _)| is_art(slot, name)) else { return Ok(None) };
    let place = slot.cuts.iter().position(|cut| cut.name.eq_ignore_ascii_case(name));
    place.map(Some).ok_or_else(|| ResolveError::UnknownCut {
        slot: slot.name.clone(),
        name: excerpt(name),
        allowed: slot.cuts.iter().map(|cut| cut.name.clone()).collect(),
    })
}

fn unknown_parameter(campaign: &Campaign, slot: &Slot, name: &str) -> ResolveError {
    let axes = campaign.axes.iter().map(|axis| axis.name.clone());
    let art = (!slot.cuts.is_empty()).then(|| ART.to_owned());
    let allowed = axes.chain(art).chain(UNSIGNED.iter().map(ToString::to_string)).collect();
    ResolveError::UnknownParameter { campaign: campaign.name.clone(), name: excerpt(name), allowed }
}

/// What lies outside the finite set of a slot needs a grant; formats the slot does not have cannot be granted.
fn check_reach(slot: &Slot, framing: &Framing, request: &ImageRequest<'_>, grant: Grant) -> Result<(), ResolveError> {
    if !grant.unlocks_shapes(request)
        && let Some(parameter) = request.reshaping_parameter(framing.ratio)
    {
        let allowed = match parameter {
            Parameter::AspectRatio => vec![framing.ratio.to_string()],
            Parameter::Fit => vec!["cover".to_owned(), "crop".to_owned()],
            Parameter::Crop => vec!["center".to_owned()],
            _ => Vec::new(),
        };
        return Err(ResolveError::NeedsSignature { parameter: parameter.name(), allowed });
    }
    let is_kept_within = || framing.snap_within(1, slot.making.size_px()).is_some();
    if !grant.unlocks_shapes(request) && request.fit == Fit::Crop && !is_kept_within() {
        let allowed = vec!["cover".to_owned()];
        return Err(ResolveError::NeedsSignature { parameter: Parameter::Fit.name(), allowed });
    }
    if let QualityAsk::Number(quality) = request.quality
        && !slot.qualities.contains(&quality)
        && !grant.unlocks_shapes(request)
    {
        let words = ["auto", "high", "medium", "low"].map(str::to_owned);
        let allowed = words.into_iter().chain(slot.qualities.iter().map(|quality| quality.get().to_string())).collect();
        return Err(ResolveError::NeedsSignature { parameter: Parameter::Quality.name(), allowed });
    }
    if let FormatAsk::Explicit(format) = request.format
        && !slot.formats.contains(format)
    {
        let formats = slot.formats.iter().map(|format| format.extension().to_owned());
        let allowed = std::iter::once("auto".to_owned()).chain(formats).collect();
        return Err(ResolveError::FormatNotAllowed { slot: slot.name.clone(), format: format.to_string(), allowed });
    }
    Ok(())
}

fn check_restrictions(campaign: &Campaign, combination: u32) -> Result<(), ResolveError> {
    let values = campaign.values_of(combination);
    let Some(broken) = campaign.forbidden(&values) else { return Ok(()) };
    let other = &campaign.axes[broken.restriction.axis];
    let allowed = broken.restriction.values.iter().map(|index| other.values[*index].name.clone()).collect();
    Err(ResolveError::Restricted {
        axis: broken.axis.name.clone(),
        value: broken.value.name.clone(),
        with_axis: other.name.clone(),
        with_value: other.values[values[broken.restriction.axis]].name.clone(),
        allowed,
    })
}

#[cfg(test)]
mod tests;

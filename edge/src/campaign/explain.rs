//! `bildkante-edge explain URL`: what each stage makes of a request, as data.

use std::collections::BTreeMap;
use std::fmt;

use bildkante_shared::ids::{Digest, RecipeId};
use bildkante_shared::problem::Problem;
use bildkante_shared::recipe::Recipe;
use bildkante_shared::wire::DedupScope;
use serde::Serialize;

use super::catalog::Catalog;
use super::resolve::Resolved;
use crate::negotiate;
use crate::render::{RenditionSpec, Shape};
use crate::request::{ImageRequest, Target, WidthAsk};
use crate::signing::{Grant, SignatureError};

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
    /// For those who go on to caches and bytes.
    #[serde(skip)]
    pub resolved: Option<(Resolved, RenditionSpec)>,
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
    pub recipe_id: RecipeId,
    pub recipe: Recipe,
    pub checkpoint: String,
    pub dedup: DedupScope,
    pub urgency: u8,
    pub on_miss: String,
    pub tags: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ExplainedRendition {
    pub spec: String,
    pub media_type: &'static str,
    /// Whether the answer carries `Vary: Accept`.
    pub is_negotiated: bool,
    /// Whether it carries the hints in `Vary`.
    pub uses_hints: bool,
    pub url: String,
    pub file_name: String,
}

/// Parses, verifies, resolves and negotiates. `url` is a path with query, or a whole URL whose scheme and host are
/// dropped; `verify` says what a request's signature grants.
#[must_use]
pub fn explain_request(
    catalog: &Catalog,
    url: &str,
    accept: Option<&str>,
    verify: impl Fn(&ImageRequest<'_>) -> Result<Grant, SignatureError>,
) -> Explanation {
    let mut explanation = Explanation {
        url: url.to_owned(),
        request: None,
        signature: None,
        variant: None,
        rendition: None,
        warnings: Vec::new(),
        problem: None,
        resolved: None,
    };
    let Target { path, query } = Target::from(url);
    let request = match ImageRequest::parse(path, query, catalog) {
        Ok(request) => request,
        Err(error) => {
            explanation.problem = Some(error.problem());
            return explanation;
        }
    };
    explanation.request = Some(request.canonical());
    let grant = match verify(&request) {
        Ok(grant) => grant,
        Err(error) => {
            explanation.problem = Some(error.problem());
            return explanation;
        }
    };
    explanation.signature = request.signature.as_ref().map(|ask| ExplainedSignature {
        key_id: ask.key_id.clone().into_owned(),
        expires_s: ask.expires_s,
        left_s: grant.left_s(),
    });
    let resolved = match catalog.resolve(&request, grant) {
        Ok(resolved) => resolved,
        Err(error) => {
            explanation.problem = Some(error.problem());
            return explanation;
        }
    };
    explanation.variant = Some(variant(&resolved));
    let format = negotiate::choose(accept, resolved.format, resolved.slot.formats);
    let spec = resolved.spec(format);
    explanation.rendition = Some(ExplainedRendition {
        spec: spec.to_string(),
        media_type: format.media_type(),
        is_negotiated: resolved.format.is_negotiable(),
        uses_hints: request.uses_hints(),
        url: one_url(&request, &resolved),
        file_name: format!("{}.{}", resolved.variant.file_stem, format.extension()),
    });
    explanation.warnings = warnings(&request, &resolved);
    explanation.resolved = Some((resolved, spec));
    explanation
}

/// A rung of the ladder has one URL; what was signed for has the one it was asked for under.
fn one_url(request: &ImageRequest<'_>, resolved: &Resolved) -> String {
    let plain = (resolved.slot.ratio.height_px(resolved.width_px), Shape::DEFAULT);
    if resolved.slot.widths.contains(&resolved.width_px) && (resolved.height_px, resolved.shape) == plain {
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
        recipe_id: variant.recipe.id(),
        recipe: variant.recipe.clone().into_recipe(),
        checkpoint: slot.generate.checkpoint.clone(),
        dedup: variant.dedup.clone(),
        urgency: slot.urgency.get(),
        on_miss: slot.on_miss.to_string(),
        tags: variant.tags.all().map(str::to_owned).into(),
    }
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
    let native_px = slot.ratio.cropped_width_px(slot.generate.width_px, slot.generate.height_px);
    if resolved.width_px > native_px {
        let factor = f64::from(resolved.width_px) / f64::from(native_px);
        warnings.push(format!("the master is enlarged {factor:.2} times: its crop is {native_px} px wide"));
    }
    warnings
}

//! Pictures that are drawn in parts: a draft that is enlarged and drawn over, and details that are painted anew. What each part
//! does not say it has from the slot.

use bildkante_shared::limits::{DETAILS_MAX, GUIDANCE_MAX, MASTER_SIDE_PX_MULTIPLE, PROMPT_BYTES_MAX, STEPS_MAX};
use bildkante_shared::recipe::{DetailUse, DraftUse, Enlarge};

use super::{Control, Seen, read_controls, read_loras, required_image_use};
use crate::campaign::layers::{ImageUse, PlaceReader};
use crate::campaign::pins::Pins;
use crate::campaign::reader::{TableReader, no_hint};

const ENLARGE: [(&str, Enlarge); 2] = [("pixels", Enlarge::Pixels), ("latents", Enlarge::Latents)];

/// By name what [`DraftUse`] has by digest.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// Share of the picture's sides.
    pub scale: f64,
    pub strength: f64,
    pub enlarge: Enlarge,
    pub steps: Option<u32>,
    pub guidance: Option<f64>,
    pub loras: Option<Vec<(String, f64)>>,
    pub controls: Vec<Control>,
}

/// By name what [`DetailUse`] has by digest.
#[derive(Debug, Clone, PartialEq)]
pub struct Detail {
    pub mask: ImageUse,
    pub strength: f64,
    pub steps: Option<u32>,
    pub guidance: Option<f64>,
    pub prompt: Option<String>,
    pub negative: Option<String>,
    pub loras: Option<Vec<(String, f64)>>,
}

impl Draft {
    /// Of a picture of this size.
    pub(super) fn used(&self, (width_px, height_px): (u32, u32), pins: &Pins, seen: Seen<'_>) -> DraftUse {
        DraftUse {
            width_px: scaled(width_px, self.scale),
            height_px: scaled(height_px, self.scale),
            strength: self.strength,
            enlarge: self.enlarge,
            steps: self.steps,
            guidance: self.guidance,
            loras: self.loras.as_ref().map(|loras| super::lora_uses(loras, pins)),
            controls: super::control_uses(&self.controls, pins, seen),
        }
    }
}

/// To the nearest size that a picture may have.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "no more than the side")]
fn scaled(side_px: u32, scale: f64) -> u32 {
    let multiple = MASTER_SIDE_PX_MULTIPLE;
    let multiples = (f64::from(side_px) * scale / f64::from(multiple)).round() as u32;
    multiples.max(1) * multiple
}

impl Detail {
    pub(super) fn used(&self, pins: &Pins, seen: Seen<'_>) -> DetailUse {
        DetailUse {
            mask: seen(&self.mask),
            strength: self.strength,
            steps: self.steps,
            guidance: self.guidance,
            prompt: self.prompt.clone(),
            negative_prompt: self.negative.clone(),
            loras: self.loras.as_ref().map(|loras| super::lora_uses(loras, pins)),
        }
    }
}

pub(super) fn read_draft(table: &TableReader<'_, '_>, places: &PlaceReader<'_>) -> Option<Draft> {
    let draft = table.table("draft")?;
    if !draft.has("scale") {
        draft.missing("scale", "`draft.scale` is missing: the draft's share of the picture's sides, 0.1 to 1");
    }
    let scale = draft.number("scale", 0.1..=1.0);
    let strength = read_strength(&draft, "draft");
    let enlarge = draft.choice("enlarge", &ENLARGE).unwrap_or_default();
    let (steps, guidance) = (draft.integer("steps", 1..=STEPS_MAX), draft.number("guidance", 0.0..=GUIDANCE_MAX));
    let loras = draft.has("loras").then(|| read_loras(&draft));
    let controls = if draft.has("controls") { read_controls(&draft, places) } else { Vec::new() };
    draft.finish(no_hint);
    Some(Draft { scale: scale?, strength: strength?, enlarge, steps, guidance, loras, controls })
}

pub(super) fn read_details(table: &TableReader<'_, '_>, places: &PlaceReader<'_>) -> Vec<Detail> {
    let details = table.list_of_tables("details", DETAILS_MAX).into_iter().filter_map(|detail| {
        let mask = required_image_use(&detail, "mask", places);
        let strength = read_strength(&detail, "details");
        let (steps, guidance) = (detail.integer("steps", 1..=STEPS_MAX), detail.number("guidance", 0.0..=GUIDANCE_MAX));
        let loras = detail.has("loras").then(|| read_loras(&detail));
        let (prompt, negative) = (read_prompt(&detail, "prompt"), read_prompt(&detail, "negative"));
        detail.finish(no_hint);
        Some(Detail { mask: mask?, strength: strength?, steps, guidance, prompt, negative, loras })
    });
    details.collect()
}

fn read_strength(table: &TableReader<'_, '_>, part: &str) -> Option<f64> {
    if !table.has("strength") {
        let reason = format!("`{part}.strength` is missing: how much of the way is gone, up to 1");
        table.missing("strength", reason);
    }
    table.number("strength", 0.01..=1.0)
}

/// A detail's own words. They have no placeholders: one that is meant would be drawn as it is written.
fn read_prompt(table: &TableReader<'_, '_>, key: &'static str) -> Option<String> {
    let text = table.text(key)?;
    if text.value.contains(['{', '}']) {
        table.fault(&text.span, format!("a detail's `{key}` has no placeholders: it is drawn as it is written"));
    }
    if text.value.len() > PROMPT_BYTES_MAX {
        table.fault(&text.span, format!("`{key}` has {} bytes, at most {PROMPT_BYTES_MAX}", text.value.len()));
    }
    Some(text.value.to_owned())
}

//! What is laid on a variant's picture, in each cut, and what became of it; and the way to the other sets that lie on the same picture.
//!
//! Decisions are about pictures, and a set of layers is none: so a picture has one card however many sets there are, the card says how
//! many, and the page of a variant leads from one to the next.

use std::sync::Arc;
use std::time::Duration;

use maud::{Markup, html};
use tokio::time::{Instant, timeout_at};

use super::cards::page_of;
use super::tastes::Tastes;
use super::wording;
use crate::campaign::{Campaign, Catalog, Slot};
use crate::fill::Fill;
use crate::language::Language;
use crate::render::layers::{FallbackReason, FallbackTaken, LayerOutcome, LayerReport, LayerSet, Presence};
use crate::resolve::{Operator, resolve};

/// How long a page waits for what became of layers: readers' pictures go before it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Sets of one picture are counted as far as this.
const SETS_MAX: usize = 1000;

/// What the page shows of layers.
#[derive(Debug, Default)]
pub(super) struct Layers {
    /// Of the slot's own framing, then of its cuts; without those that have no layers.
    views: Vec<View>,
    /// By what other sets on the same picture differ, each value with its page.
    others: Vec<Choice>,
}

/// A set in a cut.
#[derive(Debug)]
struct View {
    /// `None` of the slot's own framing.
    cut: Option<String>,
    size_px: (u32, u32),
    set: Arc<LayerSet>,
    /// `None` while its picture is not drawn or not on this machine, or readers' pictures were before it.
    report: Option<Arc<LayerReport>>,
}

#[derive(Debug)]
struct Choice {
    axis: String,
    values: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    label: String,
    page: String,
    is_here: bool,
}

impl Layers {
    /// Of a variant, by its combination of values.
    pub(super) async fn of(
        (catalog, fill): (&Catalog, &Arc<Fill>),
        (campaign, slot_index): (&Campaign, usize),
        combination: u32,
        language: Language,
    ) -> Self {
        if campaign.layers(slot_index).is_none() {
            return Self::default();
        }
        let slot = &campaign.slots[slot_index];
        let mut views = Vec::new();
        for (cut, _) in slot.framings() {
            let art = cut.map(|cut| format!("&{}={cut}", crate::campaign::ART)).unwrap_or_default();
            let url = campaign.url(slot, &format!("{}{art}", campaign.query(combination)));
            let Ok(found) = resolve(catalog, url.as_str(), &Operator).outcome else { continue };
            let Some(set) = found.want.finish.layers().cloned() else { continue };
            let size_px = (found.want.spec.width_px, found.want.spec.height_px);
            let view = View { cut: cut.map(str::to_owned), size_px, set, report: None };
            // A task of its own: what comes too late for this page is remembered for the next look.
            let fill = Arc::clone(fill);
            views.push((view, tokio::spawn(async move { fill.laid(&found.want).await })));
        }
        let deadline = Instant::now() + PATIENCE;
        let told = views.into_iter().map(|(view, laid)| async move {
            let report = timeout_at(deadline, laid).await.ok().and_then(Result::ok).and_then(Result::ok).flatten();
            View { report, ..view }
        });
        let views = futures_util::future::join_all(told).await;
        Self { views, others: others(catalog, (campaign, slot_index), combination, language) }
    }
}

/// How many sets of layers lie on the picture of a combination; counted as far as [`SETS_MAX`].
pub(super) fn sets_on_picture(campaign: &Campaign, slot_index: usize, combination: u32) -> usize {
    if campaign.layers(slot_index).is_none() {
        return 0;
    }
    let mut combinations = vec![combination];
    for axis in hidden_axes(campaign, slot_index) {
        let values = 0..campaign.axes[axis].values.len();
        let others =
            combinations.iter().flat_map(|from| values.clone().map(|value| campaign.replaced(*from, axis, value)));
        combinations = others.take(SETS_MAX).collect();
    }
    combinations
        .into_iter()
        .filter(|combination| campaign.forbidden(&campaign.values_of(*combination)).is_none())
        .count()
}

/// The same in words; `None` where there is one at most, which needs no word.
pub(super) fn sets_words(tastes: Tastes, sets: usize) -> Option<String> {
    let more = if sets >= SETS_MAX { tastes.say("more than ", "mehr als ") } else { "" };
    let words = tastes.say("sets of layers lie on it", "Ebenensätze liegen darauf");
    (sets > 1).then(|| format!("{more}{} {words}", wording::number(sets, tastes.language)))
}

/// Axes by which the layers of a slot differ and its pictures do not.
fn hidden_axes(campaign: &Campaign, slot_index: usize) -> Vec<usize> {
    let slot: &Slot = &campaign.slots[slot_index];
    let axes = campaign.layers(slot_index).map(|layers| layers.axes()).unwrap_or_default();
    axes.into_iter().filter(|&axis| !slot.differs_by(&campaign.axes, axis)).collect()
}

fn others(
    catalog: &Catalog,
    (campaign, slot_index): (&Campaign, usize),
    combination: u32,
    language: Language,
) -> Vec<Choice> {
    let choices = hidden_axes(campaign, slot_index).into_iter().map(|axis| {
        let known = &campaign.axes[axis];
        let steps = known.values.iter().enumerate().filter_map(|(at, value)| {
            let other = campaign.replaced(combination, axis, at);
            let is_allowed = campaign.forbidden(&campaign.values_of(other)).is_none();
            let variant = is_allowed.then(|| catalog.variant(campaign, slot_index, other).ok()).flatten()?;
            Some(Step {
                label: wording::value(value, language).to_owned(),
                // With every axis, so that the page is of this locale and not of the reader's own.
                page: format!("{}#layers", page_of(&variant.name)),
                is_here: other == combination,
            })
        });
        Choice { axis: wording::axis(known, language).to_owned(), values: steps.collect() }
    });
    choices.filter(|choice| choice.values.len() > 1).collect()
}

pub(super) fn layers(tastes: Tastes, layers: &Layers) -> Markup {
    let say = |english, german| tastes.say(english, german);
    html! {
        @if !layers.views.is_empty() {
            section aria-labelledby="layers" {
                h2 id="layers" { (say("Layers", "Ebenen")) }
                @if !layers.others.is_empty() { (steps(tastes, &layers.others)) }
                @for (at, view) in layers.views.iter().enumerate() { (table(tastes, view, at)) }
            }
        }
    }
}

/// The ways to the other sets that lie on the same picture.
fn steps(tastes: Tastes, others: &[Choice]) -> Markup {
    html! {
        p.lead {
            (tastes.say("One picture carries all of these, and a decision about it holds for all of them.",
                "Ein Bild trägt sie alle, und eine Entscheidung über das Bild gilt für alle."))
        }
        @for choice in others {
            nav.layer-sets aria-label=(choice.axis) {
                span.key { (choice.axis) }
                @for step in &choice.values {
                    a href=(step.page) aria-current=[step.is_here.then_some("page")] { (step.label) }
                }
            }
        }
    }
}

fn table(tastes: Tastes, view: &View, at: usize) -> Markup {
    let say = |english, german| tastes.say(english, german);
    let outcome = |name: &str| view.report.as_ref()?.outcomes.iter().find(|outcome| outcome.layer == name);
    let id = format!("layers-{at}");
    html! {
        h3 id=(id) {
            (view.cut.as_deref().unwrap_or(say("The slot’s own cut", "Eigener Ausschnitt des Platzes")))
            ", " (view.size_px.0) "×" (view.size_px.1) " px"
        }
        @match &view.report {
            Some(report) if report.text_share > 0 => p.key data-text-share=(report.text_share) {
                (say("Texts cover ", "Texte bedecken ")) (hundredths(tastes, report.text_share)) " %"
            },
            Some(_) => {},
            None => p.key {
                (say("What becomes of them is not known yet: it is measured on the drawn picture.",
                    "Was aus ihnen wird, ist noch nicht bekannt: Es wird am erzeugten Bild gemessen."))
            },
        }
        div.scroll tabindex="0" role="group" aria-labelledby=(id) {
            table {
                thead { tr {
                    th scope="col" { (say("Layer", "Ebene")) }
                    th scope="col" { (say("Kind", "Art")) }
                    th scope="col" { (say("Shows", "Zeigt")) }
                    th scope="col" { (say("Contrast", "Kontrast")) }
                    th scope="col" { (say("Fallback", "Ausweg")) }
                } }
                tbody {
                    @for (name, kind, shows) in view.set.told() {
                        @let outcome = outcome(name);
                        tr data-layer=(name) {
                            th scope="row" { (name) }
                            td { (kind_words(tastes, kind)) }
                            td { bdi { (shows) } }
                            td { (outcome.and_then(|it| it.contrast_hundredths).map_or_else(|| "–".to_owned(), |it| hundredths(tastes, it))) }
                            td data-fallback=[outcome.and_then(|it| it.fallback).map(FallbackTaken::as_str)] {
                                (outcome.map_or("–".to_owned(), |outcome| fallback_words(tastes, outcome)))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn kind_words(tastes: Tastes, kind: &str) -> &str {
    match kind {
        "image" => tastes.say("image", "Bild"),
        "text" => tastes.say("text", "Text"),
        "shadow" => tastes.say("shadow", "Schatten"),
        "panel" => tastes.say("panel", "Fläche"),
        other => other,
    }
}

/// What was done, and why.
fn fallback_words(tastes: Tastes, outcome: &LayerOutcome) -> String {
    let say = |english, german| tastes.say(english, german);
    let (Some(taken), Some(reason)) = (outcome.fallback, outcome.reason) else {
        let words = match outcome.presence {
            Presence::Drawn => "–",
            Presence::NotNeeded => say("not needed", "nicht nötig"),
            Presence::Nowhere => say("outside of the picture", "außerhalb des Bildes"),
            Presence::LeftOut => say("left out", "weggelassen"),
        };
        return words.to_owned();
    };
    let done = match taken {
        FallbackTaken::Panel => say("panel behind it", "Fläche dahinter"),
        FallbackTaken::Shorter => say("shorter text", "kürzerer Text"),
        FallbackTaken::LeftOut => say("left out", "weggelassen"),
        FallbackTaken::Kept => say("none helped: drawn as it is", "keiner half: gezeichnet, wie er ist"),
    };
    let why = match reason {
        FallbackReason::Contrast => say("too little contrast", "zu wenig Kontrast"),
        FallbackReason::Glyph => say("no font has a glyph", "den Schriften fehlt ein Zeichen"),
        FallbackReason::Room => say("it does not fit", "er passt nicht"),
    };
    format!("{done}: {why}")
}

/// `4.53`, or `4,53` in German.
fn hundredths(tastes: Tastes, value: u32) -> String {
    format!("{}{}{:02}", value / 100, tastes.say(".", ","), value % 100)
}

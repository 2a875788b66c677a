//! Two pictures that were put before reviewers, held against each other: side by side, by a slider, blinking, and their difference.
//!
//! Without a script both stand side by side.

use maud::{Markup, html};

use super::desk::{self, Desk};
use super::states::PictureState;
use super::tastes::Tastes;
use crate::governance::ShownCase;

/// Everything the page shows.
#[derive(Debug)]
pub(super) struct ComparePage<'a> {
    pub(super) tastes: Tastes,
    pub(super) headline: &'a str,
    pub(super) back: &'a str,
    pub(super) sides: [&'a ShownCase; 2],
    pub(super) desk: Option<Desk<'a>>,
}

const MODES: [&str; 4] = ["side", "slider", "blink", "difference"];

fn mode_words(tastes: Tastes, mode: &str) -> &'static str {
    match mode {
        "side" => tastes.say("Side by side", "Nebeneinander"),
        "slider" => tastes.say("Slider", "Schieber"),
        "blink" => tastes.say("Blink", "Blinken"),
        _ => tastes.say("Difference", "Unterschied"),
    }
}

pub(super) fn compare(page: &ComparePage<'_>) -> Markup {
    let say = |english, german| page.tastes.say(english, german);
    html! {
        h1 { (page.headline) }
        p.lead { a href=(page.back) { (say("Back to the variant", "Zurück zur Variante")) } }
        section data-compare data-mode="side" {
            div.toolbar hidden data-compare-tools {
                div.segments role="group" aria-label=(say("Mode", "Art")) {
                    @for (number, mode) in MODES.iter().enumerate() {
                        button type="button" data-set-mode=(mode) aria-pressed=(if number == 0 { "true" } else { "false" }) { (mode_words(page.tastes, mode)) }
                    }
                }
                label { (say("Zoom", "Zoom")) " " input type="range" min="1" max="8" step="0.5" value="1" data-zoom; }
                label.slide hidden { (say("Divide", "Teilen")) " " input type="range" min="0" max="100" value="50" data-slide; }
            }
            div.sides {
                @for (number, (shown, side)) in page.sides.iter().zip(["a", "b"]).enumerate() {
                    figure data-side=(side) data-candidate=(number + 1) data-state=(shown.state.as_str()) tabindex="-1" {
                        div.view {
                            img src={ "/admin/v1/decisions/" (shown.case.id) "/picture?w=2048" }
                                alt={ (page.headline) ", " (say("case ", "Fall ")) (shown.case.id) }
                                width=(shown.case.drawn.width_px) height=(shown.case.drawn.height_px);
                        }
                        figcaption {
                            b { (side.to_uppercase()) } " "
                            (say("Case ", "Fall ")) (shown.case.id)
                            @if let Some(seed) = shown.case.drawn.seed { ", seed " (seed) }
                            " " span.state data-state=(shown.state.as_str()) { (PictureState::from(shown.state).words(page.tastes.language)) }
                            @if let Some(desk) = &page.desk { (desk::decisions(page.tastes, desk, shown)) }
                        }
                    }
                }
            }
        }
    }
}

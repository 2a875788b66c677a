//! A variant's picture in each cut of its slot, as other screens are shown it.

use maud::{Markup, html};

use super::tastes::Tastes;
use crate::campaign::Cut;
use crate::seo::Picture;

/// The cuts as pictures for the stage, which shows the one that a screen's page has. Nothing of them loads before.
pub(super) fn staged(picture: &Picture<'_>, cuts: &[Cut]) -> Markup {
    html! {
        @for cut in cuts {
            template data-cut=(cut.name) data-media=(cut.media) { (picture.picture_of(cut)) }
        }
    }
}

pub(super) fn cuts(tastes: Tastes, picture: &Picture<'_>, cuts: &[Cut]) -> Markup {
    let say = |english, german| tastes.say(english, german);
    html! {
        @if !cuts.is_empty() {
            section aria-labelledby="cuts" {
                h2 id="cuts" { (say("Cuts for other screens", "Ausschnitte für andere Bildschirme")) }
                p.lead {
                    (say("A page shows the first one whose condition holds, else the picture above.",
                        "Eine Seite zeigt den ersten, dessen Bedingung gilt, sonst das Bild oben."))
                }
                div.grid {
                    @for cut in cuts {
                        @let width_px = cut.framing.default_width_px;
                        figure.cut {
                            img loading="lazy" src=(picture.candidate_of(Some(cut), width_px, None)) alt=(picture.alt)
                                width=(width_px) height=(cut.framing.height_px(width_px));
                            figcaption { b { (cut.name) } " " (cut.framing.ratio) " · " code { (cut.media) } }
                        }
                    }
                }
            }
        }
    }
}

//! Duplicates on a variant's page: the master that it shares with what looks alike, how alike they are, and the decision to split them.

use maud::{Markup, html};

use super::desk::{self, Desk};
use super::tastes::Tastes;
use crate::cache::Binding;
use crate::shared_state::PersonRole;

/// What the page shows.
#[derive(Debug)]
pub(super) struct Likeness {
    /// The variant's name.
    pub(super) variant: String,
    /// Its master, and how alike it is to what the recipe would have had.
    pub(super) binding: Option<std::sync::Arc<Binding>>,
    /// The entry that split it.
    pub(super) split: Option<u64>,
}

pub(super) fn likeness(tastes: Tastes, desk: Option<&Desk<'_>>, likeness: &Likeness) -> Markup {
    let say = |english, german| tastes.say(english, german);
    let shared = likeness.binding.as_ref().and_then(|binding| Some((binding, binding.duplicate.as_ref()?)));
    let shared = shared.filter(|_| likeness.split.is_none());
    html! {
        @if shared.is_some() || likeness.split.is_some() {
            section aria-labelledby="likeness" {
                h2 id="likeness" { (say("Duplicates", "Doppelte")) }
                @if let Some((binding, duplicate)) = shared {
                    p {
                        (say("It looks like an older picture and shares its master.", "Es sieht aus wie ein älteres Bild und teilt dessen Master."))
                    }
                    dl.facts {
                        dt { (say("Shared master", "Geteilter Master")) } dd { code { (binding.master) } }
                        dt { (say("Its own would be", "Der eigene wäre")) } dd { code { (duplicate.of) } }
                        dt { (say("Difference in brightness", "Unterschied in der Helligkeit")) }
                        dd { (duplicate.distance) " " (say("of 256 bits", "von 256 Bit")) }
                        dt { (say("Difference in colour", "Unterschied in der Farbe")) }
                        dd { (decimal(tastes, duplicate.chroma_distance)) " " (say("of 255 steps", "von 255 Stufen")) }
                        dt { "SSIMULACRA2" } dd { (decimal(tastes, duplicate.ssimulacra2)) " " (say("of 100", "von 100")) }
                    }
                    (form(tastes, desk, likeness, ("split", say("Split: draw a picture of its own", "Trennen: ein eigenes Bild erzeugen"))))
                }
                @if let Some(seq) = likeness.split {
                    p role="status" {
                        (say("It was split: it has a master of its own, in every version of the manifest (entry ",
                            "Es wurde getrennt: Es hat einen eigenen Master, in jeder Fassung des Manifests (Eintrag ")) (seq) ")."
                    }
                    (form(tastes, desk, likeness, ("merge", say("Merge again", "Wieder zusammenlegen"))))
                }
            }
        }
    }
}

fn form(tastes: Tastes, desk: Option<&Desk<'_>>, likeness: &Likeness, (how, label): (&str, &str)) -> Markup {
    let Some(desk) = desk.filter(|desk| desk.role >= PersonRole::Approver) else {
        return html! { p.lead { (tastes.say("Approvers split and merge pictures.", "Freigebende trennen Bilder und legen sie zusammen.")) } };
    };
    html! {
        form.line method="post" action="/preview/splits" {
            (desk::hidden(desk))
            input type="hidden" name="variant" value=(likeness.variant);
            input type="hidden" name="how" value=(how);
            button { (label) }
        }
    }
}

fn decimal(tastes: Tastes, number: f64) -> String {
    let text = format!("{number:.1}");
    if tastes.say("en", "de") == "de" { text.replace('.', ",") } else { text }
}

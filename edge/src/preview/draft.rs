//! Drafts: the form beside a variant's picture, and the page of what was drawn: the pictures beside the present one, the patch that would
//! make one of them the manifest's own, and what else that would change.
//!
//! Both work without a script. A picture's address answers when it is drawn, so the page needs not be loaded again.

use maud::{Markup, html};

use super::batches::words;
use super::desk::{self, Desk};
use super::frame::copy;
use super::tastes::Tastes;
use super::ways::campaign_of;
use crate::campaign::drafting::{KNOB_TEXT_BYTES_MAX, Knob, KnobId, KnobKind, Reach};
use crate::drafts::{DRAFT_PICTURES_MAX, DraftPicture, DraftProgress, DraftSheet};
use crate::seo::Picture;
use crate::warm::Price;

/// The form on a variant's page.
#[derive(Debug)]
pub(super) struct DraftForm {
    /// The variant's name.
    pub(super) variant: String,
    /// Why there is none, else what may be changed.
    pub(super) knobs: Result<Vec<Knob>, String>,
    pub(super) seed: Option<u32>,
    /// Those that were made of this variant: address and time.
    pub(super) sheets: Vec<DraftSheet>,
}

/// Everything the page of a draft shows.
pub(super) struct DraftPage<'a> {
    pub(super) tastes: Tastes,
    pub(super) headline: &'a str,
    pub(super) values: &'a str,
    /// The variant's page.
    pub(super) back: &'a str,
    /// As readers get it now.
    pub(super) present: Option<&'a Picture<'a>>,
    pub(super) sheet: &'a DraftSheet,
    pub(super) price: Option<&'a Price>,
    /// Whether the reader sees a campaign.
    pub(super) sees: &'a dyn Fn(Option<&str>) -> bool,
}

fn knob_words(tastes: Tastes, id: &KnobId) -> String {
    let say = |english, german| tastes.say(english, german);
    match id {
        KnobId::Prompt => say("Prompt", "Prompt").to_owned(),
        KnobId::Axis(name) => format!("{{{name}}}"),
        KnobId::Style(name) => format!("{} {name}", say("Style", "Stil")),
        KnobId::StyleWeight(name) => format!("{} {name}", say("Weight of style", "Gewicht von Stil")),
        KnobId::StyleNegative(name) => format!("{} {name}", say("Left out by style", "Vermieden durch Stil")),
        KnobId::Block(name) => format!("{} {name}", say("Block", "Baustein")),
        KnobId::BlockWeight(name) => format!("{} {name}", say("Weight of block", "Gewicht von Baustein")),
        KnobId::NegativeList(name) => format!("{} {name}", say("Negative list", "Negativliste")),
        KnobId::Steps => say("Steps", "Schritte").to_owned(),
        KnobId::Guidance => say("Guidance", "Führung (guidance)").to_owned(),
        KnobId::GuidanceRescale => say("Guidance rescale", "Führung, Ausgleich (rescale)").to_owned(),
        KnobId::Strength => say("Strength: how much is painted over", "Stärke: wie viel übermalt wird").to_owned(),
        KnobId::LoraWeight(index) => format!("{} {}", say("Weight of adapter", "Gewicht von Adapter"), index + 1),
        KnobId::ControlWeight(index) => format!("{} {}", say("Weight of control", "Gewicht von Vorgabe"), index + 1),
        KnobId::ReferenceWeight(index) => {
            format!("{} {}", say("Weight of reference", "Gewicht von Referenz"), index + 1)
        }
    }
}

/// The form, folded: most readers of the page do not draft.
pub(super) fn form(tastes: Tastes, desk: &Desk<'_>, form: &DraftForm) -> Markup {
    let say = |english, german| tastes.say(english, german);
    html! {
        section aria-labelledby="draft" {
            h2 id="draft" { (say("Draft", "Entwurf")) }
            @match &form.knobs {
                Err(reason) => p.notice { (say("This picture cannot be drafted: ", "Zu diesem Bild ist kein Entwurf möglich: ")) (reason) },
                Ok(knobs) => details {
                    summary { (say("Try other words and settings", "Andere Worte und Einstellungen versuchen")) }
                    p.lead {
                        (say("Nothing is changed: the draft is shown here alone, for a day, with the patch that would make it the manifest's own.",
                            "Es wird nichts geändert: Der Entwurf ist nur hier zu sehen, einen Tag lang, mit dem Patch, der ihn ins Manifest bringt."))
                    }
                    form.draft method="post" action="/preview/drafts" {
                        (desk::hidden(desk))
                        input type="hidden" name="variant" value=(form.variant);
                        @for knob in knobs { (field(tastes, knob)) }
                        label {
                            (say("Seed", "Seed")) " "
                            input type="number" name="seed" min="0" max="4294967295" placeholder=[form.seed.map(|seed| seed.to_string())];
                        }
                        fieldset {
                            legend { (say("Settings that the manifest has for all slots", "Einstellungen, die das Manifest für alle Plätze hat")) }
                            @for reach in Reach::ALL {
                                label {
                                    input type="radio" name="reach" value=(reach.as_str()) checked[reach == Reach::default()];
                                    " " (reach_words(tastes, reach))
                                }
                            }
                        }
                        div.buttons {
                            button.primary name="count" value="1" { (say("Draw", "Zeichnen")) }
                            button name="count" value=(DRAFT_PICTURES_MAX) { (say("Generate four", "Vier erzeugen")) }
                        }
                    }
                },
            }
            @if !form.sheets.is_empty() {
                p { (say("Drafts of this variant:", "Entwürfe dieser Variante:")) }
                ul {
                    @for sheet in &form.sheets {
                        li {
                            a href={ "/preview/drafts/" (sheet.id) } {
                                (sheet.pictures.len()) " " (say("picture(s), by ", "Bild(er), von ")) (sheet.by)
                            }
                        }
                    }
                }
            }
        }
    }
}

const fn reach_words(tastes: Tastes, reach: Reach) -> &'static str {
    match reach {
        Reach::Slot => tastes.say("change them for this slot alone", "nur für diesen Platz ändern"),
        Reach::Campaign => tastes.say("change them for the campaign", "für die Kampagne ändern"),
    }
}

fn field(tastes: Tastes, knob: &Knob) -> Markup {
    let name = format!("change.{}", knob.id);
    html! {
        label {
            span { (knob_words(tastes, &knob.id)) } " "
            @match knob.kind {
                KnobKind::Text | KnobKind::List => textarea name=(name) rows="2" maxlength=(KNOB_TEXT_BYTES_MAX) { (knob.value) },
                KnobKind::Whole { min, max } => input type="number" name=(name) min=(min) max=(max) value=(knob.value) required;,
                KnobKind::Number { min, max } => input type="number" name=(name) min=(min) max=(max) step="any" value=(knob.value) required;,
                KnobKind::Weight { max } => input type="number" name=(name) min="0" max=(max) step="any" value=(knob.value);,
            }
        }
    }
}

pub(super) fn page(page: &DraftPage<'_>) -> Markup {
    let say = |english, german| page.tastes.say(english, german);
    html! {
        h1 { (say("Draft: ", "Entwurf: ")) (page.headline) }
        p.lead { (page.values) }
        p { a href=(page.back) { (say("Back to the variant", "Zurück zur Variante")) } }
        p.notice {
            (say("Readers see nothing of this. The draft and its addresses end a day after it was made.",
                "Leser sehen davon nichts. Der Entwurf und seine Adressen enden einen Tag nach dem Anlegen."))
        }
        div.sides {
            @if let Some(present) = page.present {
                figure { (present.markup()) figcaption { b { (say("Now", "Jetzt")) } } }
            }
            div.drafts data-live="drafts" { @for picture in &page.sheet.pictures { (drawn(page, picture)) } }
        }
        div data-live="patches" { @for picture in &page.sheet.pictures { (patch(page, picture)) } }
    }
}

fn drawn(page: &DraftPage<'_>, picture: &DraftPicture) -> Markup {
    let say = |english, german| page.tastes.say(english, german);
    let address = format!("/admin/v1/drafts/{}/picture?seed={}", page.sheet.id, picture.seed);
    let (width_px, height_px) = picture.variant.size_px;
    let alt = format!("{}, seed {}", page.headline, picture.seed);
    let img = html! { img src=(address) width=(width_px) height=(height_px) alt=(alt); };
    html! {
        figure data-recipe=(picture.variant.recipe.id()) {
            @match &picture.progress {
                DraftProgress::Failed(reason) => p.notice.bad role="alert" {
                    (say("It could not be drawn: ", "Es konnte nicht erzeugt werden: ")) (reason)
                },
                // The page asks for itself again until it is drawn; without a script the answer to the picture waits.
                DraftProgress::Drawing => div.awaited data-drawing {
                    svg viewBox={ "0 0 " (width_px) " " (height_px) } aria-hidden="true" {}
                    span.badge data-state="drawing" { (say("being drawn …", "wird erzeugt …")) }
                    noscript { (img) }
                },
                DraftProgress::Drawn { .. } => a href={ (address) "&w=2048" } { (img) },
            }
            figcaption {
                b { (say("Draft", "Entwurf")) } ", seed " (picture.seed)
                @if let DraftProgress::Drawn { device_ms: Some(ms) } = picture.progress { " · " (seconds(page.tastes, ms)) }
            }
        }
    }
}

fn patch(page: &DraftPage<'_>, picture: &DraftPicture) -> Markup {
    let say = |english, german| page.tastes.say(english, german);
    let cost = &picture.cost;
    // A library is shared with campaigns that the reader may not see.
    let listed: Vec<_> = cost.listed.iter().filter(|it| (page.sees)(Some(campaign_of(&it.variant)))).collect();
    let id = format!("patch-{}", picture.seed);
    let file = format!("/admin/v1/drafts/{}/patch?seed={}", page.sheet.id, picture.seed);
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { (say("Patch for seed ", "Patch für Seed ")) (picture.seed) }
            @if picture.patch.is_empty() {
                p { (say("The manifest says this already.", "Das steht schon so im Manifest.")) }
            } @else {
                pre tabindex="0" { (picture.patch) }
                div.buttons {
                    (copy(say("Copy", "Kopieren"), &picture.patch))
                    a href=(file) download { (say("Download", "Herunterladen")) }
                }
                p { (say("Applied in the folder that holds campaigns and prompts: ", "Im Ordner mit campaigns und prompts: ")) code { "git apply -p1" } "." }
                dl.facts {
                    dt { (say("Variants it changes", "Geänderte Varianten")) }
                    dd { @if cost.is_cut { (say("at least ", "mindestens ")) } (cost.variants) }
                    dt { (say("Pictures to draw", "Zu erzeugende Bilder")) }
                    dd { @if cost.is_cut { (say("at least ", "mindestens ")) } (cost.undrawn) " " (say("of", "von")) " " (cost.recipes) }
                    dt { (say("Device time", "Gerätezeit")) }
                    dd {
                        @match page.sheet.redrawing_ms(picture) {
                            Some(ms) => (seconds(page.tastes, ms)),
                            None => (say("not known yet: no picture of these was measured", "noch unbekannt: keines dieser Bilder wurde gemessen")),
                        }
                    }
                    @if let Some(cost) = page.sheet.redrawing_cost(picture, page.price) {
                        dt { (say("Cost", "Kosten")) } dd { (words::cost(&cost, page.tastes.language)) }
                    }
                    dt { (say("Recipe", "Rezept")) } dd { code { (picture.variant.recipe.id()) } }
                }
                details {
                    summary { (say("Recipes it changes", "Geänderte Rezepte")) }
                    div.scroll tabindex="0" role="group" aria-labelledby=(id) {
                        table {
                            thead { tr { @for name in [say("Variant", "Variante"), say("Now", "Jetzt"), say("Then", "Dann")] { th scope="col" { (name) } } } }
                            tbody {
                                @for changed in &listed {
                                    tr { td { (changed.variant) } td { code { (changed.before) } } td { code { (changed.after) } } }
                                }
                            }
                        }
                    }
                    @if cost.recipes > listed.len() { p { (say("and ", "und ")) (cost.recipes - listed.len()) " " (say("more", "weitere")) } }
                }
            }
        }
    }
}

fn seconds(tastes: Tastes, ms: u64) -> String {
    let text = format!("{}.{} s", ms / 1_000, ms % 1_000 / 100);
    if tastes.say("en", "de") == "de" { text.replace('.', ",") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_time_is_told_in_seconds() {
        let tastes = |query| Tastes::of(Some(query), &http::HeaderMap::new());
        assert_eq!(seconds(tastes("_lang=en"), 12_345), "12.3 s");
        assert_eq!(seconds(tastes("_lang=de"), 40), "0,0 s");
    }
}

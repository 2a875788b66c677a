//! One variant: the picture that readers get, the pictures that await a decision, forms to decide with, why the picture is as it is,
//! and what was decided before.

use maud::{Markup, html};

use super::cards::CardView;
use super::comments::Guests;
use super::cuts;
use super::desk::{self, Desk};
use super::draft::{self, DraftForm};
use super::files::{self, Files};
use super::frame::copy;
use super::history;
use super::layers::{self, Layers};
use super::likeness::{self, Likeness};
use super::progress::Drawing;
use super::seals::Notice;
use super::slot::notice_text;
use super::states::PictureState;
use super::tastes::Tastes;
use super::terms;
use super::why::Reasons;
use crate::campaign::Cut;
use crate::governance::{PastStep, ShownCase};
use crate::seo::{Placement, SnippetKind};
use crate::shared_state::{CaseState, PersonRole, Reason};

/// Screens that the picture is shown on, with the width and height of each in CSS pixels.
const SCREENS: [(&str, u32, u32); 3] = [("phone", 390, 844), ("tablet", 820, 1180), ("desktop", 1440, 900)];

/// Everything the page shows.
#[derive(Debug)]
pub(super) struct VariantPage<'a> {
    pub(super) tastes: Tastes,
    pub(super) campaign: &'a str,
    /// Of its slot.
    pub(super) cuts: &'a [Cut],
    pub(super) notice: Option<Notice>,
    pub(super) card: CardView<'a>,
    pub(super) around: Around,
    pub(super) reasons: Reasons,
    /// What markup says of it; `None` where no URL would be answered.
    pub(super) placement: Option<Placement>,
    /// `None` where the slot asks for no approval.
    pub(super) decisions: Option<Decisions>,
    pub(super) likeness: Likeness,
    pub(super) layers: Layers,
    pub(super) files: Files,
    /// For those who may draft.
    pub(super) draft: Option<DraftForm>,
    /// Why no reader is shown it, whatever was decided.
    pub(super) withheld: Option<Reason>,
    /// `None` for those who may only look.
    pub(super) desk: Option<Desk<'a>>,
    /// How far its drawing is; `None` where nothing is known of one.
    pub(super) awaited: Option<Drawing>,
    /// What people with a link are shown of it, and wrote; `None` for those who are not told.
    pub(super) guests: Option<Guests>,
}

/// The pages before and behind this one, in the list that the reader came from.
#[derive(Debug, Default)]
pub(super) struct Around {
    pub(super) previous: Option<String>,
    pub(super) next: Option<String>,
}

/// Of a slot whose pictures are reviewed.
#[derive(Debug)]
pub(super) struct Decisions {
    pub(super) approvers: u8,
    /// The newest first, each with the manifest's lines for it. The page numbers them from the oldest, so that a new one renumbers none.
    pub(super) cases: Vec<(ShownCase, Option<String>)>,
    /// Seeds of candidates that are being drawn, each with how far it is, and why others could not be.
    pub(super) drawing: Vec<(u32, Option<Drawing>)>,
    pub(super) failures: Vec<String>,
    /// The newest first.
    pub(super) history: Vec<PastStep>,
}

impl Decisions {
    pub(super) fn shown(&self) -> Option<&ShownCase> {
        let is_shown = |shown: &&ShownCase| {
            shown.state == CaseState::Live && shown.case.approved_by.len() >= usize::from(self.approvers)
        };
        self.cases.iter().map(|(shown, _)| shown).find(is_shown)
    }
}

pub(super) fn variant(page: &VariantPage<'_>) -> Markup {
    let say = |english, german| page.tastes.say(english, german);
    html! {
        div.headline {
            h1 { (page.card.headline) }
            nav.around aria-label=(say("Neighbours", "Nachbarn")) {
                @if let Some(previous) = &page.around.previous { a href=(previous) rel="prev" data-key="p" { "← " (say("Previous", "Zurück")) } }
                @if let Some(next) = &page.around.next { a href=(next) rel="next" data-key="n" { (say("Next", "Weiter")) " →" } }
            }
        }
        p.lead { (page.card.values) }
        @if let Some(notice) = &page.notice { (notice_text(page.tastes, notice)) }
        @if let Some(reason) = page.withheld { (withheld(page.tastes, reason)) }
        section.stage {
            (stage(page))
            div {
                (facts(page))
                @if let Some(picture) = &page.card.picture { (files::files(page.tastes, picture, page.cuts, &page.files)) }
            }
        }
        (layers::layers(page.tastes, &page.layers))
        @if let Some(picture) = &page.card.picture { (cuts::cuts(page.tastes, picture, page.cuts)) }
        @match &page.decisions {
            Some(decisions) => (decided(page, decisions)),
            None => p.notice {
                (say("Pictures of this slot are public once they are drawn: its manifest asks for no review.",
                    "Bilder dieses Platzes sind öffentlich, sobald sie erzeugt sind: Das Manifest verlangt keine Freigabe."))
            },
        }
        @if let Some(desk) = &page.desk {
            @if desk.role >= PersonRole::Operator { (desk::kill(page.tastes, desk, (page.campaign, page.card.key))) }
        }
        @if let (Some(form), Some(desk)) = (&page.draft, &page.desk) { (draft::form(page.tastes, desk, form)) }
        (likeness::likeness(page.tastes, page.desk.as_ref(), &page.likeness))
        @if let Some(desk) = &page.desk {
            @if desk.role >= PersonRole::Reviewer { (desk::import(page.tastes, desk, page.card.key)) }
        }
        @if let (Some(guests), Some(desk)) = (&page.guests, &page.desk) {
            (guests.markup(page.tastes, desk, page.card.headline, page.decisions.as_ref()))
        }
        (briefing(page))
        (reasons(page))
        (hand_over(page))
        @if let Some(decisions) = &page.decisions {
            @if !decisions.history.is_empty() { (history::history(page.tastes, &decisions.history)) }
        }
    }
}

fn withheld(tastes: Tastes, reason: Reason) -> Markup {
    html! {
        p.notice.bad role="status" {
            (tastes.say("Readers are shown a stand-in: the picture is withheld (", "Leser sehen einen Ersatz: Das Bild wird zurückgehalten ("))
            (terms::reason(reason, tastes.language)) "). "
            (tastes.say("Operators lift a kill with ", "Betreiber heben eine Sperre auf mit "))
            code { "bildkante-edge lift" } "; " code { "bildkante-edge status" }
            (tastes.say(" lists what is in force.", " zeigt, was in Kraft ist."))
        }
    }
}

fn stage(page: &VariantPage<'_>) -> Markup {
    let say = |english, german| page.tastes.say(english, german);
    html! {
        div.frame data-shot data-stage data-recipe=(page.card.recipe_id) {
            @if let Some(picture) = &page.card.picture {
                fieldset.screens {
                    legend.hidden { (say("Shown on", "Gezeigt auf")) }
                    label { input type="radio" name="screen" value="" checked; " " (say("as large as here", "so groß wie hier")) }
                    @for (screen, width_px, height_px) in SCREENS {
                        label {
                            input type="radio" name="screen" value=(width_px) data-height=(height_px);
                            " " (screen_words(page.tastes, screen))
                        }
                    }
                }
                div.shot { (picture.markup()) span.badge hidden {} }
                (cuts::staged(picture, page.cuts))
                @if !page.cuts.is_empty() { p.key.cut-shown role="status" hidden {} }
            }
        }
    }
}

fn screen_words(tastes: Tastes, screen: &str) -> &'static str {
    match screen {
        "phone" => tastes.say("phone", "Telefon"),
        "tablet" => tastes.say("tablet", "Tablet"),
        _ => tastes.say("desktop", "Bildschirm"),
    }
}

fn facts(page: &VariantPage<'_>) -> Markup {
    let say = |english, german| page.tastes.say(english, german);
    html! {
        @if !page.card.states.is_empty() {
            p.states data-live="states" {
                @for state in page.card.states.told() { span.state data-state=(state.as_str()) { (state.words(page.tastes.language)) } }
            }
        }
        @if let Some(drawing) = page.awaited {
            p.key data-awaited { (say("The picture is being drawn: ", "Das Bild wird erzeugt: ")) (drawing.words(page.tastes.language)) }
        }
        dl.facts {
            dt { (say("Readers see", "Leser sehen")) } dd {
                @match page.decisions.as_ref().map(Decisions::shown) {
                    _ if page.withheld.is_some() => (say("a stand-in: the picture is withheld", "einen Ersatz: das Bild wird zurückgehalten")),
                    None => (say("this picture, once it is drawn", "dieses Bild, sobald es erzeugt ist")),
                    Some(Some(case)) => { (say("the picture of case ", "das Bild von Fall ")) a href={ "#case-" (case.case.id) } { (case.case.id) } },
                    Some(None) => (say("a stand-in, until a picture is approved", "einen Ersatz, bis ein Bild freigegeben ist")),
                }
            }
            dt { (say("Shared by", "Geteilt von")) } dd { (page.card.variants) " " (say("variants", "Varianten")) }
            @if let Some(sets) = layers::sets_words(page.tastes, page.card.layer_sets) {
                dt { (say("Layers", "Ebenen")) } dd { a href="#layers" { (sets) } }
            }
            dt { (say("Prompt", "Prompt")) } dd { (page.card.prompt) }
            dt { (say("Papers", "Papiere")) } dd { a href=(page.card.papers) { (say("Dossier of this picture", "Dossier dieses Bildes")) } }
            @if let Some(master) = page.card.merged_with {
                dt { (say("Looks like", "Sieht aus wie")) } dd { code { (master) } (say(": shares its master", ": teilt dessen Master")) }
            }
        }
        details {
            summary { (say("Names and ids", "Namen und Kennungen")) }
            dl.facts {
                dt { (say("Variant", "Variante")) } dd { code { (page.card.key) } }
                dt { (say("Recipe", "Rezept")) } dd { code { (page.card.recipe_id) } }
            }
        }
    }
}

fn decided(page: &VariantPage<'_>, decisions: &Decisions) -> Markup {
    let say = |english, german| page.tastes.say(english, german);
    let may_look = page.desk.as_ref().is_some_and(|desk| desk.role >= PersonRole::Reviewer);
    html! {
        section aria-labelledby="decisions" data-live="decisions" {
            h2 id="decisions" { (say("Decisions", "Entscheidungen")) }
            p.lead {
                @if decisions.approvers > 1 {
                    (say("Two people approve a picture of this slot, each another one.", "Zwei verschiedene Personen geben ein Bild dieses Platzes frei."))
                } @else { (say("One person approves a picture of this slot.", "Eine Person gibt ein Bild dieses Platzes frei.")) }
            }
            @if !decisions.drawing.is_empty() {
                p.notice role="status" data-drawing=(decisions.drawing.len()) {
                    (decisions.drawing.len()) " " (say("candidates are being drawn. ", "Kandidaten werden erzeugt. "))
                    a href="" { (say("Look again", "Noch einmal nachsehen")) }
                    @for (seed, drawing) in &decisions.drawing {
                        @if let Some(drawing) = drawing { br; "seed " (seed) ": " (drawing.words(page.tastes.language)) }
                    }
                }
            }
            @for failure in &decisions.failures {
                p.notice { (say("A candidate could not be drawn: ", "Ein Kandidat konnte nicht erzeugt werden: ")) (failure) }
            }
            @if decisions.cases.is_empty() && decisions.drawing.is_empty() {
                p.notice {
                    (say("Nothing was put before reviewers yet: draw candidates here, or warm the campaign.",
                        "Noch liegt nichts zur Freigabe vor: Erzeugen Sie hier Kandidaten, oder wärmen Sie die Kampagne vor."))
                }
            }
            div.grid.cases {
                @for (number, (shown, patch)) in decisions.cases.iter().rev().enumerate() {
                    (case(page, number + 1, (shown, patch.as_deref()), may_look))
                }
            }
            @match &page.desk {
                Some(desk) if desk.role >= PersonRole::Reviewer => (desk::candidates(page.tastes, desk, page.card.key)),
                Some(_) => {},
                None => p.notice {
                    a href="/admin/login" { (say("Log in", "Melden Sie sich an")) }
                    (say(" with a key to look at what is not public yet, and to decide.",
                        ", um zu sehen, was noch nicht öffentlich ist, und um zu entscheiden."))
                },
            }
        }
    }
}

fn case(page: &VariantPage<'_>, number: usize, (shown, patch): (&ShownCase, Option<&str>), may_look: bool) -> Markup {
    let ShownCase { case, state, .. } = shown;
    let say = |english, german| page.tastes.say(english, german);
    let path = format!("/admin/v1/decisions/{}/picture", case.id);
    let alt = format!("{}, {} {}", page.card.headline, say("case", "Fall"), case.id);
    html! {
        article.card id={ "case-" (case.id) } data-state=(state.as_str()) data-candidate=(number) tabindex="-1" {
            @if may_look && page.withheld.is_none() {
                a.shot href={ (path) "?w=2048" } {
                    img src={ (path) "?w=640" } alt=(alt) width=(case.drawn.width_px) height=(case.drawn.height_px) loading="lazy";
                    @if number <= 9 { kbd.number { (number) } }
                }
            }
            div.body {
                span.states { span.state data-state=(state.as_str()) { (PictureState::from(*state).words(page.tastes.language)) } }
                span.key {
                    (say("Case ", "Fall ")) (case.id)
                    @if let Some(seed) = case.drawn.seed { ", seed " (seed) }
                    @if *state == CaseState::NeedsReview && !case.approved_by.is_empty() { (say(", approved by one of two", ", von einer Person freigegeben")) }
                    @for report in &case.reports { ", " (report.finding.gate) ": " (report.finding.verdict.as_str()) }
                    @if let Some(escalated) = &case.escalated { ", " (escalated.to) (say(" is asked", " ist gefragt")) }
                }
                @if may_look && page.decisions.as_ref().is_some_and(|decisions| decisions.cases.len() > 1) {
                    a.key href=(compared(page, case.id)) data-key=[(number == 1).then_some("m")] { (say("Compare", "Vergleichen")) }
                }
                @if let Some(patch) = patch {
                    details { summary { (say("Lines for the manifest", "Zeilen für das Manifest")) } pre tabindex="0" { (patch) } (copy(say("Copy", "Kopieren"), patch)) }
                }
                @if let Some(desk) = &page.desk { (desk::decisions(page.tastes, desk, shown)) }
            }
        }
    }
}

/// The page that holds a case against what is live, or against another case.
fn compared(page: &VariantPage<'_>, case: u64) -> String {
    let cases = page.decisions.iter().flat_map(|decisions| &decisions.cases).map(|(shown, _)| shown);
    let live = page.decisions.as_ref().and_then(Decisions::shown).map(|shown| shown.case.id);
    let other = live.filter(|id| *id != case).or_else(|| cases.map(|shown| shown.case.id).find(|id| *id != case));
    format!("/preview/compare?a={}&b={case}", other.unwrap_or(case))
}

fn reasons(page: &VariantPage<'_>) -> Markup {
    html! {
        section aria-labelledby="why" {
            h2 id="why" { (page.tastes.say("Why this picture", "Warum dieses Bild")) }
            ol.reasons { @for reason in &page.reasons.steps { li { (reason) } } }
            dl.facts { @for (name, value) in &page.reasons.facts { dt { (name) } dd { (value) } } }
        }
    }
}

/// What leaves the preview: addresses and markup for every system that pages are built with.
fn hand_over(page: &VariantPage<'_>) -> Markup {
    let Some(placement) = &page.placement else { return html! {} };
    let say = |english, german| page.tastes.say(english, german);
    let mut pieces = vec![("url", "URL", Some(placement.default_url()))];
    pieces.push(("pinned", say("URL of this version", "URL dieser Fassung"), placement.pinned_url()));
    let snippets = SnippetKind::ALL.into_iter();
    pieces.extend(snippets.map(|kind| (kind.as_str(), snippet_words(page.tastes, kind), placement.snippet(kind))));
    pieces.push(("alt", say("Alternative text", "Alternativtext"), Some(placement.alt.clone())));
    pieces.push(("caption", say("Caption", "Bildunterschrift"), placement.caption.clone()));
    html! {
        section aria-labelledby="hand-over" {
            h2 id="hand-over" { (say("Hand over", "Übergeben")) }
            @for (piece, name, text) in &pieces {
                @if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
                    details.piece data-piece=(piece) {
                        summary { (name) }
                        pre tabindex="0" { (text) }
                        (copy(say("Copy", "Kopieren"), text))
                    }
                }
            }
        }
    }
}

const fn snippet_words(tastes: Tastes, kind: SnippetKind) -> &'static str {
    match kind {
        SnippetKind::Html => tastes.say("HTML: <picture>", "HTML: <picture>"),
        SnippetKind::Hinted => {
            tastes.say("HTML: client hints choose the width", "HTML: Client Hints wählen die Breite")
        }
        SnippetKind::Preload => tastes.say("Header: Link, preload", "Kopfzeile: Link, preload"),
        SnippetKind::EarlyHints => tastes.say("Interim response 103", "Vorab-Antwort 103"),
        SnippetKind::JsonLd => tastes.say("Structured data (JSON-LD)", "Strukturierte Daten (JSON-LD)"),
        SnippetKind::Meta => tastes.say("Shared links (Open Graph)", "Geteilte Links (Open Graph)"),
        SnippetKind::Mail => tastes.say("E-mail", "E-Mail"),
        SnippetKind::React => "React",
        SnippetKind::Next => "Next.js",
        SnippetKind::Astro => "Astro",
        SnippetKind::WordPress => "WordPress",
        SnippetKind::Curl => "curl",
        SnippetKind::Recipe => tastes.say("Recipe (JSON)", "Rezept (JSON)"),
    }
}

/// What those who ordered the campaign said, and what the picture stands for.
fn briefing(page: &VariantPage<'_>) -> Markup {
    let Some(placement) = &page.placement else { return html! {} };
    let say = |english, german| page.tastes.say(english, german);
    let briefing = &placement.briefing;
    let texts = [
        (say("Goal", "Ziel"), briefing.goal.clone()),
        (say("Measured by", "Gemessen an"), briefing.kpi.clone()),
        (say("Notes", "Hinweise"), briefing.notes.clone()),
        (say("Text at most", "Text höchstens"), briefing.text_share_max.map(|share| format!("{:.0} %", share * 100.0))),
        (say("Channel", "Kanal"), placement.channel.clone()),
    ];
    let areas: Vec<&str> = briefing.safe_areas.iter().map(|area| area.name.as_str()).collect();
    let is_empty = texts.iter().all(|(_, text)| text.is_none()) && areas.is_empty() && placement.tags.is_empty();
    html! {
        @if !is_empty {
            section aria-labelledby="briefing" {
                h2 id="briefing" { (say("Briefing", "Briefing")) }
                dl.facts {
                    @for (name, text) in &texts { @if let Some(text) = text { dt { (name) } dd { (text) } } }
                    @if !areas.is_empty() { dt { (say("Left free", "Bleibt frei")) } dd { (areas.join(", ")) } }
                    @for tag in &placement.tags { dt { (tag.variable) } dd { (tag.value) } }
                }
            }
        }
    }
}

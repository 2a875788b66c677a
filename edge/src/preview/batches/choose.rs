//! The page that starts a batch: which pictures, what they are expected to take, and the form.

use maud::{Markup, html};

use super::super::board::Board;
use super::super::census::SlotOf;
use super::super::desk::{Desk, hidden};
use super::super::filter::Filter;
use super::super::tastes::Tastes;
use super::super::wording::{self, number};
use super::words::{self, bytes, seconds};
use super::{BATCHES, PersonRole};
use crate::batch::PICTURES_MAX;
use crate::batch::estimate::Estimate;
use crate::campaign::Campaign;
use crate::language::Language;

/// Everything the page shows.
pub(super) struct ChoosePage<'a> {
    pub(super) tastes: Tastes,
    pub(super) campaign: &'a Campaign,
    pub(super) slot: &'a str,
    /// The filter.
    pub(super) query: &'a str,
    /// The filter, as a person reads it: a name and its values.
    pub(super) in_words: Vec<(String, String)>,
    /// Pictures of the filter, those among them that wait for an import.
    pub(super) matching: usize,
    pub(super) estimate: &'a Estimate,
    pub(super) has_price: bool,
    /// `None` for those who may only look.
    pub(super) desk: Option<Desk<'a>>,
}

/// What a filter asks for.
pub(super) fn in_words(of: SlotOf<'_>, board: &Board, asked: &Filter, language: Language) -> Vec<(String, String)> {
    let mut said = Vec::new();
    for (axis, choices) in &board.axes {
        let axis = &of.campaign.axes[*axis];
        let chosen = choices.iter().filter(|choice| choice.is_chosen);
        let chosen: Vec<&str> = chosen.map(|choice| wording::value(&axis.values[choice.of], language)).collect();
        if !chosen.is_empty() {
            said.push((wording::axis(axis, language).to_owned(), chosen.join(", ")));
        }
    }
    let states: Vec<&str> = asked.states.each().map(|state| state.words(language)).collect();
    if !states.is_empty() {
        said.push((language.say("State", "Zustand").to_owned(), states.join(", ")));
    }
    if !asked.text.is_empty() {
        said.push((language.say("Search", "Suchen").to_owned(), asked.text.clone()));
    }
    said
}

pub(super) fn choose(page: &ChoosePage<'_>) -> Markup {
    let say = |english, german| page.tastes.say(english, german);
    let left_out = page.matching as u64 - page.estimate.pictures;
    html! {
        h1 { (say("Draw pictures", "Bilder erzeugen")) }
        p.lead {
            (page.campaign.title) " · " (page.slot) ". "
            (say("They are drawn and rendered ahead, behind all readers. What is there is not drawn again.",
                "Sie werden im Voraus erzeugt und gerendert, hinter allen Lesern. Was da ist, wird nicht noch einmal erzeugt."))
        }
        section aria-labelledby="chosen" {
            h2 id="chosen" { (say("Which pictures", "Welche Bilder")) }
            @if page.in_words.is_empty() { p { (say("All of this slot.", "Alle dieses Platzes.")) } }
            @else { dl.facts { @for (name, values) in &page.in_words { dt { (name) } dd { (values) } } } }
            p { a href={ "/preview/" (page.campaign.name) "/" (page.slot) "?" (page.query) } { (say("Choose others", "Andere wählen")) } }
        }
        section aria-labelledby="expected" {
            h2 id="expected" { (say("What is expected", "Was zu erwarten ist")) }
            (expected(page))
        }
        @if left_out > 0 {
            p.notice {
                (left_out) " " (say("of them wait for pictures that people bring, and are left out.",
                    "davon warten auf Bilder, die Menschen bringen, und bleiben außen vor."))
            }
        }
        (start(page))
        p { a href=(BATCHES) { (say("All batches", "Alle Aufträge")) } }
    }
}

fn expected(page: &ChoosePage<'_>) -> Markup {
    let language = page.tastes.language;
    let say = |english, german| page.tastes.say(english, german);
    let Estimate { pictures, there, device_ms, bytes: sum, cost } = page.estimate;
    let count = |count: u64| number(usize::try_from(count).unwrap_or(usize::MAX), language);
    let unknown = say(
        "unknown: no earlier picture of this slot was measured",
        "unbekannt: noch kein Bild dieses Platzes wurde gemessen",
    );
    let or_unknown = |told: Option<String>| told.unwrap_or_else(|| unknown.to_owned());
    html! {
        dl.facts {
            dt { (say("Pictures", "Bilder")) } dd { (count(*pictures)) }
            dt { (say("there already", "schon da")) } dd { (count(*there)) }
            dt { (say("to draw", "zu erzeugen")) } dd { (count(pictures - there)) }
            dt { (say("time of devices", "Gerätezeit")) } dd { (or_unknown(device_ms.map(|ms| seconds(ms, language)))) }
            @if page.has_price {
                dt { (say("cost", "Kosten")) } dd { (or_unknown(cost.as_ref().map(|cost| words::cost(cost, language)))) }
            }
            dt { (say("bytes of all files", "Bytes aller Dateien")) }
            dd {
                @match sum {
                    Some(sum) => (bytes(*sum, language)),
                    None => (say("unknown: no earlier batch of this slot", "unbekannt: noch kein Auftrag dieses Platzes")),
                }
            }
        }
    }
}

fn start(page: &ChoosePage<'_>) -> Markup {
    let say = |english, german| page.tastes.say(english, german);
    let pictures = page.estimate.pictures;
    let is_operator = page.desk.as_ref().filter(|desk| desk.role >= PersonRole::Operator);
    html! {
        @match is_operator {
            None => p.notice { (say("Operators of this campaign start it.", "Operatoren dieser Kampagne starten das.")) },
            Some(_) if pictures == 0 => p.notice { (say("There is nothing to draw.", "Es gibt nichts zu erzeugen.")) },
            Some(_) if pictures > PICTURES_MAX as u64 => p.notice {
                (say("These are too many for one batch: choose fewer. At most", "Das sind zu viele für einen Auftrag: Wählen Sie weniger. Höchstens"))
                " " (number(PICTURES_MAX, page.tastes.language)) "."
            },
            Some(desk) => form.line method="post" action=(BATCHES) {
                (hidden(desk))
                input type="hidden" name="slot" value={ (page.campaign.name) "/" (page.slot) };
                input type="hidden" name="filter" value=(page.query);
                input type="hidden" name="count" value=(pictures);
                label { (say("Why (optional)", "Warum (freiwillig)")) " " input name="why" maxlength="1000"; }
                button.primary { (say("Start", "Starten")) " (" (number(usize::try_from(pictures).unwrap_or(usize::MAX), page.tastes.language)) ")" }
            },
        }
    }
}

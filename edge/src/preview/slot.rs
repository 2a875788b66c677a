//! The page of a slot: what can be chosen, and the pictures as a matrix or as cards.
//!
//! The whole choice is one form that is sent by GET; the script only sends it by itself. Every text of a manifest is escaped.

use maud::{Markup, html};

use super::batches;
use super::board::Board;
use super::bulk::{self, Bulk};
use super::cards::CardView;
use super::census::SlotOf;
use super::filter::{Filter, LIKE_BITS, Like, Sort, View};
use super::frame::copy;
use super::layers::sets_words;
use super::matrix::{Cell, Matrix};
use super::picked;
use super::seals::Notice;
use super::sharing::{self, Sharing};
use super::states::States;
use super::tastes::Tastes;
use super::wording::{self, number};
use crate::language::Language;

/// Values of an axis that are listed before the list has to be opened.
const LISTED_MAX: usize = 8;

/// Everything the page shows.
#[derive(Debug)]
pub(super) struct SlotPage<'a> {
    pub(super) of: SlotOf<'a>,
    pub(super) tastes: Tastes,
    pub(super) asked: &'a Filter,
    pub(super) board: &'a Board,
    pub(super) notice: Option<Notice>,
    pub(super) laid: Laid<'a>,
    /// `None` for those who may only look.
    pub(super) bulk: Option<Bulk<'a>>,
    /// The same.
    pub(super) sharing: Option<Sharing>,
}

/// How pictures are laid out.
#[derive(Debug)]
pub(super) enum Laid<'a> {
    Cards {
        cards: Vec<CardView<'a>>,
        page: usize,
        pages: usize,
    },
    /// Cards by entry.
    Matrix {
        matrix: Matrix,
        cards: Vec<(usize, CardView<'a>)>,
    },
}

pub(super) fn slot(page: &SlotPage<'_>) -> Markup {
    let campaign = page.of.campaign;
    html! {
        h1 { (campaign.title) }
        (slots(page))
        @if let Some(notice) = &page.notice { (notice_text(page.tastes, notice)) }
        div.board {
            (choices(page))
            section.results aria-labelledby="found" data-live="results" {
                (toolbar(page))
                (alike(page))
                @match &page.laid {
                    Laid::Cards { cards, .. } => {
                        div.grid { @for card in cards { (card_markup(page, card)) } }
                    },
                    Laid::Matrix { matrix, cards } => (table(page, matrix, cards)),
                }
                @if page.board.matching.is_empty() { (nothing(page)) }
                (pager(page))
                (batches::way_in(page))
                @if let Some(bulk) = &page.bulk {
                    (bulk::form(page.tastes, bulk))
                    @if let Some(sharing) = &page.sharing { (sharing::section(page.tastes, &bulk.desk, sharing)) }
                    (picked::form(page.tastes, bulk))
                }
            }
        }
    }
}

fn slots(page: &SlotPage<'_>) -> Markup {
    let campaign = page.of.campaign;
    html! {
        nav.slots aria-label=(page.tastes.say("Slots", "Plätze")) {
            @for slot in &campaign.slots {
                a href={ "/preview/" (campaign.name) "/" (slot.name) }
                    aria-current=[(slot.name == page.of.slot().name).then_some("page")] {
                    (slot.name) " " small { (slot.framing.ratio) }
                }
            }
        }
    }
}

pub(super) fn notice_text(tastes: Tastes, notice: &Notice) -> Markup {
    let say = |english, german| tastes.say(english, german);
    html! {
        p.notice {
            @match notice {
                Notice::Signed { key_id, ends } => {
                    (say("This campaign answers signed URLs only. What you copy here is signed by the key ",
                        "Diese Kampagne beantwortet nur signierte URLs. Was Sie hier kopieren, signiert der Schlüssel "))
                    code { (key_id) }
                    @match ends {
                        Some(date) => { (say(" and is answered until ", " und gilt bis ")) (date) "." }
                        None => {
                            (say(" and does not expire: it is answered as long as the edge has the key.",
                                " und läuft nicht ab: Es gilt, solange der Server den Schlüssel hat."))
                        }
                    }
                }
                Notice::NoKey => {
                    (say("This campaign answers signed URLs only, and no key of this edge signs: it cannot show the pictures. Name a file in ",
                        "Diese Kampagne beantwortet nur signierte URLs, und kein Schlüssel dieses Servers signiert: Er kann die Bilder nicht zeigen. Nennen Sie eine Datei in "))
                    code { "[signing] keys_file" } "; " code { "bildkante-edge sign --new-key" }
                    (say(" makes a key.", " erzeugt einen Schlüssel."))
                }
            }
        }
    }
}

/// What can be chosen, with how many pictures each choice would show.
fn choices(page: &SlotPage<'_>) -> Markup {
    let (campaign, tastes) = (page.of.campaign, page.tastes);
    let language = tastes.language;
    let chosen = page.board.axes.iter().flat_map(|(_, choices)| choices).filter(|choice| choice.is_chosen).count()
        + page.board.states.iter().filter(|choice| choice.is_chosen).count();
    html! {
        form.choices method="get" id="choices" {
            label.search {
                span { (tastes.say("Search", "Suchen")) }
                input type="search" name="_q" value=(page.asked.text) maxlength="100" data-search;
            }
            details.all open data-narrow-closed {
                summary { (tastes.say("Filter", "Filter")) @if chosen > 0 { " " span.count { (chosen) } } }
                @if !page.board.states.is_empty() {
                    fieldset {
                        legend { (tastes.say("State", "Zustand")) }
                        @for choice in &page.board.states {
                            (check(tastes, ("_state", choice.of.as_str()), choice.of.words(language), (choice.count, choice.is_chosen)))
                        }
                    }
                }
                @for (axis, choices) in &page.board.axes {
                    @let axis = &campaign.axes[*axis];
                    @let is_open = choices.len() <= LISTED_MAX || choices.iter().any(|choice| choice.is_chosen);
                    details.axis open[is_open] {
                        summary title=[axis.note.as_deref()] { (wording::axis(axis, language)) }
                        fieldset {
                            legend.hidden { (wording::axis(axis, language)) }
                            @for choice in choices {
                                @let value = &axis.values[choice.of];
                                (check(tastes, (&axis.name, &value.name), wording::value(value, language), (choice.count, choice.is_chosen)))
                            }
                        }
                    }
                }
                (saved(tastes.language))
            }
            (kept(page))
            div.row {
                button data-sent-by-script { (tastes.say("Show", "Anzeigen")) }
                @if !page.asked.is_open() { a href="?" { (tastes.say("Clear all", "Alles zurücksetzen")) } }
            }
        }
    }
}

fn check(tastes: Tastes, (name, value): (&str, &str), label: &str, (count, is_chosen): (usize, bool)) -> Markup {
    html! {
        label.choice data-empty[count == 0 && !is_chosen] {
            input type="checkbox" name=(name) value=(value) checked[is_chosen];
            span { (label) }
            span.number { (number(count, tastes.language)) }
        }
    }
}

/// What the other layout asks for goes on with the form.
fn kept(page: &SlotPage<'_>) -> Markup {
    let name = |axis: usize| page.of.campaign.axes[axis].name.as_str();
    html! {
        @if let Some(view) = page.asked.view { input type="hidden" name="_view" value=(view.as_str()); }
        @match &page.laid {
            Laid::Matrix { .. } => @if page.asked.sort != Sort::default() { input type="hidden" name="_sort" value=(page.asked.sort.as_str()); },
            Laid::Cards { .. } => {
                @if let Some(axis) = page.asked.rows { input type="hidden" name="_rows" value=(name(axis)); }
                @if let Some(axis) = page.asked.columns { input type="hidden" name="_columns" value=(name(axis)); }
            },
        }
    }
}

/// Views that a reader saved in this browser. The script fills it in.
fn saved(language: Language) -> Markup {
    html! {
        div.saved hidden data-saved-views {
            b { (language.say("Saved views", "Gespeicherte Ansichten")) }
            ul {}
            button type="button" data-save-view
                data-remove=(language.say("Remove", "Entfernen")) {
                (language.say("Save this view", "Diese Ansicht speichern"))
            }
        }
    }
}

fn toolbar(page: &SlotPage<'_>) -> Markup {
    let (tastes, found) = (page.tastes, page.board.matching.len());
    let all = page.board.census.entries.len();
    let matrix = match &page.laid {
        Laid::Matrix { matrix, .. } => Some(matrix),
        Laid::Cards { .. } => None,
    };
    html! {
        div.toolbar {
            h2 id="found" {
                @if found == all { (number(all, tastes.language)) " " (if all == 1 { tastes.say("picture", "Bild") } else { tastes.say("pictures", "Bilder") }) }
                @else {
                    (number(found, tastes.language)) " " (tastes.say("of", "von")) " " (number(all, tastes.language)) " "
                    (tastes.say("pictures", "Bildern"))
                }
            }
            nav.segments aria-label=(tastes.say("Layout", "Anordnung")) {
                @for view in View::ALL {
                    a href={ "?" (Filter { view: Some(view), ..page.asked.clone() }.query(page.of.campaign)) }
                        aria-current=[((view == View::Matrix) == matrix.is_some()).then_some("true")] { (view_words(tastes, view)) }
                }
            }
            @match matrix {
                Some(matrix) => {
                    (axis_menu(page, "_rows", tastes.say("Rows", "Zeilen"), matrix.row_axis))
                    (axis_menu(page, "_columns", tastes.say("Columns", "Spalten"), matrix.column_axis))
                }
                None => {
                    label {
                        span { (tastes.say("Order", "Reihenfolge")) } " "
                        select name="_sort" form="choices" {
                            @for sort in Sort::ALL { option value=(sort.as_str()) selected[sort == page.asked.sort] { (sort_words(tastes, sort)) } }
                        }
                    }
                }
            }
        }
        @if let Some(matrix) = matrix { (pinned(page, matrix)) }
    }
}

const fn view_words(tastes: Tastes, view: View) -> &'static str {
    match view {
        View::Matrix => tastes.say("Matrix", "Matrix"),
        View::Cards => tastes.say("Cards", "Karten"),
    }
}

const fn sort_words(tastes: Tastes, sort: Sort) -> &'static str {
    match sort {
        Sort::Manifest => tastes.say("as the campaign has them", "wie in der Kampagne"),
        Sort::State => tastes.say("what needs a decision first", "was Entscheidungen braucht, zuerst"),
        Sort::Newest => tastes.say("newest first", "neueste zuerst"),
    }
}

fn axis_menu(page: &SlotPage<'_>, name: &str, label: &str, current: usize) -> Markup {
    let campaign = page.of.campaign;
    html! {
        label {
            span { (label) } " "
            select name=(name) form="choices" {
                @for (axis, _) in &page.board.axes {
                    @let axis_of = &campaign.axes[*axis];
                    option value=(axis_of.name) selected[*axis == current] { (wording::axis(axis_of, page.tastes.language)) }
                }
            }
        }
    }
}

/// Which value of every other axis the matrix shows.
fn pinned(page: &SlotPage<'_>, matrix: &Matrix) -> Markup {
    let (campaign, language) = (page.of.campaign, page.tastes.language);
    html! {
        @if !matrix.pinned.is_empty() {
            p.pinned {
                @for (axis, value) in &matrix.pinned {
                    @let axis = &campaign.axes[*axis];
                    span { (wording::axis(axis, language)) ": " b { (wording::value(&axis.values[*value], language)) } }
                }
            }
        }
    }
}

fn table(page: &SlotPage<'_>, matrix: &Matrix, cards: &[(usize, CardView<'_>)]) -> Markup {
    let (campaign, language) = (page.of.campaign, page.tastes.language);
    let (rows, columns) = (&campaign.axes[matrix.row_axis], &campaign.axes[matrix.column_axis]);
    let card = |entry: usize| cards.iter().find(|(of, _)| *of == entry).map(|(_, card)| card);
    html! {
        div.scroll tabindex="0" role="region" aria-label=(page.tastes.say("Matrix of pictures", "Matrix der Bilder")) {
            table.matrix {
                thead {
                    tr {
                        th scope="col" {
                            span.axes { (wording::axis(rows, language)) " ↓ " (wording::axis(columns, language)) " →" }
                        }
                        @for &column in &matrix.columns {
                            th scope="col" { (wording::value(&columns.values[column], language)) }
                        }
                    }
                }
                tbody {
                    @for (row, cells) in &matrix.rows {
                        tr {
                            th scope="row" { (wording::value(&rows.values[*row], language)) }
                            @for cell in cells {
                                td {
                                    @match cell {
                                        Cell::Picture(entry) => @if let Some(card) = card(*entry) { (cell_markup(page.tastes, card)) },
                                        Cell::NotAsked => {},
                                        Cell::NotAllowed => {
                                            span.none title=(page.tastes.say("these values do not stand together", "diese Werte gibt es nicht zusammen")) { "–" }
                                        },
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn cell_markup(tastes: Tastes, card: &CardView<'_>) -> Markup {
    html! {
        a.cell href=(card.page) title=(card.headline) data-shot data-recipe=(card.recipe_id) data-move {
            (shown(card))
            (state_dots(tastes, card.states))
            @if let Some(sets) = sets_words(tastes, card.layer_sets) {
                span.sets title=(sets) { "×" (card.layer_sets) span.hidden { " " (sets) } }
            }
        }
        (picked::choice(tastes, card))
    }
}

/// The picture that readers get; to those who decide, the one that awaits them where readers get a stand-in.
fn shown(card: &CardView<'_>) -> Markup {
    html! {
        @match (card.case, &card.picture) {
            // Its place is kept before it comes: a master has about the ratio of its slot.
            (Some(case), picture) => {
                @let ratio = picture.map(|picture| picture.ratio);
                img src={ "/admin/v1/decisions/" (case) "/picture?w=320" } width=[ratio.map(|ratio| ratio.0)]
                    height=[ratio.map(|ratio| ratio.1)] alt=(card.headline) loading="lazy";
            },
            (None, Some(picture)) => { (picture.picture()) span.badge hidden {} },
            (None, None) => {},
        }
    }
}

/// A colour and a word for each state, so that neither is needed to read the other.
fn state_dots(tastes: Tastes, states: States) -> Markup {
    html! {
        span.states {
            @for state in states.told() {
                span.state data-state=(state.as_str()) { (state.words(tastes.language)) }
            }
        }
    }
}

fn card_markup(page: &SlotPage<'_>, card: &CardView<'_>) -> Markup {
    let tastes = page.tastes;
    html! {
        article.card data-shot data-recipe=(card.recipe_id) {
            a.shot href=(card.page) tabindex="-1" aria-hidden="true" { (shown(card)) }
            div.body {
                a.name href=(card.page) data-move { (card.headline) }
                span.key { (card.values) }
                (state_dots(tastes, card.states))
                (picked::choice(tastes, card))
                (looks_alike(page, card))
                @if card.variants > 1 {
                    span.key { (card.variants) " " (tastes.say("variants share it", "Varianten teilen es")) }
                }
                @if let Some(sets) = sets_words(tastes, card.layer_sets) {
                    a.key href={ (card.page) "#layers" } data-layer-sets=(card.layer_sets) { (sets) }
                }
                @if let Some(master) = card.merged_with {
                    span.merged { (tastes.say("Looks like ", "Sieht aus wie ")) code { (master) } (tastes.say(": shares its master", ": teilt dessen Master")) }
                }
                details.ids {
                    summary { (tastes.say("Details", "Details")) }
                    span.key.mono { (card.key) }
                    a.key.mono href=(card.papers) title=(tastes.say("Recipe id: opens the dossier of this picture", "Rezept: öffnet das Dossier dieses Bildes")) { (card.recipe_id) }
                    @if let Some(markup) = &card.markup {
                        div.actions {
                            (copy(tastes.say("Copy URL", "URL kopieren"), &markup.candidate(card.width_px, None)))
                            (copy(tastes.say("Copy <picture>", "<picture> kopieren"), &markup.markup_text()))
                        }
                    }
                }
            }
        }
    }
}

/// Which picture the page's others look like.
fn alike(page: &SlotPage<'_>) -> Markup {
    let say = |english, german| page.tastes.say(english, german);
    html! {
        @if let Some(like) = &page.asked.like {
            p.notice data-like {
                (say("Pictures that look like ", "Bilder, die aussehen wie ")) code { (like.values) } ": "
                (like.bits) (say(" of 256 bits of a fingerprint of brightness may differ; colours are not compared. ",
                    " von 256 Bit eines Helligkeits-Fingerabdrucks dürfen abweichen; Farben werden nicht verglichen. "))
                a href={ "?" (Filter { like: None, ..page.asked.clone() }.query(page.of.campaign)) } { (say("Show the others, too", "Auch die anderen zeigen")) }
            }
        }
    }
}

/// The way to pictures that look like a card's.
fn looks_alike(page: &SlotPage<'_>, card: &CardView<'_>) -> Markup {
    let Some((picture, _)) = &card.pick else { return html! {} };
    let bits = page.asked.like.as_ref().map_or(LIKE_BITS, |like| like.bits);
    let values = picture.split_once('?').map_or("", |(_, values)| values).to_owned();
    let asked = Filter { like: Some(Like { values, bits }), view: Some(View::Cards), ..page.asked.clone() };
    html! {
        @if card.alike > 0 {
            a.key href={ "?" (asked.query(page.of.campaign)) } data-alike=(card.alike) {
                (card.alike) " " (if card.alike == 1 { page.tastes.say("other looks like it", "anderes sieht so aus") } else { page.tastes.say("others look like it", "andere sehen so aus") })
            }
        }
    }
}

fn nothing(page: &SlotPage<'_>) -> Markup {
    html! {
        p.notice {
            (page.tastes.say("No picture is like that. ", "So ein Bild gibt es nicht. "))
            a href="?" { (page.tastes.say("Show all", "Alle zeigen")) }
        }
    }
}

fn pager(page: &SlotPage<'_>) -> Markup {
    let (current, last) = match &page.laid {
        Laid::Cards { page, pages, .. } => (*page, *pages),
        Laid::Matrix { matrix, .. } => (matrix.page, matrix.pages),
    };
    let tastes = page.tastes;
    let link = |number: usize, text: &str| {
        let rel = if number < current { "prev" } else { "next" };
        html! { a href={ "?" (page.asked.page_query(page.of.campaign, number)) } rel=(rel) { (text) } }
    };
    html! {
        @if last > 1 {
            nav.pages aria-label=(tastes.say("Pages", "Seiten")) {
                @if current > 1 { (link(current - 1, tastes.say("← Previous", "← Zurück"))) }
                span { (tastes.say("Page", "Seite")) " " (current) " " (tastes.say("of", "von")) " " (last) }
                @if current < last { (link(current + 1, tastes.say("Next →", "Weiter →"))) }
            }
        }
    }
}

//! Batch and warm: a filter's pictures are drawn ahead, and people follow how far it is.
//!
//! | page | shows |
//! | --- | --- |
//! | `/preview/{campaign}/{slot}/batch?…` | what the filter's pictures are expected to take, and the form that starts |
//! | `/preview/batches` | every batch |
//! | `/preview/batches/{id}` | one batch: how far it is, what failed, its results |
//!
//! Pages are whole without a script; the script only asks for the page again when the batch has changed. A batch is shown to those
//! who see each of its campaigns.

mod choose;
pub(super) mod words;

use std::time::Duration;

use bildkante_shared::problem::Problem;
use maud::{Markup, html};

use self::choose::ChoosePage;
use self::words::{bytes, duration, seconds, state_words};
use super::board::Board;
use super::census::SlotOf;
use super::desk::{Desk, hidden};
use super::filter::Filter;
use super::frame::{Crumb, Measured};
use super::slot::SlotPage;
use super::tastes::Tastes;
use super::ways::{crumbs, not_found, place};
use super::wording::number;
use super::{Content, Preview, Reader};
use crate::batch::BatchStatus;
use crate::batch::record::{BatchRecord, BatchState, Item, Tally, Terms};
use crate::shared_state::PersonRole;
use crate::warm::Cost;

/// Where all batches are.
const BATCHES: &str = "/preview/batches";
/// Behind the path of a slot: the page that starts a batch.
pub(super) const CHOOSE_PAGE: &str = "/batch";

/// The batch that a path below `/preview` names.
pub(super) fn id_of(rest: &str) -> Option<u64> {
    rest.strip_prefix("/batches/")?.parse().ok()
}

/// The way to the page that draws a filter's pictures, for those who may.
pub(super) fn way_in(page: &SlotPage<'_>) -> Markup {
    let may = page.bulk.as_ref().is_some_and(|bulk| bulk.desk.role >= PersonRole::Operator);
    let count = page.board.matching.len();
    let campaign = page.of.campaign;
    let to = format!("/preview/{}/{}{CHOOSE_PAGE}?{}", campaign.name, page.of.slot().name, page.asked.query(campaign));
    html! {
        @if may && count > 0 {
            p.ways {
                a href=(to) {
                    (page.tastes.say("Draw these", "Diese erzeugen")) " (" (number(count, page.tastes.language)) ")"
                }
            }
        }
    }
}

impl Preview {
    /// The page that starts a batch. Looks through the slot: for a thread of its own.
    pub(super) fn choose_batch(
        &self,
        tastes: Tastes,
        (path, query): (&str, &str),
        desk: Option<(PersonRole, Option<&str>)>,
    ) -> Result<Content, Box<Problem>> {
        let catalog = self.catalog.load();
        let (campaign, slot_index) = place(&catalog, path)?;
        let of = SlotOf { campaign, slot_index };
        let asked = Filter::parse(campaign, query);
        let board = self.board(&catalog, of, &asked);
        let items = items(&board);
        // What the form orders: the usual formats.
        let terms = Terms { formats: Vec::new(), concurrency: 1 };
        let estimate = self.batches.estimate(&catalog, &items, &terms);
        let (slot, query) = (&of.slot().name, asked.query(campaign));
        let back = format!("/preview/{}/{slot}{CHOOSE_PAGE}?{query}", campaign.name);
        let page = ChoosePage {
            tastes,
            campaign,
            slot,
            query: &query,
            in_words: choose::in_words(of, &board, &asked, tastes.language),
            matching: board.matching.len(),
            estimate: &estimate,
            has_price: self.batches.price().is_some(),
            desk: desk.map(|(role, csrf)| Desk { role, csrf, back: &back }),
        };
        let title = tastes.say("Draw pictures", "Bilder erzeugen").to_owned();
        let main = choose::choose(&page);
        let crumbs = crumbs(&catalog, &campaign.name, slot, Some(title.clone()));
        Ok(Content { title, crumbs, main, measured: Measured::No, is_wide: false })
    }

    /// Every batch that the reader may see.
    pub(super) fn all_batches(&self, tastes: Tastes, reader: &Reader<'_>) -> Content {
        let all = self.batches.all();
        let shown: Vec<_> = all.iter().filter(|status| sees(reader, &status.record)).collect();
        let title = tastes.say("Batches", "Aufträge").to_owned();
        let crumbs = vec![Crumb { name: title.clone(), to: None }];
        Content { title, crumbs, main: list(tastes, &shown), measured: Measured::No, is_wide: false }
    }

    /// One batch.
    pub(super) fn one_batch(&self, tastes: Tastes, id: u64, reader: &Reader<'_>) -> Result<Content, Box<Problem>> {
        let gone = || not_found(format!("there is no batch `{id}`"));
        let seen = self.batches.watch(id).map(|seen| *seen.borrow()).ok_or_else(gone)?;
        let status = self.batches.one(id).filter(|status| sees(reader, &status.record)).ok_or_else(gone)?;
        let may_change =
            status.record.campaigns.iter().all(|campaign| (reader.role)(campaign) >= Some(PersonRole::Operator));
        let back = format!("{BATCHES}/{id}");
        let page = BatchPage {
            tastes,
            cost: self.batches.price().map(|price| price.of(status.record.tally.device_ms)),
            status: &status,
            seen,
            desk: may_change.then_some(Desk { role: PersonRole::Operator, csrf: reader.csrf, back: &back }),
        };
        let title = title(tastes, &status.record);
        let all = Crumb { name: tastes.say("Batches", "Aufträge").to_owned(), to: Some(BATCHES.to_owned()) };
        let crumbs = vec![all, Crumb { name: title.clone(), to: None }];
        Ok(Content { title, crumbs, main: follow(&page), measured: Measured::No, is_wide: false })
    }
}

/// The pictures of a filter that can be made.
fn items(board: &Board) -> Vec<Item> {
    let entries = board.matching.iter().map(|&entry| &board.census.entries[entry]);
    entries
        .filter(|entry| entry.is_makeable)
        .map(|entry| Item { recipe: entry.recipe, ..Item::waiting(entry.picture.clone(), None) })
        .collect()
}

fn sees(reader: &Reader<'_>, record: &BatchRecord) -> bool {
    record.campaigns.iter().all(|campaign| (reader.sees)(Some(campaign)))
}

fn title(tastes: Tastes, record: &BatchRecord) -> String {
    let count = number(record.pictures as usize, tastes.language);
    let pictures = if record.pictures == 1 { tastes.say("picture", "Bild") } else { tastes.say("pictures", "Bilder") };
    let campaigns: Vec<&str> = record.campaigns.iter().map(String::as_str).collect();
    format!("{count} {pictures} · {}", campaigns.join(", "))
}

/// Everything the page of one batch shows.
struct BatchPage<'a> {
    tastes: Tastes,
    status: &'a BatchStatus,
    /// `None` without a price.
    cost: Option<Cost>,
    /// What the page knows of its changes.
    seen: u64,
    /// Of those who may change it.
    desk: Option<Desk<'a>>,
}

fn follow(page: &BatchPage<'_>) -> Markup {
    let record = &page.status.record;
    let say = |english, german| page.tastes.say(english, german);
    html! {
        h1 { (title(page.tastes, record)) }
        p.lead {
            (say("Ordered by ", "Bestellt von ")) (record.by)
            @if !record.why.is_empty() { ": " q { (record.why) } }
        }
        div.batch data-batch=(record.id) data-seen=(page.seen) {
            section aria-labelledby="progress" data-live="batch-progress" { (progress(page)) }
            div data-live="batch-actions" { @if let Some(desk) = &page.desk { (actions(page.tastes, desk, record)) } }
            section aria-labelledby="results" {
                h2 id="results" { (say("Results", "Ergebnisse")) }
                p.row {
                    a href={ "/admin/v1/batches/" (record.id) "/results?as=csv" } download { (say("Table (CSV)", "Tabelle (CSV)")) }
                    a href={ "/admin/v1/batches/" (record.id) "/results" } download { (say("Manifest (JSON)", "Manifest (JSON)")) }
                }
            }
            section aria-labelledby="failures" data-live="batch-failures" { (failures(page.tastes, record)) }
        }
        p { a href="" { (say("Look again", "Neu laden")) } }
    }
}

fn progress(page: &BatchPage<'_>) -> Markup {
    let (record, language) = (&page.status.record, page.tastes.language);
    let say = |english, german| page.tastes.say(english, german);
    let Tally { drawn, there, failed, bytes: sum, device_ms } = record.tally;
    let done = drawn + there + failed;
    let counts = [
        (say("drawn", "erzeugt"), drawn),
        (say("there already", "schon da"), there),
        (say("failed", "gescheitert"), failed),
        (say("being drawn", "in Arbeit"), page.status.drawing),
        (say("waiting", "warten"), page.status.waiting()),
    ];
    html! {
        h2 id="progress" { (state_words(record.state, language)) }
        progress max=(record.pictures) value=(done) aria-label=(say("Pictures that are done", "Fertige Bilder")) {
            (done) " / " (record.pictures)
        }
        dl.facts {
            @for (name, count) in counts { dt { (name) } dd { (number(usize::try_from(count).unwrap_or(usize::MAX), language)) } }
            dt { (say("time of devices", "Gerätezeit")) } dd { (seconds(device_ms, language)) }
            @if let Some(cost) = &page.cost { dt { (say("cost", "Kosten")) } dd { (words::cost(cost, language)) } }
            dt { (say("bytes of all files", "Bytes aller Dateien")) } dd { (bytes(sum, language)) }
            dt { (say("working time", "Arbeitszeit")) } dd { (duration(Duration::from_millis(record.elapsed_ms), language)) }
            @if let Some(eta_ms) = record.eta_ms() {
                dt { (say("to go, about", "noch etwa")) } dd { (duration(Duration::from_millis(eta_ms), language)) }
            }
        }
        @if !page.status.is_stored {
            p.notice.bad {
                (say("The disk of this edge has not taken this state yet: a restart would find an older one.",
                    "Die Platte dieses Servers hat diesen Stand noch nicht: Ein Neustart fände einen älteren vor."))
            }
        }
    }
}

/// What may be done about it as it stands.
fn actions(tastes: Tastes, desk: &Desk<'_>, record: &BatchRecord) -> Markup {
    use BatchState as S;
    let say = |english, german| tastes.say(english, german);
    let has_failed = record.tally.failed > 0;
    let form = |ask: &str, label: &str| {
        html! {
            form method="post" action={ (BATCHES) "/" (record.id) "/" (ask) } { (hidden(desk)) button { (label) } }
        }
    };
    html! {
        div.row {
            @if record.state.is_active() { (form("pause", say("Pause", "Anhalten"))) }
            @if record.state == S::Paused { (form("resume", say("Go on", "Fortsetzen"))) }
            @if has_failed && matches!(record.state, S::Done | S::Paused | S::Refused) {
                (form("retry", say("Try failures again", "Gescheiterte noch einmal")))
            }
            @if record.state.is_active() || record.state == S::Paused { (form("cancel", say("End it", "Abbrechen"))) }
        }
    }
}

fn failures(tastes: Tastes, record: &BatchRecord) -> Markup {
    let say = |english, german| tastes.say(english, german);
    let untold = record.tally.failed.saturating_sub(record.failures.len() as u64);
    html! {
        h2 id="failures" { (say("Failures", "Gescheitert")) }
        @if record.failures.is_empty() { p { (say("None.", "Keine.")) } }
        ul.failures {
            @for failure in &record.failures {
                li {
                    @if !failure.picture.is_empty() {
                        code { (failure.picture) @if let Some(seed) = failure.seed { " · seed " (seed) } } ": "
                    }
                    (failure.reason)
                }
            }
        }
        @if untold > 0 {
            p { "… " (say("and so many more, which the results name:", "und weitere, die in den Ergebnissen stehen:")) " " (untold) }
        }
    }
}

fn list(tastes: Tastes, batches: &[&BatchStatus]) -> Markup {
    let (say, language) = (|english, german| tastes.say(english, german), tastes.language);
    html! {
        h1 { (say("Batches", "Aufträge")) }
        p.lead {
            (say("Pictures that were ordered together. A filter on the page of a slot starts one, as does the command ",
                "Bilder, die zusammen bestellt wurden. Ein Filter auf der Seite eines Platzes startet einen Auftrag, ebenso der Befehl "))
            code { "bildkante-edge batch" } "."
        }
        @if batches.is_empty() { p.notice { (say("There is none yet.", "Es gibt noch keinen.")) } }
        @else {
            div.scroll tabindex="0" role="region" aria-label=(say("Batches", "Aufträge")) {
                table {
                    thead {
                        tr {
                            th scope="col" { (say("Batch", "Auftrag")) }
                            th scope="col" { (say("State", "Zustand")) }
                            th scope="col" { (say("Done", "Fertig")) }
                            th scope="col" { (say("Failed", "Gescheitert")) }
                            th scope="col" { (say("By", "Von")) }
                        }
                    }
                    tbody {
                        @for status in batches {
                            @let record = &status.record;
                            @let done = u64::from(record.pictures) - record.left();
                            tr {
                                th scope="row" { a href={ (BATCHES) "/" (record.id) } { (title(tastes, record)) } }
                                td { (state_words(record.state, language)) }
                                td { (number(usize::try_from(done).unwrap_or(usize::MAX), language)) }
                                td { (number(usize::try_from(record.tally.failed).unwrap_or(usize::MAX), language)) }
                                td { (record.by) }
                            }
                        }
                    }
                }
            }
        }
    }
}

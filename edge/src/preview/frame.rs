//! What every page has: the header with the way back, the reader's language and ground, and who the reader is; styles and scripts.

use maud::{DOCTYPE, Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::after::{self, UndoBar};
use super::tastes::{Advance, Ground, Tastes};
use crate::language::Language;

/// A step of the way from the first page to this one.
#[derive(Debug, Clone)]
pub(super) struct Crumb {
    pub(super) name: String,
    /// `None`: the page itself.
    pub(super) to: Option<String>,
}

/// Which scripts a page runs beside the preview's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measured {
    /// By the script of the public listener, as a customer's page.
    ByBrowser,
    /// A page with forms runs no script of another listener.
    No,
}

/// Who reads the page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Person<'a> {
    /// `None` where no key was asked for.
    pub(super) name: Option<&'a str>,
    /// Pictures that await what the reader may decide.
    pub(super) needed: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) tastes: Tastes,
    /// Path and query of the page.
    pub(super) here: &'a str,
    /// The last decision that the page knows of.
    pub(super) seq: u64,
    pub(super) public_url: &'a str,
    pub(super) title: String,
    pub(super) crumbs: Vec<Crumb>,
    pub(super) person: Person<'a>,
    /// What the reader decided last, while it can be taken back.
    pub(super) undo: Option<UndoBar>,
    pub(super) measured: Measured,
    /// The page takes as much of the screen as there is.
    pub(super) is_wide: bool,
}

impl Frame<'_> {
    pub(super) fn around(&self, main: &Markup) -> Markup {
        let say = |english, german| self.tastes.say(english, german);
        html! {
            (DOCTYPE)
            html lang=(self.tastes.language.code()) data-ground=(self.tastes.ground.as_str()) data-seq=(self.seq) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="robots" content="noindex";
                    title { (self.title) " · Bildkante" }
                    link rel="preconnect" href=(self.public_url);
                    link rel="icon" href="/preview/icon.svg" type="image/svg+xml";
                    link rel="stylesheet" href="/preview/style.css";
                    @if self.measured == Measured::ByBrowser { script src={ (self.public_url) "/rum.js" } defer {} }
                    script src="/preview/main.js" type="module" {}
                }
                body {
                    a.skip href="#main" { (say("To the content", "Zum Inhalt")) }
                    header.bar {
                        a.brand href="/preview/" { "Bildkante" }
                        (self.way())
                        span.links {
                            a href="/preview/queue" {
                                (say("Needs me", "Für mich"))
                                " " span data-live="needed" { @if self.person.needed > 0 { span.count { (self.person.needed) } } }
                            }
                            (self.settings())
                            (self.who())
                        }
                    }
                    main id="main" class=[self.is_wide.then_some("wide")] {
                        @if let Some(undo) = &self.undo { (after::bar(self.tastes, undo)) }
                        (main)
                    }
                    footer {
                        a href="/preview/batches" { (say("Batches", "Aufträge")) }
                        a href="/metrics" { (say("Metrics", "Metriken")) }
                        a href="/readyz" { (say("Health", "Zustand")) }
                        a href="/admin/v1/openapi.json" { "OpenAPI" }
                    }
                    (help(self.tastes, self.here))
                }
            }
        }
    }

    fn way(&self) -> Markup {
        html! {
            nav.way aria-label=(self.tastes.say("Where you are", "Wo Sie sind")) {
                ol {
                    @for crumb in &self.crumbs {
                        li {
                            @match &crumb.to {
                                Some(to) => a href=(to) { (crumb.name) },
                                None => span aria-current="page" { (crumb.name) },
                            }
                        }
                    }
                }
            }
        }
    }

    fn settings(&self) -> Markup {
        let Tastes { language, ground, .. } = self.tastes;
        html! {
            details.menu {
                summary { (self.tastes.say("View", "Ansicht")) }
                div {
                    p { (self.tastes.say("Language", "Sprache")) }
                    @for other in Language::ALL {
                        a href=(Tastes::in_language(self.here, other)) lang=(other.code()) hreflang=(other.code())
                            aria-current=[(other == language).then_some("true")] { (other.name()) }
                    }
                    p { (self.tastes.say("Background", "Hintergrund")) }
                    @for other in Ground::ALL {
                        a href=(Tastes::on_ground(self.here, other)) aria-current=[(other == ground).then_some("true")] {
                            (other.words(language))
                        }
                    }
                    (advance(self.tastes, self.here))
                }
            }
        }
    }

    fn who(&self) -> Markup {
        html! {
            a href={ "/admin/login?to=" (utf8_percent_encode(self.here, NON_ALPHANUMERIC)) } {
                @match self.person.name {
                    Some(name) => (name),
                    None => (self.tastes.say("Log in", "Anmelden")),
                }
            }
        }
    }
}

/// What a decision opens.
fn advance(tastes: Tastes, here: &str) -> Markup {
    html! {
        p { (tastes.say("After a decision", "Nach einer Entscheidung")) }
        @for other in Advance::ALL {
            a href=(Tastes::advancing(here, other)) aria-current=[(other == tastes.advance).then_some("true")] {
                (other.words(tastes.language))
            }
        }
    }
}

/// Keys and what they do. The script shows it for `?`, and lets the reader turn single keys off (WCAG 2.2, 2.1.4).
fn help(tastes: Tastes, here: &str) -> Markup {
    let say = |english, german| tastes.say(english, german);
    let keys = [
        ("?", say("this help", "diese Hilfe")),
        ("n p", say("next and previous picture", "nächstes und voriges Bild")),
        ("← → ↑ ↓", say("move among the pictures of a page", "zwischen den Bildern einer Seite bewegen")),
        ("1 … 9", say("choose a candidate", "einen Kandidaten wählen")),
        ("a", say("approve", "freigeben")),
        ("r", say("reject, with a reason", "ablehnen, mit Grund")),
        ("c", say("request changes", "Änderung wünschen")),
        (
            "u",
            say(
                "take back a decision of yours, for some seconds",
                "eigene Entscheidung zurücknehmen, einige Sekunden lang",
            ),
        ),
        ("k", say("kill, where you may", "sperren, wo Sie es dürfen")),
        ("/", say("search", "suchen")),
        ("m", say("compare", "vergleichen")),
    ];
    html! {
        dialog.help id="keys" aria-labelledby="keys-title" {
            h2 id="keys-title" { (say("Keys", "Tasten")) }
            dl.facts { @for (key, what) in keys { dt { kbd { (key) } } dd { (what) } } }
            p { label { input type="checkbox" data-keys-on checked; " " (say("Single keys are on", "Einzelne Tasten sind an")) } }
            div.choices-of-advance { (advance(tastes, here)) }
            form method="dialog" { button autofocus { (say("Close", "Schließen")) } }
        }
    }
}

/// A text to copy.
pub(super) fn copy(label: &str, text: &str) -> Markup {
    html! { button type="button" data-copy=(text) { (label) } }
}

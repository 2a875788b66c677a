//! What a person reads where a page or a form comes to nothing: what happened, what to do now, and the reason.
//!
//! Invariants: the words are the reader's language. The reason is what programs get as well (RFC 9457), so it is English and says
//! so; the status is that of the problem.

use bildkante_shared::problem::Problem;
use http::HeaderMap;
use http::header::ACCEPT;
use maud::{Markup, html};

use crate::language::Language;

/// What happened, and what helps.
struct Words {
    title: &'static str,
    advice: &'static str,
}

impl Words {
    fn of(status: u16, language: Language) -> Self {
        let say = |english, german| language.say(english, german);
        let (title, advice) = match status {
            401 => (
                say("You are not logged in", "Sie sind nicht angemeldet"),
                say("Log in, and send the form again.", "Melden Sie sich an, und senden Sie das Formular noch einmal."),
            ),
            403 => (
                say("You may not do this", "Das dürfen Sie nicht"),
                say("An operator of this edge gives roles.", "Rollen vergeben die Betreiber dieses Servers."),
            ),
            404 => (
                say("There is no such page", "Diese Seite gibt es nicht"),
                say(
                    "The campaign may have changed since the link was made.",
                    "Vielleicht hat sich die Kampagne geändert, seit es den Link gibt.",
                ),
            ),
            405 | 415 => (
                say("This address takes another request", "Diese Adresse nimmt eine andere Anfrage"),
                say(
                    "Go back, and use the form of the page.",
                    "Gehen Sie zurück, und benutzen Sie das Formular der Seite.",
                ),
            ),
            409 | 412 => (
                say("Something has changed meanwhile", "Inzwischen hat sich etwas geändert"),
                say(
                    "Nothing was done. Go back, look again, and decide anew.",
                    "Es wurde nichts getan. Gehen Sie zurück, sehen Sie noch einmal hin, und entscheiden Sie neu.",
                ),
            ),
            413 => (
                say("This is too much at once", "Das ist zu viel auf einmal"),
                say("Send less.", "Senden Sie weniger."),
            ),
            429 => (
                say("Too many requests", "Zu viele Anfragen"),
                say("Wait a minute, and try again.", "Warten Sie eine Minute, und versuchen Sie es noch einmal."),
            ),
            400..500 => (
                say("This cannot be done so", "So geht das nicht"),
                say(
                    "Go back, and change what the reason names.",
                    "Gehen Sie zurück, und ändern Sie, was der Grund nennt.",
                ),
            ),
            _ => (
                say("This edge cannot do it now", "Dieser Server kann das gerade nicht"),
                say("Try again in a minute.", "Versuchen Sie es in einer Minute noch einmal."),
            ),
        };
        Self { title, advice }
    }
}

/// Whether the client shows pages: a browser that opens an address, and no program.
pub(crate) fn wants_page(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok()).any(|accept| accept.contains("text/html"))
}

/// The title of the page about a problem.
pub(crate) fn title(problem: &Problem, language: Language) -> &'static str {
    Words::of(problem.status, language).title
}

/// What stands in the page; `back` is where the reader goes from here.
pub(crate) fn told(problem: &Problem, back: &str, language: Language) -> Markup {
    let say = |english, german| language.say(english, german);
    let Words { title, advice } = Words::of(problem.status, language);
    html! {
        h1 { (title) }
        div.notice role="alert" {
            p { (advice) }
            p { (say("The reason: ", "Der Grund: ")) span lang="en" { (problem.detail) } }
        }
        p { a.button href=(back) { (say("Back", "Zurück")) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_in_the_language_of_the_reader_and_its_reason_as_programs_get_it() {
        let problem = Problem::new(409, "decided", "Conflict", "`<b>` was approved by ana");
        let german = told(&problem, "/preview/?a=1&b=2", Language::German).into_string();
        assert!(german.contains("Inzwischen hat sich etwas geändert"), "{german}");
        assert!(german.contains("<span lang=\"en\">`&lt;b&gt;` was approved by ana</span>"), "{german}");
        assert!(german.contains("href=\"/preview/?a=1&amp;b=2\""), "{german}");
        for status in [400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 503] {
            let problem = Problem::new(status, "any", "Any", "why");
            assert_ne!(title(&problem, Language::English), title(&problem, Language::German), "{status}");
        }
    }
}

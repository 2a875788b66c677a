//! The frame of a page that is kept, sent and printed: one file without a script, whose style is in it.

use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("sheet.css");

/// A whole page.
pub(super) fn sheet(title: &str, body: &Markup) -> String {
    let PreEscaped(text) = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    };
    text
}

/// A fact of a `dl`; one that is not known is said to be unknown.
pub(super) fn fact(name: &str, value: Option<&str>) -> Markup {
    html! {
        dt { (name) }
        dd { @match value { Some(value) => (value), None => span.unknown { "unknown" } } }
    }
}

/// A fact in digits: an id, a digest, a URL.
pub(super) fn code(name: &str, value: Option<&str>) -> Markup {
    html! {
        dt { (name) }
        dd { @match value { Some(value) => code { (value) }, None => span.unknown { "unknown" } } }
    }
}

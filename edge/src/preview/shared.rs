//! What a person with a link sees: the pictures of the link, what was written about them, and a form to write. Nothing else.
//!
//! Invariants: pictures are named by their places in the link; nothing of the page names another picture, a case, a person of the house
//! or a way into the preview; pages are kept by no cache, found by no search engine, and tell no other host where they are.

use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use maud::{DOCTYPE, Markup, html};

use super::comments::words;
use super::tastes::Tastes;
use super::{Preview, pins, wording};
use crate::language::Language;
use crate::response::{self, TextKind};
use crate::service::Body;
use crate::shares::{Closed, Comment, NAME_CHARS_MAX, Opened, PATH, TEXT_CHARS_MAX};

const ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");
/// The page loads its own style, script and pictures, and sends its forms here alone.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";

/// A comment that was not taken: its author finds it in the form, with the reason.
#[derive(Debug, Default)]
pub(crate) struct Unsent<'f> {
    pub(crate) why: String,
    /// Of the page that it was written on.
    pub(crate) language: Option<Language>,
    /// From 1.
    pub(crate) picture: Option<usize>,
    pub(crate) name: &'f str,
    pub(crate) text: &'f str,
    /// As they were typed.
    pub(crate) x: &'f str,
    pub(crate) y: &'f str,
}

/// A picture of the page.
#[derive(Debug)]
struct View {
    /// From 1.
    number: usize,
    headline: String,
    /// In pixels; `None` where the picture is not shown any more.
    size: Option<(u32, u32)>,
    comments: Vec<Comment>,
}

impl Preview {
    /// The page of a link that was opened.
    pub(crate) fn guest_page(
        &self,
        (headers, query): (&HeaderMap, Option<&str>),
        opened: &Opened,
        unsent: Option<&Unsent<'_>>,
    ) -> Response<Body> {
        let tastes = Tastes::of(query, headers);
        let language = unsent.and_then(|unsent| unsent.language).unwrap_or(tastes.language);
        let tastes = Tastes { language, ..tastes };
        let share = &opened.kept.share;
        let comments = self.shares.comments.of_share(share.id);
        let catalog = self.catalog.load();
        let views = share.pictures.iter().enumerate().map(|(at, of)| {
            let meant = self.meant(&catalog, &of.picture);
            let headline = meant.as_ref().map(|(campaign, slot_index, variant)| {
                wording::headline(campaign, &campaign.slots[*slot_index], &variant.values, tastes.language)
            });
            let ratio = meant.map(|(campaign, slot_index, _)| {
                let ratio = campaign.slots[slot_index].framing.ratio;
                (ratio.width(), ratio.height())
            });
            View {
                number: at + 1,
                headline: headline.unwrap_or_else(|| format!("{} {}", tastes.say("Picture", "Bild"), at + 1)),
                size: ratio.filter(|_| self.shares.wanted(of).is_ok()),
                comments: comments.iter().filter(|comment| comment.picture == of.picture).cloned().collect(),
            }
        });
        let views: Vec<View> = views.collect();
        let main = page(tastes, opened, &views, unsent);
        let address = format!("{PATH}{}?{}", share.id, opened.query);
        let markup = framed(tastes, &share.title, Some(&address), &main).0;
        guarded(response::text(headers, TextKind::Html, markup, "no-store"))
    }

    /// Says to a person that a link shows nothing.
    pub(crate) fn closed_page((headers, query): (&HeaderMap, Option<&str>), closed: Closed) -> Response<Body> {
        let tastes = Tastes::of(query, headers);
        let say = |english, german| tastes.say(english, german);
        let text = match closed.status() {
            410 => say(
                "This link is over. Ask who sent it to you for another one.",
                "Dieser Link ist abgelaufen oder wurde beendet. Bitten Sie um einen neuen, wo Sie ihn bekommen haben.",
            ),
            _ => say(
                "This is no link that works. It may have been cut when it was copied.",
                "Dieser Link funktioniert nicht. Vielleicht wurde er beim Kopieren abgeschnitten.",
            ),
        };
        let title = say("Nothing to see here", "Hier ist nichts zu sehen");
        let main = html! { h1 { (title) } p.notice role="alert" { (text) } };
        let markup = framed(tastes, title, None, &main).0;
        let mut response = guarded(response::text(headers, TextKind::Html, markup, "no-store"));
        *response.status_mut() = StatusCode::from_u16(closed.status()).unwrap_or(StatusCode::NOT_FOUND);
        response
    }
}

/// What every answer to a guest says of itself.
pub(crate) fn guarded(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(ROBOTS, HeaderValue::from_static("noindex, nofollow"));
    response
}

/// `address`: of the page, where it is one of a link.
fn framed(tastes: Tastes, title: &str, address: Option<&str>, main: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang=(tastes.language.code()) data-ground=(tastes.ground.as_str()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex, nofollow";
                title { (title) }
                link rel="icon" href={ (PATH) "icon.svg" } type="image/svg+xml";
                link rel="stylesheet" href={ (PATH) "style.css" };
                script src={ (PATH) "shared.js" } type="module" {}
            }
            body {
                main.guest id="main" { (main) }
                @if let Some(address) = address {
                    footer {
                        @for language in Language::ALL {
                            a href={ (address) "&_lang=" (language.code()) } lang=(language.code()) hreflang=(language.code())
                                aria-current=[(language == tastes.language).then_some("true")] { (language.name()) }
                        }
                    }
                }
            }
        }
    }
}

fn page(tastes: Tastes, opened: &Opened, views: &[View], unsent: Option<&Unsent<'_>>) -> Markup {
    let say = |english, german| tastes.say(english, german);
    html! {
        h1 { (opened.kept.share.title) }
        p.lead {
            (say("You see these pictures until ", "Sie sehen diese Bilder bis ")) (super::sharing::day(opened.kept.share.expires_unix_ms)) ". "
            (say("They are not public yet: please keep this link to yourself. Your comments are read by those who sent it, and by everyone who has it.",
                "Sie sind noch nicht öffentlich: Bitte geben Sie den Link nicht weiter. Ihre Kommentare lesen die Absender und alle, die diesen Link haben."))
        }
        @if let Some(unsent) = unsent {
            p.notice.bad role="alert" {
                (say("Your comment was not taken: ", "Ihr Kommentar wurde nicht angenommen: ")) span lang="en" { (unsent.why) }
            }
        }
        @for view in views {
            (picture(tastes, opened, view, unsent.filter(|unsent| unsent.picture == Some(view.number))))
        }
    }
}

fn picture(tastes: Tastes, opened: &Opened, view: &View, unsent: Option<&Unsent<'_>>) -> Markup {
    let say = |english, german| tastes.say(english, german);
    let address = format!("{PATH}{}", opened.kept.share.id);
    let named = format!("picture-{}", view.number);
    html! {
        section.guest-picture aria-labelledby=(named) {
            h2 id=(named) { (view.number) ". " (view.headline) }
            @match view.size {
                Some((width, height)) => {
                    div.pinned-frame data-pinnable=(view.number) {
                        img src={ (address) "/pictures/" (view.number) "?" (opened.query) } alt=(view.headline)
                            width=(width * 100) height=(height * 100) loading=(if view.number > 1 { "lazy" } else { "eager" });
                        (pins::overlay((width, height), &pins::numbered(&view.comments)))
                    }
                }
                None => p.notice { (say("This picture is not shown any more.", "Dieses Bild wird nicht mehr gezeigt.")) },
            }
            @if !view.comments.is_empty() {
                ol.comments { @for comment in &view.comments { li.comment { (words(tastes, comment)) } } }
            }
            @if view.size.is_some() { (form(tastes, (&address, &opened.query), view.number, unsent)) }
        }
    }
}

fn form(tastes: Tastes, (address, query): (&str, &str), number: usize, unsent: Option<&Unsent<'_>>) -> Markup {
    let say = |english, german| tastes.say(english, german);
    html! {
        details.decide open[unsent.is_some()] {
            summary { (say("Write a comment", "Kommentar schreiben")) " (" (say("picture", "Bild")) " " (number) ")" }
            form.comment-form method="post" action={ (address) "/comments?" (query) } data-comment-for=(number) {
                input type="hidden" name="picture" value=(number);
                input type="hidden" name="language" value=(tastes.language.code());
                p.key data-pin-help hidden {
                    (say("Click the picture to pin the comment to a point.", "Klicken Sie ins Bild, um den Kommentar an einen Punkt zu heften."))
                }
                div.row {
                    label { (say("From the left, in percent", "Von links, in Prozent")) " " input type="number" name="x" min="0" max="100" step="any" value=[unsent.map(|it| it.x)]; }
                    label { (say("From the top, in percent", "Von oben, in Prozent")) " " input type="number" name="y" min="0" max="100" step="any" value=[unsent.map(|it| it.y)]; }
                }
                label { (say("Your name", "Ihr Name")) " " input name="name" required maxlength=(NAME_CHARS_MAX) autocomplete="name" value=[unsent.map(|it| it.name)]; }
                label { (say("Comment", "Kommentar")) " " textarea name="text" required maxlength=(TEXT_CHARS_MAX) rows="3" { (unsent.map_or("", |it| it.text)) } }
                button.primary { (say("Send", "Senden")) }
            }
        }
    }
}

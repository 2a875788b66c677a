//! The form by which a selection is shown to people without an account, and the links that do so now.

use maud::{Markup, html};

use super::desk::{Desk, hidden};
use super::tastes::Tastes;
use super::{Preview, wording};
use crate::shared_state::{KeptShare, SHARE_TITLE_BYTES_MAX};
use crate::shares::{CommentCount, SHARE_DAYS_MAX};
use crate::words::Moment;

/// Links of a slot that are listed.
const LINKS_MAX: usize = 100;
/// Days that the form proposes.
const DAYS: u64 = 14;

/// What a link would show.
#[derive(Debug)]
pub(super) enum Shareable {
    /// So many pictures of a filter, which is a query.
    Filter(String, usize),
    Picture(String),
}

/// Everything the section shows.
#[derive(Debug)]
pub(super) struct Sharing {
    /// `campaign/slot`.
    slot: String,
    what: Shareable,
    links: Vec<LinkView>,
    has_key: bool,
}

/// A link that is open.
#[derive(Debug)]
struct LinkView {
    id: String,
    title: String,
    /// `None` where no key signs.
    address: Option<String>,
    ends: String,
    pictures: usize,
    comments: CommentCount,
}

impl Preview {
    /// What can be shared of a slot, and what is.
    pub(super) fn sharing_of(&self, slot: &str, what: Shareable) -> Sharing {
        let is_meant = |kept: &KeptShare| match &what {
            Shareable::Filter(..) => kept.share.slot == slot,
            Shareable::Picture(name) => kept.share.pictures.iter().any(|it| it.picture == *name),
        };
        let mut links = self.shares.in_force(0, usize::MAX);
        links.retain(|kept| is_meant(kept));
        let counts = self.shares.comments.counts();
        let links = links.iter().rev().take(LINKS_MAX).map(|kept| LinkView {
            id: kept.share.id.to_string(),
            title: kept.share.title.clone(),
            address: self.shares.link(&kept.share),
            ends: day(kept.share.expires_unix_ms),
            pictures: kept.share.pictures.len(),
            comments: counts.get(&kept.share.id).copied().unwrap_or_default(),
        });
        Sharing { slot: slot.to_owned(), links: links.collect(), has_key: self.shares.has_key(), what }
    }
}

/// When something ends, to the minute.
pub(super) fn day(unix_ms: u64) -> String {
    let moment = Moment::from_unix_s(unix_ms / 1_000).map_or_else(String::new, |moment| moment.to_string());
    match (moment.get(..10), moment.get(11..16)) {
        (Some(day), Some(minute)) => format!("{day} {minute} UTC"),
        _ => moment,
    }
}

pub(super) fn section(tastes: Tastes, desk: &Desk<'_>, sharing: &Sharing) -> Markup {
    let say = |english, german| tastes.say(english, german);
    html! {
        details.decide.share id="share" {
            summary {
                @match &sharing.what {
                    Shareable::Filter(_, count) => {
                        (say("Share these pictures", "Diese Bilder teilen")) " (" (wording::number(*count, tastes.language)) ")"
                    }
                    Shareable::Picture(_) => (say("Share this picture", "Dieses Bild teilen")),
                }
            }
            p.lead {
                (say(
                    "A link shows the pictures of now, and no others, to everyone who has it: no account, no decisions, no search engine. Its guests can write comments.",
                    "Ein Link zeigt die Bilder von jetzt und keine anderen allen, die ihn haben: ohne Konto, ohne Entscheidungen, ohne Suchmaschine. Seine Gäste können Kommentare schreiben.",
                ))
            }
            @if sharing.has_key {
                form method="post" action="/preview/shares" {
                    (hidden(desk))
                    input type="hidden" name="slot" value=(sharing.slot);
                    @match &sharing.what {
                        Shareable::Filter(query, _) => input type="hidden" name="filter" value=(query);,
                        Shareable::Picture(name) => input type="hidden" name={ (super::selection::PICK) (name) } value="";,
                    }
                    (fields(tastes, Presence::Needed))
                    button { (say("Make a link", "Link erstellen")) }
                }
            } @else {
                p.notice {
                    (say("No key of this edge signs links: name a file in ", "Kein Schlüssel dieses Servers signiert Links: Nennen Sie eine Datei in "))
                    code { "[signing] keys_file" } "; " code { "bildkante-edge sign --new-key" }
                    (say(" makes a key.", " erzeugt einen Schlüssel."))
                }
            }
            @if !sharing.links.is_empty() {
                h3 { (say("Open links", "Offene Links")) }
                ul.links-open { @for link in &sharing.links { (open(tastes, desk, link)) } }
            }
        }
    }
}

/// Whether a form is about nothing else, so that its fields have to be filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Needed,
    Optional,
}

/// Title and lifetime of a link.
pub(super) fn fields(tastes: Tastes, presence: Presence) -> Markup {
    html! {
        label {
            (tastes.say("Title, for its guests", "Titel, für die Gäste")) " "
            input name="title" required[presence == Presence::Needed] maxlength=(SHARE_TITLE_BYTES_MAX);
        }
        label {
            (tastes.say("Days", "Tage")) " "
            input type="number" name="days" value=(DAYS) min="1" max=(SHARE_DAYS_MAX) required;
        }
    }
}

fn open(tastes: Tastes, desk: &Desk<'_>, link: &LinkView) -> Markup {
    let say = |english, german| tastes.say(english, german);
    let CommentCount { all: comments, open: unsettled } = link.comments;
    html! {
        li data-share=(link.id) {
            @match &link.address {
                Some(address) => {
                    a href=(address) rel="noreferrer" { (link.title) } " "
                    button type="button" data-copy=(address) data-copy-link { (say("Copy link", "Link kopieren")) }
                }
                None => (link.title),
            }
            span.key {
                " " (link.pictures) " " (if link.pictures == 1 { say("picture", "Bild") } else { say("pictures", "Bilder") })
                ", " (say("until", "bis")) " " (link.ends)
                ", " (comments) " " (if comments == 1 { say("comment", "Kommentar") } else { say("comments", "Kommentare") })
                @if unsettled > 0 { " (" (unsettled) " " (say("open", "offen")) ")" }
            }
            form.line method="post" action={ "/preview/shares/" (link.id) } {
                (hidden(desk))
                label { (say("Why", "Warum")) " " input name="why" required maxlength="1000"; }
                button { (say("End this link", "Link beenden")) }
            }
        }
    }
}

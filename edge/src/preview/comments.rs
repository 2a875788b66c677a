//! What people with a link wrote about a variant's picture, for reviewers: each with its point on the picture that it is about.

use std::time::{Duration, UNIX_EPOCH};

use maud::{Markup, html};

use super::census::SlotOf;
use super::desk::{Desk, hidden};
use super::sharing::{self, Shareable, Sharing};
use super::tastes::Tastes;
use super::variant::Decisions;
use super::{Preview, pins};
use crate::campaign::Variant;
use crate::governance::ShownCase;
use crate::shared_state::PersonRole;
use crate::shares::Comment;

/// What people with a link are shown of a variant's picture, and what they wrote.
#[derive(Debug)]
pub(super) struct Guests {
    sharing: Sharing,
    comments: Vec<Comment>,
    /// How its slot cuts it.
    ratio: (u32, u32),
}

impl Preview {
    /// For those who may see what is not public yet.
    pub(super) fn guests_of(&self, of: SlotOf<'_>, variant: &Variant, role: Option<PersonRole>) -> Option<Guests> {
        let (slot, picture) = (of.slot(), variant.picture.clone());
        (role >= Some(PersonRole::Reviewer)).then(|| Guests {
            comments: self.shares.comments.of_picture(&picture),
            sharing: self.sharing_of(&format!("{}/{}", of.campaign.name, slot.name), Shareable::Picture(picture)),
            ratio: (slot.framing.ratio.width(), slot.framing.ratio.height()),
        })
    }
}

impl Guests {
    pub(super) fn markup(
        &self,
        tastes: Tastes,
        desk: &Desk<'_>,
        headline: &str,
        decisions: Option<&Decisions>,
    ) -> Markup {
        let cases: Vec<&ShownCase> =
            decisions.into_iter().flat_map(|decisions| &decisions.cases).map(|(shown, _)| shown).collect();
        let groups = by_picture(self.comments.clone(), &cases);
        html! {
            (sharing::section(tastes, desk, &self.sharing))
            (section(tastes, desk, (headline, self.ratio), &groups))
        }
    }
}

/// Comments about one picture.
#[derive(Debug)]
pub(super) struct CommentsOf<'a> {
    /// The case whose picture it is; `None`: the picture that readers get.
    pub(super) case: Option<&'a ShownCase>,
    pub(super) comments: Vec<Comment>,
}

/// By the pictures that they are about; those of cases that are gone stand without one.
pub(super) fn by_picture<'a>(comments: Vec<Comment>, cases: &[&'a ShownCase]) -> Vec<CommentsOf<'a>> {
    let mut groups: Vec<(Option<u64>, CommentsOf<'a>)> = Vec::new();
    for comment in comments {
        let of = comment.case;
        match groups.iter_mut().find(|(case, _)| *case == of) {
            Some((_, group)) => group.comments.push(comment),
            None => {
                let case = of.and_then(|id| cases.iter().find(|shown| shown.case.id == id).copied());
                groups.push((of, CommentsOf { case, comments: vec![comment] }));
            }
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

pub(super) fn section(
    tastes: Tastes,
    desk: &Desk<'_>,
    (headline, ratio): (&str, (u32, u32)),
    groups: &[CommentsOf<'_>],
) -> Markup {
    let say = |english, german| tastes.say(english, german);
    html! {
        @if !groups.is_empty() && desk.role >= PersonRole::Reviewer {
            section aria-labelledby="comments" data-live="comments" {
                h2 id="comments" { (say("Comments of guests", "Kommentare von Gästen")) }
                p.lead {
                    (say("People to whom a link showed this picture wrote these. Nothing proves a guest's name.",
                        "Das schrieben Menschen, denen ein Link dieses Bild zeigte. Den Namen eines Gastes beweist nichts."))
                }
                @for group in groups { (of_picture(tastes, desk, (headline, ratio), group)) }
            }
        }
    }
}

fn of_picture(
    tastes: Tastes,
    desk: &Desk<'_>,
    (headline, ratio): (&str, (u32, u32)),
    group: &CommentsOf<'_>,
) -> Markup {
    let say = |english, german| tastes.say(english, german);
    html! {
        div.commented {
            @if let Some(shown) = group.case {
                figure.pinned-picture {
                    div.pinned-frame {
                        img src={ "/admin/v1/decisions/" (shown.case.id) "/picture?w=640" } width=(ratio.0 * 100) height=(ratio.1 * 100) loading="lazy"
                            alt={ (headline) ", " (say("case", "Fall")) " " (shown.case.id) };
                        (pins::overlay(ratio, &pins::numbered(&group.comments)))
                    }
                    figcaption { (say("Case ", "Fall ")) a href={ "#case-" (shown.case.id) } { (shown.case.id) } }
                }
            }
            ol.comments { @for comment in &group.comments { (one(tastes, desk, comment)) } }
        }
    }
}

fn one(tastes: Tastes, desk: &Desk<'_>, comment: &Comment) -> Markup {
    let say = |english, german| tastes.say(english, german);
    let is_resolved = comment.resolved_unix_ms.is_some();
    html! {
        li.comment data-comment=(comment.id) data-resolved[is_resolved] {
            (words(tastes, comment))
            div.row {
                form.line method="post" action={ "/preview/comments/" (comment.id) } {
                    (hidden(desk))
                    input type="hidden" name="resolved" value=(if is_resolved { "false" } else { "true" });
                    button { (if is_resolved { say("Open again", "Wieder öffnen") } else { say("Resolve", "Erledigt") }) }
                }
                details.decide {
                    summary { (say("Delete", "Löschen")) }
                    form method="post" action={ "/preview/comments/" (comment.id) } {
                        (hidden(desk))
                        input type="hidden" name="delete" value="true";
                        button.danger { (say("Delete for good", "Endgültig löschen")) }
                    }
                }
            }
        }
    }
}

/// Name, time and text: for guests and reviewers alike.
pub(super) fn words(tastes: Tastes, comment: &Comment) -> Markup {
    let at = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(comment.at_unix_ms));
    html! {
        p.key {
            b { (comment.name) } " · " (at)
            @if let Some(pin) = comment.pin {
                @let (x, y) = pin.fractions();
                " · " (tastes.say("at", "bei")) " " (format!("{:.0} %, {:.0} %", x * 100.0, y * 100.0))
            }
            @if comment.resolved_unix_ms.is_some() { " · " (tastes.say("resolved", "erledigt")) }
        }
        p.said { (comment.text) }
    }
}

//! One decision about every picture of a filter.

use maud::{Markup, html};

use super::desk::{Desk, hidden};
use super::tastes::Tastes;
use crate::governance::AwaitingCase;
use crate::shared_state::PersonRole;

/// Pictures of one form: what is put into the log and told to caches further down while a browser waits.
pub(crate) const BULK_MAX: usize = 500;

/// A picture of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) picture: String,
    /// The case that a decision would be about.
    pub(crate) awaiting: Option<AwaitingCase>,
    /// Whether it can be made: it does not wait for an import.
    pub(crate) is_makeable: bool,
}

/// Which cases a page showed, each as it was: a decision about them is about no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) count: usize,
    /// Over the cases and their last entries, in the order of the page.
    pub(crate) digest: String,
}

impl Seen {
    pub(crate) fn of(cases: impl Iterator<Item = AwaitingCase>) -> Self {
        let (mut hasher, mut count) = (blake3::Hasher::new(), 0);
        for AwaitingCase { id, seen } in cases {
            hasher.update(&id.to_le_bytes()).update(&seen.to_le_bytes());
            count += 1;
        }
        Self { count, digest: hasher.finalize().to_hex()[..32].to_owned() }
    }
}

/// What a reader may decide at once.
#[derive(Debug)]
pub(super) struct Bulk<'a> {
    pub(super) desk: Desk<'a>,
    pub(super) campaign: &'a str,
    pub(super) slot: &'a str,
    /// The filter.
    pub(super) query: String,
    /// The cases of the filter that await a decision.
    pub(super) seen: Seen,
    /// Pictures of the filter.
    pub(super) pictures: usize,
}

pub(super) fn form(tastes: Tastes, bulk: &Bulk<'_>) -> Markup {
    let say = |english, german| tastes.say(english, german);
    let is_approver = bulk.desk.role >= PersonRole::Approver;
    let is_operator = bulk.desk.role >= PersonRole::Operator;
    html! {
        @if bulk.seen.count > 0 {
            details.decide.bulk {
                summary { (say("Decide about all", "Über alle entscheiden")) " (" (bulk.seen.count) ")" }
                p.lead {
                    (bulk.seen.count) " "
                    (say("pictures of this filter await a decision. One decision is made about each of them.",
                        "Bilder dieses Filters warten auf eine Entscheidung. Über jedes wird eine getroffen."))
                    @if bulk.seen.count > BULK_MAX {
                        " " (say("At most so many at once:", "Höchstens so viele auf einmal:")) " " (BULK_MAX) "."
                    }
                }
                form method="post" action="/preview/bulk" {
                    (of(bulk))
                    input type="hidden" name="seen" value=(bulk.seen.digest);
                    label {
                        (say("Decision", "Entscheidung")) " "
                        select name="decision" required {
                            @if is_approver { option value="approve" { (say("Approve", "Freigeben")) } }
                            option value="request_changes" { (say("Request changes", "Änderung wünschen")) }
                            @if is_approver { option value="reject" { (say("Reject", "Ablehnen")) } }
                        }
                    }
                    label { (say("Why", "Warum")) " " input name="why" maxlength="1000"; }
                    button { (say("Decide about", "Entscheiden über")) " " (bulk.seen.count.min(BULK_MAX)) }
                }
            }
        }
        @if is_operator && bulk.pictures > 0 {
            details.decide.kill {
                summary { (say("Kill all of these", "Alle diese sperren")) " (" (bulk.pictures) ")" }
                form method="post" action="/preview/bulk" {
                    (of(bulk))
                    input type="hidden" name="count" value=(bulk.pictures);
                    input type="hidden" name="decision" value="kill";
                    label { (say("Why", "Warum")) " " input name="why" required maxlength="1000"; }
                    label {
                        (say("The campaign's name, ", "Zur Bestätigung der Name der Kampagne, ")) code { (bulk.campaign) } " "
                        input name="confirm" required autocomplete="off";
                    }
                    button.danger { (say("Kill", "Sperren")) " " (bulk.pictures.min(BULK_MAX)) }
                }
            }
        }
    }
}

fn of(bulk: &Bulk<'_>) -> Markup {
    html! {
        (hidden(&bulk.desk))
        input type="hidden" name="slot" value={ (bulk.campaign) "/" (bulk.slot) };
        input type="hidden" name="filter" value=(bulk.query);
    }
}

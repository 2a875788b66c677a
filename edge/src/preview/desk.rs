//! Forms by which a reader decides, and what each of them has to carry.
//!
//! Forms work without a script. What they send is carried out by the admin API's own functions, which check it; a form that is
//! not shown is no protection.

use maud::{Markup, html};

use super::tastes::Tastes;
use crate::governance::ShownCase;
use crate::shared_state::{CaseState, PersonRole};

/// Where a reader's form goes, and what it has to carry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Desk<'a> {
    /// What the reader may do in this campaign.
    pub(super) role: PersonRole,
    /// Proof that the form is of the reader's session; `None` where a proxy vouches for the reader.
    pub(super) csrf: Option<&'a str>,
    /// The page to come back to.
    pub(super) back: &'a str,
}

/// Whether a decision takes a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    No,
    Needed,
}

pub(super) fn hidden(desk: &Desk<'_>) -> Markup {
    html! {
        @if let Some(csrf) = desk.csrf { input type="hidden" name="csrf" value=(csrf); }
        input type="hidden" name="back" value=(desk.back);
    }
}

/// What the reader may do with a case as it stands.
pub(super) fn decisions(tastes: Tastes, desk: &Desk<'_>, shown: &ShownCase) -> Markup {
    use CaseState as S;
    let say = |english, german| tastes.say(english, german);
    let is_approver = desk.role >= PersonRole::Approver;
    let is_open = matches!(shown.state, S::NeedsReview | S::Rejected | S::ChangesRequested | S::Superseded);
    let is_shown = matches!(shown.state, S::Live | S::Scheduled | S::Superseded);
    let decision = |word, key, label, why| decision(tastes, desk, shown, (word, key, label), why);
    html! {
        div.decisions {
            @if is_approver && is_open { (decision("approve", "a", say("Approve", "Freigeben"), Why::No)) }
            @if is_approver && shown.state == S::Paused { (decision("resume", "a", say("Resume", "Fortsetzen"), Why::No)) }
            @if desk.role >= PersonRole::Reviewer && shown.state == S::NeedsReview {
                (decision("request_changes", "c", say("Request changes", "Änderung wünschen"), Why::Needed))
            }
            @if is_approver && shown.state != S::Rejected { (decision("reject", "r", say("Reject", "Ablehnen"), Why::Needed)) }
            @if is_approver && is_shown { (decision("pause", "", say("Pause", "Anhalten"), Why::Needed)) }
        }
    }
}

fn decision(
    tastes: Tastes,
    desk: &Desk<'_>,
    shown: &ShownCase,
    (word, key, label): (&str, &str, &str),
    why: Why,
) -> Markup {
    let fields = html! {
        (hidden(desk))
        input type="hidden" name="decision" value=(word);
        input type="hidden" name="seen" value=(shown.case.seen);
    };
    let action = format!("/preview/decisions/{}", shown.case.id);
    let key = (!key.is_empty()).then_some(key);
    html! {
        @match why {
            Why::No => form method="post" action=(action) { (fields) button.primary data-key=[key] { (label) } },
            Why::Needed => details.decide {
                summary data-key=[key] { (label) }
                form method="post" action=(action) {
                    (fields)
                    label { (tastes.say("Why", "Warum")) " " input name="why" required maxlength="1000"; }
                    button { (label) }
                }
            },
        }
    }
}

/// More candidates of a variant.
pub(super) fn candidates(tastes: Tastes, desk: &Desk<'_>, variant: &str) -> Markup {
    html! {
        form.line method="post" action="/preview/candidates" {
            (hidden(desk))
            input type="hidden" name="variant" value=(variant);
            label {
                (tastes.say("Draw", "Es werden")) " "
                input type="number" name="count" value="4" min="1" max="16" required;
                " " (tastes.say("more candidates", "weitere Kandidaten erzeugt"))
            }
            button { (tastes.say("Draw", "Erzeugen")) }
        }
    }
}

/// A retouched file for a variant, which is looked at before it is accepted.
pub(super) fn import(tastes: Tastes, desk: &Desk<'_>, variant: &str) -> Markup {
    let say = |english, german| tastes.say(english, german);
    html! {
        section aria-labelledby="import" {
            h2 id="import" { (say("Import a retouched picture", "Retuschiertes Bild importieren")) }
            form data-drop method="post" action="/preview/imports" enctype="multipart/form-data" {
                (hidden(desk))
                input type="hidden" name="variant" value=(variant);
                label {
                    (say("A PNG, JPEG, WebP or AVIF, chosen or dropped here:", "Ein PNG, JPEG, WebP oder AVIF, gewählt oder hierher gezogen:")) " "
                    input type="file" name="picture" accept="image/png,image/jpeg,image/webp,image/avif" required;
                }
                button { (say("Look at it", "Ansehen")) }
                p.lead { (say("What it carries is shown first; nothing is imported before you accept it.", "Zuerst wird gezeigt, was sie mitbringt; importiert wird nichts, bevor Sie zustimmen.")) }
            }
        }
    }
}

/// A kill of a variant, confirmed by its campaign's name.
pub(super) fn kill(tastes: Tastes, desk: &Desk<'_>, (campaign, variant): (&str, &str)) -> Markup {
    html! {
        details.decide.kill {
            summary data-key="k" { (tastes.say("Kill this variant", "Diese Variante sperren")) }
            p.lead {
                (tastes.say(
                    "Its picture leaves every edge at once, in all locales that share it, and is not drawn again until the kill is lifted. Browsers may hold it for as long as they were told.",
                    "Ihr Bild verschwindet sofort von allen Servern, in allen Sprachräumen, die es teilen, und wird nicht neu erzeugt, bis die Sperre aufgehoben ist. Browser können es behalten, solange es ihnen erlaubt wurde.",
                ))
            }
            form method="post" action="/preview/kills" {
                (hidden(desk))
                input type="hidden" name="variant" value=(variant);
                label { (tastes.say("Why", "Warum")) " " input name="why" required maxlength="1000"; }
                label {
                    (tastes.say("The campaign's name, ", "Zur Bestätigung der Name der Kampagne, ")) code { (campaign) }
                    (tastes.say(", to confirm", "")) " "
                    input name="confirm" required autocomplete="off";
                }
                button.danger { (tastes.say("Kill", "Sperren")) }
            }
        }
    }
}

//! Cards that a reader picks, and what can be done with them: one decision about each, or a link that shows them.
//!
//! A card's field belongs to the form below the cards, wherever it stands, so picking works without a script.

use maud::{Markup, html};

use super::bulk::Bulk;
use super::cards::CardView;
use super::desk::hidden;
use super::selection::PICK;
use super::sharing::{self, Presence};
use super::tastes::Tastes;
use crate::shared_state::PersonRole;

const FORM: &str = "picked";

/// The field by which a card is picked.
pub(super) fn choice(tastes: Tastes, card: &CardView<'_>) -> Markup {
    html! {
        @if let Some((picture, value)) = &card.pick {
            label.pick {
                input type="checkbox" form=(FORM) name={ (PICK) (picture) } value=(value) data-pick;
                span { (tastes.say("Pick", "Auswählen")) span.hidden { ": " (card.headline) } }
            }
        }
    }
}

pub(super) fn form(tastes: Tastes, bulk: &Bulk<'_>) -> Markup {
    let say = |english, german| tastes.say(english, german);
    let (is_approver, is_operator) = (bulk.desk.role >= PersonRole::Approver, bulk.desk.role >= PersonRole::Operator);
    html! {
        @if bulk.pictures > 0 {
            details.decide.picked {
                summary { (say("With the picked pictures", "Mit den ausgewählten Bildern")) " " span data-picked {} }
                p.lead {
                    (say("Pick pictures by the box of each, on this page. A decision is made about each that awaits one.",
                        "Wählen Sie Bilder über ihre Kästchen aus, auf dieser Seite. Entschieden wird über jedes, das darauf wartet."))
                }
                form id=(FORM) method="post" action="/preview/bulk" {
                    (hidden(&bulk.desk))
                    input type="hidden" name="slot" value={ (bulk.campaign) "/" (bulk.slot) };
                    input type="hidden" name="of" value="picked";
                    label {
                        (say("Decision", "Entscheidung")) " "
                        select name="decision" {
                            @if is_approver { option value="approve" { (say("Approve", "Freigeben")) } }
                            option value="request_changes" { (say("Request changes", "Änderung wünschen")) }
                            @if is_approver { option value="reject" { (say("Reject", "Ablehnen")) } }
                            @if is_operator { option value="kill" { (say("Kill", "Sperren")) } }
                        }
                    }
                    label { (say("Why", "Warum")) " " input name="why" maxlength="1000"; }
                    @if is_operator {
                        label {
                            (say("To kill: the campaign's name, ", "Zum Sperren: der Name der Kampagne, ")) code { (bulk.campaign) } " "
                            input name="confirm" autocomplete="off";
                        }
                    }
                    button { (say("Decide about the picked ones", "Über die ausgewählten entscheiden")) }
                    (sharing::fields(tastes, Presence::Optional))
                    button formaction="/preview/shares" { (say("Share the picked ones", "Die ausgewählten teilen")) }
                }
            }
        }
    }
}

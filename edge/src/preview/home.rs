//! The first page: the campaigns of this edge.

use maud::{Markup, html};

use super::seals::Notice;
use super::tastes::Tastes;
use crate::seo::Picture;

/// A campaign.
#[derive(Debug)]
pub(super) struct CampaignView<'a> {
    pub(super) name: &'a str,
    pub(super) title: &'a str,
    pub(super) slots: Vec<&'a str>,
    pub(super) variants: u64,
    /// Pictures that await a decision.
    pub(super) awaiting: usize,
    pub(super) picture: Option<Picture<'a>>,
    pub(super) notice: Option<Notice>,
}

pub(super) fn home(tastes: Tastes, campaigns: &[CampaignView<'_>]) -> Markup {
    let say = |english, german| tastes.say(english, german);
    html! {
        h1 { (say("Campaigns", "Kampagnen")) }
        p.lead {
            (say("Every campaign that this edge serves. Open one to see its pictures as browsers get them.",
                "Alle Kampagnen, die dieser Server ausliefert. Öffnen Sie eine, um ihre Bilder so zu sehen, wie Browser sie bekommen."))
        }
        @if campaigns.is_empty() { p.notice { (say("There is none that you may see.", "Es gibt keine, die Sie sehen dürfen.")) } }
        div.campaigns {
            @for campaign in campaigns {
                @if let Some(first) = campaign.slots.first() {
                    article.card data-shot {
                        @if let Some(picture) = &campaign.picture {
                            a.shot href={ "/preview/" (campaign.name) "/" (first) } tabindex="-1" aria-hidden="true" { (picture.picture()) }
                        }
                        div.body {
                            a.name href={ "/preview/" (campaign.name) "/" (first) } { (campaign.title) }
                            span.key { (campaign.variants) " " (say("variants", "Varianten")) }
                            nav.slots aria-label={ (say("Slots of ", "Plätze von ")) (campaign.title) } {
                                @for slot in &campaign.slots { a href={ "/preview/" (campaign.name) "/" (slot) } { (slot) } }
                            }
                            @if campaign.awaiting > 0 {
                                span.states {
                                    span.state data-state="needs_review" {
                                        (campaign.awaiting) " "
                                        (if campaign.awaiting == 1 { say("awaits a decision", "wartet auf Entscheidung") }
                                         else { say("await a decision", "warten auf Entscheidung") })
                                    }
                                }
                            }
                            @if matches!(campaign.notice, Some(Notice::NoKey)) {
                                span.merged { (say("no key of this edge signs its URLs", "kein Schlüssel dieses Servers signiert ihre URLs")) }
                            }
                        }
                    }
                }
            }
        }
    }
}

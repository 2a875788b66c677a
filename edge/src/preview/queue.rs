//! What waits for the reader, in all campaigns, the oldest first.

use std::time::Duration;

use maud::{Markup, html};

use super::layers::sets_words;
use super::tastes::Tastes;
use crate::language::Language;

/// Pictures of one page.
pub(super) const QUEUE_PAGE: usize = 48;

/// A picture that awaits a decision.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) case: u64,
    pub(super) headline: String,
    /// `campaign/slot`.
    pub(super) place: String,
    pub(super) page: String,
    /// Since it was drawn; `None` where nothing says when.
    pub(super) age: Option<Duration>,
    /// The role that was asked, and whether its time is over.
    pub(super) asked: Option<(String, bool)>,
    pub(super) approvals: usize,
    /// Sets of layers that lie on it.
    pub(super) layer_sets: usize,
    pub(super) size_px: (u32, u32),
}

pub(super) fn queue(tastes: Tastes, waiting: &[Waiting], all: usize, reader: Option<&str>) -> Markup {
    let say = |english, german| tastes.say(english, german);
    html! {
        h1 { (say("Needs me", "Für mich")) }
        p.lead data-live="queue-count" {
            @match all {
                0 => (say("Nothing awaits a decision of yours.", "Nichts wartet auf Ihre Entscheidung.")),
                1 => (say("1 picture awaits a decision.", "1 Bild wartet auf eine Entscheidung.")),
                more => { (more) " " (say("pictures await a decision. The oldest stand first.", "Bilder warten auf eine Entscheidung. Die ältesten stehen vorn.")) }
            }
        }
        @if reader.is_none() {
            p.notice {
                a href="/admin/login?to=%2Fpreview%2Fqueue" { (say("Log in", "Melden Sie sich an")) }
                (say(" with a key: what awaits you depends on your roles.", ": Was auf Sie wartet, hängt von Ihren Rollen ab."))
            }
        }
        div.grid data-live="queue" {
            @for it in waiting {
                article.card data-state="needs_review" {
                    a.shot href=(it.page) tabindex="-1" aria-hidden="true" {
                        img src={ "/admin/v1/decisions/" (it.case) "/picture?w=320" } width=(it.size_px.0) height=(it.size_px.1) alt="" loading="lazy";
                    }
                    div.body {
                        a.name href=(it.page) data-move { (it.headline) }
                        span.key { (it.place) }
                        @if let Some(sets) = sets_words(tastes, it.layer_sets) { span.key { (sets) } }
                        @if let Some(age) = it.age { span.key { (say("drawn ", "erzeugt vor ")) (ago(age, tastes.language)) (say(" ago", "")) } }
                        @if it.approvals > 0 { span.key { (say("approved by one person", "von einer Person freigegeben")) } }
                        @if let Some((role, is_overdue)) = &it.asked {
                            span.states {
                                span.state data-state=(if *is_overdue { "withheld" } else { "scheduled" }) {
                                    (role) (if *is_overdue { say(" is overdue", " ist überfällig") } else { say(" is asked", " ist gefragt") })
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A length of time in its largest whole unit.
fn ago(age: Duration, language: Language) -> String {
    let seconds = age.as_secs();
    let (count, english, german) = match seconds {
        0..60 => return language.say("less than a minute", "weniger als einer Minute").to_owned(),
        60..3_600 => (seconds / 60, ("minute", "minutes"), ("Minute", "Minuten")),
        3_600..86_400 => (seconds / 3_600, ("hour", "hours"), ("Stunde", "Stunden")),
        _ => (seconds / 86_400, ("day", "days"), ("Tag", "Tagen")),
    };
    let (one, more) = match language {
        Language::English => english,
        Language::German => german,
    };
    format!("{count} {}", if count == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        let ago = |seconds| ago(Duration::from_secs(seconds), Language::English);
        assert_eq!(
            [59, 60, 7_199, 7_200, 86_400, 200_000].map(ago),
            ["less than a minute", "1 minute", "1 hour", "2 hours", "1 day", "2 days"]
        );
    }
}

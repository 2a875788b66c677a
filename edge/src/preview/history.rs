//! What was done about a picture: who did it, when and why.

use maud::{Markup, html};

use super::tastes::Tastes;
use super::terms;
use crate::governance::PastStep;
use crate::shared_state::EDGE_ITSELF;

pub(super) fn history(tastes: Tastes, history: &[PastStep]) -> Markup {
    let say = |english, german| tastes.say(english, german);
    html! {
        section aria-labelledby="history" {
            h2 id="history" { (say("History", "Verlauf")) }
            div.scroll tabindex="0" role="group" aria-labelledby="history" {
                table {
                    thead {
                        tr {
                            @for name in [say("When", "Wann"), say("Who", "Wer"), say("What", "Was"), say("Case", "Fall"), say("Why", "Warum")] {
                                th scope="col" { (name) }
                            }
                        }
                    }
                    tbody {
                        @for past in history {
                            tr {
                                td { (past.at()) }
                                td { (who(tastes, &past.who)) }
                                td { (terms::step(past.step, tastes.language)) }
                                td { @if let Some(case) = past.case { a href={ "#case-" (case) } { (case) } } }
                                td { (past.why) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A person by the name that the log has for them; what this edge did by itself is no person's.
fn who(tastes: Tastes, name: &str) -> &str {
    if name == EDGE_ITSELF { tastes.say("the edge", "der Server") } else { name }
}

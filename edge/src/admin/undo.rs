//! `/preview/undo`: decisions that who made them takes back, one or those of a form about many pictures.
//!
//! It is a step like any other: the API's own word `undo` about a case. So it stands in the log and in the history, and the log refuses it
//! when somebody has decided since, a kill covers the picture, or the time is over.

use maud::{Markup, html};

use super::AdminApi;
use super::body::{Fault, fault, wrong};
use super::bulk::{Deed, Outcome, Word};
use super::login::Form;
use super::principal::Principal;
use crate::governance::AwaitingCase;
use crate::language::Language;
use crate::preview::bulk::{Asked, BULK_MAX};
use crate::preview::selection::picked_case;
use crate::shared_state::UNDO_MS_MAX;

const UNDO: &str = "undo";
/// What a form about many pictures has beside their cases.
const MANY: &str = "many";

/// Whether the form is about many pictures, whose outcome is told on a page of its own.
pub(super) fn are_many(form: &Form) -> bool {
    form.get(MANY).is_some()
}

impl AdminApi {
    /// Takes decisions back, each by itself. A task of its own.
    pub(super) async fn undo(&self, who: &Principal, form: &Form) -> Result<Outcome, Fault> {
        let cases = cases(form.get("cases").unwrap_or_default())?;
        let named = |case: AwaitingCase| {
            let picture = self.reviews.case(case.id).map_or_else(|| format!("case {}", case.id), |shown| shown.variant);
            Asked { picture, awaiting: Some(case), is_makeable: true }
        };
        let asked = cases.into_iter().map(named).collect();
        let (api, who) = (self.clone(), who.clone());
        let task = tokio::spawn(async move { api.each(Word::Rule(UNDO), &who, &api.preview, (asked, "")).await });
        let outcome = task.await.map_err(|_| fault(500, "internal", "Internal error", "the decisions broke off"))?;
        // What was taken back is not taken back once more.
        Ok(Outcome { deed: Deed::TakenBack, decided: Vec::new(), ..outcome })
    }
}

/// `case.seen,…`.
fn cases(text: &str) -> Result<Vec<AwaitingCase>, Fault> {
    let refuse = || wrong("cases", format!("`cases` names 1 to {BULK_MAX} cases as they were decided"), &[]);
    let cases: Option<Vec<_>> = text.split(',').map(|case| picked_case(case).ok().flatten()).collect();
    cases.filter(|cases| cases.len() <= BULK_MAX).ok_or_else(refuse)
}

/// The form that takes back what was decided about many pictures at once.
pub(super) fn form(language: Language, outcome: &Outcome, csrf: Option<&str>, back: &str) -> Markup {
    let cases: Vec<String> = outcome.decided.iter().map(|case| format!("{}.{}", case.id, case.seen)).collect();
    html! {
        @if !cases.is_empty() {
            form method="post" action="/preview/undo" {
                @if let Some(csrf) = csrf { input type="hidden" name="csrf" value=(csrf); }
                input type="hidden" name="back" value=(back);
                input type="hidden" name="cases" value=(cases.join(","));
                input type="hidden" name=(MANY) value="true";
                p {
                    button { (language.say("Take these decisions back", "Diese Entscheidungen zurücknehmen")) " (" (cases.len()) ")" } " "
                    (language.say("for ", "")) (UNDO_MS_MAX / 1_000) (language.say(" seconds", " Sekunden lang"))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_named_with_what_was_seen() {
        let of =
            |text: &str| cases(text).map(|cases| cases.iter().map(|case| (case.id, case.seen)).collect::<Vec<_>>());
        assert_eq!(of("7.9,8.10").unwrap(), [(7, 9), (8, 10)]);
        let many = vec!["1.2"; BULK_MAX + 1].join(",");
        for wrong in ["", "7", "7.9,", "a.b", many.as_str()] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}

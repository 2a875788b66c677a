//! One variant and what people decided about it: the picture that readers get, the pictures that await a decision, forms to decide
//! with, and the history.
//!
//! Forms work without a script. What they send is carried out by the admin API's own functions, which check it; a form that is
//! not shown is no protection.

use maud::{Markup, html};

use super::page::{CardView, copy, format_rows, layout};
use crate::governance::{PastStep, ShownCase};
use crate::shared_state::{CaseState, PersonRole, Reason};

/// Where a reader's form goes, and what it has to carry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Desk<'a> {
    /// What the reader may do in this campaign.
    pub(super) role: PersonRole,
    /// Proof that the form is of the reader's session; `None` where a proxy vouches for the reader.
    pub(super) csrf: Option<&'a str>,
    /// The page itself, to come back to.
    pub(super) back: &'a str,
}

/// Everything the page shows.
#[derive(Debug)]
pub(super) struct VariantPage<'a> {
    pub(super) public_url: &'a str,
    pub(super) campaign: &'a str,
    pub(super) title: &'a str,
    pub(super) slot: &'a str,
    pub(super) card: CardView<'a>,
    pub(super) decisions: Option<Decisions>,
    /// Why no reader is shown it, whatever was decided.
    pub(super) killed: Option<Reason>,
    /// `None` for those who may only look.
    pub(super) desk: Option<Desk<'a>>,
}

/// Of a slot whose pictures are reviewed.
#[derive(Debug)]
pub(super) struct Decisions {
    pub(super) approvers: u8,
    /// The newest first, each with the manifest's lines for it.
    pub(super) cases: Vec<(ShownCase, Option<String>)>,
    /// Candidates that are being drawn, and why others could not be.
    pub(super) drawing: usize,
    pub(super) failures: Vec<String>,
    /// The newest first.
    pub(super) history: Vec<PastStep>,
}

/// As the page says it.
pub(super) const fn state_words(state: CaseState) -> &'static str {
    match state {
        CaseState::Checking => "is being checked",
        CaseState::NeedsReview => "awaits a decision",
        CaseState::Rejected => "rejected",
        CaseState::ChangesRequested => "changes requested",
        CaseState::Scheduled => "scheduled",
        CaseState::Live => "live",
        CaseState::Paused => "paused",
        CaseState::Superseded => "superseded",
        CaseState::Expired => "expired",
    }
}

pub(super) fn variant(page: &VariantPage<'_>) -> Markup {
    let slot_path = format!("/preview/{}/{}", page.campaign, page.slot);
    let nav = html! { nav aria-label="Slots" { a href=(slot_path) { (page.slot) } } };
    layout(
        &format!("{} · {}", page.card.name, page.title),
        page.public_url,
        false,
        &nav,
        &html! {
            h1 { (page.card.name) }
            p.lead { (page.title) ", slot " b { (page.slot) } }
            section.stage {
                div.frame data-shot {
                    @if let Some(picture) = &page.card.picture {
                        div.shot { (picture.markup()) span.badge hidden {} }
                        (format_rows(picture, page.card.width_px, "bytes stage-bytes"))
                    }
                }
                div { (facts(page)) }
            }
            @if let Some(reason) = page.killed {
                p.notice role="status" {
                    "A kill is in force (" (reason.as_str()) "): readers are shown a stand-in. Operators lift it with "
                    code { "bildkante-edge lift" } "; " code { "bildkante-edge status" } " lists what is in force."
                }
            }
            @match &page.decisions {
                Some(decisions) => (desk(page, decisions)),
                None => p.notice { "Pictures of this slot are public once they are drawn: its manifest asks for no review." },
            }
            @if let Some(desk) = &page.desk { @if desk.role >= PersonRole::Operator { (kill(page, desk)) } }
        },
    )
}

fn facts(page: &VariantPage<'_>) -> Markup {
    html! {
        dl.facts {
            dt { "Readers see" } dd {
                @match page.decisions.as_ref().map(Decisions::shown) {
                    _ if page.killed.is_some() => "a stand-in: a kill withholds the picture",
                    None => "this variant's picture, once it is drawn",
                    Some(Some(case)) => { "the picture of case " (case.case.id) },
                    Some(None) => "a stand-in, until a picture is approved",
                }
            }
            dt { "Prompt" } dd { (page.card.prompt) }
            dt { "Papers" } dd { a href=(page.card.papers) { "Dossier of this picture" } }
        }
        details {
            summary { "Names and ids" }
            dl.facts {
                dt { "Variant" } dd { code { (page.card.key) } }
                dt { "Recipe" } dd { code { (page.card.recipe_id) } }
            }
        }
        @if let Some(markup) = &page.card.markup {
            div.row { b { "Markup" } (copy("Copy <picture>", &markup.markup_text())) }
        }
    }
}

impl Decisions {
    pub(super) fn shown(&self) -> Option<&ShownCase> {
        let is_shown = |shown: &&ShownCase| {
            shown.state == CaseState::Live && shown.case.approved_by.len() >= usize::from(self.approvers)
        };
        self.cases.iter().map(|(shown, _)| shown).find(is_shown)
    }
}

fn desk(page: &VariantPage<'_>, decisions: &Decisions) -> Markup {
    let may_look = page.desk.as_ref().is_some_and(|desk| desk.role >= PersonRole::Reviewer);
    html! {
        h2 { "Decisions" }
        p.lead {
            @if decisions.approvers > 1 { "Two people approve a picture of this slot, each another one." }
            @else { "One person approves a picture of this slot." }
        }
        @if decisions.drawing > 0 {
            p.notice role="status" { (decisions.drawing) " candidates are being drawn. " a href="" { "Look again" } }
        }
        @for failure in &decisions.failures { p.notice { "A candidate could not be drawn: " (failure) } }
        @if decisions.cases.is_empty() && decisions.drawing == 0 {
            p.notice { "Nothing was put before reviewers yet: draw candidates here, or warm the campaign." }
        }
        div.grid.cases {
            @for (shown, patch) in &decisions.cases { (case(page, shown, patch.as_deref(), may_look)) }
        }
        @match &page.desk {
            Some(desk) if desk.role >= PersonRole::Reviewer => (candidates(desk, &page.card.key)),
            Some(_) => {},
            None => p.notice { a href={ "/admin/login" } { "Log in" } " with a key to look at what is not public yet, and to decide." },
        }
        @if !decisions.history.is_empty() { (history(&decisions.history)) }
    }
}

fn case(page: &VariantPage<'_>, shown: &ShownCase, patch: Option<&str>, may_look: bool) -> Markup {
    let ShownCase { case, state, .. } = shown;
    let path = format!("/admin/v1/decisions/{}/picture", case.id);
    let alt = format!("{}, case {}", page.card.name, case.id);
    html! {
        article.card id={ "case-" (case.id) } data-state=(state.as_str()) {
            @if may_look {
                a.shot href={ (path) "?w=2048" } { img src={ (path) "?w=640" } alt=(alt) width=(case.drawn.width_px) height=(case.drawn.height_px) loading="lazy"; }
            }
            div.body {
                span.name { span.state data-state=(state.as_str()) { (state_words(*state)) } }
                span.key {
                    "Case " (case.id)
                    @if let Some(seed) = case.drawn.seed { ", seed " (seed) }
                    @if *state == CaseState::NeedsReview && !case.approved_by.is_empty() { ", approved by one of two" }
                    @for report in &case.reports { ", " (report.finding.gate) ": " (report.finding.verdict.as_str()) }
                    @if let Some(escalated) = &case.escalated { ", " (escalated.to) " is asked" }
                }
                @if let Some(patch) = patch {
                    details { summary { "Lines for the manifest" } pre { (patch) } (copy("Copy", patch)) }
                }
                @if let Some(desk) = &page.desk { (forms(desk, shown)) }
            }
        }
    }
}

/// What the reader may do with a case as it stands.
fn forms(desk: &Desk<'_>, shown: &ShownCase) -> Markup {
    use CaseState as S;
    let is_approver = desk.role >= PersonRole::Approver;
    let is_open = matches!(shown.state, S::NeedsReview | S::Rejected | S::ChangesRequested | S::Superseded);
    let is_shown = matches!(shown.state, S::Live | S::Scheduled | S::Superseded);
    html! {
        @if is_approver && is_open { (decision(desk, shown, "approve", "Approve", Why::No)) }
        @if is_approver && shown.state == S::Paused { (decision(desk, shown, "resume", "Resume", Why::No)) }
        @if is_approver && is_shown { (decision(desk, shown, "pause", "Pause", Why::Needed)) }
        @if desk.role >= PersonRole::Reviewer && shown.state == S::NeedsReview {
            (decision(desk, shown, "request_changes", "Request changes", Why::Needed))
        }
        @if is_approver && shown.state != S::Rejected { (decision(desk, shown, "reject", "Reject", Why::Needed)) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    No,
    Needed,
}

fn decision(desk: &Desk<'_>, shown: &ShownCase, decision: &str, label: &str, reason: Why) -> Markup {
    let id = shown.case.id;
    let fields = html! {
        (hidden(desk))
        input type="hidden" name="decision" value=(decision);
        input type="hidden" name="seen" value=(shown.case.seen);
    };
    let action = format!("/preview/decisions/{id}");
    html! {
        @match reason {
            Why::No => form method="post" action=(action) { (fields) button { (label) } },
            Why::Needed => details.decide {
                summary { (label) }
                form method="post" action=(action) {
                    (fields)
                    label { "Why " input name="why" required maxlength="1000"; }
                    button { (label) }
                }
            },
        }
    }
}

fn candidates(desk: &Desk<'_>, variant: &str) -> Markup {
    html! {
        form.line method="post" action="/preview/candidates" {
            (hidden(desk))
            input type="hidden" name="variant" value=(variant);
            label { "Draw " input type="number" name="count" value="4" min="1" max="16" required; " more candidates" }
            button { "Draw" }
        }
    }
}

fn kill(page: &VariantPage<'_>, desk: &Desk<'_>) -> Markup {
    html! {
        details.decide {
            summary { "Kill this variant" }
            p.lead {
                "Its picture leaves every edge at once and is not drawn again until the kill is lifted. Browsers may hold it for as "
                "long as they were told."
            }
            form method="post" action="/preview/kills" {
                (hidden(desk))
                input type="hidden" name="variant" value=(page.card.key);
                label { "Why " input name="why" required maxlength="1000"; }
                label { "The campaign's name, " code { (page.campaign) } ", to confirm " input name="confirm" required autocomplete="off"; }
                button.danger { "Kill" }
            }
        }
    }
}

fn hidden(desk: &Desk<'_>) -> Markup {
    html! {
        @if let Some(csrf) = desk.csrf { input type="hidden" name="csrf" value=(csrf); }
        input type="hidden" name="back" value=(desk.back);
    }
}

fn history(history: &[PastStep]) -> Markup {
    html! {
        h2 { "History" }
        div.scroll {
            table {
                thead { tr { th { "When" } th { "Who" } th { "What" } th { "Case" } th { "Why" } } }
                tbody {
                    @for past in history {
                        tr {
                            td { (past.at()) }
                            td { (past.who) }
                            td { (past.step.replace('_', " ")) }
                            td { @if let Some(case) = past.case { a href={ "#case-" (case) } { (case) } } }
                            td { (past.why) }
                        }
                    }
                }
            }
        }
    }
}

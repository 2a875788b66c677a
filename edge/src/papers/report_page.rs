//! A report for people: one page that needs nothing else and prints well.

use maud::{Markup, html};

use super::report::{NOTICE, Point, Report, State};
use super::sheet::sheet;

/// The page of one or several campaigns.
pub(super) fn text(reports: &[Report]) -> String {
    let title = match reports {
        [report] => format!("AI Act: {}", report.title),
        _ => "AI Act: all campaigns".to_owned(),
    };
    sheet(&title, &body(reports))
}

fn body(reports: &[Report]) -> Markup {
    html! {
        header {
            h1 { "What a deployer documents under the AI Act" }
            p.lead { (NOTICE) }
        }
        @for report in reports { (section(report)) }
        footer {
            p {
                "Article 50 applies from 2 August 2026; its paragraph 2 from 2 December 2026 for systems that were on the market before "
                "2 August 2026. The duties of high-risk systems under Annex III apply from 2 December 2027. These dates are those of "
                "the amendments of 2026."
            }
            p { "Made by Bildkante " (env!("CARGO_PKG_VERSION")) @if let Some(report) = reports.first() { " at " (report.made_at) } "." }
        }
    }
}

fn section(report: &Report) -> Markup {
    html! {
        section {
            h2 { (report.title) }
            p.lead { "Campaign " code { (report.campaign) } ", files " code { (report.campaign_digest) } }
            p {
                @match report.missing {
                    0 => span.good { "Nothing is missing." },
                    1 => span.bad { "One point is missing." },
                    missing => span.bad { (missing) " points are missing." },
                }
            }
            table {
                thead {
                    tr { th scope="col" { "Point" } th scope="col" { "State" } th scope="col" { "What the files say" } }
                }
                tbody { @for point in &report.points { (row(point)) } }
            }
        }
    }
}

fn row(point: &Point) -> Markup {
    let class = match point.state {
        State::Documented | State::Done => "good",
        State::Missing => "bad",
        State::NotApplicable | State::Elsewhere => "note",
    };
    html! {
        tr {
            th scope="row" {
                (point.title)
                p.note { (point.article) ". Binds " (point.force.as_str()) "." }
            }
            td.state { span class=(class) { (point.state.as_str()) } }
            td {
                (sentence(&point.says))
                @if let Some(remedy) = &point.remedy { p { b { "To do" } ": " (sentence(remedy)) } }
                p.note { (point.duty) }
            }
        }
    }
}

/// With one full stop, whether or not its author wrote it.
fn sentence(text: &str) -> Markup {
    html! { (text) @if !text.ends_with(['.', '!', '?']) { "." } }
}

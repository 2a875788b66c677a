//! What follows a decision: the next picture that awaits the reader, and for some seconds a way to take the decision back.
//!
//! The address of the page behind a decision names the case that was decided. Whether it can be taken back is looked up anew, so an address
//! that somebody else wrote offers nothing.

use std::time::SystemTime;

use http::{HeaderMap, Uri};
use maud::{Markup, html};

use super::cards::page_of;
use super::tastes::{Advance, Tastes};
use super::ways::{FROM_QUEUE, from_queue};
use super::{Preview, Reader};
use crate::cache::unix_ms;
use crate::shared_state::Undone;

/// The case that was decided, in the query of a page.
const UNDO: &str = "_undo";

/// A decision of the reader's that can be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UndoBar {
    case: u64,
    seen: u64,
    step: Undone,
    left_ms: u64,
    csrf: Option<String>,
    /// The page of the picture that was decided.
    back: String,
}

impl Preview {
    /// Where a decision about a case leads: to the next picture that awaits the reader, where the reader wants that, else back.
    pub(crate) fn after_decision(&self, headers: &HeaderMap, back: &str, case: u64, reader: &Reader<'_>) -> String {
        let query = back.split_once('?').map_or("", |(_, query)| query.split('#').next().unwrap_or(query));
        let is_from_queue = query.split('&').any(|pair| pair == FROM_QUEUE);
        let advances = match Tastes::of(None, headers).advance {
            Advance::Always => true,
            Advance::InQueue => is_from_queue,
            Advance::Never => false,
        };
        let to = if advances { self.next_for(case, reader) } else { back.to_owned() };
        marked(&to, case)
    }

    /// The page of the next case behind this one that the reader can still decide, else the first one's, else the queue.
    fn next_for(&self, case: u64, reader: &Reader<'_>) -> String {
        let is_readers = |actor| self.reviews.log().name_of(actor).as_deref() == reader.name;
        let waiting = self.waiting(reader);
        let mut open: Vec<_> = waiting
            .iter()
            // Who approved first waits for another person.
            .filter(|(_, shown)| shown.case.id != case && !shown.case.approved_by.iter().any(|it| is_readers(*it)))
            .collect();
        // Those behind the decided one come first, in the order of the queue.
        open.sort_by_key(|(_, shown)| shown.case.id < case);
        open.first().map_or_else(
            || "/preview/queue".to_owned(),
            |(picture, shown)| format!("{}#case-{}", from_queue(&page_of(picture)), shown.case.id),
        )
    }

    /// The reader's decision about the case that the address names, while it can be taken back.
    pub(super) fn undo_bar(&self, uri: &Uri, reader: &Reader<'_>) -> Option<UndoBar> {
        let named = uri.query()?.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == UNDO);
        let shown = self.reviews.case(named?.1.parse().ok()?)?;
        let last = shown.case.undoable.as_ref().filter(|last| last.seq == shown.case.seen)?;
        let left_ms = last.left_ms(unix_ms(SystemTime::now()));
        let is_readers = reader.name.is_some() && self.reviews.log().name_of(last.by).as_deref() == reader.name;
        (is_readers && left_ms > 0).then(|| UndoBar {
            case: shown.case.id,
            seen: shown.case.seen,
            step: last.step,
            left_ms,
            csrf: reader.csrf.map(str::to_owned),
            back: format!("{}#case-{}", page_of(&shown.variant), shown.case.id),
        })
    }
}

/// An address with the case that was decided.
fn marked(to: &str, case: u64) -> String {
    let (page, anchor) = to.split_once('#').map_or((to, None), |(page, anchor)| (page, Some(anchor)));
    let (path, query) = page.split_once('?').unwrap_or((page, ""));
    let others = query.split('&').filter(|pair| !pair.is_empty() && pair.split('=').next() != Some(UNDO));
    let mut pairs: Vec<&str> = others.collect();
    let own = format!("{UNDO}={case}");
    pairs.push(&own);
    let anchor = anchor.map(|anchor| format!("#{anchor}")).unwrap_or_default();
    format!("{path}?{}{anchor}", pairs.join("&"))
}

pub(super) fn bar(tastes: Tastes, undo: &UndoBar) -> Markup {
    let say = |english, german| tastes.say(english, german);
    let done = match undo.step {
        Undone::Approve => say("approved", "freigegeben"),
        Undone::Reject => say("rejected", "abgelehnt"),
        Undone::RequestChanges => say("returned for changes", "zur Änderung zurückgegeben"),
    };
    html! {
        div.undo role="status" data-undo-ms=(undo.left_ms) {
            span { (say("Case ", "Fall ")) a href=(undo.back) { (undo.case) } " " (done) "." }
            form method="post" action="/preview/undo" {
                @if let Some(csrf) = &undo.csrf { input type="hidden" name="csrf" value=(csrf); }
                input type="hidden" name="back" value=(undo.back);
                input type="hidden" name="cases" value={ (undo.case) "." (undo.seen) };
                button data-key="u" { (say("Take back", "Zurücknehmen")) " (" (undo.left_ms.div_ceil(1_000)) " s)" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_the_case_that_was_decided_once() {
        assert_eq!(
            marked("/preview/a/b/variant?c=d&_in=queue#case-4", 7),
            "/preview/a/b/variant?c=d&_in=queue&_undo=7#case-4"
        );
        assert_eq!(marked("/preview/queue", 7), "/preview/queue?_undo=7");
        assert_eq!(marked("/preview/a/b?_undo=3&x=1", 7), "/preview/a/b?x=1&_undo=7");
    }
}

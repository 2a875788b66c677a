//! What the preview's forms about batches send: a filter's pictures are ordered, and a batch is paused, resumed, tried
//! again or ended, as the API does it.

use http::Response;
use serde_json::Value;

use super::batches::{self, FilterOrder};
use super::body::{Fault, fault, wrong};
use super::login::{self, Form};
use super::{AdminApi, PREFIX, Principal};
use crate::batch::Ask;
use crate::service::Body;

/// Where pages of batches are.
const PAGES: &str = "/preview/batches";
const WHY_CHARS_MAX: usize = 1_000;

/// What a form is about, by its path below `/preview`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchAim<'p> {
    Start,
    Ask(&'p str, Ask),
}

impl<'p> BatchAim<'p> {
    pub(super) fn of(path: &'p str) -> Option<Self> {
        let rest = path.strip_prefix(PAGES)?;
        if rest.is_empty() {
            return Some(Self::Start);
        }
        let (id, ask) = rest.strip_prefix('/')?.split_once('/')?;
        Some(Self::Ask(id, Ask::named(ask)?))
    }

    /// The path of the API that does the same, whose row says what it takes.
    pub(super) fn route(self) -> String {
        match self {
            Self::Start => format!("{PREFIX}batches"),
            // To end a batch takes what it takes to pause it.
            Self::Ask(id, Ask::Pause | Ask::Cancel) => format!("{PREFIX}batches/{id}/pause"),
            Self::Ask(id, Ask::Resume) => format!("{PREFIX}batches/{id}/resume"),
            Self::Ask(id, Ask::Retry) => format!("{PREFIX}batches/{id}/retry"),
        }
    }
}

impl AdminApi {
    /// Carries out a form, and leads to the page of its batch.
    pub(super) async fn batch_form(
        &self,
        aim: BatchAim<'_>,
        who: &Principal,
        form: &Form,
    ) -> Result<Response<Body>, Fault> {
        let reply = match aim {
            BatchAim::Start => batches::of_filter(self, who, filter(form)?, why(form)).await?,
            BatchAim::Ask(id, ask) => batches::ask(self, who, id, (ask, None)).await?,
        };
        let id = reply.body.get("id").and_then(Value::as_u64);
        let id = id.ok_or_else(|| fault(500, "internal", "Internal error", "the batch has no number"))?;
        Ok(login::see_other(&format!("{PAGES}/{id}")))
    }
}

fn why(form: &Form) -> String {
    form.get("why").unwrap_or_default().trim().chars().take(WHY_CHARS_MAX).collect()
}

/// The filter of the form's page, and how many pictures it showed: more than those are not drawn unseen.
fn filter(form: &Form) -> Result<FilterOrder, Fault> {
    let place = form.get("slot").unwrap_or_default();
    let (campaign, slot) = place.split_once('/').ok_or_else(|| wrong("slot", "it is written `campaign/slot`", &[]))?;
    let counted = form.get("count").and_then(|count| count.trim().parse().ok());
    let counted = counted.ok_or_else(|| wrong("count", "`count` is a whole number", &[]))?;
    Ok(FilterOrder {
        campaign: campaign.to_owned(),
        slot: Some(slot.to_owned()),
        query: form.get("filter").unwrap_or_default().to_owned(),
        pictures_max: Some(counted),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_what_is_asked_of_which_batch() {
        assert_eq!(BatchAim::of("/preview/batches"), Some(BatchAim::Start));
        assert_eq!(BatchAim::of("/preview/batches/17/pause"), Some(BatchAim::Ask("17", Ask::Pause)));
        assert_eq!(BatchAim::of("/preview/batches/17/cancel"), Some(BatchAim::Ask("17", Ask::Cancel)));
        for path in ["/preview/batch", "/preview/batches/17", "/preview/batches/17/draw", "/preview/batchesx/1/pause"] {
            assert_eq!(BatchAim::of(path), None, "{path}");
        }
    }
}

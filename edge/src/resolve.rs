//! The one way from a URL and an asker to what is wanted: parse, verify, resolve, lay out, choose a format.
//!
//! | module | owns |
//! | --- | --- |
//! | `asker` | who asks, and what is read of an asker beside the URL |
//! | `meaning` | what a parsed request means in a snapshot of the catalogue: variant, size, quality |
//! | `layout` | the geometry of signed URLs |
//! | `format` | the choice of a format by `Accept` |
//! | `want` | what caches, flights and nodes are asked for |
//! | `factors` | what beside the URL an answer depends on: `Vary`, and whether the answer may be kept |
//! | `explain` | a trace as data for people |
//! | `reach` | how much the URLs of a catalogue can ask for |
//!
//! Invariants: requests, warmings, purges, the preview and `explain` call [`resolve`], so that a URL means the same to all of
//! them; an asker is asked only for what the URL leaves to it; what the answer depends on follows from the URL alone, and
//! is known for a request that is refused, too; nothing here waits, reads a file, or knows what is cached.

mod asker;
pub mod explain;
mod factors;
pub mod format;
pub mod layout;
mod meaning;
mod reach;
mod want;

use bildkante_shared::problem::Problem;

pub use asker::{Asker, Described, Operator, Reader};
pub use explain::Explanation;
pub use factors::{Factor, Factors, Negotiation};
pub use meaning::{ResolveError, Resolved};
pub use reach::CatalogReport;
pub use want::{Audience, Decided, Merging, Want};

use crate::campaign::Catalog;
use crate::request::{ClientHints, DataUse, IMAGE_PATH_PREFIX, ImageRequest, RequestError, Target};
use crate::signing::{Grant, SignatureError};

/// What came of a URL at each stage, as far as it came.
#[derive(Debug)]
pub struct Trace<'u> {
    /// `None` where the URL is not understood.
    pub request: Option<ImageRequest<'u>>,
    /// `None` where the URL is not understood or its signature is refused.
    pub grant: Option<Grant>,
    /// What the answer depends on, an image or a refusal.
    pub factors: Factors,
    pub outcome: Result<Resolution, Refusal>,
}

/// What a URL means, and what is wanted of caches and nodes for it.
#[derive(Debug, Clone)]
pub struct Resolution {
    pub resolved: Resolved,
    pub want: Want,
}

/// Why a URL is not answered with an image, by the stage that refuses it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error(transparent)]
    Meaning(#[from] ResolveError),
}

impl Refusal {
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self {
            Self::Request(error) => error.problem(),
            Self::Signature(error) => error.problem(),
            Self::Meaning(error) => error.problem(),
        }
    }
}

/// What a URL comes to in this snapshot for this asker.
#[must_use]
pub fn resolve<'u>(catalog: &Catalog, url: impl Into<Target<'u>>, asker: &impl Asker) -> Trace<'u> {
    let Target { path, query } = url.into();
    let request = match ImageRequest::parse(path, query, catalog) {
        Ok(request) => request,
        Err(error) => {
            return Trace { request: None, grant: None, factors: Factors::UNREAD, outcome: Err(error.into()) };
        }
    };
    let (grant, outcome) = match asker.grant(&request) {
        Ok(grant) => (Some(grant), resolution(catalog, &request, grant, asker).map_err(Refusal::from)),
        Err(error) => (None, Err(error.into())),
    };
    Trace { factors: Factors::of(&request), request: Some(request), grant, outcome }
}

/// What is wanted of a variant as people name it: `campaign/slot?axis=value`, also as the path of its picture. `cut` has the parameters
/// of the picture.
///
/// # Errors
/// When it is no variant of the catalogue, or has no such picture.
pub fn want_named(catalog: &Catalog, name: &str, cut: &str) -> Result<Want, Refusal> {
    let name = name.trim_start_matches('/');
    let name = name.strip_prefix("i/").unwrap_or(name);
    let separator = match (cut.is_empty(), name.contains('?')) {
        (true, _) => "",
        (false, true) => "&",
        (false, false) => "?",
    };
    let url = format!("{IMAGE_PATH_PREFIX}{name}{separator}{cut}");
    resolve(catalog, url.as_str(), &Operator).outcome.map(|resolution| resolution.want)
}

fn resolution(
    catalog: &Catalog,
    request: &ImageRequest<'_>,
    grant: Grant,
    asker: &impl Asker,
) -> Result<Resolution, ResolveError> {
    let hints = if request.uses_hints() { asker.hints() } else { ClientHints::default() };
    let data_use = if request.may_save_data() { asker.data_use() } else { DataUse::Usual };
    let resolved = match data_use {
        DataUse::Usual => Resolved::new(catalog, request, grant, hints)?,
        DataUse::Saving => Resolved::new(catalog, request, grant, hints.at_dpr_one())?.saving(),
    };
    let accept = if resolved.format.is_negotiable() { asker.accept() } else { None };
    let format = format::choose(accept.as_deref(), resolved.format, resolved.slot.formats);
    let want = Want::new(&resolved, format, asker.urgency());
    Ok(Resolution { resolved, want })
}

#[cfg(test)]
mod tests;

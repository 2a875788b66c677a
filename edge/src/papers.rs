//! Papers: what there is to say of one picture, and what a deployer documents of a campaign.
//!
//! | module | owns |
//! | --- | --- |
//! | `subject` | which variants, recipes and master a URL or an id means |
//! | `dossier` | everything of one picture, as data |
//! | `evidence` | what its rendition says of its origin, verified now |
//! | `dossier_page` | the same for people: one page that needs nothing else and prints well |
//! | `report` | the points of the AI Act that a campaign's deployer documents, and what is missing |
//! | `report_page` | the same for people |
//! | `sheet` | the frame of both pages |
//!
//! Invariants: nothing is drawn for a dossier, and no node is asked for a picture that is not bound; what is not known
//! is said to be unknown, with the reason; a page has no script and fetches nothing; all texts of others are escaped.

mod dossier;
mod dossier_page;
mod evidence;
pub mod report;
mod report_page;
mod sheet;
mod subject;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bildkante_shared::problem::Problem;
use http::header::CONTENT_SECURITY_POLICY;
use http::{HeaderMap, HeaderValue, Request, Response};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

pub use self::dossier::Dossier;
pub use self::evidence::Evidence;
use self::evidence::Examiner;
pub use self::subject::SubjectError;
use self::subject::{Reader, SUBJECT_BYTES_MAX};
use crate::cache::Bindings;
use crate::campaign::CatalogHandle;
use crate::fill::Fill;
use crate::response::{self, TextKind};
use crate::service::{Body, RequestBody};
use crate::watermark::Watermarks;
use crate::words::Moment;

/// Where the page is, on the admin listener.
pub const PATH: &str = "/papers/dossier";
/// Dossiers that are made at a time: each looks through the catalogue and may render a picture.
const DOSSIERS_MAX: usize = 2;
const NO_STORE: &str = "no-store";
/// A page needs its own style and the picture that is in it.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'";

/// Makes dossiers. Clones share one state.
#[derive(Debug, Clone)]
pub struct Papers {
    public_url: Arc<str>,
    catalog: CatalogHandle,
    bindings: Bindings,
    examiner: Arc<Examiner>,
    has_access_log: bool,
    turns: Arc<tokio::sync::Semaphore>,
}

/// What papers are made from.
#[derive(Debug)]
pub struct PapersParts {
    pub public_url: String,
    pub catalog: CatalogHandle,
    pub bindings: Bindings,
    pub fill: Arc<Fill>,
    pub watermarks: Watermarks,
    /// Whether the access log is switched on, which names the pages that pictures are shown on.
    pub has_access_log: bool,
}

impl Papers {
    #[must_use]
    pub fn new(parts: PapersParts) -> Self {
        let PapersParts { public_url, catalog, bindings, fill, watermarks, has_access_log } = parts;
        Self {
            public_url: public_url.into(),
            catalog,
            bindings,
            examiner: Arc::new(Examiner { fill, watermarks }),
            has_access_log,
            turns: Arc::new(tokio::sync::Semaphore::new(DOSSIERS_MAX)),
        }
    }

    /// The dossier of what `asked` means: a URL, `campaign/slot?axis=value`, or the id of a master or a recipe.
    ///
    /// # Errors
    /// When it means no picture of this edge.
    pub async fn dossier(&self, asked: &str) -> Result<Dossier, SubjectError> {
        let _turn = self.turns.acquire().await.map_err(|_| SubjectError::Stopping)?;
        let reader = Reader { catalog: self.catalog.load(), bindings: self.bindings.clone() };
        let owned = asked.to_owned();
        // Looking through a catalogue takes up to a second.
        let look = tokio::task::spawn_blocking(move || reader.read(&owned));
        let subject = look.await.map_err(|_| SubjectError::Stopping)??;
        let evidence = match &subject.resolved {
            Some(resolved) => self.examiner.examine(resolved, &self.public_url, &subject).await,
            None => {
                Evidence::none("no campaign of this edge shows the picture, so that no rendition of it can be made")
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let made_at = Moment::from_unix_s(now).map(|now| now.to_string()).unwrap_or_default();
        Ok(Dossier::new(&subject, evidence, &self.public_url, self.has_access_log, made_at))
    }

    /// The page at [`PATH`], or why there is none; `None` elsewhere. `sees` says which campaigns the reader may see.
    pub async fn respond(
        &self,
        request: &Request<RequestBody>,
        sees: &(dyn Fn(Option<&str>) -> bool + Sync),
    ) -> Option<Result<Response<Body>, Box<Problem>>> {
        if request.uri().path() != PATH {
            return None;
        }
        let foreign =
            || Problem::new(403, "forbidden", "Forbidden", "this picture is of a campaign in which you have no role");
        let asked = self.asked_dossier(request.uri().query()).await;
        let dossier = asked.and_then(|dossier| dossier.shown_to(sees).ok_or_else(|| Box::new(foreign())));
        Some(dossier.map(|dossier| page(request.headers(), dossier_page::text(&dossier))))
    }

    /// The dossier that `of=` in a query asks for.
    ///
    /// # Errors
    /// When the query has none, or it means no picture of this edge.
    pub async fn asked_dossier(&self, query: Option<&str>) -> Result<Dossier, Box<Problem>> {
        let asked = query.unwrap_or("").split('&').find_map(|pair| pair.strip_prefix("of=")).unwrap_or("");
        if asked.is_empty() || asked.len() > 3 * SUBJECT_BYTES_MAX {
            let detail = "`of` is a picture's URL, `campaign/slot?axis=value`, or the id of a master or a recipe";
            return Err(Box::new(
                Problem::new(400, "invalid-field", "Field not valid", detail).with_parameter("of", vec![]),
            ));
        }
        let asked = percent_decode_str(asked).decode_utf8_lossy();
        self.dossier(&asked).await.map_err(|error| Box::new(error.problem()))
    }
}

/// The address of the dossier of a URL, a variant or an id, on the admin listener.
#[must_use]
pub fn link(of: &str) -> String {
    format!("{PATH}?of={}", utf8_percent_encode(of, NON_ALPHANUMERIC))
}

/// A dossier as a page that needs nothing else.
#[must_use]
pub fn dossier_html(dossier: &Dossier) -> String {
    dossier_page::text(dossier)
}

/// A report as a page that needs nothing else.
#[must_use]
pub fn report_html(reports: &[report::Report]) -> String {
    report_page::text(reports)
}

/// An answer with a page of papers, which no cache keeps and which can load nothing.
pub(crate) fn page(request: &HeaderMap, html: String) -> Response<Body> {
    let mut response = response::text(request, TextKind::Html, html, NO_STORE);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

//! How pictures are made behind the readers: one way for warmings and for batches.
//!
//! Invariants: it is a reader's miss at the least urgency; what is made of a reviewed slot is put before reviewers; a picture's first
//! rendition draws it, and the others are cut from it side by side.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{WarmMetrics, want};
use crate::cache::Binding;
use crate::campaign::Catalog;
use crate::fill::{Fill, Filled};
use crate::governance::ReviewDesk;
use crate::resolve::Want;

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Settler {
    fill: Arc<Fill>,
    /// Which pictures that were made are put before; `None` in tests of warming alone.
    reviews: Option<ReviewDesk>,
    metrics: WarmMetrics,
}

impl Settler {
    #[must_use]
    pub(super) const fn new(fill: Arc<Fill>, reviews: Option<ReviewDesk>, metrics: WarmMetrics) -> Self {
        Self { fill, reviews, metrics }
    }

    /// All renditions of one picture, by their URLs, as many at a time as there are permits. Each is told as it ends.
    pub(crate) async fn picture(
        &self,
        catalog: &Arc<Catalog>,
        permits: &Arc<Semaphore>,
        urls: Vec<String>,
        told: impl Fn(String, Result<Filled, String>) + Clone + Send + 'static,
    ) {
        let rendition = |url: String| {
            let (this, catalog, permits, told) = (self.clone(), Arc::clone(catalog), Arc::clone(permits), told.clone());
            async move {
                let Ok(_permit) = permits.acquire().await else { return };
                let made = match want(&catalog, &url) {
                    Ok(want) => this.made(&want.for_reviewers()).await,
                    Err(refusal) => Err(this.refused(refusal.to_string())),
                };
                told(url, made);
            }
        };
        let mut urls = urls.into_iter();
        if let Some(first) = urls.next() {
            rendition(first).await;
        }
        let mut others: JoinSet<()> = urls.map(rendition).collect();
        while others.join_next().await.is_some() {}
    }

    /// Makes one rendition, and puts the picture before reviewers where its slot is reviewed.
    pub(crate) async fn made(&self, want: &Want) -> Result<Filled, String> {
        let made = self.submitted(want).await;
        match &made {
            Ok(filled) => self.metrics.count(filled.outcome.as_str()),
            Err(_) => self.metrics.count("failed"),
        }
        made
    }

    /// What is known of the making of a picture that was made.
    pub(crate) fn known(&self, want: &Want) -> Option<Arc<Binding>> {
        self.fill.known(want)
    }

    fn refused(&self, reason: String) -> String {
        self.metrics.count("failed");
        reason
    }

    async fn submitted(&self, want: &Want) -> Result<Filled, String> {
        let filled = self.fill.settle_patiently(want).await.map_err(|error| error.to_string())?;
        let Some(reviews) = self.reviews.as_ref().filter(|_| want.variant.review.is_required()) else {
            return Ok(filled);
        };
        let unkept = |error| format!("it is made, and not put before reviewers: {error}");
        if let Some(kept) = self.fill.kept(want).await.map_err(unkept)? {
            let submitted = reviews.submit(&want.variant, &kept.binding).await;
            submitted.map_err(|error| format!("it is made, and not put before reviewers: {error}"))?;
        }
        Ok(filled)
    }
}

//! How far pictures are that are being drawn: `/preview/progress?of=RECIPE.RECIPE…`, and a line of text on pages without a script.
//!
//! Invariants: an answer is repeated for a second, whatever number of pages wait; recipes of one request, and questions at once, are bounded; an answer says how far a drawing is and nothing of what is drawn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::RecipeId;
use bildkante_shared::wire::{GenerationState, GenerationStatus};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Response};
use moka::sync::Cache;
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::language::Language;
use crate::origin::Regions;
use crate::response::{self, TextKind};
use crate::service::Body;

pub(super) const PATH: &str = "/progress";
/// Recipes of one request: those of a page.
const RECIPES_MAX: usize = 64;
/// Questions to nodes at once, of all pages.
const ASKS_MAX: usize = 16;
/// How long a node has to answer, and how long an answer is repeated.
const WAIT: Duration = Duration::from_millis(500);
const KNOWN_FOR: Duration = Duration::from_secs(1);
const KNOWN_MAX: u64 = 4_096;

/// How far a drawing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Drawing {
    state: GenerationState,
    /// Steps made, and steps there are.
    step: u32,
    of: u32,
    /// How many wait in front of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_ms: Option<u64>,
}

impl Drawing {
    const fn of(status: &GenerationStatus) -> Self {
        let GenerationStatus { state, step, of, position, eta_ms, .. } = *status;
        Self { state, step, of, position, eta_ms }
    }

    /// In a line.
    pub(super) fn words(self, language: Language) -> String {
        let say = |english, german| language.say(english, german);
        match (self.state, self.position) {
            (GenerationState::Queued, Some(ahead)) => {
                format!("{}: {ahead} {}", say("it waits", "es wartet"), say("before it", "davor"))
            }
            (GenerationState::Queued, None) => say("it waits", "es wartet").to_owned(),
            (GenerationState::Running, _) if self.of == 0 => say("it begins", "es beginnt").to_owned(),
            (GenerationState::Running, _) => {
                format!("{} {} {} {}", say("step", "Schritt"), self.step, say("of", "von"), self.of)
            }
            (GenerationState::Done, _) => say("it is drawn", "es ist erzeugt").to_owned(),
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Progresses {
    regions: Arc<Regions>,
    known: Cache<RecipeId, Option<Drawing>>,
    asks: Semaphore,
}

impl Progresses {
    pub(super) fn new(regions: Arc<Regions>) -> Self {
        let known = Cache::builder().time_to_live(KNOWN_FOR).max_capacity(KNOWN_MAX).build();
        Self { regions, known, asks: Semaphore::new(ASKS_MAX) }
    }

    pub(super) async fn of(&self, recipe: RecipeId) -> Option<Drawing> {
        if let Some(known) = self.known.get(&recipe) {
            return known;
        }
        // A page that finds no place is told nothing this time.
        let _place = self.asks.try_acquire().ok()?;
        let told = self.regions.progress(recipe, WAIT).await.as_ref().map(Drawing::of);
        self.known.insert(recipe, told);
        told
    }

    /// What is known of the recipes that a query names. What is unknown is left out.
    pub(super) async fn respond(&self, headers: &HeaderMap, query: Option<&str>) -> Response<Body> {
        let named = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("of="));
        let recipes = named.unwrap_or_default().split('.').filter_map(|id| id.parse::<RecipeId>().ok());
        let recipes: Vec<RecipeId> = recipes.take(RECIPES_MAX).collect();
        let told =
            stream::iter(recipes).map(|recipe| async move { Some((recipe.to_string(), self.of(recipe).await?)) });
        let told: BTreeMap<String, Drawing> =
            told.buffer_unordered(ASKS_MAX).filter_map(std::future::ready).collect().await;
        let body = serde_json::to_vec(&told).unwrap_or_default();
        response::text(headers, TextKind::Json, body, "no-store")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_a_drawing_is() {
        let mut status = GenerationStatus::new(RecipeId::from_raw([1; 16]), GenerationState::Running);
        (status.step, status.of) = (3, 20);
        let words = |status: &GenerationStatus, language| Drawing::of(status).words(language);
        assert_eq!(words(&status, Language::English), "step 3 of 20");
        (status.state, status.position) = (GenerationState::Queued, Some(2));
        assert_eq!(words(&status, Language::German), "es wartet: 2 davor");
        status.state = GenerationState::Done;
        assert_eq!(words(&status, Language::English), "it is drawn");
    }
}

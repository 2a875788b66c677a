//! What a reader gets while the picture is not there: how long to wait for it, and what to show instead.
//!
//! Invariants: looking for a stand-in has a deadline of its own and never waits for a node; a stand-in never carries
//! the freshness of what it stands for; the picture itself goes on being made behind.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::Rendition;
use crate::campaign::{Catalog, MissPolicy, Resolved, Stopgap};
use crate::fill::{Fill, FillError, Peek, Want};
use crate::placeholder::Placeholders;
use crate::response::Outcome;

/// How long a slot waits for a picture, and what it shows instead.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub wait: Duration,
    pub then: Stopgap,
}

/// What could not be had in time.
#[derive(Debug, Clone, Copy)]
pub struct Missing<'a> {
    pub catalog: &'a Catalog,
    pub resolved: &'a Resolved,
    pub want: &'a Want,
    pub then: Stopgap,
}

/// Something else to show, and what it is.
#[derive(Debug, Clone)]
pub struct StandIn {
    pub rendition: Arc<Rendition>,
    pub outcome: Outcome,
}

/// Finds stand-ins.
#[derive(Debug)]
pub struct StandIns {
    fill: Arc<Fill>,
    placeholders: Placeholders,
    render_wait: Duration,
    fallback_wait: Duration,
}

impl StandIns {
    #[must_use]
    pub fn new(fill: Arc<Fill>, render_wait: Duration, fallback_wait: Duration) -> Self {
        Self { placeholders: Placeholders::new(Arc::clone(&fill)), fill, render_wait, fallback_wait }
    }

    /// A picture that exists only needs rendering; the slot's patience is for generations.
    #[must_use]
    pub fn patience(&self, policy: MissPolicy, want: &Want) -> Patience {
        let mut patience = match policy {
            MissPolicy::Wait { wait_ms, then } => Patience { wait: Duration::from_millis(wait_ms.into()), then },
            MissPolicy::Fallback => Patience { wait: Duration::ZERO, then: Stopgap::Fallback },
            MissPolicy::Placeholder => Patience { wait: Duration::ZERO, then: Stopgap::Placeholder },
        };
        if self.fill.is_drawn(want) {
            patience.wait = patience.wait.max(self.render_wait);
        }
        patience
    }

    /// The slot's default variant when it is at hand, else a palette image.
    ///
    /// # Errors
    /// When not even a palette image can be made.
    pub async fn find(&self, missing: Missing<'_>) -> Result<StandIn, FillError> {
        if missing.then == Stopgap::Fallback
            && let Some(rendition) = self.fallback(missing).await
        {
            return Ok(StandIn { rendition, outcome: Outcome::Fallback });
        }
        let rendition = self.placeholders.get(missing.want).await?;
        Ok(StandIn { rendition, outcome: Outcome::Placeholder })
    }

    /// The default variant in the same cut, if it can be had within `fallback_wait`. One that was never drawn is
    /// asked for behind, so that there is one next time.
    async fn fallback(&self, missing: Missing<'_>) -> Option<Arc<Rendition>> {
        let Missing { catalog, resolved, want, .. } = missing;
        let variant = catalog.fallback(&resolved.campaign, resolved.slot_index).ok()?;
        if variant.recipe.id() == want.recipe_id() {
            return None;
        }
        let instead = Want { variant, ..want.clone() };
        match self.fill.peek(&instead) {
            Peek::Fresh(rendition) => return Some(rendition),
            Peek::Stale(rendition, _) => {
                self.fill.refresh(&rendition, &instead);
                return Some(rendition);
            }
            Peek::Absent => {}
        }
        let is_drawn = self.fill.is_drawn(&instead);
        let ticket = self.fill.fly(instead).ok()?;
        if !is_drawn {
            return None;
        }
        ticket.landed_within(self.fallback_wait).await.ok()?.ok().map(|filled| filled.rendition)
    }
}

//! Images between a purge and their replacement: what may still be shown, and how the new one comes about behind it.
//!
//! Source: RFC 5861, as an edge does it for its own cache. Invariants: a stale image stays where it is until the new
//! one takes its place in one step, so that a hot key never leaves the cache; only valid images are put into memory,
//! for the front map asks nobody; making anew is bounded, once per rendition at a time, and least urgent of all.

use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::urgency::Urgency;

use super::{Fill, FillError, Filled, IMPROVEMENT_PAUSE, OVERTAKEN_MAX, Want};
use crate::cache::{Binding, FlightError, Rendition, RenditionKey, Ticket, Tier};
use crate::governance::{RefreshOutcome, Subject, Verdict};
use crate::render::Rung;
use crate::response::Outcome;

/// What the hit path finds.
#[derive(Debug, Clone)]
pub enum Peek {
    Fresh(Arc<Rendition>),
    /// To be shown now, and to be refreshed behind.
    Stale(Arc<Rendition>, Duration),
    Absent,
}

impl Peek {
    /// Valid bytes, for those who want nothing else.
    #[must_use]
    pub fn fresh(self) -> Option<Arc<Rendition>> {
        match self {
            Self::Fresh(rendition) => Some(rendition),
            Self::Stale(..) | Self::Absent => None,
        }
    }
}

impl Want {
    /// What purges know it by.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject { tags: self.variant.tags.all(), recipe: self.recipe_id(), spec: &self.spec }
    }
}

impl Fill {
    /// The rendition if it is in memory: the hit path.
    #[must_use]
    pub fn peek(&self, want: &Want) -> Peek {
        let Some(binding) = self.caches.bindings.get(want.recipe_id()) else { return Peek::Absent };
        let key = want.key(binding.master);
        let Some(rendition) = self.caches.memory.get(key) else { return Peek::Absent };
        match self.verdict(want, &rendition) {
            Verdict::Valid => Peek::Fresh(rendition),
            Verdict::Stale { since } => Peek::Stale(rendition, since),
            Verdict::OnError { .. } => Peek::Absent,
            Verdict::Gone => {
                self.caches.memory.remove(key);
                Peek::Absent
            }
        }
    }

    /// The rendition if it is on disk and reading it takes no device.
    #[must_use]
    pub fn peek_disk(self: &Arc<Self>, want: &Want) -> Option<Filled> {
        let key = want.key(self.binding(want)?.master);
        let rendition = self.caches.peek(key, |found| self.verdict(want, found) == Verdict::Valid)?;
        self.improve(&rendition, want);
        Some(Filled::found(rendition, Outcome::Disk))
    }

    /// Whether the picture exists, so that only rendering is left to do.
    #[must_use]
    pub fn is_drawn(&self, want: &Want) -> bool {
        self.binding(want).is_some()
    }

    /// A copy that was purged softly, for when there is nothing better to be had.
    pub async fn stale_copy(self: &Arc<Self>, want: &Want) -> Option<Filled> {
        let binding = self.any_binding(want)?;
        let (_, rendition, verdict) = self.find(want.key(binding.master), want).await?;
        match verdict {
            Verdict::Stale { since } | Verdict::OnError { since } => Some(Filled::stale(rendition, since)),
            Verdict::Valid | Verdict::Gone => None,
        }
    }

    /// Makes a stale rendition anew behind its readers. When there is no room for it now, or it fails, a reader of the
    /// stale one asks again after [`IMPROVEMENT_PAUSE`].
    pub fn refresh(self: &Arc<Self>, current: &Rendition, want: &Want) {
        if !current.claim_improvement(IMPROVEMENT_PAUSE) {
            return;
        }
        let want = Want { urgency: Urgency::LEAST, ..want.clone() };
        let key = (want.recipe_id(), want.spec, want.finish.digest());
        let fill = Arc::clone(self);
        let started = self.settling.fly(key, move || async move {
            let result = fill.settled(&want).await;
            let outcome = if result.is_ok() { RefreshOutcome::Done } else { RefreshOutcome::Failed };
            fill.purges.metrics().refreshed(outcome);
            result
        });
        if started.is_err() {
            self.purges.metrics().refreshed(RefreshOutcome::Full);
        }
    }

    /// Starts or joins the making of a valid final rung, least urgent of all: for those who prepare and need not
    /// hurry. It goes on when the ticket is dropped.
    ///
    /// # Errors
    /// When too many are under way.
    pub fn settle(self: &Arc<Self>, want: &Want) -> Result<Ticket<Result<Filled, FillError>>, FlightError> {
        let want = Want { urgency: Urgency::LEAST, ..want.clone() };
        let key = (want.recipe_id(), want.spec, want.finish.digest());
        let fill = Arc::clone(self);
        self.settling.fly(key, move || async move { fill.settled(&want).await })
    }

    async fn settled(self: &Arc<Self>, want: &Want) -> Result<Filled, FillError> {
        for _ in 0..OVERTAKEN_MAX {
            let generation = self.purges.generation();
            let generated = self.bound(want).await?;
            let key = want.key(generated.binding.master);
            let at_hand = self.find(key, want).await.filter(|(_, _, verdict)| *verdict == Verdict::Valid);
            let generation = match at_hand {
                Some((tier, rendition, _)) if rendition.rung == Rung::Final => {
                    return Ok(Filled::found(rendition, tier.into()));
                }
                Some((_, quick, _)) => quick.generation,
                None => generation,
            };
            // A master that is lost everywhere is drawn anew and bound again.
            let (master, _) = self.master_of(want, &generated.binding, want.urgency.into()).await?;
            let rendition = self.finish(want, master.id(), generation, None)?.landed().await??;
            if self.verdict(want, &rendition) == Verdict::Valid {
                let outcome = if generated.elapsed.is_some() { Outcome::Generated } else { Outcome::Rendered };
                return Ok(Filled::found(rendition, outcome));
            }
        }
        Err(FillError::Overtaken)
    }

    /// What need not be made: a valid rendition, or a stale one that may be shown while it is made anew.
    pub(super) async fn at_hand(self: &Arc<Self>, want: &Want) -> Option<Filled> {
        let binding = self.any_binding(want)?;
        let (tier, rendition, verdict) = self.find(want.key(binding.master), want).await?;
        match verdict {
            Verdict::Valid => {
                self.improve(&rendition, want);
                Some(Filled::found(rendition, tier.into()))
            }
            Verdict::Stale { since } => {
                self.refresh(&rendition, want);
                Some(Filled::stale(rendition, since))
            }
            Verdict::OnError { .. } | Verdict::Gone => None,
        }
    }

    pub(super) async fn find(&self, key: RenditionKey, want: &Want) -> Option<(Tier, Arc<Rendition>, Verdict)> {
        let judge = |rendition: &Rendition| self.verdict(want, rendition);
        let generation_at = |made_unix_ms| self.purges.generation_at(made_unix_ms);
        let may_enter = |rendition: &Rendition| judge(rendition) == Verdict::Valid;
        let (tier, rendition) = self.caches.find_if(key, generation_at, may_enter).await?;
        let verdict = judge(&rendition);
        Some((tier, rendition, verdict))
    }

    pub(super) fn verdict(&self, want: &Want, rendition: &Rendition) -> Verdict {
        self.purges.verdict(&want.subject(), rendition)
    }

    /// The binding, unless masters were purged since.
    pub(super) fn binding(&self, want: &Want) -> Option<Arc<Binding>> {
        self.caches.bindings.get(want.recipe_id()).filter(|binding| self.is_current(want, binding))
    }

    pub(super) fn is_current(&self, want: &Want, binding: &Binding) -> bool {
        self.purges.binding_verdict(&want.subject(), binding) == Verdict::Valid
    }

    /// The binding, also one that is only good for finding what is still shown.
    fn any_binding(&self, want: &Want) -> Option<Arc<Binding>> {
        let binding = self.caches.bindings.get(want.recipe_id())?;
        let verdict = self.purges.binding_verdict(&want.subject(), &binding);
        (verdict != Verdict::Gone).then_some(binding)
    }
}

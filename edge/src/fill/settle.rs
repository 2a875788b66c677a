//! What is made behind the readers: final rungs, replacements of stale renditions, and what is warmed.
//!
//! Source: RFC 5861, as an edge applies it to its own cache. Invariants: a stale rendition stays where it is until the new
//! one takes its place in one step, so a hot key never leaves the cache; everything here is bounded, runs once per
//! rendition at a time, and is least urgent of all.

use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::urgency::Urgency;

use super::rendition::{Cut, Filled, Rendered, Rendering};
use super::{Fill, FillError, FillTicket, OVERTAKEN_MAX, Want};
use crate::budget::RenderCharge;
use crate::cache::{Binding, FlightError, HeldMaster, Rendition, Ticket};
use crate::governance::{RefreshOutcome, Verdict};
use crate::render::{Precedence, Rung};
use crate::words::Outcome;

/// How long a quick rung is served before its final one is asked for again.
const IMPROVEMENT_PAUSE: Duration = Duration::from_secs(5);
/// How often a rendition is tried that is made behind the readers, and the pauses between.
const ATTEMPTS_MAX: u32 = 8;
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// A picture whose master stays on this device until it is before reviewers, which keep it from then on.
#[derive(Debug)]
pub struct KeptPicture {
    pub binding: Arc<Binding>,
    _held: HeldMaster,
}

impl Fill {
    /// Encodes the final rung behind a quick one, least urgent of all and once per key at a time. When there is
    /// no room for it now, or the pool is behind, a reader of the quick one asks again after [`IMPROVEMENT_PAUSE`].
    pub fn improve(self: &Arc<Self>, current: &Rendition, want: &Want) {
        self.improve_for(current, want, None);
    }

    /// The same on a reader's account. The reader pays once, also when it is rendered later for lack of room.
    pub(super) fn improve_for(self: &Arc<Self>, current: &Rendition, want: &Want, mut charge: Option<RenderCharge>) {
        if current.rung == Rung::Final || !current.claim_improvement(IMPROVEMENT_PAUSE) {
            return;
        }
        let Some(binding) = self.masters.any_binding(want).filter(|binding| binding.master == current.master) else {
            return;
        };
        if let Some(charge) = &mut charge
            && !self.finals.is_flying(&Cut::of(want, &binding).key())
        {
            charge.keep();
        }
        if self.pool.puts_off_finals() {
            return;
        }
        // It is cut from the same master, so it is as old.
        let _ = self.finish(want, binding, current.generation, charge);
    }

    /// The final rung of a master that is bound. Those who join a rendering under way are not charged.
    fn finish(
        self: &Arc<Self>,
        want: &Want,
        binding: Arc<Binding>,
        generation: u64,
        mut charge: Option<RenderCharge>,
    ) -> Result<Ticket<Result<Arc<Rendition>, FillError>>, FlightError> {
        let (fill, want) = (Arc::clone(self), want.clone());
        let key = Cut::of(&want, &binding).key();
        self.finals.fly(key, move || async move {
            let cut = Cut::of(&want, &binding);
            let precedence = Precedence { urgency: Urgency::LEAST, owner: charge.as_ref().map(RenderCharge::owner) };
            let finished = async {
                let decoded = fill.masters.master(&want, binding.master, precedence).await?;
                let how = Rendering { rung: Rung::Final, precedence, generation };
                let Rendered { rendition, cpu, .. } = fill.render(cut, &decoded, how).await?;
                if let Some(charge) = &mut charge {
                    charge.spend(decoded.cpu + cpu);
                }
                // An unsigned rendition is not final, and no better than the quick one that is there.
                if rendition.rung != Rung::Final {
                    return Err(FillError::Unsigned);
                }
                fill.keep(cut, &rendition);
                Ok(rendition)
            };
            let result = finished.await;
            if let Err(error) = &result {
                tracing::debug!(recipe = %want.recipe_id(), %error, "final rung put off");
            }
            result
        })
    }

    /// Makes a stale rendition anew behind its readers. When there is no room for it now, or it fails, a reader of the
    /// stale one asks again after [`IMPROVEMENT_PAUSE`].
    pub fn refresh(self: &Arc<Self>, current: &Rendition, want: &Want) {
        if !current.claim_improvement(IMPROVEMENT_PAUSE) {
            return;
        }
        let want = Want { urgency: Urgency::LEAST, ..want.clone() };
        let fill = Arc::clone(self);
        let started = self.settling.fly(want.flight_key(), move || async move {
            let result = fill.settled(&want).await;
            let outcome = if result.is_ok() { RefreshOutcome::Done } else { RefreshOutcome::Failed };
            fill.purges.metrics().refreshed(outcome);
            result
        });
        if started.is_err() {
            self.purges.metrics().refreshed(RefreshOutcome::Full);
        }
    }

    /// Starts or joins the making of a valid final rung, least urgent of all: for warming. It goes on when the ticket is
    /// dropped.
    ///
    /// # Errors
    /// When too many are under way.
    pub fn settle(self: &Arc<Self>, want: &Want) -> Result<FillTicket, FlightError> {
        let want = Want { urgency: Urgency::LEAST, ..want.clone() };
        let fill = Arc::clone(self);
        self.settling.fly(want.flight_key(), move || async move { fill.settled(&want).await })
    }

    /// The same until it is there, and again after a pause where that may help: readers come first, and nodes come back.
    ///
    /// # Errors
    /// When it did not help, or cannot.
    pub async fn settle_patiently(self: &Arc<Self>, want: &Want) -> Result<Filled, FillError> {
        let mut pause = PAUSE_MIN;
        for attempt in 1.. {
            let result = match self.settle(want) {
                Ok(ticket) => ticket.landed().await.unwrap_or_else(|error| Err(error.into())),
                Err(error) => Err(error.into()),
            };
            match result {
                Err(error) if error.may_pass() && attempt < ATTEMPTS_MAX => {
                    tracing::debug!(recipe = %want.recipe_id(), %error, attempt, "work behind readers waits and tries again");
                }
                result => return result,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Err(FillError::Overtaken)
    }

    /// What is known of a picture's making, once its master is where it stays for as long as people may decide about it: on this
    /// device. `None` where it was purged meanwhile.
    ///
    /// # Errors
    /// When it cannot be had, or there is no room for it.
    pub async fn kept(self: &Arc<Self>, want: &Want) -> Result<Option<KeptPicture>, FillError> {
        let Some(binding) = self.masters.binding(want) else { return Ok(None) };
        let (masters, id) = (&self.caches.masters, binding.master);
        let held = masters.hold(id);
        if !masters.holds(id) {
            self.masters.master(want, id, want.urgency.into()).await?;
        }
        if masters.holds(id) { Ok(Some(KeptPicture { binding, _held: held })) } else { Err(FillError::NoRoom) }
    }

    async fn settled(self: &Arc<Self>, want: &Want) -> Result<Filled, FillError> {
        self.gate.clear(want, None)?;
        for _ in 0..OVERTAKEN_MAX {
            let generation = self.purges.generation();
            let bound = self.masters.bound(want).await?;
            let cut = Cut::of(want, &bound.binding);
            let at_hand = self.find(cut).await.filter(|(_, _, verdict)| *verdict == Verdict::Valid);
            let generation = match at_hand {
                Some((tier, rendition, _)) if rendition.rung == Rung::Final => {
                    return Ok(Filled::found(rendition, tier.into()));
                }
                Some((_, quick, _)) => quick.generation,
                None => generation,
            };
            // A master that is lost everywhere is drawn anew and bound again.
            let (_, binding) = self.masters.master_of(want, &bound.binding, want.urgency.into()).await?;
            let rendition = self.finish(want, binding, generation, None)?.landed().await??;
            if self.purges.verdict(&want.subject(), &rendition) == Verdict::Valid {
                let outcome = if bound.elapsed.is_some() { Outcome::Generated } else { Outcome::Rendered };
                return Ok(Filled::found(rendition, outcome));
            }
        }
        Err(FillError::Overtaken)
    }
}

//! Cutting a rendition from its master while a reader waits.
//!
//! Invariants: what is rendered carries the purge generation from before its master was looked up, so a purge meanwhile
//! wins; a reader pays for the first rung and the final one behind it before either is rendered; a rendition enters memory
//! only while it is valid.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::import::MasterRecipe;
use bildkante_shared::log_limited;

use super::master::Decoded;
use super::{Fill, FillError, FillTicket, OVERTAKEN_MAX, PreviousPicture, Want};
use crate::budget::{OverBudget, Payer, RenderCharge};
use crate::cache::{Binding, FlightError, Insertion, Lineage, Rendition, RenditionKey};
use crate::campaign::Tags;
use crate::governance::{Subject, Verdict};
use crate::origin::OriginError;
use crate::render::{Finish, Load, Making, Precedence, RenderJob, RenditionSpec, Rung};
use crate::words::{FillTimings, LayersTiming, Moment, Outcome};

/// A rendition and how it was come by.
#[derive(Debug, Clone)]
pub struct Filled {
    pub rendition: Arc<Rendition>,
    pub outcome: Outcome,
    /// How long ago it was purged, where it is shown while another is made.
    pub stale_for: Option<Duration>,
    pub timings: FillTimings,
}

impl Filled {
    #[must_use]
    pub fn from_memory(rendition: Arc<Rendition>) -> Self {
        Self::found(rendition, Outcome::Memory)
    }

    pub(super) fn found(rendition: Arc<Rendition>, outcome: Outcome) -> Self {
        Self { rendition, outcome, stale_for: None, timings: FillTimings::default() }
    }

    /// Made behind another of the same picture, for the same request.
    #[must_use]
    pub fn after(self, first: &Self) -> Self {
        let outcome = if first.outcome == Outcome::Generated { first.outcome } else { self.outcome };
        let sum =
            [first.timings.render, self.timings.render].into_iter().flatten().reduce(|first, second| first + second);
        let timings = FillTimings { generate: first.timings.generate, render: sum, ..self.timings };
        Self { outcome, timings, ..self }
    }

    /// Shown in place of what is being made.
    #[must_use]
    pub fn stale(rendition: Arc<Rendition>, since: Duration) -> Self {
        Self { stale_for: Some(since), ..Self::found(rendition, Outcome::Stale) }
    }
}

/// One picture in one cut: what caches find it by and purges judge it by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut<'a> {
    pub(super) tags: &'a Tags,
    pub(super) recipe: RecipeId,
    pub(super) master: MasterId,
    pub(super) spec: &'a RenditionSpec,
    pub(super) finish: &'a Arc<Finish>,
    pub(super) binding: &'a Binding,
    /// The recipe, where it is known: of a previous picture only its id is.
    pub(super) made_of: Option<&'a MasterRecipe>,
}

impl<'a> Cut<'a> {
    pub(super) fn of(want: &'a Want, binding: &'a Binding) -> Self {
        let (recipe, master) = (want.recipe_id(), binding.master);
        Self {
            tags: want.tags(),
            recipe,
            master,
            spec: &want.spec,
            finish: &want.finish,
            binding,
            made_of: want.recipe(),
        }
    }

    pub(super) fn key(self) -> RenditionKey {
        RenditionKey::new(self.master, self.spec, self.finish.digest(), self.drawn())
    }

    /// What the picture may be kept under from before an upgrade, or from before signing was switched on.
    pub(super) fn former_keys(self) -> impl Iterator<Item = RenditionKey> {
        self.finish.formers().map(move |former| {
            let drawn = self.drawn().filter(|_| former.is_dated);
            RenditionKey::new(self.master, self.spec, former.digest, drawn)
        })
    }

    /// When the master was made.
    pub(super) fn drawn(self) -> Option<Moment> {
        self.binding.drawn()
    }

    pub(super) fn subject(self) -> Subject<'a> {
        Subject { tags: self.tags.all(), recipe: self.recipe, spec: self.spec }
    }
}

/// How and on whose account something is rendered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rendering {
    pub(super) rung: Rung,
    pub(super) precedence: Precedence,
    /// The purge generation from before the master was looked up.
    pub(super) generation: u64,
}

/// What was rendered, and what it took.
pub(super) struct Rendered {
    pub(super) rendition: Arc<Rendition>,
    /// CPU time.
    pub(super) cpu: Duration,
    /// `None` without layers.
    pub(super) layers: Option<LayersTiming>,
}

impl Fill {
    /// The rendition, made again as long as it is purged while it is made.
    pub(super) async fn rendition(self: &Arc<Self>, want: &Want, payer: Option<&Payer>) -> Result<Filled, FillError> {
        self.gate.clear(want, None)?;
        for _ in 0..OVERTAKEN_MAX {
            let filled = self.attempt(want, payer).await?;
            let is_valid = || self.purges.verdict(&want.subject(), &filled.rendition) == Verdict::Valid;
            if filled.stale_for.is_some() || is_valid() {
                self.remember(want);
                return Ok(filled);
            }
        }
        Err(FillError::Overtaken)
    }

    async fn attempt(self: &Arc<Self>, want: &Want, payer: Option<&Payer>) -> Result<Filled, FillError> {
        // It is read before anything is looked up: a purge from here on is later than what is made of it.
        let generation = self.purges.generation();
        let was_drawn = self.is_drawn(want);
        if let Some(filled) = self.at_hand(want).await {
            return Ok(filled);
        }
        let bound = self.masters.bound(want).await?;
        let cut = Cut::of(want, &bound.binding);
        // Another variant's master may be this one's, and have been cut already.
        if !was_drawn && let Some((tier, rendition, Verdict::Valid)) = self.find(cut).await {
            self.improve(&rendition, want);
            return Ok(Filled::found(rendition, tier.into()));
        }
        let rung = self.first_rung(&want.spec);
        let mut charge = payer.map(|payer| self.reserve(payer, want, rung)).transpose()?;
        let precedence = Precedence { urgency: want.urgency, owner: payer.map(|payer| payer.id) };
        let (decoded, binding) = self.masters.master_of(want, &bound.binding, precedence).await?;
        let started = Instant::now();
        let cut = Cut::of(want, &binding);
        // The pool may have fallen behind meanwhile.
        let rung = rung.min(self.first_rung(&want.spec));
        let how = Rendering { rung, precedence, generation };
        let Rendered { rendition, cpu, layers } = self.render(cut, &decoded, how).await?;
        self.keep(cut, &rendition);
        let last = charge.as_mut().map(|charge| {
            let last = charge.split(self.pool.costs.estimate(&want.spec, Rung::Final));
            charge.spend(decoded.cpu + cpu);
            last
        });
        self.improve_for(&rendition, want, last);
        let outcome = if bound.elapsed.is_some() { Outcome::Generated } else { Outcome::Rendered };
        let timings = FillTimings { generate: bound.elapsed, render: Some(started.elapsed()), layers };
        Ok(Filled { timings, ..Filled::found(rendition, outcome) })
    }

    /// Time for what a reader's request will cause: the first rung, and the final one behind it.
    fn reserve(&self, payer: &Payer, want: &Want, rung: Rung) -> Result<RenderCharge, OverBudget> {
        let cost = |rung| self.pool.costs.estimate(&want.spec, rung);
        let behind = if rung == Rung::Final { Duration::ZERO } else { cost(Rung::Final) };
        self.budgets.reserve(payer, cost(rung) + behind)
    }

    /// The previous picture in the wanted cut: from disk, or from its master if that is on this machine.
    ///
    /// # Errors
    /// When too many fills are under way.
    pub fn fly_previous(
        self: &Arc<Self>,
        want: &Want,
        previous: PreviousPicture,
        payer: &Payer,
    ) -> Result<FillTicket, FlightError> {
        let key = (previous.recipe, want.spec, want.finish.digest());
        let (fill, want, payer) = (Arc::clone(self), want.clone(), payer.clone());
        self.renditions.fly(key, move || async move { fill.cut_previous(&want, &previous, &payer).await })
    }

    async fn cut_previous(
        self: &Arc<Self>,
        want: &Want,
        previous: &PreviousPicture,
        payer: &Payer,
    ) -> Result<Filled, FillError> {
        self.gate.clear_former(&want.variant, previous.recipe, &previous.binding)?;
        let generation = self.purges.generation();
        let cut = previous.cut(want);
        if let Some((tier, rendition, verdict)) = self.find(cut).await
            && verdict != Verdict::Gone
        {
            return Ok(Filled::found(rendition, tier.into()));
        }
        // No manifest of it is kept: what it was made from is not known any more.
        let rung = self.first_rung(&want.spec);
        let rung = if cut.finish.is_signed() { rung.min(Rung::Quick) } else { rung };
        let mut charge = self.budgets.reserve(payer, self.pool.costs.estimate(&want.spec, rung))?;
        let precedence = Precedence { urgency: want.urgency, owner: Some(payer.id) };
        let id = cut.master;
        let decoded = self.masters.at_hand(id, precedence).await?.ok_or(OriginError::MasterAbsent { id })?;
        let Rendered { rendition, cpu, .. } =
            self.render(cut, &decoded, Rendering { rung, precedence, generation }).await?;
        charge.spend(decoded.cpu + cpu);
        // A stand-in is not worth a place on disk.
        self.enter_memory(cut, &rendition);
        Ok(Filled::found(rendition, Outcome::Rendered))
    }

    /// Signed as far as it can be. What is not signed although it should be is of the
    /// quick rung, whatever was asked for.
    pub(super) async fn render(
        &self,
        cut: Cut<'_>,
        decoded: &Decoded,
        Rendering { rung, precedence, generation }: Rendering,
    ) -> Result<Rendered, FillError> {
        let pixels = Arc::clone(decoded.master.pixels());
        let mut plan = self.credentials.plan(cut, rung).await;
        let job = RenderJob {
            master: cut.master,
            spec: *cut.spec,
            rung,
            finish: Arc::clone(cut.finish),
            drawn: cut.drawn(),
            manifest: plan.manifest.take(),
            lqip: self.lqip_ask(cut),
        };
        let (mut encoded, cpu) = self.pool.render(precedence, pixels, job).await?;
        if let Some(lqip) = encoded.lqip {
            self.learn_lqip(cut, lqip);
        }
        let layers = encoded.layers.take().map(|(report, elapsed)| self.laid.note(cut, report, elapsed));
        let (smaller_as, making) = (encoded.smaller_as, Making::of(&encoded));
        let sealed = self.credentials.seal(cut, encoded, plan).await?;
        let lineage = Lineage::now(cut.key(), cut.master, cut.recipe).at_generation(generation);
        let rendition = Rendition::new(sealed.bytes, *cut.spec, sealed.rung, lineage)
            .with_manifest(sealed.placement)
            .with_smaller(smaller_as)
            .with_making(Some(making));
        self.files.note(cut, rendition.facts());
        Ok(Rendered { rendition: Arc::new(rendition), cpu, layers })
    }

    /// The rung a reader who waits gets first.
    fn first_rung(&self, spec: &RenditionSpec) -> Rung {
        let load = if self.credentials.is_slow() { Load::Heavy } else { Load::Light };
        self.render_config.first_rung(spec, load.max(self.pool.load()))
    }

    /// Into memory now and into the tiers behind it without a wait, unless it has been purged meanwhile.
    pub(super) fn keep(&self, cut: Cut<'_>, rendition: &Arc<Rendition>) {
        if self.enter_memory(cut, rendition) != Insertion::Overtaken {
            self.caches.write_behind(cut.key(), rendition);
        }
    }

    fn enter_memory(&self, cut: Cut<'_>, rendition: &Arc<Rendition>) -> Insertion {
        let is_valid = |rendition: &Rendition| self.verdict(cut, rendition) == Verdict::Valid;
        self.caches.memory.insert_if(cut.key(), Arc::clone(rendition), is_valid)
    }

    /// Remembers that the variant is served with this recipe now, without a wait. Not of a draft: a previous picture may be shown to
    /// readers, and no reader is shown a draft.
    fn remember(self: &Arc<Self>, want: &Want) {
        if want.is_draft() {
            return;
        }
        let (variant, recipe) = (want.variant_name(), want.recipe_id());
        if self.caches.previous.get(variant) == Some(recipe) {
            return;
        }
        let caches = Arc::clone(&self.caches);
        tokio::spawn(async move {
            if let Err(error) = caches.previous.note(variant, recipe).await {
                log_limited!(warn, %recipe, %error, "what the variant is served with is not remembered");
            }
        });
    }
}

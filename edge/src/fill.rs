//! Getting a rendition that is not in memory: disk → master → node → render. What it costs is paid once.
//!
//! Two flights, one inside the other: one per rendition (recipe, spec, finish) and one per recipe, so that a
//! page that asks for three widths in two formats at once costs one generation and six encodes. Both run as
//! tasks of their own: a client that hangs up cancels nothing that others may want.
//!
//! A binding outlives its master: when the master is gone from this edge and from the node, the recipe is
//! generated anew and bound again.
//!
//! Whatever is found is asked whether it was purged since it was made; what a purge overtakes while it is made is made
//! once more. `stale` has what becomes of images between a soft purge and their replacement.

mod previous;
mod stale;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::log_limited;
use bildkante_shared::trace::TraceContext;
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{GenerationReply, GenerationSource};

use moka::Expiry;
use moka::sync::Cache;
use tracing::Instrument;

pub use self::stale::Peek;
use crate::budget::{Budgets, OverBudget, Payer, RenderCharge};
use crate::cache::{
    Binding, Caches, FlightError, FlightRole, Flights, Insertion, MasterError, MasterFile, Origin, Rendition,
    RenditionKey, Ticket, VerifiedMaster,
};
use crate::campaign::Variant;
use crate::config::Config;
use crate::governance::{Purges, Verdict};
use crate::origin::{OriginError, Regions};
use crate::render::{
    self, Finish, FinishDigest, PoolError, RenderConfig, RenderError, RenderJobError, RenderPool, RenditionSpec, Rung,
    Standing,
};
use crate::response::Outcome;

/// What a request came down to: which picture, cut how, finished how.
#[derive(Debug, Clone)]
pub struct Want {
    pub variant: Arc<Variant>,
    pub spec: RenditionSpec,
    pub finish: Arc<Finish>,
    pub urgency: Urgency,
    /// The reader's request it began with; none where nobody's did.
    pub trace: Option<Arc<TraceContext>>,
}

impl Want {
    /// For the node and the log lines of what is made for it.
    #[must_use]
    pub fn of_request(self, trace: &Arc<TraceContext>) -> Self {
        Self { trace: Some(Arc::clone(trace)), ..self }
    }

    /// What nodes are asked with: the reader's, else one of its own.
    fn trace_context(&self) -> Arc<TraceContext> {
        self.trace.clone().unwrap_or_else(|| Arc::new(TraceContext::start()))
    }

    #[must_use]
    pub fn recipe_id(&self) -> RecipeId {
        self.variant.recipe.id()
    }

    /// The rendition's key once its master is known.
    #[must_use]
    pub fn key(&self, master: MasterId) -> RenditionKey {
        RenditionKey::new(master, &self.spec, self.finish.digest())
    }
}

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

    fn found(rendition: Arc<Rendition>, outcome: Outcome) -> Self {
        Self { rendition, outcome, stale_for: None, timings: FillTimings::default() }
    }

    /// Shown in place of what is being made.
    #[must_use]
    pub fn stale(rendition: Arc<Rendition>, since: Duration) -> Self {
        Self { stale_for: Some(since), ..Self::found(rendition, Outcome::Stale) }
    }
}

/// Where the time of a fill went.
#[derive(Debug, Clone, Copy, Default)]
pub struct FillTimings {
    pub generate: Option<Duration>,
    pub render: Option<Duration>,
}

impl FillTimings {
    /// As `Server-Timing` wants them.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        let named = [("generate", self.generate), ("render", self.render)];
        named.into_iter().filter_map(|(name, duration)| Some((name, duration?)))
    }
}

/// Why there is no rendition now.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FillError {
    #[error("no node could make it: {0}")]
    Origin(Arc<OriginError>),
    #[error("the render pool refused it: {0}")]
    Pool(#[from] PoolError),
    #[error("it could not be rendered: {0}")]
    Render(Arc<RenderError>),
    #[error("its master is not what its id says: {0}")]
    Master(Arc<MasterError<RenderError>>),
    #[error("its flight ended without a result: {0}")]
    Flight(#[from] FlightError),
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    #[error("it was purged each time it had been made")]
    Overtaken,
}

impl FillError {
    /// One word for metrics, logs and `Cache-Status`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Origin(error) => error.as_str(),
            Self::Pool(error) => error.as_str(),
            Self::Render(_) => "render-failed",
            Self::Master(_) => "wrong-master",
            Self::Flight(error) => error.as_str(),
            Self::OverBudget(budget) => budget.as_str(),
            Self::Overtaken => "purged-meanwhile",
        }
    }

    /// How long a recipe that failed so is not asked for again: what nodes refuse of a recipe they will go on
    /// refusing; what ails nodes passes, and a queue says when.
    fn pause(&self) -> Duration {
        let Self::Origin(error) = self else { return REFUSAL_PAUSE };
        match &**error {
            OriginError::Refused { .. } | OriginError::Missing { .. } | OriginError::EndsDevices { .. } => {
                LASTING_REFUSAL_PAUSE
            }
            error => error.retry_after().unwrap_or(REFUSAL_PAUSE).clamp(REFUSAL_PAUSE, LASTING_REFUSAL_PAUSE),
        }
    }

    /// Whether a node was asked for a master it does not have.
    fn is_lost_master(&self) -> bool {
        matches!(self, Self::Master(_))
            || matches!(self, Self::Origin(error) if matches!(**error, OriginError::MasterAbsent { .. }))
    }
}

impl From<OriginError> for FillError {
    fn from(error: OriginError) -> Self {
        Self::Origin(Arc::new(error))
    }
}

impl From<RenderError> for FillError {
    fn from(error: RenderError) -> Self {
        Self::Render(Arc::new(error))
    }
}

impl From<RenderJobError> for FillError {
    fn from(error: RenderJobError) -> Self {
        match error {
            RenderJobError::Pool(error) => error.into(),
            RenderJobError::Render(error) => error.into(),
        }
    }
}

impl From<MasterError<RenderError>> for FillError {
    fn from(error: MasterError<RenderError>) -> Self {
        Self::Master(Arc::new(error))
    }
}

/// How long a quick rung is served before its final one is asked for again.
const IMPROVEMENT_PAUSE: Duration = Duration::from_secs(5);
/// How long a recipe that no node would draw is not asked for again.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);
/// The same where it is the recipe that is wrong, and the most for anything else.
const LASTING_REFUSAL_PAUSE: Duration = Duration::from_secs(10);
/// How often a fill that a purge overtakes begins again.
const OVERTAKEN_MAX: usize = 4;
/// How often a reader follows a leader whose budget ends before he leads himself or goes without.
const LEADERS_MAX: usize = 3;
/// Such recipes remembered at a time.
const REFUSALS_MAX: u64 = 10_000;

/// The key of a fill under way: what was asked for, before it is known which master that is.
type WantKey = (RecipeId, RenditionSpec, FinishDigest);

/// Everything behind the memory tier.
#[derive(Debug)]
pub struct Fill {
    pub caches: Caches,
    pub regions: Arc<Regions>,
    pub pool: RenderPool,
    render_config: RenderConfig,
    generation_deadline: Duration,
    renditions: Flights<WantKey, Result<Filled, FillError>>,
    /// By urgency too: a reader who wants what is being warmed asks for himself, and the node, which draws it once, then
    /// draws it at his urgency.
    generations: Flights<(RecipeId, Urgency), Result<Generated, FillError>>,
    /// With the CPU time their decoding took.
    masters: Flights<MasterId, Result<(Arc<VerifiedMaster>, Duration), FillError>>,
    /// For readers without budget: what is there already, and nothing is rendered.
    looks: Flights<WantKey, Result<Filled, FillError>>,
    /// Final rungs nobody waits for, or whoever warms.
    finals: Flights<RenditionKey, Result<Arc<Rendition>, FillError>>,
    /// Stale renditions being made anew, and those that are warmed.
    settling: Flights<WantKey, Result<Filled, FillError>>,
    pub purges: Purges,
    /// Recipes no node would draw a moment ago: asking again at request rate helps nobody.
    refused: Cache<RecipeId, FillError>,
    pub budgets: Budgets,
}

/// Refusals expire by what they are.
struct RefusalPause;

impl Expiry<RecipeId, FillError> for RefusalPause {
    fn expire_after_create(&self, _: &RecipeId, error: &FillError, _: Instant) -> Option<Duration> {
        Some(error.pause())
    }
}

/// A master, where it came from, and the CPU time its decoding took.
struct Obtained {
    master: Arc<VerifiedMaster>,
    source: MasterSource,
    cpu: Duration,
}

/// Where a master came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MasterSource {
    Disk,
    Shared,
    Node,
}

#[derive(Debug, Clone)]
struct Generated {
    binding: Arc<Binding>,
    /// `None` when the master was known already, here or at the node.
    elapsed: Option<Duration>,
}

impl Fill {
    #[must_use]
    pub fn new(
        caches: Caches,
        purges: Purges,
        regions: Arc<Regions>,
        pool: RenderPool,
        budgets: Budgets,
        config: &Config,
    ) -> Arc<Self> {
        let (most, longest) = (config.cache.flights_max, config.cache.flight_time_max());
        let gauge = &caches.metrics.flights;
        Arc::new(Self {
            renditions: Flights::new(most, longest, gauge.clone()),
            generations: Flights::new(most, longest, gauge.clone()),
            masters: Flights::new(most, longest, gauge.clone()),
            looks: Flights::new(most, longest, gauge.clone()),
            finals: Flights::new(most, longest, gauge.clone()),
            settling: Flights::new(config.purge.refreshes_max + crate::warm::CONCURRENCY_MAX, longest, gauge.clone()),
            purges,
            refused: Cache::builder().max_capacity(REFUSALS_MAX).expire_after(RefusalPause).build(),
            budgets,
            caches,
            regions,
            pool,
            render_config: config.render.clone(),
            generation_deadline: Duration::from_millis(config.serve.generation_deadline_ms),
        })
    }

    /// What a reader wants, within `wait`, on the reader's account.
    ///
    /// # Errors
    /// When it cannot be had in time, too many fills are under way, a budget is spent, or nodes refused the recipe a
    /// moment ago.
    pub async fn answer_within(
        self: &Arc<Self>,
        want: &Want,
        payer: &Payer,
        wait: Duration,
    ) -> Result<(Filled, FlightRole), FillError> {
        let deadline = Instant::now() + wait;
        let mut leaders = 0;
        loop {
            let ticket = self.ask(want, payer)?;
            let role = ticket.role();
            leaders += 1;
            match ticket.landed_within(deadline.saturating_duration_since(Instant::now())).await? {
                // The leader's budget has ended, not this reader's.
                Err(FillError::OverBudget(_)) if role == FlightRole::Follower && leaders < LEADERS_MAX => {}
                Err(FillError::OverBudget(budget)) => {
                    self.budgets.refuse(budget);
                    return Err(budget.into());
                }
                result => return result.map(|filled| (filled, role)),
            }
        }
    }

    fn ask(self: &Arc<Self>, want: &Want, payer: &Payer) -> Result<Ticket<Result<Filled, FillError>>, FillError> {
        let recipe = want.recipe_id();
        if !self.is_drawn(want) && !self.is_being_drawn(recipe) {
            if let Some(error) = self.refused.get(&recipe) {
                return Err(error);
            }
            self.budgets.can_render(payer).inspect_err(|budget| self.budgets.refuse(*budget))?;
            self.budgets.spend(recipe, payer)?;
        }
        Ok(self.fly_for(want, payer)?)
    }

    /// As [`Self::fly`] on a reader's account. Without budget it joins a fill under way or finds what is there, and leads
    /// no fill that others would wait for in vain.
    ///
    /// # Errors
    /// When too many fills are under way.
    pub fn fly_for(
        self: &Arc<Self>,
        want: &Want,
        payer: &Payer,
    ) -> Result<Ticket<Result<Filled, FillError>>, FlightError> {
        let key = (want.recipe_id(), want.spec, want.finish.digest());
        let (fill, want) = (Arc::clone(self), want.clone());
        match self.budgets.can_render(payer) {
            Err(budget) if !self.renditions.is_flying(&key) => {
                let look = move || async move { fill.at_hand(&want).await.ok_or_else(|| budget.into()) };
                self.looks.fly(key, look)
            }
            _ => self.fly(want, Some(payer.clone())),
        }
    }

    /// At whatever urgency.
    fn is_being_drawn(&self, recipe: RecipeId) -> bool {
        (0..=Urgency::LEAST.get())
            .filter_map(Urgency::new)
            .any(|urgency| self.generations.is_flying(&(recipe, urgency)))
    }

    /// Starts or joins the fill of a rendition; it goes on when the ticket is dropped.
    ///
    /// # Errors
    /// When too many fills are under way.
    fn fly(
        self: &Arc<Self>,
        want: Want,
        payer: Option<Payer>,
    ) -> Result<Ticket<Result<Filled, FillError>>, FlightError> {
        let key = (want.recipe_id(), want.spec, want.finish.digest());
        let (fill, want) = (Arc::clone(self), Arc::new(want));
        self.renditions.fly_handing_over(key, move || {
            let (fill, want, payer) = (Arc::clone(&fill), Arc::clone(&want), payer.clone());
            async move { fill.rendition(&want, payer.as_ref()).await }
        })
    }

    async fn rendition(self: &Arc<Self>, want: &Want, payer: Option<&Payer>) -> Result<Filled, FillError> {
        for _ in 0..OVERTAKEN_MAX {
            let filled = self.attempt(want, payer).await?;
            if filled.stale_for.is_some() || self.verdict(want, &filled.rendition) == Verdict::Valid {
                self.remember(want);
                return Ok(filled);
            }
        }
        Err(FillError::Overtaken)
    }

    async fn attempt(self: &Arc<Self>, want: &Want, payer: Option<&Payer>) -> Result<Filled, FillError> {
        // Before anything is looked at: a purge from here on is later than what is made of it.
        let generation = self.purges.generation();
        let was_drawn = self.is_drawn(want);
        if let Some(filled) = self.at_hand(want).await {
            return Ok(filled);
        }
        let generated = self.bound(want).await?;
        let key = want.key(generated.binding.master);
        // Another variant's master may be this one's, and have been cut already.
        if !was_drawn && let Some((tier, rendition, Verdict::Valid)) = self.find(key, want).await {
            self.improve(&rendition, want);
            return Ok(Filled::found(rendition, tier.into()));
        }
        let rung = self.render_config.first_rung(&want.spec);
        let mut charge = payer.map(|payer| self.reserve(payer, want, rung)).transpose()?;
        let standing = Standing { urgency: want.urgency, owner: payer.map(|payer| payer.id) };
        let (master, decoding) = self.master_of(want, &generated.binding, standing).await?;
        let started = Instant::now();
        let (rendition, rendering) = self.render(want, &master, rung, standing, generation).await?;
        self.keep(want, Arc::clone(&rendition));
        let last = charge.as_mut().map(|charge| {
            let last = charge.split(self.pool.costs.estimate(&want.spec, Rung::Final));
            charge.spend(decoding + rendering);
            last
        });
        self.improve_for(&rendition, want, last);
        let outcome = if generated.elapsed.is_some() { Outcome::Generated } else { Outcome::Rendered };
        let timings = FillTimings { generate: generated.elapsed, render: Some(started.elapsed()) };
        Ok(Filled { timings, ..Filled::found(rendition, outcome) })
    }

    /// Time for what a reader's request will cause: the first rung, and the final one behind it.
    fn reserve(&self, payer: &Payer, want: &Want, rung: Rung) -> Result<RenderCharge, OverBudget> {
        let rungs = Rung::ALL.into_iter().filter(|each| *each >= rung);
        let estimate = rungs.map(|rung| self.pool.costs.estimate(&want.spec, rung)).sum();
        self.budgets.reserve(payer, estimate)
    }

    /// The master a recipe is bound to, asking a node when it is bound to none.
    async fn bound(self: &Arc<Self>, want: &Want) -> Result<Generated, FillError> {
        for _ in 0..OVERTAKEN_MAX {
            let generated = self.bound_once(want).await?;
            // One that was asked for before its master was purged is not what comes after it.
            if self.is_current(want, &generated.binding) {
                return Ok(generated);
            }
        }
        Err(FillError::Overtaken)
    }

    async fn bound_once(self: &Arc<Self>, want: &Want) -> Result<Generated, FillError> {
        if let Some(binding) = self.binding(want) {
            return Ok(Generated { binding, elapsed: None });
        }
        if let Some(error) = self.refused.get(&want.recipe_id()) {
            return Err(error);
        }
        let (fill, asked) = (Arc::clone(self), Arc::new(want.clone()));
        let ticket = self.generations.fly_handing_over((want.recipe_id(), want.urgency), move || {
            let (fill, asked) = (Arc::clone(&fill), Arc::clone(&asked));
            async move { fill.generate(&asked).await }
        })?;
        ticket.landed().await?
    }

    async fn generate(&self, want: &Want) -> Result<Generated, FillError> {
        let trace = want.trace_context();
        // Whatever is logged at any level below here names the request.
        let span = tracing::error_span!("generate", request = %trace.request, trace = %trace.parent.trace);
        let result = self.generate_now(want, &trace).instrument(span).await;
        self.budgets.settled(want.recipe_id());
        result
    }

    async fn generate_now(&self, want: &Want, trace: &TraceContext) -> Result<Generated, FillError> {
        let (started, generation) = (Instant::now(), self.purges.generation());
        let (recipe, dedup) = (&want.variant.recipe, Some(want.variant.dedup.clone()));
        let judge = |binding: &mut Binding| {
            binding.generation = self.purges.generation_at(binding.created_unix_ms);
            self.purges.binding_verdict(&want.subject(), binding) == Verdict::Valid
        };
        if let Some(binding) = self.caches.shared_binding(recipe.id(), &judge).await {
            return Ok(Generated { binding, elapsed: None });
        }
        let reply = self
            .regions
            .generate(recipe, dedup, want.urgency, self.generation_deadline, trace)
            .await
            .map_err(FillError::from)
            .inspect_err(|error| {
                log_limited!(warn, recipe = %recipe.id(), %error, "generation failed");
                self.refused.insert(recipe.id(), error.clone());
            })?;
        let elapsed = (reply.source != GenerationSource::Stored).then(|| started.elapsed());
        log_limited!(
            info,
            recipe = %reply.recipe_id, master = %reply.master.id, source = reply.source.as_str(),
            duplicate_of_another = reply.duplicate.is_some(), node = %reply.node,
            elapsed_ms = started.elapsed().as_millis(), "generation answered"
        );
        let binding = binding_of(reply, generation);
        let master = match self.caches.object {
            // Other edges will ask the store for it.
            Some(_) => {
                self.obtain(want, binding.master, want.urgency.into()).await.ok().map(|obtained| obtained.master)
            }
            None => None,
        };
        let binding = self.caches.bind(recipe.id(), binding, master.as_deref(), &judge).await;
        Ok(Generated { binding, elapsed })
    }

    /// The master of a binding; one that is lost everywhere is drawn anew and bound again.
    async fn master_of(
        self: &Arc<Self>,
        want: &Want,
        binding: &Binding,
        standing: Standing,
    ) -> Result<(Arc<VerifiedMaster>, Duration), FillError> {
        let error = match self.master(want, binding.master, standing).await {
            Err(error) if error.is_lost_master() => error,
            result => return result,
        };
        let recipe = want.recipe_id();
        log_limited!(warn, %recipe, master = %binding.master, %error, "master is lost, drawing it anew");
        if let Err(error) = self.caches.unbind(want.recipe_id(), binding.master).await {
            log_limited!(error, recipe = %want.recipe_id(), %error, "binding could not be removed");
        }
        let again = self.bound(want).await?;
        self.master(want, again.binding.master, standing).await
    }

    /// A master for as many renditions as are cut from it at the same time, and the CPU time this one of them answers for.
    async fn master(
        self: &Arc<Self>,
        want: &Want,
        id: MasterId,
        standing: Standing,
    ) -> Result<(Arc<VerifiedMaster>, Duration), FillError> {
        let (fill, want) = (Arc::clone(self), want.clone());
        let fetch = move || {
            let (fill, want) = (Arc::clone(&fill), want.clone());
            async move { fill.fetch(&want, id, standing).await }
        };
        let ticket = self.masters.fly_handing_over(id, fetch)?;
        let role = ticket.role();
        let (master, cpu) = ticket.landed().await??;
        Ok((master, if role == FlightRole::Leader { cpu } else { Duration::ZERO }))
    }

    /// A master from wherever it is, and then it is here and in the shared store.
    async fn fetch(
        &self,
        want: &Want,
        id: MasterId,
        standing: Standing,
    ) -> Result<(Arc<VerifiedMaster>, Duration), FillError> {
        let Obtained { master, source, cpu } = self.obtain(want, id, standing).await?;
        if let (Some(object), MasterSource::Node) = (self.caches.object.clone(), source) {
            let master = Arc::clone(&master);
            tokio::spawn(async move { object.put_master(&master).await });
        }
        Ok((master, cpu))
    }

    /// From disk, else from the shared store, else from a node; its pixels are compared with its id in any case.
    async fn obtain(&self, want: &Want, id: MasterId, standing: Standing) -> Result<Obtained, FillError> {
        if let Some(file) = self.caches.masters.get(id).await.hit() {
            match self.verify(file, standing).await {
                Err(FillError::Master(error)) => {
                    log_limited!(warn, master = %id, %error, "stored master is unusable, fetching it again");
                    let _ = self.caches.masters.reject(id, error.to_string()).await;
                }
                result => return result.map(|(master, cpu)| Obtained { master, source: MasterSource::Disk, cpu }),
            }
        }
        if let Some(object) = &self.caches.object
            && let Some(file) = object.master(id).await.hit()
        {
            match self.verify(file, standing).await {
                Err(FillError::Master(error)) => object.reject_master(id, &error.to_string()),
                Err(error) => return Err(error),
                Ok((master, cpu)) => {
                    self.keep_master(&master).await;
                    return Ok(Obtained { master, source: MasterSource::Shared, cpu });
                }
            }
        }
        let trace = want.trace_context();
        let file = self.regions.master(id, want.recipe_id(), self.generation_deadline, &trace).await?;
        let (master, cpu) = self.verify(file, standing).await?;
        self.keep_master(&master).await;
        Ok(Obtained { master, source: MasterSource::Node, cpu })
    }

    async fn keep_master(&self, master: &VerifiedMaster) {
        if let Err(error) = self.caches.masters.put(master).await {
            log_limited!(warn, master = %master.id(), %error, "master could not be stored");
        }
    }

    async fn verify(&self, file: MasterFile, standing: Standing) -> Result<(Arc<VerifiedMaster>, Duration), FillError> {
        let (verified, cpu) = self.pool.run_timed(standing, move || file.verify(render::decode_master)).await?;
        Ok((Arc::new(verified?), cpu))
    }

    /// With the CPU time it took.
    async fn render(
        &self,
        want: &Want,
        master: &Arc<VerifiedMaster>,
        rung: Rung,
        standing: Standing,
        generation: u64,
    ) -> Result<(Arc<Rendition>, Duration), FillError> {
        let (pixels, finish) = (Arc::clone(master.pixels()), Arc::clone(&want.finish));
        let (encoded, cpu) = self.pool.render(standing, pixels, want.spec, rung, finish).await?;
        let origin = Origin::now(master.id(), want.recipe_id()).at_generation(generation);
        Ok((Arc::new(Rendition::new(encoded.bytes.into(), want.spec, rung, origin)), cpu))
    }

    /// Into memory now, into the tiers behind it without a wait; unless it has been purged meanwhile.
    fn keep(self: &Arc<Self>, want: &Want, rendition: Arc<Rendition>) {
        let key = want.key(rendition.master);
        let is_valid = |rendition: &Rendition| self.verdict(want, rendition) == Verdict::Valid;
        if self.caches.memory.insert_if(key, Arc::clone(&rendition), is_valid) == Insertion::Overtaken {
            return;
        }
        self.caches.write_behind(key, &rendition);
    }

    /// Encodes the final rung behind a quick one, least urgent of all and once per key at a time. When there is
    /// no room for it now, a reader of the quick one asks again after [`IMPROVEMENT_PAUSE`].
    pub fn improve(self: &Arc<Self>, current: &Rendition, want: &Want) {
        self.improve_for(current, want, None);
    }

    /// The same on a reader's account. He pays once, also when there is no room for it now and it is rendered later.
    fn improve_for(self: &Arc<Self>, current: &Rendition, want: &Want, mut charge: Option<RenderCharge>) {
        if current.rung == Rung::Final || !current.claim_improvement(IMPROVEMENT_PAUSE) {
            return;
        }
        if let Some(charge) = &mut charge
            && !self.finals.is_flying(&want.key(current.master))
        {
            charge.keep();
        }
        // It is cut from the same master, so it is as old.
        let _ = self.finish(want, current.master, current.generation, charge);
    }

    /// The final rung of a master that is bound, for as many as want it. Who joins one under way is not charged.
    fn finish(
        self: &Arc<Self>,
        want: &Want,
        id: MasterId,
        generation: u64,
        mut charge: Option<RenderCharge>,
    ) -> Result<Ticket<Result<Arc<Rendition>, FillError>>, FlightError> {
        let (fill, want) = (Arc::clone(self), want.clone());
        self.finals.fly(want.key(id), move || async move {
            let standing = Standing { urgency: Urgency::LEAST, owner: charge.as_ref().map(RenderCharge::owner) };
            let finished = async {
                let (master, decoding) = fill.master(&want, id, standing).await?;
                let (rendition, rendering) = fill.render(&want, &master, Rung::Final, standing, generation).await?;
                if let Some(charge) = &mut charge {
                    charge.spend(decoding + rendering);
                }
                Ok(rendition)
            };
            let result = finished.await;
            match &result {
                Ok(rendition) => fill.keep(&want, Arc::clone(rendition)),
                Err(error) => tracing::debug!(recipe = %want.recipe_id(), %error, "final rung put off"),
            }
            result
        })
    }
}

impl From<crate::cache::Tier> for Outcome {
    fn from(tier: crate::cache::Tier) -> Self {
        match tier {
            crate::cache::Tier::Memory => Self::Memory,
            crate::cache::Tier::Disk => Self::Disk,
            crate::cache::Tier::Object => Self::Object,
        }
    }
}

impl From<FlightRole> for crate::response::Collapse {
    fn from(role: FlightRole) -> Self {
        match role {
            FlightRole::Leader => Self::Led,
            FlightRole::Follower => Self::Collapsed,
        }
    }
}

fn binding_of(reply: GenerationReply, generation: u64) -> Binding {
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Binding {
        master: reply.master.id,
        width_px: reply.master.width_px,
        height_px: reply.master.height_px,
        phash: reply.master.phash,
        duplicate: reply.duplicate,
        node: reply.node,
        generation,
        created_unix_ms: u64::try_from(created.as_millis()).unwrap_or(u64::MAX),
    }
}

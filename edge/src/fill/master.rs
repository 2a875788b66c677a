//! The master of a recipe: known by its binding, made by the origin, or fetched, and verified in any case.
//!
//! Invariants: one generation per recipe and urgency at a time, and one fetch per master and urgency; pixels are compared with the
//! master's id before they are used; a recipe that the origin refused is not asked for again at request rate; a binding is
//! judged by the purges in force after it was made.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::import::MasterRecipe;
use bildkante_shared::log_limited;
use bildkante_shared::trace::TraceContext;
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::GenerationSource;
use moka::Expiry;
use moka::sync::Cache;
use tracing::Instrument;

use super::{FillError, OVERTAKEN_MAX, Want};
use crate::budget::Budgets;
use crate::cache::{Binding, Caches, FlightRole, Flights, Lqips, MasterFile, Used, VerifiedMaster};
use crate::campaign::Parts;
use crate::governance::{Gate, Purges, Verdict};
use crate::origin::{ImportFault, Made, Order, Origin, OriginError};
use crate::render::{self, Precedence, RenderPool};

/// Recipes remembered as refused.
const REFUSALS_MAX: u64 = 10_000;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Mastering {
    pub(super) caches: Arc<Caches>,
    pub(super) purges: Purges,
    pub(super) gate: Gate,
    pub(super) budgets: Arc<Budgets>,
    pub(super) origin: Arc<dyn Origin<MasterRecipe>>,
    pub(super) pool: Arc<RenderPool>,
    /// Longest call of the origin.
    pub(super) deadline: Duration,
    /// By urgency too: a reader who wants a picture that is being warmed asks at the reader's own urgency. The node, which
    /// draws it once, then draws it at that urgency.
    pub(super) generations: Flights<(RecipeId, Urgency), Result<Bound, FillError>>,
    /// By urgency as well: a reader does not wait for a decoding that waits behind all readers.
    pub(super) fetches: Flights<(MasterId, Urgency), Result<Decoded, FillError>>,
    /// Recipes that the origin refused a moment ago.
    pub(super) refused: Cache<RecipeId, FillError>,
}

/// A recipe's binding.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    pub(super) binding: Arc<Binding>,
    /// How long the making took; `None` when the master was known already, here or at the origin.
    pub(super) elapsed: Option<Duration>,
}

/// A verified master, and the CPU time of its decoding that the caller answers for.
#[derive(Debug, Clone)]
pub(super) struct Decoded {
    pub(super) master: Arc<VerifiedMaster>,
    pub(super) cpu: Duration,
}

/// Where a master was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FoundAt {
    /// In memory or on disk.
    Here,
    SharedStore,
    Origin,
}

/// How long a refusal is remembered follows from what it is.
struct RefusalPause;

impl Expiry<RecipeId, FillError> for RefusalPause {
    fn expire_after_create(&self, _: &RecipeId, error: &FillError, _: Instant) -> Option<Duration> {
        Some(error.pause())
    }
}

pub(super) fn refusals() -> Cache<RecipeId, FillError> {
    Cache::builder().max_capacity(REFUSALS_MAX).expire_after(RefusalPause).build()
}

impl Mastering {
    /// The binding, unless masters were purged since.
    pub(super) fn binding(&self, want: &Want) -> Option<Arc<Binding>> {
        if let Some(decided) = &want.decided {
            return Some(Arc::clone(&decided.binding));
        }
        self.caches.bindings.get(want.recipe_id()).filter(|binding| self.is_current(want, binding))
    }

    /// The binding, also one that is only good for finding what may still be shown.
    pub(super) fn any_binding(&self, want: &Want) -> Option<Arc<Binding>> {
        if let Some(decided) = &want.decided {
            return Some(Arc::clone(&decided.binding));
        }
        let binding = self.caches.bindings.get(want.recipe_id())?;
        let verdict = self.purges.binding_verdict(&want.subject(), &binding);
        (verdict != Verdict::Gone).then_some(binding)
    }

    fn is_current(&self, want: &Want, binding: &Binding) -> bool {
        // Another's master is not that of a picture that people split.
        let is_shared = binding.duplicate.is_some() && self.is_apart(want);
        !is_shared && self.purges.binding_verdict(&want.subject(), binding) == Verdict::Valid
    }

    /// Whether it is never another variant's picture: what people decide about, and what they split.
    fn is_apart(&self, want: &Want) -> bool {
        want.variant.review.is_required() || self.gate.is_split(&want.variant)
    }

    /// At any urgency.
    pub(super) fn is_being_drawn(&self, recipe: RecipeId) -> bool {
        (0..=Urgency::LEAST.get())
            .filter_map(Urgency::new)
            .any(|urgency| self.generations.is_flying(&(recipe, urgency)))
    }

    /// Why the origin did not make the recipe a moment ago.
    pub(super) fn refusal(&self, recipe: RecipeId) -> Option<FillError> {
        self.refused.get(&recipe)
    }

    /// The master a recipe is bound to. The origin is asked when it is bound to none.
    pub(super) async fn bound(self: &Arc<Self>, want: &Want) -> Result<Bound, FillError> {
        for _ in 0..OVERTAKEN_MAX {
            let bound = self.bound_once(want).await?;
            self.gate.clear(want, Some(bound.binding.master))?;
            // A master that was asked for before it was purged is not the one that follows the purge.
            if want.decided.is_some() || self.is_current(want, &bound.binding) {
                return Ok(bound);
            }
        }
        Err(FillError::Overtaken)
    }

    async fn bound_once(self: &Arc<Self>, want: &Want) -> Result<Bound, FillError> {
        // What was decided is never drawn anew.
        if let Some(decided) = &want.decided {
            return Ok(Bound { binding: Arc::clone(&decided.binding), elapsed: None });
        }
        // Nothing is asked for a picture that no person has brought yet.
        if let MasterRecipe::Awaited(_) = want.variant.recipe {
            return Err(OriginError::from(ImportFault::Awaited).into());
        }
        if let Some(binding) = self.binding(want) {
            return Ok(Bound { binding, elapsed: None });
        }
        if let Some(error) = self.refusal(want.recipe_id()) {
            return Err(error);
        }
        let (masters, asked) = (Arc::clone(self), Arc::new(want.clone()));
        let ticket = self.generations.fly_handing_over((want.recipe_id(), want.urgency), move || {
            let (masters, asked) = (Arc::clone(&masters), Arc::clone(&asked));
            async move { masters.generate(&asked).await }
        })?;
        ticket.landed().await?
    }

    async fn generate(&self, want: &Want) -> Result<Bound, FillError> {
        let trace = want.trace_context();
        // The master that is fetched behind a generation has the same trace.
        let want = &want.clone().of_request(&trace);
        // Log lines of every level below name the request.
        let span = tracing::error_span!("generate", request = %trace.request, trace = %trace.parent.trace);
        let result = self.generate_now(want, &trace).instrument(span).await;
        self.budgets.settled(want.recipe_id());
        result
    }

    async fn generate_now(&self, want: &Want, trace: &TraceContext) -> Result<Bound, FillError> {
        let (started, generation) = (Instant::now(), self.purges.generation());
        let recipe = want.recipe_id();
        let judge = |binding: &mut Binding| {
            binding.generation = self.purges.generation_at(binding.created_unix_ms);
            self.is_current(want, binding)
        };
        if let Some(binding) = self.caches.shared_binding(recipe, &judge).await {
            return Ok(Bound { binding, elapsed: None });
        }
        let made = self.make(want, trace).await?;
        let elapsed = (made.source != GenerationSource::Stored).then(|| started.elapsed());
        log_limited!(
            info,
            %recipe, master = %made.master, source = made.source.as_str(),
            duplicate_of_another = made.duplicate.is_some(), node = %made.maker,
            elapsed_ms = started.elapsed().as_millis(), "generation answered"
        );
        let binding = binding_of(made, &want.variant.parts, generation);
        let master = match self.caches.object {
            // Other edges will ask the store for it.
            Some(_) => {
                self.obtain(want, binding.master, want.urgency.into()).await.ok().map(|(decoded, _)| decoded.master)
            }
            None => None,
        };
        let binding = self.caches.bind(recipe, binding, master.as_deref(), &judge).await;
        Ok(Bound { binding, elapsed })
    }

    async fn make(&self, want: &Want, trace: &TraceContext) -> Result<Made, FillError> {
        let recipe = want.recipe_id();
        // What was killed since it was asked for is not drawn.
        self.gate.clear(want, None)?;
        // A draft is drawn for itself. Where readers have its very recipe already, it is their picture: no draft takes that away.
        let may_merge = !self.is_apart(want) && !want.is_draft();
        let dedup = may_merge.then(|| want.variant.dedup.clone());
        let order = Order { dedup, ..self.order(want, trace) };
        let made = self.origin.make(&want.variant.recipe, order).await;
        made.map_err(FillError::from).inspect_err(|error| {
            log_limited!(warn, %recipe, %error, "generation failed");
            self.refused.insert(recipe, error.clone());
        })
    }

    fn order<'a>(&self, want: &Want, trace: &'a TraceContext) -> Order<'a> {
        Order { dedup: None, urgency: want.urgency, deadline: self.deadline, trace }
    }

    /// The master of a binding, and the binding that stands then: a master that is lost everywhere is drawn anew and bound
    /// again.
    pub(super) async fn master_of(
        self: &Arc<Self>,
        want: &Want,
        binding: &Arc<Binding>,
        precedence: Precedence,
    ) -> Result<(Decoded, Arc<Binding>), FillError> {
        let error = match self.master(want, binding.master, precedence).await {
            Err(error) if error.is_lost_master() && want.decided.is_none() => error,
            result => return Ok((result?, Arc::clone(binding))),
        };
        let recipe = want.recipe_id();
        log_limited!(warn, %recipe, master = %binding.master, %error, "master is lost, drawing it anew");
        if let Err(error) = self.caches.unbind(recipe, binding.master).await {
            log_limited!(error, %recipe, %error, "binding could not be removed");
        }
        let again = self.bound(want).await?;
        Ok((self.master(want, again.binding.master, precedence).await?, again.binding))
    }

    /// A master for all renditions that are cut from it at the same time and urgency. The first of them answers for its decoding.
    pub(super) async fn master(
        self: &Arc<Self>,
        want: &Want,
        id: MasterId,
        precedence: Precedence,
    ) -> Result<Decoded, FillError> {
        let (masters, want) = (Arc::clone(self), want.clone());
        let fetch = move || {
            let (masters, want) = (Arc::clone(&masters), want.clone());
            async move { masters.fetch(&want, id, precedence).await }
        };
        let ticket = self.fetches.fly_handing_over((id, precedence.urgency), fetch)?;
        let role = ticket.role();
        let decoded = ticket.landed().await??;
        Ok(if role == FlightRole::Leader { decoded } else { Decoded { cpu: Duration::ZERO, ..decoded } })
    }

    /// A master from wherever it is. Afterwards it is here and in the shared store.
    async fn fetch(&self, want: &Want, id: MasterId, precedence: Precedence) -> Result<Decoded, FillError> {
        let (decoded, place) = self.obtain(want, id, precedence).await?;
        if let (Some(object), FoundAt::Origin) = (self.caches.object.clone(), place) {
            let master = Arc::clone(&decoded.master);
            tokio::spawn(async move { object.put_master(&master).await });
        }
        Ok(decoded)
    }

    /// From this machine, else from the shared store, else from the origin; its pixels are compared with its id in any case.
    async fn obtain(&self, want: &Want, id: MasterId, precedence: Precedence) -> Result<(Decoded, FoundAt), FillError> {
        match self.at_hand(id, precedence).await {
            Err(FillError::Master(error)) => {
                log_limited!(warn, master = %id, %error, "stored master is unusable, fetching it again");
                let _ = self.caches.masters.reject(id, error.to_string()).await;
            }
            Err(error) => return Err(error),
            Ok(Some(decoded)) => return Ok((decoded, FoundAt::Here)),
            Ok(None) => {}
        }
        if let Some(object) = &self.caches.object
            && let Some(file) = object.master(id).await.hit()
        {
            match self.verify(file, precedence).await {
                Err(FillError::Master(error)) => object.reject_master(id, &error.to_string()),
                Err(error) => return Err(error),
                Ok(decoded) => {
                    self.keep_master(&decoded.master).await;
                    return Ok((decoded, FoundAt::SharedStore));
                }
            }
        }
        let trace = want.trace_context();
        let file = self.origin.master(id, &want.variant.recipe, self.order(want, &trace)).await?;
        let decoded = self.verify(file, precedence).await?;
        self.keep_master(&decoded.master).await;
        Ok((decoded, FoundAt::Origin))
    }

    /// From this machine's memory or disk, if it is there. What is still decoded is free.
    pub(super) async fn at_hand(&self, id: MasterId, precedence: Precedence) -> Result<Option<Decoded>, FillError> {
        let used = self.caches.masters.note_use(id);
        if used != Used::Due
            && let Some(master) = self.caches.decoded.get(id)
        {
            // What could not be stored is tried again while it is here.
            if used == Used::Absent {
                self.keep_master(&master).await;
            }
            return Ok(Some(Decoded { master, cpu: Duration::ZERO }));
        }
        match self.caches.masters.get(id).await.hit() {
            Some(file) => self.verify(file, precedence).await.map(Some),
            None => Ok(None),
        }
    }

    async fn keep_master(&self, master: &VerifiedMaster) {
        if let Err(error) = self.caches.masters.put(master).await {
            log_limited!(warn, master = %master.id(), %error, "master could not be stored");
        }
    }

    async fn verify(&self, file: MasterFile, precedence: Precedence) -> Result<Decoded, FillError> {
        let (verified, cpu) = self.pool.run_timed(precedence, move || file.verify(render::decode_master)).await?;
        let master = Arc::new(verified?);
        self.caches.decoded.keep(&master);
        Ok(Decoded { master, cpu })
    }
}

fn binding_of(made: Made, parts: &Arc<Parts>, generation: u64) -> Binding {
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Binding {
        master: made.master,
        width_px: made.width_px,
        height_px: made.height_px,
        phash: made.phash,
        duplicate: made.duplicate,
        node: made.maker,
        drawn_unix_s: made.drawn_unix_s,
        determinism: made.determinism,
        device_ms: made.device_ms,
        generation,
        parts: Some(Arc::clone(parts)),
        lqips: Lqips::default(),
        created_unix_ms: u64::try_from(created.as_millis()).unwrap_or(u64::MAX),
    }
}

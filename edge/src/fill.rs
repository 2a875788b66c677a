//! Getting a rendition that is not in memory: disk → master → node → render. What it costs is paid once.
//!
//! Two flights, one inside the other: one per rendition (recipe, spec, marking) and one per recipe, so that a
//! page that asks for three widths in two formats at once costs one generation and six encodes. Both run as
//! tasks of their own: a client that hangs up cancels nothing that others may want.
//!
//! A binding outlives its master: when the master is gone from this edge and from the node, the recipe is
//! generated anew and bound again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::pixels::Pixels;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{DedupScope, GenerationSource};

use crate::cache::{
    Binding, Bindings, DiskTier, FlightError, Flights, Masters, MemoryTier, Rendition, RenditionKey,
};
use crate::origin::{OriginError, Region};
use crate::provenance::Marking;
use crate::render::{self, PoolError, RenderError, RenderPool, RenditionSpec, Rung};
use crate::response::Outcome;

/// What a request came down to: which picture, cut how, marked how.
#[derive(Debug, Clone)]
pub struct Want {
    pub recipe: Arc<ValidRecipe>,
    pub dedup: Option<DedupScope>,
    pub spec: RenditionSpec,
    pub marking: Arc<Marking>,
    pub urgency: Urgency,
}

/// A rendition and how it was come by.
#[derive(Debug, Clone)]
pub struct Filled {
    pub rendition: Arc<Rendition>,
    pub outcome: Outcome,
    pub timings: FillTimings,
}

/// Where the time of a fill went.
#[derive(Debug, Clone, Copy, Default)]
pub struct FillTimings {
    pub generate: Option<Duration>,
    pub render: Option<Duration>,
}

impl FillTimings {
    /// As `Server-Timing` wants them.
    #[must_use]
    pub fn entries(&self) -> Vec<(&'static str, Duration)> {
        [("generate", self.generate), ("render", self.render)]
            .into_iter()
            .filter_map(|(name, duration)| duration.map(|duration| (name, duration)))
            .collect()
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
    #[error("its flight ended without a result: {0}")]
    Flight(#[from] FlightError),
}

impl FillError {
    /// One word for metrics, logs and `Cache-Status`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Origin(error) => error.as_str(),
            Self::Pool(error) => error.as_str(),
            Self::Render(_) => "render_failed",
            Self::Flight(error) => error.as_str(),
        }
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

/// The key of a fill in flight: what was asked for, before it is known which master that is.
type WantKey = (RecipeId, RenditionSpec, [u8; 16]);

/// Everything behind the memory tier.
#[derive(Debug)]
pub struct Fill {
    pub memory: MemoryTier,
    pub disk: DiskTier,
    pub masters: Masters,
    pub bindings: Bindings,
    pub region: Region,
    pub pool: RenderPool,
    pub generation_deadline: Duration,
    renditions: Flights<WantKey, Result<Filled, FillError>>,
    generations: Flights<RecipeId, Result<Generated, FillError>>,
    upgrades: Flights<RenditionKey, ()>,
    final_inline_px_max: u64,
}

/// The stores and services a fill works with.
#[derive(Debug)]
pub struct FillParts {
    pub memory: MemoryTier,
    pub disk: DiskTier,
    pub masters: Masters,
    pub bindings: Bindings,
    pub region: Region,
    pub pool: RenderPool,
    pub generation_deadline: Duration,
    pub fills_max: usize,
    pub final_inline_px_max: u64,
}

#[derive(Debug, Clone)]
struct Generated {
    binding: Binding,
    elapsed: Option<Duration>,
}

impl Fill {
    #[must_use]
    pub fn new(parts: FillParts) -> Arc<Self> {
        Arc::new(Self {
            memory: parts.memory,
            disk: parts.disk,
            masters: parts.masters,
            bindings: parts.bindings,
            region: parts.region,
            pool: parts.pool,
            generation_deadline: parts.generation_deadline,
            renditions: Flights::new(parts.fills_max),
            generations: Flights::new(parts.fills_max),
            upgrades: Flights::new(parts.fills_max),
            final_inline_px_max: parts.final_inline_px_max,
        })
    }

    /// The rendition if it is in memory: the hit path.
    #[must_use]
    pub fn peek(&self, want: &Want) -> Option<Arc<Rendition>> {
        let binding = self.bindings.get(want.recipe.id())?;
        self.memory.get(&want.key(binding.master))
    }

    /// Whether the picture exists, so that only rendering is left to do.
    #[must_use]
    pub fn is_bound(&self, want: &Want) -> bool {
        self.bindings.get(want.recipe.id()).is_some()
    }

    /// Starts or joins the fill of a rendition; it goes on when the returned future is dropped.
    pub fn fly(self: &Arc<Self>, want: Want) -> impl Future<Output = Result<Filled, FillError>> + use<> {
        let key = (want.recipe.id(), want.spec, want.marking.digest());
        let fill = Arc::clone(self);
        let flight = self.renditions.fly(key, move || async move { fill.rendition(&want).await });
        async move { flight.await? }
    }

    async fn rendition(self: &Arc<Self>, want: &Want) -> Result<Filled, FillError> {
        let generated = self.bound(want).await?;
        let key = want.key(generated.binding.master);
        if let Some(rendition) = self.memory.get(&key) {
            return Ok(Filled { rendition, outcome: Outcome::Memory, timings: FillTimings::default() });
        }
        if let Some(rendition) = self.disk.get(&key).await {
            let rendition = Arc::new(rendition);
            self.memory.insert(key, Arc::clone(&rendition));
            self.improve(key, &rendition, want);
            return Ok(Filled { rendition, outcome: Outcome::Disk, timings: FillTimings::default() });
        }
        let (binding, pixels) = self.master_of(want, generated.binding).await?;
        let key = want.key(binding.master);
        let started = Instant::now();
        let rung = if want.spec.area_px() <= self.final_inline_px_max { Rung::Final } else { Rung::Quick };
        let rendition = self.render(want, binding.master, pixels, rung, want.urgency).await?;
        self.keep(key, Arc::clone(&rendition));
        self.improve(key, &rendition, want);
        let outcome = if generated.elapsed.is_some() { Outcome::Generated } else { Outcome::Rendered };
        let timings = FillTimings { generate: generated.elapsed, render: Some(started.elapsed()) };
        Ok(Filled { rendition, outcome, timings })
    }

    /// The master a recipe is bound to, asking a node when it is bound to none.
    async fn bound(self: &Arc<Self>, want: &Want) -> Result<Generated, FillError> {
        if let Some(binding) = self.bindings.get(want.recipe.id()) {
            return Ok(Generated { binding, elapsed: None });
        }
        let fill = Arc::clone(self);
        let asked = want.clone();
        self.generations.fly(want.recipe.id(), move || async move { fill.generate(&asked).await }).await?
    }

    async fn generate(&self, want: &Want) -> Result<Generated, FillError> {
        let started = Instant::now();
        let reply = self
            .region
            .generate(&want.recipe, want.dedup.clone(), want.urgency, self.generation_deadline)
            .await
            .inspect_err(|error| tracing::warn!(recipe = %want.recipe.id(), %error, "generation failed"))?;
        let binding = Binding::from_reply(&reply);
        let elapsed = (reply.source != GenerationSource::Stored).then(|| started.elapsed());
        tracing::info!(
            recipe = %reply.recipe_id, master = %reply.master.id, source = reply.source.as_str(),
            duplicate = reply.duplicate.is_some(), node = %reply.node,
            elapsed_ms = started.elapsed().as_millis(), "generation answered"
        );
        if let Err(error) = self.bindings.put(want.recipe.id(), binding.clone()).await {
            // Serving goes on: the binding is in memory, and a restart asks the node's store again.
            tracing::error!(recipe = %want.recipe.id(), %error, "binding could not be stored");
        }
        Ok(Generated { binding, elapsed })
    }

    /// The pixels of a bound master; a master that is lost everywhere is generated anew.
    async fn master_of(self: &Arc<Self>, want: &Want, binding: Binding) -> Result<(Binding, Arc<Pixels>), FillError> {
        match self.pixels(binding.master).await {
            Ok(pixels) => Ok((binding, pixels)),
            Err(FillError::Origin(error)) if error.is_not_found() => {
                tracing::warn!(recipe = %want.recipe.id(), master = %binding.master, "master is lost, generating it anew");
                self.bindings.remove(want.recipe.id()).await;
                let binding = self.bound(want).await?.binding;
                let pixels = self.pixels(binding.master).await?;
                Ok((binding, pixels))
            }
            Err(error) => Err(error),
        }
    }

    async fn pixels(&self, id: MasterId) -> Result<Arc<Pixels>, FillError> {
        if let Some(png) = self.masters.get(id).await {
            match self.decode(id, png).await {
                Ok(pixels) => return Ok(pixels),
                Err(error) => {
                    tracing::warn!(master = %id, %error, "stored master is unusable, fetching it again");
                    self.masters.quarantine(id).await;
                }
            }
        }
        let png = self.region.master(id, self.generation_deadline).await?;
        let pixels = self.decode(id, png.clone()).await?;
        self.masters.put(id, png).await;
        Ok(pixels)
    }

    /// Decodes on the pool and checks that the pixels are the ones the id names.
    async fn decode(&self, id: MasterId, png: bytes::Bytes) -> Result<Arc<Pixels>, FillError> {
        let pixels = self.pool.run(Urgency::DEFAULT, move || render::decode_master(&png)).await??;
        if pixels.master_id() != id {
            return Err(RenderError::WrongMaster { expected: id, found: pixels.master_id() }.into());
        }
        Ok(Arc::new(pixels))
    }

    async fn render(
        &self,
        want: &Want,
        master: MasterId,
        pixels: Arc<Pixels>,
        rung: Rung,
        urgency: Urgency,
    ) -> Result<Arc<Rendition>, FillError> {
        let (spec, marking) = (want.spec, Arc::clone(&want.marking));
        let metrics = self.pool.metrics().clone();
        let encoded = self
            .pool
            .run(urgency, move || {
                let encoded = render::render(&pixels, &spec, rung, &marking)?;
                metrics.encoded(&encoded);
                Ok::<_, RenderError>(encoded)
            })
            .await??;
        Ok(Arc::new(Rendition::new(encoded.bytes.into(), spec, rung, master, want.recipe.id())))
    }

    fn keep(self: &Arc<Self>, key: RenditionKey, rendition: Arc<Rendition>) {
        self.memory.insert(key, Arc::clone(&rendition));
        let fill = Arc::clone(self);
        tokio::spawn(async move { fill.disk.put(&key, &rendition).await });
    }

    /// Encodes the final rung behind a quick one, least urgent of all; once per key at a time.
    pub fn improve(self: &Arc<Self>, key: RenditionKey, current: &Rendition, want: &Want) {
        if current.rung == Rung::Final {
            return;
        }
        let (fill, want, master) = (Arc::clone(self), want.clone(), current.master);
        let flight = self.upgrades.fly(key, move || async move {
            let result = async {
                let pixels = fill.pixels(master).await?;
                fill.render(&want, master, pixels, Rung::Final, Urgency::LEAST).await
            };
            match result.await {
                Ok(rendition) => fill.keep(key, rendition),
                Err(error) => tracing::debug!(%key, %error, "final rung put off"),
            }
        });
        drop(flight);
    }
}

impl Want {
    /// The rendition's key once its master is known.
    #[must_use]
    pub fn key(&self, master: MasterId) -> RenditionKey {
        RenditionKey::new(master, &self.spec, &self.marking.digest())
    }
}

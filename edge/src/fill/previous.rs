//! Pictures that stand in for a variant's own: the one it had before its recipe was edited, and its own in another cut.
//!
//! Invariants: nothing here asks a node; what was purged for good is not shown.

use std::sync::Arc;

use bildkante_shared::ids::RecipeId;
use bildkante_shared::log_limited;

use super::{Fill, FillError, FillTimings, Filled, Want};
use crate::budget::Payer;
use crate::cache::{Binding, FlightError, Origin, Rendition, RenditionKey, Ticket, VariantName};
use crate::campaign::Tags;
use crate::governance::{Subject, Verdict};
use crate::origin::OriginError;
use crate::render::{RenditionSpec, Standing};
use crate::response::Outcome;

/// A picture that a variant had under another recipe.
#[derive(Debug, Clone)]
pub struct PreviousPicture {
    recipe: RecipeId,
    binding: Arc<Binding>,
    tags: Tags,
}

impl PreviousPicture {
    fn subject<'a>(&'a self, spec: &'a RenditionSpec) -> Subject<'a> {
        Subject { tags: self.tags.all(), recipe: self.recipe, spec }
    }
}

impl Want {
    fn variant_name(&self) -> VariantName {
        VariantName::new(self.variant.tags.slot(), &self.variant.dedup.variant)
    }
}

impl Fill {
    /// Remembers that the variant is served with this recipe now; off the reader's way.
    pub(super) fn remember(self: &Arc<Self>, want: &Want) {
        let (variant, recipe) = (want.variant_name(), want.recipe_id());
        if self.caches.previous.get(variant) == Some(recipe) {
            return;
        }
        let fill = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = fill.caches.previous.note(variant, recipe).await {
                log_limited!(warn, %recipe, %error, "what the variant is served with is not remembered");
            }
        });
    }

    /// What the variant was served with before its recipe became another.
    #[must_use]
    pub fn previous(&self, want: &Want) -> Option<PreviousPicture> {
        let recipe = self.caches.previous.get(want.variant_name()).filter(|recipe| *recipe != want.recipe_id())?;
        let binding = self.caches.bindings.get(recipe)?;
        let previous = PreviousPicture { recipe, binding, tags: want.variant.tags.with_recipe(recipe) };
        let verdict = self.purges.binding_verdict(&previous.subject(&want.spec), &previous.binding);
        (verdict != Verdict::Gone).then_some(previous)
    }

    /// That picture in the wanted cut, if it is in memory.
    #[must_use]
    pub fn peek_previous(&self, want: &Want, previous: &PreviousPicture) -> Option<Arc<Rendition>> {
        let key = RenditionKey::new(previous.binding.master, &want.spec, want.finish.digest());
        let rendition = self.caches.memory.get(key)?;
        let verdict = self.purges.verdict(&previous.subject(&want.spec), &rendition);
        (verdict != Verdict::Gone).then_some(rendition)
    }

    /// The same from disk, or cut from its master if that is on this machine.
    ///
    /// # Errors
    /// When too many fills are under way.
    pub fn fly_previous(
        self: &Arc<Self>,
        want: &Want,
        previous: PreviousPicture,
        payer: &Payer,
    ) -> Result<Ticket<Result<Filled, FillError>>, FlightError> {
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
        let generation = self.purges.generation();
        let subject = previous.subject(&want.spec);
        let key = RenditionKey::new(previous.binding.master, &want.spec, want.finish.digest());
        let is_valid = |rendition: &Rendition| self.purges.verdict(&subject, rendition) == Verdict::Valid;
        let generation_at = |made_unix_ms| self.purges.generation_at(made_unix_ms);
        let found = self.caches.find_if(key, generation_at, is_valid).await;
        if let Some((tier, rendition)) = found
            && self.purges.verdict(&subject, &rendition) != Verdict::Gone
        {
            return Ok(Filled::found(rendition, tier.into()));
        }
        let id = previous.binding.master;
        let rung = self.render_config.first_rung(&want.spec);
        let mut charge = self.budgets.reserve(payer, self.pool.costs.estimate(&want.spec, rung))?;
        let standing = Standing { urgency: want.urgency, owner: Some(payer.id) };
        let file = self.caches.masters.get(id).await.hit().ok_or(OriginError::MasterAbsent { id })?;
        let (master, decoding) = self.verify(file, standing).await?;
        let (pixels, finish) = (Arc::clone(master.pixels()), Arc::clone(&want.finish));
        let (encoded, rendering) = self.pool.render(standing, pixels, want.spec, rung, finish).await?;
        charge.spend(decoding + rendering);
        let origin = Origin::now(id, previous.recipe).at_generation(generation);
        let rendition = Arc::new(Rendition::new(encoded.bytes.into(), want.spec, rung, origin));
        self.caches.memory.insert_if(key, Arc::clone(&rendition), is_valid);
        Ok(Filled { timings: FillTimings::default(), ..Filled::found(rendition, Outcome::Rendered) })
    }

    /// The picture itself in one of `specs`, the first that is in memory.
    #[must_use]
    pub fn peek_any(&self, want: &Want, specs: &[RenditionSpec]) -> Option<Arc<Rendition>> {
        let binding = self.binding(want)?;
        specs.iter().find_map(|spec| {
            let other = Want { spec: *spec, ..want.clone() };
            let rendition = self.caches.memory.get(other.key(binding.master))?;
            (self.verdict(&other, &rendition) == Verdict::Valid).then_some(rendition)
        })
    }

    /// The same from disk.
    pub async fn find_any(&self, want: &Want, specs: &[RenditionSpec]) -> Option<Arc<Rendition>> {
        let binding = self.binding(want)?;
        for spec in specs {
            let other = Want { spec: *spec, ..want.clone() };
            if let Some((_, rendition, Verdict::Valid)) = self.find(other.key(binding.master), &other).await {
                return Some(rendition);
            }
        }
        None
    }
}

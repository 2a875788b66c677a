//! What is there already: in memory, on disk, in another cut, under a former recipe, or purged softly.
//!
//! Source: RFC 5861, as an edge applies it to its own cache. Invariants: nothing here asks an origin or renders; the hit
//! path computes no hash and takes no device; only valid renditions enter memory, because the front map asks no purge;
//! what was purged for good is not shown.

use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::RecipeId;
use bildkante_shared::import::MasterRecipe;

use super::rendition::{Cut, Filled};
use super::{Fill, Want};
use crate::cache::{Binding, Rendition, Tier, VariantName};
use crate::campaign::Tags;
use crate::governance::{Cleared, Subject, Verdict, Withheld};
use crate::origin::IMPORT_MAKER;
use crate::render::RenditionSpec;
use crate::words::{Format, Outcome};

/// What the hit path finds.
#[derive(Debug, Clone)]
pub enum Peek {
    Fresh(Arc<Rendition>),
    /// To be shown now, and to be refreshed behind.
    Stale(Arc<Rendition>, Duration),
    Absent,
}

impl Peek {
    /// The rendition, if it is valid.
    #[must_use]
    pub fn fresh(self) -> Option<Arc<Rendition>> {
        match self {
            Self::Fresh(rendition) => Some(rendition),
            Self::Stale(..) | Self::Absent => None,
        }
    }
}

/// A picture that a variant had under another recipe.
#[derive(Debug, Clone)]
pub struct PreviousPicture {
    pub(super) recipe: RecipeId,
    pub(super) binding: Arc<Binding>,
    tags: Tags,
}

impl PreviousPicture {
    /// It in the cut of what is wanted.
    pub(super) fn cut<'a>(&'a self, want: &'a Want) -> Cut<'a> {
        Cut { tags: &self.tags, recipe: self.recipe, made_of: None, ..Cut::of(want, &self.binding) }
    }

    fn subject<'a>(&'a self, spec: &'a RenditionSpec) -> Subject<'a> {
        Subject { tags: self.tags.all(), recipe: self.recipe, spec }
    }
}

impl Want {
    /// What purges know it by.
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject { tags: self.tags().all(), recipe: self.recipe_id(), spec: &self.spec }
    }

    pub(super) fn variant_name(&self) -> VariantName {
        VariantName::new(self.variant.tags.slot(), &self.variant.dedup.variant)
    }
}

impl Fill {
    /// The rendition if it is in memory: the hit path.
    #[must_use]
    pub fn peek(&self, want: &Want) -> Peek {
        let decided = want.decided.as_ref().map(|decided| Arc::clone(&decided.binding));
        let binding = decided.or_else(|| self.caches.bindings.get(want.recipe_id()));
        let Some(binding) = binding else { return Peek::Absent };
        let cut = Cut::of(want, &binding);
        let Some(rendition) = self.caches.memory.get(cut.key()) else { return Peek::Absent };
        match self.verdict(cut, &rendition) {
            Verdict::Valid => Peek::Fresh(rendition),
            Verdict::Stale { since } => Peek::Stale(rendition, since),
            Verdict::OnError { .. } => Peek::Absent,
            Verdict::Gone => {
                self.caches.memory.remove(cut.key());
                Peek::Absent
            }
        }
    }

    /// The rendition if it is on disk and reading it takes no device.
    #[must_use]
    pub fn peek_disk(self: &Arc<Self>, want: &Want) -> Option<Filled> {
        let binding = self.masters.binding(want)?;
        let cut = Cut::of(want, &binding);
        let rendition = self.caches.peek(cut.key(), |found| self.verdict(cut, found) == Verdict::Valid)?;
        self.improve(&rendition, want);
        Some(Filled::found(rendition, Outcome::Disk))
    }

    /// Whether the picture exists, so that only rendering is left to do.
    #[must_use]
    pub fn is_drawn(&self, want: &Want) -> bool {
        self.masters.binding(want).is_some()
    }

    /// The same, also of a picture whose master is yet to be made from its original.
    #[must_use]
    pub fn is_there(&self, want: &Want) -> bool {
        matches!(want.recipe(), Some(MasterRecipe::Imported(_))) || self.is_drawn(want)
    }

    /// A copy that was purged softly, for when there is nothing better to be had.
    pub async fn stale_copy(self: &Arc<Self>, want: &Want) -> Option<Filled> {
        let binding = self.masters.any_binding(want)?;
        let (_, rendition, verdict) = self.find(Cut::of(want, &binding)).await?;
        match verdict {
            Verdict::Stale { since } | Verdict::OnError { since } => Some(Filled::stale(rendition, since)),
            Verdict::Valid | Verdict::Gone => None,
        }
    }

    /// The picture the variant had before its recipe became another. Only a drawn picture follows a drawn one: an import has
    /// makers and a source of its own, and neither may be said of another picture.
    #[must_use]
    pub fn previous(&self, want: &Want) -> Option<PreviousPicture> {
        if matches!(want.variant.recipe, MasterRecipe::Imported(_)) {
            return None;
        }
        let recipe = self.caches.previous.get(want.variant_name()).filter(|recipe| *recipe != want.recipe_id())?;
        let binding = self.caches.bindings.get(recipe).filter(|binding| binding.node != IMPORT_MAKER)?;
        let previous = PreviousPicture { recipe, binding, tags: want.variant.tags.with_recipe(recipe) };
        self.clear_previous(want, &previous).ok()?;
        let verdict = self.purges.binding_verdict(&previous.subject(&want.spec), &previous.binding);
        (verdict != Verdict::Gone).then_some(previous)
    }

    /// Whether that picture may be shown.
    ///
    /// # Errors
    /// Why it may not.
    pub fn clear_previous(&self, want: &Want, previous: &PreviousPicture) -> Result<Cleared, Withheld> {
        self.gate.clear_former(&want.variant, previous.recipe, &previous.binding)
    }

    /// That picture in the wanted cut, if it is in memory.
    #[must_use]
    pub fn peek_previous(&self, want: &Want, previous: &PreviousPicture) -> Option<Arc<Rendition>> {
        let cut = previous.cut(want);
        let rendition = self.caches.memory.get(cut.key())?;
        (self.verdict(cut, &rendition) != Verdict::Gone).then_some(rendition)
    }

    /// That picture as the same file in another format, if it can be had without a wait.
    #[must_use]
    pub fn previous_as(&self, want: &Want, previous: &PreviousPicture, format: Format) -> Option<Arc<Rendition>> {
        let spec = RenditionSpec { format, ..want.spec };
        let cut = Cut { spec: &spec, ..previous.cut(want) };
        let is_shown = |found: &Rendition| self.verdict(cut, found) != Verdict::Gone;
        let (_, rendition) = self.caches.at_hand(cut.key(), is_shown)?;
        is_shown(&rendition).then_some(rendition)
    }

    /// Another cut of the picture, if it is valid and can be had without a wait.
    #[must_use]
    pub fn cut_at_hand(&self, want: &Want, spec: &RenditionSpec) -> Option<Arc<Rendition>> {
        let binding = self.masters.binding(want)?;
        let cut = Cut { spec, ..Cut::of(want, &binding) };
        let is_valid = |found: &Rendition| self.verdict(cut, found) == Verdict::Valid;
        let (_, rendition) = self.caches.at_hand(cut.key(), is_valid)?;
        is_valid(&rendition).then_some(rendition)
    }

    /// Whether each of `specs` is in memory, and known to be larger than the same picture in another format.
    #[must_use]
    pub fn are_larger(&self, want: &Want, mut specs: impl Iterator<Item = RenditionSpec>) -> bool {
        let Some(binding) = self.masters.binding(want) else { return false };
        specs.all(|spec| {
            let cut = Cut { spec: &spec, ..Cut::of(want, &binding) };
            self.caches.memory.get(cut.key()).is_some_and(|rendition| rendition.smaller_as.is_some())
        })
    }

    /// The picture itself in one of `specs`, the first that is in memory.
    #[must_use]
    pub fn peek_any(&self, want: &Want, specs: &[RenditionSpec]) -> Option<Arc<Rendition>> {
        let binding = self.masters.binding(want)?;
        specs.iter().find_map(|spec| {
            let cut = Cut { spec, ..Cut::of(want, &binding) };
            let rendition = self.caches.memory.get(cut.key())?;
            (self.verdict(cut, &rendition) == Verdict::Valid).then_some(rendition)
        })
    }

    /// The same from disk.
    pub async fn find_any(&self, want: &Want, specs: &[RenditionSpec]) -> Option<Arc<Rendition>> {
        let binding = self.masters.binding(want)?;
        for spec in specs {
            let cut = Cut { spec, ..Cut::of(want, &binding) };
            if let Some((_, rendition, Verdict::Valid)) = self.find(cut).await {
                return Some(rendition);
            }
        }
        None
    }

    /// What need not be made: a valid rendition, or one that may be shown while it is made anew.
    pub(super) async fn at_hand(self: &Arc<Self>, want: &Want) -> Option<Filled> {
        let binding = self.masters.any_binding(want)?;
        let cut = Cut::of(want, &binding);
        let Some((tier, rendition, verdict)) = self.find(cut).await else { return self.former(want, cut).await };
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

    /// The same picture as it was kept before an upgrade, or before signing was switched on. It is shown while it is made
    /// anew, least urgent of all, so that neither renders anything on a reader's time.
    async fn former(self: &Arc<Self>, want: &Want, cut: Cut<'_>) -> Option<Filled> {
        let generation_at = |made_unix_ms| self.purges.generation_at(made_unix_ms);
        for key in cut.former_keys() {
            if let Some((_, rendition)) = self.caches.find_if(key, generation_at, |_| false).await
                && self.verdict(cut, &rendition) == Verdict::Valid
            {
                self.refresh(&rendition, want);
                return Some(Filled::stale(rendition, Duration::ZERO));
            }
        }
        None
    }

    /// From the nearest tier that has it. Only a valid rendition moves into nearer tiers.
    pub(super) async fn find(&self, cut: Cut<'_>) -> Option<(Tier, Arc<Rendition>, Verdict)> {
        let generation_at = |made_unix_ms| self.purges.generation_at(made_unix_ms);
        let may_enter = |rendition: &Rendition| self.verdict(cut, rendition) == Verdict::Valid;
        let (tier, rendition) = self.caches.find_if(cut.key(), generation_at, may_enter).await?;
        let verdict = self.verdict(cut, &rendition);
        Some((tier, rendition, verdict))
    }

    pub(super) fn verdict(&self, cut: Cut<'_>, rendition: &Rendition) -> Verdict {
        self.purges.verdict(&cut.subject(), rendition)
    }
}

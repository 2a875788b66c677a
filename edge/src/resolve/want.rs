//! What a request comes down to for caches, flights and nodes: which picture, cut how, finished how, how urgently.
//!
//! Invariant: recipe, spec and finish decide which picture it is, and are the key of its fill. URL, asker and trace are
//! no part of any key here; urgency is part of one only, that of the flight to the origin.

use std::sync::Arc;

use bildkante_shared::ids::RecipeId;
use bildkante_shared::import::MasterRecipe;
use bildkante_shared::trace::TraceContext;
use bildkante_shared::urgency::Urgency;

use super::meaning::Resolved;
use crate::cache::Binding;
use crate::campaign::{Tags, Variant};
use crate::provenance::Description;
use crate::render::{Finish, RenditionSpec};
use crate::words::Format;

/// Which picture, cut how, finished how.
#[derive(Debug, Clone)]
pub struct Want {
    pub variant: Arc<Variant>,
    /// Of its slot; `None`: its own framing.
    pub cut: Option<usize>,
    pub spec: RenditionSpec,
    pub finish: Arc<Finish>,
    pub urgency: Urgency,
    /// Of the reader's request that began it; `None` for the edge's own work.
    pub trace: Option<Arc<TraceContext>>,
    /// The picture that people decided for, where they decide; the variant's own recipe says nothing then.
    pub decided: Option<Arc<Decided>>,
    /// For whom it is.
    pub audience: Audience,
    /// Whether another variant's master may be its own.
    pub merging: Merging,
}

/// Whether a picture that looks like another variant's may share its master.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Merging {
    /// As its slot's scope has it.
    #[default]
    Allowed,
    /// It is a draft: compared with what is there, so it is drawn for itself.
    Never,
}

/// A picture that was decided for, with all that is known of its making.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    pub recipe: RecipeId,
    /// Whether it is the variant's own, or one that differs from it by its seed alone.
    pub is_known: bool,
    /// Of a drawing.
    pub seed: Option<u32>,
    /// The variant's, with this recipe.
    pub tags: Tags,
    pub binding: Arc<Binding>,
}

/// For whom a picture is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Audience {
    /// Readers: they see what was approved, where that is needed.
    #[default]
    Public,
    /// Those who decide, and the edge's own work for them.
    Reviewers,
}

impl Want {
    /// In this format, no more urgently than the slot allows. Only what the edge makes by itself is of the least urgency.
    pub(super) fn new(resolved: &Resolved, format: Format, asked: Option<Urgency>) -> Self {
        let urgency = resolved.slot.urgency.min(Urgency::LAST_OF_READERS);
        Self {
            variant: Arc::clone(&resolved.variant),
            cut: resolved.cut,
            spec: resolved.spec(format),
            finish: Arc::clone(resolved.variant.finish_of(resolved.cut)),
            urgency: asked.map_or(urgency, |asked| urgency.yielding_to(asked)),
            trace: None,
            decided: None,
            audience: Audience::Public,
            merging: Merging::Allowed,
        }
    }

    /// A draft of this picture: for those who decide, and one with no other.
    #[must_use]
    pub fn of_draft(&self, draft: Arc<Variant>) -> Self {
        Self { merging: Merging::Never, ..self.of_variant(draft).for_reviewers() }
    }

    /// Whether it is what somebody tries, and nothing of a manifest.
    #[must_use]
    pub const fn is_draft(&self) -> bool {
        matches!(self.merging, Merging::Never)
    }

    /// The same picture, for those who decide about it.
    #[must_use]
    pub fn for_reviewers(self) -> Self {
        Self { audience: Audience::Reviewers, ..self }
    }

    /// The picture that was decided for, in the same cut.
    #[must_use]
    pub fn of_decided(self, decided: Arc<Decided>) -> Self {
        // Of a former recipe only its id is known: nothing is said of its model and its prompt.
        let finish = if decided.is_known { self.finish } else { without_generator(&self.finish) };
        Self { finish, decided: Some(decided), ..self }
    }

    /// For the node and the log lines of what is made for it.
    #[must_use]
    pub fn of_request(self, trace: &Arc<TraceContext>) -> Self {
        Self { trace: Some(Arc::clone(trace)), ..self }
    }

    /// Another variant of the same slot in the same cut.
    #[must_use]
    pub fn of_variant(&self, variant: Arc<Variant>) -> Self {
        Self { finish: Arc::clone(variant.finish_of(self.cut)), variant, decided: None, ..self.clone() }
    }

    /// What nodes are asked with: the trace of the reader's request, or one of its own.
    pub(crate) fn trace_context(&self) -> Arc<TraceContext> {
        self.trace.clone().unwrap_or_else(|| Arc::new(TraceContext::start()))
    }

    #[must_use]
    pub fn recipe_id(&self) -> RecipeId {
        self.decided.as_ref().map_or_else(|| self.variant.recipe.id(), |decided| decided.recipe)
    }

    /// What purges know it by.
    #[must_use]
    pub fn tags(&self) -> &Tags {
        self.decided.as_ref().map_or(&self.variant.tags, |decided| &decided.tags)
    }

    /// The recipe, where more of it is known than its id.
    #[must_use]
    pub fn recipe(&self) -> Option<&MasterRecipe> {
        Some(&self.variant.recipe).filter(|recipe| recipe.id() == self.recipe_id())
    }
}

/// Without a word on the model and the prompt.
fn without_generator(finish: &Arc<Finish>) -> Arc<Finish> {
    let description = finish.description();
    if description.generator.is_none() {
        return Arc::clone(finish);
    }
    Arc::new(finish.describing(Description { generator: None, ..description.clone() }))
}

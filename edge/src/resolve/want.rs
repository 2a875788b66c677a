//! What a request comes down to for caches, flights and nodes: which picture, cut how, finished how, how urgently.
//!
//! Invariant: recipe, spec and finish decide which picture it is, and are the key of its fill. URL, asker and trace are
//! no part of any key here; urgency is part of one only, that of the flight to the origin.

use std::sync::Arc;

use bildkante_shared::ids::RecipeId;
use bildkante_shared::trace::TraceContext;
use bildkante_shared::urgency::Urgency;

use super::meaning::Resolved;
use crate::campaign::Variant;
use crate::render::{Finish, RenditionSpec};
use crate::words::Format;

/// Which picture, cut how, finished how.
#[derive(Debug, Clone)]
pub struct Want {
    pub variant: Arc<Variant>,
    pub spec: RenditionSpec,
    pub finish: Arc<Finish>,
    pub urgency: Urgency,
    /// Of the reader's request that began it; `None` for the edge's own work.
    pub trace: Option<Arc<TraceContext>>,
}

impl Want {
    /// In this format, no more urgently than the slot allows.
    pub(super) fn new(resolved: &Resolved, format: Format, asked: Option<Urgency>) -> Self {
        let urgency = resolved.slot.urgency;
        Self {
            variant: Arc::clone(&resolved.variant),
            spec: resolved.spec(format),
            finish: Arc::clone(&resolved.variant.finish),
            urgency: asked.map_or(urgency, |asked| urgency.yielding_to(asked)),
            trace: None,
        }
    }

    /// For the node and the log lines of what is made for it.
    #[must_use]
    pub fn of_request(self, trace: &Arc<TraceContext>) -> Self {
        Self { trace: Some(Arc::clone(trace)), ..self }
    }

    /// Another variant of the same slot in the same cut.
    #[must_use]
    pub fn of_variant(&self, variant: Arc<Variant>) -> Self {
        Self { finish: Arc::clone(&variant.finish), variant, ..self.clone() }
    }

    /// What nodes are asked with: the trace of the reader's request, or one of its own.
    pub(crate) fn trace_context(&self) -> Arc<TraceContext> {
        self.trace.clone().unwrap_or_else(|| Arc::new(TraceContext::start()))
    }

    #[must_use]
    pub fn recipe_id(&self) -> RecipeId {
        self.variant.recipe.id()
    }
}

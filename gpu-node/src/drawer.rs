//! One generation from its request to the reply its caller gets: drawn, logged and counted.

use std::sync::Arc;
use std::time::Instant;

use bildkante_shared::wire::GenerationReply;

use crate::admission::Admission;
use crate::board::{Generation, Outcome};
use crate::error::GenerationError;
use crate::metrics::NodeMetrics;

/// What answers generations. Cheap to clone: every candidate of a request has one.
#[derive(Debug, Clone)]
pub(crate) struct Drawer {
    /// The node's.
    pub(crate) name: Arc<str>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) metrics: Arc<NodeMetrics>,
}

impl Drawer {
    /// Waits for the recipe's master. Dropping the future gives the caller's place up.
    ///
    /// # Errors
    /// Why the caller gets none.
    pub(crate) async fn draw(
        &self,
        generation: Generation,
        received_at: Instant,
    ) -> Result<GenerationReply, GenerationError> {
        let recipe_id = generation.recipe.id();
        let result = self.admission.generate(generation).await;
        let label = result.as_ref().map_or_else(GenerationError::as_str, |outcome| outcome.source.as_str());
        let spent = received_at.elapsed();
        tracing::info!(recipe = %recipe_id, outcome = label, elapsed_ms = spent.as_millis(), "generation answered");
        self.metrics.generation_seconds.with_label_values(&[label]).observe(spent.as_secs_f64());
        let Outcome { settlement, source, timings, gpu_ms } = result.inspect_err(|error| {
            self.metrics.rejects_total.with_label_values(&[error.as_str()]).inc();
        })?;
        Ok(GenerationReply {
            recipe_id,
            master: settlement.master,
            duplicate: settlement.duplicate,
            timings,
            gpu_ms,
            determinism: settlement.determinism,
            node: self.name.to_string(),
            source,
        })
    }
}

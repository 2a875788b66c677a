//! What became of the layers of pictures: for people who look at them.
//!
//! Invariants: what is told follows from master, size and finish alone, so it holds for every format and rung; nothing is drawn, fetched
//! or kept for it; what is remembered is bounded.

use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::MasterId;
use bildkante_shared::urgency::Urgency;
use moka::sync::Cache;

use super::rendition::Cut;
use super::{Fill, FillError, Want};
use crate::render::layers::LayerReport;
use crate::render::{FinishDigest, Precedence, RenderJob, RenderJobError, Rung, Shape, lay_only};
use crate::words::LayersTiming;

/// Most pictures of which it is remembered, some hundred bytes each.
const REMEMBERED_MAX: u64 = 10_000;

/// A picture at a size, in any format.
type Key = (MasterId, (u32, u32), Shape, FinishDigest);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Laid(Cache<Key, Arc<LayerReport>>);

impl Default for Laid {
    fn default() -> Self {
        Self(Cache::new(REMEMBERED_MAX))
    }
}

impl Laid {
    /// Remembers it, and says in short what was done.
    pub(super) fn note(&self, cut: Cut<'_>, report: LayerReport, elapsed: Duration) -> LayersTiming {
        let fallbacks = report.outcomes.iter().filter(|outcome| outcome.fallback.is_some()).count();
        self.0.insert(key(cut), Arc::new(report));
        LayersTiming { elapsed, fallbacks: u8::try_from(fallbacks).unwrap_or(u8::MAX) }
    }
}

fn key(cut: Cut<'_>) -> Key {
    (cut.master, (cut.spec.width_px, cut.spec.height_px), cut.spec.shape, cut.finish.digest())
}

impl Fill {
    /// What becomes of the layers of a picture. `None` where it has none, is not drawn yet, or its master is not on this machine.
    ///
    /// # Errors
    /// When its master cannot be read, or its layers cannot be laid on.
    pub(crate) async fn laid(&self, want: &Want) -> Result<Option<Arc<LayerReport>>, FillError> {
        let Some(binding) = self.masters.binding(want).filter(|_| want.finish.layers().is_some()) else {
            return Ok(None);
        };
        let cut = Cut::of(want, &binding);
        if let Some(known) = self.laid.0.get(&key(cut)) {
            return Ok(Some(known));
        }
        let precedence = Precedence::from(Urgency::LEAST);
        let Some(decoded) = self.masters.at_hand(cut.master, precedence).await? else { return Ok(None) };
        let job = RenderJob::new(cut.master, *cut.spec, Rung::Quick, Arc::clone(cut.finish));
        let pixels = Arc::clone(decoded.master.pixels());
        let laid = self.pool.run(precedence, move || lay_only(&pixels, &job)).await.map_err(RenderJobError::from)?;
        let Some((report, elapsed)) = laid.map_err(RenderJobError::from)? else { return Ok(None) };
        self.laid.note(cut, report, elapsed);
        Ok(self.laid.0.get(&key(cut)))
    }
}

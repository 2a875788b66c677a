//! The one gate that every picture passes on its way out: memory, disk, finished answers, stand-ins, what is checked by
//! `/verify`, and what is about to be drawn.
//!
//! Whoever shows a picture holds a [`Cleared`], and only the gate makes one. It is asked behind the last wait of an answer, so
//! that a picture which was killed while a reader waited for it is not shown either. Finished answers of the front map are not
//! asked again: they lapse with the epoch, which each published state advances.
//!
//! Invariant: the gate reads one published state and nothing else.

use std::sync::Arc;

use bildkante_shared::ids::{MasterId, RecipeId};
use prometheus::{IntCounterVec, Opts, Registry};

use crate::cache::Binding;
use crate::campaign::Variant;
use crate::campaign::manifest::OnStaleState;
use crate::resolve::Want;
use crate::shared_state::{Facts, Published, Reason};

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate {
    published: Published,
    withheld: IntCounterVec,
}

/// A picture may be shown. It is worth no longer than the answer it was asked for.
#[derive(Debug)]
pub struct Cleared(());

/// A picture is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is withheld by the state of epoch {epoch}: {}", reason.as_str())]
pub struct Withheld {
    pub reason: Reason,
    pub epoch: u64,
}

impl Cleared {
    /// A palette image shows no picture.
    #[must_use]
    pub const fn placeholder() -> Self {
        Self(())
    }
}

impl Gate {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(published: Published, registry: &Registry) -> prometheus::Result<Self> {
        let withheld = IntCounterVec::new(
            Opts::new("bildkante_edge_withheld_total", "Times a picture was not shown or not made, by reason"),
            &["reason"],
        )?;
        registry.register(Box::new(withheld.clone()))?;
        for reason in ["killed", "parts-unknown", "state-stale"] {
            withheld.with_label_values(&[reason]);
        }
        Ok(Self { published, withheld })
    }

    /// Whether what is wanted may be shown, or made: with its master where that is known.
    ///
    /// # Errors
    /// Why it may not.
    pub fn clear(&self, want: &Want, master: Option<MasterId>) -> Result<Cleared, Withheld> {
        self.ask(&want.variant, &facts(&want.variant, master))
    }

    /// The same for a picture that the variant had under another recipe.
    ///
    /// # Errors
    /// Why it may not.
    pub fn clear_former(&self, variant: &Variant, recipe: RecipeId, binding: &Binding) -> Result<Cleared, Withheld> {
        let parts = binding.parts.as_deref();
        self.ask(variant, &Facts { recipe, parts, ..facts(variant, Some(binding.master)) })
    }

    fn ask(&self, variant: &Variant, facts: &Facts<'_>) -> Result<Cleared, Withheld> {
        let state = self.published.load();
        let is_stale = || variant.on_stale_state == OnStaleState::StandIn && self.published.is_stale();
        let reason = state.kills().reason(facts).or_else(|| state.held().reason(facts));
        let reason = reason.or_else(|| is_stale().then_some(Reason::Stale));
        match reason {
            None => Ok(Cleared(())),
            Some(reason) => {
                self.withheld.with_label_values(&[reason.as_str()]).inc();
                Err(Withheld { reason, epoch: state.epoch() })
            }
        }
    }

    #[must_use]
    pub const fn published(&self) -> &Published {
        &self.published
    }
}

/// What is known of a variant of the catalogue.
fn facts(variant: &Variant, master: Option<MasterId>) -> Facts<'_> {
    let (slot, values) = variant.name.split_once('?').unwrap_or((&variant.name, ""));
    let campaign = slot.split_once('/').map_or(slot, |(campaign, _)| campaign);
    let recipe = variant.recipe.id();
    Facts { campaign, slot, values, recipe, master, parts: Some(Arc::as_ref(&variant.parts)) }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::shared_state::State;
    use crate::words::Epoch;

    impl Gate {
        /// Over a state of nothing.
        pub(crate) fn open() -> Self {
            let published = Published::new(State::empty("test".into()), Epoch::default());
            Self::new(published, &Registry::new()).unwrap()
        }
    }
}
